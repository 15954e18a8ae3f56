"""What every command is made of: the application, the options that all share, and how results are printed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from emobench.cli.console import printable
from emobench.errors import ConfigError
from emobench.registry import using

app = typer.Typer(
    name="emobench",
    help="Compare models for speech emotion recognition, honestly: on speakers they have never heard.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _n_jobs(number: int) -> int:
    if number < -1 or number == 0:
        raise ConfigError(f"--n-jobs must be at least 1, or -1 for every core. Got {number}.")
    return number


Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/all.yaml.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for all runs.")]
Jobs = Annotated[
    int,
    typer.Option("--n-jobs", "-j", metavar="N", help="Worker processes; -1: one per core.", callback=_n_jobs),
]
Only = Annotated[list[str], typer.Option("--only", metavar="ENTRY", help="Only this entry; may be repeated.")]
Dask = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        help="Run on a Dask cluster: tcp://HOST:PORT, a scheduler file, or local:N for N processes here.",
    ),
]


_NO_FILES: Any = ()  # a list cannot be a default of a dataclass


@dataclass(frozen=True)
class Manner:
    """How a command speaks, and whose rows it knows: what every command takes, before its name or after."""

    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print every warning in full.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False
    plugins: Annotated[
        list[str],
        typer.Option("--plugin", metavar="FILE", help="Add the rows of this Python file; may be repeated."),
    ] = _NO_FILES

    def __or__(self, other: Manner | None) -> Manner:
        if other is None:
            return self
        flags = {item.name: getattr(self, item.name) or getattr(other, item.name) for item in fields(self)[:-1]}
        return Manner(**flags, plugins=[*other.plugins, *self.plugins])


_MANNER = list(inspect.signature(Manner, eval_str=True).parameters.values())


def takes_manner(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command or a group the options of `Manner` besides its own; it gets them as ``manner``."""
    own = [item for item in inspect.signature(function, eval_str=True).parameters.values() if item.name != "manner"]
    wants_context = any(item.name == "context" for item in own)

    @functools.wraps(function)
    def call(context: typer.Context, **arguments: Any) -> None:
        manner = Manner(**{item.name: arguments.pop(item.name) for item in _MANNER}) | context.obj
        context.obj = manner
        arguments = {key: _expand(value) if isinstance(value, Path) else value for key, value in arguments.items()}
        if wants_context:
            arguments["context"] = context
        with using(() if context.invoked_subcommand else manner.plugins):
            function(**arguments, manner=manner)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    taken = [*own, *_MANNER] if wants_context else [context, *own, *_MANNER]
    taken = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in taken]
    call.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]  # typeshed has it for no function
    call.__annotations__ = {item.name: item.annotation for item in taken}
    return call


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: must be a path. It begins with an unknown user. Write the folder out.") from None


def show_commands(context: typer.Context) -> None:
    """Where no command is named, show which there are."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def add_group(name: str, title: str) -> typer.Typer:
    """Add a group of commands to the application; alone it shows which there are."""
    group = typer.Typer(help=title, rich_markup_mode=None)

    @group.callback(invoke_without_command=True, help=title)
    @takes_manner
    def show(context: typer.Context, manner: Manner) -> None:
        show_commands(context)

    app.add_typer(group, name=name)
    return group


def print_json(content: Any, *, indent: int | None = 2) -> None:
    """Print JSON in ASCII, so that one object stays on one line and any terminal can take it."""
    print(json.dumps(content, indent=indent, default=str, allow_nan=False))


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))


def one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def complain(message: str) -> None:
    """Print an error on stderr."""
    with contextlib.suppress(OSError):  # nobody is left who could be told
        print(f"error: {printable(message)}", file=sys.stderr)

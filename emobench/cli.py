"""The command line: parse, call, print, exit. Data go to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from emobench import __version__
from emobench.console import printable
from emobench.errors import ConfigError, EmobenchError, StorageError

app = typer.Typer(
    name="emobench",
    help="Compare models for speech emotion recognition, honestly: on speakers that they have never heard.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Corpora: list them, check, make or download one.", rich_markup_mode=None)
app.add_typer(data_app, name="data")


def _n_jobs(number: int) -> int:
    if number < -1 or number == 0:
        raise ConfigError(f"--n-jobs must be at least 1, or -1 for every core. Got {number}. Change it.")
    return number


Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, as configs/all.yaml.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of all runs.")]
Jobs = Annotated[
    int,
    typer.Option("--n-jobs", "-j", metavar="N", help="Worker processes; -1 for every core.", callback=_n_jobs),
]
Only = Annotated[list[str], typer.Option("--only", metavar="ENTRY", help="Only this entry; may be repeated.")]
Dask = Annotated[
    str | None,
    typer.Option(
        "--dask",
        metavar="ADDRESS",
        help="Work on a Dask cluster: tcp://HOST:PORT, a scheduler file, or local:N for N processes here.",
    ),
]

MAX_REMARKS = 8
BROKEN_PIPE = 128 + signal.SIGPIPE


@dataclass(frozen=True)
class Manner:
    """How a command speaks: the options that every command takes, before its name or after."""

    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")] = False
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say every remark in full.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

    def __or__(self, other: Manner | None) -> Manner:
        return Manner(*(getattr(self, item.name) or getattr(other, item.name, False) for item in fields(self)))


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
        function(**arguments, manner=manner)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    taken = [*own, *_MANNER] if wants_context else [context, *own, *_MANNER]
    taken = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in taken]
    call.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    call.__annotations__ = {item.name: item.annotation for item in taken}
    return call


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with the exit code of the outcome."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _mend_streams()
    # joblib's process that watches semaphores complains on our stderr when workers are stopped by a signal.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    with _signals(), warnings.catch_warnings():
        warnings.showwarning = functools.partial(_show_warning, arguments)
        try:
            code = _carry_out(arguments)
        except BrokenPipeError:  # while an error was reported
            code = BROKEN_PIPE
    sys.exit(_flush(code))


def _carry_out(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit code."""
    try:
        return int(app(args=arguments, prog_name="emobench", standalone_mode=False) or 0)
    except EmobenchError as error:
        return _report(error, str(error), error.exit_code, arguments)
    except _SignalError as error:
        _say_continue(arguments)
        return 128 + int(error.args[0])
    except SystemExit:  # what typer makes of a pipe whose reader has left
        return BROKEN_PIPE
    except OSError as error:
        problem = _storage_problem(error)
        return _report(error, str(problem), problem.exit_code, arguments)
    except MemoryError as error:
        return _report(error, "Memory must be enough. It is used up. Close programs or lower --n-jobs.", 5, arguments)
    except Exception as error:
        if isinstance(error, typer.Abort) and isinstance(error.__cause__, Exception):  # what typer makes of an EOFError
            error = error.__cause__
        if hasattr(error, "format_message"):  # typer's, of wrong arguments
            return _report(error, _usage(error), 2, arguments)
        text = f"internal error, a bug of emobench: {type(error).__name__}: {error}. "
        return _report(error, f"{text}Run the same command with --debug and report what it shows.", 1, arguments)


def _report(error: Exception, message: str, exit_code: int, arguments: Sequence[str]) -> int:
    if _is_given("--debug", arguments):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if _is_given("--json", arguments):
        _print_json({"error": type(error).__name__, "message": message, "exit_code": exit_code}, indent=None)
    _complain(message)
    return exit_code


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):  # nobody is left who could be told
        print(f"emobench: {printable(message)}", file=sys.stderr)


def _usage(error: Any) -> str:
    where = error.ctx.command_path if getattr(error, "ctx", None) else "emobench"
    message = error.format_message().rstrip(".")
    return f"{message}{'' if message.endswith('?') else '.'} Try `{where} --help`."


def _storage_problem(error: OSError) -> EmobenchError:
    from emobench.results import storage_errors

    try:
        with storage_errors(error.filename or "a file"):
            raise error
    except StorageError as translated:
        return translated


def _is_given(option: str, arguments: Sequence[str]) -> bool:
    """Return whether an option stands on the command line, however wrong the rest of it is."""
    arguments = list(arguments)
    return option in arguments[: arguments.index("--") if "--" in arguments else None]


def _say_continue(arguments: Sequence[str]) -> None:
    import shlex

    _complain(f"stopped. What is finished is kept; to continue: emobench {shlex.join(arguments)}")


class _SignalError(BaseException):
    """A signal that ends us arrived; its number is the argument."""


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP unwind the stack; the second one ends at once. An ignored one stays ignored."""

    def unwind(number: int, _: Any) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        threading.excepthook = lambda _: None  # threads that talk to workers complain when these are stopped
        raise _SignalError(number)

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            with contextlib.suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mend_streams() -> None:
    """Let every text be printed: a closed stream swallows it, and a character beyond its encoding is escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (open until the process ends)
        with contextlib.suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _flush(code: int) -> int:
    """Flush what was printed; return the exit code, or that of a stream that takes it no more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            is_broken = isinstance(error, BrokenPipeError)
            if stream is sys.stdout and isinstance(error, OSError) and not is_broken:
                _complain(str(_storage_problem(OSError(error.errno, error.strerror, "standard output"))))
            code = code or (BROKEN_PIPE if is_broken else 5)
            with contextlib.suppress(OSError, ValueError):  # so that the interpreter's own flush finds no fault
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _show_warning(arguments: Sequence[str], message: Any, category: type, *_: Any) -> None:
    """Show our own warnings as notes, those of libraries to who debugs."""
    is_ours = category.__module__.startswith("emobench")
    is_quiet = _is_given("--quiet", arguments) or _is_given("-q", arguments)
    if _is_given("--debug", arguments) or (is_ours and not is_quiet):
        print(f"note: {message}", file=sys.stderr)


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: must be a path. It begins with an unknown user. Write the folder out.") from None


def _show_commands(context: typer.Context) -> None:
    """Where no command is named, show which there are."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


@app.callback(invoke_without_command=True)
@takes_manner
def _root(
    context: typer.Context,
    manner: Manner,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        _print_json({"version": __version__}) if manner.as_json else print(f"emobench {__version__}")
        raise typer.Exit
    _show_commands(context)


@data_app.callback(invoke_without_command=True)
@takes_manner
def _data(context: typer.Context, manner: Manner) -> None:
    """Corpora: list them, check, make or download one."""
    _show_commands(context)


@app.command()
@takes_manner
def run(
    config: Config,
    *,
    output: Output = Path("results"),
    n_jobs: Jobs = -1,
    only: Only = [],  # noqa: B006  (typer reads the default, nobody changes it)
    force: Annotated[bool, typer.Option("--force", help="Compute again what is finished.")] = False,
    retune: Annotated[bool, typer.Option("--retune", help="Forget the studies of tuned entries; tune again.")] = False,
    dask: Dask = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the jobs and an estimate; compute nothing.")
    ] = False,
    manner: Manner,
) -> None:
    """Compare the models of a config and write leaderboards; run again, it continues."""
    if dry_run:
        return _print_plan(config, output, n_jobs, only, manner)
    from emobench import runner
    from emobench.console import ConsoleReporter, print_outcome

    outcome = runner.run(
        config,
        output=output,
        n_jobs=n_jobs,
        only=only,
        force=force,
        retune=retune,
        dask=dask,
        reporter=ConsoleReporter(quiet=manner.quiet),
    )
    if manner.as_json:
        _print_json(
            {
                "folder": str(outcome.folder),
                "computed": outcome.n_computed,
                "reused": outcome.n_reused,
                "failed": outcome.n_failed,
                "remarks": list(outcome.remarks),
                "leaderboard": json.loads(outcome.leaderboard.to_json(orient="records")),
            }
        )
    else:
        print_outcome(outcome, max_remarks=None if manner.verbose else MAX_REMARKS, quiet=manner.quiet)
    raise typer.Exit(outcome.exit_code)


@app.command()
@takes_manner
def plan(
    config: Config,
    *,
    output: Output = Path("results"),
    n_jobs: Jobs = -1,
    only: Only = [],  # noqa: B006
    manner: Manner,
) -> None:
    """Print the jobs of a config and an estimate; compute nothing (the same as run --dry-run)."""
    _print_plan(config, output, n_jobs, only, manner)


def _print_plan(config: Path, output: Path, n_jobs: int, only: Sequence[str], manner: Manner) -> None:
    from emobench import runner
    from emobench.console import print_plan

    planned = runner.plan(config, output=output, n_jobs=n_jobs, only=only)
    if not manner.as_json:
        return print_plan(planned, verbose=manner.verbose, quiet=manner.quiet)
    _print_json(
        {
            "run": planned.run,
            "jobs": [
                {"key": job.key, "title": job.title, "is_finished": job.key in planned.finished} for job in planned.jobs
            ],
            "n_to_extract": planned.n_to_extract,
            "estimate_s": round(planned.estimate_s, 1),
            "n_workers": planned.n_workers,
            "worker_bytes": planned.worker_bytes,
            "disk_bytes": planned.disk_bytes,
            "remarks": list(planned.remarks),
        }
    )


@app.command()
@takes_manner
def predict(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Recordings: WAV, FLAC, OGG, MP3.")],
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|PATH", help="An entry, a bundle or a run; else the best one."),
    ] = None,
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of runs.")] = Path("results"),
    manner: Manner,
) -> None:
    """Name the emotion of recordings, one line a file, with a model that a run fitted on everything."""
    from emobench.bundle import load_bundle
    from emobench.inference import find_bundle, predict_files

    folder = find_bundle(model, results)
    bundle = load_bundle(folder)
    if not manner.quiet:
        print(f"model: {bundle.entry} ({printable(str(folder))})", file=sys.stderr)
    n_bad = 0
    for answer in predict_files(bundle, files):
        n_bad += bool(answer.error)
        if manner.as_json:
            shown = {"path": answer.path, "emotion": answer.emotion or None, "probabilities": answer.probabilities}
            shown |= {"entry": answer.entry} | ({"warning": answer.warning} if answer.warning else {})
            _print_json(shown | ({"error": answer.error} if answer.error else {}), indent=None)
        elif answer.error:
            _complain(f"{_one_line(answer.path)}: {answer.error}")
        else:
            print("\t".join([_one_line(answer.path), answer.emotion, _probabilities(answer.probabilities)]).rstrip())
        if answer.warning and not manner.quiet:
            _complain(f"{_one_line(answer.path)}: {answer.warning}")
    if n_bad:
        raise typer.Exit(3 if n_bad == len(files) else 4)


def _probabilities(probabilities: dict[str, float] | None) -> str:
    ranked = sorted((probabilities or {}).items(), key=lambda item: (-item[1], item[0]))
    return " ".join(f"{label}={value:.3f}" for label, value in ranked)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


@app.command("list")
@takes_manner
def list_rows(
    what: Annotated[str, typer.Argument(metavar="models|features|corpora|protocols|metrics")], *, manner: Manner
) -> None:
    """List the rows of a registry."""
    from emobench import corpora, features, metrics, models, splits
    from emobench.errors import lookup, rows

    tables = {
        "models": ("model", models.MODELS),
        "features": ("feature set", features.FEATURES),
        "corpora": ("corpus", corpora.CORPORA),
        "protocols": ("protocol", splits.PROTOCOLS),
        "metrics": ("metric", metrics.METRICS),
    }
    listed = [(row.name, row.title) for row in rows(*lookup("table", tables, what))]
    if manner.as_json:
        return _print_json([{"name": name, "title": title} for name, title in listed])
    _print_columns(listed)


@data_app.command("list")
@takes_manner
def data_list(*, manner: Manner) -> None:
    """List the corpora and where they are on this machine."""
    from emobench.corpora import CORPORA
    from emobench.corpora.location import locate
    from emobench.dataset import synthetic_folder

    rows = []
    for row in CORPORA.values():
        folder = locate(row.name)
        if folder is None and row.name == "synthetic" and synthetic_folder().is_dir():
            folder = synthetic_folder()
        rows.append({"name": row.name, "title": row.title, "licence": row.licence, "folder": folder and str(folder)})
    if manner.as_json:
        return _print_json(rows)
    absent = {"manifest": "any folder", "synthetic": "made when it is needed"}
    _print_columns([(r["name"], r["folder"] or absent.get(r["name"], "not here"), r["title"]) for r in rows])


@data_app.command("verify")
@takes_manner
def data_verify(
    name: Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus, as `emobench data list` names it.")],
    *,
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Its folder.")] = None,
    path: Annotated[Path | None, typer.Option("--path", metavar="CSV", help="The CSV of a manifest.")] = None,
    manner: Manner,
) -> None:
    """Check every name and decode every recording of a corpus; say what is missing, bad or there twice."""
    from emobench.console import ConsoleReporter
    from emobench.errors import MAX_LISTED, listing
    from emobench.verification import verify

    found = verify(name, root=root, path=path, reporter=ConsoleReporter(quiet=manner.quiet))
    if manner.as_json:
        _print_json(found.summary())
    else:
        _print_columns([(key, str(value)) for key, value in found.summary(short=True).items()])
    problems = [*(f"missing: {stem}" for stem in found.missing), *map(str, found.faults)]
    if problems:
        limit = len(problems) if manner.verbose else MAX_LISTED
        _complain(
            f"Corpus {name!r} must be complete and readable. {len(problems)} recordings are missing or bad:\n"
            f"{listing(problems, limit=limit)}\nCopy or download them again."
        )
        raise typer.Exit(3)


@data_app.command("make")
@takes_manner
def data_make(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to; by default the user's cache.")
    ] = None,
    *,
    n_jobs: Jobs = -1,
    speakers: Annotated[int, typer.Option("--speakers", help="Number of speakers.", min=1, max=24)] = 24,
    manner: Manner,
) -> None:
    """Make the synthetic corpus (the same bytes every time)."""
    from emobench.console import ConsoleReporter
    from emobench.dataset import make_synthetic
    from emobench.execution import count_workers

    if folder is None and speakers != 24:
        raise ConfigError(
            f"--speakers must be used with a folder of its own, as the cache holds 24. Got {speakers}. Name a DIR."
        )
    reporter = ConsoleReporter(quiet=manner.quiet)
    made = make_synthetic(n_jobs=count_workers(n_jobs), reporter=reporter, folder=folder, n_speakers=speakers)
    _print_json({"folder": str(made)}) if manner.as_json else print(made)


@data_app.command("fetch")
@takes_manner
def data_fetch(
    name: Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus that can be downloaded.")],
    *,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where to; by default the user's cache.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option("--mirror", metavar="URL", help="A server that has the same archives.")
    ] = None,
    manner: Manner,
) -> None:
    """Download a corpus, check it against its hash, unpack it safely and count it."""
    from emobench.corpora import get_corpus
    from emobench.corpora.fetch import fetch
    from emobench.corpora.location import cached_corpus

    row = get_corpus(name)
    if not manner.quiet:
        print(f"{row.title}. Licence: {row.licence}. Cite: {row.citation}", file=sys.stderr)
    is_shown = not manner.quiet and sys.stderr.isatty()
    got = fetch(row, folder or cached_corpus(name), base_url=mirror, progress=is_shown)
    _print_json({"folder": str(got)}) if manner.as_json else print(got)


def _print_json(content: Any, *, indent: int | None = 2) -> None:
    """Print JSON in ASCII, so that one object stays on one line and any terminal can take it."""
    print(json.dumps(content, indent=indent, default=str, allow_nan=False))


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))

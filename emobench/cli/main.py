"""The command line: parse, call, print, exit. Data go to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn

import typer

from emobench import __version__
from emobench.cli.commands import app
from emobench.cli.console import printable, warn
from emobench.cli.frame import Manner, complain, print_json, show_commands, takes_manner
from emobench.errors import EmobenchError, Stopped, StorageError

BROKEN_PIPE = 128 + signal.SIGPIPE


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
        return _report(error, "Out of memory. Close other programs or lower --n-jobs.", 5, arguments)
    except Exception as error:
        if isinstance(error, typer.Abort) and isinstance(error.__cause__, Exception):  # what typer makes of an EOFError
            error = error.__cause__
        if hasattr(error, "format_message"):  # typer's, of wrong arguments
            return _report(error, _usage(error), 2, arguments)
        text = f"internal error, a bug in emobench: {type(error).__name__}: {error}. "
        return _report(error, f"{text}Please report what the same command prints with --debug.", 1, arguments)


def _report(error: Exception, message: str, exit_code: int, arguments: Sequence[str]) -> int:
    if _is_given("--debug", arguments):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if _is_given("--json", arguments):
        print_json({"error": type(error).__name__, "message": message, "exit_code": exit_code}, indent=None)
    complain(message)
    return exit_code


def _usage(error: Any) -> str:
    where = error.ctx.command_path if getattr(error, "ctx", None) else "emobench"
    message = error.format_message().rstrip(".")
    return f"{message}{'' if message.endswith('?') else '.'} Try `{where} --help`."


def _storage_problem(error: OSError) -> EmobenchError:
    from emobench.files import storage_errors

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

    with contextlib.suppress(OSError):
        command = printable(f"emobench {shlex.join(arguments)}")
        print(f"Stopped. Finished work is kept. To continue: {command}", file=sys.stderr)


class _SignalError(Stopped):
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
                complain(str(_storage_problem(OSError(error.errno, error.strerror, "standard output"))))
            code = code or (BROKEN_PIPE if is_broken else 5)
            with contextlib.suppress(OSError, ValueError):  # so that the interpreter's own flush finds no fault
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _show_warning(arguments: Sequence[str], message: Any, category: type, *_: Any) -> None:
    """Show our own warnings, and with --debug those of libraries too."""
    is_ours = category.__module__.startswith("emobench")
    is_quiet = _is_given("--quiet", arguments) or _is_given("-q", arguments)
    if _is_given("--debug", arguments) or (is_ours and not is_quiet):
        warn(str(message))


@app.callback(invoke_without_command=True)
@takes_manner
def _root(
    context: typer.Context,
    manner: Manner,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print_json({"version": __version__}) if manner.as_json else print(f"emobench {__version__}")
        raise typer.Exit
    show_commands(context)

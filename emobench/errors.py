"""Exceptions of emobench, and how their messages are made.

Each exception carries the exit code that the command line ends with. A message says what must hold, what was
given and what to do; a person at a terminal sees that message and no traceback.
"""

from __future__ import annotations

import difflib


class EmobenchError(Exception):
    """Root of every error that emobench raises on purpose."""

    exit_code = 1


class Stopped(BaseException):
    """The command line is to leave, as Ctrl-C asks for; whoever catches everything lets this one through."""


class ConfigError(EmobenchError, ValueError):
    """A config, an option or an argument cannot be used as it is."""

    exit_code = 2


class UnknownNameError(ConfigError, KeyError):
    """A name is in no registry."""

    __str__ = Exception.__str__  # KeyError would show the message's repr


class SplitError(ConfigError):
    """A protocol cannot split this corpus."""


class LeakageError(SplitError):
    """A test recording, its speaker or its audio is in the training part too."""


class BundleError(ConfigError):
    """A saved model cannot be trusted, read, or used for what was asked."""


class NoBundleError(BundleError):
    """A fitted model cannot be exported so that it answers as before."""


class DataError(EmobenchError, ValueError):
    """Recordings, labels or a corpus folder are not as they must be."""

    exit_code = 3


class AudioError(DataError):
    """One recording cannot be used. `path` and `reason` stay apart for tables."""

    def __init__(self, path: object, reason: str):
        super().__init__(path, reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class CorpusError(DataError):
    """A corpus is missing, incomplete, or contradicts itself."""


class StorageError(EmobenchError, OSError):
    """The machine does not let emobench read or write where it must."""

    exit_code = 5
    __str__ = Exception.__str__


class HeldError(StorageError):
    """Another process holds what this one needs."""


MAX_LISTED = 20


def listing(problems: list[str], *, limit: int = MAX_LISTED) -> str:
    """Join problems one a line, the first `limit` of them, with a count of the rest."""
    lines = [f"  {on_one_line(problem)}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  … and {len(problems) - limit} more")
    return "\n".join(lines)


def on_one_line(text: str) -> str:
    """Return a text with line breaks and other control characters spelled out, so that it is one line of a list."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def did_you_mean(name: str, known: list[str]) -> str:
    """Return ` Did you mean 'x'?`, or nothing where no known name is near."""
    folded = {other.casefold(): other for other in reversed(known)}  # where only case differs, that is the answer
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.6)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""

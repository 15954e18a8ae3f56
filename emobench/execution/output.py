"""What a worker process prints, by Python or by native code: a job keeps it as its log, and stdout stays clean."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
import tempfile
from collections.abc import Iterator

MAX_BYTES = 2**20  # of the scratch file, before all but its end is cut off
TAIL_BYTES = 16_384


def free_stdout() -> None:
    """Let descriptor 1 of this process lead where 2 does: stdout is for a command's own answer."""
    with contextlib.suppress(OSError):  # stderr is closed
        os.dup2(2, 1)


class Log(io.TextIOBase):
    """A text stream into a scratch file of which only the end is kept.

    Parameters
    ----------
    descriptor : int
        Of the file.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Add a text; where the disk takes no more, it is lost, and whoever prints goes on."""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, text.encode(errors="backslashreplace"))
            if os.lseek(self._descriptor, 0, os.SEEK_END) > MAX_BYTES:
                end = self.getvalue().encode()
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.ftruncate(self._descriptor, 0)
                os.write(self._descriptor, end)
        return len(text)

    def getvalue(self) -> str:
        """Return the end of what was written."""
        length = os.lseek(self._descriptor, 0, os.SEEK_END)
        os.lseek(self._descriptor, max(0, length - TAIL_BYTES), os.SEEK_SET)
        return os.read(self._descriptor, TAIL_BYTES).decode(errors="backslashreplace")


@contextlib.contextmanager
def captured() -> Iterator[Log]:
    """Keep what this process writes to its descriptors 1 and 2; yields the log of it.

    A file takes it, not a pipe: native code that does not let go of the interpreter would wait for its reader for ever.
    """
    with _scratch() as file:
        log = Log(file.fileno())
        with _redirected(file.fileno()), contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield log


def _scratch() -> io.IOBase:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # there is no place for a log, so there is none
        return open(os.devnull, "r+b")


@contextlib.contextmanager
def _redirected(target: int) -> Iterator[None]:
    """Let the descriptors 1 and 2 lead to a file; all that dup2 makes of it share one position."""
    kept = {}
    for number in (1, 2):
        with contextlib.suppress(OSError):  # it is closed
            kept[number] = os.dup(number)
    _flush()
    try:
        for number in kept:
            os.dup2(target, number)
        yield
    finally:
        _flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)


def _flush() -> None:
    """Write out what Python's and C's streams hold, so that it lands where it was printed to."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:  # as in pythonw
                stream.flush()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows
        ctypes.CDLL(None).fflush(None)

"""What a long piece of work tells the person who waits for it; silent unless somebody listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator


class Reporter:
    """Listener of a run. The command line has one that draws on the terminal; this one says nothing."""

    def say(self, text: str) -> None:
        """Tell what happens now."""

    def warn(self, text: str) -> None:
        """Tell what the person should know about the result."""

    @contextlib.contextmanager
    def track(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """Show progress; yields ``advance(n_done, note="", *, share=None)``.

        `n_done` counts from the start; `share` in [0, 1] says how much of the work that is, where tasks differ in
        length.
        """
        yield lambda n_done, note="", *, share=None: None


def summarise(remarks: Iterable[tuple[str, str]], *, most: int = 3) -> list[str]:
    """Return one line for each kind of remark: what is said, of how many, and the names of the first `most` of them.

    Parameters
    ----------
    remarks : iterable of (subject, what is said of it)
    """
    subjects: dict[str, list[str]] = {}
    for subject, said in dict.fromkeys(remarks):
        subjects.setdefault(said, []).append(subject)
    return [
        f"{', '.join(names[:most])}{f' and {len(names) - most} more' if len(names) > most else ''}: {said}"
        for said, names in subjects.items()
    ]

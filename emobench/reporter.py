"""What a long piece of work tells the person who waits for it; silent unless somebody listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Reporter:
    """Listener of a run. The command line has one that draws on the terminal; this one says nothing."""

    def say(self, text: str) -> None:
        """Tell what happens now."""

    def warn(self, text: str) -> None:
        """Tell what the person should know about the result."""

    @contextlib.contextmanager
    def track(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """Show progress; yields ``advance(n_done, note="")``, where `n_done` counts from the start."""
        yield lambda n_done, note="": None

"""What a person at a terminal sees: progress on stderr while it runs, tables at the end."""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from emobench.reporter import Reporter

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from emobench.running.planning import Plan
    from emobench.running.runner import Outcome


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return text whose control characters are spelled out: a file's name must not steer a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class ConsoleReporter(Reporter):
    """Reporter that writes to stderr: a live bar on a terminal, a line for each step elsewhere."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        if not self.quiet:
            print(f"note: {printable(text)}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def track(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        if self.quiet or not sys.stderr.isatty():
            yield lambda n_done, note="", *, share=None: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        count = TextColumn("{task.fields[n_done]}/{task.fields[n_all]}")
        columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
        note_column = TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True))
        with Progress(
            *columns, note_column, console=Console(stderr=True), transient=True, speed_estimate_period=300
        ) as bar:
            task = bar.add_task(title, total=1.0, n_done=0, n_all=total, note="")

            def advance(n_done: int, note: str = "", *, share: float | None = None) -> None:
                done = n_done / max(total, 1) if share is None else share
                bar.update(task, completed=done, n_done=n_done, note=note)

            yield advance


def print_outcome(outcome: Outcome, *, quiet: bool = False) -> None:
    """Print the leaderboard on stdout, then where everything is on stderr; remarks were told before."""
    console = _console()
    for (corpus, features, protocol), part in outcome.leaderboard.groupby(
        ["corpus", "features", "protocol"], sort=False
    ):
        first = part.iloc[0]
        waives = first["waives"]
        note = f"shares {waives.replace('+', ', ')}: NOT for new speakers" if waives else "unheard speakers"
        console.print(_table(printable(f"{corpus} · {features} · {protocol} ({note})"), part))
    if not quiet:
        print(
            f"{outcome.n_computed} jobs computed, {outcome.n_reused} reused, {outcome.n_failed} failed. "
            f"Everything is in {outcome.folder}; read report.html",
            file=sys.stderr,
        )


def print_plan(plan: Plan, *, verbose: bool = False, quiet: bool = False) -> None:
    """Print what a run would do on stdout, and remarks on stderr."""
    from emobench.running.experiment import count_jobs

    left = [job for job in plan.jobs if job.key not in plan.finished]
    n_left = len(left)
    print(f"run       {plan.run}")
    print(f"jobs      {count_jobs(left)} to run, {len(plan.jobs) - n_left} finished before")
    print(f"features  {plan.n_to_extract} clips to extract")
    print(f"estimate  about {_duration(plan.estimate_s)}{_needs(plan) if n_left or plan.n_to_extract else ''}")
    if verbose:
        for job in plan.jobs:
            print(f"  {'done' if job.key in plan.finished else 'todo'}  {job.title}")
    else:
        groups = Counter(
            (job.entry, job.corpus, job.features, job.protocol or "everything, for the bundle") for job in plan.jobs
        )
        for group, count in groups.items():
            print(f"  {count:4d} × {' · '.join(group)}")
    for remark in () if quiet else plan.remarks:
        print(f"note: {printable(remark)}", file=sys.stderr)


def _table(title: str, part: pd.DataFrame) -> Table:
    from rich import box
    from rich.table import Table

    from emobench.reports import leaderboard

    headings, rows = leaderboard.table(part)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "entry" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _console() -> Console:
    from rich.console import Console

    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 120)


def _needs(plan: Plan) -> str:
    workers = f"{plan.n_workers} worker{'s' * (plan.n_workers > 1)} of {plan.worker_bytes / 1e6:.0f} MB"
    return f" on {workers}; {plan.disk_bytes / 1e6:.0f} MB of disk"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "nothing to do"
    sizes = (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48), ("days", 86_400, 14))
    unit, size = next(((u, n) for u, n, most in sizes if seconds < n * most), ("weeks", 604_800))
    return f"{seconds / size:.0f} {unit}"

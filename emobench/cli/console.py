"""What a person at a terminal sees: progress on stderr while it runs, tables at the end."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.reporter import Reporter

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from emobench.running.planning import Plan
    from emobench.running.runner import Outcome


# What a terminal shows of a leaderboard, the most important column first.
LEADERBOARD = ("entry", "UAR", "95 % interval", "rank", "failed", "group", "worst speaker", "p50 (ms)", "macro F1")
N_KEPT = 4  # columns of a table that never give way
MAX_LINES = 40  # of a table or a list; the rest is counted

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return text whose control characters are spelled out: a file's name must not steer a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    with contextlib.suppress(OSError):  # nobody is left who could be told
        print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


class ConsoleReporter(Reporter):
    """Reporter that writes to stderr: a live bar on a terminal, a line for each step elsewhere."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        if not self.quiet:
            warn(text)

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


def print_outcome(outcome: Outcome, *, reporter: ConsoleReporter) -> None:
    """Print the leaderboard on stdout; on stderr what to do next. Remarks were told before."""
    from emobench.reports import leaderboard

    for (corpus, features, protocol), part in outcome.leaderboard.groupby(
        ["corpus", "features", "protocol"], sort=False
    ):
        title = f"{corpus} · {features} · {protocol} ({leaderboard.shared(part.iloc[0]['waives'])})"
        headings, rows = leaderboard.table(part)
        print_table(headings, rows, title=title, first=LEADERBOARD, names=("entry",), whole="See leaderboard.csv.")
    reporter.say(f"{outcome.n_computed} jobs computed, {outcome.n_reused} reused, {outcome.n_failed} failed.")
    folder = outcome.folder
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    reporter.say(f"Next: open {folder / 'report.html'}")
    if (folder / "models").is_dir():
        reporter.say(f"      emobench predict FILE... --model {shlex.quote(str(folder))}")


def print_plan(plan: Plan, *, verbose: bool = False, quiet: bool = False) -> None:
    """Print what a run would do on stdout, and remarks on stderr."""
    from emobench.running.experiment import count_jobs

    left = [job for job in plan.jobs if job.key not in plan.finished]
    n_left = len(left)
    print(f"run       {printable(plan.run)}")
    print(f"jobs      {count_jobs(left)} to run, {len(plan.jobs) - n_left} finished before")
    stressed = f", {plan.n_to_stress} stressed versions of them" if plan.n_to_stress else ""
    print(f"features  {plan.n_to_extract} clips to extract{stressed}")
    needs = _needs(plan) if n_left or plan.n_to_extract or plan.n_to_stress else ""
    print(f"estimate  about {_duration(plan.estimate_s)}{needs}")
    if verbose:
        for job in plan.jobs:
            print(printable(f"  {'done' if job.key in plan.finished else 'todo'}  {job.title}"))
    else:
        groups = Counter(
            (job.entry, job.corpus, job.features, job.protocol or "everything, for the bundle") for job in plan.jobs
        )
        n_shown = _most_lines(len(groups))
        for group, count in islice(groups.items(), n_shown):
            print(printable(f"  {count:4d} × {' · '.join(group)}"))
        if n_shown < len(groups):
            print(f"  and {len(groups) - n_shown:,} more lines; use -v for every job")
    for remark in () if quiet else plan.remarks:
        warn(remark)


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    first: Sequence[str],
    title: str = "",
    names: Sequence[str] = (),
    styles: Sequence[str | None] = (),
    whole: str = "",
) -> None:
    """Print a table on stdout; what does not fit into the terminal is left out and named below.

    Of rows, the first `MAX_LINES` are shown; of columns, those that fit into its width. A file gets everything.

    Parameters
    ----------
    first : sequence of str
        Headings, the most important one first: these columns are the last to be left out, and the first four of them
        never are.
    names : sequence of str
        Columns that hold text, on the left.
    styles : sequence of str, optional
        Of each row.
    whole : str, optional
        A sentence that says where the rest is.
    """
    from rich import box
    from rich.measure import Measurement
    from rich.table import Table

    console, n_shown = _console(), _most_lines(len(rows))
    wanted = [*(heading for heading in first if heading in headings), *(h for h in headings if h not in first)]

    def build(columns: Sequence[str]) -> Table:
        table = Table(
            title=printable(title) or None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        shown = [number for number, heading in enumerate(headings) if heading in columns]
        for number in shown:
            is_name = headings[number] in names
            table.add_column(
                headings[number], justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold"
            )
        for row, style in islice(zip(rows, styles or [None] * len(rows), strict=True), n_shown):
            table.add_row(*(printable(row[number]) for number in shown), style=style)
        return table

    chosen = wanted[:N_KEPT]
    for heading in wanted[N_KEPT:]:
        table = build([*chosen, heading])
        table.title = None  # it may wrap
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum > console.width:
            break
        chosen.append(heading)
    console.print(build(chosen))
    if n_shown < len(rows):
        console.print(f"Rows left out: {len(rows) - n_shown:,} of {len(rows):,}. {whole}".rstrip())
    if left_out := [heading for heading in headings if heading not in chosen]:
        console.print(f"Columns left out: {', '.join(left_out)}. {whole}".rstrip())


def _console() -> Console:
    from rich.console import Console

    return Console(markup=False, highlight=False, width=None if _is_terminal() else 1000)


def _is_terminal() -> bool:
    return sys.stdout.isatty() or "COLUMNS" in os.environ


def _most_lines(n_lines: int) -> int:
    """Return how many of some lines to print: a screen or two of them on a terminal, all of them into a file."""
    return min(n_lines, MAX_LINES) if _is_terminal() else n_lines


def _needs(plan: Plan) -> str:
    workers = f"{plan.n_workers} worker{'s' * (plan.n_workers > 1)} of {plan.worker_bytes / 1e6:.0f} MB"
    return f" on {workers}; {plan.disk_bytes / 1e6:.0f} MB of disk"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "nothing to do"
    sizes = (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48), ("days", 86_400, 14))
    unit, size = next(((u, n) for u, n, most in sizes if seconds < n * most), ("weeks", 604_800))
    return f"{seconds / size:.0f} {unit}"

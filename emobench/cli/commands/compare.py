"""The command that fails a build when a candidate is worse than a baseline."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emobench.cli.frame import Manner, app, print_json, takes_manner
from emobench.errors import ConfigError

if TYPE_CHECKING:
    from emobench.comparison.verdicts import Comparison, Verdict

Run = Annotated[Path, typer.Argument(help="A run's folder, a folder that holds one run, or a leaderboard CSV.")]


@app.command()
@takes_manner
def compare(
    baseline: Run,
    candidate: Run,
    *,
    fail: Annotated[
        list[str],
        typer.Option(
            "--fail",
            metavar="METRIC:TOLERANCE",
            help="Compare this metric and let it become worse by that much: uar:0.02, latency_p50_ms:25%. May be "
            "repeated; uar:0.02 if not given.",
        ),
    ] = [],  # noqa: B006
    fail_inconclusive: Annotated[
        bool, typer.Option("--fail-inconclusive", help="Exit with 11 if something cannot be told.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Let entries pass that only the baseline has.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, as for a comment on a pull request.")
    ] = False,
    manner: Manner,
) -> None:
    """Compare a run with a baseline: exit 10 if something is worse, 11 if they cannot be compared, else 0.

    A drop counts where it exceeds the tolerance and its 95 % interval over speakers excludes zero; so does an entry
    that failed or is missing. What cannot be told passes. In GitHub Actions it annotates and writes the job's summary.
    """
    if markdown and manner.as_json:
        raise ConfigError("--json and --markdown must not be given together. Leave one out.")
    from emobench.comparison import verdicts

    try:
        found = verdicts.compare(
            baseline,
            candidate,
            fail=_tolerances(fail) if fail else None,
            fail_inconclusive=fail_inconclusive,
            allow_missing=allow_missing,
        )
    except verdicts.NotComparableError as error:
        if _is_github():
            _annotate("error", "not comparable", str(error))
        raise
    if manner.as_json:
        print_json(found.to_dict())
    elif markdown:
        print(found.to_markdown(), end="")
    else:
        _print_table(found, quiet=manner.quiet)
    if _is_github():
        _report_to_github(found)
    raise typer.Exit(found.exit_code)


def _tolerances(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        metric, colon, tolerance = text.rpartition(":")
        if not colon or not metric:
            raise ConfigError(f"--fail must be METRIC:TOLERANCE. Got {text!r}. Write it as uar:0.02 or fit_s:25%.")
        if metric in found:
            raise ConfigError(f"--fail must name a metric once. Got {metric!r} twice. Leave one out.")
        found[metric] = tolerance
    return found


def _print_table(found: Comparison, *, quiet: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from emobench.cli.console import printable

    headings, rows = found.table()
    table = Table(box=box.SIMPLE_HEAD)
    shown = [number for number, _ in enumerate(headings) if any(row[number] for row in rows)]  # the rest takes room
    for number in shown:
        is_text = headings[number] in {"status", "board", "entry", "metric"}
        table.add_column(headings[number], justify="left" if is_text else "right", no_wrap=headings[number] != "board")
    for row, verdict in zip(rows, found.verdicts, strict=True):
        style = "red" if found.is_regression(verdict) else None
        table.add_row(*(printable(row[number]) for number in shown), style=style)
    print(found.summary)
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
    for remark in () if quiet else found.remarks():
        print(f"note: {printable(remark)}", file=sys.stderr)


def _is_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _report_to_github(found: Comparison) -> None:
    """Annotate what a reviewer should see, and write the summary of the job.

    Workflow commands are read from stderr as well, so that stdout stays data.
    """
    for verdict in found.verdicts:
        level = _level(found, verdict)
        if level:
            _annotate(level, verdict.status, _sentence(verdict))
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        from emobench.files import storage_errors

        with storage_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(found.to_markdown() + "\n")


def _level(found: Comparison, verdict: Verdict) -> str:
    from emobench.comparison.verdicts import BETTER, INCONCLUSIVE, MISSING

    if found.is_regression(verdict) or (found.fail_inconclusive and verdict.status == INCONCLUSIVE):
        return "error"
    return {INCONCLUSIVE: "warning", BETTER: "notice", MISSING: "notice"}.get(verdict.status, "")


def _sentence(verdict: Verdict) -> str:
    text = verdict.title
    if verdict.difference == verdict.difference:
        text += f": {verdict.baseline:.4g} to {verdict.candidate:.4g} ({verdict.difference:+.4g}"
        text += f", 95 % interval {verdict.low:+.4g} to {verdict.high:+.4g})" if verdict.low == verdict.low else ")"
    return f"{text}. {verdict.reason}" if verdict.reason else text


def _annotate(level: str, title: str, message: str) -> None:
    """Print a workflow command; what would end it or its title is escaped as GitHub's toolkit does."""

    def escaped(text: str, others: str = "") -> str:
        for character in "%\r\n" + others:
            text = text.replace(character, f"%{ord(character):02X}")
        return text

    print(f"::{level} title={escaped(f'emobench: {title}', ':,')}::{escaped(message)}", file=sys.stderr)

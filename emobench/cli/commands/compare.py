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
            help="Metric to compare and how much worse it may get: uar:0.02, latency_p50_ms:25%, "
            "stress:phone:delta_uar:0.1. May be repeated; default: uar:0.02.",
        ),
    ] = [],  # noqa: B006
    fail_inconclusive: Annotated[
        bool, typer.Option("--fail-inconclusive", help="Exit with 11 if a difference cannot be told from noise.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Accept entries that only the baseline has.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a comment on a pull request.")
    ] = False,
    manner: Manner,
) -> None:
    """Fail if a run is worse than a baseline.

    Exit code 10: an entry is worse, failed or missing. 11: the runs cannot be compared. 0: no regression. An entry is
    worse if its drop exceeds the tolerance and the 95 % interval over speakers excludes zero; a drop that cannot be
    told from noise passes. In GitHub Actions it also annotates the build and writes the job summary.
    """
    if markdown and manner.as_json:
        raise ConfigError("--json and --markdown cannot be given together.")
    from emobench.comparison import verdicts
    from emobench.comparison.comparability import NotComparableError

    try:
        found = verdicts.compare(
            baseline,
            candidate,
            fail=_tolerances(fail) if fail else None,
            fail_inconclusive=fail_inconclusive,
            allow_missing=allow_missing,
        )
    except NotComparableError as error:
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
            raise ConfigError(f"--fail takes METRIC:TOLERANCE, such as uar:0.02 or fit_s:25%. Got {text!r}.")
        if metric in found:
            raise ConfigError(f"--fail names {metric!r} twice.")
        found[metric] = tolerance
    return found


def _print_table(found: Comparison, *, quiet: bool) -> None:
    from emobench.cli.console import print_table, warn

    headings, rows = found.table()
    filled = [number for number, _ in enumerate(headings) if any(row[number] for row in rows)]  # the rest takes room
    board = headings.index("board") if "board" in headings else None
    boards: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        boards.setdefault("" if board is None else row[board], []).append(place)
    print(found.summary)
    shown = [number for number in filled if number != board]
    for title, places in boards.items():
        print_table(
            [headings[number] for number in shown],
            [[rows[place][number] for number in shown] for place in places],
            title=title,
            first=("status", "entry", "difference", "95 % interval", "metric", "candidate", "baseline"),
            names=("status", "entry", "metric"),
            styles=["red" if found.is_regression(found.verdicts[place]) else None for place in places],
            whole="Use --json for all.",
        )
    for remark in () if quiet else found.remarks():
        warn(remark)


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

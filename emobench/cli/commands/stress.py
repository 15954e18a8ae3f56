"""The command that asks a saved model about recordings that left the studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emobench.cli.frame import Jobs, Manner, app, print_columns, print_json, takes_manner
from emobench.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@app.command("stress")
@takes_manner
def stress_command(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A saved model, or the name of an entry.")],
    *,
    corpus: Annotated[
        str, typer.Option("--corpus", metavar="NAME", help="Recordings that the model was not trained on.")
    ],
    root: Annotated[Path | None, typer.Option("--root", metavar="DIR", help="Folder of the corpus.")] = None,
    path: Annotated[Path | None, typer.Option("--path", metavar="CSV", help="The CSV of a manifest.")] = None,
    stress: Annotated[
        list[str],
        typer.Option(
            "--stress", metavar="NAME[:LEVEL,…]", help="Only this stress, at its levels or these; may be repeated."
        ),
    ] = [],  # noqa: B006  (typer copies it)
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of noise, rooms and voices.", min=0)] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="CSV", help="Also write the table to this file.")
    ] = None,
    save_worst: Annotated[
        tuple[int, Path] | None,
        typer.Option(
            "--save-worst",
            metavar="N DIR",
            help="Write N stressed recordings whose right answers became wrong, the most confident first.",
        ),
    ] = None,
    n_jobs: Jobs = -1,
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of runs.")] = Path("results"),
    manner: Manner,
) -> None:
    """Ask a saved model about stressed recordings.

    Shows for each stress and level how many answers stay as they were, how far the unweighted average recall (UAR)
    falls, with intervals over speakers, and whether that passes the stress's thresholds.
    """
    from emobench.bundles.storage import read_bundle
    from emobench.cli.console import ConsoleReporter, printable
    from emobench.prediction.selection import find_bundle
    from emobench.prediction.stress import save_worst as save
    from emobench.prediction.stress import worst_flips
    from emobench.reports.stress import worst
    from emobench.results.tables import write_csv
    from emobench.running.robustness import stress_bundle
    from emobench.running.verification import corpus_of
    from emobench.stresses import STRESSES

    asked = dict(map(_parse, stress)) or dict.fromkeys(STRESSES, ())
    reporter = ConsoleReporter(quiet=manner.quiet)
    found = stress_bundle(
        read_bundle(find_bundle(model, results)),
        corpus_of(corpus, root, path),
        stresses=asked,
        seed=seed,
        n_jobs=n_jobs,
        reporter=reporter,
    )
    if output:
        write_csv(output, found.table)
    for remark in found.remarks:
        reporter.warn(remark)
    if save_worst:
        n, folder = save_worst
        save(folder, found.subject, worst_flips(found.answers, n), found.predictor, seed=seed)
        reporter.say(f"Wrote the worst to {folder}")
    failures = found.table.loc[found.table["reason"].str.contains("could not be stressed"), "stress"].unique()
    if manner.as_json:
        rows = json.loads(found.table.to_json(orient="records", double_precision=6))
        print_json({"stress": rows, "worst": worst(found.table), "remarks": list(found.remarks)})
    else:
        print_columns(_columns(found.table))
        for line in worst(found.table):
            print(printable(f"worst: {line}"))
    if len(failures):
        reporter.warn(f"some recordings could not be stressed: {', '.join(failures)}")
        raise typer.Exit(4)


def _parse(text: str) -> tuple[str, tuple[float, ...]]:
    """Return a stress and its levels from ``name`` or ``name:level,level``."""
    name, _, levels = text.partition(":")
    try:
        return name, tuple(float(level) for level in levels.split(",") if level)
    except ValueError:
        raise ConfigError(f"--stress {text}: levels must be numbers. Write {name}:1,2 for example.") from None


def _columns(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the table for people: a line for each stress and level, then the gaps between groups."""
    lines: list[tuple[str, ...]] = [("stress", "level", "unchanged", "UAR", "ΔUAR", "verdict")]
    by_level = table[table["measure"] != "gap"].groupby(["stress", "level"], sort=False, dropna=False)
    for (stress, level), part in by_level:
        rows = {row.measure: row for row in part.itertuples()}
        verdicts = [f"{name}: {row.verdict}" for name, row in rows.items() if row.verdict]
        cells = [_figure(rows.get(name)) for name in ("unchanged", "uar", "delta_uar")]
        lines.append((stress, "" if level != level else f"{level:g}", *cells, ", ".join(verdicts)))
    for row in table[table["measure"] == "gap"].itertuples():
        lines.append(("gap", row.group, "", "", _figure(row), row.verdict))
    return lines


def _figure(row: Any) -> str:
    if row is None or row.value != row.value:  # NaN
        return "–"
    shown = f"{row.value:.3f}"
    return shown if row.low != row.low else f"{shown} [{row.low:.3f}, {row.high:.3f}]"

"""The command that measures how fast saved models answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from emobench.cli.frame import Manner, app, complain, print_columns, print_json, takes_manner
from emobench.errors import ConfigError


@app.command("latency")
@takes_manner
def latency_command(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE...", help="Saved models: a bundle, or the name of an entry.")
    ],
    *,
    clip: Annotated[
        Path | None, typer.Option("--clip", metavar="FILE", help="The recording; default: a synthetic one of 3.5 s.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Fresh processes per model.")] = 10,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="CSV", help="Also write the table to this file.")
    ] = None,
    benchmark_json: Annotated[
        Path | None,
        typer.Option("--benchmark-json", metavar="FILE", help="Write what `pytest-benchmark compare` reads."),
    ] = None,
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of runs.")] = Path("results"),
    manner: Manner,
) -> None:
    """Measure how fast saved models answer.

    Every model runs in fresh processes of one thread, in turn with the others.
    """
    from emobench.cli.console import ConsoleReporter
    from emobench.config.schema import LatencyConfig
    from emobench.files import write_json
    from emobench.prediction import latency
    from emobench.prediction.selection import find_bundle
    from emobench.results.tables import write_csv

    least, most = 4, 1000
    if not least <= rounds <= most:
        raise ConfigError(f"--rounds must be {least} to {most}. Got {rounds}. Change it.")
    subjects = latency.distinct([latency.read_subject(find_bundle(bundle, results)) for bundle in bundles])
    reporter = ConsoleReporter(quiet=manner.quiet)
    measured = latency.measure(subjects, LatencyConfig(rounds=rounds), clip=clip, reporter=reporter)
    if output:
        write_csv(output, measured.table)
    if benchmark_json:
        write_json(benchmark_json, latency.to_pytest_benchmark(measured.benchmarks))
    remarks = latency.remarks(measured.table)
    failures = {str(subject.path): failure for subject, failure in measured.failures.items()}
    if manner.as_json:
        rows = json.loads(measured.table.to_json(orient="records", double_precision=6))
        print_json({"latency": rows, "remarks": remarks, "failures": failures})
    elif len(measured.table):
        print_columns(latency.to_columns(measured.table))
    for remark in remarks:
        reporter.warn(remark)
    for title, failure in failures.items():
        complain(f"{title} gave no answer: {failure}")
    if failures:
        raise typer.Exit(4 if len(measured.table) else 2)

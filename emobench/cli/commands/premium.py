"""The command that shows what sharing speakers between training and test flatters."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from emobench.cli.frame import Config, Dask, Jobs, Manner, Output, app, print_columns, print_json, takes_manner


@app.command("premium")
@takes_manner
def premium_command(
    config: Config,
    *,
    output: Output = Path("results"),
    n_jobs: Jobs = -1,
    dask: Dask = None,
    manner: Manner,
) -> None:
    """Show by how much each model seems better when it has heard its test speakers in training.

    Carries out the config with `premium: {}`. If that is in it, or a protocol that shares speakers is, this is the run
    that `emobench run` makes of it; else the run gets a folder of its own, and what the plain one has finished is taken
    over.
    """
    from emobench.cli.console import ConsoleReporter, printable
    from emobench.reports import premium
    from emobench.running import runner

    reporter = ConsoleReporter(quiet=manner.quiet)
    outcome, table = runner.premium(config, output=output, n_jobs=n_jobs, dask=dask, reporter=reporter)
    if manner.as_json:
        rows = json.loads(table.to_json(orient="records", double_precision=6))
        print_json({"folder": str(outcome.folder), "failed": outcome.n_failed, "premium": rows})
    else:
        for key, part in table.groupby(premium.BOARD, sort=False):
            print(printable("{} · {} · {} against {}".format(*key)))
            print_columns(premium.to_columns(part))
    reporter.say(f"Everything is in {outcome.folder}")
    raise typer.Exit(outcome.exit_code)

"""Commands that carry out a config, or say what that would be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from emobench.cli.frame import Config, Dask, Jobs, Manner, Only, Output, app, print_json, takes_manner


@app.command()
@takes_manner
def run(
    config: Config,
    *,
    output: Output = Path("results"),
    n_jobs: Jobs = -1,
    only: Only = [],  # noqa: B006  (typer reads the default, nobody changes it)
    force: Annotated[bool, typer.Option("--force", help="Compute finished jobs again.")] = False,
    retune: Annotated[bool, typer.Option("--retune", help="Discard earlier tuning and tune again.")] = False,
    dask: Dask = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the jobs and an estimate.")] = False,
    manner: Manner,
) -> None:
    """Compare the models of a config.

    Writes a folder with leaderboards, the models and report.html. The same command continues a run that was stopped.
    """
    if dry_run:
        return _print_plan(config, output, n_jobs, only, manner)
    from emobench.cli.console import ConsoleReporter, print_outcome
    from emobench.running import runner

    reporter = ConsoleReporter(quiet=manner.quiet)
    outcome = runner.run(
        config,
        output=output,
        n_jobs=n_jobs,
        only=only,
        force=force,
        retune=retune,
        dask=dask,
        reporter=reporter,
    )
    if manner.as_json:
        print_json(
            {
                "folder": str(outcome.folder),
                "computed": outcome.n_computed,
                "reused": outcome.n_reused,
                "failed": outcome.n_failed,
                "remarks": list(outcome.remarks),
                "leaderboard": json.loads(outcome.leaderboard.to_json(orient="records")),
            }
        )
    else:
        print_outcome(outcome, reporter=reporter)
    raise typer.Exit(outcome.exit_code)


@app.command()
@takes_manner
def plan(
    config: Config,
    *,
    output: Output = Path("results"),
    n_jobs: Jobs = -1,
    only: Only = [],  # noqa: B006
    manner: Manner,
) -> None:
    """Show what a run would do and how long it would take.

    The same as `emobench run --dry-run`; nothing is computed.
    """
    _print_plan(config, output, n_jobs, only, manner)


def _print_plan(config: Path, output: Path, n_jobs: int, only: Sequence[str], manner: Manner) -> None:
    from emobench.cli.console import print_plan
    from emobench.running import planning

    planned = planning.plan(config, output=output, n_jobs=n_jobs, only=only)
    if not manner.as_json:
        return print_plan(planned, verbose=manner.verbose, quiet=manner.quiet)
    print_json(
        {
            "run": planned.run,
            "jobs": [
                {"key": job.key, "title": job.title, "is_finished": job.key in planned.finished} for job in planned.jobs
            ],
            "n_to_extract": planned.n_to_extract,
            "n_to_stress": planned.n_to_stress,
            "estimate_s": round(planned.estimate_s, 1),
            "n_workers": planned.n_workers,
            "worker_bytes": planned.worker_bytes,
            "disk_bytes": planned.disk_bytes,
            "remarks": list(planned.remarks),
        }
    )

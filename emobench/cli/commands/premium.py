"""The command that shows what sharing speakers between training and test flatters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from emobench.cli.frame import Config, Dask, Jobs, Manner, Output, app, print_columns, print_json, takes_manner

if TYPE_CHECKING:
    from emobench.config.yaml import LoadedConfig
    from emobench.reporter import Reporter


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
    """Show how much better models look when speakers are shared.

    Runs the config with `premium: {}`. If the config says so itself, or names a protocol that shares speakers, this is
    the same run as that of `emobench run`; otherwise it gets its own folder and reuses the jobs that are finished.
    """
    from emobench.cli.console import ConsoleReporter, printable
    from emobench.config.yaml import load_config
    from emobench.reports import leaderboard, premium
    from emobench.results.run import load_results
    from emobench.running import runner

    reporter = ConsoleReporter(quiet=manner.quiet)
    plain = load_config(config)
    loaded = replace(plain, config=plain.config.with_premium())
    if loaded.config != plain.config:
        _take_over(plain, loaded, output, reporter)
    outcome = runner.run(loaded, output=output, n_jobs=n_jobs, dask=dask, reporter=reporter)
    for remark in outcome.remarks:
        reporter.warn(remark)
    found = load_results(outcome.folder)
    table = premium.describe(leaderboard.complete(found.scores, found.predictions, found.run), found.run)
    if manner.as_json:
        rows = json.loads(table.to_json(orient="records", double_precision=6))
        print_json({"folder": str(outcome.folder), "failed": outcome.n_failed, "premium": rows})
    else:
        for key, part in table.groupby(premium.BOARD, sort=False):
            print(printable("{} · {} · {} against {}".format(*key)))
            print_columns(premium.to_columns(part))
    reporter.say(f"Next: open {outcome.folder / 'report.html'}")
    raise typer.Exit(outcome.exit_code)


def _take_over(plain: LoadedConfig, loaded: LoadedConfig, output: Path, reporter: Reporter) -> None:
    """Copy what the run of the plain config has finished: jobs are the same wherever their keys are."""
    from emobench.running import journal
    from emobench.running.datasets import is_to_be_made, open_dataset
    from emobench.running.experiment import Experiment, blank_table

    if any(is_to_be_made(corpus, loaded) for corpus in loaded.config.corpora):
        return  # nothing can have been run on it
    experiment = Experiment(loaded)
    for corpus in loaded.config.corpora:
        dataset = open_dataset(corpus, loaded, n_jobs=1, reporter=reporter)
        experiment.datasets.append(dataset)
        for features in loaded.config.features:
            experiment.tables[dataset.name, features] = blank_table(dataset, features, loaded.config)
    before = output / Experiment(plain, datasets=experiment.datasets).name
    if not (before / "jobs").is_dir():
        return
    experiment.split()
    folder, jobs = output / experiment.name, experiment.jobs()
    finished = journal.read_finished(before, jobs)
    for key in finished.keys() - journal.read_finished(folder, jobs).keys():
        journal.write_finished(folder, finished[key])

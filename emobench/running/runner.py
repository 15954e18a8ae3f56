"""Carry out a config: prepare its corpora and features, run the jobs that are not finished, and record them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench import models
from emobench.config.schema import RunConfig
from emobench.config.yaml import load_config
from emobench.errors import (
    BundleError,
    LeakageError,
    StorageError,
    listing,
)
from emobench.execution.workers import WORKER_BYTES, Crash, Pool, count_workers
from emobench.features import FeatureTable
from emobench.files import hold, require_space, storage_errors, sweep
from emobench.prediction import latency
from emobench.registry import Plugins, using, with_plugins
from emobench.reporter import Reporter, summarise
from emobench.running import journal, records, robustness, transport
from emobench.running.evaluation import Fitted, FoldResult, Job, evaluate, fit_everything
from emobench.running.experiment import Experiment, count_jobs, prepare, run_name, unique
from emobench.running.planning import (
    check_dask,
    check_only,
    check_output,
    check_packages,
    mapped_bytes,
    result_bytes,
)

if TYPE_CHECKING:
    import pandas as pd

COPIES = (
    8  # of the features in a worker: fitting, predicting and exporting a network of 960 × 300 × 64 took 0.7 GB more
)
STEP_BYTES = 2**27  # feature sets that differ by less share their workers


NO_FOLDER = "their workers do not see the run's folder. Run again on this machine, or give them a shared folder"


@dataclass(frozen=True)
class ExtractedFeatures:
    """What `extract` did for a corpus and a feature set: its key in the store; recordings used, computed, excluded."""

    corpus: str
    features: str
    feature_key: str
    n_clips: int
    n_computed: int
    n_excluded: int


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes
    ----------
    folder : Path
        Where everything is.
    leaderboard : DataFrame
        The columns of ``leaderboard.csv``.
    n_computed, n_reused, n_failed : int
        Jobs, the final fits on everything among them.
    remarks : tuple of str
        What the person should know about the figures; the reporter was told each of them once.
    """

    folder: Path
    leaderboard: pd.DataFrame
    n_computed: int
    n_reused: int
    n_failed: int
    remarks: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return 4 if self.n_failed else 0


def run(
    config: str | os.PathLike[str] | Mapping[str, Any] | RunConfig,
    *,
    output: str | os.PathLike[str] = "results",
    n_jobs: int = -1,
    only: Sequence[str] = (),
    force: bool = False,
    retune: bool = False,
    dask: str | None = None,
    plugins: Plugins = (),
    reporter: Reporter | None = None,
) -> Outcome:
    """Compare the models of a config and write ``<output>/<config>-<hash>/``.

    Run again, it continues with what is not finished; a job that failed is tried again.

    Parameters
    ----------
    config : path, mapping or RunConfig
        A YAML file, or the same as plain data.
    output : path
        Folder of all runs.
    n_jobs : int
        Worker processes of one thread each, at most the cores; -1 for all cores.
    only : sequence of str
        Run these entries only; the leaderboard shows them and what is finished already.
    force : bool
        Compute finished jobs again.
    retune : bool
        Forget the studies and the results of tuned entries, and tune again.
    dask : str, optional
        Do the work on a Dask cluster instead: ``tcp://host:port``, a scheduler file, or ``local:N``.
    plugins : path or sequence of path
        Files whose rows join the tables; see `emobench.registry.using`.

    Raises
    ------
    ConfigError, DataError, StorageError
        Before anything is fitted, if the run cannot be honest or cannot be written.
    StorageError
        Also at the end, when everything else is kept, if a study is damaged.
    """
    reporter = reporter or Reporter()
    with using(plugins):
        return _run(load_config(config), None, Path(output), n_jobs, only, force, retune, dask, reporter)


def premium(
    config: str | os.PathLike[str] | Mapping[str, Any] | RunConfig,
    *,
    output: str | os.PathLike[str] = "results",
    n_jobs: int = -1,
    dask: str | None = None,
    plugins: Plugins = (),
    reporter: Reporter | None = None,
) -> tuple[Outcome, pd.DataFrame]:
    """Carry out a config with `premium: {}`; return the run and the table of the leakage premium.

    If that is in the config, or a protocol that shares speakers is, this is the run that `run` makes of it; else the
    run gets a folder of its own, and what the plain one has finished is taken over. The arguments are those of `run`.
    """
    with using(plugins):
        return _premium(load_config(config), Path(output), n_jobs, dask, reporter or Reporter())


def _premium(
    plain: RunConfig, output: Path, n_jobs: int, dask: str | None, reporter: Reporter
) -> tuple[Outcome, pd.DataFrame]:
    from emobench.reports import leaderboard, premium
    from emobench.results.run import load_results

    full = plain.with_premium()
    outcome = _run(full, plain, output, n_jobs, (), False, False, dask, reporter)
    found = load_results(outcome.folder)
    whole = leaderboard.complete(found.scores, found.predictions, found.run)
    return outcome, premium.describe(whole, found.run)


def _run(
    config: RunConfig,
    also: RunConfig | None,
    output: Path,
    n_jobs: int,
    only: Sequence[str],
    force: bool,
    retune: bool,
    dask: str | None,
    reporter: Reporter,
) -> Outcome:
    """Carry out a config; what the run of the config `also` has finished counts too."""
    check_dask(dask)
    check_only(config, only)
    check_packages(config, only)
    n_workers = count_workers(n_jobs)
    output = check_output(output)
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(contextlib.ExitStack())
        pool = _lazy_pool(workers, n_workers, dask)
        experiment = prepare(config, reporter=reporter, pool=pool, n_workers=n_workers, output=output)
        folder = output / experiment.name
        stack.enter_context(_hold(folder))
        jobs, fits = experiment.jobs(), experiment.fits()
        chosen = {job.key for job in [*jobs, *fits] if not only or job.entry in only}
        afresh = {job.key for job in [*jobs, *fits] if job.key in chosen and (force or (retune and job.tuning))}
        if retune:
            _forget(folder, [job for job in [*jobs, *fits] if job.key in chosen and job.tuning])
        finished = journal.read_finished(folder, [job for job in jobs if job.key not in afresh])
        if also is not None and also != config:
            journal.take_over(output / run_name(also, experiment.datasets), folder, jobs, finished)
        todo = unique([job for job in jobs if job.key in chosen - finished.keys()])
        before = journal.read_finished(folder, [replace(job, stress=None) for job in todo if job.key not in afresh])
        every_fit = [job for job in fits if job.key in chosen]
        fits = [job for job in every_fit if job.key in afresh or not records.has_bundle(folder, experiment, job)]
        work, n_reused = [*todo, *fits], len(finished) + len(every_fit) - len(fits)
        reporter.say(f"{count_jobs(work)} to run, {n_reused} finished before, in {folder}")
        for remark in require_space({output: result_bytes(work) + mapped_bytes(experiment) * bool(work)}):
            reporter.warn(remark)
        with robustness.Stressed(experiment, folder, pool, reporter) as stressed:
            stressed.prepare(todo)
            fitted = _execute(
                experiment, folder, [stressed.plan(job) for job in work], finished, before, pool, reporter
            )
        latency.restore(folder)
        board = records.write_tables(experiment, folder, jobs, finished, pool, is_changed=bool(work))
        failures, remarks = _save_bundles(experiment, folder, fitted, board)
        if config.latency:
            workers.close()  # nothing else may run beside what is timed
            board, more = _measure_latency(experiment, folder, board, reporter)
            remarks += more
        if n_unasked := sum(_is_unasked(finished, job) for job in todo):
            remarks.append(f"{n_unasked} jobs were not asked about stressed recordings: {NO_FOLDER}")
        failures += [(job.title, finished[job.key].error) for job in jobs if records.is_failed(finished, job)]
        failures += [(job.title, "tuning_failed (defaults taken)") for job in jobs if _tuning_failed(finished, job)]
        _check_storage(
            [(job, finished[job.key]) for job in todo if records.is_failed(finished, job)], fitted, reporter, failures
        )
        remarks += [f"failed: {line}" for line in summarise(failures)]
        for remark in remarks:
            reporter.warn(remark)
        every = tuple(dict.fromkeys([*experiment.remarks, *remarks]))
        return Outcome(folder, board, len(work), n_reused, len(failures), every)


def extract(
    config: str | os.PathLike[str] | Mapping[str, Any] | RunConfig,
    *,
    n_jobs: int = -1,
    dask: str | None = None,
    plugins: Plugins = (),
    reporter: Reporter | None = None,
) -> list[ExtractedFeatures]:
    """Compute the features of a config that the store has not, and nothing else; the arguments are those of `run`.

    Raises
    ------
    ConfigError, DataError, StorageError
        As `run` does before anything is fitted.
    """
    with using(plugins):
        return _extract(load_config(config), n_jobs, dask, reporter or Reporter())


def _extract(config: RunConfig, n_jobs: int, dask: str | None, reporter: Reporter) -> list[ExtractedFeatures]:
    check_dask(dask)
    n_workers = count_workers(n_jobs)
    with contextlib.ExitStack() as stack:
        pool = _lazy_pool(stack, n_workers, dask)
        experiment = prepare(config, reporter=reporter, pool=pool, n_workers=n_workers)
    return [
        ExtractedFeatures(
            corpus=corpus,
            features=features,
            feature_key=table.key,
            n_clips=len(table.ids),
            n_computed=table.n_computed,
            n_excluded=len(experiment.dataset(corpus).not_used),
        )
        for (corpus, features), table in experiment.tables.items()
    ]


# --- jobs -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Hold a run's folder against a second emobench."""
    holder = folder / ".holder"
    refusal = f"{folder}: in use by {_read_holder(holder)}. Wait for that run, or end it."
    with hold(folder / ".lock", refusal=refusal):
        try:
            with storage_errors(folder):
                holder.write_text(f"process {os.getpid()} on host {socket.gethostname()}")
            sweep(folder)
            yield
        finally:
            with contextlib.suppress(OSError):
                holder.unlink()


def _read_holder(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return "another run"


def _lazy_pool(stack: contextlib.ExitStack, n_workers: int, dask: str | None) -> Callable[..., Any]:
    """Return a function that starts the workers, or finds them, when something must be computed at all.

    Asked for workers of another size, it ends those that there are and starts as many as fit into memory.
    """
    current = stack.enter_context(contextlib.ExitStack())
    pools: dict[int, Any] = {}

    def pool(worker_bytes: int = WORKER_BYTES) -> Any:
        if dask:
            from emobench.execution.cluster import DaskPool

            return pools[0] if pools else pools.setdefault(0, current.enter_context(DaskPool(dask)))
        if worker_bytes not in pools:
            current.close()
            pools.clear()
            pools[worker_bytes] = current.enter_context(Pool(count_workers(n_workers, worker_bytes)))
        return pools[worker_bytes]

    return pool


def _execute(
    experiment: Experiment,
    folder: Path,
    work: Sequence[Job],
    finished: dict[str, FoldResult],
    before: Mapping[str, FoldResult],
    pool: Callable[..., Any],
    reporter: Reporter,
) -> list[tuple[Job, Fitted]]:
    """Run jobs, the longest first, and write each result as it arrives; return what was fitted on everything.

    Jobs of which `before` holds a result run once more for what it lacks, and must answer as they did.
    """
    fitted: list[tuple[Job, Fitted]] = []
    if not work:
        return fitted
    used = {(job.corpus, job.features) for job in work}
    tables = {key: table for key, table in experiment.tables.items() if key in used}
    limit_s = experiment.config.job_timeout_s
    limit = {} if limit_s is None else {"timeout_s": limit_s}
    total_s, done_s, n_done = sum(map(experiment.cost_s, work)), 0.0, 0
    with transport.Depot(folder) as depot, reporter.track("jobs", len(work)) as advance:
        for worker_bytes, phase in _phases(experiment, work):
            workers = pool(worker_bytes)
            offered = (
                {key: depot.offer(table) for key, table in tables.items()} if isinstance(workers, Pool) else tables
            )
            tasks = [(*_parted(_with_study(job, folder)), offered[job.corpus, job.features]) for job in phase]
            for position, outcome in workers.run(*with_plugins(_perform, tasks), **limit):
                job = phase[position]
                if not len(job.test):
                    fitted.append((job, Fitted(error=str(outcome)) if isinstance(outcome, Crash) else outcome))
                elif isinstance(outcome, Crash):
                    finished[job.key] = FoldResult(job.key, error=str(outcome))
                elif (problem := _changed_answers(outcome, before.get(job.key))) and not outcome.error:
                    finished[job.key] = FoldResult(job.key, error=problem)
                else:
                    finished[job.key] = outcome
                    if not outcome.error:
                        _check_fitted_rows(experiment, job, outcome)
                        journal.write_finished(folder, outcome)
                n_done, done_s = n_done + 1, done_s + experiment.cost_s(job)
                advance(n_done, job.title, share=done_s / total_s)
    return fitted


def _changed_answers(result: FoldResult, before: FoldResult | None) -> str:
    """Return why a job that was fitted again cannot stand for its first fit; mostly nothing."""
    if before is None or result.y_pred == before.y_pred:
        return ""
    n_other = sum(new != old for new, old in zip(result.y_pred, before.y_pred, strict=True))
    return (
        f"fitted again for its answers to stressed recordings, it gave other answers to {n_other} of "
        f"{len(before.y_pred)} recordings as they are. Compute the entry again with --force."
    )


def _phases(experiment: Experiment, work: Sequence[Job]) -> list[tuple[int, list[Job]]]:
    """Return jobs by the memory that their workers take, the least first, and the longest job of each first.

    So only workers with a network to train ever import TensorFlow, and there are no more of them than fit.
    """
    phases = defaultdict(list)
    for job in sorted(work, key=lambda job: -experiment.cost_s(job)):
        copies = COPIES * experiment.tables[job.corpus, job.features].X.nbytes // STEP_BYTES * STEP_BYTES
        phases[models.memory_bytes(models.get_model(job.model), job.params) + copies].append(job)
    return sorted(phases.items())


def _save_bundles(
    experiment: Experiment, folder: Path, fitted: Sequence[tuple[Job, Fitted]], board: pd.DataFrame
) -> tuple[list[tuple[str, str]], list[str]]:
    """Save what was fitted on everything; return failures, and remarks on models that cannot be saved."""
    failures, remarks = [], []
    latency.write_native(folder, {job.key: found.native_ms for job, found in fitted if found.onnx})
    for job, found in sorted(fitted, key=lambda item: item[0].title):
        if found.error:
            failures.append((job.title, found.error))
        elif found.no_bundle:
            remarks.append(f"{job.title}: {found.no_bundle}")
        else:
            try:
                records.save_bundle(experiment, folder, job, found, board)
            except BundleError as error:
                remarks.append(f"{job.title}: no bundle: {error}")
    return failures, remarks


def _measure_latency(
    experiment: Experiment, folder: Path, board: pd.DataFrame, reporter: Reporter
) -> tuple[pd.DataFrame, list[str]]:
    """Measure every bundle that was not measured before; return the leaderboard with what came out, and remarks."""
    settings = experiment.config.latency
    assert settings is not None
    paths = records.saved_bundles(folder, experiment)
    if n_missing := latency.count_missing(folder, paths, settings):
        reporter.say(f"{n_missing} models to measure, each in fresh processes")
    is_new, remarks = latency.measure_run(folder, paths, settings, reporter=reporter)
    return records.write_derived(folder) if is_new else board, remarks


def _forget(folder: Path, jobs: Sequence[Job]) -> None:
    """Remove the studies and the results of tuned jobs."""
    for job in jobs:
        study = _study_path(job, folder)
        with storage_errors(study):
            for path in (study, *study.parent.glob(f"{study.name}-*"), folder / "jobs" / f"{job.key}.json"):
                path.unlink(missing_ok=True)


def _check_storage(
    failed: Sequence[tuple[Job, FoldResult]],
    fitted: Sequence[tuple[Job, Fitted]],
    reporter: Reporter,
    failures: Sequence[tuple[str, str]],
) -> None:
    """Raise StorageError if a study is damaged; everything else is written by now."""
    results: list[tuple[Job, FoldResult | Fitted]] = [*failed, *fitted]
    damaged = [(job, result.error) for job, result in results if result.is_damaged_storage]
    if not damaged:
        return
    for line in summarise(failures):
        reporter.warn(f"failed: {line}")
    errors = dict.fromkeys(error.removeprefix("StorageError: ") for _, error in damaged)
    to_retune = sorted({job.entry for job, error in damaged if "--retune" in error})
    entries = " ".join(f"--only {entry}" for entry in to_retune)
    advice = f"\nTo tune these entries again: emobench run CONFIG --retune {entries}" if entries else ""
    raise StorageError(
        f"Every study must be written and continued. {len(errors)} cannot be, and everything else is kept:\n"
        f"{listing(list(errors))}{advice}"
    )


def _tuning_failed(finished: Mapping[str, FoldResult], job: Job) -> bool:
    return job.key in finished and bool((finished[job.key].tuning or {}).get("failed"))


def _is_unasked(finished: Mapping[str, FoldResult], job: Job) -> bool:
    return job.key in finished and not finished[job.key].error and not job.is_answered_by(finished[job.key])


def _with_study(job: Job, folder: Path) -> Job:
    """Return a job that keeps its study in the run's folder."""
    if job.tuning is None:
        return job
    return replace(job, tuning=replace(job.tuning, study=str(_study_path(job, folder))))


def _study_path(job: Job, folder: Path) -> Path:
    assert job.tuning is not None
    assert job.tuning.study is not None  # else it is kept in memory
    return folder / "studies" / job.tuning.study


def _parted(job: Job) -> tuple[Job, np.ndarray, np.ndarray]:
    """Return a job without its rows, and these, which it has in common with others: so they can travel once."""
    return replace(job, train=_NO_ROWS, test=_NO_ROWS), job.train, job.test


_NO_ROWS = np.arange(0)


def _perform(
    job: Job, train: np.ndarray, test: np.ndarray, offered: FeatureTable | transport.MappedTable
) -> FoldResult | Fitted:
    """Do one piece of work in a worker; one that does not see the run's folder keeps its study in memory.

    There it cannot ask about stressed recordings either.
    """
    job, table = replace(job, train=train, test=test), transport.fetch(offered)
    if job.tuning and job.tuning.study and not Path(job.tuning.study).parents[1].is_dir():
        job = replace(job, tuning=replace(job.tuning, study=None))
    if job.stress and not Path(job.stress.path).is_file():
        job = replace(job, stress=None)
    return evaluate(table, job) if len(job.test) else fit_everything(table, job)


def _check_fitted_rows(experiment: Experiment, job: Job, result: FoldResult) -> None:
    """Hold what reached `fit` in the worker against the certificate."""
    certificate = experiment.certificate(job.corpus, job.protocol)
    proof = next(proof for proof in certificate["folds"] if proof["fold"] == job.fold)
    inner = result.tuning["inner_folds"] if result.tuning else None
    if result.fitted_on != proof["train"] or (inner and inner != proof["inner"]["fingerprint"]):
        raise LeakageError(
            f"A model must be fitted on the certified training rows. {job.title} was fitted on others. Report this."
        )

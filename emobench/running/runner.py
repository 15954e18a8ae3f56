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

from emobench.config.yaml import LoadedConfig
from emobench.corpora.location import store_folder
from emobench.errors import (
    AudioError,
    BundleError,
    ConfigError,
    DataError,
    HeldError,
    LeakageError,
    StorageError,
    listing,
)
from emobench.execution.workers import Crash, Pool, count_workers
from emobench.features import get_features
from emobench.features.shards import to_texts
from emobench.features.store import Extraction, FeatureStore, FeatureTable
from emobench.files import storage_errors, sweep
from emobench.prediction import latency
from emobench.reporter import Reporter
from emobench.running import journal, records
from emobench.running.datasets import open_dataset
from emobench.running.evaluation import Fitted, FoldResult, Job, Rows, evaluate, fit_everything
from emobench.running.experiment import Experiment, blank_table, unique
from emobench.running.planning import (
    check_apart,
    check_only,
    check_output,
    check_packages,
    check_writable,
    lack_of_room,
    load,
    result_bytes,
)

if TYPE_CHECKING:
    import pandas as pd


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
        Jobs.
    remarks : tuple of str
        What the person should know about the figures.
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
    config: str | os.PathLike[str] | Mapping[str, Any] | LoadedConfig,
    *,
    output: str | os.PathLike[str] = "results",
    n_jobs: int = -1,
    only: Sequence[str] = (),
    force: bool = False,
    retune: bool = False,
    dask: str | None = None,
    reporter: Reporter | None = None,
) -> Outcome:
    """Compare the models of a config and write ``<output>/<config>-<hash>/``.

    Run again, it continues with what is not finished; a job that failed is tried again.

    Parameters
    ----------
    config : path, mapping or LoadedConfig
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

    Raises
    ------
    ConfigError, DataError, StorageError
        Before anything is fitted, if the run cannot be honest or cannot be written.
    StorageError
        Also at the end, when everything else is kept, if a study is damaged.
    """
    reporter = reporter or Reporter()
    if dask:
        from emobench.execution import cluster

        cluster.check_address(dask)
    loaded = load(config)
    check_only(loaded, only)
    check_packages(loaded.config, only)
    n_workers = count_workers(n_jobs)
    experiment = Experiment(loaded, remarks=list(loaded.remarks))
    output = check_output(Path(output))
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(contextlib.ExitStack())
        pool = _lazy_pool(workers, n_workers, dask)
        _open_datasets(experiment, n_workers, output, reporter)
        check_writable(output)
        _extract(experiment, pool, output, reporter)
        experiment.split()
        folder = output / experiment.name
        stack.enter_context(_hold(folder))
        jobs, fits = experiment.jobs(), experiment.fits()
        chosen = {job.key for job in [*jobs, *fits] if not only or job.entry in only}
        afresh = {job.key for job in [*jobs, *fits] if job.key in chosen and (force or (retune and job.tuning))}
        if retune:
            _forget(folder, [job for job in [*jobs, *fits] if job.key in chosen and job.tuning])
        finished = journal.read_finished(folder, [job for job in jobs if job.key not in afresh])
        todo = unique([job for job in jobs if job.key in chosen - finished.keys()])
        fits = [job for job in fits if job.key in chosen]
        fits = [job for job in fits if job.key in afresh or not records.has_bundle(folder, experiment, job)]
        reporter.say(f"{len(todo)} jobs to run, {len(finished)} finished before, in {folder}")
        for remark in lack_of_room({output: result_bytes([*todo, *fits])}):
            reporter.warn(remark)
        n_reused = len(finished)
        fitted = _execute(experiment, folder, [*todo, *fits], finished, pool, reporter)
        latency.restore(folder)
        board = records.write_tables(experiment, folder, jobs, finished, is_changed=bool(todo or fits))
        failures = _save_bundles(experiment, folder, fitted, board)
        if loaded.config.latency:
            workers.close()  # nothing else may run beside what is timed
            board = _measure_latency(experiment, folder, jobs, finished, board, reporter)
        failures += [f"{job.title}: {finished[job.key].error}" for job in jobs if records.is_failed(finished, job)]
        failures += [f"{job.title}: tuning_failed (defaults taken)" for job in jobs if _tuning_failed(finished, job)]
        _check_storage(
            [(job, finished[job.key]) for job in todo if records.is_failed(finished, job)], fitted, reporter, failures
        )
        remarks = [*experiment.remarks, *(f"failed: {failure}" for failure in failures)]
        return Outcome(folder, board, len(todo), n_reused, len(failures), tuple(dict.fromkeys(remarks)))


def extract(
    config: str | os.PathLike[str] | Mapping[str, Any] | LoadedConfig,
    *,
    n_jobs: int = -1,
    dask: str | None = None,
    reporter: Reporter | None = None,
) -> list[ExtractedFeatures]:
    """Compute the features of a config that the store has not, and nothing else.

    Raises
    ------
    ConfigError, DataError, StorageError
        As `run` does before anything is fitted.
    """
    reporter = reporter or Reporter()
    if dask:
        from emobench.execution import cluster

        cluster.check_address(dask)
    loaded, n_workers = load(config), count_workers(n_jobs)
    experiment = Experiment(loaded, remarks=list(loaded.remarks))
    with contextlib.ExitStack() as stack:
        _open_datasets(experiment, n_workers, None, reporter)
        computed = _extract(experiment, _lazy_pool(stack, n_workers, dask), None, reporter)
    for remark in dict.fromkeys(experiment.remarks):
        reporter.warn(remark)
    return [
        ExtractedFeatures(
            corpus=corpus,
            features=name,
            feature_key=table.key,
            n_clips=len(table.utterances),
            n_computed=computed[corpus, name],
            n_excluded=len(experiment.dataset(corpus).excluded),
        )
        for (corpus, name), table in experiment.tables.items()
    ]


# --- corpora and features -------------------------------------------------------------------------------------------


def _open_datasets(experiment: Experiment, n_workers: int, output: Path | None, reporter: Reporter) -> None:
    names = []
    for corpus in experiment.config.corpora:
        dataset = open_dataset(corpus, experiment.loaded, n_jobs=n_workers, reporter=reporter)
        if dataset.name in names:
            raise ConfigError(f"corpora must be different. {dataset.name!r} would be used twice. Remove one.")
        names.append(dataset.name)
        for remark in dataset.remarks:
            reporter.warn(remark)
        experiment.remarks += dataset.remarks
        check_apart(output, dataset)
        experiment.datasets.append(dataset)
    experiment.check_folds()


def _extract(
    experiment: Experiment, pool: Callable[[], Pool], output: Path | None, reporter: Reporter
) -> dict[tuple[str, str], int]:
    """Fill the tables; a recording that fails in one feature set is out of all of them, or ends the run.

    Returns the number of clips that were not in the store, for each corpus and feature set.
    """
    store, config, before = FeatureStore(store_folder()), experiment.config, list(experiment.datasets)
    specs = [get_features(name) for name in config.features]
    extracted: dict[str, list[Extraction]] = {}
    faults: dict[str, list[AudioError]] = {dataset.name: list(dataset.excluded) for dataset in before}
    for dataset in before:
        clips = [(clip, dataset.path(u)) for clip, u in zip(dataset.clips, dataset.utterances, strict=True)]
        with reporter.track(f"features of {dataset.name}", len(clips)) as advance:
            extracted[dataset.name] = store.extract(
                specs, clips, policy=config.audio.policy, pool=pool, on_progress=lambda done, _, a=advance: a(done)
            )
        for found in extracted[dataset.name]:
            known = {fault.path for fault in faults[dataset.name]}
            faults[dataset.name] += [fault for fault in _all_paths(found.faults, clips) if fault.path not in known]
            experiment.remarks += [f"{path}: {found.warnings[clip]}" for clip, path in clips if clip in found.warnings]
        for repair in dict.fromkeys(repair for found in extracted[dataset.name] for repair in found.repairs):
            reporter.warn(repair)
    _decide_faults(experiment, faults, output, reporter)
    for dataset, was in zip(experiment.datasets, before, strict=True):
        kept = set(dataset.utterances)
        rows = np.flatnonzero([utterance in kept for utterance in was.utterances])
        for name, found in zip(config.features, extracted[dataset.name], strict=True):
            assert found.is_found[rows].all()
            experiment.tables[dataset.name, name] = replace(
                blank_table(dataset, name, config), X=found.X[rows], audio=to_texts(found.audio[rows])
            )
    return {
        (corpus, name): found.n_computed
        for corpus, everything in extracted.items()
        for name, found in zip(config.features, everything, strict=True)
    }


def _all_paths(faults: Sequence[AudioError], clips: Sequence[tuple[str, Path]]) -> list[AudioError]:
    """Return a fault for each path: a clip under several names is read once."""
    paths = defaultdict(list)
    for clip, path in clips:
        paths[clip].append(str(path))
    same = {path: group for group in paths.values() for path in group}
    return [AudioError(path, fault.reason) for fault in faults for path in same.get(fault.path, [fault.path])]


def _decide_faults(
    experiment: Experiment, faults: Mapping[str, Sequence[AudioError]], output: Path | None, reporter: Reporter
) -> None:
    every = [fault for corpus in faults.values() for fault in corpus]
    if not every:
        return
    if experiment.config.on_bad_audio == "fail":
        where = "`emobench data verify` lists all of them"
        if output is not None:
            path = output / experiment.name / "excluded.csv"
            records.write_excluded(path, faults)
            where = f"The full list is in {path}"
        raise DataError(
            f"Every recording must be usable. {len(every)} are not:\n"
            f"{listing([str(fault) for fault in sorted(every, key=str)])}\n"
            f"{where}. Repair or remove them, or set on_bad_audio: skip to leave them out."
        )
    already = {dataset.name: {fault.path for fault in dataset.excluded} for dataset in experiment.datasets}
    experiment.datasets = [
        dataset.without([fault for fault in faults[dataset.name] if fault.path not in already[dataset.name]])
        for dataset in experiment.datasets
    ]
    for dataset in experiment.datasets:
        if not dataset.utterances:
            raise DataError(f"Corpus {dataset.name!r} must have usable recordings. All are excluded. Repair them.")
    remark = f"{len(every)} recordings are excluded (on_bad_audio: skip); excluded.csv lists them"
    experiment.remarks.append(remark)
    reporter.warn(remark)


# --- jobs -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Hold a run's folder against a second emobench."""
    from filelock import FileLock, Timeout

    holder = folder / ".holder"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise HeldError(
                f"{folder}: must be free. It is held by {_read_holder(holder)}. Wait for that run, or end it."
            ) from None
    try:
        with storage_errors(folder):
            holder.write_text(f"process {os.getpid()} on host {socket.gethostname()}")
        sweep(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def _read_holder(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return "another run"


def _lazy_pool(stack: contextlib.ExitStack, n_workers: int, dask: str | None) -> Callable[[], Any]:
    """Return a function that starts the workers, or finds them, when something must be computed at all."""
    pools: list[Any] = []

    def pool() -> Any:
        if not pools:
            if dask:
                from emobench.execution.cluster import DaskPool

                pools.append(stack.enter_context(DaskPool(dask)))
            else:
                pools.append(stack.enter_context(Pool(n_workers)))
        return pools[0]

    return pool


def _execute(
    experiment: Experiment,
    folder: Path,
    work: Sequence[Job],
    finished: dict[str, FoldResult],
    pool: Callable[[], Any],
    reporter: Reporter,
) -> list[tuple[Job, Fitted]]:
    """Run jobs, the longest first, and write each result as it arrives; return what was fitted on everything."""
    fitted: list[tuple[Job, Fitted]] = []
    if not work:
        return fitted
    work = sorted(work, key=lambda job: -experiment.cost_s(job))
    rows = {key: _rows(table) for key, table in experiment.tables.items()}
    tasks = [(_with_study(job, folder), rows[job.corpus, job.features]) for job in work]
    limit_s = experiment.config.job_timeout_s
    limit = {} if limit_s is None else {"timeout_s": limit_s}
    with reporter.track("jobs", len(work)) as advance:
        for n_done, (position, outcome) in enumerate(pool().run(_perform, tasks, **limit), start=1):
            job = work[position]
            if not len(job.test):
                fitted.append((job, Fitted(None, error=str(outcome)) if isinstance(outcome, Crash) else outcome))
            elif isinstance(outcome, Crash):
                finished[job.key] = FoldResult(job.key, error=str(outcome))
            else:
                finished[job.key] = outcome
                if not outcome.error:
                    _check_fitted_rows(experiment, job, outcome)
                    journal.write_finished(folder, outcome)
            advance(n_done, job.title)
    return fitted


def _save_bundles(
    experiment: Experiment, folder: Path, fitted: Sequence[tuple[Job, Fitted]], board: pd.DataFrame
) -> list[str]:
    """Save what was fitted on everything; return the failures. A plug-in's class that is not on the list is none."""
    failures = []
    for item in fitted:
        try:
            failures += records.save_bundles(experiment, folder, [item], board)
        except BundleError as error:
            experiment.remarks.append(f"{item[0].title}: no bundle: {error}")
    return failures


def _measure_latency(
    experiment: Experiment,
    folder: Path,
    jobs: Sequence[Job],
    finished: Mapping[str, FoldResult],
    board: pd.DataFrame,
    reporter: Reporter,
) -> pd.DataFrame:
    """Measure every bundle that was not measured before; return the leaderboard with what came out."""
    assert experiment.config.latency is not None
    paths = records.saved_bundles(folder, experiment)
    n_missing = latency.count_missing(folder, paths, experiment.config.latency)
    if n_missing:
        reporter.say(f"{n_missing} models to measure, each in fresh processes")
    is_new, remarks = latency.measure_run(folder, paths, experiment.config.latency, reporter=reporter)
    experiment.remarks += remarks
    return records.write_tables(experiment, folder, jobs, finished) if is_new else board


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
    failures: Sequence[str],
) -> None:
    """Raise StorageError if a study is damaged; everything else is written by now."""
    damaged = [(job, result.error) for job, result in [*failed, *fitted] if result.is_damaged_storage]
    if not damaged:
        return
    for failure in failures:
        reporter.warn(f"failed: {failure}")
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


def _with_study(job: Job, folder: Path) -> Job:
    """Return a job that keeps its study in the run's folder."""
    if job.tuning is None:
        return job
    return replace(job, tuning=replace(job.tuning, study=str(_study_path(job, folder))))


def _study_path(job: Job, folder: Path) -> Path:
    assert job.tuning is not None
    return folder / "studies" / job.tuning.study


def _rows(table: FeatureTable) -> Rows:
    labels = table.labels()
    return Rows(table.X, table.y, len(table.classes), table.ids, labels.speakers, labels.sexes)


def _perform(job: Job, rows: Rows) -> FoldResult | Fitted:
    """Do one piece of work in a worker; one that does not see the run's folder keeps its study in memory."""
    if job.tuning and job.tuning.study and not Path(job.tuning.study).parents[1].is_dir():
        job = replace(job, tuning=replace(job.tuning, study=None))
    return evaluate(rows, job) if len(job.test) else fit_everything(rows, job)


def _check_fitted_rows(experiment: Experiment, job: Job, result: FoldResult) -> None:
    """Hold what reached `fit` in the worker against the certificate."""
    certificate = experiment.certificate(job.corpus, job.protocol)
    proof = next(proof for proof in certificate["folds"] if proof["fold"] == job.fold)
    inner = result.tuning["inner_folds"] if result.tuning else None
    if result.fitted_on != proof["train"] or (inner and inner != proof["inner"]["fingerprint"]):
        raise LeakageError(
            f"A model must be fitted on the certified training rows. {job.title} was fitted on others. Report this."
        )

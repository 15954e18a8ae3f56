"""What a config comes to before anything is computed: its jobs, their cost, and what would stand in their way."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from emobench import models
from emobench.config.schema import RunConfig
from emobench.config.yaml import load_config
from emobench.corpora.location import cache_folder, store_folder
from emobench.errors import ConfigError, UnknownNameError, did_you_mean
from emobench.execution.workers import WORKER_BYTES, count_workers
from emobench.features import feature_key
from emobench.features.store import FeatureStore
from emobench.files import require_space
from emobench.prediction import latency
from emobench.registry import Plugins, using
from emobench.reporter import Reporter
from emobench.running import journal, records, robustness, transport
from emobench.running.datasets import computed
from emobench.running.evaluation import FoldResult, Job
from emobench.running.experiment import Experiment, count_fits, list_entries, prepare, unique
from emobench.statistics import description

# Measured on two cores in 2026, for estimates only.
_EXTRACTION_S = 0.006
_STRESS_S = 0.006  # to change a recording of 4 s at 48 kHz; MP3 takes three times as long
_SYNTHESIS_S = 0.012
_START_S = 5.0
_SHORTEST_FIT_S = 0.002
_CALIBRATION_S = 0.012  # what `_calibrate` takes where `ModelSpec.cost` was measured
_SYNTHETIC_BYTES = 100_000  # a recording of the synthetic corpus
_CLIP_BYTES = 200  # besides its vector
_PREDICTION_BYTES = 200  # in the finished job and in two tables
_STUDY_BYTES = 120_000
_BUNDLE_BYTES = 500_000
_LONG_STATISTICS_S = 10
_LARGE_TABLE_BYTES = 500_000_000


@dataclass(frozen=True)
class Plan:
    """What a config comes to: its jobs, and what they will roughly cost.

    Attributes
    ----------
    jobs : tuple of Job
    estimate_s : float
        Wall-clock seconds for what is not finished, from the times of finished jobs where there are some.
    n_workers : int
    worker_bytes : int
        Memory that each worker takes, roughly.
    disk_bytes : int
        What features, results and a generated corpus will take on the disk, roughly.
    n_to_stress : int
        Stressed versions of recordings whose features are not in the store.
    """

    run: str
    jobs: tuple[Job, ...]
    finished: frozenset[str]
    n_to_extract: int
    estimate_s: float
    remarks: tuple[str, ...]
    n_workers: int = 1
    worker_bytes: int = WORKER_BYTES
    disk_bytes: int = 0
    n_to_stress: int = 0


def plan(
    config: str | os.PathLike[str] | Mapping[str, Any] | RunConfig,
    *,
    output: str | os.PathLike[str] = "results",
    n_jobs: int = -1,
    only: Sequence[str] = (),
    plugins: Plugins = (),
) -> Plan:
    """Return the jobs of a config and what they will cost; nothing is computed or written.

    Checks what can be checked without reading audio: names, labels, folds, classes. The arguments are those of `run`.
    """
    with using(plugins):
        return _plan(load_config(config), Path(output), n_jobs, only)


def _plan(config: RunConfig, output: Path, n_jobs: int, only: Sequence[str]) -> Plan:
    check_only(config, only)
    check_packages(config, only)
    output = check_output(output)
    experiment = prepare(config, reporter=Reporter(), output=output)
    store = FeatureStore(store_folder())
    keys = [feature_key(spec, mono=config.audio.mono) for spec in computed(experiment.features.values())]
    to_make = [dataset for dataset in experiment.datasets if dataset.root is None]  # their clips are not known yet
    made = [dataset for dataset in experiment.datasets if dataset.root is not None]
    n_to_make = sum(len(dataset.utterances) for dataset in to_make)
    n_to_extract = n_to_make + sum(store.count_missing(keys, dataset.clips) for dataset in made)
    n_to_stress = robustness.count_missing(experiment)
    jobs = [job for job in unique([*experiment.jobs(), *experiment.fits()]) if not only or job.entry in only]
    folder = output / experiment.name
    results_before = journal.read_finished(folder, jobs)
    finished = {*results_before, *_saved_keys(folder, experiment, jobs)}
    todo = [job for job in jobs if job.key not in finished]
    n_workers = count_workers(n_jobs)
    preparation_s = n_to_extract * _EXTRACTION_S + n_to_make * _SYNTHESIS_S
    preparation_s += n_to_stress * (_STRESS_S + _EXTRACTION_S * len(keys))
    estimate_s = preparation_s / n_workers + estimate(experiment, jobs, results_before, todo, n_workers=n_workers)
    needs = {
        output: result_bytes(todo) + mapped_bytes(experiment),
        store.root: (n_to_extract + n_to_stress) * _vector_bytes(experiment),
        **({cache_folder(): n_to_make * _SYNTHETIC_BYTES} if n_to_make else {}),
    }
    if config.latency:
        paths = records.saved_bundles(folder, experiment)
        n_to_measure = latency.count_missing(folder, paths, config.latency) + sum(not len(j.test) for j in todo)
        estimate_s += latency.estimate_s(config.latency, n_to_measure)
    return Plan(
        run=experiment.name,
        jobs=tuple(jobs),
        finished=frozenset(finished),
        n_to_extract=n_to_extract,
        estimate_s=_START_S + estimate_s if estimate_s else 0.0,
        remarks=tuple(
            dict.fromkeys(
                [*experiment.remarks, *require_space(needs), *_large_tables(experiment), *_statistics(experiment, jobs)]
            )
        ),
        n_workers=n_workers,
        disk_bytes=sum(needs.values()),
        n_to_stress=n_to_stress,
    )


def estimate(
    experiment: Experiment,
    jobs: Sequence[Job],
    finished: Mapping[str, FoldResult],
    todo: Sequence[Job],
    *,
    n_workers: int,
) -> float:
    """Estimate the wall-clock seconds of jobs from the times of finished ones of the same entry.

    Where an entry has none, those of its model count, tuned or not, and else what the registry says, in proportion to a
    short fit on this machine. The longest jobs start first, so that the last ones are short.
    """
    ratios: dict[tuple[str, ...], list[float]] = defaultdict(list)
    shortest_fit_s = _SHORTEST_FIT_S
    for job in jobs:
        if job.key in finished and not finished[job.key].error:
            result = finished[job.key]
            seconds = result.fit_s + result.predict_s + (result.tuning["tuning_s"] if result.tuning else 0.0)
            shortest_fit_s = min(shortest_fit_s, result.fit_s)
            for group in ((job.corpus, job.features, job.entry), (job.model,)):
                ratios[group].append(seconds / experiment.cost_s(job))
    typical = {group: median(values) for group, values in ratios.items()}
    timed = [typical.get((job.corpus, job.features, job.entry)) or typical.get((job.model,)) for job in todo]
    calibration = _calibrate() if not all(timed) else 0.0
    costs = [
        max(experiment.cost_s(job) * (known or calibration), count_fits(job) * shortest_fit_s)
        for job, known in zip(todo, timed, strict=True)
    ]
    return max(sum(costs) / n_workers, max(costs, default=0.0))


def _calibrate() -> float:
    """Return this machine's seconds in proportion to those of `ModelSpec.cost`, from a fifth of a second of algebra."""
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((800, 256), dtype=np.float32), rng.standard_normal((256, 128), dtype=np.float32)
    times_s = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(8):
            np.tanh(X @ W).T @ X
        times_s.append(time.perf_counter() - started)
    return float(np.clip(min(times_s) / _CALIBRATION_S, 0.1, 10.0))


def _saved_keys(folder: Path, experiment: Experiment, jobs: Sequence[Job]) -> set[str]:
    return {job.key for job in jobs if not len(job.test) and records.has_bundle(folder, experiment, job)}


def _statistics(experiment: Experiment, jobs: Sequence[Job]) -> Iterator[str]:
    """Yield a line for each corpus whose statistics will take a while after the last job."""
    for dataset in experiment.datasets:
        entries = defaultdict(set)  # of each board
        for job in jobs:
            if job.corpus == dataset.name and len(job.test):
                entries[job.features, job.protocol].add(job.entry)
        sizes = {"n_classes": len(dataset.classes), "n_repeats": experiment.config.repeats}
        costs = [
            description.cost(dataset.n_speakers, len(dataset.utterances), n_entries=len(names), **sizes)
            for names in entries.values()
        ]
        if (seconds := sum(cost[0] for cost in costs)) >= _LONG_STATISTICS_S:
            yield (
                f"{dataset.name}: after the last job, statistics of {dataset.n_speakers} speakers take about "
                f"{seconds:.0f} s and {max(cost[1] for cost in costs) / 1e9:.1f} GB"
            )


def _large_tables(experiment: Experiment) -> Iterator[str]:
    """Yield a line for each table of features that takes much memory, here and in workers."""
    for (corpus, features), n_bytes in _table_bytes(experiment).items():
        if n_bytes >= _LARGE_TABLE_BYTES:
            yield (
                f"{corpus} · {features}: the features take {n_bytes / 1e9:.1f} GB of disk, twice that in memory while "
                "they are loaded, and in each worker at least what its job trains on"
            )


def _table_bytes(experiment: Experiment) -> dict[tuple[str, str], int]:
    return {
        (dataset.name, name): 4 * spec.n_features * len(dataset.utterances)
        for dataset in experiment.datasets
        for name, spec in experiment.features.items()
    }


def mapped_bytes(experiment: Experiment) -> int:
    """Return what the files that workers map into memory take while jobs run."""
    return sum(n_bytes for n_bytes in _table_bytes(experiment).values() if n_bytes > transport.SMALL_BYTES)


def _vector_bytes(experiment: Experiment) -> int:
    return sum(4 * spec.n_features + _CLIP_BYTES for spec in computed(experiment.features.values()))


def result_bytes(jobs: Sequence[Job]) -> int:
    """Return roughly what finished jobs, tables, studies and bundles will take."""
    n_predictions = sum(len(job.test) for job in jobs)
    n_studies = sum(job.tuning is not None for job in jobs)
    n_bundles = sum(not len(job.test) for job in jobs)
    return n_predictions * _PREDICTION_BYTES + n_studies * _STUDY_BYTES + n_bundles * _BUNDLE_BYTES


# --- what every command that reads a config checks first --------------------------------------------------------------


def check_dask(address: str | None) -> None:
    """Refuse an address of a Dask cluster that cannot be one, before any work."""
    if address:
        from emobench.execution import cluster

        cluster.check_address(address)


def check_only(config: RunConfig, only: Sequence[str]) -> None:
    """Refuse an ``--only`` that names no entry of the config."""
    entries = [entry.name for entry in list_entries(config)]
    for entry in only:
        if entry not in entries:
            raise UnknownNameError(
                f"--only must name an entry of the config. Got {entry!r}.{did_you_mean(entry, entries)} "
                f"Entries: {', '.join(entries)}."
            )


def check_packages(config: RunConfig, only: Sequence[str]) -> None:
    """Refuse models whose packages are not installed, hours before they would be needed."""
    for model in config.models:
        missing = models.missing_packages(models.get_model(model.name), model.params)
        if missing and (not only or {model.entry, f"{model.entry}-tuned"} & set(only)):
            raise ConfigError(
                f"Model {model.name!r} must have its packages installed. Missing: {', '.join(missing)}. "
                "Install emobench again with `pip install emobench`, or leave the model out."
            )


def check_output(output: Path) -> Path:
    """Return the output folder, resolved, or refuse one that cannot hold results."""
    output = output.expanduser().resolve()
    store = store_folder()
    if output == store or store in output.parents:
        raise ConfigError(f"--output must not be in the feature store. Got {output}. Choose another folder.")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output must be a folder. {output} is a file. Choose another name.")
    return output

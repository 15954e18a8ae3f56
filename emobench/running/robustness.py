"""Stressed recordings: of another corpus for a saved model, of each test part for the models of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emobench.bundles.storage import Bundle
from emobench.config.schema import CorpusConfig
from emobench.corpora.location import store_folder
from emobench.errors import DataError
from emobench.execution.workers import Pool, count_workers
from emobench.features import MEAN_F0, FeatureSpec
from emobench.features.copies import Original, copies_of
from emobench.features.store import Extraction, FeatureStore
from emobench.files import PART, storage_errors
from emobench.prediction.predictor import Predictor
from emobench.prediction.stress import Asker, Subject
from emobench.reporter import Reporter
from emobench.reports import stress as report
from emobench.running.datasets import Dataset, open_dataset
from emobench.running.evaluation import FoldResult, Job, StressPlan
from emobench.running.experiment import Experiment
from emobench.stresses import Change, all_changes, get_stress


@dataclass(frozen=True)
class Robustness:
    """What was asked and answered.

    Attributes
    ----------
    answers : DataFrame with the columns `emobench.reports.stress.ANSWERS`
    subject : Subject
        The recordings that could be used.
    remarks : tuple of str
    """

    predictor: Predictor
    answers: pd.DataFrame
    subject: Subject
    changes: tuple[Change, ...]
    remarks: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Figures and verdicts: what ``stress.csv`` holds."""
        [corpus] = self.answers["corpus"].unique()
        return report.describe(self.answers, {corpus: self.predictor.classes}, thresholds_of(self.changes))


def stress_bundle(
    bundle: Bundle,
    corpus: CorpusConfig,
    *,
    stresses: Mapping[str, Sequence[float]],
    seed: int = 0,
    n_jobs: int = -1,
    reporter: Reporter | None = None,
) -> Robustness:
    """Ask a saved model about the recordings of a corpus, as they are and stressed.

    Vectors of stressed recordings are kept in the feature store, so that the same call continues what was stopped.

    Parameters
    ----------
    stresses : mapping of str to levels
        Without levels, those of the row.

    Raises
    ------
    BundleError
        If the model's features are not computed here.
    DataError
        If the model was trained on one of the recordings, or knows fewer than two of their emotions.
    """
    reporter, n_workers = reporter or Reporter(), count_workers(n_jobs)
    predictor = Predictor(bundle)
    changes = all_changes(stresses, seed=seed)
    for change in changes:
        get_stress(change.stress).check_targets()
    dataset = open_dataset(corpus, n_jobs=n_workers, reporter=reporter)
    subject, remarks = _subject(dataset, predictor)
    with ExitStack() as stack:
        pools: list[Pool] = []

        def pool() -> Pool:
            if not pools:
                pools.append(stack.enter_context(Pool(n_workers)))
            return pools[0]

        asker = Asker(predictor, FeatureStore(store_folder()), pool, reporter)
        subject, clean, faults = asker.listen(subject)
        parts = [clean]
        for number, change in enumerate(changes, start=1):
            level = get_stress(change.stress).describe(change.level)
            parts.append(asker.ask(subject, change, f"{number} of {len(changes)}: {change.stress} {level}"))
    if faults:
        remarks.append(f"{len(faults)} recordings cannot be used and are left out: {faults[0]}")
    about = {"corpus": dataset.name, "features": predictor.spec.name, "protocol": "", "entry": predictor.entry}
    answers = pd.concat(parts, ignore_index=True).assign(**about, repeat=0, fold=0)[list(report.ANSWERS)]
    return Robustness(predictor, answers, subject, tuple(changes), (*dataset.remarks, *remarks))


# --- in a run ---------------------------------------------------------------------------------------------------------


class Stressed:
    """The features of a run's stressed recordings, in files that workers of this machine map into memory.

    Use it as a context manager; the files are removed in the end.

    Parameters
    ----------
    folder : Path
        Of the run.
    """

    def __init__(self, experiment: Experiment, folder: Path, pool: Callable[[], Any], reporter: Reporter):
        self.experiment, self.folder, self.pool, self.reporter = experiment, folder, pool, reporter
        self._paths: dict[tuple[str, str], Path] = {}

    def __enter__(self) -> Stressed:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._paths.values():
            for part in (path, Path(StressPlan((), str(path)).spans_path)):
                with suppress(OSError):  # Windows keeps a file that a worker has open; the next run removes it
                    part.unlink()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Extract what the models of some jobs are asked about, and write it to files.

        Raises
        ------
        DataError
            If babble is asked for, and a corpus has too few speakers.
        StorageError
            If a file cannot be written.
        """
        asked = {(job.corpus, job.features): None for job in jobs if job.stress}
        by_corpus = {corpus: [name for other, name in asked if other == corpus] for corpus, _ in asked}
        for corpus, names in by_corpus.items():
            dataset, specs = self.experiment.dataset(corpus), [self.experiment.features[name] for name in names]
            spans: dict[str, list[np.ndarray]] = {spec.name: [] for spec in specs}
            n_rows = dict.fromkeys(spans, 0)
            for spec in specs:
                self._paths[corpus, spec.name] = self.folder / f".stress-{len(self._paths)}{PART}"
            for number, change in enumerate(self.experiment.changes, start=1):
                title = f"{corpus}, {number} of {len(self.experiment.changes)}: {change.stress} {change.level:g}"
                found = extract_copies(dataset, specs, change, self.experiment, self.pool, self.reporter, title)
                for spec, part in zip(specs, found, strict=True):
                    rows, of_clips = _compact(part)
                    with storage_errors(self.folder), open(self._paths[corpus, spec.name], "ab") as file:
                        file.write(np.ascontiguousarray(rows, dtype=np.float32).data)
                    spans[spec.name].append(of_clips + n_rows[spec.name])
                    n_rows[spec.name] += len(rows)
            for spec in specs:
                path = StressPlan((), str(self._paths[corpus, spec.name])).spans_path
                with storage_errors(self.folder), open(path, "wb") as file:
                    np.save(file, np.stack(spans[spec.name]))

    def plan(self, job: Job) -> Job:
        """Return a job that knows where its stressed recordings are."""
        if job.stress is None:
            return job
        return replace(job, stress=replace(job.stress, path=str(self._paths[job.corpus, job.features])))


def _compact(found: Extraction) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that were found, and the span of each clip in them; an empty one where there are none."""
    if found.spans is not None:
        return found.X, np.where(found.is_found[:, None], found.spans, 0)
    ends = np.cumsum(found.is_found)
    return found.X[found.is_found], np.column_stack([ends - found.is_found, ends])


def extract_copies(
    dataset: Dataset,
    specs: Sequence[FeatureSpec],
    change: Change,
    experiment: Experiment,
    pool: Callable[[], Any],
    reporter: Reporter,
    title: str,
) -> list[Extraction]:
    """Return the features of a dataset's recordings under a change, from the store where it has them."""
    copies = copies_of(originals_of(dataset), change)
    with reporter.track(title, len(copies)) as advance:
        return FeatureStore(store_folder()).extract(
            specs,
            [(copy.clip, copy) for copy in copies],
            policy=experiment.config.audio.policy,
            pool=pool,
            on_progress=lambda n_done, n_all: advance(len(copies) - n_all + n_done),
        )


def count_missing(experiment: Experiment) -> int:
    """Return how many stressed recordings lack features in the store; all of a corpus that is not there yet."""
    store, n_missing = FeatureStore(store_folder()), 0
    keys = [experiment.feature_keys[name] for name, spec in experiment.features.items() if not spec.is_read]
    for dataset in experiment.datasets if experiment.changes else ():
        if dataset.root is None:
            n_missing += len(dataset.utterances) * len(experiment.changes)
            continue
        originals = originals_of(dataset)
        clips = [copy.clip for change in experiment.changes for copy in copies_of(originals, change)]
        n_missing += store.count_missing(keys, clips)
    return n_missing


def answers_of(
    experiment: Experiment, jobs: Sequence[Job], finished: Mapping[str, FoldResult], pool: Callable[[], Any]
) -> pd.DataFrame:
    """Return what the models of finished jobs answered to recordings as they are and stressed."""
    parts = []
    f0_hz = {dataset.name: _mean_f0(dataset, experiment, pool) for dataset in experiment.datasets}
    for job in jobs:
        result = finished.get(job.key)
        if job.stress is None or result is None or result.error or not job.is_answered_by(result):
            continue
        assert result.stressed is not None
        dataset = experiment.dataset(job.corpus)
        labels = np.array([*dataset.classes, ""], dtype=object)
        chosen = [dataset.utterances[row] for row in job.test]
        about = pd.DataFrame(
            {
                **{name: getattr(job, name) for name in ("corpus", "features", "protocol", "entry", "repeat", "fold")},
                "utterance": [utterance.id for utterance in chosen],
                "speaker": [utterance.speaker for utterance in chosen],
                "sex": [utterance.sex for utterance in chosen],
                "f0_hz": f0_hz[job.corpus][job.test],
                "y_true": [utterance.emotion for utterance in chosen],
                "confidence": np.nan,
            }
        )
        parts.append(about.assign(stress=report.CLEAN, level=np.nan, y_pred=labels[result.y_pred], error=""))
        for change in experiment.changes:
            codes = np.array(result.stressed[change.key])
            error = np.where(codes < 0, "its features cannot be computed", "")
            parts.append(about.assign(stress=change.stress, level=change.level, y_pred=labels[codes], error=error))
    return pd.concat(parts, ignore_index=True)[list(report.ANSWERS)] if parts else pd.DataFrame(columns=report.ANSWERS)


def _mean_f0(dataset: Dataset, experiment: Experiment, pool: Callable[[], Any]) -> np.ndarray:
    clips = [(original.clip, original.path) for original in originals_of(dataset)]
    [found] = FeatureStore(store_folder()).extract([MEAN_F0], clips, policy=experiment.config.audio.policy, pool=pool)
    return np.where(found.is_found, found.X[:, 0], np.nan)


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """Return what ``run.json`` holds of the thresholds, so that verdicts follow from it."""
    asked = experiment.config.stress
    assert asked is not None
    thresholds = [
        {"stress": change.stress, "level": change.level, **asked.thresholds_at(change.stress, change.level)}
        for change in experiment.changes
    ]
    return {"thresholds": thresholds, "sex_gap": asked.sex_gap}


# --- both -------------------------------------------------------------------------------------------------------------


def originals_of(dataset: Dataset) -> tuple[Original, ...]:
    """Return the recordings of a dataset, of which copies are made."""
    return tuple(
        Original(clip, dataset.path(utterance), utterance.speaker)
        for clip, utterance in zip(dataset.clips, dataset.utterances, strict=True)
    )


def thresholds_of(changes: Sequence[Change]) -> dict[tuple[str, float], Mapping[str, float]]:
    """Return what the rows of stresses ask for, by stress and level."""
    return {(one.stress, one.level): get_stress(one.stress).thresholds_at(one.level) for one in changes}


def _subject(dataset: Dataset, predictor: Predictor) -> tuple[Subject, list[str]]:
    """Return the recordings of emotions that the model knows, and remarks on the others."""
    labels = np.array([utterance.emotion for utterance in dataset.utterances])
    rows = np.flatnonzero(np.isin(labels, predictor.classes))
    known = sorted(set(labels[rows]))
    if len(known) < 2:
        raise DataError(
            f"{dataset.name}: must have at least two of the emotions that {predictor.entry} knows "
            f"({', '.join(predictor.classes)}). It has {', '.join(known) or 'none'}. Choose another corpus."
        )
    remarks = []
    if left := Counter(labels) - Counter(labels[rows]):
        counts = ", ".join(f"{label} {count}" for label, count in sorted(left.items()))
        remarks.append(f"{dataset.name}: left out what {predictor.entry} does not know: {counts}")
    if absent := sorted(set(predictor.classes) - set(known)):
        remarks.append(f"{dataset.name}: has no {', '.join(absent)}, so UAR is over {len(known)} emotions")
    chosen = dataset.take(rows.tolist())
    about: dict[str, Any] = {
        "utterance": chosen.labels.ids,
        "speaker": chosen.labels.speakers,
        "sex": chosen.labels.sexes,
        "y_true": labels[rows],
    }
    return Subject(originals_of(chosen), pd.DataFrame(about)), remarks

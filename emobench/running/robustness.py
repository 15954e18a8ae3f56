"""A saved model, asked about stressed recordings of a corpus that it was not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
from emobench.features.copies import Original
from emobench.features.store import FeatureStore
from emobench.prediction.predictor import Predictor
from emobench.prediction.stress import Asker, Subject
from emobench.reporter import Reporter
from emobench.reports import stress as report
from emobench.running.datasets import Dataset, open_dataset
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
    originals = tuple(
        Original(clip, Path(chosen.path(utterance)), utterance.speaker)
        for clip, utterance in zip(chosen.clips, chosen.utterances, strict=True)
    )
    return Subject(originals, pd.DataFrame(about)), remarks

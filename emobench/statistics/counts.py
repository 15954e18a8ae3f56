"""What is counted once per entry, speaker and repeat, and the scores that follow for any weights of the speakers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from emobench.corpora.labels import fit_encoder
from emobench.errors import DataError
from emobench.metrics import (
    NO_PROBABILITIES,
    MetricError,
    MetricSpec,
    by_weights,
    evaluate,
    get_metric,
    losses_of,
    ratio,
    why_nan,
)
from emobench.protocols.certificate import rows_fingerprint

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Counts:
    """All that a score needs to know of one entry's predictions.

    Attributes
    ----------
    speakers : tuple of str
        Sorted.
    tables : int array of shape (n_repeats, n_speakers, n_classes, n_classes)
        Utterances by (true, predicted) class.
    utterances : str
        Fingerprint of the utterances, empty where they were not given.
    classes : tuple of str
        For ``recall_<class>``; empty where they were not given.
    answers : Answers, optional
        Utterance by utterance; None for a model without probabilities.
    """

    speakers: tuple[str, ...]
    tables: np.ndarray
    utterances: str = ""
    classes: tuple[str, ...] = ()
    answers: Answers | None = None

    @property
    def n_utterances(self) -> int:
        """Return the number of utterances of a repeat."""
        return int(self.tables.sum()) // len(self.tables)


@dataclass(frozen=True)
class Answers:
    """Probabilities of n utterances, in all repeats.

    Attributes
    ----------
    y_true, repeat, speaker, fold : int arrays of shape (n,)
        Codes; positions among the repeats and in `Counts.speakers`; numbers of folds.
    proba : array of shape (n, n_classes)
    """

    y_true: np.ndarray
    repeat: np.ndarray
    speaker: np.ndarray
    fold: np.ndarray
    proba: np.ndarray

    def folds(self) -> list[np.ndarray]:
        """Return the rows of each fold of each repeat: those of one model."""
        _, cell = np.unique(np.column_stack([self.repeat, self.fold]), axis=0, return_inverse=True)
        order = np.argsort(cell.ravel(), kind="stable")
        return np.split(order, np.bincount(cell.ravel()).cumsum()[:-1])


def count(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    speakers: Sequence[str],
    n_classes: int,
    *,
    repeats: Sequence[int] | None = None,
    utterances: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    proba: np.ndarray | None = None,
    folds: Sequence[int] | None = None,
) -> Counts:
    """Count one entry's predictions by speaker, repeat, true and predicted class.

    Parameters
    ----------
    y_true, y_pred : int arrays of shape (n,)
        Codes of the declared classes.
    speakers : sequence of n str
    n_classes : int
    repeats : sequence of n int, optional
        One repeat by default.
    utterances : sequence of n str, optional
        Ids. With them, `difference` can prove that it compares like with like.
    classes : sequence of n_classes str, optional
        Their names, for the recall of each.
    proba : array of shape (n, n_classes), optional
        None for a model without probabilities.
    folds : sequence of n int, optional
        Which model gave each probability, for metrics of predictions. One fold by default.

    Raises
    ------
    DataError
        If there is nothing to count, or a code is not of a declared class.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if not len(y_true):
        raise DataError("A score must have predictions. Got none. Run the entry first.")
    if min(y_true.min(), y_pred.min()) < 0 or max(y_true.max(), y_pred.max()) >= n_classes:
        raise DataError(
            f"Labels must be codes of the {n_classes} declared classes. Got {min(y_true.min(), y_pred.min())} to "
            f"{max(y_true.max(), y_pred.max())}. Declare every emotion that occurs."
        )
    names, speaker = np.unique(np.asarray(speakers, dtype=object), return_inverse=True)
    numbers, repeat = np.unique(np.zeros(len(y_true), int) if repeats is None else repeats, return_inverse=True)
    shape = (len(numbers), len(names), n_classes, n_classes)
    cells = np.ravel_multi_index((repeat, speaker, y_true, y_pred), shape)
    tables = np.bincount(cells, minlength=math.prod(shape)).reshape(shape)
    fingerprint = "" if utterances is None else rows_fingerprint(utterances, np.arange(len(y_true)))
    counts = Counts(tuple(map(str, names)), tables, fingerprint, tuple(classes))
    if proba is None:
        return counts
    fold = np.zeros(len(y_true), int) if folds is None else np.asarray(folds)
    return replace(counts, answers=Answers(y_true, repeat, speaker, fold, np.asarray(proba)))


def count_entries(part: pd.DataFrame, classes: Sequence[str]) -> dict[str, Counts]:
    """Count the complete entries of one board (a corpus, feature set and protocol of the table of predictions)."""
    whole = part.groupby("entry", observed=True).size().max()
    return {
        str(name): count_rows(cells, classes)
        for name, cells in part.groupby("entry", sort=False, observed=True)
        if len(cells) == whole
    }


def count_rows(rows: pd.DataFrame, classes: Sequence[str]) -> Counts:
    """Count one entry's rows of the table of predictions.

    Raises
    ------
    DataError
        If a label is not of the declared classes.
    """
    encoder = fit_encoder(classes)
    try:
        y_true, y_pred = (encoder.transform(rows[name]) for name in ("y_true", "y_pred"))
    except ValueError:
        strange = sorted({*rows["y_true"], *rows["y_pred"]} - {*classes})
        raise DataError(
            f"labels {', '.join(map(repr, strange))} are not of the declared classes {', '.join(classes)}. "
            "Declare every emotion that occurs."
        ) from None
    return count(
        y_true,
        y_pred,
        rows["speaker"].to_numpy(),
        len(classes),
        repeats=rows["repeat"].to_numpy(),
        utterances=rows["utterance"].tolist(),
        classes=tuple(map(str, encoder.classes_)),
        proba=_probabilities(rows, encoder.classes_),
        folds=rows["fold"].to_numpy(),
    )


def _probabilities(rows: pd.DataFrame, classes: Sequence[str]) -> np.ndarray | None:
    """Return an entry's probabilities, None where it gives none."""
    columns = [f"p_{label}" for label in classes]
    if not set(columns) <= set(rows.columns):
        return None
    proba = rows[columns].to_numpy(dtype=float)
    return None if np.isnan(proba).any() else proba


# --- scores ---------------------------------------------------------------------------------------------------------


def row_of(counts: Counts, metric: str | MetricSpec) -> MetricSpec:
    """Return the row of a metric by its name, which may be ``recall_<class>``."""
    return metric if isinstance(metric, MetricSpec) else get_metric(metric, counts.classes)


def score(counts: Counts, metric: str | MetricSpec = "uar") -> float:
    """Return the score of the pooled predictions of a repeat, averaged over repeats: what the leaderboard shows."""
    return float(score_resamples(counts, metric, np.ones((1, len(counts.speakers))))[0])


def score_resamples(counts: Counts, metric: str | MetricSpec, weights: np.ndarray) -> np.ndarray:
    """Score resamples of speakers.

    Parameters
    ----------
    metric : str or MetricSpec
        A row of `METRICS`, or ``recall_<class>``.
    weights : array of shape (n_resamples, n_speakers)
        How often each speaker is in the resample.

    Returns
    -------
    array of shape (n_resamples,)
        NaN where a resample lacks a class.
    """
    return Scorer(counts, [row_of(counts, metric)])(weights)[0].mean(axis=-1)


def score_speakers(counts: Counts, metric: str | MetricSpec) -> np.ndarray:
    """Return the score of each speaker alone, averaged over repeats: shape (n_speakers,), NaN for predictions."""
    row = row_of(counts, metric)
    try:
        return score_sums(row, sums_of(counts, row)).mean(axis=0)
    except MetricError:
        return np.full(len(counts.speakers), np.nan)


class Scorer:
    """The scores of one entry as a function of how often each speaker counts.

    Parameters
    ----------
    counts : Counts
    rows : sequence of MetricSpec

    Attributes
    ----------
    problems : dict of str to str
        Why a metric has no values, by its name.
    """

    def __init__(self, counts: Counts, rows: Sequence[MetricSpec]):
        self.rows, self.problems = rows, {}
        self._n_repeats = len(counts.tables)
        self._tables = pooling(counts.tables)
        self._of_row: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        for row in rows:
            try:
                if row.of == "losses":
                    self._of_row[row.name] = pooling(sums_of(counts, row))
                elif row.of == "predictions":
                    self._of_row[row.name] = _fold_scorer(counts, row)
            except MetricError as error:
                self.problems[row.name] = str(error)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Return the scores: (n_resamples, n_speakers) → (n_rows, n_resamples, n_repeats)."""
        scores = np.full((len(self.rows), len(weights), self._n_repeats), np.nan)
        tables = self._tables(weights) if any(row.of == "tables" for row in self.rows) else None
        for place, row in enumerate(self.rows):
            if row.name in self.problems:
                continue
            try:
                found = self._of_row[row.name](weights) if tables is None or row.of != "tables" else tables
                scores[place] = found if row.of == "predictions" else score_sums(row, found)
            except MetricError as error:
                self.problems[row.name] = str(error)
        return scores


def sums_of(counts: Counts, row: MetricSpec) -> np.ndarray:
    """Return what a metric of tables or losses adds up over speakers.

    Returns
    -------
    array of shape (n_repeats, n_speakers, …)
        Confusion tables; or the m sums of losses and, behind them, the number of utterances.

    Raises
    ------
    MetricError
        If there are no such sums.
    """
    if row.of == "tables":
        return counts.tables
    if row.of == "predictions":
        raise MetricError(f"{row.name} is not of sums over speakers")
    if counts.answers is None:
        raise MetricError(NO_PROBABILITIES)
    losses, shape = losses_of(row, counts.answers.y_true, counts.answers.proba), counts.tables.shape[:2]
    cells = counts.answers.repeat * shape[1] + counts.answers.speaker
    sums = [np.bincount(cells, column, minlength=math.prod(shape)).reshape(shape) for column in losses.T]
    return np.stack([*sums, counts.tables.sum(axis=(2, 3))], axis=-1)


def score_sums(row: MetricSpec, sums: np.ndarray) -> np.ndarray:
    """Score what `sums_of` adds up, its last axes taken together."""
    if row.of == "tables":
        return evaluate(row, sums, shape=sums.shape[:-2])
    return evaluate(row, sums[..., :-1], sums[..., -1], shape=sums.shape[:-1])


def pooling(sums: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that adds up sums over weighted speakers, (r, n_speakers) → (r, n_repeats, …)."""
    n_repeats, n_speakers, *rest = sums.shape
    flat = np.moveaxis(sums, 1, 0).reshape(n_speakers, -1).astype(float)
    return lambda weights: (np.asarray(weights, dtype=float) @ flat).reshape(-1, n_repeats, *rest)


def _fold_scorer(counts: Counts, row: MetricSpec) -> Callable[[np.ndarray], np.ndarray]:
    """Return a metric of predictions as a function of weights, (r, n_speakers) → (r, n_repeats).

    A resample's fold counts as much as the share of its utterances that was drawn: all folds equally in what is
    observed, each fold as often as its speaker was drawn where that is one. A fold of which nobody was drawn, or whose
    draw has no score, is left out of the resample; if one has no score from the start, the metric has none.
    """
    answers, folds, is_defined = counts.answers, [], True
    if answers is None:
        raise MetricError(NO_PROBABILITIES)
    for rows in answers.folds():
        members, speaker = np.unique(answers.speaker[rows], return_inverse=True)
        weighted = by_weights(row, answers.y_true[rows], answers.proba[rows], speaker)
        is_defined &= not np.isnan(evaluate(weighted, np.ones((1, len(members))), shape=(1,))).any()
        folds.append((answers.repeat[rows[0]], members, np.bincount(speaker).astype(float), weighted))

    def score(weights: np.ndarray) -> np.ndarray:
        total, whole = np.zeros((2, len(weights), len(counts.tables)))
        for repeat, members, n_each, weighted in folds if is_defined else []:
            drawn = weights[:, members]
            values = evaluate(weighted, drawn, shape=weights.shape[:1])
            share = np.where(np.isnan(values), 0, drawn @ n_each / n_each.sum())
            total[:, repeat] += share * np.nan_to_num(values)
            whole[:, repeat] += share
        return ratio(total, whole)

    return score


def why_undefined(counts: Counts, row: MetricSpec) -> str:
    """Say why a metric is not defined."""
    n_true = counts.tables.sum(axis=(1, 3)).min(axis=0)
    if row.codes is not None and len(row.codes) == 1:
        return f"no test utterance of {counts.classes[row.codes[0]]}"
    if row.of == "predictions" and counts.answers is not None and n_true.all():
        answers = counts.answers
        lacking = {}
        for rows in answers.folds():
            absent = np.flatnonzero(np.bincount(answers.y_true[rows], minlength=len(n_true)) == 0)
            if len(absent):
                lacking[int(answers.fold[rows[0]])] = [counts.classes[code] for code in absent]
        if lacking:
            fold = min(lacking)
            more = f", and {len(lacking) - 1} more folds lack some" if len(lacking) > 1 else ""
            return f"fold {fold} has no test utterance of {', '.join(lacking[fold])}{more}"
    return why_nan(row, n_true)

"""What is summed once per entry, speaker and repeat, and the scores that follow from such sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from emobench.errors import ConfigError, DataError
from emobench.metrics import (
    N_BINS,
    log_losses,
    overconfidence,
    squared_errors,
)
from emobench.protocols.certificate import rows_fingerprint

if TYPE_CHECKING:
    import pandas as pd
AUROC = "auroc"  # alone follows from pairs of speakers
RECALL = "recall_"  # of one class: recall_<class>


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
    losses : array of shape (n_repeats, n_speakers, 2 + N_BINS), or None
        Sums over utterances of the log-loss, the squared error, and the overconfidence of each bin; None for a model
        without probabilities.
    contests : tuple of Contest
        Of each repeat and fold; empty for a model without probabilities.
    """

    speakers: tuple[str, ...]
    tables: np.ndarray
    utterances: str = ""
    classes: tuple[str, ...] = ()
    losses: np.ndarray | None = None
    contests: tuple[Contest, ...] = ()

    @property
    def n_utterances(self) -> int:
        """Return the number of utterances of a repeat."""
        return int(self.tables.sum()) // len(self.tables)


@dataclass(frozen=True)
class Contest:
    """What AUROC is made of in one fold of one repeat.

    Attributes
    ----------
    repeat : int
        Position among the repeats.
    members : int array of shape (n,)
        The fold's speakers, as positions in `Counts.speakers`.
    wins : array of shape (n_classes, n, n)
        Of class c and members i and j: the pairs of an utterance of c by i and one of another class by j in which the
        first is given the greater probability of c; a tie is half a pair.
    n_true : array of shape (n, n_classes)
        Utterances of each member and class.
    """

    repeat: int
    members: np.ndarray
    wins: np.ndarray
    n_true: np.ndarray


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
        Which model gave each probability, for AUROC. One fold by default.

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
    contests = [
        _contest(y_true[rows], proba[rows], speaker[rows], number)
        for number in range(len(numbers))
        for index in np.unique(fold)
        if (rows := np.flatnonzero((repeat == number) & (fold == index))).size
    ]
    losses = _losses(y_true, proba, repeat * len(names) + speaker, len(numbers) * len(names))
    return replace(counts, losses=losses.reshape(*shape[:2], -1), contests=tuple(contests))


def _losses(y_true: np.ndarray, proba: np.ndarray, cells: np.ndarray, n_cells: int) -> np.ndarray:
    """Sum up the losses of each cell (a repeat's speaker): shape (n_cells, 2 + N_BINS)."""
    bins, excess = overconfidence(y_true, proba)
    return np.column_stack(
        [
            np.bincount(cells, log_losses(y_true, proba), minlength=n_cells),
            np.bincount(cells, squared_errors(y_true, proba), minlength=n_cells),
            np.bincount(cells * N_BINS + bins, excess, minlength=n_cells * N_BINS).reshape(n_cells, N_BINS),
        ]
    )


def _contest(y_true: np.ndarray, proba: np.ndarray, speaker: np.ndarray, repeat: int) -> Contest:
    members, member = np.unique(speaker, return_inverse=True)
    n, n_classes = len(members), proba.shape[1]
    wins = np.zeros((n_classes, n, n))
    for code in range(n_classes):
        first, own = proba[y_true == code, code], member[y_true == code]
        for other in range(n):
            second = np.sort(proba[(y_true != code) & (member == other), code])
            beaten = np.searchsorted(second, first, side="left") + np.searchsorted(second, first, side="right")
            wins[code, :, other] = np.bincount(own, beaten / 2, minlength=n)
    n_true = np.bincount(member * n_classes + y_true, minlength=n * n_classes).reshape(n, n_classes)
    return Contest(repeat, members, wins, n_true.astype(float))


def score(counts: Counts, metric: str = "uar") -> float:
    """Return the score of the pooled predictions of a repeat, averaged over repeats: what the leaderboard shows."""
    return float(score_repeats(counts, metric).mean())


def score_repeats(counts: Counts, metric: str = "uar") -> np.ndarray:
    """Return the score of each repeat: shape (n_repeats,). Their spread is that over the models' seeds."""
    return _by_repeat(counts, metric, np.ones((1, len(counts.speakers))))[0]


def score_resamples(counts: Counts, metric: str, weights: np.ndarray) -> np.ndarray:
    """Score resamples of speakers.

    Parameters
    ----------
    metric : str
        A row of `METRICS`, or ``recall_<class>``.
    weights : array of shape (n_resamples, n_speakers)
        How often each speaker is in the resample.

    Returns
    -------
    array of shape (n_resamples,)
        NaN where a resample lacks a class.
    """
    return _by_repeat(counts, metric, weights).mean(axis=-1)


def count_entries(part: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Counts]:
    """Count the complete entries of one board (a corpus, feature set and protocol of the table of predictions)."""
    code = {label: index for index, label in enumerate(classes)}
    whole = part.groupby("entry", observed=True).size().max()
    return {
        str(name): count(
            cells["y_true"].map(code).fillna(-1).to_numpy(dtype=int),
            cells["y_pred"].map(code).fillna(-1).to_numpy(dtype=int),
            cells["speaker"].to_numpy(),
            len(classes),
            repeats=cells["repeat"].to_numpy(),
            utterances=cells["utterance"].tolist(),
            classes=classes,
            proba=_probabilities(cells, classes),
            folds=cells["fold"].to_numpy(),
        )
        for name, cells in part.groupby("entry", sort=False, observed=True)
        if len(cells) == whole
    }


def _probabilities(cells: pd.DataFrame, classes: tuple[str, ...]) -> np.ndarray | None:
    """Return an entry's probabilities, None where it gives none."""
    columns = [f"p_{label}" for label in classes]
    if not set(columns) <= set(cells.columns):
        return None
    proba = cells[columns].to_numpy(dtype=float)
    return None if np.isnan(proba).any() else proba


def _by_repeat(counts: Counts, metric: str, weights: np.ndarray) -> np.ndarray:
    """Score the weighted speakers of every repeat: shape (n_resamples, n_repeats)."""
    weights = np.asarray(weights, dtype=float)
    if metric == AUROC:
        return _aurocs(counts, weights)
    form = form_of(counts, metric)
    return form.score(pool(form.sums(counts), weights))


def pool(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Add up sums of shape (n_repeats, n_speakers, m) over weighted speakers: (n_resamples, n_repeats, m)."""
    n_repeats, n_speakers, m = sums.shape
    flat = sums.transpose(1, 0, 2).reshape(n_speakers, -1)
    return (np.asarray(weights, dtype=float) @ flat).reshape(-1, n_repeats, m)


def _aurocs(counts: Counts, weights: np.ndarray) -> np.ndarray:
    """Return AUROC as `_by_repeat` does.

    A resample's fold counts as much as the share of its utterances that was drawn: all folds equally in what is
    observed, each fold as often as its speaker was drawn where that is one. A fold of which nobody was drawn, or nobody
    with a class, is left out of the resample; if one lacks a class from the start there is no AUROC.
    """
    n_repeats = len(counts.tables)
    total, whole = np.zeros((2, len(weights), n_repeats))
    for contest in counts.contests:
        drawn = weights[:, contest.members]
        n_true = drawn @ contest.n_true
        n_pairs = n_true * (n_true.sum(axis=1, keepdims=True) - n_true)
        wins = np.column_stack([((drawn @ of_class) * drawn).sum(axis=1) for of_class in contest.wins])
        area = _share(wins, n_pairs).mean(axis=1)
        share = np.where(np.isnan(area), 0, n_true.sum(axis=1) / contest.n_true.sum())
        total[:, contest.repeat] += share * np.nan_to_num(area)
        whole[:, contest.repeat] += share
    is_undefined = not all(contest.n_true.any(axis=0).all() for contest in counts.contests)
    return np.full_like(total, np.nan) if is_undefined else _share(total, whole)


@dataclass(frozen=True)
class _Form:
    """How a metric follows from sums over speakers.

    Attributes
    ----------
    sums : callable
        Takes `Counts`; returns an array of shape (n_repeats, n_speakers, m).
    score : callable
        Takes such sums over speakers, shape (…, m); returns shape (…).
    """

    sums: Callable[[Counts], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]


def form_of(counts: Counts, metric: str) -> _Form:
    if metric in FORMS:
        return FORMS[metric]
    if metric.startswith(RECALL) and metric.removeprefix(RECALL) in counts.classes:
        code = counts.classes.index(metric.removeprefix(RECALL))
        return _Form(_margins, lambda sums: _recalls(sums)[..., code])
    raise ConfigError(
        f"A metric with an interval must be one of {', '.join((*FORMS, AUROC))} or recall_<class>. Got {metric!r}. "
        "Add it to FORMS in emobench/statistics.py if it follows from sums over speakers."
    )


def sums_of(counts: Counts, metric: str) -> np.ndarray:
    """Return all that a metric's value depends on."""
    if metric == AUROC:
        return np.concatenate([contest.wins.ravel() for contest in counts.contests])
    return form_of(counts, metric).sums(counts)


def _margins(counts: Counts) -> np.ndarray:
    """Return right answers, true and predicted utterances of each class."""
    tables = counts.tables
    return np.concatenate([tables.diagonal(axis1=2, axis2=3), tables.sum(axis=3), tables.sum(axis=2)], axis=2)


def _recalls(sums: np.ndarray) -> np.ndarray:
    hits, n_true, _ = np.split(sums, 3, axis=-1)
    return _share(hits, n_true)


def _uar(sums: np.ndarray) -> np.ndarray:
    return _recalls(sums).mean(axis=-1)


def _war(sums: np.ndarray) -> np.ndarray:
    hits, n_true, _ = np.split(sums, 3, axis=-1)
    return _share(hits.sum(axis=-1), n_true.sum(axis=-1))


def _macro_f1(sums: np.ndarray) -> np.ndarray:
    hits, n_true, n_pred = np.split(sums, 3, axis=-1)
    return np.where(n_true > 0, _share(2 * hits, n_true + n_pred), np.nan).mean(axis=-1)


def _losses_of(columns: slice) -> Callable[[Counts], np.ndarray]:
    """Return a function that gives some columns of the losses and the number of utterances; NaN without losses."""

    def sums(counts: Counts) -> np.ndarray:
        n_true = counts.tables.sum(axis=(2, 3))[..., None].astype(float)
        if counts.losses is None:
            return np.full((*n_true.shape[:2], 2), np.nan)
        return np.concatenate([counts.losses[..., columns], n_true], axis=-1)

    return sums


def _mean_size(sums: np.ndarray) -> np.ndarray:
    """Return the sum of the sizes of all sums but the last, by the last, which is the number of utterances."""
    return _share(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1])


FORMS: dict[str, _Form] = {
    "uar": _Form(_margins, _uar),
    "war": _Form(_margins, _war),
    "macro_f1": _Form(_margins, _macro_f1),
    "log_loss": _Form(_losses_of(slice(0, 1)), _mean_size),
    "brier": _Form(_losses_of(slice(1, 2)), _mean_size),
    "ece": _Form(_losses_of(slice(2, None)), _mean_size),
}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)

"""Metrics: one row each, from which its score, interval, test, slices and column of the leaderboard follow.

A metric is a function of one of three things, and its row says which:

- ``tables``: confusion tables, rows true and columns predicted, shape (…, k, k). UAR, accuracy, F1.
- ``losses``: what each utterance costs, summed over utterances. Log-loss, Brier score, calibration error.
- ``predictions``: the true codes and the probabilities of one fold. AUROC, which compares utterances with each other.

Tables and losses add up over speakers, so `emobench.statistics` scores any resample of speakers from sums. Labels are
integer codes 0..k-1 of the declared classes; probabilities have a column for each, in this order. A metric that is not
defined (a declared class without a single true utterance, a model without probabilities) is NaN with a reason, never
zero and never averaged away.

Conventions: UAR is the unweighted average recall (macro recall), WAR the weighted one (accuracy), as in the field since
Schuller et al. (2009), The INTERSPEECH 2009 Emotion Challenge. A score of a run is that of the pooled out-of-fold
predictions of a repeat, then the mean over repeats. A metric of predictions is scored fold by fold, because the
probabilities of two folds come from two models, then averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from emobench.errors import ConfigError, EmobenchError
from emobench.registry import Row, lookup, resolve

N_BINS = 15
NO_PROBABILITIES = "the model gives no probabilities"
RECALL = "recall_"  # of one class: recall_<class>
CHUNK = 2**16  # numbers that AUROC works on at a time: what a processor's cache holds


class MetricError(EmobenchError, ValueError):
    """A metric has no value, and why: the model gives no probabilities, or the metric's row is wrong.

    A row may be anybody's: whoever scores leaves its values NaN, with this message for a reason, and goes on.
    """


@dataclass(frozen=True)
class MetricSpec(Row):
    """A row of `METRICS`.

    Attributes
    ----------
    name : str
        Column of the leaderboard; with ``_low`` and ``_high``, those of its interval.
    score : "module:function" or function
        Called, by what the metric is `of`, as

        - tables: ``score(tables)``, counts of shape (…, k, k) → values of shape (…);
        - losses: ``score(sums, n)``, sums of shape (…, m) over n utterances, shape (…) → values of shape (…);
        - predictions: ``score(y_true, proba)``, codes (n,) and probabilities (n, k) of one fold → a number.

        What is not defined is NaN.
    of : "tables", "losses" or "predictions"
    losses : "module:function" or function, optional
        Of a metric of losses: ``losses(y_true, proba)``, codes (n,) and probabilities (n, k) → (n,) or (n, m).
    interval : "module:function" or function, optional
        Of a metric of predictions: ``interval(y_true, proba, speaker)`` with the speakers' codes returns the fold's
        score as a function of weights (r, n_speakers), how often each speaker is in each of r resamples, → (r,).
        Without it the metric has no interval.
    is_greater_better : bool
    range : (float, float)
        What bounds of an interval are clipped to.
    is_centred : bool
        Whether resamples are centred on the score, because they are biased; see `emobench.statistics.intervals`.
    codes : tuple of int, optional
        Classes that it is over, of a recall; all of them by default.
    version : int
        Raised when the same predictions give another value; part of comparability.
    """

    kind: ClassVar[str] = "metric"
    targets: ClassVar[tuple[str, ...]] = ("score",)

    name: str
    title: str
    score: str | Callable[..., Any]
    of: Literal["tables", "losses", "predictions"] = "tables"
    losses: str | Callable[..., Any] | None = None
    interval: str | Callable[..., Any] | None = None
    is_greater_better: bool = True
    range: tuple[float, float] = (-math.inf, math.inf)
    is_centred: bool = False
    codes: tuple[int, ...] | None = None
    version: int = 1

    def __post_init__(self) -> None:
        def problem() -> str:
            if self.of not in ("tables", "losses", "predictions"):
                return f"`of` is {self.of!r}; allowed are 'tables', 'losses' and 'predictions'"
            if (self.losses is not None) != (self.of == "losses"):
                return "`losses` belongs to a metric of losses, and only to one"
            if self.interval is not None and self.of != "predictions":
                return "`interval` belongs to a metric of predictions; of others it follows"
            return ""

        if found := problem():
            raise ConfigError(f"metric {self.name!r}: {found}.")

    @property
    def needs_probabilities(self) -> bool:
        return self.of != "tables"


METRICS: dict[str, MetricSpec] = {
    row.name: row
    for row in (
        MetricSpec("uar", "Unweighted average recall over all declared classes", "emobench.metrics:uar", range=(0, 1)),
        MetricSpec("war", "Weighted average recall: accuracy", "emobench.metrics:war", range=(0, 1)),
        MetricSpec("macro_f1", "Mean over all declared classes of F1", "emobench.metrics:macro_f1", range=(0, 1)),
        MetricSpec(
            "log_loss",
            "Mean negative log-probability of the true class, in nats; less is better",
            "emobench.metrics:mean_loss",
            of="losses",
            losses="emobench.metrics:log_losses",
            is_greater_better=False,
            range=(0, math.inf),
        ),
        MetricSpec(
            "brier",
            "Brier score: squared error of the probabilities, summed over classes, 0 to 2; less is better",
            "emobench.metrics:mean_loss",
            of="losses",
            losses="emobench.metrics:squared_errors",
            is_greater_better=False,
            range=(0, 2),
        ),
        MetricSpec(
            "ece",
            f"Expected calibration error of the top class, {N_BINS} equal bins of confidence; less is better",
            "emobench.metrics:ece",
            of="losses",
            losses="emobench.metrics:overconfidence",
            is_greater_better=False,
            range=(0, 1),
            is_centred=True,
        ),
        MetricSpec(
            "auroc",
            "Area under the ROC curve, each declared class against the rest, mean over classes and folds",
            "emobench.metrics:auroc",
            of="predictions",
            interval="emobench.metrics:auroc_of_speakers",
            range=(0, 1),
            is_centred=True,
        ),
    )
}


def get_metric(name: str, classes: Sequence[str] = ()) -> MetricSpec:
    """Return the row of `METRICS` called `name`, or that of ``recall_<class>``; raise `UnknownNameError`."""
    for code, label in enumerate(classes):
        if name == f"{RECALL}{label}":
            return recall_of([code], name, f"Recall of {label}")
    return lookup("metric", METRICS, name)


def recall_of(
    codes: Sequence[int] | np.ndarray, name: str = "uar", title: str = "Mean recall over some classes"
) -> MetricSpec:
    """Return the row of the mean recall over some of the declared classes."""

    def score(tables: np.ndarray) -> np.ndarray:
        return np.take(recalls(tables), codes, axis=-1).mean(axis=-1)

    return MetricSpec(name, title, score, range=(0, 1), codes=tuple(codes))


def evaluate(row: MetricSpec, *arguments: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Score what a row is of; return values of this shape, NaN where they are not finite.

    Raises
    ------
    MetricError
        If the row's function raises or returns another shape. It sees its arguments, but cannot change them.
    """
    values = np.asarray(_call(row, row.score, *arguments))
    if values.shape != shape:
        raise MetricError(f"{row.name} returned an array of shape {values.shape} instead of {shape}")
    return np.where(np.isfinite(values), values, np.nan)


def losses_of(row: MetricSpec, y_true: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Return what each utterance costs, shape (n, m); raise as `evaluate` does."""
    assert row.losses is not None  # as of every metric of losses
    losses = np.asarray(_call(row, row.losses, y_true, proba))
    if losses.ndim not in (1, 2) or len(losses) != len(y_true):
        raise MetricError(f"losses of {row.name} have the shape {losses.shape} for {len(y_true)} utterances")
    return losses.reshape(len(y_true), -1)


def by_weights(row: MetricSpec, y_true: np.ndarray, proba: np.ndarray, speaker: np.ndarray) -> MetricSpec:
    """Return a metric of predictions of one fold as a row whose `score` takes weights; raise as `evaluate` does.

    Without an interval of its own it is known of all speakers only.
    """
    if row.interval is not None:
        return replace(row, score=_call(row, row.interval, y_true, proba, speaker))
    value = evaluate(row, y_true, proba, shape=())
    return replace(row, score=lambda weights: np.where((weights == 1).all(axis=1), value, np.nan))


def _call(row: MetricSpec, function: str | Callable[..., Any], *arguments: np.ndarray) -> Any:
    try:
        with np.errstate(all="ignore"):
            found = resolve(function)(*(np.broadcast_to(argument, np.shape(argument)) for argument in arguments))
        return found if callable(found) else np.asarray(found, dtype=float)
    except Exception as error:  # whatever somebody else's function may raise
        raise MetricError(f"{row.name} failed: {type(error).__name__}: {error}") from error


def score(
    name: str, y_true: np.ndarray, y_pred: np.ndarray, n_classes: int, proba: np.ndarray | None = None
) -> tuple[float, str]:
    """Score predictions; return the value and, where it is NaN, the reason.

    Parameters
    ----------
    y_true, y_pred : int arrays of shape (n,)
        Codes of the declared classes.
    n_classes : int
    proba : array of shape (n, n_classes), optional
        None for a model without probabilities.
    """
    row = get_metric(name)
    try:
        if row.of == "tables":
            value = evaluate(row, confusion(y_true, y_pred, n_classes), shape=())
        elif proba is None:
            return math.nan, NO_PROBABILITIES
        elif row.of == "losses":
            value = evaluate(row, losses_of(row, y_true, proba).sum(axis=0), np.array(len(y_true)), shape=())
        else:
            value = evaluate(row, y_true, proba, shape=())
    except MetricError as error:
        return math.nan, str(error)
    return float(value), why_nan(row, np.bincount(y_true, minlength=n_classes)) if np.isnan(value) else ""


def why_nan(row: MetricSpec, n_true: np.ndarray) -> str:
    """Say why a metric is not defined, from the utterances of each class."""
    if absent := int((n_true == 0).sum()):
        return f"no test utterance of {absent} of the {len(n_true)} declared classes"
    return f"{row.name} is not defined of these predictions"


# --- of tables ------------------------------------------------------------------------------------------------------


def confusion(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> np.ndarray:
    """Count utterances by (true, predicted) class: int array of shape (n_classes, n_classes)."""
    return np.bincount(y_true * n_classes + y_pred, minlength=n_classes**2).reshape(n_classes, n_classes)


def recalls(tables: np.ndarray) -> np.ndarray:
    """Return each class's recall in [0, 1], NaN for a class without a true utterance: (…, k, k) → (…, k)."""
    return ratio(tables.diagonal(axis1=-2, axis2=-1), tables.sum(axis=-1))


def uar(tables: np.ndarray) -> np.ndarray:
    """Return the unweighted average recall in [0, 1]; NaN if a declared class has no true utterance."""
    return recalls(tables).mean(axis=-1)


def present_uar(tables: np.ndarray) -> np.ndarray:
    """Return the mean recall over the classes that occur: for parts such as one speaker, which may lack some."""
    return np.nanmean(recalls(tables), axis=-1)


def war(tables: np.ndarray) -> np.ndarray:
    """Return the share of right answers in [0, 1]; NaN of nothing."""
    return ratio(tables.trace(axis1=-2, axis2=-1), tables.sum(axis=(-2, -1)))


def macro_f1(tables: np.ndarray) -> np.ndarray:
    """Return the mean F1 over declared classes in [0, 1]; NaN if one has no true utterance."""
    n_true = tables.sum(axis=-1)
    f1 = ratio(2 * tables.diagonal(axis1=-2, axis2=-1), n_true + tables.sum(axis=-2))
    return np.where(n_true > 0, f1, np.nan).mean(axis=-1)


# --- of losses ------------------------------------------------------------------------------------------------------


def log_losses(y_true: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Return each utterance's negative log-probability of its true class, in nats: shape (n,).

    As in scikit-learn, a probability is taken for at least 2.2e-16, the float64 epsilon: a true class that is given
    none costs 36 nats.
    """
    eps = np.finfo(float).eps
    return -np.log(np.clip(proba[np.arange(len(y_true)), y_true], eps, 1 - eps))


def squared_errors(y_true: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Return each utterance's squared error of its probabilities, summed over the classes, in [0, 2]: shape (n,).

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability, Monthly Weather Review 78: the original
    definition, over all classes; for two classes it is twice the score of one.
    """
    return ((proba - np.eye(proba.shape[1])[y_true]) ** 2).sum(axis=1)


def overconfidence(y_true: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Return by how much each utterance's confidence exceeds being right (1) or wrong (0): shape (n, N_BINS).

    Confidence is the greatest probability, and the class that has it is the answer. The excess stands in the column of
    the confidence's bin, the others are 0. The bins are of equal width, open below and closed above.
    """
    confidence = proba.max(axis=1)
    bins = np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], confidence, side="left")
    excess = confidence - (proba.argmax(axis=1) == y_true)
    return np.where(bins[:, None] == np.arange(N_BINS), excess[:, None], 0.0)


def mean_loss(sums: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the mean of one loss, sums of shape (…, 1) over n utterances; NaN of nothing."""
    return ratio(sums[..., 0], n)


def ece(sums: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the expected calibration error: |confidence - accuracy| of the bins, weighted by utterances, in [0, 1].

    It is never below zero, so chance alone makes that of a calibrated model positive (about 0.036 with 960 utterances).

    References
    ----------
    Guo et al. (2017), On calibration of modern neural networks, ICML: 15 bins of the top class's probability.
    """
    return ratio(np.abs(sums).sum(axis=-1), n)


# --- of predictions -------------------------------------------------------------------------------------------------


def auroc(y_true: np.ndarray, proba: np.ndarray) -> float:
    """Return the area under the ROC curve of each declared class against the rest, averaged; NaN if one is not tested.

    References
    ----------
    Provost and Domingos (2000), Well-trained PETs: improving probability estimation trees; without their weights by
    class, as UAR has none.
    """
    return auroc_of_speakers(y_true, proba, np.zeros(len(y_true), dtype=int))(np.ones((1, 1)))[0]


def auroc_of_speakers(y_true: np.ndarray, proba: np.ndarray, speaker: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return AUROC as a function of how often each speaker is drawn, (r, n_speakers) → (r,).

    The area is the share of won pairs: an utterance of the class and one of another class, of which the first is given
    the greater probability; a tie is half a win. A pair counts as often as both its speakers were drawn.

    References
    ----------
    Hanley and McNeil (1982), The meaning and use of the area under a receiver operating characteristic (ROC) curve,
    Radiology 143.
    """
    shape = (speaker.max() + 1, proba.shape[1])
    n_true = np.bincount(speaker * shape[1] + y_true, minlength=math.prod(shape)).reshape(shape)
    wins_of = [_wins(chances, y_true == code, speaker, shape[0]) for code, chances in enumerate(proba.T)]

    def score(weights: np.ndarray) -> np.ndarray:
        drawn = weights.T.astype(np.int32, order="C")
        of_class = n_true.T @ drawn
        n_pairs = of_class * (of_class.sum(axis=0) - of_class)
        return ratio(np.stack([wins(drawn) for wins in wins_of]), n_pairs).mean(axis=0)

    return lambda weights: np.concatenate(
        [score(part) for part in np.array_split(weights, math.ceil(len(weights) * len(y_true) / CHUNK))]
    )


def _wins(
    chances: np.ndarray, is_own: np.ndarray, speaker: np.ndarray, n_speakers: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the won pairs of a class's own utterances as a function of weights, int (n_speakers, r) → (r,).

    The others stand in the order of their probability, so that what an utterance beats is a running sum of weights.
    Where speakers are few, the pairs that each two of them win are counted once for all.
    """
    order = np.argsort(chances[~is_own], kind="stable")
    own, others, known = speaker[is_own], speaker[~is_own][order], chances[~is_own][order]
    below, up_to = (np.searchsorted(known, chances[is_own], side=side) for side in ("left", "right"))

    def beaten(drawn: np.ndarray) -> np.ndarray:
        """Return twice what each own utterance beats, (n_speakers, r) → (n_own, r)."""
        passed = np.zeros((len(others) + 1, drawn.shape[1]), dtype=np.int32)
        drawn[others].cumsum(axis=0, out=passed[1:])
        return passed[below] + passed[up_to]

    if n_speakers**2 > len(chances):
        return lambda drawn: (drawn[own] * beaten(drawn)).sum(axis=0) / 2
    one_each = np.eye(n_speakers, dtype=np.int32)[:, :, None]
    pairs = np.column_stack([np.bincount(own, beaten(one)[:, 0], n_speakers) for one in one_each]) / 2
    return lambda drawn: (drawn * (pairs @ drawn)).sum(axis=0)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)

"""Metrics: pure functions of true labels and what a model says of them, over the declared classes.

Labels are integer codes 0..k-1 of the declared classes; probabilities have a column for each, in this order. A metric
that is not defined (a declared class without a single true utterance, a model without probabilities) is NaN with a
reason, never zero and never averaged away.
Conventions: UAR is the unweighted average recall (macro recall), WAR the weighted one (accuracy), as in the field since
Schuller et al. (2009), The INTERSPEECH 2009 Emotion Challenge. A score of a run is that of the pooled out-of-fold
predictions of a repeat, then the mean over repeats. AUROC alone is scored fold by fold, because it compares the
probabilities of different utterances, and those of two folds come from two models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from emobench.registry import Row, lookup, resolve

N_BINS = 15
NO_PROBABILITIES = "the model gives no probabilities"
_CLIP = (np.finfo(float).eps, 1 - np.finfo(float).eps)


@dataclass(frozen=True)
class MetricSpec(Row):
    """A row of `METRICS`.

    Attributes
    ----------
    score : "module:function" or function
        Called as ``score(y_true, y_pred, n_classes) -> float``, or as
        ``score(y_true, proba) -> float`` where it needs probabilities.
    needs : "labels" or "probabilities"
        What it is a function of, besides the true labels.
    is_greater_better : bool
    is_pooled : bool
        Whether it is scored on the pooled predictions of a repeat; else fold by fold, then averaged.
    version : int
        Raised when the same predictions give another value; part of comparability.
    """

    kind: ClassVar[str] = "metric"
    targets: ClassVar[tuple[str, ...]] = ("score",)

    name: str
    title: str
    score: str | Callable[..., Any]
    needs: Literal["labels", "probabilities"] = "labels"
    is_greater_better: bool = True
    is_pooled: bool = True
    version: int = 1


METRICS: dict[str, MetricSpec] = {
    row.name: row
    for row in (
        MetricSpec("uar", "Unweighted average recall over all declared classes", "emobench.metrics:uar"),
        MetricSpec("war", "Weighted average recall: accuracy", "emobench.metrics:war"),
        MetricSpec("macro_f1", "Mean over all declared classes of F1", "emobench.metrics:macro_f1"),
        MetricSpec(
            "log_loss",
            "Mean negative log-probability of the true class, in nats; less is better",
            "emobench.metrics:log_loss",
            needs="probabilities",
            is_greater_better=False,
        ),
        MetricSpec(
            "brier",
            "Brier score: squared error of the probabilities, summed over classes, 0 to 2; less is better",
            "emobench.metrics:brier",
            needs="probabilities",
            is_greater_better=False,
        ),
        MetricSpec(
            "ece",
            f"Expected calibration error of the top class, {N_BINS} equal bins of confidence; less is better",
            "emobench.metrics:ece",
            needs="probabilities",
            is_greater_better=False,
        ),
        MetricSpec(
            "auroc",
            "Area under the ROC curve, each declared class against the rest, mean over classes and folds",
            "emobench.metrics:auroc",
            needs="probabilities",
            is_pooled=False,
        ),
    )
}


def get_metric(name: str) -> MetricSpec:
    """Return the row of `METRICS` called `name`, or raise `UnknownNameError`."""
    return lookup("metric", METRICS, name)


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
    if row.needs == "labels":
        value = float(resolve(row.score)(y_true, y_pred, n_classes))
    elif proba is None:
        return float("nan"), NO_PROBABILITIES
    else:
        value = float(resolve(row.score)(y_true, proba))
    if np.isnan(value):
        absent = np.flatnonzero(np.bincount(y_true, minlength=n_classes) == 0)
        return value, f"no test utterance of {len(absent)} of the {n_classes} declared classes"
    return value, ""


def confusion(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> np.ndarray:
    """Count utterances by (true, predicted) class: int array of shape (n_classes, n_classes)."""
    return np.bincount(y_true * n_classes + y_pred, minlength=n_classes**2).reshape(n_classes, n_classes)


def recalls(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> np.ndarray:
    """Return each class's recall, NaN for a class without a true utterance: shape (n_classes,)."""
    table = confusion(y_true, y_pred, n_classes)
    n_true = table.sum(axis=1)
    return np.divide(table.diagonal(), n_true, out=np.full(n_classes, np.nan), where=n_true > 0)


def uar(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> float:
    """Return the unweighted average recall in [0, 1]; NaN if a declared class has no true utterance."""
    return float(recalls(y_true, y_pred, n_classes).mean())


def war(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> float:
    """Return the share of right answers in [0, 1]; NaN of nothing."""
    return float((y_true == y_pred).mean()) if len(y_true) else float("nan")


def macro_f1(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> float:
    """Return the mean F1 over declared classes in [0, 1]; NaN if one has no true utterance."""
    table = confusion(y_true, y_pred, n_classes)
    if (table.sum(axis=1) == 0).any():
        return float("nan")
    return float((2 * table.diagonal() / (table.sum(axis=0) + table.sum(axis=1))).mean())


def present_uar(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> float:
    """Return the mean recall over the classes that occur: for slices such as one speaker, which may lack some."""
    return float(np.nanmean(recalls(y_true, y_pred, n_classes)))


def log_losses(y_true: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Return each utterance's negative log-probability of its true class, in nats: shape (n,).

    As in scikit-learn, a probability is taken for at least 2.2e-16, the float64 epsilon: a true class that is given
    none costs 36 nats.
    """
    return -np.log(np.clip(proba[np.arange(len(y_true)), y_true], *_CLIP))


def squared_errors(y_true: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Return each utterance's squared error of its probabilities, summed over the classes, in [0, 2]: shape (n,)."""
    return ((proba - np.eye(proba.shape[1])[y_true]) ** 2).sum(axis=1)


def overconfidence(y_true: np.ndarray, proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return of each utterance the bin of its confidence, and by how much that exceeds being right (1) or wrong (0).

    Confidence is the greatest probability, and the class that has it is the answer. The bins are `N_BINS` of equal
    width, open below and closed above.
    """
    confidence = proba.max(axis=1)
    bins = np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], confidence, side="left")
    return bins, confidence - (proba.argmax(axis=1) == y_true)


def log_loss(y_true: np.ndarray, proba: np.ndarray) -> float:
    """Return the mean of `log_losses`: 0 for certainty in what is right; NaN of nothing."""
    return float(log_losses(y_true, proba).mean()) if len(y_true) else float("nan")


def brier(y_true: np.ndarray, proba: np.ndarray) -> float:
    """Return the mean of `squared_errors`, in [0, 2]; NaN of nothing.

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability, Monthly Weather Review 78: the original
    definition, over all classes; for two classes it is twice the score of one.
    """
    return float(squared_errors(y_true, proba).mean()) if len(y_true) else float("nan")


def ece(y_true: np.ndarray, proba: np.ndarray) -> float:
    """Return the expected calibration error: |confidence - accuracy| of the bins, weighted by utterances, in [0, 1].

    It is never below zero, so chance alone makes that of a calibrated model positive (about 0.036 with 960 utterances).

    References
    ----------
    Guo et al. (2017), On calibration of modern neural networks, ICML: 15 bins of the top class's probability.
    """
    if not len(y_true):
        return float("nan")
    bins, excess = overconfidence(y_true, proba)
    return float(np.abs(np.bincount(bins, excess, minlength=N_BINS)).sum() / len(y_true))


def auroc(y_true: np.ndarray, proba: np.ndarray) -> float:
    """Return the area under the ROC curve of each declared class against the rest, averaged; NaN if one is not tested.

    References
    ----------
    Provost and Domingos (2000), Well-trained PETs: improving probability estimation trees; without their weights by
    class, as UAR has none.
    """
    from sklearn.metrics import roc_auc_score

    n_true = np.bincount(y_true, minlength=proba.shape[1])
    if (n_true == 0).any():
        return float("nan")
    return float(np.mean([roc_auc_score(y_true == code, column) for code, column in enumerate(proba.T)]))

"""Metrics: pure functions of true and predicted labels over the declared classes.

Labels are integer codes 0..k-1 of the declared classes. A metric that is not defined (a declared class without a
single true utterance, a model without probabilities) is NaN with a reason, never zero and never averaged away.
Conventions: UAR is the unweighted average recall (macro recall), WAR the weighted one (accuracy), as in the field since
Schuller et al. (2009), The INTERSPEECH 2009 Emotion Challenge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emobench.errors import lookup, resolve


@dataclass(frozen=True)
class MetricSpec:
    """A row of `METRICS`.

    Attributes
    ----------
    score : str
        ``"module:function"`` called as ``score(y_true, y_pred, n_classes) -> float``.
    version : int
        Raised when the same predictions give another value; part of comparability.
    """

    name: str
    title: str
    score: str
    version: int = 1


METRICS: dict[str, MetricSpec] = {
    row.name: row
    for row in (
        MetricSpec("uar", "Unweighted average recall over all declared classes", "emobench.metrics:uar"),
        MetricSpec("war", "Weighted average recall: accuracy", "emobench.metrics:war"),
        MetricSpec("macro_f1", "Mean over all declared classes of F1", "emobench.metrics:macro_f1"),
    )
}


def get_metric(name: str) -> MetricSpec:
    """Return the row of `METRICS` called `name`, or raise `UnknownNameError`."""
    return lookup("metric", METRICS, name)


def score(name: str, y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> tuple[float, str]:
    """Score predictions; return the value and, where it is NaN, the reason.

    Parameters
    ----------
    y_true, y_pred : int arrays of shape (n,)
        Codes of the declared classes.
    n_classes : int
    """
    value = float(resolve(get_metric(name).score)(y_true, y_pred, n_classes))
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

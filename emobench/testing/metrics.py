"""The contract of a metric: a function of the set of predictions, whose direction is the one that its row says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from emobench import metrics
from emobench.metrics import MetricSpec
from emobench.registry import offering
from emobench.testing.rows import check_row

N_CLASSES = 4
N_UTTERANCES = 200


def check_metric(row: MetricSpec) -> None:
    """Check that a metric does not depend on the order of utterances, and is best of what is right.

    Raises
    ------
    AssertionError
        With what is wrong.
    """
    check_row(row, "metric")
    rng = np.random.default_rng(0)
    y_true = np.arange(N_UTTERANCES) % N_CLASSES
    proba = _leaning(rng, y_true, 1.5)
    value = _score(row, y_true, proba)
    assert math.isfinite(value), f"it is {value} of usual predictions"
    assert _score(row, y_true, proba) == value, "the same predictions have another score the next time"
    for _ in range(3):
        order = rng.permutation(N_UTTERANCES)
        shuffled = _score(row, y_true[order], proba[order])
        assert math.isclose(shuffled, value, rel_tol=1e-9, abs_tol=1e-12), (
            f"it depends on the order of the utterances: {shuffled} instead of {value}"
        )
    best, worse = _score(row, y_true, np.eye(N_CLASSES)[y_true]), _score(row, y_true, rng.permutation(proba))
    is_better = best >= value > worse if row.is_greater_better else best <= value < worse
    direction = "greater" if row.is_greater_better else "less"
    assert is_better, (
        f"{direction} is better, says the row, but it is {best:.4g} of perfect predictions, {value:.4g} of good ones "
        f"and {worse:.4g} of random ones"
    )


def _leaning(rng: np.random.Generator, y_true: np.ndarray, sharpness: float) -> np.ndarray:
    """Return probabilities of shape (n, k) that lean to what is true."""
    proba = np.exp(rng.normal(size=(len(y_true), N_CLASSES)) + sharpness * np.eye(N_CLASSES)[y_true])
    return proba / proba.sum(axis=1, keepdims=True)


def _score(row: MetricSpec, y_true: np.ndarray, proba: np.ndarray) -> float:
    with offering(replace(row, name="checked")):
        value, reason = metrics.score("checked", y_true, proba.argmax(axis=1), N_CLASSES, proba)
    assert not math.isnan(value), f"it is not defined of usual predictions: {reason}"
    return value

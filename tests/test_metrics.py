"""Metrics against scikit-learn, and what they answer where they are not defined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score

from emobench import metrics
from emobench.errors import UnknownNameError

labels = st.integers(2, 6).flatmap(
    lambda k: st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=60).map(
        lambda pairs: (np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]), k)
    )
)


@given(labels)
def test_metrics_equal_scikit_learn_where_every_class_occurs(case):
    y_true, y_pred, k = case
    y_true, y_pred = np.append(y_true, np.arange(k)), np.append(y_pred, np.zeros(k, int))
    every = list(range(k))
    assert metrics.uar(y_true, y_pred, k) == pytest.approx(
        recall_score(y_true, y_pred, labels=every, average="macro", zero_division=0)
    )
    assert metrics.war(y_true, y_pred, k) == pytest.approx(accuracy_score(y_true, y_pred))
    assert metrics.macro_f1(y_true, y_pred, k) == pytest.approx(
        f1_score(y_true, y_pred, labels=every, average="macro", zero_division=0)
    )
    assert (metrics.confusion(y_true, y_pred, k) == confusion_matrix(y_true, y_pred, labels=every)).all()


@pytest.mark.parametrize("name", list(metrics.METRICS))
def test_every_metric_of_a_perfect_prediction_is_one(name):
    y = np.arange(15) % 5
    assert metrics.score(name, y, y, 5) == (1.0, "")


def test_uar_of_one_answer_for_all_is_chance():
    assert metrics.uar(np.arange(20) % 5, np.zeros(20, int), 5) == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["uar", "macro_f1"])
def test_metric_is_nan_with_a_reason_when_a_declared_class_is_not_tested(name):
    """scikit-learn answers 0.5 or 0.75 here, depending on the function; we answer neither."""
    y_true, y_pred = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    value, reason = metrics.score(name, y_true, y_pred, 3)
    assert np.isnan(value)
    assert reason == "no test utterance of 1 of the 3 declared classes"


def test_present_uar_leaves_out_classes_that_a_slice_lacks():
    y_true, y_pred = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    assert metrics.present_uar(y_true, y_pred, 4) == pytest.approx(balanced_accuracy_score(y_true, y_pred))


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Unknown metric 'uarr'\. Did you mean 'uar'\?"):
        metrics.score("uarr", np.array([0]), np.array([0]), 2)

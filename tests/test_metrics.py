"""Metrics against scikit-learn, and what they answer where they are not defined."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

from emobench import metrics
from emobench.errors import ConfigError, UnknownNameError

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
    table = metrics.confusion(y_true, y_pred, k)
    assert metrics.uar(table) == pytest.approx(
        recall_score(y_true, y_pred, labels=every, average="macro", zero_division=0)
    )
    assert metrics.war(table) == pytest.approx(accuracy_score(y_true, y_pred))
    assert metrics.macro_f1(table) == pytest.approx(
        f1_score(y_true, y_pred, labels=every, average="macro", zero_division=0)
    )
    assert (table == confusion_matrix(y_true, y_pred, labels=every)).all()


NEEDY = [name for name, row in metrics.METRICS.items() if row.needs_probabilities]


def answers(k=5, n=200, *, sharpness=1.0, seed=0):
    """Return true codes of every class, and probabilities that lean to them, some of them equal."""
    rng = np.random.default_rng(seed)
    y_true = np.append(np.arange(k), rng.integers(0, k, n - k))
    leaning = rng.normal(size=(n, k)).round(1) + sharpness * np.eye(k)[y_true]
    proba = np.exp(leaning)
    return y_true, proba / proba.sum(axis=1, keepdims=True)


def value(name, y_true, proba):
    return metrics.score(name, y_true, proba.argmax(axis=1), proba.shape[1], proba)[0]


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_probabilities_equal_scikit_learn(k, seed):
    y_true, proba = answers(k, 60, seed=seed)
    every = list(range(k))
    expected = {
        "log_loss": log_loss(y_true, proba, labels=every),
        "brier": brier_score_loss(y_true, proba, labels=every, scale_by_half=False),
        "auroc": roc_auc_score(y_true, proba, multi_class="ovr", average="macro", labels=every),
    }
    for name, score in expected.items():
        assert value(name, y_true, proba) == pytest.approx(score, abs=1e-12)


def test_auroc_counts_a_tie_as_half_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    y_true, proba = np.arange(200) % 4, rng.random((200, 4)).round(1)
    expected = np.mean([roc_auc_score(y_true == code, proba[:, code]) for code in range(4)])
    assert value("auroc", y_true, proba) == pytest.approx(expected, abs=1e-12)


def test_metrics_of_two_classes_are_those_of_one_of_them():
    y_true = np.arange(60) % 2
    chances = np.clip(0.3 + 0.3 * y_true + np.random.default_rng(0).normal(0, 0.2, 60), 0, 1)
    proba = np.column_stack([1 - chances, chances])
    assert value("auroc", y_true, proba) == pytest.approx(roc_auc_score(y_true, chances))
    assert value("log_loss", y_true, proba) == pytest.approx(log_loss(y_true, chances))
    assert value("brier", y_true, proba) == pytest.approx(2 * brier_score_loss(y_true, chances))


@pytest.mark.parametrize("seed", range(5))
def test_ece_is_the_gap_of_each_bin_weighted_by_its_utterances(seed):
    y_true, proba = answers(seed=seed)
    frame = pd.DataFrame({"confidence": proba.max(axis=1), "is_right": proba.argmax(axis=1) == y_true})
    bins = pd.cut(frame["confidence"], np.linspace(0, 1, 16))
    gaps = [len(part) * abs(part["confidence"].mean() - part["is_right"].mean()) for _, part in frame.groupby(bins)]
    assert value("ece", y_true, proba) == pytest.approx(np.nansum(gaps) / len(y_true), abs=1e-12)


def test_ece_bins_are_closed_above():
    edges = np.linspace(0, 1, metrics.N_BINS + 1)[8:]  # above a half, so that the first class has the top
    excess = metrics.overconfidence(np.ones(len(edges), int), np.column_stack([edges, 1 - edges]))
    assert excess.argmax(axis=1).tolist() == list(range(7, metrics.N_BINS))


def test_ece_of_a_calibrated_model_is_small_and_of_a_sure_one_large():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(5), 20_000)
    y_true = (proba.cumsum(axis=1) > rng.random((len(proba), 1))).argmax(axis=1)
    sure = np.eye(5)[proba.argmax(axis=1)]
    assert value("ece", y_true, proba) < 0.015
    assert value("ece", y_true, sure) == pytest.approx(1 - (proba.argmax(axis=1) == y_true).mean())


def test_certainty_in_what_is_wrong_costs_much_but_is_finite():
    proba = np.array([[1.0, 0.0]])
    assert value("log_loss", np.array([1]), proba) == pytest.approx(36.04, abs=0.01)
    assert value("brier", np.array([1]), proba) == 2


@pytest.mark.parametrize("name", list(metrics.METRICS))
def test_every_metric_of_a_perfect_prediction_is_the_best_there_is(name):
    y = np.arange(15) % 5
    best = 1.0 if metrics.METRICS[name].is_greater_better else 0.0
    assert metrics.score(name, y, y, 5, np.eye(5)[y]) == (pytest.approx(best, abs=1e-12), "")


@pytest.mark.parametrize("name", list(metrics.METRICS))
def test_every_metric_says_rightly_whether_more_is_better(name):
    y_true, good = answers(sharpness=3.0)
    bad = good[np.random.default_rng(1).permutation(len(good))]
    better, worse = (metrics.score(name, y_true, proba.argmax(axis=1), 5, proba)[0] for proba in (good, bad))
    assert (better > worse) is metrics.METRICS[name].is_greater_better
    assert better != worse


@pytest.mark.parametrize("name", NEEDY)
def test_metric_of_probabilities_is_nan_with_a_reason_without_them(name):
    y = np.arange(15) % 5
    found, reason = metrics.score(name, y, y, 5)
    assert np.isnan(found)
    assert reason == "the model gives no probabilities"


def test_only_auroc_is_undefined_of_probabilities_when_a_class_is_not_tested():
    """scikit-learn warns and answers NaN for AUROC, or leaves the class out; the losses are means over utterances."""
    y_true, proba = answers(3, 30)
    y_true = np.where(y_true == 2, 0, y_true)
    found = {name: metrics.score(name, y_true, proba.argmax(axis=1), 3, proba) for name in NEEDY}
    assert {name for name, (score, _) in found.items() if np.isnan(score)} == {"auroc"}
    assert found["auroc"][1] == "no test utterance of 1 of the 3 declared classes"


def test_uar_of_one_answer_for_all_is_chance():
    assert metrics.uar(metrics.confusion(np.arange(20) % 5, np.zeros(20, int), 5)) == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["uar", "macro_f1"])
def test_metric_is_nan_with_a_reason_when_a_declared_class_is_not_tested(name):
    """scikit-learn answers 0.5 or 0.75 here, depending on the function; we answer neither."""
    y_true, y_pred = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    found, reason = metrics.score(name, y_true, y_pred, 3)
    assert np.isnan(found)
    assert reason == "no test utterance of 1 of the 3 declared classes"


def test_present_uar_leaves_out_classes_that_a_slice_lacks():
    y_true, y_pred = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    table = metrics.confusion(y_true, y_pred, 4)
    assert metrics.present_uar(table) == pytest.approx(balanced_accuracy_score(y_true, y_pred))


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Unknown metric 'uarr'\. Did you mean 'uar'\?"):
        metrics.score("uarr", np.array([0]), np.array([0]), 2)


# --- rows of one's own ----------------------------------------------------------------------------------------------


def kappa(tables):
    """Cohen's kappa, as anybody would write it."""
    n = tables.sum(axis=(-2, -1))
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    return (tables.trace(axis1=-2, axis2=-1) / n - expected) / (1 - expected)


@given(labels)
def test_metric_of_ones_own_needs_one_row(case):
    y_true, y_pred, k = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.METRICS, "kappa", metrics.MetricSpec("kappa", "Cohen's kappa", kappa))
        found, reason = metrics.score("kappa", y_true, y_pred, k)
    expected = cohen_kappa_score(y_true, y_pred, labels=list(range(k))) if len({*y_true, *y_pred}) > 1 else np.nan
    assert found == pytest.approx(expected, nan_ok=True)
    assert bool(reason) == np.isnan(found)


def broken(*_):
    raise ZeroDivisionError("no")


def changes_its_argument(tables):
    tables += 1
    return tables.sum(axis=(-2, -1))


WRONG = {
    "raises": (metrics.MetricSpec("odd", "", broken), "odd failed: ZeroDivisionError: no"),
    "not there": (
        metrics.MetricSpec("odd", "", "emobench.metrics:lost"),
        "odd failed: PluginError: .*:lost' cannot",
    ),
    "shape": (metrics.MetricSpec("odd", "", lambda tables: tables), r"odd returned .* shape \(5, 5\) instead of \(\)"),
    "changes": (metrics.MetricSpec("odd", "", changes_its_argument), "odd failed: ValueError: .*read-only"),
    "infinite": (metrics.MetricSpec("odd", "", lambda tables: np.inf), "odd is not defined of these predictions"),
    "no number": (metrics.MetricSpec("odd", "", lambda tables: "good"), "odd failed: ValueError: could not convert"),
    "losses raise": (metrics.MetricSpec("odd", "", metrics.mean_loss, of="losses", losses=broken), "odd failed: Zero"),
    "losses' shape": (
        metrics.MetricSpec("odd", "", metrics.mean_loss, of="losses", losses=lambda y, proba: 1.0),
        r"losses of odd have the shape \(\) for 15 utterances",
    ),
    "predictions": (metrics.MetricSpec("odd", "", broken, of="predictions"), "odd failed: ZeroDivisionError: no"),
}


@pytest.mark.parametrize(("row", "reason"), WRONG.values(), ids=WRONG)
def test_wrong_row_scores_nan_with_a_reason(row, reason, monkeypatch):
    monkeypatch.setitem(metrics.METRICS, "odd", row)
    y = np.arange(15) % 5
    found, why = metrics.score("odd", y, y, 5, np.eye(5)[y])
    assert np.isnan(found)
    assert re.match(reason, why)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"of": "words"}, "metric 'odd': `of` is 'words'; allowed are"),
        ({"of": "losses"}, "`losses` belongs to a metric of losses"),
        ({"losses": "a:b"}, "`losses` belongs to a metric of losses"),
        ({"interval": "a:b"}, "`interval` belongs to a metric of predictions"),
    ],
)
def test_row_that_contradicts_itself_is_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        metrics.MetricSpec("odd", "Odd", kappa, **fields)

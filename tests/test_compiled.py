"""The fast path answers what scikit-learn's `predict` and `predict_proba` answer."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emobench.errors import BundleError
from emobench.models import MODELS, build, get_model
from emobench.models import compiled as module
from emobench.models.compiled import compiled

QUICK = {
    "cnn": {"epochs": 2, "filters": 8, "pool_size": 4},
    "mlp": {"hidden_layer_sizes": (8, 4), "max_iter": 20},
    "xgboost": {"n_estimators": 5, "max_depth": 2},
}
N_FEATURES = 12

rng = np.random.default_rng(0)
CODES = np.arange(120) % 5
X = (rng.normal(scale=2, size=(5, N_FEATURES))[CODES] + rng.normal(size=(120, N_FEATURES))).astype(np.float32)
ASKED = np.vstack([X, X[:40] * 30, np.zeros((1, N_FEATURES)), rng.normal(scale=9, size=(60, N_FEATURES))])
ASKED = ASKED.astype(np.float32)


def fitted(model, y, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few epochs do not converge
        if isinstance(model, str):
            return build(get_model(model), QUICK.get(model, {}) | params, random_state=0).fit(X, y)
        return Pipeline([("scale", StandardScaler()), ("model", model)]).fit(X, y)


def assert_agree(estimator, n_classes, asked=ASKED):
    """Compare with the slow path; classes that were never seen have probability zero."""
    before = asked.copy()
    codes, proba = compiled(estimator, n_classes)(asked)
    np.testing.assert_array_equal(asked, before)
    np.testing.assert_array_equal(codes, estimator.predict(asked))
    assert codes.dtype.kind == "i"
    if not hasattr(estimator, "predict_proba"):
        assert proba is None
        return
    expected = np.zeros((len(asked), n_classes))
    expected[:, estimator.classes_] = estimator.predict_proba(asked)
    np.testing.assert_allclose(proba, expected, atol=1e-5)


@pytest.mark.parametrize("seen", [[0, 1], [0, 1, 2, 3, 4], [1, 4], [0, 2, 3]], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_fast_path_answers_as_the_slow_one(model, seen):
    estimator = fitted(model, np.array(seen)[CODES % len(seen)])
    assert_agree(estimator, 5)
    for n_rows in (1, 2, 65):
        for start in range(0, 140, 35):
            assert_agree(estimator, 5, ASKED[start : start + n_rows])


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_perceptron_of_any_activation(activation, n_classes):
    assert_agree(fitted("mlp", CODES % n_classes, activation=activation), n_classes)


@pytest.mark.parametrize(
    "params",
    [
        {"kernel": "linear"},
        {"kernel": "poly"},
        {"kernel": "sigmoid"},
        {"break_ties": True},
        {"class_weight": "balanced"},
    ]
    + [{"gamma": 0.5}, {"gamma": "auto", "C": 0.01}, {"decision_function_shape": "ovo"}],
    ids=str,
)
def test_support_vectors_of_any_kernel(params):
    assert_agree(fitted("svm", CODES, **params), 5)


def test_support_vectors_vote_as_libsvm_where_votes_are_tied():
    """In a circle of wins every class has as many votes, and the first of them is taken."""
    y = np.random.default_rng(3).permutation(CODES)
    estimator = fitted(SVC(C=0.01, gamma=0.01), y)
    asked = np.random.default_rng(4).normal(scale=3, size=(3000, N_FEATURES)).astype(np.float32)
    decisions = SVC.decision_function(
        estimator[-1].set_params(decision_function_shape="ovo"), estimator[0].transform(asked)
    )
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    votes = np.zeros((len(asked), 5), int)
    for (first, second), decision in zip(pairs, decisions.T, strict=True):
        votes[np.arange(len(asked)), np.where(decision > 0, first, second)] += 1
    assert ((votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1).any(), "no tie to be tested"
    assert_agree(estimator, 5, asked)


def test_kernel_matrices_are_made_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "MAX_KERNEL", 500)
    assert_agree(fitted("svm", CODES), 5)


@pytest.mark.parametrize(
    "model", [LogisticRegression(), MLPClassifier((4,), max_iter=20)], ids=lambda m: type(m).__name__
)
def test_model_of_scikit_learn_is_called_as_it_is_or_written_out(model):
    assert_agree(fitted(model, CODES), 5)


def test_subclass_is_called_as_it_is():
    """What it overrides must be heard."""

    class Contrary(SVC):
        def predict(self, X):
            return (super().predict(X) + 1) % 5

    assert_agree(fitted(Contrary(), CODES), 5)


@pytest.mark.parametrize("model", ["svm", "mlp", "cnn"])
def test_numbers_that_overflow_are_no_answer(model):
    estimator = fitted(model, CODES)
    estimator[0].scale_[:] = 1e-3
    with pytest.raises(BundleError, match="must"):
        compiled(estimator, 5)(np.full((1, N_FEATURES), 3e38, np.float32) * np.resize([1, -1], N_FEATURES).astype("f4"))

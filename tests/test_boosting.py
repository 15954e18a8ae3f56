"""The boosted trees are an estimator like any other, and XGBoost's own answers."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from emobench.errors import ConfigError
from emobench.models.boosting import XGBoostClassifier

EMOTIONS = np.array(["angry", "calm", "fearful", "happy", "sad"])

EXPECTED_FAILURES: dict[str, str] = {}


@parametrize_with_checks(
    [XGBoostClassifier(n_estimators=10)], expected_failed_checks=lambda estimator: EXPECTED_FAILURES
)
def test_xgboost_is_a_scikit_learn_classifier(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def clips():
    """90 clips of 12 features in 5 emotions that can be told apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 90)
    X = rng.normal(size=(90, 12)) + 2 * rng.normal(size=(5, 12))[y]
    return X.astype(np.float32), EMOTIONS[y]


@pytest.fixture(scope="module")
def fitted(clips):
    """A classifier of twenty rounds that draws clips and features. Do not fit it again."""
    return XGBoostClassifier(n_estimators=20, subsample=0.7, colsample_bytree=0.7, random_state=0).fit(*clips)


def trees_of(model):
    """Return everything that was fitted, as bytes."""
    return bytes(model.booster_.save_raw("ubj"))


def run(program):
    """Run Python in a fresh process, and return what it prints."""
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_xgboost_learns_to_tell_emotions_apart(clips):
    X, y = clips
    assert XGBoostClassifier(n_estimators=20).fit(X[:60], y[:60]).score(X[60:], y[60:]) > 0.6


def test_xgboost_defaults_are_those_of_the_design():
    params = XGBoostClassifier().get_params()
    assert (params["n_estimators"], params["max_depth"], params["learning_rate"]) == (300, 4, 0.3)


def test_xgboost_takes_classes_with_a_gap(clips):
    X, y = clips
    present = y != "fearful"
    model = XGBoostClassifier(n_estimators=5).fit(X[present], y[present])
    assert list(model.classes_) == ["angry", "calm", "happy", "sad"]
    assert model.predict_proba(X).shape == (90, 4)
    codes = XGBoostClassifier(n_estimators=5).fit(X[present], np.searchsorted(EMOTIONS, y[present]))
    assert list(codes.classes_) == [0, 1, 3, 4]


@pytest.mark.parametrize("n_classes", [2, 5])
def test_xgboost_answers_as_its_own_estimator(clips, n_classes):
    from xgboost import XGBClassifier

    X, y = clips
    codes = np.unique(y, return_inverse=True)[1]
    X, codes = X[codes < n_classes], codes[codes < n_classes]
    params = {"n_estimators": 7, "max_depth": 3, "learning_rate": 0.2, "min_child_weight": 2.0, "gamma": 0.1}
    expected = XGBClassifier(**params, n_jobs=1).fit(X, codes).predict_proba(X)
    proba = XGBoostClassifier(**params).fit(X, EMOTIONS[codes]).predict_proba(X)
    np.testing.assert_allclose(proba, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["subsample", "colsample_bytree", "min_child_weight", "reg_lambda", "gamma"])
def test_xgboost_passes_every_parameter_on(clips, name):
    params = {"n_estimators": 5, "random_state": 0}
    changed = {"subsample": 0.3, "colsample_bytree": 0.3, "min_child_weight": 5.0, "reg_lambda": 50.0, "gamma": 5.0}
    plain = XGBoostClassifier(**params).fit(*clips)
    other = XGBoostClassifier(**params, **{name: changed[name]}).fit(*clips)
    assert trees_of(plain) != trees_of(other)


def test_xgboost_is_bit_identical_for_the_same_seed(clips, fitted):
    assert trees_of(clone(fitted).fit(*clips)) == trees_of(fitted)
    other = clone(fitted).set_params(random_state=1).fit(*clips)
    assert trees_of(other) != trees_of(fitted)


def test_xgboost_is_bit_identical_in_fresh_processes():
    program = (
        "import numpy as np; from hashlib import sha256; from emobench.models.boosting import XGBoostClassifier\n"
        "X = np.random.default_rng(0).normal(size=(70, 9))\n"
        "model = XGBoostClassifier(n_estimators=5, subsample=0.5, random_state=5).fit(X, np.arange(70) % 5)\n"
        "print(sha256(model.booster_.save_raw('ubj')).hexdigest())"
    )
    first, second = run(program), run(program)
    assert len(first.strip()) == 64
    assert first == second


@pytest.mark.parametrize(
    "copied",
    [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy],
    ids=["pickle", "deepcopy"],
)
def test_xgboost_survives_a_copy(clips, fitted, copied):
    again = copied(fitted)
    assert np.array_equal(again.predict_proba(clips[0]), fitted.predict_proba(clips[0]))
    assert trees_of(again.fit(*clips)) == trees_of(fitted)


def test_xgboost_clone_is_unfitted_and_keeps_parameters(fitted):
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    assert not hasattr(again, "booster_")


def test_xgboost_one_row_is_answered_as_in_a_batch(clips, fitted):
    alone = np.vstack([fitted.predict_proba(row[None]) for row in clips[0]])
    assert np.array_equal(alone, fitted.predict_proba(clips[0]))


def test_xgboost_single_class_is_an_error_that_names_it(clips):
    with pytest.raises(ValueError, match="only one class, 'sad'"):
        XGBoostClassifier().fit(clips[0], np.full(90, "sad"))


@pytest.mark.parametrize(("name", "value"), [("subsample", 2.0), ("max_depth", -1), ("learning_rate", "fast")])
def test_xgboost_refused_parameter_is_one_readable_error(clips, name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        XGBoostClassifier(**{name: value}).fit(*clips)
    assert "\n" not in str(caught.value)


def test_boosting_imports_xgboost_only_on_use():
    assert run("import sys, emobench.models.boosting; print('xgboost' in sys.modules)") == "False\n"

"""The contract of a model: a scikit-learn classifier that depends on nothing but its data and its seed."""

from __future__ import annotations

import pickle
import random
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from emobench.models import ModelSpec, build, check_parameters, missing_packages, parameters, takes
from emobench.registry import resolve
from emobench.testing.rows import check_row, run_checks

LABELS = np.array(["angry", "calm", "happy", "sad"])
N_FEATURES = 20
SHAPE = (5, 4)  # of the same numbers as frames over time


def check_model(row: ModelSpec, *, params: Mapping[str, Any] | None = None, skip: Collection[str] = ()) -> None:
    """Check that a model keeps the contract that every entry of a leaderboard relies on.

    Parameters
    ----------
    row : ModelSpec
    params : mapping, optional
        Parameters that make a slow model quick; it must still learn four classes that a straight line separates.
    skip : collection of str
        Names of `MODEL_CHECKS` that need not hold.

    Raises
    ------
    AssertionError
        With what is wrong.
    """
    check_row(row, "model")
    run_checks(MODEL_CHECKS, skip, row, dict(params or {}))


def make_blobs(n_speakers: int = 6, n_clips: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (X, codes, speakers) of four classes that a straight line separates; X is float32 of shape (n, 20)."""
    rng = np.random.default_rng(seed)
    codes = np.tile(np.arange(len(LABELS)), n_speakers * n_clips // len(LABELS))
    centres = rng.normal(scale=5, size=(len(LABELS), N_FEATURES))
    X = (centres[codes] + rng.normal(size=(len(codes), N_FEATURES))).astype(np.float32)
    return X, codes, np.repeat(np.arange(n_speakers), n_clips)


X, CODES, SPEAKERS = make_blobs()
Y = LABELS[CODES]
UNHEARD = X[::7] + np.float32(0.1)
for _array in (X, CODES, Y, UNHEARD):
    _array.setflags(write=False)  # as worker processes get them: large arrays are read-only memory maps there


def answers(estimator: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return everything a fitted estimator says about X: labels, and probabilities where it has them."""
    proba = estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else np.empty(0)
    return np.asarray(estimator.predict(X)), np.asarray(proba)


def _build(row: ModelSpec, params: Mapping[str, Any], *, random_state: int) -> Any:
    """Return the unfitted pipeline; a model that sees nothing but frames is given the rows as such."""
    shape = () if "vector" in takes(row, params) else SHAPE
    return build(row, params, shape=shape, random_state=random_state)


def _same(one: Any, other: Any, problem: str) -> None:
    for left, right in zip(answers(one, UNHEARD), answers(other, UNHEARD), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=problem)


def _has_known_parameters(row: ModelSpec, params: dict[str, Any]) -> None:
    assert missing_packages(row) == [], f"not installed: {missing_packages(row)}"
    known = parameters(row)
    unknown = {*row.defaults, *row.space, *params} - set(known)
    assert not unknown, f"the class has no parameter {', '.join(sorted(unknown))}"
    check_parameters(row, known)


def _takes_labels(row: ModelSpec, params: dict[str, Any]) -> None:
    estimator = _build(row, params, random_state=0).fit(X, Y)
    assert hasattr(estimator, "classes_"), "fit sets no classes_"
    assert estimator.classes_.tolist() == LABELS.tolist(), f"classes_ is {estimator.classes_}, not the sorted labels"
    y_pred = np.asarray(estimator.predict(UNHEARD))
    assert y_pred.shape == (len(UNHEARD),), f"predict returns shape {y_pred.shape} for {len(UNHEARD)} rows"
    assert set(y_pred.tolist()) <= set(LABELS), f"predict returns {set(y_pred.tolist()) - set(LABELS)}, never fitted on"


def _does_not_read_labels(row: ModelSpec, params: dict[str, Any]) -> None:
    by_code, by_name = (_build(row, params, random_state=0).fit(X, y) for y in (CODES, Y))
    problem = "answers depend on what the classes are called"
    np.testing.assert_array_equal(LABELS[by_code.predict(UNHEARD)], by_name.predict(UNHEARD), err_msg=problem)
    np.testing.assert_array_equal(answers(by_code, UNHEARD)[1], answers(by_name, UNHEARD)[1], err_msg=problem)


def _does_not_order_labels(row: ModelSpec, params: dict[str, Any]) -> None:
    last = len(LABELS) - 1
    by_code, by_reverse = (_build(row, params, random_state=0).fit(X, y) for y in (CODES, last - CODES))
    problem = "answers depend on the order of the classes"
    np.testing.assert_array_equal(last - by_reverse.predict(X), by_code.predict(X), err_msg=problem)


def _takes_classes_with_gaps(row: ModelSpec, params: dict[str, Any]) -> None:
    kept = np.isin(CODES, [1, 3])
    estimator = _build(row, params, random_state=0).fit(X[kept], CODES[kept])
    assert estimator.classes_.tolist() == [1, 3], f"classes_ is {estimator.classes_} after a fit on the codes 1 and 3"
    y_pred, proba = answers(estimator, UNHEARD)
    assert set(y_pred.tolist()) <= {1, 3}, f"predict returns {set(y_pred.tolist())} after a fit on the codes 1 and 3"
    assert proba.shape in {(len(UNHEARD), 2), (0,)}, f"predict_proba returns shape {proba.shape} for 2 classes"


def _has_probabilities_that_are_some(row: ModelSpec, params: dict[str, Any]) -> None:
    estimator = _build(row, params, random_state=0).fit(X, Y)
    if not hasattr(estimator, "predict_proba"):
        return
    proba = np.asarray(estimator.predict_proba(UNHEARD))
    assert proba.shape == (len(UNHEARD), len(LABELS)), f"predict_proba returns shape {proba.shape}"
    assert (proba >= 0).all(), "a probability is negative, or NaN"
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5, err_msg="probabilities do not sum to 1")
    likeliest = estimator.classes_[proba.argmax(axis=1)]
    np.testing.assert_array_equal(likeliest, estimator.predict(UNHEARD), err_msg="predict is not the likeliest class")


def _follows_its_seed(row: ModelSpec, params: dict[str, Any]) -> None:
    one, other = (_build(row, params, random_state=3).fit(X, Y) for _ in range(2))
    _same(one, other, "two fits with one random_state differ")


def _forgets_the_last_fit(row: ModelSpec, params: dict[str, Any]) -> None:
    again = _build(row, params, random_state=0).fit(X[::-1] * 3, np.roll(Y, 7))
    fresh = _build(row, params, random_state=0).fit(X, Y)
    _same(again.fit(X, Y), fresh, "a second fit remembers the first")


def _can_be_cloned(row: ModelSpec, params: dict[str, Any]) -> None:
    from sklearn.base import clone

    estimator = _build(row, params, random_state=0).fit(X, Y)
    copy = clone(estimator)
    assert not hasattr(copy[-1], "classes_"), "a clone is fitted"
    assert copy[-1].get_params() == estimator[-1].get_params(), "a clone has other parameters"
    _same(copy.fit(X, Y), estimator, "a fitted clone answers differently")


def _has_parameters_that_can_be_set(row: ModelSpec, params: dict[str, Any]) -> None:
    given = _build(row, params, random_state=0)[-1].get_params()
    fresh = resolve(row.estimator)().set_params(**given)
    assert fresh.get_params() == given, "set_params does not set what get_params returned"


def _can_be_pickled(row: ModelSpec, params: dict[str, Any]) -> None:
    estimator = _build(row, params, random_state=0).fit(X, Y)
    _same(pickle.loads(pickle.dumps(estimator)), estimator, "the fitted model answers differently after pickling")


def _leaves_its_data_alone(row: ModelSpec, params: dict[str, Any]) -> None:
    try:
        answers(_build(row, params, random_state=0).fit(X, Y), UNHEARD)
    except ValueError as error:
        raise AssertionError(f"it writes into its data: {error}") from error


def _answers_one_clip_as_in_a_batch(row: ModelSpec, params: dict[str, Any]) -> None:
    estimator = _build(row, params, random_state=0).fit(X, Y)
    y_pred, proba = answers(estimator, UNHEARD)
    for number in range(3):
        label, alone = answers(estimator, UNHEARD[number : number + 1])
        assert label[0] == y_pred[number], "an answer depends on the other rows of the batch"
        expected = proba[number : number + 1]
        np.testing.assert_allclose(alone, expected, atol=1e-6, err_msg="a probability depends on the batch")


def _leaves_global_random_states(row: ModelSpec, params: dict[str, Any]) -> None:
    before = _global_states()
    answers(_build(row, params, random_state=0).fit(X, Y), UNHEARD)
    assert _global_states() == before, "it draws from the global random generator; use random_state"


def _global_states() -> tuple[Any, ...]:
    state = np.random.get_state(legacy=False)
    generator = state.pop("state")
    return random.getstate(), generator["key"].tolist(), generator["pos"], state


def _works_in_cross_validate(row: ModelSpec, params: dict[str, Any]) -> None:
    from sklearn.model_selection import GroupKFold, cross_validate

    estimator = _build(row, params, random_state=0)
    scores = cross_validate(estimator, X, Y, groups=SPEAKERS, cv=GroupKFold(2), error_score="raise")
    assert np.isfinite(scores["test_score"]).all(), "cross_validate gives no score"


def _beats_chance(row: ModelSpec, params: dict[str, Any]) -> None:
    train = SPEAKERS < 4
    estimator = _build(row, params, random_state=0).fit(X[train], Y[train])
    accuracy = np.mean(np.asarray(estimator.predict(X[~train])) == Y[~train])
    assert accuracy > 0.9, f"accuracy is {accuracy:.2f} on four well separated classes; chance is 0.25"


MODEL_CHECKS = {
    check.__name__.strip("_"): check
    for check in (
        _has_known_parameters,
        _leaves_its_data_alone,
        _takes_labels,
        _does_not_read_labels,
        _does_not_order_labels,
        _takes_classes_with_gaps,
        _has_probabilities_that_are_some,
        _follows_its_seed,
        _forgets_the_last_fit,
        _can_be_cloned,
        _has_parameters_that_can_be_set,
        _can_be_pickled,
        _answers_one_clip_as_in_a_batch,
        _leaves_global_random_states,
        _works_in_cross_validate,
        _beats_chance,
    )
}

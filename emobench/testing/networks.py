"""The contract of a network: Keras, one answer a recording, and the same one for the same seed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from emobench.errors import ConfigError
from emobench.models.networks import NetworkSpec, build_network
from emobench.registry import offering
from emobench.testing.rows import check_row, run_checks

if TYPE_CHECKING:
    import keras

SHAPES = {"vector": (40, 1), "frames": (60, 24)}
N_CLASSES = 4


def check_network(row: NetworkSpec, *, skip: Collection[str] = ()) -> None:
    """Check that a network keeps its contract, with its default options and every kind of features it takes.

    Parameters
    ----------
    row : NetworkSpec
    skip : collection of str
        Names of `NETWORK_CHECKS` that need not hold.

    Raises
    ------
    AssertionError
        With what is wrong.
    """
    check_row(row, "network")
    assert set(row.takes) <= set(SHAPES), f"it takes {row.takes}; features are of {' or '.join(SHAPES)}"
    assert row.takes, "it takes no features"
    run_checks(NETWORK_CHECKS, skip, row)


def _build(row: NetworkSpec, takes: str, n_classes: int = N_CLASSES) -> keras.Model:
    try:
        return build_network(row, SHAPES[takes], n_classes, {})
    except ConfigError as error:
        raise AssertionError(str(error)) from error


def _inputs(takes: str, n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *SHAPES[takes])).astype(np.float32)


def _searches_options_that_it_has(row: NetworkSpec) -> None:
    unknown = set(row.space) - set(row.options())
    assert not unknown, f"its search space names {', '.join(sorted(unknown))}, which is no option of its function"


def _gives_probabilities_of_any_number_of_classes(row: NetworkSpec) -> None:
    for takes in row.takes:
        for n_classes in (2, N_CLASSES):
            _build(row, takes, n_classes)


def _answers_one_recording_as_in_a_batch(row: NetworkSpec) -> None:
    for takes in row.takes:
        network, X = _build(row, takes), _inputs(takes, 5)
        together = np.asarray(network(X, training=False))
        alone = np.concatenate([np.asarray(network(X[[number]], training=False)) for number in range(len(X))])
        np.testing.assert_allclose(alone, together, atol=1e-5, err_msg="an answer depends on the rest of the batch")


def _follows_its_seed(row: NetworkSpec) -> None:
    from emobench.models.keras_classifier import KerasClassifier

    y = np.arange(48) % N_CLASSES
    with offering(replace(row, name="checked")):
        for takes in row.takes:
            X = _inputs(takes, len(y)).reshape(len(y), -1)
            fits = (KerasClassifier("checked", shape=SHAPES[takes], epochs=2, random_state=3).fit(X, y) for _ in "ab")
            one, other = (fitted.predict_proba(X) for fitted in fits)
            np.testing.assert_array_equal(one, other, err_msg="two fits with one random_state differ")


NETWORK_CHECKS = {
    check.__name__.strip("_"): check
    for check in (
        _searches_options_that_it_has,
        _gives_probabilities_of_any_number_of_classes,
        _answers_one_recording_as_in_a_batch,
        _follows_its_seed,
    )
}
"""Name → check, in the order in which they run."""

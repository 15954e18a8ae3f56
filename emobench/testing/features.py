"""The contract of a feature set: a function of the samples alone, finite, of one length or in windows of one shape."""

from __future__ import annotations

import numpy as np

from emobench.features import FeatureSpec
from emobench.testing.rows import check_row

DURATION_S = 1.0


def check_features(row: FeatureSpec) -> None:
    """Check that a feature set gives finite numbers that depend on nothing but the signal.

    Of one whose numbers stand in a file, only the row is checked.

    Raises
    ------
    AssertionError
        With what is wrong.
    """
    check_row(row, "feature set")
    if row.is_read:
        return
    one, other = _noise(row, seed=1), _noise(row, seed=2)
    first = _vector(row, one, "noise")
    problem = "a signal has other features the next time"
    np.testing.assert_array_equal(_vector(row, one, "noise"), first, err_msg=problem)
    second = _vector(row, other, "other noise")
    problem = "the features of a signal depend on the signal before it"
    np.testing.assert_array_equal(_vector(row, one, "noise"), first, err_msg=problem)
    assert not np.array_equal(first, second), "two signals have the same features"
    for name, signal in _signals(row).items():
        _vector(row, signal, name)
    _check_samples_alone_count(row, one, first)


def _vector(row: FeatureSpec, signal: np.ndarray, name: str) -> np.ndarray:
    before = signal.copy()
    signal.setflags(write=False)
    try:
        vector = np.asarray(row(signal))
    except Exception as error:
        raise AssertionError(f"it fails on {name}: {type(error).__name__}: {error}") from error
    np.testing.assert_array_equal(signal, before, err_msg="it changes the signal")
    is_kept = row.is_kept_by(vector)
    assert is_kept, f"the features of {name} have shape {vector.shape}, and the row says {row.promise}"
    assert np.isfinite(vector.astype(np.float32)).all(), f"the features of {name} are not finite"
    return vector


def _noise(row: FeatureSpec, seed: int) -> np.ndarray:
    n_samples = max(row.min_samples, round(DURATION_S * row.sr))
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def _signals(row: FeatureSpec) -> dict[str, np.ndarray]:
    noise = _noise(row, seed=3)
    time_s = np.arange(len(noise)) / row.sr
    return {
        "the shortest signal": noise[: row.min_samples].copy(),
        "silence": np.zeros_like(noise),
        "a tone": (0.5 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32),
        "a constant": np.full_like(noise, 0.5),
        "a signal at full scale": np.sign(noise).astype(np.float32),
        "a very quiet signal": (1e-6 * noise).astype(np.float32),
        "a click": np.eye(1, len(noise), len(noise) // 2, dtype=np.float32)[0],
        "a long signal": np.tile(noise, 10),
    }


def _check_samples_alone_count(row: FeatureSpec, signal: np.ndarray, expected: np.ndarray) -> None:
    strided = np.zeros((len(signal), 2), dtype=np.float32)
    strided[:, 0] = signal
    same: dict[str, np.ndarray] = {"a strided array": strided[:, 0], "float64": signal.astype(np.float64)}
    for name, other in same.items():
        vector = _vector(row, other, name)
        np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-4, err_msg=f"{name} has other features")

"""The contract of a stress: a signal in, a signal out, the same one for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from emobench.registry import offering
from emobench.stresses import Change, StressSpec
from emobench.testing.rows import check_row

RATES_HZ = (8_000, 22_050, 48_000)
DURATION_S = 0.5
N_VOICES = 4


def check_stress(row: StressSpec) -> None:
    """Check that a stress changes signals of any rate, and depends on nothing but its seed.

    Raises
    ------
    AssertionError
        With what is wrong.
    """
    check_row(row, "stress")
    assert len(set(row.levels)) == len(row.levels), f"a level stands twice in {row.levels}"
    named = replace(row, name="checked")
    with offering(named):
        for level in row.levels:
            changed = [_changes(row, level, sr) for sr in RATES_HZ]
            assert any(changed), f"{row.describe(level)} changes nothing"


def _changes(row: StressSpec, level: float, sr: int) -> bool:
    """Check a level at a rate; return whether it changes the signal."""
    signal = _voice(sr, seed=1)
    before, first = signal.copy(), _stressed(row, level, signal, sr)
    np.testing.assert_array_equal(signal, before, err_msg="it changes the signal that it is given")
    again = "the same signal is stressed differently the next time"
    np.testing.assert_array_equal(_stressed(row, level, signal, sr), first, err_msg=again)
    other = _stressed(row, level, signal, sr, clip="another")
    is_equal = np.array_equal(other, first)
    assert not row.is_random or not is_equal, "every recording gets the same draw: use the generator that is given"
    assert row.is_random or is_equal, "it depends on which recording it is"
    for name, odd in {"silence": np.zeros_like(signal), "a short signal": signal[: sr // 10]}.items():
        _stressed(row, level, odd, sr, name)
    return not np.array_equal(first, before)


def _stressed(
    row: StressSpec, level: float, signal: np.ndarray, sr: int, name: str = "a voice", *, clip: str = "one"
) -> np.ndarray:
    signal.setflags(write=False)
    voices = [_voice(sr, seed=2 + number) for number in range(N_VOICES)]
    try:
        return Change("checked", level)(signal, sr, clip=clip, voices=voices)
    except Exception as error:
        where = f"{row.describe(level)} on {name} at {sr} Hz"
        raise AssertionError(f"it fails with {where}: {type(error).__name__}: {error}") from error


def _voice(sr: int, seed: int) -> np.ndarray:
    """Return pulses of a pitch that glides, under noise: enough of a voice for a filter or a pitch tracker."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(DURATION_S * sr)) / sr
    phase = 2 * np.pi * np.cumsum(100 + 20 * seed + 30 * time_s) / sr
    tones = sum(np.sin(number * phase) / number for number in range(1, 8))
    return (0.1 * tones + 0.01 * rng.standard_normal(len(time_s))).astype(np.float32)

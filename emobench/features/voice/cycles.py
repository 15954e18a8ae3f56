"""The voice cycle by cycle: jitter, shimmer and the first harmonics, from each pulse and its two neighbours.

References
----------
Milenkovic (1987), Least mean square measures of voice perturbation, Journal of Speech and Hearing Research 30: cycles
are compared as wave forms, which needs no exact place of the glottal pulse.
Hanson (1997), Glottal characteristics of female speakers, Journal of the Acoustical Society of America 101: what the
first harmonics say about the open quotient.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from emobench.features.voice.pitch import LOWEST_HZ
from emobench.features.voice.speech import HOP, SR

_POINTS = 64  # a period
_SEARCH = 12  # points by which a neighbouring cycle may be longer or shorter: 19 %
_REACH = 2 * _POINTS  # points on each side of the pulse
_MARGIN = int(3 * SR / LOWEST_HZ)  # samples beyond the ends that the points of the first and last frames may reach
_FRAMES_AT_ONCE = 512
_SMALL = 1e-10


class Cycles(NamedTuple):
    """What three neighbouring cycles of each voiced frame are like; float32 of shape (n_voiced,).

    Attributes
    ----------
    jitter
        Difference of the two periods around a pulse over their mean.
    shimmer
        Mean difference of neighbouring amplitudes over the mean of the three.
    h1_h2_db, h1_h3_db
        Level of the first harmonic over that of the second, and over that of the third.
    """

    jitter: np.ndarray
    shimmer: np.ndarray
    h1_h2_db: np.ndarray
    h1_h3_db: np.ndarray


def measure_cycles(speech: np.ndarray, f0_hz: np.ndarray) -> Cycles:
    """Measure the cycles around the middle of each voiced frame (``f0_hz > 0``) of a signal at `SR`."""
    voiced = np.flatnonzero(f0_hz)
    padded = np.pad(speech, _MARGIN)
    blocks = [voiced[start : start + _FRAMES_AT_ONCE] for start in range(0, len(voiced), _FRAMES_AT_ONCE)]
    measured = [_measure(padded, _MARGIN + (block + 0.5) * HOP, SR / f0_hz[block]) for block in blocks]
    return Cycles(*np.concatenate(measured, axis=1)) if measured else Cycles(*np.empty((4, 0), dtype=np.float32))


def _measure(speech: np.ndarray, middles: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Return the rows of `Cycles` for frames of known middle and period, in samples."""
    half = _POINTS // 2
    power = np.square(_at_points(speech, middles, periods, half)[:, :-1])
    pulses = middles + np.angle(power @ _turn()) / (2 * np.pi) * periods  # where the energy of a cycle is centred
    around = _at_points(speech, pulses, periods, _REACH)
    own = around[:, _REACH - half : _REACH + half + 1]
    amplitude = np.sqrt(np.einsum("nj,nj->n", own, own))
    period_after, amplitude_after = _next_cycle(around, own)
    period_before, amplitude_before = _next_cycle(around[:, ::-1], own[:, ::-1])
    jitter = 2 * np.abs(period_after - period_before) / (period_after + period_before)
    change = np.abs(amplitude_after - amplitude) + np.abs(amplitude_before - amplitude)
    shimmer = 1.5 * change / (amplitude_before + amplitude + amplitude_after + _SMALL)
    parts = np.square(around @ _harmonics()).reshape(len(around), 3, 2)
    first, second, third = 10 * np.log10(parts.sum(axis=2).T + _SMALL)
    return np.stack([jitter, shimmer, first - second, first - third]).astype(np.float32)


def _at_points(speech: np.ndarray, middles: np.ndarray, periods: np.ndarray, reach: int) -> np.ndarray:
    """Return a signal at `reach` points on each side of each middle, `_POINTS` a period, by linear interpolation."""
    places = middles[:, np.newaxis] + periods[:, np.newaxis] * (np.arange(-reach, reach + 1) / _POINTS)
    left = places.astype(np.intp)
    weight = places - left
    return (1 - weight) * speech[left] + weight * speech[left + 1]


def _next_cycle(around: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return after how many points the next cycle is most like the own one, and its amplitude."""
    half, shortest = _POINTS // 2, _POINTS - _SEARCH - 1
    start = _REACH - half + shortest
    reached = around[:, start : start + 2 * (_SEARCH + 1) + len(own[0])]
    cycles = np.lib.stride_tricks.sliding_window_view(reached, len(own[0]), axis=1)
    power = np.einsum("nlj,nlj->nl", cycles, cycles)
    likeness = np.einsum("nlj,nj->nl", cycles, own) / np.sqrt(power + _SMALL)
    rows = np.arange(len(around))
    best = 1 + likeness[:, 1:-1].argmax(axis=1)
    before, here, later = (likeness[rows, best + step] for step in (-1, 0, 1))
    shift = np.clip(0.5 * (before - later) / np.minimum(before - 2 * here + later, -_SMALL), -0.5, 0.5)
    return shortest + best + shift, np.sqrt(power[rows, best])


@lru_cache(maxsize=1)
def _turn() -> np.ndarray:
    """Return the points of one period, from its middle less half to its middle plus half, on the unit circle."""
    return np.exp(2j * np.pi * np.arange(-_POINTS // 2, _POINTS // 2) / _POINTS)


@lru_cache(maxsize=1)
def _harmonics() -> np.ndarray:
    """Return the waves of the first three harmonics under a Hann window, (2 · _REACH + 1, 6)."""
    periods = np.arange(-_REACH, _REACH + 1) / _POINTS
    window = 0.5 + 0.5 * np.cos(np.pi * periods / periods[-1])
    waves = [wave(2 * np.pi * number * periods) * window for number in (1, 2, 3) for wave in (np.cos, np.sin)]
    return np.stack(waves, axis=1)

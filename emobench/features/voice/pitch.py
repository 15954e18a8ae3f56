"""Fundamental frequency and harmonicity: the autocorrelation's peaks, and the best path through them.

References
----------
Boersma (1993), Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled
sound, Proceedings of the Institute of Phonetic Sciences 17, Amsterdam: the division by the window's autocorrelation,
and the costs of the path.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from emobench.features.voice.speech import SR, active_speech, frames_around_cells

LOWEST_HZ, HIGHEST_HZ = 65.0, 600.0
WINDOW = 1024  # 64 ms: four periods of the lowest voice
N_FFT = 2 * WINDOW
N_CANDIDATES = 6
_BAND_HZ = 4000.0  # what lies above is more noise than voice, and telephones have none of it

_UNVOICED = 0.45  # a frame whose strongest peak is lower is better unvoiced
_SILENT_DB = -30.0  # and so is one that is softer than the speech by more
_OCTAVE_COST = 0.01  # per octave: of two peaks as strong, the higher pitch
_JUMP_COST = 0.35  # per octave from one frame to the next
_SWITCH_COST = 0.14  # between voiced and unvoiced
_FRAMES_AT_ONCE = 512
_SMALL = 1e-10


class Pitch(NamedTuple):
    """The pitch of each frame.

    Attributes
    ----------
    f0_hz : float32 array of shape (n_frames,)
        0 where the frame is unvoiced.
    harmonicity_db : float32 array of shape (n_frames,)
        Power of what repeats over power of what does not, from the autocorrelation at the period, or at its highest
        peak where the frame is unvoiced; within ±20 dB.
    """

    f0_hz: np.ndarray
    harmonicity_db: np.ndarray


def track_pitch(speech: np.ndarray) -> Pitch:
    """Follow the pitch of a signal at `SR` and of unit active power, a frame each 10 ms."""
    frames = frames_around_cells(speech, WINDOW)
    blocks = [_candidates(frames[start : start + _FRAMES_AT_ONCE]) for start in range(0, len(frames), _FRAMES_AT_ONCE)]
    lags, heights, is_silent = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    path = best_path(lags, heights, is_silent)
    rows, chosen = np.arange(len(path)), np.minimum(path, N_CANDIDATES - 1)
    is_voiced = path < N_CANDIDATES
    f0_hz = np.where(is_voiced, SR / lags[rows, chosen], 0)
    repeats = np.clip(np.where(is_voiced, heights[rows, chosen], heights.max(axis=1)), 0.01, 0.99)
    return Pitch(f0_hz.astype(np.float32), (10 * np.log10(repeats / (1 - repeats))).astype(np.float32))


def voiced_f0(signal: np.ndarray, *, sr: int) -> np.ndarray:
    """Return the pitch of a signal at `SR`, frame by frame: float32 of shape (1, n_frames), 0 where it is unvoiced."""
    return track_pitch(active_speech(signal)).f0_hz[np.newaxis]


def mean_of_voiced(f0_hz: np.ndarray) -> np.ndarray:
    """Return the mean pitch over voiced frames, (1, n_frames) → (1,); 0 where there are none."""
    is_voiced = f0_hz > 0
    return f0_hz.sum(axis=1) / np.maximum(is_voiced.sum(axis=1), 1)


def semitones(f0_hz: np.ndarray) -> np.ndarray:
    """Return frequencies as semitones above 27.5 Hz, the lowest A of a piano."""
    return 12 * np.log2(f0_hz / 27.5)


def _candidates(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return lags in samples and heights of each frame's highest peaks, both (n_frames, N_CANDIDATES), and silence."""
    from scipy.fft import irfft, rfft

    tables = _tables()
    spectrum = rfft(frames * tables.window, N_FFT, axis=1)[:, : tables.n_bins]
    correlation = irfft(spectrum.real**2 + spectrum.imag**2, N_FFT, axis=1)
    energy = correlation[:, :1]
    curve = correlation[:, tables.first - 1 : tables.first - 1 + len(tables.weight)] / (energy + _SMALL) / tables.weight
    before, here, after = curve[:, :-2], curve[:, 1:-1], curve[:, 2:]
    strength = np.where((here > before) & (here >= after), here + tables.bonus, -1)
    best = np.argpartition(strength, -N_CANDIDATES, axis=1)[:, -N_CANDIDATES:]
    before, here, after = (np.take_along_axis(one, best, axis=1) for one in (before, here, after))
    bend = np.minimum(before - 2 * here + after, -_SMALL)
    shift = np.clip(0.5 * (before - after) / bend, -0.5, 0.5)  # to the top of the parabola through three points
    heights = np.where(np.take_along_axis(strength, best, axis=1) > -1, here - 0.25 * (before - after) * shift, 0)
    is_silent = energy[:, 0] < tables.energy * 10 ** (_SILENT_DB / 10)
    return tables.first + best + shift, heights, is_silent


def best_path(lags: np.ndarray, heights: np.ndarray, is_silent: np.ndarray) -> np.ndarray:
    """Return the candidate of each frame on the path of the highest sum of strengths less costs (Viterbi).

    Parameters
    ----------
    lags, heights : arrays of shape (n_frames, n_candidates)
    is_silent : bool array of shape (n_frames,)

    Returns
    -------
    path : int array of shape (n_frames,)
        ``n_candidates`` stands for unvoiced.
    """
    n_frames, n_candidates = lags.shape
    octaves = np.log2(lags)
    local = np.empty((n_frames, n_candidates + 1))
    local[:, :-1] = heights - _OCTAVE_COST * (octaves - np.log2(SR / HIGHEST_HZ))
    local[:, -1] = _UNVOICED + 0.5 * is_silent
    cost = np.full((n_frames, n_candidates + 1, n_candidates + 1), _SWITCH_COST)  # [frame, to, from]
    cost[1:, :-1, :-1] = _JUMP_COST * np.abs(octaves[1:, :, np.newaxis] - octaves[:-1, np.newaxis, :])
    cost[:, -1, -1] = 0
    came_from = np.empty((n_frames, n_candidates + 1), dtype=np.int8)
    total = local[0]
    for frame in range(1, n_frames):
        arriving = total - cost[frame]
        came_from[frame] = arriving.argmax(axis=1)
        total = arriving.max(axis=1) + local[frame]
    path = np.empty(n_frames, dtype=np.intp)
    path[-1] = total.argmax()
    for frame in range(n_frames - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return path


class _Tables(NamedTuple):
    """What depends on no signal.

    `window` (WINDOW,); `n_bins` below 4 kHz; `first`, the shortest lag; `weight`, the window's own normalised
    autocorrelation from one lag before that to one after the longest; `bonus`, what the octave cost takes off each lag;
    `energy`, the autocorrelation at lag 0 of a signal of unit power.
    """

    window: np.ndarray
    n_bins: int
    first: int
    weight: np.ndarray
    bonus: np.ndarray
    energy: float


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    from scipy.fft import irfft, rfft

    window = np.hanning(WINDOW + 2)[1:-1]
    own = irfft(np.abs(rfft(window, N_FFT)) ** 2)
    first, last = int(SR / HIGHEST_HZ), int(np.ceil(SR / LOWEST_HZ))
    lags = np.arange(first, last + 1)
    return _Tables(
        window=window.astype(np.float32),
        n_bins=int(_BAND_HZ * N_FFT / SR),
        first=first,
        weight=(own[first - 1 : last + 2] / own[0]).astype(np.float32),
        bonus=(-_OCTAVE_COST * np.log2(lags / first)).astype(np.float32),
        energy=float(own[0]),
    )

"""From a recording to speech of known level on a grid of cells: high-pass filter, trimming, active level.

All that follows is relative to the level of the speech, so that no feature depends on the gain of the microphone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SR = 16_000
HOP = 160  # samples a cell; 10 ms
ACTIVE_DB = -40.0  # cells softer than the loudest by more are no speech

_STOP_HZ, _PASS_HZ = 52.0, 80.0
_STOP_DB = 80.0
_BLOCK = 8192
_BLOCKS_AT_ONCE = 32  # 11 s


def active_speech(signal: np.ndarray) -> np.ndarray:
    """Return a signal without offset, hum and the silence around it, at unit power while somebody speaks.

    Parameters
    ----------
    signal : array of shape (n_samples,)
        At `SR`.

    Returns
    -------
    speech : float32 array of shape (n_cells · HOP,)
        From the first active cell to the last. All of a signal that is digital silence.
    """
    signal = high_pass(signal)
    power, is_active = activity(signal)
    if not is_active.any():
        return np.zeros(len(power) * HOP, dtype=np.float32)
    first, last = np.flatnonzero(is_active)[[0, -1]]
    speech = signal[first * HOP : (last + 1) * HOP] * np.float32(power[is_active].mean() ** -0.5)
    return np.pad(speech, (0, -len(speech) % HOP))


def activity(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the power of each cell of 10 ms, smoothed over 30 ms, and whether somebody speaks there.

    A cell is active when it is at most 40 dB softer than the loudest. The mean power of active cells is the level of
    the speech, whatever pauses the recording has; ITU-T P.56 (2011) defines active speech level in this sense.
    """
    cells = np.add.reduceat(np.square(signal, dtype=np.float64), np.arange(0, len(signal), HOP)) / HOP
    power = np.convolve(np.pad(cells, 1), np.full(3, 1 / 3), mode="valid")
    return power, power > power.max() * 10 ** (ACTIVE_DB / 10)


def high_pass(signal: np.ndarray) -> np.ndarray:
    """Remove the mean and what lies below the voice: 80 dB less at 50 Hz, nothing above 80 Hz.

    A linear-phase FIR filter, so that pulses stay where they are, applied by overlap-save. The signal goes on beyond
    its ends by odd reflection, so that hum does not click there.

    Returns
    -------
    filtered : float32 array of shape (n_samples,)
    """
    from scipy.fft import irfft, rfft

    response, half = _high_pass_response()
    signal = np.asarray(signal, dtype=np.float32)
    mean = signal.mean(dtype=np.float64)
    step = _BLOCK - 2 * half
    n_blocks = -(-len(signal) // step)
    extended = _extended(signal, half, n_blocks * step + 2 * half, fill=mean)
    blocks = np.lib.stride_tricks.sliding_window_view(extended, _BLOCK)[::step]
    filtered = np.empty((n_blocks, step), dtype=np.float32)
    for start in range(0, n_blocks, _BLOCKS_AT_ONCE):
        some = slice(start, start + _BLOCKS_AT_ONCE)
        # In float64, since rounding depends on the gain. A circular convolution begins with samples from its end.
        filtered[some] = irfft(rfft(blocks[some] - mean, axis=1) * response, axis=1)[:, 2 * half :]
    return filtered.reshape(-1)[: len(signal)]


def _extended(signal: np.ndarray, half: int, length: int, *, fill: float) -> np.ndarray:
    """Return a signal with `half` samples before it and what is missing to `length` after it.

    They are its odd reflections, as far as these go.
    """
    extended = np.full(length, fill, dtype=np.float32)
    extended[half : half + len(signal)] = signal
    n = min(half, len(signal) - 1)
    extended[half - n : half] = 2 * signal[0] - signal[n:0:-1]
    extended[half + len(signal) : half + len(signal) + n] = 2 * signal[-1] - signal[-2 : -2 - n : -1]
    return extended


@lru_cache(maxsize=1)
def _high_pass_response() -> tuple[np.ndarray, int]:
    """Return the spectrum of the filter over a block, and half its length: a sinc under a Kaiser window.

    References
    ----------
    Kaiser (1974), Nonrecursive digital filter design using the I0-sinh window function, IEEE ISCAS.
    """
    from scipy.fft import rfft

    width = 2 * np.pi * (_PASS_HZ - _STOP_HZ) / SR
    half = int(np.ceil((_STOP_DB - 7.95) / (2.285 * width) / 2))
    times = np.arange(-half, half + 1)
    low_pass = np.sinc((_PASS_HZ + _STOP_HZ) / SR * times) * np.kaiser(len(times), 0.1102 * (_STOP_DB - 8.7))
    taps = (times == 0) - low_pass / low_pass.sum()
    return rfft(taps, _BLOCK), half


def frames_around_cells(speech: np.ndarray, length: int) -> np.ndarray:
    """Return the frames of `length` samples around the middle of each cell, with zeros beyond the ends.

    Returns
    -------
    frames : read-only view of shape (n_cells, length)
    """
    return np.lib.stride_tricks.sliding_window_view(np.pad(speech, (length - HOP) // 2), length)[::HOP]

"""Mel-frequency cepstral coefficients, equal to `librosa.feature.mfcc` with its defaults, and their statistics.

What does not depend on the clip (window, filters, cosines) is made once a process, with NumPy and SciPy alone: to
import librosa takes as long as to extract 500 clips. Everything but sums over time is float32. Frames are worked on in
blocks, which bounds the memory that an hour of sound takes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

N_FFT = 2048
HOP_LENGTH = 512
N_MELS = 128
DELTA_WIDTH = 9
_AMIN = 1e-10
_TOP_DB = 80.0
_FRAMES_AT_ONCE = 160  # 3.7 s, 1.3 MB of samples
_BANDS_AT_ONCE = 16


def mfcc(signal: np.ndarray, *, sr: int, n_mfcc: int) -> np.ndarray:
    """Return the MFCC of a signal, as ``librosa.feature.mfcc(y=signal, sr=sr, n_mfcc=n_mfcc)``.

    Parameters
    ----------
    signal : float32 array of shape (n_samples,)
    sr : int
        Sampling rate in Hz.

    Returns
    -------
    coefficients : float32 array of shape (n_mfcc, n_frames)
    """
    from scipy.fft import rfft

    tables = _tables(sr, n_mfcc)
    padded = np.empty(len(signal) + N_FFT, dtype=np.float32)
    padded[: N_FFT // 2] = padded[len(signal) + N_FFT // 2 :] = 0
    padded[N_FFT // 2 : len(signal) + N_FFT // 2] = signal
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
    mel = np.empty((len(frames), N_MELS), dtype=np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        block = slice(start, start + _FRAMES_AT_ONCE)
        # Real and imaginary parts side by side; the filters have every row twice, so that they are summed.
        spectrum = rfft(frames[block] * tables.window, axis=1, overwrite_x=True).view(np.float32)
        power = np.square(spectrum, out=spectrum)
        for bands, bins, filters in tables.filters:
            np.matmul(power[:, bins], filters, out=mel[block, bands])
    decibel = np.log(np.maximum(mel, _AMIN, out=mel), out=mel)
    decibel *= 10 / math.log(10)  # NumPy's log is several times as fast as its log10
    np.maximum(decibel, decibel.max() - _TOP_DB, out=decibel)
    return np.matmul(tables.cosines, decibel.T)


def time_mean(coefficients: np.ndarray) -> np.ndarray:
    """Return the mean of each coefficient over time: float32 of shape (n_coefficients,)."""
    return coefficients.mean(axis=1, dtype=np.float64).astype(np.float32)


def time_statistics(coefficients: np.ndarray) -> np.ndarray:
    """Return what each coefficient is like over time: its mean, its deviation, and that of its first two deltas.

    Parameters
    ----------
    coefficients : array of shape (n_coefficients, n_frames)
        At least nine frames.

    Returns
    -------
    vector : float32 array of shape (4 · n_coefficients,)
        Means, then standard deviations, those of the deltas, those of the deltas of second order.
    """
    series = (coefficients, delta(coefficients), delta(coefficients, order=2))
    deviations = (one.std(axis=1, dtype=np.float64) for one in series)
    return np.concatenate([coefficients.mean(axis=1, dtype=np.float64), *deviations]).astype(np.float32)


def delta(coefficients: np.ndarray, *, order: int = 1) -> np.ndarray:
    """Return the local derivative over time, as ``librosa.feature.delta(coefficients, order=order)``.

    The derivative of degree `order` of a polynomial of that degree, fitted to nine frames (Savitzky & Golay 1964,
    Analytical Chemistry 36). It is one number for all nine, so the first and last four frames have their neighbour's.

    Parameters
    ----------
    coefficients : array of shape (n_coefficients, n_frames)
        At least nine frames.
    order : int
        2 for the second derivative.

    Returns
    -------
    deltas : array of the same shape and type
    """
    half, n_frames = DELTA_WIDTH // 2, coefficients.shape[1]
    deltas = np.zeros_like(coefficients)
    inner = deltas[:, half : n_frames - half]
    for frame, weight in enumerate(_delta_weights(order).tolist()):
        inner += weight * coefficients[:, frame : frame + inner.shape[1]]
    deltas[:, :half], deltas[:, n_frames - half :] = inner[:, :1], inner[:, -1:]
    return deltas


@lru_cache(maxsize=4)
def _delta_weights(order: int) -> np.ndarray:
    """Return the weights of nine frames in the derivative of the polynomial that fits them best."""
    frames = np.arange(DELTA_WIDTH) - DELTA_WIDTH // 2
    return math.factorial(order) * np.linalg.pinv(np.vander(frames, order + 1))[0]


class _Tables(NamedTuple):
    """What depends on no clip: window (n_fft,), mel filters, and cosines (n_mfcc, n_mels), all float32.

    Filters are blocks of neighbouring bands over the bins that they reach, (bands, bins, matrix): nine tenths of the
    whole matrix are zeros.
    """

    window: np.ndarray
    filters: tuple[tuple[slice, slice, np.ndarray], ...]
    cosines: np.ndarray


@lru_cache(maxsize=8)
def _tables(sr: int, n_mfcc: int) -> _Tables:
    from scipy.fft import dct

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)  # Hann, periodic
    weights = np.repeat(mel_filters(sr).T, 2, axis=0)
    blocks = []
    for first in range(0, N_MELS, _BANDS_AT_ONCE):
        bands = slice(first, first + _BANDS_AT_ONCE)
        reached = np.flatnonzero(weights[:, bands].any(axis=1))
        bins = slice(reached[0], reached[-1] + 1) if len(reached) else slice(0, 0)
        blocks.append((bands, bins, np.ascontiguousarray(weights[bins, bands])))
    cosines = dct(np.eye(N_MELS), axis=0, type=2, norm="ortho")[:n_mfcc]
    return _Tables(window.astype(np.float32), tuple(blocks), np.ascontiguousarray(cosines, dtype=np.float32))


def mel_filters(sr: int, *, n_fft: int = N_FFT, n_mels: int = N_MELS, lowest_hz: float = 0.0) -> np.ndarray:
    """Return the filters of `librosa.filters.mel`: triangles of equal area on Slaney's scale, `lowest_hz` to `sr` / 2.

    Returns
    -------
    filters : float32 array of shape (n_mels, 1 + n_fft/2)

    References
    ----------
    Slaney (1998), Auditory Toolbox, version 2, Interval Research technical report 1998-010.
    """
    edges_hz = _mel_to_hz(np.linspace(_hz_to_mel(lowest_hz), _hz_to_mel(sr / 2), n_mels + 2))
    bins_hz = np.arange(1 + n_fft // 2) * (sr / n_fft)
    widths_hz = np.diff(edges_hz)
    ramps = edges_hz[:, np.newaxis] - bins_hz
    rising, falling = -ramps[:-2] / widths_hz[:-1, np.newaxis], ramps[2:] / widths_hz[1:, np.newaxis]
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return triangles * (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, np.newaxis].astype(np.float32)


# Slaney's scale: 200/3 Hz a mel up to 1 kHz, and 27 mels for each factor of 6.4 above.
_HZ_A_MEL = 200.0 / 3
_CORNER_HZ = 1000.0
_CORNER_MEL = _CORNER_HZ / _HZ_A_MEL
_LOG_STEP = math.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    return hz / _HZ_A_MEL if hz < _CORNER_HZ else _CORNER_MEL + math.log(hz / _CORNER_HZ) / _LOG_STEP


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    return np.where(
        mels < _CORNER_MEL, mels * _HZ_A_MEL, _CORNER_HZ * np.exp(_LOG_STEP * np.maximum(mels - _CORNER_MEL, 0.0))
    )

"""Mel-frequency cepstral coefficients, equal to `librosa.feature.mfcc` with its defaults.

The Fourier transform, the mel filters and the cosine transform are librosa's and SciPy's; what does not depend on the
clip (window, filters, cosine matrix) is made once a process, and everything but the mean over time stays float32.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

N_FFT = 2048
HOP_LENGTH = 512
N_MELS = 128
_AMIN = 1e-10
_TOP_DB = 80.0
_FRAMES_AT_ONCE = 2048  # 48 s; bounds the memory that an hour of sound takes


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

    window, filters, cosines = _tables(sr, n_mfcc)
    padded = np.pad(np.asarray(signal, dtype=np.float32), N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
    mel = np.empty((len(frames), N_MELS), dtype=np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        spectrum = rfft(frames[start : start + _FRAMES_AT_ONCE] * window, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        np.matmul(power, filters, out=mel[start : start + _FRAMES_AT_ONCE])
    decibel = 10.0 * np.log10(np.maximum(mel, _AMIN))
    np.maximum(decibel, decibel.max() - _TOP_DB, out=decibel)
    return (decibel @ cosines).T


def mfcc_mean(signal: np.ndarray, *, sr: int, n_mfcc: int) -> np.ndarray:
    """Return the mean of each coefficient over time: float32 of shape (n_mfcc,)."""
    return mfcc(signal, sr=sr, n_mfcc=n_mfcc).mean(axis=1, dtype=np.float64).astype(np.float32)


@lru_cache(maxsize=8)
def _tables(sr: int, n_mfcc: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return window (n_fft,), mel filters (1 + n_fft/2, n_mels) and cosines (n_mels, n_mfcc), all float32."""
    import librosa
    from scipy.fft import dct

    window = librosa.filters.get_window("hann", N_FFT, fftbins=True).astype(np.float32)
    filters = librosa.filters.mel(sr=sr, n_fft=N_FFT, n_mels=N_MELS).T
    cosines = dct(np.eye(N_MELS), axis=1, type=2, norm="ortho")[:, :n_mfcc]
    return window, np.ascontiguousarray(filters), np.ascontiguousarray(cosines, dtype=np.float32)

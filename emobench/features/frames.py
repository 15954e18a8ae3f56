"""Speech as a sequence of frames: log-mel energies or cepstra every 10 ms, for networks that listen over time.

The speech is cut out of its recording and normalised in level, so that neither silence before it nor the distance of
the microphone is heard. Every row has `N_FRAMES` frames: longer speech is cut into several rows, shorter speech is
padded with silence. `librosa` is the definition of the numbers.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from emobench.features.mfcc import mel_filters

SR = 16_000
N_FRAMES = 300  # of a row: 3 s
WIN_LENGTH_S = 0.025
HOP_LENGTH_S = 0.010
N_FFT = 512
ACTIVE_DB = -40.0  # frames this far below the loudest one are not speech
SILENCE_DB = -80.0  # relative to the speech's level; what is fainter is silence
_FRAMES_AT_ONCE = 1000  # 2 MB of spectrum


def speech_log_mel(signal: np.ndarray, *, sr: int, n_mels: int = 64) -> np.ndarray:
    """Return the log-mel energies of the speech in a signal, relative to its level.

    The speech lasts from the first to the last frame whose energy is at most 40 dB below that of the loudest. Its
    level is the mean energy of such frames, pauses left out (as in ITU-T P.56).

    Parameters
    ----------
    signal : float32 array of shape (n_samples,)
    sr : int
        Sampling rate in Hz.

    Returns
    -------
    log_mel : float32 array of shape (n_mels, n_frames)
        Decibels, `SILENCE_DB` at least. A silent signal is silence from end to end.
    """
    mel, energy = _mel_and_energy(signal, sr, n_mels)
    is_active = energy >= energy.max() * 10 ** (ACTIVE_DB / 10)
    active = np.flatnonzero(is_active)
    level = max(float(energy[is_active].mean(dtype=np.float64)), np.finfo(np.float32).tiny)
    decibel = mel[active[0] : active[-1] + 1]
    decibel /= level
    np.log(np.maximum(decibel, 10 ** (SILENCE_DB / 10), out=decibel), out=decibel)
    decibel *= 10 / math.log(10)
    return decibel.T


def log_mel_windows(log_mel: np.ndarray) -> np.ndarray:
    """Cut log-mel energies into rows for a network.

    Parameters
    ----------
    log_mel : float32 array of shape (n_mels, n_frames)
        From `speech_log_mel`.

    Returns
    -------
    windows : float32 array of shape (n_windows, N_FRAMES, n_mels)
        The fewest windows that reach every frame, equally spaced; one, with silence behind, if the speech is shorter.
    """
    n_frames = log_mel.shape[1]
    if n_frames <= N_FRAMES:
        padding = ((0, N_FRAMES - n_frames), (0, 0))
        return np.pad(log_mel.T, padding, constant_values=SILENCE_DB)[np.newaxis]
    n_windows = math.ceil(n_frames / N_FRAMES)
    starts = np.linspace(0, n_frames - N_FRAMES, n_windows).round().astype(int)
    return np.stack([log_mel.T[start : start + N_FRAMES] for start in starts])


def cepstral_windows(log_mel: np.ndarray, *, n_mfcc: int = 40) -> np.ndarray:
    """Cut log-mel energies into rows as `log_mel_windows` does, and turn every frame into its MFCC.

    Returns
    -------
    windows : float32 array of shape (n_windows, N_FRAMES, n_mfcc)
        ``librosa.feature.mfcc(S=…, n_mfcc=n_mfcc)`` of each window.
    """
    return log_mel_windows(log_mel) @ _cosines(len(log_mel), n_mfcc).T


def _mel_and_energy(signal: np.ndarray, sr: int, n_mels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mel energies and the whole energy of each frame: float32 of shapes (n_frames, n_mels), (n_frames,)."""
    from scipy.fft import rfft

    window, filters = _tables(sr, n_mels)
    # librosa centres windows of `n_fft` samples on every hop; the window's zeros on both sides need no samples.
    padded = np.pad(signal.astype(np.float32, copy=False), len(window) // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[:: round(HOP_LENGTH_S * sr)]
    mel = np.empty((len(frames), n_mels), dtype=np.float32)
    energy = np.empty(len(frames), dtype=np.float32)
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        block = slice(start, start + _FRAMES_AT_ONCE)
        spectrum = rfft(frames[block] * window, N_FFT, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        np.matmul(power, filters, out=mel[block])
        np.sum(power, axis=1, out=energy[block])
    return mel, energy


@lru_cache(maxsize=8)
def _tables(sr: int, n_mels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the Hann window and the transposed mel filters, float32 of shapes (win_length,), (1 + N_FFT/2, n_mels)."""
    win_length = round(WIN_LENGTH_S * sr)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    return window.astype(np.float32), np.ascontiguousarray(mel_filters(sr, n_fft=N_FFT, n_mels=n_mels).T)


@lru_cache(maxsize=8)
def _cosines(n_mels: int, n_mfcc: int) -> np.ndarray:
    from scipy.fft import dct

    return dct(np.eye(n_mels), axis=0, type=2, norm="ortho")[:n_mfcc].astype(np.float32)

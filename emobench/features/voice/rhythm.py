"""How speech moves in time: runs of voice, pauses, peaks of energy, and how fast each band is modulated.

References
----------
Houtgast & Steeneken (1985), A review of the MTF concept in room acoustics, Journal of the Acoustical Society of America
77: the modulation spectrum of speech. Wu, Falk & Chan (2011), Automatic speech emotion recognition using modulation
spectral features, Speech Communication 53.
"""

from __future__ import annotations

import numpy as np

RATE_HZ = 100.0  # of frames

MODULATION_HZ = tuple(zip((0.5, 1.5, 2.5, 4, 6, 9, 13, 20), (1.5, 2.5, 4, 6, 9, 13, 20, 30), strict=True))
_LEAST_MODULATION = 1e-4
_SHORTEST_SPECTRUM = 512  # frames: 0.2 Hz
_FEWEST_OF_SLOPE = 5  # frames
_LAGS = tuple(range(5, 60, 5))  # frames

NAMES = (
    *("voiced.share", "voiced.per_s", "voiced.mean_s", "voiced.sd_s", "voiced.max_s"),
    *("pause.mean_s", "pause.sd_s", "pause.max_s"),
    *("peaks.per_s", "level.rise", "level.fall", "level.quiet", "level.iqr"),
    *("onset.mean", "onset.sd"),
    *(f"level.autocorrelation_{10 * lag}ms" for lag in _LAGS),
)


def describe_rhythm(level: np.ndarray, is_voiced: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """Return the numbers of `NAMES`.

    Parameters
    ----------
    level : array of shape (n_frames,)
        In dB.
    is_voiced : bool array of shape (n_frames,)
    mel : array of shape (n_bands, n_frames)
        Logarithms of power.
    """
    duration_s = len(level) / RATE_HZ
    starts, ends = runs(is_voiced)
    voiced_s = (ends - starts) / RATE_HZ
    pauses_s = (starts[1:] - ends[:-1]) / RATE_HZ
    voiced_s, pauses_s = (one if len(one) else np.zeros(1) for one in (voiced_s, pauses_s))
    smooth = smoothed(level, 5)
    above = smooth > smoothed(level, 31)
    change = np.diff(smooth, prepend=smooth[0])
    rise, fall = np.maximum(change, 0), np.maximum(-change, 0)
    p25, p75 = np.percentile(level, [25, 75])
    onset = np.maximum(np.diff(mel, axis=1, prepend=mel[:, :1]), 0).mean(axis=0)
    return np.concatenate(
        [
            [is_voiced.mean(), len(starts) / duration_s, voiced_s.mean(), voiced_s.std(), voiced_s.max()],
            [pauses_s.mean(), pauses_s.std(), pauses_s.max()],
            [len(runs(above)[0]) / duration_s, rise.mean(), fall.mean()],
            [np.mean(level < level.max() - 25), p75 - p25],
            [onset.mean(), onset.std()],
            autocorrelation(level, _LAGS),
        ]
    )


def runs(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each run of true values starts and where it has ended."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    return edges[::2], edges[1::2]


def run_slopes(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the slope a frame of the straight line of each run of at least five frames; one 0 where there is none."""
    starts, ends = runs(chosen)
    long_enough = ends - starts >= _FEWEST_OF_SLOPE
    starts, ends = starts[long_enough], ends[long_enough]
    if not len(starts):
        return np.zeros(1)
    times = np.arange(len(values))

    def sums(x: np.ndarray) -> np.ndarray:
        cumulated = np.append(0, np.cumsum(x))
        return cumulated[ends] - cumulated[starts]

    n = ends - starts
    middle = (starts + ends - 1) / 2
    return (sums(times * values) - middle * sums(values)) / (n * (n**2 - 1) / 12)


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Return the running mean over `width` frames; the first and the last value go on beyond the ends."""
    return np.convolve(np.pad(values, width // 2, mode="edge"), np.full(width, 1 / width), mode="valid")


def autocorrelation(values: np.ndarray, lags: tuple[int, ...]) -> np.ndarray:
    """Return the autocorrelation at some lags, of all that overlaps, over that at 0; 0 beyond the signal's length."""
    values = values - values.mean()
    energy = max(values @ values, 1e-6)
    return np.array([values[lag:] @ values[: max(len(values) - lag, 0)] for lag in lags]) / energy


def modulation_spectrum(rows: np.ndarray) -> np.ndarray:
    """Return the logarithm of the power of each row's changes in each band of `MODULATION_HZ`.

    Returns
    -------
    powers : array of shape (n_bands · n_rows,)
        Band by band.
    """
    from scipy.fft import next_fast_len, rfft

    n_frames = rows.shape[1]
    rows = (rows - rows.mean(axis=1, keepdims=True)) * np.hanning(n_frames + 2)[1:-1]
    n_fft = next_fast_len(max(_SHORTEST_SPECTRUM, n_frames), real=True)
    spectrum = rfft(rows, n_fft, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2) / n_frames
    edges = np.searchsorted(np.arange(power.shape[1]) * (RATE_HZ / n_fft), MODULATION_HZ)
    return np.log(np.concatenate([power[:, low:high].mean(axis=1) for low, high in edges]) + _LEAST_MODULATION)

"""The spectrum of each frame: mel bands, its shape, and how fast it changes.

References
----------
Peeters (2004), A large set of audio features for sound description, IRCAM: centroid, bandwidth, roll-off, flux,
flatness.
Eyben et al. (2016), The Geneva minimalistic acoustic parameter set (GeMAPS) for voice research and affective computing,
IEEE Transactions on Affective Computing 7: alpha ratio, Hammarberg index, slopes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from emobench.features.mfcc import mel_filters
from emobench.features.voice.speech import SR, frames_around_cells

WINDOW = 400  # 25 ms
N_FFT = 512
N_MELS = 26
LOWEST_HZ = 60.0  # of the mel bands
FLOOR = 1e-5  # of the power of the speech: white noise that is added to every spectrum

SHAPE = (
    "level",
    "centroid",
    "bandwidth",
    "rolloff25",
    "rolloff50",
    "rolloff85",
    "rolloff95",
    "flux",
    "alpha_ratio",
    "hammarberg",
    "slope_80_500",
    "slope_500_1500",
    "flatness",
)
_ROLLOFFS = (0.25, 0.50, 0.85, 0.95)
_LEAST_HZ = 50.0  # of what is given in semitones
_FRAMES_AT_ONCE = 512


def describe_spectrum(speech: np.ndarray) -> np.ndarray:
    """Describe the spectrum around each cell of speech at `SR` and of unit active power.

    Returns
    -------
    described : float32 array of shape (len(SHAPE) + N_MELS, n_frames)
        First the rows of `SHAPE`: level, ratios, slopes (a kHz) and flatness in dB, centroid, bandwidth and roll-offs
        in semitones above 1 kHz, flux between 0 and √2. Then the natural logarithm of the power in each mel band.
    """
    frames = frames_around_cells(speech, WINDOW)
    described = np.empty((len(SHAPE) + N_MELS, len(frames)), dtype=np.float32)
    last = None  # frame of the block before, for the flux
    for start in range(0, len(frames), _FRAMES_AT_ONCE):
        some = slice(start, start + _FRAMES_AT_ONCE)
        last = _describe(frames[some], last, out=described[:, some])
    return described


def _describe(frames: np.ndarray, last: np.ndarray | None, *, out: np.ndarray) -> np.ndarray:
    """Describe the frames of a block; return the last one's magnitudes, which the next block's flux starts from."""
    from scipy.fft import rfft

    tables = _tables()
    spectrum = rfft(frames * tables.window, N_FFT, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    power += np.float32(FLOOR / power.shape[1])
    total, low, middle, moment, square_moment = (power @ tables.sums).T
    share = power / total[:, np.newaxis]
    decibel = _db(power)
    magnitude = np.sqrt(share)
    change = np.diff(magnitude, axis=0, prepend=magnitude[:1] if last is None else last)

    out[0] = _db(total)
    out[1] = moment / total
    out[2] = np.sqrt(np.maximum(square_moment / total - out[1] ** 2, 0))
    out[3:7] = _rolloffs(share)
    out[1:7] = 12 * np.log2(np.maximum(out[1:7], _LEAST_HZ) / 1000)
    out[7] = np.sqrt(np.einsum("ij,ij->i", change, change))
    out[8] = _db(low / middle)
    out[9] = decibel[:, tables.below_2k].max(axis=1) - decibel[:, tables.up_to_5k].max(axis=1)
    out[10:12] = (decibel @ tables.slopes).T
    out[12] = decibel[:, tables.voice].mean(axis=1) - _db(power[:, tables.voice].mean(axis=1))
    out[len(SHAPE) :] = np.log(power @ tables.mel).T
    return magnitude[-1:]


def _rolloffs(share: np.ndarray) -> np.ndarray:
    """Return below which frequency each of `_ROLLOFFS` of the power lies, in Hz: (4, n_frames).

    A bin's power lies evenly between its neighbours' middles, so that the frequency does not jump from bin to bin.
    """
    cumulated = np.cumsum(share, axis=1)
    rows, found = np.arange(len(share)), []
    for part in _ROLLOFFS:
        bins = np.minimum((cumulated < part).sum(axis=1), share.shape[1] - 1)
        found.append(bins + 0.5 - (cumulated[rows, bins] - part) / share[rows, bins])
    return np.stack(found) * (SR / N_FFT)


def _db(power: np.ndarray) -> np.ndarray:
    return np.log(power) * np.float32(10 / math.log(10))  # NumPy's log is several times as fast as its log10


class _Tables(NamedTuple):
    """What depends on no signal.

    `window` (WINDOW,) is scaled so that the powers of all bins add up to the mean power of the samples. `sums`,
    `slopes` and `mel` (n_bins, …) take sums of power, slopes of decibels and mel bands; the rest are ranges of bins.
    """

    window: np.ndarray
    sums: np.ndarray
    slopes: np.ndarray
    mel: np.ndarray
    voice: slice
    below_2k: slice
    up_to_5k: slice


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    hz = np.arange(N_FFT // 2 + 1) * (SR / N_FFT)
    window = np.hanning(WINDOW + 2)[1:-1]
    window *= np.sqrt(2 / (N_FFT * np.square(window).sum()))

    def between(low_hz: float, high_hz: float) -> np.ndarray:
        return (hz >= low_hz) & (hz < high_hz)

    def slope(low_hz: float, high_hz: float) -> np.ndarray:
        deviation = np.where(between(low_hz, high_hz), hz - hz[between(low_hz, high_hz)].mean(), 0)
        return 1000 * deviation / np.square(deviation).sum()

    sums = np.stack([np.ones_like(hz), between(50, 1000), between(1000, 5000), hz, hz**2], axis=1)
    slopes = np.stack([slope(80, 500), slope(500, 1500)], axis=1)
    filters = mel_filters(SR, n_fft=N_FFT, n_mels=N_MELS, lowest_hz=LOWEST_HZ).T
    lowest, below, above = np.searchsorted(hz, [80, 2000, 5000])
    return _Tables(
        window.astype(np.float32),
        sums.astype(np.float32),
        slopes.astype(np.float32),
        np.ascontiguousarray(filters / filters.max(axis=0)),
        slice(lowest, len(hz)),
        slice(0, below),
        slice(below, above),
    )

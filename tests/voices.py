"""Synthetic voices of known pitch, jitter and shimmer: pulses through the resonances of a vocal tract."""

import numpy as np
import scipy.signal

SR = 16_000
VOWELS_HZ = {"a": (700, 1220, 2600), "i": (300, 2300, 3000), "u": (320, 800, 2300)}


def sing(f0_hz, *, vowel="a", jitter=0.0, shimmer=0.0, snr_db=None, seed=0):
    """Return a voice, and the times in samples and the amplitudes of its pulses.

    Parameters
    ----------
    f0_hz : array of shape (n_samples,)
    jitter, shimmer : float
        Standard deviation of each period and of each amplitude, as a share of the mean.
    snr_db : float, optional
        Level of the voice over white noise that is added to it.
    """
    rng = np.random.default_rng(seed)
    times, time = [], 0.0
    while time < len(f0_hz) - 1:
        times.append(time)
        time += SR / f0_hz[int(time)] * (1 + jitter * rng.standard_normal())
    times = np.array(times)
    amplitudes = 1 + shimmer * rng.standard_normal(len(times))
    signal = np.zeros(len(f0_hz))
    for time, amplitude in zip(times, amplitudes, strict=True):  # a pulse may lie between two samples
        near = np.arange(max(0, int(time) - 16), min(len(signal), int(time) + 17))
        signal[near] += amplitude * np.sinc(near - time) * np.cos(np.pi * (near - time) / 34) ** 2
    signal = scipy.signal.lfilter([1, -1], [1, -0.97], signal)
    for formant_hz in VOWELS_HZ[vowel]:
        radius = np.exp(-np.pi * (60 + formant_hz / 20) / SR)
        signal = scipy.signal.lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * formant_hz / SR), radius**2], signal)
    if snr_db is not None:
        signal = signal + rng.standard_normal(len(signal)) * signal.std() * 10 ** (-snr_db / 20)
    return (0.3 * signal / np.abs(signal).max()).astype(np.float32), times, amplitudes


def say(*, seed=0, base_hz=150.0):
    """Return an utterance of two seconds: six syllables, breath between them, silence around them."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(SR // 5)]
    for vowel in "aiuaui":
        n_samples = int(SR * rng.uniform(0.12, 0.3))
        contour = base_hz * 2 ** np.linspace(rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), n_samples)
        voice, _, _ = sing(contour, vowel=vowel, jitter=0.01, shimmer=0.05, snr_db=25, seed=seed)
        breath = scipy.signal.lfilter([1, -0.9], [1], rng.standard_normal(int(SR * rng.uniform(0.03, 0.15))))
        parts += [voice * np.hanning(n_samples) ** 0.5 * rng.uniform(0.3, 1), 0.01 * breath]
    return np.concatenate([*parts, np.zeros(SR // 5)]).astype(np.float32)

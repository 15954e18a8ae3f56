"""Changes of a recording, for training on altered copies and for stress: level, filters, codecs, noise, rooms, speed.

Every function takes a mono float32 signal of full scale ±1, its rate in Hz and how strong the change is, and returns a
new signal at the same rate; `signal` itself where the strength is that of no change. What is random draws from the
generator it is given, so that the same seed gives the same samples. Nothing is limited to ±1: a signal in memory does
not clip.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np

from emobench.audio.decoding import resample

FILTER_ORDER = 4
TILT_PIVOT_HZ, TILT_FLOOR_HZ = 1000.0, 50.0
PHONE_BAND_HZ = (300.0, 3400.0)
MP3_HZ, MP3_KBIT_S = 24_000, (8, 160)  # and the bit rates that MPEG-2 Layer III has there
MP3_DELAY = 1105  # samples, of LAME's filterbank and the decoder's; low bit rates have no room for a header with it
PINK_FLOOR_HZ = 20.0
ROOM_GAP_S = 0.003  # before the first reflection
PITCH_WINDOW_S = 0.04


# --- level ----------------------------------------------------------------------------------------------------------


def gain(signal: np.ndarray, sr: int, level_db: float) -> np.ndarray:
    """Make a signal louder, or softer where `level_db` is negative."""
    return signal * np.float32(10 ** (level_db / 20))


def clip(signal: np.ndarray, sr: int, share: float) -> np.ndarray:
    """Cut off the peaks so that this share of the samples, 0 to 1, is at the limit."""
    limit = np.float32(np.quantile(np.abs(signal), 1 - share))
    return np.clip(signal, -limit, limit)


def offset(signal: np.ndarray, sr: int, level: float) -> np.ndarray:
    """Add a constant, as sound cards without a blocking capacitor do."""
    return signal + np.float32(level)


# --- duration -------------------------------------------------------------------------------------------------------


def pad(signal: np.ndarray, sr: int, duration_s: float) -> np.ndarray:
    """Add so much digital silence before and after."""
    return np.pad(signal, round(duration_s * sr))


def crop(signal: np.ndarray, sr: int, duration_s: float) -> np.ndarray:
    """Take so much away from either end, but never more than a quarter."""
    n = min(round(duration_s * sr), len(signal) // 4)
    return signal[n : len(signal) - n]


# --- spectrum -------------------------------------------------------------------------------------------------------


def high_pass(signal: np.ndarray, sr: int, cutoff_hz: float) -> np.ndarray:
    """Remove what lies below a frequency: a Butterworth filter, 24 dB an octave; 0 Hz changes nothing."""
    return signal if cutoff_hz <= 0 else _butterworth(signal, sr, cutoff_hz, "highpass")


def low_pass(signal: np.ndarray, sr: int, cutoff_hz: float) -> np.ndarray:
    """Remove what lies above a frequency: a Butterworth filter, 24 dB an octave; half the rate changes nothing."""
    return signal if cutoff_hz >= sr / 2 else _butterworth(signal, sr, cutoff_hz, "lowpass")


def _butterworth(signal: np.ndarray, sr: int, cutoff_hz: float | tuple[float, float], kind: str) -> np.ndarray:
    from scipy.signal import butter, sosfilt

    return sosfilt(butter(FILTER_ORDER, cutoff_hz, kind, fs=sr, output="sos"), signal).astype(np.float32)


def tilt(signal: np.ndarray, sr: int, slope_db_oct: float) -> np.ndarray:
    """Raise the spectrum by so many dB an octave, or lower it, and keep the level."""
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    if slope_db_oct == 0:
        return signal
    n_fft = next_fast_len(len(signal) + sr // 10, real=True)  # so that the end does not leak into the beginning
    octaves = np.log2(np.maximum(rfftfreq(n_fft, 1 / sr), TILT_FLOOR_HZ) / TILT_PIVOT_HZ)
    tilted = irfft(rfft(signal, n_fft) * 10 ** (slope_db_oct * octaves / 20), n_fft)[: len(signal)]
    return _at_level_of(signal, tilted)


# --- transmission ---------------------------------------------------------------------------------------------------


def phone(signal: np.ndarray, sr: int, rate_hz: float = 8000) -> np.ndarray:
    """Send a signal through a telephone: 300 to 3400 Hz, sampled at 8 kHz, in 8 bits of µ-law.

    References
    ----------
    ITU-T G.711 (1988), Pulse code modulation of voice frequencies.
    """
    import soundfile

    narrow = _butterworth(resample(signal, sr, round(rate_hz)), round(rate_hz), PHONE_BAND_HZ, "bandpass")
    file = io.BytesIO()
    soundfile.write(file, np.clip(narrow, -1, 1), round(rate_hz), format="WAV", subtype="ULAW")
    file.seek(0)
    heard, _ = soundfile.read(file, dtype="float32")
    return _of_length(resample(heard, round(rate_hz), sr), len(signal))


def mp3(signal: np.ndarray, sr: int, kbit_s: float) -> np.ndarray:
    """Encode a signal as MP3 at 24 kHz and a constant bit rate, and decode it.

    Raises
    ------
    soundfile.LibsndfileError
        Where libsndfile was built without an encoder.
    """
    import soundfile

    least, most = MP3_KBIT_S
    samples = np.clip(resample(signal, sr, MP3_HZ), -1, 1)
    file = io.BytesIO()
    how = {"compression_level": (most - kbit_s) / (most - least), "bitrate_mode": "CONSTANT"}
    soundfile.write(file, samples, MP3_HZ, format="MP3", subtype="MPEG_LAYER_III", **how)
    file.seek(0)
    heard, _ = soundfile.read(file, dtype="float32")
    heard = heard[MP3_DELAY if len(heard) > len(samples) else 0 :]
    return _of_length(resample(_of_length(heard, len(samples)), MP3_HZ, sr), len(signal))


# --- noise and rooms ------------------------------------------------------------------------------------------------


def add_noise(signal: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at a ratio of the mean powers of signal and noise; infinite dB, or a silent signal, stay as they are.

    Parameters
    ----------
    noise : array of shape (n_samples,)
        As long as the signal; its own level does not matter.
    """
    ratio = _power(signal) / max(_power(noise), np.finfo(float).tiny)
    return signal + (math.sqrt(ratio * 10 ** (-snr_db / 10)) * noise).astype(np.float32)


def white_noise(signal: np.ndarray, sr: int, snr_db: float, *, rng: np.random.Generator) -> np.ndarray:
    """Add noise of the same power at every frequency; see `add_noise`."""
    return add_noise(signal, rng.standard_normal(len(signal), dtype=np.float32), snr_db)


def pink_noise(signal: np.ndarray, sr: int, snr_db: float, *, rng: np.random.Generator) -> np.ndarray:
    """Add noise of the same power in every octave from 20 Hz on; see `add_noise`."""
    from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

    n_fft = next_fast_len(len(signal), real=True)
    spectrum = rfft(rng.standard_normal(n_fft, dtype=np.float32))
    spectrum /= np.sqrt(np.maximum(rfftfreq(n_fft, 1 / sr), PINK_FLOOR_HZ))
    return add_noise(signal, irfft(spectrum, n_fft)[: len(signal)], snr_db)


def babble(
    signal: np.ndarray, sr: int, snr_db: float, *, rng: np.random.Generator, voices: Sequence[np.ndarray]
) -> np.ndarray:
    """Add people who speak at once, all of them as loud; see `add_noise`.

    Parameters
    ----------
    voices : sequence of arrays of shape (n_samples,)
        At `sr`, of other speakers. Each begins at random and goes round as long as the signal lasts.
    """
    noise = np.zeros(len(signal), np.float32)
    for voice in voices:
        begun = np.resize(np.roll(voice, -int(rng.integers(len(voice)))), len(signal))
        noise += begun / np.float32(math.sqrt(_power(begun)) or 1)
    return add_noise(signal, noise, snr_db)


def room(signal: np.ndarray, sr: int, rt60_s: float, *, rng: np.random.Generator) -> np.ndarray:
    """Let a signal be heard in a room, at the distance where reflections are as strong as the voice itself.

    The reflections are noise that decays by 60 dB in `rt60_s`; what rings on after the end is cut off. The level stays.

    References
    ----------
    Polack (1993), Playing billiards in the concert hall: the mathematical foundations of geometrical room acoustics,
    Applied Acoustics 38.
    """
    from scipy.signal import fftconvolve

    if rt60_s == 0:
        return signal
    return _at_level_of(signal, fftconvolve(signal, room_response(sr, rt60_s, rng=rng))[: len(signal)])


def room_response(sr: int, rt60_s: float, *, rng: np.random.Generator) -> np.ndarray:
    """Return the impulse response of `room`: 1 for the direct sound, then a tail of unit energy, to -60 dB."""
    n_tail = round(rt60_s * sr)
    tail = rng.standard_normal(n_tail) * 10 ** (-3 * np.arange(n_tail) / n_tail)
    return np.concatenate([[1], np.zeros(round(ROOM_GAP_S * sr)), tail / np.linalg.norm(tail)])


# --- speed and pitch ------------------------------------------------------------------------------------------------


def speed(signal: np.ndarray, sr: int, factor: float) -> np.ndarray:
    """Play a signal faster: it gets shorter, and its pitch and formants rise, by the same factor.

    References
    ----------
    Ko et al. (2015), Audio augmentation for speech recognition, Interspeech.
    """
    import soxr

    return signal if factor == 1 else soxr.resample(signal, sr * factor, sr, quality="HQ")


def pitch(signal: np.ndarray, sr: int, semitones: float) -> np.ndarray:
    """Shift pitch and formants and keep the duration, by librosa's phase vocoder."""
    import librosa

    if semitones == 0:
        return signal
    n_fft = 2 ** round(math.log2(PITCH_WINDOW_S * sr))
    shifted = librosa.effects.pitch_shift(signal, sr=sr, n_steps=semitones, res_type="soxr_hq", n_fft=n_fft)
    return shifted.astype(np.float32)


# --- parts ----------------------------------------------------------------------------------------------------------


def _power(signal: np.ndarray) -> float:
    return float(np.mean(np.square(signal, dtype=np.float64)))


def _at_level_of(signal: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Return a changed signal as float32 at the mean power that it had before."""
    before, after = _power(signal), _power(changed)
    return (changed * math.sqrt(before / after if after else 0)).astype(np.float32)


def _of_length(signal: np.ndarray, n_samples: int) -> np.ndarray:
    """Return a signal cut, or filled with zeros, to a length that differs by what resampling rounds."""
    return np.pad(signal[:n_samples], (0, max(0, n_samples - len(signal))))

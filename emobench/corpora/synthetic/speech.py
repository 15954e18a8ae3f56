"""From a speaker, an emotion and a statement to sound: a glottal source through formant filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emobench.corpora.synthetic.design import (
    BURST_S,
    CONSONANTS,
    NEUTRAL,
    OFF_DB,
    SAMPLE_RATE_HZ,
    SCHWA_HZ,
    STATEMENTS,
    VOWELS_HZ,
    Expression,
)
from emobench.corpora.synthetic.voices import EQ_HZ, TAKE_EQ_SD_DB, Speaker, amplitude, express, seeded, speaker_voice

HOP = 240  # samples: a frame every 10 ms, windows of 20 ms, which add up to one
WINDOW = 2 * HOP
N_FFT = 4 * HOP
FRAME_S = HOP / SAMPLE_RATE_HZ
BANDWIDTHS_HZ = np.array([80, 100, 130, 200, 260, 320, 400, 480, 560, 640], float)  # of each formant
N_MOVING = 3  # formants; those above stay where a uniform tube has them
SYLLABLE_S = 0.115  # of an unstressed vowel
VOICE_DB = -38.0  # level of a neutral vowel's source


@dataclass(frozen=True)
class Tracks:
    """What moves during a clip, one value a frame: arrays of shape (n_frames,), formants (n_frames, N_MOVING).

    `voicing` and `friction` are amplitudes relative to a vowel, `friction_hz` is where friction is loudest.
    """

    f0_hz: np.ndarray
    formants_hz: np.ndarray
    voicing: np.ndarray
    friction: np.ndarray
    friction_hz: np.ndarray


def synthesise(
    speaker: str, emotion: str, statement: str, intensity: str, repetition: str, *, seed: int = 0
) -> np.ndarray:
    """Return one clip, a pure function of its name and the seed.

    Returns
    -------
    signal : array of shape (n_samples,), float32
        Mono, at `SAMPLE_RATE_HZ`, within ±0.95.
    """
    rng = seeded(seed, "clip", speaker, emotion, statement, intensity, repetition)
    voice = speaker_voice(speaker, seed=seed)
    expression = express(voice, emotion, intensity, rng)
    tracks = move(voice, expression, statement, rng)
    signal = _in_room(_speak(voice, expression, tracks, rng), voice)
    return (signal * min(1.0, 0.95 / np.abs(signal).max())).astype(np.float32)


def move(voice: Speaker, expression: Expression, statement: str, rng: np.random.Generator) -> Tracks:
    """Return the movements of larynx and tongue for one statement: targets of each segment, joined smoothly."""
    start_s, values, stress = _segments(voice, expression, statement, rng)
    n_frames = int(start_s[-1] / FRAME_S)
    time_s = np.arange(n_frames) * FRAME_S
    segment = np.searchsorted(start_s, time_s, side="right") - 1
    values = values[segment]
    amplitudes = _smooth(amplitude(values[:, :2]), 0.03)
    return Tracks(
        f0_hz=voice.f0_hz * 2 ** (_intonation_st(expression, time_s, start_s, stress[segment], rng) / 12),
        formants_hz=_smooth(values[:, 3:], 0.07),
        voicing=amplitudes[:, 0],
        friction=amplitudes[:, 1],
        friction_hz=values[:, 2],
    )


def _segments(
    voice: Speaker, expression: Expression, statement: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts in s (n + 1,), values (n, 6: voicing dB, friction dB and Hz, F1 to F3) and stress (n,)."""
    tempo = 100.0 / (100.0 + expression.rate_pct)
    space = 1 + expression.articulation_pct / 100
    at_rest = (OFF_DB, OFF_DB, 1000.0, *SCHWA_HZ, 0.0)
    rows = [(rng.uniform(0.12, 0.25), *at_rest)]
    syllables = STATEMENTS[statement]
    for number, (consonant, vowel, stress) in enumerate(syllables, 1):
        made = CONSONANTS[consonant]
        place = (made.noise_hz, *made.locus_hz, stress)
        rows.append((made.duration_s * tempo, made.voicing_db, made.friction_db, *place))
        if made.burst_db > OFF_DB:
            rows.append((BURST_S, OFF_DB, made.burst_db, *place))
        is_last = number == len(syllables)
        vowel_s = SYLLABLE_S * (1 + 0.5 * stress + 0.6 * is_last) * tempo * np.exp(rng.normal(0.0, 0.08))
        level_db = 3.0 * stress - 4.0 * number / len(syllables) + rng.normal(0.0, 0.7)
        target_hz = SCHWA_HZ + space * (0.75 + 0.25 * stress) * (np.array(VOWELS_HZ[vowel]) - SCHWA_HZ)
        rows.append((vowel_s, level_db, OFF_DB, 1000.0, *(target_hz * voice.accent[vowel]), stress))
    rows.append((rng.uniform(0.15, 0.3), *at_rest))
    table = np.array(rows)
    table[:, 4:7] *= voice.formant_scale * (1 + expression.formants_pct / 100)
    return np.concatenate([[0.0], np.cumsum(table[:, 0])]), table[:, 1:7], table[:, 7]


def _intonation_st(
    expression: Expression, time_s: np.ndarray, start_s: np.ndarray, stress: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the pitch contour in semitones about the speaker's neutral pitch, shape (n_frames,)."""
    position = np.clip((time_s - start_s[1]) / (start_s[-2] - start_s[1]), 0.0, 1.0) - 0.5
    accents = expression.range_st * (_smooth(stress, 0.15) - 0.4)
    wander = _smooth(rng.normal(0.0, 1.0, len(time_s)), 0.08)
    return expression.pitch_st + expression.contour_st * position + accents + wander


def _smooth(track: np.ndarray, width_s: float) -> np.ndarray:
    """Return a track, or columns of tracks, averaged by a Hann window of `width_s`."""
    half = max(1, round(width_s / FRAME_S / 2))
    kernel = np.hanning(2 * half + 3)[1:-1]
    kernel /= kernel.sum()
    padded = np.pad(track, [(half, half)] + [(0, 0)] * (track.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1, axis=0)
    return np.einsum("...k,k->...", windows, kernel)  # not BLAS, whose sums depend on its number of threads


def _speak(voice: Speaker, expression: Expression, tracks: Tracks, rng: np.random.Generator) -> np.ndarray:
    """Return what the microphone hears before the room: pulses and air through the tract, friction, room noise."""
    n_frames = len(tracks.f0_hz)
    hz = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    pulses = _frames(_pulses(expression, tracks.f0_hz, rng))
    air = _frames(rng.standard_normal(n_frames * HOP, dtype=np.float32))

    level = amplitude(VOICE_DB + expression.level_db)
    pulses *= _glottal_gain(expression, tracks.f0_hz, hz)
    pulses += air * _breath_gain(expression, hz)
    pulses *= (level * tracks.voicing)[:, None]
    heard = pulses * _tract(voice, expression, tracks.formants_hz, hz)
    heard += air * _friction_gain(tracks, hz) * level
    heard *= amplitude(_at_bands(voice.eq_db + rng.normal(0.0, TAKE_EQ_SD_DB, len(EQ_HZ)), hz))
    heard += np.roll(air, n_frames // 2, axis=0) * _room_noise_gain(voice, hz)  # half a clip away: as good as new noise
    return _overlap_add(heard)


def _pulses(expression: Expression, f0_hz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return band-limited unit pulses at the glottal closures, with jitter and shimmer, shape (n_frames * HOP,)."""
    n_samples = len(f0_hz) * HOP
    cycles = np.cumsum(np.interp(np.arange(n_samples), np.arange(len(f0_hz)) * HOP, f0_hz)) / SAMPLE_RATE_HZ
    at = np.interp(np.arange(1, int(cycles[-1])), cycles, np.arange(n_samples))
    at += rng.normal(0.0, expression.jitter_pct / 100, len(at)) * np.gradient(at)
    height = amplitude(rng.normal(0.0, expression.shimmer_db, len(at)))
    height *= np.sqrt(np.gradient(at)).astype(np.float32)  # unit power at every pitch, like the noise
    taps = np.arange(-8, 9)
    nearest = np.rint(at).astype(int)
    distance = taps - (at - nearest)[:, None]
    kernel = np.sinc(distance) * np.cos(np.pi * distance / 18) ** 2
    index = np.clip(nearest[:, None] + taps, 0, n_samples - 1)
    return np.bincount(index.ravel(), (height[:, None] * kernel).ravel(), n_samples).astype(np.float32)


def _glottal_gain(expression: Expression, f0_hz: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """Return the spectrum of the glottal flow's derivative (Doval et al. 2006): a resonance, then a slope.

    A pressed voice, which is open for less of a cycle, has its resonance higher above F0, and the flatter slope.
    """
    effort_db_oct = expression.tilt_db_oct - NEUTRAL.tilt_db_oct
    relative = hz / (f0_hz * 1.2 * 2 ** (effort_db_oct / 5)).astype(np.float32)[:, None]
    resonance = relative / np.sqrt((1 - relative**2) ** 2 + relative**2)
    return resonance * amplitude(expression.tilt_db_oct * 0.5 * np.log2(1 + (hz / 700.0) ** 2))


def _breath_gain(expression: Expression, hz: np.ndarray) -> np.ndarray:
    """Return the spectrum of aspiration: weak below 1 kHz."""
    return amplitude(expression.breath_db) * (hz / (hz + 1000.0))


def _friction_gain(tracks: Tracks, hz: np.ndarray) -> np.ndarray:
    """Return the spectra of friction at teeth and lips: a hump on the axis of octaves, not filtered by the tract."""
    octaves = np.log2(np.maximum(hz, 20.0)) - np.log2(tracks.friction_hz).astype(np.float32)[:, None]
    return tracks.friction.astype(np.float32)[:, None] * np.exp(-0.5 * (octaves / 0.6) ** 2)


def _room_noise_gain(voice: Speaker, hz: np.ndarray) -> np.ndarray:
    """Return the spectrum of the noise in the speaker's room."""
    return amplitude(voice.noise_db + voice.noise_db_oct * np.log2(np.maximum(hz, 20.0) / 1000.0))


def _at_bands(level_db: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """Return levels that are given at `EQ_HZ` at other frequencies."""
    return np.interp(np.log(np.maximum(hz, 20.0)), np.log(EQ_HZ), level_db)


def _tract(voice: Speaker, expression: Expression, formants_hz: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """Return the transfer function of the vocal tract, shape (n_frames, n_bins), complex64."""
    scale = voice.formant_scale * (1 + expression.formants_pct / 100)
    numbers = np.arange(N_MOVING, len(BANDWIDTHS_HZ))
    upper_hz = np.minimum((2 * numbers + 1) * scale * SCHWA_HZ[0], 0.48 * SAMPLE_RATE_HZ)
    moving = _resonances(formants_hz, BANDWIDTHS_HZ[:N_MOVING], hz)
    return moving * _resonances(upper_hz[None], BANDWIDTHS_HZ[N_MOVING:], hz)


def _resonances(poles_hz: np.ndarray, bandwidths_hz: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """Return the response of a cascade of digital resonators of unit gain at 0 Hz (Klatt 1980), a row a frame.

    Each is 1 / (1 + middle z^-1 + radius^2 z^-2), here without its delay of a sample: 1 / (z + middle + radius^2 z^-1).
    """
    advance = np.exp(2j * np.pi * hz / SAMPLE_RATE_HZ)
    radius = np.exp(-np.pi * bandwidths_hz / SAMPLE_RATE_HZ)
    middle = -2 * radius * np.cos(2 * np.pi * poles_hz / SAMPLE_RATE_HZ)
    gain = np.prod(1 + middle + radius**2, axis=1, keepdims=True)
    inverse = 1 / gain.astype(np.complex64)
    for pole in range(len(bandwidths_hz)):
        around = (advance + radius[pole] ** 2 / advance).astype(np.complex64)
        inverse = inverse * (middle[:, [pole]].astype(np.complex64) + around)
    return 1 / inverse


def _frames(signal: np.ndarray) -> np.ndarray:
    """Return the spectra of overlapping windowed frames, shape (n_frames, N_FFT // 2 + 1), complex64."""
    import scipy.fft

    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    padded = np.concatenate([signal, np.zeros(HOP, np.float32)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return scipy.fft.rfft(frames * window, N_FFT, axis=1)


def _overlap_add(spectra: np.ndarray) -> np.ndarray:
    """Return the signal whose filtered frames these are, shape (n_frames * HOP,)."""
    import scipy.fft

    n_frames, n_parts = len(spectra), N_FFT // HOP
    frames = scipy.fft.irfft(spectra, N_FFT, axis=1).reshape(n_frames, n_parts, HOP)
    signal = np.zeros((n_frames + n_parts, HOP), np.float32)
    for part in range(n_parts):
        signal[part : part + n_frames] += frames[:, part]
    return signal[:n_frames].ravel()


def _in_room(signal: np.ndarray, voice: Speaker) -> np.ndarray:
    """Return the signal with its room: sparse reflections that decay exponentially (velvet noise)."""
    heard = signal.copy()
    for delay, gain in zip(voice.delays, voice.gains, strict=True):
        heard[delay:] += gain * signal[:-delay]
    return heard

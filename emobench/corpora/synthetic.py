"""The synthetic corpus: RAVDESS's design, spoken by a source-filter synthesiser; made on this machine.

It exists so that everything else can be tried where no recorded corpus is at hand. Nothing in it was recorded: pulses
of a glottal source with jitter, shimmer and aspiration pass a tract of formants, syllable by syllable, then a room and
a microphone. It is calibrated so that models land near where they do on real acted speech, and for the same reason:
what tells emotions apart (pitch, loudness, voice quality, tempo) also tells people apart, and each person expresses
an emotion in their own way, so that a model that has heard the speaker has much less to guess.

- An emotion is a row of `EMOTIONS`: a subdued and an aroused member of its family, as deviations from neutral speech.
- A speaker (`Speaker`) has a body, a manner of pronouncing, a room and a microphone, and an own *style*: where between
  the two members they place each emotion, how much of each correlate they use, and some habits of their own.
- A clip adds what no one repeats exactly: a few per cent of everything.

The signal is computed by overlap-add of short frames, each filtered in the frequency domain, so that no loop runs over
samples. All randomness of a clip derives from the seed and the clip's name by hashing: the order of clips, the number
of workers and the size of the design do not matter.

References
----------
Banse & Scherer (1996), Acoustic profiles in vocal emotion expression, J. Pers. Soc. Psychol. 70(3), 614-636.
Juslin & Laukka (2003), Communication of emotions in vocal expression and music performance, Psychol. Bull. 129(5).
Tartter (1980), Happy talk: perceptual and acoustic effects of smiling on speech, Percept. Psychophys. 27(1).
Klatt (1980), Software for a cascade/parallel formant synthesizer, J. Acoust. Soc. Am. 67(3), 971-995.
Doval, d'Alessandro & Henrich (2006), The spectrum of glottal flow models, Acta Acustica 92(6), 1026-1046.
Hillenbrand et al. (1995), Acoustic characteristics of American English vowels, J. Acoust. Soc. Am. 97(5).
Karjalainen & Järveläinen (2007), Reverberation modeling using velvet noise, AES 30th International Conference.
Livingstone & Russo (2018), The Ryerson audio-visual database of emotional speech and song, PLoS ONE 13(5).
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from emobench.corpora import Scan, Utterance
from emobench.errors import ConfigError, CorpusError, StorageError, did_you_mean, listing

GENERATOR_VERSION = 1  # part of the fingerprint: raise it with every change that a clip can hear
CORPUS = "synthetic"
SAMPLE_RATE_HZ = 24_000
RECORD = "corpus.json"
BATCH = 16  # clips that a worker makes at once

# --- what is said, and how ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expression:
    """Acoustic correlates of an emotion, as deviations from a speaker's neutral voice; the unit is in the name.

    Attributes
    ----------
    pitch_st, range_st, contour_st : float
        Semitones: level of F0, height of its accents, and its change from the first to the last syllable.
    rate_pct, level_db, tilt_db_oct : float
        Syllables a second, loudness, and slope of the source spectrum (positive: brighter, more pressed).
    jitter_pct, shimmer_db, breath_db : float
        Irregularity of the pulses in time and in height, and noise of the air between them.
    articulation_pct, formants_pct : float
        Size of the vowel space, and shift of all formants (spread lips and a raised larynx shorten the tract).
    """

    pitch_st: float
    range_st: float
    contour_st: float
    rate_pct: float
    level_db: float
    tilt_db_oct: float
    jitter_pct: float
    shimmer_db: float
    breath_db: float
    articulation_pct: float
    formants_pct: float


# Emotion → (subdued, aroused) members of its family, which Banse & Scherer keep apart: cold and hot anger, anxiety and
# panic, happiness and elation, sadness and despair. Signs and order are theirs and Juslin & Laukka's, where calm is
# nearest to tenderness; formants are Tartter's. Sizes give about the medians of pitch, level and tempo of RAVDESS.
EMOTIONS: MappingProxyType[str, tuple[Expression, Expression]] = MappingProxyType(
    {  #           pitch range contour rate  level tilt jitter shimmer breath articulation formants
        "angry": (
            Expression(+1.0, +1.5, -1.0, +4.0, +4.0, +1.2, +0.2, +0.10, -3.0, +15.0, +0.0),
            Expression(+12.0, +6.0, +0.0, -2.0, +20.0, +4.5, +0.9, +0.40, -6.0, +15.0, +3.0),
        ),
        "calm": (
            Expression(-1.5, -1.5, -0.5, -8.0, -3.0, -1.4, -0.1, +0.00, +1.0, -6.0, -1.0),
            Expression(-0.5, +0.0, -0.5, -14.0, -2.0, -1.2, -0.2, -0.05, +0.0, +0.0, +0.0),
        ),
        "fearful": (
            Expression(+3.0, -1.0, +1.0, +12.0, +1.0, -0.4, +0.5, +0.30, +4.0, -8.0, +2.0),
            Expression(+14.0, +1.0, +1.5, +14.0, +15.0, +2.8, +0.8, +0.40, +2.0, +0.0, +4.0),
        ),
        "happy": (
            Expression(+1.5, +2.0, +1.0, +10.0, +0.0, +0.4, +0.0, +0.00, +0.0, +6.0, +2.0),
            Expression(+10.0, +7.0, +1.0, +3.0, +13.0, +2.8, -0.1, +0.00, -2.0, +12.0, +5.0),
        ),
        "sad": (
            Expression(-2.0, -2.0, -1.5, -8.0, -3.0, -1.4, +0.3, +0.20, +4.0, -18.0, -2.0),
            Expression(+5.5, +1.0, -2.0, -18.0, +5.0, +0.0, +0.8, +0.40, +4.0, -6.0, -1.0),
        ),
    }
)
INTENSITIES = MappingProxyType({"normal": -0.3, "strong": +0.3})  # shift between the members, subdued 0 to aroused 1
NEUTRAL = Expression(0.0, 4.0, -3.0, 0.0, 0.0, -3.0, 0.7, 0.35, -24.0, 0.0, 0.0)
# No voice goes below: where a deviation would leave nothing, or less.
LEAST = Expression(-9.0, 0.5, -12.0, -45.0, -18.0, -9.0, 0.2, 0.1, -34.0, -45.0, -10.0)

# How far voices stray (standard deviations): a speaker's neutral voice from the average, their habit for one emotion
# from its family, the same at one intensity, and one take from the habit.
SPEAKER_SD = Expression(0.0, 0.8, 0.8, 8.0, 2.0, 0.7, 0.15, 0.08, 3.0, 8.0, 0.0)
HABIT_SD = Expression(1.4, 1.0, 1.0, 6.0, 2.2, 0.6, 0.2, 0.10, 2.0, 6.0, 1.5)
INTENSITY_SD = Expression(1.2, 1.0, 1.0, 5.0, 2.0, 0.5, 0.2, 0.10, 1.5, 5.0, 1.0)
TAKE_SD = Expression(1.0, 1.0, 1.0, 5.0, 2.2, 0.5, 0.15, 0.08, 1.5, 6.0, 1.2)
USE_SD = 0.35  # of the share of each correlate that a speaker uses, around 1

# Vowel → F1, F2, F3 in Hz of a man of average size (Hillenbrand et al. 1995, Table V).
VOWELS_HZ = MappingProxyType(
    {
        "ɪ": (427, 2034, 2684),
        "ɛ": (580, 1799, 2605),
        "ɑ": (768, 1333, 2522),
        "ɔ": (652, 997, 2538),
        "u": (378, 997, 2343),
        "ə": (500, 1500, 2500),
    }
)
SCHWA_HZ = np.array(VOWELS_HZ["ə"], float)


OFF_DB = -np.inf


@dataclass(frozen=True)
class Consonant:
    """How a consonant is made; levels are relative to a vowel's.

    Attributes
    ----------
    duration_s : float
        Before the burst.
    voicing_db, friction_db, burst_db : float
        Of the voice and the friction meanwhile, and of the noise when a closure opens.
    noise_hz : float
        Where friction and burst are loudest.
    locus_hz : tuple of float
        F1 to F3 that the neighbouring vowels move to.
    """

    duration_s: float
    voicing_db: float
    friction_db: float
    burst_db: float
    noise_hz: float
    locus_hz: tuple[float, float, float]


CONSONANTS = MappingProxyType(
    {
        "b": Consonant(0.060, -22.0, OFF_DB, -30.0, 1000, (200, 900, 2300)),
        "d": Consonant(0.055, -22.0, OFF_DB, -22.0, 4000, (200, 1700, 2600)),
        "t": Consonant(0.080, OFF_DB, OFF_DB, -10.0, 4500, (250, 1750, 2700)),
        "k": Consonant(0.085, OFF_DB, OFF_DB, -12.0, 2200, (250, 1900, 2400)),
        "s": Consonant(0.095, OFF_DB, -12.0, OFF_DB, 6500, (300, 1700, 2600)),
        "z": Consonant(0.075, -12.0, -18.0, OFF_DB, 6300, (250, 1700, 2600)),
        "l": Consonant(0.060, -4.0, OFF_DB, OFF_DB, 1000, (360, 1200, 2700)),
    }
)
BURST_S = 0.020

# Statement → syllables: consonant, vowel, stress (0 to 1).
STATEMENTS: MappingProxyType[str, tuple[tuple[str, str, float], ...]] = MappingProxyType(
    {
        "1": (
            ("k", "ɪ", 0.8),
            ("z", "ɑ", 0.2),
            ("t", "ɔ", 1.0),
            ("k", "ɪ", 0.0),
            ("b", "ɛ", 0.4),
            ("d", "ə", 0.0),
            ("l", "u", 0.9),
        ),
        "2": (
            ("d", "ɔ", 0.8),
            ("z", "ɑ", 0.2),
            ("s", "ɪ", 1.0),
            ("t", "ɪ", 0.0),
            ("b", "ɛ", 0.4),
            ("d", "ə", 0.0),
            ("l", "u", 0.9),
        ),
    }
)

# --- the design --------------------------------------------------------------------------------------------------


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(
            f"{name} of the synthetic corpus must be an integer from {least} to {most}. Got {value!r}. Change {name}."
        )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Design:
    """How large the corpus is: by default RAVDESS's 24 speakers, 5 emotions and 960 clips.

    A clip does not depend on the sizes, only on the seed and on its own name: a small design is a part of the large.

    Attributes
    ----------
    n_speakers : int
        1 to 99. Odd numbers are male, even ones female.
    n_repetitions : int
        1 to 9, of each statement in each emotion and intensity.
    emotions : tuple of str
        Of `EMOTIONS`; kept sorted.
    seed : int
        Of everything that is drawn.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    n_speakers: int = 24
    n_repetitions: int = 2
    emotions: tuple[str, ...] = tuple(sorted(EMOTIONS))
    seed: int = 0

    def __post_init__(self) -> None:
        _check_count("n_speakers", self.n_speakers, 1, 99)
        _check_count("n_repetitions", self.n_repetitions, 1, 9)
        _check_count("seed", self.seed, 0, 2**63 - 1)
        if isinstance(self.emotions, str) or not self.emotions or len(set(self.emotions)) < len(self.emotions):
            raise ConfigError(
                f"emotions must name at least one emotion, each once. Got {self.emotions!r}. "
                f"Choose from: {', '.join(sorted(EMOTIONS))}."
            )
        for emotion in self.emotions:
            if emotion not in EMOTIONS:
                raise ConfigError(
                    f"emotions of the synthetic corpus must be among: {', '.join(sorted(EMOTIONS))}. "
                    f"Got {emotion!r}.{did_you_mean(emotion, list(EMOTIONS))}"
                )
        object.__setattr__(self, "emotions", tuple(sorted(self.emotions)))

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of the generator's version and all of the design."""
        return hashlib.sha256(_canonical({"generator_version": GENERATOR_VERSION, **asdict(self)})).hexdigest()


def plan(design: Design = Design()) -> tuple[Utterance, ...]:
    """Return every clip that a design consists of, sorted by path."""
    clips = [
        _utterance(f"{number:02d}", emotion, statement, intensity, str(repetition))
        for number in range(1, design.n_speakers + 1)
        for emotion in design.emotions
        for intensity in INTENSITIES
        for statement in STATEMENTS
        for repetition in range(1, design.n_repetitions + 1)
    ]
    return tuple(sorted(clips, key=lambda clip: clip.path))


def _utterance(speaker: str, emotion: str, statement: str, intensity: str, repetition: str) -> Utterance:
    return Utterance(
        path=f"Speaker_{speaker}/{emotion}-{intensity}-{statement}-{repetition}-{speaker}.wav",
        corpus=CORPUS,
        speaker=speaker,
        emotion=emotion,
        sex=_sex(speaker),
        statement=statement,
        intensity=intensity,
        repetition=repetition,
    )


def _sex(speaker: str) -> str:
    return "male" if int(speaker) % 2 else "female"


# --- who speaks, and the plan of one clip ------------------------------------------------------------------------


@dataclass(frozen=True)
class Speaker:
    """A voice, its room and its microphone; everything that does not change from clip to clip.

    Attributes
    ----------
    f0_hz, formant_scale : float
        Neutral pitch, and formants relative to an average man's (the inverse of vocal-tract length).
    neutral : array of shape (n_correlates,)
        Neutral voice in the order of `Expression`.
    habits : mapping of (str, str) to array of shape (n_correlates,)
        Emotion and intensity → what this speaker adds to `neutral` when expressing it.
    accent : mapping of str to array of shape (3,)
        Vowel → factors on F1 to F3.
    eq_db : array of shape (n_bands,)
        Colour of the microphone at `EQ_HZ`.
    noise_db, noise_db_oct : float
        Room noise: level re full scale, and slope of its spectrum.
    delays, gains : array of shape (n_reflections,)
        Reflections of the room: samples, and factors.
    """

    f0_hz: float
    formant_scale: float
    neutral: np.ndarray
    habits: MappingProxyType[tuple[str, str], np.ndarray]
    accent: MappingProxyType[str, np.ndarray]
    eq_db: np.ndarray
    noise_db: float
    noise_db_oct: float
    delays: np.ndarray
    gains: np.ndarray


EQ_HZ = np.geomspace(80, 12_000, 15)
EQ_SD_DB = 1.5
TAKE_EQ_SD_DB = 1.0  # a head turns
N_REFLECTIONS = 32
ACCENT_SD = 0.04  # of the logarithm of a formant


@functools.lru_cache(maxsize=128)
def speaker_voice(speaker: str, *, seed: int) -> Speaker:
    """Draw the voice called `speaker` (``"01"``; odd is male), a pure function of the name and the seed."""
    rng = _rng(seed, "speaker", speaker)
    is_male = _sex(speaker) == "male"
    use = np.clip(rng.normal(1.0, USE_SD, len(fields(Expression))), 0.2, 2.0)
    habits = {}
    for emotion, (subdued, aroused) in EMOTIONS.items():  # all of them: a voice does not depend on the design
        arousal, own = rng.beta(2.5, 2.5), rng.normal(0.0, _vector(HABIT_SD))
        for intensity, shift in INTENSITIES.items():
            typical = _vector(subdued) + (arousal + shift) * (_vector(aroused) - _vector(subdued))
            habits[emotion, intensity] = use * typical + own + rng.normal(0.0, _vector(INTENSITY_SD))
    delay_s = np.sort(rng.uniform(0.002, 0.2, N_REFLECTIONS))
    gains = rng.choice([-1.0, 1.0], N_REFLECTIONS) * np.exp(-6.9 * delay_s / rng.uniform(0.15, 0.4))
    gains *= _amplitude(rng.uniform(-24.0, -14.0)) / np.linalg.norm(gains)
    return Speaker(
        f0_hz=(112.0 if is_male else 196.0) * 2 ** (rng.normal(0.0, 2.0) / 12),
        formant_scale=(1.0 if is_male else 1.16) * np.exp(rng.normal(0.0, 0.035)),
        neutral=_vector(NEUTRAL) + rng.normal(0.0, _vector(SPEAKER_SD)),
        habits=MappingProxyType(habits),
        accent=MappingProxyType({vowel: np.exp(rng.normal(0.0, ACCENT_SD, 3)) for vowel in VOWELS_HZ}),
        eq_db=rng.normal(0.0, EQ_SD_DB, len(EQ_HZ)),
        noise_db=rng.normal(-90.0, 5.0),
        noise_db_oct=rng.normal(-3.0, 1.0),
        delays=(delay_s * SAMPLE_RATE_HZ).astype(int),
        gains=gains.astype(np.float32),
    )


def express(voice: Speaker, emotion: str, intensity: str, rng: np.random.Generator) -> Expression:
    """Return the correlates of one take, absolute: a speaker's habit, never quite the same twice."""
    values = voice.neutral + voice.habits[emotion, intensity] + rng.normal(0.0, _vector(TAKE_SD))
    return Expression(*np.maximum(values, _vector(LEAST)))


def _vector(expression: Expression) -> np.ndarray:
    return np.array([getattr(expression, field.name) for field in fields(expression)])


def _rng(seed: int, *name: str) -> np.random.Generator:
    """Return the generator that belongs to a name, whoever asks and in whichever order."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(_canonical([seed, *name])).digest()[:16], "big"))


# --- the signal --------------------------------------------------------------------------------------------------

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
    rng = _rng(seed, "clip", speaker, emotion, statement, intensity, repetition)
    voice = speaker_voice(speaker, seed=seed)
    expression = express(voice, emotion, intensity, rng)
    tracks = move(voice, expression, statement, rng)
    signal = _in_room(_speak(voice, expression, tracks, rng), voice)
    return np.float32(signal * min(1.0, 0.95 / np.abs(signal).max()))


def move(voice: Speaker, expression: Expression, statement: str, rng: np.random.Generator) -> Tracks:
    """Return the movements of larynx and tongue for one statement: targets of each segment, joined smoothly."""
    start_s, values, stress = _segments(voice, expression, statement, rng)
    n_frames = int(start_s[-1] / FRAME_S)
    time_s = np.arange(n_frames) * FRAME_S
    segment = np.searchsorted(start_s, time_s, side="right") - 1
    values = values[segment]
    amplitudes = _smooth(_amplitude(values[:, :2]), 0.03)
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

    level = _amplitude(VOICE_DB + expression.level_db)
    pulses *= _glottal_gain(expression, tracks.f0_hz, hz)
    pulses += air * _breath_gain(expression, hz)
    pulses *= (level * tracks.voicing)[:, None]
    heard = pulses * _tract(voice, expression, tracks.formants_hz, hz)
    heard += air * _friction_gain(tracks, hz) * level
    heard *= _amplitude(_at_bands(voice.eq_db + rng.normal(0.0, TAKE_EQ_SD_DB, len(EQ_HZ)), hz))
    heard += np.roll(air, n_frames // 2, axis=0) * _room_noise_gain(voice, hz)  # half a clip away: as good as new noise
    return _overlap_add(heard)


def _pulses(expression: Expression, f0_hz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return band-limited unit pulses at the glottal closures, with jitter and shimmer, shape (n_frames * HOP,)."""
    n_samples = len(f0_hz) * HOP
    cycles = np.cumsum(np.interp(np.arange(n_samples), np.arange(len(f0_hz)) * HOP, f0_hz)) / SAMPLE_RATE_HZ
    at = np.interp(np.arange(1, int(cycles[-1])), cycles, np.arange(n_samples))
    at += rng.normal(0.0, expression.jitter_pct / 100, len(at)) * np.gradient(at)
    height = _amplitude(rng.normal(0.0, expression.shimmer_db, len(at)))
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
    return resonance * _amplitude(expression.tilt_db_oct * 0.5 * np.log2(1 + (hz / 700.0) ** 2))


def _breath_gain(expression: Expression, hz: np.ndarray) -> np.ndarray:
    """Return the spectrum of aspiration: weak below 1 kHz."""
    return _amplitude(expression.breath_db) * (hz / (hz + 1000.0))


def _friction_gain(tracks: Tracks, hz: np.ndarray) -> np.ndarray:
    """Return the spectra of friction at teeth and lips: a hump on the axis of octaves, not filtered by the tract."""
    octaves = np.log2(np.maximum(hz, 20.0)) - np.log2(tracks.friction_hz).astype(np.float32)[:, None]
    return tracks.friction.astype(np.float32)[:, None] * np.exp(-0.5 * (octaves / 0.6) ** 2)


def _room_noise_gain(voice: Speaker, hz: np.ndarray) -> np.ndarray:
    """Return the spectrum of the noise in the speaker's room."""
    return _amplitude(voice.noise_db + voice.noise_db_oct * np.log2(np.maximum(hz, 20.0) / 1000.0))


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


def _amplitude(level_db: Any) -> Any:
    """Return decibels as a factor, float32; nothing for minus infinity."""
    return np.float32(10.0) ** (np.asarray(level_db, np.float32) / 20)


# --- the folder --------------------------------------------------------------------------------------------------


def write(
    folder: Path,
    design: Design = Design(),
    *,
    n_jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Make the corpus as 16-bit WAV files: the folder appears whole or not at all.

    A folder that already holds this design is left as it is, except that clips it lacks are made again.

    Parameters
    ----------
    folder : path
        Absent, empty, or made by this function from the same design.
    n_jobs : int
        Worker processes, of one compute thread each; the files do not depend on it.
    progress : callable
        Called with the number of clips that are done, each time that there are more.

    Raises
    ------
    CorpusError
        If the folder holds anything else.
    StorageError
        If the machine does not let it be written. Nothing is left behind.
    """
    folder = Path(folder).resolve()
    try:
        _write(folder, design, n_jobs, progress)
    except OSError as error:
        raise StorageError(
            f"The synthetic corpus must be written to {folder}. Got: {error}. Make room, or choose another folder."
        ) from error


def _write(folder: Path, design: Design, n_jobs: int, progress: Callable[[int], None] | None) -> None:
    clips = plan(design)
    if _holds(folder, design):
        _write_clips(folder, [clip for clip in clips if not (folder / clip.path).is_file()], design, n_jobs, progress)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _staging(folder) as staging:
        _write_clips(staging, clips, design, n_jobs, progress)
        record = {
            "corpus": CORPUS,
            "generator_version": GENERATOR_VERSION,
            "fingerprint": design.fingerprint(),
            "n_utterances": len(clips),
            "design": asdict(design),
        }
        _write_bytes(staging / RECORD, json.dumps(record, indent=2).encode() + b"\n")
        _sync_folder(staging)
        try:
            with contextlib.suppress(OSError):
                folder.rmdir()  # an empty one, which not every system lets a rename replace
            staging.rename(folder)
        except OSError:
            if not _holds(folder, design):  # else another process was faster, with the same bytes
                raise
        _sync_folder(folder.parent)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, gone at the end; first remove those that killed processes left.

    A process holds a lock on its own as long as it lives.
    """
    from filelock import FileLock, Timeout

    prefix = f".{folder.name}.making-"
    for left in folder.parent.glob(f"{glob.escape(prefix)}*.lock"):
        with contextlib.suppress(Timeout, OSError), FileLock(left).acquire(blocking=False):
            shutil.rmtree(left.with_suffix(""), ignore_errors=True)
            left.unlink()
    staging = folder.with_name(f"{prefix}{secrets.token_hex(4)}")
    with FileLock(f"{staging}.lock") as lock:
        try:
            staging.mkdir()
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            with contextlib.suppress(OSError):  # Windows keeps an open file; the next one removes it
                os.unlink(lock.lock_file)


def _holds(folder: Path, design: Design) -> bool:
    """Return whether the folder was made from this design; refuse what a rename must not replace."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = read_design(folder)
    if found != design:
        raise CorpusError(
            f"{folder} must be absent, empty, or hold the same synthetic corpus ({design}). "
            f"It holds {found}. Choose another folder, or delete this one."
        )
    return True


def _write_clips(
    folder: Path,
    clips: Sequence[Utterance],
    design: Design,
    n_jobs: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Write clips, and see to it that they are on the disk."""
    speaker_folders = sorted({(folder / clip.path).parent for clip in clips})
    for speaker_folder in speaker_folders:
        speaker_folder.mkdir(exist_ok=True)
    batches = [clips[start : start + BATCH] for start in range(0, len(clips), BATCH)]
    n_done = 0
    with contextlib.closing(_write_batches(folder, batches, design.seed, n_jobs)) as counts:
        for n_written in counts:
            n_done += n_written
            if progress is not None:
                progress(n_done)
    for speaker_folder in speaker_folders:
        _sync_folder(speaker_folder)


def _write_batches(
    folder: Path, batches: list[Sequence[Utterance]], seed: int, n_jobs: int
) -> Generator[int, None, None]:
    """Yield the number of clips of each batch when it is written, here or by workers."""
    if n_jobs == 1 or len(batches) <= 1:
        yield from (_write_batch(folder, batch, seed) for batch in batches)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=1):
        parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
        yield from parallel(delayed(_write_batch)(folder, batch, seed) for batch in batches)


def _write_batch(folder: Path, clips: Sequence[Utterance], seed: int) -> int:
    import io

    import soundfile

    for clip in clips:
        signal = synthesise(clip.speaker, clip.emotion, clip.statement, clip.intensity, clip.repetition, seed=seed)
        encoded = io.BytesIO()
        soundfile.write(encoded, signal, SAMPLE_RATE_HZ, subtype="PCM_16", format="WAV")
        _write_bytes(folder / clip.path, encoded.getvalue())
    return len(clips)


def _write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_design(root: Path) -> Design:
    """Return the design from which a folder was made.

    Raises
    ------
    CorpusError
        If the folder has no record, or that of something else or of another version of the generator.
    """
    path = Path(root) / RECORD
    remedy = "Make it with `emobench data make`, or name the folder that it wrote."
    try:
        record = json.loads(path.read_bytes())
        version = record["generator_version"]
    except FileNotFoundError:
        raise CorpusError(f"A synthetic corpus must have a {RECORD}. {root} has none. {remedy}") from None
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise CorpusError(f"{path} must be the record of a synthetic corpus. Got {error!r}. {remedy}") from None
    if version != GENERATOR_VERSION:
        raise CorpusError(
            f"{path} must be of generator version {GENERATOR_VERSION}. Got {version!r}. Delete the folder; {remedy}"
        )
    try:
        design = Design(**{**record["design"], "emotions": tuple(record["design"]["emotions"])})
    except (TypeError, KeyError, ConfigError) as error:
        raise CorpusError(f"{path} must hold a design. Got: {error} {remedy}") from None
    if record.get("corpus") != CORPUS or record.get("fingerprint") != design.fingerprint():
        raise CorpusError(f"{path} must hold the fingerprint of its own design. It was edited. {remedy}")
    return design


def scan(root: Path, **options: Any) -> Scan:
    """Read a folder that `write` made: its recordings, junk, and what is missing; opens no audio.

    Raises
    ------
    CorpusError
        If the folder is no synthetic corpus, or holds files that its design does not know (all are named).
    ConfigError
        If options are given: this corpus has none.
    """
    if options:
        raise ConfigError(
            f"The synthetic corpus must be scanned without options. Got: {', '.join(options)}. Drop them."
        )
    root = Path(root)
    planned = {clip.path: clip for clip in plan(read_design(root))}
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()} - {RECORD}
    ignored = {name for name in found if not _is_recording(name)}
    strange = sorted(found - ignored - set(planned))
    if strange:
        raise CorpusError(
            f"Files in {root} must be clips of its design, called like {next(iter(planned))} (emotion, intensity, "
            f"statement, repetition, speaker). {len(strange)} are not:\n{listing(strange)}\nMove them elsewhere."
        )
    return Scan(
        utterances=tuple(clip for path, clip in planned.items() if path in found),
        ignored=tuple(sorted(ignored)),
        missing=tuple(path for path in planned if path not in found),
    )


def _is_recording(name: str) -> bool:
    """Return whether a file claims to be a clip: not hidden (``._x.wav`` is macOS's shadow of ``x.wav``), and WAV."""
    return name.lower().endswith(".wav") and not any(part.startswith(".") for part in name.split("/"))

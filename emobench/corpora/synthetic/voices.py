"""The speakers of the generated corpus: who they are, and how they express an emotion."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from emobench.corpora.synthetic.design import (
    EMOTIONS,
    HABIT_SD,
    INTENSITIES,
    INTENSITY_SD,
    LEAST,
    NEUTRAL,
    SAMPLE_RATE_HZ,
    SPEAKER_SD,
    TAKE_SD,
    USE_SD,
    VOWELS_HZ,
    Expression,
    canonical,
    sex_of,
)

pass


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
    rng = seeded(seed, "speaker", speaker)
    is_male = sex_of(speaker) == "male"
    use = np.clip(rng.normal(1.0, USE_SD, len(fields(Expression))), 0.2, 2.0)
    habits = {}
    for emotion, (subdued, aroused) in EMOTIONS.items():  # all of them: a voice does not depend on the design
        arousal, own = rng.beta(2.5, 2.5), rng.normal(0.0, _vector(HABIT_SD))
        for intensity, shift in INTENSITIES.items():
            typical = _vector(subdued) + (arousal + shift) * (_vector(aroused) - _vector(subdued))
            habits[emotion, intensity] = use * typical + own + rng.normal(0.0, _vector(INTENSITY_SD))
    delay_s = np.sort(rng.uniform(0.002, 0.2, N_REFLECTIONS))
    gains = rng.choice([-1.0, 1.0], N_REFLECTIONS) * np.exp(-6.9 * delay_s / rng.uniform(0.15, 0.4))
    gains *= amplitude(rng.uniform(-24.0, -14.0)) / np.linalg.norm(gains)
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


def seeded(seed: int, *name: str) -> np.random.Generator:
    """Return the generator that belongs to a name, whoever asks and in whichever order."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(canonical([seed, *name])).digest()[:16], "big"))


def amplitude(level_db: Any) -> Any:
    """Return decibels as a factor, float32; nothing for minus infinity."""
    return np.float32(10.0) ** (np.asarray(level_db, np.float32) / 20)

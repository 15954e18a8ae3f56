"""What the generated corpus holds: its speakers, emotions and statements, and how emotions differ."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np

from emobench.corpora import Utterance
from emobench.errors import ConfigError, did_you_mean

GENERATOR_VERSION = 1  # part of the fingerprint: raise it with every change that a clip can hear
CORPUS = "synthetic"


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


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(
            f"{name} of the synthetic corpus must be an integer from {least} to {most}. Got {value!r}. Change {name}."
        )


def canonical(value: object) -> bytes:
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
        return hashlib.sha256(canonical({"generator_version": GENERATOR_VERSION, **asdict(self)})).hexdigest()


DEFAULT = Design()


def plan(design: Design = DEFAULT) -> tuple[Utterance, ...]:
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
        sex=sex_of(speaker),
        statement=statement,
        intensity=intensity,
        repetition=repetition,
    )


def sex_of(speaker: str) -> str:
    return "male" if int(speaker) % 2 else "female"


SAMPLE_RATE_HZ = 24_000

"""Stresses: what recordings meet outside the studio, one row each, in several levels.

A row names a function of a signal; emobench's own are in `audio.transforms`. The same rows make the altered copies that
a model can be trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from emobench.errors import ConfigError
from emobench.files import digest
from emobench.registry import Row, lookup, resolve

MEASURES = {
    "unchanged": "share of answers that stay as they were",
    "uar": "unweighted average recall of the stressed recordings",
    "delta_uar": "unweighted average recall, stressed minus clean",
}
JUDGED = ("unchanged", "delta_uar")  # what a threshold may be set for

_SUITE = "Derington et al. (2025), Testing correctness, fairness, and robustness of speech emotion recognition models"
_TRANSFORMS = "emobench.audio.transforms"
_SMALL = {"unchanged": 0.95}
_NOISE = {"unchanged": 0.9, "delta_uar": -0.05}
_ROOM = {"unchanged": 0.8, "delta_uar": -0.05}
_PHONE = {"unchanged": 0.5, "delta_uar": -0.05}


@dataclass(frozen=True)
class StressSpec(Row):
    """A row of `STRESSES`.

    Attributes
    ----------
    apply : "module:function" or function
        Called as ``apply(signal, sr, level)`` with a mono float32 signal of shape (n_samples,) and its rate in Hz;
        returns the stressed signal at the same rate.
    levels : tuple of float
        How strong it is, the mildest first where there is an order.
    unit : str
        Of the levels; empty for a factor.
    source : str
        Where function, levels or thresholds come from.
    thresholds : mapping of str to float
        What a model should reach, by measure (`JUDGED`); without any there is no verdict.
    judged : tuple of float
        The levels that the thresholds are meant for; all of them by default.
    is_random : bool
        Whether `apply` is also given ``rng=``, a NumPy generator.
    takes_voices : bool
        Whether `apply` is also given ``voices=``, a list of signals at `sr` of other speakers of the corpus.
    version : int
        Raised when the same signal becomes another one.
    """

    kind: ClassVar[str] = "stress"
    targets: ClassVar[tuple[str, ...]] = ("apply",)

    name: str
    title: str
    apply: str | Callable[..., np.ndarray]
    levels: tuple[float, ...]
    unit: str = ""
    source: str = ""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    judged: tuple[float, ...] = ()
    is_random: bool = False
    takes_voices: bool = False
    version: int = 1

    def problem(self) -> str:
        """Return why the row cannot be used; see `Row.problem`."""
        levels = [*self.levels, *self.judged]
        if not self.levels or not all(isinstance(level, int | float) and math.isfinite(level) for level in levels):
            return f"the levels of {self.name!r} are {self.levels!r}; give finite numbers"
        if set(self.judged) - set(self.levels):
            return f"{self.name!r} is judged at {self.judged}, but its levels are {self.levels}"
        if unknown := set(self.thresholds) - set(JUDGED):
            return f"{self.name!r} has thresholds of {', '.join(sorted(unknown))}; allowed are {', '.join(JUDGED)}"
        return super().problem()

    def thresholds_at(self, level: float) -> Mapping[str, float]:
        """Return what a model should reach at a level; nothing where it is only measured."""
        return self.thresholds if level in (self.judged or self.levels) else {}

    def describe(self, level: float) -> str:
        """Return a level for people: ``-20 dB``."""
        return f"{level:g} {self.unit}".rstrip()

    def specification(self) -> dict[str, Any]:
        """Return what identifies the changed samples, besides the level and the seed."""
        return {"stress": self.name, "version": self.version, **self.origin_key()}


@dataclass(frozen=True)
class Change:
    """A stress at one level, with the seed of what is random in it."""

    stress: str
    level: float
    seed: int = 0

    def specification(self) -> dict[str, Any]:
        """Return what identifies it."""
        return {**get_stress(self.stress).specification(), "level": float(self.level), "seed": self.seed}

    @property
    def key(self) -> str:
        """A short text that identifies it: ``gain-20-1f3a…``."""
        return f"{self.stress}{self.level:g}-{digest(self.specification())[:8]}"

    def __call__(self, signal: np.ndarray, sr: int, *, clip: str, voices: Sequence[np.ndarray] = ()) -> np.ndarray:
        """Return a changed recording: float32 of shape (n_samples,).

        Parameters
        ----------
        signal : float32 array of shape (n_samples,)
        clip : str
            Which recording it is. Each is changed by a draw of its own, the same one at every level.
        voices : sequence of arrays
            At `sr`, where the row asks for them.

        Raises
        ------
        ValueError
            If the function of the row returns something else than finite samples of one channel.
        """
        row = get_stress(self.stress)
        given: dict[str, Any] = {}
        if row.is_random:
            given["rng"] = np.random.default_rng(int(digest([row.name, self.seed, clip])[:16], 16))
        if row.takes_voices:
            given["voices"] = list(voices)
        changed = np.asarray(resolve(row.apply)(signal, sr, self.level, **given), dtype=np.float32)
        if changed.ndim != 1 or not len(changed) or not np.isfinite(changed).all():
            raise ValueError(f"the stress {self.stress!r} returned an array of shape {changed.shape} that is no signal")
        return changed


def _row(name: str, title: str, function: str, levels: tuple[float, ...], unit: str = "", **more: Any) -> StressSpec:
    return StressSpec(name, title, f"{_TRANSFORMS}:{function}", levels, unit, **{"source": _SUITE, **more})


STRESSES: dict[str, StressSpec] = {
    row.name: row
    for row in (
        _row("gain", "Louder or softer, without clipping", "gain", (-20, -6, 6, 20), "dB", thresholds=_SMALL),
        _row(
            "clipping",
            "A share of the samples is cut off at the peaks",
            "clip",
            (0.001, 0.01, 0.05),
            thresholds=_SMALL,
            judged=(0.001,),
        ),
        _row(
            "offset",
            "A constant is added, as a share of full scale",
            "offset",
            (0.001, 0.01),
            thresholds=_SMALL,
            judged=(0.001,),
        ),
        _row("pad", "Digital silence before and after", "pad", (0.1, 0.5), "s", thresholds=_SMALL, judged=(0.1,)),
        _row("crop", "Cut off at either end", "crop", (0.05, 0.2), "s", thresholds=_SMALL, judged=(0.05,)),
        _row(
            "high-pass",
            "What lies below a frequency is missing",
            "high_pass",
            (100, 300),
            "Hz",
            thresholds=_SMALL,
            judged=(100,),
        ),
        _row(
            "low-pass",
            "What lies above a frequency is missing",
            "low_pass",
            (7000, 4000),
            "Hz",
            thresholds=_SMALL,
            judged=(7000,),
        ),
        _row("tilt", "A darker or brighter microphone", "tilt", (-3, 3), "dB/octave", thresholds=_ROOM),
        _row("phone", "A telephone: 300 to 3400 Hz, 8 kHz, 8 bits of µ-law", "phone", (8000,), "Hz", thresholds=_PHONE),
        _row("mp3", "MP3 at a low bit rate", "mp3", (32, 16), "kbit/s", source="", thresholds=_PHONE),
        _row(
            "white-noise",
            "White noise, as of electronics",
            "white_noise",
            (20, 10, 0),
            "dB SNR",
            thresholds=_NOISE,
            judged=(20,),
            is_random=True,
        ),
        _row(
            "pink-noise",
            "Pink noise, as of traffic and fans",
            "pink_noise",
            (20, 10, 0),
            "dB SNR",
            thresholds=_NOISE,
            judged=(20,),
            is_random=True,
        ),
        _row(
            "babble",
            "Other speakers of the corpus talk at once",
            "babble",
            (20, 10, 0),
            "dB SNR",
            thresholds=_NOISE,
            judged=(20,),
            is_random=True,
            takes_voices=True,
        ),
        _row(
            "room",
            "A room, by its reverberation time",
            "room",
            (0.3, 0.7),
            "s",
            source=f"Polack (1993); {_SUITE}",
            thresholds=_ROOM,
            is_random=True,
        ),
        _row("speed", "Played slower or faster, pitch included", "speed", (0.95, 1.05), source="Ko et al. (2015)"),
        _row("pitch", "Lower or higher voice, formants included", "pitch", (-2, 2), "semitones", source="librosa"),
    )
}


def get_stress(name: str) -> StressSpec:
    """Return the row of `STRESSES` called `name`, or raise `UnknownNameError`."""
    return lookup("stress", STRESSES, name)


def all_changes(stresses: Mapping[str, Sequence[float]] | Sequence[str], *, seed: int = 0) -> list[Change]:
    """Return every level of some stresses.

    Parameters
    ----------
    stresses : mapping of str to levels, or sequence of str
        Without levels, or with none of them, those of the row.

    Raises
    ------
    ConfigError
        If a stress is unknown, or a level is not a finite number.
    """
    asked = stresses if isinstance(stresses, Mapping) else dict.fromkeys(stresses, ())
    found = [
        Change(name, float(level), seed) for name, own in asked.items() for level in own or get_stress(name).levels
    ]
    for change in found:
        if not math.isfinite(change.level):
            raise ConfigError(f"A level of {change.stress!r} must be a finite number. Got {change.level}. Change it.")
    return list(dict.fromkeys(found))

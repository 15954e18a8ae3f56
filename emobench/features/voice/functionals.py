"""From frames to one vector: statistics over the frames that are active, those that are voiced and those that are not.

Each block of numbers is a row of `BLOCKS`. A part of a recording that has no frame is stood in for: by the active
frames where none is voiced (or unvoiced), by all of them where none is active.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, product

import numpy as np

from emobench.features.mfcc import DELTA_WIDTH, delta
from emobench.features.voice import rhythm
from emobench.features.voice.spectrum import N_MELS, SHAPE
from emobench.features.voice.speech import ACTIVE_DB

CYCLES = ("jitter", "shimmer", "h1_h2", "h1_h3")
SOUND = ("harmonicity", *SHAPE)
MEL = tuple(f"mel{band:02d}" for band in range(1, N_MELS + 1))
ROWS = ("pitch", *CYCLES, *SOUND, *MEL)  # of the frames

N_MFCC = 13
MFCC = tuple(f"mfcc{number:02d}" for number in range(N_MFCC))

# What stands for a voice that is hardly there: 165 Hz, between the sexes; 2 % jitter, 10 % shimmer, even harmonics.
_FEWEST_VOICED = 4  # frames
_UNHEARD_PITCH = 31.0
_UNHEARD_CYCLES = ((0.02,), (0.1,), (0.0,), (0.0,))
_LEAST_PERTURBATION = 3e-3  # less cannot be measured at 16 kHz
_LARGEST_STEP = 3.0  # semitones from frame to frame; across a pause pitch jumps


class Track:
    """The frames of a recording by what they are. Every array has time last.

    Attributes
    ----------
    pitch, level : arrays of shape (n_frames,)
    cycles, sound, mel : arrays of shape (n_rows, n_frames)
    parts : dict of bool arrays of shape (n_frames,)
        Which frames are active, voiced, and active but unvoiced.
    """

    def __init__(self, frames: np.ndarray):
        ends = np.cumsum([1, len(CYCLES), len(SOUND)])
        (self.pitch,), self.cycles, self.sound, self.mel = np.split(frames.astype(np.float64), ends)
        self.level = self.sound[SOUND.index("level")]
        self.is_voiced = self.pitch > 0
        is_active = _or_else(self.level > ACTIVE_DB, np.ones_like(self.is_voiced))
        self.parts = {
            "active": is_active,
            "voiced": _or_else(self.is_voiced, is_active),
            "unvoiced": _or_else(is_active & ~self.is_voiced, is_active),
        }

    @cached_property
    def mfcc(self) -> np.ndarray:
        """Mel-frequency cepstral coefficients: (N_MFCC, n_frames)."""
        return _cosines() @ self.mel

    @property
    def has_voice(self) -> bool:
        return bool(np.count_nonzero(self.is_voiced) >= _FEWEST_VOICED)

    @property
    def contour(self) -> np.ndarray:
        """Pitch of the voiced frames, in semitones above 27.5 Hz."""
        return self.pitch[self.is_voiced] if self.has_voice else np.full(_FEWEST_VOICED, _UNHEARD_PITCH)


def _or_else(chosen: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return chosen if chosen.any() else otherwise


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    from scipy.fft import dct

    return dct(np.eye(N_MELS), axis=0, type=2, norm="ortho")[:N_MFCC]


# --- statistics over time of rows of shape (n_rows, n_frames): one statistic of all rows after the other --------------

MOMENTS = ("mean", "sd")
SPREAD = ("mean", "sd", "p05", "p50", "p95", "iqr")
THIRDS = ("thirds1-2", "thirds2-3")


def moments(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows.mean(axis=1), rows.std(axis=1)])


def spread(rows: np.ndarray) -> np.ndarray:
    p05, p25, p50, p75, p95 = np.percentile(rows, [5, 25, 50, 75, 95], axis=1)
    return np.concatenate([moments(rows), p05, p50, p95, p75 - p25])


def trend(rows: np.ndarray) -> np.ndarray:
    """Return how much the straight line through each row rises from its first frame to its last."""
    times = np.linspace(-0.5, 0.5, rows.shape[1])
    return rows @ times / (times @ times) if len(times) > 1 else np.zeros(len(rows))


def thirds(rows: np.ndarray) -> np.ndarray:
    """Return how much the mean of each row falls from the first third to the second, and from that to the last."""
    if rows.shape[1] < 3:
        return np.zeros(2 * len(rows))
    first, second, last = (part.mean(axis=1) for part in np.array_split(rows, 3, axis=1))
    return np.concatenate([first - second, second - last])


def correlations(rows: np.ndarray) -> np.ndarray:
    """Return the correlation over time of each pair of rows; 0 where one does not vary."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-6)
    return (rows @ rows.T)[np.triu_indices(len(rows), 1)]


# --- blocks -----------------------------------------------------------------------------------------------------------


def _mfcc(track: Track) -> np.ndarray:
    return np.concatenate([moments(track.mfcc[:, part]) for part in track.parts.values()])


def _mfcc_dynamics(track: Track) -> np.ndarray:
    if track.mfcc.shape[1] < DELTA_WIDTH:
        return np.zeros(4 * N_MFCC)
    series = [delta(track.mfcc, order=order) for order in (1, 2)]
    return np.concatenate([one[:, track.parts[part]].std(axis=1) for part in ("active", "voiced") for one in series])


def _sound(track: Track) -> np.ndarray:
    active, voiced, unvoiced = (track.sound[:, part] for part in track.parts.values())
    return np.concatenate([spread(active), spread(voiced), moments(unvoiced)])


def _sound_dynamics(track: Track) -> np.ndarray:
    change = np.diff(track.sound, axis=1, prepend=track.sound[:, :1])[:, track.parts["active"]]
    return np.concatenate([change.std(axis=1), trend(track.sound), thirds(track.sound)])


def _cycles(track: Track) -> np.ndarray:
    cycles = track.cycles[:, track.is_voiced] if track.has_voice else np.array(_UNHEARD_CYCLES)
    perturbation = np.log(np.maximum(cycles[:2], _LEAST_PERTURBATION))
    return spread(np.concatenate([perturbation, cycles[2:]]))


_PITCH_PERCENTILES = (2, 5, 10, 25, 50, 75, 90, 95, 98)


def _pitch(track: Track) -> np.ndarray:
    contour = track.contour
    change = np.diff(contour)
    change = np.append(change[np.abs(change) < _LARGEST_STEP], 0)
    slopes = rhythm.run_slopes(track.pitch, track.is_voiced)
    return np.concatenate(
        [
            [contour.mean(), contour.std()],
            np.percentile(contour, _PITCH_PERCENTILES),
            [np.abs(change).mean(), change.std()],
            [slopes.mean(), slopes.std(), slopes.min(), slopes.max()],
            trend(contour[np.newaxis]),
            thirds(contour[np.newaxis]),
        ]
    )


_RELATED = ("pitch", *SOUND[:4], "rolloff50", *SOUND[SOUND.index("flux") :])


def _relations(track: Track) -> np.ndarray:
    rows = np.concatenate([track.pitch[np.newaxis], track.sound])[:, track.parts["voiced"]]
    return correlations(rows[[("pitch", *SOUND).index(name) for name in _RELATED]])


def _long_term_spectrum(track: Track) -> np.ndarray:
    return np.median(track.mel[:, track.parts["active"]], axis=1)


def _modulation(track: Track) -> np.ndarray:
    pairs = track.mel.reshape(-1, 2, track.mel.shape[1]).mean(axis=1)
    times = np.arange(len(track.pitch))
    melody = np.interp(times, times[track.is_voiced], track.contour) if track.has_voice else np.zeros(len(times))
    centroid = track.sound[SOUND.index("centroid")]
    # In octaves and bels, so that all are of the size of the bands' nepers.
    return rhythm.modulation_spectrum(np.concatenate([pairs, [melody / 12, track.level / 10, centroid / 12]]))


def _rhythm(track: Track) -> np.ndarray:
    return rhythm.describe_rhythm(track.level, track.is_voiced, track.mel)


@dataclass(frozen=True)
class Block:
    """A row of `BLOCKS`: numbers that belong together, by name, and the function that takes them from a `Track`."""

    names: tuple[str, ...]
    compute: Callable[[Track], np.ndarray]


def _names(rows: Sequence[str], statistics: Sequence[str], *parts: str) -> tuple[str, ...]:
    """Return names in the order of the statistics' results: by part of the recording, statistic and row."""
    return tuple(
        ".".join(filter(None, (row, part, one))) for part, one, row in product(parts or ("",), statistics, rows)
    )


BLOCKS: dict[str, Block] = {
    "mfcc": Block(_names(MFCC, MOMENTS, "active", "voiced", "unvoiced"), _mfcc),
    "mfcc_dynamics": Block(_names(MFCC, ("delta.sd", "delta2.sd"), "active", "voiced"), _mfcc_dynamics),
    "sound": Block(_names(SOUND, SPREAD, "active", "voiced") + _names(SOUND, MOMENTS, "unvoiced"), _sound),
    "sound_dynamics": Block(_names(SOUND, ("change.sd", "trend", *THIRDS)), _sound_dynamics),
    "long_term_spectrum": Block(_names(MEL, ("p50",)), _long_term_spectrum),
    "cycles": Block(_names(CYCLES, SPREAD), _cycles),
    "pitch": Block(
        _names(
            ("pitch",),
            (
                *MOMENTS,
                *(f"p{percent:02d}" for percent in _PITCH_PERCENTILES),
                *("change.mean", "change.sd", "slope.mean", "slope.sd", "slope.min", "slope.max", "trend", *THIRDS),
            ),
        ),
        _pitch,
    ),
    "relations": Block(tuple(f"{one}~{other}" for one, other in combinations(_RELATED, 2)), _relations),
    "modulation": Block(
        _names(
            (
                *(f"{low}+{high[3:]}" for low, high in zip(MEL[::2], MEL[1::2], strict=True)),
                "pitch",
                "level",
                "centroid",
            ),
            tuple(f"{low:g}-{high:g}Hz" for low, high in rhythm.MODULATION_HZ),
        ),
        _modulation,
    ),
    "rhythm": Block(rhythm.NAMES, _rhythm),
}

NAMES: tuple[str, ...] = tuple(name for block in BLOCKS.values() for name in block.names)


def summarise(frames: np.ndarray) -> np.ndarray:
    """Return the vector of a recording from the description of its frames.

    Parameters
    ----------
    frames : float32 array of shape (len(ROWS), n_frames)
        At least one frame.

    Returns
    -------
    vector : float32 array of shape (len(NAMES),)
        Block by block.
    """
    track = Track(frames)
    return np.concatenate([block.compute(track) for block in BLOCKS.values()]).astype(np.float32)

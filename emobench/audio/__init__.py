"""Recordings: from a file or bytes to mono samples, and every reason why one cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Mono = Literal["mean", "first", "error"]


@dataclass(frozen=True)
class AudioPolicy:
    """What recordings a run accepts and how several channels become one.

    Attributes
    ----------
    mono : {"mean", "first", "error"}
        Applied before resampling, as `librosa.load` does.
    min_duration_s, max_duration_s : float
        Bounds of a recording's length.
    """

    mono: Mono = "mean"
    min_duration_s: float = 0.1
    max_duration_s: float = 3600.0


DEFAULT_POLICY = AudioPolicy()


@dataclass(frozen=True)
class Audio:
    """A decoded recording.

    Attributes
    ----------
    signal : float32 array of shape (n_samples,)
        Mono, at the native rate, full scale ±1.
    sr : int
        Native sampling rate in Hz.
    clip : str
        SHA-256 of the file's bytes; where another program decodes them, of its name and version too.
    content : str
        SHA-256 of the decoded samples, all channels, as a plain WAV file: equal for a WAV and its FLAC, and for the
        same samples of 16 bit kept as floating point.
    warnings : tuple of str
        What deserves a remark: silence, clipping, a length that is not stated, a name that belies the content.
    """

    signal: np.ndarray
    sr: int
    clip: str
    content: str
    warnings: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        return len(self.signal) / self.sr

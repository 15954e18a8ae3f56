"""Feature sets: named, versioned functions from a mono signal to a vector of fixed length, or to frames over time.

`librosa` is the definition of every number. A row takes a signal at its rate, computes something of each frame, and
sums it up over time, or cuts it into stretches of equal length; rows that agree on the frames share them.
"""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from emobench.features.frames import N_FRAMES
from emobench.features.frames import SR as FRAMES_SR
from emobench.features.rows import rows_of
from emobench.features.voice import BLOCKS as VOICE_BLOCKS
from emobench.features.voice import NAMES as VOICE_NAMES
from emobench.features.voice import SR as VOICE_SR
from emobench.files import digest
from emobench.registry import Option, Row, lookup, plain, resolve

STORE_LAYOUT = 2  # raised when the store keeps something else beside a vector; part of every feature key

# What a feature's value depends on besides its own parameters; part of every feature key.
LIBRARIES = ("librosa", "numpy", "scipy", "soundfile", "soxr")


FILE = "file"
"""What the specification of a feature set calls its source where another program made the numbers."""


@dataclass(frozen=True)
class FeatureSpec(Row):
    """A row of `FEATURES`.

    Attributes
    ----------
    frames : "module:function" or function
        Called as ``frames(signal, sr=…, **params)``; returns float32 of shape
        (n_coefficients, n_frames). What is frame by frame is computed once for all rows with the same frames, rate and
        parameters.
    summary : "module:function" or function
        Called as ``summary(frames)``; returns float32 of shape (n_features,), or (n_windows, t, c) of frames, at
        least one window.
    names : tuple of str
        What each number is, in order; empty where they have no names.
    blocks : tuple of str
        What each number belongs to, in order, for the importance of blocks; by default its name before the first dot.
    version : int
        Raised when the same signal gives other numbers.
    sr : int
        Rate in Hz that recordings are resampled to.
    min_samples : int
        The shortest signal, at `sr`, that it can take.
    shape : tuple of int
        (t, c) where the n_features numbers are t frames of c channels, one frame after the other; empty for a vector.
    libraries : tuple of str
        Distributions that its numbers depend on besides `LIBRARIES`; their versions are in its keys.
    options : mapping of str to Option
        What a config may set beside the name.
    reader : "module:function" or function
        Of a row whose numbers stand in a file: ``reader(row, label, options)`` returns the feature set of an item of a
        config, with its `vectors`. Its `frames` and `summary` are never called.
    vectors : object
        What `reader` has read; see `emobench.features.embeddings.Vectors`.
    """

    kind: ClassVar[str] = "feature set"
    targets: ClassVar[tuple[str, ...]] = ("frames", "summary", "reader")

    name: str
    title: str
    frames: str | Callable[..., np.ndarray]
    summary: str | Callable[[np.ndarray], np.ndarray]
    n_features: int
    names: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    version: int = 1
    sr: int = 22_050
    min_samples: int = 1
    shape: tuple[int, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    reader: str | Callable[..., FeatureSpec] = ""
    vectors: Any = field(default=None, repr=False, compare=False)

    def problem(self) -> str:
        """Return why the row cannot be used; see `Row.problem`."""
        if problem := super().problem():
            return problem
        if missing := [name for name in self.libraries if not _version(name)]:
            return f"{self.name!r} needs {', '.join(missing)}, not installed"
        if self.shape and (len(self.shape) != 2 or math.prod(self.shape) != self.n_features):
            return f"{self.name!r} has shape {self.shape}; n_features={self.n_features} asks for (frames, channels)"
        return ""

    def specification(self) -> dict[str, Any]:
        """Return what identifies the numbers, without library versions: name, version, rate, parameters, shape."""
        about = {"name": self.name, "version": self.version, "sr": self.sr, "params": plain(self.params)}
        kind = {"shape": list(self.shape)} if self.shape else {"source": FILE} if self.is_read else {}
        return about | kind | self.origin_key()

    @property
    def is_read(self) -> bool:
        """Whether its numbers stand in a file, so that no signal gives them."""
        return bool(self.reader)

    @property
    def form(self) -> str:
        """What a model must be able to see: ``"vector"`` or ``"frames"``."""
        return "frames" if len(self.shape) == 2 else "vector"

    def columns(self) -> dict[str, list[int]]:
        """Return the places of each block's numbers; nothing where the numbers have no names."""
        found: dict[str, list[int]] = {}
        for place, block in enumerate(self.blocks or [name.partition(".")[0] for name in self.names]):
            found.setdefault(block, []).append(place)
        return found

    @property
    def promise(self) -> str:
        """The shape of what `summary` returns, in words."""
        return f"({self.n_features},)" if self.form == "vector" else "(n_windows, {}, {})".format(*self.shape)

    def is_kept_by(self, found: np.ndarray) -> bool:
        """Return whether an array has the shape that `summary` must return."""
        if self.form == "vector":
            return found.shape == (self.n_features,)
        return found.ndim == 3 and found.shape[1:] == self.shape and len(found) > 0

    @property
    def frames_key(self) -> tuple[Any, int, str]:
        """What rows with the same frames have in common."""
        return self.frames, self.sr, repr(sorted(self.params.items()))

    def extract_frames(self, signal: np.ndarray) -> np.ndarray:
        """Return what is computed of each frame of a mono float32 signal at `sr`."""
        return resolve(self.frames)(signal, sr=self.sr, **self.params)

    def summarise(self, frames: np.ndarray) -> np.ndarray:
        """Return the vector of a signal from its frames, or the windows that they are cut into."""
        return resolve(self.summary)(frames)

    def __call__(self, signal: np.ndarray) -> np.ndarray:
        """Extract the vector, or the windows, of a mono float32 signal at `sr`."""
        return self.summarise(self.extract_frames(signal))


@dataclass(frozen=True)
class FeatureTable:
    """One feature set of the utterances that a run uses, in the order of their dataset: all that a job is given.

    Attributes
    ----------
    X : float32 array of shape (n_rows, n_features)
        Finite. A row for each utterance; several, standing together, for long speech in frames.
    y : int array of shape (n_utterances,)
        Codes 0..k-1 of `classes`.
    classes : tuple of k str
        The declared emotions in the order of the LabelEncoder.
    ids, speakers, sexes : tuple of n_utterances str
        Of each utterance: its name, for the fingerprint of what is fitted, and who speaks, for inner folds.
    spec : FeatureSpec
    key : str
        Of the store.
    n_computed : int
        Recordings that were not in the store.
    spans : int array of shape (n_utterances, 2), optional
        First row of each utterance in X, and the one behind its last; without, each has the row of its number.
    """

    X: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    speakers: tuple[str, ...]
    sexes: tuple[str, ...]
    spec: FeatureSpec
    key: str
    n_computed: int = 0
    spans: np.ndarray | None = None

    def rows_of(self, utterances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of X that some utterances have, and for each of these the position of its utterance."""
        return rows_of(self.spans, utterances)


FEATURES: dict[str, FeatureSpec] = {
    row.name: row
    for row in (
        FeatureSpec(
            name="mfcc40",
            title="Mean over time of 40 MFCC (librosa's defaults, 22,050 Hz)",
            frames="emobench.features.mfcc:mfcc",
            summary="emobench.features.mfcc:time_mean",
            n_features=40,
            names=tuple(f"mfcc{number:02d}.mean" for number in range(40)),
            params={"n_mfcc": 40},
        ),
        FeatureSpec(
            name="mfcc40_stats",
            title="Mean and deviation over time of 40 MFCC, deviation of their deltas and delta-deltas",
            frames="emobench.features.mfcc:mfcc",
            summary="emobench.features.mfcc:time_statistics",
            n_features=160,
            names=tuple(
                f"mfcc{number:02d}.{statistic}"
                for statistic in ("mean", "sd", "delta.sd", "delta2.sd")
                for number in range(40)
            ),
            min_samples=8 * 512,  # nine frames, centred on every 512th sample
            params={"n_mfcc": 40},
        ),
        FeatureSpec(
            name="voice",
            title="Statistics of pitch, voice quality, spectrum, rhythm and modulation; the level is normalised",
            frames="emobench.features.voice:describe",
            summary="emobench.features.voice:summarise",
            n_features=len(VOICE_NAMES),
            names=VOICE_NAMES,
            blocks=tuple(name for name, block in VOICE_BLOCKS.items() for _ in block.names),
            sr=VOICE_SR,
        ),
        FeatureSpec(
            name="logmel64",
            title="Frames over time: 64 log-mel energies of the speech every 10 ms, its level normalised, 3 s a row",
            frames="emobench.features.frames:speech_log_mel",
            summary="emobench.features.frames:log_mel_windows",
            n_features=N_FRAMES * 64,
            sr=FRAMES_SR,
            shape=(N_FRAMES, 64),
            params={"n_mels": 64},
        ),
        FeatureSpec(
            name="mfcc40_frames",
            title="Frames over time: 40 MFCC of the speech every 10 ms, its level normalised, 3 s a row",
            frames="emobench.features.frames:speech_log_mel",
            summary="emobench.features.frames:cepstral_windows",
            n_features=N_FRAMES * 40,
            sr=FRAMES_SR,
            shape=(N_FRAMES, 40),
            params={"n_mels": 64},
        ),
        FeatureSpec(
            name="embeddings",
            title="Vectors that another program made of each recording, read from a file; docs/embeddings.md",
            frames="emobench.features.embeddings:refuse",
            summary="emobench.features.embeddings:refuse",
            n_features=0,
            options={"path": Option(Path), "trained_on": Option(str)},
            reader="emobench.features.embeddings:read_spec",
        ),
    )
}


MEAN_F0 = FeatureSpec(  # for groups of recordings, not for models: in the store, and not in the table
    name="mean_f0",
    title="Mean fundamental frequency in Hz",
    frames="emobench.features.voice.pitch:voiced_f0",
    summary="emobench.features.voice.pitch:mean_of_voiced",
    n_features=1,
    sr=VOICE_SR,
)


def get_features(name: str) -> FeatureSpec:
    """Return the row of `FEATURES` called `name`, or raise `UnknownNameError`."""
    return lookup("feature set", FEATURES, name)


def feature_key(spec: FeatureSpec, *, mono: str = "mean") -> str:
    """Return the store's key of a feature set: its name and a hash of everything that its numbers depend on.

    Other parameters, another extractor's version, another version of Python or of a library of the signal path, and
    another processor architecture, are another key, so nothing stale is ever found. That of vectors that stand in a
    file is the file's hash.
    """
    if spec.is_read:
        return f"{spec.name}-{spec.params['sha256'][:16]}"
    return f"{spec.name}-{digest(feature_identity(spec, mono=mono))[:16]}"


def feature_identity(spec: FeatureSpec, *, mono: str = "mean") -> dict[str, Any]:
    """Return what a feature key is the hash of."""
    return {
        "spec": spec.specification(),
        "n_features": spec.n_features,
        "mono": mono,
        "libraries": library_versions() | {name: _version(name) for name in spec.libraries},
        "machine": platform.machine(),
        "python": "{}.{}".format(*sys.version_info),
        "layout": STORE_LAYOUT,
    }


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries between a file and its vector."""
    from importlib.metadata import version

    import soundfile

    return {name: version(name) for name in LIBRARIES} | {"libsndfile": soundfile.__libsndfile_version__}


def _version(distribution: str) -> str:
    """Return the version of a distribution; nothing where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""

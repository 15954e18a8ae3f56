"""Predict the emotion of recordings with a saved model, through ONNX Runtime."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.audio import Audio, AudioPolicy
from emobench.audio.damage import SILENCE
from emobench.audio.decoding import check_signal, decode, hash_samples, read_audio
from emobench.audio.streaming import Stream, open_stream, resampled, windows
from emobench.bundles.manifest import AUDIO_ID_DIGITS, Manifest
from emobench.bundles.storage import Bundle, read_bundle
from emobench.corpora.labels import fit_encoder
from emobench.errors import AudioError, BundleError, ConfigError, DataError, UnknownNameError
from emobench.features import FILE, FeatureSpec, get_features
from emobench.features.extraction import keep_freed_memory, remarks_on, vectorise
from emobench.features.rows import pool_answers
from emobench.prediction.selection import find_bundle
from emobench.registry import Plugins, using

if TYPE_CHECKING:
    from sklearn.preprocessing import LabelEncoder

UNCERTAIN = "uncertain"
"""The answer where no emotion is as probable as asked."""

SILENT = "silent"
SEEN = "trained on this recording"
GENERATED = "trained on generated speech"

WINDOWS_AT_ONCE = 32
SHORT_BYTES = 2**22
"""Windows of larger files are not compared with the training recordings, which last seconds."""

Recording = str | os.PathLike[str] | bytes | np.ndarray
"""A path, the content of a file, or a signal in memory."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording.

    Attributes
    ----------
    path : str
        As it was given; empty for a signal or bytes in memory.
    emotion : str
        `UNCERTAIN` where its probability is below the threshold; empty where `error` says why there is none.
    probabilities : dict of str to float, or None
        None for a model without probabilities.
    entry : str
        The model's name on the leaderboard.
    warning : str
        What deserves a remark about the recording.
    error : str
    marks : tuple of str
        Why the answer must not be taken at face value: `SILENT`, `SEEN`, `GENERATED`; mostly none.
    """

    path: str
    emotion: str
    probabilities: dict[str, float] | None
    entry: str
    warning: str = ""
    error: str = ""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowPrediction:
    """The answer for one window of a recording, which lasts from `start_s` to `end_s`; else as `Prediction`."""

    path: str
    start_s: float
    end_s: float
    emotion: str
    probabilities: dict[str, float] | None
    entry: str
    warning: str = ""
    marks: tuple[str, ...] = ()


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    results: str | os.PathLike[str] = "results",
    plugins: Plugins = (),
) -> Predictor:
    """Load a model that answers at once.

    Parameters
    ----------
    model : path or str, optional
        A bundle (folder or zip), a run, or the name of an entry; by default the best model found in `results`.
    results : path
        Folder of runs, where a name is looked for.
    plugins : path or sequence of path
        Files whose rows join the tables; see `emobench.registry.using`.

    Raises
    ------
    BundleError
        If there is no such model or several unlike ones, it cannot be trusted, or its features are not computed here.
    """
    with using(plugins):
        return Predictor(read_bundle(find_bundle(model, results)))


def predict(
    audio: Recording,
    sr: int | None = None,
    *,
    model: str | os.PathLike[str] | Bundle | None = None,
    results: str | os.PathLike[str] = "results",
    plugins: Plugins = (),
) -> Prediction:
    """Return the emotion of one recording, with a model that is loaded for it; see `load` and `Predictor.predict`."""
    with using(plugins):
        predictor = Predictor(model) if isinstance(model, Bundle) else load(model, results=results)
        return predictor.predict(audio, sr)


class Predictor:
    """A loaded model that names the emotion of recordings.

    Files, signals and windows all go the same way: samples → `features` → `classify`. It may be used by several
    threads.

    Parameters
    ----------
    bundle : Bundle

    Attributes
    ----------
    bundle : Bundle
    spec : FeatureSpec
        Of the features that it was trained on.
    entry : str
        Its name on the leaderboard.
    classes : tuple of str
    has_probabilities : bool
    policy : AudioPolicy
        How channels become one, as in training.

    Raises
    ------
    BundleError
        If its features are not computed here as they were in training.
    """

    def __init__(self, bundle: Bundle):
        keep_freed_memory()
        self.bundle = bundle
        self.spec = _spec(bundle.manifest)
        self.entry = bundle.manifest.entry
        self.classes = tuple(bundle.manifest.classes)
        self.has_probabilities = bundle.manifest.has_probabilities
        self.policy = _policy(bundle.manifest)
        self._session = bundle.session()
        self._seen = frozenset(bundle.manifest.audio_ids)
        self._marks: tuple[str, ...] = (GENERATED,) if bundle.manifest.trained_on.get("is_generated") else ()

    @cached_property
    def label_encoder(self) -> LabelEncoder:
        """The `LabelEncoder` of the run, whose `inverse_transform` turns codes into labels; imports scikit-learn."""
        return fit_encoder(self.classes)

    def features(self, audio: Recording, sr: int | None = None) -> np.ndarray:
        """Return the features of a recording, as `predict` takes it.

        Returns
        -------
        features : float32 array of shape (n_features,), or (n_windows, n_features) of frames
        """
        self._check_can_hear()
        return self._vector(self._heard(audio, sr), audio)

    def classify(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the emotions of feature vectors, or of windows of frames.

        Parameters
        ----------
        X : array of shape (n, n_features)
            Finite. A window is flattened, one frame after the other.

        Returns
        -------
        codes : int array of shape (n,)
            Positions in `classes`.
        probabilities : float32 array of shape (n, n_classes), or None
        """
        X = np.asarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != self.spec.n_features or not np.isfinite(X).all():
            raise DataError(
                f"X must be finite, of shape (n, {self.spec.n_features}). Got shape {X.shape}, "
                f"{np.count_nonzero(~np.isfinite(X))} values not finite. Give rows of `features`."
            )
        return self._session.predict(X)

    def labels(self, X: np.ndarray) -> list[str]:
        """Return the emotion of each row of features; see `classify`."""
        return [self.classes[code] for code in self.classify(X)[0]]

    def predict(self, audio: Recording, sr: int | None = None, *, threshold: float | None = None) -> Prediction:
        """Return the emotion of one recording.

        Parameters
        ----------
        audio : path, bytes, or float array of shape (n_samples,) or (n_samples, n_channels)
            A file of any format that libsndfile reads, or ffmpeg where it is there; its content; or a signal, full
            scale ±1.
        sr : int
            Rate in Hz of a signal; not used with a file.
        threshold : float in [0, 1], optional
            The emotion is `UNCERTAIN` if its probability is below.

        Raises
        ------
        AudioError
            If the recording cannot be used.
        ConfigError
            If the threshold is out of range, or the model has no probabilities that it could be compared with.
        """
        self._check_can_hear()
        self._check_threshold(threshold)
        heard = self._heard(audio, sr)
        ((emotion, probabilities),) = self._answers([self._vector(heard, audio)], threshold)
        remarks = [remarks_on(heard, self.spec)]
        marks = (*[SILENT] * (SILENCE in heard.warnings), *self._marks_of(heard))
        if SEEN in marks:
            remarks.append("the model was trained on this very recording, so its answer is no evidence of its quality")
        return Prediction(
            _name(audio), emotion, probabilities, self.entry, "; ".join(filter(None, remarks)), marks=marks
        )

    def predict_files(self, files: Iterable[Recording], *, threshold: float | None = None) -> Iterator[Prediction]:
        """Yield the emotion of each file; one that cannot be used has an `error`, and the others go on."""
        self._check_can_hear()
        self._check_threshold(threshold)
        return (self._attempt(file, threshold) for file in files)

    def predict_windows(
        self,
        audio: Recording,
        sr: int | None = None,
        *,
        window_s: float = 3.0,
        hop_s: float = 1.0,
        threshold: float | None = None,
    ) -> Iterator[WindowPrediction]:
        """Yield the emotion of each window of a recording of any length.

        The first begins at 0, the next `hop_s` later, until one reaches the end; see `streaming`. Each gets
        the answer that `predict` gives to its samples at the rate of the features (`spec.sr`), to which the whole
        recording is resampled. A last window that is shorter than any recording may be is left out.

        Raises
        ------
        AudioError
            If the recording cannot be used, be it after some windows.
        ConfigError
            If `window_s`, `hop_s` or `threshold` is out of range.
        """
        self._check_can_hear()
        self._check_threshold(threshold)
        shortest_s = max(self.policy.min_duration_s, self.spec.min_samples / self.spec.sr)
        if not shortest_s <= window_s <= self.policy.max_duration_s:
            raise ConfigError(
                f"A window must last {shortest_s:.3g} to {self.policy.max_duration_s:g} s. Got {window_s:g}. Change it."
            )
        length, hop = round(window_s * self.spec.sr), round(hop_s * self.spec.sr) if math.isfinite(hop_s) else 0
        if not 1 <= hop <= self.policy.max_duration_s * self.spec.sr:
            raise ConfigError(
                f"The hop between windows must be above 0 and at most {self.policy.max_duration_s:g} s. "
                f"Got {hop_s:g}. Change it."
            )
        return self._track(audio, sr, length, hop, threshold)

    def _track(
        self, audio: Recording, sr: int | None, length: int, hop: int, threshold: float | None
    ) -> Iterator[WindowPrediction]:
        least = max(math.ceil(self.policy.min_duration_s * self.spec.sr), self.spec.min_samples)
        with contextlib.ExitStack() as stack:
            stream, marks = self._stream(audio, sr, stack)
            found = windows(resampled(stream.blocks, stream.sr, self.spec.sr), length, hop)
            found = ((start, samples) for start, samples in found if start == 0 or len(samples) >= least)
            for some in _batches(found, WINDOWS_AT_ONCE):
                features = [vectorise(self.spec, samples, self.spec.sr, path=_title(audio)) for _, samples in some]
                answers = self._answers(features, threshold)
                for (start, samples), (emotion, probabilities) in zip(some, answers, strict=True):
                    start_s, end_s = (round(n / self.spec.sr, 6) for n in (start, start + len(samples)))
                    answer = WindowPrediction(_name(audio), start_s, end_s, emotion, probabilities, self.entry)
                    is_silent = not samples.any()
                    remarks = (*(stream.warnings if start == 0 else ()), *([SILENCE] * is_silent))
                    yield replace(answer, warning="; ".join(remarks), marks=(*[SILENT] * is_silent, *marks))

    def _stream(self, audio: Recording, sr: int | None, stack: contextlib.ExitStack) -> tuple[Stream, tuple[str, ...]]:
        """Return a recording block by block, and the marks of all its windows."""
        if not isinstance(audio, str | os.PathLike):
            heard = self._heard(audio, sr)
            return Stream(heard.sr, iter([heard.signal])), self._marks_of(heard)
        stream, marks = stack.enter_context(open_stream(audio, self.policy)), self._marks
        if os.path.getsize(audio) <= SHORT_BYTES:
            with contextlib.suppress(AudioError):  # the stream says it in its place
                marks = self._marks_of(read_audio(audio, self.policy))
        return stream, marks

    def _attempt(self, file: Recording, threshold: float | None) -> Prediction:
        try:
            return self.predict(file, threshold=threshold)
        except (AudioError, OSError) as error:
            return failed(file, error, self.entry)

    def _heard(self, audio: Recording, sr: int | None) -> Audio:
        """Return a recording, decoded where that is needed, or raise `AudioError`."""
        if isinstance(audio, str | os.PathLike):
            return read_audio(audio, self.policy)
        if isinstance(audio, bytes):
            return decode(audio, path=_title(audio), policy=self.policy)
        array = np.asarray(audio)
        mono = self._checked(array, sr)
        rate_hz = int(sr or 0)  # which was checked
        audio_id = hash_samples(array.reshape(len(array), -1), rate_hz) if self._seen else ""
        return Audio(mono, rate_hz, "", audio_id, () if mono.any() else (SILENCE,))

    def _vector(self, heard: Audio, audio: Recording) -> np.ndarray:
        return vectorise(self.spec, heard.signal, heard.sr, path=_title(audio))

    def _marks_of(self, heard: Audio) -> tuple[str, ...]:
        """Return what the model was trained on that makes its answer worth less."""
        is_seen = heard.content[:AUDIO_ID_DIGITS] in self._seen
        return (SEEN, *self._marks) if is_seen else self._marks

    def _checked(self, array: np.ndarray, sr: Any) -> np.ndarray:
        """Return a signal as mono float32, of which the same is asked as of a file."""
        if array.ndim == 2 and self.policy.mono == "first":
            array = array[:, :1]
        elif array.ndim == 2 and array.shape[1] > 1 and self.policy.mono == "error":
            raise AudioError(
                "signal", f"must be mono, as the model was trained. It has {array.shape[1]} channels. Mix it."
            )
        mono = check_signal(array, sr)
        least_s = self.policy.min_duration_s
        if len(mono) / sr < least_s:
            raise AudioError(
                "signal",
                f"must last at least {least_s:g} s. Shape {array.shape} at {sr} Hz lasts {len(mono) / sr:.4g} s. "
                "Give (n_samples,) or (n_samples, n_channels).",
            )
        return mono

    def _answers(
        self, features: Sequence[np.ndarray], threshold: float | None
    ) -> Iterator[tuple[str, dict[str, float] | None]]:
        """Yield the emotion and the probabilities of recordings, given the features of each."""
        rows = [np.atleast_2d(found) for found in features]
        owners = np.repeat(np.arange(len(rows)), [len(found) for found in rows])
        codes, proba = pool_answers(*self.classify(np.concatenate(rows)), owners)
        for row, code in enumerate(codes):
            emotion = self.classes[code]
            if proba is None:
                yield emotion, None
                continue
            values = proba[row].tolist()
            is_certain = threshold is None or values[code] >= threshold
            yield emotion if is_certain else UNCERTAIN, dict(zip(self.classes, values, strict=True))

    def _check_can_hear(self) -> None:
        """Refuse recordings where the model takes vectors that another program made of them."""
        if self.spec.is_read:
            about = f"{self.spec.name}, trained on: {self.spec.params.get('trained_on')}"
            raise BundleError(
                f"{self.entry!r} takes vectors that another program makes of a recording ({about}), so choose another "
                "model, or give `Predictor.classify` such vectors."
            )

    def _check_threshold(self, threshold: float | None) -> None:
        if threshold is None:
            return
        if isinstance(threshold, bool) or not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be a probability, 0 to 1. Got {threshold!r}. Change it.")
        if not self.has_probabilities:
            raise ConfigError(
                f"{self.entry!r} gives no probabilities to compare with a threshold. "
                "Leave the threshold out, or use another model."
            )


def failed(file: Recording, error: AudioError | OSError, entry: str) -> Prediction:
    """Return the answer for a file that cannot be used."""
    if isinstance(error, AudioError):
        reason = error.reason
    else:
        reason = f"must be readable. The system says: {error.strerror or error}. Check the disk."
    return Prediction(_name(file), "", None, entry, error=reason)


def _name(audio: Recording) -> str:
    return os.fspath(audio) if isinstance(audio, str | os.PathLike) else ""


def _title(audio: Recording) -> str:
    """Return what a recording is called in messages."""
    return _name(audio) or ("<bytes>" if isinstance(audio, bytes) else "signal")


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _policy(manifest: Manifest) -> AudioPolicy:
    mono: Any = manifest.trained_on.get("mono", "mean")
    if mono not in ("mean", "first", "error"):
        raise BundleError(f"trained_on.mono of a bundle must be mean, first or error. Got {mono!r}. Save it again.")
    return AudioPolicy(mono=mono)


def _spec(manifest: Manifest) -> FeatureSpec:
    """Return the feature set of a bundle, or refuse one whose numbers would differ from those it was trained on."""
    name = manifest.features.get("name")
    if manifest.features.get("source") == FILE:
        params: Any = manifest.features.get("params", {})
        return replace(get_features("embeddings"), name=str(name), n_features=manifest.n_features, params=params)
    try:
        spec = get_features(str(name))
    except UnknownNameError as error:
        if file := manifest.trained_on.get("plugin"):
            advice = f"They are defined by the plug-in {file}. Give that file with --plugin."
        else:
            advice = f"{error} Install the plug-in they come from, or give its file with --plugin."
        raise BundleError(f"The features {name!r} of this model are not known here. {advice}") from None
    here = (spec.specification(), spec.sr, spec.n_features)
    there = (manifest.features, manifest.sr, manifest.n_features)
    if spec.plugin != manifest.features.get("plugin", ""):
        raise BundleError(
            f"The features {name!r} of this model were computed by another version of their plug-in "
            f"{manifest.trained_on.get('plugin', '')}. Use the file that the model was trained with, or train it again."
        )
    if here != there:
        raise BundleError(
            f"A model must be given the features that it was trained on: {_described(*there)}. This emobench computes "
            f"{_described(*here)}. Train it again, or use the version of emobench that made it."
        )
    return spec


def _described(specification: dict[str, Any], sr: int, n_features: int) -> str:
    return f"{json.dumps(specification, sort_keys=True)} at {sr} Hz, {n_features} numbers"

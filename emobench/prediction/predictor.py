"""Predict the emotion of recordings with a saved model."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emobench.audio import AudioPolicy
from emobench.audio.decoding import check_signal, read_audio
from emobench.audio.streaming import Stream, open_stream, resampled, windows
from emobench.bundles.bundle import MANIFEST, Bundle, load_bundle
from emobench.errors import AudioError, BundleError, ConfigError, DataError, UnknownNameError, did_you_mean
from emobench.features import FeatureSpec, get_features
from emobench.features.extraction import keep_freed_memory, remarks_on, vectorise
from emobench.models.compiled import compiled
from emobench.registry import Plugins, using

UNCERTAIN = "uncertain"
"""The answer where no emotion is as probable as asked."""

WINDOWS_AT_ONCE = 32


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording.

    Attributes
    ----------
    path : str
        As it was given; empty for a signal in memory.
    emotion : str
        `UNCERTAIN` where its probability is below the threshold; empty where `error` says why there is none.
    probabilities : dict of str to float, or None
        None for a model without probabilities.
    entry : str
        The model's name on the leaderboard.
    warning : str
        What deserves a remark about the recording.
    """

    path: str
    emotion: str
    probabilities: dict[str, float] | None
    entry: str
    warning: str = ""
    error: str = ""


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
        If there is no such model, it cannot be trusted, or its features are not computed here.
    """
    with using(plugins):
        return Predictor(load_bundle(find_bundle(model, results)))


def predict(
    audio: str | os.PathLike[str] | np.ndarray,
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
    classes : tuple of str
    has_probabilities : bool

    Raises
    ------
    BundleError
        If its features are not computed here as they were in training.
    """

    def __init__(self, bundle: Bundle):
        keep_freed_memory()
        self.bundle = bundle
        self.spec = _spec(bundle)
        self.classes = bundle.classes
        self._policy = _policy(bundle)
        self._classify = compiled(bundle.estimator, len(bundle.classes))
        self.has_probabilities = self.classify(np.zeros((1, self.spec.n_features)))[1] is not None

    def features(self, audio: str | os.PathLike[str] | np.ndarray, sr: int | None = None) -> np.ndarray:
        """Return the features of a recording, as `predict` takes it: float32 of shape (n_features,)."""
        return self._listen(audio, sr)[0]

    def classify(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the emotions of feature vectors.

        Parameters
        ----------
        X : array of shape (n, n_features)
            Finite.

        Returns
        -------
        codes : int array of shape (n,)
            Positions in `classes`.
        probabilities : float array of shape (n, n_classes), or None
        """
        X = np.asarray(X, dtype=np.float32)
        if X.ndim != 2 or X.shape[1] != self.spec.n_features or not np.isfinite(X).all():
            raise DataError(
                f"X must be finite, of shape (n, {self.spec.n_features}). Got shape {X.shape}, "
                f"{np.count_nonzero(~np.isfinite(X))} values not finite. Give rows of `features`."
            )
        return self._classify(X)

    def labels(self, X: np.ndarray) -> list[str]:
        """Return the emotion of each row of features; see `classify`."""
        return [self.classes[code] for code in self.classify(X)[0]]

    def predict(
        self,
        audio: str | os.PathLike[str] | np.ndarray,
        sr: int | None = None,
        *,
        threshold: float | None = None,
    ) -> Prediction:
        """Return the emotion of one recording.

        Parameters
        ----------
        audio : path, or float array of shape (n_samples,) or (n_samples, n_channels)
            A file of any format that libsndfile reads, or a signal, full scale ±1.
        sr : int
            Rate in Hz of a signal; not used with a path.
        threshold : float in [0, 1], optional
            The emotion is `UNCERTAIN` if its probability is below.

        Raises
        ------
        AudioError
            If the recording cannot be used.
        ConfigError
            If the threshold is out of range, or the model has no probabilities that it could be compared with.
        """
        self._check_threshold(threshold)
        vector, warning = self._listen(audio, sr)
        ((emotion, probabilities),) = self._answers(vector[np.newaxis], threshold)
        path = os.fspath(audio) if isinstance(audio, str | os.PathLike) else ""
        return Prediction(path, emotion, probabilities, self.bundle.entry, warning)

    def predict_files(
        self, paths: Iterable[str | os.PathLike[str]], *, threshold: float | None = None
    ) -> Iterator[Prediction]:
        """Yield the emotion of each file; one that cannot be used has an `error`, and the others go on."""
        self._check_threshold(threshold)
        return (self._attempt(path, threshold) for path in paths)

    def predict_windows(
        self,
        audio: str | os.PathLike[str] | np.ndarray,
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
        self._check_threshold(threshold)
        shortest_s = max(self._policy.min_duration_s, self.spec.min_samples / self.spec.sr)
        if not shortest_s <= window_s <= self._policy.max_duration_s:
            raise ConfigError(
                f"A window must last {shortest_s:.3g} to {self._policy.max_duration_s:g} s. Got {window_s:g}. "
                "Change it."
            )
        length, hop = round(window_s * self.spec.sr), round(hop_s * self.spec.sr) if math.isfinite(hop_s) else 0
        if not 1 <= hop <= self._policy.max_duration_s * self.spec.sr:
            raise ConfigError(
                f"The hop between windows must be above 0 and at most {self._policy.max_duration_s:g} s. "
                f"Got {hop_s:g}. Change it."
            )
        return self._track(audio, sr, length, hop, threshold)

    def _track(
        self, audio: Any, sr: int | None, length: int, hop: int, threshold: float | None
    ) -> Iterator[WindowPrediction]:
        path = os.fspath(audio) if isinstance(audio, str | os.PathLike) else ""
        least = max(math.ceil(self._policy.min_duration_s * self.spec.sr), self.spec.min_samples)
        with contextlib.ExitStack() as stack:
            if path:
                stream = stack.enter_context(open_stream(audio, self._policy))
            else:
                stream = Stream(sr, iter([self._checked(audio, sr)]))
            found = windows(resampled(stream.blocks, stream.sr, self.spec.sr), length, hop)
            found = ((start, samples) for start, samples in found if start == 0 or len(samples) >= least)
            for some in _batches(found, WINDOWS_AT_ONCE):
                X = np.stack([vectorise(self.spec, samples, self.spec.sr, path=path) for _, samples in some])
                answers = self._answers(X, threshold)
                for (start, samples), (emotion, probabilities) in zip(some, answers, strict=True):
                    start_s, end_s = (round(n / self.spec.sr, 6) for n in (start, start + len(samples)))
                    warning = "" if samples.any() else "nothing but digital silence"
                    yield WindowPrediction(path, start_s, end_s, emotion, probabilities, self.bundle.entry, warning)

    def _attempt(self, path: str | os.PathLike[str], threshold: float | None) -> Prediction:
        try:
            return self.predict(path, threshold=threshold)
        except (AudioError, OSError) as error:
            return failed(path, error, self.bundle)

    def _listen(self, audio: Any, sr: int | None) -> tuple[np.ndarray, str]:
        """Return the features of a recording, and what deserves a remark."""
        if isinstance(audio, str | os.PathLike):
            recording = read_audio(audio, self._policy)
            vector = vectorise(self.spec, recording.signal, recording.sr, path=audio)
            return vector, remarks_on(recording, self.spec)
        return vectorise(self.spec, self._checked(audio, sr), int(sr), path="signal"), ""

    def _checked(self, signal: Any, sr: int | None) -> np.ndarray:
        """Return a signal as mono float32, of which the same is asked as of a file."""
        array = np.asarray(signal)
        if array.ndim == 2 and self._policy.mono == "first":
            array = array[:, :1]
        elif array.ndim == 2 and array.shape[1] > 1 and self._policy.mono == "error":
            raise AudioError(
                "signal", f"must be mono, as the model was trained. It has {array.shape[1]} channels. Mix it."
            )
        mono = check_signal(array, sr)
        least_s = self._policy.min_duration_s
        if len(mono) / sr < least_s:
            raise AudioError(
                "signal",
                f"must last at least {least_s:g} s. Shape {array.shape} at {sr} Hz lasts {len(mono) / sr:.4g} s. "
                "Give (n_samples,) or (n_samples, n_channels).",
            )
        return mono

    def _answers(self, X: np.ndarray, threshold: float | None) -> Iterator[tuple[str, dict[str, float] | None]]:
        codes, proba = self._classify(X)
        for row, code in enumerate(codes):
            emotion = self.classes[code]
            if proba is None:
                yield emotion, None
                continue
            values = proba[row].tolist()
            is_certain = threshold is None or values[code] >= threshold
            yield emotion if is_certain else UNCERTAIN, dict(zip(self.classes, values, strict=True))

    def _check_threshold(self, threshold: float | None) -> None:
        if threshold is None:
            return
        if isinstance(threshold, bool) or not 0 <= threshold <= 1:
            raise ConfigError(f"threshold must be a probability, 0 to 1. Got {threshold!r}. Change it.")
        if not self.has_probabilities:
            raise ConfigError(
                f"A model must give probabilities to be compared with a threshold. {self.bundle.entry!r} gives none. "
                "Leave the threshold out, or take another model."
            )


def failed(path: str | os.PathLike[str], error: AudioError | OSError, bundle: Bundle) -> Prediction:
    """Return the answer for a file that cannot be used."""
    if isinstance(error, AudioError):
        reason = error.reason
    else:
        reason = f"must be readable. The system says: {error.strerror or error}. Check the disk."
    return Prediction(os.fspath(path), "", None, bundle.entry, error=reason)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _policy(bundle: Bundle) -> AudioPolicy:
    mono = bundle.trained_on.get("mono", "mean")
    if mono not in ("mean", "first", "error"):
        raise BundleError(f"trained_on.mono of a bundle must be mean, first or error. Got {mono!r}. Save it again.")
    return AudioPolicy(mono=mono)


def _spec(bundle: Bundle) -> FeatureSpec:
    """Return the feature set of a bundle, or refuse one whose numbers would differ from those it was trained on."""
    name = bundle.features.get("name")
    try:
        spec = get_features(str(name))
    except UnknownNameError as error:
        if file := bundle.trained_on.get("plugin"):
            advice = f"They are defined by the plug-in {file}. Give that file with --plugin."
        else:
            advice = f"{error} Install the plug-in they come from, or give its file with --plugin."
        raise BundleError(f"The features {name!r} of this model are not known here. {advice}") from None
    here = (spec.specification(), spec.sr, spec.n_features)
    there = (bundle.features, bundle.sr, bundle.estimator.n_features_in_)
    if spec.plugin != bundle.features.get("plugin", ""):
        raise BundleError(
            f"The features {name!r} of this model were computed by another version of their plug-in "
            f"{bundle.trained_on.get('plugin', '')}. Use the file that the model was trained with, or train it again."
        )
    if here != there:
        raise BundleError(
            f"A model must be given the features that it was trained on: {_described(*there)}. This emobench computes "
            f"{_described(*here)}. Train it again, or use the version of emobench that made it."
        )
    return spec


def _described(specification: dict[str, Any], sr: int, n_features: int) -> str:
    return f"{json.dumps(specification, sort_keys=True)} at {sr} Hz, {n_features} numbers"


def find_bundle(model: str | os.PathLike[str] | None = None, results: str | os.PathLike[str] = "results") -> Path:
    """Return the folder of a bundle.

    A path leads to a bundle, or to a run, of which the best entry is taken. A name is looked for in every run of
    `results`. Where several fit, the one with the best UAR on unheard speakers is taken, a real corpus before the
    synthetic one; ties are broken by name.

    Raises
    ------
    BundleError
        If there is none.
    """
    results = Path(results).expanduser()
    found = _saved(results, "*/models/*")
    if model is None:
        return _best(found, f"{results} holds none")
    entries = sorted({entry for path in found if (entry := _entry(path))})
    chosen = [path for path in found if _entry(path) == model]
    path = _existing(model)
    if path is None and chosen:
        return _best(chosen, "")
    if path is None and os.sep not in os.fspath(model):
        known = f"Known here: {', '.join(entries)}." if entries else "There is none."
        near = did_you_mean(os.fspath(model), entries)
        return _best((), f"none is called {os.fspath(model)!r} in {results}.{near} {known}")
    path = path or Path(model)
    if path.name == MANIFEST:
        return path.parent
    if (path / MANIFEST).exists() or not path.is_dir():
        return path
    if (path / "models").is_dir():
        return _best(_saved(path, "models/*"), f"the run {path} has none")
    return _best(_saved(path, "*/models/*"), f"{path} is neither a bundle, nor a run, nor a folder of runs with one")


def find_entry(run: str | os.PathLike[str], entry: str, results: str | os.PathLike[str] = "results") -> Path:
    """Return the bundle of an entry of one run, which is given by its folder or by its name in `results`.

    Raises
    ------
    BundleError
        If there is none, or several: then the name of the bundle's folder tells them apart.
    """
    folders = [Path(run).expanduser(), Path(results).expanduser() / run]
    folder = next((path for path in folders if (path / "models").is_dir()), folders[0])
    found = {path.parent: _entry(path) for path in _saved(folder, "models/*")}
    chosen = [path for path in found if path.name == entry] or [path for path, name in found.items() if name == entry]
    if len(chosen) == 1:
        return chosen[0]
    names = [path.name for path in chosen or found]
    if chosen:
        problem = f"{len(chosen)} are called {entry!r}: {', '.join(names)}. Name one of these."
    elif names:
        problem = f"None is called {entry!r}.{did_you_mean(entry, names)} Known there: {', '.join(names)}."
    else:
        problem = "There is none. Run its config again; it fits what is missing."
    raise BundleError(f"A saved model must be there to export from {folder}. {problem}")


def _existing(model: str | os.PathLike[str]) -> Path | None:
    """Return the file or folder that a model is given by, or None where it is rather a name."""
    try:
        path = Path(model).expanduser()
        is_named = not path.exists() or (os.sep not in os.fspath(model) and path.is_dir() and not _holds_bundle(path))
    except (OSError, ValueError, RuntimeError):  # too long, an embedded NUL, an unknown user
        return None
    return None if is_named else path


def _holds_bundle(path: Path) -> bool:
    return (path / MANIFEST).exists() or bool(_saved(path, "models/*") or _saved(path, "*/models/*"))


def _saved(folder: Path, pattern: str) -> list[Path]:
    """Return the manifests of bundles below a folder; one that is just being written has a name with a dot."""
    return sorted(path for path in folder.glob(f"{pattern}/{MANIFEST}") if not path.parent.name.startswith("."))


def _best(manifests: Sequence[Path], otherwise: str) -> Path:
    if not manifests:
        raise BundleError(
            f"A saved model must be there to predict with: {otherwise.rstrip('.')}. "
            "Run `emobench run configs/all.yaml` first, or give --model the folder of a bundle."
        )
    return min(manifests, key=_preference).parent


def _preference(path: Path) -> tuple[bool, float, str]:
    """Return what sorts the best first: real speech, the highest UAR on unheard speakers, the name."""
    manifest = _manifest(path)
    scores = manifest.get("scores")
    uars = [
        row["uar"]
        for row in (scores if isinstance(scores, list) else [])
        if isinstance(row, dict) and not row.get("waives") and type(row.get("uar")) in (int, float)
    ]
    trained_on = manifest.get("trained_on")
    is_synthetic = isinstance(trained_on, dict) and trained_on.get("corpus") == "synthetic"
    return is_synthetic, -max(uars, default=0.0), str(path)


def _entry(path: Path) -> str:
    entry = _manifest(path).get("entry")
    return entry if isinstance(entry, str) else ""


def _manifest(path: Path) -> dict[str, Any]:
    """Return what a bundle says of itself, unchecked: only to choose one, which is then loaded with every check."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


__all__ = [
    "UNCERTAIN",
    "Prediction",
    "Predictor",
    "WindowPrediction",
    "failed",
    "find_bundle",
    "find_entry",
    "load",
    "predict",
]

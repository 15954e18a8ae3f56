"""Predict the emotion of recordings with a saved model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emobench.audio import AudioPolicy, check_signal, read_audio
from emobench.bundle import MANIFEST, Bundle, label_encoder, load_bundle
from emobench.errors import AudioError, BundleError, UnknownNameError, did_you_mean
from emobench.features import FeatureSpec, get_features
from emobench.store import remarks_on, vectorise


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording.

    Attributes
    ----------
    path : str
        As it was given; empty for a signal in memory.
    emotion : str
        Empty where `error` says why there is none.
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


def predict(
    audio: str | os.PathLike[str] | np.ndarray,
    sr: int | None = None,
    *,
    model: str | os.PathLike[str] | Bundle | None = None,
    results: str | os.PathLike[str] = "results",
) -> Prediction:
    """Return the emotion of one recording.

    Parameters
    ----------
    audio : path, or float array of shape (n_samples,) or (n_samples, n_channels)
        A file of any format that libsndfile reads, or a signal, full scale ±1.
    sr : int
        Rate in Hz of a signal; not used with a path.
    model : path, str or Bundle, optional
        Folder of a bundle or of a run, or the name of an entry; by default the best model found in `results`.
    results : path
        Folder of runs, where a name is looked for.

    Raises
    ------
    AudioError
        If the recording cannot be used.
    BundleError
        If there is no such model, or it cannot be trusted.
    """
    bundle = model if isinstance(model, Bundle) else load_bundle(find_bundle(model, results))
    if not isinstance(audio, str | os.PathLike):
        return _predict_array(bundle, audio, sr)
    return predict_file(bundle, audio)


def predict_file(bundle: Bundle, path: str | os.PathLike[str]) -> Prediction:
    """Return the emotion of one file, or raise `AudioError`."""
    recording = read_audio(path, _policy(bundle))
    answer = _predict_signal(bundle, recording.signal, recording.sr, path=os.fspath(path))
    return replace(answer, warning=remarks_on(recording, _spec(bundle)))


def predict_files(bundle: Bundle, paths: Sequence[str | os.PathLike[str]]) -> Iterator[Prediction]:
    """Yield the emotion of each file; one that cannot be used has an `error`, and the others go on."""
    for path in paths:
        try:
            yield predict_file(bundle, path)
        except AudioError as error:
            yield Prediction(os.fspath(path), "", None, bundle.entry, error=error.reason)
        except OSError as error:
            reason = f"must be readable. The system says: {error.strerror or error}. Check the disk."
            yield Prediction(os.fspath(path), "", None, bundle.entry, error=reason)


def _predict_array(bundle: Bundle, signal: Any, sr: Any) -> Prediction:
    """Return the emotion of a signal, of which the same is asked as of a file."""
    policy = _policy(bundle)
    array = np.asarray(signal)
    if array.ndim == 2 and policy.mono == "first":
        array = array[:, :1]
    elif array.ndim == 2 and array.shape[1] > 1 and policy.mono == "error":
        raise AudioError("signal", f"must be mono, as the model was trained. It has {array.shape[1]} channels. Mix it.")
    mono = check_signal(array, sr)
    duration_s = len(mono) / sr
    if duration_s < policy.min_duration_s:
        raise AudioError(
            "signal",
            f"must last at least {policy.min_duration_s:g} s. Shape {array.shape} at {sr} Hz lasts {duration_s:.4g} s. "
            "Give (n_samples,) or (n_samples, n_channels).",
        )
    return _predict_signal(bundle, mono, int(sr), path="")


def _policy(bundle: Bundle) -> AudioPolicy:
    mono = bundle.trained_on.get("mono", "mean")
    if mono not in ("mean", "first", "error"):
        raise BundleError(f"trained_on.mono of a bundle must be mean, first or error. Got {mono!r}. Save it again.")
    return AudioPolicy(mono=mono)


def _predict_signal(bundle: Bundle, signal: np.ndarray, sr: int, *, path: str) -> Prediction:
    X = vectorise(_spec(bundle), signal, sr, path=path or "signal")[np.newaxis]
    estimator = bundle.estimator
    codes = estimator.predict(X)
    emotion = str(label_encoder(bundle.classes).inverse_transform(codes)[0])
    probabilities = None
    if hasattr(estimator, "predict_proba"):
        values = estimator.predict_proba(X)[0]
        if not np.isfinite(values).all():
            raise BundleError(
                f"A model must give finite probabilities. {bundle.entry!r} gives {values}. Train it again."
            )
        probabilities = dict.fromkeys(bundle.classes, 0.0)
        seen = [bundle.classes[code] for code in estimator.classes_]
        probabilities.update(zip(seen, map(float, values), strict=True))
    return Prediction(path, emotion, probabilities, bundle.entry)


def _spec(bundle: Bundle) -> FeatureSpec:
    """Return the feature set of a bundle, or refuse one whose numbers would differ from those it was trained on."""
    name = bundle.features.get("name")
    try:
        spec = get_features(str(name))
    except UnknownNameError as error:
        raise BundleError(
            f"A model's features must be known here. {error} Install the plug-in they come from."
        ) from None
    here = (spec.specification(), spec.sr, spec.n_features)
    there = (bundle.features, bundle.sr, bundle.estimator.n_features_in_)
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


__all__ = ["Prediction", "find_bundle", "predict", "predict_file", "predict_files"]

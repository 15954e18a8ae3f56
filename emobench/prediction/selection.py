"""Which saved model is meant: by its path, by its name, or the best of those that a folder of runs holds."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from emobench.bundles.storage import MANIFEST, OLD_MANIFEST
from emobench.errors import BundleError, did_you_mean, listing


@dataclass(frozen=True)
class Saved:
    """A bundle in the folder of a run, and what it says of itself, unchecked: loading checks everything.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @cached_property
    def _content(self) -> dict[str, Any]:
        for name in (MANIFEST, OLD_MANIFEST):
            try:
                content = json.loads((self.folder / name).read_bytes())
            except (OSError, ValueError, RecursionError):
                continue
            return content if isinstance(content, dict) else {}
        return {}

    @property
    def entry(self) -> str:
        return str(self._content.get("entry", ""))

    @property
    def n_outputs(self) -> int:
        """Label and, where there are any, probabilities; 0 for what is no bundle of today."""
        outputs = self._content.get("outputs")
        return len(outputs) if isinstance(outputs, list) else 0

    @property
    def task(self) -> tuple[str, tuple[str, ...]]:
        """Corpus and classes: answers of two models are comparable where these agree."""
        trained_on, classes = self._content.get("trained_on"), self._content.get("classes")
        corpus = trained_on.get("corpus") if isinstance(trained_on, dict) else None
        return str(corpus or "unknown"), tuple(map(str, classes if isinstance(classes, list) else ()))

    @property
    def uar(self) -> float | None:
        """The highest UAR under a protocol that waives nothing; None where there is none."""
        scores = self._content.get("scores")
        rows = [row for row in (scores if isinstance(scores, list) else []) if isinstance(row, dict)]
        values = [float(row["uar"]) for row in rows if not row.get("waives") and type(row.get("uar")) in (int, float)]
        return max(values, default=None)

    def describe(self) -> str:
        """Return the option that names it, and what for."""
        corpus, classes = self.task
        uar = "no honest score" if self.uar is None else f"UAR {self.uar:.3f}"
        return f"--model {shlex.quote(str(self.folder))}  ({self.entry}, {corpus}: {', '.join(classes)}; {uar})"


def find_bundle(model: str | os.PathLike[str] | None = None, results: str | os.PathLike[str] = "results") -> Path:
    """Return the folder of a bundle, or the file of a zipped one.

    A path leads to a bundle, to a run or to a folder of runs. A name is looked for in every run of `results`. Where
    several bundles fit, the one with the highest UAR on unheard speakers is taken; ties are broken by name.

    Raises
    ------
    BundleError
        If there is none, or if those that fit were trained on several corpora or for several sets of classes.
    """
    results = Path(results).expanduser()
    found = _saved(results, "*/models/*")
    if model is None:
        return _best(found, f"{results} holds none")
    chosen = [saved for saved in found if saved.entry == model]
    path = _existing(model)
    if path is None and chosen:
        return _best(chosen, "")
    if path is None and os.sep not in os.fspath(model):
        entries = sorted({saved.entry for saved in found if saved.entry})
        known = f"Known here: {', '.join(entries)}." if entries else "There is none."
        near = did_you_mean(os.fspath(model), entries)
        return _best((), f"none is called {os.fspath(model)!r} in {results}.{near} {known}")
    path = path or Path(model)
    if path.name in (MANIFEST, OLD_MANIFEST):
        return path.parent
    if _is_bundle(path) or not path.is_dir():
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
    found = {saved.folder: saved.entry for saved in _saved(folder, "models/*")}
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
    raise BundleError(f"{folder}: no such saved model. {problem}")


def with_probabilities(bundle: Path, results: str | os.PathLike[str] = "results") -> list[str]:
    """Return the options that name the saved models with probabilities, of a bundle's own run or else of `results`."""
    own = [saved for saved in _saved(bundle.parent, "*") if saved.n_outputs == 2]
    rest = [saved for saved in _saved(Path(results).expanduser(), "*/models/*") if saved.n_outputs == 2]
    return [saved.describe() for saved in own or rest]


def _existing(model: str | os.PathLike[str]) -> Path | None:
    """Return the file or folder that a model is given by, or None where it is rather a name."""
    try:
        path = Path(model).expanduser()
        is_named = not path.exists() or (os.sep not in os.fspath(model) and path.is_dir() and not _holds_bundle(path))
    except (OSError, ValueError, RuntimeError):  # too long, an embedded NUL, an unknown user
        return None
    return None if is_named else path


def _is_bundle(folder: Path) -> bool:
    return (folder / MANIFEST).exists() or (folder / OLD_MANIFEST).exists()


def _holds_bundle(path: Path) -> bool:
    return _is_bundle(path) or bool(_saved(path, "models/*") or _saved(path, "*/models/*"))


def _saved(folder: Path, pattern: str) -> list[Saved]:
    """Return the bundles below a folder, those of an older emobench only where there are no others.

    One that is just being written has a name with a dot.
    """
    for name in (MANIFEST, OLD_MANIFEST):
        paths = [path.parent for path in folder.glob(f"{pattern}/{name}") if not path.parent.name.startswith(".")]
        if paths:
            return [Saved(path) for path in sorted(paths)]
    return []


def _best(found: Sequence[Saved], otherwise: str) -> Path:
    if not found:
        raise BundleError(
            f"No saved model to predict with: {otherwise.rstrip('.')}. "
            "Run `emobench run configs/all.yaml` first, or give --model the folder of a bundle."
        )
    best: dict[tuple[str, tuple[str, ...]], Saved] = {}
    for saved in sorted(found, key=lambda saved: (-(saved.uar or 0.0), str(saved.folder))):
        if saved.n_outputs:
            best.setdefault(saved.task, saved)
    if not best:
        return found[0].folder  # reading it says what is wrong with it
    if len(best) > 1:
        raise BundleError(
            f"The saved models were trained on {len(best)} corpora or sets of emotions, so none of them is the best. "
            f"Choose one:\n{listing([saved.describe() for saved in best.values()])}"
        )
    return next(iter(best.values())).folder

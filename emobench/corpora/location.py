"""Where corpora and caches are on this machine.

A corpus is looked for in the `root:` of a config, then in ``$EMOBENCH_DATA/<name>``, then in the user's cache, where
``emobench data fetch`` and the synthetic corpus are put.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from emobench.corpora import CorpusSpec
from emobench.errors import ConfigError, CorpusError
from emobench.registry import resolve


def cache_folder() -> Path:
    """Return the user's cache folder of emobench; it need not exist."""
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("emobench", appauthor=False))
    if not folder.is_absolute():  # there is no home, and a folder called ~ must not appear
        raise ConfigError(
            "The user's cache must have a place. There is no home folder. Set HOME, or XDG_CACHE_HOME to a folder."
        )
    return folder


def store_folder() -> Path:
    """Return the folder of the feature store: ``$EMOBENCH_STORE``, else in the user's cache."""
    given = os.environ.get("EMOBENCH_STORE")
    return expand(given, "EMOBENCH_STORE").resolve() if given else cache_folder() / "store"


def cached_corpus(name: str) -> Path:
    """Return where a corpus is kept in the user's cache; it need not exist."""
    return cache_folder() / "corpora" / name


def locate(row: CorpusSpec, root: Path | None = None) -> Path | None:
    """Return the folder of a corpus, or None where it is in none of the places.

    A folder of the corpus's name that lies one or two folders below ``$EMOBENCH_DATA`` is found too, in any case and
    under the names that it has in collections, such as Kaggle's ``Crema``, ``Ravdess``, ``Savee`` and ``Tess``.

    Raises
    ------
    CorpusError
        If `root` is given and is not a folder.
    ConfigError
        If ``$EMOBENCH_DATA`` is the folder of the corpus itself.
    """
    if root is not None:
        if not root.is_dir():
            raise CorpusError(f"{root}: corpus {row.name!r} is not there, as this is no folder. Correct `root:`.")
        return root.resolve()
    found = next((place.resolve() for place in places(row) if place.is_dir()), None)
    return found or _locate_near_data(row)


def places(row: CorpusSpec) -> list[Path]:
    """Return the places where a corpus is looked for when no root is given."""
    data = data_folder()
    given = [data / row.name] if data else []
    made = [resolve(row.generator).home()] if row.generator else []
    return [*given, cached_corpus(row.name), *made]


def data_folder() -> Path | None:
    """Return ``$EMOBENCH_DATA``, if it is set."""
    data = os.environ.get("EMOBENCH_DATA")
    return expand(data, "EMOBENCH_DATA") if data else None


def _locate_near_data(row: CorpusSpec) -> Path | None:
    """Look for a corpus where ``$EMOBENCH_DATA`` is a folder too deep, or one or two too high."""
    data = data_folder()
    if data is None or not data.is_dir() or row.needs_path:
        return None
    names = {_spelled(name) for name in (row.name, *row.also_called)}
    if _spelled(data.resolve().name) in names:
        raise ConfigError(
            f"EMOBENCH_DATA is the folder of {row.name} itself; it must be the one above. Set "
            f"EMOBENCH_DATA={shlex.quote(str(data.resolve().parent))}"
        )
    for pattern in ("*", "*/*", "*/*/*"):
        near = sorted(path for path in data.glob(pattern) if _spelled(path.name) in names)
        if folders := [path for path in near if path.is_dir()]:
            return folders[0].resolve()
    return None


def _spelled(name: str) -> str:
    """Return a folder's name without what people spell differently: CREMA-D, Crema_D and cremad are one."""
    return "".join(char for char in name.casefold() if char.isalnum())


def expand(path: str, variable: str) -> Path:
    """Return the path that an environment variable holds, with ``~`` expanded, or raise `ConfigError`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{variable} must be a folder of a known user. Got {path!r}. Write the folder without ~."
        ) from None

"""Where corpora and caches are on this machine.

A corpus is looked for in the `root:` of a config, then in ``$EMOBENCH_DATA/<name>``, then in the user's cache, where
``emobench data fetch`` and the synthetic corpus are put.
"""

from __future__ import annotations

import os
from pathlib import Path

from emobench.errors import CorpusError


def cache_folder() -> Path:
    """Return the user's cache folder of emobench; it need not exist."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("emobench", appauthor=False))


def store_folder() -> Path:
    """Return the folder of the feature store: ``$EMOBENCH_STORE``, else in the user's cache."""
    given = os.environ.get("EMOBENCH_STORE")
    return Path(given).expanduser().resolve() if given else cache_folder() / "store"


def cached_corpus(name: str) -> Path:
    """Return where a corpus is kept in the user's cache; it need not exist."""
    return cache_folder() / "corpora" / name


def locate(name: str, root: Path | None = None) -> Path | None:
    """Return the folder of a corpus, or None where it is in none of the places.

    Raises
    ------
    CorpusError
        If `root` is given and is not a folder.
    """
    if root is not None:
        if not root.is_dir():
            raise CorpusError(f"{root}: must be the folder of corpus {name!r}. There is no such folder. Mend `root:`.")
        return root.resolve()
    return next((place.resolve() for place in places(name) if place.is_dir()), None)


def places(name: str) -> list[Path]:
    """Return the places where a corpus is looked for when no root is given."""
    data = os.environ.get("EMOBENCH_DATA")
    given = [Path(data).expanduser() / name] if data else []
    return [*given, cached_corpus(name)]

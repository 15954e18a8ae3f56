"""The contract of a corpus: a scan that says the same of the same files, wherever and in whatever company they lie."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from emobench.corpora import CorpusSpec, Scan
from emobench.corpora.scanning import check_scan
from emobench.registry import resolve
from emobench.testing.rows import check_row

LEFT_BEHIND = (".DS_Store", "._clip.wav", "Thumbs.db", "desktop.ini", "__MACOSX/._clip.wav", ".hidden/clip.wav")


def check_corpus(row: CorpusSpec, root: str | os.PathLike[str], **options: Any) -> None:
    """Check that a corpus is scanned alike every time, and that nothing but its recordings counts.

    Parameters
    ----------
    root : path
        A folder of it, complete or not; a few empty files that are called like recordings will do. It is not changed.
    **options
        Of the corpus, as a config sets them; a path below `root` is looked for in copies of it too.

    Raises
    ------
    AssertionError
        With what is wrong.
    CorpusError
        If the folder, or what the scanner says of it, cannot be used.
    """
    check_row(row, "corpus")
    for name, option in row.options.items():
        assert option.default is None or not option.problem(option.default), f"the default of {name} is not allowed"
    root = Path(root)
    first = _scan(row, root, options)
    assert _scan(row, root, options) == first, "the same folder is scanned differently the next time"
    with tempfile.TemporaryDirectory(prefix="emobench-") as folder:
        copy = Path(folder) / "elsewhere" / root.name
        shutil.copytree(root, copy, copy_function=shutil.copyfile)
        moved = {name: _below(value, root, copy) for name, value in options.items()}
        assert _scan(row, copy, moved) == first, "a copy of the folder elsewhere is scanned differently"
        for name in LEFT_BEHIND:
            for place in {copy, *(copy / utterance.path for utterance in first.utterances[:1])}:
                path = (place if place.is_dir() else place.parent) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"junk")
        littered = _scan(row, copy, moved)
        assert replace(littered, ignored=()) == replace(first, ignored=()), "what systems leave behind is a recording"


def _scan(row: CorpusSpec, root: Path, options: dict[str, Any]) -> Scan:
    defaults = {name: option.default for name, option in row.options.items() if option.default is not None}
    return check_scan(resolve(row.scan)(root, **defaults | options), row, root, row.name)


def _below(value: Any, root: Path, copy: Path) -> Any:
    is_inside = isinstance(value, str | Path) and Path(value).is_relative_to(root)
    return copy / Path(value).relative_to(root) if is_inside else value

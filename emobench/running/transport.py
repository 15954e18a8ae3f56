"""How a feature table gets to the workers of this machine: through a file that all of them map into memory.

They share its pages, and a job carries no more than a path. Workers of a cluster may not see such a file; there, what
several tasks have in common travels once (`emobench.execution.cluster`).
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from emobench.features import FeatureTable
from emobench.files import PART, storage_errors

SMALL_BYTES = 2**20  # of numbers that go with each job, which takes a millisecond


@dataclass(frozen=True)
class MappedTable:
    """A feature table of which the columns as long as itself are in files.

    Attributes
    ----------
    rows : str
        Path of the file that holds X as float32 numbers, one row after the other.
    shape : tuple of int
        Of X.
    columns : str
        Path of the file with the other columns, as JSON.
    rest : FeatureTable
        Everything else.
    """

    rows: str
    shape: tuple[int, ...]
    columns: str
    rest: FeatureTable


class Depot:
    """Where a run's workers fetch large tables; use it as a context manager.

    Parameters
    ----------
    folder : Path
        For the files, which are removed in the end; of a killed process, by the next one (`emobench.files.sweep`).
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._mapped: dict[int, tuple[FeatureTable, MappedTable]] = {}  # with the table, so that its id stays its own
        self._written: list[str] = []

    def __enter__(self) -> Depot:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._written:
            with contextlib.suppress(OSError):  # Windows keeps a file that a worker has open; the next run removes it
                os.unlink(path)

    def offer(self, table: FeatureTable) -> FeatureTable | MappedTable:
        """Return what a task is given in place of a table; the same for each task. See `fetch`.

        Raises
        ------
        StorageError
            If the file cannot be written.
        """
        if table.X.nbytes <= SMALL_BYTES:
            return table
        if id(table) not in self._mapped:
            self._mapped[id(table)] = table, self._map(table)
        return self._mapped[id(table)][1]

    def _map(self, table: FeatureTable) -> MappedTable:
        columns = {"y": table.y.tolist(), **{name: getattr(table, name) for name in _TEXTS}}
        rows = _file_of(table.X) or self._write(np.ascontiguousarray(table.X, np.float32).data)
        return MappedTable(rows, table.X.shape, self._write(json.dumps(columns).encode()), replace(table, **_EMPTY))

    def _write(self, content: bytes | memoryview) -> str:
        with (
            storage_errors(self.folder),
            tempfile.NamedTemporaryFile(prefix=".table-", suffix=PART, dir=self.folder, delete=False) as file,
        ):
            self._written.append(file.name)
            file.write(content)
        return file.name


def _file_of(X: np.ndarray) -> str:
    """Return the path of the file that an array is the whole of, as frames of the store are; else nothing."""
    if isinstance(X, np.memmap) and isinstance(X.base, mmap.mmap) and X.offset == 0:
        return str(X.filename)
    return ""


_TEXTS = ("ids", "speakers", "sexes")
_EMPTY: dict[str, Any] = {"X": np.empty((0, 0), np.float32), "y": np.empty(0, int), **dict.fromkeys(_TEXTS, ())}


def fetch(offered: FeatureTable | MappedTable) -> FeatureTable:
    """Return the table that a task was given; X of one in a file is read only, and read where it is used."""
    if isinstance(offered, FeatureTable):
        return offered
    return replace(offered.rest, X=_rows(offered.rows, offered.shape), **_columns(offered.columns))


@lru_cache(maxsize=4)
def _rows(path: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(path, np.float32, "r", shape=shape)


@lru_cache(maxsize=4)
def _columns(path: str) -> dict[str, Any]:
    columns = json.loads(Path(path).read_bytes())
    return {"y": np.array(columns["y"]), **{name: tuple(columns[name]) for name in _TEXTS}}

"""How a feature table gets to the workers of this machine: through a file that all of them map into memory.

They share its pages, and a job carries no more than a path. Workers of a cluster may not see such a file; there, what
several tasks have in common travels once (`emobench.execution.cluster`).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
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
    """A feature table of which the columns as long as itself are in files: X as ``.npy``, the others as JSON."""

    paths: tuple[str, str]
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
        self._mapped: dict[int, MappedTable] = {}

    def __enter__(self) -> Depot:
        return self

    def __exit__(self, *_: object) -> None:
        for path in (path for mapped in self._mapped.values() for path in mapped.paths):
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
            self._mapped[id(table)] = MappedTable(self._write(table), replace(table, **_EMPTY))
        return self._mapped[id(table)]

    def _write(self, table: FeatureTable) -> tuple[str, str]:
        columns = {"y": table.y.tolist(), "ids": table.ids, "speakers": table.speakers, "sexes": table.sexes}
        with storage_errors(self.folder):
            with self._file() as file:
                np.save(file, table.X)
            with self._file() as names:
                names.write(json.dumps(columns).encode())
        return file.name, names.name

    def _file(self) -> Any:
        return tempfile.NamedTemporaryFile(prefix=".table-", suffix=PART, dir=self.folder, delete=False)


_EMPTY = {"X": np.empty((0, 0), np.float32), "y": np.empty(0, int), "ids": (), "speakers": (), "sexes": ()}


def fetch(offered: FeatureTable | MappedTable) -> FeatureTable:
    """Return the table that a task was given; X of one in a file is read only, and read where it is used."""
    return replace(offered.rest, **_load(*offered.paths)) if isinstance(offered, MappedTable) else offered


@lru_cache(maxsize=4)
def _load(path: str, names: str) -> Mapping[str, Any]:
    columns = json.loads(Path(names).read_bytes())
    texts = {name: tuple(columns[name]) for name in ("ids", "speakers", "sexes")}
    return {"X": np.load(path, mmap_mode="r"), "y": np.array(columns["y"]), **texts}

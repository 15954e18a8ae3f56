"""Rows of numbers, of which a recording of frames may have several: kept in a file, and answered as one."""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref

import numpy as np

from emobench.files import storage_errors


class RowFile:
    """Rows in a temporary file, which other processes of this machine can map into memory instead of being sent them.

    960 recordings of 300 × 64 frames are 74 MB, and a run hands them to hundreds of jobs.

    Parameters
    ----------
    n_features : int
        Numbers of a row.

    Attributes
    ----------
    n_rows : int
    """

    def __init__(self, n_features: int):
        self.n_rows = 0
        self._n_features = n_features
        with storage_errors(tempfile.gettempdir()):
            descriptor, self._path = tempfile.mkstemp(prefix="emobench-rows-")
        self._file = os.fdopen(descriptor, "wb")
        self._remove = weakref.finalize(self, _remove, self._path)

    def append(self, X: np.ndarray) -> int:
        """Write float32 rows of shape (n, n_features) behind those that are there; return the number of the first."""
        first = self.n_rows
        with storage_errors(self._path):
            self._file.write(np.ascontiguousarray(X, dtype=np.float32).data)
        self.n_rows += len(X)
        return first

    def map(self) -> np.ndarray:
        """Return all rows, read-only; nothing can be appended any more. The file is removed with the array."""
        with storage_errors(self._path):
            self._file.close()
        if not self.n_rows:  # an empty file cannot be mapped
            return np.empty((0, self._n_features), np.float32)
        rows = np.memmap(self._path, np.float32, "r", shape=(self.n_rows, self._n_features))
        self._remove.detach()
        weakref.finalize(rows, _remove, self._path)
        return rows


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # Windows keeps a file that is open
        os.unlink(path)


def rows_of(spans: np.ndarray | None, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that some recordings have, and for each of these the position of its recording among them.

    Parameters
    ----------
    spans : int array of shape (n_recordings, 2), or None
        First row of each recording, and the one behind its last; without, each has the row of its number.
    """
    if spans is None:
        return positions, np.arange(len(positions))
    first, end = spans[positions].T
    counts = end - first
    owners = np.repeat(np.arange(len(positions)), counts)
    begins = np.cumsum(counts) - counts
    return first[owners] + np.arange(len(owners)) - begins[owners], owners


def pool_answers(
    labels: np.ndarray, probabilities: np.ndarray | None, owners: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Answer for recordings, given the answers for their rows.

    Probabilities are averaged over the rows of a recording, and its label is the most probable one. Without
    probabilities it is the one that most rows have. The answer for a single row is left as it is.

    Parameters
    ----------
    labels : int array of shape (n_rows,)
        Codes of the classes.
    probabilities : float array of shape (n_rows, n_classes), or None
    owners : int array of shape (n_rows,)
        Recording that each row belongs to, in ascending order.

    Returns
    -------
    labels : array of shape (n_recordings,)
    probabilities : array of shape (n_recordings, n_classes), or None
    """
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    if len(starts) == len(owners):
        return labels, probabilities
    counts = np.diff(starts, append=len(owners))
    votes = np.eye(labels.max() + 1)[labels] if probabilities is None else probabilities
    mean = np.add.reduceat(votes, starts, axis=0) / counts[:, np.newaxis].astype(votes.dtype)
    pooled = np.where(counts > 1, mean.argmax(axis=1), labels[starts])
    return pooled, None if probabilities is None else mean

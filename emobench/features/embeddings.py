"""Vectors that another program made of the recordings: read from a file, and given to the recordings they belong to."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.errors import ConfigError, DataError, EmobenchError
from emobench.features import FeatureSpec

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("audio_id", "clip_id", "path")
"""Columns that may say which recording a row belongs to; of several, the first counts."""

SOME = 3  # that are named where many are meant

ADVICE = "`emobench data hashes CORPUS` prints what to fill in."


@dataclass(frozen=True)
class Vectors:
    """The content of a file of embeddings.

    Attributes
    ----------
    source : str
        The file's name, for messages.
    key : str
        One of `KEYS`.
    rows : mapping of str to int
        Row of `X` of each recording.
    X : float32 array of shape (n_recordings, n_features)
        Finite.
    sha256 : str
        Of the file.
    """

    source: str
    key: str
    rows: Mapping[str, int]
    X: np.ndarray
    sha256: str

    def take(self, names: Sequence[Mapping[str, Sequence[str]]], *, corpus: str) -> np.ndarray:
        """Return the vectors of recordings: float32 of shape (n, n_features).

        Parameters
        ----------
        names : sequence of mapping
            What each recording may be called under each of `KEYS`.

        Raises
        ------
        DataError
            If recordings have no vector.
        """
        found = [next((self.rows[name] for name in row[self.key] if name in self.rows), None) for row in names]
        missing = [row["path"][0] for row, index in zip(names, found, strict=True) if index is None]
        if missing:
            raise DataError(
                f"{self.source} has no vector for {len(missing)} of the {len(names)} recordings of {corpus}: "
                f"{_some(missing)}. Its rows are found by {self.key}. Add them. {ADVICE}"
            )
        return self.X[np.array(found, dtype=int)]

    def foreign(self, names: Sequence[Mapping[str, Sequence[str]]]) -> str:
        """Return a remark on rows that belong to none of some recordings; nothing where there are none."""
        known = {name for row in names for name in row[self.key]}
        foreign = [name for name in self.rows if name not in known]
        if not foreign:
            return ""
        return f"{self.source}: {len(foreign)} rows belong to no recording of this run: {_some(foreign)}"


def read_spec(row: FeatureSpec, label: str, options: Mapping[str, Any]) -> FeatureSpec:
    """Return the feature set of an item of a config, with its vectors; see `read_vectors`."""
    if not options["trained_on"].strip():
        raise ConfigError(
            f"{label}: trained_on must say what the encoder has heard, or be `unknown`. It is empty. Write it."
        )
    vectors = read_vectors(options["path"])
    return replace(
        row,
        name=label,
        n_features=vectors.X.shape[1],
        params={"sha256": vectors.sha256, "trained_on": options["trained_on"]},
        vectors=vectors,
    )


def read_vectors(path: str | Path) -> Vectors:
    """Read a Parquet or CSV file of one row a recording: a column of `KEYS`, and its numbers.

    The numbers stand in columns of their own, or in one column of lists.

    Raises
    ------
    ConfigError
        If the file is not there.
    DataError
        If it is no such table: a recording that stands twice with different vectors, numbers that are none.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the embeddings cannot be read: {error.strerror}. Check `path:`.") from None
    frame = _table(data, path)
    key = next((name for name in KEYS if name in frame.columns), None)
    if key is None:
        raise DataError(f"{path.name} must have a column {', '.join(KEYS[:-1])} or {KEYS[-1]}. It has none. {ADVICE}")
    ids = frame[key]
    if empty := int((ids.isna() | (ids.astype(str) == "")).sum()):
        raise DataError(f"{path.name}: {key} is empty in {empty} rows. {ADVICE}")
    ids = ids.astype(str).tolist()
    X = _numbers(frame.drop(columns=[name for name in KEYS if name in frame.columns]), ids, path.name)
    return Vectors(path.name, key, _rows(ids, X, key, path.name), X, hashlib.sha256(data).hexdigest())


def refuse(*_: Any, **__: Any) -> np.ndarray:
    """Refuse to make an embedding of a signal: the program that can is not emobench."""
    raise EmobenchError("these vectors were made by another program, which emobench cannot run")


def _table(data: bytes, path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".csv":
            return pd.read_csv(io.BytesIO(data), dtype=dict.fromkeys(KEYS, str))
        frame = pq.read_table(io.BytesIO(data)).to_pandas()
    except (ValueError, OSError) as error:  # pyarrow's and pandas' errors are among them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path.name} is not a Parquet file, or is damaged: {reason}. Write it again.") from None
    return frame if frame.index.name is None else frame.reset_index()


def _numbers(frame: pd.DataFrame, ids: Sequence[str], source: str) -> np.ndarray:
    """Return the numbers of a table as float32, or refuse what is none."""
    if not len(frame) or not len(frame.columns):
        raise DataError(f"{source} must have rows and columns of numbers. It has {frame.shape}. Write it again.")
    if len(frame.columns) == 1 and frame.iloc[:, 0].dtype == object:
        vectors = frame.iloc[:, 0].tolist()
        sizes = [np.size(vector) for vector in vectors]
        if other := next((row for row, size in enumerate(sizes) if size != sizes[0]), None):
            raise DataError(
                f"{source}: every vector must have the same length. That of {ids[other]} has {sizes[other]} numbers, "
                f"that of {ids[0]} {sizes[0]}. Write it again."
            )
        table = np.array([np.ravel(vector) for vector in vectors])
        wrong = str(frame.columns[0]) if table.dtype.kind not in "fiu" else ""
    else:
        wrong = next((str(name) for name, kind in frame.dtypes.items() if kind.kind not in "fiu"), "")
        table = np.empty(0) if wrong else frame.to_numpy()
    if wrong:
        raise DataError(f"{source}: column {wrong!r} does not hold numbers. Remove it, or write it as numbers.")
    with np.errstate(over="ignore"):
        X = np.ascontiguousarray(table, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1)).tolist()
    if bad:
        raise DataError(
            f"{source}: every number must be finite in float32. Those of {len(bad)} recordings are not: "
            f"{_some([ids[row] for row in bad])}. Make them again."
        )
    return X


def _rows(ids: Sequence[str], X: np.ndarray, key: str, source: str) -> dict[str, int]:
    """Return the row of each recording; one that stands twice must have the same vector, as two copies of it have."""
    rows: dict[str, int] = {}
    doubled = [name for row, name in enumerate(ids) if not np.array_equal(X[rows.setdefault(name, row)], X[row])]
    if doubled:
        doubled = list(dict.fromkeys(doubled))
        raise DataError(
            f"{source}: a recording must have one vector. {len(doubled)} have several that differ, by {key}: "
            f"{_some(doubled)}. Remove all but one of each."
        )
    return rows


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SOME]) + (" …" if len(names) > SOME else "")

"""Shards of the feature store: immutable Parquet files of a few thousand clips that are named by their own content.

A clip has one row, its vector; or several that stand together, where long speech was cut into windows of frames.

Columns are arrays from end to end, because a million clips as Python objects would take a minute and a gigabyte.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emobench.files import storage_errors

if TYPE_CHECKING:
    import pyarrow as pa

HASH = np.dtype("S32")  # a SHA-256; NumPy hides zeros at the end and pads with them, so comparisons stay exact
MAX_ROWS = 2**16  # with the bytes, bounds what is in memory besides a table that is loaded
MAX_BYTES = 2**27

_IDENTITY = b"emobench"  # keys of the file's metadata
_N_CLIPS = b"clips"  # where they are fewer than the rows


class DamagedShardError(Exception):
    """A shard's content is not what its name says."""


@dataclass(frozen=True)
class Shard:
    """Rows of one feature set, sorted by clip, those of a clip in their order; at least one.

    Attributes
    ----------
    clips : array of `HASH`, shape (n_rows,)
        Hash of each recording's file.
    audio : array of `HASH`, shape (n_rows,)
        Hash of each recording's samples.
    duration_s : float64 array of shape (n_rows,)
        Of the whole recording.
    is_silent : bool array of shape (n_rows,)
    remarks : object array of str, shape (n_rows,)
    X : float32 array of shape (n_rows, n_features)
    """

    clips: np.ndarray
    audio: np.ndarray
    duration_s: np.ndarray
    is_silent: np.ndarray
    remarks: np.ndarray
    X: np.ndarray

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def starts(self) -> np.ndarray:
        """Where the rows of each clip begin: int array of shape (n_clips,)."""
        is_first = np.ones(len(self), bool)
        is_first[1:] = self.clips[1:] != self.clips[:-1]
        return np.flatnonzero(is_first)

    def by_clip(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each clip, in hexadecimal, with its rows: a float32 array of shape (n, n_features)."""
        starts = self.starts
        yield from zip(to_texts(self.clips[starts]), np.split(self.X, starts[1:]), strict=True)

    def pieces(self) -> Iterator[Shard]:
        """Yield the rows in shards that fit into memory, each clip in one."""
        at_once = max(1, min(MAX_ROWS, MAX_BYTES // (4 * self.X.shape[1])))
        starts = self.starts
        cuts = starts[1:][np.diff(starts // at_once) > 0]
        for start, end in zip([0, *cuts], [*cuts, len(self)], strict=True):
            yield self.take(slice(start, end))

    def take(self, rows: np.ndarray | slice) -> Shard:
        """Return some rows."""
        return Shard(*(column[rows] for column in self.columns))

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return self.clips, self.audio, self.duration_s, self.is_silent, self.remarks, self.X


def to_hashes(texts: Sequence[str]) -> np.ndarray:
    """Return SHA-256 sums, each given as 64 hexadecimal digits, as an array of `HASH`."""
    return np.frombuffer(bytes.fromhex("".join(texts)), HASH)


def to_texts(hashes: np.ndarray) -> tuple[str, ...]:
    """Return an array of `HASH` as hexadecimal digits."""
    digits = np.ascontiguousarray(hashes).tobytes().hex()
    return tuple(digits[start : start + 64] for start in range(0, len(digits), 64))


def concatenate(shards: Sequence[Shard]) -> Shard:
    """Return the rows of all shards as one, sorted by clip; of a clip in several shards, those of the first."""
    joined = Shard(*(np.concatenate(column) for column in zip(*(shard.columns for shard in shards), strict=True)))
    sources = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
    order = np.argsort(joined.clips, kind="stable")
    clips, sources = joined.clips[order], sources[order]
    first = np.searchsorted(clips, clips)  # of all rows of the clip, those of the first shard being in front
    return joined.take(order[sources == sources[first]])


def encode_shard(shard: Shard, identity: Mapping[str, Any]) -> bytes:
    """Return a Parquet file: the same rows give the same bytes, and so the same name.

    Parameters
    ----------
    identity : mapping
        What the feature key is the hash of; kept in the file, so that it describes itself.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    n_clips = len(shard.starts)
    table = pa.table(
        {
            "clip": _binary(shard.clips),
            "audio": _binary(shard.audio),
            "duration_s": pa.array(shard.duration_s),
            "is_silent": pa.array(shard.is_silent),
            "remark": pa.array(shard.remarks, pa.string()),
            # Not a list of numbers: Parquet would take ten times as long to take it apart.
            "vector": _binary(np.ascontiguousarray(shard.X, dtype="<f4").view(f"V{4 * shard.X.shape[1]}").ravel()),
        },
        metadata={
            _IDENTITY: json.dumps(identity, sort_keys=True),
            b"vector": b"float32, little-endian",
            **({_N_CLIPS: str(n_clips)} if n_clips < len(shard) else {}),
        },
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=["remark"], write_statistics=False)
    return buffer.getvalue()


def name_of(content: bytes) -> str:
    """Return the only name that a shard of this content may have."""
    return f"{hashlib.sha256(content).hexdigest()}.parquet"


def read_shard(path: Path) -> Shard | None:
    """Return a shard, or None where it is gone: merged, or quarantined, by another process.

    Raises
    ------
    DamagedShardError
        If its content is not its name, or is no shard of this layout.
    StorageError
        If it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage_errors(path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
    if name_of(content) != path.name:
        raise DamagedShardError(path)
    try:
        # Not pq.read_table, and not Arrow's to_numpy: they import more than all this takes, pandas among it.
        table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=["remark"]).read(use_threads=False)
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        remark = columns["remark"]
        return Shard(
            clips=_view(columns["clip"], HASH),
            audio=_view(columns["audio"], HASH),
            duration_s=_view(columns["duration_s"], "<f8"),
            is_silent=_view(columns["is_silent"].cast(pa.uint8()), bool),
            remarks=np.array(remark.dictionary.to_pylist(), object)[_view(remark.indices, "<i4")],
            X=_view(columns["vector"], "<f4").reshape(table.num_rows, -1),
        )
    except (pa.ArrowException, KeyError, AttributeError, ValueError) as error:
        raise DamagedShardError(path) from error


def describe_shard(path: Path) -> tuple[dict[str, Any], int] | None:
    """Return the identity that a shard was made under and its number of clips, unchecked; None if it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
        metadata = footer.metadata or {}
        identity, n_clips = json.loads(metadata[_IDENTITY]), int(metadata.get(_N_CLIPS, footer.num_rows))
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return (identity, n_clips) if isinstance(identity, dict) else None


def _binary(values: np.ndarray) -> pa.Array:
    import pyarrow as pa

    kind = pa.binary(values.dtype.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _view(array: pa.Array, dtype: Any) -> np.ndarray:
    """Return an array of Arrow whose values have a fixed width, without a copy."""
    _, data = array.buffers()
    width = array.type.byte_width
    values = np.frombuffer(data, np.uint8, count=len(array) * width, offset=array.offset * width)
    return values.view(dtype)

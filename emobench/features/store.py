"""The feature store: features computed once, shared by every model and run, never stale and never wrong.

``<store>/<feature key>/<SHA-256 of the shard>.parquet``: the name proves a shard; one that does not match its name is
moved to quarantine and its clips are extracted again. A clip id is the hash of the file's bytes, so nothing depends on
names or time stamps.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emobench.audio import AudioPolicy
from emobench.errors import AudioError, HeldError, StorageError
from emobench.execution.workers import Crash, Pool
from emobench.features import FeatureSpec, feature_identity, feature_key
from emobench.features.copies import Copy
from emobench.features.extraction import Extracted, extract_clips
from emobench.features.rows import RowFile
from emobench.features.shards import (
    HASH,
    DamagedShardError,
    Shard,
    concatenate,
    describe_shard,
    encode_shard,
    name_of,
    read_shard,
    to_hashes,
    to_texts,
)
from emobench.files import hold, sweep, write_bytes, write_json
from emobench.registry import with_plugins

QUARANTINE = "quarantine"
FOLDERS = "folders.json"
FLUSH_S = 3.0
CLIPS_A_TASK = 16
SMALL_BYTES = 2**20  # shards below are merged,
MAX_SMALL_SHARDS = 32  # where they are more
LOCK_TIMEOUT_S = 3600

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass
class Extraction:
    """What `FeatureStore.extract` found of one feature set, for each clip in the order they were asked for in.

    Attributes
    ----------
    X : float32 array of shape (n_clips, n_features), or (n_rows, n_features) of frames
        Rows of clips that were not found mean nothing.
    audio : array of `HASH`, shape (n_clips,)
        Hash of the samples.
    is_found : bool array of shape (n_clips,)
    faults : list of AudioError
        Every recording that cannot be used.
    warnings : dict of clip id to str
        What deserves a remark about a recording that is used.
    repairs : list of str
        What was wrong with the store, and what was done about it.
    n_computed : int
        Clips that were not in the store.
    spans : int array of shape (n_clips, 2), or None
        First row in X, and the one behind the last, of each clip of frames, which may have several.
    """

    X: np.ndarray
    audio: np.ndarray
    is_found: np.ndarray
    faults: list[AudioError] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    repairs: list[str] = field(default_factory=list)
    n_computed: int = 0
    spans: np.ndarray | None = None

    @classmethod
    def empty(cls, n_clips: int, spec: FeatureSpec) -> Extraction:
        """Return what is found of clips before anything is."""
        audio, is_found = np.empty(n_clips, HASH), np.zeros(n_clips, bool)
        if spec.form == "vector":
            return cls(np.empty((n_clips, spec.n_features), np.float32), audio, is_found)
        return cls(np.empty((0, spec.n_features), np.float32), audio, is_found, spans=np.zeros((n_clips, 2), int))


class _Wanted:
    """The clips that are asked for, so that a shard's can be looked up all at once.

    Attributes
    ----------
    clips : array of `HASH`, shape (n_unique,)
        Sorted.
    rows : int array of shape (n_unique,)
        Where each was first asked for.
    """

    def __init__(self, clips: np.ndarray):
        # Eight bytes tell clips apart, and are sorted and found in a fifth of the time; where not, all bytes are taken.
        self._to_keys: Callable[[np.ndarray], np.ndarray] = _first_bytes
        order = np.argsort(_first_bytes(clips), kind="stable")
        if (np.diff(_first_bytes(clips)[order]) == 0).any():
            self._to_keys, order = np.asarray, np.argsort(clips, kind="stable")
        ordered = clips[order]
        is_first = np.ones(len(clips), bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        self.clips, self.rows = ordered[is_first], order[is_first]
        self._keys = self._to_keys(self.clips)
        self._again = order[~is_first], self.rows[(np.cumsum(is_first) - 1)[~is_first]]

    def find(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of those of some clips that are wanted, and the rows that want them."""
        positions = np.searchsorted(self._keys, self._to_keys(clips))
        found = np.flatnonzero(positions < len(self.clips))
        found = found[self.clips[positions[found]] == clips[found]]
        return found, self.rows[positions[found]]

    def spread(self, found: Extraction) -> None:
        """Give what was found of a clip to the other rows that ask for it."""
        rows, sources = self._again
        for column in (found.X if found.spans is None else found.spans, found.audio, found.is_found):
            column[rows] = column[sources]


def _first_bytes(clips: np.ndarray) -> np.ndarray:
    """Return the first eight bytes of hashes as numbers of the same order."""
    return np.ascontiguousarray(clips).view(">u8").reshape(-1, 4)[:, 0].astype(np.uint64)


class FeatureStore:
    """A folder of features.

    Parameters
    ----------
    root : path
        Made when something is first written.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)

    def extract(
        self,
        specs: Sequence[FeatureSpec],
        clips: Sequence[tuple[str, Path | Copy]],
        *,
        policy: AudioPolicy,
        pool: Callable[[], Pool],
        on_progress: Callable[[int, int], None] = lambda n_done, n_all: None,
    ) -> list[Extraction]:
        """Return the features of clips for each feature set, computing and keeping those that the store has not.

        Each recording is decoded once for all the feature sets that miss it.

        Parameters
        ----------
        clips : sequence of (clip id, path or altered copy)
        pool : callable
            Called only when something must be computed.
        on_progress : callable
            Called with the number of clips computed and to compute.

        Raises
        ------
        StorageError
            If the store cannot be written; what was written before stays.
        HeldError
            If another process holds a feature set for longer than an hour.
        """
        wanted = _Wanted(to_hashes([clip for clip, _ in clips]))
        parts = [_Part(spec, policy, wanted, Extraction.empty(len(clips), spec)) for spec in specs]
        incomplete = [part for part in parts if self._load(part) or len(part.missing())]
        with contextlib.ExitStack() as stack:
            for part in sorted(incomplete, key=lambda part: part.key):  # in one order everywhere: no deadlock
                part.is_writable = self._hold(part, stack)
                if part.is_writable:
                    sweep(self.root / part.key, below=False)
                # Another process may have written, or mended, in the meantime.
                for path in self._load(part):
                    part.found.repairs.append(self._repair(path))
                if part.is_writable and len(part.missing()):
                    sources = (source for _, source in clips if isinstance(source, Path))
                    self._note_folders(part.key, {str(source.resolve().parent) for source in sources})
            if any(len(part.missing()) for part in parts):
                self._compute(parts, clips, policy, pool(), on_progress)
            for part in incomplete:
                if part.is_writable:
                    self._merge(part.key)
        for part in parts:
            part.finish()
            wanted.spread(part.found)
        return [part.found for part in parts]

    def folders(self, key: str) -> list[Path]:
        """Return folders in which recordings were when they were extracted under a feature key; they may be gone."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return [Path(folder) for folder in json.loads((self.root / key / FOLDERS).read_bytes())]
        return []

    def _note_folders(self, key: str, folders: set[str]) -> None:
        """Remember where recordings are before they are extracted, so that a sample can be extracted again."""
        known = set(map(str, self.folders(key)))
        if not folders <= known:
            with contextlib.suppress(StorageError):  # it only helps `verify`
                write_json(self.root / key / FOLDERS, sorted(folders | known))

    def shards(self, key: str) -> list[Path]:
        """Return the shards of a feature key, sorted by name."""
        return sorted((self.root / key).glob("*.parquet"))

    def count_missing(self, keys: Sequence[str], clips: Sequence[str]) -> int:
        """Return how many of some clips lack a vector under any of the keys; changes nothing."""
        wanted = _Wanted(to_hashes(clips))
        is_everywhere = np.ones(len(clips), bool)
        for key in keys:
            is_there = np.zeros(len(clips), bool)
            for path in self.shards(key):
                with contextlib.suppress(DamagedShardError):
                    if shard := read_shard(path):
                        is_there[wanted.find(shard.clips)[1]] = True
            is_everywhere &= is_there
        return int(np.count_nonzero(~is_everywhere[wanted.rows]))

    def _load(self, part: _Part) -> list[Path]:
        """Add what shards that were not read yet have to what is found; return those that are damaged."""
        damaged = []
        for path in self.shards(part.key):
            if path.name in part.seen:
                continue
            try:
                shard = read_shard(path)
            except DamagedShardError:
                damaged.append(path)
                continue
            if shard is not None:
                part.seen.add(path.name)
                part.add(shard)
        return damaged

    def _compute(
        self,
        parts: Sequence[_Part],
        clips: Sequence[tuple[str, Path | Copy]],
        policy: AudioPolicy,
        pool: Pool,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Extract what is missing, keep it every few seconds, and what is finished also when somebody interrupts."""
        groups = _group_missing(parts)
        n_all, n_done = sum(map(len, groups.values())), 0
        last_write_s = time.monotonic()
        on_progress(0, n_all)
        try:
            for lacking, rows in groups.items():
                some = [parts[position] for position in lacking]
                batches = _extract_all([part.spec for part in some], [clips[row] for row in rows], policy, pool)
                for batch, outcomes in batches:
                    for (clip, _), outcome in zip(batch, outcomes, strict=True):
                        for position, part in enumerate(some):
                            part.receive(clip, outcome, position)
                    n_done += len(batch)
                    on_progress(n_done, n_all)
                    if time.monotonic() - last_write_s > FLUSH_S:
                        self._keep(parts)
                        last_write_s = time.monotonic()
        finally:
            self._keep(parts)
        for part in parts:
            part.found.faults.sort(key=lambda fault: fault.path)

    def _keep(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            shard = part.take_pending()
            if shard is not None:
                part.add(shard)
                if part.is_writable:
                    self._write_shard(part.key, shard, feature_identity(part.spec, mono=part.policy.mono))

    def _write_shard(self, key: str, shard: Shard, identity: Mapping[str, Any]) -> Path:
        content = encode_shard(shard, identity)
        path = self.root / key / name_of(content)
        write_bytes(path, content)
        return path

    def quarantine(self, path: Path) -> None:
        """Move a damaged shard out of the way, while its key is held, or raise `OSError`."""
        folder = self.root / QUARANTINE
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(path, folder / f"{path.parent.name}-{path.name}")

    def _repair(self, path: Path) -> str:
        try:
            self.quarantine(path)
            done = "moved to quarantine"
        except OSError as error:
            done = f"left where it is ({error.strerror})"
        return f"{path}: damaged (its content is not its name); {done}, extracted again"

    def _merge(self, key: str) -> None:
        """Make few shards of many small ones; a reader that finds one gone looks again under the lock."""
        small = [path for path in self.shards(key) if path.stat().st_size < SMALL_BYTES]
        described = describe_shard(small[0]) if len(small) > MAX_SMALL_SHARDS else None
        if described is None:
            return
        with contextlib.suppress(OSError, DamagedShardError):  # it can wait until there is space, or all are sound
            shards = [shard for path in small if (shard := read_shard(path)) is not None]
            kept = {self._write_shard(key, piece, described[0]) for piece in concatenate(shards).pieces()}
            for path in small:
                if path not in kept:
                    path.unlink()

    def _hold(self, part: _Part, stack: contextlib.ExitStack) -> bool:
        """Hold a feature key against other processes; return False where the store cannot be written."""
        try:
            stack.enter_context(self.hold(part.key, timeout_s=LOCK_TIMEOUT_S))
        except HeldError:
            raise
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in _READ_ONLY:
                raise
            state = "is read-only; what it has is used, and nothing new is kept"
            if not self.root.is_dir():
                state = "cannot be made, so nothing is kept; set EMOBENCH_STORE to a folder that can be written"
            part.found.repairs.append(f"{self.root}: the feature store {state}")
            return False
        return True

    @contextlib.contextmanager
    def hold(self, key: str, *, timeout_s: float) -> Iterator[None]:
        """Hold a feature key against other processes.

        Raises
        ------
        HeldError
            If another process holds it for longer than `timeout_s`.
        StorageError
            If the store cannot be written.
        """
        refusal = (
            f"{self.lock(key)}: another emobench is extracting {key}. Wait for it, or end it, and run the same command "
            "again."
        )
        with hold(self.lock(key), refusal=refusal, timeout_s=timeout_s):
            yield

    def lock(self, key: str) -> Path:
        """Return the lock file of a feature key."""
        return self.root / f"{key}.lock"


@dataclass
class _Part:
    """One feature set of an extraction while it goes on."""

    spec: FeatureSpec
    policy: AudioPolicy
    wanted: _Wanted
    found: Extraction
    is_writable: bool = False
    seen: set[str] = field(default_factory=set)  # names of shards that are read: immutable, they need not be again
    pending: list[tuple[str, Extracted, np.ndarray, str]] = field(default_factory=list)  # computed, not yet added

    @functools.cached_property
    def rows(self) -> RowFile:
        """Where the rows of frames are gathered."""
        return RowFile(self.spec.n_features)

    @functools.cached_property
    def key(self) -> str:
        return feature_key(self.spec, mono=self.policy.mono)

    def missing(self) -> np.ndarray:
        """Return the rows whose clip was not found, one for each clip."""
        return self.wanted.rows[~self.found.is_found[self.wanted.rows]]

    def add(self, shard: Shard) -> None:
        """Take from a shard what is wanted and accepted by the policy."""
        chosen, rows = self.wanted.find(shard.clips)
        is_accepted = _is_accepted(shard, self.policy)[chosen]
        chosen, rows = chosen[is_accepted], rows[is_accepted]
        if self.found.spans is None:
            self.found.X[rows] = shard.X[chosen]
        else:
            self._append(rows, shard.X[chosen])
        self.found.audio[rows] = shard.audio[chosen]
        self.found.is_found[rows] = True
        remarks = shard.remarks[chosen]
        has_remark = np.flatnonzero(remarks != "")
        self.found.warnings.update(zip(to_texts(shard.clips[chosen[has_remark]]), remarks[has_remark], strict=True))

    def _append(self, clips: np.ndarray, X: np.ndarray) -> None:
        """Take rows of frames, those of a clip standing together; `clips` are the positions of their clips."""
        assert self.found.spans is not None
        is_new = ~self.found.is_found[clips]
        clips, first = clips[is_new], self.rows.append(X[is_new])
        starts = np.flatnonzero(np.diff(clips, prepend=-1))
        ends = starts + np.diff(starts, append=len(clips))
        self.found.spans[clips[starts]] = first + np.column_stack([starts, ends])

    def finish(self) -> None:
        """Make the rows of frames available when nothing more will be found."""
        if self.found.spans is not None:
            self.found.X = self.rows.map()

    def receive(self, clip: str, outcome: Extracted | AudioError, position: int) -> None:
        """Take what a worker found out about a clip; `position` is that of this feature set in its answer."""
        result = outcome if isinstance(outcome, AudioError) else outcome.vectors[position]
        self.found.n_computed += 1
        if isinstance(result, AudioError):
            self.found.faults.append(result)
        elif isinstance(outcome, Extracted):
            self.pending.append((clip, outcome, result, outcome.remarks[position]))

    def take_pending(self) -> Shard | None:
        """Return what was received since the last time, if anything."""
        if not self.pending:
            return None
        found, self.pending = sorted(self.pending, key=lambda item: item[0]), []
        vectors = [np.atleast_2d(vector) for _, _, vector, _ in found]
        columns = [
            to_hashes([clip for clip, *_ in found]),
            to_hashes([extracted.audio for _, extracted, *_ in found]),
            np.array([extracted.duration_s for _, extracted, *_ in found], float),
            np.array([extracted.is_silent for _, extracted, *_ in found], bool),
            np.array([remark for *_, remark in found], object),
        ]
        n_rows = [len(vector) for vector in vectors]
        return Shard(*[*(np.repeat(column, n_rows) for column in columns), np.concatenate(vectors)])


def _is_accepted(shard: Shard, policy: AudioPolicy) -> np.ndarray:
    """Return which recordings a policy takes; the mono policy is in the feature key."""
    return (policy.min_duration_s <= shard.duration_s) & (shard.duration_s <= policy.max_duration_s)


def _group_missing(parts: Sequence[_Part]) -> dict[tuple[int, ...], list[int]]:
    """Return the rows to extract by the feature sets that miss them, in the order they were asked for in."""
    lacking: dict[int, list[int]] = defaultdict(list)
    for position, part in enumerate(parts):
        for row in part.missing().tolist():
            lacking[row].append(position)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row in sorted(lacking):
        groups[tuple(lacking[row])].append(row)
    return groups


def _extract_all(
    specs: Sequence[FeatureSpec], clips: Sequence[tuple[str, Path | Copy]], policy: AudioPolicy, pool: Pool
) -> Iterator[tuple[Sequence[tuple[str, Path | Copy]], Sequence[Extracted | AudioError]]]:
    """Yield batches of clips with their outcomes; a clip that kills its worker takes no other one with it."""
    batches = [clips[start : start + CLIPS_A_TASK] for start in range(0, len(clips), CLIPS_A_TASK)]
    while batches:
        crashed: list[Sequence[tuple[str, Path | Copy]]] = []
        tasks = [(specs, batch, policy) for batch in batches]
        for position, outcome in pool.run(*with_plugins(extract_clips, tasks)):
            batch = batches[position]
            if not isinstance(outcome, Crash):
                yield batch, outcome
            elif len(batch) > 1:
                crashed += [[clip] for clip in batch]
            else:
                path = batch[0][1]
                yield batch, [AudioError(path, f"must not end its worker: {outcome.reason}. Remove the recording.")]
        batches = crashed

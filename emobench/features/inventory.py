"""What is in the feature store: list it, check it, and remove what nothing here can use."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from emobench.audio import AudioPolicy, Mono
from emobench.audio.decoding import hash_file
from emobench.errors import AudioError, HeldError, StorageError
from emobench.features import FEATURES, FeatureSpec, feature_key
from emobench.features.extraction import extract_clips
from emobench.features.shards import DamagedShardError, describe_shard, read_shard
from emobench.features.store import QUARANTINE, FeatureStore
from emobench.files import storage_errors
from emobench.registry import rows

_KEY = re.compile(r".+-[0-9a-f]{16}")
TOLERANCE = 1e-4  # relative and absolute, between a stored number and the same one extracted again
_MONO: tuple[Mono, ...] = get_args(Mono)


@dataclass(frozen=True)
class Holding:
    """What the store holds under one feature key, as its shards say; they are not checked.

    Attributes
    ----------
    identity : dict
        What the key is the hash of: specification, libraries, Python; empty where no shard can be read.
    is_current : bool
        Whether this installation would use it.
    """

    key: str
    identity: Mapping[str, Any]
    n_clips: int
    n_shards: int
    n_bytes: int
    is_current: bool


@dataclass
class Checked:
    """What a check of every shard found.

    Attributes
    ----------
    mended, unmended : list of str
        Damaged shards that are out of the way now, and those that could not be moved, with the reason.
    n_clips : int
        Clips in damaged shards, as far as these still say; they will be extracted again when they are needed.
    """

    n_shards: int = 0
    mended: list[str] = field(default_factory=list)
    unmended: list[str] = field(default_factory=list)
    n_clips: int = 0


@dataclass
class Collected:
    """What was removed from the store, or would be.

    Attributes
    ----------
    removed : list of str
        Feature keys, the quarantine, and files that a killed process left half written.
    held : list of str
        Feature keys that another process uses; they are left alone.
    """

    removed: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    n_bytes: int = 0


@dataclass
class Recomputed:
    """What extracting some recordings again found.

    Attributes
    ----------
    n_clips, n_not_found : int
        Recordings that were extracted again; those of the store that are not where they were.
    mended, unmended : list of str
        Shards with other numbers that were moved to quarantine, and those that could not be, with the reason.
    """

    n_clips: int
    n_not_found: int
    mended: list[str] = field(default_factory=list)
    unmended: list[str] = field(default_factory=list)


def list_holdings(store: FeatureStore) -> list[Holding]:
    """Return what the store holds, sorted by key."""
    current = current_keys()
    return [_describe(store, key, is_current=key in current) for key in _keys(store)]


def current_keys() -> set[str]:
    """Return every feature key that this installation can use."""
    kept = [row for row in rows("feature set", FEATURES) if not row.is_read]
    return {feature_key(row, mono=mono) for row in kept for mono in _MONO}


def check(store: FeatureStore) -> Checked:
    """Read every shard; move those that are not what their name says to quarantine."""
    found = Checked()
    for key in _keys(store):
        paths = store.shards(key)
        found.n_shards += len(paths)
        damaged = [path for path in paths if _is_damaged(path)]
        if not damaged:
            continue
        try:
            with store.hold(key, timeout_s=0):
                for path in filter(_is_damaged, damaged):  # another process may have mended it
                    described = describe_shard(path)
                    with storage_errors(path):
                        store.quarantine(path)
                    found.n_clips += described[1] if described else 0
                    found.mended.append(str(path))
        except HeldError:
            found.unmended += [f"{path}: another emobench uses it" for path in damaged]
        except StorageError as error:
            found.unmended += [f"{path}: {error}" for path in damaged if str(path) not in found.mended]
    return found


def recompute(store: FeatureStore, n_clips: int, *, rng: np.random.Generator) -> Recomputed:
    """Extract some recordings again and hold what the store has of them to it.

    A shard's name proves that nobody damaged it, not that its numbers were ever computed from its recordings: whoever
    changes both cannot be found otherwise. A shard with another number is moved to quarantine.

    Parameters
    ----------
    n_clips : int
        Recordings to extract, or all that are found where they are fewer.
    rng : Generator
        Chooses them.
    """
    rows_of_store = {
        feature_key(row, mono=mono): (row, mono)
        for row in rows("feature set", FEATURES)
        for mono in _MONO
        if not row.is_read
    }
    holders: dict[str, list[tuple[str, Path, np.ndarray]]] = defaultdict(list)  # by clip: key, shard, rows
    for key in (key for key in _keys(store) if key in rows_of_store):
        for path in store.shards(key):
            with contextlib.suppress(DamagedShardError):
                shard = read_shard(path)
                for clip, found_rows in shard.by_clip() if shard else ():
                    holders[clip].append((key, path, found_rows))
    paths = _find_recordings([folder for key in _keys(store) for folder in store.folders(key)], holders)
    found = Recomputed(n_clips=min(n_clips, len(paths)), n_not_found=len(holders) - len(paths))
    differing: dict[Path, str] = {}
    for clip in rng.choice(sorted(paths), found.n_clips, replace=False).tolist() if paths else ():
        for key, path, kept in holders[clip]:
            row, mono = rows_of_store[key]
            if not _is_reproduced(row, mono, clip, paths[clip], kept):
                differing.setdefault(path, f"{path}: not what {paths[clip]} gives")
    for path, text in differing.items():
        try:
            with store.hold(path.parent.name, timeout_s=0), storage_errors(path):
                store.quarantine(path)
            found.mended.append(text)
        except StorageError as error:
            found.unmended.append(f"{text}; {error}")
    return found


def _find_recordings(folders: Iterable[Path], clips: Collection[str]) -> dict[str, Path]:
    """Return where recordings are, of those that are still in the folders that they were extracted from."""
    found: dict[str, Path] = {}
    for folder in dict.fromkeys(folders):
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            with contextlib.suppress(AudioError):
                if (clip := hash_file(path)) in clips:
                    found.setdefault(clip, path)
    return found


def _is_reproduced(row: FeatureSpec, mono: Mono, clip: str, path: Path, kept: np.ndarray) -> bool:
    policy = AudioPolicy(mono=mono, min_duration_s=0, max_duration_s=np.inf)
    (extracted,) = extract_clips([row], [(clip, path)], policy)
    if isinstance(extracted, AudioError) or isinstance(extracted.vectors[0], AudioError):
        return False
    again = np.atleast_2d(extracted.vectors[0])
    return again.shape == kept.shape and np.allclose(again, kept, rtol=TOLERANCE, atol=TOLERANCE)


def collect(store: FeatureStore, *, dry_run: bool = False) -> Collected:
    """Remove feature keys that this installation cannot use, the quarantine, and half-written files.

    A key that another process holds is left alone.

    Parameters
    ----------
    dry_run : bool
        Only say what would be removed.

    Raises
    ------
    StorageError
        If something cannot be removed.
    """
    found, current = Collected(), current_keys()
    for key in _keys(store):
        folder = store.root / key
        waste = sorted(folder.glob(".*.part")) if key in current else [folder]
        if not waste:
            continue
        try:
            with _hold(store, key, dry_run):
                for path in waste:
                    _remove(path, found, store, dry_run)
                if key not in current and not dry_run:
                    with contextlib.suppress(OSError):  # some systems keep a file that is open
                        store.lock(key).unlink()
        except HeldError:
            found.held.append(key)
    if (store.root / QUARANTINE).is_dir():
        _remove(store.root / QUARANTINE, found, store, dry_run)
    return found


def _keys(store: FeatureStore) -> list[str]:
    with storage_errors(store.root):
        entries = sorted(store.root.iterdir()) if store.root.is_dir() else []
    return [path.name for path in entries if _KEY.fullmatch(path.name) and path.is_dir()]


def _describe(store: FeatureStore, key: str, *, is_current: bool) -> Holding:
    paths = store.shards(key)
    described = [one for path in paths if (one := describe_shard(path))]
    return Holding(
        key=key,
        identity=described[0][0] if described else {},
        n_clips=sum(n_rows for _, n_rows in described),
        n_shards=len(paths),
        n_bytes=sum(map(_size, paths)),
        is_current=is_current,
    )


def _is_damaged(path: Path) -> bool:
    try:
        read_shard(path)
    except DamagedShardError:
        return True
    return False


@contextlib.contextmanager
def _hold(store: FeatureStore, key: str, dry_run: bool) -> Iterator[None]:
    """Hold a key without waiting; where nothing is to change, make no lock file for that."""
    if dry_run and not store.lock(key).exists():
        yield
    else:
        with store.hold(key, timeout_s=0):
            yield


def _remove(path: Path, found: Collected, store: FeatureStore, dry_run: bool) -> None:
    n_bytes = sum(map(_size, path.rglob("*"))) if path.is_dir() else _size(path)
    if not dry_run:
        with storage_errors(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    found.removed.append(path.relative_to(store.root).as_posix())
    found.n_bytes += n_bytes


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # another process is at work
        return path.stat().st_size if path.is_file() else 0
    return 0

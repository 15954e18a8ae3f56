"""The one way to write, publish, lock, hash and sweep files.

What appears under its name is whole and stays after a power cut: it is written aside, synced and renamed, and the
folder is synced. What a killed process left aside is removed by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emobench.errors import HeldError, StorageError

PART = ".part"  # behind the name of a file that is being written
ASIDE = ".aside-"  # in the name of a folder that is not published yet, or not any more


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says while `path` is written into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        advice = _no_inodes(path, error) or {
            errno.ENOSPC: "The disk is full. Free some space",
            errno.EDQUOT: "The disk quota is used up. Free some space",
            errno.EROFS: "The file system is read-only. Choose another folder",
            errno.EACCES: "Permission denied. Choose another folder or change its permissions",
            errno.EPERM: "Permission denied. Choose another folder or change its permissions",
            errno.EFBIG: "The file would be larger than the limit (ulimit -f). Raise the limit",
        }.get(error.errno or 0, f"The system says: {error.strerror or error}. Fix that")
        raise StorageError(
            f"{path}: cannot be written. {advice} and run the same command again; what is finished is kept."
        ) from error


def _no_inodes(path: str | os.PathLike[str], error: OSError) -> str:
    """Return the advice for a file system that has room for bytes and none for another file, else nothing."""
    if error.errno != errno.ENOSPC or not hasattr(os, "statvfs"):
        return ""
    place = next((folder for folder in Path(path).absolute().parents if folder.exists()), Path("/"))
    with contextlib.suppress(OSError):
        state = os.statvfs(place)
        if state.f_files and not state.f_favail and state.f_bavail:
            return "The file system has no free inodes: it takes no more files, however small. Remove some"
    return ""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, and stays after a power cut.

    Raises
    ------
    StorageError
        If the system does not let it; nothing is left behind.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:30]}.", suffix=PART, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and machines: sorted where order means nothing, NaN refused."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return what `write_json` writes."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")  # a file name need not be UTF-8


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def published(folder: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Yield a new folder that takes the place of `folder` when the block ends well, and is gone when it does not.

    The block syncs the files that it writes, as `write_bytes` does. A process that is killed leaves what was there
    before, or the new folder. With `replaces` there is none for a moment, between two renames; whoever is killed just
    there leaves the old one aside, and the next call puts it back. What lies aside is locked while its process lives.

    Parameters
    ----------
    folder : path
        Absent or empty, unless `replaces`.

    Raises
    ------
    StorageError
        If the system does not let it, or another process published first.
    """
    from filelock import FileLock

    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    aside = folder.with_name(f".{folder.name}{ASIDE}{secrets.token_hex(4)}")
    with storage_errors(folder), FileLock(f"{aside}.lock") as lock:
        try:
            sync_folder(folder.parent)  # what lies aside is found by its lock, which a power cut must not lose alone
            new, old = aside / "new", aside / "old"
            new.mkdir(parents=True)
            yield new
            sync_folder(new)
            if replaces and folder.exists():
                os.replace(folder, old)
                sync_folder(aside)
            elif folder.is_dir():
                with contextlib.suppress(OSError):
                    folder.rmdir()  # an empty one, which not every system lets a rename replace
            os.replace(new, folder)
            sync_folder(folder.parent)
        except StorageError as error:  # of a file aside, whose name nobody knows
            raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from None
        finally:
            _put_back(folder, aside)
            with contextlib.suppress(OSError):  # Windows keeps an open file; the next one removes it
                os.unlink(lock.lock_file)


def _clear(folder: Path) -> None:
    """Remove what killed processes left aside, but put an old folder back where there is no new one."""
    from filelock import FileLock, Timeout

    for left in sorted(folder.parent.glob(f".{glob.escape(folder.name)}{ASIDE}*.lock")):
        with contextlib.suppress(Timeout, OSError), FileLock(left).acquire(blocking=False):
            _put_back(folder, left.with_suffix(""))
            left.unlink()


def _put_back(folder: Path, aside: Path) -> None:
    if not folder.exists() and (aside / "old").exists():
        os.replace(aside / "old", folder)
        sync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path, *, below: bool = True) -> None:
    """Remove files that killed processes left half written in a folder; only who holds the folder may do that."""
    for part in folder.rglob(f".*{PART}") if below else folder.glob(f".*{PART}"):
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def hold(lock: Path, *, refusal: str, timeout_s: float = 0) -> Iterator[None]:
    """Hold a lock file against other processes.

    Raises
    ------
    HeldError
        With the message `refusal`, if another process holds it for longer than `timeout_s`.
    StorageError
        If the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=timeout_s)
        except Timeout:  # an OSError too
            raise HeldError(refusal) from None
    try:
        yield
    finally:
        held.release()


def check_writable(folder: Path) -> None:
    """Find out that a folder cannot be written before hours of work, not after."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def require_space(needs: Mapping[Path, int]) -> list[str]:
    """Return a sentence for each disk that has less room than what the folders on it will roughly take, in bytes."""
    disks: dict[Path, int] = {}
    for folder, n_bytes in needs.items():
        place = next(path for path in (folder, *folder.parents) if path.exists())
        disk = next(path for path in (place, *place.parents) if os.path.ismount(path))
        disks[disk] = disks.get(disk, 0) + n_bytes
    return [
        f"{disk}: needs about {n_bytes / 1e6:.1f} MB free and has {free / 1e6:.1f} MB. Make room, or write elsewhere"
        for disk, n_bytes in disks.items()
        if n_bytes > (free := shutil.disk_usage(disk).free)
    ]


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes: the clip id of a recording, the name of a shard."""
    return hashlib.sha256(data).hexdigest()


def digest(content: Any) -> str:
    """Return the SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hash_bytes(text.encode())

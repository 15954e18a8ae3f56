"""The one way to write, publish, lock, hash and sweep files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emobench.errors import StorageError


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says while `path` is written into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        advice = {
            errno.ENOSPC: "The disk is full. Free some space",
            errno.EDQUOT: "The disk quota is used up. Free some space",
            errno.EROFS: "The file system is read-only. Choose another folder",
            errno.EACCES: "Permission denied. Choose another folder or change its permissions",
            errno.EPERM: "Permission denied. Choose another folder or change its permissions",
            errno.EFBIG: "The file would be larger than the limit (ulimit -f). Raise the limit",
        }.get(error.errno or 0, f"The system says: {error.strerror or error}. Mend it")
        raise StorageError(
            f"{path}: must be writable. {advice} and run the same command again; what is finished is kept."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, and stays after a power cut.

    A temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises
    ------
    StorageError
        If the system does not let it; nothing is left behind.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:30]}.", suffix=".part", dir=path.parent)
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


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written below a folder; only who holds the folder may do that."""
    for part in folder.rglob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and machines: sorted where order means nothing, NaN refused."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return what `write_json` writes."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")  # a file name need not be UTF-8


def hash_bytes(data: bytes) -> str:
    """Return the clip id of a file whose bytes are at hand."""
    return hashlib.sha256(data).hexdigest()


def digest(content: Any) -> str:
    """Return the SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

"""The folder of a bundle, or one zip of it: `manifest.json`, `model.onnx`, and `SHA256SUMS` of both.

The sums are checked before anything else reads a byte; `sha256sum -c SHA256SUMS` checks them as well. They prove that
nothing was damaged, not who made it: what a stranger's model may do is the matter of `emobench.bundles.gate` and
`emobench.bundles.inspection`.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emobench.bundles.inspection import Trial, try_model
from emobench.bundles.manifest import COPY_AGAIN, Manifest, parse
from emobench.bundles.session import Session
from emobench.errors import BundleError, listing
from emobench.files import hash_bytes, published, storage_errors, write_bytes

MANIFEST, MODEL, SUMS = "manifest.json", "model.onnx", "SHA256SUMS"
FILES = frozenset({MANIFEST, MODEL, SUMS})
OLD_MANIFEST = "bundle.json"

LIMITS = {MANIFEST: 2**25, MODEL: 2**29, SUMS: 2**10}  # bytes
MAX_RATIO = 100  # of a zip's content to its size

# What the standard library raises on damaged archives, encrypted ones, and methods that it does not know.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, NotImplementedError, struct.error)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A fitted model with all it needs to predict from audio.

    Attributes
    ----------
    manifest : Manifest
    files : mapping of str to bytes
        `manifest.json`, `model.onnx` and `SHA256SUMS`, as they are on disk.
    """

    manifest: Manifest
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, manifest: Manifest, model: bytes) -> Bundle:
        """Return the bundle of an exported model; nothing is written."""
        files = {MANIFEST: manifest.render(), MODEL: model}
        return cls(manifest, {**files, SUMS: _sums(files)})

    @property
    def checksum(self) -> str:
        """SHA-256 of the sums, and so of everything."""
        return hash_bytes(self.files[SUMS])

    @property
    def sums(self) -> dict[str, str]:
        """SHA-256 of `manifest.json` and `model.onnx`."""
        return {name: hash_bytes(self.files[name]) for name in (MANIFEST, MODEL)}

    def session(self) -> Session:
        """Return the model, ready to answer, or raise `BundleError`."""
        return self._described(Session(self.files[MODEL], len(self.manifest.classes)))

    def trial(self) -> Trial:
        """Let the model answer in a process with limits of memory and time, or raise `BundleError`."""
        return self._described(try_model(self.files[MODEL], len(self.manifest.classes)))

    def _described(self, model: Any) -> Any:
        """Return a model that takes and gives what the manifest says, or raise `BundleError`."""
        found = (model.n_features, model.has_probabilities)
        if found != (self.manifest.n_features, self.manifest.has_probabilities):
            raise BundleError(f"{MODEL} is not the model that {MANIFEST} describes. {COPY_AGAIN}")
        return model

    def zipped(self) -> bytes:
        """Return all of it as one zip, the same bytes for the same bundle."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in sorted(self.files.items()):
                member = zipfile.ZipInfo(name)  # dated 1980
                member.external_attr = 0o644 << 16
                archive.writestr(member, data, compress_type=zipfile.ZIP_DEFLATED)
        return buffer.getvalue()


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle, a folder or a zip, and check its sums and its manifest; the model is not loaded.

    Raises
    ------
    BundleError
        If anything is missing, damaged or does not belong there.
    """
    path = Path(path)
    try:
        files = _read_folder(path) if path.is_dir() else _unzip(_read_file(path, sum(LIMITS.values())))
        _check(files)
        return Bundle(parse(files[MANIFEST]), files)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def write_bundle(path: str | os.PathLike[str], bundle: Bundle, *, as_zip: bool = False) -> None:
    """Write a bundle as a folder, or as one zip, that appears whole or not at all.

    An older bundle of that name is replaced. Only one process at a time may write to one path.

    Raises
    ------
    BundleError
        If something else than a bundle is in its place.
    StorageError
        If the disk does not take it.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not _is_replaceable(path, as_zip=as_zip):
        raise BundleError(f"{path}: is not a bundle, so it is not replaced by one. Choose another path.")
    if as_zip:
        write_bytes(path, bundle.zipped())
    else:
        with storage_errors(path), published(path, replaces=True) as new:
            for name, data in bundle.files.items():
                write_bytes(new / name, data)


# -- reading -------------------------------------------------------------------------------------------------------


def _check(files: Mapping[str, bytes]) -> None:
    """Refuse files that are not the three of a bundle, or not as they were written."""
    sums = files[SUMS].decode("ascii", errors="replace").splitlines()
    problems = [f"{name}: damaged" for name in (MANIFEST, MODEL) if _line(name, files[name]) not in sums]
    if files[SUMS] != _sums(files):
        problems = problems or [f"{SUMS}: damaged"]
        raise BundleError(f"its files are not as they were written:\n{listing(problems)}\n{COPY_AGAIN}")


def _check_names(names: list[str]) -> None:
    if OLD_MANIFEST in names:
        raise BundleError(
            "is a bundle of an older emobench, which stored models otherwise; run its config again to make a new one "
            "(`emobench run CONFIG`)."
        )
    if set(names) != FILES or len(names) != len(FILES):
        raise BundleError(
            f"is not a bundle: it must hold {', '.join(sorted(FILES))}, and nothing else. "
            f"It holds {', '.join(map(repr, sorted(names)[:5])) or 'nothing'}. Give the folder or zip of a bundle."
        )


def _read_folder(folder: Path) -> dict[str, bytes]:
    _check_names([name for name in os.listdir(folder) if name != ".DS_Store"])
    return {name: _read_file(folder / name, LIMITS[name]) for name in FILES}


def _read_file(path: Path, limit: int) -> bytes:
    """Return the content of a regular file; links in a bundle are not followed, and pipes not waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if path.name not in FILES:
        flags &= ~getattr(os, "O_NOFOLLOW", 0)  # a zip may be given by a link
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise BundleError(f"{path.name} is not a file of at most {limit:,} bytes. Do not trust this bundle.")
        return file.read(limit)


def _unzip(data: bytes) -> dict[str, bytes]:
    """Return the members of a zipped bundle; nothing is written anywhere."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_names([member.filename for member in members])
            sizes = {member.filename: member.file_size for member in members}
            too_large = [name for name, size in sizes.items() if size > LIMITS[name]]
            if too_large or sum(sizes.values()) > MAX_RATIO * len(data):
                raise BundleError(f"is a zip that unpacks to {sum(sizes.values()):,} bytes. Do not trust this file.")
            if any(stat.S_ISLNK(member.external_attr >> 16) for member in members):
                raise BundleError("is a zip with links in it. Do not trust this file.")
            return {name: archive.read(name) for name in sizes}
    except BundleError:
        raise
    except ZIP_ERRORS as error:
        raise BundleError(
            f"is not a bundle: neither a folder nor a whole zip with {', '.join(sorted(FILES))} ({error}). emobench "
            "opens nothing else: pickles and HDF5 files can run code. Give the folder or zip that emobench wrote."
        ) from error


def _sums(files: Mapping[str, bytes]) -> bytes:
    return "".join(f"{_line(name, files[name])}\n" for name in (MANIFEST, MODEL)).encode()


def _line(name: str, data: bytes) -> str:
    return f"{hash_bytes(data)}  {name}"


# -- writing -------------------------------------------------------------------------------------------------------


def _is_replaceable(path: Path, *, as_zip: bool) -> bool:
    """Return whether nothing is lost but an older bundle."""
    if as_zip:
        with contextlib.suppress(BundleError, OSError):
            return bool(_unzip(path.read_bytes()))
        return False
    names = set(os.listdir(path)) if path.is_dir() else {""}
    return names <= FILES or OLD_MANIFEST in names

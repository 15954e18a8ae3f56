"""Downloading a corpus: fetch archives, check them, unpack them aside, and rename the whole into place."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from emobench.corpora import Archive, CorpusSpec
from emobench.errors import CorpusError, EmobenchError, StorageError, listing
from emobench.registry import resolve

ATTEMPTS = 3
PAUSE_S = 2.0
MAX_RATIO = 200
MAX_BYTES = 64 * 2**30
MAX_MEMBERS = 1_000_000


def fetch(
    spec: CorpusSpec,
    dest: Path,
    *,
    base_url: str | None = None,
    progress: bool = False,
    keep_archive: bool = False,
) -> Path:
    """Download a corpus into the folder `dest`, which appears complete or not at all.

    Archives and the folder they are unpacked into lie in ``<dest>.fetch`` beside `dest`, on the same file system, until
    the corpus is complete. So a rerun downloads only what is not there yet with the right hash; a second process waits
    for the first. The rename is synced to disk, the clips are not one by one: after a power cut,
    ``emobench data verify`` tells.

    Parameters
    ----------
    spec : CorpusSpec
        A row with archives. Its `scan` and `n_utterances` say whether a folder is a complete copy.
    base_url : str, optional
        Mirror that has the archives under their file names.
    progress : bool
        Show a bar on stderr.
    keep_archive : bool
        Leave the archives in ``<dest>.fetch``.

    Returns
    -------
    dest : Path
        Resolved. A complete copy that is already there is not touched.

    Raises
    ------
    CorpusError
        If what the server sends is not the corpus, or `dest` holds something else.
    StorageError
        If the disk is full or not writable.
    """
    dest = Path(dest).resolve()
    if not spec.archives:
        raise CorpusError(f"A corpus to fetch must have archives. {spec.name} has none. Put its files there by hand.")
    from filelock import FileLock

    work = dest.with_name(f"{dest.name}.fetch")
    with writing(dest.parent):
        if is_complete(spec, dest) and (keep_archive or not work.exists()):  # else a kill left the archives
            return dest
        dest.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(dest.with_name(f"{work.name}.lock")) as lock:
            work.mkdir(exist_ok=True)
            if not is_complete(spec, dest):  # another process may just have made it so
                sweep(work, keep={row.file for row in spec.archives})
                archives = [download(row, work, base_url=base_url, progress=progress) for row in spec.archives]
                with staging(work) as folder:
                    for archive in archives:
                        extract(archive, folder)
                    check_complete(spec, folder)
                    publish(folder, dest)
            if not keep_archive:
                shutil.rmtree(work, ignore_errors=True)
            with suppress(OSError):  # Windows keeps an open file; who waits for the lock finds the corpus complete
                os.unlink(lock.lock_file)
    return dest


def is_complete(spec: CorpusSpec, dest: Path) -> bool:
    """Whether `dest` holds the corpus; an error if it holds anything else, which must not be overwritten."""
    if not os.path.lexists(dest) or (dest.is_dir() and not any(dest.iterdir())):
        return False
    try:
        check_complete(spec, dest)
    except CorpusError as error:
        raise CorpusError(
            f"The folder to fetch {spec.name} into must be absent, empty or complete. {dest} is none of these: {error} "
            f"Move it away, or choose another folder."
        ) from error
    return True


def check_complete(spec: CorpusSpec, folder: Path) -> None:
    """Raise unless the corpus's own scan finds all of it in `folder`."""
    scan = resolve(spec.scan)(folder)
    if scan.missing:
        raise CorpusError(
            f"{spec.name} must be complete. Missing are {len(scan.missing)} recordings:\n"
            f"{listing(list(scan.missing))}\n"
        )
    if spec.n_utterances not in (None, len(scan.utterances)):
        raise CorpusError(f"{spec.name} must have {spec.n_utterances} recordings. Found {len(scan.utterances)}.")


# Downloading


def download(archive: Archive, folder: Path, *, base_url: str | None = None, progress: bool = False) -> Path:
    """Return the archive in `folder`, downloaded unless it is there with the right hash.

    A connection that breaks is tried again; a wrong answer is not.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    url = archive.url if base_url is None else f"{base_url.rstrip('/')}/{archive.file}"
    http = pooch.HTTPDownloader(progressbar=progress, chunk_size=2**16)

    def get(url, output_file, _pooch) -> None:
        http(url, output_file, _pooch)
        check_size(archive, Path(output_file))

    if not (folder / archive.file).is_file():
        require_space(folder, archive.n_bytes)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(pooch.retrieve(url, archive.known_hash, fname=archive.file, path=folder, downloader=get))
        except (requests.RequestException, ValueError) as error:  # ValueError: pooch for a wrong hash, check_size
            if attempt == ATTEMPTS or not is_passing(error):
                raise refused(archive, url, error, attempt) from error
            time.sleep(PAUSE_S * attempt)
    raise AssertionError("the last attempt returns or raises")


def is_passing(error: Exception) -> bool:
    """Whether a failed download may succeed a moment later: a broken connection, a busy server."""
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError)


def check_size(archive: Archive, path: Path) -> None:
    """Raise where a download is not as long as it must be: a page in place of the archive, or a part of it."""
    import requests

    n_bytes = path.stat().st_size
    if n_bytes == archive.n_bytes:
        return
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise CorpusError(f"an HTML page of {n_bytes} bytes")
    if n_bytes < archive.n_bytes:
        raise requests.ConnectionError(f"it ended after {n_bytes} bytes")
    raise CorpusError(f"{n_bytes} bytes")


def refused(archive: Archive, url: str, error: Exception, attempts: int) -> CorpusError:
    """Return the error for an answer that is not the archive."""
    response = getattr(error, "response", None)
    received = str(error) if response is None else f"status {response.status_code} {response.reason}"
    times = f", {attempts} times" * (attempts > 1)
    return CorpusError(
        f"{url} must be {archive.file}, {archive.n_bytes} bytes, {archive.known_hash}. Received{times}: "
        f"{received.rstrip('.')}. Try again, check the network, or unpack the archive by hand. "
        f"Archives that are complete are kept."
    )


# Unpacking


@dataclass(frozen=True)
class Member:
    """What an archive says about one of its members; `fault` is why it cannot be a plain file or folder."""

    name: str
    n_bytes: int
    is_folder: bool
    fault: str = ""


def unpack(archive: Path, dest: Path, *, max_ratio: float = MAX_RATIO, max_bytes: int = MAX_BYTES) -> Path:
    """Unpack a zip or tar into the new folder `dest`, which appears whole or not at all.

    Raises
    ------
    CorpusError
        Before anything is written, if a member could land elsewhere than below `dest` under its own name, is no plain
        file or folder, or the whole would become larger than `max_bytes` or `max_ratio` times the archive.
    """
    dest = Path(dest).resolve()
    if os.path.lexists(dest) and not (dest.is_dir() and not any(dest.iterdir())):
        raise CorpusError(f"The folder to unpack into must be absent or empty. {dest} is neither. Choose another one.")
    with writing(dest.parent):
        dest.parent.mkdir(parents=True, exist_ok=True)
        with staging(dest.parent) as folder:
            extract(archive, folder, max_ratio=max_ratio, max_bytes=max_bytes)
            publish(folder, dest)
    return dest


def extract(archive: Path, folder: Path, *, max_ratio: float = MAX_RATIO, max_bytes: int = MAX_BYTES) -> None:
    """Check every member, then unpack them all into an existing folder, overwriting nothing."""
    with opened(archive) as file:
        limit = min(max_bytes, max_ratio * archive.stat().st_size)
        members = check_members(zip_members(file) if isinstance(file, zipfile.ZipFile) else tar_members(file), limit)
        require_space(folder, sum(member.n_bytes for member in members))
        for member in members:
            target = folder / member.name
            if not member.is_folder and os.path.lexists(target):
                raise CorpusError(f"{member.name!r} is in another archive of this corpus too")
        if isinstance(file, zipfile.ZipFile):
            file.extractall(folder)
        else:
            file.extractall(folder, filter="data")
        for member in members:
            if not member.is_folder and (folder / member.name).stat().st_size != member.n_bytes:
                raise CorpusError(f"{member.name!r} is not as long as the archive says")


@contextmanager
def opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """Open an archive by its content; whatever is wrong with it becomes one error with its path."""
    broken = (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        ValueError,
    )
    try:
        with zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive) as file:
            yield file
    except StorageError:
        raise
    except (*broken, OSError) as error:
        # Bad data make gzip and bz2 raise an OSError without a number, and zipfile seek to a negative place (EINVAL).
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise CorpusError(
            f"An archive must be a whole zip or tar with plain files and folders. {archive}: {error}. "
            f"Nothing was unpacked. Fetch it again from a source you trust."
        ) from error


def zip_members(file: zipfile.ZipFile) -> Iterator[Member]:
    """Yield the members of a zip."""
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # zero where the zip was not made on Unix
        fault = ""
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link or a device"
        elif info.flag_bits & 1:
            fault = "is encrypted"
        elif info.orig_filename != info.filename:
            fault = "has a NUL or a foreign separator in its name"
        yield Member(info.orig_filename, info.file_size, info.is_dir(), fault)


def tar_members(file: tarfile.TarFile) -> Iterator[Member]:
    """Yield the members of a tar as its headers are read."""
    for info in file:
        is_plain = info.isdir() or (info.isreg() and not info.issparse())
        yield Member(info.name, info.size, info.isdir(), "" if is_plain else "is a link, a device or sparse")


def check_members(members: Iterable[Member], limit: float) -> list[Member]:
    """Return the members if all of them are harmless; stop at the first that is not.

    The limit is checked as they come, so a bomb inside a compressed tar is not decompressed to its end.
    """
    checked: list[Member] = []
    places = {".": (".", False)}  # by what a careless file system makes of the name: as spelled, whether a file
    total = 0
    for member in members:
        total += member.n_bytes
        fault = member.fault or name_fault(member.name)
        if not fault and (total > limit or len(checked) >= MAX_MEMBERS):
            fault = f"makes the whole larger than {limit:.0f} bytes or {MAX_MEMBERS} members: a bomb"
        if not fault:
            fault = clash(member, places)
        if fault:
            raise CorpusError(f"member {member.name!r} {fault}")
        checked.append(member)
    return checked


def name_fault(name: str) -> str:
    """Return why a member's name is not a plain relative path on every system, or an empty string."""
    parts = name.split("/")
    if name.startswith("/") or ":" in name:
        return "has an absolute name, a drive letter or a colon"
    if ".." in parts:
        return "has '..' in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "has a control character or an undecodable byte in its name"
    if not name or any(len(part.encode()) > 255 for part in parts):
        return "has an empty name, or one that is too long"
    return ""


def clash(member: Member, places: dict[str, tuple[str, bool]]) -> str:
    """Return why a member or a folder above it would land on an earlier one, or an empty string; remember them."""
    path = PurePosixPath(member.name)
    for place in (*path.parents, path):
        key = unicodedata.normalize("NFC", str(place)).casefold()
        spelling, was_file = places.get(key, (str(place), False))
        is_file = place == path and not member.is_folder
        if spelling != str(place):
            return f"differs from {spelling!r} only in upper and lower case or in Unicode form"
        if key in places and (is_file or was_file):
            return "is there twice"
        places[key] = (spelling, is_file)
    return ""


# Files


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent` and remove it at the end, unless it was published."""
    outer = Path(tempfile.mkdtemp(prefix="unpack-", dir=parent))
    folder = outer / "content"  # made by mkdir: mkdtemp's is closed to other users
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def sweep(work: Path, keep: set[str]) -> None:
    """Remove what a killed fetch left half done."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep:
            path.unlink()


def publish(folder: Path, dest: Path) -> None:
    """Rename a finished folder to `dest`, which is absent or empty, and sync that to disk."""
    if dest.is_dir():
        dest.rmdir()
    os.rename(folder, dest)
    if os.name == "posix":
        handle = os.open(dest.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_space(folder: Path, n_bytes: int) -> None:
    """Raise before the work where it is plain that the disk will not hold the result."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise StorageError(
            f"{folder} must have room for {n_bytes} bytes. {free} are free. Make room, or use another disk."
        )


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one error with the folder's name."""
    try:
        yield
    except EmobenchError:
        raise
    except OSError as error:
        raise StorageError(
            f"{folder} must be writable and have room. {error.strerror or error}: {error.filename or 'while writing'}. "
            f"Make room, correct the permissions, or choose another folder. Archives that are complete are kept."
        ) from error

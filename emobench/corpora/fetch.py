"""Downloading a corpus: fetch archives, check them, unpack them aside, and rename the whole into place."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

from emobench.corpora import Archive, CorpusSpec
from emobench.errors import CorpusError, StorageError, listing
from emobench.files import hold, published, require_space, storage_errors
from emobench.registry import resolve

ATTEMPTS = 3


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
    work = dest.with_name(f"{dest.name}.fetch")
    with storage_errors(dest):
        if is_complete(spec, dest) and (keep_archive or not work.exists()):  # else a kill left the archives
            return dest
        lock = dest.with_name(f"{work.name}.lock")
        with hold(
            lock, refusal=f"{lock}: another process has fetched {spec.name} for an hour. End it.", timeout_s=3600
        ):
            if not is_complete(spec, dest):  # another process may just have made it so
                work.mkdir(exist_ok=True)
                _sweep(work, keep={row.file for row in spec.archives})
                archives = [download(row, work, base_url=base_url, progress=progress) for row in spec.archives]
                with published(dest) as folder:
                    for archive in archives:
                        unpack(archive, folder)
                    check_complete(spec, folder)
            if not keep_archive:
                shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # Windows keeps an open file
            lock.unlink()
    return dest


def _sweep(work: Path, keep: set[str]) -> None:
    """Remove what a killed download left half done."""
    for path in work.iterdir():
        if path.name not in keep:
            path.unlink()


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


def download(archive: Archive, folder: Path, *, base_url: str | None = None, progress: bool = False) -> Path:
    """Return the archive in `folder`, downloaded unless it is there with the right hash; pooch tries three times."""
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    url = archive.url if base_url is None else f"{base_url.rstrip('/')}/{archive.file}"
    lacking = [] if (folder / archive.file).is_file() else require_space({folder: archive.n_bytes})
    if lacking:
        raise StorageError(f"{folder}: not enough room for {archive.file}. {lacking[0]}.")
    fetcher = pooch.create(folder, "", registry={archive.file: archive.known_hash}, urls={archive.file: url})
    fetcher.retry_if_failed = ATTEMPTS - 1
    try:
        return Path(fetcher.fetch(archive.file, progressbar=progress))
    except (requests.RequestException, ValueError) as error:  # ValueError: pooch, for a wrong hash
        response = getattr(error, "response", None)
        received = str(error) if response is None else f"status {response.status_code} {response.reason}"
        raise CorpusError(
            f"{url}: not {archive.file} of {archive.n_bytes} bytes, {archive.known_hash}. Received {ATTEMPTS} times: "
            f"{received.rstrip('.')}. Try again, check the network, or unpack the archive by hand. "
            "Archives that are complete are kept."
        ) from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar, whose hash has matched, into an existing folder, overwriting nothing.

    Raises
    ------
    CorpusError
        Before anything is written, if a member has an absolute name, ``..`` in its name, or is neither a plain file nor
        a folder.
    """
    with _opened(archive) as file:
        members = _zip_members(file) if isinstance(file, zipfile.ZipFile) else _tar_members(file)
        for name, is_plain in members:
            path = PurePosixPath(name.replace("\\", "/"))
            if not is_plain or path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
                fault = "is absolute or has '..' in its name" if is_plain else "is a link or a device"
                raise CorpusError(f"{archive}: member {name!r} {fault}. Nothing was unpacked. Report this.")
            if (folder / path).is_file():
                raise CorpusError(f"{archive}: member {name!r} is in another archive of this corpus too. Report this.")
        file.extractall(folder) if isinstance(file, zipfile.ZipFile) else file.extractall(folder, filter="data")


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """Open an archive by its content."""
    try:
        with zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive) as file:
            yield file
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise CorpusError(f"{archive}: not a whole zip or tar: {error}. Delete it and fetch it again.") from error


def _zip_members(file: zipfile.ZipFile) -> Iterator[tuple[str, bool]]:
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # zero where the zip was not made on Unix
        yield info.orig_filename, kind in (0, stat.S_IFREG, stat.S_IFDIR)


def _tar_members(file: tarfile.TarFile) -> Iterator[tuple[str, bool]]:
    for info in file:
        yield info.name, info.isreg() or info.isdir()

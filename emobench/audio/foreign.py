"""What phones, browsers and cameras record, decoded by the program ffmpeg where it is there.

It is given nothing but a private copy of the bytes, and told what they are: it guesses no format, so that no playlist
and no list of files is ever followed, and may open files only, so that no network is. Its version is part of the clip
id of what it decodes, as other versions may give other samples.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from emobench.audio.containers import bytes_at, end_of_tag, read_chunks, read_pages, size_of
from emobench.audio.damage import MOST_SAMPLES, check_container, conversion_line
from emobench.errors import AudioError, StorageError

TIME_LIMIT_S = 60.0
MOST_BYTES = 2**30  # of a file that is given to ffmpeg
_MOST_DECODED = 4 * MOST_SAMPLES + 2**20  # beyond what may be read
_COPY = "recording"

# Of damage, what ffmpeg mentions without failing.
_MISSING = re.compile(r"prematurely|partial file|truncat|mismatch|invalid data", re.IGNORECASE)


@dataclass(frozen=True)
class Foreign:
    """A format that libsndfile does not read: how it begins, and what ffmpeg calls it."""

    start: re.Pattern[bytes]
    demuxer: str
    title: str


def _row(start: bytes, demuxer: str, title: str) -> Foreign:
    return Foreign(re.compile(start, re.DOTALL), demuxer, title)


FORMATS = (
    _row(rb"....(ftyp|moov|mdat|wide)", "mov", "MPEG-4"),
    _row(rb"\x1a\x45\xdf\xa3", "matroska", "WebM"),
    _row(rb"#!AMR(-WB)?\n", "amr", "AMR"),
    _row(rb"\xff[\xf0\xf1\xf8\xf9]", "aac", "AAC"),
    _row(rb"OggS.{24}(Speex   |\x7fFLAC|\x80theora|fishead\0)", "ogg", "OGG"),
    _row(rb"caff.{24}(aac |ima4|opus)", "caf", "CAF"),
    _row(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf", "WMA"),
    _row(rb"RIFF....AVI ", "avi", "AVI"),
    _row(rb"G.{187}G.{187}G", "mpegts", "MPEG-TS"),
    _row(rb"\0\0\x01\xba", "mpeg", "MPEG-PS"),
    _row(rb"wvpk", "wv", "WavPack"),
    _row(rb"MAC ", "ape", "Monkey's Audio"),
    _row(rb"TTA1", "tta", "True Audio"),
)

_CODECS = {
    **{b"mp4a": "AAC", b"alac": "ALAC", b"samr": "AMR-NB", b"sawb": "AMR-WB", b"Opus": "Opus", b"fLaC": "FLAC"},
    **{b"A_OPUS": "Opus", b"A_VORBIS": "Vorbis", b"A_AAC": "AAC", b"A_FLAC": "FLAC", b"A_MPEG": "MPEG audio"},
    **{b"Speex   ": "Speex", b"\x7fFLAC": "FLAC", b"\x01vorbis": "Vorbis", b"#!AMR-WB": "AMR-WB", b"#!AMR": "AMR-NB"},
}
_CODEC = re.compile(b"|".join(re.escape(name) for name in _CODECS))


def recognise(file: BinaryIO) -> Foreign | None:
    """Return the format of a file that libsndfile does not read and ffmpeg does; None for any other file."""
    head = bytes_at(file, 0, 377)
    if head.startswith(b"ID3"):
        head = bytes_at(file, end_of_tag(file, 0), 2)
    return next((row for row in FORMATS if row.start.match(head)), None)


def decoder() -> str:
    """Return name and version of the decoder of foreign formats, as it enters the ids of their clips."""
    return f"ffmpeg {_version(_program())}"


def _program() -> str | None:
    found = shutil.which("ffmpeg")
    return found and os.path.abspath(found)


@lru_cache(maxsize=4)
def _version(program: str | None) -> str:
    if program is None:
        return "absent"
    command = [program, "-nostdin", "-version"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True)
        words = done.stdout.decode("utf-8", "replace").split()
        if words[:2] == ["ffmpeg", "version"]:
            return words[2]
    return "unknown"


@contextmanager
def converted(file: BinaryIO, found: Foreign, path: Any, max_duration_s: float | None = None) -> Iterator[BinaryIO]:
    """Open what ffmpeg makes of a recording: 32-bit floating point at its own rate, with all its channels.

    Parameters
    ----------
    max_duration_s : float, optional
        Not much more than this is decoded.

    Raises
    ------
    AudioError
        If there is no ffmpeg, or it fails, takes too long or finds no sound.
    StorageError
        If the copy cannot be written.
    """
    check_container(read_chunks(file) or read_pages(file), "", path, is_linear=False)  # of a cut, ffmpeg says nothing
    size = size_of(file)
    if size > MOST_BYTES:
        raise AudioError(path, f"must have at most {MOST_BYTES} B. It has {size}. {_advice(path)}")
    program = _program()
    if program is None:
        raise AudioError(
            path,
            f"holds {_codec(file, found)}, which needs ffmpeg, and ffmpeg is not installed. Install it "
            f"(apt install ffmpeg), or convert the recording elsewhere: `{conversion_line(path)}`.",
        )
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="emobench-"))
            file.seek(0)
            with open(Path(folder, _COPY), "wb") as copy:
                shutil.copyfileobj(file, copy, 2**20)
        except OSError as error:
            raise StorageError(
                f"A copy of {path} for ffmpeg cannot be written. The system says: {error.strerror}. "
                "Free some space, or set TMPDIR to another folder."
            ) from error
        command = [program, "-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", "-threads", "1"]
        command += ["-protocol_whitelist", "file", "-f", found.demuxer, "-i", _COPY, "-vn", "-sn", "-dn"]
        if max_duration_s is not None:
            command += ["-t", f"{max_duration_s + 1:.3f}", "-fs", str(_MOST_DECODED)]
        _run([*command, "-threads", "1", "-c:a", "pcm_f32le", "-f", "wav", "-rf64", "auto", "decoded"], folder, path)
        yield stack.enter_context(open(Path(folder, "decoded"), "rb"))


def _run(command: list[str], folder: str, path: Any) -> None:
    log = Path(folder, "log")
    with open(log, "wb") as errors:
        try:
            # A group of its own, so that whatever ffmpeg started ends with it; not pipes, which that could keep open.
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise AudioError(path, f"ffmpeg cannot be started. The system says: {error.strerror}.") from None
        status: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(TIME_LIMIT_S)
        finally:
            if status is None:
                _kill(process)
    if status is None:
        raise AudioError(path, f"ffmpeg did not decode it in {TIME_LIMIT_S:g} s and was ended. {_advice(path)}")
    text = log.read_bytes()[-10_000:].decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip() and "Last message repeated" not in line]
    if "does not contain any stream" in text:
        raise AudioError(path, f"must hold sound. ffmpeg says: {_sentence(lines)}. Remove it or name a recording.")
    if status or _MISSING.search(text) or not Path(folder, "decoded").exists():
        raise AudioError(path, f"must decode to its end. ffmpeg says: {_sentence(lines)}. Copy or download it again.")


def _advice(path: Any) -> str:
    return f"Convert it: `{conversion_line(path)}`."


def _sentence(lines: list[str]) -> str:
    """Return ffmpeg's last line without the address of what says it."""
    line = lines[-1] if lines else "nothing"
    line = re.sub(r"^\[(.+?) @ 0x[0-9a-f]+\]", r"\1:", line.removeprefix(f"{_COPY}: "))
    return "".join(char if char.isprintable() else " " for char in line).strip().rstrip(".")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, 9)
        else:
            process.kill()
    process.wait()


def _codec(file: BinaryIO, found: Foreign) -> str:
    """Return what a file holds, as people call it, as far as one can tell without ffmpeg."""
    size = size_of(file)
    ends = bytes_at(file, 0, 2**20) + (bytes_at(file, max(0, size - 2**20), 2**20) if size > 2**20 else b"")
    if found.demuxer == "mov":  # names of codecs stand in the tables of tracks; elsewhere they are chance
        ends = b"".join(ends[match.end() : match.end() + 16] for match in re.finditer(b"stsd", ends))
    match = _CODEC.search(ends)
    return f"{_CODECS[match[0]]} ({found.title})" if match else found.title

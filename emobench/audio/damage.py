"""What is wrong with a recording, and how it is said."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np

from emobench.audio import AudioPolicy
from emobench.audio.containers import FRAME_SAMPLES, Chunks, Container, Frames, Pages
from emobench.errors import AudioError

# Formats that a file of this suffix has, as libsndfile or `foreign` call them; anything else deserves a remark.
_FORMATS_OF_SUFFIX = {
    ".wav": {"WAV", "WAVEX", "RF64"},
    ".flac": {"FLAC"},
    ".ogg": {"OGG"},
    ".mp3": {"MP3"},
    ".aiff": {"AIFF"},
    ".aif": {"AIFF"},
    ".w64": {"W64"},
    ".rf64": {"RF64"},
    ".aac": {"AAC", "MPEG-4"},
    ".amr": {"AMR"},
    ".webm": {"WebM"},
    **{suffix: {"MPEG-4"} for suffix in (".m4a", ".mp4", ".mov", ".3gp")},
}
SILENCE = "nothing but digital silence"
_NO_SAMPLES = "must hold samples. The header is valid and there are no samples. Copy it again."
_FULL_SCALE = 0.999
_LOUDEST = 8.0  # 18 dB beyond full scale: what mixing and coding of loud sound stay below
_LEAST_INTEGER = 256
_INTEGER_SCALES = (2**15, 2**23, 2**31)
_HEADER_SIZE = re.compile(r"^\s*([\w ]+?)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_SUBFORMAT = re.compile(r"^ +format : (?!pcm)(.+)$", re.MULTILINE)
# By how much common writers get the size of the whole file wrong, while that of the samples is right: the pad byte is
# not counted, or the eight bytes of the marker are.
_HARMLESS_EXCESS = (1, 8)


def unreadable_reason(head: bytes, error: Exception, path: Any) -> str:
    start = head.lstrip()[:200].lower()
    if start.startswith(b"version https://git-lfs"):
        return "must hold a recording. It is a Git LFS pointer. Run `git lfs pull` in the corpus's repository."
    if start.startswith((b"<html", b"<!doctype", b"<?xml")):
        return "must hold a recording. It is a web page, probably of a failed download. Download it again."
    if start.startswith(b"\x89png") or start.startswith(b"\xff\xd8\xff"):
        return "must hold a recording. It is a picture. Remove it or name a recording."
    if head and all(byte in b"\t\n\r\f\x1b" or byte >= 32 for byte in head) and _is_text(head):
        return "must hold a recording. It is text. Copy or download the recording again."
    if head.startswith((b"ID3", b"\xff")) and ("not recogni" in str(error) or "possibly a pipe" in str(error)):
        return (
            "must hold MPEG audio. It starts like an MP3 and no whole stream follows: it is cut short, or the size of "
            "its ID3 tag is wrong. Copy or download it again."
        )
    if isinstance(error, TypeError) or "not recogni" in str(error):
        return (
            "must be in a format that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF). Its content is none of them. "
            "Convert it or copy it again."
        )
    if "unimplemented format" in str(error) or "unsupported encoding" in str(error):
        return (
            f"must have a valid header, of an encoding that libsndfile reads. {sentence_of(error)} "
            f"Convert it: `{conversion_line(path)}`."
        )
    return f"must have a whole, valid header. {sentence_of(error)} Copy or download it again."


def conversion_line(path: str | os.PathLike[str]) -> str:
    """Return the command that converts a recording to WAV, quoted so that it can be pasted into a shell."""
    source = os.fspath(path)
    if not os.path.isabs(source) and (source.startswith("-") or ":" in source):
        source = os.path.join(".", source)  # not an option, nor the name of a protocol
    stem, suffix = os.path.splitext(source)
    target = stem + ("-converted.wav" if suffix.lower() == ".wav" else ".wav")
    return f"ffmpeg -i {_quoted(source)} {_quoted(target)}"


def _quoted(text: str) -> str:
    if text.isprintable():
        return "'" + text.replace("'", "'\\''") + "'"
    plain = {*range(0x20, 0x7F)} - {*b"'\\"}
    return "$'" + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(text)) + "'"


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4
    return True


def sentence_of(error: Exception) -> str:
    """Return libsndfile's own words as one sentence without the object's address."""
    text = re.sub(r"^Error opening .*?: ", "", str(error).replace("\n", " ")).strip().rstrip(".")
    return f"libsndfile says: {text or type(error).__name__}."


def check_container(container: Container | None, log: str, path: Any, *, is_linear: bool) -> None:
    """Refuse a file that has fewer samples, or others, than its container states.

    Parameters
    ----------
    log : str
        What libsndfile wrote down while it parsed a container that is left to it. Of the others it is not asked: what
        it finds odd is mostly in order.
    is_linear : bool
        Whether it takes the samples for plain numbers.
    """
    if isinstance(container, Pages):
        _check_pages(container, path)
    elif isinstance(container, Frames):
        _check_frames(container, path)
    elif isinstance(container, Chunks):
        _check_chunks(container, path)
    if container is None or (isinstance(container, Chunks) and not container.data_at):
        _check_log(log, path, is_linear)


def _check_chunks(chunks: Chunks, path: Any) -> None:
    stated = [("data", chunks.data, chunks.actual)] if chunks.data_at and not chunks.is_unknown else []
    excess = chunks.form + 8 - chunks.n_bytes
    if not chunks.is_form_unknown and excess not in _HARMLESS_EXCESS:
        stated.append((chunks.kind.decode(), chunks.form, chunks.n_bytes - 8))
    for chunk, size, actual in stated:
        if size > actual:
            raise AudioError(
                path,
                f"truncated: its header ({chunk}) says {size} B, the file has {actual}. Copy or download it again.",
            )
    if chunks.data_at and not chunks.data and not chunks.is_unknown:
        raise AudioError(path, _NO_SAMPLES)
    expected = chunks.n_channels * -(-chunks.n_bits // 8)
    size = chunks.n_unknown if chunks.is_unknown else chunks.data
    if chunks.is_linear and chunks.align != expected:
        complaint = (
            f"{chunks.n_channels} channels of {chunks.n_bits} bit take {expected} B a sample, it says {chunks.align}."
        )
    elif chunks.is_linear and size % chunks.align and not (size % chunks.align == 1 and size % 2 == 0):  # a pad byte
        even = "an even number of bytes, " if chunks.align % 2 == 0 else ""
        complaint = f"Whole samples take {even}a multiple of {chunks.align}; there are {size} B."
    elif not chunks.is_last:
        complaint = f"Unknown chunk marker at byte {chunks.data_at + size}: more samples seem to follow."
    else:
        return
    raise AudioError(
        path,
        f"its header must agree with its data ({chunks.data} B by the header). {complaint} Copy or download it again.",
    )


def _check_pages(pages: Pages, path: Any) -> None:
    """Refuse an Ogg stream with a page cut or damaged: libsndfile leaves it out and says nothing."""
    if pages.damaged_at is not None:
        raise AudioError(path, f"damaged: the page at byte {pages.damaged_at} has another checksum. Copy it again.")
    if not pages.is_ended:
        raise AudioError(path, "truncated: the stream ends before its last page. Copy or download it again.")
    if pages.n_streams > 1:
        raise AudioError(
            path,
            f"must be one recording. It is {pages.n_streams} one after another, of which only the first would be "
            f"read. Join them: `{conversion_line(path)}`.",
        )


def _check_frames(frames: Frames, path: Any) -> None:
    """Refuse an MP3 shorter than its first frame says: libmpg123 decodes what there is and only warns on stderr."""
    size, count = frames.stated_bytes or 0, frames.stated or 0
    most = frames.n_frames + (not frames.n_foreign)  # some encoders count the first frame too
    if size > frames.n_bytes or count > most:
        says, has = (
            (f"{size} B", f"{frames.n_bytes}") if size > frames.n_bytes else (f"{count} frames", f"{frames.n_frames}")
        )
        raise AudioError(
            path, f"truncated: its first frame says {says}, the file has {has}. Copy or download it again."
        )


def _check_log(log: str, path: Any, is_linear: bool) -> None:
    sizes = _HEADER_SIZE.findall(log) if "(should be " in log else ()  # slow, and nearly always for nothing
    short = [(chunk.strip(), stated, actual) for chunk, stated, actual in sizes if int(stated) > int(actual)]
    if short:
        chunk, stated, actual = short[-1]  # the innermost: of the samples, where they are cut
        raise AudioError(
            path,
            f"truncated: its header ({chunk}) says {stated} B, the file has {actual}. Copy or download it again.",
        )
    if is_linear and (coding := _SUBFORMAT.search(log)):  # of a W64: libsndfile takes each for PCM, and reads noise
        raise AudioError(path, f"holds {coding[1]}, which libsndfile misreads. Convert it: `{conversion_line(path)}`.")
    for line in log.splitlines():
        if line.startswith("***") and "(unknown marker)" not in line:
            raise AudioError(
                path,
                f"its header must agree with its data. libsndfile says: {line.strip('* .')}. "
                "Copy or download it again.",
            )


def remarks_on_length(container: Container | None, duration_s: float | None, *, is_stated: bool) -> tuple[str, ...]:
    """Return what deserves a remark about how long a recording is said to be.

    Parameters
    ----------
    duration_s : float or None
        How much of it was read, where that is known.
    is_stated : bool
        Whether libsndfile found a number of samples.
    """
    if isinstance(container, Frames):
        n = container.n_foreign
        return (f"{n} B between its frames are no MPEG audio, and were left out",) if n else ()
    if is_stated and not getattr(container, "is_unknown", False):
        return ()
    is_open = isinstance(container, Chunks) and container.data == 0
    cause = "its writer never closed the file" if is_open else "length unknown"
    return (f"{cause}: read to the end" + (f", {duration_s:.4g} s" if duration_s is not None else ""),)


def check_n_samples(n_samples: int, path: Any) -> None:
    if n_samples > MOST_SAMPLES:
        raise AudioError(
            path,
            f"must decode to at most {MOST_SAMPLES} samples over all channels. Its header says {n_samples}. "
            "Cut it, or lower its rate.",
        )


def check_n_decoded(n_samples: int, promised: int | None, path: Any, *, is_mpeg: bool) -> None:
    if promised is not None and n_samples < promised - (2 * FRAME_SAMPLES if is_mpeg else 0):
        raise AudioError(
            path,
            f"truncated: its header says {promised} samples, {n_samples} could be decoded. Copy or download it again.",
        )


def check_finite(samples: np.ndarray, path: Any) -> None:
    """Refuse samples (n_samples, …) of which one is NaN or infinite; name the first."""
    if not np.isfinite(samples).all():
        bad = np.flatnonzero(~np.isfinite(samples).reshape(len(samples), -1).all(axis=1))
        raise AudioError(
            path,
            f"every sample must be finite. {len(bad)} are NaN or infinite, the first at index {bad[0]}. "
            "Repair or remove the recording.",
        )


def check_peak(low: float, high: float, path: Any) -> None:
    """Refuse floating-point samples so far beyond full scale ±1 that they are no sound, or integers kept as floats."""
    peak = max(-low, high)
    if peak < _LOUDEST:
        return
    full_scale = next((scale for scale in _INTEGER_SCALES if peak <= scale), 0) if peak >= _LEAST_INTEGER else 0
    hint = f"Are these integers saved as float? Divide by {full_scale:,}." if full_scale else "Scale it to ±1."
    raise AudioError(path, f"samples must be within full scale ±1. They reach {peak:,.6g}. {hint}")


def check_duration(duration_s: float, path: Any, policy: AudioPolicy, *, n_samples: int | None = None) -> None:
    if n_samples == 0:
        raise AudioError(path, _NO_SAMPLES)
    if duration_s < policy.min_duration_s:
        raise AudioError(
            path,
            f"must last at least {policy.min_duration_s:g} s. It lasts {duration_s:.4g} s. "
            "Remove it or lower audio.min_duration_s.",
        )
    if duration_s > policy.max_duration_s:
        raise AudioError(
            path,
            f"must last at most {policy.max_duration_s:g} s. Its header says {duration_s:.4g} s. "
            "Cut it or raise audio.max_duration_s.",
        )


def extremes_of(signal: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest number of a signal; where it comes from integers, they say it sooner."""
    if samples.dtype == np.int16 and samples.shape[1] == 1:
        return float(samples.min() / STEPS_16_BIT), float(samples.max() / STEPS_16_BIT)
    return float(signal.min()), float(signal.max())


def remarks_on_signal(signal: np.ndarray, extremes: tuple[float, float], container: str, path: Any) -> tuple[str, ...]:
    remarks = []
    expected = _FORMATS_OF_SUFFIX.get(Path(path).suffix.lower())
    if expected and container not in expected:
        remarks.append(f"its name says {Path(path).suffix[1:]}, its content is {container}")
    low, high = extremes
    if low == high == 0.0:
        remarks.append(SILENCE)
    elif low == high:
        remarks.append("a constant value, no sound")
    elif max(-low, high) >= _FULL_SCALE and np.count_nonzero(np.abs(signal) >= _FULL_SCALE) > len(signal) // 1000:
        remarks.append("clipped (more than 1 in 1000 samples at full scale)")
    return tuple(remarks)


def kind_of_file(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((text for test, text in kinds if test(mode)), "something else")


def os_reason(error: OSError) -> str:
    reasons = {
        errno.ENOENT: "must exist. There is no such file. Check the path.",
        errno.ENOTDIR: "must exist. A part of the path is not a folder. Check the path.",
        errno.ELOOP: "must be a file. It is a symbolic link that leads to itself. Remove the link.",
        errno.EACCES: "must be readable. Permission denied. Change its permissions (chmod) or run as its owner.",
        errno.EPERM: "must be readable. Permission denied. Change its permissions (chmod) or run as its owner.",
        errno.ENAMETOOLONG: "must be a path. The name is too long for this file system. Check the path.",
    }
    return reasons.get(error.errno or 0, f"must be readable. The system says: {error.strerror}. Check the disk.")


MOST_SAMPLES = 2**30  # over all channels: 4 GiB decoded, whatever a small file promises
STEPS_16_BIT = np.float32(2**15)

"""What is wrong with a recording, and how it is said."""

from __future__ import annotations

import errno
import re
import stat
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from emobench.audio import AudioPolicy
from emobench.errors import AudioError

# Formats that libsndfile reports for a file of this suffix; anything else deserves a remark.
_FORMATS_OF_SUFFIX = {
    ".wav": {"WAV", "WAVEX", "RF64"},
    ".flac": {"FLAC"},
    ".ogg": {"OGG"},
    ".mp3": {"MP3"},
    ".aiff": {"AIFF"},
    ".aif": {"AIFF"},
    ".w64": {"W64"},
    ".rf64": {"RF64"},
}
SILENCE = "nothing but digital silence"
_FULL_SCALE = 0.999
_HEADER_SIZE = re.compile(r"^\s*([\w ]+?)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_HEADER_FIELD = re.compile(r"^\s*([\w ]+?)\s*:\s*(\d+)", re.MULTILINE)
_UNKNOWN_LENGTH = {0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x7FFFFFFF - 36}  # what streaming writers put for a size
# Sizes of whole files that common writers get wrong, while the size of the samples is right: the pad byte is not
# counted, or the eight bytes of the marker are.
_WHOLE_FILE = {"RIFF", "FORM"}
_HARMLESS_EXCESS = (1, 8)
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def unreadable_reason(head: bytes, error: Exception) -> str:
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
    return f"must have a whole, valid header. {sentence_of(error)} Copy or download it again."


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


def check_header(log: str, frames: int, path: Any, *, is_linear: bool) -> None:
    """Refuse a file whose header and content disagree, by what libsndfile wrote down while it parsed them."""
    stated_sizes = _HEADER_SIZE.findall(log) if "(should be " in log else ()  # slow, and nearly always for nothing
    short = [
        (chunk.strip(), int(stated), int(actual))
        for chunk, stated, actual in stated_sizes
        if int(stated) > int(actual) and int(stated) not in _UNKNOWN_LENGTH
    ]
    short = [row for row in short if not (row[0] in _WHOLE_FILE and row[1] - row[2] in _HARMLESS_EXCESS)]
    if short:
        chunk, stated, actual = short[-1]  # the innermost: of the samples, where they are cut
        raise AudioError(
            path,
            f"truncated: its header ({chunk}) says {stated} B, the file has {actual}. Copy or download it again.",
        )
    complaint = _contradiction(log, is_linear)
    if complaint:
        raise AudioError(
            path,
            f"its header must agree with its data ({frames} samples by the header). {complaint} "
            "Copy or download it again.",
        )


def _contradiction(log: str, is_linear: bool) -> str:
    """Return how a header contradicts itself or what follows it, or nothing."""
    fields = {name: int(value) for name, value in reversed(_HEADER_FIELD.findall(log))}
    size, align = fields.get("data", 0), fields.get("Block Align", 1)
    if is_linear and {"Block Align", "Channels", "Bit Width"} <= fields.keys():
        expected = fields["Channels"] * -(-fields["Bit Width"] // 8)
        if align != expected:
            return (
                f"{fields['Channels']} channels of {fields['Bit Width']} bit take {expected} B a sample, "
                f"it says {align}."
            )
    for line in log.splitlines():
        # Chunks of other programs, the pad byte of an odd size, and the last block of GSM are in order.
        is_in_order = "(unknown marker)" in line or "data chunk seems to be truncated" in line
        if "even number of bytes" in line:
            is_in_order = size in _UNKNOWN_LENGTH or size % max(align, 1) == 0
        if line.startswith("***") and not is_in_order:
            return f"libsndfile says: {line.strip('* .')}."
    return ""


def check_ogg(data: bytes, path: Any) -> None:
    """Refuse an Ogg stream with a page cut or damaged: libsndfile leaves it out and says nothing."""
    position, is_last = 0, True
    while data.startswith(b"OggS", position):
        body = position + 27 + (data[position + 26] if position + 26 < len(data) else 0)
        end = body + sum(data[position + 27 : body])
        if max(body, end) > len(data):
            is_last = False
            break
        page = data[position : position + 22] + bytes(4) + data[position + 26 : end]
        if ogg_checksum(page) != int.from_bytes(data[position + 22 : position + 26], "little"):
            raise AudioError(path, f"damaged: the page at byte {position} has another checksum. Copy it again.")
        is_last = bool(data[position + 5] & 4)
        position = end
    if not is_last:
        raise AudioError(path, "truncated: the stream ends before its last page. Copy or download it again.")


def ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of RFC 3533, which runs through the bits of a byte the other way round than zlib's."""
    mirrored = zlib.crc32(page.translate(_BITS_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def check_xing(data: bytes, path: Any) -> None:
    """Refuse an MP3 shorter than its first frame says: mpg123 decodes what there is and only warns on stderr."""
    if not data.startswith((b"ID3", b"\xff")):
        return
    start = 0
    if data.startswith(b"ID3"):
        start = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=False))
    for name in (b"Xing", b"Info"):
        position = data.find(name, start, start + 64)
        flags = int.from_bytes(data[position + 4 : position + 8], "big")
        if position < 0 or not flags & 2:
            continue
        field = position + 8 + 4 * (flags & 1)
        stated, actual = int.from_bytes(data[field : field + 4], "big"), len(data) - start
        if stated > actual:
            raise AudioError(
                path, f"truncated: its first frame says {stated} B, the file has {actual}. Copy or download it again."
            )


def check_n_samples(n_samples: int, path: Any) -> None:
    if n_samples > MOST_SAMPLES:
        raise AudioError(
            path,
            f"must decode to at most {MOST_SAMPLES} samples over all channels. Its header says {n_samples}. "
            "Cut it, or lower its rate.",
        )


def check_samples(samples: np.ndarray, promised: int, container: str, path: Any) -> None:
    slack = 2 * MP3_FRAME if container == "MP3" else 0
    if len(samples) < promised - slack:
        raise AudioError(
            path,
            f"truncated: its header says {promised} samples, {len(samples)} could be decoded. "
            "Copy or download it again.",
        )
    if samples.dtype.kind == "f":
        check_finite(samples, path)


def check_finite(samples: np.ndarray, path: Any) -> None:
    """Refuse samples (n_samples, …) of which one is NaN or infinite; name the first."""
    if not np.isfinite(samples).all():
        bad = np.flatnonzero(~np.isfinite(samples).reshape(len(samples), -1).all(axis=1))
        raise AudioError(
            path,
            f"every sample must be finite. {len(bad)} are NaN or infinite, the first at index {bad[0]}. "
            "Repair or remove the recording.",
        )


def check_duration(duration_s: float, path: Any, policy: AudioPolicy, *, n_samples: int | None = None) -> None:
    if n_samples == 0:
        raise AudioError(path, "must hold samples. The header is valid and there are no samples. Copy it again.")
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


def remarks_on_signal(
    signal: np.ndarray, extremes: tuple[float, float], container: str, path: Any, policy: AudioPolicy
) -> tuple[str, ...]:
    remarks = []
    expected = _FORMATS_OF_SUFFIX.get(Path(path).suffix.lower())
    if expected and container not in expected:
        remarks.append(f"its name says {Path(path).suffix[1:]}, its content is {container}")
    low, high = extremes
    if low == high == 0.0:
        if policy.max_silence == "reject":
            raise AudioError(path, "must hold sound (audio.max_silence: reject). Every sample is zero. Remove it.")
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
MP3_FRAME = 1152

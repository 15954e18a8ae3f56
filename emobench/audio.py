"""From a file, or its bytes, to a mono float32 signal at a given rate.

Every complaint about a recording is made here, once, with its path and what to do. libsndfile reads truncated WAV
files without an error, so its own log of the header is read as well as its samples.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import struct
import threading
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emobench.errors import AudioError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".w64", ".rf64")

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
_RATES_HZ = (1_000, 768_000)
_READ_AT_ONCE = 64 * 2**20  # larger files have their header checked before they are read
_MOST_SAMPLES = 2**30  # over all channels: 4 GiB decoded, whatever a small file promises
SILENCE = "nothing but digital silence"
_FULL_SCALE = 0.999
_STEPS_16_BIT = np.float32(2**15)
_MP3_FRAME = 1152

_HEADER_SIZE = re.compile(r"^\s*([\w ]+?)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_HEADER_FIELD = re.compile(r"^\s*([\w ]+?)\s*:\s*(\d+)", re.MULTILINE)
_UNKNOWN_LENGTH = {0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x7FFFFFFF - 36}  # what streaming writers put for a size
# Sizes of whole files that common writers get wrong, while the size of the samples is right: the pad byte is not
# counted, or the eight bytes of the marker are.
_WHOLE_FILE = {"RIFF", "FORM"}
_HARMLESS_EXCESS = (1, 8)
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class AudioPolicy:
    """What recordings a run accepts and how several channels become one.

    Attributes
    ----------
    mono : {"mean", "first", "error"}
        Applied before resampling, as `librosa.load` does.
    min_duration_s, max_duration_s : float
        Bounds of a recording's length.
    max_silence : {"accept", "reject"}
        Whether a recording that is nothing but digital silence is accepted, with a warning.
    """

    mono: Literal["mean", "first", "error"] = "mean"
    min_duration_s: float = 0.1
    max_duration_s: float = 3600.0
    max_silence: Literal["accept", "reject"] = "accept"


@dataclass(frozen=True)
class Audio:
    """A decoded recording.

    Attributes
    ----------
    signal : float32 array of shape (n_samples,)
        Mono, at the native rate, full scale ±1.
    sr : int
        Native sampling rate in Hz.
    clip : str
        SHA-256 of the file's bytes.
    content : str
        SHA-256 of the decoded samples, all channels, as a plain WAV file: equal for a WAV and its FLAC, and for the
        same samples of 16 bit kept as floating point.
    warnings : tuple of str
        What deserves a remark: silence, clipping, a name that belies the content.
    """

    signal: np.ndarray
    sr: int
    clip: str
    content: str
    warnings: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        return len(self.signal) / self.sr


def read_audio(path: str | os.PathLike[str], policy: AudioPolicy = AudioPolicy()) -> Audio:
    """Read a recording once: the bytes that are hashed are the bytes that are decoded.

    Raises
    ------
    AudioError
        If the file is not a readable recording that the policy accepts.
    """
    return decode(read_bytes(path, policy), path=path, policy=policy)


def read_bytes(path: str | os.PathLike[str], policy: AudioPolicy = AudioPolicy()) -> bytes:
    """Return a recording's bytes, or raise `AudioError`; never blocks on a pipe or a device."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise AudioError(path, "must hold a recording. The file is empty (0 bytes). Copy or download it again.")
        try:
            if size > _READ_AT_ONCE:
                _check_size(file, size, path, policy)
            return file.read()
        except OSError as error:
            raise AudioError(path, _os_reason(error)) from None


def _check_size(file: io.BufferedReader, size: int, path: Any, policy: AudioPolicy) -> None:
    """Refuse a large file that is no recording or too long a one, from its header alone."""
    head = file.read(512)
    file.seek(0)
    with open_sound(file, path, head) as sound:
        _check_duration(sound.frames / sound.samplerate, path, policy)
        _check_n_samples(sound.frames * sound.channels, path)
        most = 8 * sound.frames * sound.channels + _READ_AT_ONCE
    if size > most:
        raise AudioError(
            path, f"must hold its recording and little else. It has {size} B, its header explains {most}. Cut it."
        )
    file.seek(0)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file for reading, or raise `AudioError` with a reason a person understands."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise AudioError(path, _os_reason(error)) from None
    except ValueError:  # an embedded NUL
        raise AudioError(repr(str(path)), "must be a path. It holds a NUL character. Check the name.") from None
    if not stat.S_ISREG(mode):
        raise AudioError(path, f"must be a regular file. It is {_kind(mode)}. Remove it or name a recording.")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise AudioError(path, _os_reason(error)) from None
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise AudioError(path, "must be a regular file. It was replaced by something else while it was opened.")
    return file


def decode(
    data: bytes,
    *,
    path: str | os.PathLike[str] = "<bytes>",
    policy: AudioPolicy = AudioPolicy(),
    clip: str | None = None,
) -> Audio:
    """Decode the bytes of a recording.

    Parameters
    ----------
    data : bytes
        A file of any format that libsndfile reads.
    path : path
        Only named in messages and compared with the content's format.
    clip : str, optional
        The bytes' hash, where it is known.

    Raises
    ------
    AudioError
        If the bytes are no recording, are cut short, or break the policy.
    """
    if not data:
        raise AudioError(path, "must hold a recording. The file is empty (0 bytes). Copy or download it again.")
    samples, sr, container = _view_plain_wav(data) or _read_samples(data, path, policy)
    _check_duration(len(samples) / sr, path, policy, n_samples=len(samples))
    _check_n_samples(samples.size, path)
    signal = to_mono(_to_float(samples), path, policy)
    if samples.dtype.kind == "f":
        check_finite(signal, path)  # the sum of finite channels can overflow
    remarks = _remarks(signal, _extremes(signal, samples), container, path, policy)
    clip = clip or hash_bytes(data)
    return Audio(signal, sr, clip, _content_hash(samples, sr, data, clip), remarks)


def _view_plain_wav(data: bytes) -> tuple[np.ndarray, int, str] | None:
    """Return samples, rate and format of a plain WAV of 16 bit, which most recordings are; None for any other file.

    Its 44 bytes of header follow from what comes after them, so it is whole where they are as they must be. libsndfile
    reads the same, and takes a tenth of the whole time of an extraction for it.
    """
    if len(data) <= 44:
        return None
    n_channels, sr = struct.unpack_from("<HI", data, 22)
    if n_channels not in (1, 2) or not _RATES_HZ[0] <= sr <= _RATES_HZ[1] or (len(data) - 44) % (2 * n_channels):
        return None
    samples = np.frombuffer(data, "<i2", offset=44).reshape(-1, n_channels)
    return (samples.astype(np.int16, copy=False), sr, "WAV") if data.startswith(_wav_header(samples, sr)) else None


def _read_samples(data: bytes, path: Any, policy: AudioPolicy) -> tuple[np.ndarray, int, str]:
    """Return samples, rate and format of a file that libsndfile reads, or raise `AudioError`."""
    import soundfile

    _check_ogg(data, path)
    _check_xing(data, path)
    with open_sound(io.BytesIO(data), path, data[:512]) as sound:
        sr, promised, container = sound.samplerate, sound.frames, sound.format
        if not _RATES_HZ[0] <= sr <= _RATES_HZ[1]:
            raise AudioError(
                path, f"sampling rate must be within {_RATES_HZ[0]}–{_RATES_HZ[1]} Hz. The header says {sr}. Mend it."
            )
        check_header(sound.extra_info, promised, path, is_linear=sound.subtype.startswith(("PCM_", "FLOAT", "DOUBLE")))
        _check_duration(promised / sr, path, policy, n_samples=promised)
        _check_n_samples(promised * sound.channels, path)
        try:
            # libsndfile converts 16 bit to floating point five times slower than NumPy, to the same numbers.
            dtype = "int16" if sound.subtype == "PCM_16" else "float32"
            samples = sound.read(promised, dtype=dtype, always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError, MemoryError) as error:
            raise AudioError(path, f"must decode to its end. {_sentence(error)} Copy or download it again.") from None
    _check_samples(samples, promised, container, path)
    return samples, sr, container


def resample(signal: np.ndarray, sr: int, target_sr: int) -> np.ndarray:
    """Resample a mono signal as `librosa.load` does: soxr, high quality, ⌈n · target/sr⌉ samples.

    Parameters
    ----------
    signal : float32 array of shape (n_samples,)
    sr, target_sr : int
        Rates in Hz.
    """
    if sr == target_sr:
        return signal
    n_samples = int(np.ceil(len(signal) * (float(target_sr) / sr)))  # librosa's order of operations
    stream = _resampler(sr, target_sr, threading.get_ident())
    stream.clear()
    resampled = stream.resample_chunk(np.asarray(signal, dtype=np.float32), last=True)[:n_samples]
    return resampled if len(resampled) == n_samples else np.pad(resampled, (0, n_samples - len(resampled)))


@lru_cache(maxsize=8)
def _resampler(sr: int, target_sr: int, thread: int) -> Any:
    """Return a thread's own resampler: its filters are designed once, which takes a tenth of a clip's time."""
    import soxr

    return soxr.ResampleStream(sr, target_sr, num_channels=1, dtype="float32", quality="HQ")


def check_signal(signal: Any, sr: Any, *, name: str = "signal") -> np.ndarray:
    """Return a signal given in memory as mono float32, or raise `AudioError`.

    Accepts shape (n_samples,) or, as soundfile gives it, (n_samples, n_channels); integers are refused, because
    their full scale is not known.
    """
    if isinstance(sr, bool) or not isinstance(sr, int | np.integer) or not _RATES_HZ[0] <= sr <= _RATES_HZ[1]:
        raise AudioError(name, f"sr must be the sampling rate in Hz, a whole number. Got {sr!r}. Pass sr=….")
    try:
        array = np.asarray(signal)
    except ValueError:
        raise AudioError(name, "must be one array of numbers. Got rows of different lengths. Pass an array.") from None
    if array.dtype.kind != "f":
        raise AudioError(
            name, f"must be floating point, full scale ±1. Got {array.dtype}. Divide integers by their full scale."
        )
    if array.ndim not in (1, 2) or array.size == 0:
        raise AudioError(
            name, f"must have shape (n_samples,) or (n_samples, n_channels). Got {array.shape}. Pass one recording."
        )
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        raise AudioError(
            name,
            f"must have shape (n_samples, n_channels). Got {array.shape}: more channels than samples. Transpose it.",
        )
    check_finite(array, name)
    with np.errstate(over="ignore"):
        mono = np.ascontiguousarray(array.mean(axis=1) if array.ndim == 2 else array, dtype=np.float32)
    check_finite(mono, name)  # float64 can be finite and too large for float32
    return mono


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the clip id of a file: SHA-256 of its bytes, read in blocks."""
    with open_regular(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise AudioError(path, _os_reason(error)) from None


def hash_bytes(data: bytes) -> str:
    """Return the clip id of a file whose bytes are at hand."""
    return hashlib.sha256(data).hexdigest()


def _content_hash(samples: np.ndarray, sr: int, data: bytes, clip: str) -> str:
    """Return the hash of a plain WAV of samples, which most files are: 16 bit where that is exact, else float32."""
    if samples.dtype != np.int16:
        with np.errstate(over="ignore"):
            steps = samples * _STEPS_16_BIT
        if steps.max() < 2**15 and steps.min() >= -(2**15) and not (steps % 1).any():
            samples = steps.astype(np.int16)
    samples = np.ascontiguousarray(samples, dtype="<i2" if samples.dtype == np.int16 else "<f4")
    header = _wav_header(samples, sr)
    if len(data) == len(header) + samples.nbytes and data.startswith(header):
        return clip
    digest = hashlib.sha256(header)
    digest.update(samples)
    return digest.hexdigest()


def _wav_header(samples: np.ndarray, sr: int) -> bytes:
    """Return the 44 bytes before the samples in a plain WAV; sizes beyond 4 GiB are taken modulo that."""
    n_channels, width = samples.shape[1], samples.itemsize
    kind = 1 if samples.dtype.kind == "i" else 3
    align = n_channels * width
    sizes = [n_bytes % 2**32 for n_bytes in (samples.nbytes + 36, samples.nbytes, sr * align)]
    form = struct.pack(
        "<4sI8sIHHIIHH", b"RIFF", sizes[0], b"WAVEfmt ", 16, kind, n_channels, sr, sizes[2], align, 8 * width
    )
    return form + struct.pack("<4sI", b"data", sizes[1])


def _to_float(samples: np.ndarray) -> np.ndarray:
    """Return samples as float32, full scale ±1."""
    return samples * (1 / _STEPS_16_BIT) if samples.dtype == np.int16 else samples


def open_sound(file: Any, path: Any, head: bytes) -> Any:
    """Return the open `soundfile.SoundFile` of a file, or raise an `AudioError` that says what it rather is."""
    import soundfile

    try:
        return soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, MemoryError) as error:
        raise AudioError(path, _unreadable_reason(head, error)) from None


def _unreadable_reason(head: bytes, error: Exception) -> str:
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
    return f"must have a whole, valid header. {_sentence(error)} Copy or download it again."


def _is_text(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4
    return True


def _sentence(error: Exception) -> str:
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


def _check_ogg(data: bytes, path: Any) -> None:
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


def _check_xing(data: bytes, path: Any) -> None:
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


def _check_n_samples(n_samples: int, path: Any) -> None:
    if n_samples > _MOST_SAMPLES:
        raise AudioError(
            path,
            f"must decode to at most {_MOST_SAMPLES} samples over all channels. Its header says {n_samples}. "
            "Cut it, or lower its rate.",
        )


def _check_samples(samples: np.ndarray, promised: int, container: str, path: Any) -> None:
    slack = 2 * _MP3_FRAME if container == "MP3" else 0
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


def _check_duration(duration_s: float, path: Any, policy: AudioPolicy, *, n_samples: int | None = None) -> None:
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


def to_mono(samples: np.ndarray, path: Any, policy: AudioPolicy) -> np.ndarray:
    """Return (n_samples,) of samples (n_samples, n_channels), as the policy says."""
    n_channels = samples.shape[1]
    if n_channels == 1 or policy.mono == "first":
        return np.ascontiguousarray(samples[:, 0])
    if policy.mono == "error":
        raise AudioError(path, f"must be mono (audio.mono: error). It has {n_channels} channels. Mix it down.")
    with np.errstate(over="ignore"):
        return samples.T.mean(axis=0)


def _extremes(signal: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest number of a signal; where it comes from integers, they say it sooner."""
    if samples.dtype == np.int16 and samples.shape[1] == 1:
        return float(samples.min() / _STEPS_16_BIT), float(samples.max() / _STEPS_16_BIT)
    return float(signal.min()), float(signal.max())


def _remarks(
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


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((text for test, text in kinds if test(mode)), "something else")


def _os_reason(error: OSError) -> str:
    reasons = {
        errno.ENOENT: "must exist. There is no such file. Check the path.",
        errno.ENOTDIR: "must exist. A part of the path is not a folder. Check the path.",
        errno.ELOOP: "must be a file. It is a symbolic link that leads to itself. Remove the link.",
        errno.EACCES: "must be readable. Permission denied. Change its permissions (chmod) or run as its owner.",
        errno.EPERM: "must be readable. Permission denied. Change its permissions (chmod) or run as its owner.",
        errno.ENAMETOOLONG: "must be a path. The name is too long for this file system. Check the path.",
    }
    return reasons.get(error.errno or 0, f"must be readable. The system says: {error.strerror}. Check the disk.")

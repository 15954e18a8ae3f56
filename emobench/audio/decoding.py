"""From a file, or its bytes, to a mono float32 signal at a given rate.

Every complaint about a recording is made here, once, with its path and what to do. libsndfile reads truncated files
without an error, and refuses to be told that an odd file is whole: so `containers` reads the lengths, and `damage`
judges whether the samples are all there.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

from emobench.audio import DEFAULT_POLICY, Audio, AudioPolicy
from emobench.audio.containers import Chunks, Container, Frames, Pages, Source, bytes_at, read_container
from emobench.audio.damage import (
    MOST_SAMPLES,
    STEPS_16_BIT,
    check_container,
    check_duration,
    check_finite,
    check_n_decoded,
    check_n_samples,
    check_peak,
    extremes_of,
    kind_of_file,
    os_reason,
    remarks_on_length,
    remarks_on_signal,
    sentence_of,
    unreadable_reason,
)
from emobench.audio.foreign import MOST_BYTES, converted, decoder, recognise
from emobench.errors import AudioError

SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".w64", ".rf64"),
    *(".m4a", ".mp4", ".mov", ".3gp", ".aac", ".amr", ".webm"),  # through ffmpeg
)

RATES_HZ = (1_000, 768_000)
_READ_AT_ONCE = 64 * 2**20  # larger files have their header checked before they are read
_UNKNOWN_BLOCK = 2**18  # samples read at a time where nothing says how many there are
_NO_LENGTH = 2**39  # libsndfile's number of samples where it found none
_DESCRIPTOR_2 = threading.Lock()


def read_audio(path: str | os.PathLike[str], policy: AudioPolicy = DEFAULT_POLICY) -> Audio:
    """Read a recording once: the bytes that are hashed are the bytes that are decoded.

    Raises
    ------
    AudioError
        If the file is not a readable recording that the policy accepts.
    """
    return decode(read_bytes(path, policy), path=path, policy=policy)


def read_clip(path: str | os.PathLike[str], clip: str, policy: AudioPolicy = DEFAULT_POLICY) -> Audio:
    """Read a recording whose clip id is known; raise `AudioError` if it is not the same any more."""
    data = read_bytes(path, policy)
    if clip_of(data) != clip:
        raise AudioError(path, "must not change during a run. Its content changed since it was hashed. Run again.")
    return decode(data, path=path, policy=policy, clip=clip)


def read_bytes(path: str | os.PathLike[str], policy: AudioPolicy = DEFAULT_POLICY) -> bytes:
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
            raise AudioError(path, os_reason(error)) from None


def _check_size(file: io.BufferedReader, size: int, path: Any, policy: AudioPolicy) -> None:
    """Refuse a large file that is no recording or too long a one, from its header alone."""
    if recognise(file) is not None:
        most = MOST_BYTES
    else:
        with open_recording(file, path) as recording:
            sr, n_channels, n = recording.sr, recording.sound.channels, recording.promised
        if n is not None:
            check_duration(n / sr, path, policy)
            check_n_samples(n * n_channels, path)
        most = int(8 * (policy.max_duration_s * sr if n is None else n) * n_channels) + _READ_AT_ONCE
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
        raise AudioError(path, os_reason(error)) from None
    except ValueError:  # an embedded NUL
        raise AudioError(repr(str(path)), "must be a path. It holds a NUL character. Check the name.") from None
    if not stat.S_ISREG(mode):
        raise AudioError(path, f"must be a regular file. It is {kind_of_file(mode)}. Remove it or name a recording.")
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise AudioError(path, os_reason(error)) from None
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise AudioError(path, "must be a regular file. It was replaced by something else while it was opened.")
    return file


def decode(
    data: bytes,
    *,
    path: str | os.PathLike[str] = "<bytes>",
    policy: AudioPolicy = DEFAULT_POLICY,
    clip: str | None = None,
) -> Audio:
    """Decode the bytes of a recording.

    Parameters
    ----------
    data : bytes
        A file of any format that libsndfile reads, or ffmpeg where it is there (see `foreign`).
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
    plain = _view_plain_wav(data)
    samples, sr, container, remarks = (*plain, ()) if plain else _read_samples(data, path, policy)
    check_duration(len(samples) / sr, path, policy, n_samples=len(samples))
    check_n_samples(samples.size, path)
    signal = to_mono(_to_float(samples), path, policy)
    if samples.dtype.kind == "f":
        check_finite(signal, path)  # the sum of finite channels can overflow
        check_peak(float(samples.min()), float(samples.max()), path)
    remarks += remarks_on_signal(signal, extremes_of(signal, samples), container, path)
    clip = clip or clip_of(data)
    return Audio(signal, sr, clip, hash_samples(samples, sr, data=data, clip=clip), remarks)


def _view_plain_wav(data: bytes) -> tuple[np.ndarray, int, str] | None:
    """Return samples, rate and format of a plain WAV of 16 bit, which most recordings are; None for any other file.

    Its 44 bytes of header follow from what comes after them, so it is whole where they are as they must be. libsndfile
    reads the same, and takes a tenth of the whole time of an extraction for it.
    """
    if len(data) <= 44:
        return None
    n_channels, sr = struct.unpack_from("<HI", data, 22)
    if n_channels not in (1, 2) or not RATES_HZ[0] <= sr <= RATES_HZ[1] or (len(data) - 44) % (2 * n_channels):
        return None
    samples = np.frombuffer(data, "<i2", offset=44).reshape(-1, n_channels)
    return (samples.astype(np.int16, copy=False), sr, "WAV") if data.startswith(_wav_header(samples, sr)) else None


def _read_samples(data: bytes, path: Any, policy: AudioPolicy) -> tuple[np.ndarray, int, str, tuple[str, ...]]:
    """Return samples, rate, format and remarks of any other file, or raise `AudioError`."""
    file = io.BytesIO(data)
    if (found := recognise(file)) is None:
        return _read_open(file, path, policy)
    with converted(file, found, path, policy.max_duration_s) as wav:
        samples, sr, _, remarks = _read_open(wav, path, policy)
    return samples, sr, found.title, remarks


def _read_open(file: BinaryIO, path: Any, policy: AudioPolicy) -> tuple[np.ndarray, int, str, tuple[str, ...]]:
    with open_recording(file, path) as recording:
        sr, promised, n_channels = recording.sr, recording.promised, recording.sound.channels
        if promised is not None:
            check_duration(promised / sr, path, policy, n_samples=promised)
            check_n_samples(promised * n_channels, path)
        # libsndfile converts 16 bit to floating point five times slower than NumPy, to the same numbers.
        dtype = "int16" if recording.sound.subtype == "PCM_16" else "float32"
        most = promised if promised is not None else min(policy.max_duration_s * sr, MOST_SAMPLES // n_channels)
        blocks, n_read = [], 0
        for block in recording.blocks(dtype, promised or _UNKNOWN_BLOCK):
            blocks.append(block)
            n_read += len(block)
            if n_read > most:
                break
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [np.empty((0, n_channels), dtype)])
    return samples, sr, recording.container, recording.remarks(n_read / sr)


@dataclass(frozen=True)
class Recording:
    """A file that libsndfile has open.

    Attributes
    ----------
    sound : soundfile.SoundFile
    path : path
        Only named in messages.
    promised : int or None
        How many samples it has, where that is stated or its frames add up to it.
    facts : Container or None
    source : Source
        What `sound` reads.
    """

    sound: Any
    path: Any
    promised: int | None
    facts: Container | None
    source: Source

    @property
    def sr(self) -> int:
        return self.sound.samplerate

    @property
    def container(self) -> str:
        return self.sound.format

    def remarks(self, duration_s: float | None = None) -> tuple[str, ...]:
        return remarks_on_length(self.facts, duration_s, is_stated=self.promised is not None)

    def blocks(self, dtype: str, size: int) -> Iterator[np.ndarray]:
        """Yield samples (n, n_channels) to the end; raise `AudioError` where that is not what was promised."""
        import soundfile

        n_read, is_mpeg = 0, self.sound.subtype.startswith("MPEG")
        while True:
            try:
                with _quiet(is_mpeg):
                    samples = self.sound.read(size, dtype=dtype, always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError, MemoryError) as error:
                raise AudioError(
                    self.path, f"must decode to its end. {sentence_of(error)} Copy or download it again."
                ) from None
            if self.source.error is not None:
                raise AudioError(self.path, os_reason(self.source.error))
            if len(samples):
                n_read += len(samples)
                if samples.dtype.kind == "f":
                    check_finite(samples, self.path)
                yield samples
            if len(samples) < size or n_read == self.promised:
                break
        check_n_decoded(n_read, self.promised, self.path, is_mpeg=is_mpeg)


@contextmanager
def open_recording(file: BinaryIO, path: Any) -> Iterator[Recording]:
    """Open a file that libsndfile reads, or raise an `AudioError` that says what it rather is, or how it is damaged."""
    import soundfile

    facts = read_container(file)
    source = facts.source(file) if facts else Source(file)
    head = bytes_at(file, 0, 512)
    try:
        with _quiet(True):
            sound = soundfile.SoundFile(source)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, MemoryError) as error:
        if isinstance(facts, Pages):
            check_container(facts, "", path, is_linear=False)
        if isinstance(facts, Chunks) and facts.is_without_samples:
            raise AudioError(path, "must hold samples. It has no chunk of them. Copy or download it again.") from None
        raise AudioError(path, unreadable_reason(head, error, path)) from None
    with sound:
        # soundfile seeks to where it is after each block, and an MP3 then begins anew without what its next frame
        # needs of the last one: it would decode to noise at every block.
        sound.seekable = lambda: False
        sr = sound.samplerate
        if not RATES_HZ[0] <= sr <= RATES_HZ[1]:
            raise AudioError(
                path,
                f"sampling rate must be within {RATES_HZ[0]}–{RATES_HZ[1]} Hz. The header says {sr}. Correct it.",
            )
        check_container(facts, sound.extra_info, path, is_linear=sound.subtype.startswith(("PCM_", "FLOAT", "DOUBLE")))
        promised = sound.frames if sound.frames < _NO_LENGTH else None
        if isinstance(facts, Frames) and not facts.is_stated:
            promised = facts.n_samples
        yield Recording(sound, path, promised, facts, source)


@contextmanager
def _quiet(is_mpeg: bool) -> Iterator[None]:
    """Keep what libmpg123 prints from the terminal; it writes to descriptor 2, and libsndfile has no switch for it."""
    if not is_mpeg:
        yield
        return
    with _DESCRIPTOR_2, ExitStack() as stack:
        with suppress(OSError):  # there may be none
            kept = os.dup(2)
            stack.callback(os.close, kept)
            null = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, null)
            os.dup2(null, 2)
            stack.callback(os.dup2, kept, 2)
        yield


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
    if isinstance(sr, bool) or not isinstance(sr, int | np.integer) or not RATES_HZ[0] <= sr <= RATES_HZ[1]:
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
    check_peak(float(array.min()), float(array.max()), name)
    return mono


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the clip id of a file: SHA-256 of its bytes, read in blocks; see `clip_of`."""
    with open_regular(path) as file:
        try:
            return _clip_of(hashlib.file_digest(file, "sha256"), file)
        except OSError as error:
            raise AudioError(path, os_reason(error)) from None


def clip_of(data: bytes) -> str:
    """Return the clip id of a recording's bytes: their SHA-256, to which a decoder that is not ours adds its name."""
    return _clip_of(hashlib.sha256(data), io.BytesIO(data))


def _clip_of(digest: Any, file: BinaryIO) -> str:
    if recognise(file) is not None:
        digest.update(f"\0{decoder()}".encode())
    return digest.hexdigest()


def hash_samples(samples: np.ndarray, sr: int, *, data: bytes = b"", clip: str = "") -> str:
    """Return the audio id of samples: the hash of a plain WAV of them, of 16 bit where that is exact, else of float32.

    Parameters
    ----------
    samples : int16 or float array of shape (n_samples, n_channels)
        Full scale ±1 where floating.
    data, clip : bytes, str
        The file that they come from and its hash, which spares hashing twice where it is a plain WAV already.
    """
    if samples.dtype != np.int16:
        with np.errstate(over="ignore"):
            steps = samples * STEPS_16_BIT
        if steps.max() < 2**15 and steps.min() >= -(2**15) and not (steps % 1).any():
            samples = steps.astype(np.int16)
    samples = np.ascontiguousarray(samples, dtype="<i2" if samples.dtype == np.int16 else "<f4")
    header = _wav_header(samples, sr)
    if len(data) == len(header) + samples.nbytes and data.startswith(header):
        return clip
    digest = hashlib.sha256(header)
    digest.update(samples.data)
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
    return samples * (1 / STEPS_16_BIT) if samples.dtype == np.int16 else samples


def to_mono(samples: np.ndarray, path: Any, policy: AudioPolicy) -> np.ndarray:
    """Return (n_samples,) of samples (n_samples, n_channels), as the policy says."""
    n_channels = samples.shape[1]
    if n_channels == 1 or policy.mono == "first":
        return np.ascontiguousarray(samples[:, 0])
    if policy.mono == "error":
        raise AudioError(path, f"must be mono (audio.mono: error). It has {n_channels} channels. Mix it down.")
    with np.errstate(over="ignore"):
        return samples.T.mean(axis=0)

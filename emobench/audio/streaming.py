"""A long recording in windows, with memory that does not grow with its length.

Window i begins at i · hop and is as long as asked, in samples of the *resampled* signal; it is a clip of its own, which
feature sets pad as they pad any clip. There is a further window as long as the one before has not reached the end, so
the last may be shorter, and a recording shorter than a window is one. Windows share no Fourier transforms: their
frames would only coincide if the hop were a multiple of the frames', and the answer would depend on where a clip was
cut out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from emobench.audio import AudioPolicy
from emobench.audio.damage import check_finite, check_header, ogg_checksum
from emobench.audio.decoding import open_regular, open_sound, to_mono
from emobench.errors import AudioError

BLOCK_SAMPLES = 2**16  # read at a time, over all channels


@dataclass(frozen=True)
class Stream:
    """A recording that is read block by block.

    Attributes
    ----------
    sr : int
        Native sampling rate in Hz.
    blocks : iterator of float32 array of shape (n_samples,)
        Mono. Raises `AudioError` where the recording is damaged, which may be after many good blocks.
    """

    sr: int
    blocks: Iterator[np.ndarray]


@contextmanager
def open_stream(path: str | os.PathLike[str], policy: AudioPolicy) -> Iterator[Stream]:
    """Open a recording of any length for reading in blocks.

    `AudioPolicy.max_duration_s` does not count here.

    Raises
    ------
    AudioError
        If the file is not a readable recording, as far as its header tells.
    """
    import soundfile

    with open_regular(path) as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith(b"OggS"):
            _check_ogg_pages(file, path)
            file.seek(0)
        with open_sound(file, path, head) as sound:
            # soundfile seeks to where it is after each block, and an MP3 then begins anew without what its next
            # frame needs of the last one: it would decode to noise at every block.
            sound.seekable = lambda: False
            promised, sr = sound.frames, sound.samplerate
            is_linear = sound.subtype.startswith(("PCM_", "FLOAT", "DOUBLE"))
            check_header(sound.extra_info, promised, path, is_linear=is_linear)
            if promised / sr < policy.min_duration_s:
                raise AudioError(
                    path, f"must last at least {policy.min_duration_s:g} s. It lasts {promised / sr:.4g} s. Remove it."
                )

            def blocks() -> Iterator[np.ndarray]:
                n_read, size = 0, max(1, BLOCK_SAMPLES // sound.channels)
                while True:
                    try:
                        samples = sound.read(size, dtype="float32", always_2d=True)
                    except (soundfile.LibsndfileError, RuntimeError) as error:
                        raise AudioError(
                            path, f"must decode to its end. Sample {n_read} does not: {error} Copy it again."
                        ) from None
                    if not len(samples):
                        break
                    check_finite(samples, path)
                    n_read += len(samples)
                    yield to_mono(samples, path, policy)
                if n_read < promised - 2304:  # two frames of an MP3
                    raise AudioError(
                        path,
                        f"truncated: its header says {promised} samples, {n_read} could be decoded. Copy it again.",
                    )

            yield Stream(sr, blocks())


def _check_ogg_pages(file: BinaryIO, path: str | os.PathLike[str]) -> None:
    """Refuse an Ogg stream with a page cut or damaged, of which libsndfile says nothing."""
    is_last = False
    while (head := file.read(27)).startswith(b"OggS"):
        table = file.read(head[26]) if len(head) == 27 else b""
        page = head + table + file.read(sum(table))
        is_whole = len(head) == 27 and len(table) == head[26] and len(page) == 27 + len(table) + sum(table)
        if not is_whole or ogg_checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            raise AudioError(path, "truncated or damaged: a page of it is not whole. Copy or download it again.")
        is_last = bool(head[5] & 4)
    if not is_last:
        raise AudioError(path, "truncated: the stream ends before its last page. Copy or download it again.")


def resampled(blocks: Iterator[np.ndarray], sr: int, target_sr: int) -> Iterator[np.ndarray]:
    """Resample block by block to what `emobench.audio.resample` makes of the whole signal."""
    if sr == target_sr:
        yield from blocks
        return
    import soxr

    resampler = soxr.ResampleStream(sr, target_sr, 1, dtype="float32", quality="HQ")
    n_in = n_out = 0
    for block in blocks:
        n_in += len(block)
        chunk = resampler.resample_chunk(block)
        n_out += len(chunk)
        yield chunk
    n_left = math.ceil(n_in * (float(target_sr) / sr)) - n_out
    chunk = resampler.resample_chunk(np.empty(0, np.float32), last=True)[:n_left]
    yield np.pad(chunk, (0, n_left - len(chunk)))


def windows(blocks: Iterator[np.ndarray], length: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a signal that arrives in blocks into windows; yield the first sample of each, and its samples.

    Parameters
    ----------
    length, hop : int
        In samples, at least 1. With a hop beyond the length, what lies between windows is left out.
    """
    kept, start = np.empty(0, np.float32), 0
    for block in blocks:
        kept = np.concatenate([kept, block])
        while len(kept) > max(length, hop):  # a further window begins before the end, so this one is whole
            yield start, kept[:length]
            kept, start = kept[hop:], start + hop
    if len(kept):
        yield start, kept[:length]

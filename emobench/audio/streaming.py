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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from emobench.audio import AudioPolicy
from emobench.audio.damage import check_peak
from emobench.audio.decoding import open_recording, open_regular, to_mono
from emobench.audio.foreign import converted, recognise
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
    warnings : tuple of str
        What deserves a remark before anything is read.
    """

    sr: int
    blocks: Iterator[np.ndarray]
    warnings: tuple[str, ...] = ()


@contextmanager
def open_stream(path: str | os.PathLike[str], policy: AudioPolicy) -> Iterator[Stream]:
    """Open a recording of any length for reading in blocks.

    `AudioPolicy.max_duration_s` does not count here.

    Raises
    ------
    AudioError
        If the file is not a readable recording, as far as its header tells.
    """
    with ExitStack() as stack:
        file: BinaryIO = stack.enter_context(open_regular(path))
        if (found := recognise(file)) is not None:
            file = stack.enter_context(converted(file, found, path))
        recording = stack.enter_context(open_recording(file, path))
        sr, promised = recording.sr, recording.promised
        if promised is not None and promised / sr < policy.min_duration_s:
            raise AudioError(
                path, f"must last at least {policy.min_duration_s:g} s. It lasts {promised / sr:.4g} s. Remove it."
            )

        def blocks() -> Iterator[np.ndarray]:
            for samples in recording.blocks("float32", max(1, BLOCK_SAMPLES // recording.sound.channels)):
                check_peak(float(samples.min()), float(samples.max()), path)
                yield to_mono(samples, path, policy)

        yield Stream(sr, blocks(), recording.remarks())


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

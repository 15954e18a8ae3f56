"""How long a recording is by its own container: the chunks of WAV and AIFF, the frames of MP3, the pages of Ogg.

Only facts, read from an open file, which may be large; `damage` judges them. Each kind has `source`, what a decoder is
given to read: the file itself, or one in which a length that was missing is filled in.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO

# Chunks that may follow the samples even where their size is wrong, and tags that other programs append.
_KNOWN_CHUNKS = {
    *(b"LIST", b"INFO", b"bext", b"fact", b"cue ", b"smpl", b"inst", b"plst", b"note", b"labl", b"PEAK", b"JUNK"),
    *(b"junk", b"PAD ", b"FLLR", b"iXML", b"axml", b"_PMX", b"cart", b"id3 ", b"ID3 ", b"DISP", b"acid", b"afsp"),
    *(b"MARK", b"COMT", b"INST", b"NAME", b"AUTH", b"ANNO", b"(c) ", b"APPL", b"MIDI", b"COMM", b"chna", b"umid"),
}
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
_FORMS = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<", b"BW64": "<", b"FORM": ">"}
# From here on, a size beyond the end of the file is what a writer to a pipe puts for one that it cannot know.
_LEAST_UNKNOWN = {b"RIFF": 0x7FFF0000, b"RIFX": 0x7FFF0000, b"FORM": 0x7F000000, b"RF64": 2**62, b"BW64": 2**62}
_LINEAR_WAV = {1, 3, 6, 7}  # PCM, floating point, A-law, µ-law
_LINEAR_AIFF = {b"", b"NONE", b"twos", b"sowt", b"in24", b"in32", b"fl32", b"FL32", b"fl64", b"FL64"}
_NAME = re.compile(rb"[ -~]{4}")
_BLOCK = 2**20


class Source:
    """A file for libsndfile, made of pieces of another file and of bytes.

    Nothing is raised: libsndfile calls from C, where an exception could only be printed. `error` keeps it.

    Parameters
    ----------
    pieces : sequence of bytes or (start, stop)
        By default all of the file.
    size : int, optional
        What is stated as the size, where it is not to be the true one.
    """

    def __init__(
        self, file: BinaryIO, pieces: Sequence[bytes | tuple[int, int]] | None = None, *, size: int | None = None
    ):
        self._file = file
        self._pieces = [(0, size_of(file))] if pieces is None else list(pieces)
        lengths = (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in self._pieces)
        *self._starts, self._end = itertools.accumulate(lengths, initial=0)
        self._size = self._end if size is None else size
        self._position = 0
        self.error: OSError | None = None

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def read(self, n: int) -> bytes:
        if self._end < self._size - 128 <= self._position:  # libmpg123 looks for a tag there
            return bytes(min(n, self._size - self._position))
        blocks = []
        while n > 0 and self._position < self._end:
            index = bisect_right(self._starts, self._position) - 1
            piece, offset = self._pieces[index], self._position - self._starts[index]
            block = piece[offset : offset + n] if isinstance(piece, bytes) else self._read(*piece, offset, n)
            if not block:
                break
            blocks.append(block)
            self._position, n = self._position + len(block), n - len(block)
        return b"".join(blocks)

    def _read(self, start: int, stop: int, offset: int, n: int) -> bytes:
        try:
            self._file.seek(start + offset)
            return self._file.read(min(n, stop - start - offset))
        except OSError as error:
            self.error = error
            return b""


def size_of(file: BinaryIO) -> int:
    return file.seek(0, io.SEEK_END)


def bytes_at(file: BinaryIO, position: int, n: int) -> bytes:
    file.seek(position)
    return file.read(n)


# --- chunks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunks:
    """The outline of a WAV, RF64 or AIFF file; all sizes in bytes.

    Attributes
    ----------
    kind : bytes
        The first four bytes.
    n_bytes : int
        Of the file.
    form : int
        What the header says of all that follows its first eight bytes.
    data_at : int
        Where the samples begin; 0 where there are none.
    data : int
        Their size by the header.
    is_unknown : bool
        The header does not say it, and what follows are samples.
    is_last : bool
        Nothing but chunks and tags of other programs follow the samples.
    n_channels, n_bits, align : int
        By the header; `align` is the size of a sample over all channels.
    is_linear : bool
        Samples are kept one by one.
    """

    kind: bytes
    n_bytes: int
    form: int
    data_at: int = 0
    data: int = 0
    is_unknown: bool = False
    is_last: bool = True
    n_channels: int = 0
    n_bits: int = 0
    align: int = 1
    is_linear: bool = False
    # Position, format and right value of each size that is wrong where the length is unknown.
    fields: tuple[tuple[int, str, int], ...] = ()

    @property
    def is_form_unknown(self) -> bool:
        return self.form == 0 or self.form >= _LEAST_UNKNOWN[self.kind]

    @property
    def is_without_samples(self) -> bool:
        return self.data_at == 0 and self.form + 8 <= self.n_bytes

    @property
    def actual(self) -> int:
        """Bytes from the first sample to the end of the file."""
        return self.n_bytes - self.data_at

    @property
    def n_unknown(self) -> int:
        """Bytes of the samples where their size is unknown: all that follow, less the pad byte of an odd size."""
        rest = self.actual % self.align if self.is_linear else 0
        return self.actual - rest if rest == 1 and (self.actual - rest) % 2 else self.actual

    def source(self, file: BinaryIO) -> Source:
        if not self.is_unknown:
            return Source(file)
        pieces: list[bytes | tuple[int, int]] = []
        end = 0
        for position, fmt, value in sorted(self.fields):
            pieces += [(end, position), struct.pack(fmt, min(value, 256 ** struct.calcsize(fmt) - 1))]
            end = position + struct.calcsize(fmt)
        return Source(file, [*pieces, (end, self.data_at + self.n_unknown)])


def read_chunks(file: BinaryIO) -> Chunks | None:
    """Return the outline of a WAV, RF64, AIFF or AVI file, as far as it is whole; None for any other file."""
    head, n_bytes = bytes_at(file, 0, 12), size_of(file)
    kind = head[:4]
    if kind not in _FORMS or head[8:] not in (b"WAVE", b"AIFF", b"AIFC", b"AVI "):
        return None
    order = _FORMS[kind]
    (form,) = struct.unpack(order + "I", head[4:8])
    form_field, wide_field, wide = (4, order + "I"), None, 0
    facts: dict[str, Any] = {}
    position = 12
    while True:
        head = bytes_at(file, position, 8)
        if len(head) < 8 or not _NAME.match(head):
            return Chunks(kind, n_bytes, form)
        name, body_at = head[:4], position + 8
        (size,) = struct.unpack(order + "I", head[4:])
        if name in (b"data", b"SSND"):
            break
        body = bytes_at(file, body_at, min(size, 40))
        if name == b"fmt ":
            facts = _wav_format(body, order)
        elif name == b"COMM":
            facts = _aiff_format(body)
        elif name == b"ds64" and kind in (b"RF64", b"BW64") and len(body) >= 16:
            form, wide = struct.unpack("<QQ", body[:16])
            form_field, wide_field = (body_at, "<Q"), (body_at + 8, "<Q")
        position = body_at + size + size % 2
    data_field = (position + 4, order + "I")
    if wide_field and size == 0xFFFFFFFF:
        size, data_field = wide, wide_field
    extra = 8 if name == b"SSND" else 0  # an offset and a block's size, which count
    found = Chunks(kind, n_bytes, form, body_at + extra, max(0, size - extra), **facts)
    end = found.data_at + found.data
    if found.data % 2 and bytes_at(file, end, 1) == b"\0":  # some writers leave the pad byte out
        end += 1
    if end < n_bytes:
        is_last = _is_trailer(file, end, n_bytes, order, smallest=found.align if end < form + 8 else 8)
        is_unknown = found.data == 0 and (not is_last or _is_blank(file, end))
        found = replace(found, is_last=is_last or is_unknown, is_unknown=is_unknown)
    elif found.data > found.actual and size >= _LEAST_UNKNOWN[kind]:
        found = replace(found, is_unknown=True)
    whole = found.data_at + found.n_unknown
    return replace(found, fields=((*form_field, whole - 8), (*data_field, found.n_unknown + extra)))


def _wav_format(body: bytes, order: str) -> dict[str, Any]:
    if len(body) < 16:
        return {}
    tag, n_channels, _, _, align, n_bits = struct.unpack(order + "HHIIHH", body[:16])
    if tag == 0xFFFE and len(body) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the true one stands behind
        (tag,) = struct.unpack(order + "H", body[24:26])
    return {"n_channels": n_channels, "n_bits": n_bits, "align": max(align, 1), "is_linear": tag in _LINEAR_WAV}


def _aiff_format(body: bytes) -> dict[str, Any]:
    if len(body) < 18:
        return {}
    n_channels, _, n_bits = struct.unpack(">HIH", body[:8])
    is_linear = body[18:22] in _LINEAR_AIFF
    align = n_channels * -(-n_bits // 8) if is_linear else 1
    return {"n_channels": n_channels, "n_bits": n_bits, "align": max(align, 1), "is_linear": is_linear}


def _is_trailer(file: BinaryIO, position: int, end: int, order: str, *, smallest: int) -> bool:
    """Return whether what follows the samples is anything but more samples.

    Only what begins it is looked at, if that is a chunk or tag of a known name: its size, and what comes then, are
    often wrong. From `smallest` to 7 bytes, even zeros, are samples that the size leaves out.
    """
    head = bytes_at(file, position, 16)
    if head.startswith(_TAGS) or head[:4] in _KNOWN_CHUNKS:
        return True
    if smallest <= end - position < 8:
        return False
    if _is_blank(file, position):
        return True
    while position < end:
        head = bytes_at(file, position, 8)
        if len(head) < 8 or not _NAME.match(head) or head[:4] in {b"data", b"SSND", *_FORMS}:
            return False
        (size,) = struct.unpack(order + "I", head[4:])
        position += 8 + size + size % 2
    return position - end <= 1


def _is_blank(file: BinaryIO, position: int) -> bool:
    """Return whether the rest of a file, or the first part of a long one, is nothing."""
    file.seek(position)
    return not any(file.read(_BLOCK).strip(b"\0\r\n\t ") for _ in range(16))


# --- frames of MPEG audio -------------------------------------------------------------------------------------------

_KBPS = {  # by MPEG-1 or a later version, and layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SYNC = re.compile(rb"\xff[\xe2-\xff]")
FRAME_SAMPLES = 1152  # of a frame, at most


@dataclass(frozen=True)
class Frames:
    """The frames of an MP3.

    Attributes
    ----------
    spans : tuple of (start, stop)
        Bytes of frames that follow each other. Between them is what is no MPEG audio.
    n_frames : int
        Without the first one, where it only describes the others.
    n_frame_samples : int
    n_bytes : int
        Of the file, without tags before the first frame.
    n_foreign : int
        Bytes between frames that are no tag either.
    stated, stated_bytes : int or None
        What the first frame says of them (Xing, LAME).
    """

    spans: tuple[tuple[int, int], ...]
    n_frames: int
    n_frame_samples: int
    n_bytes: int
    n_foreign: int = 0
    first: int = 0  # bytes of the first frame, if it describes the others
    stated: int | None = None
    stated_bytes: int | None = None

    @property
    def n_samples(self) -> int:
        return self.n_frames * self.n_frame_samples

    @property
    def is_stated(self) -> bool:
        return self.stated is not None and self.stated in (self.n_frames, self.n_frames + 1)

    def source(self, file: BinaryIO) -> Source:
        """Return the frames, with a size that makes libsndfile read to their end where their number is not stated.

        It estimates their number from the size and from the first one's bit rate, and reads no further.
        """
        if self.is_stated:
            return Source(file, self.spans if len(self.spans) > 1 else None)
        (start, stop), *others = self.spans
        return Source(file, [(start + self.first, stop), *others], size=100 * size_of(file) + 4096)


def read_frames(file: BinaryIO) -> Frames | None:
    """Return the frames of an MP3, or None where a file has none."""
    n_bytes, begin = size_of(file), end_of_tag(file, 0)
    is_other = bytes_at(file, begin, 4) in (b"fLaC", b"OggS", *_FORMS)
    if is_other or not bytes_at(file, 0, 3).startswith((b"\xff", b"ID3")):
        return None
    spans: list[tuple[int, int]] = []
    sizes: list[int] = []
    position, head, n_foreign = begin, b"", 0
    while (start := _next_frame(file, position, head, n_bytes)) is not None:
        n_foreign += start - position if spans else 0
        position, head = start, bytes_at(file, start, 3)
        while (size := _size_of_frame(found := bytes_at(file, position, 3))) and _is_like(found, head):
            if position + size > n_bytes:
                break
            sizes.append(size)
            position += size
        spans.append((start, position))
        position = end_of_tag(file, position)
    if not spans:
        return None
    is_mpeg_1, layer = bool(head[1] & 8), 4 - (head[1] >> 1 & 3)
    n_frame_samples = 384 if layer == 1 else 1152 if layer == 2 or is_mpeg_1 else 576
    frames = Frames(tuple(spans), len(sizes), n_frame_samples, n_bytes - begin, n_foreign)
    head = bytes_at(file, spans[0][0], 64)
    place = max(head.find(b"Xing"), head.find(b"Info"))
    if place < 0:
        return frames
    flags, *numbers = struct.unpack(">III", head[place + 4 : place + 16].ljust(12, b"\0"))
    stated = numbers.pop(0) if flags & 1 else None
    stated_bytes = numbers.pop(0) if flags & 2 else None
    return replace(frames, n_frames=len(sizes) - 1, first=sizes[0], stated=stated, stated_bytes=stated_bytes)


def end_of_tag(file: BinaryIO, position: int) -> int:
    """Return where ID3v2 tags end that begin at a position, or the position."""
    while len(head := bytes_at(file, position, 10)) == 10 and head.startswith(b"ID3"):
        position += 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return position


def _next_frame(file: BinaryIO, position: int, like: bytes, n_bytes: int) -> int | None:
    """Return where the next whole frame begins that another one, or the end, follows; None at the end of the file."""
    while block := bytes_at(file, position, _BLOCK):
        for match in _SYNC.finditer(block):
            start = position + match.start()
            head = bytes_at(file, start, 3)
            size = _size_of_frame(head)
            if size and start + size <= n_bytes and (not like or _is_like(head, like)):
                follower = bytes_at(file, start + size, 3)
                if not follower or (_size_of_frame(follower) and _is_like(follower, head)):
                    return start
        position += max(1, len(block) - 1)
    return None


def _is_like(head: bytes, other: bytes) -> bool:
    """Return whether two frames have the same version, layer and sampling rate."""
    return head[1] & 0x1E == other[1] & 0x1E and head[2] & 0x0C == other[2] & 0x0C


@lru_cache(maxsize=1024)
def _size_of_frame(head: bytes) -> int:
    """Return the bytes of a frame from its first three, or 0 if they begin none whose size they say."""
    if len(head) < 3 or head[0] != 0xFF or head[1] < 0xE0:
        return 0
    version, layer, rate, index = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer == 4 or rate == 3 or index in (0, 15):
        return 0
    sr = (44_100, 48_000, 32_000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits, padding = 1000 * _KBPS[version == 3, layer][index - 1], head[2] >> 1 & 1
    if layer == 1:
        return 4 * (12 * bits // sr + padding)
    return (72 if layer == 3 and version != 3 else 144) * bits // sr + padding


# --- pages of Ogg ---------------------------------------------------------------------------------------------------

_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Pages:
    """The pages of an Ogg file.

    Attributes
    ----------
    damaged_at : int or None
        Where the first page begins whose checksum is wrong.
    is_ended : bool
        The last page is whole and says that it is the last.
    n_streams : int
        How many follow each other.
    last : (start, stop)
        Bytes of the last page.
    granule : int
        The number of samples, by the last page; 0 or -1 where that does not say it.
    """

    damaged_at: int | None
    is_ended: bool
    n_streams: int
    last: tuple[int, int]
    granule: int

    @property
    def is_unknown(self) -> bool:
        return self.granule in (0, -1) and self.damaged_at is None and self.last[1] > 0

    def source(self, file: BinaryIO) -> Source:
        """Return the file, with a number of samples that makes libsndfile read to the end where it is not stated."""
        if not self.is_unknown:
            return Source(file)
        start, stop = self.last
        page = bytearray(bytes_at(file, start, stop - start))
        struct.pack_into("<q", page, 6, 2**40)
        page[22:26] = bytes(4)
        struct.pack_into("<I", page, 22, ogg_checksum(bytes(page)))
        return Source(file, [(0, start), bytes(page), (stop, size_of(file))])


def read_pages(file: BinaryIO) -> Pages | None:
    """Return what the pages of an Ogg file say, or None for any other file."""
    file.seek(0)
    position, n_streams, last = 0, 0, (0, 0)
    granule, flags, is_whole = 0, 2, True
    while (head := file.read(27)).startswith(b"OggS"):
        table = file.read(head[26]) if len(head) == 27 else b""
        body = file.read(sum(table))
        size = len(head) + len(table) + len(body)
        if len(head) < 27 or len(table) < head[26] or len(body) < sum(table):
            is_whole = False
            break
        if ogg_checksum(head[:22] + bytes(4) + head[26:] + table + body) != int.from_bytes(head[22:26], "little"):
            return Pages(position, False, n_streams, last, granule)
        begins = bool(head[5] & 2)
        n_streams += begins and (position == 0 or not flags & 2)
        granule, flags, last = int.from_bytes(head[6:14], "little", signed=True), head[5], (position, position + size)
        position += size
    if position == 0 and is_whole:
        return None
    return Pages(None, is_whole and bool(flags & 4), n_streams, last, granule)


def ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of RFC 3533, which runs through the bits of a byte the other way round than zlib's."""
    mirrored = zlib.crc32(page.translate(_BITS_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


Container = Chunks | Frames | Pages


def read_container(file: BinaryIO) -> Container | None:
    """Return what a file's container says of its length, or None for a container that is left to libsndfile."""
    return read_chunks(file) or read_pages(file) or read_frames(file)

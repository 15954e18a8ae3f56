"""Universal Binary JSON as XGBoost writes it, read with bounds.

A small part of the format (https://ubjson.org): lengths are always 64 bit, a container says how many items it has, and
arrays of one numeric type stand as they are in memory, big-endian. XGBoost's own reader ends the process on some bytes
that are not its own; this one raises ValueError, and never asks for more memory than the bytes have.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

MAX_DEPTH = 12

_INTEGERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q"}
_LENGTH = ord("L")
_ARRAYS = {
    marker: np.dtype(dtype)
    for marker, dtype in {
        b"i": ">i1",
        b"U": ">u1",
        b"I": ">i2",
        b"l": ">i4",
        b"L": ">i8",
        b"d": ">f4",
        b"D": ">f8",
    }.items()
}
_MARKERS = {dtype: marker for marker, dtype in _ARRAYS.items()}


def decode(data: bytes) -> Any:
    """Return what the bytes hold: dicts, lists, strings, integers, and a big-endian NumPy array for an array of one
    type.

    Raises
    ------
    ValueError
        If they hold anything else, end too early or too late, or a key is there twice.
    """
    reader = _Reader(data)
    value = reader.value(0)
    if reader.position != len(data):
        raise ValueError(f"{len(data) - reader.position} bytes too many")
    return value


def encode(value: Any) -> bytes:
    """Return the bytes of what `decode` gives; integers have the smallest type that holds them."""
    if isinstance(value, dict):
        return b"{" + b"".join(_text(name) + encode(item) for name, item in value.items()) + b"}"
    if isinstance(value, list):
        return b"[#" + _count(len(value)) + b"".join(map(encode, value))
    if isinstance(value, np.ndarray):
        return b"[$" + _MARKERS[value.dtype] + b"#" + _count(len(value)) + value.tobytes()
    if isinstance(value, str):
        return b"S" + _text(value)
    for marker in (b"i", b"I", b"l"):
        bits = 8 * struct.calcsize(_INTEGERS[marker])
        if -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
            return marker + struct.pack(_INTEGERS[marker], value)
    return _count(value)


def _count(number: int) -> bytes:
    return b"L" + struct.pack(">q", number)


def _text(text: str) -> bytes:
    content = text.encode()
    return _count(len(content)) + content


class _Reader:
    """A position in bytes, moved forward by what is read. A file of trees has 30,000 values: it is not idly written."""

    def __init__(self, data: bytes):
        self.data = data
        self.position = 0

    def take(self, n_bytes: int) -> bytes:
        start = self.position
        taken = self.data[start : start + n_bytes]
        if n_bytes < 0 or len(taken) != n_bytes:
            raise ValueError(f"{n_bytes} bytes asked for at byte {start} of {len(self.data)}")
        self.position = start + n_bytes
        return taken

    def count(self) -> int:
        """Read a length, which cannot be larger than what is left."""
        announced = self.take(9)
        number = int.from_bytes(announced[1:], "big")
        if announced[0] != _LENGTH or number > len(self.data) - self.position:
            raise ValueError(f"no possible length at byte {self.position - 9} of {len(self.data)}")
        return number

    def text(self) -> str:
        return self.take(self.count()).decode()

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        marker = self.take(1)
        if marker == b"[":
            return self.array(depth)
        if marker == b"{":
            return self.object(depth)
        if marker == b"S":
            return self.text()
        if marker in _INTEGERS:
            return struct.unpack(_INTEGERS[marker], self.take(struct.calcsize(_INTEGERS[marker])))[0]
        raise ValueError(f"unknown marker {marker!r} at byte {self.position - 1}")

    def object(self, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not self.data.startswith(b"}", self.position):
            name = self.text()
            if name in items:
                raise ValueError(f"{name!r} is there twice")
            items[name] = self.value(depth + 1)
        self.position += 1
        return items

    def array(self, depth: int) -> Any:
        if self.data.startswith(b"#", self.position):
            self.position += 1
            return [self.value(depth + 1) for _ in range(self.count())]
        head = self.take(3)
        dtype = _ARRAYS.get(head[1:2])
        if head[0:1] != b"$" or head[2:3] != b"#" or dtype is None:
            raise ValueError(f"an array without a known type or length at byte {self.position}")
        return np.frombuffer(self.take(self.count() * dtype.itemsize), dtype)

"""What a disk holds at any moment of a process that was traced, and what a power cut would leave of it.

`TRACED` names the system calls to record with ``strace -f -y -xx -s BIG -e trace=…``, and `read_log` reads the record.
A `Disk` to which its calls are applied is the disk at that moment: after a kill, everything that was called; after a
power cut, only what was synced.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

WRITES = ("write", "pwrite64")
RENAMES = ("rename", "renameat", "renameat2")
REMOVALS = ("unlink", "unlinkat", "rmdir")
MODELLED = (
    *("open", "openat", "creat", "mkdir", "mkdirat", "ftruncate", "lseek", "fsync", "fdatasync"),
    *(*WRITES, *RENAMES, *REMOVALS),
)
UNKNOWN = (
    *("writev", "pwritev", "pwritev2", "truncate", "fallocate", "copy_file_range", "sendfile", "sync_file_range"),
    *("msync", "link", "linkat", "symlink", "symlinkat", "splice"),
)
TRACED = (*MODELLED, *UNKNOWN)

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_OPEN_FILE = re.compile(r"^\d+<([^>]*)>")
_FOLDER = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>$")


@dataclass(frozen=True)
class Call:
    """A system call that succeeded on something below the root.

    Attributes
    ----------
    name : str
        Of the system call.
    number : int
        It is its thread's so-manieth call of this name, from 1, failed ones and those elsewhere counted: what strace's
        ``when=`` takes.
    path, target : PurePosixPath
        Relative to the root; `target` is what a rename makes of it.
    data : bytes
        What a write writes.
    offset : int or None
        Where it does; None for where the file is.
    flags : str
        Of an open.
    """

    name: str
    number: int
    path: PurePosixPath
    target: PurePosixPath | None = None
    data: bytes = b""
    offset: int | None = None
    flags: str = ""

    def halved(self) -> Call:
        """Return a write that got half-way."""
        return Call(self.name, self.number, self.path, None, self.data[: len(self.data) // 2], self.offset)


def read_log(path: Path, root: Path) -> list[Call]:
    """Return the calls of a strace log that change something below `root`, in the order in which they returned."""
    calls, counts = [], Counter[tuple[str, str]]()
    for thread, name, text, result in _lines(path):
        counts[thread, name] += 1
        if result.lstrip("-").isdigit() and int(result) >= 0:
            call = _parse(name, counts[thread, name], text.split(", "), int(result), root.resolve())
            calls += [call] if call else []
    return calls


def _lines(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield (thread, system call, arguments, result) of each call, put together where others came between."""
    begun: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if match := _UNFINISHED.match(line):
            begun[match[1]] = match[2]
            continue
        if match := _RESUMED.match(line):
            line = f"{match[1]} {begun.pop(match[1])}{match[2]}"
        if match := _LINE.match(line):
            yield match[1], match[2], match[3], match[4]


def _parse(name: str, number: int, arguments: Sequence[str], result: int, root: Path) -> Call | None:
    paths = list(_paths(name, arguments))
    inside = [PurePosixPath(path).relative_to(root) for path in paths if path.is_relative_to(root)]
    if not inside:
        return None
    if name in UNKNOWN or len(inside) != len(paths):
        raise NotImplementedError(f"{name} of {', '.join(map(str, paths))}: teach Disk what it does")
    if name in WRITES:
        offset = int(arguments[3]) if name == "pwrite64" else None
        return Call(name, number, inside[0], data=_text(arguments[1])[:result], offset=offset)
    if name == "ftruncate":
        return Call(name, number, inside[0], offset=int(arguments[1]))
    if name == "lseek":
        return Call(name, number, inside[0], offset=result)
    flags = next((a for a in arguments if a.startswith("O_")), "O_CREAT|O_TRUNC" if name == "creat" else "")
    if name in ("open", "openat") and not {"O_CREAT", "O_TRUNC"} & set(flags.split("|")):
        return None
    return Call(name, number, inside[0], inside[1] if name in RENAMES else None, flags=flags)


def _paths(name: str, arguments: Sequence[str]) -> Iterator[Path]:
    """Yield the absolute paths that a call is about: of an open file, or names in folders."""
    if name not in ("open", "openat", "creat", "mkdir", "mkdirat", *RENAMES, *REMOVALS):
        for argument in arguments:
            if match := _OPEN_FILE.match(argument):
                yield Path(_decode(match[1]))
        return
    folder = Path.cwd()
    for argument in arguments:
        if match := _FOLDER.match(argument):
            folder = Path(_decode(match[1]))
        elif argument.startswith('"'):
            yield folder / _text(argument).decode("utf-8", "surrogateescape")


def _text(argument: str) -> bytes:
    if not argument.endswith('"'):
        raise ValueError("the log must hold whole strings: raise strace's -s")
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


def _decode(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode("utf-8", "surrogateescape")


@dataclass
class File:
    """A file: its content, and what of it was synced (None: nothing ever)."""

    data: bytearray = field(default_factory=bytearray)
    synced: bytes | None = None
    position: int = 0

    def is_safe(self) -> bool:
        return self.synced == bytes(self.data)

    def sync(self) -> None:
        self.synced = bytes(self.data)


@dataclass
class Folder:
    """A folder: its entries, and those that were synced."""

    entries: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)

    def is_safe(self) -> bool:
        return self.synced == self.entries and all(entry.is_safe() for entry in self.entries.values())

    def sync(self) -> None:
        self.synced = dict(self.entries)


class Disk:
    """The folder `root` as calls leave it.

    A sync of a folder makes its own name durable too, as every journalling file system does, and as POSIX does not say.
    """

    def __init__(self) -> None:
        self.root = Folder()

    @classmethod
    def load(cls, folder: Path) -> Disk:
        """Return the disk that holds what is in a folder, all of it synced."""
        disk = cls()
        for path in sorted(folder.rglob("*")):
            node = Folder() if path.is_dir() else File(bytearray(path.read_bytes()), path.read_bytes())
            disk._folder(PurePosixPath(path.relative_to(folder)).parent).entries[path.name] = node
        _sync_all(disk.root)
        return disk

    def copy(self) -> Disk:
        return copy.deepcopy(self)

    def apply(self, call: Call) -> None:
        folder, name = self._folder(call.path.parent), call.path.name
        if call.name in ("open", "openat", "creat"):
            file = folder.entries.setdefault(name, File()) if "O_CREAT" in call.flags else folder.entries.get(name)
            if isinstance(file, File):
                file.position = len(file.data) if "O_APPEND" in call.flags else 0
                if "O_TRUNC" in call.flags:
                    file.data.clear()
        elif call.name in ("mkdir", "mkdirat"):
            folder.entries[name] = Folder()
        elif call.name in REMOVALS:
            del folder.entries[name]
        elif call.name in RENAMES:
            assert call.target
            self._folder(call.target.parent).entries[call.target.name] = folder.entries.pop(name)
        elif call.name in ("fsync", "fdatasync"):
            self._sync(call.path)
        elif isinstance(node := folder.entries.get(name), File):  # else a folder, or removed while it was open
            self._change(node, call)

    def _change(self, file: File, call: Call) -> None:
        if call.name == "lseek":
            file.position = call.offset or 0
        elif call.name == "ftruncate":
            size = call.offset or 0
            file.data[:] = file.data[:size].ljust(size, b"\0")
        else:
            start = file.position if call.offset is None else call.offset
            file.data[len(file.data) :] = bytes(max(0, start - len(file.data)))
            file.data[start : start + len(call.data)] = call.data
            if call.offset is None:
                file.position = start + len(call.data)

    def _folder(self, path: PurePosixPath) -> Folder:
        folder = self.root
        for name in path.parts:
            entry = folder.entries[name]
            assert isinstance(entry, Folder)
            folder = entry
        return folder

    def at(self, path: PurePosixPath) -> File | Folder | None:
        """Return what has a path, None where there is nothing."""
        node: File | Folder | None = self.root
        for name in path.parts:
            node = node.entries.get(name) if isinstance(node, Folder) else None
        return node

    def _sync(self, path: PurePosixPath) -> None:
        node = self.at(path)
        if node is None:  # removed while it was open
            return
        node.sync()
        if isinstance(node, Folder):
            for inner in (path, *path.parents):
                if inner.name:
                    above = self._folder(inner.parent)
                    above.synced[inner.name] = above.entries[inner.name]

    def lose_power(self, *, keep_names: bool) -> Disk:
        """Return the disk after a power cut: contents that were not synced are lost.

        Names that were not synced are lost too, or are all there (`keep_names`): of a file that was renamed into place
        without a sync, the one loses the new file, and the other leaves an empty one.
        """
        after = Disk()
        after.root = _after_cut(self.root, keep_names)
        return after

    def write_to(self, folder: Path) -> None:
        """Make a real folder of it."""
        _write(self.root, folder)


def _after_cut(folder: Folder, keep_names: bool) -> Folder:
    kept = {}
    for name, node in (folder.entries if keep_names else folder.synced).items():
        kept[name] = File(bytearray(node.synced or b"")) if isinstance(node, File) else _after_cut(node, keep_names)
    return Folder(kept)


def _sync_all(folder: Folder) -> None:
    folder.sync()
    for entry in folder.entries.values():
        if isinstance(entry, Folder):
            _sync_all(entry)


def _write(folder: Folder, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, node in folder.entries.items():
        if isinstance(node, File):
            (place / name).write_bytes(node.data)
        else:
            _write(node, place / name)


def find_risks(disk: Disk, calls: Sequence[Call]) -> list[str]:
    """Apply calls to a disk and return what a power cut could lose or empty of what was renamed into place.

    What is renamed must be synced, and its folder after that, before the next file is begun.
    """
    risks, waiting = [], {}
    for call in calls:
        if call.name in ("open", "openat", "creat") and "O_CREAT" in call.flags and disk.at(call.path) is None:
            risks += [f"{target}: its folder was not synced after the rename" for target in waiting.values()]
            waiting.clear()
        if call.name in RENAMES:
            node = disk.at(call.path)
            if node is None or not node.is_safe():
                risks.append(f"{call.target}: renamed before it was synced")
            waiting[call.target.parent] = call.target
        if call.name in ("fsync", "fdatasync"):
            waiting.pop(call.path, None)
        disk.apply(call)
    return risks + [f"{target}: its folder was not synced after the rename" for target in waiting.values()]

"""Tables of things: their rows, the one lookup that every table uses, and plug-ins.

A plug-in is an installed package with entry points of a group ``emobench.<kind>``, or a Python file that is named by
``--plugin`` or `plugins=`. A file reaches other processes and machines as its text, never by its path, and the hash of
its text is part of the identity of its rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import linecache
import os
import re
import sys
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from emobench.errors import ConfigError, Stopped, UnknownNameError, did_you_mean, on_one_line

TABLES = {  # by kind
    "model": "emobench.models:MODELS",
    "network": "emobench.models.networks:NETWORKS",
    "feature set": "emobench.features:FEATURES",
    "corpus": "emobench.corpora:CORPORA",
    "protocol": "emobench.protocols:PROTOCOLS",
    "metric": "emobench.metrics:METRICS",
    "stress": "emobench.stresses:STRESSES",
}
OWN = "emobench"  # where the rows of the tables come from

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_TARGET = re.compile(r"([A-Za-z_]\w*)(\.\w+)*:\w+")


class PluginError(ConfigError):
    """A plug-in that is needed cannot be used."""


class PluginWarning(UserWarning):
    """A plug-in cannot be used, and nothing here needs it."""


# --- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the rows of all tables have in common.

    Attributes
    ----------
    kind : str
        What a row is, in the singular: ``"model"``.
    name : str
        What configs and results call it.
    title : str
        What it is, on one line.
    targets : tuple of str
        The fields that hold a function or a class, or name one as ``"module:attribute"``; see `resolve`.
    plugin : str
        Hash of the plug-in file that the row comes from; set when the file is loaded.
    """

    kind: ClassVar[str]
    targets: ClassVar[tuple[str, ...]] = ()

    plugin: str = field(default="", repr=False)
    name: str
    title: str

    def problem(self) -> str:
        """Return why the row cannot be used, as far as that shows without importing its targets; mostly nothing."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            return (
                f"its name is {self.name!r}; use up to 64 letters, digits and . _ -, beginning with a letter or digit"
            )
        for part in self.targets:
            target = getattr(self, part)
            if not target or callable(target):
                continue
            found = _TARGET.fullmatch(target) if isinstance(target, str) else None
            if not found:
                return f"{part} of {self.name!r} is {target!r}, not a function, a class or 'module:attribute'"
            if found[1] not in sys.modules and find_spec(found[1]) is None:
                return f"{part} of {self.name!r} is {target!r}, but {found[1]!r} is not installed"
        return ""

    def check_targets(self) -> None:
        """Import what the row names; raise `PluginError` where that is not there."""
        for part in self.targets:
            try:
                resolve(getattr(self, part) or str)
            except PluginError as error:
                raise PluginError(f"{part} of the {self.kind} {self.name!r}: {error}") from None

    def origin_key(self) -> dict[str, str]:
        """Return what a key of this row's results holds for a row of a plug-in file: the file's hash."""
        return {"plugin": self.plugin} if self.plugin else {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a row of a file by the file's text, where its functions are."""
        file = _files.get(self.plugin)
        if file is not None and file.rows.get((self.kind, self.name)) is self:
            return _row_of, (file, self.kind, self.name)
        return super().__reduce_ex__(protocol)


@dataclass(frozen=True)
class Option:
    """What a config may set of a corpus or a protocol, beside its name.

    Attributes
    ----------
    type : type
        `int`, `float`, `bool`, `str`, or `Path` for a file or folder, which is relative to the config.
    default : object
        None where a config must set it.
    ge, le : number, optional
        The least and the greatest value.
    choices : tuple
        The allowed values; empty for any.
    """

    type: type
    default: Any = None
    ge: float | None = None
    le: float | None = None
    choices: tuple[Any, ...] = ()

    def problem(self, value: Any) -> str:
        """Return why a value cannot be taken, or nothing."""
        expected = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
        taken = {float: (int, float), Path: (str,)}.get(self.type, (self.type,))
        if type(value) not in taken:
            return f"must be {expected[self.type]}. Got {value!r}."
        if self.ge is not None and not value >= self.ge:
            return f"must be at least {self.ge}. Got {value!r}."
        if self.le is not None and not value <= self.le:
            return f"must be at most {self.le}. Got {value!r}."
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(map(str, self.choices))}. Got {value!r}."
        return ""


def resolve(target: object) -> Any:
    """Return the function or class that a row holds, or import it where the row names it as ``"module:attribute"``.

    Raises
    ------
    PluginError
        If there is no such module or attribute.
    """
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    found, problem = attempt(lambda: getattr(importlib.import_module(module), attribute))
    if problem:
        raise PluginError(f"{target!r} cannot be loaded: {problem}. Install what it needs, or correct its row.")
    return found


def plain(value: Any) -> Any:
    """Return a parameter as JSON has it, the same in every process: a function is its name, never its address."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    return _ADDRESS.sub("", repr(value))


# --- looking up -----------------------------------------------------------------------------------------------------


def lookup(kind: str, table: Mapping[str, Any], name: str) -> Any:
    """Return the row called `name` from a registry, or from a plug-in that offers it.

    Parameters
    ----------
    kind : str
        What a row is, in the singular: ``"model"``. Plug-ins are files (see `using`), and entry points of the group
        ``emobench.<kind>s`` that load to a row of this kind.
    table : mapping of str to row
        The registry.
    name : str
        Row asked for.

    Raises
    ------
    UnknownNameError
        With the nearest known name and all of them.
    PluginError
        If the plug-in that offers it cannot be used.
    """
    if name in table:
        return table[name]
    of_files = {row.name: row for row, _ in _rows_of_files(kind)}
    if name in of_files:
        return of_files[name]
    points = _entry_points(kind)
    if name in points:
        row, problem = _load(points[name], kind)
        if problem:
            raise PluginError(f"The {kind} {name!r} cannot be used: {problem}. Repair or uninstall the plug-in.")
        return row
    known = sorted({*table, *of_files, *points})
    raise UnknownNameError(
        f"Unknown {kind} {name!r}.{did_you_mean(name, known)} Known {plural(kind)}: {', '.join(known)}."
        + "".join(f" {file.name} could define more, but cannot be used: {file.problem}." for file in _broken_files())
    )


def rows(kind: str, table: Mapping[str, Any]) -> list[Any]:
    """Return every row of a registry, and behind them those of plug-ins by name; see `listed`."""
    return [row for row, _ in listed(kind, table)]


def listed(kind: str, table: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """Return every row with where it comes from: ``"emobench"``, a file, or a distribution.

    Warns
    -----
    PluginWarning
        Of each entry point that cannot be used; it is left out.
    """
    offered = _rows_of_files(kind)
    for name, points in _entry_points(kind).items():
        row, problem = _load(points, kind)
        if not problem and name in table:
            problem = f"{_origin(points[0])}: emobench has a {kind} {name!r} of its own"
        if problem:
            warnings.warn(f"the {kind} {name!r} cannot be used: {problem}", PluginWarning, stacklevel=2)
        else:
            offered.append((row, _origin(points[0])))
    return [(row, OWN) for row in table.values()] + sorted(offered, key=lambda item: item[0].name)


def plural(kind: str) -> str:
    """Return the plural of a registry's kind: model → models, corpus → corpora."""
    return {"corpus": "corpora", "feature set": "features", "stress": "stresses"}.get(kind, f"{kind}s")


def _entry_points(kind: str) -> dict[str, list[Any]]:
    from importlib.metadata import entry_points

    found = defaultdict(list)
    for point in entry_points(group=f"emobench.{plural(kind)}"):
        found[point.name].append(point)
    return found


def _origin(point: Any) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _load(points: Sequence[Any], kind: str) -> tuple[Any, str]:
    """Return the row of an entry point, or why it cannot be used."""
    point = points[0]
    if len(points) > 1:
        return None, f"{' and '.join(map(_origin, points))} both define it"
    row, problem = attempt(point.load)
    if not problem and not (isinstance(row, Row) and row.kind == kind):
        problem = f"it is no row of {plural(kind)} but of type {type(row).__name__}"
    if not problem and row.name != point.name:
        problem = f"its row is called {row.name!r}"
    return row, (problem := problem or row.problem()) and f"{_origin(point)} ({point.value}): {problem}"


def attempt(function: Callable[[], Any], *, file: str = "") -> tuple[Any, str]:
    """Return what somebody else's code returns, or in one line why it does not (with the line of `file` that raised).

    What it prints goes to stderr.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return function(), ""
    except Stopped:
        raise
    except BaseException as error:  # a module may do anything while it is imported, `sys.exit()` included
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f" (line {lines[-1]})" if lines else ""
        return None, on_one_line(f"{type(error).__name__}: {error}").rstrip(".: ") + where


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PluginFile:
    """A Python file whose module-level rows join the tables.

    Attributes
    ----------
    name : str
        The path as it was given; only shown.
    text : str
        One module, without imports of its neighbours.
    """

    name: str
    text: str

    @property
    def hash(self) -> str:
        """16 hex digits of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def rows(self) -> dict[tuple[str, str], Row]:
        """The rows by kind and name; none where there is a problem."""
        return self._loaded[0]

    @property
    def problem(self) -> str:
        """Why the file cannot be used; empty where it can."""
        return self._loaded[1]

    @property
    def _loaded(self) -> tuple[dict[tuple[str, str], Row], str]:
        if self.hash not in _contents:
            _files[self.hash], _contents[self.hash] = self, _execute(self)
        return _contents[self.hash]


_active: ContextVar[tuple[PluginFile, ...]] = ContextVar("plugins", default=())
_offered: ContextVar[tuple[Row, ...]] = ContextVar("offered", default=())
_files: dict[str, PluginFile] = {}  # that were loaded in this process, by hash
_contents: dict[str, tuple[dict[tuple[str, str], Row], str]] = {}


Plugins = str | os.PathLike[str] | Sequence[str | os.PathLike[str] | PluginFile]


@contextlib.contextmanager
def using(plugins: Plugins = ()) -> Iterator[None]:
    """Add the rows of plug-in files to the tables, as long as the block lasts.

    Raises
    ------
    ConfigError
        If a file cannot be read, or one of its rows has a name that another row of its kind has.

    Warns
    -----
    PluginWarning
        Of each file that cannot be used, with the cause.
    """
    known = {file.hash: file for file in _active.get()}
    for given in [plugins] if isinstance(plugins, str | os.PathLike) else plugins:
        file = given if isinstance(given, PluginFile) else _read(given)
        if file.hash in known:
            continue
        if file.problem:
            warnings.warn(f"the plug-in {file.name} cannot be used: {file.problem}", PluginWarning, stacklevel=3)
        _check_names(file, known.values())
        known[file.hash] = file
    token = _active.set(tuple(known.values()))
    try:
        yield
    finally:
        _active.reset(token)


@contextlib.contextmanager
def offering(row: Row) -> Iterator[None]:
    """Add one row that is in no file and no table, such as one that is being tested, as long as the block lasts."""
    token = _offered.set((row, *_offered.get()))
    try:
        yield
    finally:
        _offered.reset(token)


def active_files() -> list[PluginFile]:
    """Return the plug-in files that are in use and sound."""
    return [file for file in _active.get() if not file.problem]


def with_plugins(function: Callable[..., Any], tasks: Sequence[tuple]) -> tuple[Callable[..., Any], Sequence[tuple]]:
    """Return a function and its tasks for a worker process, which is to know the files that are in use here."""
    files = tuple(active_files())
    return (_call, [(files, function, *task) for task in tasks]) if files else (function, tasks)


def _call(files: tuple[PluginFile, ...], function: Callable[..., Any], *task: Any) -> Any:
    token = _active.set(files)
    try:
        return function(*task)
    finally:
        _active.reset(token)


def _row_of(file: PluginFile, kind: str, name: str) -> Row:
    return file.rows[kind, name]


def _rows_of_files(kind: str) -> list[tuple[Row, str]]:
    found = [(row, file.name) for file in _active.get() for row in file.rows.values()]
    found += [(row, "this process") for row in _offered.get()]
    return [(row, origin) for row, origin in found if row.kind == kind]


def _broken_files() -> list[PluginFile]:
    return [file for file in _active.get() if file.problem]


def _read(path: str | os.PathLike[str]) -> PluginFile:
    try:
        return PluginFile(os.fspath(path), Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror
    except (ValueError, RuntimeError) as error:  # not UTF-8; a NUL in the path; an unknown user
        reason = str(error)
    raise ConfigError(f"{os.fspath(path)}: the plug-in cannot be read: {reason}. Give a Python file in UTF-8.")


def _execute(file: PluginFile) -> tuple[dict[tuple[str, str], Row], str]:
    """Run a file as a module; return its rows, or why it cannot be used."""
    module = ModuleType(f"emobench_plugin_{file.hash}")
    sys.modules[module.__name__] = module  # where pickle looks for its functions
    linecache.cache[file.name] = (len(file.text), None, file.text.splitlines(keepends=True), file.name)
    _, problem = attempt(lambda: exec(compile(file.text, file.name, "exec"), vars(module)), file=file.name)
    found = {id(value): value for value in vars(module).values() if isinstance(value, Row)}
    problem = problem or next(filter(None, (row.problem() for row in found.values())), "")
    own = [] if problem else [row for row in found.values() if _table(row.kind).get(row.name) is not row]
    by_name = {(row.kind, row.name): row for row in own}
    if not problem and not own:
        problem = "it defines no row, such as NAME = ModelSpec(…)"
    if not problem and len(by_name) < len(own):
        problem = "two of its rows have one kind and one name"
    if problem:
        del sys.modules[module.__name__]
        return {}, problem
    for row in own:
        object.__setattr__(row, "plugin", file.hash)  # rows are frozen for everybody else
    return by_name, ""


def _check_names(file: PluginFile, others: Iterable[PluginFile]) -> None:
    """Refuse a file with a row whose name another row of its kind has."""
    for kind, name in file.rows:
        points = _entry_points(kind)
        owners = [other.name for other in others if (kind, name) in other.rows]
        owners += [OWN] if name in _table(kind) else []
        owners += [_origin(points[name][0])] if name in points else []
        if owners:
            raise ConfigError(
                f"The {kind} {name!r} is defined twice, by {owners[0]} and by {file.name}. Rename the one in the file."
            )


def _table(kind: str) -> Mapping[str, Any]:
    return resolve(TABLES[kind]) if kind in TABLES else {}

"""The text of a config: YAML, read as version 1.2 by a safe loader, with the line of every fault."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from emobench import models
from emobench.config.schema import RENAMED, SCHEMA_VERSION, LocatedError, Location, ModelConfig, RunConfig
from emobench.errors import MAX_LISTED, ConfigError, did_you_mean

if TYPE_CHECKING:
    from ruamel.yaml.parser import Parser

MAX_BYTES = 65_536  # a parser in Python takes seconds for more
MAX_DEPTH = 12
LineOf = Callable[[Sequence[Any]], int | None]

_NO_MAPPING = "a config is a mapping of keys (`corpora:`, `models:` …), and this is {}. Begin from configs/all.yaml."


def load_config(config: str | os.PathLike[str] | Mapping[str, Any] | RunConfig) -> RunConfig:
    """Return a config given as a YAML file, as plain data, or as it is.

    Paths in a file are relative to its folder, those in plain data to the working directory.

    Raises
    ------
    ConfigError
        One message with every fault: file, key, line, what is wrong and what was given.
    """
    if isinstance(config, RunConfig):
        return config
    if isinstance(config, Mapping):
        return validate_config(dict(config))
    path = Path(config)
    try:
        if not path.is_file():
            state = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "not there"
            raise ConfigError(f"{path}: the config is {state}. Name a YAML file, as configs/all.yaml.")
        if path.stat().st_size > MAX_BYTES:
            size = f"{path.stat().st_size:,} bytes, more than {MAX_BYTES:,}"
            raise ConfigError(f"{path}: {size}, so it is no config. Name a YAML file, as configs/all.yaml.")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Check the path and its permissions.") from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: {error}. Check the path.") from None  # a NUL in it
    return parse_config(content, path.name, name=path.stem, folder=path.resolve().parent)


def parse_config(
    content: bytes | str, source: str = "config", *, name: str = "run", folder: Path | None = None
) -> RunConfig:
    """Parse the text of a config; see `load_config`."""
    text = _decode(content, source) if isinstance(content, bytes) else content
    data, line_of = _read_yaml(text, source)
    return validate_config(data, source, line_of, name=name, folder=folder)


def validate_config(
    data: Any,
    source: str = "config",
    line_of: LineOf = lambda _: None,
    *,
    name: str = "run",
    folder: Path | None = None,
) -> RunConfig:
    """Check a config given as plain data; raise `ConfigError` with every fault at once."""
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: {_NO_MAPPING.format(_kind(data))}")
    newer = data.get("schema_version", SCHEMA_VERSION)
    if isinstance(newer, int) and not isinstance(newer, bool) and newer > SCHEMA_VERSION:
        where = _where(("schema_version",), source, line_of)
        raise ConfigError(
            f"{where}: this emobench reads up to version {SCHEMA_VERSION}. Got {newer}. Upgrade emobench."
        )
    try:
        config = RunConfig.model_validate(data, context={"folder": folder or Path.cwd()})
    except ValidationError as error:
        faults = [fault for detail in error.errors(include_url=False) for fault in _faults(detail, source, line_of)]
        raise _config_error(faults) from None
    if config.premium is not None:
        try:
            config = config.with_premium()
        except ConfigError as error:
            raise ConfigError(f"{_where(('premium',), source, line_of)}: {error}") from None
    config, remarks = _drop_duplicates(config, source, line_of)
    config._name, config._remarks = name, remarks
    return config


def _config_error(faults: Sequence[tuple[int | None, str]]) -> ConfigError:
    """Return one error for faults and their lines, in the order of the file."""
    texts = list(dict.fromkeys(text for _, text in sorted(faults, key=lambda fault: fault[0] or 0)))
    more = [f"… and {len(texts) - MAX_LISTED} more"] if len(texts) > MAX_LISTED else []
    return ConfigError("\n".join([*texts[:MAX_LISTED], *more]))


def _decode(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None


def _read_yaml(text: str, source: str) -> tuple[Any, LineOf]:
    """Return the plain data of a YAML text, and a function from a key's path to its line (from 1)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.Parser = _checked_parser(source)
    try:
        node = yaml.compose(text)
        if node is None:
            raise ConfigError(f"{source}: {_NO_MAPPING.format('empty')}")
        if faults := [(line, f"{source}{text}") for line, text in _key_faults(node, ())]:
            raise _config_error(faults)
        data = YAML(typ="safe", pure=True).constructor.construct_document(node)
    except (YAMLError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).strip().splitlines()[0]
        raise ConfigError(f"{source}{line}: not valid YAML: {problem.strip().rstrip('.')}. Correct it.") from None
    return data, lambda path: _line(node, path)


def _checked_parser(source: str) -> type[Parser]:
    """Return a parser that refuses what a few lines of can stand for gigabytes: aliases, and endless nesting."""
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
    from ruamel.yaml.parser import Parser

    class CheckedParser(Parser):
        depth = 0

        def get_event(self) -> Any:
            event = super().get_event()
            where = f"{source} (line {event.start_mark.line + 1})"
            if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
                raise ConfigError(f"{where}: anchors and aliases (& and *) are not read. Write it out.")
            self.depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if self.depth > MAX_DEPTH:
                raise ConfigError(f"{where}: nested more than {MAX_DEPTH} deep. Flatten it.")
            return event

    return CheckedParser


def _key_faults(node: Any, location: Location) -> Iterator[tuple[int, str]]:
    """Yield (line, fault) of every key that is not text, or that stands twice in its mapping."""
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    if isinstance(node, SequenceNode):
        for index, child in enumerate(node.value):
            yield from _key_faults(child, (*location, index))
    if not isinstance(node, MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if str(key.tag) != "tag:yaml.org,2002:str":
            shown = _shown(key.value) if isinstance(key.value, str) else "a list or a mapping"
            where = f": {_dotted(location)}" if location else ""
            yield line, f"{where} (line {line}): a key is not text: {shown}. Quote it, or write a name."
            continue
        if key.value in first:
            where = f": {_dotted((*location, key.value))} (line {line})"
            yield line, f"{where}: the key is on line {first[key.value]} too. Remove one."
        first.setdefault(key.value, line)
        yield from _key_faults(value, (*location, key.value))


def _line(node: Any, path: Sequence[Any]) -> int | None:
    """Return the line of the deepest node on a path of keys and positions."""
    line = None
    for part in path:
        children = getattr(node, "value", None)
        if not isinstance(children, list):
            break
        if children and isinstance(children[0], tuple):
            found = next(((key, value) for key, value in children if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(part, int) and part < len(children):
            node = children[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _faults(detail: Any, source: str, line_of: LineOf) -> Iterator[tuple[int | None, str]]:
    """Yield (line, message) of a fault that pydantic found, or of each that a validator of ours put into one."""
    location = tuple(part for part in detail["loc"] if part != "[key]")
    cause = (detail.get("ctx") or {}).get("error")
    if isinstance(cause, LocatedError):
        found = [((*location, *below), text) for below, text in cause.faults]
    else:
        found = [(location, str(cause) if isinstance(cause, Exception) else _reason(detail, location))]
    for place, text in found:
        yield line_of(place), f"{_where(place, source, line_of)}: {text}"


def _reason(detail: Any, location: Sequence[Any]) -> str:
    """Return what pydantic says of a value; of a key, what there is in its place."""
    if detail["type"] == "extra_forbidden" and location[-1] in RENAMED:
        return f"unknown key. {RENAMED[location[-1]]}"
    if detail["type"] == "extra_forbidden":
        known = sorted(_known_keys(location[:-1]))
        hint = " Parameters of a model stand below `params:`." if {"id", "params"} <= set(known) else ""
        return f"unknown key.{did_you_mean(str(location[-1]), known)}{hint} Known keys: {', '.join(known)}."
    if detail["type"] == "missing":
        return "this key is required, and it is missing. Add it."
    given, choices = detail.get("input"), re.findall(r"'([^']*)'", (detail.get("ctx") or {}).get("expected", ""))
    near = did_you_mean(str(given), choices) if choices else ""
    return f"{detail['msg'].lower() if detail['msg'].isascii() else detail['msg']}. Got {_kind(given)}.{near}"


def _where(location: Sequence[Any], source: str, line_of: LineOf) -> str:
    line = line_of(location)
    return (f"{source}: {_dotted(location)}" if location else source) + (f" (line {line})" if line else "")


def _dotted(location: Sequence[Any]) -> str:
    text = ""
    for part in location:
        name = str(part) if str(part).isprintable() else repr(part)
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text


def _known_keys(location: Sequence[Any]) -> set[str]:
    """Return the keys of the model that a location leads to."""
    model: Any = RunConfig
    for part in location:
        if part not in model.model_fields:  # the position in a list
            continue
        annotation = model.model_fields[part].annotation
        model = next((arg for arg in (annotation, *get_args(annotation)) if _is_model(arg)), model)
    return set(model.model_fields)


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _kind(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    names = {str: " (text)", bool: " (true or false)"}
    return "nothing" if value is None else f"{_shown(value)}{names.get(type(value), '')}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:78]} …"


def _drop_duplicates(config: RunConfig, source: str, line_of: LineOf) -> tuple[RunConfig, tuple[str, ...]]:
    """Drop entries that repeat another one's model and parameters; refuse one id for two different entries."""
    alike: dict[Any, ModelConfig] = {}
    by_entry: dict[str, ModelConfig] = {}
    remarks, faults = [], []
    for index, model in enumerate(config.models):
        content = _content(models.settings(models.get_model(model.name), model.params))
        same = alike.get((model.name, content))
        if same is None and model.entry not in by_entry:
            alike[model.name, content] = by_entry[model.entry] = model
            continue
        where = _where(("models", index), source, line_of)
        if same is not None:
            remarks.append(f"{where}: {model.entry!r} has the model and parameters of {same.entry!r} and is left out")
        else:
            fault = f"two entries are called {model.entry!r}, with different parameters. Give one an `id:` of its own."
            faults.append((line_of(("models", index)), f"{where}: {fault}"))
    if faults:
        raise _config_error(faults)
    return config.model_copy(update={"models": list(by_entry.values())}), tuple(remarks)


def _content(value: Any) -> Hashable:
    """Return what is equal, and has one hash, for equal values of a config."""
    if isinstance(value, Mapping):
        return "mapping", frozenset((name, _content(member)) for name, member in value.items())
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(_content, value))
    return value if isinstance(value, Hashable) else repr(value)

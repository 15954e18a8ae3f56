"""The text of a config: YAML, read as version 1.2 by a safe loader, with the line of every fault."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ValidationError,
)

from emobench import models
from emobench.config.schema import SCHEMA_VERSION, LocatedError, Location, ModelConfig, RunConfig
from emobench.errors import MAX_LISTED, ConfigError, EmobenchError, did_you_mean

MAX_BYTES = 65_536  # a parser in Python takes seconds for more
MAX_DEPTH = 12
LineOf = Callable[[Sequence[Any]], int | None]


@dataclass(frozen=True)
class LoadedConfig:
    """A config with where it came from: its name (the file's stem), its folder, and remarks for the user."""

    config: RunConfig
    name: str
    folder: Path
    remarks: tuple[str, ...] = ()

    def resolve_path(self, path: str) -> Path:
        """Return a path of the config: relative to the config's folder, with `~` expanded."""
        return Path(os.path.normpath(self.folder / Path(path).expanduser()))


def load_config(path: str | os.PathLike[str]) -> LoadedConfig:
    """Read and check a config file.

    Raises
    ------
    ConfigError
        One message with every fault: file, key, line, what must hold and what was given.
    """
    path = Path(path)
    try:
        if not path.is_file():
            state = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "not there"
            raise ConfigError(f"{path}: must be a config file. It is {state}. Name a YAML file, as configs/all.yaml.")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"{path}: must be at most {MAX_BYTES:,} bytes. It has {path.stat().st_size:,}. Name a config."
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, EmobenchError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: must be readable. {reason}. Check the path and its permissions.") from None
    config, remarks = parse_config(content, path.name)
    return LoadedConfig(config, path.stem, path.resolve().parent, remarks)


def parse_config(content: bytes | str, source: str = "config") -> tuple[RunConfig, tuple[str, ...]]:
    """Parse the text of a config; return it with remarks on what was dropped as a duplicate."""
    text = _decode(content, source) if isinstance(content, bytes) else content
    data, line_of = _read_yaml(text, source)
    return validate_config(data, source, line_of)


def validate_config(
    data: Any, source: str = "config", line_of: LineOf = lambda _: None
) -> tuple[RunConfig, tuple[str, ...]]:
    """Check a config given as plain data; raise `ConfigError` with every fault at once."""
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: must be a mapping of keys (`corpora:`, `models:` …). It is {_kind(data)}. "
            "Begin from configs/all.yaml."
        )
    newer = data.get("schema_version", SCHEMA_VERSION)
    if isinstance(newer, int) and not isinstance(newer, bool) and newer > SCHEMA_VERSION:
        where = _where(("schema_version",), source, line_of)
        raise ConfigError(f"{where}: must be at most {SCHEMA_VERSION}. Got {newer}. Upgrade emobench to read it.")
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        faults = [fault for detail in error.errors(include_url=False) for fault in _faults(detail, source, line_of)]
        raise _config_error(faults) from None
    if config.premium is not None:
        try:
            config = config.with_premium()
        except ConfigError as error:
            raise ConfigError(f"{_where(('premium',), source, line_of)}: {error}") from None
    return _drop_duplicates(config, source, line_of)


def _config_error(faults: Sequence[tuple[int | None, str]]) -> ConfigError:
    """Return one error for faults and their lines, in the order of the file."""
    texts = list(dict.fromkeys(text for _, text in sorted(faults, key=lambda fault: fault[0] or 0)))
    more = [f"… and {len(texts) - MAX_LISTED} more"] if len(texts) > MAX_LISTED else []
    return ConfigError("\n".join([*texts[:MAX_LISTED], *more]))


def _decode(content: bytes, source: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        raise ConfigError(f"{source}: must be UTF-8 without a byte order mark. It has one. Save it as plain UTF-8.")
    if b"\0" in content:
        raise ConfigError(f"{source}: must be text. It holds a NUL character. Save it as plain UTF-8.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: must be UTF-8. Byte {error.start} is not. Save it as plain UTF-8.") from None


def _read_yaml(text: str, source: str) -> tuple[Any, LineOf]:
    """Return the plain data of a YAML text, and a function from a key's path to its line (from 1)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        _check_events(YAML(typ="safe", pure=True).parse(text), source)
        node = YAML(typ="safe", pure=True).compose(text)
        if node is None:
            raise ConfigError(
                f"{source}: must be a mapping of keys (`corpora:`, `models:` …). It is empty. "
                "Begin from configs/all.yaml."
            )
        if faults := [(line, f"{source}{text}") for line, text in _key_faults(node, ())]:
            raise _config_error(faults)
        data = YAML(typ="safe", pure=True).constructor.construct_document(node)
    except (YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{source}{_mark(error)}: must be valid YAML 1.2. {_problem(error)}") from None
    return data, lambda path: _line(node, path)


def _check_events(events: Iterator[Any], source: str) -> None:
    """Refuse what a config never needs, before anything is constructed: aliases, tags, depth, more documents."""
    from ruamel.yaml import events as kinds

    depth = n_documents = 0
    for event in events:
        where = f"{source} (line {event.start_mark.line + 1})"
        if isinstance(event, kinds.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(f"{where}: anchors and aliases (& and *) must not be used. Write it out.")
        tag = str(event.tag) if isinstance(event, kinds.NodeEvent) and getattr(event, "tag", None) else None
        if tag:
            raise ConfigError(f"{where}: tags must not be used. Got {_shown(tag)}. Remove it.")
        if isinstance(event, kinds.DocumentStartEvent):
            n_documents += 1
            if n_documents > 1:
                raise ConfigError(f"{where}: must be one document. A second one starts (---). Remove it.")
            if event.tags or tuple(event.version or (1, 2)) != (1, 2):
                raise ConfigError(f"{where}: must be YAML 1.2 without directives (%YAML, %TAG). Remove them.")
        depth += isinstance(event, kinds.CollectionStartEvent) - isinstance(event, kinds.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{where}: must be nested at most {MAX_DEPTH} deep. Flatten it.")


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
            hint = "Quote it." if isinstance(key.value, str) else "Write a name."
            where = f": {_dotted(location)}" if location else ""
            yield line, f"{where} (line {line}): keys must be text. Got {shown}. {hint}"
            continue
        if key.value in first:
            where = _dotted((*location, key.value))
            yield (
                line,
                f": {where} (line {line}): keys must be different. It is on line {first[key.value]} too. Remove one.",
            )
        first.setdefault(key.value, line)
        yield from _key_faults(value, (*location, key.value))


def _mark(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f" (line {mark.line + 1})" if mark is not None else ""


def _problem(error: Exception) -> str:
    text = getattr(error, "problem", None) or str(error).strip().splitlines()[0]
    hint = "Indent with spaces." if "\\t" in text else "Correct it."
    return f"The parser says: {text.strip().rstrip('.')}. {hint}"


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


def _where(location: Sequence[Any], source: str, line_of: LineOf) -> str:
    line = line_of(location)
    return (f"{source}: {_dotted(location)}" if location else source) + (f" (line {line})" if line else "")


def _dotted(location: Sequence[Any]) -> str:
    text = ""
    for part in location:
        name = str(part) if str(part).isprintable() else repr(part)
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text


_MUST = {
    "invalid_key": "must have keys that are text",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a name or a mapping of keys",
    "string_pattern_mismatch": "must be 1 to 64 letters, digits, dots, dashes and underscores, the first no sign",
    "string_too_short": "must not be empty",
}


def _reason(detail: Any, location: Sequence[Any]) -> str:
    """Say what must hold, what was given and what to do."""
    kind, given, context = detail["type"], detail.get("input"), detail.get("ctx") or {}
    if kind == "extra_forbidden":
        known = sorted(_known_keys(location[:-1]))
        hint = " Parameters of a model stand below `params:`." if {"id", "params"} <= set(known) else ""
        near = did_you_mean(str(location[-1]), known)
        return f"must be a known key. It is none.{near}{hint} Known keys: {', '.join(known)}."
    if kind == "missing":
        return "must be given. It is absent. Add it."
    if kind == "too_short":
        return f"must have at least {context['min_length']} item(s). It has {context['actual_length']}. Add one."
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return (
            f"must be {context['expected']}. Got {_kind(given)}.{did_you_mean(str(given), choices)} Take one of them."
        )
    must = _MUST.get(kind) or detail["msg"].replace("Input should be", "must be").replace("String should", "must")
    return f"{must}. Got {_kind(given)}. {_advice(kind, given)}"


def _advice(kind: str, given: Any) -> str:
    if given is None:
        return "Give a value, or remove the key."
    if kind == "string_type" and not isinstance(given, dict | list):
        return "Quote it to make it text."
    if kind == "list_type" and not isinstance(given, dict):
        return f"Write it as a list: [{given}]."
    if kind == "bool_type" and isinstance(given, str) and given.lower() in {"yes", "no", "on", "off"}:
        return "In YAML 1.2 that is text; write true or false."
    if isinstance(given, str) and kind in {"int_type", "float_type", "bool_type"} and _is_number_or_bool(given):
        return "Write it without quotes."
    return "Change it."


def _is_number_or_bool(text: str) -> bool:
    return bool(re.fullmatch(r"true|false|[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text))


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
    kept: list[ModelConfig] = []
    remarks, faults = [], []
    for index, model in enumerate(config.models):
        settings = _settings(model)
        same = next((k for k in kept if k.name == model.name and _settings(k) == settings), None)
        clash = next((k for k in kept if k.entry == model.entry), None)
        where = _where(("models", index), source, line_of)
        if same is not None:
            remarks.append(f"{where}: {model.entry!r} has the model and parameters of {same.entry!r} and is left out")
        elif clash is not None:
            fault = f"entries must have different names. {model.entry!r} stands twice, with different parameters."
            faults.append((line_of(("models", index)), f"{where}: {fault} Give one an `id:` of its own."))
        else:
            kept.append(model)
    if faults:
        raise _config_error(faults)
    return config.model_copy(update={"models": kept}), tuple(remarks)


def _settings(model: ModelConfig) -> Mapping[str, Any]:
    return models.settings(models.get_model(model.name), model.params)

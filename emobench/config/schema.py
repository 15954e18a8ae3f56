"""Configs: a YAML file becomes a closed, typed `RunConfig`, or one message that says where and why not.

YAML is read as version 1.2 (`no` is a string, `1e-3` a number) by a safe loader; anchors, tags and several documents
are refused. Keys that are not known, values of another type and numbers that are not finite are errors with the line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from emobench import features, metrics, models, protocols
from emobench.audio import AudioPolicy
from emobench.corpora import get_corpus
from emobench.errors import MAX_LISTED, ConfigError, EmobenchError, UnknownNameError, did_you_mean

SCHEMA_VERSION = 1
MAX_BYTES = 65_536  # a parser in Python takes seconds for more
MAX_DEPTH = 12

Location = tuple[str | int, ...]
LineOf = Callable[[Sequence[Any]], int | None]


class _LocatedError(ValueError):
    """Faults of a part of a config, each with its place below that part."""

    def __init__(self, *faults: tuple[Location, str]):
        super().__init__(*faults)
        self.faults = faults


def _usable_path(text: str) -> str:
    """Refuse what the system would refuse to look for at all."""
    try:
        os.fsencode(Path(text).expanduser())
    except UnicodeEncodeError:
        raise ValueError(f"must be a path. {text!r} holds a character that no name can have. Correct it.") from None
    except RuntimeError:
        raise ValueError(f"must be a path. {text!r} begins with an unknown user. Write the folder out.") from None
    if "\0" in text:
        raise ValueError(f"must be a path. {text!r} holds a NUL character. Correct it.")
    return text


def _known(get: Callable[[str], Any]) -> AfterValidator:
    """Return a validator that refuses a name without a row in a registry."""

    def check(name: str) -> str:
        get(name)
        return name

    return AfterValidator(check)


Name = Annotated[str, StringConstraints(min_length=1, max_length=80)]
CorpusName = Annotated[Name, _known(get_corpus)]
FeaturesName = Annotated[Name, _known(features.get_features)]
MetricName = Annotated[Name, _known(metrics.get_metric)]
ModelName = Annotated[Name, _known(models.get_model)]
ProtocolName = Annotated[Name, _known(protocols.get_protocol)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_usable_path)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class CorpusConfig(_Closed):
    """A corpus: a row of `CORPORA`, where its files are, and which emotions to take."""

    name: CorpusName
    id: Identifier | None = None
    root: FilePath | None = None
    path: FilePath | None = None
    when_missing: Literal["error", "fetch", "synthetic"] = "error"
    emotions: list[Name] | None = Field(default=None, min_length=2)

    @property
    def label(self) -> str:
        """Name in results: the row's, or a manifest's `id` or file name."""
        return self.name if self.path is None else self.id or Path(self.path).stem

    @model_validator(mode="after")
    def _check(self) -> CorpusConfig:
        is_manifest = self.name == "manifest"
        faults: list[tuple[Location, str]] = []
        for key in ("id", "path"):
            if getattr(self, key) is not None and not is_manifest:
                faults.append(((key,), f"must be used with the corpus manifest only. Got {self.name!r}. Remove it."))
        if is_manifest and self.path is None:
            faults.append(((), "a manifest must have `path:`, the CSV of its recordings. It is absent. Add it."))
        known = get_corpus(self.name).emotions
        for index, emotion in enumerate(self.emotions or ()):
            if known and emotion not in known:
                near = did_you_mean(emotion, list(known))
                must = f"must be an emotion of {self.name}. Got {emotion!r}.{near} Known: {', '.join(known)}."
                faults.append((("emotions", index), must))
        faults += _repeats(self.emotions or (), "emotions", " Remove one.")
        if faults:
            raise _LocatedError(*faults)
        return self


class ModelConfig(_Closed):
    """A model: a row of `MODELS`, the entry's name on the leaderboard, and its parameters."""

    name: ModelName
    id: Identifier | None = None
    params: dict[str, Any] = Field(default_factory=dict)

    @property
    def entry(self) -> str:
        return self.id or self.name

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        spec = models.get_model(self.name)
        faults: list[tuple[Location, str]] = []
        for name, value in self.params.items():
            try:
                models.check_parameters(spec, {name: value})
            except ConfigError as error:
                faults.append((("params", name), str(error)))
        if faults:
            raise _LocatedError(*faults)
        return self


class ProtocolConfig(_Closed):
    """A protocol: a row of `PROTOCOLS`, its name on the leaderboard, and the options that the row has."""

    name: ProtocolName
    id: Identifier | None = None
    n_splits: int | None = Field(default=None, ge=2)
    path: FilePath | None = None
    protocol: str | None = None

    @property
    def label(self) -> str:
        return self.id or self.name

    @property
    def options(self) -> dict[str, Any]:
        given = {"n_splits": self.n_splits, "path": self.path, "protocol": self.protocol}
        return {**protocols.get_protocol(self.name).options, **{k: v for k, v in given.items() if v is not None}}

    @model_validator(mode="after")
    def _check(self) -> ProtocolConfig:
        row = protocols.get_protocol(self.name)
        given = {key for key in self.model_fields_set - {"name", "id"} if getattr(self, key) is not None}
        takes = f"It takes {', '.join(row.options)}." if row.options else "It takes no options."
        faults: list[tuple[Location, str]] = [
            ((key,), f"must be an option of protocol {self.name!r}. {takes} Remove it.")
            for key in sorted(given - set(row.options))
        ]
        faults += [
            ((), f"protocol {self.name!r} must have `{key}:`. It is absent. Add it.")
            for key, default in row.options.items()
            if default is None and key not in given
        ]
        if faults:
            raise _LocatedError(*faults)
        return self


class AudioConfig(_Closed):
    """What recordings are accepted; the fields of `AudioPolicy`."""

    mono: Literal["mean", "first", "error"] = "mean"
    min_duration_s: float = Field(default=0.1, gt=0)
    max_duration_s: float = Field(default=3600.0, gt=0)
    max_silence: Literal["accept", "reject"] = "accept"

    @property
    def policy(self) -> AudioPolicy:
        return AudioPolicy(**self.model_dump())


class TuningConfig(_Closed):
    """How many trials a study of each entry has, and over how many speaker-grouped folds of its training part."""

    n_trials: int = Field(default=8, ge=1, le=10_000)
    inner_splits: int = Field(default=3, ge=2)
    per_model: dict[Name, Annotated[int, Field(ge=0, le=10_000)]] = Field(default_factory=dict)

    def trials_of(self, model: ModelConfig) -> int:
        """Return the number of trials of an entry: by its name on the leaderboard, else by its model's."""
        return self.per_model.get(model.entry, self.per_model.get(model.name, self.n_trials))


class LatencyConfig(_Closed):
    """How the speed of every entry's bundle is measured.

    Attributes
    ----------
    rounds : int
        Fresh processes of each bundle, in turn; a figure is the median over them.
    block_s : float
        Seconds that calls of one stage and batch size are timed for in a round.
    batches : list of int
        How many clips are answered at once; 1 is the leaderboard's.
    """

    rounds: int = Field(default=10, ge=4, le=1000)
    block_s: float = Field(default=0.1, gt=0, le=60)
    batches: list[Annotated[int, Field(ge=1, le=4096)]] = [1, 8, 64]

    @field_validator("batches")
    @classmethod
    def _batches_hold_one(cls, batches: list[int]) -> list[int]:
        if 1 not in batches:
            raise ValueError(f"must hold 1, which the leaderboard shows. Got {batches}. Add it.")
        return _refuse_repeats(batches, batches, "sizes", " Remove one.")


class PremiumConfig(_Closed):
    """The leakage premium: the same entries once more, under a protocol that shares speakers.

    Without `random` that is the config's own ``random-kfold``, or one with as many folds as its first protocol that
    keeps speakers apart and takes `n_splits`.
    """

    random: ProtocolConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_becomes_row(cls, data: Any) -> Any:
        is_name = isinstance(data, dict) and isinstance(data.get("random"), str)
        return {**data, "random": {"name": data["random"]}} if is_name else data

    @model_validator(mode="after")
    def _check(self) -> PremiumConfig:
        if self.random is not None and not protocols.get_protocol(self.random.name).is_leaky:
            raise _LocatedError(
                (
                    ("random", "name"),
                    f"must be a protocol that shares speakers. Got {self.random.name!r}. Take random-kfold.",
                )
            )
        return self


class RunConfig(_Closed):
    """Everything that a run is: what it leaves out has the default that stands here."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    corpora: list[CorpusConfig] = Field(min_length=1)
    features: list[FeaturesName] = Field(default=["mfcc40"], min_length=1)
    models: list[ModelConfig] = Field(min_length=1)
    protocols: list[ProtocolConfig] = Field(default=[ProtocolConfig(name="group-kfold")], min_length=1)
    tuning: TuningConfig | None = None
    latency: LatencyConfig | None = None
    metrics: list[MetricName] = Field(default=["uar", "war", "macro_f1"], min_length=1)
    repeats: int = Field(default=1, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, lt=2**32)
    audio: AudioConfig = AudioConfig()
    on_bad_audio: Literal["fail", "skip"] = "fail"
    allow_missing_class: bool = False
    job_timeout_s: float | None = Field(default=None, gt=0)
    premium: PremiumConfig | None = None

    @model_serializer(mode="wrap")
    def _leave_out_what_is_absent(self, serialize: Any) -> dict[str, Any]:
        """Leave out an absent `premium`, so that a run without it keeps the name that it had before there was one."""
        return {key: value for key, value in serialize(self).items() if key != "premium" or value is not None}

    @model_validator(mode="before")
    @classmethod
    def _names_become_rows(cls, data: Any) -> Any:
        """Let `svm` stand for `{name: svm}` in lists of models, protocols and corpora."""
        if not isinstance(data, dict):
            return data
        rows = ("corpora", "models", "protocols")
        return {key: _expand(value) if key in rows else value for key, value in data.items()}

    @field_validator("features", "metrics")
    @classmethod
    def _names_differ(cls, names: list[str]) -> list[str]:
        return _refuse_repeats(names, names, "names", " Remove one.")

    @field_validator("corpora", "protocols")
    @classmethod
    def _labels_differ(cls, rows: list[Any]) -> list[Any]:
        return _refuse_repeats(
            rows, [row.label for row in rows], "names in results", " Remove one, or give it an `id:`."
        )

    @model_validator(mode="after")
    def _check_tuning(self) -> RunConfig:
        if self.tuning is None:
            return self
        entries = [model.entry for model in self.models]
        known = sorted({*entries, *(model.name for model in self.models)})
        faults: list[tuple[Location, str]] = [
            (
                ("tuning", "per_model", name),
                f"must be a model or an entry of this config.{did_you_mean(name, known)} Known: {', '.join(known)}.",
            )
            for name in self.tuning.per_model
            if name not in known
        ]
        faults += [
            (
                ("models", index, "id"),
                f"{entry!r} must stay free for {entry.removesuffix('-tuned')!r} tuned. Change it.",
            )
            for index, entry in enumerate(entries)
            if entry.endswith("-tuned") and entry.removesuffix("-tuned") in entries
        ]
        if faults:
            raise _LocatedError(*faults)
        return self

    @property
    def honest_protocols(self) -> list[ProtocolConfig]:
        """Those under which nothing but the speaker is new in a test part: what the leakage premium compares with."""
        return [row for row in self.protocols if protocols.get_protocol(row.name).is_speaker_independent]

    def with_premium(self) -> RunConfig:
        """Return the config with a `premium` that is written out, and its protocol among the others.

        One that compares both kinds of protocols as it is remains what it is: what was finished under its name counts.
        """
        if not self.honest_protocols:
            raise ConfigError(
                "A premium must have a protocol under which only speakers are new, to compare with. Got "
                f"{', '.join(row.label for row in self.protocols)}. Add group-kfold to `protocols`."
            )
        given = self.premium.random if self.premium else None
        own = next((row for row in self.protocols if protocols.get_protocol(row.name).is_leaky), None)
        if self.premium is None and own is not None:
            return self
        sizes = [row.options["n_splits"] for row in self.honest_protocols if "n_splits" in row.options]
        random = given or own or ProtocolConfig(name="random-kfold", n_splits=sizes[0] if sizes else None)
        clash = next((row for row in self.protocols if row.label == random.label), None)
        if clash is not None and (clash.name, clash.options) != (random.name, random.options):
            raise ConfigError(
                f"premium.random must have a name of its own. `protocols` has {random.label!r} with other options. "
                "Make them equal, or give one an `id:`."
            )
        protocols = self.protocols if clash is not None else [*self.protocols, random]
        return self.model_copy(update={"protocols": protocols, "premium": PremiumConfig(random=random)})


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
    if isinstance(cause, _LocatedError):
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


def _expand(rows: Any) -> Any:
    if not isinstance(rows, list):
        return rows
    return [{"name": row} if isinstance(row, str) else row for row in rows]


def _repeats(names: Sequence[str], what: str, advice: str) -> list[tuple[Location, str]]:
    """Return a fault for each name that stood before."""
    return [
        ((what, index), f"{what} must be different. {name!r} stands twice.{advice}")
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def _refuse_repeats(rows: list[Any], names: Sequence[str], what: str, advice: str) -> list[Any]:
    if faults := _repeats(names, what, advice):
        raise _LocatedError(*((location[1:], text) for location, text in faults))
    return rows


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


__all__ = [
    "AudioConfig",
    "CorpusConfig",
    "LatencyConfig",
    "LoadedConfig",
    "ModelConfig",
    "PremiumConfig",
    "ProtocolConfig",
    "RunConfig",
    "UnknownNameError",
    "load_config",
    "parse_config",
    "validate_config",
]

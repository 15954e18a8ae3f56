"""Configs: a YAML file becomes a closed, typed `RunConfig`, or one message that says where and why not.

YAML is read as version 1.2 (`no` is a string, `1e-3` a number) by a safe loader; anchors, tags and several documents
are refused. Keys that are not known, values of another type and numbers that are not finite are errors with the line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from emobench import features, metrics, models
from emobench.audio import AudioPolicy
from emobench.corpora import CorpusSpec, get_corpus
from emobench.corpora.scanning import find_spelling
from emobench.errors import ConfigError, UnknownNameError, did_you_mean
from emobench.protocols import ProtocolSpec, get_protocol
from emobench.registry import resolve
from emobench.stresses import STRESSES, get_stress

SCHEMA_VERSION = 1

Location = tuple[str | int, ...]

# Keys of earlier versions, wherever they stood → what does that now.
RENAMED = {"max_silence": "This is now `on_silence: keep`, `leave_out` or `fail`, beside `audio:`, not below it."}


class LocatedError(ValueError):
    """Faults of a part of a config, each with its place below that part."""

    def __init__(self, *faults: tuple[Location, str]):
        super().__init__(*faults)
        self.faults = faults


def _resolved(text: str, info: ValidationInfo) -> str:
    """Return a path of a config as an absolute one: relative to the config's folder, with `~` expanded."""
    try:
        path = os.path.normpath((info.context or {}).get("folder", Path.cwd()) / Path(text).expanduser())
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} holds a character that no path can have. Correct it.") from None
    except RuntimeError:
        raise ValueError(f"{text!r} begins with an unknown user. Write the folder out.") from None
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL character, which no path can have. Correct it.")
    anchor = Path(path).anchor
    return os.path.join(anchor, find_spelling(Path(anchor), path.removeprefix(anchor)))


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
ProtocolName = Annotated[Name, _known(get_protocol)]
StressName = Annotated[Name, _known(get_stress)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_resolved)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, serialize: Any) -> dict[str, Any]:
        """Leave out keys of `later` that have their default, so that runs keep the names from before there were any."""
        fields = type(self).model_fields
        return {
            key: value
            for key, value in serialize(self).items()
            if key not in self.later or getattr(self, key) != fields[key].get_default(call_default_factory=True)
        }


class _WithOptions(_Closed):
    """An item of a list that names a row, with the row's options flat beside the keys that all items have."""

    model_config = ConfigDict(extra="allow")

    @property
    def _row(self) -> Any:
        raise NotImplementedError

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the row, with its value or default."""
        return {name: option.default for name, option in self._row.options.items()} | (self.model_extra or {})

    def _option_faults(self, info: ValidationInfo) -> list[tuple[Location, str]]:
        """Check the options that are given, make their paths absolute, and return what is wrong."""
        row, given = self._row, self.model_extra
        assert given is not None  # extra keys are allowed
        for name in [name for name, value in given.items() if value is None]:  # `n_splits:` with nothing behind it
            del given[name]
        known = sorted({*type(self).model_fields, *row.options})
        faults: list[tuple[Location, str]] = []
        for name, value in given.items():
            if name not in row.options:
                known_keys = f"Known keys of {row.kind} {row.name!r}: {', '.join(known)}."
                faults.append(((name,), f"unknown key.{did_you_mean(name, known)} {known_keys}"))
            elif problem := row.options[name].problem(value):
                faults.append(((name,), f"{problem} Correct it."))
            elif row.options[name].type is Path:
                try:
                    given[name] = _resolved(value, info)
                except ValueError as error:
                    faults.append(((name,), str(error)))
        for name, option in row.options.items():
            if option.default is None and name not in given:
                faults.append(((), f"{row.kind} {row.name!r} must have `{name}:`. It is absent. Add it."))
        return faults


def _exclusions(given: Any) -> str | list[str]:
    paths = given if isinstance(given, list) else [given]
    if not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"must be known, none, or a list of paths as results show them. Got {given!r}.")
    return given


def _speakers(given: Any) -> dict[str, str] | Literal["unknown"]:
    if given == "unknown" or (
        isinstance(given, dict) and all(isinstance(name, str) and name for item in given.items() for name in item)
    ):
        return given
    raise ValueError(f"must be unknown, or give one spelling of a speaker another. Got {given!r}.")


class CorpusConfig(_WithOptions):
    """A corpus: a row of `CORPORA`, where its files are, what to take of it, and the options that the row has.

    Attributes
    ----------
    labels : dict
        Label of the corpus → label in results; others keep their own.
    speakers : dict or "unknown"
        Speaker of the corpus → speaker in results: unites what one person is called. With ``unknown``, those that the
        corpus names are passed over.
    distinct : bool
        Whether speakers whose names look alike are different people, so that they are no error.
    exclude : str or list of str
        Recordings to leave out: those with a known defect (``known``), by another rule of the corpus, or these paths.
    """

    later = frozenset({"labels", "speakers", "distinct", "exclude"})

    name: CorpusName
    id: Identifier | None = None
    root: FilePath | None = None
    when_missing: Literal["error", "fetch", "synthetic"] = "error"
    emotions: list[Name] | None = Field(default=None, min_length=2)
    labels: dict[Name, Name] = Field(default_factory=dict)
    speakers: Annotated[dict[str, str] | Literal["unknown"], PlainValidator(_speakers)] = Field(default_factory=dict)
    distinct: bool = False
    exclude: Annotated[str | list[str], PlainValidator(_exclusions)] = "known"

    @property
    def _row(self) -> CorpusSpec:
        return get_corpus(self.name)

    @property
    def path(self) -> str | None:
        """The file that a corpus such as a manifest is read from; None for one that is a folder."""
        return self.options.get("path")

    @property
    def label(self) -> str:
        """Name in results: the `id`, else a manifest's file name, else the row's."""
        return self.id or (self.name if self.path is None else Path(self.path).stem)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> CorpusConfig:
        faults = self._option_faults(info)
        own = self._row.emotions
        known = [*(label for label in own if label not in self.labels), *self.labels.values()] if own else []
        known = sorted(set(known))
        for index, emotion in enumerate(self.emotions or ()):
            if known and emotion not in known:
                near = did_you_mean(emotion, known)
                must = f"must be an emotion of {self.name}. Got {emotion!r}.{near} Known: {', '.join(known)}."
                faults.append((("emotions", index), must))
        faults += _repeats(self.emotions or (), "emotions", " Remove one.")
        rules = ("known", "none", *self._row.exclusions)
        if isinstance(self.exclude, str) and self.exclude not in rules:
            must = f"must be {', '.join(rules)}, or a list of paths as results show them. Got {self.exclude!r}."
            faults.append((("exclude",), must + did_you_mean(self.exclude, list(rules))))
        if faults:
            raise LocatedError(*faults)
        return self


class FeaturesConfig(_WithOptions):
    """A feature set: a row of `FEATURES`, its name in results, and the options that the row has."""

    name: FeaturesName
    id: Identifier | None = None

    @property
    def _row(self) -> features.FeatureSpec:
        return features.get_features(self.name)

    @property
    def label(self) -> str:
        return self.id or self.name

    def open(self) -> features.FeatureSpec:
        """Return the feature set, read from its file where it has one; raise `DataError` where that is wrong."""
        return resolve(self._row.reader)(self._row, self.label, self.options) if self._row.reader else self._row

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> FeaturesConfig:
        faults = self._option_faults(info)
        if self.id and not self._row.reader:
            faults.append((("id",), f"{self.name!r} cannot have another name in results. Remove it."))
        if faults:
            raise LocatedError(*faults)
        return self

    @model_serializer(mode="wrap")
    def _name_stands_for_itself(self, serialize: Any) -> Any:
        """Write a feature set without options as its name, as it stood in configs before there were any."""
        content = {key: value for key, value in serialize(self).items() if value is not None}
        return content["name"] if len(content) == 1 else content


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
                models.check_parameter(spec, name, value)
            except ConfigError as error:
                faults.append((("params", name), str(error)))
        if not faults:
            try:
                models.check_family(spec, self.params)
            except ConfigError as error:
                key = getattr(error, "parameter", "network" if isinstance(error, UnknownNameError) else "options")
                faults.append((("params", key) if key in self.params else ("params",), str(error)))
        if faults:
            raise LocatedError(*faults)
        return self


class ProtocolConfig(_WithOptions):
    """A protocol: a row of `PROTOCOLS`, its name on the leaderboard, and the options that the row has."""

    name: ProtocolName
    id: Identifier | None = None

    @property
    def _row(self) -> ProtocolSpec:
        return get_protocol(self.name)

    @property
    def label(self) -> str:
        return self.id or self.name

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> ProtocolConfig:
        if faults := self._option_faults(info):
            raise LocatedError(*faults)
        return self


class AudioConfig(_Closed):
    """What recordings are accepted; the fields of `AudioPolicy`."""

    mono: Literal["mean", "first", "error"] = "mean"
    min_duration_s: float = Field(default=0.1, gt=0)
    max_duration_s: float = Field(default=3600.0, gt=0)

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
        How many rows of features are answered at once; 1 is the leaderboard's.
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


class ImportanceConfig(_Closed):
    """How much of the UAR rests on each block of features: by how much it falls when the block is shuffled.

    Attributes
    ----------
    n_permutations : int
        How often each block is shuffled among the recordings of a test part.
    """

    n_permutations: int = Field(default=10, ge=1, le=1000)


class StressConfig(_Closed):
    """How every fold's model is asked about stressed versions of its own test part; it is never fitted on them.

    Attributes
    ----------
    stresses : dict of name to levels
        All of emobench's by default; without levels, those of the row.
    thresholds : dict of name to dict of measure to float
        In place of those of the row, at every level of the stress.
    sex_gap : float
        Difference of UAR between the sexes, of either sign, that is tolerated.
    """

    stresses: dict[StressName, list[float]] = Field(default={name: [] for name in STRESSES}, min_length=1)
    thresholds: dict[StressName, dict[Literal["unchanged", "delta_uar"], float]] = Field(default_factory=dict)
    sex_gap: float = Field(default=0.075, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> StressConfig:
        unused = sorted(set(self.thresholds) - set(self.stresses))
        if unused:
            raise LocatedError(
                *(
                    (("thresholds", name), f"{name!r} is not among `stresses`. Add it there, or remove it here.")
                    for name in unused
                )
            )
        return self

    def thresholds_at(self, stress: str, level: float) -> dict[str, float]:
        """Return what a model should reach, by measure."""
        found = self.thresholds.get(stress) or get_stress(stress).thresholds_at(level)
        return {str(measure): value for measure, value in found.items()}


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
        if self.random is not None and not get_protocol(self.random.name).is_leaky:
            raise LocatedError(
                (
                    ("random", "name"),
                    f"must be a protocol that shares speakers. Got {self.random.name!r}. Take random-kfold.",
                )
            )
        return self


class RunConfig(_Closed):
    """Everything that a run is: what it leaves out has the default that stands here, and its paths are absolute.

    Attributes
    ----------
    name : str
        The stem of the config's file.
    on_bad_audio : {"fail", "skip"}
        What to do about recordings that cannot be used.
    on_conflict : {"fail", "drop"}
        What to do about identical audio with two labels or two speakers; `drop` leaves out all of them.
    on_silence : {"keep", "leave_out", "fail"}
        What to do about recordings that are nothing but digital silence.
    remarks : tuple of str
        What the person should know about the config.
    """

    later = frozenset({"importance", "premium", "stress", "on_conflict", "on_silence"})

    schema_version: int = Field(default=SCHEMA_VERSION, ge=SCHEMA_VERSION, le=SCHEMA_VERSION)
    corpora: list[CorpusConfig] = Field(min_length=1)
    features: list[FeaturesConfig] = Field(default=[FeaturesConfig(name="mfcc40")], min_length=1)
    models: list[ModelConfig] = Field(min_length=1)
    protocols: list[ProtocolConfig] = Field(default=[ProtocolConfig(name="group-kfold")], min_length=1)
    tuning: TuningConfig | None = None
    latency: LatencyConfig | None = None
    metrics: list[MetricName] = Field(default=["uar", "war", "macro_f1"], min_length=1)
    repeats: int = Field(default=1, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, lt=2**32)
    audio: AudioConfig = AudioConfig()
    on_bad_audio: Literal["fail", "skip"] = "fail"
    on_conflict: Literal["fail", "drop"] = "fail"
    on_silence: Literal["keep", "leave_out", "fail"] = "keep"
    allow_missing_class: bool = False
    job_timeout_s: float | None = Field(default=None, gt=0)
    stress: StressConfig | None = None
    importance: ImportanceConfig | None = None
    premium: PremiumConfig | None = None
    _name: str = PrivateAttr("run")
    _remarks: tuple[str, ...] = PrivateAttr(())

    @property
    def name(self) -> str:
        return self._name

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._remarks

    @model_validator(mode="before")
    @classmethod
    def _names_become_rows(cls, data: Any) -> Any:
        """Let `svm` stand for `{name: svm}` in lists of models, protocols, features and corpora."""
        if not isinstance(data, dict):
            return data
        rows = ("corpora", "features", "models", "protocols")
        data = {key: _expand(value) if key in rows else value for key, value in data.items()}
        return data | ({"models": _with_members(data["models"])} if isinstance(data.get("models"), list) else {})

    @field_validator("metrics")
    @classmethod
    def _names_differ(cls, names: list[str]) -> list[str]:
        return _refuse_repeats(names, names, "names", " Remove one.")

    @field_validator("corpora", "features", "protocols")
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
            raise LocatedError(*faults)
        return self

    @property
    def honest_protocols(self) -> list[ProtocolConfig]:
        """Those under which nothing but the speaker is new in a test part: what the leakage premium compares with."""
        return [row for row in self.protocols if get_protocol(row.name).is_speaker_independent]

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
        own = next((row for row in self.protocols if get_protocol(row.name).is_leaky), None)
        if self.premium is None and own is not None:
            return self
        sizes = [row.options["n_splits"] for row in self.honest_protocols if "n_splits" in row.options]
        as_random = {"name": "random-kfold", "n_splits": sizes[0] if sizes else None}
        random = given or own or ProtocolConfig.model_validate(as_random)
        clash = next((row for row in self.protocols if row.label == random.label), None)
        if clash is not None and (clash.name, clash.options) != (random.name, random.options):
            raise ConfigError(
                f"premium.random must have a name of its own. `protocols` has {random.label!r} with other options. "
                "Make them equal, or give one an `id:`."
            )
        protocols = self.protocols if clash is not None else [*self.protocols, random]
        return self.model_copy(update={"protocols": protocols, "premium": PremiumConfig(random=random)})


def _expand(rows: Any) -> Any:
    if not isinstance(rows, list):
        return rows
    return [{"name": row} if isinstance(row, str) else row for row in rows]


def _with_members(rows: list[Any]) -> list[Any]:
    """Write out the members of models that are made of others, where they are named by the `id` of another row."""
    names = [(row.get("id") or row.get("name"), row) for row in rows if isinstance(row, dict)]
    known = {name: row for name, row in names if isinstance(name, str)}

    def written_out(member: Any) -> Any:
        row = known.get(member, {}) if isinstance(member, str) else {}
        found = {key: row[key] for key in ("name", "params") if row.get(key)}
        return {**found, "id": member} if found.get("name") not in (None, member) else found or member

    return [
        {**row, "params": {**row["params"], key: [written_out(member) for member in row["params"][key]]}}
        if (key := _members_key(row)) and isinstance(row["params"].get(key), list)
        else row
        for row in rows
    ]


def _members_key(row: Any) -> str:
    """Return the parameter of a row that lists other models; empty where the row has none, or is no row."""
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not isinstance(row.get("params"), dict):
        return ""
    try:
        return models.get_model(row["name"]).members
    except ConfigError:  # which is reported where names are checked
        return ""


def _repeats(names: Sequence[str | int], what: str, advice: str) -> list[tuple[Location, str]]:
    """Return a fault for each name that stood before."""
    return [
        ((what, index), f"{what} must be different. {name!r} stands twice.{advice}")
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def _refuse_repeats(rows: list[Any], names: Sequence[str | int], what: str, advice: str) -> list[Any]:
    if faults := _repeats(names, what, advice):
        raise LocatedError(*((location[1:], text) for location, text in faults))
    return rows

"""What a bundle says of itself: `manifest.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from emobench.bundles.session import INPUT, LABEL, PROBABILITIES
from emobench.errors import BundleError, listing

SCHEMA_VERSION: Final = 2
MAX_FEATURES = 10_000_000
AUDIO_ID_DIGITS = 16
"""So many of an audio id are kept: enough to know a recording again, at a quarter of the size."""

COPY_AGAIN = "Copy the bundle again, or make a new one: run its config again with `emobench run`."

Name = Annotated[str, Field(min_length=1)]


class Tensor(BaseModel):
    """An input or output of ``model.onnx``; None stands for any number of rows."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: Name
    dtype: Literal["float32", "int64"]
    shape: list[int | None]


class Manifest(BaseModel):
    """The content of `manifest.json`.

    Attributes
    ----------
    identity : str
        Key of the job that fitted the model.
    entry, model, model_version, params
        Name on the leaderboard; row of `MODELS`, its version, and the parameters that differ from its defaults.
    classes : list of str
        Labels in the order of the run's `LabelEncoder`: code 0 is the first.
    features : dict
        `FeatureSpec.specification` of its input, at `sr` Hz; with a `shape` (t, c), rows are t frames of c channels.
    input, outputs
        Names, types and shapes for whoever runs ``model.onnx`` without emobench.
    trained_on : dict
        Corpus, its fingerprint and licence, numbers of utterances and speakers.
    audio_ids : list of str
        The first digits of the audio ids of its training recordings, sorted.
    scores : list or dict
        Of the run it comes from, with their intervals; NaN is kept as None.
    parity : dict
        How ONNX Runtime's answers were compared with the fitted model's.
    versions : dict of str to str
        Of the libraries that fitted and exported it.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    schema_version: Literal[2] = SCHEMA_VERSION
    identity: Name
    entry: Name
    model: Name
    model_version: Annotated[int, Field(ge=1)] = 1
    params: dict[str, JsonValue] = {}
    classes: Annotated[list[Name], Field(min_length=1)]
    features: dict[str, JsonValue]
    sr: Annotated[int, Field(gt=0)]
    input: Tensor
    outputs: Annotated[list[Tensor], Field(min_length=1, max_length=2)]
    trained_on: dict[str, JsonValue] = {}
    audio_ids: list[Annotated[str, Field(pattern=f"^[0-9a-f]{{{AUDIO_ID_DIGITS}}}$")]] = []
    scores: list[JsonValue] | dict[str, JsonValue] = {}
    parity: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: list[str]) -> list[str]:
        if classes != sorted(set(classes)):
            raise ValueError("classes must be sorted and without repeats, as LabelEncoder has them")
        return classes

    @field_validator("input")
    @classmethod
    def _check_input(cls, tensor: Tensor) -> Tensor:
        if tensor.name != INPUT or len(tensor.shape) != 2 or not 1 <= (tensor.shape[1] or 0) <= MAX_FEATURES:
            raise ValueError(f"must be {INPUT!r} of shape [null, n_features]")
        return tensor

    @field_validator("outputs")
    @classmethod
    def _check_outputs(cls, tensors: list[Tensor]) -> list[Tensor]:
        if [tensor.name for tensor in tensors] not in ([LABEL], [LABEL, PROBABILITIES]):
            raise ValueError(f"must be {LABEL!r}, and {PROBABILITIES!r} where the model has them")
        return tensors

    @property
    def n_features(self) -> int:
        return self.input.shape[1] or 0

    @property
    def has_probabilities(self) -> bool:
        return len(self.outputs) == 2

    def render(self) -> bytes:
        """Return the bytes of `manifest.json`: readable, and the same for the same content."""
        content = self.model_dump()
        return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def describe(
    *, n_features: int, classes: Sequence[str], has_probabilities: bool, audio_ids: Sequence[str] = (), **content: Any
) -> Manifest:
    """Return the manifest of a fitted model.

    Parameters
    ----------
    audio_ids : sequence of str
        Of its training recordings, in full.
    **content
        The other fields of `Manifest`; NumPy's scalars and tuples become plain, scores that are not finite None.

    Raises
    ------
    BundleError
        If it is not what JSON can hold.
    """
    outputs = [Tensor(name=LABEL, dtype="int64", shape=[None])]
    if has_probabilities:
        outputs.append(Tensor(name=PROBABILITIES, dtype="float32", shape=[None, len(classes)]))
    try:
        return Manifest(
            classes=list(map(str, classes)),
            input=Tensor(name=INPUT, dtype="float32", shape=[None, n_features]),
            outputs=outputs,
            audio_ids=sorted({audio_id[:AUDIO_ID_DIGITS] for audio_id in audio_ids}),
            **{name: _plain(value, is_score=name == "scores") for name, value in content.items()},
        )
    except ValidationError as error:
        raise BundleError(f"a bundle cannot say this of itself:\n{_problems(error)}\nCorrect it.") from error


def parse(data: bytes) -> Manifest:
    """Return the checked content of `manifest.json`, or raise `BundleError`."""
    try:
        content = json.loads(data)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if type(version) is int and version > SCHEMA_VERSION:
            raise BundleError(
                f"manifest.json has schema version {version}, and this emobench reads {SCHEMA_VERSION}: a newer one "
                "wrote it. Upgrade emobench."
            )
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"manifest.json does not hold what it must:\n{_problems(error)}\n{COPY_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"manifest.json is not JSON ({error}). {COPY_AGAIN}") from error


def _plain(value: Any, *, is_score: bool) -> Any:
    """Return a value as JSON has it."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, Mapping):
        return {str(name): _plain(item, is_score=is_score) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, is_score=is_score) for item in value]
    return None if is_score and isinstance(value, float) and not math.isfinite(value) else value


def _problems(error: ValidationError) -> str:
    return listing([f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()])

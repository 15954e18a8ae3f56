"""What ``run.json`` must hold for its readers: one that was edited by hand is answered with the key that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from emobench.errors import DataError, listing


class _Part(BaseModel):
    """A mapping of which only what is read is checked; later versions may add keys."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Audio(_Part):
    mono: str


class _Protocol(_Part):
    name: str
    id: str | None = None


class _Config(_Part):
    audio: _Audio
    metrics: list[str]
    protocols: list[_Protocol]
    repeats: int


class _Corpus(_Part):
    asked_for: str
    classes: list[str]
    fingerprint: str
    n_excluded: int
    n_missing: int
    n_speakers: int
    n_utterances: int
    identical_audio: list[list[str]]


class _Specification(_Part):
    name: str


class _Features(_Part):
    specification: _Specification
    key: str


class _Entry(_Part):
    model: str
    params: dict[str, Any]
    tuned: bool


class _Fold(_Part):
    fold: int
    shared_audio: int
    shared_speakers: int
    shared_utterances: int


class _Certificate(_Part):
    corpus: str
    protocol: str
    waives: list[str]
    folds: list[_Fold]
    folds_fingerprint: str
    n_tested: int
    n_utterances: int
    look_alike_speakers: list[list[str]] = []


class _Plugin(_Part):
    file: str
    rows: list[str]


class _Environment(_Part):
    versions: dict[str, str]


class _Run(_Part):
    run: str
    config: _Config
    corpora: dict[str, _Corpus]
    features: dict[str, _Features]
    entries: dict[str, _Entry]
    metrics: dict[str, Any]
    leakage_certificates: list[_Certificate]
    environment: _Environment
    plugins: list[_Plugin] = []


def check_record(run: Any, path: Path, *, is_whole: bool = False) -> None:
    """Raise `DataError` with every key of a ``run.json`` that is not what its readers need.

    Parameters
    ----------
    is_whole : bool
        Whether a key that is absent is a fault too.
    """
    try:
        _Run.model_validate(run)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}"
            for fault in error.errors(include_url=False, include_input=False)
            if is_whole or fault["type"] != "missing"
        ]
        if not faults:
            return
        raise DataError(
            f"{path}: not as a run writes it:\n{listing(faults)}\nRun the same config again to write it anew; finished "
            "jobs are kept."
        ) from None

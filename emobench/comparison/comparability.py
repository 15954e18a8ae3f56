"""Whether two runs answer the same question: what must be equal to compare them, and what may differ but is said.

A board (corpus, features, protocol) can be compared where corpus, classes, folds, feature specification and metrics are
the same. Versions of libraries, seeds and models' parameters may differ: they are what a comparison is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emobench.errors import ConfigError, DataError, listing
from emobench.results.run import Results
from emobench.statistics.intervals import BOARD

SIDES = ("baseline", "candidate")
SHOWN = {
    "folds": "fingerprint of the folds",
    "feature_spec": "features",
    "n_utterances": "utterances",
    "n_speakers": "speakers",
}

Board = tuple[str, str, str]
Rows = dict[str, Mapping[str, Any]]  # of a leaderboard, by entry


class NotComparableError(ConfigError):
    """Two runs answer different questions."""

    exit_code = 11


def read_boards(side: Results) -> dict[Board, Rows]:
    """Return the leaderboard's rows by board and entry."""
    boards: dict[Board, Rows] = {}
    for row in side.leaderboard.to_dict("records"):
        corpus, features, protocol = (str(row[name]) for name in BOARD)
        rows = boards.setdefault((corpus, features, protocol), {})
        if row["entry"] in rows:
            raise DataError(
                f"{side.path}: an entry must stand once on a board. {row['entry']!r} stands twice. "
                "Name the leaderboard of one run."
            )
        rows[row["entry"]] = row
    return boards


def check_comparable(sides: Sequence[Results], boards: Sequence[Mapping[Board, Rows]], common: Sequence[Board]) -> None:
    """Refuse runs that answer different questions, with everything that differs."""
    if not common:
        found = [
            f"{where}: {'; '.join(map(title, own)) or 'nothing'}" for where, own in zip(SIDES, boards, strict=True)
        ]
        raise NotComparableError(
            "Two runs must have a corpus, features and a protocol in common. They have none:\n"
            f"{listing(found)}\nRun the candidate with the baseline's config and corpus."
        )
    problems = []
    for board in common:
        if all(side.run for side in sides):
            before, after = (_recorded(side, board) for side in sides)
        else:
            before, after = (_shown(own[board]) for own in boards)
        problems += [
            f"{title(board)}: {name}: {before[name]} in the baseline, {after[name]} in the candidate"
            for name in before
            if name in after and before[name] != after[name]
        ]
    if problems:
        raise NotComparableError(
            "Two runs must have corpus, classes, folds, features and metrics in common where they are compared. "
            f"Here differ:\n{listing(problems)}\nRun the candidate with the baseline's config and corpus, or make a "
            "new baseline."
        )


def _recorded(side: Results, board: Board) -> dict[str, str]:
    """Return what must be equal, from ``run.json``."""
    corpus, features, protocol = board
    try:
        record, specification = side.run["corpora"][corpus], side.run["features"][features]["specification"]
        certificate = next(
            row for row in side.run["leakage_certificates"] if (row["corpus"], row["protocol"]) == (corpus, protocol)
        )
        params = [f"{name}={value}" for name, value in {"sr": specification["sr"], **specification["params"]}.items()]
        return {
            "fingerprint of the corpus": record["fingerprint"],
            "classes": ", ".join(record["classes"]),
            "fingerprint of the folds": certificate["folds_fingerprint"],
            "shared by training and test": ", ".join(certificate["waives"]) or "nothing",
            "features": " ".join([specification["name"], f"v{specification['version']}", *params]),
            "channels": side.run["config"]["audio"]["mono"],
            **{f"version of {name}": str(version) for name, version in side.run["metrics"].items()},
        }
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise DataError(
            f"{side.path}: run.json must record what the leaderboard beside it shows. Of {title(board)} it does not "
            f"({type(error).__name__}: {error}). Run the config again."
        ) from error


def _shown(rows: Rows) -> dict[str, str]:
    """Return what must be equal as far as a leaderboard shows it."""
    first = next(iter(rows.values()))
    shown = {aspect: _text(first.get(name)) for name, aspect in SHOWN.items()}
    return {aspect: value for aspect, value in shown.items() if value}


def _text(value: Any) -> str:
    import pandas as pd

    return "" if value is None or pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)


def title(board: Board) -> str:
    """Return a board's name for people."""
    return " · ".join(board)


def remarks(sides: Sequence[Results], boards: Sequence[Mapping[Board, Rows]], common: Sequence[Board]) -> Iterator[str]:
    """Yield what differs without forbidding to compare, and what could not be checked."""
    for where, side, own in zip(SIDES, sides, boards, strict=True):
        if alone := [title(board) for board in own if board not in common]:
            yield f"only the {where} has {'; '.join(alone)}"
        if not side.run:
            unseen = [aspect for aspect in SHOWN.values() if not any(aspect in _shown(rows) for rows in own.values())]
            yield (
                f"the {where} is a leaderboard alone: the corpus's fingerprint, its classes and the metrics' versions "
                f"could not be checked{', nor ' + ', '.join(unseen) if unseen else ''}"
            )
    unpaired = [where for where, side in zip(SIDES, sides, strict=True) if side.predictions is None]
    if unpaired:
        yield (
            f"no predictions in the {' or the '.join(unpaired)}: scores are compared as if each had heard speakers of "
            "its own, which leaves more inconclusive; compare runs' folders that hold predictions.parquet"
        )
    if all(side.run for side in sides):
        yield from _changes(*(side.run for side in sides))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield what changed between two records that may be compared."""
    configs = [{name: run.get("config", {}).get(name) for name in ("seed", "repeats")} for run in (before, after)]
    if found := _differences(*configs):
        yield f"configs differ: {', '.join(found)}; predictions are compared of the repeats that both have"
    environments = [run.get("environment", {}) for run in (before, after)]
    if found := _differences(*(environment.get("versions", {}) for environment in environments)):
        yield f"versions of libraries differ: {', '.join(found)}"
    machines = [{name: environment.get(name) for name in ("python", "cpu")} for environment in environments]
    if found := _differences(*machines):
        yield f"machines differ: {', '.join(found)}"
    entries = [run.get("entries", {}) for run in (before, after)]
    for entry in entries[0]:
        if entry in entries[1] and (found := _differences(*(_flat(own[entry]) for own in entries))):
            yield f"{entry} changed: {', '.join(found)}"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry's description with its model's parameters beside the rest."""
    rest = {name: value for name, value in entry.items() if name != "params"}
    return {**rest, **{f"params.{name}": value for name, value in entry.get("params", {}).items()}}

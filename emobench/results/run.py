"""A recorded run, read from its folder."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.errors import ConfigError, DataError, UnknownNameError, did_you_mean, listing
from emobench.files import hash_bytes
from emobench.results.tables import NAMES, read_leaderboard, read_table, read_typed_csv

if TYPE_CHECKING:
    import pandas as pd
RUN_SCHEMA = 1
SUMS = "SHA256SUMS"
RUN = "run.json"
# What a run measured, and what cannot be derived from the rest.
PRIMARY = (
    *("scores.parquet", "predictions.parquet", "stress_answers.parquet", "permuted.csv"),
    *("folds.csv", "trials.csv", "excluded.csv", "notes.csv", "latency.csv", "latency.json", RUN),
)
FOR_PEOPLE = (".html", ".md")  # pages, from which nothing is read


@dataclass(frozen=True)
class Results:
    """A recorded run, read from its folder, or a leaderboard alone.

    Attributes
    ----------
    path : Path
        The run's folder, or the CSV.
    leaderboard : DataFrame
        The columns `LEADERBOARD`, best entry of each board first.
    run : dict
        The content of ``run.json``; empty for a leaderboard alone.
    """

    path: Path
    leaderboard: pd.DataFrame
    run: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def scores(self) -> pd.DataFrame | None:
        """Scores of every fold (`SCORES`), None where they are not kept."""
        return self._read("scores")

    @cached_property
    def predictions(self) -> pd.DataFrame | None:
        """Predictions of every test utterance (`PREDICTIONS`), None where they are not kept."""
        return self._read("predictions")

    def table(self, name: str) -> pd.DataFrame | None:
        """Return a CSV of the run by its name without the suffix (``"pairs"``), None where this run has none.

        Raises
        ------
        UnknownNameError
            If no run has such a table.
        """
        if name not in NAMES:
            raise UnknownNameError(
                f"Unknown table {name!r}.{did_you_mean(name, list(NAMES))} Known tables: {', '.join(NAMES)}."
            )
        path = self.path / f"{name}.csv"
        return read_typed_csv(path) if self.run and path.is_file() else None

    def _read(self, name: str) -> pd.DataFrame | None:
        stem = self.path / name
        return read_table(stem) if self.run and stem.with_suffix(".parquet").is_file() else None


def load_results(path: str | os.PathLike[str]) -> Results:
    """Read a run's folder, a folder that holds one run, or a leaderboard CSV.

    Raises
    ------
    ConfigError
        If there is no run, or a newer emobench wrote it.
    DataError
        If a file is damaged, or not the one that the run wrote.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix == ".csv":
        return Results(path, read_leaderboard(path))
    folder = run_folder(path)
    check_sums(folder)
    run = read_run(folder)
    return Results(folder, read_leaderboard(folder / "leaderboard.csv", advice=_remedy(folder, "leaderboard.csv")), run)


def read_sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its name, as ``SHA256SUMS`` has it; nothing where that is absent."""
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: value for value, _, name in (line.partition("  ") for line in lines) if name == Path(name).name}


def check_sums(folder: Path) -> None:
    """Hold the files of a run that are there against ``SHA256SUMS``; what is absent is no fault, pages are not read.

    Raises
    ------
    DataError
        With every file that is not the one that the run wrote, and how to get it back.
    """
    changed = [
        name
        for name, value in read_sums(folder).items()
        if not name.endswith(FOR_PEOPLE) and (folder / name).is_file() and hash_of(folder / name) != value
    ]
    if changed:
        lines = [f"{folder / name}: {_remedy(folder, name)}" for name in changed]
        raise DataError(f"Files of a run were changed: their SHA-256 is not the one in {SUMS}.\n{listing(lines)}")


def hash_of(path: Path) -> str:
    return hash_bytes(path.read_bytes())


def _remedy(folder: Path, name: str) -> str:
    """Return how to get a file of a run back."""
    is_whole = all((folder / f"{table}.parquet").is_file() for table in ("scores", "predictions"))
    if name not in PRIMARY and is_whole:
        return f"`emobench report {shlex.quote(str(folder))}` writes it again."
    if name in PRIMARY and is_whole:
        return "Restore it, or run the same config again to write it anew; finished jobs are kept."
    return "Restore it, for example from version control."


def run_folder(path: Path) -> Path:
    """Return the folder of a run that is named by it, by its ``run.json``, or by a folder with one run in it."""
    if path.is_file() and path.name == "run.json":
        return path.parent
    inside = sorted(found.parent for found in path.glob("*/run.json"))
    if (path / "run.json").is_file() or not inside:
        return path
    if len(inside) > 1:
        names = ", ".join(folder.name for folder in inside[:8])
        raise ConfigError(f"{path}: must be one run. It holds {len(inside)}: {names}. Name one of them.")
    return inside[0]


def read_run(folder: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run's folder; raise as `load_results` does."""
    path = folder / "run.json"
    try:
        run = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: must be a run's folder or a leaderboard CSV. There is no run.json in it. "
            "Name a folder that `emobench run` wrote."
        ) from None
    except NotADirectoryError:
        raise ConfigError(f"{folder}: must be a run's folder or a leaderboard CSV. Name one.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: must be JSON. {error}. Run the same config again to write it anew.") from None
    version = run.get("schema_version") if isinstance(run, dict) else None
    if type(version) is not int:
        raise DataError(f"{path}: must be the record of a run. It has no schema_version. Run the config again.")
    if version <= RUN_SCHEMA:
        from emobench.results.record import check_record

        check_record(run, path)
    else:
        raise ConfigError(
            f"{path}: must be of schema version {RUN_SCHEMA} at most. It has {version}: a newer emobench wrote it. "
            "Upgrade emobench to read it."
        )
    return run

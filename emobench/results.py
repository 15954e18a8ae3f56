"""What a run writes: the schemas of its tables, files that appear whole or not at all, and a record of the machine."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.errors import ConfigError, DataError, StorageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

RUN_SCHEMA = 1

SCORES = {
    "run": "string",
    "corpus": "string",
    "features": "string",
    "entry": "string",
    "protocol": "string",
    "waives": "string",
    "repeat": "int64",
    "fold": "int64",
    "metric": "string",
    "value": "float64",
    "n_test": "int64",
    "fit_s": "float64",
    "predict_s": "float64",
    "error": "string",
    "n_trials": "int64",
    "tuning_s": "float64",
    "inner_score": "float64",
    "converged": "bool",
}
PREDICTIONS = {
    "run": "string",
    "corpus": "string",
    "features": "string",
    "entry": "string",
    "protocol": "string",
    "repeat": "int64",
    "fold": "int64",
    "utterance": "string",
    "speaker": "string",
    "sex": "string",
    "statement": "string",
    "intensity": "string",
    "repetition": "string",
    "y_true": "string",
    "y_pred": "string",
}
FOLDS = {"corpus": "string", "protocol": "string", "utterance": "string", "repeat": "int64", "fold": "int64"}
TRIALS = {
    "run": "string",
    "corpus": "string",
    "features": "string",
    "entry": "string",
    "protocol": "string",
    "repeat": "int64",
    "fold": "int64",
    "trial": "int64",
    "state": "string",
    "value": "float64",
    "n_folds": "int64",
    "error": "string",
    "params": "string",
    "duration_s": "float64",
}
EXCLUDED = {"corpus": "string", "path": "string", "reason": "string"}

LEADERBOARD = {
    "corpus": "string",
    "features": "string",
    "protocol": "string",
    "rank": "Int64",
    "rank_group": "Int64",
    "entry": "string",
    "model": "string",
    "tuned": "bool",
    "uar": "float64",
    "uar_low": "float64",
    "uar_high": "float64",
    "war": "float64",
    "macro_f1": "float64",
    "worst_speaker_uar": "float64",
    "seed_sd": "float64",
    "fit_s": "float64",
    "latency_p50_ms": "float64",
    "n_failed": "int64",
    "n_utterances": "int64",
    "n_speakers": "int64",
    "folds": "string",
    "feature_spec": "string",
    "feature_key": "string",
    "waives": "string",
    "n_excluded": "int64",
    "n_trials": "int64",
    "tuning_s": "float64",
    "optimism": "float64",
    "log_loss": "float64",
    "brier": "float64",
    "ece": "float64",
    "auroc": "float64",
    "converged": "boolean",
    "latency_p95_ms": "float64",
    "model_bytes": "Int64",
    "pareto": "boolean",
}

LIBRARIES = (
    "emobench",
    "joblib",
    "librosa",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "soundfile",
    "soxr",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "xgboost",
    "xgboost-cpu",
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says while `path` is written into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        advice = {
            errno.ENOSPC: "The disk is full. Free some space",
            errno.EDQUOT: "The disk quota is used up. Free some space",
            errno.EROFS: "The file system is read-only. Choose another folder",
            errno.EACCES: "Permission denied. Choose another folder or change its permissions",
            errno.EPERM: "Permission denied. Choose another folder or change its permissions",
            errno.EFBIG: "The file would be larger than the limit (ulimit -f). Raise the limit",
        }.get(error.errno or 0, f"The system says: {error.strerror or error}. Mend it")
        raise StorageError(
            f"{path}: must be writable. {advice} and run the same command again; what is finished is kept."
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, and stays after a power cut.

    A temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises
    ------
    StorageError
        If the system does not let it; nothing is left behind.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:30]}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written below a folder; only who holds the folder may do that."""
    for part in folder.rglob(".*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and machines: sorted where order means nothing, NaN refused."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return what `write_json` writes."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")  # a file name need not be UTF-8


def write_table(stem: Path, frame: pd.DataFrame, schema: Mapping[str, str]) -> None:
    """Write a tidy table as ``<stem>.parquet``, with checksums; columns beyond the schema are float64."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, schema=_arrow_schema(schema, frame.columns), preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    write_bytes(stem.with_suffix(".parquet"), buffer.getvalue())


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a CSV whose text cannot start a formula in a spreadsheet (a leading apostrophe is added)."""
    write_bytes(path, csv_bytes(frame))


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Return what `write_csv` writes."""
    import pandas as pd

    safe = frame.copy()
    for column in safe.columns:
        if safe[column].dtype.kind not in "ifb":
            safe[column] = pd.Series([not_a_formula(value) for value in frame[column]], frame.index, dtype=object)
    return safe.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace")


def in_markdown(text: str) -> str:
    """Return text as a cell of a Markdown table shows it: names must not make columns, lines or HTML."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def read_table(stem: Path) -> pd.DataFrame:
    """Read a table that `write_table` wrote; raise ConfigError if it is absent, DataError if it is damaged."""
    import pandas as pd
    import pyarrow as pa

    path = stem.with_suffix(".parquet")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: must be there. It is not. Run the same config again to write it.") from None
    try:
        return pd.read_parquet(io.BytesIO(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: must be a table that emobench wrote. It is damaged: {str(error).splitlines()[0]} "
            "Run the same config again to write it anew; finished jobs are kept."
        ) from None


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
        """Return a CSV of the run by its name without the suffix (``"pairs"``), None where it is not there."""
        path = self.path / f"{name}.csv"
        return read_csv(path) if self.run and path.is_file() else None

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
        If a file is damaged.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix == ".csv":
        return Results(path, read_leaderboard(path))
    folder = run_folder(path)
    run = read_run(folder)
    return Results(folder, read_leaderboard(folder / "leaderboard.csv"), run)


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
    if version > RUN_SCHEMA:
        raise ConfigError(
            f"{path}: must be of schema version {RUN_SCHEMA} at most. It has {version}: a newer emobench wrote it. "
            "Upgrade emobench to read it."
        )
    return run


def read_leaderboard(path: Path) -> pd.DataFrame:
    """Read a ``leaderboard.csv``: numbers with their types, text without its guard.

    A column that this version does not know stays text; one that an older version did not write is empty.
    """
    import pandas as pd

    frame = read_csv(path)
    needed = {"corpus", "features", "protocol", "entry", "uar"}
    if absent := sorted(needed - set(frame.columns)):
        raise DataError(f"{path}: must be a leaderboard. It lacks the columns {', '.join(absent)}. Name another file.")
    frame = frame.reindex(columns=[*LEADERBOARD, *(name for name in frame.columns if name not in LEADERBOARD)])
    for name, kind in LEADERBOARD.items():
        if kind == "string":
            frame[name] = frame[name].fillna("")
        elif kind == "bool":
            frame[name] = frame[name] == "True"
        elif kind == "boolean":
            frame[name] = frame[name].map({"True": True, "False": False}).astype("boolean")
        else:
            try:
                numbers = pd.to_numeric(frame[name])
            except ValueError as error:
                raise DataError(f"{path}: {name} must be numbers. {error}. Write the leaderboard again.") from None
            frame[name] = numbers.astype("Int64" if numbers.isna().any() and kind == "int64" else kind)
    return frame


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV of a run as text, without the guard against formulas."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    except FileNotFoundError:
        raise ConfigError(f"{path}: must be there. It is not. Run the config again to write it.") from None
    except (ValueError, UnicodeDecodeError) as error:  # what pandas raises of a CSV that is none
        raise DataError(f"{path}: must be a CSV that emobench wrote. {error}. Write it again.") from None
    return frame.apply(lambda column: column.str.replace(r"^'(?=[=+\-@\t\r])", "", regex=True))


def not_a_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text that would start one gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _arrow_schema(schema: Mapping[str, str], columns: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(column, pa.type_for_alias(schema.get(column, "float64"))) for column in columns])


def environment() -> dict[str, Any]:
    """Return the machine and software of this run: versions, processor, git commit; nothing that changes by itself."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu(),
        "n_cores": os.cpu_count(),
        "versions": versions(),
        "git_commit": _git_commit(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cpu() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str:
    """Return the commit of emobench's own sources, with ``+`` where they were changed; empty when installed."""
    import subprocess

    source = Path(__file__).resolve().parent
    if not (source.parent / ".git").exists() or not shutil.which("git"):
        return ""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()

    try:
        commit = git("rev-parse", "--verify", "--quiet", "HEAD")
        return commit and commit + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""

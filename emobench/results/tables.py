"""What a run writes: the schemas of its tables, files that appear whole or not at all, and a record of the machine."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emobench.errors import ConfigError, DataError, on_one_line
from emobench.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


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
NOTES = {"corpus": "string", "path": "string", "note": "string"}  # on recordings that are used

# A block of features was shuffled: how many answers to utterances of a speaker and an emotion were right before and
# after, the latter a mean over shuffles.
PERMUTED = {
    "corpus": "string",
    "features": "string",
    "protocol": "string",
    "entry": "string",
    "repeat": "int64",
    "block": "string",
    "n_features": "int64",
    "speaker": "string",
    "y_true": "string",
    "n": "int64",
    "n_right": "int64",
    "n_right_shuffled": "float64",
}

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
    "exclude": "string",
}

_SPECIAL = re.compile(r"[\\|`*~\[\]]|(?<!\w)_|_(?!\w)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NOT_IN_CSV = re.compile(_CONTROL.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f"))
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


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
            safe[column] = pd.Series([in_csv(value) for value in frame[column]], frame.index, dtype=object)
    safe.columns = [in_csv(name) for name in safe.columns]
    return safe.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace")


def in_markdown(text: str) -> str:
    """Return text as a cell of a Markdown table shows it.

    Names must not make columns, lines, HTML, links, images, code or mentions, nor steer a terminal.
    """
    text = _SPECIAL.sub(r"\\\g<0>", text.replace("\n", " ")).replace("<", "&lt;").replace("@", "@\u200b")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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


def read_leaderboard(path: Path, *, advice: str = "Name another file.") -> pd.DataFrame:
    """Read a ``leaderboard.csv``: numbers with their types, text without its guard.

    Columns of further metrics are numbers; another that this version does not know stays text, and one that an older
    version did not write is empty. `advice` ends the message where it is none.
    """
    import pandas as pd

    frame = read_csv(path, advice=advice)
    needed = {"corpus", "features", "protocol", "entry", "uar"}
    if absent := sorted(needed - set(frame.columns)):
        raise DataError(f"{path}: must be a leaderboard. It lacks the columns {', '.join(absent)}. {advice}")
    frame = frame.reindex(columns=[*LEADERBOARD, *(name for name in frame.columns if name not in LEADERBOARD)])
    added = [f"{name}{end}" for name in further_metrics(frame.columns) for end in ("", "_low", "_high")]
    for name, kind in {**LEADERBOARD, **dict.fromkeys(added, "float64")}.items():
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
                raise DataError(f"{path}: {name} must be numbers. {error}. {advice}") from None
            frame[name] = numbers.astype("Int64" if numbers.isna().any() and kind == "int64" else kind)
    return frame


def further_metrics(columns: Iterable[str]) -> list[str]:
    """Return the metrics of a leaderboard that have no fixed column: each is followed by the bounds of its interval."""
    columns = list(columns)
    return [name for name in columns if name not in LEADERBOARD and {f"{name}_low", f"{name}_high"} <= {*columns}]


# What a run leaves as CSV, by the name of the file.
NAMES = (
    *("scores", "predictions", "leaderboard", "intervals", "pairs", "slices", "confusion", "premium", "stress"),
    *("importance", "permuted", "folds", "trials", "excluded", "notes", "latency"),
)
# Columns that are text although numbers may stand in them; in `slices`, `value` is a speaker, a sex, a statement.
TEXT = frozenset(
    [
        "run",
        "corpus",
        "features",
        "protocol",
        "shared_protocol",
        "entry",
        "entry_a",
        "entry_b",
        "model",
        "metric",
        "block",
        "utterance",
        "audio",
        "speaker",
        "sex",
        "statement",
        "intensity",
        "repetition",
        "y_true",
        "y_pred",
        "slice",
        "statistic",
        "path",
        "reason",
        "note",
        "error",
        "state",
        "params",
        "stage",
        "stress",
        "measure",
        "group",
        "verdict",
        "waives",
        "exclude",
        "folds",
        "feature_spec",
        "feature_key",
        "trained_on",
    ]
)


def read_typed_csv(path: Path) -> pd.DataFrame:
    """Read a CSV of a run with numbers as numbers and truth values as booleans; text stays text, missing or not."""
    import pandas as pd

    frame = read_csv(path)
    for name in frame.columns:
        if name in TEXT or (name == "value" and path.stem == "slices"):
            continue
        if set(frame[name]) <= {"True", "False", ""}:
            frame[name] = frame[name].map({"True": True, "False": False}).astype("boolean")
            continue
        try:
            frame[name] = pd.to_numeric(frame[name].replace("", None))
        except ValueError:  # a column that this version does not know
            continue
    return frame


def read_csv(path: Path, *, advice: str = "Write it again.") -> pd.DataFrame:
    """Read a CSV of a run as text, without the guard against formulas; `advice` ends the message where it is none."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    except FileNotFoundError:
        raise ConfigError(f"{path}: must be there. It is not. Run the config again to write it.") from None
    except (ValueError, UnicodeDecodeError) as error:  # what pandas raises of a CSV that is none
        raise DataError(
            f"{path}: must be a CSV that emobench wrote. {on_one_line(str(error).strip())}. {advice}"
        ) from None
    return frame.apply(lambda column: column.str.replace(r"^'(?=[=+\-@\t\r])", "", regex=True))


def in_csv(value: Any) -> Any:
    """Return a cell as a CSV takes it: no line of it is a formula, and control characters are spelled out.

    A carriage return would begin a new row for some readers, and a formula there; an escape steers a terminal. Only
    tabs and line feeds stay, which every reader gives back.
    """
    if not isinstance(value, str):
        return value
    lines = "\n".join(map(not_a_formula, value.split("\n")))
    return _NOT_IN_CSV.sub(lambda found: found[0].encode("unicode_escape").decode(), lines)


def not_a_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: text that would start one gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _arrow_schema(schema: Mapping[str, str], columns: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(column, pa.type_for_alias(schema.get(column, "float64"))) for column in columns])

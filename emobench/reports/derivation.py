"""Everything of a run that follows from its tables: leaderboards, intervals, slices, and one page to read.

What a run measured is in the primary files; `derive` is a pure function of their content, so the other files can be
rebuilt anywhere, byte for byte. ``SHA256SUMS`` (which ``sha256sum -c`` reads) tells whether they belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from emobench import metrics
from emobench.corpora.labels import fit_encoder
from emobench.errors import ConfigError, DataError, UnknownNameError
from emobench.files import hash_bytes, json_bytes, write_bytes
from emobench.reports import importance, leaderboard, page, premium, slices, stress, timing
from emobench.reports.leaderboard import DECIMALS, KEYS
from emobench.results.record import check_record
from emobench.results.run import PRIMARY, RUN, SUMS, hash_of, read_run, read_sums
from emobench.results.tables import PERMUTED, PREDICTIONS, SCORES, csv_bytes, read_csv, read_leaderboard, read_table

TABLES = {"scores": SCORES, "predictions": PREDICTIONS}
STRESS = "stress_answers"  # a third tidy table, where the config asks for stress
DERIVED = {  # the tables that follow from the predictions, with their columns of text
    "pairs": (*KEYS, "metric", "entry_a", "entry_b", "reason"),
    "intervals": (*KEYS, "metric", "reason"),
    "slices": (*KEYS, "slice", "value", "statistic", "reason"),
    "confusion": (*KEYS, "y_true", "y_pred"),
    "importance": (*KEYS, "block", "reason"),
    "premium": (*premium.BOARD, "entry", "metric", "reason"),
    "stress": tuple(name for name, kind in stress.COLUMNS.items() if kind == "string"),
}
CONFUSION = [*KEYS, "y_true", "y_pred", "n", "share"]


def derive(
    scores: pd.DataFrame,
    predictions: pd.DataFrame,
    run: Mapping[str, Any],
    *,
    excluded: pd.DataFrame | None = None,
    latency: pd.DataFrame | None = None,
    trials: pd.DataFrame | None = None,
    permuted: pd.DataFrame | None = None,
    stressed: pd.DataFrame | None = None,
) -> dict[str, bytes]:
    """Return the content of every derived file by its name.

    Parameters
    ----------
    scores, predictions : DataFrame
        The run's tidy tables, as `emobench.results.tables.read_table` returns them.
    run : mapping
        The content of ``run.json``.
    excluded, latency, trials, permuted : DataFrame, optional
        The CSVs of these names, where there are any.
    stressed : DataFrame, optional
        The tidy table of answers to stressed recordings.
    """
    with threadpool_limits(1):  # more threads are slower at this size, and add up in another order
        return _derive(scores, predictions, run, excluded, latency, trials, permuted, stressed)


def _derive(
    scores: pd.DataFrame,
    predictions: pd.DataFrame,
    run: Mapping[str, Any],
    excluded: pd.DataFrame | None,
    latency: pd.DataFrame | None,
    trials: pd.DataFrame | None,
    permuted: pd.DataFrame | None,
    stressed: pd.DataFrame | None,
) -> dict[str, bytes]:
    whole = leaderboard.complete(scores, predictions, run)
    description = leaderboard.describe(whole, run)
    board = leaderboard.leaderboard(scores, predictions, run, description, _median_latency(latency))
    sliced = slices.describe(whole, leaderboard.declared(run), metrics=leaderboard.asked(run))
    confused = confusion(whole, run)
    inflated = premium.describe(whole, run)
    tables = {
        "leaderboard": board,
        "pairs": description.pairs.round(DECIMALS),
        "intervals": description.intervals.round(DECIMALS),
        "slices": sliced.round(DECIMALS),
        "confusion": confused.round(DECIMALS),
    }
    texts = {"leaderboard.md": leaderboard.to_markdown(board, run)}
    if permuted is not None:
        tables["importance"] = importance.describe(permuted, leaderboard.declared(run)).round(DECIMALS)
    if not inflated.empty:
        tables["premium"] = inflated.round(DECIMALS)
        texts["premium.md"] = premium.to_markdown(inflated, run)
    if stressed is not None and not stressed.empty:
        tables["stress"] = stress.describe_run(stressed, run).round(DECIMALS)
    texts["report.html"] = page.render(
        tables, run, scores=scores, predictions=whole, excluded=excluded, latency=latency, trials=trials
    )
    return {
        **{
            f"{name}.csv": csv_bytes(table)
            for name, table in ({"scores": scores, "predictions": predictions} | tables).items()
        },
        **{name: text.encode(errors="backslashreplace") for name, text in texts.items()},
    }


def confusion(predictions: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Count predictions by true and predicted class, pooled over repeats.

    Returns
    -------
    DataFrame with the columns `CONFUSION`, every pair of declared classes
        `share` is that of the true class, so that the diagonal holds the recalls; NaN where it has no utterance.
    """
    declared, parts = leaderboard.declared(run), []
    for key, part in predictions.groupby(KEYS, sort=False):
        encoder = fit_encoder(declared[key[0]])
        labels = list(encoder.classes_)
        y_true, y_pred = (encoder.transform(part[name]) for name in ("y_true", "y_pred"))
        table = metrics.confusion(y_true, y_pred, len(labels))
        share = metrics.ratio(table, np.broadcast_to(table.sum(axis=1, keepdims=True), table.shape))
        pairs = {"y_true": np.repeat(labels, len(labels)), "y_pred": labels * len(labels)}
        where = dict(zip(KEYS, key, strict=True))
        parts.append(pd.DataFrame({**where, **pairs, "n": table.ravel(), "share": share.ravel()}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CONFUSION)


def _median_latency(latency: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return what the leaderboard shows: from the recording to the label, one at a time."""
    if latency is None:
        return None
    single = latency[(latency["stage"] == timing.WAV_TO_LABEL) & (latency["batch"] == 1)]
    return single.rename(columns={"p50_ms": "latency_p50_ms", "p95_ms": "latency_p95_ms"})


# --- files ----------------------------------------------------------------------------------------------------------


def write_derived(folder: Path, run: Mapping[str, Any]) -> list[str]:
    """Derive what follows from the tables in a run's folder, and write what changed of it; return all names.

    ``SHA256SUMS`` is the last of them.

    Parameters
    ----------
    run : mapping
        The content of ``run.json``, which need not be there yet.
    """
    files = _derive_from(folder, run)
    sums = {name: hash_bytes(content) for name, content in files.items()}
    sums |= {name: hash_of(folder / name) for name in PRIMARY if name != RUN and (folder / name).is_file()}
    sums[RUN] = hash_bytes(json_bytes(run))
    files[SUMS] = _sums_bytes(sums)
    for name, content in files.items():
        if _read_bytes(folder / name) != content:
            write_bytes(folder / name, content)
    return list(files)


def _sums_bytes(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{value}  {name}\n" for name, value in sorted(sums.items())).encode()


def rebuild(folder: Path, *, output: Path | None = None) -> list[str]:
    """Write the derived files of a recorded run again; return their names.

    Of a run whose tables are not kept but whose CSVs are, as in a repository, only the pages are written.

    Parameters
    ----------
    output : Path, optional
        Where to; without ``SHA256SUMS`` if that is not the run's folder.

    Raises
    ------
    ConfigError
        If there is no run, its tables are not kept, or a newer emobench wrote it.
    DataError
        If a primary file is damaged, or not the one that the run wrote.
    """
    run = read_run(folder)
    check_record(run, folder / RUN, is_whole=True)
    for name, value in read_sums(folder).items():
        path = folder / name
        if name in PRIMARY and path.is_file() and hash_of(path) != value:
            raise DataError(
                f"{path}: must be as the run wrote it. Its SHA-256 is not the one in {SUMS}. Run the same config again "
                "to write it anew; finished jobs are kept."
            )
    is_kept = any((folder / f"{name}.parquet").is_file() for name in TABLES)
    try:
        if is_kept and (output is None or output.resolve() == folder.resolve()):
            return write_derived(folder, run)
        has_csvs = all((folder / f"{name}.csv").is_file() for name in ("leaderboard", "intervals", "slices"))
        files = _derive_from(folder, run) if is_kept or not has_csvs else _pages_from_csv(folder, run)
    except UnknownNameError as error:
        if not run.get("plugins"):
            raise
        used = ", ".join(item["file"] for item in run["plugins"])
        raise ConfigError(f"{error} This run used {used}. Give that file with --plugin.") from None
    output = output or folder
    for name, content in files.items():
        write_bytes(output / name, content)
    if (output / SUMS).is_file():
        sums = read_sums(output) | {name: hash_bytes(content) for name, content in files.items()}
        write_bytes(output / SUMS, _sums_bytes(sums))
    return list(files)


def _derive_from(folder: Path, run: Mapping[str, Any]) -> dict[str, bytes]:
    tables = {name: _read(folder, name, run) for name in TABLES}
    return derive(**tables, run=run, stressed=_read_stress(folder, run), **_read_further(folder))


def _read_further(folder: Path) -> dict[str, pd.DataFrame | None]:
    further = {name: _read_texts(folder / f"{name}.csv") for name in ("excluded", "trials")}
    permuted = _read_texts(folder / "permuted.csv")
    if permuted is not None:
        permuted = _with_numbers(permuted, [name for name, kind in PERMUTED.items() if kind == "string"])
    return {**further, "latency": _read_latency(folder), "permuted": permuted}


def _read_stress(folder: Path, run: Mapping[str, Any]) -> pd.DataFrame | None:
    return read_table(folder / STRESS) if "stress" in run and (folder / f"{STRESS}.parquet").is_file() else None


def _pages_from_csv(folder: Path, run: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the pages of a run of which only the CSVs are kept; nothing in them is computed anew."""
    paths = {name: folder / f"{name}.csv" for name in DERIVED}
    tables = {name: _with_numbers(read_csv(path), DERIVED[name]) for name, path in paths.items() if path.is_file()}
    tables["leaderboard"] = read_leaderboard(folder / "leaderboard.csv")
    texts = {"leaderboard.md": leaderboard.to_markdown(tables["leaderboard"], run)}
    further = _read_further(folder)
    del further["permuted"]  # of which `importance` is made
    texts["report.html"] = page.render(tables, run, **further)
    return {name: text.encode(errors="backslashreplace") for name, text in texts.items()}


def _with_numbers(table: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    """Return a CSV's table with numbers in every column but those of text."""
    return table.assign(**{name: pd.to_numeric(table[name]) for name in table if name not in texts})


def is_current(folder: Path) -> bool:
    """Return whether every file of a run is there and belongs to the others."""
    sums = read_sums(folder)
    return {RUN, *(f"{name}.parquet" for name in TABLES), "report.html"} <= set(sums) and all(
        (folder / name).is_file() and hash_of(folder / name) == value for name, value in sums.items()
    )


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _read_texts(path: Path) -> pd.DataFrame | None:
    return read_csv(path) if path.is_file() else None


def _read_latency(folder: Path) -> pd.DataFrame | None:
    table = _read_texts(folder / "latency.csv")
    if table is None:
        return None
    numbers = [name for name in table if name == "batch" or name.endswith(("_ms", "_s", "_bytes"))]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


def _read(folder: Path, name: str, run: Mapping[str, Any]) -> pd.DataFrame:
    """Read a tidy table, and make sure that it is of this run."""
    frame = read_table(folder / name)
    frame = frame.assign(**{added: None for added in ("converged",) if name == "scores" and added not in frame})
    known = {"run": {run["run"]}, "corpus": {*run["corpora"]}, "features": {*run["features"]}}
    known["entry"] = {*run["entries"]}
    lacking = [column for column in TABLES[name] if column not in frame]
    strange = [column for column in known if column in frame and not set(frame[column]) <= known[column]]
    if lacking or strange:
        what = f"lacks the columns {', '.join(lacking)}" if lacking else f"has another {strange[0]} than {RUN}"
        raise DataError(
            f"{folder / name}.parquet: must be the table of the run {run['run']}. It {what}. Run the same config again."
        )
    return frame

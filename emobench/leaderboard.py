"""From the tidy tables of a run to its leaderboard: one row per corpus, features, protocol and entry, best first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from emobench import metrics, statistics
from emobench.results import LEADERBOARD

KEYS = ["corpus", "features", "protocol", "entry"]
QUALITY = ("uar", "uar_low", "uar_high", "war", "macro_f1", "worst_speaker_uar", "seed_sd", "tuning_s", "optimism")
DECIMALS = 6
HEADINGS = (
    *("rank", "group", "entry", "UAR", "95 % interval", "WAR", "macro F1", "worst speaker", "seed SD"),
    *("trials", "optimism", "fit (s)", "failed"),
)


def describe(scores: pd.DataFrame, predictions: pd.DataFrame, run: Mapping[str, Any]) -> statistics.Description:
    """Return intervals over speakers, rank groups and differences between the entries of which no fold failed."""
    failed = scores.loc[scores["fit_s"].isna(), KEYS].drop_duplicates()
    marked = predictions.merge(failed, on=KEYS, how="left", indicator=True)
    whole = marked[marked["_merge"] == "left_only"].drop(columns="_merge")
    classes = {name: corpus["classes"] for name, corpus in run["corpora"].items()}
    return statistics.describe(whole, classes, seed=0)


def leaderboard(
    scores: pd.DataFrame,
    predictions: pd.DataFrame,
    run: Mapping[str, Any],
    description: statistics.Description | None = None,
) -> pd.DataFrame:
    """Build the leaderboard of a run.

    Quality is scored on the pooled out-of-fold predictions of each repeat, then averaged over repeats. An entry of
    which a fold failed has no quality, no rank, and stands last.

    Parameters
    ----------
    scores, predictions : DataFrame
        The run's tidy tables (`emobench.results.SCORES`, `PREDICTIONS`).
    run : mapping
        The content of ``run.json``.
    description : Description, optional
        What `describe` returned, where it is at hand.

    Returns
    -------
    DataFrame with the columns `emobench.results.LEADERBOARD`.
    """
    pooled = dict(iter(predictions.groupby(KEYS, sort=False)))
    rows = [
        _row(dict(zip(KEYS, key, strict=True)), cells, pooled.get(key), run)
        for key, cells in scores.groupby(KEYS, sort=False)
    ]
    frame = pd.DataFrame(rows, columns=list(LEADERBOARD)).astype(
        dict.fromkeys((*QUALITY, "fit_s", "latency_p50_ms"), float)
    )
    order = {name: list(run[name]) for name in ("corpora", "features")}
    protocols = list(dict.fromkeys(certificate["protocol"] for certificate in run["leakage_certificates"]))
    frame = frame.assign(
        _corpus=frame["corpus"].map(order["corpora"].index),
        _features=frame["features"].map(order["features"].index),
        _protocol=frame["protocol"].map(protocols.index),
    ).sort_values(["_corpus", "_features", "_protocol", "uar", "entry"], ascending=[True, True, True, False, True])
    ranks = frame.groupby(["_corpus", "_features", "_protocol"])["uar"].rank(method="min", ascending=False)
    description = description or describe(scores, predictions, run)
    frame = frame.assign(rank=ranks.astype("Int64")).drop(columns=["uar_low", "uar_high", "rank_group"])
    bounds = description.intervals[description.intervals["metric"] == "uar"]
    bounds = bounds.rename(columns={"low": "uar_low", "high": "uar_high"})[[*KEYS, "uar_low", "uar_high"]]
    frame = frame.merge(bounds.round(DECIMALS), how="left", on=KEYS).merge(description.groups, how="left", on=KEYS)
    return frame.astype({"rank_group": "Int64"})[list(LEADERBOARD)].reset_index(drop=True)


def _row(
    key: dict[str, str], cells: pd.DataFrame, pooled: pd.DataFrame | None, run: Mapping[str, Any]
) -> dict[str, Any]:
    jobs = cells.drop_duplicates(["repeat", "fold"])
    n_failed = int(jobs["fit_s"].isna().sum())
    corpus, features = run["corpora"][key["corpus"]], run["features"][key["features"]]
    certificate = next(
        c for c in run["leakage_certificates"] if (c["corpus"], c["protocol"]) == (key["corpus"], key["protocol"])
    )
    quality = {} if n_failed or pooled is None else _quality(pooled, tuple(corpus["classes"]))
    return {
        **dict.fromkeys(LEADERBOARD),
        **key,
        **quality,
        **_tuning(jobs, quality.get("uar", math.nan)),
        "model": run["entries"][key["entry"]]["model"],
        "tuned": run["entries"][key["entry"]]["tuned"],
        "fit_s": round(float(jobs["fit_s"].mean()), 4),
        "n_failed": n_failed,
        "n_utterances": certificate["n_tested"],
        "n_speakers": corpus["n_speakers"],
        "folds": certificate["folds_fingerprint"],
        "feature_spec": describe_features(features["specification"]),
        "feature_key": features["key"],
        "waives": "+".join(certificate["waives"]),
        "n_excluded": corpus["n_excluded"],
    }


def _tuning(jobs: pd.DataFrame, uar: float) -> dict[str, float]:
    """Return the trials of a fold, the seconds they took, and how much better tuning thought the entry than it is."""
    if not (jobs["n_trials"] > 0).any():
        return {"n_trials": 0}
    optimism = round(float(jobs["inner_score"].mean()) - uar, DECIMALS)
    tuning_s = round(float(jobs["tuning_s"].mean()), 4)
    return {"n_trials": int(jobs["n_trials"].max()), "tuning_s": tuning_s, "optimism": optimism}


def _quality(pooled: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, float]:
    """Score the pooled predictions of every repeat; return means, and the spread of UAR over repeats."""
    code = {label: index for index, label in enumerate(classes)}
    repeats = [
        (part["y_true"].map(code).to_numpy(), part["y_pred"].map(code).to_numpy(), part["speaker"].to_numpy())
        for _, part in pooled.groupby("repeat")
    ]
    k = len(classes)
    per_metric = {
        name: [metrics.score(name, y_true, y_pred, k)[0] for y_true, y_pred, _ in repeats]
        for name in ("uar", "war", "macro_f1")
    }
    by_speaker = np.mean([list(_speaker_uars(*repeat, k)) for repeat in repeats], axis=0)
    quality = {name: float(np.mean(values)) for name, values in per_metric.items()}
    quality["worst_speaker_uar"] = float(by_speaker.min())
    quality["seed_sd"] = float(np.std(per_metric["uar"], ddof=1)) if len(repeats) > 1 else math.nan
    return {name: round(value, DECIMALS) for name, value in quality.items()}


def _speaker_uars(y_true: np.ndarray, y_pred: np.ndarray, speakers: np.ndarray, n_classes: int) -> Iterator[float]:
    for speaker in np.unique(speakers):
        rows = speakers == speaker
        yield metrics.present_uar(y_true[rows], y_pred[rows], n_classes)


def describe_features(specification: Mapping[str, Any]) -> str:
    """Return a feature specification as one short text: ``mfcc40 v1 sr=22050 n_mfcc=40``."""
    parts = [f"{name}={value}" for name, value in {"sr": specification["sr"], **specification["params"]}.items()]
    return " ".join([specification["name"], f"v{specification['version']}", *parts])


def to_markdown(frame: pd.DataFrame, run: Mapping[str, Any]) -> str:
    """Return the leaderboard as Markdown, one table per corpus, features and protocol."""
    lines = [f"# {run['run']}", ""]
    for (corpus, features, protocol), part in frame.groupby(["corpus", "features", "protocol"], sort=False):
        first, about = part.iloc[0], run["corpora"][corpus]
        lines += [
            f"## {_escape(corpus)} · {_escape(features)} · {_escape(protocol)}",
            "",
            f"{first['n_utterances']} utterances, {first['n_speakers']} speakers, {len(about['classes'])} emotions "
            f"({_escape(', '.join(about['classes']))}); chance is {1 / len(about['classes']):.3f}. "
            + _honesty(first["waives"])
            + (f" {first['n_excluded']} recordings were excluded." if first["n_excluded"] else "")
            + " Intervals are over speakers; entries of one group cannot be told apart.",
            "",
            f"| {' | '.join(HEADINGS)} |",
            f"|{'|'.join('---' if heading == 'entry' else '---:' for heading in HEADINGS)}|",
        ]
        lines += [_markdown_row(row) for _, row in part.iterrows()]
        lines.append("")
    return "\n".join(lines)


def _honesty(waives: str) -> str:
    if waives:
        return f"**Training and test share: {waives.replace('+', ', ')}.** Not a figure for new speakers."
    return "No speaker is in training and test."


def _markdown_row(row: pd.Series) -> str:
    rank, group = (figure(row[name], 0) for name in ("rank", "rank_group"))
    quality = [figure(row["uar"]), interval(row), *(figure(row[name]) for name in ("war", "macro_f1"))]
    spread = [figure(row[name]) for name in ("worst_speaker_uar", "seed_sd")]
    tuning = [str(row["n_trials"] or ""), figure(row["optimism"])]
    cells = [rank, group, _escape(row["entry"]), *quality, *spread, *tuning, figure(row["fit_s"], 2)]
    return f"| {' | '.join(cells)} | {row['n_failed'] or ''} |"


def interval(row: Mapping[str, Any]) -> str:
    """Return the interval of a row's UAR for people; empty where there is none."""
    return "" if pd.isna(row["uar_low"]) else f"{row['uar_low']:.3f}–{row['uar_high']:.3f}"


def figure(value: Any, decimals: int = 3) -> str:
    """Return a number for people; empty where there is none."""
    return "" if pd.isna(value) else f"{value:.{decimals}f}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

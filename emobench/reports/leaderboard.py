"""From the tidy tables of a run to its leaderboard: one row per corpus, features, protocol and entry, best first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from emobench.protocols import UNKNOWN_SPEAKERS
from emobench.reports import slices
from emobench.reports.timing import with_noise
from emobench.results.tables import LEADERBOARD, further_metrics, in_markdown
from emobench.statistics import description
from emobench.statistics.counts import count_rows
from emobench.statistics.differences import describe_pairs

KEYS = ["corpus", "features", "protocol", "entry"]
LATENCY_KEYS = ["corpus", "features", "entry"]
LATENCY = ("latency_p50_ms", "latency_p95_ms", "model_bytes")
DECIMALS = 6


def complete(scores: pd.DataFrame, predictions: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Return the predictions of the entries that have every fold of every repeat, and none that failed.

    Quality is theirs alone: a figure without the fold that failed would be one of other speakers.
    """
    jobs = scores.drop_duplicates([*KEYS, "repeat", "fold"])
    done = jobs[jobs["fit_s"].notna()].groupby(KEYS, sort=False).size()
    n_folds = {(c["corpus"], c["protocol"]): len(c["folds"]) for c in run["leakage_certificates"]}
    expected = [n_folds.get((corpus, protocol), 0) * run["config"]["repeats"] for corpus, _, protocol, _ in done.index]
    whole = done[done == expected].reset_index()[KEYS]
    return predictions.merge(whole, on=KEYS)


def describe(predictions: pd.DataFrame, run: Mapping[str, Any]) -> description.Description:
    """Return intervals over speakers, rank groups and differences between entries; see `emobench.statistics`."""
    return description.describe(predictions, declared(run), metrics=asked(run), seed=0)


def declared(run: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the declared classes of each corpus of a run."""
    return {name: corpus["classes"] for name, corpus in run["corpora"].items()}


def asked(run: Mapping[str, Any]) -> list[str]:
    """Return the metrics that a run was asked for; UAR, which ranks are by, is always the first."""
    return list(dict.fromkeys(["uar", *run["config"]["metrics"]]))


def columns(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns of a run's leaderboard with their types."""
    added = [name for name in asked(run) if name not in LEADERBOARD]
    return LEADERBOARD | {f"{name}{end}": "float64" for name in added for end in ("", "_low", "_high")}


def leaderboard(
    scores: pd.DataFrame,
    predictions: pd.DataFrame,
    run: Mapping[str, Any],
    description: description.Description | None = None,
    latency: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Build the leaderboard of a run.

    Quality is that of `statistics.describe`: scored on the pooled out-of-fold predictions of each repeat, then averaged
    over repeats. An entry of which a fold failed has no quality, no rank, and stands last. `converged` is false where
    a model said in any fold that it had not, and empty for models that would not say. `pareto` is whether no other
    entry of the board is as good in UAR and median latency and better in one; empty where either is not known.

    Parameters
    ----------
    scores, predictions : DataFrame
        The run's tidy tables (`emobench.results.SCORES`, `PREDICTIONS`).
    run : mapping
        The content of ``run.json``.
    description : overall.Description, optional
        What `describe` returned of the complete entries, where it is at hand.
    latency : DataFrame, optional
        One row per corpus, features and entry, with the columns `LATENCY_KEYS` and `LATENCY`.

    Returns
    -------
    DataFrame with the columns `emobench.results.LEADERBOARD`, then of each further metric of the config its score and
        the bounds of its interval. Columns of metrics that were not asked for are empty.
    """
    whole = complete(scores, predictions, run)
    description = description or describe(whole, run)
    frame = pd.DataFrame(
        [_row(dict(zip(KEYS, key, strict=True)), cells, run) for key, cells in scores.groupby(KEYS, sort=False)],
        columns=[*KEYS, *_OF_JOBS],
    )
    if latency is None:
        latency = pd.DataFrame(columns=[*LATENCY_KEYS, *LATENCY])
    for part in (_quality(description, run), _worst_speakers(whole, run), description.groups):
        frame = frame.merge(part, how="left", on=KEYS)
    frame = _in_order(frame.merge(latency[[*LATENCY_KEYS, *LATENCY]], how="left", on=LATENCY_KEYS), run)
    frame["optimism"] = (frame["inner_score"] - frame["uar"]).round(DECIMALS)
    boards = frame.groupby(KEYS[:3], sort=False)
    frame["rank"] = boards["uar"].rank(method="min", ascending=False)
    frame["pareto"] = pd.concat([_pareto(part) for _, part in boards]) if len(frame) else None
    shown = columns(run)
    kinds = {name: kind for name, kind in shown.items() if kind != "string"}
    return frame.reindex(columns=list(shown)).astype(kinds).reset_index(drop=True)


def _quality(description: description.Description, run: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row an entry: each metric that was asked for, bounds of intervals, and the spread of UAR over seeds."""
    of_metrics = description.intervals[description.intervals["metric"].isin(asked(run))]
    wide = of_metrics.pivot(index=KEYS, columns="metric", values=["value", "low", "high", "seed_sd"]).astype(float)
    wide.columns = [metric if kind == "value" else f"{metric}_{kind}" for kind, metric in wide.columns]
    known = {f"{name}{end}" for name in asked(run) for end in ("", "_low", "_high")}
    shown = [name for name in columns(run) if name in known]
    return (
        wide.rename(columns={"uar_seed_sd": "seed_sd"})
        .reindex(columns=[*shown, "seed_sd"])
        .round(DECIMALS)
        .reset_index()
    )


def _worst_speakers(whole: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for key, part in whole.groupby(KEYS, sort=False):
        uars = slices.by_speaker(count_rows(part, declared(run)[key[0]]))["uar"]
        worst = round(uars.min(), DECIMALS) if part["speaker"].any() else math.nan
        rows.append(dict(zip(KEYS, key, strict=True)) | {"worst_speaker_uar": worst})
    return pd.DataFrame(rows, columns=[*KEYS, "worst_speaker_uar"])


def _in_order(frame: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Sort as the config has corpora, features and protocols, the best entry first."""
    places = {
        "corpus": list(run["corpora"]),
        "features": list(run["features"]),
        "protocol": list(dict.fromkeys(certificate["protocol"] for certificate in run["leakage_certificates"])),
    }
    keys = {f"_{name}": frame[name].map(order.index) for name, order in places.items()}
    frame = frame.assign(**keys).sort_values([*keys, "uar", "entry"], ascending=[True, True, True, False, True])
    return frame.drop(columns=list(keys)).reset_index(drop=True)


def _pareto(part: pd.DataFrame) -> pd.Series:
    """Return which entries of a board no other one dominates in UAR and median latency."""
    known = part[["uar", "latency_p50_ms"]].astype(float).dropna()
    uar, latency_ms = known["uar"].to_numpy(), known["latency_p50_ms"].to_numpy()
    is_as_good = (uar[:, None] >= uar) & (latency_ms[:, None] <= latency_ms)
    is_better = (uar[:, None] > uar) | (latency_ms[:, None] < latency_ms)
    is_front = pd.Series(~(is_as_good & is_better).any(axis=0), index=known.index, dtype="boolean")
    return is_front.reindex(part.index)


_OF_JOBS = (
    *("model", "tuned", "fit_s", "n_failed", "n_utterances", "n_speakers", "folds", "feature_spec", "feature_key"),
    *("waives", "exclude", "n_excluded", "n_trials", "tuning_s", "inner_score", "converged"),
)


def _row(key: dict[str, str], cells: pd.DataFrame, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the jobs of an entry and ``run.json`` tell of it, with the columns `KEYS` and `_OF_JOBS`."""
    jobs = cells.drop_duplicates(["repeat", "fold"])
    corpus, features = run["corpora"][key["corpus"]], run["features"][key["features"]]
    certificate = next(
        c for c in run["leakage_certificates"] if (c["corpus"], c["protocol"]) == (key["corpus"], key["protocol"])
    )
    return {
        **key,
        **_tuning(jobs),
        "model": run["entries"][key["entry"]]["model"],
        "tuned": run["entries"][key["entry"]]["tuned"],
        "fit_s": round(float(jobs["fit_s"].mean()), 4),
        "n_failed": int(jobs["fit_s"].isna().sum()),
        "n_utterances": certificate["n_tested"],
        "n_speakers": corpus["n_speakers"],
        "folds": certificate["folds_fingerprint"],
        "feature_spec": describe_features(features["specification"]),
        "feature_key": features["key"],
        "waives": "+".join(certificate["waives"]),
        "exclude": _exclusion(certificate),
        "n_excluded": corpus["n_excluded"],
        "converged": _converged(jobs),
    }


def _exclusion(certificate: Mapping[str, Any]) -> str:
    """Return by which rule recordings were left out before anything was looked at; nothing where none was."""
    rule = certificate.get("exclude", "known")
    if isinstance(rule, list):
        return f"{len(rule)} by path"
    return rule if rule != "known" or certificate.get("dropped") else ""


def _tuning(jobs: pd.DataFrame) -> dict[str, float]:
    """Return the trials of a fold, the seconds they took, and what tuning thought the entry scores."""
    if not (jobs["n_trials"] > 0).any():
        return {"n_trials": 0, "tuning_s": math.nan, "inner_score": math.nan}
    tuning_s = round(float(jobs["tuning_s"].mean()), 4)
    return {
        "n_trials": int(jobs["n_trials"].max()),
        "tuning_s": tuning_s,
        "inner_score": float(jobs["inner_score"].mean()),
    }


def _converged(jobs: pd.DataFrame) -> bool | None:
    """Return whether every fold of an entry has converged, None where none would say."""
    said = jobs["converged"].dropna()
    return bool(said.all()) if len(said) else None


def describe_features(specification: Mapping[str, Any]) -> str:
    """Return a feature specification as one short text: ``mfcc40 v1 sr=22050 n_mfcc=40``."""
    parts = [f"{name}={value}" for name, value in {"sr": specification["sr"], **specification["params"]}.items()]
    return " ".join([specification["name"], f"v{specification['version']}", *parts])


def to_markdown(frame: pd.DataFrame, run: Mapping[str, Any]) -> str:
    """Return the leaderboard as Markdown, one table per corpus, features and protocol."""
    lines = [f"# {run['run']}", ""]
    for (corpus, features, protocol), part in frame.groupby(["corpus", "features", "protocol"], sort=False):
        first, about = part.iloc[0], run["corpora"][corpus]
        headings, rows = table(part)
        lines += [
            f"## {in_markdown(corpus)} · {in_markdown(features)} · {in_markdown(protocol)}",
            "",
            f"{first['n_utterances']} utterances, {first['n_speakers'] or 'unknown'} speakers, "
            f"{len(about['classes'])} emotions ({in_markdown(', '.join(about['classes']))}); "
            f"chance is {1 / len(about['classes']):.3f}. "
            + honesty(first["waives"])
            + (f" {first['n_excluded']} recordings were excluded." if first["n_excluded"] else "")
            + " Intervals are over speakers; entries of one group cannot be told apart."
            + (f" In `pairs.csv`, {note}." if (note := describe_pairs(len(part))) else ""),
            "",
            f"| {' | '.join(headings)} |",
            f"|{'|'.join('---' if heading == 'entry' else '---:' for heading in headings)}|",
            *(f"| {' | '.join(map(in_markdown, row))} |" for row in rows),
            "",
        ]
    return "\n".join(lines)


def honesty(waives: str) -> str:
    if waives == UNKNOWN_SPEAKERS:
        return "**Speakers unknown.** Nobody can say whether training has heard the people who are tested."
    if waives:
        return f"**Training and test share: {waives.replace('+', ', ')}.** Not a figure for new speakers."
    return "No speaker is in training and test."


def shared(waives: str) -> str:
    """Return in a few words whether a board's figures are for new speakers."""
    if waives == UNKNOWN_SPEAKERS:
        return waives
    return f"shares {waives.replace('+', ', ')}: NOT for new speakers" if waives else "unheard speakers"


def interval(row: Mapping[str, Any], metric: str = "uar") -> str:
    """Return the interval of a row's metric for people; empty where there is none."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return "" if pd.isna(low) else f"{low:.3f}–{high:.3f}"


def figure(value: Any, decimals: int = 3) -> str:
    """Return a number for people; empty where there is none."""
    return "" if pd.isna(value) else f"{value:.{decimals}f}"


SHOWN: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "rank": lambda row: figure(row["rank"], 0),
    "group": lambda row: figure(row["rank_group"], 0),
    "entry": lambda row: row["entry"],
    "UAR": lambda row: figure(row["uar"]),
    "95 % interval": interval,
    "WAR": lambda row: figure(row["war"]),
    "macro F1": lambda row: figure(row["macro_f1"]),
    "worst speaker": lambda row: figure(row["worst_speaker_uar"]),
    "seed SD": lambda row: figure(row["seed_sd"]),
    "AUROC": lambda row: figure(row["auroc"]),
    "log loss": lambda row: figure(row["log_loss"]),
    "Brier": lambda row: figure(row["brier"]),
    "ECE": lambda row: figure(row["ece"]),
    "trials": lambda row: str(row["n_trials"] or ""),
    "optimism": lambda row: figure(row["optimism"]),
    "fit (s)": lambda row: figure(row["fit_s"], 2),
    "p50 (ms)": lambda row: with_noise(row["latency_p50_ms"], row.get("noise_p50_ms", math.nan)),
    "p95 (ms)": lambda row: figure(row["latency_p95_ms"], 2),
    "size (kB)": lambda row: "" if pd.isna(row["model_bytes"]) else figure(row["model_bytes"] / 1000, 0),
    "failed": lambda row: str(row["n_failed"] or ""),
}
DETAILS = frozenset({"AUROC", "log loss", "Brier", "ECE", "p95 (ms)", "size (kB)"})


def table(part: pd.DataFrame, *, in_detail: bool = False) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return rows of a leaderboard for people, with their headings; a column with nothing in it only takes room."""
    rows = part.to_dict("records")
    headings = [heading for heading in SHOWN if in_detail or heading not in DETAILS]
    cells = {heading: [SHOWN[heading](row) for row in rows] for heading in headings}
    for name in further_metrics(part.columns):
        cells[name] = [f"{figure(row[name])} ({interval(row, name)})".removesuffix(" ()") for row in rows]
    shown = {heading: column for heading, column in cells.items() if any(column)}
    return list(shown), list(zip(*shown.values(), strict=True))

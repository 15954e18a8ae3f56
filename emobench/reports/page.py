"""The page that a person reads: one HTML file, offline and without scripts, of everything that a run found.

Names come from files and configs, so the template escapes all of them, and the page forbids whatever is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from emobench.metrics import NO_PROBABILITIES, RECALL
from emobench.reports import figures
from emobench.reports.leaderboard import KEYS, describe_features, figure, table
from emobench.statistics.intervals import BOARD

if TYPE_CHECKING:
    from jinja2 import Template

MAX_EXCLUDED = 200
MAX_WORST = 20


@dataclass(frozen=True)
class Table:
    """A table of a page: text in cells, the first column a name and the others right-aligned.

    Attributes
    ----------
    rows : list of list of str
    n_names : int
        Columns from the left that hold text.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_names: int = 1


def render(
    tables: Mapping[str, pd.DataFrame],
    run: Mapping[str, Any],
    *,
    scores: pd.DataFrame,
    predictions: pd.DataFrame,
    excluded: pd.DataFrame | None = None,
    latency: pd.DataFrame | None = None,
) -> str:
    """Return the page.

    Parameters
    ----------
    tables : mapping
        ``leaderboard``, ``intervals``, ``pairs``, ``slices``, ``confusion`` and, where there is one, ``premium``: what
        the CSVs of these names hold.
    run : mapping
        The content of ``run.json``.
    scores, predictions : DataFrame
        For the jobs that failed, and for the sex of the speakers.
    excluded, latency : DataFrame, optional
        The CSVs of these names.
    """
    board = tables["leaderboard"]
    sexes = predictions.drop_duplicates(["corpus", "speaker"]).set_index(["corpus", "speaker"])["sex"].fillna("")
    return _template().render(
        run=run,
        corpora=[_corpus(name, about) for name, about in run["corpora"].items()],
        features=[describe_features(features["specification"]) for features in run["features"].values()],
        boards=[_board(key, part, tables, run, sexes) for key, part in board.groupby(BOARD, sort=False)],
        premiums=_premiums(tables.get("premium")),
        latency=None if latency is None else _latency(latency),
        failed=_failed(scores),
        excluded=_excluded(excluded),
        certificates=_certificates(run),
        entries=_entries(run),
        environment=_environment(run["environment"]),
        config=json.dumps(run["config"], indent=2, ensure_ascii=False),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("emobench.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html")


def _corpus(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **about,
        "name": name,
        "chance": 1 / len(about["classes"]),
        "stands_in": about["asked_for"] if about["asked_for"] != name else "",
    }


# --- one corpus, feature set and protocol ---------------------------------------------------------------------------


def _board(
    key: tuple[str, str, str],
    part: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    run: Mapping[str, Any],
    sexes: pd.Series,
) -> dict[str, Any]:
    from markupsafe import Markup

    def of_board(name: str) -> pd.DataFrame:
        table = tables[name]
        return table[(table[BOARD] == list(key)).all(axis=1)]

    corpus, features, protocol = key
    classes = run["corpora"][corpus]["classes"]
    first, scored = part.iloc[0], part[part["uar"].notna()]
    names, chance = list(scored["entry"]), 1 / len(classes)
    without = set(of_board("intervals").loc[lambda table: table["reason"] == NO_PROBABILITIES, "entry"])
    drawn = {"forest": "", "speakers": "", "trade_off": "", "many_speakers": None}
    if names:
        sliced = of_board("slices")
        per_speaker = sliced[(sliced["slice"] == "speaker") & (sliced["statistic"] == "uar")]
        per_speaker = per_speaker.assign(speaker=per_speaker["value"], sex=per_speaker["value"].map(sexes[corpus]))
        per_speaker = per_speaker.set_index("entry").loc[names].reset_index()
        drawn["forest"] = Markup(figures.forest(scored, chance=chance))
        drawn["speakers"] = Markup(figures.speakers(per_speaker, chance=chance))
        if len(per_speaker) > figures.MAX_POINTS * len(names):
            drawn["many_speakers"] = _many_speakers(per_speaker, names)
        timed = scored[scored["latency_p50_ms"].notna()]
        if len(timed):
            drawn["trade_off"] = Markup(figures.trade_off(timed))
    return {
        "corpus": corpus,
        "features": features,
        "protocol": protocol,
        "waives": first["waives"].split("+") if first["waives"] else [],
        "n_utterances": first["n_utterances"],
        "n_speakers": first["n_speakers"],
        "n_excluded": first["n_excluded"],
        "n_classes": len(classes),
        "chance": chance,
        "best": names[0] if names else "",
        "tied": list(part.loc[part["rank_group"].eq(1).fillna(False), "entry"])[1:],
        "without_probabilities": [name for name in names if name in without],
        "leaderboard": Table(*table(part, in_detail=True), n_names=3),
        "has_optimism": part["optimism"].notna().any(),
        "unconverged": list(part.loc[part["converged"].eq(False).fillna(False), "entry"]),
        "recalls": _recalls(of_board("intervals"), names, classes),
        "confusions": _confusions(of_board("confusion"), names, classes),
        "slices": _slices(of_board("slices"), names),
        "pairs": _pairs(of_board("pairs")),
        **drawn,
    }


def _with_bounds(value: float, low: float, high: float) -> str:
    return figure(value) + ("" if pd.isna(low) else f" ({figure(low)}–{figure(high)})")


def _recalls(intervals: pd.DataFrame, names: Sequence[str], classes: Sequence[str]) -> Table:
    cells = {
        (row["entry"], row["metric"]): _with_bounds(row["value"], row["low"], row["high"])
        for row in intervals.to_dict("records")
    }
    rows = [[name, *(cells.get((name, f"{RECALL}{label}"), "") for label in classes)] for name in names]
    return Table(["entry", *classes], rows)


def _confusions(confusion: pd.DataFrame, names: Sequence[str], classes: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for name in names:
        part = confusion[confusion["entry"] == name].set_index(["y_true", "y_pred"])
        rows = [
            (label, int(part.loc[label, "n"].sum()), [part.loc[(label, other), "share"] for other in classes])
            for label in classes
        ]
        found.append({"entry": name, "classes": classes, "rows": rows})
    return found


def _slices(slices: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each kind of slice a table, a row an entry; the speakers are a figure."""
    found = []
    for kind, part in slices.groupby("slice", sort=False):
        part = part[~((part["slice"] == "speaker") & (part["statistic"] == "uar"))]
        titles = {"uar": "{}", "difference": "difference {}", "minimum": "worst speaker", "sd": "SD", "range": "range"}
        columns = list(dict.fromkeys((row["statistic"], _column(row)) for row in part.to_dict("records")))
        cells = {(row["entry"], row["statistic"], _column(row)): _slice(row) for row in part.to_dict("records")}
        rows = [[name, *(cells.get((name, *column), "") for column in columns)] for name in names]
        headings = [titles[statistic].format(value) for statistic, value in columns]
        found.append({"name": kind, "table": Table(["entry", *headings], rows), "reasons": _reasons(part)})
    return found


def _many_speakers(per_speaker: pd.DataFrame, names: Sequence[str]) -> dict[str, Table]:
    """Return quantiles of the speakers' UAR, a row an entry, and the worst speakers by name, a column an entry."""
    quantiles, worst = [], []
    for name in names:
        uars = per_speaker[per_speaker["entry"] == name].set_index("speaker")["uar"].sort_values(kind="stable")
        quantiles.append([name, *map(figure, uars.quantile([0, *figures.QUANTILES, 1]))])
        worst.append([f"{speaker} ({figure(uar)})" for speaker, uar in uars.head(MAX_WORST).items()])
    headings = ["entry", "worst", *(f"{share:.0%}" for share in figures.QUANTILES), "best"]
    return {"quantiles": Table(headings, quantiles), "worst": Table(names, list(zip(*worst, strict=True)), len(names))}


def _column(row: Mapping[str, Any]) -> str:
    return row["value"] if row["slice"] != "speaker" else ""


def _slice(row: Mapping[str, Any]) -> str:
    if row["statistic"] == "minimum":
        return f"{figure(row['uar'])} ({row['value']})"
    if row["statistic"] == "difference" and not pd.isna(row["uar"]):
        bounds = "" if pd.isna(row["uar_low"]) else f" ({row['uar_low']:+.3f} to {row['uar_high']:+.3f})"
        return f"{row['uar']:+.3f}{bounds}"
    return _with_bounds(row["uar"], row["uar_low"], row["uar_high"])


def _reasons(part: pd.DataFrame) -> list[str]:
    with_reason = part[part["reason"].fillna("") != ""]
    return list(dict.fromkeys(f"{row['value']}: {row['reason']}" for row in with_reason.to_dict("records")))


def _pairs(pairs: pd.DataFrame) -> Table:
    rows = [
        [
            f"{row['entry_a']} − {row['entry_b']}",
            _signed(row["difference"]),
            "" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}",
            figure(row["p_value"], 4),
            figure(row["p_holm"], 4),
            row["reason"] or "",
        ]
        for row in pairs.to_dict("records")
    ]
    return Table(["entries", "difference of UAR", "95 % interval", "p", "p (Holm)", ""], rows)


def _signed(value: float) -> str:
    return "" if pd.isna(value) else f"{value:+.3f}"


# --- the run --------------------------------------------------------------------------------------------------------


def _premiums(premium: pd.DataFrame | None) -> list[dict[str, Any]]:
    if premium is None:
        return []
    found = []
    for key, part in premium.groupby(["corpus", "features", "shared_protocol", "protocol"], sort=False):
        rows = [
            [
                row["entry"],
                figure(row["shared"]),
                figure(row["unheard"]),
                _signed(row["premium"]),
                "" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}",
                figure(row["p_holm"], 4),
            ]
            for row in part.to_dict("records")
        ]
        headings = ["entry", "speakers shared", "speakers unheard", "premium", "95 % interval", "p (Holm)"]
        found.append({"key": key, "table": Table(headings, rows)})
    return found


def _latency(latency: pd.DataFrame) -> Table:
    shown = ["corpus", "features", "entry", "stage", "batch", "p50_ms", "p95_ms", "p99_ms", "throughput_per_s"]
    shown = [name for name in shown if name in latency]
    rows = [
        [
            figure(row[name], 0 if name == "batch" else 2) if isinstance(row[name], int | float) else row[name]
            for name in shown
        ]
        for row in latency.to_dict("records")
    ]
    return Table(shown, rows, n_names=4)


def _failed(scores: pd.DataFrame) -> Table:
    failed = scores[scores["fit_s"].isna()].drop_duplicates([*KEYS, "repeat", "fold"])
    rows = [
        [row["entry"], *(str(row[name]) for name in (*BOARD, "repeat", "fold", "error"))]
        for row in failed.to_dict("records")
    ]
    return Table(["entry", *BOARD, "repeat", "fold", "error"], rows, n_names=7)


def _excluded(excluded: pd.DataFrame | None) -> dict[str, Any]:
    rows = [] if excluded is None else excluded[["corpus", "path", "reason"]].astype(str).to_numpy().tolist()
    return {
        "n_more": max(0, len(rows) - MAX_EXCLUDED),
        "table": Table(["corpus", "path", "reason"], rows[:MAX_EXCLUDED], n_names=3),
    }


def _certificates(run: Mapping[str, Any]) -> Table:
    rows = [
        [
            certificate["corpus"],
            certificate["protocol"],
            str(len(certificate["folds"])),
            f"{certificate['n_tested']} of {certificate['n_utterances']}",
            *(str(sum(fold[name] for fold in certificate["folds"])) for name in _SHARED),
            certificate["folds_fingerprint"],
        ]
        for certificate in run["leakage_certificates"]
    ]
    headings = [
        "corpus",
        "protocol",
        "folds",
        "tested",
        "speakers shared",
        "audio shared",
        "clips shared",
        "fingerprint",
    ]
    return Table(headings, rows, n_names=2)


_SHARED = ("shared_speakers", "shared_audio", "shared_utterances")


def _entries(run: Mapping[str, Any]) -> Table:
    rows = [
        [name, entry["model"], ", ".join(f"{key}={value}" for key, value in entry["params"].items())]
        for name, entry in run["entries"].items()
    ]
    return Table(["entry", "model", "parameters"], rows, n_names=3)


def _environment(environment: Mapping[str, Any]) -> Table:
    plain = {name: value for name, value in environment.items() if name != "versions"}
    rows = [[name.replace("_", " "), str(value)] for name, value in {**plain, **environment["versions"]}.items()]
    return Table(["", ""], rows, n_names=2)

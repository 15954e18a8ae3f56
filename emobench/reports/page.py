"""The page that a person reads: one HTML file, offline and without scripts, of everything that a run found.

Names come from files and configs, so the template escapes all of them, and the page forbids whatever is not in it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from emobench.metrics import NO_PROBABILITIES, RECALL
from emobench.reports import figures, stress, timing
from emobench.reports.leaderboard import KEYS, describe_features, figure, table
from emobench.statistics.differences import describe_pairs
from emobench.statistics.intervals import BOARD, MIN_SPEAKERS

if TYPE_CHECKING:
    from jinja2 import Template

MAX_EXCLUDED = 200
MAIN = ("rank", "group", "entry", "UAR", "95 % interval", "WAR", "macro F1", "worst speaker", "p50 (ms)", "failed")
MAX_WORST = 20
MAX_PAIRS = 780  # as many as there are of 40 entries
MAX_BLOCKS = 20


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
    scores: pd.DataFrame | None = None,
    predictions: pd.DataFrame | None = None,
    excluded: pd.DataFrame | None = None,
    latency: pd.DataFrame | None = None,
    trials: pd.DataFrame | None = None,
) -> str:
    """Return the page.

    Parameters
    ----------
    tables : mapping
        ``leaderboard``, ``intervals``, ``pairs``, ``slices``, ``confusion`` and, where there are any, ``importance``,
        ``premium`` and ``stress``: what the CSVs of these names hold.
    run : mapping
        The content of ``run.json``.
    scores, predictions : DataFrame, optional
        For the jobs that failed, and for the sex of the speakers.
    excluded, latency, trials : DataFrame, optional
        The CSVs of these names.
    """
    board = timing.add_noise(tables["leaderboard"], latency)
    sexes = {}
    if predictions is not None:
        people = predictions.drop_duplicates(["corpus", "speaker"])
        sexes = dict(zip(zip(people["corpus"], people["speaker"], strict=True), people["sex"].fillna(""), strict=True))
    return _template().render(
        run=run,
        corpora=[_corpus(name, about) for name, about in run["corpora"].items()],
        features=[describe_features(features["specification"]) for features in run["features"].values()],
        boards=[_board(key, part, tables, run, sexes) for key, part in board.groupby(BOARD, sort=False)],
        premiums=_premiums(tables.get("premium")),
        stresses=_stresses(tables.get("stress"), board, run),
        latencies=[] if latency is None else _latencies(latency),
        all_latencies=None if latency is None else _all_latencies(latency),
        hardest=None if predictions is None else hardest_recordings(predictions, run),
        failed=_failed(scores),
        excluded=_excluded(excluded),
        certificates=_certificates(run),
        names=_names(run),
        entries=_entries(run),
        chosen=[] if trials is None else _chosen(trials, run),
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
    renamed = {when: _counted(counts) for when, counts in about.get("labels", {}).items()}
    return {
        "random_split": "",
        **about,
        "labels": renamed,
        "name": name,
        "chance": 1 / len(about["classes"]),
        "stands_in": about["asked_for"] if about["asked_for"] != name else "",
    }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {count}" for label, count in counts.items())


# --- one corpus, feature set and protocol ---------------------------------------------------------------------------


def _board(
    key: tuple[str, str, str],
    part: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    run: Mapping[str, Any],
    sexes: Mapping[tuple[str, str], str],
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
    drawn: dict[str, Any] = {
        **dict.fromkeys(("forest", "speakers", "trade_off", "importance"), ""),
        **{"many_speakers": None, "few_speakers": None, "important": "", "fastest": [], "unbeaten": []},
    }
    if names:
        sliced = of_board("slices")
        per_speaker = sliced[(sliced["slice"] == "speaker") & (sliced["statistic"] == "uar")]
        per_speaker = per_speaker.assign(
            speaker=per_speaker["value"],
            sex=[sexes.get((corpus, speaker), "") for speaker in per_speaker["value"]],
        )
        drawn["forest"] = Markup(figures.forest(scored, chance=chance))
        if len(per_speaker):
            per_speaker = per_speaker.set_index("entry").loc[names].reset_index()
            drawn["speakers"] = Markup(figures.speakers(per_speaker, chance=chance))
        if 0 < first["n_speakers"] < MIN_SPEAKERS:
            drawn["few_speakers"] = _few_speakers(per_speaker, names)
        if len(per_speaker) > figures.MAX_POINTS * len(names):
            drawn["many_speakers"] = _many_speakers(per_speaker, names)
        if "importance" in tables:
            shuffled = of_board("importance")
            best = shuffled[shuffled["entry"] == next((name for name in names if name in set(shuffled["entry"])), "")]
            if len(best):
                drawn["importance"] = Markup(figures.importance(best.head(MAX_BLOCKS)))
                drawn["important"] = best.iloc[0]["entry"]
        timed = scored[scored["latency_p50_ms"].notna()]
        if len(timed) > 1:
            is_beaten = timed["entry"].isin(timing.beaten(timed))
            drawn["trade_off"] = Markup(figures.trade_off(timed.assign(is_beaten=is_beaten)))
            drawn["fastest"] = timing.tied_with_fastest(timed)
            drawn["unbeaten"] = list(timed.loc[~is_beaten, "entry"])
    main, details = _split(*table(part, in_detail=True))
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
        "leaderboard": main,
        "details": details,
        "has_optimism": part["optimism"].notna().any(),
        "unconverged": list(part.loc[part["converged"].eq(False).fillna(False), "entry"]),
        "recalls": _recalls(of_board("intervals"), names, classes),
        "confusions": _confusions(of_board("confusion"), names, classes),
        "slices": _slices(of_board("slices"), names),
        "pairs": _pairs(of_board("pairs").head(MAX_PAIRS)),
        "n_pairs": len(of_board("pairs")),
        "not_compared": describe_pairs(len(part)),
        **drawn,
    }


def hardest_recordings(predictions: pd.DataFrame, run: Mapping[str, Any]) -> Table | None:
    """Return the recordings that were most often wrong where the speaker was held out, with what was heard."""
    waived = {(proof["corpus"], proof["protocol"]) for proof in run["leakage_certificates"] if proof["waives"]}
    boards = zip(predictions["corpus"], predictions["protocol"], strict=True)
    honest = predictions[[board not in waived for board in boards]]
    if honest.empty:
        return None
    is_wrong = (honest["y_true"] != honest["y_pred"]).groupby(honest["utterance"])
    found = pd.DataFrame({"wrong": is_wrong.sum(), "n": is_wrong.size()}).reset_index()
    found["share"] = found["wrong"] / found["n"]
    found = found[found["wrong"] > 0].sort_values(["share", "wrong", "utterance"], ascending=[False, False, True])
    rows = []
    for one in found.head(MAX_WORST).itertuples():
        answers = honest[honest["utterance"] == one.utterance]
        heard = Counter(answers.loc[answers["y_true"] != answers["y_pred"], "y_pred"])
        said = ", ".join(f"{label} {n}" for label, n in sorted(heard.items(), key=lambda item: (-item[1], item[0])))
        first = answers.iloc[0]
        rows.append([one.utterance, first["speaker"], first["y_true"], said, f"{one.wrong} of {one.n}"])
    return Table(["recording", "speaker", "emotion", "heard instead", "wrong"], rows, n_names=4)


def _split(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[Table, Table]:
    """Return a leaderboard as the table that everybody wants, and one with everything else."""
    first = [number for number, heading in enumerate(headings) if heading in MAIN]
    entry = headings.index("entry")
    rest = [entry, *(number for number in range(len(headings)) if number not in first)]

    def part(numbers: Sequence[int]) -> Table:
        return Table([headings[n] for n in numbers], [[row[n] for n in numbers] for row in rows])

    return replace(part(first), n_names=entry + 1), part(rest)


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


def _few_speakers(per_speaker: pd.DataFrame, names: Sequence[str]) -> Table:
    """Return the UAR of every speaker, a row an entry and a column a speaker."""
    uar = per_speaker.pivot(index="entry", columns="value", values="uar").loc[list(names)]
    rows = [[name, *(f"{value:.3f}" for value in uar.loc[name])] for name in names]
    return Table(["entry", *uar.columns], rows)


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
    from markupsafe import Markup

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
                _bounds(row),
                figure(row["p_holm"], 4),
            ]
            for row in part.to_dict("records")
        ]
        headings = ["entry", "speakers shared", "speakers unheard", "premium", "95 % interval", "p (Holm)"]
        whole = part.dropna(subset=["shared", "unheard"])
        drawn = Markup(figures.premium(whole)) if len(whole) else ""
        title = "{} · {} · {} against {}".format(*key)
        found.append({"title": title, "table": Table(headings, rows), "figure": drawn})
    return found


def _stresses(stressed: pd.DataFrame | None, board: pd.DataFrame, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each board its curves, the worst of each entry in words, verdicts, and gaps between groups.

    Curves and verdicts are of the best entries only, as many as there are colours.
    """
    from markupsafe import Markup

    if stressed is None:
        return []
    found = []
    for key, part in stressed.groupby(BOARD, sort=False):
        ranked = board[(board[BOARD] == list(key)).all(axis=1)]["entry"]
        entries = [entry for entry in ranked if (part["entry"] == entry).any()]
        shown = entries[: len(figures.COLOURS)]
        uars = part[(part["measure"] == "uar") & part["entry"].isin(shown)].sort_values(
            "entry", key=lambda names: names.map(shown.index), kind="stable"
        )
        chance = 1 / len(run["corpora"][key[0]]["classes"])
        gaps = part[part["measure"] == "gap"]
        found.append(
            {
                "title": " · ".join(key),
                "figure": Markup(figures.stress(uars, chance=chance)) if uars["level"].notna().any() else "",
                "worst": [(entry, stress.worst(part[part["entry"] == entry])) for entry in shown],
                "n_more": len(entries) - len(shown),
                "verdicts": _verdicts(part, shown),
                "gaps": Table(
                    ["entry", "groups", "difference of UAR", "95 % interval", "verdict"],
                    [
                        [row["entry"], row["group"], _signed(row["value"]), _bounds(row), row["verdict"]]
                        for row in gaps[gaps["entry"].isin(shown)].to_dict("records")
                    ],
                    n_names=2,
                ),
            }
        )
    return found


def _verdicts(part: pd.DataFrame, entries: Sequence[str]) -> Table:
    """Return a row for each stress and level: unchanged answers, drop and verdict of each entry."""
    rows = []
    for (name, level), one in part[part["level"].notna()].groupby(["stress", "level"], sort=False):
        cells = {(row["entry"], row["measure"]): row for row in one.to_dict("records")}
        line = [f"{name} {level:g}"]
        for entry in entries:
            unchanged, drop = (cells[entry, measure] for measure in ("unchanged", "delta_uar"))
            line += [figure(unchanged["value"], 2), _signed(drop["value"])]
            line.append(_worse([unchanged["verdict"], drop["verdict"]]))
        rows.append(line)
    headings = [f"{entry}: {what}" for entry in entries for what in ("unchanged", "ΔUAR", "verdict")]
    return Table(["stress", *headings], rows)


def _worse(verdicts: Sequence[str]) -> str:
    """Return the worst of some verdicts; nothing where there is none."""
    return next((one for one in (stress.FAIL, stress.INCONCLUSIVE, stress.PASS) if one in verdicts), "")


def _bounds(row: Mapping[str, Any]) -> str:
    return "" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"


def _latencies(latency: pd.DataFrame) -> list[dict[str, Any]]:
    """Return for each corpus and feature set a table, a row an entry."""
    found = []
    for key, part in latency.groupby(timing.KEYS[:2], sort=False):
        rows = []
        for entry, one in part.groupby("entry", sort=False):
            cells = {(row["stage"], row["batch"]): row for row in one.to_dict("records")}
            p50s = [_latency(cells.get((stage, 1)), "p50_ms") for stage in timing.STAGES]
            native_ms = one["native_p50_ms"].max() if "native_p50_ms" in one else math.nan
            throughput = one["throughput_per_s"].max() if "throughput_per_s" in one else math.nan
            size_kb = one["model_bytes"].iloc[0] / 1000
            rows.append([entry, *p50s, figure(native_ms), figure(throughput, 0), figure(size_kb, 0)])
        titles = [f"{title} (ms)" for title in timing.STAGES.values()]
        headings = ["entry", *titles, "the library's own predict (ms)", "most clips/s", "size (kB)"]
        n_noisy = int((part["is_noisy"].astype(str) == "True").sum()) if "is_noisy" in part else 0
        found.append({"key": key, "table": Table(headings, rows), "n_noisy": n_noisy, "n": len(part)})
    return found


def _all_latencies(latency: pd.DataFrame) -> Table:
    headings = ["entry", "stage", "clips at once", "p50 (ms)", "p95 (ms)", "p99 (ms)", "clips/s", "memory (MB)", ""]
    keys = timing.KEYS if len(latency.drop_duplicates(timing.KEYS[:2])) > 1 else ["entry"]
    rows = [
        [
            " · ".join(row[name] for name in keys),
            timing.STAGES.get(row["stage"], row["stage"]),
            str(row["batch"]),
            *(_latency(row, f"p{q}_ms") for q in (50, 95, 99)),
            figure(math.nan if row["stage"] == timing.COLD_START else row.get("throughput_per_s", math.nan), 0),
            figure(row.get("peak_memory_bytes", math.nan) / 1e6, 0),
            "noisy" if str(row.get("is_noisy")) == "True" else "",
        ]
        for row in latency.to_dict("records")
    ]
    return Table(headings, rows, n_names=2)


def _latency(row: Mapping[str, Any] | None, name: str) -> str:
    return "" if row is None else timing.with_noise(row[name], row.get(f"noise_{name}", math.nan))


def _failed(scores: pd.DataFrame | None) -> Table:
    rows = []
    if scores is not None:
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


def _names(run: Mapping[str, Any]) -> list[str]:
    """Return what the certificates say of the names of each corpus's speakers; nothing of runs that did not look."""
    sentences = {}
    for certificate in run["leakage_certificates"]:
        pairs = certificate.get("look_alike_speakers")
        if pairs:
            shown = ", ".join(f"{a} and {b}" for a, b in pairs)
            said = f"look alike and are different people, says the config (distinct: true): {shown}."
            sentences[certificate["corpus"]] = f"{certificate['corpus']}: these speakers' names {said}"
        elif pairs is not None:
            sentences[certificate["corpus"]] = f"{certificate['corpus']}: no two speakers' names look alike."
    return list(sentences.values())


def _certificates(run: Mapping[str, Any]) -> Table:
    rows = [
        [
            certificate["corpus"],
            certificate["protocol"],
            str(len(certificate["folds"])),
            f"{certificate['n_tested']} of {certificate['n_utterances']}",
            *(_shared(certificate, name) for name in _SHARED),
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


def _shared(certificate: Mapping[str, Any], name: str) -> str:
    counts = [fold.get(name) for fold in certificate["folds"]]
    return "unknown" if None in counts else str(sum(counts))


_SHARED = ("shared_speakers", "shared_audio", "shared_utterances")


def _entries(run: Mapping[str, Any]) -> Table:
    """Return the parameters of every entry; what tuning has set is left to `_chosen`."""
    rows = []
    for name, entry in run["entries"].items():
        space = (entry.get("tuning") or {}).get("space", {})
        fixed = [f"{key}={value}" for key, value in entry["params"].items() if key not in space]
        tuned = [f"tuned: {', '.join(space)}"] if space else []
        rows.append([name, entry["model"], "; ".join([*tuned, ", ".join(fixed)])])
    return Table(["entry", "model", "parameters"], rows, n_names=3)


def _chosen(trials: pd.DataFrame, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each board what tuning chose, a row an entry and parameter.

    Every fold tunes on its own training part, so there are as many choices as folds. The best trial of each is the one
    that `TunedClassifier` refits: the highest value, of equal ones the first. Trial 0 is the model as it is.
    """
    best: dict[tuple[str, ...], dict[tuple[str, str], tuple[float, int, dict[str, Any]]]] = {}
    for row in trials[trials["state"] == "complete"].to_dict("records"):
        folds = best.setdefault(tuple(row[name] for name in KEYS), {})
        found = (-float(row["value"]), int(row["trial"]), json.loads(row["params"]))
        fold = (row["repeat"], row["fold"])
        folds[fold] = min(folds.get(fold, found), found, key=lambda trial: trial[:2])
    boards: dict[tuple[str, ...], list[list[str]]] = {}
    for (*board, entry), folds in best.items():
        given = run["entries"][entry]["params"]
        chosen = [params for _, _, params in folds.values()]
        for name in sorted({name for params in chosen for name in params}):
            values = [params.get(name, given.get(name)) for params in chosen]
            n_kept = sum(name not in params for params in chosen)
            row = [entry, name, _summary(values), _value(given.get(name)), f"{n_kept} of {len(chosen)}"]
            boards.setdefault(tuple(board), []).append(row)
        if not any(chosen):
            row = [entry, "all", "the defaults", "", f"{len(chosen)} of {len(chosen)}"]
            boards.setdefault(tuple(board), []).append(row)
    headings = ["entry", "parameter", "chosen", "default", "folds that kept the default"]
    return [{"key": key, "table": Table(headings, rows, n_names=4)} for key, rows in boards.items()]


def _summary(values: Sequence[Any]) -> str:
    """Return the values of a parameter over folds: each with its count, or where they are many, the range."""
    is_number = [isinstance(value, int | float) and not isinstance(value, bool) for value in values]
    numbers = pd.Series(sorted(value for value, is_one in zip(values, is_number, strict=True) if is_one), dtype=float)
    others = Counter(_value(value) for value, is_one in zip(values, is_number, strict=True) if not is_one)
    distinct = Counter(map(_value, numbers))
    if len(distinct) > 6:
        span = f"{_value(numbers.min())} to {_value(numbers.max())}, median {_value(numbers.median())}"
        distinct = Counter({span: len(numbers) if others else 1})
    return ", ".join(text if count == 1 else f"{text} (×{count})" for text, count in (distinct + others).items())


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _environment(environment: Mapping[str, Any]) -> Table:
    plain = {name: value for name, value in environment.items() if name != "versions"}
    rows = [[name.replace("_", " "), str(value)] for name, value in {**plain, **environment["versions"]}.items()]
    return Table(["", ""], rows, n_names=2)

"""The leakage premium: by how much a model seems better when its test speakers have been heard in training.

The same entries are scored on the same utterances twice: under a protocol that deals clips at random, so that speakers
are shared, and under one where every test speaker is new. The difference is paired by speaker, and its interval and
p-value are those of `emobench.statistics.difference`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from emobench.protocols import get_protocol
from emobench.results.tables import in_markdown
from emobench.statistics.counts import Counts, count_entries, score
from emobench.statistics.differences import difference, holm

if TYPE_CHECKING:
    import pandas as pd

METRIC = "uar"
BOARD = ["corpus", "features", "shared_protocol", "protocol"]
COLUMNS = {
    **dict.fromkeys((*BOARD, "entry", "metric"), "string"),
    **dict.fromkeys(("shared", "unheard", "premium", "low", "high", "p_value", "p_holm"), "float64"),
    **dict.fromkeys(("n_speakers", "n_utterances"), "int64"),
    "reason": "string",
}
HEADINGS = ("entry", "shared speakers", "new speakers", "premium", "95 % interval", "p (Holm)")


def describe(predictions: pd.DataFrame, run: Mapping[str, Any], *, seed: int = 0) -> pd.DataFrame:
    """Return the premium of every entry, between each protocol that shares speakers and each where they alone are new.

    Protocols that hold out something else (a statement, a sex) take no part: they would mix two differences. p-values
    are by Holm over the entries that are compared between the same two protocols.

    Parameters
    ----------
    predictions : DataFrame
        The tidy table `tables.PREDICTIONS`, entries without failed folds only. An entry that is whole under
        one of the two protocols only is left out.
    run : mapping
        The content of ``run.json``.

    Returns
    -------
    DataFrame with the columns `COLUMNS`, in the order of the config; empty where the run has one kind of protocol only.
    """
    import pandas as pd

    kinds = {row["id"] or row["name"]: get_protocol(row["name"]) for row in run["config"]["protocols"]}
    leaky = [label for label, row in kinds.items() if row.is_leaky]
    honest = [label for label, row in kinds.items() if row.is_speaker_independent]
    parts = []
    for corpus, content in run["corpora"].items():
        for features in run["features"]:
            of_both = predictions[(predictions["corpus"] == corpus) & (predictions["features"] == features)]
            entries = {
                label: count_entries(of_both[of_both["protocol"] == label], tuple(content["classes"]))
                for label in (*leaky, *honest)
            }
            for protocol in honest:
                for shared in leaky:
                    names = [name for name in run["entries"] if name in entries[shared] and name in entries[protocol]]
                    if not names:
                        continue
                    rows = [_row(entries[shared][name], entries[protocol][name], seed) for name in names]
                    where = dict(zip(BOARD, (corpus, features, shared, protocol), strict=True))
                    part = pd.DataFrame(rows, columns=[name for name in COLUMNS if name not in where])
                    p_holm = holm(part["p_value"].to_numpy(dtype=float))
                    parts.append(part.assign(**where, entry=names, p_holm=p_holm))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    return frame[list(COLUMNS)].astype({name: kind for name, kind in COLUMNS.items() if kind != "string"})


def _row(shared: Counts, unheard: Counts, seed: int) -> dict[str, Any]:
    found = difference(shared, unheard, METRIC, seed=seed)
    return {
        "metric": METRIC,
        "shared": score(shared, METRIC),
        "unheard": score(unheard, METRIC),
        "premium": found.value,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "n_speakers": len(shared.speakers),
        "n_utterances": shared.n_utterances,
        "reason": found.reason,
    }


def to_columns(frame: pd.DataFrame) -> list[list[str]]:
    """Return the premium of some entries for people, headings first."""
    return [list(HEADINGS), *([row["entry"], *_figures(row)] for _, row in frame.iterrows())]


def to_markdown(frame: pd.DataFrame, run: Mapping[str, Any]) -> str:
    """Return the premium as Markdown, one table per corpus, features and pair of protocols."""
    lines = [f"# Leakage premium of {run['run']}", ""]
    for key, part in frame.groupby(BOARD, sort=False):
        corpus, features, shared, protocol = map(in_markdown, key)
        first = part.iloc[0]
        lines += [
            f"## {corpus} · {features} · {shared} against {protocol}",
            "",
            f"UAR on the same {first['n_utterances']} utterances of {first['n_speakers']} speakers. Under {shared} a "
            f"model has heard other clips of whom it is tested on, under {protocol} it has not: the premium is the gap."
            " Its interval is over speakers, its p-value by Holm over the entries.",
            "",
            f"| {' | '.join(HEADINGS)} |",
            f"|---|{'---:|' * (len(HEADINGS) - 1)}",
            *(f"| {' | '.join([in_markdown(row['entry']), *_figures(row)])} |" for _, row in part.iterrows()),
            "",
        ]
    return "\n".join(lines)


def _figures(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a row after its entry; what is not defined is empty, its reason in the interval's place."""
    shared, unheard, gap = (
        "" if math.isnan(row[name]) else form.format(row[name])
        for name, form in (("shared", "{:.3f}"), ("unheard", "{:.3f}"), ("premium", "{:+.3f}"))
    )
    bounds = row["reason"] if math.isnan(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
    return [shared, unheard, gap, bounds, "" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.4f}"]

"""How an entry does on parts of the test utterances: each speaker, sex, statement, intensity and repetition.

A slice may lack a class (RAVDESS has no neutral speech of strong intensity). The UAR of a slice is therefore the mean
recall over the classes that occur in it, and `reason` says which do not; other metrics are what they are over all
declared classes, NaN where that is not defined. As everywhere, a score is that of a repeat's pooled predictions, then
the mean over repeats, and an interval is over speakers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emobench.metrics import MetricSpec, get_metric, present_uar, recall_of
from emobench.statistics.counts import Counts, count_rows, row_of, score, score_speakers
from emobench.statistics.intervals import (
    BOARD,
    CONFIDENCE,
    Interval,
    bca,
    by_draw,
    interval_of,
    nothing,
    resamples,
    spreads,
    widened,
)

SLICES = ("sex", "statement", "intensity", "repetition")
MIN_SPEAKERS_OF_SEX = 6
N_RESAMPLES = 1999  # to look at, and there are many; ranks and comparisons take five times as many
COLUMNS = {
    **dict.fromkeys((*BOARD, "entry", "slice", "value", "statistic"), "string"),
    **dict.fromkeys(("n_utterances", "n_speakers"), "int64"),
    **dict.fromkeys(("uar", "uar_low", "uar_high", "war"), "float64"),
    "reason": "string",
}


def describe(
    predictions: pd.DataFrame,
    classes: Mapping[str, Sequence[str]],
    *,
    metrics: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Score every entry on every slice.

    Parameters
    ----------
    predictions : DataFrame
        The tidy table `emobench.results.tables.PREDICTIONS`, entries without failed folds only.
    classes : mapping of corpus to its declared classes
    metrics : sequence of str
        Metrics beside UAR and WAR.

    Returns
    -------
    DataFrame with the columns `COLUMNS`, then ``<name>, <name>_low, <name>_high`` of each further metric
        `uar` and the others hold what `statistic` says:

    - ``uar``: of the slice where `slice` (``speaker``, ``sex``, …) has `value`. A speaker's own has no interval.
    - ``difference``: of the two sexes (`value` says which minus which), with an interval over speakers.
    - ``minimum``, ``sd``, ``range``: of the speakers' UAR; `value` of the minimum is the worst speaker.
    """
    further = [get_metric(name) for name in metrics if name not in COLUMNS]
    rows = []
    for key, part in predictions.groupby([*BOARD, "entry"], sort=False, observed=True):
        where = dict(zip([*BOARD, "entry"], key, strict=True))
        labels = tuple(classes[where["corpus"]])
        rows += [
            where | row for row in [*_of_speakers(part, labels, further), *_of_values(part, labels, further, seed)]
        ]
    kinds = {**COLUMNS, **{f"{row.name}{end}": "float64" for row in further for end in ("", "_low", "_high")}}
    return pd.DataFrame(rows, columns=list(kinds)).astype(
        {name: kind for name, kind in kinds.items() if kind != "string"}
    )


def by_speaker(counts: Counts) -> pd.DataFrame:
    """Score an entry by speaker.

    Returns
    -------
    DataFrame with the columns ``uar, war, n_utterances, classes``, indexed by speaker, sorted
        Means over repeats; UAR is over the classes that the speaker utters, which are in `classes`.
    """
    n_true = counts.tables[0].sum(axis=2)
    scores = {
        "uar": present_uar(counts.tables).mean(axis=0),
        "war": score_speakers(counts, "war"),
        "n_utterances": n_true.sum(axis=1),
        "classes": [tuple(counts.classes[code] for code in np.flatnonzero(row)) for row in n_true],
    }
    return pd.DataFrame(scores, index=list(counts.speakers))


def _of_speakers(part: pd.DataFrame, labels: Sequence[str], further: Sequence[MetricSpec]) -> Iterator[dict[str, Any]]:
    if not part["speaker"].any():  # unknown
        return
    counts = count_rows(part, labels)
    scores = by_speaker(counts).assign(**{row.name: score_speakers(counts, row) for row in further})
    for speaker, row in zip(scores.index, scores.to_dict("records"), strict=True):
        of_speaker = {"slice": "speaker", "value": speaker, "statistic": "uar", "n_speakers": 1}
        yield {**of_speaker, **row, "reason": _lacking(row["classes"], labels)}
    whole = {"slice": "speaker", "n_utterances": scores["n_utterances"].sum(), "n_speakers": len(scores)}
    uars = scores["uar"]
    yield {**whole, "value": uars.idxmin(), "statistic": "minimum", "uar": uars.min(), "reason": ""}
    reason = "one speaker has no spread" if len(uars) == 1 else ""
    yield {**whole, "value": "", "statistic": "sd", "uar": uars.std(ddof=1), "reason": reason}
    yield {**whole, "value": "", "statistic": "range", "uar": uars.max() - uars.min(), "reason": ""}


def _of_values(
    part: pd.DataFrame, labels: Sequence[str], further: Sequence[MetricSpec], seed: int
) -> Iterator[dict[str, Any]]:
    for name in SLICES:
        counted = {}
        for value, rows in part[part[name].notna() & (part[name] != "")].groupby(name, sort=True):
            counts = count_rows(rows, labels)
            codes = np.flatnonzero(counts.tables.sum(axis=(0, 1, 3)))
            counted[value] = (counts, codes)
            metrics = [recall_of(codes), get_metric("war"), *further]
            [known] = spreads([counts], metrics, resamples(len(counts.speakers), N_RESAMPLES, seed))
            bounds = {row.name: interval_of(known[row.name], counts, row) for row in metrics}
            lacking = _lacking([counts.classes[code] for code in codes], labels)
            yield {
                **{"slice": name, "value": value, "statistic": "uar"},
                **{"n_utterances": counts.n_utterances, "n_speakers": len(counts.speakers)},
                **{metric: spread.observed for metric, spread in known.items()},
                **{f"{metric}_low": interval.low for metric, interval in bounds.items()},
                **{f"{metric}_high": interval.high for metric, interval in bounds.items()},
                "reason": "; ".join(filter(None, [lacking, bounds["uar"].reason])),
            }
        if name == "sex" and len(counted) == 2:
            (first, (a, codes)), (second, (b, others)) = counted.items()
            sizes = {"n_utterances": a.n_utterances + b.n_utterances, "n_speakers": len(a.speakers) + len(b.speakers)}
            row = {"slice": name, "value": f"{first}-{second}", "statistic": "difference", **sizes}
            if len(codes) < 2 or not np.array_equal(codes, others):
                yield {**row, "reason": "a difference takes at least two classes, the same on both sides"}
                continue
            metric = recall_of(codes)
            found, value = difference(a, b, metric, seed=seed), score(a, metric) - score(b, metric)
            yield {**row, "uar": value, "uar_low": found.low, "uar_high": found.high, "reason": found.reason}


def difference(
    a: Counts, b: Counts, metric: str | MetricSpec = "uar", *, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """Return the BCa bootstrap interval of the score of `a`'s speakers minus that of `b`'s, who are other people.

    The speakers of each group are resampled among themselves. As in `emobench.statistics.interval`, the percentiles are
    asked for at a level that allows for few speakers: Student's quantile of n_a + n_b - 2 degrees of freedom,
    widened by sqrt(m/(m-1)) with m the size of the smaller group.

    NaN with a reason where a group has fewer than six speakers, or where resamples lack a class.
    """
    n_a, n_b = len(a.speakers), len(b.speakers)
    if min(n_a, n_b) < MIN_SPEAKERS_OF_SEX:
        return nothing(f"a difference takes at least {MIN_SPEAKERS_OF_SEX} speakers of each, there are {n_a} and {n_b}")
    if shared := set(a.speakers) & set(b.speakers):
        return nothing(f"{len(shared)} speakers are on both sides")
    row, rng = row_of(a, metric), np.random.default_rng([seed, 2])
    ours, theirs = (
        spreads([counts], [row], by_draw(len(counts.speakers), N_RESAMPLES, rng))[0][row.name] for counts in (a, b)
    )
    observed, drawn = ours.observed - theirs.observed, ours.resamples - theirs.resamples
    if np.isnan(drawn).any():
        return nothing("in some resamples nobody of one sex utters a class")
    if np.ptp(drawn) == 0:
        return Interval(observed, observed)
    level = widened(confidence, n_a + n_b - 2, min(n_a, n_b))
    return bca(observed, drawn, [ours.left_out, -theirs.left_out], level=level)


def _lacking(occur: Sequence[str], labels: Sequence[str]) -> str:
    absent = [label for label in labels if label not in occur]
    return f"over {len(occur)} classes, without {', '.join(absent)}" if absent else ""

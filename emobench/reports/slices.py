"""How an entry does on parts of the test utterances: each speaker, sex, statement, intensity and repetition.

A slice may lack a class (RAVDESS has no neutral speech of strong intensity). The UAR of a slice is therefore the mean
recall over the classes that occur in it, and `reason` says which do not. As everywhere, a score is that of a repeat's
pooled predictions, then the mean over repeats, and an interval is over speakers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emobench.statistics.counts import Counts, count, score, score_resamples
from emobench.statistics.intervals import BOARD, CONFIDENCE, Interval, interval

SLICES = ("sex", "statement", "intensity", "repetition")
MIN_SPEAKERS_OF_SEX = 6
N_RESAMPLES = 1999  # to look at, and there are many; ranks and comparisons take five times as many
COLUMNS = {
    **dict.fromkeys((*BOARD, "entry", "slice", "value", "statistic"), "string"),
    **dict.fromkeys(("n_utterances", "n_speakers"), "int64"),
    **dict.fromkeys(("uar", "uar_low", "uar_high", "war"), "float64"),
    "reason": "string",
}


def describe(predictions: pd.DataFrame, classes: Mapping[str, Sequence[str]], *, seed: int = 0) -> pd.DataFrame:
    """Score every entry on every slice.

    Parameters
    ----------
    predictions : DataFrame
        The tidy table `emobench.results.tables.PREDICTIONS`, entries without failed folds only.
    classes : mapping of corpus to its declared classes

    Returns
    -------
    DataFrame with the columns `COLUMNS`; `uar` holds what `statistic` says:

    - ``uar``: of the slice where `slice` (``speaker``, ``sex``, …) has `value`. A speaker's own has no interval.
    - ``difference``: of the two sexes (`value` says which minus which), with an interval over speakers.
    - ``minimum``, ``sd``, ``range``: of the speakers' UAR; `value` of the minimum is the worst speaker.
    """
    rows = []
    for key, part in predictions.groupby([*BOARD, "entry"], sort=False, observed=True):
        where = dict(zip([*BOARD, "entry"], key, strict=True))
        labels = tuple(classes[where["corpus"]])
        rows += [where | row for row in [*_of_speakers(part, labels), *_of_values(part, labels, seed)]]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {name: kind for name, kind in COLUMNS.items() if kind != "string"}
    )


def by_speaker(part: pd.DataFrame) -> pd.DataFrame:
    """Score an entry's predictions under one protocol by speaker.

    Returns
    -------
    DataFrame with the columns ``uar, war, n_utterances, classes``, indexed by speaker, sorted
        Means over repeats; UAR is over the classes that the speaker utters, which are in `classes`.
    """
    labels = sorted({*part["y_true"], *part["y_pred"]})
    counts = _count(part, labels)
    hits, n_true = counts.tables.diagonal(axis1=2, axis2=3), counts.tables.sum(axis=3)
    recalls = np.divide(hits, n_true, out=np.full(hits.shape, np.nan), where=n_true > 0)
    n_utterances = n_true.sum(axis=2)
    scores = {
        "uar": np.nanmean(recalls, axis=2).mean(axis=0),
        "war": (hits.sum(axis=2) / n_utterances).mean(axis=0),
        "n_utterances": n_utterances[0],
        "classes": [[labels[code] for code in np.flatnonzero(row)] for row in n_true[0]],
    }
    return pd.DataFrame(scores, index=list(counts.speakers))


def _of_speakers(part: pd.DataFrame, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    scores = by_speaker(part)
    for speaker, row in scores.iterrows():
        yield {
            **{"slice": "speaker", "value": speaker, "statistic": "uar", "n_speakers": 1},
            **{name: row[name] for name in ("n_utterances", "uar", "war")},
            "reason": _lacking(row["classes"], labels),
        }
    whole = {"slice": "speaker", "n_utterances": scores["n_utterances"].sum(), "n_speakers": len(scores)}
    uars = scores["uar"]
    yield {**whole, "value": uars.idxmin(), "statistic": "minimum", "uar": uars.min(), "reason": ""}
    reason = "one speaker has no spread" if len(uars) == 1 else ""
    yield {**whole, "value": "", "statistic": "sd", "uar": uars.std(ddof=1), "reason": reason}
    yield {**whole, "value": "", "statistic": "range", "uar": uars.max() - uars.min(), "reason": ""}


def _of_values(part: pd.DataFrame, labels: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    for name in SLICES:
        known = part[part[name].notna() & (part[name] != "")]
        counted = {}
        for value, rows in known.groupby(name, sort=True):
            occur = [label for label in labels if label in set(rows["y_true"])]
            counts = _count(rows, occur)
            counted[value] = (counts, occur)
            metric = "uar" if len(occur) > 1 else "war"  # one class's recall is the share of right answers
            found = interval(counts, metric, n_resamples=N_RESAMPLES, seed=seed)
            yield {
                **{"slice": name, "value": value, "statistic": "uar"},
                **{"n_utterances": counts.n_utterances, "n_speakers": len(counts.speakers)},
                **{"uar": score(counts, metric), "uar_low": found.low, "uar_high": found.high},
                "war": score(counts, "war"),
                "reason": "; ".join(filter(None, [_lacking(occur, labels), found.reason])),
            }
        if name == "sex" and len(counted) == 2:
            (first, (a, classes_a)), (second, (b, classes_b)) = counted.items()
            sizes = {"n_utterances": a.n_utterances + b.n_utterances, "n_speakers": len(a.speakers) + len(b.speakers)}
            row = {"slice": name, "value": f"{first}-{second}", "statistic": "difference", **sizes}
            if classes_a != classes_b or len(classes_a) < 2:
                yield {**row, "reason": "a difference takes at least two classes, the same on both sides"}
                continue
            found = difference(a, b, seed=seed)
            value = score(a, "uar") - score(b, "uar")
            yield {**row, "uar": value, "uar_low": found.low, "uar_high": found.high, "reason": found.reason}


def difference(a: Counts, b: Counts, *, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Return the BCa bootstrap interval of the UAR of `a`'s speakers minus that of `b`'s, who are other people.

    The speakers of each group are resampled among themselves. As in `emobench.statistics.interval`, the percentiles are
    asked for at a level that allows for few speakers: Student's quantile of n_a + n_b - 2 degrees of freedom,
    widened by sqrt(m/(m-1)) with m the size of the smaller group.

    NaN with a reason where a group has fewer than six speakers, or where resamples lack a class.
    """
    n_a, n_b = len(a.speakers), len(b.speakers)
    if min(n_a, n_b) < MIN_SPEAKERS_OF_SEX:
        return _none(f"a difference takes at least {MIN_SPEAKERS_OF_SEX} speakers of each, there are {n_a} and {n_b}")
    if shared := set(a.speakers) & set(b.speakers):
        return _none(f"{len(shared)} speakers are on both sides")
    from scipy import stats

    def of_rows(rows_a: np.ndarray, rows_b: np.ndarray, axis: int = -1) -> np.ndarray:
        return _of_rows(a, rows_a) - _of_rows(b, rows_b)

    smaller = min(n_a, n_b)
    student = stats.t.ppf((1 + confidence) / 2, n_a + n_b - 2) * math.sqrt(smaller / (smaller - 1))
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # such a case is decided below
        found = stats.bootstrap(
            (np.arange(n_a), np.arange(n_b)),
            of_rows,
            vectorized=True,
            n_resamples=N_RESAMPLES,
            confidence_level=2 * stats.norm.cdf(student) - 1,
            rng=np.random.default_rng([seed, 2]),
        )
    if np.isnan(found.bootstrap_distribution).any():
        return _none("in some resamples nobody of one sex utters a class")
    if np.ptp(found.bootstrap_distribution) == 0:
        value = float(found.bootstrap_distribution[0])
        return Interval(value, value)
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def _of_rows(counts: Counts, rows: np.ndarray) -> np.ndarray:
    """Score resamples given as speakers' indices along the last axis."""
    n = len(counts.speakers)
    flat = rows.reshape(-1, rows.shape[-1])
    weights = np.bincount((flat + n * np.arange(len(flat))[:, None]).ravel(), minlength=n * len(flat)).reshape(-1, n)
    return score_resamples(counts, "uar", weights).reshape(rows.shape[:-1])


def _count(rows: pd.DataFrame, occur: Sequence[str]) -> Counts:
    """Count a slice over the classes that occur in it; an answer beyond them is a wrong one, whichever."""
    code, n_classes = {label: index for index, label in enumerate(occur)}, max(len(occur), 2)
    y_true = rows["y_true"].map(code).to_numpy(int)
    y_pred = rows["y_pred"].map(code).fillna(-1).to_numpy(int)
    y_pred = np.where(y_pred < 0, (y_true + 1) % n_classes, y_pred)
    return count(y_true, y_pred, rows["speaker"].to_numpy(), n_classes, repeats=rows["repeat"].to_numpy())


def _lacking(occur: Sequence[str], labels: Sequence[str]) -> str:
    absent = [label for label in labels if label not in occur]
    return f"over {len(occur)} classes, without {', '.join(absent)}" if absent else ""


def _none(reason: str) -> Interval:
    return Interval(math.nan, math.nan, reason)

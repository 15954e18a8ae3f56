"""Intervals, groups and pairs of all entries of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emobench.metrics import (
    METRICS,
    get_metric,
)
from emobench.statistics.counts import (
    RECALL,
    count_entries,
    score,
    score_repeats,
)
from emobench.statistics.differences import PAIRS, pairs, rank_groups
from emobench.statistics.intervals import BOARD, CONFIDENCE, N_RESAMPLES, PLACES, interval

if TYPE_CHECKING:
    import pandas as pd
INTERVALS = (*BOARD, "entry", "metric", "value", "low", "high", "seed_sd", "n_speakers", "n_utterances", "reason")
GROUPS = (*BOARD, "entry", "rank_group")


@dataclass(frozen=True)
class Description:
    """What a run's predictions say and how surely: tables with the columns `INTERVALS`, `GROUPS` and `PAIRS`."""

    intervals: pd.DataFrame
    groups: pd.DataFrame
    pairs: pd.DataFrame


def describe(
    predictions: pd.DataFrame,
    classes: Mapping[str, Sequence[str]],
    *,
    metrics: Sequence[str] | None = None,
    rank_by: str = "uar",
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = N_RESAMPLES,
    seed: int = 0,
) -> Description:
    """Return intervals, groups and pairs of all entries of a run, per corpus, feature set and protocol.

    An entry that has predicted fewer utterances than another has a failed fold, and is left out. Entries are ordered
    best first, by name where they are equal; pairs and groups are by `rank_by`. `seed_sd` is the standard deviation of
    the score over repeats, NaN where there is one.

    Parameters
    ----------
    predictions : DataFrame
        The tidy table `emobench.results.tables.PREDICTIONS`.
    classes : mapping of corpus to its declared classes
    metrics : sequence of str, optional
        Every row of `METRICS` and the recall of every class by default.
    """
    import pandas as pd

    intervals, groups, compared = [], [], []
    for board, part in predictions.groupby(BOARD, sort=False, observed=True):
        key = dict(zip(BOARD, board, strict=True))
        declared = tuple(classes[key["corpus"]])
        entries = count_entries(part, declared)
        scores = {name: round(score(counts, rank_by), PLACES) for name, counts in entries.items()}
        sign = -1 if _is_greater_better(rank_by) else 1
        entries = {name: entries[name] for name in sorted(entries, key=lambda name: (sign * scores[name], name))}
        for name, counts in entries.items():
            sizes = {"n_speakers": len(counts.speakers), "n_utterances": counts.n_utterances}
            for metric in (*METRICS, *(RECALL + label for label in declared)) if metrics is None else metrics:
                found = interval(counts, metric, confidence=confidence, n_resamples=n_resamples, seed=seed)
                by_repeat = score_repeats(counts, metric)
                seed_sd = float(by_repeat.std(ddof=1)) if len(by_repeat) > 1 else math.nan
                scored = {"value": float(by_repeat.mean()), "low": found.low, "high": found.high, "seed_sd": seed_sd}
                intervals.append({**key, "entry": name, "metric": metric, **scored, **sizes, "reason": found.reason})
        frame = pairs(
            entries,
            rank_by,
            confidence=confidence,
            n_resamples=n_resamples,
            n_permutations=n_permutations,
            seed=seed,
        )
        compared.append(frame.assign(**key)[list(PAIRS)])
        names = [name for name in entries if not math.isnan(scores[name])]
        numbers = rank_groups(_matrix(frame, names), alpha=1 - confidence)
        groups += [{**key, "entry": name, "rank_group": number} for name, number in zip(names, numbers, strict=True)]
    return Description(
        pd.DataFrame(intervals, columns=list(INTERVALS)),
        pd.DataFrame(groups, columns=list(GROUPS)),
        pd.concat(compared, ignore_index=True) if compared else pd.DataFrame(columns=list(PAIRS)),
    )


def _is_greater_better(metric: str) -> bool:
    return metric.startswith(RECALL) or get_metric(metric).is_greater_better


def _matrix(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return the adjusted p-values of a table of pairs as a symmetric matrix."""
    place = {name: index for index, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    for a, b, p_value in zip(frame["entry_a"], frame["entry_b"], frame["p_holm"], strict=True):
        if a in place and b in place:
            matrix[place[a], place[b]] = matrix[place[b], place[a]] = p_value
    return matrix

"""Intervals, groups and pairs of all entries of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emobench.metrics import METRICS, RECALL
from emobench.statistics.counts import count_entries, row_of
from emobench.statistics.differences import PAIRS, pairs, rank_groups
from emobench.statistics.intervals import (
    BOARD,
    CONFIDENCE,
    MAX_LEFT_OUT,
    N_RESAMPLES,
    PLACES,
    interval_of,
    resamples,
    spreads,
)

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
        Names of metrics, by default every row of `METRICS`. `rank_by` stands before them where it is not one of them,
        and the recall of every class behind them.
    """
    import pandas as pd

    intervals, groups, compared = [], [], []
    asked = list(dict.fromkeys([*([] if rank_by in (metrics or METRICS) else [rank_by]), *(metrics or METRICS)]))
    for board, part in predictions.groupby(BOARD, sort=False, observed=True):
        key = dict(zip(BOARD, board, strict=True))
        declared = tuple(classes[key["corpus"]])
        names = list(dict.fromkeys([*asked, *(RECALL + label for label in declared)]))
        entries = count_entries(part, declared)
        first = next(iter(entries.values()))
        rows = {name: row_of(first, name) for name in names}
        drawn = resamples(len(first.speakers), n_resamples, seed)
        known = dict(zip(entries, spreads(list(entries.values()), list(rows.values()), drawn), strict=True))
        sign = -1 if rows[rank_by].is_greater_better else 1
        ranked = {entry: round(sign * known[entry][rank_by].observed, PLACES) for entry in entries}
        entries = {entry: entries[entry] for entry in sorted(entries, key=lambda entry: (ranked[entry], entry))}
        for entry, counts in entries.items():
            sizes = {"n_speakers": len(counts.speakers), "n_utterances": counts.n_utterances}
            for name, row in rows.items():
                spread = known[entry][name]
                found = interval_of(spread, counts, row, confidence=confidence)
                seed_sd = float(spread.by_repeat.std(ddof=1)) if len(spread.by_repeat) > 1 else math.nan
                scored = {"value": spread.observed, "low": found.low, "high": found.high, "seed_sd": seed_sd}
                intervals.append({**key, "entry": entry, "metric": name, **scored, **sizes, "reason": found.reason})
        frame = pairs(
            entries,
            rank_by,
            known=[known[entry][rank_by] for entry in entries],
            confidence=confidence,
            n_permutations=n_permutations,
            seed=seed,
        )
        compared.append(frame.assign(**key)[list(PAIRS)])
        scorable = [entry for entry in entries if not math.isnan(ranked[entry])]
        numbers = rank_groups(_matrix(frame, scorable), alpha=1 - confidence)
        groups += [
            {**key, "entry": entry, "rank_group": number} for entry, number in zip(scorable, numbers, strict=True)
        ]
    return Description(
        pd.DataFrame(intervals, columns=list(INTERVALS)),
        pd.DataFrame(groups, columns=list(GROUPS)),
        pd.concat(compared, ignore_index=True) if compared else pd.DataFrame(columns=list(PAIRS)),
    )


def cost(
    n_speakers: int, n_utterances: int, *, n_entries: int, n_classes: int, n_repeats: int = 1
) -> tuple[float, int]:
    """Return roughly how many seconds and bytes `describe` takes for a board of entries with all metrics.

    Measured on one core in 2026: 0.2 ns a number of a matrix product, 2.5 ns an utterance and class of AUROC, 13 ns a
    speaker of a resample; 4 kB a speaker and entry, of which tables, frames and slices take most; and what each metric
    is in each resample.
    """
    n_sums = 3 * n_classes**2 + 20  # tables for intervals and two swapped sides, and the losses
    per_entry_s = 0.2e-9 * n_speakers * n_sums * n_repeats + 2.5e-9 * n_utterances * n_classes * n_repeats
    seconds = (N_RESAMPLES + MAX_LEFT_OUT) * (n_entries * per_entry_s + 13e-9 * n_speakers)
    n_scores = (len(METRICS) + n_classes) * (N_RESAMPLES + MAX_LEFT_OUT)
    return seconds, n_entries * (4000 * n_speakers * n_repeats + 8 * n_scores)


def _matrix(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return the adjusted p-values of a table of pairs as a symmetric matrix."""
    place = {name: index for index, name in enumerate(names)}
    matrix = np.full((len(names), len(names)), np.nan)
    for a, b, p_value in zip(frame["entry_a"], frame["entry_b"], frame["p_holm"], strict=True):
        if a in place and b in place:
            matrix[place[a], place[b]] = matrix[place[b], place[a]] = p_value
    return matrix

"""How much of an entry's UAR rests on each block of features: what shuffling the block among test recordings costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from emobench.reports.leaderboard import KEYS
from emobench.statistics.intervals import fall

COLUMNS = [*KEYS, "block", "n_features", "drop", "drop_low", "drop_high", "reason"]


def describe(permuted: pd.DataFrame, declared: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the fall of each entry's UAR by block, the largest first, with intervals over speakers.

    Parameters
    ----------
    permuted : DataFrame
        The columns `emobench.results.tables.PERMUTED`.
    declared : mapping
        Classes of each corpus.

    References
    ----------
    Breiman (2001), Random forests, Machine Learning 45, section 10.
    """
    rows = []
    for key, part in permuted.groupby([*KEYS, "block"], sort=False):
        n, right, shuffled = (_cells(part, name, declared[key[0]]) for name in ("n", "n_right", "n_right_shuffled"))
        drop, bounds = fall(right, shuffled, n)
        where = dict(zip([*KEYS, "block"], key, strict=True))
        found = {"drop": drop, "drop_low": bounds.low, "drop_high": bounds.high, "reason": bounds.reason}
        rows.append({**where, "n_features": int(part["n_features"].iloc[0]), **found})
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = {key: place for place, key in enumerate(dict.fromkeys(map(tuple, table[KEYS].to_numpy())))}
    place = [order[tuple(key)] for key in table[KEYS].to_numpy()]
    ordered = table.assign(place=place).sort_values(["place", "drop", "block"], ascending=[True, False, True])
    return ordered.drop(columns="place").reset_index(drop=True)


def _cells(part: pd.DataFrame, name: str, classes: Sequence[str]) -> np.ndarray:
    """Return one count by repeat, speaker and class: shape (n_repeats, n_speakers, n_classes)."""
    sums = part.groupby(["repeat", "speaker", "y_true"])[name].sum()
    levels = [sorted(set(part["repeat"])), sorted(set(part["speaker"])), list(classes)]
    return sums.reindex(pd.MultiIndex.from_product(levels), fill_value=0).to_numpy(float).reshape(*map(len, levels))

"""Latencies for people: no figure without its noise floor, no order that the noise could turn round."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COLD_START, WAV_TO_LABEL = "cold_start", "wav_to_label"
STAGES = {WAV_TO_LABEL: "wav → label", "features_to_label": "features → label", COLD_START: "cold start"}
KEYS = ["corpus", "features", "entry"]


def with_noise(value: float, noise: float = math.nan, *, decimals: int = 2) -> str:
    """Return ``2.41 ± 0.05``: as many digits as the noise leaves any sense; `decimals` where it is not known."""
    if math.isnan(value):
        return ""
    if math.isnan(noise):
        return f"{value:.{decimals}f}"
    decimals = max(0, 1 - math.floor(math.log10(noise))) if noise > 0 else 3
    return f"{value:.{decimals}f} ± {noise:.{decimals}f}"


def add_noise(board: pd.DataFrame, latency: pd.DataFrame | None) -> pd.DataFrame:
    """Return rows of a leaderboard with ``noise_p50_ms``, the noise floor of their latency; NaN where not known."""
    if latency is None or "noise_p50_ms" not in latency:
        return board.assign(noise_p50_ms=math.nan)
    single = latency[(latency["stage"] == WAV_TO_LABEL) & (latency["batch"] == 1)]
    return board.merge(single[[*KEYS, "noise_p50_ms"]], how="left", on=KEYS)


def tied_with_fastest(timed: pd.DataFrame) -> list[str]:
    """Return the fastest entry of a board, and those whose latency cannot be told apart from it."""
    ranked = timed.sort_values(["latency_p50_ms", "entry"]).to_dict("records")
    return [row["entry"] for row in ranked if not _is_faster(ranked[0], row)]


def beaten(timed: pd.DataFrame) -> list[str]:
    """Return the entries of a board that another one beats beyond doubt.

    That is an entry of no lower UAR that is faster by more than the noise, or one of a better rank group that is not
    slower by more than the noise.

    Parameters
    ----------
    timed : DataFrame
        Rows of a leaderboard with a UAR and a latency, and ``noise_p50_ms``.
    """
    rows = timed.to_dict("records")
    return [
        row["entry"]
        for row in rows
        if any(
            (other["uar"] >= row["uar"] and _is_faster(other, row))
            or (other["rank_group"] < row["rank_group"] and not _is_faster(row, other))
            for other in rows
        )
    ]


def _is_faster(row: dict[str, float], other: dict[str, float]) -> bool:
    """Return whether one entry is faster than another by more than both noise floors."""
    floors = [one["noise_p50_ms"] for one in (row, other) if not math.isnan(one["noise_p50_ms"])]
    return other["latency_p50_ms"] - row["latency_p50_ms"] > max(floors, default=0)

"""Figures of a report as SVG for HTML: the same numbers give the same bytes, text stays text, names are escaped."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), Color universal design: told apart by everybody, and in grey by their lightness and marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#666666"
WIDTH_IN = 5.4
MAX_POINTS = 500
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_STYLE = {
    "svg.hashsalt": "emobench",  # ids would be random without
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "#333333",
    "axes.edgecolor": GREY,
}


def forest(board: pd.DataFrame, *, chance: float) -> str:
    """Draw the UAR of a board's entries with intervals over speakers, coloured by rank group.

    Parameters
    ----------
    board : DataFrame
        Rows of a leaderboard with a UAR, best first.
    """
    with _drawing():
        names = [_short(name) for name in board["entry"]]
        figure, axes = _canvas(len(names), left=max(map(len, names)))
        for place, row in enumerate(board.to_dict("records")):
            style = _style(int(row["rank_group"]) - 1)
            axes.plot([row["uar_low"], row["uar_high"]], [place, place], color=style["color"], linewidth=2)
            axes.plot([row["uar"]], [place], linestyle="", markersize=6, **style)
        axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
        axes.annotate("chance", (chance, -0.6), (3, 0), textcoords="offset points", color=GREY, va="center")
        _name_rows(axes, names)
        axes.set_xlabel("UAR, with its 95 % interval over speakers")
        return _svg(figure, "UAR of every entry with its interval")


def speakers(scores: pd.DataFrame, *, chance: float) -> str:
    """Draw the UAR of every speaker, a row an entry; the lowest one is named.

    Of more than `MAX_POINTS` speakers, the `QUANTILES` are drawn: a line, a thicker one, and the median.

    Parameters
    ----------
    scores : DataFrame
        Columns ``entry, speaker, sex, uar``; entries in the order of the rows.
    """
    with _drawing():
        entries = list(dict.fromkeys(scores["entry"]))
        kinds, are_many = sorted(set(scores["sex"])), len(scores) > MAX_POINTS * len(entries)
        names = [_short(name) for name in entries]
        figure, axes = _canvas(len(names), left=max(map(len, names)), has_legend=len(kinds) > 1)
        for place, entry in enumerate(entries):
            part = scores[scores["entry"] == entry]
            for number, kind in enumerate(kinds):
                uars = part.loc[part["sex"] == kind, "uar"]
                height, style = place + 0.16 * (number - (len(kinds) - 1) / 2), _style(number)
                if are_many:
                    low, first, *uars, third, high = np.quantile(uars, QUANTILES)
                    axes.plot([low, high], [height] * 2, linewidth=1, color=style["color"])
                    axes.plot([first, third], [height] * 2, linewidth=4, color=style["color"], alpha=0.5)
                heights, label = np.full(len(uars), height), kind if not place else None
                axes.plot(uars, heights, linestyle="", markersize=5, alpha=0.6, label=label, **style)
            if not are_many:
                worst = part.loc[part["uar"].idxmin()]
                place = (worst["uar"], place)
                axes.annotate(worst["speaker"], place, (-5, 0), textcoords="offset points", ha="right", va="center")
        axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
        _name_rows(axes, names)
        axes.margins(x=0.1)  # room for the names
        of_many = "UAR of the speakers: median, 25 to 75 % and 5 to 95 % of them"
        axes.set_xlabel(of_many if are_many else "UAR of each speaker; the lowest one is named")
        if len(kinds) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 0.97), ncols=len(kinds), frameon=False)
        return _svg(figure, "UAR of every speaker")


def trade_off(board: pd.DataFrame) -> str:
    """Draw UAR against median latency; the entries that no other one dominates are filled and joined.

    Parameters
    ----------
    board : DataFrame
        Rows of a leaderboard with a UAR and a latency.
    """
    with _drawing():
        figure, axes = _canvas(8, left=6)
        front = board[board["pareto"].astype("boolean").fillna(False)].sort_values("latency_p50_ms")
        axes.plot(front["latency_p50_ms"], front["uar"], color=COLOURS[0], linewidth=1, zorder=1)
        for row in board.to_dict("records"):
            is_front = row["entry"] in set(front["entry"])
            place = (row["latency_p50_ms"], row["uar"])
            axes.plot(*place, marker="o", color=COLOURS[0], markerfacecolor=COLOURS[0] if is_front else "white")
            axes.annotate(row["entry"], place, (6, 4), textcoords="offset points")
        axes.set_xscale("log")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_xlabel("median latency of one recording in ms (logarithmic)")
        axes.set_ylabel("UAR")
        return _svg(figure, "UAR against latency")


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
    """Draw in our style; matplotlib keeps to itself what it thinks of fonts and of its cache."""
    import matplotlib as mpl

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield


def _canvas(n_rows: int, *, left: int, has_legend: bool = False) -> tuple[Figure, Axes]:
    """Return axes with room for `left` characters beside them."""
    from matplotlib.figure import Figure

    top_in, bottom_in, left_in = 0.08 + 0.22 * has_legend, 0.48, 0.15 + 0.085 * left
    height_in = top_in + 0.3 * (n_rows + 1) + bottom_in
    figure = Figure(figsize=(WIDTH_IN, height_in))
    figure.subplots_adjust(left_in / WIDTH_IN, bottom_in / height_in, 1 - 0.1 / WIDTH_IN, 1 - top_in / height_in)
    return figure, figure.add_subplot()


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.tick_params(axis="y", length=0)


def _style(number: int) -> dict[str, str]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _svg(figure: Figure, title: str) -> str:
    """Return a figure as an SVG element that scales to the page's width."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))  # the others would stand twice on a page
    text = re.sub(r'(<[^>]*?) id="([^"]*)"', lambda found: found[0] if found[2] in used else found[1], text)
    text = re.sub(r'(<text style="[^"]*font-family: )[^;"]*', r"\1sans-serif", text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)  # the view box is left: as wide as the page
    return opening.replace("<svg", f'<svg role="img" aria-label="{title}"', 1) + ">" + rest.rstrip()

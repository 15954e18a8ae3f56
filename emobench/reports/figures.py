"""Figures of a report as SVG for HTML: the same numbers give the same bytes, text stays text, names are escaped."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

# Okabe and Ito (2008), Color universal design: told apart by everybody, and in grey by their lightness and marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#666666"
WIDTH_IN = 5.4
OVERVIEW_IN = 9.0
LINE_PT = 12.5
MAX_POINTS = 500
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_STYLE: dict[RcKeyType, Any] = {
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
        _draw_forest(axes, board, names, chance)
        return _svg(figure, "UAR of every entry with its interval")


def premium(table: pd.DataFrame) -> str:
    """Draw for each entry its UAR on unheard speakers, and what shared speakers make of it.

    Parameters
    ----------
    table : DataFrame
        Columns ``entry, unheard, shared, premium``.
    """
    with _drawing():
        names = [_short(name) for name in table["entry"]]
        figure, axes = _canvas(len(names), left=max(map(len, names)), has_legend=True)
        _draw_premium(axes, table, names)
        return _svg(figure, "UAR on unheard speakers and on shared ones")


def importance(table: pd.DataFrame) -> str:
    """Draw by how much the UAR of an entry falls when a block of features is shuffled, with intervals over speakers.

    Parameters
    ----------
    table : DataFrame
        Columns ``block, n_features, drop, drop_low, drop_high``, the largest drop first.
    """
    with _drawing():
        names = [f"{_short(row['block'])} ({int(row['n_features'])})" for row in table.to_dict("records")]
        figure, axes = _canvas(len(names), left=max(map(len, names)))
        for place, row in enumerate(table.to_dict("records")):
            axes.plot([row["drop_low"], row["drop_high"]], [place, place], color=COLOURS[0], linewidth=2)
            axes.plot([row["drop"]], [place], linestyle="", markersize=6, **_style(0))
        axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
        _name_rows(axes, names)
        axes.margins(x=0.05)
        axes.set_xlabel("fall of the UAR, with its 95 % interval over speakers")
        return _svg(figure, "Importance of each block of features")


def stress(table: pd.DataFrame, *, chance: float) -> str:
    """Draw the UAR over the levels of each stress, a panel a stress, a line an entry; the dotted lines are clean.

    Parameters
    ----------
    table : DataFrame
        Columns ``entry, stress, level, value``: UAR of a board's entries, at most as many as there are colours. Rows
        without a level are of the clean recordings.
    """
    with _drawing():
        from matplotlib.figure import Figure

        clean, stressed = table[table["level"].isna()], table[table["level"].notna()]
        names, entries = list(stressed["stress"].unique()), list(clean["entry"])
        n_columns = min(4, len(names))
        n_rows = -(-len(names) // n_columns)
        figure = Figure(figsize=(OVERVIEW_IN, 0.5 + 1.7 * n_rows), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            of_stress = stressed[stressed["stress"] == name]
            levels = list(of_stress["level"].unique())
            for number, entry in enumerate(entries):
                style, one = _style(number), of_stress[of_stress["entry"] == entry].set_index("level")["value"]
                axes.plot(
                    range(len(levels)), one.reindex(levels), markersize=4, linewidth=1, label=_short(entry), **style
                )
                base = clean.loc[clean["entry"] == entry, "value"].iloc[0]
                axes.axhline(base, color=style["color"], linestyle=":", linewidth=0.9)
            axes.axhline(chance, color="#bbbbbb", linewidth=0.8)
            axes.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
            axes.set_xlim(-0.4, len(levels) - 0.6)
            axes.set_title(name, fontsize=9)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        for axes in panels[::n_columns]:
            axes.set_ylabel("UAR")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
        return _svg(figure, "UAR of each entry under each stress, by level")


def overview(board: pd.DataFrame, table: pd.DataFrame, *, chance: float, titles: tuple[str, str]) -> str:
    """Draw `forest` and `premium` side by side, with their figures, as a file of its own.

    Parameters
    ----------
    titles : tuple of str
        Over the left and the right half.
    """
    from matplotlib.figure import Figure

    with _drawing():
        height_in = 0.95 + 0.3 * (max(len(board), len(table)) + 1)
        figure = Figure(figsize=(OVERVIEW_IN, height_in), facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        figure.subplots_adjust(0.115, 0.48 / height_in, 0.99, 1 - 0.47 / height_in, wspace=0.28)
        _draw_forest(left, board, [_short(name) for name in board["entry"]], chance, with_figures=True)
        _draw_premium(right, table, [_short(name) for name in table["entry"]])
        for axes, title in zip((left, right), titles, strict=True):
            axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=18)
        return _svg(figure, ". ".join(titles), is_file=True)


def _draw_forest(
    axes: Axes, board: pd.DataFrame, names: Sequence[str], chance: float, *, with_figures: bool = False
) -> None:
    for place, row in enumerate(board.to_dict("records")):
        style = _style(int(row["rank_group"]) - 1)
        axes.plot([row["uar_low"], row["uar_high"]], [place, place], color=style["color"], linewidth=2)
        axes.plot([row["uar"]], [place], linestyle="", markersize=6, **style)
        if with_figures:
            end = row["uar"] if pd.isna(row["uar_high"]) else row["uar_high"]
            axes.annotate(f"{row['uar']:.3f}", (end, place), (5, 0), textcoords="offset points", va="center")
    axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("chance", (chance, -0.6), (3, 0), textcoords="offset points", color=GREY, va="center")
    _name_rows(axes, names)
    axes.margins(x=0.12 if with_figures else 0.05)
    axes.set_xlabel("UAR, with its 95 % interval over speakers")


def _draw_premium(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    for place, row in enumerate(table.to_dict("records")):
        axes.plot([row["unheard"], row["shared"]], [place, place], color="#bbbbbb", linewidth=3, zorder=1)
        if not pd.isna(row["premium"]):
            middle = (row["unheard"] + row["shared"]) / 2
            axes.annotate(
                f"{row['premium']:+.3f}", (middle, place), (0, 3), textcoords="offset points", ha="center", va="bottom"
            )
    for number, (column, label) in enumerate((("unheard", "unheard speakers"), ("shared", "speakers shared"))):
        axes.plot(table[column], range(len(table)), linestyle="", markersize=6, label=label, zorder=2, **_style(number))
    _name_rows(axes, names)
    axes.margins(x=0.08)
    axes.set_xlabel("UAR")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=2, frameon=False, handletextpad=0.2)


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
                point = (worst["uar"], place)
                axes.annotate(worst["speaker"], point, (-5, 0), textcoords="offset points", ha="right", va="center")
        axes.axvline(chance, color=GREY, linestyle="--", linewidth=1)
        _name_rows(axes, names)
        axes.margins(x=0.1)  # room for the names
        of_many = "UAR of the speakers: median, 25 to 75 % and 5 to 95 % of them"
        axes.set_xlabel(of_many if are_many else "UAR of each speaker; the lowest one is named")
        if len(kinds) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 0.97), ncols=len(kinds), frameon=False)
        return _svg(figure, "UAR of every speaker")


def trade_off(board: pd.DataFrame) -> str:
    """Draw UAR against median latency, each with its uncertainty; names stand beside, in the order of UAR.

    Parameters
    ----------
    board : DataFrame
        Rows of a leaderboard with a UAR and a latency, and the columns ``noise_p50_ms`` (NaN where not known) and
        ``is_beaten``: the entries that another one beats beyond doubt are hollow.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    with _drawing():
        rows = board.sort_values(["uar", "entry"]).to_dict("records")
        names = [_short(row["entry"]) for row in rows]
        figure, axes = _canvas(max(7, 0.62 * len(names)), left=6, right=max(map(len, names)))
        for row in rows:
            x, y = row["latency_p50_ms"], row["uar"]
            noise = 0 if pd.isna(row["noise_p50_ms"]) else row["noise_p50_ms"]
            axes.plot([max(x - noise, x / 100), x + noise], [y, y], color=COLOURS[0], alpha=0.45, linewidth=1.2)
            axes.plot([x, x], [row["uar_low"], row["uar_high"]], color=COLOURS[0], alpha=0.45, linewidth=1.2)
            fill = "white" if row["is_beaten"] else COLOURS[0]
            axes.plot(x, y, marker="o", color=COLOURS[0], markerfacecolor=fill, zorder=3)
        fastest, slowest = board["latency_p50_ms"].min(), board["latency_p50_ms"].max()
        if slowest > 5 * fastest:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(0.06)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_xlabel("median latency of one recording in ms")
        axes.set_ylabel("UAR")
        _name_points(axes, [(row["latency_p50_ms"], row["uar"]) for row in rows], names, figure.get_figheight())
        return _svg(figure, "UAR against latency")


def _name_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], figure_in: float) -> None:
    """Write the names of points into the right margin, so far apart that none covers another, and lead to them.

    Parameters
    ----------
    points : sequence of (x, y)
        From the lowest to the highest.
    figure_in : float
        Height of the figure.
    """
    height_pt = axes.get_position().height * figure_in * 72
    gap = LINE_PT / height_pt
    heights = [axes.transAxes.inverted().transform(axes.transData.transform(point))[1] for point in points]
    places: list[float] = []
    for height in heights:  # upwards, none nearer than a line to the one below
        places.append(max(height, places[-1] + gap if places else 0))
    top = 1.0
    for number in reversed(range(len(places))):  # and down again, if that was too high
        places[number] = min(places[number], top)
        top = places[number] - gap
    for point, place, name in zip(points, places, names, strict=True):
        axes.annotate(
            name,
            point,
            (1.03, place),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4},
        )


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
    """Draw in our style; matplotlib keeps to itself what it thinks of fonts and of its cache."""
    import matplotlib as mpl

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield


def _canvas(n_rows: float, *, left: int, right: int = 0, has_legend: bool = False) -> tuple[Figure, Axes]:
    """Return axes with room for so many characters on their left and right."""
    from matplotlib.figure import Figure

    top_in, bottom_in, left_in = 0.08 + 0.22 * has_legend, 0.48, 0.15 + 0.085 * left
    right_in = 0.2 + (0.05 + 0.085 * right) * bool(right)  # the last tick may lie on the edge
    height_in = top_in + 0.3 * (n_rows + 1) + bottom_in
    figure = Figure(figsize=(WIDTH_IN, height_in))
    figure.subplots_adjust(left_in / WIDTH_IN, bottom_in / height_in, 1 - right_in / WIDTH_IN, 1 - top_in / height_in)
    return figure, figure.add_subplot()


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.tick_params(axis="y", length=0)


def _style(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _svg(figure: Figure, title: str, *, is_file: bool = False) -> str:
    """Return a figure as an SVG element that scales to the page's width, or as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))  # the others would stand twice on a page
    text = re.sub(r'(<[^>]*?) id="([^"]*)"', lambda found: found[0] if found[2] in used else found[1], text)
    text = re.sub(r'(<text style="[^"]*font-family: )[^;"]*', r"\1sans-serif", text)
    text = re.sub(r"(<text style=\"font: [^;\"]*?)'[^\"]*?sans-serif", r"\1sans-serif", text)
    opening, rest = text.split(">", 1)
    if not is_file:
        opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)  # the view box is left: as wide as the page
    return opening.replace("<svg", f'<svg role="img" aria-label="{title}"', 1) + ">" + rest.rstrip()

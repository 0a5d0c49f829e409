"""The style of figures: colours, labels, curves with bands."""

import io
import itertools
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from featstore.probe.errors import UsageError, visible
from featstore.probe.results import CURVE, percent
from featstore.probe.results.files import written_whole
from featstore.probe.results.intervals import over_of
from featstore.probe.statuses import Status

SUFFIXES = (".png", ".svg", ".pdf")
"""Suffixes that a picture's file name may have."""

COLUMN_WIDTH = 3.3
"""Inches: one column of a two-column page."""

# Okabe and Ito (2008), "Color Universal Design": told apart by every kind of colour vision. Their
# yellow is left out, which is hard to see on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")
_DASHES = ("solid", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.2, 1.2)))
GREY = "#555555"
PALE = "#B8B8B8"

SMALL = 7
"""Points: the smallest text of a picture."""

STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": SMALL,
    "text.parse_math": False,  # a name with $ in it is a name
    "pdf.fonttype": 42,  # TrueType: text stays text, as publishers ask
    "svg.fonttype": "none",
    "svg.hashsalt": "featstore",
}

# without dates, the same table gives the same bytes
_UNDATED = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def styled() -> AbstractContextManager:
    """Return a context in which matplotlib draws in this style, whatever its settings are."""
    return style.context(["default", STYLE])


class ColumnFigure(Figure):
    """A figure that looks the same whoever draws or saves it, and shows itself in a notebook.

    matplotlib reads some of its settings only when it draws or saves, and pyplot, which notebooks
    show figures by, is never imported here.
    """

    def draw(self, renderer: Any) -> None:
        """Draw in this style, control characters of names as escapes: no .svg may hold them."""
        for text in self.findobj(Text):
            text.set_text(visible(text.get_text()))
        with styled():
            super().draw(renderer)

    def savefig(
        self,
        fname: Any,
        *,
        dpi: float | str = 300,
        format: str | None = None,
        bbox_inches: Any = None,
        pad_inches: float | str | None = None,
        facecolor: Any = None,
        edgecolor: Any = None,
        transparent: bool | None = None,
        metadata: dict[str, str] | None = None,
        pil_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Save in this style, at 300 dpi where pixels are asked for."""
        given = {
            "format": format,
            "bbox_inches": bbox_inches,
            "pad_inches": pad_inches,
            "facecolor": facecolor,
            "edgecolor": edgecolor,
            "metadata": metadata,
            "pil_kwargs": pil_kwargs,
        }
        given = {name: value for name, value in given.items() if value is not None}
        with styled():
            super().savefig(fname, dpi=dpi, transparent=transparent, **given)

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=150)
        return written.getvalue()


def blank(height: float, layout: str = "constrained") -> ColumnFigure:
    """Return an empty figure of a column's width and that many inches high."""
    figure = ColumnFigure(figsize=(COLUMN_WIDTH, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def look(number: int) -> dict[str, Any]:
    """Return colour, marker and dashes of one curve: 84 that differ, 12 of them without colour."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[number % len(_DASHES)],
    }


def check_suffix(path: str | Path) -> Path:
    """Return the path if a picture can be written under its name.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot draw {path.name}: {path.suffix or 'no suffix'} is not a picture format here; "
            f"use {', '.join(SUFFIXES)}"
        )
    return path


def saved(figure: ColumnFigure, path: str | Path | None, title: str) -> ColumnFigure:
    """Save a figure whole, if there is a path, with its title in the file, and return it."""
    if path is None:
        return figure
    path = check_suffix(path)
    suffix = path.suffix.lower()
    drawn = io.BytesIO()  # in memory, since writers of PDF fail twice where a disk is full
    figure.savefig(drawn, format=suffix[1:], metadata=_UNDATED[suffix] | {"Title": visible(title)})
    with written_whole(path) as aside:
        aside.write_bytes(drawn.getvalue())
    return figure


_LINE = 1.25 * SMALL / 72
"""Inches: the height of a line of small text."""

_WIDEST_LABEL = 0.95
"""Inches: how wide names beside lines may be."""

HANDLE, GAP = 0.3, 0.1
"""Inches: what stands before a name in a legend, and what between two columns."""


def legend_above(figure: ColumnFigure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Name curves above the axes, where no data are, in as many columns as fit.

    The figure grows by the legend's height, so that the axes keep theirs. Names that are wider
    than the figure are broken into lines.
    """
    columns = _columns([width(figure, name) for name in names])
    broken = [wrapped(figure, name, COLUMN_WIDTH - HANDLE - GAP) for name in names]
    # placeholders first: before 3.10, matplotlib leaves out names that begin with an underscore
    legend = figure.legend(
        handles,
        [str(n) for n in range(len(names))],
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        handlelength=2.4,
        handletextpad=0.5,
        columnspacing=1.0,
        labelspacing=0.25,
        borderpad=0.3,
        borderaxespad=0.0,
    )
    for text, name in zip(legend.get_texts(), broken, strict=True):
        text.set_text(name)
    rows = -(-len(names) // columns)
    lines = rows + sum(name.count("\n") for name in broken)
    figure.set_figheight(figure.get_figheight() + lines * _LINE + 0.06)


def _columns(widths: Sequence[float]) -> int:
    """Return in how many columns, filled one after the other, names of these widths fit."""
    for columns in range(min(4, len(widths)), 1, -1):
        deep = -(-len(widths) // columns)
        wide = [max(widths[start : start + deep]) for start in range(0, len(widths), deep)]
        if sum(wide) + len(wide) * (HANDLE + GAP) <= COLUMN_WIDTH:
            return columns
    return 1


def width(figure: ColumnFigure, text: str) -> float:
    """Return how wide a line of small text is, in inches."""
    drawn = figure.text(0, 0, visible(text), fontsize=SMALL)
    box = drawn.get_window_extent(figure.canvas.get_renderer())
    drawn.remove()
    return box.width / figure.dpi


def wrapped(figure: ColumnFigure, text: str, most: float) -> str:
    """Break a name into lines of at most so many inches, at spaces and hyphens where it can be."""
    wide = width(figure, text)
    if wide <= most:
        return text
    return textwrap.fill(text, max(4, int(0.95 * len(text) * most / wide)))


def spread_out(centres: np.ndarray, heights: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return centres near the given ones at which labels of these heights do not overlap.

    Labels keep their order. Runs of labels that touch are centred on where they wish to be, and
    then moved between `low` and `high` if they fit there.

    Arguments:
        centres: float64 (n,), where labels wish to be, in any order.
        heights: float64 (n,), how much room each takes.
        low: the lower end of the room.
        high: the upper end.

    Example:
        >>> spread_out(np.array([0.0, 0.1, 5.0]), np.ones(3), -10, 10).round(2).tolist()
        [-0.45, 0.55, 5.0]
    """
    order = np.argsort(centres, kind="stable")
    runs: list[tuple[float, float, list[int]]] = []  # sum of wished starts, height, members
    for place in order:
        total, height, members = centres[place] - heights[place] / 2, heights[place], [place]
        while runs and _start(runs[-1], low, high) + runs[-1][1] > _start(
            (total, height, members), low, high
        ):
            before, above, earlier = runs.pop()
            # each member wishes the run's start to be its own wish less what lies below it
            total = before + total - len(members) * above
            height, members = above + height, earlier + members
        runs.append((total, height, members))
    found = np.empty(len(centres))
    for run in runs:
        start = _start(run, low, high)
        for place in run[2]:
            found[place] = start + heights[place] / 2
            start += heights[place]
    return found


def _start(run: tuple[float, float, list[int]], low: float, high: float) -> float:
    total, height, members = run
    return max(low, min(total / len(members), high - height))


def label_ends(
    figure: ColumnFigure,
    axes: Axes,
    ends: Sequence[tuple[float, float]],
    names: Sequence[str],
    colours: Sequence[str],
) -> None:
    """Name lines at the right edge, each by a thin leader from its end, without overlaps.

    Arguments:
        figure: the figure, laid out but for these labels.
        axes: the axes, whose y limits stay.
        ends: n points (x, y) where lines end, in data units.
        names: n of them.
        colours: of the leaders.
    """
    figure.draw_without_rendering()  # a layout, to know how high the axes are
    bottom, top = axes.get_ylim()
    inch = (top - bottom) / (axes.get_window_extent().height / figure.dpi)
    broken = [wrapped(figure, name, _WIDEST_LABEL) for name in names]
    heights = np.array([(1 + name.count("\n")) * _LINE * inch for name in broken])
    places = spread_out(np.array([y for _, y in ends]), heights, bottom, top)
    axes.set_ylim(bottom, top)
    for end, place, name, colour in zip(ends, places, broken, colours, strict=True):
        axes.annotate(
            name,
            end,
            (1.06, place),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=SMALL,
            annotation_clip=False,
            linespacing=1.1,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": colour, "shrinkA": 1, "shrinkB": 0},
        )


_SIDES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))


def label_beside(
    figure: ColumnFigure, axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str]
) -> None:
    """Write texts beside points, each where it covers the least of lines, bars and other texts.

    Arguments:
        figure: the figure, laid out but for these texts.
        axes: the axes, which hold what is not to be covered.
        points: n points (x, y) in data units.
        texts: n of them.
    """
    figure.draw_without_rendering()
    paths = [line.get_xydata() for line in axes.lines]
    paths += [part for each in axes.collections for part in getattr(each, "get_segments", list)()]
    taken = [_dotted(axes.transData.transform(path)) for path in paths if len(path)]
    room, renderer = axes.get_window_extent(), figure.canvas.get_renderer()
    for point, text in zip(points, texts, strict=True):
        tried, dots = [], np.concatenate(taken)
        for reach in (4, 9, 16):
            for right, up in _SIDES:
                label = axes.annotate(
                    text,
                    point,
                    (reach * right, reach * up),
                    textcoords="offset points",
                    ha=("right", "center", "left")[right + 1],
                    va=("top", "center", "bottom")[up + 1],
                    fontsize=SMALL,
                    color=GREY,
                )
                box = label.get_window_extent(renderer).padded(1)
                corners = room.contains(box.x0, box.y0) and room.contains(box.x1, box.y1)
                inside = ((dots >= box.min) & (dots <= box.max)).all(axis=1).sum()
                tried.append((not corners, inside, len(tried), label, box))
        best = min(tried, key=lambda each: each[:3])
        for *_, label, _ in tried:
            if label is not best[3]:
                label.remove()
        taken.append(_dotted(best[4].corners()[[0, 3, 1, 2]]))


def _dotted(path: np.ndarray) -> np.ndarray:
    """Return points along a path (n, 2), about one a pixel; what is not finite is left out."""
    path = path[np.isfinite(path).all(axis=1)]
    parts = [path]
    for start, end in itertools.pairwise(path):
        count = int(np.hypot(*(end - start))) + 2
        parts.append(start + np.linspace(0, 1, count)[:, None] * (end - start))
    return np.concatenate(parts)


MOST_MARKERS = 40
"""Points of a curve up to which each has its marker; longer ones are lines with a few."""

_TICKS = [float(f"{m}e{e}") for e in range(-7, 0) for m in (1, 2, 5)] + [1.0]


@dataclass(frozen=True)
class Curve:
    """A mean with its band along x.

    Attributes:
        x: float64 (n,), rising.
        mean: float64 (n,); NaN where nothing is known.
        low: float64 (n,), of the band; NaN where there is none.
        high: float64 (n,).
        rows: the rows that the curve was condensed from.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rows: pd.DataFrame


def with_interval(rows: pd.DataFrame, value: str, unit: float, across: str = "fraction") -> Curve:
    """Return a mean at each fraction, or other amount, with its interval as band.

    Arguments:
        rows: one curve, as `featstore.probe.results.curves.curve_table` gives it: what the tables
        show.
        value: the column to draw, which `_low` and `_high` belong to.
        unit: what they are multiplied by.
        across: the column that it is drawn against.
    """
    columns = (floats(rows[f"{value}{end}"]) for end in ("", "_low", "_high"))
    mean, low, high = (unit * column for column in columns)
    return Curve(floats(rows[across]), mean, low, high, rows)


def bands_of(rows: pd.DataFrame, level: float) -> str:
    """Say what the bands of curves are, as `featstore.probe.results.curves.curve_table` gives
    them.
    """
    over = over_of(rows)
    if not over:
        return "one seed: no intervals"
    return f"bands: {percent(level)} intervals over {over}".replace(", or ", ",\nor ")


def along_fraction(rows: pd.DataFrame, value: str, unit: float) -> Curve:
    """Condense the rows of one curve to a mean at each fraction.

    The band is the sample standard deviation over seeds or, where the table has them, the columns
    `low` and `high`.

    Arguments:
        rows: one curve, with the column `fraction`.
        value: the column to draw.
        unit: what it, `low` and `high` are multiplied by.
    """
    if "status" in rows:
        rows = rows[rows["status"] != Status.NOT_RUN]
    groups = rows.groupby("fraction")
    numbers = groups[value].agg(["mean", "std"])
    mean, spread = (floats(numbers[name]) for name in ("mean", "std"))
    low, high = mean - spread, mean + spread
    if {"low", "high"} <= set(rows.columns):
        low, high = (floats(groups[end].mean()) for end in ("low", "high"))
    x = floats(numbers.index)
    return Curve(x, unit * mean, unit * low, unit * high, rows)


def floats(values: pd.Series | pd.Index) -> np.ndarray:
    """Return float64 (n,), NaN for what is not known, also of a table that was read."""
    return values.astype("float64").to_numpy()


def draw(axes: Axes, curve: Curve, number: int) -> Line2D:
    """Add a line through the means and its band; return the line."""
    looks = look(number)
    axes.fill_between(curve.x, curve.low, curve.high, color=looks["color"], alpha=0.16, lw=0)
    (line,) = axes.plot(curve.x, curve.mean, ms=3, lw=1.1, mew=0.5, **looks)
    if len(curve.x) > MOST_MARKERS:
        line.set_markevery(_few(curve.x, number))
    return line


MOST_TOGETHER, _MOST_APART = 6, 24
"""Curves up to which all share their axes, and up to which each has its own if they are more."""


def compared(
    curves: Sequence[Curve],
    names: Sequence[str],
    height: float,
    finish: Callable[[Axes], None],
) -> ColumnFigure:
    """Return a figure of several curves.

    Up to `MOST_TOGETHER` share axes and are named above them. Of more, whose lines would cross too
    often to be followed, each has a panel in its colour, on the same scales, with the others in
    grey behind it.

    Arguments:
        curves: what to draw.
        names: of the curves; the first may be empty where it is the only one.
        height: of axes that all share, in inches.
        finish: labels axes and sets their scales.
    """
    if len(curves) <= MOST_TOGETHER or len(curves) > _MOST_APART:
        figure = blank(height)
        axes = figure.add_subplot()
        finish(axes)
        lines = [draw(axes, curve, number) for number, curve in enumerate(curves)]
        if len(curves) > 1:
            legend_above(figure, lines, names)
        return figure
    deep = -(-len(curves) // 2)
    figure = blank(0.5 + 1.1 * deep)
    panels = figure.subplots(deep, 2, sharex=True, sharey=True).ravel()
    for number, (axes, curve, name) in enumerate(zip(panels, curves, names, strict=False)):
        finish(axes)
        for other in (each for each in curves if each is not curve):
            axes.plot(other.x, other.mean, color=PALE, lw=0.5, zorder=0)
        draw(axes, curve, number)
        axes.set_title(wrapped(figure, name, 1.35), fontsize=SMALL, loc="left")
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_locator(FixedLocator(_TICKS[::3]))
    for which in ("x", "y"):
        label = panels[0].xaxis if which == "x" else panels[0].yaxis
        getattr(figure, f"sup{which}label")(label.get_label_text(), fontsize=8)
    for axes in panels:
        axes.set(xlabel="", ylabel="")
    if len(curves) % 2:
        panels[-1].set_visible(False)
        panels[-3].tick_params(labelbottom=True)
    return figure


def _few(x: np.ndarray, number: int) -> list[int]:
    """Return the points of a long curve that get a marker: evenly in log x, a few, shifted."""
    wanted = (np.arange(6) + 0.4 + 0.6 * (number % 4) / 4) / 6.5
    places = np.log(x[0]) + wanted * (np.log(x[-1]) - np.log(x[0]))
    return sorted(set(np.searchsorted(np.log(x), places).clip(0, len(x) - 1).tolist()))


def keys_in(table: pd.DataFrame, *more: str) -> list[str]:
    """Return the columns that tell this table's curves apart."""
    return [key for key in (*CURVE, *more) if key in table]


def fraction_axis(axes: Axes, fractions: Sequence[float], note: str = "") -> None:
    """Make x logarithmic, labelled 1, 2, 5, 10 ... per cent, by decades where that is crowded.

    A note stands in a line of its own below the label.
    """
    axes.set_xscale("log")
    low = min([0.5, *fractions])
    axes.set_xlim(low / 1.2, 1.2)
    ticks = [tick for tick in _TICKS if tick >= low / 1.1]
    if len(ticks) > 9:
        ticks = [tick for tick in _TICKS[::3] if tick >= low / 1.1]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{100 * tick:.4g}"))
    axes.set_xlabel("features kept (%)" + (f"\n{note}" if note else ""))


def value_axis(axes: Axes, label: str) -> None:
    """Label y, with a few round ticks and a pale grid."""
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", linewidth=0.4, alpha=0.35)

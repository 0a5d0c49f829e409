"""Names of curves: in a legend above the axes, or beside the curves without overlaps."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from probe.figures.style import COLUMN_WIDTH, SMALL, ColumnFigure

LINE = 1.25 * SMALL / 72
"""Inches: the height of a line of small text."""

WIDEST_LABEL = 0.95
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
        handles, [str(n) for n in range(len(names))], loc="outside upper left", ncols=columns,
        frameon=False, handlelength=2.4, handletextpad=0.5, columnspacing=1.0, labelspacing=0.25,
        borderpad=0.3, borderaxespad=0.0,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), broken, strict=True):
        text.set_text(name)
    rows = -(-len(names) // columns)
    lines = rows + sum(name.count("\n") for name in broken)
    figure.set_figheight(figure.get_figheight() + lines * LINE + 0.06)


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
    drawn = figure.text(0, 0, text, fontsize=SMALL)
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
    broken = [wrapped(figure, name, WIDEST_LABEL) for name in names]
    heights = np.array([(1 + name.count("\n")) * LINE * inch for name in broken])
    places = spread_out(np.array([y for _, y in ends]), heights, bottom, top)
    axes.set_ylim(bottom, top)
    for end, place, name, colour in zip(ends, places, broken, colours, strict=True):
        axes.annotate(
            name, end, (1.06, place), textcoords=("axes fraction", "data"), va="center",
            fontsize=SMALL,
            annotation_clip=False, linespacing=1.1,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": colour, "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip

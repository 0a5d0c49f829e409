"""Inequality over classes against mean accuracy, as fewer features are kept."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import floats, keys_in, value_axis
from probe.figures.labels import legend_above
from probe.figures.style import GREY, SMALL, ColumnFigure, blank, look, saved, styled
from probe.summaries import percent


def inequality_against_accuracy(
    table: pd.DataFrame, path: str | Path | None = None
) -> ColumnFigure:
    """Draw the Gini coefficient over classes against mean accuracy, points joined along fraction.

    Bars are the sample standard deviation over seeds.

    Arguments:
        table: as `probe.inequality.inequality_table` gives it: the columns of `CURVE`, `fraction`,
            `mean_per_class`, `gini` and `gini_std`.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    keys = keys_in(table, "name")
    parts = [rows.sort_values("fraction") for rows in curves_of(table, keys)]
    shared, own = shared_and_own(parts, keys)
    with styled():
        figure = blank(2.4)
        axes = figure.add_subplot()
        lines = [_joined(axes, rows, number) for number, rows in enumerate(parts)]
        axes.set_xlabel("mean accuracy over classes (%)")
        value_axis(axes, "Gini of class accuracies")
        axes.margins(0.08)
        if len(parts) > 1:
            legend_above(figure, lines, own)
    return saved(figure, path, ", ".join(shared))


def _joined(axes: Axes, rows: pd.DataFrame, number: int) -> Line2D:
    x = 100 * floats(rows["mean_per_class"])
    y, spread = floats(rows["gini"]), floats(rows["gini_std"])
    looks = look(number)
    axes.vlines(x, y - spread, y + spread, color=looks["color"], lw=0.7, alpha=0.6)
    (line,) = axes.plot(x, y, ms=3, lw=1.0, mew=0.5, **looks)
    if number == 0:
        _ends(axes, x, y, floats(rows["fraction"]))
    return line


def _ends(axes: Axes, x: np.ndarray, y: np.ndarray, fractions: np.ndarray) -> None:
    """Say at both ends of the first line which fraction it is, and so which way lines run."""
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    for place in dict.fromkeys([*known[:1], *known[-1:]]):
        axes.annotate(
            percent(fractions[place]), (x[place], y[place]), (4, 3), textcoords="offset points",
            fontsize=SMALL, color=GREY,
        )  # fmt: skip

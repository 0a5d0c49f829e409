"""The spectrum of layers: eigenvalues, and the share of variance that they hold."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import MOST_MARKERS, floats, value_axis
from probe.figures.labels import legend_above
from probe.figures.style import ColumnFigure, blank, look, saved, styled

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def spectra(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw the eigenvalues of each layer against their rank, and the share of variance they hold.

    Eigenvalues that are 0 have no place on a logarithmic axis and are left out of the upper panel.

    Arguments:
        table: the columns `name`, `index` and `eigenvalue`, a row for each eigenvalue, of any
            order; ranks are counted from 1, the largest eigenvalue first.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    parts = curves_of(table, ["name"])
    shared, own = shared_and_own(parts, ["name"])
    with styled():
        figure = blank(3.4)
        above, below = figure.subplots(2, sharex=True)
        lines = []
        for number, rows in enumerate(parts):
            values = np.sort(floats(rows["eigenvalue"]))[::-1]
            values = values[np.isfinite(values)]
            rank = np.arange(1, len(values) + 1)
            looks = look(number) | ({"marker": ""} if len(rank) > MOST_MARKERS else {})
            positive = values > 0
            lines += above.plot(rank[positive], values[positive], ms=3, lw=1.1, mew=0.5, **looks)
            share = 100 * np.cumsum(values) / (values.sum() or np.nan)
            below.plot(rank, share, ms=3, lw=1.1, mew=0.5, **looks)
        above.set(xscale="log", ylabel="eigenvalue")
        if (table["eigenvalue"] > 0).any():
            above.set_yscale("log")
            _powers(above.yaxis)
        value_axis(below, "variance held (%)")
        below.set_ylim(0, 103)
        below.set_xlabel("principal components")
        _powers(below.xaxis)
        if len(parts) > 1:
            legend_above(figure, lines, own)
    return saved(figure, path, ", ".join(shared))


def _powers(axis: Axis) -> None:
    """Label a logarithmic axis at powers of ten: in full from 0.001 to 10,000, else raised."""
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _: _power(tick)))


def _power(tick: float) -> str:
    exponent = round(np.log10(tick))
    if -3 <= exponent <= 4:
        return f"{10.0**exponent:,.{max(0, -exponent)}f}"
    return "10" + str(exponent).translate(RAISED)

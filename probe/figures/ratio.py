"""The share of the full layer's accuracy against the share of features kept."""

from pathlib import Path

import pandas as pd

from probe.curve import Evidence, curve_table
from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import (
    along_fraction,
    bands_of,
    draw,
    fraction_axis,
    keys_in,
    value_axis,
    with_interval,
)
from probe.figures.labels import legend_above
from probe.figures.style import GREY, ColumnFigure, blank, saved, styled
from probe.summaries import NAMES, score_of


def ratio_against_fraction(
    table: pd.DataFrame, path: str | Path | None = None, correct: Evidence = None,
    level: float = 0.95,
) -> ColumnFigure:  # fmt: skip
    """Draw acc_f / acc_full against the fraction f of features kept, with intervals as bands.

    Each seed's accuracy is held against its own full layer's. One line for each (store, tap, mode,
    solver, penalty), whatever their accuracies: layers and models side by side. A layer within
    noise of what is reached without any feature has no line.

    Arguments:
        table: one row a probe, as `ProbeResult.to_pandas` gives it; or any table of curves with
            the columns `fraction` and `ratio` and, for the band, `low` and `high`.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.
        correct: which test rows each probe has right, as `ProbeResult.correct` says.
        level: coverage of the bands.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    score, note, make = score_of(table), "", along_fraction
    if "ratio" not in table:
        table = curve_table(table, correct, level)
        note, make = bands_of(table, level), with_interval
    keys = keys_in(table, "name")
    parts = curves_of(table, keys)
    shared, own = shared_and_own(parts, keys)
    with styled():
        figure = blank(2.55)
        axes = figure.add_subplot()
        axes.axhline(100, color=GREY, linewidth=0.6, zorder=0)
        lines = [draw(axes, make(rows, "ratio", 100), n) for n, rows in enumerate(parts)]
        fraction_axis(axes, table["fraction"], note)
        value_axis(axes, f"of the full layer's {NAMES[score]} (%)")
        if len(parts) > 1:
            legend_above(figure, lines, own)
    return saved(figure, path, ", ".join(shared))

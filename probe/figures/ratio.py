"""The share of the full layer's accuracy against the share of features kept."""

from pathlib import Path

import pandas as pd

from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import along_fraction, draw, fraction_axis, keys_in, value_axis
from probe.figures.labels import legend_above
from probe.figures.style import GREY, ColumnFigure, blank, saved, styled
from probe.summaries import NAMES, score_of, with_ratio


def ratio_against_fraction(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw acc_f / acc_full against the fraction f of features kept: mean ± sample std over seeds.

    Each seed's accuracy is held against its own full layer's. One line for each (store, tap, mode,
    solver, penalty), whatever their accuracies: layers and models side by side.

    Arguments:
        table: one row a probe, as `ProbeResult.to_pandas` gives it; or any table of curves with
            the columns `fraction` and `ratio` and, for the band, `low` and `high`.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    if "ratio" not in table:
        # low and high of such a table belong to the accuracy
        table = with_ratio(table).drop(columns=["low", "high"], errors="ignore")
    keys = keys_in(table, "name")
    parts = curves_of(table, keys)
    shared, own = shared_and_own(parts, keys)
    with styled():
        figure = blank(2.4)
        axes = figure.add_subplot()
        axes.axhline(100, color=GREY, linewidth=0.6, zorder=0)
        lines = [draw(axes, along_fraction(rows, "ratio", 100), n) for n, rows in enumerate(parts)]
        fraction_axis(axes, table["fraction"])
        value_axis(axes, f"of the full layer's {NAMES[score_of(table)]} (%)")
        if len(parts) > 1:
            legend_above(figure, lines, own)
    return saved(figure, path, ", ".join(shared))

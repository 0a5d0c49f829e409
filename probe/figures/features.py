"""Figures of features: what each is worth, and to one task against another."""

from pathlib import Path

import numpy as np
import pandas as pd

from featstore.probe.errors import DataError
from featstore.probe.figures.style import (
    GREY,
    PALETTE,
    ColumnFigure,
    blank,
    floats,
    legend_above,
    saved,
    styled,
    value_axis,
)


def attributions(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw what each feature is worth, sorted, with intervals as bands: a panel for each measure.

    Arguments:
        table: as `probe.drop_one` gives it (`change`, `low`, `high`), or `probe.shapley` (`value`,
            `low`, `high`), or the two joined by feature (`change`, `low`, `high`, `shapley`,
            `shapley_low`, `shapley_high`), or as `featstore.probe.geometry.universality` does
            (`r2`), with a line for each `other` layer where the table names several.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        DataError: the table has none of these measures.
        UsageError: the suffix is none of `SUFFIXES`.
    """
    panels = [measure for measure in MEASURES if measure[0] in table]
    if not panels:
        raise DataError("the table has no column change, value or shapley: no attribution to draw")
    parts = dict(list(table.groupby("other", sort=False))) if "other" in table else {"": table}
    with styled():
        figure, lines = blank(0.4 + 1.9 * len(panels)), []
        every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (value, low, high, unit, label) in zip(every, panels, strict=True):
            axes.axhline(0, color=GREY, linewidth=0.6, zorder=0)
            value_axis(axes, label)
            lines = []
            for number, rows in enumerate(parts.values()):
                rows = rows.sort_values(value, ascending=False, kind="stable")
                rank, colour = np.arange(1, len(rows) + 1), PALETTE[number % len(PALETTE)]
                ends = [unit * floats(rows[end]) for end in (low, high)]
                axes.fill_between(rank, *ends, color=colour, alpha=0.2, lw=0)
                lines += axes.plot(rank, unit * floats(rows[value]), color=colour, lw=1.1)
        every[-1].set_xlabel("features, each panel in its own order")
        if len(parts) > 1:
            legend_above(figure, lines, list(map(str, parts)))
    return saved(figure, path, "attribution")


def attributions_against(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw what features are worth to one task against what they are worth to another.

    Arguments:
        table: a row a feature, with the last two columns named after the tasks.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    one, other = table.columns[-2:]
    x, y = floats(table[one]), floats(table[other])
    known = np.isfinite(x) & np.isfinite(y)
    with styled():
        figure = blank(2.6)
        axes = figure.add_subplot()
        axes.plot(x[known], y[known], "o", ms=2.5, mew=0, alpha=0.5, color=PALETTE[0])
        axes.set_xlabel(str(one))
        value_axis(axes, str(other))
    return saved(figure, path, "attribution")


MEASURES = (
    ("change", "low", "high", 100, "accuracy gained\nwithout it (points)"),
    ("value", "low", "high", 1, "loss taken away\n(Shapley)"),
    ("shapley", "shapley_low", "shapley_high", 1, "loss taken away\n(Shapley)"),
    ("r2", "r2", "r2", 1, "predicted from the\nother layer (R²)"),
)
"""Columns of measures and their intervals, by what they are multiplied, and their axes."""

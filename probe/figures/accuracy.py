"""Test accuracy against the share of features kept."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from probe.curve import Evidence, curve_table
from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import (
    MOST_MARKERS,
    Curve,
    bands_of,
    draw,
    floats,
    fraction_axis,
    value_axis,
    with_interval,
)
from probe.figures.labels import legend_above
from probe.figures.style import GREY, PALETTE, SMALL, ColumnFigure, blank, saved, styled
from probe.summaries import as_curves, score_of

# of each score: what it is multiplied by, its axis, and how one value is written
UNITS = {"accuracy": (100, "test accuracy (%)", "{:.1f} %"), "r2": (1, "test R²", "{:.3f}")}


def accuracy_against_fraction(
    table: pd.DataFrame, path: str | Path | None = None, correct: Evidence = None,
    level: float = 0.95,
) -> ColumnFigure:  # fmt: skip
    """Draw test accuracy against the fraction of features kept, with intervals as bands.

    Where numbers are predicted, R^2 stands for accuracy. One line for each (store, tap, mode,
    solver, penalty). A single one shows every seed as a point, its full layer as a dashed line,
    and on the right axis the same accuracies as a share of the full layer's, unless that is within
    noise of what is reached without any feature.

    Arguments:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.
        correct: which test rows each probe has right, as `ProbeResult.correct` says: the bands are
            then over test rows too, as in the tables.
        level: coverage of the bands.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    score, every = score_of(table), curve_table(table, correct, level)
    unit, label, written = UNITS[score]
    parts = curves_of(every)
    shared, own = shared_and_own(parts)
    with styled():
        figure = blank(2.55)
        axes = figure.add_subplot()
        curves = [with_interval(rows, score, unit) for rows in parts]
        lines = [draw(axes, curve, number) for number, curve in enumerate(curves)]
        fraction_axis(axes, every["fraction"], bands_of(every, level))
        value_axis(axes, label)
        if len(curves) == 1:
            _every_seed(axes, as_curves(table), score, unit)
            _full_layer(axes, curves[0], written)
        else:
            legend_above(figure, lines, own)
    return saved(figure, path, ", ".join(shared))


def _every_seed(axes: Axes, probes: pd.DataFrame, score: str, unit: float) -> None:
    if probes["fraction"].nunique() <= MOST_MARKERS:
        y = unit * floats(probes[score])
        axes.scatter(probes["fraction"], y, s=5, color=PALETTE[0], alpha=0.45, linewidth=0)


def _full_layer(axes: Axes, curve: Curve, written: str) -> None:
    """Mark the full layer's accuracy, and read the axis a second time as a share of it."""
    full = curve.mean[curve.x == 1]
    if not full.size or np.isnan(floats(curve.rows["ratio"])[curve.x == 1][0]):
        return
    axes.axhline(full[0], color=PALETTE[0], linestyle=(0, (4, 3)), linewidth=0.7, zorder=0)
    right = axes.secondary_yaxis(
        "right", functions=(lambda a: 100 * a / full[0], lambda share: share * full[0] / 100)
    )
    right.set_ylabel("of the full layer (%)")
    right.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    right.spines["right"].set_visible(True)
    axes.margins(y=0.1)
    widest = curve.rows.loc[curve.rows["fraction"] == 1, "k"].iloc[0]
    axes.annotate(
        f"all {widest:,} features: {written.format(full[0])}", (0.0, full[0]),
        xycoords=("axes fraction", "data"), xytext=(3, 2), textcoords="offset points",
        va="bottom", fontsize=SMALL, color=GREY,
    )  # fmt: skip

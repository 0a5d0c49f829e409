"""Diffused redundancy against the share of accuracy to be kept."""

from pathlib import Path

import pandas as pd

from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import Curve, draw, floats, keys_in, value_axis
from probe.figures.labels import legend_above
from probe.figures.style import ColumnFigure, blank, saved, styled


def redundancy_curve(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw DR(delta) against delta, with its interval as a band.

    A line ends where its curve does not reach delta.

    Arguments:
        table: as `probe.redundancy.diffused_redundancy` gives it over `DELTAS`: the columns of
            `CURVE`, `rule`, `delta`, `redundancy`, `low` and `high`.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    keys = keys_in(table, "rule", "name")
    parts = curves_of(table, keys)
    shared, own = shared_and_own(parts, keys)
    with styled():
        figure = blank(2.4)
        axes = figure.add_subplot()
        lines = [draw(axes, _curve(rows), number) for number, rows in enumerate(parts)]
        axes.set_xlabel("share δ of the full accuracy to be kept (%)")
        value_axis(axes, "diffused redundancy DR(δ)")
        if len(parts) > 1:
            legend_above(figure, lines, own)
    return saved(figure, path, ", ".join(shared))


def _curve(rows: pd.DataFrame) -> Curve:
    rows = rows.sort_values("delta", kind="stable")
    mean = floats(rows["redundancy"])
    low, high = (floats(rows[end]) if end in rows else mean for end in ("low", "high"))
    return Curve(100 * floats(rows["delta"]), mean, low, high, rows)

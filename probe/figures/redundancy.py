"""Diffused redundancy against the share of accuracy to be kept."""

from pathlib import Path

import numpy as np
import pandas as pd

from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import Curve, draw, keys_in, value_axis
from probe.figures.labels import legend_above
from probe.figures.style import ColumnFigure, blank, saved, styled


def redundancy_curve(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw DR(delta) against delta, with the bootstrap interval as a band.

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
    mean = rows["redundancy"].to_numpy(np.float64)
    low, high = (rows[end].to_numpy(np.float64) if end in rows else mean for end in ("low", "high"))
    seeds = np.ones(len(rows), np.int64)
    return Curve(100 * rows["delta"].to_numpy(np.float64), mean, low, high, seeds, rows)

"""Similarity of layers or models to each other, as a matrix."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from probe.errors import DataError
from probe.figures.labels import wrapped
from probe.figures.style import SMALL, ColumnFigure, blank, saved, styled

MOST_NUMBERS, MOST_NAMES = 8, 20
"""Rows up to which cells have their numbers, and all rows have their names."""


def cka_matrix(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw a matrix of linear CKA; darker is less alike.

    Arguments:
        table: square, float64 (n, n), with names as index and columns. NaN cells stay white.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        DataError: the table is empty or not square.
        UsageError: the suffix is none of `SUFFIXES`.
    """
    values = table.astype("float64").to_numpy()
    if not len(values) or len(values) != values.shape[1]:
        raise DataError(f"a table of shape {values.shape} is no matrix of CKA: it has to be square")
    with styled():
        figure = blank(2.9, "compressed")  # which knows that cells are square
        axes = figure.add_subplot()
        # debiased CKA may be a little below 0
        low = min(0.0, np.nanmin(values, initial=0.0))
        image = axes.imshow(values, cmap="cividis", vmin=low, vmax=1, interpolation="nearest")
        bar = figure.colorbar(image, ax=axes, label="linear CKA", fraction=0.05, pad=0.02)
        bar.outline.set_visible(False)
        if len(values) <= MOST_NUMBERS:
            _numbers(axes, values, low)
        _names(figure, axes, [str(name) for name in table.index])
    return saved(figure, path, "linear CKA")


def _numbers(axes: Axes, values: np.ndarray, low: float) -> None:
    colours = colormaps["cividis"]((values - low) / (1 - low))[..., :3]
    light = colours @ (0.2126, 0.7152, 0.0722) > 0.45
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "black" if light[row, column] else "white"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=SMALL, color=colour
            )


def _names(figure: ColumnFigure, axes: Axes, names: list[str]) -> None:
    """Name rows and columns, every so many of them where not all have room."""
    places = list(range(0, len(names), -(-len(names) // MOST_NAMES)))
    shown = [wrapped(figure, names[place], 1.0) for place in places]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(places))
        axis.set_minor_locator(NullLocator())
        axis.set_ticklabels(shown, fontsize=SMALL)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelrotation=90)
    for spine in axes.spines.values():
        spine.set_visible(False)

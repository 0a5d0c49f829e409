"""Accuracy on each class against the share of features kept."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import MOST_MARKERS, fraction_axis, value_axis
from probe.figures.labels import label_ends, wrapped
from probe.figures.style import PALE, SMALL, ColumnFigure, blank, look, saved, styled
from probe.summaries import as_curves


def class_lines(
    table: pd.DataFrame,
    path: str | Path | None = None,
    named: int = 5,
    fraction: float = 0.1,
) -> ColumnFigure:
    """Draw the accuracy on each class, a mean over seeds, against the fraction of features kept.

    The classes that lose most from the full layer to one fraction have a colour, a marker and
    their names; the others are grey. Curves of several modes or solvers get a panel each.

    Arguments:
        table: a row for each probe and class, as `probe.per_class_table` gives it.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.
        named: how many classes have their names.
        fraction: where losses are compared; the nearest below 1 that was probed is taken.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    parts = curves_of(as_curves(table))
    shared, own = shared_and_own(parts)
    with styled():
        figure = blank(0.5 + 1.9 * len(parts))
        panels = figure.subplots(len(parts), sharex=True, sharey=True, squeeze=False)[:, 0]
        wides = [_wide(rows) for rows in parts]
        chosen = [most_affected(wide, named, fraction) for wide in wides]
        for axes, wide, names in zip(panels, wides, chosen, strict=True):
            _lines(axes, wide, names)
        fraction_axis(panels[-1], table["fraction"])
        for axes, words in zip(panels, own, strict=True):
            value_axis(axes, "accuracy on the class (%)")
            axes.set_title(wrapped(figure, words, 2.4), fontsize=SMALL, loc="left")
            axes.label_outer()
        _name_lines(figure, panels, wides, chosen)
    return saved(figure, path, ", ".join(shared))


def most_affected(wide: pd.DataFrame, named: int, fraction: float) -> list[str]:
    """Return the classes that lose most accuracy from the last row to a fraction, in order.

    Arguments:
        wide: mean accuracies, a row a fraction (rising), a column a class.
        named: how many classes to return; all, where there are no more.
        fraction: the nearest of the other rows is taken.
    """
    parts = wide.iloc[:-1] if len(wide) > 1 else wide
    near = parts.iloc[int(np.abs(parts.index.to_numpy() - fraction).argmin())]
    loss = (wide.iloc[-1] - near).sort_values(ascending=False, kind="stable")
    return list(loss.index[:named])


def _wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean accuracies over seeds in per cent, a row a fraction, a column a class."""
    wide = rows.pivot_table(
        index="fraction", columns="class", values="class_accuracy", sort=False, dropna=False,
        observed=True,
    )  # fmt: skip
    return 100 * wide.astype(np.float64).sort_index()


def _lines(axes: Axes, wide: pd.DataFrame, chosen: list[str]) -> None:
    grey = wide.drop(columns=chosen)
    if len(grey.columns):
        axes.plot(grey.index, grey.to_numpy(), color=PALE, lw=0.6, zorder=1)
    for number, name in enumerate(chosen):
        line = wide[name]
        looks = look(number) | ({"marker": ""} if len(line) > MOST_MARKERS else {})
        axes.plot(line.index, line, ms=3, lw=1.2, mew=0.5, zorder=3, **looks)


def _name_lines(
    figure: ColumnFigure, panels: np.ndarray, wides: list[pd.DataFrame], chosen: list[list[str]]
) -> None:
    for axes, wide, names in zip(panels, wides, chosen, strict=True):
        ends = {name: (wide.index[-1], wide[name].iloc[-1]) for name in names}
        known = [number for number, name in enumerate(names) if np.isfinite(ends[name][1])]
        label_ends(
            figure, axes, [ends[names[n]] for n in known], [str(names[n]) for n in known],
            [look(n)["color"] for n in known],
        )  # fmt: skip

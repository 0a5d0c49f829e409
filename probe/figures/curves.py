"""Curves with bands: condensed from tables, drawn, and laid against the share of features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from probe.curve import over_of
from probe.curve_names import CURVE, NOT_RUN
from probe.figures.style import look
from probe.summaries import percent

MOST_MARKERS = 40
"""Points of a curve up to which each has its marker; longer ones are lines with a few."""

TICKS = [float(f"{m}e{e}") for e in range(-7, 0) for m in (1, 2, 5)] + [1.0]


@dataclass(frozen=True)
class Curve:
    """A mean with its band along x.

    Attributes:
        x: float64 (n,), rising.
        mean: float64 (n,); NaN where nothing is known.
        low: float64 (n,), of the band; NaN where there is none.
        high: float64 (n,).
        rows: the rows that the curve was condensed from.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rows: pd.DataFrame


def with_interval(rows: pd.DataFrame, value: str, unit: float) -> Curve:
    """Return a mean at each fraction, with its interval as band.

    Arguments:
        rows: one curve, as `probe.curve.curve_table` gives it: what the tables show.
        value: the column to draw, which `_low` and `_high` belong to.
        unit: what they are multiplied by.
    """
    columns = (floats(rows[f"{value}{end}"]) for end in ("", "_low", "_high"))
    mean, low, high = (unit * column for column in columns)
    return Curve(floats(rows["fraction"]), mean, low, high, rows)


def bands_of(rows: pd.DataFrame, level: float) -> str:
    """Say what the bands of curves are, as `probe.curve.curve_table` gives them."""
    over = over_of(rows)
    if not over:
        return "one seed: no intervals"
    return f"bands: {percent(level)} intervals over {over}".replace(", or ", ",\nor ")


def along_fraction(rows: pd.DataFrame, value: str, unit: float) -> Curve:
    """Condense the rows of one curve to a mean at each fraction.

    The band is the sample standard deviation over seeds or, where the table has them, the columns
    `low` and `high`.

    Arguments:
        rows: one curve, with the column `fraction`.
        value: the column to draw.
        unit: what it, `low` and `high` are multiplied by.
    """
    if "status" in rows:
        rows = rows[rows["status"] != NOT_RUN]
    groups = rows.groupby("fraction")
    numbers = groups[value].agg(["mean", "std"])
    mean, spread = (floats(numbers[name]) for name in ("mean", "std"))
    low, high = mean - spread, mean + spread
    if {"low", "high"} <= set(rows.columns):
        low, high = (floats(groups[end].mean()) for end in ("low", "high"))
    x = floats(numbers.index)
    return Curve(x, unit * mean, unit * low, unit * high, rows)


def floats(values: pd.Series | pd.Index) -> np.ndarray:
    """Return float64 (n,), NaN for what is not known, also of a table that was read."""
    return values.astype("float64").to_numpy()


def draw(axes: Axes, curve: Curve, number: int) -> Line2D:
    """Add a line through the means and its band; return the line."""
    looks = look(number)
    axes.fill_between(curve.x, curve.low, curve.high, color=looks["color"], alpha=0.16, lw=0)
    (line,) = axes.plot(curve.x, curve.mean, ms=3, lw=1.1, mew=0.5, **looks)
    if len(curve.x) > MOST_MARKERS:
        line.set_markevery(_few(curve.x, number))
    return line


def _few(x: np.ndarray, number: int) -> list[int]:
    """Return the points of a long curve that get a marker: evenly in log x, a few, shifted."""
    wanted = (np.arange(6) + 0.4 + 0.6 * (number % 4) / 4) / 6.5
    places = np.log(x[0]) + wanted * (np.log(x[-1]) - np.log(x[0]))
    return sorted(set(np.searchsorted(np.log(x), places).clip(0, len(x) - 1).tolist()))


def keys_in(table: pd.DataFrame, *more: str) -> list[str]:
    """Return the columns that tell this table's curves apart."""
    return [key for key in (*CURVE, *more) if key in table]


def fraction_axis(axes: Axes, fractions: Sequence[float], note: str = "") -> None:
    """Make x logarithmic, labelled 1, 2, 5, 10 ... per cent, by decades where that is crowded.

    A note stands in a line of its own below the label.
    """
    axes.set_xscale("log")
    low = min([0.5, *fractions])
    axes.set_xlim(low / 1.2, 1.2)
    ticks = [tick for tick in TICKS if tick >= low / 1.1]
    if len(ticks) > 9:
        ticks = [tick for tick in TICKS[::3] if tick >= low / 1.1]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{100 * tick:.4g}"))
    axes.set_xlabel("features kept (%)" + (f"\n{note}" if note else ""))


def value_axis(axes: Axes, label: str) -> None:
    """Label y, with a few round ticks and a pale grid."""
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", linewidth=0.4, alpha=0.35)

"""Figures of results, one function a figure."""

from pathlib import Path

import numpy as np
import pandas as pd

from featstore.probe.errors import INSTALL, DataError

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"figures need {error.name}, which is not installed: {INSTALL.format('report')}",
        name=error.name,
    ) from None

from featstore.probe.figures.features import attributions, attributions_against
from featstore.probe.figures.style import (
    GREY,
    MOST_MARKERS,
    PALE,
    PALETTE,
    SMALL,
    SUFFIXES,
    ColumnFigure,
    Curve,
    along_fraction,
    bands_of,
    blank,
    compared,
    draw,
    floats,
    fraction_axis,
    keys_in,
    label_beside,
    label_ends,
    legend_above,
    look,
    saved,
    styled,
    value_axis,
    with_interval,
    wrapped,
)
from featstore.probe.layers import accuracy_by_layer
from featstore.probe.results import (
    Evidence,
    Probes,
    as_curves,
    curves_of,
    percent,
    score_name,
    score_of,
    shared_and_own,
    table_of,
)
from featstore.probe.results.curves import curve_table
from featstore.probe.results.features import measure_name, measure_of


def _unit(score: str) -> tuple[float, str, str]:
    """Return what a score is multiplied by, its axis, and how one value is written."""
    name = score_name(score)
    in_percent = "accuracy" in name
    return (100, f"test {name} (%)", "{:.1f} %") if in_percent else (1, f"test {name}", "{:.3f}")


def accuracy_against_fraction(
    table: Probes,
    path: str | Path | None = None,
    correct: Evidence = None,
    level: float = 0.95,
) -> ColumnFigure:
    """Draw test accuracy against the fraction of features kept, with intervals as bands.

    Where numbers are predicted, R^2 stands for accuracy, and so does the score that a table is
    summed up by. One line for each (store, tap, mode, solver, penalty). A single one shows every
    seed as a point, its full layer as a dashed line,
    and on the right axis the same accuracies as a share of the full layer's, unless that is within
    noise of what is reached without any feature.

    Arguments:
        table: a `ProbeResult`, or one row a probe, as `to_pandas` gives it.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.
        correct: which test rows each probe has right, as `ProbeResult.correct` says: the bands are
            then over test rows too, as in the tables.
        level: coverage of the bands.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    table, correct = table_of(table, correct)
    score, every = score_of(table), curve_table(table, correct, level)
    unit, label, written = _unit(score)
    parts = curves_of(every)
    shared, own = shared_and_own(parts)
    curves, note = [with_interval(rows, score, unit) for rows in parts], bands_of(every, level)

    def finish(axes: Axes) -> None:
        fraction_axis(axes, every["fraction"], note)
        value_axis(axes, label)

    with styled():
        figure = compared(curves, own, 2.55, finish)
        if len(curves) == 1:
            _every_seed(figure.axes[0], as_curves(table), score, unit)
            _full_layer(figure.axes[0], curves[0], written)
    return saved(figure, path, ", ".join(shared))


def accuracy_against_layer(
    table: Probes,
    path: str | Path | None = None,
    correct: Evidence = None,
    level: float = 0.95,
) -> ColumnFigure:
    """Draw test accuracy against the layers of a network, with intervals as bands.

    Where numbers are predicted, R^2 stands for accuracy. One line for each (store, mode, solver)
    and fraction of the features; of several, the whole layer is the first.

    Arguments:
        table: a `LayerSweep`, or one row a probe, of several taps in their order.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.
        correct: which test rows each probe has right, by default the result's own.
        level: coverage of the bands.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    every = accuracy_by_layer(table, correct, level)
    score = score_of(every)
    unit, label, _ = _unit(score)
    keys = ("store", "mode", "solver")
    # the whole layer is one probe, whatever the mode
    whole = every[every["fraction"] == 1].drop_duplicates(["store", "solver", "layer"])
    parts = curves_of(whole, ("store", "solver"))
    parts += curves_of(every[every["fraction"] < 1], (*keys, "fraction"))
    parts = [rows for rows in parts if len(rows)]
    shared, own = shared_and_own(parts, keys)
    names = []
    for rows, name in zip(parts, own, strict=True):
        fraction = rows["fraction"].iloc[0]
        if fraction == 1:
            name = name.removesuffix(str(rows["mode"].iloc[0])).strip(", ")
        kept = "all features" if fraction == 1 else percent(fraction)
        names.append(", ".join(filter(None, [name, kept])))
    taps = max((rows["tap"].tolist() for rows in parts), key=len)
    with styled():
        figure = blank(2.55)
        axes = figure.add_subplot()
        lines = [
            draw(axes, with_interval(rows, score, unit, "layer"), number)
            for number, rows in enumerate(parts)
        ]
        step = -(-len(taps) // _MOST_TAPS)
        shown = range(0, len(taps), step)
        axes.set_xticks(list(shown), [taps[place] for place in shown], rotation=90)
        axes.set_xlabel(bands_of(every, level))
        value_axis(axes, label)
        if len(parts) > 1:
            legend_above(figure, lines, names)
    return saved(figure, path, ", ".join(shared))


def accuracy_against_rows(
    table: pd.DataFrame, path: str | Path | None = None, level: float = 0.95
) -> ColumnFigure:
    """Draw test accuracy against the number of train rows, one line for each mode and fraction.

    Arguments:
        table: as `featstore.probe.learning.LearningCurve.by_amount` gives it, with its score; or,
            with a line for each name, as `featstore.probe.learning.compared` does.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.
        level: coverage of the bands, as of the table.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    score = score_of(table)
    unit, label, _ = _unit(score)
    keys = [key for key in ("name", "mode") if key in table]
    parts = [rows for _, rows in table.groupby([*keys, "fraction"], sort=False)]
    parts.sort(key=lambda rows: -rows["fraction"].iloc[0])
    _, own = shared_and_own(parts, keys)
    kept = [percent(rows["fraction"].iloc[0]) for rows in parts]
    kept = kept if len(set(kept)) > 1 else [""] * len(kept)
    with styled():
        figure = blank(2.55)
        axes = figure.add_subplot()
        lines = [
            draw(axes, with_interval(rows, score, unit, "n_train"), number)
            for number, rows in enumerate(parts)
        ]
        axes.set_xscale("log")
        axes.set_xlabel(f"train rows\n{bands_of(table, level).replace('seeds', 'draws')}")
        value_axis(axes, label)
        if len(parts) > 1:
            names = [", ".join(filter(None, pair)) for pair in zip(own, kept, strict=True)]
            legend_above(figure, lines, names)
    return saved(figure, path, "")


_MOST_TAPS = 24
"""Names of layers below an axis; of more every second one, or third, is written."""


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
        f"all {widest:,} features: {written.format(full[0])}",
        (0.0, full[0]),
        xycoords=("axes fraction", "data"),
        xytext=(3, 2),
        textcoords="offset points",
        va="bottom",
        fontsize=SMALL,
        color=GREY,
    )


KEYS = ("store", "name", "tap", "mode")
"""Columns that tell lines apart."""

_DRAWS = ("seed", "other_seed", "fraction", "k", "cka")


def cka_against_fraction(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw linear CKA against the fraction of features kept: mean ± sample std over seeds.

    What is similar to what depends on no solver and no penalty: a table of several has one line.

    Arguments:
        table: the columns `fraction` and `cka`, a row for each seed (or pair of seeds); lines are
            told apart by those of `KEYS` that it has. `probe.sweep(cka=True)` and
            `probe.layer_similarity` give it.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    table = table.drop_duplicates([each for each in (*KEYS, *_DRAWS) if each in table])
    parts = curves_of(table, KEYS)
    shared, own = shared_and_own(parts, [key for key in KEYS if key in table])

    def finish(axes: Axes) -> None:
        fraction_axis(axes, table["fraction"])
        value_axis(axes, "linear CKA")

    with styled():
        curves = [along_fraction(rows, "cka", 1) for rows in parts]
        figure = compared(curves, own, 2.4, finish)
    return saved(figure, path, ", ".join(shared))


def retrieval_against_fraction(
    table: pd.DataFrame, path: str | Path | None = None, label: str = "", level: float = 0.95
) -> ColumnFigure:
    """Draw a measure of retrieval against the fraction of dimensions kept, a line a mode.

    Arguments:
        table: as `Retrieved.curves` gives it; bands are its intervals.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.
        label: name of the measure; by default as `featstore.probe.results.features` has it.
        level: coverage of the bands.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    measure = measure_of(table)
    label = label or measure_name(measure, int(table["cutoff"].iloc[0]))
    parts = curves_of(table, ["mode"])
    with styled():
        figure = blank(2.4)
        axes = figure.add_subplot()
        lines = [draw(axes, with_interval(rows, measure, 1), n) for n, rows in enumerate(parts)]
        fraction_axis(
            axes, table["fraction"], f"bands: {percent(level)} intervals over seeds and queries"
        )
        axes.set_xlabel(axes.get_xlabel().replace("features", "dimensions"))
        value_axis(axes, label)
        if len(parts) > 1:
            legend_above(figure, lines, [str(rows["mode"].iloc[0]) for rows in parts])
    return saved(figure, path, label)


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
        index="fraction",
        columns="class",
        values="class_accuracy",
        sort=False,
        dropna=False,
        observed=True,
    )
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
            figure,
            axes,
            [ends[names[n]] for n in known],
            [str(names[n]) for n in known],
            [look(n)["color"] for n in known],
        )


def inequality_against_accuracy(
    table: pd.DataFrame, path: str | Path | None = None
) -> ColumnFigure:
    """Draw the Gini coefficient over classes against mean accuracy, points joined along fraction.

    Bars are the sample standard deviation over seeds.

    Arguments:
        table: as `featstore.probe.classes.inequality_table` gives it: the columns of
        `CURVE`, `fraction`,
            `mean_per_class`, `gini` and `gini_std`.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    keys = keys_in(table, "name")
    parts = [rows.sort_values("fraction") for rows in curves_of(table, keys)]
    shared, own = shared_and_own(parts, keys)
    with styled():
        figure = blank(2.4)
        axes = figure.add_subplot()
        lines = [_joined(axes, rows, number) for number, rows in enumerate(parts)]
        axes.set_xlabel("mean accuracy over classes (%)")
        value_axis(axes, "Gini of class accuracies")
        axes.margins(0.08)
        if len(parts) > 1:
            legend_above(figure, lines, own)
        _ends(figure, axes, lines[0], floats(parts[0]["fraction"]))
    return saved(figure, path, ", ".join(shared))


def _joined(axes: Axes, rows: pd.DataFrame, number: int) -> Line2D:
    x = 100 * floats(rows["mean_per_class"])
    y, spread = floats(rows["gini"]), floats(rows["gini_std"])
    looks = look(number)
    axes.vlines(x, y - spread, y + spread, color=looks["color"], lw=0.7, alpha=0.6)
    (line,) = axes.plot(x, y, ms=3, lw=1.0, mew=0.5, **looks)
    return line


def _ends(figure: ColumnFigure, axes: Axes, line: Line2D, fractions: np.ndarray) -> None:
    """Say at both ends of a line which fraction it is, and so which way lines run."""
    points = line.get_xydata()
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    ends = list(dict.fromkeys([*known[:1], *known[-1:]]))
    label_beside(figure, axes, points[ends], [percent(fractions[end]) for end in ends])


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


def ratio_against_fraction(
    table: Probes,
    path: str | Path | None = None,
    correct: Evidence = None,
    level: float = 0.95,
) -> ColumnFigure:
    """Draw acc_f / acc_full against the fraction f of features kept, with intervals as bands.

    Each seed's accuracy is held against its own full layer's. One line for each (store, tap, mode,
    solver, penalty), whatever their accuracies: layers and models side by side. A layer within
    noise of what is reached without any feature has no line.

    Arguments:
        table: a `ProbeResult`, or one row a probe, as `to_pandas` gives it; or any table of
            curves with the columns `fraction` and `ratio` and, for the band, `low` and `high`.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.
        correct: which test rows each probe has right, as `ProbeResult.correct` says.
        level: coverage of the bands.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    table, correct = table_of(table, correct)
    score, note, make = score_of(table), "", along_fraction
    if "ratio" not in table:
        table = curve_table(table, correct, level)
        note, make = bands_of(table, level), with_interval
    keys = keys_in(table, "name")
    parts = curves_of(table, keys)
    shared, own = shared_and_own(parts, keys)

    def finish(axes: Axes) -> None:
        axes.axhline(100, color=GREY, linewidth=0.6, zorder=0)
        fraction_axis(axes, table["fraction"], note)
        value_axis(axes, f"of the full layer's {score_name(score)} (%)")

    with styled():
        figure = compared([make(rows, "ratio", 100) for rows in parts], own, 2.55, finish)
    return saved(figure, path, ", ".join(shared))


def redundancy_curve(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw DR(delta) against delta, with its interval as a band.

    A line ends where its curve does not reach delta.

    Arguments:
        table: as `featstore.probe.redundancy.diffused_redundancy` gives it over `DELTAS`:
        the columns of
            `CURVE`, `rule`, `delta`, `redundancy`, `low` and `high`.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    keys = keys_in(table, "rule", "name")
    parts = curves_of(table, keys)
    shared, own = shared_and_own(parts, keys)

    def finish(axes: Axes) -> None:
        axes.set_xlabel("share δ of the full accuracy to be kept (%)")
        value_axis(axes, "diffused redundancy DR(δ)")

    with styled():
        figure = compared([_curve(rows) for rows in parts], own, 2.4, finish)
    return saved(figure, path, ", ".join(shared))


def _curve(rows: pd.DataFrame) -> Curve:
    rows = rows.sort_values("delta", kind="stable")
    mean = floats(rows["redundancy"])
    low, high = (floats(rows[end]) if end in rows else mean for end in ("low", "high"))
    return Curve(100 * floats(rows["delta"]), mean, low, high, rows)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
    return "10" + str(exponent).translate(_RAISED)


__all__ = [
    "SUFFIXES",
    "accuracy_against_fraction",
    "accuracy_against_rows",
    "attributions",
    "attributions_against",
    "cka_against_fraction",
    "cka_matrix",
    "class_lines",
    "inequality_against_accuracy",
    "ratio_against_fraction",
    "redundancy_curve",
    "retrieval_against_fraction",
    "spectra",
]

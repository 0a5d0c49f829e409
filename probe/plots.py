"""Pictures of a sweep, fit for a paper's column: no global state, same table, same bytes."""

from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from probe.errors import UsageError
from probe.files import written_whole
from probe.summaries import CURVE, as_curves, penalty, score_of, summary

SUFFIXES = (".png", ".svg", ".pdf")
"""What a picture's file name may end in."""

COLUMN_WIDTH = 3.3
"""Inches: one column of a two-column page."""

# Okabe and Ito (2008), "Color Universal Design": told apart by every kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#555555"

STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # TrueType: text stays text, as publishers ask
    "svg.fonttype": "none",
    "svg.hashsalt": "featstore",
}
# of each score: what it is multiplied by, its axis, and how one value is written
UNITS = {"accuracy": (100, "test accuracy (%)", "{:.1f} %"), "r2": (1, "test R²", "{:.3f}")}
TICKS = [m * 10.0**e for e in range(-4, 0) for m in (1, 2, 5)] + [1.0]


def accuracy_against_fraction(table: pd.DataFrame, path: str | Path) -> Path:
    """Draw test accuracy against the fraction of features kept: mean, ± one std, every seed.

    Where numbers are predicted, R^2 stands for accuracy.

    One curve for each (store, tap, mode, solver, penalty); the full layer is a dashed line. With
    one curve, the right axis reads the same accuracies as a share of the full layer's.

    Args:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Returns:
        The path written.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot draw {path.name}: {path.suffix or 'no suffix'} is not a picture format here; "
            f"use {', '.join(SUFFIXES)}"
        )
    with rc_context(STYLE):
        figure = _figure(as_curves(table))
        _save(figure, path)
    return path


def _figure(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(COLUMN_WIDTH, 2.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = [curve for _, curve in summary(table).groupby(CURVE, dropna=False)]
    for number, curve in enumerate(curves):
        _draw(axes, curve, table, number, _label(curve, curves))
    _fraction_axis(axes, table["fraction"])
    axes.set_ylabel(UNITS[score_of(table)][1])
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", linewidth=0.4, alpha=0.35)
    axes.set_title(_title(curves), fontsize=6.5, color=GREY, loc="left", linespacing=1.35)
    if len(curves) == 1:
        _ratio_axis(axes, curves[0])
    else:
        axes.spines["right"].set_visible(False)
        axes.legend(frameon=False, loc="lower right", handlelength=1.6)
    return figure


def _draw(axes: Axes, curve: pd.DataFrame, table: pd.DataFrame, number: int, label: str) -> None:
    """Add one curve: a line through the means, a band of ± std, a faint point for each seed."""
    colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
    score = score_of(table)
    unit = UNITS[score][0]
    fraction, mean = curve["fraction"], unit * curve[score]
    spread = unit * curve[f"{score}_std"].fillna(0)
    seeds = table.merge(curve[CURVE].head(1), on=CURVE)
    axes.fill_between(fraction, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axes.scatter(seeds["fraction"], unit * seeds[score], s=5, color=colour, alpha=0.45, linewidth=0)
    axes.plot(fraction, mean, color=colour, marker=marker, ms=3, lw=1.1, label=label)
    full = mean[fraction == 1]
    if len(full):
        axes.axhline(full.iloc[0], color=colour, linestyle=(0, (4, 3)), linewidth=0.7, zorder=0)


def _fraction_axis(axes: Axes, fractions: pd.Series) -> None:
    """Make x logarithmic, labelled 1, 2, 5, 10 ... per cent, by decades where that is crowded."""
    axes.set_xscale("log")
    low = min(fractions.min(), 0.5)
    axes.set_xlim(low / 1.2, 1.2)
    ticks = [tick for tick in TICKS if tick >= low / 1.2]
    if len(ticks) > 9:
        ticks = TICKS[::3]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{100 * tick:.4g}"))
    axes.set_xlabel("features kept (%)")


def _ratio_axis(axes: Axes, curve: pd.DataFrame) -> None:
    """Read the left axis a second time, on the right, as a share of the full layer's accuracy."""
    unit, _, written = UNITS[score_of(curve)]
    full = unit * curve.loc[curve["fraction"] == 1, score_of(curve)].mean()
    right = axes.secondary_yaxis(
        "right", functions=(lambda a: 100 * a / full, lambda share: share * full / 100)
    )
    right.set_ylabel("of the full layer (%)")
    right.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    widest = curve.loc[curve["fraction"] == 1, "k"].iloc[0]
    axes.annotate(
        f"all {widest:,} features: {written.format(full)}",
        (0.0, full),
        xycoords=("axes fraction", "data"),
        xytext=(3, -2.5),
        textcoords="offset points",
        va="top",
        fontsize=6.5,
        color=GREY,
    )


def _title(curves: list[pd.DataFrame]) -> str:
    """Name what all curves share: the store; then tap, solver, penalty and seeds."""
    words = [_words(curve) for curve in curves]
    shared = [word for place, word in enumerate(words[0]) if len({w[place] for w in words}) == 1]
    store = shared.pop(0) if words[0][0] in shared else ""
    seeds = max(curve["probes"].max() for curve in curves)
    facts = [*shared, f"{seeds} seed{'s' if seeds > 1 else ''}"]
    return "\n".join(filter(None, [store, ", ".join(facts)]))


def _label(curve: pd.DataFrame, curves: list[pd.DataFrame]) -> str:
    """Name what sets this curve apart from the others."""
    words = [_words(other) for other in curves]
    own = enumerate(_words(curve))
    return ", ".join(word for place, word in own if len({w[place] for w in words}) > 1)


def _words(curve: pd.DataFrame) -> list[str]:
    """Name a curve: store, tap, mode, solver, penalty."""
    first = curve.iloc[0]
    store = Path(str(first["store"])).stem
    return [
        store,
        first["tap"],
        first["mode"],
        first["solver"],
        penalty(first["l2_choice"], first["l2"]),
    ]


def _save(figure: Figure, path: Path) -> None:
    # Without dates, the same table gives the same bytes.
    metadata = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    suffix = path.suffix.lower()
    with written_whole(path) as aside:
        figure.savefig(aside, format=suffix[1:], dpi=300, metadata=metadata[suffix])

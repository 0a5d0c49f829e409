"""A picture for each axis of growth: time and peak memory, measured, with the slopes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from featstore.measurements import Growth, Report, slope
from featstore.probe.figures.style import COLUMN_WIDTH, GREY, PALETTE, STYLE
from featstore.probe.results.files import written_whole

NAMES = {
    "fractions": "fractions",
    "seeds": "seeds",
    "classes": "classes",
    "rows": "train rows",
    "features": "features",
}


def growth_figures(report: Report, folder: Path, axes: Sequence[str] | None = None) -> list[Path]:
    """Draw time and memory against each axis that was varied, or these; return the files, SVG.

    The same report gives the same bytes. The folder is made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for grown in report.growth:
        if axes is not None and grown.axis not in axes:
            continue
        path = folder / f"{report.stage}-{grown.axis}.svg"
        with rc_context(STYLE), written_whole(path) as aside:
            _figure(report.stage, grown).savefig(aside, format="svg", metadata={"Date": None})
        paths.append(path)
    return paths


def _figure(stage: str, grown: Growth) -> Figure:
    figure = Figure(figsize=(2 * COLUMN_WIDTH, 2.3), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _panel(left, grown.values, grown.seconds, PALETTE[0], "o", "seconds", grown.target)
    mebibytes = [held / 2**20 for held in grown.bytes]
    _panel(right, grown.values, mebibytes, PALETTE[1], "s", "peak MiB", None)
    for axes in (left, right):
        axes.set_xlabel(NAMES[grown.axis])
    probes = f"{min(grown.probes):,} to {max(grown.probes):,} probes"
    if len(set(grown.probes)) == 1:
        probes = f"{grown.probes[0]:,} probes"
    left.set_title(f"{stage}, {probes}", fontsize=6.5, color=GREY, loc="left")
    return figure


def _panel(axes: Axes, values, measured, colour: str, marker: str, what: str, target) -> None:
    """Draw measured points, the line of their slope, and one of the steepest slope wanted."""
    x, y = np.asarray(values, float), np.maximum(np.asarray(measured, float), 1e-3)
    power = slope(x, y)
    line = np.exp(np.log(y).mean() + power * (np.log(x) - np.log(x).mean()))
    axes.loglog(x, line, color=colour, lw=1.1, label=f"grows as {power:.2f}")
    axes.loglog(x, y, color=colour, marker=marker, ms=4, lw=0)
    if target is not None:
        wanted = y[0] * (x / x[0]) ** target
        axes.loglog(x, wanted, color=GREY, lw=0.8, ls=(0, (4, 3)), label=f"at most {target:g}")
    low, high = min(y.min(), line.min()), max(y.max(), line.max())
    if high < 4 * low:  # little change should look little
        axes.set_ylim(low / 2.5, high * 2.5)
    axes.xaxis.set_major_locator(FixedLocator(list(x)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.4g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(what)
    axes.spines["right"].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.35)
    axes.legend(frameon=False, loc="best", handlelength=1.6)

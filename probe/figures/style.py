"""How every picture looks and how it is saved: no global state, same table, same bytes."""

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from probe.errors import UsageError
from probe.files import written_whole

SUFFIXES = (".png", ".svg", ".pdf")
"""What a picture's file name may end in."""

COLUMN_WIDTH = 3.3
"""Inches: one column of a two-column page."""

# Okabe and Ito (2008), "Color Universal Design": told apart by every kind of colour vision. Their
# yellow is left out, which is hard to see on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p", "*")
DASHES = ("solid", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.2, 1.2)))
GREY = "#555555"
PALE = "#B8B8B8"

SMALL = 7
"""Points: the smallest text of a picture."""

STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": SMALL,
    "text.parse_math": False,  # a name with $ in it is a name
    "pdf.fonttype": 42,  # TrueType: text stays text, as publishers ask
    "svg.fonttype": "none",
    "svg.hashsalt": "featstore",
}

# without dates, the same table gives the same bytes
_UNDATED = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def styled() -> AbstractContextManager:
    """Return a context in which matplotlib draws in this style, whatever its settings are."""
    return style.context(["default", STYLE])


class ColumnFigure(Figure):
    """A figure that looks the same whoever draws or saves it, and shows itself in a notebook.

    matplotlib reads some of its settings only when it draws or saves, and pyplot, which notebooks
    show figures by, is never imported here.
    """

    def draw(self, renderer: Any) -> None:
        """Draw in this style."""
        with styled():
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save in this style, at 300 dpi where pixels are asked for."""
        with styled():
            super().savefig(fname, **{"dpi": 300, **options})

    def _repr_png_(self) -> bytes:
        written = io.BytesIO()
        self.savefig(written, format="png", dpi=150)
        return written.getvalue()


def blank(height: float, layout: str = "constrained") -> ColumnFigure:
    """Return an empty figure of a column's width and that many inches high."""
    figure = ColumnFigure(figsize=(COLUMN_WIDTH, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def look(number: int) -> dict[str, Any]:
    """Return colour, marker and dashes of one curve: 84 that differ, 12 of them without colour."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
    }


def check_suffix(path: str | Path) -> Path:
    """Return the path if a picture can be written under its name.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot draw {path.name}: {path.suffix or 'no suffix'} is not a picture format here; "
            f"use {', '.join(SUFFIXES)}"
        )
    return path


def saved(figure: ColumnFigure, path: str | Path | None, title: str) -> ColumnFigure:
    """Save a figure whole, if there is a path, with its title in the file, and return it."""
    if path is None:
        return figure
    path = check_suffix(path)
    suffix = path.suffix.lower()
    drawn = io.BytesIO()  # in memory, since writers of PDF fail twice where a disk is full
    figure.savefig(drawn, format=suffix[1:], metadata=_UNDATED[suffix] | {"Title": title})
    with written_whole(path) as aside:
        aside.write_bytes(drawn.getvalue())
    return figure

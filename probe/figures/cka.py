"""Similarity of subsets to the layer against the share of features kept."""

from pathlib import Path

import pandas as pd

from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import along_fraction, draw, fraction_axis, keys_in, value_axis
from probe.figures.labels import legend_above
from probe.figures.style import ColumnFigure, blank, saved, styled


def cka_against_fraction(table: pd.DataFrame, path: str | Path | None = None) -> ColumnFigure:
    """Draw linear CKA against the fraction of features kept: mean ± sample std over seeds.

    Arguments:
        table: the columns `fraction` and `cka`, a row for each seed (or pair of seeds); lines are
            told apart by those of `CURVE` that it has, and by `name`. `probe.sweep(cka=True)` and
            `probe.similarity.cka_table` give it.
        path: file to write, `.png`, `.svg` or `.pdf`; replaced only once the picture is whole.

    Raises:
        UsageError: the suffix is none of `SUFFIXES`.
    """
    keys = keys_in(table, "name")
    parts = curves_of(table, keys)
    shared, own = shared_and_own(parts, keys)
    with styled():
        figure = blank(2.4)
        axes = figure.add_subplot()
        lines = [draw(axes, along_fraction(rows, "cka", 1), n) for n, rows in enumerate(parts)]
        fraction_axis(axes, table["fraction"])
        value_axis(axes, "linear CKA")
        if len(parts) > 1:
            legend_above(figure, lines, own)
    return saved(figure, path, ", ".join(shared))

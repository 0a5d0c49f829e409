"""Similarity of subsets to the layer against the share of features kept."""

from pathlib import Path

import pandas as pd

from probe.curve_names import curves_of, shared_and_own
from probe.figures.curves import along_fraction, draw, fraction_axis, value_axis
from probe.figures.labels import legend_above
from probe.figures.style import ColumnFigure, blank, saved, styled

KEYS = ("store", "name", "tap", "mode")
"""Columns that tell lines apart."""

DRAWS = ("seed", "other_seed", "fraction", "k", "cka")


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
    table = table.drop_duplicates([each for each in (*KEYS, *DRAWS) if each in table])
    parts = curves_of(table, KEYS)
    shared, own = shared_and_own(parts, [key for key in KEYS if key in table])
    with styled():
        figure = blank(2.4)
        axes = figure.add_subplot()
        lines = [draw(axes, along_fraction(rows, "cka", 1), n) for n, rows in enumerate(parts)]
        fraction_axis(axes, table["fraction"])
        value_axis(axes, "linear CKA")
        if len(parts) > 1:
            legend_above(figure, lines, own)
    return saved(figure, path, ", ".join(shared))

"""Tables as text for a terminal, in Markdown and in HTML."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from featstore.probe.results.curves import Evidence, curve_table, over_of
from featstore.probe.results.names import CURVE, curves_of, score_of, shared_and_own
from featstore.probe.results.summaries import NAMES, percent, warnings

MOST_ROWS = 30
"""Fractions of a curve up to which all are shown."""

ROUND = [m * 10.0**e for e in range(-7, 0) for m in (1, 2, 5)] + [1.0]


@dataclass(frozen=True)
class Block:
    """The rows of one curve.

    Attributes:
        name: what sets the curve apart from the others; empty where there is no other.
        rows: for each fraction, a cell for each heading.
    """

    name: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Printed:
    """A sweep as text.

    Attributes:
        store: what was probed, where all curves have one store, else empty.
        shared: what else all curves have in common.
        headings: of the columns.
        blocks: a curve each. Where modes alone differ, all end in the same whole layer, which
            then comes once, as a block without a name.
        notes: lines to stand below.
    """

    store: str
    shared: str
    headings: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


def printed(table: pd.DataFrame, correct: Evidence = None, level: float = 0.95) -> Printed:
    """Return the mean accuracy with its interval, and its share of the full layer's, as text.

    Of a curve of more than `MOST_ROWS` fractions those nearest to 1, 2, 5, 10 ... per cent are
    shown.

    Arguments:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.
        correct: which test rows each probe has right, as `ProbeResult.correct` says.
        level: coverage of each interval.

    Example:
        >>> row = {"store": "s", "tap": "t", "solver": "ridge", "l2": 1e-3, "seed": 1}
        >>> row |= {"n_test": 90, "chance": 0.1, "majority": 0.12}
        >>> probes = [("pca", 0.1, 2, 0.6), ("pca", 1.0, 20, 0.8), ("random", 0.1, 2, 0.4),
        ...           ("random", 1.0, 20, 0.8)]
        >>> keys = ["mode", "fraction", "k", "accuracy"]
        >>> table = pd.DataFrame([row | dict(zip(keys, p, strict=True)) for p in probes])
        >>> shown = printed(table)
        >>> shown.shared, [block.name for block in shown.blocks]
        ('t, ridge, l2 = 0.001', ['pca', 'random', ''])
        >>> shown.blocks[0].rows
        (('10 %', '2', '0.600', '75.0 %', '1'),)
        >>> shown.notes
        ('without features: chance 0.100, commonest class 0.120 of 90 test rows',)
    """
    every = curve_table(table, correct, level)
    curves = curves_of(every)
    keys = [key for key in CURVE if key != "store" or curves[0]["store"].iloc[0]]
    shared, own = shared_and_own(curves, keys)
    one_store = len({curve["store"].iloc[0] for curve in curves}) == 1 and "store" in keys
    store = shared.pop(0) if one_store else ""
    score = score_of(table)
    headings = ("fraction", "features", f"test {NAMES[score]}", "of the full layer", "probes")
    blocks = [Block(name, _rows(curve, score)) for name, curve in zip(own, curves, strict=True)]
    if _same_whole(curves, score):
        whole = Block("", tuple(_cells(row, score) for row in curves[0].tail(1).itertuples()))
        blocks = [*(replace(block, rows=block.rows[:-1]) for block in blocks), whole]
    blocks = tuple(block for block in blocks if block.rows)
    notes = tuple(_notes(table, every, level))
    return Printed(store, ", ".join(shared), headings, blocks, notes)


def _rows(curve: pd.DataFrame, score: str) -> tuple[tuple[str, ...], ...]:
    return tuple(_cells(row, score) for row in some_fractions(curve).itertuples())


def _cells(row: Any, score: str) -> tuple[str, ...]:
    low, high = getattr(row, f"{score}_low"), getattr(row, f"{score}_high")
    full = row.fraction == 1 and row.ratio == 1
    of_ratio = (math.nan, math.nan) if full else (100 * row.ratio_low, 100 * row.ratio_high)
    return (
        percent(row.fraction),
        f"{row.k:,}",
        between(getattr(row, score), low, high, 3),
        "-" if math.isnan(row.ratio) else between(100 * row.ratio, *of_ratio, 1, " %"),
        str(row.probes),
    )


def between(value: float, low: float, high: float, digits: int, unit: str = "") -> str:
    """Write a value with its interval in a table; the value alone where there is none.

    >>> between(0.5812, 0.57, 0.592, 3), between(86.1, math.nan, 90.0, 1, " %")
    ('0.581 [0.570, 0.592]', '86.1 %')
    """
    if math.isnan(value):
        return "-"
    known = not (math.isnan(low) or math.isnan(high))
    ends = f" [{low:.{digits}f}, {high:.{digits}f}]" if known else ""
    return f"{value:.{digits}f}{unit}{ends}"


def _notes(table: pd.DataFrame, rows: pd.DataFrame, level: float) -> Iterator[str]:
    """Yield what is to be known of the numbers: what intervals are over, what needs no feature."""
    over = over_of(rows)
    if over:
        yield f"[low, high]: {percent(level)} intervals over {over}"
    yield from without_features(table)


def without_features(table: pd.DataFrame) -> Iterator[str]:
    """Yield what is reached without any feature, where it is the same for all probes."""
    without = table[[n for n in ("chance", "majority", "n_test") if n in table]].drop_duplicates()
    without = without.dropna()
    if len(without) == 1 and without.shape[1] == 3:
        one = without.iloc[0]
        yield (
            f"without features: chance {one.chance:.3f}, commonest class {one.majority:.3f} of "
            f"{int(one.n_test):,} test rows"
        )


def some_fractions(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the rows to show: all, or those nearest to round fractions."""
    if len(curve) <= MOST_ROWS:
        return curve
    logs = np.log(curve["fraction"].to_numpy(np.float64))
    wanted = [np.log(f) for f in ROUND if np.log(f) >= logs[0]]
    return curve.iloc[sorted({int(np.abs(logs - f).argmin()) for f in wanted})]


def _same_whole(curves: list[pd.DataFrame], score: str) -> bool:
    """Whether several curves differ in their modes alone and end in one whole layer."""
    others = [key for key in CURVE if key != "mode"]
    firsts = pd.concat([curve[others].head(1) for curve in curves])
    ends = pd.concat([curve.tail(1) for curve in curves])
    # means of one number by how many seeds may differ in their last bit
    whole = ends[["fraction", "k", score]].round({score: 12}).drop_duplicates()
    alike = len(curves) > 1 and len(firsts.drop_duplicates()) == len(whole) == 1
    return bool(alike and whole["fraction"].iloc[0] == 1)


RIGHT, LEFT = ' style="text-align: right"', ' style="text-align: left"'


def html_table(headings: Sequence[str], blocks: Iterable[Block], caption: str = "") -> str:
    """Return a table as HTML, every text escaped, all but names to the right.

    Arguments:
        headings: of the columns.
        blocks: rows of cells, each block below its name.
        caption: above the table.

    Example:
        >>> html_table(["a"], [Block("x < y", (("1",),))], "b")[:59]
        '<table><caption style="text-align: left">b</caption><thead>'
    """
    above = f"<caption{LEFT}>{escape(caption)}</caption>" if caption else ""
    head = "".join(f'<th scope="col"{RIGHT}>{escape(text)}</th>' for text in headings)
    bodies = "".join(_body(block, len(headings)) for block in blocks)
    return f"<table>{above}<thead><tr>{head}</tr></thead>{bodies}</table>"


def _body(block: Block, columns: int) -> str:
    name = f'<tr><th colspan="{columns}"{LEFT}>{escape(block.name)}</th></tr>'
    rows = "".join(
        "<tr>" + "".join(f"<td{RIGHT}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in block.rows
    )
    return f"<tbody>{name if block.name else ''}{rows}</tbody>"


def sweep_as_html(table: pd.DataFrame, correct: Evidence = None) -> str:
    """Return a sweep as HTML: a row for each fraction of each curve, and what did not go as usual.

    Arguments:
        table: one row a probe. Without scores, as `probe.fit` gives it, it is shown as it is.
        correct: which test rows each probe has right, as `ProbeResult.correct` says.
    """
    if score_of(table) not in table or not len(table):
        return table.to_html(max_rows=20, border=0)
    shown = printed(table, correct)
    facts = [shown.store, shown.shared, *_rows_of(table)]
    lines = "".join(f"<p>{escape(note)}</p>" for note in shown.notes)
    lines += "".join(f"<p>Warning: {escape(line)}</p>" for line in warnings(table))
    return html_table(shown.headings, shown.blocks, ", ".join(filter(None, facts))) + lines


def _rows_of(table: pd.DataFrame) -> list[str]:
    """Say how many rows the probes were solved and scored on, where it is the same for all."""
    found = []
    for split in ("train", "test"):
        known = table[f"n_{split}"].dropna().unique() if f"n_{split}" in table else []
        if len(known) == 1:
            found.append(f"{int(known[0]):,} {split} rows")
    return found

"""A sweep as cells of text, one block a curve: what terminals and notebooks lay out."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from probe.curve_names import curves_of, shared_and_own
from probe.summaries import CURVE, NAMES, percent, plus_minus, score_of, summary

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
    """

    store: str
    shared: str
    headings: tuple[str, ...]
    blocks: tuple[Block, ...]


def printed(table: pd.DataFrame) -> Printed:
    """Return mean ± sample std of the accuracy, and of its share of the full layer's, as text.

    Of a curve of more than `MOST_ROWS` fractions those nearest to 1, 2, 5, 10 ... per cent are
    shown.

    Arguments:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.

    Example:
        >>> row = {"store": "s", "tap": "t", "solver": "ridge", "l2": 1e-3, "seed": 1}
        >>> probes = [("pca", 0.1, 2, 0.6), ("pca", 1.0, 20, 0.8), ("random", 0.1, 2, 0.4),
        ...           ("random", 1.0, 20, 0.8)]
        >>> keys = ["mode", "fraction", "k", "accuracy"]
        >>> table = pd.DataFrame([row | dict(zip(keys, p, strict=True)) for p in probes])
        >>> shown = printed(table)
        >>> shown.shared, [block.name for block in shown.blocks]
        ('t, ridge, l2 = 0.001', ['pca', 'random', ''])
        >>> shown.blocks[0].rows
        (('10 %', '2', '0.600', '75.0 %', '1'),)
    """
    curves = curves_of(summary(table))
    keys = [key for key in CURVE if key != "store" or curves[0]["store"].iloc[0]]
    shared, own = shared_and_own(curves, keys)
    one_store = len({curve["store"].iloc[0] for curve in curves}) == 1 and "store" in keys
    store = shared.pop(0) if one_store else ""
    score = score_of(table)
    headings = ("fraction", "features", f"test {NAMES[score]}", "of the full layer", "probes")
    blocks = [Block(name, _rows(curve, score)) for name, curve in zip(own, curves, strict=True)]
    if _same_whole(curves, score):
        blocks = [replace(block, rows=block.rows[:-1]) for block in blocks]
        whole = curves[0].iloc[-1]
        cells = (percent(1), f"{whole.k:,}", plus_minus(whole[score], np.nan, 3), "100.0 %", "")
        blocks.append(Block("", (cells,)))
    return Printed(store, ", ".join(shared), headings, tuple(b for b in blocks if b.rows))


def _rows(curve: pd.DataFrame, score: str) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            percent(row.fraction),
            f"{row.k:,}",
            plus_minus(getattr(row, score), getattr(row, f"{score}_std"), 3),
            plus_minus(100 * row.ratio, 100 * row.ratio_std, 1) + " %",
            str(row.probes),
        )
        for row in some_fractions(curve).itertuples()
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

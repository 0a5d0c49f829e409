"""What an analysis says, in a sentence: one a curve, for a person who reads nothing else."""

import math
from collections.abc import Iterator

import pandas as pd

from probe.curve_names import curves_of, shared_and_own
from probe.summaries import percent

READ = {
    "threshold": "{fraction} is the smallest fraction probed that keeps {delta} of {full}",
    "interpolated": "{delta} of {full} is reached at {fraction} of the features, between the "
    "fractions probed",
    "nearest": "of the fractions probed, {fraction} keeps a share nearest {delta} of {full}",
}


def of_redundancy(table: pd.DataFrame, level: float, over: str, score: str = "accuracy") -> str:
    """Say what the first rule reads off each curve at the first delta.

    Arguments:
        table: as `probe.redundancy.diffused_redundancy` gives it.
        level: coverage of its intervals.
        over: what was drawn again for them, as "seeds".
        score: what the full layer is measured by.
    """
    return "\n".join(
        f"{name}{_redundancy(curve.iloc[0], level, over, score)}" for name, curve in named(table)
    )


def _redundancy(row: pd.Series, level: float, over: str, score: str) -> str:
    if math.isnan(row.redundancy):
        return (
            "The full layer was not probed, or is right about nothing: no fraction can be held "
            "against it."
        )
    told = READ[row.rule].format(
        fraction=percent(row.fraction), delta=percent(row.delta), full=f"the full layer's {score}"
    )
    seeds = "1 seed" if row.seeds == 1 else f"{row.seeds} seeds"
    spread = (
        f"no interval, {seeds}"
        if math.isnan(row.low)
        else f"{percent(level)} interval over {over} {row.low:.3f} to {row.high:.3f}, {seeds}"
    )
    sentence = f"{told}: DR({row.delta:g}) = {row.redundancy:.3f} ({spread})."
    return sentence[0].upper() + sentence[1:]


def named(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield what sets each curve of a table apart, as `random: ` or nothing for one, and its rows.

    >>> rows = pd.DataFrame({"mode": ["random", "pca", "random"], "k": [1, 2, 3]})
    >>> [(name, part["k"].tolist()) for name, part in named(rows)]
    [('random: ', [1, 3]), ('pca: ', [2])]
    """
    curves = curves_of(table)
    for own, curve in zip(shared_and_own(curves)[1], curves, strict=True):
        yield (f"{own}: " if own else ""), curve

"""A sweep in the numbers a paper prints: mean, spread over seeds, share of the full layer."""

import math

import numpy as np
import pandas as pd

from probe import statuses
from probe.curve_names import (
    CURVE,
    as_curves,
    curves_of,
    penalty,
    score_of,
    shared_and_own,
)

NAMES = {"accuracy": "accuracy", "r2": "R²"}
"""What a person calls the score of a table."""


MARGIN = 0.005
"""By how much the best of many sizes may beat the whole layer by chance, in accuracy."""


def with_ratio(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column `ratio`: each probe's accuracy over its own seed's full layer.

    Where numbers are predicted, R^2 stands for accuracy, here and below.

    Args:
        table: one row a probe, as `ProbeResult.to_pandas` gives it, with the columns `CURVE`,
            `seed`, `fraction`, `k`, `accuracy` (in [0, 1]).

    Returns:
        A copy with `ratio` float64; NaN where that seed has no row of fraction 1.
    """
    table = as_curves(table)
    score = score_of(table)
    full = table.loc[table["fraction"] == 1, [*CURVE, "seed", score]]
    full = full.drop_duplicates([*CURVE, "seed"]).rename(columns={score: "full"})
    joined = table.merge(full, on=[*CURVE, "seed"], how="left", validate="many_to_one")
    return joined.assign(ratio=joined[score] / joined["full"]).drop(columns="full")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Condense one row a probe into one row a fraction.

    The spread is the sample standard deviation over seeds, sqrt(sum((a - mean)^2) / (n - 1)), and
    NaN for a single seed.

    Args:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.

    Returns:
        The columns `CURVE`, `fraction`, `k`, `probes` (how many seeds stand behind the row),
        `accuracy`, `accuracy_std` (or `r2`, `r2_std`), `ratio`, `ratio_std`; curves in the order in
        which the table first has them, fractions rising.

    >>> row = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 1e-3}
    >>> probes = [(1, 0.1, 2, 0.6), (2, 0.1, 2, 0.7), (1, 1.0, 20, 0.8), (2, 1.0, 20, 0.8)]
    >>> keys = ["seed", "fraction", "k", "accuracy"]
    >>> table = pd.DataFrame([row | dict(zip(keys, p, strict=True)) for p in probes])
    >>> summary(table)[["fraction", "probes", "accuracy", "accuracy_std", "ratio"]].round(4)
       fraction  probes  accuracy  accuracy_std   ratio
    0       0.1       2      0.65        0.0707  0.8125
    1       1.0       2      0.80        0.0000  1.0000
    """
    rows = with_ratio(table)
    rows = rows.assign(curve=rows.groupby(CURVE, dropna=False, sort=False).ngroup())
    groups = rows.groupby(["curve", *CURVE, "fraction", "k"], dropna=False, sort=True)
    score = score_of(table)
    columns = {
        "probes": (score, "count"),
        score: (score, "mean"),
        f"{score}_std": (score, "std"),
        "ratio": ("ratio", "mean"),
        "ratio_std": ("ratio", "std"),
    }
    numbers = groups.agg(**columns).reset_index().drop(columns="curve")
    # a table that was read has NA, which is no number, for what is not known
    return numbers.astype(dict.fromkeys([score, f"{score}_std", "ratio", "ratio_std"], "float64"))


def percent(fraction: float) -> str:
    """Write a fraction the way a person reads it: `0.05` as `5 %`, `0.0005` as `0.05 %`.

    >>> [percent(f) for f in (0.0005, 0.025, 0.1, 1.0)]
    ['0.05 %', '2.5 %', '10 %', '100 %']
    """
    return f"{100 * fraction:.4g} %"


def plus_minus(mean: float, std: float, digits: int) -> str:
    """Write mean ± std; the mean alone where one seed gives no spread.

    >>> plus_minus(0.8612, 0.0041, 3), plus_minus(90.42, float("nan"), 1)
    ('0.861 ± 0.004', '90.4')
    """
    spread = "" if math.isnan(std) else f" ± {std:.{digits}f}"
    return f"{mean:.{digits}f}{spread}"


def sentence(table: pd.DataFrame, fraction: float = 0.1) -> str:
    """Say how much of the full accuracy a fraction of the features keeps.

    Args:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.
        fraction: which one to speak of; the nearest below 1 that was probed is taken.

    Returns:
        One sentence a curve, beginning with what sets it apart, joined by line feeds.
    """
    named = _named_curves(table)
    return "\n".join(name + _sentence(curve, fraction) for name, curve in named)


def _named_curves(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return (name, summary) of each curve: `pca: `, say, or nothing where there is one curve."""
    curves = curves_of(summary(table))
    names = [f"{own}: " if own else "" for own in shared_and_own(curves)[1]]
    return list(zip(names, curves, strict=True))


def _sentence(curve: pd.DataFrame, fraction: float) -> str:
    score, name = score_of(curve), NAMES[score_of(curve)]
    full, parts = curve[curve["fraction"] == 1], curve[curve["fraction"] < 1]
    if full.empty or parts.empty:
        largest = curve.iloc[-1]
        return f"{largest.k} features reach an {name} of {largest[score]:.3f}."
    near = parts.loc[(parts["fraction"] - fraction).abs().idxmin()]
    kept = plus_minus(100 * near.ratio, 100 * near.ratio_std, 1)
    seeds = "1 seed" if near.probes == 1 else f"{near.probes} seeds"
    how = penalty(near.l2_choice, near.l2)
    return (
        f"{percent(near.fraction)} of the features keep {kept} % of the full layer's {name} "
        f"({near[score]:.3f} of {full.iloc[0][score]:.3f}; {seeds}, {how})."
    )


def warnings(table: pd.DataFrame) -> list[str]:
    """Name what did not go as usual, one line each.

    That is each status other than a solved probe's; penalties chosen at the end of what was tried;
    and each curve whose full layer is beaten by a part of it by more than the spread over seeds and
    by more than `MARGIN`: a sign that its penalty is too small.

    Args:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.
    """
    beaten = [name + line for name, curve in _named_curves(table) for line in _beaten(curve)]
    return _unusual_statuses(table.reset_index(drop=True)) + _at_the_end(table) + beaten


def _unusual_statuses(table: pd.DataFrame) -> list[str]:
    kinds = table["status"].map(lambda status: "+".join(statuses.kinds(status)))
    lines = []
    for kind, rows in table[~kinds.isin(statuses.SOLVED)].groupby(kinds, sort=False):
        first = rows.iloc[0]
        lines.append(
            f"{len(rows)} of {len(table)} probes have status {kind}, the first at fraction "
            f"{first.fraction:g}, seed {first.seed}, l2 {first.l2:g}"
        )
    return lines


def _at_the_end(table: pd.DataFrame) -> list[str]:
    if "l2_place" not in table:
        return []
    counts = table["l2_place"].value_counts()
    return [
        f"{counts[place]} of {len(table)} probes chose the {place} penalty tried: "
        f"try {further} ones"
        for place, further in (("lowest", "smaller"), ("highest", "larger"))
        if counts.get(place, 0)
    ]


def _beaten(curve: pd.DataFrame) -> list[str]:
    score = score_of(curve)
    full = curve.loc[curve["fraction"] == 1, score]
    best = curve.loc[curve[score].idxmax()] if curve[score].notna().any() else None
    if full.empty or best is None or best["l2_choice"] != "given":
        return []
    if not best[score] - max(MARGIN, np.nan_to_num(best[f"{score}_std"])) > full.iloc[0]:
        return []
    return [
        f"{percent(best['fraction'])} of the features are more accurate than all of them "
        f"({best[score]:.3f} against {full.iloc[0]:.3f}) at l2 = {best['l2']:g}: "
        "that penalty is likely too small, try larger ones"
    ]

"""A sweep in the numbers a paper prints: mean, spread over seeds, share of the full layer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from featstore.probe import statuses
from featstore.probe.results.curves import (
    Curve,
    Difference,
    curve_table,
    curves,
    difference,
)
from featstore.probe.results.names import (
    Evidence,
    Probes,
    as_curves,
    called,
    curves_of,
    shared_and_own,
    table_of,
)

NAMES = {"accuracy": "accuracy", "r2": "R²"}
"""Names of scores, as a person calls them."""


MARGIN = 0.005
"""By how much the best of many sizes may beat the whole layer by chance, in accuracy."""


def with_ratio(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column `ratio`: each probe's accuracy over its own seed's full layer.

    Where numbers are predicted, R^2 stands for accuracy, here and below.

    Args:
        table: one row a probe, as `ProbeResult.to_pandas` gives it, with the columns `CURVE`,
            `seed`, `fraction`, `k`, `accuracy` (in [0, 1]).

    Returns:
        A copy of the probes that were run with `ratio` float64; NaN where that seed has no row of
        fraction 1, or where the full layer is within noise of what takes no feature.
    """
    table = as_curves(table).reset_index(drop=True)
    ratio = np.full(len(table), np.nan)
    for curve in curves(table):
        known = curve.places >= 0
        ratio[curve.places[known]] = curve.ratios()[known]
    return table.assign(ratio=ratio)


def summary(table: Probes, correct: Evidence = None, level: float = 0.95) -> pd.DataFrame:
    """Condense one row a probe into one row a fraction: mean, spread over seeds, interval.

    Args:
        table: a `ProbeResult`, or one row a probe, as `to_pandas` gives it.
        correct: which test rows each probe has right, by default the result's own: intervals are
            then over test rows too.
        level: coverage of each interval.

    Returns:
        The columns of `featstore.probe.results.curves.curve_table`: `CURVE`, `fraction`, `k`,
        `probes` (how many stand
        behind the row: the full layer, which no seed changes, is one), and of accuracy (or R^2) and
        of the ratio the mean, `_std` (sample, over seeds), `_low` and `_high`; curves in the order
        in which the table first has them, fractions rising.

    >>> row = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 1e-3}
    >>> probes = [(1, 0.1, 2, 0.6), (2, 0.1, 2, 0.7), (1, 1.0, 20, 0.8), (2, 1.0, 20, 0.8)]
    >>> keys = ["seed", "fraction", "k", "accuracy"]
    >>> table = pd.DataFrame([row | dict(zip(keys, p, strict=True)) for p in probes])
    >>> summary(table)[["fraction", "probes", "accuracy", "accuracy_std", "ratio"]].round(4)
       fraction  probes  accuracy  accuracy_std   ratio
    0       0.1       2      0.65        0.0707  0.8125
    1       1.0       1      0.80           NaN  1.0000
    """
    return curve_table(table, correct, level)


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


@dataclass(frozen=True)
class Answer:
    """Answer of a curve, for a person who reads nothing else.

    Attributes:
        name: what sets the curve apart, as `pca: `; empty where there is one curve.
        text: how much of the full layer's score a part keeps, or why that is not told.
        remarks: what stands against it, a sentence each.
    """

    name: str
    text: str
    remarks: tuple[str, ...] = ()


def sentence(
    table: Probes, fraction: float = 0.1, correct: Evidence = None, level: float = 0.95
) -> str:
    """Say how much of the full accuracy a fraction of the features keeps, and how surely.

    Args:
        table: a `ProbeResult`, or one row a probe, as `to_pandas` gives it.
        fraction: which one to speak of; the nearest below 1 that was probed is taken.
        correct: which test rows each probe has right, by default the result's own.
        level: coverage of the intervals.

    Returns:
        A line a curve, beginning with what sets it apart: the answer, and what stands against it.
    """
    return "\n".join(
        each.name + " ".join((each.text, *each.remarks))
        for each in answers(table, fraction, correct, level)
    )


def answers(
    table: Probes, fraction: float = 0.1, correct: Evidence = None, level: float = 0.95
) -> list[Answer]:
    """Return the answer of each curve; arguments as of `sentence`."""
    table, correct = table_of(table, correct)
    found, parts = curves(table, correct), curves_of(curve_table(table, correct, level))
    names = [f"{own}: " if own else "" for own in shared_and_own(parts)[1]]
    return [
        Answer(name, _text(curve, part, fraction, level), tuple(_remarks(curve, table, level)))
        for name, curve, part in zip(names, found, parts, strict=True)
    ]


def _text(curve: Curve, rows: pd.DataFrame, fraction: float, level: float) -> str:
    """Say what the rows of `curve_table` of a curve say at the fraction nearest to one."""
    score, name = curve.score, NAMES[curve.score]
    full, parts = rows[rows["fraction"] == 1], rows[rows["fraction"] < 1]
    known, parts = rows[rows[score].notna()], parts[parts[score].notna()]
    if known.empty:
        return "No probe of these results has a score."
    if full.empty or parts.empty:
        largest = known.iloc[-1]
        value = _with_interval(largest[score], largest[f"{score}_low"], largest[f"{score}_high"], 3)
        return f"{largest.k} features reach an {name} of {value}."
    whole = full.iloc[0][score]
    if not curve.above_floor:
        return _no_share(curve, whole)
    near = parts.loc[(parts["fraction"] - fraction).abs().idxmin()]
    beaten = _beaten_by(curve)
    if beaten is not None:
        return _of_the_best(curve, near, whole, beaten[0], level)
    kept = _with_interval(100 * near.ratio, 100 * near.ratio_low, 100 * near.ratio_high, 1, " %")
    part = _with_interval(near[score], near[f"{score}_low"], near[f"{score}_high"], 3)
    return (
        f"{percent(near.fraction)} of the features keep {kept} of the full layer's {name}, {part} "
        f"of {whole:.3f}, {_how(curve)} ({_behind(curve, near, level)})."
    )


def _of_the_best(curve: Curve, near: pd.Series, whole: float, best: int, level: float) -> str:
    """Say what a part reaches where the full layer is beaten by another part, or by this one.

    A share of the full layer would then read as if that were at its best; it is of the best part.
    """
    score, name = curve.score, NAMES[curve.score]
    part = _with_interval(near[score], near[f"{score}_low"], near[f"{score}_high"], 3)
    share = ""
    place = int(np.flatnonzero(curve.fractions == near.fraction)[0])
    if place != best:
        pair = curve.pair(place, best)
        (kept, _), (low, high, _) = pair.ratio(), pair.ratio_interval(level)
        kept = _with_interval(100 * kept, 100 * low[0], 100 * high[0], 1, " %")
        share = f", {kept} of the {curve.mean()[best]:.3f} of {percent(curve.fractions[best])}"
    return (
        f"{percent(near.fraction)} of the features reach an {name} of {part}{share}, and the full "
        f"layer {whole:.3f}, {_how(curve)} ({_behind(curve, near, level)})."
    )


def _no_share(curve: Curve, whole: float) -> str:
    """Say why no share of a full layer is told."""
    name = NAMES[curve.score]
    if math.isnan(whole):
        return f"The full layer has no {name}: no share of it can be told ({_how(curve)})."
    if curve.score != "accuracy":
        return (
            f"The full layer's {name}, {whole:.3f}, is not above 0 by more than noise: no share of "
            f"it is told ({_how(curve)})."
        )
    return (
        f"The full layer's accuracy, {whole:.3f}, is within noise of what is reached without any "
        f"feature, {curve.floor:.3f} of {curve.n_test:,} test rows: no share of it is told "
        f"({_how(curve)})."
    )


def _how(curve: Curve) -> str:
    """Name solver, penalty and, if not at random, how features were chosen."""
    names = curve.names
    choice, l2 = str(names["l2_choice"]), float(names["l2"])
    name = called(str(names["solver"]), l2)
    how = f"{name} = {l2:g}" if choice == "given" else f"{name} {CHOSEN.get(choice, choice)}"
    mode = [] if names["mode"] == "random" else [f"mode {names['mode']}"]
    return ", ".join([str(names["solver"]), how, *mode])


CHOSEN = {"validation": "chosen on train rows", "loo": "chosen by leave-one-out"}
"""Names of the ways in which a penalty was chosen."""


def _behind(curve: Curve, near: pd.Series, level: float) -> str:
    """Say what stands behind a number: seeds, test rows, and what its interval is over."""
    seeds = f"{near.probes} seed{'' if near.probes == 1 else 's'}"
    if all(pd.isna(seed) for seed in curve.seeds):
        seeds = "" if curve.n_test else "no seeds"  # nothing was drawn
    rows = f"{curve.n_test:,} test rows" if curve.n_test else ""
    counts = ", ".join(filter(None, [seeds, rows]))
    if not near.over:
        return f"{counts}; no interval"
    alone = "" if near.over == "seeds and test rows" else f" over {near.over} alone"
    return f"{counts}; {percent(level)} interval{alone}"


def _with_interval(value: float, low: float, high: float, digits: int, unit: str = "") -> str:
    """Write a value and its interval, if it is known.

    >>> _with_interval(86.11, 84.9, 87.3, 1, " %"), _with_interval(0.5, math.nan, 1.0, 3)
    ('86.1 % (84.9 to 87.3)', '0.500')
    """
    known = not (math.isnan(low) or math.isnan(high))
    ends = f" ({low:.{digits}f} to {high:.{digits}f})" if known else ""
    return f"{value:.{digits}f}{unit}{ends}"


def _remarks(curve: Curve, table: pd.DataFrame, level: float) -> Iterator[str]:
    """Yield what stands against the answer of a curve."""
    if curve.above_floor:
        yield from _beaten(curve, level)
        yield from _at_an_end(curve, table)
    yield from _left_out(curve, table)


def _beaten_by(curve: Curve) -> tuple[int, Difference] | None:
    """Return the place of the best part and by how much it beats the full layer beyond noise.

    Noise is two standard errors of the difference, where it is known, and `MARGIN`; test rows are
    paired. None if no part does.
    """
    whole, mean = curve.whole, curve.mean()
    if whole is None or not np.isfinite(mean[:whole]).any() or np.isnan(mean[whole]):
        return None
    best = int(np.nanargmax(mean[:whole]))
    gap = difference(curve, curve, best, whole)
    return (best, gap) if gap.value - max(MARGIN, 2 * np.nan_to_num(gap.error)) > 0 else None


def _beaten(curve: Curve, level: float) -> Iterator[str]:
    """Say that a part beats the full layer by more than noise: it is then no measure."""
    beaten = _beaten_by(curve)
    if beaten is None:
        return
    best, gap = beaten
    part = f"{percent(curve.fractions[best])} of the features"
    if curve.names["l2_choice"] == "given":
        solver, l2 = curve.names["solver"], curve.names["l2"]
        name = called(solver, l2)
        remedy = f"take --{name} auto" if solver in ("sgd", "knn") else "leave --l2 out"
        yield (
            f"The full layer is overfitted at {name} = {l2:g} ({part} reach "
            f"{curve.mean()[best]:.3f}): a ratio to it is too high; {remedy}."
        )
        return
    yield (
        f"The full layer is beaten by {part} by {_gap(curve, gap, level)}: more features make this "
        "probe worse here; read ratios against the best fraction."
    )


def _gap(curve: Curve, gap: Difference, level: float) -> str:
    """Write a difference that is beyond noise, with its interval.

    Student's quantile of two or three seeds can reach 0 where two standard errors do not: it is
    the standard error that is then written.
    """
    low, high = gap.interval(level)
    unit, digits, points = (100, 1, " points") if curve.score == "accuracy" else (1, 3, "")
    found = f"{unit * gap.value:.{digits}f}{points}"
    if low > 0:
        return f"{found} ({unit * low:.{digits}f} to {unit * high:.{digits}f})"
    known = not math.isnan(gap.error)
    return f"{found} (standard error {unit * gap.error:.{digits}f})" if known else found


def _at_an_end(curve: Curve, table: pd.DataFrame) -> Iterator[str]:
    """Say that the full layer's penalty is the smallest or largest of those that were tried."""
    if curve.whole is None or "l2_place" not in table:
        return
    places = curve.places[:, curve.whole]
    rows = table.iloc[places[places >= 0]]
    for place, extreme, further in (
        ("lowest", "smallest", "smaller"),
        ("highest", "largest", "larger"),
    ):
        at = rows[rows["l2_place"] == place]
        if len(at):
            yield (
                f"The full layer's {called(curve.names['solver'])}, {at['l2'].iloc[0]:g}, is the "
                f"{extreme} that was tried: the ratio may be off; try {further} ones."
            )


def _left_out(curve: Curve, table: pd.DataFrame) -> Iterator[str]:
    """Count the probes that did not converge, and those that failed and are left out."""
    if "status" not in table:
        return
    places = curve.places[curve.places >= 0]
    if curve.one_full:
        whole = curve.places[:, curve.whole]
        places = np.setdiff1d(places, whole[whole >= 0][1:])
    rows = table.iloc[places]
    kinds = rows["status"].astype(str).map(lambda status: statuses.kinds(status)[0])
    odd = ~kinds.isin((*statuses.SOLVED, statuses.JITTER))
    scored = rows[curve.score].notna()
    for which, what in ((odd & scored, "did not converge"), (~scored, "failed and are left out")):
        count = int(which.sum())
        if count:
            named = ", ".join(dict.fromkeys(kinds[which]))
            yield f"{count} of {len(rows)} probes {what} ({named})."


def warnings(table: pd.DataFrame) -> list[str]:
    """Name what did not go as usual, one line each.

    That is each status other than a solved probe's, and penalties chosen at the end of what was
    tried; what it means for the answer is said in `sentence`.

    Args:
        table: one row a probe, as `ProbeResult.to_pandas` gives it.
    """
    return _unusual_statuses(table.reset_index(drop=True)) + _at_the_end(table)


def _unusual_statuses(table: pd.DataFrame) -> list[str]:
    kinds = table["status"].map(lambda status: "+".join(statuses.kinds(status)))
    lines = []
    for kind, rows in table[~kinds.isin(statuses.SOLVED)].groupby(kinds, sort=False):
        first = rows.iloc[0]
        lines.append(
            f"{len(rows)} of {len(table)} probes have status {kind}, the first at fraction "
            f"{first.fraction:g}, seed {first.seed}, {called(first.get('solver', ''), first.l2)} "
            f"{first.l2:g}"
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

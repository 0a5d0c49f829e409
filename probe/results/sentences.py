"""Sentences about results, each with its interval and its count."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from featstore.probe import statuses
from featstore.probe.results import (
    CURVE,
    Evidence,
    Probes,
    called,
    curves_of,
    percent,
    plus_minus,
    score_name,
    shared_and_own,
    table_of,
)
from featstore.probe.results.curves import Curve, Difference, curve_table, curves, difference
from featstore.probe.statuses import Status

_FAR = 0.05
"""By how much a share has to shrink, once corrected for chance, for a sentence to say so."""

_MARGIN = 0.005
"""By how much the best of many sizes may beat the whole layer by chance, in accuracy."""


@dataclass(frozen=True)
class Answer:
    """Answer of a curve, for a person who reads nothing else.

    Attributes:
        name: what sets the curve apart, as `pca: `; empty where there is one curve.
        told: how much of the full layer's score a part keeps, or why that is not told.
        how: solver, penalty and mode; "" where nothing is told of a full layer.
        behind: seeds, test rows, and what the interval is over; "" where there is no number.
        remarks: what stands against it, a sentence each.
    """

    name: str
    told: str
    how: str = ""
    behind: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The answer as a sentence that stands by itself."""
        if self.behind:
            return f"{self.told}, {self.how} ({self.behind})."
        return f"{self.told} ({self.how})." if self.how else f"{self.told}."


_MOST_WHOLE = 3
"""Curves up to which each has a sentence that stands by itself."""


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
        Of more than three, what stands behind most of them is said once, in a last line.
    """
    found = answers(table, fraction, correct, level)
    if len(found) <= _MOST_WHOLE:
        return "\n".join(each.name + " ".join((each.text, *each.remarks)) for each in found)
    behind = Counter(each.behind for each in found if each.behind)
    usual = behind.most_common(1)[0][0] if behind else ""
    own = [f" ({each.behind})" * (each.behind not in ("", usual)) for each in found]
    lines = [
        each.name + " ".join((f"{each.told}{apart}.", *each.remarks))
        for each, apart in zip(found, own, strict=True)
    ]
    if usual:
        ways = {each.how for each in found if each.how}
        ways = ways if len(ways) == 1 else {way.partition(",")[0] for way in ways}
        shared = ", ".join([*(ways if len(ways) == 1 else ()), usual])
        otherwise = ", unless it is said otherwise" if len(behind) > 1 else ""
        lines.append(f"Behind each of these numbers{otherwise}: {shared}.")
    return "\n".join(lines)


def answers(
    table: Probes, fraction: float = 0.1, correct: Evidence = None, level: float = 0.95
) -> list[Answer]:
    """Return the answer of each curve; arguments as of `sentence`."""
    table, correct = table_of(table, correct)
    found, parts = curves(table, correct), curves_of(curve_table(table, correct, level))
    names = [f"{own}: " if own else "" for own in shared_and_own(parts)[1]]
    return [
        Answer(
            name,
            *_told(curve, part, fraction, level),
            remarks=tuple(_remarks(curve, table, fraction, level)),
        )
        for name, curve, part in zip(names, found, parts, strict=True)
    ]


def _told(curve: Curve, rows: pd.DataFrame, fraction: float, level: float) -> tuple[str, ...]:
    """Say what the rows of `curve_table` of a curve say at the fraction nearest to one.

    Returns what is told, and, as far as they are to be named, how and what stands behind it.
    """
    score, name = curve.score, score_name(curve.score)
    full, parts = rows[rows["fraction"] == 1], rows[rows["fraction"] < 1]
    known, parts = rows[rows[score].notna()], parts[parts[score].notna()]
    if known.empty:
        return ("No probe of these results has a score",)
    if full.empty or parts.empty:
        largest = known.iloc[-1]
        value = _with_interval(largest[score], largest[f"{score}_low"], largest[f"{score}_high"], 3)
        return (f"{largest.k} features reach an {name} of {value}",)
    whole = full.iloc[0][score]
    if not curve.above_floor:
        return _no_share(curve, whole), _how(curve)
    near = parts.loc[(parts["fraction"] - fraction).abs().idxmin()]
    how, behind = _how(curve), _behind(curve, near, level)
    beaten = _beaten_by(curve)
    if beaten is not None:
        return _of_the_best(curve, near, whole, beaten[0], level), how, behind
    kept = _with_interval(100 * near.ratio, 100 * near.ratio_low, 100 * near.ratio_high, 1, " %")
    part = _with_interval(near[score], near[f"{score}_low"], near[f"{score}_high"], 3)
    told = f"{percent(near.fraction)} of the features keep {kept} of the full layer's {name}"
    return f"{told}, {part} of {whole:.3f}", how, behind


def _of_the_best(curve: Curve, near: pd.Series, whole: float, best: int, level: float) -> str:
    """Say what a part reaches where the full layer is beaten by another part, or by this one.

    A share of the full layer would then read as if that were at its best; it is of the best part.
    """
    score, name = curve.score, score_name(curve.score)
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
        f"layer {whole:.3f}"
    )


def _no_share(curve: Curve, whole: float) -> str:
    """Say why no share of a full layer is told."""
    name = score_name(curve.score)
    if math.isnan(whole):
        return f"The full layer has no {name}: no share of it can be told"
    noise = f"within noise of what is reached without any feature, {curve.floor:.3f} of "
    noise = "not above 0 by more than noise" if curve.score == "r2" else noise + curve.tested
    return f"The full layer's {name}, {whole:.3f}, is {noise}: no share of it is told"


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
    rows = curve.tested if curve.n_test else ""
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


def _remarks(curve: Curve, table: pd.DataFrame, fraction: float, level: float) -> Iterator[str]:
    """Yield what stands against the answer of a curve."""
    if curve.above_floor:
        yield from _over_chance(curve, fraction)
        yield from _beaten(curve, level)
        yield from _at_an_end(curve, table)
    yield from _left_out(curve, table)


def _over_chance(curve: Curve, fraction: float) -> Iterator[str]:
    """Say what a part keeps of what the full layer has over chance, where it is far less."""
    parts = np.flatnonzero((curve.fractions < 1) & np.isfinite(curve.ratio()))
    if not len(parts) or _beaten_by(curve):
        return
    near = parts[np.abs(curve.fractions[parts] - fraction).argmin()]
    corrected = curve.over_chance.ratio()[near]
    if curve.ratio()[near] - corrected > _FAR:
        yield (
            f"Of what the full layer has over chance ({curve.chance:.3f}) that is "
            f"{100 * corrected:.1f} %."
        )


def _beaten_by(curve: Curve) -> tuple[int, Difference] | None:
    """Return the place of the best part and by how much it beats the full layer beyond noise.

    Noise is two standard errors of the difference, where it is known, and `_MARGIN`; test rows are
    paired. None if no part does.
    """
    whole, mean = curve.whole, curve.mean()
    if whole is None or not np.isfinite(mean[:whole]).any() or np.isnan(mean[whole]):
        return None
    best = int(np.nanargmax(mean[:whole]))
    gap = difference(curve, curve, best, whole)
    return (best, gap) if gap.value - max(_MARGIN, 2 * np.nan_to_num(gap.error)) > 0 else None


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
    odd = ~kinds.isin((*statuses.SOLVED, Status.JITTER))
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
            f"{first.l2:g}: {statuses.kinds(first.status)[0].text}"
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


READ = {
    "threshold": "{fraction} is the smallest fraction probed that keeps {delta} of {full}",
    "interpolated": "{delta} of {full} is reached at {fraction} of the features, between the "
    "fractions probed",
    "nearest": "of the fractions probed, {fraction} keeps a share nearest {delta} of {full}",
}

LEAST = "at least"
"""Value of the column `bound` for a DR that is a bound."""

_BOUND = "{fraction} of the features, the smallest share probed, keep {delta} of {full} already"


def of_redundancy(table: pd.DataFrame, level: float, score: str = "accuracy") -> str:
    """Say what the first rule reads off each curve at the first delta.

    Arguments:
        table: as `featstore.probe.redundancy.diffused_redundancy` gives it.
        level: coverage of its intervals.
        score: what the full layer is measured by.
    """
    return "\n".join(
        f"{name}{_redundancy(curve.iloc[0], level, score)}" for name, curve in named(table)
    )


def _redundancy(row: pd.Series, level: float, score: str) -> str:
    if math.isnan(row.redundancy):
        return (
            "The full layer was not probed, or is right about nothing: no fraction can be held "
            "against it."
        )
    told = (_BOUND if row.bound == LEAST else READ[row.rule]).format(
        fraction=percent(row.fraction), delta=percent(row.delta), full=f"the full layer's {score}"
    )
    seeds = _count(row.seeds, "seed")
    ends = f"from {row.low:.3f}" if row.bound == LEAST else f"{row.low:.3f} to {row.high:.3f}"
    spread = (
        f"no interval, {seeds}"
        if math.isnan(row.low)
        else f"{percent(level)} interval over {row.over} {ends}, {seeds}"
    )
    found = f"is {row.bound}" if row.bound == LEAST else "="
    sentence = f"{told}: DR({row.delta:g}) {found} {row.redundancy:.3f} ({spread})."
    return sentence[0].upper() + sentence[1:]


def of_classes(inequality: pd.DataFrame, losses: pd.DataFrame, level: float) -> str:
    """Say of each curve how much more unequal classes become, and which one pays most.

    Arguments:
        inequality: as `featstore.probe.classes.inequality_table` gives it, of one fraction
        below 1.
        losses: as `featstore.probe.classes.class_losses` gives them, of the same fraction.
        level: coverage of the intervals.
    """
    lines = []
    for name, curve in named(inequality):
        row = curve.iloc[0]
        if math.isnan(row.gini_rise):
            lines.append(f"{name}The full layer was not probed: what classes lose is not known.")
            continue
        mine = _same_curve(losses, row)
        lines.append(name + _classes(row, mine[mine["loss"].notna()], level))
    return "\n".join(lines)


def _classes(row: pd.Series, losses: pd.DataFrame, level: float) -> str:
    most, mean = losses.iloc[0], losses["loss"].mean()
    seeds = _count(most.probes, "seed")
    rise = f"{row.gini_rise:+.3f}{_between(row.gini_rise_low, row.gini_rise_high, 1, 3)}"
    level_text = "" if math.isnan(row.gini_rise_low) else f", {percent(level)} intervals"
    return (
        f"At {percent(row.fraction)} of the features a class loses {100 * mean:.1f} points of "
        f"accuracy on average, and {most['class']!r} most, {100 * most.loss:.1f}"
        f"{_between(most.low, most.high, 100, 1)}; the Gini coefficient over classes changes by "
        f"{rise} ({seeds}{level_text})."
    )


def of_affected(affected: pd.DataFrame, resamples: int) -> str:
    """Say of each curve whether some classes are affected more than others, and how surely.

    Arguments:
        affected: as `featstore.probe.classes.affected_of_curves` gives it.
        resamples: how many draws stand behind the p-value.
    """
    lines = []
    for name, curve in named(affected):
        p_value = curve["p_value"].iloc[0]
        surely = f"p = {p_value:.3g}, test rows drawn again {resamples:,} times"
        if p_value > 0.05:
            lines.append(
                f"{name}That some classes are affected more than others could be chance: {surely}."
            )
            continue
        more, less = (
            curve.loc[beyond, "class"] for beyond in (curve["low"] > 0, curve["high"] < 0)
        )
        lines.append(
            f"{name}Some classes are affected more than others: {surely}. More than the mean class "
            f"lose {_some(more)}; less, {_some(less)}; all of that at once."
        )
    return "\n".join(lines)


def of_similarity(to_full: pd.DataFrame, pairs: pd.DataFrame, fraction: float = 0.1) -> str:
    """Say of each layer how alike its subsets are to the whole, and to each other.

    Arguments:
        to_full: of `featstore.probe.layers.Similarity`.
        pairs: likewise.
        fraction: which one to speak of; the nearest is taken.
    """
    lines = []
    layers = list(dict.fromkeys(to_full["name"]))
    for name in layers:
        mine = to_full[to_full["name"] == name]
        near = mine["fraction"].iloc[(mine["fraction"] - fraction).abs().argmin()]
        mine = mine[mine["fraction"] == near]
        line = (
            f"{f'{name}: ' if len(layers) > 1 else ''}{percent(near)} of the features "
            f"({mine['k'].iloc[0]:,}) have a CKA of {_mean(mine['cka'])} with the whole layer "
            f"({_count(len(mine), 'seed')})"
        )
        other = pairs[(pairs["name"] == name) & (pairs["fraction"] == near)]
        if len(other):
            line += (
                f", and two such subsets one of {_mean(other['cka'])} with each other "
                f"({_count(len(other), 'pair')})"
            )
        lines.append(line + ".")
    return "\n".join(lines)


def of_spectrum(table: pd.DataFrame) -> str:
    """Say of each layer in how many directions it varies, and how much of it is repetition.

    Arguments:
        table: as `featstore.probe.layers.spectrum_table` gives it.
    """
    lines = []
    for row in table.itertuples():
        name = f"{row.name}: " if len(table) > 1 else ""
        dead, copies = _count(row.dead, "feature"), _count(row.duplicates, "feature")
        repeated = (
            f"{dead} never change{'s' if row.dead == 1 else ''} and {copies} "
            f"repeat{'s' if row.duplicates == 1 else ''} another"
        )
        lines.append(
            f"{name}{row.features:,} features vary like {row.effective_rank:.0f} equal directions "
            f"(effective rank); {_count(row.components_90, 'component')} "
            f"hold{'s' if row.components_90 == 1 else ''} 90 % of the variance; {repeated}."
        )
    return "\n".join(lines)


def of_attribution(table: pd.DataFrame, found: Any, level: float) -> str:
    """Say how many features help or degrade when left out, and how well values are known.

    Arguments:
        table: as `featstore.probe.attribution.drop_one` gives it.
        found: what `featstore.probe.attribution.shapley` gives; None where it was not asked.
        level: of the family of tests.
    """
    degrading = table[table["degrading"]].sort_values("p", kind="stable")
    worse = int((table["high"] < 0).sum())
    lines = [
        f"Of {len(table):,} features left out alone, {worse:,} take accuracy with them for certain "
        f"and {len(degrading):,} degrade the probe (all at once, {percent(level)})"
    ]
    if len(degrading):
        named = ", ".join(map(str, degrading["feature"][:10]))
        lines[0] += f": {named}{', ...' if len(degrading) > 10 else ''}"
    lines[0] += "."
    if found is not None:
        lines.append(
            f"Shapley values of {_count(found.permutations, 'permutation')}: two halves of them "
            f"correlate at {found.halves:.2f} +- {found.halves_error:.2f}, so as many others would "
            f"at {found.reliability:.2f}; the features take the loss from {found.empty:.4f} to "
            f"{found.full:.4f}."
        )
    return "\n".join(lines)


def of_comparison(table: pd.DataFrame, agreement: pd.DataFrame, delta: float, level: float) -> str:
    """Say which curve is the most redundant, and whether the best in full is the best in part.

    Arguments:
        table: as `featstore.study.compare.compare` gives it.
        agreement: likewise.
        delta: of its redundancies.
        level: coverage of their intervals.
    """
    part, lines = percent(table["fraction"].iloc[0]), []
    noise = [row["name"] for _, row in table.iterrows() if not row.get("above_chance", True)]
    if noise:
        one = len(noise) == 1
        lines.append(
            f"The full layer of {_and(noise)} is within noise of what is reached without any "
            f"feature: {'it has' if one else 'they have'} no ratio and no rank."
        )
    known = table[table["redundancy"].notna()]
    if len(known) > 1:
        lines.append(_most_redundant(known, delta, level))
    for row in agreement.itertuples():
        where = f"On {row.task}, " if len(agreement) > 1 else ""
        agree = f"; the orders of {row.curves} agree with Kendall's tau {row.tau:.2f}"
        order = agree if row.curves >= 3 else ""
        lines.append(f"{where}{_best(row, part)}{order}.")
    return "\n".join(lines) or f"There is one curve alone: nothing to compare at {part}."


def _most_redundant(known: pd.DataFrame, delta: float, level: float) -> str:
    """Say which curve is the most redundant, if it can be told apart from the others.

    Two are told apart where their difference exceeds the root of the summed squares of what their
    intervals reach towards each other.
    """
    in_order = known.sort_values("redundancy", ascending=False, kind="stable")
    most, least = in_order.iloc[0], in_order.iloc[-1]
    alike = [
        row["name"]
        for _, row in in_order.iloc[1:].iterrows()
        if not most.redundancy - row.redundancy
        > math.hypot(most.redundancy - most.low, row.high - row.redundancy)
    ]
    over = dict.fromkeys(each for each in known.get("over", pd.Series(dtype=str)) if each)
    told = f"{percent(level)} intervals over {' or '.join(over)}" if over else "no intervals"
    equal = "" if most.bound == LEAST else "= "
    ends = f"{most['name']} has DR({delta:g}) {equal}{redundant(most)}, {least['name']} "
    ends += redundant(least)
    if not alike:
        return (
            f"Most redundant is {most['name']}, DR({delta:g}) {equal}{redundant(most)}; least is "
            f"{least['name']}, {redundant(least)} ({told})."
        )
    if len(alike) == len(known) - 1:
        return f"None is distinguishably more redundant than the others: {ends} ({told})."
    return (
        f"Most redundant are {_and([most['name'], *alike])}, which cannot be told apart: {ends} "
        f"({told})."
    )


def _best(row: Any, part: str) -> str:
    """Say which curve is best in full and in part, as far as it can be told apart."""
    if not row.full_ties and not row.part_ties:
        same = "and also" if row.best_part == row.best_full else f"and {row.best_part}"
        return f"{row.best_full} is best with all features {same} at {part}"
    told = []
    full = row.best_full, row.full_ties, "with all features"
    at_part = row.best_part, row.part_ties, f"at {part}"
    for best, ties, where in (full, at_part):
        if not ties:
            told.append(f"{where} {best} is best")
        elif len(ties) == row.curves - 1:
            told.append(f"{where} none is distinguishably best")
        else:
            told.append(f"{where} {_and([best, *ties])} are best and cannot be told apart")
    text = ", ".join(told)
    return text[0].upper() + text[1:]


def _and(names: Sequence[str], most: int = 5) -> str:
    """List names in a sentence, the first of many.

    >>> _and(["a"]), _and(["a", "b", "c"]), _and(list("abcdefg"), 3), _and(["a, x", "b, x"])
    ('a', 'a, b and c', 'a, b, c and 4 others', "'a, x' and 'b, x'")
    """
    if any("," in name for name in names):
        names = [f"'{name}'" for name in names]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def redundant(row: Any) -> str:
    """Write a DR with its interval, or as the bound that it is.

    >>> redundant(pd.Series({"redundancy": 0.9, "low": 0.9, "high": 1, "bound": "at least"}))
    'at least 0.900'
    """
    if row.bound == LEAST:  # a table that was read has NaN for none
        return f"{row.bound} {row.redundancy:.3f}"
    return f"{row.redundancy:.3f}{_between(row.low, row.high, 1, 3)}"


def _mean(values: pd.Series) -> str:
    return plus_minus(float(values.mean()), float(values.std()), 3)


def _count(number: int, what: str) -> str:
    """Write a number of things.

    >>> _count(1, "seed"), _count(1200, "pair")
    ('1 seed', '1,200 pairs')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _some(names: pd.Series, most: int = 5) -> str:
    """List names, the first of many.

    >>> _some(pd.Series(["cat", "dog"])), _some(pd.Series([])), _some(pd.Series(list("abcd")), 2)
    ("'cat', 'dog'", 'none', "'a', 'b' and 2 others")
    """
    told = ", ".join(repr(str(name)) for name in names[:most])
    further = len(names) - most
    return (f"{told} and {further} others" if further > 0 else told) or "none"


def _same_curve(table: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """Return the rows of the curve that a row of another table is of."""
    same = pd.Series(True, table.index)
    for key in CURVE:
        same &= table[key].isna() if pd.isna(row[key]) else table[key] == row[key]
    return table[same]


def _between(low: float, high: float, unit: float, digits: int) -> str:
    """Write an interval, or nothing where there is none.

    >>> _between(0.1, 0.25, 100, 1), _between(float("nan"), 1.0, 1, 2)
    (' [10.0, 25.0]', '')
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    return f" [{unit * low:.{digits}f}, {unit * high:.{digits}f}]"


def named(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield what sets each curve of a table apart, as `random: ` or nothing for one, and its rows.

    >>> rows = pd.DataFrame({"mode": ["random", "pca", "random"], "k": [1, 2, 3]})
    >>> [(name, part["k"].tolist()) for name, part in named(rows)]
    [('random: ', [1, 3]), ('pca: ', [2])]
    """
    curves = curves_of(table)
    for own, curve in zip(shared_and_own(curves)[1], curves, strict=True):
        yield (f"{own}: " if own else ""), curve

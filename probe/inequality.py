"""How unequally accuracy is spread over classes, and which classes pay for fewer features."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from probe.bootstrap import check_level, draws, interval, widened
from probe.curve_names import curves_of
from probe.errors import DataError
from probe.summaries import CURVE, as_curves

LOSSES = ("class", "probes", "full", "part", "loss", "low", "high", "kept")
"""What `class_losses` says of each class."""


def gini(values: ArrayLike) -> np.ndarray:
    """Return the Gini coefficient sum_ij |x_i - x_j| / (2 n^2 mean x) over the last axis.

    It is 0 where all are equal and 1 - 1/n where one has everything: the population's, without
    n / (n - 1), as published. Computed from the sorted values as
    sum_i (2 i - n - 1) x_(i) / (n sum x).

    Arguments:
        values: (..., C), not negative; NaN is left out.

    Returns:
        float64 (...); NaN where all are 0 or NaN.

    Reference:
        Damgaard and Weiner, "Describing inequality in plant size or fecundity", Ecology 2000.

    Example:
        >>> gini([[0.2, 0.4, 0.6], [0.5, 0.5, float("nan")]]).round(4).tolist()
        [0.2222, 0.0]
    """
    in_order = np.sort(np.asarray(values, np.float64), axis=-1)  # NaN comes last
    n = np.isfinite(in_order).sum(-1, keepdims=True)
    in_order = np.nan_to_num(in_order)
    place = np.arange(1, in_order.shape[-1] + 1)
    weighted = ((2 * place - n - 1) * in_order).sum(-1)
    total = n[..., 0] * in_order.sum(-1)
    return np.divide(weighted, total, out=np.full(total.shape, np.nan), where=total > 0)


def inequality_table(
    table: pd.DataFrame, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Condense accuracies by class into one row a fraction.

    Accuracies of few test rows differ between equally hard classes too, and that noise is in every
    measure here; `gini_rise` takes the full layer's, on the same rows, away.

    Arguments:
        table: a row for each probe and class, as `probe.per_class_table` gives it.
        resamples: draws of seeds behind an interval.
        level: coverage of the intervals.
        seed: of the draws.

    Returns:
        The columns `CURVE`, `fraction`, `k`, `probes` (seeds), then
        `gini`, `gini_std`: mean and sample standard deviation over seeds of each seed's Gini;
        `gini_rise`, `gini_rise_low`, `gini_rise_high`: the mean over seeds of each seed's Gini
            minus its full layer's, with its bootstrap interval; NaN without a full layer;
        `gini_of_mean`: the Gini of accuracies averaged over seeds first, as published, which
            is smaller since noise of seeds averages out; and, of these same averages,
        `mean_per_class`, `cv` (standard deviation with divisor C over the mean), `range`
            (largest minus smallest), `worst_class` (of equals the first), `worst_accuracy`.

    Raises:
        UsageError: level is outside (0, 1).
    """
    check_level(level)
    random = np.random.default_rng(seed)
    rows = []
    for names, full, part, facts in _pairs(table):
        each, of_full = gini(part), gini(full)
        rise = (each - of_full)[np.isfinite(each - of_full)]
        low, high = _interval_of_mean(rise, resamples, level, random)
        known = each[np.isfinite(each)]
        rows.append(
            names | facts | {
                "probes": len(part),
                "gini": _mean(known),
                "gini_std": known.std(ddof=1) if len(known) > 1 else np.nan,
                "gini_rise": _mean(rise),
                "gini_rise_low": float(low),
                "gini_rise_high": float(high),
            } | _of_mean(part)
        )  # fmt: skip
    return pd.DataFrame(rows)


def _of_mean(part: pd.DataFrame) -> dict[str, object]:
    """Return the measures of accuracies (seeds, C) averaged over seeds."""
    mean = part.mean(axis=0).dropna()
    facts = {"gini_of_mean": float(gini(mean)), "mean_per_class": mean.mean()}
    if mean.empty:
        unknown = dict.fromkeys(("cv", "range", "worst_accuracy"), np.nan)
        return facts | unknown | {"worst_class": None}
    return facts | {
        "cv": mean.std(ddof=0) / mean.mean() if mean.mean() > 0 else np.nan,
        "range": mean.max() - mean.min(),
        "worst_class": mean.idxmin(),
        "worst_accuracy": mean.min(),
    }


def class_losses(
    table: pd.DataFrame, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Return what each class loses at each fraction, the largest losses first.

    Seeds are paired: a seed's part of the layer is held against its own full layer, and seeds are
    drawn again in pairs. The intervals are of one class at a time and of these test rows; for the
    claim that some classes lose more than others see `affected_classes`.

    Arguments:
        table: a row for each probe and class, as `probe.per_class_table` gives it.
        resamples: draws of seeds behind an interval.
        level: coverage of the intervals.
        seed: of the draws.

    Returns:
        The columns `CURVE`, `fraction`, `k`, `class`, `probes` (seeds with both), `full`, `part`
        (mean accuracies), `loss` (full - part), `low`, `high`, `kept` (part / full). Curves
        without a full layer and the full layer itself have no rows.

    Raises:
        UsageError: level is outside (0, 1).
    """
    check_level(level)
    random = np.random.default_rng(seed)
    rows = []
    for names, full, part, facts in _pairs(table):
        paired = part.index[full.notna().any(axis=1)]
        if facts["fraction"] == 1 or not len(paired):
            continue
        full, part = full.loc[paired], part.loc[paired]
        loss = full - part
        low, high = _interval_of_mean(loss.to_numpy(), resamples, level, random)
        whole, left = full.mean(axis=0).to_numpy(), part.mean(axis=0).to_numpy()
        lost = loss.mean(axis=0).to_numpy()
        kept = np.divide(left, whole, out=np.full_like(left, np.nan), where=whole > 0)
        columns = (
            list(loss.columns),
            [len(paired)] * len(lost),
            whole,
            left,
            lost,
            low,
            high,
            kept,
        )
        # of equals the first, and classes of no test row last
        for place in np.argsort(-lost, kind="stable"):
            row = dict(zip(LOSSES, (column[place] for column in columns), strict=True))
            rows.append(names | facts | row)
    return pd.DataFrame(rows)


def near(table: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Return the rows of each curve at its fraction below 1 that is nearest to one.

    Arguments:
        table: as the functions above give it.
        fraction: which one to take.
    """
    if table.empty:
        return table
    parts = [
        curve[curve["fraction"] == nearest_part(curve["fraction"], fraction)]
        for curve in curves_of(table)
    ]
    return pd.concat(parts, ignore_index=True)


def nearest_part(fractions: pd.Series, wanted: float) -> float:
    """Return the fraction below 1 that is nearest to one; NaN where there is none.

    >>> nearest_part(pd.Series([0.05, 0.2, 1.0]), 0.1)
    0.05
    """
    parts = np.unique(fractions[fractions < 1])
    return float(parts[np.abs(parts - wanted).argmin()]) if len(parts) else float("nan")


def _pairs(
    table: pd.DataFrame,
) -> Iterator[tuple[dict[str, object], pd.DataFrame, pd.DataFrame, dict[str, object]]]:
    """Yield (curve, full, part, fraction and k): accuracies (seeds, C), rows and columns alike.

    Classes stand in the table's order; `full` is NaN for seeds without a full layer.
    """
    table = as_curves(table)
    for key, curve in table.groupby(CURVE, dropna=False, sort=False):
        curve = curve.assign(seed=curve["seed"].astype("Int64").fillna(-1))
        _check_distinct(curve)
        wide = curve.pivot(
            index=["fraction", "k", "seed"], columns="class", values="class_accuracy"
        ).astype(np.float64)[list(dict.fromkeys(curve["class"]))]
        of_whole = wide.index.get_level_values("fraction") == 1
        whole = wide[of_whole].droplevel(["fraction", "k"])
        for (fraction, k), rows in wide.groupby(level=["fraction", "k"]):
            part = rows.droplevel(["fraction", "k"])
            facts = {"fraction": fraction, "k": k}
            yield dict(zip(CURVE, key, strict=True)), whole.reindex(part.index), part, facts


def _check_distinct(curve: pd.DataFrame) -> None:
    twice = curve.duplicated(["fraction", "k", "seed", "class"])
    if twice.any():
        first = curve[twice].iloc[0]
        raise DataError(
            f"class {first['class']!r} stands twice at fraction {first.fraction:g}, seed "
            f"{first.seed}: keep one row for each probe and class"
        )


def _interval_of_mean(
    values: np.ndarray, resamples: int, level: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bootstrap interval of the mean of (S, ...) over seeds; NaN for S < 2."""
    if len(values) < 2:
        return (np.full(values.shape[1:], np.nan),) * 2
    means = draws(len(values), resamples, random) @ values / len(values)
    return interval(widened(means, values.mean(0), len(values), level), level)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")

"""Classes: who loses by fewer features, and how unequally."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from featstore.probe.errors import DataError, UsageError
from featstore.probe.memory import Progress, silent
from featstore.probe.results import CURVE, as_curves, curves_of
from featstore.probe.results.curves import curves
from featstore.probe.results.intervals import Variance, check_level, crossed

_LOSSES = ("class", "probes", "full", "part", "loss", "low", "high", "over", "kept")
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


def gini_slopes(values: ArrayLike) -> np.ndarray:
    """Return by how much the Gini coefficient rises with each value.

    With ranks r_i from 1 to n, (2 r_i - n - 1 - n gini) / (n sum x); equal values have their mean
    rank, at which the coefficient has a kink.

    Arguments:
        values: (C,), not negative; NaN is left out.

    Returns:
        float64 (C,); 0 where a value is NaN, or all are 0.

    Example:
        >>> gini_slopes([0.2, 0.4, 0.6]).round(3).tolist()
        [-0.741, -0.185, 0.37]
    """
    values = np.asarray(values, np.float64)
    known, slopes = np.isfinite(values), np.zeros(len(values))
    total, n = values[known].sum(), int(known.sum())
    if total > 0:
        ranks = rankdata(values[known])
        slopes[known] = (2 * ranks - n - 1 - n * gini(values)) / (n * total)
    return slopes


def inequality_table(
    table: pd.DataFrame,
    correct: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Condense accuracies by class into one row a fraction.

    Accuracies of few test rows differ between equally hard classes too, and that noise is in every
    measure here; `gini_rise` takes the full layer's, on the same rows, away. Its interval is of the
    rise that is to be expected of as many test rows of each class. With `correct` it is over test
    rows too: row i of class c moves the rise of seed s by

        n / n_c (g_c (right_si - x_sc) - the same of the full layer),    g = `gini_slopes`.

    Arguments:
        table: a row for each probe and class, as `probe.per_class_table` gives it.
        correct: bool (R, n), whether each of its R probes is right on each test row, as
            `featstore.probe.results.reading.judged_by_class` gives it.
        labels: int64 (n,), classes of the test rows, numbers in the table's order of classes; goes
            with `correct`.
        level: coverage of the intervals.

    Returns:
        The columns `CURVE`, `fraction`, `k`, `probes` (seeds), then
        `gini`, `gini_std`: mean and sample standard deviation over seeds of each seed's Gini;
        `gini_rise`, `gini_rise_low`, `gini_rise_high`: the mean over seeds of each seed's Gini
            minus its full layer's, with its interval; NaN without a full layer;
        `over`: what the interval is over, as `featstore.probe.results.curves.curve_table` says it;
        `gini_of_mean`: the Gini of accuracies averaged over seeds first, as published, which
            is smaller since noise of seeds averages out; and, of these same averages,
        `mean_per_class`, `cv` (standard deviation with divisor C over the mean), `range`
            (largest minus smallest), `worst_class` (of equals the first), `worst_accuracy`.

    Raises:
        UsageError: level is outside (0, 1).
        DataError: `correct` and `labels` are not of this table's probes.

    Reference:
        Langel and Tille, "Variance estimation of the Gini index: revisiting a result several times
        published", JRSS A 2013 (the Gini coefficient's influence function).
    """
    check_level(level)
    rows = []
    for pair in _pairs(table, _Rows.of(table, correct, labels)):
        names, facts, part = pair.names, pair.facts, pair.part
        each = gini(part)
        risen = each - gini(pair.full)
        paired = np.flatnonzero(np.isfinite(risen))
        rise = risen[paired]
        variance = crossed(rise, pair.of_gini(paired)) if len(rise) else _UNKNOWN
        reach = float(variance.reach(level))
        known = each[np.isfinite(each)]
        rows.append(
            names
            | facts
            | {
                "probes": len(part),
                "gini": _mean(known),
                "gini_std": known.std(ddof=1) if len(known) > 1 else np.nan,
                "gini_rise": _mean(rise),
                "gini_rise_low": _mean(rise) - reach,
                "gini_rise_high": _mean(rise) + reach,
                "over": variance.over[0],
            }
            | _of_mean(part)
        )
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
    table: pd.DataFrame,
    correct: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return what each class loses at each fraction, the largest losses first.

    Seeds are paired: a seed's part of the layer is held against its own full layer. The intervals
    are of one class at a time, over seeds and, with `correct`, over the class's test rows too; for
    the claim that some classes lose more than others see `affected_classes`.

    Arguments:
        table: a row for each probe and class, as `probe.per_class_table` gives it.
        correct: as `inequality_table` takes it.
        labels: likewise.
        level: coverage of the intervals.

    Returns:
        The columns `CURVE`, `fraction`, `k`, `class`, `probes` (seeds with both), `full`, `part`
        (mean accuracies), `loss` (full - part), `low`, `high`, `over`, `kept` (part / full). Curves
        without a full layer and the full layer itself have no rows.

    Raises:
        UsageError: level is outside (0, 1).
        DataError: `correct` and `labels` are not of this table's probes.
    """
    check_level(level)
    rows = []
    for pair in _pairs(table, _Rows.of(table, correct, labels)):
        names, facts = pair.names, pair.facts
        paired = np.flatnonzero(pair.full.notna().any(axis=1))
        if facts["fraction"] == 1 or not len(paired):
            continue
        full, part = pair.full.iloc[paired], pair.part.iloc[paired]
        loss = full - part
        variances = [pair.of_loss(paired, place) for place in range(loss.shape[1])]
        reach = np.array([float(each.reach(level)) for each in variances])
        middle = loss.mean(axis=0).to_numpy()
        low, high = middle - reach, middle + reach
        over = [each.over[0] for each in variances]
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
            over,
            kept,
        )
        # of equals the first, and classes of no test row last
        for place in np.argsort(-lost, kind="stable"):
            row = dict(zip(_LOSSES, (column[place] for column in columns), strict=True))
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


@dataclass(frozen=True)
class _Rows:
    """Answers by test row: `correct` (R, n) of the probes of a table, `labels` (n,)."""

    correct: np.ndarray
    labels: np.ndarray
    n_classes: int

    @classmethod
    def of(
        cls, table: pd.DataFrame, correct: np.ndarray | None, labels: np.ndarray | None
    ) -> "_Rows | None":
        if correct is None or labels is None:
            return None
        n_classes = table["class"].nunique()
        if correct.shape != (len(table) / max(n_classes, 1), len(labels)):
            raise DataError(
                f"correctness of shape {correct.shape} and labels of shape {labels.shape} for a "
                f"table of {len(table)} rows and {n_classes} classes: give a row for each probe, "
                "as the table has them, and a label for each test row"
            )
        return cls(correct, labels, n_classes)


@dataclass(frozen=True)
class _Pair:
    """A fraction of a curve and the full layers of the same seeds.

    Attributes:
        names: the curve's.
        facts: fraction and k.
        full: accuracies (seeds, C); NaN for seeds without a full layer.
        part: likewise at the fraction.
        probes: int64 (seeds, 2), the numbers of the probes of full and part; -1 where none is.
        rows: who is right on which test row, if that is known.
    """

    names: dict[str, object]
    facts: dict[str, object]
    full: pd.DataFrame
    part: pd.DataFrame
    probes: np.ndarray
    rows: _Rows | None

    def of_gini(self, seeds: np.ndarray) -> np.ndarray | None:
        """Return by how much each test row moves the rise of each of some seeds, (s, n)."""
        if self.rows is None:
            return None
        correct, labels = self.rows.correct, self.rows.labels
        moved = np.zeros((len(seeds), len(labels)))
        share = len(labels) / np.bincount(labels, minlength=self.rows.n_classes)[labels]
        for sign, column, table in ((-1, 0, self.full), (1, 1, self.part)):
            for number, seed in enumerate(seeds):
                accuracy = np.nan_to_num(table.to_numpy()[seed])
                slopes = gini_slopes(table.to_numpy()[seed])
                off = correct[self.probes[seed, column]] - accuracy[labels]
                moved[number] += sign * slopes[labels] * off * share
        return moved

    def of_loss(self, seeds: np.ndarray, place: int) -> Variance:
        """Return the variance of the mean loss of one class over some seeds."""
        loss = (self.full.to_numpy() - self.part.to_numpy())[seeds, place]
        known = np.isfinite(loss)
        if not known.any():
            return _UNKNOWN
        if self.rows is None:
            return crossed(loss[known])
        of_class = np.flatnonzero(self.rows.labels == place)
        probes = self.probes[seeds[known]].T[:, :, None]
        full, part = self.rows.correct[probes, of_class].astype(float)
        variance = crossed(loss[known], full - part)
        # that no row differs is not certainty: of n rows, up to 4 / n may differ elsewhere
        return replace(variance, rows=np.maximum(variance.rows, (2 / max(len(of_class), 1)) ** 2))


_UNKNOWN = Variance(np.array(np.nan), np.array(np.nan), np.array(1))


def _pairs(table: pd.DataFrame, rows: _Rows | None) -> Iterator[_Pair]:
    """Yield each curve at each fraction, with its full layer; classes in the table's order."""
    n_classes = max(table["class"].nunique(), 1)
    table = as_curves(table.assign(probe=np.arange(len(table)) // n_classes))
    for key, curve in table.groupby(CURVE, dropna=False, sort=False):
        curve = curve.assign(seed=curve["seed"].astype("Int64").fillna(-1))
        _check_distinct(curve)
        wide = curve.pivot(
            index=["fraction", "k", "seed"], columns="class", values="class_accuracy"
        ).astype(np.float64)[list(dict.fromkeys(curve["class"]))]
        numbers = curve.groupby(["fraction", "k", "seed"])["probe"].first()
        of_whole = wide.index.get_level_values("fraction") == 1
        whole = wide[of_whole].droplevel(["fraction", "k"])
        of_full = numbers[of_whole].droplevel(["fraction", "k"])
        for (fraction, k), each in wide.groupby(level=["fraction", "k"]):
            part = each.droplevel(["fraction", "k"])
            probes = [of_full.reindex(part.index).fillna(-1), numbers[each.index]]
            yield _Pair(
                dict(zip(CURVE, key, strict=True)),
                {"fraction": fraction, "k": k},
                whole.reindex(part.index),
                part,
                np.stack(probes, 1).astype(np.int64),
                rows,
            )


def _check_distinct(curve: pd.DataFrame) -> None:
    twice = curve.duplicated(["fraction", "k", "seed", "class"])
    if twice.any():
        first = curve[twice].iloc[0]
        raise DataError(
            f"class {first['class']!r} stands twice at fraction {first.fraction:g}, seed "
            f"{first.seed}: keep one row for each probe and class"
        )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


_MORE = 4
"""Rows of the classes' mean variance that each class is given besides its own."""


@dataclass(frozen=True)
class _Affected:
    """Loss of each class beyond the mean of all classes.

    Attributes:
        table: a row a class, the largest losses first: `class`, `rows` (test rows), `loss` (full
            minus part, in accuracy), `excess` (loss minus the mean loss of the classes), `low`,
            `high` (its interval, all classes' at once).
        p_value: of the hypothesis that all classes lose the same.
    """

    table: pd.DataFrame
    p_value: float


def affected_classes(
    part: np.ndarray,
    full: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> _Affected:
    """Test the claim that some classes are affected more than others by taking fewer features.

    Each test row is paired with itself: d = right by the full layer - right by the part. With the
    loss L_c, the mean of d over seeds and the n_c rows of a class, the excess e_c = L_c - mean L
    and its variance v_c,

        T = max_c |e_c| / sqrt(v_c),    T* = the same of draws of the excess if all lose the same,

    and the interval of class c is e_c +- q sqrt(v_c), q the quantile of T*: with probability
    `level` all of them hold at once. Draws are normal, with two shares of variance
    (`featstore.probe.results.curves`):

    * of rows, independent between classes: that of d averaged over seeds, within the class. So that
      a class in which no row happens to change does not seem certain, `_MORE` rows of the classes'
      mean variance are added;
    * of seeds, if there are several: what the seeds' excesses vary by more than their rows make
      them, the same for all classes. A few seeds do not give a variance of each class: of 3, the
      smallest of 37 is near 0 and the largest four times too large.

    v_c is of the mean variance of rows, over n_c, plus the seeds'. Of one seed the claim is about
    this seed's features.

    Arguments:
        part: bool (S, n), whether each seed's probe on a part of the features is right on each
            test row; (n,) for one.
        full: bool (S, n), the same seeds' probes on the whole layer.
        labels: int64 (n,), the rows' classes.
        classes: names; by default numbers. Classes of fewer than 2 rows are left out.
        resamples: draws of T*.
        level: coverage of the intervals together.
        seed: of the draws.

    Raises:
        DataError: the shapes differ, or fewer than 2 classes have 2 rows.
        UsageError: level is outside (0, 1), or there are no draws.

    Reference:
        Westfall and Young, "Resampling-based multiple testing", 1993 (the distribution of T).
    """
    check_level(level)
    if resamples < 1:
        raise UsageError(f"{resamples} resamples draw nothing: 2000 make a steady p-value")
    lost = _Lost.of(part, full, labels)
    reach, p_value = _at_once(lost, resamples, level, np.random.default_rng(seed))
    names = [str(c) for c in lost.kept] if classes is None else [classes[c] for c in lost.kept]
    columns = {"class": names, "rows": lost.counts, "loss": lost.loss, "excess": lost.excess}
    table = pd.DataFrame(columns | {"low": lost.excess - reach, "high": lost.excess + reach})
    falling = table.sort_values("loss", ascending=False, kind="stable", ignore_index=True)
    return _Affected(falling, p_value)


def affected_of_curves(
    probes: pd.DataFrame,
    correct: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | None = None,
    fraction: float = 0.1,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Test for each curve of a table that some classes are affected more than others.

    A seed's probe on a part of the features is paired with the same seed's on the whole layer.

    Arguments:
        probes: R rows, one a probe.
        correct: bool (R, n), whether each probe is right on each test row.
        labels: int64 (n,).
        classes: names; by default numbers.
        fraction: which part; the nearest below 1 that a curve has is taken.
        resamples: draws behind each test.
        level: coverage of each curve's intervals together.
        seed: of the draws.
        progress: callback.

    Returns:
        A row for each curve and class, the largest losses first: `CURVE`, `fraction`, `p_value` (of
        the curve), and the columns of `Affected.table`. Curves without a part or a full layer have
        no rows.

    Raises:
        DataError, UsageError: as `affected_classes`.
    """
    if "accuracy" not in probes:
        probes = probes.assign(accuracy=correct.mean(1))
    tables, found = [], curves(probes, correct)
    for number, curve in enumerate(found):
        near = nearest_part(pd.Series(curve.fractions), fraction)
        progress("curves", number + 1, len(found))
        if curve.whole is None or np.isnan(near):
            continue
        place = int(np.flatnonzero(curve.fractions == near)[0])
        both = [place, curve.whole]
        pairs = curve.rows[:, both][np.isfinite(curve.scores[:, both]).all(1)]
        if not len(pairs):
            continue
        part, whole = correct[pairs[:, 0]], correct[pairs[:, 1]]
        tested = affected_classes(part, whole, labels, classes, resamples, level, seed)
        facts = {**curve.names, "fraction": near, "p_value": tested.p_value}
        tables.append(tested.table.assign(**facts)[[*facts, *tested.table]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


@dataclass(frozen=True)
class _Lost:
    """Loss of each of C classes, and its variances.

    Attributes:
        kept: int64 (C,), the classes.
        counts: int64 (C,), their rows.
        loss: float64 (C,).
        rows: float64 (C,), the rows' variance of the loss.
        mean_rows: float64, the classes' mean variance of a row.
        seeds: float64, the seeds' variance of an excess; 0 for one seed.
        n_seeds: S.
    """

    kept: np.ndarray
    counts: np.ndarray
    loss: np.ndarray
    rows: np.ndarray
    mean_rows: float
    seeds: float
    n_seeds: int

    @property
    def excess(self) -> np.ndarray:
        """Losses less the mean loss of the classes."""
        return self.loss - self.loss.mean()

    @classmethod
    def of(cls, part: np.ndarray, full: np.ndarray, labels: np.ndarray) -> "_Lost":
        part, full = np.atleast_2d(part), np.atleast_2d(full)
        if part.shape != full.shape or part.shape[1:] != labels.shape:
            raise DataError(
                f"correctness of shapes {part.shape} and {full.shape} for labels of shape "
                f"{labels.shape}: both are (seeds, rows), of the same seeds and rows"
            )
        counts = np.bincount(labels)
        kept = np.flatnonzero(counts >= 2)
        if len(kept) < 2:
            raise DataError(
                "fewer than 2 classes have 2 test rows or more: there is nothing to compare"
            )
        lost = full.astype(np.float32) - part.astype(np.float32)
        of_seeds = _by_class(lost, labels)[:, kept] / counts[kept]
        loss, few = of_seeds.mean(0), counts[kept] - 1
        squares = _by_class(lost.mean(0, keepdims=True) ** 2, labels)[0, kept]
        squares = np.maximum(squares - counts[kept] * loss**2, 0)
        mean_rows = float(squares.sum() / few.sum())
        rows = (squares + _MORE * mean_rows) / (few + _MORE) / counts[kept]
        # what seeds, rows and classes leave: the sum of squares of a two-way analysis of variance
        total = _by_class(lost**2, labels)[:, kept].sum(0) - counts[kept] * (of_seeds**2).sum(0)
        rest = np.maximum(total - len(lost) * squares, 0)
        seeds = _of_seeds(of_seeds, rest / (max(len(lost) - 1, 1) * few) / counts[kept])
        return cls(kept, counts[kept], loss, rows, mean_rows, seeds, len(lost))


def _by_class(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the sums of values (S, n) over the rows of each class, float64 (S, C)."""
    return np.stack([np.bincount(labels, each) for each in values])


def _of_seeds(of_seeds: np.ndarray, rest: np.ndarray) -> float:
    """Return by how much one seed's excess varies beyond what its rows make it vary.

    Arguments:
        of_seeds: (S, C), losses.
        rest: (C,), variance of one seed's loss that its rows alone make.
    """
    n_seeds, n_classes = of_seeds.shape
    if n_seeds < 2:
        return 0.0
    excess = of_seeds - of_seeds.mean(1, keepdims=True)
    # the mean over classes, taken away, has a share of every class's rows
    of_rows = rest * (1 - 2 / n_classes) + rest.mean() / n_classes
    beyond = (excess.var(0, ddof=1) - of_rows).mean() / (1 - 1 / n_classes)
    return max(float(beyond), 0.0)


def _at_once(
    lost: _Lost, resamples: int, level: float, random: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return how far each class's interval reaches, (C,), and the p-value."""
    n_classes, seeds = len(lost.kept), lost.seeds / lost.n_seeds
    scale = np.sqrt(lost.mean_rows / lost.counts + seeds)
    shift = random.standard_normal((resamples, n_classes)) * np.sqrt(lost.rows)
    if seeds > 0:
        freedom = (lost.n_seeds - 1) * (n_classes - 1)
        heavier = np.sqrt(freedom / random.chisquare(freedom, (resamples, 1)))
        shift += random.standard_normal((resamples, n_classes)) * np.sqrt(seeds) * heavier
    shift -= shift.mean(1, keepdims=True)
    if not scale.all():  # no row changed anywhere
        return np.zeros(n_classes), 1.0
    largest = (np.abs(shift) / scale).max(1)
    beyond = (largest >= (np.abs(lost.excess) / scale).max()).sum()
    reach = np.quantile(largest, level, method="higher") * scale
    return reach, float((1 + beyond) / (1 + resamples))

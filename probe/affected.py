"""Tests whether some classes lose more than others, on test rows and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.curve import check_level, curves
from probe.errors import DataError, UsageError
from probe.inequality import nearest_part
from probe.progress import Progress, silent

MORE = 4
"""Rows of the classes' mean variance that each class is given besides its own."""


@dataclass(frozen=True)
class Affected:
    """What each class loses beyond the mean of all classes.

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
) -> Affected:
    """Test the claim that some classes are affected more than others by taking fewer features.

    Each test row is paired with itself: d = right by the full layer - right by the part. With the
    loss L_c, the mean of d over seeds and the n_c rows of a class, the excess e_c = L_c - mean L
    and its variance v_c,

        T = max_c |e_c| / sqrt(v_c),    T* = the same of draws of the excess if all lose the same,

    and the interval of class c is e_c +- q sqrt(v_c), q the quantile of T*: with probability
    `level` all of them hold at once. Draws are normal, with two shares of variance (`probe.curve`):

    * of rows, independent between classes: that of d averaged over seeds, within the class. So that
      a class in which no row happens to change does not seem certain, `MORE` rows of the classes'
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
    return Affected(falling, p_value)


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
    """What each of C classes loses, and how surely.

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
        rows = (squares + MORE * mean_rows) / (few + MORE) / counts[kept]
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

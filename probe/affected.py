"""Whether some classes lose more than others: a paired bootstrap over test rows and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.bootstrap import check_level, draws, on_drawn_rows
from probe.curve_names import curves_of
from probe.errors import DataError
from probe.inequality import nearest_part
from probe.progress import Progress, silent
from probe.summaries import CURVE, as_curves


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
    progress: Progress = silent,
) -> Affected:
    """Test the claim that some classes are affected more than others by taking fewer features.

    Each test row is paired with itself: d = right by the full layer - right by the part. Rows are
    drawn again within their class and, of several seeds, seeds of the whole sample, independently
    (Owen 2007, which errs to the wide side). With excess e_c = loss_c - mean loss and n_c rows,

        T = max_c sqrt(n_c) |e_c|,    T* = max_c sqrt(n_c) |e*_c - e_c|

    and the interval of class c is e_c +- q / sqrt(n_c), q the quantile of T*: with probability
    `level` all of them hold at once. The weights sqrt(n_c) are of one variance for all classes, so
    that a class in which no row happens to change does not seem certain.

    Arguments:
        part: bool (S, n), whether each seed's probe on a part of the features is right on each
            test row; (n,) for one.
        full: bool (S, n), the same seeds' probes on the whole layer.
        labels: int64 (n,), the rows' classes.
        classes: names; by default numbers. Classes of fewer than 2 rows are left out.
        resamples: B.
        level: coverage of the intervals together.
        seed: of the draws.
        progress: callback.

    Raises:
        DataError: the shapes differ, or fewer than 2 classes have 2 rows.
        UsageError: level is outside (0, 1).

    References:
        Westfall and Young, "Resampling-based multiple testing", 1993 (the distribution of T).
        Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007.
    """
    check_level(level)
    lost, counts = _lost(part, full, labels)
    kept = np.flatnonzero(counts >= 2)
    random = np.random.default_rng(seed)
    times = draws(len(lost), resamples, random)
    of_kept = [lost[:, labels == c] for c in kept]
    replicates = []
    for rows in of_kept:
        replicates.append(_of_class(rows, times, random))
        progress("classes", len(replicates), len(kept))
    loss = np.array([rows.mean(dtype=np.float64) for rows in of_kept])
    excess = loss - loss.mean()
    reach, p_value = _at_once(np.stack(replicates, 1) - loss, excess, counts[kept], level)
    names = [str(c) for c in kept] if classes is None else [classes[c] for c in kept]
    columns = {"class": names, "rows": counts[kept], "loss": loss, "excess": excess}
    table = pd.DataFrame(columns | {"low": excess - reach, "high": excess + reach})
    falling = table.sort_values("loss", ascending=False, kind="stable", ignore_index=True)
    return Affected(falling, p_value)


def affected_of_curves(
    probes: pd.DataFrame,
    correct: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str] | None = None,
    fraction: float = 0.1,
    **draws: int | float | Progress,
) -> pd.DataFrame:
    """Test for each curve of a table that some classes are affected more than others.

    A seed's probe on a part of the features is paired with the same seed's on the whole layer.

    Arguments:
        probes: R rows, one a probe.
        correct: bool (R, n), whether each probe is right on each test row.
        labels: int64 (n,).
        classes: names; by default numbers.
        fraction: which part; the nearest below 1 that a curve has is taken.
        **draws: `resamples`, `level`, `seed` and `progress` of `affected_classes`.

    Returns:
        A row for each curve and class, the largest losses first: `CURVE`, `fraction`, `p_value` (of
        the curve), and the columns of `Affected.table`. Curves without a part or a full layer have
        no rows.

    Raises:
        DataError, UsageError: as `affected_classes`.
    """
    tables = []
    for curve in curves_of(as_curves(probes.assign(row=np.arange(len(probes))))):
        curve = curve.assign(seed=curve["seed"].astype("Int64").fillna(-1)).set_index("seed")
        near = nearest_part(curve["fraction"], fraction)
        parts, full = (curve.loc[curve["fraction"] == f, "row"] for f in (near, 1.0))
        seeds = parts.index.intersection(full.index)
        if not len(seeds):
            continue
        part, whole = (correct[rows[seeds].to_numpy()] for rows in (parts, full))
        found = affected_classes(part, whole, labels, classes, **draws)
        facts = curve.iloc[0][CURVE].to_dict() | {"fraction": near, "p_value": found.p_value}
        tables.append(found.table.assign(**facts)[[*facts, *found.table]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _at_once(
    shift: np.ndarray, excess: np.ndarray, counts: np.ndarray, level: float
) -> tuple[np.ndarray, float]:
    """Return how far each class's interval reaches, (C,), and the p-value.

    Arguments:
        shift: (B, C), of the losses of the resamples from the sample's.
        excess: (C,).
        counts: (C,), rows.
        level: coverage.
    """
    weights = np.sqrt(counts)
    # draws of n rows have (n - 1) / n of the variance of a new sample
    shift = shift * np.sqrt(counts / (counts - 1))
    largest = (np.abs(shift - shift.mean(1, keepdims=True)) * weights).max(1)
    beyond = (largest >= (np.abs(excess) * weights).max()).sum()
    p_value = (1 + beyond) / (1 + len(shift))
    return np.quantile(largest, level, method="higher") / weights, float(p_value)


def _lost(part: np.ndarray, full: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return d, float32 (S, n), and the rows of each class, int64 (C,)."""
    part, full = np.atleast_2d(part), np.atleast_2d(full)
    if part.shape != full.shape or part.shape[1:] != labels.shape:
        raise DataError(
            f"correctness of shapes {part.shape} and {full.shape} for labels of shape "
            f"{labels.shape}: both are (seeds, rows), of the same seeds and rows"
        )
    counts = np.bincount(labels)
    if (counts >= 2).sum() < 2:
        raise DataError(
            "fewer than 2 classes have 2 test rows or more: there is nothing to compare"
        )
    return full.astype(np.float32) - part.astype(np.float32), counts


def _of_class(lost: np.ndarray, seeds: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the mean loss of one class on each resample, (B,): rows drawn here, seeds given."""
    sums = np.concatenate(list(on_drawn_rows(lost, len(seeds), random)))
    return (sums * seeds).sum(1) / lost.size

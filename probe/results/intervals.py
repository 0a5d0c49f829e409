"""Variance of means over seeds and test rows, and the intervals that it makes.

A mean over S seeds and n test rows varies for two reasons: other seeds draw other features, and
another test set has other rows. All probes meet the same rows, so the two are crossed:

    score of seed s on row i = mean + seed_s + row_i + rest_si
    Var(mean) = Var(seed) / S + Var(row) / n + Var(rest) / (S n)

What seeds change is known from S values alone and has Student's quantile, with S - 1 degrees of
freedom; what rows change is known from all rows and has the normal's. An interval reaches

    sqrt(t^2 V_seeds + z^2 V_rows),    V_seeds + V_rows = Var(mean)

to either side. The rest is in what S scores vary by and in what their mean over seeds varies by
from row to row; `split` says with which quantile it goes. Train rows are the same in every probe,
so no interval holds what other ones would change.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from featstore.probe.errors import UsageError

OVER = {
    (True, True): "seeds and test rows",
    (True, False): "seeds",
    (False, True): "test rows",
    (False, False): "",
}
"""Which shares of the variance an interval holds, by whether seeds and test rows are known."""


def over_of(rows: pd.DataFrame) -> str:
    """Say what the intervals of a table of curves are over; empty where there is none.

    >>> both = OVER[True, True]
    >>> over_of(pd.DataFrame({"fraction": [0.1, 1.0], "over": [both, "test rows"]}))
    'seeds and test rows'
    >>> over_of(pd.DataFrame({"fraction": [0.1, 0.1], "over": [both, "seeds"]}))
    'seeds and test rows, or seeds alone'
    """
    parts = rows[rows["fraction"] < 1]
    known = set((parts if len(parts) else rows)["over"].dropna())
    found = [each for each in OVER.values() if each and each in known]
    return ", or ".join(each if each == OVER[True, True] else f"{each} alone" for each in found)


@dataclass(frozen=True)
class Variance:
    """Variance of means over seeds and test rows, in its two shares.

    Attributes:
        seeds: (...), what other seeds would change; NaN where it is not known.
        rows: (...), what other test rows would change; NaN where it is not known.
        n_seeds: (...), S; 1 for a probe that no seed changes.
    """

    seeds: np.ndarray
    rows: np.ndarray
    n_seeds: np.ndarray

    def reach(self, level: float) -> np.ndarray:
        """Return how far an interval reaches to either side; NaN where neither share is known.

        Raises:
            UsageError: level is outside (0, 1).
        """
        check_level(level)
        middle = (1 + level) / 2
        student = stdtrit(np.maximum(self.n_seeds - 1, 1), middle)
        shares = np.stack([student**2 * self.seeds, ndtri(middle) ** 2 * self.rows])
        return np.where(np.isnan(shares).all(0), np.nan, np.sqrt(np.nansum(shares, axis=0)))

    @property
    def over(self) -> np.ndarray:
        """Names of what intervals are over, as `OVER` has them."""
        known = zip(
            np.ravel(np.isfinite(self.seeds)), np.ravel(np.isfinite(self.rows)), strict=True
        )
        return np.array([OVER[bool(s), bool(r)] for s, r in known], dtype=object)


def crossed(of_seeds: np.ndarray, of_rows: np.ndarray | None = None) -> Variance:
    """Return the variance of the mean of S values, each a mean over the same n test rows.

    Arguments:
        of_seeds: (S,), the statistic of each seed.
        of_rows: (S, n), by how much each row moves each seed's statistic: its values less their
            mean, or the influences of a smooth statistic; None if rows are not known.

    Example:
        >>> found = crossed(np.array([0.4, 0.6]))
        >>> round(float(found.seeds), 3), float(found.rows)
        (0.01, nan)
    """
    n_seeds = len(of_seeds)
    seeds = np.var(of_seeds, ddof=1) / n_seeds if n_seeds > 1 else np.nan
    if of_rows is None:
        return Variance(np.asarray(seeds), np.asarray(np.nan), np.asarray(n_seeds))
    rows, rest = rows_and_rest(of_rows)
    return split(np.asarray(seeds), np.asarray(rows), np.asarray(rest), np.asarray(n_seeds))


def split(seeds: np.ndarray, rows: np.ndarray, rest: np.ndarray, n_seeds: np.ndarray) -> Variance:
    """Return the two shares of a variance, the rest counted once.

    With the rows alone (V_seeds = Var(scores) / S - rest, or 0) an interval is too narrow where few
    seeds happen to be alike and the rest is most of the noise, as in differences; with the seeds
    alone it is too wide where rows' difficulty is most of it. So it goes with the seeds by the
    share that it has in the rows' variance: exact where that is all, and where it is nothing.

    Arguments:
        seeds: (...), what S scores vary by, over S; the rest is in it.
        rows: (...), variance of the mean over seeds from row to row, over n; the rest is in it.
        rest: (...), Var(rest) / (S n).
        n_seeds: (...), S.
    """
    rest = np.fmin(rest, rows)  # estimated apart, it can come out larger than what it is part of
    share = np.divide(rest, rows, out=np.zeros(np.shape(rest)), where=rows > 0).clip(0, 1)
    without = np.maximum(seeds - rest, 0)
    return Variance(share * seeds + (1 - share) * without, rows - share * rest, n_seeds)


def rows_and_rest(influence: np.ndarray) -> tuple[float, float]:
    """Return the rows' variance of the mean of influences (S, n), and the share of the rest in it.

    The rest's share, Var(rest) / (S n), stands in the variance between seeds too.
    """
    n_seeds, n = influence.shape
    if n < 2:
        return np.nan, 0.0
    mean = influence.mean(0, dtype=np.float64)
    rows = float(mean @ mean - n * mean.mean() ** 2) / (n - 1) / n
    if n_seeds < 2:
        return rows, 0.0
    total = float(np.einsum("si,si->", influence, influence, dtype=np.float64))
    of_seeds = influence.mean(1, dtype=np.float64)
    about = total - n_seeds * float(mean @ mean) - n * float(((of_seeds - mean.mean()) ** 2).sum())
    return rows, max(about, 0.0) / ((n_seeds - 1) * (n - 1)) / (n_seeds * n)


def check_level(level: float) -> None:
    """Raise UsageError unless `level` is a coverage, in (0, 1)."""
    if not 0 < level < 1:
        raise UsageError(f"level {level} is outside (0, 1): 0.95 stands for 95 %")


def wilson(
    mean: np.ndarray, reach: np.ndarray, n: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's interval of accuracies, which keeps to [0, 1].

    As many rows stand behind it as would give a sample's mean this reach.
    """
    square = ndtri((1 + level) / 2) ** 2
    spread = mean * (1 - mean)
    # a reach of 0, of seeds that agree, is that of rows without end
    rows = np.where(spread > 0, np.inf, float(n))
    np.divide(square * spread, reach**2, out=rows, where=(spread > 0) & (reach > 0))
    middle = (mean + square / (2 * rows)) / (1 + square / rows)
    half = np.sqrt(square) / (1 + square / rows) * np.sqrt(spread / rows + square / (4 * rows**2))
    unknown = np.where(np.isnan(reach), np.nan, 0)
    return np.maximum(middle - half, 0) + unknown, np.minimum(middle + half, 1) + unknown


def score_interval(
    sums: np.ndarray, squares: np.ndarray, n_rows: int, largest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of score intervals of mean paired differences of hits, float64 (D,) each.

    With g rows that gain and l that lose, the interval holds the d with (g - l - n d)^2 <=
    z^2 n (2 q + d - d^2), q the likeliest probability of a loss if the true mean is d. Of few or
    no rows that change, where +- z standard errors would be no interval at all, it is still good.

    Arguments:
        sums: g - l.
        squares: g + l.
        n_rows: n.
        largest: z.

    Reference:
        Tango, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design", Statistics in Medicine 1998.
    """
    lost = (squares - sums) / 2

    def inside(d: np.ndarray) -> np.ndarray:
        half = (2 * n_rows - sums) * d - squares
        root = np.sqrt(np.maximum(0.0, half**2 + 8 * n_rows * lost * d * (1 - d)))
        q = np.maximum(0.0, (root - half) / (4 * n_rows))
        spread = np.maximum(0.0, n_rows * (2 * q + d * (1 - d)))
        return (sums - n_rows * d) ** 2 <= largest**2 * spread

    ends = []
    for end in (-1.0, 1.0):
        within, beyond = sums / n_rows, np.full(len(sums), end)
        for _ in range(50):
            middle = (within + beyond) / 2
            held = inside(middle)
            within, beyond = np.where(held, middle, within), np.where(held, beyond, middle)
        ends.append(within)
    return ends[0], ends[1]


def mean_and_error(
    sums: np.ndarray, squares: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of `count` numbers and its standard error, from their sums and squares."""
    mean = sums / count
    variance = np.maximum(squares / count - mean**2, 0.0)
    # a variance that is rounding of its squares is none
    variance = np.where(variance > 1e-15 * squares / count, variance, 0.0)
    return mean, np.sqrt(variance / max(1, count - 1))

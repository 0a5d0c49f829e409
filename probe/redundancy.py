"""Diffused redundancy: the share of the features that a task can do without.

Intervals are of the bootstrap. Seeds are drawn again as whole curves, whose means are widened for
few seeds (`probe.bootstrap.widened`) before a fraction is read off them. Where it is known which
test rows each probe has right, rows are drawn again too, the same rows for every probe of a
resample, independently of the seeds: for the mean of two crossed factors that errs to the wide
side (Owen 2007).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.bootstrap import check_level, draws, interval, on_drawn_rows, widened
from probe.errors import DataError, UsageError
from probe.progress import Progress, silent
from probe.summaries import CURVE, as_curves, score_of

DELTAS = tuple(round(0.5 + 0.01 * step, 2) for step in range(51))
"""Shares of the full accuracy for the curve of DR against delta: 0.50, 0.51, ..., 1.00."""


def threshold(fractions: np.ndarray, ratios: np.ndarray, delta: float) -> np.ndarray:
    """Return min{f on the grid : ratio_f >= delta}: the definition in the paper's text.

    Of a curve that falls again the first crossing counts, as the minimum says.

    Arguments:
        fractions: (F,), rising.
        ratios: (B, F), B curves; NaN where a curve has no point.
        delta: the share of the full accuracy to be kept.

    Returns:
        float64 (B,), fractions; NaN for a curve that does not reach delta. So do the rules below.
    """
    reached = ratios >= delta
    return np.where(reached.any(1), fractions[reached.argmax(1)], np.nan)


def interpolated(fractions: np.ndarray, ratios: np.ndarray, delta: float) -> np.ndarray:
    """Return where the curve first reaches delta, between grid points.

    Between the crossing's two grid points the ratio is taken as linear in log f, the axis on which
    curves of accuracy against fraction are drawn and nearly straight. A curve that has reached
    delta at its smallest fraction answers with that fraction: the grid bounds its DR from below.
    """
    reached = ratios >= delta
    after = reached.argmax(1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(ratios))
    low, high = ratios[rows, before], ratios[rows, after]
    between = reached.any(1) & (low < delta)  # NaN is not
    share = np.divide(delta - low, high - low, out=np.ones(len(ratios)), where=between)
    log = np.log(fractions)
    inside = np.exp(log[before] + share * (log[after] - log[before]))
    # a grid point is that fraction itself, not the exponential of its logarithm
    return np.where(reached.any(1), np.where(share < 1, inside, fractions[after]), np.nan)


def nearest(fractions: np.ndarray, ratios: np.ndarray, delta: float) -> np.ndarray:
    """Return the grid fraction whose ratio is nearest delta, of equally near ones the smallest.

    So the paper's released code has it; such a fraction may keep less than delta.
    """
    distance = np.abs(ratios - delta)
    known = np.isfinite(distance)
    chosen = np.where(known, distance, np.inf).argmin(1)
    return np.where(known.any(1), fractions[chosen], np.nan)


RULES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "threshold": threshold,
    "interpolated": interpolated,
    "nearest": nearest,
}
"""How a fraction is read off a curve."""


def diffused_redundancy(
    table: pd.DataFrame,
    deltas: Sequence[float] = (0.9,),
    rules: Sequence[str] = tuple(RULES),
    correct: np.ndarray | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Return DR(delta) = 1 - f of each curve, f the fraction that keeps delta of the accuracy.

    f is read off the mean over seeds of acc_f / acc_full, each seed's accuracy over its own full
    layer's, by the rules in `RULES`. Where numbers are predicted, R^2 stands for accuracy.

    Arguments:
        table: R rows, one a probe, as `ProbeResult.to_pandas` gives them.
        deltas: shares of the full accuracy, in (0, 1]; with `DELTAS` the table is the DR curve.
        rules: keys of `RULES`.
        correct: bool (R, n), whether the probe of each row of `table` is right on each test row;
            it then stands for the table's accuracies, where these are not NaN.
        resamples: how many draws stand behind an interval.
        level: coverage of the intervals.
        seed: of the draws; the same seed gives the same intervals.
        progress: callback.

    Returns:
        A row for each curve, rule and delta: the columns `CURVE`, `rule`, `delta`, `seeds`,
        `fraction` (f), `redundancy` (1 - f), `low`, `high`. f and DR are NaN where the curve does
        not reach delta or has no full layer; low and high for one seed without `correct`.

    Raises:
        UsageError: a delta is outside (0, 1], there is no such rule, or level is outside (0, 1).
        DataError: `correct` does not have R rows, or a curve has two rows of a seed and fraction.

    References:
        Nanda et al., "Diffused Redundancy in Pre-trained Representations", NeurIPS 2023.
        Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007.

    Example:
        >>> row = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 1e-3}
        >>> points = [(1, 0.1, 0.6), (1, 0.4, 0.75), (1, 1.0, 0.8)]
        >>> keys = ["seed", "fraction", "accuracy"]
        >>> table = pd.DataFrame([row | dict(zip(keys, p, strict=True)) for p in points])
        >>> diffused_redundancy(table)[["rule", "delta", "redundancy"]].round(3)
                   rule  delta  redundancy
        0     threshold    0.9       0.600
        1  interpolated    0.9       0.697
        2       nearest    0.9       0.600
    """
    _check(table, deltas, rules, correct, level)
    rows = []
    numbered = as_curves(table.assign(row=np.arange(len(table))))
    curves = numbered.groupby(CURVE, dropna=False, sort=False)
    for number, (key, curve) in enumerate(curves):
        names, grid = dict(zip(CURVE, key, strict=True)), _Grid.of(curve, score_of(table), correct)
        readings = _readings(grid, deltas, rules, resamples, level, seed)
        rows += [names | reading for reading in readings]
        progress("curves", number + 1, len(curves))
    return pd.DataFrame(rows)


def _readings(
    grid: "_Grid",
    deltas: Sequence[float],
    rules: Sequence[str],
    resamples: int,
    level: float,
    seed: int,
) -> Iterator[dict[str, object]]:
    """Yield what each rule reads off a curve at each delta, with its interval."""
    mean = grid.mean()
    replicates = np.concatenate(list(grid.resampled(resamples, np.random.default_rng(seed))))
    replicates = widened(replicates, mean, grid.units, level)
    for rule in rules:
        for delta in deltas:
            kept = RULES[rule](grid.fractions, mean[None], delta)[0]
            low, high = interval(1 - RULES[rule](grid.fractions, replicates, delta), level)
            facts = {"rule": rule, "delta": delta, "seeds": len(grid.scores)}
            facts |= {"fraction": kept, "redundancy": 1 - kept}
            yield facts | {"low": float(low), "high": float(high)}


@dataclass(frozen=True)
class _Grid:
    """One curve.

    Attributes:
        fractions: (F,), rising.
        scores: (S, F), of each seed at each fraction; NaN where there is none.
        correct: float32 (S, F, n), or None.
    """

    fractions: np.ndarray
    scores: np.ndarray
    correct: np.ndarray | None

    @classmethod
    def of(cls, curve: pd.DataFrame, score: str, correct: np.ndarray | None) -> "_Grid":
        seeds = curve["seed"].astype(object).where(curve["seed"].notna(), None)
        row, n_seeds = pd.factorize(seeds, use_na_sentinel=False)
        fractions, column = np.unique(curve["fraction"], return_inverse=True)
        shape = (len(n_seeds), len(fractions))
        _check_distinct(row * len(fractions) + column, curve)
        scores = np.full(shape, np.nan)
        scores[row, column] = curve[score]
        if correct is None:
            return cls(fractions, scores, None)
        hits = np.full((*shape, correct.shape[1]), np.nan, np.float32)
        hits[row, column] = correct[curve["row"]]
        hits[np.isnan(scores)] = np.nan  # a probe that failed is right on no row that counts
        return cls(fractions, hits.mean(2, dtype=np.float64), hits)

    @property
    def units(self) -> int:
        """How many units are drawn again: seeds or, for a single seed, test rows."""
        n_seeds = len(self.scores)
        return n_seeds if n_seeds > 1 or self.correct is None else self.correct.shape[2]

    def mean(self) -> np.ndarray:
        """Return the mean ratio to the full layer at each fraction, (F,)."""
        ratios = _ratios(self.fractions, self.scores[None])
        return _weighted(ratios, np.ones((1, len(self.scores))))[0]

    def resampled(self, resamples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield mean ratios (b, F) of redrawn seeds and, if `correct` is known, rows."""
        seeds = draws(len(self.scores), resamples, random)
        if self.correct is None:
            yield _weighted(_ratios(self.fractions, self.scores[None]), seeds)
            return
        n_rows = self.correct.shape[2]
        done = 0
        for sums in on_drawn_rows(self.correct.reshape(-1, n_rows), resamples, random):
            some = seeds[done : done + len(sums)]
            scores = (sums / n_rows).reshape(len(some), *self.scores.shape)
            yield _weighted(_ratios(self.fractions, scores), some)
            done += len(some)


def _ratios(fractions: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return scores (b, S, F) over the same seed's full layer; NaN where that is not above 0."""
    full = np.broadcast_to(np.where(fractions == 1, scores, 0).sum(2, keepdims=True), scores.shape)
    return np.divide(scores, full, out=np.full_like(scores, np.nan), where=full > 0)


def _weighted(ratios: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the means (B, F) of ratios (b, S, F), b = B or 1, each seed counted (B, S) times."""
    known = np.isfinite(ratios)
    sums = np.einsum("bs,bsf->bf", times, np.where(known, ratios, 0))
    counts = np.einsum("bs,bsf->bf", times, known.astype(np.float64))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _check_distinct(places: np.ndarray, curve: pd.DataFrame) -> None:
    twice = pd.Series(places).duplicated().to_numpy()
    if twice.any():
        first = curve.iloc[int(twice.argmax())]
        raise DataError(
            f"fraction {first.fraction:g} of seed {first.seed} stands twice in a curve of mode "
            f"{first['mode']!r}, solver {first.solver!r}: keep one row for each probe"
        )


def _check(
    table: pd.DataFrame,
    deltas: Sequence[float],
    rules: Sequence[str],
    correct: np.ndarray | None,
    level: float,
) -> None:
    check_level(level)
    for delta in deltas:
        if not 0 < delta <= 1:
            raise UsageError(f"delta {delta} is outside (0, 1]: 0.9 keeps 90 % of the accuracy")
    for rule in rules:
        if rule not in RULES:
            raise UsageError(f"no rule is called {rule!r}: there are {', '.join(RULES)}")
    if correct is not None and (correct.ndim != 2 or len(correct) != len(table)):
        raise DataError(
            f"correctness of shape {correct.shape} for a table of {len(table)} rows: "
            "give one row for each, (rows of the table, test rows)"
        )

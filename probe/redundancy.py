"""Diffused redundancy: the share of the features that a task can do without.

An interval is read where the ends of the curve's own interval (`featstore.probe.results.curves`)
reach delta: the true
curve crosses delta at f only if the interval at f holds delta.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from featstore.probe.errors import UsageError, several
from featstore.probe.memory import Progress, shows
from featstore.probe.results import Evidence, Probes
from featstore.probe.results.curves import Curve, curves
from featstore.probe.results.intervals import check_level

DELTAS = tuple(round(0.5 + 0.01 * step, 2) for step in range(51))
"""Shares of the full accuracy for the curve of DR against delta: 0.50, 0.51, ..., 1.00."""


def interpolated(fractions: np.ndarray, ratios: np.ndarray, delta: float) -> np.ndarray:
    """Return where the curve first reaches delta, between grid points: the rule by default.

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


def threshold(fractions: np.ndarray, ratios: np.ndarray, delta: float) -> np.ndarray:
    """Return min{f on the grid : ratio_f >= delta}: the definition in the paper's text.

    Of a curve that falls again the first crossing counts, as the minimum says.

    Arguments:
        fractions: (F,), rising.
        ratios: (B, F), B curves; NaN where a curve has no point.
        delta: the share of the full accuracy to be kept.

    Returns:
        float64 (B,), fractions; NaN for a curve that does not reach delta.
    """
    reached = ratios >= delta
    return np.where(reached.any(1), fractions[reached.argmax(1)], np.nan)


def nearest(fractions: np.ndarray, ratios: np.ndarray, delta: float) -> np.ndarray:
    """Return the grid fraction whose ratio is nearest delta, of equally near ones the smallest.

    So the paper's released code has it; such a fraction may keep less than delta.
    """
    distance = np.abs(ratios - delta)
    known = np.isfinite(distance)
    chosen = np.where(known, distance, np.inf).argmin(1)
    return np.where(known.any(1), fractions[chosen], np.nan)


RULES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "interpolated": interpolated,
    "threshold": threshold,
    "nearest": nearest,
}
"""How a fraction is read off a curve; the first is the default everywhere."""

DEFAULT = ("interpolated",)


@shows
def diffused_redundancy(
    table: Probes,
    deltas: float | Sequence[float] = (0.9,),
    rules: str | Sequence[str] = DEFAULT,
    correct: Evidence = None,
    level: float = 0.95,
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Return DR(delta) = 1 - f of each curve, f the fraction that keeps delta of the accuracy.

    f is read off the mean over seeds of acc_f / acc_full, each seed's accuracy over its own full
    layer's, by the rules in `RULES`. Where numbers are predicted, R^2 stands for accuracy.

    Where the smallest fraction of a curve keeps delta already, a smaller one may too: DR is at
    least what it answers with, and an interval that begins there ends at 1.

    Arguments:
        table: a `ProbeResult`, or R rows, one a probe, as `to_pandas` gives them.
        deltas: shares of the full accuracy, in (0, 1]; with `DELTAS` the table is the DR curve.
        rules: keys of `RULES`.
        correct: (R, n), as `featstore.probe.results.curves.curves` takes it; intervals are then
            over test rows too.
        level: coverage of the intervals.
        progress: callback, or whether to show it; by default where somebody looks.

    Returns:
        A row for each curve, rule and delta: the columns `CURVE`, `rule`, `delta`, `seeds`,
        `fraction` (f), `redundancy` (1 - f), `low`, `high`, `bound` ("at least" or "") and `over`,
        what the interval is over. f and DR are NaN where the curve does not reach delta or has no
        full layer; low and high for one seed without `correct`.

    Raises:
        UsageError: a delta is outside (0, 1], there is no such rule, or level is outside (0, 1).
        DataError: `correct` does not have R rows, or a curve has two rows of a seed and fraction.

    References:
        Nanda et al., "Diffused Redundancy in Pre-trained Representations", NeurIPS 2023.
        Fieller, "Some problems in interval estimation", JRSS B 1954 (an interval for where a curve
        has a value is the set of points at which the curve's own interval holds that value).

    Example:
        >>> row = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 1e-3}
        >>> points = [(1, 0.1, 0.6), (1, 0.4, 0.75), (1, 1.0, 0.8)]
        >>> keys = ["seed", "fraction", "accuracy"]
        >>> table = pd.DataFrame([row | dict(zip(keys, p, strict=True)) for p in points])
        >>> found = diffused_redundancy(table, [0.9, 0.7], list(RULES))
        >>> for row in found.round(3).itertuples():
        ...     print(row.rule, row.delta, row.bound or "=", row.redundancy)
        interpolated 0.9 = 0.697
        interpolated 0.7 at least 0.9
        threshold 0.9 = 0.6
        threshold 0.7 at least 0.9
        nearest 0.9 = 0.6
        nearest 0.7 at least 0.9
    """
    deltas, rules = several(deltas), (rules,) if isinstance(rules, str) else rules
    _check(deltas, rules, level)
    found, rows = curves(table, correct), []
    for number, curve in enumerate(found):
        rows += [dict(curve.names) | read for read in of_curve(curve, deltas, rules, level)]
        progress("curves", number + 1, len(found))
    return pd.DataFrame(rows)


def of_curve(
    curve: Curve, deltas: Sequence[float], rules: Sequence[str], level: float
) -> Iterator[dict[str, object]]:
    """Yield what each rule reads off a curve at each delta, with its interval."""
    ratio, (low, high, variance) = curve.ratio()[None], curve.ratio_interval(level)
    on_grid, between = (curve.fractions, low, high), curve.ratio_band(level)
    seeds = len(curve.seeds)
    known = variance.over[curve.fractions < 1]
    over = known[0] if len(known) else ""
    for rule in rules:
        fractions, low, high = between if rule == "interpolated" else on_grid
        for delta in deltas:
            kept = float(RULES[rule](curve.fractions, ratio, delta)[0])
            ends = RULES[rule](fractions, np.stack([high, low]), delta)
            least, most = np.fmin(ends[0], kept), np.fmax(ends[1], kept)
            facts = {"rule": rule, "delta": delta, "seeds": seeds}
            facts |= {"fraction": kept, "redundancy": 1 - kept}
            unknown = np.isnan(ends).any()
            facts |= {"low": np.nan if unknown else 1 - most}
            facts |= {"high": np.nan if unknown else 1 - (0 if _open(curve, least) else least)}
            first = _open(curve, kept) and ratio[0, 0] >= delta
            yield facts | {"bound": "at least" if first else "", "over": over}


def _open(curve: Curve, fraction: float) -> bool:
    """Return whether a fraction is the smallest of a curve, and smaller ones could be probed."""
    return fraction == curve.fractions[0] < 1 and curve.sizes[0] != 1


def _check(deltas: Sequence[float], rules: Sequence[str], level: float) -> None:
    check_level(level)
    for delta in deltas:
        if not 0 < delta <= 1:
            raise UsageError(f"delta {delta} is outside (0, 1]: 0.9 keeps 90 % of the accuracy")
    for rule in rules:
        if rule not in RULES:
            raise UsageError(f"no rule is called {rule!r}: there are {', '.join(RULES)}")

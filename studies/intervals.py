"""Intervals of the mean accuracy of a curve, and of its share of the full layer's."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from probe.bootstrap import draws, interval, on_drawn_rows, widened
from probe.summaries import CURVE, as_curves, score_of


@dataclass(frozen=True)
class Resampling:
    """How intervals come about: `resamples` draws by `seed`, of coverage `level`."""

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class _Drawn:
    """Accuracies (B, R) of R probes on draws of `n_rows` test rows."""

    accuracies: np.ndarray
    n_rows: int


def curve_table(
    table: pd.DataFrame, correct: np.ndarray | None = None, how: Resampling | None = None
) -> pd.DataFrame:
    """Return a row a curve and fraction: mean, spread and interval of accuracy and of ratio.

    The ratio is each seed's accuracy over its own full layer's, as in `probe.summaries`. Intervals
    are of the bootstrap over seeds and, with `correct`, over test rows too, the same rows for every
    probe of a resample (`probe.bootstrap`). A curve of one seed has none without `correct`.

    Arguments:
        table: R rows, one a probe, as `ProbeResult.to_pandas` gives them.
        correct: bool (R, n), whether each is right on each test row.
        how: the resampling.

    Returns:
        The columns `CURVE`, `fraction`, `k`, `probes`, then for each of `accuracy` (or `r2`) and
        `ratio` the mean, `_std` (sample, over seeds), `_low` and `_high`.
    """
    how, rows, score = how or Resampling(), [], score_of(table)
    drawn = None if correct is None else _on_drawn_rows(correct, how)
    table = as_curves(table.assign(row=np.arange(len(table))))
    for key, curve in table.groupby(CURVE, dropna=False, sort=False):
        names = dict(zip(CURVE, key, strict=True))
        rows += [names | facts for facts in _readings(curve, score, drawn, how)]
    return pd.DataFrame(rows)


def student(differences: np.ndarray, level: float) -> tuple[float, float, float]:
    """Return standard error and interval of the mean of n differences: m +- t_{n-1} s / sqrt(n).

    >>> [round(each, 3) for each in student(np.array([1.0, 2.0, 3.0]), 0.95)]
    [0.577, -0.484, 4.484]
    """
    n = len(differences)
    if n < 2:
        return (float("nan"),) * 3
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(n)
    reach = t.ppf((1 + level) / 2, n - 1) * error
    return float(error), float(mean - reach), float(mean + reach)


def _readings(curve: pd.DataFrame, score: str, drawn: _Drawn | None, how: Resampling):
    seeds = curve["seed"].astype("Int64").fillna(-1)
    row, names = pd.factorize(seeds)
    fractions, column = np.unique(curve["fraction"], return_inverse=True)
    scores = np.full((len(names), len(fractions)), np.nan)
    scores[row, column] = curve[score]
    replicates, units = scores[None], len(names)
    if drawn is not None:
        replicates = np.full((how.resamples, *scores.shape), np.nan)
        replicates[:, row, column] = drawn.accuracies[:, curve["row"]]
        units = len(names) if len(names) > 1 else drawn.n_rows
    sizes = curve.groupby("fraction")["k"].first()
    whole = np.flatnonzero(fractions == 1)
    columns = {score: (scores, replicates)}
    columns["ratio"] = (_shares(scores, whole), _shares(replicates, whole))
    times = draws(len(names), how.resamples, np.random.default_rng(how.seed + 1))
    facts = {}
    for name, (values, drawn) in columns.items():
        facts[name] = values.mean(0)
        single = len(names) < 2
        facts[f"{name}_std"] = np.full(len(fractions), np.nan) if single else values.std(0, ddof=1)
        means = np.einsum("bs,bsf->bf", times / len(names), np.broadcast_to(
            drawn, (how.resamples, *values.shape)))  # fmt: skip
        means = widened(means, facts[name], units, how.level)
        ends = interval(means, how.level)
        if name != "r2":  # widened for few seeds they may leave what an accuracy can be
            ends = np.maximum(ends, 0)
        if name == "accuracy":
            ends = np.minimum(ends, 1)
        facts[f"{name}_low"], facts[f"{name}_high"] = ends
    for place, fraction in enumerate(fractions):
        known = {"fraction": fraction, "k": int(sizes[fraction]), "probes": len(names)}
        yield known | {name: float(values[place]) for name, values in facts.items()}


def _shares(scores: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return scores (..., F) over the whole layer's; NaN where that is 0 or not there."""
    full = scores[..., whole] if len(whole) else np.zeros((*scores.shape[:-1], 1))
    return np.divide(scores, full, out=np.full_like(scores, np.nan), where=full > 0)


def _on_drawn_rows(correct: np.ndarray, how: Resampling) -> _Drawn:
    """Return the accuracies of R probes on drawn test rows, the same rows for all of them."""
    n_rows, random = correct.shape[1], np.random.default_rng(how.seed)
    sums = list(on_drawn_rows(correct.astype(np.float32), how.resamples, random))
    return _Drawn(np.concatenate(sums) / n_rows, n_rows)

"""A curve of scores against fractions of the features, and what is read off it.

Its intervals are over seeds and test rows: see `featstore.probe.results.intervals`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import binom

from featstore.probe.errors import DataError
from featstore.probe.results import (
    CURVE,
    Evidence,
    Probes,
    as_curves,
    chance_of,
    floor_of,
    score_of,
    table_of,
)
from featstore.probe.results.intervals import (
    Variance,
    check_level,
    crossed,
    rows_and_rest,
    split,
    wilson,
)

NOISE = 0.025
"""The probability of a score as high without any feature, from which on it may be noise."""


def has_groups(table: pd.DataFrame) -> bool:
    """Return whether the test rows of a table of results are of groups."""
    return "n_groups" in table and table["n_groups"].notna().any()


@dataclass(frozen=True)
class Curve:
    """Scores of one store, tap, mode, solver and penalty against the fraction of the features.

    Attributes:
        names: the values of `CURVE`.
        score: its column, one of `featstore.probe.results.SCORES`, or top<k>.
        fractions: float64 (F,), rising.
        sizes: int64 (F,), numbers of features; 0 where the table does not say.
        seeds: S of them, None for a mode without seeds.
        scores: float64 (S, F); NaN where a seed lacks a fraction.
        rows: int64 (S, F), where each probe stands in the table; -1 where a seed lacks a fraction.
        evidence: (R, n), of each probe of the table on each test row: whether it is right (bool or
            uint8) or its part in another score (`featstore.probe.results.evidence`); None if not
            known.
        floor: what is reached without any feature: of accuracies the larger of 1/C and the share of
            the class that is commonest in train, of R^2 0; NaN if that is not known.
        chance: what a guess reaches, as `featstore.probe.results.chance_of` says.
        shift: what is subtracted from every score before ratios are taken: 0, or chance.
        n_test: test rows; 0 if that is not known.
        n_groups: groups that they are of; 0 where each row stands for itself.
        n_folds: folds in which they were tested; 0 where they are a split of their own.
        places: int64 (S, F), as `rows`, in the table that the curve is of; they differ where the
            evidence is of this curve alone.
    """

    names: Mapping[str, object]
    score: str
    fractions: np.ndarray
    sizes: np.ndarray
    seeds: tuple[int | None, ...]
    scores: np.ndarray
    rows: np.ndarray
    evidence: np.ndarray | None = None
    floor: float = float("nan")
    n_test: int = 0
    places: np.ndarray | None = None
    chance: float = float("nan")
    shift: float = 0.0
    n_groups: int = 0
    n_folds: int = 0

    @property
    def correct(self) -> np.ndarray | None:
        """Return the evidence as a grid, (S, F, n); a probe that is not there is right nowhere."""
        if self.evidence is None:
            return None
        return np.where(self.rows[..., None] < 0, 0, self.evidence[self.rows])

    @property
    def tested(self) -> str:
        """Say how many test rows there are, of how many groups, in how many folds."""
        groups = f" of {self.n_groups:,} groups" if self.n_groups else ""
        folds = f" in {self.n_folds} folds" if self.n_folds else ""
        return f"{self.n_test:,} test rows{groups}{folds}"

    @cached_property
    def whole(self) -> int | None:
        """The place of the full layer among the fractions; None if it was not probed."""
        places = np.flatnonzero(self.fractions == 1)
        return int(places[0]) if len(places) else None

    @cached_property
    def counted(self) -> np.ndarray:
        """Int64 (F,), how many probes stand behind each mean: a full layer that is one counts 1."""
        counts = np.isfinite(self.scores).sum(0)
        if self.one_full:
            counts[self.whole] = min(counts[self.whole], 1)
        return counts

    @cached_property
    def one_full(self) -> bool:
        """True if the full layer of all seeds is one probe: the same score, right on the same rows.

        So it is but for solvers that draw by the seed.
        """
        if self.whole is None:
            return False
        known = np.isfinite(self.scores[:, self.whole])
        scores = self.scores[known, self.whole]
        if not len(scores) or (scores != scores[0]).any():
            return False
        if self.evidence is None:
            return True
        first, *others = self.rows[known, self.whole]
        return all((self.evidence[other] == self.evidence[first]).all() for other in others)

    def mean(self) -> np.ndarray:
        """Return the mean score at each fraction, float64 (F,); NaN where there is none."""
        return _mean(self.scores)

    def ratios(self) -> np.ndarray:
        """Return each seed's scores over its own full layer's, float64 (S, F).

        NaN where a seed has no full layer, or one that is not above 0.
        """
        return (self.scores - self.shift) / self._of_full[:, None]

    @property
    def over_chance(self) -> "Curve":
        """The curve whose ratios are corrected for chance: (score - chance) / (full - chance)."""
        return replace(self, shift=self.chance)

    @cached_property
    def _of_full(self) -> np.ndarray:
        """The full layer's scores, float64 (S,); NaN where there is none, or none above 0.

        So they are where all of them together are within noise of what takes no feature: a share of
        such a score is a share of noise.
        """
        if self.whole is None or not self.above_floor:
            return np.full(len(self.seeds), np.nan)
        of_full = self.scores[:, self.whole] - self.shift
        return np.where(of_full > 0, of_full, np.nan)

    @cached_property
    def above_floor(self) -> bool:
        """True if the full layer beats what takes no feature by more than noise.

        Accuracies are held against the floor by the exact binomial test on the test rows, other
        scores, and accuracies of rows in groups, by their interval, each to one side at 2.5 %.
        Where rows are not known, the standard error of other scores than R^2 is that of n test
        rows that no feature tells anything of, 1 / sqrt(3 n) for AUROC and 1 / sqrt(n) for kappa
        (of two equal classes; of more it is less), and sqrt(f (1 - f) / n) for the others, f being
        the floor. What is not known speaks for the full layer.
        """
        if self.whole is None:
            return True
        scores = self.scores[:, self.whole]
        score = float(_mean(scores[:, None])[0])
        if self.score not in ("accuracy", "r2") and self.evidence is None:
            return not score - self._noise <= self.floor
        if self.score != "accuracy" or (self.n_groups and self.evidence is not None):
            floor = 0 if self.score == "r2" else self.floor
            _, moved, influence = self.at(self.whole)
            if influence is None or not len(moved):
                return not score <= floor
            reach = float(np.nan_to_num(crossed(moved, influence).reach(0.95)))
            return not score - reach <= floor
        if np.isnan(score) or np.isnan(self.floor) or not self.n_test:
            return True
        return bool(binom.sf(round(score * self.n_test) - 1, self.n_test, self.floor) < NOISE)

    @property
    def _is_share(self) -> bool:
        """True for a score in [0, 1], whose intervals are to be there too."""
        return self.score not in ("r2", "kappa")

    @property
    def _noise(self) -> float:
        """Return how far a score without any feature may be above the floor; 0 if not known."""
        if not self.n_test or np.isnan(self.floor):
            return 0.0
        spread = {"auroc": 1 / 3, "kappa": 1.0}.get(self.score, self.floor * (1 - self.floor))
        return float(ndtri(1 - NOISE) * np.sqrt(spread / self.n_test))

    def ratio(self) -> np.ndarray:
        """Return the mean over seeds of the ratios to the full layer, float64 (F,)."""
        return _mean(self.ratios())

    def mean_interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, Variance]:
        """Return low, high (F,) of the mean scores, and their variance."""
        variance = self._of_scores.own
        mean, reach = self.mean(), variance.reach(level)
        if not self._is_share:
            return mean - reach, mean + reach, variance
        low, high = np.maximum(mean - reach, 0), np.minimum(mean + reach, 1)
        if self.evidence is not None:
            low, high = wilson(mean, reach, self.evidence.shape[1], level)
        return low, high, variance

    def ratio_interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, Variance]:
        """Return low, high (F,) of the mean ratios, and their variance.

        The full layer's rows vary with the parts' rows: its noise comes along.
        """
        variance = self._of_ratios.own
        ratio, reach = self.ratio(), variance.reach(level)
        low = ratio - reach
        # below chance is possible, below nothing is not
        bounded = self._is_share and not self.shift
        return np.maximum(low, 0) if bounded else low, ratio + reach, variance

    def ratio_band(
        self, level: float = 0.95, between: int = 8, most: int = 64
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return fractions and the low and high ends of the ratio there, (G,), between them too.

        Between two fractions the ratio is linear in log f. Its interval is narrower there than a
        line from end to end, since the noise of the two is not the same.

        Arguments:
            level: coverage at each fraction.
            between: pieces that each step from one fraction to the next is cut into.
            most: a curve of more fractions is not cut.
        """
        ratio, shares = self.ratio(), self._of_ratios
        if len(ratio) > most or len(ratio) < 2:
            low, high, _ = self.ratio_interval(level)
            return self.fractions, low, high
        low, high, fractions = [], [], []
        logs = np.log(self.fractions)
        for place in range(len(ratio) - 1):
            right = np.arange(between + (place == len(ratio) - 2)) / between
            left = 1 - right
            variance = shares.line(place, left, right)
            middle, reach = left * ratio[place] + right * ratio[place + 1], variance.reach(level)
            fractions.append(np.exp(left * logs[place] + right * logs[place + 1]))
            # a fraction that was probed is that fraction itself
            fractions[-1][right == 0] = self.fractions[place]
            fractions[-1][right == 1] = self.fractions[place + 1]
            low.append(middle - reach)
            high.append(middle + reach)
        return tuple(np.concatenate(parts) for parts in (fractions, low, high))

    def at(self, place: int) -> tuple[list[int | None], np.ndarray, np.ndarray | None]:
        """Return the seeds that have a score at a place, their scores (s,) and rows' influences.

        Influences are float32 (s, n), None if rows are not known. A full layer that is one probe
        has one score, of the first seed.
        """
        known = np.flatnonzero(np.isfinite(self.scores[:, place]))
        if place == self.whole and self.one_full:
            known = known[:1]
        seeds = [self.seeds[number] for number in known]
        return seeds, self.scores[known, place], self._influence(known, place, ratio=False)

    def pair(self, place: int, other: int) -> "Curve":
        """Return the curve of two places alone, in which `other` is what ratios are to."""
        both = [place, other]
        grids = {name: getattr(self, name)[:, both] for name in ("scores", "rows")}
        places = None if self.places is None else self.places[:, both]
        fractions = np.array([self.fractions[place], 1.0])
        return replace(self, fractions=fractions, sizes=self.sizes[both], places=places, **grids)

    @cached_property
    def _of_scores(self) -> "_Shares":
        return self._shares(ratio=False)

    @cached_property
    def _of_ratios(self) -> "_Shares":
        return self._shares(ratio=True)

    def _shares(self, ratio: bool) -> "_Shares":
        """Return the shares of variance at each fraction, and with the fraction after it."""
        values = self.ratios() if ratio else self.scores.copy()
        if self.one_full and not ratio:
            # one probe, of which no seed says anything
            values[np.isfinite(values[:, self.whole]).argmax() + 1 :, self.whole] = np.nan
        shares = _Shares.empty(len(self.fractions))
        before = None
        for place in range(len(self.fractions)):
            known = np.flatnonzero(np.isfinite(values[:, place]))
            here = (known, values[known, place], self._influence(known, place, ratio))
            shares.put(place, here, before)
            # scores are not read between fractions
            before = here if ratio else None
        if ratio and self.evidence is not None and self.score != "r2":
            # that no row differs is not certainty: of n rows, up to 4 / n may differ elsewhere
            least = (2 / (self.evidence.shape[1] * _mean(self._of_full[:, None])[0])) ** 2
            parts = self.fractions < 1
            shares.rows[parts] = np.maximum(shares.rows[parts], least)
        return shares

    def _influence(self, known: np.ndarray, place: int, ratio: bool) -> np.ndarray | None:
        """Return by how much each test row moves each seed's score or ratio, float32 (s, n)."""
        if self.evidence is None or not len(known):
            return None
        part = self.evidence[self.rows[known, place]].astype(np.float32)
        if not ratio:
            return part - part.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
        if place == self.whole:
            return np.zeros_like(part)
        full = self.evidence[self.rows[known, self.whole]]
        of_full = self._of_full[known, None]
        kept = ((self.scores[known, place, None] - self.shift) / of_full).astype(np.float32)
        if self.shift:
            part, full = part - np.float32(self.shift), full - np.float32(self.shift)
        return (part - kept * full) / of_full.astype(np.float32)


@dataclass(frozen=True)
class _Shares:
    """Shares of the variance of F means, and their covariances from one to the next.

    Attributes:
        seeds, rows, rest: float64 (F,), of each mean.
        next_seeds, next_rows, next_rest: float64 (F,), with the next one; the last is NaN.
        n_seeds: int64 (F,).
    """

    seeds: np.ndarray
    rows: np.ndarray
    rest: np.ndarray
    next_seeds: np.ndarray
    next_rows: np.ndarray
    next_rest: np.ndarray
    n_seeds: np.ndarray

    @classmethod
    def empty(cls, count: int) -> "_Shares":
        return cls(*np.full((6, count), np.nan), np.ones(count, np.int64))

    def put(self, place: int, here: tuple, before: tuple | None) -> None:
        """Take the mean at one place: which seeds it has, their values and the rows' influence."""
        known, values, influence = here
        self.n_seeds[place] = max(len(known), 1)
        if not len(known):
            return
        if len(known) > 1:
            self.seeds[place] = np.var(values, ddof=1) / len(known)
        self.rest[place] = 0.0
        if influence is not None:
            self.rows[place], self.rest[place] = rows_and_rest(influence)
        if before is None or not np.array_equal(before[0], known):
            return
        if len(known) > 1:
            self.next_seeds[place - 1] = np.cov(before[1], values)[0, 1] / len(known)
        self.next_rest[place - 1] = 0.0
        if influence is not None:
            self._put_rows(place - 1, before[2], influence)

    def _put_rows(self, place: int, one: np.ndarray, other: np.ndarray) -> None:
        # Cov(a, b) = (Var(a + b) - Var(a - b)) / 4
        (rows, rest), (less_rows, less_rest) = (
            rows_and_rest(one + other),
            rows_and_rest(one - other),
        )
        self.next_rows[place] = (rows - less_rows) / 4
        self.next_rest[place] = (rest - less_rest) / 4

    @property
    def own(self) -> Variance:
        """The variance of each mean."""
        return split(self.seeds, self.rows, self.rest, self.n_seeds)

    def line(self, place: int, left: np.ndarray, right: np.ndarray) -> Variance:
        """Return the variance of left * (mean at a place) + right * (mean at the next)."""

        def along(own: np.ndarray, shared: np.ndarray) -> np.ndarray:
            with_next = shared[place]
            if np.isnan(with_next):  # seeds differ: as if all noise were shared
                with_next = np.sqrt(own[place] * own[place + 1])
            return left**2 * own[place] + 2 * left * right * with_next + right**2 * own[place + 1]

        seeds, rows, rest = (
            along(*pair)
            for pair in (
                (self.seeds, self.next_seeds),
                (self.rows, self.next_rows),
                (self.rest, self.next_rest),
            )
        )
        few = np.full(len(left), min(self.n_seeds[place], self.n_seeds[place + 1]))
        return split(np.maximum(seeds, 0), np.maximum(rows, 0), rest, few)


def curves(table: Probes, correct: Evidence = None) -> list[Curve]:
    """Return the curves of a table, in the order in which it first has them.

    Arguments:
        table: a `ProbeResult`, or R rows, one a probe, as `to_pandas` gives them.
        correct: by default the result's own; bool or uint8 (R, n), whether the probe of each row is
            right on each test row, or float32 (R, n), its parts in another score, as
            `featstore.probe.results.evidence` has them. Shares of right rows stand for the table's
            accuracies, where these are not NaN; parts whose means are not the table's scores are of
            another score, and are not used. Or a list of R such rows, of several test sets perhaps,
            None where a row is not known: a curve knows its rows if it has them all.

    Raises:
        DataError: `correct` does not have R rows, or a curve has two rows of a seed and fraction.
    """
    table, correct = table_of(table, correct)
    if isinstance(correct, list):
        if len(correct) != len(table):
            raise DataError(f"correctness of {len(correct)} rows for a table of {len(table)}")
    elif correct is not None and (correct.ndim != 2 or len(correct) != len(table)):
        raise DataError(
            f"correctness of shape {correct.shape} for a table of {len(table)} rows: "
            "give one row for each, (rows of the table, test rows)"
        )
    score = score_of(table)
    numbered = as_curves(table.assign(row=np.arange(len(table))))
    grouped = numbered.groupby(CURVE, dropna=False, sort=False)
    return [
        _curve(dict(zip(CURVE, key, strict=True)), rows, score, correct) for key, rows in grouped
    ]


def _curve(names: dict[str, object], rows: pd.DataFrame, score: str, correct: Evidence) -> Curve:
    of_seed = rows["seed"].astype(object).where(rows["seed"].notna(), None)
    row, seeds = pd.factorize(of_seed, use_na_sentinel=False)
    fractions, first, column = np.unique(rows["fraction"], return_index=True, return_inverse=True)
    shape = (len(seeds), len(fractions))
    _check_distinct(row * len(fractions) + column, rows)
    scores, places = np.full(shape, np.nan), np.full(shape, -1)
    # a table that was read has NA, which is no number, for what is not known
    scores[row, column] = rows[score].astype("float64")
    places[row, column] = rows["row"]
    sizes = rows["k"].to_numpy(np.int64)[first] if "k" in rows else np.zeros(len(first), np.int64)
    known_places = places
    if isinstance(correct, list):
        own = [correct[place] for place in rows["row"]]
        lengths = {None if one is None else len(one) for one in own}
        correct = None if None in lengths or len(lengths) != 1 else np.stack(own)
        places = np.full(shape, -1)
        places[row, column] = np.arange(len(rows))
    if correct is not None and (score != "accuracy" or correct.dtype.kind != "f"):
        known = np.isfinite(scores)
        means = [correct[place].mean(dtype=np.float64) for place in places[known]]
        if score == "accuracy":
            scores[known] = means
        elif score != "r2" and not np.allclose(means, scores[known], atol=1e-4):
            correct = None  # which rows are right is no part of F1, and what is one has that mean
    n_test = rows["n_test"].max() if "n_test" in rows else np.nan
    return Curve(
        names,
        score,
        fractions,
        sizes,
        tuple(seeds),
        scores,
        places,
        correct,
        floor_of(score, rows),
        0 if pd.isna(n_test) else int(n_test),
        known_places,
        chance_of(score, rows),
        n_groups=int(rows["n_groups"].max()) if has_groups(rows) else 0,
        n_folds=int(rows["folds"].max()) if "folds" in rows and rows["folds"].notna().any() else 0,
    )


def curve_table(table: Probes, correct: Evidence = None, level: float = 0.95) -> pd.DataFrame:
    """Return a row for each curve and fraction: mean, spread and interval of score and ratio.

    The ratio is each seed's score over its own full layer's. Intervals are over seeds and, with
    `correct`, over test rows; of a single seed over test rows alone; see
    `featstore.probe.results.intervals`.

    Arguments:
        table: as `curves` takes it.
        correct: as `curves` takes it.
        level: coverage of each interval.

    Returns:
        The columns `CURVE`, `fraction`, `k`, `probes` (a full layer that is the same probe for all
        seeds is 1), then for each of `accuracy` (or `r2`) and `ratio` the mean, `_std` (sample,
        over seeds; NaN for one probe), `_low` and `_high`; `corrected`, `corrected_low` and
        `corrected_high`, the ratio of what both have over chance; and `over`, what the intervals
        are over: "seeds and test rows", "seeds", "test rows" or "". The ratio is NaN where the full
        layer is within noise of what takes no feature (`Curve.above_floor`).

    Raises:
        DataError: as `curves`.
        UsageError: level is outside (0, 1).
    """
    check_level(level)
    rows: list[dict] = []
    for curve in curves(table, correct):
        rows += _readings(curve, level)
    return pd.DataFrame(rows)


def _readings(curve: Curve, level: float) -> Iterator[dict[str, object]]:
    """Yield the numbers of a curve at each fraction."""
    ratios, count = curve.ratios(), curve.counted
    low, high, variance = curve.mean_interval(level)
    ratio_low, ratio_high, _ = curve.ratio_interval(level)
    corrected = curve.over_chance
    corrected_low, corrected_high, _ = corrected.ratio_interval(level)
    several, over = count > 1, variance.over
    columns = {
        curve.score: curve.mean(),
        f"{curve.score}_std": np.where(several, _deviation(curve.scores), np.nan),
        f"{curve.score}_low": low,
        f"{curve.score}_high": high,
        "ratio": curve.ratio(),
        "ratio_std": np.where(several, _deviation(ratios), np.nan),
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
        "corrected": corrected.ratio(),
        "corrected_low": corrected_low,
        "corrected_high": corrected_high,
    }
    for place, fraction in enumerate(curve.fractions):
        facts = {"fraction": float(fraction), "k": int(curve.sizes[place])}
        facts |= {"probes": int(count[place])}
        facts |= {name: float(values[place]) for name, values in columns.items()}
        yield dict(curve.names) | facts | {"over": over[place]}


@dataclass(frozen=True)
class Difference:
    """Difference of two mean scores.

    Attributes:
        value: the one's mean less the other's.
        variance: of the difference.
        paired: whether seeds are paired, since both have the same.
    """

    value: float
    variance: Variance
    paired: bool

    @property
    def error(self) -> float:
        """The standard error; NaN where neither share of the variance is known."""
        shares = np.array([self.variance.seeds, self.variance.rows])
        return float(np.sqrt(np.nansum(shares))) if np.isfinite(shares).any() else float("nan")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return low and high; NaN where neither share of the variance is known."""
        reach = float(self.variance.reach(level))
        return self.value - reach, self.value + reach


def difference(one: Curve, other: Curve, place: int, other_place: int) -> Difference:
    """Return the difference of the mean scores of two curves, at a place of each.

    Test rows are paired where both curves know the same number of them, and seeds where both have
    the same; what has no seeds, or is one probe for all of them, is not drawn.

    Arguments:
        one: a curve.
        other: another one on the same test rows.
        place: which of the fractions of `one`.
        other_place: which of the fractions of `other`.
    """
    drawn_by, mine, moved = one.at(place)
    other_drawn, yours, other_moved = other.at(other_place)
    if not len(mine) or not len(yours):
        nan = np.array(np.nan)
        return Difference(float("nan"), Variance(nan, nan, np.array(1)), False)
    value = float(mine.mean() - yours.mean())
    both = moved is not None and other_moved is not None and moved.shape[1] == other_moved.shape[1]
    paired = len(drawn_by) > 1 and set(drawn_by) == set(other_drawn)
    if paired:
        order = [other_drawn.index(seed) for seed in drawn_by]
        influence = moved - other_moved[order] if both else None
        return Difference(value, crossed(mine - yours[order], influence), True)
    drawn = [crossed(values) for values in (mine, yours) if len(values) > 1]
    seeds = sum(part.seeds for part in drawn) if drawn else np.nan
    rows, rest = np.nan, 0.0
    if both:
        rows, _ = rows_and_rest(moved.mean(0, keepdims=True) - other_moved.mean(0, keepdims=True))
        rest = sum(rows_and_rest(each)[1] for each in (moved, other_moved))
    # the fewer seeds decide about the quantile: the interval errs to the wide side
    few = np.array(min((int(part.n_seeds) for part in drawn), default=1))
    return Difference(value, split(np.array(seeds), np.array(rows), np.array(rest), few), False)


def _check_distinct(places: np.ndarray, rows: pd.DataFrame) -> None:
    twice = pd.Series(places).duplicated().to_numpy()
    if twice.any():
        first = rows.iloc[int(twice.argmax())]
        raise DataError(
            f"fraction {first.fraction:g} of seed {first.seed} stands twice in a curve of mode "
            f"{first['mode']!r}, solver {first.solver!r}: keep one row for each probe"
        )


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    counts = known.sum(0)
    sums = np.where(known, values, 0).sum(0)
    return np.divide(sums, counts, out=np.full(values.shape[1], np.nan), where=counts > 0)


def _deviation(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    counts = known.sum(0)
    about = np.where(known, values - _mean(values), 0)
    out = np.full(values.shape[1], np.nan)
    return np.sqrt(np.divide((about**2).sum(0), counts - 1, out=out, where=counts > 1))

"""Attribution: what each feature is worth to a probe, by leaving it out or by Shapley values.

Shapley values are of ridge and LDA, whose probes of many subsets come from one factor; features are
left out of softmax probes too. A probe of no feature has the logits `start`: the shares of the
classes, or log q_c for LDA.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from time import monotonic

import numpy as np
import pandas as pd
from array_api_compat import array_namespace
from scipy.stats import norm, rankdata

from featstore.probe.ablation import (
    MOST_ROWS,
    Changes,
    check_resamples,
    of_classes,
    one_penalty,
    signs,
    softmax_changes,
)
from featstore.probe.arrays import (
    Array,
    factorise,
    full_precision,
    own_settings,
    solve_lower,
    taken,
    to_host,
)
from featstore.probe.errors import DataError, UsageError
from featstore.probe.memory import CACHE_BYTES, Progress, Settings, rows_within, settings_of, shows
from featstore.probe.moments import cached_moments
from featstore.probe.pieces import gathered
from featstore.probe.results.intervals import check_level, mean_and_error
from featstore.probe.rows import RowBlocks, Rows
from featstore.probe.solvers import (
    LDA,
    Logistic,
    Options,
    Ridge,
    closed_form,
)
from featstore.probe.solvers.prefixes import Normal
from featstore.probe.solvers.weights import upper_envelopes

# float64 matrices of (D, D) held at once: moments, equations, factor, inverse and their copies
_MATRICES = 8


@shows
def drop_one(
    train: Rows,
    test: Rows,
    solver: str | Ridge | LDA | Logistic = "ridge",
    l2: float = 0.1,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    standardize: bool = True,
    moments_cache: Path | None = None,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Return what leaving each feature out does to the probe of all others, refitted exactly.

    With A the matrix of the normal equations, W = A^-1 B, and T = X A^-1 of the test rows, the
    logits of ridge without feature j are F - T_j W_j / (A^-1)_jj: one inverse stands for D refits.
    For LDA, whose logits hold -m_c' A^-1 m_c / 2, it is F - (T_j W_jc - W_jc^2 / 2) / (A^-1)_jj.
    Each softmax probe without a feature is solved anew, from near the one of all.

    Intervals are over test rows, paired: score intervals of the change of each row's hit, which
    hold for all D features at once by the largest |t| of a multiplier bootstrap. A *degrading*
    feature is one whose removal gains accuracy: `p` is that of McNemar's test, adjusted for D
    one-sided tests by its largest value where gains and losses of random rows change places.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)), of classes.
        test: row blocks, or (features, labels), on which the probes are scored.
        solver: "ridge", "lda" or "logistic", or `Ridge(l2=...)`, `LDA(l2=...)` or
            `Logistic(l2=...)` with one penalty.
        l2: the penalty, where `solver` is a name.
        level: coverage of the intervals, all at once; 1 - level is the family-wise error.
        resamples: draws of the bootstrap.
        seed: what it is drawn with.
        standardize: divide each feature by its deviation in train.
        moments_cache: folder to keep moments in, under the blocks' fingerprint.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Returns:
        A row for each feature: `feature`; `accuracy` without it; `change`, that less the accuracy
        with it; its `standard_error`, `low` and `high`; `p` and `degrading`; `loss_change` and
        `loss_standard_error`, of the mean squared loss on test for ridge, else of the log loss in
        nats; `solo`, the accuracy of the feature alone; and `weight`, its coefficients' norm.

    Raises:
        UsageError: another solver, a penalty below 0, or a level outside (0, 1).
        DataError: labels are targets, or the features depend on each other and l2 is too small.
        MemoryBudgetError: the matrices do not fit into `memory`.
        ProbeFailed: a softmax probe was stopped before its solution, or has none.

    References:
        Hager, "Updating the inverse of a matrix", SIAM Review 1989.
        Romano and Wolf, "Exact and approximate stepdown methods for multiple hypothesis testing",
        JASA 2005, for the largest statistic of resamples.
        Tango, Statistics in Medicine 1998, for the score interval.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(600, 5))
        >>> y = (x[:, 2] > 0).astype(int)
        >>> table = drop_one((x[:300], y[:300]), (x[300:], y[300:]))
        >>> int(table["change"].idxmin()), bool(table["change"].min() < -0.3)
        (2, True)
    """
    check_level(level)
    settings = settings_of(standardize, moments_cache, memory, device, backend, progress)
    with own_settings(), full_precision():
        if is_softmax(solver):
            return softmax_changes(train, test, solver, l2, settings, level, resamples, seed)
        probe, blocks = _solved(train, test, solver, l2, settings)
        return _drop_one(probe, blocks, settings, level, resamples, seed)


def is_softmax(solver: str | Options) -> bool:
    """Return whether probes are softmax probes, of which there are no Shapley values."""
    return solver == "logistic" or isinstance(solver, Logistic)


@dataclass(frozen=True)
class _Probe:
    """The probe of all features.

    Attributes:
        normal: the equations, A W = right with A = matrix + l2 I.
        lower: float64 (D, D), L with L L' = A.
        l2: the penalty.
        log: whether the loss is -log p[label], and logits hold -m_c' A^-1 m_c / 2, as LDA's do.
        start: float64 (C,), logits of the probe that sees no feature.
    """

    normal: Normal
    lower: Array
    l2: float
    log: bool
    start: Array


def _named(solver: str | Options, l2: float) -> tuple[str, float]:
    """Return the name and the one penalty of a solver that is given by name or as a value."""
    name, l2 = (solver, l2) if isinstance(solver, str) else (solver.solver, solver.l2)
    if is_softmax(solver):
        raise UsageError(
            f"solver is {name!r}: Shapley values are of ridge and lda alone, so give permutations=0"
        )
    if name not in ("ridge", "lda"):
        raise UsageError(f"solver is {name!r}: attributions are of ridge, lda and logistic alone")
    return name, one_penalty(l2)


def _solved(
    train: Rows, test: Rows, solver: str | Options, l2: float, settings: Settings
) -> tuple[_Probe, RowBlocks]:
    """Return the probe of all features, and the test rows as blocks."""
    name, l2 = _named(solver, l2)
    train, test = of_classes(train, test)
    rows_within(settings.memory, _held(train.n_features), 0, 1, "an attribution")
    moments = cached_moments(train, settings)
    make = closed_form.equations if name == "ridge" else closed_form.lda_equations
    normal = make(moments, settings)
    factors = _factors(normal, l2, settings)
    if factors.doubtful.any() and normal.products != "float64":
        # float32 products are too narrow for features that nearly depend on each other
        better = normal.refined()
        if better is not None:
            normal, factors = better, _factors(better, l2, settings)
    if np.isnan(factors.jitter[0]):
        raise DataError(
            f"{name} of all {len(normal.mean)} features with l2 {l2:g} has no solution: they are "
            "linearly dependent, so give a larger l2"
        )
    start = normal.start
    if name == "lda":
        with np.errstate(divide="ignore"):
            start = np.log(normal.counts / normal.counts.sum())
    put = settings.backend.put
    return _Probe(normal, factors.lower[0], l2, name == "lda", put(start)), test


def _factors(normal: Normal, l2: float, settings: Settings):
    put = settings.backend.put
    matrix = normal.matrix + l2 * np.eye(len(normal.matrix))
    squares = None if normal.squares is None else put(normal.squares + l2)[None]
    return factorise(put(matrix)[None], squares, normal.products)


def _held(width: int) -> int:
    return 8 * _MATRICES * width**2


def _pieces(
    test: RowBlocks, normal: Normal, rows: int, settings: Settings
) -> Iterator[tuple[Array, Array]]:
    """Yield test rows, float64 (r, D), centred and scaled as train was, and their labels."""
    return gathered(
        test, rows, settings.backend, "float64", normal.mean, "test", scale=normal.scale
    )


def _drop_one(
    probe: _Probe, test: RowBlocks, settings: Settings, level: float, resamples: int, seed: int
) -> pd.DataFrame:
    check_resamples(resamples)
    lower, put = probe.lower, settings.backend.put
    xp, width = array_namespace(lower), len(lower)
    right = put(probe.normal.right)
    root = solve_lower(lower[None], xp.eye(width, dtype=lower.dtype, device=lower.device)[None])[0]
    inverse = root.T @ root
    coefficients = inverse @ right
    lead = xp.linalg.diagonal(inverse)[:, None]
    own = put(np.diagonal(probe.normal.matrix) + probe.l2)[:, None]
    own = xp.where(own > 0, own, xp.ones_like(own))
    without, alone = -coefficients / lead, right / own
    offset = probe.start
    plus = [xp.zeros_like(right)] * 2
    if probe.log:
        offset = offset - xp.sum(right * coefficients, axis=0) / 2
        plus = [coefficients**2 / (2 * lead), -(right**2) / (2 * own)]
    lines = (to_host(each) for each in (probe.start, alone, plus[1]))
    breaks, winners = (put(each) for each in upper_envelopes(*lines))
    fixed, row = _held(width) + 16 * resamples * width, 8 * 9 * width + 8 * resamples
    rows = rows_within(settings.memory, fixed, row, MOST_ROWS, "an attribution")
    total = Changes(settings.backend.zeros((resamples, width), "float64"), np.zeros(resamples))
    solo, random, done = np.zeros(width), np.random.default_rng(seed), 0
    for piece, labels in _pieces(test, probe.normal, rows, settings):
        multipliers = put(signs(random, len(labels), resamples))
        step = max(1, CACHE_BYTES // (8 * 8 * width))
        for first in range(0, len(labels), step):
            some, truth = piece[first : first + step], labels[first : first + step]
            drawn = multipliers[first : first + step]
            base = some @ coefficients + offset
            # the unchanged probe is a change of one more feature that adds nothing
            none, nothing = xp.zeros_like(base[:, :1]), xp.zeros_like(right[:1])
            if probe.log:
                hit, loss = _by_log(base, none, nothing, nothing, truth)
                hits, losses = _by_log(base, some @ inverse, without, plus[0], truth)
            else:
                hit, loss = _by_squares(base, none, nothing, truth)
                hits, losses = _by_squares(base, some @ inverse, without, truth)
            solo += _alone_right(some, breaks, winners, truth)
            change, loss_change = hits - hit, losses - loss
            total.hits += int(_summed(hit)[0])
            total.sums = total.sums + _summed(change)
            total.squares = total.squares + _summed(change**2)
            total.losses = total.losses + _summed(loss_change)
            total.squared_losses = total.squared_losses + _summed(loss_change**2)
            total.draws += drawn.T @ xp.astype(change, drawn.dtype)
            total.weights += _summed(drawn)
        done += len(labels)
        settings.progress("rows", done, test.n_rows)
    table = total.table(done, level)
    norms = np.sqrt((to_host(coefficients) ** 2).sum(1))
    return table.assign(solo=solo / done, weight=norms)


def _summed(values: Array) -> np.ndarray:
    xp = array_namespace(values)
    return to_host(xp.sum(values, axis=0, dtype=xp.float64))


def _alone_right(rows: Array, breaks: Array, classes: Array, labels: Array) -> np.ndarray:
    """Return how many rows (r, D) each feature alone has right, float64 (D,)."""
    xp = array_namespace(rows)
    place = xp.zeros(rows.shape, dtype=xp.int64, device=rows.device)
    for piece in range(breaks.shape[1]):
        place += rows > breaks[:, piece]
    place += xp.arange(len(classes), device=rows.device) * classes.shape[1]
    return _summed(taken(xp.reshape(classes, (-1,)), place) == labels[:, None])


def _hits(base: Array, along: Array, by: Array, plus: Array, labels: Array) -> Array:
    """Return if the label's is the first largest logit base_c + along_j by_jc + plus_jc, (r, D).

    Which is largest is asked only where the change can close the gap of the unchanged logits.
    """
    xp = array_namespace(base)
    rows = xp.arange(len(labels), device=base.device)
    unchanged = xp.astype(xp.argmax(base, axis=1) == labels, xp.float64)[:, None]
    hits = unchanged + xp.zeros_like(along)
    others = xp.asarray(base, copy=True)
    others[rows, labels] = -xp.inf
    gap = xp.abs(base[rows, labels] - xp.max(others, axis=1))
    spans = [xp.max(each, axis=1) - xp.min(each, axis=1) for each in (by, plus)]
    reach = xp.abs(along) * spans[0] + spans[1]
    row, feature = xp.nonzero(reach >= gap[:, None] * (1 - 1e-9))
    step = max(1, CACHE_BYTES // (24 * base.shape[1]))
    for first in range(0, len(row), step):
        r, j = row[first : first + step], feature[first : first + step]
        logits = base[r] + plus[j] + along[r, j][:, None] * by[j]
        hits[r, j] = xp.astype(xp.argmax(logits, axis=1) == labels[r], xp.float64)
    return hits


def _by_log(
    base: Array, along: Array, by: Array, plus: Array, labels: Array
) -> tuple[Array, Array]:
    """Return hits and log losses, float64 (r, D), of logits as in `_hits`."""
    xp, numbers = array_namespace(base), range(base.shape[1])

    def logits(number: int) -> Array:
        return along * by[:, number] + (base[:, number, None] + plus[:, number])

    most = logits(0)
    for number in numbers[1:]:
        most = xp.maximum(most, logits(number))
    sums = sum(xp.exp(logits(number) - most) for number in numbers)
    rows = xp.arange(len(labels), device=base.device)
    own = along * by.T[labels] + (base[rows, labels][:, None] + plus.T[labels])
    return _hits(base, along, by, plus, labels), xp.log(sums) + most - own


def _by_squares(base: Array, along: Array, by: Array, labels: Array) -> tuple[Array, Array]:
    """Return hits and squared losses, float64 (r, D), of logits base_c + along_j by_jc.

    With E = base - Y the loss is |E|^2 + 2 along_j (E by_j) + along_j^2 |by_j|^2, one product.
    """
    xp = array_namespace(base)
    rows = xp.arange(len(labels), device=base.device)
    error = xp.asarray(base, copy=True)
    error[rows, labels] -= 1
    squares = xp.sum(error * error, axis=1)[:, None] + along**2 * xp.sum(by * by, axis=1)
    losses = squares + 2 * along * (error @ by.T)
    return _hits(base, along, by, xp.zeros_like(by), labels), losses


@dataclass(frozen=True)
class Shapley:
    """Shapley values of features, estimated from permutations.

    Attributes:
        table: a row for each feature: `feature`, its `value` (the loss on test that it takes away),
            and the value's `standard_error` over permutations, `low` and `high`.
        permutations: how many were drawn.
        halves: correlation, over features, of the means of two halves of the permutations.
        halves_error: its standard error.
        empty, full: the loss of the probes of no feature and of all.
    """

    table: pd.DataFrame = field(repr=False)
    permutations: int
    halves: float
    halves_error: float
    empty: float
    full: float

    @property
    def reliability(self) -> float:
        """The correlation to be expected with as many other permutations: 2r / (1 + r).

        Reference:
            Spearman, "Correlation calculated from faulty data", British J. of Psychology 1910.
        """
        return 2 * self.halves / (1 + self.halves) if self.halves > -1 else -1.0


_LEAST_PERMUTATIONS = 8
"""Permutations after which a standard error is first trusted."""


@shows
def shapley(
    train: Rows,
    test: Rows,
    solver: str | Ridge | LDA = "ridge",
    l2: float = 0.1,
    *,
    permutations: int = 100,
    standard_error: float | None = None,
    seconds: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    standardize: bool = True,
    moments_cache: Path | None = None,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> Shapley:
    """Return each feature's Shapley value: the loss on test that it takes away, over all orders.

    With v(S) the loss of the probe of the features S, refitted, the value of feature j is the mean
    over permutations of v(S) - v(S and j), S the features before j. Along one permutation every
    prefix comes from one factor, so a permutation costs one factorisation and one substitution.
    The values add up to the loss of the probe without features less that of all features. The loss
    is the squared one for ridge, |f - y|^2, and the log loss for LDA, in nats; accuracies jump, so
    their differences are mostly noise.

    Arguments:
        train: as of `drop_one`.
        test: likewise.
        solver: likewise, but for softmax probes.
        l2: likewise.
        permutations: how many to draw, at most.
        standard_error: stop as soon as no value has a larger one; None for all permutations.
        seconds: stop after the permutation that takes the time beyond that, the second at least.
        level: coverage of each value's interval over permutations.
        seed: what permutations are drawn with.
        standardize: as of `drop_one`.
        moments_cache: likewise.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Raises:
        UsageError, DataError, MemoryBudgetError: as `drop_one`; or fewer than 2 permutations.

    Reference:
        Castro, Gomez, Tejada, "Polynomial calculation of the Shapley value based on sampling",
        Computers & Operations Research 2009.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(600, 5))
        >>> y = (x[:, 2] > 0).astype(int)
        >>> found = shapley((x[:300], y[:300]), (x[300:], y[300:]), permutations=10)
        >>> int(found.table["value"].idxmax())
        2
        >>> bool(np.isclose(found.table["value"].sum(), found.empty - found.full))
        True
    """
    check_level(level)
    _check_permutations(permutations, standard_error, seconds)
    settings = settings_of(standardize, moments_cache, memory, device, backend, progress)
    with own_settings(), full_precision():
        probe, blocks = _solved(train, test, solver, l2, settings)
        return _shapley(probe, blocks, settings, permutations, standard_error, seconds, level, seed)


def _check_permutations(
    permutations: int, standard_error: float | None, seconds: float | None
) -> None:
    if permutations < 2:
        raise UsageError(f"permutations is {permutations}: a standard error takes at least 2")
    if standard_error is not None and not standard_error > 0:
        raise UsageError(f"standard_error is {standard_error}: give one above 0")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"seconds is {seconds}: give a time above 0")


def _shapley(
    probe: _Probe,
    test: RowBlocks,
    settings: Settings,
    permutations: int,
    standard_error: float | None,
    seconds: float | None,
    level: float,
    seed: int,
) -> Shapley:
    width, random = len(probe.lower), np.random.default_rng(seed)
    rows = rows_within(
        settings.memory, _held(width), 8 * 4 * width, min(MOST_ROWS, test.n_rows), "Shapley values"
    )
    kept = None
    if _held(width) + 8 * width * (test.n_rows + 4 * rows) <= settings.memory:
        xp = array_namespace(probe.lower)
        pieces = _pieces(test, probe.normal, rows, settings)
        kept = [(xp.asarray(piece, copy=True), labels) for piece, labels in pieces]
    halves, squares = np.zeros((2, width)), np.zeros(width)
    done, error, begun = 0, np.full(width, np.inf), monotonic()
    while done < permutations:
        order = random.permutation(width)
        losses = np.zeros(width + 1)
        system = _permuted(probe, order, settings)
        for piece, labels in kept or _pieces(test, probe.normal, rows, settings):
            losses += _running_losses(probe, *system, piece, labels)
        losses /= test.n_rows
        gained = np.empty(width)
        gained[order] = -np.diff(losses)
        halves[done % 2] += gained
        squares += gained**2
        done += 1
        settings.progress("permutations", done, permutations)
        value, error = mean_and_error(halves.sum(0), squares, done)
        asked = standard_error if done >= _LEAST_PERMUTATIONS else None
        over = seconds is not None and done > 1 and monotonic() - begun >= seconds
        if over or (asked is not None and error.max() <= asked):
            break
    means = halves / [[(done + 1) // 2], [done // 2]]
    halves_are_alike = np.nan
    if width > 1 and (np.ptp(means, axis=1) > 0).all():
        halves_are_alike = float(np.corrcoef(means)[0, 1])
    by = norm.ppf((1 + level) / 2) * error
    table = pd.DataFrame(
        {
            "feature": np.arange(width),
            "value": value,
            "standard_error": error,
            "low": value - by,
            "high": value + by,
        }
    )
    spread = (1 - halves_are_alike**2) / np.sqrt(max(1, width - 2))
    empty, full = float(losses[0]), float(losses[-1])
    return Shapley(table, done, halves_are_alike, float(spread), empty, full)


@shows
def attributed(
    train: Rows,
    test: Rows,
    solver: str | Ridge | LDA | Logistic = "ridge",
    l2: float = 0.1,
    *,
    permutations: int = 100,
    standard_error: float | None = None,
    seconds: float | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    standardize: bool = True,
    moments_cache: Path | None = None,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> tuple[pd.DataFrame, Shapley | None]:
    """Return what `drop_one` says of each feature joined with its Shapley value, by one probe.

    Arguments:
        train: as of `drop_one`.
        test: likewise.
        solver: likewise.
        l2: likewise.
        permutations: as of `shapley`; 0 leaves Shapley values out, as for softmax probes.
        standard_error: as of `shapley`.
        seconds: likewise.
        level: as of both.
        resamples: as of `drop_one`.
        seed: as of both.
        standardize: as of `drop_one`.
        moments_cache: likewise.
        memory: likewise.
        device: likewise.
        backend: likewise.
        progress: likewise.

    Returns:
        The table of `drop_one`; with permutations also `shapley`, `shapley_standard_error`,
        `shapley_low` and `shapley_high`, and what `shapley` found.

    Raises:
        UsageError, DataError, MemoryBudgetError: as `drop_one` and `shapley`.
    """
    check_level(level)
    if permutations:
        _check_permutations(permutations, standard_error, seconds)
    settings = settings_of(standardize, moments_cache, memory, device, backend, progress)
    with own_settings(), full_precision():
        if is_softmax(solver) and not permutations:
            return softmax_changes(train, test, solver, l2, settings, level, resamples, seed), None
        probe, blocks = _solved(train, test, solver, l2, settings)
        table = _drop_one(probe, blocks, settings, level, resamples, seed)
        if not permutations:
            return table, None
        found = _shapley(
            probe, blocks, settings, permutations, standard_error, seconds, level, seed
        )
    known = found.table.drop(columns="feature").add_prefix("shapley_")
    return table.join(known.rename(columns={"shapley_value": "shapley"})), found


def _permuted(probe: _Probe, order: np.ndarray, settings: Settings) -> tuple[Array, Array, Array]:
    """Return an order (D,), the factor L (D, D) of A along it, and z = L^-1 R (D, C)."""
    normal, put = probe.normal, settings.backend.put
    squares = None if normal.squares is None else normal.squares[order]
    along = replace(normal, matrix=normal.matrix[np.ix_(order, order)], squares=squares)
    factors = _factors(along, probe.l2, settings)
    if np.isnan(factors.jitter[0]):
        raise DataError(
            f"a permutation of the features has no factor with l2 {probe.l2:g}: they are linearly "
            "dependent, so give a larger l2"
        )
    z = solve_lower(factors.lower, put(normal.right[order])[None])[0]
    return put(order), factors.lower[0], z


def _running_losses(
    probe: _Probe, order: Array, lower: Array, z: Array, piece: Array, labels: Array
) -> np.ndarray:
    """Return the loss summed over rows of each prefix of an order, float64 (D + 1,).

    The logits of the prefix of size k are start + t[:k]' z[:k], t = L^-1 x, less |z[:k]|^2 / 2
    class by class for LDA.
    """
    xp = array_namespace(piece)
    width, classes = z.shape
    t = solve_lower(lower[None], xp.take(piece, order, axis=1).T[None])[0]
    losses = xp.zeros(width + 1, dtype=xp.float64, device=piece.device)
    step = max(1, CACHE_BYTES // (8 * 4 * width * classes))
    for first in range(0, len(labels), step):
        truth = labels[first : first + step]
        adding = z.T[:, :, None] * t[None, :, first : first + step]
        if probe.log:
            adding = adding - (z.T**2 / 2)[:, :, None]
        logits = xp.zeros((classes, width + 1, len(truth)), dtype=xp.float64, device=piece.device)
        logits += probe.start[:, None, None]
        logits[:, 1:] += xp.cumulative_sum(adding, axis=1)
        own = logits[truth, :, xp.arange(len(truth), device=piece.device)]  # (r, D + 1)
        if probe.log:
            most = xp.max(logits, axis=0)
            sums = xp.sum(xp.exp(logits - most), axis=0)
            losses += xp.sum(xp.log(sums) + most, axis=1) - xp.sum(own, axis=0)
        else:
            losses += xp.sum(logits * logits, axis=(0, 2)) + xp.sum(1 - 2 * own, axis=0)
    return to_host(losses)


def agreement(
    tables: Mapping[str, pd.DataFrame], measure: str = "loss_change", level: float = 0.95
) -> pd.DataFrame:
    """Return how far the same features are worth the same, to several data sets or seeds.

    Spearman's rho of a measure over the D features, with the interval tanh(artanh rho +- z s),
    s^2 = (1 + rho^2 / 2) / (D - 3): of other features of such layers, not of other rows.

    Arguments:
        tables: by name, as `drop_one` or `shapley` gives them, of the same features.
        measure: a column; features in which it is not known in one of two do not count.
        level: coverage of the interval.

    Returns:
        A row for each pair: `name`, `other`, `features`, `rho`, `low`, `high`; NaN for fewer than
        4 features.

    Raises:
        DataError: tables are of different numbers of features, or lack the measure.
        UsageError: there are fewer than two tables, or the level is outside (0, 1).

    Reference:
        Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman
        correlations", Psychometrika 2000.

    Example:
        >>> one = pd.DataFrame({"feature": range(5), "change": [1, 2, 3, 4, 5]})
        >>> other = one.assign(change=[1, 2, 3, 5, 4])
        >>> found = agreement({"a": one, "b": other}, "change").iloc[0]
        >>> round(float(found["rho"]), 3), bool(found["low"] < 0.9 < found["high"])
        (0.9, True)
    """
    check_level(level)
    if len(tables) < 2:
        raise UsageError(f"{len(tables)} tables: two or more can agree")
    found = []
    for (name, one), (other, second) in combinations(tables.items(), 2):
        for label, table in ((name, one), (other, second)):
            if measure not in table or len(table) != len(one):
                raise DataError(
                    f"attributions of {label} have {len(table)} features and no column {measure}, "
                    f"or not the {len(one)} of {name}: compare the same features"
                )
        pair = np.stack([one[measure].to_numpy(float), second[measure].to_numpy(float)])
        pair = pair[:, np.isfinite(pair).all(0)]
        count, rho, low, high = pair.shape[1], np.nan, np.nan, np.nan
        if count > 3 and (np.ptp(pair, axis=1) > 0).all():
            rho = float(np.corrcoef(rankdata(pair, axis=1))[0, 1])
            reach = norm.ppf((1 + level) / 2) * np.sqrt((1 + rho**2 / 2) / (count - 3))
            middle = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
            low, high = np.tanh(middle - reach), np.tanh(middle + reach)
        found.append(
            {"name": name, "other": other, "features": count, "rho": rho, "low": low, "high": high}
        )
    return pd.DataFrame(found)

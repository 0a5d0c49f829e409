"""Ablation: what leaving a feature out changes on test rows, and softmax probes without one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from array_api_compat import array_namespace
from scipy.stats import norm

from featstore.probe import statuses
from featstore.probe.arrays import Array, to_host
from featstore.probe.errors import DataError, ProbeFailed, UsageError
from featstore.probe.kernels import judged
from featstore.probe.memory import Settings, rows_within
from featstore.probe.metrics import LogitSink
from featstore.probe.moments import remembered
from featstore.probe.results.intervals import mean_and_error, score_interval
from featstore.probe.rows import RowBlocks, Rows, as_pair, has_targets
from featstore.probe.solvers import AUTO, Logistic, check_penalties, logistic
from featstore.probe.subsets import Chain, subset_chain

MOST_ROWS = 4096


@dataclass
class Changes:
    """Sums over test rows of what D changes of a probe do, and draws of the bootstrap.

    Attributes:
        hits: rows that the unchanged probe has right.
        sums, squares: float64 (D,), of the change of each row's hit.
        losses, squared_losses: float64 (D,), of the change of each row's loss.
        draws: float64 (B, D), sums of g_b times the change of each row's hit, g_b 1 or -1.
        weights: float64 (B,), sums of g_b.
    """

    draws: Array
    weights: np.ndarray
    hits: int = 0
    sums: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    losses: np.ndarray | float = 0.0
    squared_losses: np.ndarray | float = 0.0

    def table(self, n_rows: int, level: float) -> pd.DataFrame:
        """Return changes, their intervals and tests, a row a feature."""
        change, error = mean_and_error(self.sums, self.squares, n_rows)
        loss, loss_error = mean_and_error(self.losses, self.squared_losses, n_rows)
        drawn = to_host(self.draws) - self.weights[:, None] * change
        # draws of a feature by which no hit changes are all 0
        drawn /= n_rows * np.where(error > 0, error, 1.0)
        # where no row of a sample changes, what one feature alone takes is the least
        largest = max(
            float(np.quantile(np.abs(drawn).max(1), level)), float(norm.ppf((1 + level) / 2))
        )
        # McNemar's statistic: the rows that gain less those that lose, by its deviation under no
        # change, and what it is if each row's gains and losses change places by chance
        deviation = np.sqrt(np.maximum(1, self.squares))
        t, swapped = self.sums / deviation, (to_host(self.draws) / deviation).max(1)
        beyond = len(swapped) - np.searchsorted(np.sort(swapped), t * (1 - 1e-9), side="left")
        p = np.where(t > 0, (1 + beyond) / (1 + len(drawn)), 1.0)
        low, high = score_interval(self.sums, self.squares, n_rows, largest)
        return pd.DataFrame(
            {
                "feature": np.arange(len(change)),
                "accuracy": self.hits / n_rows + change,
                "change": change,
                "standard_error": error,
                "low": low,
                "high": high,
                "p": p,
                "degrading": p <= 1 - level,
                "loss_change": loss,
                "loss_standard_error": loss_error,
            }
        )


def one_penalty(l2: float | str | Sequence[float] | None) -> float:
    """Return the penalty of one probe.

    Raises:
        UsageError: it is to be chosen, or there are several.
    """
    if l2 == AUTO or l2 is None:
        raise UsageError(f"l2 is {l2!r}: attributions are of one probe, so give its penalty")
    penalties = check_penalties(l2)
    if len(penalties) > 1:
        raise UsageError(f"l2 is {l2!r}: attributions are of one probe, so give one penalty")
    return penalties[0]


def of_classes(train: Rows, test: Rows) -> tuple[RowBlocks, RowBlocks]:
    """Return train and test as row blocks of classes.

    Raises:
        DataError: labels are targets; or as `featstore.probe.rows.as_pair`.
    """
    blocks = as_pair(train, test)
    if has_targets(blocks[0]):
        raise DataError("the labels of train are targets: attributions are of classes")
    return blocks


def check_resamples(resamples: int) -> None:
    """Raise UsageError for a bootstrap of no draw."""
    if resamples < 1:
        raise UsageError(f"resamples is {resamples}: a bootstrap takes at least 1")


def signs(random: np.random.Generator, rows: int, resamples: int) -> np.ndarray:
    """Return draws of 1 and -1, float32 (rows, B), one for all changes of a row."""
    return 2 * random.integers(0, 2, (rows, resamples), np.int8).astype(np.float32) - 1


class _Told(LogitSink):
    """Hits of P probes, bool (P, N), and sums of what their log losses are above another probe's.

    Attributes:
        hits: bool (P, N).
        sums, squares: float64 (P,), over rows.
        losses: float64 (N,), of the last probe that was added.

    Arguments:
        n_probes: P.
        n_rows: N.
        base: losses of the other probe, float64 (N,) or 0.
    """

    def __init__(self, n_probes: int, n_rows: int, base: np.ndarray | None = None):
        self.hits = np.zeros((n_probes, n_rows), bool)
        self.sums, self.squares = np.zeros(n_probes), np.zeros(n_probes)
        self.losses = np.zeros(n_rows)
        self._base = np.zeros(n_rows) if base is None else base
        self._done = np.zeros(n_probes, np.int64)

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take logits (p, rows, C) of these probes on the rows that follow those before."""
        xp = array_namespace(logits)
        stand = judged(xp.astype(logits, xp.float64), labels)
        hits, losses = to_host(stand.among_first(1)), to_host(stand.surprise)
        for probe, hit, loss in zip(probes, hits, losses, strict=True):
            rows = slice(self._done[probe], self._done[probe] + len(hit))
            self.hits[probe, rows], self.losses[rows] = hit, loss
            self.sums[probe] += (loss - self._base[rows]).sum()
            self.squares[probe] += ((loss - self._base[rows]) ** 2).sum()
            self._done[probe] = rows.stop

    def finish(self, labels: Array) -> None:
        """Nothing is left to be done at the end of a set of rows."""


def softmax_changes(
    train: Rows,
    test: Rows,
    solver: str | Logistic,
    l2: float,
    settings: Settings,
    level: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Return the table of `featstore.probe.drop_one` for softmax probes.

    The probe without feature j is solved to the tolerance of the solver, from where that of all
    features stands less what the others say of j: x_j is about sum_i b_i x_i, with
    b_i = -P_ij / P_jj, P = (S + 2 l2 I)^-1 and S the correlations, so that W_i + b_i W_j starts.

    Raises:
        UsageError, DataError: as `drop_one`; or the layer has one feature.
        ProbeFailed: probes were stopped before their solution, or have none.
    """
    check_resamples(resamples)
    options = Logistic() if isinstance(solver, str) else solver
    l2 = one_penalty(l2 if isinstance(solver, str) else solver.l2)
    train, test = of_classes(train, test)
    width, n = train.n_features, test.n_rows
    if width < 2:
        raise DataError("train has 1 feature: a softmax probe without it sees none")
    # hits of all probes with and without a feature, and changes of a piece of rows
    fixed = 2 * width * n + 16 * resamples * width + 24 * width**2
    piece = rows_within(settings.memory, fixed, 8 * (width + resamples), MOST_ROWS, "an ablation")
    train, every = remembered(train), np.arange(width)
    whole = logistic.fit(train, [subset_chain(every, width)], [l2], settings, options)
    _check(whole.facts["status"])
    base = _Told(1, n)
    whole.score(test, base)
    alone = logistic.fit(train, [subset_chain([j], width) for j in every], [l2], settings, options)
    solo = _Told(width, n)
    alone.score(test, solo)
    inverse = np.linalg.inv(train.moments(settings).covariance(True) + 2 * l2 * np.eye(width))
    start = whole.solution(0)
    told, each = _Told(width, n, base.losses), 8 * 64 * start.size + 24 * (1 + width) ** 2
    many = max(1, settings.memory // 4 // each)
    for first in range(0, width, many):
        own = every[first : first + many]
        chains = [_without(j, width) for j in own]
        path = logistic.path(train, chains, [l2], settings, options)
        starts = {}
        for number, j in enumerate(own):
            moved = start.copy()
            moved[:, 1:] -= np.outer(start[:, 1 + j], inverse[j] / inverse[j, j])
            starts[number] = np.delete(moved, 1 + j, axis=1)
        path.solve(np.arange(len(own)), starts)
        _check(path.facts["status"])
        path.score(test, _Part(told, first))
        settings.progress("features", first + len(own), width)
    total = Changes(np.zeros((resamples, width)), np.zeros(resamples), int(base.hits.sum()))
    total.losses, total.squared_losses = told.sums, told.squares
    random = np.random.default_rng(seed)
    for first in range(0, n, piece):
        rows = slice(first, first + piece)
        change = told.hits[:, rows].T.astype(np.float32) - base.hits[0, rows, None]
        drawn = signs(random, len(change), resamples)
        total.sums = total.sums + change.sum(0, np.float64)
        total.squares = total.squares + (change**2).sum(0, np.float64)
        total.draws += drawn.T @ change
        total.weights += drawn.sum(0, np.float64)
    norms = np.sqrt((whole.weights(0).standardized[0] ** 2).sum(1))
    return total.table(n, level).assign(solo=solo.hits.mean(1), weight=norms)


def _without(feature: int, width: int) -> Chain:
    return subset_chain(np.delete(np.arange(width), feature), width, "without")


class _Part(LogitSink):
    """Hands on the logits of probes that are numbered from 0 as those from `first` on."""

    def __init__(self, told: _Told, first: int):
        self._told, self._first = told, first

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Hand on logits (p, rows, C)."""
        self._told.add(probes + self._first, logits, labels)

    def finish(self, labels: Array) -> None:
        """Nothing is left to be done at the end of a set of rows."""


def _check(found: np.ndarray) -> None:
    """Raise ProbeFailed for a probe that is not at its solution as nearly as rounding lets it."""
    wrong = [one for one in statuses.FAILED if one is not statuses.Status.LINE_SEARCH]
    failed = np.flatnonzero(statuses.has(found, wrong))
    if len(failed):
        (status, *_) = statuses.kinds(str(found[failed[0]]))
        raise ProbeFailed(f"{len(failed)} of {len(found)} probes: {status.text}")

"""Ridge probes scored on every train row as if that row had not been there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, at_labels, set_at_labels, to_host
from probe.axes import Axes
from probe.blocks import RowBlocks
from probe.chains import Chain
from probe.forward import Forward, like
from probe.metrics import Scores
from probe.moments_cache import cached_moments
from probe.prefixes import PrefixFit, System
from probe.ridge import equations
from probe.settings import Settings


def fit(
    train: RowBlocks, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "LeaveOneOut":
    """Return ridge probes that `score` on their own train rows by leaving each one out.

    With the logits f_i of a row under the fit of all N rows, its one-hot label (or targets) y_i,
    and its leverage h_i on the prefix, the logits of a fit without that row are

        y_i - (y_i - f_i) / (1 - h_i),    h_i = (1 + t_1^2 + ... + t_k^2) / N,    t = L^-1 x_i,

    where L L' = X'X/N + l2 I: h is a running sum along the chain as f is. The 1 is the
    intercept's. The fit without the row keeps the scale of the features, and the penalty N l2 of
    the *sum* of losses.

    Raises:
        DataError, MemoryBudgetError: as `probe.ridge.fit`.

    Reference:
        Golub, Heath, Wahba, "Generalized cross-validation as a method for choosing a good ridge
        parameter", Technometrics 1979.
    """
    normal = equations(cached_moments(train, settings), settings)
    return LeaveOneOut(Axes(tuple(chains), tuple(penalties)), normal, settings)


class LeaveOneOut(PrefixFit):
    """Ridge probes of all chains and penalties, to be scored on the rows that they were fitted on.

    Where a probe fits a row whatever its label is (a leverage of 1, up to rounding), what it says
    without the row is undetermined. It then says of it what a probe without features does, the
    mean of the other rows' y, so that the same rows count for every penalty and interpolating them
    wins nothing.
    """

    logits_held = 3

    def score(self, train: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every train row, that row left out, to `scores`."""
        # in the units in which rows meet the targets, as `_start` is
        start = to_host(self._start)
        self._score(train, _LeftOut(self._in_units(scores), self.n_train, start))

    def _ready(self, system: System, sizes: tuple[int, ...]) -> "Leverages":
        return Leverages(self._substituted(system))


@dataclass(frozen=True)
class Leverages:
    """Logits and the squared length of t, by the same forward substitution."""

    held: Forward

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, (S, r, C + 1)): the logits, and t_1^2 + ... + t_k^2 behind them.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: non-decreasing prefix sizes.
        """
        xp = array_namespace(rows)
        shape = len(self.held.order), rows.shape[1], len(self.held.priors)
        both = xp.zeros((*shape[:2], shape[2] + 1), **like(rows))
        both[..., : shape[2]] = self.held.priors
        for prefix, start, t in self.held.eliminated(rows, sizes):
            columns = xp.permute_dims(t, (0, 2, 1))
            both[..., : shape[2]] += columns @ self.held.targets[:, start : start + t.shape[1]]
            both[..., shape[2]] += xp.sum(t * t, axis=1)
            if prefix is not None:
                yield prefix, both


class _LeftOut:
    """Scores that are given logits and squared lengths, and pass on the left-out logits."""

    def __init__(self, scores: Scores, n_rows: int, mean: np.ndarray):
        self.finish = scores.finish
        self._scores, self._n_rows, self._mean = scores, n_rows, mean

    def add(self, probes: np.ndarray, both: Array, labels: Array) -> None:
        xp = array_namespace(both)
        leverage = (1 + both[..., -1:]) / self._n_rows
        logits = xp.asarray(both[..., :-1], copy=True)
        subtract_targets(logits, leverage, labels)
        free = 1 - leverage
        known = free > UNDETERMINED * xp.finfo(both.dtype).eps
        logits /= xp.where(known, free, xp.ones_like(free))
        if not bool(xp.all(known)):
            others = xp.zeros_like(logits[:1])
            others += xp.asarray(self._mean, dtype=logits.dtype, device=logits.device)
            subtract_targets(others, xp.full_like(leverage[:1], 1 / self._n_rows), labels)
            logits = xp.where(known, logits, others * (self._n_rows / (self._n_rows - 1)))
        self._scores.add(probes, logits, labels)


UNDETERMINED = 1000
"""Units of rounding under which 1 less a leverage says nothing."""


def subtract_targets(logits: Array, shares: Array, labels: Array) -> None:
    """Subtract shares (p, r, 1) of y, one-hot or targets, from logits (p, r, C), in place."""
    xp = array_namespace(logits)
    if xp.isdtype(labels.dtype, "integral"):
        set_at_labels(logits, labels, at_labels(logits, labels) - shares[..., 0])
    else:
        targets = xp.reshape(labels, (1, *logits.shape[1:]))
        logits -= shares * xp.astype(targets, logits.dtype)

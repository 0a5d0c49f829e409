"""Probes on every prefix of a chain from one Cholesky factorisation of each chain and penalty."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, full_precision, on_device, solve_lower, to_host
from probe.axes import Axes
from probe.basis import FEATURES, Frame, congruent, directions, variances
from probe.batches import Batch, grouped
from probe.blocks import RowBlocks
from probe.budget import SystemSize, solve_plan
from probe.direct import (
    Direct,
    FoldedDirect,
    direct,
    direct_is_cheaper,
    folded_direct,
    folded_direct_is_cheaper,
)
from probe.factor import Factors, factorise
from probe.forward import Forward, folded, forward
from probe.kernels import permuted_blocks
from probe.metrics import Scores
from probe.rows import gathered
from probe.settings import Settings
from probe.weights import Weights

Ready: TypeAlias = Forward | Direct | FoldedDirect

REMEDIES = {
    "singular": "the features are linearly dependent and l2 is too small to tell them apart: "
    "give a larger l2",
}


@dataclass(frozen=True)
class Normal:
    """Normal equations over all D features: on a prefix, (M_kk + l2 I) W_k = R_k.

    Attributes:
        matrix: float64 (D, D), M, symmetric and positive semi-definite.
        right: float64 (D, C), R; for T targets (D, T), and so on below.
        start: float64 (C,), the logits of a probe that sees no feature.
        mean: float64 (D,), subtracted from each feature.
        scale: float64 (D,), by which each centred feature is divided.
        n_rows: N of train.
        counts: int64 (C,), train rows of each class; empty for targets.
        frame: the train rows, for bases.
        of_covariance: whether M is their covariance.
        precision: "float32" or "float64", in which rows are scored.
    """

    matrix: np.ndarray
    right: np.ndarray
    start: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    n_rows: int
    counts: np.ndarray
    frame: Frame
    of_covariance: bool = False
    precision: str = "float32"


@dataclass(frozen=True)
class System:
    """A batch, factorised.

    Attributes:
        order: int64 (S, m), the features of each system, or the directions.
        factors: of A.
        z: L^-1 R, (S, m, C).
        found: the directions (D, count) that a basis has; None for the features themselves.
    """

    order: Array
    factors: Factors
    z: Array
    found: Array | None = None


class PrefixFit:
    """The solutions of normal equations for all chains, prefixes and penalties.

    A *system* is one (chain, penalty): A = M + l2 I on the chain's features, A = L L'. The
    leading k x k block of L is the factor of the leading block of A, so with z = L^-1 R and
    t = L^-1 x the logits of the probe on the first k features are start + t[:k]' z[:k]: all
    prefixes cost one factorisation, one forward substitution on the rows, and a running sum.
    On a basis M is R'MR and R is folded into what meets the rows.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class; empty for targets.
        n_train: N of train.
        n_targets: T, or 0.
        facts: {"status": (P,) str}: "ok"; "jitter=<value>", what had to be added to l2 for the
            factorisation to exist; or "singular".

    Raises:
        MemoryBudgetError: not even one system fits into `settings.memory`.
    """

    logits_held = 1
    """How many arrays of a row's logits scoring holds at once, for the memory plan."""

    def __init__(self, axes: Axes, normal: Normal, settings: Settings):
        self.axes, self.class_counts = axes, normal.counts
        self.n_features, self.n_train = len(normal.mean), normal.n_rows
        self.n_targets = 0 if len(normal.counts) else len(normal.start)
        self._normal, self._settings, self._dtype = normal, settings, normal.precision
        put = settings.backend.put
        self._matrix, self._right, self._start = map(
            put, (normal.matrix, normal.right, normal.start)
        )
        largest = SystemSize(
            max(chain.length for chain in axes.chains),
            self.logits_held * len(normal.start),
            max(map(len, axes.chains)),
            8 if self._dtype == "float64" else 4,
            self.n_features if any(chain.basis != FEATURES for chain in axes.chains) else 0,
        )
        self._plan = solve_plan(
            settings.memory, self.n_features, len(normal.start), largest, on_device(self._matrix)
        )
        self._groups = grouped(axes, self._plan, largest)
        self._held: tuple[int, list[Ready]] = (-1, [])
        self._factored: tuple[Batch | None, System | None] = (None, None)
        status = np.full(len(axes), "", object)
        for number, group in enumerate(self._groups):
            for batch, texts in zip(group, self._hold(number), strict=True):
                for system, text in zip(batch.systems, texts, strict=True):
                    status[axes.prefixes(*system)] = text
        self.facts: dict[str, np.ndarray] = {"status": status.astype(str)}

    def seen(self, batch: Batch, z: Array) -> None:
        """Take note of z (S, m, C) of a batch while it is factorised; here there is nothing to."""

    def score(self, test: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every test row to `scores`.

        Test rows are read once for all systems whose factors fit into memory together.
        """
        # last group first: its factors are still there from the fit
        for number in reversed(range(len(self._groups))):
            if self._held[0] != number:
                self._hold(number)
            done = 0
            for rows, labels in self._standardized(test):
                self._score_piece(rows, labels, scores)
                done += len(labels)
                self._settings.progress("test rows", done, test.n_rows)

    def release(self) -> None:
        """Let go of the factors; they are made again when they are needed."""
        self._held = (-1, [])
        self._factored = (None, None)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe, W_k = L_k^-T z_k, by one back substitution."""
        axes = self.axes
        chain, penalty, k = axes.chain[probe], axes.penalty[probe], int(axes.size[probe])
        own = axes.chains[chain]
        batch = Batch(((int(chain), int(penalty)),), own.sizes, own.basis)
        if self._factored[0] != batch:
            self._factored = (batch, self._factorise(batch))
        system, features = self._factored[1], axes.features(probe)
        lower, z = system.factors.lower[:, :k, :k], system.z[:, :k]
        coef = solve_lower(lower, z, transpose=True)[0]
        if system.found is not None:
            taken = array_namespace(coef).take(system.found, system.order[0, :k], axis=1)
            coef, features = taken @ coef, np.arange(self.n_features)
        return Weights.from_standardized(
            features,
            to_host(coef),
            to_host(self._start),
            self._normal.mean[features],
            self._normal.scale[features],
        )

    def _factorise(self, batch: Batch) -> System:
        """Return the systems of a batch, factorised."""
        xp, backend, length = array_namespace(self._matrix), self._settings.backend, batch.length
        matrix, right, found = self._matrix, self._right, None
        orders = np.stack([self.axes.chains[chain].order[:length] for chain, _ in batch.systems])
        order = backend.put(orders)
        penalties = np.array([self.axes.penalties[penalty] for _, penalty in batch.systems])
        if batch.basis != FEATURES:
            found = directions(batch.basis, int(orders.max()) + 1, self._normal.frame, backend)
            matrix, right = self._turned(batch, found), found.T @ right
        matrices = permuted_blocks(matrix, order, backend.put(penalties, "float64"))
        rights = xp.stack([xp.take(right, one, axis=0) for one in order])
        factors = factorise(matrices)
        return System(order, factors, solve_lower(factors.lower, rights), found)

    def _turned(self, batch: Batch, found: Array) -> Array:
        """Return R'MR for the directions of a batch."""
        if self._normal.of_covariance:
            count, frame = found.shape[1], self._normal.frame
            along = variances(batch.basis, count, frame, self._settings.backend)
            if along is not None:
                xp = array_namespace(along)
                return xp.eye(count, dtype=along.dtype, device=along.device) * along
        return congruent(self._matrix, found)

    def _hold(self, number: int) -> list[list[str]]:
        """Factorise a group, keep it in the form that meets rows, return each system's status."""
        self._held = (-1, [])  # the group before makes room first
        forwards, statuses = [], []
        for batch in self._groups[number]:
            system = self._factorise(batch)
            forwards.append(self._ready(system, batch.sizes))
            statuses.append(system.factors.status())
            self.seen(batch, system.z)
            del system  # before the next batch makes its own
        self._held = (number, forwards)
        return statuses

    def _ready(self, system: System, sizes: tuple[int, ...]) -> Ready:
        """Return the batch in the form whose products with the rows are fewer."""
        order, lower, z = system.order, system.factors.lower, system.z
        if system.found is not None:
            if folded_direct_is_cheaper(sizes, z.shape[2], self.n_features):
                return folded_direct(order, lower, z, self._start, sizes, self._dtype, system.found)
        elif direct_is_cheaper(sizes, z.shape[2]):
            return direct(order, lower, z, self._start, sizes, self._dtype)
        return self._substituted(system)

    def _substituted(self, system: System) -> Forward:
        """Return the batch as a substitution, which gives every prefix its part of one sum."""
        order, lower, z = system.order, system.factors.lower, system.z
        if system.found is not None:
            return folded(order, lower, z, self._start, self._dtype, system.found)
        return forward(order, lower, z, self._start, self._dtype)

    def _standardized(self, test: RowBlocks) -> Iterator[tuple[Array, Array]]:
        """Yield test rows, centred and scaled as train was, transposed to (D, r), and labels."""
        backend, dtype = self._settings.backend, self._dtype
        inverse = backend.put(1 / self._normal.scale, dtype)
        pieces = gathered(test, self._plan.rows, backend, dtype, self._normal.mean, "test")
        for piece, labels in pieces:
            rows = backend.empty((piece.shape[1], piece.shape[0]), dtype)
            piece *= inverse
            rows[...] = piece.T
            yield rows, labels

    def _score_piece(self, rows: Array, labels: Array, scores: Scores) -> None:
        number, forwards = self._held
        for batch, held in zip(self._groups[number], forwards, strict=True):
            probes = np.array([self.axes.prefixes(*system) for system in batch.systems])
            with full_precision():
                for prefix, logits in held.logits(rows, batch.sizes):
                    scores.add(probes[:, prefix], logits, labels)
            scores.finish(labels)

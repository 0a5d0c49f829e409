"""Probes on every prefix of a chain from one Cholesky factorisation of each chain and penalty."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, full_precision, on_device, solve_lower, to_host
from probe.axes import Axes
from probe.batches import Batch, grouped
from probe.blocks import RowBlocks
from probe.budget import SystemSize, solve_plan
from probe.direct import Direct, direct, direct_is_cheaper
from probe.factor import Factors, factorise
from probe.forward import Forward, forward
from probe.kernels import permuted_blocks
from probe.metrics import Scores
from probe.rows import gathered
from probe.settings import Settings
from probe.weights import Weights

Ready: TypeAlias = Forward | Direct

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
        precision: "float32" or "float64", in which rows are scored.
    """

    matrix: np.ndarray
    right: np.ndarray
    start: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    n_rows: int
    counts: np.ndarray
    precision: str = "float32"


class PrefixFit:
    """The solutions of normal equations for all chains, prefixes and penalties.

    A *system* is one (chain, penalty): A = M + l2 I on the chain's features, A = L L'. The
    leading k x k block of L is the factor of the leading block of A, so with z = L^-1 R and
    t = L^-1 x the logits of the probe on the first k features are start + t[:k]' z[:k]: all
    prefixes cost one factorisation, one forward substitution on the rows, and a running sum.

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
        )
        self._plan = solve_plan(
            settings.memory, self.n_features, len(normal.start), largest, on_device(self._matrix)
        )
        self._groups = grouped(axes, self._plan, largest)
        self._held: tuple[int, list[Ready]] = (-1, [])
        self._factored: tuple[Batch | None, Any] = (None, None)
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
        batch = Batch(((int(chain), int(penalty)),), axes.chains[chain].sizes)
        if self._factored[0] != batch:
            self._factored = (batch, self._factorise(batch))
        factors, z, _ = self._factored[1]
        coef = solve_lower(factors.lower[:, :k, :k], z[:, :k], transpose=True)[0]
        features = axes.features(probe)
        return Weights.from_standardized(
            features,
            to_host(coef),
            to_host(self._start),
            self._normal.mean[features],
            self._normal.scale[features],
        )

    def _factorise(self, batch: Batch) -> tuple[Factors, Array, Array]:
        """Return the factors, z = L^-1 R (S, m, C) and the orders (S, m) of a batch."""
        xp, backend, length = array_namespace(self._matrix), self._settings.backend, batch.length
        orders = np.stack([self.axes.chains[chain].order[:length] for chain, _ in batch.systems])
        order = backend.put(orders)
        penalties = np.array([self.axes.penalties[penalty] for _, penalty in batch.systems])
        matrices = permuted_blocks(self._matrix, order, backend.put(penalties, "float64"))
        rights = xp.stack([xp.take(self._right, one, axis=0) for one in order])
        factors = factorise(matrices)
        return factors, solve_lower(factors.lower, rights), order

    def _hold(self, number: int) -> list[list[str]]:
        """Factorise a group, keep it in the form that meets rows, return each system's status."""
        self._held = (-1, [])  # the group before makes room first
        forwards, statuses = [], []
        for batch in self._groups[number]:
            factors, z, order = self._factorise(batch)
            forwards.append(self._ready(order, factors.lower, z, batch.sizes))
            statuses.append(factors.status())
            self.seen(batch, z)
            del factors, z  # before the next batch makes its own
        self._held = (number, forwards)
        return statuses

    def _ready(self, order: Array, lower: Array, z: Array, sizes: tuple[int, ...]) -> Ready:
        """Return the batch in the form whose products with the rows are fewer."""
        if direct_is_cheaper(sizes, z.shape[2]):
            return direct(order, lower, z, self._start, sizes, self._dtype)
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

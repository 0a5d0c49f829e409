"""Ridge probes in closed form: every prefix of a chain from one Cholesky factorisation."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, full_precision, on_device, solve_lower, to_host
from probe.axes import Axes
from probe.batches import Batch, grouped
from probe.blocks import RowBlocks
from probe.budget import SystemSize, solve_plan
from probe.chains import Chain
from probe.factor import Factors, factorise
from probe.forward import Forward, forward, like
from probe.metrics import Scores
from probe.moments import Moments, moments
from probe.rows import gathered
from probe.settings import Settings
from probe.weights import Weights

REMEDIES = {
    "singular": "the features are linearly dependent and l2 is too small to tell them apart: "
    "give a larger l2",
}


def fit(
    train: RowBlocks, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "RidgeFit":
    """Return every ridge probe, the minimisers of mean ||y - W'x - b||^2 / 2 + (l2/2) ||W||^2.

    Here x are the centred, scaled features of the probe's prefix and y its one-hot label, so that
    W = (G_kk/N + l2 I)^-1 B_k/N and b is the mean of y.

    Raises:
        DataError: train cannot be probed.
        MemoryBudgetError: not even one system fits into `settings.memory`.
    """
    return from_moments(moments(train, settings), chains, penalties, settings)


def from_moments(
    train: Moments, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "RidgeFit":
    """Return every ridge probe of rows whose moments are known."""
    return RidgeFit(Axes(tuple(chains), tuple(penalties)), train, settings)


class RidgeFit:
    """Ridge probes of all chains and penalties.

    A *system* is one (chain, penalty): A = G/N + l2 I on the chain's features, A = L L'. The
    leading k x k block of L is the factor of the leading block of A, so with z = L^-1 B/N and
    t = L^-1 x the logits of the probe on the first k features are b + t[:k]' z[:k]: all
    prefixes cost one factorisation, one forward substitution on the rows, and a running sum.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class.
        facts: {"status": (P,) str}: "ok"; "jitter=<value>", what had to be added to l2 for the
            factorisation to exist; or "singular".
    """

    def __init__(self, axes: Axes, train: Moments, settings: Settings):
        self.axes, self.class_counts = axes, train.counts
        self.n_features = len(train.gram)
        self._settings, self._dtype = settings, train.precision
        self._mean, self._scale = train.mean, train.scale(settings.standardize)
        put = settings.backend.put
        self._priors = put(train.priors)
        self._covariance = put(train.covariance(settings.standardize))
        self._cross = put(train.cross(settings.standardize))
        largest = SystemSize(
            max(chain.length for chain in axes.chains),
            len(train.counts),
            max(map(len, axes.chains)),
            8 if self._dtype == "float64" else 4,
        )
        self._plan = solve_plan(
            settings.memory, len(self._mean), len(train.counts), largest, on_device(self._priors)
        )
        self._groups = grouped(axes, self._plan, largest)
        self._held: tuple[int, list[Forward]] = (-1, [])
        self._factored: tuple[Batch | None, Any] = (None, None)
        status = np.full(len(axes), "", object)
        for group in range(len(self._groups)):
            for batch, texts in zip(self._groups[group], self._hold(group), strict=True):
                for system, text in zip(batch.systems, texts, strict=True):
                    status[axes.prefixes(*system)] = text
        self.facts = {"status": status.astype(str)}

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
            to_host(self._priors),
            self._mean[features],
            self._scale[features],
        )

    def _factorise(self, batch: Batch) -> tuple[Factors, Array, Array]:
        """Return the factors, z = L^-1 B/N (S, m, C) and the orders (S, m) of a batch."""
        xp = array_namespace(self._covariance)
        matrices, crosses, orders = [], [], []
        for chain, penalty in batch.systems:
            order = self._settings.backend.put(self.axes.chains[chain].order[: batch.length])
            matrix = xp.take(xp.take(self._covariance, order, axis=0), order, axis=1)
            ridge = xp.eye(batch.length, **like(matrix)) * self.axes.penalties[penalty]
            matrices.append(matrix + ridge)
            crosses.append(xp.take(self._cross, order, axis=0))
            orders.append(order)
        factors = factorise(xp.stack(matrices))
        return factors, solve_lower(factors.lower, xp.stack(crosses)), xp.stack(orders)

    def _hold(self, number: int) -> list[list[str]]:
        """Factorise a group, keep it in the form that meets rows, return each system's status."""
        self._held = (-1, [])  # the group before makes room first
        forwards, statuses = [], []
        for batch in self._groups[number]:
            factors, z, order = self._factorise(batch)
            forwards.append(forward(order, factors.lower, z, self._priors, self._dtype))
            statuses.append(factors.status())
        self._held = (number, forwards)
        return statuses

    def _standardized(self, test: RowBlocks) -> Iterator[tuple[Array, Array]]:
        """Yield test rows, centred and scaled as train was, transposed to (D, r), and labels."""
        backend, dtype = self._settings.backend, self._dtype
        inverse = backend.put(1 / self._scale, dtype)
        pieces = gathered(test, self._plan.rows, backend, dtype, self._mean, "test")
        for piece, labels in pieces:
            rows = backend.empty((piece.shape[1], piece.shape[0]), dtype)
            rows[...] = (piece * inverse).T
            yield rows, labels

    def _score_piece(self, rows: Array, labels: Array, scores: Scores) -> None:
        number, forwards = self._held
        for batch, held in zip(self._groups[number], forwards, strict=True):
            probes = np.array([self.axes.prefixes(*system) for system in batch.systems])
            with full_precision():
                for prefix, logits in held.logits(rows, batch.sizes):
                    scores.add(probes[:, prefix], logits, labels)
            scores.finish(labels)

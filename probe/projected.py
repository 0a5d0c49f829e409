"""Row blocks seen through a basis, and probes that were fitted on them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, Backend, full_precision, to_host
from probe.axes import Axes
from probe.basis import FEATURES, Basis, Frame, congruent, directions
from probe.blocks import ArrayBlocks, RowBlocks, targets_of, validation_of, views_of
from probe.budget import spared, text
from probe.errors import MemoryBudgetError
from probe.metrics import Scores
from probe.moments import Moments
from probe.parts import RowRange
from probe.remembered import Remembered
from probe.rows import Standardizing, raise_non_finite
from probe.settings import Settings
from probe.solvers import Fit
from probe.weights import Weights


@dataclass(frozen=True)
class View:
    """The affine map z = R'((x - mean) / scale) of a basis.

    Attributes:
        directions: float64 (D, m), R, on the device.
        mean: float64 (D,).
        scale: float64 (D,).
        backend: where rows are projected.
    """

    directions: Array
    mean: np.ndarray
    scale: np.ndarray
    backend: Backend

    @classmethod
    def of(cls, basis: Basis, count: int, frame: Frame, backend: Backend) -> "View":
        """Return the map to the first `count` directions of a basis."""
        return cls(directions(basis, count, frame, backend), frame.mean, frame.scale, backend)


class Projected:
    """The view of row blocks that shows z in place of the features, float32 or float64.

    Every pass projects anew; what of it is kept is for the solver to decide.

    Arguments:
        blocks: the rows beneath, of D features.
        view: the map.
        split: what to call the rows in errors.
        basis: of the view; for moments.
        frame: the rows that the basis is of, if they are these.
    """

    def __init__(
        self, blocks: RowBlocks, view: View, split: str, basis: Basis = FEATURES,
        frame: Frame | None = None,
    ):  # fmt: skip
        self._blocks, self._view, self._split = blocks, view, split
        self._basis, self._frame = basis, frame
        self.start = getattr(blocks, "start", 0)
        self.n_rows, self.n_features = blocks.n_rows, view.directions.shape[1]
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint, self.n_views = None, views_of(blocks)
        own = validation_of(blocks)
        self.validation = None if own is None else Projected(own, view, "validation")

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        backend, done = self._view.backend, self.start
        view, brought, found = self._view, {}, {}
        for features, labels in self._blocks:
            dtype = "float64" if features.dtype == np.float64 else "float32"
            if dtype not in found:
                brought[dtype] = Standardizing.of(view.mean, view.scale, backend, dtype)
                xp = array_namespace(view.directions)
                found[dtype] = xp.astype(view.directions, getattr(xp, dtype))
            x = backend.empty(features.shape, dtype)
            brought[dtype].into(x, backend.put(features))
            with full_precision():
                z = to_host(x @ found[dtype])
            if not np.isfinite(z.sum()):
                raise_non_finite(backend.put(features), done, self._split)
            done += len(labels)
            yield z, labels

    def part(self, start: int, stop: int) -> "Projected":
        """Return the rows from `start` up to `stop`."""
        return Projected(RowRange(self._blocks, start, stop), self._view, self._split)

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,)."""
        return self._blocks.labels()

    def moments(self, settings: Settings) -> Moments:
        """Return the moments of z: R'GR of the features' own, without a pass over the rows."""
        return self._moments_of(self._frame.moments())

    def _moments_of(self, train: Moments) -> Moments:
        put, standardize = self._view.backend.put, self._frame.standardize
        found = directions(self._basis, self.n_features, self._frame, self._view.backend)
        cross = put(train.cross(standardize))

        def again() -> Moments:
            better = train.refined()
            if better is None:
                raise MemoryBudgetError("the rows cannot be read once more")
            return self._moments_of(better)

        return Moments(
            n=train.n,
            shift=np.zeros(self.n_features),
            counts=train.counts,
            sums=np.zeros(self.n_features),
            class_sums=train.n * to_host(found.T @ cross),
            gram=train.n * to_host(congruent(put(train.covariance(standardize)), found)),
            precision=train.precision,
            products=train.products,
            again=again,
        )


class OnBasis:
    """The probes of chains on one basis, fitted on the rows that it shows.

    The basis is of the very rows that are fitted on, so that rows which are held out to choose a
    penalty by play no part in it.

    Arguments:
        make: the solver's own fit.
        train: N rows of D features.
        axes: which probe is which; all chains on one basis.
        settings: how to solve.
        options: the solver's own.
        raw: whether the solver takes features as they are: z = R'x.

    Attributes: as `Fitted`.
    """

    def __init__(
        self, make: Fit, train: Remembered, axes: Axes, settings: Settings,
        options: Mapping[str, Any], raw: bool,
    ):  # fmt: skip
        self.axes, self.n_features = axes, train.n_features
        self.n_train, self.n_targets = train.n_rows, targets_of(train)
        self._basis, self._backend = axes.chains[0].basis, settings.backend
        self._count = 1 + max(int(chain.order.max()) for chain in axes.chains)
        self._frame = Frame(
            train.n_features, lambda: train.moments(settings), settings.standardize, not raw
        )
        chains = [replace(chain, basis=FEATURES) for chain in axes.chains]
        own = replace(
            settings, standardize=False, moments_cache=None,
            memory=self._free(settings.memory, train.n_classes),
        )  # fmt: skip
        self._few, self._stepwise = own.memory // 16, False
        rows = Projected(train, self._view(), "train", self._basis, self._frame)
        self._fitted = make(rows, chains, axes.penalties, own, **options)
        self.class_counts = self._fitted.class_counts
        self._shown: tuple[RowBlocks | None, RowBlocks | None] = (None, None)

    @property
    def facts(self) -> Mapping[str, np.ndarray]:
        """What is known of each probe without test rows."""
        return self._fitted.facts

    def solve(self, probes: np.ndarray, starts: Mapping[int, np.ndarray] | None = None) -> None:
        """Solve some probes, where the solver solves what it is asked for."""
        self._stepwise = True
        self._fitted.solve(probes, starts)

    def solution(self, probe: int) -> np.ndarray | None:
        """Return where such a probe has ended, coefficients of directions."""
        return self._fitted.solution(probe)

    def forget(self, kept: np.ndarray) -> None:
        """Drop all solutions but those of these probes."""
        self._fitted.forget(kept)

    def release(self) -> None:
        """Let go of what can be made again."""
        self._shown = (None, None)
        if hasattr(self._fitted, "release"):
            self._fitted.release()

    def score(self, test: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every test row to `scores`."""
        if self._shown[0] is not test:
            self._shown = (test, self._projected(test))
        self._fitted.score(self._shown[1], scores)

    def _projected(self, test: RowBlocks) -> RowBlocks:
        """Return the rows as the basis shows them, kept if they are few beside what was granted."""
        rows = Projected(test, self._view(), "test")
        if not self._stepwise or 8 * test.n_rows * self._count > self._few:
            return rows
        shown = [(z, labels) for z, labels in rows]
        z, labels = (np.concatenate(parts) for parts in zip(*shown, strict=True))
        return ArrayBlocks(z, labels, test.n_classes or None)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe, of all D features in their order."""
        own, view = self._fitted.weights(probe), self._view()
        found = to_host(view.directions)[:, own.features]
        coef = found @ own.coef / view.scale[:, None]
        return Weights(
            np.arange(self.n_features), coef, own.intercept - view.mean @ coef,
            view.mean, view.scale,
        )  # fmt: skip

    def _view(self) -> View:
        return View.of(self._basis, self._count, self._frame, self._backend)

    def _free(self, memory: int, n_classes: int) -> int:
        """Return what is left of memory beside the moments and directions of all features."""
        width = self.n_features
        held = spared(8 * width * (4 * width + 2 * n_classes + 3 * self._count))
        if held >= memory:
            raise MemoryBudgetError(
                f"{text(memory)} of memory is too little for directions among {width} features: "
                f"they take {text(held)} beside the probes"
            )
        return memory - held

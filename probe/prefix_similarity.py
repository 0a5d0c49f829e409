"""Linear CKA of what each probe of a sweep sees with the whole layer, from moments of test rows."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, Backend, full_precision, to_host
from probe.basis import FEATURES, Frame, directions, symmetric_product
from probe.budget import spared, text
from probe.chains import Chain
from probe.errors import MemoryBudgetError
from probe.moments import Moments
from probe.result import ProbeResult, with_columns
from probe.similarity import cka_to_full, pairwise_hsic


@dataclass(frozen=True)
class PrefixSimilarity:
    """Biased linear CKA of every prefix of a chain with the whole layer, on the test rows.

    Features are centred and, as published, at their own scale. Directions are of features as the
    probes see them, x = (features - mean) / scale with the mean and scale of train rows (1 where
    they are not scaled), and so is the whole layer that they are compared with. With T the
    covariance of those on the test rows and R_k the first k directions of a chain, what a probe
    sees is z = R_k'x, and

        CKA = ||T R_k||^2 / (||R_k'T R_k|| ||T||)        (Frobenius norms),

    whose parts are running sums along the chain: all prefixes for R'TR, and no pass over rows. It
    is 1 for a whole orthonormal basis, whatever the scales.

    Attributes:
        test: moments of the test rows.
        frame: the train rows, for bases.
        backend: where to compute.

    Reference:
        Kornblith et al., "Similarity of neural network representations revisited", ICML 2019.
    """

    test: Moments
    frame: Frame
    backend: Backend

    def along(self, chain: Chain) -> np.ndarray:
        """Return the CKA of each prefix, float64 (P,); NaN where nothing ever changes."""
        places = np.array(chain.sizes) - 1
        if chain.basis == FEATURES:
            return cka_to_full(self._hsic, chain.order[: chain.length])[places]
        found = directions(chain.basis, int(chain.order.max()) + 1, self.frame, self.backend)
        xp = array_namespace(found)
        order = self.backend.put(chain.order[: chain.length])
        found = xp.astype(xp.take(found, order, axis=1), self._covariance.dtype)
        with full_precision():
            seen = self._covariance @ found
            within = symmetric_product(found, seen)
        with_full = np.cumsum(to_host(xp.sum(seen * seen, axis=0, dtype=xp.float64)))
        # what k adds to the sum of squares of the leading k x k block
        squares = within * within
        steps = 2 * xp.sum(xp.tril(squares, k=-1), axis=1, dtype=xp.float64)
        steps += xp.astype(xp.linalg.diagonal(squares), xp.float64)
        whole = float(xp.sum(self._covariance * self._covariance, dtype=xp.float64))
        squared = np.cumsum(to_host(steps)) * whole
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(squared > 0, with_full / np.sqrt(squared), np.nan)[places]

    def beside(self, result: ProbeResult) -> ProbeResult:
        """Return the result of chains with a column `cka`."""
        axes = result.fitted.axes
        by_chain = [np.tile(self.along(chain), len(axes.penalties)) for chain in axes.chains]
        values = np.concatenate(by_chain)[result.probes]
        return replace(result, table=with_columns(result.table, {"cka": values}))

    @cached_property
    def _hsic(self) -> np.ndarray:
        return pairwise_hsic(self.test) / self._unit**2

    @cached_property
    def _covariance(self) -> Array:
        """T / max T_jj, (D, D), of test rows as train's mean and scale show them to a probe."""
        covariance, inverse = self.test.covariance(standardize=False), 1 / self.frame.scale
        if self.frame.centred:
            # a feature that never changes in train is seen by no probe
            inverse = np.where(self.frame.moments().variance == 0, 0.0, inverse)
        covariance *= inverse
        covariance *= inverse[:, None]
        covariance /= float(np.diagonal(covariance).max()) or 1.0  # see `_unit`
        return self.backend.put(covariance, self.test.precision)

    @property
    def _unit(self) -> float:
        """The largest variance: CKA does not know it, and fourth powers of small numbers vanish."""
        return float(self.test.variance.max()) or 1.0


def check_room(n_features: int, memory: int) -> None:
    """Raise MemoryBudgetError unless the matrices of `PrefixSimilarity` fit into memory."""
    needed = spared(8 * 8 * n_features**2)
    if needed > memory:
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for the CKA of {n_features} features, which "
            f"needs matrices of all of them: allow {text(needed)}, or leave cka out"
        )

"""N - 1 features that stand for any number of them: the same inner products between N rows."""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, solve_lower, to_host
from probe.factor import TRUSTED, factorise


@dataclass(frozen=True)
class Rotation:
    """Features Z (N, N - 1) with Z Z' = X X', for centred features X (N, k), k >= N.

    X X' has the eigenvector 1 with eigenvalue 0. A Householder reflection P = I - 2 v v' takes it
    to the first axis; with H the other rows of P and H X X' H' = L L',

        Z = H' L,    X = Z Q',   Q = X' H' L^-T with orthonormal columns.

    A probe that knows its weights by ||W||^2 and x'W alone is the same in z = Q'x, so that its
    weights A there are W = Q A = X' B with B = H' L^-T A here.

    Attributes:
        lower: float64 (N - 1, N - 1), L.
        axis: float64 (N,), v.
        jitter: what was added to the diagonal of H X X' H' for L to exist; NaN where nothing
            helped.
        least: about the smallest eigenvalue of H X X' H'; 0 where that had no factor.
        rounding: about what rounding of X X' may change it by.
    """

    lower: Array
    axis: Array
    jitter: float
    least: float = 0.0
    rounding: float = 0.0

    def doubtful(self, added: float) -> bool:
        """Return whether rounding of X X' decides about X X' + added I in some direction."""
        return not self.rounding <= TRUSTED * (self.least + added)

    def features(self) -> np.ndarray:
        """Return Z, float64 (N, N - 1)."""
        return to_host(self._lifted(self.lower))

    def row_weights(self, coef: np.ndarray) -> np.ndarray:
        """Return B, float64 (N, C), for weights A (N - 1, C) of Z."""
        xp = array_namespace(self.lower)
        a = xp.asarray(coef, device=self.lower.device)
        return to_host(self._lifted(solve_lower(self.lower[None], a[None], transpose=True)[0]))

    def _lifted(self, rows: Array) -> Array:
        """Return H' M, (N, n), for M (N - 1, n)."""
        xp = array_namespace(rows)
        nothing = xp.zeros((1, rows.shape[1]), dtype=rows.dtype, device=rows.device)
        out = xp.concat([nothing, rows], axis=0)
        out -= 2 * self.axis[:, None] * (self.axis[1:] @ rows)
        return out


def rotation(gram: Array, products: str = "float64") -> Rotation:
    """Return the rotation for X X', float64 (N, N) of centred features; the matrix is used up.

    `products` is the dtype in which its entries were computed.

    Rows that are equal, or fewer than N - 1 independent features, leave no factor without jitter.
    """
    xp = array_namespace(gram)
    n = len(gram)
    axis = xp.full((n,), n**-0.5, dtype=gram.dtype, device=gram.device)
    axis[0] += 1.0
    axis /= xp.sqrt(xp.sum(axis * axis))
    along = gram @ axis
    half = 2 * along - 2 * (axis @ along) * axis
    # (I - 2 v v') K (I - 2 v v') = K - v h' - h v', h = 2 K v - 2 (v'K v) v
    gram -= axis[:, None] * half
    gram -= half[:, None] * axis
    inner = xp.asarray(gram[None, 1:, 1:], copy=True)
    factors = factorise(inner, products=products)
    mean, jitter = float(xp.mean(xp.linalg.diagonal(inner))), float(factors.jitter[0])
    least = mean * float(factors.least[0]) if jitter == 0 else 0.0
    return Rotation(factors.lower[0], axis, jitter, least, mean * float(factors.rounding[0]))

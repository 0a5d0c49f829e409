"""Limited-memory quasi-Newton directions of many functions at once."""

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, to_host
from probe.forward import like


class Curvature:
    """The last m pairs of steps s and gradient changes y of P functions, and what they imply.

    The direction -H g of L-BFGS is a combination of g and the pairs, whose coefficients depend on
    their inner products alone. Those are kept in float64 on the host, where the two-loop
    recursion runs for all functions at once; the vectors are read twice a step, by one batched
    product each, whatever m is.

    Arguments:
        vectors: (P, n), tells shape, dtype and device.
        pairs: m.

    References:
        Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 1980.
        Chen, Wang and Zhou, "Large-scale L-BFGS using MapReduce", NeurIPS 2014, for the
        recursion on inner products.
    """

    def __init__(self, vectors: Array, pairs: int):
        count, length = vectors.shape
        xp = array_namespace(vectors)
        # steps in the first m places, gradient changes in the others
        self._basis = xp.zeros((count, 2 * pairs, length), **like(vectors))
        self._pairs = pairs
        self._next = np.zeros(count, np.int64)
        self._filled = np.zeros((count, pairs), bool)
        self._products = np.zeros((count, 2 * pairs, 2 * pairs))

    def advance(
        self, moved: np.ndarray, step: Array, change: Array, gradient: Array
    ) -> tuple[Array, np.ndarray, np.ndarray]:
        """Take in the latest pairs and return -H g, its slope -g'H g, and g'g.

        A pair with s'y <= 0, which only rounding makes of a convex function, is left out, and so is
        one with s'y or y'y too small to be divided by; a function without pairs gets -g.

        Arguments:
            moved: bool (P,), the functions that took a step; of the others nothing is learnt.
            step: (P, n), s.
            change: (P, n), y.
            gradient: (P, n), g.
        """
        xp = array_namespace(gradient)
        slots = self._store(moved, step, change)
        trio = xp.stack([step, change, gradient], axis=1)
        products = _host(self._basis @ xp.permute_dims(trio, (0, 2, 1)))
        which = np.flatnonzero(moved)
        for number, place in enumerate((slots, slots + self._pairs)):
            new = products[which, :, number]
            self._products[which, :, place[which]] = new
            self._products[which, place[which], :] = new
        own, other = slots[which], slots[which] + self._pairs
        sy, yy = self._products[which, own, other], self._products[which, other, other]
        kept = np.minimum(sy, yy) >= np.finfo(np.float64).tiny
        self._filled[which, slots[which]] = kept
        self._next[which] = (slots[which] + kept) % self._pairs
        squares = _host(xp.sum(gradient * gradient, axis=1))
        return *self._direction(gradient, products[:, :, 2], squares), squares

    def _store(self, moved: np.ndarray, step: Array, change: Array) -> np.ndarray:
        """Write the pairs over the oldest ones; return their places, int64 (P,)."""
        xp = array_namespace(step)
        which = np.flatnonzero(moved)
        places = self._next.copy()
        rows, slots = (xp.asarray(a, device=step.device) for a in (which, places[which]))
        self._basis[rows, slots] = step[rows]
        self._basis[rows, slots + self._pairs] = change[rows]
        return places

    def _direction(
        self, gradient: Array, along: np.ndarray, squares: np.ndarray
    ) -> tuple[Array, np.ndarray]:
        """Return -H g and its slope, given the basis' products with g, `along` (P, 2m)."""
        xp = array_namespace(gradient)
        gamma, weights = self._recursion(along)
        slope = -(gamma * squares + (weights * along).sum(1))
        scale, shares = (xp.asarray(a, **like(gradient)) for a in (-gamma, -weights))
        direction = (shares[:, None, :] @ self._basis)[:, 0, :]
        direction += scale[:, None] * gradient
        return direction, slope

    def _recursion(self, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gamma (P,) and weights (P, 2m) such that H g = gamma g + weights @ basis."""
        m, rows = self._pairs, np.arange(len(along))
        sy = self._products[:, :m, m:]  # s_i'y_j
        yy = self._products[:, m:, m:]
        newest_first = (self._next[:, None] - 1 - np.arange(m)) % m
        last = newest_first[:, 0]
        # of places without a pair
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rho = np.where(self._filled, 1 / np.einsum("pii->pi", sy), 0.0)
            gamma = sy[rows, last, last] / yy[rows, last, last]
        gamma = np.where(self._filled[rows, last], gamma, 1.0)
        alpha, beta = np.zeros((2, len(along), m))
        for i in newest_first.T:
            dot = along[rows, i] - (alpha * sy[rows, i]).sum(1)
            alpha[rows, i] = rho[rows, i] * dot
        change_dot = gamma[:, None] * (along[:, m:] - np.einsum("pij,pj->pi", yy, alpha))
        for i in newest_first.T[::-1]:
            dot = change_dot[rows, i] + (beta * sy[rows, :, i]).sum(1)
            beta[rows, i] = alpha[rows, i] - rho[rows, i] * dot
        return gamma, np.concatenate([beta, -gamma[:, None] * alpha], axis=1)

    def known(self) -> np.ndarray:
        """Return which functions have a pair, bool (P,)."""
        return self._filled.any(1)

    def forget(self, which: np.ndarray) -> None:
        """Drop the pairs of the functions in a mask."""
        self._filled[which] = False

    def keep(self, kept: np.ndarray) -> None:
        """Drop all but the functions in a mask."""
        xp = array_namespace(self._basis)
        rows = xp.asarray(np.flatnonzero(kept), device=self._basis.device)
        self._basis = self._basis[rows]
        self._next, self._filled = self._next[kept], self._filled[kept]
        self._products = self._products[kept]


def _host(array: Array) -> np.ndarray:
    return to_host(array).astype(np.float64)

"""Cholesky factors of prefixes, and forward substitution along them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from featstore.probe import statuses
from featstore.probe.arrays import (
    Array,
    add_product,
    add_to_diagonal,
    cholesky,
    solve_lower,
    to_host,
)
from featstore.probe.memory import FORWARD_WIDTH

# tried in turn, as shares of the mean diagonal entry, on systems that do not factorise
JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
# largest accepted |A x - v| / (trace(A) |x| + |v|), in float64; the trace bounds the norm of A
RESIDUAL = 1e-12
# what rounding leaves of entries of a matrix of products, as a share of the squares behind them:
# root mean square, seen for normal, rectified, nearly collinear and shifted features
ROUNDING = {"float32": 1e-7, "float64": 2e-16}
# share of the weakest direction of A that rounding may be: a hundredth of that in R^2 at most
TRUSTED = 0.02


@dataclass(frozen=True)
class Factors:
    """Lower factors of S symmetric systems.

    Attributes:
        lower: float64 (S, m, m), L with L L' = A + jitter I; upper triangle zero.
        jitter: float64 (S,), what was added to the diagonal; NaN where nothing helped.
        least: float64 (S,), about the smallest eigenvalue of A with a diagonal of 1.
        rounding: float64 (S,), about the largest that rounding of its entries may change it by.
        squares: float64 (S,), the largest of the squares as a share of A's own diagonal.
    """

    lower: Array
    jitter: np.ndarray
    least: np.ndarray
    rounding: np.ndarray
    squares: np.ndarray

    @property
    def depth(self) -> float:
        """The least share that A has, in any direction and system, of the squares behind it."""
        return float((self.least / np.maximum(1, self.squares)).min())

    @property
    def doubtful(self) -> np.ndarray:
        """Which systems are told by rounding of their entries, bool (S,)."""
        return ~(self.rounding <= TRUSTED * self.least)

    def status(self) -> list[str]:
        """Return for each system "ok", or what of "singular", "imprecise", "jitter" it is."""
        return [
            _status(value, doubt) for value, doubt in zip(self.jitter, self.doubtful, strict=True)
        ]


def _status(jitter: float, doubtful: bool) -> str:
    if np.isnan(jitter):
        return statuses.SINGULAR
    added = statuses.jitter(jitter) if jitter > 0 else statuses.OK
    return statuses.combined(added, statuses.IMPRECISE if doubtful else statuses.OK)


def factorise(matrices: Array, squares: Array | None = None, products: str = "float64") -> Factors:
    """Return the Cholesky factors of A, (S, m, m) float64, symmetric.

    A system that has no factor, or whose factor does not solve it, is tried again with more and
    more added to its diagonal; one that never succeeds has a factor of NaN. So is one in which
    float64 rounding decides; of float32 products one is left as it is, for the caller to have them
    computed better.

    With s the squares, entries of A are off by about eps sqrt(s_i s_j), and by their norm so is the
    smallest eigenvalue: that of A with a diagonal of 1, since scales of features play no part.

    Arguments:
        matrices: A.
        squares: float64 (S, m), the sums of squares of which rounding is a share; by default the
            diagonal of A.
        products: dtype in which the entries were computed.
    """
    xp = array_namespace(matrices)
    found = _checked(matrices, squares, products)
    lower, jitter, least, rounding = found.lower, found.jitter, found.least, found.rounding
    exact = products == "float64"
    if exact:
        jitter = np.where(found.doubtful, np.nan, jitter)
    for share in JITTERS:
        failed = np.flatnonzero(np.isnan(jitter))
        for system in failed:
            one = xp.asarray(matrices[system], copy=True)
            mean = float(xp.mean(xp.linalg.diagonal(one)))
            added = share * (mean if mean > 0 else 1.0)
            add_to_diagonal(one, added)
            own = None if squares is None else squares[system][None]
            again = _checked(one[None], own, products)
            lower[system] = again.lower[0]
            least[system], rounding[system] = again.least[0], again.rounding[0]
            good = again.jitter[0] == 0 and not (exact and again.doubtful[0])
            jitter[system] = added if good else np.nan
    for system in np.flatnonzero(np.isnan(jitter)):
        lower[system] = xp.nan
    return Factors(lower, jitter, least, rounding, found.squares)


def checked_cholesky(matrices: Array) -> tuple[Array, np.ndarray]:
    """Return the lower factors of (S, m, m) matrices, and which exist and solve them, (S,) bool.

    A library that cannot factorise may say so, or give NaN, or numbers that mean nothing.
    """
    found = _checked(matrices, None, "float64")
    return found.lower, found.jitter == 0


def _checked(matrices: Array, squares: Array | None, products: str) -> Factors:
    """Return factors, with a jitter of 0 where they solve the system and NaN where not."""
    xp = array_namespace(matrices)
    lower, exists = cholesky(matrices)
    # a fixed vector of varied entries, so that no column of the factor goes unseen
    steps = xp.arange(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    known = xp.broadcast_to(xp.cos(steps)[None, :, None], (*matrices.shape[:2], 1))
    solution = _solved(lower, known)
    error = xp.max(xp.abs(matrices @ solution - known), axis=(1, 2))
    diagonal = xp.linalg.diagonal(matrices)
    trace = xp.sum(diagonal, axis=1)
    reach = trace * xp.max(xp.abs(solution), axis=(1, 2)) + 1.0
    good = exists & to_host(error <= RESIDUAL * reach)
    # two steps of inverse iteration with D^1/2 A^-1 D^1/2, where D is the diagonal
    root = xp.sqrt(xp.where(diagonal > 0, diagonal, xp.ones_like(diagonal)))[..., None]
    vector = known
    for _ in range(2):
        vector = vector / xp.sqrt(xp.sum(vector * vector, axis=(1, 2), keepdims=True))
        vector = root * _solved(lower, root * vector)
    with np.errstate(invalid="ignore", divide="ignore"):
        least = 1 / np.sqrt(to_host(xp.sum(vector * vector, axis=(1, 2))))
    share = xp.ones_like(diagonal) if squares is None else squares / root[..., 0] ** 2
    # the norm of a symmetric matrix of independent errors of standard deviation eps u_i u_j
    largest = xp.max(share, axis=1)
    norm = xp.sqrt(largest * xp.sum(share, axis=1))
    rounding = 2 * ROUNDING[products] * to_host(norm)
    jitter = np.where(good, 0.0, np.nan)
    return Factors(lower, jitter, np.nan_to_num(least), rounding, to_host(largest))


def _solved(lower: Array, right: Array) -> Array:
    return solve_lower(lower, solve_lower(lower, right), transpose=True)


@dataclass(frozen=True)
class Forward:
    """L^-1, and z = L^-1 B, of S systems in the form in which they meet the rows.

    With L cut into strips of rows, t = L^-1 x is computed strip by strip as
    t_j = M_j x_j - M_j L_j,<j t_<j with M_j = L_jj^-1, so that each strip is one matrix product
    with [-M_j L_j,<j  M_j]. These strips, one below the other, are `eliminator`.

    Attributes:
        order: (S, m) int64, the features of each system.
        eliminator: (S, m, m), in the precision of the rows; zero right of the diagonal strips.
        targets: (S, m, C), z, in the precision of the rows.
        priors: (C,), the logits of a probe that sees no feature.
    """

    order: Array
    eliminator: Array
    targets: Array
    priors: Array

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, logits (S, r, C)) for each prefix, smallest first.

        The logits of the prefix of size k are priors + t[:k]' z[:k]: each prefix adds to the
        logits of the one before, in place.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: non-decreasing prefix sizes, at most m.
        """
        xp = array_namespace(rows)
        logits = xp.empty((len(self.order), rows.shape[1], len(self.priors)), **like(rows))
        logits[...] = self.priors
        for prefix, start, t in self.eliminated(rows, sizes):
            columns = xp.permute_dims(t, (0, 2, 1))
            add_product(logits, columns, self.targets[:, start : start + t.shape[1]])
            if prefix is not None:
                yield prefix, logits

    def eliminated(
        self, rows: Array, sizes: tuple[int, ...]
    ) -> Iterator[tuple[int | None, int, Array]]:
        """Yield t = L^-1 x strip by strip, cut where a prefix ends.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: non-decreasing prefix sizes, at most m.

        Yields:
            the prefix that ends with this piece, or None.
            the piece's first position in the chain.
            t, (S, n, r), n positions of it; n is 0 where two prefixes have the same size.
        """
        t = self._unsolved(rows)
        done = prefix = 0
        for strip in strips(t.shape[1]):
            t[:, strip] = self._solved(strip, t, rows)
            while prefix < len(sizes) and sizes[prefix] <= strip.stop:
                yield prefix, done, t[:, done : sizes[prefix]]
                done = sizes[prefix]
                prefix += 1
            if prefix < len(sizes):
                yield None, done, t[:, done : strip.stop]
                done = strip.stop

    def _unsolved(self, rows: Array) -> Array:
        """Return an array (S, m, r) for t, which holds the systems' own rows."""
        xp = array_namespace(rows)
        taken = xp.take(rows, xp.reshape(self.order, (-1,)), axis=0)
        return xp.reshape(taken, (*self.order.shape, rows.shape[1]))

    def _solved(self, strip: slice, t: Array, rows: Array) -> Array:
        """Return a strip of t, where those before it are solved."""
        return self.eliminator[:, strip, : strip.stop] @ t[:, : strip.stop]


class Folded(Forward):
    """The same for systems on a basis: L^-1 R' is `eliminator` (S, m, D), which meets rows as is.

    Rows are those of all features, in their order; `order` is of directions, and not looked at.
    """

    def _unsolved(self, rows: Array) -> Array:
        xp = array_namespace(rows)
        return xp.empty((*self.order.shape, rows.shape[1]), **like(rows))

    def _solved(self, strip: slice, t: Array, rows: Array) -> Array:
        return self.eliminator[:, strip] @ rows


def folded(order: Array, lower: Array, z: Array, priors: Array, dtype: str, found: Array) -> Folded:
    """Return systems with factor L (S, m, m) and z (S, m, C) of directions `found` (D, count)."""
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    rows = xp.stack([xp.take(found.T, one, axis=0) for one in order])
    eliminator = xp.astype(solve_lower(lower, rows), rounded)
    return Folded(order, eliminator, xp.astype(z, rounded), xp.astype(priors, rounded))


def forward(order: Array, lower: Array, z: Array, priors: Array, dtype: str) -> Forward:
    """Return the systems with factor L (S, m, m) and z (S, m, C), rounded to `dtype`.

    Diagonal blocks are inverted in float64, so that only the final rounding is felt.
    """
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    eliminator = xp.zeros(lower.shape, dtype=rounded, device=lower.device)
    for strip in strips(lower.shape[-1]):
        before = slice(0, strip.start)
        corner = lower[:, strip, strip]
        identity = xp.eye(corner.shape[-1], **like(lower))
        inverse = solve_lower(corner, xp.broadcast_to(identity, corner.shape))
        eliminator[:, strip, strip] = xp.astype(inverse, rounded)
        if strip.start:
            eliminator[:, strip, before] = xp.astype(-inverse @ lower[:, strip, before], rounded)
    return Forward(order, eliminator, xp.astype(z, rounded), xp.astype(priors, rounded))


def like(array: Array) -> dict[str, Any]:
    """Return the dtype and device of an array, to make another one with."""
    return {"dtype": array.dtype, "device": array.device}


def strips(length: int) -> list[slice]:
    """Return the ranges of rows that are eliminated at once."""
    starts = range(0, length, FORWARD_WIDTH)
    return [slice(start, min(length, start + FORWARD_WIDTH)) for start in starts]

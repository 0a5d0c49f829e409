"""Cholesky factors of many systems, each checked by its residual and reported, never trusted."""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from probe import statuses
from probe.arrays import Array, add_to_diagonal, cholesky, solve_lower, to_host

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

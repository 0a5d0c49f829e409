"""Cholesky factors of many systems, each checked by its residual and reported, never trusted."""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, add_to_diagonal, cholesky, solve_lower, to_host

# tried in turn, as shares of the mean diagonal entry, on systems that do not factorise
JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
# largest accepted |A x - v| / (trace(A) |x| + |v|), in float64; the trace bounds the norm of A
RESIDUAL = 1e-12


@dataclass(frozen=True)
class Factors:
    """Lower factors of S symmetric systems.

    Attributes:
        lower: float64 (S, m, m), L with L L' = A + jitter I; upper triangle zero.
        jitter: float64 (S,), what was added to the diagonal; NaN where nothing helped.
    """

    lower: Array
    jitter: np.ndarray

    def status(self) -> list[str]:
        """Return "ok", "jitter=<value>" or "singular" for each system."""
        return [_status(value) for value in self.jitter]


def _status(jitter: float) -> str:
    if np.isnan(jitter):
        return "singular"
    return f"jitter={jitter:.1e}" if jitter > 0 else "ok"


def factorise(matrices: Array) -> Factors:
    """Return the Cholesky factors of A, (S, m, m) float64, symmetric.

    A system that has no factor, or whose factor does not solve it, is tried again with more and
    more added to its diagonal; one that never succeeds has a factor of NaN.
    """
    xp = array_namespace(matrices)
    lower, good = _checked(matrices)
    jitter = np.where(good, 0.0, np.nan)
    for share in JITTERS:
        failed = np.flatnonzero(np.isnan(jitter))
        for system in failed:
            one = xp.asarray(matrices[system], copy=True)
            mean = float(xp.mean(xp.linalg.diagonal(one)))
            added = share * (mean if mean > 0 else 1.0)
            add_to_diagonal(one, added)
            again, good = _checked(one[None])
            lower[system] = again[0]
            jitter[system] = added if good[0] else np.nan
    for system in np.flatnonzero(np.isnan(jitter)):
        lower[system] = xp.nan
    return Factors(lower, jitter)


def _checked(matrices: Array) -> tuple[Array, np.ndarray]:
    xp = array_namespace(matrices)
    lower, exists = cholesky(matrices)
    # a fixed vector of varied entries, so that no column of the factor goes unseen
    steps = xp.arange(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    known = xp.broadcast_to(xp.cos(steps)[None, :, None], (*matrices.shape[:2], 1))
    solution = solve_lower(lower, solve_lower(lower, known), transpose=True)
    error = xp.max(xp.abs(matrices @ solution - known), axis=(1, 2))
    trace = xp.sum(xp.linalg.diagonal(matrices), axis=1)
    reach = trace * xp.max(xp.abs(solution), axis=(1, 2)) + 1.0
    return lower, exists & to_host(error <= RESIDUAL * reach)

"""Gram matrices of rows in more features than rows, and their rotation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import Array, Backend, solve_lower, to_host
from featstore.probe.errors import DataError
from featstore.probe.memory import Settings
from featstore.probe.moments import add_upper, panels
from featstore.probe.rows import RowBlocks
from featstore.probe.solvers.factor import TRUSTED, factorise
from featstore.probe.splits import ColumnSubset
from featstore.probe.streams import raise_non_finite
from featstore.probe.subsets import Chain

PIECE = 4096
"""Features multiplied at once: their products are float32, the sums of these float64."""


@dataclass(frozen=True)
class Scaling:
    """How the features of a chain are centred and scaled.

    Attributes:
        mean: float64 (m,), in the order of the chain.
        scale: float64 (m,); 1 for a feature that never changes, or without scaling.
    """

    mean: np.ndarray
    scale: np.ndarray


def grams(
    train: RowBlocks, chain: Chain, tile: int, dtype: str, settings: Settings, scaling: Scaling
) -> Iterator[tuple[int, Array]]:
    """Yield every prefix of a chain and X X' of its centred, scaled features, smallest first.

    The features are read in tiles, in the order of the chain, one pass over the rows for each.

    Arguments:
        train: N rows.
        chain: whose prefixes.
        tile: features of a tile; all rows of a tile are held.
        dtype: of products, "float32" or "float64".
        settings: where to compute.
        scaling: filled as the tiles go by.

    Yields:
        the number of the prefix.
        float64 (N, N), of which only panels on and above the diagonal are kept; the next step
            changes it.

    Raises:
        DataError: a feature is not finite.
    """
    backend = settings.backend
    total = backend.zeros((train.n_rows, train.n_rows), "float64")
    done, prefix, sizes = 0, 0, chain.sizes
    for start in range(0, chain.length, tile):
        columns = chain.order[start : min(start + tile, chain.length)]
        features = gathered_columns(train, columns, "train")
        settings.progress("features", start + len(columns), chain.length)
        while done < start + len(columns):
            stop = min(done + PIECE, start + len(columns), sizes[prefix])
            span = slice(done, stop)
            piece = features[:, done - start : stop - start]
            x, scaling.mean[span], scaling.scale[span] = standardized(
                piece, backend, dtype, settings.standardize
            )
            add_upper(total, x.T, train.n_rows)
            done = stop
            while prefix < len(sizes) and sizes[prefix] == done:
                yield prefix, total
                prefix += 1


def gathered_columns(blocks: RowBlocks, columns: np.ndarray, split: str) -> np.ndarray:
    """Return some columns of all rows, (N, m), in the precision in which they are stored.

    Raises:
        DataError: one is not finite; or there are other rows than announced.
    """
    out, done = None, 0
    for features, _ in ColumnSubset(blocks, columns):
        if out is None:
            out = np.empty((blocks.n_rows, len(columns)), features.dtype)
        if not np.isfinite(features.sum(dtype=np.float64)):
            raise_non_finite(features, done, split, columns)
        out[done : done + len(features)] = features
        done += len(features)
    if done != blocks.n_rows:
        raise DataError(
            f"{split} holds {done} rows but announces {blocks.n_rows}: "
            "its blocks and its n_rows must agree"
        )
    return out


def standardized(
    features: np.ndarray, backend: Backend, dtype: str, scaled: bool
) -> tuple[Array, np.ndarray, np.ndarray]:
    """Return features (N, m) centred and scaled on the device, and mean and scale, float64 (m,)."""
    x = backend.put(np.ascontiguousarray(features), "float64")
    xp = array_namespace(x)
    # about the first row, so that a feature that never changes becomes exactly 0
    first = xp.asarray(x[0], copy=True)
    x = x - first
    offset = xp.sum(x, axis=0) / len(x)
    x -= offset
    deviation, one = xp.sqrt(xp.sum(x * x, axis=0) / len(x)), xp.ones_like(offset)
    # of a feature that never changes rounding is left
    changes = deviation > xp.finfo(x.dtype).eps * (xp.abs(first) + xp.abs(offset))
    still = to_host(~changes).nonzero()[0]
    if still.size:
        x[:, backend.put(still)] = 0
    if scaled:
        x /= xp.where(changes, deviation, one)
    scale = xp.where(changes, deviation, one) if scaled else one
    return xp.astype(x, getattr(xp, dtype)), to_host(first + offset), to_host(scale)


def mirrored(upper: Array) -> Array:
    """Return a symmetric copy of a matrix whose panels on and above the diagonal are known."""
    xp = array_namespace(upper)
    out = xp.asarray(upper, copy=True)
    for rows in panels(len(out)):
        out[rows.stop :, rows] = out[rows, rows.stop :].T
        corner = xp.triu(out[rows, rows])
        out[rows, rows] = corner + xp.triu(corner, k=1).T
    return out


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

"""X X', N x N, of every prefix of a chain: it grows by rank updates, segment by segment."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, Backend, to_host
from probe.blocks import RowBlocks
from probe.chains import Chain
from probe.errors import DataError
from probe.moments import add_upper, panels
from probe.parts import ColumnSubset
from probe.rows import raise_non_finite
from probe.settings import Settings

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

"""Fourth moments of pairs of features: what debiased similarity needs beside the Gram."""

from collections.abc import Iterator

import numpy as np

from probe.blocks import RowBlocks
from probe.errors import DataError
from probe.moments import Moments, moments
from probe.settings import Settings


def cokurtosis(blocks: RowBlocks, settings: Settings, total: Moments) -> np.ndarray:
    """Return mean z_s^2 z_t^2 for each pair of features, z = (x - mean) / deviation: (D, D).

    One more pass over the rows and one more product of the Gram's size; as there, products are in
    float32 (float64 for float64 features) and sums in float64. A feature that never changes has
    z = 0.

    Arguments:
        blocks: the rows.
        settings: memory, backend, progress.
        total: the moments of the same rows.

    Returns:
        float64 (D, D), symmetric; the diagonal is each feature's kurtosis.

    Raises:
        DataError: `total` is of other rows; or as `probe.moments.moments`.
    """
    if (blocks.n_rows, blocks.n_features) != (total.n, len(total.gram)):
        raise DataError(
            f"{blocks.n_rows} rows of {blocks.n_features} features but moments of {total.n} rows "
            f"of {len(total.gram)}: give the moments of the same rows"
        )
    squared = moments(_Squared(blocks, total), settings)
    gram = squared.shifted_to(np.zeros_like(total.shift)).gram
    return (gram + gram.T) / (2 * total.n)


class _Squared:
    """Row blocks of z^2, all of one class.

    Arguments:
        blocks: rows of x.
        total: their moments.
    """

    n_classes, fingerprint = 1, None

    def __init__(self, blocks: RowBlocks, total: Moments):
        self.n_rows, self.n_features = blocks.n_rows, blocks.n_features
        self.block_rows = blocks.block_rows
        self._blocks, self._total = blocks, total
        self._mean = total.mean
        # z is 0 for a feature whose changes are below rounding
        self._by = (total.variance > 0) / total.scale()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for features, _ in self._blocks:
            dtype = np.float64 if features.dtype == np.float64 else np.float32
            squares = ((features - self._mean) * self._by) ** 2
            yield squares.astype(dtype), np.zeros(len(features), np.int64)

    def labels(self) -> np.ndarray:
        """Return zeros, int64 (N,)."""
        return np.zeros(self.n_rows, np.int64)

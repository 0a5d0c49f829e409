"""Some of the rows of row blocks, as row blocks: streamed, nothing copied whole."""

import hashlib
from collections.abc import Iterator

import numpy as np

from probe.blocks import RowBlocks
from probe.errors import UsageError


class RowSubset:
    """The view of row blocks that shows only some rows.

    Every pass reads the blocks beneath once, and takes the chosen rows of each.

    Arguments:
        blocks: the rows beneath, N of them.
        rows: int64 (n,), which rows, rising, in [0, N).

    Raises:
        UsageError: `rows` is empty, does not rise or leaves [0, N).

    Example:
        >>> from probe.blocks import ArrayBlocks
        >>> blocks = ArrayBlocks(np.arange(10.0).reshape(5, 2), [0, 1, 0, 1, 0], block_rows=2)
        >>> [x[:, 0].tolist() for x, _ in RowSubset(blocks, np.array([1, 4]))]
        [[2.0], [8.0]]
    """

    def __init__(self, blocks: RowBlocks, rows: np.ndarray):
        if not len(rows) or rows[0] < 0 or rows[-1] >= blocks.n_rows or (np.diff(rows) <= 0).any():
            raise UsageError(
                f"{len(rows)} row numbers are no subset of {blocks.n_rows} rows: "
                "give at least one, rising, counted from 0"
            )
        self._blocks, self._rows = blocks, rows
        self.n_rows, self.n_features = len(rows), blocks.n_features
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint = _derived(blocks.fingerprint, rows)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        start = 0
        for features, labels in self._blocks:
            first, last = np.searchsorted(self._rows, [start, start + len(labels)])
            if last > first:
                inside = self._rows[first:last] - start
                yield features[inside], labels[inside]
            start += len(labels)

    def labels(self) -> np.ndarray:
        """Return every label, int64 (n,)."""
        return self._blocks.labels()[self._rows]


def _derived(fingerprint: str | None, rows: np.ndarray) -> str | None:
    if fingerprint is None:
        return None
    digest = hashlib.sha256(np.ascontiguousarray(rows, np.int64).tobytes()).hexdigest()
    return f"{fingerprint} rows {digest}"

"""Row blocks: the only thing the solvers know about where features come from."""

from collections.abc import Iterator
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from probe.errors import DataError, UsageError

BLOCK_BYTES = 8 << 20


@runtime_checkable
class RowBlocks(Protocol):
    """Labelled feature rows that can be read, in order, any number of times.

    Attributes:
        n_rows: number of rows N.
        n_features: number of features D.
        n_classes: declared classes C; every label lies in [0, C).
        block_rows: the most rows that one block has.
        fingerprint: identifies the content, for caches; None means that nothing is cached.
    """

    n_rows: int
    n_features: int
    n_classes: int
    block_rows: int
    fingerprint: str | None

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (features (b, D) float16, float32 or float64, labels (b,) int64) in row order."""

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,), without reading features."""


Rows: TypeAlias = RowBlocks | tuple[ArrayLike, ArrayLike]
"""What the public functions take: row blocks, or a pair (features, labels) of plain arrays."""


class ArrayBlocks:
    """Row blocks over an array in memory or a memory-mapped file.

    Arguments:
        features: (N, D), float16, float32 or float64; other numbers are read as float32.
        labels: (N,) integers in [0, C).
        n_classes: C; by default the largest label plus one.
        block_rows: rows of a block; by default about 8 MB of them.
        fingerprint: identifies the content if moments may be cached under it.

    Raises:
        DataError: the shapes do not fit together, or a label is negative or not an integer.

    Example:
        >>> blocks = ArrayBlocks(np.zeros((5, 3), np.float32), [0, 1, 1, 0, 1], block_rows=2)
        >>> [x.shape for x, _ in blocks]
        [(2, 3), (2, 3), (1, 3)]
    """

    def __init__(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        n_classes: int | None = None,
        block_rows: int | None = None,
        fingerprint: str | None = None,
    ):
        # a memory map stays one: asarray would drop the class but not copy, asanyarray keeps it
        self._features = np.asanyarray(features)
        self._labels = _integer_labels(np.asarray(labels))
        if self._features.ndim != 2:
            raise DataError(
                f"features have shape {self._features.shape}: rows x features, so two axes, "
                "are wanted"
            )
        if len(self._features) != len(self._labels):
            raise DataError(
                f"{len(self._features)} rows of features but {len(self._labels)} labels: "
                "give one label for each row"
            )
        self.n_rows, self.n_features = self._features.shape
        largest = int(self._labels.max()) if self.n_rows else -1
        self.n_classes = largest + 1 if n_classes is None else n_classes
        row_bytes = max(1, self.n_features * self._features.itemsize)
        self.block_rows = block_rows or max(1, min(self.n_rows, BLOCK_BYTES // row_bytes))
        if self.block_rows < 1:
            raise UsageError(f"block_rows is {block_rows}: a block has at least one row")
        self.fingerprint = fingerprint

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, self.n_rows, self.block_rows):
            rows = slice(start, start + self.block_rows)
            features = np.asarray(self._features[rows])
            if features.dtype not in (np.float16, np.float32, np.float64):
                features = features.astype(np.float32)
            yield features, self._labels[rows]

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,)."""
        return self._labels


def _integer_labels(labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1:
        raise DataError(
            f"labels have shape {labels.shape}: one label a row, so one axis, is wanted"
        )
    if labels.size and labels.dtype.kind not in "iub":
        raise DataError(f"labels are {labels.dtype}: class indices are integers")
    return labels.astype(np.int64, copy=False)


def as_blocks(rows: Rows, n_classes: int | None = None) -> RowBlocks:
    """Return `rows` as row blocks, wrapping a pair (features, labels) of arrays.

    Raises:
        UsageError: `rows` is neither.
    """
    if isinstance(rows, tuple) and len(rows) == 2:
        return ArrayBlocks(*rows, n_classes=n_classes)
    if isinstance(rows, RowBlocks):
        return rows
    raise UsageError(
        f"{type(rows).__name__} given for rows: pass (features, labels) or an object that "
        "satisfies probe.RowBlocks"
    )

"""Rows in tiles that a cache holds: standardised, transposed, kept between passes if they fit."""

from collections.abc import Iterator

import numpy as np

from probe.arrays import Array, Backend
from probe.blocks import RowBlocks
from probe.rows import gathered


class Tiles:
    """The rows of a split as tiles (1 + D, r), features by rows behind a constant 1.

    The coefficient of the constant is the intercept. With rows innermost, taking the features of
    a chain copies whole vectors. Tiles are kept up to `kept_bytes`; what does not fit is read and
    standardised anew in each pass, so that a store larger than memory works.

    Arguments:
        blocks: where the rows come from.
        rows: rows of a tile; the last may have fewer.
        mean: float64 (D,), subtracted from each feature.
        scale: float64 (D,), by which it is divided.
        dtype: of the tiles, "float32" or "float64".
        backend: where they live.
        split: what to call the rows in errors.
        kept_bytes: bytes that tiles may occupy between passes.
        lookup: int64 (C,), what to call each label; None to leave labels as they are.
    """

    def __init__(
        self, blocks: RowBlocks, rows: int, mean: np.ndarray, scale: np.ndarray, dtype: str,
        backend: Backend, split: str, kept_bytes: int, lookup: np.ndarray | None = None,
    ):  # fmt: skip
        self.n_rows, self.n_features = blocks.n_rows, blocks.n_features
        self._blocks, self._rows, self._mean, self._scale = blocks, rows, mean, scale
        self._dtype, self._backend, self._split = dtype, backend, split
        self._lookup = None if lookup is None else backend.put(lookup)
        itemsize = 8 if dtype == "float64" else 4
        fits = itemsize * blocks.n_rows * (1 + blocks.n_features) <= kept_bytes
        self._kept: list[tuple[Array, Array]] | None = [] if fits else None

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Yield tiles (1 + D, r) and their labels (r,); a tile is valid until the next.

        Raises:
            DataError: as `probe.rows.gathered`.
        """
        if self._kept:
            yield from self._kept
            return
        kept = []
        for tile, labels in self._read():
            if self._kept is not None:
                kept.append((tile, labels))
            yield tile, labels
        if self._kept is not None:
            self._kept = kept

    def _read(self) -> Iterator[tuple[Array, Array]]:
        backend, width = self._backend, self.n_features
        tile = None
        for piece, labels in gathered(
            self._blocks, self._rows, backend, self._dtype, self._mean, self._split,
            scale=self._scale,
        ):  # fmt: skip
            if tile is None or self._kept is not None or tile.shape[1] != len(piece):
                tile = backend.empty((1 + width, len(piece)), self._dtype)
                tile[0] = 1
            tile[1:] = piece.T
            yield tile, labels if self._lookup is None else self._lookup[labels]

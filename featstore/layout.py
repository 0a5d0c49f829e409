"""How rows fall into blocks and blocks into arrays: arithmetic only, the same in every format."""

from dataclasses import dataclass

import numpy as np

from featstore.spec import IDS, LABELS, Spec

# A block is what is read, checked and committed at once. 8 MB is large enough that the overhead of
# a call vanishes and small enough that a few of them in flight cost nothing.
BLOCK_BYTES = 8 << 20

# Rows come in multiples of this, so that batches divide blocks evenly, and never fewer: a tap of
# hundreds of thousands of features has larger blocks, or its narrow neighbours would fall to dust.
ROW_MULTIPLE = 32


@dataclass(frozen=True)
class Array:
    """One array of a split: `shape` (n_rows, ...), little-endian `dtype`."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


def block_rows(spec: Spec) -> int:
    """Rows of a block, such that the widest tap's is about 8 MB.

    All taps of a store share them, because one commit record covers a block of every tap.
    """
    widest = max(tap.dim for tap in spec.taps) * np.dtype(spec.dtype).itemsize
    return max(ROW_MULTIPLE, BLOCK_BYTES // widest // ROW_MULTIPLE * ROW_MULTIPLE)


def n_blocks(n_rows: int, block_rows: int) -> int:
    """Blocks that `n_rows` rows fall into."""
    return -(-n_rows // block_rows)


def rows_of(n_rows: int, block_rows: int, block: int) -> range:
    """Rows of one block; the last may be short.

    >>> rows_of(100, 32, 3)
    range(96, 100)
    """
    return range(block * block_rows, min((block + 1) * block_rows, n_rows))


def arrays(spec: Spec, split: str, id_width: int) -> dict[str, Array]:
    """Every array of a split: the taps (n_rows, D), labels (n_rows,), ids (n_rows, width)."""
    n_rows = spec.split(split).n_rows
    features = np.dtype(spec.dtype).newbyteorder("<")
    return {
        **{tap.name: Array((n_rows, tap.dim), features) for tap in spec.taps},
        LABELS: Array((n_rows,), np.dtype("<i8")),
        IDS: Array((n_rows, id_width), np.dtype("u1")),
    }

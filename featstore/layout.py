"""How rows fall into blocks and blocks into arrays: arithmetic only, the same in every format."""

from dataclasses import dataclass

import numpy as np

from featstore.spec import IDS, LABELS, Spec

# A block is what is read, checked and committed at once. 8 MB is large enough that the overhead of
# a call vanishes and small enough that a few of them in flight cost nothing.
BLOCK_BYTES = 8 << 20

# A block of many views is all of them, so that they are committed together; it may be this large.
MANY_VIEWS = 8

# Rows come in multiples of this, so that batches divide blocks evenly, and never fewer: a tap of
# hundreds of thousands of features has larger blocks, or its narrow neighbours would fall to dust.
ROW_MULTIPLE = 32


@dataclass(frozen=True)
class Array:
    """One array of a split: `shape` (n_rows, ...) or (n_views, n_rows, D), little-endian `dtype`.

    Its rows lie view by view: a *piece* of it is one view of a block's rows, and is stored,
    checksummed and read as one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def n_views(self) -> int:
        """Views of each row; 1 where the array has no axis of them."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def n_rows(self) -> int:
        """Rows of one view."""
        return self.shape[1] if len(self.shape) == 3 else self.shape[0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row of one view."""
        return self.shape[2:] if len(self.shape) == 3 else self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of one view."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    def pieces(self, name: str) -> list[str]:
        """The name of each view's piece of a block, as commit records have it.

        >>> Array((9, 2), np.dtype("f2")).pieces("tap")
        ['tap']
        >>> Array((2, 9, 2), np.dtype("f2")).pieces("tap")
        ['tap/0', 'tap/1']
        """
        return [name] if len(self.shape) < 3 else [f"{name}/{view}" for view in range(self.n_views)]


def block_rows(spec: Spec) -> int:
    """Rows of a block, such that one view of the widest tap's is about 8 MB.

    All taps and views of a store share them, because one commit record covers a block of all. Of
    more than eight views, a block of the widest tap is about 64 MB.
    """
    row_bytes = max(tap.dim for tap in spec.taps) * np.dtype(spec.dtype).itemsize
    n_views = max(split.views for split in spec.splits)
    most = min(BLOCK_BYTES // row_bytes, MANY_VIEWS * BLOCK_BYTES // (row_bytes * n_views))
    return max(ROW_MULTIPLE, most // ROW_MULTIPLE * ROW_MULTIPLE)


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
    """Every array of a split: taps (n_rows, D) or (n_views, n_rows, D), labels, ids.

    Labels are int64 (n_rows,), or of targets float64 (n_rows,) for one and (n_rows, T) for more;
    ids are uint8 (n_rows, width).
    """
    n_rows, n_views = spec.split(split).n_rows, spec.split(split).views
    features = np.dtype(spec.dtype).newbyteorder("<")
    views = () if n_views == 1 else (n_views,)
    targets = (len(spec.targets),) if len(spec.targets) > 1 else ()
    return {
        **{tap.name: Array((*views, n_rows, tap.dim), features) for tap in spec.taps},
        LABELS: Array((n_rows, *targets), np.dtype("<f8" if spec.targets else "<i8")),
        IDS: Array((n_rows, id_width), np.dtype("u1")),
    }

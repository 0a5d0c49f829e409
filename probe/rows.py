"""Rows from blocks of any size, brought to the device in equal pieces, shifted and checked."""

from collections.abc import Iterator

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, Backend, difference_into, to_host
from probe.blocks import RowBlocks
from probe.errors import DataError

SHIFT_ROWS = 1024


def first_rows(blocks: RowBlocks) -> tuple[np.ndarray, str]:
    """Return a shift for the features, and the dtype in which products of them are computed.

    Returns:
        float64 (D,), the mean of the first rows rounded to that dtype. Moments of x - shift do
            not cancel, and a feature that never changes becomes exactly 0.
        "float64" if the features are float64, else "float32".
    """
    features = next(iter(blocks))[0][:SHIFT_ROWS]
    dtype = "float64" if features.dtype == np.float64 else "float32"
    with np.errstate(all="ignore"):  # non-finite features are found, and named, by `gathered`
        mean = features.mean(0, dtype=np.float64).astype(dtype)
    return np.where(np.isfinite(mean), mean, 0).astype(np.float64), dtype


def gathered(
    blocks: RowBlocks,
    rows: int,
    backend: Backend,
    dtype: str,
    shift: np.ndarray,
    split: str,
    spare: int = 0,
) -> Iterator[tuple[Array, Array]]:
    """Yield the rows in pieces of `rows` (the last may be shorter), whatever the blocks' sizes.

    Arguments:
        blocks: where the rows come from.
        rows: rows of a piece.
        backend: where the pieces go.
        dtype: of the pieces, "float32" or "float64".
        shift: float64 (D,), subtracted from every row.
        split: what to call the rows in errors.
        spare: columns left for the caller's use behind the D features.

    Yields:
        features (r, D + spare), a buffer that the next piece overwrites.
        labels (r,) int64.

    Raises:
        DataError: a feature is NaN or infinite, a label is outside [0, C), or the blocks hold
            another number of rows than they announce.
    """
    width = blocks.n_features
    buffer = backend.empty((min(rows, max(1, blocks.n_rows)), width + spare), dtype)
    minus = backend.put(shift, dtype)
    labels: list[np.ndarray] = []
    first, columns = getattr(blocks, "start", 0), getattr(blocks, "columns", None)
    done = filled = 0
    for features, block_labels in blocks:
        start = 0
        while start < len(features):
            stop = min(len(features), start + len(buffer) - filled)
            taken = stop - start
            target = buffer[filled : filled + taken, :width]
            difference_into(target, backend.put(features[start:stop]), minus)
            labels.append(block_labels[start:stop])
            filled, start = filled + taken, stop
            if filled == len(buffer):
                _check_finite(buffer[:, :width], first + done, split, columns)
                yield buffer, backend.put(np.concatenate(labels))
                done, filled, labels = done + filled, 0, []
    if filled:
        _check_finite(buffer[:filled, :width], first + done, split, columns)
        yield buffer[:filled], backend.put(np.concatenate(labels))
    if done + filled != blocks.n_rows:
        raise DataError(
            f"{split} holds {done + filled} rows but announces {blocks.n_rows}: "
            "its blocks and its n_rows must agree"
        )


def _check_finite(features: Array, first_row: int, split: str, columns: np.ndarray | None) -> None:
    xp = array_namespace(features)
    # one sum tells whether all entries are finite; only if not are they looked at one by one
    if not bool(xp.isfinite(xp.sum(features))):
        raise_non_finite(features, first_row, split, columns)


def raise_non_finite(
    features: Array, first_row: int, split: str, columns: np.ndarray | None = None
) -> None:
    """Raise DataError naming the first NaN or infinity of (r, D) features, if there is one.

    Arguments:
        features: some rows.
        first_row: number of the first of them.
        split: what to call the rows.
        columns: int64 (D,), numbers of the features; by default 0 to D - 1.
    """
    xp = array_namespace(features)
    wrong = to_host(~xp.isfinite(features))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = float(features[int(row), int(column)])
        column = column if columns is None else columns[column]
        raise DataError(
            f"row {first_row + row} of {split} has {value} as feature {column}: "
            "features must be finite; mend or drop the row"
        )

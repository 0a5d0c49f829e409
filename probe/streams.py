"""Rows on their way to a device: in pieces, read ahead, side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import Array, Backend, difference_into, to_host
from featstore.probe.errors import DataError
from featstore.probe.rows import LabelledRows, RowBlocks, as_blocks

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


@dataclass(frozen=True)
class Standardizing:
    """The map x -> (x - mean) / scale of stored rows, rounded to the precision of `dtype` last.

    In float32 the mean is subtracted in two parts where one would be off by more than rounding of
    the result: features at 10,000,000 that change by 1 keep all of their digits. Where 1 / scale
    is no good float32, as for features at 1e-40, the map is computed in float64.

    Attributes:
        dtype: of the result, "float32" or "float64".
        first: (D,), the mean in that precision, on the device; or in float64 if `wide`.
        rest: (D,), what the mean is more than that; None where nobody would notice.
        inverse: (D,), 1 / scale; None for 1.
        wide: whether the map is computed in float64.
    """

    dtype: str
    first: Array
    rest: Array | None
    inverse: Array | None
    wide: bool = False

    @classmethod
    def of(
        cls, mean: np.ndarray, scale: np.ndarray | None, backend: Backend, dtype: str
    ) -> "Standardizing":
        """Return the map for mean and scale, float64 (D,); a scale of None stands for 1."""
        unit = np.ones_like(mean) if scale is None else scale
        if dtype == "float32" and not ((unit > NARROWEST) & (unit < WIDEST)).all():
            return cls(dtype, backend.put(mean), None, backend.put(1 / unit), wide=True)
        rest = mean - mean.astype(dtype).astype(np.float64)
        # without scales nothing is known of deviations
        seen = (np.abs(rest) > (0 if (unit == 1).all() else UNSEEN * unit)).any()
        return cls(
            dtype,
            backend.put(mean, dtype),
            backend.put(rest, dtype) if seen else None,
            None if scale is None else backend.put(1 / scale, dtype),
        )

    def into(self, out: Array, rows: Array) -> None:
        """Write the standardised rows to `out`; both (r, D), on the device."""
        if self.wide:
            xp = array_namespace(out)
            wide = (xp.astype(rows, xp.float64) - self.first) * self.inverse
            out[...] = xp.astype(wide, out.dtype)
            return
        difference_into(out, rows, self.first)
        if self.rest is not None:
            out -= self.rest
        if self.inverse is not None:
            out *= self.inverse


NARROWEST, WIDEST = 2.0**-100, 2.0**100
"""Scales between which 1 / scale, and what is divided by it, are good float32 numbers."""

UNSEEN = 2.0**-22
"""Share of its deviation that the mean of a feature may be off by: some roundings of float32."""


def gathered(
    blocks: RowBlocks,
    rows: int,
    backend: Backend,
    dtype: str,
    shift: np.ndarray,
    split: str,
    spare: int = 0,
    scale: np.ndarray | None = None,
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
        scale: float64 (D,), what every row is divided by then; None for nothing.

    Yields:
        features (r, D + spare), a buffer that the next piece overwrites.
        labels (r,) int64.

    Raises:
        DataError: a feature is NaN or infinite, a label is outside [0, C), or the blocks hold
            another number of rows than they announce.
    """
    width = blocks.n_features
    buffer = backend.empty((min(rows, max(1, blocks.n_rows)), width + spare), dtype)
    brought = Standardizing.of(shift, scale, backend, dtype)
    labels: list[np.ndarray] = []
    rows_of = as_blocks(blocks)
    first, columns = rows_of.start, rows_of.columns
    done = filled = 0
    for features, block_labels in blocks:
        start = 0
        while start < len(features):
            stop = min(len(features), start + len(buffer) - filled)
            taken = stop - start
            target = buffer[filled : filled + taken, :width]
            brought.into(target, backend.put(features[start:stop]))
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


class SideBySide(LabelledRows):
    """Row blocks of the features of several layers, D_1 + D_2 + ... of them, all of one class.

    Every pass reads each layer once, in step, whatever the sizes of their blocks.

    Arguments:
        layers: row blocks of the same rows in the same order; their labels do not matter.

    Raises:
        DataError: the numbers of rows differ.

    Example:
        >>> from featstore.probe.rows import ArrayBlocks
        >>> a = ArrayBlocks(np.arange(4.0)[:, None], [0, 1, 0, 1], block_rows=3)
        >>> b = ArrayBlocks(10 + np.arange(8.0).reshape(4, 2), [1, 0, 0, 1], block_rows=2)
        >>> [x.tolist() for x, _ in SideBySide([a, b])]
        [[[0.0, 10.0, 11.0], [1.0, 12.0, 13.0]], [[2.0, 14.0, 15.0]], [[3.0, 16.0, 17.0]]]
    """

    n_classes, fingerprint = 1, None

    def __init__(self, layers: Sequence[RowBlocks]):
        counts = [layer.n_rows for layer in layers]
        if len(set(counts)) > 1:
            raise DataError(
                f"layers of {counts[0]} and {next(n for n in counts if n != counts[0])} rows: only "
                "features of the same rows can stand side by side"
            )
        self._layers = list(layers)
        self.n_rows, self.n_features = counts[0], sum(layer.n_features for layer in layers)
        self.block_rows = min(layer.block_rows for layer in layers)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        readers = [iter(layer) for layer in self._layers]
        held = [np.empty((0, layer.n_features)) for layer in self._layers]
        done = 0
        while done < self.n_rows:
            held = [
                rest if len(rest) else next(reader)[0]
                for rest, reader in zip(held, readers, strict=True)
            ]
            count = min(map(len, held))
            yield np.concatenate([rest[:count] for rest in held], 1), np.zeros(count, np.int64)
            held = [rest[count:] for rest in held]
            done += count

    def labels(self) -> np.ndarray:
        """Return zeros, int64 (N,)."""
        return np.zeros(self.n_rows, np.int64)

    @property
    def of_layers(self) -> list[np.ndarray]:
        """For each layer, which features of all are its own, int64 (D_i,)."""
        stops = np.cumsum([layer.n_features for layer in self._layers])
        return [
            np.arange(stop - layer.n_features, stop)
            for layer, stop in zip(self._layers, stops, strict=True)
        ]

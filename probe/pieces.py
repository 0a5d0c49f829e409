"""Pieces of rows where they are computed with: centred, scaled, checked, and brought meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from array_api_compat import array_namespace

from featstore.probe.arrays import PINNED, Array, Backend, difference_into, on_device, to_host
from featstore.probe.errors import DataError
from featstore.probe.rows import RowBlocks, as_blocks


class _Slot:
    """Page-locked rows on the host, as many on the device, and how far their copy has come."""

    def __init__(self, rows: int, width: int, dtype: np.dtype):
        kind = getattr(torch, dtype.name)
        self.host = torch.empty((rows, width), dtype=kind, pin_memory=True)
        self.there = torch.empty((rows, width), dtype=kind, device="cuda")
        self.copied, self.used = None, None


class Feed:
    """Rows on their way from host blocks to where they are computed with.

    For torch on a CUDA device they are laid into one of two page-locked buffers, and copied from
    there, on a stream of its own, into one of two on the device, while those before them are read
    and computed with. The host waits only where it comes to a buffer that is still being copied.
    Elsewhere blocks are put one by one.

    Arguments:
        backend: where rows go.
        rows: that are wanted together.
    """

    def __init__(self, backend: Backend, rows: int):
        self._backend, self._rows = backend, rows
        self._overlaps = backend.name == "torch" and backend.device == "cuda"
        self._slots: list[_Slot] = []
        self._turn, self._dtype, self._host = 0, None, None
        self.laid = 0

    def room(self, rows: np.ndarray) -> int:
        """Return how many of these rows can be laid beside those that are not yet sent."""
        if not self._overlaps:
            return 0 if self.laid else len(rows)
        if self.laid and rows.dtype != self._dtype:
            return 0
        if not self._slots or rows.dtype != self._dtype:
            # both buffers together are as one piece of rows
            fitting = PINNED // max(1, rows.shape[1] * rows.dtype.itemsize)
            self._most = max(1, min(-(-self._rows // 2), fitting))
            self._dtype, self._turn = rows.dtype, 0
            self._slots = [_Slot(self._most, rows.shape[1], rows.dtype) for _ in range(2)]
            self._stream = torch.cuda.Stream()
            self._stream.wait_stream(torch.cuda.current_stream())  # whose memory they may have been
        return self._most - self.laid

    def lay(self, rows: np.ndarray) -> None:
        """Take rows (r, D) of the host, at most as many as there is room for."""
        if not self._overlaps:
            self._host = rows
        else:
            slot = self._slots[self._turn]
            if not self.laid and slot.copied is not None:
                slot.copied.synchronize()
            slot.host.numpy()[self.laid : self.laid + len(rows)] = rows
        self.laid += len(rows)

    def sent(self) -> Array:
        """Return the rows that were laid, on the device; they are valid until the next but one."""
        count, self.laid = self.laid, 0
        if not self._overlaps:
            return self._backend.put(self._host)
        slot, before = self._slots[self._turn], self._slots[1 - self._turn]
        here = torch.cuda.current_stream()
        before.used = here.record_event()
        with torch.cuda.stream(self._stream):
            if slot.used is not None:
                self._stream.wait_event(slot.used)
            slot.there[:count].copy_(slot.host[:count], non_blocking=True)
            slot.copied = self._stream.record_event()
        here.wait_event(slot.copied)
        self._turn = 1 - self._turn
        return slot.there[:count]


_SHIFT_ROWS = 1024


def first_rows(blocks: RowBlocks) -> tuple[np.ndarray, str]:
    """Return a shift for the features, and the dtype in which products of them are computed.

    Returns:
        float64 (D,), the mean of the first rows rounded to that dtype. Moments of x - shift do
            not cancel, and a feature that never changes becomes exactly 0.
        "float64" if the features are float64, else "float32".
    """
    features = next(iter(blocks))[0][:_SHIFT_ROWS]
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
        if dtype == "float32" and not ((unit > _NARROWEST) & (unit < _WIDEST)).all():
            return cls(dtype, backend.put(mean), None, backend.put(1 / unit), wide=True)
        rest = mean - mean.astype(dtype).astype(np.float64)
        # without scales nothing is known of deviations
        seen = (np.abs(rest) > (0 if (unit == 1).all() else _UNSEEN * unit)).any()
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


_NARROWEST, _WIDEST = 2.0**-100, 2.0**100
"""Scales between which 1 / scale, and what is divided by it, are good float32 numbers."""

_UNSEEN = 2.0**-22
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
            another number of rows than they announce. On a device the host does not wait for the
            answer piece by piece, and features are found wanting after the last.
    """
    width = blocks.n_features
    buffer = backend.empty((min(rows, max(1, blocks.n_rows)), width + spare), dtype)
    brought = Standardizing.of(shift, scale, backend, dtype)
    labels: list[np.ndarray] = []
    rows_of = as_blocks(blocks)
    first, columns = rows_of.start, rows_of.columns
    done = filled = 0
    feed, later = Feed(backend, len(buffer)), _Finite()

    def arrive() -> int:
        target = buffer[filled : filled + feed.laid, :width]
        stop = filled + feed.laid
        brought.into(target, feed.sent())
        return stop

    def check(piece: Array) -> None:
        if on_device(piece):
            later.add(piece)
        else:
            _check_finite(piece, first + done, split, columns)

    for features, block_labels in blocks:
        start = 0
        while start < len(features):
            if not feed.room(features):
                filled = arrive()
            left = min(feed.room(features), len(buffer) - filled - feed.laid)
            stop = min(len(features), start + left)
            feed.lay(features[start:stop])
            labels.append(block_labels[start:stop])
            start = stop
            if filled + feed.laid == len(buffer):
                filled = arrive()
                check(buffer[:, :width])
                yield buffer, backend.put(np.concatenate(labels))
                done, filled, labels = done + filled, 0, []
    if filled + feed.laid:
        filled = arrive() if feed.laid else filled
        check(buffer[:filled, :width])
        yield buffer[:filled], backend.put(np.concatenate(labels))
    if not later:
        row = first
        for features, _ in blocks:
            raise_non_finite(features, row, split, columns)
            row += len(features)
    if done + filled != blocks.n_rows:
        raise DataError(
            f"{split} holds {done + filled} rows but announces {blocks.n_rows}: "
            "its blocks and its n_rows must agree"
        )


class _Finite:
    """Check that all entries of some pieces are finite, read once, after all of them."""

    def __init__(self):
        self._sums: list[Array] = []

    def add(self, piece: Array) -> None:
        """Add up a piece: what is not finite stays so in every sum."""
        self._sums.append(array_namespace(piece).sum(piece))

    def __bool__(self) -> bool:
        if not self._sums:
            return True
        xp = array_namespace(self._sums[0])
        return bool(xp.all(xp.isfinite(xp.stack(self._sums))))


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

"""A tap of a store as blocks of rows, as arrays of NumPy and dask, and as a torch data set."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featstore.errors import FeatstoreError, UsageError, with_extra
from featstore.spec import LABELS
from featstore.store import layout
from featstore.store.base import BlockStore, Piece
from featstore.store.layout import Array
from featstore.store.objects import AHEAD

if TYPE_CHECKING:
    import dask.array


def to_numpy(store: BlockStore, split: str, tap: str, *, mmap: bool = False) -> np.ndarray:
    """A tap of a complete split, (n_rows, D), or (n_views, n_rows, D) where there are views.

    Loaded with every checksum checked; with `mmap` mapped from the file, read-only and unchecked,
    so that nothing is read before it is used. Only an HDF5 store's rows lie in one file:
    `UsageError` for others.
    """
    array = store.array(split, store.spec.tap(tap).name)
    if not mmap:
        return store.load(split, tap)
    store.require_complete(split)
    if store.format != "hdf5":
        raise UsageError(
            f"{store.path} has a file for each block, and none to be mapped; convert it:"
            f" `featstore convert {store.path} {store.path.name}.h5`"
        )
    offset = store.offset(split, tap)
    return np.memmap(store.path, array.dtype, "r", offset, array.shape)


def to_dask(store: BlockStore, split: str, tap: str, *, verify: bool = True) -> "dask.array.Array":
    """A tap of a complete split as a dask array, (n_rows, D) or (n_views, n_rows, D).

    A chunk is a block, read and with `verify` checked when it is computed. Raises `FeatstoreError`
    where dask is not installed.
    """
    try:
        import dask
        import dask.array
    except ImportError:
        raise FeatstoreError(f"dask is not installed: {with_extra('dask')}") from None

    array = store.array(split, store.spec.tap(tap).name)
    records = store.require_complete(split)
    views = len(array.shape) == 3

    def block(number: int, view: int) -> "dask.array.Array":
        rows = (len(store.rows_of(split, number)), *array.row_shape)
        shape = (1, *rows) if views else rows
        read = dask.delayed(_read, pure=True)(
            store, Piece(split, tap, number, view), records[number] if verify else None, shape
        )
        return dask.array.from_delayed(read, shape, array.dtype)

    return dask.array.concatenate(
        [
            dask.array.concatenate([block(n, view) for n in range(len(records))], axis=-2)
            for view in range(array.n_views)
        ]
    )


def _read(store: BlockStore, piece: Piece, record: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = store.array(piece.split, piece.array)
    out = np.empty(shape, array.dtype)
    store.fill(piece, record, out.reshape(-1, *array.row_shape))
    return out


def to_torch_dataset(store: BlockStore, split: str, tap: str, *, view: int = 0) -> "TapDataset":
    """A tap of a complete split for `torch.utils.data.DataLoader`, in any order of rows.

    An item is (features (D,), label). Rows are read when asked for and unchecked, since checksums
    cover whole blocks: `Store.verify` checks them once, and `Store.tap` reads in order and checks.
    """
    return TapDataset(store, split, tap, view)


class TapDataset:
    """Rows of a tap by number, as torch's map-style data sets are; workers may be spawned."""

    def __init__(self, store: BlockStore, split: str, tap: str, view: int = 0):
        self._store, self._split, self._tap, self._view = store, split, tap, view
        store.require_view(split, store.spec.tap(tap).name, view)
        self._labels = store.load(split, LABELS)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple]:
        """Several rows at once, as a DataLoader asks for a batch; neighbours are read together."""
        import torch

        numbers = np.asarray(rows)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        if numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"{self._split} has rows 0 to {len(self) - 1}")
        order = np.argsort(numbers, kind="stable")
        out = np.empty((len(numbers), self._dim), self._dtype)
        runs = np.split(order, np.flatnonzero(np.diff(numbers[order]) != 1) + 1)
        for run in runs:
            first, last = int(numbers[run[0]]), int(numbers[run[-1]])
            out[run] = self._store.read(self._split, self._tap, first, last + 1, self._view)
        features = torch.from_numpy(out)
        labels = torch.from_numpy(self._labels[numbers])
        return list(zip(features, labels, strict=True))

    @property
    def _dim(self) -> int:
        return self._store.array(self._split, self._tap).row_shape[0]

    @property
    def _dtype(self) -> np.dtype:
        return self._store.array(self._split, self._tap).dtype


# Bytes being read, at most, while a block is in use, where blocks are not larger than that.
MOST_BYTES_AHEAD = 128 << 20

T = TypeVar("T")
U = TypeVar("U")


class TapBlocks:
    """Features (b, D) float16|float32 and labels (b,) of one split, in row order.

    Rows of several views come one view after another, their labels with each. Labels are int64, or
    float64 (b,) or (b, T) where they are `n_targets` = T targets and `n_classes` is 0, or uint8 (b,
    T) where each row has any number of T labels, which `classes` then names. Where the store's
    blocks are narrow, because another tap is wide, several are read as one of about 8 MB.

    `fingerprint` identifies the rows by their committed checksums, so that what was computed from a
    store that was mended, or from another one, is never mistaken for this one's.
    """

    def __init__(
        self,
        store: BlockStore,
        split: str,
        tap: str,
        *,
        view: int | None = None,
        verify: bool = True,
    ):
        self._store, self._split, self._tap, self._verify = store, split, tap, verify
        self._records = store.require_complete(split)
        self._features, self._targets = store.array(split, tap), store.array(split, LABELS)
        if view is not None:
            store.require_view(split, tap, view)
        self._views = range(self._features.n_views) if view is None else range(view, view + 1)
        self._together = layout.BLOCK_BYTES // (store.block_rows * self._features.row_bytes) or 1
        self.n_views = len(self._views)
        self.n_rows = self.n_views * self._features.n_rows
        self.n_features = self._features.row_shape[0]
        self.n_classes, self.n_targets = store.spec.n_classes, len(store.spec.targets)
        self.classes = store.spec.targets if store.spec.binary else store.spec.classes
        self.block_rows = min(self._together * store.block_rows, self._features.n_rows)
        block_bytes = self.block_rows * self._features.row_bytes
        self.ahead = max(AHEAD, min(store.ahead, MOST_BYTES_AHEAD // block_bytes))
        self.fingerprint = self._fingerprint()
        self._kept_labels: np.ndarray | None = None

    def __repr__(self) -> str:
        rows = f"{self.n_rows:,} rows" + (f" of {self.n_views} views" if self.n_views > 1 else "")
        kind = "labels" if self.classes else "targets"
        labels = f"{self.n_targets} {kind}" if self.n_targets else f"{self.n_classes:,} classes"
        return (
            f"<TapBlocks {self._tap} of {self._split}: {rows} x {self.n_features:,} features, "
            f"{labels}, in {self._store.path}>"
        )

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each block's features and labels; `StoreDamaged` where a checksum is wrong."""
        return self.part(0, self.n_rows)

    def part(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features and labels of the rows from `start` up to `stop`; no block beyond is read.

        Rows are counted through all views.
        """
        places = [(first, end, place) for first, end, place in self._places() if end > start]
        places = [place for place in places if place[0] < stop]
        read = read_ahead(self._block, [place for _, _, place in places], self.ahead)
        with closing(read):
            for (first, end, _), (features, labels) in zip(places, read, strict=True):
                rows = slice(max(start, first) - first, min(stop, end) - first)
                yield features[rows], labels[rows]

    def _places(self) -> Iterator[tuple[int, int, tuple[int, range]]]:
        """First row and end of what is read at once, counted through all views, and its place."""
        n_blocks = len(self._records)
        for number, view in enumerate(self._views):
            before = number * self._features.n_rows
            for start in range(0, n_blocks, self._together):
                run = range(start, min(start + self._together, n_blocks))
                first, last = (self._store.rows_of(self._split, b) for b in (run[0], run[-1]))
                yield before + first.start, before + last.stop, (view, run)

    def labels(self) -> np.ndarray:
        """Labels of all rows, (n_rows,) or (n_rows, T): those of the split, once for each view.

        Read once and kept: whoever asks for them goes over the rows, whose blocks then read none.
        """
        if self._kept_labels is None:
            self._kept_labels = self._store.load(self._split, LABELS, verify=self._verify)
        labels = self._kept_labels
        return np.concatenate([labels] * self.n_views) if self.n_views > 1 else labels

    @property
    def groups(self) -> np.ndarray | None:
        """Item that each row is a token or a patch of, texts (n_rows,); None where rows are items.

        It is the split, and what stands in the row's id before the last colon.
        """
        if self._store.spec.rows == "items":
            return None
        ids = self._store.ids(self._split)
        items = np.array([f"{self._split}/{one.rpartition(':')[0]}" for one in ids])
        return np.tile(items, self.n_views)

    def view(self, view: int) -> "TapBlocks":
        """The rows of one view; UsageError where there is no such view."""
        return TapBlocks(self._store, self._split, self._tap, view=view, verify=self._verify)

    def _block(self, place: tuple[int, range]) -> tuple[np.ndarray, np.ndarray]:
        view, run = place
        features = self._rows(self._tap, self._features, view, run)
        if self._kept_labels is None:
            return features, self._rows(LABELS, self._targets, 0, run)
        first = self._store.rows_of(self._split, run[0]).start
        return features, self._kept_labels[first : first + len(features)]

    def _rows(self, name: str, array: Array, view: int, run: range) -> np.ndarray:
        """Rows of a run of blocks, each checked against its own record."""
        blocks = [self._store.rows_of(self._split, block) for block in run]
        first = blocks[0].start
        out = np.empty((blocks[-1].stop - first, *array.row_shape), array.dtype)
        for block, rows in zip(run, blocks, strict=True):
            record = self._records[block] if self._verify else None
            piece = Piece(self._split, name, block, view)
            self._store.fill(piece, record, out[rows.start - first : rows.stop - first])
        return out

    def _fingerprint(self) -> str:
        sums = hashlib.sha256()
        for part in (self._store.spec.digest(), self._split, self._tap):
            sums.update(part.encode() + b"\0")
        names = self._features.pieces(self._tap)
        pieces = [names[view] for view in self._views]
        for record in self._records:
            for piece in (*pieces, LABELS):
                sums.update(record.checksums[piece].encode())
        return sums.hexdigest()


class JoinedTaps(TapBlocks):
    """Features of several taps of one split side by side, (b, D_1 + D_2 + ...), as of one layer.

    As `TapBlocks` in all else; every tap is read once, in step with the others.
    """

    def __init__(
        self,
        store: BlockStore,
        split: str,
        taps: Sequence[str],
        *,
        view: int | None = None,
        verify: bool = True,
    ):
        self._args = (store, split, taps, verify)
        self._parts = [TapBlocks(store, split, tap, view=view, verify=verify) for tap in taps]
        together = min(part._together for part in self._parts)
        first = self._parts[0]
        for part in self._parts:
            part._together = together
            part.block_rows = min(together * store.block_rows, part._features.n_rows)
        self.n_views, self.n_rows, self.block_rows = first.n_views, first.n_rows, first.block_rows
        self.n_features = sum(part.n_features for part in self._parts)
        self.n_classes, self.n_targets = first.n_classes, first.n_targets
        self.classes, self.ahead = first.classes, first.ahead
        sums = "".join(part.fingerprint for part in self._parts)
        self.fingerprint = hashlib.sha256(sums.encode()).hexdigest()

    def part(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features and labels of the rows from `start` up to `stop`; no block beyond is read."""
        for blocks in zip(*(part.part(start, stop) for part in self._parts), strict=True):
            yield np.concatenate([features for features, _ in blocks], axis=1), blocks[0][1]

    def labels(self) -> np.ndarray:
        """Labels of all rows, as of `TapBlocks`."""
        return self._parts[0].labels()

    @property
    def groups(self) -> np.ndarray | None:
        """Item that each row is a token or a patch of, as of `TapBlocks`."""
        return self._parts[0].groups

    def view(self, view: int) -> "JoinedTaps":
        """The rows of one view; UsageError where there is no such view."""
        store, split, taps, verify = self._args
        return JoinedTaps(store, split, taps, view=view, verify=verify)


def read_ahead(function: Callable[[T], U], items: Iterable[T], ahead: int) -> Iterator[U]:
    """`map(function, items)` in order, with at most `ahead` results being made while one is in use.

    The threads end with the iterator, also when it is dropped half-way.
    """
    with ThreadPoolExecutor(ahead, thread_name_prefix="featstore-read") as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

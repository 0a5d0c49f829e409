"""A tap of one split as re-iterable blocks of rows, read ahead of whatever uses them."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import numpy as np

from featstore import layout
from featstore.contract import Piece, Store
from featstore.layout import Array
from featstore.local_objects import AHEAD
from featstore.spec import LABELS

# Bytes being read, at most, while a block is in use, where blocks are not larger than that.
MOST_BYTES_AHEAD = 128 << 20

T = TypeVar("T")
U = TypeVar("U")


class TapBlocks:
    """Features (b, D) float16|float32 and labels (b,) of one split, in row order.

    Rows of several views come one view after another, their labels with each. Labels are int64, or
    float64 (b,) or (b, T) where they are `n_targets` = T targets and `n_classes` is 0. Where the
    store's blocks are narrow, because another tap is wide, several are read as one of about 8 MB.

    `fingerprint` identifies the rows by their committed checksums, so that what was computed from a
    store that was mended, or from another one, is never mistaken for this one's.
    """

    def __init__(
        self, store: Store, split: str, tap: str, *, view: int | None = None, verify: bool = True
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
        self.classes = store.spec.classes
        self.block_rows = min(self._together * store.block_rows, self._features.n_rows)
        block_bytes = self.block_rows * self._features.row_bytes
        self.ahead = max(AHEAD, min(store.ahead, MOST_BYTES_AHEAD // block_bytes))
        self.fingerprint = self._fingerprint()
        self._kept_labels: np.ndarray | None = None

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

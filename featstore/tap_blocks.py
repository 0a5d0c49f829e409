"""A tap of one split as re-iterable blocks of rows, read ahead of whatever uses them."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from featstore.contract import Store
from featstore.spec import LABELS

# Blocks being read while one is in use.
AHEAD = 2

T = TypeVar("T")
U = TypeVar("U")


class TapBlocks:
    """Features (b, D) float16|float32 and labels (b,) int64 of one split, in row order.

    `fingerprint` identifies the rows by their committed checksums, so that what was computed from a
    store that was mended, or from another one, is never mistaken for this one's.
    """

    def __init__(self, store: Store, split: str, tap: str, *, verify: bool = True):
        self._store, self._split, self._tap, self._verify = store, split, tap, verify
        self._records = store.require_complete(split)
        self.n_rows, self.n_features = store.array(split, tap).shape
        self.n_classes = store.spec.n_classes
        self.block_rows = min(store.block_rows, self.n_rows)
        self.fingerprint = self._fingerprint()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each block's features and labels; `StoreDamaged` where a checksum is wrong."""
        return read_ahead(self._block, range(len(self._records)), AHEAD)

    def labels(self) -> np.ndarray:
        """Labels of all rows, int64 (n_rows,)."""
        return self._store.load(self._split, LABELS, verify=self._verify)

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        return self._array(self._tap, block), self._array(LABELS, block)

    def _array(self, name: str, block: int) -> np.ndarray:
        array = self._store.array(self._split, name)
        n_rows = len(self._store.rows_of(self._split, block))
        out = np.empty((n_rows, *array.shape[1:]), array.dtype)
        record = self._records[block] if self._verify else None
        self._store.fill_block(self._split, name, block, record, out)
        return out

    def _fingerprint(self) -> str:
        sums = hashlib.sha256()
        for part in (self._store.spec.digest(), self._split, self._tap):
            sums.update(part.encode() + b"\0")
        for record in self._records:
            sums.update((record.checksums[self._tap] + record.checksums[LABELS]).encode())
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

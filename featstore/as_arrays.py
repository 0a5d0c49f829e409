"""Taps of a store as other libraries want them: NumPy, dask, torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.contract import Piece, Store
from featstore.errors import FeatstoreError, UsageError
from featstore.spec import LABELS

if TYPE_CHECKING:
    import dask.array


def to_numpy(store: Store, split: str, tap: str, *, mmap: bool = False) -> np.ndarray:
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


def to_dask(store: Store, split: str, tap: str, *, verify: bool = True) -> "dask.array.Array":
    """A tap of a complete split as a dask array, (n_rows, D) or (n_views, n_rows, D).

    A chunk is a block, read and with `verify` checked when it is computed. Raises `FeatstoreError`
    where dask is not installed.
    """
    try:
        import dask
        import dask.array
    except ImportError:
        raise FeatstoreError('dask is not installed: pip install "featstore[dask]"') from None

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


def _read(store: Store, piece: Piece, record: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = store.array(piece.split, piece.array)
    out = np.empty(shape, array.dtype)
    store.fill(piece, record, out.reshape(-1, *array.row_shape))
    return out


def to_torch_dataset(store: Store, split: str, tap: str, *, view: int = 0) -> "TapDataset":
    """A tap of a complete split for `torch.utils.data.DataLoader`, in any order of rows.

    An item is (features (D,), label). Rows are read when asked for and unchecked, since checksums
    cover whole blocks: `Store.verify` checks them once, and `Store.tap` reads in order and checks.
    """
    return TapDataset(store, split, tap, view)


class TapDataset:
    """Rows of a tap by number, as torch's map-style data sets are; workers may be spawned."""

    def __init__(self, store: Store, split: str, tap: str, view: int = 0):
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

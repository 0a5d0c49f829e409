"""Rows of one store copied into another, block by block, every checksum checked on the way."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

import numpy as np

from featstore import row_ids
from featstore.contract import Piece, Progress, Store
from featstore.errors import UsageError
from featstore.spec import IDS, LABELS
from featstore.store import finish
from featstore.tap_blocks import read_ahead


@dataclass(frozen=True)
class Rows:
    """Some rows as `Writer.write` takes them."""

    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    ids: list[str]


class CheckedRows:
    """Any rows of one array of a complete split; each block that they touch is checked once.

    The last blocks are held, since blocks of another store begin and end elsewhere: two and as
    many as are read `ahead`. Threads may share it.
    """

    def __init__(self, store: Store, split: str, name: str, ahead: int | None = None):
        self._held_blocks = 2 + (store.ahead if ahead is None else ahead)
        self._store, self._split, self._name = store, split, name
        self._array = store.array(split, name)
        self._records = store.require_complete(split)
        self._lock = Lock()
        self._held: dict[tuple[int, int], Future] = {}

    def take(self, rows: range) -> np.ndarray:
        """The rows, (len(rows), ...), or (n_views, len(rows), D) of an array of several views."""
        views = [self._view(view, rows) for view in range(self._array.n_views)]
        return np.stack(views) if len(self._array.shape) == 3 else views[0]

    def _view(self, view: int, rows: range) -> np.ndarray:
        out = np.empty((len(rows), *self._array.row_shape), self._array.dtype)
        row = rows.start
        while row < rows.stop:
            block = row // self._store.block_rows
            there = self._store.rows_of(self._split, block)
            until = min(rows.stop, there.stop)
            held = self._block(view, block)
            out[row - rows.start : until - rows.start] = held[
                row - there.start : until - there.start
            ]
            row = until
        return out

    def _block(self, view: int, block: int) -> np.ndarray:
        with self._lock:
            future = self._held.get((view, block))
            first = future is None
            if first:
                future = self._held[view, block] = Future()
                while len(self._held) > self._array.n_views * self._held_blocks:
                    del self._held[next(iter(self._held))]
        if first:
            try:
                future.set_result(self._read(view, block))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _read(self, view: int, block: int) -> np.ndarray:
        n_rows = len(self._store.rows_of(self._split, block))
        out = np.empty((n_rows, *self._array.row_shape), self._array.dtype)
        piece = Piece(self._split, self._name, block, view)
        self._store.fill(piece, self._records[block], out)
        return out


class SplitRows:
    """Labels, ids and some taps of one split, checked."""

    def __init__(self, store: Store, split: str, taps: Mapping[str, str], ahead: int | None = None):
        """`taps` gives the store's name of each tap by the name that it is to have."""
        self._taps = {name: CheckedRows(store, split, tap, ahead) for name, tap in taps.items()}
        self._labels = CheckedRows(store, split, LABELS, ahead)
        self._ids = CheckedRows(store, split, IDS, ahead)

    def take(self, rows: range) -> Rows:
        """Some rows of all of them."""
        return Rows(
            features={name: tap.take(rows) for name, tap in self._taps.items()},
            labels=self._labels.take(rows),
            ids=row_ids.decode(self._ids.take(rows)),
        )


def ahead_within(memory: int, *stores: Store) -> int:
    """How many blocks of these stores may be read ahead, so that all fit into `memory` bytes.

    Held are, of each, two blocks and those read ahead; and as many, and one more, joined for the
    new store. Raises `UsageError` naming the least where that is more than `memory`.
    """
    block = sum(
        max(
            sum(a.n_views * a.row_bytes for a in store.header.arrays(split.name).values())
            * min(store.block_rows, split.n_rows)
            for split in store.spec.splits
        )
        for store in stores
    )
    most = (memory // max(block, 1) - 3) // 2
    if most < 1:
        raise UsageError(
            f"blocks of {block / 1e6:.1f} MB do not fit into {memory / 1e6:.1f} MB of memory;"
            f" give {5 * block / 1e6:.0f} MB or more"
        )
    return min(most, *(store.ahead for store in stores))


def fill(
    store: Store, take: Callable[[str, range], Rows], progress: Progress, ahead: int = 2
) -> Store:
    """Write the blocks of `store` that are missing or damaged; `take` gives a split's rows.

    Returns the store, at the place that it was made for. Calls `progress("rows", done, total)`.
    What was written stays, whatever is raised.
    """
    damages = store.verify()
    damaged = {(damage.split, damage.block) for damage in damages if damage.block is not None}
    missing = {(s.name, block) for s in store.spec.splits for block in store.missing(s.name)}
    total = sum(split.n_rows for split in store.spec.splits)
    todo = sorted(damaged | missing)
    if not todo and not damages:
        return finish(store)
    done = total - sum(len(store.rows_of(*block)) for block in todo)
    with store.writer() as writer:
        writer.withdraw(damages)
        taken = read_ahead(lambda block: take(block[0], store.rows_of(*block)), todo, ahead)
        for (split, block), rows in zip(todo, taken, strict=True):
            writer.write(split, block, rows.features, rows.labels, rows.ids)
            done += len(rows.ids)
            progress("rows", done, total)
    return finish(store)

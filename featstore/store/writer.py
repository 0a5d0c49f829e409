"""The one writer of a store: bytes first, then the disk, then the commit record."""

import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np

from featstore.durable import NO_ROOM
from featstore.errors import DiskFull, FeatureError, UsageError
from featstore.spec import IDS, LABELS
from featstore.store.base import Block, BlockStore, Damage, Piece
from featstore.store.blocks import (
    Record,
    checksum,
    encode_ids,
    first_nonfinite_row,
    raw_bytes,
    slot_bytes,
)

# Blocks written but not yet on the disk. A kill loses these; a slow disk makes the writer wait.
IN_FLIGHT = 8


class Writer:
    """Writes blocks in any order, each once; made by `Store.writer`, which holds the lock.

    `still_held` raises where the lock was lost, and is asked before anything is committed.

    `write` returns when the operating system has the bytes. A thread waits for the disk, for all
    blocks that came meanwhile at once, and then writes their commit records: computing goes on
    during the wait, and a record is never on the disk before its data.
    """

    def __init__(self, store: BlockStore, still_held: Callable[[], None]):
        self._store, self._still_held = store, still_held
        self._committed = {
            (split.name, block)
            for split in store.spec.splits
            for block, record in enumerate(store.records(split.name))
            if record
        }
        self._slots = {
            split.name: slot_bytes(split.name, store.header.pieces(split.name))
            for split in store.spec.splits
        }
        self._pending: queue.Queue[Record | None] = queue.Queue(IN_FLIGHT)
        self._unsynced: list[Block] = []
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._commit_forever, name="featstore-commit")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._pending.put(None)
        self._thread.join()
        if kind is None:
            self._raise_failure()

    def write(
        self,
        split: str,
        block: int,
        features: Mapping[str, np.ndarray],
        labels: np.ndarray,
        ids: Sequence[str],
        seen: Mapping[str, int] | None = None,
        columns: Mapping[str, Sequence | np.ndarray] | None = None,
    ) -> None:
        """Write one block: every tap (rows, D) in the store's dtype, labels and ids of its rows.

        `columns` are those that the store keeps beside them, by name: int64 or texts (rows,).

        `seen` says how many of the rows each of `notices.REMARKS` is true of.

        A tap of a split of several views is (n_views, rows, D); labels are int64 (rows,), or
        float64 (rows,) or (rows, T) of targets, or uint8 (rows, T) of several labels. One thread
        writes at a time.

        Nothing is written where an array is not what the spec says: `FeatureError` names the array,
        and the row of a value that is not finite. `UsageError` where the block is committed or does
        not exist, `DiskFull` where bytes were refused; committed blocks stay intact.
        """
        self._raise_failure()
        rows = self._rows(split, block)
        if (split, block) in self._committed:
            raise UsageError(f"block {block} of {split} is committed; discard it to write it again")
        arrays = self._checked(split, rows, features, labels, ids, columns or {})
        sums = {}
        with self._explained():
            for name, array in arrays.items():
                there = self._store.array(split, name)
                views = array.reshape(there.n_views, len(rows), *there.row_shape)
                for view, piece in enumerate(there.pieces(name)):
                    sums[piece] = checksum(views[view])
                    place = Piece(split, name, block, view)
                    self._store.write_bytes(place, raw_bytes(views[view]))
        self._committed.add((split, block))
        digest = self._store.spec.digest()
        self._pending.put(
            Record(store=digest, split=split, block=block, checksums=sums, seen=dict(seen or {}))
        )

    def discard(self, split: str, block: int) -> None:
        """Withdraw the commit record of a block, so that it counts as missing."""
        self._rows(split, block)
        self.flush()
        with self._explained():
            self._store.drop_record(split, block)
        self._committed.discard((split, block))

    def withdraw(self, damages: Iterable[Damage]) -> None:
        """Make good what can be of what `Store.verify` found: damaged blocks count as missing."""
        damages = list(damages)
        if any(damage.block is None for damage in damages):
            with self._explained():
                self._store.restate()
        for split, block in sorted({(d.split, d.block) for d in damages if d.block is not None}):
            self.discard(split, block)

    def flush(self) -> None:
        """Return when everything written so far is committed."""
        self._pending.join()
        self._raise_failure()

    def _rows(self, split: str, block: int) -> range:
        n_blocks = self._store.n_blocks(split)
        if not 0 <= block < n_blocks:
            raise UsageError(f"{split} has blocks 0 to {n_blocks - 1}, not {block}")
        return self._store.rows_of(split, block)

    def _checked(self, split, rows, features, labels, ids, columns) -> dict[str, np.ndarray]:
        """The arrays to be stored, by name, each as the header says it is."""
        taps = [tap.name for tap in self._store.spec.taps]
        if set(features) != set(taps):
            raise FeatureError(
                f"rows {rows.start}:{rows.stop} of {split} came with taps {sorted(features)};"
                f" the store holds {sorted(taps)}: write all of them together"
            )
        if len(ids) != len(rows):
            raise FeatureError(f"{split} got {len(ids)} ids for {len(rows)} rows; give one a row")
        arrays = {name: np.asarray(features[name]) for name in taps}
        arrays[LABELS] = np.asarray(labels)
        arrays[IDS] = encode_ids(ids, self._store.header.id_width)
        kept = self._store.spec.column_arrays
        if set(columns) != {column.name for column in kept.values()}:
            raise FeatureError(
                f"rows {rows.start}:{rows.stop} of {split} came with columns {sorted(columns)};"
                f" the store keeps {sorted(column.name for column in kept.values())}"
            )
        for name, column in kept.items():
            values = columns[column.name]
            if column.width is None:
                arrays[name] = np.asarray(values)
            else:
                arrays[name] = encode_ids([str(one) for one in values], column.width)
        for name, array in arrays.items():
            expected = self._store.array(split, name)
            views = expected.shape[: len(expected.shape) == 3]
            shape = (*views, len(rows), *expected.row_shape)
            if array.shape != shape or array.dtype != expected.dtype:
                raise FeatureError(
                    f"rows {rows.start}:{rows.stop} of {split}/{name} came as {array.dtype}"
                    f" {array.shape}; the store holds {expected.dtype} {shape}: convert them first"
                )
        self._check_values(split, rows, arrays)
        return arrays

    def _check_values(self, split: str, rows: range, arrays: dict[str, np.ndarray]) -> None:
        spec = self._store.spec
        for tap in spec.taps:
            row = first_nonfinite_row(arrays[tap.name].reshape(-1, tap.dim))
            if row is not None:
                raise FeatureError(
                    f"row {rows[row % len(rows)]} of {split}/{tap.name} has a feature that is not"
                    f" finite in {spec.dtype}; check that input, or store float32 if it overflows"
                )
        labels = arrays[LABELS]
        if spec.binary:
            wrong = np.flatnonzero((labels > 1).any(axis=1))
            rule = f"of the labels {', '.join(spec.targets)} each is 0 or 1"
        elif spec.targets:
            wrong = np.flatnonzero(~np.isfinite(labels.reshape(len(rows), -1)).all(axis=1))
            rule = f"the targets {', '.join(spec.targets)} are finite numbers"
        else:
            wrong = np.flatnonzero((labels < 0) | (labels >= spec.n_classes))
            rule = f"labels of {spec.n_classes} classes are 0 to {spec.n_classes - 1}"
        if wrong.size:
            raise FeatureError(
                f"row {rows[wrong[0]]} of {split} has label {labels[wrong[0]]}; {rule}"
            )

    def _commit_forever(self) -> None:
        last = False
        while not last:
            got = [self._pending.get()]
            while not self._pending.empty():
                got.append(self._pending.get())
            last = got[-1] is None
            records = [record for record in got if record]
            try:
                if self._failure is None:
                    self._commit(records)
            except Exception as error:
                self._failure = error
            finally:
                for _ in got:
                    self._pending.task_done()

    def _commit(self, records: list[Record]) -> None:
        """Sync the blocks, and in the same flush the records of the blocks before them."""
        blocks = [(record.split, record.block) for record in records]
        self._store.sync(blocks, self._unsynced)
        self._still_held()
        for record in records:
            slot = record.sealed(self._slots[record.split])
            self._store.write_record(record.split, record.block, slot)
        self._unsynced = blocks
        if blocks and self._pending.empty():
            self._store.sync([], blocks)
            self._unsynced = []

    def _raise_failure(self) -> None:
        if self._failure is not None:
            with self._explained():
                raise self._failure

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Let a full disk be told as one."""
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DiskFull(self._room_needed(error)) from None

    def _room_needed(self, error: OSError) -> str:
        self._pending.join()
        spec, header = self._store.spec, self._store.header
        needed, missing, total = 0, 0, 0
        for split in (split.name for split in spec.splits):
            arrays = header.arrays(split).values()
            row_bytes = sum(array.row_bytes * array.n_views for array in arrays)
            blocks = self._store.missing(split)
            missing += len(blocks)
            total += self._store.n_blocks(split)
            needed += row_bytes * sum(len(self._store.rows_of(split, block)) for block in blocks)
        free = shutil.disk_usage(self._store.path).free
        return (
            f"no room for {self._store.path} ({os.strerror(error.errno)}): {total - missing} of"
            f" {total} blocks are committed and intact, the rest needs {needed / 1e6:.1f} MB and"
            f" {free / 1e6:.1f} MB are free; make room and run the same command again, which goes"
            " on where it stopped"
        )

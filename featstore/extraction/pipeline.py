"""The loop from batches to committed blocks."""

import contextlib
import json
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import torch

from featstore.data.rows import Pieces, Rows
from featstore.errors import FeatstoreError, FeatureError
from featstore.extraction.inference import Batch, Inference
from featstore.extraction.loading import Encoder, Job, Workers, batches, decoded
from featstore.extraction.ranks import Meeting, Ranks
from featstore.store import locks
from featstore.store.base import Block, Progress
from featstore.store.blocks import first_nonfinite_row
from featstore.store.store import Store
from featstore.store.writer import Writer


class FilledBlock:
    """One block of a store, all views and taps, in the store's dtype and in host memory."""

    def __init__(
        self,
        store: Store,
        split: str,
        block: int,
        pinned: bool,
        modality: str = "image",
        order: np.ndarray | None = None,
    ):
        """Make room for a block; its rows come in the `order` given, by places in the block."""
        self.split, self.block, self._modality = split, block, modality
        self._order = order
        self._spec = store.spec
        self.n_rows = len(store.rows_of(split, block))
        n_views = store.spec.split(split).views
        kind = {"dtype": getattr(torch, store.spec.dtype), "pin_memory": pinned}
        self._taps = {
            tap.name: torch.empty((n_views, self.n_rows, tap.dim), **kind)
            for tap in store.spec.taps
        }
        self._filled: torch.cuda.Event | None = None
        # By tap, of each row of each view, how many values are not 0, and which of them became 0.
        self._values = {
            tap.name: torch.zeros((2, n_views, self.n_rows), dtype=torch.int32, pin_memory=pinned)
            for tap in store.spec.taps
            if store.spec.dtype == "float16"
        }

    def put(self, view: int, first: int, outputs: Mapping[str, torch.Tensor]) -> None:
        """Take features {tap: (b, D)} of a view's rows from `first` on, counted as they come.

        What is on a CUDA device is converted there, and copied without waiting for it.
        """
        for name, kept in self._taps.items():
            features = outputs[name]
            place = kept[view, first : first + len(features)]
            stored = features.to(kept.dtype)
            if name in self._values:
                counts = torch.stack(
                    [(x != 0).sum(1, dtype=torch.int32) for x in (features, stored)]
                )
                there = self._values[name][:, view, first : first + len(features)]
                there.copy_(counts, non_blocking=features.device.type == "cuda")
            if features.device.type == "cuda":
                features = stored
                place.copy_(features, non_blocking=True)
                self._filled = torch.cuda.current_stream(features.device).record_event()
            else:
                place.copy_(stored)

    @property
    def pending(self) -> bool:
        """Return whether a device may still be computing or copying what was put."""
        return self._filled is not None

    def wait(self) -> None:
        """Return when everything that was put is there."""
        if self._filled is not None:
            self._filled.synchronize()

    def features(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Each tap (rows, D), or (views, rows, D) where there are several.

        Raises `FeatureError` naming the row of a feature that cannot be stored.
        """
        found = {}
        for name, kept in self._taps.items():
            self._check_vanished(name)
            array = kept.numpy()
            if self._order is not None:
                array = array[:, np.argsort(self._order)]
            for view in array:
                self._check(name, view, ids)
            found[name] = array[0] if len(array) == 1 else array
        return found

    @property
    def seen(self) -> dict[str, int]:
        """Return the number of rows each of `notices.REMARKS` is true of, in the first view."""
        tiny = np.zeros(self.n_rows, bool)
        for values in self._values.values():
            before, after = values.numpy()[:, 0]
            tiny |= before - after > before / 100
        return {"tiny": int(tiny.sum())} if tiny.any() else {}

    def _check_vanished(self, tap: str) -> None:
        """Raise `FeatureError` where most values of a tap are too small for float16."""
        if tap not in self._values:
            return
        before, after = self._values[tap].numpy().reshape(2, -1).sum(1, dtype=np.int64)
        if after < before / 2:
            raise FeatureError(
                f"{1 - after / before:.0%} of the features at {tap} that are not 0 are too small"
                " for float16, in which they become 0: store float32 with --dtype float32"
            )

    def _check(self, tap: str, features: np.ndarray, ids: Sequence[str]) -> None:
        row = first_nonfinite_row(features)
        if row is None:
            return
        if self._spec.dtype == "float16" and not np.isnan(features[row]).any():
            raise FeatureError(
                f"{self._modality} {ids[row]} has a feature at {tap} that is too large for float16,"
                " which ends at 65504: store float32 with --dtype float32"
            )
        computed = self._spec.precision
        remedy = f"check the weights and the {self._modality}"
        if computed == "float16":
            remedy = "float16 may have overflowed: compute with --precision bfloat16 or float32"
        raise FeatureError(
            f"{self._modality} {ids[row]} has a feature at {tap} that is not finite; {remedy}"
        )


class WriteBehind:
    """Writes blocks in a thread of its own, in the order in which they were put.

    What fails there is raised by the next `put`, or when the context is left; what was put before
    it is in the store. `waited` is for how many seconds `put` had to wait for the disk.
    """

    def __init__(self, writer: Writer):
        self.waited = 0.0
        self._writer = writer
        self._queue: queue.Queue = queue.Queue(1)
        self._latest: tuple | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name="featstore-write-behind")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.flush()
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def put(
        self,
        block: FilledBlock,
        labels: np.ndarray,
        ids: Sequence[str],
        seen: Mapping[str, int] | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Queue a block, as `Writer.write` takes it; waits while another one waits already.

        One block is kept back while a device still fills it, until the next one is queued there, so
        that the device never waits for the disk; that time is not counted as waiting for the disk.
        """
        self.flush()
        if self._failure is not None:
            raise self._failure
        if block.pending:
            self._latest = (block, labels, ids, seen, columns)
        else:
            self._pass_on((block, labels, ids, seen, columns))

    def flush(self) -> None:
        """Pass on the block that was held back, when the device is done with it."""
        held, self._latest = self._latest, None
        if held is not None:
            held[0].wait()
            self._pass_on(held)

    def _pass_on(self, put: tuple) -> None:
        began = time.perf_counter()
        self._queue.put(put)
        self.waited += time.perf_counter() - began

    def _write_all(self) -> None:
        while (got := self._queue.get()) is not None:
            if self._failure is not None:
                continue
            block, labels, ids, seen, columns = got
            try:
                features = block.features(ids)
                seen = {**(seen or {}), **block.seen}
                place = block.split, block.block
                self._writer.write(*place, features, labels, ids, seen, columns)
            except BaseException as error:
                self._failure = error


@dataclass
class Waits:
    """Seconds that computing waited, since it began: for decoding, and for the disk."""

    began: float = field(default_factory=time.perf_counter)
    decoding: float = 0.0
    disk: float = 0.0

    def __str__(self) -> str:
        whole = max(time.perf_counter() - self.began, 1e-9)
        return f"decoding {100 * self.decoding / whole:.0f} %, disk {100 * self.disk / whole:.0f} %"


@dataclass(frozen=True)
class Work:
    """The blocks that one rank computes, in batches of `batch_size` rows of one view.

    A batch never straddles a block or a view, so that a block's bits do not depend on which rank
    computes it, or after what. With `by_length` the texts of a block are taken from the longest to
    the shortest, so that those of a batch need little padding.
    """

    store: Store
    rows: Mapping[str, Rows | Pieces]
    augmented: bool
    blocks: Sequence[Block]
    batch_size: int
    by_length: bool = False
    _orders: dict[Block, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def jobs(self) -> Iterator[Job]:
        """Every batch of every block, in order."""
        for split, block in self.blocks:
            for view, numbers in self.batches(split, block):
                clean = not self.augmented or split != "train"
                rows, pieces = self.rows[split], None
                if isinstance(rows, Pieces):
                    numbers, pieces = rows.within(numbers)
                yield Job(rows.items, numbers, None if clean else view, pieces)

    def order(self, split: str, block: int) -> np.ndarray | None:
        """Return the places in a block of its rows as they are taken, None where as they lie."""
        if not self.by_length:
            return None
        if (split, block) not in self._orders:
            read = self.rows[split].read
            # letters stand for tokens, which are counted when they are made
            lengths = [len(read(row) or "") for row in self.store.rows_of(split, block)]
            self._orders[split, block] = np.argsort(-np.array(lengths), kind="stable")
        return self._orders[split, block]

    def batches(self, split: str, block: int) -> list[tuple[int, range | np.ndarray]]:
        """The batches of one block: which view, and which rows of the split."""
        rows, order = self.store.rows_of(split, block), self.order(split, block)
        if isinstance(pieces := self.rows[split], Pieces):
            return [(0, run) for run in self._of_items(pieces, rows)]
        taken = rows if order is None else rows.start + order
        runs = batches(taken, self.batch_size)
        views = range(self.store.spec.split(split).views)
        return [(view, numbers) for view in views for numbers in runs]

    def _of_items(self, pieces: Pieces, rows: range) -> list[range]:
        """Return some rows in runs of the pieces of `batch_size` items each."""
        items, _ = pieces.within(rows)
        firsts = [pieces.starts[item] for item in items[:: self.batch_size]][1:]
        ends = [rows.start, *map(int, firsts), rows.stop]
        # of items that all have no piece there is no run
        return [range(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]

    def forget(self, split: str, block: int) -> None:
        """Drop the order of a block that is done."""
        self._orders.pop((split, block), None)

    @property
    def modality(self) -> str:
        """Return the kind of the rows: "image" or "text"."""
        return next(iter(self.rows.values())).modality

    @property
    def passes(self) -> int:
        """Rows to be passed through the model, each view of a row counted."""
        return passes(self.store, self.blocks)


def passes(store: Store, blocks: Sequence[Block]) -> int:
    """Rows of some blocks, each view of a row counted."""
    return sum(
        len(store.rows_of(split, block)) * store.spec.split(split).views for split, block in blocks
    )


def missing(store: Store, ranks: Ranks, meeting: Meeting, progress: Progress) -> list[Block]:
    """Every block that is missing or damaged, in order; each rank looks at its share.

    No rank goes on before all have looked, so that all return the same.
    """
    share = ranks.share(store.blocks())
    damaged = {(damage.split, damage.block) for damage in store.verify(progress, share)}
    mine = [block for block in share if block in damaged or store.record(*block) is None]
    said = meeting.said(json.dumps(mine))
    found = {(split, block) for text in said for split, block in json.loads(text)}
    return [block for block in store.blocks() if block in found]


def tidy(store: Store) -> None:
    """Remove the lock that a killed writer left beside a complete store; one that is held stays."""
    if isinstance(store.path, Path) and locks.lock_path(store.path).exists():
        with contextlib.suppress(FeatstoreError), locks.locked(store.path):
            return


def fill(
    work: Work,
    encode: Encoder,
    infer: Inference,
    *,
    workers: Workers,
    job: str | None,
    progress: Callable[..., None],
) -> dict[str, Counter[str]]:
    """Compute the blocks of `work` and commit each. `job` as in `Store.writer`.

    Returns of each split how many rows each of `notices.REMARKS` is true of. Calls `progress(passes
    done, waits=...)` after each batch. Whatever is raised, the blocks that were whole before are
    committed.
    """
    store, waits, done = work.store, Waits(), 0
    remarks: dict[str, Counter[str]] = {}
    with store.writer(job) as writer:
        for split, block in work.blocks:
            if store.record(split, block) is not None:
                writer.discard(split, block)
        begun: deque[Job] = deque()
        jobs = (job for job in work.jobs() if begun.append(job) is None)
        stream = decoded(jobs, encode, workers, work.batch_size, infer.pinned)
        with contextlib.closing(stream), WriteBehind(writer) as behind, torch.inference_mode():
            ready = infer.fed(_timed(stream, waits))
            for split, block in work.blocks:
                first = store.rows_of(split, block).start
                order = work.order(split, block)
                filled = FilledBlock(store, split, block, infer.pinned, work.modality, order)
                seen: Counter[str] = Counter()
                # how many rows of each view are there
                there: Counter[int] = Counter()
                for view, numbers in work.batches(split, block):
                    outputs, batch = infer(next(ready)), begun.popleft()
                    if batch.pieces is not None:
                        outputs = {name: values[batch.pieces] for name, values in outputs.items()}
                    filled.put(view, there[view], outputs)
                    seen.update(batch.seen)
                    there[view] += len(numbers)
                    done += len(numbers)
                    waits.disk = behind.waited
                    progress(done, waits=str(waits))
                infer.check_unchanged(f"rows {first}:{first + filled.n_rows} of {split}")
                rows, here = work.rows[split], slice(first, first + filled.n_rows)
                columns = rows.beside_of(range(here.start, here.stop))
                behind.put(filled, rows.labels[here], rows.ids[here], seen, columns)
                remarks.setdefault(split, Counter()).update(seen)
                work.forget(split, block)
    return remarks


def _timed(stream: Iterator[Batch], waits: Waits) -> Iterator[Batch]:
    while True:
        began = time.perf_counter()
        batch = next(stream, None)
        waits.decoding += time.perf_counter() - began
        if batch is None:
            return
        yield batch

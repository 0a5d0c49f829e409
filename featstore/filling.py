"""The one loop: rows of the missing blocks through the model, and the blocks into the store."""

import contextlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from featstore import locks
from featstore.contract import Block, Progress, Store
from featstore.datasets import Rows
from featstore.errors import FeatstoreError
from featstore.handover import FilledBlock, Handover
from featstore.inference import Batch, Inference
from featstore.loading import Encoder, Job, Workers, batches, decoded
from featstore.ranks import Meeting, Ranks


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
    computes it, or after what.
    """

    store: Store
    rows: Mapping[str, Rows]
    augmented: bool
    blocks: Sequence[Block]
    batch_size: int

    def jobs(self) -> Iterator[Job]:
        """Every batch of every block, in order."""
        for split, block in self.blocks:
            for view, numbers in self.batches(split, block):
                clean = not self.augmented or split != "train"
                yield Job(self.rows[split], numbers, None if clean else view)

    def batches(self, split: str, block: int) -> list[tuple[int, range]]:
        """The batches of one block: which view, and which rows of the split."""
        runs = batches(self.store.rows_of(split, block), self.batch_size)
        views = range(self.store.spec.split(split).views)
        return [(view, numbers) for view in views for numbers in runs]

    @property
    def modality(self) -> str:
        """What rows are: "image" or "text"."""
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
        with contextlib.closing(stream), Handover(writer) as handover, torch.inference_mode():
            ready = infer.fed(_timed(stream, waits))
            for split, block in work.blocks:
                first = store.rows_of(split, block).start
                filled = FilledBlock(store, split, block, infer.pinned, work.modality)
                seen: Counter[str] = Counter()
                for view, numbers in work.batches(split, block):
                    filled.put(view, numbers.start - first, infer(next(ready)))
                    seen.update(begun.popleft().seen)
                    done += len(numbers)
                    waits.disk = handover.waited
                    progress(done, waits=str(waits))
                rows, here = work.rows[split], slice(first, first + filled.n_rows)
                handover.put(filled, rows.labels[here], rows.ids[here], seen)
                remarks.setdefault(split, Counter()).update(seen)
    return remarks


def _timed(stream: Iterator[Batch], waits: Waits) -> Iterator[Batch]:
    while True:
        began = time.perf_counter()
        batch = next(stream, None)
        waits.decoding += time.perf_counter() - began
        if batch is None:
            return
        yield batch

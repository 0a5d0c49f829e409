"""Batches of decoded rows, prepared by threads while the model computes.

Pillow and the tokenizers give up the interpreter lock while they work, so threads run in parallel.
They cannot inherit the locks of an open store, as forked processes do, and unlike spawned ones they
start at once and copy nothing.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from featstore.backbones import Backbone
from featstore.datasets import Rows
from featstore.inference import Batch
from featstore.views import Views

# Batches decoded beyond those in the workers' hands: a slow one does not stop the model.
AHEAD = 2
_MOST_WORKERS = 32


@dataclass(frozen=True)
class Job:
    """One batch: which rows of which split, and which augmented view of them, None for clean."""

    rows: Rows
    numbers: range
    view: int | None = None


@dataclass(frozen=True)
class Encoder:
    """From a job to what the backbone takes, in any thread."""

    backbone: Backbone
    views: Views | None = None

    def __call__(self, job: Job) -> Batch:
        """Pixels uint8 (b, H, W, 3), or token tensors (b, L) by name."""
        if self.backbone.modality == "text":
            return self.backbone.encode_batch([job.rows[row][0] for row in job.numbers])
        # Image by image: a batch of large photographs would not fit into memory at full size.
        first = self._pixels(job, job.numbers[0])
        pixels = np.empty((len(job.numbers), *first.shape), np.uint8)
        pixels[0] = first
        for position, row in enumerate(job.numbers[1:], 1):
            pixels[position] = self._pixels(job, row)
        return torch.from_numpy(pixels)

    def _pixels(self, job: Job, row: int) -> np.ndarray:
        image = job.rows[row][0]
        if job.view is None:
            return self.backbone.transform.pixels(image)
        return self.views.pixels(image, job.rows.ids[row], job.view)


def default_workers(processes: int = 1) -> int:
    """Decoding threads: one a core of this machine's share for each of `processes`, up to 32."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_WORKERS, max(1, (cores or 1) // processes))


def batches(rows: range, batch_size: int) -> list[range]:
    """Consecutive runs of at most `batch_size` rows.

    >>> batches(range(32, 42), 4)
    [range(32, 36), range(36, 40), range(40, 42)]
    """
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def decoded(
    jobs: Iterable[Job], encode: Callable[[Job], Batch], workers: int, pinned: bool = False
) -> Iterator[Batch]:
    """The batch of each job, in order, in page-locked memory where `pinned`.

    At most `workers` + AHEAD batches are in memory. A row that cannot be read raises here, after
    the batches before it.
    """

    def work(job: Job) -> Batch:
        batch = encode(job)
        if not pinned:
            return batch
        if isinstance(batch, torch.Tensor):
            return batch.pin_memory()
        return {name: tensor.pin_memory() for name, tensor in batch.items()}

    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-decode") as pool:
        pending: deque[Future[Batch]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(work, job))
                if len(pending) >= workers + AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

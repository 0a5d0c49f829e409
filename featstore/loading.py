"""Batches of decoded images, prepared by threads while the model computes.

Pillow gives up the interpreter lock while it decodes and resizes, so threads run in parallel. They
cannot inherit the locks of an open store, as forked processes do, and unlike spawned ones they
start at once and copy nothing.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from featstore.datasets import ImageRows
from featstore.transforms import Transform

# Batches decoded beyond those in the workers' hands: a slow one does not stop the model.
AHEAD = 2


def default_workers() -> int:
    """Decoding threads: one a core that this process may use, up to eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, cores or 1)


def batches(rows: range, batch_size: int) -> list[range]:
    """Consecutive runs of at most `batch_size` rows.

    >>> batches(range(32, 42), 4)
    [range(32, 36), range(36, 40), range(40, 42)]
    """
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def decoded(
    jobs: Iterable[tuple[ImageRows, range]], transform: Transform, workers: int
) -> Iterator[torch.Tensor]:
    """For each (data set, rows) of `jobs` in order, their pixels: uint8 (b, H, W, 3).

    At most `workers` + AHEAD batches are in memory. An image that cannot be read raises here, after
    the batches before it.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-decode") as pool:
        pending: deque[Future[torch.Tensor]] = deque()
        try:
            for images, rows in jobs:
                pending.append(pool.submit(_decode, images, rows, transform))
                if len(pending) >= workers + AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _decode(images: ImageRows, rows: Sequence[int], transform: Transform) -> torch.Tensor:
    first = transform.pixels(images[rows[0]][0])
    pixels = np.empty((len(rows), *first.shape), np.uint8)
    pixels[0] = first
    for position, row in enumerate(rows[1:], 1):
        pixels[position] = transform.pixels(images[row][0])
    return torch.from_numpy(pixels)

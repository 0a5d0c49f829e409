"""Several processes on one sweep: which rows each reads, and sums over all of them.

A process of `torchrun` has a rank; without `torch.distributed` there is one process, rank 0, and
everything here does nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist

from probe.arrays import Array
from probe.blocks import RowBlocks
from probe.parts import RowRange


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 to world - 1."""
    return dist.get_rank() if world() > 1 else 0


def launched() -> bool:
    """Return whether a launcher such as `torchrun` started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of the launch while this lasts; alone, do nothing.

    Arrays on the CPU are summed by gloo, those on a GPU by NCCL; each process takes the GPU of its
    number on the machine.
    """
    if not launched():
        yield
        return
    kinds = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        kinds = "cpu:gloo,cuda:nccl"
    dist.init_process_group(kinds)
    try:
        yield
    finally:
        dist.destroy_process_group()


def all_sum(*arrays: Array) -> None:
    """Replace each array, in place, by its sum over all processes, the same bits in each.

    Every process calls this with arrays of the same shapes and dtypes, in the same order.

    Arguments:
        arrays: NumPy, torch or CuPy, of floats, int64 or uint8, contiguous.
    """
    if world() > 1:
        for array in arrays:
            dist.all_reduce(torch.as_tensor(array))


def least(value: int) -> int:
    """Return the smallest value that a process has."""
    smallest = np.array([value])
    if world() > 1:
        dist.all_reduce(torch.as_tensor(smallest), dist.ReduceOp.MIN)
    return int(smallest[0])


def everywhere(fact: bool) -> bool:
    """Return whether something is so in every process."""
    return least(int(fact)) == 1


def share(blocks: RowBlocks, unit: int = 1) -> RowBlocks:
    """Return this process's rows: a range of whole units of rows, of about equal size for all.

    With units of the rows that are multiplied at once, the products are the same numbers however
    many processes there are, and only the order of float64 sums differs.

    Arguments:
        blocks: the rows of all.
        unit: rows that stay together.
    """
    if world() == 1:
        return blocks
    units = -(-blocks.n_rows // unit)
    start, stop = (units * (rank() + step) // world() * unit for step in (0, 1))
    return RowRange(blocks, min(start, blocks.n_rows), min(stop, blocks.n_rows))

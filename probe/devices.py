"""How much memory a device has for batches, and what happens when it turns out to have less."""

import contextlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from featstore.probe.arrays import Backend, backend as backend_named
from featstore.probe.errors import DeviceWarning, MemoryBudgetError
from featstore.probe.memory import (
    AUTO,
    FREE_SHARE,
    Progress,
    Settings,
    all_sum,
    parse,
    rank,
    silent,
    text,
    world,
)

T = TypeVar("T")

# what the libraries under torch and CuPy say when their own allocations fail
SIGNS = ("out of memory", "status_alloc_failed")


class Grant:
    """Bytes for arrays on the device that computes, halved whenever it turns out to have fewer.

    Arguments:
        memory: "auto", or a size, of each of host and device: "8GiB", or bytes. "auto" is nine
            tenths of what is free there, of each for itself.
        backend: where arrays go.

    Attributes:
        memory: bytes on the device, or on the host where that computes.
        host: bytes on the host, or None where they are those of `memory`.

    Raises:
        UsageError: the text is not a size.
    """

    def __init__(self, memory: str | int, backend: Backend):
        of_device = memory == AUTO and backend.device == "cuda"
        self.memory = _of_all_ranks(free(backend)) if of_device else parse(memory)
        self.host = parse(memory) if backend.device == "cuda" else None

    @property
    def on_host(self) -> int:
        """Bytes that arrays may take on the host."""
        return self.memory if self.host is None else self.host

    def spend(self, attempt: Callable[[int], T]) -> T:
        """Return attempt(memory); when the device runs out, try again with half the memory.

        All sizes of batches follow from the memory, so that half of it halves them.

        Raises:
            MemoryBudgetError: with less than this not even the smallest batch fits; or there are
                several ranks, which would no longer do the same work.
        """
        failed = 0
        while True:
            try:
                return attempt(self.memory)
            except MemoryBudgetError:
                if not failed:
                    raise
                raise MemoryBudgetError(
                    f"the device ran out of memory with batches for {text(failed)}, and half of "
                    "that holds no batch at all: free memory on it, or compute on the cpu"
                ) from None
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if world() > 1:
                    raise MemoryBudgetError(
                        f"the device of rank {rank()} ran out of memory with batches for "
                        f"{text(self.memory)}, and ranks go on together or not at all: give a "
                        "smaller memory"
                    ) from None
            # only here, since a caught error keeps alive the arrays that are to make room
            release()
            failed, self.memory = self.memory, self.memory // 2
            warnings.warn(
                f"the device ran out of memory with batches for {text(failed)}: going on with "
                f"batches for {text(self.memory)}",
                DeviceWarning,
                stacklevel=2,
            )


def _of_all_ranks(free_here: int) -> int:
    """Return the share of free memory that every rank has, so that all of them plan alike."""
    free_there = np.zeros(world())
    free_there[rank()] = free_here
    all_sum(free_there)
    return int(FREE_SHARE * free_there.min())


def grant(memory: str | int | Grant, backend: Backend) -> Grant:
    """Return what is granted; as it is if it is so already, with what has been learnt."""
    return memory if isinstance(memory, Grant) else Grant(memory, backend)


def settings_of(
    standardize: bool,
    moments_cache: Path | None = None,
    memory: str | int = AUTO,
    device: str = "auto",
    backend: str = "torch",
    progress: Progress = silent,
) -> Settings:
    """Return settings from what a person gives, "4GiB" and "cuda".

    Raises:
        UsageError: the memory is no size, or this machine has no such device or backend.
    """
    where = backend_named(backend, device)
    granted = Grant(memory, where)
    return Settings(standardize, granted.memory, where, moments_cache, progress, granted.host)


def free(backend: Backend) -> int:
    """Return the bytes that arrays of this backend could take on the CUDA device now."""
    if backend.name == "torch":
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    import cupy

    pool = cupy.get_default_memory_pool()
    return cupy.cuda.runtime.memGetInfo()[0] + pool.free_bytes()


def out_of_memory(error: Exception) -> bool:
    """Return whether an error means that a device has no memory left."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    from_cupy = type(error).__module__.startswith("cupy")
    of_a_device = from_cupy or isinstance(error, RuntimeError)
    return of_a_device and any(sign in str(error).lower() for sign in SIGNS)


def release() -> None:
    """Give back to the device what the libraries keep of it for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if "cupy" in sys.modules:
        cupy = sys.modules["cupy"]
        with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):  # without a driver
            cupy.get_default_memory_pool().free_all_blocks()

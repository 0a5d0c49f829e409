"""Memory and processors: what a device has to give, how much fits into it, and who shares it."""

import contextlib
import functools
import io
import math
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

from featstore.probe.arrays import FORWARD_WIDTH, Array, Backend, backend as backend_of
from featstore.probe.errors import DeviceWarning, MemoryBudgetError, UsageError, line
from featstore.probe.rows import RowBlocks
from featstore.probe.splits import RowRange

T = TypeVar("T")


class Progress(Protocol):
    """A callback that learns how far a stage has come."""

    def __call__(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Take the stage ("rows", "probes", ...), units done and in all, and further facts."""


class _Silent:
    def __call__(self, stage: str, done: int, total: int, **facts: Any) -> None:
        pass

    def __repr__(self) -> str:
        return "silent"


silent: Progress = _Silent()
"""Reports to nobody."""


_SHOWING: ContextVar[bool] = ContextVar("showing", default=False)


@contextlib.contextmanager
def shown(progress: Progress | bool | None, pause: float = 1.0) -> Iterator[Progress]:
    """Yield the callback that `progress` stands for; what it shows is wiped when the work is done.

    None is True in a terminal or a notebook, unless a bar is shown there already, and else False.
    True is a bar of the stage that goes on, drawn every `pause` seconds, or where there is no
    screen a line every ten times as long. False is `silent`, and a callback is itself.
    """
    on_screen = getattr(sys.stderr, "isatty", bool)() or "ipykernel" in sys.modules
    if progress is None:
        progress = on_screen and not _SHOWING.get() and rank() == 0
    if progress is not True:
        yield progress or silent
        return
    from tqdm.auto import tqdm

    lock, over, solved, parts = threading.Lock(), threading.Event(), "", ""
    # with a delay a bar is not shown when it is made
    how = {"delay": 1, "leave": False, "dynamic_ncols": on_screen}
    how["file"] = None if on_screen else io.StringIO()
    bar = tqdm(desc="starting", bar_format="{desc} {elapsed}", **how)

    def draw() -> None:
        # a thread does it, so that what tells nothing for long is seen, too
        while not over.wait(pause if on_screen or bar.n == 0 else 10 * pause):
            with lock:
                if on_screen:
                    bar.refresh()
                    bar.delay = 0  # it is to be wiped
                elif not (over.is_set() or bar.disable):
                    print(bar, file=sys.stderr, flush=True)

    def end() -> None:
        bar.total = bar.n  # a stage of fewer units than it said has not failed
        bar.close()

    def told(stage: str, done: int, total: int, **facts: Any) -> None:
        nonlocal bar, solved, parts
        if stage == "sweep":
            solved = f"{done:,} of {total:,} probes solved"
            return
        if "seconds" in facts:
            parts = f"{done:,} of {total:,} {stage} done"
            return
        with lock:
            if (stage, total) != (bar.desc, bar.total) or done < bar.n:
                end()
                bar = tqdm(desc=stage, total=total, initial=done, unit=f" {stage}", **how)
            words = [line(f"{name} {fact}") for name, fact in facts.items() if fact]
            bar.set_postfix_str(", ".join([*words, *filter(None, [solved, parts])]), refresh=False)
            bar.n = done

    token = _SHOWING.set(True)
    threading.Thread(target=draw, name="featstore-progress", daemon=True).start()
    try:
        yield told
    finally:
        _SHOWING.reset(token)
        over.set()
        with lock:
            end()


F = TypeVar("F", bound=Callable[..., Any])


def shows(function: F) -> F:
    """Return a function that is given the callback that its argument `progress` stands for."""

    @functools.wraps(function)
    def showing(*given: Any, progress: Progress | bool | None = None, **named: Any) -> Any:
        with shown(progress) as told:
            return function(*given, progress=told, **named)

    return cast("F", showing)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

AUTO = "auto"
# share of free memory, on the host or a device, that arrays may take; the rest is for libraries'
# workspaces and for whatever else runs
_FREE_SHARE = 0.9
# rows of one piece: enough to keep a matrix product at full speed
MOMENT_ROWS = 4096
MIN_ROWS = 16
# test rows of a piece, on a CPU and on an accelerator
MAX_ROWS = (2048, 16384)
# working set that keeps a CPU's cores busy: about a last-level cache
CACHE_BYTES = 24 << 20


def parse(memory: str | int) -> int:
    """Return a number of bytes from text such as "8GiB", "500 MB" or "2g".

    "auto" is nine tenths of what is free on the host, a rank's share where several compute on it.

    Raises:
        UsageError: the text is not a positive size.

    Example:
        >>> parse("1GiB"), parse("1.5 kB"), parse(4096)
        (1073741824, 1500, 4096)
    """
    if memory == AUTO:
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, int(_FREE_SHARE * free_on_host()) // sharing)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(memory), re.IGNORECASE)
    unit = match and {**_UNITS, **_BINARY_UNITS}.get(match[2].lower())
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise UsageError(f"memory {memory!r} is not a size: write for example 4GiB or 500MB")
    return size


def free_on_host(
    meminfo: Path = Path("/proc/meminfo"), control_group: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return the bytes that this process could still take on the host.

    They are what Linux says is available, or what a container's control group leaves of its limit
    if that is less; half of the machine's memory where nothing says so.
    """
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit = int((control_group / "memory.max").read_text())  # "max" where there is none
        used = int((control_group / "memory.current").read_text())
        told = (control_group / "memory.stat").read_text().split()
        # files that were read and can be dropped
        used -= int(told[told.index("inactive_file") + 1])
    except (OSError, ValueError):
        return free
    return max(0, min(free, limit - used))


def text(size: int) -> str:
    """Return a number of bytes for a person to read, rounded up so that it is enough.

    Example:
        >>> text(3 << 30), text((3 << 30) + 1)
        ('3.0 GiB', '3.1 GiB')
    """
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{math.ceil(10 * value) / 10:.1f} {unit}" if unit != "B" else f"{size} B"


def moment_rows(memory: int, n_features: int, n_classes: int, dtype: str) -> int:
    """Return how many rows to multiply at once when summing moments.

    Held meanwhile: the float64 sums (D x (D + C)), one panel of products, the piece itself and a
    block as it was read.

    Raises:
        MemoryBudgetError: not even a few rows fit.
    """
    size = 8 if dtype == "float64" else 4
    width = n_features + n_classes
    fixed = 8 * n_features * width + size * width * max(128, -(-n_features // 8))
    row = 2 * size * width
    return rows_within(memory, spared(fixed), spared(row), MOMENT_ROWS, "the moments")


def spared(size: int) -> int:
    """Return what to allow for arrays of `size` bytes: an eighth is for readers and allocators."""
    return size * 8 // 7 + 1


def rows_within(memory: int, fixed: int, row_bytes: int, wanted: int, purpose: str) -> int:
    """Return how many rows of `row_bytes` fit beside `fixed` bytes, at most `wanted`.

    Raises:
        MemoryBudgetError: fewer than MIN_ROWS fit; the message says how much would do.
    """
    least = min(wanted, MIN_ROWS)
    fitting = (memory - fixed) // max(1, row_bytes)
    if fitting < least:
        need = fixed + least * row_bytes
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for {purpose}: "
            f"allow at least {text(need)}, or probe a layer with fewer features"
        )
    return int(min(wanted, fitting))


@dataclass(frozen=True)
class SolvePlan:
    """Pieces in which probes are solved and scored.

    Attributes:
        rows: test rows of a piece.
        held: bytes of factors that are held at once; test rows are read once for all of them.
        transient: bytes that one batch of factorisations may take.
        working: bytes that one batch's rows may take.
    """

    rows: int
    held: int
    transient: int
    working: int


def solve_plan(
    memory: int, n_features: int, n_classes: int, system: "SystemSize", accelerator: bool
) -> SolvePlan:
    """Return the plan for systems of which `system` is the largest.

    On a CPU the rows of a batch are to stay in cache; an accelerator wants them as many as fit.

    Raises:
        MemoryBudgetError: not even one system fits.
    """
    # the Gram, its scaled copy and one more while that is made; class sums likewise; eigenvectors
    # of two bases, and as much while they are found
    fixed = 8 * (n_features * (3 * n_features + 3 * n_classes) + 4 * system.width**2)
    least = spared(fixed + system.held + system.transient)
    # a block as it was read, the piece, and the piece transposed
    row = spared(3 * system.itemsize * n_features + system.row)
    rows = rows_within(memory, least, row, MAX_ROWS[accelerator], "one chain of probes")
    free = (memory - least - rows * row) * 7 // 8
    working = rows * system.row + (free // 4 if accelerator else min(free // 4, CACHE_BYTES))
    transient = system.transient + free // 4
    return SolvePlan(rows, system.held + free // 2, transient, working)


@dataclass(frozen=True)
class SystemSize:
    """Bytes that one (chain, penalty) takes.

    Attributes:
        length: m, the features of its largest prefix.
        n_classes: C.
        n_prefixes: the number of its probes.
        itemsize: bytes of a number in the precision of the rows.
        width: D, where the chain is of directions, each of which takes all features; else 0.
    """

    length: int
    n_classes: int
    n_prefixes: int
    itemsize: int
    width: int = 0

    @property
    def held(self) -> int:
        """Return the bytes kept between rows: the factor as it meets them, and its targets."""
        return self.itemsize * self.length * (max(self.length, self.width) + self.n_classes)

    @property
    def transient(self) -> int:
        """Return the bytes of factorising in float64: matrix, factor and two copies; targets.

        Directions, products with them, and the inverse factor times them come on top.
        """
        system = self.length * (4 * self.length + 2 * self.n_classes)
        return 8 * (system + 5 * self.width**2)

    @property
    def row(self) -> int:
        """Return the bytes of a row being scored: features, logits, a strip of products, hits."""
        return (
            self.itemsize * (self.length + self.n_classes + max(FORWARD_WIDTH))
            + 5 * self.n_prefixes
        )


@dataclass(frozen=True)
class Settings:
    """Settings that all solvers share.

    Attributes:
        standardize: divide each feature by its train standard deviation (the mean is always
            subtracted).
        memory: bytes that arrays may take above the interpreter's own, where they are computed
            with: on the device.
        backend: the array module and device on which to compute.
        moments_cache: folder where moments are kept, one file a fingerprint; None for nowhere.
        progress: callback.
        host: bytes that arrays may take on the host, beside a device; None for `memory`.
        watch: called with each basis and its directions, float64 (D, count), while they are at
            hand; None for nobody.
    """

    standardize: bool = True
    memory: int = 4 << 30
    backend: Backend = field(default_factory=Backend)
    moments_cache: Path | None = None
    progress: Progress = silent
    host: int | None = None
    watch: Callable[[Any, Array], None] | None = None


def threads_of(backend: Backend) -> int:
    """Return how many threads `in_threads` may have: torch's on a CPU, otherwise 1."""
    return torch.get_num_threads() if (backend.name, backend.device) == ("torch", "cpu") else 1


def in_threads(work: Callable[[T, int], None], items: Iterable[T], threads: int) -> None:
    """Do `work(item, lane)` for each item in so many threads, each of one processor.

    Products of which one side is short, and what is small beside them, keep processors busier so
    than one product that is shared out.

    Arguments:
        work: what it changes must be of the item or of the lane, one of 0 to `threads` - 1.
        items: what is worked on.
        threads: how many.
    """
    if threads == 1:
        for item in items:
            work(item, 0)
        return
    lanes: SimpleQueue[int] = SimpleQueue()
    for lane in range(threads):
        lanes.put(lane)

    def in_lane(item: T) -> None:
        lane = lanes.get()
        try:
            work(item, lane)
        finally:
            lanes.put(lane)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "featstore-solve", torch.set_num_threads, (1,))
    try:
        for done in [pool.submit(in_lane, item) for item in items]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
        # threads that are born later have what was asked for last
        torch.set_num_threads(before)


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, 0 to world - 1."""
    return dist.get_rank() if world() > 1 else 0


def launched() -> bool:
    """Return whether a launcher such as `torchrun` started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
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


# what the libraries under torch and CuPy say when their own allocations fail
_SIGNS = ("out of memory", "status_alloc_failed")


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
    return int(_FREE_SHARE * free_there.min())


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
    where = backend_of(backend, device)
    granted = Grant(memory, where)
    return Settings(standardize, granted.memory, where, moments_cache, progress, granted.host)


def multiplies_exactly(backend: Backend) -> bool:
    """Return whether float64 products are no slower than float32 ones on a backend's device.

    By the data sheets they are so on A100 and H100 and what is like them, by their tensor cores.
    """
    on_cuda = backend.device == "cuda" and torch.cuda.is_available()
    return on_cuda and torch.cuda.get_device_capability() in ((8, 0), (9, 0))


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
    return of_a_device and any(sign in str(error).lower() for sign in _SIGNS)


def release() -> None:
    """Give back to the device what the libraries keep of it for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if "cupy" in sys.modules:
        cupy = sys.modules["cupy"]
        with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):  # without a driver
            cupy.get_default_memory_pool().free_all_blocks()

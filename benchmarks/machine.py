"""The machine: its facts and measured rates, timing that waits for the device, peak memory."""

import ctypes
import gc
import importlib
import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from featstore.probe.arrays import Backend, full_precision

LIBRARIES = ("numpy", "scipy", "torch", "scikit-learn", "zarr", "h5py", "cupy-cuda13x")
# a product this large runs at full speed, on a CPU and on an accelerator
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
MATMUL64_SIZE = {"cpu": 1024, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


def facts(backend: Backend | None = None) -> dict[str, Any]:
    """Return the machine, its rates, the versions and the date."""
    backend = backend or Backend()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": torch.cuda.get_device_name() if backend.device == "cuda" else "cpu",
        "backend": backend.name,
        "python": platform.python_version(),
        "versions": {name: v for name in LIBRARIES if (v := _version(name))},
        **{name: round(rate, 1) for name, rate in rates(backend).items()},
    }


def cores() -> int:
    """Return how many processor cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def best(run: Callable[[], Any], repeats: int = 3, warm_up: bool = True) -> float:
    """Return the shortest of several timings of `run`, in seconds, after one not counted."""
    if warm_up:
        run()
    return min(seconds(run)[0] for _ in range(repeats))


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long one call took and what it returned, the device's work included."""
    synchronise()
    start = time.perf_counter()
    result = run()
    synchronise()
    return time.perf_counter() - start, result


def synchronise() -> None:
    """Wait for the accelerator, if there is one: CuPy's work on it is waited for as well."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rates(backend: Backend) -> dict[str, float]:
    """Return GFLOP/s of products and GB/s of a copy where the backend computes.

    A product of n x n matrices is 2 n^3 operations, float32 without TF32, and float64. Of a copy
    the bytes read and the bytes written both count.
    """
    return {
        "matmul_gflops": matmul_gflops(backend=backend),
        "matmul64_gflops": matmul_gflops(
            MATMUL64_SIZE[backend.device], backend=backend, dtype="float64"
        ),
        "copy_gbs": copy_gbs(backend=backend),
    }


def matmul_gflops(
    size: int | None = None, backend: Backend | None = None, dtype: str = "float32"
) -> float:
    """Return the rate of a matrix product."""
    backend = backend or Backend()
    size = size or MATMUL_SIZE[backend.device]
    a, b = backend.empty((size, size), dtype), backend.empty((size, size), dtype)
    a[...], b[...] = 0.5, 0.25
    with full_precision():
        return 2 * size**3 / best(lambda: a @ b, repeats=4) / 1e9


def copy_gbs(size: int | None = None, backend: Backend | None = None) -> float:
    """Return the rate of a copy in memory."""
    backend = backend or Backend()
    size = size or COPY_BYTES[backend.device]
    source, target = backend.zeros((size // 8,), "float64"), backend.empty((size // 8,), "float64")

    def copy() -> None:
        target[...] = source

    return 2 * size / best(copy, repeats=5) / 1e9


class PeakMemory:
    """Takes the most memory that the block inside it held above what was held before, in bytes.

    On an accelerator, what torch's allocator or CuPy's pool handed out there; elsewhere resident
    memory. The pool and resident memory are looked at every few milliseconds by a thread.

    Example:
        >>> with PeakMemory() as peak:
        ...     held = bytearray(64 << 20)
        ...     held[:: 4096] = bytes(len(held[:: 4096]))
        ...     time.sleep(0.05)
        >>> peak.bytes > 48 << 20
        True
    """

    EVERY = 0.004  # seconds

    def __init__(self, backend: Backend | None = None):
        self.bytes, self._backend = 0, backend or Backend()
        self._by_torch = self._backend == Backend("torch", "cuda")
        self._ended = threading.Event()

    def __enter__(self) -> "PeakMemory":
        _give_back()
        if self._by_torch:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        self._before = self._held()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._by_torch:
            self.bytes = torch.cuda.max_memory_allocated() - self._before
            return
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(self.EVERY):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._held() - self._before)

    def _held(self) -> int:
        if self._backend.device == "cpu":
            return resident()
        return importlib.import_module("cupy").get_default_memory_pool().used_bytes()


def measured(run: Callable[[], Any], repeats: int, backend: Backend) -> tuple[float, int, Any]:
    """Return the shortest time of a call, the peak bytes of the first, and what that returned."""
    with PeakMemory(backend) as peak:
        first, result = seconds(run)
    times = [first, *(seconds(run)[0] for _ in range(repeats - 1))]
    return min(times), peak.bytes, result


def resident() -> int:
    """Return the bytes of this process that lie in memory; elsewhere than on Linux, their peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return most_resident()
    return pages * os.sysconf("SC_PAGE_SIZE")


def most_resident() -> int:
    """Return the most bytes of this process that ever lay in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _give_back() -> None:
    """Return freed memory to the system, so that taking it once more shows."""
    gc.collect(1)  # a whole collection takes longer than what is measured
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

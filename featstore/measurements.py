"""Measurements: the machine and its rates, timing that waits for the device, growth, reports."""

import ctypes
import gc
import importlib
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featstore.probe.arrays import Backend, full_precision
from featstore.probe.results.files import written_whole

# --- the machine ------------------------------------------------------------------------------

LIBRARIES = ("numpy", "scipy", "torch", "scikit-learn", "zarr", "h5py", "cupy-cuda13x")
# a product this large runs at full speed, on a CPU and on an accelerator
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
MATMUL64_SIZE = {"cpu": 1024, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


def facts(backend: Backend) -> dict[str, Any]:
    """Return the machine, its rates, the versions and the date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": torch.cuda.get_device_name() if backend.device == "cuda" else "cpu",
        "backend": backend.name,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES if _installed(name)},
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


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def best(run: Callable[[], Any], repeats: int = 3) -> float:
    """Return the shortest of several timings of `run`, in seconds, after one not counted."""
    run()
    return min(seconds(run)[0] for _ in range(repeats))


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long one call took and what it returned, the device's work included."""
    _synchronise()
    start = time.perf_counter()
    result = run()
    _synchronise()
    return time.perf_counter() - start, result


def _synchronise() -> None:
    """Wait for the accelerator, if there is one: CuPy's work on it is waited for as well."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rates(backend: Backend) -> dict[str, float]:
    """Return GFLOP/s of products and GB/s of a copy where the backend computes.

    A product of n x n matrices is 2 n^3 operations, float32 without TF32, and float64. Of a copy
    the bytes read and the bytes written both count.
    """

    def product(size: int, dtype: str) -> float:
        a, b = backend.empty((size, size), dtype), backend.empty((size, size), dtype)
        a[...], b[...] = 0.5, 0.25
        with full_precision():
            return 2 * size**3 / best(lambda: a @ b, repeats=4) / 1e9

    def copy() -> None:
        target[...] = source

    n_bytes = COPY_BYTES[backend.device]
    found = {
        "matmul_gflops": product(MATMUL_SIZE[backend.device], "float32"),
        "matmul64_gflops": product(MATMUL64_SIZE[backend.device], "float64"),
    }
    source = backend.zeros((n_bytes // 8,), "float64")
    target = backend.empty((n_bytes // 8,), "float64")
    return found | {"copy_gbs": 2 * n_bytes / best(copy, repeats=5) / 1e9}


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
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _give_back() -> None:
    """Return freed memory to the system, so that taking it once more shows."""
    gc.collect(1)  # a whole collection takes longer than what is measured
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


# --- growth -----------------------------------------------------------------------------------

MAKE_PROBES = ("fractions", "seeds")
"""Axes along which there are more and more probes."""


@dataclass(frozen=True)
class Growth:
    """Measurements along one axis.

    Attributes:
        axis: "fractions", "seeds", "classes", "rows" or "features".
        values: of the axis, rising.
        probes: solved at each value.
        seconds: taken at each value.
        bytes: peak memory at each value, above what was held before.
        target: the steepest slope of time that is wanted; None for none.
        of: what was measured, where a report has the growth of several things.
        counted: what `probes` counts: "probes", "rows" or "images".
    """

    axis: str
    values: Sequence[int]
    probes: Sequence[int]
    seconds: Sequence[float]
    bytes: Sequence[int]
    target: float | None = None
    of: str = ""
    counted: str = "probes"

    @property
    def slope(self) -> float:
        """The power of the axis with which time grows: the slope in log-log."""
        return slope(self.values, self.seconds)

    @property
    def memory_slope(self) -> float:
        """The power with which memory grows: of the number of probes where the axis makes those."""
        return slope(self.probes if self.axis in MAKE_PROBES else self.values, self.bytes)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row of a table for each value; the slopes stand in the last."""
        rows = []
        points = zip(self.values, self.probes, self.seconds, self.bytes, strict=True)
        for place, (value, probes, seconds, held) in enumerate(points, start=1):
            last = place == len(self.values)
            wanted = "" if self.target is None else f"<= {self.target:g}"
            rows.append(
                {
                    "axis": f"{self.of} {self.axis}".strip() if place == 1 else "",
                    "value": value,
                    self.counted: probes,
                    "seconds": float(seconds),
                    f"{self.counted}/s": probes / seconds,
                    "peak MiB": round(held / 2**20, 1),
                    "slope": _signed(self.slope) if last else "",
                    "target": wanted if last else "",
                    "memory": _signed(self.memory_slope) if last else "",
                }
            )
        return rows


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no "-0.00"


def slope(values: Sequence[float], measured: Sequence[float]) -> float:
    """Return b of the least-squares line log(measured) = a + b log(values).

    Example:
        >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    positive = np.maximum(np.asarray(measured, float), 1e-12)
    return float(np.polyfit(np.log(values), np.log(positive), 1)[0])


# --- reports ----------------------------------------------------------------------------------

WIDTH = 80

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """The findings of one stage.

    Attributes:
        stage: its name.
        sizes: what was measured, by name.
        machine: as `facts`.
        tables: rows by the table's title; the rows of a table have the same keys.
        growth: time and memory along one axis each.
        notes: what to know when reading the tables, a sentence each.
    """

    stage: str
    sizes: Mapping[str, Any]
    machine: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]]
    growth: Sequence[Growth] = ()
    notes: Sequence[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the report as text of at most 80 columns."""
        parts = [*_head(self.stage, self.sizes, self.machine)]
        parts += ["\n" + table(rows, title) for title, rows in self.tables.items()]
        for counted in dict.fromkeys(each.counted for each in self.growth):
            alike = [each for each in self.growth if each.counted == counted]
            parts.append("\n" + table([row for each in alike for row in each.rows()], "growth"))
        return "\n".join([*parts, *(["", *map(_wrapped, self.notes)] if self.notes else [])])

    def save(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        content = {
            "benchmark": self.stage,
            "sizes": dict(self.sizes),
            "machine": dict(self.machine),
            "tables": {title: [dict(row) for row in rows] for title, rows in self.tables.items()},
            "growth": [asdict(grown) for grown in self.growth],
            "notes": list(self.notes),
        }
        with written_whole(path) as aside:
            aside.write_text(json.dumps(content, indent=1) + "\n")


def _head(stage: str, sizes: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    where = "" if machine["device"] == "cpu" else f", {machine['device']}"
    return [
        _wrapped(f"{stage}: " + ", ".join(f"{name} {value}" for name, value in sizes.items())),
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB{where}",
        f"{machine['matmul_gflops']} GFLOP/s float32 and {machine['matmul64_gflops']} float64 "
        f"matmul, {machine['copy_gbs']} GB/s copy",
    ]


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append("  " + word)
        else:
            lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def table(rows: Sequence[Row], title: str = "") -> str:
    """Return rows with the same keys as a text table of at most 80 columns.

    Numbers have four digits, or fewer where the table would be too wide; then the first column is
    cut.

    Example:
        >>> print(table([{"what": "a", "seconds": 1.23456}, {"what": "b", "seconds": ""}]))
        what  seconds
        -------------
        a       1.235
        b
    """
    for digits in (4, 3, 2):
        lines = _lines(rows, digits)
        if max(map(len, lines)) <= WIDTH:
            break
    over = max(map(len, lines)) - WIDTH
    if over > 0:
        lines = _lines(rows, digits, cut=over)
    rule = "-" * max(map(len, lines))
    return "\n".join([*([title] if title else []), lines[0], rule, *lines[1:]])


def _lines(rows: Sequence[Row], digits: int, cut: int = 0) -> list[str]:
    names = list(rows[0])
    cells = [names, *([cell(row[name], digits) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    widths[0] -= cut
    return ["  ".join(_aligned(line, widths)).rstrip() for line in cells]


def cell(value: Any, digits: int = 4) -> str:
    """Write a value for a table: numbers to so many digits, large ones in full.

    Example:
        >>> cell(0.00012345), cell(12345.678), cell(3), cell(True), cell("")
        ('0.0001234', '12,346', '3', 'True', '')
    """
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first = line[0][: widths[0]].ljust(widths[0])
    return [first, *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]


def percent(share: float) -> str:
    """Write a share, as in `72 %`."""
    return f"{100 * share:.0f} %"

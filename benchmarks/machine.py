"""What every benchmark shares: the machine's facts and rates, timing, a table, a JSON file."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

LIBRARIES = ("numpy", "scipy", "torch", "scikit-learn", "zarr", "h5py", "cupy-cuda13x")
WIDTH = 80


def arguments(description: str) -> argparse.Namespace:
    """Parse --sizes small|full and --json FILE."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sizes", choices=("small", "full"), default="full")
    parser.add_argument("--json", type=Path, help="write machine, sizes and results here")
    return parser.parse_args()


def facts() -> dict[str, Any]:
    """Return the machine, its rates, the versions and the date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "versions": {name: v for name in LIBRARIES if (v := _version(name))},
        "matmul_gflops": round(matmul_gflops(), 1),
        "copy_gbs": round(copy_gbs(), 1),
    }


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
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_gflops(size: int = 2048) -> float:
    """Return the rate of a float32 matrix product on the CPU."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / best(lambda: a @ b) / 1e9


def copy_gbs(size: int = 1 << 28) -> float:
    """Return the rate of a copy in memory, bytes read and bytes written both counted."""
    source = np.ones(size // 8)
    target = np.empty_like(source)
    return 2 * size / best(lambda: np.copyto(target, source)) / 1e9


def table(rows: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """Return rows with the same keys as a text table of at most 80 columns."""
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    rule = "-" * min(WIDTH, max(map(len, lines)))
    text = "\n".join([*([title] if title else []), lines[0], rule, *lines[1:]])
    assert max(map(len, text.splitlines())) <= WIDTH, "the table is too wide"
    return text


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first = line[0].ljust(widths[0])
    return [first, *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


def report(name: str, sizes: str, rows: Sequence[Mapping[str, Any]], path: Path | None) -> None:
    """Print the machine and a table of the rows; write both to a JSON file if one is named."""
    machine = facts()
    if path:
        content = {"benchmark": name, "sizes": sizes, "machine": machine, "rows": list(rows)}
        path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB")
    print(f"{machine['matmul_gflops']} GFLOP/s float32 matmul, {machine['copy_gbs']} GB/s copy")
    print(table(rows, f"\n{name} ({sizes})"))

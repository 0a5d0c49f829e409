"""A store of millions of rows: opening it, telling what it is, checking it, and its moments.

python -m benchmarks.bench_large --sizes small

Its first block holds random rows and all others zeros, which a file system keeps as holes, so that
10 GB take a few megabytes of disk. Every block is committed with its checksum.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import featstore
from benchmarks import stages
from benchmarks.bench_memory import in_fresh_process
from featstore import bench, measurements
from featstore.bench import Disagreement
from featstore.measurements import Report
from featstore.probe.memory import Settings, parse
from featstore.probe.moments import Moments, moments
from featstore.store.base import Piece
from featstore.store.blocks import Record, checksum, raw_bytes, slot_bytes

SPLIT, TAP = "train", "tap"
# of sums of products, relative to the squares that they are sums of
WORST_ERROR = 1e-5
TARGETS = {"open": "< 0.5 s", "info": "< 1 s", "featstore info": "< 1 s"}


@dataclass(frozen=True)
class LargeSizes:
    """Size of the store, and the memory that its moments are granted, MiB."""

    rows: int
    features: int
    mebibytes: int


SIZES = {
    "small": LargeSizes(100_000, 512, 256),
    "medium": LargeSizes(1_000_000, 512, 1024),
    "full": LargeSizes(10_000_000, 512, 1024),
}


def first_block(store: featstore.Store) -> dict[str, np.ndarray]:
    """Return what the first block holds: random features, labels of both classes, empty ids."""
    rows = len(store.rows_of(SPLIT, 0))
    x = np.random.default_rng(0).standard_normal((rows, store.spec.tap(TAP).dim), np.float32)
    ids = store.array(SPLIT, "ids")
    return {
        TAP: x.astype(np.float16),
        "labels": np.arange(rows) % store.spec.n_classes,
        "ids": np.zeros((rows, *ids.row_shape), ids.dtype),
    }


def fill(store: featstore.Store) -> None:
    """Commit every block: the first as above, of all others nothing but their place."""
    first, digest = first_block(store), store.spec.digest()
    slot = slot_bytes(SPLIT, store.header.pieces(SPLIT))
    zeros: dict[int, dict[str, str]] = {}
    for block in range(store.n_blocks(SPLIT)):
        rows = len(store.rows_of(SPLIT, block))
        if rows not in zeros:
            empty = {name: np.zeros_like(array[:rows]) for name, array in first.items()}
            zeros[rows] = {name: checksum(array) for name, array in empty.items()}
        sums = zeros[rows]
        if block == 0:
            sums = {name: checksum(array) for name, array in first.items()}
        for name, array in first.items():
            data = raw_bytes(array) if block == 0 else memoryview(b"")
            store.write_bytes(Piece(SPLIT, name, block), data)
        record = Record(store=digest, split=SPLIT, block=block, checksums=sums)
        store.write_record(SPLIT, block, record.sealed(slot))


def info(path: Path) -> None:
    """Find all that `featstore info` tells."""
    store = featstore.open(path)
    if store.missing(SPLIT) or not store.bytes_on_disk():
        raise Disagreement(f"{path} is not complete")


def info_process(path: Path) -> None:
    """Run the command, its start and its imports with it."""
    subprocess.run(
        [sys.executable, "-m", "featstore", "info", path], check=True, capture_output=True
    )


def verify(path: Path) -> None:
    """Check every block."""
    damages = featstore.open(path).verify()
    if damages:
        raise Disagreement(f"{path} has {len(damages)} damages, the first {damages[0]}")


def gather(path: Path, settings: Settings) -> Moments:
    """Sum up the moments of all rows."""
    # rows are not read again, and what would do so cannot leave this process
    return replace(moments(featstore.open(path).tap(SPLIT, TAP), settings), again=None)


def check(found: Moments, path: Path) -> None:
    """Raise Disagreement where moments are not those of the first block and of zeros."""
    store = featstore.open(path)
    first, n_rows = first_block(store), store.spec.split(SPLIT).n_rows
    u = first[TAP] - found.shift
    gram = u.T @ u + (n_rows - len(u)) * np.outer(found.shift, found.shift)
    deviation = np.sqrt(np.diagonal(gram))
    error = (abs(found.gram - gram) / np.outer(deviation, deviation)).max()
    counts = np.bincount(first["labels"])
    counts[0] += n_rows - len(u)
    if found.n != n_rows or not np.array_equal(found.counts, counts) or error > WORST_ERROR:
        raise Disagreement(
            f"moments of {found.n} rows with counts {found.counts} are off by {error:.1e};"
            f" {n_rows} rows with counts {counts} were stored"
        )


def watched(run: Callable[[Path], Any], path: Path, warm_up: Path) -> tuple[float, int, Any]:
    """Return seconds, peak bytes above the libraries' own, and the result, in a fresh process."""
    run(warm_up)
    before = measurements.resident()
    seconds, result = measurements.seconds(lambda: run(path))
    return seconds, measurements.most_resident() - before, result


def measured(folder: Path, format: str, sizes: LargeSizes, settings: Settings) -> dict[str, tuple]:
    """Return (seconds, bytes) of what is done with a store, by its name, having checked it."""
    path, tiny = folder / f"large.{format}", folder / f"tiny.{format}"
    for place, rows in ((path, sizes.rows), (tiny, 20_000)):
        fill(featstore.create(place, bench.store_spec(rows, sizes.features), format))
    found = {
        "open": (measurements.best(lambda: featstore.open(path)), None),
        "info": (measurements.best(lambda: info(path)), None),
        "featstore info": (measurements.best(lambda: info_process(path)), None),
    }
    for what, run in {"verify": verify, "moments": partial(gather, settings=settings)}.items():
        seconds, taken, result = in_fresh_process(watched, run, path, tiny)
        if taken > settings.memory:
            raise Disagreement(f"{what} took {taken} bytes where {settings.memory} were granted")
        found[what] = seconds, taken
    check(result, path)
    return found


def measure(sizes: LargeSizes, setup: stages.Setup) -> Report:
    """Return the report, having checked that what was stored is found, within the memory."""
    memory = min(parse(setup.memory), sizes.mebibytes << 20)
    settings = Settings(memory=memory, backend=setup.backend)
    targets = {**TARGETS, "moments": f"<= {memory >> 20} MiB"}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for format in featstore.FORMATS:
            for what, (seconds, taken) in measured(Path(name), format, sizes, settings).items():
                rows.append(
                    {
                        "what": f"{format} {what}",
                        "seconds": round(seconds, 4),
                        "taken MiB": "" if taken is None else round(taken / 2**20),
                        "target": targets.get(what, ""),
                    }
                )
    return Report("large", asdict(sizes), measurements.facts(setup.backend), {"large": rows})


if __name__ == "__main__":
    stages.main("large")

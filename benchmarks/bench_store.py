"""Writing and reading a whole tap, against numpy.save and numpy.load of the same array.

python -m benchmarks.bench_store --sizes small
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import featstore
from benchmarks import stages
from featstore import bench, measurements
from featstore.measurements import Report, percent
from featstore.store import layout

MEMORY = Path("/dev/shm")
# zarr-python's codec pipelines by the package that brings them
PIPELINES = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


@dataclass(frozen=True)
class StoreSizes:
    """Size of the tap, and rows of the sparse store whose opening is timed."""

    rows: int
    features: int
    repeats: int
    many_rows: int


SIZES = {
    "small": StoreSizes(3_000, 256, 1, 100_000),
    "medium": StoreSizes(20_000, 1_024, 5, 1_000_000),
    "full": StoreSizes(50_000, 2_048, 7, 10_000_000),
}


def save(path: Path, x: np.ndarray, *, sync: bool) -> None:
    np.save(path, x)
    if sync:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def iterate(store: featstore.Store) -> None:
    for _ in store.tap("train", "tap"):
        pass


def writes(folder: Path, x: np.ndarray, repeats: int, against: str) -> list[dict]:
    """Time writing: a store is on the disk when it is done, numpy.save only with an fsync."""
    file = folder / "x.npy"
    runs: dict[str, Callable[[], object]] = {
        "numpy.save": lambda: save(file, x, sync=False),
        "numpy.save, fsync": lambda: save(file, x, sync=True),
    }
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for what, run in runs.items():
            times.setdefault(what, []).append(measurements.seconds(run)[0])
        for format in featstore.FORMATS:
            path = folder / format
            if path.exists():
                featstore.remove(path)
            store = featstore.create(path, bench.store_spec(*x.shape), format)
            seconds, _ = measurements.seconds(lambda s=store: bench.write_store(s, x))
            times.setdefault(f"{format} write", []).append(seconds)
    return rows_of(times, x.nbytes, against, lambda what: ">= 0.4")


def reads(folder: Path, x: np.ndarray, repeats: int) -> list[dict]:
    """Time reading a whole tap, in the page cache, after checking that it is what was written."""
    runs: dict[str, Callable[[], object]] = {"numpy.load": lambda: np.load(folder / "x.npy")}
    for format in featstore.FORMATS:
        store = featstore.open(folder / format)
        assert np.array_equal(store.load("train", "tap"), x)
        assert np.array_equal(np.concatenate([rows for rows, _ in store.tap("train", "tap")]), x)
        runs[f"{format} load"] = lambda s=store: s.load("train", "tap", verify=False)
        runs[f"{format} load, verified"] = lambda s=store: s.load("train", "tap")
        runs[f"{format} blocks, verified"] = lambda s=store: iterate(s)
    times: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(repeats):
        for what, run in runs.items():
            times[what].append(measurements.seconds(run)[0])
    return rows_of(
        times, x.nbytes, "numpy.load", lambda what: ">= 0.5" if "verified" in what else ">= 0.8"
    )


def compressed(folder: Path, x: np.ndarray, repeats: int) -> list[dict]:
    """Time zstd chunks of half zeros, ours and those of zarr-python's pipelines that are there.

    All read our store, and write chunks of the same bytes. Ours are checksummed and on the disk.
    """
    import zarr

    x, path, theirs = np.maximum(x, 0), folder / "zstd", folder / "theirs"
    chunks = folder / "zstd" / "train" / "tap"

    def ours() -> None:
        shutil.rmtree(path, ignore_errors=True)
        bench.write_store(featstore.create(path, bench.store_spec(*x.shape), codec="zstd"), x)

    def read(pipeline: str) -> np.ndarray:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            return zarr.open_array(chunks, mode="r")[:]

    def written(pipeline: str) -> None:
        shutil.rmtree(theirs, ignore_errors=True)
        like = zarr.open_array(chunks, mode="r")
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            zarr.create_array(
                theirs,
                shape=x.shape,
                dtype=x.dtype,
                chunks=like.chunks,
                filters=None,
                compressors=layout.metadata("zstd"),
            )[:] = x

    runs: dict[str, Callable[[], object]] = {"featstore write": ours}
    runs |= {"featstore load": lambda: featstore.open(path).load("train", "tap", verify=False)}
    runs |= {"featstore load, verified": lambda: featstore.open(path).load("train", "tap")}
    for name, pipeline in PIPELINES.items():
        if find_spec(name):
            runs[f"{name} write"] = lambda p=pipeline: written(p)
            runs[f"{name} load"] = lambda p=pipeline: read(p)
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for what, run in runs.items():
            seconds, found = measurements.seconds(run)
            assert found is None or np.array_equal(found, x)
            times.setdefault(what, []).append(seconds)
    assert (theirs / "c" / "0" / "0").read_bytes() == (chunks / "c.0.0").read_bytes()
    return [
        {"what": what, "seconds": min(seconds), "GB/s": x.nbytes / min(seconds) / 1e9}
        for what, seconds in times.items()
    ]


def opens(folder: Path, sizes: StoreSizes) -> list[dict]:
    """Time opening a sparse store of many rows, and finding which of its blocks are there."""
    found = []
    for format in featstore.FORMATS:
        path = folder / f"many.{format}"
        store = featstore.create(path, bench.store_spec(sizes.many_rows, 512), format)
        assert len(store.missing("train")) == store.n_blocks("train")
        for what, run in (
            ("open", lambda p=path: featstore.open(p)),
            ("find missing", lambda s=store: s.missing("train")),
        ):
            seconds = round(measurements.best(run), 5)
            what = f"{format} {what}, {store.n_blocks('train')} blocks"
            found.append({"what": what, "seconds": seconds})
    return found


def rows_of(
    times: dict[str, list[float]], n_bytes: int, against: str, target: Callable[[str], str]
) -> list[dict]:
    """Return rows of the table: the shortest time of several rounds, in which all took turns."""
    best = {what: min(seconds) for what, seconds in times.items()}
    return [
        {
            "what": what,
            "seconds": round(seconds, 5),
            "GB/s": round(n_bytes / seconds / 1e9, 2),
            "ratio": round(best[against] / seconds, 2),
            "target": "" if what.startswith("numpy") else target(what),
        }
        for what, seconds in best.items()
    ]


def measure(sizes: StoreSizes, setup: stages.Setup) -> Report:
    """Return the report: on the disk, and where there is one in a memory file system.

    Each ratio is to what makes the same promise: on a disk, numpy.save with an fsync.
    """
    x = bench.half_floats(sizes.rows, sizes.features)
    found = measurements.facts(setup.backend)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = {
            "writes": writes(folder, x, sizes.repeats, "numpy.save, fsync"),
            "reads": reads(folder, x, sizes.repeats),
            "zstd": compressed(folder, x, sizes.repeats),
            "opens": opens(folder, sizes),
        }
    if os.access(MEMORY, os.W_OK):
        # A disk slower than memory bounds what is durable; this is the cost of all the rest.
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            tables["writes, no disk"] = writes(Path(name), x, sizes.repeats, "numpy.save")
    for title in ("writes", "reads"):
        tables[title] = [with_floor(row, x.nbytes, found) for row in tables[title]]
    return Report("store", asdict(sizes), found, tables)


def with_floor(row: dict, n_bytes: int, found: dict) -> dict:
    """Return the row with its share of the copy rate: each byte is read once and written once."""
    moved = 2 * n_bytes / row["seconds"] / 1e9
    return {**row, "of copy": percent(moved / found["copy_gbs"])}


if __name__ == "__main__":
    stages.main("store")

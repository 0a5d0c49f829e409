"""Memory and time of a sweep over a store, for N rows and for twice as many, each in its process.

python -m benchmarks.bench_memory --sizes small
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import featstore
from benchmarks import stages
from featstore import measurements, probe
from featstore.bench import Disagreement
from featstore.measurements import Report
from featstore.probe.memory import parse
from featstore.probe.solvers import value_of

FRACTIONS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
SEEDS = range(1, 6)
TAP = "features"
# what each solver is told; softmax to a loose tolerance, since memory is the same at any
OPTIONS: dict[str, dict[str, Any]] = {
    "ridge": {},
    "logistic": {"tol": 1e-2},
    "sgd": {"epochs": 1},
}


@dataclass(frozen=True)
class MemorySizes:
    """Size of the stores, doublings of their rows, and the memory of a sweep, MiB.

    Softmax and SGD probes are swept over an `iterated`-th of the rows.
    """

    rows: int
    test_rows: int
    features: int
    classes: int
    mebibytes: int
    iterated: int
    doublings: int


SIZES = {
    "small": MemorySizes(20_000, 2_000, 128, 10, 64, 4, 0),
    "medium": MemorySizes(100_000, 5_000, 256, 10, 256, 4, 1),
    "full": MemorySizes(1_000_000, 20_000, 512, 10, 1024, 5, 1),
}


def write_store(path: Path, n_train: int, sizes: MemorySizes) -> featstore.Store:
    """Write a store of Gaussian clouds about class centres, float16, block by block."""
    counts = {"train": n_train, "test": sizes.test_rows}
    spec = featstore.Spec(
        backbone="clouds",
        weights="none",
        transform="none",
        dataset="clouds",
        splits=tuple(
            featstore.Split(name=name, n_rows=count, fingerprint=f"{name} {count}")
            for name, count in counts.items()
        ),
        taps=(featstore.Tap(name=TAP, dim=sizes.features, pooling="none"),),
        dtype="float16",
        classes=tuple(map(str, range(sizes.classes))),
    )
    random = np.random.default_rng(0)
    centres = random.standard_normal((sizes.classes, sizes.features), np.float32) / 4
    store = featstore.create(path, spec)
    with store.writer() as writer:
        for split in counts:
            for block in range(store.n_blocks(split)):
                rows = np.array(store.rows_of(split, block))
                labels = rows % sizes.classes
                noise = random.standard_normal((len(rows), sizes.features), np.float32)
                features = (noise + centres[labels]).astype(np.float16)
                writer.write(split, block, {TAP: features}, labels, list(map(str, rows)))
    return store


def sweep(path: Path, solver: str, arguments: dict[str, Any]) -> probe.ProbeResult:
    store = featstore.open(path)
    train, test = (store.tap(split, TAP) for split in ("train", "test"))
    return probe.sweep(
        train,
        test,
        fractions=FRACTIONS,
        seeds=SEEDS,
        solver=value_of(solver, OPTIONS[solver]),
        **arguments,
    )


def measured(path: Path, warm_up: Path, solver: str, arguments: dict[str, Any]) -> dict:
    """Sweep in this fresh process; return seconds, peak bytes above the libraries', accuracy."""
    sweep(warm_up, solver, arguments)
    before = measurements.resident()
    seconds, result = measurements.seconds(lambda: sweep(path, solver, arguments))
    accuracy = float(result.table["accuracy"][result.table["fraction"] == 1].mean())
    return {
        "seconds": seconds,
        "bytes": measurements.most_resident() - before,
        "accuracy": accuracy,
    }


def in_fresh_process(run: Callable[..., Any], *arguments) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def measure(sizes: MemorySizes, setup: stages.Setup) -> Report:
    """Return the report, having checked memory and accuracy."""
    memory = min(parse(setup.memory), sizes.mebibytes << 20)
    arguments = {**setup.arguments, "memory": memory}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "tiny.zarr", 2_000, replace(sizes, test_rows=100, classes=2))
        for solver in OPTIONS:
            counts = sizes.rows if solver == "ridge" else sizes.rows // sizes.iterated
            for n_train in (counts << double for double in range(sizes.doublings + 1)):
                path = folder / f"{n_train}.zarr"
                if not path.exists():
                    write_store(path, n_train, sizes)
                found = in_fresh_process(measured, path, folder / "tiny.zarr", solver, arguments)
                check(found, solver, memory, sizes)
                rows.append(_row(solver, n_train, memory, found))
    return Report("memory", asdict(sizes), measurements.facts(setup.backend), {"memory": rows})


def check(found: dict, solver: str, memory: int, sizes: MemorySizes) -> None:
    """Raise Disagreement where a sweep took more than it was granted, or learnt nothing."""
    if found["bytes"] > memory:
        raise Disagreement(f"{solver} took {found['bytes']} bytes where {memory} were granted")
    if not found["accuracy"] > 2 / sizes.classes:
        raise Disagreement(f"{solver} has learnt nothing: accuracy is {found['accuracy']:.3f}")


def _row(solver: str, n_rows: int, memory: int, found: dict) -> dict:
    return {
        "solver": solver,
        "rows": n_rows,
        "granted MiB": round(memory / 2**20),
        "taken MiB": round(found["bytes"] / 2**20),
        "seconds": found["seconds"],
        "accuracy, all features": found["accuracy"],
    }


if __name__ == "__main__":
    stages.main("memory")

"""Memory and time of a sweep over a store, for N rows and for twice as many.

python -m benchmarks.bench_memory --sizes small
"""

import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil

import featstore
import probe
from benchmarks import machine
from probe.budget import parse

FRACTIONS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
SEEDS = range(1, 6)
TAP = "features"


@dataclass(frozen=True)
class Sizes:
    """How large the problem is."""

    n_train: int
    n_test: int
    n_features: int
    n_classes: int
    memory: str


SIZES = {
    "small": Sizes(20_000, 2_000, 128, 10, "64MiB"),
    "full": Sizes(1_000_000, 20_000, 512, 10, "1GiB"),
}


def write_store(path: Path, n_train: int, sizes: Sizes) -> featstore.Store:
    """Write a store of Gaussian clouds about class centres, float16, block by block."""
    counts = {"train": n_train, "test": sizes.n_test}
    spec = featstore.Spec(
        backbone="clouds",
        weights="none",
        transform="none",
        dataset="clouds",
        splits=tuple(
            featstore.Split(name=name, n_rows=count, fingerprint=f"{name} {count}")
            for name, count in counts.items()
        ),
        taps=(featstore.Tap(name=TAP, dim=sizes.n_features, pooling="none"),),
        dtype="float16",
        classes=tuple(map(str, range(sizes.n_classes))),
    )
    random = np.random.default_rng(0)
    centres = random.standard_normal((sizes.n_classes, sizes.n_features), np.float32) / 4
    store = featstore.create(path, spec)
    with store.writer() as writer:
        for split in counts:
            for block in range(store.n_blocks(split)):
                rows = np.array(store.rows_of(split, block))
                labels = rows % sizes.n_classes
                noise = random.standard_normal((len(rows), sizes.n_features), np.float32)
                features = (noise + centres[labels]).astype(np.float16)
                writer.write(split, block, {TAP: features}, labels, list(map(str, rows)))
    return store


def sweep(path: Path, memory: str) -> probe.ProbeResult:
    store = featstore.open(path)
    train, test = (store.tap(split, TAP) for split in ("train", "test"))
    return probe.sweep(train, test, fractions=FRACTIONS, seeds=SEEDS, solver="ridge", memory=memory)


def measured(path: Path, warm_up: Path, memory: str) -> dict:
    """Sweep in this fresh process; return seconds, peak bytes above the libraries', accuracy."""
    sweep(warm_up, memory)
    before = psutil.Process().memory_info().rss
    seconds, result = machine.seconds(lambda: sweep(path, memory))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    accuracy = float(result.table["accuracy"][result.table["fraction"] == 1].mean())
    return {"seconds": seconds, "bytes": peak - before, "accuracy": accuracy}


def in_fresh_process(*arguments) -> dict:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measured, *arguments).result()


def measure(sizes: Sizes, folder: Path) -> list[dict]:
    """Return the rows of the table, having checked memory and accuracy."""
    tiny = Sizes(2_000, 100, 128, 2, sizes.memory)
    write_store(folder / "tiny.zarr", tiny.n_train, tiny)
    rows = []
    for times in (1, 2):
        path = folder / f"{times}.zarr"
        n_train = times * sizes.n_train
        write_store(path, n_train, sizes)
        found = in_fresh_process(path, folder / "tiny.zarr", sizes.memory)
        assert found["accuracy"] > 2 / sizes.n_classes, "the sweep learnt nothing"
        assert found["bytes"] <= parse(sizes.memory), f"{found['bytes']} bytes were taken"
        rows.append(_row(n_train, sizes, found, rows))
    return rows


def _row(n_train: int, sizes: Sizes, found: dict, before: list[dict]) -> dict:
    mebibytes = found["bytes"] / 2**20
    first = before[0] if before else {"seconds": found["seconds"], "MiB above": mebibytes}
    return {
        "rows": n_train,
        "allowed": sizes.memory,
        "MiB above": mebibytes,
        "ratio": mebibytes / max(first["MiB above"], 1e-9),
        "seconds": found["seconds"],
        "of first": found["seconds"] / first["seconds"],
        "accuracy": found["accuracy"],
    }


def main() -> None:
    options = machine.arguments(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(SIZES[options.sizes], Path(folder))
    machine.report("memory", options.sizes, rows, options.json)


if __name__ == "__main__":
    main()

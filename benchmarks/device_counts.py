"""Launches, waits of the host, and copies of a GPU, counted on a pretend device.

python -m benchmarks.device_counts --sizes full

Counts are of operations and not of time, with kernels of one launch as CuPy compiles them. With
"full" numbers are really computed, which takes about two minutes.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np

from benchmarks import pretend_device
from featstore import probe
from featstore.bench import clouds
from featstore.probe.arrays import reduced_precision
from featstore.probe.errors import DeviceWarning
from featstore.probe.solvers.logistic import descent, products
from featstore.probe.subsets import subset_chain


@dataclass(frozen=True)
class CountSizes:
    """Sizes of a sweep: `rows` x `features` of `classes`, fractions and seeds.

    The steps of softmax probes and of SGD are counted on `few` rows of as many fractions.
    """

    rows: int
    features: int
    classes: int
    fractions: int
    seeds: int
    few: int


SIZES = {
    "small": CountSizes(5_000, 64, 5, 20, 5, 1_000),
    "full": CountSizes(50_000, 2_048, 100, 20, 5, 2_000),
}


def counted(run: Callable[[], object], graphs: bool = True) -> dict[str, int]:
    """Return what a run asks of the device, which can record graphs or not."""
    return asked(run, graphs)[0]


def asked(run: Callable[[], object], graphs: bool = True) -> tuple[dict[str, int], object]:
    """Return what a run asks of the device, and what it returns."""
    with pretend_device.installed(fused=True, graphs=graphs) as log, warnings.catch_warnings():
        warnings.simplefilter("ignore" if not graphs else "default", DeviceWarning)
        result = run()
    found = {"launches": log.launches, "waits": log.waits, "copies": log.copies}
    return found | {"Cholesky calls": log.named("linalg_cholesky_ex")}, result


def a_step(
    run: Callable[[int], probe.ProbeResult], few: int, many: int, graphs: bool = True
) -> dict[str, float]:
    """Return what one step, or pass, asks, of runs of `few` and `many` steps.

    The few passes of softmax probes after which their metric is made anew are not among them.
    """
    with mock.patch.object(descent, "TURNS", ()):
        ((less, first), (more, last)) = (
            asked(lambda steps=steps: run(steps), graphs) for steps in (few, many)
        )
    passes = [getattr(result.fitted, "passes", None) for result in (first, last)]
    count = many - few if None in passes else passes[1] - passes[0]
    return {name: round((more[name] - less[name]) / count, 1) for name in less}


def table(sizes: CountSizes) -> list[dict[str, object]]:
    """Return a row for each thing that is counted."""
    x, y = clouds(sizes.rows + max(500, sizes.rows // 5), sizes.features, sizes.classes)
    train, test = (x[: sizes.rows], y[: sizes.rows]), (x[sizes.rows :], y[sizes.rows :])
    fractions = np.geomspace(max(0.01, 2 / sizes.features), 0.9, sizes.fractions - 1).tolist()
    there = {"device": "cuda"}
    grid = {"fractions": fractions, "seeds": sizes.seeds, **there}
    random = np.random.default_rng(0)
    few = tuple(part[: sizes.few] for part in train)
    narrow = min(sizes.features, 256)
    thin = few[0][:, :narrow].copy(), few[1]
    lengths = [2 + narrow * (1 + number % 60) // 64 for number in range(100)]
    subsets = [
        subset_chain(random.permutation(narrow)[:length].tolist(), n_features=narrow)
        for length in lengths
    ]

    def softmax(steps: int) -> probe.ProbeResult:
        how = probe.Logistic(l2=1e-3, tol=1e-12, max_iter=steps)
        return probe.sweep(thin, thin, **grid, solver=how)

    def thrice(steps: int) -> probe.ProbeResult:
        # probes that reach the first stage's norm at once, so that all steps are of the second
        with mock.patch.object(products, "FAST", products.Stage(reduced_precision, np.inf)):
            how = probe.Logistic(l2=1e-3, tol=1e-12, max_iter=steps, fast=True)
            return probe.sweep(thin, thin, **grid, solver=how)

    def sgd(steps: int) -> probe.ProbeResult:
        rows = tuple(part[: 32 * steps] for part in thin)
        how = probe.SGD(epochs=1, batch_size=32, validate_every=1)
        return probe.sweep(rows, thin, **grid, solver=how, validation=thin)

    shape = f"{sizes.rows:,} x {sizes.features:,} x {sizes.classes}"
    swept = f"{sizes.fractions} fractions x {sizes.seeds} seeds"
    counts = {
        f"ridge sweep, {shape}, {swept}": counted(
            lambda: probe.sweep(train, test, **grid, solver="ridge", l2=1e-2)
        ),
        f"ridge, 100 subsets of 60 sizes up to {max(lengths)}": counted(
            lambda: probe.fit(thin, subsets, solver="ridge", l2=1e-2, **there).score(thin)
        ),
        f"softmax, one pass, {swept}": a_step(softmax, 2, 6),
        f"softmax, one pass of three TF32 products each, {swept}": a_step(thrice, 4, 8),
        f"SGD, one step, {swept}": a_step(sgd, 5, 8),
        f"SGD, one step that no graph records, {swept}": a_step(sgd, 5, 8, graphs=False),
    }
    return [{"what": what, **found} for what, found in counts.items()]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description="Count what a GPU is asked for.")
    parser.add_argument("--sizes", choices=SIZES, default="small")
    rows = table(SIZES[parser.parse_args().sizes])
    print("| " + " | ".join(rows[0]) + " |")
    print("|---|" + "---:|" * (len(rows[0]) - 1))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


if __name__ == "__main__":
    main()

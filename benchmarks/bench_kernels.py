"""The fused softmax steps and the gather of Gram blocks, against eager array code and a copy.

python -m benchmarks.bench_kernels --sizes small --json results.json

On a CUDA device with CuPy this times the kernels beside their reference, which has to give the
same; elsewhere the reference alone, which is what serves there.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from benchmarks import stages
from featstore import measurements
from featstore.bench import Disagreement
from featstore.measurements import Report, percent
from featstore.probe import kernels
from featstore.probe.arrays import Array, Backend, to_host
from featstore.probe.kernels import reference

NOTE = "of copy: a step counts as moving each number once in and, if it writes, once out."
ALONE = "No CUDA device with CuPy serves here: these are the times of the reference, by itself."


@dataclass(frozen=True)
class KernelSizes:
    """A tile of `rows` with the logits of `probes`, and a Gram with the orders of `systems`."""

    probes: int
    classes: int
    rows: int
    features: int
    systems: int


SIZES = {
    "small": KernelSizes(11, 10, 512, 128, 3),
    "medium": KernelSizes(55, 10, 16_384, 1_280, 5),
    "full": KernelSizes(100, 100, 16_384, 2_048, 5),
}


@dataclass(frozen=True)
class Step:
    """One of the steps.

    Attributes:
        what: it does.
        answer: what a module of kernels makes of given numbers, to be compared.
        run: the same to be timed, on what it left behind.
        moved: bytes that it has to read and write.
    """

    what: str
    answer: Callable[[ModuleType], list[Array]]
    run: Callable[[ModuleType], object]
    moved: int


def softmax(logits: Array, labels: Array) -> Step:
    """Return the step that turns logits (P, C, r) into losses and, in place, residuals."""
    space = array_namespace(logits).asarray(logits, copy=True)

    def answer(module: ModuleType) -> list[Array]:
        space[...] = logits
        return [module.residuals(space, labels), array_namespace(space).asarray(space, copy=True)]

    # timed on its own residuals, which are as good logits as any
    return Step(
        "softmax, loss, residual",
        answer,
        lambda module: module.residuals(space, labels),
        2 * logits.nbytes,
    )


def ranking(logits: Array, labels: Array) -> Step:
    """Return the step that finds where the label stands among logits (P, C, r), by row."""
    by_row = array_namespace(logits).permute_dims(logits, (0, 2, 1))

    def run(module: ModuleType) -> list[Array]:
        found = module.judged(by_row, labels)
        return [found.among_first(1), found.among_first(5), found.surprise, found.confidence]

    return Step("rank, loss, confidence", run, run, logits.nbytes)


def gather(gram: Array, orders: Array, penalties: Array) -> Step:
    """Return the step that permutes a Gram (D, D) by orders (S, D)."""

    def run(module: ModuleType) -> list[Array]:
        return [module.permuted_blocks(gram, orders, penalties)]

    return Step("Gram blocks", run, run, 2 * 8 * orders.shape[0] * orders.shape[1] ** 2)


def steps(sizes: KernelSizes, backend: Backend) -> list[Step]:
    """Return every step, on random numbers."""
    random = np.random.default_rng(0)
    shape = (sizes.probes, sizes.classes, sizes.rows)
    logits = backend.put(random.standard_normal(shape, np.float32))
    labels = backend.put(random.integers(sizes.classes, size=sizes.rows))
    gram = backend.put(random.standard_normal((sizes.features, sizes.features)))
    orders = np.stack([random.permutation(sizes.features) for _ in range(sizes.systems)])
    penalties = backend.put(np.ones(sizes.systems))
    return [
        softmax(logits, labels),
        ranking(logits, labels),
        gather(gram, backend.put(orders), penalties),
    ]


def compare(step: Step, served: ModuleType) -> None:
    """Raise `Disagreement` where the kernels do not give what the reference gives."""
    for ours, theirs in zip(step.answer(served), step.answer(reference), strict=True):
        if not np.allclose(to_host(ours), to_host(theirs), rtol=1e-4, atol=1e-6):
            raise Disagreement(f"kernels: {step.what} differs from the reference")


def row(step: Step, served: ModuleType, rates: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of one step, whose answer has been checked."""
    compare(step, served)
    seconds = measurements.best(lambda: step.run(served))
    found = {"what": step.what, "ms": 1e3 * seconds}
    if served is not reference:
        found["eager/fused"] = measurements.best(lambda: step.run(reference)) / seconds
    return {**found, "of copy": percent(step.moved / seconds / 1e9 / rates["copy_gbs"])}


def measure(sizes: KernelSizes, setup: stages.Setup) -> Report:
    """Return the report of what serves the arrays of this backend."""
    rates = measurements.facts(setup.backend)
    served = kernels.serving(setup.backend.zeros((1,), "float32"))
    rows = [row(step, served, rates) for step in steps(sizes, setup.backend)]
    notes = [NOTE, *([ALONE] if served is reference else [])]
    return Report("kernels", asdict(sizes), rates, {"kernels": rows}, (), notes)


if __name__ == "__main__":
    stages.main("kernels")

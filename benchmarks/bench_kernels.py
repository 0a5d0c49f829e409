"""The fused softmax steps and the gather of Gram blocks against eager array code and a plain copy.

python -m benchmarks.bench_kernels --sizes small
python -m benchmarks.bench_kernels --json results.json

On a CUDA device with CuPy this times the kernels; elsewhere the reference against itself, where the
ratio of the first to the second is 1 and only the share of the copy rate says something. A step
counts as moving each logit once in and, if it writes, once out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks import machine
from probe import kernels
from probe.arrays import to_host
from probe.kernels import reference
from probe.kernels.choice import serving


@dataclass(frozen=True)
class Sizes:
    """How many probes, classes and rows a pass holds, and how large the Gram is."""

    probes: int
    classes: int
    rows: int
    features: int
    systems: int


SIZES = {
    "small": [Sizes(11, 10, 512, 128, 3)],
    "full": [Sizes(55, 10, 16_384, 1_280, 5), Sizes(100, 100, 16_384, 2_048, 5),
             Sizes(8, 1_000, 16_384, 2_048, 1)],
}  # fmt: skip


def measure(sizes: Sizes, device: torch.device) -> list[dict]:
    """Return the rows of the table for some sizes, having compared the answers."""
    random = torch.Generator().manual_seed(0)
    shape = (sizes.probes, sizes.classes, sizes.rows)
    drawn = torch.randn(shape, generator=random).to(device)
    labels = torch.randint(sizes.classes, (sizes.rows,), generator=random).to(device)
    logits = drawn.clone()
    size = logits.nbytes
    copy = machine.best(lambda: logits.copy_(drawn))
    by_row = drawn.permute(0, 2, 1)
    _compare_softmax(drawn, labels)

    def softmax(module) -> Callable[[], object]:
        # repeated in place: a gradient is as good a logit as any
        return lambda: module.residuals(logits, labels)

    def judged(module) -> Callable[[], object]:
        return lambda: _used(module.judged(by_row, labels))

    gram = torch.randn(sizes.features, sizes.features, generator=random, dtype=torch.float64)
    gram = gram.to(device)
    orders = [np.random.default_rng(s).permutation(sizes.features) for s in range(sizes.systems)]
    blocks = (gram, torch.from_numpy(np.stack(orders)).to(device),
              torch.ones(sizes.systems, dtype=torch.float64, device=device))  # fmt: skip
    assert torch.equal(kernels.permuted_blocks(*blocks), reference.permuted_blocks(*blocks))
    steps = (
        ("softmax, loss, residual", softmax, 2 * size),
        ("rank, loss, confidence", judged, size),
        ("Gram blocks", lambda module: lambda: module.permuted_blocks(*blocks),
         2 * 8 * sizes.systems * sizes.features**2),
    )  # fmt: skip
    name = f"{sizes.probes} x {sizes.classes} x {sizes.rows}"
    return [_row(f"{what}, {name}", step, moved, 2 * size / copy) for what, step, moved in steps]


def _used(stand: kernels.Judged) -> None:
    """Ask for all that the metrics ask for."""
    stand.among_first(1), stand.among_first(5), stand.surprise, stand.confidence


def _compare_softmax(drawn: torch.Tensor, labels: torch.Tensor) -> None:
    ours, theirs = drawn.clone(), drawn.clone()
    losses = kernels.residuals(ours, labels), reference.residuals(theirs, labels)
    np.testing.assert_allclose(*map(to_host, losses), rtol=1e-5)
    np.testing.assert_allclose(to_host(ours), to_host(theirs), rtol=1e-4, atol=1e-6)


def _row(what: str, step: Callable, moved: int, copy_rate: float) -> dict:
    fused, eager = (machine.best(step(module)) for module in (kernels, reference))
    share = moved / fused / copy_rate
    return {"what": what, "ms": 1e3 * fused, "eager/fused": eager / fused, "of copy": share}


def main() -> None:
    options = machine.arguments(__doc__.splitlines()[0])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row for sizes in SIZES[options.sizes] for row in measure(sizes, device)]
    serves = serving(torch.zeros(1, device=device)).__name__
    machine.report(f"kernels, served by {serves}", options.sizes, rows, options.json)


if __name__ == "__main__":
    main()

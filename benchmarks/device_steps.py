"""Ways that a GPU takes and a CPU does not, each beside what it replaces, in milliseconds.

python -m benchmarks.device_steps --sizes full --json steps.json

On a machine without a GPU the same lines run on the CPU, as a rehearsal: products there are not
rounded, nothing is recorded, and no time means anything.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from featstore import probe
from featstore.bench import clouds
from featstore.extraction import loading
from featstore.probe.arrays import add_upper, full_precision, reduced_precision
from featstore.probe.kernels.cuda import Recorded
from featstore.probe.solvers import sgd
from featstore.probe.solvers.logistic import products
from featstore.probe.solvers.logistic.lbfgs import Curvature
from featstore.probe.subsets import random_chain

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class StepSizes:
    """A piece of `rows` x `features`; `probes` of `classes` in a pass; JPEGs."""

    rows: int
    features: int
    classes: int
    probes: int
    images: int
    repeats: int


SIZES = {
    "small": StepSizes(512, 128, 5, 4, 8, 2),
    "full": StepSizes(16_384, 2_048, 100, 20, 256, 5),
}


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median time of a run, after one that is not counted."""
    wait = torch.cuda.synchronize if DEVICE == "cuda" else (lambda: None)
    run()
    taken = []
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        run()
        wait()
        taken.append(1e3 * (time.perf_counter() - began))
    return float(np.median(taken))


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return normal numbers on the device."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the relative error of a product, by the norm."""
    norm = torch.linalg.vector_norm
    return float(norm(found.to(torch.float64) - exact) / norm(exact))


def gram(sizes: StepSizes) -> Iterator[dict[str, object]]:
    """Sums of products of 4,096 rows, in float32 and in float64."""
    rows, width = min(4096, sizes.rows), sizes.features
    piece = drawn(rows, width + 1 + sizes.classes)
    total = torch.zeros(width, width + 1 + sizes.classes, dtype=torch.float64, device=DEVICE)
    for dtype in (torch.float32, torch.float64):
        cast = piece.to(dtype)
        ms = milliseconds(lambda cast=cast: add_upper(total, cast, width), sizes.repeats)
        yield {"what": f"Gram of {rows:,} rows, {str(dtype)[6:]} products", "ms": ms}


def segment(sizes: StepSizes) -> Iterator[dict[str, object]]:
    """Logits and gradient of a segment: in float32, TF32 and three of TF32; and narrower ones."""
    lines, wide = sizes.probes * sizes.classes, min(512, sizes.features)
    w, x = drawn(lines, wide), drawn(wide, sizes.rows)
    out, gradient = drawn(lines, sizes.rows), torch.zeros(lines, wide, device=DEVICE)
    exact = w.to(torch.float64) @ x.to(torch.float64)
    shape = f"{lines:,} x {wide} x {sizes.rows:,}"

    def plain() -> None:
        torch.mm(w, x, out=out)
        gradient.addmm_(out, x.T)

    def thrice() -> None:
        three = products.split(x, low=1)
        torch.mm(products.split(w, low=2, inner=True).flatten(-2), three.flatten(0, 1), out=out)
        gradient.addmm_(products.split(out, low=2).flatten(-2), three.flatten(1).T)

    def narrow() -> None:
        step = max(1, wide // 4)
        out.zero_()
        for start in range(0, wide, step):
            part = slice(start, start + step)
            out.addmm_(w[:, part], x[part])
            gradient[:, part].addmm_(out, x[part].T)

    for what, run, precision in (
        ("float32", plain, full_precision),
        ("TF32", plain, reduced_precision),
        ("three TF32", thrice, reduced_precision),
        ("float32, four segments of a quarter", narrow, full_precision),
    ):
        with precision():
            ms = milliseconds(run, sizes.repeats)
            run()
            off = error(out, exact)
        yield {"what": f"segment {shape}, {what}", "ms": ms, "error": off}


def gathering(sizes: StepSizes) -> Iterator[dict[str, object]]:
    """The rows that a chain takes of a tile, which are kept from the second pass on."""
    tile = drawn(1 + sizes.features, sizes.rows)
    order = torch.randperm(sizes.features, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    out = torch.empty_like(tile[1:])
    ms = milliseconds(lambda: torch.index_select(tile, 0, order, out=out), sizes.repeats)
    yield {"what": f"gathering {sizes.features:,} x {sizes.rows:,}", "ms": ms}


def curvature(sizes: StepSizes) -> Iterator[dict[str, object]]:
    """A step of L-BFGS of long vectors, whole and in parts."""
    length = sizes.classes * sizes.features
    moved = np.ones(sizes.probes, bool)
    step, change, gradient = (drawn(sizes.probes, length) for _ in range(3))
    for what, part in (("whole", length), ("in parts", 4096)):
        learnt = Curvature(step, 5, part=part)
        ms = milliseconds(
            lambda one=learnt: one.advance(moved, step, change, gradient), sizes.repeats
        )
        yield {"what": f"curvature of {sizes.probes} x {length:,}, {what}", "ms": ms}


def training(sizes: StepSizes) -> Iterator[dict[str, object]]:
    """A step of SGD, recorded and not."""
    train = clouds(sizes.rows, sizes.features, sizes.classes)
    shares = [(i + 1) / 20 for i in range(20)]
    chains = [random_chain(sizes.features, shares, seed) for seed in range(1, 6)]

    def seconds(epochs: int) -> float:
        how = probe.SGD(epochs=epochs, step_every=epochs)
        began = time.perf_counter()
        probe.fit(train, chains, solver=how, device=DEVICE)
        return time.perf_counter() - began

    ways = {"one by one": lambda possible: Recorded(False), "recorded": Recorded}
    for what, made in ways.items():
        with mock.patch.object(sgd, "Recorded", made):
            seconds(1)
            few, many = seconds(1), seconds(3)
        steps = 2 * -(-int(0.9 * sizes.rows) // 256)
        yield {"what": f"SGD, one step of 100 probes, {what}", "ms": 1e3 * (many - few) / steps}


def decoding(sizes: StepSizes) -> Iterator[dict[str, object]]:
    """JPEGs by nvJPEG, where torchvision has it, and by Pillow in one thread."""
    random, files = np.random.default_rng(0), []
    for _ in range(sizes.images):
        field = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        file = io.BytesIO()
        field.resize((400, 300), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    device = torch.device(DEVICE)
    runs: dict[str, Callable[[], object]] = {
        f"torchvision on {DEVICE}": lambda: loading._of_jpegs(files, device),
        "Pillow": lambda: [np.asarray(Image.open(io.BytesIO(file))) for file in files],
    }
    for what, run in runs.items():
        row: dict[str, object] = {"what": f"{sizes.images} JPEGs of 400 x 300, {what}"}
        try:
            yield row | {"ms": milliseconds(run, sizes.repeats)}
        except RuntimeError as failed:  # torchvision without nvJPEG
            yield row | {"failed": str(failed).splitlines()[0]}


PARTS = (gram, segment, gathering, curvature, training, decoding)


def main() -> None:
    """Time every part, and write each number as soon as it is there."""
    parser = argparse.ArgumentParser(description="Time what a GPU does otherwise.")
    parser.add_argument("--sizes", choices=SIZES, default="small")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: list[dict[str, object]] = []
    for part in PARTS:
        for row in part(SIZES[given.sizes]):
            found.append(row)
            print(json.dumps(row), flush=True)
            if given.json:
                given.json.write_text(
                    json.dumps({"device": DEVICE, "steps": found}, indent=1) + "\n"
                )


if __name__ == "__main__":
    main()

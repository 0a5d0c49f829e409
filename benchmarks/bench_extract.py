"""Images/s of extraction against the bare model's forward passes on ready tensors.

python -m benchmarks.bench_extract --sizes small

The images are Fashion-MNIST's where its files lie in a folder that FASHION_MNIST names, as Debian's
package dataset-fashion-mnist installs them, and noise of the same size without.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import featstore
from benchmarks import machine
from featstore import backbones, datasets, quickstart, taps

FOLDERS = (os.environ.get("FASHION_MNIST", ""), "/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Sizes:
    """Which models at which sizes, and how many images each."""

    cases: tuple[tuple[str, int, int], ...]
    batch_size: int
    rounds: int


SIZES = {
    "small": Sizes((("test_resnet", 32, 256),), 64, 1),
    "full": Sizes(
        (
            (quickstart.MODEL, 96, 2048),
            (quickstart.MODEL, 224, 384),
            ("resnet18", 96, 2048),
            ("resnet18", 224, 384),
        ),
        64,
        3,
    ),
}


def source(folder: Path, count: int) -> dict:
    """Return the arguments of `extract` for a set of at least `count` images of 28 x 28."""
    for place in filter(None, FOLDERS):
        if Path(place, "train-images-idx3-ubyte.gz").is_file():
            return {"dataset": "fashion_mnist", "data_dir": place}
    levels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    np.savez(folder / "noise.npz", x_train=levels, y_train=np.arange(count) % 10)
    return {"dataset": f"npz:{folder / 'noise.npz'}"}


class Stopwatch:
    """Takes the time from the first batch on: what is before is start-up."""

    def __init__(self, batch_size: int):
        self.first, self.marks = batch_size, []

    def __call__(self, stage: str, done: int, total: int, **facts) -> None:
        if stage == "images" and done >= self.first:
            self.marks.append((done, time.perf_counter()))

    def rate(self, ended: float) -> float:
        """Return images/s from the first batch to `ended`, which is after the last commit."""
        (before, start), (done, _) = self.marks[0], self.marks[-1]
        return (done - before) / (ended - start)


def bare_rate(backbone: backbones.Backbone, batch: torch.Tensor, count: int) -> float:
    """Return images/s of forward passes alone on one ready batch."""
    reader = taps.resolve(backbone)
    passes = count // len(batch)
    with torch.inference_mode():
        reader.read(batch)
        taken, _ = machine.seconds(lambda: [reader.read(batch) for _ in range(passes)])
    return passes * len(batch) / taken


def extraction_rate(options: dict, folder: Path, batch_size: int) -> tuple[float, featstore.Store]:
    """Return images/s of an extraction from its second batch to its last commit."""
    watch = Stopwatch(batch_size)
    done = featstore.extract(
        **options, out=folder / "store", overwrite=(folder / "store").exists(), progress=watch
    )
    return watch.rate(time.perf_counter()), done.store


def case(name: str, px: int, count: int, sizes: Sizes, folder: Path) -> dict:
    """Return one row of the table: the medians of alternating runs, and of their ratios."""
    weights = quickstart.weights_file() if name == quickstart.MODEL else None
    network = {"weights": weights, "pretrained": weights is not None, "image_size": px}
    images = source(folder, count)
    batch_size = sizes.batch_size
    options = {
        **network, **images, "model": name, "batch_size": batch_size,
        "splits": ("train",), "limit": count,
    }  # fmt: skip
    backbone = backbones.load(name, **network)
    rows = datasets.load(images["dataset"], "train", data_dir=images.get("data_dir"), limit=count)
    batch = torch.stack([backbone.transform(rows[row][0]) for row in range(batch_size)])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone.model.to(device, memory_format=torch.channels_last)
    batch = batch.to(device).contiguous(memory_format=torch.channels_last)
    bare, extracted = [], []
    for _ in range(sizes.rounds):
        bare.append(bare_rate(backbone, batch, count))
        rate, store = extraction_rate(options, folder, batch_size)
        extracted.append(rate)
    check(backbone, batch, store)
    return {
        "model": name,
        "px": px,
        "images": count,
        "bare images/s": round(float(np.median(bare)), 1),
        "extract images/s": round(float(np.median(extracted)), 1),
        "ratio": round(float(np.median(np.divide(extracted, bare))), 3),
    }


def check(backbone: backbones.Backbone, batch: torch.Tensor, store: featstore.Store) -> None:
    """Assert that what was stored for the first batch is what the model gives for it."""
    with torch.inference_mode():
        features = taps.resolve(backbone).read(batch)["penultimate"].cpu().numpy()
    stored = store.read("train", "penultimate", 0, len(batch))
    np.testing.assert_allclose(stored, features, rtol=2e-3, atol=2e-3)


def main() -> None:
    arguments = machine.arguments(__doc__.splitlines()[0])
    sizes = SIZES[arguments.sizes]
    with tempfile.TemporaryDirectory() as folder:
        rows = [case(*model, sizes, Path(folder)) for model in sizes.cases]
    machine.report("extract", arguments.sizes, rows, arguments.json)


if __name__ == "__main__":
    main()

"""Images/s of extraction by objects against the same network and images by name, in pairs.

python -m benchmarks.objects --model resnet18 --px 160 --images 256 --pairs 5

By name the images are a folder of JPEG files; as objects the network is the module that the name
loads, the data set torchvision's `ImageFolder` of the same folder, and `transform=` the transform
of the weights. Which of the two comes first alternates, and a ratio is taken within a pair; that by
CPU time, of all threads, is what a machine that others use too shows best. Objects pass the first
batch twice, to see whether the network is random; batches are small here, since images are few.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import featstore
from featstore import models

TAP = "layer4"
BATCH_SIZE = 8


def measure(model: str, px: int, images: int, pairs: int, folder: Path) -> dict[str, Any]:
    """Return images/s of each pair, by name and as objects, the ratios, and the machine's load.

    The features of both are the same within rounding, or `AssertionError` is raised.
    """
    data = _jpegs(folder / "data", images)
    rates: dict[str, list[float]] = {"name": [], "objects": []}
    costs: dict[str, list[float]] = {"name": [], "objects": []}
    load = os.getloadavg()[0]
    for pair in range(pairs + 1):
        kinds = ("name", "objects") if pair % 2 else ("objects", "name")
        stores = {}
        for kind in kinds:
            out, began = folder / f"{kind}{pair}.zarr", time.process_time()
            done = (
                _by_name(model, px, data, out) if kind == "name" else _objects(model, px, data, out)
            )
            stores[kind] = done.store.load("train", TAP)
            if pair:  # the first pair warms up
                rates[kind].append(done.images_done / done.seconds)
                costs[kind].append((time.process_time() - began) / done.images_done)
        np.testing.assert_allclose(stores["objects"], stores["name"], rtol=1e-3, atol=1e-4)
    ratios = [ours / theirs for ours, theirs in zip(rates["objects"], rates["name"], strict=True)]
    cheaper = [ours / theirs for theirs, ours in zip(costs["objects"], costs["name"], strict=True)]
    return {
        "model": model,
        "px": px,
        "images": images,
        "images/s": rates,
        "ratios": ratios,
        "median ratio": statistics.median(ratios),
        "CPU seconds an image": costs,
        "median ratio by CPU time": statistics.median(cheaper),
        "load before, after": [load, os.getloadavg()[0]],
        "threads": torch.get_num_threads(),
    }


def _by_name(model: str, px: int, data: Path, out: Path) -> featstore.Extraction:
    return featstore.extract(
        model,
        f"folder:{data}",
        splits=["train"],
        pretrained=False,
        image_size=px,
        taps=[TAP],
        out=out,
        dtype="float32",
        device="cpu",
        batch_size=BATCH_SIZE,
    )


def _objects(model: str, px: int, data: Path, out: Path) -> featstore.Extraction:
    backbone = models.load(model, pretrained=False, image_size=px)
    return featstore.extract(
        backbone.model,
        ImageFolder(data / "train"),
        transform=backbone.transform,
        taps=[TAP],
        out=out,
        dtype="float32",
        device="cpu",
        batch_size=BATCH_SIZE,
    )


def _jpegs(root: Path, images: int) -> Path:
    """Write noise as JPEG files of 256 x 256 pixels, in two class folders."""
    random = np.random.default_rng(0)
    for number in range(images):
        folder = root / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
        coarse.resize((256, 256)).save(folder / f"{number:05d}.jpg", quality=90)
    return root


def main() -> None:
    """Measure, and print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--px", type=int, default=160)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(**vars(options), folder=Path(folder)), indent=1))


if __name__ == "__main__":
    main()

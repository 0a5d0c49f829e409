"""Images/s of extraction against the bare model's forward passes on ready tensors.

python -m benchmarks.bench_extract --sizes small

The images are JPEG files in class folders: what is read, decoded and resized is what people have.
Both pass the same number of images: from the opening of the first file to the commit of the last
block, and from the first pass to the last. Rounds alternate, and ratios are taken within a round.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import featstore
from benchmarks import stages
from featstore import bench, data, downloads, measurements, models
from featstore.extraction.inference import precision_for
from featstore.extraction.loading import MANY, Encoder, Job, Workers, batches, decoded
from featstore.measurements import Report, percent
from featstore.models import taps
from featstore.probe import arrays

TAPS = ("penultimate", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class ExtractSizes:
    """Models, sizes in px, and images of `PX` for each; fewer of the larger ones.

    Five taps are compared with one on the last but one of the models.
    """

    cases: tuple[tuple[str, int], ...]
    images: int
    batch_size: int
    rounds: int


PX = 96
SIZES = {
    "small": ExtractSizes((("test_resnet", 32),), 28, 64, 1),
    "medium": ExtractSizes((("resnet18", 96), ("resnet18", 224)), 512, 32, 1),
    "full": ExtractSizes(
        (
            (downloads.MODEL, 96),
            (downloads.MODEL, 224),
            ("resnet18", 96),
            ("resnet18", 224),
            ("resnet50", 224),
        ),
        512,
        32,
        3,
    ),
}


def images_of(sizes: ExtractSizes, px: int) -> int:
    """Return how many images of a size to extract, whole batches, two at least.

    Beside a CUDA device so many that processes decode them, as they do for data sets of any size.
    """
    count = sizes.images * (PX / px) ** 2 / sizes.batch_size
    least = -(-MANY // sizes.batch_size) if torch.cuda.is_available() else 2
    return sizes.batch_size * max(least, round(count))


class Stopwatch:
    """Takes the time from when the first file is about to be read: what is before is start-up."""

    def __init__(self):
        self.began = self.done = 0

    def __call__(self, stage: str, done: int, total: int, **facts) -> None:
        if stage == "images":
            self.began = self.began or time.perf_counter()
            self.done = done

    def rate(self) -> float:
        """Return images/s until now, which is after the last commit."""
        return self.done / (time.perf_counter() - self.began)


def bare_rate(reader: taps.Taps, inputs: torch.Tensor, count: int) -> float:
    """Return images/s of forward passes alone on one ready batch, in the precision of `extract`."""
    passes = count // len(inputs)
    dtype = getattr(torch, precision_for("auto", inputs.device))
    reduced = torch.autocast(inputs.device.type, dtype, enabled=dtype != torch.float32)
    with torch.inference_mode(), reduced:
        reader.read(inputs)
        taken, _ = measurements.seconds(lambda: [reader.read(inputs) for _ in range(passes)])
    return passes * len(inputs) / taken


def decode_rate(encode: Encoder, rows: data.Rows, batch_size: int) -> float:
    """Return images/s of the decoder that `extract` would have, with nothing to compute beside."""
    pinned = torch.cuda.is_available()
    device = "cuda" if pinned else "cpu"
    workers = Workers.chosen(None, device, "image", len(rows))
    jobs = [Job(rows, numbers) for numbers in batches(range(len(rows)), batch_size)]
    stream = decoded(jobs, encode, workers, batch_size, pinned)
    taken, _ = measurements.seconds(lambda: [len(batch) for batch in stream])
    return len(rows) / taken


def extraction_rate(options: dict, folder: Path) -> tuple[float, featstore.Store]:
    """Return images/s of an extraction from its first file to its last commit."""
    watch = Stopwatch()
    done = featstore.extract(
        **options, out=folder / "store", overwrite=(folder / "store").exists(), progress=watch
    )
    return watch.rate(), done.store


def operations(reader: taps.Taps, inputs: torch.Tensor) -> int:
    """Return the operations of one image's forward pass; a multiplication and an addition are 2."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        reader.read(inputs[:1])
    return counter.get_total_flops()


def case(
    name: str, px: int, sizes: ExtractSizes, folder: Path, rates: dict
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a row of each table: the medians of alternating runs, and of their ratios."""
    weights = downloads.weights_file() if name == downloads.MODEL else None
    network = {"weights": weights, "pretrained": weights is not None, "image_size": px}
    batch_size, count = sizes.batch_size, images_of(sizes, px)
    dataset = bench.images(folder, count)
    options = {
        **network,
        "dataset": dataset,
        "model": name,
        "batch_size": batch_size,
        "splits": ("train",),
        "limit": count,
    }
    backbone = models.load(name, **network)
    rows = data.load(dataset, "train", limit=count)
    batch = backbone.encode_batch([rows[row][0] for row in range(batch_size)])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone.model.to(device, memory_format=torch.channels_last)
    inputs = backbone.prepare(batch.to(device)).contiguous(memory_format=torch.channels_last)
    reader = taps.resolve(backbone)
    bare, decoding, extracted = [], [], []
    for _ in range(sizes.rounds):
        bare.append(bare_rate(reader, inputs, count))
        rate, store = extraction_rate(options, folder)
        extracted.append(rate)
        decoding.append(decode_rate(Encoder(backbone), rows, batch_size))
    bench.check_features(reader, inputs, store)
    each = operations(reader, inputs) / 1e9
    bare, decoding, extracted = map(np.array, (bare, decoding, extracted))
    row = {
        "model": name,
        "px": px,
        "images": count,
        "GFLOP": round(each, 3),
        "bare/s": round(float(np.median(bare)), 1),
        "extract/s": round(float(np.median(extracted)), 1),
        "ratio": round(float(np.median(extracted / bare)), 3),
        "of matmul": percent(float(np.median(extracted)) * each / rates["matmul_gflops"]),
    }
    return row, {"model": name, "px": px, **of_limit(bare, decoding, extracted, device.type)}


def of_limit(
    bare: np.ndarray, decoding: np.ndarray, extracted: np.ndarray, device: str
) -> dict[str, Any]:
    """Return the most that model and decoder could reach together, and the share that was reached.

    All are images/s (rounds,). Where both share the cores, the limit is 1 / (1/bare + 1/decode);
    where the model has a device of its own, the slower of the two.
    """
    limit = 1 / (1 / bare + 1 / decoding) if device == "cpu" else np.minimum(bare, decoding)
    return {
        "decode/s": round(float(np.median(decoding)), 1),
        "limit/s": round(float(np.median(limit)), 1),
        "limit of bare": percent(float(np.median(limit / bare))),
        "extract of limit": percent(float(np.median(extracted / limit))),
    }


def five_taps(name: str, px: int, sizes: ExtractSizes, folder: Path) -> dict[str, Any]:
    """Return how much longer five taps take than one: the median of ratios of alternating runs."""
    count = images_of(sizes, px)
    options = {
        "dataset": bench.images(folder, count),
        "model": name,
        "pretrained": False,
        "image_size": px,
        "batch_size": sizes.batch_size,
        "splits": ("train",),
        "limit": count,
    }
    rates = {names: [] for names in (TAPS[:1], TAPS)}
    for _ in range(sizes.rounds):
        for names, found in rates.items():
            rate, _ = extraction_rate({**options, "taps": names}, folder)
            found.append(rate)
    one, five = rates.values()
    return {
        "model": name,
        "px": px,
        "1 tap, images/s": round(float(np.median(one)), 1),
        "5 taps, images/s": round(float(np.median(five)), 1),
        "time ratio": round(float(np.median(np.divide(one, five))), 3),
    }


def measure(sizes: ExtractSizes, setup: stages.Setup) -> Report:
    """Return the report, having compared the stored features with the model's."""
    # the device that extracts, whatever the stage is told of backends
    found = measurements.facts(arrays.backend("torch"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, px) in enumerate(sizes.cases, start=1):
            rows.append(case(name, px, sizes, Path(folder), found))
            setup.progress("models", place, len(sizes.cases))
        rows, limits = zip(*rows, strict=True)
        several = five_taps(*sizes.cases[-2:][0], sizes, Path(folder))
    shown = {**asdict(sizes), "cases": " ".join(f"{name}@{px}" for name, px in sizes.cases)}
    tables = {"images": rows, "limit": limits, "taps": [several]}
    return Report(
        "extract",
        shown,
        found,
        tables,
        notes=[
            "bare/s: images a second of forward passes alone on one ready batch; extract/s: from "
            "the first file to the last commit. GFLOP: of one image, counted by torch. decode/s: "
            "reading, decoding and resizing alone; limit/s: what that and the bare model could "
            "reach together, which share the cores, or the slower of the two beside a GPU.",
        ],
    )


if __name__ == "__main__":
    stages.main("extract")

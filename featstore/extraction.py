"""Extraction: each image through the backbone once, its features into a store, block by block."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from featstore import backbones, catalog, datasets, loading, taps
from featstore import store as stores
from featstore.backbones import Backbone
from featstore.contract import Progress, Store, no_progress
from featstore.datasets import ImageRows
from featstore.errors import DatasetError, FeatureError, UsageError
from featstore.finite import first_nonfinite_row
from featstore.spec import Spec, Split, Tap
from featstore.taps import Taps

BATCH_SIZE = 64
_DTYPES = ("float16", "float32")
_LIBRARIES = ("torch", "torchvision", "timm", "pillow")


@dataclass(frozen=True)
class Extraction:
    """What one call did: images passed through the model, and images that were in the store before.

    `reused` says that the store was complete and intact, and the model saw no image; `seconds` is
    the time of the whole call; `notes` tells what a person should know of the weights.
    """

    store: Store
    images_done: int
    images_reused: int
    seconds: float
    reused: bool
    notes: tuple[str, ...] = ()


def extract(
    model: str,
    dataset: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = True,
    data_dir: str | Path | None = None,
    splits: Sequence[str] = ("train", "test"),
    out: str | Path | None = None,
    format: str = "zarr",
    dtype: str = "float16",
    batch_size: int | None = None,
    image_size: int | None = None,
    device: str = "auto",
    limit: int | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Extraction:
    """Store the penultimate features of `dataset` under `model`; go on where a store stopped.

    `model`, `weights`, `pretrained`, `image_size` are as in `backbones.load`, `dataset`, `data_dir`
    and `limit` as in `datasets.load`. Without `out` the store lies under the store root,
    named by what it holds. A store of the same spec is reused: every checksum is checked, and only
    blocks that are missing or damaged are computed, with the batch size they were begun with (64
    without another), hence with the same bits as in one go. `workers` threads decode images.

    Calls `progress("blocks", ...)` while it checks, `progress("images", done, total, reused=...)`
    while it computes. Raises `UsageError`, `BackboneError`, `DatasetError`, `DownloadRefused`;
    `SpecMismatch` where `out` holds something else; `FeatureError` naming an image whose features
    are not finite or exceed float16. Whatever is raised, committed blocks stay.
    """
    started = time.perf_counter()
    splits = (splits,) if isinstance(splits, str) else tuple(splits)
    _check_options(splits, dtype, batch_size, workers)
    target = _device(device)
    backbone = backbones.load(model, weights=weights, pretrained=pretrained, image_size=image_size)
    reader = taps.resolve(backbone)
    images = {
        split: datasets.load(dataset, split, data_dir=data_dir, limit=limit) for split in splits
    }
    spec = _spec(backbone, reader, images, dtype, limit)
    store = stores.open_or_create(
        out or catalog.default_path(spec, format),
        spec,
        format,
        overwrite=overwrite,
        id_width=max(64, *(len(id_.encode()) for rows in images.values() for id_ in rows.ids)),
        provenance=_provenance(batch_size or BATCH_SIZE, target),
    )
    forward = _Forward(backbone, reader, target)
    done = _complete(store, images, forward, batch_size, workers, progress)
    return Extraction(
        store=store,
        images_done=done,
        images_reused=sum(len(rows) for rows in images.values()) - done,
        seconds=time.perf_counter() - started,
        reused=done == 0,
        notes=backbone.notes,
    )


class _Forward:
    """Pixels uint8 (b, H, W, 3) to {tap: features (b, D)}, on the device."""

    def __init__(self, backbone: Backbone, reader: Taps, device: torch.device):
        self.transform = backbone.transform
        self._read = reader.read
        self._device = device
        # On two cores EfficientNet-Lite0 passes twice the images with channels last in memory.
        backbone.model.to(device, memory_format=torch.channels_last)

    def __call__(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self._device, non_blocking=True)
        return self._read(self.transform.normalized(pixels))


def _complete(
    store: Store,
    images: dict[str, ImageRows],
    forward: _Forward,
    batch_size: int | None,
    workers: int | None,
    progress: Progress,
) -> int:
    """Compute every block that is missing or damaged; returns how many images that took."""
    spec = store.spec
    damaged = {(damage.split, damage.block) for damage in store.verify(progress)}
    if store.complete and not damaged:
        return 0
    with store.writer() as writer:
        for split, block in sorted(damaged):
            writer.discard(split, block)
        missing = [(split, block) for split in images for block in store.missing(split)]
        size = batch_size or store.provenance.get("batch_size") or BATCH_SIZE
        blocks = [
            (split, block, loading.batches(store.rows_of(split, block), size))
            for split, block in missing
        ]
        total = sum(len(rows) for rows in images.values())
        todo = sum(len(rows) for _, _, runs in blocks for rows in runs)
        reused = done = total - todo
        progress("images", done, total, reused=reused)
        jobs = ((images[split], rows) for split, _, runs in blocks for rows in runs)
        stream = loading.decoded(jobs, forward.transform, workers or loading.default_workers())
        with contextlib.closing(stream), torch.inference_mode():
            for split, block, runs in blocks:
                outputs = []
                for rows in runs:
                    outputs.append(forward(next(stream)))
                    done += len(rows)
                    progress("images", done, total, reused=reused)
                rows = store.rows_of(split, block)
                labels = images[split].labels[rows.start : rows.stop]
                ids = images[split].ids[rows.start : rows.stop]
                features = {
                    tap.name: _stored([output[tap.name] for output in outputs], spec, tap, ids)
                    for tap in spec.taps
                }
                writer.write(split, block, features, labels, ids)
    return todo


def _stored(outputs: list[torch.Tensor], spec: Spec, tap: Tap, ids: Sequence[str]) -> np.ndarray:
    """A block's batches (b, D) as one array of the store's dtype; `FeatureError` if that is lossy.

    Batches stay on the device until their block is whole: copying each would make it wait.
    """
    features = torch.cat(outputs).cpu().numpy()
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(features, dtype=spec.dtype)
    row = first_nonfinite_row(stored)
    if row is not None:
        worst = np.abs(features[row]).max()
        if np.isfinite(worst):
            raise FeatureError(
                f"image {ids[row]} has a feature of {worst:.4g} at {tap.name}, and float16 ends at"
                " 65504: store float32 with --dtype float32"
            )
        raise FeatureError(
            f"image {ids[row]} has a feature at {tap.name} that is not finite;"
            " check the weights and the image"
        )
    return stored


def _spec(
    backbone: Backbone,
    reader: Taps,
    images: dict[str, ImageRows],
    dtype: str,
    limit: int | None,
) -> Spec:
    first = next(iter(images.values()))
    for rows in images.values():
        if rows.classes != first.classes:
            raise DatasetError(
                f"{first.dataset} has {len(first.classes)} classes in {first.split} and"
                f" {len(rows.classes)} others in {rows.split}; their numbers would not agree"
            )
    return Spec(
        backbone=backbone.name,
        weights=backbone.weights_id,
        transform=backbone.transform_text,
        dataset=first.dataset,
        splits=tuple(
            Split(name=split, n_rows=len(rows), fingerprint=rows.fingerprint)
            for split, rows in images.items()
        ),
        taps=reader.taps,
        dtype=dtype,
        classes=first.classes,
        limit=limit,
    )


def _provenance(batch_size: int, device: torch.device) -> dict:
    return {
        "batch_size": batch_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }


def _device(name: str) -> torch.device:
    """The device called "cpu", "cuda", "cuda:N" or "auto": CUDA where there is one."""
    there = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if there else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UsageError(f"there is no device {name!r}; choose auto, cpu or cuda")
    if kind == "cuda" and not there:
        raise UsageError("there is no CUDA device here; leave --device out, or give --device cpu")
    return torch.device(name)


def _check_options(
    splits: tuple[str, ...], dtype: str, batch_size: int | None, workers: int | None
) -> None:
    repeated = [name for name in splits if splits.count(name) > 1]
    wrong = None
    if not splits:
        wrong = "no split is named; give at least one, as in --splits train,test"
    elif repeated:
        wrong = f"split {repeated[0]!r} is named twice; name each once"
    elif dtype not in _DTYPES:
        wrong = f"dtype {dtype!r} cannot be stored; choose {' or '.join(_DTYPES)}"
    elif batch_size is not None and batch_size < 1:
        wrong = f"a batch of {batch_size} images cannot be; give 1 or more"
    elif workers is not None and workers < 1:
        wrong = f"{workers} workers cannot decode; give 1 or more"
    if wrong:
        raise UsageError(wrong)

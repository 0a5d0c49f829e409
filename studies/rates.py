"""How fast this machine is, measured in seconds: images of a backbone, and matrix products."""

import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image

from featstore import backbones, inference, taps
from studies.features import Feature

IMAGES = 4  # of one batch, which is passed twice
TEXT = "A short sentence, about as long as the title of a book or the description of a package."


@dataclass(frozen=True)
class Rate:
    """Of a backbone here: rows a second, decoding left out, and features of its widest tap."""

    rows: float
    dim: int


def of_backbone(feature: Feature) -> Rate:
    """Return the rate of a feature's backbone on this machine, without fetching any weights.

    Raises what loading it raises.
    """
    request = dict(feature.request)
    model, weights = request["model"], request.get("weights")
    local = model.startswith("onnx:")
    options = {"image_size": request.get("image_size"), "transform": request.get("transform")}
    tap_options = (tuple(request.get("taps", ("penultimate",))), request.get("pool"))
    key = (model, str(weights) if local else "", repr(options), repr(tap_options))
    if key not in _KNOWN:
        backbone = backbones.load(model, pretrained=local, **options)
        reader = taps.resolve(backbone, *tap_options)
        _KNOWN[key] = _measured(backbone, reader, request.get("device", "auto"))
    return _KNOWN[key]


_KNOWN: dict[tuple, Rate] = {}


def _measured(backbone: backbones.Backbone, reader: taps.Taps, device: str) -> Rate:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    batch = backbone.encode_batch([image if backbone.modality == "image" else TEXT] * IMAGES)
    where = inference.device_for(device, 0)
    infer = inference.Inference(backbone, reader, where)
    with torch.inference_mode():
        infer(batch)  # the first pass chooses algorithms
        _wait(where)
        started = time.perf_counter()
        infer(batch)
        _wait(where)
    seconds = time.perf_counter() - started
    return Rate(IMAGES / seconds, max(tap.dim for tap in reader.taps))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache
def products(size: int = 1024) -> float:
    """Return operations a second of float32 matrix products."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.ones(size, size, device=device)
    a @ a
    _wait(a.device)
    started, times = time.perf_counter(), 3
    for _ in range(times):
        a @ a
    _wait(a.device)
    return times * 2 * size**3 / (time.perf_counter() - started)

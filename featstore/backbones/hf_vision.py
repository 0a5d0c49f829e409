"""Hugging Face's image encoders: the transform of their image processor, and their layers."""

import inspect
import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from featstore.backbones.activations import LAST, PENULTIMATE, Activation, Inputs, of_output
from featstore.backbones.hooked import blocks, seen_by_head, tokens_of
from featstore.backbones.network import Network
from featstore.errors import BackboneError, UsageError
from featstore.stated_transforms import EXAMPLE, ImageRecipe, checked
from featstore.transforms import Transform


def parts(
    name: str,
    model: torch.nn.Module,
    folder: Path,
    image_size: int | None,
    stated: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Transform and network of an image encoder.

    "penultimate" is what the classifier sees where the model has one; else its pooled output, or
    its class token, or the mean over its map.
    """
    transform = _transform(name, folder, image_size, stated)
    blank = transform(Image.new("RGB", (64, 64)))[None]
    return {"transform": transform, "network": _network(name, model, blank, image_size)}


def _network(
    name: str, model: torch.nn.Module, blank: torch.Tensor, image_size: int | None
) -> Network:
    tokens = tokens_of(model)
    stages = (*blocks(model), PENULTIMATE)
    resizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    options = {"interpolate_pos_encoding": True} if image_size is not None and resizes else {}
    if hasattr(model, "classifier"):
        layers = [path for path, layer in model.classifier.named_modules()]
        inner = f"classifier.{layers[-1]}".rstrip(".")
        seen = seen_by_head(model, inner, **options)
        pooling = "cls" if tokens.cls else "avg"
        return Network(model, seen, (PENULTIMATE,), stages, pooling, tokens)
    run = partial(_run, model, tokens, options)
    try:
        with torch.inference_mode():
            output = model(pixel_values=blank, **options)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"{name} cannot take images of {blank.shape[-1]} px:"
            f" {' '.join(str(error).split())[:300]}; leave --image-size out"
        ) from None
    pooling = "model" if output.get("pooler_output") is not None else "avg"
    if pooling == "avg" and tokens.cls:
        pooling = "cls"
    return Network(
        model, run, (PENULTIMATE, LAST), (*blocks(model), LAST, PENULTIMATE), pooling, tokens
    )


def _run(
    model: torch.nn.Module,
    tokens,
    options: dict[str, bool],
    inputs: Inputs,
    paths: Collection[str],
) -> dict[str, Activation]:
    output = model(pixel_values=inputs, **options)
    last = of_output(output["last_hidden_state"], inputs, tokens, "NCHW")
    if output.get("pooler_output") is not None:
        features = output["pooler_output"].flatten(1)
    elif last.kind == "map":
        features = last.values.mean((2, 3))
    else:
        features = last.values[:, 0] if tokens.cls else last.values.mean(1)
    return {LAST: last, PENULTIMATE: Activation(features)}


def _transform(
    name: str, folder: Path, image_size: int | None, stated: Mapping[str, Any] | None
) -> Transform:
    """The processor's own resizing and cropping; its rescaling and normalisation are ours.

    `image_size` replaces the crop, and what is resized before it keeps its proportion.
    """
    if stated is not None:
        return checked(ImageRecipe, stated, name).transform()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise BackboneError(
            f"{name} does not say how images become its input"
            f" ({' '.join(str(error).split())[:200]}); say so with --transform FILE: {EXAMPLE}"
        ) from None
    if image_size is not None:
        _resize(processor, image_size)
    facts = {key: value for key, value in processor.to_dict().items() if _describes(key, value)}
    scale = 1 / processor.rescale_factor if processor.do_rescale else 1.0
    normalizes = processor.do_normalize
    return Transform(
        geometry=partial(_geometry, processor),
        mean=tuple(processor.image_mean) if normalizes else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if normalizes else (1.0, 1.0, 1.0),
        scale=scale,
        text=f"transformers {json.dumps(facts, sort_keys=True, default=str)}",
    )


def _describes(key: str, value: object) -> bool:
    """Whether a setting of the processor is about pixels and not about where they are computed."""
    return value is not None and key not in ("device", "return_tensors", "disable_grouping")


def _geometry(processor, image: Image.Image) -> np.ndarray:
    """Pixels uint8 (H, W, 3), resized and cropped as the processor does."""
    given = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels = np.asarray(given["pixel_values"][0]).transpose(1, 2, 0)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _resize(processor, px: int) -> None:
    """Make the processor's output `px` x `px`."""
    crops = getattr(processor, "do_center_crop", False) and processor.crop_size
    before = (processor.crop_size if crops else processor.size) or {}
    native = before.get("height") or before.get("shortest_edge") or px
    size = {key: round(value * px / native) for key, value in dict(processor.size).items() if value}
    processor.size = type(processor.size)(**size) if not isinstance(processor.size, dict) else size
    if crops:
        both = {"height": px, "width": px}
        kind = type(processor.crop_size)
        processor.crop_size = both if kind is dict else kind(**both)

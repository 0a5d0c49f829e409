"""Pretrained backbones by name: the network, its weights' identity and its own transform."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from featstore.errors import UsageError
from featstore.models import classifiers, hugging_face, onnx, open_clip
from featstore.models.network import Backbone
from featstore.models.transforms import LONG_TEXTS, ImageRecipe, checked, stated

__all__ = ["TRUST", "Backbone", "load"]

# Whose code may run: nobody's. The option is there so that a script can say what it relies on.
TRUST = ("none",)
# What weights may be kept in, and how they may be laid on several devices.
WEIGHTS_DTYPES = ("float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "sequential")


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    seed: int = 0,
    transform: str | Path | Mapping[str, Any] | None = None,
    trust: str = "none",
    weights_key: str | None = None,
    weights_prefix: str | None = None,
    weights_dtype: str = "float32",
    device_map: str | None = None,
    prompt: str | None = None,
    long_texts: str = "truncate",
) -> Backbone:
    """The backbone called `name`, ready to read features from.

    A timm model by its name; `torchvision:NAME`; `hf:NAME` or `hf:FOLDER`, an encoder of images or
    of texts that transformers knows; `open_clip:MODEL/TAG`, its image tower; `onnx:FILE#TENSOR`.

    Weights come from the library's hub, or from the file `weights` (.pth, .pt, .safetensors: safe
    loading only), or with `pretrained=False` from the library's own initialisation under `seed`.
    Of a file that holds several networks, `weights_key` is the entry that holds the one to take, as
    "teacher", and `weights_prefix` what stands before its keys there, as "backbone."; else
    `weights.Checkpoint.network` says which is taken, and the backbone's notes tell it.

    The transform is the one the weights were trained with; `image_size` replaces its crop of
    S x S pixels, and the resize before the crop keeps its proportion to it. `transform`, a TOML
    or JSON file or its fields, states another one (`stated_transforms.ImageRecipe`, `TextRecipe`).
    `trust` says whose code may run: "none", the only value, runs nothing that comes with a model.

    Of an `hf:` model, `weights_dtype` is what its weights are kept and computed in, "bfloat16" in
    half the memory, and `device_map` "auto" lays its layers on all devices that there are, as
    transformers does, for a model that one of them does not hold. Of a model of texts, `prompt` is
    put before each of them, as "query: ", and `long_texts` says what becomes of those that are
    longer than it takes: "truncate", "chunk" or "error", see `transforms.TextRecipe`.

    Raises `UsageError` for a name or size that cannot be, `BackboneError` for weights that do not
    fit, `DownloadRefused` where the hub does not answer.
    """
    if trust not in TRUST:
        raise UsageError(
            f"trust {trust!r} cannot be had: nothing that comes with a checkpoint is ever run;"
            " leave --trust out, or give none"
        )
    if weights is not None and not pretrained:
        raise UsageError(
            f"weights from {weights} and an untrained model exclude each other; drop one of them"
        )
    if weights is None and (weights_key is not None or weights_prefix is not None):
        raise UsageError(
            "--weights-key and --weights-prefix are of a weight file; give it with --weights FILE"
        )
    if image_size is not None and image_size < 1:
        raise UsageError(f"an image of {image_size} px cannot be; give a positive --image-size")
    options = {"weights": weights, "pretrained": pretrained, "image_size": image_size}
    fields = None if transform is None else stated(transform)
    if weights_dtype not in WEIGHTS_DTYPES:
        known = ", ".join(WEIGHTS_DTYPES)
        raise UsageError(f"weights_dtype is {weights_dtype!r}; choose among {known}")
    if device_map not in (None, *DEVICE_MAPS):
        raise UsageError(f"device_map is {device_map!r}; choose among {', '.join(DEVICE_MAPS)}")
    if long_texts not in LONG_TEXTS:
        known = ", ".join(LONG_TEXTS)
        raise UsageError(f"long_texts is {long_texts!r}; choose among {known}")
    if prompt is not None:
        fields = {**(fields or {}), "prompt": prompt}
    if long_texts != "truncate":
        fields = {**(fields or {}), "long_texts": long_texts}
    if (prompt is not None or long_texts != "truncate") and not name.startswith(
        hugging_face.PREFIX
    ):
        raise UsageError(
            f"--prompt and --long-texts are of models of texts, and {name} is none; leave them out"
        )
    if name.startswith(hugging_face.PREFIX):
        how = {"weights_dtype": weights_dtype, "device_map": device_map}
        return hugging_face.load(name, **options, seed=seed, transform=fields, **how)
    if weights_dtype != "float32" or device_map is not None:
        raise UsageError(
            f"--weights-dtype and --device-map are of hf: models, and {name} is none; leave them"
            " out (--precision says what it computes in)"
        )
    if name.startswith(onnx.PREFIX):
        return onnx.load(name, **options, transform=fields)
    library = open_clip if name.startswith(open_clip.PREFIX) else classifiers
    place = {"weights_key": weights_key, "weights_prefix": weights_prefix}
    backbone = library.load(name, **options, **place, seed=seed)
    if fields is None:
        return backbone
    return replace(backbone, transform=checked(ImageRecipe, fields, name).transform())

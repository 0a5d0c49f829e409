"""Taps: the places in a backbone whose activations are kept, all read in one forward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from featstore.backbones import Backbone
from featstore.errors import BackboneError, UsageError
from featstore.spec import Tap

PENULTIMATE = "penultimate"

# timm calls a class token's reading "token"; the field says "cls".
_POOLINGS = {"token": "cls", "": "none"}


@dataclass(frozen=True)
class Taps:
    """What is read: `taps` in order, and `read`, input (b, 3, H, W) to {name: (b, D)}."""

    taps: tuple[Tap, ...]
    read: Callable[[torch.Tensor], dict[str, torch.Tensor]]


def resolve(backbone: Backbone, names: Sequence[str] = (PENULTIMATE,)) -> Taps:
    """The taps called `names`, their widths found by one forward pass of a blank image.

    "penultimate" is what the classifier sees, pooled as the model does. Raises `UsageError` for
    other names and for an image size that the model cannot take.
    """
    unknown = [name for name in names if name != PENULTIMATE]
    if unknown:
        raise UsageError(f"{backbone.name} has no tap {unknown[0]!r}; it has {PENULTIMATE}")
    read, pooling = _penultimate(backbone)
    features = _features_of_a_blank(backbone, read)
    tap = Tap(name=PENULTIMATE, dim=features.shape[1], pooling=pooling)
    return Taps(taps=(tap,), read=lambda batch: {PENULTIMATE: read(batch)})


def _penultimate(backbone: Backbone) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    model = backbone.model
    if not hasattr(model, "forward_head"):
        pooling = "cls" if hasattr(model, "class_token") else "avg"
        return _InputOf(model, backbone.head[-1]), pooling

    def read(batch: torch.Tensor) -> torch.Tensor:
        return model.forward_head(model.forward_features(batch), pre_logits=True)

    return read, _pooling(model)


class _InputOf:
    """What reaches one layer of a model; maps (b, C, H, W) are averaged over H and W."""

    def __init__(self, model: torch.nn.Module, layer: str):
        self._model = model
        self._seen = None
        model.get_submodule(layer).register_forward_pre_hook(self._keep)

    def _keep(self, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._seen = inputs[0]

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self._model(batch)
        seen, self._seen = self._seen, None
        return seen.mean((2, 3)) if seen.ndim == 4 else seen


def _pooling(model: torch.nn.Module) -> str:
    for owner in (model, getattr(model, "head", None)):
        pool = getattr(owner, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        if isinstance(pool, str):
            return _POOLINGS.get(pool, pool)
    return "model"


def _features_of_a_blank(backbone: Backbone, read) -> torch.Tensor:
    batch = backbone.transform(Image.new("RGB", (64, 64)))[None]
    try:
        with torch.inference_mode():
            features = read(batch)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"{backbone.name} cannot take images of {batch.shape[-1]} px:"
            f" {' '.join(str(error).split())}; choose another --image-size"
        ) from None
    if features.ndim != 2:
        raise BackboneError(
            f"{backbone.name} has no penultimate features: one image gave {tuple(features.shape)},"
            " not (1, D); take another model"
        )
    return features

"""Classifiers of images from timm and torchvision, and the layouts of their checkpoints."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from featstore.errors import BackboneError
from featstore.models import timm, torchvision, weights as weight_files
from featstore.models.network import Backbone
from featstore.models.transforms import Transform

Tensor = TypeVar("Tensor")

_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# A block expands channels, convolves each, and projects; the first ones have nothing to expand, and
# timm counts a block's layers from the first that is there.
_EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_BLOCK = _EXPANDING_BLOCK | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def in_timm_names(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """`state` under the names of `wanted` where its layout is a known one, as it is otherwise.

    Known: EfficientNets of the `efficientnet_pytorch` package and what is derived from it
    (`_conv_stem.weight`, `_blocks.N._expand_conv.weight`...). Keys that no rule covers keep their
    names, and fail to fit later under them.

    >>> in_timm_names({"_conv_stem.weight": 1, "_fc.bias": 2}, ["conv_stem.weight"])
    {'conv_stem.weight': 1, 'classifier.bias': 2}
    """
    wanted = set(wanted)
    if "_conv_stem.weight" not in state or "conv_stem.weight" not in wanted:
        return dict(state)
    blocks = _block_names(wanted)
    expanding = {key.split(".")[1] for key in state if "._expand_conv." in key}
    return {_renamed(key, blocks, expanding): tensor for key, tensor in state.items()}


def normaliser(beside: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """The (mean, std) with which a network of the `robustness` library sees its input.

    Such a file holds the network as `model.*`, a copy of it inside `attacker.*`, and with them
    `normalizer.new_mean` and `new_std`. None where the keys `beside` a network have no such pair.

    >>> normaliser({"normalizer.new_mean": 1, "normalizer.new_std": 2, "attacker.model.fc.bias": 3})
    (1, 2)
    """
    pairs = (
        (key, key.replace("new_mean", "new_std"))
        for key in beside
        if key.endswith("normalizer.new_mean")
    )
    return next(
        ((beside[mean], beside[std]) for mean, std in pairs if std in beside),
        None,
    )


def blurred(state: Mapping[str, Tensor]) -> list[str]:
    """Paths of the convolutions that blur before they stride, as in FFCV's and Matryoshka's files.

    >>> blurred({"layer2.0.conv2.blur_filter": 1, "layer2.0.conv2.conv.weight": 2})
    ['layer2.0.conv2']
    """
    return [key.removesuffix(_BLUR) for key in state if key.endswith(_BLUR)]


_BLUR = ".blur_filter"


def _block_names(wanted: Iterable[str]) -> list[str]:
    """Names `blocks.STAGE.BLOCK` in order: position N is the other layout's `_blocks.N`."""
    found = (re.match(r"blocks\.(\d+)\.(\d+)\.", key) for key in wanted)
    pairs = sorted({(int(match[1]), int(match[2])) for match in found if match})
    return [f"blocks.{stage}.{block}" for stage, block in pairs]


def _renamed(key: str, blocks: list[str], expanding: set[str]) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match:
        number, module, tensor = match.groups()
        names = _EXPANDING_BLOCK if number in expanding else _FIRST_BLOCK
        if module in names and int(number) < len(blocks):
            return f"{blocks[int(number)]}.{names[module]}.{tensor}"
        return key
    module, _, tensor = key.partition(".")
    return f"{_STEM_AND_HEAD.get(module, module)}.{tensor}"


class Blurred(torch.nn.Module):
    """Each channel blurred by a 3 x 3 `blur_filter` (C, 1, 3, 3), then the convolution `conv`.

    Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
    """

    def __init__(self, conv: torch.nn.Conv2d):
        super().__init__()
        self.conv = conv
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = torch.outer(row, row) / 16
        self.register_buffer("blur_filter", kernel.repeat(conv.in_channels, 1, 1, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (b, C, H, W) to the convolution's output."""
        smooth = torch.nn.functional.conv2d(
            maps, self.blur_filter, padding=1, groups=self.conv.in_channels
        )
        return self.conv(smooth)


def blur(model: torch.nn.Module, paths: Iterable[str]) -> None:
    """Let the convolutions at `paths` blur first; `BackboneError` where one is no convolution."""
    modules = dict(model.named_modules())
    for path in paths:
        if not isinstance(modules.get(path), torch.nn.Conv2d):
            raise BackboneError(
                f"the weights blur before {path}, which is no convolution of the model;"
                " give the weights of this architecture"
            )
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, Blurred(modules[path]))


TORCHVISION = "torchvision:"


def load(
    name: str,
    *,
    weights: str | Path | None,
    pretrained: bool,
    image_size: int | None,
    seed: int,
    weights_key: str | None = None,
    weights_prefix: str | None = None,
) -> Backbone:
    """As `featstore.models.load`, for the timm model `name` or torchvision's `torchvision:NAME`."""
    library = torchvision if name.startswith(TORCHVISION) else timm
    member = name.removeprefix(TORCHVISION)
    library.check(member)

    model = library.from_hub(member) if weights is None and pretrained else None
    if model is None:
        model = _untrained(library, member, seed)
    head = library.head(model)
    left_out, normalisation, notes = (), None, ()
    if weights is not None:
        checkpoint = weight_files.Checkpoint.read(weights, weights_key)
        blur(model, blurred(checkpoint.plain()))
        network = _network(library, model, member, checkpoint, weights_prefix, image_size)
        left_out = weight_files.fit(model, network.state, head)
        normalisation = normaliser(network.beside)
        notes = checkpoint.notes(network)
        if normalisation is not None:
            notes += (
                f"{checkpoint.path.name}: the input is normalised by the file's own normalizer",
            )
    identity = weight_files.identity(_without(model.state_dict(), left_out))
    # this may change the model to the size, and so comes after its weights and their identity
    transform = _renormalised(library.transform(model, member, image_size), normalisation)
    model = model.eval().requires_grad_(False)
    return Backbone(
        name=name,
        model=model,
        weights_id=identity if weights or pretrained else f"random:{seed}:{identity}",
        transform=transform,
        head=head,
        network=library.network(model, head),
        notes=tuple(
            f"{Path(weights).name} has no {part!r} for the model's classes: left untrained, no"
            " feature uses it"
            for part in left_out
        )
        + notes,
    )


def _untrained(library, name: str, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return library.untrained(name)


def _network(
    library,
    model: torch.nn.Module,
    name: str,
    checkpoint: weight_files.Checkpoint,
    prefix: str | None,
    image_size: int | None,
) -> weight_files.Network:
    """The network of a checkpoint that fits `model`, under the model's names and of its shapes.

    Where it fits as it is, it is taken so. Otherwise the model is brought to `image_size` first, so
    that position embeddings of that size are not interpolated twice.
    """
    head = library.head(model)

    def taken(*conversions) -> weight_files.Network:
        return checkpoint.network(model.state_dict(), head, prefix=prefix, conversions=conversions)

    renamed = partial(in_timm_names, wanted=list(model.state_dict()))
    try:
        return taken(renamed)
    except BackboneError as error:
        refused = error
    try:
        if image_size is not None:
            library.transform(model, name, image_size)
        return taken(renamed, *library.conversions(model))
    except BackboneError:
        raise BackboneError(f"{checkpoint.path}: {refused}") from None


def _renormalised(transform: Transform, normalisation) -> Transform:
    """The transform with the mean and standard deviation that a checkpoint was trained with."""
    if normalisation is None:
        return transform
    mean, std = (tuple(map(float, tensor.flatten())) for tensor in normalisation)
    if _close(mean, transform.mean) and _close(std, transform.std):
        return transform
    text = f"{transform.text} normalizer {json.dumps({'mean': mean, 'std': std})}"
    return replace(transform, mean=mean, std=std, text=text)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether they agree to the float32 that a checkpoint keeps."""
    return len(one) == len(other) and all(map(partial(math.isclose, rel_tol=1e-6), one, other))


def _without(state: dict[str, torch.Tensor], modules: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(tuple(f"{module}." for module in modules))
    }

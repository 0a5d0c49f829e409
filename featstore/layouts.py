"""State dicts of other implementations of the same network, told by their keys and renamed.

Renaming goes by rule and not by order: tensors of equal shape abound, and one in the wrong place
makes another network without an error.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

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

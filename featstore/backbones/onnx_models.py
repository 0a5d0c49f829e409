"""ONNX files as backbones: `onnx:FILE#TENSOR` reads a tensor by its name."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from featstore.backbones.activations import PENULTIMATE, Activation, Inputs, Tokens, of_output
from featstore.backbones.backbone import Backbone
from featstore.backbones.network import Network
from featstore.backbones.onnx_graphs import Graph
from featstore.downloads import mistaken
from featstore.errors import BackboneError, UsageError
from featstore.stated_transforms import EXAMPLE, ImageRecipe, checked, stated

PREFIX = "onnx:"


def load(
    name: str,
    *,
    weights: str | Path | None,
    pretrained: bool,
    image_size: int | None,
    transform: Mapping[str, Any] | None,
) -> Backbone:
    """As `backbones.load`, for `onnx:FILE#TENSOR`; other tensors of the file are taps by name.

    What an image has to become is read from `transform`, or from FILE with the suffix `.toml`;
    size and layout are taken from the graph where it fixes them.
    """
    if weights is not None or not pretrained:
        raise UsageError(f"{name} brings its weights; leave --weights and --no-pretrained out")
    file, _, tensor = name.removeprefix(PREFIX).partition("#")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no ONNX file {path}; give onnx:FILE#TENSOR")
    if wrong := mistaken(path):
        raise BackboneError(f"{path} is no ONNX file: it is {wrong}")
    graph = Graph(path)
    if tensor and tensor not in graph.tensors:
        raise UsageError(
            f"{path.name} has no tensor {tensor!r} of features; it has"
            f" {', '.join(graph.tensors[-8:])} (featstore taps onnx:{path.name} lists all)"
        )
    recipe = _recipe(name, path, graph, image_size, transform)
    made = recipe.transform()
    return Backbone(
        name=f"{PREFIX}{path.name}" + (f"#{tensor}" if tensor else ""),
        model=graph,
        weights_id=graph.identity(),
        transform=made,
        head=(),
        network=_network(graph, tensor, recipe, made(Image.new("RGB", (64, 64)))[None]),
        engine="onnxruntime",
        libraries=(graph.package,),
    )


def _recipe(
    name: str,
    path: Path,
    graph: Graph,
    image_size: int | None,
    transform: Mapping[str, Any] | None,
) -> ImageRecipe:
    beside = path.with_suffix(".toml")
    if transform is None and beside.is_file():
        transform = stated(beside)
    if transform is None:
        raise UsageError(
            f"{name} does not say how images become its input; say so in {beside}, or with"
            f" --transform FILE: {EXAMPLE}"
        )
    known = _of_input(graph.input.shape)
    fields = {**known, **transform}
    if image_size is not None:
        if "resize" in fields:
            raise UsageError(f"{name}: state size and resize in its transform, not --image-size")
        fields["size"] = image_size
    recipe = checked(ImageRecipe, fields, name)
    for field, fixed in known.items():
        asked = getattr(recipe, field)
        if (asked, asked) != fixed and asked != fixed:
            raise UsageError(f"{name} takes {field} {fixed}, and {asked} is stated")
    return recipe


def _of_input(shape: tuple[int | None, ...]) -> dict[str, Any]:
    """Layout and size as far as the shape of a graph's input fixes them."""
    layouts = [layout for layout, axis in (("NCHW", 1), ("NHWC", 3)) if shape[axis] == 3]
    if len(layouts) != 1:
        return {}
    height, width = shape[2:] if layouts[0] == "NCHW" else shape[1:3]
    fixed = {"size": (height, width)} if height and width else {}
    return {"layout": layouts[0], **fixed}


def _network(graph: Graph, tensor: str, recipe: ImageRecipe, blank: torch.Tensor) -> Network:
    run = partial(_run, graph, tensor, recipe.layout)
    own, pooling = graph.tensors, "none"
    if tensor:
        own = (*own, PENULTIMATE)
        whole = _tensors(graph, recipe.layout, blank, [tensor])[tensor]
        if whole.kind not in ("vector", "map") or len(whole.values) != 1:
            raise BackboneError(
                f"{tensor} of {graph.path.name} gave {tuple(whole.values.shape)} for one image, no"
                " vector (D,) or map (C, H, W); name another tensor"
            )
        pooling = "none" if whole.kind == "vector" else "avg"
    return Network(graph, run, own, own, pooling, layout=recipe.layout)


def _run(
    graph: Graph, tensor: str, layout: str, inputs: Inputs, paths: Collection[str]
) -> dict[str, Activation]:
    """One pass for all of the tensors."""
    wanted = [tensor if path == PENULTIMATE else path for path in paths]
    found = _tensors(graph, layout, inputs, list(dict.fromkeys(wanted)))
    given = {path: found[path] for path in paths if path in found}
    if PENULTIMATE in paths:
        values = found[tensor].values
        given[PENULTIMATE] = Activation(values.mean((2, 3)) if values.ndim == 4 else values)
    return given


def _tensors(
    graph: Graph, layout: str, inputs: torch.Tensor, names: list[str]
) -> dict[str, Activation]:
    batch = inputs.permute(0, 2, 3, 1) if layout == "NHWC" else inputs
    arrays = graph(np.ascontiguousarray(batch.cpu().numpy()), names)
    outputs = (torch.from_numpy(array).to(inputs.device) for array in arrays)
    return {
        name: of_output(output, inputs, Tokens(), layout)
        for name, output in zip(names, outputs, strict=True)
    }

"""Networks in ONNX files: any tensor of the graph is a tap."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from featstore.downloads import mistaken, needed
from featstore.errors import BackboneError, UsageError
from featstore.models.network import Activation, Backbone, Inputs, Network, Tokens, of_output
from featstore.models.transforms import EXAMPLE, ImageRecipe, checked, stated
from featstore.models.weights import lies_in
from featstore.spec import PENULTIMATE

# The largest graphs that there are have some ten thousand nodes, and activations of some 10^8
# numbers. What is beyond would be read for hours, or fill the memory before a word is said.
_MOST_NODES, _MOST_NUMBERS = 100_000, 10**9

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


@dataclass(frozen=True)
class Input:
    """The graph's one input: `shape` with None where it is free, and its NumPy type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: type


class Graph(torch.nn.Module):
    """A graph in a file, computed by onnxruntime: on its CUDA device where the package has one.

    Operators are those that onnxruntime carries; no library of others is loaded. Raises
    `BackboneError` for a file that is none.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._runtime = needed("onnxruntime", "onnx", f"onnx:{path.name}")
        onnx = needed("onnx", "onnx", f"onnx:{path.name}")
        self.path = path
        try:
            self._proto = onnx.load(path, load_external_data=False)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise BackboneError(
                f"{path} is no ONNX file: {_one_line(error)}; fetch it again, or give another one"
            ) from None
        self._data = _external_files(self._proto, path)
        _check_sizes(self._proto, path, onnx)
        self._sessions: dict[tuple[str, ...], object] = {}
        self.input = self._only_input()
        self.tensors = self._tensors()

    @property
    def package(self) -> str:
        """The distribution that computes: onnxruntime, or the one for GPUs."""
        names = metadata.packages_distributions().get("onnxruntime", ["onnxruntime"])
        return names[0]

    def identity(self) -> str:
        """SHA-256, as "sha256:<hex>", of the file, and of those that hold its weights."""
        digest = hashlib.sha256()
        for file in (self.path, *self._data):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return f"sha256:{digest.hexdigest()}"

    def forward(self, inputs: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Tensors called `names` for inputs (b, ...), each with a row for each input.

        A graph whose batch is fixed gets as many rows at a time, the last ones zeros.
        """
        session = self._session(tuple(names))
        inputs = inputs.astype(self.input.dtype, copy=False)
        batch = self.input.shape[0]
        if batch is None:
            return session.run(list(names), {self.input.name: inputs})
        runs = []
        for start in range(0, len(inputs), batch):
            rows = np.zeros((batch, *inputs.shape[1:]), inputs.dtype)
            rows[: len(inputs) - start] = inputs[start : start + batch]
            runs.append(session.run(list(names), {self.input.name: rows}))
        return [np.concatenate(parts)[: len(inputs)] for parts in zip(*runs, strict=True)]

    def _session(self, names: tuple[str, ...]):
        if names not in self._sessions:
            self._sessions[names] = self._open(names)
        return self._sessions[names]

    def _open(self, names: Sequence[str]):
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.path.parent)
        )
        proto = type(self._proto)()
        proto.CopyFrom(self._proto)
        there = {output.name for output in proto.graph.output}
        for name in names:
            if name not in there:
                proto.graph.output.add().name = name
        available = self._runtime.get_available_providers()
        wanted = [name for name in ("CUDAExecutionProvider",) if name in available]
        try:
            return self._runtime.InferenceSession(
                proto.SerializeToString(), options, providers=[*wanted, "CPUExecutionProvider"]
            )
        except Exception as error:
            raise BackboneError(
                f"onnxruntime cannot run {self.path}: {_one_line(error)}; nothing beside its own"
                " operators is loaded"
            ) from None

    def _only_input(self) -> Input:
        given = self._session(()).get_inputs()
        if len(given) != 1 or given[0].type not in _DTYPES or len(given[0].shape) != 4:
            told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in given) or "nothing"
            raise BackboneError(f"{self.path} takes {told}, not one batch of images")
        (one,) = given
        shape = tuple(side if isinstance(side, int) and side > 0 else None for side in one.shape)
        return Input(one.name, shape, _DTYPES[one.type])

    def _tensors(self) -> tuple[str, ...]:
        """Names of the float tensors that may have a row for each input, in the graph's order."""
        names = [
            name
            for node in self._proto.graph.node
            for name in node.output
            if name and node.op_type != "Constant"
        ]
        typed = self._open(names).get_outputs()
        kinds = {one.name: (one.type, one.shape) for one in typed}
        return tuple(name for name in names if self._may_be_rows(*kinds[name]))

    def _may_be_rows(self, kind: str, shape: Sequence[int | str | None]) -> bool:
        if kind not in ("tensor(float)", "tensor(float16)") or len(shape) not in (2, 3, 4):
            return False
        batch = self.input.shape[0]
        return not isinstance(shape[0], int) or shape[0] == batch


def _external_files(model, path: Path) -> tuple[Path, ...]:
    """Files beside the graph that hold its tensors; one that lies elsewhere is refused."""
    places = {
        entry.value
        for tensor in _messages(model, "TensorProto")
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for place in places:
        if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
            raise BackboneError(f"{path} keeps weights in {place}, outside its folder: refused")
        if not lies_in(path.parent, path.parent / place):
            raise BackboneError(
                f"{path} keeps weights in {place}, a link out of its folder: refused"
            )
        if not (path.parent / place).is_file():
            raise BackboneError(f"{path} keeps weights in {place}, which is not beside it")
    return tuple(path.parent / place for place in sorted(places))


def _check_sizes(model, path: Path, onnx) -> None:
    """Refuse a graph of more nodes, or of larger tensors between them, than any model has."""
    nodes = sum(1 for each in _messages(model, "NodeProto"))
    if nodes > _MOST_NODES:
        raise BackboneError(
            f"{path} has {nodes:,} nodes, and no model has more than {_MOST_NODES:,}: give another"
            " file"
        )
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        return  # onnxruntime says what is wrong with it
    for value in _messages(model, "ValueInfoProto"):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        # a side that is free is 0 here
        if math.prod(max(dim, 1) for dim in dims) > _MOST_NUMBERS:
            raise BackboneError(
                f"{path} computes a tensor {value.name!r} of shape {tuple(dims)}, and no model has"
                f" more than {_MOST_NUMBERS:,} numbers in one: give another file"
            )


def _messages(message, kind: str) -> Iterator[Any]:
    """Every message of a kind in a model: of its graph, of nodes, subgraphs and functions."""
    if message.DESCRIPTOR.name == kind:
        yield message
    if message.DESCRIPTOR.name == "TensorProto":
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in (value,) if hasattr(value, "DESCRIPTOR") else value:
                yield from _messages(each, kind)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


PREFIX = "onnx:"


def load(
    name: str,
    *,
    weights: str | Path | None,
    pretrained: bool,
    image_size: int | None,
    transform: Mapping[str, Any] | None,
) -> Backbone:
    """As `featstore.models.load`, for `onnx:FILE#TENSOR`; its other tensors are taps by name.

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

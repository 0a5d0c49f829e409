"""An ONNX graph whose inner tensors can be read: any of them becomes an output of a session."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from featstore.backbones.extras import needed
from featstore.errors import BackboneError
from featstore.weights import lies_in

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

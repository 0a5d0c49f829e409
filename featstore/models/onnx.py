"""Networks in ONNX files: any tensor of the graph is a tap."""

import hashlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property, partial
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
from featstore.places import lies_in
from featstore.spec import PENULTIMATE

# The largest graphs that there are have some ten thousand nodes, and activations of some 10^8
# numbers. What is beyond would be read for hours, or fill the memory before a word is said.
_MOST_NODES, _MOST_NUMBERS = 100_000, 10**9

# A graph whose every tensor has a known size, and which has no more numbers than this for one
# image, is run as it is; any other one is first tried on one image, by another process.
_FEW_NUMBERS = 2 * 10**8
# Operators whose work or memory is not told by the sizes of their outputs.
_DEEPEST = 100
_SHORT = 1024  # numbers of a constant that may say how large something is
_TEXT = 8  # TensorProto.STRING
_OPEN_ENDED = frozenset({"Loop", "Scan", "SequenceMap", "Einsum"})
_TRIAL_SECONDS, _TRIAL_BYTES = 10, 16 << 30  # of one core, and beside the weights
_WEIGHTS_A_SECOND = 20_000_000  # bytes
# Of each batch of such a graph: seconds for the first, and for every row.
_BATCH_SECONDS, _ROW_SECONDS = 60.0, 10.0

# What tries a graph. A file of its weights is found from the folder; the rest comes by a pipe.
_TRIAL = """
import os, sys
import numpy, onnxruntime
folder, name, dtype, shape, seconds, memory = sys.argv[1:]
if os.name == "posix":
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
try:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
except OSError:
    pass
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, 1
options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
try:
    session = onnxruntime.InferenceSession(
        sys.stdin.buffer.read(), options, providers=["CPUExecutionProvider"]
    )
    run = onnxruntime.RunOptions()
    run.log_severity_level = 4
    session.run(None, {name: numpy.zeros([int(side) for side in shape.split(",")], dtype)}, run)
except BaseException as error:
    sys.exit(" ".join(str(error).split())[:300] or type(error).__name__)
"""

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
        _check_counts(self._proto, path)
        _check_sizes(self._proto, path)
        self._sessions: dict[tuple[str, ...], object] = {}
        self._bounded = True
        # without its optimisations, onnxruntime computes nothing of the graph yet
        self.input = self._only_input(self._open((), optimised=False))

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

    def prepare(self, shape: Sequence[int]) -> None:
        """Find out whether the graph can be run on one image, as inputs of this shape (1, ...).

        Raises `BackboneError` for a tensor that is larger than any model's, and for a graph that
        takes longer, or more memory, than any model does, wherever in it that is hidden.
        """
        shape = (self.input.shape[0] or 1, *shape[1:])
        self._bounded = _check_sizes(self._proto, self.path, self.input.name, shape)
        if not self._bounded:
            self._try(shape)

    def _try(self, shape: Sequence[int]) -> None:
        weights = sum(file.stat().st_size for file in (self.path, *self._data))
        seconds = _TRIAL_SECONDS + weights // _WEIGHTS_A_SECOND
        memory = min(_TRIAL_BYTES, _half_of_memory()) + 4 * weights
        places = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        given = (
            str(self.path.parent),
            self.input.name,
            np.dtype(self.input.dtype).name,
            ",".join(map(str, shape)),
            str(seconds),
            str(memory),
        )
        told = f"{self.path} cannot be tried on one image: "
        try:
            ran = subprocess.run(
                [sys.executable, "-P", "-c", _TRIAL, *given],
                input=self._with_outputs(self._names()),
                capture_output=True,
                timeout=6 * seconds,
                env={**os.environ, "PYTHONPATH": places},
            )
        except subprocess.TimeoutExpired:
            raise BackboneError(
                f"{told}it does not end within {6 * seconds} s; give another file"
            ) from None
        if os.name == "posix" and ran.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise BackboneError(
                f"{told}it takes more than {seconds} s of one core, or all memory, and no model"
                " does; give another file"
            )
        if ran.returncode:
            why = ran.stderr.decode(errors="replace").strip() or "onnxruntime crashes on it"
            raise BackboneError(
                f"{told}{_one_line(why)} (with {memory / 1e9:.0f} GB of memory); give another file"
            )

    def forward(self, inputs: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Tensors called `names` for inputs (b, ...), each with a row for each input.

        A graph whose batch is fixed gets as many rows at a time, the last ones zeros. Raises
        `BackboneError` where onnxruntime fails.
        """
        session = self._session(tuple(names))
        inputs = inputs.astype(self.input.dtype, copy=False)
        batch = self.input.shape[0]
        if batch is None:
            return self._run(session, names, inputs)
        runs = []
        for start in range(0, len(inputs), batch):
            rows = np.zeros((batch, *inputs.shape[1:]), inputs.dtype)
            rows[: len(inputs) - start] = inputs[start : start + batch]
            runs.append(self._run(session, names, rows))
        return [np.concatenate(parts)[: len(inputs)] for parts in zip(*runs, strict=True)]

    def _run(self, session, names: Sequence[str], inputs: np.ndarray) -> list[np.ndarray]:
        options = self._runtime.RunOptions()
        options.log_severity_level = 4
        seconds = _BATCH_SECONDS + _ROW_SECONDS * len(inputs)
        stop = partial(setattr, options, "terminate", True)
        try:
            with _after(seconds, stop) if not self._bounded else nullcontext():
                return session.run(list(names), {self.input.name: inputs}, options)
        except Exception as error:
            why = f"it takes more than {seconds:.0f} s" if options.terminate else _one_line(error)
            raise BackboneError(
                f"onnxruntime cannot run {self.path} on {len(inputs)} images: {why}; take fewer at"
                " once, or give another file"
            ) from None

    def _session(self, names: tuple[str, ...]):
        if names not in self._sessions:
            self._sessions[names] = self._open(names)
        return self._sessions[names]

    def _open(self, names: Sequence[str], *, optimised: bool = True):
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self.path.parent)
        )
        if not optimised:
            options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not self._bounded:
            _bound_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
        available = self._runtime.get_available_providers()
        wanted = [name for name in ("CUDAExecutionProvider",) if name in available]
        try:
            return self._runtime.InferenceSession(
                self._with_outputs(names), options, providers=[*wanted, "CPUExecutionProvider"]
            )
        except Exception as error:
            raise BackboneError(
                f"onnxruntime cannot run {self.path}: {_one_line(error)}; nothing beside its own"
                " operators is loaded"
            ) from None

    def _with_outputs(self, names: Sequence[str]) -> bytes:
        """The graph as bytes, with these tensors among its outputs."""
        proto = type(self._proto)()
        proto.CopyFrom(self._proto)
        there = {output.name for output in proto.graph.output}
        for name in names:
            if name not in there:
                proto.graph.output.add().name = name
        return proto.SerializeToString()

    def _only_input(self, session) -> Input:
        given = session.get_inputs()
        if len(given) != 1 or given[0].type not in _DTYPES or len(given[0].shape) != 4:
            told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in given) or "nothing"
            raise BackboneError(f"{self.path} takes {told}, not one batch of images")
        (one,) = given
        shape = tuple(side if isinstance(side, int) and side > 0 else None for side in one.shape)
        return Input(one.name, shape, _DTYPES[one.type])

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """Names of the float tensors that may have a row for each input, in the graph's order."""
        names = self._names()
        typed = self._open(names).get_outputs()
        kinds = {one.name: (one.type, one.shape) for one in typed}
        return tuple(name for name in names if self._may_be_rows(*kinds[name]))

    def _names(self) -> list[str]:
        return [
            name
            for node in self._proto.graph.node
            for name in node.output
            if name and node.op_type != "Constant"
        ]

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


@contextmanager
def _after(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Act once so many seconds have passed, unless the block has ended by then."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@cache
def _bound_memory() -> None:
    """Let graphs that ask for it have their memory from one arena of this process, which ends."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    where = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    most = onnxruntime.OrtArenaCfg(_half_of_memory(), -1, -1, -1)
    onnxruntime.create_and_register_allocator(where, most)


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _check_counts(model, path: Path) -> None:
    """Refuse a graph of more nodes than any model has, each function counted where it is called.

    A function that calls another twice, which calls a third one twice, and so on, is written out
    by onnxruntime; one that calls itself has no end.
    """
    functions = {(one.domain, one.name): one for one in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(message, callers: tuple[tuple[str, str], ...] = ()) -> int:
        total = 0
        for node in _messages(message, "NodeProto"):
            name = node.domain, node.op_type
            if name in callers or len(callers) > _DEEPEST:
                raise BackboneError(
                    f"{path} has a function {name[1]!r} that calls itself, or others more than"
                    f" {_DEEPEST} deep, and no model does: give another file"
                )
            if name in functions and name not in counts:
                counts[name] = count(functions[name], (*callers, name))
            total += 1 + counts.get(name, 0)
        if total > _MOST_NODES:
            raise BackboneError(
                f"{path} has {total:,} nodes, and no model has more than {_MOST_NODES:,}: give"
                " another file"
            )
        return total

    for one in (model.graph, *model.functions):
        count(one)


def _check_sizes(model, path: Path, name: str = "", shape: Sequence[int] = ()) -> bool:
    """Refuse a graph of larger tensors than any model has, at its top or in what it may compute.

    Where its input `name` has this shape, return whether the sizes of all its tensors are known,
    and few numbers together: what it takes to run is bounded by them.
    """
    from onnx import inliner, shape_inference

    for tensor in _messages(model, "SparseTensorProto"):
        _check_size(tensor.dims, "a sparse one", path)
    known = _without_weights(model)
    for one in known.graph.input:
        if one.name == name:
            sides = one.type.tensor_type.shape.dim
            for side, size in zip(sides, shape, strict=True):
                side.dim_value = size
    try:
        known = inliner.inline_local_functions(known)
        _hand_down(known.graph, {})
        known = shape_inference.infer_shapes(known, data_prop=True)
    except Exception:
        return False  # onnxruntime says what is wrong with it
    numbers, bounded = 0, True
    for graph in _messages(known, "GraphProto"):
        sizes = {}
        for value in (*graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            dims = [side.dim_value for side in tensor.shape.dim]
            # a side that is free is 0 here
            sizes[value.name] = _check_size(dims, repr(value.name), path)
            told = all(side.HasField("dim_value") for side in tensor.shape.dim)
            if not told or not tensor.HasField("shape") or tensor.elem_type == _TEXT:
                bounded = False
        made = {output for node in graph.node for output in node.output if output}
        numbers += sum(sizes.values())
        bounded &= made <= sizes.keys()
        bounded &= not any(node.op_type in _OPEN_ENDED for node in graph.node)
    return bounded and numbers <= _FEW_NUMBERS


def _check_size(dims: Sequence[int], name: str, path: Path) -> int:
    size = math.prod(max(dim, 1) for dim in dims)
    if size > _MOST_NUMBERS:
        raise BackboneError(
            f"{path} computes a tensor {name} of shape {tuple(dims)}, and no model has more than"
            f" {_MOST_NUMBERS:,} numbers in one: give another file"
        )
    return size


def _without_weights(model):
    """A copy of a graph in which long tensors have no numbers, and no sizes are claimed."""
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in _messages(copy, "TensorProto"):
        if math.prod(tensor.dims) > _SHORT:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(field)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    for graph in _messages(copy, "GraphProto"):
        graph.ClearField("value_info")
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")
    for function in copy.functions:
        function.ClearField("value_info")
    return copy


def _hand_down(graph, constants: Mapping[str, Any]) -> None:
    """Put short constants of the graphs around a graph into it: inference does not look there."""
    ours = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    used = {name for node in graph.node for name in node.input}
    constants = dict(constants)
    for name in sorted((used & constants.keys()) - ours):
        graph.initializer.add().CopyFrom(constants[name])
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SHORT:
            constants[tensor.name] = tensor
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            if math.prod(tensor.dims) <= _SHORT:
                constants[node.output[0]] = type(tensor)()
                constants[node.output[0]].CopyFrom(tensor)
                constants[node.output[0]].name = node.output[0]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _hand_down(inner, constants)


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
    recipe = _recipe(name, path, graph, image_size, transform)
    made = recipe.transform()
    blank = made(Image.new("RGB", (64, 64)))[None]
    graph.prepare(_laid_out(blank, recipe.layout).shape)
    if tensor and tensor not in graph.tensors:
        raise UsageError(
            f"{path.name} has no tensor {tensor!r} of features; it has"
            f" {', '.join(graph.tensors[-8:])} (featstore taps onnx:{path.name} lists all)"
        )
    return Backbone(
        name=f"{PREFIX}{path.name}" + (f"#{tensor}" if tensor else ""),
        model=graph,
        weights_id=graph.identity(),
        transform=made,
        head=(),
        network=_network(graph, tensor, recipe, blank),
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
    batch = _laid_out(inputs, layout)
    arrays = graph(np.ascontiguousarray(batch.cpu().numpy()), names)
    outputs = (torch.from_numpy(array).to(inputs.device) for array in arrays)
    return {
        name: of_output(output, inputs, Tokens(), layout)
        for name, output in zip(names, outputs, strict=True)
    }


def _laid_out(inputs: torch.Tensor, layout: str) -> torch.Tensor:
    """Inputs (b, 3, h, w) as the graph takes them."""
    return inputs.permute(0, 2, 3, 1) if layout == "NHWC" else inputs

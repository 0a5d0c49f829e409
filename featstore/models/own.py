"""Networks given as objects: a copy in evaluation mode, its identity, and what it takes."""

import copy
import hashlib
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from featstore.data.own import tensor_of
from featstore.data.rows import utf8
from featstore.errors import BackboneError, UsageError
from featstore.models import weights
from featstore.models.network import Activation, Backbone, Network, of_output, stages, tokens_of
from featstore.models.taps import Taps

# The tap that is what the network returns.
OUTPUT = "output"
# Libraries whose classes are known by their names and settings.
_KNOWN = ("torch", "torchvision", "timm", "transformers")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class TensorTransform:
    """From a row, an image or tensor, to the tensor that a network takes of it.

    `call` makes it, or the row is that tensor where `call` is None. `blank` is a row, twice, from
    which shapes are found. Every row gives a tensor of `shape` and `dtype`.
    """

    call: Callable[..., object] | None
    text: str
    blank: Sequence[object]
    shape: tuple[int, ...]
    dtype: torch.dtype
    modality: ClassVar[str] = "tensor"

    def one(self, item: object) -> torch.Tensor:
        """Return the tensor of one row; `ValueError` where it is of another shape or dtype."""
        made = _tensor(item, self.call)
        if (made.shape, made.dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"it gives {_shown(made)}, and the first row {_shown(self.one(self.blank[0]))}"
            )
        return made

    def batch(self, items: Sequence[object]) -> torch.Tensor:
        """Return the tensors of rows, (b, ...)."""
        return torch.stack([self.one(item) for item in items])

    def normalized(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the batch as it is."""
        return batch


def backbone(
    module: torch.nn.Module,
    first: object,
    *,
    transform: Callable[..., object] | None = None,
    name: str | None = None,
    version: str | None = None,
) -> Backbone:
    """Return a module as a backbone: a copy of it in evaluation mode, whose taps are its modules.

    The module itself keeps its mode, its device and its hooks. Its identity is, behind "code:", the
    hash of its structure, of its classes' source where there is one and of its buffers that are not
    in the state dict, and behind "sha256:" that of its state dict.

    Arguments:
        module: the network; `module(batch)` is called with a tensor (b, ...).
        first: the first row, an image or tensor, from which shapes are found.
        transform: makes a row the tensor that the network takes; None where it is that already.
        name: what the network is called, by default as its class.
        version: what else tells it from others; part of the identity.

    Raises `UsageError` for what is no module, and for a transform that gives no tensor or two
    different ones for one row; `BackboneError` for a module that cannot be copied.
    """
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"model is of type {type(module).__name__}; give a torch.nn.Module, or a name as text"
        )
    called = utf8(name or type(module).__name__)
    try:
        model = copy.deepcopy(module).eval()
    except Exception as error:
        raise BackboneError(
            f"{called} cannot be copied ({_line(error)}), and a copy is what is read; take out"
            " what it holds beside its weights, such as tensors of an earlier pass"
        ) from None
    try:
        weights_id, without = _identity(module)
    except Exception as error:
        raise BackboneError(
            f"{called} does not say what it is ({_line(error)}); mend its `repr` and `state_dict`"
        ) from None
    notes = []
    if any(part.training for part in module.modules()):
        notes.append(f"{called} was in training mode; a copy of it in evaluation mode is read")
    if without and version is None:
        notes.append(
            f"the source of {', '.join(without)} is not found, so that a change of it is not"
            " noticed; give version= and change it with the code"
        )
    made = _transform(transform, first)
    return Backbone(
        name=called,
        model=model,
        weights_id=weights_id if version is None else f"version:{utf8(str(version))}:{weights_id}",
        transform=made,
        head=(),
        network=_network(model),
        notes=tuple(notes),
    )


def checked(backbone: Backbone, reader: Taps) -> Backbone:
    """Return the backbone, with a note where two passes of the first row differ."""
    batch = backbone.transform.batch(backbone.transform.blank)
    weight = next(backbone.model.parameters(), None)
    batch = batch if weight is None else batch.to(weight.device)
    with torch.inference_mode():
        once, again = reader.read(batch), reader.read(batch)
    random = [name for name in once if not _same(once[name], again[name])]
    if not random:
        return backbone
    note = (
        f"{backbone.name} gives other features at {', '.join(random)} in a second pass of the same"
        " row: it is random, and blocks cannot be computed again with the same bits"
    )
    return replace(backbone, notes=(*backbone.notes, note))


def _network(model: torch.nn.Module) -> Network:
    own = () if OUTPUT in dict(model.named_modules()) else (OUTPUT,)
    tokens = tokens_of(model)

    def run(inputs: torch.Tensor, paths: Collection[str]) -> dict[str, Activation]:
        output = model(inputs)
        if not own or OUTPUT not in paths:
            return {}
        found = of_output(output, inputs, tokens, "as it is")
        return {} if found is None else {OUTPUT: found}

    return Network(
        model=model,
        run=run,
        own=own,
        stages=stages(model),
        pooling="none",
        tokens=tokens,
        layout="as it is",
        listing="named_modules()",
    )


def _identity(module: torch.nn.Module) -> tuple[str, list[str]]:
    """Return what tells a network from others, and the classes whose source is not found."""
    state = module.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    beside = {name: value for name, value in module.named_buffers() if name not in state}
    extra = {name: repr(value) for name, value in state.items() if name not in tensors}
    kinds = {type(part) for part in module.modules()}
    ours = [kind for kind in kinds if kind.__module__.split(".")[0] not in _KNOWN]
    sources, without = [], []
    for kind in sorted(ours, key=lambda kind: (kind.__module__, kind.__qualname__)):
        try:
            sources.append(inspect.getsource(kind))
        except (OSError, TypeError):
            without.append(kind.__name__)
    digest = hashlib.sha256()
    for text in (_ADDRESS.sub("", repr(module)), repr(sorted(extra.items())), *sources):
        digest.update(f"{len(text)}|{text}".encode("utf-8", "backslashreplace"))
    digest.update(weights.identity(beside).encode())
    return f"code:{digest.hexdigest()[:16]}:{weights.identity(tensors)}", without


def _transform(call: Callable[..., object] | None, first: object) -> TensorTransform:
    if call is not None and not callable(call):
        raise UsageError(
            f"transform is of type {type(call).__name__}; for a network of your own give a"
            " callable, from an image or tensor to a tensor"
        )
    try:
        one, again = _tensor(first, call), _tensor(first, call)
        same = _same(one, again)
        text = "none" if call is None else f"{utf8(_described(call))} first:{_digest(one)[:16]}"
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"transform cannot take the first row ({_line(error)}); give another transform"
        ) from None
    if not same:
        raise UsageError(
            "transform gives two different tensors for the first row; give one without augmentation"
        )
    return TensorTransform(call, text, (first, first), tuple(one.shape), one.dtype)


def _tensor(item: object, call: Callable[..., object] | None) -> torch.Tensor:
    made = item if call is None else call(item)
    of = "the data set" if call is None else "transform"
    if isinstance(made, np.ndarray | torch.Tensor):
        try:
            return tensor_of(made).detach().cpu()
        except ValueError as error:
            raise UsageError(f"{of} gives {error}") from None
    if call is None and isinstance(made, Image.Image):
        raise UsageError(
            "the data set gives images, and a network of your own takes tensors; give"
            " transform=, a callable that makes one of an image"
        )
    raise UsageError(f"{of} gives a {type(made).__name__} in place of a tensor; give another")


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors are one, a NaN as another NaN."""
    alike = (one.shape, one.dtype) == (other.shape, other.dtype)
    return alike and bool(((one == other) | ((one != one) & (other != other))).all())


def _described(call: Callable[..., object]) -> str:
    """Return the text of a transform: its settings where it shows them, and the source's hash."""
    kind = call if inspect.isroutine(call) else type(call)
    name = f"{kind.__module__}.{kind.__qualname__}"
    shown = "" if inspect.isroutine(call) else " ".join(_ADDRESS.sub("", repr(call)).split())
    if kind.__module__.split(".")[0] in _KNOWN:
        return shown or name
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return f"{name} {shown}".strip()
    return f"{name} {shown} source:{hashlib.sha256(source.encode()).hexdigest()[:16]}"


def _digest(tensor: torch.Tensor) -> str:
    return weights.identity({"": tensor}).partition(":")[2]


def _shown(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

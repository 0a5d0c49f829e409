"""Networks given as objects: a copy in evaluation mode, its identity, and what it takes."""

import copy
import hashlib
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from featstore.data.own import tensor_of
from featstore.data.rows import utf8
from featstore.errors import BackboneError, UsageError
from featstore.models import weights
from featstore.models.network import (
    Activation,
    Backbone,
    Inputs,
    Network,
    of_output,
    stages,
    tokens_of,
)
from featstore.models.taps import Taps

# The tap that is what the network returns.
OUTPUT = "output"
# Libraries whose classes are known by their names and settings.
_KNOWN = ("torch", "torchvision", "timm", "transformers")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class TensorTransform:
    """From a row, an image, tensor or text, to what a network takes of it: tensors.

    `call` makes them, or the row is that tensor where `call` is None: one tensor, or several by
    name, with which the network is called by keyword. `blank` is a row, twice, from which shapes
    are found. Every row gives tensors of the shapes and dtypes of those of the `first`. With
    `channels_last` batches of maps lie so in memory, which convolutions on a CPU take in half the
    time.
    """

    call: Callable[..., object] | None
    text: str
    blank: Sequence[object]
    first: Inputs = field(repr=False, compare=False)
    channels_last: bool = False
    modality: ClassVar[str] = "tensor"

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of a row that is one tensor (C, H, W); None of any other."""
        shape = () if isinstance(self.first, dict) else tuple(self.first.shape)
        return (shape[1], shape[2]) if len(shape) == 3 else None

    def room(self, n_rows: int, pinned: bool = False) -> Inputs:
        """Return memory for the tensors of a batch, (b, ...) each, laid out as they are passed."""

        def like(one: torch.Tensor) -> torch.Tensor:
            maps = self.channels_last and one.ndim == 3
            return torch.empty(
                (n_rows, *one.shape),
                dtype=one.dtype,
                pin_memory=pinned,
                memory_format=torch.channels_last if maps else torch.contiguous_format,
            )

        # another thread may fill it, which is in no mode
        with torch.inference_mode(False):
            if isinstance(self.first, dict):
                return {name: like(one) for name, one in self.first.items()}
            return like(self.first)

    def put(self, item: object, room: Inputs, place: int) -> None:
        """Copy the tensors of a row to its place in a batch; `ValueError` where they do not fit."""
        made = _tensor(item, self.call)
        if not _alike(made, self.first):
            raise ValueError(f"it gives {_shown(made)}, and the first row {_shown(self.first)}")
        if isinstance(made, dict):
            for name, one in made.items():
                room[name][place].copy_(one)
        else:
            room[place].copy_(made)

    def batch(self, items: Sequence[object]) -> Inputs:
        """Return the tensors of rows, (b, ...) each."""
        room = self.room(len(items))
        for place, item in enumerate(items):
            self.put(item, room, place)
        return room

    def normalized(self, batch: Inputs) -> Inputs:
        """Return the batch as it is."""
        return batch


class _Called(torch.nn.Module):
    """A function as a network, whose one tap is what it returns."""

    def __init__(self, function: Callable[..., object]):
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> object:
        """Return what the function does, arrays as tensors."""
        made = self.function(*inputs, **named)
        return torch.from_numpy(made) if isinstance(made, np.ndarray) else made


def backbone(
    module: torch.nn.Module | Callable[..., object],
    first: object,
    *,
    transform: Callable[..., object] | tuple[Callable, Callable] | None = None,
    name: str | None = None,
    version: str | None = None,
) -> Backbone:
    """Return a module as a backbone: a copy of it in evaluation mode, whose taps are its modules.

    The module itself keeps its mode, its device and its hooks. Its identity is, behind "code:", the
    hash of its structure, of its classes' source where there is one and of its buffers that are not
    in the state dict, and behind "sha256:" that of its state dict. Another callable is told by its
    source alone, and its one tap is "output".

    Arguments:
        module: the network; `module(batch)` is called with a tensor (b, ...), or by keyword with
            tensors by name. A method of a module, as `net.encode`, is called in its place.
        first: the first row, an image, tensor or text, from which shapes are found.
        transform: makes a row what the network takes; None where it is a tensor already. A pair is
            that and what calls the network: a method of the module, or `forward(module, batch)`.
        name: what the network is called, by default as its class.
        version: what else tells it from others; part of the identity.

    Raises `UsageError` for what cannot be called, and for a transform that gives no tensor or two
    different ones for one row; `BackboneError` for a module that cannot be copied.
    """
    forward = None
    if isinstance(transform, tuple | list):
        if len(transform) != 2 or not callable(transform[1]):
            raise UsageError(
                "transform is a tuple and no pair (preprocessor, forward) of callables; give one"
            )
        transform, forward = transform
    owner = getattr(module, "__self__", None)
    if isinstance(owner, torch.nn.Module):
        module, forward = owner, module
    if not callable(module) or isinstance(module, str):
        raise UsageError(
            f"model is of type {type(module).__name__}; give a torch.nn.Module, another callable,"
            " or a name as text"
        )
    title = getattr(module, "__name__", type(module).__name__).replace("<lambda>", "lambda")
    called = utf8(name or title)
    notes = []
    if not isinstance(module, torch.nn.Module):
        if version is None:
            notes.append(
                f"{called} is told by its source alone: what it reads from elsewhere, such as"
                " weights, is not noticed; give version= and change it with them"
            )
        module = _Called(module).eval()
    try:
        model = copy.deepcopy(module).eval()
    except Exception as error:
        raise BackboneError(
            f"{called} cannot be copied ({_line(error)}), and a copy is what is read; take out"
            " what it holds beside its weights, such as tensors of an earlier pass"
        ) from None
    try:
        weights_id, without = _identity(module, forward)
    except Exception as error:
        raise BackboneError(
            f"{called} does not say what it is ({_line(error)}); mend its `repr` and `state_dict`"
        ) from None
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
        network=_network(model, _calling(model, module, forward)),
        notes=tuple(notes),
    )


def _calling(
    model: torch.nn.Module, given: torch.nn.Module, forward: Callable[..., object] | None
) -> Callable[..., object]:
    """Return what passes a batch through the copy `model` of the network that was `given`."""
    if forward is None:
        return model
    owner = getattr(forward, "__self__", None)
    if owner is given:
        return getattr(model, forward.__name__)
    if isinstance(owner, torch.nn.Module):
        raise UsageError(
            f"forward is a method of another {type(owner).__name__} than the network; give one of"
            " the network itself, or a function forward(network, batch)"
        )
    return lambda *inputs, **named: forward(model, *inputs, **named)


def checked(backbone: Backbone, reader: Taps) -> Backbone:
    """Return the backbone, with a note where two passes of the first row differ."""
    batch = backbone.transform.batch(backbone.transform.blank[:1])
    weight = next(backbone.model.parameters(), None)
    if weight is not None:
        batch = _moved(batch, weight.device)
    with torch.inference_mode():
        # a network may write into what it is given
        once, again = reader.read(copied(batch)), reader.read(copied(batch))
    random = differing(once, again)
    if not random:
        return _laid_out(backbone, reader, batch, once)
    return replace(backbone, notes=(*backbone.notes, random_note(backbone.name, random)))


def copied(batch: Inputs) -> Inputs:
    """Return the tensors of a batch in memory of their own, laid out as they are."""
    if isinstance(batch, torch.Tensor):
        return batch.clone()
    return {name: tensor.clone() for name, tensor in batch.items()}


def head_of(batch: Inputs, n_rows: int) -> Inputs:
    """Return the first rows of a batch."""
    if isinstance(batch, torch.Tensor):
        return batch[:n_rows]
    return {name: tensor[:n_rows] for name, tensor in batch.items()}


def random_note(name: str, taps: Sequence[str]) -> str:
    """Return what to say of a network that differs at some taps in a second pass."""
    return (
        f"{name} gives other features at {', '.join(taps)} in a second pass of the same"
        " rows: it is random, and blocks cannot be computed again with the same bits"
    )


def differing(
    once: Mapping[str, torch.Tensor], again: Mapping[str, torch.Tensor]
) -> tuple[str, ...]:
    """Return the taps at which two passes differ in a bit."""
    return tuple(name for name in once if not _same(once[name], again[name]))


def _laid_out(
    backbone: Backbone, reader: Taps, batch: Inputs, seen: Mapping[str, torch.Tensor]
) -> Backbone:
    """Return the backbone with channels last in memory, if its convolutions take batches so.

    Code that looks at memory, as `x.view(len(x), -1)` does, fails so, and then has it as it was.
    """
    maps = isinstance(batch, torch.Tensor) and batch.ndim == 4 and batch.is_floating_point()
    if not maps or not any(isinstance(one, torch.nn.Conv2d) for one in backbone.model.modules()):
        return backbone
    try:
        with torch.inference_mode():
            found = reader.read(batch.clone(memory_format=torch.channels_last))
    except Exception:  # whatever a network of the user's raises
        return backbone
    same = [torch.allclose(found[tap], seen[tap], rtol=1e-3, atol=1e-5) for tap in seen]
    if not all(same):
        return backbone
    return replace(backbone, transform=replace(backbone.transform, channels_last=True))


def state(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Return what changes with each tensor of a state dict: which it is, and its version."""
    kept = model.state_dict(keep_vars=True).items()
    return {
        name: (id(one), 0 if one.is_inference() else one._version)
        for name, one in kept
        if isinstance(one, torch.Tensor)
    }


def _network(model: torch.nn.Module, call: Callable[..., object]) -> Network:
    own = () if OUTPUT in dict(model.named_modules()) else (OUTPUT,)
    tokens = tokens_of(model)

    def run(inputs: Inputs, paths: Collection[str]) -> dict[str, Activation]:
        output = call(**inputs) if isinstance(inputs, dict) else call(inputs)
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


def _identity(
    module: torch.nn.Module, forward: Callable[..., object] | None
) -> tuple[str, list[str]]:
    """Return what tells a network from others, and the classes whose source is not found."""
    state = module.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    beside = {name: value for name, value in module.named_buffers() if name not in state}
    extra = {name: repr(value) for name, value in state.items() if name not in tensors}
    kinds = {type(part) for part in module.modules()}
    ours = [kind for kind in kinds if kind.__module__.split(".")[0] not in (*_KNOWN, "featstore")]
    functions = [module.function] if isinstance(module, _Called) else []
    functions += [] if forward is None else [forward]
    sources, without = [], []
    for kind in sorted(ours, key=lambda kind: (kind.__module__, kind.__qualname__)):
        try:
            sources.append(inspect.getsource(kind))
        except (OSError, TypeError):
            without.append(kind.__name__)
    for one in functions:
        sources.append(_described(one))
        known = _title(one).split(".")[0] in _KNOWN
        without += [] if known or " source:" in sources[-1] else [_title(one)]
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
    return TensorTransform(call, text, (first, first), one)


def _tensor(item: object, call: Callable[..., object] | None) -> Inputs:
    made = item if call is None else call(item)
    if isinstance(made, Mapping) and made:
        return {str(name): _tensor(one, None) for name, one in made.items()}
    of = "the data set" if call is None else "transform"
    if isinstance(made, np.ndarray | torch.Tensor):
        try:
            return tensor_of(made).detach().cpu()
        except ValueError as error:
            raise UsageError(f"{of} gives {error}") from None
    if call is None and isinstance(made, Image.Image | str):
        kind = "a text" if isinstance(made, str) else "an image"
        raise UsageError(
            f"the data set gives {kind[2:].strip()}s, and a network of your own takes tensors;"
            f" give transform=, a callable that makes one of {kind}"
        )
    raise UsageError(f"{of} gives a {type(made).__name__} in place of a tensor; give another")


def _same(one: Inputs, other: Inputs) -> bool:
    """Return whether two tensors, or those of two rows, are one, a NaN as another NaN."""
    if not _alike(one, other):
        return False
    if isinstance(one, dict):
        return all(_same(one[name], other[name]) for name in one)
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _described(call: Callable[..., object]) -> str:
    """Return the text of a transform: its settings where it shows them, and the source's hash."""
    kind = call if inspect.isroutine(call) else type(call)
    name = _title(call)
    shown = "" if inspect.isroutine(call) else " ".join(_ADDRESS.sub("", repr(call)).split())
    if kind.__module__.split(".")[0] in _KNOWN:
        return shown or name
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return f"{name} {shown}".strip()
    return f"{name} {shown} source:{hashlib.sha256(source.encode()).hexdigest()[:16]}"


def _title(call: Callable[..., object]) -> str:
    kind = call if inspect.isroutine(call) else type(call)
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(made: Inputs) -> str:
    return weights.identity(made if isinstance(made, dict) else {"": made}).partition(":")[2]


def _alike(one: Inputs, other: Inputs) -> bool:
    """Return whether the tensors of two rows have the same names, shapes and dtypes."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, dict) or isinstance(other, dict):
        return False
    return (one.shape, one.dtype) == (other.shape, other.dtype)


def _shown(made: Inputs) -> str:
    if isinstance(made, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in sorted(made.items()))
    return f"{tuple(made.shape)} {str(made.dtype).removeprefix('torch.')}"


def _moved(batch: Inputs, device: torch.device) -> Inputs:
    if isinstance(batch, dict):
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return batch.to(device)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

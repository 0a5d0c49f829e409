"""Networks: what goes in, which activations come out, and the hooks that take them."""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from PIL import Image

from featstore.errors import UsageError
from featstore.models.transforms import Transform
from featstore.spec import PENULTIMATE

Inputs = torch.Tensor | dict[str, torch.Tensor]

LAST = "last"
# What a batch of texts holds beside what the model takes.
WORDS = "featstore.words"
# The text of each sequence of a batch, int64 (b,), where long texts are several.
CHUNKS = "featstore.chunks"


@dataclass(frozen=True)
class Tokens:
    """Layout of a row of tokens: `prefix` class and register tokens, then the patches.

    `cls` says that the first token stands for the whole. In text it does by convention, but for a
    decoder, whose first token sees nothing of what follows.
    """

    prefix: int = 0
    cls: bool = False


@dataclass(frozen=True)
class Activation:
    """One layer's output: vector (b, D), map (b, C, H, W) or tokens (b, L, C).

    `mask` (b, L) is 1 on tokens that are no padding; None where there is no padding. `words`
    (b, L) says which word of its text each token is of, -1 for none, where that is asked.
    """

    values: torch.Tensor
    tokens: Tokens = field(default_factory=Tokens)
    mask: torch.Tensor | None = None
    words: torch.Tensor | None = None

    @property
    def kind(self) -> str:
        """One of "vector", "map", "tokens", or "other" for a shape that is none of them."""
        return {2: "vector", 3: "tokens", 4: "map"}.get(self.values.ndim, "other")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape for one row: (D,), (C, H, W) or (L, C)."""
        return tuple(self.values.shape[1:])


def at_token(values: torch.Tensor, mask: torch.Tensor, position: int = -1) -> torch.Tensor:
    """Return the values (b, C) of tokens (b, L, C) at one position of each row.

    `mask` (b, L) is 1 on tokens that are no padding, which alone are counted: 0 is the first of
    them and -1 the last, whichever side the padding is on. A row must have that many.

    >>> mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    >>> at_token(torch.arange(6.0).reshape(2, 3, 1), mask).flatten()
    tensor([1., 5.])
    >>> at_token(torch.arange(6.0).reshape(2, 3, 1), mask, 0).flatten()
    tensor([0., 4.])
    """
    mask = mask.to(values.device, torch.long)
    counted = mask.cumsum(1)
    wanted = position + 1 if position >= 0 else counted[:, -1:] + position + 1
    place = ((counted == wanted) & (mask == 1)).to(torch.uint8).argmax(1)
    return values[torch.arange(len(values), device=values.device), place]


def of_output(output: object, inputs: Inputs, tokens: Tokens, layout: str) -> Activation | None:
    """Return a module's output as an activation; None if it returned no tensor.

    Of several outputs the first tensor counts. Maps in NHWC are turned to NCHW: they are told by
    their square, and by `layout`, the network's own, where both readings have one. Tokens of a
    text that a layer has in one row, (b * L, C), are (b, L, C) again.
    """
    values = _first_tensor(output)
    if values is None:
        return None
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    if mask is not None:
        mask = mask.to(values.device)
        if values.ndim == 2 and len(values) == mask.numel():
            values = values.reshape(*mask.shape, -1)
    found = Activation(values, tokens)
    if found.kind == "map" and _channels_last(found.shape, layout):
        return replace(found, values=values.permute(0, 3, 1, 2))
    if found.kind == "tokens" and mask is not None and mask.shape == values.shape[:2]:
        words = inputs.get(WORDS)
        return replace(found, mask=mask, words=None if words is None else words.to(values.device))
    return found


def _first_tensor(output: object) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, dict):
        output = tuple(output.values())
    members = output if isinstance(output, list | tuple) else ()
    found = (_first_tensor(member) for member in members)
    return next((tensor for tensor in found if tensor is not None), None)


def _channels_last(shape: tuple[int, ...], layout: str) -> bool:
    first, second, third = shape
    if layout == "as it is":
        return False
    if (first == second) != (second == third):
        return first == second
    return layout == "NHWC"


Reduce = Callable[[Activation], torch.Tensor]


@dataclass(frozen=True)
class Network:
    """A model and what its library knows of its layers.

    `run(inputs, paths)` makes one forward pass and returns activations of those among `paths` that
    are in `own`; any other path is a module of `model` and is read by a hook. `stages` are the
    paths worth listing. `pooling` is how the model makes its "penultimate" features, `layout` that
    of its maps ("as it is": never turned), `listing` what lists its layers.
    """

    model: torch.nn.Module
    run: Callable[[Inputs, Collection[str]], Mapping[str, Activation]]
    own: tuple[str, ...]
    stages: tuple[str, ...]
    pooling: str
    tokens: Tokens = field(default_factory=Tokens)
    layout: str = "NCHW"
    listing: str = "featstore taps {name}"

    def modules(self) -> tuple[str, ...]:
        """Paths of all modules below the model itself."""
        return tuple(path for path, _ in self.model.named_modules() if path)

    def check(self, name: str, paths: Collection[str]) -> None:
        """Raise `UsageError` for a path that the model called `name` does not have."""
        known = (*self.own, *self.modules())
        for path in paths:
            if path not in known:
                close = difflib.get_close_matches(path, known, n=3) or self.stages[:8]
                raise UsageError(
                    f"{name} has no layer {path!r}; did you mean {', '.join(close)}?"
                    f" ({self.listing.format(name=name)} lists them)"
                )


@contextmanager
def reading(
    network: Network, reductions: Mapping[str, Reduce]
) -> Iterator[Callable[[Inputs], dict[str, torch.Tensor]]]:
    """A `reader` of these paths whose hooks are gone afterwards."""
    read, remove = _hooked(network, reductions)
    try:
        yield read
    finally:
        remove()


def reader(
    network: Network, reductions: Mapping[str, Reduce]
) -> Callable[[Inputs], dict[str, torch.Tensor]]:
    """A function that makes one forward pass: inputs to {path: reductions[path](activation)}.

    A hooked layer is reduced the moment it returns, before the layers after it may overwrite its
    output in place. A module that runs several times in a pass counts with its last output; one
    that does not run is absent.
    """
    return _hooked(network, reductions)[0]


def _hooked(network: Network, reductions: Mapping[str, Reduce]):
    now: dict[str, object] = {}

    def keep(path: str, module: torch.nn.Module, inputs: tuple, output: object) -> None:
        if "seen" not in now:
            return  # a pass of another reader
        found = of_output(output, now["inputs"], network.tokens, network.layout)
        if found is not None:
            now["seen"][path] = reductions[path](found)

    def read(inputs: Inputs) -> dict[str, torch.Tensor]:
        now.update(inputs=inputs, seen={})
        try:
            own = network.run(inputs, reductions)
            seen = now["seen"] | {
                path: reductions[path](own[path]) for path in reductions if path in own
            }
        finally:
            now.clear()
        return {path: seen[path] for path in reductions if path in seen}

    handles = [
        network.model.get_submodule(path).register_forward_hook(partial(keep, path))
        for path in reductions
        if path not in network.own
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return read, remove


# A module that holds more of a network's layers than this is the network, not one stage of it: the
# third stage of a ResNet-152 holds 0.70, the convolutions of a VGG-11 0.80.
_WHOLE = 0.75


def seen_by_head(
    model: torch.nn.Module, layer: str, **options: bool
) -> Callable[[Inputs, Collection[str]], dict[str, Activation]]:
    """A `Network.run` whose penultimate features are what reaches one layer of a classifier.

    Maps (b, C, H, W) are averaged over H and W. `options` go to the model's forward pass.
    """
    seen: list[torch.Tensor] = []
    model.get_submodule(layer).register_forward_pre_hook(
        lambda layer, inputs: seen.append(inputs[0])
    )

    def run(inputs: Inputs, paths: Collection[str]) -> dict[str, Activation]:
        seen.clear()
        model(inputs, **options)
        reached = seen.pop()
        seen.clear()
        return {PENULTIMATE: Activation(reached.mean((2, 3)) if reached.ndim == 4 else reached)}

    return run


def stages(model: torch.nn.Module, head: Collection[str] = ()) -> tuple[str, ...]:
    """Paths of the layers that follow one another in a network, without its classifier `head`.

    They are the children with weights; a child that holds most of the layers, or that is a list and
    hence never called, is replaced by its own children, as long as there is one.
    """
    whole = sum(_size(model, path, head) for path, _ in model.named_children())
    paths = [path for path, _ in model.named_children()]
    while True:
        paths = [path for path in paths if _size(model, path, head)]
        large = [
            path
            for path in paths
            if isinstance(model.get_submodule(path), torch.nn.ModuleList)
            or _size(model, path, head) > _WHOLE * whole
        ]
        large = [path for path in large if any(True for _ in model.get_submodule(path).children())]
        if not large:
            return tuple(paths)
        place = paths.index(large[0])
        below = [f"{large[0]}.{name}" for name, _ in model.get_submodule(large[0]).named_children()]
        paths[place : place + 1] = below


def blocks(model: torch.nn.Module) -> tuple[str, ...]:
    """Paths of the layers in the outermost list of a transformer, or of any network built so."""
    lists = [
        (path.count("."), path, layer)
        for path, layer in model.named_modules()
        if isinstance(layer, torch.nn.ModuleList) and len(layer)
    ]
    if not lists:
        return stages(model)
    _, path, layer = min(lists, key=lambda found: (len(found[2]) < 2, found[0]))
    return tuple(f"{path}.{name}" for name, _ in layer.named_children())


def tokens_of(model: torch.nn.Module) -> Tokens:
    """Return the tokens before the patches, told by the parameters that they start from."""
    ends = {path.rpartition(".")[2]: weight for path, weight in model.named_parameters()}
    classes = [end for end in ends if end in _CLASS_TOKENS]
    distilled = [end for end in ends if end in _DISTILLATION_TOKENS]
    registers = ends["register_tokens"].shape[-2] if "register_tokens" in ends else 0
    return Tokens(len(classes) + len(distilled) + registers, cls=bool(classes))


_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_DISTILLATION_TOKENS = ("dist_token", "distillation_token")


def _size(model: torch.nn.Module, path: str, head: Collection[str]) -> int:
    """Return the number of layers with weights at a path and below, without the head's."""
    return sum(
        any(True for _ in layer.parameters(recurse=False))
        for name, layer in model.get_submodule(path).named_modules(prefix=path)
        if not f"{name}.".startswith(tuple(f"{module}." for module in head))
    )


@dataclass(frozen=True)
class Backbone:
    """A network in evaluation mode on the CPU, and what its weights were trained to see.

    `weights_id` is "sha256:<hex>" of the tensors as loaded, with "random:<seed>:" before it for an
    untrained network. `head` names the classifier's modules; `notes` says what was left out.
    `engine` is what computes: "torch", or "onnxruntime", where `model` has no torch layers.
    `libraries` names the packages beside torch and timm whose version may matter. `dtype` is that
    of the weights, in which the network then computes by itself; `placed` says that its layers lie
    on devices of their own already.
    """

    name: str
    model: torch.nn.Module
    weights_id: str
    transform: Transform
    head: tuple[str, ...]
    network: Network
    notes: tuple[str, ...] = ()
    engine: str = "torch"
    libraries: tuple[str, ...] = ()
    dtype: str = "float32"
    placed: bool = False

    @property
    def modality(self) -> str:
        """Return the kind of input: "image", "text" or "tensor"."""
        return self.transform.modality

    @property
    def transform_text(self) -> str:
        """Canonical text of the transform."""
        return self.transform.text

    def encode_batch(self, items: Sequence[Image.Image] | Sequence[str]) -> Inputs:
        """RGB images as pixels uint8 (b, H, W, 3), or texts as {name: int64 (b, L)}, on the CPU.

        Texts are padded to the longest of the batch. Any thread may call this.
        """
        return self.transform.batch(items)

    def prepare(self, batch: Inputs) -> Inputs:
        """Return the network's input from what `encode_batch` gave, on that one's device."""
        inputs = self.transform.normalized(batch)
        if self.dtype != "float32" and isinstance(inputs, torch.Tensor):
            return inputs.to(getattr(torch, self.dtype))
        return inputs

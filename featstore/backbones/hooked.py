"""Models that show only their modules: the classifier's input, and the layers worth listing."""

from collections.abc import Callable, Collection

import torch

from featstore.backbones.activations import PENULTIMATE, Activation, Inputs, Tokens

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
    """Which tokens come before the patches, told by the parameters that they start from."""
    ends = {path.rpartition(".")[2]: weight for path, weight in model.named_parameters()}
    classes = [end for end in ends if end in _CLASS_TOKENS]
    distilled = [end for end in ends if end in _DISTILLATION_TOKENS]
    registers = ends["register_tokens"].shape[-2] if "register_tokens" in ends else 0
    return Tokens(len(classes) + len(distilled) + registers, cls=bool(classes))


_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_DISTILLATION_TOKENS = ("dist_token", "distillation_token")


def _size(model: torch.nn.Module, path: str, head: Collection[str]) -> int:
    """How many layers with weights of their own lie at a path and below, the head's left out."""
    return sum(
        any(True for _ in layer.parameters(recurse=False))
        for name, layer in model.get_submodule(path).named_modules(prefix=path)
        if not f"{name}.".startswith(tuple(f"{module}." for module in head))
    )

"""What a layer gives for a batch: a vector, a map or tokens, one row for each image or text."""

from dataclasses import dataclass, field, replace

import torch

from featstore.spec import PENULTIMATE

__all__ = ["LAST", "PENULTIMATE", "Activation", "Inputs", "Tokens"]

Inputs = torch.Tensor | dict[str, torch.Tensor]

LAST = "last"


@dataclass(frozen=True)
class Tokens:
    """What stands in a row of tokens: `prefix` class and register tokens come before the patches.

    `cls` says that the first token stands for the whole. In text it does by convention, but for a
    decoder, whose first token sees nothing of what follows.
    """

    prefix: int = 0
    cls: bool = False


@dataclass(frozen=True)
class Activation:
    """One layer's output: vector (b, D), map (b, C, H, W) or tokens (b, L, C).

    `mask` (b, L) is 1 on tokens that are no padding; None where there is no padding.
    """

    values: torch.Tensor
    tokens: Tokens = field(default_factory=Tokens)
    mask: torch.Tensor | None = None

    @property
    def kind(self) -> str:
        """One of "vector", "map", "tokens", or "other" for a shape that is none of them."""
        return {2: "vector", 3: "tokens", 4: "map"}.get(self.values.ndim, "other")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape for one row: (D,), (C, H, W) or (L, C)."""
        return tuple(self.values.shape[1:])


def at_last_token(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The values (b, C) of tokens (b, L, C) at the last one that is no padding, on either side.

    >>> at_last_token(torch.arange(6.0).reshape(2, 3, 1), torch.tensor([[1, 1, 0], [0, 1, 1]]))
    tensor([[1.],
            [5.]])
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (mask.to(places.dtype) * places).argmax(1)
    return values[torch.arange(len(values), device=values.device), last.to(values.device)]


def of_output(output: object, inputs: Inputs, tokens: Tokens, layout: str) -> Activation | None:
    """What a module returned, as an activation; None where it returned no tensor.

    Of several outputs the first tensor counts. Maps in NHWC are turned to NCHW: they are told by
    their square, and by `layout`, the network's own, where both readings have one.
    """
    values = _first_tensor(output)
    if values is None:
        return None
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    found = Activation(values, tokens)
    if found.kind == "map" and _channels_last(found.shape, layout):
        return replace(found, values=values.permute(0, 3, 1, 2))
    if found.kind == "tokens" and mask is not None and mask.shape == values.shape[:2]:
        return replace(found, mask=mask)
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
    if (first == second) != (second == third):
        return first == second
    return layout == "NHWC"

"""How activations leave a backbone: one forward pass, any layers, each reduced as it appears."""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch

from featstore.backbones.activations import Activation, Inputs, Tokens, of_output
from featstore.errors import UsageError

Reduce = Callable[[Activation], torch.Tensor]


@dataclass(frozen=True)
class Network:
    """A model and what its library knows of its layers.

    `run(inputs, paths)` makes one forward pass and returns activations of those among `paths` that
    are in `own`; any other path is a module of `model` and is read by a hook. `stages` are the
    paths worth listing. `pooling` is how the model makes its "penultimate" features.
    """

    model: torch.nn.Module
    run: Callable[[Inputs, Collection[str]], Mapping[str, Activation]]
    own: tuple[str, ...]
    stages: tuple[str, ...]
    pooling: str
    tokens: Tokens = field(default_factory=Tokens)
    layout: str = "NCHW"

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
                    f" (featstore taps {name} lists them)"
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

"""Convolutions that blur before they stride: FFCV's ResNets, and hence the Matryoshka ones."""

from collections.abc import Iterable

import torch

from featstore.errors import BackboneError


class Blurred(torch.nn.Module):
    """Each channel blurred by a 3 x 3 `blur_filter` (C, 1, 3, 3), then the convolution `conv`.

    Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019.
    """

    def __init__(self, conv: torch.nn.Conv2d):
        super().__init__()
        self.conv = conv
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = torch.outer(row, row) / 16
        self.register_buffer("blur_filter", kernel.repeat(conv.in_channels, 1, 1, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (b, C, H, W) to the convolution's output."""
        smooth = torch.nn.functional.conv2d(
            maps, self.blur_filter, padding=1, groups=self.conv.in_channels
        )
        return self.conv(smooth)


def blur(model: torch.nn.Module, paths: Iterable[str]) -> None:
    """Let the convolutions at `paths` blur first; `BackboneError` where one is no convolution."""
    modules = dict(model.named_modules())
    for path in paths:
        if not isinstance(modules.get(path), torch.nn.Conv2d):
            raise BackboneError(
                f"the weights blur before {path}, which is no convolution of the model;"
                " give the weights of this architecture"
            )
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, Blurred(modules[path]))

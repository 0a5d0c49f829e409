"""From an image to a backbone's input: geometry image by image, normalisation batch by batch.

The library that trained the weights says what is done. Its transform is cut where the image becomes
a tensor: before the cut PIL resizes and crops one image, after it every pixel is scaled by itself.
The second half on a whole batch gives the same bits as on each image, at a tenth of the cost, and a
batch waits and travels as bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image


def in_turn(steps: Sequence[Callable], image: Image.Image) -> Image.Image:
    """The image after each of the steps."""
    for step in steps:
        image = step(image)
    return image


@dataclass(frozen=True)
class Transform:
    """Resize and crop by `geometry`, then (pixels / scale - mean) / std channel by channel.

    `channels` is their order, "RGB" or "BGR", in which `mean` and `std` are given too. `text` is
    the canonical description: two transforms of one text give the same input.
    """

    geometry: Callable[[Image.Image], Image.Image]
    mean: Sequence[float]
    std: Sequence[float]
    text: str
    scale: float = 255.0
    channels: str = "RGB"
    modality: ClassVar[str] = "image"

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The resized and cropped pixels of an RGB image, uint8 (H, W, 3)."""
        return np.asarray(self.geometry(image))

    def batch(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """The pixels of RGB images, uint8 (b, H, W, 3)."""
        return torch.from_numpy(np.stack([self.pixels(image) for image in images]))

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 (b, H, W, 3) as input float32 (b, 3, H, W), channels last in memory."""
        if self.channels == "BGR":
            pixels = pixels.flip(3)
        count, height, width, _ = pixels.shape
        # Rows of whole images: an inner loop over three channels takes five times as long.
        mean, std = (
            torch.tensor(values, device=pixels.device).repeat(width)
            for values in (self.mean, self.std)
        )
        batch = pixels.reshape(count * height, width * 3).to(torch.float32)
        batch = batch.div_(self.scale).sub_(mean).div_(std)
        return batch.view(count, height, width, 3).permute(0, 3, 1, 2)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """One RGB image as input float32 (3, H, W)."""
        return self.normalized(self.batch([image]))[0]

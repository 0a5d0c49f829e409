"""From an image to a backbone's input: geometry image by image, normalisation batch by batch.

The library that trained the weights says what is done. Its transform is cut where the image becomes
a tensor: before the cut PIL resizes and crops one image, after it every pixel is scaled by itself.
The second half on a whole batch gives the same bits as on each image, at a tenth of the cost, and a
batch waits and travels as bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Transform:
    """Resize and crop by `geometry`, then (pixels / 255 - mean) / std, one mean and std a channel.

    `text` is its canonical description: two transforms of one text give the same input.
    """

    geometry: Callable[[Image.Image], Image.Image]
    mean: Sequence[float]
    std: Sequence[float]
    text: str

    def pixels(self, image: Image.Image) -> np.ndarray:
        """The resized and cropped pixels of an RGB image, uint8 (H, W, 3)."""
        return np.asarray(self.geometry(image))

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 (b, H, W, 3) as input float32 (b, 3, H, W), channels last in memory."""
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        batch = pixels.permute(0, 3, 1, 2).to(torch.float32)
        return batch.div_(255).sub_(mean).div_(std)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """One RGB image as input float32 (3, H, W)."""
        return self.normalized(torch.from_numpy(self.pixels(image).copy())[None])[0]

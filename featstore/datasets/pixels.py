"""From an image of any mode to RGB: what grey, palettes, transparency and 16 bits become."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image


def opened(file: Path | BinaryIO) -> Image.Image:
    """The image in a file, decoded to its end; a truncated one raises."""
    with Image.open(file) as image:
        image.load()
        return image


def rgb(image: Image.Image) -> Image.Image:
    """An image as 8-bit RGB, its pixels where they are stored.

    Grey is repeated, CMYK converted, the first frame taken of several. 16-bit grey keeps its high
    byte (Pillow by itself clips it, to white). What is transparent lies on white: the colours below
    transparency were never meant to be seen, and are mostly black. The orientation that a camera
    noted is not applied, as torchvision does not.

    Raises `ValueError` for pixels that have no range: floating point, or integers beyond 16 bits.

    >>> rgb(Image.new("I;16", (1, 1), 0x80FF)).getpixel((0, 0))
    (128, 128, 128)
    >>> rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return Image.fromarray(_high_byte(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a range; save 8-bit ones")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        # As alpha_composite gives it, in half the time and memory.
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _high_byte(grey: np.ndarray) -> np.ndarray:
    # Netpbm's and older Pillow's 16-bit images come as 32-bit ones.
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError(
            f"its pixels go from {grey.min()} to {grey.max()}, which is no 8 or 16-bit range;"
            " save 8-bit ones"
        )
    return (grey >> 8).astype(np.uint8)

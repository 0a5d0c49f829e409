"""From an image of any mode to RGB: what grey, palettes, transparency and 16 bits become."""

import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

# Bits that pixels of 16 may be said to count.
DEPTHS = (8, 10, 12, 14, 16)
# 16-bit pixels that all are below are black, or nearly so, by their high byte.
_BLACK = 1 << 12
_DARK = 1 << 14
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
# How Pillow calls raw pixels of 16 bits a channel; those of five or six bits are ";16" alone.
_DEEP = re.compile(";16[BLN]")
# What `opened` found of the file, under this name in the image's `info`.
_FILE = "featstore"


def opened(file: Path | BinaryIO) -> Image.Image:
    """The image in a file, decoded to its end; a truncated one raises, and what is no file."""
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise OSError(f"{file} is not a regular file")
    with Image.open(file) as image:
        # To be asked before the file is closed, and of some formats before it is decoded.
        deep = any(_DEEP.search(str(tile[-1])) for tile in image.tile[:1])
        frames = image.format != "MPO" and getattr(image, "is_animated", False)
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
        image.load()
        image.info[_FILE] = {"deep": deep, "frames": frames, "bits": bits[0]}
        return image


def rgb(image: Image.Image, depth: int | None = None) -> Image.Image:
    """An image as 8-bit RGB, its pixels where they are stored.

    Grey is repeated, CMYK converted, the first frame taken of several. 16-bit pixels keep their
    high byte (Pillow by itself clips grey ones, to white), or of `depth` bits the highest eight.
    What is transparent lies on white: the colours below transparency were never meant to be seen,
    and are mostly black. The orientation that a camera noted is not applied, as torchvision does
    not.

    Raises `ValueError` for pixels whose range cannot be told: floating point, integers beyond 16
    bits, and without a `depth` 16-bit ones that are all so small that the image would be black.

    >>> rgb(Image.new("I;16", (1, 1), 0x80FF)).getpixel((0, 0))
    (128, 128, 128)
    >>> rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    return remarked(image, depth)[0]


def remarked(image: Image.Image, depth: int | None = None) -> tuple[Image.Image, list[str]]:
    """The image as `rgb` gives it, and which of `notices.REMARKS` are true of it."""
    file = image.info.get(_FILE, {})
    remarks = ["frames"] if file.get("frames") else []
    if "exif" in image.info and _is_turned(image):
        remarks.append("turned")
    if image.mode == "RGB" and "transparency" not in image.info and not file.get("deep"):
        return image, remarks
    if image.mode.startswith("I"):
        grey, remark = _grey(np.asarray(image), depth, file.get("bits", 16))
        return Image.fromarray(grey).convert("RGB"), [*remarks, remark]
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a range; save 8-bit ones")
    if file.get("deep"):
        remarks.append(_deep(image, depth))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] < 255:
            remarks.append("alpha")
        # As alpha_composite gives it, in half the time and memory.
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        return white, remarks
    if image.mode == "CMYK":
        remarks.append("cmyk")
    return image.convert("RGB"), remarks


def _is_turned(image: Image.Image) -> bool:
    # A damaged note beside pixels that are whole says nothing of them.
    with suppress(Exception):
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    return False


def _grey(grey: np.ndarray, depth: int | None, bits: int) -> tuple[np.ndarray, str]:
    """The highest eight bits of grey pixels, of `depth` or of what the file says of 16."""
    # Netpbm's and older Pillow's 16-bit images come as 32-bit ones.
    lowest, highest = int(grey.min()), int(grey.max())
    if lowest < 0 or highest > 0xFFFF:
        raise ValueError(
            f"its pixels go from {lowest} to {highest}, which is no 8 or 16-bit range;"
            " save 8-bit ones"
        )
    counted = depth or (bits if 8 <= bits < 16 else None)
    if counted is None and 0 < highest < _BLACK:
        likely = next(one for one in DEPTHS if highest < 1 << one)
        raise ValueError(
            f"its 16-bit pixels go from {lowest} to {highest}, which is black in a range of 16"
            f" bits: say how many bits count, --bit-depth {likely} or --bit-depth 16, or save 8-bit"
            " ones"
        )
    counted = counted or 16
    if highest >> counted:
        raise ValueError(
            f"its pixels go from {lowest} to {highest}, which is more than {counted} bits hold;"
            " say how many bits count with --bit-depth"
        )
    remark = "scaled" if depth and depth < 16 else "deep" if highest >= _DARK or depth else "dark"
    return (grey >> (counted - 8)).astype(np.uint8), remark


def _deep(image: Image.Image, depth: int | None) -> str:
    """The remark on colours of 16 bits, of which Pillow has kept the high byte."""
    highest = max(high for _, high in _extrema(image))
    if depth == 16 or highest >= _BLACK >> 8:
        return "deep" if highest >= _DARK >> 8 or depth == 16 else "dark"
    raise ValueError(
        "its colours of 16 bits a channel are all black in their range, or nearly so; save 8-bit"
        " ones, or say that 16 bits count: --bit-depth 16"
    )


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """The range of each channel but transparency."""
    bands = [name for name in image.getbands() if name not in ("A", "a")]
    return [image.getchannel(name).getextrema() for name in bands]

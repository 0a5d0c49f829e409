"""Transforms: from pixels to what a network takes, resized and cropped as its authors did."""

import copy
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from featstore.errors import UsageError


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
    blank: ClassVar[Sequence[Image.Image]] = (Image.new("RGB", (64, 64)),) * 2

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of what the network sees, in pixels."""
        height, width, _ = self.pixels(self.blank[0]).shape
        return height, width

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
        mean, std = (
            _by_row(tuple(values), width, pixels.device) for values in (self.mean, self.std)
        )
        batch = pixels.reshape(count * height, width * 3).to(torch.float32)
        batch = batch.div_(self.scale).sub_(mean).div_(std)
        return batch.view(count, height, width, 3).permute(0, 3, 1, 2)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """One RGB image as input float32 (3, H, W)."""
        return self.normalized(self.batch([image]))[0]


@lru_cache(maxsize=64)
def _by_row(values: tuple[float, ...], width: int, device: torch.device) -> torch.Tensor:
    """A number a channel, repeated for a row of pixels, float32 (3 width,).

    Rows of whole images: an inner loop over three channels takes five times as long. They are kept:
    a copy to a CUDA device for each batch would make the host wait for all that is under way there.
    """
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32).repeat(width).to(device)


Geometry = Callable[[Image.Image], Image.Image]

# A broad picture, a narrow one, and one that is enlarged.
_TRIED = ((150, 110), (61, 197), (13, 9))
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ResizeAndCrop:
    """torchvision's `Resize(shorter)` and `CenterCrop(size)` of an RGB image.

    The shorter side becomes `shorter` pixels, the longer one int(shorter * longer / before); then
    the centre of `size`, (height, width), no larger than `shorter`, is cut out.

    >>> ResizeAndCrop(8, Image.Resampling.BICUBIC, (6, 6))(Image.new("RGB", (40, 30))).size
    (6, 6)
    """

    shorter: int
    filter: int
    size: tuple[int, int]

    def __call__(self, image: Image.Image) -> Image.Image:
        """The resized and cropped image."""
        short, long = sorted(image.size)
        longer = int(self.shorter * long / short)
        to = (self.shorter, longer) if image.width <= image.height else (longer, self.shorter)
        if image.size != to:
            image = image.resize(to, self.filter)
        left, top, right, bottom = self._cut(image.width, image.height)
        return image.crop((left, top, right, bottom))

    def of_tensor(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize and crop pixels (3, H, W) uint8 where they lie, by torchvision, to (3, h, w).

        Pillow rounds otherwise: here and there a pixel differs by one.
        """
        from torchvision.transforms.v2 import InterpolationMode, functional

        mode = next(name for name, filter_ in _FILTERS.items() if filter_ == self.filter)
        resized = functional.resize(pixels, [self.shorter], InterpolationMode(mode), antialias=True)
        left, top, right, bottom = self._cut(resized.shape[2], resized.shape[1])
        return resized[:, top:bottom, left:right]

    def _cut(self, across: int, down: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the centre of an image."""
        height, width = self.size
        left, top = round((across - width) / 2), round((down - height) / 2)
        return left, top, left + width, top + height


def light(geometry: Geometry) -> Geometry:
    """A geometry of the same pixels that does without torch, where one is known; else `geometry`.

    Known are torchvision's `Resize` of the shorter side and `CenterCrop` after it. It is held
    against `geometry` on noise, bit by bit, before it is taken.
    """
    known = _known(geometry)
    return known if known is not None and _agree(known, geometry) else geometry


def _known(geometry: Geometry) -> ResizeAndCrop | None:
    """Return the kind of a geometry: the steps of a timm transform, or torchvision's preset."""
    given = geometry.args if isinstance(geometry, partial) else ()
    if len(given) == 1 and isinstance(given[0], list) and len(given[0]) == 2:
        resize, crop = given[0]
        shorter, mode = getattr(resize, "size", None), getattr(resize, "interpolation", None)
        size = getattr(crop, "size", None)
    elif len(given) == 3:
        preset, shorter, size = given
        mode, size = getattr(preset, "interpolation", None), (size, size)
    else:
        return None
    how = _FILTERS.get(getattr(mode, "value", None))
    if how is None or not isinstance(shorter, int) or not isinstance(size, tuple):
        return None
    return ResizeAndCrop(shorter, how, size) if max(size) <= shorter else None


def _agree(ours: Geometry, theirs: Geometry) -> bool:
    random = np.random.default_rng(0)
    shapes = [(height, width, 3) for width, height in _TRIED]
    tried = [Image.fromarray(random.integers(0, 256, shape, np.uint8)) for shape in shapes]
    return all(np.array_equal(np.asarray(ours(one)), np.asarray(theirs(one))) for one in tried)


ON_DEVICE = "; JPEGs decoded by nvJPEG, all resized by torchvision"
"""What the text of a transform says where a device decodes images."""


def on_device(transform: Transform) -> Transform:
    """Return a transform whose images are decoded and resized on a CUDA device.

    Its text is another, since its pixels are. Raises `UsageError` where it has other steps than a
    bilinear or bicubic `Resize` of the shorter side and a `CenterCrop`.
    """
    geometry = light(transform.geometry) if transform.modality == "image" else None
    smooth = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
    if not isinstance(geometry, ResizeAndCrop) or geometry.filter not in smooth:
        raise UsageError(
            "a device decodes images whose shorter side is resized, bilinear or bicubic, and whose"
            " centre is cut out, and this transform has other steps; leave --decode out"
        )
    return replace(transform, geometry=geometry, text=f"{transform.text}{ON_DEVICE}")


def nearest(geometry: Geometry) -> Geometry:
    """Return the geometry that takes each pixel from the nearest one and moves none otherwise.

    Raises `UsageError` where it is not known how a geometry resizes; that it is the same one is
    seen on an image whose colours say where they lie.
    """
    made = geometry
    if isinstance(geometry, ResizeAndCrop):
        made = replace(geometry, filter=Image.Resampling.NEAREST)
    elif isinstance(geometry, partial):
        made = partial(geometry.func, *map(_without_filter, geometry.args))
    across, down = np.meshgrid(np.linspace(0, 255, 200), np.linspace(0, 255, 140))
    ramps = Image.fromarray(np.stack([across, down, down], 2).astype(np.uint8))
    want, got = (np.asarray(one(ramps)).astype(np.float64) for one in (geometry, made))
    noise = 255 * np.random.default_rng(0).integers(0, 2, (140, 200, 3), np.uint8)
    mixed = not np.isin(np.asarray(made(Image.fromarray(noise))), (0, 255)).all()
    # a filter blurs what lies at the border, and a nearest pixel is half a pixel away
    if mixed or want.shape != got.shape or np.median(np.abs(want - got)) > _APART:
        raise UsageError(
            "this model's transform resizes images in a way that maps cannot follow; give the"
            " network and pairs of tensors and maps as objects"
        )
    return made


# Levels of 256 that a pixel of `nearest` may be apart, of ramps over 200 and 140 pixels.
_APART = 8.0


def _without_filter(part: Any) -> Any:
    """Return a step, or steps, of a geometry that takes nearest pixels in place of a filter."""
    if isinstance(part, list | tuple):
        return [_without_filter(one) for one in part]
    if isinstance(part, ImageRecipe):
        return part.model_copy(update={"interpolation": "nearest"})
    from torchvision.transforms import InterpolationMode

    filters = {"interpolation": InterpolationMode.NEAREST, "resample": Image.Resampling.NEAREST}
    for name, value in filters.items():
        if hasattr(part, name):
            part = copy.deepcopy(part)
            setattr(part, name, value)
    return part


def sources(geometry: Geometry) -> Callable[[tuple[int, int]], tuple[np.ndarray, np.ndarray]]:
    """Return a function from an image's size (width, height) to where pixels come from.

    It gives the row and the column of the image from which each pixel of a `nearest` geometry
    comes, int32 (H, W) each, and -1 for pixels from outside of it.

    >>> from_where = sources(ResizeAndCrop(4, Image.Resampling.NEAREST, (2, 4)))
    >>> from_where((8, 8))[0].tolist()
    [[3, 3, 3, 3], [5, 5, 5, 5]]
    """

    @lru_cache(maxsize=16)
    def from_where(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for places in np.mgrid[: size[1], : size[0]]:
            # 16 bits of a place in two channels, and a third for what is inside
            inside = np.full(places.shape, 255)
            channels = np.stack([places >> 8, places & 255, inside], 2).astype(np.uint8)
            high, low, there = np.moveaxis(
                np.asarray(geometry(Image.fromarray(channels))).astype(np.int32), 2, 0
            )
            found.append(np.where(there == 255, 256 * high + low, -1))
        return found[0], found[1]

    return from_where


Size = Annotated[int, Field(ge=1)]
Three = tuple[float, float, float]

EXAMPLE = 'size = 224, resize = 256, channels = "RGB", scale = 255, mean = [...], std = [...]'


class ImageRecipe(BaseModel):
    """Steps from an RGB image to a network's input.

    Its shorter side is resized to `resize` pixels, or the whole of it to [height, width]; then the
    centre of `size` x `size`, or [height, width], is cut out; then (pixels / scale - mean) / std,
    with `mean` and `std` in the order of `channels`. Without `resize` the image is squashed into
    `size`. `layout` is the order of the network's axes: "NHWC" or "NCHW".

    >>> recipe = ImageRecipe(size=224, channels="BGR", scale=1, mean=(104, 117, 123))
    >>> recipe.transform().mean, recipe.layout
    ((104.0, 117.0, 123.0), 'NCHW')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Size | tuple[Size, Size]
    resize: Size | tuple[Size, Size] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: Annotated[float, Field(gt=0)] = 255.0
    mean: Three = (0.0, 0.0, 0.0)
    std: Annotated[Three, Field()] = (1.0, 1.0, 1.0)
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @model_validator(mode="before")
    @classmethod
    def _is_of_colours(cls, fields: Any) -> Any:
        for name in ("mean", "std"):
            values = fields.get(name) if isinstance(fields, dict) else None
            if isinstance(values, int | float):
                values = [values]
            if isinstance(values, list | tuple) and len(values) != 3:
                raise ValueError(
                    f"{name} has {len(values)} value{'s' * (len(values) != 1)}, and images are read"
                    " as RGB: give three; images that are grey or of many channels are data of your"
                    " own, given as objects with a callable transform"
                )
        return fields

    @model_validator(mode="after")
    def _can_be(self):
        if min(self.std) <= 0:
            raise ValueError("std has to be positive")
        if self.resize is not None:
            resized, wanted = _pair(self.resize), _pair(self.size)
            if resized[0] < wanted[0] or resized[1] < wanted[1]:
                raise ValueError(f"resize {self.resize} is smaller than size {self.size}")
        return self

    def transform(self) -> "Transform":
        """The transform, described by every field."""
        # It brings in torch, which a process that decodes does without.

        facts = self.model_dump(mode="json")
        return Transform(
            geometry=partial(_geometry, self),
            mean=self.mean,
            std=self.std,
            scale=self.scale,
            channels=self.channels,
            text=f"stated {json.dumps(facts, sort_keys=True)}",
        )


LONG_TEXTS = ("truncate", "chunk", "error")


class TextRecipe(BaseModel):
    """Steps from a text to tokens: `prompt` is put before it, `max_length` tokens are kept.

    `long_texts` says what becomes of a text that has more: its end is cut off ("truncate"), it is
    read in parts of that length whose features are averaged ("chunk"), or it is an error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: Size | None = None
    prompt: str | None = None
    long_texts: Literal["truncate", "chunk", "error"] = "truncate"


def stated(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The fields in a TOML or JSON file, or in a mapping as they are.

    Raises `UsageError` for a file that is not there or cannot be read so.
    """
    if isinstance(given, Mapping):
        return dict(given)
    path = Path(given).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the transform {path} cannot be read: {error}; give a TOML file with lines such as"
            f" {EXAMPLE}"
        ) from None
    if not isinstance(fields, dict):
        raise UsageError(f"the transform {path} holds no fields; give lines such as {EXAMPLE}")
    return fields


def checked(recipe: type[BaseModel], fields: Mapping[str, Any], source: object) -> BaseModel:
    """A recipe of these fields; `UsageError` names the first that cannot be and those there are."""
    try:
        return recipe.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its fields"
        raise UsageError(
            f"the transform of {source} cannot be used: {where}: {first['msg']};"
            f" its fields are {', '.join(recipe.model_fields)}"
        ) from None


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _geometry(recipe: ImageRecipe, image: Image.Image) -> Image.Image:
    """Resize and cut out the centre; sizes are (height, width), Pillow's (width, height)."""
    height, width = _pair(recipe.size)
    how = _FILTERS[recipe.interpolation]
    if recipe.resize is None:
        return image.resize((width, height), how)
    if isinstance(recipe.resize, int):
        shorter = min(image.size)
        to = tuple(max(recipe.resize, round(side * recipe.resize / shorter)) for side in image.size)
    else:
        to = recipe.resize[::-1]
    image = image.resize(to, how)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))

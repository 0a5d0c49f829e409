"""Transforms that a person states, for models that do not say how their input is made."""

import json
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from featstore.errors import UsageError

if TYPE_CHECKING:
    from featstore.transforms import Transform

Size = Annotated[int, Field(ge=1)]
Three = tuple[float, float, float]

EXAMPLE = 'size = 224, resize = 256, channels = "RGB", scale = 255, mean = [...], std = [...]'

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class ImageRecipe(BaseModel):
    """How an RGB image becomes a network's input.

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
        from featstore.transforms import Transform

        facts = self.model_dump(mode="json")
        return Transform(
            geometry=partial(_geometry, self),
            mean=self.mean,
            std=self.std,
            scale=self.scale,
            channels=self.channels,
            text=f"stated {json.dumps(facts, sort_keys=True)}",
        )


class TextRecipe(BaseModel):
    """How a text becomes tokens: `prompt` is put before it, `max_length` tokens are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_length: Size | None = None
    prompt: str | None = None


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

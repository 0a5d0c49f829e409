"""Augmented views: random transforms of images, the same whatever worker or batch makes them.

torchvision and timm draw from the process's own generators. A view's draws begin at a seed made of
(seed, the row's id, the view) alone, under a lock, so that no thread sees another's draws.
"""

import ast
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from featstore.errors import UsageError

# The train transform of Nanda et al., "Diffused Redundancy in Pre-trained Representations" (2023).
PAPER = (
    "RandomResizedCrop(size) + RandomHorizontalFlip() + ColorJitter(0.25, 0.25, 0.25)"
    " + RandomRotation(2)"
)
NAMED = {"paper": PAPER}

Step = Callable[[Image.Image], Image.Image]

# These draw their parameters before they touch a pixel, and the pixels are the slow part.
_DRAW_FIRST = (
    v2.RandomResizedCrop,
    v2.RandomRotation,
    v2.ColorJitter,
    v2.RandomAffine,
    v2.RandomCrop,
)

_drawing = threading.Lock()


@dataclass(frozen=True)
class Views:
    """Random steps from an RGB image to `size` x `size` pixels; `text` describes them in full."""

    steps: tuple[Step, ...]
    size: int
    seed: int
    text: str

    def pixels(self, image: Image.Image, row_id: str, view: int) -> np.ndarray:
        """View `view` of the row called `row_id`: uint8 (size, size, 3)."""
        start = xxhash.xxh3_64_intdigest(f"{self.seed}|{view}|{row_id}".encode())
        for number, step in enumerate(self.steps):
            image = _stepped(step, image, (start + number) % 2**63)
        return np.asarray(image)


def parse(text: str, size: int, seed: int = 0) -> Views:
    """The views that `text` describes, for a backbone that sees `size` x `size` pixels.

    `text` is "paper", or a sum of transforms of `torchvision.transforms.v2` with literal arguments,
    in which `size` stands for the backbone's own, or `timm(...)` with arguments of timm's
    `create_transform`. Raises `UsageError` for anything else, and where a view is not an RGB image
    of that size.

    >>> parse("RandomCrop(size, padding=4) + RandomHorizontalFlip()", 32).text
    'RandomCrop(32, padding=4) + RandomHorizontalFlip(); seed 0'
    """
    written = NAMED.get(text, text)
    try:
        calls = list(_calls(ast.parse(written.strip(), mode="eval").body))
        steps = tuple(step for call in calls for step in _steps(call, size))
    except UsageError:
        raise
    except Exception as error:
        raise _refused(text, " ".join(str(error).split())) from None
    shown = " + ".join(ast.unparse(_Sized(size).visit(call)) for call in calls)
    views = Views(steps=steps, size=size, seed=seed, text=f"{shown}; seed {seed}")
    _try_on_a_blank(views, text)
    return views


def _calls(tree: ast.expr) -> Iterator[ast.Call]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        yield from _calls(tree.left)
        yield from _calls(tree.right)
    elif isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        yield tree
    else:
        raise ValueError(f"{ast.unparse(tree)} is not a transform such as RandomRotation(2)")


def _steps(call: ast.Call, size: int) -> list[Step]:
    name = call.func.id
    arguments = [_value(argument, size) for argument in call.args]
    options = {keyword.arg: _value(keyword.value, size) for keyword in call.keywords}
    if name == "timm":
        return _of_timm(size, *arguments, **options)
    kind = getattr(v2, name, None)
    if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
        raise ValueError(f"torchvision.transforms.v2 has no transform {name}")
    if isinstance(options.get("interpolation"), str):
        options["interpolation"] = InterpolationMode(options["interpolation"])
    return [kind(*arguments, **options)]


def _value(argument: ast.expr, size: int):
    return ast.literal_eval(_Sized(size).visit(argument))


class _Sized(ast.NodeTransformer):
    """Puts the number in place of the name `size`."""

    def __init__(self, size: int):
        self.size = size

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self.size) if node.id == "size" else node


def _of_timm(size: int, **options) -> list[Step]:
    """Timm's train transform up to where the image becomes a tensor."""
    from timm.data import create_transform

    steps = create_transform(size, is_training=True, **options).transforms
    names = [type(step).__name__ for step in steps]
    if names[-2:] != ["MaybeToTensor", "Normalize"]:
        raise ValueError(f"timm makes {', '.join(names)}, which has steps after Normalize")
    return steps[:-2]


def _stepped(step: Step, image: Image.Image, seed: int) -> Image.Image:
    if isinstance(step, _DRAW_FIRST) and hasattr(step, "make_params"):
        with _seeded(seed):
            parameters = step.make_params([image])
        return step.transform(image, parameters)
    with _seeded(seed):
        return step(image)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Every global generator begun at `seed`, for one thread at a time, and then put back."""
    with _drawing:
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            # Not torch.manual_seed, which seeds every CUDA device as well.
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
        finally:
            torch.set_rng_state(states[0])
            random.setstate(states[1])
            np.random.set_state(states[2])  # noqa: NPY002


def _try_on_a_blank(views: Views, text: str) -> None:
    blank = Image.new("RGB", (views.size + 60, views.size + 30))
    try:
        pixels = views.pixels(blank, "", 0)
    except Exception as error:
        raise _refused(text, " ".join(str(error).split())) from None
    wanted = (views.size, views.size, 3)
    if pixels.shape != wanted or pixels.dtype != np.uint8:
        raise _refused(
            text,
            f"a view comes as {pixels.dtype} {pixels.shape} and the model sees uint8 {wanted};"
            " crop to `size`, as RandomResizedCrop(size) does",
        )


def _refused(text: str, why: str) -> UsageError:
    return UsageError(
        f"the augmentation {text!r} cannot be used: {why}; give paper, or a sum such as"
        " RandomResizedCrop(size) + RandomHorizontalFlip()"
    )

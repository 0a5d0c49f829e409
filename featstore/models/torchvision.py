"""torchvision's classification models, with the preset of their default weights."""

import difflib
import json
import pickle
from functools import partial

import torch
import torchvision
from torchvision.transforms import functional

from featstore.downloads import REMEDY, downloading
from featstore.errors import BackboneError, UsageError
from featstore.models.network import Network, Tokens, seen_by_head, stages
from featstore.models.transforms import Transform
from featstore.spec import PENULTIMATE

# These rescale their input when trained, which the builder sets only together with its own weights.
_AS_TRAINED = {
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}


def check(name: str) -> None:
    """Raise `UsageError` where torchvision has no classification model of this name."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        meant = f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(names)}"
        raise UsageError(f"torchvision has no classification model {name!r}; {meant}")


def untrained(name: str) -> torch.nn.Module:
    """The network as torchvision initialises it from torch's global generator."""
    return torchvision.models.get_model(name, weights=None, **_AS_TRAINED.get(name, {}))


def from_hub(name: str) -> torch.nn.Module:
    """The network with torchvision's default weights, cached by torch.hub."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    with downloading(f"the weights of torchvision:{name}", weights.url, REMEDY):
        try:
            # get_model unpickles freely: what it finds in the cache has been read safely before
            weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
            return torchvision.models.get_model(name, weights=weights)
        except (RuntimeError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:300]
            raise BackboneError(
                f"the weights of torchvision:{name}, from {weights.url}, do not load: {reason};"
                f" {REMEDY}"
            ) from None


def conversions(model: torch.nn.Module) -> tuple:
    """Functions from state dicts of other layouts: none, torchvision publishes its own alone."""
    return ()


def head(model: torch.nn.Module) -> tuple[str, ...]:
    """The name of the last layer with weights: Linear, or SqueezeNet's convolution."""
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    return ([name for name, module in model.named_modules() if isinstance(module, layers)][-1],)


def network(model: torch.nn.Module, head: tuple[str, ...]) -> Network:
    """Hooks: "penultimate" is what reaches the head, maps averaged; any module is a layer.

    The stages are what the model's outermost sequence is made of.
    """
    pooling = "cls" if hasattr(model, "class_token") else "avg"
    prefix = 1 if pooling == "cls" else 0
    return Network(
        model=model,
        run=seen_by_head(model, head[-1]),
        own=(PENULTIMATE,),
        stages=(*stages(model, head), PENULTIMATE),
        pooling=pooling,
        tokens=Tokens(prefix, cls=prefix > 0),
    )


def transform(model: torch.nn.Module, name: str, image_size: int | None) -> Transform:
    """The preset of the default weights; another crop size scales the resize before it along."""
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    (resize,), (crop,) = preset.resize_size, preset.crop_size
    if image_size is not None and image_size != crop:
        fixed = getattr(model, "image_size", None)
        if fixed is not None:
            raise UsageError(f"torchvision:{name} takes images of {fixed} px only")
        resize, crop = round(resize * image_size / crop), image_size
    facts = {
        "resize": resize,
        "interpolation": preset.interpolation.value,
        "antialias": preset.antialias,
        "crop": crop,
        "mean": preset.mean,
        "std": preset.std,
    }
    return Transform(
        geometry=partial(_resize_and_crop, preset, resize, crop),
        mean=preset.mean,
        std=preset.std,
        text=f"torchvision {json.dumps(facts, sort_keys=True)}",
    )


def _resize_and_crop(preset, resize: int, crop: int, image):
    image = functional.resize(
        image, [resize], interpolation=preset.interpolation, antialias=preset.antialias
    )
    return functional.center_crop(image, [crop])

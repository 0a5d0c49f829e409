"""timm's and torchvision's classification networks: hub, file or untrained."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from featstore import layouts
from featstore import weights as weight_files
from featstore.backbones import blurring, timm_models, torchvision_models
from featstore.backbones.backbone import Backbone
from featstore.errors import BackboneError
from featstore.transforms import Transform

TORCHVISION = "torchvision:"


def load(
    name: str,
    *,
    weights: str | Path | None,
    pretrained: bool,
    image_size: int | None,
    seed: int,
) -> Backbone:
    """As `backbones.load`, for the timm model `name` or torchvision's `torchvision:NAME`."""
    library = torchvision_models if name.startswith(TORCHVISION) else timm_models
    member = name.removeprefix(TORCHVISION)
    library.check(member)

    if weights is None and pretrained:
        model, left_out = library.from_hub(member), ()
    else:
        model, left_out = _untrained(library, member, seed), ()
    head = library.head(model)
    normalisation = None
    if weights is not None:
        left_out, normalisation = _fit_file(model, weights, head)
    identity = weight_files.identity(_without(model.state_dict(), left_out))
    # this may change the model to the size, and so comes after its weights and their identity
    transform = _renormalised(library.transform(model, member, image_size), normalisation)
    model = model.eval().requires_grad_(False)
    return Backbone(
        name=name,
        model=model,
        weights_id=identity if weights or pretrained else f"random:{seed}:{identity}",
        transform=transform,
        head=head,
        network=library.network(model, head),
        notes=tuple(
            f"{weights} has no {part!r} for the model's classes: left untrained, no feature uses it"
            for part in left_out
        ),
    )


def _untrained(library, name: str, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return library.untrained(name)


def _fit_file(model: torch.nn.Module, file: str | Path, head: tuple[str, ...]):
    """Load a file; returns the head modules it left out, and the normalisation it brings."""
    state, normalisation = layouts.of_robustness(weight_files.read(file))
    blurring.blur(model, layouts.blurred(state))
    state = layouts.in_timm_names(state, model.state_dict())
    try:
        return weight_files.fit(model, state, head), normalisation
    except BackboneError as error:
        raise BackboneError(f"{file}: {error}") from None


def _renormalised(transform: Transform, normalisation) -> Transform:
    """The transform with the mean and standard deviation that a checkpoint was trained with."""
    if normalisation is None:
        return transform
    mean, std = (tuple(map(float, tensor.flatten())) for tensor in normalisation)
    if _close(mean, transform.mean) and _close(std, transform.std):
        return transform
    text = f"{transform.text} normalizer {json.dumps({'mean': mean, 'std': std})}"
    return replace(transform, mean=mean, std=std, text=text)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether they agree to the float32 that a checkpoint keeps."""
    return len(one) == len(other) and all(map(partial(math.isclose, rel_tol=1e-6), one, other))


def _without(state: dict[str, torch.Tensor], modules: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(tuple(f"{module}." for module in modules))
    }

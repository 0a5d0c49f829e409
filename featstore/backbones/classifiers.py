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
    weights_key: str | None = None,
    weights_prefix: str | None = None,
) -> Backbone:
    """As `backbones.load`, for the timm model `name` or torchvision's `torchvision:NAME`."""
    library = torchvision_models if name.startswith(TORCHVISION) else timm_models
    member = name.removeprefix(TORCHVISION)
    library.check(member)

    model = library.from_hub(member) if weights is None and pretrained else None
    if model is None:
        model = _untrained(library, member, seed)
    head = library.head(model)
    left_out, normalisation, notes = (), None, ()
    if weights is not None:
        checkpoint = weight_files.Checkpoint.read(weights, weights_key)
        blurring.blur(model, layouts.blurred(checkpoint.plain()))
        network = _network(library, model, member, checkpoint, weights_prefix, image_size)
        left_out = weight_files.fit(model, network.state, head)
        normalisation = layouts.normaliser(network.beside)
        notes = checkpoint.notes(network)
        if normalisation is not None:
            notes += (
                f"{checkpoint.path.name}: the input is normalised by the file's own normalizer",
            )
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
            f"{Path(weights).name} has no {part!r} for the model's classes: left untrained, no"
            " feature uses it"
            for part in left_out
        )
        + notes,
    )


def _untrained(library, name: str, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return library.untrained(name)


def _network(
    library,
    model: torch.nn.Module,
    name: str,
    checkpoint: weight_files.Checkpoint,
    prefix: str | None,
    image_size: int | None,
) -> weight_files.Network:
    """The network of a checkpoint that fits `model`, under the model's names and of its shapes.

    Where it fits as it is, it is taken so. Otherwise the model is brought to `image_size` first, so
    that position embeddings of that size are not interpolated twice.
    """
    head = library.head(model)

    def taken(*conversions) -> weight_files.Network:
        return checkpoint.network(model.state_dict(), head, prefix=prefix, conversions=conversions)

    renamed = partial(layouts.in_timm_names, wanted=list(model.state_dict()))
    try:
        return taken(renamed)
    except BackboneError as error:
        refused = error
    try:
        if image_size is not None:
            library.transform(model, name, image_size)
        return taken(renamed, *library.conversions(model))
    except BackboneError:
        raise BackboneError(f"{checkpoint.path}: {refused}") from None


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

"""Pretrained backbones by name: the network, its weights' identity and its own transform."""

from dataclasses import dataclass
from pathlib import Path

import torch

from featstore import layouts
from featstore import weights as weight_files
from featstore.backbones import timm_models, torchvision_models
from featstore.errors import BackboneError, UsageError
from featstore.transforms import Transform

__all__ = ["Backbone", "load"]

_TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class Backbone:
    """A network in evaluation mode on the CPU, and what its weights were trained to see.

    `weights_id` is "sha256:<hex>" of the tensors as loaded, with "random:<seed>:" before it for an
    untrained network. `head` names the classifier's modules; `notes` says what was left out.
    """

    name: str
    model: torch.nn.Module
    weights_id: str
    transform: Transform
    head: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def transform_text(self) -> str:
        """Canonical text of the transform."""
        return self.transform.text


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    seed: int = 0,
) -> Backbone:
    """The timm model `name`, or torchvision's as `torchvision:NAME`, ready to read features from.

    Weights come from the library's hub, or from the file `weights` (.pth, .pt, .safetensors: safe
    loading only), or with `pretrained=False` from the library's own initialisation under `seed`.
    The transform is the one the weights were trained with; `image_size` replaces its crop of
    S x S pixels, and the resize before the crop keeps its proportion to it.

    Raises `UsageError` for a name or size that cannot be, `BackboneError` for weights that do not
    fit, `DownloadRefused` where the hub does not answer.
    """
    if weights is not None and not pretrained:
        raise UsageError(
            f"weights from {weights} and an untrained model exclude each other; drop one of them"
        )
    if image_size is not None and image_size < 1:
        raise UsageError(f"an image of {image_size} px cannot be; give a positive --image-size")
    library = torchvision_models if name.startswith(_TORCHVISION) else timm_models
    member = name.removeprefix(_TORCHVISION)
    library.check(member)

    if weights is None and pretrained:
        model, left_out = library.from_hub(member), ()
    else:
        model, left_out = _untrained(library, member, seed), ()
    head = library.head(model)
    if weights is not None:
        left_out = _fit_file(model, weights, head)
    identity = weight_files.identity(_without(model.state_dict(), left_out))
    transform = library.transform(model, member, image_size)
    return Backbone(
        name=name,
        model=model.eval().requires_grad_(False),
        weights_id=identity if weights or pretrained else f"random:{seed}:{identity}",
        transform=transform,
        head=head,
        notes=tuple(
            f"{weights} has no {part!r} for the model's classes: left untrained, no feature uses it"
            for part in left_out
        ),
    )


def _untrained(library, name: str, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return library.untrained(name)


def _fit_file(model: torch.nn.Module, file: str | Path, head: tuple[str, ...]) -> tuple[str, ...]:
    state = layouts.in_timm_names(weight_files.read(file), model.state_dict())
    try:
        return weight_files.fit(model, state, head)
    except BackboneError as error:
        raise BackboneError(f"{file}: {error}") from None


def _without(state: dict[str, torch.Tensor], modules: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(tuple(f"{module}." for module in modules))
    }

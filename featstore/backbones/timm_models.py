"""timm's models: any name that timm knows, with the data configuration of its weights."""

import difflib
import json

import huggingface_hub
import timm
import torch
from timm.data import create_transform, resolve_model_data_config

from featstore.downloads import PATIENCE, downloading, from_network
from featstore.errors import BackboneError, DownloadRefused, UsageError
from featstore.transforms import Transform

REMEDY = "give a local copy with --weights FILE, or take an untrained model with --no-pretrained"


def check(name: str) -> None:
    """Raise `UsageError` where timm has no model of this name, or no weights of this tag."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        meant = f"; did you mean {', '.join(close)}?" if close else ""
        raise UsageError(
            f"timm has no model {name!r}{meant or '; timm.list_models() names them'}"
            " (torchvision's are torchvision:NAME)"
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UsageError(f"timm has no weights {tag!r} of {architecture}; it has {', '.join(tags)}")


def untrained(name: str) -> torch.nn.Module:
    """The network as timm initialises it from torch's global generator."""
    return timm.create_model(name, pretrained=False)


def from_hub(name: str) -> torch.nn.Module:
    """The network with the weights that timm's hub has for it, or that are cached from there."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise BackboneError(f"timm has no weights for {name}; {REMEDY}")
    overlay, source = {}, config.url
    if config.hf_hub_id:
        endpoint = huggingface_hub.constants.ENDPOINT
        source = f"{endpoint}/{config.hf_hub_id}"
        overlay = _cached_if_unreachable(name, config, endpoint)
    with downloading(f"the weights of {name}", source, REMEDY):
        try:
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        except RuntimeError as error:
            if from_network(error):
                raise
            raise BackboneError(
                f"timm's weights for {name} do not load: {error}; {REMEDY}"
            ) from None


def head(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of the classifier's modules."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def transform(model: torch.nn.Module, name: str, image_size: int | None) -> Transform:
    """The evaluation transform of timm: resize to floor(S / crop_pct), then crop S x S.

    A model that takes one size only is changed to `image_size` where timm can interpolate its
    position embedding, and refused otherwise.
    """
    config = resolve_model_data_config(model)
    if image_size is not None:
        channels, *native = config["input_size"]
        if native != [image_size, image_size]:
            _resize(model, name, image_size)
        config["input_size"] = (channels, image_size, image_size)
    *geometry, to_tensor, normalize = create_transform(**config, is_training=False).transforms
    if [type(step).__name__ for step in (to_tensor, normalize)] != ["MaybeToTensor", "Normalize"]:
        raise BackboneError(f"the transform of {name} does not end in ToTensor and Normalize")

    def resize_and_crop(image):
        for step in geometry:
            image = step(image)
        return image

    return Transform(
        geometry=resize_and_crop,
        mean=config["mean"],
        std=config["std"],
        text=f"timm {json.dumps(config, sort_keys=True)}",
    )


def _resize(model: torch.nn.Module, name: str, image_size: int) -> None:
    if not model.pretrained_cfg.get("fixed_input_size", False):
        return
    if not hasattr(model, "set_input_size"):
        size = model.pretrained_cfg["input_size"][-1]
        raise UsageError(f"{name} takes images of {size} px only; leave --image-size out")
    try:
        model.set_input_size(img_size=(image_size, image_size))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} cannot take images of {image_size} px: {error}") from None


def _cached_if_unreachable(name: str, config, endpoint: str) -> dict[str, str]:
    """Where the hub is silent, what was fetched from it before, without its client's retries.

    The client asks a dead endpoint twelve times over 47 seconds before it looks into its cache.
    """
    silence = _silence(endpoint)
    if silence is None:
        return {}
    repository, _, revision = config.hf_hub_id.partition("@")
    for file in (config.hf_hub_filename, "model.safetensors", "pytorch_model.bin"):
        if not file:
            continue
        cached = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return {"file": cached}
    raise DownloadRefused(
        f"the weights of {name} could not be fetched from {endpoint}/{config.hf_hub_id}:"
        f" {silence}; {REMEDY}"
    )


def _silence(endpoint: str) -> str | None:
    """Why the hub cannot be reached, None where it answers or the client is told to be offline."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return None
    try:
        huggingface_hub.get_session().head(endpoint, timeout=PATIENCE)
    except Exception as error:
        if not from_network(error):
            raise
        return str(error)
    return None

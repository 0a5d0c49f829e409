"""timm's models: any name that timm knows, with the data configuration of its weights."""

import difflib
import inspect
import json
import sys
from collections.abc import Callable, Collection
from functools import partial

import timm
import torch
from timm.data import create_transform, resolve_model_data_config

from featstore import downloads
from featstore.downloads import REMEDY, downloading, from_network
from featstore.errors import BackboneError, DownloadRefused, UsageError
from featstore.models.network import LAST, Activation, Inputs, Network, Tokens, stages as stages_of
from featstore.models.transforms import Transform, in_turn
from featstore.spec import PENULTIMATE


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
        endpoint = downloads.endpoint()
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


def conversions(model: torch.nn.Module) -> tuple[Callable, ...]:
    """Functions of timm from state dicts as others published them to this model's.

    They rename keys and resample position embeddings to the model's size.
    """
    module = sys.modules[type(model).__module__]
    named = (getattr(module, name, None) for name in _FILTERS)
    return tuple(
        partial(_filtered, function, model) for function in named if inspect.isfunction(function)
    )


def _filtered(function: Callable, model: torch.nn.Module, state: dict) -> dict:
    """The state that a filter of timm makes; some take the model as well."""
    takes_model = len(inspect.signature(function).parameters) > 1
    return function(state, model) if takes_model else function(state)


_FILTERS = (
    "checkpoint_filter_fn",
    "checkpoint_filter_fn_classifier",
    "checkpoint_filter_fn_encoder",
    "_filter_fn",
    "_filter_torchvision_pretrained",
)


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

    return Transform(
        geometry=partial(in_turn, geometry),
        mean=config["mean"],
        std=config["std"],
        text=f"timm {json.dumps(config, sort_keys=True)}",
    )


def stages(model: torch.nn.Module) -> tuple[str, ...]:
    """Paths of the modules that the model's `feature_info` names."""
    paths = {path: module for path, module in model.named_modules() if path}
    named = (info["module"] for info in getattr(model, "feature_info", None) or ())
    lists = torch.nn.ModuleList
    called = (path for path in named if path in paths and not isinstance(paths[path], lists))
    return tuple(dict.fromkeys(called))


def network(model: torch.nn.Module, head: tuple[str, ...]) -> Network:
    """The layers by timm's own `forward_features`, `forward_head` and `forward_intermediates`.

    A stage is one of the model's `feature_info`, under the path of its module; a model without
    one has the layers that follow one another in it, but for its classifier modules `head`.
    """
    listed = stages(model) or stages_of(model, head)
    prefix = getattr(model, "num_prefix_tokens", 0) if _tells_prefix(model) else 0
    whole = len(listed) == len(getattr(model, "feature_info", None) or ())
    intermediate = listed if whole and hasattr(model, "forward_intermediates") else ()
    return Network(
        model=model,
        run=partial(_run, model, intermediate, prefix),
        own=(PENULTIMATE, LAST, *intermediate),
        stages=(*listed, LAST, PENULTIMATE),
        pooling=_pooling(model),
        tokens=Tokens(prefix, cls=prefix > 0 and getattr(model, "has_class_token", True)),
        layout=layout(model),
    )


def _tells_prefix(model: torch.nn.Module) -> bool:
    """Return whether every block has the class token: some models append it late."""
    inside = getattr(model, "forward_intermediates", None)
    return inside is None or "return_prefix_tokens" in inspect.signature(inside).parameters


def _run(
    model: torch.nn.Module,
    intermediate: tuple[str, ...],
    prefix: int,
    inputs: Inputs,
    paths: Collection[str],
) -> dict[str, Activation]:
    """One pass; it ends at the last stage asked for where nothing beyond the stages is."""
    asked = [stage for stage in intermediate if stage in paths]
    tokens = Tokens(prefix, cls=prefix > 0 and getattr(model, "has_class_token", True))
    found = {}
    if asked:
        alone = len(asked) == len(paths)
        with_prefix = {"return_prefix_tokens": True, "output_fmt": "NLC"} if prefix else {}
        taken = model.forward_intermediates(
            inputs,
            indices=[intermediate.index(stage) for stage in asked],
            stop_early=alone,
            intermediates_only=alone,
            **with_prefix,
        )
        last, values = (None, taken) if alone else taken
        if len(values) != len(asked):
            raise BackboneError(
                f"timm gives {len(values)} activations for {', '.join(asked)}; tap modules inside"
            )
        for stage, value in zip(asked, values, strict=True):
            if isinstance(value, tuple):
                patches, before = value
                value = torch.cat([before, patches], 1)
            found[stage] = Activation(value, tokens)
        if alone:
            return found
    else:
        last = model.forward_features(inputs)
    if PENULTIMATE in paths:
        found[PENULTIMATE] = Activation(model.forward_head(last, pre_logits=True))
    if LAST in paths and isinstance(last, torch.Tensor):
        nhwc = last.ndim == 4 and layout(model) == "NHWC"
        found[LAST] = Activation(last.permute(0, 3, 1, 2) if nhwc else last, tokens)
    return found


def layout(model: torch.nn.Module) -> str:
    """Order of a map's axes inside the model: "NCHW" or "NHWC"."""
    return str(getattr(model, "output_fmt", "NCHW"))


# timm calls a class token's reading "token"; the field says "cls".
_POOLINGS = {"token": "cls", "": "none"}


def _pooling(model: torch.nn.Module) -> str:
    for owner in (model, getattr(model, "head", None)):
        pool = getattr(owner, "global_pool", None)
        pool = getattr(pool, "pool_type", pool)
        if isinstance(pool, str):
            return _POOLINGS.get(pool, pool)
    return "model"


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
    """Use what was fetched before if the hub is silent, without its client's retries."""
    silence = downloads.silence()
    if silence is None:
        return {}
    import huggingface_hub

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

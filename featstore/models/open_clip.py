"""open_clip's image towers: `open_clip:MODEL/TAG`."""

import json
import logging
import pickle
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from featstore import downloads
from featstore.downloads import REMEDY, downloading, from_network, needed
from featstore.errors import BackboneError, DownloadRefused, UsageError
from featstore.models import timm, weights as weight_files
from featstore.models.network import (
    Activation,
    Backbone,
    Inputs,
    Network,
    blocks,
    of_output,
    tokens_of,
)
from featstore.models.transforms import Transform, in_turn
from featstore.spec import PENULTIMATE

PREFIX = "open_clip:"


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
    """As `featstore.models.load`, for `open_clip:MODEL/TAG`.

    TAG may be left out without hub weights. "penultimate" is the image's embedding as the model
    compares it with texts, not normalised.
    """
    open_clip = needed("open_clip", "open_clip", name)
    member, _, tag = name.removeprefix(PREFIX).partition("/")
    _check(open_clip, name, member, tag, needs_tag=pretrained and weights is None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        from_hub = tag if pretrained and weights is None else None
        model = _model(open_clip, name, member, from_hub, image_size)
    tower = model.visual.eval().requires_grad_(False)
    notes = ()
    if weights is not None:
        notes = _fit_file(tower, weights, weights_key, weights_prefix)
    identity = weight_files.identity(tower.state_dict())
    return Backbone(
        name=name,
        model=tower,
        weights_id=identity if pretrained else f"random:{seed}:{identity}",
        transform=_transform(open_clip, name, model),
        head=(),
        network=_network(tower),
        notes=notes,
        libraries=("open_clip_torch",),
    )


def _check(open_clip, name: str, member: str, tag: str, needs_tag: bool) -> None:
    if member not in open_clip.list_models():
        raise UsageError(
            f"open_clip has no model {member!r}; open_clip.list_models() names those it has"
        )
    tags = open_clip.list_pretrained_tags_by_model(member)
    if tag and tag not in tags:
        raise UsageError(f"open_clip has no weights {tag!r} of {member}; it has {', '.join(tags)}")
    if needs_tag and not tag:
        first = f", as {PREFIX}{member}/{tags[0]}; it has {', '.join(tags)}" if tags else ""
        raise UsageError(f"{name} needs a tag that says which weights{first or '; it has none'}")


def _model(open_clip, name: str, member: str, tag: str | None, image_size: int | None):
    if tag and _hub_files(open_clip, member, tag) and (reason := downloads.silence()):
        source = f"{downloads.endpoint()}/{_hub_files(open_clip, member, tag)}"
        raise DownloadRefused(
            f"the weights of {name} could not be fetched from {source}: {reason}; {REMEDY}"
        )
    with downloading(f"the weights of {name}", "open_clip's hub", REMEDY), _quiet():
        try:
            return open_clip.create_model(
                member,
                pretrained=tag,
                pretrained_text=False,
                force_image_size=image_size,
                weights_only=True,
            )
        except (RuntimeError, OSError, ValueError, AssertionError, pickle.UnpicklingError) as error:
            if from_network(error):
                raise
            raise BackboneError(
                f"{name} cannot be built: {' '.join(str(error).split())[:300]}; {REMEDY}"
            ) from None


def _hub_files(open_clip, member: str, tag: str) -> str:
    return (open_clip.get_pretrained_cfg(member, tag) or {}).get("hf_hub", "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's log off the terminal, and make an error of a warning about features."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            yield
    except UserWarning as error:
        raise BackboneError(f"{error} Take the model whose name ends in -quickgelu") from None
    finally:
        logging.disable(before)


def _fit_file(
    tower: torch.nn.Module, file: str | Path, key: str | None, prefix: str | None
) -> tuple[str, ...]:
    """Load the image tower of a file, alone or in a model of images and texts; returns notes."""
    checkpoint = weight_files.Checkpoint.read(file, key)
    try:
        network = checkpoint.network(
            tower.state_dict(), prefix=prefix, conversions=[partial(_resampled, tower)]
        )
    except BackboneError as error:
        raise BackboneError(f"{file}: {error}") from None
    weight_files.fit(tower, network.state, ())
    return checkpoint.notes(network)


def _resampled(tower: torch.nn.Module, state: weight_files.State) -> weight_files.State:
    """The state with its position embedding brought to the tower's size, as open_clip does."""
    from open_clip.model import resize_pos_embed

    whole = {f"visual.{key}": tensor for key, tensor in state.items()}
    resize_pos_embed(whole, SimpleNamespace(visual=tower))
    return {key.removeprefix("visual."): tensor for key, tensor in whole.items()}


def _transform(open_clip, name: str, model: torch.nn.Module) -> Transform:
    config = open_clip.get_model_preprocess_cfg(model)
    recipe = open_clip.transform.PreprocessCfg(**config)
    steps = open_clip.transform.image_transform_v2(recipe, is_train=False).transforms
    *geometry, _, to_tensor, normalize = steps
    if [type(step).__name__ for step in (to_tensor, normalize)] != ["MaybeToTensor", "Normalize"]:
        raise BackboneError(f"the transform of {name} does not end in ToTensor and Normalize")
    return Transform(
        geometry=partial(in_turn, geometry),
        mean=tuple(normalize.mean),
        std=tuple(normalize.std),
        text=f"open_clip {json.dumps(config, sort_keys=True, default=list)}",
    )


def _network(tower: torch.nn.Module) -> Network:
    trunk = getattr(tower, "trunk", None)
    stages = blocks(tower)
    if trunk is not None:
        stages = tuple(f"trunk.{stage}" for stage in timm.stages(trunk)) or stages
    tokens = tokens_of(tower)
    layout = timm.layout(trunk) if trunk is not None else "NCHW"
    run = partial(_run, tower)
    return Network(tower, run, (PENULTIMATE,), (*stages, PENULTIMATE), "model", tokens, layout)


def _run(tower: torch.nn.Module, inputs: Inputs, paths: Collection[str]) -> dict[str, Activation]:
    return {PENULTIMATE: of_output(tower(inputs), inputs, tokens_of(tower), "NCHW")}

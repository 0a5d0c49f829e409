"""Encoders from Hugging Face folders: identity, weights, images."""

import contextlib
import inspect
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from featstore import downloads
from featstore.downloads import mistaken, needed
from featstore.errors import BackboneError, FeatstoreError, UsageError
from featstore.models import weights as weight_files
from featstore.models.network import (
    LAST,
    Activation,
    Backbone,
    Inputs,
    Network,
    blocks,
    of_output,
    seen_by_head,
    tokens_of,
)
from featstore.models.transforms import EXAMPLE, ImageRecipe, Transform, checked
from featstore.places import lies_in
from featstore.spec import PENULTIMATE

PREFIX = "hf:"
REMEDY = "give a local copy as hf:FOLDER"
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]
_WEIGHTS = ["*.safetensors", "*_Dense/pytorch_model.bin"]
# What a configuration may say of how, and from which files, a model is computed: ours to say.
_DROPPED = re.compile(
    r"attn_implementation|experts_implementation|quantization_config|compression_config"
    r"|^(use_kernels|kernel_config|transformers_weights|base_model_name_or_path)$"
)
# How attention may be computed: by torch, or step by step; nothing else is loaded for it.
_ATTENTION = ("sdpa", "eager", None)


def load(
    name: str,
    *,
    weights: str | Path | None,
    pretrained: bool,
    image_size: int | None,
    seed: int,
    transform: Mapping[str, Any] | None,
    weights_dtype: str = "float32",
    device_map: str | None = None,
) -> Backbone:
    """As `featstore.models.load`, for `hf:NAME`, `hf:NAME@REVISION` or `hf:FOLDER`.

    The model is an image encoder where its main input is pixels, a text encoder where it is
    tokens; of a pair of both (CLIP, SigLIP) the image tower is taken.
    """
    if weights is not None:
        raise UsageError(f"{name} brings its weights; leave --weights out, or give hf:FOLDER")
    transformers = needed("transformers", "hf", name)
    if device_map is not None:
        needed("accelerate", "hf", name)
    from featstore.models import texts

    folder = _folder(name, pretrained)
    with _quiet(transformers):
        config = _config(transformers, folder, name)
        kind, options = _model_class(transformers, config, name)
        notes: list[str] = []
        how = {"dtype": getattr(torch, weights_dtype), "device_map": device_map}
        model = _model(kind, config, options, folder, name, pretrained, seed, notes, how)
        facts = {
            "name": _plain_name(name, folder),
            "model": model.eval().requires_grad_(False),
            "folder": folder,
        }
        with _one_line(name, "is not described as transformers describes a model"):
            if kind.main_input_name == "pixel_values":
                if {"prompt", "long_texts"} & set(transform or ()):
                    raise UsageError(
                        f"{name} takes images; leave --prompt and --long-texts out, which are of"
                        " texts"
                    )
                described = parts(**facts, image_size=image_size, stated=transform)
            elif image_size is not None:
                raise UsageError(f"{name} takes texts, which have no size; leave --image-size out")
            else:
                described = texts.parts(**facts, pretrained=pretrained, stated=transform)
    identity = weight_files.identity(model.state_dict())
    described["notes"] = (*notes, *described.get("notes", ()))
    return Backbone(
        name=facts["name"],
        model=model,
        weights_id=identity if pretrained else f"random:{seed}:{identity}",
        head=(),
        libraries=("transformers",),
        dtype=weights_dtype,
        placed=device_map is not None,
        **described,
    )


def _folder(name: str, pretrained: bool) -> Path:
    """The local folder of a model; from the hub its configuration, and its weights if wanted."""
    given = name.removeprefix(PREFIX)
    local = Path(given).expanduser()
    if local.is_dir():
        _check_files(local)
        return local
    repository, _, revision = given.partition("@")
    if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", repository) or given.startswith("."):
        raise UsageError(f"there is no folder {given}, and no model of the hub is called so")
    wanted = [*_SMALL, *_WEIGHTS] if pretrained else _SMALL
    folder = Path(downloads.folder(repository, revision or None, wanted, REMEDY))
    if pretrained and not list(folder.glob("*.safetensors")):
        downloads.folder(repository, revision or None, ["pytorch_model*.bin"], REMEDY)
    return folder


def _check_files(folder: Path) -> None:
    """Refuse a folder in which a weight or vocabulary file is a pointer, a page or cut short."""
    for pattern in ("*.safetensors", "*.bin", "*/*.safetensors", "*.model", "tokenizer.json"):
        for file in sorted(folder.glob(pattern)):
            wrong = mistaken(file) if file.suffix != ".json" or file.stat().st_size < 1024 else None
            if wrong and (file.suffix != ".json" or "LFS" in wrong):
                raise BackboneError(f"{file} is {wrong}")


def _plain_name(name: str, folder: Path) -> str:
    """The name without a path of this machine: the weights' hash says which model it is."""
    given = name.removeprefix(PREFIX)
    return f"{PREFIX}{folder.resolve().name}" if Path(given).expanduser().is_dir() else name


def _config(transformers, folder: Path, name: str):
    """The configuration of the encoder to load, without what would choose code or other files."""
    file = folder / "config.json"
    with _one_line(name, "has no configuration that transformers reads"):
        fields = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("config.json holds no JSON object")
    kind = fields.get("model_type")
    if "auto_map" in fields and kind not in transformers.CONFIG_MAPPING:
        raise BackboneError(
            f"{name} comes with Python code of its own ({_listed(fields['auto_map'])}), and nothing"
            " that comes with a checkpoint is run; choose a model that transformers knows"
        )
    _check_sizes(fields, name)
    if any("quantization_config" in each for each in _objects(fields)):
        _check_whole_numbers(folder, name)
    _check_names(folder, name)
    with (
        _one_line(name, "has no configuration that transformers reads"),
        tempfile.TemporaryDirectory() as cleaned,
    ):
        Path(cleaned, "config.json").write_text(json.dumps(_cleaned(fields)))
        config = transformers.AutoConfig.from_pretrained(
            cleaned, local_files_only=True, trust_remote_code=False
        )
    return getattr(config, "vision_config", None) or config


# The deepest models that there are have some hundred layers, the widest some ten thousand features
# and vocabularies of a million. What is beyond would be built for hours, or fill the memory.
_MOST = {r"(layers|blocks|depth|depths|n_layer)$": 5_000, r"(_size|_dim|d_model|n_embd)$": 10**8}


def _check_sizes(fields: Any, name: str) -> None:
    """Refuse a configuration of more layers or features than any model has."""
    for each in _objects(fields):
        for key, value in each.items():
            for pattern, most in _MOST.items():
                values = value if isinstance(value, list) else [value]
                numbers = [one for one in values if isinstance(one, int | float)]
                if re.search(pattern, key) and max(numbers, default=0) > most:
                    raise BackboneError(
                        f"{name} says {key} = {max(numbers):,.6g} in its config.json, and no model"
                        f" has more than {most:,}: mend the file, or fetch it again"
                    )


def _objects(fields: Any) -> Iterator[dict]:
    """Every object in a JSON value."""
    if isinstance(fields, dict):
        yield fields
    if isinstance(fields, dict | list):
        for each in fields.values() if isinstance(fields, dict) else fields:
            yield from _objects(each)


def _cleaned(fields: Any) -> Any:
    """A configuration without what names an implementation, a quantisation or files, at any depth.

    transformers fetches and loads native code where `attn_implementation` names a repository.
    """
    if isinstance(fields, dict):
        return {key: _cleaned(value) for key, value in fields.items() if not _DROPPED.search(key)}
    return [_cleaned(each) for each in fields] if isinstance(fields, list) else fields


def _check_whole_numbers(folder: Path, name: str) -> None:
    """Raise BackboneError where weights are kept as anything but floating-point numbers."""
    for file in sorted(folder.glob("*.safetensors")):
        with _one_line(name, "has no weights that load"), safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
        if kinds - {"F16", "BF16", "F32", "F64"}:
            raise BackboneError(
                f"{name} keeps quantised weights ({', '.join(sorted(kinds))}), which are not"
                " computed with here; give the folder of the model at full precision"
            )


def _check_names(folder: Path, name: str) -> None:
    """Raise BackboneError where a file of the folder names weights that lie elsewhere."""
    if (folder / "adapter_config.json").is_file():
        raise BackboneError(
            f"{name} is an adapter of another model, which would be read from elsewhere; merge it"
            " into that model and give its folder"
        )
    for index in sorted(folder.glob("*.index.json")):
        with _one_line(name, f"has a list of weights ({index.name}) that cannot be read"):
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            for file in files:
                if not lies_in(folder, folder / file):
                    raise BackboneError(
                        f"{name} keeps weights in {file}, outside its folder: refused"
                    )
    for file in folder.glob("*"):
        if file.suffix in (".safetensors", ".bin") and not lies_in(folder, file):
            raise BackboneError(
                f"{name} keeps weights in {file.name}, a link out of its folder: refused"
            )


def _model_class(transformers, config, name: str) -> tuple[type, dict[str, Any]]:
    """The class of a model, and what it is built with beside its configuration.

    A classifier keeps its head, since its input is what "penultimate" means; a BERT-like pooler,
    trained for another task or not at all, is not built.
    """
    architectures = config.architectures or [""]
    classifies = architectures[0].endswith("ForImageClassification")
    auto = transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
    with _one_line(name, "is no encoder that transformers knows"), torch.device("meta"):
        built = auto.from_config(config, trust_remote_code=False)
    kind = type(built)
    if kind.main_input_name not in ("pixel_values", "input_ids"):
        raise BackboneError(f"{name} takes {kind.main_input_name}, neither images nor texts")
    for module in built.modules():
        how = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if how not in _ATTENTION:
            raise BackboneError(
                f"{name} computes attention by {how}, which is not loaded; choose a model that does"
                " it by torch"
            )
    dense = hasattr(getattr(built, "pooler", None), "dense")
    if dense and "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        return kind, {"add_pooling_layer": False}
    return kind, {}


def _model(
    kind: type,
    config,
    options: dict[str, Any],
    folder: Path,
    name: str,
    pretrained: bool,
    seed: int,
    notes: list[str],
    how: dict[str, Any],
) -> torch.nn.Module:
    """The network with its weights, every one of them from the folder, or all of them random.

    What else the folder's weights hold is told in `notes`. `how` has the `dtype` of the weights,
    and the `device_map` that says which devices they lie on, None for the CPU.
    """
    if not pretrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _encoder(kind(config, **options), config).to(how["dtype"])
    with _one_line(name, "has no weights that load"):
        model, told = kind.from_pretrained(
            folder,
            config=config,
            **how,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            **options,
        )
    missing = sorted(map(str, told["missing_keys"]))
    if missing:
        raise BackboneError(
            f"the weights of {name} lack {weight_files.listed('keys', missing)} of"
            f" {kind.__name__}; give the folder of the whole model"
        )
    if any(weight.is_meta for weight in model.state_dict().values()):
        raise BackboneError(
            f"{name} has no room on the devices of this machine; give more of them, or half the"
            " bytes with --weights-dtype bfloat16"
        )
    left_out = weight_files.groups(sorted(map(str, told["unexpected_keys"])))
    if left_out:
        what = ", ".join(left_out)
        notes.append(
            f"{_plain_name(name, folder)}: left out {what}, which are no part of its encoder"
        )
    return _encoder(model, config)


def _encoder(model: torch.nn.Module, config) -> torch.nn.Module:
    return model.get_encoder() if config.is_encoder_decoder else model


@contextlib.contextmanager
def _one_line(name: str, what: str) -> Iterator[None]:
    """Turn whatever transformers raises into one `BackboneError` of one line."""
    try:
        yield
    except FeatstoreError:
        raise
    except Exception as error:
        # Each of transformers' thousand architectures has its own ways to fail.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BackboneError(f"{name} {what}: {reason}; {REMEDY}") from error


@contextlib.contextmanager
def _quiet(transformers) -> Iterator[None]:
    """Keep transformers' reports off the terminal: what matters of them is raised."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _listed(auto_map: object) -> str:
    values = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    return ", ".join(map(str, values))


def parts(
    name: str,
    model: torch.nn.Module,
    folder: Path,
    image_size: int | None,
    stated: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Transform and network of an image encoder.

    "penultimate" is what the classifier sees where the model has one; else its pooled output, or
    its class token, or the mean over its map.
    """
    transform = _transform(name, folder, image_size, stated)
    blank = transform(Image.new("RGB", (64, 64)))[None].to(next(model.parameters()))
    return {"transform": transform, "network": _network(name, model, blank, image_size)}


def _network(
    name: str, model: torch.nn.Module, blank: torch.Tensor, image_size: int | None
) -> Network:
    tokens = tokens_of(model)
    stages = (*blocks(model), PENULTIMATE)
    resizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    options = {"interpolate_pos_encoding": True} if image_size is not None and resizes else {}
    if hasattr(model, "classifier"):
        layers = [path for path, layer in model.classifier.named_modules()]
        inner = f"classifier.{layers[-1]}".rstrip(".")
        seen = seen_by_head(model, inner, **options)
        pooling = "cls" if tokens.cls else "avg"
        return Network(model, seen, (PENULTIMATE,), stages, pooling, tokens)
    run = partial(_run, model, tokens, options)
    try:
        with torch.inference_mode():
            output = model(pixel_values=blank, **options)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(
            f"{name} cannot take images of {blank.shape[-1]} px:"
            f" {' '.join(str(error).split())[:300]}; leave --image-size out"
        ) from None
    pooling = "model" if output.get("pooler_output") is not None else "avg"
    if pooling == "avg" and tokens.cls:
        pooling = "cls"
    return Network(
        model, run, (PENULTIMATE, LAST), (*blocks(model), LAST, PENULTIMATE), pooling, tokens
    )


def _run(
    model: torch.nn.Module,
    tokens,
    options: dict[str, bool],
    inputs: Inputs,
    paths: Collection[str],
) -> dict[str, Activation]:
    output = model(pixel_values=inputs, **options)
    last = of_output(output["last_hidden_state"], inputs, tokens, "NCHW")
    if output.get("pooler_output") is not None:
        features = output["pooler_output"].flatten(1)
    elif last.kind == "map":
        features = last.values.mean((2, 3))
    else:
        features = last.values[:, 0] if tokens.cls else last.values.mean(1)
    return {LAST: last, PENULTIMATE: Activation(features)}


def _transform(
    name: str, folder: Path, image_size: int | None, stated: Mapping[str, Any] | None
) -> Transform:
    """The processor's own resizing and cropping; its rescaling and normalisation are ours.

    `image_size` replaces the crop, and what is resized before it keeps its proportion.
    """
    if stated is not None:
        return checked(ImageRecipe, stated, name).transform()
    import transformers

    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise BackboneError(
            f"{name} does not say how images become its input"
            f" ({' '.join(str(error).split())[:200]}); say so with --transform FILE: {EXAMPLE}"
        ) from None
    if image_size is not None:
        _resize(processor, image_size)
    facts = {key: value for key, value in processor.to_dict().items() if _describes(key, value)}
    scale = 1 / processor.rescale_factor if processor.do_rescale else 1.0
    normalizes = processor.do_normalize
    return Transform(
        geometry=partial(_geometry, processor),
        mean=tuple(processor.image_mean) if normalizes else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if normalizes else (1.0, 1.0, 1.0),
        scale=scale,
        text=f"transformers {json.dumps(facts, sort_keys=True, default=str)}",
    )


def _describes(key: str, value: object) -> bool:
    """Return whether a setting of the processor is about pixels, not about their device."""
    return value is not None and key not in ("device", "return_tensors", "disable_grouping")


def _geometry(processor, image: Image.Image) -> np.ndarray:
    """Pixels uint8 (H, W, 3), resized and cropped as the processor does."""
    given = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels = np.asarray(given["pixel_values"][0]).transpose(1, 2, 0)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _resize(processor, px: int) -> None:
    """Make the processor's output `px` x `px`."""
    crops = getattr(processor, "do_center_crop", False) and processor.crop_size
    before = (processor.crop_size if crops else processor.size) or {}
    native = before.get("height") or before.get("shortest_edge") or px
    size = {key: round(value * px / native) for key, value in dict(processor.size).items() if value}
    processor.size = type(processor.size)(**size) if not isinstance(processor.size, dict) else size
    if crops:
        both = {"height": px, "width": px}
        kind = type(processor.crop_size)
        processor.crop_size = both if kind is dict else kind(**both)

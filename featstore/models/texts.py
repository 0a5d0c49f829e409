"""Encoders of texts: tokens in, pooled states out."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from featstore.errors import BackboneError
from featstore.models import weights
from featstore.models.network import (
    CHUNKS,
    LAST,
    WORDS,
    Activation,
    Inputs,
    Network,
    Tokens,
    at_token,
    blocks,
    of_output,
)
from featstore.models.transforms import TextRecipe, checked
from featstore.places import lies_in
from featstore.spec import PENULTIMATE


class TooLong(ValueError):
    """A text has more tokens than a model takes; `place` says which of its batch."""

    def __init__(self, place: int):
        self.place = place


# A tokenizer changes its own settings while it works, so one thread at a time asks one.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class TextTransform:
    """`prompt` before each text, then tokens, at most `max_length` of them.

    Texts are padded on the right to the longest of their batch, and the padding masked: what else
    is in the batch reaches a text's features by rounding alone. `text` is the canonical
    description: two transforms of one text give the same tokens. `long_texts` as in `TextRecipe`.
    """

    tokenizer: Any
    max_length: int
    text: str
    prompt: str = ""
    long_texts: str = "truncate"
    modality: ClassVar[str] = "text"
    blank: ClassVar[Sequence[str]] = ("a", "two words")

    def batch(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Tokens of texts: "input_ids", "attention_mask" and what else the model takes.

        Each is int64 (b, L).
        """
        return self.met(texts)[0]

    def met(self, texts: Sequence[str]) -> tuple[dict[str, torch.Tensor], Counter[str]]:
        """The tokens of texts, and how many of these were "cut", "chunked" and are "blank".

        Where long texts are chunked, those of a text follow one another, and `CHUNKS` says of each
        whose it is. Raises `TooLong` where such texts are an error.
        """
        prompted = [self.prompt + text for text in texts]
        chunked = self.long_texts == "chunk"
        with _ONE_AT_A_TIME:
            made = self.tokenizer(
                prompted,
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=True,
                return_overflowing_tokens=chunked,
                return_tensors="pt",
            )
            if chunked:
                long = np.bincount(made["overflow_to_sample_mapping"]) > 1
            elif made.encodings:
                long = np.array([bool(one.overflowing) for one in made.encodings])
            else:
                whole = self.tokenizer(prompted, truncation=False, verbose=False)["input_ids"]
                long = np.array([len(ids) > self.max_length for ids in whole])
        if self.long_texts == "error" and long.any():
            raise TooLong(int(long.argmax()))
        batch = dict(made)
        if chunked:
            batch[CHUNKS] = batch.pop("overflow_to_sample_mapping")
        blank = sum(not text.strip() for text in texts)
        return batch, Counter({"chunked" if chunked else "cut": int(long.sum()), "blank": blank})

    def words(self, texts: Sequence[Any]) -> tuple[dict[str, torch.Tensor], Counter[str]]:
        """Return the tokens of texts, and the word of each, int64 (b, L), -1 for no word's.

        A token is of the word in which its last letter lies; `texts` have `spans` of words. How
        many texts were "cut" comes with them.

        Raises `BackboneError` for a tokenizer that does not tell where its tokens lie.
        """
        if not self.tokenizer.is_fast:
            raise BackboneError(
                f"the tokenizer {type(self.tokenizer).__name__} does not tell where tokens lie in a"
                " text; words and spans need a fast one (tokenizer.json)"
            )
        with _ONE_AT_A_TIME:
            made = self.tokenizer(
                [self.prompt + text for text in texts],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=True,
                return_offsets_mapping=True,
                return_tensors="pt",
            )
        batch = dict(made)
        offsets = batch.pop("offset_mapping").numpy() - len(self.prompt)
        found = np.full(offsets.shape[:2], -1)
        for row, text in enumerate(texts):
            first, end = offsets[row].T
            place = np.searchsorted(text.spans[:, 0], end - 1, "right") - 1
            inside = (place >= 0) & (end > first) & (end > 0)
            inside[inside] &= end[inside] - 1 < text.spans[place[inside], 1]
            found[row] = np.where(inside & (batch["attention_mask"][row].numpy() == 1), place, -1)
        cut = sum(bool(one.overflowing) for one in made.encodings)
        return batch | {WORDS: torch.from_numpy(found)}, Counter({"cut": cut})

    def normalized(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch as it is: nothing is left to do on the device."""
        return batch


# Where neither tokenizer nor model sets an end, attention to longer texts costs more than it tells.
_LONGEST = 512

_POOLINGS = {"mean": "avg", "cls": "cls", "max": "max", "lasttoken": "last-token"}
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": torch.nn.Identity,
    "torch.nn.modules.activation.Tanh": torch.nn.Tanh,
    "torch.nn.modules.activation.ReLU": torch.nn.ReLU,
    "torch.nn.modules.activation.GELU": torch.nn.GELU,
}


@dataclass(frozen=True)
class Sentence:
    """Steps from tokens to a vector: pooling, then `dense` layers, then length 1.

    `pooling` is "" where no file says it.
    """

    pooling: str = ""
    dense: tuple[torch.nn.Module, ...] = ()
    normalized: bool = False
    max_length: int | None = None
    prompt: str = ""


def parts(
    name: str,
    model: torch.nn.Module,
    folder: Path,
    pretrained: bool,
    stated: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Transform and network of a text encoder.

    "penultimate" is the sentence's embedding as sentence-transformers' modules make it. Where there
    are none, it is the last layer's mean over the tokens, or of a decoder its last token.
    """
    sentence = _sentence(name, folder, pretrained)
    transform = _transform(name, model, folder, sentence, stated)
    causal = _is_causal(model, transform)
    stated_pooling = bool(sentence.pooling)
    if not stated_pooling:
        sentence = replace(sentence, pooling="last-token" if causal else "avg")
    if sentence.dense:
        model.add_module("sentence_dense", torch.nn.Sequential(*sentence.dense).eval())
        model.requires_grad_(False)
    described = [sentence.pooling]
    described += ["dense"] * bool(sentence.dense) + ["normalized"] * sentence.normalized
    tokens = Tokens(cls=not causal)
    network = Network(
        model=model,
        run=partial(_run, model, sentence, tokens),
        own=(PENULTIMATE, LAST),
        stages=(*blocks(model), LAST, PENULTIMATE),
        pooling=", ".join(described),
        tokens=tokens,
    )
    notes = ()
    if causal and not stated_pooling:
        notes = (
            f"{name} reads from left to right: its taps are a text's last token, which alone sees"
            " all of it (--pool mean takes the mean over tokens)",
        )
    elif causal and sentence.pooling != "last-token":
        what = {"avg": "the mean over its tokens", "cls": "its first token, which sees no other"}
        notes = (
            f"{name} reads from left to right, and its last token alone sees all of a text:"
            f" its taps are {what.get(sentence.pooling, sentence.pooling)}, as its folder says;"
            " --taps last@last takes the last token",
        )
    return {"transform": transform, "network": network, "notes": notes}


def _is_causal(model: torch.nn.Module, transform: TextTransform) -> bool:
    """Return whether nothing that follows the first token changes it, as in a decoder."""
    with torch.inference_mode():
        inputs = transform.batch(["one two three four"])
        ids = inputs["input_ids"]
        if ids.shape[1] < 2:
            return False
        other = ids.clone()
        # a token that the model knows, and that is another one than what it replaces
        other[:, 1:] = torch.where(ids[:, 1:] == ids[:, :1], (ids[:, 1:] + 1) % 2, ids[:, :1])
        both = {key: tensor.repeat(2, 1) for key, tensor in inputs.items()}
        both["input_ids"] = torch.cat([ids, other])
        device = next(model.parameters()).device
        found = model(**{key: tensor.to(device) for key, tensor in both.items()})
        first = found["last_hidden_state"][:, 0].float()
    rounding = max(1e-5, torch.finfo(found["last_hidden_state"].dtype).eps)
    return bool((first[0] - first[1]).abs().max() <= rounding * first.abs().max())


def _run(
    model: torch.nn.Module,
    sentence: Sentence,
    tokens: Tokens,
    inputs: Inputs,
    paths: Collection[str],
) -> dict[str, Activation]:
    taken = {name: tensor for name, tensor in inputs.items() if name not in (WORDS, CHUNKS)}
    output = model(**taken)["last_hidden_state"]
    last = of_output(output, inputs, tokens, "NCHW")
    found = {LAST: last}
    if PENULTIMATE in paths:
        features = _pooled(last, sentence.pooling)
        for layer in sentence.dense:
            features = layer(features)
        if sentence.normalized:
            features = torch.nn.functional.normalize(features, dim=1)
        found[PENULTIMATE] = Activation(features)
    return found


def _pooled(last: Activation, how: str) -> torch.Tensor:
    values, there = last.values.float(), last.mask[:, :, None].float()
    if how == "cls":
        return values[:, 0]
    if how == "last-token":
        return at_token(values, last.mask)
    if how == "max":
        return values.masked_fill(there == 0, -torch.inf).amax(1)
    return (values * there).sum(1) / there.sum(1).clamp_min(1)


def _sentence(name: str, folder: Path, pretrained: bool) -> Sentence:
    """Read sentence-transformers' files in a folder; the mean where there are none.

    Raises `BackboneError` for a module or a pooling that is not known here: passing over it would
    store other embeddings than the model's.
    """
    if not (folder / "modules.json").is_file():
        return Sentence()
    facts: dict[str, Any] = {"dense": ()}
    for module in _json(folder / "modules.json"):
        kind, place = module["type"].rpartition(".")[2], folder / module["path"]
        if not lies_in(folder, place):
            raise BackboneError(f"{name} keeps a module in {module['path']}, outside its folder")
        if kind == "Transformer":
            facts["max_length"] = _json(place / "sentence_bert_config.json").get("max_seq_length")
        elif kind == "Pooling":
            facts["pooling"] = _pooling(name, _json(place / "config.json"))
        elif kind == "Dense":
            facts["dense"] += (_dense(name, place, pretrained),)
        elif kind == "Normalize":
            facts["normalized"] = True
        else:
            raise BackboneError(
                f"{name} makes its embeddings with sentence-transformers' {kind}, which is not"
                " known here; known are Transformer, Pooling, Dense and Normalize"
            )
    told = _json(folder / "config_sentence_transformers.json")
    prompt = (told.get("prompts") or {}).get(told.get("default_prompt_name"), "")
    return Sentence(**facts, prompt=prompt)


def _pooling(name: str, config: dict[str, Any]) -> str:
    modes = config.get("pooling_mode") or [
        mode for key, mode in _MODES.items() if config.get(key, False)
    ]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in _POOLINGS or not config.get("include_prompt", True):
        raise BackboneError(
            f"{name} pools its tokens by {' and '.join(modes) or 'nothing'}; known are"
            f" {', '.join(_POOLINGS)}, one of them, prompt included"
        )
    return _POOLINGS[modes[0]]


def _dense(name: str, place: Path, pretrained: bool) -> torch.nn.Module:
    config = _json(place / "config.json")
    activation = _ACTIVATIONS.get(config.get("activation_function"))
    if activation is None or config.get("use_residual"):
        raise BackboneError(
            f"{name} has a dense layer with {config.get('activation_function')}, which is not known"
            f" here; known are {', '.join(_ACTIVATIONS)}, without residual"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = torch.nn.Linear(
            config["in_features"], config["out_features"], bias=config.get("bias", True)
        )
    files = [place / "model.safetensors", place / "pytorch_model.bin"]
    file = next((file for file in files if file.is_file()), None)
    if file is None and not pretrained:
        return torch.nn.Sequential(layer, activation())
    state = {
        key.removeprefix("linear."): tensor
        for key, tensor in weights.read(file or files[0]).items()
    }
    weights.fit(layer, state, ())
    return torch.nn.Sequential(layer, activation())


def _transform(
    name: str,
    model: torch.nn.Module,
    folder: Path,
    sentence: Sentence,
    stated: Mapping[str, Any] | None,
) -> TextTransform:
    """The tokenizer of the folder; `stated` may set another `max_length` and `prompt`."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise BackboneError(
            f"{name} has no tokenizer that transformers reads:"
            f" {' '.join(str(error).split())[:300]}; give the folder of the whole model"
        ) from None
    asked = checked(TextRecipe, stated or {}, name)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        # what stands there is masked
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    longest = min(
        tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", _LONGEST)
    )
    max_length = asked.max_length or sentence.max_length or longest
    prompt = sentence.prompt if asked.prompt is None else asked.prompt
    facts = {"tokenizer": _digest(tokenizer), "max_length": max_length, "prompt": prompt}
    if asked.long_texts == "chunk":
        facts["long_texts"] = "chunk"
        if not tokenizer.is_fast:
            raise BackboneError(
                f"the tokenizer {type(tokenizer).__name__} does not part long texts; chunks need a"
                " fast one (tokenizer.json)"
            )
    return TextTransform(
        tokenizer=tokenizer,
        max_length=max_length,
        prompt=prompt,
        long_texts=asked.long_texts,
        text=f"tokens {json.dumps(facts, sort_keys=True)}",
    )


def _digest(tokenizer) -> str:
    """SHA-256 of everything that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        described = backend.to_str()
    else:
        described = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    return f"sha256:{hashlib.sha256(described.encode()).hexdigest()}"


def _json(file: Path) -> Any:
    """A JSON file, or {} where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

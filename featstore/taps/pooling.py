"""Pooling: from a layer's map or tokens to one vector of features an image or text."""

from collections.abc import Mapping, Sequence

import torch

from featstore.backbones.activations import PENULTIMATE, Activation, at_last_token
from featstore.errors import UsageError

POOLINGS = ("avg", "max", "cls", "last", "patch-mean", "flatten", "none")


def pooled(activation: Activation, how: str) -> torch.Tensor:
    """The features (b, D) of an activation, float32, in memory of their own.

    * avg, max: over all positions: of a map (b, C, H, W), D = C; of tokens (b, L, C) that are no
      padding, D = C;
    * cls: the first token;
    * last: the last token of a text that is no padding;
    * patch-mean: the mean of the tokens that are patches: all but class and register tokens;
    * flatten: every value, in the order C, H, W of a map and L, C of tokens;
    * none: a vector (b, D), as it is.

    >>> maps = Activation(torch.arange(8.0).reshape(1, 2, 2, 2))
    >>> pooled(maps, "avg"), pooled(maps, "flatten").shape
    (tensor([[1.5000, 5.5000]]), torch.Size([1, 8]))
    """
    values = activation.values
    if how in ("none", "flatten"):
        features = values.reshape(len(values), -1).to(torch.float32)
        return features.clone() if features.data_ptr() == values.data_ptr() else features
    if activation.kind == "map":
        if how == "max":
            return values.amax((2, 3)).to(torch.float32)
        return values.mean((2, 3), dtype=torch.float32)
    if how == "cls":
        return values[:, 0].to(torch.float32, copy=True)
    if how == "last":
        return at_last_token(values, activation.mask).to(torch.float32)
    if how == "patch-mean":
        return values[:, activation.tokens.prefix :].mean(1, dtype=torch.float32)
    return _over_tokens(activation, how)


def _over_tokens(activation: Activation, how: str) -> torch.Tensor:
    """Mean or maximum over the tokens (b, L, C) that are no padding."""
    values = activation.values.to(torch.float32)
    if activation.mask is None:
        return values.amax(1) if how == "max" else values.mean(1)
    there = activation.mask[:, :, None].to(torch.bool)
    if how == "max":
        return values.masked_fill(~there, -torch.inf).amax(1)
    return (values * there).sum(1) / there.sum(1).clamp_min(1)


def parse(pool: str | Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Poolings by path, the one for all other taps under "".

    Raises `UsageError` for a pooling that there is not, and for two of one tap.

    >>> parse(["max", "layer1=flatten"])
    {'': 'max', 'layer1': 'flatten'}
    """
    if pool is None:
        return {}
    if isinstance(pool, Mapping):
        pairs = list(pool.items())
    else:
        texts = [pool] if isinstance(pool, str) else pool
        pairs = [(path, how) for path, _, how in (text.rpartition("=") for text in texts)]
    for path, how in pairs:
        if how not in POOLINGS:
            raise UsageError(f"there is no pooling {how!r}; choose among {', '.join(POOLINGS)}")
        if [other for other, _ in pairs].count(path) > 1:
            whose = f"the tap {path}" if path else "all taps"
            raise UsageError(f"two poolings are given for {whose}; give one")
    return dict(pairs)


def by_default(activation: Activation, own: str) -> str:
    """How a tap is pooled where nobody says: maps by their mean, tokens as the model pools its own.

    `own` is the pooling of the model's penultimate features.
    """
    if activation.kind == "vector":
        return "none"
    if activation.kind == "map":
        return "avg"
    if activation.mask is not None:
        own = own.partition(",")[0]
        return own if own in ("avg", "max", "cls") and applies(own, activation) else "avg"
    return "cls" if own == "cls" and activation.tokens.cls else "patch-mean"


def applies(how: str, activation: Activation) -> bool:
    """Whether a layer of this kind can be pooled so."""
    if activation.kind == "vector":
        return how in ("none", "flatten")
    if activation.kind == "map":
        return how in ("avg", "max", "patch-mean", "flatten")
    if activation.mask is not None:
        return how in ("avg", "max", "last") or (how == "cls" and activation.tokens.cls)
    return how not in ("none", "last") and (how != "cls" or activation.tokens.cls)


def chosen(
    path: str, activation: Activation, asked: Mapping[str, str], own: str, model: str
) -> str:
    """The pooling of one tap: the one asked for, or the default; `UsageError` if it cannot be.

    What is asked of all taps passes over those that are vectors already.
    """
    if path == PENULTIMATE:
        if asked.get(path, own) not in (own, "none"):
            raise UsageError(
                f"{path} of {model} is pooled by the model itself ({own}), not by"
                f" {asked[path]}; tap a layer before it (featstore taps {model} lists them)"
            )
        return own
    how = asked.get(path)
    if how is None and activation.kind != "vector":
        how = asked.get("")
    if how is None:
        return by_default(activation, own)
    if not applies(how, activation):
        shape = " x ".join(map(str, activation.shape))
        why = {
            "map": "a map has positions and no tokens",
            "vector": "it is a vector already",
            "tokens": "it has no class token"
            if activation.mask is None and how == "cls"
            else "it reads from left to right, and the first token sees nothing of the text"
            if how == "cls"
            else "only texts have a last token"
            if how == "last"
            else "texts differ in length"
            if activation.mask is not None
            else "its tokens have to be pooled",
        }[activation.kind]
        fitting = ", ".join(name for name in POOLINGS if applies(name, activation))
        raise UsageError(
            f"{path} of {model} ({shape}) cannot be pooled by {how}: {why}; choose {fitting}"
        )
    return how

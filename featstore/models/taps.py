"""Taps: which activations to keep, by name, and how positions are pooled."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from featstore.errors import BackboneError, UsageError
from featstore.models.network import (
    CHUNKS,
    LAST,
    Activation,
    Backbone,
    Inputs,
    at_token,
    reader,
    reading,
)
from featstore.spec import PENULTIMATE, RESERVED, Tap

POOLINGS = ("avg", "max", "cls", "first", "last", "patch-mean", "flatten", "none")
# These have something behind their colon.
POOLINGS += ("span:COLUMN", "token:N")
# Other names, and poolings that are a position.
_SAME = {"mean": "avg"}
_POSITIONS = {"first": 0, "last": -1}
_TOKEN = re.compile(r"token:(-?\d{1,9})")
_SPAN = re.compile(r"span:(.+?)(?::(first|last|avg|mean|max))?")


def pooled(activation: Activation, how: str) -> torch.Tensor:
    """The features (b, D) of an activation, float32, in memory of their own.

    * avg, max: over all positions: of a map (b, C, H, W), D = C; of tokens (b, L, C) that are no
      padding, D = C;
    * cls: the class token, or a text's first;
    * first, last, token:N: one token of those that are no padding, from 0, or from -1 backwards;
    * span:COLUMN: the tokens of a part of each text, which a column of the data says: the last of
      them in a decoder, their mean in an encoder, or as `span:COLUMN:max` says;
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
    if how.startswith("span:"):
        if values.is_meta:  # the shape alone is asked for
            return values[:, 0]
        return of_words(activation, how.rpartition(":")[2])
    if (position := _position(how)) is not None:
        if activation.mask is None:
            return values[:, position].to(torch.float32, copy=True)
        return at_token(values, activation.mask, position).to(torch.float32)
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


def _position(how: str) -> int | None:
    """Return the token that a pooling takes, None where it takes more than one."""
    found = _TOKEN.fullmatch(how)
    return int(found[1]) if found else _POSITIONS.get(how)


def _canonical(how: str) -> str:
    """Return a pooling by its own name; `UsageError` where there is none of this name."""
    known = _SAME.get(how, how)
    if known in POOLINGS[:-2] or _TOKEN.fullmatch(known):
        return known
    if found := _SPAN.fullmatch(known):
        column, reduction = found.groups()
        return f"span:{column}:{_SAME.get(reduction, reduction)}" if reduction else known
    raise UsageError(
        f"there is no pooling {how!r}; choose among {', '.join(POOLINGS)}, with a number for N, as"
        " in token:-2"
    )


def parse(pool: str | Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Poolings by path, the one for all other taps under "".

    Raises `UsageError` for a pooling that there is not, and for two of one tap.

    >>> parse(["mean", "layer1=flatten"])
    {'': 'avg', 'layer1': 'flatten'}
    """
    if pool is None:
        return {}
    if isinstance(pool, Mapping):
        pairs = list(pool.items())
    else:
        texts = [pool] if isinstance(pool, str) else pool
        pairs = [(path, how) for path, _, how in (text.rpartition("=") for text in texts)]
    pairs = [(path, _canonical(how)) for path, how in pairs]
    for path, _ in pairs:
        if [other for other, _ in pairs].count(path) > 1:
            whose = f"the tap {path}" if path else "all taps"
            raise UsageError(f"two poolings are given for {whose}; give one")
    return dict(pairs)


def by_default(activation: Activation, own: str) -> str:
    """Return the default pooling: maps by their mean, tokens as the model pools its own.

    `own` is the pooling of the model's penultimate features. Where a text's are pooled otherwise
    than a layer's can be, it is the last token of a decoder, and the mean of an encoder.
    """
    if activation.kind == "vector":
        return "none"
    if activation.kind == "map":
        return "avg"
    if activation.mask is not None:
        own = own.partition(",")[0].removesuffix("-token")
        if own in ("avg", "max", "cls", "last") and applies(own, activation):
            return own
        return "avg" if activation.tokens.cls else "last"
    return "cls" if own == "cls" and activation.tokens.cls else "patch-mean"


def applies(how: str, activation: Activation) -> bool:
    """Return whether a layer of this kind can be pooled so."""
    if activation.kind == "vector":
        return how in ("none", "flatten")
    if activation.kind == "map":
        return how in ("avg", "max", "patch-mean", "flatten")
    position = _position(how)
    if activation.mask is not None:
        there = how in ("avg", "max") or position is not None or how.startswith("span:")
        return there or (how == "cls" and activation.tokens.cls)
    if position is not None:
        n_tokens = activation.shape[0]
        return how not in _POSITIONS and -n_tokens <= position < n_tokens
    if how == "none" or how.startswith("span:"):
        return False
    return how != "cls" or activation.tokens.cls


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
            else f"only texts have a {how} token"
            if how in _POSITIONS
            else "only texts have spans"
            if how.startswith("span:")
            else "it has fewer tokens"
            if activation.mask is None and _position(how) is not None
            else "texts differ in length"
            if activation.mask is not None
            else "its tokens have to be pooled",
        }[activation.kind]
        named = {"token:N": "token:0"}
        fitting = ", ".join(name for name in POOLINGS if applies(named.get(name, name), activation))
        raise UsageError(
            f"{path} of {model} ({shape}) cannot be pooled by {how}: {why}; choose {fitting}"
        )
    if how.startswith("span:") and not _SPAN.fullmatch(how)[2]:
        return f"{how}:{'avg' if activation.tokens.cls else 'last'}"
    return how


# How the tokens of one word become its features.
_OF_WORDS = ("first", "last", "avg", "max")


def of_words(activation: Activation, how: str) -> torch.Tensor:
    """The features (w, D) of all words of a batch of texts, in order, float32.

    Each word is the first or last of its tokens, their mean or their maximum.

    >>> values, words = torch.arange(4.0).reshape(1, 4, 1), torch.tensor([[-1, 0, 0, 1]])
    >>> of_words(Activation(values, words=words), "avg").flatten()
    tensor([1.5000, 3.0000])
    """
    words, values = activation.words, activation.values
    counts = words.amax(1) + 1
    whose = (words + (counts.cumsum(0) - counts)[:, None])[words >= 0]
    n_words, chosen = int(counts.sum()), values[words >= 0].to(torch.float32)
    if how in ("first", "last"):
        place = torch.arange(len(whose), device=whose.device)
        reduce = "amin" if how == "first" else "amax"
        ends = torch.zeros(n_words, dtype=torch.long, device=whose.device)
        return chosen[ends.scatter_reduce(0, whose, place, reduce, include_self=False)]
    made = torch.zeros(n_words, chosen.shape[1], device=chosen.device)
    reduce = "mean" if how == "avg" else "amax"
    index = whose[:, None].expand_as(chosen)
    return made.scatter_reduce(0, index, chosen, reduce, include_self=False)


def of_patches(activation: Activation) -> torch.Tensor:
    """The features (b * P, D) of every patch or position of a batch of images, float32.

    Those of an image follow one another, row by row of the picture.
    """
    values = activation.values
    if activation.kind == "map":
        values = values.permute(0, 2, 3, 1)
    else:
        values = values[:, activation.tokens.prefix :]
    return values.reshape(-1, values.shape[-1]).to(torch.float32, copy=True)


def of_chunks(
    read: Callable[[Inputs], dict[str, torch.Tensor]],
    inputs: dict[str, torch.Tensor],
    largest: Collection[str] = (),
) -> dict[str, torch.Tensor]:
    """The features of texts that are read in parts: the mean of these, weighted by their tokens.

    Of the taps `largest` it is their maximum. No more parts are in one pass than there are texts.
    """
    whose = inputs[CHUNKS]
    n_texts, parts = int(whose.max()) + 1, []
    rest = {name: tensor for name, tensor in inputs.items() if name != CHUNKS}
    for start in range(0, len(whose), n_texts):
        some = {name: tensor[start : start + n_texts] for name, tensor in rest.items()}
        parts.append(read(some))
    found = {}
    for name in parts[0]:
        x = torch.cat([part[name] for part in parts])
        made = torch.zeros(n_texts, x.shape[1], dtype=x.dtype, device=x.device)
        if name in largest:
            index = whose.to(x.device)[:, None].expand_as(x)
            found[name] = made.scatter_reduce(0, index, x, "amax", include_self=False)
            continue
        weights = rest["attention_mask"].sum(1).to(x.device, x.dtype)
        sums = weights.new_zeros(n_texts).index_add(0, whose.to(x.device), weights)
        shares = weights / sums[whose.to(x.device)]
        found[name] = made.index_add(0, whose.to(x.device), shares[:, None] * x)
    return found


ALL = "all"

Pool = str | Sequence[str] | Mapping[str, str] | None


@dataclass(frozen=True)
class Taps:
    """Taps in order, with `read`, from prepared inputs to {tap's name: (b, D) float32}.

    Inputs are what `backbone.prepare` gives, on the model's device; one pass reads every tap. A
    text must have `least` tokens, for the positions that are read. Where rows are `kind` "tokens"
    or "patches", features are (rows, D), and an image has so many `positions`, which lie in a
    `grid` of rows and columns, None where that cannot be told. `span` is the column of the data in
    which the part of each text stands that taps read.
    """

    taps: tuple[Tap, ...]
    read: Callable[[Inputs], dict[str, torch.Tensor]]
    least: int = 1
    kind: str = "items"
    positions: int = 0
    span: str | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Layer:
    """A layer that can be tapped: its `path`, one row's `shape`, its default pooling, its width.

    `kind` is "vector" (D,), "map" (C, H, W) or "tokens" (L, C); texts differ in L.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    pooling: str
    dim: int


def resolve(
    backbone: Backbone,
    names: Sequence[str] = (PENULTIMATE,),
    pool: Pool = None,
    rows: str = "items",
) -> Taps:
    """The taps called `names`, their widths found by one forward pass of a blank input.

    "penultimate" is what the classifier sees, pooled as the model does; "last" the features before
    that pooling, where the library shows them; "all" the layers that `layers` lists; anything else
    the path of a module, or of an ONNX file's tensor. `pool` says how maps and tokens become
    vectors: "max" for every tap that is none yet, {"layer1": "flatten"} or ["layer1=flatten"] for
    one; ["h.3@last", "h.3@mean"] or ["all@last", "all@mean"] as names read layers in several ways.
    A tap's name in a store is its name here with "_" for what such a name cannot hold.

    With `rows` "tokens" a row is a word of a text: its last token for a decoder, the mean of its
    tokens otherwise, or as `pool` says; with "patches" a patch or position of an image. "last" is
    then the tap where none is named.

    Raises `UsageError` for layers that the model does not have, a pooling that does not fit, and
    an image size that the model cannot take.
    """
    network = backbone.network
    asked = parse(pool)
    if rows != "items":
        return _of_pieces(backbone, names, asked, rows)
    known = {*network.own, *network.modules()}
    named, reads = _expanded(names, network.stages, known)
    paths = list(dict.fromkeys(path for path, _ in reads))
    unread = [path for path in asked if path and path not in paths]
    if unread:
        raise UsageError(
            f"a pooling is given for {unread[0]}, which is not tapped; tapped: {', '.join(paths)}"
        )
    network.check(backbone.name, paths)
    seen = _blank_pass(backbone, paths)
    paths = [path for path in paths if path in named or _has_a_row_each(seen.get(path))]
    _check_each_row_is_there(backbone, paths, seen)
    seen = {path: seen[path] for path in paths}
    whole = [path for path in paths if path not in named and seen[path].kind == "vector"]
    # "all@mean" passes over what is a vector already
    reads = [(path, None if path in whole else how) for path, how in reads if path in seen]
    reads = list(dict.fromkeys(reads))
    hows: dict[str, dict[str, str]] = {path: {} for path in paths}
    taps = []
    for path, written in reads:
        wanted = asked if written is None else {path: _canonical(written)}
        how = chosen(path, seen[path], wanted, network.pooling, backbone.name)
        name = _store_name(path if written is None else f"{path}@{written}")
        dim = pooled(seen[path], _reduction(path, how)).shape[1]
        taps.append(Tap(name=name, dim=dim, pooling=how))
        hows[path][name] = _reduction(path, how)
    _check_names([path if how is None else f"{path}@{how}" for path, how in reads], taps)
    _check_pool_is_used(asked, seen, backbone.name)
    read = reader(network, {path: partial(_each, hows=hows[path]) for path in paths})

    def of_taps(inputs: Inputs) -> dict[str, torch.Tensor]:
        if isinstance(inputs, dict) and CHUNKS in inputs:
            return of_chunks(of_taps, inputs, [tap.name for tap in taps if tap.pooling == "max"])
        found: dict[str, torch.Tensor] = {}
        for features in read(inputs).values():
            found |= features
        return {tap.name: found[tap.name] for tap in taps}

    positions = [_position(how) for some in hows.values() for how in some.values()]
    needed = [place + 1 if place >= 0 else -place for place in positions if place is not None]
    spans = {_SPAN.fullmatch(tap.pooling)[1] for tap in taps if tap.pooling.startswith("span:")}
    if len(spans) > 1:
        raise UsageError(
            f"taps read the spans {' and '.join(sorted(spans))}; a text has one: make two stores"
        )
    if spans and getattr(backbone.transform, "long_texts", "") == "chunk":
        raise UsageError("a span lies in a text, and chunks part it; leave --long-texts chunk out")
    least = max(needed, default=1)
    if least > 1 and getattr(backbone.transform, "long_texts", "") == "chunk":
        raise UsageError(
            f"a tap takes token {least} of a text, and the parts of a long one have each their own;"
            " leave --long-texts chunk out, or pool by first, last, mean or max"
        )
    return Taps(tuple(taps), of_taps, least, span=next(iter(spans), None))


def _of_pieces(
    backbone: Backbone, names: Sequence[str], asked: Mapping[str, str], rows: str
) -> Taps:
    """Return the taps of words or patches."""
    network, wanted = backbone.network, {"tokens": ("text",), "patches": ("image", "tensor")}[rows]
    if backbone.modality not in wanted:
        raise UsageError(
            f"rows are {rows}, which {wanted[0]}s have, and {backbone.name} takes"
            f" {backbone.modality}s; leave --rows-are out"
        )
    if getattr(backbone.transform, "long_texts", "") == "chunk":
        raise UsageError("rows are tokens, and chunks are of whole texts; leave --long-texts out")
    if tuple(names) == (PENULTIMATE,):
        names = (LAST,)
    known = {*network.own, *network.modules()}
    named, reads = _expanded(names, network.stages, known)
    paths = list(dict.fromkeys(path for path, _ in reads))
    network.check(backbone.name, paths)
    seen = _blank_pass(backbone, paths)
    there = {path: one for path, one in seen.items() if _has_pieces(one, rows)}
    for path in paths:
        if path in named and path not in there and (path, None) in reads:
            raise UsageError(
                f"{path} of {backbone.name} has no {rows}; tap a layer that has"
                f" (featstore taps {backbone.name} lists them)"
            )
    reads = [(path, how) for path, how in reads if path in there]
    taps, hows = [], {}
    for path, written in reads:
        how = asked.get(path, asked.get("")) if written is None else _canonical(written)
        if rows == "patches" and how is not None:
            raise UsageError(f"patches are not pooled; leave {how} out")
        if rows == "tokens":
            how = how or ("avg" if there[path].tokens.cls else "last")
            if how not in _OF_WORDS:
                raise UsageError(
                    f"the tokens of a word cannot be pooled by {how}; choose {', '.join(_OF_WORDS)}"
                )
        one = there[path]
        dim = one.shape[0] if one.kind == "map" else one.shape[1]
        name = _store_name(path if written is None else f"{path}@{written}")
        taps.append(Tap(name=name, dim=dim, pooling=f"{rows}: {how}" if how else rows))
        hows.setdefault(path, {})[name] = how
    _check_names([path if how is None else f"{path}@{how}" for path, how in reads], taps)
    counts = {tap.name: _positions(there[path]) for tap, (path, _) in zip(taps, reads, strict=True)}
    if rows == "patches" and len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(f"layers of one store have as many positions, and these have {told}")

    grids = {_grid(there[path], backbone) for path, _ in reads} if rows == "patches" else {None}
    grid = next(iter(grids)) if len(grids) == 1 else None

    def each(activation: Activation, some: Mapping[str, str | None]) -> dict[str, torch.Tensor]:
        return {
            name: of_patches(activation) if how is None else of_words(activation, how)
            for name, how in some.items()
        }

    read = reader(network, {path: partial(each, some=some) for path, some in hows.items()})

    def of_taps(inputs: Inputs) -> dict[str, torch.Tensor]:
        found = {name: x for some in read(inputs).values() for name, x in some.items()}
        return {tap.name: found[tap.name] for tap in taps}

    return Taps(tuple(taps), of_taps, 1, rows, next(iter(counts.values())), grid=grid)


def _has_pieces(activation: Activation, rows: str) -> bool:
    if not _has_a_row_each(activation):
        return False
    texts = activation.kind == "tokens" and activation.mask is not None
    images = activation.kind == "map" or (activation.kind == "tokens" and not texts)
    return texts if rows == "tokens" else images


def _positions(activation: Activation) -> int:
    """Return how many patches or positions an image has at a layer."""
    if activation.kind == "map":
        return activation.shape[1] * activation.shape[2]
    return activation.shape[0] - activation.tokens.prefix


def _grid(activation: Activation, backbone: Backbone) -> tuple[int, int] | None:
    """Return the rows and columns of patches or positions, as the image has its sides."""
    if activation.kind == "map":
        return activation.shape[1], activation.shape[2]
    height, width = backbone.transform.sides or (1, 1)
    count = _positions(activation)
    rows = round((count * height / width) ** 0.5)
    columns = round((count * width / height) ** 0.5)
    return (rows, columns) if rows * columns == count else None


def _each(activation: Activation, hows: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Return the features of one layer by the name of each tap that pools it."""
    return {name: pooled(activation, how) for name, how in hows.items()}


def layers(backbone: Backbone, *, modules: bool = False) -> list[Layer]:
    """The layers that "all" stands for, in order, or with `modules` every layer that runs.

    Shapes are those of one forward pass of a blank input.
    """
    network = backbone.network
    known = network.stages
    if modules:
        known = (*network.own, *(path for path in network.modules() if path not in network.own))
    found = []
    for path, activation in _blank_pass(backbone, known).items():
        if not _has_a_row_each(activation):
            continue
        how = chosen(path, activation, {}, network.pooling, backbone.name)
        dim = pooled(activation, _reduction(path, how)).shape[1]
        found.append(Layer(path, activation.kind, activation.shape, how, dim))
    return found


def modules_of(network: object) -> list[tuple[str, str, int]]:
    """Return the taps of a network of one's own: paths, what is there, and how many weights it has.

    The last is "output", what the network returns. Of a pair of a network and its transform, as
    code may give it, it is the network.

    Raises `UsageError` for what is no network.

    >>> modules_of(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()))
    [('0', 'Linear', 8), ('1', 'Tanh', 0), ('output', 'Sequential', 8)]
    """
    if isinstance(network, tuple) and len(network) == 2:
        network = network[0]
    owner = getattr(network, "__self__", network)
    if not isinstance(owner, torch.nn.Module):
        if not callable(network):
            raise UsageError(f"there is no network: it is of type {type(network).__name__}")
        return [("output", getattr(network, "__name__", type(network).__name__), 0)]
    named = [(path, one) for path, one in owner.named_modules() if path]
    named += [] if "output" in dict(named) else [("output", owner)]
    return [
        (path, type(one).__name__, sum(weight.numel() for weight in one.parameters()))
        for path, one in named
    ]


_Read = tuple[str, str | None]


def _expanded(
    names: Sequence[str], stages: Sequence[str], known: Collection[str]
) -> tuple[list[str], list[_Read]]:
    """Return the paths that were named, and (path, pooling or None) of all that is read, in order.

    "all" is every stage; what stands behind the last "@" is a pooling, unless a path has it.
    """
    names = [names] if isinstance(names, str) else list(names)
    repeated = [name for name in names if names.count(name) > 1]
    if not names or repeated:
        what = f"tap {repeated[0]!r} is named twice" if repeated else "no tap is named"
        raise UsageError(f"{what}; name each once, as in penultimate,layer1")
    reads: list[_Read] = []
    # no model is without its penultimate features: where they fail, "all" does
    named = [PENULTIMATE]
    for name in names:
        path, at, how = name.rpartition("@")
        if name in known or not at:
            path, how = name, ""
        if path == ALL:
            reads += [(one, None if one == PENULTIMATE else how or None) for one in stages]
            continue
        if how:
            _canonical(how)
        named.append(path)
        reads.append((path, how or None))
    return named, list(dict.fromkeys(reads))


def _reduction(path: str, how: str) -> str:
    """Return the reader's pooling: the model has pooled its penultimate features already."""
    return "none" if path == PENULTIMATE else how


def _store_name(path: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.\-]+", "_", path)
    return f"{name}_" if name in RESERVED else re.sub(r"^[.\-]", "_", name)


def _check_names(paths: Sequence[str], taps: Sequence[Tap]) -> None:
    names = [tap.name for tap in taps]
    for name in names:
        same = [path for path, other in zip(paths, names, strict=True) if other == name]
        if len(same) > 1:
            raise UsageError(
                f"{' and '.join(same)} would both be stored as {name}; tap them in two stores"
            )


def _check_pool_is_used(asked: Mapping[str, str], seen: Mapping[str, Activation], name: str):
    how = asked.get("", "none")
    if how not in ("none", "flatten") and all(
        path == PENULTIMATE or activation.kind == "vector" for path, activation in seen.items()
    ):
        raise UsageError(
            f"nothing is left to pool by {how}: {', '.join(seen)} of {name} are pooled by the"
            f" model itself; tap a layer before (featstore taps {name} lists them)"
        )


def _blank_pass(backbone: Backbone, paths: Sequence[str]) -> dict[str, Activation]:
    """Activations of two blank rows: two, so that a layer without a row for each is seen."""
    batch = _moved(backbone.encode_batch(backbone.transform.blank), backbone.model)
    keep = dict.fromkeys(paths, _shape_alone)
    try:
        with torch.inference_mode(), reading(backbone.network, keep) as read:
            return read(backbone.prepare(batch))
    except Exception as error:
        if backbone.modality == "tensor":
            raise UsageError(
                f"{backbone.name} cannot take {_of_batch(batch)}:"
                f" {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}; give data or"
                " transform= that fit it"
            ) from None
        if not isinstance(error, RuntimeError | AssertionError | ValueError):
            raise
        what = "texts" if backbone.modality == "text" else f"images of {batch.shape[1]} px"
        raise UsageError(
            f"{backbone.name} cannot take {what}:"
            f" {' '.join(str(error).split())[:300]}; choose another --image-size"
        ) from None


def _of_batch(batch: Inputs) -> str:
    if isinstance(batch, dict):
        named = (f"{name} {tuple(one.shape)} of {one.dtype}" for name, one in batch.items())
        return f"a batch of {', '.join(named)}"
    return f"a batch {tuple(batch.shape)} of {batch.dtype}"


def _shape_alone(activation: Activation) -> Activation:
    """The activation without its numbers, so that every layer of a model can be asked at once."""
    mask = activation.mask if activation.mask is None else activation.mask.to("meta")
    return replace(activation, values=activation.values.to("meta"), mask=mask)


def _has_a_row_each(activation: Activation | None) -> bool:
    """Return whether a layer gave a vector, map or tokens for each of the two blank rows."""
    return activation and activation.kind != "other" and len(activation.values) == 2


def _check_each_row_is_there(backbone: Backbone, paths, seen: Mapping[str, Activation]) -> None:
    for path in paths:
        if path not in seen:
            modules = backbone.network.modules()
            below = next((member for member in modules if member.startswith(f"{path}.")), None)
            other = [stage for stage in backbone.network.stages if stage in modules][-3:]
            inside = f"; tap a layer inside, as {below}" if below else "; tap another layer"
            inside += f", as {', '.join(other)}" if other and not below else ""
            raise UsageError(
                f"{path} of {backbone.name} gives no activations in a forward pass{inside}"
            )
        shape = tuple(seen[path].values.shape)
        if path == PENULTIMATE and len(shape) != 2:
            raise BackboneError(
                f"{backbone.name} has no penultimate features: two images gave {shape}, not (2, D);"
                " take another model, or tap another layer"
            )
        if seen[path].kind == "other" or shape[0] != 2:
            raise UsageError(
                f"{path} of {backbone.name} gave {shape} for two inputs: no vector (D,), map"
                " (C, H, W) or tokens (L, C) for each; tap another layer"
            )


def _moved(batch: Inputs, model: torch.nn.Module) -> Inputs:
    weight = next(model.parameters(), None)
    if weight is None:
        return batch
    if isinstance(batch, dict):
        return {name: tensor.to(weight.device) for name, tensor in batch.items()}
    return batch.to(weight.device)

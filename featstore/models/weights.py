"""Weight files: read without running anything in them, fitted key by key, identified by content.

A checkpoint of a training run holds more than one network: an average of the weights (EMA), a
teacher and its student, a momentum encoder, heads, queues. `Checkpoint` has every state dict of a
file, and `network` finds the one that a model asks for by the names and shapes of its tensors.
"""

import argparse
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from featstore.downloads import mistaken
from featstore.errors import BackboneError, UsageError

State = dict[str, torch.Tensor]

# Where training scripts put the state dict in a checkpoint, the first of several that is there.
_ENVELOPES = ("state_dict", "model", "model_state_dict")
# What a wrapper puts before each key, and what it may put inside one.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_INSIDE = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
# Names under which a network stands in another module, whatever its own layout.
_HOLDERS = frozenset(
    """
    module model models net network backbone encoder visual trunk base student teacher online
    target encoder_q base_encoder online_encoder target_encoder ema ema_model image_encoder
    vision_encoder vision_model feature_extractor body _feature_blocks base_model
    classy_state_dict
    """.split()
)
# A counter of training steps that older checkpoints lack; evaluation never reads it.
_COUNTER = "num_batches_tracked"
_LISTED = 8
_DEEPEST = 6
# States of optimizers are tensors by name too, and no network.
_TRAINING = re.compile(r"optim|sched|scaler|callback|loops|rng", re.IGNORECASE)
# Modules and tensors that stand beside a network, told by a word of their name: no feature is
# computed from them. Any other one that a model does not have is another architecture.
_BESIDE = frozenset(
    """
    head heads projector projectors projection proj predictor predictors prediction prototype
    prototypes queue queues decoder classifier linear fc logit logits loss losses criterion
    teacher student momentum memory bank center centers mask aux auxiliary ema metric metrics
    arcface margin normalizer normalize normalization preprocessor attacker discriminator averaged
    neck rotation jigsaw temperature mean std step
    """.split()
)
# Words that tell an average of weights.
_AVERAGES = {"ema", "swa", "averaged", "polyak", "shadow"}
# How networks of one run rank by a word of their place: the lower is taken. The encoder of a
# joint-embedding predictor comes after the target encoder that it predicts.
_ROLES = {"teacher": 3, "student": 4} | dict.fromkeys(
    ("momentum", "target", "k", "key", "attacker"), 5
)
_PLAIN, _CONTEXT = 2, 6
# What training scripts put beside the tensors: options and NumPy's numbers, which run nothing.
_HARMLESS = [
    argparse.Namespace,
    np.dtype,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    np.float64(0).__reduce__()[0],
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
]


@dataclass(frozen=True)
class Network:
    """One network of a checkpoint, under the names that a model has for its tensors.

    `place` is where in the file its state dict lies, "teacher" or "classy_state_dict/base_model",
    and `prefix` what stood before each key there. `beside` are keys of that state dict that are not
    the network's, `others` the other networks of the file that would have fitted, and `changes`
    tells which tensors were converted.
    """

    place: str
    prefix: str
    state: State
    beside: Mapping[str, torch.Tensor]
    others: tuple["Network", ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Place and prefix, as a person reads them."""
        if self.place and self.prefix:
            return f"{self.prefix}* of {self.place}"
        return self.place or (f"{self.prefix}*" if self.prefix else "the keys without prefix")

    @property
    def is_plain(self) -> bool:
        """Return whether it lies where a training script puts the one network that it trains."""
        names = [*self.place.split("/"), *self.prefix.split(".")]
        return set(names) <= {"", "module", *_ENVELOPES}


@dataclass(frozen=True)
class Checkpoint:
    """A weight file that has been read: its state dicts by their place in it, "" its own keys."""

    path: Path
    states: Mapping[str, State]

    @classmethod
    def read(cls, path: str | Path, key: str | None = None) -> "Checkpoint":
        """Read a .safetensors, .pth or .pt file, told by its content; `key` keeps one place.

        Raises `UsageError` where there is no file or no such place, `BackboneError` where it holds
        no state dict, or asks for Python objects to be unpickled, which could run anything.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no weight file {path}; give a .pth, .pt or .safetensors")
        loaded = _loaded(path)
        states = {place: _without_wrappers(state) for place, state in _states(loaded)}
        if not states:
            raise BackboneError(f"{path} holds {_no_state(loaded)}")
        if key is not None:
            states = _below(path, states, key)
        return cls(path, states)

    def plain(self) -> State:
        """The state dict of a file of one module: envelopes and prefixes of all keys taken off."""
        place = min(self.states, key=lambda place: (_rank(place, ""), len(place)))
        return _without_prefix(self.states[place])

    def network(
        self,
        wanted: Mapping[str, torch.Tensor],
        head: Iterable[str] = (),
        *,
        prefix: str | None = None,
        conversions: Sequence[Callable[[State], State]] = (),
    ) -> Network:
        """The network of the file that has the tensors `wanted`, but for those of `head`.

        Of several the average of weights (EMA) is taken rather than the weights, a teacher rather
        than its student, and what is trained by gradients rather than its momentum copy; `prefix`
        decides otherwise. `conversions` give a state dict the model's names and shapes; the first
        that makes one fit counts, and none is used where a state dict fits as it is.

        Raises `UsageError` where no key has the prefix, or where no rule decides between networks,
        and `BackboneError` listing missing, unexpected and wrongly shaped keys where none fits.
        """
        model = _Wanted.of(wanted, tuple(head))
        found = [
            (place, before)
            for place, state in self.states.items()
            for before in model.prefixes(state, prefix)
        ]
        if not found:
            raise UsageError(self._no_prefix(prefix))
        for convert in (None, *conversions):
            made = (self._candidate(place, before, convert, model) for place, before in found)
            candidates = [one for one in made if one]
            fitting = [one for one in candidates if not any(model.problems(one, found))]
            if fitting:
                return self._chosen(fitting, model)
            if convert is None:
                nearest = max(candidates, key=model.likeness)
        problems = "; ".join(filter(None, model.told(nearest, found)))
        raise BackboneError(
            f"the weights do not fit the model: {problems}; {self._remedy(nearest)}"
        )

    def _candidate(self, place: str, prefix: str, convert, model: "_Wanted") -> Network | None:
        """The keys with a prefix, converted; None where the conversion is of another layout."""
        state = self.states[place]
        inside = {k.removeprefix(prefix): state[k] for k in state if k.startswith(prefix)}
        beside = {key: state[key] for key in state if not key.startswith(prefix)}
        if convert is None:
            return Network(place, prefix, inside, beside)
        try:
            made = dict(convert(dict(inside)))
            changes = tuple(
                f"{key} {tuple(inside[key].shape)} to {tuple(made[key].shape)}"
                for key in made
                if key in inside and made[key].shape != inside[key].shape
            )
        except Exception:  # written for one layout, a conversion may raise anything for another
            return None
        # a tensor that is there under another name is not lost
        kept = {id(tensor) for tensor in made.values()}
        lost = (
            key
            for key in inside
            if key not in made and id(inside[key]) not in kept and model.is_beside(key)
        )
        beside |= {f"{prefix}{key}": inside[key] for key in lost}
        return Network(place, prefix, made, beside, changes=changes)

    def _chosen(self, fitting: list[Network], model: "_Wanted") -> Network:
        """The network that the rules name, with the others that fit and the keys beside it."""
        places = [(network.place, network.prefix) for network in fitting]

        def rank(network: Network) -> tuple[int, ...]:
            return _rank(network.place, network.prefix, places)

        first, *rest = sorted(fitting, key=rank)
        rest = [other for other in rest if not model.equal(first.state, other.state)]
        if rest and rank(rest[0]) == rank(first):
            raise UsageError(
                f"{self.path} holds several networks that fit: {first.where} and {rest[0].where};"
                " choose with --weights-key and --weights-prefix"
            )
        taken = {key: tensor for key, tensor in first.state.items() if key in model.shapes}
        extra = {f"{first.prefix}{k}": first.state[k] for k in first.state if k not in taken}
        return replace(first, state=taken, beside={**first.beside, **extra}, others=tuple(rest))

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return what was taken of the file and left out, if the file is not the network."""
        covered = {(other.place, other.prefix) for other in network.others}
        left = groups(
            key
            for key in network.beside
            if not any(p == network.place and b and key.startswith(b) for p, b in covered)
        )
        for place, state in self.states.items():
            if place == network.place or place in {there for there, _ in covered}:
                continue
            above = place == "" or network.place.startswith(f"{place}/")
            left += groups(state) if above else [f"{place} ({_counted(len(state))})"]
        told = []
        if network.others or not network.is_plain:
            told.append(f"took {network.where}, {_counted(len(network.state))}")
        if network.others:
            others = " or ".join(other.where for other in network.others[:_LISTED])
            told[-1] += f", and not {others}: {_rule(network)}"
        if left:
            told.append(f"left out {_some(left)}")
        if network.others:
            told.append("--weights-key and --weights-prefix choose otherwise")
        notes = [f"{self.path.name}: {'; '.join(told)}"] if told else []
        if network.changes:
            notes.append(
                f"{self.path.name}: interpolated to the model's size: {_some(network.changes)}"
            )
        for key, tensor in network.beside.items():
            if re.search(r"(^|[._])(mean|std|mu|sigma)$", key) and 0 < tensor.numel() <= 4:
                values = ", ".join(f"{value:.4g}" for value in tensor.flatten().tolist())
                notes.append(
                    f"{self.path.name}: {key} ({values}) is not used: the input is normalised as"
                    " the model's transform says; --transform states another"
                )
        return tuple(notes)

    def _no_prefix(self, prefix: str | None) -> str:
        tops = dict.fromkeys(_top(key) for state in self.states.values() for key in state)
        return (
            f"no key of {self.path} begins with {prefix!r}; its keys begin with"
            f" {_some([f'{top}.' for top in tops])}"
        )

    def _remedy(self, nearest: Network) -> str:
        part = re.search(r"-(\d{5})-of-(\d{5})", self.path.name)
        if part:
            return f"this is part {int(part[1])} of {int(part[2])}: save all of them as one file"
        shared = _shared(self.states[nearest.place])
        if shared:
            return f"all keys begin with {shared!r}; give the weights of this architecture"
        return "give the weights of this architecture"


@dataclass(frozen=True)
class _Wanted:
    """Demands of a model on a state dict: shapes by name, and the names it needs."""

    shapes: Mapping[str, tuple[int, ...]]
    required: frozenset[str]
    head: tuple[str, ...]

    @classmethod
    def of(cls, wanted: Mapping[str, torch.Tensor], head: tuple[str, ...]) -> "_Wanted":
        shapes = {key: tuple(tensor.shape) for key, tensor in wanted.items()}
        needed = (k for k in shapes if not k.endswith(_COUNTER) and not _within_any(k, head))
        return cls(shapes, frozenset(needed), head)

    def prefixes(self, state: State, stated: str | None) -> list[str]:
        """Prefixes under which the network may stand: those with all its names, and usual ones."""
        if stated is not None:
            forms = [f"{stated.rstrip('.')}.", stated] if stated else [""]
            forms += [f"{outer}{form}" for outer in ("module.", "model.") for form in forms if form]
            return [form for form in forms if any(key.startswith(form) for key in state)][:1]
        found = {"": 0}
        for key in state:
            starts = [0, *(dot.end() for dot in re.finditer(r"\.", key))]
            for start in starts:
                prefix = key[:start]
                if key[start:] in self.required:
                    found[prefix] = found.get(prefix, 0) + 1
                elif all(part in _HOLDERS for part in prefix.split(".") if part):
                    found.setdefault(prefix, 0)
        return [
            prefix
            for prefix, count in found.items()
            if count == len(self.required)
            or all(part in _HOLDERS for part in prefix.split(".") if part)
        ]

    def problems(self, network: Network, found: Iterable[tuple[str, str]]) -> tuple[list[str], ...]:
        """Keys that are missing, unexpected and of another shape, the head's left out."""
        state = network.state
        # a prefix below this one is of another candidate, and its keys are no part of this one
        inner = tuple(
            before.removeprefix(network.prefix)
            for place, before in found
            if place == network.place
            and before.startswith(network.prefix)
            and before != network.prefix
        )
        missing = [key for key in self.shapes if key in self.required and key not in state]
        unexpected = [
            key
            for key in state
            if key not in self.shapes
            and not _within_any(key, self.head)
            and not self.is_beside(key)
            and not (inner and key.startswith(inner) and _top(key) not in self.tops)
        ]
        reshaped = [
            key
            for key in self.shapes
            if key in self.required and key in state and tuple(state[key].shape) != self.shapes[key]
        ]
        return missing, unexpected, reshaped

    def told(self, network: Network, found: Iterable[tuple[str, str]]) -> list[str]:
        """The problems in words."""
        missing, unexpected, reshaped = self.problems(network, found)
        shapes = [
            f"{key} {tuple(network.state[key].shape)} for {self.shapes[key]}" for key in reshaped
        ]
        return [
            listed("missing", missing),
            listed("unexpected", unexpected),
            listed("of another shape", shapes),
        ]

    def likeness(self, network: Network) -> tuple[int, int, int]:
        """Return the share that a network has of what is asked for, and its prefix's brevity."""
        common = len(self.required & network.state.keys())
        return common, len(network.state), len(network.prefix)

    @cached_property
    def tops(self) -> set[str]:
        """Names of the model's outermost modules and tensors."""
        return {_top(key) for key in self.shapes}

    def is_beside(self, key: str) -> bool:
        """Return whether a key's name is of a module that no feature is computed from."""
        words = re.split(r"[_\W\d]+", _top(key).lower())
        return _top(key) not in self.tops and not _BESIDE.isdisjoint(words)

    def equal(self, one: State, other: State) -> bool:
        """Return whether two state dicts have the same network."""
        return all(torch.equal(one[key], other[key]) for key in self.required)


def read(path: str | Path) -> State:
    """The state dict in a `.safetensors`, `.pth` or `.pt` file, unwrapped.

    Envelopes (`state_dict`, `model`) and prefixes of all keys (`module.`, `model.`) are taken off.
    Raises as `Checkpoint.read`.
    """
    return Checkpoint.read(path).plain()


def fit(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], head: Iterable[str]
) -> tuple[str, ...]:
    """Load `state` into `model`; returns the names of `head` modules it was of no use for.

    Every key has to fit, but for the classifier modules named by `head`: a head for other classes
    is left out whole, since no feature depends on it. Raises `BackboneError` listing missing,
    unexpected and wrongly shaped keys.
    """
    there = model.state_dict()
    missing = [key for key in there if key not in state and not key.endswith(_COUNTER)]
    unexpected = [key for key in state if key not in there]
    reshaped = [key for key in there if key in state and state[key].shape != there[key].shape]
    misfits = [*missing, *unexpected, *reshaped]
    left_out = tuple(name for name in head if any(_within(key, name) for key in misfits))

    def serious(keys: list[str]) -> list[str]:
        return [key for key in keys if not any(_within(key, name) for name in left_out)]

    problems = [
        listed("missing", serious(missing)),
        listed("unexpected", serious(unexpected)),
        listed(
            "of another shape",
            [
                f"{key} {tuple(state[key].shape)} for {tuple(there[key].shape)}"
                for key in serious(reshaped)
            ],
        ),
    ]
    if any(problems):
        raise BackboneError(
            f"the weights do not fit the model: {'; '.join(filter(None, problems))};"
            " give the weights of this architecture"
        )
    fitting = {
        key: tensor
        for key, tensor in state.items()
        if not any(_within(key, name) for name in left_out)
    }
    model.load_state_dict(fitting, strict=False)
    return left_out


def identity(state: Mapping[str, torch.Tensor]) -> str:
    """`sha256:<hex>` over the sorted (name, dtype, shape, bytes) of all tensors.

    >>> one = {"a": torch.zeros(2), "b": torch.ones(1)}
    >>> identity(one) == identity(dict(reversed(one.items())))
    True
    >>> identity(one) == identity({"a": torch.zeros(2, 1), "b": torch.ones(1)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"


def _loaded(path: Path) -> object:
    """Load a file as what its first bytes say that it is."""
    wrong = mistaken(path)
    if wrong:
        raise BackboneError(f"{path} is {wrong}")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and not start.startswith((b"PK", b"\x80")):
        return _safetensors(path)
    if start.startswith(b"PK"):
        _check_archive(path)
    return _pickled(path)


def _safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except SafetensorError as error:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        cut = "incomplete" in str(error).lower() or header + 8 > size
        why = f"the end is missing after {size:,} bytes ({error})" if cut else str(error)
        raise BackboneError(f"{path} is no whole safetensors file: {why}; fetch it again") from None


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that is no state dict which torch saved."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends or any("/code/" in name for name in names):
        what = "a TorchScript archive, which brings code: save the state dict of the module in it"
    elif "data.pkl" in ends:
        return
    elif "model.weights.h5" in ends:
        what = "a model of Keras, and weights of torch are needed: convert it"
    elif names and all(name.endswith(".npy") for name in names):
        what = "an archive of NumPy arrays (.npz), and no state dict of torch: convert it"
    else:
        what = f"a zip archive of {_some(names) or 'nothing'}: unpack it, and give the file inside"
    raise BackboneError(f"{path} is {what}")


def _pickled(path: Path) -> object:
    try:
        # by its name alone torch would read a .safetensors otherwise; what it warns of is told here
        with (
            path.open("rb") as file,
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals(_HARMLESS),
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        text = str(error) or type(error).__name__
    # torch calls what a pickle asks to be imported a GLOBAL
    wanted = re.search(r"GLOBAL (\S+)", text)
    if wanted:
        raise BackboneError(
            f"{path} holds more than tensors ({wanted[1]}); unpickling it could run anything, so"
            " it is refused: save the state dict alone, with torch.save(model.state_dict(), FILE),"
            " or as safetensors"
        )
    # the rest of what torch says is advice to read the file unsafely, which is never wanted
    lines = [line.strip() for line in text.splitlines() if "eights" not in line and line.strip()]
    reason = lines[0][:200] if lines and "Unsupported" not in lines[0] else "damaged"
    with path.open("rb") as file:
        start = file.read(8).hex(" ")
    raise BackboneError(
        f"{path} is no weight file that torch reads ({reason}; its first bytes are {start}); fetch"
        " it again, or give another"
    )


def _states(tree: object, place: str = "") -> Iterator[tuple[str, State]]:
    """Each mapping of names to tensors below a checkpoint, by the keys that lead to it."""
    if not isinstance(tree, Mapping) or place.count("/") > _DEEPEST:
        return
    named = {key: value for key, value in tree.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield place, tensors
    for key, value in named.items():
        if not _TRAINING.search(key):
            yield from _states(value, f"{place}/{key}" if place else key)


def _no_state(loaded: object) -> str:
    if not isinstance(loaded, Mapping) or not loaded:
        return f"a {type(loaded).__name__}, and no state dict; save model.state_dict()"
    other = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    return f"no state dict: {listed('not a tensor', other)}; save model.state_dict()"


def _below(path: Path, states: Mapping[str, State], key: str) -> dict[str, State]:
    """The state dicts at a place of the file and below it."""
    for form in (key, key.replace(".", "/")):
        kept = {
            place: state
            for place, state in states.items()
            if place == form or place.startswith(f"{form}/")
        }
        if kept:
            return kept
    tops = {_top(name) for state in states.values() for name in state}
    hint = f"; keys begin so: give --weights-prefix {key}. instead" if key in tops else ""
    there = _some([place for place in states if place]) or "no key but those of tensors"
    raise UsageError(f"{path} has no state dict under {key!r}; it has {there}{hint}")


def _without_wrappers(state: State) -> State:
    """The state without what compiling and sharding put inside names, unless names would clash."""
    names = [_INSIDE.sub("", key) for key in state]
    if len(set(names)) < len(names):
        return state
    return dict(zip(names, state.values(), strict=True))


def _without_prefix(state: State) -> State:
    while True:
        shared = next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None)
        if shared is None:
            return state
        state = {key.removeprefix(shared): tensor for key, tensor in state.items()}


def _rank(place: str, prefix: str, others: Iterable[tuple[str, str]] = ()) -> tuple[int, ...]:
    """Return the rank of a network among several of a file: the least is taken."""
    parts = [part for part in re.split(r"[/.]", f"{place}/{prefix}".lower()) if part]
    words = {word for part in parts for word in part.split("_")}
    role = next((rank for word, rank in _ROLES.items() if word in words), _PLAIN)
    predicts = any("target_encoder" in f"{there}/{before}" for there, before in others)
    if role == _PLAIN and ("context_encoder" in parts or (predicts and "encoder" in parts)):
        role = _CONTEXT
    envelope = re.sub(r"_?ema_?", "", place.partition("/")[0].lower())
    order = [*_ENVELOPES, ""]
    return (
        role,
        int(_AVERAGES.isdisjoint(words)),
        order.index(envelope) if envelope in order else len(order),
        int(bool(prefix)) + int({"online", "q"}.isdisjoint(words)),
    )


def _rule(network: Network) -> str:
    """The rule by which a network is taken before the first of the others that fit."""
    places = [(one.place, one.prefix) for one in (network, *network.others)]
    mine, theirs = (_rank(*place, places) for place in places[:2])
    if mine[0] != theirs[0]:
        return {
            _ROLES["teacher"]: "the network itself is taken before its teacher",
            _ROLES["student"]: "a teacher is taken before its student",
            _ROLES["momentum"]: "what gradients train is taken before its momentum copy",
        }.get(theirs[0], "the target encoder is taken before the one that predicts it")
    if mine[1] != theirs[1]:
        return "the average of weights (EMA) is taken before the weights, as timm does"
    return "it lies where most training scripts put it"


def _shared(keys: Iterable[str]) -> str:
    """The longest run of whole names that all keys begin with."""
    common = []
    for parts in zip(*(key.split(".")[:-1] for key in keys), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join([*common, ""]) if common else ""


def groups(keys: Iterable[str]) -> list[str]:
    """Keys by the module that holds them, with their number: `head (4 tensors)`."""
    counts: dict[str, list[str]] = {}
    keys = list(keys)
    outer = _shared(keys) if len(keys) > 1 else ""
    for key in keys:
        counts.setdefault(f"{outer}{_top(key.removeprefix(outer))}", []).append(key)
    return [
        f"{name} ({_counted(len(group))})" if len(group) > 1 else group[0]
        for name, group in counts.items()
    ]


def _counted(n: int) -> str:
    return f"{n:,} tensor{'' if n == 1 else 's'}"


def _top(key: str) -> str:
    return key.partition(".")[0]


def _within(key: str, module: str) -> bool:
    return key.startswith(f"{module}.")


def _within_any(key: str, modules: Iterable[str]) -> bool:
    return any(_within(key, module) for module in modules)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


def listed(what: str, keys: list[str]) -> str:
    """Return a count with the first few, as in `12 missing (a, b, ...)`; "" for none."""
    return f"{len(keys)} {what} ({_some(keys)})" if keys else ""

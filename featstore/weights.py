"""Weight files: read without running anything in them, fitted key by key, identified by content."""

import argparse
import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from featstore.errors import BackboneError, UsageError

# Where training scripts put the state dict in a checkpoint, and what wrappers put before each key.
_ENVELOPES = ("state_dict", "model", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# A counter of training steps that older checkpoints lack; evaluation never reads it.
_COUNTER = "num_batches_tracked"
_LISTED = 8
# What training scripts put beside the tensors: options and NumPy's numbers, which run nothing.
_HARMLESS = [
    argparse.Namespace,
    np.dtype,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    np.float64(0).__reduce__()[0],
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
]


def read(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict in a `.safetensors`, `.pth` or `.pt` file, unwrapped.

    Envelopes (`state_dict`, `model`) and prefixes of all keys (`module.`, `model.`) are taken off.
    Raises `UsageError` where there is no file, `BackboneError` where it holds no state dict, or
    asks for Python objects to be unpickled, which could run anything.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no weight file {path}; give a .pth, .pt or .safetensors file")
    loaded = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    return _without_prefix(_unwrapped(loaded, path))


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


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BackboneError(
            f"{path} is no safetensors file: {error}; fetch it again, or give another one"
        ) from None


def _pickled(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    # torch calls what a pickle asks to be imported a GLOBAL.
    wanted = next((line for line in lines if "GLOBAL" in line), None)
    if wanted:
        raise BackboneError(
            f"{path} holds more than tensors ({wanted}); unpickling it could run anything, so it is"
            " refused: save the state dict alone, with torch.save(model.state_dict(), FILE), or as"
            " safetensors"
        )
    raise BackboneError(
        f"{path} is no weight file that torch reads: {lines[0]}; fetch it again, or give another"
    )


def _unwrapped(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(loaded, Mapping) or not loaded:
        raise BackboneError(
            f"{path} holds a {type(loaded).__name__}, and no state dict; save model.state_dict()"
        )
    for key in _ENVELOPES:
        if isinstance(loaded.get(key), Mapping):
            return _unwrapped(loaded[key], path)
    other = [str(key) for key, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if other:
        raise BackboneError(
            f"{path} holds no state dict: {listed('not a tensor', other)};"
            f" looked inside {', '.join(_ENVELOPES)} as well"
        )
    return dict(loaded)


def _without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _within(key: str, module: str) -> bool:
    return key.startswith(f"{module}.")


def listed(what: str, keys: list[str]) -> str:
    """How many of what, and the first of them, as in `12 missing (a, b, ...)`; "" for none."""
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_LISTED])}{more})" if keys else ""

"""A network or data set of the user's own code, by the name `import:PLACE:NAME`.

This runs that code, with the rights of whoever runs it. Nothing else in `featstore` runs code that
it was not installed with, and this only where such a name is given.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from featstore.errors import UsageError

PREFIX = "import:"
_FORM = "give import:package.module:NAME or import:path/to/file.py:NAME"


def is_named(given: object) -> bool:
    """Return whether a model or data set is a name of one's own code."""
    return isinstance(given, str) and given.startswith(PREFIX)


def network(name: str) -> tuple[Any, str]:
    """Return what a name of one's own code stands for, and the hash of its file.

    It is a network, or makes one, or a pair of a network and its transform, when called without
    arguments. Raises `UsageError` for a name that stands for nothing, or fails.
    """
    found, source = _found(name)
    if inspect.isclass(found) or inspect.isroutine(found):
        found = _called(name, found)
    return found, source


def dataset(name: str, splits: Sequence[str]) -> Any:
    """Return the data set, or data sets by split, that a name of one's own code stands for.

    It is one, or gives one when called: with each of `splits` if it takes an argument `split`, and
    without arguments otherwise. Raises `UsageError` as `network`.
    """
    found, _ = _found(name)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        return found
    try:
        by_split = "split" in inspect.signature(found).parameters
    except (TypeError, ValueError):
        by_split = False
    if by_split:
        return {split: _called(name, found, split=split) for split in splits}
    return _called(name, found)


def _found(name: str) -> tuple[Any, str]:
    place, _, attribute = name.removeprefix(PREFIX).rpartition(":")
    if not place or not attribute.isidentifier():
        raise UsageError(f"{name!r} names no code; {_FORM}")
    module = _of_file(name, place) if place.endswith(".py") else _of_package(name, place)
    if not hasattr(module, attribute):
        there = [one for one in vars(module) if not one.startswith("_")]
        close = difflib.get_close_matches(attribute, there, n=3)
        meant = f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(there[:12])}"
        raise UsageError(f"{place} has no {attribute!r}; {meant}")
    file = getattr(module, "__file__", None)
    source = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else "unknown"
    return getattr(module, attribute), source


def _of_package(name: str, place: str) -> ModuleType:
    if os.getcwd() not in sys.path:  # where `python -m` would look first
        sys.path.append(os.getcwd())
    return _run(name, lambda: importlib.import_module(place))


def _of_file(name: str, place: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {place}; {_FORM}")
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    title = (
        path.stem if known is None else f"{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    )
    spec = importlib.util.spec_from_file_location(title, path)
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:  # for what lies beside it
        sys.path.append(str(path.parent))
    sys.modules[title] = module  # where `inspect` looks for the source of its classes
    try:
        _run(name, lambda: spec.loader.exec_module(module))
    except UsageError:
        del sys.modules[title]
        raise
    return module


def _called(name: str, factory: Callable[..., Any], **given: str) -> Any:
    return _run(name, lambda: factory(**given))


def _run(name: str, code: Callable[[], Any]) -> Any:
    """Return what code of the user gives; `UsageError` where it fails."""
    try:
        return code()
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"{name} fails ({told}); {_FORM}, which runs without arguments") from error

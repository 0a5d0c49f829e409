"""The modes by name: which features, or which directions among them, a sweep probes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from probe.basis import Basis
from probe.chains import Chain, Grid, feature_indices, random_order, subset_chain
from probe.errors import UsageError
from probe.files import opened
from probe.moments import Moments
from probe.ranking import ranked
from probe.settings import Progress, silent

Mode: TypeAlias = str | Sequence[int]
"""What a mode may be given as: a name, "indices:FILE", or the indices themselves."""

INDICES = "indices"


@dataclass(frozen=True)
class Layer:
    """What chains are made from.

    Attributes:
        n_features: D.
        grid: the prefix sizes that are asked for; at least one.
        moments: returns the moments of the train rows.
        standardize: whether probes see scaled features.
        progress: callback.
    """

    n_features: int
    grid: Grid
    moments: Callable[[], Moments]
    standardize: bool = True
    progress: Progress = silent

    @property
    def length(self) -> int:
        """The features of the largest prefix."""
        return self.grid.sizes[-1]


@dataclass(frozen=True)
class Recipe:
    """One entry of the registry.

    Attributes:
        make: returns the chains of a layer for one seed, or for None.
        seeded: whether each seed draws anew.
        moments: whether the moments of train rows are needed.
    """

    make: Callable[[Layer, int | None], list[Chain]]
    seeded: bool = False
    moments: bool = False


def _random(layer: Layer, seed: int) -> list[Chain]:
    """Prefixes of one permutation a seed."""
    return [layer.grid.chain(random_order(layer.n_features, seed), "random", seed)]


def _independent(layer: Layer, seed: int) -> list[Chain]:
    """A permutation of its own for each size and seed."""
    return [
        Chain(independent_draw(layer.n_features, size, seed), (size,), (fraction,),
              "independent", seed)
        for size, fraction in zip(layer.grid.sizes, layer.grid.fractions, strict=True)
    ]  # fmt: skip


def independent_draw(n_features: int, size: int, seed: int) -> np.ndarray:
    """Return `size` of D features, drawn by a seed that follows from `seed` and `size` alone.

    What other sizes are asked for does not change it.

    Example:
        >>> independent_draw(384, 3, seed=1)
        array([217, 140, 196])
    """
    digest = hashlib.sha256(f"{seed} {size}".encode()).digest()
    return random_order(n_features, int.from_bytes(digest[:8], "big") >> 1)[:size]


def _first(layer: Layer, seed: None) -> list[Chain]:
    """The leading features, as a Matryoshka representation orders them."""
    return [layer.grid.chain(np.arange(layer.n_features), "first")]


def _last(layer: Layer, seed: None) -> list[Chain]:
    """The features from the last one on."""
    return [layer.grid.chain(np.arange(layer.n_features)[::-1], "last")]


def _by_rank(name: str) -> Recipe:
    """Return the mode of the features that come first in an order from train rows."""

    def make(layer: Layer, seed: None) -> list[Chain]:
        order = ranked(name, layer.moments(), layer.length, layer.standardize, layer.progress)
        return [replace(layer.grid.chain(order, name), ranking=name)]

    return Recipe(make, moments=True)


def _along(name: str, kind: str, *, last: bool = False, seeded: bool = False) -> Recipe:
    """Return the mode of the leading directions of a basis, or of its last ones."""

    def make(layer: Layer, seed: int | None) -> list[Chain]:
        order = np.arange(layer.n_features)
        order = (order[::-1] if last else order)[: layer.length]
        return [layer.grid.chain(order, name, seed, Basis(kind, seed))]

    return Recipe(make, seeded, moments=True)


MODES: dict[str, Recipe] = {
    "random": Recipe(_random, seeded=True),
    "independent": Recipe(_independent, seeded=True),
    "first": Recipe(_first),
    "last": Recipe(_last),
    # of largest variance in their own units
    "variance": _by_rank("variance"),
    # whose variance between classes is the most of that within them
    "fisher": _by_rank("fisher"),
    # forward selection by the gain of the ridge objective
    "greedy": _by_rank("greedy"),
    "pca": _along("pca", "pca"),
    "pca-least": _along("pca-least", "pca", last=True),
    "pca-uncentred": _along("pca-uncentred", "pca-uncentred"),
    **{
        name: _along(name, name, seeded=True)
        for name in (
            "random-projection",
            "random-projection-orthogonal",
            "random-projection-uniform",
        )
    },
}
"""All modes but `INDICES`, which a user's own list makes."""

WITHOUT_MOMENTS = "the modes {} and {} need none".format(
    ", ".join(name for name, recipe in MODES.items() if not recipe.moments), INDICES
)
"""What a user is told whose features are too many for their moments."""


def modes_of(mode: Mode | Sequence[Mode]) -> dict[str, Recipe]:
    """Return the modes that are asked for, by name.

    Arguments:
        mode: one or several: a key of `MODES`, "indices:FILE", or a list of feature indices.

    Raises:
        UsageError: no mode has the name, one is given twice, or a list cannot be read.

    Example:
        >>> list(modes_of(["random", [3, 1, 2]]))
        ['random', 'indices']
    """
    several = [mode] if isinstance(mode, str) or _is_indices(mode) else list(mode)
    if not several:
        raise UsageError(f"no mode given: name one of {', '.join([*MODES, INDICES])}")
    found: dict[str, Recipe] = {}
    for one in several:
        name, recipe = _recipe(one)
        if name in found:
            raise UsageError(f"mode {name} is given twice: each mode makes its own rows")
        found[name] = recipe
    return found


def _is_indices(mode: Any) -> bool:
    if isinstance(mode, str):
        return False
    return len(mode) > 0 and all(isinstance(i, int | np.integer) for i in mode)


def _recipe(mode: Mode) -> tuple[str, Recipe]:
    if not isinstance(mode, str):
        return INDICES, _of_indices(mode)
    name, colon, path = mode.partition(":")
    if name == INDICES and colon:
        return INDICES, _of_indices(read_indices(path))
    if mode not in MODES:
        raise UsageError(
            f"no mode is called {mode!r}: there are {', '.join(MODES)}, and {INDICES}:FILE"
        )
    return mode, MODES[mode]


def _of_indices(indices: Sequence[int]) -> Recipe:
    features = feature_indices(indices)

    def make(layer: Layer, seed: None) -> list[Chain]:
        return [subset_chain(features, layer.n_features, INDICES)]

    return Recipe(make)


def read_indices(path: str | Path) -> np.ndarray:
    """Return the feature indices of a file: .txt with one a line, or .npy; int64 (m,).

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npy":
            with opened(path) as file:
                # mapped: the shape that it states is held against its bytes first
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                return feature_indices(np.array(array))
        with opened(path) as file:
            words = file.read().decode().split()
        return feature_indices([int(word) for word in words])
    except UsageError:
        raise
    # damage makes NumPy's parser raise a dozen kinds
    except Exception as error:
        raise UsageError(
            f"{path} holds no feature indices ({error}): give a .txt file with one index a line, "
            "counted from 0, or a .npy file of integers"
        ) from None

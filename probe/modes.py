"""Modes: by which rule features are chosen or ordered."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from featstore.probe.arrays import factorise, solve_lower, to_host
from featstore.probe.errors import DataError, UsageError
from featstore.probe.memory import Progress, silent
from featstore.probe.moments import Moments
from featstore.probe.results.files import opened
from featstore.probe.subsets import (
    Basis,
    Chain,
    Given,
    Grid,
    feature_indices,
    random_order,
    subset_chain,
)

L2 = 1e-3
"""The penalty that features are selected with, whatever the probes' own."""

_REPORTED = 64

_PERMUTATIONS = 64
"""Orders behind the mode `shapley`."""


def greedy_order(
    train: Moments,
    count: int,
    standardize: bool = True,
    l2: float = L2,
    progress: Progress = silent,
) -> np.ndarray:
    """Return the first `count` features of forward selection, int64 (count,).

    Each is the one whose addition lowers the minimum of the ridge objective on the features before
    the most. With A = X'X/N + l2 I and B = X'Y/N of the centred, scaled features, that minimum on
    the features S is a constant less tr(B_S' A_SS^-1 B_S) / 2, and feature j adds to that trace

        |r_j|^2 / d_j,   r_j = B_j - A_jS A_SS^-1 B_S,   d_j = A_jj - A_jS A_SS^-1 A_Sj.

    r and d are what a Cholesky factorisation that takes its pivots in this order leaves of B and of
    the diagonal of A: O(D K (K + C)) operations for K features, and K columns of D numbers beside
    the moments. Of equal gains the first feature is taken.

    Arguments:
        train: moments of train rows, of classes or of targets.
        count: K, at most D.
        standardize: as for probes.
        l2: penalty.
        progress: callback.

    Reference:
        Chen, Cowan, Grant, "Orthogonal least squares learning algorithm for radial basis function
        networks", IEEE Transactions on Neural Networks 1991; here with a penalty.
    """
    matrix = train.covariance(standardize)
    matrix[np.diag_indices(len(matrix))] += l2
    residual = train.cross(standardize)  # r
    diagonal = np.diagonal(matrix).copy()  # d
    factor = np.empty((count, len(matrix)))  # a row a step: L' of the columns taken
    order = np.empty(count, np.int64)
    taken = np.zeros(len(matrix), bool)
    for step in range(count):
        gain = np.where(taken, -1.0, (residual**2).sum(1) / np.where(taken, 1.0, diagonal))
        best = order[step] = int(gain.argmax())
        taken[best] = True
        root = np.sqrt(diagonal[best])
        column = (matrix[best] - factor[:step, best] @ factor[:step]) / root
        factor[step] = column
        residual -= np.outer(column, residual[best] / root)
        # rounding may carry what is left of a duplicate below the penalty that it must keep
        diagonal = np.maximum(diagonal - column**2, np.finfo(float).tiny)
        if step % _REPORTED == 0 or step + 1 == count:
            progress("features", step + 1, count)
    return order


def rises_without(train: Moments, standardize: bool = True, l2: float = L2) -> np.ndarray:
    """Return by how much the ridge objective of all features rises without each, float64 (D,).

    With A = X'X/N + l2 I, B = X'Y/N and W = A^-1 B, the refitted minimum without feature j is
    larger by |W_j|^2 / (2 (A^-1)_jj): one inverse stands for D refits. Rows that are fitted are
    rows that are judged, so that it is made from train alone.

    Arguments:
        train: moments of train rows, of classes or of targets.
        standardize: as for probes.
        l2: penalty.

    Raises:
        DataError: features are so large that the penalty does not hold them apart.

    Reference:
        Hager, "Updating the inverse of a matrix", SIAM Review 1989.
    """
    matrix, right = _equations(train, standardize, l2)
    lower = _factor(matrix)
    identity = torch.eye(len(matrix), dtype=matrix.dtype)[None]
    root = solve_lower(lower, identity)[0]  # A^-1 = root' root
    coefficients = root.T @ solve_lower(lower, right[None])[0]
    return to_host((coefficients**2).sum(1) / (2 * (root**2).sum(0)))


def shapley_gains(
    train: Moments,
    standardize: bool = True,
    l2: float = L2,
    permutations: int = _PERMUTATIONS,
    seed: int = 0,
    progress: Progress = silent,
) -> np.ndarray:
    """Return each feature's Shapley value of the ridge objective on train rows, float64 (D,).

    The value is by how much a feature lowers the refitted minimum, a mean over orders of the
    features of those before it. Along one order, with L L' = A and z = L^-1 B, the k-th feature
    lowers it by |z_k|^2 / 2, so that an order costs a factorisation and no pass over rows. Orders
    come in pairs, one the other backwards, whose errors are of opposite sign for the most part.
    Values add up to what all features lower the minimum by.

    Arguments:
        train: moments of train rows, of classes or of targets.
        standardize: as for probes.
        l2: penalty.
        permutations: how many orders, rounded up to pairs.
        seed: what they are drawn with.
        progress: callback.

    Raises:
        DataError: as `rises_without`.

    Reference:
        Mitchell et al., "Sampling permutations for Shapley value estimation", JMLR 2022, for pairs.
    """
    matrix, right = _equations(train, standardize, l2)
    random, total, pairs = np.random.default_rng(seed), np.zeros(len(matrix)), -(-permutations // 2)
    for pair in range(pairs):
        drawn = random.permutation(len(matrix))
        for order in (drawn, drawn[::-1]):
            rows = torch.from_numpy(order.copy())
            z = solve_lower(_factor(matrix[rows[:, None], rows]), right[rows][None])[0]
            total[order] += to_host((z**2).sum(1) / 2)
        progress("permutations", 2 * (pair + 1), 2 * pairs)
    return total / (2 * pairs)


def _equations(train: Moments, standardize: bool, l2: float) -> tuple[torch.Tensor, torch.Tensor]:
    matrix = train.covariance(standardize)
    matrix[np.diag_indices(len(matrix))] += l2
    right = np.ascontiguousarray(train.cross(standardize))
    return torch.from_numpy(matrix), torch.from_numpy(right)


def _factor(matrix: torch.Tensor) -> torch.Tensor:
    """Return the lower factor, (1, D, D)."""
    factors = factorise(matrix[None], None, "float32")
    if np.isnan(factors.jitter[0]):
        raise DataError(
            f"features are too large for the penalty {L2:g} of an order: standardise them, or take "
            "mode greedy, fisher or variance"
        )
    return factors.lower


OF_LABELS = ("fisher", "greedy", "drop-one", "shapley")
"""The orders that labels decide about."""

ORDERS = ("variance", *OF_LABELS)
"""The names of the orders that come from train rows."""


def ranked(
    name: str,
    train: Moments,
    count: int,
    standardize: bool = True,
    progress: Progress = silent,
) -> np.ndarray:
    """Return at least the first `count` features of an order, int64.

    Arguments:
        name: one of `ORDERS`.
        train: moments of the rows that the order is to come from.
        count: features that are needed.
        standardize: as for probes.
        progress: callback.

    Raises:
        UsageError: the labels are numbers, and the order is by Fisher score.
    """
    if name == "greedy":
        return greedy_order(train, count, standardize, progress=progress)
    if name == "drop-one":
        return _falling(rises_without(train, standardize))
    if name == "shapley":
        return _falling(shapley_gains(train, standardize, progress=progress))
    return by_fisher(train) if name == "fisher" else by_variance(train)


def by_variance(train: Moments) -> np.ndarray:
    """Return the features by falling variance in their own units, int64 (D,); of equals the first.

    Features that never change are last.
    """
    return _falling(train.variance)


def by_fisher(train: Moments) -> np.ndarray:
    """Return the features by falling Fisher score, int64 (D,); of equals the first.

    Raises:
        UsageError: the labels are numbers.
    """
    if not len(train.class_counts):
        raise UsageError(
            "mode fisher compares the variance between classes with that within them, and these "
            "labels are numbers: take mode greedy, or variance"
        )
    return _falling(fisher_scores(train))


def fisher_scores(train: Moments) -> np.ndarray:
    """Return the variance between classes over that within them, float64 (D,).

        F_j = sum_c n_c (m_cj - m_j)^2 / sum_c sum_{i in c} (x_ij - m_cj)^2

    It rises with the F statistic of an analysis of variance, F_j (N - C) / (C - 1). Features that
    never change have 0, those that never change within a class infinity.

    Reference:
        Gu, Li, Han, "Generalized Fisher score for feature selection", UAI 2011, equation 2.
    """
    counts = np.maximum(train.counts, 1)
    means = train.class_sums / counts - train.offset[:, None]
    between = (means**2) @ train.counts / train.n
    total = train.variance
    within = total - np.minimum(between, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, between / within, 0.0)


def _falling(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")


@dataclass(frozen=True)
class Directions:
    """Directions of one's own, probed as features are: a mode called "basis:NAME".

    z = R'(x - mean) of features x in their own units, times one factor that makes its mean variance
    on train rows 1; the first k columns are the k directions of a probe.

    Attributes:
        name: to call them by.
        matrix: R, float64 (D, m).
    """

    name: str
    matrix: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Order:
    """An order of all features, of which probes see the first: a mode of that name.

    Attributes:
        name: to call it by.
        features: int64 (D,).
    """

    name: str
    features: np.ndarray = field(repr=False, compare=False)


Mode: TypeAlias = str | Sequence[int] | Directions | Order
"""What a mode may be given as: a name, "indices:FILE", "basis:FILE", indices, or these values."""

INDICES, BASIS = "indices", "basis"


@dataclass(frozen=True)
class Layer:
    """Material of which chains are made.

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
        key: what else decides about the chains, for the table's `options`.
    """

    make: Callable[[Layer, int | None], list[Chain]]
    seeded: bool = False
    moments: bool = False
    key: str = ""


def _random(layer: Layer, seed: int) -> list[Chain]:
    """Prefixes of one permutation a seed."""
    return [layer.grid.chain(random_order(layer.n_features, seed), "random", seed)]


def _independent(layer: Layer, seed: int) -> list[Chain]:
    """A permutation of its own for each size and seed."""
    return [
        Chain(
            independent_draw(layer.n_features, size, seed),
            (size,),
            (fraction,),
            "independent",
            seed,
        )
        for size, fraction in zip(layer.grid.sizes, layer.grid.fractions, strict=True)
    ]


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
    # without which the ridge objective rises most
    "drop-one": _by_rank("drop-one"),
    # that lower it most, whatever features are there before
    "shapley": _by_rank("shapley"),
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
    alone = isinstance(mode, str | Directions | Order) or _is_indices(mode)
    several = [mode] if alone else list(mode)
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
    if isinstance(mode, str | Directions | Order):
        return False
    return len(mode) > 0 and all(isinstance(i, int | np.integer) for i in mode)


def _recipe(mode: Mode) -> tuple[str, Recipe]:
    if isinstance(mode, Directions):
        return f"{BASIS}:{mode.name}", _of_directions(mode)
    if isinstance(mode, Order):
        return mode.name, _of_order(mode)
    if not isinstance(mode, str):
        return INDICES, _of_indices(mode)
    name, colon, path = mode.partition(":")
    if name == BASIS and colon:
        return _recipe(Directions(Path(path).name, _read_matrix(path)))
    if name == INDICES and colon:
        return INDICES, _of_indices(read_indices(path))
    if mode not in MODES:
        raise UsageError(
            f"no mode is called {mode!r}: there are {', '.join(MODES)}, {INDICES}:FILE and "
            f"{BASIS}:FILE"
        )
    return mode, MODES[mode]


def _of_indices(indices: Sequence[int]) -> Recipe:
    features = feature_indices(indices)

    def make(layer: Layer, seed: None) -> list[Chain]:
        return [subset_chain(features, layer.n_features, INDICES)]

    return Recipe(make)


def _of_directions(mode: Directions) -> Recipe:
    matrix = np.asarray(mode.matrix)
    if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind not in "fiu":
        raise UsageError(
            f"directions {mode.name} have shape {matrix.shape} and type {matrix.dtype}: give a "
            "matrix (D, m) of real numbers"
        )
    if not np.isfinite(matrix).all():
        raise UsageError(f"directions {mode.name} hold what is no finite number")
    given, name = Given.of(matrix), f"{BASIS}:{mode.name}"

    def make(layer: Layer, seed: None) -> list[Chain]:
        if layer.length > matrix.shape[1]:
            raise UsageError(
                f"{layer.length} directions are asked of {name}, which has {matrix.shape[1]}: "
                f"leave out fractions above {matrix.shape[1] / layer.n_features:.3g}"
            )
        basis = Basis("given", None, given)
        return [layer.grid.chain(np.arange(layer.length), name, basis=basis)]

    return Recipe(make, moments=True, key=given.digest[:12])


def _of_order(mode: Order) -> Recipe:
    features = feature_indices(mode.features)
    key = hashlib.sha256(features.tobytes()).hexdigest()[:12]

    def make(layer: Layer, seed: None) -> list[Chain]:
        if layer.length > len(features):
            raise UsageError(
                f"{layer.length} features are asked of {mode.name}, which orders {len(features)}"
            )
        return [layer.grid.chain(features[: layer.length], mode.name)]

    return Recipe(make, key=key)


def _read_matrix(path: str | Path) -> np.ndarray:
    """Return the directions of a .npy file, (D, m).

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    path = Path(path)
    if path.suffix.lower() != ".npy":
        raise UsageError(
            f"{path} is no .npy file of directions (D, m): stores and saved probes are named on "
            "the command line and in study files; in Python, give Directions(name, matrix)"
        )
    try:
        with opened(path):
            # mapped: the shape that it states is held against its bytes first
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except UsageError:
        raise
    # damage makes NumPy's parser raise a dozen kinds
    except Exception as error:
        raise UsageError(
            f"{path} holds no directions ({error}): give a .npy matrix (D, m)"
        ) from None


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

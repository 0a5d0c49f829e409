"""Chains: orderings of features whose prefixes are the subsets to probe."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from probe.errors import UsageError


@dataclass(frozen=True)
class Chain:
    """An ordering of (some) features and the prefixes of it to probe.

    Attributes:
        order: int64 (m,), feature indices, each at most once.
        sizes: (P,) prefix sizes, non-decreasing, in 1 to m: probe i sees `order[:sizes[i]]`.
        fractions: (P,) what each size was asked for as.
        mode: how the order was made: "random", "first", "explicit", ...
        seed: what the order was drawn with; None if nothing was drawn.
    """

    order: np.ndarray
    sizes: tuple[int, ...]
    fractions: tuple[float, ...]
    mode: str
    seed: int | None = None

    def __post_init__(self):
        order, sizes = self.order, self.sizes
        if len(np.unique(order)) != len(order):
            raise UsageError("a chain names a feature twice: each feature may occur once")
        if order.size and order.min() < 0:
            raise UsageError(f"a chain names feature {order.min()}: features are counted from 0")
        if not sizes or list(sizes) != sorted(sizes) or sizes[0] < 1 or sizes[-1] > len(order):
            raise UsageError(
                f"prefix sizes {sizes} of a chain of {len(order)} features: "
                "sizes rise from at least 1 to at most the chain's length"
            )
        if len(self.fractions) != len(sizes):
            raise UsageError(f"{len(sizes)} prefix sizes but {len(self.fractions)} fractions")

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def length(self) -> int:
        """The number of features that the largest prefix takes."""
        return self.sizes[-1]

    def features(self, prefix: int) -> np.ndarray:
        """Return the features of one prefix, int64 (k,), in the chain's order."""
        return self.order[: self.sizes[prefix]]


def sizes(n_features: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """Return k = int(fraction * D) for each fraction, as the paper rounds.

    Binary fractions are not nudged: 0.29 of 100 features is 28, since 0.29 * 100 < 29.

    Raises:
        UsageError: a fraction is outside (0, 1], repeated, or takes no feature.

    Reference:
        Nanda et al., "Diffused Redundancy in Pre-trained Representations", NeurIPS 2023.

    Example:
        >>> sizes(384, [0.01, 0.1, 1])
        (3, 38, 384)
    """
    if not len(fractions):
        raise UsageError("no fraction given: name at least one in (0, 1]")
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UsageError(f"fraction {fraction} is outside (0, 1]")
    if len(set(fractions)) < len(fractions):
        twice = next(f for f in fractions if list(fractions).count(f) > 1)
        raise UsageError(f"fraction {twice} is given twice: each fraction makes one row")
    return tuple(_size(n_features, fraction) for fraction in fractions)


def _size(n_features: int, fraction: float) -> int:
    size = int(fraction * n_features)
    if size < 1:
        raise UsageError(
            f"fraction {fraction} of {n_features} features is no feature at all: "
            f"the smallest fraction that takes one is {smallest_fraction(n_features):.4g}"
        )
    return size


def smallest_fraction(n_features: int) -> float:
    """Return a short decimal f with int(f * D) >= 1, the smallest of 4 digits."""
    exponent = 10 ** (3 + len(str(n_features)))
    steps = -(-exponent // n_features)
    digits = 10 ** max(0, len(str(steps)) - 4)
    steps = -(-steps // digits) * digits
    fraction = steps / exponent
    return fraction if int(fraction * n_features) >= 1 else (steps + digits) / exponent


def random_order(n_features: int, seed: int) -> np.ndarray:
    """Return the paper's draw, int64 (D,): torch.randperm under a generator of its own.

    Example:
        >>> random_order(384, 1)[:5].tolist()
        [37, 88, 258, 104, 307]
    """
    generator = torch.Generator().manual_seed(int(seed))
    return torch.randperm(n_features, generator=generator).numpy()


def random_chain(n_features: int, fractions: Sequence[float], seed: int) -> Chain:
    """Return one seed's nested random subsets: prefixes of one permutation."""
    return _ordered(random_order(n_features, seed), fractions, "random", int(seed))


def first_chain(n_features: int, fractions: Sequence[float]) -> Chain:
    """Return the chain of leading features, as a Matryoshka representation orders them."""
    return _ordered(np.arange(n_features), fractions, "first", None)


def ordered_chain(
    order: Sequence[int], fractions: Sequence[float], mode: str = "explicit"
) -> Chain:
    """Return the chain of the user's own order of all D features; fractions are of its length."""
    return _ordered(_indices(order), fractions, mode, None)


def subset_chain(features: Sequence[int], n_features: int) -> Chain:
    """Return the chain with one prefix: exactly these of D features.

    Raises:
        UsageError: the list is empty, repeats a feature or names one outside 0 to D - 1.
    """
    order = _indices(features)
    if order.size and order.max() >= n_features:
        raise UsageError(f"feature {order.max()} of {n_features}: they are 0 to {n_features - 1}")
    return Chain(order, (len(order),), (len(order) / n_features,), "explicit")


def _indices(features: Sequence[int]) -> np.ndarray:
    order = np.asarray(features)
    if order.ndim != 1 or not order.size or order.dtype.kind not in "iu":
        raise UsageError("features are given by a non-empty flat list of integer indices")
    return order.astype(np.int64)


def _ordered(order: np.ndarray, fractions: Sequence[float], mode: str, seed: int | None) -> Chain:
    rising = tuple(sorted(float(f) for f in fractions))
    return Chain(order, sizes(len(order), rising), rising, mode, seed)


def check_chains(chains: Sequence[Chain], n_features: int) -> None:
    """Raise UsageError unless every chain keeps to features 0 to D - 1."""
    for chain in chains:
        if chain.order.max() >= n_features:
            raise UsageError(
                f"a chain names feature {chain.order.max()}, but the layer has features "
                f"0 to {n_features - 1}"
            )

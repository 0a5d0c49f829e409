"""Subsets of features: nested chains, and the probes numbered along them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from featstore.probe.bases import FEATURES, Basis
from featstore.probe.errors import UsageError

LEAST = 64


@dataclass(frozen=True)
class Segment:
    """A range of the chain's features, and the prefixes that see some of them.

    Attributes:
        start: first feature, a position in the chain.
        stop: one past the last.
        first: the smallest prefix that reaches in; it and all larger ones have coefficients here.
        ends: (prefix, position) for each prefix that ends before `stop`; its coefficients from
            that position on stand for features it does not see, and must stay zero.
    """

    start: int
    stop: int
    first: int
    ends: tuple[tuple[int, int], ...]


def segments(sizes: Sequence[int], least: int = LEAST) -> list[Segment]:
    """Return the cuts, each at a prefix size and, save the last, at least `least` features long.

    Without merging, no product would multiply a zero; but thin products are slow, so that prefixes
    that end close to each other share one.

    Arguments:
        sizes: non-decreasing prefix sizes.
        least: features below which a segment takes in the next.

    Example:
        >>> [(s.start, s.stop, s.first, s.ends) for s in segments([2, 3, 10, 10, 20], least=4)]
        [(0, 10, 0, ((0, 2), (1, 3))), (10, 20, 4, ())]
    """
    cuts, start, first = [], 0, 0
    for prefix, stop in enumerate(sizes):
        more = prefix + 1 < len(sizes)
        if more and (stop - start < least or sizes[prefix + 1] == stop):
            continue
        ends = tuple((p, sizes[p]) for p in range(first, prefix) if sizes[p] < stop)
        cuts.append(Segment(start, stop, first, ends))
        start, first = stop, prefix + 1
    return cuts


@dataclass(frozen=True)
class Chain:
    """An ordering of (some) features and the prefixes of it to probe.

    Attributes:
        order: int64 (m,), feature indices, each at most once; on a basis, numbers of its
            directions.
        sizes: (P,) prefix sizes, non-decreasing, in 1 to m: probe i sees `order[:sizes[i]]`.
        fractions: (P,) what each size was asked for as.
        mode: how the order was made: "random", "first", "explicit", ...
        seed: what the order was drawn with; None if nothing was drawn.
        basis: what the order is of: the features themselves, or directions among them.
        ranking: the name in `featstore.probe.modes.ORDERS` of an order that came from train rows,
        so that
            it can be made again from some of them; None for any other order.
    """

    order: np.ndarray
    sizes: tuple[int, ...]
    fractions: tuple[float, ...]
    mode: str
    seed: int | None = None
    basis: Basis = FEATURES
    ranking: str | None = None

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


@dataclass(frozen=True)
class Grid:
    """The prefix sizes that are asked of every chain.

    Attributes:
        sizes: (P,) numbers of features k, non-decreasing.
        fractions: (P,) the share of all features that each was asked for as.
    """

    sizes: tuple[int, ...]
    fractions: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    def chain(
        self, order: np.ndarray, mode: str, seed: int | None = None, basis: Basis = FEATURES
    ) -> Chain:
        """Return the chain of these sizes along an order."""
        return Chain(order, self.sizes, self.fractions, mode, seed, basis)

    def parts(self) -> "Grid":
        """Return the grid without the whole layer."""
        kept = [pair for pair in zip(self.sizes, self.fractions, strict=True) if pair[1] < 1]
        return Grid(tuple(k for k, _ in kept), tuple(f for _, f in kept))

    def with_whole(self, n_features: int) -> "Grid":
        """Return the grid with the whole layer of `n_features` as its last entry."""
        parts = self.parts()
        return Grid((*parts.sizes, n_features), (*parts.fractions, 1.0))


def grid(n_features: int, fractions: Sequence[float]) -> Grid:
    """Return the grid of these fractions, rising.

    Raises:
        UsageError: as `sizes`.
    """
    rising = tuple(sorted(float(f) for f in fractions))
    return Grid(sizes(n_features, rising), rising)


def every_size(n_features: int) -> Grid:
    """Return the grid of every k from 1 to D, with the fractions k/D.

    Example:
        >>> every_size(4)
        Grid(sizes=(1, 2, 3, 4), fractions=(0.25, 0.5, 0.75, 1.0))
    """
    counts = tuple(range(1, n_features + 1))
    return Grid(counts, tuple(k / n_features for k in counts))


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
    return torch.randperm(n_features, generator=generator, device="cpu").numpy()


def random_chain(n_features: int, fractions: Sequence[float], seed: int) -> Chain:
    """Return one seed's nested random subsets: prefixes of one permutation."""
    order = random_order(n_features, seed)
    return grid(n_features, fractions).chain(order, "random", int(seed))


def first_chain(n_features: int, fractions: Sequence[float]) -> Chain:
    """Return the chain of leading features, as a Matryoshka representation orders them."""
    return grid(n_features, fractions).chain(np.arange(n_features), "first")


def ordered_chain(
    order: Sequence[int], fractions: Sequence[float], mode: str = "explicit"
) -> Chain:
    """Return the chain of the user's own order of all D features; fractions are of its length."""
    indices = feature_indices(order)
    return grid(len(indices), fractions).chain(indices, mode)


def subset_chain(features: Sequence[int], n_features: int, mode: str = "explicit") -> Chain:
    """Return the chain with one prefix: exactly these of D features.

    Raises:
        UsageError: the list is empty, repeats a feature or names one outside 0 to D - 1.
    """
    order = feature_indices(features)
    if order.size and order.max() >= n_features:
        raise UsageError(f"feature {order.max()} of {n_features}: they are 0 to {n_features - 1}")
    return Chain(order, (len(order),), (len(order) / n_features,), mode)


def feature_indices(features: Sequence[int]) -> np.ndarray:
    """Return a list of features as int64 (m,).

    Raises:
        UsageError: it is empty, not flat, or not of integers.
    """
    order = np.asarray(features)
    if order.ndim != 1 or not order.size or order.dtype.kind not in "iu":
        raise UsageError("features are given by a non-empty flat list of integer indices")
    return order.astype(np.int64)


def check_chains(chains: Sequence[Chain], n_features: int) -> None:
    """Raise UsageError unless every chain keeps to features 0 to D - 1."""
    for chain in chains:
        if chain.order.max() >= n_features:
            raise UsageError(
                f"a chain names feature {chain.order.max()}, but the layer has features "
                f"0 to {n_features - 1}"
            )


@dataclass(frozen=True)
class Axes:
    """Probes numbered chain by chain, within it penalty by penalty, within it prefix by prefix.

    The prefixes of one (chain, penalty) are thus neighbours, which is how they are solved.

    Attributes:
        chains: the orderings, of any lengths and numbers of prefixes.
        penalties: (R,) the l2 values, each tried on every prefix.

    Example:
        >>> from featstore.probe.subsets import random_chain
        >>> axes = Axes((random_chain(10, [0.1, 0.5], seed=1),), (1e-3, 1e-2))
        >>> axes.chain, axes.penalty, axes.prefix
        (array([0, 0, 0, 0]), array([0, 0, 1, 1]), array([0, 1, 0, 1]))
    """

    chains: tuple[Chain, ...]
    penalties: tuple[float, ...]

    def __post_init__(self):
        if not self.chains:
            raise UsageError("no chain given: a fit needs at least one ordering of features")
        if not self.penalties:
            raise UsageError("no penalty given: a fit needs at least one l2")

    def __len__(self) -> int:
        return len(self.penalties) * sum(map(len, self.chains))

    @property
    def chain(self) -> np.ndarray:
        """The chain of each probe, int64 (P,)."""
        counts = [len(self.penalties) * len(chain) for chain in self.chains]
        return np.repeat(np.arange(len(self.chains)), counts)

    @property
    def penalty(self) -> np.ndarray:
        """The position of each probe's penalty in `penalties`, int64 (P,)."""
        per_chain = (np.repeat(np.arange(len(self.penalties)), len(chain)) for chain in self.chains)
        return np.concatenate(list(per_chain))

    @property
    def prefix(self) -> np.ndarray:
        """The position of each probe's prefix in its chain's `sizes`, int64 (P,)."""
        per_chain = (np.tile(np.arange(len(c)), len(self.penalties)) for c in self.chains)
        return np.concatenate(list(per_chain))

    @property
    def size(self) -> np.ndarray:
        """The number of features k of each probe, int64 (P,)."""
        return np.concatenate([np.tile(c.sizes, len(self.penalties)) for c in self.chains])

    def prefixes(self, chain: int, penalty: int) -> range:
        """Return the probes of one (chain, penalty), smallest prefix first."""
        before = len(self.penalties) * sum(len(c) for c in self.chains[:chain])
        count = len(self.chains[chain])
        start = before + penalty * count
        return range(start, start + count)

    def features(self, probe: int) -> np.ndarray:
        """Return the features that one probe sees, int64 (k,), in its chain's order."""
        return self.chains[self.chain[probe]].features(self.prefix[probe])

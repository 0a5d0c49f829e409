"""Subsets: directions of a basis, and chains of prefixes of an order of them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from array_api_compat import array_namespace

from featstore.probe.arrays import (
    Array,
    Backend,
    add_upper,
    checked_cholesky,
    mirror,
    on_device,
    panels,
    solve_lower,
    tiles,
    to_host,
)
from featstore.probe.errors import (
    DataError,
    UsageError,
    seeds_of,
)
from featstore.probe.moments import Moments

PIECE = 64
"""Directions that are drawn at once, so that the first ones are the same however many follow."""


@dataclass(frozen=True)
class Given:
    """A matrix that somebody gives, known by its digest.

    Attributes:
        digest: of its bytes.
        matrix: float64 (D, m).
    """

    digest: str
    matrix: np.ndarray = field(compare=False, repr=False)

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Given":
        """Return a matrix with its digest."""
        kept = np.ascontiguousarray(matrix, np.float64)
        return cls(hashlib.sha256(kept.tobytes() + str(kept.shape).encode()).hexdigest(), kept)


@dataclass(frozen=True)
class Basis:
    """Basis that features are seen through: z = R'((x - mean) / scale), R (D, m).

    Attributes:
        kind: "features", where R is the identity; or a key of `KINDS`.
        seed: what R is drawn with; None where it is not drawn.
        given: of the kind "given", directions among features in their own units.
    """

    kind: str
    seed: int | None = None
    given: Given | None = None


FEATURES = Basis("features")
"""The features themselves."""


@dataclass(frozen=True)
class Frame:
    """The train rows whose features a basis is of, and the form in which it meets them.

    Attributes:
        n_features: D.
        moments: returns the moments of these rows.
        standardize: whether features are divided by their deviation first.
        centred: whether their mean is subtracted; not where a solver takes features raw.
    """

    n_features: int
    moments: Callable[[], Moments]
    standardize: bool = True
    centred: bool = True

    @property
    def mean(self) -> np.ndarray:
        """Return what is subtracted from each feature, float64 (D,)."""
        return self.moments().mean if self.centred else np.zeros(self.n_features)

    @property
    def scale(self) -> np.ndarray:
        """Return what each feature is divided by, float64 (D,)."""
        scaled = self.standardize and self.centred
        return self.moments().scale(True) if scaled else np.ones(self.n_features)

    def covariance(self) -> np.ndarray:
        """Return the covariance of the features in this form, float64 (D, D)."""
        return self.moments().covariance(self.standardize and self.centred)


def directions(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """Return the first `count` directions R of a basis, float64 (D, count), on the device.

    They are made from train rows, or drawn, and never from test rows. The directions of a smaller
    count are the leading ones of a larger. A feature that never changes in train takes no part
    where features are centred.
    """
    found = KINDS[basis.kind](basis, count, frame, backend)
    if frame.centred:
        constant = frame.moments().variance == 0
        if constant.any():
            found = found * backend.put(~constant, "float64")[:, None]
    return found


def _principal(basis: Basis, frame: Frame, backend: Backend) -> tuple[np.ndarray, np.ndarray]:
    """Return falling eigenvalues and the eigenvectors of the covariance, float64 (D,), (D, D).

    Or of the second moment about 0. The largest entry of each vector is positive.
    """
    centred, moments = basis.kind == "pca", frame.moments()
    key = ("principal", centred, frame.standardize and frame.centred)

    def make() -> tuple[np.ndarray, np.ndarray]:
        matrix = frame.covariance()
        if not centred:
            mean = moments.mean / moments.scale(key[2])
            matrix = matrix + np.outer(mean, mean)
        on_device = backend.put(matrix)
        values, vectors = map(to_host, array_namespace(on_device).linalg.eigh(on_device))
        vectors = vectors[:, ::-1]
        largest = np.abs(vectors).argmax(0)
        return values[::-1].copy(), vectors * np.sign(vectors[largest, np.arange(len(vectors))])

    return moments.once(key, make)


def _leading(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    return backend.put(_principal(basis, frame, backend)[1][:, :count])


def variances(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array | None:
    """Return the variance along each direction, float64 (count,), where they are uncorrelated.

    So principal directions are, and R'CR is diagonal; of other bases None is returned.
    """
    if basis.kind != "pca":
        return None
    return backend.put(_principal(basis, frame, backend)[0][:count])


def _gaussian(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """Independent normal entries of variance 1/D: directions of length 1 on average."""
    return _drawn(torch.randn, basis, count, frame, backend) * frame.n_features**-0.5


def _orthogonal(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """The Gaussian directions of the same seed, made orthonormal one after another."""
    return orthonormalised(_gaussian(basis, count, frame, backend))


def _uniform(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """Entries uniform in [0, 1), each direction then scaled to length 1."""
    drawn = _drawn(torch.rand, basis, count, frame, backend)
    xp = array_namespace(drawn)
    return drawn / xp.sqrt(xp.sum(drawn * drawn, axis=0))


def _drawn(
    draw: Callable[..., torch.Tensor], basis: Basis, count: int, frame: Frame, backend: Backend
) -> Array:
    """Return (D, count) of float32 draws from a generator of their own, in float64."""
    generator = torch.Generator().manual_seed(int(basis.seed))
    shape = (PIECE, frame.n_features)
    pieces = [draw(shape, generator=generator) for _ in range(-(-count // PIECE))]
    return backend.put(torch.cat(pieces)[:count].to(torch.float64).T.contiguous().numpy())


def _given(basis: Basis, count: int, frame: Frame, backend: Backend) -> Array:
    """Directions of somebody's own, as one to features in their own units: z = c R'(x - mean).

    One factor c makes the mean variance of z on these rows 1, so that penalties mean the same
    whatever the matrix is multiplied by. Raw features are not scaled.
    """
    matrix = basis.given.matrix
    if len(matrix) != frame.n_features:
        raise UsageError(
            f"the directions are of {len(matrix)} features and the layer has {frame.n_features}: "
            "both must be of the same layer"
        )

    def make() -> np.ndarray:
        found = matrix * frame.scale[:, None]
        if not frame.centred:
            return found
        variance = float((found * (frame.covariance() @ found)).sum(0).mean())
        if not variance > 0:
            raise DataError("nothing changes along the directions that are given")
        return found / np.sqrt(variance)

    if not frame.centred:
        return backend.put(make()[:, :count])
    key = ("given", basis.given.digest, frame.standardize)
    return backend.put(frame.moments().once(key, make)[:, :count])


KINDS: dict[str, Callable[[Basis, int, Frame, Backend], Array]] = {
    "given": _given,
    "pca": _leading,
    "pca-uncentred": _leading,
    "random-projection": _gaussian,
    "random-projection-orthogonal": _orthogonal,
    "random-projection-uniform": _uniform,
}
"""How the directions of each kind come about."""


def orthonormalised(vectors: Array) -> Array:
    """Return what Gram and Schmidt make of independent columns (D, m), m <= D, float64.

    With U'U = L L' it is U L^-T, which products give in a tenth of the time of reflections; it is
    done twice where a nearly dependent column leaves rounding in the first result.
    """
    xp, width = array_namespace(vectors), vectors.shape[1]
    for _ in range(2):
        gram = xp.zeros((width, width), dtype=vectors.dtype, device=vectors.device)
        add_upper(gram, vectors, width)
        mirror(gram)
        lower, exists = checked_cholesky(gram[None])
        if not exists[0]:
            orthonormal, triangle = xp.linalg.qr(vectors)
            return orthonormal * xp.sign(xp.linalg.diagonal(triangle))
        vectors = solve_lower(lower, vectors.T[None])[0].T
        left = xp.linalg.diagonal(lower[0])
        if float(xp.min(left)) > _INDEPENDENT * float(xp.max(left)):
            break
    return vectors


_INDEPENDENT = 0.05
"""What of its length a direction keeps beside those before it where rounding is under 1e-11."""


def congruent(matrix: Array, found: Array) -> Array:
    """Return R'MR, (m, m), exactly symmetric, for symmetric M (D, D) and R (D, m)."""
    return symmetric_product(found, matrix @ found)


def congruent_of_root(root: Array, found: Array) -> Array:
    """Return R'MR, (m, m), exactly symmetric, of M = L L' for lower L (D, D) and R (D, m).

    With P = L'R it is P'P: two triangles in place of a square and one.
    """
    product = array_namespace(found).empty_like(found)
    for rows in panels(len(root)):
        product[rows] = root[rows.start :, rows].T @ found[rows.start :]
    return symmetric_product(product, product)


def symmetric_product(found: Array, product: Array) -> Array:
    """Return R'P, (m, m), exactly symmetric, where P = MR of a symmetric M; both (D, m)."""
    xp, width = array_namespace(found), found.shape[1]
    out = xp.empty((width, width), dtype=found.dtype, device=found.device)
    there = [(columns, slice(columns.start, width)) for columns in panels(width)]
    for rows, columns in there if on_device(found) else tiles(width):
        out[rows, columns] = found[:, rows].T @ product[:, columns]
    mirror(out)
    return out


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
            so that it can be made again from some of them; None for any other order.
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


def check_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds as a list of distinct integers.

    Raises:
        UsageError: there is none, one is no integer of 64 bits, one is given twice, or there are
            more than `featstore.probe.errors.MOST_SEEDS`.
    """
    checked = {}
    for seed in seeds_of(seeds):
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise UsageError(f"seed {seed!r} is not an integer")
        if not -(2**63) <= seed < 2**63:
            raise UsageError(f"seed {seed} does not fit in 64 bits: give a smaller one")
        if int(seed) in checked:
            raise UsageError(f"seed {seed} is given twice: each seed makes its own rows")
        checked[int(seed)] = None
    if not checked:
        raise UsageError("no seed given: name at least one")
    return list(checked)


def numbers_of(chains: Sequence[Chain], penalties: int, position: np.ndarray) -> np.ndarray:
    """Return the numbers, among those of all penalties, of each prefix at its penalty, int64 (n,).

    Arguments:
        chains: of n prefixes in all.
        penalties: how many there are.
        position: int64 (n,), which penalty of each prefix; or one for all.
    """
    lengths = np.array([len(chain) for chain in chains])
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    within = np.arange(lengths.sum()) - before
    return before * penalties + position * np.repeat(lengths, lengths) + within


def those(chains: Sequence[Chain], wanted: np.ndarray) -> tuple[list[Chain], np.ndarray]:
    """Return the chains with only the wanted prefixes, and the numbers of these, int64."""
    cut, start = [], 0
    for chain in chains:
        prefixes = np.flatnonzero(wanted[start : start + len(chain)])
        start += len(chain)
        if prefixes.size:
            sizes = tuple(chain.sizes[p] for p in prefixes)
            fractions = tuple(chain.fractions[p] for p in prefixes)
            cut.append(replace(chain, sizes=sizes, fractions=fractions))
    return cut, np.flatnonzero(wanted)

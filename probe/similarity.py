"""Similarity of two representations: CKA of rows, and of every prefix."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from array_api_compat import array_namespace

from featstore.probe.arrays import Array, Backend, full_precision, to_host
from featstore.probe.errors import DataError, MemoryBudgetError, UsageError
from featstore.probe.memory import spared, text
from featstore.probe.moments import Moments
from featstore.probe.result import ProbeResult, with_columns
from featstore.probe.subsets import (
    FEATURES,
    Basis,
    Chain,
    Frame,
    check_chains,
    directions,
    symmetric_product,
)


def pairwise_hsic(total: Moments, standardize: bool = False) -> np.ndarray:
    """Return the biased HSIC of each pair of features, b = C_st^2 (D, D), C the covariance.

    It is the published one, tr(K H L H) / (N - 1)^2 up to a factor that CKA does not see. CKA
    changes with the scales of features; as published, they are the features' own here.

    Arguments:
        total: moments of the rows on which to compare.
        standardize: divide each feature by its standard deviation on these rows.

    Returns:
        float64 (D, D), what the functions below take as `hsic`.

    References:
        Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms", ALT 2005.
        Kornblith et al., "Similarity of neural network representations revisited", ICML 2019,
        section 3: ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F).
    """
    return total.covariance(standardize) ** 2


def debiased_pairwise_hsic(
    total: Moments, cokurtosis: np.ndarray, standardize: bool = False
) -> np.ndarray:
    """Return the unbiased HSIC of each pair of features (D, D).

        b_st = N / (N - 3) (C_st^2 - q_st / (N - 2) + v_s v_t / ((N - 1)(N - 2)))

    where q_st = mean (x_s - m_s)^2 (x_t - m_t)^2 and v is the variance. It is the U-statistic
    HSIC_1 of Song et al. for linear kernels, whose diagonal terms sum_i k_ii l_ii the Gram does
    not know and q does. Biased CKA tends to 1 as features outnumber rows; this one does not, and
    may be slightly negative for features that have nothing in common.

    Arguments:
        total: moments of N >= 4 rows.
        cokurtosis: (D, D), of the same rows, by `featstore.probe.layers.cokurtosis`.
        standardize: as in `pairwise_hsic`.

    Raises:
        DataError: there are fewer than 4 rows.

    References:
        Song et al., "Feature selection via dependence maximization", JMLR 2012, equation 5.
        Nguyen, Raghu, Kornblith, "Do wide and deep networks learn the same things?", ICLR 2021.
    """
    n = total.n
    if n < 4:
        raise DataError(f"{n} rows are too few for debiased CKA: at least 4 are needed")
    variance = (total.variance > 0).astype(float) if standardize else total.variance
    products = np.outer(variance, variance)
    scaled = cokurtosis * products
    hsic = total.covariance(standardize) ** 2 - scaled / (n - 2) + products / ((n - 1) * (n - 2))
    return n / (n - 3) * hsic


def cka(hsic: np.ndarray, subsets: Sequence[np.ndarray]) -> np.ndarray:
    """Return CKA between all pairs of subsets.

    Arguments:
        hsic: (D, D), of pairs of features.
        subsets: S arrays of feature numbers, each at most once in a subset.

    Returns:
        float64 (S, S), symmetric, with a diagonal of 1; NaN for subsets that never change.
    """
    members = np.zeros((len(hsic), len(subsets)))
    for column, subset in enumerate(subsets):
        members[subset, column] = 1
    sums = members.T @ (hsic @ members)
    own = np.diagonal(sums)
    return _normalised((sums + sums.T) / 2, np.outer(own, own))


def cka_to_full(hsic: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return CKA of every prefix of an order with the whole layer, float64 (m,).

    HSIC(prefix, layer) is a running sum of the rows' sums of b, and HSIC(prefix, prefix) grows by
    2 sum_{t < k} b_kt + b_kk: all prefixes for O(D^2).

    Arguments:
        hsic: (D, D), of pairs of features.
        order: int64 (m,), feature numbers, each at most once.
    """
    with_full = np.cumsum(hsic.sum(1)[order])
    return _normalised(with_full, _within(hsic, order) * hsic.sum())


def cka_table(hsic: np.ndarray, chains: Sequence[Chain]) -> pd.DataFrame:
    """Return a row for each prefix of each chain: `mode`, `seed`, `fraction`, `k`, `cka`.

    `cka` is the similarity of those k features to the whole layer.

    Raises:
        UsageError: a chain names a feature that the layer does not have.
    """
    check_chains(chains, len(hsic))
    rows = []
    for chain in chains:
        along = cka_to_full(hsic, chain.order[: chain.length])
        for fraction, k in zip(chain.fractions, chain.sizes, strict=True):
            facts = {"mode": chain.mode, "seed": chain.seed, "fraction": fraction, "k": k}
            rows.append(facts | {"cka": along[k - 1]})
    return _typed(rows, ["seed"])


def cka_pair_table(hsic: np.ndarray, chains: Sequence[Chain]) -> pd.DataFrame:
    """Return the similarity of equally large subsets of two chains, for each pair of one mode.

    Returns:
        A row for each pair and each prefix: `mode`, `seed`, `other_seed`, `fraction`, `k`, `cka`.

    Raises:
        UsageError: chains of one mode differ in their sizes, or a chain names a feature that the
            layer does not have.
    """
    check_chains(chains, len(hsic))
    rows = []
    for mode in dict.fromkeys(chain.mode for chain in chains):
        rows += _pairs([chain for chain in chains if chain.mode == mode], hsic)
    return _typed(rows, ["seed", "other_seed"])


def _pairs(chains: Sequence[Chain], hsic: np.ndarray) -> list[dict[str, object]]:
    """Return a row for each prefix of each pair of chains of one mode, pair after pair."""
    first = chains[0]
    for chain in chains:
        if chain.sizes != first.sizes:
            raise UsageError(
                f"chains of mode {chain.mode!r} have sizes {first.sizes} and {chain.sizes}: "
                "similarity is compared at equal sizes"
            )
    # all pairs at one size at once: a few thin products with b
    alike = [cka(hsic, [chain.features(p) for chain in chains]) for p in range(len(first))]
    return [
        {
            "mode": one.mode,
            "seed": one.seed,
            "other_seed": other.seed,
            "fraction": fraction,
            "k": k,
            "cka": alike[p][i, j],
        }
        for (i, one), (j, other) in combinations(enumerate(chains), 2)
        for p, (fraction, k) in enumerate(zip(first.fractions, first.sizes, strict=True))
    ]


def _within(hsic: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return HSIC(prefix, prefix) of every prefix, (m,)."""
    permuted = hsic[np.ix_(order, order)]
    return np.cumsum(2 * np.tril(permuted, -1).sum(1) + np.diagonal(permuted))


def _normalised(hsic: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return hsic / sqrt(squares); NaN where a subset never changes."""
    moving = squares > 0
    return np.divide(
        hsic,
        np.sqrt(squares, where=moving, out=np.ones_like(hsic)),
        where=moving,
        out=np.full_like(hsic, np.nan),
    )


def _typed(rows: list[dict], seeds: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(seeds, "Int64")) if rows else table


@dataclass(frozen=True)
class PrefixSimilarity:
    """Biased linear CKA of every prefix of a chain with the whole layer, on the test rows.

    Features are centred and, as published, at their own scale. Directions are of features as the
    probes see them, x = (features - mean) / scale with the mean and scale of train rows (1 where
    they are not scaled), and so is the whole layer that they are compared with. With T the
    covariance of those on the test rows and R_k the first k directions of a chain, what a probe
    sees is z = R_k'x, and

        CKA = ||T R_k||^2 / (||R_k'T R_k|| ||T||)        (Frobenius norms),

    whose parts are running sums along the chain: all prefixes for R'TR, and no pass over rows. It
    is 1 for a whole orthonormal basis, whatever the scales.

    Attributes:
        test: moments of the test rows.
        frame: the train rows, for bases.
        backend: where to compute.
        chains: those to `watch` for.

    Reference:
        Kornblith et al., "Similarity of neural network representations revisited", ICML 2019.
    """

    test: Moments
    frame: Frame
    backend: Backend
    chains: Sequence[Chain] = ()
    _known: dict[int, np.ndarray] = field(default_factory=dict, init=False)

    def watch(self, basis: Basis, found: Array) -> None:
        """Take the directions of a basis, float64 (D, count), which so are not made again."""
        for chain in self.chains:
            reaches = chain.basis == basis and chain.order.max() < found.shape[1]
            if reaches and id(chain) not in self._known:
                self._known[id(chain)] = self._of_directions(chain, found)

    def along(self, chain: Chain) -> np.ndarray:
        """Return the CKA of each prefix, float64 (P,); NaN where nothing ever changes."""
        if id(chain) in self._known:
            return self._known[id(chain)]
        if chain.basis == FEATURES:
            places = np.array(chain.sizes) - 1
            return cka_to_full(self._hsic, chain.order[: chain.length])[places]
        count = int(chain.order.max()) + 1
        return self._of_directions(chain, directions(chain.basis, count, self.frame, self.backend))

    def _of_directions(self, chain: Chain, found: Array) -> np.ndarray:
        xp, places = array_namespace(found), np.array(chain.sizes) - 1
        order = self.backend.put(chain.order[: chain.length])
        found = xp.astype(xp.take(found, order, axis=1), self._covariance.dtype)
        with full_precision():
            seen = self._covariance @ found
            within = symmetric_product(found, seen)
        with_full = np.cumsum(to_host(xp.sum(seen * seen, axis=0, dtype=xp.float64)))
        # what k adds to the sum of squares of the leading k x k block
        squares = within * within
        steps = 2 * xp.sum(xp.tril(squares, k=-1), axis=1, dtype=xp.float64)
        steps += xp.astype(xp.linalg.diagonal(squares), xp.float64)
        whole = float(xp.sum(self._covariance * self._covariance, dtype=xp.float64))
        squared = np.cumsum(to_host(steps)) * whole
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(squared > 0, with_full / np.sqrt(squared), np.nan)[places]

    def beside(self, result: ProbeResult) -> ProbeResult:
        """Return the result of chains with a column `cka`."""
        axes = result.fitted.axes
        by_chain = [np.tile(self.along(chain), len(axes.penalties)) for chain in axes.chains]
        values = np.concatenate(by_chain)[result.probes]
        return replace(result, table=with_columns(result.table, {"cka": values}))

    @cached_property
    def _hsic(self) -> np.ndarray:
        return pairwise_hsic(self.test) / self._unit**2

    @cached_property
    def _covariance(self) -> Array:
        """T / max T_jj, (D, D), of test rows as train's mean and scale show them to a probe."""
        covariance, inverse = self.test.covariance(standardize=False), 1 / self.frame.scale
        if self.frame.centred:
            # a feature that never changes in train is seen by no probe
            inverse = np.where(self.frame.moments().variance == 0, 0.0, inverse)
        covariance *= inverse
        covariance *= inverse[:, None]
        covariance /= float(np.diagonal(covariance).max()) or 1.0  # see `_unit`
        return self.backend.put(covariance, self.test.precision)

    @property
    def _unit(self) -> float:
        """The largest variance: CKA does not know it, and fourth powers of small numbers vanish."""
        return float(self.test.variance.max()) or 1.0


def check_room(n_features: int, memory: int) -> None:
    """Raise MemoryBudgetError unless the matrices of `PrefixSimilarity` fit into memory."""
    needed = spared(8 * 8 * n_features**2)
    if needed > memory:
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for the CKA of {n_features} features, which "
            f"needs matrices of all of them: allow {text(needed)}, or leave cka out"
        )

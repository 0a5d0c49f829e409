"""Layers side by side: accuracy by layer, their similarity, and the spectrum of each."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from featstore.probe.arrays import own_settings
from featstore.probe.errors import DataError, MemoryBudgetError, UsageError
from featstore.probe.memory import Progress, Settings, settings_of, shows, text
from featstore.probe.moments import Moments, cached_moments, moments
from featstore.probe.result import ProbeResult
from featstore.probe.results import Evidence, Probes, score_of
from featstore.probe.results.curves import curve_table
from featstore.probe.results.evidence import joined
from featstore.probe.results.files import read_table
from featstore.probe.results.reading import load_rows, save_with_rows
from featstore.probe.rows import LabelledRows, RowBlocks, Rows, SideBySide, as_blocks
from featstore.probe.similarity import (
    cka,
    cka_pair_table,
    cka_table,
    debiased_pairwise_hsic,
    pairwise_hsic,
)
from featstore.probe.splits import RowSubset
from featstore.probe.subsets import Chain, check_seeds, random_chain


def cokurtosis(blocks: RowBlocks, settings: Settings, total: Moments) -> np.ndarray:
    """Return mean z_s^2 z_t^2 for each pair of features, z = (x - mean) / deviation: (D, D).

    One more pass over the rows and one more product of the Gram's size; as there, products are in
    float32 (float64 for float64 features) and sums in float64. A feature that never changes has
    z = 0.

    Arguments:
        blocks: the rows.
        settings: memory, backend, progress.
        total: the moments of the same rows.

    Returns:
        float64 (D, D), symmetric; the diagonal is each feature's kurtosis.

    Raises:
        DataError: `total` is of other rows; or as `featstore.probe.moments.moments`.
    """
    if (blocks.n_rows, blocks.n_features) != (total.n, len(total.gram)):
        raise DataError(
            f"{blocks.n_rows} rows of {blocks.n_features} features but moments of {total.n} rows "
            f"of {len(total.gram)}: give the moments of the same rows"
        )
    squared = moments(_Squared(blocks, total), settings)
    gram = squared.shifted_to(np.zeros_like(total.shift)).gram
    return (gram + gram.T) / (2 * total.n)


class _Squared(LabelledRows):
    """Row blocks of z^2, all of one class.

    Arguments:
        blocks: rows of x.
        total: their moments.
    """

    n_classes, fingerprint = 1, None

    def __init__(self, blocks: RowBlocks, total: Moments):
        self.n_rows, self.n_features = blocks.n_rows, blocks.n_features
        self.block_rows = blocks.block_rows
        self._blocks, self._total = blocks, total
        self._mean = total.mean
        # z is 0 for a feature whose changes are below rounding
        self._by = (total.variance > 0) / total.scale()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for features, _ in self._blocks:
            dtype = np.float64 if features.dtype == np.float64 else np.float32
            squares = ((features - self._mean) * self._by) ** 2
            yield squares.astype(dtype), np.zeros(len(features), np.int64)

    def labels(self) -> np.ndarray:
        """Return zeros, int64 (N,)."""
        return np.zeros(self.n_rows, np.int64)


FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Fractions to compare unless others are asked for."""

# float64 matrices of (D, D) held at once, biased and debiased: moments, copies and b
_LAYER_MATRICES = {False: 5, True: 9}


@dataclass(frozen=True)
class Similarity:
    """Linear CKA of one or several layers of the same rows.

    Attributes:
        to_full: a row for each layer, seed and fraction: `name`, `mode`, `seed`, `fraction`, `k`,
            `cka` of those k features with their whole layer.
        pairs: a row for each layer, pair of seeds and fraction, with `other_seed`: `cka` of two
            subsets of one size with each other.
        layers: float64 (L, L), names as index and columns: of whole layers with each other.
        n_rows: rows on which they were compared.
    """

    to_full: pd.DataFrame
    pairs: pd.DataFrame
    layers: pd.DataFrame
    n_rows: int


@shows
def layer_similarity(
    layers: Mapping[str, Rows],
    fractions: Sequence[float] | None = None,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    *,
    debiased: bool = False,
    standardize: bool = False,
    n_rows: int | None = None,
    row_seed: int = 0,
    moments_cache: Path | None = None,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> Similarity:
    """Return linear CKA of random subsets of layers, and of the layers, from one joint Gram.

        CKA(S, T) = ||G[S,T]||_F^2 / (||G[S,S]||_F ||G[T,T]||_F)

    of the centred features of all layers side by side: read once, or twice if debiased.

    Arguments:
        layers: by name, row blocks or (features, labels) of the same rows in the same order.
        fractions: shares in (0, 1]; by default those of `FRACTIONS` that take a feature.
        seeds: what the random subsets are drawn with.
        debiased: take the unbiased estimate of HSIC; as published it is biased.
        standardize: divide each feature by its standard deviation; as published it is not.
        n_rows: how many rows to draw, without replacement; by default all.
        row_seed: of that draw.
        moments_cache: folder to keep the moments of all rows of a single layer in.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Raises:
        UsageError: a fraction, seed or number of rows cannot be used.
        DataError: the layers have different numbers of rows, or a feature is not finite.
        MemoryBudgetError: the features are too many for `memory`.

    Reference:
        Kornblith et al., "Similarity of neural network representations revisited", ICML 2019.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
        >>> y = np.zeros(50, int)
        >>> found = layer_similarity({"a": (x, y), "b": (3 * x, y)}, [0.5], seeds=[1, 2])
        >>> found.layers.round(3).to_numpy().tolist()
        [[1.0, 1.0], [1.0, 1.0]]
        >>> found.to_full.columns.tolist()
        ['name', 'mode', 'seed', 'fraction', 'k', 'cka']
    """
    blocks = [as_blocks(rows) for rows in layers.values()]
    settings = settings_of(standardize, moments_cache, memory, device, backend, progress)
    joint = SideBySide([_drawn(rows, n_rows, row_seed) for rows in blocks])
    single = blocks[0] if len(blocks) == 1 and n_rows is None else None
    _check_memory(joint.n_features, settings.memory, debiased)
    chains = _chains(blocks, fractions, seeds)
    with own_settings():
        hsic = _hsic(single or joint, settings, debiased, standardize)
    own = [hsic[np.ix_(columns, columns)] for columns in joint.of_layers]
    names = list(layers)
    return Similarity(
        _named(names, map(cka_table, own, chains)),
        _named(names, map(cka_pair_table, own, chains)),
        pd.DataFrame(cka(hsic, joint.of_layers), names, names),
        joint.n_rows,
    )


def _hsic(rows: RowBlocks, settings: Settings, debiased: bool, standardize: bool) -> np.ndarray:
    total = moments(rows, settings) if rows.fingerprint is None else cached_moments(rows, settings)
    if not debiased:
        return pairwise_hsic(total, standardize)
    return debiased_pairwise_hsic(total, cokurtosis(rows, settings, total), standardize)


def _drawn(rows: RowBlocks, n_rows: int | None, seed: int) -> RowBlocks:
    """Return some of the rows, the same ones of layers of as many rows."""
    if n_rows is None or n_rows == rows.n_rows:
        return rows
    if not 2 <= n_rows <= rows.n_rows:
        raise UsageError(f"{n_rows} rows of {rows.n_rows}: draw at least 2, and no more than all")
    drawn = np.random.default_rng(seed).choice(rows.n_rows, n_rows, replace=False)
    return RowSubset(rows, np.sort(drawn))


def _chains(
    layers: Sequence[RowBlocks], fractions: Sequence[float] | None, seeds: Sequence[int]
) -> list[list[Chain]]:
    """Return a chain for each seed, of each layer."""
    if fractions is None:
        narrowest = min(rows.n_features for rows in layers)
        fractions = [share for share in FRACTIONS if int(share * narrowest)] or [1.0]
    drawn = check_seeds(seeds)
    return [[random_chain(rows.n_features, fractions, seed) for seed in drawn] for rows in layers]


def _check_memory(n_features: int, memory: int, debiased: bool) -> None:
    needed = 8 * _LAYER_MATRICES[debiased] * n_features**2
    if needed > memory:
        raise MemoryBudgetError(
            f"CKA of {n_features:,} features together takes {text(needed)}, and {text(memory)} of "
            "memory is granted: grant more, or compare fewer or narrower layers"
        )


def _named(names: Sequence[str], tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    known = [
        table.assign(name=name)[["name", *table]]
        for name, table in zip(names, tables, strict=True)
        if len(table)
    ]
    columns = ["name", "mode", "seed", "other_seed", "fraction", "k", "cka"]
    return pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=columns)


# |correlation| above 1 minus this makes a duplicate: what rounding of the products leaves of 1
_SAME = {"float32": 1e-5, "float64": 1e-10}
# float64 matrices of (D, D) held at once: the Gram, correlations, their copies, and eigenvalues'
_SPECTRUM_MATRICES = 6


@dataclass(frozen=True)
class Spectrum:
    """Spectrum of a layer of D features, from its second moments.

    Attributes:
        eigenvalues: float64 (D,), of the covariance, falling; 0 below rounding.
        correlation: mean |correlation| over pairs of features that change; NaN for fewer than 2.
        dead: int64, the features that never change on these rows.
        duplicates: int64 (M, 2), pairs (copy, original): a copy is an affine function, of either
            sign, of an original, the earliest feature that it repeats.
        outliers: int64, features whose variance, in their own units, is at least `OUTLYING` times
            the mean of all features'.

    Reference:
        Rudman, Chen, Eickhoff, "Outlier dimensions encode task specific knowledge", EMNLP 2023, for
        outlier dimensions.
    """

    eigenvalues: np.ndarray
    correlation: float
    dead: np.ndarray
    duplicates: np.ndarray
    outliers: np.ndarray

    def __repr__(self) -> str:
        return f"<Spectrum of {self._told}>"

    def _repr_html_(self) -> str:
        return f"<p>Spectrum of {self._told}</p>"

    @property
    def _told(self) -> str:
        told = self.numbers
        return (
            f"{len(self.eigenvalues):,} features: effective rank {told['effective_rank']:.1f}, "
            f"90 % of the variance in {told['components_90']:,} components, "
            f"{len(self.dead):,} dead, {len(self.duplicates):,} repeated"
        )

    @property
    def effective_rank(self) -> float:
        """exp(-sum p log p), p_i = sigma_i / sum sigma, of the singular values of centred X.

        sigma_i is sqrt(N lambda_i), so N cancels. 0 for a layer that never changes.

        Reference:
            Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
            EUSIPCO 2007.
        """
        sigma = np.sqrt(self.eigenvalues[self.eigenvalues > 0])
        shares = sigma / sigma.sum()
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(sigma) else 0.0

    @property
    def participation_ratio(self) -> float:
        """(sum lambda)^2 / sum lambda^2, of the eigenvalues; 0 for a layer that never changes.

        Reference:
            Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement",
            bioRxiv 2017.
        """
        squares = (self.eigenvalues**2).sum()
        return float(self.eigenvalues.sum() ** 2 / squares) if squares else 0.0

    @property
    def isoscore(self) -> float:
        """Return how evenly all D directions are used: 0 for one alone, 1 for all alike.

        With s = sqrt(D) lambda / |lambda| and delta = |s - 1| / sqrt(2 (D - sqrt(D))),
        phi = (D - delta^2 (D - sqrt(D)))^2 / D^2 and the score is (D phi - 1) / (D - 1). NaN for
        fewer than two features, or a layer that never changes.

        Reference:
            Rudman et al., "IsoScore: measuring the uniformity of embedding space utilization",
            Findings of ACL 2022, algorithm 1.
        """
        d, norm = len(self.eigenvalues), float(np.linalg.norm(self.eigenvalues))
        if d < 2 or not norm:
            return float("nan")
        less = d - math.sqrt(d)
        square = float(((math.sqrt(d) * self.eigenvalues / norm - 1) ** 2).sum()) / (2 * less)
        phi = ((d - square * less) / d) ** 2
        return (d * phi - 1) / (d - 1)

    def components(self, share: float) -> int:
        """Return how many principal components hold a share of the variance, in (0, 1]."""
        held = np.cumsum(self.eigenvalues)
        if not held[-1]:
            return 0
        return int(np.searchsorted(held, share * held[-1] * (1 - 1e-12)) + 1)

    @property
    def numbers(self) -> dict[str, float]:
        """The layer in one row of a table."""
        return {
            "features": len(self.eigenvalues),
            "effective_rank": self.effective_rank,
            "participation_ratio": self.participation_ratio,
            "components_90": self.components(0.9),
            "components_99": self.components(0.99),
            "mean_abs_correlation": self.correlation,
            "dead": len(self.dead),
            "duplicates": len(self.duplicates),
            "isoscore": self.isoscore,
            "outliers": len(self.outliers),
        }


@shows
def layer_spectrum(
    rows: Rows,
    *,
    standardize: bool = True,
    moments_cache: Path | None = None,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> Spectrum:
    """Return the spectrum of a layer, from one pass over its rows.

    Arguments:
        rows: row blocks, or (features (N, D), labels (N,)).
        standardize: as in `spectrum_of`.
        moments_cache: folder to keep moments in, under the blocks' fingerprint.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Raises:
        DataError: the rows are not finite.
        MemoryBudgetError: the features are too many for `memory`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 4))
        >>> found = layer_spectrum((x, np.arange(500) % 2))
        >>> round(found.effective_rank), found.components(0.9)
        (4, 4)
    """
    blocks, settings = (
        as_blocks(rows),
        settings_of(standardize, moments_cache, memory, device, backend, progress),
    )
    needed = 8 * _SPECTRUM_MATRICES * blocks.n_features**2
    if needed > settings.memory:
        raise MemoryBudgetError(
            f"the spectrum of {blocks.n_features:,} features takes {text(needed)}, and "
            f"{text(settings.memory)} of memory is granted: grant more, or take a narrower layer"
        )
    with own_settings():
        return spectrum_of(cached_moments(blocks, settings), standardize)


def spectrum_of(total: Moments, standardize: bool = True) -> Spectrum:
    """Return the spectrum of the covariance, and what features repeat each other.

    Arguments:
        total: moments of the rows.
        standardize: take the spectrum of the correlation matrix, the features as probes see
            them; otherwise of the covariance of the features as they are. Correlations, dead
            features and duplicates are the same either way.

    Example:
        >>> from featstore.probe.rows import ArrayBlocks
        >>> from featstore.probe.moments import moments
        >>> from featstore.probe.memory import Settings
        >>> a, b = np.array([1.0, 1, -1, -1]), np.array([1.0, -1, 1, -1])
        >>> features = np.stack([a, b, -2 * a, 0 * a], 1)
        >>> found = spectrum_of(moments(ArrayBlocks(features, [0, 1, 0, 1]), Settings()))
        >>> found.eigenvalues.round(6).tolist(), found.dead.tolist(), found.duplicates.tolist()
        ([2.0, 1.0, 0.0, 0.0], [3], [[2, 0]])
        >>> round(found.participation_ratio, 6)
        1.8
    """
    correlation = total.covariance()
    matrix = correlation if standardize else total.covariance(False)
    live = total.variance > 0
    return Spectrum(
        eigenvalues_of(matrix, total.precision),
        _mean_absolute(correlation, int(live.sum())),
        np.flatnonzero(~live),
        _duplicates(np.abs(correlation), total.precision),
        np.flatnonzero(live & (total.variance >= OUTLYING * total.variance.mean())),
    )


OUTLYING = 5.0
"""Variance of an outlier dimension, in means of all features' variances."""


def eigenvalues_of(matrix: np.ndarray, precision: str) -> np.ndarray:
    """Return eigenvalues (D,), falling, with 0 for those that rounding of the products makes."""
    values = np.linalg.eigvalsh(matrix)[::-1]
    # errors of entries, about eps each and independent, have eigenvalues of about sqrt(D) eps;
    # the square root in the effective rank would make much of them
    noise = np.finfo(precision).eps * math.sqrt(len(values)) * max(values[0], 0.0)
    return np.where(values > noise, values, 0.0)


def _mean_absolute(correlation: np.ndarray, n_live: int) -> float:
    if n_live < 2:
        return float("nan")
    # rows of dead features are 0, and the diagonal of live ones is 1
    off = np.abs(correlation).sum() - np.trace(correlation)
    return float(off / (n_live * (n_live - 1)))


def _duplicates(absolute: np.ndarray, precision: str) -> np.ndarray:
    earlier = np.tril(absolute > 1 - _SAME[precision], -1)
    copies = np.flatnonzero(earlier.any(1))
    return np.stack([copies, earlier[copies].argmax(1)], 1)


@dataclass(frozen=True)
class LayerSweep:
    """Sweeps of several layers on the same test rows, as one table.

    `summary`, `sentence` and figures take it as they take the result of one layer.

    Attributes:
        results: one a layer, in their order in the network.

    Example:
        >>> from featstore.probe.sweeps import sweep
        >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 3
        >>> layers = {"first": (np.ones_like(x) + 0 * x, y), "second": (x, y)}
        >>> swept = LayerSweep(
        ...     tuple(sweep(rows, rows, fractions=1.0, solver="ridge", l2=1.0, tap=tap)
        ...           for tap, rows in layers.items()))
        >>> accuracy_by_layer(swept)[["layer", "tap", "fraction"]].values.tolist()
        [[0, 'first', 1.0], [1, 'second', 1.0]]
    """

    results: tuple[ProbeResult, ...]

    def __post_init__(self):
        if not self.results:
            raise UsageError("no sweep is given: give one a layer")

    def __len__(self) -> int:
        return sum(map(len, self.results))

    def to_pandas(self) -> pd.DataFrame:
        """Return one row a probe, layers in their order."""
        return pd.concat([result.table for result in self.results], ignore_index=True)

    @property
    def correct(self) -> Evidence:
        """Return whether the probe of each row has each test row right; None for rows not kept."""
        return self.evidence()

    def evidence(self, score: str | None = None) -> list[np.ndarray | None]:
        """Return the parts of test rows in a score, as `ProbeResult.evidence` does; or None."""
        every: list[np.ndarray | None] = []
        for result in self.results:
            known = result.evidence(score)
            every += [None] * len(result) if known is None else list(known)
        return every

    def save(self, path: str | Path) -> None:
        """Write the table as `ProbeResult.save` does, with the test rows if all layers have them.

        Raises:
            UsageError: the name ends in something else.
        """
        known = [result.by_row for result in self.results]
        counts = np.cumsum([0, *(0 if rows is None else len(rows.known) for rows in known)])
        places = zip(self.results, counts, strict=False)
        probes = np.concatenate([result.probes + before for result, before in places])
        there = [rows for rows in known if rows is not None]
        rows = None
        if len(there) == len(known):
            rows = joined(there)
        save_with_rows(self.to_pandas(), Path(path), rows, probes)


def parted(results: Path, into: Mapping[str, Path]) -> set[str]:
    """Write the rows of each tap in a file that `LayerSweep.save` wrote into a file of its own.

    Arguments:
        results: the file of all taps.
        into: the file to write, by tap.

    Returns:
        The taps that it has rows of.

    Raises:
        UsageError: it is no table of results, or was changed since it was written.
    """
    table = read_table(results, unchanged=True)
    if "tap" not in table:
        raise UsageError(f"{results} has no column 'tap': it is no table of results")
    held = load_rows(results, table, score_of(table))
    for tap in set(table["tap"]) & set(into):
        chosen = (table["tap"] == tap).to_numpy()
        rows, probes = None, np.zeros(chosen.sum(), np.int64)
        if held is not None:
            probes = held[1][chosen]
            first, end = probes.min(), probes.max() + 1
            rows, probes = held[0].at(slice(first, end)), probes - first
        save_with_rows(table[chosen].reset_index(drop=True), into[tap], rows, probes)
    return set(table["tap"])


def accuracy_by_layer(table: Probes, correct: Evidence = None, level: float = 0.95) -> pd.DataFrame:
    """Return the score of each layer with its interval, a row for each layer and fraction.

    Arguments:
        table: a `LayerSweep`, or one row a probe, of several taps of one or several stores.
        correct: which test rows each probe has right, by default the result's own.
        level: coverage of each interval.

    Returns:
        As `featstore.probe.results.curves.curve_table`, with `layer` first: from 0 in each store,
        in the order in which the table first has its taps; by fraction, then by layer.
    """
    found = curve_table(table, correct, level)
    places = found.groupby("store", sort=False)["tap"].transform(lambda taps: pd.factorize(taps)[0])
    found.insert(0, "layer", places.astype(int))
    order = ["store", "mode", "solver", "fraction", "layer"]
    first = found.assign(store=pd.factorize(found["store"])[0])
    return found.loc[first.sort_values(order, kind="stable").index].reset_index(drop=True)

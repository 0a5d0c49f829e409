"""Geometry of layers: intrinsic dimension, shared neighbours, CKA by chance, features in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import numpy as np
import pandas as pd
from array_api_compat import array_namespace

from featstore.probe.arrays import full_precision, own_settings, to_host
from featstore.probe.errors import DataError, MemoryBudgetError, UsageError
from featstore.probe.layers import OUTLYING, Spectrum, eigenvalues_of
from featstore.probe.memory import Progress, Settings, settings_of, shows, text
from featstore.probe.moments import Moments, moments
from featstore.probe.neighbours import Placed, joined_walks, nearest, scaling
from featstore.probe.rows import RowBlocks, Rows, SideBySide, as_blocks
from featstore.probe.selection import LADDER
from featstore.probe.solvers import Metric
from featstore.probe.subsets import Chain, check_seeds, grid, random_chain

_DISCARDED = 0.1
"""Share of the largest ratios that TwoNN leaves out, as its authors do."""


def _subsets(width: int, fractions: Sequence[float], seeds: Sequence[int]) -> list[Chain]:
    """Return the chain of each seed, and last the whole layer."""
    parts = grid(width, fractions).parts() if len(fractions) else None
    chains = []
    if parts is not None and len(parts):
        chains = [random_chain(width, parts.fractions, seed) for seed in check_seeds(seeds)]
    return [*chains, Chain(np.arange(width), (width,), (1.0,), "whole")]


@shows
def intrinsic_dimension(
    rows: Rows,
    fractions: Sequence[float] = (),
    seeds: Sequence[int] = (1,),
    *,
    neighbours: int = 20,
    standardize: bool = True,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Return in how many dimensions rows lie about each other, of a layer and of random subsets.

    With r_1 <= r_2 <= ... a row's distances to its nearest others, TwoNN fits the d of

        -log(1 - F(mu)) = d log mu,    mu = r_2 / r_1,

    F the share of rows with a smaller mu, without the largest tenth of them; and maximum likelihood
    of K neighbours has d = 1 / mean over rows of m_i, m_i = mean over k < K of log(r_K / r_k).
    Rows that are there twice have no r_2 / r_1 and are left out. Distances on all prefixes of a
    chain come from one product of the rows with themselves, in float64.

    Arguments:
        rows: row blocks, or (features (N, D), labels (N,)); labels do not matter.
        fractions: shares of the features, in (0, 1]; the whole layer is always added.
        seeds: what the random subsets are drawn with.
        neighbours: K.
        standardize: divide each feature by its deviation.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Returns:
        A row for each seed and fraction, the whole layer last: `seed`, `fraction`, `k`, `two_nn`,
        `likelihood`, and `rows` that count. NaN where fewer than 3 rows differ.

    Raises:
        UsageError: `neighbours` are fewer than 2 or more than the other rows.
        DataError: features are not finite.
        MemoryBudgetError: not even a few rows fit into `memory`.

    References:
        Facco et al., "Estimating the intrinsic dimension of datasets by a minimal neighborhood
        information", Scientific Reports 2017.
        Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", NIPS 2004, with
        the mean of inverses of MacKay and Ghahramani's comment.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(2000, 3)) @ np.eye(3, 10)
        >>> table = intrinsic_dimension((x, np.zeros(2000, int)))
        >>> table[["two_nn", "likelihood"]].round().values.tolist()
        [[3.0, 3.0]]
    """
    blocks, settings = (
        as_blocks(rows),
        settings_of(standardize, None, memory, device, backend, progress),
    )
    if not 2 <= neighbours < blocks.n_rows:
        raise UsageError(
            f"neighbours is {neighbours}: give 2 to {blocks.n_rows - 1:,}, the other rows"
        )
    chains = _subsets(blocks.n_features, fractions, seeds)
    distances = _distances(blocks, chains, neighbours, settings)
    found = []
    for chain, prefixes in zip(chains, distances, strict=True):
        for size, fraction, squares in zip(chain.sizes, chain.fractions, prefixes, strict=True):
            two, likelihood, known = _dimensions(squares)
            found.append(
                {"seed": chain.seed, "fraction": fraction, "k": size, "two_nn": two}
                | {"likelihood": likelihood, "rows": known}
            )
    return pd.DataFrame(found).astype({"seed": "Int64"})


def _distances(
    blocks: RowBlocks, chains: Sequence[Chain], count: int, settings: Settings
) -> list[list[np.ndarray]]:
    """Return squared distances to the nearest others, (N, K) rising, of each chain and prefix."""
    found = [[[] for _ in chain.sizes] for chain in chains]
    with own_settings(), full_precision():
        shift, scale, _ = scaling(blocks, "euclidean", settings)
        place = Placed(shift, scale, "float64", "euclidean", settings)
        walks, numbers = joined_walks(chains, blocks.n_features)
        for _, every in nearest(blocks, blocks, walks, count, place, True, ("rows", "rows")):
            for prefixes, places in zip(every, numbers, strict=True):
                for (similarity, _), (chain, prefix) in zip(prefixes, places, strict=True):
                    found[chain][prefix].append(-to_host(similarity))
    return [[np.concatenate(parts) for parts in prefixes] for prefixes in found]


def _dimensions(squares: np.ndarray) -> tuple[float, float, int]:
    """Return both estimates from squared distances (N, K), and how many rows they are of."""
    # what is left of a distance of 0 is rounding of squares of the rows' size
    least = 1e-12 * float(np.median(squares[:, -1]))
    squares = squares[squares[:, 0] > least]
    if len(squares) < 3:
        return np.nan, np.nan, len(squares)
    logs = np.log(squares) / 2
    ratios = np.sort(np.where(squares[:, 1] - squares[:, 0] > least, logs[:, 1] - logs[:, 0], 0))
    kept = int(len(ratios) * (1 - _DISCARDED))
    x, y = ratios[:kept], -np.log(1 - np.arange(1, kept + 1) / len(ratios))
    inverse = float((logs[:, -1:] - logs[:, :-1]).mean())
    two = float(x @ y / (x @ x)) if x @ x > 0 else np.nan
    return two, 1 / inverse if inverse > 0 else np.nan, len(squares)


@shows
def subset_spectra(
    rows: Rows,
    fractions: Sequence[float] = (),
    seeds: Sequence[int] = (1,),
    *,
    standardize: bool = True,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Return spectra of random subsets of a layer and of all of it, from one matrix of moments.

    Arguments:
        rows: row blocks, or (features (N, D), labels (N,)).
        fractions: shares of the features, in (0, 1]; the whole layer is always added.
        seeds: what the random subsets are drawn with.
        standardize: as of `featstore.probe.layers.spectrum_of`.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Returns:
        A row for each seed and fraction, the whole layer last: `seed`, `fraction`, `k`,
        `effective_rank`, `participation_ratio`, `isoscore`, and how many `outliers`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 8))
        >>> table = subset_spectra((x, np.zeros(500, int)), [0.5])
        >>> table[["k", "effective_rank"]].round().values.tolist()
        [[4.0, 4.0], [8.0, 8.0]]
    """
    blocks = as_blocks(rows)
    settings = settings_of(standardize, None, memory, device, backend, progress)
    found = []
    with own_settings():
        total = moments(blocks, settings)
        matrix = total.covariance(standardize)
        outlying = (total.variance > 0) & (total.variance >= OUTLYING * total.variance.mean())
        for chain in _subsets(blocks.n_features, fractions, seeds):
            for prefix, (size, fraction) in enumerate(
                zip(chain.sizes, chain.fractions, strict=True)
            ):
                columns = chain.features(prefix)
                values = eigenvalues_of(matrix[np.ix_(columns, columns)], total.precision)
                none = np.zeros(0, np.int64)
                own = Spectrum(values, np.nan, none, none, np.flatnonzero(outlying[columns]))
                names = ("effective_rank", "participation_ratio", "isoscore", "outliers")
                facts = {"seed": chain.seed, "fraction": fraction, "k": size}
                found.append(facts | {name: own.numbers[name] for name in names})
    return pd.DataFrame(found).astype({"seed": "Int64"})


@shows
def geometry_table(
    layers: Mapping[str, Rows],
    fractions: Sequence[float] = (),
    seeds: Sequence[int] = (1,),
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 199,
    standardize: bool = True,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the dimensions of layers and of their subsets, and what pairs of layers share.

    Arguments:
        layers: by name, row blocks or (features, labels) of the same rows in the same order.
        fractions: shares of the features, in (0, 1]; whole layers are always added.
        seeds: what the random subsets are drawn with.
        k: neighbours of each row, of dimensions and of `mutual_neighbours`.
        metric: of the neighbours that are shared.
        permutations: shuffles behind the null of CKA; the null is of features as they are.
        standardize: divide each feature by its deviation, but for CKA.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Returns:
        A row for each layer, seed and fraction: `name`, and the columns of `intrinsic_dimension`,
        `subset_spectra` and `mutual_neighbours` (with the whole layer; NaN for the whole).
        A row for each pair of layers: `name`, `other`, `cka`, `expected`, `calibrated`, `p`,
        `procrustes`, `mutual`, `chance`.
    """
    keys, found = ["seed", "fraction", "k"], []
    computing = {"memory": memory, "device": device, "backend": backend, "progress": progress}
    for name, rows in layers.items():
        dimensions = intrinsic_dimension(
            rows, fractions, seeds, neighbours=k, standardize=standardize, **computing
        )
        spectra = subset_spectra(rows, fractions, seeds, standardize=standardize, **computing)
        found.append(dimensions.merge(spectra, on=keys).assign(name=name))
    table = pd.concat(found, ignore_index=True)
    near = mutual_neighbours(
        layers, fractions, seeds, k=k, metric=metric, standardize=standardize, **computing
    )
    table["mutual"] = np.nan
    if len(near):
        own = near[near["name"] == near["other"]].drop(columns=["other", "chance"])
        table = table.drop(columns="mutual").merge(own, on=["name", "seed", "fraction"], how="left")
    first = ["name", *(column for column in table if column != "name")]
    return table[first], _beside_null(near, layers, permutations, computing)


@shows
def likeness_table(
    layers: Mapping[str, Rows],
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 199,
    standardize: bool = True,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Return what pairs of layers share: the second table of `geometry_table`, alone.

    Arguments: as of `geometry_table`.
    """
    computing = {"memory": memory, "device": device, "backend": backend, "progress": progress}
    near = mutual_neighbours(layers, k=k, metric=metric, standardize=standardize, **computing)
    return _beside_null(near, layers, permutations, computing)


def _beside_null(
    near: pd.DataFrame, layers: Mapping[str, Rows], permutations: int, computing: Mapping
) -> pd.DataFrame:
    """Return the pairs of layers in a table of `mutual_neighbours`, with CKA and its null."""
    pairs = near[near["name"] != near["other"]].to_dict("records") if len(near) else []
    told = []
    for pair in pairs:
        null = calibrated_cka(
            layers[pair["name"]], layers[pair["other"]], permutations=permutations, **computing
        )
        told.append(
            {"name": pair["name"], "other": pair["other"], "cka": null.value}
            | {"expected": null.expected, "calibrated": null.calibrated, "p": null.p}
            | {"procrustes": null.procrustes}
            | {"mutual": pair["mutual"], "chance": pair["chance"]}
        )
    return pd.DataFrame(told)


@shows
def mutual_neighbours(
    layers: Mapping[str, Rows],
    fractions: Sequence[float] = (),
    seeds: Sequence[int] = (1,),
    *,
    k: int = 10,
    metric: str = "cosine",
    standardize: bool = False,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Return the share of nearest rows that layers, and subsets of them, have in common.

        mutual = mean over rows of |N_k(row in one) & N_k(row in the other)| / k

    Of rows in no order it is k / (N - 1), in `chance`.

    Arguments:
        layers: by name, row blocks or (features, labels) of the same rows in the same order.
        fractions: shares of the features of which random subsets are compared with their layer.
        seeds: what they are drawn with.
        k: neighbours of each row.
        metric: "cosine" or "euclidean".
        standardize: centre features and divide them by their deviation.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Returns:
        `name`, `other`, `seed`, `fraction`, `mutual`, `chance`: a row for each subset, which is
        compared with its own layer, and one for each pair of layers, with fraction 1.

    Raises:
        UsageError: k is not below the number of rows, there is no such metric, or no layer.
        DataError: the layers have different numbers of rows.
        MemoryBudgetError: not even a few rows fit into `memory`.

    Reference:
        Huh et al., "The Platonic representation hypothesis", ICML 2024, section 2.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 8))
        >>> y = np.zeros(50, int)
        >>> mutual_neighbours({"a": (x, y), "b": (-3 * x, y)})["mutual"].tolist()
        [1.0]
    """
    blocks = {name: as_blocks(rows) for name, rows in layers.items()}
    if metric not in get_args(Metric):
        raise UsageError(f"metric is {metric!r}: choose {' or '.join(get_args(Metric))}")
    counts = {each.n_rows for each in blocks.values()}
    if not counts:
        raise UsageError("no layer is given: name one at least")
    if len(counts) > 1:
        raise DataError(f"layers of {sorted(counts)} rows: only the same rows can be compared")
    (n_rows,) = counts
    if not 1 <= k < n_rows:
        raise UsageError(f"k is {k}: give 1 to {n_rows - 1:,}, the other rows")
    settings, chance = (
        settings_of(standardize, None, memory, device, backend, progress),
        k / (n_rows - 1),
    )
    wholes: dict[str, np.ndarray] = {}
    found = []
    for name, each in blocks.items():
        chains = _subsets(each.n_features, fractions, seeds)
        lists = _neighbours(each, chains, k, metric, settings)
        wholes[name] = lists[-1][-1]
        for chain, prefixes in zip(chains[:-1], lists, strict=False):
            for fraction, own in zip(chain.fractions, prefixes, strict=True):
                facts = {"name": name, "other": name, "seed": chain.seed, "fraction": fraction}
                found.append(facts | {"mutual": _shared(own, wholes[name]), "chance": chance})
    for one, other in combinations(wholes, 2):
        facts = {"name": one, "other": other, "seed": None, "fraction": 1.0}
        found.append(facts | {"mutual": _shared(wholes[one], wholes[other]), "chance": chance})
    return pd.DataFrame(found).astype({"seed": "Int64"}) if found else pd.DataFrame()


def _neighbours(
    blocks: RowBlocks, chains: Sequence[Chain], k: int, metric: str, settings: Settings
) -> list[list[np.ndarray]]:
    """Return numbers of the nearest others, int64 (N, k), of each chain and prefix."""
    found = [[[] for _ in chain.sizes] for chain in chains]
    with own_settings(), full_precision():
        place = Placed(*scaling(blocks, metric, settings), metric, settings)
        walks, numbers = joined_walks(chains, blocks.n_features)
        for _, every in nearest(blocks, blocks, walks, k, place, True, ("rows", "rows")):
            for prefixes, places in zip(every, numbers, strict=True):
                for (_, rows), (chain, prefix) in zip(prefixes, places, strict=True):
                    found[chain][prefix].append(to_host(rows))
    return [[np.concatenate(parts) for parts in prefixes] for prefixes in found]


def _shared(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean share of the rows' lists (N, k) that are in both."""
    span = int(max(one.max(), other.max())) + 1
    rows = np.arange(len(one))[:, None] * span
    both = np.intersect1d((one + rows).ravel(), (other + rows).ravel(), assume_unique=True)
    return len(both) / one.size


@dataclass(frozen=True)
class _CalibratedCKA:
    """Linear CKA of two layers beside what it is by chance, and their Procrustes similarity.

    Attributes:
        value: biased linear CKA.
        expected: its mean over all orders of one layer's rows, exactly.
        procrustes: how near a rotation brings one layer to the other, in [0, 1].
        largest: the largest of the shuffles' values.
        p: share of shuffles, the layers as they are counted among them, with as large a value.
        permutations: how many shuffles.
        n_rows: rows.
    """

    value: float
    expected: float
    procrustes: float
    largest: float
    p: float
    permutations: int
    n_rows: int

    @property
    def calibrated(self) -> float:
        """(value - expected) / (1 - expected): 0 for rows in no order, 1 for equal layers."""
        return (self.value - self.expected) / (1 - self.expected) if self.expected < 1 else np.nan


@shows
def calibrated_cka(
    one: Rows,
    other: Rows,
    *,
    permutations: int = 199,
    seed: int = 0,
    standardize: bool = False,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> _CalibratedCKA:
    """Return linear CKA of two layers with its null: the rows of one of them shuffled.

        CKA = ||X'Y||^2 / (||X'X|| ||Y'Y||)    (Frobenius norms, of centred features)

    grows with the number of features whatever they say. Over all orders P of the rows of Y,

        E ||X'PY||^2 = tr(X'X) tr(Y'Y) / (N - 1)

    is exact, so the expected value costs nothing beyond CKA; `p` takes the shuffles, each a product
    of X' with Y. From the same product comes the Procrustes similarity, the sum of the singular
    values of X'Y over ||X|| ||Y||: of layers of norm 1, min ||X - YR||^2 over rotations R is 2 less
    twice that.

    Arguments:
        one: row blocks, or (features (N, D), labels (N,)).
        other: row blocks, or (features (N, E), labels), of the same rows in the same order.
        permutations: shuffles.
        seed: what they are drawn with.
        standardize: divide each feature by its deviation; as published it is not.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Raises:
        DataError: the layers have different numbers of rows, or a layer never changes.
        MemoryBudgetError: both layers do not fit into `memory`.

    References:
        Kazi-Aoual et al., "Refined approximations to permutation tests for multivariate inference",
        Computational Statistics and Data Analysis 1995, for the mean over orders.
        Kornblith et al., "Similarity of neural network representations revisited", ICML 2019.
        Ding, Denain, Steinhardt, "Grounding representation similarity through statistical testing",
        NeurIPS 2021, for the Procrustes distance.

    Example:
        >>> random = np.random.default_rng(0)
        >>> x, y = random.normal(size=(40, 100)), random.normal(size=(40, 100))
        >>> found = calibrated_cka((x, np.zeros(40, int)), (y, np.zeros(40, int)))
        >>> round(found.value, 1), round(found.expected, 1), bool(abs(found.calibrated) < 0.05)
        (0.7, 0.7, True)
    """
    if permutations < 1:
        raise UsageError(f"permutations is {permutations}: a null takes at least 1 shuffle")
    settings, backend = settings_of(standardize, None, memory, device, backend, progress), None
    pair = [as_blocks(rows) for rows in (one, other)]
    if pair[0].n_rows != pair[1].n_rows:
        raise DataError(
            f"layers of {pair[0].n_rows:,} and {pair[1].n_rows:,} rows: only the same rows can be "
            "compared"
        )
    needed = 3 * 8 * pair[0].n_rows * sum(each.n_features for each in pair)
    if needed > settings.memory:
        raise MemoryBudgetError(
            f"the null of CKA holds both layers, {text(needed)}, and {text(settings.memory)} of "
            "memory is granted: grant more, or take fewer rows"
        )
    backend = settings.backend
    with own_settings(), full_precision():
        x, y = (backend.put(_centred(each, standardize)) for each in pair)
        xp, n = array_namespace(x), len(x)
        norms = [float(xp.sum((z.T @ z) ** 2)) ** 0.5 for z in (x, y)]
        if not min(norms) > 0:
            raise DataError("a layer never changes on these rows: it is similar to nothing")
        traces, crossed = [float(xp.sum(z * z)) for z in (x, y)], x.T @ y
        expected = traces[0] * traces[1] / (n - 1)
        nuclear = float(xp.sum(xp.linalg.svdvals(crossed)))
        random, values = np.random.default_rng(seed), [float(xp.sum(crossed**2))]
        for number in range(permutations):
            order = backend.put(random.permutation(n))
            values.append(float(xp.sum((x.T @ xp.take(y, order, axis=0)) ** 2)))
            settings.progress("shuffles", number + 1, permutations)
    scaled = np.array(values) / (norms[0] * norms[1])
    beyond = int((scaled >= scaled[0] * (1 - 1e-12)).sum())
    return _CalibratedCKA(
        float(scaled[0]),
        expected / (norms[0] * norms[1]),
        nuclear / (traces[0] * traces[1]) ** 0.5,
        float(scaled[1:].max()),
        beyond / (1 + permutations),
        permutations,
        n,
    )


def _centred(blocks: RowBlocks, standardize: bool) -> np.ndarray:
    """Return all rows less their mean, float64 (N, D), in units of 1 altogether."""
    x = np.concatenate([features for features, _ in blocks]).astype(np.float64)
    if not np.isfinite(x).all():
        raise DataError("a layer has features that are not finite: mend or drop the rows")
    x -= x.mean(0)
    if standardize:
        scale = x.std(0)
        x /= np.where(scale > 0, scale, 1)
    largest = np.abs(x).max() or 1.0
    return x / largest


@shows
def universality(
    train: tuple[Rows, Rows],
    test: tuple[Rows, Rows] | None = None,
    *,
    l2: float | None = None,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """Return how well each feature of a layer is predicted from another layer of the same rows.

    Ridge regression of all D features y on the E features x of the other layer, both standardised
    on train: W = (S_xx + l2 I)^-1 S_xy from one joint matrix of second moments, and of the test
    rows R^2_j = 1 - sum (y_j - W_j'x - b_j)^2 / sum (y_j - mean y_j)^2 from theirs, without a
    prediction. The penalty is the one with the least mean generalised cross-validation

        GCV_j = RSS_j / N / (1 - df / N)^2,    df = sum_i s_i / (s_i + l2),

    over the features, s the eigenvalues of S_xx. Without test rows R^2 is 1 - GCV_j: of train
    alone, for an order of features.

    Arguments:
        train: row blocks, or (features, labels), of the layer that is predicted and of the other.
        test: of both likewise, on which R^2 is told; None for train rows alone.
        l2: the penalty; None to choose it from `featstore.probe.selection.LADDER`.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Returns:
        `feature`, `r2` (NaN for a feature that never changes), falling features by `rank` from 1,
        and `l2`.

    Raises:
        UsageError: the penalty is not above 0.
        DataError: layers have different numbers of rows, or other features in test than in train.
        MemoryBudgetError: matrices of all features of both do not fit into `memory`.

    References:
        Golub, Heath, Wahba, "Generalized cross-validation as a method for choosing a good ridge
        parameter", Technometrics 1979.
        Gurnee et al., "Universal neurons in GPT2 language models", TMLR 2024, for the question.

    Example:
        >>> random = np.random.default_rng(0)
        >>> y, x = random.normal(size=(300, 3)), random.normal(size=(300, 4))
        >>> y[:, 1] = x[:, 2] - x[:, 0]
        >>> none = np.zeros(300, int)
        >>> table = universality(((y, none), (x, none)))
        >>> int(table["r2"].idxmax()), round(float(table["r2"].max()), 1)
        (1, 1.0)
    """
    settings = settings_of(True, None, memory, device, backend, progress)
    if l2 is not None and not 0 < l2 < np.inf:
        raise UsageError(f"l2 is {l2}: give a number above 0, or none to have it chosen")
    joint = SideBySide([as_blocks(rows) for rows in train])
    own, theirs = joint.of_layers
    held_out = None if test is None else SideBySide([as_blocks(rows) for rows in test])
    if held_out is not None and list(map(len, held_out.of_layers)) != [len(own), len(theirs)]:
        raise DataError(
            f"layers of {len(own)} and {len(theirs)} features in train and of "
            f"{' and '.join(str(len(each)) for each in held_out.of_layers)} in test: both must be "
            "of the same layers"
        )
    needed = 8 * 6 * joint.n_features**2
    if needed > settings.memory:
        raise MemoryBudgetError(
            f"{joint.n_features:,} features of both layers take {text(needed)}, and "
            f"{text(settings.memory)} of memory is granted: grant more, or take narrower layers"
        )
    with own_settings():
        total = moments(joint, settings)
        matrix = total.covariance(True)
        values, turn = np.linalg.eigh(matrix[np.ix_(theirs, theirs)])
        # N rows have N - 1 directions at most, and rounding makes further ones
        noise = np.finfo(total.products).eps * np.sqrt(len(values)) * values[-1]
        first = max(int((values <= max(noise, 0.0)).sum()), len(values) - (total.n - 1))
        values, turn = values[first:], turn[:, first:]
        along = turn.T @ matrix[np.ix_(theirs, own)]
        alive = total.variance[own] > 0
        ladder = LADDER if l2 is None else (l2,)
        scores = [_crossed(values, along, each, total.n, alive) for each in ladder]
        best = int(np.argmin([score[alive].sum() for score in scores]))
        penalty, r2 = ladder[best], 1 - scores[best]
        if held_out is not None:
            weights = turn @ (along / (values + penalty)[:, None])
            r2 = _held_out(held_out, total, own, theirs, weights, settings)
            r2[~alive] = np.nan
    rank = pd.Series(-r2).rank(method="first", na_option="bottom").astype(int)
    return pd.DataFrame(
        {"feature": np.arange(len(own)), "r2": r2, "rank": rank, "l2": float(penalty)}
    )


def _crossed(
    values: np.ndarray, along: np.ndarray, l2: float, n: int, alive: np.ndarray
) -> np.ndarray:
    """Return GCV of each feature of variance 1, float64 (D,); NaN for one that never changes."""
    # as sums of what is left, not as 1 less a sum near 1: where features are as many as rows both
    # the residual and what is left of the degrees of freedom vanish with the penalty
    squares = along**2 / values[:, None]
    lost = l2 / (values + l2)
    outside = np.maximum(1 - squares.sum(0), 0) if len(values) < n - 1 else 0.0
    left = max((n - 1 - len(values) + float(lost.sum())) / n, 1e-300)
    return np.where(alive, (outside + (squares * lost[:, None] ** 2).sum(0)) / left**2, np.nan)


def _held_out(
    rows: SideBySide,
    train: Moments,
    own: np.ndarray,
    theirs: np.ndarray,
    weights: np.ndarray,
    settings: Settings,
) -> np.ndarray:
    """Return R^2 on other rows, float64 (D,), of the map that train rows gave."""
    found = moments(rows, settings)
    scale = train.scale(True)
    matrix = found.covariance(False) / scale / scale[:, None]
    off = (found.mean - train.mean) / scale  # of test rows about the mean of train
    yy, xx = np.diagonal(matrix)[own], matrix[np.ix_(theirs, theirs)]
    xy = matrix[np.ix_(theirs, own)]
    bias = off[own] - off[theirs] @ weights
    squares = yy - 2 * (weights * xy).sum(0) + (weights * (xx @ weights)).sum(0) + bias**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(yy > 0, 1 - squares / yy, np.nan)

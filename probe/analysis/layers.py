"""Layers: CKA between layers, and the cokurtosis behind its intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featstore.probe.arrays import own_settings
from featstore.probe.devices import settings_of
from featstore.probe.errors import DataError, MemoryBudgetError, UsageError
from featstore.probe.memory import Settings, text
from featstore.probe.moments import Moments, cached_moments, moments
from featstore.probe.plans import check_seeds
from featstore.probe.rows import LabelledRows, RowBlocks, Rows, as_blocks
from featstore.probe.similarity import (
    cka,
    cka_pair_table,
    cka_table,
    debiased_pairwise_hsic,
    pairwise_hsic,
)
from featstore.probe.splits import RowSubset
from featstore.probe.streams import SideBySide
from featstore.probe.subsets import Chain, random_chain


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
MATRICES = {False: 5, True: 9}


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


def layer_similarity(
    layers: Mapping[str, Rows],
    fractions: Sequence[float] | None = None,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    *,
    debiased: bool = False, standardize: bool = False,
    n_rows: int | None = None, row_seed: int = 0,
    moments_cache: Path | None = None,
    **computing: Any,
) -> Similarity:  # fmt: skip
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
        computing: `memory`, `device`, `backend` and `progress`, as of `probe.fit`.

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
    settings = settings_of(standardize, moments_cache, **computing)
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
    needed = 8 * MATRICES[debiased] * n_features**2
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

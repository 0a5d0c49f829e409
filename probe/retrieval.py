"""Retrieval: how well prefixes of a chain find what is relevant to a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from featstore.probe.arrays import full_precision, own_settings, to_host
from featstore.probe.devices import settings_of
from featstore.probe.errors import DataError, UsageError
from featstore.probe.neighbours import Placed, nearest, scaling
from featstore.probe.plans import check_seeds
from featstore.probe.rows import RowBlocks, Rows, as_blocks
from featstore.probe.solvers.options import Metric
from featstore.probe.subsets import grid, random_order

MEASURES = ("recall", "precision", "map", "ndcg", "mrr", "overlap")


def retrieval(
    queries: Rows,
    corpus: Rows,
    fractions: Sequence[float],
    seeds: Sequence[int] = (1,),
    *,
    relevance: str | np.ndarray = "class",
    cutoff: int = 10,
    depth: int = 100,
    metric: str = "cosine",
    standardize: bool = False,
    within: bool = False,
    **computing: Any,
) -> pd.DataFrame:
    """Return how well each fraction and seed ranks the corpus for queries, and all features.

    Of the ranking of a query with R relevant rows, g_i the gain at rank i,

        recall = hits(cutoff) / R,    precision = hits(cutoff) / cutoff,
        ndcg = sum_{i <= cutoff} g_i / log2(i + 1), over that of the best ranking,
        map = sum_{i <= depth, i relevant} hits(i) / i / R,    mrr = 1 / rank of the first hit,

    each a mean over the queries with R > 0; `mrr` too looks `depth` deep. `overlap` is the share
    of the whole layer's first `cutoff` rows that are among the prefix's.

    Arguments:
        queries: row blocks, or (features (Q, D), labels (Q,)).
        corpus: row blocks, or (features (N, D), labels (N,)).
        fractions: shares of the features, in (0, 1]; the whole layer is always added.
        seeds: what the nested random subsets are drawn with, as in `sweep`.
        relevance: "class", rows of the query's label; "paired", the row of the query's number; or
            numbers (M, 3) as in a qrels file: query row, corpus row, gain, 0 for not relevant.
        cutoff: ranks that recall, precision, ndcg and overlap see.
        depth: ranks that map and mrr see; at least `cutoff`, and no more than N are there.
        metric: "cosine" or "euclidean".
        standardize: centre features and divide them by their deviation in the corpus.
        within: queries are the rows of the corpus, and none finds itself.
        computing: `memory`, `device`, `backend` and `progress`, as of `probe.fit`.

    Returns:
        A row for each seed and fraction: `mode`, `seed`, `fraction`, `k` features, `queries` that
        count, and the measures.

    Raises:
        UsageError: an argument has no such value.
        DataError: rows do not fit together, or no query has anything relevant to it.
        MemoryBudgetError: not even a few rows fit into `memory`.

    Reference:
        Manning, Raghavan, Schuetze, "Introduction to Information Retrieval", chapter 8.

    Example:
        >>> x = np.eye(4)[[0, 0, 1, 1, 2, 2]]
        >>> table = retrieval((x, [0, 0, 1, 1, 2, 2]), (x, [0, 0, 1, 1, 2, 2]), [1.0], cutoff=2)
        >>> table[["recall", "precision", "map"]].values.tolist()
        [[1.0, 1.0, 1.0]]
    """
    asking, found = as_blocks(queries), as_blocks(corpus)
    _check(asking, found, metric, cutoff, depth, within)
    check_seeds(seeds)
    judged = _relevance(relevance, asking, found, within)
    settings, width = settings_of(standardize, **computing), found.n_features
    sizes = grid(width, fractions).with_whole(width)
    chains = [sizes.chain(random_order(width, seed), "random", int(seed)) for seed in seeds]
    most = min(depth, found.n_rows - within)
    cutoff = min(cutoff, most)
    totals = np.zeros((len(chains), len(sizes), len(MEASURES)))
    first, counted = 0, 0
    with own_settings(), full_precision():
        place = Placed(*scaling(found, metric, settings), metric, settings)
        for labels, every in nearest(
            asking, found, chains, most, place, within, ("queries", "corpus")
        ):
            rows = np.arange(first, first + len(labels))
            first += len(labels)
            known = judged.best(rows, 1)[1] > 0
            counted += int(known.sum())
            for number, prefixes in enumerate(every):
                ranked = [to_host(numbers)[known] for _, numbers in prefixes]
                for prefix, order in enumerate(ranked):
                    shared = (order[:, :cutoff, None] == ranked[-1][:, None, :cutoff]).any(1)
                    measures = _measured(judged, rows[known], order, cutoff)
                    totals[number, prefix] += [*measures, shared.mean(1).sum()]
    if not counted:
        raise DataError("no query has a relevant row in the corpus: there is nothing to measure")
    return pd.DataFrame(
        {"mode": chain.mode, "seed": chain.seed, "fraction": fraction, "k": size}
        | {"queries": counted}
        | dict(zip(MEASURES, totals[number, prefix] / counted, strict=True))
        for number, chain in enumerate(chains)
        for prefix, (size, fraction) in enumerate(zip(chain.sizes, chain.fractions, strict=True))
    )


def _check(
    queries: RowBlocks, corpus: RowBlocks, metric: str, cutoff: int, depth: int, within: bool
) -> None:
    if not (queries.n_rows and corpus.n_rows):
        raise DataError("queries or corpus have no rows: give at least one of each")
    if queries.n_features != corpus.n_features:
        raise DataError(
            f"queries have {queries.n_features} features and the corpus {corpus.n_features}: both "
            "must come from the same layer"
        )
    if within and queries.n_rows != corpus.n_rows:
        raise DataError(
            f"{queries.n_rows} queries within a corpus of {corpus.n_rows} rows: both must be the "
            "same rows"
        )
    if within and corpus.n_rows < 2:
        raise DataError("the corpus has 1 row, the query itself: give at least 2")
    if metric not in get_args(Metric):
        raise UsageError(f"metric is {metric!r}: choose {' or '.join(get_args(Metric))}")
    if not 1 <= cutoff <= depth:
        raise UsageError(f"cutoff is {cutoff} and depth {depth}: give 1 <= cutoff <= depth")


@dataclass(frozen=True)
class ByClass:
    """Relevance of all rows of the query's class, each with gain 1.

    Attributes:
        asked: int64 (Q,), classes of queries.
        held: int64 (N,), classes of the corpus.
        within: whether a query's own row does not count.
    """

    asked: np.ndarray
    held: np.ndarray
    within: bool

    def gains(self, rows: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Return the gains, float64 (r, K), of corpus rows `order` for these queries."""
        return (self.held[order] == self.asked[rows][:, None]).astype(np.float64)

    def best(self, rows: np.ndarray, cutoff: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the gains of the best ranking, (r, cutoff), and how many rows are relevant."""
        most = int(max(self.asked.max(), self.held.max())) + 1
        count = np.bincount(self.held, minlength=most)[self.asked[rows]] - self.within
        return (np.arange(cutoff) < count[:, None]).astype(np.float64), count


@dataclass(frozen=True)
class ByPairs:
    """Relevance by a list of pairs.

    Attributes:
        keys: int64 (M,), query row times N plus corpus row, rising.
        values: float64 (M,), their gains, above 0.
        n_rows: N.
    """

    keys: np.ndarray
    values: np.ndarray
    n_rows: int

    def gains(self, rows: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Return the gains, float64 (r, K), of corpus rows `order` for these queries."""
        wanted = rows[:, None] * self.n_rows + order
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, self.values[places], 0.0)

    def best(self, rows: np.ndarray, cutoff: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the gains of the best ranking, (r, cutoff), and how many rows are relevant."""
        starts, stops = (np.searchsorted(self.keys, (rows + step) * self.n_rows) for step in (0, 1))
        gains = np.zeros((len(rows), cutoff))
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            top = np.sort(self.values[start:stop])[::-1][:cutoff]
            gains[row, : len(top)] = top
        return gains, stops - starts


def _relevance(
    relevance: str | np.ndarray, queries: RowBlocks, corpus: RowBlocks, within: bool
) -> ByClass | ByPairs:
    if isinstance(relevance, str) and relevance == "class":
        labels = [blocks.labels() for blocks in (queries, corpus)]
        if any(each.dtype.kind == "f" for each in labels):
            raise DataError("labels are targets: relevance by class needs classes")
        return ByClass(*labels, within)
    if isinstance(relevance, str) and relevance == "paired":
        if within or queries.n_rows != corpus.n_rows:
            raise UsageError(
                f"relevance 'paired' of {queries.n_rows} queries and {corpus.n_rows} corpus rows: "
                "both need as many rows, and not to be the same ones"
            )
        rows = np.arange(corpus.n_rows)
        return ByPairs(rows * corpus.n_rows + rows, np.ones(len(rows)), corpus.n_rows)
    if isinstance(relevance, str):
        raise UsageError(f"relevance is {relevance!r}: choose class or paired, or give pairs")
    pairs = np.asarray(relevance)
    if pairs.ndim != 2 or pairs.shape[1] != 3 or not len(pairs) or pairs.dtype.kind not in "iuf":
        raise UsageError(
            f"relevance has shape {pairs.shape}: pairs are (M, 3) numbers, query, row and gain"
        )
    rows = pairs[:, :2].astype(np.int64)
    outside = (rows < 0) | (rows >= [queries.n_rows, corpus.n_rows])
    if outside.any() or not np.isfinite(pairs).all() or (pairs[:, 2] < 0).any():
        wrong = int((outside.any(1) | ~(pairs[:, 2] >= 0)).argmax())
        raise DataError(
            f"pair {wrong} of relevance is {pairs[wrong].tolist()}: rows are counted from 0, and "
            "gains are 0 or more"
        )
    keys = rows[:, 0] * corpus.n_rows + rows[:, 1]
    if len(np.unique(keys)) < len(keys):
        raise DataError("relevance names a query and a row twice: each pair has one gain")
    kept = (pairs[:, 2] > 0) & ~(within & (rows[:, 0] == rows[:, 1]))
    if not kept.any():
        raise DataError("no pair of relevance has a gain above 0: there is nothing to measure")
    order = np.argsort(keys[kept])
    return ByPairs(keys[kept][order], pairs[kept, 2].astype(np.float64)[order], corpus.n_rows)


def _measured(
    judged: ByClass | ByPairs, rows: np.ndarray, order: np.ndarray, cutoff: int
) -> list[float]:
    """Return recall, precision, map, ndcg and mrr, summed over queries.

    Arguments:
        judged: what is relevant.
        rows: int64 (r,), numbers of queries.
        order: int64 (r, K), corpus rows as ranked.
        cutoff: ranks that some measures see.
    """
    gains = judged.gains(rows, order)
    best, count = judged.best(rows, cutoff)
    hits = np.cumsum(gains > 0, axis=1)
    ranks = np.arange(1, order.shape[1] + 1)
    found = hits[:, cutoff - 1]
    average = ((gains > 0) * hits / ranks).sum(1) / count
    discount = 1 / np.log2(ranks[:cutoff] + 1)
    gained = (gains[:, :cutoff] * discount).sum(1) / (best * discount).sum(1)
    first = np.where(hits[:, -1] > 0, 1 / (1 + (gains > 0).argmax(1)), 0.0)
    return [float(each.sum()) for each in (found / count, found / cutoff, average, gained, first)]

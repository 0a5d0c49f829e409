"""Nearest neighbours on every prefix of a chain: classification and retrieval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
from array_api_compat import array_namespace, is_torch_array

from featstore.probe import statuses
from featstore.probe.arrays import Array, add_product, full_precision, own_settings, to_host
from featstore.probe.errors import DataError, UsageError
from featstore.probe.memory import MAX_ROWS, MIN_ROWS, Settings, rows_within, settings_of
from featstore.probe.metrics import LogitSink
from featstore.probe.moments import RESOLUTION
from featstore.probe.rows import RowBlocks, Rows, as_blocks, first_rows, gathered
from featstore.probe.solvers import KNN, Metric
from featstore.probe.solvers.weights import Fitted, Weights
from featstore.probe.subsets import Axes, Chain, check_seeds, grid, random_order

TRIED = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
"""Numbers of neighbours that "auto" may come to."""

CORPUS_ROWS = 4096

REMEDIES = {
    statuses.FEW_ROWS: "train has fewer rows than neighbours are to vote: give a smaller k",
}


def fit(
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: KNN = KNN(),  # noqa: B008
) -> "NearestFit":
    """Return every probe, votes of the nearest train rows; `penalties` are numbers of neighbours.

    Dot products and squared norms are running sums along a chain of features, so all prefixes of
    a chain, and every number of neighbours, cost one product of test rows with train rows.

    Arguments:
        train: N rows of C classes, read once now and once for each tile of test rows.
        chains: orders of features, and their prefixes.
        penalties: values of `options.place`.
        settings: how to compute; without `standardize` features are neither centred nor scaled.
        options: of the votes.

    Raises:
        UsageError: more neighbours are to vote than train has rows.
        DataError: train cannot be probed.
    """
    if len(options.values) and options.select is None:
        most = max(options.values) if options.place == "k" else options.k
        if most > train.n_rows:
            raise UsageError(
                f"k is {most:g}: neighbours are 1 to {train.n_rows:,}, the rows of train"
            )
    return NearestFit(train, Axes(tuple(chains), tuple(penalties)), options, settings)


def fit_left_out(
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: KNN = KNN(),  # noqa: B008
) -> "NearestFit":
    """Return probes as `fit` does, to be scored on their own train rows, none its own neighbour.

    The mean and deviation of features stay those of all rows.
    """
    return NearestFit(train, Axes(tuple(chains), tuple(penalties)), options, settings, True)


class NearestFit(Fitted):
    """Votes of nearest train rows, which are read again whenever rows are scored.

    Attributes:
        axes: which probe is which; numbers of neighbours, or temperatures, are its penalties.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class.
        facts: "status", (P,), "ok", or "few_rows" where more are to vote than there are;
            "neighbours", int64 (P,), how many vote.

    Arguments:
        train: N rows.
        axes: P probes.
        options: of the votes.
        settings: how to compute.
        itself: whether only train rows are scored, of which none is its own neighbour.
    """

    def __init__(
        self, train: RowBlocks, axes: Axes, options: KNN, settings: Settings, itself: bool = False
    ):
        self.axes, self.n_features = axes, train.n_features
        self.class_counts = np.bincount(train.labels(), minlength=train.n_classes)
        self._train, self._options, self._itself = train, options, itself
        with full_precision():
            scaled = scaling(train, options.metric, settings)
        self._place = Placed(*scaled, options.metric, settings)
        counts = axes.penalties if options.place == "k" else [options.k] * len(axes.penalties)
        self._counts = np.array(counts, np.int64)
        self._most = int(min(self._counts.max(), train.n_rows - itself))
        neighbours = self._counts[axes.penalty]
        few = neighbours > train.n_rows - itself
        self.facts = {
            "status": np.where(few, statuses.FEW_ROWS, statuses.OK),
            "neighbours": neighbours,
        }

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the votes of every probe for every class, (1, rows, C), to `scores`."""
        chains, numbers = self._walks()
        known = self._place.settings.backend.put(self._train.labels())
        each = 8 * 4 * len(self.class_counts) + len(self.axes)
        found = nearest(test, self._train, chains, self._most, self._place, self._itself,
                        beside=each)  # fmt: skip
        with full_precision():
            for labels, every in found:
                for prefixes, own in zip(every, numbers, strict=True):
                    for (similarity, rows), (chain, prefix) in zip(prefixes, own, strict=True):
                        for value, votes in enumerate(self._votes(similarity, known[rows])):
                            probe = self.axes.prefixes(chain, value)[prefix]
                            scores.add(np.array([probe]), votes[None], labels)
                scores.finish(labels)

    def weights(self, probe: int) -> Weights:
        """Raise UsageError: votes are no affine map."""
        raise UsageError(
            "solver knn has no weights, since votes of neighbours are no affine map: save "
            "predictions, or take another solver"
        )

    def _walks(self) -> tuple[list[Chain], list[list[tuple[int, int]]]]:
        """Return orders to go along, and the (chain, prefix) that each of their prefixes is.

        Whole layers are one set of features, in whichever order: they end the first walk.
        """
        every = [(c, p) for c, chain in enumerate(self.axes.chains) for p in range(len(chain))]
        whole = [c for c, p in every if self.axes.chains[c].sizes == (self.n_features,)]
        walks = [c for c in range(len(self.axes.chains)) if c not in whole]
        if len(whole) != 1 or not walks:
            return list(self.axes.chains), [
                [(c, p) for p in range(len(chain))] for c, chain in enumerate(self.axes.chains)
            ]
        numbers = [[(c, p) for p in range(len(self.axes.chains[c]))] for c in walks]
        chains = [self.axes.chains[c] for c in walks]
        host = chains[0]
        order = host.order[: host.length]
        rest = np.setdiff1d(np.arange(self.n_features), order)
        chains[0] = Chain(
            np.concatenate([order, rest]), (*host.sizes, self.n_features),
            (*host.fractions, 1.0), host.mode, host.seed,
        )  # fmt: skip
        numbers[0].append((whole[0], 0))
        return chains, numbers

    def _votes(self, similarity: Array, labels: Array) -> Iterator[Array]:
        """Yield the votes for each class, float64 (r, C), for each value in the penalty's place.

        Arguments:
            similarity: (r, K), falling along each row.
            labels: int64 (r, K), of the same neighbours.
        """
        xp = array_namespace(similarity)
        rows = xp.arange(len(labels), device=labels.device)
        shape = (len(labels), len(self.class_counts))
        wide = xp.astype(similarity, xp.float64)
        beyond = wide - wide[:, :1]
        votes, done = None, 0
        for count, value in zip(self._counts, self.axes.penalties, strict=True):
            if votes is None or count < done or self._options.place == "temperature":
                votes, done = xp.zeros(shape, dtype=xp.float64, device=labels.device), 0
            if self._options.weights == "exp":
                by_temperature = self._options.place == "temperature"
                weight = xp.exp(beyond / (value if by_temperature else self._options.temperature))
            else:
                weight = xp.ones_like(wide)
            for rank in range(done, min(int(count), labels.shape[1])):
                votes[rows, labels[:, rank]] += weight[:, rank]
            done = int(count)
            yield votes


@dataclass(frozen=True)
class Placed:
    """How rows are brought to the device, and how their similarity is measured.

    Attributes:
        shift: float64 (D,), subtracted from each row.
        scale: float64 (D,), by which it is divided then; None for 1.
        dtype: of products.
        metric: "cosine" or "euclidean".
        settings: memory, backend, progress.
    """

    shift: np.ndarray
    scale: np.ndarray | None
    dtype: str
    metric: str
    settings: Settings

    def pieces(self, blocks: RowBlocks, rows: int, split: str) -> Iterator[tuple[Array, Array]]:
        """Yield rows (r, D), in a buffer that the next overwrites, and labels."""
        backend = self.settings.backend
        return gathered(blocks, rows, backend, self.dtype, self.shift, split, scale=self.scale)


def scaling(
    train: RowBlocks, metric: str, settings: Settings
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return what to subtract, by what to divide, and the dtype of products."""
    shift, dtype = first_rows(train)
    if not settings.standardize:
        # distances do not see a shift, which keeps their digits; cosines do
        return (np.zeros_like(shift) if metric == "cosine" else shift), None, dtype
    sums = squares = 0.0
    rows = rows_within(settings.memory, 0, 32 * len(shift), CORPUS_ROWS, "neighbours")
    for piece, _ in gathered(train, rows, settings.backend, dtype, shift, "train"):
        wide = to_host(piece).astype(np.float64)
        sums, squares = sums + wide.sum(0), squares + (wide**2).sum(0)
    offset = sums / train.n_rows
    variance = squares / train.n_rows - offset**2
    variance = np.where(variance > RESOLUTION[dtype] * offset**2, variance, 0.0)
    return shift + offset, np.where(variance > 0, np.sqrt(variance), 1.0), dtype


def nearest(
    queries: RowBlocks,
    corpus: RowBlocks,
    chains: Sequence[Chain],
    most: int,
    place: Placed,
    itself: bool = False,
    names: tuple[str, str] = ("test", "train"),
    beside: int = 0,
) -> Iterator[tuple[Array, list[list[tuple[Array, Array]]]]]:
    """Yield the nearest corpus rows of some queries at a time, on every prefix of every chain.

    The corpus is read once for each tile of queries, tile by tile, and the best so far are kept.

    Arguments:
        queries: rows to find neighbours of.
        corpus: rows to find.
        chains: orders of features, and their prefixes.
        most: neighbours of each query, K.
        place: how rows are brought and measured.
        itself: whether queries are rows of the corpus, of which none is its own neighbour.
        names: what to call queries and corpus in errors.
        beside: bytes that are taken for each query beside.

    Yields:
        labels of r queries, (r,).
        for each chain and prefix: similarities (r, K), falling, the cosine or minus the squared
        distance, and numbers of corpus rows, int64 (r, K).

    Raises:
        MemoryBudgetError: not even a few rows fit.
    """
    size, width = (8 if place.dtype == "float64" else 4), corpus.n_features
    kept = sum(map(len, chains)) * 3 * most * (size + 8)
    memory, tile = place.settings.memory, min(CORPUS_ROWS, corpus.n_rows)

    def taken(rows: int) -> tuple[int, int]:
        """Return bytes of a tile of the corpus, and of a query that meets it."""
        return 4 * size * rows * width, size * (3 * width + 4 * rows) + kept + beside

    while tile > MIN_ROWS and taken(tile)[0] + MIN_ROWS * taken(tile)[1] > memory // 2:
        tile //= 2
    wanted = min(MAX_ROWS[place.settings.backend.device == "cuda"], queries.n_rows)
    rows = rows_within(memory, *taken(tile), wanted, "neighbours")
    first = done = 0
    if itself:
        first = as_blocks(queries).start
    for piece, labels in place.pieces(queries, rows, names[itself]):
        # the corpus has a buffer of its own, so this one stays as it is
        found: list[list] = [[None] * len(chain) for chain in chains]
        start = 0
        for other, _ in place.pieces(corpus, tile, names[1]):
            skipped = first - start if itself else None
            for chain, best in zip(chains, found, strict=True):
                _improve(best, piece, other, start, chain, most, place, skipped)
            start += len(other)
        yield (
            labels,
            [
                [
                    (_similarity(values, piece, chain.features(prefix), place), numbers)
                    for prefix, (values, numbers) in enumerate(best)
                ]
                for chain, best in zip(chains, found, strict=True)
            ],
        )
        first, done = first + len(labels), done + len(labels)
        place.settings.progress("test rows", done, queries.n_rows)


def _improve(
    best: list, queries: Array, corpus: Array, start: int, chain: Chain, most: int,
    place: Placed, skipped: int | None,
) -> None:  # fmt: skip
    """Take the corpus rows of a tile among the best of each prefix, where they are better.

    What orders neighbours is kept, without the part that is the same for all of a query's: x'y/|y|
    of cosines, x'y - |y|^2 / 2 of distances.
    """
    xp = array_namespace(queries)
    put = place.settings.backend.put
    products = xp.zeros((len(queries), len(corpus)), dtype=queries.dtype, device=queries.device)
    squares = xp.zeros(len(corpus), dtype=xp.float64, device=queries.device)
    done = 0
    for prefix, size in enumerate(chain.sizes):
        if size > done:
            columns = put(chain.order[done:size])
            theirs = xp.take(corpus, columns, axis=1)
            add_product(products, xp.take(queries, columns, axis=1), theirs.T)
            squares += xp.sum(theirs * theirs, axis=1, dtype=xp.float64)
            done = size
        if place.metric == "cosine":
            inverse = 1 / xp.sqrt(xp.where(squares > 0, squares, xp.ones_like(squares)))
            values = products * xp.astype(inverse, products.dtype)
        else:
            values = products - xp.astype(squares / 2, products.dtype)
        if skipped is not None:
            rows = xp.arange(len(queries), device=queries.device)
            own = rows + skipped
            here = (own >= 0) & (own < len(corpus))
            values[rows[here], own[here]] = -xp.inf
        top, numbers = _candidates(values, best[prefix], most)
        if not top.shape[1]:
            continue
        numbers = numbers + start
        if best[prefix] is not None:
            top = xp.concat([best[prefix][0], top], axis=1)
            numbers = xp.concat([best[prefix][1], numbers], axis=1)
            top, places = largest(top, min(most, top.shape[1]))
            numbers = xp.take_along_axis(numbers, places, axis=1)
        best[prefix] = top, numbers


def _candidates(values: Array, best: tuple[Array, Array] | None, most: int) -> tuple[Array, Array]:
    """Return what of (r, n) may be among the best, (r, m), and their places, int64 (r, m).

    Once `most` are known, few of a tile are better than the last of them: no sorting then.
    """
    xp, count = array_namespace(values), values.shape[1]
    if best is None or best[0].shape[1] < most:
        return largest(values, min(most, count))
    better = values > best[0][:, -1:]
    each = xp.sum(better, axis=1)
    wide = int(xp.max(each))
    if 4 * wide > count:
        return largest(values, min(most, count))
    top = xp.full((len(values), wide), -xp.inf, dtype=values.dtype, device=values.device)
    numbers = xp.zeros((len(values), wide), dtype=xp.int64, device=values.device)
    if wide:
        rows, places = xp.nonzero(better)
        before = xp.cumulative_sum(each) - each
        column = xp.arange(len(rows), device=values.device) - before[rows]
        top[rows, column], numbers[rows, column] = values[rows, places], places
    return top, numbers


def _similarity(values: Array, queries: Array, features: np.ndarray, place: Placed) -> Array:
    """Return cosines, or minus squared distances, (r, K), of what orders neighbours."""
    xp = array_namespace(values)
    own = xp.take(queries, place.settings.backend.put(features), axis=1)
    squares = xp.sum(own * own, axis=1, dtype=xp.float64)[:, None]
    wide = xp.astype(values, xp.float64)
    if place.metric == "cosine":
        return wide / xp.sqrt(xp.where(squares > 0, squares, xp.ones_like(squares)))
    return 2 * wide - squares


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """Return the `count` largest of each row of (r, n), falling, and their places, int64."""
    if is_torch_array(values):
        return values.topk(count, dim=1)
    xp = array_namespace(values)
    places = xp.argsort(values, axis=1, descending=True)[:, :count]
    return xp.take_along_axis(values, places, axis=1), places


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
    _check_queries(asking, found, metric, cutoff, depth, within)
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


def _check_queries(
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

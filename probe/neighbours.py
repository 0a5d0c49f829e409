"""Neighbours: the nearest train rows on every prefix of a chain, and their votes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from array_api_compat import array_namespace, is_torch_array

from featstore.probe.arrays import Array, add_product, full_precision, own_settings, to_host
from featstore.probe.errors import DataError, UsageError
from featstore.probe.memory import MAX_ROWS, MIN_ROWS, Settings, rows_within, settings_of
from featstore.probe.moments import RESOLUTION
from featstore.probe.plans import check_seeds
from featstore.probe.rows import RowBlocks, Rows, as_pair, has_targets
from featstore.probe.streams import first_rows, gathered
from featstore.probe.subsets import Chain, grid, random_order

METRICS = ("cosine", "euclidean")
WEIGHTS = ("uniform", "exp")
TRIED = (1, 2, 5, 10, 20, 50, 100, 200)
"""Numbers of neighbours among which leave-one-out chooses."""

CORPUS_ROWS = 4096


def knn(
    train: Rows,
    test: Rows,
    fractions: Sequence[float],
    seeds: Sequence[int] = (1,),
    *,
    k: int | Sequence[int] | str = 20,
    metric: str = "cosine",
    weights: str = "uniform",
    temperature: float = 0.07,
    standardize: bool = True,
    **computing: Any,
) -> pd.DataFrame:
    """Return the accuracy of k nearest neighbours on every fraction and seed, and all features.

    Dot products and squared norms are running sums along a chain of features, so all prefixes cost
    one product of test rows with train rows. Each votes for its class, with the weight 1 or
    exp(s / temperature), s the cosine similarity; of equal votes the first class wins.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)), of classes.
        test: row blocks, or (features, labels), to be classified.
        fractions: shares of the features, in (0, 1]; the whole layer is always added.
        seeds: what the nested random subsets are drawn with, as in `sweep`.
        k: neighbours that vote; several, each tried; or "auto", to choose for each subset by
            leave-one-out accuracy on the train rows, the fewest of equally good ones.
        metric: "cosine" or "euclidean".
        weights: "uniform", or "exp", which needs cosine similarities.
        temperature: of "exp".
        standardize: centre features and divide them by their deviation in train.
        computing: `memory`, `device`, `backend` and `progress`, as of `probe.fit`.

    Returns:
        A row for each seed, number of neighbours and fraction, in the columns of a sweep's table:
        `neighbours` says how many voted, and `l2` the same, as what a solver's curve is told by.

    Raises:
        UsageError: an argument has no such value.
        DataError: labels are targets, or features are not finite.
        MemoryBudgetError: not even a few rows fit into `memory`.

    References:
        Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021, for
        votes exp(s / 0.07).

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 8)) + 3 * np.eye(2, 8)[np.arange(60) % 2]
        >>> y = np.arange(60) % 2
        >>> table = knn((x[:40], y[:40]), (x[40:], y[40:]), [0.5], k=5)
        >>> table[["seed", "fraction", "k", "neighbours"]].values.tolist()
        [[1.0, 0.5, 4.0, 5.0], [1.0, 1.0, 8.0, 5.0]]
    """
    train, test = as_pair(train, test)
    tried = _tried(k, train.n_rows)
    _check(train, metric, weights, temperature)
    check_seeds(seeds)
    settings, width = settings_of(standardize, **computing), train.n_features
    sizes = grid(width, fractions).with_whole(width)
    chains = [sizes.chain(random_order(width, seed), "random", int(seed)) for seed in seeds]
    votes = Votes(tried, weights, temperature)
    with own_settings(), full_precision():
        shift, scale, dtype = scaling(train, metric, settings)
        place = Placed(shift, scale, dtype, metric, settings)
        accuracy = _accuracies(test, train, chains, votes, place, itself=False)
        known = None
        if k == "auto":
            known = _accuracies(train, train, chains, votes, place, itself=True).argmax(0)
    return _table(chains, tried, accuracy, known, train.n_rows, test.n_rows)


def _tried(k: int | Sequence[int] | str, n_rows: int) -> tuple[int, ...]:
    if k == "auto":
        return tuple(each for each in TRIED if each < n_rows)
    tried = (k,) if isinstance(k, int | np.integer) else k
    if isinstance(tried, str) or not len(tried):
        raise UsageError(f"k is {k!r}: give a number of neighbours, several, or 'auto'")
    for each in tried:
        if not (isinstance(each, int | np.integer) and 1 <= each <= n_rows):
            raise UsageError(f"k is {each!r}: neighbours are 1 to {n_rows:,}, the rows of train")
    if len(set(tried)) < len(tried):
        raise UsageError(f"k {tuple(tried)} names a number twice: each makes one row")
    return tuple(sorted(int(each) for each in tried))


def _check(train: RowBlocks, metric: str, weights: str, temperature: float) -> None:
    if has_targets(train):
        raise DataError("the labels of train are targets: neighbours vote for classes")
    for name, value, known in (("metric", metric, METRICS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise UsageError(f"{name} is {value!r}: choose {' or '.join(known)}")
    if weights == "exp" and metric != "cosine":
        raise UsageError("weights 'exp' are of cosine similarities: take metric 'cosine'")
    if not temperature > 0:
        raise UsageError(f"temperature is {temperature}: give one above 0")


@dataclass(frozen=True)
class Votes:
    """How neighbours vote.

    Attributes:
        counts: rising numbers of neighbours, each of which makes a prediction.
        weights: "uniform" or "exp".
        temperature: of exp(s / temperature).
    """

    counts: tuple[int, ...]
    weights: str = "uniform"
    temperature: float = 0.07

    def predicted(self, similarity: Array, labels: Array, n_classes: int) -> Iterator[Array]:
        """Yield the classes, int64 (r,), for each number of neighbours.

        Arguments:
            similarity: (r, K), falling along each row.
            labels: int64 (r, K), of the same neighbours.
            n_classes: C.
        """
        xp = array_namespace(similarity)
        rows = xp.arange(len(labels), device=labels.device)
        votes = xp.zeros((len(labels), n_classes), dtype=xp.float64, device=labels.device)
        wide = xp.astype(similarity, xp.float64)
        weight = xp.ones_like(wide)
        if self.weights == "exp":
            weight = xp.exp((wide - wide[:, :1]) / self.temperature)
        done = 0
        for count in self.counts:
            for rank in range(done, count):
                votes[rows, labels[:, rank]] += weight[:, rank]
            done = count
            yield xp.argmax(votes, axis=1)


@dataclass(frozen=True)
class Placed:
    """How rows are brought to the device, and how their similarity is measured.

    Attributes:
        shift: float64 (D,), subtracted from each row.
        scale: float64 (D,), by which it is divided then; None for 1.
        dtype: of products.
        metric: a name of `METRICS`.
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
) -> Iterator[tuple[Array, list[list[tuple[Array, Array]]]]]:
    """Yield the nearest corpus rows of some queries at a time, on every prefix of every chain.

    The corpus is read once for each tile of queries, tile by tile, and the best so far are kept.

    Arguments:
        queries: rows to find neighbours of.
        corpus: rows to find.
        chains: orders of features, and their prefixes.
        most: neighbours of each query, K.
        place: how rows are brought and measured.
        itself: whether both are the same rows, of which none is its own neighbour.
        names: what to call queries and corpus in errors.

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
        return 4 * size * rows * width, size * (3 * width + 4 * rows) + kept

    while tile > MIN_ROWS and taken(tile)[0] + MIN_ROWS * taken(tile)[1] > memory // 2:
        tile //= 2
    wanted = min(MAX_ROWS[place.settings.backend.device == "cuda"], queries.n_rows)
    rows = rows_within(memory, *taken(tile), wanted, "neighbours")
    first = 0
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
        first += len(labels)
        place.settings.progress("rows", first, queries.n_rows)


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
        top, numbers = largest(values, min(most, len(corpus)))
        numbers = numbers + start
        if best[prefix] is not None:
            top = xp.concat([best[prefix][0], top], axis=1)
            numbers = xp.concat([best[prefix][1], numbers], axis=1)
            top, places = largest(top, min(most, top.shape[1]))
            numbers = xp.take_along_axis(numbers, places, axis=1)
        best[prefix] = top, numbers


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


def _accuracies(
    queries: RowBlocks, corpus: RowBlocks, chains: Sequence[Chain], votes: Votes, place: Placed,
    itself: bool,
) -> np.ndarray:  # fmt: skip
    """Return accuracies, float64 (counts, chains, prefixes)."""
    hits = np.zeros((len(votes.counts), len(chains), len(chains[0])))
    known = place.settings.backend.put(corpus.labels())
    for truth, found in nearest(queries, corpus, chains, votes.counts[-1], place, itself):
        for number, prefixes in enumerate(found):
            for prefix, (similarity, rows) in enumerate(prefixes):
                labels = known[rows]
                predicted = votes.predicted(similarity, labels, corpus.n_classes)
                for place_of, classes in enumerate(predicted):
                    hits[place_of, number, prefix] += int((classes == truth).sum())
    return hits / queries.n_rows


def _table(
    chains: Sequence[Chain], tried: tuple[int, ...], accuracy: np.ndarray,
    chosen: np.ndarray | None, n_train: int, n_test: int,
) -> pd.DataFrame:  # fmt: skip
    """Return the long form, all numbers of neighbours or the chosen one of each subset."""
    rows = []
    for number, chain in enumerate(chains):
        for place, count in enumerate(tried):
            for prefix, (size, fraction) in enumerate(
                zip(chain.sizes, chain.fractions, strict=True)
            ):
                if chosen is not None and chosen[number, prefix] != place:
                    continue
                row = {"mode": chain.mode, "seed": chain.seed, "fraction": fraction, "k": size}
                row |= {"solver": "knn", "l2": float(count), "neighbours": count}
                row |= {"l2_choice": "given" if chosen is None else "loo"}
                row |= {"n_train": n_train, "n_test": n_test}
                row |= {"accuracy": accuracy[place, number, prefix], "status": "ok"}
                rows.append(row)
    table = pd.DataFrame(rows)
    keys = ["seed", "fraction"] if chosen is not None else ["seed", "neighbours", "fraction"]
    return table.sort_values(keys, kind="stable", ignore_index=True)

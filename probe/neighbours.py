"""Nearest neighbours on every prefix of a chain: classification and retrieval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, is_torch_array

from featstore.probe.arrays import Array, add_product, full_precision, taken, to_host
from featstore.probe.errors import UsageError
from featstore.probe.memory import MIN_ROWS, Settings, in_threads, rows_within, threads_of
from featstore.probe.metrics import LogitSink
from featstore.probe.moments import RESOLUTION
from featstore.probe.pieces import first_rows, gathered
from featstore.probe.rows import RowBlocks, as_blocks, targets_of
from featstore.probe.solvers import KNN
from featstore.probe.solvers.weights import Fitted, Weights, counts_of, n_outputs
from featstore.probe.statuses import Status
from featstore.probe.subsets import Axes, Chain

TRIED = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
"""Numbers of neighbours that "auto" may come to."""

_CORPUS_ROWS = 4096
_QUERY_ROWS = 16384


def fit(
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: KNN = KNN(),  # noqa: B008
) -> "NearestFit":
    """Return every probe, votes of the nearest train rows; `penalties` are numbers of neighbours.

    Dot products and squared norms are running sums along a chain of features, so all prefixes of
    a chain, and every number of neighbours, cost one product of test rows with train rows. Of
    several labels at once a row is scored by the share of the votes that each of them has.

    Arguments:
        train: N rows of C classes, or of L labels, read once now and once for each tile of test
            rows.
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
        class_counts: int64 (C,), train rows of each class; empty for several labels.
        n_train, n_targets: N, and how many labels there are, or 0.
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
        self.n_train, self.n_targets = train.n_rows, targets_of(train)
        self.class_counts = counts_of(train)
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
            "status": np.where(few, Status.FEW_ROWS, Status.OK),
            "neighbours": neighbours,
        }

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the votes of every probe for every class, (1, rows, C), to `scores`."""
        chains, numbers = joined_walks(self.axes.chains, self.n_features)
        known = self._place.settings.backend.put(self._train.labels())
        each = 8 * 4 * n_outputs(self) + len(self.axes) + self._most * self.n_targets
        found = nearest(
            test, self._train, chains, self._most, self._place, self._itself, beside=each
        )
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

    def _votes(self, similarity: Array, labels: Array) -> Iterator[Array]:
        """Yield the votes for each class, float64 (r, C), for each value in the penalty's place.

        Of several labels it is the share of all votes that each has, (r, L).

        Arguments:
            similarity: (r, K), falling along each row.
            labels: int64 (r, K), of the same neighbours; or (r, K, L), 0 or 1.
        """
        xp = array_namespace(similarity)
        rows = xp.arange(len(labels), device=labels.device)
        shape = (len(labels), n_outputs(self))
        wide = xp.astype(similarity, xp.float64)
        beyond = wide - wide[:, :1]
        votes, all_votes, done = None, 0.0, 0
        for count, value in zip(self._counts, self.axes.penalties, strict=True):
            if votes is None or count < done or self._options.place == "temperature":
                votes = xp.zeros(shape, dtype=xp.float64, device=labels.device)
                all_votes, done = 0.0, 0
            if self._options.weights == "exp":
                by_temperature = self._options.place == "temperature"
                weight = xp.exp(beyond / (value if by_temperature else self._options.temperature))
            else:
                weight = xp.ones_like(wide)
            for rank in range(done, min(int(count), labels.shape[1])):
                if self.n_targets:
                    votes += weight[:, rank, None] * labels[:, rank]
                    all_votes = all_votes + weight[:, rank, None]
                else:
                    votes[rows, labels[:, rank]] += weight[:, rank]
            done = int(count)
            yield votes / all_votes if self.n_targets else votes


def joined_walks(
    chains: Sequence[Chain], n_features: int
) -> tuple[list[Chain], list[list[tuple[int, int]]]]:
    """Return orders to go along, and the (chain, prefix) that each of their prefixes is.

    The whole layer is one set of features, in whichever order: it ends the first walk.

    Example:
        >>> chains = [Chain(np.array([2]), (1,), (0.3,), "a"), Chain(np.arange(3), (3,), (1,), "b")]
        >>> walks, numbers = joined_walks(chains, 3)
        >>> [walk.order.tolist() for walk in walks], numbers
        ([[2, 0, 1]], [[(0, 0), (1, 0)]])
    """
    whole = [number for number, chain in enumerate(chains) if chain.sizes == (n_features,)]
    own = [number for number in range(len(chains)) if len(whole) != 1 or number not in whole]
    if not own:
        own = list(range(len(chains)))
    numbers = [[(number, p) for p in range(len(chains[number]))] for number in own]
    walks = [chains[number] for number in own]
    if len(own) < len(chains):
        host = walks[0]
        order = host.order[: host.length]
        rest = np.setdiff1d(np.arange(n_features), order)
        sizes, fractions = (*host.sizes, n_features), (*host.fractions, 1.0)
        walks[0] = Chain(np.concatenate([order, rest]), sizes, fractions, host.mode, host.seed)
        numbers[0].append((whole[0], 0))
    return walks, numbers


@dataclass(frozen=True)
class Placed:
    """Form of rows on the device, and the measure of their similarity.

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
    rows = rows_within(settings.memory, 0, 32 * len(shift), _CORPUS_ROWS, "neighbours")
    for piece, _ in gathered(train, rows, settings.backend, dtype, shift, "train"):
        xp = array_namespace(piece)
        wide = xp.astype(piece, xp.float64)
        sums = sums + to_host(xp.sum(wide, axis=0))
        squares = squares + to_host(xp.sum(wide * wide, axis=0))
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

    The corpus is read once for each piece of queries, tile by tile, and the best so far are kept.

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
    # the best, copies while they are sorted, and what is put aside
    kept = sum(map(len, chains)) * most * (7 * size + 80) // 2
    memory, tile = place.settings.memory, min(_CORPUS_ROWS, corpus.n_rows)

    def needed(rows: int) -> tuple[int, int]:
        """Return bytes of a tile of the corpus, and of a query that meets it."""
        return 4 * size * rows * width, size * (3 * width + 4 * rows) + kept + beside

    while tile > MIN_ROWS and needed(tile)[0] + MIN_ROWS * needed(tile)[1] > memory // 2:
        tile //= 2
    wanted = min(_QUERY_ROWS, queries.n_rows)
    rows = rows_within(memory, *needed(tile), wanted, "neighbours")
    threads = 1
    if place.settings.backend.device == "cpu" and rows > _TILE[0]:
        # so many queries share the small tiles of products that are worked on at once
        threads = min(threads_of(place.settings.backend), rows // _TILE[0])
        (fixed, each), products = needed(tile), 4 * size * tile
        fixed += threads * _TILE[0] * 4 * size * min(tile, _TILE[1])
        rows = rows_within(memory, fixed, each - products, wanted, "neighbours")
    first = done = 0
    if itself:
        first = as_blocks(queries).start
    for piece, labels in place.pieces(queries, rows, names[itself]):
        # the corpus has a buffer of its own, so this one stays as it is
        found = [_Walk(piece, most, chain, place, threads) for chain in chains]
        start = 0
        for other, _ in place.pieces(corpus, tile, names[1]):
            parts = _columns(other, start, place, threads)
            start += len(other)
            for walk in found:
                walk.meet(parts, first if itself else None, start == corpus.n_rows)
        yield (
            labels,
            [
                [
                    (_similarity(values, piece, walk.chain.features(prefix), place), numbers)
                    for prefix, (values, numbers) in enumerate(walk.finished())
                ]
                for walk in found
            ],
        )
        first, done = first + len(labels), done + len(labels)
        place.settings.progress("test rows", done, queries.n_rows)


_GROUP = 16
"""Columns of a tile of which the largest is looked at first."""

_TILE = (512, 2048)
"""Queries and corpus rows whose products stay in a CPU's cache while the chain is walked."""

_SHORT = 2**15 - 1


class _Best:
    """The best corpus rows so far of r queries, on one prefix.

    What is better than the worst of a query's best is put aside, and sorted in when as many corpus
    rows have come as before: so the worst is never much too low, and lists are seldom sorted.

    Arguments:
        values: (r, K), all -inf, to become what orders neighbours, falling.
        numbers: int64 (r, K), to become the numbers of these corpus rows.
    """

    def __init__(self, values: Array, numbers: Array):
        xp = array_namespace(values)
        self._values, self._numbers = values, numbers
        self._worst = _light(xp.empty_like(values[:, -1:]))
        self._aside: list[tuple[Array, Array, Array]] = []
        self._held = self._seen = 0

    def take(self, products: Array, factors: "_Factors", numbers: Array) -> None:
        """Take what is better than the worst of each query's best among corpus rows.

        Arguments:
            products: (r, m), -inf in columns that stand for no corpus row, m a multiple of _GROUP.
            factors: what makes values of them.
            numbers: of these corpus rows.
        """
        most = self._values.shape[1]
        known = bool(self._seen)
        if not known:
            self._seen, least = factors.count, factors.least_worst(products, most)
            if least is not None:
                known, self._worst[...] = True, least
        found = _better(products, factors, self._worst) if known else None
        if found is None:
            values = factors.values(products[:, : factors.count])
            top, places = largest(values, min(most, factors.count))
            self._merge(top, taken(numbers, places))
        elif len(found[0]):
            row, column, value = found
            self._aside.append((row, _light(numbers)[column], value))
            self._held += len(row)

    def sort_in(self, seen: int, last: bool) -> None:
        """Sort in what is put aside, if it is much or enough rows were seen, or these are the last.

        Arguments:
            seen: corpus rows that have been taken.
            last: whether these were all.
        """
        height, most = self._values.shape
        if not (last or seen >= 2 * self._seen or self._held > 2 * most * height):
            return
        self._seen = seen
        if not self._aside:
            return
        xp = array_namespace(self._aside[0][0])
        row, number, value = (xp.concat(each) for each in zip(*self._aside, strict=True))
        self._aside, self._held, where = [], 0, row.device
        # short keys are sorted digit by digit
        keys = row if height > _SHORT else xp.astype(row, xp.int16)
        order = xp.argsort(keys, stable=True)
        row, each = row[order], _counts(row, height)
        shape = (height, int(xp.max(each)))
        top = xp.full(shape, -xp.inf, dtype=value.dtype, device=where)
        numbers = xp.zeros(shape, dtype=xp.int64, device=where)
        column = xp.arange(len(row), device=where) - (xp.cumulative_sum(each) - each)[row]
        top[row, column], numbers[row, column] = value[order], number[order]
        xp = array_namespace(self._values)
        self._merge(xp.asarray(top), xp.asarray(numbers))

    def _merge(self, top: Array, numbers: Array) -> None:
        xp = array_namespace(top)
        top = xp.concat([self._values, top], axis=1)
        numbers = xp.concat([self._numbers, numbers], axis=1)
        self._values[...], places = largest(top, self._values.shape[1])
        self._numbers[...] = xp.take_along_axis(numbers, places, axis=1)
        self._worst[...] = _light(self._values[:, -1:])


class _Walk:
    """A chain that R queries go along with one tile of the corpus after the other.

    The products of a smaller tile are added up along the whole chain before the next one's, so
    that they never leave the cache.

    Attributes:
        chain: order of features, and its prefixes.

    Arguments:
        queries: (R, D).
        most: neighbours of each query, K.
        chain: as above.
        place: how rows are measured.
        threads: how many tiles of queries are worked on at once.
    """

    def __init__(self, queries: Array, most: int, chain: Chain, place: Placed, threads: int):
        self._xp, where = array_namespace(queries), queries.device
        self.chain, self._queries, self._place, self._threads = chain, queries, place, threads
        self._order = place.settings.backend.put(chain.order[: chain.length])
        shape, xp = (len(chain), len(queries), most), self._xp
        self._values = xp.full(shape, -xp.inf, dtype=queries.dtype, device=where)
        self._numbers = xp.zeros(shape, dtype=xp.int64, device=where)
        tall = _TILE[0] if place.settings.backend.device == "cpu" else len(queries)
        self._tiles = _slices(len(queries), tall)
        self._best = [
            [_Best(self._values[p, rows], self._numbers[p, rows]) for p in range(len(chain))]
            for rows in self._tiles
        ]

    def meet(self, corpus: Sequence["_Columns"], first: int | None, last: bool) -> None:
        """Take corpus rows among the best of each prefix, where they are better.

        Arguments:
            corpus: next rows of the corpus.
            first: if queries are rows of the corpus, the number of the first.
            last: whether no more come.
        """
        xp, queries, sizes = self._xp, self._queries, self.chain.sizes
        brought: dict[int, tuple[Array, list[_Factors]]] = {}

        def bring(number: int, lane: int) -> None:
            theirs, metric = taken(corpus[number].rows, self._order), self._place.metric
            made = [_Factors(each, metric) for each in _factors(theirs, sizes, metric)]
            brought[number] = theirs, made

        in_threads(bring, range(len(corpus)), self._threads)
        widest = -(-max(len(part.numbers) for part in corpus) // _GROUP) * _GROUP
        shape = (self._threads, self._tiles[0].stop, widest)
        products = xp.empty(shape, dtype=queries.dtype, device=queries.device)

        def walk(number: int, lane: int) -> None:
            rows = self._tiles[number]
            ours = xp.take(queries[rows], self._order, axis=1)
            for place, part in enumerate(corpus):
                (columns, factors), count = brought[place], len(part.numbers)
                sums = products[lane, : len(ours), : -(-count // _GROUP) * _GROUP]
                sums[...] = 0
                sums[:, count:] = -xp.inf
                own = None if first is None else part.own(rows, first)
                if own is not None:
                    sums[own] = -xp.inf
                done, seen = 0, part.start + count
                ends = last and part is corpus[-1]
                for best, size, each in zip(self._best[number], sizes, factors, strict=True):
                    if size > done:
                        add_product(sums[:, :count], ours[:, done:size], columns[done:size])
                        done = size
                    best.take(sums, each, part.numbers)
                    best.sort_in(seen, ends)

        in_threads(walk, range(len(self._tiles)), self._threads)

    def finished(self) -> Iterator[tuple[Array, Array]]:
        """Yield what orders neighbours and their numbers, (R, K) each, on each prefix."""
        yield from zip(self._values, self._numbers, strict=True)


class _Factors:
    """Factors of n corpus rows, which make of products what orders neighbours.

    This is x'y / |y| of cosines and x'y - |y|^2 / 2 of distances: what is the same for all of a
    query's is left away.

    Attributes:
        count: n.
        grouped: the factors by group, (groups, 16).

    Arguments:
        factor: (n,), 1 / |y| or |y|^2 / 2.
        metric: "cosine" or "euclidean".
    """

    def __init__(self, factor: Array, metric: str):
        self.count, self._cosine, self._each = len(factor), metric == "cosine", factor
        light = _light(factor)
        self._xp = xp = array_namespace(light)
        filler = xp.ones(-self.count % _GROUP, dtype=light.dtype, device=light.device)
        grouped = xp.reshape(xp.concat([light, filler * light[-1]]), (_GROUP, -1))
        self.grouped = xp.empty(grouped.shape[::-1], dtype=light.dtype, device=light.device)
        self.grouped[...] = grouped.T
        self._least, self._most = xp.min(grouped, axis=0), xp.max(grouped, axis=0)

    def hot(self, largest: Array, worst: Array) -> Array:
        """Return where a column of a group may be above `worst`, bool (r, groups).

        Multiplication and subtraction round monotonically, so the bound holds of rounded values.

        Arguments:
            largest: (r, groups), the largest product of each group.
            worst: (r, 1).
        """
        if not self._cosine:
            return largest - self._least > worst
        most = largest * self._most
        if isinstance(worst, np.ndarray) and worst.min() >= 0:
            return most > worst
        return self._xp.maximum(largest * self._least, most) > worst

    def least_worst(self, products: Array, most: int) -> Array | None:
        """Return what at least `most` values of each row of products are above, (r, 1).

        As many groups have a value that is as large. None where groups are too few, or sorting
        rows is as quick.
        """
        groups = products.shape[1] // _GROUP
        if 2 * most > groups or not isinstance(self._most, np.ndarray):
            return None
        top = _light(_tops(products))
        if self._cosine:
            # no value is nan: fillers are -inf, and no factor is 0
            least = np.minimum(top * self._least, top * self._most)
        else:
            least = top - self._most
        bound = np.partition(least, groups - most, axis=1)[:, groups - most, None]
        return np.nextafter(bound, -np.inf, dtype=bound.dtype)

    def made_of(self, products: Array, each: Array) -> Array:
        """Return what orders neighbours, of products with some corpus rows and their factors."""
        return products * each if self._cosine else products - each

    def values(self, products: Array) -> Array:
        """Return the same of products (r, n) with all of them."""
        return self.made_of(products, self._each)


def _factors(corpus: Array, sizes: Sequence[int], metric: str) -> list[Array]:
    """Return 1 / |y| or |y|^2 / 2 of corpus rows, columns of (D, n), on their first features."""
    xp, n = array_namespace(corpus), corpus.shape[1]
    squares = xp.zeros(n, dtype=xp.float64, device=corpus.device)
    found, done = [], 0
    for size in sizes:
        part = corpus[done:size]
        squares = squares + xp.sum(part * part, axis=0, dtype=xp.float64)
        factor = squares / 2
        if metric == "cosine":
            factor = 1 / xp.sqrt(xp.where(squares > 0, squares, xp.ones_like(squares)))
        found.append(xp.astype(factor, corpus.dtype))
        done = size
    return found


@dataclass(frozen=True)
class _Columns:
    """Rows of the corpus as columns, of which those with like norms stand in one group.

    Attributes:
        rows: (D, m).
        numbers: int64 (m,), of the corpus rows: `start` to `start` + m - 1, rearranged.
        start: as above.
    """

    rows: Array
    numbers: Array
    start: int

    def own(self, rows: slice, first: int) -> tuple[Array, Array] | None:
        """Return where queries meet themselves; None if none does.

        Arguments:
            rows: which queries.
            first: number of the corpus row that the first of all queries is.
        """
        shift, xp = first - self.start, array_namespace(self.numbers)
        low, high = max(rows.start, -shift), min(rows.stop, len(self.numbers) - shift)
        if low >= high:
            return None
        met = xp.arange(low, high, device=self.numbers.device)
        return met - rows.start, taken(xp.argsort(self.numbers), met + shift)


def _columns(rows: Array, start: int, place: Placed, threads: int) -> list[_Columns]:
    """Return rows (n, D), of which `start` is the number of the first, as columns of tiles."""
    xp = array_namespace(rows)
    parts = _slices(len(rows), _TILE[1] if place.settings.backend.device == "cpu" else len(rows))
    columns: dict[int, _Columns] = {}

    def turn(number: int, lane: int) -> None:
        part, count = rows[parts[number]], parts[number].stop - parts[number].start
        groups = -(-count // _GROUP)
        # group by group
        places = np.argsort(np.arange(count) % groups, stable=True)
        order = xp.empty(count, dtype=xp.int64, device=rows.device)
        order[place.settings.backend.put(places)] = xp.argsort(xp.sum(part * part, axis=1))
        turned = xp.empty(part.shape[::-1], dtype=rows.dtype, device=rows.device)
        turned[...] = taken(part, order).T
        first = start + parts[number].start
        columns[number] = _Columns(turned, order + first, first)

    in_threads(turn, range(len(parts)), threads)
    return [columns[number] for number in range(len(parts))]


def _slices(count: int, most: int) -> list[slice]:
    """Return 0 to `count` in slices of at most `most`."""
    return [slice(first, min(first + most, count)) for first in range(0, count, most)]


def _flat(array: Array) -> Array:
    return array_namespace(array).reshape(array, (-1,))


def _better(products: Array, factors: _Factors, worst: Array) -> tuple[Array, Array, Array] | None:
    """Return the rows, columns and values of what of (r, m) is above `worst` (r, 1), (n,) each.

    The largest of each group of columns, one pass at the speed of memory, says where to look.
    None if that is at so many places that it is better to sort.
    """
    height, width = products.shape
    groups = width // _GROUP
    row, group = _places(factors.hot(_light(_tops(products)), worst))
    if 4 * len(row) > height * groups:
        return None
    # the columns of a group are `groups` apart
    grouped = _light(products).reshape(height, _GROUP, groups)
    found = factors.made_of(grouped[row, :, group], taken(factors.grouped, group))
    which, inner = _places(found > taken(worst, row))
    return row[which], group[which] + groups * inner, found[which, inner]


def _tops(products: Array) -> Array:
    """Return the largest product of each group of columns of (r, m), (r, groups)."""
    xp, (height, width) = array_namespace(products), products.shape
    return xp.max(xp.reshape(products, (height, _GROUP, width // _GROUP)), axis=1)


def _light(array: Array) -> Array:
    """Return the array, or NumPy's view of torch's on a CPU: it is quicker at a few places."""
    return array.numpy() if is_torch_array(array) and array.device.type == "cpu" else array


def _places(found: Array) -> tuple[Array, Array]:
    """Return the rows and columns of what is true of bool (r, m), int64 (n,) each."""
    width = found.shape[1]
    (flat,) = array_namespace(found).nonzero(_flat(found))
    row = flat // width
    return row, flat - width * row


def _similarity(values: Array, queries: Array, features: np.ndarray, place: Placed) -> Array:
    """Return cosines, or minus squared distances, (r, K), of what orders neighbours."""
    xp = array_namespace(values)
    own = xp.take(queries, place.settings.backend.put(features), axis=1)
    squares = xp.sum(own * own, axis=1, dtype=xp.float64)[:, None]
    wide = xp.astype(values, xp.float64)
    if place.metric == "cosine":
        return wide / xp.sqrt(xp.where(squares > 0, squares, xp.ones_like(squares)))
    return 2 * wide - squares


def _counts(numbers: Array, count: int) -> Array:
    """Return how often each of 0 to count - 1 is among int64 (n,), int64 (count,)."""
    if is_torch_array(numbers):
        return numbers.bincount(minlength=count)
    # NumPy and CuPy have it by the same name
    return array_namespace(numbers).bincount(numbers, minlength=count)


def largest(values: Array, count: int) -> tuple[Array, Array]:
    """Return the `count` largest of each row of (r, n), falling, and their places, int64."""
    if is_torch_array(values):
        return values.topk(count, dim=1)
    xp = array_namespace(values)
    places = xp.argsort(values, axis=1, descending=True)[:, :count]
    return xp.take_along_axis(values, places, axis=1), places

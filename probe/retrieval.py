"""Retrieval: how well prefixes of a chain find what is relevant to a query."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from featstore.probe.arrays import full_precision, own_settings, to_host
from featstore.probe.errors import DataError, FileError, RowsWarning, UsageError
from featstore.probe.memory import Progress, Settings, settings_of, shows
from featstore.probe.modes import Layer, Mode, modes_of
from featstore.probe.moments import remembered
from featstore.probe.neighbours import Placed, joined_walks, nearest, scaling
from featstore.probe.plans import Layout, layout, sweep_chains
from featstore.probe.results import percent
from featstore.probe.results.curves import curve_table
from featstore.probe.results.features import measure_name, measure_of
from featstore.probe.results.files import opened
from featstore.probe.rows import RowBlocks, Rows, as_blocks
from featstore.probe.solvers import Metric
from featstore.probe.solvers.routes import Projected, View
from featstore.probe.subsets import FEATURES, Axes, Frame, grid

MEASURES = ("recall", "precision", "map", "ndcg", "mrr", "overlap", "spearman")
"""Measures by the names of their columns, each in [0, 1] but for the last, in [-1, 1]."""


@dataclass(frozen=True)
class Retrieved:
    """Scores of prefixes that rank a corpus for queries.

    Attributes:
        table: R rows, one for each mode, seed and fraction: `mode`, `seed`, `fraction`, `k`
            features, `queries` that count, and `MEASURES`.
        queries: int64 (Q,), which queries count: those to which something is relevant.
        values: for each of `MEASURES` float32 (R, Q), of each query.
        cutoff: ranks that recall, precision, ndcg and overlap see.
    """

    table: pd.DataFrame
    queries: np.ndarray
    values: Mapping[str, np.ndarray] = field(repr=False)
    cutoff: int

    def called(self, measure: str) -> str:
        """Return what a measure is called, as "nDCG@10".

        Raises:
            UsageError: there is no such measure.
        """
        if measure not in MEASURES:
            raise UsageError(f"no measure is called {measure!r}: there are {', '.join(MEASURES)}")
        return measure_name(measure, self.cutoff)

    def curves(self, measure: str = "ndcg", level: float = 0.95) -> pd.DataFrame:
        """Return a row for each mode and fraction: mean, and share of what all features reach.

        Intervals are over seeds and queries, as those of accuracies are over seeds and test rows.

        Returns:
            The columns `mode`, `fraction`, `k`, `seeds`, of `measure` and `ratio` the mean, `_low`
            and `_high`, the means of the other measures, and `cutoff`.
        """
        self.called(measure)
        told = self.table.assign(store="", tap="", solver="", l2=np.nan, l2_choice="given")
        found = curve_table(told.assign(r2=told[measure]), self.values[measure], level)
        found = found.rename(columns={name: name.replace("r2", measure) for name in found})
        means = self.table.groupby(["mode", "fraction"], as_index=False)[list(MEASURES)].mean()
        others = means.drop(columns=measure)
        kept = ["mode", "fraction", "k", "probes"]
        kept += [f"{name}{end}" for name in (measure, "ratio") for end in ("", "_low", "_high")]
        found = found[kept].rename(columns={"probes": "seeds"})
        return found.merge(others, on=["mode", "fraction"]).assign(cutoff=self.cutoff)


@shows
def retrieval(
    queries: Rows,
    corpus: Rows,
    fractions: Sequence[float],
    seeds: int | Sequence[int] = (1,),
    *,
    mode: Mode | Sequence[Mode] = "random",
    relevance: str | np.ndarray = "class",
    cutoff: int = 10,
    depth: int = 100,
    metric: str = "cosine",
    standardize: bool = False,
    within: bool = False,
    memory: str | int = "auto",
    device: str = "auto",
    backend: str = "torch",
    progress: Progress | bool | None = None,
) -> Retrieved:
    """Return how well each fraction and seed ranks the corpus for queries, and all features.

    Of the ranking of a query with R relevant rows, g_i the gain at rank i,

        recall = hits(cutoff) / R,    precision = hits(cutoff) / cutoff,
        ndcg = sum_{i <= cutoff} g_i / log2(i + 1), over that of the best ranking,
        map = sum_{i <= depth, i relevant} hits(i) / i / R,    mrr = 1 / rank of the first hit,

    each a mean over the queries with R > 0; `mrr` too looks `depth` deep. `overlap` is the share
    of the whole layer's first `cutoff` rows that are among the prefix's, `spearman` the rank
    correlation of the first `depth` rows of both, where a row that one lacks comes behind its last.

    Arguments:
        queries: row blocks, or (features (Q, D), labels (Q,)).
        corpus: row blocks, or (features (N, D), labels (N,)).
        fractions: shares of the features, in (0, 1]; the whole layer is always added.
        seeds: what subsets are drawn with, as in `sweep`.
        mode: which features, as in `sweep`; "first" truncates. Orders and directions come from the
            corpus; directions are of features as they are, but for `standardize`.
        relevance: "class", rows of the query's label; "paired", the row of the query's number; or
            numbers (M, 3) as in a qrels file: query row, corpus row, gain, 0 for not relevant.
        cutoff: ranks that recall, precision, ndcg and overlap see.
        depth: ranks that map, mrr and spearman see; at least `cutoff`, and no more than N are
            there.
        metric: "cosine" or "euclidean".
        standardize: centre features and divide them by their deviation in the corpus.
        within: queries are the rows of the corpus, and none finds itself.
        memory: what arrays may take, on host and device each, as of `featstore.probe.fit`.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        progress: callback, or whether to show it; by default where somebody looks.

    Raises:
        UsageError: an argument has no such value.
        DataError: rows do not fit together, or no query has anything relevant to it.
        MemoryBudgetError: not even a few rows fit into `memory`.

    Reference:
        Manning, Raghavan, Schuetze, "Introduction to Information Retrieval", chapter 8.

    Example:
        >>> x = np.eye(4)[[0, 0, 1, 1, 2, 2]]
        >>> found = retrieval((x, [0, 0, 1, 1, 2, 2]), (x, [0, 0, 1, 1, 2, 2]), [1.0], cutoff=2)
        >>> found.table[["recall", "precision", "map"]].values.tolist()
        [[1.0, 1.0, 1.0]]
    """
    asking, found = as_blocks(queries), remembered(as_blocks(corpus))
    _check(asking, found, metric, cutoff, depth, within)
    judged = _relevance(relevance, asking, found, within)
    settings = settings_of(standardize, None, memory, device, backend, progress)
    width = found.n_features
    most = min(depth, found.n_rows - within)
    cutoff = min(cutoff, most)
    known = np.flatnonzero(judged.best(np.arange(asking.n_rows), 1)[1] > 0)
    if not len(known):
        raise DataError("no query has a relevant row in the corpus: there is nothing to measure")
    with own_settings(), full_precision():
        frame = Frame(width, lambda: found.moments(settings), standardize, centred=standardize)
        layer = Layer(width, grid(width, fractions), frame.moments, standardize, settings.progress)
        swept = sweep_chains(layer, modes_of(mode), seeds, shared=True)
        axes = Axes(tuple(swept.chains), (0.0,))
        rows = layout(axes, swept.curves)
        ranking = _Ranking(judged, known, cutoff, most, np.zeros((len(axes), len(MEASURES))))
        ranking.values = {name: np.zeros((len(axes), len(known)), np.float32) for name in MEASURES}
        bases = list(dict.fromkeys(chain.basis for chain in swept.chains))
        # what other prefixes are compared with comes first
        for basis in sorted(bases, key=lambda basis: basis != FEATURES):
            shown, place, of_basis = (asking, found), settings, swept.chains
            if basis != FEATURES:
                longest = max(int(c.order.max()) for c in swept.chains if c.basis == basis)
                view = View.of(basis, longest + 1, frame, settings.backend)
                shown = tuple(Projected(each, view, "rows") for each in (asking, found))
                place = replace(settings, standardize=False)
            own = [n for n, chain in enumerate(of_basis) if chain.basis == basis]
            ranking.measure(shown, axes, own, metric, place, within)
    table = _table(rows, axes, ranking.totals / len(known), len(known))
    values = {name: each[rows.probes] for name, each in ranking.values.items()}
    return Retrieved(table, known, values, cutoff)


def _table(rows: Layout, axes: Axes, means: np.ndarray, queries: int) -> pd.DataFrame:
    """Return one row a probe, with means (P, measures) over the queries."""
    return pd.DataFrame(
        {
            "mode": rows.modes,
            "seed": pd.array(rows.seeds, dtype="Int64"),
            "fraction": _fractions(axes)[rows.probes],
            "k": axes.size[rows.probes],
            "queries": queries,
        }
    ).assign(**dict(zip(MEASURES, means[rows.probes].T, strict=True)))


def _fractions(axes: Axes) -> np.ndarray:
    return np.concatenate([chain.fractions for chain in axes.chains])


class _Ranking:
    """Measures of every prefix, filled basis by basis."""

    def __init__(
        self,
        judged: "ByClass | ByPairs",
        known: np.ndarray,
        cutoff: int,
        most: int,
        totals: np.ndarray,
    ):
        self.judged, self.known, self.cutoff, self.most = judged, known, cutoff, most
        self.totals, self.values = totals, {}
        self._whole = np.zeros((len(known), most), np.int64)

    def measure(
        self,
        rows: tuple[RowBlocks, RowBlocks],
        axes: Axes,
        own: Sequence[int],
        metric: str,
        settings: Settings,
        within: bool,
    ) -> None:
        """Measure the chains of these numbers, whose features are those of queries and corpus."""
        queries, corpus = rows
        chains = [replace(axes.chains[number], basis=FEATURES) for number in own]
        walks, numbers = joined_walks(chains, corpus.n_features)
        place = Placed(*scaling(corpus, metric, settings), metric, settings)
        first = 0
        found = nearest(
            queries,
            corpus,
            walks,
            self.most,
            place,
            within,
            ("queries", "corpus"),
            beside=8 * 16 * self.most,
        )
        for labels, every in found:
            stop = first + len(labels)
            here = np.flatnonzero((self.known >= first) & (self.known < stop))
            within_piece = self.known[here] - first
            ranked = {}
            for prefixes, places in zip(every, numbers, strict=True):
                for (_, order), (chain, prefix) in zip(prefixes, places, strict=True):
                    probe = axes.prefixes(own[chain], 0)[prefix]
                    ranked[probe] = to_host(order)[within_piece]
                    if (
                        chains[chain].sizes == (corpus.n_features,)
                        and axes.chains[own[chain]].basis == FEATURES
                    ):
                        self._whole[here] = ranked[probe]
            for probe, order in ranked.items():
                self._put(probe, here, order)
            first = stop

    def _put(self, probe: int, here: np.ndarray, order: np.ndarray) -> None:
        whole, queries = self._whole[here], self.known[here]
        shared = (order[:, : self.cutoff, None] == whole[:, None, : self.cutoff]).any(1).mean(1)
        measures = [
            *_measured(self.judged, queries, order, self.cutoff),
            shared,
            _agreement(order, whole),
        ]
        for column, (name, each) in enumerate(zip(MEASURES, measures, strict=True)):
            self.totals[probe, column] += float(each.sum())
            self.values[name][probe, here] = each


def _agreement(order: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of two lists, float64 (r,), over the rows of either.

    Rows that a list lacks share the rank behind its last: K + (m + 1) / 2 of m such rows. If both
    lists have every row of the corpus it is the correlation of all ranks.

    Arguments:
        order: int64 (r, K), corpus rows as a prefix ranks them.
        whole: int64 (r, K), as all features do.
    """
    count, most = order.shape
    span = int(max(order.max(), whole.max())) + 1
    rows = np.arange(count)[:, None] * span
    by_row = np.argsort(whole, axis=1)
    keys = np.take_along_axis(whole, by_row, axis=1) + rows
    places = np.minimum(np.searchsorted(keys.ravel(), order + rows), keys.size - 1)
    both = keys.ravel()[places] == order + rows
    missing = most - both.sum(1)
    behind = most + (missing + 1) / 2
    ranks = np.arange(1.0, most + 1)
    theirs = np.where(both, by_row.ravel()[places] + 1.0, behind[:, None])
    # rows that the prefix lacks stand where the whole has them, and behind in its own list
    lacking = ranks.sum() - np.where(both, theirs, 0).sum(1)
    products = (ranks * theirs).sum(1) + behind * lacking
    n = most + missing
    middle = n * ((n + 1) / 2) ** 2
    spread = (ranks**2).sum() + missing * behind**2 - middle
    return np.divide(products - middle, spread, out=np.ones(count), where=spread > 0)


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
    known = (pairs[:, :2] >= 0) & (pairs[:, :2] < [queries.n_rows, corpus.n_rows])
    good = known.all(1) & (pairs[:, :2] % 1 == 0).all(1) & (pairs[:, 2] >= 0)
    good &= np.isfinite(pairs).all(1)
    if not good.all():
        wrong = int(good.argmin())
        raise DataError(
            f"pair {wrong} of relevance is {pairs[wrong].tolist()}: rows are whole numbers counted "
            "from 0, and gains are 0 or more"
        )
    rows = pairs[:, :2].astype(np.int64)
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
) -> list[np.ndarray]:
    """Return recall, precision, map, ndcg and mrr of each query, float64 (r,).

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
    return [found / count, found / cutoff, average, gained, first]


def sentence(table: pd.DataFrame, keep: float, level: float) -> str:
    """Say how few dimensions keep a share of a measure of retrieval, a line a mode.

    Arguments:
        table: as `Retrieved.curves` gives it.
        keep: the share.
        level: coverage of the intervals.

    Example:
        >>> rows = [("first", 0.25, 256, 0.99, 0.981, 0.996), ("first", 1.0, 1024, 1.0, 1.0, 1.0)]
        >>> names = ["mode", "fraction", "k", "ratio", "ratio_low", "ratio_high"]
        >>> table = pd.DataFrame(rows, columns=names).assign(ndcg_low=0.5, cutoff=10)
        >>> print(sentence(table, 0.99, 0.95))
        256 of 1,024 dimensions keep 99.0 % (98.1 to 99.6) of nDCG@10, at a quarter of the index's \
bytes (95 % interval over seeds and queries).
    """
    called = measure_name(measure_of(table), int(table["cutoff"].iloc[0]))
    lines, several = [], table["mode"].nunique() > 1
    whole = int(table["k"].max())
    for mode, rows in table.groupby("mode", sort=False):
        name, parts = f"{mode}: " if several else "", rows[rows["fraction"] < 1]
        enough = parts[parts["ratio"] >= keep - 1e-9].sort_values("fraction")
        if not len(parts) or parts["ratio"].isna().all():
            lines.append(f"{name}no share of {called} can be told.")
            continue
        at = enough.iloc[0] if len(enough) else parts.sort_values("fraction").iloc[-1]
        interval = ""
        if not (math.isnan(at["ratio_low"]) or math.isnan(at["ratio_high"])):
            interval = f" ({100 * at['ratio_low']:.1f} to {100 * at['ratio_high']:.1f})"
        few = "" if len(enough) else f"no part that was tried keeps {percent(keep)}: "
        over = f" ({percent(level)} interval over seeds and queries)" if interval else ""
        lines.append(
            f"{name}{few}{int(at['k']):,} of {whole:,} dimensions keep {100 * at['ratio']:.1f} %"
            f"{interval} of {called}, at {_share(int(at['k']), whole)} of the index's bytes{over}."
        )
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    """Say a share in words where it has one.

    >>> _share(256, 1024), _share(100, 300), _share(50, 1000)
    ('a quarter', 'a third', '5 %')
    """
    words = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 8: "an eighth", 10: "a tenth"}
    return words.get(whole / part, percent(float(f"{part / whole:.3g}")))


def read_qrels(path: str | Path, queries: Sequence[str], corpus: Sequence[str]) -> np.ndarray:
    """Return the pairs of a qrels file, float64 (M, 3): query row, corpus row, gain.

    Lines are "query corpus-row gain", with or without a line of names above them (BEIR), or
    "query 0 corpus-row gain" (TREC), with tabs or spaces between. Pairs of queries or rows that are
    not there are left out, with a warning.

    Arguments:
        path: the file.
        queries: ids of Q queries.
        corpus: ids of N rows.

    Raises:
        FileError: there is no such file, or a line is none of these.
        DataError: an id stands for two rows, or no pair is of these rows or there.
    """
    places = []
    for what, ids in (("queries", queries), ("corpus", corpus)):
        places.append({name: row for row, name in enumerate(ids)})
        if len(places[-1]) < len(ids):
            raise DataError(f"ids of {what} name a row twice: a qrels file cannot tell them apart")
    with opened(path) as file:
        lines = file.read().decode(errors="replace").splitlines()
    pairs, absent = [], 0
    for number, line in enumerate(lines, 1):
        words = line.split("\t") if "\t" in line else line.split()
        try:
            gain = float(words[-1])
            if len(words) not in (3, 4) or not np.isfinite(gain):
                raise ValueError
        except (ValueError, IndexError):
            # names of columns, unless a query is called so
            if not line.strip() or (number == 1 and words[0] not in places[0]):
                continue
            raise FileError(
                f"line {number} of {path} is {line[:80]!r}: give query, row and gain, or query, 0, "
                "row and gain"
            ) from None
        query, row = places[0].get(words[0]), places[1].get(words[-2])
        if query is None or row is None:
            absent += 1
            continue
        pairs.append((query, row, max(gain, 0.0)))
    if not pairs:
        why = (
            "is of these queries and this corpus: its ids are not theirs" if absent else "is there"
        )
        raise DataError(f"no pair of {path} {why}")
    if absent:
        warnings.warn(
            f"{absent:,} of {absent + len(pairs):,} pairs of {path} are of other queries or rows, "
            "and are left out",
            RowsWarning,
            stacklevel=2,
        )
    return np.array(pairs, np.float64)

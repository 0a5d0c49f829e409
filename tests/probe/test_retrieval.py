"""Measures of retrieval against scikit-learn and counts by hand, on every prefix."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from featstore.probe import retrieval
from featstore.probe.errors import DataError, UsageError
from featstore.probe.subsets import random_order


def problem(seed=0, width=12):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, 130)
    x = random.normal(size=(130, width)) + 0.7 * random.normal(size=(4, width))[labels]
    return (x[:40], labels[:40]), (x[40:], labels[40:])


def similarities(queries, corpus, columns, metric):
    a, b = queries[0][:, columns], corpus[0][:, columns]
    if metric == "euclidean":
        return -((a[:, None] - b[None]) ** 2).sum(2)
    return (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T


def by_hand(score, gains, cutoff):
    """Measures of whole rankings, query by query."""
    rows = []
    for s, g in zip(score, gains, strict=True):
        ranked = g[np.argsort(-s)]
        places = np.flatnonzero(ranked) + 1
        found, average = (places <= cutoff).sum(), average_precision_score(g > 0, s)
        best = ndcg_score(g[None], s[None], k=cutoff)
        rows.append([found / len(places), found / cutoff, average, best, 1 / places[0]])
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["class", "pairs", "paired"])
@pytest.mark.parametrize("how", [{}, {"memory": 500_000}, {"backend": "numpy"}])
def test_measures_are_those_of_whole_rankings(metric, kind, how):
    queries, corpus = problem()
    relevance, gains = "class", (queries[1][:, None] == corpus[1]).astype(float)
    if kind == "pairs":
        gains = np.random.default_rng(1).choice([0.0, 0, 0, 1, 2], size=gains.shape)
        gains[3] = 0  # nothing is relevant to this one
        relevance = np.array([(q, d, g) for (q, d), g in np.ndenumerate(gains)])
    if kind == "paired":
        corpus = (queries[0] + 0.8 * np.random.default_rng(2).normal(size=(40, 12)), queries[1])
        relevance, gains = "paired", np.eye(40)
    known = gains.any(1)
    how = {"relevance": relevance, "metric": metric, "cutoff": 7, "depth": 500, **how}
    table = retrieval(queries, corpus, [0.25, 0.5], [1, 2], **how)
    assert table["k"].tolist() == [3, 6, 12] * 2
    assert (table["queries"] == known.sum()).all()
    whole = np.argsort(-similarities(queries, corpus, np.arange(12), metric))[:, :7]
    for row in table.itertuples():
        score = similarities(queries, corpus, random_order(12, row.seed)[: row.k], metric)
        wanted = by_hand(score[known], gains[known], 7)
        found = [row.recall, row.precision, row.map, row.ndcg, row.mrr]
        assert found == pytest.approx(wanted, abs=1e-12)
        top = np.argsort(-score)[:, :7]
        shared = [len(set(a) & set(b)) / 7 for a, b in zip(top, whole, strict=True)]
        assert row.overlap == pytest.approx(np.mean(np.array(shared)[known]))
    assert table["ndcg"].nunique() > 3


def test_within_a_corpus_no_row_finds_itself():
    _, corpus = problem()
    table = retrieval(corpus, corpus, [0.5], within=True, cutoff=5, depth=89)
    score = similarities(corpus, corpus, np.arange(12), "cosine")
    rows = ~np.eye(90, dtype=bool)
    gains = (corpus[1][:, None] == corpus[1]).astype(float)
    wanted = by_hand(score[rows].reshape(90, 89), gains[rows].reshape(90, 89), 5)
    whole = table[table["fraction"] == 1].iloc[0]
    assert whole[["recall", "precision", "map", "ndcg", "mrr"]].tolist() == pytest.approx(wanted)
    assert whole["overlap"] == 1


def test_depth_bounds_what_map_and_mrr_see():
    queries = (np.array([[1.0, 0]]), [0])
    corpus = (np.array([[1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4]]), [1, 0, 1, 0])
    shallow = retrieval(queries, corpus, [1.0], cutoff=1, depth=1).iloc[0]
    assert shallow[["recall", "map", "mrr"]].tolist() == [0, 0, 0]
    deeper = retrieval(queries, corpus, [1.0], cutoff=1, depth=3).iloc[0]
    assert deeper[["recall", "map", "mrr"]].tolist() == [0, 0.25, 0.5]


def test_what_cannot_be_measured_is_refused():
    queries, corpus = problem()
    for bad, said in (
        ({"metric": "dot"}, "metric is 'dot'"),
        ({"cutoff": 0}, "cutoff is 0 and depth 100"),
        ({"cutoff": 200}, "cutoff is 200"),
        ({"relevance": "near"}, "relevance is 'near'"),
        ({"relevance": "paired"}, "relevance 'paired' of 40 queries and 90"),
        ({"relevance": np.ones((3, 2))}, r"relevance has shape \(3, 2\)"),
    ):
        with pytest.raises(UsageError, match=said):
            retrieval(queries, corpus, [0.5], **bad)
    for bad, said in (
        ({"relevance": np.array([[0, 90, 1]])}, "pair 0 of relevance is"),
        ({"relevance": np.array([[0, 1, 0]])}, "gain above 0"),
        ({"relevance": np.array([[0, 1, 1], [0, 1, 2]])}, "twice"),
        ({"within": True}, "40 queries within a corpus of 90"),
    ):
        with pytest.raises(DataError, match=said):
            retrieval(queries, corpus, [0.5], **bad)
    with pytest.raises(DataError, match="no query has a relevant row"):
        retrieval((queries[0], np.full(40, 9)), corpus, [0.5])
    with pytest.raises(DataError, match="both must come from the same layer"):
        retrieval((queries[0][:, :5], queries[1]), corpus, [0.5])

"""Measures of retrieval against scikit-learn and counts by hand, on every prefix."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score

from featstore.probe import retrieval
from featstore.probe.errors import DataError, FileError, RowsWarning, UsageError
from featstore.probe.modes import MODES
from featstore.probe.retrieval import _agreement, read_qrels
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
@pytest.mark.parametrize("how", [{}, {"memory": 700_000}, {"backend": "numpy"}])
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
    table = retrieval(queries, corpus, [0.25, 0.5], [1, 2], **how).table
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
        full = similarities(queries, corpus, np.arange(12), metric)
        agree = [spearmanr(a, b)[0] for a, b in zip(score[known], full[known], strict=True)]
        assert row.spearman == pytest.approx(np.mean(agree), abs=1e-12)
    assert table["ndcg"].nunique() > 3


def test_within_a_corpus_no_row_finds_itself():
    _, corpus = problem()
    table = retrieval(corpus, corpus, [0.5], within=True, cutoff=5, depth=89).table
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
    shallow = retrieval(queries, corpus, [1.0], cutoff=1, depth=1).table.iloc[0]
    assert shallow[["recall", "map", "mrr"]].tolist() == [0, 0, 0]
    deeper = retrieval(queries, corpus, [1.0], cutoff=1, depth=3).table.iloc[0]
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
        ({"relevance": np.array([[0, 1, 1], [0.5, 1, 1]])}, "pair 1 of relevance is .* whole"),
        ({"relevance": np.array([[0, 1, 1], [0, 1, 2]])}, "twice"),
        ({"within": True}, "40 queries within a corpus of 90"),
    ):
        with pytest.raises(DataError, match=said):
            retrieval(queries, corpus, [0.5], **bad)
    with pytest.raises(DataError, match="no query has a relevant row"):
        retrieval((queries[0], np.full(40, 9)), corpus, [0.5])
    with pytest.raises(DataError, match="both must come from the same layer"):
        retrieval((queries[0][:, :5], queries[1]), corpus, [0.5])


def test_measures_are_those_of_trec_eval():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    (a, _), (b, _) = problem(3)
    gains = np.random.default_rng(1).choice([0, 0, 0, 1, 2, 3], size=(40, 90))
    pairs = np.array([(q, d, g) for (q, d), g in np.ndenumerate(gains)])
    found = retrieval(
        (a, np.zeros(40, int)),
        (b, np.zeros(90, int)),
        [0.25, 0.5],
        [4],
        relevance=pairs,
        cutoff=10,
        depth=30,
    )
    qrels = {f"q{q}": {f"d{d}": int(g) for d, g in enumerate(row)} for q, row in enumerate(gains)}
    ours = {"recall_10": "recall", "P_10": "precision", "map": "map", "ndcg_cut_10": "ndcg"}
    ours |= {"recip_rank": "mrr"}
    judge = pytrec_eval.RelevanceEvaluator(
        qrels, {"recall.10", "P.10", "map", "ndcg_cut.10", "recip_rank"}
    )
    for place, row in enumerate(found.table.itertuples()):
        score = similarities((a,), (b,), random_order(12, 4)[: row.k], "cosine")
        run = {}
        for query, values in enumerate(score):
            first = np.argsort(-values)[:30]
            run[f"q{query}"] = {f"d{d}": float(values[d]) for d in first}
        told = judge.evaluate(run)
        for theirs, name in ours.items():
            wanted = [told[f"q{query}"][theirs] for query in found.queries]
            assert found.values[name][place] == pytest.approx(wanted, abs=1e-6)
            assert getattr(row, name) == pytest.approx(np.mean(wanted), abs=1e-12)


def test_every_mode_and_the_share_of_the_whole_with_its_interval():
    queries, corpus = problem()
    found = retrieval(queries, corpus, [0.25, 0.5], 3, mode=list(MODES))
    table = found.table
    assert set(table["mode"]) == set(MODES)
    assert table.loc[table["fraction"] == 1, "ndcg"].nunique() == 1
    assert (table.loc[table["fraction"] == 1, ["overlap", "spearman"]] == 1).all(axis=None)
    truncated = table[(table["mode"] == "first") & (table["k"] == 3)].iloc[0]
    cut = retrieval((queries[0][:, :3], queries[1]), (corpus[0][:, :3], corpus[1]), [1.0]).table
    assert truncated["ndcg"] == pytest.approx(cut["ndcg"][0], abs=1e-12)
    # a rotation changes no cosine
    rotated = found.table.query("mode == 'pca' and k == 6").iloc[0]
    centred = corpus[0] - corpus[0].mean(0)
    turn = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :6]
    shown = retrieval((queries[0] @ turn, queries[1]), (corpus[0] @ turn, corpus[1]), [1.0]).table
    assert rotated["ndcg"] == pytest.approx(shown["ndcg"][0], abs=1e-9)
    curves = found.curves("recall")
    at = curves.query("mode == 'random' and fraction == 0.5").iloc[0]
    assert at["seeds"] == 3
    assert at["ratio_low"] < at["ratio"] < at["ratio_high"]
    of_seeds = table.query("mode == 'random'").pivot(index="seed", columns="k", values="recall")
    assert at["ratio"] == pytest.approx((of_seeds[6] / of_seeds[12]).mean(), abs=1e-6)


@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_agreement_of_lists_is_spearman_over_the_rows_of_either(most):
    random = np.random.default_rng(most)
    one, other = (np.array([random.permutation(9)[:most] for _ in range(40)]) for _ in range(2))
    for a, b, found in zip(one, other, _agreement(one, other), strict=True):
        union = sorted({*a, *b})
        ranks = [
            [list(each).index(row) if row in each else most for row in union] for each in (a, b)
        ]
        wanted = spearmanr(*ranks)[0] if len(union) > 1 else 1.0
        assert found == pytest.approx(wanted, abs=1e-12)


def test_qrels_are_read_as_beir_and_trec_write_them(tmp_path):
    queries, corpus = ["q1", "q2"], ["d 1", "d2", "d3"]
    wanted = [[0, 1, 1], [1, 2, 2], [1, 0, 0]]
    beir, trec = tmp_path / "test.tsv", tmp_path / "qrels.txt"
    beir.write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\nq2\td3\t2\nq2\td 1\t-1\n")
    trec.write_text("q1 0 d2 1\nq2 0 d3 2\n\nq9 0 d3 1\n")
    assert read_qrels(beir, queries, corpus).tolist() == wanted
    with pytest.warns(RowsWarning, match="1 of 3 pairs"):
        assert read_qrels(trec, queries, corpus).tolist() == wanted[:2]
    (tmp_path / "bad").write_text("q1 0 d2 1\nq1 d2\n")
    with pytest.raises(FileError, match=r"line 2 of .* is 'q1 d2': give query, row and gain"):
        read_qrels(tmp_path / "bad", queries, corpus)
    (tmp_path / "bad").write_text("q1 0 d2 one\n")
    with pytest.raises(FileError, match="line 1 of"):
        read_qrels(tmp_path / "bad", queries, corpus)
    with pytest.raises(DataError, match=r"no pair of .*: its ids are not theirs"):
        read_qrels(trec, ["a"], corpus)
    (tmp_path / "empty").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(DataError, match=r"no pair of .*empty is there"):
        read_qrels(tmp_path / "empty", queries, corpus)
    with pytest.raises(DataError, match="ids of corpus name a row twice"):
        read_qrels(trec, queries, ["d2", "d2"])
    with pytest.raises(FileError):
        read_qrels(tmp_path / "absent", queries, corpus)

"""`featstore retrieve` against the function of the library."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from layer_stores import N_TEST, N_TRAIN, features, made

from featstore.cli import main
from featstore.probe import retrieval


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, ["retrieve", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def rows(split, count, tap="low"):
    return features(count, split)[tap], np.arange(count) % 3


def test_two_splits_of_a_store_by_class(tmp_path):
    store = made(tmp_path / "net.zarr")
    out, plot = tmp_path / "r.parquet", tmp_path / "r.svg"
    ran = run(store.path, "--fractions", "0.25,0.5", "--seeds", 3, "--out", out, "--plot", plot,
              "--keep", 0.5)  # fmt: skip
    found = retrieval(rows("test", N_TEST), rows("train", N_TRAIN), [0.25, 0.5], 3,
                      mode=["random", "first"])  # fmt: skip
    table = pd.read_parquet(out)
    pd.testing.assert_frame_equal(table.drop(columns="cutoff"), found.table)
    at = found.curves().query("mode == 'first' and k == 3").iloc[0]
    said = " ".join(ran.stdout.split())
    assert (
        f"first: 3 of 12 dimensions keep {100 * at['ratio']:.1f} % ({100 * at['ratio_low']:.1f} to "
        f"{100 * at['ratio_high']:.1f}) of nDCG@10, at a quarter of the index's bytes" in said
    )
    assert "60 queries (test of net.zarr) against 90 rows (train of net.zarr), cosine" in said
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "nDCG@10" in plot.read_text()
    within = run(store.path, "--corpus-split", "test", "--seeds", 1, "--out", out, "--cutoff", 5)
    own = rows("test", N_TEST)
    alone = retrieval(own, own, [0.125, 0.25, 0.5], 1, within=True, cutoff=5)
    whole = pd.read_parquet(out).query("fraction == 1").iloc[0]
    assert whole["map"] == pytest.approx(alone.table["map"].iloc[-1])
    assert "against 60 rows (test of net.zarr)" in " ".join(within.stdout.split())


def test_two_stores_by_ids_and_by_a_qrels_file(tmp_path):
    one, other = made(tmp_path / "a.zarr"), made(tmp_path / "b.zarr", taps=("high", "low"))
    places = [one.path, f"{other.path}#low", "--fractions", "0.25,0.5", "--seeds", 1]
    out, qrels = tmp_path / "r.csv", tmp_path / "qrels.tsv"
    run(*places, "--relevance", "paired", "--out", out)
    assert pd.read_csv(out).query("fraction == 1")["mrr"].eq(1).all()  # each finds itself
    lines = [f"test/{q}\ttest/{(q + 1) % N_TEST}\t{1 + q % 2}" for q in range(0, N_TEST, 2)]
    qrels.write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    run(*places, "--relevance", qrels, "--out", out)
    table = pd.read_csv(out)
    assert table["queries"].unique().tolist() == [N_TEST // 2]
    pairs = np.array([(q, (q + 1) % N_TEST, 1 + q % 2) for q in range(0, N_TEST, 2)])
    found = retrieval(rows("test", N_TEST), rows("test", N_TEST), [0.25, 0.5], 1, relevance=pairs)
    assert table.query("mode == 'random'")["ndcg"].tolist() == pytest.approx(
        found.table["ndcg"].tolist()
    )


def test_what_cannot_be_ranked_is_said(tmp_path):
    store = made(tmp_path / "a.zarr")
    assert "no query has the id" in run(store.path, "--relevance", "paired", status=2).stderr
    assert "'dcg' is not one of" in run(store.path, "--measure", "dcg", status=2).stderr
    (tmp_path / "q.tsv").write_text("a\tb\n")
    ran = run(store.path, "--relevance", tmp_path / "q.tsv", status=1)
    assert "no pair of" in ran.stderr

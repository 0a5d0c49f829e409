"""`featstore cka` and the function behind it, against CKA formed from the rows."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from layer_stores import N_TEST, features, made

from featstore.cli import main
from featstore.probe.errors import DataError, MemoryBudgetError, UsageError
from featstore.probe.layers import layer_similarity
from featstore.probe.rows import ArrayBlocks, SideBySide
from featstore.probe.subsets import random_order


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, ["cka", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def direct(x: np.ndarray, y: np.ndarray, debiased=False) -> float:
    """Linear CKA by kernels of rows, N x N."""

    def hsic(k, l):
        n, one = len(k), np.ones(len(k))
        if not debiased:
            centre = np.eye(n) - 1 / n
            return np.trace(k @ centre @ l @ centre)
        k, l = k - np.diag(np.diagonal(k)), l - np.diag(np.diagonal(l))
        sums = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return np.trace(k @ l) + sums - 2 / (n - 2) * one @ k @ l @ one

    k, l = (rows.astype(np.float64) @ rows.T.astype(np.float64) for rows in (x, y))
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 20), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data()
)
def test_side_by_side_are_the_columns_of_all(n, sizes, data):
    random = np.random.default_rng(n)
    arrays = [random.normal(size=(n, d)).astype(np.float16) for d in sizes]
    rows = [
        ArrayBlocks(x, np.zeros(n, int), block_rows=data.draw(st.integers(1, n))) for x in arrays
    ]
    joint = SideBySide(rows)
    blocks = [x for x, y in joint if len(x) == len(y)]
    assert (np.concatenate(blocks) == np.concatenate(arrays, 1)).all()
    assert (
        [each.tolist() for each in joint.of_layers][-1][-1]
        == joint.n_features - 1
        == sum(sizes) - 1
    )


@pytest.mark.parametrize("debiased", [False, True])
def test_layers_and_subsets_are_compared_as_kernels_of_rows_would(debiased):
    drawn, labels = features(N_TEST, "test"), np.zeros(N_TEST, int)
    layers = {name: (x, labels) for name, x in drawn.items()}
    found = layer_similarity(layers, [0.25, 0.5], [1, 2, 3], debiased=debiased)
    for one, x in drawn.items():
        for other, y in drawn.items():
            assert found.layers.loc[one, other] == pytest.approx(direct(x, y, debiased), abs=1e-5)
    assert found.layers.loc["low", "high"] == pytest.approx(1, abs=1e-5)
    assert (len(found.to_full), len(found.pairs)) == (3 * 3 * 2, 3 * 3 * 2)
    row = found.to_full.query("name == 'wide' and seed == 2 and fraction == 0.5").iloc[0]
    x, order = drawn["wide"], random_order(20, 2)
    assert row.k == 10
    assert row.cka == pytest.approx(direct(x[:, order[:10]], x, debiased), abs=1e-5)
    row = found.pairs.query("name == 'low' and seed == 1 and other_seed == 3").iloc[0]
    x, orders = drawn["low"], [random_order(12, seed)[:3] for seed in (1, 3)]
    wanted = direct(x[:, orders[0]], x[:, orders[1]], debiased)
    assert (row.fraction, row.cka) == (0.25, pytest.approx(wanted, abs=1e-5))
    alone = layer_similarity({"low": layers["low"]}, [0.25, 0.5], [1, 2, 3], debiased=debiased)
    mine = found.to_full[found.to_full["name"] == "low"]
    assert np.allclose(alone.to_full["cka"], mine["cka"], atol=1e-6)


def test_rows_are_drawn_the_same_of_every_layer():
    drawn, labels = features(N_TEST, "test"), np.zeros(N_TEST, int)
    layers = {name: (drawn[name], labels) for name in ("low", "wide")}
    rows = np.sort(np.random.default_rng(3).choice(N_TEST, 25, replace=False))
    found = layer_similarity(layers, [0.5], [1], n_rows=25, row_seed=3)
    assert found.n_rows == 25
    wanted = direct(drawn["low"][rows], drawn["wide"][rows])
    assert found.layers.iloc[0, 1] == pytest.approx(wanted, abs=1e-5)
    assert found.pairs.empty
    for n_rows in (1, 61):
        with pytest.raises(UsageError, match=f"{n_rows} rows of 60: draw at least 2"):
            layer_similarity(layers, [0.5], [1], n_rows=n_rows)


def test_what_cannot_be_compared_is_refused():
    x, y = features(N_TEST, "test")["low"], np.zeros(N_TEST, int)
    with pytest.raises(DataError, match="layers of 60 and 59 rows: only features of the same"):
        layer_similarity({"a": (x, y), "b": (x[1:], y[1:])}, [0.5])
    with pytest.raises(MemoryBudgetError, match=r"CKA of 24 features together takes 22.5 KiB, and"):
        layer_similarity({"a": (x, y), "b": (x, y)}, [0.5], memory=20_000)
    with pytest.raises(UsageError, match=r"fraction 0\.01 of 12 features is no feature"):
        layer_similarity({"a": (x, y)}, [0.01])
    # by default, fractions that take no feature are left out
    assert layer_similarity({"a": (x, y)}, seeds=[1]).to_full["k"].tolist() == [1, 2, 6]


def test_the_command_compares_layers_of_stores(tmp_path):
    a, b = made(tmp_path / "net.zarr"), made(tmp_path / "other.zarr", ["wide"], labels=2)
    out, matrix, plot = (tmp_path / name for name in ("c.csv", "m.csv", "p.svg"))
    ran = run(f"{a.path}#high", b.path, "--fractions", "0.25,0.5", "--seeds", "3", "--out", out,
              "--matrix", matrix, "--plot", plot)  # fmt: skip
    labels, drawn = np.zeros(N_TEST, int), features(N_TEST, "test")
    layers = {name: (drawn[tap], labels) for name, tap in (("net", "high"), ("other", "wide"))}
    found = layer_similarity(layers, [0.25, 0.5], [1, 2, 3])
    saved = pd.read_csv(out)
    assert np.allclose(saved["cka"], pd.concat([found.to_full, found.pairs])["cka"])
    assert np.allclose(pd.read_csv(matrix, index_col="name"), found.layers)
    spreads = found.to_full.groupby(["name", "fraction"])["cka"].agg(["mean", "std"])
    for mean, std in spreads.to_numpy():
        assert f"{mean:.3f} ± {std:.3f}" in ran.stdout
    assert "other: linear CKA (biased, 60 test rows)" in ran.stdout
    assert f"net and other have a CKA of {found.layers.iloc[0, 1]:.3f}." in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "linear CKA" in plot.read_text()
    run(a.path, "--taps", "all", "--seeds", "2", "--debiased", "--split", "train", "--rows", "50",
        "--matrix", tmp_path / "m.svg")  # fmt: skip
    assert "high" in (tmp_path / "m.svg").read_text()


def test_one_layer_is_compared_with_its_subsets_alone(tmp_path):
    store = made(tmp_path / "net.zarr")
    ran = run(store.path, "--seeds", "1", "--fractions", "0.5")
    assert "whole layers" not in ran.stdout
    assert "50 % of the features (6) have a CKA of" in ran.stdout
    assert "(1 seed)." in " ".join(ran.stdout.split())
    assert "a matrix needs two" in run(store.path, "--matrix", tmp_path / "m.svg", status=2).stderr
    other = made(tmp_path / "other.zarr", ids=lambda split, row: f"{split}-{row}")
    ran = run(store.path, other.path, status=1)
    assert "row 0 of test is 'test/0' in" in ran.stderr
    assert "fraction 0.01 of 12 features" in run(store.path, "--fractions", "0.01", status=2).stderr
    assert "is no feature" in run(store.path, "--fractions", "0.01", status=2).stderr
    assert "of memory is granted" in run(store.path, "--memory", "1KiB", status=1).stderr

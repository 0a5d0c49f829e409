"""`featstore attribute` against the functions of the library."""

import numpy as np
import pandas as pd
from click.testing import CliRunner
from layer_stores import N_TEST, N_TRAIN, features, made
from scipy.stats import spearmanr

from featstore.cli import main
from featstore.probe import Logistic, drop_one, shapley


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, ["attribute", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def test_the_command_saves_and_draws_what_the_library_finds(tmp_path):
    store = made(tmp_path / "net.zarr")
    out, plot = tmp_path / "f.parquet", tmp_path / "f.svg"
    ran = run(store.path, "--permutations", 9, "--most", 3, "--out", out, "--plot", plot)
    table = pd.read_parquet(out)
    rows = [
        (features(count, split)["low"], np.arange(count) % 3)
        for split, count in (("train", N_TRAIN), ("test", N_TEST))
    ]
    left_out, values = drop_one(*rows), shapley(*rows, permutations=9)
    pd.testing.assert_frame_equal(table[left_out.columns], left_out)
    assert np.allclose(table["shapley"], values.table["value"])
    said = " ".join(ran.stdout.split())
    best = values.table["value"].to_numpy().argsort()[::-1][:3]
    assert [line.split()[0] for line in ran.stdout.splitlines()[3:6]] == [str(f) for f in best]
    worse = (left_out["high"] < 0).sum()
    assert f"Of 12 features left out alone, {worse} take accuracy" in said
    assert (
        f"Shapley values of 9 permutations: two halves of them correlate at {values.halves:.2f}"
        in said
    )
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "loss taken away" in plot.read_text()


def test_without_permutations_there_are_no_shapley_values(tmp_path):
    store = made(tmp_path / "net.zarr")
    out = tmp_path / "f.csv"
    ran = run(f"{store.path}#high", "--permutations", 0, "--solver", "lda", "--out", out)
    assert "Shapley" not in ran.stdout
    assert "shapley" not in pd.read_csv(out)
    assert (
        "attributions are of ridge, lda and logistic"
        in run(store.path, "--solver", "sgd", status=2).stderr
    )
    run(store.path, "--permutations", 0, "--solver", "logistic", "--l2", 1, "--out", out)
    rows = [
        (features(count, split)["low"], np.arange(count) % 3)
        for split, count in (("train", N_TRAIN), ("test", N_TEST))
    ]
    wanted = drop_one(*rows, Logistic(l2=1.0))
    assert np.allclose(pd.read_csv(out)["accuracy"], wanted["accuracy"])
    refused = run(store.path, "--solver", "logistic", status=2).stderr
    assert "so give permutations=0" in refused


def test_several_stores_agree_by_spearman(tmp_path):
    one, other = made(tmp_path / "a.zarr"), made(tmp_path / "b.zarr", labels=2)
    out, plot = tmp_path / "f.csv", tmp_path / "f.svg"
    ran = run(one.path, other.path, "--permutations", 0, "--out", out, "--plot", plot)
    table = pd.read_csv(out)
    assert table["name"].unique().tolist() == ["a", "b"]
    pair = [each["loss_change"].to_numpy() for _, each in table.groupby("name")]
    rho = spearmanr(*pair)[0]
    assert f"Features of a and b are worth the same with Spearman's rho {rho:.2f}" in " ".join(
        ran.stdout.split()
    )
    assert plot.exists()
    wide = made(tmp_path / "c.zarr", ("wide",))
    refused = run(one.path, wide.path, "--permutations", 0, status=1)
    assert "compare the same features" in refused.stderr

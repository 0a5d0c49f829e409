"""`featstore attribute` against the functions of the library."""

import numpy as np
import pandas as pd
from click.testing import CliRunner
from layer_stores import N_TEST, N_TRAIN, features, made

from featstore.cli import main
from featstore.probe import drop_one, shapley


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
    assert f"Left out alone, {worse} feature" in said
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
        "attributions are exact for ridge and lda"
        in run(store.path, "--solver", "sgd", status=2).stderr
    )

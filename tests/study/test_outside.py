"""Modes from other stores and saved probes, against the matrices that they stand for."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from layer_stores import N_TEST, N_TRAIN, features, made

from featstore import probe
from featstore.cli import main
from featstore.errors import StudyError
from featstore.probe.errors import UsageError
from featstore.probe.geometry import universality
from featstore.probe.modes import Directions, Order
from featstore.probe.results.reading import read_table
from featstore.study.outside import resolved

HOW = {"fractions": [0.25, 0.5], "seeds": [1], "solver": "ridge", "l2": [0.01, 1.0]}


def rows(tap="low"):
    return [(features(n, s)[tap], np.arange(n) % 3)
            for s, n in (("train", N_TRAIN), ("test", N_TEST))]  # fmt: skip


def parts(table):
    return table[table["fraction"] < 1]["accuracy"].tolist()


@pytest.mark.parametrize("solver", ["ridge", "logistic", "knn"])
def test_directions_of_ones_own_are_projected_features(solver):
    """As though the projected rows had been features: z = c R'(x - mean), not scaled again."""
    (x, y), (x_test, y_test) = rows()
    matrix = np.random.default_rng(0).normal(size=(12, 5)) * 3
    z, z_test = ((each.astype(float) - x.mean(0)) @ matrix for each in (x, x_test))
    unit = np.sqrt(z.var(0).mean())
    how = {"solver": solver, "standardize": True} | ({"l2": 0.1} if solver != "knn" else {})
    found = probe.sweep((x, y), (x_test, y_test), fractions=[0.25], mode=Directions("mine", matrix),
                        **how)  # fmt: skip
    assert set(found.table["mode"]) == {"basis:mine"}
    chain = probe.subset_chain([0, 1, 2], 5)
    alone = probe.fit((z / unit, y), [chain], **(how | {"standardize": False}))
    told = alone.score((z_test / unit, y_test)).table["accuracy"].tolist()
    assert parts(found.table) == pytest.approx(told, abs=1.1 / N_TEST)
    # whatever the matrix is multiplied by
    larger = probe.sweep((x, y), (x_test, y_test), fractions=[0.25],
                         mode=Directions("mine", 1e4 * matrix), **how)  # fmt: skip
    assert parts(larger.table) == parts(found.table)


def test_components_of_the_same_rows_are_those_of_mode_pca(tmp_path):
    store = made(tmp_path / "net.zarr")
    (mode,) = resolved([f"basis:{store.path}#low"], store, "low")
    assert mode.name == "net.zarr#low"
    # pca has penalties in other units: one factor
    x = rows()[0][0]
    z = (x - x.mean(0)) / x.std(0)
    vectors = np.linalg.eigh(z.T @ z)[1]
    own = vectors[:, ::-1] / x.std(0)[:, None]
    turned = np.abs((own * x.std(0)[:, None]).T @ (mode.matrix * x.std(0)[:, None]))
    assert np.allclose(turned, np.eye(12), atol=1e-3)
    tested, _ = resolved([f"basis:{store.path}#low@test", "pca"], store, "low")
    assert tested.name == "net.zarr#low@test"
    assert not np.allclose(tested.matrix, mode.matrix)


def test_singular_vectors_of_saved_probes_hold_all_that_they_say(tmp_path):
    store = made(tmp_path / "net.zarr")
    solved = probe.sweep(*rows(), fractions=[0.5], seeds=[1], solver="ridge", l2=0.1)
    probe.save_weights(solved, tmp_path / "w.safetensors", rows=[1])  # of all features
    (mode,) = resolved([f"basis:{tmp_path / 'w.safetensors'}"], store, "low")
    assert mode.matrix.shape == (12, 2)  # three classes differ in two directions
    found = probe.sweep(*rows(), fractions=[0.17], mode=mode, solver="ridge", l2=1e-6)
    assert parts(found.table)[0] >= solved.table["accuracy"][1] - 2 / N_TEST


def test_an_order_by_another_layer_is_that_of_its_r2(tmp_path):
    store = made(tmp_path / "net.zarr", taps=("low", "high", "wide"))
    (mode,) = resolved([f"universality:{store.path}#low"], store, "wide")
    train = features(N_TRAIN, "train")
    table = universality(((train["wide"], np.zeros(N_TRAIN, int)),
                          (train["low"], np.zeros(N_TRAIN, int))))  # fmt: skip
    assert (
        mode.features[:3].tolist()
        == table.sort_values("r2", ascending=False)["feature"][:3].tolist()
    )
    assert mode.name == "universality:net.zarr#low"
    other = made(tmp_path / "other.zarr", ids=lambda split, row: f"{split}/{row + 1}")
    with pytest.raises(StudyError, match="only features of the same rows"):
        resolved([f"universality:{other.path}"], store, "wide")


def test_the_commands_take_them_and_go_on(tmp_path):
    store = made(tmp_path / "net.zarr", taps=("low", "high", "wide"))
    np.save(tmp_path / "r.npy", np.eye(12)[:, ::-1])
    out = tmp_path / "r.csv"
    modes = f"basis:{tmp_path / 'r.npy'},basis:{store.path}#low,universality:{store.path}#high"
    words = ["probe", store.path, "--tap", "low", "--fractions", "0.25", "--seeds", "1", "--solver",
             "ridge", "--l2", "0.1", "--out", out]  # fmt: skip
    runner = CliRunner()
    ran = runner.invoke(main, [*map(str, words), "--mode", f"last,{modes}"])
    assert ran.exit_code == 0, ran.output
    table = pd.read_csv(out)
    assert table["mode"].unique().tolist() == [
        "last", "basis:r.npy", "basis:net.zarr#low", "universality:net.zarr#high",
    ]  # fmt: skip
    again = runner.invoke(main, [*map(str, words), "--mode", f"last,{modes}", "--resume"])
    assert again.exit_code == 0, again.output
    np.save(tmp_path / "r.npy", np.eye(12))
    changed = runner.invoke(main, [*map(str, words), "--mode", f"last,{modes}", "--resume"])
    assert changed.exit_code == 2
    assert "given=" in changed.output
    ran = runner.invoke(
        main, ["compare", str(store.path), "--fractions", "0.25", "--solver", "ridge", "--mode",
               f"basis:{store.path}#low", "--seeds", "1"],
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output


def test_a_study_has_them(tmp_path):
    store = made(tmp_path / "net.zarr")
    study = tmp_path / "study.toml"
    study.write_text(f'''
fractions = [0.25]
seeds = 1
figures = ["accuracy"]
[stores]
net = {{store = "{store.path}", taps = "low"}}
[probes.ridge]
modes = ["first", "basis:net.zarr#high", "universality:net.zarr#high"]
[analyses]
cka = false
spectrum = false
''')
    ran = CliRunner().invoke(main, ["study", str(study), "--out", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    table = read_table(tmp_path / "out" / "results" / "net.ridge.csv")
    assert set(table["mode"]) == {"first", "basis:net.zarr#high", "universality:net.zarr#high"}


def test_what_is_no_basis_is_refused(tmp_path):
    np.save(tmp_path / "few.npy", np.eye(7))
    np.save(tmp_path / "bad.npy", np.full((12, 3), np.nan))
    np.save(tmp_path / "narrow.npy", np.eye(12)[:, :4])
    (tmp_path / "text.npy").write_text("a")
    for mode, said in (
        (f"basis:{tmp_path / 'few.npy'}", "directions are of 7 features and the layer has 12"),
        (f"basis:{tmp_path / 'bad.npy'}", "no finite number"),
        (f"basis:{tmp_path / 'narrow.npy'}", "6 directions are asked of basis:narrow.npy"),
        (f"basis:{tmp_path / 'text.npy'}", "holds no directions"),
        (f"basis:{tmp_path / 'net.zarr'}", "is no .npy file of directions"),
        (Order("mine", np.arange(4)), "6 features are asked of mine, which orders 4"),
        (Directions("flat", np.arange(12)), r"directions flat have shape \(12,\)"),
    ):
        with pytest.raises(UsageError, match=said):
            probe.sweep(*rows(), mode=mode, **HOW)

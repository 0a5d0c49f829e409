"""`featstore classes` on what a sweep wrote."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from featstore import probe
from featstore.cli import main
from featstore.probe import classes
from featstore.probe.classes import affected_classes, affected_of_curves
from featstore.probe.results.files import save_table
from featstore.probe.results.reading import judged_by_class, read_per_class

NAMES = ["T-shirt", "bag", "coat", "[b]"]


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, ["classes", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """per_class.csv and predictions.npz of two curves; class 0 needs many features, 3 one."""
    folder, random = tmp_path_factory.mktemp("written"), np.random.default_rng(0)
    y = np.arange(900) % 4
    x = random.normal(size=(900, 16)).astype(np.float32)
    x[:, 0] += 6 * (y == 3)
    x[:, 1] += 3 * (y == 1)
    x[:, 2:] += 0.9 * (y == 0)[:, None]
    test = x[300:], y[300:]
    how = {"fractions": [0.125, 0.5], "mode": "first", "solver": "ridge", "l2": [0.01, 1.0]}
    result = probe.sweep((x[:300], y[:300]), test, **how, store="a/net.zarr", tap="last")
    save_table(probe.per_class_table(result, NAMES), folder / "per_class.csv")
    result.predict(test).save(folder / "predictions.npz")
    return folder


def test_it_prints_and_saves_what_the_library_finds(written, tmp_path):
    table = read_per_class(written / "per_class.csv")
    ran = run(written / "per_class.csv", "--out", tmp_path / "l.csv", "--inequality",
              tmp_path / "g.json", "--plot", tmp_path / "c.svg")  # fmt: skip
    losses, unequal = classes.class_losses(table), classes.inequality_table(table)
    saved = pd.read_csv(tmp_path / "l.csv")
    assert saved["class"].tolist() == losses["class"].tolist()
    assert np.allclose(saved["loss"], losses["loss"])
    assert np.allclose(pd.read_json(tmp_path / "g.json")["gini"], unequal["gini"])
    for row in unequal.itertuples():
        assert f"{row.gini_of_mean:.3f}" in ran.stdout
        assert f"{row.worst_accuracy:.3f} {row.worst_class}" in ran.stdout
    lost = losses[(losses["fraction"] == 0.125) & (losses["l2"] == 1)]
    here, mean = lost.iloc[0], 100 * lost["loss"].mean()
    said = " ".join(ran.stdout.split())
    assert here["class"] == "T-shirt"
    assert f"l2 = 1: At 12.5 % of the features a class loses {mean:.1f} points of" in said
    assert f"and 'T-shirt' most, {100 * here.loss:.1f}; the Gini" in said
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "accuracy on the class" in (tmp_path / "c.svg").read_text()


def test_with_predictions_it_tests_who_is_affected_more(written):
    ran = run(written / "per_class.csv", "--predictions", written / "predictions.npz", "--most", 2)
    table = read_per_class(written / "per_class.csv")
    judged = judged_by_class(table, written / "predictions.npz")
    found = affected_of_curves(judged.probes, judged.correct, judged.labels, NAMES)
    assert found["fraction"].unique() == [0.125]
    rows = (judged.probes["l2"] == 0.01).to_numpy()
    part, full = (judged.correct[rows & (judged.probes["fraction"] == f)] for f in (0.125, 1))
    alone = affected_classes(part, full, judged.labels, NAMES)
    mine = found[found["l2"] == 0.01].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine[alone.table.columns], alone.table)
    assert (mine["p_value"] == alone.p_value).all()
    said = " ".join(ran.stdout.split())
    assert f"Some classes are affected more than others: p = {alone.p_value:.3g}" in said
    assert "More than the mean class lose 'T-shirt'" in said
    assert ran.stdout.count("[b]") >= 1
    losers = ran.stdout.split("who loses most")[1].splitlines()[3:]
    assert [line.split()[0] for line in losers[:2]] == mine["class"][:2].tolist()


def test_seeds_are_paired_with_their_own_full_layers():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 40)
    probes = pd.DataFrame([
        {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 0.1, "seed": seed,
         "fraction": fraction, "k": 1}
        for seed, fraction in ((2, 1.0), (1, 0.2), (2, 0.2), (1, 1.0), (3, 0.2))
    ])  # fmt: skip
    correct = random.uniform(size=(5, 120)) < 0.7
    found = affected_of_curves(probes, correct, labels, fraction=0.3, resamples=200)
    alone = affected_classes(correct[[1, 2]], correct[[3, 0]], labels, resamples=200)
    pd.testing.assert_frame_equal(found[alone.table.columns], alone.table)
    assert affected_of_curves(probes[probes["fraction"] < 1], correct[[1, 2, 4]], labels).empty


def test_losses_that_could_be_chance_are_called_so(written, tmp_path):
    random = np.random.default_rng(2)
    labels, n = np.arange(400) % 4, 400
    right = random.uniform(size=(4, n)) < np.repeat([0.7, 0.8], 2)[:, None]
    names = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 0.1}
    rows = [
        names | {"seed": 1 + row % 2, "fraction": (0.1, 1.0)[row // 2], "k": 1, "class": f"c{c}",
                 "class_accuracy": right[row, labels == c].mean()}
        for row in range(4) for c in range(4)
    ]  # fmt: skip
    save_table(pd.DataFrame(rows), tmp_path / "per_class.parquet")
    classes = np.where(right, labels, (labels + 1) % 4).T
    np.savez(tmp_path / "p.npz", labels=labels, classes=classes)
    ran = run(tmp_path / "per_class.parquet", "--predictions", tmp_path / "p.npz")
    assert "That some classes are affected more than others could be chance: p = 0." in " ".join(
        ran.stdout.split()
    )
    ran = run(written / "per_class.csv", "--predictions", tmp_path / "p.npz", status=1)
    assert "predictions of 4 probes and the table has 6" in ran.stderr


def test_without_a_full_layer_and_of_absent_classes(written, tmp_path):
    table = read_per_class(written / "per_class.csv")
    save_table(table[table["fraction"] < 1], tmp_path / "part.csv")
    assert "The full layer was not probed" in run(tmp_path / "part.csv").stdout
    absent = table.assign(class_accuracy=table["class_accuracy"].where(table["class"] != "coat"))
    save_table(absent, tmp_path / "absent.csv")
    ran = run(tmp_path / "absent.csv")
    assert "coat" not in ran.stdout
    assert "nan" not in ran.stdout


def test_results_are_no_accuracies_by_class(tmp_path, written):
    (tmp_path / "notes.csv").write_text("class\na\n")
    assert "has no column 'store'" in run(tmp_path / "notes.csv", status=2).stderr
    table = read_per_class(written / "per_class.csv")
    save_table(pd.concat([table, table]), tmp_path / "twice.csv")
    assert "class 'T-shirt' stands twice" in run(tmp_path / "twice.csv", status=1).stderr
    assert run(written / "per_class.csv", "--level", "2", status=2).stdout == ""

"""Cross-validation: every row is tested once, by probes that were fitted without its fold."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler

import featstore
from featstore.cli import main
from featstore.probe.cross_validation import cross_validate, rows_by_hash
from featstore.probe.errors import UsageError
from featstore.probe.results.curves import curves
from featstore.probe.results.reading import read_correct, read_results

RANDOM = np.random.default_rng(0)
Y = np.arange(90) % 3
X = RANDOM.normal(size=(90, 8)) + 1.2 * np.eye(8)[Y]


def test_folds_put_together_are_scikit_learns():
    found = cross_validate((X, Y), folds=4, fractions=[0.5], seeds=2, solver="ridge", l2=0.1)
    predicted = np.full(90, -1)
    for number in range(4):
        train, test = found.fold != number, found.fold == number
        scaler = StandardScaler().fit(X[train])
        known = Ridge(alpha=0.1 * train.sum()).fit(scaler.transform(X[train]), np.eye(3)[Y[train]])
        predicted[test] = known.predict(scaler.transform(X[test])).argmax(1)
    table = found.table
    whole = table[table["fraction"] == 1]
    assert whole["accuracy"].tolist() == pytest.approx([accuracy_score(Y, predicted)] * 2)
    np.testing.assert_array_equal(found.correct[whole.index[0]], predicted == Y)
    assert set(table["n_test"]) == {90}
    assert set(table["folds"]) == {4}
    assert "90 test rows in 4 folds" in repr(found)
    counts = np.stack([np.bincount(found.fold[one == Y], minlength=4) for one in range(3)])
    assert np.ptp(counts) <= 1


def test_folds_are_foretold_together():
    parts = []

    def progress(stage, done, total, seconds=None, **facts):
        if seconds is not None:
            parts.append((stage, done, total, len(seconds)))

    cross_validate((X, Y), folds=3, fractions=1.0, solver="ridge", l2=0.1, progress=progress)
    assert parts == [("folds", done, 3, 3) for done in range(4)]


def test_numbers_and_groups_in_folds(tmp_path):
    group = np.arange(90) // 5
    y = X[:, 0] + 0.5 * RANDOM.normal(size=90)
    found = cross_validate((X, y), folds=3, fractions=1.0, solver="ridge", l2=0.1, groups=group)
    assert all(len(set(found.fold[group == one])) == 1 for one in range(18))
    assert found.table["n_groups"].tolist() == [18]
    assert found.correct.shape == (1, 18)
    assert found.correct.mean() == pytest.approx(found.table["r2"][0], abs=1e-5)
    found.save(tmp_path / "f.csv")
    (curve,) = curves(read_results(tmp_path / "f.csv"), read_correct(tmp_path / "f.csv"))
    low, high, _ = curve.mean_interval()
    assert low[0] < found.table["r2"][0] < high[0]
    with pytest.raises(UsageError, match="18 groups cannot be in 20 folds"):
        cross_validate((X, y), folds=20, fractions=1.0, groups=group)


def test_a_row_stays_where_its_hash_puts_it():
    ids = [f"{number}.png" for number in range(4000)]
    tested = rows_by_hash(ids, 0.2)
    assert tested.mean() == pytest.approx(0.2, abs=0.02)
    order = RANDOM.permutation(4000)
    again = rows_by_hash([*(ids[one] for one in order), "new.png"], 0.2)
    np.testing.assert_array_equal(again[:-1], tested[order])
    group = np.arange(4000) // 10
    whole = rows_by_hash(ids, 0.3, group).reshape(400, 10)
    assert (whole.all(1) | ~whole.any(1)).all()
    with pytest.raises(UsageError, match="leaves 0 of 2 rows"):
        rows_by_hash(["a", "b"], 1e-9)


def test_the_command_needs_no_test_split(tmp_path):
    with featstore.writer(tmp_path / "t.zarr") as writer:
        writer.append(X.astype(np.float32), Y, [f"{number}.png" for number in range(90)])

    def run(*arguments, status=0):
        options = ("--fractions", "0.5", "--seeds", "2", "--solver", "ridge", "--l2", "0.1")
        ran = CliRunner().invoke(main, ["probe", str(tmp_path / "t.zarr"), *options, *arguments])
        assert ran.exit_code == status, ran.output
        return " ".join(ran.output.split())

    out = tmp_path / "r.csv"
    assert "90 test rows in 3 folds" in run("--folds", "3", "--out", str(out))
    given = {"fractions": [0.5], "seeds": 2, "solver": "ridge", "l2": 0.1}
    known = cross_validate((X.astype(np.float32), Y), folds=3, **given).table
    assert pd.read_csv(out)["accuracy"].tolist() == pytest.approx(known["accuracy"].tolist())
    tested = int(rows_by_hash([f"{number}.png" for number in range(90)], 0.3).sum())
    assert f"tested on {tested} of 90 train rows" in run("--test-share", "0.3", "--out", str(out))
    assert set(pd.read_csv(out)["n_test"]) == {tested}
    said = run("--folds", "3", "--test-share", "0.3", status=2)
    assert "--folds and --test-share both say what to test on: give one" in said
    said = run("--folds", "3", "--save-weights", str(tmp_path / "w.safetensors"), status=2)
    assert "--save-weights is of the probes of a split" in said

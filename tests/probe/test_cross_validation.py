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
from featstore.probe import load_weights, predict, sweeps
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
    row = int(whole.index[0])
    np.testing.assert_array_equal(found.predict((X, Y)).classes[:, row], predicted)
    recalls = [(predicted == Y)[one == Y].mean() for one in range(3)]
    assert found.per_class()[row].tolist() == pytest.approx(recalls)
    with pytest.raises(UsageError, match="these are not the rows that the folds are of"):
        found.predict((X[1:], Y[1:]))
    counts = np.stack([np.bincount(found.fold[one == Y], minlength=4) for one in range(3)])
    assert np.ptp(counts) <= 1


def test_folds_are_foretold_together():
    parts = []

    def progress(stage, done, total, seconds=None, **facts):
        if seconds is not None:
            parts.append((stage, done, total, len(seconds)))

    cross_validate((X, Y), folds=3, fractions=1.0, solver="ridge", l2=0.1, progress=progress)
    assert parts == [("folds", done, 3, 3) for done in range(4)]


def solving(monkeypatch) -> list[int]:
    """Note how many chains are solved, each time that some are."""
    seen = []
    fitted = sweeps._fitted
    monkeypatch.setattr(
        sweeps, "_fitted", lambda *a: seen.append(len(a[2])) or fitted(*a)
    )  # fmt: skip
    return seen


def test_folds_that_were_stopped_go_on(tmp_path, monkeypatch):
    """Probes that stand are not solved again, and the table is that of one go."""
    options = {"folds": 3, "fractions": [0.5], "seeds": 2, "solver": "ridge", "l2": [0.1, 1.0]}
    whole = cross_validate((X, Y), **options).table

    def stop(stage, done, total, **facts):
        if (stage, done) == ("folds", 2):
            raise InterruptedError

    kept = {"folder": tmp_path / "r.folds"}
    with pytest.raises(InterruptedError):
        cross_validate((X, Y), **options, **kept, progress=stop)
    seen = solving(monkeypatch)
    again = cross_validate((X, Y), **options, **kept, resume=True)
    pd.testing.assert_frame_equal(again.table, whole)
    of_one = len(seen)
    assert of_one > 0
    # all are there
    assert cross_validate((X, Y), **options, **kept, resume=True).table.equals(again.table)
    assert len(seen) == of_one
    # other arguments are another sweep, and so are rows of other folds
    for changed in ({"seeds": 3}, {"fold_seed": 1}):
        with pytest.raises(UsageError, match=r"1-of-3\.csv holds another sweep"):
            cross_validate((X, Y), **options | changed, **kept, resume=True)
    with pytest.raises(UsageError, match="resume without out"):
        cross_validate((X, Y), **options, resume=True)


def test_scores_of_several_labels_in_folds():
    several = np.stack([X[:, 0] > 0.5, X[:, 1] > 0.5], 1).astype(np.uint8)
    options = {"folds": 3, "fractions": 1.0, "solver": "ridge", "l2": 0.1}
    found = cross_validate((X, several), metrics=("auroc", "macro_f1"), **options)
    assert found.per_class("auroc").shape == (1, 2)
    assert found.per_class("auroc").mean() == pytest.approx(found.table["auroc"][0], abs=1e-6)


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
    said = run("--folds", "3", "--cka", status=2)
    assert "--cka is of the probes of a split" in said


def test_what_the_command_keeps_of_folds(tmp_path):
    with featstore.writer(tmp_path / "t.zarr") as writer:
        for start in (0, 45):
            rows = slice(start, start + 45)
            taps = {"low": X[rows].astype(np.float32), "high": X[rows, :4].astype(np.float32) ** 2}
            writer.append(taps, Y[rows], [f"{number}.png" for number in range(90)[rows]])

    def run(*arguments, status=0):
        options = ("--fractions", "0.5", "--seeds", "2", "--solver", "ridge", "--l2", "0.1")
        words = ["probe", str(tmp_path / "t.zarr"), "--folds", "3", *options, *map(str, arguments)]
        ran = CliRunner().invoke(main, words)
        assert ran.exit_code == status, ran.output
        return " ".join(ran.output.split())

    out, classes, probes, guesses = (
        tmp_path / name for name in ("r.csv", "c.csv", "w.safetensors", "p.npz")
    )
    run("--out", out, "--save-per-class", classes, "--save-weights", probes,
        "--save-predictions", guesses)  # fmt: skip
    given = {"fractions": [0.5], "seeds": 2, "solver": "ridge", "l2": 0.1}
    known = cross_validate((X.astype(np.float32), Y), folds=3, **given)
    with np.load(guesses) as saved:
        np.testing.assert_array_equal(saved["classes"], known.predict((X, Y)).classes)
    table = pd.read_csv(classes)
    assert table["class_accuracy"].tolist() == pytest.approx(known.per_class().ravel().tolist())
    for number in range(3):
        saved = load_weights(tmp_path / f"w.{number + 1}-of-3.safetensors")
        assert saved.source["fold"] == f"{number + 1} of 3"
        own = known.fold == number
        predicted = predict(saved, (X[own].astype(np.float32), Y[own]))
        wanted = known.results[number].table["accuracy"]
        assert predicted.table["accuracy"].tolist() == pytest.approx(wanted.tolist())
    before = out.read_bytes()
    run("--out", out, "--resume")
    assert out.read_bytes() == before
    # every layer, stopped after the first, and gone on with
    layers = tmp_path / "l.csv"
    run("--taps", "low", "--out", layers)
    first = (tmp_path / "l.csv.folds" / "low" / "1-of-3.csv").stat().st_mtime_ns
    assert "high" in run("--taps", "all", "--out", layers, "--resume")
    assert (tmp_path / "l.csv.folds" / "low" / "1-of-3.csv").stat().st_mtime_ns == first
    found = pd.read_csv(layers)
    assert found["tap"].tolist() == ["low"] * 4 + ["high"] * 4
    assert found["accuracy"][:4].tolist() == pytest.approx(known.table["accuracy"].tolist())
    other = cross_validate((X[:, :4].astype(np.float32) ** 2, Y), folds=3, **given)
    assert found["accuracy"][4:].tolist() == pytest.approx(other.table["accuracy"].tolist())

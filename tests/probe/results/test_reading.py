"""Results of `featstore probe`, read back; and what is none of them, refused."""

import numpy as np
import pandas as pd
import pytest

from featstore import probe
from featstore.probe.errors import DataError, UsageError
from featstore.probe.predicted import Predictions
from featstore.probe.results.files import save_table
from featstore.probe.results.reading import (
    judged,
    judged_by_class,
    read_per_class,
    read_predictions,
    read_results,
)

CLASSES = ["a cat", "1", "", "NA"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with results, predictions and accuracies by class of one sweep, in each format."""
    folder, random = tmp_path_factory.mktemp("written"), np.random.default_rng(0)
    x, y = random.normal(size=(160, 12)).astype(np.float32), np.arange(160) % 4
    x[:, :4] += 2 * np.eye(4)[y]
    train, test = (x[:100], y[:100]), (x[100:], y[100:])
    result = probe.sweep(
        train, test, fractions=[0.25, 0.5], seeds=[1, 2], solver="ridge", l2=0.1, store="1", tap="2"
    )
    for suffix in (".csv", ".json", ".parquet"):
        result.save(folder / f"results{suffix}")
        save_table(probe.per_class_table(result, CLASSES), folder / f"per_class{suffix}")
    for suffix in (".csv", ".npz", ".parquet"):
        result.predict(test).save(folder / f"predictions{suffix}")
    return folder, result, test[1]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_results_come_back_as_they_were_computed(written, suffix):
    folder, result, _ = written
    table = read_results(folder / f"results{suffix}")
    wanted = result.to_pandas()
    assert table[["store", "tap", "mode"]].to_numpy().tolist() == [["1", "2", "random"]] * 6
    for name in ("seed", "fraction", "k", "l2", "accuracy"):
        assert table[name].tolist() == wanted[name].tolist(), name
    pd.testing.assert_frame_equal(probe.summary(table), probe.summary(wanted), check_dtype=False)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_accuracies_by_class_come_back_under_the_classes_names(written, suffix):
    folder, result, _ = written
    table = read_per_class(folder / f"per_class{suffix}")
    assert table["class"].tolist() == CLASSES * 6
    assert table["class_accuracy"].tolist() == result.per_class().ravel().tolist()


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet"])
def test_predictions_say_which_rows_are_right(written, suffix):
    folder, result, labels = written
    predictions = folder / f"predictions{suffix}"
    found = judged(read_results(folder / "results.csv"), predictions)
    assert found.labels.tolist() == labels.tolist()
    assert found.correct.shape == (6, 60)
    assert found.correct.mean(1).tolist() == pytest.approx(result.table["accuracy"].tolist())
    by_class = judged_by_class(read_per_class(folder / "per_class.csv"), predictions)
    assert (by_class.correct == found.correct).all()
    assert by_class.probes["fraction"].tolist() == result.table["fraction"].tolist()


def test_files_that_continue_each_other_are_one_table(written, tmp_path):
    folder, result, _ = written
    table = result.to_pandas()
    save_table(table[table["seed"] == 1], tmp_path / "one.csv")
    save_table(table[table["seed"] == 2].assign(further=1), tmp_path / "two.json")
    both = read_results(tmp_path / "one.csv", tmp_path / "two.json")
    assert probe.summary(both)["probes"].tolist() == [2, 2, 1]  # one full layer
    with pytest.raises(DataError, match=r"fraction 0.25 of seed 2 .* twice, in .*two.json and in "):
        read_results(tmp_path / "two.json", folder / "results.csv")
    chosen = table.assign(l2_choice="loo")
    chosen.loc[chosen["seed"] == 2, ["seed", "l2"]] = [1, 0.3]
    save_table(chosen, tmp_path / "chosen.csv")
    with pytest.raises(DataError, match=r"of seed 1 .* stands twice, in "):
        read_results(tmp_path / "chosen.csv")


def test_probes_that_were_not_run_are_left_out(written, tmp_path):
    table = written[1].to_pandas()
    begun = table.assign(status=["ok", "not run"] * 3)
    save_table(begun, tmp_path / "begun.csv")
    assert len(read_results(tmp_path / "begun.csv")) == 3
    save_table(table.assign(status="not run", accuracy=np.nan), tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"holds no finished probe: run .* with --resume"):
        read_results(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fraction": 1.5}, r"row 0 of .* has fraction 1.5 and k = 3: fractions lie in \(0, 1\]"),
        ({"fraction": np.nan}, "has fraction nan"),
        ({"k": 0}, "has fraction 0.25 and k = 0: .* take one feature at least"),
    ],
)
def test_rows_that_no_sweep_writes_are_refused(written, tmp_path, changes, message):
    save_table(written[1].to_pandas().assign(**changes), tmp_path / "wrong.csv")
    with pytest.raises(DataError, match=message):
        read_results(tmp_path / "wrong.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.csv", "hello\n3\n", "has no column 'store': name what `featstore probe --out`"),
        ("empty.csv", "", "is no table of results"),
        ("bytes.parquet", "PAR1", "is no table of results"),
        ("half.json", '[{"a":', "is no table of results"),
        ("other.json", '{"a": 3}', "is no table of results"),
        ("results.txt", "a", "ends in none of .csv, .json, .parquet"),
    ],
)
def test_files_that_hold_no_results_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_results(tmp_path / name)


def test_one_kind_of_file_is_not_taken_for_another(written, tmp_path):
    folder, result, _ = written
    with pytest.raises(UsageError, match="holds accuracies by class: `featstore classes` reads"):
        read_results(folder / "per_class.csv")
    with pytest.raises(UsageError, match=r"no column .class_accuracy.: name .*--save-per-class"):
        read_per_class(folder / "results.csv")
    numbers = result.to_pandas().rename(columns={"accuracy": "r2"}).assign(store="other")
    save_table(numbers, tmp_path / "numbers.csv")
    with pytest.raises(DataError, match=r"numbers.csv is of predicted numbers and .*results.csv"):
        read_results(tmp_path / "numbers.csv", folder / "results.csv")
    text = result.to_pandas().astype({"k": object}).assign(k="many")
    save_table(text, tmp_path / "text.csv")
    with pytest.raises(UsageError, match="is no table of results"):
        read_results(tmp_path / "text.csv")
    with pytest.raises(UsageError, match="no results file given"):
        read_results()


def test_predictions_of_other_probes_or_rows_are_refused(written, tmp_path):
    folder, _, labels = written
    table, predictions = read_results(folder / "results.csv"), folder / "predictions.npz"
    with pytest.raises(DataError, match="predictions of 6 probes and the table has 5"):
        judged(table[1:], predictions)
    with pytest.raises(DataError, match="is not of these probes and test rows: probe 0"):
        judged(table[::-1].reset_index(drop=True), predictions)
    held = dict(np.load(predictions))
    np.savez(tmp_path / "moved.npz", labels=np.roll(labels, 1), classes=held["classes"])
    with pytest.raises(DataError, match="is not of these probes and test rows"):
        judged(table, tmp_path / "moved.npz")
    by_class = read_per_class(folder / "per_class.csv")
    # as many rows right in all, of other classes
    other = np.array([1, 0, 2, 3])
    np.savez(tmp_path / "swapped.npz", labels=other[labels], classes=other[held["classes"]])
    judged(table, tmp_path / "swapped.npz")
    with pytest.raises(DataError, match=r"right there and .* in the table"):
        judged_by_class(by_class, tmp_path / "swapped.npz")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.npz", b"PK\x03\x04"), ("a.npz", b""), ("a.csv", b"row,class\n0,1\n"), ("a.parquet", b"?")],
)
def test_files_that_hold_no_predictions_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"holds no predictions .*--save-predictions` wrote"):
        read_predictions(tmp_path / name)


def test_a_column_of_pickles_is_not_run(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.array([print], object), classes=np.zeros((1, 1)))
    with pytest.raises(UsageError, match="holds no predictions"):
        read_predictions(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_classes_are_written_by_their_names(tmp_path, suffix):
    names = ("0", "1", "10", "007", "NA", "")
    labels, by_probe = np.arange(6), np.array([[0, 1, 2, 3, 4, 5], [2, 2, 2, 2, 2, 3]]).T
    predictions = Predictions(pd.DataFrame(), labels, by_probe, np.array([0, 1, 0]), names, names)
    predictions.save(tmp_path / f"p{suffix}")
    if suffix == ".csv":
        lines = (tmp_path / "p.csv").read_text().splitlines()
        assert lines[0] == "row,label,label_number,probe_0,probe_1,probe_2"
        assert lines[3:5] == ["2,10,2,10,10,10", "3,007,3,007,10,007"]
    found, classes = read_predictions(tmp_path / f"p{suffix}")
    assert (found == labels).all()
    assert (classes == by_probe[:, [0, 1, 0]]).all()


def test_classes_without_names_keep_their_numbers(tmp_path):
    for names in ((), ("0", "1")):
        one = np.zeros(1, int)
        Predictions(pd.DataFrame(), one + 1, np.ones((1, 1), int), one, names, names).save(
            tmp_path / "p.csv"
        )
        assert (tmp_path / "p.csv").read_text() == "row,label,probe_0\n0,1,1\n"
        labels, classes = read_predictions(tmp_path / "p.csv")
        assert (labels.tolist(), classes.tolist()) == ([1], [[1]])

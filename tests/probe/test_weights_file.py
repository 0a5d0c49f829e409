import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from problems import changed, clusters
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from featstore import probe
from featstore.probe import prediction
from featstore.probe.errors import DataError, FileError, MemoryBudgetError, UsageError
from featstore.probe.result import per_class_table
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers import value_of
from featstore.probe.solvers.registry import SOLVERS

PROBLEM = clusters(200, 90, 30, 4)


def solved(problem=PROBLEM, **arguments):
    defaults = {"fractions": [0.1, 0.5], "seeds": [1, 2], "solver": "ridge", "device": "cpu"}
    return probe.sweep(problem.train, problem.test, **{**defaults, **arguments})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "probes.safetensors"
    source = {"backbone": "resnet50", "tap": "penultimate"}
    probe.save_weights(solved(), path, source=source, classes=list("abcd"))
    return path


@pytest.mark.parametrize("solver", [name for name in SOLVERS if SOLVERS[name].affine])
def test_what_is_loaded_is_what_was_saved(tmp_path, solver):
    options = {"epochs": 2} if solver == "sgd" else {}
    result = solved(solver=value_of(solver, {"l2": 0.1, **options}))
    path = tmp_path / "probes.safetensors"
    probe.save_weights(result, path)
    saved = probe.load_weights(path)
    pd.testing.assert_frame_equal(saved.table, result.table, check_exact=True)
    assert len(saved) == len(result)
    for row in range(len(result)):
        mine, theirs = saved.weights(row), result.weights(row)
        for field in ("features", "coef", "intercept", "mean", "scale"):
            assert (getattr(mine, field) == getattr(theirs, field)).all()


def test_the_file_is_safetensors_as_others_read_it(file):
    tensors = load_file(file)
    result = solved()
    assert len(tensors) == 5 * len(np.unique(result.probes))  # the whole layer is there once
    x = PROBLEM.x_test.astype(float)
    logits = x[:, tensors["0.features"]] @ tensors["0.coef"] + tensors["0.intercept"]
    assert (logits == result.weights(0).logits(PROBLEM.x_test)).all()
    with safe_open(file, framework="np") as opened:
        assert json.loads(opened.metadata()["classes"]) == list("abcd")


def test_some_probes_may_be_saved(tmp_path):
    result = solved()
    path = tmp_path / "some.safetensors"
    probe.save_weights(result, path, rows=[4, 1])
    saved = probe.load_weights(path)
    assert saved.table["fraction"].tolist() == [0.5, 0.5]
    assert saved.table["seed"].tolist() == [2, 1]
    assert (saved.weights(0).features == result.weights(4).features).all()
    assert (saved.weights(1).features == result.weights(1).features).all()


def test_failed_probes_are_left_out(tmp_path, monkeypatch):
    chain, lost = probe.random_chain(30, [0.1, 0.5], 1), [0, 1]

    def failing(train, chains, penalties, settings):
        fitted = SOLVERS["ridge"].fit(train, chains, penalties, settings)
        fitted.facts["status"] = np.where(np.isin(fitted.axes.prefix, lost), "singular", "ok")
        return fitted

    monkeypatch.setitem(SOLVERS, "failing", replace(SOLVERS["ridge"], fit=failing))
    path = tmp_path / "probes.safetensors"
    result = probe.fit(PROBLEM.train, [chain], solver="failing", l2=0.1)
    with pytest.raises(UsageError, match="no probe to save: 2 were asked for and none was solved"):
        probe.save_weights(result, path)
    lost.remove(1)
    result = probe.fit(PROBLEM.train, [chain], solver="failing", l2=0.1)
    probe.save_weights(result, path)
    assert probe.load_weights(path).table["fraction"].tolist() == [0.5]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(2, 25), st.integers(2, 5), st.integers(1, 40), st.sampled_from([1, 1000, 10**9]))
def test_predictions_are_the_largest_logits(tmp_path, d, c, block_rows, memory):
    problem = changed(clusters(50, 33, d, c), lambda x: x.astype(np.float64) + 3)
    result = solved(problem, fractions=[0.6], l2=0.1)
    probe.save_weights(result, tmp_path / "p.safetensors")
    test = ArrayBlocks(*problem.test, c, block_rows=block_rows)
    saved = probe.load_weights(tmp_path / "p.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        groups = prediction._groups
        patch.setattr(prediction, "_groups", lambda saved, limit: groups(saved, memory))
        predicted = probe.predict(saved, test)
    for row in range(len(result)):
        expected = result.weights(row).logits(problem.x_test).argmax(1)
        assert (predicted.classes[:, row] == expected).all()
    assert predicted.table["accuracy"].tolist() == result.table["accuracy"].tolist()
    assert (predicted.labels == problem.y_test).all()
    assert predicted.classes.dtype == np.uint8


@pytest.mark.parametrize("solver", [name for name in SOLVERS if SOLVERS[name].affine])
def test_a_result_predicts_as_its_file_does(tmp_path, solver):
    options = {"epochs": 2} if solver == "sgd" else {}
    result = solved(solver=value_of(solver, {"l2": [0.01, 0.1], **options}))
    probe.save_weights(result, tmp_path / "p.safetensors")
    mine = result.predict(PROBLEM.test)
    theirs = probe.predict(tmp_path / "p.safetensors", PROBLEM.test)
    assert (mine.classes == theirs.classes).mean() > 0.999  # float32 rounding may break ties
    assert mine.table["accuracy"].tolist() == result.table["accuracy"].tolist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_predictions_are_saved(file, tmp_path, suffix):
    predicted = probe.predict(file, PROBLEM.test)
    path = tmp_path / f"predictions{suffix}"
    predicted.save(path)
    if suffix == ".npz":
        with np.load(path) as held:
            assert (held["classes"] == predicted.classes).all()
            assert (held["labels"] == PROBLEM.y_test).all()
    else:
        table = (pd.read_csv if suffix == ".csv" else pd.read_parquet)(path)
        assert list(table) == ["row", "label", *(f"probe_{row}" for row in range(6))]
        assert (table["probe_5"] == predicted.classes[:, 5]).all()
        assert (table["label"] == PROBLEM.y_test).all()
    with pytest.raises(UsageError, match=r"ends in none of \.csv, \.parquet, \.npz"):
        predicted.save(tmp_path / "predictions.txt")


def test_features_of_another_source_are_refused(file):
    assert probe.predict(file, PROBLEM.test, source={"backbone": "resnet50", "more": "x"})
    with pytest.raises(DataError, match="of backbone resnet50, and these are of backbone vit"):
        probe.predict(file, PROBLEM.test, source={"backbone": "vit"})
    with pytest.raises(DataError, match="for 30 features, and these rows have 29"):
        probe.predict(file, (PROBLEM.x_test[:, :29], PROBLEM.y_test))


def test_labels_of_other_classes_say_nothing(file):
    y = PROBLEM.y_test + 5
    named = probe.predict(file, (PROBLEM.x_test, y), classes=["x"] * 9)
    assert named.table["accuracy"].isna().all()
    assert (named.classes == probe.predict(file, PROBLEM.test, classes=list("abcd")).classes).all()
    with pytest.raises(DataError, match="row 0 of these rows has label"):
        probe.predict(file, (PROBLEM.x_test, y))


def test_rows_that_cannot_be_predicted_for(file):
    x = PROBLEM.x_test.copy()
    x[7, 3] = np.nan
    with pytest.raises(DataError, match="row 7 of these rows has nan as feature 3"):
        probe.predict(file, (x, PROBLEM.y_test))
    with pytest.raises(DataError, match="there is no row"):
        probe.predict(file, (PROBLEM.x_test[:0], PROBLEM.y_test[:0]))
    with pytest.raises(MemoryBudgetError, match="predictions of 90 rows: allow 900 B"):
        probe.predict(file, PROBLEM.test, memory=800)


@pytest.mark.parametrize("solver", ["ridge", "logistic"])
def test_logits_that_are_no_finite_numbers_predict_nothing(tmp_path, solver):
    path = tmp_path / "p.safetensors"
    small = changed(PROBLEM, lambda x: x.astype(np.float64) / 1e6)
    probe.save_weights(solved(small, solver=solver, l2=0.1), path)
    large = small.x_test.copy()
    large[7] *= 1e300 / np.abs(large[7]).max()
    large[7] *= 1e8
    with pytest.raises(
        DataError, match=r"probe \d of p.safetensors has .* logit of row 7: the fea"
    ):
        probe.predict(path, (large, PROBLEM.y_test))


def test_files_that_hold_no_probes(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(FileError, match="cannot be read: No such file"):
        probe.load_weights(path)
    path.write_bytes(b"not at all")
    with pytest.raises(FileError, match="cannot be read as safetensors"):
        probe.load_weights(path)
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(FileError, match="holds no probes of this version"):
        probe.load_weights(path)


def test_a_file_cut_short_is_refused(file):
    content = file.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(FileError, match="cannot be read"):
            probe.load_weights(file)


def test_names_and_rows_that_cannot_be(tmp_path):
    result = solved()
    with pytest.raises(UsageError, match=r"'p.bin' does not end in \.safetensors"):
        probe.save_weights(result, tmp_path / "p.bin")
    with pytest.raises(UsageError, match="there is no folder"):
        probe.save_weights(result, tmp_path / "none" / "p.safetensors")
    with pytest.raises(UsageError, match="there is no probe 6: the table has rows 0 to 5"):
        probe.save_weights(result, tmp_path / "p.safetensors", rows=[6])
    assert not any(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(file, monkeypatch):
    before = file.read_bytes()
    result = solved()
    monkeypatch.setattr(type(result), "weights", lambda self, row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        probe.save_weights(result, file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_accuracy_by_class_in_long_form():
    result = solved()
    table = per_class_table(result, list("abcd"))
    assert len(table) == 6 * 4
    weighted = table["class_accuracy"].to_numpy().reshape(6, 4) @ np.bincount(PROBLEM.y_test) / 90
    assert np.allclose(weighted, result.table["accuracy"])
    assert table["class"].tolist() == list("abcd") * 6
    assert per_class_table(result)["class"].tolist() == list("0123") * 6
    with pytest.raises(UsageError, match="2 class names given for 4 classes"):
        per_class_table(result, ["a", "b"])

"""Which test rows each probe has right: against predictions, and in the file beside the results."""

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from problems import clusters

from featstore import probe
from featstore.probe import memory, sweeps
from featstore.probe.errors import RowsWarning
from featstore.probe.results.evidence import RowScores, RowSink
from featstore.probe.results.files import as_computed, read_table, save_table
from featstore.probe.results.reading import load_rows, rows_path, table_digest

PROBLEM = clusters(150, 61, 30, 3)
WIDE = clusters(40, 61, 90, 3)
KINDS = {
    "ridge": (PROBLEM, {"solver": "ridge", "l2": [0.01, 0.1]}),
    "chosen": (PROBLEM, {"solver": "ridge", "l2": [0.01, 0.1], "select": "validation"}),
    "lda": (PROBLEM, {"solver": "lda", "l2": 0.1, "mode": ["pca", "random"]}),
    "logistic": (PROBLEM, {"solver": probe.Logistic(l2=0.3, tol=1e-3)}),
    "on a basis": (PROBLEM, {"solver": probe.Logistic(l2=0.3, tol=1e-3), "mode": "pca"}),
    "sgd": (PROBLEM, {"solver": probe.SGD(epochs=2)}),
    "dual": (WIDE, {"solver": "ridge", "l2": 0.1}),
    "every k": (PROBLEM, {"solver": "ridge", "l2": 0.1, "every_k": True, "fractions": None}),
}


def sweep(out=None, problem=PROBLEM, **arguments):
    defaults = {"fractions": [0.1, 0.5], "seeds": [1, 2, 3], "solver": "ridge", "device": "cpu"}
    return probe.sweep(problem.train, problem.test, out=out, **{**defaults, **arguments})


@pytest.mark.parametrize("rows", [5, 8, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_right_where_predictions_are(monkeypatch, kind, rows):
    monkeypatch.setattr(memory, "MAX_ROWS", (rows, rows))  # pieces that begin inside a byte
    problem, arguments = KINDS[kind]
    result = sweep(problem=problem, **arguments)
    found = result.predict(problem.test)
    assert result.correct.dtype == bool
    assert np.array_equal(result.correct, (found.classes == found.labels[:, None]).T)
    assert result.correct.mean(1) == pytest.approx(result.table["accuracy"].to_numpy(), abs=1e-12)
    assert result.by_row.kept["right"].nbytes == len(result.fitted.axes) * 8
    assert result.without_rows().correct is None


def test_pieces_of_any_length_make_the_bits():
    random = np.random.default_rng(0)
    right = random.random((4, 53)) < 0.5
    rows = RowScores.empty(np.zeros(53, np.int64), 4)
    sink, cuts = RowSink(rows), {0: [3, 53], 1: [8, 16, 53], 2: [1, 2, 40, 53], 3: [53]}
    for probe_, ends in cuts.items():
        for start, stop in zip([0, *ends], ends, strict=False):
            sink.add(np.array([probe_]), right[[probe_], start:stop])
    assert rows.of(np.arange(4)) is None  # until all have been gathered
    sink.gather()
    assert (rows.of(np.array([3, 0, 0])) == right[[3, 0, 0]]).all()


@pytest.fixture(scope="module")
def numbers():
    random = np.random.default_rng(3)
    x = random.normal(size=(400, 12)).astype(np.float32)
    y = x[:, :3] @ random.normal(size=(3, 2)) + random.normal(size=(400, 2)) + 5
    train, test = (x[:150], y[:150]), (x[150:], y[150:])
    result = probe.sweep(
        train, test, fractions=[0.3], seeds=[1, 2], solver="ridge", l2=0.1, device="cpu"
    )
    return result, test


def test_values_of_numbers_have_r2_as_mean_and_its_derivatives_by_row(numbers):
    result, (x, y) = numbers
    values = result.correct
    assert values.dtype == np.float32
    means = values.mean(1, dtype=np.float64)
    assert means == pytest.approx(result.table["r2"].to_numpy(), abs=1e-6)
    row = 1
    off = result.weights(row).logits(x.astype(np.float64)) - y

    def r2(times):
        mean = np.average(y, axis=0, weights=times)
        errors, spread = (np.average(each**2, axis=0, weights=times) for each in (off, y - mean))
        return (1 - errors / spread).mean()

    for number in (0, 7, 100):
        more, less = np.ones((2, len(y)))
        more[number], less[number] = 1 + 1e-4, 1 - 1e-4
        influence = len(y) * (r2(more) - r2(less)) / 2e-4
        assert values[row, number] - values[row].mean() == pytest.approx(influence, rel=1e-3)


def test_values_of_numbers_vary_as_r2_does_over_drawn_rows(numbers):
    result, (x, y) = numbers
    random, drawn = np.random.default_rng(0), []
    off = result.weights(0).logits(x.astype(np.float64)) - y
    for _ in range(2000):
        rows = random.integers(len(y), size=len(y))
        spread = ((y[rows] - y[rows].mean(0)) ** 2).mean(0)
        drawn.append((1 - (off[rows] ** 2).mean(0) / spread).mean())
    error = result.correct[0].std() / np.sqrt(len(y))
    assert error == pytest.approx(np.std(drawn), rel=0.1)


def test_what_takes_too_much_is_not_kept_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "SHARE", 1 << 40)
    with pytest.warns(RowsWarning, match=r"61 test rows says of 7 probes .* seeds alone; allow"):
        result = sweep(tmp_path / "r.csv")
    assert result.correct is None
    with pytest.warns(RowsWarning, match="is not kept, since it takes 56 B"):
        again = result.score(PROBLEM.test, row_bytes=55)
    assert again.table["accuracy"].tolist() == result.table["accuracy"].tolist()
    assert result.score(PROBLEM.test, row_bytes=56).correct is not None
    assert not rows_path(tmp_path / "r.csv").exists()


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_they_are_read_back_from_beside_the_results(tmp_path, suffix):
    out = tmp_path / f"r{suffix}"
    result = sweep(out, l2=[0.01, 0.1], mode=["first", "random"])
    rows, probes = load_rows(out, read_table(out), "accuracy")
    assert (rows.of(probes) == result.correct).all()
    assert rows.labels.tolist() == PROBLEM.test[1].tolist()
    sweep(tmp_path / "other.csv", l2=0.3)
    other = sweep(l2=0.3)
    other.save(out)
    rows, probes = load_rows(out, read_table(out), "accuracy")
    assert (rows.of(probes) == other.correct).all()
    other.without_rows().save(out)
    assert not rows_path(out).exists()
    assert load_rows(out, read_table(out), "accuracy") is None


def test_numbers_are_read_back_too(tmp_path, numbers):
    result, _ = numbers
    result.save(tmp_path / "r.csv")
    rows, probes = load_rows(tmp_path / "r.csv", read_table(tmp_path / "r.csv"), "r2")
    assert (rows.of(probes) == result.correct).all()
    table = read_table(tmp_path / "r.csv")
    with pytest.warns(RowsWarning, match="its r2 of row 0 is"):
        assert load_rows(tmp_path / "r.csv", table.assign(r2=table["r2"] - 0.01), "r2") is None


def test_a_foreign_stale_or_damaged_file_is_refused(tmp_path):
    out = tmp_path / "r.csv"
    sweep(out, l2=0.1)
    table, whole = read_table(out), rows_path(out).read_bytes()

    def refused(message, table=table):
        with pytest.warns(RowsWarning, match=message):
            assert load_rows(out, table, "accuracy") is None

    assert load_rows(out, table, "accuracy") is not None
    refused("of another sweep or other rows", table.iloc[:-1])
    refused("of another sweep", table.assign(options="other data"))
    refused(
        r"its accuracy of row 1 is .*, and the table's 0.1",
        as_computed(table).assign(
            accuracy=table["accuracy"].where(table.index != 1, 0.1).astype(float)
        ),
    )
    sweep(tmp_path / "other.csv", l2=0.2)
    shutil.copy(rows_path(tmp_path / "other.csv"), rows_path(out))
    refused("of another sweep")
    for place in (10, len(whole) // 2, len(whole) - 40):
        rows_path(out).write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RowsWarning)
            found = load_rows(out, table, "accuracy")
        if found is not None:  # a byte that says nothing, as of a date
            assert np.array_equal(found[0].kept["right"], sweep(l2=0.1).by_row.kept["right"])
    rows_path(out).write_bytes(whole[: len(whole) // 2])
    refused("is not used")
    rows_path(out).write_text("nothing")
    refused("is not used")


def test_a_chosen_penalty_does_not_count_and_a_given_one_does():
    table = sweep(l2=[0.01, 0.1], select="loo").to_pandas()
    assert table_digest(table) == table_digest(table.assign(l2=np.nan))
    given = sweep(l2=0.1).to_pandas()
    assert table_digest(given) != table_digest(given.assign(l2=0.2))


def test_results_without_the_file_are_resumed_over_seeds_alone(tmp_path):
    out = tmp_path / "r.csv"
    table = sweep(out, l2=0.1).to_pandas()
    rows_path(out).unlink()
    with pytest.warns(RowsWarning, match="no r.csv.rows.npz beside it"):
        resumed = sweep(out, l2=0.1, resume=True)
    assert resumed.correct is None
    pd.testing.assert_frame_equal(resumed.table, table)
    save_table(table.assign(status="not run"), out)
    assert sweep(out, l2=0.2).correct is not None


def test_predictions_on_other_rows_say_what_no_feature_reaches_there():
    result = sweep(l2=0.1)
    x, y = PROBLEM.test
    some = np.flatnonzero(y == y[0])[:5].tolist() + np.flatnonzero(y != y[0])[:2].tolist()
    found = result.predict((x[some], y[some]))
    commonest = int(np.argmax(np.bincount(PROBLEM.train[1])))
    assert set(found.table["majority"]) == {(y[some] == commonest).mean()}
    assert set(found.table["chance"]) == {1 / 3}
    assert np.array_equal(found.correct.mean(1), found.table["accuracy"].to_numpy())


def test_what_no_feature_reaches_stands_in_the_table():
    table = sweep(l2=0.1).table
    commonest = int(np.argmax(np.bincount(PROBLEM.train[1])))
    assert set(table["chance"]) == {1 / 3}
    assert set(table["majority"]) == {(PROBLEM.test[1] == commonest).mean()}
    # so it does beside every score of classes
    assert set(sweep(l2=0.1, metrics=["nll"]).table["chance"]) == {1 / 3}

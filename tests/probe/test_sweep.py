import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from problems import PROBLEMS, clusters

from featstore import probe
from featstore.probe import ArrayBlocks
from featstore.probe.errors import DataError, MemoryBudgetError, UsageError
from featstore.probe.rows import RowBlocks
from featstore.probe.solvers.registry import SOLVERS, Solver

COLUMNS = [
    "store",
    "tap",
    "mode",
    "solver",
    "l2",
    "l2_choice",
    "seed",
    "fraction",
    "k",
    "n_train",
    "n_test",
    "chance",
    "majority",
    "accuracy",
    "status",
    "options",
]


def tall():
    return PROBLEMS["tall"]()


def sweep(problem=None, **arguments):
    problem = problem or tall()
    defaults = {"fractions": [0.1, 0.5], "seeds": [1, 2], "solver": "ridge", "device": "cpu"}
    defaults["l2"] = 1e-3
    return probe.sweep(problem.train, problem.test, **{**defaults, **arguments})


def test_the_table_is_in_long_form():
    table = sweep(store="digits", tap="penultimate", l2=[0.1, 1.0]).to_pandas()
    assert list(table.columns) == COLUMNS
    assert len(table) == 2 * 2 * 3
    assert table["seed"].tolist() == [1] * 6 + [2] * 6
    assert table["l2"].tolist() == [0.1, 0.1, 0.1, 1.0, 1.0, 1.0] * 2
    assert table["fraction"].tolist() == [0.1, 0.5, 1.0] * 4
    assert table["k"].tolist() == [4, 20, 40] * 4
    assert set(table["n_train"]) == {900}
    assert set(table["n_test"]) == {300}
    assert set(table["store"]) == {"digits"}
    assert table["accuracy"].between(0, 1).all()


def test_the_whole_layer_is_the_same_for_every_seed_and_solved_once():
    result = sweep(fractions=[0.1, 1.0], seeds=[1, 2, 3])
    whole = result.table["fraction"] == 1
    assert whole.sum() == 3
    assert len(set(result.probes[whole])) == 1
    assert len(result.fitted.axes) == 3 + 1
    assert result.table["accuracy"][whole].nunique() == 1


def test_accuracies_are_those_of_the_weights():
    problem = tall()
    result = sweep(problem)
    for row, accuracy in enumerate(result.table["accuracy"]):
        predicted = result.weights(row).logits(problem.x_test).argmax(1)
        assert accuracy == (predicted == problem.y_test).mean()
    per_class = result.per_class()
    assert per_class.shape == (len(result), 5)
    assert np.allclose(per_class @ np.bincount(problem.y_test) / 300, result.table["accuracy"])


def test_only_the_whole_layer():
    assert sweep(fractions=[1]).table["k"].tolist() == [40, 40]


def test_the_first_features_know_no_seed():
    result = sweep(mode="first")
    assert result.table["seed"].isna().all()
    assert result.table["k"].tolist() == [4, 20, 40]
    assert result.weights(0).features.tolist() == [0, 1, 2, 3]


def test_backends_agree():
    tables = [sweep(backend=backend).table for backend in ("torch", "numpy")]
    pd.testing.assert_frame_equal(*tables)


def test_blocks_and_arrays_give_the_same():
    problem = tall()
    train, test = (ArrayBlocks(*rows, 5, block_rows=37) for rows in (problem.train, problem.test))
    assert isinstance(train, RowBlocks)
    blocks = probe.sweep(train, test, fractions=[0.1, 0.5], seeds=[1, 2], solver="ridge", l2=1e-3)
    pd.testing.assert_frame_equal(blocks.table, sweep(problem, solver=blocks.solver).table)


def test_arrays_may_be_mapped_from_files(tmp_path):
    problem = tall()
    for name in ("x", "x_test"):
        np.save(tmp_path / f"{name}.npy", getattr(problem, name))
    x, x_test = (np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in ("x", "x_test"))
    result = probe.sweep(
        (x, problem.y),
        (x_test, problem.y_test),
        fractions=[0.5],
        solver="ridge",
        device="cpu",
        l2=1e-3,
    )
    assert (
        result.table["accuracy"].tolist()
        == sweep(problem, fractions=[0.5], seeds=[1]).table["accuracy"].tolist()
    )


def test_fit_then_score_on_other_rows():
    problem = tall()
    chains = [probe.random_chain(40, [0.5], 1)]
    fitted = probe.fit(problem.train, chains, solver="ridge", l2=1e-3)
    assert "accuracy" not in fitted.table
    first = fitted.score(problem.test)
    second = first.score((problem.x_test[:50], problem.y_test[:50]))
    assert list(second.table.columns) == COLUMNS
    assert second.table["n_test"].tolist() == [50]
    assert first.table["n_test"].tolist() == [300]
    with pytest.raises(UsageError, match="score"):
        fitted.per_class()


def test_declared_classes_without_rows_are_allowed():
    problem = tall()
    train, test = (ArrayBlocks(*rows, 9) for rows in (problem.train, problem.test))
    wide = probe.sweep(train, test, fractions=[0.5], solver="ridge", device="cpu", l2=1e-3)
    narrow = sweep(problem, fractions=[0.5], seeds=[1])
    assert wide.table["accuracy"].tolist() == narrow.table["accuracy"].tolist()
    assert np.isnan(wide.per_class()[:, 5:]).all()


def test_moments_are_kept_between_sweeps(tmp_path):
    problem = tall()
    train = ArrayBlocks(*problem.train, fingerprint="tall")
    told = []
    for _ in range(2):
        probe.sweep(
            train,
            problem.test,
            fractions=[0.5],
            solver="ridge",
            moments_cache=tmp_path,
            device="cpu",
            progress=lambda stage, done, total, **facts: told.append(facts),
        )
    assert {"cached": True} in told


class TestSaving:
    @pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
    def test_files_hold_the_table(self, tmp_path, suffix):
        result = sweep()
        path = tmp_path / f"result{suffix}"
        result.save(path)
        read = {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}[suffix]
        table = read(path)
        assert list(table.columns) == COLUMNS
        assert table["accuracy"].tolist() == pytest.approx(result.table["accuracy"].tolist())
        assert table["seed"].tolist() == result.table["seed"].tolist()
        if suffix == ".json":
            assert json.loads(path.read_text())[0]["fraction"] == 0.1

    @pytest.mark.parametrize("name", ["result", "result.txt", "result.csv.gz"])
    def test_other_names_are_refused(self, tmp_path, name):
        with pytest.raises(UsageError, match=r"ends in none of \.csv, \.json, \.parquet"):
            sweep(fractions=[0.5]).save(tmp_path / name)
        assert not any(tmp_path.iterdir())

    def test_a_folder_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(UsageError, match="there is no folder"):
            sweep(fractions=[0.5]).save(tmp_path / "none" / "result.csv")

    def test_a_write_that_fails_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "result.csv"
        path.write_text("old")

        def full(self, target, **_):
            target.write_text("half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(pd.DataFrame, "to_csv", full)
        with pytest.raises(OSError, match="No space"):
            sweep(fractions=[0.5]).save(path)
        assert [file.name for file in tmp_path.iterdir()] == ["result.csv"]
        assert path.read_text() == "old"

    def test_a_notebook_shows_the_table(self):
        assert "<table" in sweep(fractions=[0.5])._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fractions": [0.0]}, r"fraction 0.0 is outside \(0, 1\]"),
        ({"fractions": [0.1, 1.5]}, r"fraction 1.5 is outside \(0, 1\]"),
        ({"fractions": [0.1, 0.1]}, "fraction 0.1 is given twice"),
        ({"fractions": []}, "no fraction given"),
        ({"fractions": [0.001]}, "fraction 0.001 of 40 features is no feature at all.* 0.025$"),
        ({"seeds": []}, "no seed given"),
        ({"seeds": [1, 1]}, "seed 1 is given twice"),
        ({"seeds": [0.5]}, "seed 0.5 is not an integer"),
        ({"mode": "best"}, "no mode is called 'best'"),
        ({"solver": "magic"}, "no solver is called 'magic': there are ridge"),
        ({"metrics": ["luck"]}, "no metric is called 'luck'"),
        ({"l2": -1}, "l2 is -1"),
        ({"l2": []}, "no penalty given"),
        ({"memory": "much"}, "memory 'much' is not a size"),
        ({"device": "tpu"}, "no device is called 'tpu'"),
        ({"backend": "jax"}, "no backend is called 'jax'"),
        ({"backend": "numpy", "device": "cuda"}, "numpy computes on the CPU"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(UsageError, match=message):
        sweep(**arguments)


def test_arguments_that_there_are_not():
    train, test = PROBLEMS["tall"]().train, PROBLEMS["tall"]().test
    with pytest.raises(TypeError, match="'bogus'"):
        probe.sweep(train, test, fractions=[0.5], solver="ridge", bogus=3)
    with pytest.raises(TypeError, match=r"'fraction'.* fractions"):
        probe.sweep(train, test, fraction=[0.5], solver="ridge")


def test_arguments_are_checked_before_any_feature_is_read():
    class Unreadable(ArrayBlocks):
        def __iter__(self):
            raise AssertionError("features were read")

    problem = tall()
    for arguments in ({"l2": -1}, {"memory": "x"}, {"device": "tpu"}, {"metrics": ["luck"]}):
        with pytest.raises(UsageError):
            probe.sweep(
                Unreadable(*problem.train),
                Unreadable(*problem.test),
                fractions=[0.5],
                solver="ridge",
                **arguments,
            )


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="torch sees no CUDA device: use cpu or auto"):
        sweep(device="cuda")


def test_cupy_that_is_not_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install cupy-cuda13x"):
        sweep(backend="cupy", device="auto")


def arrays(problem, **changes):
    names = ("x", "y", "x_test", "y_test")
    x, y, x_test, y_test = (changes.get(name, getattr(problem, name)) for name in names)
    return (x, y), (x_test, y_test)


def with_value(x, row, column, value):
    x = x.copy()
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"x_test": with_value(p.x_test, 123, 4, np.nan)}, "row 123 of test has nan as"),
        (lambda p: {"x": with_value(p.x, 899, 0, np.inf)}, "row 899 of train has inf as feature 0"),
        (lambda p: {"y": with_value(p.y[:, None], 7, 0, -3)[:, 0]}, "row 7 of train has label -3"),
        (lambda p: {"y_test": np.full(300, 5)}, "class 5 occurs in test but not in train"),
        (lambda p: {"y": p.y.astype(float)}, "labels of train are 1 target.* floats are targets"),
        (lambda p: {"y": p.y[:-1]}, "900 rows of features but 899 labels"),
        (lambda p: {"y": p.y * 0, "y_test": p.y_test * 0}, "every train row is of class 0"),
        (lambda p: {"x": p.x[:1], "y": p.y[:1]}, "train has 1 row"),
        (lambda p: {"x": p.x[:0], "y": p.y[:0]}, "train has 0 row"),
        (lambda p: {"x_test": p.x_test[:0], "y_test": p.y_test[:0]}, "test is empty"),
        (lambda p: {"x_test": p.x_test[:, :9]}, "train has 40 features and test 9"),
        (lambda p: {"x": p.x[0]}, r"features have shape \(40,\)"),
        (lambda p: {"x": p.x[:, :0], "x_test": p.x_test[:, :0]}, "train has no features"),
    ],
)
def test_rows_that_cannot_be_probed(change, message):
    problem = tall()
    train, test = arrays(problem, **change(problem))
    with pytest.raises(DataError, match=message):
        probe.sweep(train, test, fractions=[0.5], solver="ridge", device="cpu")


def test_what_is_neither_blocks_nor_arrays():
    with pytest.raises(UsageError, match="list given for rows"):
        probe.sweep([1, 2], [3], fractions=[0.5])


def test_memory_that_cannot_do():
    with pytest.raises(MemoryBudgetError, match=r"10\.0 KiB of memory is too little"):
        sweep(memory="10KiB")


def test_a_solver_that_needs_a_positive_penalty(monkeypatch):
    entry = Solver(SOLVERS["ridge"].fit, zero_penalty=False)
    monkeypatch.setitem(SOLVERS, "strict", entry)
    with pytest.raises(UsageError, match=r"l2 is 0\.0: a positive number"):
        sweep(solver="strict", l2=0)


def test_a_seeded_solver_solves_the_whole_layer_for_every_seed(monkeypatch):
    monkeypatch.setitem(SOLVERS, "seeded", Solver(SOLVERS["ridge"].fit, seeded=True))
    result = sweep(solver="seeded", fractions=[0.5])
    assert result.probes.tolist() == [0, 1, 2, 3]
    assert result.table["fraction"].tolist() == [0.5, 1.0, 0.5, 1.0]
    assert result.table["seed"].tolist() == [1, 1, 2, 2]


def test_test_rows_play_no_part_in_the_fit():
    problem = tall()
    other = clusters(900, 300, 40, 5, seed=1)
    first = sweep(problem)
    second = probe.sweep(
        problem.train,
        other.test,
        fractions=[0.1, 0.5],
        seeds=[1, 2],
        solver="ridge",
        device="cpu",
        l2=1e-3,
    )
    for row in range(len(first)):
        assert (first.weights(row).coef == second.weights(row).coef).all()


def test_importing_probe_loads_no_array_library():
    code = (
        "import sys; from featstore import probe; probe.Ridge(l2=0.1); "
        "print({'torch', 'pandas', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
    assert {"sweep", "fit"} <= set(dir(probe))
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = probe.nothing


def test_a_class_that_train_lacks_is_called_by_its_name():
    class Named(ArrayBlocks):
        classes = ("Cat", "cat", "dog", "3")

    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)), np.arange(40) % 2
    train, only_dogs = Named(x, y + 1, 4), Named(x, y * 0 + 2, 4)
    said = r"class 'Cat' \(0\) occurs in test but not in train \(train has 'cat'\)"
    with pytest.raises(DataError, match=said):
        probe.sweep(train, Named(x, y, 4), fractions=[0.5])
    with pytest.raises(DataError, match="class 3 occurs in test but not in train: add"):
        probe.sweep(train, Named(x, y + 2, 4), fractions=[0.5])
    with pytest.raises(DataError, match=r"every train row is of class 'dog' \(2\)"):
        probe.sweep(only_dogs, train, fractions=[0.5])


def test_labels_with_gaps_score_as_without():
    problem, numbers = tall(), np.array([0, 5, 99])
    near = (problem.x, problem.y % 3), (problem.x_test, problem.y_test % 3)
    far = [(x, numbers[y]) for x, y in near]
    options = {
        "fractions": [0.5],
        "seeds": [1],
        "solver": "lda",
        "l2": 0.1,
        "metrics": ["accuracy", "top5", "nll", "mean_per_class"],
    }
    one, other = (probe.sweep(*pair, **options).to_pandas() for pair in (near, far))
    assert one["top5"].isna().all()
    assert other["top5"].isna().all()
    for name in ("accuracy", "nll", "mean_per_class", "chance", "majority"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-6)

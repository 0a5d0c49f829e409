"""The commands end to end on small real stores, mostly in this process."""

import json
import os
import re
import subprocess
import sys
from inspect import signature

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import N_CLASSES, N_TEST, N_TRAIN, clusters, fill, spec_of_clusters

import featstore
from featstore import probe
from featstore.cli import main
from featstore.probe.results.files import save_table
from featstore.probe.results.reading import rows_path

FRACTIONS = ["--fractions", "0.05,0.5", "--seeds", "3"]
COLUMNS = [
    "store", "tap", "mode", "solver", "l2", "seed", "fraction", "k", "n_train", "n_test",
    "accuracy", "status",
]  # fmt: skip
HEAVY = {"torch", "torchvision", "timm", "numpy", "pandas", "zarr", "h5py", "matplotlib"}


def run(*arguments, status: int = 0):
    """Run a command in this process and expect an exit status."""
    ran = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert ran.exit_code == status, ran.output
    return ran


def process(*arguments, **options) -> subprocess.CompletedProcess:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "featstore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# --- help -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", main.commands)
def test_every_command_has_help_with_an_example_within_80_columns(name):
    text = run(name, "--help").output
    assert "Example:" in text
    assert f"featstore {name}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_help_of_many_options_is_in_sections():
    text = run("probe", "--help").output
    heads = [line for line in text.splitlines() if line.endswith(":") and not line[0].isspace()]
    assert heads[:2] == ["Options:", "Options of --solver logistic:"]
    assert heads[-3:] == ["How it is computed:", "What is written:", "For every command:"]
    assert "  --tol FLOAT         Gradient norm to stop at." in text
    assert "[default: random] [default" not in " ".join(text.split())


def test_the_commands_are_listed_by_family_and_each_once():
    text = run("--help").output
    assert text.index("Get features:") < text.index("Ask what a task needs:")
    assert text.index("Look at results:") < text.index("Keep stores:")
    listed = [line.split()[0] for line in text.splitlines() if re.match(r"  [a-z]+  ", line)]
    assert sorted(listed) == sorted(main.commands)


def test_help_loads_no_library():
    code = f"import sys, cli; print(sorted({HEAVY!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_python_m_cli_is_featstore():
    ran = process("--help")
    assert ran.returncode == 0
    assert ran.stdout.startswith("Usage: featstore [OPTIONS] COMMAND")


# --- probe ----------------------------------------------------------------------------------


def test_probe_prints_what_the_library_finds(any_store):
    text = run("probe", any_store.path, *FRACTIONS).stdout
    taps = any_store.tap("train", "penultimate"), any_store.tap("test", "penultimate")
    result = probe.sweep(*taps, fractions=(0.05, 0.5), seeds=(1, 2, 3))
    table, correct = result.to_pandas(), result.correct
    for row in probe.summary(table, correct).itertuples():
        line = next(line for line in text.splitlines() if f" {row.k} " in line)
        ends = f"[{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]"
        assert f"{row.accuracy:.3f} {ends}" in line
        ends = f" [{100 * row.ratio_low:.1f}, {100 * row.ratio_high:.1f}]" if row.k < 64 else ""
        assert f"{100 * row.ratio:.1f} %{ends}" in line
        assert line.split()[-1] == ("3" if row.k < 64 else "1")  # the full layer is one probe
    assert "[low, high]: 95 % intervals over seeds and test rows" in text
    assert f"without features: chance 0.250, commonest class 0.250 of {N_TEST} test rows" in text
    assert " ".join(probe.sentence(table, correct=correct).split()) in " ".join(text.split())
    assert f"(3 seeds, {N_TEST} test rows; 95 % interval)" in " ".join(text.split())


@pytest.mark.parametrize(
    ("suffix", "read"),
    [(".csv", pd.read_csv), (".json", pd.read_json), (".parquet", pd.read_parquet)],
)
def test_probe_saves_one_row_a_probe(tiny_store, tmp_path, suffix, read):
    out = tmp_path / f"results{suffix}"
    ran = run("probe", tiny_store.path, *FRACTIONS, "--l2", "0.001,0.1", "--out", out)
    assert f"wrote {out}" in ran.stderr
    table = read(out)
    assert [name for name in table.columns if name in COLUMNS] == COLUMNS
    assert len(table) == 2 * 3 * 3  # penalties, seeds, fractions with the full layer
    assert set(table["store"]) == {str(tiny_store.path)}
    assert (table["n_train"].iloc[0], table["n_test"].iloc[0]) == (N_TRAIN, N_TEST)
    assert table["accuracy"].between(0, 1).all()
    assert sorted(table["k"].unique()) == [3, 32, 64]


def test_seeds_3_and_7_are_those_two(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    run("probe", tiny_store.path, "--fractions", "0.1", "--seeds", "3,7", "--out", out)
    assert set(pd.read_csv(out)["seed"]) == {3, 7}


def test_defaults_and_solvers_are_the_library_s_own():
    from featstore.probe.solvers import declared
    from featstore.probe.solvers.registry import SOLVERS

    for command in ("probe", "compare"):
        options = {param.name: param for param in main.commands[command].params}
        assert all(name in options["solver"].help for name in SOLVERS)
        assert options["solver"].default == signature(probe.sweep).parameters["solver"].default
        for each in declared():
            assert f"[default: {each.default}]" in options[each.name].help or each.default in (
                "True", "False",
            )  # fmt: skip
            assert not options[each.name].expose_value


def test_neighbours_vote_in_probe_compare_and_report(tiny_store, tmp_path):
    out, made = tmp_path / "r.csv", tmp_path / "p.csv"
    ran = run("probe", tiny_store.path, *FRACTIONS, "--solver", "knn", "--k", "auto", "--weights",
              "exp", "--out", out, "--save-predictions", made)  # fmt: skip
    assert "knn, k chosen by leave-one-out" in ran.stdout
    table = pd.read_csv(out)
    assert (table["l2"] == table["neighbours"]).all()
    ran = run("compare", out, tiny_store.path, *FRACTIONS, "--solver", "knn", "--k", "1")
    assert "k by leave-one-out" in ran.stdout
    assert "k = 1" in ran.stdout
    run("report", out, "--out", tmp_path / "page.html")
    assert "knn" in (tmp_path / "page.html").read_text()
    ran = run("probe", tiny_store.path, *FRACTIONS, "--solver", "knn", "--save-weights",
              tmp_path / "w.safetensors", status=2)  # fmt: skip
    assert "solver knn has no weights" in ran.stderr


def test_an_option_of_another_solver_is_refused(tiny_store):
    ran = run("probe", tiny_store.path, *FRACTIONS, "--epochs", "3", status=2)
    assert "solver logistic has no option 'epochs'" in ran.stderr


def test_solvers_take_their_options_and_metrics_become_columns(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    run("probe", tiny_store.path, *FRACTIONS, "--solver", "sgd", "--epochs", "2", "--lr", "0.01",
        "--metrics", "accuracy,nll", "--out", out)  # fmt: skip
    table = pd.read_csv(out)
    assert set(table["solver"]) == {"sgd"}
    assert table["nll"].notna().all()
    assert "top5" not in table


@pytest.mark.parametrize(
    "how",
    [
        ["--l2", "auto"],
        ["--solver", "ridge", "--l2", "0.01,0.1,1", "--select", "loo"],
    ],
)
def test_each_probe_chooses_its_penalty_on_train_rows(tiny_store, tmp_path, how):
    out = tmp_path / "r.csv"
    ran = run(
        "probe", tiny_store.path, *FRACTIONS, *how, "--out", out, "--plot", tmp_path / "a.svg"
    )
    table = pd.read_csv(out)
    assert len(table) == 9
    assert set(table["l2_choice"]) == {"validation" if "auto" in how else "loo"}
    assert "l2 by " in ran.stdout


def test_resume_solves_only_what_the_file_does_not_have(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    command = ["probe", tiny_store.path, *FRACTIONS, "--out", out]
    run(*command)
    whole = out.read_bytes()
    table = pd.read_csv(out)
    table.loc[table["seed"] == 2, ["status", "accuracy"]] = ["not run", None]
    table.to_csv(out, index=False)
    assert "was changed since it was written" in run(*command, "--resume", status=2).stderr
    save_table(table, out, digest=True)
    run(*command, "--resume")
    assert out.read_bytes() == whole
    ran = run("probe", tiny_store.path, "--fractions", "0.1", "--seeds", "2", "--out", out,
              "--resume", status=2)  # fmt: skip
    assert ran.stderr.splitlines()[-1].startswith("Error: ")
    assert out.read_bytes() == whole


def test_what_is_read_is_said_before_anything_that_takes_time_is_imported(tiny_store):
    script = (
        "import builtins, sys, click\n"
        "from featstore.cli import main\n"
        "echo = click.echo\n"
        "def told(text=None, **to):\n"
        "    heavy = [name for name in ('torch', 'pandas', 'zarr') if name in sys.modules]\n"
        "    echo(f'{text} {heavy}', **to)\n"
        "click.echo = told\n"
        f"main(['probe', {str(tiny_store.path)!r}, '--fractions', '0.5', '--seeds', '1'])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    lines = ran.stderr.splitlines()
    assert lines[0] == f"reading {tiny_store.path} []"
    assert lines[1].startswith("2 probes to solve, about ")


@pytest.fixture
def numbers_store(tmp_path):
    """A store whose labels are numbers."""
    for split, n in (("train", 60), ("test", 30)):
        x = np.random.default_rng(n).normal(size=(n, 6)).astype(np.float32)
        np.save(tmp_path / f"{split}X.npy", x)
        np.save(tmp_path / f"{split}y.npy", x[:, 0] + 0.1 * x[:, 1])
    flags = ["--train-features", "--train-labels", "--test-features", "--test-labels"]
    files = [tmp_path / f"{name}.npy" for name in ("trainX", "trainy", "testX", "testy")]
    given = [part for pair in zip(flags, files, strict=True) for part in pair]
    run("import", *given, "--targets", "age", "--out", tmp_path / "n.zarr")
    return tmp_path / "n.zarr"


@pytest.mark.parametrize("option", ["--save-per-class", "--save-predictions"])
def test_what_is_for_classes_alone_is_refused_before_the_solve(
    numbers_store, tmp_path, monkeypatch, option
):
    import featstore.probe.sweeps

    monkeypatch.setattr(featstore.probe.sweeps, "fitted", pytest.fail)
    ran = run("probe", numbers_store, "--fractions", "0.5", "--seeds", "1", "--solver", "ridge",
              option, tmp_path / "p.csv", status=2)  # fmt: skip
    assert f"are numbers, and {option} is for classes alone: leave it out" in ran.stderr


def test_numbers_are_told_by_r2_whatever_the_metrics(numbers_store):
    ran = run("probe", numbers_store, "--fractions", "0.5", "--seeds", "2", "--solver", "ridge",
              "--metrics", "mse")  # fmt: skip
    said = " ".join(ran.stdout.split())
    assert "of the full layer's R²" in said
    assert "(2 seeds, 30 test rows; 95 % interval)" in said


def test_other_metrics_come_beside_the_accuracy_that_the_table_is_of(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    ran = run("probe", tiny_store.path, *FRACTIONS, "--metrics", "nll", "--out", out)
    assert "5 % of the features keep" in ran.stdout
    assert pd.read_csv(out)[["accuracy", "nll"]].notna().all().all()


def test_a_picture_without_matplotlib_is_refused_before_anything_is_read(monkeypatch, tmp_path):
    from featstore.cli import common

    monkeypatch.setattr(common.importlib.util, "find_spec", lambda name: None)
    ran = run("probe", "nowhere.zarr", *FRACTIONS, "--plot", tmp_path / "a.png", status=2)
    said = 'needs matplotlib, which is not installed: pip install "featstore-probe[report]"'
    assert said in " ".join(ran.stderr.split())


def test_what_lies_beside_the_results_gives_redundancy_its_test_rows(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    run("probe", tiny_store.path, *FRACTIONS, "--solver", "ridge", "--out", out)
    ran = run("redundancy", out, "--delta", "0.95")
    assert "interval over seeds and test rows" in " ".join(ran.stdout.split())
    rows_path(out).unlink()
    ran = run("redundancy", out, "--delta", "0.95")
    assert "interval over seeds 0" in " ".join(ran.stdout.split())


def test_probe_draws(tiny_store, tmp_path):
    plot = tmp_path / "a.svg"
    run("probe", tiny_store.path, *FRACTIONS, "--plot", plot)
    assert "features kept" in plot.read_text()


def test_probe_takes_the_newest_complete_store_and_says_so(store_root):
    fill(featstore.create(store_root / "old.zarr", spec_of_clusters()))
    fill(featstore.create(store_root / "new.zarr", spec_of_clusters()))
    featstore.create(store_root / "begun.zarr", spec_of_clusters())
    ran = run("probe", *FRACTIONS)
    lines = ran.stderr.splitlines()
    assert lines[0] == "reading the newest complete store"
    assert lines[1].endswith(str(store_root / "new.zarr"))
    said = " ".join(ran.stdout.split())
    assert "the newest complete one." in said
    assert "Store: " not in run("probe", store_root / "new.zarr", *FRACTIONS).stdout


def test_probe_says_whose_store_it_takes_and_ls_tells_stores_apart(
    store_root, tmp_path, monkeypatch
):
    spec = spec_of_clusters(
        weights="sha256:0123456789abcdef", transform='timm {"input_size": [3, 96, 96]}'
    )
    fill(featstore.create(store_root / "theirs.zarr", spec))
    monkeypatch.chdir(tmp_path)
    ran = run("probe", *FRACTIONS)
    assert "the newest complete one, made in " in " ".join(ran.stdout.split())
    shown = run("ls").stdout
    for said in ("01234567", "96 px", featstore.stores()[0].provenance["created"][2:10]):
        assert said in shown


def test_quiet_leaves_the_table_alone(tiny_store):
    ran = run("probe", tiny_store.path, *FRACTIONS, "--quiet")
    assert ran.stderr == ""
    assert "test accuracy" in ran.stdout


def test_what_did_not_go_as_usual_is_said_even_when_quiet(tmp_path):
    features = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    doubled = np.hstack([features, features])
    np.save(tmp_path / "X.npy", doubled)
    np.save(tmp_path / "y.npy", np.arange(40) % 2)
    half = ["X.npy", "y.npy"]
    flags = ["--train-features", "--train-labels", "--test-features", "--test-labels"]
    files = [tmp_path / name for name in half * 2]
    given = [part for pair in zip(flags, files, strict=True) for part in pair]
    run("import", *given, "--out", tmp_path / "doubled.zarr")
    ran = run("probe", tmp_path / "doubled.zarr", "--fractions", "1", "--seeds", "1", "--l2", "0",
              "--solver", "ridge", "--quiet")  # fmt: skip
    assert ran.stderr.startswith("Warning: 1 of 1 probes have status jitter")


def test_piped_output_is_plain_and_fits_80_columns(tiny_store):
    ran = process("probe", tiny_store.path, *FRACTIONS)
    assert ran.returncode == 0, ran.stderr
    assert "\x1b" not in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_threads_that_wait_sleep_unless_one_says_otherwise():
    code = "import os, featstore.cli; print(os.environ['OMP_WAIT_POLICY'])"
    bare = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, policy in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        ran = subprocess.run(
            [sys.executable, "-c", code], env=bare | given, capture_output=True, text=True
        )
        assert ran.stdout.strip() == policy


def test_a_closed_pipe_is_no_error(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    command = (
        f"{sys.executable} -m cli probe {tiny_store.path} {' '.join(FRACTIONS)} --out {out} | true"
    )
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in ran.stderr
    assert "Error" not in ran.stderr
    assert len(pd.read_csv(out)) == 9


# --- import, ls, info, verify ---------------------------------------------------------------


@pytest.fixture
def arrays(tmp_path):
    """The options that import names, with files of four clusters behind them."""
    given = []
    for split, n_rows, seed in (("train", N_TRAIN, 1), ("test", N_TEST, 2)):
        for name, array in zip(("features", "labels"), clusters(n_rows, seed), strict=True):
            np.save(tmp_path / f"{split}-{name}.npy", array)
            given += [f"--{split}-{name}", tmp_path / f"{split}-{name}.npy"]
    return given


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_import_makes_the_store_that_probe_takes(arrays, tmp_path, format):
    out = tmp_path / "mine"
    ran = run("import", *arrays, "--out", out, "--format", format)
    assert "stored 320 rows" in ran.stderr
    store = featstore.open(out)
    assert (store.format, store.complete) == (format, True)
    features, labels = clusters(N_TRAIN, 1)
    tap = store.spec.taps[0].name
    np.testing.assert_array_equal(store.read("train", tap, 0, N_TRAIN), features)
    np.testing.assert_array_equal(store.labels("train"), labels)
    run("probe", out, *FRACTIONS)


def test_ls_lists_each_store_with_its_state(store_root):
    fill(featstore.create(store_root / "whole.zarr", spec_of_clusters()))
    fill(featstore.create(store_root / "begun.h5", spec_of_clusters(), "hdf5"), ["train"])
    ran = run("ls")
    lines = {line.split()[0]: line for line in ran.stdout.splitlines() if line.split()}
    assert "all 2" in lines["whole.zarr"]
    assert "1 of 2" in lines["begun.h5"]
    assert "320" in lines["begun.h5"]
    assert str(store_root) in ran.stderr


def test_ls_of_nothing_says_what_makes_a_store():
    ran = run("ls")
    assert ran.stdout == ""
    assert "no store under" in ran.stderr


def test_info_tells_the_whole_spec(any_store):
    text = " ".join(run("info", any_store.path).stdout.split())
    for fact in ("backbone clusters", "240 rows", "64 features", "float16", "4: a, b, c, d"):
        assert fact in text
    assert f"format {any_store.format}" in text
    assert f"{N_CLASSES}: " in text


def test_verify_finds_every_block_whole(any_store):
    assert "every committed block" in run("verify", any_store.path).stderr


def test_verify_names_each_bad_block_and_exits_with_1(tiny_store):
    chunk = tiny_store.path / "test" / "penultimate" / "c.0.0"
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    ran = run("verify", tiny_store.path, status=1)
    assert ran.stdout.startswith("test block 0, penultimate: ")
    assert len(ran.stdout.splitlines()) == 1
    assert "run the command that made it again" in ran.stderr


def test_verify_has_a_status_of_its_own_for_what_is_not_complete(tiny_store):
    record = tiny_store.path / "train" / "commits" / "c.0.0"
    whole = record.read_bytes()
    record.unlink()
    ran = run("verify", tiny_store.path, status=3)
    assert "is not complete: 1 of 2 blocks are committed and whole, and missing are 1 of train" in (
        ran.stderr
    )
    for at in (0, 50, 300, 511):
        record.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        ran = run("verify", tiny_store.path, status=1)
        said = "train block 0, commits: is neither empty nor the record of this block"
        assert said in ran.stdout
    record.write_bytes(whole)
    (tiny_store.path / "train" / "zarr.json").unlink()
    assert "train/zarr.json: is missing" in run("verify", tiny_store.path, status=1).stdout


def test_results_are_json_a_script_can_read(tiny_store, tmp_path):
    out = tmp_path / "r.json"
    run("probe", tiny_store.path, *FRACTIONS, "--out", out)
    rows = json.loads(out.read_text())
    assert rows[0]["mode"] == "random"
    assert {type(row["seed"]) for row in rows} == {int}


# --- extract, quickstart --------------------------------------------------------------------

EXTRACT = ["extract", "--model", "test_resnet", "--dataset", "digits", "--no-pretrained",
           "--image-size", "32", "--limit", "60"]  # fmt: skip


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_extract_then_probe_and_a_second_extract_has_nothing_to_do(store_root, format):
    first = run(*EXTRACT, "--format", format)
    assert "stored 120 images" in first.stderr
    (store,) = featstore.stores()
    assert store.path.parent == store_root
    assert (store.format, store.complete, store.spec.limit) == (format, True, 60)
    assert "nothing to extract" in run(*EXTRACT, "--format", format).stderr
    assert f"newest complete store: {store.path}" in run("probe", *FRACTIONS).stderr


def test_a_flipped_bit_is_mended_by_running_extract_again(tmp_path):
    out = ["--out", tmp_path / "s.zarr"]
    run(*EXTRACT, *out)
    chunk = tmp_path / "s.zarr" / "train" / "penultimate" / "c.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    run("verify", tmp_path / "s.zarr", status=1)
    assert "stored 60 images (60 were there already)" in run(*EXTRACT, *out).stderr
    assert chunk.read_bytes() == whole
    run("verify", tmp_path / "s.zarr")

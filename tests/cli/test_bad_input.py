"""Bad input at the command line: each case's message and exit status, and nothing lost by it."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import clusters, fill, spec_of_clusters

import featstore
from featstore.cli import main
from featstore.store.locks import locked

GOOD = {"--fractions": "0.1,0.5", "--seeds": "2"}


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file below `root` and its bytes."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def refuse(arguments, status: int, *messages: str):
    """Run a command that must fail on one line, without a traceback or any result."""
    ran = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert ran.exit_code == status, ran.output
    said = " ".join(ran.stderr.splitlines()[-1:])
    assert said.startswith("Error: "), ran.output
    for message in messages:
        assert message in said
    assert ran.stdout == ""
    return ran


def probe_with(store, **options):
    """The arguments of a probe command, some of them replaced."""
    given = GOOD | {f"--{name}": value for name, value in options.items()}
    return ["probe", store, *(part for pair in given.items() for part in pair)]


USAGE = [
    ({"fractions": "0.001"}, ["fraction 0.001 of 64 features is no feature", "0.01563"]),
    ({"fractions": "0,0.5"}, ["fraction 0.0 is outside (0, 1]"]),
    ({"fractions": "0.5,1.5"}, ["fraction 1.5 is outside (0, 1]"]),
    ({"fractions": "-0.1"}, ["fraction -0.1 is outside (0, 1]"]),
    ({"fractions": "nan"}, ["fraction nan is outside (0, 1]"]),
    ({"fractions": "0.5,0.1,0.5"}, ["fraction 0.5 is given twice"]),
    ({"fractions": "half"}, ["'half' is not a list such as 0.01,0.05,0.1"]),
    ({"fractions": ""}, ["'' is not a list"]),
    ({"seeds": "0"}, ["0 seeds are none", "5 is seeds 1 to 5"]),
    ({"seeds": "five"}, ["'five' is not a list such as 3,7"]),
    ({"seeds": "3,3"}, ["seed 3 is given twice"]),
    ({"solver": "svm"}, ["'svm'", "ridge"]),
    ({"tap": "layer9"}, ["no tap 'layer9'", "penultimate"]),
    ({"backend": "jax"}, ["'jax'", "'torch', 'cupy', 'numpy'"]),
    ({"device": "tpu"}, ["'tpu'", "'auto', 'cpu', 'cuda'"]),
    ({"backend": "numpy", "device": "cuda"}, ["numpy computes on the CPU"]),
    ({"l2": "-1"}, ["l2 is -1.0"]),
    ({"l2": "0.1,0.1"}, ["0.1"]),
    ({"memory": "lots"}, ["'lots' is not a size", "4GiB"]),
]


@pytest.mark.parametrize(("options", "messages"), USAGE, ids=lambda value: str(value)[:40])
def test_values_that_cannot_be_used_are_exit_status_2(tiny_store, tmp_path, options, messages):
    before = snapshot(tmp_path)
    out = tmp_path / "r.csv"
    refuse(probe_with(tiny_store.path, out=out, **options), 2, *messages)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("option", "name", "messages"),
    [
        ("out", "r.txt", ["must end in .csv or .json or .parquet"]),
        ("out", "r", ["must end in .csv"]),
        ("plot", "a.gif", ["must end in .png or .svg or .pdf"]),
        ("out", "absent/r.csv", ["there is no folder", "make it first"]),
        ("plot", "file.csv/a.png", ["there is no folder"]),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    tmp_path, monkeypatch, option, name, messages
):
    (tmp_path / "file.csv").write_text("mine")
    monkeypatch.setattr(featstore, "open", pytest.fail)
    before = snapshot(tmp_path)
    refuse(probe_with("s.zarr", **{option: tmp_path / name}), 2, *messages)
    assert snapshot(tmp_path) == before


def test_too_little_memory_names_what_would_do(tiny_store):
    refuse(
        probe_with(tiny_store.path, memory="2KiB"), 1, "2.0 KiB of memory is too little", "at least"
    )


# --- stores ---------------------------------------------------------------------------------


def test_no_store_at_all_says_what_makes_one(tmp_path):
    refuse(probe_with(tmp_path / "absent.zarr"), 1, "there is no store at", "featstore extract")
    given = [part for pair in GOOD.items() for part in pair]
    refuse(["probe", *given], 1, "featstore extract")


@pytest.mark.parametrize("command", ["info", "verify"])
def test_what_is_not_a_store_is_named(tmp_path, command):
    (tmp_path / "notes.txt").write_text("hello")
    refuse([command, tmp_path / "notes.txt"], 1, "neither a Zarr directory nor an HDF5 file")
    refuse([command, tmp_path], 1, "is not a featstore store")


def test_another_format_version_is_named(tiny_store):
    header = tiny_store.path / "zarr.json"
    metadata = json.loads(header.read_text())
    metadata["attributes"]["featstore"]["format_version"] = 99
    header.write_text(json.dumps(metadata))
    before = snapshot(tiny_store.path)
    refuse(probe_with(tiny_store.path), 1, "format version 99", "reads version 1")
    assert snapshot(tiny_store.path) == before


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_damaged_chunk_is_found_by_probe_and_writes_no_result(tiny_store, tmp_path):
    flip(tiny_store.path / "train" / "penultimate" / "c.0.0", 1000)
    out = tmp_path / "r.csv"
    out.write_text("earlier results")
    before = snapshot(tmp_path)
    refuse(
        probe_with(tiny_store.path, out=out),
        1,
        "block 0 of train/penultimate",
        "checksum",
        "verify",
    )
    assert snapshot(tmp_path) == before


def test_an_incomplete_store_is_not_probed(tmp_path):
    store = fill(featstore.create(tmp_path / "s.zarr", spec_of_clusters()), ["train"])
    refuse(probe_with(store.path), 1, "is incomplete: 0 of 1 blocks of test", "goes on")


# --- what users bring -----------------------------------------------------------------------


@pytest.fixture
def bring(tmp_path):
    """Save arrays, some of them replaced, and give the arguments that import them."""

    def save(format="zarr", **replaced):
        train, test = clusters(240, 1), clusters(80, 2)
        arrays = {
            "train-features": train[0], "train-labels": train[1],
            "test-features": test[0], "test-labels": test[1],
        }  # fmt: skip
        for name, array in replaced.items():
            arrays[name.replace("_", "-")] = array
        arguments = ["import", "--out", tmp_path / "mine.zarr", "--format", format]
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
            arguments += [f"--{name}", tmp_path / f"{name}.npy"]
        return arguments

    return save


def with_value(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


TRAIN, LABELS = clusters(240, 1)
BROUGHT = [
    ({"train_features": with_value(TRAIN, (7, 3), np.nan)}, ["row 7 of train", "not finite"]),
    ({"test_features": with_value(TRAIN[:80], (9, 0), np.inf)}, ["row 9 of test", "not finite"]),
    ({"train_labels": with_value(LABELS, 5, -1)}, ["row 5 of train", "label -1"]),
    ({"train_labels": LABELS.astype(float)}, ["float64"]),
    ({"train_labels": LABELS[:100]}, ["240", "100"]),
    ({"test_features": TRAIN[:80, :60]}, ["64", "60"]),
    ({"train_features": TRAIN.ravel()}, ["(15360,)"]),
    ({"train_features": TRAIN[:0], "train_labels": LABELS[:0]}, ["train"]),
    ({"test_features": TRAIN[:0], "test_labels": LABELS[:0]}, ["test"]),
]


@pytest.mark.parametrize(("replaced", "messages"), BROUGHT, ids=lambda value: str(value)[:24])
def test_arrays_that_make_no_store_are_named_and_leave_none(bring, tmp_path, replaced, messages):
    refuse(bring(**replaced), 1, *messages)
    assert not (tmp_path / "mine.zarr").exists()


def test_a_class_that_only_the_test_rows_have_is_named(bring, tmp_path):
    arguments = bring(train_labels=LABELS % 3)
    assert CliRunner().invoke(main, [str(part) for part in arguments]).exit_code == 0
    out = tmp_path / "r.csv"
    refuse(
        probe_with(tmp_path / "mine.zarr", out=out), 1, "class 3 occurs in test but not in train"
    )
    assert not out.exists()


def test_one_row_is_too_few(bring, tmp_path):
    arguments = bring(train_features=TRAIN[:1], train_labels=LABELS[:1])
    assert CliRunner().invoke(main, [str(part) for part in arguments]).exit_code == 0
    refuse(probe_with(tmp_path / "mine.zarr"), 1, "train has 1 row(s)", "at least 2")


def test_another_store_at_the_path_is_not_touched(bring, tiny_store, tmp_path):
    arguments = bring()
    arguments[2] = tiny_store.path
    before = snapshot(tmp_path)
    refuse(arguments, 1, "holds something else", "dataset")
    assert snapshot(tmp_path) == before


def test_a_second_writer_is_refused(bring, tmp_path):
    arguments = bring()
    with locked(tmp_path / "mine.zarr"):
        refuse(arguments, 1, "mine.zarr")
    assert CliRunner().invoke(main, [str(part) for part in arguments]).exit_code == 0


# --- models and data sets -------------------------------------------------------------------

EXTRACT = {"--model": "test_resnet", "--dataset": "digits", "--limit": "20"}


def extract_with(**options):
    given = EXTRACT | {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return ["extract", *(part for pair in given.items() for part in pair)]


EXTRACTIONS = [
    ({"model": "resnet5000"}, 2, ["timm has no model 'resnet5000'"]),
    ({"model": "torchvision:resnet5000"}, 2, ["torchvision has no classification model"]),
    ({"dataset": "cifar1000"}, 2, ["'cifar1000'"]),
    ({"splits": "train,train"}, 2, ["'train' is named twice"]),
    ({"splits": "train,middle"}, 2, ["'middle'"]),
    ({"dtype": "int8"}, 2, ["'int8'", "'float16', 'float32'"]),
    ({"format": "npz"}, 2, ["'npz'", "'zarr', 'hdf5'"]),
    ({"batch_size": "0"}, 2, ["x>=1"]),
    ({"weights": "absent.pth"}, 2, ["absent.pth"]),
]


@pytest.mark.parametrize(("options", "status", "messages"), EXTRACTIONS, ids=lambda v: str(v)[:40])
def test_what_cannot_be_extracted_is_named(store_root, options, status, messages):
    # as a list: --no-pretrained has no value
    refuse([*extract_with(**options), "--no-pretrained"], status, *messages)
    assert not store_root.exists()


def test_weights_of_another_network_are_refused_key_by_key(store_root, tmp_path):
    torch.save({"stem.weight": torch.zeros(3)}, tmp_path / "other.pth")
    refuse(extract_with(weights=tmp_path / "other.pth"), 1, "other.pth", "stem.weight")
    assert not store_root.exists()


def test_a_pickle_that_runs_code_is_not_loaded(store_root, tmp_path):
    torch.save({"model": Path("/")}, tmp_path / "evil.pth")
    refuse(extract_with(weights=tmp_path / "evil.pth"), 1, "evil.pth")
    assert not store_root.exists()


@pytest.mark.parametrize("model", ["resnet18", "torchvision:resnet18"])
def test_a_refused_download_says_what_whence_and_what_to_do(
    store_root, monkeypatch, tmp_path, model
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    refuse(
        extract_with(model=model), 1, "resnet18 could not be fetched from http", "--weights FILE"
    )
    assert not store_root.exists()


def test_a_data_set_that_cannot_be_downloaded_says_which_option_takes_a_copy(store_root, tmp_path):
    arguments = [*extract_with(dataset="cifar10", data_dir=tmp_path / "data"), "--no-pretrained"]
    refuse(arguments, 1, "cifar10", "--data-dir")
    assert not store_root.exists()


def test_a_folder_without_images_is_named(store_root, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "images" / split / "cat").mkdir(parents=True)
    arguments = [*extract_with(dataset=f"folder:{tmp_path / 'images'}"), "--no-pretrained"]
    refuse(arguments, 1, str(tmp_path / "images"))
    assert not store_root.exists()


def test_the_quickstart_without_its_extra_names_it(store_root, tmp_path, monkeypatch):
    from featstore import downloads

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(downloads, "_PACKAGE", "a-package-that-is-not-there")
    refuse(["quickstart"], 1, 'pip install "featstore-probe[quickstart]"')
    assert snapshot(tmp_path) == {}


# --- full disks -----------------------------------------------------------------------------


def with_largest_file(size: int, arguments) -> subprocess.CompletedProcess:
    """Run a command whose files cannot grow past `size` bytes, as on a disk without room."""
    return subprocess.run(
        [sys.executable, "-m", "featstore", *map(str, arguments)],
        capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_a_full_disk_keeps_what_was_committed_and_is_resumed(bring, tmp_path, format):
    arguments = bring(format)
    ran = with_largest_file(20_000, arguments)
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("Error: no room")
    assert len(ran.stderr.splitlines()) == 1
    assert CliRunner().invoke(main, [str(part) for part in arguments]).exit_code == 0
    store = featstore.open(tmp_path / "mine.zarr")
    assert store.verify() == []
    tap = store.spec.taps[0].name
    np.testing.assert_array_equal(store.read("train", tap, 0, 240), TRAIN)


@pytest.mark.long
def test_a_full_disk_keeps_the_earlier_results(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    out.write_text("earlier results")
    before = snapshot(tmp_path)
    ran = with_largest_file(256, probe_with(tiny_store.path, out=out))
    assert ran.returncode == 1, ran.stderr
    assert "File too large" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert snapshot(tmp_path) == before

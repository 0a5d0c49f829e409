"""Features from wherever they lie: every kind of file and object makes the same store."""

import json
import os
import subprocess
import sys
import warnings

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
import zarr
from pyarrow import parquet
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import featstore
from featstore.cli import main
from featstore.errors import DatasetError, UsageError
from featstore.store import sources
from featstore.store.sources import source

N_ROWS, DIM = 5000, 6
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((N_ROWS, DIM)).astype("float32")
Y = RANDOM.integers(0, 4, N_ROWS)
NAMES = np.array(["ant", "bee", "cat", "dog"])[Y]
IDS = np.array([f"row {row}" for row in range(N_ROWS)])


def table(features, labels, ids) -> pa.Table:
    columns = {f"f{number}": features[:, number] for number in range(DIM)}
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), DIM)
    return pa.table(
        {"X": lists, "uneven": pa.array(list(features)), "y": labels, "id": ids, **columns}
    )


def in_npz(path, x, y, ids):
    np.savez_compressed(path / "a.npz", X=x, y=y, id=ids)
    return path / "a.npz", "X", "y", "id"


def in_fortran_npz(path, x, y, ids):
    np.savez(path / "a.npz", X=np.asfortranarray(x), y=y, id=ids)
    return path / "a.npz", "X", "y", "id"


def in_parquet(path, x, y, ids):
    parquet.write_table(table(x, y, ids), path / "a.parquet", row_group_size=700)
    return path / "a.parquet", "X", "y", "id"


def in_columns(path, x, y, ids):
    return *in_parquet(path, x, y, ids)[:1], "f*", "y", "id"


def in_named_columns(path, x, y, ids):
    return *in_parquet(path, x, y, ids)[:1], "f0,f1,f2,f3,f4,f5", "y", "id"


def in_uneven_lists(path, x, y, ids):
    return *in_parquet(path, x, y, ids)[:1], "uneven", "y", "id"


def in_arrow(path, x, y, ids):
    with (
        pa.OSFile(str(path / "a.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table(x, y, ids).schema) as out,
    ):
        out.write_table(table(x, y, ids), 300)
    return path / "a.arrow", "X", "y", "id"


def in_hdf5(path, x, y, ids):
    with h5py.File(path / "a.h5", "w") as file:
        file["deep/X"], file["y"] = x, y.astype("S3") if y.dtype.kind == "U" else y
        file.create_dataset("id", data=ids.astype(object), dtype=h5py.string_dtype())
    return path / "a.h5", "deep/X", "y", "id"


def in_zarr(path, x, y, ids):
    root = zarr.open_group(path / "tree", mode="w")
    with warnings.catch_warnings(action="ignore"):  # zarr's texts have no specification yet
        for name, array in {"X": x, "y": y, "id": ids}.items():
            root.create_array(f"deep/{name}", data=array, chunks=(512, *array.shape[1:]))
    return path / "tree", "deep/X", "deep/y", "deep/id"


def in_saved(path, x, y, ids):
    features = {"X": list(x), "y": y.tolist(), "id": ids.tolist()}
    datasets.Dataset.from_dict(features).save_to_disk(path / "saved")
    return path / "saved", "X", "y", "id"


MANY = [in_npz, in_fortran_npz, in_parquet, in_columns, in_named_columns, in_uneven_lists, in_arrow]
MANY += [in_hdf5, in_zarr, in_saved]


@pytest.mark.parametrize("labels", [Y, NAMES], ids=["numbers", "texts"])
@pytest.mark.parametrize("save", MANY, ids=lambda save: save.__name__)
def test_every_kind_of_file_makes_the_same_store(save, labels, tmp_path):
    train = [
        f"{path}:{name}" for path, *names in [save(tmp_path, X, labels, IDS)] for name in names
    ]
    (tmp_path / "test").mkdir()
    path, *names = save(tmp_path / "test", X[:90], labels[:90], IDS[:90])
    store = featstore.import_arrays(train, [f"{path}:{name}" for name in names], tmp_path / "out")
    check(store, labels)
    # the same call finds its store
    featstore.import_arrays(train, [f"{path}:{name}" for name in names], tmp_path / "out")


def check(store, labels):
    np.testing.assert_array_equal(store.load("train", "features"), X)
    np.testing.assert_array_equal(store.load("test", "features"), X[:90])
    np.testing.assert_array_equal(store.labels("train"), Y)
    assert store.ids("train") == IDS.tolist()
    texts = labels.dtype.kind == "U"
    assert store.spec.classes == (("ant", "bee", "cat", "dog") if texts else tuple("0123"))


@pytest.mark.parametrize("bits", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors", "old.pt"])
def test_tensors_of_files(suffix, bits, tmp_path):
    held = {"X": torch.tensor(X).to(bits), "y": torch.tensor(Y)}
    file = tmp_path / f"a.{suffix}"
    if suffix == "safetensors":
        save_tensors(held, file)
        x, y = f"{file}:X", f"{file}:y"
    else:
        old = {"_use_new_zipfile_serialization": False} if "old" in suffix else {}
        torch.save({"train": held, "epoch": 3}, file, **old)
        x, y = f"{file}:train.X", f"{file}:train.y"
    store = featstore.import_arrays((x, y), (x, y), tmp_path / "out")
    np.testing.assert_array_equal(store.load("test", "features"), held["X"].float().numpy())
    np.testing.assert_array_equal(store.labels("train"), Y)
    if "old" in suffix:
        with pytest.raises(UsageError, match="read 0 MB at a time, and memory is 0 MB; give more"):
            featstore.import_arrays((x, y), (x, y), tmp_path / "less", memory=1000)


def as_tensors(x, y, ids):
    return torch.tensor(x, requires_grad=True), torch.tensor(y), ids.tolist()


def as_lists(x, y, ids):
    return x.tolist(), y.tolist(), ids.tolist()


def as_columns(x, y, ids):
    held = datasets.Dataset.from_dict({"X": list(x), "y": y.tolist(), "id": ids.tolist()})
    return held["X"], held["y"], held["id"]


def one_hot(x, y, ids):
    return x, np.eye(4)[y], ids


@pytest.mark.parametrize("given", [as_tensors, as_lists, as_columns, one_hot])
def test_objects_of_python(given, tmp_path):
    out = tmp_path / "out"
    store = featstore.import_arrays(given(X, Y, IDS), given(X[:90], Y[:90], IDS[:90]), out)
    if given is not as_lists:  # Python's floats are of 64 bits
        check(store, Y)
    np.testing.assert_array_equal(store.load("train", "features"), X)


def test_class_labels_of_datasets_keep_their_names(tmp_path):
    kinds = datasets.ClassLabel(names=["ant", "bee", "cat", "dog"])
    features = datasets.Features({"X": datasets.Sequence(datasets.Value("float32")), "y": kinds})
    held = datasets.Dataset.from_dict({"X": list(X), "y": Y.tolist()}, features=features)
    held.select(range(N_ROWS - 1, -1, -1)).save_to_disk(tmp_path / "saved")
    pair = (f"{tmp_path / 'saved'}:X", f"{tmp_path / 'saved'}:y")
    store = featstore.import_arrays(pair, pair, tmp_path / "out")
    assert store.spec.classes == ("ant", "bee", "cat", "dog")
    np.testing.assert_array_equal(store.labels("test"), Y[::-1])
    np.testing.assert_array_equal(store.load("test", "features"), X[::-1])


def test_ids_and_classes_are_part_of_what_is_told_apart(tmp_path):
    featstore.import_arrays((X, Y), (X, Y), tmp_path / "out")
    with pytest.raises(featstore.errors.SpecMismatch, match=r"splits\.train\.fingerprint"):
        featstore.import_arrays((X, Y, IDS), (X, Y), tmp_path / "out")
    store = featstore.import_arrays(
        (X, NAMES), (X, NAMES), tmp_path / "b", classes=["z", "y", "dog", "cat", "bee", "ant"]
    )
    assert store.labels("train")[0] == 5 - Y[0]
    with pytest.raises(DatasetError, match="which is none of the 2 class names"):
        featstore.import_arrays((X, NAMES), (X, NAMES), tmp_path / "c", classes=["cat", "dog"])


BAD = {
    "a.npz": "a.npz holds 3 arrays; there are X, y, id; name one, as .*a.npz:X",
    "a.npz:Z": "a.npz has no array 'Z'; there are X, y, id",
    "a.parquet": "a.parquet holds 10 columns",
    "a.parquet:X,nothing": "a.parquet has no column 'nothing'",
    "a.parquet:f0,id": "has a column of object among several; give real numbers",
    "holes.parquet:a": "row 1 of .*holes.parquet:a is empty; mend",
    "holes.parquet:b": "row 2 of .*holes.parquet:b has 1 values and row 0 2",
    "a.h5:none": "a.h5 has no data set 'none'; there are deep/X, id, y",
    "tree": "tree holds 3 arrays",
    "saved:Z": "saved has no column 'Z'; there are X, y, id",
    "both": "both holds splits, train; give one, as .*both/train:COLUMN",
    "empty": "empty is a folder without an array",
    "a.pt": "a.pt holds 2 tensors; there are X, y",
    "code.pt": "what else it holds could run anything; save tensors with torch.save",
    "a.safetensors:q": "a.safetensors has no tensor 'q'; there is X",
    "cut.safetensors": "cannot be read as an array",
    "cut.parquet": "cannot be read as an array",
    "cut.h5": "is a damaged HDF5 file: .*; fetch or save it again",
    "objects.npz:X": "it holds Python objects",
    "x.npy:a": "x.npy is one array; leave :a out",
    "none.npz:a": "there is no file .*none.npz:a; give .npy",
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad")
    small = X[:50], Y[:50], IDS[:50]
    for save in (in_npz, in_parquet, in_hdf5, in_zarr, in_saved):
        save(path, *small)
    held = datasets.Dataset.from_dict({"X": [1]})
    datasets.DatasetDict({"train": held}).save_to_disk(path / "both")
    (path / "empty").mkdir()
    holes = pa.table({"a": [1.0, None, 2.0], "b": [[1, 2], [3, 4], [5]]})
    parquet.write_table(holes, path / "holes.parquet")
    torch.save({"X": torch.tensor(X), "y": torch.tensor(Y)}, path / "a.pt")
    torch.save({"X": datasets.ClassLabel}, path / "code.pt")
    save_file({"X": X}, path / "a.safetensors")
    np.savez(path / "objects.npz", X=np.array([{}, {}], object))
    np.save(path / "x.npy", X)
    for name in ("a.safetensors", "a.parquet", "a.h5"):
        whole = (path / name).read_bytes()
        (path / name.replace("a.", "cut.")).write_bytes(whole[: len(whole) - 200])
    return path


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_told_on_one_line(name, bad_files):
    with pytest.raises(DatasetError, match=BAD[name]) as caught:
        (lambda one: one.rows(0, one.shape[0]))(source(str(bad_files / name)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [*sources._OPENERS, ""])
def test_a_pipe_is_not_waited_for(suffix, tmp_path):
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(DatasetError, match="is not a regular file"):
        source(str(tmp_path / f"a{suffix}"))


def test_numbers_of_files_elsewhere_are_not_taken(tmp_path):
    """A file that somebody sent names others, which the store would then hold."""
    (tmp_path / "sent").mkdir()
    (tmp_path / "secret").write_bytes(bytes(range(40)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["d"] = np.ones((3, 2))
    with h5py.File(tmp_path / "sent" / "beside.h5", "w") as file:
        file["d"] = np.full((3, 2), 5.0)
    for name, place in (("external", str(tmp_path / "secret")), ("relative", "../secret")):
        with h5py.File(tmp_path / "sent" / f"{name}.h5", "w") as file:
            file.create_dataset("x", (5, 2), "u1", external=[(place, 0, 10)])
    for name, place in (("virtual", "../other.h5"), ("inside", "beside.h5")):
        with h5py.File(tmp_path / "sent" / f"{name}.h5", "w") as file:
            layout = h5py.VirtualLayout((3, 2), "f8")
            layout[:] = h5py.VirtualSource(place, "d", (3, 2))
            file.create_virtual_dataset("x", layout)
    in_saved(tmp_path / "sent", X[:50], Y[:50], IDS[:50])
    saved = tmp_path / "sent" / "saved"
    state = json.loads((saved / "state.json").read_text())
    (name,) = (one["filename"] for one in state["_data_files"])
    (saved / name).rename(tmp_path / "moved.arrow")
    state["_data_files"] = [{"filename": "../../moved.arrow"}]
    (saved / "state.json").write_text(json.dumps(state))
    for name in ("external.h5", "relative.h5", "virtual.h5", "saved:X"):
        with pytest.raises(DatasetError, match="outside of its folder; copy them into it"):
            source(str(tmp_path / "sent" / name))
    assert np.array_equal(
        source(str(tmp_path / "sent" / "inside.h5")).rows(0, 3), np.full((3, 2), 5.0)
    )


def test_lengths_of_arrow_that_lie_are_not_followed(tmp_path):
    table = pa.table({"y": ["abc", "de", "f"]})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    data = (tmp_path / "a.arrow").read_bytes()
    ends, lying = (np.array(n, "<i4").tobytes() for n in ([0, 3, 5, 6], [0, 3, 2**30, 2**30 + 1]))
    assert data.count(ends) == 1
    (tmp_path / "a.arrow").write_bytes(data.replace(ends, lying))
    with pytest.raises(DatasetError, match="cannot be read"):
        source(str(tmp_path / "a.arrow")).rows(0, 3)


def test_an_archive_that_names_other_parts_is_cut_short(tmp_path):
    torch.save({"X": torch.tensor(X[:9])}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    end = data.rindex(b"PK\x06\x07")
    data[end + 16] = 9  # how many disks the archive spans
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(DatasetError, match="cut short"):
        source(str(tmp_path / "a.pt"))


def test_objects_that_are_no_arrays(tmp_path):
    for given, error, says in [
        (((X, Y, IDS[:9]), (X, Y)), DatasetError, r"ids of train has shape \(9,\) .* one id a row"),
        (
            ((X, Y[:9]), (X, Y)),
            DatasetError,
            r"labels of train has shape \(9,\) .* one label a row",
        ),
        (((X, Y, ["a"] * N_ROWS), (X, Y)), DatasetError, "id 'a' is in the ids of train twice"),
        (((X,), (X, Y)), UsageError, r"train is no pair \(features, labels\)"),
        (((X, {1: 2}), (X, Y)), DatasetError, "labels of train"),
        (((X, 7), (X, Y)), DatasetError, "labels of train is of type int"),
        (((X, Y), (X[:, :3], Y)), DatasetError, "has 6 features and the features of test 3"),
        (((X, np.c_[Y, Y]), (X, Y)), DatasetError, "is not zeros and ones"),
        ((([[1.0], [1.0, 2.0]], [0, 1]), (X, Y)), DatasetError, "give rows of one length"),
    ]:
        with pytest.raises(error, match=says) as caught:
            featstore.import_arrays(*given, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_named_arrays_and_ids(tmp_path, capsys):
    file, *names = in_parquet(tmp_path, X, NAMES, IDS)
    words = ["import", "--out", str(tmp_path / "out"), "--dtype", "float16", "--memory", "100MB"]
    for split in ("train", "test"):
        for what, name in zip(("features", "labels", "ids"), names, strict=True):
            words += [f"--{split}-{what}", f"{file}:{name}"]
    main(words, standalone_mode=False)
    store = featstore.open(tmp_path / "out")
    assert (store.spec.dtype, store.ids("test")) == ("float16", IDS.tolist())
    np.testing.assert_array_equal(store.labels("train"), Y)
    with pytest.raises(SystemExit):
        main([word.replace("a.parquet", "b.parquet") for word in words])
    assert "there is no file" in capsys.readouterr().err


MEASURE = """
import sys, resource
import featstore, pyarrow.parquet, torch
import featstore.store.zarr, zarr, featstore.store.exchange
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in sys.argv[1:]:
    pair = file + ":X", file + ":y"
    featstore.import_arrays(pair, pair, out=file + ".store")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_file(tmp_path):
    x, y = np.zeros((12_000, 4096), "float16"), np.arange(12_000) % 7
    np.savez(tmp_path / "a.npz", X=x, y=y)
    with h5py.File(tmp_path / "a.h5", "w") as out:
        out["X"], out["y"] = x, y
    schema = pa.schema({"X": pa.list_(pa.float16(), 4096), "y": pa.int64()})
    with parquet.ParquetWriter(tmp_path / "a.parquet", schema) as out:
        for start in range(0, len(x), 1000):
            rows = slice(start, start + 1000)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(x[rows].reshape(-1)), 4096)
            out.write_table(pa.table({"X": lists, "y": y[rows]}))
    files = [str(tmp_path / f"a.{suffix}") for suffix in ("h5", "npz", "parquet")]
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    grown = [int(line) for line in ran.stdout.split()]
    assert max(grown) < 0.8 * x.nbytes, grown

"""Stores made of .npy files: never loaded whole, checked before anything is written."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from store_examples import flip_bit, place

import featstore
from featstore.errors import DatasetError, FeatureError, SpecMismatch, UsageError

FORMATS = pytest.mark.parametrize("format", featstore.FORMATS)
RANDOM = np.random.default_rng(0)


@pytest.fixture
def save(tmp_path):
    """Save arrays under their names; returns the pairs of paths `import_arrays` takes."""

    def save(**arrays):
        arrays = {
            "X": RANDOM.standard_normal((70, 6)).astype("float32"),
            "y": RANDOM.integers(0, 4, 70),
            "Xt": RANDOM.standard_normal((33, 6)).astype("float32"),
            "yt": RANDOM.integers(0, 3, 33),
        } | arrays
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        paths = {name: tmp_path / f"{name}.npy" for name in arrays}
        return {"train": (paths["X"], paths["y"]), "test": (paths["Xt"], paths["yt"])}

    return save


def contents(store):
    return {
        split: (store.load(split, "features"), store.labels(split)) for split in ("train", "test")
    }


@FORMATS
@pytest.mark.usefixtures("small_blocks")
def test_what_was_saved_is_in_the_store(save, tmp_path, format):
    pairs = save()
    store = featstore.import_arrays(**pairs, out=tmp_path / "out", format=format)
    assert store.complete
    assert store.format == format
    for split, (features, labels) in contents(store).items():
        np.testing.assert_array_equal(features, np.load(pairs[split][0]))
        np.testing.assert_array_equal(labels, np.load(pairs[split][1]))
    assert store.ids("test")[:2] == ["0", "1"]
    assert store.spec.model_dump(include={"backbone", "weights", "transform", "dataset"}) == {
        "backbone": "import",
        "weights": "none",
        "transform": "none",
        "dataset": "X.npy, Xt.npy",
    }
    assert store.spec.classes == ("0", "1", "2", "3")


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    n_rows=st.integers(1, 80),
    dim=st.integers(1, 40),
    source=st.sampled_from(["<f2", "<f4", "<f8", ">f4", "<i4", "|u1"]),
    labels=st.sampled_from(["<i8", ">i4", "|u1", "<u8"]),
    order=st.sampled_from("CF"),
    wanted=st.sampled_from([None, "float16", "float32"]),
)
@pytest.mark.usefixtures("small_blocks")
def test_any_real_type_and_order_is_cast(
    save, tmp_path_factory, n_rows, dim, source, labels, order, wanted
):
    features = np.asarray(RANDOM.uniform(0, 100, (n_rows, dim)), dtype=source, order=order)
    targets = np.arange(n_rows).astype(labels) % 5
    pairs = save(X=features, y=targets, Xt=features[::-1], yt=targets[::-1])
    store = featstore.import_arrays(
        **pairs, out=tmp_path_factory.mktemp("cast") / "out", dtype=wanted
    )
    dtype = wanted or ("float16" if source == "<f2" else "float32")
    assert store.spec.dtype == dtype
    np.testing.assert_array_equal(store.load("train", "features"), features.astype(dtype))
    np.testing.assert_array_equal(store.load("test", "features"), features[::-1].astype(dtype))
    np.testing.assert_array_equal(store.labels("test"), targets[::-1].astype(int))


@FORMATS
@pytest.mark.usefixtures("small_blocks")
def test_the_same_files_find_their_store_and_mend_it(save, tmp_path, format, monkeypatch):
    pairs = save()
    out = tmp_path / "out"
    store = featstore.import_arrays(**pairs, out=out, format=format)
    written = []
    write = type(store).write_bytes

    def spy(self, piece, data):
        written.append((piece.split, piece.block))
        write(self, piece, data)

    monkeypatch.setattr(type(store), "write_bytes", spy)
    featstore.import_arrays(**pairs, out=out, format=format)
    assert written == []

    file, offset = place(store, "train", "features", 1)
    flip_bit(file, offset + 5)
    with store.writer() as writer:
        writer.discard("test", 0)
    featstore.import_arrays(**pairs, out=out, format=format)
    assert set(written) == {("train", 1), ("test", 0)}
    assert store.complete
    assert store.verify() == []


def test_other_contents_are_another_store(save, tmp_path):
    out = tmp_path / "out"
    featstore.import_arrays(**save(X=np.zeros((5, 2)), y=np.arange(5), Xt=np.zeros((1, 2)),
                                   yt=np.arange(1)), out=out)  # fmt: skip
    changed = save(X=np.full((5, 2), 1e-9), y=np.arange(5), Xt=np.zeros((1, 2)), yt=np.arange(1))
    with pytest.raises(SpecMismatch, match=r"splits\.train\.fingerprint is 'xxh3:"):
        featstore.import_arrays(**changed, out=out)
    store = featstore.import_arrays(**changed, out=out, overwrite=True)
    assert store.load("train", "features")[0, 0] == np.float32(1e-9)


def test_labels_are_part_of_the_fingerprint(save, tmp_path):
    X, y = np.zeros((5, 2)), np.arange(5)
    featstore.import_arrays(**save(X=X, y=y, Xt=X, yt=y), out=tmp_path / "out")
    with pytest.raises(SpecMismatch, match=r"splits\.test\.fingerprint"):
        featstore.import_arrays(**save(X=X, y=y, Xt=X, yt=y[::-1]), out=tmp_path / "out")


def test_classes_may_be_named(save, tmp_path):
    store = featstore.import_arrays(**save(), out=tmp_path / "out", classes=list("abcde"))
    assert store.spec.classes == tuple("abcde")
    with pytest.raises(DatasetError, match="labels up to 3 and 2 class names"):
        featstore.import_arrays(**save(), out=tmp_path / "none", classes=["a", "b"])


@FORMATS
@pytest.mark.usefixtures("small_blocks")
def test_targets_are_real_numbers(save, tmp_path, format):
    y, yt = RANDOM.normal(size=70), np.arange(33)
    store = featstore.import_arrays(
        **save(y=y, yt=yt), out=tmp_path / "one", format=format, targets=["age"]
    )
    assert (store.spec.targets, store.spec.classes) == (("age",), ())
    for split, values in (("train", y), ("test", yt)):
        labels = store.labels(split)
        assert labels.dtype == np.float64
        np.testing.assert_array_equal(labels, values)
    two = {"y": RANDOM.normal(size=(70, 2)).astype("float32"), "yt": np.ones((33, 2), int)}
    store = featstore.import_arrays(
        **save(**two), out=tmp_path / "two", format=format, targets=["age", "height"]
    )
    np.testing.assert_array_equal(store.labels("train"), two["y"])
    assert store.labels("test").shape == (33, 2)


def test_targets_that_cannot_be_used(save, tmp_path):
    holed = np.zeros((70, 2))
    holed[41, 1] = np.nan
    for arrays, names, said in [
        ({"y": np.zeros(70)}, ("a", "b"), r"y.npy\) has shape \(70,\) .*\(70, 2\), one label"),
        ({"y": np.zeros((70, 2))}, ("a",), r"shape \(70, 2\) .*\(70,\) or \(70, 1\), one label"),
        (
            {"y": holed, "yt": np.zeros((33, 2))},
            ("a", "b"),
            r"row 41 of train \(.*y.npy\) has b nan",
        ),
        ({"y": np.zeros(70, complex)}, ("a",), "holds complex128; labels are integers"),
        ({"y": np.array(["1"] * 70)}, ("a",), "holds <U1; labels are integers"),
    ]:
        with pytest.raises(DatasetError, match=said):
            featstore.import_arrays(**save(**arrays), out=tmp_path / "out", targets=names)
    with pytest.raises(UsageError, match="classes and targets are both named"):
        featstore.import_arrays(**save(), out=tmp_path / "out", targets=["a"], classes=["b"])
    assert not (tmp_path / "out").exists()


BAD = [
    ({"X": np.zeros(70)}, DatasetError, r"X.npy has shape \(70,\)"),
    ({"X": np.zeros((0, 6)), "y": np.zeros(0, int)}, DatasetError, r"shape \(0, 6\); train"),
    ({"Xt": np.zeros((33, 5))}, DatasetError, "X.npy has 6 features and .*Xt.npy 5"),
    ({"X": np.zeros((70, 6), complex)}, DatasetError, "holds complex128; features are real"),
    ({"X": np.zeros((70, 6), bool)}, DatasetError, "holds bool"),
    ({"X": np.array([["a"] * 6] * 70)}, DatasetError, "holds <U1"),
    ({"X": np.array([[{}] * 6] * 70)}, DatasetError, "cannot be read as an array"),
    ({"X": np.array([[{}] * 6] * 70)}, DatasetError, r"Python objects.*X.astype\('float32'\)"),
    ({"y": np.array(["cat", "dog"] * 35, object)}, DatasetError, r"objects.*y.astype\(str\)"),
    ({"y": np.array(["cat", "dog"] * 35)}, DatasetError, "labels are texts in train and class num"),
    ({"y": np.zeros(69, int)}, DatasetError, r"y.npy has shape \(69,\) and .*X.npy \(70, 6\)"),
    ({"y": np.zeros((70, 1), int)}, DatasetError, r"shape \(70, 1\)"),
    ({"yt": np.zeros(33)}, DatasetError, "holds float64; labels are integers"),
    ({"yt": np.full(33, -1)}, DatasetError, r"row 0 of test \(.*yt.npy\) has label -1"),
    ({"y": np.r_[np.zeros(69, int), 10**9]}, DatasetError, "row 69 of .* has label 1000000000"),
    ({"X": np.r_[np.zeros((68, 6)), np.full((2, 6), np.nan)]}, FeatureError, "row 68 of train .*"),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "error", "said"), BAD, ids=[said for *_, said in BAD])
def test_files_that_make_no_store_are_named_and_leave_nothing(save, tmp_path, arrays, error, said):
    pairs = save(**arrays)
    with pytest.raises(error, match=said):
        featstore.import_arrays(**pairs, out=tmp_path / "out")
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy"}


def test_values_beyond_float16_name_the_row_and_the_remedy(save, tmp_path):
    features = np.zeros((70, 6))
    features[41, 2] = -1e5
    pairs = save(X=features)
    said = r"row 41 of train .* 100000, which is infinite in float16; .*--dtype float32"
    with pytest.raises(FeatureError, match=said):
        featstore.import_arrays(**pairs, out=tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    store = featstore.import_arrays(**pairs, out=tmp_path / "out")
    assert store.load("train", "features")[41, 2] == -1e5

    features[41, 2] = 1e300
    with pytest.raises(FeatureError, match="infinite in float32; scale them"):
        featstore.import_arrays(**save(X=features), out=tmp_path / "big")


def test_files_that_are_no_arrays_are_named(save, tmp_path):
    pairs = save()
    (tmp_path / "text.npy").write_text("1,2,3")
    (tmp_path / "lfs.npy").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2000000\n"
    )
    np.savez(tmp_path / "two.npz", a=np.zeros(2))
    for bad, said in [
        ("none.npy", "there is no file"),
        ("text.npy", "cannot be read as an array: it is text that begins '1,2,3'"),
        ("lfs.npy", "is a Git LFS pointer of 2.0 MB"),
        ("two.npz", "two.npz:a has shape"),
        ("", "is a folder without an array"),
    ]:
        with pytest.raises(DatasetError, match=said):
            featstore.import_arrays(
                train=(tmp_path / bad, pairs["train"][1]), test=pairs["test"], out=tmp_path / "out"
            )


def test_truncated_files_are_named(save, tmp_path):
    pairs = save()
    file = pairs["train"][0]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"X.npy cannot .*: its end is missing"):
        featstore.import_arrays(**pairs, out=tmp_path / "out")


def test_other_dtypes_are_refused(save, tmp_path):
    with pytest.raises(UsageError, match="dtype 'float64' is not stored"):
        featstore.import_arrays(**save(), out=tmp_path / "out", dtype="float64")


MEASURE = """
import sys, resource
import featstore
import featstore.store.zarr, zarr
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
featstore.import_arrays((sys.argv[1], sys.argv[2]), (sys.argv[1], sys.argv[2]), out=sys.argv[3])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    n_rows, dim = 40_000, 2048
    features = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "float16", (n_rows, dim))
    features.flush()
    np.save(tmp_path / "y.npy", np.arange(n_rows) % 7)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *(tmp_path / name for name in ("X.npy", "y.npy", "out"))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(ran.stdout) < features.nbytes / 2


def test_progress_counts_every_row_twice(save, tmp_path):
    seen = []
    featstore.import_arrays(
        **save(), out=tmp_path / "out", progress=lambda *facts, **_: seen.append(facts)
    )
    assert seen[-1] == ("rows", 103, 103)
    assert ("checked rows", 103, 103) in seen


@pytest.mark.parametrize(
    ("change", "dtype", "said"),
    [
        (lambda x: x + 1e9, None, "around 1e+09, which float32 does not resolve: subtract"),
        (lambda x: np.round(100 * x).astype(np.int64) + 10**12, None, "does not resolve"),
        (lambda x: x * 1e-60, None, "too small for float32: multiply the features by a constant"),
        (lambda x: x * 1e-9, "float16", "too small for float16: store float32 (--dtype float32)"),
        (lambda x: x.astype(np.float32) + 1e4, "float16", "store float32 (--dtype float32), or"),
    ],
)
def test_a_feature_that_is_lost_in_the_store_is_named(save, tmp_path, change, dtype, said):
    x = RANDOM.standard_normal((70, 6))
    x[:, 3] = change(x[:, 3])
    pairs = save(X=x)
    with pytest.raises(FeatureError) as error:
        featstore.import_arrays(**pairs, out=tmp_path / "out", dtype=dtype)
    assert str(error.value).startswith(f"in train ({pairs['train'][0]}) feature 3 ")
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 1e5,  # a hundredth of what changes
        lambda x: x * 1e-30,
        lambda x: x * 0 + 0.1,  # never changes, and is no float32
        lambda x: 0.1 + 1e-17 * np.sign(x),  # as far as float64 can tell
        lambda x: np.where(x > 1, x, x * 1e-300),  # a few small values among large ones
    ],
)
def test_what_float32_resolves_is_imported(save, tmp_path, change):
    x = RANDOM.standard_normal((70, 6))
    x[:, 3] = change(x[:, 3])
    store = featstore.import_arrays(**save(X=x), out=tmp_path / "out")
    np.testing.assert_array_equal(store.load("train", "features"), x.astype(np.float32))


def test_converting_to_float16_names_a_feature_that_it_loses(save, tmp_path):
    x = RANDOM.standard_normal((70, 6)).astype(np.float32)
    x[:, 2] *= 1e-9
    source = featstore.import_arrays(**save(X=x), out=tmp_path / "source").path
    with pytest.raises(FeatureError, match=r"in train/features of .* feature 2 is .* too small"):
        featstore.convert(source, tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()

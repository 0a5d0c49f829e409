"""Extraction: right features, once each, on the disk whatever happens in between."""

import dataclasses
import random

import numpy as np
import pytest
import timm
import torch
from fake_sets import class_folders, noise
from forked import processes
from hypothesis import given, strategies as st
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import featstore
from featstore import data as datasets
from featstore.errors import (
    BackboneError,
    DatasetError,
    FeatstoreError,
    FeatureError,
    SpecMismatch,
    UsageError,
)
from featstore.extraction import inputs, loading, pipeline
from featstore.store import layout
from featstore.store.base import Piece

pytestmark = pytest.mark.usefixtures("small_blocks")

MODEL = "test_resnet"
N_TRAIN, N_TEST = 150, 70  # blocks of 32 rows: five and three


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An archive of noisy images: five blocks of train rows and three of test rows."""
    return noise(tmp_path_factory.mktemp("images") / "noise.npz", train=N_TRAIN, test=N_TEST)


def extract(images, out=None, **options) -> featstore.Extraction:
    defaults = {"pretrained": False, "image_size": 32, "batch_size": 10, "out": out}
    return featstore.extract(MODEL, f"npz:{images}", **{**defaults, **options})


@pytest.fixture(scope="module")
def reference(images, tmp_path_factory):
    """Features, labels and ids of an extraction in one go, by split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "BLOCK_BYTES", 1)
        return contents(extract(images, tmp_path_factory.mktemp("whole") / "a.zarr").store)


def contents(store) -> dict:
    return {
        split.name: (
            store.load(split.name, "penultimate").tobytes(),
            store.labels(split.name).tolist(),
            store.ids(split.name),
        )
        for split in store.spec.splits
    }


class Interrupted(Exception):
    """Stands for whatever stops an extraction."""


def stop_at(limit: int, error=Interrupted):
    """A progress callback that raises when `limit` images are done."""

    def progress(stage, done, total, **facts):
        if stage == "images" and done >= limit:
            raise error

    return progress


# what is stored


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_are_the_models_own(images, tmp_path, format, dtype):
    """Against timm used by hand: each image by itself, the library's whole transform."""
    done = extract(images, tmp_path / "store", format=format, dtype=dtype)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(MODEL).eval()
    config = {**resolve_model_data_config(model), "input_size": (3, 32, 32)}
    transform = create_transform(**config, is_training=False)
    archive = np.load(images)
    for split, n_rows in (("train", N_TRAIN), ("test", N_TEST)):
        stored = done.store.load(split, "penultimate")
        assert stored.dtype == dtype
        for row in (0, 31, 32, n_rows - 1):
            image = Image.fromarray(archive[f"x_{split}"][row])
            with torch.inference_mode():
                features = model.global_pool(model.forward_features(transform(image)[None]))[0]
            tolerance = 1e-3 if dtype == "float16" else 1e-5
            np.testing.assert_allclose(stored[row], features.numpy(), tolerance, tolerance)
        assert done.store.labels(split).tolist() == archive[f"y_{split}"].tolist()
        assert done.store.ids(split) == [str(row) for row in range(n_rows)]
    assert (done.images_done, done.images_reused, done.reused) == (N_TRAIN + N_TEST, 0, False)


def test_spec_says_what_is_stored(images, tmp_path):
    spec = extract(images, tmp_path / "store", limit=40).store.spec
    assert (spec.backbone, spec.dataset, spec.dtype) == (MODEL, "npz:noise.npz", "float16")
    assert spec.weights.startswith("random:0:sha256:")
    assert '"input_size": [3, 32, 32]' in spec.transform
    assert [(split.name, split.n_rows) for split in spec.splits] == [("train", 40), ("test", 40)]
    assert spec.taps == (featstore.Tap(name="penultimate", dim=96, pooling="avg"),)
    assert (spec.limit, spec.n_classes) == (40, 7)


def test_limited_rows_are_evenly_spaced_ones(images, tmp_path, reference):
    store = extract(images, tmp_path / "store", limit=40).store
    rows = [int(id_) for id_ in store.ids("train")]
    assert rows == np.linspace(0, N_TRAIN - 1, 40).round().astype(int).tolist()
    whole = np.frombuffer(reference["train"][0], np.float16).reshape(N_TRAIN, -1)
    np.testing.assert_allclose(store.load("train", "penultimate"), whole[rows], 2e-3, 2e-3)


def test_splits_that_are_asked_for(images, tmp_path):
    store = extract(images, tmp_path / "store", splits=("test",)).store
    assert [split.name for split in store.spec.splits] == ["test"]


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_change_no_bit(images, tmp_path, reference, workers):
    assert contents(extract(images, tmp_path / "store", workers=workers).store) == reference


def test_default_place_is_under_the_root(images, store_root):
    store = extract(images).store
    assert store.path.parent == store_root
    assert featstore.newest_complete().path == store.path


# going on, and mending


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
@pytest.mark.parametrize("limit", [1, 35, 149, 219])
def test_interrupted_extraction_goes_on(images, tmp_path, reference, format, limit):
    path = tmp_path / "store"
    with pytest.raises(Interrupted):
        extract(images, path, format=format, progress=stop_at(limit))
    store = featstore.open(path)
    kept = sum(
        len(store.rows_of(split.name, block))
        for split in store.spec.splits
        for block in set(range(store.n_blocks(split.name))) - set(store.missing(split.name))
    )
    assert kept >= (limit - 1) // 32 * 32 - 32
    seen = []
    done = extract(images, path, format=format, progress=lambda *call, **facts: seen.append(call))
    assert (done.images_reused, done.images_done) == (kept, N_TRAIN + N_TEST - kept)
    assert next(call for call in seen if call[0] == "images") == ("images", kept, 220)
    assert seen[-1] == ("images", 220, 220)
    assert contents(done.store) == reference


def test_batch_size_of_the_beginning_is_kept(images, tmp_path, reference):
    with pytest.raises(Interrupted):
        extract(images, tmp_path / "store", progress=stop_at(70))
    counts = []

    def count(stage, done, total, **facts):
        if stage == "images":
            counts.append(done)

    done = extract(images, tmp_path / "store", batch_size=None, progress=count)
    assert done.store.provenance["batch_size"] == 10
    assert np.diff(counts)[:4].tolist() == [10, 10, 10, 2]
    assert contents(done.store) == reference


def test_keyboard_interrupt_goes_through_and_keeps_blocks(images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(images, tmp_path / "store", progress=stop_at(100, KeyboardInterrupt))
    assert featstore.open(tmp_path / "store").missing("train") == [3, 4]


def test_complete_store_is_reused_at_once(images, tmp_path, reference, monkeypatch):
    extract(images, tmp_path / "store")
    monkeypatch.setattr(pipeline, "decoded", None)
    done = extract(images, tmp_path / "store")
    assert (done.reused, done.images_done, done.images_reused) == (True, 0, N_TRAIN + N_TEST)
    assert contents(done.store) == reference


def flip(store, split, array, block):
    """Change one bit on the disk."""
    there = store.array(split, array)
    data = bytearray(len(store.rows_of(split, block)) * there.row_bytes)
    store.read_bytes(Piece(split, array, block), 0, memoryview(data))
    data[len(data) // 2] ^= 1
    store.write_bytes(Piece(split, array, block), memoryview(bytes(data)))


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
@pytest.mark.parametrize("array", ["penultimate", "labels", "ids"])
def test_flipped_bit_is_mended_by_its_block_alone(images, tmp_path, reference, format, array):
    store = extract(images, tmp_path / "store", format=format).store
    flip(store, "train", array, 2)
    assert [(d.split, d.block, d.array) for d in store.verify()] == [("train", 2, array)]
    done = extract(images, tmp_path / "store", format=format)
    assert (done.images_done, done.reused) == (32, False)
    assert store.verify() == []
    assert contents(done.store) == reference


def test_other_images_are_another_store(images, tmp_path):
    extract(images, tmp_path / "store", limit=20)
    for options, field in (
        ({"limit": 21}, "limit is 20, wanted 21"),
        ({"limit": 20, "image_size": 40}, "transform is"),
        ({"limit": 20, "dtype": "float32"}, "dtype is 'float16', wanted 'float32'"),
        ({"limit": 20, "splits": ("train",)}, "splits is"),
    ):
        with pytest.raises(SpecMismatch, match=field):
            extract(images, tmp_path / "store", **options)
    done = extract(images, tmp_path / "store", limit=21, overwrite=True)
    assert done.images_done == 42


# killed


def extract_in_a_process(images, path, format, begun):
    layout.BLOCK_BYTES = 1
    extract(images, path, format=format, progress=lambda *call, **facts: begun.set())


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_killed_extractions_finish_with_the_same_bits(images, tmp_path, reference, format):
    moments = random.Random(format)
    path = tmp_path / "store"
    for _ in range(6):
        begun = processes.Event()
        process = processes.Process(target=extract_in_a_process, args=(images, path, format, begun))
        process.start()
        assert begun.wait(60)
        process.join(moments.uniform(0, 0.1))
        process.kill()
        process.join()
    done = extract(images, path, format=format)
    assert done.store.verify() == []
    assert contents(done.store) == reference


# bad input


@pytest.fixture
def weights(tmp_path):
    """Write weights whose first norm has this scale."""

    def write(scale: float):
        state = timm.create_model(MODEL).state_dict()
        state["layer4.0.bn2.weight"] = torch.full_like(state["layer4.0.bn2.weight"], scale)
        torch.save(state, tmp_path / "w.pth")
        return {"pretrained": True, "weights": tmp_path / "w.pth"}

    return write


def test_overflow_of_float16_names_image_and_remedy(images, tmp_path, weights):
    options = weights(1e9)
    with pytest.raises(FeatureError) as caught:
        extract(images, tmp_path / "store", **options)
    for part in ("image 0 ", "penultimate", "65504", "--dtype float32"):
        assert part in str(caught.value)
    assert extract(images, tmp_path / "wide", dtype="float32", **options).images_done == 220


def test_features_that_are_not_finite(images, tmp_path, weights):
    with pytest.raises(FeatureError, match="image 0 has a feature at penultimate that is not fin"):
        extract(images, tmp_path / "store", dtype="float32", **weights(float("nan")))


def test_unreadable_image_stops_after_whole_blocks(tmp_path):
    class_folders(tmp_path / "set", ["cat", "dog"])
    for number in range(80):
        picture = Image.new("RGB", (20, 20), (number, 0, 0))
        picture.save(tmp_path / "set" / "train" / "cat" / f"more{number:02}.png")
    bad = tmp_path / "set" / "train" / "cat" / "more70.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:50])
    options = {"pretrained": False, "image_size": 32, "out": tmp_path / "store"}
    with pytest.raises(DatasetError, match=r"image train/cat/more70.png .* cannot be read"):
        featstore.extract(MODEL, f"folder:{tmp_path / 'set'}", **options)
    assert featstore.open(tmp_path / "store").missing("train") == [2]
    bad.write_bytes(good)
    with pytest.raises(SpecMismatch, match="fingerprint"):
        featstore.extract(MODEL, f"folder:{tmp_path / 'set'}", **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float64"}, UsageError, "'float64' cannot be stored; choose float16 or float32"),
        ({"batch_size": 0}, UsageError, "a batch of 0 images cannot be"),
        ({"workers": -1}, UsageError, "-1 workers cannot decode; give 0 for threads"),
        ({"splits": ()}, UsageError, "no split is named"),
        ({"splits": ("test", "test")}, UsageError, "split 'test' is named twice"),
        ({"splits": ("dev",)}, UsageError, "no split 'dev'; it has train, test"),
        ({"device": "tpu"}, UsageError, "no device 'tpu'; choose auto, cpu, cuda or mps"),
        ({"device": "cuda:x"}, UsageError, "no device 'cuda:x'"),
        ({"limit": 0}, UsageError, "a limit of 0 rows"),
        ({"format": "npy"}, UsageError, "'npy'"),
        ({"image_size": -3}, UsageError, "an image of -3 px"),
        ({"pretrained": True, "weights": __file__}, BackboneError, "is text that begins"),
    ],
)
def test_bad_options_leave_nothing_behind(images, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        extract(images, tmp_path / "store", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_that_is_not_there(images, tmp_path):
    with pytest.raises(UsageError, match=r"no CUDA device here; .*--device cpu"):
        extract(images, tmp_path / "store", device="cuda")


def test_classes_of_splits_have_to_agree(images, tmp_path, monkeypatch):
    load = datasets.load

    def one_more(name, split, **options):
        rows = load(name, split, **options)
        classes = (*rows.classes, "more") if split == "test" else rows.classes
        return dataclasses.replace(rows, classes=classes)

    monkeypatch.setattr(inputs.data, "load", one_more)
    with pytest.raises(DatasetError, match="has 7 classes in train and 8 others in test"):
        extract(images, tmp_path / "store")


def test_every_error_is_featstores():
    assert all(issubclass(error, FeatstoreError) for error in (UsageError, FeatureError))


# batches


@given(st.integers(0, 500), st.integers(1, 100), st.integers(1, 64))
def test_batches_begin_with_their_rows_and_cover_them(start, n_rows, size):
    rows = range(start, start + n_rows)
    runs = loading.batches(rows, size)
    assert [row for run in runs for row in run] == list(rows)
    assert {len(run) for run in runs[:-1]} <= {size}
    assert 1 <= len(runs[-1]) <= size

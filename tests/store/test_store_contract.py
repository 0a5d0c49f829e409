"""The contract of stores in every format: one class of tests, run on each."""

import uuid
from typing import ClassVar

import h5py
import numpy as np
import pytest
import zarr
from forked import processes
from hypothesis import HealthCheck, given, settings, strategies as st
from loopback import no_network  # noqa: F401

import featstore
from featstore.errors import FeatureError
from featstore.places import Url
from featstore.probe.rows import RowBlocks
from featstore.store import layout, locks
from featstore.store.remote import RemoteObjects
from featstore.testing import (
    StoreContract,
    arrays_of,
    assert_holds_known_contents,
    block_of,
    filled,
    spec_of,
)

SHAPES = settings(
    max_examples=10,
    deadline=None,
    # A fixture that only sets constants or is only read; one class that runs once a format.
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
    ],
)


class Contract(StoreContract):
    """The contract, as processes of these tests are started."""

    processes = processes

    def plain(self, path) -> dict:
        """Return every array as the format's own library reads it, by 'split/array'."""
        raise NotImplementedError

    def test_a_tap_is_row_blocks(self, path):
        tap = self.filled(path, spec_of(n_train=40, views=3)).tap("train", "tap0")
        assert isinstance(tap, RowBlocks)


class StoreShapes(Contract):
    """The contract in shapes of all kinds and for bad rows of all kinds; each is a store."""

    @pytest.fixture
    def shapes(self, folder):
        return folder

    @SHAPES
    @given(
        n_train=st.integers(1, 130),
        n_test=st.integers(1, 70),
        dims=st.lists(st.integers(1, 40), min_size=1, max_size=3),
        dtype=st.sampled_from(["float16", "float32"]),
    )
    def test_what_was_written_is_read(self, shapes, n_train, n_test, dims, dtype):
        spec = spec_of(n_train, n_test, dims, dtype)
        path = shapes / f"{uuid.uuid4().hex}"
        store = self.filled(path, spec)
        assert store.complete
        assert store.verify() == []
        for again in (store, featstore.open(path)):
            assert (again.spec, again.format, again.block_rows) == (spec, self.format, 32)
            assert_holds_known_contents(again)

    @SHAPES
    @given(n_train=st.integers(1, 130), dims=st.lists(st.integers(1, 9), min_size=1, max_size=3))
    def test_the_formats_own_library_reads_it(self, shapes, n_train, dims):
        spec = spec_of(n_train, dims=dims)
        path = shapes / f"{uuid.uuid4().hex}"
        self.filled(path, spec)
        plain = self.plain(path)
        for split in ("train", "test"):
            expected = arrays_of(spec, split)
            for name in ("labels", *(tap.name for tap in spec.taps)):
                np.testing.assert_array_equal(plain[f"{split}/{name}"], expected[name])
            ids = [bytes(row).rstrip(b"\0").decode() for row in plain[f"{split}/ids"]]
            assert ids == expected["ids"]

    @SHAPES
    @given(data=st.data())
    def test_any_range_of_rows_is_read(self, store, data):
        start = data.draw(st.integers(0, 100))
        stop = data.draw(st.integers(start, 100))
        expected = arrays_of(store.spec, "train")
        for name in ("tap0", "labels"):
            np.testing.assert_array_equal(
                store.read("train", name, start, stop), expected[name][start:stop]
            )

    @SHAPES
    @given(
        n_train=st.integers(1, 70),
        views=st.integers(2, 4),
        dims=st.lists(st.integers(1, 9), min_size=1, max_size=2),
        targets=st.sampled_from([(), ("age",), ("x", "y")]),
    )
    def test_views_and_targets_are_read(self, shapes, n_train, views, dims, targets):
        kind = {"targets": targets, "classes": ()} if targets else {}
        spec = spec_of(n_train, dims=dims, views=views, **kind)
        path = shapes / f"{uuid.uuid4().hex}"
        store = self.filled(path, spec)
        assert (featstore.open(path).spec, store.verify()) == (spec, [])
        assert_holds_known_contents(store)
        expected = arrays_of(spec, "train")
        plain = self.plain(path)
        for name in ("labels", *(tap.name for tap in spec.taps)):
            np.testing.assert_array_equal(plain[f"train/{name}"], expected[name])
        view, start = views - 1, n_train // 2
        np.testing.assert_array_equal(
            store.read("train", "tap0", start, n_train, view), expected["tap0"][view, start:]
        )

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"labels": np.zeros(31, int)}, r"train/labels came as int64 \(31,\)"),
            ({"labels": np.zeros(32, np.int32)}, "came as int32"),
            ({"labels": np.full(32, 3)}, "row 32 of train has label 3; labels of 3 classes"),
            ({"labels": np.full(32, -1)}, "row 32 of train has label -1"),
            ({"ids": ["x"] * 31}, "31 ids for 32 rows"),
            ({"ids": ["x" * 65] * 32}, "at most 64 bytes"),
            ({"ids": ["a\0b"] * 32}, "no NUL"),
            ({"features": {}}, r"came with taps \[\]; the store holds \['tap0'\]"),
            ({"features": {"tap0": np.zeros((32, 15), "f2")}}, r"float16 \(32, 15\)"),
            ({"features": {"tap0": np.zeros((32, 16), "f4")}}, "came as float32"),
        ],
    )  # fmt: skip
    def test_arrays_that_do_not_fit_are_refused(self, empty, change, said):
        with empty.writer() as writer:
            with pytest.raises(FeatureError, match=said):
                writer.write(**{**block_of(empty, "train", 1), **change})
            writer.flush()
            assert empty.missing("train") == [0, 1, 2, 3]
            writer.write(**block_of(empty, "train", 1))
        assert empty.missing("train") == [0, 2, 3]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_features_that_are_not_finite_are_refused(self, path, value, dtype):
        store = self.create(path, spec_of(dtype=dtype, dims=(16, 5)))
        block = block_of(store, "train", 1)
        block["features"]["tap1"] = block["features"]["tap1"].copy()
        block["features"]["tap1"][7, 4] = value
        with store.writer() as writer, pytest.raises(FeatureError, match="row 39 of train/tap1"):
            writer.write(**block)
        assert store.missing("train") == [0, 1, 2, 3]


class TestZarr(StoreShapes):
    format = "zarr"

    def plain(self, path):
        root = zarr.open(str(path), mode="r")
        return {name: array[:] for name, array in root.members(max_depth=None) if "/" in name}

    def test_zarr_lists_it_without_complaint(self, store):
        names = {name for name, _ in zarr.open(store.path, mode="r").members(max_depth=None)}
        assert names == {
            "train", "train/tap0", "train/labels", "train/ids", "train/commits",
            "test", "test/tap0", "test/labels", "test/ids", "test/commits",
        }  # fmt: skip


class TestZstd(Contract):
    format = "zarr"
    options: ClassVar[dict] = {"codec": "zstd"}

    # A lock knows nothing of codecs.
    test_a_second_living_writer_is_refused = None

    def test_zarr_reads_it(self, path):
        store = self.filled(path, spec_of(n_train=70, views=2))
        plain = TestZarr.plain(self, path)
        for name in ("tap0", "labels"):
            np.testing.assert_array_equal(plain[f"train/{name}"], store.load("train", name))

    def test_checksums_are_of_the_rows(self, store, folder):
        plain = filled(folder / "plain", self.format)
        assert store.records("train") == plain.records("train")
        assert store.tap("train", "tap0").fingerprint == plain.tap("train", "tap0").fingerprint

    def test_it_compresses(self, path):
        store = self.create(path, spec_of(dims=(4096,)))
        with store.writer() as writer:
            block = block_of(store, "train", 0)
            writer.write(**{**block, "features": {"tap0": np.zeros((32, 4096), np.float16)}})
        assert (store.path / "train" / "tap0" / "c.0.0").stat().st_size < 1000


class TestMemory(StoreShapes):
    """Any other file system of fsspec: this one lies in the memory of the process."""

    format = "zarr"

    @pytest.fixture
    def folder(self):
        return Url(f"memory://{uuid.uuid4().hex}")

    def entries(self, folder):
        names = (entry["name"] for entry in RemoteObjects(folder).entries())
        return sorted(name.rpartition("/")[2] for name in names)

    plain = TestZarr.plain

    # Its bytes end with its process.
    test_a_second_living_writer_is_refused = None


@pytest.fixture(scope="module")
def shared_store(s3):
    """A store for tests that only read it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layout, "BLOCK_BYTES", 1)
        return filled(s3 / "read-only", "zarr")


class TestS3(Contract):
    """An object storage, over its own protocol."""

    format = "zarr"
    plain = TestZarr.plain
    entries = TestMemory.entries

    @pytest.fixture
    def folder(self, s3):
        return s3 / uuid.uuid4().hex

    @pytest.fixture
    def store(self, shared_store):
        return shared_store

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        """Let writers give signs of life more often, since a test waits for one."""
        monkeypatch.setattr(locks, "BEAT", 0.5)

    # Connections stay, to be used again.
    test_no_file_stays_open = None
    # This one changes its store; contents do not depend on the place.
    test_fingerprints_tell_contents_apart = None


class TestHdf5(StoreShapes):
    format = "hdf5"

    def plain(self, path):
        found = {}
        with h5py.File(path, "r") as file:
            file.visititems(
                lambda name, node: (
                    found.__setitem__(name, node[()]) if isinstance(node, h5py.Dataset) else None
                )
            )
        return found

    def test_it_is_one_file(self, store):
        assert [file.name for file in store.path.parent.iterdir()] == [store.path.name]


@pytest.mark.usefixtures("small_blocks")
def test_formats_hold_the_same_rows_under_the_same_fingerprint(tmp_path):
    one, other = filled(tmp_path / "a", "zarr"), filled(tmp_path / "b", "hdf5")
    assert one.tap("train", "tap0").fingerprint == other.tap("train", "tap0").fingerprint
    assert one.records("test") == other.records("test")

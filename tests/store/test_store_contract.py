"""What every store does, in every format: one class of tests, run on each."""

import os
import threading
import uuid
from typing import ClassVar

import h5py
import numpy as np
import pytest
import zarr
from forked import processes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import no_network  # noqa: F401
from store_examples import (
    FIXED,
    arrays_of,
    assert_holds_known_contents,
    block_of,
    fill,
    filled,
    small_blocks,  # noqa: F401
    spec_of,
)

import featstore
from featstore.errors import FeatureError, StoreIncomplete, UsageError, WriterBusy
from featstore.places import Url
from featstore.probe.rows import RowBlocks
from featstore.store import layout, locks
from featstore.store.remote import RemoteObjects

SHAPES = settings(
    max_examples=10,
    deadline=None,
    # A fixture that only sets constants or is only read; one class that runs once a format.
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
    ],
)


def try_to_write(path):
    """Exit status 7 where another writer is refused."""
    try:
        with featstore.open(path).writer():
            os._exit(0)
    except WriterBusy:
        os._exit(7)


def readers():
    """The threads that read ahead."""
    return [thread for thread in threading.enumerate() if "featstore-read" in thread.name]


@pytest.mark.usefixtures("small_blocks")
class StoreContract:
    """What holds wherever a store lies; `StoreShapes` tries it in many ways."""

    format: str
    options: ClassVar[dict] = {}

    def create(self, path, spec=None, **more):
        return featstore.create(path, spec or spec_of(), self.format, **self.options, **more)

    def filled(self, path, spec=None):
        return filled(path, self.format, spec, **self.options)

    def plain(self, path) -> dict:
        """Every array as the format's own library reads it, by 'split/array'."""
        raise NotImplementedError

    def entries(self, folder) -> list[str]:
        """The names in a folder."""
        return sorted(os.listdir(folder))

    @pytest.fixture
    def folder(self, tmp_path):
        """Where the test may put its stores."""
        return tmp_path

    @pytest.fixture
    def path(self, folder):
        return folder / f"store.{self.format}"

    @pytest.fixture
    def empty(self, path):
        return self.create(path, provenance=FIXED)

    @pytest.fixture
    def store(self, path):
        return self.filled(path)

    # Contents.

    def test_blocks_may_come_in_any_order(self, empty):
        with empty.writer() as writer:
            for split, block in [("test", 1), ("train", 2), ("train", 0), ("test", 0)]:
                writer.write(**block_of(empty, split, block))
            writer.flush()
            assert (empty.missing("train"), empty.missing("test")) == ([1, 3], [])
            assert not empty.complete
        assert fill(empty) == [("train", 1), ("train", 3)]
        assert_holds_known_contents(empty)

    def test_blocks_are_about_8_MB_of_the_widest_tap(self, path, monkeypatch):
        monkeypatch.setattr(layout, "BLOCK_BYTES", 8 << 20)
        for dims, views, rows in [
            ((2048,), 1, 2048),
            ((2048,), 8, 2048),
            ((2048,), 16, 1024),
            ((64, 1280), 1, 3264),
            ((64, 802816), 1, 32),
        ]:
            assert layout.block_rows(spec_of(dims=dims, views=views)) == rows

    def test_provenance_is_kept_and_is_no_identity(self, path):
        made_by = {"command": "featstore extract", "batch_size": 64}
        self.create(path, spec_of(), provenance=made_by)
        store = featstore.open_or_create(path, spec_of(), self.format, provenance={"batch_size": 1})
        assert store.provenance.items() >= made_by.items()
        assert store.provenance["versions"].keys() >= {"python", "numpy"}

    def test_bytes_on_disk_leaves_out_what_was_not_written(self, path):
        store = self.create(path, spec_of(n_train=10**6, dims=(512,)))
        assert store.bytes_on_disk() < 10**6

    # Several views of a row, and labels that are numbers.

    def test_views_come_one_after_another(self, path):
        store = self.filled(path, spec_of(n_train=40, views=3))
        expected = arrays_of(store.spec, "train")
        tap = store.tap("train", "tap0")
        assert isinstance(tap, RowBlocks)
        assert (tap.n_views, tap.n_rows, tap.n_features, tap.block_rows) == (3, 120, 16, 32)
        features, labels = zip(*tap, strict=True)
        assert [len(block) for block in features] == [32, 8] * 3
        np.testing.assert_array_equal(np.concatenate(features), expected["tap0"].reshape(120, 16))
        np.testing.assert_array_equal(np.concatenate(labels), tap.labels())
        np.testing.assert_array_equal(tap.labels(), np.tile(expected["labels"], 3))
        one = tap.view(1)
        assert (one.n_views, one.n_rows) == (1, 40)
        np.testing.assert_array_equal(
            np.concatenate([rows for rows, _ in one]), expected["tap0"][1]
        )
        np.testing.assert_array_equal(one.labels(), expected["labels"])
        views = [store.tap("train", "tap0", view=view) for view in range(3)]
        assert len({tap.fingerprint, *(view.fingerprint for view in views)}) == 4
        with pytest.raises(UsageError, match="train/tap0 has views 0 to 2, not 3"):
            tap.view(3)
        with pytest.raises(UsageError, match="test/tap0 has views 0 to 0, not -1"):
            store.read("test", "tap0", 0, 1, view=-1)

    def test_a_block_of_views_is_written_whole(self, path):
        store = self.create(path, spec_of(views=2, dims=(4,)))
        block = block_of(store, "train", 1)
        with store.writer() as writer:
            for wrong in (block["features"]["tap0"][0], block["features"]["tap0"][:1]):
                with pytest.raises(FeatureError, match=r"holds float16 \(2, 32, 4\)"):
                    writer.write(**{**block, "features": {"tap0": wrong}})
            infinite = block["features"]["tap0"].copy()
            infinite[1, 7, 2] = np.inf
            with pytest.raises(FeatureError, match="row 39 of train/tap0"):
                writer.write(**{**block, "features": {"tap0": infinite}})
            writer.write(**block)
        assert store.missing("train") == [0, 2, 3]

    def test_targets_are_numbers(self, path):
        store = self.filled(path, spec_of(classes=(), targets=("age",)))
        tap = store.tap("train", "tap0")
        assert (tap.n_classes, tap.n_targets, tap.labels().dtype) == (0, 1, np.float64)
        with store.writer() as writer:
            writer.discard("train", 0)
            block = block_of(store, "train", 0)
            block["labels"] = np.where(np.arange(32) == 5, np.nan, block["labels"])
            said = "row 5 of train has label nan; the targets age are finite"
            with pytest.raises(FeatureError, match=said):
                writer.write(**block)

    # Rows for a probe.

    def test_narrow_blocks_are_joined(self, path, monkeypatch):
        store = self.filled(path, spec_of(n_train=32 * 5 + 3, dims=(64, 16)))
        monkeypatch.setattr(layout, "BLOCK_BYTES", 2 * 32 * 16 * 2)
        assert store.tap("train", "tap0").block_rows == 32
        tap = store.tap("train", "tap1")
        assert tap.block_rows == 64
        features, labels = zip(*tap, strict=True)
        assert [len(block) for block in features] == [64, 64, 35]
        expected = arrays_of(store.spec, "train")
        np.testing.assert_array_equal(np.concatenate(features), expected["tap1"])
        np.testing.assert_array_equal(np.concatenate(labels), expected["labels"])

    def test_a_tap_is_row_blocks(self, store):
        tap = store.tap("train", "tap0")
        assert isinstance(tap, RowBlocks)
        assert (tap.n_rows, tap.n_features, tap.n_classes, tap.block_rows) == (100, 16, 3, 32)
        expected = arrays_of(store.spec, "train")
        for _ in range(2):
            features, labels = zip(*tap, strict=True)
            assert [len(block) for block in features] == [32, 32, 32, 4]
            np.testing.assert_array_equal(np.concatenate(features), expected["tap0"])
            np.testing.assert_array_equal(np.concatenate(labels), expected["labels"])
        np.testing.assert_array_equal(tap.labels(), expected["labels"])
        assert tap.labels().dtype == np.int64

    def test_labels_that_were_asked_for_are_not_read_again(self, store, monkeypatch):
        tap = store.tap("train", "tap0")
        expected = [labels.copy() for _, labels in tap]
        assert np.array_equal(tap.labels(), np.concatenate(expected))
        read, read_bytes = [], store.read_bytes
        monkeypatch.setattr(
            store, "read_bytes", lambda piece, *more: read.append(piece) or read_bytes(piece, *more)
        )
        assert [labels.tolist() for _, labels in tap] == [part.tolist() for part in expected]
        assert np.array_equal(tap.labels(), np.concatenate(expected))
        assert {piece.array for piece in read} == {"tap0"}

    def test_fingerprints_tell_contents_apart(self, folder, store):
        def fingerprint(store, split="train", tap="tap0"):
            return store.tap(split, tap).fingerprint

        other = self.filled(folder / "other", spec_of(dims=(16, 16)))
        assert (
            len(
                {
                    fingerprint(store),
                    fingerprint(store, "test"),
                    fingerprint(other),
                    fingerprint(other, tap="tap1"),
                }
            )
            == 4
        )
        before = fingerprint(store)
        changed = block_of(store, "train", 1)
        changed["labels"] = (changed["labels"] + 1) % 3
        with store.writer() as writer:
            writer.discard("train", 1)
            writer.write(**changed)
        assert fingerprint(store) != before

    def test_reading_ahead_is_bounded_and_ends_with_its_iterator(self, path, monkeypatch):
        store = self.filled(path, spec_of(n_train=32 * 20))
        tap = store.tap("train", "tap0")
        begun = []
        read = tap._block
        monkeypatch.setattr(tap, "_block", lambda block: begun.append(block) or read(block))
        blocks = iter(tap)
        for used in range(1, 4):
            next(blocks)
            assert used <= len(begun) <= used + tap.ahead
        assert readers()
        del blocks
        assert not readers()

    def test_an_incomplete_split_is_refused(self, empty):
        with empty.writer() as writer:
            writer.write(**block_of(empty, "train", 1))
        for attempt in (
            lambda: empty.tap("train", "tap0"),
            lambda: empty.load("train", "tap0"),
            lambda: empty.labels("train"),
            lambda: empty.ids("train"),
            lambda: empty.read("train", "tap0", 31, 33),
        ):
            with pytest.raises(StoreIncomplete, match=r"1 of 4 blocks of train .* again"):
                attempt()
        assert empty.read("train", "tap0", 32, 64).shape == (32, 16)

    def test_what_is_not_there_is_refused_by_name(self, store):
        with pytest.raises(UsageError, match="no split 'val'; it has train, test"):
            store.tap("val", "tap0")
        with pytest.raises(UsageError, match="no tap 'x'; it has tap0"):
            store.tap("train", "x")
        with pytest.raises(UsageError, match="has no train/x; it has tap0, labels, ids"):
            store.load("train", "x")
        with pytest.raises(UsageError, match="rows 90:101 are not in train, which has rows 0:100"):
            store.read("train", "tap0", 90, 101)

    def test_a_block_is_written_once(self, empty):
        with empty.writer() as writer:
            writer.write(**block_of(empty, "train", 0))
            with pytest.raises(UsageError, match="block 0 of train is committed"):
                writer.write(**block_of(empty, "train", 0))
            writer.discard("train", 0)
            assert 0 in empty.missing("train")
            writer.write(**block_of(empty, "train", 0))
            with pytest.raises(UsageError, match="train has blocks 0 to 3, not 4"):
                writer.write(**{**block_of(empty, "train", 0), "block": 4})
        with empty.writer() as writer, pytest.raises(UsageError, match="is committed"):
            writer.write(**block_of(empty, "train", 0))

    def test_arrays_in_any_memory_order_are_written(self, empty):
        block = block_of(empty, "train", 0)
        block["features"] = {"tap0": np.asfortranarray(block["features"]["tap0"])}
        block["labels"] = np.repeat(block["labels"], 2)[::2]
        with empty.writer() as writer:
            writer.write(**block)
        expected = arrays_of(empty.spec, "train")
        np.testing.assert_array_equal(empty.read("train", "tap0", 0, 32), expected["tap0"][:32])
        np.testing.assert_array_equal(empty.read("train", "labels", 0, 32), expected["labels"][:32])

    # Writers and processes.

    def test_a_second_living_writer_is_refused(self, empty):
        with empty.writer() as writer:
            with pytest.raises(WriterBusy, match=f"by process {os.getpid()} on .* since 20"):
                empty.writer().__enter__()
            other = processes.Process(target=try_to_write, args=(empty.path,))
            other.start()
            other.join()
            assert other.exitcode == 7
            writer.write(**block_of(empty, "train", 0))
        with empty.writer():
            pass
        assert self.entries(empty.path.parent) == [empty.path.name]

    def test_ranks_of_one_job_write_at_once_and_another_job_is_refused(self, path, monkeypatch):
        monkeypatch.setattr(locks, "_GRACE", 0.1)
        ranks = [
            featstore.open_or_create(path, spec_of(), self.format, job="job 1") for _ in range(2)
        ]
        with ranks[0].writer("job 1") as one, ranks[1].writer("job 1") as other:
            for job in (None, "job 2"):
                with pytest.raises(WriterBusy, match=f"by process {os.getpid()} on .* since 20"):
                    featstore.open(path).writer(job).__enter__()
            with pytest.raises(WriterBusy):
                featstore.remove(path)
            for block in range(4):
                (one, other)[block % 2].write(**block_of(ranks[0], "train", block))
            other.flush()
        with ranks[0].writer("job 2") as rest:
            assert ranks[1].missing("train") == []
            for block in (0, 1):
                rest.write(**block_of(ranks[0], "test", block))
        assert_holds_known_contents(featstore.open(path))
        assert self.entries(path.parent) == [path.name]

    @pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
    def test_a_fork_of_an_open_store_reads_it(self, store):
        store.load("train", "tap0")
        blocks = iter(store.tap("train", "tap0"))
        next(blocks)
        child = os.fork()
        if child == 0:
            os._exit(0 if store.load("train", "tap0").shape == (100, 16) else 1)
        assert os.waitpid(child, 0)[1] == 0

    def test_no_file_stays_open(self, path):
        self.filled(path.with_name("warm"))
        before = set(os.listdir("/proc/self/fd"))
        store = self.filled(path)
        assert_holds_known_contents(featstore.open(path))
        blocks = iter(store.tap("train", "tap0"))
        next(blocks)
        del blocks
        assert set(os.listdir("/proc/self/fd")) == before

    def test_what_was_written_before_an_error_is_committed(self, empty):
        def write_one_and_fail():
            with empty.writer() as writer:
                writer.write(**block_of(empty, "train", 0))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_one_and_fail()
        assert empty.missing("train") == [1, 2, 3]


class StoreShapes(StoreContract):
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


class TestZstd(StoreContract):
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


class TestS3(StoreContract):
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

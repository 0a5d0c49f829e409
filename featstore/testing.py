"""The conformance suite of stores: what an author of a format runs, and what our own formats pass.

It takes pytest, which is not among what featstore installs.
"""

import multiprocessing
import os
import threading
from typing import Any, ClassVar

import numpy as np
import pytest

import featstore
from featstore.errors import FeatureError, StoreIncomplete, UsageError, WriterBusy
from featstore.places import Place
from featstore.spec import Column, Spec
from featstore.store import layout, locks
from featstore.store.store import Store

# What differs from one creation to the next; a store's provenance may say it itself.
FIXED = {"created": "then", "versions": {}, "folder": "there", "sequence": 0}


def spec_of(
    n_train=100, n_test=33, dims=(16,), dtype="float16", n_classes=3, views=1, **fields
) -> Spec:
    """Two splits, train of several views where asked, and taps of these widths."""
    return Spec(
        **{
            "backbone": "toy",
            "weights": "random:0",
            "transform": "none",
            "dataset": "toy",
            "splits": (
                featstore.Split(name="train", n_rows=n_train, fingerprint="a", views=views),
                featstore.Split(name="test", n_rows=n_test, fingerprint="b"),
            ),
            "taps": tuple(
                featstore.Tap(name=f"tap{i}", dim=dim, pooling="avg") for i, dim in enumerate(dims)
            ),
            "dtype": dtype,
            "classes": tuple(f"class {i}" for i in range(n_classes)),
            **fields,
        }
    )


def arrays_of(spec: Spec, split: str) -> dict[str, np.ndarray]:
    """The whole contents of a split by array name; ids are a list."""
    n_rows, n_views = spec.split(split).n_rows, spec.split(split).views
    random = np.random.default_rng([len(split), n_rows])
    rows = (n_rows,) if n_views == 1 else (n_views, n_rows)
    features = {
        tap.name: random.standard_normal((*rows, tap.dim)).astype(spec.dtype) for tap in spec.taps
    }
    # of their own draw, so that stores with other taps have the same labels
    random = np.random.default_rng([n_rows, len(split)])
    if spec.targets:
        labels = random.standard_normal((n_rows, len(spec.targets)))
        labels = labels[:, 0] if len(spec.targets) == 1 else labels
    else:
        labels = random.integers(0, spec.n_classes, n_rows)
    columns = {
        column.name: [f"{split} {i % 7}" for i in range(n_rows)]
        if column.width
        else np.arange(n_rows) // 5 - 3
        for column in spec.columns
    }
    ids = [f"{split}/{i}.png" for i in range(n_rows)]
    return {**features, "labels": labels, "ids": ids, **columns}


def block_of(store: Store, split: str, block: int) -> dict:
    """The arguments of `Writer.write` for one block of the known contents."""
    rows = slice(store.rows_of(split, block).start, store.rows_of(split, block).stop)
    arrays = arrays_of(store.spec, split)
    return {
        "split": split,
        "block": block,
        "features": {tap.name: arrays[tap.name][..., rows, :] for tap in store.spec.taps},
        "labels": arrays["labels"][rows],
        "ids": arrays["ids"][rows],
        "columns": {column.name: arrays[column.name][rows] for column in store.spec.columns},
    }


def fill(store: Store, *, pause=lambda: None) -> list[tuple[str, int]]:
    """Write the missing blocks; returns which those were."""
    written = []
    with store.writer() as writer:
        for split in (split.name for split in store.spec.splits):
            for block in store.missing(split):
                writer.write(**block_of(store, split, block))
                written.append((split, block))
                pause()
    return written


def filled(path: Place, format: str, spec: Spec | None = None, **options) -> Store:
    """A complete store with the known contents."""
    store = featstore.create(path, spec or spec_of(), format, provenance=FIXED, **options)
    fill(store)
    return store


def assert_holds_known_contents(store: Store) -> None:
    """Compare every array of a store with the known contents."""
    for split in (split.name for split in store.spec.splits):
        expected = arrays_of(store.spec, split)
        for tap in store.spec.taps:
            np.testing.assert_array_equal(store.load(split, tap.name), expected[tap.name])
        np.testing.assert_array_equal(store.labels(split), expected["labels"])
        assert store.ids(split) == expected["ids"]
        for column in store.spec.columns:
            np.testing.assert_array_equal(store.column(split, column.name), expected[column.name])


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


class StoreContract:
    """Conformance suite of stores: subclass it as `Test...`, and pytest runs its tests.

    Attributes:
        format: name of the format, as `featstore.create` takes it.
        options: further arguments of `featstore.create`.
        processes: how the test of two writers starts the second one.

    Example:
        >>> class TestZarr(StoreContract):
        ...     format = "zarr"
    """

    format: str
    options: ClassVar[dict] = {}
    processes: ClassVar[Any] = multiprocessing.get_context("spawn")

    def create(self, path: Place, spec: Spec | None = None, **more: Any) -> Store:
        """Return a new store in which no block is written."""
        return featstore.create(path, spec or spec_of(), self.format, **self.options, **more)

    def filled(self, path: Place, spec: Spec | None = None) -> Store:
        """Return a complete store with the known contents."""
        return filled(path, self.format, spec, **self.options)

    def entries(self, folder) -> list[str]:
        """The names in a folder."""
        return sorted(os.listdir(folder))

    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch):
        """Make blocks of 32 rows, the fewest there can be, so that small stores have several."""
        monkeypatch.setattr(layout, "BLOCK_BYTES", 1)

    @pytest.fixture
    def folder(self, tmp_path):
        """Return a folder for the test's stores."""
        return tmp_path

    @pytest.fixture
    def path(self, folder):
        """Return the place of the test's store."""
        return folder / f"store.{self.format}"

    @pytest.fixture
    def empty(self, path):
        """Give a store in which no block is written."""
        return self.create(path, provenance=FIXED)

    @pytest.fixture
    def store(self, path):
        """Give a complete store with the known contents."""
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

    def test_columns_are_kept_beside_rows(self, path):
        kept = (Column(name="who?", width=7), Column(name="year"))
        store = self.filled(path, spec_of(columns=kept))
        assert_holds_known_contents(store)
        assert store.column("test", "year").dtype == np.int64
        with pytest.raises(UsageError, match=r"no column 'age'; it has who., year"):
            store.column("test", "age")
        with store.writer() as writer:
            writer.discard("train", 1)
            block = block_of(store, "train", 1)
            for wrong, said in [
                ({"who?": ["é"] * 32}, r"came with columns \['who."),
                ({"who?": ["a" * 8] * 32, "year": np.arange(32)}, "have at most 7 bytes"),
                ({"who?": ["a"] * 32, "year": np.arange(31)}, r"holds int64 \(32,\)"),
                ({"who?": ["a"] * 32, "year": np.zeros(32)}, "came as float64"),
            ]:
                with pytest.raises(FeatureError, match=said):
                    writer.write(**{**block, "columns": wrong})
            writer.write(**block)
        assert_holds_known_contents(store)
        assert featstore.open(path).verify() == []

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

    def test_a_tap_is_read_in_order_any_number_of_times(self, store):
        tap = store.tap("train", "tap0")
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
            other = self.processes.Process(target=try_to_write, args=(empty.path,))
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

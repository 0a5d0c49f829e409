"""Care of stores: converted, exported, merged, deleted, and what was abandoned."""

import fcntl
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from forked import processes
from loopback import no_network  # noqa: F401
from s3 import fresh_bucket  # noqa: F401
from store_examples import flip_bit, place

import featstore
from featstore import durable
from featstore.cli import main
from featstore.errors import (
    FeatstoreError,
    FeatureError,
    SpecMismatch,
    StoreDamaged,
    StoreIncomplete,
    StoreNotFound,
    UsageError,
    WriterBusy,
)
from featstore.probe.results.files import written_whole
from featstore.probe.subsets import random_chain
from featstore.store import catalog, layout
from featstore.testing import arrays_of, assert_holds_known_contents, block_of, filled, spec_of

pytestmark = pytest.mark.usefixtures("small_blocks")
VIEWED = {"n_train": 70, "dims": (40, 6), "views": 2}


def run(*arguments, status=0, **options):
    ran = CliRunner().invoke(main, [str(argument) for argument in arguments], **options)
    assert ran.exit_code == status, ran.output
    return ran


# Converting.


@pytest.mark.parametrize("kind", [{}, VIEWED, {"classes": (), "targets": ("x", "y")}])
def test_there_and_back_is_the_same_store(tmp_path, kind, monkeypatch):
    store = filled(tmp_path / "a.zarr", "zarr", spec_of(**kind))
    monkeypatch.setattr(layout, "BLOCK_BYTES", 100 * 16 * 2)  # blocks of another size
    there = featstore.convert(store.path, tmp_path / "b.h5")
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1)
    back = featstore.convert(there.path, tmp_path / "c.zarr", codec="zstd")
    assert (there.format, back.format, back.header.codec) == ("hdf5", "zarr", "zstd")
    for copy in (there, back):
        assert copy.spec == store.spec
        assert copy.verify() == []
        assert_holds_known_contents(copy)
    assert back.tap("train", "tap0").fingerprint == store.tap("train", "tap0").fingerprint


def test_float32_becomes_what_an_extraction_would_have_stored(tmp_path):
    store = filled(tmp_path / "a.zarr", "zarr", spec_of(dtype="float32"))
    made = featstore.convert(store.path, tmp_path / "b.zarr", dtype="float16")
    assert made.spec == spec_of(dtype="float16")
    expected = arrays_of(store.spec, "train")["tap0"].astype("float16")
    np.testing.assert_array_equal(made.load("train", "tap0"), expected)
    # float16 becomes no more exact, and a probe of the one store must not be taken for the other's
    wide = featstore.convert(made.path, tmp_path / "c.zarr", dtype="float32")
    assert wide.spec.transform == "none; features rounded to float16"
    np.testing.assert_array_equal(wide.load("train", "tap0"), expected.astype("float32"))


def test_a_feature_that_float16_does_not_hold_is_named(tmp_path):
    store = featstore.create(tmp_path / "a.zarr", spec_of(n_train=40, n_test=1, dtype="float32"))
    with store.writer() as writer:
        for split, block in store.blocks():
            rows = store.rows_of(split, block)
            features = np.ones((len(rows), 16), np.float32)
            if split == "train" and block == 1:
                features[3, 2] = 70000
            labels = np.zeros(len(rows), np.int64)
            writer.write(split, block, {"tap0": features}, labels, [str(row) for row in rows])
    with pytest.raises(FeatureError, match="row 35 of train/tap0 has a feature that is not finite"):
        featstore.convert(store.path, tmp_path / "b.zarr", dtype="float16")


def test_a_conversion_goes_on_and_mends(tmp_path):
    store = filled(tmp_path / "a.zarr", "zarr")
    made = featstore.convert(store.path, tmp_path / "b.h5")
    with made.writer() as writer:
        writer.discard("train", 1)
    flip_bit(*place(made, "test", "tap0", 0))
    seen = []
    featstore.convert(store.path, made.path, progress=lambda *told, **_: seen.append(told))
    assert [done for _, done, _ in seen] == [133 - 32, 133]
    assert_holds_known_contents(made)


def test_what_cannot_be_converted_is_refused(tmp_path):
    store = filled(tmp_path / "a.zarr", "zarr")
    with pytest.raises(UsageError, match="which is read for it; choose another place"):
        featstore.convert(store.path, tmp_path / "x" / ".." / "a.zarr")
    with pytest.raises(UsageError, match="dtype 'float64' is not stored"):
        featstore.convert(store.path, tmp_path / "b.zarr", dtype="float64")
    with pytest.raises(UsageError, match="codec zstd is for Zarr"):
        featstore.convert(store.path, tmp_path / "b.h5", codec="zstd")
    with pytest.raises(SpecMismatch, match="in codec none, wanted zstd"):
        featstore.convert(store.path, filled(tmp_path / "c.zarr", "zarr").path, codec="zstd")
    flip_bit(*place(store, "train", "tap0", 2))
    with pytest.raises(StoreDamaged, match="block 2 of train/tap0"):
        featstore.convert(store.path, tmp_path / "d.h5")
    with store.writer() as writer:
        writer.discard("train", 2)
    with pytest.raises(StoreIncomplete):
        featstore.convert(store.path, tmp_path / "e.h5")
    assert not (tmp_path / "e.h5").exists()


# Exporting.


@pytest.mark.parametrize("suffix", ["zarr", "h5", "npz", "parquet"])
@pytest.mark.parametrize("kind", [{"dims": (40,)}, VIEWED], ids=["plain", "views"])
def test_an_export_holds_the_subset_that_probe_draws(tmp_path, suffix, kind):
    store = filled(tmp_path / "a.zarr", "zarr", spec_of(**kind))
    out = tmp_path / f"compact.{suffix}"
    run("export", store.path, "--fraction", 0.1, "--seed", 3, "--out", out)
    chosen = random_chain(40, [0.1], 3).features(0)
    for split in ("train", "test"):
        expected = arrays_of(store.spec, split)
        features, labels, ids, indices = READ[suffix](out, split)
        np.testing.assert_array_equal(indices, chosen)
        np.testing.assert_array_equal(features, expected["tap0"][..., chosen])
        assert features.dtype == np.float16
        np.testing.assert_array_equal(labels, expected["labels"])
        assert list(ids) == expected["ids"]


def read_store(path, split):
    store = featstore.open(path)
    assert (store.provenance["fraction"], store.provenance["seed"]) == (0.1, 3)
    assert [tap.name for tap in store.spec.taps] == ["tap0"]
    assert "4 of 40 features" in store.spec.tap("tap0").pooling
    features, indices = store.load(split, "tap0"), store.provenance["features"]
    return features, store.labels(split), store.ids(split), indices


def read_npz(path, split):
    with np.load(path) as held:
        return [held[f"{split}_{part}"] for part in ("features", "labels", "ids")] + [
            held["indices"]
        ]


def read_parquet(path, split):
    table = pq.read_table(path)
    indices = json.loads(table.schema.metadata[b"indices"])
    rows = table.to_pandas()
    rows = rows[rows["split"] == split]
    views = [np.stack(part["features"]) for _, part in rows.groupby("view")]
    first = rows[rows["view"] == 0]
    features = np.stack(views) if len(views) > 1 else views[0]
    return features, first["label"], first["id"], indices


READ = {"zarr": read_store, "h5": read_store, "npz": read_npz, "parquet": read_parquet}


def test_what_cannot_be_exported_is_refused(tmp_path):
    store = filled(tmp_path / "a.zarr", "zarr")
    for features, out, said in (
        ([], "b.npz", "at least one index"),
        ([0.5], "b.npz", "at least one index"),
        ([3, 16], "b.npz", "features 0 to 15, not 16"),
        ([-1], "b.npz", "features 0 to 15, not -1"),
        ([3, 3], "b.npz", "named twice"),
        ([3], "b.csv", "must end in .zarr, .h5, .npz, .parquet"),
        ([3], "memory://x/b.npz", "is written on this machine"),
    ):
        with pytest.raises(UsageError, match=said):
            featstore.export(store.path, str(tmp_path / out) if "://" not in out else out, features)
    featstore.export(store.path, tmp_path / "b.npz", [3])
    with pytest.raises(UsageError, match="exists already"):
        featstore.export(store.path, tmp_path / "b.npz", [3])
    whole = (tmp_path / "b.npz").read_bytes()
    flip_bit(*place(store, "test", "tap0", 1))
    with pytest.raises(StoreDamaged):
        featstore.export(store.path, tmp_path / "b.npz", [3], overwrite=True)
    with pytest.raises(FeatstoreError, match="cannot be written"):
        featstore.export(store.path, tmp_path / "none" / "b.npz", [3])
    assert (tmp_path / "b.npz").read_bytes() == whole
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.npz"]
    run("export", store.path, "--fraction", 2, "--seed", 1, "--out", tmp_path / "c.npz", status=2)


# Merging.


def test_merging_keeps_within_its_memory(tmp_path):
    spec = spec_of(n_train=32 * 12, n_test=40, dims=(4096,))
    a = filled(tmp_path / "a.zarr", "zarr", spec)
    b = filled(tmp_path / "b.zarr", "zarr", spec.model_copy(update={"backbone": "other"}))
    block = 2 * 32 * (4096 * 2 + 8 + 64)
    whole = run("merge", a.path, b.path, "--out", tmp_path / "whole.h5")
    assert whole.exit_code == 0
    peaks = {}
    for memory in (5 * block, 40 * block):
        tracemalloc.start()
        made = featstore.merge(a.path, b.path, tmp_path / f"{memory}.h5", memory=memory)
        peaks[memory] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.verify() == []
        for tap in made.spec.taps:
            np.testing.assert_array_equal(
                made.load("train", tap.name),
                featstore.open(tmp_path / "whole.h5").load("train", tap.name),
            )
    # beside the blocks there is what is being checked and written
    assert peaks[5 * block] < 8 * block < peaks[40 * block]
    ran = run("merge", a.path, b.path, "--out", tmp_path / "d.h5", "--memory", "100kB", status=2)
    assert "do not fit into 0.1 MB of memory; give " in ran.stderr
    assert not (tmp_path / "d.h5").exists()


def test_a_merged_store_holds_the_taps_of_both(tmp_path):
    a = filled(tmp_path / "a.zarr", "zarr", spec_of(dims=(40, 6), views=2))
    b = filled(tmp_path / "b.h5", "hdf5", spec_of(dims=(20,), views=2, backbone="timm/vit"))
    run("merge", a.path, b.path, "--out", tmp_path / "c.zarr")
    made = featstore.open(tmp_path / "c.zarr")
    assert made.verify() == []
    assert [tap.name for tap in made.spec.taps] == ["toy.tap0", "tap1", "timm-vit.tap0"]
    assert made.spec.backbone == "toy + timm/vit"
    for name, store, tap in (
        ("toy.tap0", a, "tap0"),
        ("tap1", a, "tap1"),
        ("timm-vit.tap0", b, "tap0"),
    ):
        np.testing.assert_array_equal(made.load("train", name), store.load("train", tap))
        there = {**store.spec.of_tap(tap), "tap": name}
        assert made.spec.of_tap(name) == there
    np.testing.assert_array_equal(made.labels("train"), a.labels("train"))
    assert made.ids("test") == a.ids("test")
    named = featstore.merge(a.path, b.path, tmp_path / "d.h5", names=("x", "y"))
    assert [tap.name for tap in named.spec.taps] == ["x.tap0", "x.tap1", "y.tap0"]


def changed(path, change):
    """A store whose rows of train are changed on the way."""
    store = featstore.create(path, spec_of(backbone="other"))

    with store.writer() as writer:
        for split, block in store.blocks():
            rows = block_of(store, split, block)
            if (split, block) == ("train", 1):
                change(rows)
            writer.write(**rows)
    return store


def swap_ids(rows):
    rows["ids"] = [rows["ids"][1], rows["ids"][0], *rows["ids"][2:]]


def change_label(rows):
    rows["labels"] = np.where(np.arange(32) == 4, (rows["labels"] + 1) % 3, rows["labels"])


def test_stores_of_other_rows_are_refused(tmp_path):
    a = filled(tmp_path / "a.zarr", "zarr")
    cases = {
        "ids": (changed(tmp_path / "ids", swap_ids), "row 32 of train has id 'train/32.png' in"),
        "label": (changed(tmp_path / "label", change_label), "row 36 of train has label"),
        "dtype": (spec_of(dtype="float32"), "differ in dtype: 'float16' and 'float32'"),
        "rows": (spec_of(n_train=99), r"splits train \(100 rows, 1 views\)"),
        "classes": (spec_of(n_classes=4), "differ in classes"),
        "views": (spec_of(views=2), r"train \(100 rows, 2 views\)"),
    }
    for name, (other, said) in cases.items():
        b = other if isinstance(other, featstore.Store) else filled(tmp_path / name, "zarr", other)
        with pytest.raises(SpecMismatch, match=said):
            featstore.merge(a.path, b.path, tmp_path / "c.zarr")
    with pytest.raises(UsageError, match=r"both stores would have a tap 'toy.tap0'; .* --names"):
        featstore.merge(a.path, a.path, tmp_path / "c.zarr")
    with pytest.raises(UsageError, match="give two different ones"):
        featstore.merge(a.path, a.path, tmp_path / "c.zarr", names=("x", "x"))
    assert not (tmp_path / "c.zarr").exists()


# Deleting.


def test_rm_asks(tmp_path):
    store = filled(tmp_path / "a.zarr", "zarr")
    store.moments_folder.mkdir()
    (store.moments_folder / "x.npz").touch()
    assert "133 rows" in run("rm", store.path, input="n\n", status=1).output
    run("rm", store.path, input="", status=1)
    assert store.complete
    run("rm", store.path, input="y\n")
    assert os.listdir(tmp_path) == []
    run("rm", store.path, "--yes", status=1)
    (tmp_path / "thesis.txt").touch()
    run("rm", tmp_path / "thesis.txt", "--yes", status=1)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def age(path, days=30):
    """Let everything at a path be so old."""
    then = time.time() - days * 86400
    for entry in [path, *path.rglob("*")]:
        os.utime(entry, (then, then))


def test_gc_deletes_what_is_abandoned_and_nothing_else(store_root):
    partial = featstore.create(store_root / "partial", spec_of())
    with partial.writer() as writer:
        writer.write(**block_of(partial, "train", 0))
    young = featstore.create(store_root / "young", spec_of())
    busy = featstore.create(store_root / "busy", spec_of(), "hdf5")
    filled(store_root / "whole", "zarr")
    (store_root / ".x.zarr.0badcafe.aside").mkdir()
    (store_root / "dead.lock").write_text('{"pid": 1, "host": "h", "since": "then"}')
    (store_root / "gone.moments").mkdir()
    (store_root / "gone.moments" / f"{'0' * 32}.npz").touch()
    kept = ["mine.lock", "whole.moments", "thesis.moments", ".mine.aside", "notes.txt"]
    (store_root / "mine.lock").write_text("my own")
    (store_root / "whole.moments").mkdir()
    (store_root / "thesis.moments").mkdir()
    (store_root / "thesis.moments" / "thesis.txt").touch()
    (store_root / ".mine.aside").touch()
    (store_root / "notes.txt").touch()
    age(store_root)
    young.modified()
    os.utime(young.path / "train" / "commits")
    with busy.writer():
        age(store_root / "busy.lock")
        found = featstore.abandoned()
        kinds = {item.path.name: item.what for item in found}
        assert kinds == {
            "partial": "partial store",
            ".x.zarr.0badcafe.aside": "unfinished",
            "dead.lock": "lock",
            "gone.moments": "moments",
        }
        assert [item.path.name for item in featstore.abandoned(days=0)].count("young") == 1
        assert "partial store" in run("gc", input="n\n", status=1).output
        assert partial.path.exists()
        run("gc", "--yes")
        assert featstore.abandoned() == []
        with pytest.raises(WriterBusy):
            featstore.collect(catalog.Abandoned(busy.path, "partial store", 0, 0))
    assert sorted(os.listdir(store_root)) == sorted(["busy", "whole", "young", *kept])
    os.utime(busy.path)
    assert "nothing was abandoned" in run("gc").output
    with pytest.raises(UsageError, match="-1 days"):
        featstore.abandoned(days=-1)


def test_gc_clears_what_killed_processes_left(store_root, tmp_path):
    store = filled(store_root / "a.zarr", "zarr")
    filled(store_root / "b.zarr", "zarr", spec_of(dims=(5,)))
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = [
        "c.zarr.lock", ".a.npz.0badcafe.aside", f".figure.{ended.pid}.svg",
        f".r.{ended.pid}.csv", ".a.zarr.replacement",
    ]  # fmt: skip
    kept = [
        "poetry.lock", f".figure.{os.getpid()}.svg", ".figure.svg", ".b.parquet.0badcafe.aside",
        ".link.1.svg", "link.zarr.lock",
    ]  # fmt: skip
    for name in [*left[:-1], *kept[:-2]]:
        (store_root / name).touch()
    for name in kept[-2:]:
        (store_root / name).symlink_to(store_root / "poetry.lock")
    featstore.open_or_create(store.path, spec_of(dims=(7,)), overwrite=True)
    with (store_root / ".b.parquet.0badcafe.aside").open("w") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        found = {item.path.name: item.what for item in featstore.abandoned(days=0)}
        assert set(found) == set(left)
        assert found["c.zarr.lock"] == "lock"
        run("gc", "--yes", "--days", "0")
        assert featstore.abandoned(days=0) == []
    assert sorted(os.listdir(store_root)) == sorted(["a.zarr", "b.zarr", *kept])


def killed_while_writing(path: Path, writes) -> Path:
    """Begin to write a file in a process that is killed in the middle; return what it left."""
    before = set(path.parent.iterdir())
    ready = processes.Event()
    process = processes.Process(target=_write_for_ever, args=(path, writes, ready))
    process.start()
    assert ready.wait(60)
    process.kill()
    process.join()
    (left,) = set(path.parent.iterdir()) - before
    return left


def _write_for_ever(path, writes, ready) -> None:
    with writes(path) as aside:
        aside.write_text("half of")
        ready.set()
        time.sleep(600)


RESULTS = ["r.csv", "r.csv.rows.npz", "r.csv.sha256", "tex"]


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("writes", [written_whole, durable.written_whole], ids=["probe", "store"])
def test_what_killed_writers_of_a_file_left_goes_with_the_next(tmp_path, name, writes):
    path = tmp_path / name
    path.write_text("old")
    others = tmp_path / f"other-{name}"
    left, of_another = (killed_while_writing(each, writes) for each in (path, others))
    assert path.read_text() == "old"
    with writes(path) as living:
        living.write_text("first")
        assert not left.exists()
        with writes(path) as second:
            second.write_text("second")
        assert living.read_text() == "first"
    assert path.read_text() == "first"
    assert set(tmp_path.iterdir()) == {path, of_another}


def test_gc_clears_what_killed_writers_of_results_left(store_root):
    store = filled(store_root / "a.zarr", "zarr")
    folder = store_root / "a.zarr.moments"
    folder.mkdir()
    moments = folder / f"{'0' * 32}.npz"
    left = [killed_while_writing(store_root / name, written_whole) for name in RESULTS]
    left.append(killed_while_writing(moments, written_whole))
    left.append(killed_while_writing(store_root / "report.csv", durable.written_whole))
    moments.touch()
    formerly = store_root / ".featstore-abc_1234"
    formerly.mkdir()
    (formerly / "skeleton.h5").touch()
    left.append(formerly)
    mine = store_root / ".featstore-abc_5678"
    mine.mkdir()
    (mine / "notes").touch()
    precious = store_root / f".notes.1-{'a' * 8}.csv"
    precious.symlink_to(store_root / "nowhere")
    with written_whole(store_root / "living.csv") as living:
        assert {item.path for item in featstore.abandoned(days=0)} == set(left)
        assert featstore.abandoned(days=1) == []
        run("gc", "--yes", "--days", "0")
        assert living.exists()
    assert not [path for path in left if path.exists()]
    assert precious.is_symlink()
    assert (mine / "notes").exists()
    assert moments.exists()
    # with its store go its moments, whatever is among them
    killed_while_writing(moments, written_whole)
    featstore.remove(store.path)
    run("gc", "--yes", "--days", "0")
    assert not folder.exists()


@pytest.mark.parametrize("format", featstore.FORMATS)
def test_a_store_whose_repair_was_killed_is_removed_with_what_that_left(tmp_path, format):
    store = filled(tmp_path / "a.store", format)
    document = store.path / "zarr.json" if format == "zarr" else store.path
    left = killed_while_writing(document, durable.written_whole)
    store.restate()
    assert left.exists() == (format == "zarr")  # where that document had to be written
    featstore.remove(store.path)
    featstore.create(store.path, spec_of(), format)
    assert list(tmp_path.iterdir()) == [store.path]


def test_gc_goes_on_where_one_thing_cannot_be_deleted(store_root, monkeypatch):
    for name in ("one", "two"):
        featstore.create(store_root / name, spec_of())
    (store_root / "one" / "thesis.txt").touch()
    ran = run("gc", "--yes", "--days", "0")
    assert "Warning: one is kept: " in ran.stderr
    assert "deleted 1, " in ran.stderr
    assert [store.path.name for store in featstore.stores()] == ["one"]


# Names that lead elsewhere.


@pytest.mark.parametrize("kind", ["link", "dangling", "hard", "pipe", "folder", "text"])
@pytest.mark.parametrize("attempt", ["create", "write", "remove", "overwrite"])
def test_a_lock_follows_no_link_and_changes_no_file_of_others(tmp_path, kind, attempt):
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    store = featstore.create(tmp_path / "a.zarr", spec_of())
    path = tmp_path / ("new.zarr" if attempt == "create" else "a.zarr")
    lock = path.with_name(path.name + ".lock")
    {
        "link": lambda: lock.symlink_to(precious),
        "dangling": lambda: lock.symlink_to(tmp_path / "nowhere"),
        "hard": lambda: os.link(precious, lock),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
        "text": lambda: lock.write_text("my own"),
    }[kind]()
    with pytest.raises(FeatstoreError, match=r"zarr\.lock is in the way of the lock of"):
        {
            "create": lambda: featstore.create(path, spec_of()),
            "write": lambda: store.writer().__enter__(),
            "remove": lambda: featstore.remove(path),
            "overwrite": lambda: featstore.open_or_create(path, spec_of(dims=(3,)), overwrite=True),
        }[attempt]()
    assert precious.read_text() == "years of work"
    assert not (tmp_path / "nowhere").exists()
    assert os.path.lexists(lock)
    assert featstore.abandoned(tmp_path, days=1) == []


def test_rows_are_not_written_through_a_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    store = featstore.create(tmp_path / "a.zarr", spec_of())
    chunk = store.path / "train" / "tap0" / "c.0.0"
    chunk.symlink_to(precious)
    with pytest.raises(OSError, match="Too many levels"), store.writer() as writer:
        writer.write(**block_of(store, "train", 0))
    assert precious.read_text() == "years of work"


def test_what_a_killed_export_left_is_cleared_by_the_next(tmp_path):
    store = filled(tmp_path / "a.zarr", "zarr")
    dead, living = (tmp_path / f".c.npz.{n}badcafe.aside" for n in "01")
    dead.touch()
    with living.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        featstore.export(store.path, tmp_path / "c.npz", [1])
        assert living.exists()
    assert not dead.exists()


# As other libraries want a tap.


@pytest.mark.parametrize("format", featstore.FORMATS)
@pytest.mark.parametrize("kind", [{}, VIEWED], ids=["plain", "views"])
def test_a_tap_as_arrays(tmp_path, format, kind):
    store = filled(tmp_path / "store", format, spec_of(**kind))
    expected = arrays_of(store.spec, "train")
    np.testing.assert_array_equal(store.to_numpy("train", "tap0"), expected["tap0"])
    if format == "hdf5":
        mapped = store.to_numpy("train", "tap0", mmap=True)
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(mapped, expected["tap0"])
        assert not mapped.flags.writeable
    else:
        with pytest.raises(UsageError, match="convert it"):
            store.to_numpy("train", "tap0", mmap=True)
    lazy = store.to_dask("train", "tap0")
    assert (lazy.shape, lazy.dtype, lazy.chunks[-2][0]) == (expected["tap0"].shape, "float16", 32)
    np.testing.assert_array_equal(
        lazy[..., 30:40, :].compute(scheduler="sync"), expected["tap0"][..., 30:40, :]
    )
    np.testing.assert_array_equal(lazy.compute(scheduler="threads"), expected["tap0"])
    rows = store.to_torch_dataset("train", "tap0", view=store.spec.split("train").views - 1)
    features = expected["tap0"].reshape(-1, *expected["tap0"].shape[-2:])[-1]
    order = [5, 6, 7, 69, 0, 33, 33, -1]
    batch = rows.__getitems__(order)
    np.testing.assert_array_equal(np.stack([x.numpy() for x, _ in batch]), features[order])
    np.testing.assert_array_equal([int(y) for _, y in batch], expected["labels"][order])
    assert len(list(rows)) == len(rows) == len(features)
    flip_bit(*place(store, "train", "labels", 1))
    with pytest.raises(StoreDamaged):
        store.to_torch_dataset("train", "tap0")


def test_dask_checks_what_it_reads(tmp_path):
    store = filled(tmp_path / "store", "zarr")
    flip_bit(*place(store, "train", "tap0", 1))
    lazy = store.to_dask("train", "tap0")
    assert lazy[:32].compute(scheduler="sync").shape == (32, 16)
    with pytest.raises(StoreDamaged):
        lazy.compute(scheduler="sync")
    assert store.to_dask("train", "tap0", verify=False).compute(scheduler="sync").shape == (100, 16)


def test_without_dask_the_extra_is_named(tmp_path, monkeypatch):
    store = filled(tmp_path / "store", "zarr")
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(FeatstoreError, match=r'pip install "featstore-probe\[dask\]"'):
        store.to_dask("train", "tap0")


# The commands, where stores lie at URLs.


def test_the_commands_take_urls(tmp_path, bucket):
    local = filled(tmp_path / "a.zarr", "zarr", spec_of(dims=(40,)))
    there = bucket / "a.zarr"
    run("convert", local.path, there, "--codec", "zstd")
    assert "complete" in run("ls", bucket).output or "all 6" in run("ls", bucket).output
    assert str(there) in run("info", there).output.replace("\n", "")
    assert "every committed block" in run("verify", there).output
    run("probe", there, "--fractions", "0.5", "--seeds", "1", "--solver", "ridge")
    run("export", there, "--fraction", 0.5, "--seed", 1, "--out", bucket / "half.zarr")
    run("convert", there, tmp_path / "b.h5")
    assert_holds_known_contents(featstore.open(tmp_path / "b.h5"))
    store = featstore.open(there)
    with store.writer() as writer:
        writer.discard("train", 0)
    assert "partial store" in run("gc", bucket, "--days", 0, "--yes").output
    with pytest.raises(StoreNotFound):
        featstore.open(there)
    run("rm", bucket / "half.zarr", "--yes")
    assert featstore.stores(bucket) == []

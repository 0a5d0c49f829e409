"""Damaged, foreign and full: each is found and named, and nothing that was intact is lost."""

import errno
import json
import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings, strategies as st
from store_examples import flip_bit, overwrite, place

import featstore
from featstore import durable
from featstore.errors import (
    DiskFull,
    FeatstoreError,
    FormatVersionError,
    NotAStore,
    SpecMismatch,
    StoreDamaged,
    StoreIncomplete,
    StoreNotFound,
    UsageError,
    WriterBusy,
)
from featstore.store import hdf5
from featstore.store.blocks import checksum_text
from featstore.store.layout import FORMAT_VERSION
from featstore.store.locks import locked
from featstore.testing import (
    FIXED,
    arrays_of,
    assert_holds_known_contents,
    block_of,
    fill,
    filled,
    spec_of,
)

pytestmark = pytest.mark.usefixtures("small_blocks")
FORMATS = pytest.mark.parametrize("format", featstore.FORMATS)


@pytest.fixture(params=featstore.FORMATS)
def store(request, tmp_path):
    return filled(tmp_path / "store", request.param, spec_of(dims=(16, 3)))


def found(store):
    return [(damage.split, damage.block, damage.array) for damage in store.verify()]


def bytes_below(path):
    if path.is_file():
        return path.read_bytes()
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


# Rows.


@pytest.mark.parametrize("array", ["tap0", "tap1", "labels", "ids"])
@pytest.mark.parametrize(("split", "block"), [("train", 0), ("train", 3), ("test", 1)])
def test_a_flipped_bit_is_found_named_and_mended_alone(store, split, block, array):
    whole = bytes_below(store.path)
    file, offset = place(store, split, array, block)
    flip_bit(file, offset + 5, bit=3)
    assert found(store) == [(split, block, array)]
    rows = store.rows_of(split, block)
    said = rf"block {block} of {split}/{array} \(rows {rows.start}:{rows.stop}\) does not have the"
    with pytest.raises(StoreDamaged, match=said):
        store.load(split, array)
    if array.startswith("tap") or array == "labels":
        tap = "tap0" if array == "labels" else array
        with pytest.raises(StoreDamaged, match=said):
            list(store.tap(split, tap))
        assert len(list(store.tap(split, tap, verify=False))) == store.n_blocks(split)

    with store.writer() as writer:
        writer.discard(split, block)
        assert store.missing(split) == [block]
        with pytest.raises(StoreIncomplete):
            store.tap(split, "tap0")
        writer.write(**block_of(store, split, block))
    assert found(store) == []
    assert bytes_below(store.path) == whole


def test_several_damages_are_all_found(store):
    for split, block, array in [("train", 1, "tap1"), ("train", 1, "ids"), ("test", 0, "labels")]:
        file, offset = place(store, split, array, block)
        flip_bit(file, offset)
    assert found(store) == [("train", 1, "tap1"), ("train", 1, "ids"), ("test", 0, "labels")]


def test_verify_reports_its_progress(store):
    seen = []
    store.verify(lambda *facts, **more: seen.append((*facts, more["damaged"])))
    assert seen == [("blocks", done, 6, 0) for done in range(1, 7)]


def test_padding_of_the_last_block_is_nobodys_data(tmp_path):
    store = filled(tmp_path / "store", "zarr")
    file, _ = place(store, "train", "tap0", 3)
    flip_bit(file, 31 * 32)
    assert store.verify() == []


def test_truncated_and_missing_chunks_are_found(tmp_path):
    store = filled(tmp_path / "store", "zarr")
    chunk = place(store, "train", "tap0", 1)[0]
    os.truncate(chunk, 100)
    assert [damage.why for damage in store.verify()] == ["is truncated: 100 of 1024 bytes"]
    chunk.unlink()
    assert [damage.why for damage in store.verify()] == ["is missing"]
    with pytest.raises(StoreDamaged, match=r"block 1 of train/tap0 \(rows 32:64\) is missing"):
        store.read("train", "tap0", 40, 50)
    with store.writer() as writer:
        writer.discard("train", 1)
        writer.write(**block_of(store, "train", 1))
    assert_holds_known_contents(store)


def test_a_truncated_hdf5_file_is_named(tmp_path):
    store = filled(tmp_path / "store", "hdf5")
    os.truncate(store.path, hdf5_size(store.path) - 1000)
    with pytest.raises(NotAStore, match=r"is a damaged HDF5 file: .*truncated"):
        featstore.open(store.path)
    with pytest.raises(StoreIncomplete):
        store.load("test", "tap0")


# HDF5's own metadata, and the seal behind them.


def hdf5_size(path):
    """Bytes of a sealed file that are HDF5's."""
    return hdf5._seal_of(path).size


def unsealed(store):
    """A store as an earlier release made it, and as one is that HDF5 has written to."""
    os.truncate(store.path, hdf5_size(store.path))
    return featstore.open(store.path)


def test_a_file_without_a_seal_is_read(tmp_path):
    store = filled(tmp_path / "store", "hdf5")
    old = unsealed(store)
    assert old.header == store.header
    assert_holds_known_contents(old)
    assert [str(damage) for damage in old.verify()] == ["seal: is missing or damaged"]
    with old.writer() as writer:
        writer.withdraw(old.verify())
    assert hdf5._seal_of(store.path) is not None
    assert featstore.open(store.path).verify() == []
    assert_holds_known_contents(featstore.open(store.path))
    with h5py.File(store.path, "a") as file:
        file.attrs["note"] = "mine"
    assert_holds_known_contents(featstore.open(store.path))


def test_flipped_metadata_of_hdf5_are_never_read_and_mended(tmp_path, monkeypatch):
    store = filled(tmp_path / "store", "hdf5")
    whole = store.path.read_bytes()
    seal = hdf5._seal_of(store.path)
    places = [at for gap in hdf5._gaps(seal.size, store._extents()) for at in range(*gap)]
    assert len(places) > 3000
    # it is not asked, neither here nor by another process
    monkeypatch.setattr(hdf5, "surveyed", None)
    for at in np.random.default_rng(0).choice(places, 40):
        flip_bit(store.path, at, at % 8)
        again = featstore.open(store.path)
        assert_holds_known_contents(again)
        (damage,) = again.verify()
        assert str(damage).startswith("metadata: do not have the checksum")
        with again.writer() as writer:
            writer.withdraw([damage])
        assert store.path.read_bytes() == whole


def test_a_flipped_bit_of_a_seal_is_found_and_mended(tmp_path):
    store = filled(tmp_path / "store", "hdf5")
    whole = store.path.read_bytes()
    start = int.from_bytes(whole[-48:-40], "little")
    for at in np.random.default_rng(1).integers(start, len(whole), 6):
        flip_bit(store.path, at, at % 8)
        again = featstore.open(store.path)
        assert_holds_known_contents(again)
        assert [str(damage) for damage in again.verify()] == ["seal: is missing or damaged"]
        store.path.write_bytes(whole)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "HDF5 crashes on it"),
        ("import time; time.sleep(60)", "HDF5 does not come to an end with it"),
    ],
)
def test_hdf5_may_crash_or_hang_over_a_file(tmp_path, does, said):
    store = filled(tmp_path / "store", "hdf5")
    os.truncate(store.path, hdf5_size(store.path))
    with pytest.raises(NotAStore, match=said):
        hdf5.surveyed(store.path, does, seconds=1.0)


@pytest.mark.parametrize("room", [100, 1000, 5000])
def test_no_room_for_a_new_file_is_told_and_leaves_nothing(tmp_path, room):
    ran = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(tmp_path / "store"), str(room)],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert "no room to make" in ran.stderr.splitlines()[-1]
    assert "DiskFull" in ran.stderr.splitlines()[-1]
    assert list(tmp_path.glob(".*")) + list(tmp_path.glob("store*")) == []


NO_ROOM = """
import resource, sys
from featstore.testing import spec_of
import featstore
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
featstore.create(sys.argv[1], spec_of(), "hdf5")
"""


# Records.


@pytest.mark.parametrize("byte", [0, 20, 33, 60, 200])
def test_a_damaged_record_is_no_record(store, byte):
    file, offset = place(store, "train", "commits", 2)
    flip_bit(file, offset + byte)
    assert store.missing("train") == [2]
    assert found(store) == [("train", 2, "commits")]
    assert fill(store) == [("train", 2)]
    assert found(store) == []
    assert_holds_known_contents(store)


@pytest.mark.parametrize("length", [0, 1, 40, 300])
def test_a_torn_record_is_no_record(store, length):
    file, offset = place(store, "train", "commits", 2)
    if store.format == "zarr":
        os.truncate(file, length)
    else:
        overwrite(file, offset + length, bytes(512 - length))
    assert store.missing("train") == [2]


def test_a_record_of_another_block_split_or_store_is_none(store, tmp_path):
    other = filled(tmp_path / "other", store.format, spec_of(dims=(16, 3), backbone="other"))
    for source in [(store, "train", 0), (store, "test", 1), (other, "train", 1)]:
        file, offset = place(source[0], source[1], "commits", source[2])
        record = file.read_bytes()[offset : offset + 512]
        target, offset = place(store, "train", "commits", 1)
        overwrite(target, offset, record)
        assert store.missing("train") == [1]


def test_data_is_on_the_disk_before_its_record(tmp_path, monkeypatch):
    """A block's files are synced between their writing and their record's, and that at the end."""
    store = featstore.create(tmp_path / "store", spec_of(dims=(16, 3)))
    # when each file was last written, and when a sync of a file or folder last began; blocks that
    # follow are written meanwhile, by another thread
    clock, written, synced, records, too_early = count(), {}, {}, set(), []
    write, sync = durable.write_at, durable.sync_files

    def durable_now(file):
        return min(synced.get(file, -1), synced.get(file.parent, -1)) > written[file]

    def write_spy(path, *rest, **more):
        if path.parent.name == "commits":
            split, block = path.parts[-3], int(path.name.split(".")[1])
            needed = {place(store, split, name, block)[0] for name in store.header.arrays(split)}
            too_early.extend(file for file in needed if not durable_now(file))
            records.add(path)
        write(path, *rest, **more)
        written[path] = next(clock)

    def sync_spy(paths):
        paths, begun = list(paths), next(clock)
        sync(paths)
        synced.update(dict.fromkeys(paths, begun))

    monkeypatch.setattr(durable, "write_at", write_spy)
    monkeypatch.setattr(durable, "sync_files", sync_spy)
    assert len(fill(store)) == len(records) == 6
    assert too_early == []
    assert all(durable_now(record) for record in records)


def test_an_incomplete_store_is_not_a_damaged_one(store):
    """A writer that was killed leaves no record, or zeros; neither is damage."""
    file, offset = place(store, "train", "commits", 1)
    overwrite(file, offset, bytes(512))
    assert found(store) == []
    assert store.missing("train") == [1]
    assert not store.complete


# What describes the arrays to other tools.


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "other", "folder"])
def test_every_metadata_document_is_held_against_the_header(tmp_path, damage):
    store = filled(tmp_path / "store", "zarr", spec_of(dims=(16, 3)))
    whole = bytes_below(store.path)
    documents = sorted(store.path.rglob("zarr.json"))
    assert len(documents) == 1 + 2 * (1 + 5)
    for document in documents:
        if document.parent == store.path and damage != "flip":
            continue
        text = document.read_bytes()
        key = str(document.relative_to(store.path))
        if damage == "flip":
            flip_bit(document, text.index(b'"zarr_format": 3') + 15)
        elif damage == "truncate":
            os.truncate(document, len(text) // 2)
        elif damage == "other":
            document.write_text('{"zarr_format": 3, "node_type": "array", "attributes": {"a": 1}}')
        else:
            document.unlink()
            if damage == "folder":
                document.mkdir()
        assert [each.array for each in store.misstated()] == [key]
        assert store.verify()[0].block is None
        if damage == "folder":
            document.rmdir()
        with store.writer() as writer:
            writer.withdraw(store.verify())
        assert bytes_below(store.path) == whole


def test_metadata_that_another_zarr_wrote_are_the_same(store):
    if store.format != "zarr":
        return
    document = store.path / "train" / "tap0" / "zarr.json"
    found = json.loads(document.read_text())
    document.write_text(json.dumps({**found, "dimension_names": None, "storage_transformers": []}))
    assert store.verify() == []


# Headers.


def header_place(store) -> tuple:
    """File, and the range of its bytes where the header stands."""
    file = store.path / "zarr.json" if store.format == "zarr" else store.path
    data = file.read_bytes()
    start = data.index(b'"format_version"')
    return file, start, data.index(b'"checksum"') + 46


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_flipped_bit_of_a_header_passes(store, data):
    file, start, stop = header_place(store)
    whole = file.read_bytes()
    try:
        flip_bit(file, data.draw(st.integers(start, stop - 1)), data.draw(st.integers(0, 7)))
        try:
            again = featstore.open(store.path)
        except (NotAStore, FormatVersionError):
            return
        assert again.header == store.header
    finally:
        file.write_bytes(whole)


def test_another_format_version_is_named_with_ours(store):
    if store.format == "hdf5":
        # a seal of this version says what the header was; one of another version is none
        unsealed(store)
    file, start, _ = header_place(store)
    data = file.read_bytes()
    at = data.index(b"1", start)
    overwrite(file, at, b"7")
    said = f"is in format version 7 and this release reads version {FORMAT_VERSION}"
    with pytest.raises(FormatVersionError, match=said):
        featstore.open(store.path)
    with pytest.raises(FormatVersionError):
        featstore.open_or_create(store.path, store.spec, store.format, overwrite=True)
    assert store.path.exists()


def test_a_header_of_the_first_release_is_read(tmp_path):
    """It wrote every field, and counted views by store."""
    store = filled(tmp_path / "store", "zarr")
    old = {
        "backbone": "toy", "weights": "random:0", "transform": "none", "dataset": "toy",
        "splits": [{"name": "train", "n_rows": 100, "fingerprint": "a"},
                   {"name": "test", "n_rows": 33, "fingerprint": "b"}],
        "taps": [{"name": "tap0", "dim": 16, "pooling": "avg"}], "dtype": "float16", "views": 1,
        "classes": ["class 0", "class 1", "class 2"], "limit": None,
    }  # fmt: skip
    fields = {"format_version": 1, "spec": old, "block_rows": 32, "id_width": 64, "provenance": {}}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    file = store.path / "zarr.json"
    root = json.loads(file.read_text())
    root["attributes"]["featstore"] = {**fields, "checksum": checksum_text(text)}
    file.write_text(json.dumps(root))
    assert featstore.open(store.path).spec == store.spec
    assert_holds_known_contents(featstore.open(store.path))


def test_a_header_says_nothing_of_what_is_at_its_default(store):
    """So that the first release, which refuses fields it does not know, reads it."""
    assert store.header.to_json()["spec"].keys() == {
        "backbone", "weights", "transform", "dataset", "splits", "taps", "dtype", "classes",
    }  # fmt: skip
    assert store.header.to_json()["spec"]["splits"][0].keys() == {"name", "n_rows", "fingerprint"}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"attributes": 3}', '{"attributes": {}}'])
def test_a_damaged_zarr_header_is_no_store(tmp_path, text):
    store = filled(tmp_path / "store", "zarr")
    (store.path / "zarr.json").write_text(text)
    with pytest.raises(NotAStore):
        featstore.open(store.path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [99, 16]),
        ("data_type", "float32"),
        ("codecs", [{"name": "bytes", "configuration": {"endian": "big"}}]),
        ("codecs", [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}]),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [100, 16]}}),
    ],
)
def test_zarr_metadata_that_contradict_the_header_are_named(tmp_path, field, value):
    store = filled(tmp_path / "store", "zarr")
    file = store.path / "train" / "tap0" / "zarr.json"
    found = json.loads(file.read_text())
    found[field] = value
    file.write_text(json.dumps(found))
    with pytest.raises(NotAStore, match=r"train/tap0/zarr.json is not what the header"):
        featstore.open(store.path)


def test_hdf5_datasets_that_contradict_the_header_are_named(tmp_path):
    store = filled(tmp_path / "store", "hdf5")
    with h5py.File(store.path, "r+") as file:
        del file["train/tap0"]
    with pytest.raises(NotAStore, match="is a damaged HDF5 file"):
        featstore.open(store.path)
    with h5py.File(store.path, "r+") as file:
        file["train"].create_dataset("tap0", data=np.zeros((100, 16), "f2"), chunks=(10, 16))
    with pytest.raises(NotAStore, match=r"train/tap0 of .* is not what its header says"):
        featstore.open(store.path)


# Foreign things.


def make_folder(path):
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def make_empty(path):
    path.mkdir()


def make_text(path):
    path.write_text("years of work")


def make_zarr(path):
    zarr.create_array(str(path), data=np.zeros(3))


def make_hdf5(path):
    with h5py.File(path, "w") as file:
        file["mine"] = np.zeros(3)


def make_damaged(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


@pytest.mark.parametrize(
    "make", [make_folder, make_empty, make_text, make_zarr, make_hdf5, make_damaged]
)
@FORMATS
def test_what_is_not_a_store_is_never_opened_replaced_or_removed(tmp_path, make, format):
    path = tmp_path / "thing"
    make(path)
    before = bytes_below(path)
    for attempt in (
        lambda: featstore.open(path),
        lambda: featstore.remove(path),
        lambda: featstore.open_or_create(path, spec_of(), format),
        lambda: featstore.open_or_create(path, spec_of(), format, overwrite=True),
    ):
        with pytest.raises(NotAStore):
            attempt()
    with pytest.raises(UsageError, match="exists already"):
        featstore.create(path, spec_of(), format)
    assert path.exists()
    assert bytes_below(path) == before


def test_a_store_with_a_foreign_file_in_it_is_not_removed(tmp_path):
    store = filled(tmp_path / "store", "zarr")
    (store.path / "thesis.txt").write_text("years of work")
    with pytest.raises(NotAStore, match=r"holds 'thesis.txt', which featstore did not write"):
        featstore.open_or_create(store.path, spec_of(dims=(5,)), overwrite=True)
    assert store.complete


def test_nothing_at_the_path_says_how_to_get_a_store(tmp_path):
    with pytest.raises(StoreNotFound, match=r"no store at .*nowhere; make one with"):
        featstore.open(tmp_path / "nowhere")
    with pytest.raises(StoreNotFound):
        featstore.remove(tmp_path / "nowhere")


@FORMATS
def test_a_link_stands_for_its_store(tmp_path, format):
    store = filled(tmp_path / "store", format)
    link = tmp_path / "link"
    link.symlink_to(store.path)
    assert featstore.open(link).path == store.path
    with store.writer(), pytest.raises(WriterBusy):
        featstore.open(link).writer().__enter__()
    featstore.remove(link)
    assert not store.path.exists()


# Identity.


@FORMATS
def test_the_same_spec_finds_its_store_and_another_is_refused(tmp_path, format):
    path = tmp_path / "store"
    store = filled(path, format)
    before = bytes_below(path)
    again = featstore.open_or_create(path, spec_of(), format)
    assert again.complete
    with pytest.raises(SpecMismatch) as refused:
        featstore.open_or_create(path, spec_of(dims=(8,), dataset="other", limit=5), format)
    for said in ("dataset is 'toy', wanted 'other'", "taps.tap0.dim is 16, wanted 8",
                 "limit is None, wanted 5"):  # fmt: skip
        assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    wanted = {"zarr": "hdf5", "hdf5": "zarr"}[format]
    with pytest.raises(SpecMismatch, match=f"in format {format}, wanted {wanted}"):
        featstore.open_or_create(path, store.spec, wanted)
    assert bytes_below(path) == before

    new = featstore.open_or_create(path, spec_of(dims=(8,)), wanted, overwrite=True)
    assert new.missing("train") == [0, 1, 2, 3]
    assert fill(new)
    assert_holds_known_contents(featstore.open(path))


def test_long_differences_are_shortened(tmp_path):
    featstore.create(tmp_path / "store", spec_of())
    with pytest.raises(SpecMismatch) as refused:
        featstore.open_or_create(tmp_path / "store", spec_of(n_classes=1000))
    assert len(str(refused.value)) < 500


def test_a_format_that_is_none_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no store format 'npz'; choose zarr or hdf5"):
        featstore.create(tmp_path / "store", spec_of(), "npz")


@FORMATS
def test_a_place_that_cannot_be_written_is_named(tmp_path, format):
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(FeatstoreError, match=r"file cannot be made \((Not a dir|File exists)"):
        featstore.create(tmp_path / "file" / "store", spec_of(), format)
    with pytest.raises(FeatstoreError, match=r"/proc/store cannot be written: "):
        featstore.create("/proc/store", spec_of(), format)


@FORMATS
def test_two_creations_do_not_meet(tmp_path, format):
    path = tmp_path / "new" / "store"
    path.parent.mkdir()
    with locked(path), pytest.raises(WriterBusy):
        featstore.create(path, spec_of(), format)
    assert not path.exists()


@FORMATS
def test_leftovers_of_a_killed_creation_are_cleared(tmp_path, format):
    path = tmp_path / "[a]*store"
    (tmp_path / ".[a]*store.0badcafe.aside").mkdir()
    bystander = tmp_path / ".axstore.0badcafe.aside"
    bystander.mkdir()
    filled(path, format)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, bystander.name}


# Full disks.


class FullDisk:
    """Refuses bytes once so many were written, as a disk without room does."""

    def __init__(self, monkeypatch, room):
        self.room = room
        self._write = os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, fd, data, offset):
        if self.room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return self._write(fd, data, offset)


@FORMATS
@pytest.mark.parametrize("room", [0, 1500, 2500, 4000, 5000])
def test_a_full_disk_is_told_as_one_and_resumed(tmp_path, monkeypatch, format, room):
    store = featstore.create(tmp_path / "store", spec_of(), format, provenance=FIXED)
    with monkeypatch.context() as patched:
        FullDisk(patched, room)
        said = r"no room for .*store \(No space left on device\): (\d) of 6 blocks are committed"
        with pytest.raises(DiskFull, match=said) as full:
            fill(store)
    blocks = 6 - len(store.missing("train")) - len(store.missing("test"))
    assert f"{blocks} of 6 blocks" in str(full.value)
    rows = sum(len(store.rows_of(s, b)) for s in ("train", "test") for b in store.missing(s))
    assert f"the rest needs {rows * (16 * 2 + 8 + 64) / 1e6:.1f} MB" in str(full.value)
    assert found(store) == []
    assert len(fill(store)) == 6 - blocks
    whole = filled(tmp_path / "whole", format)
    assert bytes_below(store.path) == bytes_below(whole.path) or format == "zarr"
    assert_holds_known_contents(store)


@FORMATS
def test_a_sync_that_fails_commits_nothing(tmp_path, monkeypatch, format):
    store = featstore.create(tmp_path / "store", spec_of(), format)
    with monkeypatch.context() as patched:
        patched.setattr(durable, "sync_files", refuse_with(errno.EDQUOT))
        with pytest.raises(DiskFull, match="0 of 6 blocks are committed and intact"):
            fill(store)
    assert store.missing("train") == [0, 1, 2, 3]
    with monkeypatch.context() as patched:
        patched.setattr(durable, "sync_files", refuse_with(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            fill(store)
    assert len(fill(store)) == 6


def refuse_with(number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    return refuse


@FORMATS
def test_no_room_for_a_new_store_leaves_nothing(tmp_path, monkeypatch, format):
    with monkeypatch.context() as patched:
        patched.setattr(durable, "sync_tree", refuse_with(errno.ENOSPC))
        with pytest.raises(DiskFull, match=r"no room to make .*store \(No space left on device\)"):
            featstore.create(tmp_path / "store", spec_of(), format)
        patched.setattr(durable, "sync_tree", refuse_with(errno.EIO))
        with pytest.raises(FeatstoreError, match="cannot be made"):
            featstore.create(tmp_path / "store", spec_of(), format)
    assert not list(tmp_path.glob("*store*"))
    assert not list(tmp_path.glob(".*store*"))
    filled(tmp_path / "store", format)


@FORMATS
def test_a_copied_store_is_the_same_store(tmp_path, format):
    """People copy stores about: the records travel with the rows."""
    store = filled(tmp_path / "store", format)
    copy = tmp_path / "elsewhere" / "copy"
    copy.parent.mkdir()
    (shutil.copytree if format == "zarr" else shutil.copy)(store.path, copy)
    moved = featstore.open(copy)
    assert moved.complete
    assert moved.verify() == []
    assert moved.tap("train", "tap0").fingerprint == store.tap("train", "tap0").fingerprint
    np.testing.assert_array_equal(
        moved.load("train", "tap0"), arrays_of(store.spec, "train")["tap0"]
    )

"""Stores beyond this machine: damage, kills and refusals."""

import os
import pickle
import random
import socket
import sys
import time
import warnings

import fsspec
import numpy as np
import pytest
from forked import processes
from loopback import no_network  # noqa: F401
from s3 import everything, fresh_bucket, fresh_memory  # noqa: F401

import featstore
from featstore.errors import (
    FeatstoreError,
    NotAStore,
    PlaceError,
    StoreDamaged,
    StoreNotFound,
    UsageError,
)
from featstore.places import Url, cache_folder, place
from featstore.store import layout, locks, remote, zarr
from featstore.store.remote import RemoteObjects, read_signed
from featstore.store.zarr import ZarrStore
from featstore.testing import FIXED, assert_holds_known_contents, block_of, fill, filled, spec_of

pytestmark = pytest.mark.usefixtures("small_blocks")
SPEC = spec_of(n_train=32 * 6, n_test=40, dims=(24, 7))


# Places.


@pytest.mark.parametrize(
    ("text", "name", "parent"),
    [
        ("s3://bucket/a/b.zarr/", "b.zarr", "s3://bucket/a"),
        ("s3://bucket/b.zarr", "b.zarr", "s3://bucket"),
        ("s3://bucket", "", "s3://bucket"),
        ("memory://b", "b", "memory://"),
        ("memory:///a/b", "b", "memory:///a"),
    ],
)
def test_urls_have_parts(text, name, parent):
    url = place(text)
    assert (url.name, str(url.parent)) == (name, parent)
    if name:
        assert str(url.with_name("c").parent / name) == str(url)
        assert str((url / "x").parent) == str(url)


def test_what_is_of_this_machine_is_a_path(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for text in (tmp_path / "link", f"file://{tmp_path}/link", str(tmp_path / "x" / ".." / "link")):
        assert place(text) == tmp_path / "there"
    store = filled(f"file://{tmp_path}/a%20b.zarr", "zarr")
    assert store.path == tmp_path / "a b.zarr"
    assert_holds_known_contents(featstore.open(tmp_path / "a b.zarr"))


def test_moments_of_a_url_are_kept_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {cache_folder(Url(f"s3://b/{name}"), "moments") for name in ("x", "y")}
    assert len(folders) == 2
    assert all(folder.is_relative_to(tmp_path) for folder in folders)
    with pytest.raises(UsageError, match="is a URL, and this needs a path"):
        os.path.exists(Url("s3://b/x"))


# Damage.


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_damaged_objects_are_named_and_mended(bucket, codec):
    store = filled(bucket / "store", "zarr", codec=codec)
    whole = everything(store.path)
    objects = RemoteObjects(store.path)
    chunk = whole["train/tap0/c.1.0"]
    for damaged, why in (
        (chunk[:-1] + bytes([chunk[-1] ^ 1]), ("checksum", "checksum")),
        (chunk[:40], ("truncated: 40", "cannot be decompressed")),
        (b"", ("truncated: 0", "cannot be decompressed")),
        (None, ("is missing", "is missing")),
    ):
        objects.drop("train/tap0/c.1.0")
        if damaged is not None:
            objects.put("train/tap0/c.1.0", damaged)
        (damage,) = store.verify()
        assert (damage.split, damage.block, damage.array) == ("train", 1, "tap0")
        assert why[codec == "zstd"] in damage.why
        with pytest.raises(StoreDamaged, match="block 1 of train/tap0"):
            list(store.tap("train", "tap0"))
    with store.writer() as writer:
        writer.discard("train", 1)
        writer.write(**block_of(store, "train", 1))
    assert everything(store.path) == whole


def test_a_store_can_be_pickled(bucket):
    store = pickle.loads(pickle.dumps(filled(bucket / "store", "zarr")))
    assert_holds_known_contents(store)


# Kills.


def write(path, ready):
    layout.BLOCK_BYTES = 1
    store = featstore.open_or_create(path, SPEC, provenance=FIXED)
    ready.set()
    fill(store, pause=lambda: time.sleep(0.05))


def test_a_killed_writer_costs_its_blocks_in_flight(s3, monkeypatch):
    bucket = s3 / "killed"
    path, instants = bucket / "store", random.Random(0)
    committed = 0
    for _ in range(2):
        ready = processes.Event()
        writer = processes.Process(target=write, args=(path, ready))
        writer.start()
        assert ready.wait(60)
        writer.join(instants.uniform(0.2, 0.6))
        writer.kill()
        writer.join()
        store = featstore.open(path)
        assert store.verify() == []
        now = len(store.blocks()) - sum(len(store.missing(s.name)) for s in SPEC.splits)
        assert now >= committed
        committed = now
    before = time.monotonic()
    fill(featstore.open_or_create(path, SPEC, provenance=FIXED))
    # the dead were of this machine, so that no lease had to lapse
    assert time.monotonic() - before < locks.LAPSE / 2
    filled(bucket / "whole", "zarr", SPEC)
    assert everything(path) == everything(bucket / "whole")
    names = {key.partition("/")[0] for key in RemoteObjects(bucket).all_keys()}
    assert names == {"store", "whole"}


def test_a_creation_that_was_cut_short_is_made_anew(bucket, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(ZarrStore, "plant", stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            featstore.create(bucket / "store", spec_of())
    assert len(everything(bucket / "store")) == 3
    with pytest.raises(StoreNotFound):
        featstore.open(bucket / "store")
    assert [item.what for item in featstore.abandoned(bucket, days=0)] == ["unfinished"]
    store = filled(bucket / "store", "zarr")
    assert_holds_known_contents(store)
    assert set(everything(store.path)) == set(everything(filled(bucket / "other", "zarr").path))


def stop_after(n):
    """A construction that is cut short after so many objects, one of which will not be needed."""

    def plant(objects, header):
        for key in ("val/zarr.json", "train/zarr.json")[:n]:
            objects.put(key, b"{}")
        raise KeyboardInterrupt

    return plant


def test_a_removal_that_was_cut_short_leaves_no_store(bucket, monkeypatch):
    store = filled(bucket / "store", "zarr")
    with monkeypatch.context() as patched:
        patched.setattr(zarr, "_clear", lambda objects: objects.drop("train/zarr.json"))
        featstore.remove(store.path)
    assert everything(store.path)
    with pytest.raises(StoreNotFound):
        featstore.open(store.path)
    (item,) = featstore.abandoned(bucket, days=0)
    featstore.collect(item)
    assert everything(store.path) == {}
    assert RemoteObjects(bucket).all_keys() == []


# Refusals.


def test_a_storage_that_does_not_answer_is_told_of_in_time(monkeypatch):
    """A word within seconds, with how often it is tried; a failure after the last time."""
    monkeypatch.setattr(remote, "WAITS", (0.1, 0.1))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "_cache", {})
    began, told = time.monotonic(), []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: told.append(
            (time.monotonic() - began, str(message))
        )
        with pytest.raises(PlaceError, match="cannot be reached"):
            featstore.open("s3://stores/a.zarr")
    assert [text.rpartition("; ")[2] for _, text in told] == [
        "try 2 of 3 in 0.1 s", "try 3 of 3 in 0.1 s",
    ]  # fmt: skip
    assert told[0][0] < 10


def test_what_passes_by_itself_is_tried_again(memory, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.01,) * 4)
    store = filled(memory / "store", "zarr")
    kind, failed = fsspec.get_filesystem_class("memory"), []

    def flaky(name):
        function = getattr(kind, name)

        def fails_first(self, *given, **more):
            if given not in failed:
                failed.append(given)
                raise ConnectionResetError("reset by peer")
            return function(self, *given, **more)

        monkeypatch.setattr(kind, name, fails_first)

    for name in ("cat_file", "pipe_file", "cp_file", "rm_file"):
        flaky(name)

    def use():
        assert_holds_known_contents(featstore.open(store.path))
        with store.writer() as writer:
            writer.discard("train", 0)
            writer.write(**block_of(store, "train", 0))
        assert store.verify() == []
        featstore.remove(store.path)

    with pytest.warns(UserWarning, match="reset by peer"):
        use()
    assert RemoteObjects(memory).all_keys() == []


def test_nothing_foreign_is_opened_replaced_or_removed(bucket):
    objects = RemoteObjects(bucket / "thing")
    objects.put("thesis.txt", b"years of work")
    for attempt in (featstore.open, featstore.remove):
        with pytest.raises(NotAStore):
            attempt(bucket / "thing")
    with pytest.raises(UsageError, match="exists already"):
        featstore.create(bucket / "thing", spec_of())
    store = filled(bucket / "store", "zarr")
    RemoteObjects(store.path).put("thesis.txt", b"years of work")
    with pytest.raises(NotAStore, match=r"holds 'thesis.txt', which featstore did not write"):
        featstore.remove(store.path)
    assert store.complete
    assert everything(bucket / "thing") == {"thesis.txt": b"years of work"}


def test_places_that_cannot_be_are_refused(s3, monkeypatch):
    for path, format, said in (
        ("nonsense://a/b", "zarr", "which fsspec does not know"),
        ("s3://stores", "zarr", "is a whole bucket; name a place in it, as s3://stores/mine.zarr"),
        ("s3://stores/a.h5", "hdf5", "an HDF5 store is a file of this machine"),
    ):
        with pytest.raises(UsageError, match=said):
            featstore.create(path, spec_of(), format)
    with pytest.raises(FeatstoreError, match="make its bucket first"):
        featstore.create("s3://nowhere/a.zarr", spec_of())
    with pytest.raises(StoreNotFound, match="there is no store at s3://stores/none"):
        featstore.open("s3://stores/none")
    assert featstore.stores("s3://stores/none") == []


@pytest.mark.parametrize(
    ("scheme", "module", "said"),
    [
        ("s3", "s3fs", r"featstore-probe\[s3\]"),
        ("gs", "gcsfs", r"featstore-probe\[gcs\]"),
        ("adl", "adlfs", "what adl needs"),
    ],
)
def test_a_missing_package_is_named_by_its_extra(monkeypatch, scheme, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    with pytest.raises(PlaceError, match=f"not installed: .*{said}"):
        featstore.open(f"{scheme}://bucket/a")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError("Forbidden"), r"access denied \(Forbidden\); check the credentials"),
        (OSError("reset by peer"), r"cannot be reached \(OSError: reset by peer\)"),
        (RuntimeError(), r"cannot be reached \(RuntimeError: RuntimeError\)"),
    ],
)
def test_what_a_storage_says_is_told_on_one_line(monkeypatch, error, said):
    store = filled(Url(f"memory://{type(error).__name__}/store"), "zarr")

    def refuse(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(fsspec.get_filesystem_class("memory"), "cat_file", refuse)
        for attempt in (lambda: store.load("train", "tap0"), lambda: featstore.open(store.path)):
            with pytest.raises(PlaceError, match=said):
                attempt()
    with store.writer() as writer:
        writer.discard("train", 0)

    def write_to_nowhere(patched):
        with store.writer() as writer:
            patched.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", refuse)
            writer.write(**block_of(store, "train", 0))
            writer.flush()

    with monkeypatch.context() as patched, pytest.raises(PlaceError, match=said):
        write_to_nowhere(patched)
    assert store.missing("train") == [0]


def test_bytes_on_their_way_are_bounded(monkeypatch):
    url, under_way, most = Url("memory://bounded"), [], []
    put = RemoteObjects.put

    def slowly(self, key, body, **more):
        under_way.append(len(body))
        most.append(sum(under_way))
        time.sleep(0.01)
        under_way.remove(len(body))
        return put(self, key, body, **more)

    monkeypatch.setattr(RemoteObjects, "put", slowly)
    objects = RemoteObjects(url, most_bytes=1000)
    for number in range(20):
        objects.write(str(number), memoryview(bytes(400)))
    objects.sync(map(str, range(20)))
    assert max(most) <= 1400
    assert len(objects.all_keys()) == 20
    assert np.array_equal(sorted(map(int, objects.all_keys())), range(20))


def test_a_complete_folder_is_not_listed(memory, monkeypatch):
    objects = RemoteObjects(memory)
    names = ["0", "1", "2"]
    assert objects.get_all("records", names, 8) == [None, None, None]
    objects.put("records/0", b"first")
    assert objects.get_all("records", names, 8) == [b"first", None, None]
    objects.put("records/2", b"last")
    assert objects.get_all("records", names, 8) == [b"first", None, b"last"]
    monkeypatch.setattr(objects, "entries", None)
    assert objects.get_all("records", names, 8) == [b"first", None, b"last"]


# Signed reads.


def test_a_url_is_signed_anew_when_it_is_old(s3, monkeypatch):
    fs = fsspec.filesystem("s3")
    fs.pipe_file("stores/once", b"bytes")
    signed, sign = [], type(fs).sign
    monkeypatch.setattr(remote, "_signed", {})
    monkeypatch.setattr(type(fs), "sign", lambda *given: signed.append(given) or sign(*given))
    for used_for, times in ((60.0, 1), (0.0, 2)):
        monkeypatch.setattr(remote, "_signed", {})
        signed.clear()
        for _ in range(2):
            assert "/once?" in remote.signed_url(fs, "stores/once", used_for)
            assert read_signed(fs, "stores/once", 0, memoryview(bytearray(9))) == 5
        assert len(signed) == times
    assert "/twice?" in remote.signed_url(fs, "stores/twice", most_kept=1)
    assert [path for _, path in remote._signed] == ["stores/twice"]


def test_bodies_come_by_signed_urls(s3, monkeypatch):
    store = filled(s3 / "signed", "zarr")
    fs = fsspec.filesystem("s3")
    out = bytearray(100)
    chunk = "stores/signed/train/tap0/c.1.0"
    whole = fs.cat_file(chunk)
    assert read_signed(fs, chunk, 1000, memoryview(out)) == 24
    assert bytes(out[:24]) == whole[1000:]
    with pytest.raises(FileNotFoundError):
        read_signed(fs, "stores/signed/none", 0, memoryview(out))
    assert read_signed(fsspec.filesystem("memory"), chunk, 0, memoryview(out)) is None
    # an own client reads, as before, what is not served by signed URLs
    for refuse in (
        lambda: monkeypatch.setattr(type(fs), "sign", lambda *_: "http://127.0.0.1:1/none"),
        lambda: monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1"),
    ):
        monkeypatch.setattr(remote, "_refused", set())
        monkeypatch.setattr(remote, "_pools", {})
        monkeypatch.setattr(remote, "_signed", {})
        refuse()
        assert read_signed(fs, chunk, 0, memoryview(out)) is None
        assert len(remote._refused) == 1
        assert_holds_known_contents(store)
        monkeypatch.undo()

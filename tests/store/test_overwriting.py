"""Stores that replace others: no source is lost, and the old one stays until the new is whole."""

import contextlib
import os
import random
import time

import numpy as np
import pytest
from forked import processes
from loopback import no_network  # noqa: F401
from s3 import everything, fresh_bucket  # noqa: F401

import featstore
from featstore import durable, places
from featstore.errors import NotAStore, SpecMismatch, StoreNotFound, UsageError, WriterBusy
from featstore.places import Url, place
from featstore.store import layout, zarr
from featstore.store.locks import Hold
from featstore.store.remote import RemoteObjects
from featstore.testing import FIXED, assert_holds_known_contents, fill, filled, spec_of

pytestmark = pytest.mark.usefixtures("small_blocks")
FORMATS = pytest.mark.parametrize("format", featstore.FORMATS)
OLD, NEW = spec_of(dims=(8,)), spec_of(n_train=32 * 6, dims=(24, 7))


def tree(path):
    if path.is_file():
        return path.read_bytes()
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


# A source that is its own result.


def spellings(path):
    """Other ways to name a path: through a link, up and down, and with more slashes."""
    link = path.with_name("link-to-it" + path.suffix)
    link.symlink_to(path)
    folder = path.with_name("folder-link")
    folder.symlink_to(path.parent, target_is_directory=True)
    return [
        path, link, folder / path.name, path.parent / "x" / ".." / path.name,
        f"{path.parent}//{path.name}/", f"file://{path}",
    ]  # fmt: skip


@pytest.mark.parametrize("overwrite", [True, False])
@FORMATS
def test_a_source_is_never_its_own_result(tmp_path, format, overwrite):
    suffix = {"zarr": ".zarr", "hdf5": ".h5"}[format]
    a, b = (filled(tmp_path / f"{name}{suffix}", format) for name in "ab")
    before = tree(a.path)
    for out in spellings(a.path):
        for attempt in (
            lambda out=out: featstore.export(a.path, out, [1, 2], overwrite=overwrite),
            lambda out=out: featstore.convert(a.path, out, overwrite=overwrite),
            lambda out=out: featstore.merge(
                a.path, b.path, out, names=("a", "b"), overwrite=overwrite
            ),
            lambda out=out: featstore.merge(
                b.path, a.path, out, names=("a", "b"), overwrite=overwrite
            ),
        ):
            with pytest.raises(UsageError, match="which is read for it; choose another place"):
                attempt()
    assert tree(a.path) == before


def test_a_file_that_is_linked_to_its_source_is_no_result(tmp_path):
    store = filled(tmp_path / "a.h5", "hdf5")
    (tmp_path / "a.npz").symlink_to(store.path)
    os.link(store.path, tmp_path / "a.parquet")
    for out in ("a.npz", "a.parquet"):
        with pytest.raises(UsageError, match="which is read for it"):
            featstore.export(store.path, tmp_path / out, [0], overwrite=True)
    assert_holds_known_contents(featstore.open(store.path))


def test_letters_case_is_seen_through_where_the_disk_knows_none(tmp_path, monkeypatch):
    store = filled(tmp_path / "a.zarr", "zarr")
    same = os.path.samefile
    monkeypatch.setattr(os.path, "samefile", lambda a, b: same(str(a).lower(), str(b).lower()))
    (tmp_path / "low").mkdir()
    with pytest.raises(UsageError, match="which is read for it"):
        featstore.convert(store.path, tmp_path / "A.Zarr", overwrite=True)


@pytest.mark.parametrize("spelt", ["{}/", "{}//", "{}/x/..", "{}/./"])
def test_a_url_is_the_same_however_it_is_spelt(bucket, spelt):
    store = filled(bucket / "a.zarr", "zarr")
    scheme, _, rest = str(bucket).partition("://")
    for text in (f"{scheme}://{rest}/a.zarr", f"{scheme}://{rest}//a.zarr"):
        with pytest.raises(UsageError, match="which is read for it"):
            featstore.convert(store.path, spelt.format(text), overwrite=True)
    assert places.same(Url("s3a://b/x"), Url("s3://b/x"))
    assert not places.same(Url("s3://b/x"), Url("gs://b/x"))
    assert not places.same(Url("s3://b/x"), place("/b/x"))


def test_no_store_lies_inside_another(tmp_path, bucket):
    for outer in (tmp_path / "a.zarr", bucket / "a.zarr"):
        store = filled(outer, "zarr")
        for inner in (store.path / "b.zarr", store.path / "train" / "b.zarr"):
            with pytest.raises(UsageError, match=r"would lie inside the store .*a\.zarr"):
                featstore.create(inner, spec_of())
        assert featstore.open(outer).verify() == []
    assert not (tmp_path / "a.zarr" / "b.zarr").exists()


# The old one stays until the new one is whole.


@FORMATS
@pytest.mark.parametrize("was", featstore.FORMATS)
def test_what_is_overwritten_is_there_until_the_new_one_is_complete(tmp_path, was, format):
    path = tmp_path / "store"
    old = filled(path, was, OLD)
    before = tree(path)
    new = featstore.open_or_create(path, NEW, format, overwrite=True, provenance=FIXED)
    assert tree(path) == before
    assert featstore.open(path).spec == OLD
    with pytest.raises(WriterBusy), new.writer(), featstore.open(path).writer():
        pass
    assert [store.path for store in featstore.stores(tmp_path)] == [path]
    # a run that was ended is gone on with
    fill(new)
    again = featstore.open_or_create(path, NEW, format, overwrite=True, provenance=FIXED)
    assert again.complete
    assert featstore.open(path).spec == OLD
    assert featstore.finish(again).path == path
    assert featstore.open(path).spec == NEW
    assert featstore.open(path).format == format
    assert_holds_known_contents(featstore.open(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]
    assert featstore.finish(old) is old


@FORMATS
def test_half_a_replacement_of_something_else_is_made_anew(tmp_path, format):
    path = tmp_path / "store"
    filled(path, format, OLD)
    featstore.open_or_create(path, NEW, format, overwrite=True)
    other = spec_of(backbone="other")
    new = featstore.open_or_create(path, other, format, overwrite=True)
    assert new.spec == other
    # and so is one of the same, once what it was to replace is another store
    fill(new)
    featstore.finish(new)
    stale = featstore.open_or_create(path, NEW, format, overwrite=True)
    fill(stale)
    featstore.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_not_overwritten(tmp_path):
    store = filled(tmp_path / "store", "zarr", OLD)
    (store.path / "thesis.txt").write_text("years of work")
    with pytest.raises(NotAStore, match=r"holds 'thesis.txt'"):
        featstore.open_or_create(store.path, NEW, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]
    with pytest.raises(SpecMismatch):
        featstore.open_or_create(store.path, NEW)


class Cut(BaseException):
    """The process ends here."""


def cut_at(monkeypatch, number):
    """Let the process end before the `number`th step that changes a name or deletes."""
    steps = []

    def counted(module, name):
        function = getattr(module, name)

        def step(*given, **more):
            steps.append(name)
            if len(steps) > number:
                raise Cut
            return function(*given, **more)

        monkeypatch.setattr(module, name, step)

    for module, name in (
        (os, "rename"), (os, "replace"), (durable, "exchange"),
        (featstore.store.creation, "_delete"),
        (zarr.RemoteObjects, "put"), (zarr.RemoteObjects, "drop_all"),
        (zarr.RemoteObjects, "copy_all"),
    ):  # fmt: skip
        counted(module, name)
    return steps


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(("was", "format"), [("zarr", "zarr"), ("hdf5", "hdf5"), ("zarr", "hdf5")])
def test_cut_short_at_any_step_one_of_the_two_is_there(
    tmp_path, monkeypatch, was, format, number, exchanges
):
    path = tmp_path / "store"
    filled(path, was, OLD)
    new = featstore.open_or_create(path, NEW, format, overwrite=True)
    fill(new)
    with monkeypatch.context() as patched:
        if not exchanges:
            patched.setattr(durable, "exchange", lambda *_: False)
        cut_at(patched, number)
        with contextlib.suppress(Cut):
            featstore.finish(new)
    there = featstore.open(path)
    assert there.spec in (OLD, NEW)
    assert there.verify() == []
    assert there.path == path
    assert_holds_known_contents(there)
    again = featstore.finish(
        featstore.open_or_create(path, NEW, format, overwrite=there.spec == OLD)
    )
    assert again.complete
    assert_holds_known_contents(featstore.open(path))
    for item in featstore.abandoned(tmp_path, days=0):
        featstore.collect(item)
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]
    assert featstore.open(path).spec == NEW


@FORMATS
def test_what_another_has_built_to_replace_it_is_not_finished(tmp_path, format):
    path = tmp_path / "store"
    filled(path, format, OLD)
    new = featstore.open_or_create(path, NEW, format, overwrite=True)
    fill(new)
    featstore.remove(path)
    filled(path, format, OLD)
    fill(featstore.open_or_create(path, NEW, format, overwrite=True, provenance={"by": "another"}))
    with pytest.raises(WriterBusy, match="is not there any more: another process has replaced"):
        featstore.finish(new)
    assert featstore.open(path).spec == OLD


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=[pytest.mark.long]) for n in range(9)],
)
def test_cut_short_at_any_step_a_url_gives_one_of_the_two(bucket, monkeypatch, number):
    path = bucket / "store"
    filled(path, "zarr", OLD)
    new = featstore.open_or_create(path, NEW, overwrite=True)
    fill(new)
    with monkeypatch.context() as patched:
        steps = cut_at(patched, number)
        with contextlib.suppress(Cut):
            zarr.take_place(new.path, path, Hold())
    there = featstore.open(path)
    assert there.spec == (OLD if len(steps) == 1 and number == 0 else NEW)
    assert_holds_known_contents(there)
    again = featstore.finish(featstore.open_or_create(path, NEW, overwrite=there.spec == OLD))
    assert again.path == path
    assert_holds_known_contents(featstore.open(path))
    for item in featstore.abandoned(bucket, days=0):
        featstore.collect(item)
    names = {key.partition("/")[0] for key in RemoteObjects(bucket).all_keys()}
    assert names == {"store"}
    assert set(everything(path)) == set(everything(filled(bucket / "other", "zarr", NEW).path))


@pytest.mark.long
def test_an_unfinished_move_is_finished_by_gc_or_removed(bucket, monkeypatch):
    for remedy in ("gc", "rm"):
        path = bucket / remedy
        filled(path, "zarr", OLD)
        new = featstore.open_or_create(path, NEW, overwrite=True)
        fill(new)
        with monkeypatch.context() as patched:
            patched.setattr(zarr, "finish_move", lambda *_: None)
            zarr.take_place(new.path, path, Hold())
        assert [store.spec for store in featstore.stores(bucket)] == [NEW]
        if remedy == "gc":
            (item,) = featstore.abandoned(bucket, days=0)
            featstore.collect(item)
            assert_holds_known_contents(featstore.open(path))
        featstore.remove(path)
        with pytest.raises(StoreNotFound):
            featstore.open(path)
        assert RemoteObjects(bucket).all_keys() == []


def overwrite(path, format, ready):
    layout.BLOCK_BYTES = 1
    ready.set()
    store = featstore.open_or_create(path, NEW, format, overwrite=True, provenance=FIXED)
    fill(store, pause=lambda: time.sleep(0.001))
    featstore.finish(store)


@FORMATS
def test_killed_at_any_instant_the_old_or_the_new_is_there(tmp_path, format):
    instants, path = random.Random(3), tmp_path / "store"
    filled(path, format, OLD)
    seen, longest = set(), 0.3
    for _ in range(25):
        ready = processes.Event()
        process = processes.Process(target=overwrite, args=(path, format, ready))
        process.start()
        assert ready.wait(60)
        process.join(instants.uniform(0, longest))
        process.kill()
        process.join()
        there = featstore.open(path)
        assert_holds_known_contents(there)
        seen.add(there.spec.digest())
        longest *= 0.8 if process.exitcode == 0 else 1.1
    assert NEW.digest() in seen
    featstore.finish(featstore.open_or_create(path, NEW, format, overwrite=True))
    for item in featstore.abandoned(tmp_path, days=0):
        featstore.collect(item)
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_importing_over_a_store_keeps_it_until_the_end(tmp_path):
    random = np.random.default_rng(0)
    for name, rows in (("train", 70), ("test", 40)):
        np.save(tmp_path / f"{name}.npy", random.normal(size=(rows, 5)).astype("f4"))
        np.save(tmp_path / f"{name}_y.npy", np.arange(rows) % 3)
    pairs = [(tmp_path / f"{s}.npy", tmp_path / f"{s}_y.npy") for s in ("train", "test")]
    path = tmp_path / "store.zarr"
    filled(path, "zarr", OLD)

    def stop(stage, done, total, **facts):
        if stage == "rows":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        featstore.import_arrays(*pairs, path, overwrite=True, progress=stop)
    assert_holds_known_contents(featstore.open(path))
    done = featstore.import_arrays(*pairs, path, overwrite=True)
    assert done.path == path
    assert featstore.open(path).spec.backbone == "import"
    np.testing.assert_array_equal(
        featstore.open(path).load("train", "features"), np.load(pairs[0][0])
    )

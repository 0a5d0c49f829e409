"""The store root: where stores lie by default, and which is taken when none is named."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

import featstore
from featstore.cli import main
from featstore.errors import FeatstoreError, StoreNotFound
from featstore.store import catalog
from featstore.testing import block_of, fill, filled, spec_of

FORMATS = pytest.mark.parametrize("format", featstore.FORMATS)


def test_the_root_is_the_variable_or_the_platforms(store_root, monkeypatch):
    assert catalog.store_root() == store_root
    monkeypatch.setenv("FEATSTORE_HOME", "~/here")
    assert catalog.store_root() == Path.home() / "here"
    for unset in ("", None):
        monkeypatch.delenv("FEATSTORE_HOME", raising=False)
        if unset is not None:
            monkeypatch.setenv("FEATSTORE_HOME", unset)
        assert catalog.store_root() == Path(platformdirs.user_data_dir("featstore"))


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_name_leaves_the_root(backbone, dataset):
    path = catalog.default_path(spec_of(backbone=backbone, dataset=dataset))
    assert path.parent == catalog.store_root()
    assert not path.name.startswith((".", "-"))
    assert len(path.name) < 140
    assert path.name.isascii()
    assert path.name.isprintable()
    assert not set(path.name) & set("/\\: \0")


def test_names_that_look_alike_do_not_share_a_path():
    paths = {catalog.default_path(spec_of(backbone=name)) for name in ("a/b", "a:b", "a b", "a-b")}
    assert len(paths) == 4


@FORMATS
def test_a_default_path_takes_a_store(format):
    spec = spec_of(backbone="timm/../../x", dataset="folder:/data")
    store = filled(catalog.default_path(spec, format), format, spec)
    assert featstore.stores()[0].path == store.path
    assert store.path.suffix == {"zarr": ".zarr", "hdf5": ".h5"}[format]


def test_no_root_has_no_stores(store_root):
    assert not store_root.exists()
    assert featstore.stores() == []


def made(path, format="zarr", **provenance):
    """A complete store that numbers itself, as all do that are not made for a test's bytes."""
    store = featstore.create(path, spec_of(), format, provenance=provenance)
    fill(store)
    return store


def test_only_stores_are_listed_the_last_made_first(store_root):
    one, two = made(store_root / "one"), made(store_root / "two", "hdf5")
    begun = featstore.create(store_root / "begun", spec_of())
    (store_root / "notes.txt").write_text("mine")
    (store_root / "folder").mkdir()
    np.save(store_root / "array.npy", np.zeros(3))
    (store_root / "one.lock").touch()
    assert [store.path for store in featstore.stores()] == [begun.path, two.path, one.path]
    assert featstore.newest_complete().path == two.path
    assert [store.sequence for store in featstore.stores()] == [3, 2, 1]


def test_no_clock_says_which_store_is_the_newest(store_root):
    one, two = made(store_root / "one"), made(store_root / "two")
    for store, year in ((one, 2090), (two, 1980)):
        seconds = (year - 1970) * 365 * 86400
        for entry in [store.path, *store.path.rglob("*")]:
            os.utime(entry, (seconds, seconds))
    with one.writer() as writer:
        writer.discard("train", 0)
        writer.write(**block_of(one, "train", 0))
    assert [store.path for store in featstore.stores()] == [two.path, one.path]
    assert featstore.newest_complete().path == two.path


def test_of_stores_without_a_number_the_last_written_to_is_the_newest(store_root):
    one, two = filled(store_root / "one", "zarr"), filled(store_root / "two", "hdf5")
    assert featstore.newest_complete().path == two.path
    time.sleep(0.02)
    with one.writer() as writer:
        writer.discard("train", 0)
        writer.write(**block_of(one, "train", 0))
    assert featstore.newest_complete().path == one.path


def test_a_store_of_this_folder_comes_before_one_of_another_project(
    store_root, tmp_path, monkeypatch
):
    for project in ("mine", "theirs"):
        (tmp_path / project).mkdir()
        monkeypatch.chdir(tmp_path / project)
        made(store_root / project)
    assert featstore.newest_complete().path.name == "theirs"
    monkeypatch.chdir(tmp_path / "mine")
    assert featstore.newest_complete().path.name == "mine"
    assert featstore.newest_complete(tmp_path / "theirs").path.name == "theirs"
    monkeypatch.chdir(tmp_path)
    assert featstore.newest_complete().path.name == "theirs"


BAD = {
    "pipe.zarr": os.mkfifo,
    "pipe": os.mkfifo,
    "loop.zarr": lambda path: path.symlink_to(path),
    "loop": lambda path: path.symlink_to(path),
    "zeros.h5": lambda path: path.symlink_to("/dev/zero"),
    "gone.zarr": lambda path: path.symlink_to(path.with_name("nowhere")),
    "text.h5": lambda path: path.write_text("years of work"),
    "empty.zarr": lambda path: path.mkdir(),
    "json.zarr": lambda path: (path.mkdir(), (path / "zarr.json").write_text("[" * 10**5)),
    "piped.zarr": lambda path: (path.mkdir(), os.mkfifo(path / "zarr.json")),
    "looped.zarr": lambda path: (path.mkdir(), (path / "zarr.json").symlink_to("zarr.json")),
    "number.zarr": lambda path: (path.mkdir(), (path / "zarr.json").write_text("7" * 5000)),
    "damaged.h5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "folder.zarr": lambda path: (path / "zarr.json").mkdir(parents=True),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_entry_is_one_line_and_hides_no_store(store_root, name):
    store = made(store_root / "good.zarr")
    BAD[name](store_root / name)
    found, unusable = catalog.survey()
    assert [each.path for each in found] == [store.path]
    # a link that leads nowhere is not there
    assert [each.path.name for each in unusable] == ([] if name == "gone.zarr" else [name])
    assert all(each.why and "\n" not in each.why for each in unusable)
    assert featstore.newest_complete().path == store.path
    assert featstore.abandoned(days=0) == []
    ran = CliRunner().invoke(main, ["ls"])
    assert ran.exit_code == 0
    assert "good.zarr" in ran.stdout
    assert [line for line in ran.stderr.splitlines() if line.startswith("Warning: ")] == [
        f"Warning: {name} cannot be used: {each.why}" for each in unusable
    ]
    with pytest.raises(FeatstoreError):
        featstore.open(store_root / name)


@FORMATS
def test_a_store_that_is_named_itself_is_listed(store_root, format):
    store = made(store_root / f"a{catalog.SUFFIXES[format]}", format)
    made(store_root / "other.zarr")
    found, unusable = catalog.survey(store.path)
    assert ([each.path for each in found], unusable) == ([store.path], [])
    ran = CliRunner().invoke(main, ["ls", str(store.path)])
    assert (ran.exit_code, store.path.name in ran.stdout) == (0, True)
    assert "Warning" not in ran.stderr


@pytest.mark.parametrize("what", ["commits", "train", "labels"])
def test_a_store_without_some_folder_is_listed(store_root, what):
    store = made(store_root / "good.zarr")
    bad = made(store_root / "bad.zarr")
    shutil.rmtree(bad.path / ("train" if what == "train" else f"train/{what}"))
    ran = CliRunner().invoke(main, ["ls"])
    assert ran.exit_code == 0, ran.output
    assert featstore.newest_complete().path == store.path
    CliRunner().invoke(main, ["gc", "--yes", "--days", "0"])
    assert featstore.newest_complete().path == store.path


def test_without_a_complete_store_the_remedy_is_told(store_root):
    with pytest.raises(StoreNotFound, match=r"no complete store under .*home; make one"):
        featstore.newest_complete()
    store = featstore.create(store_root / "begun", spec_of())
    with pytest.raises(StoreNotFound, match="1 there are incomplete: run what made"):
        featstore.newest_complete()
    fill(store)
    assert featstore.newest_complete().path == store.path

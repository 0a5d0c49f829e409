"""The store root: where stores lie by default, and which is taken when none is named."""

import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_examples import block_of, fill, filled, spec_of

import featstore
from featstore import catalog
from featstore.errors import StoreNotFound

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


def test_only_stores_are_listed_the_last_written_first(store_root):
    one = filled(store_root / "one", "zarr")
    two = filled(store_root / "two", "hdf5")
    begun = featstore.create(store_root / "begun", spec_of())
    (store_root / "notes.txt").write_text("mine")
    (store_root / "folder").mkdir()
    np.save(store_root / "array.npy", np.zeros(3))
    (store_root / "one.lock").touch()
    assert [store.path for store in featstore.stores()] == [begun.path, two.path, one.path]
    assert featstore.newest_complete().path == two.path

    time.sleep(0.02)
    with one.writer() as writer:
        writer.discard("train", 0)
    assert featstore.stores()[0].path == one.path
    assert featstore.newest_complete().path == two.path
    with one.writer() as writer:
        writer.write(**block_of(one, "train", 0))
    assert featstore.newest_complete().path == one.path


def test_without_a_complete_store_the_remedy_is_told(store_root):
    with pytest.raises(StoreNotFound, match=r"no complete store under .*home; make one"):
        featstore.newest_complete()
    store = featstore.create(store_root / "begun", spec_of())
    with pytest.raises(StoreNotFound, match="1 there are incomplete: run what made"):
        featstore.newest_complete()
    fill(store)
    assert featstore.newest_complete().path == store.path

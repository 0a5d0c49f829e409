"""Fixtures of every test: a store root of its own, no network, and small real stores."""

import os

# pytest runs as many processes as there are cores, so that one thread in each is enough; libraries
# read this when they are imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from loopback import refuse_all_but
from s3 import quick_leases, s3_server  # noqa: F401

import featstore
from featstore.store import layout

N_TRAIN, N_TEST, N_FEATURES, N_CLASSES = 240, 80, 64, 4


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Return one process more than there are cores, since tests wait for processes of their own."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Begin with the tests that take long, so that no process waits for one in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def store_root(tmp_path, monkeypatch):
    """A store root that only this test sees."""
    root = tmp_path / "featstore-home"
    monkeypatch.setenv("FEATSTORE_HOME", str(root))
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing is reachable."""
    refuse_all_but(monkeypatch)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 32 rows, the fewest there can be, so that small stores have several."""
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1)


def clusters(n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (n_rows, 64) float16 of four overlapping clusters, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_rows) % N_CLASSES
    centres = np.random.default_rng(0).normal(size=(N_CLASSES, N_FEATURES))
    features = centres[labels] + 2.5 * random.normal(size=(n_rows, N_FEATURES))
    return features.astype(np.float16), labels


def spec_of_clusters(**changes) -> featstore.Spec:
    """The spec of a store of `clusters`."""
    fields = {
        "backbone": "clusters",
        "weights": "none",
        "transform": "none",
        "dataset": "clusters",
        "splits": (
            featstore.Split(name="train", n_rows=N_TRAIN, fingerprint="train-of-clusters"),
            featstore.Split(name="test", n_rows=N_TEST, fingerprint="test-of-clusters"),
        ),
        "taps": (featstore.Tap(name="penultimate", dim=N_FEATURES, pooling="none"),),
        "dtype": "float16",
        "classes": tuple("abcd"),
    }
    return featstore.Spec(**{**fields, **changes})


def fill(store: featstore.Store, splits=("train", "test")) -> featstore.Store:
    """Write the blocks of these splits."""
    with store.writer() as writer:
        for seed, split in enumerate(splits, 1):
            n_rows = store.spec.split(split).n_rows
            features, labels = clusters(n_rows, seed)
            for block in range(store.n_blocks(split)):
                rows = slice(store.rows_of(split, block).start, store.rows_of(split, block).stop)
                ids = [f"{split}/{row}" for row in range(rows.start, rows.stop)]
                writer.write(split, block, {"penultimate": features[rows]}, labels[rows], ids)
    return store


@pytest.fixture(params=["zarr", "hdf5"])
def any_store(request, tmp_path):
    """A complete store of four clusters, once in each format."""
    path = tmp_path / f"clusters.{request.param}"
    return fill(featstore.create(path, spec_of_clusters(), request.param))


@pytest.fixture
def tiny_store(tmp_path):
    """A complete Zarr store of four clusters."""
    return fill(featstore.create(tmp_path / "clusters.zarr", spec_of_clusters()))

"""Small stores with known contents, for the tests of the store."""

from pathlib import Path

import numpy as np
import pytest

import featstore
from featstore.places import Url
from featstore.store import layout

# What differs from one creation to the next; a store's provenance may say it itself.
FIXED = {"created": "then", "versions": {}, "folder": "there", "sequence": 0}


def spec_of(
    n_train=100, n_test=33, dims=(16,), dtype="float16", n_classes=3, views=1, **fields
) -> featstore.Spec:
    """Two splits, train of several views where asked, and taps of these widths."""
    return featstore.Spec(
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


def arrays_of(spec: featstore.Spec, split: str) -> dict[str, np.ndarray]:
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
    return {**features, "labels": labels, "ids": [f"{split}/{i}.png" for i in range(n_rows)]}


def block_of(store: featstore.Store, split: str, block: int) -> dict:
    """The arguments of `Writer.write` for one block of the known contents."""
    rows = slice(store.rows_of(split, block).start, store.rows_of(split, block).stop)
    arrays = arrays_of(store.spec, split)
    return {
        "split": split,
        "block": block,
        "features": {tap.name: arrays[tap.name][..., rows, :] for tap in store.spec.taps},
        "labels": arrays["labels"][rows],
        "ids": arrays["ids"][rows],
    }


def fill(store: featstore.Store, *, pause=lambda: None) -> list[tuple[str, int]]:
    """Write the missing blocks; returns which those were."""
    written = []
    with store.writer() as writer:
        for split in (split.name for split in store.spec.splits):
            for block in store.missing(split):
                writer.write(**block_of(store, split, block))
                written.append((split, block))
                pause()
    return written


def filled(
    path: Path | Url, format: str, spec: featstore.Spec | None = None, **options
) -> featstore.Store:
    """A complete store with the known contents."""
    store = featstore.create(path, spec or spec_of(), format, provenance=FIXED, **options)
    fill(store)
    return store


def assert_holds_known_contents(store: featstore.Store) -> None:
    for split in (split.name for split in store.spec.splits):
        expected = arrays_of(store.spec, split)
        for tap in store.spec.taps:
            np.testing.assert_array_equal(store.load(split, tap.name), expected[tap.name])
        np.testing.assert_array_equal(store.labels(split), expected["labels"])
        assert store.ids(split) == expected["ids"]


def place(store: featstore.Store, split: str, array: str, block: int) -> tuple[Path, int]:
    """File and offset of a block's bytes, or of its record, without asking the store."""
    if store.format == "zarr":
        one_axis = array == "labels"
        return store.path / split / array / f"c.{block}{'' if one_axis else '.0'}", 0
    import h5py

    with h5py.File(store.path, "r") as file:
        dataset = file[split][array]
        rows = 1 if array == "commits" else store.block_rows
        row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=int))
        return store.path, dataset.id.get_offset() + block * rows * row_bytes


def overwrite(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def flip_bit(file: Path, offset: int, bit: int = 0) -> None:
    with file.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ (1 << bit)]))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 32 rows, the fewest there can be, so that small stores have several."""
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1)

"""Where the bytes of a small store lie, and what damages them."""

from pathlib import Path

import numpy as np

import featstore


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

"""A store as one HDF5 file: every array contiguous, allocated before the first row is written.

h5py made it and reads it; rows go in and out by offset. No metadata of the file moves after its
creation, so that there is none for a kill to tear, and no library's handle to outlive a fork.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from featstore import commits, durable
from featstore.contract import Block, Piece, Store
from featstore.errors import NotAStore
from featstore.header import ATTRIBUTE, REMEDY, Header, parse
from featstore.layout import Array
from featstore.spec import COMMITS

# Arrays begin at a page, so that none shares one with another or with the metadata.
_ALIGNMENT = 4096


class Hdf5Store(Store):
    """A piece lies at its array's offset + (view * n_rows + block * block_rows) * a row's bytes."""

    format = "hdf5"

    def __init__(self, path: Path, header: Header):
        super().__init__(path, header)
        self._offsets = _offsets(path, header)

    @classmethod
    def build(cls, path: Path, header: Header) -> None:
        """Write the file with all its arrays allocated, as holes."""
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.CONTIGUOUS)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        properties.set_obj_track_times(False)
        with h5py.File(
            path, "x", alignment_threshold=_ALIGNMENT, alignment_interval=_ALIGNMENT
        ) as file:
            file.attrs[ATTRIBUTE] = json.dumps(header.to_json())
            for split in header.spec.splits:
                group = file.create_group(split.name)
                for name, array in _arrays(header, split.name).items():
                    h5py.h5d.create(
                        group.id,
                        name.encode(),
                        h5py.h5t.py_create(array.dtype),
                        h5py.h5s.create_simple(array.shape),
                        dcpl=properties,
                    )

    @classmethod
    def at(cls, path: Path) -> Self:
        """The store in the file `path`, its arrays checked against its header."""
        try:
            with h5py.File(path, "r", locking=False) as file:
                text = file.attrs.get(ATTRIBUTE)
        except OSError as error:
            raise NotAStore(f"{path} is a damaged HDF5 file: {error}; {REMEDY}") from None
        try:
            found = json.loads(text) if isinstance(text, str) else None
        except ValueError:
            raise NotAStore(f"the header of {path} is damaged: it is not JSON; {REMEDY}") from None
        return cls(path, parse(found, path))

    def read_bytes(self, piece: Piece, first: int, out: memoryview) -> int:
        """Read from the piece's place in the file."""
        return durable.read_at(self.path, self._place(piece, first), out)

    def write_bytes(self, piece: Piece, data: memoryview) -> None:
        """Write to the piece's place in the file."""
        durable.write_at(self.path, self._place(piece), data)

    def sync(self, data: Iterable[Block], records: Iterable[Block]) -> None:
        """Sync the file, once for all."""
        durable.sync_files([self.path])

    def read_record(self, split: str, block: int) -> bytes | None:
        """Read the record's slot."""
        out = bytearray(self._slot_bytes(split))
        there = durable.read_at(self.path, self._slot(split, block), memoryview(out))
        return bytes(out[:there])

    def read_records(self, split: str) -> list[bytes | None]:
        """Read all slots at once: they lie one after another."""
        size, n_blocks = self._slot_bytes(split), self.n_blocks(split)
        out = bytearray(size * n_blocks)
        there = durable.read_at(self.path, self._slot(split, 0), memoryview(out))
        slots = bytes(out[:there])
        return [slots[block * size : (block + 1) * size] for block in range(n_blocks)]

    def write_record(self, split: str, block: int, slot: bytes) -> None:
        """Write the slot in place."""
        durable.write_at(self.path, self._slot(split, block), memoryview(slot))

    def drop_record(self, split: str, block: int) -> None:
        """Fill the slot with zeros."""
        self.write_record(split, block, bytes(self._slot_bytes(split)))
        self.sync([], [(split, block)])

    def modified(self) -> int:
        """When the file last changed."""
        return self.path.stat().st_mtime_ns

    def bytes_on_disk(self) -> int:
        """Bytes the file takes on the disk, holes left out."""
        return self.path.stat().st_blocks * 512

    def offset(self, split: str, array: str) -> int:
        """Where in the file an array begins, whose rows follow one another."""
        return self._offsets[split, array]

    def _place(self, piece: Piece, first: int = 0) -> int:
        array = self.array(piece.split, piece.array)
        row = piece.view * array.n_rows + piece.block * self.block_rows + first
        return self._offsets[piece.split, piece.array] + row * array.row_bytes

    def _slot(self, split: str, block: int) -> int:
        return self._offsets[split, COMMITS] + block * self._slot_bytes(split)

    def _slot_bytes(self, split: str) -> int:
        return commits.slot_bytes(split, self.header.pieces(split))


def _arrays(header: Header, split: str) -> dict[str, Array]:
    """Every dataset of a split: the data, and the slots of the commit records."""
    slots = (header.n_blocks(split), commits.slot_bytes(split, header.pieces(split)))
    return {**header.arrays(split), COMMITS: Array(slots, np.dtype("u1"))}


def _offsets(path: Path, header: Header) -> dict[tuple[str, str], int]:
    """Where in the file each dataset begins; `NotAStore` where one is not what the header says."""
    offsets = {}
    try:
        with h5py.File(path, "r", locking=False) as file:
            for split in header.spec.splits:
                for name, array in _arrays(header, split.name).items():
                    dataset = file[split.name][name]
                    offset = dataset.id.get_offset()
                    same = (dataset.shape, dataset.dtype) == (array.shape, array.dtype)
                    if offset is None or not same:
                        raise NotAStore(
                            f"{split.name}/{name} of {path} is not what its header says; {REMEDY}"
                        )
                    offsets[split.name, name] = offset
    except (OSError, KeyError, RuntimeError) as error:
        raise NotAStore(f"{path} is a damaged HDF5 file: {error}; {REMEDY}") from None
    return offsets

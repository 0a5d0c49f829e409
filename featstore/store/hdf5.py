"""A store as one HDF5 file: every array contiguous, allocated before the first row is written.

h5py makes it, once; rows go in and out by offset. No metadata of the file moves after its creation,
so that there is none for a kill to tear, and no library's handle to outlive a fork.

Behind what HDF5 knows of the file lies a *seal*: the header once more, where each array begins,
and a checksum of every byte that is not of an array. What the seal says is believed. HDF5's own
metadata, which crash its library or hold it for ever where a bit of them is flipped, are not read.
A file without a seal, of an earlier release or one that another tool has written to, is looked at
by another process, for a few seconds.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import xxhash

from featstore import durable
from featstore.errors import NotAStore, StoreDamaged
from featstore.spec import COMMITS
from featstore.store import blocks
from featstore.store.base import Block, Damage, Piece
from featstore.store.blocks import checksum_text
from featstore.store.layout import ATTRIBUTE, REMEDY, Array, Header, parse
from featstore.store.store import Store

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Arrays begin at a page, so that none shares one with another or with the metadata.
_ALIGNMENT = 4096

# The last bytes of a sealed file: this, then where the seal's text begins, how long it is (8 bytes
# each, little-endian), and its checksum.
_MAGIC = b"featstore-seal-1"
_FOOTER = len(_MAGIC) + 8 + 8 + 32
_LONGEST_SEAL = 1 << 30

# In the provenance of a store whose file was made with a seal.
_SEALED = "sealed"

# What looks at a file without a seal, and how long it may take.
_SURVEY = """
import json, sys
import h5py
arrays = []
with h5py.File(sys.argv[1], "r", locking=False) as file:
    text = file.attrs.get(sys.argv[2])
    for split, group in file.items():
        for name, dataset in group.items() if isinstance(group, h5py.Group) else ():
            if isinstance(dataset, h5py.Dataset):
                facts = list(dataset.shape), dataset.dtype.str, dataset.id.get_offset()
                arrays.append([split, name, *facts])
print(json.dumps([text if isinstance(text, str) else None, arrays]))
"""

Offsets = dict[tuple[str, str], int]


@dataclass(frozen=True)
class _Seal:
    """Seal behind the HDF5 part of a file, which has `size` bytes."""

    header: dict[str, Any]
    offsets: Offsets
    metadata: str
    size: int


class Hdf5Store(Store):
    """A piece lies at its array's offset + (view * n_rows + block * block_rows) * a row's bytes."""

    format = "hdf5"
    made: ClassVar[dict[str, Any]] = {_SEALED: True}

    def __init__(self, path: Path, header: Header, offsets: Offsets | None = None):
        super().__init__(path, header)
        if offsets is None:
            seal = _seal_of(path)
            offsets = seal.offsets if seal else surveyed(path)[1]
        self._offsets = offsets

    @classmethod
    def build(cls, path: Path, header: Header) -> None:
        """Write the file with all its arrays allocated, as holes, and its seal behind them."""
        try:
            offsets = _build(path, header)
        except (OSError, RuntimeError) as error:
            # h5py says why in a text of its own, and of some failures not as an OSError.
            number = re.search(r"errno = (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        _append_seal(path, header, offsets, _size(path))

    @classmethod
    def at(cls, path: Path) -> Self:
        """The store in the file `path`, by its seal, or else by HDF5's metadata and its header."""
        seal = _seal_of(path)
        if seal:
            header = parse(seal.header, path)
            if seal.offsets.keys() != _places(header):
                raise NotAStore(f"{path} is a damaged HDF5 file: its seal is another's; {REMEDY}")
            return cls(path, header, seal.offsets)
        text, offsets, arrays = surveyed(path)
        try:
            found = json.loads(text) if isinstance(text, str) else None
        except ValueError:
            raise NotAStore(f"the header of {path} is damaged: it is not JSON; {REMEDY}") from None
        header = parse(found, path)
        for split, name in _places(header):
            array = _arrays(header, split)[name]
            there = arrays.get((split, name))
            if there is None:
                raise NotAStore(
                    f"{path} is a damaged HDF5 file: it has no {split}/{name}; {REMEDY}"
                )
            if there != (list(array.shape), array.dtype.str) or (split, name) not in offsets:
                raise NotAStore(f"{split}/{name} of {path} is not what its header says; {REMEDY}")
        return cls(path, header, offsets)

    @staticmethod
    def is_one(fd: int) -> bool:
        """Return whether an open file begins as one of HDF5's, or ends in a seal."""
        size = os.fstat(fd).st_size
        return durable.read_from(fd, len(SIGNATURE), 0) == SIGNATURE or is_sealed(
            durable.read_from(fd, _FOOTER, max(0, size - _FOOTER))
        )

    @staticmethod
    def glance(path: Path) -> dict[str, Any]:
        """The header as it stands in the seal, unchecked; {} where there is none."""
        seal = _seal_of(path)
        return seal.header if seal else {}

    def misstated(self) -> list[Damage]:
        """Return whether the file's own metadata, or its seal, have changed since their making."""
        seal = _seal_of(self.path)
        if seal is None:
            lost = self.provenance.get(_SEALED)
            return [Damage("", None, "seal", "is missing or damaged")] if lost else []
        if _metadata_checksum(self.path, seal.size, self._extents()) == seal.metadata:
            return []
        return [
            Damage("", None, "metadata", "do not have the checksum that they were written with")
        ]

    def restate(self) -> None:
        """Write the file's metadata, and its seal, as they were when it was made.

        Raises `StoreDamaged` where the installed HDF5 would lay the file out otherwise.
        """
        seal = _seal_of(self.path)
        if seal is None:
            _append_seal(self.path, self.header, self._offsets, _size(self.path))
        else:
            with durable.held_aside(self.path) as (made, _):
                _build(made, self.header, "w")
                made_as = _metadata_checksum(made, _size(made), self._extents())
                if made_as != seal.metadata:
                    raise StoreDamaged(
                        f"the metadata of {self.path} are damaged, its rows are not: copy them by"
                        " `featstore convert` to a new file"
                    )
                for start, stop in _gaps(seal.size, self._extents()):
                    data = bytearray(stop - start)
                    durable.read_at(made, start, memoryview(data))
                    durable.write_at(self.path, start, memoryview(data))
        durable.sync_files([self.path])

    def _extents(self) -> list[tuple[int, int]]:
        return _extents(self.header, self._offsets)

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
        """Return when the file last changed."""
        return self.path.stat().st_mtime_ns

    def bytes_on_disk(self) -> int:
        """Bytes the file takes on the disk, holes left out."""
        return self.path.stat().st_blocks * 512

    def offset(self, split: str, array: str) -> int:
        """Return the offset in the file of an array, whose rows follow one another."""
        return self._offsets[split, array]

    def _place(self, piece: Piece, first: int = 0) -> int:
        array = self.array(piece.split, piece.array)
        row = piece.view * array.n_rows + piece.block * self.block_rows + first
        return self._offsets[piece.split, piece.array] + row * array.row_bytes

    def _slot(self, split: str, block: int) -> int:
        return self._offsets[split, COMMITS] + block * self._slot_bytes(split)

    def _slot_bytes(self, split: str) -> int:
        return blocks.slot_bytes(split, self.header.pieces(split))


def _arrays(header: Header, split: str) -> dict[str, Array]:
    """Every dataset of a split: the data, and the slots of the commit records."""
    slots = (header.n_blocks(split), blocks.slot_bytes(split, header.pieces(split)))
    return {**header.arrays(split), COMMITS: Array(slots, np.dtype("u1"))}


def _places(header: Header) -> set[tuple[str, str]]:
    """Split and name of every dataset."""
    return {
        (split.name, name) for split in header.spec.splits for name in _arrays(header, split.name)
    }


def _build(path: Path, header: Header, mode: str = "x") -> Offsets:
    """Let HDF5 write the file, without its seal; returns where each array begins."""
    import h5py

    offsets = {}

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    with h5py.File(
        path, mode, locking=False, alignment_threshold=_ALIGNMENT, alignment_interval=_ALIGNMENT
    ) as file:
        file.attrs[ATTRIBUTE] = json.dumps(header.to_json())
        for split in header.spec.splits:
            group = file.create_group(split.name)
            for name, array in _arrays(header, split.name).items():
                dataset = h5py.h5d.create(
                    group.id,
                    name.encode(),
                    h5py.h5t.py_create(array.dtype),
                    h5py.h5s.create_simple(array.shape),
                    dcpl=properties,
                )
                offsets[split.name, name] = dataset.get_offset()
    return offsets


# The seal.


def is_sealed(tail: bytes) -> bool:
    """Return whether a file that ends in these bytes has a seal."""
    return tail[-_FOOTER:].startswith(_MAGIC)


def _size(path: Path) -> int:
    return path.stat().st_size


def _append_seal(path: Path, header: Header, offsets: Offsets, size: int) -> None:
    """Write the seal behind the first `size` bytes of a file."""
    metadata = _metadata_checksum(path, size, _extents(header, offsets))
    told = {
        "header": header.to_json(),
        "offsets": {f"{split}/{name}": offset for (split, name), offset in offsets.items()},
        "metadata": metadata,
        "size": size,
    }
    text = json.dumps(told).encode()
    start = -(-size // blocks.SLOT_UNIT) * blocks.SLOT_UNIT
    footer = _MAGIC + start.to_bytes(8, "little") + len(text).to_bytes(8, "little")
    durable.write_at(path, start, memoryview(text + footer + _checksum(text)))


def _checksum(text: bytes) -> bytes:
    return checksum_text(text.decode()).encode()


def _seal_of(path: Path) -> _Seal | None:
    """The seal of a file; None where there is none, or not a whole one."""
    try:
        size = _size(path)
        footer = bytearray(_FOOTER)
        durable.read_at(path, max(0, size - _FOOTER), memoryview(footer))
        start, length = (int.from_bytes(footer[at : at + 8], "little") for at in (16, 24))
        if not is_sealed(bytes(footer)) or start + length + _FOOTER != size:
            return None
        if length > _LONGEST_SEAL:
            return None
        text = bytearray(length)
        durable.read_at(path, start, memoryview(text))
        if xxhash.xxh3_128_hexdigest(bytes(text)).encode() != bytes(footer[32:]):
            return None
        told = json.loads(text)
        offsets = {tuple(key.split("/", 1)): int(offset) for key, offset in told["offsets"].items()}
        return _Seal(told["header"], offsets, told["metadata"], told["size"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _extents(header: Header, offsets: Offsets) -> list[tuple[int, int]]:
    """Return the begin and end of each array, in order."""
    found = []
    for (split, name), offset in offsets.items():
        array = _arrays(header, split)[name]
        rows = int(np.prod(array.shape, dtype=np.int64))
        found.append((offset, offset + rows * array.dtype.itemsize))
    return sorted(found)


def _gaps(size: int, extents: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of the first `size` bytes that are of no array."""
    at = 0
    for start, stop in [*extents, (size, size)]:
        if start > at:
            yield at, start
        at = max(at, stop)


def _metadata_checksum(path: Path, size: int, extents: list[tuple[int, int]]) -> str:
    content = xxhash.xxh3_128(f"{size}".encode())
    for start, stop in _gaps(size, extents):
        data = bytearray(stop - start)
        there = durable.read_at(path, start, memoryview(data))
        content.update(bytes(data[:there]))
    return content.hexdigest()


# What HDF5 says of a file.


def surveyed(
    path: Path, script: str = _SURVEY, seconds: float = 10.0
) -> tuple[Any, Offsets, Mapping[tuple[str, str], tuple[list[int], str]]]:
    """Header text, and of each dataset its offset, if contiguous, its shape and dtype."""
    text, told = told_of(path, script, ATTRIBUTE, seconds=seconds)
    offsets = {(split, name): at for split, name, _, _, at in told if at is not None}
    arrays = {(split, name): (shape, dtype) for split, name, shape, dtype, _ in told}
    return text, offsets, arrays


def told_of(
    path: Path, script: str, *words: str, remedy: str = REMEDY, seconds: float = 10.0
) -> Any:
    """Return what a script prints as JSON of an HDF5 file, in another process.

    HDF5 may crash on a damaged file or never come to an end with it: `NotAStore` where it does.
    """
    places = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    # it ends by itself where this process is killed meanwhile
    alarm = f"import signal; getattr(signal, 'alarm', id)({int(seconds) + 2})"
    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", f"{alarm}\n{script}", str(path), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env={**os.environ, "PYTHONPATH": places},
        )
    except subprocess.TimeoutExpired:
        raise NotAStore(
            f"{path} is a damaged HDF5 file: HDF5 does not come to an end with it; {remedy}"
        ) from None
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1].partition(": ")[2] or said[-1] if said else "HDF5 crashes on it"
        raise NotAStore(f"{path} is a damaged HDF5 file: {why}; {remedy}")
    return json.loads(ran.stdout)

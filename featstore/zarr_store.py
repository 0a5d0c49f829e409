"""A store as a Zarr v3 directory: a block of an array is one uncompressed chunk file.

Every Zarr tool reads it. The bytes go in and out without one, because a chunk file that is the raw
block is read straight into the array that is returned.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from featstore import commits, durable
from featstore.contract import Block, Piece, Store
from featstore.errors import NotAStore
from featstore.header import ATTRIBUTE, REMEDY, Header, parse
from featstore.layout import Array
from featstore.spec import COMMITS

METADATA = "zarr.json"


class ZarrStore(Store):
    """Chunks lie in `<split>/<array>/c.[<view>.]<block>[.0]`, records in `<split>/commits/`."""

    format = "zarr"

    @classmethod
    def build(cls, path: Path, header: Header) -> None:
        """Write the metadata of all groups and arrays below the new directory `path`."""
        import zarr

        attributes = {ATTRIBUTE: header.to_json()}
        root = zarr.create_group(str(path), zarr_format=3, attributes=attributes)
        for split in header.spec.splits:
            group = root.create_group(split.name)
            for name, (array, rows) in _chunked(header, split.name).items():
                group.create_array(
                    name,
                    shape=array.shape,
                    dtype=array.dtype.newbyteorder("="),
                    chunks=_chunk_shape(array, rows),
                    compressors=None,
                    filters=None,
                    fill_value=0,
                    # One flat folder an array: no folder to make, and to sync, for each chunk.
                    chunk_key_encoding={"name": "default", "separator": "."},
                )

    @classmethod
    def at(cls, path: Path) -> Self:
        """The store in the directory `path`, its metadata checked against its header."""
        found = _metadata(path / METADATA)
        attributes = found.get("attributes")
        header = parse(attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None, path)
        for split in header.spec.splits:
            for name, (array, rows) in _chunked(header, split.name).items():
                file = path / split.name / name / METADATA
                if not _fits(_metadata(file), array, rows):
                    raise NotAStore(f"{file} is not what the header of {path} says; {REMEDY}")
        return cls(path, header)

    def read_bytes(self, piece: Piece, first: int, out: memoryview) -> int:
        """Read from the piece's chunk file."""
        offset = first * self.array(piece.split, piece.array).row_bytes
        return durable.read_at(self._chunk(piece), offset, out)

    def write_bytes(self, piece: Piece, data: memoryview) -> None:
        """Write the piece's chunk file, of full size where the block is short: Zarr wants it so."""
        rows = min(self.block_rows, self.spec.split(piece.split).n_rows)
        size = rows * self.array(piece.split, piece.array).row_bytes
        durable.write_at(self._chunk(piece), 0, data, size=size)

    def sync(self, data: Iterable[Block], records: Iterable[Block]) -> None:
        """Sync the chunk files and the folders they are in."""
        files = [
            self._chunk(Piece(split, name, block, view))
            for split, block in data
            for name, array in self.header.arrays(split).items()
            for view in range(array.n_views)
        ]
        files += [self._chunk(Piece(split, COMMITS, block)) for split, block in records]
        durable.sync_files([*files, *{file.parent for file in files}])

    def read_record(self, split: str, block: int) -> bytes | None:
        """Read the record's chunk file."""
        try:
            return self._chunk(Piece(split, COMMITS, block)).read_bytes()
        except FileNotFoundError:
            return None

    def write_record(self, split: str, block: int, slot: bytes) -> None:
        """Write the record's chunk file."""
        durable.write_at(self._chunk(Piece(split, COMMITS, block)), 0, memoryview(slot))

    def drop_record(self, split: str, block: int) -> None:
        """Remove the record's file."""
        file = self._chunk(Piece(split, COMMITS, block))
        file.unlink(missing_ok=True)
        durable.sync_files([file.parent])

    def modified(self) -> int:
        """When an entry of a folder of records last changed."""
        folders = (self.path / split.name / COMMITS for split in self.spec.splits)
        return max(folder.stat().st_mtime_ns for folder in folders)

    def _chunk(self, piece: Piece) -> Path:
        axes = 2 if piece.array == COMMITS else len(self.array(piece.split, piece.array).shape)
        key = {1: f"c.{piece.block}", 2: f"c.{piece.block}.0", 3: f"c.{piece.view}.{piece.block}.0"}
        return self.path / piece.split / piece.array / key[axes]


def _chunked(header: Header, split: str) -> dict[str, tuple[Array, int]]:
    """Every Zarr array of a split with the rows of its chunks: the data, and the records."""
    arrays = header.arrays(split)
    slot = commits.slot_bytes(split, header.pieces(split))
    rows = min(header.block_rows, header.spec.split(split).n_rows)
    records = Array((header.n_blocks(split), slot), arrays["ids"].dtype)
    return {**{name: (array, rows) for name, array in arrays.items()}, COMMITS: (records, 1)}


def _chunk_shape(array: Array, rows: int) -> tuple[int, ...]:
    return (1, rows, *array.row_shape) if len(array.shape) == 3 else (rows, *array.row_shape)


def _metadata(file: Path) -> dict[str, Any]:
    """The JSON object in a metadata file; `NotAStore` where there is none."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise NotAStore(f"{file.parent} is not a featstore store: it has no {METADATA}") from None
    except ValueError:
        raise NotAStore(f"{file} is damaged: it is not JSON; {REMEDY}") from None
    if not isinstance(found, dict):
        raise NotAStore(f"{file} is damaged: it is not a JSON object; {REMEDY}")
    return found


def _fits(found: dict[str, Any], array: Array, rows: int) -> bool:
    """Whether an array's metadata says that its chunk files are raw little-endian blocks."""
    codecs = found.get("codecs")
    endian = {"endian": "little"} if array.dtype.itemsize > 1 else {}
    return (
        found.get("shape") == list(array.shape)
        and found.get("data_type") == array.dtype.name
        and found.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")
        == list(_chunk_shape(array, rows))
        and isinstance(codecs, list)
        and len(codecs) == 1
        and codecs[0].get("name") == "bytes"
        and (codecs[0].get("configuration") or {}) == endian
    )

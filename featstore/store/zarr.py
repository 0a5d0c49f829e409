"""Stores in Zarr v3, on a disk and at a URL."""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

from featstore.errors import NotAStore, UsageError
from featstore.places import Place, Url, replacement
from featstore.spec import COMMITS
from featstore.store import blocks, layout
from featstore.store.base import Block, Damage, Piece
from featstore.store.layout import ATTRIBUTE, REMEDY, Array, Header, parse
from featstore.store.locks import Hold
from featstore.store.objects import Objects, objects_at
from featstore.store.remote import RemoteObjects
from featstore.store.store import Store

METADATA = "zarr.json"

# What a version of zarr writes empty and another leaves out.
_OPTIONAL = (
    "attributes",
    "configuration",
    "consolidated_metadata",
    "dimension_names",
    "storage_transformers",
)


class ZarrStore(Store):
    """Chunks lie in `<split>/<array>/c.[<view>.]<block>[.0]`, records in `<split>/commits/`."""

    format = "zarr"

    def __init__(self, path: Place, header: Header):
        super().__init__(path, header)
        self._objects = objects_at(path)
        self.readers, self.ahead = self._objects.readers, self._objects.ahead

    @classmethod
    def build(cls, path: Place, header: Header) -> None:
        """Write the metadata of all groups and arrays, the root's last: then there is a store."""
        cls.plant(objects_at(path), header)

    @staticmethod
    def plant(objects: Objects, header: Header) -> None:
        """Write what `build` writes by these objects, under what lock they have."""
        documents = _documents(header)
        root = documents.pop(METADATA)
        objects.plant({**documents, METADATA: root})

    @classmethod
    def at(cls, path: Place) -> Self:
        """The store at `path`, its metadata checked against its header."""
        objects = objects_at(path)
        attributes = _metadata(objects, path, "").get("attributes")
        header = parse(attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None, path)
        expected = {
            f"{split.name}/{name}": chunked
            for split in header.spec.splits
            for name, chunked in _chunked(header, split.name).items()
        }
        with ThreadPoolExecutor(objects.readers) as pool:
            found = pool.map(lambda folder: _metadata(objects, path, folder), expected)
            for (folder, chunked), metadata in zip(expected.items(), found, strict=True):
                if not _fits(metadata, *chunked):
                    raise NotAStore(
                        f"{path}/{folder}/{METADATA} is not what the header of {path} says;"
                        f" {REMEDY}"
                    )
        return cls(path, header)

    def misstated(self) -> list[Damage]:
        """The metadata documents of groups and arrays that are not what zarr writes for the header.

        The header itself, in the root's document, has a checksum of its own.
        """
        with ThreadPoolExecutor(self._objects.readers) as pool:
            documents = _documents(self.header)
            return [
                Damage("", None, key, why)
                for key, why in zip(
                    documents, pool.map(self._misstatement, documents.items()), strict=True
                )
                if why
            ]

    def _misstatement(self, stated: tuple[str, bytes]) -> str | None:
        key, document = stated
        try:
            there = self._objects.get(key)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        if there is None:
            return "is missing"
        try:
            same = _plain(json.loads(there)) == _plain(json.loads(document))
        except ValueError:
            return "is not JSON"
        return None if same else "is not what the header says"

    def restate(self) -> None:
        """Write the metadata documents that are not what zarr writes for the header."""
        for key, document in _documents(self.header).items():
            if self._misstatement((key, document)):
                self._objects.put_held(key, document)

    @staticmethod
    def glance(path: Place) -> dict[str, Any]:
        """The header as it stands in the root's metadata, unchecked."""
        return _metadata(objects_at(path), path, "")["attributes"][ATTRIBUTE]

    def read_bytes(self, piece: Piece, first: int, out: memoryview) -> int:
        """Read from the piece's chunk, or decompress all of it."""
        array = self.array(piece.split, piece.array)
        offset = first * array.row_bytes
        if self.header.codec == "none":
            return self._objects.read(self._chunk(piece), offset, out)
        frame = self._objects.get(self._chunk(piece))
        if frame is None:
            raise FileNotFoundError(self._chunk(piece))
        out[:] = layout.decompress(frame, self._chunk_bytes(piece))[offset : offset + len(out)]
        return len(out)

    def write_bytes(self, piece: Piece, data: memoryview) -> None:
        """Write the piece's chunk, of full size where the block is short: Zarr wants it so."""
        size = self._chunk_bytes(piece)
        if self.header.codec == "none":
            self._objects.write(self._chunk(piece), data, size)
        else:
            self._objects.write(self._chunk(piece), memoryview(layout.compress(data, size)))

    def sync(self, data: Iterable[Block], records: Iterable[Block]) -> None:
        """Sync the chunks of all pieces, and the records."""
        pieces = [
            Piece(split, name, block, view)
            for split, block in data
            for name, array in self.header.arrays(split).items()
            for view in range(array.n_views)
        ]
        pieces += [Piece(split, COMMITS, block) for split, block in records]
        self._objects.sync([self._chunk(piece) for piece in pieces])

    @contextmanager
    def staged(self, hold: Hold) -> Iterator[None]:
        """Let objects be put where the hold says, and copied to their place while it is held."""
        self._objects.hold = hold
        try:
            yield
        finally:
            self._objects.hold = None

    def read_record(self, split: str, block: int) -> bytes | None:
        """Read the record's chunk."""
        return self._objects.get(self._chunk(Piece(split, COMMITS, block)))

    def read_records(self, split: str) -> list[bytes | None]:
        """Read the chunks of all records that are there."""
        names = [f"c.{block}.0" for block in range(self.n_blocks(split))]
        size = blocks.slot_bytes(split, self.header.pieces(split))
        return self._objects.get_all(f"{split}/{COMMITS}", names, size)

    def write_record(self, split: str, block: int, slot: bytes) -> None:
        """Write the record's chunk."""
        self._objects.write(self._chunk(Piece(split, COMMITS, block)), memoryview(slot))

    def drop_record(self, split: str, block: int) -> None:
        """Remove the record's chunk."""
        self._objects.drop(self._chunk(Piece(split, COMMITS, block)))

    def modified(self) -> int:
        """Return when a chunk of a record last came, or went."""
        return self._objects.modified([f"{split.name}/{COMMITS}" for split in self.spec.splits])

    def bytes_on_disk(self) -> int:
        """Bytes that the store takes, holes left out."""
        return self._objects.size()

    def _chunk(self, piece: Piece) -> str:
        axes = 2 if piece.array == COMMITS else len(self.array(piece.split, piece.array).shape)
        key = {1: f"c.{piece.block}", 2: f"c.{piece.block}.0", 3: f"c.{piece.view}.{piece.block}.0"}
        return f"{piece.split}/{piece.array}/{key[axes]}"

    def _chunk_bytes(self, piece: Piece) -> int:
        array = self.array(piece.split, piece.array)
        return min(self.block_rows, array.n_rows) * array.row_bytes


def _documents(header: Header) -> dict[str, bytes]:
    """The metadata that zarr writes for the tree, by key."""
    import zarr
    from zarr.storage import MemoryStore

    written: dict = {}
    attributes = {ATTRIBUTE: header.to_json()}
    root = zarr.create_group(MemoryStore(written), zarr_format=3, attributes=attributes)
    for split in header.spec.splits:
        group = root.create_group(split.name)
        for name, (array, rows, codec) in _chunked(header, split.name).items():
            group.create_array(
                name,
                shape=array.shape,
                dtype=array.dtype.newbyteorder("="),
                chunks=_chunk_shape(array, rows),
                compressors=layout.metadata(codec) or None,
                filters=None,
                fill_value=0,
                # One flat folder an array: no folder to make, and to sync, for each chunk.
                chunk_key_encoding={"name": "default", "separator": "."},
            )
    return {key: document.to_bytes() for key, document in written.items()}


def _plain(document: Any) -> Any:
    """A metadata document without the header, and without what may be empty or left out."""
    if isinstance(document, dict):
        plain = {key: _plain(value) for key, value in document.items() if key != ATTRIBUTE}
        return {key: value for key, value in plain.items() if value or key not in _OPTIONAL}
    return [_plain(each) for each in document] if isinstance(document, list) else document


def _chunked(header: Header, split: str) -> dict[str, tuple[Array, int, layout.Codec]]:
    """Every Zarr array of a split with the rows and the codec of its chunks: data, and records."""
    arrays = header.arrays(split)
    slot = blocks.slot_bytes(split, header.pieces(split))
    rows = min(header.block_rows, header.spec.split(split).n_rows)
    records = Array((header.n_blocks(split), slot), arrays["ids"].dtype)
    data = {name: (array, rows, header.codec) for name, array in arrays.items()}
    return {**data, COMMITS: (records, 1, "none")}


def _chunk_shape(array: Array, rows: int) -> tuple[int, ...]:
    return (1, rows, *array.row_shape) if len(array.shape) == 3 else (rows, *array.row_shape)


def _metadata(objects: Objects, path: Place, folder: str) -> dict[str, Any]:
    """The JSON object in the metadata of a folder; `NotAStore` where there is none."""
    key = f"{folder}/{METADATA}" if folder else METADATA
    where = path / folder if folder else path
    try:
        data = objects.get(key)
    except OSError as error:
        raise NotAStore(
            f"{where}/{METADATA} cannot be read ({error.strerror or error}); give a store's path"
        ) from None
    if data is None:
        raise NotAStore(f"{where} is not a featstore store: it has no {METADATA}")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise NotAStore(f"{where}/{METADATA} is damaged: it is not JSON; {REMEDY}") from None
    if not isinstance(found, dict):
        raise NotAStore(f"{where}/{METADATA} is damaged: it is not a JSON object; {REMEDY}")
    return found


def _fits(found: dict[str, Any], array: Array, rows: int, codec: layout.Codec) -> bool:
    """Return whether an array's metadata say little-endian pieces, so compressed."""
    steps = found.get("codecs")
    if not isinstance(steps, list) or not steps:
        return False
    bytes_, *compressors = steps
    endian = {"endian": "little"} if array.dtype.itemsize > 1 else {}
    return (
        found.get("shape") == list(array.shape)
        and found.get("data_type") == array.dtype.name
        and found.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")
        == list(_chunk_shape(array, rows))
        and bytes_.get("name") == "bytes"
        and (bytes_.get("configuration") or {}) == endian
        and [step.get("name") for step in compressors]
        == [step["name"] for step in layout.metadata(codec)]
    )


_MOVED = "moved_to"
_MARK = json.dumps(
    {"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: {"unfinished": True}}}
).encode()


def exists(url: Url) -> bool:
    """Return whether anything is at the URL but what was left unfinished."""
    objects = RemoteObjects(url)
    root = objects.get(METADATA)
    return bool(objects.entries()) if root is None else root != _MARK


def is_unfinished(url: Url) -> bool:
    """Return whether a creation or a removal was cut short at the URL."""
    return RemoteObjects(url).get(METADATA) == _MARK


def lies_at(url: Url) -> Url:
    """Return where the store of a URL lies: elsewhere only while a new one moves in."""
    moved = _ours(RemoteObjects(url).get(METADATA)).get(_MOVED)
    return url.with_name(moved) if moved == replacement(url).name else url


def _ours(root: bytes | None) -> dict[str, Any]:
    """Return what of a root's metadata is ours."""
    try:
        found = json.loads(root or b"null")["attributes"][ATTRIBUTE]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def check(url: Url) -> None:
    """Raise UsageError where the URL names no place for a store."""
    if not url.name:
        raise UsageError(f"{url} is a whole bucket; name a place in it, as {url}/mine.zarr")


def _held(url: Url, hold: Hold) -> RemoteObjects:
    """The objects at a URL, changed only while the lease is held: who was stopped learns it here.

    What is put is staged, and a deletion on S3 signed for a few seconds, so that nothing comes too
    late. Elsewhere a deletion that was stopped between its look at the lease and its request is
    done when its process wakes.
    """
    objects = RemoteObjects(url)
    objects.hold = hold
    return objects


def build(url: Url, header: Header, hold: Hold) -> None:
    """Make an empty store, over unfinished things at most, under the lease."""
    objects = _held(url, hold)
    if objects.get(METADATA) == _MARK:
        _clear(objects)
    objects.put_held(METADATA, _MARK)
    ZarrStore.plant(objects, header)


def check_removable(store: ZarrStore) -> None:
    """Raise NotAStore naming what lies in a store and is not a store's."""
    ours = {METADATA} | {split.name for split in store.spec.splits}
    entries = RemoteObjects(store.path).entries()
    names = {entry["name"].rstrip("/").rpartition("/")[2] for entry in entries}
    if names - ours:
        raise NotAStore(
            f"{store.path} holds {min(names - ours)!r}, which featstore did not write; move it"
            " away first"
        )


def remove(store: ZarrStore, hold: Hold) -> None:
    """Delete the store under the lease. `NotAStore` names what is not a store's."""
    check_removable(store)
    objects = _held(store.path, hold)
    objects.put_held(METADATA, _MARK)
    _clear(objects)


def take_place(new: Url, url: Url, hold: Hold) -> None:
    """Let the complete store at `new` be the one at `url`, under the lease of that."""
    mark = {_MOVED: new.name}
    document = {"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: mark}}
    _held(url, hold).put_held(METADATA, json.dumps(document).encode())
    finish_move(url, hold)


def finish_move(url: Url, hold: Hold) -> None:
    """Move the objects of the store that `lies_at` another URL to this one, under the lease."""
    new, objects = _held(lies_at(url), hold), _held(url, hold)
    root = new.get(METADATA)
    if lies_at(url) == url or root is None:
        return
    objects.drop_all([key for key in objects.all_keys() if key != METADATA])
    new.copy_all([key for key in new.all_keys() if key != METADATA], url)
    objects.put_held(METADATA, root)
    new.put_held(METADATA, _MARK)
    _clear(new)


def clear(url: Url, hold: Hold) -> None:
    """Delete what a creation or a removal that was cut short left, under the lease."""
    _clear(_held(url, hold))


def _clear(objects: RemoteObjects) -> None:
    objects.drop_all([key for key in objects.all_keys() if key != METADATA])
    objects.drop(METADATA)

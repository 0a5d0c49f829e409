"""The objects that a store is made of: what a place has to give for one, and files that give it."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from featstore import durable
from featstore.places import Place, Url

# Two threads copy out of the page cache faster than one; more only contend for memory.
READERS = min(4, max(2, os.cpu_count() or 1))
AHEAD = 2


class LocalObjects:
    """An object is a file; see `featstore.store.objects.Objects`."""

    readers = READERS
    ahead = AHEAD

    def __init__(self, root: Path):
        self._root = root
        self.hold = None

    def get(self, key: str) -> bytes | None:
        """Read the whole file."""
        try:
            with durable.opened(self._root / key) as fd, os.fdopen(os.dup(fd), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def get_all(self, folder: str, names: Sequence[str], size: int) -> list[bytes | None]:
        """Read each file that the folder lists: asking for each of many that are absent is slow."""
        try:
            there = set(os.listdir(self._root / folder))
        except FileNotFoundError:
            there = set()
        return [self._got(f"{folder}/{name}") if name in there else None for name in names]

    def _got(self, key: str) -> bytes | None:
        """All bytes of a file, or bytes that mean nothing where they cannot be had."""
        try:
            return self.get(key)
        except OSError:
            return b"unreadable"

    def read(self, key: str, offset: int, out: memoryview) -> int:
        """Read straight into `out`."""
        return durable.read_at(self._root / key, offset, out)

    def write(self, key: str, data: memoryview, size: int | None = None) -> None:
        """Hand the bytes to the operating system."""
        durable.write_at(self._root / key, 0, data, size=size or len(data))

    def put_held(self, key: str, body: bytes) -> None:
        """Write the file aside, and rename it."""
        file = self._root / key
        file.parent.mkdir(parents=True, exist_ok=True)
        with durable.written_whole(file) as aside:
            durable.write_at(aside, 0, memoryview(body))
        durable.sync_files([file.parent])

    def plant(self, documents: Mapping[str, bytes]) -> None:
        """Write the files and make the folders that they are in; nothing is synced."""
        # Made here: a link that somebody put under this name is refused, not followed.
        if not self._root.is_dir():
            self._root.mkdir()
        for key, document in documents.items():
            (self._root / key).parent.mkdir(parents=True, exist_ok=True)
            self.write(key, memoryview(document))

    def sync(self, keys: Iterable[str]) -> None:
        """Sync the files and the folders they are in."""
        files = [self._root / key for key in keys]
        durable.sync_files([*files, *{file.parent for file in files}])

    def drop(self, key: str) -> None:
        """Remove the file."""
        file = self._root / key
        file.unlink(missing_ok=True)
        durable.sync_files([file.parent])

    def modified(self, folders: Sequence[str]) -> int:
        """Return when an entry of a folder last changed."""
        found = []
        for folder in folders:
            with contextlib.suppress(OSError):
                found.append((self._root / folder).stat().st_mtime_ns)
        return max(found, default=0)

    def size(self) -> int:
        """Bytes on the disk, holes left out."""
        found = os.walk(self._root)
        files = (os.path.join(folder, name) for folder, _, names in found for name in names)
        return sum(os.lstat(file).st_blocks * 512 for file in files)


class Objects(Protocol):
    """Bytes by key ("train/labels/c.0") below one place.

    `readers` is how many reads are worth having under way at once, `ahead` how many blocks to read
    ahead of their use, `hold` under which lock (`featstore.store.locks.Hold`) objects are being
    written.
    """

    readers: int
    ahead: int
    hold: Any

    def get(self, key: str) -> bytes | None:
        """All bytes of an object, None where there is none."""

    def get_all(self, folder: str, names: Sequence[str], size: int) -> list[bytes | None]:
        """All bytes of each of these objects of a folder, at most `size` of them."""

    def read(self, key: str, offset: int, out: memoryview) -> int:
        """Fill `out` from an offset; returns how many bytes there were, `FileNotFoundError`."""

    def write(self, key: str, data: memoryview, size: int | None = None) -> None:
        """Begin to write an object, padded with zeros to `size`; `sync` tells when it is there."""

    def put_held(self, key: str, body: bytes) -> Any:
        """Return when an object has these bytes; at any instant before it has these or the old."""

    def plant(self, documents: Mapping[str, bytes]) -> None:
        """Write the objects of a new tree, folders and all; the last one after all others."""

    def sync(self, keys: Iterable[str]) -> None:
        """Return when these objects, as written, survive a loss of power."""

    def drop(self, key: str) -> None:
        """Return when the object is not there, for good."""

    def modified(self, folders: Sequence[str]) -> int:
        """Return when an object of these folders last came or went, in nanoseconds since 1970."""

    def size(self) -> int:
        """Bytes that all objects take."""


def objects_at(place: Place) -> Objects:
    """The objects below a place."""
    if isinstance(place, Url):
        from featstore.store.remote import RemoteObjects

        return RemoteObjects(place)

    return LocalObjects(place)

"""The objects that a Zarr store is made of, by key: what a place has to give for one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from featstore.places import Place, Url


class Objects(Protocol):
    """Bytes by key ("train/labels/c.0") below one place.

    `readers` is how many reads are worth having under way at once, `ahead` how many blocks to read
    ahead of their use, `hold` under which lock (`featstore.locks.Hold`) objects are being written.
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

    def put(self, key: str, body: bytes) -> Any:
        """Return when an object has these bytes; at any instant before it has these or the old."""

    def plant(self, documents: Mapping[str, bytes]) -> None:
        """Write the objects of a new tree, folders and all; the last one after all others."""

    def sync(self, keys: Iterable[str]) -> None:
        """Return when these objects, as written, survive a loss of power."""

    def drop(self, key: str) -> None:
        """Return when the object is not there, for good."""

    def modified(self, folders: Sequence[str]) -> int:
        """When an object directly in these folders last came or went, in nanoseconds since 1970."""

    def size(self) -> int:
        """Bytes that all objects take."""


def objects_at(place: Place) -> Objects:
    """The objects below a place."""
    if isinstance(place, Url):
        from featstore.remote_objects import RemoteObjects

        return RemoteObjects(place)
    from featstore.local_objects import LocalObjects

    return LocalObjects(place)

"""Creation and removal of stores at a URL, where nothing can be renamed.

The root's metadata are put last, and replaced by a mark before a store is removed. Whatever lies
below a mark is a creation or a removal that was cut short: ours, and cleared by the next creation.
"""

import json

from featstore.errors import NotAStore, UsageError
from featstore.header import ATTRIBUTE, Header
from featstore.places import Url
from featstore.remote_objects import RemoteObjects
from featstore.zarr_store import METADATA, ZarrStore

_MARK = json.dumps(
    {"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: {"unfinished": True}}}
).encode()


def exists(url: Url) -> bool:
    """Whether anything is at the URL but what was left unfinished."""
    objects = RemoteObjects(url)
    root = objects.get(METADATA)
    return bool(objects.entries()) if root is None else root != _MARK


def is_unfinished(url: Url) -> bool:
    """Whether a creation or a removal was cut short at the URL."""
    return RemoteObjects(url).get(METADATA) == _MARK


def check(url: Url) -> None:
    """Raise UsageError where the URL names no place for a store."""
    if not url.name:
        raise UsageError(f"{url} is a whole bucket; name a place in it, as {url}/mine.zarr")


def build(url: Url, header: Header) -> None:
    """Make an empty store, over unfinished things at most; the caller holds the lease."""
    objects = RemoteObjects(url)
    if objects.get(METADATA) == _MARK:
        _clear(objects)
    objects.put(METADATA, _MARK)
    ZarrStore.build(url, header)


def remove(store: ZarrStore) -> None:
    """Delete the store; the caller holds the lease. `NotAStore` names what is not a store's."""
    objects = RemoteObjects(store.path)
    ours = {METADATA} | {split.name for split in store.spec.splits}
    names = {entry["name"].rstrip("/").rpartition("/")[2] for entry in objects.entries()}
    if names - ours:
        raise NotAStore(
            f"{store.path} holds {min(names - ours)!r}, which featstore did not write; move it"
            " away first"
        )
    objects.put(METADATA, _MARK)
    _clear(objects)


def clear(url: Url) -> None:
    """Delete what a creation or a removal that was cut short left; the caller holds the lease."""
    _clear(RemoteObjects(url))


def _clear(objects: RemoteObjects) -> None:
    objects.drop_all([key for key in objects.all_keys() if key != METADATA])
    objects.drop(METADATA)

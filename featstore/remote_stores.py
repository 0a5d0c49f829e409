"""Creation and removal of stores at a URL, where nothing can be renamed.

The root's metadata are put last, and replaced by a mark before a store is removed. Whatever lies
below a mark is a creation or a removal that was cut short: ours, and cleared by the next creation.

A store that replaces another is built beside it. When it is complete, one put turns the root of
the old one into a mark that says where the new one lies, and `open` goes there; then its objects
are copied, by the storage itself, and their root comes last. Cut short at any instant, what `open`
finds is the old store or the new one.
"""

import json
from typing import Any

from featstore.errors import NotAStore, UsageError
from featstore.header import ATTRIBUTE, Header
from featstore.locks import Hold
from featstore.places import Url, replacement
from featstore.remote_objects import RemoteObjects
from featstore.zarr_store import METADATA, ZarrStore

_MOVED = "moved_to"
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


def lies_at(url: Url) -> Url:
    """Where the store of a URL lies: elsewhere only while a new one is moving to its place."""
    moved = _ours(RemoteObjects(url).get(METADATA)).get(_MOVED)
    return url.with_name(moved) if moved == replacement(url).name else url


def _ours(root: bytes | None) -> dict[str, Any]:
    """What of a root's metadata is ours."""
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

    What is put is staged, so that nothing comes too late. A deletion cannot be: one that was
    stopped between its look at the lease and its request is done when it wakes.
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

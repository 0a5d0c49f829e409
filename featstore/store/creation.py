"""Creation, opening and removal of stores, in any format and place."""

import contextlib
import importlib
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from featstore import durable, places
from featstore.errors import (
    VERSION,
    DiskFull,
    FeatstoreError,
    NotAStore,
    SpecMismatch,
    StoreNotFound,
    UsageError,
    WriterBusy,
)
from featstore.places import Place, Url, place
from featstore.spec import Spec
from featstore.store import layout
from featstore.store.base import FOLDER, SEQUENCE
from featstore.store.layout import ATTRIBUTE, Codec, Header
from featstore.store.locks import Hold, JobBusy, locked
from featstore.store.store import Store

# Modules by format, imported when first needed: h5py and zarr are slow to import.
_BACKENDS = {
    "zarr": ("featstore.store.zarr", "ZarrStore"),
    "hdf5": ("featstore.store.hdf5", "Hdf5Store"),
}
FORMATS = tuple(_BACKENDS)

# In the provenance of a store that is to replace another one: the checksum of that one's header.
_REPLACES = "replaces"

# How long a finished replacement waits for the rest of its job to leave.
_LEAVING = 60.0  # seconds


def create(
    path: str | Path | Url,
    spec: Spec,
    format: str = "zarr",
    *,
    id_width: int = 64,
    codec: Codec | None = None,
    provenance: Mapping[str, Any] | None = None,
    job: str | None = None,
) -> Store:
    """Make an empty store at `path` for what `spec` describes; row ids have up to `id_width` bytes.

    `path` is a path or, for Zarr, any URL that fsspec knows, such as s3://bucket/vit.zarr. `codec`
    "zstd" compresses a Zarr store; "none" is the default. `provenance` (JSON values) is kept beside
    the versions and the time, and decides nothing. The store appears at once and whole. Raises
    `UsageError` where something is at `path`, `DiskFull` without room, `WriterBusy` while another
    process makes it, `PlaceError` where a URL cannot be reached.
    """
    path = place(path)
    backend = _backend(format)
    _check_outside(path)
    header = Header(
        spec=spec,
        block_rows=layout.block_rows(spec),
        id_width=id_width,
        codec=codec or "none",
        provenance={**_versions(format), **_origin(path), **(provenance or {})},
    )
    _check_place(path, format, header.codec)
    if isinstance(path, Url):
        _create_remote(path, header, job)
    else:
        _create_local(backend, path, header, job)
    return backend(path, header)


def check_apart(out: str | Path | Url, *sources: Store) -> None:
    """Raise UsageError where `out` is the place of a store that is to be read for it.

    Links, `..`, other spellings of a URL and file systems that know no case are seen through.
    """
    path = place(out)
    for source in sources:
        if places.same(path, source.path):
            raise UsageError(f"{out} is {source.path}, which is read for it; choose another place")


def _check_outside(path: Place) -> None:
    """Raise UsageError where a store would lie inside another one."""
    parents = path.parents if isinstance(path, Path) else _url_parents(path)
    for parent in parents:
        if _is_root(parent):
            raise UsageError(
                f"{path} would lie inside the store {parent}, which holds its own files alone;"
                " choose another place"
            )


def _url_parents(url: Url) -> list[Url]:
    found = []
    while url.name:
        url = url.parent
        found.append(url)
    return found


def _is_root(place: Place) -> bool:
    """Return whether the metadata at a place are the root of a Zarr store of ours."""
    from featstore.store.objects import objects_at

    try:
        attributes = json.loads(objects_at(place).get("zarr.json") or b"null")["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(attributes, dict) and ATTRIBUTE in attributes


def _check_place(path: Place, format: str, codec: Codec) -> None:
    if format != "zarr" and codec != "none":
        raise UsageError(
            f"codec {codec} is for Zarr: the rows of an HDF5 store lie uncompressed, each at its"
            " place, so that a kill has nothing to tear; leave --codec out, or choose zarr"
        )
    if format != "zarr" and isinstance(path, Url):
        raise UsageError(f"{path}: an HDF5 store is a file of this machine; choose zarr for a URL")


def _create_remote(url: Url, header: Header, job: str | None) -> None:
    from featstore.store import zarr

    zarr.check(url)
    with locked(places.replaced(url), job, alone=True) as hold:
        if zarr.exists(url):
            raise _Occupied(f"{url} exists already; open it, or choose another place")
        zarr.build(url, header, hold)


def _create_local(backend: type[Store], path: Path, header: Header, job: str | None) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatstoreError(
            f"{path.parent} cannot be made ({os.strerror(error.errno)}); choose another path"
        ) from None
    with locked(places.replaced(path), job, alone=True):
        if os.path.lexists(path):
            raise _Occupied(f"{path} exists already; open it, or choose another path")
        _build_aside(backend, path, header)


class _Occupied(UsageError):
    """There is something where a store is to be made."""


def open(path: str | Path | Url | Store) -> Store:
    """The store at a path or URL, its format detected; nothing stays open. A `Store` is itself.

    A replacement that was complete when its process died takes its place first.

    Raises `StoreNotFound`, `NotAStore` for anything else, `FormatVersionError` for a release's own,
    `StoreDamaged` where metadata do not have the checksum that they were written with, `PlaceError`
    where a URL cannot be reached.
    """
    if isinstance(path, Store):
        return path
    path = place(path)
    if isinstance(path, Url):
        from featstore.store import zarr

        if not zarr.exists(path):
            raise StoreNotFound(
                f"there is no store at {path}; make one with `featstore extract --out {path}`"
            )
        return _backend("zarr").at(zarr.lies_at(path))
    if not os.path.lexists(path):
        path = _recovered(path)
    if path.is_dir():
        return _backend("zarr").at(path)
    try:
        with durable.opened(path) as fd:
            ours = _backend("hdf5").is_one(fd)
    except FileNotFoundError:
        raise StoreNotFound(
            f"there is no store at {path}; make one with `featstore extract`"
        ) from None
    except OSError as error:
        raise NotAStore(
            f"{path} cannot be opened ({error.strerror}); give a store's path"
        ) from None
    if not ours:
        raise NotAStore(f"{path} is neither a Zarr directory nor an HDF5 file; give a store's path")
    return _backend("hdf5").at(path)


def exists(path: str | Path | Url) -> bool:
    """Return whether anything is at a path or URL: a store, or what is in the way of one."""
    path = place(path)
    if isinstance(path, Url):
        from featstore.store import zarr

        return zarr.exists(path)
    return os.path.lexists(path)


def open_or_create(
    path: str | Path | Url,
    spec: Spec,
    format: str = "zarr",
    *,
    id_width: int = 64,
    codec: Codec | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    job: str | None = None,
) -> Store:
    """The store of this spec at `path`: as it is, complete or not, or else a new one.

    Of several processes that name the same `job`, the first creates it and the others wait for it.
    Without a `codec` the store's own will do.
    Raises `SpecMismatch` naming each differing field where the store there holds something else.
    With `overwrite` what is there has to be certainly a store, see `remove`, and stays until the
    new one, which is built beside it, is complete and takes its place: see `finish`. Of a job, one
    process does that before the others come.
    """
    _backend(format)
    path = place(path)
    _settle(path, spec)
    if overwrite and exists(path):
        path, provenance = _replacing(path, spec, format, codec, provenance)
    while not exists(path):
        try:
            return create(
                path,
                spec,
                format,
                id_width=id_width,
                codec=codec,
                provenance=provenance,
                job=job,
            )
        except JobBusy:
            # Another process of the job is making it.
            time.sleep(0.02)
        except _Occupied:
            if job is None:
                raise
    store = open(path)
    told = _differences(store, spec, format, codec)
    if told:
        raise SpecMismatch(f"{store.path} holds {told}; choose another path, or overwrite it")
    return store


def _differences(store: Store, spec: Spec, format: str, codec: Codec | None) -> str:
    """In which fields a store is not the one that is wanted; empty where it is."""
    differences = store.spec.differences(spec)
    if differences:
        told = "; ".join(
            f"{field} is {shortened(there)}, wanted {shortened(wanted)}"
            for field, there, wanted in differences
        )
        return f"something else: {told}"
    for kind, there, wanted in (
        ("format", store.format, format),
        ("codec", store.header.codec, codec or store.header.codec),
    ):
        if there != wanted:
            return f"the same in {kind} {there}, wanted {wanted}"
    return ""


def remove(path: str | Path | Url) -> None:
    """Delete the store at a path or URL, and nothing that is not certainly one.

    It has to open as a store, and hold no file that featstore did not put at its top. What was
    being built to replace it goes too. Raises what `open` raises, `NotAStore` naming a foreign
    file, `WriterBusy` while a process writes to it.
    """
    path = place(path)
    _settle(path)
    store = open(path)
    with locked(places.replaced(path)) as hold:
        if isinstance(path, Url):
            from featstore.store import zarr

            zarr.remove(store, hold)
            zarr.clear(places.replacement(path), hold)
            return
        _check_removable(store)
        # Renamed first: a removal that is killed leaves nothing that passes for a store.
        aside = durable.aside(path)
        _drop_replacement(path, hold)
        os.replace(path, aside)
        _delete(aside)


def _check_removable(store: Store) -> None:
    """Raise NotAStore where there is a file in a store that featstore did not put at its top."""
    if isinstance(store.path, Url):
        from featstore.store import zarr

        zarr.check_removable(store)
    elif store.path.is_dir():
        ours = {"zarr.json"} | {split.name for split in store.spec.splits}
        there = {entry.name for entry in store.path.iterdir()}
        foreign = sorted(name for name in there - ours if not durable.ASIDE.fullmatch(name))
        if foreign:
            raise NotAStore(
                f"{store.path} holds {foreign[0]!r}, which featstore did not write; move it"
                " away first"
            )


# Replacement: a store that overwrites another is built beside it, and takes its place once it is
# complete. Killed at any instant, one of the two is at the place, whole.


def _replacing(
    path: Place,
    spec: Spec,
    format: str,
    codec: Codec | None,
    provenance: Mapping[str, Any] | None,
) -> tuple[Place, dict[str, Any]]:
    """Return where the replacement of the store at `path` is built, and its provenance.

    What an earlier run left there is gone on with, if it is the same and replaces the same store.
    """
    old = open(path)
    _check_removable(old)
    aside = places.replacement(path)
    replaces = _identity(old)
    with locked(path) as hold:
        if exists(aside):
            begun = open(aside)
            same = begun.provenance.get(_REPLACES) == replaces
            if not same or _differences(begun, spec, format, codec):
                _drop_replacement(path, hold)
    return aside, {**(provenance or {}), _REPLACES: replaces}


def finish(store: Store) -> Store:
    """The store at its place: a complete replacement takes the place of what it replaces.

    Any other store is returned as it is, and so is a replacement of which the rest of a job still
    writes blocks: the last of them finishes it.
    """
    path = places.replaced(store.path)
    if path == store.path:
        return store
    until = time.monotonic() + _LEAVING
    while True:
        gone = not exists(store.path) or not _stands_for(store.path, store)
        complete = _still_complete(store)
        if _stands_for(path, store):
            return open(path)
        if gone:
            raise WriterBusy(
                f"what was to replace {path} is not there any more: another process has replaced or"
                " removed it; run the same command again"
            )
        if not complete:
            return store
        try:
            with locked(path, alone=True) as hold:
                if _stands_for(store.path, store) and not _stands_for(path, store):
                    _swap(store, path, hold)
        except WriterBusy:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _still_complete(store: Store) -> bool:
    """Return whether a replacement is complete where it was built, not moved by another rank."""
    try:
        return store.complete
    except OSError:
        return False


def _stands_for(path: Place, store: Store) -> bool:
    """Return whether the store at a path is this one, wherever it was built."""
    try:
        return _identity(open(path)) == _identity(store)
    except FeatstoreError:
        return False


def _identity(store: Store) -> str:
    """Return what tells a store from every other: header, place, time and what it replaces."""
    return store.header.to_json()["checksum"]


def _swap(store: Store, path: Place, hold: Hold) -> None:
    """Put a complete store at `path`, and delete what was there; the caller holds the lock."""
    if isinstance(path, Url):
        from featstore.store import zarr

        zarr.take_place(store.path, path, hold)
        return
    if store.path.is_file() and path.is_file():
        os.replace(store.path, path)
        durable.sync_files([path.parent])
        return
    aside = durable.aside(path)
    if not os.path.lexists(path):
        os.rename(store.path, path)
    elif durable.exchange(store.path, path):
        os.rename(store.path, aside)
    else:
        # Between these two steps nothing is at the path: `open` takes the second one then.
        os.rename(path, aside)
        os.rename(store.path, path)
    durable.sync_files([path.parent])
    _delete(aside)


def _recovered(path: Path) -> Path:
    """Return the store of an empty path: a complete replacement takes the place now.

    That is the other half of a swap that was cut short. Where nothing may be renamed, it is read
    from where it is.
    """
    aside = places.replacement(path)
    if not os.path.lexists(aside):
        return path
    try:
        if not open(aside).complete:
            return path
    except FeatstoreError:
        return path
    with contextlib.suppress(FeatstoreError, OSError), locked(path, alone=True):
        if not os.path.lexists(path):
            os.rename(aside, path)
    return path if os.path.lexists(path) else aside


def _settle(path: Place, spec: Spec | None = None) -> None:
    """Finish what was cut short at a place: a replacement that was taking it, or had begun to.

    Where nothing is at the place and a replacement of the same `spec` is incomplete, it is gone on
    with there.
    """
    if isinstance(path, Url):
        from featstore.store import zarr

        if zarr.lies_at(path) != path:
            with locked(path) as hold:
                zarr.finish_move(path, hold)
        return
    if os.path.lexists(path) or not os.path.lexists(places.replacement(path)):
        return
    _recovered(path)
    with contextlib.suppress(FeatstoreError):
        begun = open(places.replacement(path))
        if spec is not None and begun.spec == spec:
            with locked(path, alone=True):
                if not os.path.lexists(path):
                    os.rename(begun.path, path)


def _drop_replacement(path: Place, hold: Hold) -> None:
    """Delete what was being built to replace the store at a path; the caller holds the lock."""
    aside = places.replacement(path)
    if not exists(aside):
        return
    _check_removable(open(aside))
    if isinstance(aside, Url):
        from featstore.store import zarr

        zarr.remove(open(aside), hold)
        return
    away = durable.aside(path)
    os.rename(aside, away)
    _delete(away)


def _backend(format: str) -> type[Store]:
    if format not in _BACKENDS:
        raise UsageError(f"there is no store format {format!r}; choose {' or '.join(FORMATS)}")
    module, name = _BACKENDS[format]
    return getattr(importlib.import_module(module), name)


def _build_aside(backend: type[Store], path: Path, header: Header) -> None:
    """Build at a name aside, then rename; the caller holds the lock, so no one else is building."""
    for leftover in durable.asides(path):
        _delete(leftover)
    aside = durable.aside(path)
    try:
        backend.build(aside, header)
        durable.sync_tree(aside)
        os.rename(aside, path)
        durable.sync_files([path.parent])
    except OSError as error:
        _delete(aside)
        if error.errno in durable.NO_ROOM:
            free = shutil.disk_usage(path.parent).free
            raise DiskFull(
                f"no room to make {path} ({os.strerror(error.errno)}): {free / 1e6:.1f} MB are"
                " free; make room, or choose a path on another disk"
            ) from None
        raise FeatstoreError(f"{path} cannot be made: {error}; choose another path") from error


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _versions(format: str) -> dict[str, Any]:
    library = {"zarr": "zarr", "hdf5": "h5py"}[format]
    versions = {"python": platform.python_version(), "featstore": VERSION}
    for name in ("numpy", library):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    made = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions}
    return {**made, **_backend(format).made}


def _origin(path: Place) -> dict[str, Any]:
    """From which folder a store is made, and as which of those where it is to lie.

    At a URL the storage's one clock says which was made last.
    """
    made: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        made[FOLDER] = os.getcwd()
    if isinstance(path, Path):
        numbers = (
            [_sequence(entry) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        )
        made[SEQUENCE] = 1 + max(numbers, default=0)
    return made


def _sequence(path: Path) -> int:
    """The number of a store among those of its folder, as far as a glance shows; 0 for the rest."""
    with contextlib.suppress(OSError, FeatstoreError, LookupError, TypeError, ValueError):
        found = _backend("zarr" if path.is_dir() else "hdf5").glance(path)
        return int(found["provenance"].get(SEQUENCE, 0))
    return 0


def shortened(value: object) -> str:
    """Return the representation of a value, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"

"""Creation, opening and removal of stores, in any format and place."""

import contextlib
import glob
import importlib
import os
import platform
import shutil
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from featstore import durable, layout
from featstore.codecs import Codec
from featstore.contract import Damage, Store
from featstore.errors import (
    DiskFull,
    FeatstoreError,
    NotAStore,
    SpecMismatch,
    StoreNotFound,
    UsageError,
)
from featstore.header import Header
from featstore.locks import JobBusy, locked
from featstore.places import Place, Url, place
from featstore.spec import Spec

__all__ = ["FORMATS", "Damage", "Store", "create", "exists", "open", "open_or_create", "remove"]

# Modules by format, imported when first needed: h5py and zarr are slow to import.
_BACKENDS = {
    "zarr": ("featstore.zarr_store", "ZarrStore"),
    "hdf5": ("featstore.hdf5_store", "Hdf5Store"),
}
FORMATS = tuple(_BACKENDS)

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


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
    header = Header(
        spec=spec,
        block_rows=layout.block_rows(spec),
        id_width=id_width,
        codec=codec or "none",
        provenance={**_versions(format), **(provenance or {})},
    )
    _check_place(path, format, header.codec)
    if isinstance(path, Url):
        _create_remote(path, header, job)
    else:
        _create_local(backend, path, header, job)
    return backend(path, header)


def _check_place(path: Place, format: str, codec: Codec) -> None:
    if format != "zarr" and codec != "none":
        raise UsageError(
            f"codec {codec} is for Zarr: the rows of an HDF5 store lie uncompressed, each at its"
            " place, so that a kill has nothing to tear; leave --codec out, or choose zarr"
        )
    if format != "zarr" and isinstance(path, Url):
        raise UsageError(f"{path}: an HDF5 store is a file of this machine; choose zarr for a URL")


def _create_remote(url: Url, header: Header, job: str | None) -> None:
    from featstore import remote_stores

    remote_stores.check(url)
    with locked(url, job, alone=True):
        if remote_stores.exists(url):
            raise _Occupied(f"{url} exists already; open it, or choose another place")
        remote_stores.build(url, header)


def _create_local(backend: type[Store], path: Path, header: Header, job: str | None) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatstoreError(
            f"{path.parent} cannot be made ({os.strerror(error.errno)}); choose another path"
        ) from None
    with locked(path, job, alone=True):
        if os.path.lexists(path):
            raise _Occupied(f"{path} exists already; open it, or choose another path")
        _build_aside(backend, path, header)


class _Occupied(UsageError):
    """There is something where a store is to be made."""


def open(path: str | Path | Url) -> Store:
    """The store at a path or URL, its format detected; nothing stays open.

    Raises `StoreNotFound`, `NotAStore` for anything else, `FormatVersionError` for a release's own,
    `PlaceError` where a URL cannot be reached.
    """
    path = place(path)
    if isinstance(path, Url):
        from featstore import remote_stores

        if not remote_stores.exists(path):
            raise StoreNotFound(
                f"there is no store at {path}; make one with `featstore extract --out {path}`"
            )
        return _backend("zarr").at(path)
    if path.is_dir():
        return _backend("zarr").at(path)
    try:
        with path.open("rb") as file:
            signature = file.read(len(_HDF5_SIGNATURE))
    except FileNotFoundError:
        raise StoreNotFound(
            f"there is no store at {path}; make one with `featstore extract`"
        ) from None
    if signature != _HDF5_SIGNATURE:
        raise NotAStore(f"{path} is neither a Zarr directory nor an HDF5 file; give a store's path")
    return _backend("hdf5").at(path)


def exists(path: str | Path | Url) -> bool:
    """Whether anything is at a path or URL: a store, or what is in the way of one."""
    path = place(path)
    if isinstance(path, Url):
        from featstore import remote_stores

        return remote_stores.exists(path)
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
    With `overwrite` what is there is removed first, if it is certainly a store: see `remove`; of a
    job, one process does that before the others come.
    """
    _backend(format)
    path = place(path)
    if overwrite and exists(path):
        remove(path)
    while not exists(path):
        try:
            return create(
                path, spec, format,
                id_width=id_width, codec=codec, provenance=provenance, job=job,
            )  # fmt: skip
        except JobBusy:
            # Another process of the job is making it.
            time.sleep(0.02)
        except _Occupied:
            if job is None:
                raise
    store = open(path)
    differences = store.spec.differences(spec)
    if differences:
        told = "; ".join(
            f"{field} is {_short(there)}, wanted {_short(wanted)}"
            for field, there, wanted in differences
        )
        raise SpecMismatch(
            f"{store.path} holds something else: {told}; choose another path, or overwrite it"
        )
    for kind, there, wanted in (
        ("format", store.format, format),
        ("codec", store.header.codec, codec or store.header.codec),
    ):
        if there != wanted:
            raise SpecMismatch(
                f"{store.path} holds the same in {kind} {there}, wanted {wanted};"
                " choose another path, or overwrite it"
            )
    return store


def remove(path: str | Path | Url) -> None:
    """Delete the store at a path or URL, and nothing that is not certainly one.

    It has to open as a store, and hold no file that featstore did not put at its top. Raises what
    `open` raises, `NotAStore` naming a foreign file, `WriterBusy` while a process writes to it.
    """
    store = open(path)
    with locked(store.path):
        if isinstance(store.path, Url):
            from featstore import remote_stores

            remote_stores.remove(store)
            return
        if store.path.is_dir():
            ours = {"zarr.json"} | {split.name for split in store.spec.splits}
            foreign = sorted({entry.name for entry in store.path.iterdir()} - ours)
            if foreign:
                raise NotAStore(
                    f"{store.path} holds {foreign[0]!r}, which featstore did not write; move it"
                    " away first"
                )
        # Renamed first: a removal that is killed leaves nothing that passes for a store.
        aside = _aside(store.path)
        os.replace(store.path, aside)
        _delete(aside)


def _backend(format: str) -> type[Store]:
    if format not in _BACKENDS:
        raise UsageError(f"there is no store format {format!r}; choose {' or '.join(FORMATS)}")
    module, name = _BACKENDS[format]
    return getattr(importlib.import_module(module), name)


def _build_aside(backend: type[Store], path: Path, header: Header) -> None:
    """Build at a name aside, then rename; the caller holds the lock, so no one else is building."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.aside"):
        _delete(leftover)
    aside = _aside(path)
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


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _versions(format: str) -> dict[str, Any]:
    library = {"zarr": "zarr", "hdf5": "h5py"}[format]
    versions = {"python": platform.python_version()}
    for name in ("featstore", "numpy", library):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"

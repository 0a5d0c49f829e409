"""The compact representation: some features of a tap, with their indices, for use elsewhere."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from featstore import copying, durable
from featstore.contract import Progress, Store, no_progress
from featstore.converting import format_of
from featstore.copying import Rows, SplitRows
from featstore.errors import FeatstoreError, UsageError
from featstore.places import Url, place
from featstore.spec import Tap
from featstore.store import check_apart, open_or_create
from featstore.store import open as open_store

SUFFIXES = (".zarr", ".h5", ".npz", ".parquet")

# Rows written to a file at once.
_ROWS = 4096


def export(
    source: str | Path | Url,
    out: str | Path | Url,
    features: Sequence[int],
    *,
    tap: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Write the features with these indices, in this order, of one tap of the store at `source`.

    `out` ends in .zarr or .h5 for a store with the one tap, of `len(features)` features; in .npz
    for arrays "indices" int64 (k,) and, of each split, "<split>_features" (n_rows, k), or (n_views,
    n_rows, k), "<split>_labels" and "<split>_ids"; in .parquet for one row a row, with the columns
    split, id, label, view and features, and "indices" in the file's metadata. `tap` is the first by
    default; `provenance` (JSON values, such as seed and fraction) is kept beside the indices.
    Nothing is loaded whole. A file is whole or not there; a store is resumed.

    Calls `progress("rows", done, total)`. Raises `UsageError` for indices that are not there or are
    repeated, another suffix, or an `out` that exists, `StoreIncomplete`, `StoreDamaged`.
    """
    store = open_store(source)
    check_apart(out, store)
    chosen = store.spec.tap(tap or store.spec.taps[0].name)
    indices = _indices(features, chosen)
    suffix = next((end for end in SUFFIXES if str(out).lower().endswith(end)), None)
    if suffix is None:
        raise UsageError(f"{str(out)!r} must end in {', '.join(SUFFIXES)}")
    facts = {**(provenance or {}), "tap": chosen.name, "features": indices.tolist()}
    facts["exported_from"] = str(store.path)
    if store.notices:
        facts["notices"] = [notice.to_json() for notice in store.notices]
    splits = {
        split.name: SplitRows(store, split.name, {chosen.name: chosen.name})
        for split in store.spec.splits
    }

    def take(split: str, rows: range) -> Rows:
        found = splits[split].take(rows)
        return Rows(
            {chosen.name: found.features[chosen.name][..., indices]}, found.labels, found.ids
        )

    if suffix in (".zarr", ".h5"):
        spec = store.spec.model_copy(update={"taps": (_subset(chosen, indices),)})
        made = open_or_create(
            out, spec, format_of(out),
            id_width=store.header.id_width, provenance=facts, overwrite=overwrite,
        )  # fmt: skip
        copying.fill(made, take, progress, store.ahead)
        return
    path = place(out)
    if isinstance(path, Url):
        raise UsageError(f"{path}: a {suffix} file is written on this machine; give a path")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; choose another name, or overwrite it")
    write = _write_npz if suffix == ".npz" else _write_parquet
    with _whole(path) as aside:
        write(aside, store, take, chosen.name, facts, progress)


def _indices(features: Sequence[int], tap: Tap) -> np.ndarray:
    indices = np.asarray(features)
    if indices.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
        raise UsageError("features are given by a list of at least one index")
    indices = indices.astype(np.int64)
    if indices.min() < 0 or indices.max() >= tap.dim:
        wrong = indices[(indices < 0) | (indices >= tap.dim)][0]
        raise UsageError(f"{tap.name} has features 0 to {tap.dim - 1}, not {wrong}")
    if len(np.unique(indices)) < len(indices):
        raise UsageError("a feature is named twice; name each once")
    return indices


def _subset(tap: Tap, indices: np.ndarray) -> Tap:
    """The tap of the chosen features: its pooling says which, by a checksum of their indices."""
    digest = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:16]
    pooling = f"{tap.pooling}; {len(indices)} of {tap.dim} features, indices sha256:{digest}"
    return tap.model_copy(update={"dim": len(indices), "pooling": pooling})


def _runs(store: Store, split: str) -> list[range]:
    n_rows = store.spec.split(split).n_rows
    return [range(start, min(start + _ROWS, n_rows)) for start in range(0, n_rows, _ROWS)]


def _write_npz(path: Path, store: Store, take, tap: str, facts: dict, progress: Progress) -> None:
    """Write the arrays one after another; a .npz file is an archive of .npy files."""
    done, total = 0, sum(split.n_rows * split.views for split in store.spec.splits)
    k = len(facts["features"])
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        _member(archive, "indices", np.array(facts["features"]))
        for split in store.spec.splits:
            views = () if split.views == 1 else (split.views,)
            header = {"descr": np.dtype(store.spec.dtype).str, "fortran_order": False}
            header["shape"] = (*views, split.n_rows, k)
            labels, ids = [], []
            with archive.open(f"{split.name}_features.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, header)
                for view in range(split.views):
                    for rows in _runs(store, split.name):
                        found = take(split.name, rows)
                        features = found.features[tap]
                        file.write(np.ascontiguousarray(features[view] if views else features))
                        if view == 0:
                            labels.append(found.labels)
                            ids += found.ids
                        done += len(rows)
                        progress("rows", done, total)
            _member(archive, f"{split.name}_labels", np.concatenate(labels))
            _member(archive, f"{split.name}_ids", np.array(ids))


def _member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _write_parquet(
    path: Path, store: Store, take, tap: str, facts: dict, progress: Progress
) -> None:
    """Write a row group a run of rows; features are a list of fixed length a row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = pa.float16() if store.spec.dtype == "float16" else pa.float32()
    k = len(facts["features"])
    label = pa.int64()
    if store.spec.targets:
        several = len(store.spec.targets)
        label = pa.float64() if several == 1 else pa.list_(pa.float64(), several)
    schema = pa.schema(
        {"split": pa.string(), "id": pa.string(), "label": label, "view": pa.int32(),
         "features": pa.list_(number, k)},
        metadata={"indices": json.dumps(facts["features"]), "featstore": json.dumps(facts)},
    )  # fmt: skip
    done, total = 0, sum(split.n_rows * split.views for split in store.spec.splits)
    with pq.ParquetWriter(path, schema) as file:
        for split in store.spec.splits:
            for view in range(split.views):
                for rows in _runs(store, split.name):
                    found = take(split.name, rows)
                    features = found.features[tap]
                    features = features[view] if split.views > 1 else features
                    columns = [
                        pa.array([split.name] * len(rows)),
                        pa.array(found.ids),
                        _list(found.labels, label)
                        if found.labels.ndim > 1
                        else pa.array(found.labels),
                        pa.array([view] * len(rows), pa.int32()),
                        _list(features, schema.field("features").type),
                    ]
                    file.write_table(pa.table(columns, schema=schema))
                    done += len(rows)
                    progress("rows", done, total)


def _list(rows: np.ndarray, kind) -> Any:
    """A 2-d array as an Arrow array of lists of fixed length."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(rows).reshape(-1)), type=kind
    )


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name aside to write to, renamed to `path` once the block ends well."""
    try:
        with durable.written_whole(path) as aside:
            yield aside
    except OSError as error:
        raise FeatstoreError(f"{path} cannot be written: {error.strerror or error}") from None

"""From arrays to a store and back: import and export."""

import hashlib
import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from featstore import durable
from featstore.errors import DatasetError, FeatstoreError, FeatureError, UsageError
from featstore.places import Url, place
from featstore.spec import Column, Spec, Split, Tap
from featstore.store import labels as labelling, transfer
from featstore.store.base import Progress, no_progress
from featstore.store.blocks import Rounding, first_nonfinite_row, raw_bytes, width
from featstore.store.creation import check_apart, open as open_store, open_or_create
from featstore.store.labels import Labels
from featstore.store.layout import BLOCK_BYTES
from featstore.store.sources import Source, check_memory, source
from featstore.store.store import Store
from featstore.store.transfer import Rows, SplitRows, format_of

# Bytes of one array that may be in memory at once, beside its labels and ids.
_MEMORY = 4 << 30


@dataclass(frozen=True)
class _ArraySplit:
    """`features` (n_rows, D) of real numbers, `labels` (n_rows, ...) of any form, maybe `ids`.

    `columns` (n_rows,) of texts or whole numbers are kept beside them, by name.
    """

    name: str
    features: Source
    labels: Source
    ids: Source | None = None
    targets: tuple[str, ...] = ()
    columns: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, given: Sequence[Any], targets: tuple[str, ...], columns: Mapping[str, Any]
    ) -> "_ArraySplit":
        """Return the split of a pair (features, labels), or with ids; `DatasetError` for others."""
        if isinstance(given, str) or len(given) not in (2, 3):
            raise UsageError(f"{name} is no pair (features, labels), or with ids; give one")
        features, labels = (
            source(one, f"{what} of {name}")
            for one, what in zip(given, ("features", "labels"), strict=False)
        )
        ids = source(given[2], f"ids of {name}") if len(given) == 3 else None
        kept = {
            column: source(one, f"column {column} of {name}") for column, one in columns.items()
        }
        found = cls(name, features, labels, ids, targets, kept)
        if len(features.shape) != 2 or 0 in features.shape:
            raise DatasetError(
                f"{features.label} has shape {features.shape}; {name} features are (rows,"
                " features), at least one of each"
            )
        if features.dtype.kind not in "fiu":
            raise DatasetError(
                f"{features.label} holds {features.dtype}; features are real numbers: convert them"
            )
        found.check_length(labels, "one label a row")
        return found

    def check_length(self, one: Source, needed: str) -> None:
        """Raise `DatasetError` where there are not as many as rows."""
        if one.shape[:1] != self.features.shape[:1]:
            raise DatasetError(
                f"{one.label} has shape {one.shape} and {self.features.label}"
                f" {self.features.shape}; {self.name} needs {needed}"
            )

    @property
    def n_rows(self) -> int:
        return self.features.shape[0]

    @property
    def sources(self) -> list[Source]:
        return [
            one for one in (self.features, self.labels, self.ids, *self.columns.values()) if one
        ]

    def parsed(self) -> Labels:
        """Return all labels, checked."""
        labels, what = self.labels.rows(0, self.n_rows), f"{self.name} ({self.labels.label})"
        return labelling.parsed(labels, self.n_rows, self.targets, what)

    def named(self) -> list[str]:
        """Return the id of each row, by default its number; `DatasetError` for one given twice."""
        if self.ids is None:
            return list(map(str, range(self.n_rows)))
        if len(self.ids.shape) != 1:
            raise DatasetError(f"{self.ids.label} has shape {self.ids.shape}; give ids (rows,)")
        self.check_length(self.ids, "one id a row")
        found = labelling.as_ids(self.ids.rows(0, self.n_rows))
        if len(set(found)) < len(found):
            seen: set[str] = set()
            twice = next(one for one in found if one in seen or seen.add(one))
            raise DatasetError(f"id {twice!r} is in {self.ids.label} twice; give each row its own")
        return found

    def kept(self) -> dict[str, np.ndarray]:
        """Return the columns, int64 or texts (n_rows,); `DatasetError` for any other."""
        found = {}
        for name, one in self.columns.items():
            if len(one.shape) != 1 or one.dtype.kind not in "iuSUOT":
                raise DatasetError(
                    f"{one.label} holds {one.dtype} {one.shape}; a column is texts or whole numbers"
                    " (rows,)"
                )
            self.check_length(one, "one value a row in a column")
            values = one.rows(0, self.n_rows)
            numbers = values.dtype.kind in "iu"
            if numbers and values.dtype.itemsize == 8 and values.max() > np.iinfo(np.int64).max:
                raise DatasetError(f"{one.label} has {values.max()}, too large; give it as text")
            texts = np.array([] if numbers else labelling.as_ids(values), np.str_)
            found[name] = values.astype(np.int64) if numbers else texts
        return found


TAP = "features"
Array = Any
Arrays = tuple[Array, Array] | tuple[Array, Array, Array]


def import_arrays(
    train: Arrays,
    test: Arrays,
    out: str | Path,
    format: str = "zarr",
    *,
    dtype: str | None = None,
    classes: Sequence[str] | None = None,
    targets: Sequence[str] = (),
    columns: Mapping[str, tuple[Array, Array]] | None = None,
    overwrite: bool = False,
    memory: int = _MEMORY,
    progress: Progress = no_progress,
) -> Store:
    """Make a store of `train` and `test`, each (features, labels) or (features, labels, ids).

    Each is a NumPy array, a tensor, a list, a column of `datasets`; or a file, FILE:NAME where it
    holds several: .npy, .npz, .safetensors, .pt and .pth (tensors alone), .parquet and .arrow (a
    list column, one of numbers, or several as "a,b" or "f*"), .h5, a Zarr folder, a folder of
    `datasets`' save_to_disk. Features are (n_rows, D) of any real type, D the same in both; labels
    integers from 0 or texts (n_rows,), one-hot (n_rows, C), or zeros and ones (n_rows, L) of which
    a row has any number; ids numbers or texts (n_rows,).

    `dtype` is "float16" or "float32", by default float16 for float16 features and float32 for any
    other. `classes` names the classes, by default their numbers, or the texts in order, and of
    several labels these; or `targets` names T quantities to regress on, and labels are real numbers
    (n_rows,) or (n_rows, T). `columns` are pairs of train and test, texts or whole numbers
    (n_rows,), which the store keeps of each row (`Store.column`).

    Features are read a slice at a time, and nothing of which more than `memory` bytes would have to
    be held; labels, ids and columns are held whole. All is read twice, first to check it and to
    take its checksum, by which the same call on the same arrays finds its store again, complete or
    to be resumed, and mends blocks that are damaged.

    Calls `progress("checked rows", ...)` and `progress("rows", ...)`. Raises `DatasetError` for
    arrays that make no store, `FeatureError` naming the first row that is not finite in `dtype`, or
    the feature whose changes it does not resolve,
    both before anything is written; then whatever `open_or_create` and `Store.writer` raise.
    """
    targets = tuple(targets)
    if classes and targets:
        raise UsageError("classes and targets are both named; labels are of one kind: name one")
    pairs = {"train": train, "test": test}
    beside = {
        name: {column: one[place] for column, one in _paired(columns).items()}
        for place, name in enumerate(pairs)
    }
    splits = [_ArraySplit.of(name, pair, targets, beside[name]) for name, pair in pairs.items()]
    check_memory([one for split in splits for one in split.sources], memory)
    one, other = (split.features for split in splits)
    if one.shape[1] != other.shape[1]:
        raise DatasetError(
            f"{one.label} has {one.shape[1]} features and {other.label} {other.shape[1]}; train and"
            " test need the same features"
        )
    labels, names = labelling.numbered({split.name: split.parsed() for split in splits}, classes)
    ids = {split.name: split.named() for split in splits}
    kept = {split.name: split.kept() for split in splits}
    dtype = _dtype(splits, dtype)
    spec = Spec(
        backbone="import",
        weights="none",
        transform="none",
        dataset=", ".join(split.features.name for split in splits),
        splits=tuple(
            Split(
                name=split.name,
                n_rows=split.n_rows,
                fingerprint=fingerprint,
            )
            for split, fingerprint in zip(
                splits, _fingerprints(splits, dtype, labels, ids, kept, progress), strict=True
            )
        ),
        taps=(Tap(name=TAP, dim=one.shape[1], pooling="none"),),
        dtype=dtype,
        columns=columns_of(list(kept.values())),
        **labelling.said_of(labels, names, targets),
    )
    id_width = max(width(some) for some in ids.values())
    store = open_or_create(out, spec, format, id_width=id_width, overwrite=overwrite)
    by_name = {split.name: split for split in splits}

    def take(split: str, rows: range) -> Rows:
        there = slice(rows.start, rows.stop)
        features = by_name[split].features.rows(rows.start, rows.stop)
        cast = _cast(features, dtype, by_name[split], rows.start)
        beside = {name: values[there] for name, values in kept[split].items()}
        return Rows({TAP: cast}, labels[split][there], ids[split][there], beside)

    return transfer.fill(store, take, progress, ahead=1)


def _paired(columns: Mapping[str, tuple[Array, Array]] | None) -> Mapping[str, tuple]:
    """Return columns of train and test; `UsageError` where one is no pair."""
    for name, pair in (columns or {}).items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"column {name} is no pair of train and test; give one")
    return columns or {}


def columns_of(splits: Sequence[Mapping[str, np.ndarray]]) -> tuple[Column, ...]:
    """Return what a spec says of columns, int64 or texts (n,), of all splits.

    Raises `DatasetError` for one of texts in one split and of numbers in another, and for a NUL.

    >>> columns_of([{"patient": np.array(["a", "b"])}, {"patient": np.array(["é"])}])
    (Column(name='patient', width=2),)
    """
    made = []
    for name in splits[0]:
        every = [split[name] for split in splits]
        if len({values.dtype.kind == "i" for values in every}) > 1:
            raise DatasetError(
                f"the column {name} holds texts in one split and numbers in another; give one kind"
            )
        if every[0].dtype.kind == "i":
            made.append(Column(name=name))
            continue
        if any("\0" in one for values in every for one in values):
            raise DatasetError(f"a text in the column {name} has a NUL in it; take it out")
        made.append(Column(name=name, width=max(width(values) for values in every)))
    return tuple(made)


def _dtype(splits: list[_ArraySplit], dtype: str | None) -> str:
    if dtype is None:
        half = all(split.features.dtype == np.float16 for split in splits)
        return "float16" if half else "float32"
    if dtype not in ("float16", "float32"):
        raise UsageError(f"dtype {dtype!r} is not stored; choose float16 or float32")
    return dtype


def _fingerprints(
    splits: list[_ArraySplit],
    dtype: str,
    labels: Mapping[str, np.ndarray],
    ids: Mapping[str, list[str]],
    kept: Mapping[str, Mapping[str, np.ndarray]],
    progress: Progress,
) -> Iterator[str]:
    """Checksum of each split's features, labels, ids and columns, taken while rows are checked."""
    total = sum(split.n_rows for split in splits)
    done = 0
    for split in splits:
        (n_rows, dim), kind = split.features.shape, split.features.dtype
        content = xxhash.xxh3_128(f"{n_rows} {dim} {kind.name}".encode())
        step = max(1, BLOCK_BYTES // (dim * kind.itemsize))
        rounding = None if np.can_cast(kind, dtype) else Rounding(dtype)
        for start in range(0, n_rows, step):
            rows = split.features.rows(start, start + step)
            content.update(raw_bytes(rows))
            cast = _cast(rows, dtype, split, start)
            if rounding:
                rounding.add(rows, cast)
            progress("checked rows", done + start + len(rows), total)
        done += n_rows
        if rounding and (why := rounding.lost()):
            raise FeatureError(f"in {split.name} ({split.features.label}) {why}")
        content.update(raw_bytes(labels[split.name]))
        if split.ids is not None:
            content.update("".join(f"{len(one)}|{one}" for one in ids[split.name]).encode())
        for name, values in kept[split.name].items():
            told = (f"{len(str(one))}|{one}" for one in values)
            content.update(f"column {name} ".encode() + "".join(told).encode())
        yield f"xxh3:{content.hexdigest()}"


def _cast(rows: np.ndarray, dtype: str, split: _ArraySplit, start: int) -> np.ndarray:
    """`rows` in `dtype`; `FeatureError` names the first that is not finite, before or after."""
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(rows, dtype=dtype)
    row = first_nonfinite_row(cast)
    if row is None:
        return cast
    name = f"row {start + row} of {split.name} ({split.features.label})"
    if np.isfinite(rows[row]).all():
        remedy = "store them as float32 (--dtype float32)" if dtype == "float16" else "scale them"
        largest = np.abs(rows[row]).max()
        raise FeatureError(f"{name} has {largest:g}, which is infinite in {dtype}; {remedy}")
    raise FeatureError(f"{name} has a feature that is not finite; mend or leave out that row")


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
    n_rows, k), "<split>_labels", "<split>_ids" and "<split>_<column>"; in .parquet for one row a
    row, with the columns split, id, label, view, features and those that the store keeps, and
    "indices" in the file's metadata. `tap` is the first by
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
        return replace(found, features={chosen.name: found.features[chosen.name][..., indices]})

    if suffix in (".zarr", ".h5"):
        spec = store.spec.model_copy(update={"taps": (_subset(chosen, indices),)})
        made = open_or_create(
            out,
            spec,
            format_of(out),
            id_width=store.header.id_width,
            provenance=facts,
            overwrite=overwrite,
        )
        transfer.fill(made, take, progress, store.ahead)
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
            labels, ids, columns = [], [], defaultdict(list)
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
                            for name, values in found.columns.items():
                                columns[name].extend(values)
                        done += len(rows)
                        progress("rows", done, total)
            _member(archive, f"{split.name}_labels", np.concatenate(labels))
            _member(archive, f"{split.name}_ids", np.array(ids))
            for name, values in columns.items():
                _member(archive, f"{split.name}_{_free(name)}", np.array(values))


def _free(column: str) -> str:
    """Return the name of a column in a file that has arrays or columns of its own."""
    taken = ("split", "id", "ids", "label", "labels", "view", "features")
    return f"column_{column}" if column in taken else column


def _member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _write_parquet(
    path: Path, store: Store, take, tap: str, facts: dict, progress: Progress
) -> None:
    """Write a row group a run of rows; features are a list of fixed length a row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    feature = pa.float16() if store.spec.dtype == "float16" else pa.float32()
    k = len(facts["features"])
    label = pa.int64()
    if store.spec.targets:
        several = len(store.spec.targets)
        number = pa.uint8() if store.spec.binary else pa.float64()
        label = number if several == 1 else pa.list_(number, several)
    schema = pa.schema(
        {
            "split": pa.string(),
            "id": pa.string(),
            "label": label,
            "view": pa.int32(),
            "features": pa.list_(feature, k),
            **{
                _free(column.name): pa.string() if column.width else pa.int64()
                for column in store.spec.columns
            },
        },
        metadata={"indices": json.dumps(facts["features"]), "featstore": json.dumps(facts)},
    )
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
                        *(pa.array(found.columns[column.name]) for column in store.spec.columns),
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

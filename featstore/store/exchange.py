"""From arrays to a store and back: import and export."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from featstore import durable
from featstore.downloads import mistaken
from featstore.errors import DatasetError, FeatstoreError, FeatureError, UsageError
from featstore.places import Url, place
from featstore.spec import Spec, Split, Tap
from featstore.store import transfer
from featstore.store.base import Progress, no_progress
from featstore.store.blocks import Rounding, first_nonfinite_row, raw_bytes
from featstore.store.creation import check_apart, finish, open as open_store, open_or_create
from featstore.store.layout import BLOCK_BYTES
from featstore.store.store import Store
from featstore.store.transfer import Rows, SplitRows, format_of

# Names for the classes are kept for each number up to the largest label.
MOST_CLASSES = 1_000_000

NUMBERED = (
    "number the classes and save y, as by names, y = numpy.unique(labels, return_inverse=True),"
    " where labels are those of all splits together"
)


@dataclass(frozen=True)
class NpySplit:
    """`features` (n_rows, D) of real numbers and `labels` (n_rows,) of integers from 0, on disk.

    Where `targets` names T quantities, labels are real numbers (n_rows,) or (n_rows, T).
    """

    name: str
    features: Path
    labels: Path
    targets: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse shapes and types that make no split: `DatasetError` names the file."""
        features, labels = _mapped(self.features), _mapped(self.labels)
        if features.ndim != 2 or 0 in features.shape:
            raise DatasetError(
                f"{self.features} has shape {features.shape}; {self.name} features are (rows,"
                " features), at least one of each"
            )
        if features.dtype.kind not in "fiu":
            raise DatasetError(
                f"{self.features} holds {features.dtype}; features are real numbers: convert them"
            )
        if labels.dtype.kind in "US" and not self.targets:
            raise DatasetError(f"{self.labels} holds texts ({labels.dtype}); {NUMBERED}")
        if labels.dtype.kind not in ("fiu" if self.targets else "iu"):
            raise DatasetError(
                f"{self.labels} holds {labels.dtype}; labels are integers from 0, and targets"
                " (--targets) real numbers: convert them"
            )
        shapes = [features.shape[:1]] if len(self.targets) < 2 else []
        if self.targets:
            shapes.append((len(features), len(self.targets)))
        if labels.shape not in shapes:
            raise DatasetError(
                f"{self.labels} has shape {labels.shape} and {self.features} {features.shape};"
                f" {self.name} needs {' or '.join(map(str, shapes))}, one label a row"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, D)."""
        return _mapped(self.features).shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the features."""
        return _mapped(self.features).dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        """A copy of some rows of features, in the dtype of the file.

        The file is mapped for this alone, or the pages of all earlier slices would stay in memory.
        """
        return np.array(_mapped(self.features)[start:stop])

    def checked_labels(self) -> np.ndarray:
        """All labels as int64 (n_rows,); targets as float64 (n_rows,), or (n_rows, T) of several.

        Raises `DatasetError` naming the row of one that is no class number, or not finite.
        """
        labels = np.array(_mapped(self.labels))
        if self.targets:
            return self._checked_targets(labels)
        wrong = np.flatnonzero((labels < 0) | (labels >= MOST_CLASSES))
        if wrong.size:
            raise DatasetError(
                f"row {wrong[0]} of {self.name} has label {labels[wrong[0]]} ({self.labels});"
                f" classes are numbered from 0 and below {MOST_CLASSES:,}"
            )
        return labels.astype(np.int64)

    def _checked_targets(self, labels: np.ndarray) -> np.ndarray:
        values = labels.astype(np.float64).reshape(len(labels), -1)
        wrong = np.argwhere(~np.isfinite(values))
        if wrong.size:
            row, column = wrong[0]
            raise DatasetError(
                f"row {row} of {self.name} has {self.targets[column]} {values[row, column]}"
                f" ({self.labels}); targets are finite: mend that row, or leave it out"
            )
        return values[:, 0] if len(self.targets) == 1 else values


def _mapped(path: Path) -> np.ndarray:
    if path.is_file() and (wrong := mistaken(path)):
        raise DatasetError(f"{path} cannot be read as an array: it is {wrong}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DatasetError(f"there is no file {path}; give a .npy file") from None
    # damage makes NumPy's parser raise a dozen kinds
    except Exception as error:
        if "object" in str(error).lower():
            raise DatasetError(
                f"{path} cannot be read as an array: it holds Python objects, whose loading could"
                " run anything; save numbers of one type, as X.astype('float32') of rows of one"
                f" length, and of labels that are texts {NUMBERED}"
            ) from None
        if "mmap length" in str(error):
            raise DatasetError(
                f"{path} cannot be read as an array: its end is missing after"
                f" {path.stat().st_size:,} bytes; fetch or save it again"
            ) from None
        raise DatasetError(
            f"{path} cannot be read as an array ({error}); save it with numpy.save"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DatasetError(f"{path} holds several arrays; save each alone with numpy.save")
    return array


TAP = "features"
Pair = tuple[str | Path, str | Path]


def import_arrays(
    train: Pair,
    test: Pair,
    out: str | Path,
    format: str = "zarr",
    *,
    dtype: str | None = None,
    classes: Sequence[str] | None = None,
    targets: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Store:
    """Make a store of `train` and `test`, each a pair of .npy files (features, labels).

    Features are (n_rows, D) of any real type, labels (n_rows,) integers from 0; D is the same in
    both. `dtype` is "float16" or "float32", by default float16 for float16 files and float32 for
    any other. `classes` names the classes, by default their numbers; or `targets` names T
    quantities to regress on, and labels are any real numbers (n_rows,) or (n_rows, T). Files are
    read a slice at a time: twice, first to check them and to take their checksum, by which the same
    call on the same files finds its store again, complete or to be resumed, and mends blocks that
    are damaged.

    Calls `progress("checked rows", ...)` and `progress("rows", ...)`. Raises `DatasetError` for
    files that make no store, `FeatureError` naming the first row that is not finite in `dtype`, or
    the feature whose changes it does not resolve,
    both before anything is written; then whatever `open_or_create` and `Store.writer` raise.
    """
    targets = tuple(targets)
    if classes and targets:
        raise UsageError("classes and targets are both named; labels are of one kind: name one")
    pairs = {"train": train, "test": test}
    splits = [NpySplit(name, *map(Path, pair), targets) for name, pair in pairs.items()]
    for split in splits:
        split.check()
    if splits[0].shape[1] != splits[1].shape[1]:
        raise DatasetError(
            f"{splits[0].features} has {splits[0].shape[1]} features and {splits[1].features}"
            f" {splits[1].shape[1]}; train and test need the same features"
        )
    spec = _spec(splits, _dtype(splits, dtype), classes, progress)
    id_width = max(len(str(split.shape[0] - 1)) for split in splits)
    store = open_or_create(out, spec, format, id_width=id_width, overwrite=overwrite)
    _copy(store, splits, progress)
    return finish(store)


def _dtype(splits: list[NpySplit], dtype: str | None) -> str:
    if dtype is None:
        return "float16" if all(split.dtype == np.float16 for split in splits) else "float32"
    if dtype not in ("float16", "float32"):
        raise UsageError(f"dtype {dtype!r} is not stored; choose float16 or float32")
    return dtype


def _spec(
    splits: list[NpySplit], dtype: str, classes: Sequence[str] | None, progress: Progress
) -> Spec:
    names = () if splits[0].targets else _class_names(splits, classes)
    fingerprints = _fingerprints(splits, dtype, progress)
    return Spec(
        backbone="import",
        weights="none",
        transform="none",
        dataset=", ".join(split.features.name for split in splits),
        splits=tuple(
            Split(name=split.name, n_rows=split.shape[0], fingerprint=fingerprint)
            for split, fingerprint in zip(splits, fingerprints, strict=True)
        ),
        taps=(Tap(name=TAP, dim=splits[0].shape[1], pooling="none"),),
        dtype=dtype,
        classes=names,
        targets=splits[0].targets,
    )


def _class_names(splits: list[NpySplit], classes: Sequence[str] | None) -> tuple[str, ...]:
    n_classes = 1 + max(int(split.checked_labels().max()) for split in splits)
    names = tuple(classes) if classes else tuple(map(str, range(n_classes)))
    if len(names) < n_classes:
        raise DatasetError(
            f"there are labels up to {n_classes - 1} and {len(names)} class names; name every class"
        )
    return names


def _fingerprints(splits: list[NpySplit], dtype: str, progress: Progress) -> Iterator[str]:
    """Checksum of each split's features and labels, taken while every row is checked."""
    total = sum(split.shape[0] for split in splits)
    done = 0
    for split in splits:
        n_rows, dim = split.shape
        content = xxhash.xxh3_128(f"{n_rows} {dim} {split.dtype.name}".encode())
        step = max(1, BLOCK_BYTES // (dim * split.dtype.itemsize))
        rounding = None if np.can_cast(split.dtype, dtype) else Rounding(dtype)
        for start in range(0, n_rows, step):
            rows = split.rows(start, start + step)
            content.update(raw_bytes(rows))
            cast = _cast(rows, dtype, split, start)
            if rounding:
                rounding.add(rows, cast)
            progress("checked rows", done + start + len(rows), total)
        done += n_rows
        if rounding and (why := rounding.lost()):
            raise FeatureError(f"in {split.name} ({split.features}) {why}")
        content.update(raw_bytes(split.checked_labels()))
        yield f"xxh3:{content.hexdigest()}"


def _cast(rows: np.ndarray, dtype: str, split: NpySplit, start: int) -> np.ndarray:
    """`rows` in `dtype`; `FeatureError` names the first that is not finite, before or after."""
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(rows, dtype=dtype)
    row = first_nonfinite_row(cast)
    if row is None:
        return cast
    name = f"row {start + row} of {split.name} ({split.features})"
    if np.isfinite(rows[row]).all():
        remedy = "store them as float32 (--dtype float32)" if dtype == "float16" else "scale them"
        largest = np.abs(rows[row]).max()
        raise FeatureError(f"{name} has {largest:g}, which is infinite in {dtype}; {remedy}")
    raise FeatureError(f"{name} has a feature that is not finite; mend or leave out that row")


def _copy(store: Store, splits: list[NpySplit], progress: Progress) -> None:
    """Write the blocks that are missing or damaged."""
    damages = store.verify()
    if store.complete and not damages:
        return
    done, total = 0, sum(split.shape[0] for split in splits)
    with store.writer() as writer:
        writer.withdraw(damages)
        for split in splits:
            labels = split.checked_labels()
            missing = set(store.missing(split.name))
            for block in range(store.n_blocks(split.name)):
                rows = store.rows_of(split.name, block)
                if block in missing:
                    features = split.rows(rows.start, rows.stop)
                    features = _cast(features, store.spec.dtype, split, rows.start)
                    there = slice(rows.start, rows.stop)
                    ids = [str(row) for row in rows]
                    writer.write(split.name, block, {TAP: features}, labels[there], ids)
                done += len(rows)
                progress("rows", done, total)


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

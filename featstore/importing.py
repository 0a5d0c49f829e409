"""Stores of features that were computed elsewhere, copied block by block from .npy files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from featstore.checksums import raw_bytes
from featstore.contract import Progress, Store, no_progress
from featstore.errors import DatasetError, FeatureError, UsageError
from featstore.finite import Rounding, first_nonfinite_row
from featstore.layout import BLOCK_BYTES
from featstore.npy_files import NpySplit
from featstore.spec import Spec, Split, Tap
from featstore.store import finish, open_or_create

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

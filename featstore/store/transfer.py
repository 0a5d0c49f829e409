"""From stores to a store: copy blocks, convert the format, merge taps and rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

import numpy as np

from featstore.errors import FeatureError, SpecMismatch, UsageError
from featstore.notices import distinct
from featstore.places import Url
from featstore.spec import IDS, LABELS, MOST_LETTERS, Spec, Tap
from featstore.store import blocks
from featstore.store.base import Piece, Progress, no_progress
from featstore.store.blocks import Rounding
from featstore.store.catalog import safe_name
from featstore.store.creation import (
    check_apart,
    finish,
    open as open_store,
    open_or_create,
    shortened,
)
from featstore.store.layout import Codec
from featstore.store.reading import read_ahead
from featstore.store.store import Store


@dataclass(frozen=True)
class Rows:
    """Some rows as `Writer.write` takes them."""

    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    ids: list[str]
    columns: Mapping[str, Sequence | np.ndarray] = field(default_factory=dict)


class CheckedRows:
    """Any rows of one array of a complete split; each block that they touch is checked once.

    The last blocks are held, since blocks of another store begin and end elsewhere: two and as
    many as are read `ahead`. Threads may share it.
    """

    def __init__(self, store: Store, split: str, name: str, ahead: int | None = None):
        self._held_blocks = 2 + (store.ahead if ahead is None else ahead)
        self._store, self._split, self._name = store, split, name
        self._array = store.array(split, name)
        self._records = store.require_complete(split)
        self._lock = Lock()
        self._held: dict[tuple[int, int], Future] = {}

    def take(self, rows: range) -> np.ndarray:
        """The rows, (len(rows), ...), or (n_views, len(rows), D) of an array of several views."""
        views = [self._view(view, rows) for view in range(self._array.n_views)]
        return np.stack(views) if len(self._array.shape) == 3 else views[0]

    def _view(self, view: int, rows: range) -> np.ndarray:
        out = np.empty((len(rows), *self._array.row_shape), self._array.dtype)
        row = rows.start
        while row < rows.stop:
            block = row // self._store.block_rows
            there = self._store.rows_of(self._split, block)
            until = min(rows.stop, there.stop)
            held = self._block(view, block)
            out[row - rows.start : until - rows.start] = held[
                row - there.start : until - there.start
            ]
            row = until
        return out

    def _block(self, view: int, block: int) -> np.ndarray:
        with self._lock:
            future = self._held.get((view, block))
            first = future is None
            if first:
                future = self._held[view, block] = Future()
                while len(self._held) > self._array.n_views * self._held_blocks:
                    del self._held[next(iter(self._held))]
        if first:
            try:
                future.set_result(self._read(view, block))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _read(self, view: int, block: int) -> np.ndarray:
        n_rows = len(self._store.rows_of(self._split, block))
        out = np.empty((n_rows, *self._array.row_shape), self._array.dtype)
        piece = Piece(self._split, self._name, block, view)
        self._store.fill(piece, self._records[block], out)
        return out


class SplitRows:
    """Labels, ids, columns and some taps of one split, checked."""

    def __init__(self, store: Store, split: str, taps: Mapping[str, str], ahead: int | None = None):
        """`taps` gives the store's name of each tap by the name that it is to have."""
        self._taps = {name: CheckedRows(store, split, tap, ahead) for name, tap in taps.items()}
        self._labels = CheckedRows(store, split, LABELS, ahead)
        self._ids = CheckedRows(store, split, IDS, ahead)
        self._columns = {
            column: CheckedRows(store, split, name, ahead)
            for name, column in store.spec.column_arrays.items()
        }

    def take(self, rows: range) -> Rows:
        """Some rows of all of them."""
        return Rows(
            features={name: tap.take(rows) for name, tap in self._taps.items()},
            labels=self._labels.take(rows),
            ids=blocks.decode_ids(self._ids.take(rows)),
            columns={
                column.name: blocks.decode_ids(kept.take(rows)) if column.width else kept.take(rows)
                for column, kept in self._columns.items()
            },
        )


def ahead_within(memory: int, *stores: Store) -> int:
    """Return the number of blocks to read ahead, so that all fit into `memory` bytes.

    Held are, of each, two blocks and those read ahead; and as many, and one more, joined for the
    new store. Raises `UsageError` naming the least where that is more than `memory`.
    """
    block = sum(
        max(
            sum(a.n_views * a.row_bytes for a in store.header.arrays(split.name).values())
            * min(store.block_rows, split.n_rows)
            for split in store.spec.splits
        )
        for store in stores
    )
    most = (memory // max(block, 1) - 3) // 2
    if most < 1:
        raise UsageError(
            f"blocks of {block / 1e6:.1f} MB do not fit into {memory / 1e6:.1f} MB of memory;"
            f" give {5 * block / 1e6:.0f} MB or more"
        )
    return min(most, *(store.ahead for store in stores))


def fill(
    store: Store, take: Callable[[str, range], Rows], progress: Progress, ahead: int = 2
) -> Store:
    """Write the blocks of `store` that are missing or damaged; `take` gives a split's rows.

    Returns the store, at the place that it was made for. Calls `progress("rows", done, total)`.
    What was written stays, whatever is raised.
    """
    damages = store.verify()
    damaged = {(damage.split, damage.block) for damage in damages if damage.block is not None}
    missing = {(s.name, block) for s in store.spec.splits for block in store.missing(s.name)}
    total = sum(split.n_rows for split in store.spec.splits)
    todo = sorted(damaged | missing)
    if not todo and not damages:
        return finish(store)
    done = total - sum(len(store.rows_of(*block)) for block in todo)
    with store.writer() as writer:
        writer.withdraw(damages)
        taken = read_ahead(lambda block: take(block[0], store.rows_of(*block)), todo, ahead)
        for (split, block), rows in zip(todo, taken, strict=True):
            writer.write(split, block, rows.features, rows.labels, rows.ids, columns=rows.columns)
            done += len(rows.ids)
            progress("rows", done, total)
    return finish(store)


_HDF5 = (".h5", ".hdf5")


def convert(
    source: str | Path | Url,
    out: str | Path | Url,
    format: str | None = None,
    *,
    dtype: str | None = None,
    codec: Codec | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Store:
    """Copy the complete store at `source` to `out`, every checksum checked; returns the copy.

    `format` is "zarr" or "hdf5", by default what the suffix of `out` says; `dtype` and `codec` are
    those of the source by default. In the same dtype the copy has the same rows, spec and
    fingerprints. float32 becomes the float16 that an extraction would have stored; float16 becomes
    no more exact as float32, which the copy's transform says. Killed and called again, it goes on.

    Calls `progress("rows", done, total)`. Raises what `open`, `open_or_create` and `load` raise,
    `UsageError` where the two places are one, `FeatureError` naming a row that exceeds float16, or,
    before anything is written, a feature whose changes float16 does not resolve; for that float32
    rows are read twice.
    """
    store = open_store(source)
    check_apart(out, store)
    for split in store.spec.splits:
        store.require_complete(split.name)
    spec = _converted_spec(store.spec, dtype or store.spec.dtype)
    if (store.spec.dtype, spec.dtype) == ("float32", "float16"):
        _check_resolved(store)
    made = open_or_create(
        out,
        spec,
        format or format_of(out),
        id_width=store.header.id_width,
        codec=codec,
        overwrite=overwrite,
        provenance={**_made(store), "converted_from": str(store.path)},
    )
    taps = {tap.name: tap.name for tap in spec.taps}
    splits = {split.name: SplitRows(store, split.name, taps) for split in spec.splits}

    def take(split: str, rows: range) -> Rows:
        found = splits[split].take(rows)
        # What becomes infinite is refused by the writer, which names its row.
        with np.errstate(over="ignore"):
            cast = {name: x.astype(spec.dtype, copy=False) for name, x in found.features.items()}
        return replace(found, features=cast)

    return fill(made, take, progress, store.ahead)


def _check_resolved(store: Store) -> None:
    """Raise `FeatureError` naming a feature that is lost in float16."""
    for split in store.spec.splits:
        for tap in store.spec.taps:
            rounding = Rounding("float16")
            for rows, _ in store.tap(split.name, tap.name):
                with np.errstate(over="ignore"):
                    rounding.add(rows, rows.astype(np.float16))
            if why := rounding.lost():
                raise FeatureError(f"in {split.name}/{tap.name} of {store.path} {why}")


def format_of(out: str | Path | Url) -> str:
    """The format that a place's suffix says: "hdf5" for .h5 and .hdf5, else "zarr".

    >>> format_of("a.h5"), format_of("s3://bucket/a.zarr"), format_of("a")
    ('hdf5', 'zarr', 'zarr')
    """
    return "hdf5" if str(out).lower().endswith(_HDF5) else "zarr"


def _converted_spec(spec: Spec, dtype: str) -> Spec:
    if dtype not in ("float16", "float32"):
        raise UsageError(f"dtype {dtype!r} is not stored; choose float16 or float32")
    changes = {"dtype": dtype}
    if (spec.dtype, dtype) == ("float16", "float32"):
        changes["transform"] = f"{spec.transform}; features rounded to float16"
    return spec.model_copy(update=changes)


def _made(store: Store) -> dict:
    """Return the source's provenance, without what is true of the new files alone."""
    own = ("created", "versions")
    made = {name: value for name, value in store.provenance.items() if name not in own}
    # What commit records say of the source's rows is not in those of the copy.
    said = {"notices": [notice.to_json() for notice in store.notices]} if store.notices else {}
    return {**made, **said}


# Rows whose ids and labels are held against each other at once, and bytes of one as Python has it.
_COMPARED = 1 << 16
_COMPARED_BYTES = 1024
_MEMORY = 4 << 30

# What two stores must have in common to be one.
_COMMON = ("dtype", "classes", "targets", "binary", "precision", "augment")


def merge(
    a: str | Path | Url,
    b: str | Path | Url,
    out: str | Path | Url,
    format: str | None = None,
    *,
    names: Sequence[str] = (),
    codec: Codec | None = None,
    overwrite: bool = False,
    memory: int = _MEMORY,
    progress: Progress = no_progress,
) -> Store:
    """Make one store of the taps of two that hold the same rows; returns it.

    Rows are the same when every row has the same id and label in both, and the same in columns that
    both keep; the new store keeps those of each. With `names`, one for each
    store, every tap becomes NAME.TAP; without, those whose name is in both do, by the names of
    their backbones. Each tap keeps what
    made it (backbone, weights, transform), so that saved probes still know it. `memory` bounds the
    bytes of the blocks that are held.

    Calls `progress("rows", done, total)`. Raises `SpecMismatch` naming the first difference between
    rows, splits, classes or dtypes, `UsageError` where taps cannot be told apart, and what `open`,
    `open_or_create` and `load` raise.
    """
    stores = open_store(a), open_store(b)
    check_apart(out, *stores)
    _check_specs(*stores)
    ahead = ahead_within(memory, *stores)
    compared = max(1, min(_COMPARED, memory // (4 * _COMPARED_BYTES)))
    for split in stores[0].spec.splits:
        _check_rows(*stores, split.name, compared, ahead)
    taps = _names(stores, names)
    said = [one.to_json() for one in distinct(one for store in stores for one in store.notices)]
    made = open_or_create(
        out,
        _merged_spec(stores, taps),
        format or format_of(out),
        id_width=max(store.header.id_width for store in stores),
        codec=codec,
        overwrite=overwrite,
        provenance={
            "merged_from": [str(store.path) for store in stores],
            **({"notices": said} if said else {}),
        },
    )
    splits = {
        split.name: [
            SplitRows(store, split.name, chosen, ahead)
            for store, chosen in zip(stores, taps, strict=True)
        ]
        for split in made.spec.splits
    }

    def take(split: str, rows: range) -> Rows:
        one, other = (part.take(rows) for part in splits[split])
        features, columns = {**one.features, **other.features}, {**other.columns, **one.columns}
        return replace(one, features=features, columns=columns)

    return fill(made, take, progress, ahead)


def _check_specs(a: Store, b: Store) -> None:
    for name in _COMMON:
        one, other = getattr(a.spec, name), getattr(b.spec, name)
        if one != other:
            raise SpecMismatch(
                f"{a.path} and {b.path} differ in {name}: {shortened(one)} and {shortened(other)};"
                " only stores that agree in it can be merged"
            )
    shapes = [
        {split.name: (split.n_rows, split.views) for split in store.spec.splits} for store in (a, b)
    ]
    if shapes[0] != shapes[1]:
        raise SpecMismatch(
            f"{a.path} has splits {_splits(a)} and {b.path} {_splits(b)};"
            " only stores of the same rows can be merged"
        )


def _splits(store: Store) -> str:
    return ", ".join(
        f"{split.name} ({split.n_rows} rows, {split.views} views)" for split in store.spec.splits
    )


def _check_rows(a: Store, b: Store, split: str, compared: int, ahead: int) -> None:
    """Raise SpecMismatch naming the first row that has another id or label."""
    parts = SplitRows(a, split, {}, ahead), SplitRows(b, split, {}, ahead)
    n_rows = a.spec.split(split).n_rows
    for start in range(0, n_rows, compared):
        one, other = (part.take(range(start, min(start + compared, n_rows))) for part in parts)
        both = [name for name in one.columns if name in other.columns]
        for kind, left, right in (
            ("id", one.ids, other.ids),
            ("label", one.labels.tolist(), other.labels.tolist()),
            *((name, _plain(one.columns[name]), _plain(other.columns[name])) for name in both),
        ):
            if left != right:
                row = next(i for i, value in enumerate(left) if value != right[i])
                raise SpecMismatch(
                    f"row {start + row} of {split} has {kind} {left[row]!r} in {a.path} and"
                    f" {right[row]!r} in {b.path}; only stores of the same rows, in the same order"
                    " and with the same labels, can be merged"
                )


def _plain(values: Sequence | np.ndarray) -> list:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _names(stores: tuple[Store, Store], names: Sequence[str]) -> list[dict[str, str]]:
    """For each store, its taps by the names that they are to have."""
    if names and (len(names) != 2 or len(set(names)) != 2):
        raise UsageError(f"names {list(names)} for two stores; give two different ones")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{,59}", name):
            raise UsageError(
                f"the name {name[:60]!r} cannot stand before taps; give letters, digits, '_', '-'"
                " and '.', at most 60, such as --names one,other"
            )
    prefixes = list(names) or [safe_name(store.spec.backbone) for store in stores]
    taps = [[tap.name for tap in store.spec.taps] for store in stores]
    both = set(taps[0]) & set(taps[1])
    named = [
        {f"{prefix}.{tap}" if names or tap in both else tap: tap for tap in of_store}
        for prefix, of_store in zip(prefixes, taps, strict=True)
    ]
    for name in (name for one in named for name in one if len(name) > MOST_LETTERS):
        raise UsageError(
            f"a tap would be called {name[:40]}..., of {len(name)} letters, and {MOST_LETTERS} are"
            " the most; give shorter names, such as --names one,other"
        )
    same = sorted(set(named[0]) & set(named[1]))
    if same:
        raise UsageError(
            f"both stores would have a tap {same[0]!r}; tell them apart by names, such as"
            " --names one,other"
        )
    return named


def _merged_spec(stores: tuple[Store, Store], taps: list[dict[str, str]]) -> Spec:
    a, b = (store.spec for store in stores)

    def joined(*values: str) -> str:
        return " + ".join(dict.fromkeys(values))

    def named(spec: Spec, name: str, tap: str) -> Tap:
        there = spec.of_tap(tap)
        source = {field: there[field] for field in ("backbone", "weights", "transform")}
        return spec.tap(tap).model_copy(update={"name": name, **source})

    return Spec(
        backbone=joined(a.backbone, b.backbone),
        weights=joined(a.weights, b.weights),
        transform=joined(a.transform, b.transform),
        dataset=joined(a.dataset, b.dataset),
        splits=tuple(
            split.model_copy(
                update={"fingerprint": joined(split.fingerprint, b.split(split.name).fingerprint)}
            )
            for split in a.splits
        ),
        taps=tuple(
            named(spec, name, tap)
            for spec, chosen in zip((a, b), taps, strict=True)
            for name, tap in chosen.items()
        ),
        limit=a.limit if a.limit == b.limit else None,
        columns=(
            *a.columns,
            *(one for one in b.columns if one.name not in [other.name for other in a.columns]),
        ),
        **{field: getattr(a, field) for field in _COMMON},
    )

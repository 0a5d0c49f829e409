"""Rows that come one batch after another: committed as they come, and a store once all are there.

A store's header says how many rows it has, what its classes are, and a checksum of its rows, so
that it can be made only when the last one has come. Until then rows stand in a folder beside its
place: files of about 8 MB, each whole or not there, with a checksum of every array in it.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from featstore import durable, places
from featstore.errors import (
    DiskFull,
    FeatstoreError,
    FeatureError,
    SpecMismatch,
    StoreDamaged,
    UsageError,
)
from featstore.places import Url, place
from featstore.spec import IDS, LABELS, RESERVED, Spec, Split, Tap
from featstore.store import labels as labelling, layout, transfer
from featstore.store.base import Progress, no_progress
from featstore.store.blocks import (
    Rounding,
    checksum,
    checksum_text,
    decode_ids,
    encode_ids,
    first_nonfinite_row,
    raw_bytes,
    width,
)
from featstore.store.creation import exists, open as open_store, open_or_create, shortened
from featstore.store.labels import TEXTS, Labels
from featstore.store.layout import Codec
from featstore.store.locks import locked
from featstore.store.store import Store
from featstore.store.transfer import Rows, format_of

# The tap of features that come without a name, and the split of rows that come without one.
TAP, TRAIN = "features", "train"
_HEADER = "rows.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
# Share of a row's length that it may differ by when it is computed again.
_SAME = 0.01


def writer(
    out: str | Path | Url,
    *,
    format: str | None = None,
    codec: Codec | None = None,
    dtype: str = "float32",
    classes: Sequence[str] | None = None,
    targets: Sequence[str] = (),
    name: str = "own",
    version: str | None = None,
    dataset: str = "rows",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> "RowWriter":
    """Return a writer of rows, a context, that makes the store `out` when it is left.

    Rows are committed about 8 MB at a time. After a kill, or an error inside the context, those
    stay; the next writer of the same place goes on with them: `rows` says how many stand.

        with featstore.writer("mine.zarr") as store:
            for images, labels, ids in loader:
                store.append(net(images), labels, ids)

    Arguments:
        out: the store's place, a path or a URL.
        format: "zarr" or "hdf5", by default what the suffix of `out` says.
        codec: as in `create`.
        dtype: "float16" or "float32", in which features are stored.
        classes: names of the classes, by default their numbers, or the labels that are texts.
        targets: names of T quantities to regress on; labels are then real numbers.
        name: what made the features, a part of the store's identity.
        version: what tells it from others of that name, another part.
        dataset: what the rows are of, another part.
        overwrite: replace a store that holds something else, once this one is complete.
        progress: called as `progress("rows", done, total)` while the store is made.

    Raises `UsageError` for values that cannot be, and in the context's beginning `SpecMismatch`
    naming the field in which rows that stand are of something else, `WriterBusy` while another
    process writes.
    """
    if dtype not in ("float16", "float32"):
        raise UsageError(f"dtype {dtype!r} is not stored; choose float16 or float32")
    if classes and targets:
        raise UsageError("classes and targets are both named; labels are of one kind: name one")
    said = {
        "dtype": dtype,
        "classes": list(classes or ()),
        "targets": list(targets),
        "name": name,
        "version": version,
        "dataset": dataset,
    }
    return RowWriter(place(out), said, format or format_of(out), codec, overwrite, progress)


class RowWriter:
    """Takes rows in order; made by `writer`. `store` is the store once the context is left."""

    def __init__(
        self,
        out: places.Place,
        said: dict[str, Any],
        format: str,
        codec: Codec | None,
        overwrite: bool,
        progress: Progress,
    ):
        self.store: Store | None = None
        self._out, self._said, self._overwrite, self._progress = out, said, overwrite, progress
        self._format, self._codec = format, codec
        self._folder = places.cache_folder(out, "rows")
        self._taps: dict[str, int] = {}
        self._kind, self._columns, self._noted = "", 0, ""
        self._splits: dict[str, _SplitOfRows] = {}
        self._finished: Store | None = None
        self._rounding: dict[tuple[str, str], Rounding] = {}
        self._held: ExitStack | None = None

    def __enter__(self) -> Self:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(locked(self._folder, alone=True))
            if self._folder.is_dir():
                self._go_on()
            elif exists(self._out) and not self._overwrite:
                self._finished = self._complete()
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            with suppress(*(() if kind is None else (FeatstoreError, OSError))):
                self.flush()
            if kind is None:
                self.store = self._finished or self._made()
        finally:
            held, self._held = self._held, None
            held.close()

    @property
    def rows(self) -> dict[str, int]:
        """Return the number of rows in each split, those of earlier runs included."""
        if self._finished:
            return {split.name: split.n_rows for split in self._finished.spec.splits}
        return {name: split.n_rows for name, split in self._splits.items()}

    def append(
        self,
        features: Any,
        labels: Any,
        ids: Sequence[Any] | None = None,
        *,
        split: str = TRAIN,
        at: int | None = None,
    ) -> int:
        """Take some rows; return how many of them are new.

        Rows that are there already are held against what stands, and not doubled. With `ids` a row
        is known by its id, in whatever order rows come. Without, it is known by its number, and a
        loop begins again with its first row, or says `at` which row it goes on.

        Arguments:
            features: array or tensor (b, D) of real numbers, or {tap: (b, D)} of several taps.
            labels: whole numbers from 0 (b,), texts (b,), one-hot rows (b, C), zeros and ones
                (b, L) of several labels, or real numbers (b,) or (b, T) of targets.
            ids: a text or number for each row, each once in its split.
            split: which split the rows are of.
            at: number of the first row, by default how many this writer was given of the split.

        Raises `DatasetError` and `FeatureError` naming the row that cannot be stored, `UsageError`
        for rows of another form than those before, or rows that leave a gap, `SpecMismatch` for a
        row that stands otherwise.
        """
        if self._held is None:
            raise UsageError("rows are written inside the context: with featstore.writer(...) as w")
        if not _NAME.fullmatch(split):
            raise UsageError(f"split {split!r} cannot be a name; take letters, digits, _, . and -")
        named = ids is not None
        rows, raw = self._batch(split, features, labels, ids)
        n_rows = len(rows.labels)
        found = self._split(split, named)
        if named:
            numbers = found.numbers(rows.ids)
        else:
            start = found.given if at is None else at
            if not 0 <= start <= self.rows.get(split, 0):
                raise UsageError(
                    f"rows of {split} come from number {start:,} on, and"
                    f" {self.rows.get(split, 0):,} are there; append those between first"
                )
            numbers = np.arange(start, start + n_rows)
            rows = Rows(rows.features, rows.labels, [str(number) for number in numbers])
            found.given = start + n_rows
        there = self.rows.get(split, 0)
        old = np.flatnonzero(numbers < there)
        new = np.flatnonzero(numbers >= there)
        if old.size:
            self._check_same(split, numbers[old], _some(rows, old))
        if new.size and self._finished:
            raise UsageError(
                f"{self._finished.path} is complete with {there:,} rows of {split}, and row"
                f" {rows.ids[new[0]]!r} is another; choose another place, or overwrite it"
            )
        if new.size:
            for tap, values in raw.items():
                if not np.can_cast(values.dtype, self._said["dtype"]):
                    rounding = self._rounding.setdefault(
                        (split, tap), Rounding(self._said["dtype"])
                    )
                    rounding.add(values[new], rows.features[tap][new])
            found.add(_some(rows, new))
        return len(new)

    def flush(self) -> None:
        """Return when every row that was appended is committed."""
        for split in self._splits.values():
            split.flush()

    def _batch(self, split: str, features: Any, labels: Any, ids: Any):
        """Return rows as they are stored, their labels as they came, and features uncast."""
        given = features if isinstance(features, Mapping) else {TAP: features}
        raw = {
            str(tap): labelling.as_array(values, f"features of {tap}")
            for tap, values in given.items()
        }
        for tap, values in raw.items():
            if values.ndim != 2 or values.dtype.kind not in "fiu" or 0 in values.shape:
                raise UsageError(
                    f"features of {tap} are {values.dtype} {values.shape}; give real numbers"
                    " (rows, features), at least one of each: pool or flatten what has more axes"
                )
            if not _NAME.fullmatch(tap) or tap in RESERVED:
                raise UsageError(f"a tap cannot be called {tap!r}; take another name")
        lengths = {tap: len(values) for tap, values in raw.items()}
        if len(set(lengths.values())) != 1:
            told = ", ".join(f"{tap} has {count}" for tap, count in lengths.items())
            raise UsageError(f"taps come with several numbers of rows: {told or 'there is no tap'}")
        n_rows = next(iter(lengths.values()))
        first = self.rows.get(split, 0)
        said = labelling.parsed(labels, n_rows, self._said["targets"], f"labels of {split}", first)
        known = [] if ids is None else labelling.as_ids(ids)
        if ids is not None and len(known) != n_rows:
            raise UsageError(f"{len(known):,} ids come with {n_rows:,} rows; give one each")
        if len(set(known)) < len(known):
            twice = next(one for one in known if known.count(one) > 1)
            raise UsageError(f"id {twice!r} comes twice in one batch; give each row one of its own")
        self._check_form({tap: values.shape[1] for tap, values in raw.items()}, said)
        cast = {tap: self._cast(split, tap, first, values) for tap, values in raw.items()}
        return Rows(cast, said.values, known), raw

    def _check_form(self, taps: dict[str, int], said: Labels) -> None:
        """Raise UsageError where rows are of another form than the first ones; note theirs."""
        if self._finished:
            spec = self._finished.spec
            self._taps = {tap.name: tap.dim for tap in spec.taps}
        if not self._taps:
            self._taps, self._kind, self._columns = taps, said.kind, said.columns
        elif taps != self._taps:
            raise UsageError(
                f"rows come with taps {_told(taps)}, and those before had {_told(self._taps)}; give"
                " all rows the same taps"
            )
        if self._kind and (said.kind, said.columns) != (self._kind, self._columns):
            raise UsageError(
                f"labels are {said.kind}{_of(said.columns)}, and those before were"
                f" {self._kind}{_of(self._columns)}; give one kind to all rows"
            )
        self._kind, self._columns = said.kind, said.columns

    def _cast(self, split: str, tap: str, first: int, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(values, dtype=self._said["dtype"])
        row = first_nonfinite_row(cast)
        if row is None:
            return cast
        why = "is not finite; mend or leave out that row"
        if np.isfinite(values[row]).all():
            largest = np.abs(values[row]).max()
            why = f"is {largest:g}, which is infinite in {self._said['dtype']}"
            why += "; store float32" if self._said["dtype"] == "float16" else "; scale it"
        raise FeatureError(f"row {first + row} of {split} has a feature at {tap} that {why}")

    def _split(self, split: str, named: bool) -> "_SplitOfRows":
        if split not in self._splits:
            self._splits[split] = (
                _SplitOfStore(self._finished, split)
                if self._finished
                else _SplitOfRows(self._folder, split, named, self._begun)
            )
        found = self._splits[split]
        if found.named is None:
            found.named = named
        if found.named != named:
            raise UsageError(
                f"rows of {split} come {'with' if named else 'without'} ids, and those before"
                f" {'without' if named else 'with'}; give them to all rows or to none"
            )
        return found

    def _check_same(self, split: str, numbers: np.ndarray, rows: Rows) -> None:
        there = self._splits[split].take(numbers)
        labels = rows.labels
        if self._finished and self._kind == TEXTS:
            names = np.array(self._finished.spec.classes)
            there = Rows(there.features, names[there.labels], there.ids)
        wrong = (there.labels != labels).reshape(len(numbers), -1).any(1)
        why = "label"
        for tap, values in rows.features.items():
            a, b = (each.astype(np.float64) for each in (values, there.features[tap]))
            off = np.linalg.norm(a - b, axis=1) > _SAME * np.linalg.norm(b, axis=1)
            if off.any() and not wrong.any():
                wrong, why = off, f"features at {tap}"
        if wrong.any():
            row = int(np.argmax(wrong))
            raise SpecMismatch(
                f"row {rows.ids[row]!r} of {split} stands already with other {why}; take the rows"
                " that stand as they are, give other ids or version=, or overwrite them"
            )

    def _begun(self) -> None:
        """Write down of what the rows are, before the first of a split is committed."""
        facts = {
            **self._said,
            "taps": self._taps,
            "labels": self._kind,
            "columns": self._columns,
            "splits": list(self._splits),
        }
        text = json.dumps(facts)
        if text == self._noted:
            return
        self._folder.mkdir(exist_ok=True)  # the order of taps and splits is the store's
        with durable.written_whole(self._folder / _HEADER) as aside:
            aside.write_text(json.dumps({"facts": text, "checksum": checksum_text(text)}))
        durable.sync_files([self._folder, self._folder.parent])
        self._noted = text

    def _go_on(self) -> None:
        """Find the rows that stand, or delete those of something else that are to be replaced."""
        try:
            found = json.loads((self._folder / _HEADER).read_text())
            facts = json.loads(found["facts"])
            whole = checksum_text(found["facts"]) == found["checksum"]
        except FileNotFoundError:
            facts, whole = None, not any(self._folder.iterdir())
        except (OSError, ValueError, KeyError, TypeError):
            facts, whole = None, False
        if whole and facts is None:
            return
        other = [name for name in self._said if whole and facts[name] != self._said[name]]
        if (other or not whole) and self._overwrite:
            shutil.rmtree(self._folder)
            return
        if not whole:
            raise StoreDamaged(f"{self._folder} is damaged; overwrite its rows, or delete it")
        if other:
            there, wanted = shortened(facts[other[0]]), shortened(self._said[other[0]])
            raise SpecMismatch(
                f"{self._folder} holds rows of something else: {other[0]} is {there}, wanted"
                f" {wanted}; choose another place, or overwrite them"
            )
        self._taps, self._kind = facts["taps"], facts["labels"]
        self._columns = facts["columns"]
        for split in facts["splits"]:
            self._splits[split] = _SplitOfRows(self._folder, split, None, self._begun)

    def _complete(self) -> Store:
        """Return the store that is at the place, complete and of the same; else SpecMismatch."""
        store = open_store(self._out)
        spec, said = store.spec, self._said
        wanted = {
            "backbone": said["name"],
            "weights": _weights(said["version"]),
            "dataset": said["dataset"],
            "dtype": said["dtype"],
            "targets": tuple(said["classes"]) or spec.targets
            if spec.binary
            else tuple(said["targets"]),
            "classes": spec.classes if spec.binary else tuple(said["classes"]) or spec.classes,
        }
        for field, value in wanted.items():
            if getattr(spec, field) != value:
                raise SpecMismatch(
                    f"{store.path} holds something else: {field} is"
                    f" {shortened(getattr(spec, field))}, wanted {shortened(value)}; choose another"
                    " place, or overwrite it"
                )
        for split in spec.splits:
            store.require_complete(split.name)
        return store

    def _made(self) -> Store:
        """Make the store of all rows that stand, and delete them where they stood."""
        splits = {name: split for name, split in self._splits.items() if split.n_rows}
        if not splits:
            raise UsageError("no row was appended; append some before the context is left")
        for (split, tap), rounding in self._rounding.items():
            if why := rounding.lost():
                raise FeatureError(f"in {split}/{tap} {why}")
        said = self._said
        whole = {name: one.whole(list(self._taps)) for name, one in splits.items()}
        labels = {name: Labels(one.labels, self._columns) for name, one in whole.items()}
        values, classes = labelling.numbered(labels, said["classes"])
        spec = Spec(
            backbone=said["name"],
            weights=_weights(said["version"]),
            transform="none",
            dataset=said["dataset"],
            splits=tuple(
                Split(name=name, n_rows=len(one.labels), fingerprint=one.fingerprint)
                for name, one in whole.items()
            ),
            taps=tuple(Tap(name=tap, dim=dim, pooling="none") for tap, dim in self._taps.items()),
            dtype=said["dtype"],
            **labelling.said_of(values, classes, said["targets"]),
        )
        store = open_or_create(
            self._out,
            spec,
            self._format,
            id_width=max(one.id_width for one in whole.values()),
            codec=self._codec,
            overwrite=self._overwrite,
        )

        def take(split: str, rows: range) -> Rows:
            found = splits[split].take(np.arange(rows.start, rows.stop))
            return Rows(found.features, values[split][rows.start : rows.stop], found.ids)

        made = transfer.fill(store, take, self._progress)
        shutil.rmtree(self._folder)
        return made


@dataclass(frozen=True)
class _Whole:
    """All rows of a split: their labels, the bytes of the longest id, a checksum of everything."""

    labels: np.ndarray
    id_width: int
    fingerprint: str


class _SplitOfRows:
    """The rows of one split that stand in files, and the last ones, which are not committed yet."""

    def __init__(self, folder: Path, split: str, named: bool | None, begin: Callable[[], None]):
        self.named, self.given = named, 0
        self._folder, self._name, self._begin = folder, split, begin
        self._starts: list[int] = [0]  # of each file, and where the next one begins
        self._waiting: list[Rows] = []
        self._known: dict[str, int] | None = None
        while (path := self._path(len(self._starts) - 1)).is_file():
            with _opened(path) as file:
                self.named = file.metadata()["named"] == "True"
                n_rows = file.get_slice(IDS).get_shape()[0]
            self._starts.append(self._starts[-1] + n_rows)
        self._read = lru_cache(4)(self._loaded)

    @property
    def n_rows(self) -> int:
        return self._starts[-1] + self._n_waiting

    @property
    def _n_waiting(self) -> int:
        return sum(len(rows.ids) for rows in self._waiting)

    def numbers(self, ids: Sequence[str]) -> np.ndarray:
        """Return the number of each id's row; new ones have numbers that are not there yet."""
        if self._known is None:
            files = range(len(self._starts) - 1)
            there = [one for file in files for one in self._read(file).ids]
            there += [one for rows in self._waiting for one in rows.ids]
            self._known = {one: number for number, one in enumerate(there)}
        return np.array([self._known.get(one, self.n_rows) for one in ids])

    def add(self, rows: Rows) -> None:
        """Take new rows, and commit what fills a file."""
        if self._known is not None:
            self._known |= {one: self.n_rows + place for place, one in enumerate(rows.ids)}
        self._waiting.append(rows)
        row_bytes = sum(values[:1].nbytes for values in rows.features.values())
        most = max(layout.ROW_MULTIPLE, layout.BLOCK_BYTES // row_bytes)
        while self._n_waiting >= most:
            joined = _joined(self._waiting)
            self._commit(_some(joined, slice(0, most)))
            rest = _some(joined, slice(most, None))
            self._waiting = [rest] if rest.ids else []

    def flush(self) -> None:
        if self._waiting:
            rows, self._waiting = _joined(self._waiting), []
            self._commit(rows)

    def take(self, numbers: np.ndarray) -> Rows:
        """Return some rows by their numbers, each file's checked."""
        last = len(self._starts) - 1
        files = np.searchsorted(self._starts, numbers, "right") - 1
        parts = []
        for start, stop in _runs(files):
            file = int(files[start])
            rows = _joined(self._waiting) if file == last else self._read(file)
            parts.append(_some(rows, numbers[start:stop] - self._starts[file]))
        return _joined(parts)

    def whole(self, taps: Sequence[str]) -> "_Whole":
        """Return what is known of all rows, which have been committed."""
        content = {name: xxhash.xxh3_128() for name in (*taps, LABELS, IDS)}
        labels, id_width = [], 1
        for file in range(len(self._starts) - 1):
            rows = self._read(file)
            for tap in taps:
                content[tap].update(raw_bytes(rows.features[tap]))
            for name, texts in ((LABELS, rows.labels.tolist()), (IDS, rows.ids)):
                content[name].update("".join(f"{len(str(one))}|{one}" for one in texts).encode())
            labels.append(rows.labels)
            id_width = max(id_width, width(rows.ids))
        digests = ",".join(one.hexdigest() for one in content.values())
        return _Whole(np.concatenate(labels), id_width, f"rows:{checksum_text(digests)}")

    def _path(self, file: int) -> Path:
        return self._folder / f"{self._name}-{file:06d}.safetensors"

    def _commit(self, rows: Rows) -> None:
        self._begin()
        texts = rows.labels.dtype.kind == "U"
        arrays = {tap: np.ascontiguousarray(values) for tap, values in rows.features.items()}
        labels = rows.labels.tolist()
        arrays[LABELS] = encode_ids(labels, width(labels)) if texts else rows.labels
        arrays[IDS] = encode_ids(rows.ids, width(rows.ids))
        sums = {name: checksum(array) for name, array in arrays.items()}
        facts = {"named": str(self.named), "texts": str(texts), "checksums": json.dumps(sums)}
        try:
            with durable.written_whole(self._path(len(self._starts) - 1)) as aside:
                save_file(arrays, aside, metadata=facts)
            durable.sync_files([self._folder])
        except OSError as error:
            if error.errno not in durable.NO_ROOM:
                raise
            raise DiskFull(
                f"no room for rows in {self._folder} ({os.strerror(error.errno)}):"
                f" {self._starts[-1]:,} of {self._name} are committed; make room, and run the same"
                " again"
            ) from None
        self._starts.append(self._starts[-1] + len(rows.ids))

    def _loaded(self, file: int) -> Rows:
        """Return the rows of a file, each of whose arrays has its checksum."""
        path = self._path(file)
        with _opened(path) as opened:
            facts = opened.metadata()
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if {name: checksum(array) for name, array in arrays.items()} != json.loads(
            facts["checksums"]
        ):
            raise StoreDamaged(f"{path} is damaged: its checksum is wrong; {_ANEW}")
        ids, labels = decode_ids(arrays.pop(IDS)), arrays.pop(LABELS)
        if facts["texts"] == "True":
            labels = np.array(decode_ids(labels), np.str_)
        return Rows(arrays, labels, ids)


class _SplitOfStore(_SplitOfRows):
    """The rows of one split of a store that is complete."""

    def __init__(self, store: Store, split: str):
        self.named, self.given = None, 0
        self._store, self._split, self._known = store, split, None
        there = split in [one.name for one in store.spec.splits]
        self._rows = store.spec.split(split).n_rows if there else 0

    @property
    def n_rows(self) -> int:
        return self._rows

    def numbers(self, ids: Sequence[str]) -> np.ndarray:
        if self._known is None:
            there = self._store.ids(self._split) if self._rows else []
            self._known = {one: number for number, one in enumerate(there)}
        return np.array([self._known.get(one, self._rows) for one in ids])

    def flush(self) -> None:
        """Do nothing: all rows are in the store."""

    def take(self, numbers: np.ndarray) -> Rows:
        def some(name: str) -> np.ndarray:
            rows = [self._store.read(self._split, name, n, n + 1) for n in numbers.tolist()]
            return np.concatenate(rows)

        taps = {tap.name: some(tap.name) for tap in self._store.spec.taps}
        return Rows(taps, some(LABELS), decode_ids(some(IDS)))


_ANEW = "delete it and those after it, and append the same rows again"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file of rows; `StoreDamaged` where it is none."""
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise StoreDamaged(f"{path} is damaged ({error}); {_ANEW}") from None


def _some(rows: Rows, which: np.ndarray | slice) -> Rows:
    ids = rows.ids[which] if isinstance(which, slice) else [rows.ids[row] for row in which]
    return Rows({tap: x[which] for tap, x in rows.features.items()}, rows.labels[which], ids)


def _joined(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    taps = {tap: np.concatenate([one.features[tap] for one in parts]) for tap in parts[0].features}
    labels = np.concatenate([one.labels for one in parts])
    return Rows(taps, labels, [each for one in parts for each in one.ids])


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Return where runs of one value start and stop.

    >>> _runs(np.array([3, 3, 4]))
    [(0, 2), (2, 3)]
    """
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return list(pairwise(edges))


def _weights(version: str | None) -> str:
    return "none" if version is None else f"version:{version}"


def _told(taps: Mapping[str, int]) -> str:
    return ", ".join(f"{tap} ({dim:,})" for tap, dim in sorted(taps.items()))


def _of(columns: int) -> str:
    return f" of {columns} columns" if columns else ""

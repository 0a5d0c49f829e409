"""Data sets given as objects: rows of (tensor or image, label), told by a hash of what was read."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
import xxhash
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader, SequentialSampler, default_collate

from featstore.data.files import MOST_CLASSES
from featstore.data.maps import Mapped, as_map, is_map
from featstore.data.rows import ImageRows, MapStyle, Rows, TextRows, rgb, utf8
from featstore.errors import DatasetError, UsageError
from featstore.spec import Split


class TensorRows(Rows):
    """Rows of a data set of one's own: `read` and `rows[i]` give what its pairs begin with."""

    modality = "tensor"

    def _preparing(self):
        return _as_it_is


def _as_it_is(item: object) -> tuple[object, list[str]]:
    return item, []


def load(
    splits: Mapping[str, MapStyle],
    *,
    ids: Mapping[str, Sequence[str]] | None = None,
    modality: str = "tensor",
    unread: bool = False,
    mapped: bool = False,
) -> dict[str, Rows]:
    """Return the rows of each split of a data set given as objects.

    Every row is read once beforehand. Its hash is part of the split's fingerprint, and a row that
    is another one when it is read again is refused. With `ids` these tell the rows, and nothing is
    hashed. Rows that are `unread` are hashed when they are read: `finished` then gives the rows.
    Labels are whole numbers from 0, texts (then sorted, as the names of classes), floats or
    vectors of floats to regress on, or vectors of integers or booleans that are zeros and ones, of
    which a row has any number; the names of classes are those of a data set's `classes`, if it
    has them.

    Arguments:
        splits: a map-style data set, a sequence, or a `DataLoader` in order, by split.
        ids: by split, one text for each row, each once.
        modality: "image" or "text" where rows are such for a model that has a name, else "tensor":
            images, tensors, texts, or dictionaries and lists of them.
        unread: whether no row but the first is read yet, so that nothing is known of the others:
            labels are zeros, and ids of rows that have been read their hashes, or those given.
        mapped: whether a label may be a map of its image (see `data.maps`). Rows are then `unread`
            and have `maps`, if the first row has one.

    Raises `UsageError` for what is no such data set and for ids that do not fit, `DatasetError`
    naming a row that cannot be read or has another kind of label.
    """
    if not splits:
        raise UsageError("the data set has no split; give one at least, as {'train': data}")
    data = {split: _map_style(split, given) for split, given in splits.items()}
    dataset = type(next(iter(data.values()))).__name__
    unknown = [split for split in ids or () if split not in data]
    if unknown:
        raise UsageError(f"ids are given for {unknown[0]}; the splits are {', '.join(data)}")
    kind, given = _KINDS[modality]
    found: dict[str, Rows] = {}
    for split, one in data.items():
        _check_name(split)
        named = None if ids is None else ids.get(split)
        reader = _Reader(one, split, len(one), _checked_ids(split, named, len(one)))
        reader = replace(reader, mapped=mapped and is_map(reader.pair(0)[1]))
        if given is not None and not isinstance(reader(0), given):
            raise UsageError(
                f"row 0 of the {split} split is no {_CALLED[modality]}, which a model by name"
                f" takes; give {modality}s, or a network of your own"
            )
        found[split] = kind(
            dataset=dataset,
            split=split,
            labels=np.zeros(reader.n_rows, np.int64),
            ids=_Noted(reader),
            classes=_stated(one) if reader.mapped else ("unread",),
            fingerprint="unread" if reader.ids is None else "unread with ids",
            read=reader,
            maps=reader.mapped_at if reader.mapped else None,
        )
    if len({one.maps is None for one in found.values()}) > 1:
        raise DatasetError(
            "one split has maps of its images, and another has none; give maps to all"
        )
    return found if unread or reader.mapped else finished(found)


def _stated(data: MapStyle) -> tuple[str, ...]:
    """Return the names of classes that a data set states, or the one of an image without maps."""
    stated = getattr(data, "classes", None)
    names = stated if isinstance(stated, list | tuple) and stated else ["0"]
    return tuple(utf8(str(one)) for one in names)


def finished(rows: Mapping[str, Rows]) -> dict[str, Rows]:
    """Return rows that were `unread` with their labels, ids and fingerprint.

    What has not been read by then is read now, but labels of those with maps, which are of patches.
    Raises `DatasetError` as `load`.
    """
    if next(iter(rows.values())).maps is not None:
        return {
            split: replace(
                one,
                ids=one.read.ids or [str(row) for row in range(one.read.n_rows)],
                fingerprint=one.read.fingerprint(one.labels),
            )
            for split, one in rows.items()
        }
    readers = {split: one.read for split, one in rows.items()}
    labels = {split: reader.labels() for split, reader in readers.items()}
    numbered, classes = _numbered(labels, {split: one.data for split, one in readers.items()})
    return {
        split: replace(
            rows[split],
            labels=numbered[split],
            ids=reader.ids or [str(row) for row in range(reader.n_rows)],
            classes=classes,
            fingerprint=reader.fingerprint(numbered[split]),
            targets=() if classes else _targets(numbered[split], rows[split].read.data),
        )
        for split, reader in readers.items()
    }


def go_on(rows: Rows, numbers: range, ids: Sequence[str]) -> None:
    """Read rows again that an earlier run has read, and hold them against their ids of then.

    Raises `DatasetError` for a row that is another one now.
    """
    for row, one in zip(numbers, ids, strict=True):
        if rows.read.ids is None:
            rows.read.digests[row] = bytes.fromhex(one)
        rows.read(row)
        if rows.ids[row : row + 1] != [one]:
            raise DatasetError(
                f"row {row} of the {rows.split} split has the id {rows.read.ids[row]!r} and had"
                f" {one!r}; give the ids of before, or overwrite"
            )


_KINDS = {"image": (ImageRows, Image.Image), "text": (TextRows, str), "tensor": (TensorRows, None)}
_CALLED = {"image": "PIL image", "text": "text"}


def _targets(values: np.ndarray, data: MapStyle) -> tuple[str, ...]:
    if values.ndim == 1:
        return ("target",)
    if values.dtype.kind == "f":
        return tuple(f"target{number}" for number in range(values.shape[1]))
    stated = getattr(data, "classes", None)
    if isinstance(stated, list | tuple) and len(stated) == values.shape[1]:
        return tuple(utf8(str(one)) for one in stated)
    return tuple(f"label{number}" for number in range(values.shape[1]))


def as_tensors(rows: Rows) -> Rows:
    """Return rows of RGB images, of a data set that has a name, for a network of one's own."""
    if not isinstance(rows, ImageRows):
        return rows
    given = {one.name: getattr(rows, one.name) for one in fields(Rows)}
    return TensorRows(**given | {"read": _Rgb(rows)})


@dataclass(frozen=True)
class _Rgb:
    rows: ImageRows

    def __call__(self, row: int) -> Image.Image:
        return rgb(self.rows.read(row), self.rows.bit_depth)


def _map_style(split: str, data: object) -> MapStyle:
    if isinstance(data, DataLoader):
        data = _of_loader(split, data)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(
        data, str | Mapping
    ):
        raise UsageError(
            f"the {split} split is of type {type(data).__name__}; give a data set with a length"
            " whose row i is a pair (tensor or image, label)"
        )
    try:
        length = len(data)
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"the {split} split does not say its length ({told}); mend it") from None
    if length == 0:
        raise DatasetError(f"the {split} split has no row; give one at least")
    return data


def _check_name(split: object) -> None:
    try:
        Split(name=split, n_rows=1, fingerprint="none")
    except ValidationError:
        raise UsageError(
            f"{repr(split)[:60]} cannot be the name of a split; give letters, digits, '_', '-' and"
            " '.', at most 120"
        ) from None


def _of_loader(split: str, loader: DataLoader) -> MapStyle:
    """Return the data set of a loader that gives its rows in order, each once, as they are."""
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    wrong = None
    if not isinstance(sampler, SequentialSampler):
        wrong = "draws its rows; give one in order (shuffle=False)"
    elif loader.drop_last and len(loader.dataset) % (loader.batch_size or 1):
        wrong = "leaves out its last rows; give one that does not (drop_last=False)"
    elif loader.collate_fn is not default_collate and loader.batch_size is not None:
        wrong = "joins rows in a way of its own (collate_fn); give its data set, and transform="
    if wrong:
        raise UsageError(f"the DataLoader of {split} {wrong}")
    return loader.dataset


def _checked_ids(split: str, ids: Sequence[str] | None, n_rows: int) -> list[str] | None:
    if ids is None:
        return None
    ids = [utf8(str(one)) for one in ids]
    if len(ids) != n_rows:
        raise UsageError(
            f"{len(ids):,} ids are given for {n_rows:,} rows of {split}; give one each"
        )
    for one in ids:
        if "\0" in one:
            raise UsageError(f"id {one!r} of {split} has a NUL in it; give others")
    if len(set(ids)) < n_rows:
        twice = Counter(ids).most_common(1)[0][0]
        raise UsageError(f"id {twice!r} of {split} is given twice; give each row one of its own")
    return ids


@dataclass(frozen=True)
class _Reader:
    """Reads rows of a data set, each held against what it was in the first reading."""

    data: MapStyle
    split: str
    n_rows: int
    ids: list[str] | None = None
    digests: dict[int, bytes] = field(default_factory=dict)
    noted: dict[int, Any] = field(default_factory=dict)
    mapped: bool = False

    def __call__(self, row: int) -> object:
        """Return the tensor, image or text of a row; note its hash and label."""
        item, label = self.pair(row)
        self._note(row, item, 0 if self.mapped else label)
        return item

    def mapped_at(self, row: int) -> Mapped:
        """Return the map of a row, and the size of its image; note its hash."""
        item, label = self.pair(row)
        self._note(row, item, 0)
        if not is_map(label):
            raise ValueError(f"it is of type {type(label).__name__}; give each image a map")
        values = as_map(label)
        size = item.size if isinstance(item, Image.Image) else values.shape[::-1]
        return Mapped(values, size)

    def _note(self, row: int, item: object, label: object) -> None:
        if row not in self.noted:
            if (wrong := _unknown(item)) is not None:
                raise DatasetError(
                    f"row {row} of the {self.split} split holds a {wrong} in place of a tensor, PIL"
                    " image or text; give pairs (tensor, image or text, label)"
                )
            self.noted[row] = _label(self.split, row, label)
        if self.ids is None:
            try:
                digest = _digest(item)
            except ValueError as error:
                raise DatasetError(f"row {row} of the {self.split} split holds {error}") from None
            if self.digests.setdefault(row, digest) != digest:
                raise DatasetError(
                    f"row {row} of the {self.split} split is not what it was when it was read"
                    " before: the data set changes, or draws; leave its augmentation out"
                )

    def labels(self) -> list:
        """Return every label; rows that have not been read are read now."""
        for row in range(self.n_rows):
            if row not in self.noted:
                self(row)
        return [self.noted[row] for row in range(self.n_rows)]

    def fingerprint(self, labels: np.ndarray) -> str:
        """Return what tells these rows: the hash of all of them, or of their ids, and labels."""
        digest = hashlib.sha256()
        digests = (self.digests[row] for row in range(self.n_rows))
        for one in digests if self.ids is None else map(str.encode, self.ids):
            digest.update(len(one).to_bytes(8) + one)
        digest.update(f"{labels.dtype.str}|{labels.shape}|".encode() + labels.tobytes())
        return f"{'rows' if self.ids is None else 'ids'}:{digest.hexdigest()}"

    def pair(self, row: int) -> tuple[Any, Any]:
        """Return the two parts of a row as the data set gives them."""
        if len(self.data) != self.n_rows:
            raise DatasetError(
                f"the {self.split} split had {self.n_rows:,} rows at first and has"
                f" {len(self.data):,} now; leave it as it is until the extraction is done"
            )
        try:
            pair = self.data[row]
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DatasetError(
                f"row {row} of the {self.split} split cannot be read ({told}); mend the data set"
            ) from error
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DatasetError(
                f"row {row} of the {self.split} split is a {type(pair).__name__}; give pairs"
                " (tensor or image, label)"
            )
        return pair[0], pair[1]


@dataclass(frozen=True)
class _Noted(Sequence[str]):
    """Ids of rows that are being read: of some their hashes, or those given; of one its number."""

    reader: _Reader

    def __len__(self) -> int:
        return self.reader.n_rows

    def __getitem__(self, which: Any) -> Any:
        if not isinstance(which, slice):
            return self.reader.ids[which] if self.reader.ids else str(which)
        if self.reader.ids:
            return self.reader.ids[which]
        rows = range(len(self))[which]
        for row in rows:
            if row not in self.reader.digests:  # a process has read it
                self.reader(row)
        return [self.reader.digests[row].hex() for row in rows]


def _unknown(item: object) -> str | None:
    """Return the type of what is no image, tensor, text or number, nor holds such; else None."""
    if isinstance(item, Mapping):
        item = list(item.values())
    if isinstance(item, list | tuple):
        return next((one for one in map(_unknown, item) if one is not None), None)
    known = Image.Image | torch.Tensor | np.ndarray | np.generic | str | bytes | int | float
    return None if isinstance(item, known) else type(item).__name__


def _digest(item: object) -> bytes:
    """Return 16 bytes of an item's kind, shape and content."""
    digest = xxhash.xxh3_128()
    if isinstance(item, Mapping):
        item = [part for pair in sorted(item.items()) for part in pair]
    if isinstance(item, list | tuple):
        digest.update(f"{len(item)} parts".encode())
        for part in item:
            digest.update(_digest(part))
        return digest.digest()
    if isinstance(item, str | bytes | int | float):
        digest.update(f"{type(item).__name__}|".encode())
        digest.update(
            item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogatepass")
        )
        return digest.digest()
    if isinstance(item, Image.Image):
        digest.update(f"{item.mode}|{item.size}|{item.getpalette()}".encode())
        digest.update(item.tobytes())
        return digest.digest()
    item = np.asarray(item) if isinstance(item, np.generic) else item
    tensor = tensor_of(item).detach().cpu().contiguous()
    digest.update(f"{tensor.dtype}|{tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def tensor_of(item: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return an array or tensor as a dense tensor; `ValueError` says why there is none.

    Bytes of the other order and negative strides, which torch does not have, are copied.

    >>> tensor_of(np.arange(3, dtype=">i2")[::-1])
    tensor([2, 1, 0], dtype=torch.int16)
    """
    if isinstance(item, np.ndarray):
        try:
            native = item.astype(item.dtype.newbyteorder("="), copy=False)
            return torch.from_numpy(native.copy() if min(native.strides, default=0) < 0 else native)
        except (TypeError, ValueError):
            kind = f"an array of {item.dtype}"
    elif item.layout != torch.strided or item.is_quantized:
        kind = "a sparse or quantised tensor"
    elif item.is_meta:
        kind = "a tensor on the device 'meta'"
    else:
        return item
    raise ValueError(f"{kind}, which is no dense tensor of numbers; convert it first")


def _label(split: str, row: int, label: object) -> int | float | str | np.ndarray:
    if isinstance(label, torch.Tensor | np.ndarray | np.generic) and label.ndim == 0:
        label = label.item()
    if isinstance(label, torch.Tensor | np.ndarray) and label.ndim == 1:
        label = np.asarray(label) if len(label) else None
        if isinstance(label, np.ndarray):
            several = label.dtype.kind in "iub" and len(label) > 1
            zeros_and_ones = several and bool(((label == 0) | (label == 1)).all())
            return label.astype(np.uint8 if zeros_and_ones else np.float64)
    if isinstance(label, bool):
        return int(label)
    if not isinstance(label, int | float | str):
        raise DatasetError(
            f"row {row} of the {split} split has a label of type {type(label).__name__}; give a"
            " whole number from 0, a text, or a float or vector of floats to regress on"
        )
    return label


def _numbered(
    labels: Mapping[str, list], data: Mapping[str, MapStyle]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the labels of each split as `Rows` has them, and the names of the classes."""
    every = [label for some in labels.values() for label in some]
    kinds = {type(label) for label in every}
    if len(kinds) > 1:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise DatasetError(f"labels are of several types, {names}; give one type to all rows")
    if kinds == {np.ndarray}:
        width = len(every[0])
        for split, some in labels.items():
            row = next((row for row, one in enumerate(some) if len(one) != width), None)
            if row is not None:
                raise DatasetError(
                    f"row {row} of the {split} split has a label of {len(some[row])} numbers, and"
                    f" the first row {width}; give one length to all rows"
                )
        return {
            split: np.stack(some)[:, 0 if width == 1 else slice(None)]
            for split, some in labels.items()
        }, ()
    if kinds == {float}:
        return {split: np.array(some, np.float64) for split, some in labels.items()}, ()
    if kinds == {str}:
        names = sorted(set(every))
        number = {name: place for place, name in enumerate(names)}
        return {
            split: np.array([number[label] for label in some], np.int64)
            for split, some in labels.items()
        }, tuple(map(utf8, names))
    lowest, highest = min(every), max(every)
    if lowest < 0:
        raise DatasetError(f"there is a label {lowest}; number the classes from 0")
    if highest >= MOST_CLASSES and highest >= 10 * len(every):
        raise DatasetError(
            f"there are labels up to {highest:,} in {len(every):,} rows; number the classes from 0"
        )
    stated = getattr(next(iter(data.values())), "classes", None)
    stated = stated if isinstance(stated, list | tuple) and len(stated) > highest else None
    classes = tuple(utf8(str(one)) for one in stated or range(highest + 1))
    return {split: np.array(some, np.int64) for split, some in labels.items()}, classes

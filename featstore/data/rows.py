"""Rows of images and texts with labels, ids and a fingerprint, and how they are split."""

import hashlib
import io
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice

DEPTHS = (8, 10, 12, 14, 16)
# 16-bit pixels that all are below are black, or nearly so, by their high byte.
_BLACK = 1 << 12
_DARK = 1 << 14
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
# How Pillow calls raw pixels of 16 bits a channel; those of five or six bits are ";16" alone.
_DEEP = re.compile(";16[BLN]")
# What `opened` found of the file, under this name in the image's `info`.
_FILE = "featstore"


def opened(file: Path | BinaryIO) -> Image.Image:
    """The image in a file, decoded to its end; a truncated one raises, and what is no file."""
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise OSError(f"{file} is not a regular file")
    with Image.open(file) as image:
        # To be asked before the file is closed, and of some formats before it is decoded.
        deep = any(_DEEP.search(str(tile[-1])) for tile in image.tile[:1])
        frames = image.format != "MPO" and getattr(image, "is_animated", False)
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
        image.load()
        image.info[_FILE] = {"deep": deep, "frames": frames, "bits": bits[0]}
        return image


def rgb(image: Image.Image, depth: int | None = None) -> Image.Image:
    """An image as 8-bit RGB, its pixels where they are stored.

    Grey is repeated, CMYK converted, the first frame taken of several. 16-bit pixels keep their
    high byte (Pillow by itself clips grey ones, to white), or of `depth` bits the highest eight.
    What is transparent lies on white: the colours below transparency were never meant to be seen,
    and are mostly black. The orientation that a camera noted is not applied, as torchvision does
    not.

    Raises `ValueError` for pixels whose range cannot be told: floating point, integers beyond 16
    bits, and without a `depth` 16-bit ones that are all so small that the image would be black.

    >>> rgb(Image.new("I;16", (1, 1), 0x80FF)).getpixel((0, 0))
    (128, 128, 128)
    >>> rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    return remarked(image, depth)[0]


def remarked(image: Image.Image, depth: int | None = None) -> tuple[Image.Image, list[str]]:
    """The image as `rgb` gives it, and which of `notices.REMARKS` are true of it."""
    file = image.info.get(_FILE, {})
    remarks = ["frames"] if file.get("frames") else []
    if "exif" in image.info and _is_turned(image):
        remarks.append("turned")
    if image.mode == "RGB" and "transparency" not in image.info and not file.get("deep"):
        return image, remarks
    if image.mode.startswith("I"):
        grey, remark = _grey(np.asarray(image), depth, file.get("bits", 16))
        return Image.fromarray(grey).convert("RGB"), [*remarks, remark]
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a range; save 8-bit ones")
    if file.get("deep"):
        remarks.append(_deep(image, depth))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] < 255:
            remarks.append("alpha")
        # As alpha_composite gives it, in half the time and memory.
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        return white, remarks
    if image.mode == "CMYK":
        remarks.append("cmyk")
    return image.convert("RGB"), remarks


def _is_turned(image: Image.Image) -> bool:
    # A damaged note beside pixels that are whole says nothing of them.
    with suppress(Exception):
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    return False


def _grey(grey: np.ndarray, depth: int | None, bits: int) -> tuple[np.ndarray, str]:
    """The highest eight bits of grey pixels, of `depth` or of what the file says of 16."""
    # Netpbm's and older Pillow's 16-bit images come as 32-bit ones.
    lowest, highest = int(grey.min()), int(grey.max())
    if lowest < 0 or highest > 0xFFFF:
        raise ValueError(
            f"its pixels go from {lowest} to {highest}, which is no 8 or 16-bit range;"
            " save 8-bit ones"
        )
    counted = depth or (bits if 8 <= bits < 16 else None)
    if counted is None and 0 < highest < _BLACK:
        likely = next(one for one in DEPTHS if highest < 1 << one)
        raise ValueError(
            f"its 16-bit pixels go from {lowest} to {highest}, which is black in a range of 16"
            f" bits: say how many bits count, --bit-depth {likely} or --bit-depth 16, or save 8-bit"
            " ones"
        )
    counted = counted or 16
    if highest >> counted:
        raise ValueError(
            f"its pixels go from {lowest} to {highest}, which is more than {counted} bits hold;"
            " say how many bits count with --bit-depth"
        )
    remark = "scaled" if depth and depth < 16 else "deep" if highest >= _DARK or depth else "dark"
    return (grey >> (counted - 8)).astype(np.uint8), remark


def _deep(image: Image.Image, depth: int | None) -> str:
    """The remark on colours of 16 bits, of which Pillow has kept the high byte."""
    highest = max(high for _, high in _extrema(image))
    if depth == 16 or highest >= _BLACK >> 8:
        return "deep" if highest >= _DARK >> 8 or depth == 16 else "dark"
    raise ValueError(
        "its colours of 16 bits a channel are all black in their range, or nearly so; save 8-bit"
        " ones, or say that 16 bits count: --bit-depth 16"
    )


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """The range of each channel but transparency."""
    bands = [name for name in image.getbands() if name not in ("A", "a")]
    return [image.getchannel(name).getextrema() for name in bands]


# Up to this size every byte of every file counts; above, every name and size, and the bytes of
# evenly spaced files. ImageNet's 150 GB would take minutes to hours to read before the first image
# is; its names and sizes take seconds. A set that was made anew is told apart either way, one file
# edited to the same size is not. Times of modification stay out: a copy holds the same images.
ALL_BYTES = 256 << 20
SAMPLED_FILES = 256


def fingerprint_of_arrays(images: np.ndarray, labels: np.ndarray) -> str:
    """Fingerprint of images (n, ...) uint8 and labels int64 or float64: their shapes and bytes.

    >>> images, labels = np.zeros((2, 4, 4), np.uint8), np.array([0, 1])
    >>> other = fingerprint_of_arrays(images.reshape(2, 2, 8), labels)
    >>> fingerprint_of_arrays(images, labels) == other
    False
    """
    digest = hashlib.sha256()
    kind = np.float64 if labels.dtype.kind == "f" else np.int64
    for array in (images, labels.astype(kind)):
        digest.update(f"{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array))
    return f"arrays:{digest.hexdigest()}"


def fingerprint_of_files(
    paths: Sequence[Path],
    ids: Sequence[str],
    labels: Sequence,
    sizes: Sequence[int | None] | None = None,
) -> str:
    """Fingerprint of files in row order: ids, labels and sizes of all, bytes as said above.

    `sizes` are those of the files, None of one that is not there.
    """
    sizes = [path.stat().st_size for path in paths] if sizes is None else sizes
    return fingerprint_of_encoded(ids, labels, sizes, lambda row: paths[row].read_bytes())


def fingerprint_of_encoded(
    ids: Sequence[str],
    labels: Sequence,
    sizes: Sequence[int | None],
    encoded: Callable[[int], bytes],
) -> str:
    """Fingerprint of images as they are encoded, row i of `sizes[i]` bytes `encoded(i)`.

    A size of None is an image that is not there.
    """
    digest = hashlib.sha256()
    for id_, label, size in zip(ids, labels, sizes, strict=True):
        digest.update(f"{id_}|{label}|{size}\n".encode())
    if sum(size or 0 for size in sizes) <= ALL_BYTES:
        read = range(len(sizes))
    else:
        read = np.unique(np.linspace(0, len(sizes) - 1, SAMPLED_FILES).round().astype(int))
    for row in read:
        if sizes[row] is not None:
            digest.update(encoded(int(row)))
    return f"files:{digest.hexdigest()}"


def fingerprint_of_texts(texts: pa.LargeStringArray, labels: np.ndarray) -> str:
    """Fingerprint of texts and labels, all of their bytes."""
    digest = hashlib.sha256()
    lengths = pc.binary_length(texts).fill_null(-1).to_numpy()
    for part in (lengths, labels):
        digest.update(f"{part.dtype.str}|{part.shape}|".encode())
        digest.update(np.ascontiguousarray(part))
    for text in texts.drop_null():
        digest.update(text.as_buffer())
    return f"texts:{digest.hexdigest()}"


class MapStyle(Protocol):
    """A map-style data set, or a sequence: row i is a pair of (tensor or PIL image, label)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, row: int, /) -> Any:
        """Return one row: a pair of (tensor or PIL image, label)."""
        ...


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be read: its number in the rows that were scanned, its id, and why."""

    row: int
    split: str
    id: str
    why: str


class Words(str):
    """A text as words: `spans` int64 (n, 2) says from where to where each goes.

    >>> Words.of(["New York", "is", "big"]).spans.tolist()
    [[0, 8], [9, 11], [12, 15]]
    >>> Words.of(" two  words")[1:4], Words.of(" two  words").spans.tolist()
    ('two', [[1, 4], [6, 11]])
    """

    spans: np.ndarray

    @classmethod
    def of(cls, given: str | Sequence[str]) -> Self:
        """Return a text parted at its space, or words joined by spaces."""
        if isinstance(given, str):
            text, spans = given, [found.span() for found in re.finditer(r"\S+", given)]
        else:
            text, ends = " ".join(given), np.cumsum([len(word) + 1 for word in given]) - 1
            spans = [(end - len(word), end) for word, end in zip(given, ends, strict=True)]
        made = cls(text)
        made.spans = np.array(spans, np.int64).reshape(-1, 2)
        return made


@dataclass(frozen=True)
class Ragged:
    """Labels of the pieces of items: `labels` of all of them, and where each item's start.

    `labels` are (m,) or (m, T) as those of `Rows`, `starts` int64 (n + 1,), the last one m.
    `places` int64 (m,) says which piece of its item each is, where not every one has a label.
    """

    labels: np.ndarray
    starts: np.ndarray
    places: np.ndarray | None = None

    def kept(self, rows: np.ndarray) -> "Ragged":
        """Return those of some items alone."""
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        own = np.repeat(self.starts[:-1][rows] - starts[:-1], counts) + np.arange(starts[-1])
        places = None if self.places is None else self.places[own]
        return Ragged(self.labels[own], starts, places)


@dataclass(frozen=True)
class Rows(ABC):
    """One split of a data set.

    `labels` are int64 (n,) and index `classes`; or, where `targets` names quantities to regress on,
    float64 (n,) for one and (n, T) for several, and there are no classes; or, where `targets` names
    labels of which each row has any number, uint8 (n, T) of zeros and ones. `ids` says what each
    row is: a path, an index or a key. `read` gives row i as it was stored. `fingerprint` identifies
    the data of the whole split, also where `limited` keeps a part of it. `notices` says what was
    left out or read otherwise than it is; `left_out` are rows that a source was allowed to leave
    out. `pieces` are the labels of the words of texts, or of patches, whose own labels then say
    nothing; `maps` reads the map of an image, of which labels of patches are made. `beside` are
    columns int64 or texts (n,) that a store keeps.

    Rows hold no open file and can be pickled, so that a spawned process reads them as well as a
    thread does.
    """

    dataset: str
    split: str
    labels: np.ndarray
    ids: Sequence[str]
    classes: tuple[str, ...]
    fingerprint: str
    read: Callable
    targets: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    left_out: tuple[Unreadable, ...] = ()
    bit_depth: int | None = None
    pieces: Ragged | None = None
    maps: Callable | None = None
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)

    modality: ClassVar[str]

    @property
    def items(self) -> "Rows":
        """Return the rows that are read: these themselves."""
        return self

    def __post_init__(self):
        if len(self.labels) == 0:
            raise DatasetError(f"{self.dataset} has no {self.modality} in its {self.split} split")
        if self.targets:
            self._check_targets()
        else:
            self._check_classes()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple:
        """Row `row` for a model, and its label; `DatasetError` names one that cannot be read."""
        return self.part([row])[0], self.labels[row].tolist()

    def part(self, rows: Sequence[int]) -> "Part":
        """These rows, to be read without labels; see `Part.cut`."""
        return Part(
            what=self.modality,
            whence=f"the {self.split} split of {self.dataset}",
            ids=[self.ids[row] for row in rows],
            rows=rows,
            read=self.read,
            prepared=self._preparing(),
        )

    def kept(self, rows: np.ndarray) -> Self:
        """Only these rows, int64 (k,), under the same fingerprint."""
        return replace(
            self,
            labels=self.labels[rows],
            ids=[self.ids[row] for row in rows],
            read=_Kept(self.read, rows),
            pieces=self.pieces and self.pieces.kept(rows),
            maps=self.maps and _Kept(self.maps, rows),
            beside={name: values[rows] for name, values in self.beside.items()},
        )

    def beside_of(self, rows: range) -> dict[str, np.ndarray]:
        """Return what is kept of some rows, by column."""
        return {name: values[rows.start : rows.stop] for name, values in self.beside.items()}

    @abstractmethod
    def _preparing(self) -> Callable:
        """From what `read` gives to what a model's transform takes, and the remarks on it."""

    def _check_classes(self) -> None:
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if wrong.size:
            raise DatasetError(
                f"row {self.ids[wrong[0]]} of the {self.split} split of {self.dataset} has label"
                f" {self.labels[wrong[0]]}; labels of {len(self.classes)} classes are 0 to"
                f" {len(self.classes) - 1}: mend it, or leave such rows out with --on-error skip"
            )

    def _check_targets(self) -> None:
        finite = np.isfinite(self.labels.reshape(len(self.labels), -1))
        row, column = next(iter(np.argwhere(~finite)), (None, None))
        if row is not None:
            raise DatasetError(
                f"row {self.ids[row]} of the {self.split} split of {self.dataset} has no finite"
                f" {self.targets[column]}; mend that row, or take it out"
            )


class ImageRows(Rows):
    """Rows that are images: `read` gives a PIL image of any mode, `rows[i]` an RGB one.

    Of pixels of 16 bits `bit_depth` count, where that is given.
    """

    modality = "image"

    def _preparing(self) -> Callable:
        return partial(remarked, depth=self.bit_depth)


class TextRows(Rows):
    """Rows that are texts: `read` and `rows[i]` give a string."""

    modality = "text"

    def _preparing(self) -> Callable:
        return _text


class PieceIds(Sequence[str]):
    """Ids of pieces: the item's, a colon, and the place there."""

    def __init__(self, items: Sequence[str], starts: np.ndarray, places: np.ndarray | None = None):
        self._items, self._starts, self._places = items, starts, places

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, place):
        """Return one id, or a list of those of a slice."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        row = int(place) % len(self)
        item = int(np.searchsorted(self._starts, row, "right")) - 1
        place = row - self._starts[item] if self._places is None else self._places[row]
        return f"{self._items[item]}:{place}"


@dataclass(frozen=True)
class Pieces:
    """Rows that are pieces of items: words of texts, or patches of images.

    Row `starts[i]` + j is piece j of item i, or where not every piece is a row, `places` of that
    row, of so many `positions` as an item has. The rest is as of `Rows`.
    """

    items: Rows
    labels: np.ndarray
    starts: np.ndarray
    kind: str
    positions: int = 0
    places: np.ndarray | None = None

    @classmethod
    def of(cls, items: Rows, kind: str, positions: int) -> Self:
        """Return the words of texts that brought labels, or so many patches of each image.

        A patch has its image's label, or that which was read off a map.
        """
        if (own := items.pieces) is not None:
            return cls(items, own.labels, own.starts, kind, positions, own.places)
        starts = positions * np.arange(len(items) + 1)
        return cls(items, np.repeat(items.labels, positions, axis=0), starts, kind, positions)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def within(self, rows: range) -> tuple[range, slice | np.ndarray]:
        """Return the items that some rows are of, and which of these items' pieces they are."""
        first = int(np.searchsorted(self.starts, rows.start, "right")) - 1
        last = int(np.searchsorted(self.starts, rows.stop - 1, "right"))
        if self.places is None:
            before = int(self.starts[first])
            return range(first, last), slice(rows.start - before, rows.stop - before)
        whose = self._items_of(rows)
        own = self.places[rows.start : rows.stop]
        return range(first, last), (whose - first) * self.positions + own

    def _items_of(self, rows: range) -> np.ndarray:
        """Return the item that each of some rows is a piece of, int64."""
        return np.searchsorted(self.starts, np.arange(rows.start, rows.stop), "right") - 1

    def beside_of(self, rows: range) -> dict[str, np.ndarray]:
        """Return what is kept of the items of some rows, by column."""
        whose = self._items_of(rows)
        return {name: values[whose] for name, values in self.items.beside.items()}

    @property
    def ids(self) -> PieceIds:
        """Return the id of each row: ITEM:PLACE."""
        return PieceIds(self.items.ids, self.starts, self.places)

    @property
    def fingerprint(self) -> str:
        """Return a hash of the items and of what in them is a row."""
        each = "" if self.kind == "tokens" else f", {self.positions} each"
        if self.places is not None:
            digest = hashlib.sha256()
            for array in (self.labels, self.starts, self.places):
                digest.update(f"{array.dtype.str}|{array.shape}|".encode() + array.tobytes())
            each += f", of maps:{digest.hexdigest()}"
        return f"{self.items.fingerprint} as {self.kind}{each}"

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.items.dataset

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, none of numbers."""
        return self.items.classes

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the numbers, none of classes."""
        return self.items.targets

    @property
    def notices(self) -> tuple[Notice, ...]:
        """As of the items."""
        return self.items.notices

    @property
    def modality(self) -> str:
        """Return the modality of the items."""
        return self.items.modality


def _text(item: str | None) -> tuple[str, list[str]]:
    if item is None:
        raise ValueError("there is none")
    return item, []


@dataclass(frozen=True)
class Part:
    """Some rows of a set: `part[i]` is what `read(rows[i])` gave, for a model.

    `what` and `whence` say what a row is, and of what, where it cannot be read.
    """

    what: str
    whence: str
    ids: Sequence[str]
    rows: Sequence[int]
    read: Callable
    prepared: Callable

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int):
        """A row for a model; `DatasetError` names one that cannot be read."""
        return self.met(place)[0]

    def met(self, place: int) -> tuple:
        """A row for a model, and which of `notices.REMARKS` are true of it, as `part[place]`."""
        try:
            return self.prepared(self.read(int(self.rows[place])))
        except (MemoryError, DatasetError):
            raise
        # Decoders meet damaged bytes with whatever exception they stumble into: a KeyError of a
        # table of tags, a struct.error, a zlib.error.
        except Exception as error:
            raise DatasetError(
                f"{self.what} {self.ids[place]} of {self.whence} cannot be read:"
                f" {str(error) or type(error).__name__}; replace it, or take it out"
            ) from error

    def jpeg(self, place: int) -> tuple[bytes, list[str]] | None:
        """The bytes of a row that is a whole JPEG file, grey or RGB, and the remarks on it.

        None of any other row, and of one that cannot be read, of which `met` tells.
        """
        encoded = getattr(self.read, "encoded", None)
        if encoded is None:
            return None
        with suppress(Exception):
            found = encoded(int(self.rows[place]))
            with Image.open(io.BytesIO(found)) as image:
                whole = found.rstrip(b"\0").endswith(b"\xff\xd9")
                if whole and image.format == "JPEG" and image.mode in ("L", "RGB"):
                    return found, ["turned"] if _is_turned(image) else []
        return None

    def cut(self) -> Self | None:
        """The same part by a reader that holds nothing of other rows; None where there is none.

        It is what is sent to a process: a list of a million paths is not.
        """
        cut = getattr(self.read, "cut", None)
        read = None if cut is None else cut(np.asarray(self.rows))
        return None if read is None else replace(self, read=read, rows=range(len(self)))


@dataclass(frozen=True)
class _Kept:
    """Some rows of what `read` reads."""

    read: Callable
    rows: np.ndarray

    def __call__(self, row: int):
        return self.read(int(self.rows[row]))

    @property
    def encoded(self) -> Callable[[int], bytes] | None:
        """Return the reader of an image file's bytes, None where `read` knows of none."""
        encoded = getattr(self.read, "encoded", None)
        return None if encoded is None else lambda row: encoded(int(self.rows[row]))

    def cut(self, rows: np.ndarray) -> Callable | None:
        """A reader of some of these alone, None where `read` has none."""
        cut = getattr(self.read, "cut", None)
        return None if cut is None else cut(self.rows[rows])


def limited(rows: Rows, limit: int | None) -> Rows:
    """At most `limit` rows, evenly spaced from the first to the last.

    Sets are often sorted by class: the first rows alone would lack most classes.
    """
    if limit is None or limit >= len(rows):
        return rows
    if limit < 1:
        raise UsageError(f"a limit of {limit} rows leaves nothing; give a positive --limit")
    return rows.kept(np.linspace(0, len(rows) - 1, limit).round().astype(np.int64))


def utf8(name: str) -> str:
    r"""A file's name as text that can be stored and shown: bytes that are no UTF-8 are escaped.

    Names of other bytes stay as they are; in these a backslash is doubled, so that the name can be
    had back.

    >>> utf8("ü.png"), utf8(b"caf\xe9\\.png".decode("utf-8", "surrogateescape"))
    ('ü.png', 'caf\\xe9\\\\.png')
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        doubled = name.replace("\\", "\\\\")
        try:
            whole = doubled.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # of a text that was no file's name
            whole = doubled.encode("utf-8", "backslashreplace")
        return whole.decode("utf-8", "backslashreplace")
    return name


def unknown_split(dataset: str, split: str, there: Sequence[str]) -> UsageError:
    """The error for a split that a data set does not have."""
    return UsageError(f"{dataset} has no split {split!r}; it has {', '.join(map(utf8, there))}")


T = TypeVar("T", bound=Rows)


def without(rows: T, unreadable: Sequence[Unreadable]) -> T:
    """The rows that are left; their fingerprint says which were left out.

    Raises `DatasetError` where none is left.
    """
    if not unreadable:
        return rows
    out = {one.row for one in unreadable}
    if len(out) == len(rows):
        first = unreadable[0]
        raise DatasetError(
            f"none of the {len(rows):,} rows of the {rows.split} split of {rows.dataset} can be"
            f" read; the first: {first.why}"
        )
    names = hashlib.sha256("\n".join(sorted(rows.ids[row] for row in out)).encode()).hexdigest()
    kept = rows.kept(np.array([row for row in range(len(rows)) if row not in out], np.int64))
    return replace(kept, fingerprint=f"{rows.fingerprint} without {len(out)} rows:{names}")


def without_rows(rows: Rows) -> list[Notice]:
    """Return a notice of the classes of which a split has no row, if there are any."""
    if rows.targets:
        return []
    labels = rows.labels if rows.pieces is None else rows.pieces.labels
    absent = np.flatnonzero(np.bincount(labels, minlength=len(rows.classes)) == 0)
    names = [rows.classes[label] for label in absent]
    text = f"classes without a row in {rows.split}: {len(names):,} of {len(rows.classes):,}"
    return [Notice.of("classes", text, names)] if names else []

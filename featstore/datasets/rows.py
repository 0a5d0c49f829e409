"""The contract of a data set: rows of images or texts, in any order and from any thread."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

import numpy as np

from featstore.datasets.pixels import remarked
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be read: its number in the rows that were scanned, its id, and why."""

    row: int
    split: str
    id: str
    why: str


@dataclass(frozen=True)
class Rows(ABC):
    """One split of a data set.

    `labels` are int64 (n,) and index `classes`; or, where `targets` names quantities to regress on,
    float64 (n,) for one and (n, T) for several, and there are no classes. `ids` says what each row
    is: a path, an index or a key. `read` gives row i as it was stored. `fingerprint` identifies the
    data of the whole split, also where `limited` keeps a part of it. `notices` says what was left
    out or read otherwise than it is; `left_out` are rows that a source was allowed to leave out.

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

    modality: ClassVar[str]

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
        )

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
        whole = name.replace("\\", "\\\\").encode("utf-8", "surrogateescape")
        return whole.decode("utf-8", "backslashreplace")
    return name


def unknown_split(dataset: str, split: str, there: Sequence[str]) -> UsageError:
    """The error for a split that a data set does not have."""
    return UsageError(f"{dataset} has no split {split!r}; it has {', '.join(map(utf8, there))}")

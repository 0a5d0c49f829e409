"""Columns of tables: which holds what, and labels of any type as class numbers."""

import codecs
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featstore.data.rows import Rows, utf8
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice

TEXT = pa.large_string()

R = TypeVar("R", bound=Rows)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without encodings: dictionaries as their values, text as one type, decimals floats.

    >>> plain(pa.chunked_array([["b", "a"]]).dictionary_encode()).type
    DataType(large_string)
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        return column.cast(TEXT)
    return column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column


def unified(parts: Sequence[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """The same column of several tables in one type; a column of nothing but nulls has any.

    Whole numbers of one table and floats of another are floats, and otherwise texts.
    """
    kinds = {part.type for part in parts if not pa.types.is_null(part.type)} or {TEXT}
    if len(kinds) == 1:
        kind = kinds.pop()
    elif all(pa.types.is_integer(kind) for kind in kinds):
        kind = pa.int64()
    elif all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        kind = pa.float64()
    else:
        kind = TEXT
    return [part.cast(kind) for part in parts]


def without_space(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts without the space around them, and null where nothing is left."""
    column = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, TEXT), column)


# Names that are looked for where none is given, the first that is there.
IMAGE = ("image", "img", "path", "file", "filename", "file_name", "file_path", "filepath")
TEXT_COLUMNS = ("text", "sentence", "content", "review")
LABEL = ("label", "labels", "class", "category", "target")
SPLIT = ("split",)
# What labels may be said to be.
KINDS = ("class", "number")


@dataclass(frozen=True)
class Columns:
    """Names of columns, and how they are read; what is None is looked for, or told by the data.

    `image` or `text` is what goes into the backbone, `label` its class (or, where it holds numbers
    with a fraction, its target; or a list of all the labels that a row has), `split` says which
    split a row is in. `targets` names columns of numbers to regress on, in place of a label; of
    `kind` "class" they are labels, 0 or 1, of which a row has any number.

    With `rows` "tokens" a text is a list of words, or parted into them at its space, and the label
    is a list with one for each. `kind` says whether labels are a "class" or a "number" where that
    is not to be told from them. Of a CSV file, `delimiter` parts the cells, and `encoding` is how
    its text is encoded. `span` is a part of each text, `start:end` in characters or its words, and
    `map` a file beside each image that holds a class or a number for each pixel (see `data.maps`),
    from which patches have their labels. `keep` are columns of texts or whole numbers that a store
    is to keep of each row.
    """

    label: str | None = None
    image: str | None = None
    text: str | None = None
    split: str | None = None
    targets: tuple[str, ...] = ()
    kind: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    rows: str = "items"
    span: str | None = None
    map: str | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self):
        if self.kind not in (None, *KINDS):
            raise UsageError(f"labels are of kind {self.kind!r}; choose {' or '.join(KINDS)}")
        if len(self.targets) == 1 and self.kind == "class":
            raise UsageError(
                f"the target column {self.targets[0]} is of numbers, and labels are said to be"
                " classes; give it as the label column, or several columns of 0 and 1"
            )
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise UsageError(f"the delimiter is {self.delimiter!r}; it is one character, such as ;")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise UsageError(
                    f"there is no encoding {self.encoding!r}; give one that Python knows, such as"
                    " cp1252 or utf-16"
                ) from None
        if self.image and self.text:
            raise UsageError(
                f"the image column {self.image!r} and the text column {self.text!r} are both given;"
                " a row is an image or a text: give one"
            )
        if self.map and (self.label or self.targets or self.text or self.kind):
            raise UsageError(
                f"the map column {self.map!r} is given, which tells the labels of patches; leave"
                " the label, target and text columns and the kind of labels out"
            )
        if self.label and self.targets:
            raise UsageError(
                f"the label column {self.label!r} and the target columns"
                f" {', '.join(self.targets)} are both given; give one"
            )
        for what, names in (("target column", self.targets), ("column to be kept", self.keep)):
            repeated = [name for name in names if names.count(name) > 1]
            if repeated:
                raise UsageError(f"the {what} {repeated[0]!r} is given twice; name each once")

    def given(self) -> tuple[str, ...]:
        """Every name that is given."""
        names = (self.label, self.image, self.text, self.split, self.span, self.map)
        return tuple(name for name in (*names, *self.targets, *self.keep) if name)


@dataclass(frozen=True)
class Chosen:
    """Columns of a table that is there: `item` is images or texts, as `modality` says.

    `labels` is the one label column, or the targets; `split` is None where there is none.
    """

    modality: str
    item: str
    labels: tuple[str, ...]
    split: str | None


def choose(
    dataset: str,
    there: Sequence[str],
    columns: Columns,
    is_image: Callable[[str], bool] = lambda name: name.lower() in IMAGE,
    usual_label: Sequence[str] = LABEL,
) -> Chosen:
    """The columns of a table that has those called `there`.

    `is_image` says which can hold images. Raises `UsageError` naming the columns where one that is
    given, or the item or the label that is needed, is not among them.
    """
    repeated = sorted({name for name in there if there.count(name) > 1})
    absent = [name for name in columns.given() if name not in there]
    if repeated or absent:
        wrong = f"has no column {absent[0]!r}" if absent else f"has two columns {repeated[0]!r}"
        raise UsageError(f"{dataset} {wrong}; it has {', '.join(there) or 'none'}")
    images = [name for name in there if is_image(name) and name != columns.map]
    image = columns.image or _first(IMAGE, images) or (images[0] if len(images) == 1 else None)
    text = columns.text or _first(TEXT_COLUMNS, there)
    if columns.text or (text and not image and not columns.map):
        modality, item = "text", text
    else:
        modality, item = "image", image
    labels = columns.targets or (columns.label or _first(usual_label, there),)
    needed = [("images or texts", item, "--image-column or --text-column")]
    if columns.map:
        labels = ()
    else:
        needed.append(("labels", labels[0], "--label-column"))
    for what, name, option in needed:
        if name is None:
            raise UsageError(
                f"{dataset} has the columns {', '.join(there)}; say which holds the {what}:"
                f" {option}"
            )
    return Chosen(modality, item, labels, columns.split or _first(SPLIT, there))


def _first(usual: Sequence[str], there: Sequence[str]) -> str | None:
    """The first of the usual names that is there, in capitals or not."""
    lower = {name.lower(): name for name in reversed(there)} | {name: name for name in there}
    return next((lower[name] for name in usual if name in lower), None)


# From so many rows on, labels that are all different are not taken for classes.
ALL_DIFFERENT = 100
# Whole numbers written as floats are taken for classes by themselves where each is there so often.
_ROWS_A_CLASS = 5
# How a missing value is written where the others are numbers.
_MISSING = ("nan", "none", "null", "na", "n/a", "<na>", "nat", "?")
_WHOLE = re.compile(r"[+-]?\d+")
_WHOLE_FLOAT = re.compile(r"([+-]?\d+)\.0*")
# The label of rows whose class is not told.
HIDDEN = -1


@dataclass(frozen=True)
class Encoded:
    """Labels of one split: int64 (n,) with `classes`, or float64 (n,) or (n, T) with `targets`.

    Of labels of which a row has any number they are uint8 (n, T), and `targets` names those.
    """

    values: np.ndarray
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    notices: Sequence[Notice] = field(default=())


def encoded(
    dataset: str,
    split: str,
    columns: Mapping[str, Sequence[pa.ChunkedArray]],
    names: Sequence[str],
    asked: Columns,
) -> Encoded:
    """Labels of `split`; `columns` has each split's columns, in the order of `names`.

    Target columns are numbers, and so is a label where `asked.kind` says so, or by itself where it
    has a fraction. Of any other label the distinct values of all splits, sorted, are the classes,
    so that a number means the same in each. Whole numbers written as floats are classes where the
    label column or the kind is given, or each is there often. A split without labels, or with -1
    alone, is left out of the numbering.

    Raises `DatasetError` naming the row of a value that is missing or no number, or a split whose
    labels are not told; `UsageError` where what is meant cannot be told.
    """
    try:
        typed = [
            unified([columns[part][position] for part in columns]) for position in range(len(names))
        ]
    except pa.ArrowException as error:
        raise DatasetError(
            f"{', '.join(names)} of {dataset} has another type in each split: {error}; make it one"
        ) from None
    here = list(columns).index(split)
    if asked.targets and asked.kind == "class":
        values = [
            _zeros_and_ones(dataset, split, *pair)
            for pair in zip(names, [parts[here] for parts in typed], strict=True)
        ]
        return Encoded(np.stack(values, axis=1), targets=tuple(names))
    if _is_list(typed[0][here].type) and not asked.targets and asked.kind != "number":
        return _of_lists(dataset, split, names[0], dict(zip(columns, typed[0], strict=True)))
    if asked.targets or asked.kind == "number":
        return _targets(dataset, split, names, [parts[here] for parts in typed])
    name, kind = names[0], typed[0][0].type
    if not (_is_number(kind) or kind == TEXT):
        raise DatasetError(
            f"the column {name} of {dataset} holds {_called(kind)}; a label is one word or one"
            " number a row"
        )
    parts = cleaned(typed[0])
    told = dict(zip(columns, parts, strict=True))
    hidden = _hidden(told)
    if split in hidden:
        raise labels_not_told(dataset, split, name, [part for part in told if part not in hidden])
    told = {part: column for part, column in told.items() if part not in hidden}
    said = []
    if hidden:
        text = f"splits whose labels are all missing or {HIDDEN}, left out of the classes"
        said.append(Notice.of("hidden labels", f"{text}: {len(hidden)}", hidden))
    values = pc.unique(pa.chunked_array(_chunks(told), next(iter(told.values())).type)).drop_null()
    written = _written(values)
    if written == "words" and asked.kind is None and _have_decimal_commas(values):
        raise UsageError(
            f"the column {name} of {dataset} has numbers with a decimal comma; write a point, or"
            " say --label-kind class"
        )
    if written == "fractions" and asked.kind is None:
        text = (
            f"{name} has numbers with a fraction, taken as numbers to regress on"
            " (--label-kind class makes classes of them)"
        )
        found = _targets(dataset, split, names, [told[split]])
        return Encoded(found.values, targets=found.targets, notices=[*said, Notice("kind", text)])
    return _classes(dataset, split, name, told, values, written, asked, said)


def with_kept(
    rows: R, held: str, tables: Mapping[str, Mapping[str, pa.ChunkedArray]], names: Sequence[str]
) -> R:
    """Return rows of the split `held` with columns that a store is to keep of each.

    Whole numbers are int64 where no split lacks one, and texts otherwise, a missing one empty; what
    the columns hold is part of the fingerprint. Raises `DatasetError` for columns of other types.
    """
    if not names:
        return rows
    found = {}
    digest = hashlib.sha256()
    for name in names:
        try:
            columns = unified([plain(table[name]) for table in tables.values()])
        except pa.ArrowException as error:
            raise DatasetError(
                f"{name} of {rows.dataset} has another type in each split: {error}; make it one"
            ) from None
        kind = columns[0].type
        whole = pa.types.is_integer(kind) and not any(one.null_count for one in columns)
        if not (kind == TEXT or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise DatasetError(
                f"the column {name} of {rows.dataset} holds {_called(kind)}; texts and whole"
                " numbers are kept: leave it out"
            )
        column = columns[list(tables).index(held)]
        if whole:
            found[name] = column.cast(pa.int64()).to_numpy()
        else:
            found[name] = np.array(column.cast(TEXT).fill_null("").to_pylist(), object)
        digest.update(f"{name}|{found[name].dtype.kind}".encode())
        digest.update("".join(f"{len(str(one))}|{one}" for one in found[name]).encode())
    told = f"{rows.fingerprint} with {len(names)} columns:{digest.hexdigest()}"
    return replace(rows, beside=found, fingerprint=told)


def _zeros_and_ones(dataset: str, split: str, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of 0 and 1, or of true and false, as uint8 (n,)."""
    (column,) = cleaned([column])
    _refuse_missing(dataset, split, name, column)
    words = {"0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}
    cells = column.to_pylist()
    found = [words.get(str(one).lower()) for one in cells]
    if None in found:
        row = found.index(None)
        raise DatasetError(
            f"row {row} of the {split} split of {dataset} has {cells[row]!r} in {name}; of several"
            " labels each column is 0 or 1"
        )
    return np.array(found, np.uint8)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _of_lists(
    dataset: str, split: str, name: str, columns: Mapping[str, pa.ChunkedArray]
) -> Encoded:
    """Return lists of labels, of words or of whole numbers, as zeros and ones of all that occur."""
    lists = {part: column.to_pylist() for part, column in columns.items()}
    every = {label for rows in lists.values() for row in rows if row for label in row}
    if None in every or not all(isinstance(label, str | int) for label in every) or len(every) < 2:
        raise DatasetError(
            f"the column {name} of {dataset} has lists of {_called(columns[split].type)}; a list"
            " holds the words or whole numbers of a row's labels, at least two in all"
        )
    labels = sorted(every, key=lambda one: (isinstance(one, str), one))
    return Encoded(several(lists[split], labels), targets=tuple(map(str, labels)))


def several(lists: Sequence[Sequence | None], labels: Sequence) -> np.ndarray:
    """Return which labels each row's list has, uint8 (n, L); a row without a list has none.

    >>> several([["b"], None, ["a", "b"]], ["a", "b"]).tolist()
    [[0, 1], [0, 0], [1, 1]]
    """
    place = {label: number for number, label in enumerate(labels)}
    values = np.zeros((len(lists), len(labels)), np.uint8)
    for row, own in enumerate(lists):
        for label in own or ():
            values[row, place[label]] = 1
    return values


class LabelsNotTold(DatasetError):
    """A split whose labels are all missing or -1; `others` are the splits whose labels are told."""

    others: tuple[str, ...] = ()


def labels_not_told(dataset: str, split: str, name: str, others: Sequence[str]) -> LabelsNotTold:
    """The error for a split whose labels are all missing or -1, as those of contests are."""
    remedy = f"extract others, and test on one of them: --splits {','.join(others)}"
    found = LabelsNotTold(
        f"the {split} split of {dataset} has no {name} but {HIDDEN} or none at all: its labels are"
        f" not told; {remedy if others else 'label some rows'}"
    )
    found.others = tuple(others)
    return found


def _targets(
    dataset: str, split: str, names: Sequence[str], columns: Sequence[pa.ChunkedArray]
) -> Encoded:
    targets = [_numbers(dataset, split, *pair) for pair in zip(names, columns, strict=True)]
    values = targets[0] if len(targets) == 1 else np.stack(targets, axis=1)
    return Encoded(values, targets=tuple(names))


def cleaned(parts: Sequence[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """Texts without the space around them, and null where nothing is left, or NaN.

    Words for a missing value, such as "nan", are null where all others are numbers.

    >>> (column,) = cleaned([pa.chunked_array([[" 2", "nan", ""]], TEXT)])
    >>> column.to_pylist()
    ['2', None, None]
    """
    if pa.types.is_floating(parts[0].type):
        nothing = pa.scalar(None, parts[0].type)
        return [pc.if_else(pc.is_nan(part), nothing, part) for part in parts]
    if parts[0].type != TEXT:
        return list(parts)
    parts = [without_space(part) for part in parts]
    values = pc.unique(pa.chunked_array([c for part in parts for c in part.chunks], TEXT))
    words = pc.is_in(pc.utf8_lower(values), pa.array(_MISSING, TEXT))
    with suppress(pa.ArrowInvalid):
        others = values.filter(pc.invert(words)).drop_null()
        if pc.any(words).as_py() and len(others):
            others.cast(pa.float64())
            gone, nothing = values.filter(words), pa.scalar(None, TEXT)
            return [pc.if_else(pc.is_in(part, gone), nothing, part) for part in parts]
    return parts


def _hidden(told: Mapping[str, pa.ChunkedArray]) -> list[str]:
    """Splits of which no label is told, where others have some."""

    def values(column: pa.ChunkedArray) -> set[str]:
        some = pc.unique(column).drop_null()
        return {str(value) for value in some[:3].to_pylist()}

    marks = {str(HIDDEN), f"{HIDDEN}.0"}
    found = {part: values(column) for part, column in told.items() if len(column)}
    none_told = [part for part, some in found.items() if some <= marks]
    others = [some for part, some in found.items() if part not in none_told]
    return none_told if others and not any(some & marks for some in others) else []


def _chunks(columns: Mapping[str, pa.ChunkedArray]) -> list[pa.Array]:
    return [chunk for column in columns.values() for chunk in column.chunks]


def _written(values: pa.Array) -> str:
    """Return how labels are written: "whole" numbers, whole "floats", "fractions" or "words".

    Digits behind a point that are all zero make no fraction.
    """
    if pa.types.is_integer(values.type):
        return "whole"
    if values.type == TEXT:
        texts = values.to_pylist()
        if all(_WHOLE.fullmatch(text) for text in texts):
            return "whole"
        with suppress(pa.ArrowInvalid):
            values = values.cast(pa.float64())
    if not pa.types.is_floating(values.type):
        return "words"
    numbers = values.drop_null().to_numpy(zero_copy_only=False)
    return "floats" if (numbers == np.round(numbers)).all() else "fractions"


def _have_decimal_commas(values: pa.Array) -> bool:
    return values.type == TEXT and all(
        re.fullmatch(r"[+-]?\d+(,\d+)?", text) for text in values.to_pylist()
    )


def _numbers(dataset: str, split: str, name: str, column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if kind == TEXT:
        with suppress(pa.ArrowInvalid):
            column = without_space(column).cast(pa.float64())
            kind = column.type
    if not _is_number(kind):
        if _have_decimal_commas(pc.unique(column)):
            raise DatasetError(
                f"the column {name} of {dataset} has numbers with a decimal comma; write a point"
            )
        raise DatasetError(
            f"the column {name} of {dataset} holds {_called(kind)}; targets are numbers: choose"
            " another column, or give it as --label-column if it names classes"
        )
    _refuse_missing(dataset, split, name, column)
    return column.cast(pa.float64()).to_numpy()


def _classes(
    dataset: str,
    split: str,
    name: str,
    told: Mapping[str, pa.ChunkedArray],
    values: pa.Array,
    written: str,
    asked: Columns,
    said: list[Notice],
) -> Encoded:
    _refuse_missing(dataset, split, name, told[split])
    n_rows = sum(map(len, told.values()))
    if len(values) == n_rows >= ALL_DIFFERENT and asked.kind is None:
        raise UsageError(
            f"the column {name} of {dataset} has {len(values):,} values in as many rows, which are"
            " no classes; choose another with --label-column, give it as --target-columns, or say"
            " --label-kind class"
        )
    texts = [str(value) for value in values.to_pylist()]
    names = dict(zip(texts, texts, strict=True))
    if written == "floats":
        names = {text: _WHOLE_FLOAT.sub(r"\1", text) for text in texts}
    elif written == "words":
        names, alike = class_names(texts)
        said += [*alike, *_words_for_nothing(name, names.values(), told)]
    classes = sorted(set(names.values()))
    if written == "floats" and asked.kind is None:
        often = n_rows >= _ROWS_A_CLASS * len(classes) or len(classes) <= 2
        if not (often or asked.label):
            raise UsageError(
                f"the column {name} of {dataset} has whole numbers written as floats,"
                f" {len(classes):,} different ones in {n_rows:,} rows; say what they are:"
                " --label-kind class or --label-kind number"
            )
        text = (
            f"{name} has whole numbers written as floats, taken as classes:"
            f" {len(classes):,} (--label-kind number regresses on them)"
        )
        said.append(Notice("kind", text, len(classes)))
    if written != "words":
        classes.sort(key=lambda one: int(one) if _WHOLE.fullmatch(one) else float(one))
    number = {one: at for at, one in enumerate(classes)}
    codes = np.array([number[names[text]] for text in texts], np.int64)
    found = codes[pc.index_in(told[split], values).to_numpy().astype(np.int64)]
    return Encoded(found, classes=tuple(classes), notices=said)


def _words_for_nothing(
    name: str, classes: Iterable[str], told: Mapping[str, pa.ChunkedArray]
) -> list[Notice]:
    """Say that a class is called as a missing value often is."""
    found = sorted(one for one in set(classes) if one.lower() in _MISSING)
    chunks = _chunks(told)
    if not found or chunks[0].type != TEXT:
        return []
    every = pa.chunked_array(chunks, TEXT)
    n_rows = pc.sum(pc.is_in(every, pa.array(found, TEXT))).as_py() or 0
    text = f"rows whose {name} may mean that there is none, taken as a class: {n_rows:,}"
    return [Notice.of("missing", text, found, n_rows)]


def class_names(names: Iterable[str]) -> tuple[dict[str, str], list[Notice]]:
    r"""The class that each name stands for, and what is to be said of names that look alike.

    Names that differ in Unicode's form of the same letters, in characters that cannot be seen, or
    in space around or between words are one class. Those that differ in capitals are two.

    >>> names, (notice,) = class_names(["e\u0301t\u00e9", "\u00e9t\u00e9", "hiver"])
    >>> sorted(set(names.values())), notice.kind
    (['hiver', 'été'], 'names')
    """
    written = defaultdict(set)
    for name in names:
        written[_seen(name) or name].add(name)
    found = {}
    for seen, same in written.items():
        plain = sorted(unicodedata.normalize("NFC", utf8(name)).strip() for name in same)
        found |= dict.fromkeys(same, seen if seen in plain else plain[0] or seen)
    merged = [found[min(same)] for same in written.values() if len(same) > 1]
    said = []
    if merged:
        text = (
            "classes written in several ways that look the same (Unicode forms, characters that"
            f" cannot be seen, space), taken as one each: {len(merged):,}"
        )
        said.append(Notice.of("names", text, sorted(merged)))
    alike = defaultdict(set)
    for name in found.values():
        alike[unicodedata.normalize("NFKC", _seen(name) or name).casefold()].add(name)
    apart = [" and ".join(sorted(same)) for same in alike.values() if len(same) > 1]
    if apart:
        text = "classes whose names differ in capitals or forms of letters alone, kept apart"
        said.append(Notice.of("names", f"{text}: {len(apart):,}", sorted(apart)))
    return found, said


def _seen(name: str) -> str:
    """A name as it looks: composed, without characters of no width, one space between words."""
    if not name.isascii():
        name = unicodedata.normalize("NFC", utf8(name))
        name = "".join(c for c in name if unicodedata.category(c) != "Cf")
    return " ".join(name.split())


def _refuse_missing(dataset: str, split: str, name: str, column: pa.ChunkedArray) -> None:
    rows = np.flatnonzero(pc.is_null(column, nan_is_null=True).to_numpy())
    if rows.size:
        more = f", and {len(rows) - 1:,} more have none" if rows[1:].size else ""
        raise DatasetError(
            f"row {rows[0]} of the {split} split of {dataset} has no {name}{more}; fill it in,"
            " take it out, or leave such rows out with --on-error skip"
        )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _called(kind: pa.DataType) -> str:
    text = "text" if kind == TEXT else str(kind)
    return text if len(text) < 60 else f"{text[:57]}..."

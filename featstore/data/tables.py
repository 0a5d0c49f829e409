"""Data sets that a table lists: CSV, Parquet, JSON lines."""

import codecs
import hashlib
import json as json_lines
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, json, parquet

from featstore.data import splits
from featstore.data.columns import (
    TEXT,
    Chosen,
    Columns,
    Encoded,
    choose,
    cleaned,
    encoded,
    plain,
    with_kept,
    without_space,
)
from featstore.data.files import below, of_files
from featstore.data.maps import MapFiles
from featstore.data.rows import (
    Ragged,
    Rows,
    TextRows,
    Unreadable,
    Words,
    fingerprint_of_texts,
)
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice


@dataclass(frozen=True)
class Texts:
    """Texts in memory as rows."""

    column: pa.LargeStringArray

    def __call__(self, row: int) -> str | None:
        """The text of a row, None where there is none."""
        return self.column[row].as_py()


def rows_of_tables(
    dataset: str,
    split: str,
    tables: Mapping[str, pa.Table],
    chosen: Chosen,
    asked: Columns,
    root: Path,
    skip: bool = False,
    notices: Sequence[Notice] = (),
) -> Rows:
    """Rows of one of the tables, which are a set's splits; image paths start from `root`.

    An image's id is its path below `root`, a text's the split and its number there. With `skip`
    rows without a label, or an image's path, are left out. Raises `DatasetError` for paths that
    leave `root`, are not there, or are listed twice.
    """
    held = splits.held(dataset, split, list(tables))
    rows = {part: np.arange(table.num_rows) for part, table in tables.items()}
    left_out = []
    if skip:
        lacks = {part: _lacking(table, chosen, root) for part, table in tables.items()}
        for part, found in lacks.items():
            rows[part] = np.setdiff1d(rows[part], list(found))
        if not len(rows[held]):
            raise DatasetError(
                f"no row of the {held} split of {dataset} can be used; the first"
                f" {next(iter(lacks[held].values()), 'is not there')}"
            )
        tables = {part: table.take(rows[part]) for part, table in tables.items()}
        left_out = [
            Unreadable(
                row, split, f"row {row}", f"row {row} of the {held} split of {dataset} {why}"
            )
            for row, why in lacks[held].items()
        ]
    columns = {part: [table[name] for name in chosen.labels] for part, table in tables.items()}
    if asked.rows == "tokens":
        found = of_words(dataset, split, held, tables[held][chosen.item], columns, chosen, asked)
        found = with_kept(found, held, tables, asked.keep)
        return replace(found, notices=(*splits.stand_in(split, held), *notices, *found.notices))
    if asked.map:
        labels = Encoded(np.zeros(tables[held].num_rows, np.int64), classes=("0",))
    else:
        labels = encoded(dataset, held, columns, chosen.labels, asked)
    if chosen.modality == "text":
        ids = [str(row) for row in rows[held]]
        found = of_texts(dataset, split, tables[held][chosen.item], labels, ids)
        if asked.span:
            found = with_spans(found, held, tables[held][asked.span], asked.span)
    else:
        paths = {
            part: _paths(dataset, part, table[chosen.item], root) for part, table in tables.items()
        }
        _refuse_repeated(dataset, paths)
        found = of_files(
            dataset, split, paths[held], labels.values, labels.classes, root, labels.targets
        )
        if asked.map:
            beside = _paths(dataset, held, _maps(dataset, held, asked.map, tables[held]), root)
            found = replace(found, maps=MapFiles(paths[held], beside))
    told = (*splits.stand_in(split, held), *notices, *labels.notices)
    found = with_kept(found, held, tables, asked.keep)
    return replace(found, notices=told, left_out=tuple(left_out))


def _lacking(table: pa.Table, chosen: Chosen, root: Path) -> dict[int, str]:
    """Rows that have no label, or no image that may be read, and why."""
    found = {}
    for name in chosen.labels:
        (column,) = cleaned([table[name]])
        for row in np.flatnonzero(pc.is_null(column).to_numpy()).tolist():
            found.setdefault(row, f"has no {name}")
    if chosen.modality == "image" and table[chosen.item].type == TEXT:
        for row, name in enumerate(table[chosen.item].to_pylist()):
            try:
                below(root, name or "")
            except ValueError as error:
                why = f"names a file that is not to be read: {error}" if name else "has no path"
                found.setdefault(row, why)
    return dict(sorted(found.items()))


def of_texts(
    dataset: str,
    split: str,
    column: pa.ChunkedArray,
    labels: Encoded,
    ids: Sequence[str] | None = None,
) -> TextRows:
    """Rows of a column of texts, each one's id its number in the split unless `ids` are given."""
    if column.type != TEXT:
        raise DatasetError(
            f"the texts of {dataset} are {column.type}, not strings; choose another column with"
            " --text-column"
        )
    texts = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], TEXT)
    return TextRows(
        dataset=dataset,
        split=split,
        labels=labels.values,
        ids=ids or [str(row) for row in range(len(texts))],
        classes=labels.classes,
        fingerprint=fingerprint_of_texts(texts, labels.values),
        read=Texts(texts),
        targets=labels.targets,
    )


@dataclass(frozen=True)
class Spans:
    """Texts as rows, and of each one span, int64 (n, 2), from where to where it goes."""

    read: Callable[[int], str | None]
    spans: np.ndarray

    def __call__(self, row: int) -> Words:
        """Return the text of a row with its span as its only word."""
        made = Words(self.read(row) or "")
        made.spans = self.spans[row : row + 1]
        return made


def with_spans(rows: TextRows, held: str, column: pa.ChunkedArray, name: str) -> TextRows:
    """Return texts with the span that a column has of each: `start:end`, a pair, or its words.

    Words stand for the first place where the text has them. Raises `DatasetError` naming a row
    whose span is not in its text.
    """
    found = np.zeros((len(rows), 2), np.int64)
    for row, cell in enumerate(column.to_pylist()):
        text, start, end = rows.read(row) or "", -1, -1
        if isinstance(cell, str) and (offsets := re.fullmatch(r"\s*(\d+):(\d+)\s*", cell)):
            start, end = map(int, offsets.groups())
        elif isinstance(cell, str) and cell:
            start = text.find(cell)
            end = start + len(cell)
        elif isinstance(cell, list) and len(cell) == 2 and all(isinstance(n, int) for n in cell):
            start, end = cell
        if not 0 <= start < end <= len(text):
            raise DatasetError(
                f"row {row} of the {held} split of {rows.dataset} has the span {str(cell)[:40]!r}"
                f" in {name}, which its text of {len(text)} characters does not have; give"
                " start:end, or words of the text"
            )
        found[row] = start, end
    digest = hashlib.sha256(rows.fingerprint.encode() + found.tobytes()).hexdigest()
    return replace(rows, read=Spans(rows.read, found), fingerprint=f"spans:{digest}")


@dataclass(frozen=True)
class _ListsOfWords:
    """Cells in memory as texts of words: lists of them, or texts."""

    column: pa.Array

    def __call__(self, row: int) -> Words | None:
        """Return the words of a row, None where there are none."""
        cell = self.column[row].as_py()
        return None if cell is None else Words.of(cell)


def of_words(
    dataset: str,
    split: str,
    held: str,
    column: pa.ChunkedArray,
    columns: Mapping[str, Sequence[pa.ChunkedArray]],
    chosen: Chosen,
    asked: Columns,
    classes: Sequence[str] = (),
) -> TextRows:
    """Return texts whose words have labels each, a list of them a row; `columns` as of `encoded`.

    Labels are class numbers where `classes` are named. Raises `DatasetError` naming the row whose
    words are not as many as its labels.
    """
    lists = {part: [_lists(dataset, chosen, one) for one in some] for part, some in columns.items()}
    flat = {
        part: [pa.chunked_array([one.flatten()]) for one in some] for part, some in lists.items()
    }
    if classes:
        labels = Encoded(flat[held][0].to_numpy(), classes=tuple(classes))
    else:
        labels = encoded(dataset, held, flat, chosen.labels, asked)
    cells = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], TEXT)
    read = _ListsOfWords(cells)
    counts = np.array(lists[held][0].value_lengths().fill_null(0), np.int64)
    every = [read(row) for row in range(len(cells))]
    words = [0 if found is None else len(found.spans) for found in every]
    apart = np.flatnonzero(counts != words)
    if apart.size:
        row = apart[0]
        raise DatasetError(
            f"row {row} of the {held} split of {dataset} has {words[row]} words and {counts[row]}"
            f" labels in {chosen.labels[0]}; give each word one"
        )
    texts = pa.array([str(found or "") for found in every], TEXT)
    none = np.zeros(len(cells), np.float64 if labels.targets else np.int64)
    return TextRows(
        dataset=dataset,
        split=split,
        labels=none,
        ids=[str(row) for row in range(len(cells))],
        classes=labels.classes,
        fingerprint=fingerprint_of_texts(texts, np.concatenate([counts, labels.values.ravel()])),
        read=read,
        targets=labels.targets,
        notices=tuple(labels.notices),
        pieces=Ragged(labels.values, np.concatenate([[0], np.cumsum(counts)])),
    )


def _lists(dataset: str, chosen: Chosen, column: pa.ChunkedArray) -> pa.ListArray:
    """Return a column of labels as one array of lists."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise DatasetError(
            f"the column {chosen.labels[0]} of {dataset} holds {kind}, and rows are tokens: give a"
            " column with a list of labels a row, one for each word"
        )
    value = plain(pa.chunked_array([pa.array([], kind.value_type)])).type
    joined = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    return joined.cast(pa.large_list(value))


def _paths(dataset: str, part: str, column: pa.ChunkedArray, root: Path) -> list[Path]:
    if column.type != TEXT:
        raise DatasetError(
            f"the images of {dataset} are {str(column.type)[:60]}, not paths; a folder of tables"
            " that hold the images themselves is read by hf:FOLDER"
        )
    paths = []
    for row, name in enumerate(column.to_pylist()):
        try:
            paths.append(below(root, name or ""))
        except ValueError as error:
            raise DatasetError(
                f"row {row} of the {part} split of {dataset} names a file that is not to be read:"
                f" {error}; give --data-dir with a folder that all its paths lie below"
            ) from None
    return paths


def _maps(dataset: str, part: str, name: str, table: pa.Table) -> pa.ChunkedArray:
    """Return the column of maps; `DatasetError` names a row without one."""
    column = table[name]
    lacking = np.flatnonzero(pc.is_null(without_space(column.cast(TEXT))).to_numpy())
    if lacking.size:
        raise DatasetError(
            f"row {lacking[0]} of the {part} split of {dataset} has no {name}; give each image a"
            " map, or take the row out"
        )
    return column


def _refuse_repeated(dataset: str, paths: Mapping[str, list[Path]]) -> None:
    """Rows are matched by ids, an image of two classes is of neither, and train is not test."""
    seen: dict[Path, tuple[str, int]] = {}
    for part, some in paths.items():
        for row, path in enumerate(some):
            if path in seen:
                first, where = seen[path]
                raise DatasetError(
                    f"{dataset} lists {path} twice, as row {where} of the {first} split and row"
                    f" {row} of the {part} split; list each image once"
                )
            seen[path] = (part, row)


# Signs that part cells, beside the comma.
_DELIMITERS = (";", "\t", "|")
# First bytes that tell an encoding; that of UTF-8 is passed over by the reader.
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SKIPPED = "; mend that line, or leave such lines out with --on-error skip"
# Characters that hold a first line.
_HEADING = 1 << 16


def load(
    kind: str, file: str, split: str, data_dir: Path | None, columns: Columns, skip: bool = False
) -> Rows:
    """One split of the table in FILE: a row is an image or a text.

    Splits are told by a column, or by "{split}" in FILE, which stands for a split's name. Paths of
    images start from `data_dir`, or without one from the folder of FILE, and lie below it. With
    `skip` rows that are damaged, or lack a label or a path, are left out. Raises `DatasetError` for
    a file that cannot be read, `UsageError` for columns that are not there.
    """
    pattern = Path(data_dir or "", Path(file).expanduser())
    dataset = f"{kind}:{pattern.name}"
    files = _files(pattern)
    if kind != "csv" and (columns.delimiter or columns.encoding):
        raise UsageError(f"{dataset} has no delimiter and no encoding; leave these options out")
    opened = {part: _KINDS[kind](path, columns, skip) for part, path in files.items()}
    said = [one for table in opened.values() for one in table.notices]
    with _after(said):
        chosen = choose(dataset, next(iter(opened.values())).names, columns)
        tables = {part: _needed(table, chosen) for part, table in opened.items()}
        if None in tables:
            tables, alike = _parted(dataset, tables[None], chosen.split, skip)
            said += alike
        root = data_dir or pattern.parent
        rows = rows_of_tables(dataset, split, tables, chosen, columns, root, skip, said)
    damaged = [
        Unreadable(-1, split, f"line {line}", f"line {line} of {table.path} {why}")
        for table in opened.values()
        for line, why in table.damaged
    ]
    return replace(rows, left_out=(*damaged, *rows.left_out))


@contextmanager
def _after(said: Sequence[Notice]) -> Iterator[None]:
    """Let an error say how the file was read, where that was guessed."""
    try:
        yield
    except (UsageError, DatasetError) as error:
        if not said:
            raise
        raise type(error)(f"{error} ({'; '.join(map(str, said))})") from error


def check(
    kind: str, file: str, names: Sequence[str], data_dir: Path | None, columns: Columns
) -> None:
    """Raise where there is no such file, none of a split of these names, or no such column."""
    pattern = Path(data_dir or "", Path(file).expanduser())
    dataset = f"{kind}:{pattern.name}"
    files = _files(pattern)
    for name in names if None not in files else ():
        splits.held(dataset, name, list(files))
    # The names of JSON lines are in all of them.
    if kind != _Jsonl.kind:
        table = _KINDS[kind](next(iter(files.values())), columns, skip=True)
        with _after(table.notices):
            choose(dataset, table.names, columns)


def _files(pattern: Path) -> dict[str | None, Path]:
    """The file of each split that there is, or the one of all under None."""
    if splits.PLACE in str(pattern):
        files = {part: splits.named(pattern, part) for part in splits.NAMES}
    else:
        files = {None: pattern}
    files = {part: path for part, path in files.items() if path.is_file()}
    if not files:
        raise DatasetError(
            f"there is no file {pattern}; give the path of one, relative to --data-dir if that is"
            f" given; {splits.PLACE} in it stands for {', '.join(splits.NAMES)}"
        )
    return files


class _Table(ABC):
    """A table in a file: its columns by name, and what was met while it was read."""

    kind: ClassVar[str]

    def __init__(self, path: Path, asked: Columns, skip: bool):
        self.path, self.asked, self.skip = path, asked, skip
        self.notices: list[Notice] = []
        self.damaged: list[tuple[int, str]] = []
        with self.explained():
            self.names = self.read_names()

    @abstractmethod
    def read_names(self) -> list[str]:
        """The names of the columns."""

    @abstractmethod
    def read(self, names: Sequence[str]) -> pa.Table:
        """These columns."""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Let a file that cannot be read be told as one."""
        try:
            yield
        except (OSError, pa.ArrowException, UnicodeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise DatasetError(
                f"{self.path} cannot be read as {self.kind}: {reason}{self.remedy(reason)}"
            ) from error

    def remedy(self, reason: str) -> str:
        """Return what to do about it, where that is known."""
        return ""


class _Csv(_Table):
    """Cells as they are written: texts that seem numbers, dates or truth values stay texts."""

    kind = "csv"

    def read_names(self) -> list[str]:
        self._encoding = self.asked.encoding or self._mark()
        self._lines_before = 0
        self._delimiter = self.asked.delimiter or self._sniffed()
        parse = csv.ParseOptions(
            delimiter=self._delimiter,
            newlines_in_values=True,
            invalid_row_handler=(lambda row: "skip") if self.skip else None,
        )
        read = csv.ReadOptions(encoding=self._encoding, skip_rows=self._lines_before)
        with csv.open_csv(self.path, read_options=read, parse_options=parse) as reader:
            self._written = reader.schema.names
        return [name.strip() for name in self._written]

    def read(self, names: Sequence[str]) -> pa.Table:
        written = dict(zip(self.names, self._written, strict=True))
        wanted = [written[name] for name in names]
        # Numbers of lines are known where one thread reads.
        read = csv.ReadOptions(
            encoding=self._encoding, use_threads=not self.skip, skip_rows=self._lines_before
        )
        parse = csv.ParseOptions(
            delimiter=self._delimiter,
            newlines_in_values=True,
            invalid_row_handler=self._left_out if self.skip else None,
        )
        convert = csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
        )
        with self.explained():
            table = csv.read_csv(self.path, read, parse, convert)
        return table.rename_columns(list(names))

    def remedy(self, reason: str) -> str:
        if "utf-8" in reason.lower() or "utf8" in reason.lower():
            return "; save it as UTF-8, or say how it is encoded, as in --encoding cp1252"
        return _SKIPPED if "Expected" in reason else ""

    def _left_out(self, row: csv.InvalidRow) -> str:
        why = f"has {row.actual_columns} cells and not {row.expected_columns}"
        self.damaged.append((row.number or 0, why))
        return "skip"

    def _mark(self) -> str:
        """The encoding that the first bytes tell."""
        with open(self.path, "rb") as file:
            first = file.read(4)
        for mark, encoding in _MARKS.items():
            if first.startswith(mark):
                text = f"{self.path.name} is read as {encoding}, as its first bytes say"
                self.notices.append(Notice("encoding", text))
                return encoding
        return "utf8"

    def _sniffed(self) -> str:
        """The delimiter of the first line: a comma, unless another sign is there more often."""
        if ".tsv" in self.path.suffixes:
            return "\t"
        with open(self.path, encoding=self._encoding, errors="replace", newline="") as file:
            line = re.split(r"[\r\n]", file.read(_HEADING).lstrip("\ufeff"))[0]
        if stated := re.fullmatch(r'"?sep=(.)"?', line):  # as Excel writes it
            self._lines_before = 1
            return stated[1]
        line = re.sub(r'"[^"]*"', "", line)
        found = max((",", *_DELIMITERS), key=line.count)
        if found == ",":
            return found
        told = {"\t": "a tab"}.get(found, repr(found))
        text = f"the cells of {self.path.name} are separated by {told}, as its first line says"
        self.notices.append(Notice("delimiter", text))
        return found


class _Parquet(_Table):
    kind = "parquet"

    def read_names(self) -> list[str]:
        return parquet.read_schema(self.path).names

    def read(self, names: Sequence[str]) -> pa.Table:
        with self.explained():
            return parquet.ParquetFile(self.path).read(list(names))


class _Jsonl(_Table):
    kind = "jsonl"

    def remedy(self, reason: str) -> str:
        return _SKIPPED if "JSON parse error" in reason else ""

    def read_names(self) -> list[str]:
        try:
            with open(self.path, "rb") as file:
                # Arrow's reader takes a mark of UTF-8 for a value.
                if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                    file.seek(0)
                self._table = json.read_json(file)
        except pa.ArrowInvalid:
            if not self.skip:
                raise
            self._table = self._whole_lines()
        return self._table.column_names

    def read(self, names: Sequence[str]) -> pa.Table:
        return self._table.select(list(names))

    def _whole_lines(self) -> pa.Table:
        """The rows of the lines that hold an object; the others are damaged."""
        rows = []
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json_lines.loads(line)
                except ValueError as error:
                    self.damaged.append((number, f"is no JSON: {error}"))
                    continue
                if isinstance(row, dict):
                    rows.append(row)
                else:
                    self.damaged.append((number, "is no JSON object"))
        names = dict.fromkeys(name for row in rows for name in row)
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


_KINDS: dict[str, type[_Table]] = {table.kind: table for table in (_Csv, _Parquet, _Jsonl)}
KINDS = tuple(_KINDS)


def _needed(table: _Table, chosen: Chosen) -> pa.Table:
    """The columns that are needed."""
    split = [chosen.split] if chosen.split in table.names else []
    more = filter(None, (table.asked.span, table.asked.map, *table.asked.keep))
    wanted = list(dict.fromkeys([chosen.item, *chosen.labels, *split, *more]))
    absent = [name for name in wanted if name not in table.names]
    if absent:
        raise UsageError(
            f"{table.path} has no column {absent[0]!r}; it has {', '.join(table.names)}"
        )
    read = table.read(wanted)
    return pa.table({name: plain(read[name]) for name in wanted})


def _parted(
    dataset: str, table: pa.Table, column: str | None, skip: bool
) -> tuple[dict[str, pa.Table], list[Notice]]:
    """The rows of each value of the split column, without the space around it."""
    if column is None:
        raise DatasetError(
            f"{dataset} has no column 'split'; give --split-column, or a file for each split under"
            f" one name with {splits.PLACE} in it"
        )
    if not table.num_rows:
        raise DatasetError(f"{dataset} has no rows")
    names = without_space(table[column].cast(TEXT))
    n_none = names.null_count
    if n_none and not skip:
        raise DatasetError(
            f"{dataset} has rows without a {column}; say of each row which split it is in, or leave"
            " such rows out with --on-error skip"
        )
    said = []
    if n_none:
        text = f"rows of {dataset} without a {column}, left out: {n_none:,}"
        said.append(Notice("rows", text, n_none))
    there = sorted(names.unique().drop_null().to_pylist())
    # "Train" beside "train" is no split of its own.
    one = {name: min(same for same in there if same.lower() == name.lower()) for name in there}
    same = [name for name in there if one[name] != name]
    if same:
        text = f"splits of {dataset} that differ in capitals alone, taken as one: {len(same)}"
        said.append(Notice.of("split", text, same))
    parts = {}
    for name in sorted(set(one.values())):
        values = pa.array([other for other in there if one[other] == name], TEXT)
        parts[name] = table.filter(pc.is_in(names, values))
    return parts, said

"""Data sets by name: rows of images or texts, with labels, ids, class names and a fingerprint."""

import csv
import difflib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from featstore import durable
from featstore.data import files, hugging_face, splits, tables, torchvision, webdataset
from featstore.data.columns import Columns, LabelsNotTold
from featstore.data.files import require_files
from featstore.data.rows import (
    ImageRows,
    Rows,
    TextRows,
    Unreadable,
    limited,
    without,
    without_rows,
)
from featstore.errors import DatasetError, UsageError
from featstore.notices import Notice, distinct

__all__ = [
    "NAMES",
    "Columns",
    "ImageRows",
    "Rows",
    "TextRows",
    "Unreadable",
    "check",
    "load",
    "save_report",
    "scan",
    "without",
]

NAMES = (*files.SHIPPED, *torchvision.SOURCES)
# Sources that take an argument after a colon, without columns and with them.
_OF_FILES = ("folder", "npz")
_OF_COLUMNS = {
    "hf": hugging_face.load,
    "wds": webdataset.load,
    **{kind: partial(tables.load, kind) for kind in tables.KINDS},
}
_CHECKS = {
    "folder": files.check_folder,
    "npz": files.check_arrays,
    "hf": hugging_face.check,
    "wds": webdataset.check,
}


def load(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    columns: Columns | None = None,
    bit_depth: int | None = None,
    missing_ok: bool = False,
) -> Rows:
    """One split of a data set, or `limit` rows of it evenly spaced.

    `name` is one of `NAMES`; `folder:DIR` (class folders below train/ and test/ or val/);
    `npz:FILE`; or one whose `columns` may be named: `csv:FILE`, `parquet:FILE`, `jsonl:FILE` list
    images or texts, `hf:NAME`, `hf:NAME:CONFIG`, `hf:DIR` are sets of Hugging Face's hub or format,
    `wds:PATTERN` WebDataset's shards. Sets of torchvision lie in `data_dir`, or are downloaded into
    it (the platform's cache without one), and so are the hub's; the relative paths of the others
    are below it. Of images of 16 bits a channel `bit_depth` count, where that is given. With
    `missing_ok` images that a list names need not be there, which `scan` finds, and rows that lack
    a label, an image or a text are left out.

    Where the labels of a test split are not told, as those of contests are, the validation split is
    read in its place, which a notice says.

    Raises `UsageError` for a name, a split or a column that is not there, `DatasetError` for data
    that cannot be read, `DownloadRefused` where a set cannot be fetched.

    >>> rows = load("digits", "test", limit=100)
    >>> image, label = rows[0]
    >>> len(rows), image.size, rows.classes[label]
    (100, (8, 8), '8')
    """
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    try:
        rows = _rows(name, split, data_dir, columns or Columns(), missing_ok)
    except LabelsNotTold as hidden:
        other = splits.find(splits.VALIDATION, hidden.others)
        if splits.part(split) != splits.TEST or other is None:
            raise
        rows = _rows(name, other, data_dir, columns or Columns(), missing_ok)
        text = f"{split} is read from {other}: the labels of {split} are not told"
        said = (Notice("split", text), *rows.notices)
        rows = replace(rows, split=split, notices=said)
    if columns and columns.rows == "tokens" and rows.pieces is None:
        raise UsageError(
            f"{rows.dataset} has no labels of tokens; give a table or an hf: set, with a text or a"
            " list of words and a list of labels in each row"
        )
    if columns and columns.span and not isinstance(rows.read, tables.Spans):
        raise UsageError(
            f"{rows.dataset} has no spans of texts; give a table of texts, or an hf: set, with the"
            f" column {columns.span}"
        )
    if not missing_ok:
        require_files(rows)
    rows = limited(rows, limit)
    if bit_depth is not None:
        if rows.modality != "image":
            raise UsageError(f"{rows.dataset} holds {rows.modality}s, which have no bit depth")
        depth = f"{rows.fingerprint} of {bit_depth} bits"
        rows = replace(rows, bit_depth=bit_depth, fingerprint=depth)
    return replace(rows, notices=distinct([*rows.notices, *without_rows(rows)]))


def check(
    name: str,
    splits: Sequence[str] = (),
    *,
    data_dir: str | Path | None = None,
    columns: Columns | None = None,
) -> None:
    """Raise what `load` would for a name, files or splits that are not there, in no time.

    Nothing is fetched, and no row is read: what only the rows tell, `load` finds.
    """
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    kind, argument = _kind(name, columns or Columns())
    if kind in tables.KINDS:
        tables.check(kind, argument, splits, data_dir, columns or Columns())
    elif kind in _CHECKS:
        _CHECKS[kind](argument, splits, data_dir)
    elif kind in files.SHIPPED:
        for split in splits:
            files.check_shipped(kind, split)
    elif kind in torchvision.SOURCES:
        torchvision.check(kind, splits, data_dir)


def _rows(name: str, split: str, data_dir: Path | None, columns: Columns, skip: bool) -> Rows:
    kind, argument = _kind(name, columns)
    if kind in _OF_COLUMNS:
        return _OF_COLUMNS[kind](argument, split, data_dir, columns, skip)
    if kind in files.SHIPPED:
        return files.load_shipped(kind, split)
    if kind == "folder":
        return files.load_folder(argument, split, data_dir)
    if kind == "npz":
        return files.load_arrays(argument, split, data_dir, columns.kind)
    return torchvision.load(kind, split, data_dir)


def _kind(name: str, columns: Columns) -> tuple[str, str]:
    """Return the source that a name is of, and what follows its colon."""
    kind, _, argument = name.partition(":")
    if columns.map and kind not in tables.KINDS:
        raise UsageError(
            f"{name} has no column {columns.map!r} with files of maps; give a table (csv:,"
            " parquet: or jsonl:) that names images and maps, or pairs of them as objects"
        )
    if columns.keep and kind == "wds":
        raise UsageError(
            f"{name} has no columns, and {columns.keep[0]} is to be kept; leave it out"
        )
    if kind in _OF_COLUMNS and argument:
        return kind, argument
    if name in NAMES:
        argument = ""
    elif not (kind in _OF_FILES and argument):
        close = difflib.get_close_matches(name, NAMES, n=3)
        meant = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(NAMES)},"
        raise UsageError(
            f"there is no data set {name!r}; {meant} folder:DIR, npz:FILE, csv:FILE, parquet:FILE,"
            " jsonl:FILE, hf:NAME, hf:DIR and wds:PATTERN"
        )
    if columns.given() or columns.delimiter or columns.encoding:
        named = ", ".join((*columns.given(), *filter(None, (columns.delimiter, columns.encoding))))
        raise UsageError(f"{name} has no columns, and {named} is named; leave that out")
    if columns.kind == "number" and kind != "npz":
        raise UsageError(f"{name} has classes, and its labels are said to be numbers; leave it out")
    return kind, argument


def save_report(path: str | Path, unreadable: Iterable[Unreadable]) -> None:
    """Write a CSV of split, id and why, a row each; the file is whole, or is not there."""
    path = Path(path)
    with (
        durable.written_whole(path) as aside,
        open(aside, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        lines = csv.writer(file)
        lines.writerow(("split", "id", "why"))
        lines.writerows((one.split, one.id, one.why) for one in unreadable)


# Rows that one call of a thread reads.
_STEP = 64


def scan(
    rows: Rows, *, workers: int = 1, progress: Callable[..., None] = lambda *_, **__: None
) -> tuple[Unreadable, ...]:
    """The rows that cannot be read, in order; every row is read to its end, in `workers` threads.

    Calls `progress("checked images", done, total, unreadable=...)`, or "checked texts".
    """
    found: list[Unreadable] = []
    starts = range(0, len(rows), _STEP)
    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-scan") as pool:
        for start, some in zip(starts, pool.map(lambda s: _scanned(rows, s), starts), strict=True):
            found += some
            done = min(start + _STEP, len(rows))
            progress(f"checked {rows.modality}s", done, len(rows), unreadable=len(found))
    return tuple(found)


def _scanned(rows: Rows, start: int) -> list[Unreadable]:
    found = []
    for row in range(start, min(start + _STEP, len(rows))):
        try:
            rows[row]
        except DatasetError as error:
            found.append(Unreadable(row, rows.split, rows.ids[row], str(error)))
    return found

"""Data sets by name: rows of images or texts, with labels, ids, class names and a fingerprint."""

import difflib
from functools import partial
from pathlib import Path

from featstore.datasets import (
    arrays,
    digits,
    folders,
    hub,
    table_files,
    torchvision_sets,
    webdataset,
)
from featstore.datasets.columns import Columns
from featstore.datasets.image_files import require_files
from featstore.datasets.rows import ImageRows, Rows, TextRows, limited
from featstore.datasets.scanning import Unreadable, save_report, scan, without
from featstore.errors import UsageError

__all__ = [
    "NAMES",
    "Columns",
    "ImageRows",
    "Rows",
    "TextRows",
    "Unreadable",
    "load",
    "save_report",
    "scan",
    "without",
]

NAMES = ("digits", *torchvision_sets.SOURCES)
# Sources that take an argument after a colon, without columns and with them.
_OF_FILES = {"folder": folders.load, "npz": arrays.load}
_OF_COLUMNS = {
    "hf": hub.load,
    "wds": webdataset.load,
    **{kind: partial(table_files.load, kind) for kind in table_files.KINDS},
}


def load(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    columns: Columns | None = None,
    missing_ok: bool = False,
) -> Rows:
    """One split of a data set, or `limit` rows of it evenly spaced.

    `name` is one of `NAMES`; `folder:DIR` (class folders below train/ and test/ or val/);
    `npz:FILE`; or one whose `columns` may be named: `csv:FILE`, `parquet:FILE`, `jsonl:FILE` list
    images or texts, `hf:NAME`, `hf:NAME:CONFIG`, `hf:DIR` are sets of Hugging Face's hub or format,
    `wds:PATTERN` WebDataset's shards. Sets of torchvision lie in `data_dir`, or are downloaded into
    it (the platform's cache without one), and so are the hub's; the relative paths of the others
    are below it. With `missing_ok` images that a list names need not be there: `scan` finds them.

    Raises `UsageError` for a name, a split or a column that is not there, `DatasetError` for data
    that cannot be read, `DownloadRefused` where a set cannot be fetched.

    >>> rows = load("digits", "test", limit=100)
    >>> image, label = rows[0]
    >>> len(rows), image.size, rows.classes[label]
    (100, (8, 8), '8')
    """
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    rows = _rows(name, split, data_dir, columns or Columns())
    if not missing_ok:
        require_files(rows)
    return limited(rows, limit)


def _rows(name: str, split: str, data_dir: Path | None, columns: Columns) -> Rows:
    kind, _, argument = name.partition(":")
    if kind in _OF_COLUMNS and argument:
        return _OF_COLUMNS[kind](argument, split, data_dir, columns)
    known = name in NAMES or (kind in _OF_FILES and argument)
    if known and columns.given():
        raise UsageError(
            f"{name} has no columns, and {', '.join(columns.given())} is named; leave that out"
        )
    if name == "digits":
        return digits.load(split)
    if name in NAMES:
        return torchvision_sets.load(name, split, data_dir)
    if known:
        return _OF_FILES[kind](argument, split, data_dir)
    close = difflib.get_close_matches(name, NAMES, n=3)
    meant = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(NAMES)},"
    raise UsageError(
        f"there is no data set {name!r}; {meant} folder:DIR, npz:FILE, csv:FILE, parquet:FILE,"
        " jsonl:FILE, hf:NAME, hf:DIR and wds:PATTERN"
    )

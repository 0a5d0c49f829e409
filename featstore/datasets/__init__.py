"""Data sets by name: each gives rows of images with labels, ids, class names and a fingerprint."""

import difflib
from pathlib import Path

from featstore.datasets import arrays, digits, folders, torchvision_sets
from featstore.datasets.rows import ImageRows, limited
from featstore.errors import UsageError

__all__ = ["NAMES", "ImageRows", "load"]

# Sources that take an argument after a colon: a path.
_WITH_PATH = {"folder": folders.load, "npz": arrays.load}
NAMES = ("digits", *torchvision_sets.SOURCES)


def load(
    name: str, split: str, *, data_dir: str | Path | None = None, limit: int | None = None
) -> ImageRows:
    """One split of a data set, or `limit` rows of it evenly spaced.

    `name` is one of `NAMES`, `folder:DIR` (class folders below train/ and test/ or val/) or
    `npz:FILE`. Sets of torchvision lie in `data_dir`, or are downloaded into it (the platform's
    cache without one); the relative paths of the others are below it.

    Raises `UsageError` for a name or a split that is not there, `DatasetError` for data that cannot
    be read, `DownloadRefused` where a set cannot be fetched.

    >>> rows = load("digits", "test", limit=100)
    >>> image, label = rows[0]
    >>> len(rows), image.size, rows.classes[label]
    (100, (8, 8), '8')
    """
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    kind, _, argument = name.partition(":")
    if kind in _WITH_PATH and argument:
        rows = _WITH_PATH[kind](argument, split, data_dir)
    elif name == "digits":
        rows = digits.load(split)
    elif name in torchvision_sets.SOURCES:
        rows = torchvision_sets.load(name, split, data_dir)
    else:
        close = difflib.get_close_matches(name, NAMES, n=3)
        meant = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(NAMES)},"
        raise UsageError(f"there is no data set {name!r}; {meant} folder:DIR and npz:FILE")
    return limited(rows, limit)

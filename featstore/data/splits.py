"""Splits of data sets: by which names they go, what stands in for one, and draws of one."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featstore.data.rows import unknown_split
from featstore.notices import Notice

PLACE = "{split}"  # in a pattern of file names, stands for a split's name
# Names by which a split is found in names of files and folders.
NAMES = ("train", "test", "val", "validation", "valid", "dev", "training", "testing")
TRAIN, TEST, VALIDATION = "train", "test", "validation"
_SAME = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("test", "testing"), TEST),
    **dict.fromkeys(("val", "validation", "valid", "dev"), VALIDATION),
}


def named(pattern: Path, split: str) -> Path:
    """The path that a pattern gives for a split.

    >>> named(Path("lists/{split}.csv"), "train").as_posix()
    'lists/train.csv'
    """
    return Path(str(pattern).replace(PLACE, split))


def part(name: str) -> str | None:
    """Return whether a split's name says train, test or validation; None if it says neither.

    >>> part("Train"), part("dev"), part("extra")
    ('train', 'validation', None)
    """
    return _SAME.get(name.strip().lower())


def held(dataset: str, split: str, there: Sequence[str]) -> str:
    """The name among `there` that holds `split`; `UsageError` where none does.

    A split is found under its other names too ("validation" as "val", "valid", "dev"), in capitals
    or not, and validation is read for "test" where there is no such split: see `stand_in`.

    >>> held("imagenet", "test", ["train", "val"])
    'val'
    """
    name = find(split, there)
    if name is None:
        raise unknown_split(dataset, split, there)
    return name


def find(split: str, there: Sequence[str]) -> str | None:
    """The name among `there` that holds `split`, None where none does."""
    if split in there:
        return split
    wanted = (part(split), VALIDATION) if part(split) == TEST else (part(split),)
    ranked = sorted(there, key=lambda name: NAMES.index(name) if name in NAMES else len(NAMES))
    for one in filter(None, wanted):
        for name in ranked:
            if part(name) == one:
                return name
    return None


def stand_in(split: str, name: str) -> tuple[Notice, ...]:
    """Say that rows of another split are read: validation for "test"."""
    if name == split or part(name) == part(split):
        return ()
    return (Notice("split", f"{split} is read from {name}: there is no split {split}"),)


def rows_of(split: str, ids: Sequence[str], labels: np.ndarray, test_share: float) -> np.ndarray:
    """Rows of "train" or "test", in order: of each class, the share `test_share` is test.

    Which rows of a class are test is decided by the SHA-256 of their ids and by nothing else: the
    same on every machine and with every library version.

    >>> labels = np.array([0] * 10 + [1] * 20)
    >>> ids = [str(row) for row in range(30)]
    >>> test, train = (rows_of(split, ids, labels, 0.2) for split in ("test", "train"))
    >>> np.bincount(labels[test]), np.bincount(labels[train])
    (array([2, 4]), array([ 8, 16]))
    """
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = sorted(rows, key=lambda row: hashlib.sha256(ids[row].encode()).digest())
        test[rows[: round(test_share * len(rows))]] = True
    return np.flatnonzero(test if split == "test" else ~test)


# Bits that pixels of 16 may be said to count.

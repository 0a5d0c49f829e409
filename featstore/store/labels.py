"""Labels in any form: numbers or names of classes, one-hot rows, several, and targets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featstore.errors import DatasetError

# Names for the classes are kept for each number up to the largest label.
MOST_CLASSES = 1_000_000
# What labels may be: indices of classes, names of classes, values of targets, or any number a row.
NUMBERS, TEXTS, TARGETS, SEVERAL = "class numbers", "texts", "targets", "several at once"


@dataclass(frozen=True)
class Labels:
    """Labels of some rows: `values` int64 (n,), texts (n,), or float64 (n,) or (n, T) of targets.

    Where each row has any number of L labels they are uint8 (n, L), zeros and ones. `columns` is
    how many classes one-hot rows had a column for, and 0 where they were none.
    """

    values: np.ndarray
    columns: int = 0

    @property
    def kind(self) -> str:
        """One of `NUMBERS`, `TEXTS`, `TARGETS` and `SEVERAL`."""
        return {"i": NUMBERS, "f": TARGETS, "u": SEVERAL}.get(self.values.dtype.kind, TEXTS)


def as_array(given: Any, what: str) -> np.ndarray:
    """Return an array, tensor or list as a NumPy array in memory of the CPU; bfloat16 as float32.

    Raises `DatasetError` that begins with `what` for rows of several lengths.
    """
    if hasattr(given, "detach"):  # a tensor, told without an import of torch
        given = given.detach().cpu()
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given
        return given.numpy()
    try:
        return np.asarray(given)
    except ValueError as error:
        told = " ".join(str(error).split())[:200]
        raise DatasetError(f"{what} is no array ({told}); give rows of one length") from None


def as_texts(given: Any, what: str) -> np.ndarray:
    """Return an array of strings, bytes or Python objects that are strings as `<U` (n,)."""
    array = as_array(given, what)
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8")
    if array.dtype.kind in "OT":
        wrong = next((row for row, one in enumerate(array) if not isinstance(one, str)), None)
        if wrong is not None:
            raise DatasetError(
                f"row {wrong} of {what} is a {type(array[wrong]).__name__} and no text; give texts"
                " alone, or whole numbers from 0"
            )
        return array.astype(np.str_)
    return array


def as_ids(given: Any) -> list[str]:
    """Return ids given as texts, bytes or numbers, each as text."""
    members = as_array(given, "ids").reshape(-1).tolist()
    return [
        one.decode("utf-8", "backslashreplace") if isinstance(one, bytes) else str(one)
        for one in members
    ]


def parsed(
    given: Any, n_rows: int, targets: Sequence[str] = (), what: str = "labels", first: int = 0
) -> Labels:
    """Return the labels of `n_rows` rows, checked.

    Without `targets` labels are whole numbers from 0 (n,), texts (n,), one-hot rows (n, C) of
    zeros and a one, or zeros and ones (n, L) of which some row has none or several; of T targets
    they are finite real numbers (n,) or (n, T). `first` is the number of the first of the rows, for
    messages, which begin with `what`.

    Raises `DatasetError` naming what was given, or the row.

    >>> parsed([[0, 1, 0], [0, 0, 1]], 2).values.tolist()
    [1, 2]
    """
    array = as_array(given, what)
    if array.dtype.kind in "OST":
        array = as_texts(array, what)
    expected = [(n_rows,)] if len(targets) < 2 else []
    expected += [(n_rows, len(targets))] if targets else []
    one_hot = not targets and array.ndim == 2 and len(array) == n_rows and array.shape[1] > 1
    if array.shape not in expected and not (one_hot and array.dtype.kind in "biuf"):
        needed = " or ".join(map(str, expected))
        raise DatasetError(
            f"{what} has shape {array.shape} for {n_rows:,} rows; give {needed}, one label a row"
        )
    if targets:
        return Labels(_of_targets(array, targets, what, first))
    if array.dtype.kind == "U":
        return Labels(array)
    if one_hot:
        wrong = np.flatnonzero(((array != 0) & (array != 1)).any(1))
        if wrong.size:
            raise DatasetError(
                f"row {first + wrong[0]} of {what} has {array.shape[1]} columns and is not zeros"
                " and ones, one a label; give class numbers (rows,), or name the columns as targets"
            )
        if (array.sum(1) != 1).any():
            return Labels(array.astype(np.uint8))
        return Labels(array.argmax(1).astype(np.int64), array.shape[1])
    if array.dtype.kind not in "biu":
        raise DatasetError(
            f"{what} holds {array.dtype}; labels are integers from 0 or texts, and targets"
            " (--targets) real numbers: convert them"
        )
    wrong = np.flatnonzero((array < 0) | (array >= MOST_CLASSES))
    if wrong.size:
        raise DatasetError(
            f"row {first + wrong[0]} of {what} has label {array[wrong[0]]}; classes are numbered"
            f" from 0 and below {MOST_CLASSES:,}"
        )
    return Labels(array.astype(np.int64))


def _of_targets(array: np.ndarray, targets: Sequence[str], what: str, first: int) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise DatasetError(
            f"{what} holds {array.dtype}; labels are integers from 0 or texts, and targets"
            " (--targets) real numbers: convert them"
        )
    values = array.astype(np.float64).reshape(len(array), len(targets))
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        row, column = wrong[0]
        raise DatasetError(
            f"row {first + row} of {what} has {targets[column]} {values[row, column]}; targets are"
            " finite: mend that row, or leave it out"
        )
    return values[:, 0] if len(targets) == 1 else values


def numbered(
    splits: Mapping[str, Labels], classes: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return labels of each split as they are stored, and the names of the classes.

    Texts are numbered in sorted order, or as `classes` names them; names of numbers are those, or
    the numbers themselves. Targets have no classes; the names of several labels are those, or
    "label0", ...

    Raises `DatasetError` for labels of several kinds, and for one that `classes` does not name.
    """
    if any(labels.kind == SEVERAL for labels in splits.values()):
        # where each row happens to have one they look like a class
        splits = {
            split: Labels(np.eye(labels.columns, dtype=np.uint8)[labels.values])
            if labels.kind == NUMBERS and labels.columns
            else labels
            for split, labels in splits.items()
        }
    kinds = {split: labels.kind for split, labels in splits.items()}
    if len(set(kinds.values())) > 1:
        told = " and ".join(f"{kind} in {split}" for split, kind in kinds.items())
        raise DatasetError(f"labels are {told}; give one kind to all splits")
    kind = next(iter(kinds.values()))
    values = {split: labels.values for split, labels in splits.items()}
    if kind == TARGETS:
        return values, ()
    if kind == SEVERAL:
        width = next(iter(values.values())).shape[1]
        names = tuple(classes) if classes else tuple(f"label{place}" for place in range(width))
        told = {split: one.shape[1] for split, one in values.items() if one.shape[1] != len(names)}
        if told:
            split, count = next(iter(told.items()))
            raise DatasetError(
                f"{split} has {count} labels a row, and {len(names)} are named; give all splits the"
                " same, and each a name"
            )
        return values, names
    if kind == TEXTS:
        names = tuple(classes) if classes else _sorted(values.values())
        number = {name: place for place, name in enumerate(names)}
        return {split: _looked_up(one, number, split) for split, one in values.items()}, names
    highest = max(int(one.max(initial=-1)) for one in values.values())
    count = max(highest + 1, *(labels.columns for labels in splits.values()))
    names = tuple(classes) if classes else tuple(map(str, range(count)))
    if len(names) < count:
        raise DatasetError(
            f"there are labels up to {count - 1} and {len(names)} class names; name every class"
        )
    return values, names


def said_of(
    labels: Mapping[str, np.ndarray], names: tuple[str, ...], targets: Sequence[str]
) -> dict[str, Any]:
    """Return what a `Spec` says of labels that are `numbered`, and of their names."""
    if next(iter(labels.values())).dtype.kind == "u":
        return {"targets": names, "binary": True}
    return {"classes": names, "targets": tuple(targets)}


def _sorted(texts: Iterable[np.ndarray]) -> tuple[str, ...]:
    return tuple(sorted({str(name) for some in texts for name in np.unique(some)}))


def _looked_up(texts: np.ndarray, number: Mapping[str, int], split: str) -> np.ndarray:
    names, places = np.unique(texts, return_inverse=True)
    unknown = [str(name) for name in names if str(name) not in number]
    if unknown:
        row = int(np.flatnonzero(texts == unknown[0])[0])
        raise DatasetError(
            f"row {row} of {split} has label {unknown[0]!r}, which is none of the {len(number)}"
            " class names; name every class, or leave the names out"
        )
    return np.array([number[str(name)] for name in names], np.int64)[places.reshape(-1)]

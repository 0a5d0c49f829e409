"""What train and test rows must satisfy before anything is solved; each error names the value."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from probe.blocks import RowBlocks, Rows, as_blocks, has_targets, targets_of
from probe.errors import DataError

SMALLEST, LARGEST = 1e-152, 1e152
"""Between these must lie how much a target changes, so that its square is a float64 number."""

MOST_SEEDS = 10_000
"""Seeds of a sweep; more are a slip, and of a million no sweep would come to an end."""


def as_pair(train: Rows, test: Rows) -> tuple[RowBlocks, RowBlocks]:
    """Return train and test as row blocks that agree in features and classes.

    Raises:
        DataError: a split is empty, train has fewer than 2 rows or classes, the numbers of
            features differ, or a class of test does not occur in train.
    """
    train_blocks, test_blocks = as_blocks(train), as_blocks(test)
    counts = check_train(train_blocks)
    check_test(test_blocks, train_blocks.n_features, counts, targets_of(train_blocks))
    return train_blocks, test_blocks


def check_train(train: RowBlocks) -> np.ndarray:
    """Return the rows of each class, int64 (C,), if a probe can be fitted on these labels.

    Labels that are targets make an empty one.

    Raises:
        DataError: fewer than 2 rows or classes, no feature, a label outside [0, C), or a target
            that is not finite or never changes.
    """
    if train.n_rows < 2:
        raise DataError(f"train has {train.n_rows} row(s): a probe needs at least 2")
    if train.n_features < 1:
        raise DataError("train has no features: give at least one column")
    labels = train.labels()
    if has_targets(train):
        check_targets(labels, "train")
        constant = np.flatnonzero(np.ptp(labels.reshape(len(labels), -1), axis=0) == 0)
        if constant.size:
            raise DataError(
                f"target {constant[0]} is {labels.reshape(len(labels), -1)[0, constant[0]]:g} in "
                "every train row: there is nothing to predict, so leave it out"
            )
        check_spread(labels)
        return np.zeros(0, np.int64)
    check_labels(labels, train.n_classes, "train")
    counts = np.bincount(labels, minlength=train.n_classes)
    if np.count_nonzero(counts) < 2:
        name = _called(int(labels[0]), tuple(getattr(train, "classes", ())))
        raise DataError(f"every train row is of class {name}: a probe needs 2 classes")
    return counts


def check_test(test: RowBlocks, n_features: int, train_counts: np.ndarray, n_targets: int) -> None:
    """Raise DataError unless a probe fitted on such train rows can be scored on `test`.

    Arguments:
        test: the rows to score.
        n_features: D of train.
        train_counts: int64 (C,), train rows of each class.
        n_targets: T of train, 0 if its labels are classes.
    """
    if test.n_rows < 1:
        raise DataError("test is empty: a score needs at least one row")
    if test.n_features != n_features:
        raise DataError(
            f"train has {n_features} features and test {test.n_features}: "
            "both must come from the same layer"
        )
    if targets_of(test) != n_targets:
        told = [f"{n} target(s)" if n else "classes" for n in (n_targets, targets_of(test))]
        raise DataError(
            f"the labels of train are {told[0]} and those of test {told[1]}: both must be alike "
            "(integers are classes, floats are targets)"
        )
    labels = test.labels()
    if n_targets:
        check_targets(labels, "test")
        return
    check_labels(labels, test.n_classes, "test")
    present = np.flatnonzero(np.bincount(labels))
    unseen = [c for c in present if c >= len(train_counts) or not train_counts[c]]
    if unseen:
        names = tuple(getattr(test, "classes", ()))
        there = [name for name, count in zip(names, train_counts, strict=False) if count]
        told = ", ".join(_called(c, names) for c in unseen[:5])
        alike = [
            name
            for name in there
            if _plain(name) in {_plain(names[c]) for c in unseen[:5] if c < len(names)}
        ]
        hint = f" (train has {', '.join(map(repr, alike))})" if alike else ""
        raise DataError(
            f"class {told}{', ...' if len(unseen) > 5 else ''} occurs in test but not in train"
            f"{hint}: add train rows of it, or drop its test rows"
        )


def _called(number: int, names: Sequence[str]) -> str:
    """Return the name and number of a class, or its number where that is its name."""
    if number >= len(names) or names[number] == str(number):
        return str(number)
    return f"{names[number]!r} ({number})"


def _plain(name: str) -> str:
    """Return a name without what two spellings of one class differ in."""
    return (
        unicodedata.normalize("NFKC", name).casefold().strip().replace("-", "_").replace(" ", "_")
    )


def check_targets(targets: np.ndarray, split: str) -> None:
    """Raise DataError that names the first target, of (N,) or (N, T), that is not finite."""
    wrong = np.argwhere(~np.isfinite(targets))
    if len(wrong):
        raise DataError(
            f"row {wrong[0][0]} of {split} has {targets[tuple(wrong[0])]} as a target: "
            "targets must be finite; mend or drop the row"
        )


def check_spread(targets: np.ndarray) -> None:
    """Raise DataError that names the first target whose squares are no good float64 numbers."""
    spread = np.ptp(targets.reshape(len(targets), -1), axis=0)
    for column in np.flatnonzero(~((spread > SMALLEST) & (spread < LARGEST))):
        what, remedy = ("little", "multiply") if spread[column] <= SMALLEST else ("much", "divide")
        raise DataError(
            f"target {column} changes by {spread[column]:g} over the train rows, which is too "
            f"{what} for squared errors in float64: {remedy} it by a constant"
        )


def check_labels(labels: np.ndarray, n_classes: int, split: str) -> None:
    """Raise DataError that names the first label outside [0, C)."""
    if labels.size and (labels.min() < 0 or labels.max() >= n_classes):
        row = int(np.argmax((labels < 0) | (labels >= n_classes)))
        raise DataError(
            f"row {row} of {split} has label {labels[row]}: "
            f"labels of {n_classes} classes lie in 0 to {n_classes - 1}"
        )

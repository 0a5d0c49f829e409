"""Labelled rows in blocks: what they offer, and checks of them."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import xxhash
from numpy.typing import ArrayLike

from featstore.probe.errors import DataError, UsageError

BLOCK_BYTES = 8 << 20


@runtime_checkable
class RowBlocks(Protocol):
    """Labelled feature rows that can be read, in order, any number of times.

    Attributes:
        n_rows: number of rows N.
        n_features: number of features D.
        n_classes: declared classes C; every label lies in [0, C). With 0 classes, labels are
            targets: float64 (b,), or (b, T) for T of them; or several labels at once, uint8 (b, L)
            of zeros and ones, one a label that a row has.
        block_rows: the most rows that one block has.
        fingerprint: identifies the content, labels included, for caches and for sweeps that are
            resumed; None means that nothing is cached, and that a sweep reads the rows once more
            to know them again.

    This is the least that objects of others have. `LabelledRows` is the whole contract, which they
    may also be of; `as_blocks` fills in what they leave out.
    """

    n_rows: int
    n_features: int
    n_classes: int
    block_rows: int
    fingerprint: str | None

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (features (b, D) float16, float32 or float64, labels (b,) int64) in row order."""

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,), without reading features."""


class LabelledRows(ABC):
    """Row blocks with everything that probes may ask of them: `RowBlocks`, and what has a default.

    Attributes:
        n_rows, n_features, n_classes, block_rows, fingerprint: as of `RowBlocks`.
        n_views: V, how many times every image is shown, each time augmented otherwise; all rows of
            the first view stand first, then those of the second in the same order, ..., and
            `n_rows` and the labels count every view's.
        classes: the names of the C classes, or of the L labels; none where they are not known.
        validation: validation rows of their own, by which a solver chooses; None for none.
        start: the number of the first row among those that errors count.
        columns: int64 (D,), the numbers of the features in errors; None for 0 to D - 1.
        groups: (N,) numbers or texts, which group (patient, slide, speaker) each row is of; None
            for none. Rows of one group are held out, drawn and left out together.
    """

    n_rows: int
    n_features: int
    n_classes: int
    block_rows: int
    fingerprint: str | None
    n_views: int = 1
    classes: Sequence[str] = ()
    validation: "LabelledRows | None" = None
    start: int = 0
    columns: np.ndarray | None = None

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, (N,), or None."""
        return None

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (features (b, D) float16, float32 or float64, labels (b,) int64) in row order."""

    @abstractmethod
    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,), without reading features."""

    def part(self, start: int, stop: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Yield the blocks of the rows from `start` up to `stop`; all rows before are read too.

        Rows of which some can be read without the others have a better one.
        """
        done = 0
        for features, labels in self:
            first, last = max(start - done, 0), min(stop - done, len(labels))
            if last > first:
                yield features[first:last], labels[first:last]
            done += len(labels)
            if done >= stop:
                return


class Completed(LabelledRows):
    """Row blocks of others, with a default for each optional member that they do not have."""

    def __init__(self, blocks: RowBlocks):
        self._blocks = blocks
        self.n_rows, self.n_features = blocks.n_rows, blocks.n_features
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint = blocks.fingerprint
        for name in ("n_views", "classes", "validation", "start", "columns"):
            setattr(self, name, getattr(blocks, name, getattr(LabelledRows, name)))
        # an object of others may or may not have it: this is the one place that asks
        self.part = getattr(blocks, "part", super().part)

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, which is asked for only when it is needed."""
        return getattr(self._blocks, "groups", None)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(self._blocks)

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,)."""
        return self._blocks.labels()


Rows: TypeAlias = RowBlocks | tuple[ArrayLike, ArrayLike]
"""What the public functions take: row blocks, or a pair (features, labels) of plain arrays."""


class ArrayBlocks(LabelledRows):
    """Row blocks over an array in memory or a memory-mapped file.

    Arguments:
        features: (N, D), float16, float32 or float64; other numbers are read as float32.
        labels: (N,) integers in [0, C); or numbers to be predicted, (N,) or (N, T) floats; or
            several labels at once, (N, L) integers or booleans, 1 where a row has the label.
        n_classes: C; by default the largest label plus one. It is 0 for floats and for several
            labels.
        block_rows: rows of a block; by default about 8 MB of them.
        fingerprint: identifies the content if moments may be cached under it.
        n_views: V, where the rows are V views of the same N / V images, view after view.

    Raises:
        DataError: the shapes do not fit together, a label is negative or not an integer, or the
            labels of two views differ.

    Example:
        >>> blocks = ArrayBlocks(np.zeros((5, 3), np.float32), [0, 1, 1, 0, 1], block_rows=2)
        >>> [x.shape for x, _ in blocks]
        [(2, 3), (2, 3), (1, 3)]
    """

    def __init__(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        n_classes: int | None = None,
        block_rows: int | None = None,
        fingerprint: str | None = None,
        n_views: int = 1,
    ):
        # a memory map stays one: asarray would drop the class but not copy, asanyarray keeps it
        self._features = np.asanyarray(features)
        self._labels = _checked_labels(np.asarray(labels))
        if self._features.ndim != 2:
            raise DataError(
                f"features have shape {self._features.shape}: rows x features, so two axes, "
                "are wanted"
            )
        if len(self._features) != len(self._labels):
            raise DataError(
                f"{len(self._features)} rows of features but {len(self._labels)} labels: "
                "give one label for each row"
            )
        self.n_rows, self.n_features = self._features.shape
        self.n_classes = _n_classes(self._labels, n_classes)
        row_bytes = max(1, self.n_features * self._features.itemsize)
        self.block_rows = block_rows or max(1, min(self.n_rows, BLOCK_BYTES // row_bytes))
        if self.block_rows < 1:
            raise UsageError(f"block_rows is {block_rows}: a block has at least one row")
        self.fingerprint = fingerprint
        self.n_views = _checked_views(self._labels, n_views)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, self.n_rows, self.block_rows):
            rows = slice(start, start + self.block_rows)
            features = np.asarray(self._features[rows])
            if features.dtype not in (np.float16, np.float32, np.float64):
                features = features.astype(np.float32)
            yield features, self._labels[rows]

    def part(self, start: int, stop: int) -> "ArrayBlocks":
        """Return the rows from `start` up to `stop`."""
        rows = slice(start, stop)
        return ArrayBlocks(
            self._features[rows], self._labels[rows], self.n_classes, self.block_rows
        )

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,)."""
        return self._labels


def _checked_labels(labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind == "f" and labels.size and labels.ndim in (1, 2):
        return labels.astype(np.float64, copy=False)
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "iub":
        wrong = np.argwhere((labels != 0) & (labels != 1))
        if len(wrong):
            raise DataError(
                f"row {wrong[0][0]} has {labels[tuple(wrong[0])]} for label {wrong[0][1]}: of "
                "several labels each is 0 or 1; give floats for numbers to be predicted"
            )
        return labels.astype(np.uint8, copy=False)
    if labels.ndim != 1:
        raise DataError(
            f"labels have shape {labels.shape}: one label a row, so one axis, is wanted"
        )
    if labels.size and labels.dtype.kind not in "iub":
        raise DataError(f"labels are {labels.dtype}: class indices are integers")
    return labels.astype(np.int64, copy=False)


def _n_classes(labels: np.ndarray, declared: int | None) -> int:
    if labels.dtype.kind == "f" or labels.ndim > 1:
        return 0
    largest = int(labels.max()) if len(labels) else -1
    return largest + 1 if declared is None else declared


def _checked_views(labels: np.ndarray, n_views: int) -> int:
    if n_views < 1 or len(labels) % n_views:
        raise DataError(
            f"{len(labels)} rows are not {n_views} views of the same images: "
            "give as many rows of each view, view after view"
        )
    by_view = labels.reshape(n_views, len(labels) // n_views, *labels.shape[1:])
    if n_views > 1 and (by_view != by_view[:1]).any():
        raise DataError(
            f"the labels of the {n_views} views differ: every view has the same images in the "
            "same order"
        )
    return n_views


def content_digest(blocks: RowBlocks) -> str:
    """Return 32 hex digits for the features, their precision, and the labels of all rows.

    The sizes of the blocks play no part.
    """
    digest = xxhash.xxh3_128(
        f"{blocks.n_rows} {blocks.n_features} {blocks.n_classes} {views_of(blocks)}".encode()
    )
    precision = None
    for features, _ in blocks:
        if features.dtype != precision:
            precision = features.dtype
            digest.update(precision.str.encode())
        digest.update(np.ascontiguousarray(features))
    digest.update(np.ascontiguousarray(blocks.labels()))
    return digest.hexdigest()


def views_of(blocks: RowBlocks) -> int:
    """Return how many times these rows show every image: V, or 1 where nothing is said."""
    return as_blocks(blocks).n_views


def has_targets(blocks: RowBlocks) -> bool:
    """Return whether the labels are numbers to be predicted, or several labels at once."""
    return blocks.n_classes == 0


def has_several_labels(blocks: RowBlocks) -> bool:
    """Return whether each row has any number of L labels: uint8 (N, L) of zeros and ones."""
    return has_targets(blocks) and are_several(blocks.labels())


def are_several(labels: np.ndarray) -> bool:
    """Return whether labels are several at once, and neither classes nor numbers."""
    return labels.ndim == 2 and labels.dtype.kind != "f"


def targets_of(blocks: RowBlocks) -> int:
    """Return T, how many numbers, or labels, each row has; 0 where labels are classes."""
    if not has_targets(blocks):
        return 0
    labels = blocks.labels()
    return 1 if labels.ndim == 1 else labels.shape[1]


def as_blocks(rows: Rows, n_classes: int | None = None) -> LabelledRows:
    """Return `rows` as `LabelledRows`: a pair (features, labels) of arrays, or others' row blocks.

    Raises:
        UsageError: `rows` is neither.
    """
    if isinstance(rows, tuple) and len(rows) == 2:
        return ArrayBlocks(*rows, n_classes=n_classes)
    if isinstance(rows, LabelledRows):
        return rows
    if isinstance(rows, RowBlocks):
        return Completed(rows)
    raise UsageError(
        f"{type(rows).__name__} given for rows: pass (features, labels) or an object that "
        "satisfies featstore.probe.rows.RowBlocks"
    )


def validation_of(train: RowBlocks) -> RowBlocks | None:
    """Return the validation rows that train rows have of their own, or None."""
    return as_blocks(train).validation


SMALLEST, LARGEST = 1e-152, 1e152
"""Between these must lie how much a target changes, so that its square is a float64 number."""


def as_pair(train: Rows, test: Rows) -> tuple[RowBlocks, RowBlocks]:
    """Return train and test as row blocks that agree in features and classes.

    Raises:
        DataError: a split is empty, train has fewer than 2 rows or classes, the numbers of
            features differ, or a class of test does not occur in train.
    """
    train_blocks, test_blocks = as_blocks(train), as_blocks(test)
    counts = check_train(train_blocks)
    if has_targets(train_blocks) and has_targets(test_blocks):
        kinds = [
            "several labels" if has_several_labels(blocks) else "numbers to be predicted"
            for blocks in (train_blocks, test_blocks)
        ]
        if kinds[0] != kinds[1]:
            raise DataError(
                f"train has {kinds[0]} and test {kinds[1]}: give both as integers, or as floats"
            )
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
        _check_targets(labels, "train")
        constant = np.flatnonzero(np.ptp(labels.reshape(len(labels), -1), axis=0) == 0)
        if constant.size and are_several(labels):
            name = _called(int(constant[0]), tuple(as_blocks(train).classes))
            raise DataError(
                f"{'every' if labels[0, constant[0]] else 'no'} train row has label {name}: there "
                "is nothing to tell apart, so leave that label out, or add rows"
            )
        if constant.size:
            raise DataError(
                f"target {constant[0]} is {labels.reshape(len(labels), -1)[0, constant[0]]:g} in "
                "every train row: there is nothing to predict, so leave it out"
            )
        _check_spread(labels)
        return np.zeros(0, np.int64)
    check_labels(labels, train.n_classes, "train")
    counts = np.bincount(labels, minlength=train.n_classes)
    if np.count_nonzero(counts) < 2:
        name = _called(int(labels[0]), tuple(as_blocks(train).classes))
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
    labels = test.labels()
    if targets_of(test) != n_targets:
        told = [f"{n} target(s)" if n else "classes" for n in (n_targets, targets_of(test))]
        raise DataError(
            f"the labels of train are {told[0]} and those of test {told[1]}: both must be alike "
            "(integers are classes, floats are targets, two axes of 0 and 1 several labels)"
        )
    if n_targets:
        _check_targets(labels, "test")
        return
    check_labels(labels, test.n_classes, "test")
    present = np.flatnonzero(np.bincount(labels))
    unseen = [c for c in present if c >= len(train_counts) or not train_counts[c]]
    if unseen:
        names = tuple(as_blocks(test).classes)
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


def _check_targets(targets: np.ndarray, split: str) -> None:
    """Raise DataError that names the first target, of (N,) or (N, T), that is not finite."""
    wrong = np.argwhere(~np.isfinite(targets))
    if len(wrong):
        raise DataError(
            f"row {wrong[0][0]} of {split} has {targets[tuple(wrong[0])]} as a target: "
            "targets must be finite; mend or drop the row"
        )


def _check_spread(targets: np.ndarray) -> None:
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


def groups_of(blocks: RowBlocks) -> np.ndarray | None:
    """Return which group each row is of, (N,) numbers or texts; None where there are none."""
    return as_blocks(blocks).groups


class Grouped(LabelledRows):
    """Row blocks whose rows are of groups: patients, slides, speakers.

    Arguments:
        blocks: the rows beneath, N of them.
        groups: (N,) numbers or texts; or (N / V,) where they are V views of the same images.

    Raises:
        UsageError: there are not as many groups as rows, or fewer than two different ones.

    Example:
        >>> blocks = ArrayBlocks(np.eye(3), [0, 1, 1])
        >>> Grouped(blocks, ["ann", "bob", "ann"]).groups.tolist()
        ['ann', 'bob', 'ann']
    """

    def __init__(self, blocks: RowBlocks, groups: ArrayLike):
        self._blocks = blocks = as_blocks(blocks)
        given = np.asarray(groups)
        if given.ndim != 1 or given.dtype.kind not in "iubUSOT":
            raise UsageError(
                f"groups are {given.dtype} {given.shape}: give a whole number or a text for each "
                "row"
            )
        given = given.astype(str) if given.dtype.kind in "OST" else given
        if len(given) * blocks.n_views == blocks.n_rows:
            given = np.tile(given, blocks.n_views)
        if len(given) != blocks.n_rows:
            raise UsageError(
                f"{len(given):,} groups are given for {blocks.n_rows:,} rows: give each row its own"
            )
        self._groups = given
        for name in ("n_rows", "n_features", "n_classes", "block_rows", "n_views", "classes"):
            setattr(self, name, getattr(blocks, name))
        self.validation, self.start, self.columns = blocks.validation, blocks.start, blocks.columns
        digest = xxhash.xxh3_128_hexdigest("\0".join(map(str, given.tolist())).encode())
        self.fingerprint = blocks.fingerprint and f"{blocks.fingerprint} groups {digest}"

    @property
    def groups(self) -> np.ndarray:
        """Group of each row, (N,)."""
        return self._groups

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(self._blocks)

    def part(self, start: int, stop: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Yield the blocks of the rows from `start` up to `stop`."""
        return self._blocks.part(start, stop)

    def labels(self) -> np.ndarray:
        """Return every label."""
        return self._blocks.labels()


class OneLabel(LabelledRows):
    """Row blocks of which one of several labels is the class: 0 without it, 1 with it.

    Arguments:
        blocks: the rows beneath, with L labels each.
        label: its name, or its number.

    Raises:
        UsageError: the rows have one class each, or no such label.

    Example:
        >>> blocks = ArrayBlocks(np.eye(3), [[0, 1], [1, 1], [0, 0]])
        >>> OneLabel(blocks, 1).labels().tolist()
        [1, 1, 0]
    """

    n_classes = 2

    def __init__(self, blocks: RowBlocks, label: str | int):
        self._blocks = blocks = as_blocks(blocks)
        names = tuple(blocks.classes)
        if not has_several_labels(blocks):
            raise UsageError(
                f"label {label!r} is asked for, and each row has one class, or numbers: leave it "
                "out"
            )
        count = targets_of(blocks)
        number = names.index(label) if label in names else label
        if not isinstance(number, int) or not 0 <= number < count:
            known = ", ".join(names[:20]) or f"numbers 0 to {count - 1}"
            raise UsageError(f"there is no label {label!r}: there are {known}")
        self._number, name = number, names[number] if names else str(number)
        self.classes = (f"no {name}", name)
        self.n_rows, self.n_features = blocks.n_rows, blocks.n_features
        self.block_rows, self.n_views = blocks.block_rows, blocks.n_views
        self.start, self.columns = blocks.start, blocks.columns
        self.fingerprint = blocks.fingerprint and f"{blocks.fingerprint} label {number}"
        own = blocks.validation
        self.validation = None if own is None else OneLabel(own, label)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for features, labels in self._blocks:
            yield features, self._of(labels)

    def part(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the blocks of the rows from `start` up to `stop`."""
        for features, labels in self._blocks.part(start, stop):
            yield features, self._of(labels)

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, or None."""
        return self._blocks.groups

    def labels(self) -> np.ndarray:
        """Return whether each row has the label, int64 (N,)."""
        return self._of(self._blocks.labels())

    def _of(self, labels: np.ndarray) -> np.ndarray:
        return labels[:, self._number].astype(np.int64)


class SideBySide(LabelledRows):
    """Row blocks of the features of several layers, D_1 + D_2 + ... of them, all of one class.

    Every pass reads each layer once, in step, whatever the sizes of their blocks.

    Arguments:
        layers: row blocks of the same rows in the same order; their labels do not matter.

    Raises:
        DataError: the numbers of rows differ.

    Example:
        >>> from featstore.probe.rows import ArrayBlocks
        >>> a = ArrayBlocks(np.arange(4.0)[:, None], [0, 1, 0, 1], block_rows=3)
        >>> b = ArrayBlocks(10 + np.arange(8.0).reshape(4, 2), [1, 0, 0, 1], block_rows=2)
        >>> [x.tolist() for x, _ in SideBySide([a, b])]
        [[[0.0, 10.0, 11.0], [1.0, 12.0, 13.0]], [[2.0, 14.0, 15.0]], [[3.0, 16.0, 17.0]]]
    """

    n_classes, fingerprint = 1, None

    def __init__(self, layers: Sequence[RowBlocks]):
        counts = [layer.n_rows for layer in layers]
        if len(set(counts)) > 1:
            raise DataError(
                f"layers of {counts[0]} and {next(n for n in counts if n != counts[0])} rows: only "
                "features of the same rows can stand side by side"
            )
        self._layers = list(layers)
        self.n_rows, self.n_features = counts[0], sum(layer.n_features for layer in layers)
        self.block_rows = min(layer.block_rows for layer in layers)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        readers = [iter(layer) for layer in self._layers]
        held = [np.empty((0, layer.n_features)) for layer in self._layers]
        done = 0
        while done < self.n_rows:
            held = [
                rest if len(rest) else next(reader)[0]
                for rest, reader in zip(held, readers, strict=True)
            ]
            count = min(map(len, held))
            yield np.concatenate([rest[:count] for rest in held], 1), np.zeros(count, np.int64)
            held = [rest[count:] for rest in held]
            done += count

    def labels(self) -> np.ndarray:
        """Return zeros, int64 (N,)."""
        return np.zeros(self.n_rows, np.int64)

    @property
    def of_layers(self) -> list[np.ndarray]:
        """For each layer, which features of all are its own, int64 (D_i,)."""
        stops = np.cumsum([layer.n_features for layer in self._layers])
        return [
            np.arange(stop - layer.n_features, stop)
            for layer, stop in zip(self._layers, stops, strict=True)
        ]

"""Parts of rows: held out, left over, and in parts."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from featstore.probe.errors import DataError, UsageError
from featstore.probe.pieces import raise_non_finite
from featstore.probe.rows import (
    LabelledRows,
    RowBlocks,
    are_several,
    as_blocks,
    groups_of,
    validation_of,
    views_of,
)


@dataclass(frozen=True)
class Parts:
    """The rows to fit on and the rows to choose by; each row is in exactly one.

    Attributes:
        train: int64 (n,) row numbers.
        validation: int64 (v,) row numbers.
    """

    train: np.ndarray
    validation: np.ndarray


def check_share(share: float) -> None:
    """Raise UsageError unless `share` lies between 0 and 1."""
    if not 0 < share < 1:
        raise UsageError(f"validation fraction {share} is outside (0, 1): 0.1 is usual")


def random_parts(n_rows: int, share: float, seed: int) -> Parts:
    """Return int(share * N) rows drawn for validation, as `torch.utils.data.random_split` draws.

    The first N - v rows of one permutation are for training, in that order, the rest for
    validation. Classes are not looked at.

    Raises:
        UsageError: `share` is outside (0, 1), or no row at all would be drawn.

    Example:
        >>> random_parts(10, 0.2, seed=0).validation
        array([6, 2])
    """
    check_share(share)
    held = int(share * n_rows)
    if not held:
        raise UsageError(
            f"validation fraction {share} of {n_rows} rows is no row at all: "
            f"take at least {1 / n_rows:.2g}"
        )
    order = _shuffled(n_rows, seed)
    return Parts(order[: n_rows - held], order[n_rows - held :])


def stratified_parts(labels: np.ndarray, share: float, seed: int, count: int = 1) -> list[Parts]:
    """Return `count` draws of validation rows, no row in two of them, each alike to all rows.

    Classes have the same share in every draw: of n rows of a class round(share * n) are for
    validation, but at least one, while there are any left that no earlier draw has taken. One row
    at least stays for training, so that a class with a single row is never held out. Numbers to be
    predicted are sorted, of several the sums of the standardised ones, and of every 1/share
    neighbours one is drawn, so that each draw has small, middle and large ones in the same shares.
    Of several labels a row's class is the rarest label that it has.

    Arguments:
        labels: int64 (N,); targets, float64 (N,) or (N, T); or several labels, uint8 (N, L).
        share: in (0, 1).
        seed: of the draws.
        count: draws; `share * count` is at most 1.

    Returns:
        the parts, both in row order. Draws that would hold nothing out are left out.

    Raises:
        UsageError: `share` is outside (0, 1).
        DataError: no row at all can be held out.

    Example:
        >>> (parts,) = stratified_parts(np.array([0, 0, 0, 1, 1, 1, 1]), 0.3, seed=0)
        >>> parts.train, parts.validation
        (array([1, 2, 3, 5, 6]), array([0, 4]))
    """
    check_share(share)
    order = _shuffled(len(labels), seed)
    of_draw = np.full(len(labels), -1)
    for rows, taken in _strata(labels, order, share):
        for draw in range(count):
            of_draw[rows[draw * taken : (draw + 1) * taken]] = draw
    drawn = [np.flatnonzero(of_draw == draw) for draw in range(count)]
    if not any(map(len, drawn)):
        raise DataError(
            "no row can be held out to choose a penalty by, since every class has one train row: "
            "fix the penalty with l2, or add rows"
        )
    return [Parts(np.flatnonzero(of_draw != n), own) for n, own in enumerate(drawn) if len(own)]


def _strata(
    labels: np.ndarray, order: np.ndarray, share: float
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield rows that are alike, in the order of the draw, and how many a part takes of them."""
    if labels.dtype.kind == "f":
        rising = order[np.argsort(_summed(labels)[order], kind="stable")]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        # neighbours, of which one is taken, or all but one
        strata = max(1, round(min(share, 1 - share) * len(labels)))
        for rows in np.array_split(rising, strata):
            yield rows[np.argsort(place[rows])], (1 if share <= 0.5 else len(rows) - 1)
        return
    labels = rarest(labels) if are_several(labels) else labels
    for label, n in zip(*np.unique(labels, return_counts=True), strict=True):
        rows = order[labels[order] == label]
        yield rows, (min(max(1, round(share * n)), n - 1) if n > 1 else 0)


def _summed(numbers: np.ndarray) -> np.ndarray:
    """Return the sum of each row's numbers (N,) or (N, T), each in units of its deviation, (N,)."""
    targets = numbers.reshape(len(numbers), -1)
    deviation = targets.std(0)
    return ((targets - targets.mean(0)) / np.where(deviation > 0, deviation, 1)).sum(1)


def folds(
    labels: np.ndarray, count: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return the fold of each row, alike to all rows: int64 (N,) in [0, K).

    Rows of each class are dealt to the folds in drawn order; numbers are dealt from small to large.
    A group stays together: with a_gk the rows of class k (or label, or tenth of the numbers) in
    group g, t_k all of them, and A_fk those dealt to fold f so far, groups are taken from large to
    small, equal ones in drawn order, and each goes where sum_k (A_fk + a_gk)^2 / t_k^2 grows least.

    Arguments:
        labels: int64 (N,); targets, float64 (N,) or (N, T); or several labels, uint8 (N, L).
        count: K, 2 or more.
        seed: of the draw.
        groups: (N,) numbers or texts; None where each row stands for itself.

    Raises:
        UsageError: K is less than 2, or more than there are rows or groups.

    Example:
        >>> folds(np.array([0, 0, 0, 0, 1, 1]), 2, seed=0, groups=np.array([7, 7, 8, 8, 7, 8]))
        array([0, 0, 1, 1, 0, 1])
    """
    names, group = np.unique(
        np.arange(len(labels)) if groups is None else groups, return_inverse=True
    )
    if not 2 <= count <= len(names):
        what = "rows" if groups is None else "groups"
        raise UsageError(f"{len(names):,} {what} cannot be in {count} folds: take 2 to that many")
    if groups is None:
        fold, dealt = np.empty(len(labels), np.int64), 0
        for rows, _ in _strata(labels, _shuffled(len(labels), seed), 1 / count):
            fold[rows] = (dealt + np.arange(len(rows))) % count
            dealt += len(rows)
        return fold
    amounts = _amounts_of(labels, group, len(names))
    sizes = np.bincount(group, minlength=len(names))
    weight = 1 / np.maximum(amounts.sum(0), 1) ** 2
    drawn = _shuffled(len(names), seed)
    of_group, held = np.empty(len(names), np.int64), np.zeros((count, amounts.shape[1]))
    filled = np.zeros(count)
    for one in drawn[np.argsort(-sizes[drawn], kind="stable")].tolist():
        grown = held @ (weight * amounts[one])
        best = int(np.lexsort((filled, grown.round(12)))[0])
        of_group[one] = best
        held[best] += amounts[one]
        filled[best] += sizes[one]
    return of_group[group]


def _amounts_of(labels: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of each class, label or tenth of the numbers in each group, (G, K)."""
    if are_several(labels):
        amounts = np.zeros((count, labels.shape[1] + 1))
        np.add.at(amounts, group, np.c_[np.ones(len(labels)), labels])
        return amounts
    if labels.dtype.kind == "f":
        labels = np.argsort(np.argsort(_summed(labels), kind="stable")) * 10 // len(labels)
    _, codes = np.unique(labels, return_inverse=True)
    width = int(codes.max()) + 1
    return np.bincount(group * width + codes, minlength=count * width).reshape(count, width) * 1.0


def grouped_parts(
    labels: np.ndarray, groups: np.ndarray, share: float, seed: int, count: int = 1
) -> list[Parts]:
    """Return `count` draws of validation rows as `stratified_parts`, of whole groups.

    They are among round(1 / share) folds. A group without which a class would have no row left to
    train on is not held out.

    Arguments:
        labels: as of `stratified_parts`.
        groups: (N,) numbers or texts.
        share: in (0, 1).
        seed: of the draw.
        count: draws.

    Raises:
        UsageError: `share` is outside (0, 1).
        DataError: no group can be held out.
    """
    check_share(share)
    n_groups = len(np.unique(groups))
    found = []
    if n_groups > 1:
        fold = folds(labels, max(2, min(round(1 / share), n_groups)), seed, groups)
        for one in range(min(count, int(fold.max()) + 1)):
            held = fold == one
            if labels.ndim == 1 and labels.dtype.kind != "f":
                gone = np.setdiff1d(labels, labels[~held])
                held &= ~np.isin(groups, groups[np.isin(labels, gone)])
            if held.any() and not held.all():
                found.append(Parts(np.flatnonzero(~held), np.flatnonzero(held)))
    if not found:
        raise DataError(
            f"none of {n_groups} groups can be held out to choose a penalty by, since each class "
            "would lose its train rows: fix the penalty with l2, or add groups"
        )
    return found


def rarest(labels: np.ndarray) -> np.ndarray:
    """Return the label of each row that fewest rows have, int64 (N,), or L where it has none.

    >>> rarest(np.array([[1, 0], [1, 1], [0, 0]], np.uint8))
    array([0, 1, 2])
    """
    counts = labels.sum(0, dtype=np.int64)
    own = np.where(labels > 0, counts, len(labels) + 1).argmin(1)
    return np.where(labels.any(1), own, labels.shape[1])


def _shuffled(n_rows: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_rows, generator=generator, device="cpu").numpy()


class RowSubset(LabelledRows):
    """The view of row blocks that shows only some rows.

    Every pass reads the blocks beneath once, from the first row chosen to the last, and takes the
    chosen rows of each.

    Arguments:
        blocks: the rows beneath, N of them.
        rows: int64 (n,), which rows, rising, in [0, N).
        n_views: V, if they are the same images of each of V views.

    Raises:
        UsageError: `rows` is empty, does not rise or leaves [0, N).

    Example:
        >>> from featstore.probe.rows import ArrayBlocks
        >>> blocks = ArrayBlocks(np.arange(10.0).reshape(5, 2), [0, 1, 0, 1, 0], block_rows=2)
        >>> [x[:, 0].tolist() for x, _ in RowSubset(blocks, np.array([1, 4]))]
        [[2.0], [8.0]]
    """

    def __init__(self, blocks: RowBlocks, rows: np.ndarray, n_views: int = 1):
        if not len(rows) or rows[0] < 0 or rows[-1] >= blocks.n_rows or (np.diff(rows) <= 0).any():
            raise UsageError(
                f"{len(rows)} row numbers are no subset of {blocks.n_rows} rows: "
                "give at least one, rising, counted from 0"
            )
        self._blocks, self._rows = blocks, rows
        self.n_rows, self.n_features = len(rows), blocks.n_features
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint = _derived(blocks.fingerprint, rows)
        self.n_views = n_views

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        start = int(self._rows[0])
        for features, labels in RowRange(self._blocks, start, int(self._rows[-1]) + 1):
            first, last = np.searchsorted(self._rows, [start, start + len(labels)])
            if last > first:
                inside = self._rows[first:last] - start
                yield features[inside], labels[inside]
            start += len(labels)

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, or None."""
        own = groups_of(self._blocks)
        return None if own is None else own[self._rows]

    def part(self, start: int, stop: int) -> "RowSubset":
        """Return the rows from `start` up to `stop` of these, at least one."""
        return RowSubset(self._blocks, self._rows[start:stop])

    def labels(self) -> np.ndarray:
        """Return every label, int64 (n,)."""
        return self._blocks.labels()[self._rows]


class RowRange(LabelledRows):
    """The view of row blocks that shows the rows from `start` up to `stop`, perhaps none."""

    def __init__(self, blocks: RowBlocks, start: int, stop: int):
        self._blocks, self.start, self._stop = blocks, start, stop
        self.n_rows, self.n_features = stop - start, blocks.n_features
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint = None

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if not self.n_rows:
            return
        yield from as_blocks(self._blocks).part(self.start, self._stop)

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, or None."""
        own = groups_of(self._blocks)
        return None if own is None else own[self.start : self._stop]

    def part(self, start: int, stop: int) -> "RowRange":
        """Return the rows from `start` up to `stop` of these."""
        return RowRange(self._blocks, self.start + start, self.start + stop)

    def labels(self) -> np.ndarray:
        """Return every label, int64 (n,)."""
        return self._blocks.labels()[self.start : self._stop]


class ColumnSubset(LabelledRows):
    """The view of row blocks that shows some columns, in any order; every pass reads all.

    Arguments:
        blocks: the rows beneath, of D features.
        columns: int64 (m,), which of them.
    """

    def __init__(self, blocks: RowBlocks, columns: np.ndarray):
        self._blocks, self.columns = blocks, columns
        self.n_rows, self.n_features = blocks.n_rows, len(columns)
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint, self.n_views = None, views_of(blocks)
        own = validation_of(blocks)
        self.validation = None if own is None else ColumnSubset(own, columns)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for features, labels in self._blocks:
            yield features.take(self.columns, axis=1), labels

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, or None."""
        return groups_of(self._blocks)

    def part(self, start: int, stop: int) -> "ColumnSubset":
        """Return the same columns of the rows from `start` up to `stop`."""
        return ColumnSubset(RowRange(self._blocks, start, stop), self.columns)

    def labels(self) -> np.ndarray:
        """Return every label, int64 (n,)."""
        return self._blocks.labels()


class WithValidation(LabelledRows):
    """Train rows with validation rows of their own, by which `sgd` chooses its epoch.

    All else is of the train rows alone.

    Arguments:
        train: the rows to be fitted.
        validation: the others, of the same features and classes.

    Raises:
        DataError: they do not go together.

    Attributes:
        validation: the validation rows.
    """

    def __init__(self, train: RowBlocks, validation: RowBlocks):
        for kind, ours, theirs in (
            ("features", train.n_features, validation.n_features),
            ("classes", train.n_classes, validation.n_classes),
        ):
            # arrays are declared the classes that occur in them
            if theirs > ours or (kind == "features" and theirs != ours):
                raise DataError(
                    f"train has {ours} {kind} and validation {theirs}: both must be of one layer "
                    "and one data set"
                )
        self._train, self.validation = train, validation
        self.n_rows, self.n_features = train.n_rows, train.n_features
        self.n_classes, self.block_rows = train.n_classes, train.block_rows
        self.fingerprint, self.n_views = train.fingerprint, views_of(train)
        self.classes = tuple(as_blocks(train).classes)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(self._train)

    def labels(self) -> np.ndarray:
        """Return every label of train, int64 (N,)."""
        return self._train.labels()

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each train row, or None."""
        return groups_of(self._train)

    def part(self, start: int, stop: int) -> RowBlocks:
        """Return the train rows from `start` up to `stop`."""
        return RowRange(self._train, start, stop)


def every_view(blocks: RowBlocks, images: np.ndarray) -> RowSubset:
    """Return all views of some images, whose numbers int64 (n,) rise.

    Example:
        >>> from featstore.probe.rows import ArrayBlocks
        >>> blocks = ArrayBlocks(np.arange(6.0)[:, None], [0, 1, 2, 0, 1, 2], n_views=2)
        >>> [x[:, 0].tolist() for x, _ in every_view(blocks, np.array([0, 2]))]
        [[0.0, 2.0, 3.0, 5.0]]
    """
    n_views = views_of(blocks)
    starts = np.arange(n_views) * (blocks.n_rows // n_views)
    return RowSubset(blocks, (starts[:, None] + images).ravel(), n_views)


def _derived(fingerprint: str | None, rows: np.ndarray) -> str | None:
    if fingerprint is None:
        return None
    digest = hashlib.sha256(np.ascontiguousarray(rows, np.int64).tobytes()).hexdigest()
    return f"{fingerprint} rows {digest}"


def gathered_columns(blocks: RowBlocks, columns: np.ndarray, split: str) -> np.ndarray:
    """Return some columns of all rows, (N, m), in the precision in which they are stored.

    Raises:
        DataError: one is not finite; or there are other rows than announced.
    """
    out, done = None, 0
    for features, _ in ColumnSubset(blocks, columns):
        if out is None:
            out = np.empty((blocks.n_rows, len(columns)), features.dtype)
        if not np.isfinite(features.sum(dtype=np.float64)):
            raise_non_finite(features, done, split, columns)
        out[done : done + len(features)] = features
        done += len(features)
    if done != blocks.n_rows:
        raise DataError(
            f"{split} holds {done} rows but announces {blocks.n_rows}: "
            "its blocks and its n_rows must agree"
        )
    return out

"""Which train rows are kept aside to choose by: never a test row."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from probe.errors import DataError, UsageError


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

    Arguments:
        labels: int64 (N,); or targets, float64 (N,) or (N, T).
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
        targets = labels.reshape(len(labels), -1)
        deviation = targets.std(0)
        scaled = (targets - targets.mean(0)) / np.where(deviation > 0, deviation, 1)
        rising = order[np.argsort(scaled.sum(1)[order], kind="stable")]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        # neighbours, of which one is taken, or all but one
        strata = max(1, round(min(share, 1 - share) * len(labels)))
        for rows in np.array_split(rising, strata):
            yield rows[np.argsort(place[rows])], (1 if share <= 0.5 else len(rows) - 1)
        return
    for label, n in zip(*np.unique(labels, return_counts=True), strict=True):
        rows = order[labels[order] == label]
        yield rows, (min(max(1, round(share * n)), n - 1) if n > 1 else 0)


def _shuffled(n_rows: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_rows, generator=generator, device="cpu").numpy()

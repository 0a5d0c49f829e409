"""Which train rows are kept aside to choose by: never a test row."""

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


def stratified_parts(labels: np.ndarray, share: float, seed: int) -> Parts:
    """Return a draw that takes the same share of every class, both parts in row order.

    Labels that are numbers make one class. Of n rows of a class round(share * n) are for
    validation, but at least one, and at least one stays for training.

    Arguments:
        labels: int64 (N,); or targets, float64 (N,) or (N, T).
        share: in (0, 1).
        seed: of the draw.

    Raises:
        UsageError: `share` is outside (0, 1).
        DataError: a class has a single row, which cannot be in both parts.

    Example:
        >>> parts = stratified_parts(np.array([0, 0, 0, 1, 1, 1, 1]), 0.3, seed=0)
        >>> parts.train, parts.validation
        (array([1, 2, 3, 5, 6]), array([0, 4]))
    """
    check_share(share)
    order = _shuffled(len(labels), seed)
    held = np.zeros(len(labels), bool)
    if labels.dtype.kind == "f":
        labels = np.zeros(len(labels), np.int64)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < 2:
            raise DataError(
                f"class {label} has one train row: a validation part takes one and leaves one, "
                "so add rows of it, or fix the penalty instead of choosing it"
            )
        taken = min(max(1, round(share * count)), count - 1)
        held[order[labels[order] == label][:taken]] = True
    return Parts(np.flatnonzero(~held), np.flatnonzero(held))


def _shuffled(n_rows: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_rows, generator=generator, device="cpu").numpy()

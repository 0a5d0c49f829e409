"""Sufficient statistics of labelled rows: mergeable, subtractable, gathered in one pass."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, full_precision, set_at_labels, to_host
from probe.blocks import RowBlocks
from probe.budget import moment_rows
from probe.errors import DataError
from probe.rows import first_rows, gathered
from probe.settings import Settings

PANELS = 8
MIN_PANEL = 128

# relative to the squared distance from the shift, a variance below this is float32 rounding
RESOLUTION = {"float32": 1e-6, "float64": 1e-14}
# relative to the squares before a subtraction, what rounding leaves of squares that were all taken
# away: sums of 4096 rows in float32 were seen to be off by 4e-5
LEFT_OVER = {"float32": 2e-4, "float64": 1e-12}


@dataclass(frozen=True)
class Moments:
    """Sums over N rows of u = x - shift: class counts, sums of u by class, and u u'.

    Attributes:
        shift: float64 (D,).
        counts: int64 (C,), rows of each class.
        class_sums: float64 (D, C), sum of u over the rows of each class, U'Y.
        gram: float64 (D, D), U'U.
        precision: dtype in which products of rows were computed, "float32" or "float64".
        floor: float64 (D,) or 0, a variance below which is rounding: what a subtraction leaves
            of a feature that changes only in the rows taken away.
    """

    shift: np.ndarray
    counts: np.ndarray
    class_sums: np.ndarray
    gram: np.ndarray
    precision: str = "float32"
    floor: np.ndarray | float = 0.0
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def n(self) -> int:
        """The number of rows N."""
        return int(self.counts.sum())

    @property
    def offset(self) -> np.ndarray:
        """Mean of u, float64 (D,): how far the mean lies from the shift."""
        return self.class_sums.sum(1) / self.n

    @property
    def mean(self) -> np.ndarray:
        """Mean of x, float64 (D,)."""
        return self.shift + self.offset

    @property
    def variance(self) -> np.ndarray:
        """Variance of x (divisor N), float64 (D,); exactly 0 for a feature that never changes."""
        squares, offset = np.diagonal(self.gram) / self.n, self.offset
        variance = squares - offset**2
        rounding = np.maximum(RESOLUTION[self.precision] * offset**2, self.floor)
        return np.where(variance > rounding, variance, 0.0)

    def scale(self, standardize: bool = True) -> np.ndarray:
        """Standard deviation of x, float64 (D,); 1 for a constant feature or without scaling."""
        deviation = np.sqrt(self.variance)
        return np.where((deviation > 0) & standardize, deviation, 1.0)

    @property
    def priors(self) -> np.ndarray:
        """Share of rows of each class, float64 (C,): the mean of the one-hot targets."""
        return self.counts / self.n

    def covariance(self, standardize: bool = True) -> np.ndarray:
        """Return X'X / N of the centred, scaled features, float64 (D, D)."""
        scale, offset = self.scale(standardize), self.offset
        covariance = self.gram / self.n
        covariance -= np.outer(offset, offset)
        covariance /= scale
        covariance /= scale[:, None]
        constant = self.variance == 0
        covariance[constant] = 0.0
        covariance[:, constant] = 0.0
        return covariance

    def cross(self, standardize: bool = True) -> np.ndarray:
        """Return X'(Y - mean Y) / N of the centred, scaled features, float64 (D, C)."""
        centred = self.class_sums / self.n - np.outer(self.offset, self.priors)
        centred[self.variance == 0] = 0.0
        return centred / self.scale(standardize)[:, None]

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` makes of these moments, made when the key is first asked for.

        Fits of the same rows thus share their matrices instead of holding one each.
        """
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def shifted_to(self, shift: np.ndarray) -> "Moments":
        """Return the same moments about another shift."""
        if np.array_equal(shift, self.shift):
            return self
        by = self.shift - shift  # x - shift = u + by
        sums = self.class_sums.sum(1)
        gram = self.gram + np.outer(sums, by) + np.outer(by, sums) + self.n * np.outer(by, by)
        class_sums = self.class_sums + np.outer(by, self.counts)
        return replace(self, shift=shift, class_sums=class_sums, gram=gram)

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of rows together."""
        return self._combined(other, +1)

    def __sub__(self, other: "Moments") -> "Moments":
        """Return the moments of these rows without the other's, which must be among them."""
        if (other.counts > self.counts).any():
            raise DataError("moments of rows that are not part of these cannot be taken away")
        return self._combined(other, -1)

    def _combined(self, other: "Moments", sign: int) -> "Moments":
        if other.gram.shape != self.gram.shape or len(other.counts) != len(self.counts):
            raise DataError(
                f"moments of {len(other.gram)} features and {len(other.counts)} classes do not "
                f"go with those of {len(self.gram)} and {len(self.counts)}"
            )
        other = other.shifted_to(self.shift)
        counts = self.counts + sign * other.counts
        precision = min(self.precision, other.precision)  # "float32" sorts before "float64"
        floor = self.floor
        if sign < 0:
            lost = LEFT_OVER[precision] * np.diagonal(self.gram) / counts.sum()
            floor = np.maximum(floor, lost)
        return Moments(
            self.shift,
            counts,
            self.class_sums + sign * other.class_sums,
            self.gram + sign * other.gram,
            precision,
            floor,
        )


def moments(blocks: RowBlocks, settings: Settings, split: str = "train") -> Moments:
    """Return the moments of all rows, read once.

    Products of pieces of rows are computed in float32 (float64 for float64 features) and summed
    in float64. The one-hot labels stand as further columns beside the features, so that one
    product gives U'U and U'Y; of U'U only the upper triangle is computed, panel by panel.

    Raises:
        DataError: as `probe.rows.gathered`; or products of features overflow.
        MemoryBudgetError: the matrices do not fit into `settings.memory`.
    """
    shift, dtype = first_rows(blocks)
    width, classes, backend = blocks.n_features, blocks.n_classes, settings.backend
    rows = moment_rows(settings.memory, width, classes, dtype)
    total = backend.zeros((width, width + classes), "float64")
    counts, done = np.zeros(classes, np.int64), 0
    for piece, labels in gathered(blocks, rows, backend, dtype, shift, split, spare=classes):
        one_hot = piece[None, :, width:]
        one_hot[...] = 0
        set_at_labels(one_hot, labels, array_namespace(piece).ones_like(one_hot[..., 0]))
        _add_upper(total, piece, width)
        counts += np.bincount(to_host(labels), minlength=classes)
        done += len(labels)
        settings.progress("rows", done, blocks.n_rows)
    return _finished(total, counts, shift, dtype)


def _add_upper(total: Array, piece: Array, width: int) -> None:
    with full_precision():
        for columns in panels(width):
            total[columns, columns.start :] += piece[:, columns].T @ piece[:, columns.start :]


def _finished(total: Array, counts: np.ndarray, shift: np.ndarray, dtype: str) -> Moments:
    width = len(shift)
    host = to_host(total)
    gram = host[:, :width]
    if not np.isfinite(gram[0].sum() + np.trace(gram)):
        raise DataError(f"products of features overflow {dtype}: divide the features by a constant")
    # products of rounded numbers are symmetric to rounding only, and a factor's check is strict
    for columns in panels(width):
        gram[columns.stop :, columns] = gram[columns, columns.stop :].T
        corner = np.triu(gram[columns, columns])
        gram[columns, columns] = corner + np.triu(corner, 1).T
    return Moments(shift, counts, host[:, width:], gram, dtype)


def panels(width: int) -> list[slice]:
    """Return about 8 column ranges of equal size; with 8, 9/16 of a full product is computed."""
    panel = max(MIN_PANEL, -(-width // PANELS))
    return [slice(left, min(width, left + panel)) for left in range(0, width, panel)]

"""Result of a solver: all probes, and the affine map of each in its user's units."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featstore.probe.metrics import LogitSink
from featstore.probe.rows import RowBlocks, has_targets
from featstore.probe.subsets import Axes


@dataclass(frozen=True)
class Weights:
    """logits = x[features] @ coef + intercept, with x in the units of the stored features.

    Attributes:
        features: int64 (k,), the columns that the probe sees, in its chain's order.
        coef: float64 (k, C), per original unit of each feature.
        intercept: float64 (C,).
        mean: float64 (k,), train mean of each feature.
        scale: float64 (k,), what each feature was divided by in the fit (1 if it was not).
    """

    features: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def from_standardized(
        cls,
        features: np.ndarray,
        coef: np.ndarray,
        intercept: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
    ) -> "Weights":
        """Return the map whose logits are ((x - mean) / scale) @ coef + intercept."""
        original = coef / scale[:, None]
        return cls(features, original, intercept - mean @ original, mean, scale)

    @property
    def standardized(self) -> tuple[np.ndarray, np.ndarray]:
        """The coefficients (k, C) and intercept (C,) that apply to (x - mean) / scale."""
        return self.coef * self.scale[:, None], self.intercept + self.mean @ self.coef

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """Return the logits, float64 (n, C), of full-width rows (n, D)."""
        return rows[:, self.features].astype(np.float64) @ self.coef + self.intercept


class Fitted(ABC):
    """All probes of a fit, solved.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class; empty where labels are targets.
        n_train, n_targets: where labels are targets, how many rows the probes were fitted on, and
            how many numbers they predict.
        facts: a column of values, one a probe, for each thing known without test rows. "status"
            is always among them; a solver adds its own ("objective", "iterations", ...).
    """

    axes: Axes
    n_features: int
    class_counts: np.ndarray
    facts: Mapping[str, np.ndarray]

    n_train: int
    n_targets: int

    @abstractmethod
    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every test row to `scores`, block by block."""

    @abstractmethod
    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""

    def release(self) -> None:  # noqa: B027, since most fits hold nothing of the kind
        """Let go of what is held only so as not to compute it again; by default, of nothing."""


def counts_of(train: RowBlocks) -> np.ndarray:
    """Return the rows of each class, int64 (C,); of no class, (0,), where labels are targets."""
    if has_targets(train):
        return np.zeros(0, np.int64)
    return np.bincount(train.labels(), minlength=train.n_classes)


def n_targets(fitted: Fitted) -> int:
    """Return T, how many numbers the probes predict; 0 if they predict classes."""
    return 0 if len(fitted.class_counts) else fitted.n_targets


def n_outputs(fitted: Fitted) -> int:
    """Return how many logits, or predicted numbers, a row has: C or T."""
    return len(fitted.class_counts) or fitted.n_targets


def n_train(fitted: Fitted) -> int:
    """Return how many rows the probes were fitted on."""
    return int(fitted.class_counts.sum()) if len(fitted.class_counts) else fitted.n_train


def upper_envelopes(
    start: np.ndarray, by: np.ndarray, plus: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which class is largest of start_c + x by_jc + plus_jc, between which x, for each j.

    C lines have an upper envelope of at most C pieces, by rising slope.

    Arguments:
        start: float64 (C,).
        by: float64 (D, C).
        plus: float64 (D, C).

    Returns:
        float64 (D, E), rising, inf where a feature has fewer pieces; int64 (D, E + 1), the class
        below each of these and beyond the last.

    >>> breaks, classes = upper_envelopes(np.zeros(3), np.array([[1.0, -1, 0]]), np.zeros((1, 3)))
    >>> breaks.tolist(), classes.tolist()
    ([[0.0]], [[1, 0]])
    """
    found = []
    for slopes, intercepts in zip(by, start + plus, strict=True):
        order = np.lexsort((np.arange(len(slopes)), -intercepts, slopes))
        lines = zip(slopes[order].tolist(), intercepts[order].tolist(), order.tolist(), strict=True)
        kept, breaks = [next(lines)], []
        for slope, intercept, number in lines:
            if slope == kept[-1][0] or intercept == -np.inf:
                continue
            crossing = (kept[-1][1] - intercept) / (slope - kept[-1][0])
            while breaks and crossing <= breaks[-1]:
                kept.pop()
                breaks.pop()
                crossing = (kept[-1][1] - intercept) / (slope - kept[-1][0])
            if kept[-1][1] == -np.inf:
                kept.pop()
            else:
                breaks.append(crossing)
            kept.append((slope, intercept, number))
        found.append((breaks, [number for _, _, number in kept]))
    most = max(len(breaks) for breaks, _ in found)
    ends = [breaks + [np.inf] * (most - len(breaks)) for breaks, _ in found]
    classes = [own + own[-1:] * (most + 1 - len(own)) for _, own in found]
    return np.array(ends).reshape(len(by), most), np.array(classes)

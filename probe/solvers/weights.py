"""Result of a solver: all probes, and the affine map of each in its user's units."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featstore.probe.metrics import LogitSink
from featstore.probe.rows import RowBlocks
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


def n_targets(fitted: Fitted) -> int:
    """Return T, how many numbers the probes predict; 0 if they predict classes."""
    return 0 if len(fitted.class_counts) else fitted.n_targets


def n_outputs(fitted: Fitted) -> int:
    """Return how many logits, or predicted numbers, a row has: C or T."""
    return len(fitted.class_counts) or fitted.n_targets


def n_train(fitted: Fitted) -> int:
    """Return how many rows the probes were fitted on."""
    return int(fitted.class_counts.sum()) if len(fitted.class_counts) else fitted.n_train

"""The affine map of one probe, in the units that its user has."""

from dataclasses import dataclass

import numpy as np


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
        cls, features: np.ndarray, coef: np.ndarray, intercept: np.ndarray,
        mean: np.ndarray, scale: np.ndarray,
    ) -> "Weights":  # fmt: skip
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

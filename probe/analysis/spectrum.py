"""How many directions a layer varies in, and how much its features repeat each other."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featstore.probe.arrays import own_settings
from featstore.probe.devices import settings_of
from featstore.probe.errors import MemoryBudgetError
from featstore.probe.memory import text
from featstore.probe.moments import Moments, cached_moments
from featstore.probe.rows import Rows, as_blocks

# |correlation| above 1 minus this makes a duplicate: what rounding of the products leaves of 1
SAME = {"float32": 1e-5, "float64": 1e-10}
# float64 matrices of (D, D) held at once: the Gram, correlations, their copies, and eigenvalues'
MATRICES = 6


@dataclass(frozen=True)
class Spectrum:
    """What the second moments say of a layer of D features.

    Attributes:
        eigenvalues: float64 (D,), of the covariance, falling; 0 below rounding.
        correlation: mean |correlation| over pairs of features that change; NaN for fewer than 2.
        dead: int64, the features that never change on these rows.
        duplicates: int64 (M, 2), pairs (copy, original): a copy is an affine function, of either
            sign, of an original, the earliest feature that it repeats.
    """

    eigenvalues: np.ndarray
    correlation: float
    dead: np.ndarray
    duplicates: np.ndarray

    @property
    def effective_rank(self) -> float:
        """exp(-sum p log p), p_i = sigma_i / sum sigma, of the singular values of centred X.

        sigma_i is sqrt(N lambda_i), so N cancels. 0 for a layer that never changes.

        Reference:
            Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
            EUSIPCO 2007.
        """
        sigma = np.sqrt(self.eigenvalues[self.eigenvalues > 0])
        shares = sigma / sigma.sum()
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(sigma) else 0.0

    @property
    def participation_ratio(self) -> float:
        """(sum lambda)^2 / sum lambda^2, of the eigenvalues; 0 for a layer that never changes.

        Reference:
            Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement",
            bioRxiv 2017.
        """
        squares = (self.eigenvalues**2).sum()
        return float(self.eigenvalues.sum() ** 2 / squares) if squares else 0.0

    def components(self, share: float) -> int:
        """Return how many principal components hold a share of the variance, in (0, 1]."""
        held = np.cumsum(self.eigenvalues)
        if not held[-1]:
            return 0
        return int(np.searchsorted(held, share * held[-1] * (1 - 1e-12)) + 1)

    @property
    def numbers(self) -> dict[str, float]:
        """The layer in one row of a table."""
        return {
            "features": len(self.eigenvalues),
            "effective_rank": self.effective_rank,
            "participation_ratio": self.participation_ratio,
            "components_90": self.components(0.9),
            "components_99": self.components(0.99),
            "mean_abs_correlation": self.correlation,
            "dead": len(self.dead),
            "duplicates": len(self.duplicates),
        }


def layer_spectrum(
    rows: Rows,
    *,
    standardize: bool = True,
    moments_cache: Path | None = None,
    **computing: Any,
) -> Spectrum:
    """Return the spectrum of a layer, from one pass over its rows.

    Arguments:
        rows: row blocks, or (features (N, D), labels (N,)).
        standardize: as in `spectrum_of`.
        moments_cache: folder to keep moments in, under the blocks' fingerprint.
        computing: `memory`, `device`, `backend` and `progress`, as of `probe.fit`.

    Raises:
        DataError: the rows are not finite.
        MemoryBudgetError: the features are too many for `memory`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(500, 4))
        >>> found = layer_spectrum((x, np.arange(500) % 2))
        >>> round(found.effective_rank), found.components(0.9)
        (4, 4)
    """
    blocks, settings = as_blocks(rows), settings_of(standardize, moments_cache, **computing)
    needed = 8 * MATRICES * blocks.n_features**2
    if needed > settings.memory:
        raise MemoryBudgetError(
            f"the spectrum of {blocks.n_features:,} features takes {text(needed)}, and "
            f"{text(settings.memory)} of memory is granted: grant more, or take a narrower layer"
        )
    with own_settings():
        return spectrum_of(cached_moments(blocks, settings), standardize)


def spectrum_of(total: Moments, standardize: bool = True) -> Spectrum:
    """Return the spectrum of the covariance, and what features repeat each other.

    Arguments:
        total: moments of the rows.
        standardize: take the spectrum of the correlation matrix, the features as probes see
            them; otherwise of the covariance of the features as they are. Correlations, dead
            features and duplicates are the same either way.

    Example:
        >>> from featstore.probe.rows import ArrayBlocks
        >>> from featstore.probe.moments import moments
        >>> from featstore.probe.memory import Settings
        >>> a, b = np.array([1.0, 1, -1, -1]), np.array([1.0, -1, 1, -1])
        >>> features = np.stack([a, b, -2 * a, 0 * a], 1)
        >>> found = spectrum_of(moments(ArrayBlocks(features, [0, 1, 0, 1]), Settings()))
        >>> found.eigenvalues.round(6).tolist(), found.dead.tolist(), found.duplicates.tolist()
        ([2.0, 1.0, 0.0, 0.0], [3], [[2, 0]])
        >>> round(found.participation_ratio, 6)
        1.8
    """
    correlation = total.covariance()
    matrix = correlation if standardize else total.covariance(False)
    live = total.variance > 0
    return Spectrum(
        _eigenvalues(matrix, total.precision),
        _mean_absolute(correlation, int(live.sum())),
        np.flatnonzero(~live),
        _duplicates(np.abs(correlation), total.precision),
    )


def _eigenvalues(matrix: np.ndarray, precision: str) -> np.ndarray:
    """Return eigenvalues (D,), falling, with 0 for those that rounding of the products makes."""
    values = np.linalg.eigvalsh(matrix)[::-1]
    # errors of entries, about eps each and independent, have eigenvalues of about sqrt(D) eps;
    # the square root in the effective rank would make much of them
    noise = np.finfo(precision).eps * math.sqrt(len(values)) * max(values[0], 0.0)
    return np.where(values > noise, values, 0.0)


def _mean_absolute(correlation: np.ndarray, n_live: int) -> float:
    if n_live < 2:
        return float("nan")
    # rows of dead features are 0, and the diagonal of live ones is 1
    off = np.abs(correlation).sum() - np.trace(correlation)
    return float(off / (n_live * (n_live - 1)))


def _duplicates(absolute: np.ndarray, precision: str) -> np.ndarray:
    earlier = np.tril(absolute > 1 - SAME[precision], -1)
    copies = np.flatnonzero(earlier.any(1))
    return np.stack([copies, earlier[copies].argmax(1)], 1)

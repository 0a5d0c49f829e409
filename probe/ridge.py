"""Ridge probes in closed form: least squares on one-hot labels, or on numbers to be predicted."""

from collections.abc import Sequence

from probe.axes import Axes
from probe.basis import Frame
from probe.blocks import RowBlocks
from probe.chains import Chain
from probe.moments import Moments
from probe.moments_cache import cached_moments
from probe.prefixes import Normal, PrefixFit, refined
from probe.settings import Settings


def fit(
    train: RowBlocks, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> PrefixFit:
    """Return every ridge probe, the minimisers of mean ||y - W'x - b||^2 / 2 + (l2/2) ||W||^2.

    Here x are the centred, scaled features of the probe's prefix and y its one-hot label, or the
    numbers to be predicted, so that W = (G_kk/N + l2 I)^-1 B_k/N and b is the mean of y.
    Scikit-learn's `Ridge(alpha=N * l2)` on
    the same x and y has the same solution.

    Raises:
        DataError: train cannot be probed.
        MemoryBudgetError: not even one system fits into `settings.memory`.
    """
    return from_moments(cached_moments(train, settings), chains, penalties, settings)


def from_moments(
    train: Moments, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> PrefixFit:
    """Return every ridge probe of rows of which only the moments are known."""
    return PrefixFit(Axes(tuple(chains), tuple(penalties)), equations(train, settings), settings)


def equations(train: Moments, settings: Settings) -> Normal:
    """Return (X'X/N + l2 I) W = X'(Y - mean Y)/N of the centred, scaled features."""
    standardize = settings.standardize
    return train.once(("ridge", standardize), lambda: _equations(train, standardize))


def _equations(train: Moments, standardize: bool) -> Normal:
    return Normal(
        matrix=train.covariance(standardize),
        right=train.cross(standardize),
        start=train.priors,
        mean=train.mean,
        scale=train.scale(standardize),
        n_rows=train.n,
        counts=train.class_counts,
        frame=Frame(len(train.sums), lambda: train, standardize),
        of_covariance=True,
        precision=train.precision,
        squares=train.squares(standardize),
        products=train.products,
        refined=lambda: refined(train, lambda better: _equations(better, standardize)),
    )

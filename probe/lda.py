"""Linear discriminant analysis: a Gaussian for each class, all with one covariance."""

from collections.abc import Sequence

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, to_host
from probe.axes import Axes
from probe.basis import Frame
from probe.batches import Batch
from probe.blocks import RowBlocks
from probe.chains import Chain
from probe.metrics import Scores
from probe.moments import Moments
from probe.moments_cache import cached_moments
from probe.prefixes import Normal, PrefixFit
from probe.settings import Settings
from probe.weights import Weights


def fit(
    train: RowBlocks, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "LdaFit":
    """Return every probe whose logits are the log-densities of classes, up to a common term.

    With m_c the class means and S the pooled covariance within classes (divisor N) of the centred,
    scaled features of a prefix, A = S + l2 I, and q_c the share of class c among the train rows,

        logits_c = x' A^-1 m_c - m_c' A^-1 m_c / 2 + log q_c.

    A class without train rows has the logit -inf. For l2 = 0 these are the decision values of
    scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr")` up to a term common to all classes.
    Its `shrinkage=s` stands for (1 - s) S + s t I, where t is the mean variance within classes
    over the features: that is (1 - s) A with l2 = s t / (1 - s), so that its decision values
    without log q_c are ours divided by 1 - s.

    Raises:
        DataError: train cannot be probed.
        MemoryBudgetError: not even one system fits into `settings.memory`.

    Reference:
        Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", section 4.3.
    """
    return from_moments(cached_moments(train, settings), chains, penalties, settings)


def from_moments(
    train: Moments, chains: Sequence[Chain], penalties: Sequence[float], settings: Settings
) -> "LdaFit":
    """Return every LDA probe of rows of which only the moments are known."""
    standardize = settings.standardize
    normal = train.once(("lda", standardize), lambda: _equations(train, standardize))
    return LdaFit(Axes(tuple(chains), tuple(penalties)), normal, settings)


def _equations(train: Moments, standardize: bool) -> Normal:
    cross = train.cross(standardize)
    means = cross / np.where(train.counts > 0, train.priors, 1.0)
    return Normal(
        # what varies is what varies within the classes and what varies between their means
        matrix=train.covariance(standardize) - cross @ means.T,
        right=means,
        start=np.zeros(len(train.counts)),
        mean=train.mean,
        scale=train.scale(standardize),
        n_rows=train.n,
        counts=train.counts,
        frame=Frame(len(train.sums), lambda: train, standardize),
        precision=train.precision,
    )


class LdaFit(PrefixFit):
    """LDA probes of all chains and penalties.

    With z = L^-1 M the quadratic term of a prefix, m_c' A^-1 m_c = sum_{j<=k} z_jc^2, is a running
    sum as the logits are.

    Attributes:
        offsets: float64 (P, C), log q_c - m_c' A^-1 m_c / 2 of each probe.
    """

    def __init__(self, axes: Axes, normal: Normal, settings: Settings):
        with np.errstate(divide="ignore"):
            log_priors = np.log(normal.counts / normal.counts.sum())
        self._log_priors = log_priors
        self.offsets = np.empty((len(axes), len(log_priors)))
        super().__init__(axes, normal, settings)

    def seen(self, batch: Batch, z: Array) -> None:
        """Sum the squares of z up to each prefix."""
        xp = array_namespace(z)
        squares, done = 0.0, 0
        for prefix, size in enumerate(batch.sizes):
            squares = squares + to_host(xp.sum(z[:, done:size] ** 2, axis=1))
            probes = [self.axes.prefixes(*system)[prefix] for system in batch.systems]
            self.offsets[probes] = self._log_priors - squares / 2
            done = size

    def score(self, test: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every test row to `scores`."""
        super().score(test, _Offset(scores, self.offsets))

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        linear = super().weights(probe)
        coef, intercept = linear.standardized
        return Weights.from_standardized(
            linear.features, coef, intercept + self.offsets[probe], linear.mean, linear.scale
        )


class _Offset:
    """Scores of logits to which each probe's offsets are still to be added."""

    def __init__(self, scores: Scores, offsets: np.ndarray):
        self.finish = scores.finish
        self._scores, self._offsets = scores, offsets

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        xp = array_namespace(logits)
        offsets = xp.asarray(self._offsets[probes, None], dtype=logits.dtype, device=logits.device)
        self._scores.add(probes, logits + offsets, labels)

"""Orders of features by what train rows say of them, from moments alone."""

import numpy as np

from probe.errors import UsageError
from probe.greedy import greedy_order
from probe.moments import Moments
from probe.settings import Progress, silent

OF_LABELS = ("fisher", "greedy")
"""The orders that labels decide about."""

ORDERS = ("variance", *OF_LABELS)
"""The names of the orders that come from train rows."""


def ranked(
    name: str,
    train: Moments,
    count: int,
    standardize: bool = True,
    progress: Progress = silent,
) -> np.ndarray:
    """Return at least the first `count` features of an order, int64.

    Arguments:
        name: one of `ORDERS`.
        train: moments of the rows that the order is to come from.
        count: features that are needed.
        standardize: as for probes.
        progress: callback.

    Raises:
        UsageError: the labels are numbers, and the order is by Fisher score.
    """
    if name == "greedy":
        return greedy_order(train, count, standardize, progress=progress)
    return by_fisher(train) if name == "fisher" else by_variance(train)


def by_variance(train: Moments) -> np.ndarray:
    """Return the features by falling variance in their own units, int64 (D,); of equals the first.

    Features that never change are last.
    """
    return _falling(train.variance)


def by_fisher(train: Moments) -> np.ndarray:
    """Return the features by falling Fisher score, int64 (D,); of equals the first.

    Raises:
        UsageError: the labels are numbers.
    """
    if not len(train.class_counts):
        raise UsageError(
            "mode fisher compares the variance between classes with that within them, and these "
            "labels are numbers: take mode greedy, or variance"
        )
    return _falling(fisher_scores(train))


def fisher_scores(train: Moments) -> np.ndarray:
    """Return the variance between classes over that within them, float64 (D,).

        F_j = sum_c n_c (m_cj - m_j)^2 / sum_c sum_{i in c} (x_ij - m_cj)^2

    It rises with the F statistic of an analysis of variance, F_j (N - C) / (C - 1). Features that
    never change have 0, those that never change within a class infinity.

    Reference:
        Gu, Li, Han, "Generalized Fisher score for feature selection", UAI 2011, equation 2.
    """
    counts = np.maximum(train.counts, 1)
    means = train.class_sums / counts - train.offset[:, None]
    between = (means**2) @ train.counts / train.n
    total = train.variance
    within = total - np.minimum(between, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, between / within, 0.0)


def _falling(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")

"""Forward selection of features by the gain of the ridge objective, from moments alone."""

import numpy as np

from probe.moments import Moments
from probe.settings import Progress, silent

L2 = 1e-3
"""The penalty that features are selected with, whatever the probes' own."""

REPORTED = 64


def greedy_order(
    train: Moments, count: int, standardize: bool = True, l2: float = L2,
    progress: Progress = silent,
) -> np.ndarray:  # fmt: skip
    """Return the first `count` features of forward selection, int64 (count,).

    Each is the one whose addition lowers the minimum of the ridge objective on the features before
    the most. With A = X'X/N + l2 I and B = X'Y/N of the centred, scaled features, that minimum on
    the features S is a constant less tr(B_S' A_SS^-1 B_S) / 2, and feature j adds to that trace

        |r_j|^2 / d_j,   r_j = B_j - A_jS A_SS^-1 B_S,   d_j = A_jj - A_jS A_SS^-1 A_Sj.

    r and d are what a Cholesky factorisation that takes its pivots in this order leaves of B and of
    the diagonal of A: O(D K (K + C)) operations for K features, and K columns of D numbers beside
    the moments. Of equal gains the first feature is taken.

    Arguments:
        train: moments of train rows, of classes or of targets.
        count: K, at most D.
        standardize: as for probes.
        l2: penalty.
        progress: callback.

    Reference:
        Chen, Cowan, Grant, "Orthogonal least squares learning algorithm for radial basis function
        networks", IEEE Transactions on Neural Networks 1991; here with a penalty.
    """
    matrix = train.covariance(standardize)
    matrix[np.diag_indices(len(matrix))] += l2
    residual = train.cross(standardize)  # r
    diagonal = np.diagonal(matrix).copy()  # d
    factor = np.empty((count, len(matrix)))  # a row a step: L' of the columns taken
    order = np.empty(count, np.int64)
    taken = np.zeros(len(matrix), bool)
    for step in range(count):
        gain = np.where(taken, -1.0, (residual**2).sum(1) / np.where(taken, 1.0, diagonal))
        best = order[step] = int(gain.argmax())
        taken[best] = True
        root = np.sqrt(diagonal[best])
        column = (matrix[best] - factor[:step, best] @ factor[:step]) / root
        factor[step] = column
        residual -= np.outer(column, residual[best] / root)
        # rounding may carry what is left of a duplicate below the penalty that it must keep
        diagonal = np.maximum(diagonal - column**2, np.finfo(float).tiny)
        if step % REPORTED == 0 or step + 1 == count:
            progress("features", step + 1, count)
    return order

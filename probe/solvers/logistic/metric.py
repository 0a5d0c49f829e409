"""The variables in which softmax probes are well scaled, and what they are learnt from."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import Array, add_upper, factorise, mirror, solve_lower, taken
from featstore.probe.solvers.logistic.products import Sheet
from featstore.probe.subsets import Segment

# least curvature that the metric may have, as a share of a feature's own. In directions that no row
# reaches (more features than rows) a smaller one lets rounding grow, and costs ten times the steps;
# real features take as many steps as without a floor
_FLOOR = 2e-2
# least curvature that the bound may have: what products of float32, or float64, can tell from none
LEAST = {"float32": 1e-7, "float64": 1e-13}
# penalties above this leave no weight that a float32 could hold beside the intercept
LARGEST = 1e30


class Metric:
    """The change of variables V = L_k' W, with the factor L of a bound or guess of the curvature.

    The leading block of L is the factor of the leading block of A = L L', and a prefix's
    coefficients are zero beyond its features, so that one triangle serves all prefixes of a chain:
    W = L^-T V, and the gradient in V is L^-1 times that in W.

    Arguments:
        lower: float64 (1 + m, 1 + m), L, of the intercept and the chain's features in its order.
        dtype: "float32" or "float64", of the vectors to be changed.
    """

    def __init__(self, lower: Array, dtype: str):
        xp = array_namespace(lower)
        self.lower = lower
        identity = xp.eye(len(lower), dtype=xp.float64, device=lower.device)
        self.inverse = xp.astype(solve_lower(lower[None], identity[None])[0], getattr(xp, dtype))

    def gradient(self, gradient: Array, cuts: Sequence[Segment]) -> Array:
        """Return L^-1 G for gradients G (P, C, 1 + m) in W of the prefixes that `cuts` cuts.

        Arguments:
            gradient: (P, C, 1 + m); what lies beyond a prefix is ignored.
            cuts: `segments` of the P prefix sizes, the constant included.
        """
        probes, classes, size = gradient.shape
        xp = array_namespace(gradient)
        rows = xp.reshape(gradient, (probes * classes, size))
        out = xp.zeros_like(rows)
        for cut in cuts:
            reach, span = slice(cut.first * classes, None), slice(cut.start, cut.stop)
            out[reach, span] = rows[reach, : cut.stop] @ self.inverse[span, : cut.stop].T
        return xp.reshape(out, gradient.shape)

    def coefficients(self, variables: Array, cuts: Sequence[Segment]) -> Array:
        """Return W = L^-T V for V (P, C, 1 + m) that is zero beyond each prefix."""
        probes, classes, size = variables.shape
        xp = array_namespace(variables)
        rows = xp.reshape(variables, (probes * classes, size))
        out, stop = xp.zeros_like(rows), cuts[-1].stop
        for cut in cuts:
            reach, span = slice(cut.first * classes, None), slice(cut.start, cut.stop)
            beyond = slice(cut.start, stop)
            out[reach, span] = rows[reach, beyond] @ self.inverse[beyond, span]
        return xp.reshape(out, variables.shape)

    def variables(self, coefficients: Array) -> Array:
        """Return V = L_k' W, float64, for W (..., 1 + m), zero beyond each prefix."""
        xp, stop = array_namespace(coefficients), min(coefficients.shape[-1], len(self.lower))
        out = xp.zeros_like(coefficients, dtype=xp.float64)
        wide = xp.astype(coefficients[..., :stop], xp.float64)
        out[..., :stop] = wide @ self.lower[:stop, :stop]
        return out

    def restored(self, gradient: Array) -> Array:
        """Return G = L_k V, float64, for gradients V (..., 1 + m) as from `gradient`.

        What lies beyond a prefix is garbage.
        """
        xp, stop = array_namespace(gradient), min(gradient.shape[-1], len(self.lower))
        out = xp.zeros_like(gradient, dtype=xp.float64)
        wide = xp.astype(gradient[..., :stop], xp.float64)
        out[..., :stop] = wide @ self.lower[:stop, :stop].T
        return out


class Whitening(Metric):
    """The metric of a bound, in which no step that is as long as its gradient is too long.

    For C classes the Hessian of the mean cross-entropy plus (l2/2) ||W||^2 is at most

        (1/2) (I - 11'/C) (x) X'X/N + l2 I   <=   I (x) A,   A = X'X/(2N) + l2 I = L L'.

    In V the curvature is thus at most 1, whatever the features. The intercept stands before the
    features, with its own bound 1/2.

    Steps are taken in an A whose diagonal is at least a little of each feature's own curvature.
    That hides directions in which features hardly differ, so that `decrement` asks the A without
    it.

    Arguments:
        correlation: float64 (m, m), X'X/N of the chain's features, in its order, of variance 1 or,
            where they never change, 0.
        penalty: float64 (m,), l2 of each of these features.
        dtype: "float32" or "float64", of the vectors to be changed.

    Reference:
        Boehning, "Multinomial logistic regression algorithm", Ann. Inst. Stat. Math. 1992.
    """

    def __init__(self, correlation: Array, penalty: Array, dtype: str):
        xp = array_namespace(correlation)
        self.penalty, self.dtype, self._half = penalty, dtype, correlation / 2
        size = len(correlation)
        lower = xp.zeros((1 + size, 1 + size), dtype=xp.float64, device=correlation.device)
        lower[0, 0] = 0.5**0.5
        lower[1:, 1:] = _factor(correlation / 2, xp.clip(penalty, _FLOOR / 2, LARGEST))
        super().__init__(lower, dtype)

    @cached_property
    def _bound(self) -> Array:
        """The factor of A, float64 (m, m), which the ends of runs alone ask for."""
        half, self._half = self._half, None
        xp = array_namespace(half)
        return _factor(half, xp.clip(self.penalty, LEAST[self.dtype], LARGEST))

    def decrement(self, gradient: Array) -> float:
        """Return g'A^-1 g for a gradient (C, 1 + k) in W of one prefix, all in float64.

        No metric that a run has learnt is in it, and no scale of a feature changes it. It is at
        most g'H^-1 g with the Hessian H, since H is at most A.
        """
        xp, size = array_namespace(gradient), gradient.shape[1] - 1
        own = xp.astype(gradient, xp.float64)
        turned = solve_lower(self._bound[None, :size, :size], own[:, 1:].T[None])
        return float(2 * xp.sum(own[:, 0] ** 2) + xp.sum(turned * turned))


def _factor(matrix: Array, spare: Array) -> Array:
    """Return the factor L of A = matrix + diag(spare), lower, float64 (m, m); A is overwritten.

    A is brought to a diagonal of 1 meanwhile, so that features of other scales lose no digits.
    """
    xp = array_namespace(matrix)
    diagonal = xp.reshape(matrix, (-1,))[:: len(matrix) + 1]
    diagonal += spare
    deviation = xp.sqrt(diagonal)
    matrix /= deviation
    matrix /= deviation[:, None]
    return factorise(matrix[None]).lower[0] * deviation[:, None]


# the least curvature of a direction between classes, as a share of their mean
_LEAST_CLASS = 1e-3


def class_metric(moments: np.ndarray, spare: float) -> tuple[np.ndarray, np.ndarray]:
    """Return S and its inverse, float64 (P, C, C), of the metrics S^2 between classes.

    S^2 is the square root of B + spare I, over its least value, so that a curvature that was at
    most 1 in I stays so. The direction in which all classes rise together has none where rows have
    one class each; there S is 1. B itself is the mean of what rows differ in: it saved a few more
    steps on some layers, and where some classes were rare and fitted perfectly it cost a quarter.

    Arguments:
        moments: float64 (P, C, C), B.
        spare: added to each curvature.

    Example:
        >>> to, back = class_metric(np.array([[[0.3, -0.3], [-0.3, 0.3]]]), 0.0)
        >>> np.allclose(to, np.eye(2)), np.allclose(back, np.eye(2))
        (True, True)
    """
    values, vectors = np.linalg.eigh(moments)
    classes = values.shape[1]
    mean = np.maximum(values.mean(1, keepdims=True), np.finfo(np.float64).tiny)
    curvature = np.maximum(values, _LEAST_CLASS * mean) + spare
    common = np.abs(vectors.sum(1)) > 0.5 * classes**0.5
    common &= values < _LEAST_CLASS * mean
    least = np.where(common, np.inf, curvature).min(1, keepdims=True)
    root = np.where(common, 1.0, (curvature / least) ** 0.25)
    turned = np.swapaxes(vectors, 1, 2)
    return (vectors * root[:, None]) @ turned, (vectors / root[:, None]) @ turned


class BetweenClasses:
    """Second moments of the residuals between classes, from which a metric B (x) A is made.

    The Hessian is the mean over rows of M (x) xx', M = diag(p) - pp', and B is to be the mean of M.
    Where a probe is right about how sure it is, the second moments of its residuals are that.

    Arguments:
        sheet: the P probes.
        there: an array of the device and array library in use.
    """

    def __init__(self, sheet: Sheet, there: Array):
        xp, classes = array_namespace(there), sheet.n_classes
        shape = (len(sheet), classes, classes)
        self.totals = [xp.zeros(shape, dtype=xp.float64, device=there.device)]

    def see(self, tile: Array, residuals: Array) -> None:
        """Add the residuals (P, C, r) of a tile."""
        xp = array_namespace(residuals)
        self.totals[0] += residuals @ xp.permute_dims(residuals, (0, 2, 1))


class Weighted:
    """The Hessian of probes of two classes, of the largest prefix of each chain.

    Between two classes M = p (1 - p) [1 -1; -1 1], with eigenvalues 0 and 2 p (1 - p), so that the
    Hessian is I (x) A, A = X' diag(2 p (1 - p)) X / N + l2 I, where both classes move against each
    other, which is where gradients lie. A residual has the size 1 - p of the label, whatever that
    is.

    Arguments:
        sheet: the P probes.
        there: an array of the device and array library in use.
    """

    def __init__(self, sheet: Sheet, there: Array):
        xp, self._sheet = array_namespace(there), sheet
        sizes = [span.sizes[-1] for span in sheet.spans]
        self.totals = [
            xp.zeros((size, size), dtype=xp.float64, device=there.device) for size in sizes
        ]

    def see(self, tile: Array, residuals: Array) -> None:
        """Add the rows of a tile (1 + D, r), weighted by their residuals (P, C, r)."""
        xp = array_namespace(tile)
        for span, total in zip(self._sheet.spans, self.totals, strict=True):
            away = xp.abs(residuals[span.probes.stop - 1, 0])
            rows = taken(tile, span.order[: len(total)])
            # of rows that are all wrong rounding makes a little more than 1
            rows *= xp.sqrt(2 * away * xp.clip(1 - away, 0, 1))
            add_upper(total, rows.T, len(total))

    def metrics(self, n_rows: int, bounds: Mapping[int, Whitening]) -> dict[int, Metric]:
        """Return by number of the chain its metric, with the penalties that its bound has."""
        found = {}
        for span, total in zip(self._sheet.spans, self.totals, strict=True):
            xp, bound = array_namespace(total), bounds[span.chain]
            tiny = LEAST[bound.dtype]
            mirror(total)
            total /= n_rows
            # no direction less curved than a small share of what a feature of variance 1 has
            least = max(_FLOOR * float(total[0, 0]), tiny)
            spare = xp.clip(bound.penalty[: len(total) - 1], least, LARGEST)
            spare = xp.concat([xp.zeros_like(spare[:1]) + tiny, spare])
            found[span.chain] = Metric(_factor(total, spare), bound.dtype)
        return found

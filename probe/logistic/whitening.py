"""A metric for softmax regression: Boehning's bound on its curvature, factored once a chain."""

from collections.abc import Sequence

from array_api_compat import array_namespace

from probe.arrays import Array, solve_lower
from probe.factor import factorise
from probe.segments import Segment

# least curvature that the metric may have, as a share of a feature's own. In directions that no row
# reaches (more features than rows) a smaller one lets rounding grow, and costs ten times the steps;
# real features take as many steps as without a floor
FLOOR = 2e-2
# least curvature that the bound may have: what products of float32, or float64, can tell from none
LEAST = {"float32": 1e-7, "float64": 1e-13}
# penalties above this leave no weight that a float32 could hold beside the intercept
LARGEST = 1e30


class Whitening:
    """The change of variables V = L_k' W in which all prefixes of a chain are well scaled.

    For C classes the Hessian of the mean cross-entropy plus (l2/2) ||W||^2 is at most

        (1/2) (I - 11'/C) (x) X'X/N + l2 I   <=   I (x) A,   A = X'X/(2N) + l2 I = L L'.

    In V the curvature is thus at most 1, whatever the features. The leading block of L is the
    factor of the leading block of A, and a prefix's coefficients are zero beyond its features, so
    one triangle serves all prefixes: W = L^-T V, and the gradient in V is L^-1 times that in W.
    The intercept stands before the features, with its own bound 1/2.

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
        self.penalty = penalty
        self._bound = _factor(correlation, xp.clip(penalty, LEAST[dtype], LARGEST))
        self.lower = _factor(correlation, xp.clip(penalty, FLOOR / 2, LARGEST))
        size = len(correlation)
        identity = xp.eye(size, dtype=xp.float64, device=correlation.device)
        inverse = solve_lower(self.lower[None], identity[None])[0]
        self.inverse = xp.zeros((1 + size, 1 + size), dtype=getattr(xp, dtype),
                                device=correlation.device)  # fmt: skip
        self.inverse[0, 0] = 2**0.5
        self.inverse[1:, 1:] = xp.astype(inverse, getattr(xp, dtype))

    def decrement(self, gradient: Array) -> float:
        """Return g'A^-1 g for a gradient (C, 1 + k) in W of one prefix, all in float64.

        No metric that a run has learnt is in it, and no scale of a feature changes it. It is at
        most g'H^-1 g with the Hessian H, since H is at most A.
        """
        xp, size = array_namespace(gradient), gradient.shape[1] - 1
        own = xp.astype(gradient, xp.float64)
        turned = solve_lower(self._bound[None, :size, :size], own[:, 1:].T[None])
        return float(2 * xp.sum(own[:, 0] ** 2) + xp.sum(turned * turned))

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
        """Return V = L_k' W, float64, for W (P, C, 1 + m), float64, zero beyond each prefix."""
        xp = array_namespace(coefficients)
        out = xp.zeros_like(coefficients)
        stop = min(coefficients.shape[2], 1 + len(self.lower))
        out[..., 0] = coefficients[..., 0] / 2**0.5
        out[..., 1:stop] = coefficients[..., 1:stop] @ self.lower[: stop - 1, : stop - 1]
        return out


def _factor(correlation: Array, spare: Array) -> Array:
    """Return the factor L of A = correlation / 2 + diag(spare), lower, float64 (m, m).

    A is brought to a diagonal of 1 meanwhile, so that features of other scales lose no digits.
    """
    xp = array_namespace(correlation)
    matrix = correlation / 2
    diagonal = xp.reshape(matrix, (-1,))[:: len(matrix) + 1]
    diagonal += spare
    deviation = xp.sqrt(diagonal)
    matrix /= deviation
    matrix /= deviation[:, None]
    return factorise(matrix[None]).lower[0] * deviation[:, None]

"""Logits of a few prefixes of a chain by their coefficients: cheaper than forward substitution."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from probe.arrays import Array, solve_lower


@dataclass(frozen=True)
class Direct:
    """Coefficients of every prefix of S systems.

    Attributes:
        order: (S, m) int64, the features of each system.
        coefficients: one (S, k, C) for each prefix, in the precision of the rows.
        priors: (C,), the intercept of every probe.
    """

    order: Array
    coefficients: tuple[Array, ...]
    priors: Array

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, logits (S, r, C)) for each prefix, smallest first.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: the prefix sizes.
        """
        xp = array_namespace(rows)
        systems, length = self.order.shape
        flat = xp.reshape(self.order, (-1,))
        x = xp.reshape(xp.take(rows, flat, axis=0), (systems, length, rows.shape[1]))
        for prefix, (size, coefficients) in enumerate(zip(sizes, self.coefficients, strict=True)):
            logits = xp.permute_dims(x[:, :size], (0, 2, 1)) @ coefficients
            logits += self.priors
            yield prefix, logits


def direct(
    order: Array, lower: Array, z: Array, priors: Array, sizes: Sequence[int], dtype: str
) -> Direct:
    """Return W_k = L_k^-T z_k of every prefix, for L (S, m, m) and z (S, m, C), in `dtype`."""
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    coefficients = tuple(
        xp.astype(solve_lower(lower[:, :k, :k], z[:, :k], transpose=True), rounded) for k in sizes
    )
    return Direct(order, coefficients, xp.astype(priors, rounded))


@dataclass(frozen=True)
class FoldedDirect:
    """Coefficients of every prefix of S systems on a basis, of all features.

    Attributes:
        coefficients: (S, D, P C), prefix by prefix, in the precision of the rows.
        priors: (C,), the intercept of every probe.
    """

    coefficients: Array
    priors: Array

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, logits (S, r, C)) for each prefix, smallest first, by one product."""
        together, classes = rows.T @ self.coefficients, len(self.priors)
        for prefix in range(len(sizes)):
            yield prefix, together[..., prefix * classes : (prefix + 1) * classes] + self.priors


def folded_direct(
    order: Array, lower: Array, z: Array, priors: Array, sizes: Sequence[int], dtype: str,
    found: Array,
) -> FoldedDirect:  # fmt: skip
    """Return R_k W_k of every prefix, for directions `found` (D, count), in `dtype`."""
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    columns = xp.stack([xp.take(found, one, axis=1) for one in order])
    parts = [
        xp.astype(
            columns[..., :k] @ solve_lower(lower[:, :k, :k], z[:, :k], transpose=True), rounded
        )
        for k in sizes
    ]
    return FoldedDirect(xp.concat(parts, axis=2), xp.astype(priors, rounded))


def folded_direct_is_cheaper(sizes: Sequence[int], n_classes: int, n_features: int) -> bool:
    """Return whether coefficients of all features take fewer multiplications a row.

    It is D C P for P prefixes, against D m for m directions and C m for the running sum.

    Example:
        >>> folded_direct_is_cheaper([20, 102, 204, 1945], 10, 2048)
        True
    """
    return n_classes * len(sizes) * n_features < sizes[-1] * (n_features + n_classes)


def direct_is_cheaper(sizes: Sequence[int], n_classes: int) -> bool:
    """Return whether coefficients take far fewer multiplications a row than substitution.

    By coefficients it is C sum(k); by substitution m^2 / 2 and C m for the running sum. Half of
    that is asked for, since the coefficients cost a back substitution each before any row.

    Example:
        >>> direct_is_cheaper([20, 102, 204, 2048], 10), direct_is_cheaper(range(10, 2048, 10), 10)
        (True, False)
    """
    length = sizes[-1]
    return n_classes * sum(sizes) < (length**2 / 2 + n_classes * length) / 2

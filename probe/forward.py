"""Logits of every prefix of a chain by forward substitution on the rows to be scored."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from probe.arrays import Array, add_product, solve_lower
from probe.budget import FORWARD_WIDTH


@dataclass(frozen=True)
class Forward:
    """L^-1, and z = L^-1 B, of S systems in the form in which they meet the rows.

    With L cut into strips of rows, t = L^-1 x is computed strip by strip as
    t_j = M_j x_j - M_j L_j,<j t_<j with M_j = L_jj^-1, so that each strip is one matrix product
    with [-M_j L_j,<j  M_j]. These strips, one below the other, are `eliminator`.

    Attributes:
        order: (S, m) int64, the features of each system.
        eliminator: (S, m, m), in the precision of the rows; zero right of the diagonal strips.
        targets: (S, m, C), z, in the precision of the rows.
        priors: (C,), the logits of a probe that sees no feature.
    """

    order: Array
    eliminator: Array
    targets: Array
    priors: Array

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, logits (S, r, C)) for each prefix, smallest first.

        The logits of the prefix of size k are priors + t[:k]' z[:k]: each prefix adds to the
        logits of the one before, in place.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: non-decreasing prefix sizes, at most m.
        """
        xp = array_namespace(rows)
        logits = xp.empty((len(self.order), rows.shape[1], len(self.priors)), **like(rows))
        logits[...] = self.priors
        for prefix, start, t in self.eliminated(rows, sizes):
            columns = xp.permute_dims(t, (0, 2, 1))
            add_product(logits, columns, self.targets[:, start : start + t.shape[1]])
            if prefix is not None:
                yield prefix, logits

    def eliminated(
        self, rows: Array, sizes: tuple[int, ...]
    ) -> Iterator[tuple[int | None, int, Array]]:
        """Yield t = L^-1 x strip by strip, cut where a prefix ends.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: non-decreasing prefix sizes, at most m.

        Yields:
            the prefix that ends with this piece, or None.
            the piece's first position in the chain.
            t, (S, n, r), n positions of it; n is 0 where two prefixes have the same size.
        """
        t = self._unsolved(rows)
        done = prefix = 0
        for strip in strips(t.shape[1]):
            t[:, strip] = self._solved(strip, t, rows)
            while prefix < len(sizes) and sizes[prefix] <= strip.stop:
                yield prefix, done, t[:, done : sizes[prefix]]
                done = sizes[prefix]
                prefix += 1
            if prefix < len(sizes):
                yield None, done, t[:, done : strip.stop]
                done = strip.stop

    def _unsolved(self, rows: Array) -> Array:
        """Return an array (S, m, r) for t, which holds the systems' own rows."""
        xp = array_namespace(rows)
        taken = xp.take(rows, xp.reshape(self.order, (-1,)), axis=0)
        return xp.reshape(taken, (*self.order.shape, rows.shape[1]))

    def _solved(self, strip: slice, t: Array, rows: Array) -> Array:
        """Return a strip of t, where those before it are solved."""
        return self.eliminator[:, strip, : strip.stop] @ t[:, : strip.stop]


class Folded(Forward):
    """The same for systems on a basis: L^-1 R' is `eliminator` (S, m, D), which meets rows as is.

    Rows are those of all features, in their order; `order` is of directions, and not looked at.
    """

    def _unsolved(self, rows: Array) -> Array:
        xp = array_namespace(rows)
        return xp.empty((*self.order.shape, rows.shape[1]), **like(rows))

    def _solved(self, strip: slice, t: Array, rows: Array) -> Array:
        return self.eliminator[:, strip] @ rows


def folded(order: Array, lower: Array, z: Array, priors: Array, dtype: str, found: Array) -> Folded:
    """Return systems with factor L (S, m, m) and z (S, m, C) of directions `found` (D, count)."""
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    rows = xp.stack([xp.take(found.T, one, axis=0) for one in order])
    eliminator = xp.astype(solve_lower(lower, rows), rounded)
    return Folded(order, eliminator, xp.astype(z, rounded), xp.astype(priors, rounded))


def forward(order: Array, lower: Array, z: Array, priors: Array, dtype: str) -> Forward:
    """Return the systems with factor L (S, m, m) and z (S, m, C), rounded to `dtype`.

    Diagonal blocks are inverted in float64, so that only the final rounding is felt.
    """
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    eliminator = xp.zeros(lower.shape, dtype=rounded, device=lower.device)
    for strip in strips(lower.shape[-1]):
        before = slice(0, strip.start)
        corner = lower[:, strip, strip]
        identity = xp.eye(corner.shape[-1], **like(lower))
        inverse = solve_lower(corner, xp.broadcast_to(identity, corner.shape))
        eliminator[:, strip, strip] = xp.astype(inverse, rounded)
        if strip.start:
            eliminator[:, strip, before] = xp.astype(-inverse @ lower[:, strip, before], rounded)
    return Forward(order, eliminator, xp.astype(z, rounded), xp.astype(priors, rounded))


def like(array: Array) -> dict[str, Any]:
    """Return the dtype and device of an array, to make another one with."""
    return {"dtype": array.dtype, "device": array.device}


def strips(length: int) -> list[slice]:
    """Return the ranges of rows that are eliminated at once."""
    starts = range(0, length, FORWARD_WIDTH)
    return [slice(start, min(length, start + FORWARD_WIDTH)) for start in starts]

"""Forward substitution: t = L^-1 x of many rows, and the running sums of logits along it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from array_api_compat import array_namespace

from featstore.probe.arrays import (
    FORWARD_WIDTH,
    Array,
    add_product,
    like,
    on_device,
    solve_lower,
    take_into,
)


class Room:
    """Memory that is used again and again, as large as was ever asked for."""

    def __init__(self):
        self._held: Array | None = None

    def of(self, shape: tuple[int, ...], beside: Array) -> Array:
        """Return an array of this shape, its numbers undefined, of the dtype and place of another.

        It is valid until the next one is asked for.
        """
        size = math.prod(shape)
        held = self._held
        if held is None or held.dtype != beside.dtype or len(held) < size:
            self._held = None
            self._held = array_namespace(beside).empty((size,), **like(beside))
        return array_namespace(beside).reshape(self._held[:size], shape)

    def clear(self) -> None:
        """Give the memory back."""
        self._held = None


@dataclass(frozen=True)
class Forward:
    """L^-1, and z = L^-1 B, of S systems in the form in which they meet the rows.

    With L cut into strips, t = L^-1 x comes about in the place of x, strip by strip: t_j is what
    is left of x_j times L_jj^-1. Of t_i, i <= j, what lies below is freed in squares as large as
    their number allows: after strip j of the 2^p last ones, where 2^p divides j, from as many
    below. Most operations are then in few, large products.

    Attributes:
        order: (S, m) int64, the features of each system.
        eliminator: (S, m, m), in the precision of the rows: below the diagonal strips -L, and in
            them the inverses of L's own.
        targets: (S, m, C), z, in the precision of the rows.
        priors: (C,), the logits of a probe that sees no feature.
        room: where t is, one for all systems whose turn comes one after another.
    """

    order: Array
    eliminator: Array
    targets: Array
    priors: Array
    room: Room

    def logits(self, rows: Array, sizes: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
        """Yield (prefix, logits (S, r, C)) for each prefix, smallest first.

        The logits of the prefix of size k are priors + t[:k]' z[:k]: each prefix adds to the
        logits of the one before, in place.

        Arguments:
            rows: (D, r), standardised features by rows to score.
            sizes: non-decreasing prefix sizes, at most m.
        """
        logits = logits_of(self.priors, len(self.order), rows)
        for prefix, start, t in self.eliminated(rows, sizes):
            add_logits(logits, t, self.targets[:, start : start + t.shape[1]])
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
        for strip in strips(t):
            self._solve(strip, t, rows)
            while prefix < len(sizes) and sizes[prefix] <= strip.stop:
                yield prefix, done, t[:, done : sizes[prefix]]
                done = sizes[prefix]
                prefix += 1
            if prefix < len(sizes):
                yield None, done, t[:, done : strip.stop]
                done = strip.stop

    def _unsolved(self, rows: Array) -> Array:
        """Return an array (S, m, r) for t, which holds the systems' own rows."""
        t = self.room.of((*self.order.shape, rows.shape[1]), rows)
        xp = array_namespace(rows)
        take_into(xp.reshape(t, (-1, t.shape[-1])), rows, xp.reshape(self.order, (-1,)))
        return t

    def _solve(self, strip: slice, t: Array, rows: Array) -> None:
        """Solve a strip of t, where those before it are solved."""
        t[:, strip] = self.eliminator[:, strip, strip] @ t[:, strip]
        if strip.stop < t.shape[1]:
            width = strip.stop - strip.start
            count = strip.stop // width
            side = (count & -count) * width
            below, solved = (slice(strip.stop + at, strip.stop + at + side) for at in (0, -side))
            add_product(t[:, below], self.eliminator[:, below, solved], t[:, solved])


class _Folded(Forward):
    """The same for systems on a basis: L^-1 R' is `eliminator` (S, m, D), which meets rows as is.

    Rows are those of all features, in their order; `order` is of directions, and not looked at.
    """

    def _unsolved(self, rows: Array) -> Array:
        return self.room.of((*self.order.shape, rows.shape[1]), rows)

    def _solve(self, strip: slice, t: Array, rows: Array) -> None:
        t[:, strip] = self.eliminator[:, strip] @ rows


def folded(
    order: Array, lower: Array, z: Array, priors: Array, dtype: str, found: Array, room: Room
) -> _Folded:
    """Return systems with factor L (S, m, m) and z (S, m, C) of directions `found` (D, count)."""
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    rows = xp.stack([xp.take(found.T, one, axis=0) for one in order])
    eliminator = xp.astype(solve_lower(lower, rows), rounded)
    return _Folded(order, eliminator, xp.astype(z, rounded), xp.astype(priors, rounded), room)


def forward(order: Array, lower: Array, z: Array, priors: Array, dtype: str, room: Room) -> Forward:
    """Return the systems with factor L (S, m, m) and z (S, m, C), rounded to `dtype`.

    Diagonal blocks are inverted in float64, so that only the final rounding is felt.
    """
    xp = array_namespace(lower)
    rounded = getattr(xp, dtype)
    eliminator = xp.astype(lower, rounded)
    eliminator *= -1
    for strip in strips(lower):
        corner = lower[:, strip, strip]
        identity = xp.eye(corner.shape[-1], **like(lower))
        # rounded as they are written
        eliminator[:, strip, strip] = solve_lower(corner, xp.broadcast_to(identity, corner.shape))
    return Forward(order, eliminator, xp.astype(z, rounded), xp.astype(priors, rounded), room)


def logits_of(priors: Array, systems: int, rows: Array) -> Array:
    """Return logits (S, r, C) of probes that see nothing of rows (D, r) yet.

    On a host those of a class are neighbours: a maximum over classes then takes rows side by side.
    """
    xp = array_namespace(rows)
    shape = (systems, rows.shape[1], len(priors))
    if on_device(rows):
        logits = xp.empty(shape, **like(rows))
    else:
        logits = xp.permute_dims(xp.empty((shape[0], shape[2], shape[1]), **like(rows)), (0, 2, 1))
    logits[...] = priors
    return logits


def add_logits(logits: Array, t: Array, coefficients: Array) -> None:
    """Add t'W to logits (S, r, C) as `logits_of` returns them, for t (S, n, r) and W (S, n, C)."""
    turned = partial(array_namespace(t).permute_dims, axes=(0, 2, 1))
    if on_device(t):
        add_product(logits, turned(t), coefficients)
    else:
        add_product(turned(logits), turned(coefficients), t)


def strips(t: Array) -> list[slice]:
    """Return the ranges of the rows of t (S, m, ...) that are eliminated at once."""
    width, length = FORWARD_WIDTH[on_device(t)], t.shape[1]
    return [slice(start, min(length, start + width)) for start in range(0, length, width)]

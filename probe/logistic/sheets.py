"""Coefficients of the probes of several chains, laid out for products with whole tiles of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, Backend, add_product, take_into
from probe.axes import Axes
from probe.chains import Chain
from probe.forward import like
from probe.segments import Segment, segments

# features and columns of a product below which it is too thin to run at full speed
LEAST_FEATURES = 128
THIN_COLUMNS = 128
# share of the features from which a few wasted zeros cost less than thin products
BROAD = 0.5


@dataclass(frozen=True)
class Span:
    """The probes of one chain in a sheet: neighbours, smallest prefix first.

    Attributes:
        chain: number of the chain.
        order: int64 (1 + m,), rows of a tile (1 + D, r) that the chain takes; the constant first.
        first: the sheet's first probe of this chain.
        sizes: rows that each probe sees, 1 + k, non-decreasing.
        cuts: `segments` of `sizes`.
    """

    chain: int
    order: Array
    first: int
    sizes: tuple[int, ...]
    cuts: tuple[Segment, ...]

    @property
    def probes(self) -> slice:
        """The sheet's probes of this chain."""
        return slice(self.first, self.first + len(self.sizes))


class Sheet:
    """P probes of chains of one length: arrays (P, C, 1 + m), zero beyond each probe's prefix.

    Every product with the rows is over a segment of a chain: all probes of the chain that reach
    it share the rows, so that thin products become wide ones and nearly no zero is multiplied.

    Attributes:
        numbers: int64 (P,), what the probes are called outside.
        sizes: int64 (P,), 1 + k of each.
        spans: the chains' shares of the probes.
        n_classes: C.
        length: 1 + m.
    """

    def __init__(
        self, chains: Sequence[Chain], members: np.ndarray, prefixes: np.ndarray,
        numbers: np.ndarray, n_features: int, n_classes: int, backend: Backend,
    ):  # fmt: skip
        self.numbers, self.n_classes = numbers, n_classes
        self._width = 1 + n_features
        self._buffers: list[Array] = []
        self._members, self._backend = members, backend
        self.sizes = np.array(
            [1 + chains[c].sizes[p] for c, p in zip(members, prefixes, strict=True)], np.int64
        )
        self.length = int(self.sizes.max())
        self._orders = {
            c: backend.put(np.append(0, 1 + chains[c].order[: chains[c].length]))
            for c in dict.fromkeys(members.tolist())
        }
        self._lay()

    def _lay(self) -> None:
        chains, starts = np.unique(self._members, return_index=True)
        self.spans = []
        for chain, first in sorted(zip(chains, starts, strict=True), key=lambda pair: pair[1]):
            sizes = tuple(self.sizes[self._members == chain].tolist())
            cuts = tuple(segments(sizes, LEAST_FEATURES))
            self.spans.append(Span(int(chain), self._orders[chain], int(first), sizes, cuts))
        seen = np.arange(self.length) < self.sizes[:, None]
        self.mask = self._backend.put(seen)[:, None, :]

    def keep(self, kept: np.ndarray) -> None:
        """Drop all but the probes in a mask, of which there is at least one."""
        self.numbers, self.sizes = self.numbers[kept], self.sizes[kept]
        self._members = self._members[kept]
        self._lay()

    def __len__(self) -> int:
        return len(self.numbers)

    def arranged(self, coefficients: Array) -> Array:
        """Return coefficients (P, C, 1 + m) in the form in which they meet rows: here, as is."""
        return coefficients

    def restored(self, gradient: Array) -> Array:
        """Return a gradient in the form of `arranged` as (P, C, 1 + m), garbage beyond prefixes."""
        return gradient

    def taken(self, tile: Array) -> list[Array]:
        """Return for each span the rows (1 + m, r) of a tile (1 + D, r) that its chain takes.

        They are buffers, which the next call overwrites.
        """
        lengths = [span.sizes[-1] for span in self.spans]
        if [tuple(b.shape) for b in self._buffers] != [(n, tile.shape[1]) for n in lengths]:
            xp = array_namespace(tile)
            self._buffers = [xp.empty((n, tile.shape[1]), **like(tile)) for n in lengths]
        for span, buffer in zip(self.spans, self._buffers, strict=True):
            take_into(buffer, tile, span.order[: span.sizes[-1]])
        return self._buffers

    def add_logits(self, arranged: Array, rows: list[Array], out: Array) -> None:
        """Add the logits of every probe to `out`.

        Arguments:
            arranged: coefficients as from `arranged`.
            rows: as from `taken`.
            out: (P, C, r).
        """
        weights, logits = flat(arranged), flat(out)
        for span, features in zip(self.spans, rows, strict=True):
            for cut, lines in self._products(span):
                part = slice(cut.start, cut.stop)
                add_product(logits[lines], weights[lines, part], features[part])

    def add_gradient(self, residuals: Array, rows: list[Array], total: Array) -> None:
        """Add the products of the residuals (P, C, r) with the rows to `total`, as `arranged`."""
        residual, gradient = flat(residuals), flat(total)
        for span, features in zip(self.spans, rows, strict=True):
            for cut, lines in self._products(span):
                part = slice(cut.start, cut.stop)
                add_product(gradient[lines, part], residual[lines], features[part].T)

    def _products(self, span: Span) -> list[tuple[Segment, slice]]:
        """Return each segment and the lines of flat arrays (P C, ...) that reach it."""
        stop = span.probes.stop * self.n_classes
        return [(cut, slice((span.first + cut.first) * self.n_classes, stop)) for cut in span.cuts]


class BroadSheet(Sheet):
    """Probes that see most features: one product with whole tiles, zeros and all.

    Of large prefixes few probes reach the last segments, so that those products would be thin.
    Together, over all features, they are wide, and no rows need to be taken.
    """

    def arranged(self, coefficients: Array) -> Array:
        """Return (P, C, 1 + D): coefficients in the features' own order, zero where unseen."""
        xp = array_namespace(coefficients)
        probes, classes, _ = coefficients.shape
        out = xp.zeros((probes, classes, self._width), **like(coefficients))
        for span in self.spans:
            own = span.order[: span.sizes[-1]]
            out[span.probes][:, :, own] = coefficients[span.probes][:, :, : len(own)]
        return out

    def restored(self, gradient: Array) -> Array:
        """Return (P, C, 1 + m) of a gradient (P, C, 1 + D) in the features' own order."""
        xp = array_namespace(gradient)
        shape = (len(self), self.n_classes, self.length)
        out = xp.zeros(shape, **like(gradient))
        for span in self.spans:
            own = span.order[: span.sizes[-1]]
            out[span.probes][:, :, : len(own)] = gradient[span.probes][:, :, own]
        return out

    def taken(self, tile: Array) -> list[Array]:
        """Return the tile itself."""
        return [tile]

    def add_logits(self, arranged: Array, rows: list[Array], out: Array) -> None:
        """Add the logits of every probe to `out` (P, C, r)."""
        add_product(flat(out), flat(arranged), rows[0])

    def add_gradient(self, residuals: Array, rows: list[Array], total: Array) -> None:
        """Add the products of the residuals (P, C, r) with the rows to `total` (P, C, 1 + D)."""
        add_product(flat(total), flat(residuals), rows[0].T)


def flat(array: Array) -> Array:
    """Return (P, C, n) as (P C, n), sharing memory."""
    return array_namespace(array).reshape(array, (-1, array.shape[2]))


def lay_out(
    axes: Axes, numbers: np.ndarray, n_features: int, n_classes: int, backend: Backend
) -> list[Sheet]:
    """Return sheets that hold these probes of `axes`, int64 (P,), each in exactly one.

    Broad probes share a sheet; the others are laid out by the largest prefix of their chain, so
    that little is padded.
    """
    chain, prefix, size = axes.chain, axes.prefix, axes.size
    numbers = numbers[np.lexsort((numbers, prefix[numbers], chain[numbers]))]
    broad = _broad(chain[numbers], size[numbers], n_features, n_classes)
    reach = np.zeros(len(axes.chains), np.int64)
    np.maximum.at(reach, chain[numbers][~broad], size[numbers][~broad])
    kinds = np.where(broad, 0, reach[chain[numbers]])
    sheets = []
    for kind in np.unique(kinds):
        own = numbers[kinds == kind]
        make = Sheet if kind else BroadSheet
        sheets.append(
            make(axes.chains, chain[own], prefix[own], own, n_features, n_classes, backend)
        )
    return sheets


def _broad(chain: np.ndarray, size: np.ndarray, n_features: int, n_classes: int) -> np.ndarray:
    large = size >= BROAD * n_features
    columns = n_classes * np.bincount(chain, weights=large)[chain]
    return (size == n_features) | (large & (columns < THIN_COLUMNS))

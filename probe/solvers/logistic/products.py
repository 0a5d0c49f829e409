"""The products of a pass: tiles of rows with sheets of weights, whitened."""

import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from array_api_compat import array_namespace

from featstore.probe.arrays import (
    Array,
    Backend,
    Precision,
    add_product,
    full_precision,
    like,
    on_device,
    reduced_precision,
    set_product,
    take_into,
    to_host,
)
from featstore.probe.errors import DeviceWarning
from featstore.probe.kernels import residuals
from featstore.probe.kernels.reference import residuals_of_labels
from featstore.probe.memory import all_sum
from featstore.probe.pieces import gathered
from featstore.probe.rows import RowBlocks
from featstore.probe.subsets import Axes, Chain, Segment, segments

# features and columns of a product below which it is too thin to run at full speed
_LEAST_FEATURES = 128
_LEAST_ON_DEVICE = 512
_THIN_COLUMNS = 128
# numbers of columns, and of features, for which gradients are better summed with features outermost
_FEW_COLUMNS, _LONG = (8, 40), 512
# share of the features from which a few wasted zeros cost less than thin products
_BROAD = 0.5


@dataclass(frozen=True)
class _Span:
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
        self,
        chains: Sequence[Chain],
        members: np.ndarray,
        prefixes: np.ndarray,
        numbers: np.ndarray,
        n_features: int,
        n_classes: int,
        backend: Backend,
    ):
        self.numbers, self.n_classes = numbers, n_classes
        self._width = 1 + n_features
        self._buffers: dict[int, Array] = {}
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
            there = self._backend.device == "cuda"
            cuts = tuple(segments(sizes, _LEAST_ON_DEVICE if there else _LEAST_FEATURES))
            self.spans.append(_Span(int(chain), self._orders[chain], int(first), sizes, cuts))
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

    def partial(self, arranged: Array) -> Array:
        """Return zeros, as `arranged`, to which gradients of tiles are added."""
        return array_namespace(arranged).zeros_like(arranged)

    def taken(self, tile: Array, kept: "TakenRows | None" = None, number: int = 0) -> list[Array]:
        """Return for each span the rows (1 + m, r) of a tile (1 + D, r) that its chain takes.

        They are buffers, which the next call overwrites, but for what `kept` has room for under the
        tile's number.
        """
        if kept is None:
            return [self._buffer(place, tile) for place in range(len(self.spans))]
        found = []
        for place, span in enumerate(self.spans):
            key, size = (number, span.chain), span.sizes[-1]
            rows = kept.find(key, size)
            found.append(kept.add(key, self._buffer(place, tile)) if rows is None else rows)
        return found

    def _buffer(self, place: int, tile: Array) -> Array:
        """Return the rows that the chain of a span takes, in the span's own buffer."""
        span = self.spans[place]
        shape = (span.sizes[-1], tile.shape[1])
        held = self._buffers.get(place)
        if held is None or tuple(held.shape) != shape:
            held = self._buffers[place] = array_namespace(tile).empty(shape, **like(tile))
        take_into(held, tile, span.order[: shape[0]])
        return held

    def set_logits(self, arranged: Array, rows: list[Array], out: Array) -> None:
        """Write the logits of every probe to `out`, which is 0 on a CPU and anything on a device.

        Arguments:
            arranged: coefficients as from `arranged`, or each of them `split`.
            rows: as from `taken`, or each of them `split`: times as many as `taken` has.
            out: (P, C, r).
        """
        weights, logits = flat(arranged), flat(out)
        for span, features in zip(self.spans, rows, strict=True):
            times = len(features) // span.sizes[-1]
            for cut, lines in self._products(span):
                part = slice(times * cut.start, times * cut.stop)
                # all probes of a chain reach the first segment
                write = set_product if cut.start == 0 and on_device(out) else add_product
                write(logits[lines], weights[lines, part], features[part])

    def add_gradient(self, residuals: Array, rows: list[Array], total: Array) -> None:
        """Add the products of the residuals (P, C, r) with the rows to `total`, as `arranged`."""
        residual, gradient = flat(residuals), flat(total)
        for span, features in zip(self.spans, rows, strict=True):
            for cut, lines in self._products(span):
                part = slice(cut.start, cut.stop)
                add_product(gradient[lines, part], residual[lines], features[part].T)

    def _products(self, span: _Span) -> list[tuple[Segment, slice]]:
        """Return each segment and the lines of flat arrays (P C, ...) that reach it."""
        stop = span.probes.stop * self.n_classes
        return [(cut, slice((span.first + cut.first) * self.n_classes, stop)) for cut in span.cuts]


class _BroadSheet(Sheet):
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

    def partial(self, arranged: Array) -> Array:
        """Return zeros (P, C, 1 + D), features outermost in memory where there are few columns.

        On a CPU 10 columns then take 0.6 of the time, and 30 of them 0.8; of 2, or 50, they would
        take more.
        """
        xp, (probes, classes, width) = array_namespace(arranged), arranged.shape
        few = _FEW_COLUMNS[0] <= probes * classes <= _FEW_COLUMNS[1]
        if on_device(arranged) or not few or width < _LONG:
            return super().partial(arranged)
        return xp.permute_dims(xp.zeros((width, probes, classes), **like(arranged)), (1, 2, 0))

    def taken(self, tile: Array, kept: "TakenRows | None" = None, number: int = 0) -> list[Array]:
        """Return the tile itself."""
        return [tile]

    def set_logits(self, arranged: Array, rows: list[Array], out: Array) -> None:
        """Write the logits of every probe to `out` (P, C, r), which is 0 on a CPU."""
        write = set_product if on_device(out) else add_product
        write(flat(out), flat(arranged), rows[0])

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
        make = Sheet if kind else _BroadSheet
        sheets.append(
            make(axes.chains, chain[own], prefix[own], own, n_features, n_classes, backend)
        )
    return sheets


def _broad(chain: np.ndarray, size: np.ndarray, n_features: int, n_classes: int) -> np.ndarray:
    large = size >= _BROAD * n_features
    columns = n_classes * np.bincount(chain, weights=large)[chain]
    return (size == n_features) | (large & (columns < _THIN_COLUMNS))


class TakenRows:
    """Rows that chains have taken of tiles, kept so that they are gathered once and not each pass.

    Arguments:
        room: bytes that they may occupy.
    """

    def __init__(self, room: int):
        self._room, self._held = room, {}

    def find(self, key: Hashable, count: int) -> Array | None:
        """Return the first `count` rows that are kept under a key; None where fewer are."""
        held = self._held.get(key)
        return None if held is None or len(held) < count else held[:count]

    def add(self, key: Hashable, rows: Array) -> Array:
        """Return a copy of rows that is kept, or the rows themselves where there is no room."""
        if key in self._held or rows.nbytes > self._room:
            return rows
        self._room -= rows.nbytes
        self._held[key] = array_namespace(rows).asarray(rows, copy=True)
        return self._held[key]


class Tiles:
    """The rows of a split as tiles (1 + D, r), features by rows behind a constant 1.

    The coefficient of the constant is the intercept. With rows innermost, taking the features of
    a chain copies whole vectors. Tiles are kept up to `kept_bytes`; what does not fit is read and
    standardised anew in each pass, so that a store larger than memory works.

    Arguments:
        blocks: where the rows come from.
        rows: rows of a tile; the last may have fewer.
        mean: float64 (D,), subtracted from each feature.
        scale: float64 (D,), by which it is divided.
        dtype: of the tiles, "float32" or "float64".
        backend: where they live.
        split: what to call the rows in errors.
        kept_bytes: bytes that tiles may occupy between passes.
        lookup: int64 (C,), what to call each label; None to leave labels as they are.
    """

    def __init__(
        self,
        blocks: RowBlocks,
        rows: int,
        mean: np.ndarray,
        scale: np.ndarray,
        dtype: str,
        backend: Backend,
        split: str,
        kept_bytes: int,
        lookup: np.ndarray | None = None,
    ):
        self.n_rows, self.n_features = blocks.n_rows, blocks.n_features
        self._blocks, self._rows, self._mean, self._scale = blocks, rows, mean, scale
        self._dtype, self._backend, self._split = dtype, backend, split
        self._lookup = None if lookup is None else backend.put(lookup)
        itemsize = 8 if dtype == "float64" else 4
        left = kept_bytes - itemsize * blocks.n_rows * (1 + blocks.n_features)
        self._kept: list[tuple[Array, Array]] | None = [] if left >= 0 else None
        # of a CPU's memory no more is taken than tiles need
        self._left = left if backend.device == "cuda" else 0
        self._taken: TakenRows | None = None

    @property
    def taken(self) -> "TakenRows | None":
        """Return where rows that chains have taken are kept between passes; None if they are not.

        On a device they are, in what the tiles have left of `kept_bytes`.
        """
        if self._taken is None and self._left > 0:
            self._taken = TakenRows(self._left)
        return self._taken

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """Yield tiles (1 + D, r) and their labels (r,); a tile is valid until the next.

        Raises:
            DataError: as `featstore.probe.pieces.gathered`.
        """
        if self._kept:
            yield from self._kept
            return
        kept = []
        for tile, labels in self._read():
            if self._kept is not None:
                kept.append((tile, labels))
            yield tile, labels
        if self._kept is not None:
            self._kept = kept

    def _read(self) -> Iterator[tuple[Array, Array]]:
        backend, width = self._backend, self.n_features
        tile = None
        for piece, labels in gathered(
            self._blocks,
            self._rows,
            backend,
            self._dtype,
            self._mean,
            self._split,
            scale=self._scale,
        ):
            if tile is None or self._kept is not None or tile.shape[1] != len(piece):
                tile = backend.empty((1 + width, len(piece)), self._dtype)
                tile[0] = 1
            tile[1:] = piece.T
            yield tile, labels if self._lookup is None else self._lookup[labels]


class Beholder(Protocol):
    """Something of the residuals of a sheet that is summed over rows in a pass.

    Attributes:
        totals: float64 sums so far.
    """

    totals: list[Array]

    def see(self, tile: Array, residuals: Array) -> None:
        """Add what a tile (1 + D, r) and its residuals (P, C, r) have."""


# tiles whose gradients are summed in the precision of the rows before they join the float64 sum
_SUMMED = 16


def losses_and_gradients(
    tiles: Tiles,
    sheets: Sequence[Sheet],
    coefficients: Sequence[Array],
    precision: Precision = full_precision,
    thrice: bool = False,
    beholders: "Sequence[Beholder | None]" = (),
) -> tuple[list[np.ndarray], list[Array]]:
    """Return each sheet's losses (P,) and their gradients (P, C, 1 + m), float64, summed over rows.

    Each tile is met once: its logits, their softmax, and the products of the residuals with it
    while all of that is in cache. The softmax is one step for all sheets. Of several processes
    each passes over its own rows; the sums are of all. Where each row has any number of labels, the
    loss of a probe is the sum of those of its labels, of which no coefficient is in two.

    Arguments:
        tiles: the rows; labels among the C classes of the sheets.
        sheets: the probes.
        coefficients: for each sheet (P, C, 1 + m).
        precision: of the products; losses and sums are in that of the rows, or float64, always.
        thrice: whether each product is made of three of `split` factors.
        beholders: for each sheet what looks at residuals too, or None; for none at all empty.
    """
    xp = array_namespace(coefficients[0])
    arranged = [sheet.arranged(w) for sheet, w in zip(sheets, coefficients, strict=True)]
    parts = [sheet.partial(array) for sheet, array in zip(sheets, arranged, strict=True)]
    totals = [xp.zeros_like(array, dtype=xp.float64) for array in arranged]
    bounds = np.cumsum([0, *map(len, sheets)]).tolist()
    places = [slice(*pair) for pair in pairwise(bounds)]
    losses = xp.zeros(bounds[-1], dtype=xp.float64, device=arranged[0].device)
    seeing = [pair for pair in zip(beholders, places, strict=False) if pair[0] is not None]
    logits, kept = None, tiles.taken
    if thrice:
        arranged = [split(array, low=2, inner=True).flatten(-2) for array in arranged]
    with precision():
        for number, (tile, labels) in enumerate(tiles, start=1):
            if logits is None or logits.shape[2] != tile.shape[1]:
                shape = (bounds[-1], sheets[0].n_classes, tile.shape[1])
                logits = xp.empty(shape, **like(tile))
            rows = [sheet.taken(tile, kept, number) for sheet in sheets]
            if thrice:
                # (n, 3, r): side by side along the features here, and along the rows below
                rows = [[split(array, low=1) for array in own] for own in rows]
                lines = [[array.flatten(0, 1) for array in own] for own in rows]
                rows = [[array.flatten(1) for array in own] for own in rows]
            set_logits(sheets, arranged, lines if thrice else rows, logits, places)
            losses += (residuals if labels.ndim == 1 else residuals_of_labels)(logits, labels)
            for beholder, place in seeing:
                beholder.see(tile, logits[place])
            for sheet, own, part, place in zip(sheets, rows, parts, places, strict=True):
                residual = split(logits[place], low=2).flatten(-2) if thrice else logits[place]
                sheet.add_gradient(residual, own, part)
            if number % _SUMMED == 0:
                _flush(parts, totals)
        _flush(parts, totals)
    all_sum(losses, *totals, *(total for one, _ in seeing for total in one.totals))
    host = to_host(losses)
    gradients = [sheet.restored(total) for sheet, total in zip(sheets, totals, strict=True)]
    return [host[place] for place in places], gradients


def set_logits(
    sheets: Sequence[Sheet],
    arranged: Sequence[Array],
    rows: Sequence[list[Array]],
    out: Array,
    places: Sequence[slice],
) -> None:
    """Write the logits of the sheets to `out` (all P, C, r), of the rows that each has taken."""
    if not on_device(out):
        out[...] = 0
    for sheet, own, weights, place in zip(sheets, rows, arranged, places, strict=True):
        sheet.set_logits(weights, own, out[place])


def split(array: Array, low: int, inner: bool = False) -> Array:
    """Return a factor x = h + l of a float32 product as three, h of TF32's 11 bits, l the rest.

    With [h h l] on the left (`low` 2) and [h' l' h'] on the right (`low` 1), side by side along
    what is summed over, one product of TF32 factors is h h' + h l' + l h', which lacks l l' alone.

    Arguments:
        array: float32 (..., n, m), torch's.
        low: which of the three is l.
        inner: whether the three of a number are neighbours, in (..., n, m, 3), and not of a line,
            in (..., n, 3, m).
    """
    high = (array.view(torch.int32) & ~0x1FFF).view(torch.float32)
    three = [high, high, high]
    three[low] = array - high
    return torch.stack(three, dim=-1 if inner else -2)


# relative error of a product that may stand for one of float32
_AS_GOOD = 1e-6


@cache
def thrice_serves(device: str) -> bool:
    """Return whether three TF32 products of `split` factors are as good as float32's on a device.

    They are tried once, against float64; where they are not so, one warning says it.
    """
    if torch.cuda.get_device_capability() < (8, 0):
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 4096, generator=generator).to("cuda") for _ in range(2))
    with reduced_precision():
        found = split(a, low=2).flatten(1) @ split(b, low=1).flatten(1).T
    known = a.to(torch.float64) @ b.to(torch.float64).T
    error = float(torch.linalg.vector_norm(found - known) / torch.linalg.vector_norm(known))
    if not error <= _AS_GOOD:
        warnings.warn(
            f"products of three TF32 ones are off by {error:.1e} on {device}: the last steps of "
            "fast softmax probes are of float32 products, more slowly",
            DeviceWarning,
            stacklevel=2,
        )
    return error <= _AS_GOOD


def _flush(parts: list[Array], totals: list[Array]) -> None:
    for part, total in zip(parts, totals, strict=True):
        total += part
        part[...] = 0


# Factors of 11 bits stand for coefficients W that are off by dW, where dW'H dW is about 1e-7 of the
# objective f: a gradient norm under some 3e-4 says nothing then, nor do differences of 1e-4 f
FAST_TOL = 1e-3
FAST_NOISE = 1e-4


@dataclass(frozen=True)
class Stage:
    """A stretch of the descent.

    Attributes:
        precision: of its products.
        least_tol: the smallest gradient norm that this precision can tell.
        noise: share of the objective under which differences of it say nothing; None for that of
            the numbers themselves.
        thrice: whether each product is made of three of `split` factors, which is full precision.
    """

    precision: Precision
    least_tol: float = 0.0
    noise: float | None = None
    thrice: bool = False


FULL = Stage(full_precision)
FAST = Stage(reduced_precision, FAST_TOL, FAST_NOISE)
THRICE = Stage(reduced_precision, thrice=True)


def stages(fast: bool, backend: Backend, dtype: str) -> tuple[Stage, ...]:
    """Return the stages; the last one, whose certificate is reported, is in full precision.

    Only float32 products of torch on a CUDA device can be rounded; elsewhere nothing changes. The
    last ones are of three rounded products each where the device shows that these are as good.
    """
    rounded = backend.name == "torch" and backend.device == "cuda" and dtype == "float32"
    if not (fast and rounded):
        return (FULL,)
    there = torch.cuda.is_available()
    return (FAST, THRICE if there and thrice_serves(torch.cuda.get_device_name()) else FULL)

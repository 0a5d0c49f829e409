"""Linear layers of many probes side by side: one product serves all prefixes that reach a cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from array_api_compat import array_namespace

from probe.arrays import Array, Backend, add_product, to_host
from probe.chains import Chain
from probe.segments import Segment, segments


@dataclass(frozen=True)
class Layout:
    """Where the coefficients of a chain's probes lie.

    A chain has P prefixes, and each is solved for R penalties: G = P R probes, those of a prefix
    next to each other. Features stand in the chain's order behind a constant 1, whose coefficients
    are the biases. Their rows are cut into segments; the array of a segment has a column for each
    class of each probe that reaches into it.

    Attributes:
        sizes: (P,) rows of each prefix, the constant included.
        penalties: R.
        n_classes: C.
    """

    sizes: tuple[int, ...]
    penalties: int
    n_classes: int

    @cached_property
    def segments(self) -> list[Segment]:
        """The cuts of the rows."""
        return segments(self.sizes)

    @property
    def probes(self) -> int:
        """G, the probes of a chain."""
        return len(self.sizes) * self.penalties

    @property
    def columns(self) -> int:
        """G C, the logits of a row."""
        return self.probes * self.n_classes

    def column(self, prefix: int) -> int:
        """Return the first of a prefix's columns."""
        return prefix * self.penalties * self.n_classes

    def shape(self, segment: Segment) -> tuple[int, int]:
        """Return rows and columns of a segment's array."""
        return segment.stop - segment.start, self.columns - self.column(segment.first)

    @property
    def entries(self) -> int:
        """The number of coefficients of a chain, padding included."""
        return sum(rows * columns for rows, columns in map(self.shape, self.segments))


@dataclass(frozen=True)
class Stack:
    """The coefficients of S chains with the same layout.

    Attributes:
        layout: where each lies.
        order: int64 (S, m + 1), the rows that each chain takes of features with a constant.
        coefficients: for each segment an array (S, rows, columns).
    """

    layout: Layout
    order: Array
    coefficients: list[Array]

    def rows(self, features: Array) -> Array:
        """Return (S, m + 1, r), each chain's own rows of features (D + 1, r)."""
        xp = array_namespace(features)
        taken = xp.take(features, xp.reshape(self.order, (-1,)), axis=0)
        return xp.reshape(taken, (*self.order.shape, features.shape[1]))

    def logits(self, rows: Array) -> Array:
        """Return the logits (S, r, G, C) of all probes on `rows` (S, m + 1, r)."""
        xp, layout = array_namespace(rows), self.layout
        chains, _, n = rows.shape
        logits = xp.zeros((chains, n, layout.columns), dtype=rows.dtype, device=rows.device)
        for segment, array in zip(layout.segments, self.coefficients, strict=True):
            part = xp.permute_dims(rows[:, segment.start : segment.stop], (0, 2, 1))
            add_product(logits[:, :, layout.column(segment.first) :], part, array)
        return xp.reshape(logits, (chains, n, layout.probes, layout.n_classes))

    def probe(self, chain: int, prefix: int, penalty: int) -> np.ndarray:
        """Return one probe's coefficients (1 + k, C), the bias first."""
        layout, size = self.layout, self.layout.sizes[prefix]
        parts = []
        for segment, array in zip(layout.segments, self.coefficients, strict=True):
            if segment.first <= prefix:
                left = layout.column(prefix) - layout.column(segment.first)
                left += penalty * layout.n_classes
                part = array[chain, : size - segment.start, left : left + layout.n_classes]
                parts.append(to_host(part))
        return np.concatenate(parts)

    def copy(self) -> "Stack":
        """Return a stack whose coefficients can change without those of this one."""
        xp = array_namespace(self.order)
        copies = [xp.asarray(array, copy=True) for array in self.coefficients]
        return Stack(self.layout, self.order, copies)


def stacked(
    chains: Sequence[Chain], layout: Layout, n_features: int, backend: Backend, dtype: str,
    one_start: bool = False,
) -> Stack:  # fmt: skip
    """Return the layers of chains of one layout, each drawn under its chain's seed (or 0).

    Probes of one chain and prefix start alike, whatever their penalty; with `one_start` all of a
    prefix size do, drawn under seed 0.
    """
    orders = [np.append(n_features, chain.order[: chain.length]) for chain in chains]
    starts = [np.zeros((len(chains), *layout.shape(s)), dtype) for s in layout.segments]
    for number, chain in enumerate(chains):
        for prefix, size in enumerate(layout.sizes):
            drawn = linear_start(size - 1, layout.n_classes, 0 if one_start else chain.seed or 0)
            drawn = np.tile(drawn, (1, layout.penalties))
            for segment, start in zip(layout.segments, starts, strict=True):
                if segment.first <= prefix:
                    part = drawn[segment.start : segment.stop]
                    left = layout.column(prefix) - layout.column(segment.first)
                    start[number, : len(part), left : left + part.shape[1]] = part
    return Stack(layout, backend.put(np.stack(orders)), [backend.put(start) for start in starts])


def linear_start(n_features: int, n_classes: int, seed: int) -> np.ndarray:
    """Return bias and weights of `torch.nn.Linear` as drawn after `torch.manual_seed(seed)`.

    Weights and bias are uniform in +-1/sqrt(k), from a generator of their own.

    Returns:
        float32 (1 + k, C), the bias first.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(n_classes, n_features)
    torch.nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)
    bound = n_features**-0.5
    bias = torch.empty(n_classes).uniform_(-bound, bound, generator=generator)
    return torch.cat([bias[None], weight.T]).numpy()

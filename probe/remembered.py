"""Rows that keep their moments at hand, and those of their parts, by subtraction."""

from collections.abc import Callable, Iterator

import numpy as np

from probe.blocks import RowBlocks, validation_of, views_of
from probe.moments import Moments
from probe.moments_cache import cached_moments
from probe.parts import RowRange, RowSubset, WithValidation, every_view
from probe.settings import Settings
from probe.validation import Parts, stratified_parts


class Remembered:
    """Row blocks whose moments are gathered when first asked for, and then kept.

    Arguments:
        blocks: the rows.
        gather: how to come by their moments; by default one pass over the rows.
    """

    def __init__(self, blocks: RowBlocks, gather: Callable[[Settings], Moments] | None = None):
        self._blocks = blocks
        self._gather = gather or (lambda settings: cached_moments(blocks, settings))
        self._moments: Moments | None = None
        self._parts: dict[tuple[float, int, int], list[tuple[Remembered, RowSubset]]] = {}
        self.n_rows, self.n_features = blocks.n_rows, blocks.n_features
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint, self.n_views = blocks.fingerprint, views_of(blocks)
        self.validation = validation_of(blocks)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(self._blocks)

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,)."""
        return self._blocks.labels()

    def part(self, start: int, stop: int) -> RowRange:
        """Return the rows from `start` up to `stop`."""
        return RowRange(self._blocks, start, stop)

    def moments(self, settings: Settings) -> Moments:
        """Return the moments of all rows."""
        if self._moments is None:
            self._moments = self._gather(settings)
        return self._moments

    def parts(
        self, share: float, seed: int, count: int = 1
    ) -> list[tuple["Remembered", RowSubset]]:
        """Return, for each of `count` draws, the rows without a held-out part, and that part.

        The parts are those of `probe.validation.stratified_parts`. All views of an image are in
        the same part. The moments of the remainder are those of all rows less those of the part,
        so that one pass over the part is all that they cost.

        Raises:
            UsageError: `share` is outside (0, 1).
            DataError: no row can be held out.
        """
        if (share, seed, count) not in self._parts:
            images = self.n_rows // self.n_views
            drawn = stratified_parts(self.labels()[:images], share, seed, count)
            self._parts[share, seed, count] = [self._without(one) for one in drawn]
        return self._parts[share, seed, count]

    def _without(self, drawn: Parts) -> tuple["Remembered", RowSubset]:
        held_out = every_view(self._blocks, drawn.validation)
        kept = every_view(self._blocks, drawn.train)
        remainder = Remembered(
            kept if self.validation is None else WithValidation(kept, self.validation),
            lambda settings: self.moments(settings) - cached_moments(held_out, settings),
        )
        return remainder, held_out


def remembered(blocks: RowBlocks) -> Remembered:
    """Return the rows as ones that keep their moments; as they are if they do so already."""
    return blocks if isinstance(blocks, Remembered) else Remembered(blocks)

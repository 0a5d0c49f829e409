"""Cuts of a chain at its prefix sizes, so that one product serves all prefixes that reach a cut."""

from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 64


@dataclass(frozen=True)
class Segment:
    """A range of the chain's features, and the prefixes that see some of them.

    Attributes:
        start: first feature, a position in the chain.
        stop: one past the last.
        first: the smallest prefix that reaches in; it and all larger ones have coefficients here.
        ends: (prefix, position) for each prefix that ends before `stop`; its coefficients from
            that position on stand for features it does not see, and must stay zero.
    """

    start: int
    stop: int
    first: int
    ends: tuple[tuple[int, int], ...]


def segments(sizes: Sequence[int], least: int = LEAST) -> list[Segment]:
    """Return the cuts, each at a prefix size and, save the last, at least `least` features long.

    Without merging, no product would multiply a zero; but thin products are slow, so that prefixes
    that end close to each other share one.

    Arguments:
        sizes: non-decreasing prefix sizes.
        least: features below which a segment takes in the next.

    Example:
        >>> [(s.start, s.stop, s.first, s.ends) for s in segments([2, 3, 10, 10, 20], least=4)]
        [(0, 10, 0, ((0, 2), (1, 3))), (10, 20, 4, ())]
    """
    cuts, start, first = [], 0, 0
    for prefix, stop in enumerate(sizes):
        more = prefix + 1 < len(sizes)
        if more and (stop - start < least or sizes[prefix + 1] == stop):
            continue
        ends = tuple((p, sizes[p]) for p in range(first, prefix) if sizes[p] < stop)
        cuts.append(Segment(start, stop, first, ends))
        start, first = stop, prefix + 1
    return cuts

"""Which prefixes are solved in the features and which in the N x N dual: by arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from probe.budget import spared, text
from probe.chains import Chain
from probe.errors import MemoryBudgetError

WORTH = 4.0
"""How many times fewer operations another way must take than the moments of all features."""

LEAST_TILE = 4096
"""Features of all rows that are at least held at once."""


@dataclass(frozen=True)
class Problem:
    """What is to be solved, in numbers.

    Attributes:
        n_rows: N.
        n_features: D.
        n_outputs: C, or T.
        penalties: R.
        memory: bytes that arrays may take.
        dual: whether the solver can be solved in the dual.
        reading: bytes that wide blocks take while they are read, and orders of all features.
    """

    n_rows: int
    n_features: int
    n_outputs: int
    penalties: int
    memory: int
    dual: bool = True
    reading: int = 0

    @property
    def free(self) -> int:
        """Bytes beside what reading takes."""
        return self.memory - self.reading

    def primal_bytes(self, union: int, longest: int) -> int:
        """Bytes for moments of `union` features, and factors of a chain of `longest`."""
        outputs = self.n_outputs
        moments = 8 * union * (3 * union + 3 * outputs)
        return spared(moments + 8 * longest * (5 * longest + 2 * outputs))

    def dual_bytes(self, longest: int) -> int:
        """Bytes for X X', its rotation, the probes on that, the narrowest tile, and one probe."""
        n, width = self.n_rows, min(LEAST_TILE, self.n_features)
        matrices = self.primal_bytes(n, n) + 8 * 5 * n * n
        return matrices + 24 * n * width + spared(8 * longest * (self.n_outputs + 4))

    def tile(self, longest: int, itemsize: int) -> int:
        """Features of all rows, of so many bytes each, that fit beside `dual_bytes`."""
        free = max(0, self.free - self.dual_bytes(longest)) * 7 // 8
        return min(self.n_features, LEAST_TILE + free // (itemsize * self.n_rows))

    def primal_work(self, union: int, lengths: Sequence[int]) -> float:
        """Multiplications for moments of `union` features, and one factor a chain and penalty."""
        factors = sum(float(length) ** 3 for length in lengths) / 3
        return self.n_rows * float(union) ** 2 + self.penalties * factors

    def dual_work(self, lengths: Sequence[int], n_prefixes: int) -> float:
        """Multiplications for X X' along the chains, and one problem in N a prefix."""
        n = float(self.n_rows)
        return n * n * sum(lengths) + n_prefixes * n**3 * (2 + self.penalties / 3)


@dataclass(frozen=True)
class Cut:
    """Some prefixes of a chain.

    Attributes:
        number: which chain.
        chain: the whole of it.
        prefixes: int64 (p,), which prefixes, rising; at least one.
    """

    number: int
    chain: Chain
    prefixes: np.ndarray

    @property
    def length(self) -> int:
        """The features of the largest of them."""
        return self.chain.sizes[self.prefixes[-1]]

    def made(self) -> Chain:
        """Return these prefixes as a chain."""
        return replace(
            self.chain,
            order=self.chain.order[: self.length],
            sizes=tuple(self.chain.sizes[p] for p in self.prefixes),
            fractions=tuple(self.chain.fractions[p] for p in self.prefixes),
        )


@dataclass(frozen=True)
class WidePart:
    """Prefixes that are solved together.

    Attributes:
        cuts: which.
        dual: whether in the dual; else with the moments of the features that they touch.
    """

    cuts: list[Cut]
    dual: bool


Plan = list[WidePart] | None
"""None: all at once, with the moments of all features."""


def wide_plan(problem: Problem, chains: Sequence[Chain]) -> Plan:
    """Return how to solve the prefixes of these chains with the fewest multiplications that fit.

    The moments of all features, shared by all chains, are the rule. Where they do not fit into
    memory, or another way is much less work, prefixes of at most t features are solved with the
    moments of the features that their chains touch, as many chains at a time as fit, and longer
    ones in the dual; t is the size with the least work.

    Raises:
        MemoryBudgetError: some prefix fits neither way; the message says what would do.
    """
    lengths = [chain.length for chain in chains]
    whole = problem.primal_bytes(problem.n_features, max(lengths)) <= problem.memory
    if not problem.dual or (whole and problem.n_features <= problem.n_rows):
        return None
    sizes = sorted({size for chain in chains for size in chain.sizes})
    limits = [s for s in sizes if problem.primal_bytes(s, s) <= problem.free]
    options = [_parts(problem, chains, limit) for limit in [0, *limits]]
    works = [np.inf if parts is None else _work(problem, parts) for parts in options]
    best = int(np.argmin(works))
    if whole and problem.primal_work(problem.n_features, lengths) <= WORTH * works[best]:
        return None
    if options[best] is None:
        if problem.n_features <= problem.n_rows:
            return None  # the solver's own arithmetic says exactly what would do
        raise _too_little(problem, sizes[-1])
    return options[best]


def touched(cuts: Sequence[Cut], n_features: int) -> np.ndarray:
    """Return which features the prefixes touch, bool (D,)."""
    mask = np.zeros(n_features, bool)
    for cut in cuts:
        mask[cut.chain.order[: cut.length]] = True
    return mask


def _parts(problem: Problem, chains: Sequence[Chain], limit: int) -> list[WidePart] | None:
    """Return the parts if prefixes up to `limit` features are primal; None if one does not fit."""
    short, long = _cuts(chains, 0, limit), _cuts(chains, limit, np.inf)
    if long and problem.dual_bytes(max(cut.length for cut in long)) > problem.free:
        return None
    groups: list[list[Cut]] = []
    for cut in short:
        if groups and _fits(problem, [*groups[-1], cut]):
            groups[-1].append(cut)
        elif _fits(problem, [cut]):
            groups.append([cut])
        else:
            return None
    parts = [WidePart(group, dual=False) for group in groups]
    return [*parts, WidePart(long, dual=True)] if long else parts


def _cuts(chains: Sequence[Chain], above: float, limit: float) -> list[Cut]:
    """Return the prefixes of each chain whose sizes lie in (above, limit], if it has any."""
    kept = [np.flatnonzero([above < size <= limit for size in chain.sizes]) for chain in chains]
    return [
        Cut(number, chain, own)
        for number, (chain, own) in enumerate(zip(chains, kept, strict=True))
        if own.size
    ]


def _fits(problem: Problem, cuts: Sequence[Cut]) -> bool:
    longest = max(cut.length for cut in cuts)
    union = int(touched(cuts, problem.n_features).sum())
    return problem.primal_bytes(union, longest) <= problem.free


def _work(problem: Problem, parts: Sequence[WidePart]) -> float:
    work = 0.0
    for part in parts:
        lengths = [cut.length for cut in part.cuts]
        if part.dual:
            work += problem.dual_work(lengths, sum(len(cut.prefixes) for cut in part.cuts))
        else:
            work += problem.primal_work(int(touched(part.cuts, problem.n_features).sum()), lengths)
    return work


def _too_little(problem: Problem, largest: int) -> MemoryBudgetError:
    features, rows = problem.primal_bytes(largest, largest), problem.dual_bytes(largest)
    return MemoryBudgetError(
        f"{text(problem.memory)} of memory is too little for probes on {largest} features of "
        f"{problem.n_rows} rows, which need a matrix of either by itself: allow at least "
        f"{text(min(features, rows) + problem.reading)}, or take smaller fractions"
        + (" or fewer rows" if rows < features else "")
    )

"""Which prefixes are solved in the features and which in the N x N dual: by arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from probe.budget import spared, text
from probe.chains import Chain
from probe.errors import MemoryBudgetError

WORTH = 2.0
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
    """

    n_rows: int
    n_features: int
    n_outputs: int
    penalties: int
    memory: int
    dual: bool = True

    def primal_bytes(self, union: int, longest: int) -> int:
        """Bytes for moments of `union` features, and factors of a chain of `longest`."""
        outputs = self.n_outputs
        moments = 8 * union * (3 * union + 3 * outputs)
        return spared(moments + 8 * longest * (5 * longest + 2 * outputs))

    @property
    def dual_bytes(self) -> int:
        """Bytes for X X', its rotation, the probes on that, and the narrowest tile."""
        n = self.n_rows
        return self.primal_bytes(n, n) + 8 * 5 * n * n + 24 * n * min(LEAST_TILE, self.n_features)

    def tile(self, itemsize: int) -> int:
        """Features of all rows, of so many bytes each, that fit beside `dual_bytes`."""
        free = max(0, self.memory - self.dual_bytes) * 7 // 8
        return min(self.n_features, LEAST_TILE + free // (itemsize * self.n_rows))

    def primal_work(self, union: int, chains: Sequence[Chain]) -> float:
        """Multiplications for moments of `union` features, and one factor a chain and penalty."""
        factors = sum(float(chain.length) ** 3 for chain in chains) / 3
        return self.n_rows * float(union) ** 2 + self.penalties * factors

    def dual_work(self, chains: Sequence[Chain]) -> float:
        """Multiplications for X X' along the chains, and one problem in N a prefix."""
        n = float(self.n_rows)
        gram = n * n * sum(chain.length for chain in chains)
        return gram + sum(map(len, chains)) * n**3 * (2 + self.penalties / 3)


@dataclass(frozen=True)
class WidePart:
    """Prefixes that are solved together.

    Attributes:
        chains: cut to these prefixes.
        places: for each chain its number, and the numbers of these prefixes in it.
        dual: whether in the dual; else with the moments of the features that the chains touch.
    """

    chains: list[Chain]
    places: list[tuple[int, np.ndarray]]
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
    longest = max(chain.length for chain in chains)
    whole = problem.primal_bytes(problem.n_features, longest) <= problem.memory
    if not problem.dual or (whole and problem.n_features <= problem.n_rows):
        return None
    sizes = sorted({size for chain in chains for size in chain.sizes})
    options = [_parts(problem, chains, limit) for limit in [0, *sizes]]
    works = [np.inf if parts is None else _work(problem, parts) for parts in options]
    best = int(np.argmin(works))
    if whole and problem.primal_work(problem.n_features, chains) <= WORTH * works[best]:
        return None
    if options[best] is None:
        if problem.n_features <= problem.n_rows:
            return None  # the solver's own arithmetic says exactly what would do
        raise _too_little(problem, sizes[-1])
    return options[best]


def _parts(problem: Problem, chains: Sequence[Chain], limit: int) -> list[WidePart] | None:
    """Return the parts if prefixes up to `limit` features are primal; None if one does not fit."""
    parts: list[WidePart] = []
    short = [_cut(chain, number, 0, limit) for number, chain in enumerate(chains)]
    group: list[tuple[Chain, tuple[int, np.ndarray]]] = []
    for one in filter(None, short):
        if group and not _fits(problem, [chain for chain, _ in [*group, one]]):
            parts.append(_part(group, dual=False))
            group = []
        group.append(one)
        if not _fits(problem, [chain for chain, _ in group]):
            return None
    if group:
        parts.append(_part(group, dual=False))
    long = [_cut(chain, number, limit, np.inf) for number, chain in enumerate(chains)]
    rest = list(filter(None, long))
    if rest and problem.dual_bytes > problem.memory:
        return None
    return [*parts, _part(rest, dual=True)] if rest else parts


def _cut(
    chain: Chain, number: int, above: float, limit: float
) -> tuple[Chain, tuple[int, np.ndarray]] | None:
    """Return the chain with its prefixes of sizes in (above, limit], and which they are."""
    kept = np.flatnonzero([above < size <= limit for size in chain.sizes])
    if not kept.size:
        return None
    sizes = tuple(chain.sizes[p] for p in kept)
    fractions = tuple(chain.fractions[p] for p in kept)
    return replace(chain, sizes=sizes, fractions=fractions), (number, kept)


def _part(group: Sequence[tuple[Chain, tuple[int, np.ndarray]]], dual: bool) -> WidePart:
    return WidePart([chain for chain, _ in group], [place for _, place in group], dual)


def touched(chains: Sequence[Chain]) -> np.ndarray:
    """Return the features that the chains touch, int64, rising."""
    return np.unique(np.concatenate([chain.order[: chain.length] for chain in chains]))


def _fits(problem: Problem, chains: Sequence[Chain]) -> bool:
    longest = max(chain.length for chain in chains)
    # a lower bound first: the union of large chains need not be formed to see that it is too much
    if problem.primal_bytes(longest, longest) > problem.memory:
        return False
    return problem.primal_bytes(len(touched(chains)), longest) <= problem.memory


def _work(problem: Problem, parts: Sequence[WidePart]) -> float:
    return sum(
        problem.dual_work(part.chains)
        if part.dual
        else problem.primal_work(len(touched(part.chains)), part.chains)
        for part in parts
    )


def _too_little(problem: Problem, largest: int) -> MemoryBudgetError:
    features, rows = problem.primal_bytes(largest, largest), problem.dual_bytes
    return MemoryBudgetError(
        f"{text(problem.memory)} of memory is too little for probes on {largest} features of "
        f"{problem.n_rows} rows, which need a matrix of either by itself: allow at least "
        f"{text(min(features, rows))}, or take smaller fractions"
        + (" or fewer rows" if rows < features else "")
    )

"""The stages of a ridge sweep, each by itself, against the time that the machine's rates allow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.floors import floor_row
from benchmarks.loops import standardised
from benchmarks.stages import Setup
from featstore import measurements
from featstore.bench import Pair, SweepSizes
from featstore.probe.arrays import (
    FORWARD_WIDTH,
    Array,
    Backend,
    factorise,
    full_precision,
    solve_lower,
    tiles,
)
from featstore.probe.memory import MAX_ROWS, Settings, parse
from featstore.probe.metrics import Scores
from featstore.probe.modes import Layer, modes_of
from featstore.probe.moments import Moments, moments
from featstore.probe.plans import sweep_chains
from featstore.probe.rows import as_blocks
from featstore.probe.solvers.closed_form import equations, ridge_from_moments
from featstore.probe.subsets import Chain, grid
from featstore.probe.substitution import Forward, Room, forward

# shares of the rate of products
TARGETS = {"moments": ">= 70 %", "substitution": ">= 70 %"}


@dataclass(frozen=True)
class Work:
    """Operations and bytes of each stage, from the shapes alone.

    Attributes:
        rows: train rows. features: D. classes: C. tested: test rows.
        lengths: m of the systems, the features of each one's longest prefix.

    Example:
        >>> work = Work(rows=1000, features=100, classes=10, tested=50, lengths=[90, 90, 100])
        >>> work.moments(), work.factors()[0]
        ((20100000.0, 400000.0), 819333.0)
    """

    rows: int
    features: int
    classes: int
    tested: int
    lengths: Sequence[int]

    def moments(self) -> tuple[float, float]:
        """Return those of tiles on and above the diagonal of X'X, and of class sums; X is read."""
        width = self.features
        sides = [[one.stop - one.start for one in tile] for tile in tiles(width)]
        pairs = sum(rows * columns for rows, columns in sides)
        return self.rows * (2.0 * pairs + width), 4.0 * self.rows * width

    def factors(self) -> tuple[float, float]:
        """m^3 / 3 for each system, in float64; each is read and written."""
        operations = sum(m**3 / 3 for m in self.lengths)
        return float(round(operations)), sum(16.0 * m**2 for m in self.lengths)

    def substitution(self) -> tuple[float, float]:
        """Strips up to the diagonal, and the running sums of logits; the rows are read."""
        each = sum(m * (m + FORWARD_WIDTH[0]) + 2 * m * self.classes for m in self.lengths)
        return float(self.tested * each), 4.0 * self.tested * self.features


def measure(
    train: Pair,
    test: Pair,
    sizes: SweepSizes,
    fractions: list[float],
    l2: float,
    setup: Setup,
    rates: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return a row for each stage of a sweep: its time, and its floors."""
    settings = Settings(memory=parse(setup.memory), backend=setup.backend)
    blocks, test_blocks = as_blocks(train), as_blocks(test)
    seeds = range(1, sizes.seeds + 1)
    gathered = moments(blocks, settings)
    layer = Layer(sizes.features, grid(sizes.features, fractions), lambda: gathered)
    chains = sweep_chains(layer, modes_of("random"), seeds, True).chains
    lengths = [chain.length for chain in chains]
    shape = (sizes.rows, sizes.features, sizes.classes, sizes.test_rows)
    fitted = ridge_from_moments(gathered, chains, [l2], settings)
    matrices = [_system(gathered, chain, l2, settings) for chain in chains]
    room = Room()
    ready = [
        (_forward(matrix, gathered, chain, settings, room), chain.sizes)
        for matrix, chain in zip(matrices[:-1], chains[:-1], strict=True)
    ]
    pieces = _pieces(train, test, setup.backend)

    def fit() -> None:
        # what was worked out of these moments before is not to be found again
        ridge_from_moments(replace(gathered), chains, [l2], settings)

    def score() -> None:
        fitted.score(test_blocks, Scores(len(fitted.axes), sizes.classes, ("accuracy",), False))

    runs = {
        "moments": (lambda: moments(blocks, settings), Work(*shape, lengths).moments()),
        "Cholesky": (lambda: [*map(factorise, matrices)], Work(*shape, lengths).factors()),
        "substitution": (lambda: _all(ready, pieces), Work(*shape, lengths[:-1]).substitution()),
        "fit, no moments": (fit, None),
        "score": (score, None),
    }
    return [
        floor_row(
            name,
            measurements.best(run, sizes.repeats),
            work,
            rates,
            "float64" if name == "Cholesky" else "float32",
            TARGETS.get(name, ""),
        )
        for name, (run, work) in runs.items()
    ]


def _system(gathered: Moments, chain: Chain, l2: float, settings: Settings) -> Array:
    """Return one chain's system A, float64 (1, m, m)."""
    order = chain.order[: chain.length]
    matrix = equations(gathered, settings).matrix[np.ix_(order, order)]
    matrix[np.diag_indices(len(order))] += l2
    return settings.backend.put(matrix)[None]


def _forward(
    matrix: Array, gathered: Moments, chain: Chain, settings: Settings, room: Room
) -> Forward:
    put, order = settings.backend.put, chain.order[: chain.length]
    lower, normal = factorise(matrix).lower, equations(gathered, settings)
    z = solve_lower(lower, put(normal.right[order])[None])
    return forward(put(order)[None], lower, z, put(normal.start), gathered.precision, room)


def _pieces(train: Pair, test: Pair, backend: Backend) -> list[Array]:
    """Return the test rows, standardised, in pieces (D, r) as scoring takes them."""
    rows, most = standardised(train, test)[1], MAX_ROWS[backend.device != "cpu"]
    starts = range(0, len(rows), most)
    return [backend.put(np.ascontiguousarray(rows[start : start + most].T)) for start in starts]


def _all(ready: list[tuple[Forward, tuple[int, ...]]], pieces: list[Array]) -> None:
    """Compute the logits of every prefix of every chain on all pieces."""
    with full_precision():
        for system, sizes in ready:
            for piece in pieces:
                for _ in system.logits(piece, sizes):
                    pass

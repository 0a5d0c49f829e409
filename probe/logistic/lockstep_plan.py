"""How many softmax probes advance together, and on how many rows at a time, within memory."""

from dataclasses import dataclass

import numpy as np

from probe.axes import Axes
from probe.budget import MIN_ROWS, rows_within
from probe.logistic.lbfgs import PAIRS
from probe.settings import Settings

# rows of a tile: on a CPU between these, as such a working set holds, a few caches full: products
# of 2,048 rows run a fifth faster than of 384, which would fit into one; on an accelerator as many
# as fit
CPU_ROWS = (128, 2048)
CPU_BYTES = 128 << 20
ACCELERATOR_ROWS = 16384
ROW_STEP = 64
# vectors of a probe that live at once, besides its curvature pairs: points, directions, trials,
# gradients and their copies, some of them in float64
VECTORS = 16


@dataclass(frozen=True)
class LockstepPlan:
    """What is held at once.

    Attributes:
        rows: rows of a tile.
        kept: bytes that tiles may occupy between passes.
        groups: for each group that is solved together its (chain, prefix) places, of any penalty.
        scored: for each group that is scored together its probes, int64.
    """

    rows: int
    kept: int
    groups: list[list[tuple[int, int]]]
    scored: list[np.ndarray]


def lockstep_plan(
    settings: Settings, axes: Axes, n_features: int, n_classes: int, dtype: str
) -> LockstepPlan:
    """Return the plan; a third of what is free is for probes, the rest for tiles.

    Raises:
        MemoryBudgetError: the moments, one probe of the longest chain and a few rows do not fit.
    """
    item = 8 if dtype == "float64" else 4
    longest = max(chain.length for chain in axes.chains)
    # the Gram, the covariance and a copy; then a chain's part of it while it is factorised
    fixed = 8 * (3 * n_features**2 + 5 * longest**2)
    one = _chain_bytes(longest, item) + _probe_bytes(longest, n_classes, item)
    row = item * (4 * n_features + 2 * longest + 3 * n_classes)
    rows_within(settings.memory, fixed + one, row, MIN_ROWS, "the probes of one chain")
    free = settings.memory - fixed - one - MIN_ROWS * row
    groups = _grouped(axes, n_classes, item, one + free // 3)
    widest = max(_row_bytes(axes, group, n_classes, item) for group in groups)
    rows = _rows(settings, row + widest, one, free // 6)
    kept = max(0, free - free // 3 - rows * (row + widest))
    return LockstepPlan(rows, kept, groups, _scored(axes, n_classes, item, free // 8))


def _rows(settings: Settings, row: int, one: int, free: int) -> int:
    fitting = MIN_ROWS + free // row
    if settings.backend.device != "cpu":
        return int(min(fitting, ACCELERATOR_ROWS))
    least, most = CPU_ROWS
    cached = min(max(CPU_BYTES // row, least), most)
    rows = min(fitting, cached)
    return int(rows if rows < ROW_STEP else rows // ROW_STEP * ROW_STEP)


def _probe_bytes(size: int, n_classes: int, item: int) -> int:
    return item * n_classes * (1 + size) * (2 * PAIRS + VECTORS)


def _chain_bytes(length: int, item: int) -> int:
    # two triangles and the inverse of one, which is in the precision of the rows
    return (16 + item) * (1 + length) ** 2


def _row_bytes(axes: Axes, group: list[tuple[int, int]], n_classes: int, item: int) -> int:
    """Return what one row takes in a pass: each chain's features, logits and their softmax."""
    chains = {chain for chain, _ in group}
    features = sum(1 + axes.chains[chain].length for chain in chains)
    return item * (features + len(group) * (n_classes + 6))


def _grouped(axes: Axes, n_classes: int, item: int, memory: int) -> list[list[tuple[int, int]]]:
    groups: list[list[tuple[int, int]]] = []
    used = 0
    for number, chain in enumerate(axes.chains):
        for prefix in range(len(chain)):
            # arrays are as long as the longest prefix of the chain that is with it
            probe = _probe_bytes(chain.length, n_classes, item)
            new = not groups or groups[-1][-1][0] != number
            needed = probe + (_chain_bytes(chain.length, item) if new else 0)
            if not groups or used + needed > memory:
                groups.append([])
                used, needed = 0, probe + _chain_bytes(chain.length, item)
            groups[-1].append((number, prefix))
            used += needed
    return groups


def _scored(axes: Axes, n_classes: int, item: int, memory: int) -> list[np.ndarray]:
    each = 4 * item * n_classes * (1 + max(chain.length for chain in axes.chains))
    count = max(1, memory // each)
    return [np.arange(s, min(len(axes), s + count)) for s in range(0, len(axes), count)]

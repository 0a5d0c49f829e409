"""All probes of a group in lockstep, each until its certificate holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import (
    Array,
    Backend,
    Precision,
    full_precision,
    reduced_precision,
    to_host,
)
from featstore.probe.memory import MIN_ROWS, Settings, rows_within
from featstore.probe.solvers.logistic.lbfgs import PAIRS, Lbfgs
from featstore.probe.solvers.logistic.products import Sheet, Tiles, Whitening, losses_and_gradients
from featstore.probe.subsets import Axes

# Factors of 11 bits stand for coefficients W that are off by dW, where dW'H dW is about 1e-7 of the
# objective f: a gradient norm under some 3e-4 says nothing then, nor do differences of 1e-4 f
FAST_TOL, FAST_NOISE = 1e-3, 1e-4


@dataclass(frozen=True)
class Stage:
    """A stretch of the descent.

    Attributes:
        precision: of its products.
        least_tol: the smallest gradient norm that this precision can tell.
        noise: share of the objective under which differences of it say nothing; None for that of
            the numbers themselves.
    """

    precision: Precision
    least_tol: float = 0.0
    noise: float | None = None


FULL = Stage(full_precision)
FAST = Stage(reduced_precision, FAST_TOL, FAST_NOISE)


def stages(fast: bool, backend: Backend, dtype: str) -> tuple[Stage, ...]:
    """Return the stages; the last one, whose certificate is reported, is in full precision.

    Only float32 products of torch on a CUDA device can be rounded; elsewhere nothing changes.
    """
    rounded = backend.name == "torch" and backend.device == "cuda" and dtype == "float32"
    return (FAST, FULL) if fast and rounded else (FULL,)


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


SEPARABLE = "separable"


@dataclass(frozen=True)
class Solution:
    """One probe at the end of its run.

    Attributes:
        coefficients: (C, 1 + k), of the standardised features; the intercept first.
        objective: mean loss + (l2/2) ||W||^2, in nats.
        gradient_norm: as `norms` of `Lbfgs`.
        iterations: steps taken.
        status: "converged", "max_iter", "line_search" or "separable".
    """

    coefficients: np.ndarray
    objective: float
    gradient_norm: float
    iterations: int
    status: str


@dataclass(frozen=True)
class Standing:
    """How far all probes of a penalty are.

    Attributes:
        solved: probes that are over.
        worth: of all probes together, in probes: each running one counts by its share of the way.
        objective: mean over the probes, in nats.
    """

    solved: int
    worth: float
    objective: float


@dataclass(frozen=True)
class Descent:
    """What is minimised, and when a run ends.

    Attributes:
        l2: penalty.
        tol: of the gradient norm.
        max_iter: steps of each run.
        first_step: length of the first trial, in gradients.
        goals: by probe number, an objective at which its run has converged whatever its norm.
        stages: in what precision; the last one's results are the solutions.
    """

    l2: float
    tol: float
    max_iter: int
    first_step: float
    goals: Mapping[int, float] = field(default_factory=dict)
    stages: tuple[Stage, ...] = (FULL,)


class Running:
    """The probes of a sheet on their way: their minimisers, and the metric of each chain.

    Arguments:
        sheet: the probes.
        whitenings: by number of the chain.
        start: float64 (P, C, 1 + m), coefficients to start from.
        n_rows: N.
        descent: how to minimise.
    """

    def __init__(
        self, sheet: Sheet, whitenings: Mapping[int, Whitening], start: np.ndarray, n_rows: int,
        descent: Descent,
    ):  # fmt: skip
        self.sheet, self._whitenings, self._n_rows = sheet, whitenings, n_rows
        self.descent = descent
        inverse = whitenings[sheet.spans[0].chain].inverse
        xp = array_namespace(inverse)
        wide = xp.asarray(start, device=inverse.device)
        for span in sheet.spans:
            wide[span.probes] = whitenings[span.chain].variables(wide[span.probes])
        flat = xp.reshape(xp.astype(wide, inverse.dtype), (len(sheet), -1))
        first = descent.stages[0]
        goals = [descent.goals.get(int(number), -np.inf) for number in sheet.numbers]
        self.runs = Lbfgs(
            flat, tol=max(descent.tol, first.least_tol), max_iter=descent.max_iter,
            first_step=descent.first_step, goals=np.array(goals), noise=first.noise,
            decrement=self._decrement,
        )  # fmt: skip

    def coefficients(self, points: Array) -> Array:
        """Return W (P, C, 1 + m) of points V (P, n)."""
        xp, sheet = array_namespace(points), self.sheet
        variables = xp.reshape(points, (len(sheet), sheet.n_classes, sheet.length))
        parts = [
            self._whitenings[span.chain].coefficients(variables[span.probes], span.cuts)
            for span in sheet.spans
        ]
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)

    def tell(self, weights: Array, losses: np.ndarray, gradients: Array) -> None:
        """Take the losses (P,) and their gradients (P, C, 1 + m), summed over rows, at W.

        Without a penalty, losses that sum to less than log 2 prove that every row is on its own
        side: then scaling W up decreases the loss for ever, and there is no solution.
        """
        xp, sheet = array_namespace(weights), self.sheet
        gradients /= self._n_rows
        penalty = to_host(self._pull(weights, gradients))
        self._gradients = gradients
        rounded = xp.astype(gradients, weights.dtype)
        parts = [
            self._whitenings[span.chain].gradient(rounded[span.probes], span.cuts)
            for span in sheet.spans
        ]
        whitened = parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
        whitened *= sheet.mask
        values = losses / self._n_rows + penalty
        self.runs.tell(values, xp.reshape(whitened, (len(sheet), -1)))
        if self.descent.l2 == 0:
            self.runs.status[losses < np.log(2)] = SEPARABLE

    def _pull(self, weights: Array, gradients: Array) -> Array:
        """Add the gradients of the penalties to `gradients`; return the penalties, float64 (P,)."""
        xp, total = array_namespace(weights), []
        for span in self.sheet.spans:
            own, size = span.probes, span.sizes[-1]
            free = xp.astype(weights[own, :, 1:size], xp.float64)
            pulls = free * self._whitenings[span.chain].penalty[: size - 1]
            gradients[own, :, 1:size] += pulls
            total.append(xp.sum(free * pulls, axis=(1, 2)) / 2)
        return total[0] if len(total) == 1 else xp.concat(total)

    def _decrement(self, probe: int) -> float:
        """Return `Whitening.decrement` of one probe of the sheet where it was evaluated last."""
        sheet = self.sheet
        chain = next(span.chain for span in sheet.spans if probe < span.probes.stop)
        gradient = self._gradients[probe, :, : int(sheet.sizes[probe])]
        return self._whitenings[chain].decrement(gradient)

    def finished(self) -> dict[int, Solution]:
        """Return the solutions of the runs that are over, by probe number, and drop these."""
        runs, sheet = self.runs, self.sheet
        done = np.flatnonzero(runs.status != "")
        if not done.size:
            return {}
        weights = self.coefficients(runs.points)
        solutions = {}
        for p in done:
            kept = to_host(weights[int(p), :, : int(sheet.sizes[p])]).copy()
            solutions[int(sheet.numbers[p])] = Solution(
                kept, float(runs.values[p]), float(runs.norms[p]), int(runs.iterations[p]),
                str(runs.status[p]),
            )  # fmt: skip
        kept = runs.status == ""
        runs.keep(kept)
        if kept.any():
            sheet.keep(kept)
        return solutions


def minimise(
    tiles: Tiles, running: Sequence[Running], report: Callable[[Standing], None]
) -> dict[int, Solution]:
    """Return the solution of every probe, by its number.

    Each round asks every probe for a point, passes once over the rows for all of them, and tells
    them what was found. In the last stage probes that are done leave; in one before it they wait
    for the others, and all go on together. After each pass `report` learns how far they are.
    """
    solutions: dict[int, Solution] = {}
    left, descent = list(running), running[0].descent
    for stage in descent.stages[:-1]:
        while any((one.runs.status == "").any() for one in left):
            _pass(tiles, left, stage.precision)
            report(_standing(solutions, left))
        for one in left:
            one.runs.resume(descent.tol)
    while left:
        _pass(tiles, left, descent.stages[-1].precision)
        for one in left:
            solutions |= one.finished()
        left = [one for one in left if len(one.runs.status)]
        report(_standing(solutions, left))
    return solutions


def _pass(tiles: Tiles, running: Sequence[Running], precision: Precision) -> None:
    weights = [one.coefficients(one.runs.ask()) for one in running]
    sheets = [one.sheet for one in running]
    losses, gradients = losses_and_gradients(tiles, sheets, weights, precision)
    for one, at, loss, gradient in zip(running, weights, losses, gradients, strict=True):
        one.tell(at, loss, gradient)


def _standing(solutions: Mapping[int, Solution], left: Sequence[Running]) -> Standing:
    worth = sum(float(np.sum(one.runs.shares(one.descent.tol))) for one in left)
    ended = [solution.objective for solution in solutions.values()]
    values = np.concatenate([ended, *(one.runs.values for one in left)])
    return Standing(len(solutions), len(solutions) + worth, float(values.mean()))

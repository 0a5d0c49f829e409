"""All probes of one penalty, minimised together: every pass over the rows serves every probe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, Precision, to_host
from probe.logistic.lbfgs import Lbfgs
from probe.logistic.passes import losses_and_gradients
from probe.logistic.sheets import Sheet
from probe.logistic.stages import FULL, Stage
from probe.logistic.tiles import Tiles
from probe.logistic.whitening import Whitening

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

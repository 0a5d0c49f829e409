"""The descent of a group of softmax probes, until the certificate of each holds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import Array, beside, to_host
from featstore.probe.solvers.logistic.lbfgs import Change, Lbfgs
from featstore.probe.solvers.logistic.metric import (
    BetweenClasses,
    Metric,
    Weighted,
    Whitening,
    class_metric,
)
from featstore.probe.solvers.logistic.products import (
    FULL,
    Sheet,
    Stage,
    Tiles,
    losses_and_gradients,
)
from featstore.probe.statuses import Status


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
    """Progress of all probes of a penalty.

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
    """Penalty, tolerance and limits of a minimisation.

    Attributes:
        l2: penalty.
        tol: of the gradient norm.
        max_iter: steps of each run.
        first_step: length of the first trial, in gradients.
        goals: by probe number, an objective at which its run has converged whatever its norm.
        stages: in what precision; the last one's results are the solutions.
        several: whether a row may have several labels, of which each has a probe of its own.
    """

    l2: float
    tol: float
    max_iter: int
    first_step: float
    goals: Mapping[int, float] = field(default_factory=dict)
    stages: tuple[Stage, ...] = (FULL,)
    several: bool = False


# passes after which the metric between classes is made anew, and classes that may have one; and
# passes after which the metric of two classes is, which costs as much as so many passes
TURNS, MOST_CLASSES = (0, 5, 20, 60), 128
WEIGHTED_TURNS, WORTH = (10, 25, 60), 15


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
        self,
        sheet: Sheet,
        whitenings: Mapping[int, Whitening],
        start: np.ndarray,
        n_rows: int,
        descent: Descent,
    ):
        self.sheet, self._whitenings, self._n_rows = sheet, whitenings, n_rows
        self._metrics: Mapping[int, Metric] = whitenings
        self.descent = descent
        inverse = whitenings[sheet.spans[0].chain].inverse
        xp = array_namespace(inverse)
        wide = beside(start, inverse)
        for span in sheet.spans:
            wide[span.probes] = whitenings[span.chain].variables(wide[span.probes])
        flat = xp.reshape(xp.astype(wide, inverse.dtype), (len(sheet), -1))
        first = descent.stages[0]
        goals = [descent.goals.get(int(number), -np.inf) for number in sheet.numbers]
        self.runs = Lbfgs(
            flat,
            tol=max(descent.tol, first.least_tol),
            max_iter=descent.max_iter,
            first_step=descent.first_step,
            goals=np.array(goals),
            noise=first.noise,
            decrement=self._decrement,
        )
        self._passes = 0
        # S and its inverse, float64 (P, C, C), of the metric between classes, once there is one
        self._to = self._back = None

    def beholder(self) -> BetweenClasses | Weighted | None:
        """Return what is to see the residuals of the next pass for a better metric; often None."""
        sheet, there = self.sheet, self.runs.points
        two = sheet.n_classes == 2 and not self.descent.several
        if two and self._passes in WEIGHTED_TURNS:
            share = max(float(self.runs.shares(self.descent.tol).min()), 1e-3)
            left = self._passes * (1 - share) / share
            return Weighted(sheet, there) if left > WORTH else None
        if not two and self._passes in TURNS and sheet.n_classes <= MOST_CLASSES:
            return BetweenClasses(sheet, there)
        return None

    def coefficients(self, points: Array) -> Array:
        """Return W (P, C, 1 + m) of points V (P, n)."""
        xp, sheet = array_namespace(points), self.sheet
        variables = xp.reshape(points, (len(sheet), sheet.n_classes, sheet.length))
        if self._back is not None:
            variables = beside(self._back, points, points.dtype) @ variables
        parts = [
            self._metrics[span.chain].coefficients(variables[span.probes], span.cuts)
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
            self._metrics[span.chain].gradient(rounded[span.probes], span.cuts)
            for span in sheet.spans
        ]
        whitened = parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
        whitened *= sheet.mask
        if self._back is not None:
            whitened = beside(self._back, whitened, whitened.dtype) @ whitened
        self._passes += 1
        values = losses / self._n_rows + penalty
        self.runs.tell(values, xp.reshape(whitened, (len(sheet), -1)))
        if self.descent.l2 == 0:
            self.runs.status[losses < np.log(2)] = Status.SEPARABLE

    def turn(self, seen: BetweenClasses | Weighted) -> None:
        """Go over to the metric that the residuals show, with all that has been learnt.

        Of a trial that went so far that its logits are no numbers, they show none.
        """
        if isinstance(seen, Weighted):
            if not all(np.isfinite(to_host(total)).all() for total in seen.totals):
                return
            metrics = seen.metrics(self._n_rows, self._whitenings)
            self.runs.change(self._by_chain(metrics, True), self._by_chain(metrics, False))
            self._metrics = metrics
            return
        moments = to_host(seen.totals[0]) / self._n_rows
        if self.descent.several:  # of independent probes
            moments = moments * np.eye(self.sheet.n_classes)
        moments[~np.isfinite(moments).all((1, 2))] = np.eye(self.sheet.n_classes)
        to, back = class_metric(moments, self.descent.l2)
        if self._to is None:
            self.runs.change(self._between(to), self._between(back))
        else:
            self.runs.change(self._between(to @ self._back), self._between(back @ self._to))
        self._to, self._back = to, back

    def _between(self, matrices: np.ndarray) -> Change:
        """Return what multiplies vectors (P, q, C (1 + m)) by (P, C, C) along their classes."""
        shape = (self.sheet.n_classes, self.sheet.length)

        def change(vectors: Array) -> Array:
            xp, own = array_namespace(vectors), beside(matrices, vectors, vectors.dtype)[:, None]
            by_class = xp.reshape(vectors, (*vectors.shape[:2], *shape))
            return xp.reshape(own @ by_class, vectors.shape)

        return change

    def _by_chain(self, metrics: Mapping[int, Metric], points: bool) -> Change:
        """Return what takes points, or gradients, (P, q, C (1 + m)) to other metrics of chains."""
        sheet, before = self.sheet, self._metrics

        def change(vectors: Array) -> Array:
            xp = array_namespace(vectors)
            wide = xp.reshape(vectors, (len(sheet), -1, sheet.length))
            parts = []
            for span in sheet.spans:
                own, old, new = wide[span.probes], before[span.chain], metrics[span.chain]
                if points:
                    found = new.variables(old.coefficients(own, span.cuts))
                else:
                    found = new.gradient(xp.astype(old.restored(own), own.dtype), span.cuts)
                parts.append(xp.astype(found, vectors.dtype))
            found = parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
            return xp.reshape(found * sheet.mask, vectors.shape)

        return change

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
            ends = runs.values[p], runs.norms[p], runs.iterations[p], runs.status[p]
            solutions[int(sheet.numbers[p])] = Solution(kept, *(end.item() for end in ends))
        kept = runs.status == ""
        runs.keep(kept)
        if kept.any():
            sheet.keep(kept)
            if self._to is not None:
                self._to, self._back = self._to[kept], self._back[kept]
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
            _pass(tiles, left, stage)
            report(_standing(solutions, left))
        for one in left:
            one.runs.resume(descent.tol)
    while left:
        _pass(tiles, left, descent.stages[-1])
        for one in left:
            solutions |= one.finished()
        left = [one for one in left if len(one.runs.status)]
        report(_standing(solutions, left))
    return solutions


def _pass(tiles: Tiles, running: Sequence[Running], stage: Stage) -> None:
    weights = [one.coefficients(one.runs.ask()) for one in running]
    sheets = [one.sheet for one in running]
    beholders = [one.beholder() for one in running]
    losses, gradients = losses_and_gradients(
        tiles, sheets, weights, stage.precision, stage.thrice, beholders
    )
    for one, *found, seen in zip(running, weights, losses, gradients, beholders, strict=True):
        one.tell(*found)
        if seen is not None:
            one.turn(seen)


def _standing(solutions: Mapping[int, Solution], left: Sequence[Running]) -> Standing:
    worth = sum(float(np.sum(one.runs.shares(one.descent.tol))) for one in left)
    ended = [solution.objective for solution in solutions.values()]
    values = np.concatenate([ended, *(one.runs.values for one in left)])
    return Standing(len(solutions), len(solutions) + worth, float(values.mean()))

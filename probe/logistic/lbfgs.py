"""Minimisers of many functions in lockstep: L-BFGS that is asked for points and told values."""

from collections.abc import Callable

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, to_host
from probe.forward import like
from probe.logistic.curvature import Curvature
from probe.logistic.linesearch import Steps

PAIRS = 5
# differences of values under this many units of rounding decide nothing
NOISE = 8

# a run whose value and norm have not come down, by this share, in so many steps has met rounding
PATIENCE = 50
LESS = 0.9

# a run has come to rest if this last share of its rounds has gained at most so many tol^2 of the
# value: converging about linearly, it came ten times nearer meanwhile
LAST, GAINED = 0.2, 200
# the largest decrement of a run that has converged, in tol^2 of the value; where it was larger it
# was seen to be half to a twentieth of what was left to gain
LEFT = 3

CONVERGED, MAX_ITER, LINE_SEARCH = "converged", "max_iter", "line_search"

PROGRESS = ("_lowest", "_first_norm", "_least_norm", "_nearest", "_gained", "_goals")


class Lbfgs:
    """P independent runs of L-BFGS, each with its own curvature, step length and end.

    The functions are evaluated elsewhere, all at once: `ask` for the points, `tell` values and
    gradients there, until every `status` is set; `keep` drops those that are done.

    The variables are the caller's: gradient descent with step 1 should be safe in them, since that
    is what a run falls back to. With the inverse curvature H that a run has learnt, g'H g / 2 is
    what the next step is to gain. A run has converged when

    * that is at most tol^2 / 2 of the value;
    * the last fifth of its rounds has gained at most 200 tol^2 of the value, since where progress
      is slow, many more steps of little gain may follow;
    * its `decrement`, in which nothing is learnt, is at most 3 tol^2 of the value, since H says
      nothing of directions in which the run has not been.

    None of it depends on the scale of the function or the variables.

    Arguments:
        start: (P, n), the first points.
        tol: of `norms`.
        max_iter: steps of each run.
        first_step: length of the first trial, in gradients.
        goals: float64 (P,), values at which a run has converged too; None for none.
        noise: differences of values under this share of a value decide nothing; by default some
            units of rounding.
        decrement: returns g'M g of a run where it was evaluated last, with an M that is at most
            the true inverse curvature; None for none.

    Attributes:
        points: (P, n), where the runs stand.
        values: float64 (P,), the functions there.
        gradients: (P, n), of the functions there.
        norms: float64 (P,), sqrt(g'H g / value).
        iterations: int64 (P,), steps taken.
        status: (P,) str, "" while running, else "converged", "max_iter" or "line_search".
    """

    def __init__(
        self, start: Array, *, tol: float, max_iter: int, first_step: float = 1.0,
        goals: np.ndarray | None = None, noise: float | None = None,
        decrement: Callable[[int], float] | None = None,
    ):  # fmt: skip
        xp = array_namespace(start)
        count = len(start)
        self.points = start
        self.values = np.full(count, np.inf)
        self.gradients = xp.zeros_like(start)
        self.norms = np.full(count, np.inf)
        self.iterations = np.zeros(count, np.int64)
        self.status = np.full(count, "", dtype="<U11")
        self._tol, self._max_iter, self._first_step = tol, max_iter, first_step
        self._epsilon = float(xp.finfo(start.dtype).eps)
        self._lowest, self._first_norm, self._least_norm = np.full((3, count), np.inf)
        self._nearest = np.full(count, np.inf)
        self._gained = np.zeros(count, np.int64)
        self._goals = np.full(count, -np.inf) if goals is None else goals
        self._decrement, self._history = decrement, []
        self._direction = xp.zeros_like(start)
        self._slopes = np.zeros(count)
        self._steps = Steps(count, noise or NOISE * self._epsilon)
        self._curvature = Curvature(start, PAIRS)
        self._told = False

    def ask(self) -> Array:
        """Return the points (P, n) at which values and gradients are wanted."""
        return self.points + self._along(self._steps.step)

    def tell(self, values: np.ndarray, gradients: Array) -> None:
        """Take values float64 (P,) and gradients (P, n) at the points asked for."""
        if not self._told:
            self._told = True
            self._begin(values, gradients)
            return
        xp = array_namespace(gradients)
        slopes = to_host(xp.sum(gradients * self._direction, axis=1)).astype(np.float64)
        accepted = self._steps.judge(self.values, self._slopes, values, slopes)
        accepted &= self.status == ""
        step = self._along(np.where(accepted, self._steps.step, 0.0))
        taken = self._mask(accepted)
        change = xp.where(taken, gradients - self.gradients, 0)
        self.points = self.points + step
        self.gradients = xp.where(taken, gradients, self.gradients)
        self.values = np.where(accepted, values, self.values)
        self.iterations += accepted
        self._turn(accepted, step, change)

    def resume(self, tol: float) -> None:
        """Let all runs go on from where they stand, with what they have learnt, to another `tol`.

        Their functions may have changed a little: what is told next is how they are there.
        """
        self.status[:] = ""
        self._direction = array_namespace(self.points).zeros_like(self.points)
        self._steps = Steps(len(self.values), NOISE * self._epsilon)
        self._tol, self._told, self._history = tol, False, []
        self._lowest[:] = self._least_norm[:] = np.inf
        self._gained[:] = self.iterations

    def shares(self, tol: float) -> np.ndarray:
        """Return how far each run has come from its first norm to tol, float64 (P,), in logarithms.

        Runs converge about linearly, so that this is the share of its steps which a run has taken.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            come = np.log(self._first_norm / self._nearest)
            whole = np.log(self._first_norm / tol)
            return np.clip(np.nan_to_num(come / whole), 0, 1)

    def keep(self, kept: np.ndarray) -> None:
        """Drop all but the runs in a mask."""
        xp = array_namespace(self.points)
        rows = xp.asarray(np.flatnonzero(kept), device=self.points.device)
        for name in ("points", "gradients", "_direction"):
            setattr(self, name, getattr(self, name)[rows])
        for name in ("values", "norms", "iterations", "status", "_slopes", *PROGRESS):
            setattr(self, name, getattr(self, name)[kept])
        self._history = [values[kept] for values in self._history]
        self._steps.keep(kept)
        self._curvature.keep(kept)

    def _begin(self, values: np.ndarray, gradients: Array) -> None:
        xp, none = array_namespace(gradients), np.zeros(len(values), bool)
        self.values, self.gradients, nothing = values, gradients, xp.zeros_like(gradients)
        direction, slopes, squares = self._curvature.advance(none, nothing, nothing, gradients)
        learnt = self._curvature.known() & (slopes < 0)
        self._direction = xp.where(self._mask(learnt), direction, -gradients)
        self._slopes = np.where(learnt, slopes, -squares)
        self._steps.start(~learnt, self._slopes, self._first_step)
        self._steps.start(learnt, self._slopes)
        self._finish(squares == 0, learnt)

    def _turn(self, accepted: np.ndarray, step: Array, change: Array) -> None:
        """Give the runs that moved a new direction, and the runs that cannot move a last chance."""
        xp = array_namespace(step)
        direction, slopes, squares = self._curvature.advance(accepted, step, change, self.gradients)
        stuck = ~accepted & self._steps.exhausted & (self.status == "")
        hopeless = stuck & ~self._curvature.known()
        downhill = (accepted & ~(slopes < 0)) | (stuck & ~hopeless)
        if downhill.any():
            self._curvature.forget(downhill)
            direction = xp.where(self._mask(downhill), -self.gradients, direction)
            slopes = np.where(downhill, -squares, slopes)
        turned = accepted | downhill
        self._direction = xp.where(self._mask(turned), direction, self._direction)
        self._slopes = np.where(turned, slopes, self._slopes)
        self._steps.start(turned, self._slopes)
        self.status[hopeless] = LINE_SEARCH
        # a run that has just forgotten its curvature cannot tell how far it is
        learnt = self._curvature.known() & turned
        self._finish(squares == 0, learnt)

    def _finish(self, still: np.ndarray, learnt: np.ndarray) -> None:
        """Set the status of the runs that are over, given masks of zero gradients and learnt H."""
        with np.errstate(divide="ignore", invalid="ignore"):
            self.norms = np.sqrt(-self._slopes / np.abs(self.values))
        self._first_norm = np.where(np.isinf(self._first_norm), self.norms, self._first_norm)
        self._nearest = np.fmin(self._nearest, self.norms)
        self._history.append(self.values)
        running = self.status == ""
        allowed = self._tol**2 * np.abs(self.values)
        converged = running & learnt & (-self._slopes <= allowed) & self._at_rest(allowed)
        if self._decrement is not None:
            for run in np.flatnonzero(converged):
                converged[run] = self._decrement(int(run)) <= LEFT * allowed[run]
        self.status[running & self._stalled()] = LINE_SEARCH
        self.status[running & (self.iterations >= self._max_iter)] = MAX_ITER
        self.status[converged | still | (self.values <= self._goals)] = CONVERGED

    def _at_rest(self, allowed: np.ndarray) -> np.ndarray:
        """Return which runs have gained little in the last share of their rounds, bool (P,)."""
        rounds = len(self._history)
        before = self._history[max(0, min(rounds - 2, int((1 - LAST) * rounds)))]
        rounding = NOISE * self._epsilon * np.abs(self.values)
        return before - self.values <= np.maximum(GAINED * allowed, rounding)

    def _stalled(self) -> np.ndarray:
        """Return which runs have long gained nothing that is not rounding."""
        gain = self._lowest - self.values > self._epsilon * np.abs(self.values)
        gain |= self.norms < LESS * self._least_norm
        self._gained = np.where(gain, self.iterations, self._gained)
        self._lowest = np.where(gain, self.values, self._lowest)
        self._least_norm = np.where(gain, np.fmin(self.norms, self._least_norm), self._least_norm)
        return self.iterations - self._gained >= PATIENCE

    def _squares(self, vectors: Array) -> np.ndarray:
        xp = array_namespace(vectors)
        return to_host(xp.sum(vectors * vectors, axis=1)).astype(np.float64)

    def _along(self, lengths: np.ndarray) -> Array:
        xp = array_namespace(self._direction)
        return xp.asarray(lengths, **like(self._direction))[:, None] * self._direction

    def _mask(self, which: np.ndarray) -> Array:
        xp = array_namespace(self.points)
        return xp.asarray(which, device=self.points.device)[:, None]

"""L-BFGS of many problems at once."""

from collections.abc import Callable

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import (
    Array,
    beside,
    like,
    on_device,
    to_host,
)
from featstore.probe.statuses import Status

# numbers of a vector that are one part of it on a device, at the least, and parts at the most
_PART, _MOST_PARTS = 4096, 64


Change = Callable[[Array], Array]
"""Takes vectors (P, q, n) of P functions to other variables."""


class Curvature:
    """The last m pairs of steps s and gradient changes y of P functions, and what they imply.

    The direction -H g of L-BFGS is a combination of g and the pairs, whose coefficients depend on
    their inner products alone. Those are kept in float64 on the host, where the two-loop
    recursion runs for all functions at once; the vectors are read twice a step, by one batched
    product each, whatever m is. On a device long vectors are cut into parts, of which each product
    is one of a batch: P products of a few rows would leave most of it idle.

    Arguments:
        vectors: (P, n), tells shape, dtype and device.
        pairs: m.
        part: numbers of a vector that are a part at the least.

    References:
        Nocedal, "Updating quasi-Newton matrices with limited storage", Math. Comp. 1980.
        Chen, Wang and Zhou, "Large-scale L-BFGS using MapReduce", NeurIPS 2014, for the
        recursion on inner products.
    """

    def __init__(self, vectors: Array, pairs: int, part: int = _PART):
        count, length = vectors.shape
        xp = array_namespace(vectors)
        self._parts = 1
        if on_device(vectors):
            most = range(1, 1 + min(_MOST_PARTS, length // part))
            self._parts = max((parts for parts in most if length % parts == 0), default=1)
        # steps in the first m places, gradient changes in the others; part after part of a function
        shape = (count * self._parts, 2 * pairs, length // self._parts)
        self._basis = xp.zeros(shape, **like(vectors))
        self._pairs = pairs
        self._next = np.zeros(count, np.int64)
        self._filled = np.zeros((count, pairs), bool)
        self._products = np.zeros((count, 2 * pairs, 2 * pairs))

    def advance(
        self, moved: np.ndarray, step: Array, change: Array, gradient: Array
    ) -> tuple[Array, np.ndarray, np.ndarray]:
        """Take in the latest pairs and return -H g, its slope -g'H g, and g'g.

        A pair with s'y <= 0, which only rounding makes of a convex function, is left out, and so is
        one with s'y or y'y too small to be divided by; a function without pairs gets -g.

        Arguments:
            moved: bool (P,), the functions that took a step; of the others nothing is learnt.
            step: (P, n), s.
            change: (P, n), y.
            gradient: (P, n), g.
        """
        xp = array_namespace(gradient)
        slots = self._store(moved, step, change)
        trio = xp.stack([self._cut(array) for array in (step, change, gradient)], axis=1)
        found = self._basis @ xp.permute_dims(trio, (0, 2, 1))
        if self._parts > 1:
            by_part = xp.reshape(found, (len(gradient), self._parts, *found.shape[1:]))
            found = xp.sum(by_part, axis=1, dtype=xp.float64)
        products = _host(found)
        which = np.flatnonzero(moved)
        for number, place in enumerate((slots, slots + self._pairs)):
            new = products[which, :, number]
            self._products[which, :, place[which]] = new
            self._products[which, place[which], :] = new
        own, other = slots[which], slots[which] + self._pairs
        sy, yy = self._products[which, own, other], self._products[which, other, other]
        kept = np.minimum(sy, yy) >= np.finfo(np.float64).tiny
        self._filled[which, slots[which]] = kept
        self._next[which] = (slots[which] + kept) % self._pairs
        squares = _host(xp.sum(gradient * gradient, axis=1))
        return *self._direction(gradient, products[:, :, 2], squares), squares

    def _store(self, moved: np.ndarray, step: Array, change: Array) -> np.ndarray:
        """Write the pairs over the oldest ones; return their places, int64 (P,)."""
        which = np.flatnonzero(moved)
        places = self._next.copy()
        slots = np.repeat(places[which], self._parts)
        rows, slots = (beside(a, step) for a in (self._lines(which), slots))
        self._basis[rows, slots] = self._cut(step)[rows]
        self._basis[rows, slots + self._pairs] = self._cut(change)[rows]
        return places

    def _cut(self, vectors: Array) -> Array:
        """Return vectors (P, n) as their parts, one below the other."""
        return array_namespace(vectors).reshape(vectors, (-1, self._basis.shape[2]))

    def _lines(self, which: np.ndarray) -> np.ndarray:
        """Return the lines of the basis that these functions have, int64."""
        return (which[:, None] * self._parts + np.arange(self._parts)).reshape(-1)

    def _direction(
        self, gradient: Array, along: np.ndarray, squares: np.ndarray
    ) -> tuple[Array, np.ndarray]:
        """Return -H g and its slope, given the basis' products with g, `along` (P, 2m)."""
        gamma, weights = self._recursion(along)
        slope = -(gamma * squares + (weights * along).sum(1))
        shares = np.repeat(-weights, self._parts, axis=0)
        scale, shares = (beside(a, gradient, gradient.dtype) for a in (-gamma, shares))
        direction = (shares[:, None, :] @ self._basis)[:, 0, :]
        direction = array_namespace(direction).reshape(direction, gradient.shape)
        direction += scale[:, None] * gradient
        return direction, slope

    def _recursion(self, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gamma (P,) and weights (P, 2m) such that H g = gamma g + weights @ basis."""
        m, rows = self._pairs, np.arange(len(along))
        sy = self._products[:, :m, m:]  # s_i'y_j
        yy = self._products[:, m:, m:]
        newest_first = (self._next[:, None] - 1 - np.arange(m)) % m
        last = newest_first[:, 0]
        # of places without a pair
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rho = np.where(self._filled, 1 / np.einsum("pii->pi", sy), 0.0)
            gamma = sy[rows, last, last] / yy[rows, last, last]
        gamma = np.where(self._filled[rows, last], gamma, 1.0)
        alpha, beta = np.zeros((2, len(along), m))
        for i in newest_first.T:
            dot = along[rows, i] - (alpha * sy[rows, i]).sum(1)
            alpha[rows, i] = rho[rows, i] * dot
        change_dot = gamma[:, None] * (along[:, m:] - np.einsum("pij,pj->pi", yy, alpha))
        for i in newest_first.T[::-1]:
            dot = change_dot[rows, i] + (beta * sy[rows, :, i]).sum(1)
            beta[rows, i] = alpha[rows, i] - rho[rows, i] * dot
        return gamma, np.concatenate([beta, -gamma[:, None] * alpha], axis=1)

    def change(self, to: Change, back: Change) -> None:
        """Go over to other variables, to which steps go by `to` and gradients by `back`."""
        xp, parts, (lines, count, length) = (
            array_namespace(self._basis),
            self._parts,
            self._basis.shape,
        )
        cut = (lines // parts, parts, count, length)
        whole = xp.permute_dims(xp.reshape(self._basis, cut), (0, 2, 1, 3))
        whole = xp.reshape(whole, (lines // parts, count, parts * length))
        steps, changes = whole[:, : self._pairs], whole[:, self._pairs :]
        whole = xp.concat([to(steps), back(changes)], axis=1)
        self._products = _host(whole @ xp.permute_dims(whole, (0, 2, 1)))
        cut = xp.reshape(whole, (lines // parts, count, parts, length))
        self._basis = xp.reshape(xp.permute_dims(cut, (0, 2, 1, 3)), self._basis.shape)

    def known(self) -> np.ndarray:
        """Return which functions have a pair, bool (P,)."""
        return self._filled.any(1)

    def forget(self, which: np.ndarray) -> None:
        """Drop the pairs of the functions in a mask."""
        self._filled[which] = False

    def keep(self, kept: np.ndarray) -> None:
        """Drop all but the functions in a mask."""
        rows = beside(self._lines(np.flatnonzero(kept)), self._basis)
        self._basis = self._basis[rows]
        self._next, self._filled = self._next[kept], self._filled[kept]
        self._products = self._products[kept]


def _host(array: Array) -> np.ndarray:
    return to_host(array).astype(np.float64)


# sufficient decrease and curvature, as usual for quasi-Newton directions
_DECREASE = 1e-4
_CURVATURE = 0.9
TRIALS = 25
# a trial moves at most this near to the ends of its bracket, and expands it at most this much
NEAREST = 0.1
_FARTHEST = 8.0


class Steps:
    """The brackets of P line searches for weak Wolfe points.

    Along its direction d from x a probe's function is f(t) = f(x + t d). A step is accepted if

        f(t) <= f(0) + 1e-4 t f'(0)   and   f'(t) >= 0.9 f'(0).

    Differences of f that are lost to rounding say nothing. There the first condition is replaced
    by its derivative form, f'(t) <= (2e-4 - 1) f'(0), provided that f(t) <= f(0) + noise |f(0)|.

    Attributes:
        step: float64 (P,), the trial that is asked for.
        trials: int64 (P,), trials so far along the present direction.

    Reference:
        Hager and Zhang, "A new conjugate gradient method with guaranteed descent and an efficient
        line search", SIAM J. Optim. 2005, for the approximate condition.
    """

    def __init__(self, n_probes: int, noise: float):
        self.noise = noise
        self.step = np.ones(n_probes)
        self.trials = np.zeros(n_probes, np.int64)
        self._low = np.zeros(n_probes)
        self._high = np.full(n_probes, np.inf)
        self._low_slope = np.zeros(n_probes)
        self._high_slope = np.full(n_probes, np.nan)

    def start(self, searches: np.ndarray, slopes: np.ndarray, step: float = 1.0) -> None:
        """Begin anew for these probes (a mask), whose f'(0) are `slopes` (P,)."""
        self.step[searches] = step
        self.trials[searches] = 0
        self._low[searches] = 0.0
        self._high[searches] = np.inf
        self._low_slope[searches] = slopes[searches]
        self._high_slope[searches] = np.nan

    def judge(
        self, before: np.ndarray, slope: np.ndarray, value: np.ndarray, trial_slope: np.ndarray
    ) -> np.ndarray:
        """Return which trials are accepted, bool (P,), and choose the next step of the others.

        Arguments:
            before: float64 (P,), f(0).
            slope: float64 (P,), f'(0), negative.
            value: float64 (P,), f at the trial; NaN or infinite if it went too far.
            trial_slope: float64 (P,), f' there.
        """
        self.trials += 1
        with np.errstate(invalid="ignore"):
            decreased = value <= before + _DECREASE * self.step * slope
            level = value <= before + self.noise * np.abs(before)
            decreased |= level & (trial_slope <= (2 * _DECREASE - 1) * slope)
            flat = trial_slope >= _CURVATURE * slope
        self._narrow(~decreased, decreased & ~flat, trial_slope)
        return decreased & flat

    def _narrow(self, too_long: np.ndarray, too_short: np.ndarray, slope: np.ndarray) -> None:
        self._high = np.where(too_long, self.step, self._high)
        self._high_slope = np.where(too_long, slope, self._high_slope)
        self._low = np.where(too_short, self.step, self._low)
        before = self._low_slope
        self._low_slope = np.where(too_short, slope, self._low_slope)
        inside = self._between()
        outside = self._beyond(before)
        chosen = np.where(np.isfinite(self._high), inside, outside)
        self.step = np.where(too_long | too_short, chosen, self.step)

    def _between(self) -> np.ndarray:
        """Return where the secant of the slopes crosses zero, off the ends; else the middle."""
        with np.errstate(invalid="ignore", divide="ignore"):
            width = self._high - self._low
            share = self._low_slope / (self._low_slope - self._high_slope)
            usable = (self._high_slope > 0) & np.isfinite(share)
            share = np.where(usable, np.clip(share, NEAREST, 1 - NEAREST), 0.5)
            return self._low + share * width

    def _beyond(self, slope_before: np.ndarray) -> np.ndarray:
        """Return where the slopes so far, extrapolated, reach zero, between 2 and 8 steps out."""
        with np.errstate(invalid="ignore", divide="ignore"):
            reach = self._low_slope / (slope_before - self._low_slope)
            reach = np.where(np.isfinite(reach) & (reach < 0), _FARTHEST, reach)
            factor = np.clip(np.nan_to_num(1 + reach, nan=2.0), 2.0, _FARTHEST)
            return self.step * factor

    @property
    def exhausted(self) -> np.ndarray:
        """Return which searches have used up their trials, bool (P,)."""
        return self.trials >= TRIALS

    def keep(self, kept: np.ndarray) -> None:
        """Drop all but these probes (a mask)."""
        for name in ("step", "trials", "_low", "_high", "_low_slope", "_high_slope"):
            setattr(self, name, getattr(self, name)[kept])


PAIRS = 5
# differences of values under this many units of rounding decide nothing
NOISE = 8

# a run whose value and norm have not come down, by this share, in so many steps has met rounding
PATIENCE = 50
_LESS = 0.9

# a run has come to rest if this last share of its rounds has gained at most so many tol^2 of the
# value: converging about linearly, it came ten times nearer meanwhile
LAST, GAINED = 0.2, 200
# the largest decrement of a run that has converged, in tol^2 of the value; where it was larger it
# was seen to be half to a twentieth of what was left to gain
LEFT = 3


_PROGRESS = ("_lowest", "_first_norm", "_least_norm", "_nearest", "_gained", "_goals")


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
        self,
        start: Array,
        *,
        tol: float,
        max_iter: int,
        first_step: float = 1.0,
        goals: np.ndarray | None = None,
        noise: float | None = None,
        decrement: Callable[[int], float] | None = None,
    ):
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

    def change(self, to: Change, back: Change) -> None:
        """Go over to other variables, to which points go by `to` and gradients by `back`.

        With x' = S x, `to` is S and `back` the inverse of its transpose: what is learnt is kept.
        """
        one = lambda change, vectors: change(vectors[:, None])[:, 0]  # noqa: E731
        self.points, self.gradients = one(to, self.points), one(back, self.gradients)
        self._direction = one(to, self._direction)
        self._curvature.change(to, back)

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
        rows = beside(np.flatnonzero(kept), self.points)
        for name in ("points", "gradients", "_direction"):
            setattr(self, name, getattr(self, name)[rows])
        for name in ("values", "norms", "iterations", "status", "_slopes", *_PROGRESS):
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
        self.status[hopeless] = Status.LINE_SEARCH
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
        self.status[running & self._stalled()] = Status.LINE_SEARCH
        self.status[running & (self.iterations >= self._max_iter)] = Status.MAX_ITER
        self.status[converged | still | (self.values <= self._goals)] = Status.CONVERGED

    def _at_rest(self, allowed: np.ndarray) -> np.ndarray:
        """Return which runs have gained little in the last share of their rounds, bool (P,)."""
        rounds = len(self._history)
        before = self._history[max(0, min(rounds - 2, int((1 - LAST) * rounds)))]
        rounding = NOISE * self._epsilon * np.abs(self.values)
        return before - self.values <= np.maximum(GAINED * allowed, rounding)

    def _stalled(self) -> np.ndarray:
        """Return which runs have long gained nothing that is not rounding."""
        gain = self._lowest - self.values > self._epsilon * np.abs(self.values)
        gain |= self.norms < _LESS * self._least_norm
        self._gained = np.where(gain, self.iterations, self._gained)
        self._lowest = np.where(gain, self.values, self._lowest)
        self._least_norm = np.where(gain, np.fmin(self.norms, self._least_norm), self._least_norm)
        return self.iterations - self._gained >= PATIENCE

    def _along(self, lengths: np.ndarray) -> Array:
        return beside(lengths, self._direction, self._direction.dtype)[:, None] * self._direction

    def _mask(self, which: np.ndarray) -> Array:
        return beside(which, self.points)[:, None]

"""Step lengths of many line searches in lockstep: one trial of each a round."""

import numpy as np

# sufficient decrease and curvature, as usual for quasi-Newton directions
DECREASE = 1e-4
CURVATURE = 0.9
TRIALS = 25
# a trial moves at most this near to the ends of its bracket, and expands it at most this much
NEAREST = 0.1
FARTHEST = 8.0


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
            decreased = value <= before + DECREASE * self.step * slope
            level = value <= before + self.noise * np.abs(before)
            decreased |= level & (trial_slope <= (2 * DECREASE - 1) * slope)
            flat = trial_slope >= CURVATURE * slope
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
        """Where the secant of the slopes crosses zero, kept off the ends; else the middle."""
        with np.errstate(invalid="ignore", divide="ignore"):
            width = self._high - self._low
            share = self._low_slope / (self._low_slope - self._high_slope)
            usable = (self._high_slope > 0) & np.isfinite(share)
            share = np.where(usable, np.clip(share, NEAREST, 1 - NEAREST), 0.5)
            return self._low + share * width

    def _beyond(self, slope_before: np.ndarray) -> np.ndarray:
        """Where the slopes so far, extrapolated, reach zero, between 2 and 8 steps out."""
        with np.errstate(invalid="ignore", divide="ignore"):
            reach = self._low_slope / (slope_before - self._low_slope)
            reach = np.where(np.isfinite(reach) & (reach < 0), FARTHEST, reach)
            factor = np.clip(np.nan_to_num(1 + reach, nan=2.0), 2.0, FARTHEST)
            return self.step * factor

    @property
    def exhausted(self) -> np.ndarray:
        """Which searches have used up their trials, bool (P,)."""
        return self.trials >= TRIALS

    def keep(self, kept: np.ndarray) -> None:
        """Drop all but these probes (a mask)."""
        for name in ("step", "trials", "_low", "_high", "_low_slope", "_high_slope"):
            setattr(self, name, getattr(self, name)[kept])

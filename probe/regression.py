"""How well numbers are predicted: R^2, and mean squared and absolute errors."""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, to_host
from probe.by_row import RowSink


@dataclass(frozen=True)
class Errors:
    """How far predicted numbers are off.

    Attributes:
        off: float64 (p, rows, T), what is predicted less the target.
        targets: float64 (rows, T).
    """

    off: Array
    targets: Array

    @property
    def finite(self) -> Array:
        """Whether everything that a probe predicts is a finite number, bool (p,)."""
        xp = array_namespace(self.off)
        return xp.all(xp.isfinite(self.off), axis=(1, 2))


def errors(predicted: Array, targets: Array) -> Errors:
    """Return the errors of predictions (p, rows, T) of targets, float64 (rows,) or (rows, T)."""
    xp = array_namespace(predicted)
    targets = xp.reshape(targets, (predicted.shape[1], -1))
    return Errors(xp.astype(predicted, xp.float64) - targets, targets)


class Regression:
    """Errors of T predicted numbers f against targets y, summed over rows in float64.

    Three columns, each the plain mean over the targets:

        r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2,   mse = mean (y - f)^2,   mae = mean |y - f|

    with the mean of y over the rows that are scored. A target that is the same in all of them has
    an r2 of NaN.

    Attributes:
        squares: float64 (P, T), sum of (y - f)^2.
        magnitudes: float64 (P, T), sum of |y - f|.
        first, second: float64 (P, T), sums of y and of y^2.
        rows: int64 (P,), rows that each probe has seen.
        sink: takes the part of each row in R^2; None where that is not kept.
    """

    def __init__(self, n_probes: int, n_targets: int, sink: RowSink | None = None):
        self.sink = sink
        if sink:
            targets = sink.rows.labels.reshape(len(sink.rows.labels), -1)
            squares = (targets - targets.mean(0)) ** 2
            variance = squares.mean(0)
            self._variance = np.where(variance > 0, variance, np.nan)
            self._deviations = squares / self._variance
        self.squares, self.magnitudes = np.zeros((2, n_probes, n_targets))
        self.first, self.second = np.zeros((2, n_probes, n_targets))
        self.rows = np.zeros(n_probes, np.int64)

    @property
    def sums(self) -> list[np.ndarray]:
        """What adds up over rows."""
        return [self.squares, self.magnitudes, self.first, self.second, self.rows]

    def add(self, probes: np.ndarray, stand: "Errors") -> None:
        """Sum what these probes are off by, and what the targets are."""
        off, targets = stand.off, stand.targets
        xp = array_namespace(off)
        self.squares[probes] += to_host(xp.sum(off * off, axis=1))
        self.magnitudes[probes] += to_host(xp.sum(xp.abs(off), axis=1))
        self.first[probes] += to_host(xp.sum(targets, axis=0))
        self.second[probes] += to_host(xp.sum(targets * targets, axis=0))
        self.rows[probes] += len(targets)
        if self.sink:
            self.sink.add(probes, (to_host(off) ** 2 / self._variance).mean(2))

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are summed as they come."""

    def close(self) -> None:
        """Turn what the sink has of each row into values whose mean is R^2, in place.

        With q = (y - f)^2 / v and d = (y - mean y)^2 / v, v the mean of (y - mean y)^2, R^2 is
        1 - mean q. Of drawn rows v is another, and to first order so is the mean of

            1 - q + (1 - R^2) (d - 1),

        averaged over the targets: its values are R^2 plus each row's influence on it, so that their
        variance over n is the variance of R^2 over test rows.
        """
        missed = self.squares / self.rows[:, None] / self._variance
        kept, targets = self.sink.rows.kept, self._deviations.shape[1]
        for probe, share in enumerate(missed):
            further = (self._deviations - 1) @ share / targets
            kept[probe] = (1 - kept[probe].astype(np.float64) + further).astype(np.float32)

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"r2": ..., "mse": ..., "mae": ...}, float64 (P,) each."""
        rows = self.rows[:, None]
        around_mean = self.second - self.first**2 / rows
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = 1 - self.squares / np.where(around_mean > 0, around_mean, np.nan)
            mse, mae = self.squares / rows, self.magnitudes / rows
        return {"r2": r2.mean(1), "mse": mse.mean(1), "mae": mae.mean(1)}

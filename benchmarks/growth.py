"""How time and memory grow with one axis of a problem, the others held: a slope in log-log."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.sizes import ProbeSizes

TARGETS = {"fractions": 0.2, "seeds": 1.0, "rows": 1.0}
"""The steepest that time may grow along an axis, as a power of it."""

MAKE_PROBES = ("fractions", "seeds")
"""Axes along which there are more and more probes."""


@dataclass(frozen=True)
class Growth:
    """Measurements along one axis.

    Attributes:
        axis: "fractions", "seeds", "classes", "rows" or "features".
        values: of the axis, rising.
        probes: solved at each value.
        seconds: taken at each value.
        bytes: peak memory at each value, above what was held before.
        target: the steepest slope of time that is wanted; None for none.
    """

    axis: str
    values: Sequence[int]
    probes: Sequence[int]
    seconds: Sequence[float]
    bytes: Sequence[int]
    target: float | None = None

    @property
    def slope(self) -> float:
        """The power of the axis with which time grows: the slope in log-log."""
        return slope(self.values, self.seconds)

    @property
    def memory_slope(self) -> float:
        """The power with which memory grows: of the number of probes where the axis makes those."""
        return slope(self.probes if self.axis in MAKE_PROBES else self.values, self.bytes)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row of a table for each value; the slopes stand in the last."""
        rows = []
        points = zip(self.values, self.probes, self.seconds, self.bytes, strict=True)
        for place, (value, probes, seconds, held) in enumerate(points, start=1):
            last = place == len(self.values)
            wanted = "" if self.target is None else f"<= {self.target:g}"
            rows.append(
                {
                    "axis": self.axis if place == 1 else "",
                    "value": value,
                    "probes": probes,
                    "seconds": float(seconds),
                    "probes/s": probes / seconds,
                    "peak MiB": round(held / 2**20, 1),
                    "slope": _signed(self.slope) if last else "",
                    "target": wanted if last else "",
                    "memory": _signed(self.memory_slope) if last else "",
                }
            )
        return rows


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no "-0.00"


def slope(values: Sequence[float], measured: Sequence[float]) -> float:
    """Return b of the least-squares line log(measured) = a + b log(values).

    Example:
        >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    positive = np.maximum(np.asarray(measured, float), 1e-12)
    return float(np.polyfit(np.log(values), np.log(positive), 1)[0])


def points(sizes: ProbeSizes) -> dict[str, list[ProbeSizes]]:
    """Return for each axis the problems to solve, about one of half the rows and features.

    Example:
        >>> sizes = ProbeSizes(rows=800, features=64, classes=8, fractions=5, seeds=2)
        >>> [(p.rows, p.features) for p in points(sizes)["rows"]]
        [(100, 32), (200, 32), (400, 32), (800, 32)]
    """
    # a probe takes at least one feature, so that there are at most as many fractions as features
    middle = replace(
        sizes, rows=sizes.rows // 2, features=max(sizes.features // 2, sizes.fractions)
    )
    most = min(8 * sizes.fractions, middle.features)
    count = sizes.points
    along = {
        "fractions": _halved(most, count),
        "seeds": [1 << place for place in range(count)],
        "classes": _halved(sizes.classes, count, least=2),
        "rows": _halved(sizes.rows, count),
        "features": _halved(sizes.features, count, least=sizes.fractions),
    }
    return {
        axis: [replace(middle, **{axis: value}) for value in values]
        for axis, values in along.items()
    }


def _halved(value: int, count: int, least: int = 1) -> list[int]:
    return sorted({max(least, value >> by) for by in range(count)})


def grown(sizes: ProbeSizes, solve: Callable[[ProbeSizes], tuple[float, int, int]]) -> list[Growth]:
    """Return the growth along every axis.

    Arguments:
        sizes: the largest rows, features and classes.
        solve: returns seconds, peak bytes and number of probes of a problem of some sizes.
    """
    found = []
    for axis, problems in points(sizes).items():
        seconds, held, probes = zip(*map(solve, problems), strict=True)
        values = [getattr(problem, axis) for problem in problems]
        found.append(Growth(axis, values, probes, seconds, held, TARGETS.get(axis)))
    return found

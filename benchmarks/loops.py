"""Other libraries that solve the same probes: which there are, and the time of a loop, scaled."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featstore import measurements
from featstore.bench import Pair
from featstore.probe.errors import UsageError

PACKAGES = {
    "sklearn": "sklearn",
    "torch-loop": "torch",
    "cuml": "cuml",
    "himalaya": "himalaya",
    "probekit": "probekit",
}
REMEDIES = {
    "sklearn": 'pip install "featstore-probe[bench]"',
    "himalaya": 'pip install "featstore-probe[bench]"',
    "probekit": "pip install --no-deps probekit, whose probes need torch and scikit-learn alone",
    "cuml": "a CUDA device and RAPIDS' package for its CUDA (pip install cuml-cu13)",
}


def wanted(against: Sequence[str] | None, offered: Sequence[str]) -> tuple[str, ...]:
    """Return the loops to measure: those asked for, or all of the stage that are installed.

    Raises:
        UsageError: the stage has no such loop, or its package is not installed.
    """
    if against is None:
        return tuple(name for name in offered if installed(name))
    for name in against:
        if name not in offered:
            has = f"it has {', '.join(offered)}" if offered else "it has none of these"
            raise UsageError(f"this stage is not compared with {name!r}: {has}")
        if not installed(name):
            raise UsageError(f"{name} is not installed: it takes {REMEDIES[name]}")
    return tuple(dict.fromkeys(against))


def installed(name: str) -> bool:
    """Return whether what a loop needs is there."""
    return importlib.util.find_spec(PACKAGES[name]) is not None


def picks(count: int, wanted: int) -> list[int]:
    """Return up to `wanted` of `count` places, the first and the last among them, evenly spaced.

    Example:
        >>> picks(21, 4)
        [0, 7, 13, 20]
    """
    return sorted({round(place) for place in np.linspace(0, count - 1, min(wanted, count))})


@dataclass(frozen=True)
class LoopTime:
    """The time of a loop, of which some probes were run.

    Attributes:
        name: which loop.
        run: how many probes were run.
        probes: how many the loop has.
        seconds: of all of them, those not run interpolated.
        answers: what each probe that was run gave.
    """

    name: str
    run: int
    probes: int
    seconds: float
    answers: list[Any]

    def row(self, ours: float, agreement: str) -> dict[str, Any]:
        """Return a row of the table that compares loops with `ours` seconds for all probes."""
        return compared(f"{self.name}, {self.run} run", self.probes, self.seconds, ours, agreement)


def compared(
    what: str, probes: int, seconds: float, ours: float, agreement: str = ""
) -> dict[str, Any]:
    """Return a row: how long `probes` take, and how many times as long as ours that is."""
    return {
        "what": what,
        "probes": probes,
        "seconds": float(seconds),
        "probes/s": probes / seconds,
        "of ours": seconds / ours,
        "agreement": agreement,
    }


def timed(
    name: str, sizes: Sequence[int], run: Iterable[int], fit: Callable[[int], Any]
) -> LoopTime:
    """Return the time of a loop over probes of these sizes k, of which only some are run.

    Time is taken as a power of k between the probes that were run.

    Arguments:
        name: which loop.
        sizes: k of every probe of the loop, seed after seed.
        run: places in `sizes` to run, of rising k.
        fit: fits the probe at a place.
    """
    places = list(run)
    fit(places[0])  # warms up
    times, answers = [], []
    for place in places:
        spent, answer = measurements.seconds(lambda place=place: fit(place))
        times.append(spent)
        answers.append(answer)
    known = np.log([sizes[place] for place in places])
    every = np.exp(np.interp(np.log(sizes), known, np.log(times)))
    return LoopTime(name, len(places), len(sizes), float(every.sum()), answers)


def standardised(train: Pair, *others: Pair) -> list[np.ndarray]:
    """Return features of train, then of the others, less train's mean and by its deviation."""
    mean = train[0].mean(0, dtype=np.float64)
    deviation = train[0].std(0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1)
    return [((x - mean) / scale).astype(np.float32) for x, _ in (train, *others)]

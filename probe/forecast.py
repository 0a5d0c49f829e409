"""How long a sweep will take here: the operations of its plan over a measured rate of products."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from probe.arrays import Backend, to_host
from probe.penalties import LOO, Penalties
from probe.progress import Progress
from probe.selection import part_count

PHASES = ("reading", "choosing", "solving", "scoring")
"""What a group of chains goes through, in this order."""

RUNGS = 8
"""Penalties that a probe tries where it chooses among all: most have their choice by then."""

PASSES = {"choosing": 18, "solving": 45}
"""Passes over train rows of a softmax probe: with each penalty that is tried, and with its own."""

SHARES = {"ridge": 0.35, "lda": 0.3, "logistic": 0.25, "sgd": 0.15}
"""What solvers reach of the rate of large matrix products."""

EPOCHS = 100
"""Of the solver sgd."""

PASS_SECONDS = 0.003
"""What a pass takes however few rows there are: a few dozen small products."""


@dataclass(frozen=True)
class Shape:
    """Rows of train and test, outputs (classes or targets) and features of a layer."""

    train: int
    test: int
    outputs: int
    features: int


@dataclass(frozen=True)
class Trials:
    """How penalties come about.

    Attributes:
        rungs: penalties tried by each probe; 0 where they are given.
        parts: held-out parts that each is tried on; 0 for leave-one-out.
        given: penalties that are each solved.
    """

    rungs: int = 0
    parts: int = 0
    given: int = 1


def seconds(
    solver: str, chains: Sequence[Sequence[int]], shape: Shape, trials: Trials, rate: float,
    epochs: int = EPOCHS,
) -> dict[str, float]:  # fmt: skip
    """Return about how many seconds each of `PHASES` of a group of chains takes.

    Arguments:
        solver: a key of `probe.solvers.SOLVERS`.
        chains: the sizes of the prefixes of each chain.
        shape: of the layer.
        trials: how penalties come about.
        rate: operations a second of matrix products, as `products` measures it.
        epochs: of sgd.
    """
    summed, longest = sum(map(sum, chains)), [max(sizes) for sizes in chains]
    if solver in ("ridge", "lda"):
        factors = sum(k**3 / 3 for k in longest)
        rows = sum(min(2.0 * shape.outputs * sum(sizes), k * (k + 2.0 * shape.outputs))
                   for k, sizes in zip(longest, chains, strict=True))  # fmt: skip
        left_out = sum(k * (k + 2.0 * shape.outputs) for k in longest)
        per_try = (
            shape.train * left_out + factors if not trials.parts else
            trials.parts * factors + 0.1 * trials.parts * shape.train * rows
        )  # fmt: skip
        operations = {"solving": trials.given * factors, "choosing": trials.rungs * per_try}
        overhead = 0.0
    else:
        once, overhead = 4.0 * shape.train * shape.outputs * summed, PASS_SECONDS
        passes = dict.fromkeys(PASSES, epochs) if solver == "sgd" else PASSES
        rows = 2.0 * shape.outputs * summed
        tries = trials.rungs * max(1, trials.parts)
        operations = {
            "solving": trials.given * passes["solving"] * once,
            "choosing": tries * passes["choosing"] * once,
        }
        overhead = {"solving": trials.given * passes["solving"] * PASS_SECONDS,
                    "choosing": tries * passes["choosing"] * PASS_SECONDS}  # fmt: skip
    operations["reading"] = 2.0 * shape.train * shape.features**2 if solver != "sgd" else 0.0
    operations["scoring"] = trials.given * shape.test * rows
    reached = SHARES.get(solver, min(SHARES.values())) * rate
    found = {phase: operations[phase] / reached for phase in PHASES}
    if overhead:
        found |= {phase: found[phase] + more for phase, more in overhead.items()}
    return found


def trials_of(penalties: Penalties, train_rows: int, batch: int) -> Trials:
    """Return how the penalties of a fit come about, where so many of them are tried at once."""
    if not penalties.chosen:
        return Trials(given=len(penalties.values))
    parts = 0 if penalties.choice == LOO else part_count(penalties.held_out, train_rows)
    tried = -(-RUNGS // batch) * batch
    return Trials(min(tried, len(penalties.values)), parts)


class Outlook:
    """Tells a callback, before each group of a sweep, how long it and those after it will take.

    The callback gets the stage "sweep" with the probes that are done and all there are, `phases`
    (seconds of each of `PHASES` of the group that follows), and `later` (seconds of the groups
    after it). Estimates are set right by how long the groups before took.

    Arguments:
        progress: the callback.
        groups: how many seconds each phase of each group takes.
        probes: how many each group has.
    """

    def __init__(
        self, progress: Progress, groups: Sequence[dict[str, float]], probes: Sequence[int]
    ):
        self._progress, self._groups, self._probes = progress, list(groups), list(probes)
        self._took = self._expected = 0.0
        self._began = 0.0

    def begin(self, group: int) -> None:
        """Say that a group begins."""
        pace = self._took / self._expected if self._expected else 1.0
        phases = {name: pace * each for name, each in self._groups[group].items()}
        later = pace * sum(sum(each.values()) for each in self._groups[group + 1 :])
        done, total = sum(self._probes[:group]), sum(self._probes)
        self._progress("sweep", done, total, phases=phases, later=later)
        self._began = time.perf_counter()

    def end(self, group: int) -> None:
        """Say that a group is solved."""
        self._took += time.perf_counter() - self._began
        self._expected += sum(self._groups[group].values())

    def close(self) -> None:
        """Say that all is done, if anything had to be."""
        if self._began:
            self._progress("sweep", sum(self._probes), sum(self._probes))


@cache
def products(backend: Backend, size: int = 1024) -> float:
    """Return operations a second of float32 matrix products, by three of them."""
    a = backend.empty((size, size), "float32")
    a[...] = 1.0
    to_host((a @ a)[:1, :1])  # the first one starts threads and libraries
    started, times = time.perf_counter(), 3
    for _ in range(times):
        b = a @ a
    to_host(b[:1, :1])  # which waits for a device
    return times * 2 * size**3 / (time.perf_counter() - started)

"""A penalty for each probe, chosen on train rows alone, then the probes solved with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.axes import Axes
from probe.chains import Chain
from probe.dual import wide_plan
from probe.errors import MemoryBudgetError, UsageError
from probe.joined import Joined, release
from probe.metrics import Scores, metrics_of
from probe.penalties import Penalties
from probe.ranks import share
from probe.remembered import Remembered
from probe.settings import Settings
from probe.solvers import Fitted, Solver, n_outputs, n_targets
from probe.solving import problem, solve, solve_left_out


@dataclass(frozen=True)
class Chosen:
    """The penalty of every (chain, prefix), numbered as an `Axes` with one penalty has them.

    Attributes:
        penalty: int64 (n,), position on the path.
        accuracy: float64 (n,), what it reached on the rows that it was chosen by; for targets, R^2.
    """

    penalty: np.ndarray
    accuracy: np.ndarray


def fit_chosen(
    entry: Solver,
    train: Remembered,
    chains: Sequence[Chain],
    penalties: Penalties,
    settings: Settings,
    options: Mapping[str, Any],
) -> Joined:
    """Return every probe, solved on all train rows with the penalty that suits it best.

    Facts beside the solver's own: "l2", the penalty; "l2_place", "lowest" or "highest" where an
    end of the path was chosen, else "inside"; "selection_accuracy".

    Raises:
        UsageError: leave-one-out is asked of a solver that has no closed form for it, or of rows
            whose other views would stay.
        DataError: a class has too few rows to be held out.
    """
    chosen = choose(entry, train, chains, penalties, settings, options)
    axes = Axes(tuple(chains), penalties.columns)
    parts, numbers = [], []
    for penalty in np.unique(chosen.penalty):
        cut, probes = _those(chains, chosen.penalty == penalty)
        part = solve(entry, train, cut, (penalties.values[penalty],), settings, options)
        release(part)
        parts.append(part)
        numbers.append(probes)
    last = len(penalties.values) - 1
    places = np.where(chosen.penalty == 0, "lowest", "inside")
    facts = {
        "l2": np.array(penalties.values)[chosen.penalty],
        "l2_place": np.where(chosen.penalty == last, "highest", places),
        "selection_accuracy": chosen.accuracy,
    }
    return Joined(axes, parts, numbers, facts)


def choose(
    entry: Solver,
    train: Remembered,
    chains: Sequence[Chain],
    penalties: Penalties,
    settings: Settings,
    options: Mapping[str, Any],
) -> Chosen:
    """Return the penalty with the highest accuracy, or R^2, for every (chain, prefix).

    Of equals, the last is taken.

    A candidate that failed is taken only where all have.
    """
    if penalties.choice == "loo":
        if train.n_views > 1:
            raise UsageError(
                f"leave-one-out would leave out one of {train.n_views} views of an image and keep "
                "the others, which tell its label: select by validation, which holds out all"
            )
        fitted = solve_left_out(entry, train, chains, penalties.values, settings, options)
        accuracy = _accuracy(fitted, train)
    else:
        remainder, held_out = train.parts(penalties.held_out, penalties.seed)
        whole = wide_plan(problem(entry, remainder, penalties.values, settings), chains) is None
        spared = _sparing(settings, train, entry) if whole else settings
        fitted = solve(entry, remainder, chains, penalties.values, spared, options)
        accuracy = _accuracy(fitted, held_out)
    failed = np.isin(fitted.facts["status"], entry.unusable)
    return _best(fitted.axes, accuracy, failed)


def _accuracy(fitted: Fitted, rows: Any) -> np.ndarray:
    (name,) = metrics_of(None, n_targets(fitted) > 0)
    scores = Scores(len(fitted.axes), n_outputs(fitted), (name,))
    fitted.score(share(rows), scores)
    scores.gather()
    release(fitted)
    return scores.columns()[name]


def _best(axes: Axes, accuracy: np.ndarray, failed: np.ndarray) -> Chosen:
    penalty, reached = [], []
    for chain in range(len(axes.chains)):
        probes = np.array([axes.prefixes(chain, r) for r in range(len(axes.penalties))])
        rank = np.where(failed[probes], -np.inf, accuracy[probes])
        best = len(rank) - 1 - np.argmax(rank[::-1], axis=0)
        penalty.append(best)
        reached.append(np.take_along_axis(accuracy[probes], best[None], axis=0)[0])
    return Chosen(np.concatenate(penalty), np.concatenate(reached))


def _those(chains: Sequence[Chain], wanted: np.ndarray) -> tuple[list[Chain], np.ndarray]:
    """Return the chains with only the wanted prefixes, and the numbers of these, int64."""
    cut, start = [], 0
    for chain in chains:
        prefixes = np.flatnonzero(wanted[start : start + len(chain)])
        start += len(chain)
        if prefixes.size:
            sizes = tuple(chain.sizes[p] for p in prefixes)
            fractions = tuple(chain.fractions[p] for p in prefixes)
            cut.append(replace(chain, sizes=sizes, fractions=fractions))
    return cut, np.flatnonzero(wanted)


def _sparing(settings: Settings, train: Remembered, entry: Solver) -> Settings:
    """Return the settings less the memory that the moments of all rows take meanwhile."""
    width = train.n_features
    held = 8 * width * (2 * width + 2 * train.n_classes) if entry.moments else 0
    if held >= settings.memory:
        raise MemoryBudgetError(
            "memory is too little to choose a penalty: the moments of all rows and of the "
            f"remainder are held at once, which takes {held >> 20} MiB more than a fit"
        )
    return replace(settings, memory=settings.memory - held)

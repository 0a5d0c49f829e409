"""Penalties: those that are given, and those that held-out rows or leave-one-out choose."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from featstore.probe.errors import MemoryBudgetError, SelectionWarning, UsageError
from featstore.probe.memory import Progress, Settings, rank, text
from featstore.probe.metrics import Losses
from featstore.probe.modes import OF_LABELS, ranked
from featstore.probe.moments import Remembered, cached_moments
from featstore.probe.rows import RowBlocks, has_several_labels, has_targets
from featstore.probe.solvers import AUTO, L2, check_penalties
from featstore.probe.solvers.dual import wide_plan
from featstore.probe.solvers.logistic import Metrics
from featstore.probe.solvers.registry import Solver
from featstore.probe.solvers.routes import (
    Joined,
    Taken,
    problem,
    release,
    solve,
    solve_left_out,
    solve_path,
)
from featstore.probe.solvers.weights import Fitted, n_outputs
from featstore.probe.splits import check_share
from featstore.probe.statuses import UNUSABLE, has
from featstore.probe.subsets import Axes, Chain, numbers_of, those

GIVEN, VALIDATION, LOO = "given", "validation", "loo"
CHOICES = (VALIDATION, LOO)

LADDER = tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(-18, 9))
"""All penalties that "auto" may come to, two a decade, for features of unit variance."""

_FIRST = 10.0
"""The one that "auto" begins with: downwards until a score is past its best, and upwards only if
nothing smaller is better."""


@dataclass(frozen=True)
class Penalties:
    """The penalties of a fit.

    Attributes:
        values: rising.
        choice: "given" if every penalty makes probes of its own; or how each probe's is chosen
            among them: "validation" (on parts of the train rows that are held out meanwhile) or
            "loo" (leaving out one train row at a time).
        held_out: share of every class that a part holds out.
        seed: of the draw of the parts.
        first: position of the value that is tried first.
        asked: whether the way to choose was asked for, and not the solver's own.
        automatic: whether the values are those of "auto".
    """

    values: tuple[float, ...]
    choice: str = GIVEN
    held_out: float = 0.1
    seed: int = 0
    first: int = -1
    asked: bool = False
    automatic: bool = False

    @property
    def chosen(self) -> bool:
        """Return whether each probe has a penalty of its own."""
        return self.choice != GIVEN

    @property
    def columns(self) -> tuple[float, ...]:
        """The penalty axis of the result: NaN stands for "whichever the probe has chosen"."""
        return (math.nan,) if self.chosen else self.values

    def choice_of(self, ranking: str | None) -> str:
        """Return how the penalties of a chain are chosen, given what its order came from.

        An order that labels decided about has seen the label of a row that is left out, so that
        it is made again, from the rows that are not held out.
        """
        return VALIDATION if self.choice == LOO and ranking in OF_LABELS else self.choice

    def in_units(self, variance: float) -> "Penalties":
        """Return those of "auto" for features of such a variance, to the nearest half decade.

        Without scaling, features that are c times as large want penalties c^2 times as large.
        """
        if not self.automatic or not variance > 0:
            return self
        unit = 10 ** (round(2 * math.log10(variance)) / 2)
        return replace(self, values=tuple(float(f"{value * unit:.3g}") for value in LADDER))

    def of(self, n_views: int, grouped: bool = False, closed: bool = True) -> "Penalties":
        """Return these penalties for rows of so many views, or of groups.

        The other views of a row that is left out, and the other rows of its group, tell its label,
        so that a solver's own way to choose becomes one that holds out all of them. So it does
        where leave-one-out has no closed form for such labels.

        Raises:
            UsageError: leave-one-out was asked for.
        """
        if self.choice != LOO or (n_views == 1 and not grouped and closed):
            return self
        if self.asked and not closed:
            raise UsageError(
                "leave-one-out of several labels at once has a closed form for ridge and knn: "
                "select by validation, or take one of those"
            )
        if self.asked and n_views == 1:
            raise UsageError(
                "leave-one-out would leave out one row of a group and keep the others, which tell "
                "its label: select by validation, which holds out whole groups"
            )
        if self.asked:
            raise UsageError(
                f"leave-one-out would leave out one of {n_views} views of an image and keep "
                "the others, which tell its label: select by validation, which holds out all"
            )
        return replace(self, choice=VALIDATION)


def planned(
    l2: L2,
    select: str | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    *,
    default: float = 1e-3,
    zero: bool = True,
    choice: str = GIVEN,
    ladder: tuple[float, ...] | None = None,
) -> Penalties:
    """Return which penalties to solve.

    Arguments:
        l2: one or several; "auto" for a choice from `LADDER`; None for what the solver does by
            itself: that, or its `default`.
        select: None, "validation" or "loo"; with "auto", None means the solver's own `choice`.
        held_out: share of train rows to choose by.
        seed: of the draw of those rows.
        default: the solver's own penalty.
        zero: whether the solver takes a penalty of 0.
        choice: how the solver chooses by itself; "given" if it does not.
        ladder: what "auto" chooses from, tried from the largest on; None for `LADDER`.

    Raises:
        UsageError: an argument cannot be used, or there is nothing to choose among.

    Example:
        >>> planned("auto").choice, planned([0.1, 1.0]).choice, planned(None).values
        ('validation', 'given', (0.001,))
        >>> planned(None, choice="loo").choice, planned(None, choice="loo").automatic
        ('loo', True)
    """
    if isinstance(l2, str) and l2 != AUTO:
        raise UsageError(f"l2 is {l2!r}: a number, a list of numbers or {AUTO!r} is wanted")
    automatic = isinstance(l2, str) or (l2 is None and choice != GIVEN)
    values = (
        (ladder or LADDER)
        if automatic
        else check_penalties(default if l2 is None else l2, zero=zero)
    )
    own = VALIDATION if choice == GIVEN else choice
    chosen = select or (own if automatic else GIVEN)
    if chosen == GIVEN:
        return Penalties(values)
    if chosen not in CHOICES:
        raise UsageError(f"no way to select is called {select!r}: there are {', '.join(CHOICES)}")
    if len(values) < 2:
        raise UsageError(
            f"select is {select!r}, but l2 is {values[0]:g} alone: "
            f"give several penalties to choose among, or {AUTO!r}"
        )
    check_share(held_out)
    begins = automatic and ladder is None
    first = values.index(_FIRST) if begins else len(values) - 1
    return Penalties(values, chosen, held_out, seed, first, select is not None, automatic)


_ENOUGH = 1000
"""Held-out rows to choose by; where one part has fewer, several are taken, and MOST at most."""

MOST = 5

_TIE = 1e-3
"""Share of its loss, and of that without features, by which a smaller penalty must be better."""

PATIENCE = 2
"""Penalties in a row that do no better, after which a probe has its choice."""

_BEGUN = 0.98
"""Share of the loss without any feature from which a probe counts as having learnt something."""


@dataclass(frozen=True)
class Chosen:
    """The penalty of every (chain, prefix), numbered as an `Axes` with one penalty has them.

    Attributes:
        penalty: int64 (n,), position among the penalties.
        accuracy: float64 (n,), what it reached on the rows that it was chosen by; for targets, R^2.
        starts: of solvers that can start from somewhere, where each probe ended on a part of the
            rows; None for nowhere.
    """

    penalty: np.ndarray
    accuracy: np.ndarray
    starts: Sequence[np.ndarray | None] = ()


def fit_chosen(
    entry: Solver,
    train: Remembered,
    chains: Sequence[Chain],
    penalties: Penalties,
    settings: Settings,
    options: Mapping[str, Any],
) -> Joined | Taken:
    """Return every probe, solved on all train rows with the penalty that suits it best.

    Facts beside the solver's own: "l2", the penalty; "l2_place", "lowest" or "highest" where an
    end of what could be tried was chosen, else "inside"; "l2_choice", by what; and
    "selection_accuracy".

    Raises:
        UsageError: leave-one-out is asked of a solver that has no closed form for it, or of rows
            whose other views would stay.
        DataError: no row can be held out.
    """
    closed = not (entry.probabilities and has_several_labels(train))
    penalties = penalties.of(train.n_views, train.groups is not None, closed)
    by = np.array([penalties.choice_of(chain.ranking) for chain in chains])
    lengths = np.array([len(chain) for chain in chains])
    position, accuracy = np.zeros(lengths.sum(), np.int64), np.full(lengths.sum(), np.nan)
    starts: list[np.ndarray | None] = [None] * len(position)
    for how in np.unique(by):
        own = [chain for chain, one in zip(chains, by, strict=True) if one == how]
        wanted = np.flatnonzero(np.repeat(by == how, lengths))
        chosen = choose(entry, train, own, replace(penalties, choice=how), settings, options)
        position[wanted], accuracy[wanted] = chosen.penalty, chosen.accuracy
        for number, start in zip(wanted.tolist(), chosen.starts, strict=False):
            starts[number] = start
    last = len(penalties.values) - 1
    places = np.where(position == 0, "lowest", "inside")
    facts = {
        "l2": np.array(penalties.values)[position],
        "l2_place": np.where(position == last, "highest", places),
        "l2_choice": np.repeat(by, lengths),
        "selection_accuracy": accuracy,
    }
    axes = Axes(tuple(chains), penalties.columns)
    if entry.path is not None:
        fitted = solve_path(entry, train, chains, penalties.values, settings, options)
        probes = numbers_of(chains, len(penalties.values), position)
        known = {n: s for n, s in zip(probes.tolist(), starts, strict=True) if s is not None}
        fitted.solve(probes, known)
        release(fitted)
        return Taken(axes, fitted, probes, facts)
    if entry.at_once:
        fitted = solve(entry, train, chains, penalties.values, settings, options)
        return Taken(axes, fitted, numbers_of(chains, len(penalties.values), position), facts)
    parts, numbers = [], []
    for penalty in np.unique(position):
        cut, probes = those(chains, position == penalty)
        part = solve(entry, train, cut, (penalties.values[penalty],), settings, options)
        release(part)
        parts.append(part)
        numbers.append(probes)
    return Joined(axes, parts, numbers, facts)


def choose(
    entry: Solver,
    train: Remembered,
    chains: Sequence[Chain],
    penalties: Penalties,
    settings: Settings,
    options: Mapping[str, Any],
) -> Chosen:
    """Return the penalty with the smallest loss on train rows that were left out of the fit.

    The loss is the solver's own: for ridge the squared error, of numbers in units of each target's
    variance; for LDA the share of rows that are missed; for others the mean of -log p[label].
    Penalties are tried downwards from the first. A smaller one is taken only if its loss is
    smaller by more than `_TIE` says, and a probe has its choice after `PATIENCE` of them in a row
    that are not; of those that are solved at once all are looked at. Where the first is the best,
    larger ones are tried in the same way. A candidate that failed, or whose loss is not finite, is
    taken only where all are so, and then it is the first.
    """
    quiet = replace(settings, progress=_of_rows(settings.progress))
    if penalties.choice == LOO:
        tried: Tried = _LeftOut(entry, train, chains, penalties, quiet, options)
    else:
        tried = _on_parts(entry, train, chains, penalties, quiet, options)
    patience = len(penalties.values) if entry.at_once else PATIENCE
    search = Search(sum(map(len, chains)), _without_features(entry, train), patience)
    first, last = penalties.first % len(penalties.values), len(penalties.values)
    done = 0
    for downwards in (True, False):
        ladder = range(first, -1, -1) if downwards else range(first + 1, last)
        search.restart(np.ones(len(search), bool) if downwards else search.chosen == first)
        while len(ladder) and search.going.any():
            rungs, ladder = ladder[: entry.batch], ladder[entry.batch :]
            losses, accuracies, failed = tried.at(rungs, search.going)
            for number, rung in enumerate(rungs):
                search.take(rung, losses[number], accuracies[number], failed[number])
            tried.keep(search.chosen)
            settled = len(search) - int(search.going.sum())
            if settled > done or not ladder:
                done = max(done, settled)
                settings.progress("penalties", done, len(search))
    return Chosen(search.chosen, search.accuracy, tried.ends(search.chosen))


def _of_rows(progress: Progress) -> Progress:
    """Return a callback that passes on how far the moments are; the fits have a stage of theirs."""

    def report(stage: str, done: int, total: int, **facts: Any) -> None:
        if stage == "rows":
            progress(stage, done, total, **facts)

    return report


class Search:
    """State of n probes among the penalties: the best so far, and whether each goes on.

    Arguments:
        count: n.
        without_features: the loss of a probe that knows no feature.
        patience: penalties in a row that do no better, after which a probe has its choice.

    Attributes:
        going: bool (n,).
        chosen: int64 (n,), position of the best penalty.
        loss: float64 (n,), its loss.
        accuracy: float64 (n,), its accuracy.
    """

    def __init__(self, count: int, without_features: float, patience: int = PATIENCE):
        self._patience = patience
        self.going = np.zeros(count, bool)
        self.chosen = np.full(count, -1)
        self.loss = np.full(count, np.inf)
        self.accuracy = np.full(count, np.nan)
        self._idle = np.zeros(count, np.int64)
        self._begun, self._without = _BEGUN * without_features, without_features

    def __len__(self) -> int:
        return len(self.going)

    def restart(self, which: np.ndarray) -> None:
        """Let the probes of a mask go on, in another direction."""
        self.going = which.copy()
        self._idle[which] = 0

    def take(
        self, position: int, loss: np.ndarray, accuracy: np.ndarray, failed: np.ndarray
    ) -> None:
        """Take what the probes that are going have reached at one penalty, arrays (n,)."""
        usable = np.isfinite(loss) & ~failed
        loss = np.where(usable, loss, np.inf)
        # where classes are separated, losses go to 0 without end, and gain nothing
        margin = _TIE * (np.where(np.isfinite(self.loss), self.loss, 0) + self._without)
        with np.errstate(invalid="ignore"):
            better = self.going & usable & (loss < self.loss - margin)
            # what has learnt nothing yet, with far too large a penalty, is past nothing
            worse = (loss > self.loss + margin) | (self.loss < self._begun)
        better |= self.going & (self.chosen < 0)
        self.chosen[better], self.loss[better] = position, loss[better]
        self.accuracy[better] = np.where(usable, accuracy, np.nan)[better]
        self._idle = np.where(better, 0, self._idle + (self.going & worse))
        self.going &= self._idle < self._patience


class Tried(Protocol):
    """Scores of probes with one penalty, on rows that are left out of the fit."""

    def at(
        self, rungs: Sequence[int], going: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return losses, accuracies and which failed, (R, n), of the probes in a mask (n,)."""

    def keep(self, chosen: np.ndarray) -> None:
        """Take note of the penalty that each probe would choose by now, int64 (n,)."""

    def ends(self, chosen: np.ndarray) -> Sequence[np.ndarray | None]:
        """Return where each probe has ended with its penalty, int64 (n,), if that is known."""


class _Afresh:
    """Fits that keep nothing from one penalty to the next."""

    def keep(self, chosen: np.ndarray) -> None:
        """Nothing is kept."""

    def ends(self, chosen: np.ndarray) -> Sequence[np.ndarray | None]:
        """Nothing is known."""
        return ()


class _LeftOut(_Afresh):
    """Losses of each train row under the fit of all the others."""

    def __init__(self, entry, train, chains, penalties, settings, options):
        self._entry, self._train, self._chains = entry, train, chains
        self._values, self._settings, self._options = penalties.values, settings, options

    def at(
        self, rungs: Sequence[int], going: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cut, numbers = those(self._chains, going)
        values = tuple(sorted(self._values[rung] for rung in rungs))
        fitted = solve_left_out(
            self._entry, self._train, cut, values, self._settings, self._options
        )
        losses = _losses_of(fitted, self._entry, self._train)
        failed = has(fitted.facts["status"], UNUSABLE)
        losses.score(fitted, self._train)
        return _by_rung(fitted.axes, numbers, len(going), losses.means(), losses.scores(), failed)


def part_count(share: float, rows: int) -> int:
    """Return how many held-out parts of so many train rows penalties are tried on.

    >>> part_count(0.1, 1347), part_count(0.1, 50_000)
    (5, 1)
    """
    return int(np.clip(np.ceil(_ENOUGH / (share * rows)), 1, min(MOST, int(1 / share))))


def _on_parts(
    entry: Solver,
    train: Remembered,
    chains: Sequence[Chain],
    penalties: Penalties,
    settings: Settings,
    options: Mapping[str, Any],
) -> "_HeldOut":
    """Return fits to compare on held-out parts, on half as many where memory holds no more."""
    make = _HeldOut if entry.path is None else _OnPath
    groups = train.groups
    drawn = train.n_rows // train.n_views if groups is None else len(np.unique(groups))
    wanted = count = part_count(penalties.held_out, drawn)
    while True:
        try:
            tried = make(entry, train, chains, penalties, settings, options, count)
            break
        except MemoryBudgetError:
            if count == 1:
                raise
            count //= 2
    if count < wanted and rank() == 0:
        warnings.warn(
            f"penalties are chosen on {count} held-out part{'s' if count > 1 else ''} of the train "
            f"rows and not on {wanted}, for which {text(settings.memory)} of memory is too little; "
            "allow more for a steadier choice",
            SelectionWarning,
            stacklevel=2,
        )
    return tried


class _HeldOut(_Afresh):
    """Losses of the rows of `count` held-out parts, each under the fit of the others."""

    def __init__(self, entry, train, chains, penalties, settings, options, count):
        self._entry, self._options, self._values = entry, options, penalties.values
        self._parts = train.parts(penalties.held_out, penalties.seed, count)
        _tell_of_single_rows(train)
        spared = [
            _sparing(settings, train, entry, len(self._parts))
            if wide_plan(problem(entry, remainder, (1.0,), settings), chains) is None
            else settings
            for remainder, _ in self._parts
        ]
        self._settings = spared
        self._chains = [
            [_remade(chain, remainder, own) for chain in chains]
            for (remainder, _), own in zip(self._parts, spared, strict=True)
        ]

    def at(
        self, rungs: Sequence[int], going: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = tuple(sorted(self._values[rung] for rung in rungs))
        losses, failed = None, False
        for (remainder, held_out), chains, settings in zip(
            self._parts, self._chains, self._settings, strict=True
        ):
            cut, numbers = those(chains, going)
            fitted = solve(self._entry, remainder, cut, values, settings, self._options)
            losses = losses or _losses_of(fitted, self._entry, remainder)
            failed = failed | has(fitted.facts["status"], UNUSABLE)
            losses.score(fitted, held_out)
        return _by_rung(fitted.axes, numbers, len(going), losses.means(), losses.scores(), failed)


class _OnPath(_HeldOut):
    """The same for solvers that go on from one penalty to the next, some probes at a time.

    Probes of the second part and of further ones start where those of the first have ended.
    """

    def __init__(self, entry, train, chains, penalties, settings, options, count):
        super().__init__(entry, train, chains, penalties, settings, options, count)
        # each part keeps its rows from one penalty to the next
        self._settings = [
            replace(own, memory=own.memory // len(self._parts)) for own in self._settings
        ]
        compared = {**options, "loosely": True, "metrics": Metrics()}
        self._paths = [
            solve_path(entry, remainder, own, penalties.values, how, compared)
            for (remainder, _), own, how in zip(
                self._parts, self._chains, self._settings, strict=True
            )
        ]
        self._made_again = np.repeat(
            [chain.ranking is not None for chain in chains], [len(chain) for chain in chains]
        )

    def at(
        self, rungs: Sequence[int], going: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (rung,) = rungs
        losses, failed = None, False
        every = numbers_of(self._chains[0], len(self._values), np.full(len(going), rung))
        asked, starts = every[going], {}
        movable = ~self._made_again[going]
        for path, (remainder, held_out) in zip(self._paths, self._parts, strict=True):
            path.solve(asked, starts)
            losses = losses or _losses_of(path, self._entry, remainder)
            failed = failed | has(path.facts["status"], UNUSABLE)
            losses.score(path, held_out, keep=True)
            if not starts:
                ends = {n: path.solution(n) for n in asked[movable].tolist()}
                starts = {n: end for n, end in ends.items() if end is not None}
        tables = []
        for column in (losses.means(), losses.scores(), failed):
            table = np.zeros((1, len(going)), column.dtype)
            table[0, going] = column[asked]
            tables.append(table)
        return tuple(tables)

    def keep(self, chosen: np.ndarray) -> None:
        """Forget what no probe would choose by now."""
        best = numbers_of(self._chains[0], len(self._values), np.maximum(chosen, 0))
        self._paths[0].forget(best)
        for path in self._paths[1:]:
            path.forget(np.zeros(0, np.int64))

    def ends(self, chosen: np.ndarray) -> Sequence[np.ndarray | None]:
        """Return where each probe has ended on the first part; of orders made anew, nothing."""
        best = numbers_of(self._chains[0], len(self._values), chosen)
        return [
            None if again else self._paths[0].solution(number)
            for number, again in zip(best.tolist(), self._made_again, strict=True)
        ]


def _remade(chain: Chain, rows: Remembered, settings: Settings) -> Chain:
    """Return a chain whose order comes from these rows, if it came from train rows."""
    if chain.ranking is None:
        return chain
    train = cached_moments(rows, settings)
    order = ranked(chain.ranking, train, chain.length, settings.standardize)
    return replace(chain, order=order[: len(chain.order)])


def _by_rung(
    axes: Axes, numbers: np.ndarray, count: int, *columns: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return columns (P,) of the probes of `axes` as (R, n), the largest penalty first.

    Arguments:
        axes: probes of some prefixes, with several penalties.
        numbers: int64, the number of each of these prefixes among n.
        count: n.
        columns: of the probes.
    """
    tables = []
    for column in columns:
        table = np.zeros((len(axes.penalties), count), column.dtype)
        for penalty in range(len(axes.penalties)):
            of_chains = [axes.prefixes(chain, penalty) for chain in range(len(axes.chains))]
            table[-1 - penalty, numbers] = column[np.concatenate([list(one) for one in of_chains])]
        tables.append(table)
    return tuple(tables)


def _losses_of(fitted: Fitted, entry: Solver, train: RowBlocks) -> Losses:
    outputs, variance = n_outputs(fitted), np.ones(n_outputs(fitted))
    if not has_targets(train):
        return Losses(len(fitted.axes), outputs, entry.loss, variance)
    if entry.probabilities:
        return Losses(len(fitted.axes), outputs, "labels", variance)
    variance = train.labels().reshape(train.n_rows, -1).var(0)
    return Losses(len(fitted.axes), outputs, "numbers", np.where(variance > 0, variance, 1))


def _without_features(entry: Solver, train: RowBlocks) -> float:
    """Return the loss of the mean of y."""
    if has_targets(train) and entry.probabilities:
        share = train.labels().mean(0)
        return float(-(share * np.log(share) + (1 - share) * np.log(1 - share)).mean())
    if has_targets(train):
        return 1.0
    shares = np.bincount(train.labels()) / train.n_rows
    if entry.loss == "errors":
        return float(1 - shares.max())
    if entry.loss == "squared":
        return float(1 - (shares**2).sum())
    return float(-(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares))).sum())


def _tell_of_single_rows(train: Remembered) -> None:
    """Warn of classes that are never held out."""
    if has_targets(train) or rank() > 0:
        return
    counts = np.bincount(train.labels()[: train.n_rows // train.n_views])
    single = np.flatnonzero(counts == 1)
    if single.size:
        names = ", ".join(map(str, single[:5])) + (", ..." if single.size > 5 else "")
        several = "es have" if single.size > 1 else " has"
        warnings.warn(
            f"{single.size} class{several} one train row ({names}): it stays in the part that is "
            "fitted while penalties are chosen",
            SelectionWarning,
            stacklevel=2,
        )


def _sparing(settings: Settings, train: Remembered, entry: Solver, parts: int) -> Settings:
    """Return the settings less the memory that the moments of other rows take meanwhile."""
    width = train.n_features
    held = parts * 8 * width * (2 * width + 2 * train.n_classes) if entry.moments else 0
    if held >= settings.memory:
        raise MemoryBudgetError(
            f"{text(settings.memory)} of memory is too little to choose a penalty: the moments of "
            "all rows and of what is left of them are held at once; allow at least "
            f"{text(held)} more than a fit takes, or fix the penalty with l2"
        )
    return replace(settings, memory=settings.memory - held)

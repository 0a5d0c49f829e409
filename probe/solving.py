"""The probes of given chains and penalties, solved in the way that the plan finds cheapest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.axes import Axes
from probe.basis import FEATURES
from probe.blocks import RowBlocks, has_targets, targets_of
from probe.budget import text
from probe.chains import Chain
from probe.dual import Cut, DualFit, DualLeaveOneOut, DualPath, Problem, wide_plan
from probe.errors import MemoryBudgetError, UsageError
from probe.joined import Joined, release
from probe.metrics import Scores
from probe.parts import ColumnSubset
from probe.prefixes import PrefixFit
from probe.projected import OnBasis
from probe.remembered import remembered
from probe.settings import Settings
from probe.solvers import Fit, Fitted, Solver
from probe.weights import Weights


def solve(
    entry: Solver,
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: Mapping[str, Any],
) -> Fitted:
    """Return every probe of these chains and penalties.

    Raises:
        UsageError: the labels are numbers, and the solver's are classes; or an option cannot be
            used.
        DataError: train cannot be probed.
        MemoryBudgetError: `settings.memory` is too small.
    """
    _check_labels(entry, train)
    return _solved(entry, entry.fit, DualFit, train, chains, penalties, settings, options)


def solve_path(
    entry: Solver,
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: Mapping[str, Any],
) -> Any:
    """Return probes that are solved when they are asked for, as `probe.logistic.LogisticPath` is.

    Raises:
        UsageError, DataError, MemoryBudgetError: as `solve`.
    """
    _check_labels(entry, train)
    return _solved(entry, entry.path, DualPath, train, chains, penalties, settings, options)


def solve_left_out(
    entry: Solver,
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: Mapping[str, Any],
) -> Fitted:
    """Return probes that are scored on their own train rows, each row as if it had not been there.

    Raises:
        UsageError: the solver has no closed form for that.
        DataError, MemoryBudgetError: as `solve`.
    """
    _check_labels(entry, train)
    if entry.leave_one_out is None:
        raise UsageError(
            "leave-one-out has a closed form for ridge and lda alone: select by validation instead"
        )
    make = entry.leave_one_out
    return _solved(entry, make, DualLeaveOneOut, train, chains, penalties, settings, options)


def _check_labels(entry: Solver, train: RowBlocks) -> None:
    if has_targets(train) and not entry.targets:
        raise UsageError(
            "the labels are numbers to be predicted, and this solver tells classes apart: take "
            "solver ridge; or, if they are classes, give them as integers"
        )


def _solved(
    entry: Solver, make: Fit, make_dual: type[DualFit], train: RowBlocks, chains: Sequence[Chain],
    penalties: Sequence[float], settings: Settings, options: Mapping[str, Any],
) -> Fitted:  # fmt: skip
    numbers = problem(entry, train, penalties, settings)
    axes = Axes(tuple(chains), tuple(penalties))
    found = _portions(entry, numbers, chains)
    if len(found) == 1 and found[0].way == "plain":
        return make(train, chains, penalties, settings, **options)
    tight, parts = replace(settings, memory=numbers.free), []
    for portion in found:
        for before in parts:
            release(before)
        own = Axes(tuple(cut.made() for cut in portion.cuts), axes.penalties)
        if portion.way == "dual":
            parts.append(make_dual(make, train, own, tight, options, numbers))
        elif portion.way == "columns":
            parts.append(OfColumns(make, train, own, tight, options))
        elif portion.way == "basis":
            parts.append(OnBasis(make, remembered(train), own, settings, options, entry.raw))
        else:
            parts.append(make(train, own.chains, penalties, settings, **options))
    return Joined(axes, parts, [_numbers(axes, portion.cuts) for portion in found])


@dataclass(frozen=True)
class Portion:
    """Prefixes that are solved together.

    Attributes:
        cuts: which; their numbers are those of the chains among all.
        way: "plain", on all features at once; "columns", on those that they touch; "dual", in
            the N x N dual; "basis", on the rows that their one basis shows.
    """

    cuts: Sequence[Cut]
    way: str


def _portions(entry: Solver, numbers: Problem, chains: Sequence[Chain]) -> list[Portion]:
    """Return what is solved together, and how.

    Solvers with a factor for every prefix fold directions into it; the others are shown rows that
    have been projected, basis by basis.
    """
    every = [Cut(number, chain, np.arange(len(chain))) for number, chain in enumerate(chains)]
    single = [cut for cut in every if cut.chain.basis == FEATURES]
    along = [cut for cut in every if cut.chain.basis != FEATURES]
    _check_bases(numbers, along)
    plan = wide_plan(numbers, [cut.chain for cut in single]) if single else None
    if plan is None and (entry.every_prefix or not along):
        return [Portion(every, "plain")]
    found = [Portion(single, "plain")] if single and plan is None else []
    for part in plan or []:
        cuts = [replace(cut, number=single[cut.number].number) for cut in part.cuts]
        found.append(Portion(cuts, "dual" if part.dual else "columns"))
    if entry.every_prefix:
        return [*found, Portion(along, "plain")] if along else found
    for basis in dict.fromkeys(cut.chain.basis for cut in along):
        found.append(Portion([cut for cut in along if cut.chain.basis == basis], "basis"))
    return found


def _check_bases(numbers: Problem, along: Sequence[Cut]) -> None:
    """Raise MemoryBudgetError unless the moments that directions need fit into memory."""
    longest = max((cut.length for cut in along), default=0)
    needed = numbers.primal_bytes(numbers.n_features, longest)
    if along and needed > numbers.memory:
        raise MemoryBudgetError(
            f"{text(numbers.memory)} of memory is too little for directions among "
            f"{numbers.n_features} features, which need a matrix of all of them: allow "
            f"{text(needed)}, or take modes of single features, such as random or first"
        )


def problem(
    entry: Solver, train: RowBlocks, penalties: Sequence[float], settings: Settings
) -> Problem:
    """Return what is to be solved, in the numbers that decide how."""
    outputs, reading = train.n_classes or targets_of(train), 0
    if train.n_features > train.n_rows:
        # a block in use, two being read ahead, and the columns taken of it; orders and masks
        block, _ = next(iter(train))
        reading = 4 * block.nbytes + 64 * train.n_features
    return Problem(
        train.n_rows, train.n_features, outputs, len(penalties), settings.memory, entry.moments,
        reading,
    )  # fmt: skip


def _numbers(axes: Axes, cuts: Sequence[Cut]) -> np.ndarray:
    """Return the numbers of the probes of some prefixes, in the order of the part's own axes."""
    return np.concatenate(
        [
            np.array(axes.prefixes(cut.number, penalty))[cut.prefixes]
            for cut in cuts
            for penalty in range(len(axes.penalties))
        ]
    )


class OfColumns:
    """The probes of chains that touch few of the features, fitted on those columns alone.

    Attributes: as `Fitted`.
    """

    def __init__(
        self, make: Fit, train: RowBlocks, axes: Axes, settings: Settings,
        options: Mapping[str, Any],
    ):  # fmt: skip
        mask = np.zeros(train.n_features, bool)
        for chain in axes.chains:
            mask[chain.order] = True
        self._columns = np.flatnonzero(mask)
        self.axes, self.n_features = axes, train.n_features
        self.n_train, self.n_targets = train.n_rows, targets_of(train)
        chains = [
            replace(chain, order=np.searchsorted(self._columns, chain.order))
            for chain in axes.chains
        ]

        def fitted() -> Fitted:
            rows = remembered(ColumnSubset(train, self._columns))
            return make(rows, chains, axes.penalties, settings, **options)

        self._make, self._fitted = fitted, fitted()
        self.class_counts = self._fitted.class_counts
        self._facts = self._fitted.facts

    @property
    def facts(self) -> Mapping[str, np.ndarray]:
        """What is known of each probe without test rows."""
        return self._fitted.facts if self._fitted is not None else self._facts

    def solve(self, probes: np.ndarray, starts: Mapping[int, np.ndarray] | None = None) -> None:
        """Solve some probes, where the solver solves what it is asked for."""
        self._fitted.solve(probes, starts)

    def solution(self, probe: int) -> np.ndarray | None:
        """Return where such a probe has ended."""
        return self._fitted.solution(probe)

    def forget(self, kept: np.ndarray) -> None:
        """Drop all solutions but those of these probes."""
        self._fitted.forget(kept)

    def score(self, test: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every row to `scores`."""
        self._solved().score(ColumnSubset(test, self._columns), scores)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        own = self._solved().weights(probe)
        return replace(own, features=self._columns[own.features])

    def release(self) -> None:
        """Let go of matrices that can be made again."""
        release(self._fitted)
        if isinstance(self._fitted, PrefixFit):
            self._fitted = None

    def _solved(self) -> Fitted:
        if self._fitted is None:
            self._fitted = self._make()
        return self._fitted

"""Routes to a solution: of several fits, of projected features, of wide layers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from featstore.probe.arrays import Array, Backend, full_precision, to_host
from featstore.probe.errors import MemoryBudgetError, UsageError
from featstore.probe.memory import Settings, spared, text
from featstore.probe.metrics import LogitSink, PassingSink
from featstore.probe.moments import Moments, Remembered, remembered
from featstore.probe.pieces import Standardizing, raise_non_finite
from featstore.probe.rows import (
    ArrayBlocks,
    LabelledRows,
    RowBlocks,
    as_blocks,
    has_several_labels,
    has_targets,
    targets_of,
    validation_of,
    views_of,
)
from featstore.probe.solvers.dual import Cut, DualFit, DualLeaveOneOut, DualPath, Problem, wide_plan
from featstore.probe.solvers.prefixes import PrefixFit
from featstore.probe.solvers.registry import Fit, Solver
from featstore.probe.solvers.weights import Fitted, Weights, n_targets, n_train
from featstore.probe.splits import ColumnSubset, RowRange
from featstore.probe.subsets import FEATURES, Axes, Basis, Chain, Frame, congruent, directions


class Joined(Fitted):
    """The probes of several fits of the same train rows.

    Attributes:
        axes: which probe is which.

    Arguments:
        axes: P probes.
        parts: the fits; None for probes whose rows were read from a file, unsolved here.
        numbers: for each part, int64 (p,), the number of each of its probes among the P.
        facts: columns (P,) that are not the parts' own.
    """

    def __init__(
        self,
        axes: Axes,
        parts: Sequence[Fitted | None],
        numbers: Sequence[np.ndarray],
        facts: Mapping[str, np.ndarray] | None = None,
    ):
        self.axes = axes
        self._parts, self._numbers = list(parts), list(numbers)
        self._part = np.empty(len(axes), np.int64)
        self._within = np.empty(len(axes), np.int64)
        for part, probes in enumerate(self._numbers):
            self._part[probes] = part
            self._within[probes] = np.arange(len(probes))
        self._further = dict(facts or {})

    @property
    def facts(self) -> dict[str, np.ndarray]:
        """Return what is known of each probe without test rows."""
        return {**self._gathered(), **self._further}

    @property
    def n_features(self) -> int:
        """D of the layer."""
        return self._any.n_features

    @property
    def class_counts(self) -> np.ndarray:
        """Train rows of each class, int64 (C,)."""
        return self._any.class_counts

    @property
    def n_train(self) -> int:
        """N of train."""
        return n_train(self._any)

    @property
    def n_targets(self) -> int:
        """T, or 0 where labels are classes."""
        return n_targets(self._any)

    @property
    def _any(self) -> Fitted:
        return self._solved(next((part for part in self._parts if part is not None), None))

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every test row to `scores`, part after part."""
        for part, probes in zip(self._parts, self._numbers, strict=True):
            self._solved(part).score(test, _Renumbered(scores, probes))
            release(part)

    def solve(self, probes: np.ndarray, starts: Mapping[int, np.ndarray] | None = None) -> None:
        """Solve some probes, of parts that solve what they are asked for."""
        for part, numbers in zip(self._parts, self._numbers, strict=True):
            within = np.flatnonzero(np.isin(numbers, probes))
            known = {n: starts[numbers[n]] for n in within.tolist() if numbers[n] in (starts or {})}
            part.solve(within, known)

    def solution(self, probe: int) -> np.ndarray | None:
        """Return where such a probe has ended."""
        return self._parts[self._part[probe]].solution(int(self._within[probe]))

    def forget(self, kept: np.ndarray) -> None:
        """Drop all solutions but those of these probes."""
        for part, numbers in zip(self._parts, self._numbers, strict=True):
            part.forget(np.flatnonzero(np.isin(numbers, kept)))

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        part = self._solved(self._parts[self._part[probe]])
        return part.weights(int(self._within[probe]))

    def release(self) -> None:
        """Let go of what the parts can make again."""
        for part in self._parts:
            release(part)

    def _gathered(self) -> dict[str, np.ndarray]:
        if None in self._parts:
            return {}
        facts = {}
        for name in self._parts[0].facts:
            values = np.concatenate([part.facts[name] for part in self._parts])
            facts[name] = np.empty_like(values)
            facts[name][np.concatenate(self._numbers)] = values
        return facts

    def _solved(self, part: Fitted | None) -> Fitted:
        if part is None:
            raise UsageError(
                "some probes were read from the results file and have no weights here: "
                "run again without resume"
            )
        return part


class Taken(Fitted):
    """Some probes of a fit, under another numbering.

    Arguments:
        axes: n probes.
        fitted: a fit of more.
        numbers: int64 (n,), the number there of each of them.
        facts: columns (n,) that are not the fit's own.
    """

    def __init__(
        self, axes: Axes, fitted: Fitted, numbers: np.ndarray, facts: Mapping[str, np.ndarray]
    ):
        self.axes, self._fitted, self._numbers = axes, fitted, numbers
        self.n_features, self.class_counts = fitted.n_features, fitted.class_counts
        self.n_train, self.n_targets = n_train(fitted), n_targets(fitted)
        own = {name: values[numbers] for name, values in fitted.facts.items()}
        self.facts = {**own, **facts}
        self._own = np.full(len(fitted.axes), -1)  # for what is not taken
        self._own[numbers] = np.arange(len(numbers))

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every test row to `scores`."""
        self._fitted.score(test, _Renumbered(scores, self._own))

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        return self._fitted.weights(int(self._numbers[probe]))

    def release(self) -> None:
        """Let go of what can be made again."""
        release(self._fitted)


class _Renumbered(PassingSink):
    """Scores of a part's probes under their numbers in the whole."""

    def __init__(self, scores: LogitSink, numbers: np.ndarray):
        super().__init__(scores)
        self._numbers = numbers

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        numbers = self._numbers[probes]
        wanted = np.flatnonzero(numbers >= 0)
        if len(wanted) == len(numbers):
            self._scores.add(numbers, logits, labels)
        elif len(wanted):
            xp = array_namespace(logits)
            places = xp.asarray(wanted, device=device(logits))
            self._scores.add(numbers[wanted], xp.take(logits, places, axis=0), labels)


def release(fitted: Fitted | None) -> None:
    """Let go of what a fit holds only so as not to compute it again."""
    if fitted is not None:
        fitted.release()


@dataclass(frozen=True)
class View:
    """The affine map z = R'((x - mean) / scale) of a basis.

    Attributes:
        directions: float64 (D, m), R, on the device.
        mean: float64 (D,).
        scale: float64 (D,).
        backend: where rows are projected.
    """

    directions: Array
    mean: np.ndarray
    scale: np.ndarray
    backend: Backend

    @classmethod
    def of(cls, basis: Basis, count: int, frame: Frame, backend: Backend) -> "View":
        """Return the map to the first `count` directions of a basis."""
        return cls(directions(basis, count, frame, backend), frame.mean, frame.scale, backend)


class Projected(LabelledRows):
    """The view of row blocks that shows z in place of the features, float32 or float64.

    Every pass projects anew; what of it is kept is for the solver to decide.

    Arguments:
        blocks: the rows beneath, of D features.
        view: the map.
        split: what to call the rows in errors.
        basis: of the view; for moments.
        frame: the rows that the basis is of, if they are these.
    """

    def __init__(
        self,
        blocks: RowBlocks,
        view: View,
        split: str,
        basis: Basis = FEATURES,
        frame: Frame | None = None,
    ):
        self._blocks, self._view, self._split = blocks, view, split
        self._basis, self._frame = basis, frame
        self.start = as_blocks(blocks).start
        self.n_rows, self.n_features = blocks.n_rows, view.directions.shape[1]
        self.n_classes, self.block_rows = blocks.n_classes, blocks.block_rows
        self.fingerprint, self.n_views = None, views_of(blocks)
        own = validation_of(blocks)
        self.validation = None if own is None else Projected(own, view, "validation")

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        backend, done = self._view.backend, self.start
        view, brought, found = self._view, {}, {}
        for features, labels in self._blocks:
            dtype = "float64" if features.dtype == np.float64 else "float32"
            if dtype not in found:
                brought[dtype] = Standardizing.of(view.mean, view.scale, backend, dtype)
                xp = array_namespace(view.directions)
                found[dtype] = xp.astype(view.directions, getattr(xp, dtype))
            x = backend.empty(features.shape, dtype)
            brought[dtype].into(x, backend.put(features))
            with full_precision():
                z = to_host(x @ found[dtype])
            if not np.isfinite(z.sum()):
                raise_non_finite(backend.put(features), done, self._split)
            done += len(labels)
            yield z, labels

    def part(self, start: int, stop: int) -> "Projected":
        """Return the rows from `start` up to `stop`."""
        return Projected(RowRange(self._blocks, start, stop), self._view, self._split)

    def labels(self) -> np.ndarray:
        """Return every label, int64 (N,)."""
        return self._blocks.labels()

    def moments(self, settings: Settings) -> Moments:
        """Return the moments of z: R'GR of the features' own, without a pass over the rows."""
        return self._moments_of(self._frame.moments())

    def _moments_of(self, train: Moments) -> Moments:
        put, standardize = self._view.backend.put, self._frame.standardize
        found = directions(self._basis, self.n_features, self._frame, self._view.backend)
        cross = put(train.cross_there(standardize))

        def again() -> Moments:
            better = train.refined()
            if better is None:
                raise MemoryBudgetError("the rows cannot be read once more")
            return self._moments_of(better)

        return Moments(
            n=train.n,
            shift=np.zeros(self.n_features),
            counts=train.counts,
            sums=np.zeros(self.n_features),
            class_sums=train.n * to_host(found.T @ cross),
            gram=train.n * to_host(congruent(put(train.covariance_there(standardize)), found)),
            precision=train.precision,
            products=train.products,
            again=again,
        )


class _OnBasis(Fitted):
    """The probes of chains on one basis, fitted on the rows that it shows.

    The basis is of the very rows that are fitted on, so that rows which are held out to choose a
    penalty by play no part in it.

    Arguments:
        make: the solver's own fit.
        train: N rows of D features.
        axes: which probe is which; all chains on one basis.
        settings: how to solve.
        options: the solver's own.
        raw: whether the solver takes features as they are: z = R'x.

    Attributes: as `Fitted`.
    """

    def __init__(
        self,
        make: Fit,
        train: Remembered,
        axes: Axes,
        settings: Settings,
        options: Mapping[str, Any],
        raw: bool,
    ):
        self.axes, self.n_features = axes, train.n_features
        self.n_train, self.n_targets = train.n_rows, targets_of(train)
        self._basis, self._backend = axes.chains[0].basis, settings.backend
        self._count = 1 + max(int(chain.order.max()) for chain in axes.chains)
        self._frame = Frame(
            train.n_features, lambda: train.moments(settings), settings.standardize, not raw
        )
        chains = [replace(chain, basis=FEATURES) for chain in axes.chains]
        own = replace(
            settings,
            standardize=False,
            moments_cache=None,
            memory=self._free(settings.memory, train.n_classes),
        )
        self._few, self._stepwise = own.memory // 16, False
        rows = Projected(train, self._view(), "train", self._basis, self._frame)
        self._fitted = make(rows, chains, axes.penalties, own, **options)
        self.class_counts = self._fitted.class_counts
        self._shown: tuple[RowBlocks | None, RowBlocks | None] = (None, None)

    @property
    def facts(self) -> Mapping[str, np.ndarray]:
        """Return what is known of each probe without test rows."""
        return self._fitted.facts

    def solve(self, probes: np.ndarray, starts: Mapping[int, np.ndarray] | None = None) -> None:
        """Solve some probes, where the solver solves what it is asked for."""
        self._stepwise = True
        self._fitted.solve(probes, starts)

    def solution(self, probe: int) -> np.ndarray | None:
        """Return where such a probe has ended, coefficients of directions."""
        return self._fitted.solution(probe)

    def forget(self, kept: np.ndarray) -> None:
        """Drop all solutions but those of these probes."""
        self._fitted.forget(kept)

    def release(self) -> None:
        """Let go of what can be made again."""
        self._shown = (None, None)
        self._fitted.release()

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every test row to `scores`."""
        if self._shown[0] is not test:
            self._shown = (test, self._projected(test))
        self._fitted.score(self._shown[1], scores)

    def _projected(self, test: RowBlocks) -> RowBlocks:
        """Return the rows as the basis shows them, kept if they are few beside what was granted."""
        rows = Projected(test, self._view(), "test")
        if not self._stepwise or 8 * test.n_rows * self._count > self._few:
            return rows
        shown = [(z, labels) for z, labels in rows]
        z, labels = (np.concatenate(parts) for parts in zip(*shown, strict=True))
        return ArrayBlocks(z, labels, test.n_classes or None)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe, of all D features in their order."""
        own, view = self._fitted.weights(probe), self._view()
        found = to_host(view.directions)[:, own.features]
        coef = found @ own.coef / view.scale[:, None]
        return Weights(
            np.arange(self.n_features),
            coef,
            own.intercept - view.mean @ coef,
            view.mean,
            view.scale,
        )

    def _view(self) -> View:
        return View.of(self._basis, self._count, self._frame, self._backend)

    def _free(self, memory: int, n_classes: int) -> int:
        """Return what is left of memory beside the moments and directions of all features."""
        width = self.n_features
        held = spared(8 * width * (4 * width + 2 * n_classes + 3 * self._count))
        if held >= memory:
            raise MemoryBudgetError(
                f"{text(memory)} of memory is too little for directions among {width} features: "
                f"they take {text(held)} beside the probes"
            )
        return memory - held


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
    """Return probes that are solved when they are asked for, as
    `featstore.probe.solvers.logistic.LogisticPath` is.

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
            "leave-one-out has a closed form for ridge, lda and knn: select by validation instead"
        )
    make = entry.leave_one_out
    return _solved(entry, make, DualLeaveOneOut, train, chains, penalties, settings, options)


def _check_labels(entry: Solver, train: RowBlocks) -> None:
    if has_targets(train) and not (entry.targets or has_several_labels(train)):
        raise UsageError(
            "the labels are numbers to be predicted, and this solver tells classes apart: take "
            "solver ridge; or, if they are classes, give them as integers"
        )


def _solved(
    entry: Solver,
    make: Fit,
    make_dual: type[DualFit],
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: Mapping[str, Any],
) -> Fitted:
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
            parts.append(_OnBasis(make, remembered(train), own, settings, options, entry.raw))
        else:
            parts.append(make(train, own.chains, penalties, settings, **options))
    return Joined(axes, parts, [_numbers(axes, portion.cuts) for portion in found])


@dataclass(frozen=True)
class _Portion:
    """Prefixes that are solved together.

    Attributes:
        cuts: which; their numbers are those of the chains among all.
        way: "plain", on all features at once; "columns", on those that they touch; "dual", in
            the N x N dual; "basis", on the rows that their one basis shows.
    """

    cuts: Sequence[Cut]
    way: str


def _portions(entry: Solver, numbers: Problem, chains: Sequence[Chain]) -> list[_Portion]:
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
        return [_Portion(every, "plain")]
    found = [_Portion(single, "plain")] if single and plan is None else []
    for part in plan or []:
        cuts = [replace(cut, number=single[cut.number].number) for cut in part.cuts]
        found.append(_Portion(cuts, "dual" if part.dual else "columns"))
    if entry.every_prefix:
        return [*found, _Portion(along, "plain")] if along else found
    for basis in dict.fromkeys(cut.chain.basis for cut in along):
        found.append(_Portion([cut for cut in along if cut.chain.basis == basis], "basis"))
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
        train.n_rows,
        train.n_features,
        outputs,
        len(penalties),
        settings.memory,
        entry.moments,
        reading,
        settings.host,
        has_several_labels(train) and entry.probabilities,
    )


def _numbers(axes: Axes, cuts: Sequence[Cut]) -> np.ndarray:
    """Return the numbers of the probes of some prefixes, in the order of the part's own axes."""
    return np.concatenate(
        [
            np.array(axes.prefixes(cut.number, penalty))[cut.prefixes]
            for cut in cuts
            for penalty in range(len(axes.penalties))
        ]
    )


class OfColumns(Fitted):
    """The probes of chains that touch few of the features, fitted on those columns alone.

    Attributes: as `Fitted`.
    """

    def __init__(
        self,
        make: Fit,
        train: RowBlocks,
        axes: Axes,
        settings: Settings,
        options: Mapping[str, Any],
    ):
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
        """Return what is known of each probe without test rows."""
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

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
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

"""Probes of given chains (`fit`), and of fractions and seeds (`sweep`)."""

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featstore.probe import arrays
from featstore.probe.arrays import own_settings
from featstore.probe.errors import MemoryBudgetError, RowsWarning, UsageError
from featstore.probe.memory import (
    Grant,
    Progress,
    Settings,
    all_sum,
    grant,
    least,
    rank,
    share,
    shows,
    silent,
    spared,
)
from featstore.probe.metrics import metrics_of
from featstore.probe.modes import WITHOUT_MOMENTS, Mode
from featstore.probe.moments import Moments, Remembered, remembered
from featstore.probe.plans import (
    Outlook,
    ResultsFile,
    Setup,
    Shape,
    SweepPlan,
    Wanted,
    described,
    products,
    seconds,
    sweep_plan,
    trials_of,
)
from featstore.probe.result import ProbeResult, probe_table
from featstore.probe.results import is_score
from featstore.probe.results.evidence import SHARE, RowScores, room
from featstore.probe.rows import (
    Grouped,
    RowBlocks,
    Rows,
    as_blocks,
    as_pair,
    check_labels,
    check_train,
    groups_of,
    has_several_labels,
    has_targets,
    validation_of,
    views_of,
)
from featstore.probe.selection import Penalties, fit_chosen
from featstore.probe.similarity import PrefixSimilarity, check_room
from featstore.probe.solvers import L2, Choice, Options, takes_solver
from featstore.probe.solvers.registry import Chosen, Solver, chosen
from featstore.probe.solvers.routes import (
    Joined,
    release,
    solve,
)
from featstore.probe.solvers.weights import Fitted
from featstore.probe.splits import WithValidation
from featstore.probe.subsets import Chain, Frame, check_chains

_LOG = logging.getLogger(__name__)


@takes_solver
@shows
def fit(
    train: Rows,
    chains: Sequence[Chain],
    *,
    solver: str | Options = "logistic",
    l2: L2 = None,
    select: Choice | None = None,
    held_out: float | None = None,
    held_out_seed: int | None = None,
    standardize: bool = True,
    validation: Rows | None = None,
    memory: str | int | Grant = "auto",
    device: str = "auto",
    backend: str = "torch",
    store: str = "",
    tap: str = "",
    moments_cache: Path | None = None,
    progress: Progress | bool | None = None,
) -> ProbeResult:
    """Return every probe of these chains and penalties, solved but not yet scored.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)); floats for labels are numbers to be
            predicted.
        chains: orderings of features with their prefix sizes.
        solver: a value, such as `Ridge(l2=0.1)` or `Logistic(tol=1e-5)`; or "ridge", "lda",
            "logistic" or "sgd", which stands for that solver with its defaults.
        l2: with the name of a solver, as the field of its value.
        select: likewise.
        held_out: likewise.
        held_out_seed: likewise.
        standardize: divide each feature by its train standard deviation.
        validation: of `SGD` alone: rows by which the epoch is chosen, in place of a tenth of train.
        memory: what arrays may take, of host and device each: "4GiB", bytes, or "auto", as in
            `featstore.probe.memory.Grant`. A device with less is met with half, and a warning.
        device: "auto", "cpu" or "cuda".
        backend: "torch", "numpy" or "cupy".
        store: what to call the features in the table.
        tap: what to call their layer there.
        moments_cache: folder to keep moments in, under the blocks' fingerprint.
        progress: callback, or whether to show it; by default where somebody looks.

    Raises:
        UsageError: an argument cannot be used, or an option is given twice.
        DataError: train cannot be probed.
        MemoryBudgetError: `memory` is too small; the message says how much would do.

    Example:
        >>> from featstore.probe.subsets import subset_chain
        >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 3
        >>> fit((x, y), [subset_chain([0, 2], n_features=3)]).weights(0).coef.shape
        (2, 3)
    """
    how = chosen(
        solver, {"l2": l2, "select": select, "held_out": held_out, "held_out_seed": held_out_seed}
    )
    setup = Setup(standardize, memory, device, backend, store, tap, moments_cache, progress)
    return fitted(_with_validation(how.entry, as_blocks(train), validation), chains, how, setup)


def fitted(blocks: RowBlocks, chains: Sequence[Chain], how: Chosen, setup: Setup) -> ProbeResult:
    """Return every probe as `fit` does.

    Arguments:
        blocks: the train rows, with the validation rows, if there are some.
        chains: orderings of features with their prefix sizes.
        how: the solver.
        setup: how to compute.
    """
    where = setup.where
    of_rows = views_of(blocks), validation_of(blocks), groups_of(blocks) is not None
    penalties, text = described(how, setup.standardize, *of_rows, has_several_labels(blocks))

    def within(memory: int) -> Fitted:
        # plans are made from it, and all processes must make the same
        host = None if granted.host is None else least(granted.host)
        # who watches holds a matrix of test rows, and their moments
        beside = 0 if setup.watch is None else spared(2 * 8 * blocks.n_features**2)
        settings = Settings(
            *(setup.standardize, max(1, least(memory) - beside), where),
            *(setup.moments_cache, setup.progress, host, setup.watch),
        )
        return _fitted(how, blocks, chains, penalties, settings)

    with arrays.own_settings():
        granted = grant(setup.memory, where)
        found = granted.spend(within)
    table = probe_table(found, how.name, penalties, {"store": setup.store, "tap": setup.tap}, text)
    several = has_several_labels(blocks)
    return ProbeResult(table, found, np.arange(len(found.axes)), how.name, several=several)


def _fitted(
    how: Chosen,
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Penalties,
    settings: Settings,
) -> Fitted:
    check_train(train)
    check_chains(chains, train.n_features)
    entry, rows = how.entry, remembered(train)
    if penalties.chosen:
        if not settings.standardize and not entry.raw and entry.ladder is None:
            penalties = penalties.in_units(_mean_variance(train))
        return fit_chosen(entry, rows, chains, penalties, settings, how.own)
    return solve(entry, rows, chains, penalties.values, settings, how.own)


def _with_validation(entry: Solver, train: RowBlocks, validation: Rows | None) -> RowBlocks:
    """Return train rows with the validation rows that are given, if any.

    Raises:
        UsageError: the solver chooses nothing by them.
        DataError: they do not go with the train rows.
    """
    if validation is None:
        return train
    if not entry.validates:
        raise UsageError(
            "validation rows choose the epoch of solver sgd, and this solver has none: leave "
            "`validation` out, or add these rows to train"
        )
    rows = WithValidation(train, as_blocks(validation))
    if not has_targets(train):
        check_labels(rows.validation.labels(), train.n_classes, "validation")
    return rows


def _mean_variance(train: RowBlocks) -> float:
    """Return the mean of the features' variances in their own units, by one pass over the rows."""
    first = next(iter(train))[0][:1].astype(np.float64)
    sums = np.zeros((2, train.n_features))
    for features, _ in share(train):
        moved = features - first
        sums += moved.sum(0), (moved * moved).sum(0)
    all_sum(sums)
    mean, square = sums / train.n_rows
    return float(np.maximum(square - mean**2, 0).mean())


def solved(
    plan: SweepPlan,
    solve: Callable[[Sequence[Chain]], ProbeResult],
    file: ResultsFile | None,
    finished: pd.DataFrame | None,
    rows: RowScores | None = None,
    each: Callable[[ProbeResult], object] | None = None,
    outlook: Outlook | None = None,
) -> ProbeResult:
    """Return the result of a sweep.

    Arguments:
        plan: what to solve.
        solve: returns the scored probes of a group.
        file: where to keep what is finished; None for nowhere.
        finished: probes that need not be solved, indexed by their numbers; None for none.
        rows: room for the part of each test row in the scores of all probes, with what is known of
            the finished ones; None where that is not kept.
        each: called with every group's scored probes before the file counts them as finished, so
            that whatever it keeps of them is there whenever the file says so.
        outlook: says how long what is left will take; None for a callback that is silent.
    """
    results: list[ProbeResult | None] = []
    numbers: list[np.ndarray] = []
    start = 0
    for place, group in enumerate(plan.groups):
        count = sum(map(len, group)) * len(plan.axes.penalties)
        numbers.append(np.arange(start, start + count))
        start += count
        if finished is not None and np.isin(numbers[-1], finished.index).all():
            results.append(None)
            _LOG.info("group %d of %d: %d probes are finished", place + 1, len(plan.groups), count)
            continue
        if outlook:
            outlook.begin(place)
        started = time.perf_counter()
        result = solve(group)
        _LOG.info(
            "group %d of %d: %d %s probes solved in %.1f s",
            *(place + 1, len(plan.groups), count, result.solver, time.perf_counter() - started),
        )
        table = result.table.assign(options=plan.identity["options"].iloc[0])
        finished = _with(finished, table.set_axis(numbers[-1]))
        if each:
            each(result)
        if rows is not None:
            rows.put(numbers[-1], result.by_row)
            result = result.without_rows()  # those of all groups are kept once
        if file and rank() == 0:
            file.write(finished, rows)
        if len(plan.groups) > 1:
            release(result.fitted)
        results.append(result)
        if outlook:
            outlook.end(place)
    if outlook:
        outlook.close()
    return _result(plan, results, numbers, finished, rows)


def _with(finished: pd.DataFrame | None, table: pd.DataFrame) -> pd.DataFrame:
    """Return the finished probes and those of the table, which takes the place of any before."""
    if finished is None:
        return table
    before = finished.drop(index=finished.index.intersection(table.index))
    before = before.reindex(columns=table.columns)
    return pd.concat([before, table]).sort_index() if len(before) else table


def _result(
    plan: SweepPlan,
    results: Sequence[ProbeResult | None],
    numbers: Sequence[np.ndarray],
    finished: pd.DataFrame,
    rows: RowScores | None,
) -> ProbeResult:
    parts = [result.fitted if result else None for result in results]
    fitted = parts[0]
    if len(parts) > 1 or fitted is None:
        fitted = Joined(plan.axes, parts, numbers)
    by_class: dict[str, np.ndarray] = {}
    for result, probes in zip(results, numbers, strict=True):
        for name, values in (result.by_class if result else {}).items():
            empty = np.full((len(plan.axes), values.shape[1]), np.nan)
            by_class.setdefault(name, empty)[probes] = values
    table = plan.layout.arranged(finished)
    solver = str(plan.identity["solver"].iloc[0])
    return ProbeResult(table, fitted, plan.layout.probes, solver, by_class, rows)


@takes_solver
@shows
def sweep(
    train: Rows,
    test: Rows,
    *,
    fractions: float | Sequence[float] | None = None,
    seeds: int | Sequence[int] = (1,),
    solver: str | Options = "logistic",
    l2: L2 = None,
    select: Choice | None = None,
    held_out: float | None = None,
    held_out_seed: int | None = None,
    mode: Mode | Sequence[Mode] = "random",
    every_k: bool = False,
    cka: bool = False,
    metrics: str | Sequence[str] | None = None,
    standardize: bool = True,
    validation: Rows | None = None,
    groups: tuple[ArrayLike, ArrayLike] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    each: Callable[[ProbeResult], object] | None = None,
    memory: str | int | Grant = "auto",
    device: str = "auto",
    backend: str = "torch",
    store: str = "",
    tap: str = "",
    moments_cache: Path | None = None,
    progress: Progress | bool | None = None,
) -> ProbeResult:
    """Return the scored probes of every fraction, seed and penalty, and of the whole layer.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)).
        test: row blocks, or (features, labels), to score on.
        fractions: one or several shares in (0, 1]; k = int(fraction * D); the whole layer is
            always probed too.
        seeds: what the random subsets are drawn with; for one seed they are nested; 5 stands for
            seeds 1 to 5.
        solver: as of `fit`, and so are `l2`, `select`, `held_out` and `held_out_seed`.
        l2: as of `fit`.
        select: as of `fit`.
        held_out: as of `fit`.
        held_out_seed: as of `fit`.
        mode: which features: a key of `featstore.probe.modes.MODES`, or several; "indices:FILE",
            or a list of indices, for one's own.
        every_k: probe every number of features from 1 to D, in place of `fractions`; for the
            solvers ridge and lda.
        cka: add a column, the similarity of what a probe sees to the whole layer
            (`featstore.probe.similarity`).
        metrics: keys of `featstore.probe.metrics.METRICS`, or top<k>; by default accuracy, or R^2
            of numbers. Tables are summed up by accuracy or R^2 where they are among them, else by
            the first that is the better the larger it is.
        standardize: divide each feature by its train standard deviation.
        validation: as of `fit`.
        groups: of each train row and of each test row which group it is of (patient, slide,
            speaker), numbers or texts. Penalties are chosen on whole groups that are held out, and
            intervals are over groups of test rows, of which a column `n_groups` says how many.
        out: .csv, .json or .parquet file to keep the table in. The probes are solved group by
            group, and after each the file is written, the others in it as "not run". Beside it
            lies a file that says which test rows each probe has right
            (`featstore.probe.results.reading`).
        resume: solve only the probes that `out` does not have.
        each: called with every group's scored probes before they are written to `out`.
        memory: as of `fit`, and so are `device`, `backend`, `store`, `tap` and `moments_cache`.
        device: as of `fit`.
        backend: as of `fit`.
        store: as of `fit`.
        tap: as of `fit`.
        moments_cache: as of `fit`.
        progress: callback, or whether to show it; by default where somebody looks.

    Raises:
        UsageError, DataError, MemoryBudgetError: as `fit`; and for fractions outside (0, 1] or
            that take no feature, repeated fractions or seeds, and an `out` of another sweep.

    Example:
        >>> import numpy as np
        >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 3
        >>> result = sweep((x, y), (x, y), fractions=0.4, seeds=2)
        >>> result.table[["seed", "fraction", "k"]].values.tolist()
        [[1, 0.4, 1], [1, 1.0, 3], [2, 0.4, 1], [2, 1.0, 3]]
    """
    how = chosen(
        solver, {"l2": l2, "select": select, "held_out": held_out, "held_out_seed": held_out_seed}
    )
    train_blocks, test_blocks = as_pair(train, test)
    if groups is not None:
        train_blocks, test_blocks = grouped_pair(train_blocks, test_blocks, groups)
    _tell_of_shared_groups(train_blocks, test_blocks)
    train_blocks = _with_validation(how.entry, train_blocks, validation)
    metrics = metrics_of(metrics, has_targets(train_blocks), has_several_labels(train_blocks))
    if resume and out is None:
        raise UsageError("resume without out: name the results file that is to be completed")
    wanted = Wanted(fractions, seeds, mode, every_k, cka)
    kept = (Path(out), resume) if out is not None else None
    setup = Setup(standardize, memory, device, backend, store, tap, moments_cache, progress)
    return _swept(train_blocks, test_blocks, wanted, how, metrics, kept, each, setup)


def grouped_pair(
    train: RowBlocks, test: RowBlocks, groups: tuple[ArrayLike, ArrayLike]
) -> tuple[RowBlocks, RowBlocks]:
    """Return train and test as rows of groups.

    Raises:
        UsageError: groups are no pair, or not as many as rows.
    """
    if len(groups) != 2:
        raise UsageError("groups are no pair: give those of train rows, and those of test rows")
    return Grouped(train, groups[0]), Grouped(test, groups[1])


def _tell_of_shared_groups(train: RowBlocks, test: RowBlocks) -> None:
    """Warn of groups that both train and test have rows of."""
    theirs, own = groups_of(train), groups_of(test)
    if theirs is None or own is None or rank() > 0:
        return
    shared = np.intersect1d(theirs.astype(str), own.astype(str))
    if len(shared):
        warnings.warn(
            f"{len(shared):,} of {len(np.unique(own)):,} groups of test rows have train rows too "
            f"({', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}): scores are of groups "
            "that are known; split by group to have those of others",
            RowsWarning,
            stacklevel=3,
        )


def _swept(
    train: RowBlocks,
    test: RowBlocks,
    wanted: Wanted,
    how: Chosen,
    metrics: tuple[str, ...],
    kept: tuple[Path, bool] | None,
    each: Callable[[ProbeResult], object] | None,
    setup: Setup,
) -> ProbeResult:
    where = setup.where
    # one grant for all groups, so that what one learns of the device the next ones know
    granted = grant(setup.memory, where)
    setup = replace(setup, memory=granted)
    rows, file, finished = remembered(train), None, None
    moments = _gatherer(rows, granted, setup)
    with own_settings():
        plan = sweep_plan(rows, test, wanted, how, moments, setup)
    scored_as = (*metrics, "cka") if wanted.cka else metrics
    known = None
    if any(map(is_score, metrics)):
        known = room(test, len(plan.axes), granted.on_host // SHARE, metrics)
    if kept:
        file = ResultsFile(kept[0], plan.identity, plan.layout, scored_as)
        if kept[1] and file.path.exists():
            finished = file.read()
            known = file.read_rows(known)

    tested = remembered(test)

    def solve(group: Sequence[Chain]) -> ProbeResult:
        def scored(memory: int) -> ProbeResult:
            similar, watched = None, setup
            if wanted.cka:
                check_room(rows.n_features, memory)
                frame = Frame(
                    rows.n_features, moments, setup.standardize, centred=not how.entry.raw
                )
                of_test = _gatherer(tested, granted, setup)()
                similar = PrefixSimilarity(of_test, frame, where, group)
                watched = replace(setup, watch=similar.watch)
            probes = fitted(rows, group, how, watched)
            ranking = min(memory, granted.on_host) // SHARE
            room_of_group = None if known is None else known.like(len(probes.fitted.axes))
            found = probes.scored(test, metrics, room_of_group, ranking)
            if similar is None:
                return found
            release(found.fitted)  # factors make room for other matrices
            return similar.beside(found)

        with own_settings():
            return granted.spend(scored)

    outlook = None
    if setup.progress is not silent:
        outlook = _outlook(plan, how, setup, rows, test)
    return solved(plan, solve, file, finished, known, each, outlook)


def _outlook(
    plan: SweepPlan, how: Chosen, setup: Setup, train: RowBlocks, test: RowBlocks
) -> Outlook:
    """Return how long each group will take, by how fast this machine multiplies."""
    shape = Shape.of(train, test)
    trials = trials_of(described(how)[0], train.n_rows, how.entry.batch)
    rate, epochs = products(setup.where), how.options.own().get("epochs", 0)
    phases = [
        seconds(how.name, [chain.sizes for chain in group], shape, trials, rate, epochs)
        for group in plan.groups
    ]
    for later in phases[1:]:
        later["reading"] = 0.0  # moments are remembered
    penalties = len(plan.axes.penalties)
    return Outlook(
        setup.progress, phases, [penalties * sum(map(len, group)) for group in plan.groups]
    )


def _gatherer(rows: Remembered, granted: Grant, setup: Setup) -> Callable[[], Moments]:
    """Return what gathers the moments of rows when a mode first asks for them.

    Raises, when called:
        MemoryBudgetError: they do not fit; the message says which modes do without.
    """

    def gathered() -> Moments:
        try:
            return granted.spend(
                lambda memory: rows.moments(
                    Settings(
                        memory=least(memory),
                        backend=setup.where,
                        moments_cache=setup.moments_cache,
                        progress=setup.progress,
                    )
                )
            )
        except MemoryBudgetError as error:
            raise MemoryBudgetError(
                f"a mode needs the moments of all {rows.n_features} features: {error}; "
                f"{WITHOUT_MOMENTS}"
            ) from None

    return gathered

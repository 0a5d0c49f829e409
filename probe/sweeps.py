"""Sweeps: probes group by group, in a table that is kept while it grows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featstore.probe.arrays import Backend, backend, own_settings
from featstore.probe.bases import Frame
from featstore.probe.devices import Grant, grant
from featstore.probe.errors import MemoryBudgetError, UsageError
from featstore.probe.fits import described, fit, with_validation
from featstore.probe.memory import Progress, Settings, least, rank, silent
from featstore.probe.metrics import metrics_of
from featstore.probe.modes import WITHOUT_MOMENTS, Mode
from featstore.probe.moments import Moments, Remembered, remembered
from featstore.probe.plans import (
    EPOCHS,
    Outlook,
    ResultsFile,
    Shape,
    SweepPlan,
    Wanted,
    products,
    seconds,
    sweep_plan,
    trials_of,
)
from featstore.probe.result import ProbeResult
from featstore.probe.results.tables import SHARE, RowScores, room
from featstore.probe.rows import RowBlocks, Rows, as_pair, has_targets, targets_of
from featstore.probe.similarity import PrefixSimilarity, check_room
from featstore.probe.solvers.registry import SOLVERS, solver_named
from featstore.probe.solvers.routes import Joined, release
from featstore.probe.subsets import Chain


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
            continue
        if outlook:
            outlook.begin(place)
        result = solve(group)
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
    here = [result for result in results if result and result.by_class is not None]
    by_class = None
    if here:
        by_class = np.full((len(plan.axes), here[0].by_class.shape[1]), np.nan)
        for result, probes in zip(results, numbers, strict=True):
            if result:
                by_class[probes] = result.by_class
    table = plan.layout.arranged(finished)
    solver = str(plan.identity["solver"].iloc[0])
    return ProbeResult(table, fitted, plan.layout.probes, solver, by_class, rows)


def sweep(
    train: Rows,
    test: Rows,
    *,
    fractions: Sequence[float] | None = None,
    seeds: Sequence[int] = (1,),
    solver: str = "logistic",
    mode: Mode | Sequence[Mode] = "random",
    every_k: bool = False,
    cka: bool = False,
    metrics: Sequence[str] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    each: Callable[[ProbeResult], object] | None = None,
    **arguments: Any,
) -> ProbeResult:
    """Return the scored probes of every fraction, seed and penalty, and of the whole layer.

    Arguments:
        train: row blocks, or (features (N, D), labels (N,)).
        test: row blocks, or (features, labels), to score on.
        fractions: shares in (0, 1]; k = int(fraction * D); the whole layer is always probed too.
        seeds: what the random subsets are drawn with; for one seed they are nested.
        solver: a key of `featstore.probe.solvers.registry.SOLVERS`.
        mode: which features: a key of `featstore.probe.modes.MODES`, or several; "indices:FILE", or
        a list
            of indices, for one's own.
        every_k: probe every number of features from 1 to D, in place of `fractions`; for the
            solvers ridge and lda.
        cka: add a column, the similarity of what a probe sees to the whole layer
            (`featstore.probe.similarity`).
        metrics: keys of `featstore.probe.metrics.METRICS`; by default accuracy, or R^2 of numbers.
        out: .csv, .json or .parquet file to keep the table in. The probes are solved group by
            group, and after each the file is written, the others in it as "not run". Beside it
            lies a file that says which test rows each probe has right
            (`featstore.probe.results.tables`).
        resume: solve only the probes that `out` does not have.
        each: called with every group's scored probes before they are written to `out`.
        arguments: the other arguments of `fit`.

    Raises:
        UsageError, DataError, MemoryBudgetError: as `fit`; and for fractions outside (0, 1] or
            that take no feature, repeated fractions or seeds, and an `out` of another sweep.

    Example:
        >>> import numpy as np
        >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 3
        >>> result = sweep((x, y), (x, y), fractions=[0.4], seeds=[1, 2])
        >>> result.table[["seed", "fraction", "k"]].values.tolist()
        [[1, 0.4, 1], [1, 1.0, 3], [2, 0.4, 1], [2, 1.0, 3]]
    """
    train_blocks, test_blocks = as_pair(train, test)
    validation = arguments.pop("validation", None)
    train_blocks = with_validation(solver_named(solver), train_blocks, validation)
    metrics = metrics_of(metrics, has_targets(train_blocks))
    if resume and out is None:
        raise UsageError("resume without out: name the results file that is to be completed")
    wanted = Wanted(fractions, seeds, mode, every_k, cka)
    kept = (Path(out), resume) if out is not None else None
    return _swept(train_blocks, test_blocks, wanted, solver, metrics, kept, each, arguments)


def _swept(
    train: RowBlocks, test: RowBlocks, wanted: Wanted, solver: str, metrics: tuple[str, ...],
    kept: tuple[Path, bool] | None, each: Callable[[ProbeResult], object] | None,
    arguments: dict[str, Any],
) -> ProbeResult:  # fmt: skip
    where = backend(arguments.get("backend", "torch"), arguments.get("device", "auto"))
    # one grant for all groups, so that what one learns of the device the next ones know
    arguments["memory"] = granted = grant(arguments.get("memory", "auto"), where)
    rows, file, finished = remembered(train), None, None
    moments = gatherer(rows, granted, where, arguments)
    with own_settings():
        plan = sweep_plan(rows, test, wanted, solver, moments, arguments)
    scored_as = (*metrics, "cka") if wanted.cka else metrics
    known = None
    if "accuracy" in metrics or "r2" in metrics:
        known = room(test, len(plan.axes), granted.memory // SHARE)
    if kept:
        file = ResultsFile(kept[0], plan.identity, plan.layout, scored_as)
        if kept[1] and file.path.exists():
            finished = file.read()
            known = file.read_rows(known)

    tested = remembered(test)
    row_bytes = granted.memory if known else 0  # room for all has been found

    def solve(group: Sequence[Chain]) -> ProbeResult:
        def scored(memory: int) -> ProbeResult:
            found = fit(rows, group, solver=solver, **arguments).score(test, metrics, row_bytes)
            if not wanted.cka:
                return found
            release(found.fitted)  # factors make room for other matrices
            check_room(rows.n_features, memory)
            raw, scaled = SOLVERS[solver].raw, arguments.get("standardize", True)
            frame = Frame(rows.n_features, moments, scaled, centred=not raw)
            of_test = gatherer(tested, granted, where, arguments)()
            return PrefixSimilarity(of_test, frame, where).beside(found)

        with own_settings():
            return granted.spend(scored)

    progress, outlook = arguments.get("progress", silent), None
    if progress is not silent:
        outlook = _outlook(progress, plan, solver, where, rows, test, arguments)
    return solved(plan, solve, file, finished, known, each, outlook)


def _outlook(
    progress: Progress, plan: SweepPlan, solver: str, where: Backend, train: RowBlocks,
    test: RowBlocks, arguments: Mapping[str, Any],
) -> Outlook:  # fmt: skip
    """Return how long each group will take, by how fast this machine multiplies."""
    outputs = train.n_classes or targets_of(train)
    shape = Shape(train.n_rows, test.n_rows, outputs, train.n_features)
    trials = trials_of(described(solver, arguments)[0], train.n_rows, SOLVERS[solver].batch)
    rate, epochs = products(where), arguments.get("epochs", EPOCHS)
    phases = [
        seconds(solver, [chain.sizes for chain in group], shape, trials, rate, epochs)
        for group in plan.groups
    ]
    for later in phases[1:]:
        later["reading"] = 0.0  # moments are remembered
    penalties = len(plan.axes.penalties)
    return Outlook(progress, phases, [penalties * sum(map(len, group)) for group in plan.groups])


def gatherer(
    rows: Remembered, granted: Grant, where: Backend, arguments: Mapping[str, Any]
) -> Callable[[], Moments]:
    """Return what gathers the moments of rows when a mode first asks for them.

    Raises, when called:
        MemoryBudgetError: they do not fit; the message says which modes do without.
    """
    known = {name: arguments[name] for name in ("moments_cache", "progress") if name in arguments}

    def gathered() -> Moments:
        try:
            return granted.spend(
                lambda memory: rows.moments(Settings(memory=least(memory), backend=where, **known))
            )
        except MemoryBudgetError as error:
            raise MemoryBudgetError(
                f"a mode needs the moments of all {rows.n_features} features: {error}; "
                f"{WITHOUT_MOMENTS}"
            ) from None

    return gathered

"""The whole way from feature blocks to a table of accuracies against fractions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.arrays import Backend, backend, own_settings
from probe.basis import Frame
from probe.blocks import RowBlocks, Rows, has_targets, targets_of
from probe.by_row import SHARE, room
from probe.chains import Chain
from probe.checks import as_pair
from probe.device_memory import Grant, grant
from probe.errors import MemoryBudgetError, UsageError
from probe.fits import described, fit, with_validation
from probe.forecast import EPOCHS, Outlook, Shape, products, seconds, trials_of
from probe.groupwise import solved
from probe.joined import release
from probe.metrics import metrics_of
from probe.modes import WITHOUT_MOMENTS, Mode
from probe.moments import Moments
from probe.prefix_similarity import PrefixSimilarity, check_room
from probe.progress import Progress, silent
from probe.ranks import least
from probe.remembered import Remembered, remembered
from probe.result import ProbeResult
from probe.resume import ResultsFile
from probe.settings import Settings
from probe.solvers import SOLVERS, solver_named
from probe.sweep_plan import SweepPlan, Wanted, sweep_plan


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
        solver: a key of `probe.solvers.SOLVERS`.
        mode: which features: a key of `probe.modes.MODES`, or several; "indices:FILE", or a list
            of indices, for one's own.
        every_k: probe every number of features from 1 to D, in place of `fractions`; for the
            solvers ridge and lda.
        cka: add a column, the similarity of what a probe sees to the whole layer
            (`probe.prefix_similarity`).
        metrics: keys of `probe.metrics.METRICS`; by default accuracy, or R^2 of numbers.
        out: .csv, .json or .parquet file to keep the table in. The probes are solved group by
            group, and after each the file is written, the others in it as "not run". Beside it
            lies a file that says which test rows each probe has right (`probe.by_row`).
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

"""The whole way from feature blocks to a table of accuracies against fractions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from probe.arrays import backend
from probe.blocks import Rows, has_targets
from probe.chains import Chain
from probe.checks import as_pair
from probe.device_memory import grant
from probe.errors import UsageError
from probe.fits import fit
from probe.groupwise import solved
from probe.metrics import metrics_of
from probe.remembered import remembered
from probe.result import ProbeResult
from probe.resume import ResultsFile
from probe.sweep_plan import sweep_plan


def sweep(
    train: Rows,
    test: Rows,
    *,
    fractions: Sequence[float],
    seeds: Sequence[int] = (1,),
    solver: str = "logistic",
    mode: str = "random",
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
        mode: "random", or "first" for the leading features (which knows no seed).
        metrics: keys of `probe.metrics.METRICS`; by default accuracy, or R^2 of numbers.
        out: .csv, .json or .parquet file to keep the table in. The probes are solved group by
            group, and after each the file is written, the others in it as "not run".
        resume: solve only the probes that `out` does not have.
        each: called with the scored probes of every group before they are written to `out`, to keep
            more of them (`ProbeResult.predict`) than a table does.
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
    metrics = metrics_of(metrics, has_targets(train_blocks))
    if resume and out is None:
        raise UsageError("resume without out: name the results file that is to be completed")
    plan = sweep_plan(train_blocks, test_blocks, fractions, seeds, solver, mode, arguments)
    blocks, file = remembered(train_blocks), None
    if out is not None:
        file = ResultsFile(Path(out), plan.identity, plan.layout, metrics)
    finished = file.read() if resume and file.path.exists() else None
    where = backend(arguments.get("backend", "torch"), arguments.get("device", "auto"))
    granted = grant(arguments.pop("memory", "auto"), where)

    def solve(group: Sequence[Chain]) -> ProbeResult:
        # one grant for all groups, so that what one learns of the device the next ones know
        def scored(_: int) -> ProbeResult:
            found = fit(blocks, group, solver=solver, memory=granted, **arguments)
            return found.score(test_blocks, metrics)

        return granted.spend(scored)

    return solved(plan, solve, file, finished, each)

"""A sweep solved group by group, each kept in the results file as soon as it is done."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from probe.by_row import RowScores
from probe.chains import Chain
from probe.forecast import Outlook
from probe.joined import Joined, release
from probe.ranks import rank
from probe.result import ProbeResult
from probe.resume import ResultsFile
from probe.sweep_plan import SweepPlan


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

"""Every solver on the same sweep: probes a second, memory, accuracy, and the loops replaced.

python -m benchmarks.bench_probe --sizes small
"""

from dataclasses import asdict, replace

from benchmarks import bench_logistic, bench_ridge, bench_sgd, stages
from featstore import bench, measurements
from featstore.bench import EpochSizes
from featstore.measurements import Report
from featstore.probe.subsets import random_chain

SIZES = {
    name: replace(sizes, loop_probes=place, repeats=1)
    for place, (name, sizes) in enumerate(bench.SOLVER_SIZES.items(), start=2)
}


def measure(sizes: EpochSizes, setup: stages.Setup) -> Report:
    """Return the report, having compared the answers of each solver with a loop's."""
    train, test = bench.split(sizes, decay=0.5)
    together, beside = [], []
    for place, solver in enumerate(bench.SOLVERS, start=1):
        spent, held, result = bench.swept(train, test, sizes, setup, solver)
        together.append(bench.throughput(solver, spent, held, result))
        beside += _against(solver, train, test, result, spent, sizes, setup)
        setup.progress("solvers", place, len(bench.SOLVERS))
    tables = {"solvers": together} | ({"loops": beside} if beside else {})
    note = (
        f"Everything is in the seconds: moments, fits, scores. sgd: {sizes.epochs} epochs of the "
        "paper's 100. Loops: some probes of one seed were run, time is taken as a power of k "
        "between them, and every seed as the first; logistic is compared where the loop stops, in "
        "the first row."
    )
    found = measurements.facts(setup.backend)
    return Report("probe", asdict(sizes), found, tables, notes=[note])


def _against(solver: str, train, test, result, spent: float, sizes: EpochSizes, setup) -> list:
    """Return the rows of a solver's loops."""
    if solver == "ridge":
        rows = bench_ridge.against(train, test, result, spent, sizes, setup)
    elif solver == "logistic" and setup.against:
        rows = bench_logistic.against(train, sizes, setup, result.fitted.facts["objective"])
    elif solver == "sgd":
        shares = sorted(result.table["fraction"].unique())
        chain = random_chain(sizes.features, shares, 1)
        rows = bench_sgd.against(train, chain, sizes, setup, result, spent)
    else:
        rows = []  # the product's lda has no loop here
    return [{**row, "what": f"{solver}: {row['what']}"} for row in rows]


if __name__ == "__main__":
    stages.main("probe")

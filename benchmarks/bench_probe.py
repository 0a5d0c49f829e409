"""Every solver on the same sweep: probes a second, memory, accuracy, and the loops replaced.

python -m benchmarks.bench_probe --sizes small
"""

from typing import Any

from benchmarks import bench_logistic, bench_ridge, bench_sgd, machine, problems, stages
from benchmarks.report import Report
from benchmarks.sizes import EpochSizes, as_dict
from featstore import probe
from featstore.probe.subsets import random_chain

SIZES = {
    "small": EpochSizes(600, 256, 5, 5, 2, loop_probes=2, repeats=1, test_rows=200),
    "medium": EpochSizes(4_000, 512, 10, 10, 5, loop_probes=3, repeats=1, epochs=10),
    "full": EpochSizes(
        10_000, 1_024, 10, 10, 5, loop_probes=4, repeats=1, test_rows=5_000, epochs=10
    ),
}


def options(sizes: EpochSizes) -> dict[str, dict[str, Any]]:
    """Return what each solver is told."""
    return {
        "ridge": {"l2": bench_ridge.L2},
        "lda": {},
        "logistic": {"l2": bench_logistic.L2},
        "sgd": {
            "epochs": sizes.epochs,
            "step_every": 1,
            "validate_every": 1,
            "one_start": False,
        },
    }


def measure(sizes: EpochSizes, setup: stages.Setup) -> Report:
    """Return the report, having compared the answers of each solver with a loop's."""
    train, test = problems.split(sizes, decay=0.5)
    found = machine.facts(setup.backend)
    shares = bench_logistic.shares(sizes)
    together, beside = [], []
    for place, (solver, told) in enumerate(options(sizes).items(), start=1):
        with machine.PeakMemory(setup.backend) as peak:
            spent, result = machine.seconds(
                lambda solver=solver, told=told: probe.sweep(
                    train, test, fractions=shares, seeds=range(1, sizes.seeds + 1),
                    solver=solver, **told, **setup.arguments,
                )
            )  # fmt: skip
        together.append(_row(solver, result, spent, peak.bytes))
        beside += _against(solver, train, test, result, spent, sizes, setup)
        setup.progress("solvers", place, len(options(sizes)))
    tables = {"solvers": together} | ({"loops": beside} if beside else {})
    return Report("probe", as_dict(sizes), found, tables, notes=[
        f"Everything is in the seconds: moments, fits, scores. sgd: {sizes.epochs} epochs of the "
        "paper's 100. Loops: some probes of one seed were run, time is taken as a power of k "
        "between them, and every seed as the first; logistic is compared where the loop stops, in "
        "the first row.",
    ])  # fmt: skip


def _row(solver: str, result: probe.ProbeResult, spent: float, held: int) -> dict[str, Any]:
    table = result.table
    means = table.groupby("fraction")["accuracy"].mean()
    return {
        "solver": solver,
        "probes": len(table),
        "seconds": spent,
        "probes/s": len(table) / spent,
        "peak MiB": round(held / 2**20),
        f"at {100 * means.index[0]:.2g} %": float(means.iloc[0]),
        "all features": float(means.iloc[-1]),
    }


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

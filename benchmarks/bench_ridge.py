"""Ridge: every stage against the machine's rates, whole sweeps against X'X and against loops.

python -m benchmarks.bench_ridge --sizes small
"""

from dataclasses import asdict, replace

import numpy as np
import torch

from benchmarks import loops, ridge_stages, stages
from benchmarks.ridge_loops import FITS
from featstore import bench, measurements, probe
from featstore.bench import SweepSizes, grown
from featstore.measurements import Report
from featstore.probe.arrays import full_precision

L2 = bench.L2["ridge"]
# how many times as many fractions the second sweep has
MANY = 10
# of W, relative to float64 and to a loop in float32; and rows classified otherwise, where two
# classes tie
WORST_ERROR, WORST_LOOP, TIES = 1e-5, 1e-3, 2

SIZES = {
    "small": SweepSizes(2_000, 128, 10, 5, 2, loop_probes=3, repeats=1, points=2, test_rows=500),
    "medium": SweepSizes(20_000, 1_024, 20, 20, 5, loop_probes=6, repeats=2, test_rows=4_000),
    "full": SweepSizes(50_000, 2_048, 100, 20, 5, loop_probes=10, repeats=2, test_rows=10_000),
}


def grid(count: int) -> list[float]:
    """Return 1/count, 2/count, ..., 1."""
    return [(i + 1) / count for i in range(count)]


def sweep(train, test, sizes: SweepSizes, setup: stages.Setup) -> probe.ProbeResult:
    return probe.sweep(
        train,
        test,
        fractions=grid(sizes.fractions),
        seeds=range(1, sizes.seeds + 1),
        solver="ridge",
        l2=L2,
        **setup.arguments,
    )


def measure(sizes: SweepSizes, setup: stages.Setup) -> Report:
    """Return the report, having checked that the answers agree."""
    train, test = bench.split(sizes)
    found = measurements.facts(setup.backend)
    measured, result = sweeps(train, test, sizes, setup)
    ours = measured[1]["seconds"]
    error = worst_coefficient_error(train, result, every=max(1, len(result) // 10))
    if error > WORST_ERROR:
        raise bench.Disagreement(f"ridge: W is off by {error:.1e} of itself from float64's")
    beside = [loops.compared("all together", len(result), ours, ours, f"W to {error:.0e}")]
    beside += against(train, test, result, ours, sizes, setup)
    return Report(
        "ridge",
        asdict(sizes),
        found,
        {
            "sweep": measured,
            "stages": ridge_stages.measure(
                train, test, sizes, grid(sizes.fractions), L2, setup, found
            ),
            "loops": beside,
        },
        grown(sizes, lambda point: solved(train, test, point, setup)),
        [
            f"Loops: {sizes.loop_probes} probes of one seed were run, at most; time is taken as a "
            "power of k between them, and every seed as the first."
        ],
    )


def sweeps(train, test, sizes: SweepSizes, setup: stages.Setup) -> tuple[list[dict], object]:
    """Return the rows that hold whole sweeps against one X'X, and the result of the first."""
    many = replace(sizes, fractions=min(MANY * sizes.fractions, sizes.features))
    x = setup.backend.put(train[0])
    sweep(train, test, replace(sizes, seeds=1, fractions=2), setup)
    product, few_seconds, many_seconds = [], [], []
    for _ in range(sizes.repeats):  # in turn, so that a busy moment hits all alike
        with full_precision():
            product.append(measurements.seconds(lambda: x.T @ x)[0])
        seconds, result = measurements.seconds(lambda: sweep(train, test, sizes, setup))
        few_seconds.append(seconds)
        many_seconds.append(measurements.seconds(lambda: sweep(train, test, many, setup))[0])
    with measurements.PeakMemory(setup.backend) as peak:
        sweep(train, test, sizes, setup)
    one, few, lots = min(product), min(few_seconds), min(many_seconds)
    probes = sizes.fractions * sizes.seeds, many.fractions * sizes.seeds
    rows = [
        _row("one X'X, float32", "", one, "", ""),
        _row(f"{sizes.fractions} fractions", probes[0], few, few / one, "<= 3 X'X"),
        _row(f"{many.fractions} fractions", probes[1], lots, lots / few, "<= 1.5 few"),
    ]
    return [
        {**row, "peak MiB": round(peak.bytes / 2**20) if place == 1 else ""}
        for place, row in enumerate(rows)
    ], result


def _row(what: str, probes: int | str, seconds: float, ratio: float | str, target: str) -> dict:
    rate = probes / seconds if probes else ""
    return {
        "what": what,
        "probes": probes,
        "seconds": seconds,
        "probes/s": rate,
        "ratio": ratio,
        "target": target,
    }


def against(train, test, result, ours: float, sizes: SweepSizes, setup) -> list[dict]:
    """Return a row for each loop, whose coefficients and predictions have been compared."""
    x, x_test = loops.standardised(train, test)
    targets = np.eye(int(train[1].max()) + 1, dtype=np.float32)[train[1]]
    k = result.table["k"].to_numpy()
    places = loops.picks(len(result) // sizes.seeds, sizes.loop_probes)
    rows = []
    for name in setup.against:

        def fit(place: int, name=name) -> tuple[np.ndarray, np.ndarray]:
            features = result.fitted.axes.features(result.probes[place])
            columns = np.ascontiguousarray(x[:, features])
            return FITS[name](columns, targets, L2, setup.backend.device)

        timed = loops.timed(name, k, places, fit)
        off, error = 0, 0.0
        for place, (weights, intercept) in zip(places, timed.answers, strict=True):
            own, accuracy = result.weights(place), result.table["accuracy"].iloc[place]
            hits = (x_test[:, own.features] @ weights + intercept).argmax(1) == test[1]
            off = max(off, round(abs(hits.sum() - accuracy * len(test[1]))))
            same = own.standardized[0]
            error = max(error, float(np.linalg.norm(weights - same) / np.linalg.norm(same)))
        if off > TIES:
            raise bench.Disagreement(f"ridge: {off} predictions differ from those of {name}")
        if error > WORST_LOOP:
            raise bench.Disagreement(f"ridge: W differs by {error:.1e} of itself from {name}'s")
        rows.append(timed.row(ours, f"{off} rows off, W to {error:.0e}"))
    return rows


def worst_coefficient_error(train: tuple, result: probe.ProbeResult, every: int) -> float:
    """Return the largest relative error of W of every so-many-th probe, against float64."""
    x, y = torch.from_numpy(train[0]), train[1]
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    mean = x.mean(0, dtype=torch.float64)
    centred_targets = torch.from_numpy(np.eye(y.max() + 1)[y])
    centred_targets -= centred_targets.mean(0)
    cross = torch.zeros(x.shape[1], centred_targets.shape[1], dtype=torch.float64)
    for rows in torch.arange(len(x)).split(4096):
        centred = x[rows].double() - mean
        gram += centred.T @ centred
        cross += centred.T @ centred_targets[rows]
    scale = (gram.diagonal() / len(x)).sqrt()
    gram /= torch.outer(scale, scale) * len(x)
    cross /= scale[:, None] * len(x)
    worst = 0.0
    for row in range(0, len(result), every):
        weights = result.weights(row)
        f = torch.from_numpy(weights.features)
        system = gram[f][:, f] + L2 * torch.eye(len(f), dtype=torch.float64)
        exact = torch.linalg.solve(system, cross[f])
        found = torch.from_numpy(weights.standardized[0])
        worst = max(worst, float((found - exact).norm() / exact.norm()))
    return worst


def solved(train, test, point: SweepSizes, setup: stages.Setup) -> tuple[float, int, int]:
    """Return seconds, peak bytes and probes of a sweep of some sizes."""
    own = bench.part(train, point), bench.part(test, point, point.test_rows)
    run = lambda: sweep(*own, point, setup)  # noqa: E731
    spent, held, result = measurements.measured(run, point.repeats, setup.backend)
    return spent, held, len(result)


if __name__ == "__main__":
    stages.main("ridge")

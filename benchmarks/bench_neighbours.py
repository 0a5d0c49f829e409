"""Neighbours: votes on every prefix, against one product of the same rows and a top-k of it.

python -m benchmarks.bench_neighbours --sizes small
"""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from benchmarks import stages
from benchmarks.bench_ridge import grid
from featstore import bench, measurements, probe
from featstore.bench import Disagreement, SweepSizes
from featstore.measurements import Report, Row

NEIGHBOURS, DEPTH = 20, 100
# what all prefixes may take, in products with a top-k
TARGET = 2
# rows that vote again in float64, and how near the last neighbour the next may lie in float32
VOTING, CLEAR = 40, 1e-5
_QUERIES = 2048

SIZES = {
    "small": SweepSizes(1_000, 96, 5, 4, 1, repeats=1, test_rows=300),
    "medium": SweepSizes(20_000, 512, 20, 20, 1, repeats=2, test_rows=4_000),
    "full": SweepSizes(50_000, 2_048, 100, 20, 1, repeats=2, test_rows=10_000),
}


def measure(sizes: SweepSizes, setup: stages.Setup) -> Report:
    """Return the report, having let some rows vote again."""
    train, test = bench.split(sizes, decay=0.5)
    found = measurements.facts(setup.backend)
    device = setup.backend.device
    far, near = (torch.from_numpy(rows).to(device) for rows, _ in (train, test))
    products = torch.empty(min(_QUERIES, len(near)), len(far), device=device)

    def product() -> None:
        for rows in near.split(len(products)):
            torch.mm(rows, far.T, out=products[: len(rows)])

    def top() -> None:
        for rows in near.split(len(products)):
            products[: len(rows)].topk(NEIGHBOURS)

    def sweep(count: int) -> Callable[[], probe.ProbeResult]:
        return lambda: probe.sweep(
            train,
            test,
            fractions=grid(count),
            seeds=range(1, sizes.seeds + 1),
            solver=probe.KNN(k=NEIGHBOURS),
            **setup.arguments,
        )

    runs: dict[str, Callable[[], object]] = {
        "one product": product,
        f"one top-{NEIGHBOURS} of it": top,
        "the whole layer": sweep(1),
        f"{sizes.fractions} fractions": sweep(sizes.fractions),
    }
    times: dict[str, list[float]] = {what: [] for what in runs}
    result = None
    product()
    for _ in range(sizes.repeats):  # in turn, so that a busy moment hits all
        for what, run in runs.items():
            seconds, result = measurements.seconds(run)
            times[what].append(seconds)
    spent = {what: min(each) for what, each in times.items()}
    assert isinstance(result, probe.ProbeResult)
    cleared = check_votes(train, test, result)
    first, second, *others = spent
    one = spent[first] + spent[second]
    rows = [_row(what, spent[what], None, "") for what in (first, second)]
    rows += [_row(what, spent[what], spent[what] / one, "") for what in others]
    rows[-1]["target"] = f"<= {TARGET}"
    said = (
        f"Rows are standardised; {NEIGHBOURS} neighbours vote, by cosine. Seconds hold scaling, "
        f"votes and scores. {cleared} votes were counted again in float64."
    )
    return Report("neighbours", asdict(sizes), found, {"sweep": rows}, [], [said])


def _row(what: str, seconds: float, ratio: float | None, target: str) -> Row:
    shown = "" if ratio is None else ratio
    return {"what": what, "seconds": seconds, "of product and top-k": shown, "target": target}


def check_votes(train: bench.Pair, test: bench.Pair, result: probe.ProbeResult) -> int:
    """Return how many votes of all probes and the first test rows were counted again.

    Votes count of which the last neighbour is clearly nearer than the next row is.

    Raises:
        Disagreement: a vote is another in float64.
    """
    x, classes = train
    mean, scale = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    asked, voted = test[0][:VOTING], result.predict((test[0][:VOTING], test[1][:VOTING])).classes
    cleared = 0
    for _, rows in result.table.groupby("seed", dropna=False):
        sums = squares = own = 0.0
        done = np.zeros(0, np.int64)
        for row in rows.sort_values("k").index:
            features = result.fitted.axes.features(int(result.probes[row]))
            new = np.setdiff1d(features, done)
            done = features
            near, far = ((part[:, new] - mean[new]) / scale[new] for part in (asked, x))
            sums, squares = sums + near @ far.T, squares + (far**2).sum(1)
            own = own + (near**2).sum(1, keepdims=True)
            cosines = sums / np.sqrt(squares * own)
            best = np.argsort(-cosines, axis=1)[:, : NEIGHBOURS + 1]
            last, after = np.take_along_axis(cosines, best[:, NEIGHBOURS - 1 :], axis=1).T
            clear = last - after > CLEAR
            votes = np.stack([np.bincount(classes[each[:NEIGHBOURS]]).argmax() for each in best])
            off = int((votes != voted[:, row])[clear].sum())
            if off:
                raise Disagreement(f"knn: {off} votes of probe {row} are others in float64")
            cleared += int(clear.sum())
    return cleared


if __name__ == "__main__":
    stages.main("neighbours")

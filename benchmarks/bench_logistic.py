"""Softmax probes in lockstep: passes against the machine's rates, and against loops.

python -m benchmarks.bench_logistic --sizes small
python -m benchmarks.bench_logistic --store features.zarr --json results.json

A loop that stops by itself (scikit-learn's, cuML's) does so at its default tolerance, so far above
the optimum. Each of our probes, and of torch's L-BFGS, is then stopped as soon as it is no farther
above its own. What choosing penalties costs is measured in pairs, a fit at a fixed penalty and one
by default, at the shares that `featstore probe` is usually asked for. Features that are not from a
store are synthetic, with a decaying spectrum.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import featstore
from benchmarks import loops, softmax_loops, stages
from benchmarks.floors import floor_row
from featstore import bench, measurements, probe
from featstore.bench import Pair, ProbeSizes, grown
from featstore.measurements import Report
from featstore.probe import memory
from featstore.probe.memory import Settings
from featstore.probe.moments import remembered
from featstore.probe.rows import as_blocks
from featstore.probe.solvers.logistic import LogisticFit
from featstore.probe.subsets import Axes, Chain, random_chain

L2 = bench.L2["logistic"]
SLACK = 1 + 1e-6
# of the pairs that tell what choosing penalties costs
USUAL, FIXED = (0.01, 0.05, 0.1), 1e-3
# a tolerance that no probe meets, for a given number of steps
NEVER = 1e-12
FEW, MANY = 1, 9

SIZES = {
    "small": ProbeSizes(600, 256, 5, 10, 2, loop_probes=3, repeats=1, points=2),
    "medium": ProbeSizes(4_000, 512, 10, 10, 3, loop_probes=4, repeats=1),
    "full": ProbeSizes(24_000, 1_280, 10, 10, 5, loop_probes=6, repeats=1),
}


def stored(path: Path) -> Pair:
    """Return the train features float32 (N, D) and labels (N,) of a store's first tap."""
    store = featstore.open(path)
    name = store.spec.taps[0].name
    return store.load("train", name).astype(np.float32), store.labels("train")


def chains(sizes: ProbeSizes, own: Sequence[float] | None = None) -> list[Chain]:
    """Return a chain for each seed, at `bench.shares` or others, and the whole layer."""
    width, seeds = sizes.features, range(1, sizes.seeds + 1)
    own = bench.shares(sizes) if own is None else own
    whole = Chain(np.arange(width), (width,), (1.0,), "random")
    return [*(random_chain(width, own, seed) for seed in seeds), whole]


def fit(train: Pair, sizes: ProbeSizes, setup: stages.Setup, **options: Any) -> probe.ProbeResult:
    return probe.fit(
        train, chains(sizes), solver=probe.Logistic(l2=L2, **options), **setup.arguments
    )


def measure(sizes: ProbeSizes, setup: stages.Setup) -> Report:
    """Return the report, having compared the objectives."""
    if setup.store:
        train = stored(setup.store)
        classes = int(train[1].max()) + 1
        sizes = replace(sizes, rows=len(train[1]), features=train[0].shape[1], classes=classes)
    else:
        train = bench.clouds(sizes.rows, sizes.features, sizes.classes, decay=0.5)
    found = measurements.facts(setup.backend)
    with measurements.PeakMemory(setup.backend) as peak:
        spent, best = measurements.seconds(lambda: fit(train, sizes, setup))
    table = best.table
    return Report(
        "logistic",
        {**asdict(sizes), "features of": setup.store.name if setup.store else "synthetic"},
        found,
        {
            "convergence": [
                {"what": "probes", "value": len(table)},
                {"what": "converged", "value": int((table["status"] == "converged").sum())},
                {"what": "passes over the rows", "value": best.fitted.passes},
                {"what": "seconds, moments included", "value": spent},
                {"what": "peak MiB", "value": round(peak.bytes / 2**20)},
            ],
            "stages": passes(train, sizes, setup, best, spent, found),
            "loops": against(train, sizes, setup, best.fitted.facts["objective"]),
            "choice": choosing(train, sizes, setup),
        },
        grown(sizes, lambda point: solved(train, point, setup)),
        [
            "Loops: the probes that were run are of one seed; time is taken as a power of k "
            "between them, and every seed as the first. f: how far a probe's objective lies above "
            "ours at the default tolerance, at worst.",
            f"Choice: {', '.join(f'{share:g}' for share in USUAL)} of the features, penalties "
            f"chosen by default against l2 = {FIXED:g}, the pair of the middle ratio; at most "
            "3 is wanted.",
            f"Growth: {MANY} steps of every probe, moments included; their operations grow with "
            "the sum of k.",
        ],
    )


def choosing(train: Pair, sizes: ProbeSizes, setup: stages.Setup) -> list[dict[str, Any]]:
    """Return the row that says what choosing penalties costs.

    Raises:
        Disagreement: a probe was not solved, or a penalty was not chosen.
    """
    asked = chains(sizes, [share for share in USUAL if share * sizes.features >= 1] or [0.5])
    pairs = []
    for _ in range(sizes.repeats):
        solve = partial(probe.fit, train, asked, solver="logistic", **setup.arguments)
        fixed, _ = measurements.seconds(lambda solve=solve: solve(l2=FIXED))
        chosen, found = measurements.seconds(solve)
        pairs.append({"fixed, s": fixed, "chosen, s": chosen, "times": chosen / fixed})
        table = found.table
        if not ((table["status"] == "converged") & (table["l2_choice"] == "validation")).all():
            raise bench.Disagreement("logistic: a probe was not solved at a penalty of its choice")
    middle = sorted(pairs, key=lambda pair: pair["times"])[len(pairs) // 2]
    return [{"probes": len(table)} | middle]


def passes(train: Pair, sizes: ProbeSizes, setup, best, spent: float, rates) -> list[dict]:
    """Return a row for one pass with every probe, and one for all passes until convergence."""
    rows = remembered(as_blocks(train))
    timed = {}
    for steps in (FEW, MANY):
        once = lambda steps=steps: fit(rows, sizes, setup, tol=NEVER, max_iter=steps)  # noqa: E731
        timed[steps] = min(
            (measurements.seconds(once) for _ in range(sizes.repeats)), key=lambda pair: pair[0]
        )
    (few_seconds, few), (many_seconds, many) = timed[FEW], timed[MANY]
    more = many.fitted.passes - few.fitted.passes
    width = 1 + best.table["k"].to_numpy()
    # logits and gradients are 2 N C (1 + k) operations each; the rows are read once a pass
    each, read = 4.0 * sizes.rows * sizes.classes, 4.0 * sizes.rows * (1 + sizes.features)
    in_all = float((best.table["iterations"].to_numpy() * width).sum())
    return [
        floor_row(
            "one pass",
            (many_seconds - few_seconds) / more,
            (each * float(width.sum()), read),
            rates,
            target=">= 40 %",
        ),
        floor_row("all passes", spent, (each * in_all, best.fitted.passes * read), rates),
    ]


def of_one_seed(found: np.ndarray, sizes: ProbeSizes) -> np.ndarray:
    """Return of the values of all probes those of the first seed's, then the whole layer's."""
    return np.r_[found[: len(chains(sizes)[0])], found[-1]]


def against(train: Pair, sizes: ProbeSizes, setup: stages.Setup, every: np.ndarray) -> list[dict]:
    """Return the rows that compare loops with ours, stopped where they stop.

    `every` holds the objective of each probe at the default tolerance, chain by chain.
    """
    optimum = of_one_seed(every, sizes)
    (x,), labels = loops.standardised(train), train[1]
    order = chains(sizes)[0].order
    k = [*chains(sizes)[0].sizes, sizes.features]
    places = loops.picks(len(k), sizes.loop_probes)

    def columns(place: int) -> np.ndarray:
        whole = place == len(k) - 1
        return x if whole else np.ascontiguousarray(x[:, order[: k[place]]])

    def timed(name: str, one: Callable[[int], float]) -> loops.LoopTime:
        return loops.timed(name, k * sizes.seeds, places, one)

    found = [
        timed(name, lambda place, fit=alone: fit(columns(place), labels, L2))
        for name, alone in softmax_loops.ON_THEIR_OWN.items()
        if name in setup.against
    ]
    goal = np.min([loop.answers for loop in found] or [optimum[places]], axis=0) * SLACK
    excess = np.interp(np.log(k), np.log(np.array(k)[places]), goal / optimum[places])
    spent, stopped = until(train, sizes, setup, every, excess)
    if "torch-loop" in setup.against:
        goal_of, device = dict(zip(places, goal, strict=True)), setup.backend.device
        by_torch = softmax_loops.torch_loop
        found.append(
            timed("torch-loop", lambda p: by_torch(columns(p), labels, L2, goal_of[p], device))
        )

    def above(objectives: Sequence[float]) -> str:
        worst = float((np.asarray(objectives) / optimum[places] - 1).max())
        return f"f +{max(0.0, worst):.0e}"

    probes = len(k) * sizes.seeds
    mine = of_one_seed(stopped.facts["objective"], sizes)
    behind = float((mine[places] / goal).max() - 1)
    if behind > 0:
        raise bench.Disagreement(f"logistic: a probe ended {behind:.1e} above its goal")
    passes_made = f"ours, {stopped.passes} passes"
    ours = loops.compared(passes_made, probes, spent, spent, above(mine[places]))
    return [ours, *(loop.row(spent, above(loop.answers)) for loop in found)]


def until(
    train: Pair, sizes: ProbeSizes, setup: stages.Setup, optimum: np.ndarray, excess: np.ndarray
) -> tuple[float, LogisticFit]:
    """Return seconds and the fit whose probes end at their optimum times an excess.

    Arguments:
        train: features and labels.
        sizes: of the problem.
        setup: where to compute.
        optimum: float64 (P,), the objectives of all probes at the default tolerance.
        excess: float64, for each prefix of a seed and for the whole layer.
    """
    axes = Axes(tuple(chains(sizes)), (L2,))
    share = np.append(np.tile(excess[:-1], sizes.seeds), excess[-1])
    goals = dict(enumerate((optimum * share).tolist()))
    settings = Settings(memory=memory.parse(setup.memory), backend=setup.backend)
    rows, default = remembered(as_blocks(train)), probe.Logistic()
    return measurements.seconds(
        lambda: LogisticFit(rows, axes, settings, default.tol, default.max_iter, goals)
    )


def solved(train: Pair, point: ProbeSizes, setup: stages.Setup) -> tuple[float, int, int]:
    """Return seconds, peak bytes and probes of a fit of some sizes, all of them the same steps."""
    own = bench.part(train, point)
    run = lambda: fit(own, point, setup, tol=NEVER, max_iter=MANY)  # noqa: E731
    spent, held, result = measurements.measured(run, point.repeats, setup.backend)
    return spent, held, len(result)


if __name__ == "__main__":
    stages.main("logistic")

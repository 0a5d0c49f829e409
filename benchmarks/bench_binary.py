"""Binary softmax probes to their optimum: all together, and by probekit, a batch for each k.

python -m benchmarks.bench_binary --sizes small
python -m benchmarks.bench_binary --store features.zarr --json results.json

The classes of a problem are merged into two halves. Ours is timed twice: as `probe.sweep` does it,
with the whole layer and the scores of test rows, and the same probes alone. Probekit standardises
and fits one batch for each k, a probe for each seed, as its `logistic_probe` does. How far each
ends above the minimum is worked out in float64, from a minimum that Newton's method finds there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit

import featstore
from benchmarks import loops, stages
from benchmarks.softmax_loops import objective
from featstore import bench, measurements, probe
from featstore.bench import Pair, SweepSizes
from featstore.measurements import Report
from featstore.probe.subsets import Chain, random_chain

L2 = bench.L2["logistic"]
# the fractions that k is spread over, evenly in the logarithm: 64 to 640 of 1,280 features
FEWEST, MOST = 0.05, 0.5
# above the minimum: ours, and theirs, which a penalty of another meaning would exceed by far
EXCESS, OTHER_PROBLEM = 1e-6, 1e-4
# of Newton's method, relative to f
DECREMENT = 1e-14
# largest entry of probekit's last step. Its default of 1e-6 is below the rounding of float32 steps
# of some hundred features, where it takes all of its 100 steps for an optimum reached in ten
LAST_STEP = 1e-3

SIZES = {
    "small": SweepSizes(600, 128, 10, 3, 2, repeats=1, test_rows=200),
    "medium": SweepSizes(4_000, 512, 10, 4, 5, repeats=2, test_rows=1_000),
    "full": SweepSizes(10_000, 1_280, 10, 4, 5, repeats=3, test_rows=2_000),
}


def problem(sizes: SweepSizes, store: Path | None) -> tuple[Pair, Pair, SweepSizes]:
    """Return train and test, and their sizes; labels are 0 or 1, the half of a row's class.

    Rows of a store are those of its train and test splits together, drawn anew, so that a small
    one has enough of them.
    """
    if store is None:
        (x, labels), (x_test, tested) = bench.split(sizes, decay=0.5)
        half = (sizes.classes + 1) // 2
        return (x, (labels >= half).astype(int)), (x_test, (tested >= half).astype(int)), sizes
    held = featstore.open(store)
    tap, splits = held.spec.taps[0].name, ("train", held.test_split())
    x = np.concatenate([held.load(split, tap) for split in splits]).astype(np.float32)
    labels = np.concatenate([held.labels(split) for split in splits])
    classes = int(labels.max()) + 1
    drawn = np.random.default_rng(0).permutation(len(x))
    cut = min(sizes.rows, len(x) * 5 // 6)
    rows, tested = drawn[:cut], drawn[cut : cut + sizes.test_rows]
    halves = (labels >= (classes + 1) // 2).astype(int)
    known = replace(
        sizes, rows=len(rows), test_rows=len(tested), features=x.shape[1], classes=classes
    )
    return (x[rows], halves[rows]), (x[tested], halves[tested]), known


def shares(sizes: SweepSizes) -> list[float]:
    """Return the fractions of the features, without the whole layer."""
    every = np.geomspace(FEWEST, MOST, sizes.fractions)
    return [float(share) for share in every if share * sizes.features >= 1] or [MOST]


def measure(sizes: SweepSizes, setup: stages.Setup) -> Report:
    """Return the report, having compared the objectives."""
    train, test, sizes = problem(sizes, setup.store)
    asked, seeds = shares(sizes), range(1, sizes.seeds + 1)
    chains = [random_chain(sizes.features, asked, seed) for seed in seeds]
    told: dict[str, Any] = {"solver": probe.Logistic(l2=L2), **setup.arguments}
    runs = {
        "ours": lambda: probe.sweep(train, test, fractions=asked, seeds=seeds, **told),
        "alone": lambda: probe.fit(train, chains, **told),
    }
    if "probekit" in setup.against:
        runs["probekit"] = lambda: Probekit(train, chains, setup.backend.device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    answers: dict[str, Any] = {}
    for _ in range(1 + sizes.repeats):  # the first warms up; in turn, as busy moments hit all alike
        for name, run in runs.items():
            spent, answers[name] = measurements.seconds(run)
            times[name].append(spent)
    best = {name: min(spent[1:]) for name, spent in times.items()}
    found = measurements.facts(setup.backend)
    of = setup.store.name if setup.store else "synthetic"
    return Report(
        "binary",
        {**asdict(sizes), "features of": of},
        found,
        {"loops": compared(train, chains, best, answers)},
        notes=[
            "All together: moments, the whole layer and the scores of test rows included. Alone: "
            "the same probes as probekit's, moments included. f: how far the objective lies above "
            f"its minimum, at worst. k = {', '.join(map(str, chains[0].sizes))}."
        ],
    )


def compared(
    train: Pair, chains: Sequence[Chain], seconds: dict[str, float], answers: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return a row for each of those that were timed.

    Raises:
        Disagreement: a probe is not at its optimum, or another problem was solved.
    """
    ours, alone, theirs = (answers.get(name) for name in ("ours", "alone", "probekit"))
    probes = len(alone)
    above: dict[str, list[float]] = {name: [] for name in answers if name != "ours"}
    for row in range(probes):
        weights = alone.weights(row)
        x = (train[0][:, weights.features].astype(np.float64) - weights.mean) / weights.scale
        fits = {"alone": weights.standardized}
        if theirs:
            fits["probekit"] = theirs.standardised(weights)
        values = {name: objective(*fit, x, train[1], L2) for name, fit in fits.items()}
        lowest = minimum(x, train[1], *weights.standardized)
        for name, value in values.items():
            above[name].append(value / lowest - 1)
    worst = {name: max(0.0, *excess) for name, excess in above.items()}
    for name, bound in (("alone", EXCESS), ("probekit", OTHER_PROBLEM)):
        if worst.get(name, 0.0) > bound or not np.isfinite(worst.get(name, 0.0)):
            raise bench.Disagreement(f"binary: {name} ends {worst[name]:.1e} above the minimum")
    total = seconds["ours"]
    passes = f"all together, {ours.fitted.passes} passes"
    rows = [loops.compared(passes, len(np.unique(ours.probes)), total, total)]
    excess = {name: f"f +{value:.0e}" for name, value in worst.items()}
    rows.append(loops.compared("alone", probes, seconds["alone"], total, excess["alone"]))
    if theirs:
        what = f"probekit {theirs.version}, {theirs.steps} steps at most"
        rows.append(loops.compared(what, probes, seconds["probekit"], total, excess["probekit"]))
    return rows


def minimum(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, intercept: np.ndarray, steps: int = 20
) -> float:
    """Return the least `objective` of two classes, by Newton's method; NaN if `steps` are too few.

    With w = W_1 - W_0 and W_0 = -W_1, as at the minimum, (l2/2) ||W||^2 is (l2/4) ||w||^2.

    Arguments:
        x: float64 (N, k), standardised features.
        y: int (N,), labels 0 and 1.
        weights: float64 (k, 2), W, and
        intercept: float64 (2,), b, where to begin.
        steps: at most so many.
    """
    columns = np.column_stack([x, np.ones(len(x))])
    v = np.append(weights[:, 1] - weights[:, 0], intercept[1] - intercept[0])
    ridge = np.append(np.full(x.shape[1], L2 / 2), 0.0)
    for _ in range(steps):
        p = expit(columns @ v)
        gradient = columns.T @ (p - y) / len(y) + ridge * v
        curvature = (columns.T * (p * (1 - p) / len(y))) @ columns + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        v -= step
        value = objective(*_of_both(v[:-1], v[-1]), x, y, L2)
        if gradient @ step < DECREMENT * value:
            return value
    return np.nan


def _of_both(w: np.ndarray, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Return W (k, 2) and b (2,) of one vector w (k,) and its b."""
    return np.column_stack([-w, w]) / 2, np.array([-b, b]) / 2


class Probekit:
    """Probes of two classes by `probekit.fitters.batch.logistic.fit_logistic_batch`.

    It minimises sum over rows of log(1 + exp(-s(w'x + b))) + ||w||^2 / (2 C), s = 1 or -1, of
    features divided by their deviation with N - 1 in place of N. Ours, times N, has
    (N l2 / 4) ||w||^2 of features by the deviation with N, whose w is sqrt((N - 1) / N) of
    theirs: C = 2 / ((N - 1) l2) is the same problem.

    Arguments:
        train: features (N, D) and labels 0 and 1.
        chains: one for each seed, of the same sizes.
        device: "cpu" or "cuda".

    Attributes:
        version: of the package.
        steps: Newton steps, of the batch that took most.
    """

    def __init__(self, train: Pair, chains: Sequence[Chain], device: str):
        import probekit
        from probekit.fitters.batch.logistic import fit_logistic_batch

        self.version: str = probekit.__version__
        x, y = (torch.from_numpy(array).to(device) for array in train)
        penalty = 2 / ((len(y) - 1) * L2)
        self._found: dict[bytes, Any] = {}
        self.steps = 0
        for k in chains[0].sizes:
            subsets = [np.ascontiguousarray(chain.order[:k]) for chain in chains]
            columns = [x[:, torch.from_numpy(subset).to(device)] for subset in subsets]
            batch = fit_logistic_batch(torch.stack(columns), y, c_param=penalty, tol=LAST_STEP)
            self._found |= dict(zip(self._keys(subsets), batch, strict=True))
            self.steps = max(self.steps, *(own["iterations"] for own in batch.metadatas))

    @staticmethod
    def _keys(subsets: Sequence[np.ndarray]) -> Iterator[bytes]:
        return (np.asarray(subset, np.int64).tobytes() for subset in subsets)

    def standardised(self, ours: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return W (k, 2) and b (2,), float64, for features standardised as `ours` weights have it.

        Raises:
            KeyError: no probe has these features.
        """
        (key,) = self._keys([ours.features])
        found = self._found[key]
        by = found.normalization
        raw = found.weights.astype(np.float64) / by.std.astype(np.float64)
        return _of_both(raw * ours.scale, found.bias + raw @ (ours.mean - by.mean))


if __name__ == "__main__":
    stages.main("binary")

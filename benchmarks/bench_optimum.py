"""Exact softmax probes against scikit-learn's at tol=1e-8, on data of every shape.

python -m benchmarks.bench_optimum --sizes small --json results.json

For each problem and penalty: the worst excess of a probe's objective over scikit-learn's, both
computed here in float64; by how many test rows of 10,000 their accuracies differ; and how many rows
they put into different classes, right or wrong.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks import stages
from benchmarks.softmax_loops import fitted, objective
from featstore import measurements, probe
from featstore.bench import Disagreement
from featstore.measurements import Report
from featstore.probe.subsets import random_chain

FRACTIONS = (0.25, 1.0)
PENALTIES = (1e-2, 1e-4)
N_TEST = 10_000
EXCESS = 1e-6
# of scikit-learn
TOL = 1e-8


@dataclass(frozen=True)
class OptimumSizes:
    """Number of problems, and of penalties of each, the first ones first."""

    problems: int
    penalties: int


SIZES = {"small": OptimumSizes(3, 1), "medium": OptimumSizes(7, 1), "full": OptimumSizes(8, 2)}

# train features and labels, test features and labels
Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def clusters(n: int, d: int, c: int, *, spread: float = 1.0, share: float = 1.0) -> Problem:
    """Return n train rows and N_TEST test rows of d features, of c Gaussian classes.

    Arguments:
        n: train rows.
        d: features.
        c: classes.
        spread: of the class means; large ones are separable.
        share: of each class, what the next one has of its rows.
    """
    random = np.random.default_rng(n + d + c)
    means = spread * random.normal(size=(c, d)) / np.sqrt(d) * 3
    mixing = random.normal(size=(d, d)) / np.sqrt(d)
    frequencies = share ** np.arange(c)
    drawn = random.choice(c, size=n - c, p=frequencies / frequencies.sum())
    labels = np.concatenate([np.arange(c), drawn])
    tested = random.integers(c, size=N_TEST)
    x, x_test = ((means[y] + random.normal(size=(len(y), d))) @ mixing for y in (labels, tested))
    return x.astype(np.float32), labels, x_test.astype(np.float32), tested


def with_copies() -> Problem:
    """Return a problem whose features are there three times, some of them constant."""
    x, y, x_test, y_test = clusters(2000, 20, 5)
    x, x_test = np.tile(x, 3), np.tile(x_test, 3)
    x[:, :4], x_test[:, :4] = 7.0, 7.0
    return x, y, x_test, y_test


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "tall": lambda: clusters(4000, 40, 10),
    "wide, N < k": lambda: clusters(200, 1000, 5),
    "2 classes": lambda: clusters(2000, 50, 2),
    "separable": lambda: clusters(1000, 60, 4, spread=4.0),
    "imbalanced, 200:1": lambda: clusters(3000, 40, 6, share=0.35),
    "duplicated and constant": with_copies,
    "100 classes": lambda: clusters(6000, 64, 100, spread=2.0),
    "1,000 classes": lambda: clusters(8000, 32, 1000, spread=2.0),
}


def compare(name: str, l2: float, setup: stages.Setup) -> dict:
    """Return the row of one problem and penalty."""
    x, y, x_test, y_test = PROBLEMS[name]()
    chain = random_chain(x.shape[1], FRACTIONS, 1)
    result = probe.fit((x, y), [chain], solver="logistic", l2=l2, **setup.arguments)
    excess, accuracy, differ = [], [], []
    for row in range(len(result)):
        weights = result.weights(row)
        inside, outside = (
            (part[:, weights.features].astype(np.float64) - weights.mean) / weights.scale
            for part in (x, x_test)
        )
        theirs, ours = fitted("sklearn", inside, y, l2, TOL), weights.standardized
        best = objective(*theirs, inside, y, l2)
        excess.append(objective(*ours, inside, y, l2) / best - 1)
        found, expected = ((outside @ w + b).argmax(1) for w, b in (ours, theirs))
        right, expected_right = ((classes == y_test).sum() for classes in (found, expected))
        accuracy.append(abs(int(right) - int(expected_right)))
        differ.append(int((found != expected).sum()))
    done = (result.table["status"] == "converged").sum()
    return {
        "problem": name,
        "l2": l2,
        "excess": max(excess),
        "accuracy": max(accuracy),
        "classes": max(differ),
        "steps": int(result.table["iterations"].max()),
        "converged": f"{done} of {len(result)}",
    }


def measure(sizes: OptimumSizes, setup: stages.Setup) -> Report:
    """Return the report, having checked the objectives."""
    names, penalties = list(PROBLEMS)[: sizes.problems], PENALTIES[: sizes.penalties]
    rows = [compare(name, l2, setup) for name in names for l2 in penalties]
    for row in rows:
        if row["excess"] > EXCESS:
            raise Disagreement(
                f"optimum: on {row['problem']} with l2 = {row['l2']:g} an objective is "
                f"{row['excess']:.1e} above scikit-learn's"
            )
    notes = [
        "excess: of our objective over scikit-learn's at tol=1e-8, at worst. accuracy: by how "
        f"many of {N_TEST:,} test rows the two differ. classes: rows that they put into "
        "different ones."
    ]
    found = measurements.facts(setup.backend)
    return Report("optimum", asdict(sizes), found, {"optimum": rows}, (), notes)


if __name__ == "__main__":
    stages.main("optimum")

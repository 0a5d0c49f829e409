"""Exact softmax probes against scikit-learn's at tol=1e-8, on data of every shape.

python -m benchmarks.bench_optimum --sizes small

For each problem and penalty: the worst excess of a probe's objective over scikit-learn's, both
computed here in float64, and how many test rows of 10,000 the two classify differently.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

import probe
from benchmarks import machine
from probe.chains import random_chain

FRACTIONS = (0.25, 1.0)
PENALTIES = {"small": (1e-2,), "full": (1e-4, 1e-2)}
N_TEST = 10_000

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]


def clusters(n: int, d: int, c: int, *, spread: float = 1.0, share: float = 1.0) -> Problem:
    """Return train features (n, d), labels (n,), test features (N_TEST, d) of c Gaussian classes.

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
    return x.astype(np.float32), labels, x_test.astype(np.float32)


def with_copies() -> Problem:
    """Return a problem whose features are there three times, some of them constant."""
    x, y, x_test = clusters(2000, 20, 5)
    x, x_test = np.tile(x, 3), np.tile(x_test, 3)
    x[:, :4], x_test[:, :4] = 7.0, 7.0
    return x, y, x_test


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "tall": lambda: clusters(4000, 40, 10),
    "wide, N < k": lambda: clusters(200, 1000, 5),
    "separable": lambda: clusters(1000, 60, 4, spread=4.0),
    "imbalanced, 200:1": lambda: clusters(3000, 40, 6, share=0.35),
    "duplicated and constant": with_copies,
    "2 classes": lambda: clusters(2000, 50, 2),
    "100 classes": lambda: clusters(6000, 64, 100, spread=2.0),
    "1,000 classes": lambda: clusters(8000, 32, 1000, spread=2.0),
}
SMALL = ("tall", "wide, N < k", "2 classes")


def objective(x: np.ndarray, y: np.ndarray, coef, intercept, l2: float) -> float:
    """Return mean cross-entropy + (l2/2) ||W||^2 in float64; coef (k, C), x (N, k)."""
    logits = x @ coef + intercept
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return float(losses.mean() + l2 / 2 * (coef**2).sum())


def scikit_learn(x: np.ndarray, y: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's W (k, C) and b (C,) at tol=1e-8.

    Of two classes it penalises one vector, W_1 - W_0, whose square is twice that of both.
    """
    two = y.max() == 1
    inverse = (2 if two else 1) / (len(y) * l2)
    model = LogisticRegression(C=inverse, tol=1e-8, max_iter=100_000).fit(x, y)
    coef, intercept = model.coef_.T, model.intercept_
    if two:
        coef, intercept = np.hstack([-coef, coef]) / 2, np.array([-1, 1]) * intercept / 2
    return coef, intercept


def compare(name: str, l2: float) -> dict:
    """Return the row of one problem and penalty."""
    x, y, x_test = PROBLEMS[name]()
    chain = random_chain(x.shape[1], FRACTIONS, 1)
    result = probe.fit((x, y), [chain], solver="logistic", l2=l2)
    excess, differ = [], []
    for row in range(len(result)):
        weights = result.weights(row)
        inside, outside = (
            (part[:, weights.features].astype(np.float64) - weights.mean) / weights.scale
            for part in (x, x_test)
        )
        theirs, ours = scikit_learn(inside, y, l2), weights.standardized
        best = objective(inside, y, *theirs, l2)
        excess.append(objective(inside, y, *ours, l2) / best - 1)
        found, expected = ((outside @ w + b).argmax(1) for w, b in (ours, theirs))
        differ.append(int((found != expected).sum()))
    done = (result.table["status"] == "converged").sum()
    return {
        "problem": name,
        "l2": l2,
        "excess": max(excess),
        "rows differ": max(differ),
        "steps": int(result.table["iterations"].max()),
        "converged": f"{done} of {len(result)}",
    }


def main() -> None:
    options = machine.arguments(__doc__.splitlines()[0])
    names = SMALL if options.sizes == "small" else PROBLEMS
    rows = [compare(name, l2) for name in names for l2 in PENALTIES[options.sizes]]
    if options.sizes == "small":
        assert all(row["excess"] <= 1e-6 and row["rows differ"] <= 2 for row in rows)
    machine.report("softmax optimum", options.sizes, rows, options.json)


if __name__ == "__main__":
    main()

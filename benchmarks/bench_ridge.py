"""Ridge sweeps against one X'X, against scikit-learn's loop, and 200 fractions against 20.

python -m benchmarks.bench_ridge --sizes small
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Ridge

import probe
from benchmarks import machine

L2 = 1e-3


@dataclass(frozen=True)
class Sizes:
    """How large the problem is."""

    n_train: int
    n_test: int
    n_features: int
    n_classes: int
    fractions: int
    many_fractions: int
    seeds: int
    repeats: int


SIZES = {
    "small": Sizes(2_000, 500, 128, 10, 5, 25, 2, 1),
    "full": Sizes(50_000, 10_000, 2_048, 100, 20, 200, 5, 3),
}


def problem(sizes: Sizes) -> tuple[tuple, tuple]:
    """Return train and test, Gaussian clouds about class centres, float32."""
    random = torch.Generator().manual_seed(0)
    centres = 0.1 * torch.randn(sizes.n_classes, sizes.n_features, generator=random)

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = torch.arange(count) % sizes.n_classes
        features = torch.randn(count, sizes.n_features, generator=random)
        features += centres[labels]
        return features.numpy(), labels.numpy()

    return rows(sizes.n_train), rows(sizes.n_test)


def grid(count: int) -> list[float]:
    """Return 1/count, 2/count, ..., 1."""
    return [(i + 1) / count for i in range(count)]


def sweep(train: tuple, test: tuple, fractions: list[float], seeds: int) -> probe.ProbeResult:
    return probe.sweep(train, test, fractions=fractions, seeds=range(1, seeds + 1), l2=L2)


def scikit_learn_loop(train: tuple, test: tuple, result: probe.ProbeResult) -> np.ndarray:
    """Return the accuracy of every row of the result from one scikit-learn fit each."""
    (x, y), (x_test, y_test) = train, test
    mean, scale = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    x = ((x - mean) / scale).astype(np.float32)
    x_test = ((x_test - mean) / scale).astype(np.float32)
    targets = np.eye(y.max() + 1, dtype=np.float32)[y]
    accuracies = []
    for row in range(len(result)):
        features = result.fitted.axes.features(result.probes[row])
        model = Ridge(alpha=len(x) * L2, solver="cholesky").fit(x[:, features], targets)
        accuracies.append((model.predict(x_test[:, features]).argmax(1) == y_test).mean())
    return np.array(accuracies)


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


def measure(sizes: Sizes) -> list[dict]:
    """Return the rows of the table, having checked that the answers agree."""
    train, test = problem(sizes)
    x = torch.from_numpy(train[0])
    few, many = grid(sizes.fractions), grid(sizes.many_fractions)
    sweep(train, test, few[:2], 1)
    product, few_seconds, many_seconds = [], [], []
    for _ in range(sizes.repeats):  # in turn, so that a busy moment hits all alike
        product.append(machine.seconds(lambda: x.T @ x)[0])
        seconds, result = machine.seconds(lambda: sweep(train, test, few, sizes.seeds))
        few_seconds.append(seconds)
        many_seconds.append(machine.seconds(lambda: sweep(train, test, many, sizes.seeds))[0])
    error = worst_coefficient_error(train, result, every=max(1, len(result) // 10))
    assert error <= 1e-5, f"coefficients are off by {error}"
    loop_seconds, accuracies = machine.seconds(lambda: scikit_learn_loop(train, test, result))
    off = np.abs(accuracies - result.table["accuracy"]).max() * sizes.n_test
    assert off <= 2, f"{off} predictions differ from scikit-learn's"
    few_best, many_best, product_best = min(few_seconds), min(many_seconds), min(product)
    return [
        _row("one X'X, float32", product_best, "", ""),
        _row("sweep, few fractions", few_best, few_best / product_best, "<= 3 X'X"),
        _row("sweep, many fractions", many_best, many_best / few_best, "<= 1.5 few"),
        _row("scikit-learn loop", loop_seconds, loop_seconds / few_best, ">= 25 few"),
        _row("worst error of W", "", error, "<= 1e-5"),
        _row("predictions that differ", "", int(off), "<= 2"),
    ]


def _row(what: str, seconds: float | str, ratio: float | str, target: str) -> dict:
    return {"what": what, "seconds": seconds, "ratio": ratio, "target": target}


def main() -> None:
    options = machine.arguments(__doc__.splitlines()[0])
    rows = measure(SIZES[options.sizes])
    machine.report("ridge", options.sizes, rows, options.json)


if __name__ == "__main__":
    main()

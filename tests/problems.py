"""The registry that parametrises the probe tests: data problems, backends, and exact answers.

Not collected: a module of helpers that the tests import.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from featstore.probe import arrays
from featstore.probe.arrays import to_host
from featstore.probe.errors import UsageError


@dataclass(frozen=True)
class Problem:
    """Train and test rows, drawn from the same classes.

    Attributes:
        x, x_test: (N, D) and (n, D).
        y, y_test: int64 labels in [0, C).
        condition: about how ill-conditioned the normal equations are at l2 = 1e-2; float32
            answers are held to 1e-5 times it.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    condition: float = 1.0

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x, self.y

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x_test, self.y_test

    @property
    def n_classes(self) -> int:
        return int(self.y.max()) + 1


def clusters(n: int, n_test: int, d: int, c: int, *, seed: int = 0, condition=1.0) -> Problem:
    """Gaussian clouds about class centres; every class occurs in train."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(c, d)) * 0.5

    def rows(count):
        labels = random.permutation(np.arange(count) % c)
        return centres[labels] + random.normal(size=(count, d)), labels

    x, y = rows(n)
    x_test, y_test = rows(n_test)
    return Problem(x.astype(np.float32), y, x_test.astype(np.float32), y_test, condition)


def changed(problem: Problem, change: Callable[[np.ndarray], np.ndarray], condition=1.0) -> Problem:
    """Apply the same change to the features of both splits."""
    x, x_test = change(problem.x), change(problem.x_test)
    return Problem(x, problem.y, x_test, problem.y_test, condition)


def duplicated(x: np.ndarray) -> np.ndarray:
    """Make the second half of the features a copy of the first."""
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, :half]], 1)


def some_constant(x: np.ndarray) -> np.ndarray:
    """Make every fifth feature constant, at values that binary fractions cannot hold."""
    x = x.copy()
    x[:, ::5] = 0.1 * np.arange(1, x[:, ::5].shape[1] + 1)
    return x


def imbalanced(problem: Problem) -> Problem:
    """Leave class 0 alone and keep only two rows of every other class in train."""
    kept = [np.flatnonzero(problem.y == c)[: None if c == 0 else 2] for c in np.unique(problem.y)]
    rows = np.sort(np.concatenate(kept))
    return Problem(problem.x[rows], problem.y[rows], *problem.test, 30.0)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "tall": lambda: clusters(900, 300, 40, 5),
    "wide": lambda: clusters(60, 80, 150, 4, condition=30.0),
    "two classes": lambda: clusters(300, 100, 24, 2),
    "1000 classes": lambda: clusters(2000, 100, 12, 1000),
    "imbalanced": lambda: imbalanced(clusters(600, 100, 12, 6)),
    "duplicated features": lambda: changed(clusters(400, 100, 40, 4), duplicated, 30.0),
    "constant features": lambda: changed(clusters(400, 100, 40, 4), some_constant),
    "far from zero": lambda: changed(clusters(500, 100, 30, 3), lambda x: x + 100, 30.0),
    "mixed scales": lambda: changed(
        clusters(500, 100, 30, 3), lambda x: x * np.logspace(-3, 3, 30, dtype=np.float32)
    ),
    "float16": lambda: changed(clusters(500, 100, 30, 3), lambda x: x.astype(np.float16)),
}


def cupy_has_a_device() -> bool:
    """Return whether CuPy is installed and sees a device."""
    try:
        return arrays.backend("cupy", "cuda").name == "cupy"
    except UsageError:
        return False


CUPY = pytest.param(
    "cupy", marks=pytest.mark.skipif(not cupy_has_a_device(), reason="no CUDA device for CuPy")
)
CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
)
BACKENDS = ["torch", "numpy", CUPY]
PRECISIONS = ["float32", "float64"]


def in_precision(problem: Problem, precision: str) -> Problem:
    """Hold float64 features if that is asked for; float16 and float32 stay what they are."""
    if precision == "float64":
        return changed(problem, lambda x: x.astype(np.float64), problem.condition)
    return problem


def tolerance(problem: Problem, precision: str) -> float:
    """Return the relative error that an answer may have."""
    return problem.condition * (1e-5 if precision == "float32" else 1e-11)


@dataclass(frozen=True)
class Exact:
    """A ridge probe from one float64 solve: logits = ((x - mean) / scale) @ coef + intercept."""

    features: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        x = x[:, self.features].astype(np.float64)
        return (x - self.mean) / self.scale @ self.coef + self.intercept


def exact_ridge(x, y, features, l2, *, n_classes=None, standardize=True) -> Exact:
    """Solve one ridge probe directly, as its definition has it."""
    x = x[:, features].astype(np.float64)
    targets = np.eye(n_classes or y.max() + 1)[y]
    mean, scale = x.mean(0), x.std(0)
    constant = (x == x[0]).all(0)
    scale[constant | (not standardize)] = 1.0
    x = (x - mean) / scale
    x[:, constant] = 0.0
    matrix = x.T @ x / len(x) + l2 * np.eye(len(features))
    coef = np.linalg.solve(matrix, x.T @ (targets - targets.mean(0)) / len(x))
    return Exact(np.asarray(features), mean, scale, coef, targets.mean(0))


@dataclass
class Captured:
    """Stands where scores stand and keeps every logit: `all()` is (P, n, C)."""

    n_probes: int
    n_classes: int
    logits: list[list[np.ndarray]] = field(default_factory=list)

    def __post_init__(self):
        self.logits = [[] for _ in range(self.n_probes)]

    def add(self, probes, logits, labels):
        for probe, rows in zip(probes, to_host(logits), strict=True):
            self.logits[probe].append(rows.copy())

    def finish(self, labels):
        pass

    def all(self) -> np.ndarray:
        return np.stack([np.concatenate(pieces) for pieces in self.logits])


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """Return |found - exact| / |exact|."""
    return float(np.linalg.norm(found - exact) / max(np.linalg.norm(exact), 1e-300))

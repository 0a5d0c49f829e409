"""Softmax probes one at a time, as scikit-learn, cuML and torch's L-BFGS solve them."""

import importlib
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import logsumexp
from torch.nn import functional

# the default of scikit-learn and of cuML
TOL = 1e-4
# of torch's L-BFGS: runs of 20 steps at most, each looked at in the end
RUNS = 50


def objective(
    weights: np.ndarray, intercept: np.ndarray, x: np.ndarray, y: np.ndarray, l2: float
) -> float:
    """Return mean cross-entropy + (l2/2) ||W||^2 in float64; weights (k, C), x (N, k)."""
    logits = x.astype(np.float64) @ weights + intercept
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return float(losses.mean() + l2 / 2 * (weights**2).sum())


def fitted(
    library: str, x: np.ndarray, y: np.ndarray, l2: float, tol: float = TOL
) -> tuple[np.ndarray, np.ndarray]:
    """Return W (k, C) and b (C,) of `LogisticRegression` in "sklearn" or "cuml", in float64.

    Of two classes it penalises one vector, W_1 - W_0, whose square is twice that of both.
    """
    regression = importlib.import_module(f"{library}.linear_model").LogisticRegression
    two = y.max() == 1
    model = regression(C=(2 if two else 1) / (len(y) * l2), tol=tol, max_iter=100_000).fit(x, y)
    weights, intercept = model.coef_.T.astype(np.float64), model.intercept_
    if two:
        weights, intercept = np.hstack([-weights, weights]) / 2, np.r_[-intercept, intercept] / 2
    return weights, intercept


def scikit_learn(x: np.ndarray, y: np.ndarray, l2: float) -> float:
    """Return the objective of a probe at scikit-learn's default tolerance."""
    return objective(*fitted("sklearn", x, y, l2), x, y, l2)


def cuml(x: np.ndarray, y: np.ndarray, l2: float) -> float:
    """Return the objective of a probe at cuML's default tolerance."""
    return objective(*fitted("cuml", x, y, l2), x, y, l2)


ON_THEIR_OWN: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    "sklearn": scikit_learn,
    "cuml": cuml,
}
"""Loops that stop by their own rule; torch's is given a goal."""


def torch_loop(x: np.ndarray, y: np.ndarray, l2: float, goal: float, device: str) -> float:
    """Return the objective of a probe that torch's L-BFGS takes to `goal` or as near as it can."""
    features, labels = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    weights = torch.zeros(x.shape[1], int(y.max()) + 1, device=device, requires_grad=True)
    intercept = torch.zeros(weights.shape[1], device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, intercept], max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(features @ weights + intercept, labels)
        loss = loss + l2 / 2 * (weights**2).sum()
        loss.backward()
        return loss

    value = float("inf")
    for _ in range(RUNS):
        optimizer.step(closure)
        value = float(closure().detach())
        if value <= goal:
            break
    return value

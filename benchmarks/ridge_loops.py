"""Ridge probes one at a time, as scikit-learn, himalaya and a few lines of torch solve them."""

from collections.abc import Callable

import numpy as np
import torch

from featstore.probe.arrays import full_precision

Coefficients = tuple[np.ndarray, np.ndarray]


def scikit_learn(x: np.ndarray, targets: np.ndarray, l2: float, device: str) -> Coefficients:
    """Return W (k, C) and b (C,) of scikit-learn's Ridge, by Cholesky."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=len(x) * l2, solver="cholesky").fit(x, targets)
    return model.coef_.T, model.intercept_


def torch_loop(x: np.ndarray, targets: np.ndarray, l2: float, device: str) -> Coefficients:
    """Return W (k, C) and b (C,) from the normal equations of these columns.

    Centred features are taken, so that b is the mean of the targets.
    """
    features = torch.from_numpy(x).to(device)
    wanted = torch.from_numpy(targets).to(device)
    mean = wanted.mean(0)
    with full_precision():
        system = (features.T @ features).double() / len(x)
        right = (features.T @ (wanted - mean)).double() / len(x)
    system.diagonal().add_(l2)
    weights = torch.cholesky_solve(right, torch.linalg.cholesky(system))
    return weights.cpu().numpy(), mean.cpu().numpy()


def himalaya(x: np.ndarray, targets: np.ndarray, l2: float, device: str) -> Coefficients:
    """Return W (k, C) and b (C,) of himalaya's Ridge, by the singular values of these columns.

    It minimises ||X W - Y||^2 + alpha ||W||^2 of centred X and Y, and so has alpha = N l2.
    """
    from himalaya.backend import get_backend, set_backend
    from himalaya.ridge import Ridge

    before = get_backend()
    arrays = set_backend("torch_cuda" if device == "cuda" else "torch")
    try:
        model = Ridge(alpha=len(x) * l2, fit_intercept=True, solver_params={"warn": False})
        model.fit(x, targets)
        return arrays.to_numpy(model.coef_), arrays.to_numpy(model.intercept_)
    finally:
        set_backend(before)


FITS: dict[str, Callable[..., Coefficients]] = {
    "sklearn": scikit_learn,
    "torch-loop": torch_loop,
    "himalaya": himalaya,
}

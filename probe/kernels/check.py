"""A kernel's first check: on a small input it must give what the reference gives."""

from types import ModuleType

import numpy as np

from probe.arrays import Array, Backend, to_host
from probe.kernels import reference

TOLERANCES = {"float32": 2e-5, "float64": 1e-12}
# odd numbers of rows and classes, one class, more classes than threads of a row, one row
SHAPES = ((3, 7, 67), (2, 1, 5), (2, 300, 33), (1, 3, 1))


def held_against_reference(kernels: ModuleType, library: str) -> None:
    """Raise ArithmeticError where a kernel and the reference disagree.

    Arguments:
        kernels: what offers the functions of `reference`.
        library: "torch" or "cupy", whose arrays to check with, on the CUDA device.
    """
    backend = Backend(library, "cuda")
    for dtype in reference.DTYPES:
        for shape in SHAPES:
            for innermost in ("rows", "classes"):
                _compare_softmax(kernels, backend, *_drawn(shape, dtype), innermost)
    random = np.random.default_rng(0)
    matrix = backend.put(random.normal(size=(70, 70)))
    orders = backend.put(np.stack([random.permutation(70)[:61] for _ in range(3)]))
    penalties = backend.put(np.array([0.0, 1.0, 2.5]))
    arguments = matrix, orders, penalties
    _compare(
        "permuted_blocks",
        kernels.permuted_blocks(*arguments), reference.permuted_blocks(*arguments), 0.0,
    )  # fmt: skip


def _drawn(shape: tuple[int, int, int], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (P, C, r) with ties, huge ones and absent classes, and labels (r,)."""
    random = np.random.default_rng(1)
    _, classes, rows = shape
    logits = np.round(random.normal(size=shape) * 4) / 2
    logits[0] *= 1e4
    labels = random.integers(0, max(1, classes - 1), size=rows)
    if classes > 1:
        logits[-1, -1] = -np.inf
    return logits.astype(dtype), labels


def _compare_softmax(
    kernels: ModuleType, backend: Backend, logits: np.ndarray, labels: np.ndarray, innermost: str
) -> None:
    bound = TOLERANCES[logits.dtype.name]
    ours, theirs = (_laid_out(logits, backend, innermost) for _ in range(2))
    y = backend.put(labels)
    by_row = ours.swapaxes(1, 2)
    found, known = kernels.judged(by_row, y), reference.judged(by_row, y)
    for first in (1, 5):
        _compare("judged", found.among_first(first), known.among_first(first), 0.0)
    _compare("judged", found.surprise, known.surprise, bound)
    _compare("judged", found.confidence, known.confidence, bound)
    losses = kernels.residuals(ours, y, 0.5), reference.residuals(theirs, y, 0.5)
    _compare("residuals", *losses, bound)
    _compare("residuals", ours, theirs, bound)


def _laid_out(logits: np.ndarray, backend: Backend, innermost: str) -> Array:
    """Return the logits (P, C, r) on the device, the rows or else the classes innermost."""
    if innermost == "rows":
        return backend.put(logits.copy())
    return backend.put(logits.swapaxes(1, 2).copy()).swapaxes(1, 2)


def _compare(kernel: str, found: Array, known: Array, bound: float) -> None:
    a, b = (to_host(array).astype(np.float64) for array in (found, known))
    if a.shape != b.shape or not np.allclose(a, b, rtol=bound, atol=bound, equal_nan=True):
        raise ArithmeticError(f"kernel {kernel} differs from its reference")

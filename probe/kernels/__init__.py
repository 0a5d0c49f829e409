"""Kernels: three products and judgements, as CUDA sources and as array code."""

import importlib.util
import warnings
from functools import cache
from types import ModuleType

import numpy as np
from array_api_compat import is_cupy_array

from featstore.probe.arrays import Array, Backend, on_device, to_host
from featstore.probe.errors import DeviceWarning
from featstore.probe.kernels import reference
from featstore.probe.kernels.reference import Judged


def serving(array: Array) -> ModuleType:
    """Return the module whose functions compute with this array."""
    if not on_device(array) or str(array.dtype).removeprefix("torch.") not in reference.DTYPES:
        return reference
    return on_cuda("cupy" if is_cupy_array(array) else "torch")


@cache
def on_cuda(library: str) -> ModuleType:
    """Return what serves that library's arrays on a CUDA device: `cuda`, once it has been checked.

    Without CuPy the reference serves. It also does, after one warning that names the cause, where
    the kernels do not compile, do not run, or do not give what the reference gives.
    """
    if importlib.util.find_spec("cupy") is None:
        return reference
    try:
        from featstore.probe.kernels import cuda

        held_against_reference(cuda, library)
    except Exception as error:
        cause = next(iter(str(error).splitlines()), "")
        warnings.warn(
            f"the CUDA kernels are not used ({type(error).__name__}: {cause}): {library}'s own "
            "operations serve in their place, more slowly",
            DeviceWarning,
            stacklevel=2,
        )
        return reference
    return cuda


_TOLERANCES = {"float32": 2e-5, "float64": 1e-12}
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
        kernels.permuted_blocks(*arguments),
        reference.permuted_blocks(*arguments),
        0.0,
    )


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
    bound = _TOLERANCES[logits.dtype.name]
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


__all__ = ["Judged", "judged", "permuted_blocks", "residuals"]


def residuals(logits: Array, labels: Array, scale: float = 1.0) -> Array:
    """Return each probe's summed loss, and put its gradient where the logits were.

    With p = softmax(logits) over the classes, the loss of a row is -log p[label], and what is left
    is scale * (p - onehot(label)). Both keep their relative precision where a row is fitted almost
    perfectly: the entry of the label is minus the sum of the others, and not p - 1.

    Arguments:
        logits: (P, C, r) or (S, G, C, r), float32 or float64, of any strides.
        labels: int64 (r,), the same rows for all probes.
        scale: of the gradient, not of the loss.

    Returns:
        float64 (P,) or (S, G), sum over the rows, in nats.

    Example:
        >>> import numpy as np
        >>> logits = np.log([[[8.0], [1.0], [1.0]]])
        >>> losses = residuals(logits, np.array([0]))
        >>> np.round(np.exp(-losses), 6), np.round(logits[0, :, 0], 6)
        (array([0.8]), array([-0.2,  0.1,  0.1]))
    """
    return serving(logits).residuals(logits, labels, scale)


def judged(logits: Array, labels: Array) -> Judged:
    """Return where the label of each row stands among the logits of each probe.

    Arguments:
        logits: (P, r, C), float32 or float64, of any strides; left as they are.
        labels: int64 (r,), the same rows for all probes.
    """
    return serving(logits).judged(logits, labels)


def permuted_blocks(matrix: Array, orders: Array, penalties: Array) -> Array:
    """Return M[o_s][:, o_s] + penalty_s I for each order o_s, float64 (S, m, m).

    Arguments:
        matrix: float64 (D, D), M, contiguous.
        orders: int64 (S, m), in [0, D).
        penalties: float64 (S,).
    """
    return serving(matrix).permuted_blocks(matrix, orders, penalties)

"""The hot fused steps: a reference in the array vocabulary, and CUDA kernels that stand in for it.

Each function takes arrays of NumPy, torch or CuPy. On a CUDA device with CuPy installed the kernels
of `cuda` serve, torch's arrays too; else, or where a kernel fails its first check, `reference`.
"""

from probe.arrays import Array
from probe.kernels.choice import serving
from probe.kernels.reference import Judged

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

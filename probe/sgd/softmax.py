"""Softmax cross-entropy of many probes at once, and its gradient in the logits, in place."""

from array_api_compat import array_namespace

from probe.arrays import Array
from probe.kernels import residuals


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return each probe's mean loss, and put its gradient where the logits were.

    With p = softmax(logits) over the classes, the loss is mean over rows of -log p[label] and the
    gradient (p - onehot(label)) / r.

    Arguments:
        logits: (S, r, G, C), r rows by G probes of S chains; overwritten by the gradient.
        labels: int64 (r,), the same rows for all.

    Returns:
        float64 (S, G), in nats.
    """
    by_class = array_namespace(logits).permute_dims(logits, (0, 2, 3, 1))
    return residuals(by_class, labels, 1 / len(labels)) / len(labels)

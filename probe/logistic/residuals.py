"""Softmax cross-entropy of many probes at once, and its gradient in the logits, in place."""

from array_api_compat import array_namespace

from probe.arrays import Array


def residuals(logits: Array, labels: Array) -> Array:
    """Return each probe's summed loss, and put its gradient where the logits were.

    With p = softmax(logits) over the classes, the loss of a row is -log p[label] and its gradient
    p - onehot(label). Both keep their relative precision where a row is fitted almost perfectly:
    the entry of the label is minus the sum of the others, and not p - 1.

    Rows lie innermost, so that everything along the classes is a sum of whole vectors.

    Arguments:
        logits: (P, C, r), contiguous; overwritten by the gradient.
        labels: int64 (r,), the same rows for all probes.

    Returns:
        float64 (P,), sum over the rows, in nats.

    Example:
        >>> import numpy as np
        >>> logits = np.log([[[8.0], [1.0], [1.0]]])
        >>> losses = residuals(logits, np.array([0]))
        >>> np.round(np.exp(-losses), 6), np.round(logits[0, :, 0], 6)
        (array([0.8]), array([-0.2,  0.1,  0.1]))
    """
    xp = array_namespace(logits)
    probes, classes, rows = logits.shape
    flat = xp.reshape(logits, (probes, classes * rows))
    own = labels * rows + xp.arange(rows, device=labels.device)
    largest = xp.max(logits, axis=1)
    logits -= largest[:, None]
    label_logits = flat[:, own]
    label_weights = xp.exp(label_logits)
    xp.exp(logits, out=logits)
    flat[:, own] = 0
    others = xp.sum(logits, axis=1)
    inverse = 1 / (others + label_weights)
    logits *= inverse[:, None]
    flat[:, own] = -others * inverse
    # log1p of what the classes weigh beside the heaviest one, whose weight is exactly 1
    losses = xp.log1p(others + (label_weights - 1)) - label_logits
    return xp.sum(losses, axis=1, dtype=xp.float64)

"""Softmax cross-entropy of many probes at once, and its gradient in the logits, in place."""

from array_api_compat import array_namespace

from probe.arrays import Array


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
    xp = array_namespace(logits)
    rows = xp.arange(len(labels), device=labels.device)
    logits -= xp.max(logits, axis=-1, keepdims=True)
    own = logits[:, rows, :, labels]  # the indexed axes come first: (r, S, G)
    xp.exp(logits, out=logits)
    total = xp.sum(logits, axis=-1, keepdims=True)
    losses = xp.astype(xp.log(xp.permute_dims(total[..., 0], (1, 0, 2))) - own, xp.float64)
    logits /= total * len(labels)
    logits[:, rows, :, labels] -= 1 / len(labels)
    return xp.mean(losses, axis=0)

"""Stochastic gradient descent with momentum on all probes of a stack, in place."""

from array_api_compat import array_namespace, is_torch_array

from probe.arrays import Array, add_product
from probe.sgd.stack import Stack


class Descent:
    """The steps of `torch.optim.SGD`, without dampening and not Nesterov's.

    Arguments:
        stack: the coefficients; every step changes them.
        momentum: share of the last step that is kept.
        decay: (G C,), the weight decay of each column, of biases too.
    """

    def __init__(self, stack: Stack, momentum: float, decay: Array):
        xp = array_namespace(decay)
        self.stack, self._momentum, self._decay = stack, momentum, decay
        self._velocities = [xp.zeros_like(array) for array in stack.coefficients]

    def step(self, rows: Array, residual: Array, rate: float) -> None:
        """Set v = momentum v + x'R + decay w, then w = w - rate v.

        Arguments:
            rows: (S, m + 1, r), the minibatch x.
            residual: (S, r, G, C), R, the gradient of each probe's loss in its logits.
            rate: learning rate.
        """
        xp, layout = array_namespace(rows), self.stack.layout
        flat = xp.reshape(residual, (*residual.shape[:2], -1))
        arrays = zip(layout.segments, self.stack.coefficients, self._velocities, strict=True)
        # segment by segment, so that what a product leaves in cache is used there
        for segment, w, v in arrays:
            left = layout.column(segment.first)
            v *= self._momentum
            add_product(v, rows[:, segment.start : segment.stop], flat[:, :, left:])
            for prefix, end in segment.ends:
                columns = slice(layout.column(prefix) - left, layout.column(prefix + 1) - left)
                v[:, end - segment.start :, columns] = 0
            _add_scaled(v, w, self._decay[left:])
            _add_scaled(w, v, -rate)

    def keep(self, kept: Stack, better: Array) -> None:
        """Copy into `kept` the coefficients of the probes that are `better`, bool (S, G)."""
        xp, layout = array_namespace(better), self.stack.layout
        columns = xp.repeat(better, layout.n_classes, axis=1)[:, None, :]
        arrays = zip(layout.segments, kept.coefficients, self.stack.coefficients, strict=True)
        for segment, old, new in arrays:
            old[...] = xp.where(columns[:, :, layout.column(segment.first) :], new, old)


def _add_scaled(total: Array, array: Array, factor: Array | float) -> None:
    """Add factor * array to `total`, where possible without a temporary array."""
    if not is_torch_array(total):
        total += factor * array
    elif isinstance(factor, float):
        total.add_(array, alpha=factor)
    else:
        total.addcmul_(array, factor)

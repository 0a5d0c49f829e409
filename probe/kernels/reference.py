"""The hot steps in the array vocabulary: they always work, and say what a kernel must compute."""

from functools import cached_property
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace, is_torch_array

from featstore.probe.arrays import (
    Array,
    add_to_diagonal,
    at_labels,
    on_device,
    set_at_labels,
    take_along_into,
    taken,
)

DTYPES = ("float32", "float64")


class Judged(Protocol):
    """Rank and probability of each row's label among the logits of each probe.

    Attributes:
        n_rows: r.
        surprise: float64 (P, r), -log softmax(logits)[label], in nats.
        confidence: float64 (P, r), the largest probability.
        finite: bool (P,), whether the largest logit of every row is a finite number; where it is
            not, no class of that row can be told.
        predicted: int64 (P, r), the class of the largest logit, of equal ones the first.
    """

    n_rows: int
    surprise: Array
    confidence: Array
    finite: Array
    predicted: Array

    def among_first(self, first: int) -> Array:
        """Return whether fewer than `first` classes come before the label, bool (P, r).

        Larger logits come before smaller ones, and of equal ones the first. One that is not a
        number comes before nothing, and is found nowhere.
        """


def residuals(logits: Array, labels: Array, scale: float = 1.0) -> Array:
    """Return what `featstore.probe.kernels.residuals` is to return, and do to the logits what it is
    to do.
    """
    xp = array_namespace(logits)
    largest = xp.max(logits, axis=-2)
    logits -= largest[..., None, :]
    own = _own(logits, labels)
    weight = xp.exp(own)
    xp.exp(logits, out=logits)
    _set_own(logits, labels, xp.zeros_like(own))
    others = xp.sum(logits, axis=-2)
    share = scale / (others + weight)
    logits *= share[..., None, :]
    _set_own(logits, labels, -others * share)
    # log1p of what the classes weigh beside the heaviest one, whose weight is exactly 1
    losses = xp.log1p(others + (weight - 1)) - own
    return xp.sum(losses, axis=-1, dtype=xp.float64)


def residuals_of_labels(logits: Array, labels: Array, scale: float = 1.0) -> Array:
    """Return each probe's summed loss, and put its gradient where the logits were.

    With p = 1 / (1 + exp(-logit)), the loss of a label is -log p for a row that has it and
    -log(1 - p) for one that has not, and what is left is p less the label. With s the logit of what
    a row is not, both are of exp(-|s|) alone, and so precise where it is fitted almost perfectly.

    Arguments:
        logits: (..., L, r).
        labels: (r, L), 0 or 1.
        scale: of the gradient.

    Returns:
        float64 (...), sum over labels and rows, in nats.

    Example:
        >>> logits = np.log([[[1.0], [3.0]]])
        >>> np.exp(-residuals_of_labels(logits, np.array([[1, 0]]))), logits[0, :, 0]
        (array([0.125]), array([-0.5 ,  0.75]))
    """
    xp = array_namespace(logits)
    sign = xp.astype(1 - 2 * xp.astype(xp.permute_dims(labels, (1, 0)), xp.int8), logits.dtype)
    logits *= sign
    small = xp.exp(-xp.abs(logits))
    losses = xp.where(logits > 0, logits, xp.zeros_like(logits)) + xp.log1p(small)
    logits[...] = sign * xp.where(logits > 0, xp.ones_like(small), small) / (1 + small)
    if scale != 1:
        logits *= scale
    return xp.sum(losses, axis=(-2, -1), dtype=xp.float64)


def _own(logits: Array, labels: Array) -> Array:
    """Return logits[..., labels[r], r], (..., r), of logits (..., C, r)."""
    if is_torch_array(logits):
        return logits.gather(-2, _index(logits, labels))[..., 0, :]
    return logits[..., labels, array_namespace(logits).arange(len(labels))]


def _set_own(logits: Array, labels: Array, values: Array) -> None:
    """Write values (..., r) to logits[..., labels[r], r], in place."""
    if is_torch_array(logits):
        logits.scatter_(-2, _index(logits, labels), values[..., None, :])
    else:
        logits[..., labels, array_namespace(logits).arange(len(labels))] = values


def _index(logits: Array, labels: Array) -> Array:
    return labels.expand(*logits.shape[:-2], 1, -1)


def judged(logits: Array, labels: Array) -> "JudgedWhenAsked":
    """Return what `featstore.probe.kernels.judged` is to return."""
    return JudgedWhenAsked(logits, labels)


class JudgedWhenAsked:
    """Rank and probability of the label, worked out when asked for: see `Judged`.

    Arguments:
        logits: (P, r, C), of any strides.
        labels: int64 (r,).
    """

    def __init__(self, logits: Array, labels: Array):
        self._logits, self._labels = logits, labels
        self.n_rows = len(labels)

    def among_first(self, first: int) -> Array:
        """Return whether fewer than `first` classes come before the label, bool (P, r)."""
        if first == 1:
            return self._hits
        return _label_among_first(self._logits, self._labels, first)

    @property
    def finite(self) -> Array:
        """Return whether the largest logit of every row is a finite number, bool (P,)."""
        xp = array_namespace(self._logits)
        return xp.all(xp.isfinite(self._top), axis=1)

    @property
    def predicted(self) -> Array:
        """The class of the largest logit, int64 (P, r)."""
        return array_namespace(self._logits).argmax(self._logits, axis=-1)

    @property
    def _hits(self) -> Array:
        return self._judged[0]

    @property
    def _top(self) -> Array:
        return self._judged[1]

    @cached_property
    def _judged(self) -> tuple[Array, Array]:
        return _first_max(self._logits, self._labels)

    @property
    def surprise(self) -> Array:
        """-log softmax(logits)[label], float64 (P, r)."""
        xp = array_namespace(self._logits)
        # the difference is of the logits' own precision: subtracting first keeps the digits
        below = xp.astype(self._top - at_labels(self._logits, self._labels), xp.float64)
        return xp.log(self._total) + below

    @property
    def confidence(self) -> Array:
        """The largest probability, float64 (P, r)."""
        return 1 / self._total

    @cached_property
    def _total(self) -> Array:
        xp = array_namespace(self._logits)
        with np.errstate(invalid="ignore"):  # infinite logits, whose probe gets no score
            powers = xp.exp(self._logits - self._top[..., None])
        return xp.astype(xp.sum(powers, axis=-1), xp.float64)


def _first_max(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return whether argmax(logits) is the label, of equal logits the first, and the largest logit.

    Both are (P, rows); the largest of logits of which one is not a number is none either.

    The largest logit of the *other* classes is found by a plain maximum, which runs ten to thirty
    times faster than argmax; only tied rows need the argmax. Logits are changed meanwhile and put
    back.

    Arguments:
        logits: (P, rows, C).
        labels: int64 (rows,).
    """
    xp = array_namespace(logits)
    own = at_labels(logits, labels)
    set_at_labels(logits, labels, xp.full_like(own, -xp.inf))
    rival = xp.max(logits, axis=-1)
    set_at_labels(logits, labels, own)
    hits = own > rival
    tied = own == rival
    if bool(xp.any(tied)):
        probes, rows = xp.nonzero(tied)
        hits[probes, rows] = xp.argmax(logits[probes, rows], axis=-1) == labels[rows]
    return hits, xp.maximum(own, rival)


def _label_among_first(logits: Array, labels: Array, first: int) -> Array:
    """Return whether the label is among the `first` largest logits, bool (P, rows).

    Equal logits rank by class index, as in argmax. Counting how many logits lie below the
    label's settles most rows; only for the rest must equal ones be told apart. Logits are changed
    meanwhile and put back.

    Arguments:
        logits: (P, rows, C).
        labels: int64 (rows,).
        first: how many count.
    """
    xp = array_namespace(logits)
    enough = logits.shape[-1] - first
    own = at_labels(logits, labels)
    set_at_labels(logits, labels, xp.full_like(own, xp.inf))
    found = xp.count_nonzero(logits < own[..., None], axis=-1) >= enough
    set_at_labels(logits, labels, own)
    probes, rows = xp.nonzero(~found)
    rivals, mine, label = logits[probes, rows], own[probes, rows], labels[rows]
    classes = xp.arange(logits.shape[-1], device=labels.device)
    behind = (rivals < mine[:, None]) | ((rivals == mine[:, None]) & (classes > label[:, None]))
    # NaN lies behind nothing, so that a probe without finite logits finds no row
    found[probes, rows] = xp.count_nonzero(behind, axis=-1) >= enough
    return found


def permuted_blocks(matrix: Array, orders: Array, penalties: Array) -> Array:
    """Return what `featstore.probe.kernels.permuted_blocks` is to return."""
    xp = array_namespace(matrix)
    systems, length = orders.shape
    # filled one by one and not stacked, which would hold every block twice
    blocks = xp.empty((systems, length, length), dtype=matrix.dtype, device=matrix.device)
    # rows that stay in cache; on a device each part would be a launch
    step = length if on_device(matrix) else _ROWS
    for system, order in enumerate(orders):
        for start in range(0, length, step):
            part = slice(start, start + step)
            take_along_into(blocks[system, part], taken(matrix, order[part]), order)
        add_to_diagonal(blocks[system], penalties[system])
    return blocks


_ROWS = 128
"""Rows of a matrix that are gathered at once."""

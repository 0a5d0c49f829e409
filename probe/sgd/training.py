"""The epochs of stochastic gradient descent, all probes of a stack in the same steps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from probe.accuracy import label_is_first_max
from probe.arrays import Array, Backend, full_precision, to_host
from probe.blocks import RowBlocks, views_of
from probe.rows import gathered
from probe.sgd.descent import Descent
from probe.sgd.recipe import Recipe
from probe.sgd.softmax import cross_entropy
from probe.sgd.stack import Stack
from probe.validation import Parts


@dataclass(frozen=True)
class Samples:
    """All train rows in memory, to be picked in any order.

    Attributes:
        features: (V N, D) float16, float32 or float64, on the device; view after view.
        labels: int64 (V N,), on the device.
        dtype: what is computed in, "float32" or "float64".
        backend: where.
        n_views: V.
    """

    features: Array
    labels: Array
    dtype: str
    backend: Backend
    n_views: int = 1

    @property
    def n_images(self) -> int:
        """N, the rows of one view."""
        return len(self.labels) // self.n_views

    def pick(self, rows: Array) -> tuple[Array, Array]:
        """Return the features (D + 1, r) of some rows, and a constant 1 below; and labels (r,)."""
        xp = array_namespace(self.features)
        taken = xp.take(self.features, rows, axis=0)
        return with_constant(taken, self.backend, self.dtype), xp.take(self.labels, rows, axis=0)


def precision(train: RowBlocks) -> tuple[str, str]:
    """Return the dtype that features are kept in, theirs, and the one that is computed in."""
    stored = str(next(iter(train))[0].dtype)
    return stored, "float64" if stored == "float64" else "float32"


def samples(train: RowBlocks, backend: Backend, rows: int, split: str = "train") -> Samples:
    """Return all rows, read once and checked, `rows` at a time.

    Raises:
        DataError: as `probe.rows.gathered`.
    """
    stored, dtype = precision(train)
    features = backend.empty((train.n_rows, train.n_features), stored)
    done, nothing = 0, np.zeros(train.n_features)
    for piece, labels in gathered(train, rows, backend, dtype, nothing, split):
        features[done : done + len(labels)] = array_namespace(piece).astype(piece, features.dtype)
        done += len(labels)
    return Samples(features, backend.put(train.labels()), dtype, backend, views_of(train))


def with_constant(features: Array, backend: Backend, dtype: str) -> Array:
    """Return features (r, D) transposed, with a row of ones below: (D + 1, r)."""
    rows, width = features.shape
    out = backend.empty((width + 1, rows), dtype)
    out[:width] = array_namespace(features).astype(features, out.dtype).T
    out[width] = 1
    return out


@dataclass(frozen=True)
class Trained:
    """What a training leaves of S chains with G probes each.

    Attributes:
        stack: the coefficients of each probe's best epoch.
        best_epoch: int64 (S, G), counted from 1.
        losses: float64 (epochs, S, G), mean cross-entropy over an epoch's minibatches, each before
            its step.
        accuracies: float64 (epochs, S, G), on the validation part after the epoch; NaN where there
            is no validation.
    """

    stack: Stack
    best_epoch: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray


def train_probes(
    stack: Stack,
    data: Samples,
    held: Samples,
    parts: Parts,
    recipe: Recipe,
    decay: Array,
    finished: Callable[[int], None],
) -> Trained:
    """Run every epoch and keep, for each probe, the coefficients of its best one.

    The best epoch has the highest accuracy on the validation part, of those after which there is
    a validation; of equal ones the first. Each epoch shows every train row once, in a view drawn
    for it; validation rows are shown in the first.

    Arguments:
        stack: the probes at their start; they are trained in place.
        data: all rows.
        held: the rows to validate on, or all rows again.
        parts: which of the N images to train on, and which of `held` to validate on.
        recipe: rates, orders and sizes.
        decay: (G C,), weight decay of each column.
        finished: called with the number of epochs that are over.
    """
    descent, kept = Descent(stack, recipe.momentum, decay), stack.copy()
    losses, accuracies = [], []
    best = np.full((len(stack.order), stack.layout.probes), -1.0)
    best_epoch = np.ones(best.shape, np.int64)
    with full_precision(), np.errstate(over="ignore", invalid="ignore"):
        for epoch, (rate, rows) in enumerate(_epochs(recipe, data, parts.train), start=1):
            losses.append(_epoch(descent, data, rows, recipe.batch_size, rate))
            if recipe.validated(epoch):
                accuracies.append(_accuracy(stack, held, parts.validation, recipe.rows))
                better = np.isfinite(losses[-1]) & (accuracies[-1] > best)
                descent.keep(kept, data.backend.put(better))
                best = np.where(better, accuracies[-1], best)
                best_epoch = np.where(better, epoch, best_epoch)
            else:
                accuracies.append(np.full(best.shape, np.nan))
            finished(epoch)
    return Trained(kept, best_epoch, np.array(losses), np.array(accuracies))


def _epochs(
    recipe: Recipe, data: Samples, images: np.ndarray
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the learning rate of each epoch, and its rows, int64, in their order."""
    count = len(images)
    orders, views = recipe.orders(count), recipe.views(count, data.n_views)
    for rate, order, view in zip(recipe.rates(), orders, views, strict=True):
        yield rate, (images + data.n_images * view)[order]


def _epoch(
    descent: Descent, data: Samples, rows: np.ndarray, batch_size: int, rate: float
) -> np.ndarray:
    """Take the steps of one epoch, and return each probe's mean loss, float64 (S, G)."""
    order = data.backend.put(rows)
    total = 0.0
    for start in range(0, len(rows), batch_size):
        features, labels = data.pick(order[start : start + batch_size])
        own = descent.stack.rows(features)
        logits = descent.stack.logits(own)
        total = total + cross_entropy(logits, labels) * len(labels)
        descent.step(own, logits, rate)  # the logits have become their own gradient
    return to_host(total / len(rows))


def _accuracy(stack: Stack, data: Samples, rows: np.ndarray, together: int) -> np.ndarray:
    """Return the share of these rows that each probe gets right, float64 (S, G)."""
    order = data.backend.put(rows)
    hits = 0
    for start in range(0, len(rows), together):
        features, labels = data.pick(order[start : start + together])
        logits = stack.logits(stack.rows(features))
        xp = array_namespace(logits)
        chains = [xp.permute_dims(one, (1, 0, 2)) for one in logits]
        right = [xp.count_nonzero(label_is_first_max(one, labels), axis=1) for one in chains]
        hits = hits + xp.stack(right)
    return to_host(hits) / len(rows)

"""Training of stacked softmax probes by SGD."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from array_api_compat import array_namespace, is_torch_array

from featstore.probe.arrays import Array, Backend, add_product, full_precision, to_host
from featstore.probe.errors import MemoryBudgetError
from featstore.probe.kernels import residuals
from featstore.probe.memory import text
from featstore.probe.metrics import label_is_first_max
from featstore.probe.rows import RowBlocks, validation_of, views_of
from featstore.probe.solvers.options import SGD
from featstore.probe.splits import Parts
from featstore.probe.streams import gathered
from featstore.probe.subsets import Axes, Chain, Segment, segments


def orders(options: SGD, n_rows: int) -> Iterator[np.ndarray]:
    """Yield the order of the rows in each epoch, int64 (N,): one generator for all epochs."""
    generator = torch.Generator().manual_seed(options.order_seed)
    for _ in range(options.epochs):
        yield torch.randperm(n_rows, generator=generator).numpy()


def views(options: SGD, n_rows: int, n_views: int) -> Iterator[np.ndarray]:
    """Yield the view that each row is shown in in each epoch, int64 (N,), drawn evenly."""
    generator = torch.Generator().manual_seed(options.order_seed)
    for _ in range(options.epochs):
        yield torch.randint(n_views, (n_rows,), generator=generator).numpy()


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


@dataclass(frozen=True)
class Layout:
    """Where the coefficients of a chain's probes lie.

    A chain has P prefixes, and each is solved for R penalties: G = P R probes, those of a prefix
    next to each other. Features stand in the chain's order behind a constant 1, whose coefficients
    are the biases. Their rows are cut into segments; the array of a segment has a column for each
    class of each probe that reaches into it.

    Attributes:
        sizes: (P,) rows of each prefix, the constant included.
        penalties: R.
        n_classes: C.
    """

    sizes: tuple[int, ...]
    penalties: int
    n_classes: int

    @cached_property
    def segments(self) -> list[Segment]:
        """The cuts of the rows."""
        return segments(self.sizes)

    @property
    def probes(self) -> int:
        """G, the probes of a chain."""
        return len(self.sizes) * self.penalties

    @property
    def columns(self) -> int:
        """G C, the logits of a row."""
        return self.probes * self.n_classes

    def column(self, prefix: int) -> int:
        """Return the first of a prefix's columns."""
        return prefix * self.penalties * self.n_classes

    def shape(self, segment: Segment) -> tuple[int, int]:
        """Return rows and columns of a segment's array."""
        return segment.stop - segment.start, self.columns - self.column(segment.first)

    @property
    def entries(self) -> int:
        """The number of coefficients of a chain, padding included."""
        return sum(rows * columns for rows, columns in map(self.shape, self.segments))


@dataclass(frozen=True)
class Stack:
    """The coefficients of S chains with the same layout.

    Attributes:
        layout: where each lies.
        order: int64 (S, m + 1), the rows that each chain takes of features with a constant.
        coefficients: for each segment an array (S, rows, columns).
    """

    layout: Layout
    order: Array
    coefficients: list[Array]

    def rows(self, features: Array) -> Array:
        """Return (S, m + 1, r), each chain's own rows of features (D + 1, r)."""
        xp = array_namespace(features)
        taken = xp.take(features, xp.reshape(self.order, (-1,)), axis=0)
        return xp.reshape(taken, (*self.order.shape, features.shape[1]))

    def logits(self, rows: Array) -> Array:
        """Return the logits (S, r, G, C) of all probes on `rows` (S, m + 1, r)."""
        xp, layout = array_namespace(rows), self.layout
        chains, _, n = rows.shape
        logits = xp.zeros((chains, n, layout.columns), dtype=rows.dtype, device=rows.device)
        for segment, array in zip(layout.segments, self.coefficients, strict=True):
            part = xp.permute_dims(rows[:, segment.start : segment.stop], (0, 2, 1))
            add_product(logits[:, :, layout.column(segment.first) :], part, array)
        return xp.reshape(logits, (chains, n, layout.probes, layout.n_classes))

    def probe(self, chain: int, prefix: int, penalty: int) -> np.ndarray:
        """Return one probe's coefficients (1 + k, C), the bias first."""
        layout, size = self.layout, self.layout.sizes[prefix]
        parts = []
        for segment, array in zip(layout.segments, self.coefficients, strict=True):
            if segment.first <= prefix:
                left = layout.column(prefix) - layout.column(segment.first)
                left += penalty * layout.n_classes
                part = array[chain, : size - segment.start, left : left + layout.n_classes]
                parts.append(to_host(part))
        return np.concatenate(parts)

    def copy(self) -> "Stack":
        """Return a stack whose coefficients can change without those of this one."""
        xp = array_namespace(self.order)
        copies = [xp.asarray(array, copy=True) for array in self.coefficients]
        return Stack(self.layout, self.order, copies)


def stacked(
    chains: Sequence[Chain], layout: Layout, n_features: int, backend: Backend, dtype: str,
    one_start: bool = False,
) -> Stack:  # fmt: skip
    """Return the layers of chains of one layout, each drawn under its chain's seed (or 0).

    Probes of one chain and prefix start alike, whatever their penalty; with `one_start` all of a
    prefix size do, drawn under seed 0.
    """
    orders = [np.append(n_features, chain.order[: chain.length]) for chain in chains]
    starts = [np.zeros((len(chains), *layout.shape(s)), dtype) for s in layout.segments]
    for number, chain in enumerate(chains):
        for prefix, size in enumerate(layout.sizes):
            drawn = linear_start(size - 1, layout.n_classes, 0 if one_start else chain.seed or 0)
            drawn = np.tile(drawn, (1, layout.penalties))
            for segment, start in zip(layout.segments, starts, strict=True):
                if segment.first <= prefix:
                    part = drawn[segment.start : segment.stop]
                    left = layout.column(prefix) - layout.column(segment.first)
                    start[number, : len(part), left : left + part.shape[1]] = part
    return Stack(layout, backend.put(np.stack(orders)), [backend.put(start) for start in starts])


def linear_start(n_features: int, n_classes: int, seed: int) -> np.ndarray:
    """Return bias and weights of `torch.nn.Linear` as drawn after `torch.manual_seed(seed)`.

    Weights and bias are uniform in +-1/sqrt(k), from a generator of their own.

    Returns:
        float32 (1 + k, C), the bias first.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(n_classes, n_features)
    torch.nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)
    bound = n_features**-0.5
    bias = torch.empty(n_classes).uniform_(-bound, bound, generator=generator)
    return torch.cat([bias[None], weight.T]).numpy()


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
        DataError: as `featstore.probe.streams.gathered`.
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
    options: SGD,
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
        options: rates, orders and sizes.
        decay: (G C,), weight decay of each column.
        finished: called with the number of epochs that are over.
    """
    descent, kept = Descent(stack, options.momentum, decay), stack.copy()
    losses, accuracies = [], []
    best = np.full((len(stack.order), stack.layout.probes), -1.0)
    best_epoch = np.ones(best.shape, np.int64)
    with full_precision(), np.errstate(over="ignore", invalid="ignore"):
        for epoch, (rate, rows) in enumerate(_epochs(options, data, parts.train), start=1):
            losses.append(_epoch(descent, data, rows, options.batch_size, rate))
            if options.validated(epoch):
                accuracies.append(_accuracy(stack, held, parts.validation, options.rows))
                better = np.isfinite(losses[-1]) & (accuracies[-1] > best)
                descent.keep(kept, data.backend.put(better))
                best = np.where(better, accuracies[-1], best)
                best_epoch = np.where(better, epoch, best_epoch)
            else:
                accuracies.append(np.full(best.shape, np.nan))
            finished(epoch)
    return Trained(kept, best_epoch, np.array(losses), np.array(accuracies))


def _epochs(options: SGD, data: Samples, images: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the learning rate of each epoch, and its rows, int64, in their order."""
    count = len(images)
    shown = views(options, count, data.n_views)
    for rate, order, view in zip(options.rates(), orders(options, count), shown, strict=True):
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


def layout_of(axes: Axes, chain: int, n_classes: int) -> Layout:
    """Return the layout of a chain's probes."""
    sizes = tuple(1 + size for size in axes.chains[chain].sizes)
    return Layout(sizes, len(axes.penalties), n_classes)


def grouped(axes: Axes, train: RowBlocks, rows: int, memory: int) -> list[list[int]]:
    """Return the chains in groups to be trained one after the other.

    Minibatches are drawn from all rows, so that all of train is held, in its own precision; beside
    it the best coefficients of every probe, and what the probes in training need.

    Arguments:
        axes: all probes.
        train: all rows.
        rows: rows picked at a time.
        memory: bytes that arrays may take.

    Raises:
        MemoryBudgetError: not even one chain fits; the message says how much would do.
    """
    stored, dtype = precision(train)
    item, width = np.dtype(dtype).itemsize, train.n_features + 1
    layouts = [layout_of(axes, chain, train.n_classes) for chain in range(len(axes.chains))]
    # rows, labels and orders; a block as it is read, and one ahead; a piece as it is picked,
    # cast and transposed; the best coefficients
    held = validation_of(train)
    rows_held = train.n_rows + (held.n_rows if held is not None else 0)
    fixed = (rows_held + 2 * train.block_rows) * (np.dtype(stored).itemsize * width + 40)
    fixed += 4 * item * rows * width
    fixed += item * sum(layout.entries for layout in layouts)
    costs = {layout: _cost(layout, rows, item) for layout in layouts}
    if memory < fixed + max(costs.values()):
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for sgd, which draws minibatches from all "
            f"{train.n_rows} train rows: allow at least {text(fixed + max(costs.values()))}"
        )
    groups = []
    for layout, cost in costs.items():
        chains = [number for number, own in enumerate(layouts) if own == layout]
        count = (memory - fixed) // cost
        groups += [chains[start : start + count] for start in range(0, len(chains), count)]
    return groups


def _cost(layout: Layout, rows: int, item: int) -> int:
    """Return the bytes that one chain in training takes.

    Its coefficients, their momentum, and a copy while the best are kept; its rows of a piece, the
    logits of these, and as much twice again for what is made of logits.
    """
    return item * (3 * layout.entries + rows * (layout.sizes[-1] + 3 * layout.columns))

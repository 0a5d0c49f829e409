"""Softmax probes by stochastic gradient descent, all of them trained side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from array_api_compat import array_namespace, is_torch_array

from featstore.probe.arrays import (
    Array,
    Backend,
    add_product,
    beside,
    full_precision,
    on_device,
    taken,
    to_host,
)
from featstore.probe.confusion import rows_right
from featstore.probe.errors import MemoryBudgetError, UsageError
from featstore.probe.kernels import residuals
from featstore.probe.kernels.cuda import Recorded
from featstore.probe.kernels.reference import residuals_of_labels
from featstore.probe.memory import Settings, text, world
from featstore.probe.metrics import LogitSink
from featstore.probe.pieces import gathered
from featstore.probe.rows import RowBlocks, groups_of, targets_of, validation_of, views_of
from featstore.probe.solvers import SGD, own_fields
from featstore.probe.solvers.weights import Fitted, Weights, counts_of, n_outputs
from featstore.probe.splits import Parts, grouped_parts, random_parts
from featstore.probe.statuses import Status
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
    gradient (p - onehot(label)) / r. Of several labels it is the sum over them of the binary loss,
    p = 1 / (1 + exp(-logit)), so that each label is trained as if it were alone.

    Arguments:
        logits: (S, r, G, C), r rows by G probes of S chains; overwritten by the gradient.
        labels: int64 (r,), the same rows for all; or (r, L), 0 or 1, and L for C.

    Returns:
        float64 (S, G), in nats.
    """
    by_class = array_namespace(logits).permute_dims(logits, (0, 2, 3, 1))
    loss = residuals if labels.ndim == 1 else residuals_of_labels
    return loss(by_class, labels, 1 / len(labels)) / len(labels)


@dataclass(frozen=True)
class Layout:
    """Places of the coefficients of a chain's probes.

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
        return taken(features, self.order)

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
    chains: Sequence[Chain],
    layout: Layout,
    n_features: int,
    backend: Backend,
    dtype: str,
    one_start: bool = False,
) -> Stack:
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
        # one weight decay for all columns, or None
        found = np.unique(to_host(decay))
        self._one_decay = float(found[0]) if len(found) == 1 else None
        # on a device launches count: what lies beyond a prefix is kept 0 by one product
        self._seen = self._masks() if is_torch_array(decay) and on_device(decay) else []

    def _masks(self) -> list[Array]:
        """Return 1 where a segment's coefficients are a probe's and 0 beyond its prefix."""
        layout, masks = self.stack.layout, []
        for segment, w in zip(layout.segments, self.stack.coefficients, strict=True):
            left, seen = layout.column(segment.first), np.ones(w.shape[1:], np.float32)
            for prefix, end in segment.ends:
                columns = slice(layout.column(prefix) - left, layout.column(prefix + 1) - left)
                seen[end - segment.start :, columns] = 0
            masks.append(beside(seen, w, w.dtype).expand(w.shape).contiguous())
        return masks

    def step(self, rows: Array, residual: Array, rate: float) -> None:
        """Set v = momentum v + x'R + decay w, then w = w - rate v.

        Arguments:
            rows: (S, m + 1, r), the minibatch x.
            residual: (S, r, G, C), R, the gradient of each probe's loss in its logits.
            rate: learning rate.
        """
        xp, layout = array_namespace(rows), self.stack.layout
        flat = xp.reshape(residual, (*residual.shape[:2], -1))
        if self._seen:
            self._step_together(rows, flat, rate)
            return
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

    def _step_together(self, rows: Array, flat: Array, rate: float) -> None:
        """Take the same step, each part of it in one launch for all segments where that can be."""
        layout, weights, velocities = self.stack.layout, self.stack.coefficients, self._velocities
        for segment, v in zip(layout.segments, velocities, strict=True):
            part = rows[:, segment.start : segment.stop]
            columns = flat[:, :, layout.column(segment.first) :]
            v.baddbmm_(part, columns, beta=self._momentum)
        torch._foreach_mul_(velocities, self._seen)
        if self._one_decay is not None:
            torch._foreach_add_(velocities, weights, alpha=self._one_decay)
        else:
            for segment, w, v in zip(layout.segments, weights, velocities, strict=True):
                _add_scaled(v, w, self._decay[layout.column(segment.first) :])
        torch._foreach_add_(weights, velocities, alpha=-rate)

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
        labels: int64 (V N,), or several, uint8 (V N, L), on the device.
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
        features = with_constant(taken(self.features, rows), self.backend, self.dtype)
        return features, taken(self.labels, rows)


def precision(train: RowBlocks) -> tuple[str, str]:
    """Return the dtype that features are kept in, theirs, and the one that is computed in."""
    stored = str(next(iter(train))[0].dtype)
    return stored, "float64" if stored == "float64" else "float32"


def samples(train: RowBlocks, backend: Backend, rows: int, split: str = "train") -> Samples:
    """Return all rows, read once and checked, `rows` at a time.

    Raises:
        DataError: as `featstore.probe.pieces.gathered`.
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
    out[:width] = features.T  # cast as it is written
    out[width] = 1
    return out


@dataclass(frozen=True)
class Trained:
    """Result of a training of S chains with G probes each.

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


def _train_probes(
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
    steps, losses, accuracies = _Steps(descent, data, options.batch_size), [], []
    best = np.full((len(stack.order), stack.layout.probes), -1.0)
    best_epoch = np.ones(best.shape, np.int64)
    with full_precision(), np.errstate(over="ignore", invalid="ignore"):
        for epoch, (rate, rows) in enumerate(_epochs(options, data, parts.train), start=1):
            losses.append(steps.epoch(rows, rate))
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


class _Steps:
    """The steps of a training; torch on a CUDA device records one of each rate and repeats it."""

    def __init__(self, descent: Descent, data: Samples, batch_size: int):
        self._descent, self._data, self._batch_size = descent, data, batch_size
        shape = len(descent.stack.order), descent.stack.layout.probes
        self._total, self._rate = data.backend.zeros(shape, "float64"), np.nan
        self._recorded = Recorded(data.backend == Backend("torch", "cuda"))

    def epoch(self, rows: np.ndarray, rate: float) -> np.ndarray:
        """Take the steps of one epoch, and return each probe's mean loss, float64 (S, G)."""
        order = self._data.backend.put(rows)
        self._total[...] = 0
        if rate != self._rate:
            self._rate = rate
            self._recorded.forget()
        for start in range(0, len(rows), self._batch_size):
            self._recorded(self._step, order[start : start + self._batch_size])
        return to_host(self._total / len(rows))

    def _step(self, rows: Array) -> None:
        features, labels = self._data.pick(rows)
        own = self._descent.stack.rows(features)
        logits = self._descent.stack.logits(own)
        self._total += cross_entropy(logits, labels) * len(labels)
        self._descent.step(own, logits, self._rate)  # the logits have become their own gradient


def _accuracy(stack: Stack, data: Samples, rows: np.ndarray, together: int) -> np.ndarray:
    """Return the share of these rows, or of their labels, that each probe gets right, (S, G)."""
    order, hits = data.backend.put(rows), 0
    for start in range(0, len(rows), together):
        features, labels = data.pick(order[start : start + together])
        logits = stack.logits(stack.rows(features))
        xp = array_namespace(logits)
        chains = [xp.permute_dims(one, (1, 0, 2)) for one in logits]
        hits = hits + xp.stack([rows_right(one, labels) for one in chains])
    return to_host(hits) / len(rows)


def _layout_of(axes: Axes, chain: int, n_classes: int) -> Layout:
    """Return the layout of a chain's probes."""
    sizes = tuple(1 + size for size in axes.chains[chain].sizes)
    return Layout(sizes, len(axes.penalties), n_classes)


def grouped(axes: Axes, train: RowBlocks, rows: int, settings: Settings) -> list[list[int]]:
    """Return the chains in groups to be trained one after the other.

    Minibatches are drawn from all rows, so that all of train is held, in its own precision; beside
    it the best coefficients of every probe, and what the probes in training need.

    Arguments:
        axes: all probes.
        train: all rows.
        rows: rows picked at a time.
        settings: memory, and where.

    Raises:
        MemoryBudgetError: not even one chain fits; the message says how much would do.
    """
    stored, dtype = precision(train)
    item, width = np.dtype(dtype).itemsize, train.n_features + 1
    outputs = train.n_classes or targets_of(train)
    layouts = [_layout_of(axes, chain, outputs) for chain in range(len(axes.chains))]
    # rows, labels and orders; a block as it is read, and one ahead; a piece as it is picked,
    # cast and transposed; the best coefficients
    held = validation_of(train)
    rows_held = train.n_rows + (held.n_rows if held is not None else 0)
    fixed = (rows_held + 2 * train.block_rows) * (np.dtype(stored).itemsize * width + 40)
    fixed += item * (4 * rows * width + sum(layout.entries for layout in layouts))
    memory, there = settings.memory, settings.backend.device == "cuda"
    costs = {layout: _cost(layout, rows, item, there) for layout in layouts}
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


def _cost(layout: Layout, rows: int, item: int, there: bool) -> int:
    """Return the bytes that one chain in training takes.

    Its coefficients, their momentum, what a device knows of their prefixes, and a copy while the
    best are kept; its rows of a piece, the logits of these, and as much twice again for what is
    made of logits; on a device a recorded step has a piece of its own.
    """
    piece = rows * (layout.sizes[-1] + 3 * layout.columns)
    return item * (4 * layout.entries + (1 + there) * piece)


def fit(
    train: RowBlocks,
    chains: Sequence[Chain],
    penalties: Sequence[float],
    settings: Settings,
    options: SGD = SGD(),  # noqa: B008
) -> "SgdFit":
    """Return every probe, a linear layer trained by minibatch SGD on the mean cross-entropy.

    The steps are those of `torch.optim.SGD`: with g the gradient of a minibatch's mean loss,
    v = momentum v + g + l2 w and w = w - lr v, for biases as for weights, so that a penalty is a
    weight decay. Layers start as `torch.nn.Linear` does, all of one size alike unless `one_start`
    is false and each starts under its chain's seed. Features are raw: neither centred nor scaled,
    whatever `settings.standardize` says. All probes see the same minibatches. Of rows in several
    views each epoch shows one, drawn for it. The best epoch is chosen on the validation rows that
    train has (`featstore.probe.splits.WithValidation`), or else on `val_fraction` of train rows.

    Raises:
        UsageError: a penalty makes weights grow; or the process is one of several.
        DataError: train cannot be probed.
        MemoryBudgetError: the train rows and one chain's probes do not fit into memory.

    Reference:
        Nanda et al., "Diffused Redundancy in Pre-trained Representations", NeurIPS 2023.
    """
    if world() > 1:
        raise UsageError(
            f"solver sgd takes every step on all probes in one process, and here are {world()}: "
            "run it without a launcher, or run other seeds in each process, alone"
        )
    for l2 in penalties:
        if l2 >= options.largest_decay:
            raise UsageError(
                f"l2 is {l2:g}: as weight decay at lr {options.lr:g} and momentum "
                f"{options.momentum:g} it makes weights grow step by step: give less than "
                f"{options.largest_decay:.3g}"
            )
    return SgdFit(train, Axes(tuple(chains), tuple(penalties)), options, settings)


def departures(
    train: RowBlocks,
    validation: RowBlocks | None = None,
    options: SGD = SGD(),  # noqa: B008
) -> list[str]:
    """Return in which respects a training departs from the released code, a sentence each.

    Arguments:
        train: the rows to be trained on.
        validation: the rows of their own by which epochs are chosen, if there are some.
        options: of the training; its penalty is not looked at.

    Example:
        >>> from featstore.probe.rows import ArrayBlocks
        >>> rows = ArrayBlocks(np.eye(4, dtype=np.float16), [0, 1, 0, 1])
        >>> for line in departures(rows, options=SGD(lr=0.5)):
        ...     print(line)
        not as released: train images look the same in every epoch, where they were augmented anew
        not as released: features are stored as float16, where they were float32
        not as released: minibatches and the start of layers are drawn by generators of their own
        not as released: lr is 0.5, where it was 0.1
    """
    views, stored = views_of(train), precision(train)[0]
    augmented = "where they were augmented anew"
    found = [
        f"train images look the same in every epoch, {augmented}"
        if views == 1
        else f"train images are shown in {views} stored views, {augmented} in every epoch"
    ]
    if stored != "float32":
        found.append(f"features are stored as {stored}, where they were float32")
    found.append("minibatches and the start of layers are drawn by generators of their own")
    for field in own_fields(SGD):
        unused = validation is not None and field.name in ("val_fraction", "split_seed")
        given = getattr(options, field.name)
        # it trained for 50 epochs where it did not for 100
        as_released = (50, 100) if field.name == "epochs" else (field.default,)
        if given not in as_released and not unused:
            found.append(f"{field.name} is {given}, where it was {field.default}")
    return [f"not as released: {line}" for line in found]


class SgdFit(Fitted):
    """Probes trained by SGD, those of chains with the same prefix sizes in the same steps.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), rows of each class, validation included; of several labels (0,).
        facts: "status", (P,) "ok" or "diverged"; "best_epoch", int64 (P,), counted from 1;
            "val_accuracy" and "train_loss", float64 (P,), those of that epoch.
        losses: float64 (epochs, P), mean minibatch loss of each epoch.
        val_accuracies: float64 (epochs, P), on the validation part after each epoch; NaN where
            there is no validation.
    """

    def __init__(self, train: RowBlocks, axes: Axes, options: SGD, settings: Settings):
        self.axes, self.n_features, self.n_train = axes, train.n_features, train.n_rows
        self.n_targets, self.class_counts = targets_of(train), counts_of(train)
        self._settings, self._options, self._dtype = settings, options, precision(train)[1]
        outputs = n_outputs(self)
        images, own = train.n_rows // views_of(train), validation_of(train)
        groups = groups_of(train)
        if own is None and groups is not None:
            share, seed = options.val_fraction, options.split_seed
            (parts,) = grouped_parts(train.labels()[:images], groups[:images], share, seed)
        elif own is None:
            parts = random_parts(images, options.val_fraction, options.split_seed)
        else:
            parts = Parts(np.arange(images), np.arange(own.n_rows))
        self._groups = grouped(axes, train, options.rows, settings)
        data = samples(train, settings.backend, options.rows)
        held = data if own is None else samples(own, settings.backend, options.rows, "validation")
        self._trained: list[Trained] = []
        for group in self._groups:
            layout = _layout_of(axes, group[0], outputs)
            chains = [axes.chains[number] for number in group]
            stack = stacked(
                chains, layout, train.n_features, settings.backend, self._dtype, options.one_start
            )
            decay = np.tile(np.repeat(axes.penalties, outputs), len(layout.sizes))
            decay = settings.backend.put(decay, self._dtype)
            self._trained.append(
                _train_probes(stack, data, held, parts, options, decay, self._report)
            )
        self.losses = self._by_probe([trained.losses for trained in self._trained])
        self.val_accuracies = self._by_probe([trained.accuracies for trained in self._trained])
        best = self._by_probe([trained.best_epoch[None] for trained in self._trained])
        finite = np.isfinite(self.losses).all(axis=0)
        self.facts = {
            "status": np.where(finite, Status.OK, Status.DIVERGED),
            "best_epoch": best[0],
            "val_accuracy": np.take_along_axis(self.val_accuracies, best - 1, axis=0)[0],
            "train_loss": np.take_along_axis(self.losses, best - 1, axis=0)[0],
        }

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every test row to `scores`."""
        backend, done, nothing = self._settings.backend, 0, np.zeros(self.n_features)
        pieces = gathered(test, self._options.rows, backend, self._dtype, nothing, "test")
        for piece, labels in pieces:
            features = with_constant(piece, backend, self._dtype)
            for group, trained in zip(self._groups, self._trained, strict=True):
                with full_precision():
                    logits = trained.stack.logits(trained.stack.rows(features))
                for chain, one in zip(group, logits, strict=True):
                    by_probe = array_namespace(one).permute_dims(one, (1, 0, 2))
                    scores.add(self._probes(chain), by_probe, labels)
            scores.finish(labels)
            done += len(labels)
            self._settings.progress("test rows", done, test.n_rows)

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe, of its best epoch; mean 0 and scale 1."""
        axes, k = self.axes, int(self.axes.size[probe])
        chain, prefix, penalty = axes.chain[probe], axes.prefix[probe], axes.penalty[probe]
        number = next(n for n, group in enumerate(self._groups) if chain in group)
        position = self._groups[number].index(chain)
        layer = self._trained[number].stack.probe(position, int(prefix), int(penalty))
        bias, coef = layer[0].astype(np.float64), layer[1:].astype(np.float64)
        return Weights.from_standardized(axes.features(probe), coef, bias, np.zeros(k), np.ones(k))

    def _probes(self, chain: int) -> np.ndarray:
        """Return the probes of a chain as its stack has them: by prefix, then by penalty."""
        by_penalty = [self.axes.prefixes(chain, r) for r in range(len(self.axes.penalties))]
        return np.array(by_penalty).T.reshape(-1)

    def _by_probe(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Return arrays (n, S, G), one a group, as one (n, P)."""
        out = np.empty((len(arrays[0]), len(self.axes)), arrays[0].dtype)
        for group, array in zip(self._groups, arrays, strict=True):
            for position, chain in enumerate(group):
                out[:, self._probes(chain)] = array[:, position]
        return out

    def _report(self, epoch: int) -> None:
        done = len(self._trained) * self._options.epochs + epoch
        self._settings.progress("epochs", done, len(self._groups) * self._options.epochs)

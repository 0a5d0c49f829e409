"""Softmax probes trained by SGD, as the paper does."""

from collections.abc import Sequence

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import full_precision
from featstore.probe.errors import UsageError
from featstore.probe.memory import Settings, world
from featstore.probe.metrics import LogitSink
from featstore.probe.rows import RowBlocks, validation_of, views_of
from featstore.probe.solvers.options import SGD, own_fields
from featstore.probe.solvers.sgd.training import (
    Trained,
    grouped,
    layout_of,
    precision,
    samples,
    stacked,
    train_probes,
    with_constant,
)
from featstore.probe.solvers.weights import Fitted, Weights
from featstore.probe.splits import Parts, random_parts
from featstore.probe.streams import gathered
from featstore.probe.subsets import Axes, Chain

REMEDIES = {
    "diverged": "the loss is not finite any more, since the steps are too long for features of "
    "this size: give a smaller lr, or divide the features by a constant",
}


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
    is false and each starts under its chain's seed. Features are raw:
    neither centred nor scaled, whatever `settings.standardize` says. All probes see the same
    minibatches. Of rows in several views each epoch shows one, drawn for it. The best epoch is
    chosen on the validation rows that train has (`featstore.probe.splits.WithValidation`), or else
    on `val_fraction` of the train rows.

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
        f"train images look the same in every epoch, {augmented}" if views == 1 else
        f"train images are shown in {views} stored views, {augmented} in every epoch"
    ]  # fmt: skip
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
        class_counts: int64 (C,), train rows of each class, the validation part included.
        facts: "status", (P,) "ok" or "diverged"; "best_epoch", int64 (P,), counted from 1;
            "val_accuracy" and "train_loss", float64 (P,), those of that epoch.
        losses: float64 (epochs, P), mean minibatch loss of each epoch.
        val_accuracies: float64 (epochs, P), on the validation part after each epoch; NaN where
            there is no validation.
    """

    def __init__(self, train: RowBlocks, axes: Axes, options: SGD, settings: Settings):
        self.axes, self.n_features = axes, train.n_features
        self.class_counts = np.bincount(train.labels(), minlength=train.n_classes)
        self._settings, self._options = settings, options
        self._dtype = precision(train)[1]
        images, own = train.n_rows // views_of(train), validation_of(train)
        if own is None:
            parts = random_parts(images, options.val_fraction, options.split_seed)
        else:
            parts = Parts(np.arange(images), np.arange(own.n_rows))
        self._groups = grouped(axes, train, options.rows, settings.memory)
        data = samples(train, settings.backend, options.rows)
        held = data if own is None else samples(own, settings.backend, options.rows, "validation")
        self._trained: list[Trained] = []
        for group in self._groups:
            layout = layout_of(axes, group[0], train.n_classes)
            chains = [axes.chains[number] for number in group]
            stack = stacked(chains, layout, train.n_features, settings.backend, self._dtype,
                            options.one_start)  # fmt: skip
            decay = np.tile(np.repeat(axes.penalties, train.n_classes), len(layout.sizes))
            decay = settings.backend.put(decay, self._dtype)
            self._trained.append(
                train_probes(stack, data, held, parts, options, decay, self._report)
            )
        self.losses = self._by_probe([trained.losses for trained in self._trained])
        self.val_accuracies = self._by_probe([trained.accuracies for trained in self._trained])
        best = self._by_probe([trained.best_epoch[None] for trained in self._trained])
        finite = np.isfinite(self.losses).all(axis=0)
        self.facts = {
            "status": np.where(finite, "ok", "diverged"),
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

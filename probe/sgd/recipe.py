"""How stochastic gradient descent goes: rates, epochs, minibatches; the paper's by default."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from probe.errors import UsageError
from probe.validation import check_share


@dataclass(frozen=True)
class Recipe:
    """The options of a training by SGD, as the paper's released code sets them.

    Attributes:
        lr: learning rate of the first epoch.
        momentum: share of the last step that is kept (no dampening, not Nesterov's).
        epochs: passes over the train part.
        step_every: epochs after which the rate falls; None for a fifth of all, which is the
            paper's 20 of 100 and 10 of 50.
        gamma: what the rate is multiplied by then.
        batch_size: rows of a minibatch; the last of an epoch takes what is left.
        val_fraction: share of the train rows to choose the epoch by, where none are there for it.
        split_seed: of the draw of the validation part.
        order_seed: of the order of the rows, and of the view that each is shown in, drawn anew
            for each epoch.
        validate_every: the epochs among which the best one is chosen: each fifth, and the last.
        one_start: whether all seeds start from the layer of one draw, as the paper's do.

    Reference:
        Nanda et al., "Diffused Redundancy in Pre-trained Representations", NeurIPS 2023.
    """

    lr: float = 0.1
    momentum: float = 0.9
    epochs: int = 100
    step_every: int | None = None
    gamma: float = 0.1
    batch_size: int = 256
    val_fraction: float = 0.1
    split_seed: int = 0
    order_seed: int = 0
    validate_every: int = 5
    one_start: bool = True

    def __post_init__(self):
        for name in ("epochs", "batch_size", "step_every", "validate_every"):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < 1):
                raise UsageError(f"{name} is {value}: a whole number of at least 1 is wanted")
        for name in ("lr", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}: a positive number is wanted")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}: it lies in [0, 1)")
        check_share(self.val_fraction)

    @property
    def rows(self) -> int:
        """Rows that are picked together: a minibatch, or 256 where no step is taken."""
        return max(256, self.batch_size)

    @property
    def largest_decay(self) -> float:
        """The weight decay from which on v = m v + decay w, w = w - lr v lets weights grow."""
        return 2 * (1 + self.momentum) / self.lr

    def validated(self, epoch: int) -> bool:
        """Return whether the probes are validated after an epoch, counted from 1."""
        return epoch % self.validate_every == 0 or epoch == self.epochs

    def rates(self) -> list[float]:
        """Return the learning rate of each epoch, falling as `torch.optim.lr_scheduler.StepLR`.

        Example:
            >>> Recipe(epochs=5, step_every=2).rates()
            [0.1, 0.1, 0.010000000000000002, 0.010000000000000002, 0.0010000000000000002]
        """
        every = self.step_every or max(1, self.epochs // 5)
        rates = [self.lr]
        for epoch in range(1, self.epochs):
            rates.append(rates[-1] * (1.0 if epoch % every else self.gamma))
        return rates

    def orders(self, n_rows: int) -> Iterator[np.ndarray]:
        """Yield the order of the rows in each epoch, int64 (N,): one generator for all epochs."""
        generator = torch.Generator().manual_seed(self.order_seed)
        for _ in range(self.epochs):
            yield torch.randperm(n_rows, generator=generator).numpy()

    def views(self, n_rows: int, n_views: int) -> Iterator[np.ndarray]:
        """Yield the view that each row is shown in in each epoch, int64 (N,), drawn evenly."""
        generator = torch.Generator().manual_seed(self.order_seed)
        for _ in range(self.epochs):
            yield torch.randint(n_views, (n_rows,), generator=generator).numpy()

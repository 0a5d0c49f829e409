"""The solvers by name, and what each must offer: fit once, then score and weights of any probe."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from probe import lda, prefixes, ridge, sgd
from probe.axes import Axes
from probe.blocks import RowBlocks
from probe.chains import Chain
from probe.errors import UsageError
from probe.metrics import Scores
from probe.settings import Settings
from probe.weights import Weights


class Fitted(Protocol):
    """All probes of a fit, solved.

    Attributes:
        axes: which probe is which.
        n_features: D of the layer.
        class_counts: int64 (C,), train rows of each class.
        facts: a column of values, one a probe, for each thing known without test rows. "status"
            is always among them; a solver adds its own ("objective", "iterations", ...).
    """

    axes: Axes
    n_features: int
    class_counts: np.ndarray
    facts: Mapping[str, np.ndarray]

    def score(self, test: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every test row to `scores`, block by block."""

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""


class Fit(Protocol):
    """Solves every probe; keyword-only arguments after `settings` are the solver's options."""

    def __call__(
        self,
        train: RowBlocks,
        chains: Sequence[Chain],
        penalties: Sequence[float],
        settings: Settings,
        **options: Any,
    ) -> Fitted:
        """Return all probes of these chains and penalties, solved."""


@dataclass(frozen=True)
class Solver:
    """One entry of the registry.

    Attributes:
        fit: solves all probes.
        remedies: for each status that means failure, a sentence of cause and remedy.
        seeded: whether a probe depends on its chain's seed by more than the order of features;
            if not, the whole layer is solved once for all seeds.
        zero_penalty: whether l2 = 0 is allowed.
        default_l2: the penalty if none is given.
        probabilities: whether the softmax of the logits are class probabilities, so that
            likelihood and calibration mean something.
    """

    fit: Fit
    remedies: Mapping[str, str] = field(default_factory=dict)
    seeded: bool = False
    zero_penalty: bool = True
    default_l2: float = 1e-3
    probabilities: bool = True

    def options(self) -> tuple[str, ...]:
        """Return the names of the solver's own options."""
        parameters = inspect.signature(self.fit).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


SOLVERS: dict[str, Solver] = {
    "ridge": Solver(ridge.fit, prefixes.REMEDIES, probabilities=False),
    "lda": Solver(lda.fit, prefixes.REMEDIES),
    "sgd": Solver(sgd.fit, sgd.REMEDIES, seeded=True, default_l2=sgd.WEIGHT_DECAY),
}


def solver_named(name: str, options: Mapping[str, Any] | None = None) -> Solver:
    """Return the solver of that name, having checked that it knows the options.

    Raises:
        UsageError: no solver has the name, or it has no such option.
    """
    if name not in SOLVERS:
        raise UsageError(f"no solver is called {name!r}: there are {', '.join(SOLVERS)}")
    entry = SOLVERS[name]
    known = entry.options()
    for option in options or {}:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"solver {name} has no option {option!r}: {has}")
    return entry

"""Several fits as one: probes that were solved apart, under one numbering."""

from collections.abc import Mapping, Sequence

import numpy as np

from probe.arrays import Array
from probe.axes import Axes
from probe.blocks import RowBlocks
from probe.errors import UsageError
from probe.metrics import Scores
from probe.solvers import Fitted, n_targets, n_train
from probe.weights import Weights


class Joined:
    """The probes of several fits of the same train rows.

    Attributes:
        axes: which probe is which.

    Arguments:
        axes: P probes.
        parts: the fits; None for probes whose rows were read from a file, unsolved here.
        numbers: for each part, int64 (p,), the number of each of its probes among the P.
        facts: columns (P,) that are not the parts' own.
    """

    def __init__(
        self,
        axes: Axes,
        parts: Sequence[Fitted | None],
        numbers: Sequence[np.ndarray],
        facts: Mapping[str, np.ndarray] | None = None,
    ):
        self.axes = axes
        self._parts, self._numbers = list(parts), list(numbers)
        self._part = np.empty(len(axes), np.int64)
        self._within = np.empty(len(axes), np.int64)
        for part, probes in enumerate(self._numbers):
            self._part[probes] = part
            self._within[probes] = np.arange(len(probes))
        self._further = dict(facts or {})

    @property
    def facts(self) -> dict[str, np.ndarray]:
        """What is known of each probe without test rows."""
        return {**self._gathered(), **self._further}

    @property
    def n_features(self) -> int:
        """D of the layer."""
        return self._any.n_features

    @property
    def class_counts(self) -> np.ndarray:
        """Train rows of each class, int64 (C,)."""
        return self._any.class_counts

    @property
    def n_train(self) -> int:
        """N of train."""
        return n_train(self._any)

    @property
    def n_targets(self) -> int:
        """T, or 0 where labels are classes."""
        return n_targets(self._any)

    @property
    def _any(self) -> Fitted:
        return self._solved(next((part for part in self._parts if part is not None), None))

    def score(self, test: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every test row to `scores`, part after part."""
        for part, probes in zip(self._parts, self._numbers, strict=True):
            self._solved(part).score(test, _Renumbered(scores, probes))
            release(part)

    def solve(self, probes: np.ndarray, starts: Mapping[int, np.ndarray] | None = None) -> None:
        """Solve some probes, of parts that solve what they are asked for."""
        for part, numbers in zip(self._parts, self._numbers, strict=True):
            within = np.flatnonzero(np.isin(numbers, probes))
            known = {n: starts[numbers[n]] for n in within.tolist() if numbers[n] in (starts or {})}
            part.solve(within, known)

    def solution(self, probe: int) -> np.ndarray | None:
        """Return where such a probe has ended."""
        return self._parts[self._part[probe]].solution(int(self._within[probe]))

    def forget(self, kept: np.ndarray) -> None:
        """Drop all solutions but those of these probes."""
        for part, numbers in zip(self._parts, self._numbers, strict=True):
            part.forget(np.flatnonzero(np.isin(numbers, kept)))

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        part = self._solved(self._parts[self._part[probe]])
        return part.weights(int(self._within[probe]))

    def release(self) -> None:
        """Let go of what the parts can make again."""
        for part in self._parts:
            release(part)

    def _gathered(self) -> dict[str, np.ndarray]:
        if None in self._parts:
            return {}
        facts = {}
        for name in self._parts[0].facts:
            values = np.concatenate([part.facts[name] for part in self._parts])
            facts[name] = np.empty_like(values)
            facts[name][np.concatenate(self._numbers)] = values
        return facts

    def _solved(self, part: Fitted | None) -> Fitted:
        if part is None:
            raise UsageError(
                "some probes were read from the results file and have no weights here: "
                "run again without resume"
            )
        return part


class Taken:
    """Some probes of a fit, under another numbering.

    Arguments:
        axes: n probes.
        fitted: a fit of more.
        numbers: int64 (n,), the number there of each of them.
        facts: columns (n,) that are not the fit's own.
    """

    def __init__(
        self, axes: Axes, fitted: Fitted, numbers: np.ndarray, facts: Mapping[str, np.ndarray]
    ):
        self.axes, self._fitted, self._numbers = axes, fitted, numbers
        self.n_features, self.class_counts = fitted.n_features, fitted.class_counts
        self.n_train, self.n_targets = n_train(fitted), n_targets(fitted)
        own = {name: values[numbers] for name, values in fitted.facts.items()}
        self.facts = {**own, **facts}
        self._own = np.full(len(fitted.axes), -1)
        self._own[numbers] = np.arange(len(numbers))

    def score(self, test: RowBlocks, scores: Scores) -> None:
        """Feed the logits of every probe on every test row to `scores`."""
        self._fitted.score(test, _Renumbered(scores, self._own))

    def weights(self, probe: int) -> Weights:
        """Return the affine map of one probe."""
        return self._fitted.weights(int(self._numbers[probe]))

    def release(self) -> None:
        """Let go of what can be made again."""
        release(self._fitted)


class _Renumbered:
    """Scores of a part's probes under their numbers in the whole."""

    def __init__(self, scores: Scores, numbers: np.ndarray):
        self.finish = scores.finish
        self._scores, self._numbers = scores, numbers

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        self._scores.add(self._numbers[probes], logits, labels)


def release(fitted: Fitted | None) -> None:
    """Let go of what a fit holds only so as not to compute it again."""
    if hasattr(fitted, "release"):
        fitted.release()

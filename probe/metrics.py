"""Scores with a leading probe axis, summed over row blocks as the logits go by."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace, device

from probe.accuracy import Accuracy
from probe.arrays import Array, to_host
from probe.by_row import RowScores, RowSink
from probe.calibration import Calibration
from probe.errors import UsageError
from probe.kernels import Judged, judged
from probe.ranks import all_sum
from probe.regression import Errors, Regression, errors
from probe.top5 import TopFive


class Metric(Protocol):
    """Scores accumulated: `add` for each (probes, rows) piece, `finish` after each set of rows.

    Rows come in sets; within a set every probe is added exactly once, in any grouping.
    """

    @property
    def sums(self) -> list[np.ndarray]:
        """The arrays that add up over rows."""

    def add(self, probes: np.ndarray, stand: Judged | Errors) -> None:
        """Take where the labels stand among the logits of these probes, (p, rows)."""

    def finish(self, labels: Array) -> None:
        """Take note that the set of rows with these labels is over."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns of the result table, one value a probe."""


METRICS: dict[str, Callable[..., Metric]] = {
    "accuracy": Accuracy,
    "mean_per_class": Accuracy,
    "top5": TopFive,
    "nll": Calibration,
    "ece": Calibration,
    "r2": Regression,
    "mse": Regression,
    "mae": Regression,
}

OF_TARGETS = ("r2", "mse", "mae")
"""Metrics of predicted numbers; the others are of predicted classes."""

OF_PROBABILITIES = ("nll", "ece")
"""Metrics that are NaN for a solver whose logits are not log-probabilities."""


def check_metrics(names: Sequence[str]) -> None:
    """Raise UsageError unless there is a metric of every name."""
    for name in names:
        if name not in METRICS:
            raise UsageError(f"no metric is called {name!r}: there are {', '.join(METRICS)}")


def metrics_of(names: Sequence[str] | None, targets: bool) -> tuple[str, ...]:
    """Return the names of metrics, by default accuracy, or R^2 where labels are targets.

    Raises:
        UsageError: there is no metric of some name, or it is not of such labels.
    """
    if names is None:
        return ("r2",) if targets else ("accuracy",)
    check_metrics(names)
    for name in names:
        if (name in OF_TARGETS) != targets:
            fitting = [known for known in METRICS if (known in OF_TARGETS) == targets]
            raise UsageError(
                f"metric {name} does not go with labels that are "
                f"{'numbers' if targets else 'classes'}: there are {', '.join(fitting)}"
            )
    return tuple(names)


class Scores:
    """Several metrics fed together.

    A solver calls `add` for each group of probes on a set of rows, then `finish`, then goes on
    with the next rows. Sets are split by probes or by rows as suits it: `finish` closes the rows
    of the probes added since the last one.

    Arguments:
        n_probes: P.
        n_classes: C.
        names: keys of METRICS, the columns wanted.
        probabilities: whether softmax of the logits is a probability; if not, the metrics
            `OF_PROBABILITIES` are NaN.
        rows: room for the part of each row in accuracy or R^2, one of which is among `names`.
        start: the number of the first row that comes, of several processes.
        train_counts: int64 (C,), train rows of each class. One without any is no class: its logit
            is left out of probabilities and ranks, and top-5 does not count it.

    Raises:
        UsageError: there is no metric of some name.
    """

    def __init__(
        self,
        n_probes: int,
        n_classes: int,
        names: Sequence[str] = ("accuracy",),
        probabilities: bool = True,
        rows: RowScores | None = None,
        start: int = 0,
        train_counts: np.ndarray | None = None,
    ):
        check_metrics(names)
        self.n_probes, self.n_classes, self.names = n_probes, n_classes, tuple(names)
        self._present = None
        if train_counts is not None and len(train_counts) and not train_counts.all():
            self._present = np.flatnonzero(train_counts)
            self._places = np.cumsum(train_counts > 0) - 1
        n_present = n_classes if self._present is None else len(self._present)
        computed = [name for name in names if probabilities or name not in OF_PROBABILITIES]
        # metrics that come from the same sums are summed once
        kinds = dict.fromkeys(METRICS[name] for name in computed)
        self._sink = None if rows is None else RowSink(rows, start)
        self.metrics: list[Metric] = [
            kind(n_probes, n_classes, self._sink)
            if kind in (Accuracy, Regression)
            else kind(n_probes, n_present)
            for kind in kinds
        ]
        self._compare = errors if set(names) & set(OF_TARGETS) else judged
        self._broken = np.zeros(n_probes, np.int64)
        self._finite: list[tuple[np.ndarray, Array]] = []

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take logits (p, rows, C), any float dtype and strides, and labels (rows,) int64.

        Predicted numbers (p, rows, T) come with targets, float64 (rows,) or (rows, T); the same
        may have been subtracted from both.

        `probes` (p,) int64 says which probes they are of.
        """
        if self._present is not None:
            xp = array_namespace(logits)
            where = {"device": device(logits)}
            logits = xp.take(logits, xp.asarray(self._present, **where), axis=-1)
            labels = xp.take(xp.asarray(self._places, **where), labels, axis=0)
        # once for all metrics, which a kernel works out in one pass over the logits
        stand = self._compare(logits, labels)
        for metric in self.metrics:
            metric.add(probes, stand)
        self._finite.append((probes, stand.finite))

    def finish(self, labels: Array) -> None:
        """Close the set of rows with these labels."""
        for metric in self.metrics:
            metric.finish(labels)
        if self._finite:
            probes = np.concatenate([numbers for numbers, _ in self._finite])
            together = array_namespace(labels).concat([finite for _, finite in self._finite])
            self._broken[probes] += ~to_host(together)
            self._finite.clear()

    @property
    def not_finite(self) -> np.ndarray:
        """Probes with a row whose logits, or predicted numbers, are no finite numbers, bool (P,).

        A row of which nothing can be told is not missed: the scores of such a probe are NaN.
        """
        return self._broken > 0

    def gather(self) -> None:
        """Add up the sums of all processes, each of which has scored its own rows."""
        all_sum(self._broken)
        for metric in self.metrics:
            all_sum(*metric.sums)
        if self._sink:
            self._sink.gather()
            for metric in self.metrics:
                if isinstance(metric, Regression):
                    metric.close()

    def columns(self) -> dict[str, np.ndarray]:
        """Return the wanted columns, one value a probe."""
        known = {k: v for metric in self.metrics for k, v in metric.columns().items()}
        unknown = np.full(self.n_probes, np.nan)
        told = {name: known.get(name, unknown) for name in self.names}
        return {name: np.where(self.not_finite, np.nan, values) for name, values in told.items()}

    def per_class(self) -> np.ndarray | None:
        """Return the accuracy on each class, float64 (P, C), if accuracy is among the metrics."""
        hits = [metric for metric in self.metrics if isinstance(metric, Accuracy)]
        if not hits:
            return None
        return np.where(self.not_finite[:, None], np.nan, hits[0].per_class())

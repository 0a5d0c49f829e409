"""Metrics: what is counted while logits go by."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace, device

from featstore.probe.arrays import Array, at_labels, to_host
from featstore.probe.confusion import Accuracy, Agreement, AmongFirst, SeveralLabels, Told, told
from featstore.probe.errors import UsageError
from featstore.probe.kernels import judged
from featstore.probe.kernels.reference import Judged, residuals_of_labels
from featstore.probe.memory import all_sum, share
from featstore.probe.results import FIRST_FEW
from featstore.probe.results.evidence import RowScores, RowSink
from featstore.probe.rows import RowBlocks

_BINS = 15


class Calibration:
    """Negative log-likelihood, and expected calibration error of the top probability.

    With p = softmax(logits), `nll` is the mean of -log p[label] in nats, and

        ece = sum_b |sum over the rows of bin b of (hit - max p)| / N

    over 15 bins (i/15, (i+1)/15] of max p; a hit is as in `Accuracy`. Both speak of probabilities:
    of a least-squares score there are none, so `Scores` gives NaN for solvers without them.

    Attributes:
        surprise: float64 (P,), sum over rows of -log p[label].
        gaps: float64 (P, 15), sum over the rows of each bin of hit - max p.
        rows: int64 (P,), rows that each probe has seen.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """

    fact = ""
    sink: RowSink | None = None

    def __init__(self, n_probes: int, n_classes: int):
        self.surprise = np.zeros(n_probes)
        self.gaps = np.zeros((n_probes, _BINS))
        self.rows = np.zeros(n_probes, np.int64)

    @property
    def sums(self) -> list[np.ndarray]:
        """Return the sums over rows."""
        return [self.surprise, self.gaps, self.rows]

    def add(self, probes: np.ndarray, stand: Judged) -> None:
        """Sum -log p[label] and the gaps of each bin; sums are float64."""
        confidence = stand.confidence
        xp = array_namespace(confidence)
        gap = xp.astype(stand.among_first(1), xp.float64) - confidence
        bins = xp.ceil(confidence * _BINS) - 1
        binned = [
            xp.sum(xp.where(bins == b, gap, xp.zeros_like(gap)), axis=1) for b in range(_BINS)
        ]
        self.surprise[probes] += to_host(xp.sum(stand.surprise, axis=1))
        self.gaps[probes] += to_host(xp.stack(binned, axis=1))
        self.rows[probes] += stand.n_rows

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are summed as they come."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"nll": ..., "ece": ...}, float64 (P,) each."""
        nll = self.surprise / self.rows
        ece = np.abs(self.gaps).sum(1) / self.rows
        # logits that are not finite fall into no bin
        return {"nll": nll, "ece": np.where(np.isfinite(nll), ece, np.nan)}


@dataclass(frozen=True)
class Errors:
    """Errors of predicted numbers.

    Attributes:
        off: float64 (p, rows, T), what is predicted less the target.
        targets: float64 (rows, T).
    """

    off: Array
    targets: Array

    @property
    def finite(self) -> Array:
        """Return whether everything that a probe predicts is a finite number, bool (p,)."""
        xp = array_namespace(self.off)
        return xp.all(xp.isfinite(self.off), axis=(1, 2))


def errors(predicted: Array, targets: Array) -> Errors:
    """Return the errors of predictions (p, rows, T) of targets, float64 (rows,) or (rows, T)."""
    xp = array_namespace(predicted)
    targets = xp.reshape(targets, (predicted.shape[1], -1))
    return Errors(xp.astype(predicted, xp.float64) - targets, targets)


class Regression:
    """Errors of T predicted numbers f against targets y, summed over rows in float64.

    Three columns, each the plain mean over the targets:

        r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2,   mse = mean (y - f)^2,   mae = mean |y - f|

    with the mean of y over the rows that are scored. A target that is the same in all of them has
    an r2 of NaN.

    Attributes:
        squares: float64 (P, T), sum of (y - f)^2.
        magnitudes: float64 (P, T), sum of |y - f|.
        first, second: float64 (P, T), sums of y and of y^2.
        rows: int64 (P,), rows that each probe has seen.
        sink: takes the part of each row in R^2; None where that is not kept.
    """

    fact = "r2"
    sink: RowSink | None = None

    def __init__(self, n_probes: int, n_targets: int):
        self.squares, self.magnitudes = np.zeros((2, n_probes, n_targets))
        self.first, self.second = np.zeros((2, n_probes, n_targets))
        self.rows = np.zeros(n_probes, np.int64)

    @property
    def sums(self) -> list[np.ndarray]:
        """Return the sums over rows."""
        return [self.squares, self.magnitudes, self.first, self.second, self.rows]

    def add(self, probes: np.ndarray, stand: "Errors") -> None:
        """Sum what these probes are off by, and what the targets are."""
        off, targets = stand.off, stand.targets
        xp = array_namespace(off)
        self.squares[probes] += to_host(xp.sum(off * off, axis=1))
        self.magnitudes[probes] += to_host(xp.sum(xp.abs(off), axis=1))
        self.first[probes] += to_host(xp.sum(targets, axis=0))
        self.second[probes] += to_host(xp.sum(targets * targets, axis=0))
        self.rows[probes] += len(targets)
        if self.sink:
            self.sink.add(probes, (to_host(off) ** 2 / self._variance).mean(2))

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are summed as they come."""

    @cached_property
    def _squares_of_targets(self) -> np.ndarray:
        """Squares of the targets less their means, float64 (n, T), of all rows of the sink."""
        targets = self.sink.rows.labels.reshape(len(self.sink.rows.labels), -1)
        return (targets - targets.mean(0)) ** 2

    @cached_property
    def _variance(self) -> np.ndarray:
        variance = self._squares_of_targets.mean(0)
        return np.where(variance > 0, variance, np.nan)

    def close(self) -> None:
        """Turn what the sink has of each row into values whose mean is R^2, in place.

        With q = (y - f)^2 / v and d = (y - mean y)^2 / v, v the mean of (y - mean y)^2, R^2 is
        1 - mean q. Of drawn rows v is another, and to first order so is the mean of

            1 - q + (1 - R^2) (d - 1),

        averaged over the targets: its values are R^2 plus each row's influence on it, so that their
        variance over n is the variance of R^2 over test rows.
        """
        missed = self.squares / self.rows[:, None] / self._variance
        kept, deviations = self.sink.rows.kept["r2"], self._squares_of_targets / self._variance
        for probe, part in enumerate(missed):
            further = (deviations - 1) @ part / deviations.shape[1]
            kept[probe] = (1 - kept[probe].astype(np.float64) + further).astype(np.float32)

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"r2": ..., "mse": ..., "mae": ...}, float64 (P,) each."""
        rows = self.rows[:, None]
        around_mean = self.second - self.first**2 / rows
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = 1 - self.squares / np.where(around_mean > 0, around_mean, np.nan)
            mse, mae = self.squares / rows, self.magnitudes / rows
        return {"r2": r2.mean(1), "mse": mse.mean(1), "mae": mae.mean(1)}


class Metric(Protocol):
    """Scores accumulated: `add` for each (probes, rows) piece, `finish` after each set of rows.

    Rows come in sets; within a set every probe is added exactly once, in any grouping.

    Attributes:
        fact: what it knows of each row, as `featstore.probe.results.evidence.fact_of` calls it.
        sink: takes that fact; None where it is not kept.
    """

    fact: str
    sink: RowSink | None

    @property
    def sums(self) -> list[np.ndarray]:
        """The arrays that add up over rows."""

    def add(self, probes: np.ndarray, stand: Judged | Errors | Told) -> None:
        """Take where the labels stand among the logits of these probes, (p, rows)."""

    def finish(self, labels: Array) -> None:
        """Take note that the set of rows with these labels is over."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns of the result table, one value a probe."""


METRICS: dict[str, Callable[..., Metric] | None] = {
    "accuracy": Accuracy,
    "balanced_accuracy": Accuracy,
    "mean_per_class": Accuracy,
    "top5": partial(AmongFirst, first=5),
    "macro_f1": Agreement,
    "weighted_f1": Agreement,
    "kappa": Agreement,
    "auroc": None,
    "average_precision": None,
    "micro_f1": SeveralLabels,
    "label_accuracy": SeveralLabels,
    "subset_accuracy": SeveralLabels,
    "nll": Calibration,
    "ece": Calibration,
    "r2": Regression,
    "mse": Regression,
    "mae": Regression,
}
"""Metrics by name; what is None is read off all rows together, by `featstore.probe.ranking`."""

OF_TARGETS = ("r2", "mse", "mae")
"""Metrics of predicted numbers; the others are of predicted classes, or of several labels."""

OF_SEVERAL = (
    *("auroc", "average_precision", "macro_f1"),
    *("micro_f1", "label_accuracy", "subset_accuracy"),
)
"""Metrics of several labels at once, AUROC, average precision and macro F1 being means over them.

By default all are counted; the first sums a table up."""

OF_CLASSES = tuple(
    name
    for name in METRICS
    if name not in (*OF_TARGETS, "micro_f1", "label_accuracy", "subset_accuracy")
)
"""Metrics of classes, of which each row has one."""

_OF_PROBABILITIES = ("nll", "ece")
"""Metrics that are NaN for a solver whose logits are not log-probabilities."""

OF_RANKS = ("auroc", "average_precision")
"""Metrics for which rows are ranked by each class's score."""


@cache
def _metric_of(name: str) -> Callable[..., Metric] | None:
    """Return what counts a metric, the same for one name; None for one of `OF_RANKS`.

    `top<k>` is the share of rows whose label is among the k largest logits, for any k above 1.

    Raises:
        UsageError: there is no metric of that name.
    """
    if name in METRICS:
        return METRICS[name]
    if FIRST_FEW.fullmatch(name):
        return partial(AmongFirst, first=int(name.removeprefix("top")))
    raise UsageError(
        f"no metric is called {name!r}: there are {', '.join(METRICS)}, and top<k> for every k"
    )


def metrics_of(
    names: str | Sequence[str] | None, targets: bool, several: bool = False
) -> tuple[str, ...]:
    """Return the names of metrics, by default accuracy, or R^2 where labels are targets.

    Arguments:
        names: as they were given; None for the default.
        targets: whether labels are numbers to be predicted.
        several: whether each row has any number of labels.

    Raises:
        UsageError: there is no metric of some name, or it is not of such labels.
    """
    fitting = OF_SEVERAL if several else OF_TARGETS if targets else OF_CLASSES
    if names is None:
        return OF_SEVERAL if several else ("r2",) if targets else ("accuracy",)
    names = (names,) if isinstance(names, str) else names
    for name in names:
        _metric_of(name)
        few = FIRST_FEW.fullmatch(name) and not (several or targets)
        if name not in fitting and not few:
            kind = "several at once" if several else "numbers" if targets else "classes"
            raise UsageError(
                f"metric {name} does not go with labels that are {kind}: there are "
                f"{', '.join(fitting)}"
            )
    return tuple(names)


class LogitSink(ABC):
    """Takes the logits of probes on rows, one set of rows after another.

    A solver calls `add` for each group of probes on a set of rows, then `finish`, then goes on
    with the next rows.
    """

    @abstractmethod
    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take logits (p, rows, C), or predicted numbers (p, rows, T), of the probes (p,) int64.

        `labels` are int64 (rows,), or targets, float64 (rows,) or (rows, T).
        """

    @abstractmethod
    def finish(self, labels: Array) -> None:
        """Take note that the set of rows with these labels is over."""


class PassingSink(LogitSink):
    """Hands what it makes of the logits on to another sink, `self._scores`."""

    def __init__(self, scores: LogitSink):
        self._scores = scores

    def finish(self, labels: Array) -> None:
        """Tell the other sink that the set of rows is over."""
        self._scores.finish(labels)


class Scores(LogitSink):
    """Several metrics fed together.

    A solver calls `add` for each group of probes on a set of rows, then `finish`, then goes on
    with the next rows. Sets are split by probes or by rows as suits it: `finish` closes the rows
    of the probes added since the last one.

    Arguments:
        n_probes: P.
        n_classes: C.
        names: keys of METRICS or top<k>, the columns wanted; of `OF_RANKS` they are NaN here.
        probabilities: whether softmax of the logits is a probability; if not, the metrics
            `_OF_PROBABILITIES` are NaN.
        rows: room for facts of each row that the metrics know.
        start: the number of the first row that comes, of several processes.
        train_counts: int64 (C,), train rows of each class. One without any is no class: its logit
            is left out of probabilities and ranks, and top-5 does not count it.
        above: where each row has any number of labels, the score above which it is given one.

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
        above: float | None = None,
    ):
        kinds = {name: _metric_of(name) for name in names}
        if above is not None:
            kinds = {"several": SeveralLabels}
        self.n_probes, self.n_classes, self.names = n_probes, n_classes, tuple(names)
        self._present = None
        if train_counts is not None and len(train_counts) and not train_counts.all():
            self._present = np.flatnonzero(train_counts)
            self._places = np.cumsum(train_counts > 0) - 1
        n_present = n_classes if self._present is None else len(self._present)
        if not probabilities:
            kinds = {name: kind for name, kind in kinds.items() if name not in _OF_PROBABILITIES}
        self.metrics: list[Metric] = []
        # metrics that come from the same sums are summed once
        for kind in filter(None, dict.fromkeys(kinds.values())):
            if kind is Agreement:
                metric = Agreement(n_probes, n_classes, self._present)
            else:
                metric = kind(n_probes, n_classes if kind in (Accuracy, Regression) else n_present)
            if rows is not None and metric.fact in rows.kept:
                metric.sink = RowSink(rows, start, metric.fact)
            self.metrics.append(metric)
        self._compare = errors if set(names) & set(OF_TARGETS) else judged
        if above is not None:
            self._compare = partial(told, above=above)
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
        for metric in self.metrics:
            if metric.sink:
                metric.sink.gather()
                if isinstance(metric, Regression):
                    metric.close()

    def columns(self) -> dict[str, np.ndarray]:
        """Return the wanted columns, one value a probe."""
        known = {k: v for metric in self.metrics for k, v in metric.columns().items()}
        unknown = np.full(self.n_probes, np.nan)
        told = {name: known.get(name, unknown) for name in self.names}
        return {name: np.where(self.not_finite, np.nan, values) for name, values in told.items()}

    def per_class(self) -> dict[str, np.ndarray]:
        """Return what is known of each class, float64 (P, C) each: "accuracy" and "f1"."""
        names = {Accuracy: "accuracy", Agreement: "f1", SeveralLabels: "f1"}
        found = {}
        for metric in self.metrics:
            if isinstance(metric, SeveralLabels):
                found["accuracy"] = metric.accuracies()
            if type(metric) in names:
                found[names[type(metric)]] = metric.per_class()
        wrong = self.not_finite[:, None]
        return {name: np.where(wrong, np.nan, values) for name, values in found.items()}


class _Scored(Protocol):
    """A fit, which is scored and then let go of."""

    def score(self, test: RowBlocks, scores: LogitSink) -> None:
        """Feed the logits of every probe on every row to `scores`."""

    def release(self) -> None:
        """Let go of what is held only so as not to compute it again."""


class Losses(LogitSink):
    """Losses of probes, summed over rows as logits go by; stands where `Scores` stand.

    Arguments:
        n_probes: P.
        n_outputs: C, or T.
        kind: "log", "squared", "errors" (the share of rows that are missed), "numbers", or
            "labels", the mean over several labels of -log p of whether a row has each.
        variance: float64 (T,), of each target.
    """

    def __init__(self, n_probes: int, n_outputs: int, kind: str, variance: np.ndarray):
        self._kind, self._variance = kind, variance
        self._sums = np.zeros((3, n_probes))  # of losses, hits, rows
        self._regression = Regression(n_probes, n_outputs) if kind == "numbers" else None

    def score(self, fitted: _Scored, rows: RowBlocks, keep: bool = False) -> None:
        """Add the losses of all probes of a fit on all these rows, and release it unless `keep`."""
        mine = Losses(self._sums.shape[1], len(self._variance), self._kind, self._variance)
        fitted.score(share(rows), mine)
        if not keep:
            fitted.release()
        all_sum(*mine.sums)
        for total, own in zip(self.sums, mine.sums, strict=True):
            total += own

    @property
    def sums(self) -> list[np.ndarray]:
        """Return the sums over rows."""
        return self._regression.sums if self._regression else [self._sums]

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take logits (p, rows, C), or predicted numbers, and labels, as `Scores` does."""
        if self._regression:
            self._regression.add(probes, errors(logits, labels))
            return
        if self._kind == "labels":
            xp = array_namespace(logits)
            left = xp.astype(xp.permute_dims(logits, (0, 2, 1)), xp.float64, copy=True)
            right = xp.astype((left > 0) == xp.permute_dims(labels > 0, (1, 0)), xp.float64)
            self._sums[1, probes] += to_host(xp.sum(xp.mean(right, axis=1), axis=1))
            losses = residuals_of_labels(left, labels > 0)
            self._sums[0, probes] += to_host(losses) / labels.shape[1]
            self._sums[2, probes] += len(labels)
            return
        xp, stand = array_namespace(logits), judged(logits, labels)
        hits = stand.among_first(1)
        if self._kind == "log":
            losses = stand.surprise
        elif self._kind == "errors":
            losses = xp.astype(~hits, xp.float64)
        else:
            own = xp.astype(at_labels(logits, labels), xp.float64)
            losses = xp.sum(logits * logits, axis=2, dtype=xp.float64) - 2 * own + 1
        self._sums[0, probes] += to_host(xp.sum(losses, axis=1))
        self._sums[1, probes] += to_host(xp.sum(xp.astype(hits, xp.int64), axis=1))
        self._sums[2, probes] += len(labels)

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are summed as they come."""

    def means(self) -> np.ndarray:
        """Return the mean loss of each probe, float64 (P,)."""
        if self._regression:
            squares = self._regression.squares / self._regression.rows[:, None]
            return (squares / self._variance).mean(1)
        return self._sums[0] / np.where(self._sums[2] > 0, self._sums[2], np.nan)

    def scores(self) -> np.ndarray:
        """Return the accuracy of each probe, or R^2, or the accuracy of labels, float64 (P,)."""
        if self._regression:
            return self._regression.columns()["r2"]
        return self._sums[1] / np.where(self._sums[2] > 0, self._sums[2], np.nan)

"""Metrics: what is counted while logits go by."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace, device

from featstore.probe.arrays import Array, to_host
from featstore.probe.errors import UsageError
from featstore.probe.kernels import judged
from featstore.probe.kernels.reference import Judged
from featstore.probe.memory import all_sum
from featstore.probe.results import FIRST_FEW
from featstore.probe.results.reading import RowScores, RowSink


class Accuracy:
    """The share of rows whose largest logit is their label's; of equal logits the first wins.

    Its columns are `accuracy`, over all rows, and `mean_per_class`, the plain mean over the classes
    that have rows (what Flowers and Pets report), which is called `balanced_accuracy` too.

    Attributes:
        hits: int64 (P, C), rows of each class that each probe gets right.
        counts: int64 (P, C), rows of each class that each probe has seen.
        sink: takes which rows are right; None where that is not kept.
    """

    def __init__(self, n_probes: int, n_classes: int, sink: RowSink | None = None):
        self.sink = sink
        self.hits = np.zeros((n_probes, n_classes), np.int64)
        self.counts = np.zeros((n_probes, n_classes), np.int64)
        self._pending: list[tuple[np.ndarray, Array]] = []

    @property
    def sums(self) -> list[np.ndarray]:
        """Return the sums over rows."""
        return [self.hits, self.counts]

    def add(self, probes: np.ndarray, stand: Judged) -> None:
        """Note which rows each probe gets right; they are counted at the end of the set."""
        self._pending.append((probes, stand.among_first(1)))

    def finish(self, labels: Array) -> None:
        """Count the hits of the set by class, with one product for all probes."""
        if not self._pending:
            return
        xp = array_namespace(labels)
        hits = xp.concat([hit for _, hit in self._pending], axis=0)
        rows = np.concatenate([probes for probes, _ in self._pending])
        classes = xp.arange(self.counts.shape[1], device=labels.device)
        one_hot = xp.astype(labels[:, None] == classes, xp.float32)
        # whole numbers under 2^24: exact in float32
        by_class = to_host(xp.astype(hits, xp.float32) @ one_hot)
        self.hits[rows] += by_class.astype(np.int64)
        if self.sink:
            self.sink.add(rows, to_host(hits))
        self.counts[rows] += to_host(xp.sum(one_hot, axis=0)).astype(np.int64)
        self._pending.clear()

    def columns(self) -> dict[str, np.ndarray]:
        """Return accuracy, mean_per_class and balanced_accuracy, float64 (P,) each."""
        mean = np.nanmean(self.per_class(), axis=1)
        accuracy = self.hits.sum(1) / self.counts.sum(1)
        return {"accuracy": accuracy, "mean_per_class": mean, "balanced_accuracy": mean}

    def per_class(self) -> np.ndarray:
        """Return the accuracy on each class, float64 (P, C); NaN for a class without rows."""
        known = np.maximum(self.counts, 1)
        return np.where(self.counts > 0, self.hits / known, np.nan)


def label_is_first_max(logits: Array, labels: Array) -> Array:
    """Return whether argmax(logits) is the label, bool (P, rows); of equal logits the first wins.

    Arguments:
        logits: (P, rows, C), any strides; left as they are.
        labels: int64 (rows,).
    """
    return judged(logits, labels).among_first(1)


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

    def __init__(self, n_probes: int, n_targets: int, sink: RowSink | None = None):
        self.sink = sink
        if sink:
            targets = sink.rows.labels.reshape(len(sink.rows.labels), -1)
            squares = (targets - targets.mean(0)) ** 2
            variance = squares.mean(0)
            self._variance = np.where(variance > 0, variance, np.nan)
            self._deviations = squares / self._variance
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

    def close(self) -> None:
        """Turn what the sink has of each row into values whose mean is R^2, in place.

        With q = (y - f)^2 / v and d = (y - mean y)^2 / v, v the mean of (y - mean y)^2, R^2 is
        1 - mean q. Of drawn rows v is another, and to first order so is the mean of

            1 - q + (1 - R^2) (d - 1),

        averaged over the targets: its values are R^2 plus each row's influence on it, so that their
        variance over n is the variance of R^2 over test rows.
        """
        missed = self.squares / self.rows[:, None] / self._variance
        kept, targets = self.sink.rows.kept, self._deviations.shape[1]
        for probe, share in enumerate(missed):
            further = (self._deviations - 1) @ share / targets
            kept[probe] = (1 - kept[probe].astype(np.float64) + further).astype(np.float32)

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"r2": ..., "mse": ..., "mae": ...}, float64 (P,) each."""
        rows = self.rows[:, None]
        around_mean = self.second - self.first**2 / rows
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = 1 - self.squares / np.where(around_mean > 0, around_mean, np.nan)
            mse, mae = self.squares / rows, self.magnitudes / rows
        return {"r2": r2.mean(1), "mse": mse.mean(1), "mae": mae.mean(1)}


class Agreement:
    """Scores made of how often each class is predicted, is the label, and is both.

    With t the rows of which a class is both, p those that it is predicted for, n those of which it
    is the label, and N all of them:

        F1 = 2 t / (p + n),   kappa = 1 - (1 - sum t / N) / (1 - sum p n / N^2)

    `macro_f1` is the plain mean of F1 over the classes that are a label or predicted, and
    `weighted_f1` that weighted by n; kappa is NaN where one class is all labels and predictions.

    Attributes:
        hits, predicted, counts: int64 (P, C), t, p and n of each class.

    Reference:
        Cohen, "A coefficient of agreement for nominal scales", 1960.
    """

    def __init__(self, n_probes: int, n_classes: int, present: np.ndarray | None = None):
        self.hits, self.predicted, self.counts = np.zeros((3, n_probes, n_classes), np.int64)
        self._present = present
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def sums(self) -> list[np.ndarray]:
        """Return the sums over rows."""
        return [self.hits, self.predicted, self.counts]

    def add(self, probes: np.ndarray, stand: Judged) -> None:
        """Note the classes that these probes predict; they are counted at the end of the set."""
        predicted = to_host(stand.predicted)
        if self._present is not None:
            predicted = self._present[predicted]
        self._pending.append((probes, predicted))

    def finish(self, labels: Array) -> None:
        """Count the classes of the set."""
        labels, n_classes = to_host(labels), self.hits.shape[1]
        for probes, predicted in self._pending:
            # numbers of (probe, class), so that one count serves all probes
            flat = predicted + n_classes * np.arange(len(probes))[:, None]
            shape, size = (len(probes), n_classes), len(probes) * n_classes
            self.predicted[probes] += np.bincount(flat.ravel(), minlength=size).reshape(shape)
            hit = flat[predicted == labels]
            self.hits[probes] += np.bincount(hit, minlength=size).reshape(shape)
            self.counts[probes] += np.bincount(labels, minlength=n_classes)
        self._pending.clear()

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"macro_f1": ..., "weighted_f1": ..., "kappa": ...}, float64 (P,) each."""
        f1, rows = self.per_class(), self.counts.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = (self.predicted / rows[:, None] * (self.counts / rows[:, None])).sum(1)
            kappa = 1 - (1 - self.hits.sum(1) / rows) / (1 - expected)
        return {
            "macro_f1": np.nanmean(f1, axis=1),
            "weighted_f1": (np.nan_to_num(f1) * self.counts).sum(1) / rows,
            "kappa": np.where(expected < 1, kappa, np.nan),
        }

    def per_class(self) -> np.ndarray:
        """Return F1 of each class, float64 (P, C); NaN for one that is no label nor predicted."""
        seen = self.predicted + self.counts
        return np.where(seen > 0, 2 * self.hits / np.maximum(seen, 1), np.nan)


@dataclass(frozen=True)
class Told:
    """Which labels probes give to rows that have any number of them.

    Attributes:
        given: bool (p, rows, L), whether a label is given to a row.
        own: bool (rows, L), whether a row has it.
        finite: bool (p,), whether all scores of a probe are finite numbers.
    """

    given: Array
    own: Array
    finite: Array


def told(scores: Array, labels: Array, above: float) -> Told:
    """Return which labels have scores above a threshold.

    Arguments:
        scores: (p, rows, L), of labels 0 and 1.
        labels: (rows, L), 0 or 1, of which the same may have been subtracted as from the scores:
            numbers between 0 and 1, so that a row's own labels are those above 0.
        above: the threshold.
    """
    xp = array_namespace(scores)
    labels = xp.reshape(labels, (scores.shape[1], -1))
    own = labels > 0
    less = xp.astype(own, xp.float64) - xp.astype(labels, xp.float64)
    finite = xp.all(xp.isfinite(scores), axis=(1, 2))
    return Told(xp.astype(scores, xp.float64) + less > above, own, finite)


class SeveralLabels:
    """What is counted of L labels, of which each row has any number.

    With t the rows that have a label and are given it, p those that are given it, n those that
    have it, N all of them, and F1 = 2 t / (p + n) for each label:

        macro_f1 = mean F1,   micro_f1 = 2 sum t / sum (p + n)
        label_accuracy = mean (N - p - n + 2 t) / N,   subset_accuracy = share of rows all right

    Means are over the L labels, of F1 over those that some row has or is given.

    Attributes:
        hits, given, own: int64 (P, L), t, p and n.
        whole: int64 (P,), rows whose labels are all right.
        rows: int64 (P,), N.

    Reference:
        Tsoumakas and Katakis, "Multi-label classification: an overview", 2007.
    """

    def __init__(self, n_probes: int, n_labels: int):
        self.hits, self.given, self.own = np.zeros((3, n_probes, n_labels), np.int64)
        self.whole, self.rows = np.zeros((2, n_probes), np.int64)

    @property
    def sums(self) -> list[np.ndarray]:
        """What adds up over rows."""
        return [self.hits, self.given, self.own, self.whole, self.rows]

    def add(self, probes: np.ndarray, stand: Told) -> None:
        """Count the labels of the rows."""
        xp = array_namespace(stand.given)

        def counted(which: Array) -> np.ndarray:
            return to_host(xp.sum(xp.astype(which, xp.int64), axis=-2))

        self.hits[probes] += counted(stand.given & stand.own)
        self.given[probes] += counted(stand.given)
        self.own[probes] += counted(stand.own)
        right = xp.all(stand.given == stand.own, axis=-1)
        self.whole[probes] += to_host(xp.sum(xp.astype(right, xp.int64), axis=-1))
        self.rows[probes] += stand.own.shape[0]

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are counted as they come."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return the four scores, float64 (P,) each."""
        f1 = self.per_class()
        counted = np.isfinite(f1).sum(1)
        either = (self.given + self.own).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "macro_f1": np.where(counted > 0, np.nansum(f1, axis=1) / counted, np.nan),
                "micro_f1": 2 * self.hits.sum(1) / either,
                "label_accuracy": self.accuracies().mean(1),
                "subset_accuracy": self.whole / self.rows,
            }

    def per_class(self) -> np.ndarray:
        """Return F1 of each label, float64 (P, L); NaN for one that no row has or is given."""
        seen = self.given + self.own
        return np.where(seen > 0, 2 * self.hits / np.maximum(seen, 1), np.nan)

    def accuracies(self) -> np.ndarray:
        """Return the share of rows that each label is right of, float64 (P, L)."""
        rows = np.maximum(self.rows, 1)[:, None]
        return (rows - self.given - self.own + 2 * self.hits) / rows


class _AmongFirst:
    """The share of rows whose label's logit is among the k largest; of equal ones the first.

    With k classes or fewer every row would count, which says nothing: the column is NaN. Classes
    that no train row has are none.

    Attributes:
        hits: int64 (P,), rows that each probe gets right.
        rows: int64 (P,), rows that each probe has seen.
    """

    def __init__(self, n_probes: int, n_classes: int, first: int):
        self.hits, self.rows = np.zeros((2, n_probes), np.int64)
        self._first, self._tells = first, n_classes > first

    @property
    def sums(self) -> list[np.ndarray]:
        """Return the sums over rows."""
        return [self.hits, self.rows]

    def add(self, probes: np.ndarray, stand: Judged) -> None:
        """Count the rows that each of these probes gets right."""
        if self._tells:
            found = stand.among_first(self._first)
            self.hits[probes] += to_host(array_namespace(found).sum(found, axis=1))
            self.rows[probes] += stand.n_rows

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are counted as they come."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"top<k>": float64 (P,)}."""
        share = self.hits / np.maximum(self.rows, 1)
        return {f"top{self._first}": np.where(self.rows > 0, share, np.nan)}


class Metric(Protocol):
    """Scores accumulated: `add` for each (probes, rows) piece, `finish` after each set of rows.

    Rows come in sets; within a set every probe is added exactly once, in any grouping.
    """

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
    "top5": partial(_AmongFirst, first=5),
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
        return partial(_AmongFirst, first=int(name.removeprefix("top")))
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
        rows: room for the part of each row in accuracy or R^2, one of which is among `names`.
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
        self._sink = None if rows is None else RowSink(rows, start)
        self.metrics: list[Metric] = []
        # metrics that come from the same sums are summed once
        for kind in filter(None, dict.fromkeys(kinds.values())):
            if kind in (Accuracy, Regression):
                self.metrics.append(kind(n_probes, n_classes, self._sink))
            elif kind is Agreement:
                self.metrics.append(kind(n_probes, n_classes, self._present))
            else:
                self.metrics.append(kind(n_probes, n_present))
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

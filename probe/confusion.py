"""Scores read off counts of rows: accuracy, F1, kappa, top-k, and those of several labels."""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from featstore.probe.arrays import Array, to_host
from featstore.probe.kernels import judged
from featstore.probe.kernels.reference import Judged
from featstore.probe.results.evidence import RowSink


class Accuracy:
    """The share of rows whose largest logit is their label's; of equal logits the first wins.

    Its columns are `accuracy`, over all rows, and `mean_per_class`, the plain mean over the classes
    that have rows (what Flowers and Pets report), which is called `balanced_accuracy` too.

    Attributes:
        hits: int64 (P, C), rows of each class that each probe gets right.
        counts: int64 (P, C), rows of each class that each probe has seen.
        sink: takes which rows are right; None where that is not kept.
    """

    fact = "right"
    sink: RowSink | None = None

    def __init__(self, n_probes: int, n_classes: int):
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


def rows_right(logits: Array, labels: Array) -> Array:
    """Return how many rows each probe gets right, or the sum of shares of their labels, (p,).

    Arguments:
        logits: (p, rows, C), any strides; or (p, rows, L), above 0 for a label that is given.
        labels: int64 (rows,); or (rows, L), 0 or 1.
    """
    xp = array_namespace(logits)
    if labels.ndim == 1:
        return xp.count_nonzero(label_is_first_max(logits, labels), axis=1)
    right = xp.astype((logits > 0) == (labels > 0), xp.float64)
    return xp.sum(xp.mean(right, axis=2), axis=1)


def _f1(hits: np.ndarray, either: np.ndarray) -> np.ndarray:
    """Return 2 t / (p + n), NaN where p + n is 0."""
    return np.where(either > 0, 2 * hits / np.maximum(either, 1), np.nan)


class Agreement:
    """Scores made of how often each class is predicted, is the label, and is both.

    With t the rows of which a class is both, p those that it is predicted for, n those of which it
    is the label, and N all of them:

        F1 = 2 t / (p + n),   kappa = 1 - (1 - sum t / N) / (1 - sum p n / N^2)

    `macro_f1` is the plain mean of F1 over the classes that are a label or predicted, and
    `weighted_f1` that weighted by n; kappa is NaN where one class is all labels and predictions.

    Attributes:
        hits, predicted, counts: int64 (P, C), t, p and n of each class.
        sink: takes which class is predicted for each row; None where that is not kept.

    Reference:
        Cohen, "A coefficient of agreement for nominal scales", 1960.
    """

    fact = "class"
    sink: RowSink | None = None

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
            if self.sink:
                self.sink.add(probes, predicted)
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
        return _f1(self.hits, self.predicted + self.counts)


@dataclass(frozen=True)
class Told:
    """Labels that probes give to rows that have any number of them.

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
    """Counts of L labels, of which each row has any number.

    With t the rows that have a label and are given it, p those that are given it, n those that
    have it, N all of them, and F1 = 2 t / (p + n) for each label:

        macro_f1 = mean F1,   micro_f1 = 2 sum t / sum (p + n)
        label_accuracy = mean (N - p - n + 2 t) / N,   subset_accuracy = share of rows all right

    Means are over the L labels, of F1 over those that some row has or is given.

    Attributes:
        hits, given, own: int64 (P, L), t, p and n.
        whole: int64 (P,), rows whose labels are all right.
        rows: int64 (P,), N.
        sink: takes which labels are given to each row; None where that is not kept.

    Reference:
        Tsoumakas and Katakis, "Multi-label classification: an overview", 2007.
    """

    fact = "given"
    sink: RowSink | None = None

    def __init__(self, n_probes: int, n_labels: int):
        self.hits, self.given, self.own = np.zeros((3, n_probes, n_labels), np.int64)
        self.whole, self.rows = np.zeros((2, n_probes), np.int64)

    @property
    def sums(self) -> list[np.ndarray]:
        """Arrays that add up over rows."""
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
        if self.sink:
            self.sink.add(probes, to_host(stand.given))

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
        return _f1(self.hits, self.given + self.own)

    def accuracies(self) -> np.ndarray:
        """Return the share of rows that each label is right of, float64 (P, L)."""
        rows = np.maximum(self.rows, 1)[:, None]
        return (rows - self.given - self.own + 2 * self.hits) / rows


class AmongFirst:
    """The share of rows whose label's logit is among the k largest; of equal ones the first.

    With k classes or fewer every row would count, which says nothing: the column is NaN. Classes
    that no train row has are none.

    Attributes:
        hits: int64 (P,), rows that each probe gets right.
        rows: int64 (P,), rows that each probe has seen.
        sink: takes which rows are right; None where that is not kept.
    """

    sink: RowSink | None = None

    def __init__(self, n_probes: int, n_classes: int, first: int):
        self.hits, self.rows = np.zeros((2, n_probes), np.int64)
        self.fact, self._first, self._tells = f"top{first}", first, n_classes > first

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
            if self.sink:
                self.sink.add(probes, to_host(found))

    def finish(self, labels: Array) -> None:
        """Nothing is left to do: rows are counted as they come."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return {"top<k>": float64 (P,)}."""
        share = self.hits / np.maximum(self.rows, 1)
        return {f"top{self._first}": np.where(self.rows > 0, share, np.nan)}

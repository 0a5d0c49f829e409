"""Accuracy by class: how often the largest logit is the label's."""

import numpy as np
from array_api_compat import array_namespace

from probe.arrays import Array, to_host
from probe.by_row import RowSink
from probe.kernels import Judged, judged


class Accuracy:
    """The share of rows whose largest logit is their label's; of equal logits the first wins.

    Two columns: `accuracy`, over all rows, and `mean_per_class`, the plain mean over the classes
    that have rows (what Flowers and Pets report).

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
        """What adds up over rows."""
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
        """Return {"accuracy": ..., "mean_per_class": ...}, float64 (P,) each."""
        return {
            "accuracy": self.hits.sum(1) / self.counts.sum(1),
            "mean_per_class": np.nanmean(self.per_class(), axis=1),
        }

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

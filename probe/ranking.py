"""Areas under the curves of each class against the rest, of which all test rows are ranked."""

from collections.abc import Iterator, Sequence

import numpy as np
from array_api_compat import array_namespace, device
from scipy.stats import rankdata

from featstore.probe.arrays import Array, to_host
from featstore.probe.errors import MemoryBudgetError
from featstore.probe.memory import all_sum, text
from featstore.probe.metrics import LogitSink, PassingSink
from featstore.probe.results.reading import RowScores
from featstore.probe.rows import RowBlocks
from featstore.probe.solvers.weights import Fitted

# arrays of eight bytes a value that ranking some rows of scores needs beside them
_WORKING = 12


def areas(scores: Array, labels: Array, classes: Array) -> tuple[Array, Array]:
    """Return the area under the ROC curve and the average precision of m scores of n rows.

    With the rows in falling order of the score, t_i and f_i counting the rows of the class and the
    others among those down to the i-th distinct score, and t of them and f in all,

        AUROC = sum_i (f_i - f_(i-1)) (t_i + t_(i-1)) / (2 t f),
        AP = sum_i (t_i - t_(i-1)) / t * t_i / (t_i + f_i).

    Rows of one score count as one step, in whichever order they stand. Counts are whole numbers, so
    that AUROC is exact but for one division.

    Arguments:
        scores: float (m, n).
        labels: int64 (n,); or (n, L), 1 where a row has a label.
        classes: int64 (m,), the class, or the label, that each row of scores is for.

    Returns:
        float64 (m,) each; NaN where no row is of the class, or all are.

    Reference:
        Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 2006.

    Example:
        >>> scores = np.array([[0.1, 0.4, 0.35, 0.8]])
        >>> roc, precision = areas(scores, np.array([0, 0, 1, 1]), np.array([1]))
        >>> roc.tolist(), precision.round(4).tolist()
        ([0.75], [0.8333])
    """
    xp = array_namespace(scores)
    (m, n), where = scores.shape, {"device": device(scores)}
    order = xp.argsort(scores, axis=1, descending=True)
    of_row = xp.arange(m, **where)[:, None]
    flat = xp.reshape(order + n * of_row, (-1,))
    sorted_scores = xp.reshape(xp.take(xp.reshape(scores, (-1,)), flat, axis=0), (m, n))
    if labels.ndim > 1:
        wide = xp.reshape(xp.permute_dims(xp.take(labels, classes, axis=1), (1, 0)), (-1,))
        own = xp.reshape(xp.take(wide, flat, axis=0), (m, n)) > 0
    else:
        own = xp.reshape(xp.take(labels, xp.reshape(order, (-1,)), axis=0), (m, n))
        own = own == classes[:, None]
    true = xp.cumulative_sum(xp.astype(own, xp.int64), axis=1)
    false = xp.arange(1, n + 1, **where)[None, :] - true
    all_true, all_false = true[:, -1], false[:, -1]
    steps = xp.ones((m, n), dtype=xp.bool, **where)
    steps[:, :-1] = sorted_scores[:, 1:] != sorted_scores[:, :-1]
    (ends,) = xp.nonzero(xp.reshape(steps, (-1,)))
    true, false = (xp.take(xp.reshape(each, (-1,)), ends, axis=0) for each in (true, false))
    rows = ends // n
    first = xp.ones(ends.shape, dtype=xp.bool, **where)
    first[1:] = rows[1:] != rows[:-1]

    def before(counts: Array) -> Array:
        shifted = xp.zeros_like(counts)
        shifted[1:] = counts[:-1]
        return xp.where(first, xp.zeros_like(counts), shifted)

    def summed(values: Array) -> Array:
        # put back into the grid and summed along it: the same bits on every device
        grid = xp.zeros(m * n, dtype=values.dtype, **where)
        grid[ends] = values
        return xp.sum(xp.reshape(grid, (m, n)), axis=1)

    true_before = before(true)
    twice = summed((false - before(false)) * (true + true_before))
    precision = xp.astype(true, xp.float64) / xp.astype(true + false, xp.float64)
    precisions = summed(xp.astype(true - true_before, xp.float64) * precision)
    nan = xp.full(m, float("nan"), dtype=xp.float64, **where)
    known = (all_true > 0) & (all_false > 0)
    pairs = xp.astype(xp.where(known, 2 * all_true * all_false, 1), xp.float64)
    found = xp.astype(xp.where(known, all_true, 1), xp.float64)
    return (
        xp.where(known, xp.astype(twice, xp.float64) / pairs, nan),
        xp.where(known, precisions / found, nan),
    )


class _Window(PassingSink):
    """Keeps the scores of some (probe, class) on all rows, and hands the logits on.

    Arguments:
        beyond: where the logits go; None for nowhere.
        start: the first of the pairs, numbered by probe and then by class.
        stop: behind the last.
        n_rows: rows of all processes.
        first_row: the number of the first row that comes here.
        probabilities: whether a class's score is its log-probability; else it is its logit, as
            it is of one of several labels.
        present: int64 (c,), the classes that train has rows of; they alone are normalised over.
    """

    def __init__(
        self,
        beyond: LogitSink | None,
        start: int,
        stop: int,
        n_rows: int,
        first_row: int,
        probabilities: bool,
        present: np.ndarray,
    ):
        super().__init__(beyond)
        self.kept = np.zeros((stop - start, n_rows))
        self.where: Array | None = None
        self._start, self._stop, self._first_row = start, stop, first_row
        self._probabilities, self._present = probabilities, present
        self._done: dict[int, int] = {}

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Keep the scores of the rows that follow those before."""
        if self._scores:
            self._scores.add(probes, logits, labels)
        xp, n_classes = array_namespace(logits), len(self._present)
        self.where = labels
        present = xp.asarray(self._present, device=device(logits))
        for place, probe in enumerate(probes.tolist()):
            low = max(self._start, probe * n_classes)
            high = min(self._stop, (probe + 1) * n_classes)
            if low >= high:
                continue
            own = xp.astype(logits[place], xp.float64)
            own = own if len(present) == own.shape[-1] else xp.take(own, present, axis=-1)
            if self._probabilities:
                own = own - xp.max(own, axis=1)[:, None]
                own = own - xp.log(xp.sum(xp.exp(own), axis=1))[:, None]
            own = own[:, low - probe * n_classes : high - probe * n_classes]
            start = self._done.get(probe, self._first_row)
            self._done[probe] = start + own.shape[0]
            rows = slice(start, self._done[probe])
            self.kept[low - self._start : high - self._start, rows] = to_host(own).T

    def finish(self, labels: Array) -> None:
        """Tell the other sink that the set of rows is over."""
        if self._scores:
            self._scores.finish(labels)


def ranked(
    fitted: Fitted,
    test: RowBlocks,
    scores: LogitSink,
    labels: np.ndarray,
    start: int,
    probabilities: bool,
    memory: int,
    rows: RowScores | None = None,
) -> dict[str, np.ndarray]:
    """Return what is read off ranked rows, for each probe and class against the rest.

    All scores of as many classes and probes as fit into memory are held at once, and the test rows
    are read again for the others.

    Arguments:
        fitted: P probes of C classes.
        test: the rows of this process.
        scores: gets every logit once.
        labels: int64 (n,), or of several labels (n, L), of the rows of all processes.
        start: the number of this process's first row.
        probabilities: whether softmax of the logits is a probability; then rows are ranked by that
            of the class, and else by its logit.
        memory: what may be held, in bytes.
        rows: takes the part of each row in the mean AUROC of several labels; None where that is not
            kept.

    Returns:
        "auroc" and "average_precision", float64 (P, C) each; NaN for classes that no test row has,
        that all have, or that no train row has.

    Raises:
        MemoryBudgetError: the scores of one class take more than `memory`.
    """
    counts, labels, n = fitted.class_counts, np.ascontiguousarray(labels), len(labels)
    if labels.ndim > 1:
        counts, probabilities = np.ones(labels.shape[1]), False
    present = np.flatnonzero(counts)
    pairs, most = len(fitted.axes) * len(present), memory // (8 * n * (1 + _WORKING))
    if not most:
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little to rank {n:,} test rows: allow "
            f"{text(8 * n * (1 + _WORKING))}, or leave auroc and average_precision out"
        )
    # what ranks a few at once needs its working memory once
    together = max(1, most // 8)
    held = max(1, min(pairs, memory // (8 * n) - _WORKING * together))
    found = np.full((2, pairs), np.nan)
    for first in range(0, pairs, held):
        last = min(first + held, pairs)
        window = _Window(
            scores if first == 0 else None, first, last, n, start, probabilities, present
        )
        fitted.score(test, window)
        all_sum(window.kept)  # no row is in two processes
        for part, values in _areas(window, labels, present, first, together):
            found[:, first + part.start : first + part.stop] = values
            if rows is not None:
                pairs_here = np.arange(first + part.start, first + part.stop)
                _add_parts(rows.kept, window.kept[part], labels, pairs_here)
    if rows is not None:
        rows.known[:] = True
    wide = np.full((2, len(fitted.axes), len(counts)), np.nan)
    wide[:, :, present] = found.reshape(2, len(fitted.axes), len(present))
    return {"auroc": wide[0], "average_precision": wide[1]}


def _areas(
    window: _Window, labels: np.ndarray, present: np.ndarray, first: int, together: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield which pairs of a window, and their two areas (2, m), on the device of the logits."""
    classes = np.tile(present, -(-(first + len(window.kept)) // len(present)))[first:]
    like = window.where if window.where is not None else labels
    xp, where = array_namespace(like), {"device": device(like)}
    on_device = xp.asarray(labels, **where)
    for start in range(0, len(window.kept), together):
        part = slice(start, min(start + together, len(window.kept)))
        both = areas(
            xp.asarray(window.kept[part], **where),
            on_device,
            xp.asarray(classes[part], **where),
        )
        yield part, np.stack([to_host(each) for each in both])


def parts_of_rows(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the part of each row in an area under the ROC curve, A.

    With V_i the share of the other kind's rows that a row stands on the right side of, ties half,
    and n_i the rows of its own kind among N, it is A + N (V_i - A) / n_i: values with the mean A
    whose variance over N is the variance of A over test rows.

    Arguments:
        scores: float (N,).
        own: bool (N,), rows of the class or with the label; some, and not all.

    Returns:
        float64 (N,).

    Reference:
        DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated
        receiver operating characteristic curves", Biometrics 1988.

    Example:
        >>> parts_of_rows(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        array([1.25, 0.25, 0.25, 1.25])
    """
    rank, (n, m) = rankdata(scores), (len(own), int(own.sum()))
    right = np.empty(n)
    right[own] = (rank[own] - rankdata(scores[own])) / (n - m)
    right[~own] = 1 - (rank[~own] - rankdata(scores[~own])) / m
    area = right[own].mean()
    return area + n * (right - area) / np.where(own, m, n - m)


def _add_parts(kept: np.ndarray, scores: np.ndarray, labels: np.ndarray, pairs: np.ndarray) -> None:
    """Add the parts of rows in AUROC, over the labels that are known, to (P, n) in place."""
    counts = labels.sum(0, dtype=np.int64)
    known = (counts > 0) & (counts < len(labels))
    for own, pair in zip(scores, pairs.tolist(), strict=True):
        probe, label = divmod(pair, labels.shape[1])
        if known[label]:
            kept[probe] += parts_of_rows(own, labels[:, label] > 0) / known.sum()


def means(by_class: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the plain means over the classes that are known, float64 (P,), of those wanted."""
    found = {}
    for name, values in by_class.items():
        if name not in names:
            continue
        count = np.isfinite(values).sum(1)
        mean = np.nansum(values, axis=1) / np.maximum(count, 1)
        found[name] = np.where(count > 0, mean, np.nan)
    return found

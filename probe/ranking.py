"""Areas under the curves of each class against the rest, of which all test rows are ranked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from featstore.probe.arrays import Array, to_host
from featstore.probe.errors import MemoryBudgetError
from featstore.probe.memory import all_sum, text
from featstore.probe.metrics import OF_RANKS, LogitSink, PassingSink
from featstore.probe.results.evidence import RowScores
from featstore.probe.rows import RowBlocks
from featstore.probe.solvers.weights import Fitted

# arrays of eight bytes a value that ranking some rows of scores needs beside them, and with parts
_WORKING, _WITH_PARTS = 12, 24


@dataclass(frozen=True)
class _Order:
    """m rows of n values in falling order of their scores, in steps of one score each.

    Attributes:
        flat: int64 (m n,), which of the values stands at each place, row after row.
        own: bool (m, n), at each place, whether it is of the class.
        ends: int64 (e,), places at which steps end; of row `ends // n`.
        true, false: int64 (e,), of the class and others, from the row's start to each end.
        first: bool (e,), the first ends of their rows.
        steps: bool (m, n), whether a step ends at a place.
    """

    flat: Array
    own: Array
    ends: Array
    true: Array
    false: Array
    first: Array
    steps: Array

    @classmethod
    def of(cls, scores: Array, labels: Array, classes: Array) -> "_Order":
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
        steps = xp.ones((m, n), dtype=xp.bool, **where)
        steps[:, :-1] = sorted_scores[:, 1:] != sorted_scores[:, :-1]
        (ends,) = xp.nonzero(xp.reshape(steps, (-1,)))
        true, false = (xp.take(xp.reshape(each, (-1,)), ends, axis=0) for each in (true, false))
        rows = ends // n
        first = xp.ones(ends.shape, dtype=xp.bool, **where)
        first[1:] = rows[1:] != rows[:-1]
        return cls(flat, own, ends, true, false, first, steps)

    def before(self, counts: Array) -> Array:
        """Return what a count (e,) was at the end before, 0 at a row's first."""
        xp = array_namespace(counts)
        shifted = xp.zeros_like(counts)
        shifted[1:] = counts[:-1]
        return xp.where(self.first, xp.zeros_like(counts), shifted)

    def summed(self, values: Array) -> Array:
        """Return the sums (m,) of values at the ends of steps, (e,)."""
        xp = array_namespace(values)
        # put back into the grid and summed along it: the same bits on every device
        grid = xp.zeros(self.flat.shape[0], dtype=values.dtype, device=device(values))
        grid[self.ends] = values
        return xp.sum(xp.reshape(grid, self.own.shape), axis=1)

    def at_places(self, values: Array) -> Array:
        """Return (m, n), at each place the value (e,) of the step that it is in."""
        xp = array_namespace(values)
        steps = xp.astype(xp.reshape(self.steps, (-1,)), xp.int64)
        number = xp.cumulative_sum(steps, axis=0) - steps
        return xp.reshape(xp.take(values, number, axis=0), self.own.shape)

    def in_rows(self, values: Array) -> Array:
        """Return values at places (m, n) in the order that the rows had."""
        xp = array_namespace(values)
        found = xp.zeros(self.flat.shape[0], dtype=values.dtype, device=device(values))
        found[self.flat] = xp.reshape(values, (-1,))
        return xp.reshape(found, self.own.shape)


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
    return _areas(_Order.of(scores, labels, classes))


def _areas(order: _Order) -> tuple[Array, Array]:
    xp, true, false = array_namespace(order.own), order.true, order.false
    all_true = xp.sum(xp.astype(order.own, xp.int64), axis=1)
    all_false = order.own.shape[1] - all_true
    true_before = order.before(true)
    twice = order.summed((false - order.before(false)) * (true + true_before))
    precision = xp.astype(true, xp.float64) / xp.astype(true + false, xp.float64)
    precisions = order.summed(xp.astype(true - true_before, xp.float64) * precision)
    known = (all_true > 0) & (all_false > 0)
    nan = xp.full(known.shape, float("nan"), dtype=xp.float64, device=device(known))
    pairs = xp.astype(xp.where(known, 2 * all_true * all_false, 1), xp.float64)
    found = xp.astype(xp.where(known, all_true, 1), xp.float64)
    return (
        xp.where(known, xp.astype(twice, xp.float64) / pairs, nan),
        xp.where(known, precisions / found, nan),
    )


def parts_of_areas(
    scores: Array, labels: Array, classes: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return what `areas` returns, and the part of each row in both.

    Parts are as `featstore.probe.results.evidence` has them. With V_j the share of the other kind's
    rows that row j stands on the right side of, ties half, and n_j the rows of its own kind among
    n, its part in AUROC = A is A + n (V_j - A) / n_j, which is DeLong's. A row of the class adds a
    precision to AP, and every row changes the precisions at the rows of the class below it: with
    t_i and f_i the counts at the step of such a row i,

        dAP / dw_j = ([j of the class] (t_j / (t_j + f_j) - AP) + sum_i c_i) / t,
        c_i = f_i / (t_i + f_i)^2 if j is of the class, and else -t_i / (t_i + f_i)^2.

    Arguments: as of `areas`.

    Returns:
        the two areas, float64 (m,) each, and parts, float64 (m, n) each, 0 where an area is NaN.

    Reference:
        DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated
        receiver operating characteristic curves", Biometrics 1988.

    Example:
        >>> scores = np.array([[0.1, 0.4, 0.35, 0.8]])
        >>> _, (roc, precision) = parts_of_areas(scores, np.array([0, 0, 1, 1]), np.array([1]))
        >>> roc.tolist(), precision.round(4).tolist()
        ([[1.25, 0.25, 0.25, 1.25]], [[0.8333, 0.3889, 0.7222, 1.3889]])
    """
    order = _Order.of(scores, labels, classes)
    roc, average = _areas(order)
    xp, own, n = array_namespace(order.own), order.own, order.own.shape[1]
    of_class = xp.astype(own, xp.float64)
    all_true = xp.sum(of_class, axis=1)[:, None]
    all_false = n - all_true
    # a class of no row, or of all, has no part: any divisor does
    all_true = xp.where(all_true > 0, all_true, xp.ones_like(all_true))
    all_false = xp.where(all_false > 0, all_false, xp.ones_like(all_false))
    true, false = (xp.astype(each, xp.float64) for each in (order.true, order.false))
    above_true, above_false = (order.at_places(each + order.before(each)) for each in (true, false))
    right = xp.where(own, 1 - above_false / (2 * all_false), above_true / (2 * all_true))
    area = roc[:, None]
    in_roc = area + n * (right - area) / xp.where(own, all_true, all_false)
    counts = true + false

    def below(change: Array) -> Array:
        """Sum what changes at each row of the class, over those of this score and of lower ones."""
        flat = order.at_places(change) * of_class
        so_far = xp.reshape(xp.cumulative_sum(flat, axis=1), (-1,))
        before = order.at_places(order.before(xp.take(so_far, order.ends, axis=0)))
        return xp.sum(flat, axis=1)[:, None] - before

    mean = average[:, None]
    gained = order.at_places(true / counts) - mean + below(false / counts**2)
    gained = xp.where(own, gained, -below(true / counts**2))
    in_precision = mean + n * gained / all_true
    nothing = xp.zeros_like(in_roc)
    known = xp.isfinite(area)
    return (roc, average), (
        order.in_rows(xp.where(known, in_roc, nothing)),
        order.in_rows(xp.where(known, in_precision, nothing)),
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
        rows: takes the part of each row in the means over classes, of those that it has room for;
            None where none is kept.

    Returns:
        "auroc" and "average_precision", float64 (P, C) each; NaN for classes that no test row has,
        that all have, or that no train row has.

    Raises:
        MemoryBudgetError: the scores of one class take more than `memory`.
    """
    counts, labels, n = fitted.class_counts, np.ascontiguousarray(labels), len(labels)
    if labels.ndim > 1:
        counts, probabilities = np.ones(labels.shape[1]), False
    rows = None if rows is None or not set(OF_RANKS) & set(rows.kept) else rows
    working = _WORKING if rows is None else _WITH_PARTS
    present = np.flatnonzero(counts)
    pairs, most = len(fitted.axes) * len(present), memory // (8 * n * (1 + working))
    if not most:
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little to rank {n:,} test rows: allow "
            f"{text(8 * n * (1 + working))}, or leave auroc and average_precision out"
        )
    # what ranks a few at once needs its working memory once
    together = max(1, most // 8)
    held = max(1, min(pairs, memory // (8 * n) - working * together))
    found = np.full((2, pairs), np.nan)
    for first in range(0, pairs, held):
        last = min(first + held, pairs)
        window = _Window(
            scores if first == 0 else None, first, last, n, start, probabilities, present
        )
        fitted.score(test, window)
        all_sum(window.kept)  # no row is in two processes
        for part, values in _ranked(window, labels, present, first, together, rows):
            found[:, first + part.start : first + part.stop] = values
    wide = np.full((2, len(fitted.axes), len(counts)), np.nan)
    wide[:, :, present] = found.reshape(2, len(fitted.axes), len(present))
    return {"auroc": wide[0], "average_precision": wide[1]}


def _ranked(
    window: _Window,
    labels: np.ndarray,
    present: np.ndarray,
    first: int,
    together: int,
    rows: RowScores | None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield which pairs of a window, and their two areas (2, m), on the device of the logits.

    The parts of rows are added to `rows`, over the classes that have an area.
    """
    numbers = first + np.arange(len(window.kept))
    classes = present[numbers % len(present)]
    like = window.where if window.where is not None else labels
    xp, where = array_namespace(like), {"device": device(like)}
    on_device = xp.asarray(labels, **where)
    counts = labels.sum(0, dtype=np.int64) if labels.ndim > 1 else np.bincount(labels)
    known = max(1, np.count_nonzero((counts > 0) & (counts < len(labels))))
    for start in range(0, len(window.kept), together):
        part = slice(start, min(start + together, len(window.kept)))
        of_part = (
            xp.asarray(window.kept[part], **where),
            on_device,
            xp.asarray(classes[part], **where),
        )
        if rows is None:
            both = areas(*of_part)
        else:
            both, parts = parts_of_areas(*of_part)
            for name, values in zip(OF_RANKS, parts, strict=True):
                if name in rows.kept:
                    _add(rows.kept[name], to_host(values) / known, numbers[part] // len(present))
        yield part, np.stack([to_host(each) for each in both])


def _add(kept: np.ndarray, parts: np.ndarray, probes: np.ndarray) -> None:
    """Add parts of classes (m, n) to those of their probes, summed in float64, in place."""
    for probe in np.unique(probes):
        kept[probe] += parts[probes == probe].sum(0)


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

"""Evidence: what each test row says of the scores of probes.

Of a score A of n test rows, the part of row j is A plus n times what A gains by a weight of row j
that is larger by one, per weight:

    part_j = A + n dA/dw_j,   w_j = 1

Scores do not change if all weights are doubled, so that the mean of the parts is A; and their
variance over n is, to first order, that of A over other test rows (the infinitesimal jackknife). Of
a mean, as accuracy is one, a part is the row's own value. What is kept of rows are facts from which
the parts of several scores follow; all of them have one room.

Reference:
    Efron, "The jackknife, the bootstrap and other resampling plans", 1982, chapter 6.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featstore.probe.errors import RowsWarning
from featstore.probe.memory import all_sum, text, world
from featstore.probe.results import FIRST_FEW
from featstore.probe.rows import RowBlocks, are_several, groups_of, has_targets

MOST = 512 << 20
"""Bytes that rows may take unless one says otherwise."""

SHARE = 8
"""Rows are kept where they take at most one part in so many of the memory that is granted."""

_OF_CLASSES = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "mean_per_class"), "right"),
    **dict.fromkeys(("macro_f1", "weighted_f1", "kappa"), "class"),
}
_OF_SEVERAL = ("macro_f1", "micro_f1", "label_accuracy", "subset_accuracy")
_PARTS = ("r2", "auroc", "average_precision")


def fact_of(score: str, several: bool = False) -> str | None:
    """Return the fact of a row that its part in a score follows from; None if there is none.

    It is "right", whether the label is predicted; "class", which one is; "top<k>", whether the
    label is among the k largest; "given", which of several labels are; or "r2", "auroc" or
    "average_precision", the part itself.

    >>> fact_of("kappa"), fact_of("macro_f1", several=True), fact_of("top3"), fact_of("nll")
    ('class', 'given', 'top3', None)
    """
    if several and score in _OF_SEVERAL:
        return "given"
    known = score in _PARTS or FIRST_FEW.fullmatch(score)
    return score if known else _OF_CLASSES.get(score)


def _main(labels: np.ndarray) -> str:
    """Return the score that is kept of rows where nothing else is said."""
    if labels.dtype.kind == "f":
        return "r2"
    return "accuracy" if labels.ndim == 1 else "auroc"


@dataclass(frozen=True)
class RowScores:
    """Facts of each of n test rows, from which its parts in the scores of P probes follow.

    Attributes:
        labels: int64 (n,), targets, float64 (n,) or (n, T), or several labels, uint8 (n, L).
        kept: by fact (see `fact_of`): "right" and "top<k>" uint8 (P, ceil(n / 8)), a bit a row;
            "given" uint8 (P, ceil(n L / 8)), a bit a row and label; "class" unsigned (P, n);
            "r2", "auroc" and "average_precision" float32 (P, n), parts.
        known: bool (P,), which probes have been scored.
        groups: int64 (n,), which of G groups each row is of; None where each stands for itself.
        folds: int64 (n,), in which fold each row was tested, scores being means over folds; None
            where all rows were tested together.
    """

    labels: np.ndarray
    kept: Mapping[str, np.ndarray]
    known: np.ndarray
    groups: np.ndarray | None = None
    folds: np.ndarray | None = None

    @classmethod
    def empty(
        cls,
        labels: np.ndarray,
        n_probes: int,
        groups: np.ndarray | None = None,
        facts: Sequence[str] = (),
        n_classes: int = 0,
    ) -> "RowScores":
        """Return room for P probes, of which nothing is known.

        Arguments:
            labels: of the rows.
            n_probes: P.
            groups: numbers or texts (n,).
            facts: what is kept; by default that of accuracy, R^2, or several labels' AUROC.
            n_classes: C; by default the largest label's number and one.
        """
        groups = None if groups is None else np.unique(groups, return_inverse=True)[1]
        facts = facts or (fact_of(_main(labels)),)
        known = np.zeros(n_probes, bool)
        kept = {}
        for fact in facts:
            width, dtype = _layout(fact, labels, n_classes)
            kept[fact] = np.zeros((n_probes, width), dtype)
        return cls(labels, kept, known, groups)

    def like(self, n_probes: int) -> "RowScores":
        """Return room for the same facts of the same rows by other probes."""
        kept = {fact: np.zeros((n_probes, a.shape[1]), a.dtype) for fact, a in self.kept.items()}
        return replace(self, kept=kept, known=np.zeros(n_probes, bool))

    def at(self, probes: np.ndarray | slice) -> "RowScores":
        """Return what is known of some probes, in this order."""
        kept = {fact: array[probes] for fact, array in self.kept.items()}
        return replace(self, kept=kept, known=self.known[probes])

    def only(self, facts: Iterable[str]) -> "RowScores":
        """Return the facts that are among these."""
        return replace(self, kept={fact: self.kept[fact] for fact in self.kept if fact in facts})

    def put(self, probes: np.ndarray, others: "RowScores") -> None:
        """Take in what is known of other probes, under these numbers, in place."""
        for fact, array in self.kept.items():
            array[probes] = others.kept[fact]
        self.known[probes] = others.known

    def told(self, fact: str, probe: int) -> np.ndarray:
        """Return a fact of each row by one probe: (n,), or bool (n, L) of several labels."""
        kept, n = self.kept[fact][probe], len(self.labels)
        if not _is_bits(fact):
            return kept
        shape = self.labels.shape if fact == "given" else (n,)
        return np.unpackbits(kept, count=int(np.prod(shape))).view(bool).reshape(shape)

    def write(self, fact: str, probe: int, values: np.ndarray) -> None:
        """Put down a fact of each row by one probe, as `told` returns it."""
        self.kept[fact][probe] = np.packbits(values.reshape(-1)) if _is_bits(fact) else values

    def of(self, probes: np.ndarray, score: str | None = None) -> np.ndarray | None:
        """Return the parts of rows in a score of some probes, (p, n), of which it is the mean.

        They are bool where a row is right or wrong, and else float32. Of groups they are float32
        (p, G), as `by_group` says.

        Arguments:
            probes: int64 (p,), their numbers.
            score: its name; by default that of which the first fact is.

        Returns:
            None if the fact is not kept, or one of the probes is not known.
        """
        score = score or _main(self.labels)
        fact = fact_of(score, are_several(self.labels))
        if fact not in self.kept or not self.known[probes].all():
            return None
        whole = score in ("accuracy", "subset_accuracy") or FIRST_FEW.fullmatch(score)
        found = np.empty((len(probes), len(self.labels)), bool if whole else np.float32)
        for place, probe in enumerate(np.asarray(probes).tolist()):
            found[place] = self._parts(score, self.told(fact, probe))
        return found if self.groups is None else by_group(found, self.groups)

    def _parts(self, score: str, told: np.ndarray) -> np.ndarray:
        """Return the parts of rows in a score of one probe, by fold where there are folds."""
        if self.folds is None:
            return parts(score, told, self.labels)
        found = np.empty(len(told))
        for fold in np.unique(self.folds):
            rows = self.folds == fold
            found[rows] = parts(score, told[rows], self.labels[rows])
        return found


def _is_bits(fact: str) -> bool:
    return fact in ("right", "given") or bool(FIRST_FEW.fullmatch(fact))


def _layout(fact: str, labels: np.ndarray, n_classes: int) -> tuple[int, np.dtype]:
    """Return how many values of which type a fact of n rows takes of one probe."""
    n = len(labels)
    if fact in _PARTS:
        return n, np.dtype(np.float32)
    if fact == "class":
        return n, np.min_scalar_type(max(n_classes, int(labels.max(initial=0)) + 1) - 1)
    return -(-(labels.size if fact == "given" else n) // 8), np.dtype(np.uint8)


def laid_out(rows: RowScores) -> bool:
    """Return whether what is kept has the shapes and types of such rows and probes."""
    probes = rows.known.ndim == 1 and rows.known.dtype == bool
    if not (probes and rows.labels.ndim and len(rows.labels) and rows.kept):
        return False
    for fact, array in rows.kept.items():
        if not (_is_bits(fact) or fact in _PARTS or fact == "class"):
            return False
        width, dtype = _layout(fact, rows.labels, 0)
        fits = array.dtype.kind == "u" if fact == "class" else array.dtype == dtype
        if not fits or array.shape != (len(rows.known), width):
            return False
        # counts of classes take room by the largest number
        if fact == "class" and array.max(initial=0) > 1 << 22:
            return False
    return True


def joined(several: Sequence[RowScores]) -> RowScores:
    """Return what is known of the probes of several rooms of the same rows, one behind the other.

    Only facts that all of them keep are in it.
    """
    facts = [fact for fact in several[0].kept if all(fact in one.kept for one in several)]
    kept = {fact: np.concatenate([one.kept[fact] for one in several]) for fact in facts}
    return replace(several[0], kept=kept, known=np.concatenate([one.known for one in several]))


def parts(score: str, told: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the part of each row in a score, (n,), from a fact of it.

    Arguments:
        score: its name.
        told: the fact (n,), or bool (n, L) of several labels.
        labels: int64 (n,), or (n, L), 0 or 1.

    Example:
        >>> parts("macro_f1", np.array([0, 1, 1]), np.array([0, 1, 0])).round(3).tolist()
        [1.0, 1.0, 0.0]
    """
    if labels.ndim > 1 and score in _OF_SEVERAL:
        return _of_labels(score, told, labels > 0)
    if score in ("balanced_accuracy", "mean_per_class"):
        counts, hits = np.bincount(labels), np.bincount(labels, told)
        of_class = np.divide(hits, counts, out=np.zeros(len(counts)), where=counts > 0)
        known = np.count_nonzero(counts)
        gained = (told - of_class[labels]) / counts[labels]
        return of_class.sum() / known + len(labels) / known * gained
    return _of_classes(score, told, labels) if fact_of(score) == "class" else told


def _of_classes(score: str, predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the parts of rows in F1 or kappa, as `featstore.probe.confusion.Agreement` has them.

    F1 = 2 t / (p + n) of a class gains (2 [both] - F1 ([predicted] + [label])) / (p + n) by a row,
    and kappa = 1 - (1 - o) / (1 - e) gains do / (1 - e) - (1 - o) de / (1 - e)^2.
    """
    n, hit = len(labels), predicted == labels
    n_classes = 1 + int(max(predicted.max(), labels.max()))
    counts, given = (np.bincount(each, minlength=n_classes) for each in (labels, predicted))
    if score == "kappa":
        agreed, expected = hit.mean(), float(given @ counts) / n**2
        if expected == 1:
            return np.full(n, np.nan)
        more = (counts[predicted] + given[labels]) / n - 2 * expected
        less = (1 - agreed) / (1 - expected)
        return 1 - less + ((hit - agreed) - less * more) / (1 - expected)
    either = given + counts
    f1 = 2 * np.bincount(labels[hit], minlength=n_classes) / np.maximum(either, 1)
    by_label = (2 * hit - f1[labels]) / either[labels]
    by_prediction = -f1[predicted] / either[predicted]
    if score == "macro_f1":
        known = np.count_nonzero(either)
        return (f1.sum() + n * (by_label + by_prediction)) / known
    gained = counts[labels] * by_label + counts[predicted] * by_prediction
    return gained + f1[labels]


def _of_labels(score: str, given: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the parts of rows in scores of L labels at once, of which each row has any number."""
    if score == "subset_accuracy":
        return (given == own).all(1)
    if score == "label_accuracy":
        return (given == own).mean(1)
    n, both = len(own), given & own
    either = given.astype(np.int64) + own
    hits, counts = both.sum(0), either.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if score == "micro_f1":
            whole = 2 * hits.sum() / counts.sum()
            return whole + n * (2 * both.sum(1) - whole * either.sum(1)) / counts.sum()
        f1 = np.where(counts > 0, 2 * hits / np.maximum(counts, 1), 0.0)
        gained = (2 * both - f1 * either) / np.maximum(counts, 1)
        return (f1.sum() + n * gained.sum(1)) / np.count_nonzero(counts)


def by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return one value a group, that has the mean of the rows and the variance of whole groups.

    With the mean m of n rows and the sum s_g of v_i - m over the rows of group g, it is

        u_g = m + s_g G / n,

    so that mean u = m, and var(u) / G = G / (G - 1) sum s_g^2 / n^2 is the variance of m if groups,
    and not rows, are drawn.

    Arguments:
        values: (p, n), of each row.
        groups: int64 (n,), in [0, G).

    Returns:
        float32 (p, G).

    Reference:
        Cameron and Miller, "A practitioner's guide to cluster-robust inference", 2015.

    Example:
        >>> by_group(np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([0, 0, 1, 1])).tolist()
        [[1.0, 0.0]]
    """
    count = int(groups.max()) + 1
    wide = values.astype(np.float64)
    mean = wide.mean(1, keepdims=True)
    sums = np.stack([np.bincount(groups, row, minlength=count) for row in wide - mean])
    return (mean + sums * count / values.shape[1]).astype(np.float32)


class RowSink:
    """Takes a fact of test rows piece by piece, those of each probe in order.

    Arguments:
        rows: room for it.
        start: the number of the first row that comes, of several processes.
        fact: which; by default the first.
    """

    def __init__(self, rows: RowScores, start: int = 0, fact: str | None = None):
        self.rows = rows
        self.fact = fact or next(iter(rows.kept))
        self._kept = rows.kept[self.fact]
        # values of a row: a bit a label
        self._width = rows.labels.shape[1] if self.fact == "given" else 1
        self._next = np.full(len(rows.known), start * self._width, np.int64)

    def add(self, probes: np.ndarray, values: np.ndarray) -> None:
        """Take (p, r), or bool (p, r, L), the r rows of each of these probes behind those before.

        Values are bool, numbers of classes, or parts, as the fact is.
        """
        values = values.reshape(len(values), -1)
        for start in np.unique(self._next[probes]):
            those = self._next[probes] == start
            self._add(probes[those], values[those], int(start))
        self._next[probes] += values.shape[1]

    def _add(self, probes: np.ndarray, values: np.ndarray, start: int) -> None:
        kept = self._kept
        if not _is_bits(self.fact):
            kept[probes, start : start + values.shape[1]] = values
            return
        before = start % 8
        if before:
            values = np.concatenate([np.zeros((len(values), before), bool), values], axis=1)
        packed = np.packbits(values, axis=1)
        kept[probes, start // 8 : start // 8 + packed.shape[1]] |= packed

    def gather(self) -> None:
        """Put together what the processes have, each of its own rows."""
        self.rows.known[:] = True
        if world() > 1:
            # no row, and so no bit, is in two processes: numbers of classes add up byte by byte
            of_class = self.fact == "class"
            all_sum(self._kept.view(np.uint8) if of_class else self._kept)


def room(
    blocks: RowBlocks, n_probes: int, most: int, metrics: Sequence[str] = ()
) -> RowScores | None:
    """Return room for what rows say of P probes, as far as it takes no more than `most`.

    Facts are kept in the order of the metrics, each as long as there is room for it. A warning
    names what is not.

    Arguments:
        blocks: the rows.
        n_probes: P.
        most: bytes.
        metrics: which scores it is for; by default accuracy, R^2, or AUROC of several labels.

    Returns:
        None if there is nothing to keep, or no room for any of it.
    """
    labels = blocks.labels()
    several = are_several(labels)
    scores = {name: fact_of(name, several) for name in metrics or (_main(labels),)}
    if has_targets(blocks) and not several:
        scores = {name: fact for name, fact in scores.items() if fact == "r2"}
    facts, taken, left = [], 0, {}
    for fact in filter(None, dict.fromkeys(scores.values())):
        width, dtype = _layout(fact, labels, blocks.n_classes)
        needed = n_probes * width * dtype.itemsize
        if taken + needed > most:
            left[fact] = needed
        else:
            facts.append(fact)
            taken += needed
    if left:
        names = ", ".join(name for name, fact in scores.items() if fact in left)
        needed = sum(left.values())
        warnings.warn(
            f"what each of the {blocks.n_rows:,} test rows says of {n_probes:,} probes in {names} "
            f"is not kept, since it takes {text(needed)}, more than an eighth of the memory: its "
            f"intervals are over seeds alone; allow {text(SHARE * (taken + needed))} to have them "
            "over test rows too",
            RowsWarning,
            stacklevel=2,
        )
    if not facts:
        return None
    return RowScores.empty(labels, n_probes, groups_of(blocks), facts, blocks.n_classes)

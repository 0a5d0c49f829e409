"""Predictions: the classes, or several labels, that probes give to rows, and their files."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from array_api_compat import array_namespace
from scipy.special import softmax

from featstore.probe.arrays import Array, to_host
from featstore.probe.confusion import SeveralLabels, Told, told
from featstore.probe.errors import MemoryBudgetError, visible
from featstore.probe.memory import text
from featstore.probe.metrics import LogitSink
from featstore.probe.results import score_name, score_of
from featstore.probe.results.evidence import parts
from featstore.probe.results.files import escaped_texts, save_arrays, writable, written_with_digest

SUFFIXES = (".csv", ".parquet", ".npz")


@dataclass(frozen=True)
class Predictions:
    """The classes that probes predict for rows, or which of several labels they give them.

    Attributes:
        table: one row a probe, with `accuracy` on these rows, or of several labels the scores of
            `featstore.probe.confusion.SeveralLabels`; NaN where their labels are of other classes.
        labels: int64 (N,), of the rows; or uint8 (N, L).
        by_probe: unsigned (N, P), the class that each distinct probe predicts for each row; of
            equal logits the first class. Or bool (N, P, L), the labels that it gives.
        probes: int64 (rows of the table,), which column of `by_probe` each row means.
        class_names: what the predicted classes are called, C of them; () where they have numbers.
        label_names: what the classes of `labels` are called; other rows may have others.
    """

    table: pd.DataFrame
    labels: np.ndarray
    by_probe: np.ndarray
    probes: np.ndarray
    class_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        score = score_of(self.table)
        known = self.table[score].dropna()
        ends = f"{known.min():.3f} to {known.max():.3f}" if len(known) else ""
        told = f", {score_name(score)} {ends}" if ends else ""
        return f"<Predictions of {len(self.labels):,} rows by {len(self.table):,} probes{told}>"

    def _repr_html_(self) -> str:
        shown = ["mode", "solver", "l2", "seed", "fraction", "k", "n_test", score_of(self.table)]
        table = self.table[[name for name in shown if name in self.table]]
        shown = table.to_html(index=False, border=0, max_rows=20)
        return visible(f"<p>{escape(repr(self))}</p>{shown}")

    @property
    def classes(self) -> np.ndarray:
        """The classes predicted by the probe of each row of the table, (N, rows of the table).

        Of several labels bool (N, rows of the table, L).
        """
        return self.by_probe[:, self.probes]

    @property
    def correct(self) -> np.ndarray | None:
        """Return whether each probe of the table has each row right, bool (rows of the table, N).

        Of several labels these are the rows' parts in the score that the table is summed up by,
        float32. None where the rows are of other classes than the probes.
        """
        score = score_of(self.table)
        if self.table[score].isna().all():
            return None
        if self.labels.ndim > 1:
            own = np.moveaxis(self.classes, 1, 0)
            return np.stack([parts(score, each, self.labels) for each in own]).astype(np.float32)
        return np.ascontiguousarray((self.classes == self.labels[:, None]).T)

    def save(self, path: str | Path) -> None:
        """Write to a .csv, .parquet or .npz file, whole or not at all.

        Tables have a line a row: its label, and a column "probe_<n>" for each row of the results,
        counted from 0; of several labels a column "label:<name>" and "probe_<n>:<name>" for each,
        0 or 1. Both are names of classes where they have names, and the label's number is
        a column of its own, "label_number". In .npz are labels (N,) and classes (N, probes), in the
        same order and as numbers, and what is called so in `class_names` and `label_names`. An
        .npz file holds its own digest; that of a table lies beside it (see
        `featstore.probe.results.files`).

        Raises:
            UsageError: the name ends in something else.
        """
        path = writable(path, SUFFIXES)
        if path.suffix.lower() == ".npz":
            names = {"class_names": self.class_names, "label_names": self.label_names}
            called = {key: np.array(value, str) for key, value in names.items() if value}
            save_arrays(path, {"labels": self.labels, "classes": self.classes, **called})
            return
        is_text = path.suffix.lower() == ".csv"
        if self.labels.ndim > 1:
            self._save_several(path, is_text)
            return
        with written_with_digest(path) as aside:
            named = bool(self.class_names and self.label_names) and not (
                _are_numbers(self.class_names) and _are_numbers(self.label_names)
            )
            columns = {"row": np.arange(len(self.labels)), "label": self.labels}
            if named:
                class_names, label_names = (
                    escaped_texts(names) if is_text else names
                    for names in (self.class_names, self.label_names)
                )
                columns["label"] = pd.Categorical.from_codes(*_coded(self.labels, label_names))
                columns["label_number"] = self.labels
            for row, probe in enumerate(self.probes):
                predicted = self.by_probe[:, probe]
                if named:
                    predicted = pd.Categorical.from_codes(*_coded(predicted, class_names))
                columns[f"probe_{row}"] = predicted
            table = pd.DataFrame(columns)
            if is_text:
                table.to_csv(aside, index=False)
            else:
                table.to_parquet(aside, index=False)

    def _save_several(self, path: Path, is_text: bool) -> None:
        """Write a table of several labels."""
        numbers = tuple(map(str, range(self.labels.shape[1])))
        names, given = self.label_names or numbers, self.class_names or numbers
        columns = {"row": np.arange(len(self.labels))}
        columns |= {f"label:{name}": self.labels[:, n] for n, name in enumerate(names)}
        for row, probe in enumerate(self.probes):
            own = self.by_probe[:, probe].astype(np.uint8)
            columns |= {f"probe_{row}:{name}": own[:, n] for n, name in enumerate(given)}
        with written_with_digest(path) as aside:
            table = pd.DataFrame(columns)
            if is_text:
                table.to_csv(aside, index=False)
            else:
                table.to_parquet(aside, index=False)


def _are_numbers(names: Sequence[str]) -> bool:
    """Return whether each class is called by its number."""
    return list(names) == [str(number) for number in range(len(names))]


def _coded(numbers: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return codes and categories: of two classes with one name both are that category."""
    categories = list(dict.fromkeys(names))
    place = {name: code for code, name in enumerate(categories)}
    return np.array([place[name] for name in names])[numbers], categories


def room_of_classes(
    n_rows: int, n_probes: int, n_classes: int, memory: int, several: bool = False
) -> np.ndarray:
    """Return an unsigned array (N, P) for predicted classes, or bool (N, P, L) for given labels.

    Raises:
        MemoryBudgetError: it takes more than half of `memory`.
    """
    dtype = np.dtype(bool) if several else np.min_scalar_type(max(0, n_classes - 1))
    shape = (n_rows, n_probes, n_classes) if several else (n_rows, n_probes)
    needed = 2 * int(np.prod(shape)) * dtype.itemsize
    if needed > memory:
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for {n_probes} predictions of {n_rows} rows: "
            f"allow {text(needed)}, or take fewer probes"
        )
    return np.zeros(shape, dtype)


class Predicted(LogitSink):
    """Stands where scores stand, and keeps the class of the largest logit.

    Attributes:
        by_probe: (N, P), filled as the rows go by.
        not_finite: bool (P,), probes with a row whose largest logit is no finite number.
    """

    def __init__(self, by_probe: np.ndarray):
        self.by_probe = by_probe
        self.not_finite = np.zeros(by_probe.shape[1], bool)
        self._done = np.zeros(by_probe.shape[1], np.int64)

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take logits (p, rows, C) of these probes on the rows that follow those before."""
        xp = array_namespace(logits)
        largest = to_host(xp.argmax(logits, axis=-1))
        told = xp.all(xp.isfinite(xp.max(logits, axis=-1)), axis=1)
        self.not_finite[probes] |= ~to_host(told)
        for probe, classes in zip(probes, largest, strict=True):
            start = self._done[probe]
            self.by_probe[start : start + len(classes), probe] = classes
            self._done[probe] = start + len(classes)

    def finish(self, labels: Array) -> None:
        """Nothing is left to be done at the end of a set of rows."""


class Given(LogitSink):
    """Stands where scores stand, and keeps which of several labels are given to each row.

    Attributes:
        by_probe: bool (N, P, L), filled as the rows go by.
        not_finite: bool (P,), probes with a row whose scores are not all finite.
    """

    def __init__(self, by_probe: np.ndarray, above: float):
        self.by_probe, self._above = by_probe, above
        self.not_finite = np.zeros(by_probe.shape[1], bool)
        self._done = np.zeros(by_probe.shape[1], np.int64)

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take scores (p, rows, L) of these probes on the rows that follow those before."""
        stand = told(logits, labels, self._above)
        self.not_finite[probes] |= ~to_host(stand.finite)
        for probe, own in zip(probes, to_host(stand.given), strict=True):
            start = self._done[probe]
            self._done[probe] = start + len(own)
            self.by_probe[start : start + len(own), probe] = own

    def finish(self, labels: Array) -> None:
        """Nothing is left to be done at the end of a set of rows."""


def scores_of_labels(given: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of `featstore.probe.confusion.SeveralLabels`, float64 (P,) each.

    Arguments:
        given: bool (N, P, L), which labels each probe gives.
        labels: (N, L), 0 or 1.
    """
    n_probes = given.shape[1]
    counted = SeveralLabels(n_probes, labels.shape[1])
    finite = np.ones(n_probes, bool)
    counted.add(np.arange(n_probes), Told(np.moveaxis(given, 1, 0), labels > 0, finite))
    return counted.columns()


class Probabilities(LogitSink):
    """Stands where scores stand, and keeps softmax of the logits, float64 (N, P, C)."""

    def __init__(self, n_rows: int, n_probes: int, n_classes: int):
        self.by_probe = np.zeros((n_rows, n_probes, n_classes))
        self._done = np.zeros(n_probes, np.int64)

    def add(self, probes: np.ndarray, logits: Array, labels: Array) -> None:
        """Take logits (p, rows, C) of these probes on the rows that follow those before."""
        for probe, own in zip(probes, to_host(logits).astype(np.float64), strict=True):
            start = self._done[probe]
            self._done[probe] = start + len(own)
            self.by_probe[start : start + len(own), probe] = softmax(own, axis=1)

    def finish(self, labels: Array) -> None:
        """Nothing is left to be done at the end of a set of rows."""

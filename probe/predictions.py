"""Predicted classes, one per probe and row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from array_api_compat import array_namespace

from probe.archives import save_arrays
from probe.arrays import Array, to_host
from probe.budget import text
from probe.errors import MemoryBudgetError
from probe.files import writable, written_with_digest
from probe.tables import escaped_texts

SUFFIXES = (".csv", ".parquet", ".npz")


@dataclass(frozen=True)
class Predictions:
    """The classes that probes predict for rows.

    Attributes:
        table: one row a probe, with `accuracy` on these rows; NaN where their labels are of other
            classes.
        labels: int64 (N,), of the rows.
        by_probe: unsigned (N, P), the class that each distinct probe predicts for each row; of
            equal logits the first class.
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

    @property
    def classes(self) -> np.ndarray:
        """The classes predicted by the probe of each row of the table, (N, rows of the table)."""
        return self.by_probe[:, self.probes]

    @property
    def correct(self) -> np.ndarray | None:
        """Whether each probe of the table has each row right, bool (rows of the table, N).

        None where the rows are of other classes than the probes.
        """
        if self.table["accuracy"].isna().all():
            return None
        return np.ascontiguousarray((self.classes == self.labels[:, None]).T)

    def save(self, path: str | Path) -> None:
        """Write to a .csv, .parquet or .npz file, whole or not at all.

        Tables have a line a row: its label, and a column "probe_<n>" for each row of the results,
        counted from 0. Both are names of classes where they have names, and the label's number is
        a column of its own, "label_number". In .npz are labels (N,) and classes (N, probes), in the
        same order and as numbers, and what is called so in `class_names` and `label_names`. An
        .npz file holds its own digest; that of a table lies beside it (see `probe.files`).

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


def _are_numbers(names: Sequence[str]) -> bool:
    """Return whether each class is called by its number."""
    return list(names) == [str(number) for number in range(len(names))]


def _coded(numbers: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return codes and categories: of two classes with one name both are that category."""
    categories = list(dict.fromkeys(names))
    place = {name: code for code, name in enumerate(categories)}
    return np.array([place[name] for name in names])[numbers], categories


def room(n_rows: int, n_probes: int, n_classes: int, memory: int) -> np.ndarray:
    """Return an unsigned array (N, P) for predicted classes.

    Raises:
        MemoryBudgetError: it takes more than half of `memory`.
    """
    dtype = np.min_scalar_type(max(0, n_classes - 1))
    needed = 2 * n_rows * n_probes * dtype.itemsize
    if needed > memory:
        raise MemoryBudgetError(
            f"{text(memory)} of memory is too little for {n_probes} predictions of {n_rows} rows: "
            f"allow {text(needed)}, or take fewer probes"
        )
    return np.zeros((n_rows, n_probes), dtype)


class Predicted:
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

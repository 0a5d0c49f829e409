"""Readers of what `featstore probe` wrote, for analyses.

Every reader refuses what is no such file, and predictions that do not belong to the table beside
them, before a number is made of it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from featstore.probe.errors import DataError, UsageError
from featstore.probe.results.files import as_written, load_arrays, opened
from featstore.probe.results.names import CURVE, as_curves, score_of
from featstore.probe.results.tables import TEXTS, read_rows, read_table
from featstore.probe.statuses import NOT_RUN

IDENTITY = ["store", "tap", "mode", "solver", "l2", "seed", "fraction", "k"]
"""The columns that say which probe a row is of."""


@dataclass(frozen=True)
class Judged:
    """Which test rows each probe of a table has right.

    Attributes:
        probes: R rows, one a probe.
        correct: bool (R, n).
        labels: int64 (n,), classes of the test rows.
    """

    probes: pd.DataFrame
    correct: np.ndarray
    labels: np.ndarray


def read_results(*paths: str | Path) -> pd.DataFrame:
    """Return the probes of results files, one row a probe, finished ones alone.

    Files that continue each other, by other seeds, modes or stores, become one table.

    Arguments:
        paths: what `featstore probe --out` or `ProbeResult.save` wrote.

    Raises:
        UsageError: a file is no table of results, or no path is given.
        DataError: a probe stands in two rows, a fraction is outside (0, 1] or has no feature,
            nothing is finished, or some files are of classes and others of numbers.
    """
    if not paths:
        raise UsageError("no results file given: name what `featstore probe --out` wrote")
    tables = [_results(Path(path)) for path in paths]
    scores = [score_of(table) for table in tables]
    if len(set(scores)) > 1:
        apart = scores.index("r2"), scores.index("accuracy")
        raise DataError(
            f"{paths[apart[0]]} is of predicted numbers and {paths[apart[1]]} of classes: "
            "analyse them apart"
        )
    table = pd.concat(tables, ignore_index=True)
    source = np.repeat(np.arange(len(tables)), [len(each) for each in tables])
    check_distinct(table, [str(paths[number]) for number in source])
    return table


def read_correct(*paths: str | Path) -> list[np.ndarray | None] | None:
    """Return what each probe of `read_results` has right, as far as it lies beside the files.

    What lies there and is not of those results is not used, with a warning.

    Returns:
        of each row of the table bool (n,), or of numbers float32 (n,), None where it is not known;
        None if it is known of no row.
    """
    found: list[np.ndarray | None] = []
    for path in map(Path, paths):
        table = read_table(path)
        rows = read_rows(path, table, score_of(table)) or [None] * len(table)
        if "status" in table:
            run = (table["status"] != NOT_RUN).to_numpy(bool)
            rows = [own for own, ran in zip(rows, run, strict=True) if ran]
        found += rows
    return found if any(rows is not None for rows in found) else None


def read_per_class(path: str | Path) -> pd.DataFrame:
    """Return a table of accuracies by class, a row for each probe and class.

    Arguments:
        path: what `featstore probe --per-class` wrote.

    Raises:
        UsageError: the file is no such table.
        DataError: a fraction is outside (0, 1] or has no feature.
    """
    path = Path(path)
    table = _typed(read_table(path), path, "class_accuracy", "featstore probe --per-class")
    if "class" not in table:
        raise _lacks(path, "class", "featstore probe --per-class")
    return table.assign(**{"class": table["class"].astype(str)})


def judged(table: pd.DataFrame, predictions: str | Path) -> Judged:
    """Return which test rows the probes of a results table have right.

    Arguments:
        table: R rows, one a probe, all that one run of `featstore probe` wrote.
        predictions: what the same run's --save-predictions wrote.

    Raises:
        UsageError: the file holds no predictions.
        DataError: it is not of these probes and rows, as its accuracies show.
    """
    labels, classes = read_predictions(predictions)
    correct = _right(labels, classes, len(table), predictions)
    _check_shares(
        correct.mean(1), table["accuracy"].to_numpy(float), len(labels), table, predictions
    )
    return Judged(table, correct, labels)


def judged_by_class(table: pd.DataFrame, predictions: str | Path) -> Judged:
    """Return which test rows the probes of a table of accuracies by class have right.

    Arguments:
        table: R * C rows, as `read_per_class` gives them.
        predictions: what the same run's --save-predictions wrote.

    Raises:
        UsageError, DataError: as `judged`.
    """
    n_classes = table["class"].nunique()
    probes = table.iloc[::n_classes].reset_index(drop=True)
    labels, classes = read_predictions(predictions)
    correct = _right(labels, classes, len(table) / n_classes, predictions)
    accuracy = table["class_accuracy"].to_numpy(float).reshape(len(probes), n_classes)
    for label in range(n_classes):
        rows = labels == label
        if rows.any():
            _check_shares(
                correct[:, rows].mean(1), accuracy[:, label], int(rows.sum()), probes, predictions
            )
    return Judged(probes, correct, labels)


def read_predictions(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, int64 (n,), and predicted classes (n, R) that `Predictions.save` wrote.

    Raises:
        UsageError: the file holds no predictions.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".npz":
            held = load_arrays(path)
            return _whole(held["labels"], held["classes"])
        with opened(path) as file:
            content = io.BytesIO(file.read())
        if as_written(path) is False:
            raise ValueError("it was changed since it was written")
        # names of classes stay as they are written: "007" is no number, and "NA" is not missing
        as_text = {"dtype": str, "keep_default_na": False}
        table = (
            pd.read_parquet(content)
            if path.suffix.lower() == ".parquet"
            else pd.read_csv(content, **as_text)
        )
        if "label_number" in table:
            return _whole(*_numbered(table))
        numbers = table.filter(regex=r"^(label|probe_\d+)$").astype(np.int64)
        return _whole(numbers.pop("label").to_numpy(), numbers.to_numpy())
    # damage makes the parsers raise a dozen kinds between them
    except Exception as error:
        first = (str(error) or type(error).__name__).partition("\n")[0]
        raise UsageError(
            f"{path} holds no predictions ({first}): name what "
            "`featstore probe --save-predictions` wrote"
        ) from None


def _whole(labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both if they are numbers of classes."""
    for array, name, ndim in ((labels, "labels", 1), (classes, "classes", 2)):
        if array.dtype.kind not in "iu" or array.ndim != ndim:
            raise ValueError(f"its {name} are {array.dtype} {array.shape}")
    return labels, classes


def _results(path: Path) -> pd.DataFrame:
    table = read_table(path)
    if "class_accuracy" in table:
        raise UsageError(
            f"{path} holds accuracies by class: `featstore classes` reads those; name what "
            "`featstore probe --out` wrote"
        )
    score = score_of(table)
    table = _typed(table, path, score, "featstore probe --out")
    table = as_curves(table).assign(l2=table["l2"])  # without the probes that were not run
    if table[score].notna().sum() == 0:
        raise DataError(
            f"{path} holds no finished probe: run the command that made it again with --resume"
        )
    return table


def _typed(table: pd.DataFrame, path: Path, score: str, writer: str) -> pd.DataFrame:
    """Return the table with its columns as they were computed, once they are all there."""
    for name in [*IDENTITY, score]:
        if name not in table:
            raise _lacks(path, name, writer)
    columns = {}
    for name in table:
        if name in TEXTS and name != "class":
            text = table[name].astype(object).where(table[name].notna(), "")
            columns[name] = text.astype(str)
    try:
        columns |= {name: table[name].astype("Int64") for name in ("seed", "k")}
        columns |= {name: table[name].astype("float64") for name in ("l2", "fraction", score)}
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is no table of results ({error}): name another file") from None
    return table.assign(**columns).astype({"k": "int64"})


def _lacks(path: Path, name: str, writer: str) -> UsageError:
    return UsageError(f"{path} has no column {name!r}: name what `{writer}` wrote")


def _numbered(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions as numbers: a class that is no row's label gets one beyond."""
    labels = table["label_number"].astype(np.int64).to_numpy()
    numbers = dict(zip(table["label"].astype(str), labels.tolist(), strict=True))
    predicted = table.filter(regex=r"^probe_\d+$").astype(str)
    for name in pd.unique(predicted.to_numpy().ravel()):
        numbers.setdefault(name, int(labels.max()) + 1 + len(numbers))
    classes = predicted.apply(lambda column: column.map(numbers)).to_numpy(np.int64)
    return labels, classes.reshape(len(table), -1)


def check_distinct(table: pd.DataFrame, files: Sequence[str]) -> None:
    """Raise DataError where a probe stands in two rows; `files` says where each row is from."""
    curves = as_curves(table)
    number = curves.groupby([*CURVE, "seed", "fraction"], dropna=False).ngroup().to_numpy()
    twice = pd.Series(number).duplicated().to_numpy()
    if not twice.any():
        return
    row = int(twice.argmax())
    first = int((number == number[row]).argmax())
    probe, where = table.iloc[row], " and in ".join(dict.fromkeys([files[first], files[row]]))
    of_seed = "" if pd.isna(probe.seed) else f" of seed {probe.seed}"
    raise DataError(
        f"fraction {probe.fraction:g}{of_seed} (mode {probe['mode']!r}, solver {probe.solver!r}, "
        f"store {probe.store!r}) stands twice, in {where}: keep one row for each probe"
    )


def _right(
    labels: np.ndarray, classes: np.ndarray, n_probes: float, path: str | Path
) -> np.ndarray:
    if classes.ndim != 2 or labels.ndim != 1 or len(labels) != len(classes):
        raise UsageError(f"{path} holds no predictions: shapes {labels.shape} and {classes.shape}")
    if classes.shape[1] != n_probes:
        raise DataError(
            f"{path} has predictions of {classes.shape[1]} probes and the table has "
            f"{n_probes:g}: give both as one run of `featstore probe` wrote them"
        )
    return np.ascontiguousarray((classes == labels[:, None]).T)


def _check_shares(
    found: np.ndarray, said: np.ndarray, n_rows: int, probes: pd.DataFrame, path: str | Path
) -> None:
    """Raise DataError unless as many rows are right as the table says, where it says something."""
    other = np.abs(found - said) * n_rows > 0.5
    if other.any():
        row = int(other.argmax())
        probe = probes.iloc[row]
        raise DataError(
            f"{path} is not of these probes and test rows: probe {row} (fraction "
            f"{probe.fraction:g}, seed {probe.seed}) has {found[row]:.4f} of them right there and "
            f"{said[row]:.4f} in the table; give both as one run of `featstore probe` wrote them"
        )

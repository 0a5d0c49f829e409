"""Results read back: tables of probes, and which test rows each probe has right."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from featstore.probe.errors import DataError, FileError, RowsWarning, UsageError
from featstore.probe.results import CURVE, as_curves, score_name, score_of, scored_by
from featstore.probe.results.evidence import RowScores, fact_of, laid_out, parts
from featstore.probe.results.files import (
    TEXTS,
    as_written,
    load_arrays,
    opened,
    read_table,
    save_arrays,
    save_table,
)
from featstore.probe.statuses import Status

_DIGESTED = [
    "store",
    "tap",
    "mode",
    "solver",
    "l2_choice",
    "l2",
    "seed",
    "fraction",
    "k",
    "n_train",
    "n_test",
    "options",
]
"""The columns that say which probes of which data a table of results is of."""

VERSION = 2


def rows_path(results: str | Path) -> Path:
    """Return the file beside a results file that says which test rows its probes have right."""
    path = Path(results)
    return path.with_name(f"{path.name}.rows.npz")


def table_digest(table: pd.DataFrame) -> str:
    """Return a digest of what says which probes of which data a table is of, and in which rows.

    A penalty that was chosen, and so is known once its probe is solved, does not count.
    """
    found = hashlib.sha256()
    given = table.get("l2_choice", pd.Series("given", table.index)) == "given"
    for name in _DIGESTED:
        values = table[name] if name in table else pd.Series("", table.index)
        if name == "l2":
            values = values.where(given)
        known = values.astype(object).where(values.notna(), "").tolist()
        # 3 and 3.0 are one number, whatever a file made of it
        texts = [each if isinstance(each, str) else repr(float(each)) for each in known]
        found.update("\n".join([name, *texts, ""]).encode())
    return found.hexdigest()


def save_with_rows(
    table: pd.DataFrame, results: Path, rows: RowScores | None, probes: np.ndarray
) -> None:
    """Write a results file and the file beside it, or remove that one, whole or not at all.

    Whatever happens in between, the file beside knows all probes that the table has.

    Arguments:
        table: R rows, one a probe.
        results: the results file.
        rows: of P probes; None if they are not known.
        probes: int64 (R,), the probe of each row of the table.

    Raises:
        UsageError: as `featstore.probe.results.files.save_table`.
    """

    def beside() -> None:
        if rows is None:
            rows_path(results).unlink(missing_ok=True)
        else:
            _save(results, table, rows, probes)

    save_table(table, results, beside, digest=True)


def _save(results: Path, table: pd.DataFrame, rows: RowScores, probes: np.ndarray) -> None:
    arrays = {"labels": rows.labels, "known": rows.known, "probes": probes}
    arrays |= {f"kept.{fact}": array for fact, array in rows.kept.items()}
    arrays |= {} if rows.groups is None else {"groups": rows.groups}
    arrays |= {} if rows.folds is None else {"folds": rows.folds}
    save_arrays(rows_path(results), {"version": VERSION, "digest": table_digest(table), **arrays})


def load_rows(
    results: Path, table: pd.DataFrame, score: str
) -> tuple[RowScores, np.ndarray] | None:
    """Return what lies beside a results file, and the probe of each row; None if nothing does.

    What does not belong to the table is refused, with a warning that says why.

    Arguments:
        results: the results file.
        table: R rows, all that stands in it.
        score: a column of it, whose numbers have to be those of the rows if they tell of it.
    """
    path = rows_path(results)
    if not path.exists():
        return None
    try:
        held = load_arrays(path)
        version = int(held["version"])
        if version not in (1, VERSION):
            raise DataError(f"it is of version {version}, and this reads 1 and {VERSION}")
        if str(held["digest"]) != table_digest(table):
            raise DataError("it is of another sweep or other rows than the table")
        kept = {
            name.removeprefix("kept."): array
            for name, array in held.items()
            if name.startswith("kept.")
        }
        if version == 1:  # one fact, which the labels tell
            empty = RowScores.empty(held["labels"][:0], 0)
            kept = dict.fromkeys(empty.kept, held["kept"])
        rows = RowScores(held["labels"], kept, held["known"], held.get("groups"), held.get("folds"))
        probes = held["probes"]
        _check(rows, probes, table, score)
    except (ValueError, TypeError, LookupError, FileError, DataError) as error:
        first = str(error).partition("\n")[0]
        warnings.warn(
            f"{path} is not used ({first}): intervals are over seeds alone; probe again to have "
            "them over test rows too, or remove it",
            RowsWarning,
            stacklevel=2,
        )
        return None
    return rows, probes


def unpacked(
    rows: RowScores, probes: np.ndarray, score: str | None = None
) -> list[np.ndarray | None]:
    """Return the parts of test rows in a score of the probe of each row of a table.

    A probe that is not known, as one that was not run, has None; so have all if the rows do not
    tell of the score.

    Arguments:
        rows: of P probes.
        probes: int64 (R,), the probe of each row of the table.
        score: as `RowScores.of` takes it.
    """
    every: list[np.ndarray | None] = [None] * len(probes)
    known = np.flatnonzero(rows.known[probes])
    found = rows.of(probes[known], score)
    for place, own in zip(known, found, strict=True) if found is not None else ():
        every[place] = own
    return every


def _check(rows: RowScores, probes: np.ndarray, table: pd.DataFrame, score: str) -> None:
    """Raise DataError unless the rows have the scores that the table says."""
    shapes = {fact: array.shape for fact, array in rows.kept.items()}
    n_rows, n_probes = len(rows.labels), len(rows.known)
    by_row = [each for each in (rows.groups, rows.folds) if each is not None]
    if not laid_out(rows) or any(each.shape != (n_rows,) for each in by_row):
        raise DataError(f"it holds labels {rows.labels.shape}, {n_probes} probes and {shapes}")
    if probes.shape != (len(table),) or not np.isin(probes, np.arange(n_probes)).all():
        raise DataError(f"it holds {n_probes} probes for {len(table)} rows of the table")
    said = table[score].astype(float).to_numpy()
    told = np.flatnonzero(np.isfinite(said) & rows.known[probes])
    found, slack = np.full(n_probes, np.nan), np.zeros(n_probes)
    for probe in np.unique(probes[told]):
        values = rows.of(np.array([probe]), score)
        if values is None:
            return
        found[probe] = values.mean(dtype=np.float64)
        # a row that is right is a whole number; other parts, and those of groups, are float32
        rounded = 1e-5 * max(1.0, float(np.abs(values).max()))
        slack[probe] = rounded if values.dtype == np.float32 else 0.5 / n_rows
    off = ~(np.abs(found[probes[told]] - said[told]) <= slack[probes[told]])
    if off.any():
        row = told[int(off.argmax())]
        raise DataError(
            f"its {score} of row {row} is {found[probes[row]]:.4f}, and the table's {said[row]:.4f}"
        )


_IDENTITY = ["store", "tap", "mode", "solver", "l2", "seed", "fraction", "k"]
"""The columns that say which probe a row is of."""


@dataclass(frozen=True)
class Judged:
    """Test rows that each probe of a table has right.

    Attributes:
        probes: R rows, one a probe.
        correct: bool (R, n); or float32 (R, n), their parts in another score than accuracy.
        labels: int64 (n,), classes of the test rows.
    """

    probes: pd.DataFrame
    correct: np.ndarray
    labels: np.ndarray


def read_results(*paths: str | Path, score: str | None = None) -> pd.DataFrame:
    """Return the probes of results files, one row a probe, finished ones alone.

    Files that continue each other, by other seeds, modes or stores, become one table.

    Arguments:
        paths: what `featstore probe --out` or `ProbeResult.save` wrote.
        score: a column that the table is to be summed up by; by default accuracy, or R^2.

    Raises:
        UsageError: a file is no table of results, or lacks that score, or no path is given.
        DataError: a probe stands in two rows, a fraction is outside (0, 1] or has no feature,
            nothing is finished, or some files are of classes and others of numbers.
    """
    if not paths:
        raise UsageError("no results file given: name what `featstore probe --out` wrote")
    tables = [_results(Path(path), score) for path in paths]
    scores = [score_of(table) for table in tables]
    if len(set(scores)) > 1:
        if "r2" not in scores:
            other = next(place for place, each in enumerate(scores) if each != scores[0])
            raise DataError(
                f"{paths[0]} is of {scores[0]} and {paths[other]} of {scores[other]}: name a score "
                "that both have"
            )
        other = next(place for place, each in enumerate(scores) if each != "r2")
        raise DataError(
            f"{paths[scores.index('r2')]} is of predicted numbers and {paths[other]} of classes: "
            "analyse them apart"
        )
    table = pd.concat(tables, ignore_index=True)
    source = np.repeat(np.arange(len(tables)), [len(each) for each in tables])
    check_distinct(table, [str(paths[number]) for number in source])
    return table


def read_correct(*paths: str | Path, score: str | None = None) -> list[np.ndarray | None] | None:
    """Return what test rows say of each probe of `read_results`, as far as it lies beside files.

    What lies there and is not of those results is not used, with a warning.

    Arguments:
        paths: as of `read_results`.
        score: likewise.

    Returns:
        of each row of the table which test rows its probe has right, bool (n,), or their parts in
        another score, float32 (n,); None where it is not known, or if it is known of no row.
    """
    found: list[np.ndarray | None] = []
    for path in map(Path, paths):
        table = read_table(path)
        named = score or score_of(table)
        held = load_rows(path, table, named)
        rows = [None] * len(table) if held is None else unpacked(*held, named)
        if "status" in table:
            run = (table["status"] != Status.NOT_RUN).to_numpy(bool)
            rows = [own for own, ran in zip(rows, run, strict=True) if ran]
        found += rows
    return found if any(rows is not None for rows in found) else None


def read_per_class(path: str | Path) -> pd.DataFrame:
    """Return a table of accuracies by class, a row for each probe and class.

    Arguments:
        path: what `featstore probe --save-per-class` wrote.

    Raises:
        UsageError: the file is no such table.
        DataError: a fraction is outside (0, 1] or has no feature.
    """
    path = Path(path)
    table = _typed(read_table(path), path, "class_accuracy", "featstore probe --save-per-class")
    if "class" not in table:
        raise _lacks(path, "class", "featstore probe --save-per-class")
    return table.assign(**{"class": table["class"].astype(str)})


def judged(table: pd.DataFrame, predictions: str | Path) -> Judged:
    """Return which test rows the probes of a results table have right.

    Arguments:
        table: R rows, one a probe, all that one run of `featstore probe` wrote. If it is summed up
            by another score than accuracy, the rows' parts in that one are returned.
        predictions: what the same run's --save-predictions wrote.

    Raises:
        UsageError: the file holds no predictions, or predicted classes do not tell the score.
        DataError: it is not of these probes and rows, as its scores show.
    """
    labels, classes = read_predictions(predictions)
    correct, score = _right(labels, classes, len(table), predictions), score_of(table)
    fact = fact_of(score)
    if fact not in ("right", "class"):
        raise UsageError(
            f"predicted classes do not tell {score_name(score)}: leave the predictions out, or "
            "take another score"
        )
    if score != "accuracy":
        told = classes.T if fact == "class" else correct
        correct = np.stack([parts(score, own, labels) for own in told]).astype(np.float32)
    said = table[score].to_numpy(float)
    _check_shares(correct.mean(1, dtype=np.float64), said, len(labels), table, predictions, score)
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


def _results(path: Path, score: str | None) -> pd.DataFrame:
    table = read_table(path)
    if "class_accuracy" in table:
        raise UsageError(
            f"{path} holds accuracies by class: `featstore classes` reads those; name what "
            "`featstore probe --out` wrote"
        )
    if score is None:
        score = score_of(table)
    else:
        table = scored_by(table, score)
    table = _typed(table, path, score, "featstore probe --out")
    table = as_curves(table).assign(l2=table["l2"])  # without the probes that were not run
    if table[score].notna().sum() == 0:
        raise DataError(
            f"{path} holds no finished probe: run the command that made it again with --resume"
        )
    return table


def _typed(table: pd.DataFrame, path: Path, score: str, writer: str) -> pd.DataFrame:
    """Return the table with its columns as they were computed, once they are all there."""
    for name in [*_IDENTITY, score]:
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
    if "draw" in table:
        raise DataError(
            f"{files[row]} has several amounts of train rows: `featstore learn FILE --compare "
            "OTHER` sets learning curves side by side"
        )
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
    found: np.ndarray,
    said: np.ndarray,
    n_rows: int,
    probes: pd.DataFrame,
    path: str | Path,
    score: str = "accuracy",
) -> None:
    """Raise DataError unless the scores are those that the table says, where it says something."""
    # of accuracies half a row, of others what is lost of parts in float32
    other = np.abs(found - said) > max(0.5 / n_rows, 0.0 if score == "accuracy" else 1e-4)
    if other.any():
        row = int(other.argmax())
        probe = probes.iloc[row]
        right = "of them right" if score == "accuracy" else f"as {score_name(score)}"
        raise DataError(
            f"{path} is not of these probes and test rows: probe {row} (fraction "
            f"{probe.fraction:g}, seed {probe.seed}) has {found[row]:.4f} {right} there and "
            f"{said[row]:.4f} in the table; give both as one run of `featstore probe` wrote them"
        )

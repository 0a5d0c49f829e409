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
from featstore.probe.memory import all_sum, text, world
from featstore.probe.results import CURVE, as_curves, score_of, scored_by
from featstore.probe.results.files import (
    TEXTS,
    as_written,
    load_arrays,
    opened,
    read_table,
    save_arrays,
    save_table,
)
from featstore.probe.rows import RowBlocks, groups_of, has_targets
from featstore.probe.statuses import Status

MOST = 512 << 20
"""Bytes that rows may take unless one says otherwise."""

SHARE = 8
"""Rows are kept where they take at most one part in so many of the memory that is granted."""

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

VERSION = 1


@dataclass(frozen=True)
class RowScores:
    """The part of each of n test rows in the scores of P probes.

    Attributes:
        labels: int64 (n,), targets, float64 (n,) or (n, T), or several labels, uint8 (n, L).
        kept: of classes uint8 (P, ceil(n / 8)), a bit a row, which says whether it is right; of
            numbers float32 (P, n), values whose mean is R^2 (see `Regression.values`), and of
            several labels, values whose mean is AUROC (`featstore.probe.ranking.parts_of_rows`).
        known: bool (P,), which probes have been scored.
        groups: int64 (n,), which of G groups each row is of; None where each stands for itself.
    """

    labels: np.ndarray
    kept: np.ndarray
    known: np.ndarray
    groups: np.ndarray | None = None

    @classmethod
    def empty(
        cls, labels: np.ndarray, n_probes: int, groups: np.ndarray | None = None
    ) -> "RowScores":
        """Return room for P probes, of which nothing is known; groups are numbers or texts (n,)."""
        groups = None if groups is None else np.unique(groups, return_inverse=True)[1]
        of_classes = labels.dtype.kind != "f" and labels.ndim == 1
        width, dtype = (-(-len(labels) // 8), np.uint8) if of_classes else (len(labels), np.float32)
        kept = np.zeros((n_probes, width), dtype)
        return cls(labels, kept, np.zeros(n_probes, bool), groups)

    def of(self, probes: np.ndarray) -> np.ndarray | None:
        """Return bool or float32 (p, n) of some probes; None if one of them is not known.

        Of groups it is float32 (p, G), as `by_group` says.
        """
        if not self.known[probes].all():
            return None
        kept = self.kept[probes]
        if kept.dtype != np.float32:
            kept = np.unpackbits(kept, axis=1, count=len(self.labels)).view(bool)
        return kept if self.groups is None else by_group(kept, self.groups)

    def put(self, probes: np.ndarray, others: "RowScores") -> None:
        """Take in what is known of other probes, under these numbers, in place."""
        self.kept[probes], self.known[probes] = others.kept, others.known


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
    """Takes test rows piece by piece, those of each probe in order.

    Arguments:
        rows: room for them.
        start: the number of the first row that comes, of several processes.
    """

    def __init__(self, rows: RowScores, start: int = 0):
        self.rows = rows
        self._next = np.full(len(rows.known), start, np.int64)

    def add(self, probes: np.ndarray, values: np.ndarray) -> None:
        """Take bool or float (p, r), the r rows of each of these probes behind those before."""
        for start in np.unique(self._next[probes]):
            those = self._next[probes] == start
            self._add(probes[those], values[those], int(start))
        self._next[probes] += values.shape[1]

    def _add(self, probes: np.ndarray, values: np.ndarray, start: int) -> None:
        kept = self.rows.kept
        if kept.dtype == np.float32:
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
            all_sum(self.rows.kept)  # no row, and so no bit, is in two processes


def room(blocks: RowBlocks, n_probes: int, most: int) -> RowScores | None:
    """Return room for the rows of P probes; None, with a warning, if it takes more than `most`."""
    needed = n_probes * (4 * blocks.n_rows if has_targets(blocks) else -(-blocks.n_rows // 8))
    if needed > most:
        warnings.warn(
            f"which of the {blocks.n_rows:,} test rows each of {n_probes:,} probes has right is "
            f"not kept, since it takes {text(needed)}, more than an eighth of the memory: "
            f"intervals are over seeds alone; allow {text(SHARE * needed)} to have them over test "
            "rows too",
            RowsWarning,
            stacklevel=2,
        )
        return None
    return RowScores.empty(blocks.labels(), n_probes, groups_of(blocks))


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
    arrays = {"labels": rows.labels, "kept": rows.kept, "known": rows.known, "probes": probes}
    if rows.groups is not None:
        arrays["groups"] = rows.groups
    save_arrays(rows_path(results), {"version": VERSION, "digest": table_digest(table), **arrays})


def load_rows(
    results: Path, table: pd.DataFrame, score: str
) -> tuple[RowScores, np.ndarray] | None:
    """Return what lies beside a results file, and the probe of each row; None if nothing does.

    What does not belong to the table is refused, with a warning that says why.

    Arguments:
        results: the results file.
        table: R rows, all that stands in it.
        score: the column that summarises it, "accuracy" or "r2".
    """
    path = rows_path(results)
    if not path.exists():
        return None
    try:
        held = load_arrays(path)
        if int(held["version"]) != VERSION:
            raise DataError(f"it is of version {held['version']}, and this reads {VERSION}")
        if str(held["digest"]) != table_digest(table):
            raise DataError("it is of another sweep or other rows than the table")
        groups = held.get("groups")
        rows = RowScores(held["labels"], held["kept"], held["known"], groups)
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


def read_rows(results: Path, table: pd.DataFrame, score: str) -> list[np.ndarray | None] | None:
    """Return what `load_rows` finds as bool or float32 (n,) of each row of the table.

    A probe that is not known, as one that was not run, has None; so has all of it if no file is
    there.
    """
    found = load_rows(results, table, score)
    return None if found is None else unpacked(*found)


def unpacked(rows: RowScores, probes: np.ndarray) -> list[np.ndarray | None]:
    """Return what is known of the probe of each row of a table, as `read_rows` does.

    Arguments:
        rows: of P probes.
        probes: int64 (R,), the probe of each row of the table.
    """
    every: list[np.ndarray | None] = [None] * len(probes)
    known = np.flatnonzero(rows.known[probes])
    for place, own in zip(known, rows.of(probes[known]), strict=True):
        every[place] = own
    return every


def _check(rows: RowScores, probes: np.ndarray, table: pd.DataFrame, score: str) -> None:
    """Raise DataError unless the rows have the scores that the table says."""
    if not (rows.labels.ndim and rows.known.ndim == 1 == probes.ndim and len(rows.labels)):
        raise DataError(f"it holds labels {rows.labels.shape} and probes {probes.shape}")
    n_rows, n_probes = len(rows.labels), len(rows.known)
    wanted = RowScores.empty(rows.labels, n_probes).kept
    fits = rows.kept.shape == wanted.shape and rows.kept.dtype == wanted.dtype
    if not fits or len(probes) != len(table) or not np.isin(probes, np.arange(n_probes)).all():
        raise DataError(f"it holds {rows.kept.shape} for {len(table)} rows of the table")
    said = table[score].astype(float).to_numpy()
    told = np.flatnonzero(np.isfinite(said) & rows.known[probes])
    found, slack = np.full(n_probes, np.nan), np.zeros(n_probes)
    for probe in np.unique(probes[told]):
        values = rows.of(np.array([probe]))[0]
        found[probe] = values.mean(dtype=np.float64)
        # a row that is right is a whole number; parts of R^2, and of groups, are float32
        rounded = 1e-5 * max(1.0, float(np.abs(values).max()))
        slack[probe] = rounded if values.dtype == np.float32 else 0.5 / n_rows
    off = np.abs(found[probes[told]] - said[told]) > slack[probes[told]]
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
        correct: bool (R, n).
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

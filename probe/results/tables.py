"""The long table in CSV, JSON and Parquet, and which rows each probe has right."""

import hashlib
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from featstore.probe import statuses
from featstore.probe.errors import ChangedWarning, DataError, FileError, RowsWarning, UsageError
from featstore.probe.memory import all_sum, text, world
from featstore.probe.results.files import (
    as_written,
    digest_path,
    load_arrays,
    opened,
    save_arrays,
    writable,
    written_whole,
    written_with_digest,
)
from featstore.probe.rows import RowBlocks, has_targets

SUFFIXES = (".csv", ".json", ".parquet")

TEXTS = ("store", "tap", "mode", "solver", "l2_choice", "l2_place", "status", "options", "class")
"""Columns that hold text even where it looks like a number, or is empty."""

LIMITS = {
    **dict.fromkeys(
        ("accuracy", "mean_per_class", "top5", "ece", "class_accuracy", "chance", "majority"),
        (0.0, 1.0),
    ),
    "cka": (-1e-6, 1 + 1e-6),
    "r2": (-math.inf, 1.0),
    **dict.fromkeys(("nll", "mse", "mae", "l2"), (0.0, math.inf)),
    **dict.fromkeys(("n_train", "n_test"), (0.0, 2.0**53)),
}
"""Between what a number of a table of probes may lie."""

# What a spreadsheet takes for the beginning of a formula, and what marks a text that began so.
_FORMULA, _TEXT = "=+-@\t\r", "'"


def check_suffix(path: str | Path) -> Path:
    """Return the path if a table can be written under its name.

    Raises:
        UsageError: it ends in none of .csv, .json and .parquet, or its folder does not exist.
    """
    return writable(path, SUFFIXES)


def save_table(
    table: pd.DataFrame,
    path: str | Path,
    before: Callable[[], object] | None = None,
    digest: bool = False,
) -> None:
    """Write a table in the format of the file's suffix, aside first and renamed when complete.

    Every number is written with all its digits; what is not known is an empty field in .csv and
    null in .json. In .csv a text that a spreadsheet would run as a formula stands behind a "'".

    Arguments:
        table: any.
        path: of the file.
        before: called when the table is written aside, before it takes the file's place: what lies
            beside the file is then there as soon as the table is, and not if the table is not.
        digest: whether to write the file's SHA-256 beside it, by which `read_table` sees changes.

    Raises:
        UsageError: as `check_suffix`.
    """
    path = check_suffix(path)
    suffix = path.suffix.lower()
    with (written_with_digest if digest else written_whole)(path) as aside:
        if suffix == ".csv":
            escaped(table).to_csv(aside, index=False)
        elif suffix == ".json":
            aside.write_text(as_json(table, indent=1) + "\n")
        else:
            table.to_parquet(aside, index=False)
        if before:
            before()


def as_json(table: pd.DataFrame, indent: int | None = None) -> str:
    """Return the rows as a list of objects, every number with all its digits, null for missing."""
    # pandas would cut a gradient norm of 1e-11 to 0
    known = table.astype(object).where(table.notna(), None)
    return json.dumps(known.to_dict("records"), indent=indent, default=lambda value: value.item())


def from_json(text: str) -> pd.DataFrame:
    """Return the table that `as_json` wrote; whole numbers that are missing somewhere as Int64."""
    records = json.loads(text)
    return _typed({name: [record[name] for record in records] for name in records[0]})


def read_table(path: str | Path, unchanged: bool = False) -> pd.DataFrame:
    """Return a table that `save_table` wrote; whole numbers that are missing somewhere as Int64.

    A file whose digest lies beside it is held against that. One that was changed is read with a
    warning.

    Arguments:
        path: of the file.
        unchanged: whether to refuse a file that was changed since it was written.

    Raises:
        UsageError: the file is no such table, or was changed and must not have been.
        DataError: a number is outside of what it may be, or a status is none.
        FileError: there is no such file.
    """
    path = check_suffix(path)
    suffix = path.suffix.lower()
    with opened(path) as file:
        content = io.BytesIO(file.read())
    if as_written(path) is False:
        _say_changed(path, unchanged)
    try:
        if suffix == ".csv":
            written = pd.read_csv(content, dtype=str, keep_default_na=False)
            table = _typed({name: _numbers(written[name].tolist(), name) for name in written})
        elif suffix == ".json":
            table = from_json(content.getvalue().decode())
        else:
            table = pd.read_parquet(content)
    # damage makes the parsers raise a dozen kinds between them
    except Exception as error:
        first = (str(error) or type(error).__name__).partition("\n")[0]
        raise UsageError(
            f"{path} is no table of results ({first}): name another file, or remove it"
        ) from None
    check_values(table, path)
    return table


def _say_changed(path: Path, refuse: bool) -> None:
    beside = digest_path(path).name
    changed = f"{path} was changed since it was written: its SHA-256 is not that in {beside}"
    if refuse:
        raise UsageError(
            f"{changed}; put the file back, leave out resume to solve every probe, or remove "
            f"{beside} to go on with the change"
        )
    warnings.warn(
        f"{changed}; its numbers are taken as they are (remove {beside} if they are right)",
        ChangedWarning,
        stacklevel=3,
    )


def check_values(table: pd.DataFrame, path: Path) -> None:
    """Raise DataError where a table of probes has what none can have: `LIMITS`, status words.

    Rows are counted from 0.
    """
    if not {"mode", "solver"} <= set(table):
        return  # of no probes
    for name in table.columns.intersection(list(LIMITS)):
        values = _as_floats(table[name], name, path)
        low, high = LIMITS[name]
        wrong = np.flatnonzero((values < low) | (values > high))
        if wrong.size:
            bounds = f"at most {high:g}" if low == -math.inf else f"at least {low:g}"
            bounds = f"from {low:.0f} to {high:.0f}" if math.isfinite(high - low) else bounds
            raise _impossible(path, wrong[0], name, f"{values[wrong[0]]:g}", f"it is {bounds}")
    if "status" in table:
        known = {*statuses.SOLVED, *statuses.WORST_FIRST}
        for row, status in enumerate(table["status"].astype(str)):
            if not known.issuperset(statuses.kinds(status)):
                raise _impossible(path, row, "status", repr(status), "no probe has that status")
    if "fraction" in table and "k" in table:
        _check_fractions(table, path)


def _as_floats(column: pd.Series, name: str, path: Path) -> np.ndarray:
    try:
        return column.astype("Float64").to_numpy(float, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path} is no table of results (its {name} holds other things than numbers: "
            f"{str(error).partition(chr(10))[0]}): name another file, or remove it"
        ) from None


def _impossible(path: Path, row: int, name: str, value: str, why: str) -> DataError:
    return DataError(
        f"row {row} of {path} has {name} {value}, which cannot be: {why}; the file is damaged or "
        "was edited: put it back, or make it again"
    )


def _check_fractions(table: pd.DataFrame, path: Path) -> None:
    fraction, k = (_as_floats(table[name], name, path) for name in ("fraction", "k"))
    wrong = ~((fraction > 0) & (fraction <= 1) & (k > 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"row {row} of {path} has fraction {fraction[row]:g} and k = {table['k'].iloc[row]}: "
            "fractions lie in (0, 1], and take one feature at least; drop that row"
        )


def escaped(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose texts no spreadsheet runs as a formula.

    A text that begins with = + - @ or a tab, and is no number, gets a "'" in front; so does one
    that begins with "'" and such a character, so that `unescaped` gives back what was there.

    >>> names = pd.DataFrame({"class": ["=1+1", "-1", "'tis", "'=", "a"]})
    >>> escaped(names)["class"].tolist()
    ["'=1+1", '-1', "'tis", "''=", 'a']
    >>> unescaped(escaped(names)).equals(names)
    True
    """
    texts = table.select_dtypes(include=["object", "string", "category"])
    return table.assign(
        **{str(name): escaped_texts(texts[name].tolist()) for name in texts}
    ).set_axis(escaped_texts(list(table.columns)), axis=1)


def unescaped(table: pd.DataFrame) -> pd.DataFrame:
    """Return what `escaped` was given."""
    texts = table.select_dtypes(include=["object", "string"])
    return table.assign(**{name: [_unescaped(text) for text in texts[name]] for name in texts})


def escaped_texts(texts: Sequence) -> list:
    """Return values with a "'" before every text that a spreadsheet would run."""
    return [_TEXT + text if isinstance(text, str) and _is_formula(text) else text for text in texts]


def _is_formula(text: str) -> bool:
    if not text.lstrip(_TEXT).startswith(tuple(_FORMULA)):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _unescaped(text: object) -> object:
    marked = isinstance(text, str) and text.startswith(_TEXT) and _is_formula(text[1:])
    return text[1:] if marked else text


def _numbers(texts: list[str], name: str) -> list:
    """Return the values of a .csv column to the last digit, None where nothing is written."""
    if name in TEXTS:
        return [_unescaped(text) for text in texts]
    read = int if all(re.fullmatch(r"-?\d*", text) for text in texts) else float
    return [read(text) if text else None for text in texts]


def _typed(columns: dict[str, list]) -> pd.DataFrame:
    """Return numbers that are whole wherever they are known as Int64, others as float64."""
    table = {}
    for name, values in columns.items():
        known = [value for value in values if value is not None]
        if any(isinstance(value, str) for value in known):
            table[name] = pd.Series(values, dtype=object)
        else:
            whole = known and all(isinstance(value, int) for value in known)
            table[name] = pd.array(values, dtype="Int64" if whole else "Float64")
    return pd.DataFrame(table)


def as_computed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that was read with the dtypes it had when it was computed.

    Whole numbers are int64 (but seeds, which may be missing, Int64), other numbers float64, and
    text is text, empty where nothing is written.
    """
    columns = {}
    for name in table.columns:
        column = table[name]
        if name in TEXTS:
            column = column.astype(object).where(column.notna(), "").astype(str)
        elif name == "seed":
            column = pd.array(column, dtype="Int64")
        elif not pd.api.types.is_bool_dtype(column):
            whole = pd.api.types.is_integer_dtype(column) and not column.isna().any()
            column = column.astype("int64" if whole else "float64")
        columns[name] = column
    return pd.DataFrame(columns, index=table.index)


MOST = 512 << 20
"""Bytes that rows may take unless one says otherwise."""

SHARE = 8
"""Rows are kept where they take at most one part in so many of the memory that is granted."""

IDENTITY = ["store", "tap", "mode", "solver", "l2_choice", "l2", "seed", "fraction", "k"]
IDENTITY += ["n_train", "n_test", "options"]
"""The columns that say which probes of which data a table of results is of."""

VERSION = 1


@dataclass(frozen=True)
class RowScores:
    """The part of each of n test rows in the scores of P probes.

    Attributes:
        labels: int64 (n,), or targets, float64 (n,) or (n, T).
        kept: of classes uint8 (P, ceil(n / 8)), a bit a row, which says whether it is right; of
            numbers float32 (P, n), values whose mean is R^2 (see `Regression.values`).
        known: bool (P,), which probes have been scored.
    """

    labels: np.ndarray
    kept: np.ndarray
    known: np.ndarray

    @classmethod
    def empty(cls, labels: np.ndarray, n_probes: int) -> "RowScores":
        """Return room for P probes, of which nothing is known."""
        of_classes = labels.dtype.kind != "f"
        width, dtype = (-(-len(labels) // 8), np.uint8) if of_classes else (len(labels), np.float32)
        return cls(labels, np.zeros((n_probes, width), dtype), np.zeros(n_probes, bool))

    def of(self, probes: np.ndarray) -> np.ndarray | None:
        """Return bool or float32 (p, n) of some probes; None if one of them is not known."""
        if not self.known[probes].all():
            return None
        if self.kept.dtype == np.float32:
            return self.kept[probes]
        return np.unpackbits(self.kept[probes], axis=1, count=len(self.labels)).view(bool)

    def put(self, probes: np.ndarray, others: "RowScores") -> None:
        """Take in what is known of other probes, under these numbers, in place."""
        self.kept[probes], self.known[probes] = others.kept, others.known


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
    return RowScores.empty(blocks.labels(), n_probes)


def rows_path(results: str | Path) -> Path:
    """Return the file beside a results file that says which test rows its probes have right."""
    path = Path(results)
    return path.with_name(f"{path.name}.rows.npz")


def digest_of(table: pd.DataFrame) -> str:
    """Return a digest of what says which probes of which data a table is of, and in which rows.

    A penalty that was chosen, and so is known once its probe is solved, does not count.
    """
    found = hashlib.sha256()
    given = table.get("l2_choice", pd.Series("given", table.index)) == "given"
    for name in IDENTITY:
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
        UsageError: as `featstore.probe.results.tables.save_table`.
    """

    def beside() -> None:
        if rows is None:
            rows_path(results).unlink(missing_ok=True)
        else:
            _save(results, table, rows, probes)

    save_table(table, results, beside, digest=True)


def _save(results: Path, table: pd.DataFrame, rows: RowScores, probes: np.ndarray) -> None:
    arrays = {"labels": rows.labels, "kept": rows.kept, "known": rows.known, "probes": probes}
    save_arrays(rows_path(results), {"version": VERSION, "digest": digest_of(table), **arrays})


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
        if str(held["digest"]) != digest_of(table):
            raise DataError("it is of another sweep or other rows than the table")
        rows = RowScores(held["labels"], held["kept"], held["known"])
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
        # a row that is right is a whole number; parts of R^2 were rounded to float32
        rounded = 1e-5 * max(1.0, float(np.abs(values).max()))
        slack[probe] = rounded if values.dtype == np.float32 else 0.5 / n_rows
    off = np.abs(found[probes[told]] - said[told]) > slack[probes[told]]
    if off.any():
        row = told[int(off.argmax())]
        raise DataError(
            f"its {score} of row {row} is {found[probes[row]]:.4f}, and the table's {said[row]:.4f}"
        )

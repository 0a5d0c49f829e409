"""Tables in files: .csv, .json and .parquet, written whole, and read back as they were."""

import io
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from probe import statuses
from probe.errors import ChangedWarning, DataError, UsageError
from probe.files import (
    as_written,
    digest_path,
    opened,
    writable,
    written_whole,
    written_with_digest,
)

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

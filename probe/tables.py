"""Tables in files: .csv, .json and .parquet, written whole, and read back as they were."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from probe.errors import UsageError
from probe.files import writable, written_whole

SUFFIXES = (".csv", ".json", ".parquet")

TEXTS = ("store", "tap", "mode", "solver", "l2_choice", "l2_place", "status", "options", "class")
"""Columns that hold text even where it looks like a number, or is empty."""


def check_suffix(path: str | Path) -> Path:
    """Return the path if a table can be written under its name.

    Raises:
        UsageError: it ends in none of .csv, .json and .parquet, or its folder does not exist.
    """
    return writable(path, SUFFIXES)


def save_table(
    table: pd.DataFrame, path: str | Path, before: Callable[[], object] | None = None
) -> None:
    """Write a table in the format of the file's suffix, aside first and renamed when complete.

    Every number is written with all its digits; what is not known is an empty field in .csv and
    null in .json.

    Arguments:
        table: any.
        path: of the file.
        before: called when the table is written aside, before it takes the file's place: what lies
            beside the file is then there as soon as the table is, and not if the table is not.

    Raises:
        UsageError: as `check_suffix`.
    """
    path = check_suffix(path)
    suffix = path.suffix.lower()
    with written_whole(path) as aside:
        if suffix == ".csv":
            table.to_csv(aside, index=False)
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


def read_table(path: str | Path) -> pd.DataFrame:
    """Return a table that `save_table` wrote; whole numbers that are missing somewhere as Int64.

    Raises:
        UsageError: the file is no such table.
    """
    path = check_suffix(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            written = pd.read_csv(path, dtype=str, keep_default_na=False)
            table = _typed({name: _numbers(written[name].tolist(), name) for name in written})
        elif suffix == ".json":
            table = from_json(path.read_text())
        else:
            table = pd.read_parquet(path)
    except (ValueError, TypeError, LookupError) as error:  # parsers' errors are ValueErrors
        first = str(error).partition("\n")[0]
        raise UsageError(
            f"{path} is no table of results ({first}): name another file, or remove it"
        ) from None
    return table


def _numbers(texts: list[str], name: str) -> list:
    """Return the values of a .csv column to the last digit, None where nothing is written."""
    if name in TEXTS:
        return texts
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

"""`csv:FILE`, `parquet:FILE`, `jsonl:FILE`: lists of image files, or texts, with their labels."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, json, parquet

from featstore.datasets import splits
from featstore.datasets.arrow_types import TEXT, plain
from featstore.datasets.columns import Chosen, Columns, choose
from featstore.datasets.listed import rows_of_tables
from featstore.datasets.rows import Rows
from featstore.errors import DatasetError, UsageError


def load(kind: str, file: str, split: str, data_dir: Path | None, columns: Columns) -> Rows:
    """One split of the table in FILE: a row is an image or a text.

    Splits are told by a column, or by "{split}" in FILE, which stands for a split's name. Paths of
    images start from `data_dir`, or without one from the folder of FILE, and lie below it. Raises
    `DatasetError` for a file that cannot be read, `UsageError` for columns that are not there.
    """
    pattern = Path(data_dir or "", Path(file).expanduser())
    dataset = f"{kind}:{pattern.name}"
    files = _files(dataset, pattern)
    names = {part: _read(kind, path, _NAMES[kind]) for part, path in files.items()}
    chosen = choose(dataset, next(iter(names.values())), columns)
    tables = {
        part: _table(kind, path, names[part], chosen, columns) for part, path in files.items()
    }
    if None in tables:
        tables = _parted(dataset, tables[None], chosen.split)
    root = data_dir or pattern.parent
    return rows_of_tables(dataset, split, tables, chosen, bool(columns.targets), root)


def _files(dataset: str, pattern: Path) -> dict[str | None, Path]:
    """The file of each split that there is, or the one of all under None."""
    if splits.PLACE in str(pattern):
        files = {part: splits.named(pattern, part) for part in splits.NAMES}
    else:
        files = {None: pattern}
    files = {part: path for part, path in files.items() if path.is_file()}
    if not files:
        raise DatasetError(
            f"there is no file {pattern}; give the path of one, relative to --data-dir if that is"
            f" given; {splits.PLACE} in it stands for {', '.join(splits.NAMES)}"
        )
    return files


def _table(
    kind: str, path: Path, names: Sequence[str], chosen: Chosen, columns: Columns
) -> pa.Table:
    """The columns that are needed."""
    wanted = [chosen.item, *chosen.labels, *([chosen.split] if chosen.split in names else [])]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise UsageError(f"{path} has no column {absent[0]!r}; it has {', '.join(names)}")
    wanted = list(dict.fromkeys(wanted))
    table = _read(kind, path, lambda path: _TABLES[kind](path, wanted))
    return pa.table({name: plain(table[name]) for name in wanted})


def _read(kind: str, path: Path, read: Callable):
    try:
        return read(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DatasetError(f"{path} cannot be read as {kind}: {reason}") from error


def _parse(path: Path) -> csv.ParseOptions:
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    return csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def _csv_names(path: Path) -> list[str]:
    with csv.open_csv(path, parse_options=_parse(path)) as reader:
        return reader.schema.names


def _csv(path: Path, names: Sequence[str]) -> pa.Table:
    # As they are written: texts that happen to be numbers, dates or truth values stay texts.
    convert = csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string())
    )
    return csv.read_csv(path, parse_options=_parse(path), convert_options=convert)


def _jsonl(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    table = json.read_json(path)
    return table if names is None else table.select(names)


_NAMES: dict[str, Callable] = {
    "csv": _csv_names,
    "parquet": lambda path: parquet.read_schema(path).names,
    "jsonl": lambda path: _jsonl(path).column_names,
}
_TABLES: dict[str, Callable] = {
    "csv": _csv,
    "parquet": lambda path, names: parquet.ParquetFile(path).read(names),
    "jsonl": _jsonl,
}
KINDS = tuple(_TABLES)


def _parted(dataset: str, table: pa.Table, column: str | None) -> dict[str, pa.Table]:
    """The rows of each value of the split column."""
    if column is None:
        raise DatasetError(
            f"{dataset} has no column 'split'; give --split-column, or a file for each split under"
            f" one name with {splits.PLACE} in it"
        )
    if not table.num_rows:
        raise DatasetError(f"{dataset} has no rows")
    names = table[column].cast(TEXT)
    there = names.unique().to_pylist()
    if None in there or "" in there:
        raise DatasetError(
            f"{dataset} has rows without a {column}; say of each row which split it is in"
        )
    return {name: table.filter(pc.equal(names, name)) for name in sorted(there)}

"""Rows of tables that list images by path, or hold texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featstore.datasets import fingerprints, splits
from featstore.datasets.arrow_types import TEXT
from featstore.datasets.columns import Chosen, Columns
from featstore.datasets.image_files import below, of_files
from featstore.datasets.labels import Encoded, cleaned, encoded
from featstore.datasets.rows import Rows, TextRows, Unreadable
from featstore.errors import DatasetError
from featstore.notices import Notice


@dataclass(frozen=True)
class Texts:
    """Texts in memory as rows."""

    column: pa.LargeStringArray

    def __call__(self, row: int) -> str | None:
        """The text of a row, None where there is none."""
        return self.column[row].as_py()


def rows_of_tables(
    dataset: str,
    split: str,
    tables: Mapping[str, pa.Table],
    chosen: Chosen,
    asked: Columns,
    root: Path,
    skip: bool = False,
    notices: Sequence[Notice] = (),
) -> Rows:
    """Rows of one of the tables, which are a set's splits; image paths start from `root`.

    An image's id is its path below `root`, a text's the split and its number there. With `skip`
    rows without a label, or an image's path, are left out. Raises `DatasetError` for paths that
    leave `root`, are not there, or are listed twice.
    """
    held = splits.held(dataset, split, list(tables))
    rows = {part: np.arange(table.num_rows) for part, table in tables.items()}
    left_out = []
    if skip:
        lacks = {part: _lacking(table, chosen, root) for part, table in tables.items()}
        for part, found in lacks.items():
            rows[part] = np.setdiff1d(rows[part], list(found))
        if not len(rows[held]):
            raise DatasetError(
                f"no row of the {held} split of {dataset} can be used; the first"
                f" {next(iter(lacks[held].values()), 'is not there')}"
            )
        tables = {part: table.take(rows[part]) for part, table in tables.items()}
        left_out = [
            Unreadable(
                row, split, f"row {row}", f"row {row} of the {held} split of {dataset} {why}"
            )
            for row, why in lacks[held].items()
        ]
    columns = {part: [table[name] for name in chosen.labels] for part, table in tables.items()}
    labels = encoded(dataset, held, columns, chosen.labels, asked)
    if chosen.modality == "text":
        ids = [str(row) for row in rows[held]]
        found = of_texts(dataset, split, tables[held][chosen.item], labels, ids)
    else:
        paths = {
            part: _paths(dataset, part, table[chosen.item], root) for part, table in tables.items()
        }
        _refuse_repeated(dataset, paths)
        found = of_files(
            dataset, split, paths[held], labels.values, labels.classes, root, labels.targets
        )
    told = (*splits.stand_in(split, held), *notices, *labels.notices)
    return replace(found, notices=told, left_out=tuple(left_out))


def _lacking(table: pa.Table, chosen: Chosen, root: Path) -> dict[int, str]:
    """Rows that have no label, or no image that may be read, and why."""
    found = {}
    for name in chosen.labels:
        (column,) = cleaned([table[name]])
        for row in np.flatnonzero(pc.is_null(column).to_numpy()).tolist():
            found.setdefault(row, f"has no {name}")
    if chosen.modality == "image" and table[chosen.item].type == TEXT:
        for row, name in enumerate(table[chosen.item].to_pylist()):
            try:
                below(root, name or "")
            except ValueError as error:
                why = f"names a file that is not to be read: {error}" if name else "has no path"
                found.setdefault(row, why)
    return dict(sorted(found.items()))


def of_texts(
    dataset: str,
    split: str,
    column: pa.ChunkedArray,
    labels: Encoded,
    ids: Sequence[str] | None = None,
) -> TextRows:
    """Rows of a column of texts, each one's id its number in the split unless `ids` are given."""
    if column.type != TEXT:
        raise DatasetError(
            f"the texts of {dataset} are {column.type}, not strings; choose another column with"
            " --text-column"
        )
    texts = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], TEXT)
    return TextRows(
        dataset=dataset,
        split=split,
        labels=labels.values,
        ids=ids or [str(row) for row in range(len(texts))],
        classes=labels.classes,
        fingerprint=fingerprints.of_texts(texts, labels.values),
        read=Texts(texts),
        targets=labels.targets,
    )


def _paths(dataset: str, part: str, column: pa.ChunkedArray, root: Path) -> list[Path]:
    if column.type != TEXT:
        raise DatasetError(
            f"the images of {dataset} are {str(column.type)[:60]}, not paths; a folder of tables"
            " that hold the images themselves is read by hf:FOLDER"
        )
    paths = []
    for row, name in enumerate(column.to_pylist()):
        try:
            paths.append(below(root, name or ""))
        except ValueError as error:
            raise DatasetError(
                f"row {row} of the {part} split of {dataset} names a file that is not to be read:"
                f" {error}; give --data-dir with a folder that all its paths lie below"
            ) from None
    return paths


def _refuse_repeated(dataset: str, paths: Mapping[str, list[Path]]) -> None:
    """Rows are matched by ids, an image of two classes is of neither, and train is not test."""
    seen: dict[Path, tuple[str, int]] = {}
    for part, some in paths.items():
        for row, path in enumerate(some):
            if path in seen:
                first, where = seen[path]
                raise DatasetError(
                    f"{dataset} lists {path} twice, as row {where} of the {first} split and row"
                    f" {row} of the {part} split; list each image once"
                )
            seen[path] = (part, row)

"""Rows of tables that list images by path, or hold texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from featstore.datasets import fingerprints, splits
from featstore.datasets.arrow_types import TEXT
from featstore.datasets.columns import Chosen
from featstore.datasets.image_files import below, of_files
from featstore.datasets.labels import Encoded, encoded
from featstore.datasets.rows import Rows, TextRows
from featstore.errors import DatasetError


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
    are_targets: bool,
    root: Path,
) -> Rows:
    """Rows of one of the tables, which are a set's splits; image paths start from `root`.

    An image's id is its path below `root`, a text's the split and its number there. Raises
    `DatasetError` for paths that leave `root`, are not there, or are listed twice.
    """
    held = splits.held(dataset, split, list(tables))
    columns = {part: [table[name] for name in chosen.labels] for part, table in tables.items()}
    labels = encoded(dataset, held, columns, chosen.labels, are_targets)
    if chosen.modality == "text":
        return of_texts(dataset, split, tables[held][chosen.item], labels)
    paths = {
        part: _paths(dataset, part, table[chosen.item], root) for part, table in tables.items()
    }
    _refuse_repeated(dataset, paths)
    return of_files(
        dataset, split, paths[held], labels.values, labels.classes, root, labels.targets
    )


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

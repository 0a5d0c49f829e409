"""From columns of labels or targets to numbers: classes of all splits together, or floats."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featstore.datasets.arrow_types import TEXT, narrowed, unified, without_space
from featstore.errors import DatasetError, UsageError

# From so many rows on, labels that are all different are not taken for classes.
ALL_DIFFERENT = 100


@dataclass(frozen=True)
class Encoded:
    """Labels of one split: int64 (n,) with `classes`, or float64 (n,) or (n, T) with `targets`."""

    values: np.ndarray
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


def encoded(
    dataset: str,
    split: str,
    columns: Mapping[str, Sequence[pa.ChunkedArray]],
    names: Sequence[str],
    are_targets: bool,
) -> Encoded:
    """Labels of `split`; `columns` has each split's columns, in the order of `names`.

    Numbers with a fraction are targets, and so is everything where `are_targets`. Of anything else
    the distinct values of all splits, sorted, are the classes, so that a number means the same in
    each. Raises `DatasetError` naming the row of a value that is missing or no number.
    """
    try:
        typed = [
            unified([columns[part][position] for part in columns]) for position in range(len(names))
        ]
    except pa.ArrowException as error:
        raise DatasetError(
            f"{', '.join(names)} of {dataset} has another type in each split: {error}; make it one"
        ) from None
    if not are_targets and typed[0][0].type == TEXT:
        typed = [narrowed(typed[0])]
    here = list(columns).index(split)
    if are_targets or pa.types.is_floating(typed[0][0].type):
        targets = [
            _numbers(dataset, split, name, parts[here])
            for name, parts in zip(names, typed, strict=True)
        ]
        values = targets[0] if len(targets) == 1 else np.stack(targets, axis=1)
        return Encoded(values, targets=tuple(names))
    return _classes(dataset, split, names[0], typed[0], here)


def _numbers(dataset: str, split: str, name: str, column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if kind == TEXT:
        with suppress(pa.ArrowInvalid):
            column = without_space(column).cast(pa.float64())
            kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise DatasetError(
            f"the column {name} of {dataset} holds {_called(kind)}; targets are numbers: choose"
            " another column, or give it as --label-column if it names classes"
        )
    _refuse_missing(dataset, split, name, column)
    return column.cast(pa.float64()).to_numpy()


def _classes(
    dataset: str, split: str, name: str, parts: Sequence[pa.ChunkedArray], here: int
) -> Encoded:
    kind = parts[0].type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or kind == TEXT):
        raise DatasetError(
            f"the column {name} of {dataset} holds {_called(kind)}; a label is one word or one"
            " number a row"
        )
    _refuse_missing(dataset, split, name, parts[here])
    every = pa.chunked_array([chunk for part in parts for chunk in part.chunks], kind)
    values = pc.unique(every).drop_null()
    values = values.take(pc.sort_indices(values))
    if len(values) == len(every) >= ALL_DIFFERENT:
        raise UsageError(
            f"the column {name} of {dataset} has {len(values):,} values in as many rows, which are"
            " no classes; choose another with --label-column, or give it as --target-columns"
        )
    codes = pc.index_in(parts[here], values).to_numpy().astype(np.int64)
    return Encoded(codes, classes=tuple(str(value) for value in values.to_pylist()))


def _refuse_missing(dataset: str, split: str, name: str, column: pa.ChunkedArray) -> None:
    rows = np.flatnonzero(pc.is_null(column, nan_is_null=True).to_numpy())
    if rows.size:
        more = f", and {len(rows) - 1:,} more have none" if rows[1:].size else ""
        raise DatasetError(
            f"row {rows[0]} of the {split} split of {dataset} has no {name}{more}; fill it in, or"
            " take it out"
        )


def _called(kind: pa.DataType) -> str:
    text = "text" if kind == TEXT else str(kind)
    return text if len(text) < 60 else f"{text[:57]}..."

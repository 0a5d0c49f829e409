"""From columns of labels or targets to numbers: classes of all splits together, or floats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    typed = [
        _typed([columns[part][position] for part in columns]) for position in range(len(names))
    ]
    here = list(columns).index(split)
    if are_targets or pa.types.is_floating(typed[0][0].type):
        targets = [
            _numbers(dataset, split, name, parts[here])
            for name, parts in zip(names, typed, strict=True)
        ]
        values = targets[0] if len(targets) == 1 else np.stack(targets, axis=1)
        return Encoded(values, targets=tuple(names))
    return _classes(dataset, split, names[0], typed[0], here)


def _typed(parts: Sequence[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """The same column of each split, strings as whole numbers or floats where all of them are."""
    parts = [
        part.cast(part.type.value_type) if pa.types.is_dictionary(part.type) else part
        for part in parts
    ]
    if not all(_is_string(part.type) for part in parts):
        return list(parts)
    for number in (pa.int64(), pa.float64()):
        try:
            return [part.cast(number) for part in parts]
        except pa.ArrowInvalid:
            continue
    return [part.cast(pa.large_string()) for part in parts]


def _numbers(dataset: str, split: str, name: str, column: pa.ChunkedArray) -> np.ndarray:
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
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_string(kind)):
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
    missing = pc.is_null(column, nan_is_null=True)
    if _is_string(column.type):
        missing = pc.or_kleene(missing, pc.equal(column, ""))
    rows = np.flatnonzero(missing.fill_null(True).to_numpy())
    if rows.size:
        raise DatasetError(
            f"row {rows[0]} of the {split} split of {dataset} has no {name}, and {len(rows) - 1:,}"
            " more have none; fill them in, or take them out"
        )


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _called(kind: pa.DataType) -> str:
    text = "text" if _is_string(kind) else str(kind)
    return text if len(text) < 60 else f"{text[:57]}..."

"""Columns of any Arrow type as one of a few: text, whole numbers, floats, truth values."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.large_string()


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without encodings: dictionaries as their values, text as one type, decimals floats.

    >>> plain(pa.chunked_array([["b", "a"]]).dictionary_encode()).type
    DataType(large_string)
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        return column.cast(TEXT)
    return column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column


def unified(parts: Sequence[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """The same column of several tables in one type; a column of nothing but nulls has any.

    Whole numbers of one table and floats of another are floats, and otherwise texts.
    """
    kinds = {part.type for part in parts if not pa.types.is_null(part.type)} or {TEXT}
    if len(kinds) == 1:
        kind = kinds.pop()
    elif all(pa.types.is_integer(kind) for kind in kinds):
        kind = pa.int64()
    elif all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        kind = pa.float64()
    else:
        kind = TEXT
    return [part.cast(kind) for part in parts]


def without_space(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts without the space around them, and null where nothing is left."""
    column = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, TEXT), column)

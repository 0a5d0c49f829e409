"""What each row was, as UTF-8 in a (n_rows, width) uint8 array: of fixed size in any format."""

from collections.abc import Iterable, Sequence

import numpy as np

from featstore.errors import FeatureError


def width(ids: Iterable[str]) -> int:
    """Bytes of the longest id, at least 1.

    >>> width(["a.png", "é.png"])
    6
    """
    return max((len(row_id.encode()) for row_id in ids), default=1) or 1


def encode(ids: Sequence[str], width: int) -> np.ndarray:
    """`ids` as (n, width) uint8, padded with zeros.

    Raises `FeatureError` for an id longer than `width` bytes, or one with a NUL character.

    >>> decode(encode(["cat/1.png", "ü"], 12))
    ['cat/1.png', 'ü']
    """
    encoded = [row_id.encode() for row_id in ids]
    for row_id, data in zip(ids, encoded, strict=True):
        if len(data) > width or b"\0" in data:
            raise FeatureError(
                f"row id {row_id!r} cannot be stored: ids of this store have at most {width} bytes"
                " and no NUL; give the store a larger id_width when it is created"
            )
    return np.array(encoded, dtype=f"S{width}").view(np.uint8).reshape(len(encoded), width)


def decode(array: np.ndarray) -> list[str]:
    """The ids in an (n, width) uint8 array."""
    flat = np.ascontiguousarray(array).view(f"S{array.shape[1]}").reshape(-1)
    return [data.decode() for data in flat.tolist()]

"""Seals of a block of rows: checksums, commit records, row ids, the check of every number."""

from collections.abc import Iterable, Sequence

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from featstore.errors import FeatureError


def checksum(array: np.ndarray) -> str:
    """32 hex digits of XXH3-128 over the C-ordered little-endian bytes of `array`, of any shape.

    >>> checksum(np.arange(3, dtype="<i8")) == checksum(np.arange(3, dtype=">i8"))
    True
    """
    return xxhash.xxh3_128_hexdigest(raw_bytes(array))


def raw_bytes(array: np.ndarray) -> memoryview:
    """The C-ordered little-endian bytes of `array`; a view of its memory where they lie so."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return memoryview(array.reshape(-1).view(np.uint8))


def checksum_text(text: str) -> str:
    """32 hex digits of XXH3-128 over the UTF-8 bytes of `text`."""
    return xxhash.xxh3_128_hexdigest(text.encode())


# A disk sector, so that one slot never shares a sector with the next.
SLOT_UNIT = 512


class Record(BaseModel):
    """Proof that `block` of `split` is on the disk: its checksums in each array and view.

    `store` is the digest of the store's spec, so that a record copied from elsewhere is none here.
    `seen` is how many rows each of `notices.REMARKS` is true of, as far as the slot has room.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    split: str
    block: int
    checksums: dict[str, str]
    seen: dict[str, int] = {}

    def sealed(self, slot: int) -> bytes:
        """The record as `slot` bytes."""
        text = self.model_dump_json(exclude_defaults=True)
        data = f"{checksum_text(text)} {text}\n".encode()
        if len(data) > slot and self.seen:
            most = dict(sorted(self.seen.items(), key=lambda item: -item[1])[:-1])
            return self.model_copy(update={"seen": most}).sealed(slot)
        if len(data) > slot:
            raise ValueError(f"a record of {len(data)} bytes does not fit its slot of {slot}")
        return data.ljust(slot, b"\0")


def unseal(data: bytes | None) -> Record | None:
    """The record in a slot's bytes, or None where there is none, or not a whole one.

    >>> record = Record(store="s", split="train", block=0, checksums={"labels": "0f"})
    >>> unseal(record.sealed(512)) == record, unseal(record.sealed(512)[:40]), unseal(bytes(512))
    (True, None, None)
    """
    if not data:
        return None
    try:
        seal, _, text = data.rstrip(b"\0").decode().removesuffix("\n").partition(" ")
    except UnicodeDecodeError:
        return None
    if not text or checksum_text(text) != seal:
        return None
    try:
        return Record.model_validate_json(text)
    except ValidationError:
        return None


def slot_bytes(split: str, pieces: Iterable[str]) -> int:
    """Bytes of a slot that any record of these pieces fits, a multiple of 512."""
    longest = Record(
        store="0" * 64, split=split, block=10**15, checksums=dict.fromkeys(pieces, "0" * 32)
    )
    length = len(longest.model_dump_json().encode()) + 34
    return -(-length // SLOT_UNIT) * SLOT_UNIT


# All exponent bits set: an infinity or a NaN. NumPy's isfinite is ten times slower on float16.
_EXPONENT = {2: np.uint16(0x7C00), 4: np.uint32(0x7F800000)}
_ROWS_IN_CACHE_BYTES = 1 << 18


def first_nonfinite_row(features: np.ndarray) -> int | None:
    """Index of the first row of `features` (n, D) float16|float32 that is not finite, or None.

    >>> first_nonfinite_row(np.array([[1, 2], [3, np.nan]], dtype="float16"))
    1
    """
    step = max(1, _ROWS_IN_CACHE_BYTES // max(1, features[:1].nbytes))
    exponent = _EXPONENT[features.itemsize]
    bits = features.view(exponent.dtype)
    for start in range(0, len(bits), step):
        if (bits[start : start + step] & exponent).max() == exponent:
            rows = np.isfinite(features[start : start + step]).all(axis=1)
            return start + int(np.argmin(rows))
    return None


# Rounding, root mean square, that a feature may have as a share of its deviation.
_KEPT = 0.05
# Changes of a feature, as a share of its size, that are rounding of what computed it in float64.
_NOISE = 2.0**-45


class Rounding:
    """Loss of each feature by storing rows in a narrower dtype, summed over rows.

    A feature is lost where rounding moves it by a twentieth of its deviation or more, as float32
    does at 1e9 or float16 below 1e-7: classes that it told apart would lie in the noise.

    >>> rounding = Rounding("float32")
    >>> x = np.array([[1e9, 0.0], [1e9 + 3, 1.0]])
    >>> rounding.add(x, x.astype("float32"))
    >>> rounding.lost()
    'feature 0 changes by 1.5 around 1e+09, which float32 does not resolve: subtract its mean'
    """

    def __init__(self, dtype: str):
        self._dtype, self._n = dtype, 0

    def add(self, rows: np.ndarray, stored: np.ndarray) -> None:
        """Take some rows (n, D) as they are, and as they are stored."""
        if not self._n:
            self._first = rows[0].copy()
            self._sums, self._squares, self._errors, self._most = np.zeros((4, rows.shape[1]))
        with np.errstate(all="ignore"):  # infinite values are named elsewhere
            if rows.dtype.kind in "iu":
                away = rows.astype(np.longdouble) - self._first.astype(np.longdouble)
                moved = rows.astype(np.longdouble) - stored.astype(np.longdouble)
                away, moved = away.astype(np.float64), moved.astype(np.float64)
            else:
                wide = rows.astype(np.float64)
                away, moved = wide - self._first, wide - stored
            if not self._n:
                largest = np.abs(away).max(0)
                known = (largest > 0) & np.isfinite(largest)
                # squares of numbers of about 1, which do not vanish
                self._unit = np.where(known, largest, 1.0)
            away, moved = away / self._unit, np.where(np.isfinite(stored), moved, 0) / self._unit
            self._sums += away.sum(0)
            self._squares += (away * away).sum(0)
            self._errors += (moved * moved).sum(0)
            self._most = np.maximum(self._most, np.abs(rows).max(0))
        self._n += len(rows)

    def lost(self) -> str | None:
        """Return what is wrong with the feature that loses most; None if none is lost."""
        mean = self._sums / self._n
        variance = np.maximum(self._squares / self._n - mean * mean, 0)
        changes = np.sqrt(variance) * self._unit > _NOISE * self._most
        share = np.where(changes, self._errors / self._n / np.where(changes, variance, 1), 0)
        worst = int(np.argmax(share))
        if not share[worst] > _KEPT**2:
            return None
        deviation = np.sqrt(variance[worst]) * self._unit[worst]
        around = float(self._first[worst]) + mean[worst] * self._unit[worst]
        wider = "store float32 (--dtype float32), or " if self._dtype == "float16" else ""
        if self._most[worst] < np.finfo(self._dtype).smallest_normal:
            return (
                f"feature {worst} is {self._most[worst]:.2g} at most, too small for {self._dtype}:"
                f" {wider}multiply the features by a constant"
            )
        return (
            f"feature {worst} changes by {deviation:.2g} around {around:.4g}, which {self._dtype}"
            f" does not resolve: {wider}subtract its mean"
        )


def width(ids: Iterable[str]) -> int:
    """Bytes of the longest id, at least 1.

    >>> width(["a.png", "é.png"])
    6
    """
    return max((len(row_id.encode()) for row_id in ids), default=1) or 1


def encode_ids(ids: Sequence[str], width: int) -> np.ndarray:
    """`ids` as (n, width) uint8, padded with zeros.

    Raises `FeatureError` for an id longer than `width` bytes, or one with a NUL character.

    >>> decode_ids(encode_ids(["cat/1.png", "ü"], 12))
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


def decode_ids(array: np.ndarray) -> list[str]:
    """The ids in an (n, width) uint8 array."""
    flat = np.ascontiguousarray(array).view(f"S{array.shape[1]}").reshape(-1)
    return [data.decode() for data in flat.tolist()]

"""The layout of a store: codecs, arrays, blocks, and the header that states them."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from featstore.errors import FeatstoreError, FormatVersionError, NotAStore
from featstore.spec import IDS, LABELS, Spec
from featstore.store.blocks import checksum_text

Codec = Literal["none", "zstd"]
NAMES: tuple[Codec, ...] = ("none", "zstd")

# Activations hardly compress better at higher levels, which take several times as long.
_LEVEL = 1


class Undecodable(FeatstoreError):
    """Bytes are no whole zstd frame of the size that a chunk has."""


def metadata(codec: Codec) -> list[dict[str, Any]]:
    """Return the metadata of a codec, as they follow those of `bytes`."""
    if codec == "none":
        return []
    return [{"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}}]


def compress(data: memoryview, size: int) -> bytes:
    """A chunk of `size` bytes, `data` and then zeros, as a zstd frame."""
    from numcodecs import zstd

    whole = data if len(data) == size else bytes(data).ljust(size, b"\0")
    return zstd.compress(whole, _LEVEL)


def decompress(frame: bytes, size: int) -> bytes:
    """The `size` bytes in a zstd frame; `Undecodable` where it is damaged or of another size."""
    from numcodecs import zstd

    try:
        data = zstd.decompress(frame)
    except (RuntimeError, ValueError) as error:
        raise Undecodable(f"the zstd frame is damaged: {error}") from None
    if len(data) != size:
        raise Undecodable(f"the zstd frame holds {len(data)} bytes, a chunk {size}")
    return data


# A block is what is read, checked and committed at once. 8 MB is large enough that the overhead of
# a call vanishes and small enough that a few of them in flight cost nothing.
BLOCK_BYTES = 8 << 20

# A block of many views is all of them, so that they are committed together; it may be this large.
MANY_VIEWS = 8

# Rows come in multiples of this, so that batches divide blocks evenly, and never fewer: a tap of
# hundreds of thousands of features has larger blocks, or its narrow neighbours would fall to dust.
ROW_MULTIPLE = 32


@dataclass(frozen=True)
class Array:
    """One array of a split: `shape` (n_rows, ...) or (n_views, n_rows, D), little-endian `dtype`.

    Its rows lie view by view: a *piece* of it is one view of a block's rows, and is stored,
    checksummed and read as one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def n_views(self) -> int:
        """Views of each row; 1 where the array has no axis of them."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def n_rows(self) -> int:
        """Rows of one view."""
        return self.shape[1] if len(self.shape) == 3 else self.shape[0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row of one view."""
        return self.shape[2:] if len(self.shape) == 3 else self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of one view."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    def pieces(self, name: str) -> list[str]:
        """The name of each view's piece of a block, as commit records have it.

        >>> Array((9, 2), np.dtype("f2")).pieces("tap")
        ['tap']
        >>> Array((2, 9, 2), np.dtype("f2")).pieces("tap")
        ['tap/0', 'tap/1']
        """
        return [name] if len(self.shape) < 3 else [f"{name}/{view}" for view in range(self.n_views)]


def block_rows(spec: Spec) -> int:
    """Rows of a block, such that one view of the widest tap's is about 8 MB.

    All taps and views of a store share them, because one commit record covers a block of all. Of
    more than eight views, a block of the widest tap is about 64 MB.
    """
    row_bytes = max(tap.dim for tap in spec.taps) * np.dtype(spec.dtype).itemsize
    n_views = max(split.views for split in spec.splits)
    most = min(BLOCK_BYTES // row_bytes, MANY_VIEWS * BLOCK_BYTES // (row_bytes * n_views))
    return max(ROW_MULTIPLE, most // ROW_MULTIPLE * ROW_MULTIPLE)


def n_blocks(n_rows: int, block_rows: int) -> int:
    """Blocks that `n_rows` rows fall into."""
    return -(-n_rows // block_rows)


def rows_of(n_rows: int, block_rows: int, block: int) -> range:
    """Rows of one block; the last may be short.

    >>> rows_of(100, 32, 3)
    range(96, 100)
    """
    return range(block * block_rows, min((block + 1) * block_rows, n_rows))


def arrays(spec: Spec, split: str, id_width: int) -> dict[str, Array]:
    """Every array of a split: taps (n_rows, D) or (n_views, n_rows, D), labels, ids, columns.

    Labels are int64 (n_rows,), or of targets float64 (n_rows,) for one and (n_rows, T) for more,
    uint8 where these are binary; ids and columns of texts are uint8 (n_rows, width), other columns
    int64 (n_rows,).
    """
    n_rows, n_views = spec.split(split).n_rows, spec.split(split).views
    features = np.dtype(spec.dtype).newbyteorder("<")
    views = () if n_views == 1 else (n_views,)
    targets = (len(spec.targets),) if len(spec.targets) > 1 else ()
    number = "u1" if spec.binary else "<f8" if spec.targets else "<i8"
    return {
        **{tap.name: Array((*views, n_rows, tap.dim), features) for tap in spec.taps},
        LABELS: Array((n_rows, *targets), np.dtype(number)),
        IDS: Array((n_rows, id_width), np.dtype("u1")),
        **{
            name: Array((n_rows, column.width), np.dtype("u1"))
            if column.width
            else Array((n_rows,), np.dtype("<i8"))
            for name, column in spec.column_arrays.items()
        },
    }


FORMAT_VERSION = 1

# The attribute of the Zarr root group, and of the HDF5 file, that holds the header.
ATTRIBUTE = "featstore"


class Header(BaseModel):
    """Everything about a store but its rows; `provenance` tells how it was made, nothing else.

    `codec` compresses the chunks of a Zarr store, and is no part of what it holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    spec: Spec
    block_rows: Annotated[int, Field(ge=1)]
    id_width: Annotated[int, Field(ge=1)]
    codec: Codec = "none"
    provenance: dict[str, JsonValue] = {}

    def to_json(self) -> dict[str, Any]:
        """The header as a JSON object with its checksum.

        What is at its default is left out, so that an earlier release, which does not know a field,
        reads every store that makes no use of it.
        """
        fields = self.model_dump(mode="json", exclude_defaults=True)
        fields = {"format_version": self.format_version, **fields}
        return {**fields, "checksum": _checksum(fields)}

    def n_blocks(self, split: str) -> int:
        """Blocks of a split."""
        return n_blocks(self.spec.split(split).n_rows, self.block_rows)

    def rows_of(self, split: str, block: int) -> range:
        """Rows of one block of a split."""
        return rows_of(self.spec.split(split).n_rows, self.block_rows, block)

    def arrays(self, split: str) -> dict[str, Array]:
        """The arrays of a split by name."""
        return arrays(self.spec, split, self.id_width)

    def pieces(self, split: str) -> list[str]:
        """The names, in commit records, of all that a block of a split has."""
        return [piece for name, array in self.arrays(split).items() for piece in array.pieces(name)]


def parse(found: Any, path: object) -> Header:
    """The header in a JSON object read from `path`.

    Raises `NotAStore` where it is none or damaged, `FormatVersionError` for another release's.
    """
    if not isinstance(found, dict) or "format_version" not in found:
        raise NotAStore(f"{path} is not a featstore store; give the path of one")
    version = found["format_version"]
    if version != FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} is in format version {version!r} and this release reads version"
            f" {FORMAT_VERSION}; read it with the release that wrote it, or extract elsewhere"
        )
    fields = {name: value for name, value in found.items() if name != "checksum"}
    if found.get("checksum") != _checksum(fields):
        raise NotAStore(f"the header of {path} is damaged: its checksum is wrong; {REMEDY}")
    try:
        return Header.model_validate(_today(fields))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise NotAStore(
            f"the header of {path} is damaged: {where}: {first['msg']}; {REMEDY}"
        ) from None


def _today(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as this release names them: release 0.1 counted views by store, always 1."""
    spec = fields.get("spec")
    if isinstance(spec, dict) and spec.get("views") == 1:
        fields = {**fields, "spec": {name: spec[name] for name in spec if name != "views"}}
    return fields


REMEDY = "delete the store by hand and extract it again"


def _checksum(fields: dict[str, Any]) -> str:
    return checksum_text(json.dumps(fields, sort_keys=True, separators=(",", ":")))

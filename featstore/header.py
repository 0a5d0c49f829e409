"""The header of a store: written once, at creation, and sealed by its own checksum."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from featstore import layout
from featstore.checksums import checksum_text
from featstore.codecs import Codec
from featstore.errors import FormatVersionError, NotAStore
from featstore.spec import Spec

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
        return layout.n_blocks(self.spec.split(split).n_rows, self.block_rows)

    def rows_of(self, split: str, block: int) -> range:
        """Rows of one block of a split."""
        return layout.rows_of(self.spec.split(split).n_rows, self.block_rows, block)

    def arrays(self, split: str) -> dict[str, layout.Array]:
        """The arrays of a split by name."""
        return layout.arrays(self.spec, split, self.id_width)

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

"""Commit records: a block counts from the moment its sealed record is on the disk.

A record is one line of JSON behind the checksum of that line, padded with zeros to a slot of fixed
size. The seal makes a torn or half-written record no record at all, in whatever file it lies: it
needs no renaming, and no disk flush of its own.
"""

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from featstore.checksums import checksum_text

# A disk sector, so that one slot never shares a sector with the next.
SLOT_UNIT = 512


class Record(BaseModel):
    """That `block` of `split` is on the disk: the checksum of its rows in each array and view.

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

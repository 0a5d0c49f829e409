"""Where the members of a tar file lie, so that any of them is one read: looked up once."""

import hashlib
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import platformdirs
import pyarrow as pa
from pyarrow import parquet

from featstore import durable
from featstore.datasets.rows import utf8
from featstore.errors import DatasetError

# Shards below this are indexed faster than a file that keeps the index is found.
_WORTH_KEEPING = 16 << 20
_COMPRESSED = (b"\x1f\x8b\x08", b"BZh", b"\xfd7z", b"\x28\xb5\x2f")  # gzip, bzip2, xz, zstd
_SKIPPED = ", or leave out what is cut with --on-error skip"
_COLUMNS = ("name", "offset", "size")


@dataclass(frozen=True)
class TarIndex:
    """Regular files in a tar: their names, and where each one's bytes are, int64 (m,) each.

    `damage` says how a tar that is not whole ends; the files before that are there. One that is not
    `ended` lacks the mark at its end, as after a writer that was stopped.
    """

    names: list[str]
    offsets: np.ndarray
    sizes: np.ndarray
    damage: str = ""
    ended: bool = True


def index_of(path: Path, skip: bool = False) -> TarIndex:
    """The index of an uncompressed tar file, made once and kept in the platform's cache.

    It is made anew where the file's size or time of modification is another. Raises `DatasetError`
    for a file that is missing, compressed, truncated or no tar; with `skip` a truncated one has an
    index of what is whole.
    """
    try:
        there = path.stat()
    except OSError as error:
        raise DatasetError(f"there is no shard {path}: {error.strerror}; fetch it again") from None
    return _index(path, there.st_size, there.st_mtime_ns, skip)


def read_member(path: Path, offset: int, size: int) -> bytes:
    """The bytes of a member. Opens the file, so that nothing is held open between calls."""
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) < size:
        raise OSError(f"{path} ends {size - len(data)} bytes too early")
    return data


@lru_cache(maxsize=4096)
def _index(path: Path, size: int, modified: int, skip: bool) -> TarIndex:
    kept = _place(path)
    stamp = {b"size": str(size).encode(), b"modified": str(modified).encode()}
    if size >= _WORTH_KEEPING and kept.is_file():
        found = _kept(kept, stamp)
        if found:
            return found
    index = _made(path, size, skip)
    if size >= _WORTH_KEEPING and not index.damage:
        _keep(kept, index, stamp)
    return index


def _made(path: Path, size: int, skip: bool = False) -> TarIndex:
    found, damage = [], ""
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isreg() and not member.issparse():
                    found.append((utf8(member.name), member.offset_data, member.size))
                shard.members.clear()  # tarfile keeps them all
    except (tarfile.TarError, EOFError, ValueError) as error:
        with open(path, "rb") as file:
            compressed = file.read(3) in _COMPRESSED
        why = "it is compressed, and images gain nothing by that: uncompress it"
        why = why if compressed else f"{error}; fetch it again"
        if not (skip and found):
            skipped = "" if compressed or not found else _SKIPPED
            raise DatasetError(
                f"{path} cannot be read as an uncompressed tar file: {why}{skipped}"
            ) from error
        damage = f"is not whole ({error})"
    end = found[-1][1] + found[-1][2] if found else 0
    rest = size - -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    # tarfile takes a header that is cut for the end of the file.
    if found and (end > size or 0 < rest < tarfile.BLOCKSIZE):
        what = f"its last member {found[-1][0]}" if end > size else "the member behind its last"
        damage = f"is truncated, {what} is cut"
        if not skip:
            raise DatasetError(f"{path} {damage}; fetch it again{_SKIPPED}")
        if end > size:
            del found[-1]
    names, offsets, sizes = zip(*found, strict=True) if found else ((), (), ())
    return TarIndex(
        list(names), np.array(offsets, np.int64), np.array(sizes, np.int64), damage, rest > 0
    )


def _place(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return platformdirs.user_cache_path("featstore") / "tar-index" / f"{name}.parquet"


def _kept(kept: Path, stamp: dict[bytes, bytes]) -> TarIndex | None:
    try:
        table = parquet.read_table(kept)
        if {key: (table.schema.metadata or {}).get(key) for key in stamp} != stamp:
            return None
        names, offsets, sizes = (table[column] for column in _COLUMNS)
        return TarIndex(names.to_pylist(), offsets.to_numpy(), sizes.to_numpy())
    except (OSError, pa.ArrowException, KeyError):
        return None


def _keep(kept: Path, index: TarIndex, stamp: dict[bytes, bytes]) -> None:
    table = pa.table(dict(zip(_COLUMNS, (index.names, index.offsets, index.sizes), strict=True)))
    # A full or read-only cache costs the next run some time, and this one nothing.
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with durable.written_whole(kept) as aside:
            parquet.write_table(table.replace_schema_metadata(stamp), aside, compression="zstd")

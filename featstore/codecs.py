"""How a Zarr chunk's bytes are compressed: not at all, or by zstd.

Checksums are of the bytes before compression, so that a store says the same of its rows in either.
"""

from typing import Any, Literal

from featstore.errors import FeatstoreError

Codec = Literal["none", "zstd"]
NAMES: tuple[Codec, ...] = ("none", "zstd")

# Activations hardly compress better at higher levels, which take several times as long.
_LEVEL = 1


class Undecodable(FeatstoreError):
    """Bytes are no whole zstd frame of the size that a chunk has."""


def metadata(codec: Codec) -> list[dict[str, Any]]:
    """What stands in an array's metadata after the codec `bytes`."""
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

"""Arrays in a .npz file that says what it is of and carries a digest of what it holds."""

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from probe.errors import FileError
from probe.files import opened, written_whole

DIGEST = "digest_of_arrays"
"""The member that holds the digest of all others."""


def save_arrays(path: str | Path, arrays: Mapping[str, object]) -> None:
    """Write arrays, numbers and texts to a .npz file with their digest, whole or not at all.

    NumPy reads the file as any other; the digest is one more text in it.
    """
    held = {name: np.asarray(value) for name, value in arrays.items()}
    with written_whole(path) as aside, _FullDisk(aside) as file:
        np.savez(file, **held, **{DIGEST: np.array(digest_of(held))})


class _FullDisk:
    """A file whose first failure is raised when it is closed, and not before.

    zipfile, if a write fails, fails once more while it closes, and again when it is collected.
    """

    def __init__(self, path: Path):
        self._file, self._error = path.open("wb"), None
        self.read = self._file.read  # by which NumPy knows a file
        self.seek, self.tell = self._file.seek, self._file.tell

    def write(self, data: bytes) -> int:
        """Write, unless that has failed before."""
        try:
            if self._error is None:
                self._file.write(data)
        except OSError as error:
            self._error = error
        return len(data)

    def flush(self) -> None:
        """Leave it to the end."""

    def __enter__(self):
        return self

    def __exit__(self, *raised) -> None:
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error
        if self._error is not None:
            raise self._error


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file that are what was written; nothing is unpickled.

    Each array's size is held against the bytes that are there before any of it is allocated.
    A file of before digests were written is returned as it is.

    Raises:
        FileError: it is not there, damaged, no such file, or not a regular file.
    """
    path = Path(path)
    with opened(path) as file:
        try:
            held = _read(file)
        # on damage zipfile, zlib and NumPy's parser raise a dozen kinds between them
        except Exception as error:
            first = (str(error) or type(error).__name__).partition("\n")[0]
            raise FileError(f"{path} is damaged, or is no .npz file ({first})") from None
    digest = held.pop(DIGEST, None)
    if digest is not None and str(digest) != digest_of(held):
        raise FileError(f"{path} is damaged: its arrays have another digest than was written")
    return held


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return 32 hex digits for names, dtypes, shapes and values of arrays, in any order.

    >>> x = np.arange(3)
    >>> digest_of({"a": x, "b": x}) == digest_of({"b": x, "a": x})
    True
    >>> digest_of({"a": x}) == digest_of({"a": x + 1})
    False
    """
    found = xxhash.xxh3_128()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {np.shape(arrays[name])}\n".encode())
        found.update(array.reshape(-1).view(np.uint8).data if array.nbytes else b"")
    return found.hexdigest()


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    there = os.fstat(file.fileno()).st_size
    held = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > there:
                raise ValueError(f"{name} is compressed, or longer than the file")
            with archive.open(member) as stream:
                if np.lib.format.read_magic(stream) != (1, 0):
                    raise ValueError(f"{name} is of another version of NumPy's format")
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                n_bytes = dtype.itemsize * math.prod(shape)
                if dtype.hasobject or n_bytes != member.file_size - stream.tell():
                    raise ValueError(f"{name} says {dtype} {shape}, which is not what it holds")
            with archive.open(member) as stream:
                held[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return held

"""Files that are whole or not there: checked by name, written aside, then renamed."""

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from probe.errors import FileError, UsageError


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a name aside to write to, and rename it to `path` once the block ends well.

    Whatever goes wrong in between, `path` is as it was and nothing is left beside it. The name
    keeps the suffix, by which some writers choose their format; it is new, so that no link that
    lies there is written through.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with written_whole(folder / "a.txt") as aside:
    ...     _ = aside.write_text("all of it")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    stem = path.stem[:80]  # a long name and what is added to it may be too long together
    aside = path.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file to be read; a pipe, which may never say anything, is not opened.

    Raises:
        FileError: there is no such file, it is none, or it cannot be read.
    """
    path = Path(path)
    try:
        number = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        said = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path} cannot be read: {said}; name another file") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise FileError(f"{path} is not a regular file: name one")
    with os.fdopen(number, "rb") as file:
        yield file


def writable(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Return the path if a file can be written under its name.

    Raises:
        UsageError: it ends in none of `suffixes`, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{path.name!r} ends in none of {', '.join(suffixes)}: name it so")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} to: make it first")
    return path

"""Files that are whole or not there: checked by name, written aside, then renamed."""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from probe.errors import FileError, UsageError

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a name aside to write to, and rename it to `path` once the block ends well.

    Whatever goes wrong in between, `path` is as it was and nothing is left beside it. The name
    keeps the suffix, by which some writers choose their format; it is new, so that no link that
    lies there is written through. It is locked until then: what writers of the same file left
    that were killed is not, and is deleted first.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with written_whole(folder / "a.txt") as aside:
    ...     _ = aside.write_text("all of it")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    stem = path.stem[:80]  # a long name and what is added to it may be too long together
    _clear(path.parent, f".{stem}.", path.suffix)
    aside, lock = _made_aside(path, stem)
    try:
        yield aside
        aside.replace(path)
    except Exception as error:
        full = _no_room(error)
        if full is None:
            raise
        # some writers hide it behind an error of closing what they had begun
        raise OSError(full.errno, full.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _clear(folder: Path, start: str, suffix: str) -> None:
    """Delete the files aside of this start and suffix that no living process holds."""
    left = re.compile(rf"{re.escape(start)}\d+-[0-9a-f]{{8}}{re.escape(suffix)}")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if left.fullmatch(entry.name)]:
            with suppress(OSError):
                _delete_unheld(entry.path)


def _delete_unheld(path: str) -> None:
    if fcntl is None:
        return
    # to be locked over a network, it has to be open for writing
    number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if stat.S_ISREG(os.fstat(number).st_mode):
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
    finally:
        os.close(number)


def _made_aside(path: Path, stem: str) -> tuple[Path, int | None]:
    """Return an empty new file beside `path`, and what it is held by until that is closed."""
    while True:
        aside = path.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
        number = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is None:
            os.close(number)
            return aside, None
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = aside.exists()
        except BlockingIOError:
            ours = False  # somebody takes it for what a killed one left, and deletes it
        except OSError:
            ours = True  # where nothing can be locked, nothing is deleted
        if ours:
            return aside, number
        os.close(number)


def _no_room(error: BaseException | None) -> OSError | None:
    """Return the error of a disk, full or broken, behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def written_with_digest(path: str | Path) -> Iterator[Path]:
    """Write a file as `written_whole` does, and its SHA-256 beside it, as `sha256sum` writes it.

    Killed at any instant, what lies there is as it was written: until the new file has taken its
    place, the digest of the old one stands beside its own.
    """
    path = Path(path)
    with written_whole(path) as aside:
        yield aside
        new = _sha256(aside)
        _note(path, new, *([_sha256(path)] if as_written(path) else []))
    _note(path, new)


def digest_path(path: str | Path) -> Path:
    """Return the file beside a file that holds the digest of its bytes."""
    return Path(f"{path}.sha256")


def as_written(path: str | Path) -> bool | None:
    """Return whether a file is what was written, by the digest beside it; None without one."""
    try:
        with opened(digest_path(path)) as file:
            known = re.findall(rb"^([0-9a-f]{64})  ", file.read(1000), re.MULTILINE)
        return _sha256(path).encode() in known if known else None
    except FileError:
        return None


def _note(path: Path, *digests: str) -> None:
    with written_whole(digest_path(path)) as aside:
        name = path.name.replace("\n", "_")
        aside.write_text("".join(f"{digest}  {name}\n" for digest in digests), encoding="utf-8")


def _sha256(path: str | Path) -> str:
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

"""Bytes that are on the disk when a call returns, and the plain error when the disk has no room."""

import ctypes
import errno
import fcntl
import glob
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# What is made or removed lies aside under such a name.
ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.aside")

# Linux moves at most 2 GiB in one call.
_LARGEST_CALL = 1 << 30

# A journaling file system lets syncs that wait at the same time share one flush of the disk.
_SYNCS_AT_ONCE = 8


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open a regular file, and nothing else: a pipe would be waited for, a device might act.

    Raises `OSError` for what is none.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield fd
    finally:
        os.close(fd)


def read_at(path: Path, offset: int, out: memoryview) -> int:
    """Fill `out` from `offset` of the file; returns the bytes read, fewer only at its end."""
    with opened(path) as fd:
        done = 0
        while done < len(out):
            n = os.preadv(fd, [out[done : done + _LARGEST_CALL]], offset + done)
            if n == 0:
                break
            done += n
        return done


def write_at(path: Path, offset: int, data: memoryview, *, size: int | None = None) -> None:
    """Write `data` at `offset`, making the file if need be; `size` sets the file's length first.

    A link is not followed. The bytes are with the operating system, not yet on the disk: see
    `sync_files`.
    """
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW) as fd:
        if size is not None:
            os.ftruncate(fd, size)
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done : done + _LARGEST_CALL], offset + done)


def sync_files(paths: Iterable[Path]) -> None:
    """Return when the bytes of each file (or the entries of each directory) are on the disk."""
    with ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="featstore-sync") as pool:
        list(pool.map(_sync_file, paths))


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(root: Path) -> None:
    """Return when a file, or a directory with everything below it, is on the disk."""
    if root.is_dir():
        for folder, _, files in os.walk(root):
            sync_files(Path(folder, name) for name in files)
            sync_files([Path(folder)])
    else:
        sync_files([root])


def aside(path: Path) -> Path:
    """Return a new name beside a path, hidden, for what is to be renamed or deleted."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside")


def asides(path: Path) -> Iterator[Path]:
    """Give what lies beside a path under such names, of writers that live and of killed ones."""
    return path.parent.glob(f".{glob.escape(path.name)}.*.aside")


def clear_asides(path: Path) -> None:
    """Delete the files that killed writers left beside a path; those of living ones are locked."""
    for leftover in asides(path):
        delete_unheld(leftover)


@contextmanager
def held_aside(path: Path) -> Iterator[tuple[Path, int]]:
    """Give the name and descriptor of an empty file beside a path, which goes with the block.

    The file is locked meanwhile, so that what a killed process left is told from it: that is
    deleted first. Raises `OSError`.
    """
    clear_asides(path)
    name, fd = _made_aside(path)
    try:
        yield name, fd
    finally:
        name.unlink(missing_ok=True)
        os.close(fd)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name aside to write a file to, and rename it to `path` once the block ends well.

    Raises `OSError`.
    """
    with held_aside(path) as (name, fd):
        yield name
        os.fsync(fd)
        os.replace(name, path)


def _made_aside(path: Path) -> tuple[Path, int]:
    while True:
        name = aside(path)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = name.exists()
        except BlockingIOError:
            ours = False  # somebody takes it for what a killed one left, and deletes it
        except OSError:
            ours = True  # where nothing can be locked, nothing is deleted
        if ours:
            return name, fd
        os.close(fd)


def delete_unheld(path: Path) -> None:
    """Delete a file unless a living process has locked it, or it cannot be known."""
    with suppress(OSError), opened(path, os.O_RDWR | os.O_NOFOLLOW) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


# Linux: the two names change places in one step.
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})


def exchange(a: Path, b: Path) -> bool:
    """Let two names change places at once; False where the system or its disk cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(a))

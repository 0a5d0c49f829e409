"""Bytes that are on the disk when a call returns, and the plain error when the disk has no room."""

import ctypes
import errno
import glob
import io
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file can be neither renamed nor deleted by others
    fcntl = None

# How a file is opened: no link is followed and no pipe waited for, where the system has such.
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
CAREFULLY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_IN_PLACE = hasattr(os, "preadv") and hasattr(os, "pwrite")

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
    fd = os.open(path, flags | CAREFULLY, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield fd
    finally:
        os.close(fd)


def read_from(fd: int, count: int, offset: int) -> bytes:
    """Return up to so many bytes of an open file from `offset` on."""
    if _IN_PLACE:
        return os.pread(fd, count, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, count)


def runs(pid: int) -> bool:
    """Return whether a process of this machine may still run; True where it cannot be known.

    Raises `OverflowError` for what is no number of a process.
    """
    if os.name == "nt":
        return True  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def read_at(path: Path, offset: int, out: memoryview) -> int:
    """Fill `out` from `offset` of the file; returns the bytes read, fewer only at its end."""
    with opened(path) as fd:
        if not _IN_PLACE:
            os.lseek(fd, offset, os.SEEK_SET)
            with io.BufferedReader(io.FileIO(fd, closefd=False)) as file:
                return file.readinto(out)
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
    with opened(path, os.O_WRONLY | os.O_CREAT | NOFOLLOW) as fd:
        if size is not None:
            os.ftruncate(fd, size)
        if not _IN_PLACE:
            os.lseek(fd, offset, os.SEEK_SET)
            with io.BufferedWriter(io.FileIO(fd, "wb", closefd=False)) as file:
                file.write(data)
            return
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done : done + _LARGEST_CALL], offset + done)


def sync_files(paths: Iterable[Path]) -> None:
    """Return when the bytes of each file (or the entries of each directory) are on the disk."""
    with ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="featstore-sync") as pool:
        list(pool.map(_sync_file, paths))


def _sync_file(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # entries of directories cannot be synced there, nor what is open for reading alone
    how = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    fd = os.open(path, how | getattr(os, "O_CLOEXEC", 0))
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
def held_aside(path: Path) -> Iterator[tuple[Path, int | None]]:
    """Give the name and descriptor of an empty file beside a path, which goes with the block.

    The descriptor is None on a system without such locks.

    The file is locked meanwhile, so that what a killed process left is told from it: that is
    deleted first. Raises `OSError`.
    """
    clear_asides(path)
    name, fd = _made_aside(path)
    try:
        yield name, fd
    finally:
        name.unlink(missing_ok=True)
        if fd is not None:
            os.close(fd)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name aside to write a file to, and rename it to `path` once the block ends well.

    Raises `OSError`.
    """
    with held_aside(path) as (name, fd):
        yield name
        if fd is None:
            sync_files([name])
        else:
            os.fsync(fd)
        os.replace(name, path)


def _made_aside(path: Path) -> tuple[Path, int | None]:
    while True:
        name = aside(path)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | CAREFULLY, 0o666)
        if fcntl is None:
            os.close(fd)
            return name, None
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
    if fcntl is None:
        return
    with suppress(OSError), opened(path, os.O_RDWR | NOFOLLOW) as fd:
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
    except (AttributeError, OSError, TypeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(a))

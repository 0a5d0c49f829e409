"""Bytes that are on the disk when a call returns, and the plain error when the disk has no room."""

import errno
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Linux moves at most 2 GiB in one call.
_LARGEST_CALL = 1 << 30

# A journaling file system lets syncs that wait at the same time share one flush of the disk.
_SYNCS_AT_ONCE = 8


def read_at(path: Path, offset: int, out: memoryview) -> int:
    """Fill `out` from `offset` of the file; returns the bytes read, fewer only at its end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        done = 0
        while done < len(out):
            n = os.preadv(fd, [out[done : done + _LARGEST_CALL]], offset + done)
            if n == 0:
                break
            done += n
        return done
    finally:
        os.close(fd)


def write_at(path: Path, offset: int, data: memoryview, *, size: int | None = None) -> None:
    """Write `data` at `offset`, making the file if need be; `size` sets the file's length first.

    The bytes are with the operating system, not yet on the disk: see `sync_files`.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if size is not None:
            os.ftruncate(fd, size)
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done : done + _LARGEST_CALL], offset + done)
    finally:
        os.close(fd)


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

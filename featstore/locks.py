"""One living writer at a time: a lock that the kernel releases however its holder dies."""

import errno
import fcntl
import json
import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from featstore.errors import FeatstoreError, WriterBusy

_held: "weakref.WeakSet[_Held]" = weakref.WeakSet()


class _Held:
    """An open lock file; closing it releases the lock."""

    def __init__(self, fd: int):
        self.fd = fd
        _held.add(self)

    def close(self) -> None:
        _held.discard(self)
        os.close(self.fd)
        self.fd = -1


def _forget_in_child() -> None:
    # A forked child shares the lock, and would keep it alive after its parent was killed.
    for held in list(_held):
        held.close()


os.register_at_fork(after_in_child=_forget_in_child)


def lock_path(store: Path) -> Path:
    """The lock file of a store: beside it, so that it is there before the store is, and after."""
    return store.with_name(store.name + ".lock")


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold the writer's lock of a store.

    The file says who holds it, for the message alone: what decides is `flock`, which lapses with
    its process (on NFS as well, where the kernel maps it to a lock of the server's). Raises
    `WriterBusy` while another process, or another writer of this one, holds it.
    """
    path = lock_path(store)
    held = _Held(_acquire(path, store))
    try:
        who = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # A full disk that has no room for the note is met when rows are written, and told there.
        with suppress(OSError):
            os.ftruncate(held.fd, 0)
            os.pwrite(held.fd, json.dumps(who).encode(), 0)
        yield
    finally:
        if held.fd >= 0:
            # Removed while held: whoever opened it meanwhile sees in _acquire that it is gone.
            path.unlink(missing_ok=True)
            held.close()


def _acquire(path: Path, store: Path) -> int:
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise FeatstoreError(
                f"{store} cannot be written: {error.strerror} ({path});"
                " choose a place you may write to"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, fd):
                return fd
        except OSError as error:
            text = os.pread(fd, 4096, 0)
            os.close(fd)
            raise _refusal(error, text, store) from None
        os.close(fd)


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _refusal(error: OSError, text: bytes, store: Path) -> FeatstoreError:
    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        return FeatstoreError(
            f"the file system of {store} cannot lock files ({error.strerror});"
            " write the store on another one and move it there when it is complete"
        )
    try:
        who = json.loads(text)
        holder = f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        holder = "another process"
    return WriterBusy(f"{store} is being written by {holder}; wait until it is done, or end it")

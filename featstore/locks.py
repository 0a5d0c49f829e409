"""One living writer, or job of writers, at a time: a lock that lapses however its holder dies."""

import errno
import fcntl
import json
import os
import socket
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError, WriterBusy
from featstore.places import Place, Url

# How long a process of a job waits for the holder to say whose it is.
_GRACE = 2.0  # seconds

# A link is not followed, and a pipe not waited for.
_CAREFULLY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

# How a holder's note begins.
_BEGINS = b'{"pid": '

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


def _always_held() -> None:
    """A kernel's lock is never lost."""


@dataclass(frozen=True)
class Hold:
    """That a writer has a store to itself: `check` raises `WriterBusy` once that was lost.

    At a URL, what is written is put at `staging` first, which is this process's own.
    """

    check: Callable[[], None] = _always_held
    staging: Url | None = None


class JobBusy(WriterBusy):
    """Another process of the same job has what this one wants for itself."""


@contextmanager
def locked(store: Place, job: str | None = None, *, alone: bool = False) -> Iterator[Hold]:
    """Hold the writer's lock of a store; processes that name the same `job` hold it together.

    With `alone` not even they: `JobBusy` is raised while one of them holds it. No lock is lost but
    a lease: what lies at a URL, no kernel can lock, and `featstore.leases` stands in.

    The file says who holds it: the job decides among the processes that share it, all else is for
    the message alone. What decides is `flock`, which lapses with its process (on NFS as well, where
    the kernel maps it to a lock of the server's). Raises `WriterBusy` while another process, or
    another writer of this one, holds it.
    """
    if isinstance(store, Url):
        from featstore.leases import leased

        with leased(store, job, alone=alone) as hold:
            yield hold
        return
    path = lock_path(store)
    held = _Held(_acquire(path, store, job, alone))
    try:
        yield Hold()
    finally:
        if held.fd >= 0:
            # Removed while held, by the last that holds it: whoever opened it meanwhile sees in
            # _acquire that it is gone.
            with suppress(OSError):
                fcntl.flock(held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            held.close()


def is_held(store: Path) -> bool:
    """Whether a living process holds the lock of a store; looking changes nothing."""
    return is_locked(lock_path(store))


def is_locked(path: Path) -> bool:
    """Whether a living process holds a lock on a file; looking changes nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | _CAREFULLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def is_note(path: Path) -> bool:
    """Whether a file is a lock: what its holder wrote, or nothing where that was killed first."""
    try:
        fd = os.open(path, os.O_RDONLY | _CAREFULLY)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and _is_ours(fd)
    finally:
        os.close(fd)


def _acquire(path: Path, store: Path, job: str | None, alone: bool) -> int:
    until = time.monotonic() + _GRACE
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | _CAREFULLY, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise _in_the_way(path, store) from None
            raise FeatstoreError(
                f"{store} cannot be written: {error.strerror} ({path});"
                " choose a place you may write to"
            ) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not _is_ours(fd):
            os.close(fd)
            raise _in_the_way(path, store)
        try:
            if _taken(fd, job, alone) and _is(path, fd):
                return fd
        except OSError as error:
            who = _note(fd)
            os.close(fd)
            ours = job is not None and who.get("job") == job
            if ours and alone:
                raise JobBusy(f"another process of job {job} is at {store}; wait for it") from None
            if not ours and (job is None or time.monotonic() > until):
                raise _refusal(error, who, store) from None
            # Another process of the job has it alone for a moment, or has not said yet that it is
            # of this job: the note may be empty, or that of a holder long dead.
            time.sleep(0.01)
            continue
        os.close(fd)


def _is_ours(fd: int) -> bool:
    """Whether an open file is empty, or begins as a holder's note does."""
    start = os.pread(fd, len(_BEGINS), 0)
    return start == _BEGINS or not any(start)


def _in_the_way(path: Path, store: Path) -> FeatstoreError:
    return FeatstoreError(
        f"{path} is in the way of the lock of {store}: featstore did not write it, and neither"
        " follows nor changes it; move it away"
    )


def _taken(fd: int, job: str | None, alone: bool) -> bool:
    """Take the lock, or share that of the job; OSError where that cannot be now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if job is None or alone or _note(fd).get("job") != job:
            raise
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # The job may have ended, and another begun, before the lock was shared.
        return _note(fd).get("job") == job
    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        **({} if job is None else {"job": job}),
    }
    # A full disk that has no room for the note is met when rows are written, and told there.
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(who).encode(), 0)
    if job is not None and not alone:
        # Shared from now on: the rest of the job may come. Another job may come first, in between.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return _note(fd).get("job") == job
    return True


def _note(fd: int) -> dict[str, Any]:
    """What the holder wrote of itself; nothing where that is not whole."""
    try:
        found = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _refusal(error: OSError, who: dict[str, Any], store: Path) -> FeatstoreError:
    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        return FeatstoreError(
            f"the file system of {store} cannot lock files ({error.strerror});"
            " write the store on another one and move it there when it is complete"
        )
    holder = "another process"
    if {"pid", "host", "since"} <= who.keys():
        holder = f"process {who['pid']} on {who['host']} since {who['since']}"
    return WriterBusy(f"{store} is being written by {holder}; wait until it is done, or end it")

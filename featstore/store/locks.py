"""Locks and leases: one writer a store, on this machine and at a URL."""

import errno
import json
import os
import socket
import stat
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from featstore import durable
from featstore.errors import FeatstoreError, WriterBusy
from featstore.places import Place, Url
from featstore.store.remote import RemoteObjects

# How long a process of a job waits for the holder to say whose it is.
_GRACE = 2.0  # seconds

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# A link is not followed, and a pipe not waited for.
_CAREFULLY = durable.CAREFULLY | durable.NOFOLLOW

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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def lock_path(store: Path) -> Path:
    """The lock file of a store: beside it, so that it is there before the store is, and after."""
    return store.with_name(store.name + ".lock")


def _always_held() -> None:
    """A kernel's lock is never lost."""


@dataclass(frozen=True)
class Hold:
    """Lock of a writer on a store: `check` raises `WriterBusy` once it was lost.

    At a URL, what is written is put at `staging` first, which is this process's own. Each request
    that changes the store is made in a `request()`: the lock is let go of once all have ended. For
    `margin` seconds after a `check` nobody else can have the lock.
    """

    check: Callable[[], None] = _always_held
    staging: Url | None = None
    request: Callable[[], AbstractContextManager[None]] = nullcontext
    margin: float = 0.0


class JobBusy(WriterBusy):
    """Another process of the same job has what this one wants for itself."""


@contextmanager
def locked(store: Place, job: str | None = None, *, alone: bool = False) -> Iterator[Hold]:
    """Hold the writer's lock of a store; processes that name the same `job` hold it together.

    With `alone` not even they: `JobBusy` is raised while one of them holds it. No lock is lost but
    a lease: what lies at a URL, no kernel can lock, and `featstore.store.locks` stands in.

    The file says who holds it: the job decides among the processes that share it, all else is for
    the message alone. What decides is `flock`, which lapses with its process (on NFS as well, where
    the kernel maps it to a lock of the server's). Raises `WriterBusy` while another process, or
    another writer of this one, holds it.
    """
    if isinstance(store, Url):
        with leased(store, job, alone=alone) as hold:
            yield hold
        return
    path = lock_path(store)
    if fcntl is None:
        with _by_library(path, store):
            yield Hold()
        return
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


@contextmanager
def _by_library(path: Path, store: Path) -> Iterator[None]:
    """Hold a lock where there is no `flock`: filelock's, which one process alone can have.

    On Windows it is the system's and lapses with its process. It says not who holds it.
    """
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise WriterBusy(
            f"{store} is being written by another process, and this system lets none share its"
            " lock; wait until it is done, or end it"
        ) from None
    except OSError as error:
        raise FeatstoreError(
            f"{store} cannot be written: {error.strerror or error} ({path}); choose a place you may"
            " write to"
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_held(store: Path) -> bool:
    """Return whether a living process holds the lock of a store; looking changes nothing."""
    return is_locked(lock_path(store))


def is_locked(path: Path) -> bool:
    """Return whether a living process holds a lock on a file; looking changes nothing."""
    if fcntl is None:
        lock = filelock.FileLock(path, timeout=0)
        if not path.exists():
            return False
        try:
            with lock:
                return False
        except (filelock.Timeout, OSError):
            return True
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
    """Return whether a file is a lock: its holder's note, or empty if that was killed first."""
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
    """Return whether an open file is empty, or begins as a holder's note does."""
    start = durable.read_from(fd, len(_BEGINS), 0)
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
    """Return the holder's note of itself; nothing where that is not whole."""
    try:
        found = json.loads(durable.read_from(fd, 4096, 0))
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


# Seconds between two signs of life, and without one until a process counts as dead.
BEAT, LAPSE = 5.0, 30.0

# What one job puts; what a process stages lies below its token and this.
GATE, _STAGED = "gate", ".staged"
_here: set[str] = set()


@contextmanager
def leased(store: Url, job: str | None = None, *, alone: bool = False) -> Iterator[Hold]:
    """Hold the lease of a store as `locks.locked` holds a lock."""
    lease = _Lease(store, job, alone)
    lease.acquire()
    try:
        yield Hold(lease.check, lease.staging, lease.request, BEAT)
    finally:
        lease.release()


class _Lease:
    """A process's part in a job's hold of the store.

    The gate is an object that one job puts where none is; who holds it has a sign of life beside
    it, too. Whoever comes heeds both: a process that was stopped, and wakes, may delete a gate that
    is another's by then, and the signs of those that write are still there.
    """

    def __init__(self, store: Url, job: str | None, alone: bool):
        self._store, self._alone = store, alone
        self._objects = RemoteObjects(store.with_name(store.name + ".lock"))
        self._token = uuid.uuid4().hex
        self.staging = store.with_name(store.name + ".lock") / f"{self._token}{_STAGED}"
        self._job = job or self._token
        self._beats = 0
        self._seen = _now()
        self._lost: str | None = None
        self._changed = threading.Condition()
        self._requests, self._left = 0, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_forever, name="featstore-lease")

    def acquire(self) -> None:
        """Return when the gate is this job's; `WriterBusy` or `JobBusy` while it is another's."""
        while not self._entered():
            pass
        _here.add(self._token)
        self._thread.start()

    def check(self) -> None:
        """Raise `WriterBusy` where this process was taken for dead, or might have been."""
        self._note_silence()
        if self._lost or self._left:
            raise WriterBusy(
                f"{self._store} may have another writer now: {self._lost or 'this one has ended'};"
                " what is committed is intact, run the same command again, it goes on from there"
            )

    @contextmanager
    def request(self) -> Iterator[None]:
        """Let a request be made while the lease is held, which is not let go of before its end."""
        with self._changed:
            self.check()
            self._requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify_all()

    def _note_silence(self) -> None:
        """Take the lease for lost, for good, where this process may count as dead."""
        if self._lost is None and _now() - self._seen > LAPSE - BEAT:
            self._lost = f"no sign of life has reached it for {LAPSE - BEAT:.0f} s"

    def release(self) -> None:
        """Leave, once no request is under way; the last of a job takes the gate along."""
        try:
            with self._changed:
                self._left = True
                self._changed.wait_for(lambda: not self._requests)
        finally:
            # Who does not want to wait, by Ctrl-C, leaves no thread behind.
            self._over.set()
        self._thread.join()
        _here.discard(self._token)
        staged = [key for key in self._objects.all_keys() if _owner(key) == self._token]
        self._objects.drop_all([key for key in staged if key != self._token])
        self._objects.drop(self._token)
        others = self._signs(_of_processes(self._objects.all_keys()))
        if self._gate().get("job") == self._job and not any(
            note.get("job") == self._job for note in others.values()
        ):
            self._objects.drop(GATE)

    def _entered(self) -> bool:
        gate = self._gate()
        if not gate:
            if not self._objects.put(GATE, self._note(), new=True):
                return False
            gate = self._gate()
        if gate.get("job") != self._job:
            self._outlive(gate)
            return False
        if gate.get("token") != self._token and (self._alone or gate.get("alone")):
            if self._alone:
                raise JobBusy(f"another process of job {self._job} is at {self._store}")
            time.sleep(0.05)
            return False
        try:
            self._outlive(gate)
        except BaseException:
            if self._is_gate(gate) and gate.get("token") == self._token:
                self._objects.drop(GATE)
            raise
        # Counted from before it is put: it may be there long before this process knows.
        self._seen = _now()
        self._objects.put(self._token, self._note())
        # Another may have come at the same time, where a put cannot be conditional.
        if self._is_gate(gate):
            return True
        self._objects.drop(self._token)
        return False

    def _outlive(self, gate: dict[str, Any]) -> None:
        """Clear away dead processes of other jobs, and their gate.

        `WriterBusy` as soon as a sign of their life is seen. Deleted is what was watched, by name,
        and what nobody has who is there: a process that is stopped here and wakes deletes no sign
        of who has come since.
        """
        ours = gate.get("job") == self._job
        watched = self._others(gate)
        until = _now() + LAPSE
        while not all(_is_dead(note) for note in watched.values()):
            if any(note.get("token") in _here for note in watched.values()):
                raise self._refusal(gate, watched)
            time.sleep(min(1.0, BEAT / 4))
            # The last look begins when the time is over.
            late = _now() >= until
            now = self._others(gate)
            if not self._is_gate(gate):
                return
            if now != watched:
                raise self._refusal(gate, watched)
            if late:
                break
        keys = self._objects.all_keys()
        if not self._is_gate(gate):
            return
        # What the dead have staged goes before anybody else may write.
        living = {GATE, *_of_processes(keys)} - (watched.keys() - {GATE})
        self._objects.drop_all([key for key in keys if _owner(key) not in living])
        if watched:
            # What the storage was asked for by the dead has come to its end then.
            time.sleep(BEAT / 5)
        if not ours and self._is_gate(gate):
            self._objects.drop(GATE)

    def _others(self, gate: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The note of every process of other jobs, or their gate's where there is nothing else."""
        notes = self._signs(_of_processes(self._objects.all_keys()))
        others = {key: note for key, note in notes.items() if note.get("job") != self._job}
        return others or ({} if gate.get("job") == self._job else {GATE: gate})

    def _signs(self, keys: list[str]) -> dict[str, dict[str, Any]]:
        """The notes of other processes that are there."""
        found = {key: self._objects.get(key) for key in keys if key != self._token}
        return {key: _parsed(note) for key, note in found.items() if note is not None}

    def _refusal(self, gate: dict[str, Any], signs: dict[str, dict[str, Any]]) -> WriterBusy:
        who = next(iter(signs.values())) if gate.get("job") == self._job else gate
        holder = "another process"
        if {"pid", "host", "since"} <= who.keys():
            holder = f"process {who['pid']} on {who['host']} since {who['since']}"
        return WriterBusy(
            f"{self._store} is being written by {holder}; wait until it is done, or end it"
        )

    def _is_gate(self, gate: dict[str, Any]) -> bool:
        """Return whether the gate is still this one."""
        return self._gate().get("token") == gate.get("token")

    def _gate(self) -> dict[str, Any]:
        return _parsed(self._objects.get(GATE))

    def _note(self) -> bytes:
        who = {
            "job": self._job,
            "token": self._token,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": _machine(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "beat": self._beats,
            **({"alone": True} if self._alone else {}),
        }
        return json.dumps(who).encode()

    def _beat_forever(self) -> None:
        while not self._over.wait(BEAT):
            # One that was stopped for long may find no gate because another has come and gone.
            self._note_silence()
            if self._lost:
                return
            began = _now()
            try:
                gate = self._gate()
                # The last of the job but this one may have taken the gate along.
                if not gate:
                    self._objects.put(GATE, self._note(), new=True)
                elif gate.get("job") != self._job:
                    self._lost = "another process has taken its lease"
                    return
                self._beats += 1
                self._objects.put(self._token, self._note())
            except FeatstoreError:
                # Not reached: tried again, until it is too late, which `check` tells.
                continue
            # A sign that was on its way for too long, or in a process that was stopped, is none.
            self._note_silence()
            self._seen = began


def _of_processes(keys: list[str]) -> list[str]:
    """The keys of signs of life: neither the gate nor what is staged."""
    return [key for key in keys if key != GATE and "/" not in key]


def _owner(key: str) -> str:
    """Return the token of the process that put an object; the gate is of all."""
    return key.partition("/")[0].removesuffix(_STAGED)


def _now() -> float:
    """Seconds that pass for everybody, also while this machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _parsed(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_dead(note: dict[str, Any]) -> bool:
    """Return whether the process that wrote the note ran on this machine, and runs no more."""
    if note.get("machine") != _machine() or not isinstance(note.get("pid"), int):
        return False
    return not durable.runs(note["pid"])


def _machine() -> str | None:
    """Return an identity of this machine, its start, and its set of process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{socket.gethostname()} {uuid.uuid4()}"

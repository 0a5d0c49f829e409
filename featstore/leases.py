"""One living writer, or job of them, of a store that no kernel can lock: a lease that is renewed.

Beside the store lie, in `<store>.lock/`, a *gate*, which names the job that may write and is put
only where none is, and an object for each process of the job, put again every few seconds. A job is
dead when all its processes are known to be, on this machine, or when none of their objects has
changed for so long; nobody's clock is compared with another's. Whoever finds a dead job clears it
away. A process that was taken for dead, because it could not reach the storage or was stopped,
learns so before it commits anything more.

Nor does it write into what is another's by then, even where it was stopped in the middle of a put.
What a process writes is put at `<store>.lock/<token>.staged/` first, which is its own; then it
looks whether it still holds the lease, and has the storage copy the object to its place. Whoever
clears a dead job away deletes what it staged, so that a copy which comes too late finds nothing.

Two that write all the same, where a storage ignores the condition of a put, write the same bytes to
the same keys; where their bytes differ, checksums tell.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError, WriterBusy
from featstore.locks import Hold, JobBusy
from featstore.places import Url
from featstore.remote_objects import RemoteObjects

# Seconds between two signs of life, and without one until a process counts as dead.
BEAT, LAPSE = 5.0, 30.0

GATE = "gate"
_here: set[str] = set()


@contextmanager
def leased(store: Url, job: str | None = None, *, alone: bool = False) -> Iterator[Hold]:
    """Hold the lease of a store as `locks.locked` holds a lock."""
    lease = _Lease(store, job, alone)
    lease.acquire()
    try:
        yield Hold(lease.check, lease.staging)
    finally:
        lease.release()


class _Lease:
    """A process's part in a job's hold of the store."""

    def __init__(self, store: Url, job: str | None, alone: bool):
        self._store, self._alone = store, alone
        self._objects = RemoteObjects(store.with_name(store.name + ".lock"))
        self._token = uuid.uuid4().hex
        self.staging = store.with_name(store.name + ".lock") / f"{self._token}.staged"
        self._job = job or self._token
        self._beats = 0
        self._seen = _now()
        self._lost: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_forever, name="featstore-lease")

    def acquire(self) -> None:
        """Return when the gate is this job's; `WriterBusy` or `JobBusy` while it is another's."""
        while not self._entered():
            pass
        _here.add(self._token)
        self._seen = _now()
        self._thread.start()

    def check(self) -> None:
        """Raise `WriterBusy` where this process was taken for dead, or might have been."""
        self._note_silence()
        if self._lost:
            raise WriterBusy(
                f"{self._store} may have another writer now: {self._lost}; what is committed is"
                " intact, run the same command again, it goes on from there"
            )

    def _note_silence(self) -> None:
        """Take the lease for lost, for good, where this process may count as dead."""
        if self._lost is None and _now() - self._seen > LAPSE - BEAT:
            self._lost = f"no sign of life has reached it for {LAPSE - BEAT:.0f} s"

    def release(self) -> None:
        """Leave; the last of a job takes the gate along."""
        self._over.set()
        self._thread.join()
        _here.discard(self._token)
        keys = self._objects.all_keys()
        self._objects.drop_all([key for key in keys if key.startswith(f"{self._token}.staged/")])
        self._objects.drop(self._token)
        others = set(_of_processes(keys)) - {self._token}
        if self._gate().get("job") == self._job and not others:
            self._objects.drop(GATE)

    def _entered(self) -> bool:
        gate = self._gate()
        if not gate:
            if not self._objects.put(GATE, self._note(), new=True):
                return False
            # Left over from a job that was cleared away half, or of one that will put it again.
            self._objects.drop_all([key for key in self._objects.all_keys() if key != GATE])
            gate = self._gate()
        if gate.get("job") != self._job:
            self._outlive(gate)
            return False
        if gate.get("token") != self._token and (self._alone or gate.get("alone")):
            if self._alone:
                raise JobBusy(f"another process of job {self._job} is at {self._store}")
            time.sleep(0.05)
            return False
        self._objects.put(self._token, self._note())
        # Another may have come at the same time, where a put cannot be conditional.
        if self._gate().get("token") == gate.get("token"):
            return True
        self._objects.drop(self._token)
        return False

    def _outlive(self, gate: dict[str, Any]) -> None:
        """Clear a dead job away; `WriterBusy` as soon as a sign of its life is seen."""
        signs = self._signs()
        until = _now() + LAPSE
        while not all(_is_dead(note) for note in signs.values()) and _now() < until:
            if any(note.get("token") in _here for note in signs.values()):
                raise _refusal(self._store, gate)
            time.sleep(min(1.0, BEAT / 4))
            now = self._signs()
            if self._gate().get("token") != gate.get("token"):
                return
            if now != signs:
                raise _refusal(self._store, gate)
        if self._gate().get("token") == gate.get("token"):
            # What the dead have staged goes before anybody else may write.
            self._objects.drop_all([key for key in self._objects.all_keys() if key != GATE])
            self._objects.drop(GATE)

    def _signs(self) -> dict[str, dict[str, Any]]:
        """The note of every process of the job, or its gate's where it has come no further."""
        keys = _of_processes(self._objects.all_keys()) or [GATE]
        return {key: _parsed(self._objects.get(key)) for key in keys}

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
                self._seen = _now()
            except FeatstoreError:
                # Not reached: tried again, until it is too late, which `check` tells.
                continue


def _of_processes(keys: list[str]) -> list[str]:
    """The keys of signs of life: neither the gate nor what is staged."""
    return [key for key in keys if key != GATE and "/" not in key]


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
    """Whether the process that wrote the note ran on this machine, and runs no more."""
    if note.get("machine") != _machine() or not isinstance(note.get("pid"), int):
        return False
    try:
        os.kill(note["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _machine() -> str | None:
    """What tells this machine, since it was started, and its set of process numbers from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{socket.gethostname()} {uuid.uuid4()}"


def _refusal(store: Url, gate: dict[str, Any]) -> WriterBusy:
    holder = "another process"
    if {"pid", "host", "since"} <= gate.keys():
        holder = f"process {gate['pid']} on {gate['host']} since {gate['since']}"
    return WriterBusy(f"{store} is being written by {holder}; wait until it is done, or end it")

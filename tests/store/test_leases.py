"""Leases of stores beyond this machine: who holds one, and what comes of who has lost it."""

import contextlib
import itertools
import json
import os
import signal
import threading
import time
import uuid

import pytest
from forked import processes
from loopback import no_network  # noqa: F401
from s3 import (  # noqa: F401
    OTHER,
    HeldBack,
    calm_network,
    everything,
    fresh_bucket,
    fresh_memory,
)

import featstore
from featstore.errors import PlaceError, StoreNotFound, WriterBusy
from featstore.store import layout, locks, remote
from featstore.store.remote import RemoteObjects
from featstore.testing import block_of, fill, filled, spec_of

pytestmark = pytest.mark.usefixtures("small_blocks")
SPEC = spec_of(n_train=32 * 6, n_test=40, dims=(24, 7))


def in_a_second(test):
    """Let leases of a test lapse in a second."""
    test = pytest.mark.parametrize("quick_leases", [1.0], indirect=True)(test)
    return pytest.mark.usefixtures("quick_leases")(test)


def gate(url, **fields):
    note = {
        "job": "j",
        "token": "t",
        "pid": 1,
        "host": "elsewhere",
        "machine": "m",
        "since": "then",
    }
    RemoteObjects(url.with_name(url.name + ".lock")).put(
        locks.GATE, json.dumps({**note, **fields}).encode()
    )


@in_a_second
def test_a_lease_without_a_sign_of_life_lapses(memory):
    store = featstore.create(memory / "store", spec_of())
    gate(store.path)
    before = time.monotonic()
    with store.writer():
        assert 1 <= time.monotonic() - before < 5
    assert RemoteObjects(store.path.with_name("store.lock")).all_keys() == []


@in_a_second
def test_a_dead_lease_of_no_store_is_collected(memory):
    gate(memory / "gone")
    begun = featstore.create(memory / "begun", spec_of())
    (item,) = [item for item in featstore.abandoned(memory, days=0) if item.what == "lock"]
    assert item.path.name == "gone.lock"
    featstore.collect(item)
    assert RemoteObjects(item.path).all_keys() == []
    # a store without a record is as old as its metadata
    assert time.time() - begun.modified() / 1e9 < 60
    assert featstore.abandoned(memory, days=1) == []


@in_a_second
def test_a_sign_of_life_from_another_machine_is_heeded(memory):
    store = featstore.create(memory / "store", spec_of())
    gate(store.path)
    other = RemoteObjects(store.path.with_name("store.lock"))
    over = threading.Event()

    def live():
        beat = 0
        while not over.wait(0.1):
            beat += 1
            other.put("t", json.dumps({"token": "t", "machine": "m", "beat": beat}).encode())

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(WriterBusy, match="by process 1 on elsewhere since then"):
            store.writer().__enter__()
        with pytest.raises(WriterBusy):
            featstore.remove(store.path)
    finally:
        over.set()
        thread.join()
    assert set(other.all_keys()) == {locks.GATE, "t"}


@in_a_second
def test_a_writer_whose_lease_was_taken_commits_nothing_more(memory):
    store = featstore.create(memory / "store", spec_of())

    def write_while_it_is_lost():
        with store.writer() as writer:
            writer.write(**block_of(store, "train", 0))
            writer.flush()
            gate(store.path)
            time.sleep(0.5)
            writer.write(**block_of(store, "train", 1))
            writer.flush()

    with pytest.raises(WriterBusy, match="another process has taken its lease"):
        write_while_it_is_lost()
    assert store.missing("train") == [1, 2, 3]
    # what is another's stays
    assert locks.GATE in RemoteObjects(store.path.with_name("store.lock")).all_keys()


@in_a_second
def test_a_writer_that_reaches_nothing_stops_in_time(memory, monkeypatch):
    store = featstore.create(memory / "store", spec_of())
    put = RemoteObjects.put

    def deaf(self, key, body, **more):
        if "beat" in body.decode(errors="ignore") and b'"beat": 0' not in body:
            raise PlaceError("not reached")
        return put(self, key, body, **more)

    monkeypatch.setattr(RemoteObjects, "put", deaf)

    def write_after_a_while():
        with store.writer() as writer:
            time.sleep(1.2)
            writer.write(**block_of(store, "train", 0))
            writer.flush()

    with pytest.raises(WriterBusy, match="no sign of life has reached it"):
        write_after_a_while()
    assert store.missing("train") == [0, 1, 2, 3]


@pytest.mark.usefixtures("quick_leases")
def test_of_many_that_come_at_once_one_writes(bucket):
    store = featstore.create(bucket / "store", spec_of())
    inside, most, refused = [], [], []

    def come():
        try:
            with store.writer():
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.3)
                inside.pop()
        except WriterBusy:
            refused.append(1)

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(most) + len(refused) == 6
    assert RemoteObjects(store.path.with_name("store.lock")).all_keys() == []


@in_a_second
def test_the_rest_of_a_job_goes_on_when_one_leaves(memory):
    store = featstore.create(memory / "store", spec_of())
    first = store.writer("job")
    first.__enter__()
    with store.writer("job") as second:
        first.__exit__(None, None, None)
        with pytest.raises(WriterBusy):
            store.writer("other").__enter__()
        time.sleep(0.4)
        second.write(**block_of(store, "train", 0))
    assert store.missing("train") == [1, 2, 3]
    assert RemoteObjects(store.path.with_name("store.lock")).all_keys() == []


def write_slowly(path, ready):
    """Write, with a pause after every check of the lease, between an object's put and its copy."""
    layout.BLOCK_BYTES = 1
    locks.BEAT, locks.LAPSE = 0.3, 3.0
    copy = RemoteObjects.copy

    def late(self, key, to):
        ready.set()
        time.sleep(0.5)
        return copy(self, key, to)

    RemoteObjects.copy = late
    fill(featstore.open(path))


@pytest.mark.long
@pytest.mark.usefixtures("quick_leases")
def test_a_stopped_writer_that_wakes_does_not_write_into_its_successors_store(s3):
    """Stopped in the middle of a put, and woken when another store lies at its place."""
    path = s3 / "stopped" / "store"
    other = spec_of(n_train=32 * 6, n_test=40, dims=(24, 7), backbone="other")
    for finished in (True, False):
        featstore.create(path, SPEC)
        ready = processes.Event()
        stopped = processes.Process(target=write_slowly, args=(path, ready))
        stopped.start()
        assert ready.wait(60)
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            featstore.remove(path)
            store = featstore.create(path, other)
            with store.writer() as writer:
                if finished:
                    for split, block in store.blocks():
                        writer.write(**block_of(store, split, block))
                    writer.flush()
                before = everything(path)
                if not finished:
                    os.kill(stopped.pid, signal.SIGCONT)
                    stopped.join(60)
        finally:
            if stopped.is_alive():
                os.kill(stopped.pid, signal.SIGCONT)
        stopped.join(60)
        assert stopped.exitcode == 1
        assert everything(path) == before
        assert store.verify() == []
        assert store.complete == finished
        featstore.remove(path)
        assert RemoteObjects(s3 / "stopped").all_keys() == []


def change_slowly(path, what, at, ready, woken):
    """Create or remove a store; requests that change it wait to be `woken`, from `at` on."""
    locks.BEAT, locks.LAPSE = 0.3, 3.0
    asked = {"create": "copy", "remove": "copy", "delete": "_rm"}[what]
    request, count = getattr(RemoteObjects, asked), itertools.count()

    def late(self, key, *more):
        of_store = (".lock" in str(self._url)) == (asked == "copy")
        if of_store and next(count) >= at:
            ready.set()
            woken.wait(60)
        return request(self, key, *more)

    setattr(RemoteObjects, asked, late)
    featstore.create(path, SPEC) if what == "create" else featstore.remove(path)


@pytest.mark.parametrize(
    ("what", "at"),
    [
        pytest.param("create", 0, marks=pytest.mark.long),
        pytest.param("create", 3, marks=pytest.mark.long),
        pytest.param("remove", 0, marks=pytest.mark.long),
        pytest.param("delete", 0, marks=pytest.mark.long),
    ],
)
def test_who_is_stopped_in_creation_or_removal_does_not_harm_the_next_store(
    s3, quick_leases, what, at
):
    path = s3 / f"halted-{what}{at}" / "store"
    if what != "create":
        filled(path, "zarr", SPEC)
    ready, woken = processes.Event(), processes.Event()
    stopped = processes.Process(target=change_slowly, args=(path, what, at, ready, woken))
    stopped.start()
    assert ready.wait(60)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        if what == "remove":
            featstore.remove(path)
        other = spec_of(n_train=32 * 6, n_test=40, dims=(24, 7), backbone="other")
        store = filled(path, "zarr", other)
        before = everything(path)
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
        woken.set()  # which waits for whoever waits for it
    stopped.join(60)
    assert stopped.exitcode == 1
    assert everything(path) == before
    assert store.verify() == []
    featstore.remove(path)


def change_from_elsewhere(path, what):
    """Change a store by requests that a test holds back."""
    os.environ["AWS_ACCESS_KEY_ID"] = OTHER
    layout.BLOCK_BYTES, locks.BEAT, locks.LAPSE = 1, 0.3, 3.0
    # of ten connections, so that some are left for signs of life
    remote.CONNECTIONS = 4
    if what == "create":
        featstore.create(path, SPEC)
    elif what == "remove":
        featstore.remove(path)
    elif what == "repair":
        store = featstore.open(path)
        with store.writer() as writer:
            writer.withdraw(store.verify())
    else:
        store = featstore.open_or_create(path, SPEC, overwrite=what == "overwrite")
        fill(store)
        featstore.finish(store)


# What is changed, and from which of these requests on all are held back.
HELD_BACK = {
    "create, a put": ("create", r"PUT .*staged/", 2),
    "create, a copy": ("create", r"COPY .*/store/", 2),
    "create, the root": ("create", r"COPY .*/store/zarr.json", 1),
    "write, a put": ("write", r"PUT .*staged/", 3),
    "write, a copy": ("write", r"COPY .*/store/train/tap0/c", 1),
    "write, a record": ("write", r"COPY .*/commits/c", 0),
    "repair, a document": ("repair", r"COPY .*/store/test/zarr.json", 0),
    "repair, a record": ("repair", r"DELETE .*/store/train/commits", 0),
    "remove, the mark": ("remove", r"COPY .*/store/zarr.json", 0),
    "remove, a deletion": ("remove", r"DELETE .*/store/", 3),
    "overwrite, the mark": ("overwrite", r"COPY .*/store/zarr.json", 0),
    "overwrite, a deletion": ("overwrite", r"DELETE .*/store/", 1),
    "overwrite, a copy": ("overwrite", r"COPY .*/store/train/tap0/c", 1),
    "overwrite, the root": ("overwrite", r"COPY .*/store/zarr.json", 1),
    "overwrite, what is left": ("overwrite", r"DELETE .*replacement/train", 1),
}
IN_SHORT = ("create, a put",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.long] * (n not in IN_SHORT)) for n in HELD_BACK],
)
def test_what_comes_when_another_has_written_changes_nothing(s3, network, quick_leases, name):
    """Requests that were on their way when their sender's lease lapsed; the last of its signs too.

    Another has made a store there by then, and begun one that is to replace it.
    """
    what, pattern, number = HELD_BACK[name]
    folder = s3 / f"held-{uuid.uuid4().hex}"
    path = folder / "store"
    other = spec_of(n_train=32 * 5 + 3, n_test=30, dims=(20, 7), backbone="other")
    if what == "overwrite":
        filled(path, "zarr", other)
    elif what != "create":
        store = filled(path, "zarr", SPEC)
        if what == "write":
            with store.writer() as writer:
                for block in (0, 1, 2):
                    writer.discard("train", block)
        elif what == "repair":
            for key in ("test/zarr.json", "train/tap0/c.1.0"):
                RemoteObjects(path).put(key, b"{}")
    held = HeldBack(network, pattern, number)
    stopped = processes.Process(target=change_from_elsewhere, args=(path, what))
    stopped.start()
    assert held.waits()
    try:
        with contextlib.suppress(StoreNotFound):
            featstore.remove(path)
        store = filled(path, "zarr", other)
        fill(featstore.open_or_create(path, SPEC, overwrite=True))
        before = everything(folder)
    finally:
        held.let_pass()
    stopped.join(60)
    assert stopped.exitcode == 1
    assert everything(folder) == before
    assert store.verify() == []
    assert not any(".lock/" in key for key in before)


@pytest.mark.long
def test_a_gate_that_a_woken_writer_deletes_lets_nobody_in(s3, network, quick_leases):
    path = s3 / f"gate-{uuid.uuid4().hex}" / "store"
    store = featstore.create(path, SPEC)
    held = HeldBack(network, r"DELETE .*store\.lock/gate")
    woken = processes.Process(target=change_from_elsewhere, args=(path, "write"))
    woken.start()
    assert held.begun.wait(60)
    with store.writer():
        held.let_pass()
        woken.join(60)
        with pytest.raises(WriterBusy):
            store.writer().__enter__()
    assert RemoteObjects(path.with_name("store.lock")).all_keys() == []


@in_a_second
def test_a_sign_of_life_that_comes_too_late_is_none(memory, monkeypatch):
    store = featstore.create(memory / "store", spec_of())
    put = RemoteObjects.put

    def late(self, key, body, **more):
        if b'"beat": 1,' in body or b'"beat": 1}' in body:
            time.sleep(1.2)
        return put(self, key, body, **more)

    monkeypatch.setattr(RemoteObjects, "put", late)

    def write_after_it_came():
        with store.writer() as writer:
            time.sleep(1.5)
            writer.write(**block_of(store, "train", 0))

    with pytest.raises(WriterBusy, match="no sign of life has reached it"):
        write_after_it_came()
    assert store.missing("train") == [0, 1, 2, 3]


def test_nothing_is_under_way_when_a_lease_is_let_go_of(memory, monkeypatch):
    store = featstore.create(memory / "store", spec_of())
    copy = RemoteObjects.copy

    def slowly(self, key, to):
        if str(to).endswith("ids/c.0.0"):
            raise PlaceError("refused")
        time.sleep(0.3)
        return copy(self, key, to)

    monkeypatch.setattr(RemoteObjects, "copy", slowly)

    def fail():
        with store.writer() as writer:
            writer.write(**block_of(store, "train", 0))

    with pytest.raises(PlaceError, match="refused"):
        fail()
    left = everything(memory)
    assert not any(".lock" in key for key in left)
    time.sleep(0.5)
    assert everything(memory) == left

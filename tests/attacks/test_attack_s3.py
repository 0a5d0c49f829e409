"""An object storage that loses requests, and writers that are killed or stopped there."""

import contextlib
import os
import signal
import time
import warnings

import pytest
from attack import Record, attempts, contents, instants
from forked import processes
from loopback import no_network  # noqa: F401
from s3 import everything

import featstore
from featstore.errors import FeatstoreError, StoreNotFound, WriterBusy
from featstore.store import layout, locks, remote
from featstore.store.remote import RemoteObjects
from featstore.testing import FIXED, fill, filled, spec_of

pytestmark = [pytest.mark.usefixtures("small_blocks"), pytest.mark.long]


SPEC = spec_of(n_train=32 * 2, n_test=20, dims=(24,))
OTHER = spec_of(n_train=32 * 2, n_test=20, dims=(24,), backbone="other")


def write(path, spec, overwrite, ready):
    layout.BLOCK_BYTES = 1
    locks.BEAT, locks.LAPSE = 0.2, 2.0
    ready.set()
    store = featstore.open_or_create(path, spec, provenance=FIXED, overwrite=overwrite)
    fill(store)
    featstore.finish(store)


def begun(path, spec=SPEC, overwrite=False):
    ready = processes.Event()
    process = processes.Process(target=write, args=(path, spec, overwrite, ready))
    process.start()
    assert ready.wait(60)
    return process


@pytest.fixture
def quickly(monkeypatch, quick_leases):
    monkeypatch.setattr(remote, "WAITS", (0.01,) * 4)


def whole(path):
    """Overwrite a store in peace; what it holds then, and how many seconds that took."""
    filled(path, "zarr", OTHER)
    process = begun(path, SPEC, overwrite=True)
    began = time.monotonic()
    process.join(120)
    assert process.exitcode == 0
    return contents(path), time.monotonic() - began


def test_writers_that_are_killed(s3, monkeypatch):
    draw, path = instants("s3 kills"), s3 / "killed" / "store"
    filled(path, "zarr", OTHER)
    old = contents(path)
    new, took = whole(s3 / "whole" / "store")
    with Record("kill: overwriting on S3") as record:
        for _ in range(attempts(1, 0.3)):
            process = begun(path, SPEC, overwrite=True)
            # half of them about when the new one takes the place of the old one
            process.join(draw.uniform(draw.choice([0, 0.8]) * took, 1.1 * took))
            process.kill()
            process.join()
            found = contents(path)
            assert found in (old, new)
            record("the old was there" if found == old else "the new was there")
            if found == new:
                process = begun(path, OTHER, overwrite=True)
                process.join(120)
                assert process.exitcode == 0
                assert contents(path) == old
    process = begun(path, SPEC, overwrite=contents(path) == old)
    process.join(120)
    assert process.exitcode == 0
    assert contents(path) == new
    for item in featstore.abandoned(s3 / "killed", days=0):
        featstore.collect(item)
    assert {key.partition("/")[0] for key in RemoteObjects(s3 / "killed").all_keys()} == {"store"}
    featstore.remove(path)
    featstore.remove(s3 / "whole" / "store")


def test_writers_that_are_stopped_and_wake(s3, monkeypatch):
    """When they wake, another store lies at their place, by another writer."""
    draw, path = instants("s3 stops"), s3 / "stopped" / "store"
    with Record("stop and wake: S3") as record:
        for _ in range(attempts(1, 0.1)):
            process = begun(path)
            process.join(draw.uniform(0.2, 2))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.1)
            with contextlib.suppress(StoreNotFound, WriterBusy):
                featstore.remove(path)
            try:
                store = filled(path, "zarr", OTHER)
                before = everything(path)
            except FeatstoreError:
                store = None
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGCONT)
            process.join(120)
            if store is not None:
                assert everything(path) == before
                assert store.verify() == []
            record("another store came" if store else "the place was taken")
            featstore.remove(path)
            for item in featstore.abandoned(s3 / "stopped", days=0):
                featstore.collect(item)
            assert RemoteObjects(s3 / "stopped").all_keys() == []


class Lossy:
    """A file system of which some requests are lost before they arrive, or their answers are."""

    share = 0.0

    def __init__(self, fs, draw):
        self._fs, self._draw = fs, draw

    def __getattr__(self, name):
        function = getattr(self._fs, name)
        if name not in ("cat_file", "pipe_file", "cp_file", "rm_file"):
            return function

        def asked(*given, **more):
            before, after = (self._draw.random() < self.share for _ in range(2))
            if before:
                raise ConnectionResetError("lost on the way")
            answer = function(*given, **more)
            if after:
                raise ConnectionResetError("the answer was lost")
            return answer

        return asked


def test_a_storage_that_fails_now_and_then(s3, monkeypatch):
    draw, filesystem = instants("s3 faults"), remote._filesystem

    def lossy(url):
        fs, path = filesystem(url)
        return Lossy(fs, draw), path

    monkeypatch.setattr(remote, "_filesystem", lossy)
    with Record("lost requests: S3") as record, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(attempts(1, 0.1)):
            path = s3 / "faults" / f"store{number}"
            monkeypatch.setattr(Lossy, "share", draw.choice([0.02, 0.1]))
            try:
                store = featstore.open_or_create(path, SPEC, provenance=FIXED)
                fill(store)
                assert store.verify() == []
                outcome = "written"
            except FeatstoreError as error:
                outcome = "told" if "\n" not in str(error) else "told at length"
            assert outcome != "told at length"
            monkeypatch.setattr(Lossy, "share", 0.0)
            store = featstore.open_or_create(path, SPEC, provenance=FIXED)
            fill(store)
            assert store.complete
            assert store.verify() == []
            featstore.remove(path)
            record(outcome)

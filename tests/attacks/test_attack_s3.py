"""An object storage that loses requests, and writers that are killed or stopped there."""

import contextlib
import os
import signal
import threading
import time
import warnings

import pytest
from attack import Command, Record, arrays, attempts, contents, instants
from forked import processes
from loopback import no_network  # noqa: F401
from s3 import as_other, calm_network, everything  # noqa: F401

import featstore
from featstore.errors import FeatstoreError, StoreNotFound, WriterBusy
from featstore.store import layout, locks, remote
from featstore.store.remote import RemoteObjects
from featstore.testing import FIXED, fill, filled, spec_of

pytestmark = [pytest.mark.usefixtures("small_blocks"), pytest.mark.long]


SPEC = spec_of(n_train=32 * 2, n_test=20, dims=(24,))
OTHER = spec_of(n_train=32 * 2, n_test=20, dims=(24,), backbone="other")
IMPORT = """import --train-features {0}/train.npy --train-labels {0}/train_y.npy
    --test-features {0}/test.npy --test-labels {0}/test_y.npy"""
EXTRACT = """extract --model test_resnet --dataset digits --no-pretrained --image-size 32
    --limit 100 --workers 0"""
# By name: the command, and whether it overwrites a store.
KILLED = {
    "import": (IMPORT, False),
    "extract": (EXTRACT, False),
    "import over": (IMPORT, True),
    "extract over": (EXTRACT, True),
}


def stage_of(asked: list[str]) -> str:
    """Return what a job was at, by what it has asked for: the last object that it changed."""
    for request in reversed(asked):
        method, _, key = request.partition(" ")
        if ".lock/" in key or method not in ("COPY", "DELETE"):
            continue
        if method == "DELETE" or (
            "replacement/" not in key and any("replacement/" in one for one in asked)
        ):
            return "the move"
        if key.endswith("zarr.json"):
            return "creation"
        return "records" if "/commits/" in key else "chunks"
    return "the beginning"


class Killing:
    """Kill a command at a request, which arrives then, late, or is lost."""

    def __init__(self, network, at: int, delay: float | None):
        self.at, self._delay, self.process = at, delay, None
        self._lock, self._count = threading.Lock(), 0
        network.calm()
        network.meets = self

    def __call__(self, asked: str) -> bool:
        with self._lock:
            self._count += 1
            number = self._count
        if number < self.at:
            return True
        if number == self.at:
            while self.process is None:
                time.sleep(0.001)
            os.kill(self.process.pid, signal.SIGKILL)
            if self._delay is not None:
                time.sleep(self._delay)
                return True
        return False


def there_is(path, known: dict[str, dict[str, bytes]]) -> str:
    """Return which store is at a place: a known one, "a part", or "nothing"."""
    try:
        store = featstore.open(path)
    except StoreNotFound:
        return "nothing"
    assert store.verify() == []
    if not store.complete:
        return "a part"
    found = contents(path)
    return next(name for name, held in known.items() if held == found)


@pytest.mark.parametrize("name", KILLED)
def test_commands_that_are_killed(s3, network, tmp_path, name):
    """Kill each at one of its requests, so that it was at work; what it sent last comes late."""
    draw, said = instants(f"s3 {name}"), tmp_path / "said"
    words, over = KILLED[name]
    folder = s3 / f"kill-{name.replace(' ', '-')}"
    arrays(tmp_path / "new", rows=32 * 2 + 5)

    def command(path, *more):
        given = words.format(tmp_path / "new").split()
        return Command(*given, "--out", path, *more, said=said, environment=as_other())

    known = {"the new": folder / "new", "the old": folder / "old"}
    assert command(known["the new"]).wait(120) == 0, said.read_text()
    filled(known["the old"], "zarr", OTHER)
    before = everything(known["the old"])
    known = {which: contents(place) for which, place in known.items()}
    path, flags = folder / "killed", ("--overwrite",) if over else ()

    def prepare():
        network.calm()
        for item in featstore.abandoned(folder, days=0):
            featstore.collect(item)
        with contextlib.suppress(StoreNotFound):
            featstore.remove(path)
        if over:
            RemoteObjects(path).plant(before)

    prepare()
    assert command(path, *flags).wait(120) == 0, said.read_text()
    most = len(network.asked)
    with Record(f"S3 kill: {name}") as record:
        for _ in range(attempts(1, 0.15)):
            killed = False
            while not killed:
                prepare()
                kill = Killing(network, draw.randint(1, most), draw.choice([None, 0.0, 0.2]))
                kill.process = command(path, *flags).process
                kill.process.join(120)
                killed = kill.process.exitcode == -signal.SIGKILL
                assert killed or kill.process.exitcode == 0, said.read_text()
                most = most if killed else len(network.asked)
            time.sleep(0.3)
            stage, found = stage_of(network.asked[: kill.at]), there_is(path, known)
            network.calm()
            assert not over or found in ("the old", "the new")
            record(f"{found} was there, killed at {stage}")
            assert command(path, *flags).wait(120) == 0, said.read_text()
            assert there_is(path, known) == "the new"
    for item in featstore.abandoned(folder, days=0):
        featstore.collect(item)
    names = {key.partition("/")[0] for key in RemoteObjects(folder).all_keys()}
    assert names == {"new", "old", "killed"}
    for name in names:
        featstore.remove(folder / name)


def write(path, ready):
    layout.BLOCK_BYTES = 1
    locks.BEAT, locks.LAPSE = 0.3, 3.0
    ready.set()
    fill(featstore.open_or_create(path, SPEC, provenance=FIXED))


def test_writers_that_are_stopped_and_wake(s3, quick_leases):
    """When they wake, another store lies at their place, by another writer."""
    draw, path = instants("s3 stops"), s3 / "stopped" / "store"
    with Record("stop and wake: S3") as record:
        for _ in range(attempts(1, 0.1)):
            ready = processes.Event()
            process = processes.Process(target=write, args=(path, ready))
            process.start()
            assert ready.wait(60)
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

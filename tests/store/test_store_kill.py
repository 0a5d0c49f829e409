"""Writers killed at random instants: nothing that was committed is lost, nothing else counts."""

import os
import random
import time
from pathlib import Path

import pytest
from forked import killed_after, processes

import featstore
from featstore.errors import StoreNotFound, WriterBusy
from featstore.store import layout, locks
from featstore.testing import FIXED, assert_holds_known_contents, fill, filled, spec_of

SPEC = spec_of(n_train=32 * 20 + 5, n_test=40, dims=(24, 7))
N_BLOCKS = 23


def write(path, format, ready):
    """Make or resume the store, a little slowly, so that there are instants to be killed at."""
    layout.BLOCK_BYTES = 1
    ready.set()
    store = featstore.open_or_create(path, SPEC, format, provenance=FIXED)
    fill(store, pause=lambda: time.sleep(0.002))


def create(path, format, ready):
    ready.set()
    featstore.create(path, SPEC, format)


def hold(path, ready):
    with featstore.open(path).writer():
        ready.set()
        time.sleep(60)


def hold_and_fork(path, ready, child):
    with featstore.open(path).writer():
        pid = os.fork()
        if pid:
            child.value = pid
            ready.set()
        time.sleep(60)


def committed(path) -> set[tuple[str, int]]:
    try:
        store = featstore.open(path)
    except StoreNotFound:
        return set()
    assert store.verify() == []
    missing = {(s.name, block) for s in SPEC.splits for block in store.missing(s.name)}
    blocks = {(s.name, block) for s in SPEC.splits for block in range(store.n_blocks(s.name))}
    return blocks - missing


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("format", featstore.FORMATS)
def test_killed_at_any_instant_a_store_resumes_to_the_uninterrupted_one(
    tmp_path, format, monkeypatch
):
    instants = random.Random(1)
    path = tmp_path / "killed"
    kills = stages = 0
    longest = 0.1
    before: set[tuple[str, int]] = set()
    # on a machine that is busy with other things more of them fall where nothing happens
    while kills < 20 or (stages <= 5 and kills < 60):
        status = killed_after(instants.uniform(0, longest), write, path, format)
        if status == 0:
            # Done before it was killed enough: lose some blocks, and the killing goes on.
            longest *= 0.8
            with featstore.open(path).writer() as mender:
                for split, block in instants.sample(sorted(committed(path)), 12):
                    mender.discard(split, block)
            before = committed(path)
            continue
        assert status == -9
        kills += 1
        after = committed(path)
        assert before <= after
        stages += before != after
        # On a slow machine the instants at which something happens come later.
        longest *= 1 if before != after else 1.2
        before = after
    assert stages > 5, "the kills fell where nothing happens"

    write_quickly(path, format, monkeypatch)
    uninterrupted = filled_in_small_blocks(tmp_path / "whole", format, monkeypatch)
    assert contents(path) == contents(uninterrupted.path)
    assert_holds_known_contents(featstore.open(path))
    assert sorted(entry.name for entry in tmp_path.iterdir() if "home" not in entry.name) == [
        "killed",
        "whole",
    ]


def write_quickly(path, format, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1)
    fill(featstore.open_or_create(path, SPEC, format, provenance=FIXED))


def filled_in_small_blocks(path, format, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1)
    store = filled(path, format, SPEC)
    assert sum(store.n_blocks(split.name) for split in SPEC.splits) == N_BLOCKS
    return store


@pytest.mark.parametrize("format", featstore.FORMATS)
def test_a_killed_creation_leaves_no_store_and_no_obstacle(tmp_path, format):
    instants = random.Random(2)
    path = tmp_path / "store"
    for _ in range(15):
        killed_after(instants.uniform(0, 0.05), create, path, format)
        if path.exists():
            assert featstore.open(path).spec == SPEC
            featstore.remove(path)
    featstore.create(path, SPEC, format)
    assert [file.name for file in tmp_path.iterdir() if "home" not in file.name] == ["store"]


@pytest.mark.parametrize("format", featstore.FORMATS)
def test_a_living_writer_is_an_obstacle_and_a_dead_one_is_not(tmp_path, format):
    store = featstore.create(tmp_path / "store", SPEC, format)
    ready = processes.Event()
    writer = processes.Process(target=hold, args=(store.path, ready))
    writer.start()
    assert ready.wait(30)
    with pytest.raises(WriterBusy, match=f"is being written by process {writer.pid} on "):
        store.writer().__enter__()
    with pytest.raises(WriterBusy):
        featstore.remove(store.path)
    writer.kill()
    writer.join()
    assert locks.lock_path(store.path).exists()
    with store.writer():
        pass


def test_a_forked_child_does_not_keep_its_dead_parents_lock(tmp_path):
    store = featstore.create(tmp_path / "store", SPEC)
    ready, child = processes.Event(), processes.Value("i", 0)
    writer = processes.Process(target=hold_and_fork, args=(store.path, ready, child))
    writer.start()
    assert ready.wait(30)
    with pytest.raises(WriterBusy):
        store.writer().__enter__()
    writer.kill()
    writer.join()
    try:
        with store.writer():
            os.kill(child.value, 0)
    finally:
        os.kill(child.value, 9)

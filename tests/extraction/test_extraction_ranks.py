"""Several processes, one store: the bits of one process, whoever dies and whoever goes on."""

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rank_jobs
from fake_sets import noise

import featstore
from featstore.errors import FeatstoreError, UsageError, WriterBusy
from featstore.extraction import ranks as rank_module, ranks as tally
from featstore.extraction.ranks import Meeting, Ranks
from featstore.store import layout, locks

ROOT = Path(__file__).parents[2]
N_TRAIN, N_TEST = 400, 90  # blocks of 32 rows: thirteen and three
# Raise it to look harder: FEATSTORE_KILLS=100 takes minutes.
N_KILLS = int(os.environ.get("FEATSTORE_KILLS", "5"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An archive of noisy images."""
    return noise(tmp_path_factory.mktemp("images") / "noise.npz", train=N_TRAIN, test=N_TEST)


def request(images, out, **more) -> tuple[tuple, dict]:
    options = {"pretrained": False, "image_size": 32, "batch_size": 10, "out": out, "workers": 0}
    return ("test_resnet", f"npz:{images}"), {**options, **more}


def files(store: Path) -> dict[str, bytes]:
    """Every file of a store but the header, which tells the time; HDF5's header is in the file."""
    if store.is_file():
        opened = featstore.open(store)
        return {
            f"{split.name}/{name}": opened.load(split.name, name).tobytes()
            for split in opened.spec.splits
            for name in ("penultimate", "labels", "ids")
        }
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path != store / "zarr.json"
    }


@pytest.fixture(scope="module")
def reference(images, tmp_path_factory):
    """Return what one process stores, by format."""
    found = {}
    for format in ("zarr", "hdf5"):
        out = tmp_path_factory.mktemp("whole") / "store"
        assert rank_jobs.extract(1, *request(images, out, format=format)) == [0]
        found[format] = files(out)
    return found


@pytest.mark.parametrize(("count", "format"), [(2, "zarr"), (4, "zarr"), (4, "hdf5")])
def test_any_number_of_ranks_makes_the_same_store(images, tmp_path, reference, count, format):
    out = tmp_path / "all" / "store"
    assert rank_jobs.extract(count, *request(images, out, format=format)) == [0] * count
    assert files(out) == reference[format]
    assert [path.name for path in out.parent.iterdir()] == ["store"]


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_two_ranks_overwrite_a_store_together(images, tmp_path, reference, format):
    """Killed before they are done, they leave the old one; run again, they make what one makes."""
    out = tmp_path / "all" / "store"
    assert rank_jobs.extract(1, *request(images, out, format=format, image_size=40)) == [0]
    old = files(out)
    assert old != reference[format]
    job = rank_jobs.start(2, *request(images, out, format=format, overwrite=True), pause=0.05)
    deadline = time.monotonic() + 60
    while not (out.parent / ".store.replacement").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in job:
        process.kill()
    rank_jobs.exit_statuses(job)
    assert files(out) == old
    again = request(images, out, format=format, overwrite=True)
    assert rank_jobs.extract(2, *again) == [0, 0]
    assert files(out) == reference[format]
    assert [path.name for path in out.parent.iterdir()] == ["store"]


def test_views_and_left_out_images_are_the_same_for_any_number_of_ranks(tmp_path):
    folder = tmp_path / "set" / "train"
    for number in range(70):
        picture = rank_jobs_picture(number)
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    for number in (3, 40):
        (folder / "ab"[number % 2] / f"{number}.png").write_bytes(b"no image")
    options = {
        "pretrained": False, "image_size": 32, "splits": ("train",), "views": 2,
        "on_error": "skip", "workers": 0,
    }  # fmt: skip
    for count in (1, 2):
        arguments = ("test_resnet", f"folder:{tmp_path / 'set'}")
        out = tmp_path / f"by{count}"
        assert rank_jobs.extract(count, arguments, {**options, "out": out}) == [0] * count
    store = featstore.open(tmp_path / "by2")
    assert store.load("train", "penultimate").shape == (2, 68, 96)
    assert store.provenance["unreadable"] == ["train: train/a/40.png", "train: train/b/3.png"]
    assert files(tmp_path / "by2") == files(tmp_path / "by1")


def rank_jobs_picture(number):
    from PIL import Image

    levels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
    return Image.fromarray(levels)


@pytest.mark.parametrize("format", ["zarr", "hdf5"])
def test_ranks_killed_at_random_leave_what_one_process_makes(images, tmp_path, reference, format):
    """A launcher ends the others of a job in which one dies; sometimes they are done before."""
    moments = random.Random(format)
    out = tmp_path / "all" / "store"
    kills = finished = 0
    while kills < N_KILLS:
        job = rank_jobs.start(4, *request(images, out, format=format), pause=0.01)
        time.sleep(moments.uniform(0.0, 1.2))
        victim = moments.choice(job)
        kills += victim.is_alive()
        victim.kill()
        deadline = time.monotonic() + moments.choice([0.0, 0.5])
        for process in job:
            process.join(max(0, deadline - time.monotonic()))
        kills += sum(process.is_alive() for process in job if process is not victim)
        for process in job:
            process.kill()
            process.join()
        if out.exists() and featstore.open(out).complete:
            finished += 1
            assert_whole(images, out, reference, format)
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    assert rank_jobs.extract(3, *request(images, out, format=format)) == [0] * 3
    assert_whole(images, out, reference, format)


def assert_whole(images, out: Path, reference: dict, format: str) -> None:
    """One more run finds a complete store, tidies up after the killed, and changes nothing."""
    arguments, options = request(images, out, format=format)
    done = featstore.extract(*arguments, **options)
    assert done.reused
    assert files(out) == reference[format]
    assert [path.name for path in out.parent.iterdir()] == ["store"]


def test_survivors_finish_their_own_blocks(images, tmp_path):
    out = tmp_path / "store"
    job = rank_jobs.start(3, *request(images, out), pause=0.03)
    while not (out.exists() and len(list(out.glob("train/commits/c.*"))) > 3):
        time.sleep(0.01)
    job[1].kill()
    for process in job:
        process.join(60)
    assert [process.exitcode for process in job] == [0, -9, 0]
    left = featstore.open(out).missing("train") + featstore.open(out).missing("test")
    assert 1 <= len(left) <= 6


def test_another_job_is_refused(images, tmp_path):
    out = tmp_path / "store"
    job = rank_jobs.start(2, *request(images, out), pause=0.3)
    try:
        while not (out.exists() and list(out.glob("train/commits/c.*"))):
            time.sleep(0.01)
        arguments, options = request(images, out)
        with pytest.raises(WriterBusy, match="is being written by process"):
            featstore.extract(*arguments, **options)
    finally:
        for process in job:
            process.kill()
            process.join()


@pytest.mark.parametrize("note", ["", '{"pid": 1, "host": "h", "since": "s", "job": "dead"}'])
def test_a_rank_waits_until_the_holder_says_whose_it_is(tmp_path, note, monkeypatch):
    """The lock is taken before its note is written: until then there is none, or an old one."""
    path = locks.lock_path(tmp_path / "store")
    path.write_text(note)
    with path.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def say():
            time.sleep(0.2)
            path.write_text('{"pid": 1, "job": "mine"}')
            fcntl.flock(held, fcntl.LOCK_SH)

        thread = threading.Thread(target=say)
        thread.start()
        with locks.locked(tmp_path / "store", "mine"):
            assert not thread.is_alive()
        monkeypatch.setattr(locks, "_GRACE", 0.1)
        with pytest.raises(WriterBusy), locks.locked(tmp_path / "store", "other"):
            pass


def told_by_rank_0(images, out: Path, told: Path) -> None:
    """Extract as a rank; the first one keeps what progress says, and takes its time."""
    layout.BLOCK_BYTES, tally.EVERY = 1, 0.02
    mine = os.environ["RANK"] == "0"

    def progress(stage, done, total, **facts):
        if mine and stage == "images":
            time.sleep(0.1)
            with told.open("a") as file:
                file.write(json.dumps([done, total, facts]) + "\n")

    arguments, options = request(images, out)
    featstore.extract(*arguments, progress=progress, **options)


def test_progress_is_the_whole_jobs(images, tmp_path):
    told = tmp_path / "told"
    job = rank_jobs.launched(2, told_by_rank_0, images, tmp_path / "store", told)
    assert rank_jobs.exit_statuses(job) == [0, 0]
    calls = [json.loads(line) for line in told.read_text().splitlines()]
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {N_TRAIN + N_TEST}
    assert {call[2]["ranks"] for call in calls} == {2}
    assert done[0] == 0
    assert done == sorted(done)
    # rank 1 is done long before: what it has committed counts
    assert done[-1] == N_TRAIN + N_TEST


@pytest.mark.long
def test_torchrun_takes_the_command_line(images, tmp_path):
    out = tmp_path / "store"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "featstore", "extract", "--model", "test_resnet", "--no-pretrained"),
        *("--image-size", "32", "--dataset", f"npz:{images}", "--out", str(out)),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert featstore.open(out).complete
    assert featstore.open(out).provenance["ranks"] == 2
    for rank in range(2):
        assert f"rank {rank} of 2 stored " in ended.stderr


# what a launcher says


def test_alone_without_a_launcher():
    assert Ranks.of({}) == Ranks()


def test_slurm_steps():
    environment = {
        "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[003-004]",
        "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "1",
    }  # fmt: skip
    assert Ranks.of(environment) == Ranks(5, 8, 1, 4, "gpu003", 20373)
    named = Ranks.of({**environment, "MASTER_ADDR": "head", "MASTER_PORT": "999"})
    assert (named.address, named.port) == ("head", 999)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "4", "WORLD_SIZE": "4"}, "rank 4 of 4 cannot be"),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, "rank -1 of 4"),
        ({"RANK": "one", "WORLD_SIZE": "4"}, "RANK is 'one' in the environment"),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"SLURM_PROCID": "", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID is ''"),
    ],
)
def test_environments_that_cannot_be(environment, message):
    with pytest.raises(UsageError, match=message):
        Ranks.of(environment)


def in_threads(count: int, work) -> list:
    """`work(ranks)` by each rank of a job, each in a thread; what it returned or raised."""
    port = rank_jobs.free_port()
    results = [None] * count

    def run(rank: int) -> None:
        try:
            results[rank] = work(Ranks(rank, count, rank, count, "127.0.0.1", port))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.fixture
def same_meeting(monkeypatch):
    """Threads of one process are in one meeting, though each of them begins it."""
    monkeypatch.setattr(rank_module, "_number_of_meeting", lambda: 1)


def test_all_hear_the_same(same_meeting):
    def work(ranks):
        with ranks.meeting() as meeting:
            return meeting.job, meeting.said(f"I am {ranks.rank}"), meeting.said("again")

    heard = in_threads(3, work)
    assert heard[0] == heard[1] == heard[2]
    assert heard[0][1:] == (["I am 0", "I am 1", "I am 2"], ["again"] * 3)


def test_rank_0_goes_first(same_meeting):
    order = []

    def work(ranks):
        with ranks.meeting() as meeting:
            return meeting.in_turn(lambda: order.append(ranks.rank))

    in_threads(3, work)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_a_failure_is_everyones(same_meeting):
    def work(ranks):
        with ranks.meeting() as meeting:
            if ranks.rank == 1:
                raise UsageError("no such\nthing")
            meeting.said("here")

    failed = in_threads(3, work)
    assert isinstance(failed[1], UsageError)
    for other in (failed[0], failed[2]):
        assert isinstance(other, FeatstoreError)
        assert str(other) == "rank 1 failed: no such thing"


def test_a_rank_that_does_not_come(same_meeting):
    def work(ranks):
        meeting = Meeting(ranks, patience=1.0)
        if ranks.rank == 0:
            meeting.said("here")

    failed, _ = in_threads(2, work)
    assert isinstance(failed, FeatstoreError)
    assert "rank 0 of 2 waited 1 s for rank 1, which did not come" in str(failed)


def test_rank_0_that_is_not_there():
    with pytest.raises(FeatstoreError, match=r"rank 1 of 2 cannot reach the others at 127.0.0.1:"):
        Meeting(Ranks(1, 2, 1, 2, "127.0.0.1", rank_jobs.free_port()), patience=1.0)

"""Decoding in threads and processes: the same pixels, errors that name the row, and no orphans."""

import dataclasses
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

import featstore
from featstore import data, models
from featstore.data import files
from featstore.data.files import of_arrays
from featstore.errors import DatasetError, FeatstoreError, SpecMismatch, UsageError
from featstore.extraction import decoding as processes, loading
from featstore.extraction.loading import Encoder, Job, Workers, decoded
from featstore.extraction.ranks import Tally
from featstore.models import transforms
from featstore.store import writer

ROOT = Path(__file__).parents[2]
N_ROWS = 100
THREADS = Workers(processes=0, threads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A hundred JPEG images of several sizes below a class folder."""
    root = tmp_path_factory.mktemp("set")
    random = np.random.default_rng(0)
    for number in range(N_ROWS):
        shape = (int(random.integers(20, 90)), int(random.integers(20, 90)), 3)
        path = root / "train" / "cat" / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    return root


@pytest.fixture
def spoilt(folder, tmp_path):
    """The same images, of which one is cut off in the middle."""
    shutil.copytree(folder, tmp_path / "spoilt")
    damaged = tmp_path / "spoilt" / "train" / "cat" / "50.jpg"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    return tmp_path / "spoilt"


@pytest.fixture(scope="module")
def encode():
    """Return what makes batches for a network of 32 x 32 pixels."""
    return Encoder(models.load("test_resnet", pretrained=False, image_size=32))


@pytest.fixture
def started(monkeypatch):
    """The processes that decoding starts."""
    found = []
    start = subprocess.Popen

    def keep(*arguments, **options):
        found.append(start(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(processes.subprocess, "Popen", keep)
    return found


def jobs(rows, n_rows=48, batch_size=10, view=None):
    return [Job(rows, numbers, view) for numbers in loading.batches(range(n_rows), batch_size)]


def copies(stream) -> list[torch.Tensor]:
    return [batch.clone() for batch in stream]


# the same pixels


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.long), 3])
def test_processes_make_the_batches_that_threads_make(folder, encode, started, count):
    rows = data.load(f"folder:{folder}", "train")
    ours = copies(decoded(jobs(rows), encode, Workers(count, 2), 10))
    theirs = copies(decoded(jobs(rows), encode, THREADS, 10))
    by_hand = [encode.backbone.transform.batch([rows[row][0] for row in range(10)])]
    assert torch.equal(theirs[0], by_hand[0])
    assert len(ours) == len(theirs) == 5
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert [process.poll() for process in started] == [-signal.SIGKILL] * count


def test_a_reader_that_cannot_be_cut_is_sent_once(encode, monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (30, 20, 20, 3), np.uint8)
    images = [Image.fromarray(image) for image in levels]
    whole = of_arrays("mine", "train", levels, np.zeros(30, np.int64), ("a",))
    rows = dataclasses.replace(whole, read=images.__getitem__)
    assert rows.part([1]).cut() is None
    sizes = []
    send = processes._Worker.send
    monkeypatch.setattr(
        processes._Worker, "send", lambda self, m: (sizes.append(len(m)), send(self, m))[1]
    )
    ours = copies(decoded(jobs(rows, 30), encode, Workers(2, 2), 10))
    theirs = copies(decoded(jobs(whole, 30), encode, THREADS, 10))
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert sum(size > levels.nbytes for size in sizes) == 2  # one a process


@pytest.fixture
def mixed(folder, tmp_path):
    """The same images with a grey JPEG, one of CMYK and a PNG among them, and one turned."""
    root = tmp_path / "mixed"
    shutil.copytree(folder, root)
    image = Image.open(root / "train" / "cat" / "00.jpg")
    for number, mode in enumerate(("L", "CMYK")):
        image.convert(mode).save(root / "train" / "cat" / f"{number:02}.jpg")
    (root / "train" / "cat" / "02.jpg").unlink()
    image.save(root / "train" / "cat" / "02.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(root / "train" / "cat" / "03.jpg", exif=turned)
    return root


@pytest.fixture
def there(encode):
    """Return an encoder like a device's, on the CPU, which decodes by another library."""
    known = transforms.on_device(encode.backbone.transform)
    backbone = dataclasses.replace(encode.backbone, transform=known)
    return Encoder(backbone, there=torch.device("cpu"))


def test_a_device_makes_nearly_the_batches_that_threads_make(mixed, encode, there, monkeypatch):
    given, of_jpegs = [], loading._of_jpegs
    monkeypatch.setattr(
        loading,
        "_of_jpegs",
        lambda files, device: given.append(len(files)) or of_jpegs(files, device),
    )
    rows = data.load(f"folder:{mixed}", "train", limit=None)
    ours_of, theirs_of = jobs(rows, 50, 40), jobs(rows, 50, 40)
    ours = copies(decoded(ours_of, there, THREADS, 40))
    theirs = copies(decoded(theirs_of, encode, THREADS, 40))
    assert given == [30, 8, 10]  # at most 32 at a time, all but CMYK and PNG
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == torch.uint8
        assert (a.int() - b.int()).abs().float().mean() < 0.5
        assert (a.int() - b.int()).abs().max() <= 3
    assert [job.seen for job in ours_of] == [job.seen for job in theirs_of]
    assert ours_of[0].seen == {"cmyk": 1, "turned": 1}


def test_a_device_that_fails_on_a_jpeg_leaves_it_to_pillow(folder, there, monkeypatch):
    of_jpegs = loading._of_jpegs

    def picky(files, device):
        if any(len(file) % 2 for file in files):
            raise RuntimeError("nvjpegDecode failed")
        return of_jpegs(files, device)

    rows = data.load(f"folder:{folder}", "train")
    known = copies(decoded(jobs(rows, 20), there, THREADS, 10))
    monkeypatch.setattr(loading, "_of_jpegs", picky)
    found = copies(decoded(jobs(rows, 20), there, THREADS, 10))
    for a, b in zip(found, known, strict=True):
        assert (a.int() - b.int()).abs().max() <= 2


def test_a_damaged_jpeg_is_named_by_a_device_too(spoilt, there):
    rows = data.load(f"folder:{spoilt}", "train")
    with pytest.raises(DatasetError, match=r"50\.jpg of .* cannot be read"):
        copies(decoded([Job(rows, range(48, 53))], there, THREADS, 10))


def test_pixels_of_a_device_are_those_of_another_store(folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="a CUDA device decodes, and this is none"):
        extract(folder, tmp_path / "store", decode="device", device="cpu")
    monkeypatch.setattr("featstore.extraction.run.check_decoder", lambda device: None)
    made = extract(folder, tmp_path / "store", decode="device", device="cpu").store
    assert made.spec.transform.endswith(transforms.ON_DEVICE)
    host = extract(folder, tmp_path / "host", device="cpu").store
    pair = (one.load("train", "penultimate").astype(np.float32) for one in (made, host))
    ours, theirs = pair
    assert not np.array_equal(ours, theirs)
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
    with pytest.raises(SpecMismatch, match="transform"):
        extract(folder, tmp_path / "store", device="cpu")
    with pytest.raises(UsageError, match="a device decodes clean images"):
        extract(folder, tmp_path / "other", decode="device", views=2)


def test_a_device_decodes_for_transforms_that_it_can_follow(encode):
    squashed = dataclasses.replace(encode.backbone.transform, geometry=lambda image: image)
    with pytest.raises(UsageError, match=r"this transform has other steps; leave --decode out"):
        transforms.on_device(squashed)


def test_a_decoder_is_tried_before_anything_is_read(monkeypatch):
    device = torch.device("cuda")
    monkeypatch.setattr(loading, "_of_jpegs", lambda files, device: [torch.full((3, 16, 16), 254)])
    loading.check_decoder(device)

    def absent(files, device):
        raise RuntimeError("not compiled with GPU support")

    monkeypatch.setattr(loading, "_of_jpegs", absent)
    with pytest.raises(UsageError, match="no JPEG on cuda: not compiled with GPU support; leave"):
        loading.check_decoder(device)


def test_a_part_is_sent_without_the_rest(folder):
    rows = data.load(f"folder:{folder}", "train", limit=60)
    part = rows.part(range(40, 44)).cut()
    sent = pickle.loads(pickle.dumps(part))
    for place, row in enumerate(range(40, 44)):
        assert sent[place].tobytes() == rows[row][0].tobytes()
    assert len(pickle.dumps(part)) < len(pickle.dumps(rows)) / 4


@pytest.mark.parametrize("name", ["test_resnet", "resnet18", "torchvision:resnet18"])
@given(width=st.integers(1, 90), height=st.integers(1, 90))
@settings(max_examples=15, deadline=None)
def test_light_geometry_is_the_librarys(name, width, height):
    theirs = _geometry(name)
    ours = transforms.light(theirs)
    assert isinstance(ours, transforms.ResizeAndCrop)
    levels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(levels)
    assert ours(image).tobytes() == theirs(image).tobytes()


_known = {}


def _geometry(name):
    if name not in _known:
        _known[name] = models.load(name, pretrained=False, image_size=33).transform.geometry
    return _known[name]


def test_a_geometry_that_only_looks_known_is_left_alone(monkeypatch):
    theirs = _geometry("test_resnet")
    monkeypatch.setattr(transforms.ResizeAndCrop, "__call__", lambda self, image: image)
    assert transforms.light(theirs) is theirs
    assert transforms.light(len) is len


def test_a_decoding_process_imports_no_torch():
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, featstore.extraction.decoding; print('torch' in sys.modules)",
        ],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout == "False\n"


def test_extensions_begin_with_torchvisions():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    from featstore.data.files import EXTENSIONS

    assert EXTENSIONS[: len(IMG_EXTENSIONS)] == IMG_EXTENSIONS
    Image.init()
    assert set(EXTENSIONS) <= set(Image.EXTENSION)


# what goes wrong


@pytest.mark.parametrize("workers", [THREADS, Workers(2, 2)])
def test_a_damaged_image_is_named_after_the_batches_before_it(spoilt, encode, workers):
    rows = data.load(f"folder:{spoilt}", "train")
    stream = decoded(jobs(rows, N_ROWS), encode, workers, 10)
    assert [len(next(stream)) for _ in range(5)] == [10] * 5
    with pytest.raises(DatasetError, match=r"image train/cat/50.jpg of .* cannot be read: "):
        next(stream)


def test_settings_of_pillow_hold_in_processes(spoilt, encode, monkeypatch):
    rows = data.load(f"folder:{spoilt}", "train")
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    ours, theirs = (
        copies(decoded([Job(rows, range(48, 53))], encode, workers, 10))[0]
        for workers in (Workers(1, 1), THREADS)
    )
    assert torch.equal(ours, theirs)


def extract(folder, out, **options):
    given = {"pretrained": False, "image_size": 32, "splits": ("train",), "out": out}
    return featstore.extract("test_resnet", f"folder:{folder}", **{**given, **options})


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_a_killed_process_is_said_and_the_store_goes_on(folder, tmp_path, started):
    def kill(stage, done, total, **facts):
        if stage == "images" and done >= 32:
            started[0].kill()

    with pytest.raises(FeatstoreError, match=r"^decoding process 1 of 2 was killed \(SIGKILL"):
        extract(folder, tmp_path / "a", batch_size=2, workers=2, progress=kill)
    assert all(process.poll() is not None for process in started)
    done = extract(folder, tmp_path / "a", workers=1)
    assert done.images_reused == 32
    whole = extract(folder, tmp_path / "b", batch_size=2, workers=0).store
    features = done.store.load("train", "penultimate")
    assert features.tobytes() == whole.load("train", "penultimate").tobytes()


@pytest.mark.long
def test_an_interruption_ends_the_processes(folder, tmp_path, started):
    with pytest.raises(KeyboardInterrupt):
        extract(folder, tmp_path / "store", batch_size=10, workers=2, progress=_interrupt)
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2


def _interrupt(stage, done, total, **facts):
    if stage == "images" and done:
        raise KeyboardInterrupt


def test_a_process_that_cannot_start_is_said(folder, encode, monkeypatch, capfd):
    monkeypatch.setattr(processes, "_START", "raise SystemExit('no such module')")
    rows = data.load(f"folder:{folder}", "train")
    with pytest.raises(FeatstoreError, match=r"ended with status 1; .* with --workers 0"):
        next(decoded(jobs(rows), encode, Workers(1, 1), 10))
    assert "no such module" in capfd.readouterr().err


def test_processes_for_which_there_is_no_room(folder, encode, monkeypatch, started):
    start = subprocess.Popen

    def refuse(*arguments, **options):
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return start(*arguments, **options)

    monkeypatch.setattr(processes.subprocess, "Popen", refuse)
    rows = data.load(f"folder:{folder}", "train")
    with pytest.raises(FeatstoreError, match=r"process 2 of 2 cannot be started: .* --workers 0"):
        next(decoded(jobs(rows), encode, Workers(2, 1), 10))
    assert started[0].poll() is not None


def test_what_cannot_be_sent_is_said_before_any_decoding(folder, encode, monkeypatch):
    unsendable = Encoder(encode.backbone, views=lambda: None)
    rows = data.load(f"folder:{folder}", "train")
    with pytest.raises(UsageError, match=r"cannot be sent to another process .* --workers 0"):
        next(decoded(jobs(rows), unsendable, Workers(1, 1), 10))


ORPHANS = """
import sys
from PIL import Image
from featstore.data.rows import remarked
from featstore.data.rows import Part
from featstore.extraction.decoding import Decoder
from featstore.extraction.decoding import Processes
read = [Image.new("RGB", (4, 4))].__getitem__
part = Part("image", "mine", ["a"], [0], read, remarked)
processes = Processes(Decoder(Image.Image.copy), (4, 4, 3), 2, 2, 2)
processes.finish(processes.begin([part, part], None))
print(*(worker._process.pid for worker in processes._workers), flush=True)
sys.stdin.readline()
processes.finish(processes.begin([part, part], None))
print("again", flush=True)
sys.stdin.readline()
"""


def test_processes_outlive_ctrl_c_and_end_with_their_parent():
    """Ctrl-C is the parent's affair; a parent that is killed takes them with it."""
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == b"again\n"
        assert all(map(_lives, pids))
    finally:
        parent.kill()
        parent.communicate()
    until = time.monotonic() + 20
    while any(map(_lives, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_lives, pids))


BUSY = """
import sys, time
from functools import partial
from PIL import Image
from featstore.data.rows import Part
from featstore.extraction.decoding import Decoder
from featstore.extraction.decoding import Processes
read = [Image.new("RGB", (1500, 1500))].__getitem__
part = Part("image", "mine", ["a"], [0], read, Image.Image.copy)
# a decoding that takes a minute
slow = partial(Image.Image.resize, size=(20000, 20000), resample=Image.Resampling.LANCZOS)
processes = Processes(Decoder(slow), (4, 4, 3), 2, 2, 2)
processes.begin([part, part], None)
time.sleep(3)
print(*(worker._process.pid for worker in processes._workers), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems end them by their pipe")
def test_processes_that_are_busy_end_with_their_parent_at_once():
    parent = subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(_lives, pids))
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 1
    while any(map(_lives, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(_lives, pids))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# how many, how far ahead, and who waits


@pytest.mark.parametrize(
    ("asked", "device", "modality", "passes", "expected"),
    [
        (None, "cpu", "image", 10**6, (0, 8)),
        (None, "cuda", "image", 10**6, (7, 8)),
        (None, "cuda", "image", 100, (0, 8)),
        (None, "cuda", "text", 10**6, (0, 8)),
        (0, "cuda", "image", 10**6, (0, 8)),
        (3, "cpu", "image", 10, (3, 8)),
        (3, "cpu", "text", 10, (0, 3)),
    ],
)
def test_who_decodes(monkeypatch, asked, device, modality, passes, expected):
    monkeypatch.setattr(loading, "cores", lambda sharing: 8 // sharing)
    found = Workers.chosen(asked, device, modality, passes)
    assert (found.processes, found.threads) == expected
    assert Workers.chosen(None, "cuda", "image", 10**6, sharing=4).processes == 1


@pytest.mark.parametrize("workers", [THREADS, Workers(2, 2)])
def test_decoding_stays_within_its_window(folder, encode, workers):
    rows, asked = data.load(f"folder:{folder}", "train"), []
    given = (job for job in jobs(rows, 48, batch_size=4) if asked.append(job) is None)
    stream = decoded(given, encode, workers, 4)
    for taken in range(1, 5):
        next(stream)
        # two batches ahead, and two for each of two workers, of which none takes more than one
        assert len(asked) == taken - 1 + 2 + 4
    stream.close()
    assert len(asked) == 9


class Slow:
    """Takes its time before it does what another callable does."""

    def __init__(self, call, seconds):
        self.call, self.seconds = call, seconds

    def __call__(self, *arguments):
        time.sleep(self.seconds)
        return self.call(*arguments)


@pytest.mark.parametrize(
    ("where", "name", "seconds", "waited"),
    [
        (files, "opened", 0.02, "decoding"),
        (writer.Writer, "write", 0.3, "disk"),
    ],
)
def test_progress_says_which_of_the_two_is_waited_for(
    folder, tmp_path, monkeypatch, small_blocks, where, name, seconds, waited
):
    slow = Slow(getattr(where, name), seconds)
    monkeypatch.setattr(where, name, lambda *arguments: slow(*arguments))
    told = []

    def keep(stage, done, total, **facts):
        told.append(facts.get("waits"))

    extract(folder, tmp_path / "store", progress=keep, workers=0, batch_size=4)
    decoding, disk = map(int, re.fullmatch(r"decoding (\d+) %, disk (\d+) %", told[-1]).groups())
    # a machine that is busy with other things decodes slowly: then both are waited for
    assert decoding > disk if waited == "decoding" else disk >= 1


# several ranks


def test_the_rows_of_other_ranks_count_when_they_are_committed(tiny_store, monkeypatch):
    blocks = tiny_store.blocks()
    with Tally(tiny_store, blocks[1:], every=0.01) as tally:
        until = time.monotonic() + 10
        while not tally.rows and time.monotonic() < until:
            time.sleep(0.01)
    everything = sum(len(tiny_store.rows_of(*block)) for block in blocks)
    assert tally.rows == everything - len(tiny_store.rows_of(*blocks[0]))
    with Tally(tiny_store, []) as alone:
        assert alone.rows == 0

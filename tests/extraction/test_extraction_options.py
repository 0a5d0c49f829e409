"""Options of extraction: precision, compilation, rows left out, targets, waits, and bad input."""

import csv
import os
import re
import threading
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fake_sets import noise
from PIL import Image

import featstore
from featstore import models
from featstore.cli import main
from featstore.errors import BackboneError, DatasetError, FeatureError, SpecMismatch, UsageError
from featstore.extraction import inference
from featstore.extraction.inference import Inference
from featstore.extraction.pipeline import FilledBlock, WriteBehind
from featstore.models import taps

pytestmark = pytest.mark.usefixtures("small_blocks")
N_ROWS = 70


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Seventy images of noise."""
    return noise(tmp_path_factory.mktemp("images") / "noise.npz", train=N_ROWS)


def extract(dataset, out, **options):
    defaults = {"pretrained": False, "image_size": 32, "splits": ("train",), "out": out}
    return featstore.extract("test_resnet", dataset, **{**defaults, **options})


def load(out):
    return featstore.open(out).load("train", "penultimate").astype(np.float64)


# precision


def test_reduced_precision_is_recorded_and_bounded(archive, tmp_path):
    exact = extract(f"npz:{archive}", tmp_path / "exact", dtype="float32").store
    store = extract(
        f"npz:{archive}", tmp_path / "reduced", dtype="float32", precision="bfloat16"
    ).store
    assert (exact.spec.precision, store.spec.precision) == ("float32", "bfloat16")
    assert "precision_change" not in exact.provenance
    told = store.provenance["precision_change"]["penultimate"]
    off = np.linalg.norm(load(tmp_path / "reduced") - load(tmp_path / "exact"), axis=1)
    off /= np.linalg.norm(load(tmp_path / "exact"), axis=1)
    assert told == pytest.approx(off[:64].max(), rel=1e-3)
    assert 1e-4 < told < 0.05
    with pytest.raises(SpecMismatch, match="precision is 'bfloat16', wanted 'float32'"):
        extract(f"npz:{archive}", tmp_path / "reduced", dtype="float32")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_precision_is_the_devices(device):
    expected = {"cpu": "float32", "cuda": "float16"}[device]
    assert inference.precision_for("auto", torch.device(device)) == expected
    assert inference.precision_for("bfloat16", torch.device(device)) == "bfloat16"


def test_overflow_of_reduced_precision_is_seen_before_a_store_is_made():
    backbone = models.load("test_resnet", pretrained=False, image_size=32)
    reader = taps.resolve(backbone)
    cpu = torch.device("cpu")
    exact = Inference(backbone, reader, cpu)

    def overflowing(batch):
        return {name: values * np.inf for name, values in exact(batch).items()}

    with pytest.raises(BackboneError, match=r"penultimate are not finite .* --precision float32"):
        inference.change(overflowing, exact, torch.zeros((2, 32, 32, 3), dtype=torch.uint8))


def test_compilation_is_remembered(archive, tmp_path, monkeypatch):
    compiled = []

    def compile_(read, **options):
        compiled.append(read)
        return read

    monkeypatch.setattr(torch, "compile", compile_)

    def stop(stage, done, total, **facts):
        if stage == "images" and done > 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(f"npz:{archive}", tmp_path / "store", compile=True, progress=stop)
    assert len(compiled) == 1
    store = extract(f"npz:{archive}", tmp_path / "store").store
    assert len(compiled) == 2
    assert store.provenance["compile"] is True
    extract(f"npz:{archive}", tmp_path / "plain")
    assert len(compiled) == 2


def test_what_is_not_torchs_is_neither_compiled_nor_cast():
    class Onnx:
        name, engine = "onnx:net.onnx", "onnxruntime"

    inference.check_engine(Onnx, "auto", None)
    for precision, compiled, told in (("auto", True, "--compile"), ("float16", None, "float16")):
        with pytest.raises(UsageError, match=f"is run by onnxruntime.*leave .*{told} out"):
            inference.check_engine(Onnx, precision, compiled)


def test_each_rank_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = [str(inference.device_for("auto", rank)) for rank in range(4)]
    assert found == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert str(inference.device_for("cuda:0", 1)) == "cuda:0"
    with pytest.raises(UsageError, match="no device 'cuda:2': there are cuda:0 to cuda:1"):
        inference.device_for("cuda:2")


# rows that cannot be read, and targets


@pytest.fixture
def listed(tmp_path):
    """A list of forty images with a label and two targets, of which two cannot be read."""
    random = np.random.default_rng(0)
    with open(tmp_path / "list.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("path", "split", "label", "age", "height"))
        for number in range(40):
            levels = random.integers(0, 256, (24, 24, 3), np.uint8)
            Image.fromarray(levels).save(tmp_path / f"{number}.png")
            lines.writerow((f"{number}.png", "train", "ab"[number % 2], number / 4, 150 + number))
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:60])
    (tmp_path / "30.png").unlink()
    return f"csv:{tmp_path / 'list.csv'}"


def test_unreadable_rows_are_left_out_on_request(listed, tmp_path):
    done = extract(listed, tmp_path / "store", on_error="skip")
    assert [row.id for row in done.unreadable] == ["7.png", "30.png"]
    assert done.images_done == 38
    assert done.store.ids("train")[6:8] == ["6.png", "8.png"]
    assert done.store.provenance["unreadable"] == ["train: 7.png", "train: 30.png"]
    again = extract(listed, tmp_path / "store", on_error="skip")
    assert again.reused
    assert len(again.unreadable) == 2


def test_unreadable_rows_are_an_error_by_default(listed, tmp_path):
    with pytest.raises(DatasetError, match=r"30.png"):
        extract(listed, tmp_path / "store")
    Image.new("RGB", (24, 24)).save(tmp_path / "30.png")
    with pytest.raises(DatasetError, match=r"image 7.png .* cannot be read"):
        extract(listed, tmp_path / "store")


def test_unreadable_rows_are_named_by_the_command(listed, tmp_path):
    command = ["extract", "--model", "test_resnet", "--no-pretrained", "--image-size", "32"]
    command += ["--dataset", listed, "--splits", "train", "--out", str(tmp_path / "store")]
    report = tmp_path / "left-out.csv"
    ran = CliRunner().invoke(main, [*command, "--on-error", "skip", "--report", str(report)])
    assert ran.exit_code == 0, ran.output
    heading, *lines = report.read_text().splitlines()
    assert heading == "split,id,why"
    assert [line.split(",")[:2] for line in lines] == [["train", "7.png"], ["train", "30.png"]]
    named = [line for line in ran.stderr.splitlines() if line.startswith("left out: ")]
    assert [("7.png" in named[0]), ("30.png" in named[1])] == [True, True]
    assert "stored 38 images" in ran.stderr


def test_targets_are_stored_as_numbers(listed, tmp_path):
    columns = featstore.data.Columns(targets=("height", "age"))
    store = extract(listed, tmp_path / "store", on_error="skip", columns=columns).store
    assert (store.spec.targets, store.spec.classes) == (("height", "age"), ())
    labels = store.labels("train")
    assert (labels.dtype, labels.shape) == (np.float64, (38, 2))
    assert labels[7].tolist() == [158.0, 2.0]


def test_texts_do_not_go_into_a_network_of_images(tmp_path):
    (tmp_path / "t.csv").write_text("text,label,split\none,a,train\ntwo,b,train\n")
    with pytest.raises(UsageError, match="holds texts and test_resnet takes images"):
        extract(f"csv:{tmp_path / 't.csv'}", tmp_path / "store")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "ignore"}, "on an error one cannot 'ignore'; choose raise or skip"),
        ({"precision": "int8"}, "no precision 'int8'; choose auto, float32, bfloat16, float16"),
        ({"codec": "gzip"}, "no codec 'gzip'; choose none or zstd"),
        ({"codec": "zstd", "format": "hdf5"}, "codec zstd is for Zarr"),
        ({"taps": ("layer9",)}, "layer9"),
        ({"trust": "all"}, "trust 'all' cannot be had"),
    ],
)
def test_bad_options_leave_nothing_behind(archive, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        extract(f"npz:{archive}", tmp_path / "store", **options)
    assert list(tmp_path.iterdir()) == []


# waits


def test_progress_says_what_computing_waits_for(archive, tmp_path, monkeypatch):
    facts = []

    def keep(stage, done, total, **more):
        if "waits" in more:
            facts.append(more["waits"])

    slow = models.Backbone.prepare
    monkeypatch.setattr(
        models.Backbone, "prepare", lambda self, batch: (time.sleep(0.05), slow(self, batch))[1]
    )
    extract(f"npz:{archive}", tmp_path / "a", batch_size=10, progress=keep)
    shares = [re.fullmatch(r"decoding (\d+) %, disk (\d+) %", text).groups() for text in facts]
    assert all(int(share) < 50 for share in shares[-1])


class SlowWriter:
    """Takes a while for each block; fails at one of them."""

    def __init__(self, seconds=0.0, fails_at=None):
        self.seconds, self.fails_at, self.written = seconds, fails_at, []

    def write(self, split, block, features, labels, ids, seen=None, columns=None):
        time.sleep(self.seconds)
        if block == self.fails_at:
            raise FeatureError(f"block {block} is bad")
        self.written.append((block, threading.current_thread().name))


@pytest.fixture
def store(archive, tmp_path):
    return extract(f"npz:{archive}", tmp_path / "store").store


def filled(store, block, value=1.0):
    made = FilledBlock(store, "train", block, pinned=False)
    made.put(0, 0, {"penultimate": torch.full((made.n_rows, 96), value)})
    return made


def test_blocks_are_written_in_order_by_a_thread_that_is_waited_for(store):
    writer = SlowWriter(0.1)
    with WriteBehind(writer) as behind:
        began = time.perf_counter()
        behind.put(filled(store, 0), [], ["r"] * 32)
        assert time.perf_counter() - began < 0.09
        for block in (1, 2):
            behind.put(filled(store, block), [], ["r"] * 32)
        assert 0.03 < behind.waited < 0.5
    assert writer.written == [(block, "featstore-write-behind") for block in range(3)]


def test_a_failure_of_the_writer_stops_the_rest(store):
    writer = SlowWriter(0.0, fails_at=1)

    def put_all():
        with WriteBehind(writer) as behind:
            for block in (0, 1, 2, 2, 2):
                behind.put(filled(store, block), [], ["r"] * 32)

    with pytest.raises(FeatureError, match="block 1 is bad"):
        put_all()
    assert [block for block, _ in writer.written] == [0]


def test_a_failure_of_the_computing_keeps_what_was_put(store):
    writer = SlowWriter(0.05)

    def put_two():
        with WriteBehind(writer) as behind:
            behind.put(filled(store, 0), [], ["r"] * 32)
            behind.put(filled(store, 1), [], ["r"] * 32)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put_two()
    assert [block for block, _ in writer.written] == [0, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [(1e6, "too large for float16"), (np.nan, "not finite; check the weights")],
)
def test_features_that_cannot_be_stored_are_named(store, value, message):
    with pytest.raises(FeatureError, match=f"image r0 has a feature at penultimate .*{message}"):
        filled(store, 0, value).features([f"r{row}" for row in range(32)])


@pytest.mark.parametrize("told", ["medium", "fp32_precision", "autocast"])
def test_float32_is_float32_whatever_the_process_lets_torch_do(told):
    backbone = models.load("test_resnet", pretrained=False, image_size=32)
    infer = Inference(backbone, taps.resolve(backbone), torch.device("cpu"))
    batch = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    products = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    before = [place.fp32_precision for place in products]
    with torch.inference_mode():
        exact = infer(batch)["penultimate"]
        try:
            if told == "medium":
                torch.set_float32_matmul_precision("medium")
            elif told == "fp32_precision":
                for place in products:
                    place.fp32_precision = "bf16"
            here = [place.fp32_precision for place in products]
            with torch.autocast("cpu", torch.bfloat16, enabled=told == "autocast"):
                found = infer(batch)["penultimate"]
            assert [place.fp32_precision for place in products] == here
        finally:
            if told == "medium":
                torch.set_float32_matmul_precision("highest")
            for place, value in zip(products, before, strict=True):
                place.fp32_precision = value
    assert torch.equal(found, exact)


def test_a_pipe_among_the_images_is_left_out_and_not_waited_for(tmp_path):
    for split in ("train", "test"):
        for number in range(4):
            path = tmp_path / "set" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((9, 9, 3), 50 * number, np.uint8)).save(path)
    os.mkfifo(tmp_path / "set" / "train" / "a" / "pipe.png")
    (tmp_path / "set" / "train" / "b" / "loop.png").symlink_to("loop.png")
    done = extract(f"folder:{tmp_path / 'set'}", tmp_path / "store", on_error="skip")
    assert [row.id for row in done.unreadable] == ["train/a/pipe.png", "train/b/loop.png"]
    assert done.store.spec.split("train").n_rows == 4


def test_features_that_float16_makes_0_are_an_error_or_counted(store):
    with pytest.raises(FeatureError, match=r"100% of the features at penultimate .* become 0"):
        filled(store, 0, 1e-9).features(["r"] * 32)
    block = filled(store, 0)
    block.put(0, 3, {"penultimate": torch.tensor([[1.0] * 90 + [1e-9] * 6])})
    block.features(["r"] * 32)
    assert block.seen == {"tiny": 1}
    assert filled(store, 0).seen == {}

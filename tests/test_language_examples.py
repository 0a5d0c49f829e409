"""The examples about language models, run as a person runs them, in a folder of the test's own."""

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

import featstore

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, str(folder)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_decoder_layer_by_layer(tmp_path, monkeypatch, capsys):
    run("decoder_layers.py", tmp_path, monkeypatch)
    store = featstore.open(tmp_path / "layers.zarr")
    names = [f"{layer}_{how}" for how in ("last", "mean") for layer in ("h.0", "h.3", "last")]
    assert set(names) < {tap.name for tap in store.spec.taps}
    assert (tmp_path / "mean.svg").read_text().count("h.3_mean")
    shown = capsys.readouterr().out
    # a random decoder keeps which words there were: far above the third of chance
    assert all(float(line.split()[2]) > 0.6 for line in shown.splitlines() if "_mean" in line)


def test_labels_of_words(tmp_path, monkeypatch, capsys):
    run("token_labels.py", tmp_path, monkeypatch)
    shown = capsys.readouterr().out
    assert "of the full layer's accuracy" in shown
    store = featstore.open(tmp_path / "words.zarr")
    tagged = pd.read_parquet(tmp_path / "tagged.parquet")
    train = tagged[tagged["split"] == "train"]["label"].explode().tolist()
    assert [store.spec.classes[label] for label in store.labels("train")] == train


@pytest.mark.parametrize("name", ["decoder_layers.py", "token_labels.py"])
def test_examples_are_short(name):
    """The part that is featstore's is under 25 lines; model and texts are made before that."""
    text = (EXAMPLES / name).read_text()
    assert len(text[text.index("done = featstore") :].splitlines()) < 25

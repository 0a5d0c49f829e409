"""The examples run as they stand, are as short as they are to be, and say what they are to say."""

import ast
import re
import runpy
from pathlib import Path

import pytest

import featstore

FOLDER = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["dropout", "grid_search", "shots", "training_loop"])
def test_an_example_is_under_25_lines_of_the_users_own(name):
    body = ast.parse((FOLDER / f"{name}.py").read_text()).body
    kept = [one for one in body[1:] if not isinstance(one, ast.Import | ast.ImportFrom)]
    lines = {line for one in kept for line in range(one.lineno, one.end_lineno + 1)}
    assert len(lines) < 25


def test_layers_of_a_network_with_and_without_dropout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / "dropout.py"))
    said = capsys.readouterr().out
    found = re.findall(r"dropout (\S+), layer (\S+) of (\d+) features (\S+)", said)
    layers = [("0.1", "64"), ("2", "256"), ("5", "128")]
    assert [one[:3] for one in found] == [(rate, *one) for rate in ("0.0", "0.5") for one in layers]
    # a trained layer of 128 features needs a small share of them for ten digits
    assert all(0.3 < float(one[3]) < 1 for one in found)
    stores = [featstore.open(tmp_path / f"dropout{rate}.zarr") for rate in ("0.0", "0.5")]
    # the same rows, of two networks
    assert stores[0].spec.splits == stores[1].spec.splits
    assert stores[0].spec.weights != stores[1].spec.weights


def test_a_training_loop_fills_a_store_of_each_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # run again, no row is doubled
        runpy.run_path(str(FOLDER / "training_loop.py"))
        assert capsys.readouterr().out.count("of the features keep") == 3
    store = featstore.open(tmp_path / "epoch2.zarr")
    assert [(one.name, one.n_rows) for one in store.spec.splits] == [("train", 1200), ("test", 597)]
    assert store.spec.weights == "version:epoch 2"

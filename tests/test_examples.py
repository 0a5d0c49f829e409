"""The examples run as they stand, are as short as they are to be, and say what they are to say."""

import ast
import os
import random
import re
import runpy
import time
from pathlib import Path

import pytest
from forked import killed_after

import featstore
from featstore.errors import SpecMismatch
from featstore.store import layout
from featstore.store.writer import Writer

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


# One network, hardly trained on a part of the digits, and no probes.
SHORT = {
    "in load_digits(return_X_y=True))": "in [a[:500] for a in load_digits(return_X_y=True)])",
    "range(15)": "range(1)",
    "(0.0, 0.5)": "(0.5,)",
    "in store.spec.taps": "in ()",
}


def run_dropout(folder: Path, replaced: dict[str, str], ready=None) -> None:
    """Run the first example with some of its words replaced, in blocks of 64 rows.

    With an event every block takes a while, and the third of the run sets it.
    """
    text = (FOLDER / "dropout.py").read_text()
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "example.py").write_text(text)
    os.chdir(folder)
    layout.BLOCK_BYTES = 64 * 2 * 256  # of the widest layer
    written, write = [], Writer.write

    def slow(self, *given):
        write(self, *given)
        written.append(given[:2])
        time.sleep(0.1)
        if len(written) == 3:
            ready.set()

    if ready is not None:
        Writer.write = slow
    runpy.run_path("example.py")


def killed(folder: Path, replaced: dict[str, str], pause: float) -> int | None:
    """Kill the example a while after its third block; return its exit status."""
    return killed_after(pause, run_dropout, folder, replaced, patience=300)


def chunks(store: Path) -> dict[str, bytes]:
    """The bytes of each chunk of features, labels and ids of a store, by its place."""
    found = (path for path in store.rglob("*") if path.is_file() and "json" not in path.name)
    return {str(path.relative_to(store)): path.read_bytes() for path in found}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("replaced", "kills"),
    [
        (SHORT, 1),
        pytest.param({}, 4, marks=pytest.mark.long),
    ],
    ids=["short", "whole"],
)
def test_the_first_example_goes_on_after_kills(replaced, kills, tmp_path, monkeypatch, capsys):
    """A killed example, run again, gives the store of one go, and refuses another network."""
    monkeypatch.chdir(tmp_path)
    moments = random.Random(0)
    for _ in range(kills):
        # a run that gets far enough is not killed: the stores are complete by then
        assert killed(tmp_path / "killed", replaced, moments.uniform(0, 0.4)) in (-9, 0)
    begun = [*(tmp_path / "killed").glob(".dropout*.zarr.unread/train/5/c.*")]
    assert begun or kills > 1
    changed = {**replaced, "manual_seed(0)\n    conv": "manual_seed(1)\n    conv"}
    with pytest.raises(SpecMismatch, match="weights is 'code:"):
        run_dropout(tmp_path / "killed", changed)
    run_dropout(tmp_path / "killed", replaced)
    run_dropout(tmp_path / "whole", replaced)
    stores = sorted((tmp_path / "whole").glob("dropout*.zarr"))
    assert len(stores) == (2 if not replaced else 1)
    for store in stores:
        assert chunks(tmp_path / "killed" / store.name) == chunks(store) != {}
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert left == {"example.py", *(store.name for store in stores)}
    said = re.findall(r"dropout \S+, layer .*", capsys.readouterr().out)
    assert len(said) == (12 if not replaced else 0)

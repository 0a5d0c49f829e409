"""Files of earlier versions, kept in `tests/golden/`, give the numbers that they gave then.

Nothing here names a module but `featstore` and `probe`: what was kept must open wherever the code
that reads it lies. `golden/make.py` says how the files were made.
"""

import hashlib
import json
import re
import shutil
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import featstore
from featstore import probe
from featstore.__main__ import main
from featstore.probe import classes

GOLDEN = Path(__file__).parent / "golden"
STORES = sorted(path.name for path in GOLDEN.iterdir() if path.suffix in (".zarr", ".h5"))
RESULTS = sorted(
    path.name
    for path in (GOLDEN / "results").iterdir()
    if path.suffixes in ([".csv"], [".json"], [".parquet"])
)
WEIGHTS = {"probes.safetensors": "clusters.zarr", "early.safetensors": "early.zarr"}
EXPECTED = GOLDEN / "expected.json"


def run(*words, status: int = 0):
    """Run a command in this process and expect an exit status."""
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == status, ran.output
    return ran


def digest(array: np.ndarray) -> str:
    """The type, shape and bytes of an array, as 16 hex digits."""
    array = np.ascontiguousarray(array)
    text = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(text + array.tobytes()).hexdigest()[:16]


def content(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def numbers(table: pd.DataFrame) -> dict[str, list[float] | list[str]]:
    """The columns of a table: of numbers their count, sum and sum of squares, of texts each one."""
    found = {}
    for name, column in table.items():
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            values = column.dropna().to_numpy(float)
            found[name] = [len(values), float(values.sum()), float(np.square(values).sum())]
        else:
            found[name] = sorted({str(value) for value in column})
    return found


def store_of(path: Path) -> dict:
    """Return what is in a store."""
    store = featstore.open(path)
    spec = store.spec
    arrays = {}
    for split in spec.splits:
        ids = "\n".join(store.ids(split.name))
        arrays[split.name] = {
            "labels": digest(store.labels(split.name)),
            "ids": hashlib.sha256(ids.encode()).hexdigest()[:16],
            "views": split.views,
            "taps": {tap.name: digest(store.load(split.name, tap.name)) for tap in spec.taps},
        }
        for column in spec.columns:
            values = store.column(split.name, column.name).tolist()
            told = hashlib.sha256("\n".join(map(str, values)).encode()).hexdigest()[:16]
            arrays[split.name][f"column {column.name}"] = told
    return {
        "spec": spec.digest(),
        "complete": store.complete,
        "damages": len(list(store.verify())),
        "notices": len(store.notices),
        "splits": arrays,
    }


def results_of(path: Path, scratch: Path) -> dict:
    """Return what results say: columns, the answer's numbers, and DR over seeds and test rows."""
    table = probe.read_results(path)
    # what else it says of modes that beat the full layer is worded anew now and then
    said = probe.sentence(table[table["mode"] == "random"])
    # a remark that later versions add
    said = re.sub(r" Of what the full layer has over chance .*? that is \S+ %\.", "", said)
    out = scratch / f"{path.name}.dr.csv"
    run("redundancy", path, "--delta", "0.8,0.9", "--out", out)
    return {
        "columns": numbers(table),
        "summary": numbers(probe.summary(table)),
        "said": re.findall(r"\d+(?:\.\d+)?", said),
        "redundancy": numbers(pd.read_csv(out)),
    }


def weights_of(path: Path, store: Path) -> dict:
    """Return what saved probes predict for the test rows of a store."""
    opened = featstore.open(store)
    rows = opened.tap(opened.test_split(), opened.spec.taps[0].name)
    predicted = probe.predict(path, rows)
    return {
        "probes": len(probe.load_weights(path)),
        "accuracy": predicted.table["accuracy"].tolist(),
        "classes": digest(np.asarray(predicted.classes, np.int64)),
    }


def predictions_of(path: Path) -> dict:
    """Return how often each column of predictions has the label."""
    table = pd.read_csv(path)
    columns = [name for name in table if name.startswith("probe_")]
    return {name: float((table[name] == table["label"]).mean()) for name in columns}


def classes_of(path: Path) -> dict:
    """Return what accuracies by class say."""
    table = probe.read_per_class(path)
    return {
        "losses": numbers(classes.class_losses(table)),
        "inequality": numbers(classes.inequality_table(table)),
    }


def tables_of(study: Path) -> dict:
    """Return what the tables of a study say."""
    tables = sorted((study / "tables").glob("*.csv"))
    return {path.name: numbers(pd.read_csv(path)) for path in tables}


def read(folder: Path, scratch: Path) -> dict:
    """Everything that `expected.json` keeps, as this code reads it."""
    pairs = {name: (folder / name, folder / store) for name, store in WEIGHTS.items()}
    return {
        "stores": {name: store_of(folder / name) for name in STORES},
        "results": {name: results_of(folder / "results" / name, scratch) for name in RESULTS},
        "weights": {name: weights_of(*pair) for name, pair in pairs.items()},
        "predictions": predictions_of(folder / "predictions.csv"),
        "per_class": classes_of(folder / "per_class.csv"),
        "study": tables_of(folder / "study"),
    }


def same(found, expected, where: str = "") -> None:
    """Compare JSON values; numbers to nine digits."""
    if isinstance(expected, dict):
        # columns may be added to what is computed, and none may go
        assert set(expected) <= set(found), where
        for key, value in expected.items():
            same(found[key], value, f"{where} {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for one, other in zip(found, expected, strict=True):
            same(one, other, where)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), where
    else:
        assert found == expected, where


def put(name: str, features: bool) -> None:
    """Let a store lie at memory://golden/, where results say that it was found.

    Without its features whatever is solved, or scored, fails. The protocol of sgd looks at train
    rows before it knows that nothing is left.
    """
    place = fsspec.filesystem("memory")
    if place.exists(f"/golden/{name}"):
        place.rm(f"/golden/{name}", recursive=True)
    place.put(str(GOLDEN / name), f"/golden/{name}", recursive=True)
    for block in [] if features else place.glob(f"/golden/{name}/*/features/c.*"):
        place.rm(block)


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads(EXPECTED.read_text())


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """A copy of the folder, so that nothing can be written into the checkout; to read alone."""
    return shutil.copytree(GOLDEN, tmp_path_factory.mktemp("kept") / "golden")


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """A copy of the folder to change, and the working directory."""
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(folder)
    return folder


def test_everything_kept_is_expected(expected):
    assert set(expected["stores"]) == set(STORES)
    assert set(expected["results"]) == set(RESULTS)
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000


@pytest.mark.parametrize("name", STORES)
def test_stores_hold_the_features_that_they_held(name, expected, copied):
    same(store_of(copied / name), expected["stores"][name], name)
    run("verify", copied / name)
    run("info", copied / name)


def test_a_store_holds_the_same_in_either_format_and_codec(expected):
    def rows(name):
        return expected["stores"][name]["splits"]

    assert rows("clusters.zarr") == rows("clusters.h5")
    assert rows("images.zarr") == rows("images-zstd.zarr")
    assert len(rows("images.zarr")["train"]["taps"]) == 2
    assert rows("views.zarr")["train"]["views"] == 2
    assert expected["stores"]["images.zarr"]["notices"] > 0


@pytest.mark.parametrize("name", RESULTS)
def test_results_say_what_they_said(name, expected, copied, tmp_path):
    same(results_of(copied / "results" / name, tmp_path), expected["results"][name], name)


@pytest.mark.parametrize("name", [name for name in RESULTS if name != "early.csv"])
def test_results_are_the_same_sweep_and_nothing_is_left_to_solve(name, tmp_path, monkeypatch):
    results = shutil.copytree(GOLDEN / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    note = json.loads((results / f"{name}.provenance.json").read_text())
    words = note["command"].split()[1:]
    for option in ("--save-weights", "--save-predictions", "--per-class"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    put(words[1].rpartition("/")[2], features="sgd" in words)
    before = content(results)
    said = run(*words, "--resume").output
    assert "to solve" not in said
    after = content(results)
    changed = {each for each in after if after[each] != before.get(each)}
    assert changed <= {f"{name}.provenance.json"}


def test_results_of_an_older_form_lack_what_is_newer():
    table = pd.read_csv(GOLDEN / "results" / "early.csv")
    assert not {"chance", "majority"} & set(table)
    assert not (GOLDEN / "results" / "early.csv.rows.npz").exists()


@pytest.mark.parametrize("name", WEIGHTS)
def test_saved_probes_predict_what_they_predicted(name, expected, copied):
    same(weights_of(copied / name, copied / WEIGHTS[name]), expected["weights"][name], name)


def test_predictions_are_those_of_the_saved_probes(expected, kept):
    out = kept / "again.csv"
    run("predict", "clusters.zarr", "--weights", "probes.safetensors", "--out", out)
    assert out.read_bytes() == (GOLDEN / "predictions.csv").read_bytes()
    same(predictions_of(out), expected["predictions"])
    table = probe.read_results(kept / "results" / "logistic.csv")
    assert list(predictions_of(out).values()) == pytest.approx(table["accuracy"].tolist())


def test_accuracies_by_class_say_what_they_said(expected, copied):
    same(classes_of(copied / "per_class.csv"), expected["per_class"])


def test_a_study_is_up_to_date_and_its_page_has_the_same_numbers(expected, kept):
    before, page = content(kept), kept / "study" / "page.md"
    kept_numbers = re.findall(r"\d+(?:\.\d+)?", page.read_text())
    said = run("study", "study.toml", "--dry-run").output
    assert re.search(r"every store and every probe .* there", said)
    run("study", "study.toml")
    after = content(kept)
    changed = {name for name in before if before[name] != after.get(name)}
    assert {name for name in changed if not re.match(r"study/(page|tables|\.made)", name)} == set()
    assert re.findall(r"\d+(?:\.\d+)?", page.read_text()) == kept_numbers
    same(tables_of(kept / "study"), expected["study"])


def test_pages_are_made_of_what_was_kept(copied, tmp_path):
    names = ("early.csv", "logistic.csv", "ridge.parquet")
    results = [copied / "results" / name for name in names]
    page, study = tmp_path / "page.html", tmp_path / "study.html"
    run("report", *results, "--per-class", copied / "per_class.csv", "--out", page)
    assert all(name in page.read_text() for name in names)
    run("report", copied / "study", "--out", study)
    assert "plain" in study.read_text()


def test_changed_results_are_noticed(tmp_path):
    """Files are held against the digests beside them, so that the tests above mean something."""
    path = shutil.copytree(GOLDEN / "results", tmp_path / "results") / "ridge-modes.csv"
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe.read_results(path)
    assert any("ridge-modes.csv" in str(warning.message) for warning in caught)

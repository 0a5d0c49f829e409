"""Results, probes, predictions and command lines attacked: the same numbers, or one line."""

import shutil
import warnings
from dataclasses import dataclass

import click
import numpy as np
import pytest
from attack import Record, arrays, assert_plain, attempts, instants, no_longer_than
from click.testing import CliRunner

from featstore import probe
from featstore.cli import main
from featstore.probe.errors import ChangedWarning, FileError, ProbeError, RowsWarning
from featstore.probe.moments import ARRAYS, Moments, load, save
from featstore.probe.result import per_class_table
from featstore.probe.results.files import digest_path, read_table, save_table
from featstore.probe.results.reading import (
    load_rows,
    read_per_class,
    read_predictions,
    read_results,
)

SUFFIXES = (".csv", ".json", ".parquet")


# Every file that is read back, with what it holds as plain values.


def of_results(path):
    table = read_results(path)
    # one whose name was damaged is none, as in any table that has no digest
    columns = ["seed", "fraction", "k", "accuracy", "l2", "status", "n_train"]
    return table.reindex(columns=columns).astype(str).to_numpy().tolist()


def of_resume(path):
    table = read_table(path, unchanged=True)
    if "accuracy" not in table:  # as `featstore.probe.plans` refuses it
        raise FileError("it has no column 'accuracy'")
    return table["accuracy"].tolist()


def of_classes(path):
    return read_per_class(path)[["class", "k", "class_accuracy"]].to_numpy().tolist()


def of_predictions(path):
    labels, classes = read_predictions(path)
    return labels.tolist(), classes.tolist()


def of_weights(path):
    saved = probe.load_weights(path)
    maps = [saved.weights(row) for row in range(len(saved))]
    arrays_ = [getattr(one, name).tolist() for one in maps for name in vars(one)]
    return saved.table.astype(str).to_numpy().tolist(), saved.classes, saved.source, arrays_


def of_rows(path):
    results = path.with_name(path.name.removesuffix(".rows.npz"))
    found = load_rows(results, read_table(results), "accuracy")
    if found is None:
        raise FileError("not used")  # and a warning has said why
    return found[0].of(found[1]).tolist(), found[0].labels.tolist()


def of_moments(path):
    found = load(path, "key")
    if found is None:
        raise FileError("computed anew")
    return [np.asarray(getattr(found, name)).tolist() for name in ["n", *ARRAYS]]


READERS = {
    **{f"r{suffix}": of_results for suffix in SUFFIXES},
    **{f"resumed{suffix}": of_resume for suffix in SUFFIXES},
    **{f"classes{suffix}": of_classes for suffix in SUFFIXES},
    **{f"p{suffix}": of_predictions for suffix in (".csv", ".parquet", ".npz")},
    "w.safetensors": of_weights,
    "r.csv.rows.npz": of_rows,
    "m.npz": of_moments,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(90, 8)).astype(np.float32), np.arange(90) % 3
    result = probe.sweep((x[:60], y[:60]), (x[60:], y[60:]), fractions=[0.5], seeds=[1, 2],
                         solver="ridge", l2=0.1, device="cpu")  # fmt: skip
    for suffix in SUFFIXES:
        result.save(folder / f"r{suffix}")
        result.save(folder / f"resumed{suffix}")
        names = ["=1+1", "b\x1b[31m", "c,d"]
        save_table(per_class_table(result, names), folder / f"classes{suffix}", digest=True)
    for suffix in (".csv", ".parquet", ".npz"):
        result.predict((x[60:], y[60:])).save(folder / f"p{suffix}")
    probe.save_weights(result, folder / "w.safetensors", classes=list("abc"))
    n = np.ones(8)
    save(Moments(4, n, np.array([2, 2]), n, np.ones((8, 2)), np.eye(8)), folder / "m.npz", "key")
    return folder


def damaged(data: bytes, draw) -> bytes:
    at = draw.randrange(len(data))
    kind = draw.choice(["flip", "flip", "flip", "cut", "zeros", "noise", "twice"])
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    length = draw.randrange(1, 64)
    if kind == "twice":
        return data[:at] + data[at : at + length] + data[at:]
    middle = bytes(length) if kind == "zeros" else draw.randbytes(length)
    return data[:at] + middle + data[at + length :]


@pytest.mark.parametrize("digest", ["digest", "no digest"])
@pytest.mark.parametrize("name", READERS)
def test_no_damage_of_a_file_is_a_wrong_number_or_a_traceback(written, tmp_path, name, digest):
    for file in written.iterdir():
        shutil.copy(file, tmp_path)
    path, reader = tmp_path / name, READERS[name]
    if digest == "no digest":
        if not digest_path(path).exists():
            pytest.skip("its digest is in the file")
        digest_path(path).unlink()
    expected, whole = reader(path), path.read_bytes()
    draw = instants(f"damage {name} {digest}")
    with Record(f"damage of {name}, {digest}") as record:
        for _ in range(attempts(4, 10)):
            path.write_bytes(damaged(whole, draw))
            with warnings.catch_warnings(record=True) as said, no_longer_than(20):
                warnings.simplefilter("always")
                try:
                    found = reader(path)
                except ProbeError as error:
                    found = error
            if isinstance(found, ProbeError):
                assert "\n" not in str(found)
                record("refused")
                continue
            told = any(issubclass(one.category, ChangedWarning | RowsWarning) for one in said)
            # of a plain table that nothing holds a digest of, an edit is an edit
            assert told or found == expected or digest == "no digest", path.read_bytes()
            record("told" if told else "read")


# Command lines that nobody would type.


NASTY = (
    "", " ", ",", "-", "--", "=", "0", "-1", "nan", "inf", "-inf", "1e400", "1e-400", "10" * 10,
    "9" * 5000, "1,", "1,1", ",".join(["3"] * 50), "x" * 5000, "a/" * 2000, "\x00", "a\x00b",
    "~nobody-here/x", "\x1b[31mred", "=1+1", "é中\u202e", "\ud800", "\udcff.csv", "none.zarr",
    "nothing.csv",
    "deep.toml", "deep.json", "huge.npy", "huge.npz", "pipe", "loop", "folder", "empty",
    "indices:huge.npy", "indices:pipe", "csv:deep.json", "npz:huge.npz", "hf:folder",
    "onnx:empty", "s3://", "file://", "http://[", "random,random", "1MiB", "1e30GiB", "-5", "auto",
    "{package:x/y}", "a.csv", "a.png", "a.html", "100000000000", "1000000",
)  # fmt: skip
SKIPPED = ("bench", "quickstart")
"""Commands that do minutes of work whatever they are given."""


@pytest.fixture
def nasty_folder(tmp_path, monkeypatch):
    """A folder of files that lie, or never end."""
    import os

    folder = tmp_path / "nasty"
    (folder / "folder").mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "deep.toml").write_text("a = " + "[" * 100_000)
    (folder / "deep.json").write_text('{"a":' + "[" * 100_000)
    header = str({"descr": "<f4", "fortran_order": False, "shape": (10**12, 10**5)}).encode()
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (folder / "huge.npy").write_bytes(npy)
    import zipfile

    with zipfile.ZipFile(folder / "huge.npz", "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test", "labels", "classes"):
            archive.writestr(f"{name}.npy", npy)
    (folder / "empty").write_bytes(b"")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    return folder


@dataclass
class Line:
    """A command line, drawn from the declared options of a command."""

    words: list[str]

    @classmethod
    def of(cls, name: str, command: click.Command, draw, good: dict[str, list[str]]) -> "Line":
        words = [name, *good.get(name, [])]
        options = [
            one
            for one in command.params
            if isinstance(one, click.Option) and "--compile" not in one.opts
        ]  # a compiler takes half a minute
        arguments = [one for one in command.params if isinstance(one, click.Argument)]
        for one in draw.sample(options, min(len(options), draw.randrange(0, 4))):
            words.append(draw.choice(one.opts))
            if not one.is_flag:
                words.append(draw.choice(NASTY))
        if name not in good or draw.random() < 0.15:
            words += [draw.choice(NASTY) for _ in arguments if draw.random() < 0.8]
        return cls([word for word in words if word != "--debug"])


def good_words(store, written, folder) -> dict[str, list[str]]:
    """Words with which each command does its work, so that others meet it half-way."""
    store, results = str(store.path), str(written / "r.csv")
    files = [str(path) for path in arrays(folder / "arrays")]
    flags = ["--train-features", "--train-labels", "--test-features", "--test-labels"]
    images = {f"x_{split}": np.zeros((8, 9, 9), np.uint8) for split in ("train", "test")}
    labels = {f"y_{split}": np.arange(8) % 2 for split in ("train", "test")}
    np.savez(folder / "images.npz", **images, **labels)
    study = f'[stores]\na = {{store = "{store}"}}\n[probes.ridge]\nl2 = 0.1\n'
    (folder / "study.toml").write_text(study)
    sweep = ["--fractions", "0.5", "--seeds", "2"]
    return {
        "probe": [store, *sweep, "--solver", "ridge"],
        "verify": [store],
        "info": [store],
        "export": [store, "--fraction", "0.5", "--seed", "1", "--out", "e.npz"],
        "convert": [store, "c.h5"],
        "merge": [store, store, "--out", "m.zarr"],
        "cka": [store, *sweep],
        "learn": [store, "--shots", "3", "--draws", "2", "--solver", "ridge", "--fractions", "0.5"],
        "retrieve": [store, *sweep],
        "geometry": [store, *sweep, "--permutations", "9"],
        "universality": [store, store],
        "attribute": [store, "--permutations", "3", "--resamples", "9"],
        "spectrum": [store],
        "compare": [store, results, *sweep, "--solver", "ridge"],
        "redundancy": [results],
        "report": [results, "--out", "r.html"],
        "classes": [str(written / "classes.csv")],
        "predict": [store, "--weights", str(written / "w.safetensors"), "--out", "p.npz"],
        "study": ["study.toml", "--dry-run"],
        "import": [word for pair in zip(flags, files, strict=True) for word in pair],
        "extract": ["--model", "test_vit", "--no-pretrained", "--dataset", "npz:images.npz"],
    }


@pytest.mark.parametrize("name", [name for name in main.commands if name not in SKIPPED])
def test_no_command_line_is_a_traceback_or_a_hang(tiny_store, written, nasty_folder, name):
    good = good_words(tiny_store, written, nasty_folder)
    draw = instants(f"lines of {name}")
    with Record(f"command lines of {name}") as record:
        for _ in range(attempts(1)):
            line = Line.of(name, main.commands[name], draw, good)
            # a warning is a line, as for a person, and no error
            with no_longer_than(30), warnings.catch_warnings():
                warnings.simplefilter("default")
                ran = CliRunner().invoke(main, line.words)
            shown = [word[:60] for word in line.words]
            assert ran.exception is None or isinstance(ran.exception, SystemExit), shown
            # click's own words for one argument too many begin so
            text = ran.output.replace("unexpected extra argument", "")
            assert "unexpected" not in text, (shown, text)
            assert_plain(ran.exit_code, text)
            assert "\x1b" not in ran.output, shown
            record(f"status {ran.exit_code}")

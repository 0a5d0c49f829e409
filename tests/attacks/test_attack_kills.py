"""Commands that write, killed at random: the old or the new is there, whole, and it goes on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from attack import (
    Command,
    Record,
    arrays,
    assert_plain,
    attempts,
    contents,
    duration,
    instants,
    run,
    tree,
)
from forked import processes

import featstore
from featstore.errors import FeatstoreError, StoreNotFound
from featstore.probe.results.files import as_written, load_arrays
from featstore.probe.statuses import Status

pytestmark = pytest.mark.usefixtures("small_blocks")


def importing(out, files, *more):
    train, train_y, test, test_y = files
    return (
        "import", "--train-features", train, "--train-labels", train_y,
        "--test-features", test, "--test-labels", test_y, "--out", out, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two stores of the same rows, and one of other rows; what no attack may change."""
    folder = tmp_path_factory.mktemp("sources")
    said = folder / "said"
    for name, format, seed in (("a.zarr", "zarr", 0), ("b.h5", "hdf5", 1), ("old.zarr", "zarr", 2)):
        files = arrays(folder / name.partition(".")[0], seed=seed)
        status, text = run(*importing(folder / name, files, "--format", format), said=said)
        assert status == 0, text
    said.unlink()
    return folder


def readable(path: Path):
    """Return what a file or store holds, None where there is none; raise where it is not whole."""
    if path.suffix == ".npz":
        if not path.exists():
            return None
        with np.load(path) as archive:
            return {name: archive[name].tobytes() for name in archive.files}
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict() if path.exists() else None
    try:
        return contents(path)
    except StoreNotFound:
        return None


def committed(path: Path) -> set:
    """The blocks of a store that are committed; every one of them has its checksum."""
    try:
        store = featstore.open(path)
    except StoreNotFound:
        return set()
    assert store.verify() == []
    splits = [split.name for split in store.spec.splits]
    return set(store.blocks()) - {(s, block) for s in splits for block in store.missing(s)}


EXPORT = ("--fraction", "0.5", "--seed", "1", "--out")
EXTRACT = ("extract", "--model", "test_resnet", "--dataset", "digits", "--no-pretrained",
           "--image-size", "32", "--limit", "100", "--workers", "0", "--out")  # fmt: skip

# By name: the name of what is made, and the command that makes it from the sources.
MAKING = {
    "import zarr": ("c.zarr", lambda s, out: importing(out, arrays(s / "a"))),
    "import hdf5": ("c.h5", lambda s, out: importing(out, arrays(s / "a"), "--format", "hdf5")),
    "extract": ("c.zarr", lambda s, out: (*EXTRACT, out)),
    "extract hdf5": ("c.h5", lambda s, out: (*EXTRACT, out, "--format", "hdf5")),
    "extract processes": ("c.zarr", lambda s, out: (*EXTRACT, out, "--workers", "2")),
    "extract zstd": ("c.zarr", lambda s, out: (*EXTRACT, out, "--codec", "zstd")),
    "extract taps": ("c.h5", lambda s, out: (*EXTRACT, out, "--format", "hdf5", "--taps", "all")),
    "extract views": ("c.zarr", lambda s, out: (*EXTRACT, out, "--views", "2")),
    "extract by 2 ranks": ("c.zarr", lambda s, out: (*EXTRACT, out)),
    "extract hdf5 by 2 ranks": ("c.h5", lambda s, out: (*EXTRACT, out, "--format", "hdf5")),
    "convert to hdf5": ("c.h5", lambda s, out: ("convert", s / "a.zarr", out)),
    "convert to zstd": ("c.zarr", lambda s, out: ("convert", s / "b.h5", out, "--codec", "zstd")),
    "merge": (
        "c.zarr",
        lambda s, out: ("merge", s / "a.zarr", s / "b.h5", "--names", "x,y", "--out", out),
    ),
    "export store": ("c.zarr", lambda s, out: ("export", s / "a.zarr", *EXPORT, out)),
    "export npz": ("c.npz", lambda s, out: ("export", s / "a.zarr", *EXPORT, out)),
    "export parquet": ("c.parquet", lambda s, out: ("export", s / "b.h5", *EXPORT, out)),
}


# Those that the other tests of extraction kill in a shorter form.
IN_LONG = [
    name for name in MAKING if name.split()[-1] in ("processes", "zstd", "taps", "views", "ranks")
]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name in IN_LONG)) for name in MAKING],
)
def test_killed_while_it_is_made(sources, tmp_path, name):
    draw, said = instants(name), tmp_path / "said"
    ranks = 2 if name.endswith("2 ranks") else 1
    file, made = MAKING[name]
    before = tree(sources)
    whole = tmp_path / "whole" / file
    whole.parent.mkdir()
    took = duration(*made(sources, whole), said=said, ranks=ranks)
    expected = readable(whole)
    assert expected
    (tmp_path / "killed").mkdir()
    out = tmp_path / "killed" / file
    with Record(f"kill: {name}") as record:
        there: set = set()
        for _ in range(attempts(1, 0.3)):
            command = Command(*made(sources, out), said=said, ranks=ranks)
            at_work = command.kill_after(draw.uniform(0, took))
            if file.endswith((".npz", ".parquet")):
                assert readable(out) in (None, expected)
            else:
                now = committed(out)
                assert there <= now
                there = now
            done = not at_work
            record("at work" if at_work else "done before")
            # a first run is slower than the ones after it
            took *= 0.7 if done else 1.05
            if done:
                assert readable(out) == expected
                _remove(out)
                there = set()
    assert_plain(
        *run(
            *made(sources, out),
            *(["--overwrite"] if out.suffix in (".npz", ".parquet") else []),
            said=said,
        )
    )
    assert readable(out) == expected
    assert tree(sources) == before
    assert_nothing_is_left(out, said)


def _remove(out: Path) -> None:
    try:
        featstore.remove(out)
    except FeatstoreError:
        out.unlink()


def assert_nothing_is_left(out: Path, said: Path) -> None:
    assert_plain(*run("gc", out.parent, "--days", "0", "--yes", said=said))
    assert [entry.name for entry in out.parent.iterdir()] == [out.name]


OVERWRITING = {
    "convert over zarr": ("c.zarr", lambda s, out: ("convert", s / "a.zarr", out)),
    "convert over, in hdf5": (
        "c.zarr", lambda s, out: ("convert", s / "a.zarr", out, "--format", "hdf5"),
    ),
    "convert hdf5 over hdf5": ("c.h5", lambda s, out: ("convert", s / "a.zarr", out)),
    "merge over": MAKING["merge"],
    "export over": MAKING["export store"],
    "extract over": MAKING["extract"],
    "export npz over": MAKING["export npz"],
}  # fmt: skip


@pytest.mark.parametrize("name", OVERWRITING)
def test_killed_while_it_is_overwritten(sources, tmp_path, name):
    draw, said = instants(name), tmp_path / "said"
    file, made = OVERWRITING[name]
    (tmp_path / "new").mkdir()
    (tmp_path / "killed").mkdir()
    new, out = tmp_path / "new" / file, tmp_path / "killed" / file
    took = duration(*made(sources, new), said=said)
    expected = readable(new)
    old = ("export", sources / "old.zarr", *EXPORT) if file == "c.npz" else (
        "convert", sources / "old.zarr"
    )  # fmt: skip
    assert_plain(*run(*old, out, said=said))
    before = readable(out)
    assert before not in (None, expected)
    with Record(f"kill: {name}") as record:
        for _ in range(attempts(1, 0.3)):
            command = Command(*made(sources, out), "--overwrite", said=said)
            at_work = command.kill_after(draw.uniform(0, took))
            found = readable(out)
            assert found in (before, expected)
            record(f"{'the old' if found == before else 'the new'} was there")
            took *= 1.05 if at_work else 0.7
            if not at_work:
                assert found == expected
                assert_plain(*run(*old, out, "--overwrite", said=said))
                assert readable(out) == before
    assert_plain(*run(*made(sources, out), "--overwrite", said=said))
    assert readable(out) == expected
    assert_nothing_is_left(out, said)


@pytest.mark.parametrize("format", featstore.FORMATS)
def test_killed_while_it_is_removed(sources, tmp_path, format):
    """By rm and gc: what is at the place is a whole store, or none; nothing else goes."""
    draw, said = instants(f"rm {format}"), tmp_path / "said"
    suffix = {"zarr": ".zarr", "hdf5": ".h5"}[format]
    (tmp_path / "here").mkdir()
    out, bystander = tmp_path / "here" / f"c{suffix}", tmp_path / "here" / "bystander.zarr"
    make = ("convert", sources / "a.zarr", out)
    assert_plain(*run("convert", sources / "a.zarr", bystander, said=said))
    assert_plain(*run(*make, said=said))
    expected = readable(out)
    took = duration("rm", out, "--yes", said=said)
    with Record(f"kill: rm {format}") as record:
        for number in range(attempts(3, 0.3)):
            if readable(out) is None:
                assert_plain(*run(*make, said=said))
            arguments = ("rm", out, "--yes")
            if number % 3 == 2:
                arguments = ("gc", out.parent, "--days", "0", "--yes")
            at_work = Command(*arguments, said=said).kill_after(draw.uniform(0, took))
            assert readable(out) in (None, expected)
            assert readable(bystander) == expected
            record("at work" if at_work else "done before")
            took *= 1.05 if at_work else 0.7
    assert_plain(*run(*make, said=said))
    assert readable(out) == expected
    assert_plain(*run("gc", out.parent, "--days", "0", "--yes", said=said))
    assert sorted(entry.name for entry in out.parent.iterdir()) == sorted(
        [out.name, bystander.name]
    )


def _repair(path, ready) -> None:
    ready.set()
    featstore.open(path).restate()


def test_killed_while_the_metadata_of_a_file_are_repaired(sources, tmp_path):
    """The rows stay; the next repair completes it; it, a writer or `gc` clears what is left."""
    draw, said = instants("repair"), tmp_path / "said"
    (tmp_path / "here").mkdir()
    out = tmp_path / "here" / "b.h5"
    shutil.copy(sources / "b.h5", out)
    whole, expected = out.read_bytes(), readable(out)
    took = 0.05
    with Record("kill: repair of an HDF5 file") as record:
        for number in range(attempts(3, 0.3)):
            out.write_bytes(whole[:100] + bytes(8) + whole[108:])
            assert featstore.open(out).verify()
            ready = processes.Event()
            process = processes.Process(target=_repair, args=(out, ready))
            process.start()
            assert ready.wait(120)
            process.join(draw.uniform(0, took))
            process.kill()
            process.join()
            record("at work" if process.exitcode else "done before")
            took *= 1.05 if process.exitcode else 0.7
            assert readable(out) == expected
            if number % 3 == 0:
                featstore.open(out).restate()
                assert out.read_bytes() == whole
            elif number % 3 == 1:
                with featstore.open(out).writer():
                    pass
            else:
                assert_plain(*run("gc", out.parent, "--days", "0", "--yes", said=said))
            assert [entry.name for entry in out.parent.iterdir()] == [out.name]
    featstore.open(out).restate()
    assert out.read_bytes() == whole


# What asks of features, and looks at the answers.

SWEEP = ("--fractions", "0.2,0.5", "--seeds", "4")
RIDGE = (*SWEEP, "--solver", "ridge", "--l2", "0.1")
STUDY = """
title = "killed"
fractions = [0.5]
seeds = 2
figures = ["accuracy"]
[stores]
a = { store = "a.zarr" }
[probes.ridge]
l2 = 0.1
[probes.logistic]
l2 = 0.1
[analyses]
resamples = 50
"""


def asking(name: str, here: Path, out: Path) -> tuple:
    """Return the words of a command that asks of the stores `here` and writes into `out`."""
    a, b = here / "a.zarr", here / "b.h5"
    table, results = out / "t.csv", here / "r.csv"
    return {
        "probe, ridge": (
            "probe", a, *RIDGE, "--mode", "random,first,variance", "--out", table, "--resume",
        ),
        "probe, logistic": (
            "probe", a, *SWEEP, "--l2", "0.1", "--tol", "0.01", "--out", table, "--resume",
        ),
        "probe, all that it saves": (
            "probe", a, *RIDGE, "--out", table, "--per-class", out / "classes.csv",
            "--save-weights", out / "w.safetensors", "--save-predictions", out / "p.npz",
            "--plot", out / "a.svg",
        ),
        "compare": ("compare", a, b, *RIDGE, "--out-dir", out / "kept", "--out", table),
        "attribute": ("attribute", a, "--permutations", "20", "--resamples", "50", "--out", table),
        "retrieve": ("retrieve", a, *SWEEP, "--out", table),
        "learn": ("learn", a, "--shots", "5,20", "--draws", "2", *RIDGE[:2], *RIDGE[4:],
                  "--out", table),
        "geometry": ("geometry", a, b, *SWEEP, "--permutations", "20", "--out", table,
                     "--pairs", out / "pairs.csv"),
        "universality": ("universality", a, b, "--out", table),
        "cka": ("cka", a, b, *SWEEP, "--out", table, "--matrix", out / "m.csv"),
        "spectrum": ("spectrum", a, "--out", table, "--eigenvalues", out / "e.csv"),
        "redundancy": ("redundancy", results, "--out", table, "--plot", out / "d.svg"),
        "classes": ("classes", here / "classes.csv", "--resamples", "50", "--out", table,
                    "--inequality", out / "i.csv"),
        "predict": ("predict", a, "--weights", here / "w.safetensors", "--out", out / "p.csv"),
        "report": ("report", results, "--out", out / "r.html"),
        "study": ("study", here / "s.toml", "--out", out / "study"),
    }[name]  # fmt: skip


ASKING = ["probe, ridge", "compare", "report"]
MORE = [
    "probe, logistic", "probe, all that it saves", "attribute", "retrieve", "learn", "geometry",
    "universality", "cka", "spectrum", "redundancy", "classes", "predict", "study",
]  # fmt: skip


@pytest.fixture(scope="module")
def asked(sources, tmp_path_factory):
    """The stores, results of one of them, and a study of it."""
    folder = tmp_path_factory.mktemp("asked")
    for name in ("a.zarr", "b.h5"):
        (shutil.copytree if name == "a.zarr" else shutil.copy)(sources / name, folder / name)
    (folder / "s.toml").write_text(STUDY)
    files = ("--out", "r.csv", "--per-class", "classes.csv", "--save-weights", "w.safetensors")
    words = [word if word.startswith("-") else folder / word for word in files]
    assert_plain(*run("probe", folder / "a.zarr", *RIDGE, *words, said=folder / "said"))
    (folder / "said").unlink()
    return folder


def assert_part_of(found: dict[str, bytes], whole: dict[str, bytes], folder: Path) -> None:
    """Check that a killed command left no number that a whole run has not, and no half file."""
    for name, data in found.items():
        path = folder / name
        if path.name.startswith("."):
            continue  # not there yet; the next run clears it
        assert name in whole
        if f"{name}.sha256" in whole:
            assert as_written(path)
        if path.suffix == ".csv":
            lines = [line for line in data.splitlines() if Status.NOT_RUN.encode() not in line]
            assert set(lines) <= set(whole[name].splitlines())
        elif path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".npz":
            load_arrays(path)
        elif path.suffix not in (".sha256", ".md"):
            assert data == whole[name], name


def with_times(name: str) -> bool:
    """Return whether a file says when it was made."""
    return name.endswith((".json", ".md"))


@pytest.mark.parametrize(
    "name", [*ASKING, *(pytest.param(name, marks=pytest.mark.long) for name in MORE)]
)
def test_killed_while_it_answers(asked, tmp_path, name):
    draw, said = instants(name), tmp_path / "said"
    before, folder = tree(asked / "a.zarr"), tmp_path / "whole"
    folder.mkdir()
    took = duration(*asking(name, asked, folder), said=said)
    whole = tree(folder)
    assert whole
    with Record(f"kill: answer, {name}") as record:
        for number in range(attempts(1, 0.3)):
            out = tmp_path / str(number)
            out.mkdir()
            if draw.random() < 0.5:
                shutil.rmtree(asked / "a.zarr.moments", ignore_errors=True)
            command = Command(*asking(name, asked, out), said=said)
            at_work = command.kill_after(draw.uniform(0, took))
            assert_part_of(tree(out), whole, out)
            took *= 1.05 if at_work else 0.7
            status, text = run(*asking(name, asked, out), said=said)
            assert_plain(status, text)
            assert status == 0, text
            found = tree(out)
            assert found.keys() == whole.keys()
            for file, data in found.items():
                assert data == whole[file] or with_times(file), file
            shutil.rmtree(out)
            record("at work" if at_work else "done before")
    assert tree(asked / "a.zarr") == before

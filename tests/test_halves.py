"""`pip install featstore-probe` alone: what it does, and says of what the extras bring."""

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from featstore.errors import DISTRIBUTION, EXTRAS, with_extra
from featstore.probe.errors import INSTALL

ROOT = Path(__file__).parents[1]
# A process in which nothing that an extra brings can be imported.
WITHOUT = """
import contextlib, io, json, pkgutil, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
import numpy as np
import featstore
from featstore import probe
from featstore.cli import main
lack = []
for module in pkgutil.walk_packages(featstore.__path__, "featstore.", onerror=lambda name: None):
    try:
        if not module.name.endswith("__main__"):
            __import__(module.name)
    except ImportError:
        lack.append(module.name)
random = np.random.default_rng(0)
y = np.arange(300) % 3
X = random.normal(size=(300, 12)) + np.eye(3, 12)[y] * 5
result = probe.sweep((X[:200], y[:200]), (X[200:], y[200:]), fractions=[0.5], seeds=2)
np.savez("a.npz", X=X, y=y)
ran = {}
def run(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main(list(words), standalone_mode=True) or 0
        except SystemExit as stop:
            status = stop.code
    ran[" ".join(words)] = [status, " ".join(out.getvalue().split())]
arrays = [f"--{s}-{w}s=a.npz:{a}" for s in ("train", "test")
          for w, a in (("feature", "X"), ("label", "y"))]
run("import", *arrays, "--out", "a.zarr")
run("probe", "a.zarr", "--fractions", "0.5", "--seeds", "2", "--out", "r.csv",
    "--per-class", "c.csv", "--save-weights", "w.safetensors")
for words in ("redundancy r.csv", "classes c.csv", "cka a.zarr --fractions 0.5", "spectrum a.zarr",
              "geometry a.zarr", "compare r.csv", "predict a.zarr --weights w.safetensors",
              "convert a.zarr a.h5", "info a.h5", "verify a.h5", "ls .",
              "extract --model resnet18 --dataset digits", "taps resnet18",
              "report r.csv --out r.html", "push a.zarr --to me/x", "pull me/x",
              "probe a.zarr --fractions 0.5 --plot a.png",
              "probe a.zarr --fractions 0.5 --out r.parquet",
              "import --train-features a.parquet --train-labels a.npz:y"
              " --test-features a.npz:X --test-labels a.npz:y --out b.zarr"):
    if "a.parquet" in words:
        open("a.parquet", "wb").write(b"PAR1" + bytes(range(128, 256)))
    run(*words.split())
print(json.dumps({"lack": lack, "accuracy": float(result.table["accuracy"].min()), "ran": ran}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    packages = json.dumps([*EXTRAS, "sklearn", "transformers", "datasets", "open_clip", "onnx"])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, packages],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
             "FEATSTORE_HOME": str(folder / "stores"), "HOME": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_probing_half_loads_without_the_extras(told):
    assert told["accuracy"] > 0.9
    wings = (
        "featstore.models",
        "featstore.data",
        "featstore.extraction",
        "featstore.probe.figures",
    )
    others = {name for name in told["lack"] if not name.startswith(wings)}
    assert others <= {"featstore.bench", "featstore.sharing", "featstore.report.page",
                      "featstore.study.page", "featstore.study.plan", "featstore.study.run",
                      "featstore.probe.estimators", "featstore.testing"}  # fmt: skip


def test_arrays_are_imported_probed_and_looked_at_without_the_extras(told):
    works = ("import --train-features=", "probe a.zarr --fractions 0.5 --seeds", "redundancy",
             "classes", "cka", "spectrum", "geometry", "compare", "predict", "convert", "info",
             "verify", "ls")  # fmt: skip
    for begin in works:
        ((status, said),) = [v for words, v in told["ran"].items() if words.startswith(begin)]
        assert status == 0, (begin, said)


@pytest.mark.parametrize(
    ("begin", "extra"),
    [
        ("extract", "extract"),
        ("taps", "extract"),
        ("report", "report"),
        ("probe a.zarr --fractions 0.5 --plot", "report"),
        ("push", "hub"),
        ("pull", "hub"),
        ("probe a.zarr --fractions 0.5 --out", "parquet"),
        ("import --train-features a.parquet", "parquet"),
    ],
)
def test_what_an_extra_brings_is_named_on_one_line(told, begin, extra):
    ((status, said),) = [v for words, v in told["ran"].items() if words.startswith(begin)]
    assert status in (1, 2)
    assert said.endswith(f"is not installed: {with_extra(extra)}")
    assert "Traceback" not in said


def test_every_extra_that_is_named_exists_and_brings_the_package():
    assert INSTALL.format("x") == with_extra("x")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {name: text.split() for name, text in setup["options.extras_require"].items()}
    needs = setup["options"]["install_requires"]
    for package, extra in EXTRAS.items():
        called = {"PIL": "pillow"}.get(package, package)
        assert any(re.match(rf"{called}\b", need) for need in extras[extra]), (package, extra)
        assert not re.search(rf"^{called}\b", needs, re.MULTILINE)
    for quick in ("quickstart", "test"):
        assert f"{DISTRIBUTION}[extract,report]" in extras[quick]

"""`featstore bench`: what it prints and writes, and what it refuses."""

import json

import pytest
from click.testing import CliRunner

from benchmarks import machine
from benchmarks.stages import STAGES
from featstore.cli import main

TINY = "small,rows=200,features=16,classes=3,fractions=2,seeds=1,loop_probes=2"


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    """A machine of which the rates need not be measured."""
    rates = {"matmul_gflops": 100.0, "matmul64_gflops": 50.0, "copy_gbs": 10.0}
    monkeypatch.setattr(machine, "rates", lambda backend: rates)


def run(*arguments, status: int = 0):
    """Run `featstore bench` in this process and expect an exit status."""
    ran = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def test_bench_prints_saves_and_draws(tmp_path):
    out, figures = tmp_path / "r.json", tmp_path / "figures"
    ran = run("ridge", "--sizes", TINY, "--against", "torch-loop,sklearn", "--json", out,
              "--figures", figures, "--backend", "numpy", "--device", "cpu")  # fmt: skip
    assert max(map(len, ran.stdout.splitlines())) <= 80
    for words in ("GFLOP/s float32", "of floor", "sklearn, 2 run", "slope", "peak MiB"):
        assert words in ran.stdout
    assert json.loads(out.read_text())["machine"]["backend"] == "numpy"
    drawn = {path.name for path in figures.iterdir()}
    axes = ("fractions", "seeds", "classes", "rows", "features")
    assert drawn == {f"ridge-{axis}.svg" for axis in axes}
    assert f"wrote {figures / 'ridge-rows.svg'}" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], "no stage is called 'speed': there are probe, ridge"),
        (["ridge", "--sizes", "rows=many"], "size rows is 'many'"),
        (["ridge", "--against", "excel"], "not compared with 'excel': it has sklearn, torch-loop"),
        (["ridge", "--memory", "lots"], "memory 'lots' is not a size"),
        (["ridge", "--backend", "numpy", "--device", "cuda"], "backend numpy computes on the CPU"),
        (["sgd", "--store", "x.zarr"], "stage sgd makes up its rows"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(arguments, words):
    ran = run(*arguments, status=2)
    assert words in ran.stderr
    assert ran.stdout == ""


def test_the_help_names_every_stage():
    text = " ".join(main.commands["bench"].help.split())
    assert [stage for stage in STAGES if f" {stage}" not in text] == []

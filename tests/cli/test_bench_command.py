"""`featstore bench`: what it prints and writes, and what it refuses."""

import json

import pytest
from click.testing import CliRunner

from featstore import measurements
from featstore.bench import STAGES
from featstore.cli import main

TINY = "small,rows=200,features=16,classes=3,fractions=2,seeds=1"


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    """A machine of which the rates need not be measured."""
    rates = {"matmul_gflops": 100.0, "matmul64_gflops": 50.0, "copy_gbs": 10.0}
    monkeypatch.setattr(measurements, "rates", lambda backend: rates)


def run(*arguments, status: int = 0):
    """Run `featstore bench` in this process and expect an exit status."""
    ran = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def test_bench_prints_and_saves(tmp_path):
    out = tmp_path / "r.json"
    ran = run("--sizes", TINY, "--json", out, "--backend", "numpy", "--device", "cpu")
    assert max(map(len, ran.stdout.splitlines())) <= 80
    for words in ("GFLOP/s float32", "logistic", "probes/s", "peak MiB"):
        assert words in ran.stdout
    saved = json.loads(out.read_text())
    assert (saved["benchmark"], saved["machine"]["backend"]) == ("solvers", "numpy")
    assert f"wrote {out}" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], "stage is 'speed'; choose solvers, growth, store, extract"),
        (["growth", "--sizes", "rows=many"], "size rows is 'many'"),
        (["solvers", "--memory", "lots"], "memory 'lots' is not a size"),
        (["growth", "--backend", "numpy", "--device", "cuda"], "backend numpy computes on the CPU"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(arguments, words):
    ran = run(*arguments, status=2)
    assert words in ran.stderr
    assert ran.stdout == ""


def test_the_help_names_every_stage():
    text = " ".join(main.commands["bench"].help.split())
    assert [stage for stage in STAGES if f" {stage}" not in text] == []

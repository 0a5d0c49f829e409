"""The stage that opens a page of results; apart, since a driver of browsers runs once at a time."""

import shutil

import pytest

import benchmarks
from benchmarks import bench_report
from featstore import measurements

SIZES = "small,curves=2,seeds=2,prefixes=4"


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    """A machine of which the rates need not be measured."""
    rates = {"matmul_gflops": 100.0, "matmul64_gflops": 50.0, "copy_gbs": 10.0}
    monkeypatch.setattr(measurements, "rates", lambda backend: rates)


@pytest.mark.skipif(not any(map(shutil.which, bench_report.BROWSERS)), reason="no Chromium on PATH")
def test_the_stage_opens_the_page():
    (times,) = benchmarks.run("report", SIZES).tables["in a browser"]
    assert 0 < times["library read, s"] < times["tables shown, s"] < times["all drawn, s"]


def test_without_a_browser_the_stage_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = benchmarks.run("report", SIZES)
    assert set(found.tables) == {"page"}
    assert found.notes == ["No Chromium is on PATH, so that the page was made and not opened."]

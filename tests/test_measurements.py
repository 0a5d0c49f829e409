"""Measurements: slopes and tables on known numbers, peak memory, and reports as text and JSON."""

import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from featstore import measurements
from featstore.measurements import Growth

RATES = {"matmul_gflops": 100.0, "matmul64_gflops": 50.0, "copy_gbs": 10.0}


@given(st.floats(-2, 3), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_the_slope_of_a_power_is_that_power(power, factor):
    values = [3, 10, 40, 100]
    assert measurements.slope(values, [factor * v**power for v in values]) == pytest.approx(power)


def test_growth_shows_both_slopes_in_its_last_row():
    grown = Growth("seeds", (1, 2, 4), (10, 20, 40), (0.5, 1.0, 2.0), (1 << 20,) * 3, 1.0)
    first, *_, last = grown.rows()
    assert (first["axis"], first["slope"]) == ("seeds", "")
    assert (last["slope"], last["target"], last["memory"]) == ("1.00", "<= 1", "0.00")
    assert last["probes/s"] == 20


def test_memory_is_seen_against_probes_only_where_the_axis_makes_them():
    held = (1 << 20, 2 << 20, 4 << 20)
    features = Growth("features", (8, 16, 32), (5, 6, 7), (1.0, 1.0, 1.0), held)
    assert features.memory_slope == pytest.approx(1)


def test_peak_memory_sees_what_was_held_and_let_go():
    with measurements.PeakMemory() as peak:
        held = np.ones(6 << 20)
        time.sleep(0.2)
        del held
    assert 45 << 20 < peak.bytes < 100 << 20


def everything():
    """A report with everything in it."""
    rows = [{"what": "a", "seconds": 1.5, "ok": True}, {"what": "b", "seconds": "", "ok": False}]
    grown = Growth("rows", [10, 20, 40], [5, 5, 5], [1.0, 2.1, 3.9], [1 << 20, 2 << 20, 4 << 20], 1)
    facts = {
        "processor": "a", "cores": 2, "memory_gib": 1.0, "device": "cpu", **RATES,
    }  # fmt: skip
    note = "This is longer than a line of eighty columns may be, and so it has to be wrapped."
    return measurements.Report("ridge", {"rows": 40}, facts, {"stages": rows}, [grown], [note])


@pytest.fixture
def made():
    return everything()


def test_a_report_s_text_fits_a_terminal(made):
    text = made.text()
    assert max(map(len, text.splitlines())) <= 80
    assert "1 GiB" in text.replace("1.0", "1")
    assert text.endswith("to be\n  wrapped.")


@given(st.lists(st.text("abc", max_size=60), min_size=1, max_size=3), st.floats(1e-9, 1e9))
@settings(max_examples=30, deadline=None)
def test_a_table_always_fits_a_terminal(names, value):
    columns = [f"column {number}" for number in range(5)]
    rows = [{"what": name, **dict.fromkeys(columns, value)} for name in names]
    lines = measurements.table(rows).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 2 + len(rows)


def test_growth_of_several_things_is_told_apart():
    grown = [
        Growth("rows", (1, 2), (1, 2), (1.0, 2.0), (1 << 20,) * 2, of=of, counted=counted)
        for of, counted in (("zarr write", "rows"), ("ridge", "probes"))
    ]
    first, second = (list(each.rows()[0]) for each in grown)
    assert (first[2:5], second[2:5]) == (
        ["rows", "seconds", "rows/s"],
        ["probes", "seconds", "probes/s"],
    )
    facts = {"processor": "a", "cores": 2, "memory_gib": 1.0, "device": "cpu", **RATES}
    text = measurements.Report("growth", {}, facts, {}, grown).text()
    assert "zarr write rows" in text
    assert "ridge rows" in text


def test_the_machine_s_rates_are_those_of_products_and_copies(monkeypatch):
    for name in ("MATMUL_SIZE", "MATMUL64_SIZE"):
        monkeypatch.setitem(getattr(measurements, name), "cpu", 256)
    monkeypatch.setitem(measurements.COPY_BYTES, "cpu", 1 << 22)
    found = measurements.facts(measurements.Backend())
    x = np.full((256, 256), 0.5, np.float32)
    slowest = 2 * 256**3 / measurements.best(lambda: [x @ x for _ in range(50)]) / 1e9
    assert found["matmul_gflops"] > slowest
    assert found["copy_gbs"] > 0.1
    assert found["versions"]["numpy"] == np.__version__

"""Benchmarks: their arithmetic on known numbers, every stage small, and answers that are wrong."""

import json
import sys
import time
from types import SimpleNamespace

import cupy_stand_in
import numpy as np
import pytest
import torch
import zarr
from host_kernels import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import benchmarks
from benchmarks import (
    bench_kernels,
    bench_store,
    floors,
    growth,
    loops,
    machine,
    problems,
    report,
    ridge_loops,
    softmax_loops,
)
from benchmarks.figures import growth_figures
from benchmarks.growth import Growth
from benchmarks.ridge_stages import Work
from benchmarks.sizes import EpochSizes, ProbeSizes, chosen
from featstore.probe.errors import UsageError
from featstore.probe.kernels import reference

RATES = {"matmul_gflops": 100.0, "matmul64_gflops": 50.0, "copy_gbs": 10.0}
TILE = "small,probes=2,classes=3,rows=40,features=8,systems=1"
STEPS = ["softmax, loss, residual", "rank, loss, confidence", "Gram blocks"]
TINY = "small,rows=240,features=16,classes=3,fractions=2,seeds=2,loop_probes=2,points=3"


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    """A machine of which the rates need not be measured."""
    monkeypatch.setattr(machine, "rates", lambda backend: dict(RATES))


# --- sizes ----------------------------------------------------------------------------------

NAMED = {
    "small": EpochSizes(10, 8, 2, 2, 1),
    "medium": EpochSizes(1000, 64, 10, 5, 2),
}


def test_sizes_are_a_name_or_numbers_or_both():
    assert chosen(NAMED, "small") == NAMED["small"]
    assert chosen(NAMED, "") == NAMED["medium"]
    mine = chosen(NAMED, "small, rows=50000,epochs=7")
    assert (mine.rows, mine.epochs, mine.features) == (50_000, 7, 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("huge", "'huge' is no size here: sizes are small, medium, or numbers such as rows=1000"),
        ("rows=5,small", "'small' is no size here"),
        ("colour=3", "no size is called 'colour' here: there are rows, features, classes"),
        ("rows=0", "size rows is '0': a whole number of at least 1"),
        ("rows=-3", "size rows is '-3'"),
        ("rows=1e5", "size rows is '1e5'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        chosen(NAMED, text)


# --- growth, floors, times of loops ---------------------------------------------------------


@given(st.floats(-2, 3), st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_the_slope_of_a_power_is_that_power(power, factor):
    values = [3, 10, 40, 100]
    assert growth.slope(values, [factor * v**power for v in values]) == pytest.approx(power)


@given(st.integers(64, 500), st.integers(16, 300), st.integers(2, 50), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_every_axis_rises_within_the_problem(rows, features, classes, fractions):
    sizes = ProbeSizes(rows, features, classes, min(fractions, features), 2)
    for axis, problems_ in growth.points(sizes).items():
        values = [getattr(problem, axis) for problem in problems_]
        assert values == sorted(set(values))
        for problem in problems_:
            assert problem.rows <= rows
            assert problem.features <= features
            assert 2 <= problem.classes <= max(2, classes)
            assert 1 <= problem.fractions <= problem.features


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


def test_a_floor_is_the_longer_of_its_two():
    bound = floors.floor_row("copying", 1.0, (1e9, 5e9), RATES)
    assert (bound["of matmul"], bound["of copy"], bound["of floor"]) == ("1 %", "50 %", "50 %")
    double = floors.floor_row("solving", 1.0, (25e9, 0.0), RATES, "float64")
    assert (double["of matmul"], double["GB/s"], double["of floor"]) == ("50 %", "", "50 %")
    assert set(floors.floor_row("rest", 1.0, None, RATES)) == set(bound)


def test_the_gram_s_upper_panels_are_nine_sixteenths():
    work = Work(rows=10, features=2048, classes=1, tested=1, lengths=[1])
    operations, _ = work.moments()
    assert operations - 2 * 10 * 2048 == 9 / 16 * 2 * 10 * 2048**2


@given(st.floats(0.2, 3), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_times_between_the_probes_that_were_run_follow_a_power_of_k(power, run):
    sizes = [4, 8, 20, 50, 100] * 3
    calls = []

    def clock(fit):
        return 1e-3 * sizes[calls[-1] if (answer := fit()) is None else answer] ** power, answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "seconds", clock)
        found = loops.timed("loop", sizes, loops.picks(5, run), lambda place: place)
    assert found.seconds == pytest.approx(3e-3 * sum(k**power for k in sizes[:5]))
    assert (found.run, found.probes) == (run, 15)
    assert found.row(found.seconds / 2, "")["of ours"] == pytest.approx(2)


def test_loops_that_cannot_be_run_are_refused(monkeypatch):
    assert loops.wanted(["sklearn"], ("sklearn", "torch-loop")) == ("sklearn",)
    with pytest.raises(UsageError, match="not compared with 'cuml': it has sklearn"):
        loops.wanted(["cuml"], ("sklearn",))
    with pytest.raises(UsageError, match="it has none of these"):
        loops.wanted(["sklearn"], ())
    monkeypatch.setattr(loops.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "featstore\[bench\]"'):
        loops.wanted(["sklearn"], ("sklearn",))
    assert loops.wanted(None, ("sklearn",)) == ()


def test_cuml_is_run_as_scikit_learn_is(monkeypatch):
    fake = SimpleNamespace(LogisticRegression=LogisticRegression)
    monkeypatch.setitem(sys.modules, "cuml", SimpleNamespace(linear_model=fake))
    monkeypatch.setitem(sys.modules, "cuml.linear_model", fake)
    for classes in (2, 3):
        x, y = problems.clouds(90, 6, classes)
        assert softmax_loops.cuml(x, y, 0.1) == softmax_loops.scikit_learn(x, y, 0.1)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_softmax_loops_reach_one_objective(classes):
    x, y = problems.clouds(200, 6, classes)
    found = softmax_loops.scikit_learn(x, y, 0.1)
    goal = found * (1 + 1e-5)
    assert softmax_loops.torch_loop(x, y, 0.1, goal, "cpu") <= goal


# --- reports and pictures -------------------------------------------------------------------


@pytest.fixture
def made():
    """A report with everything in it."""
    rows = [{"what": "a", "seconds": 1.5, "ok": True}, {"what": "b", "seconds": "", "ok": False}]
    grown = Growth("rows", [10, 20, 40], [5, 5, 5], [1.0, 2.1, 3.9], [1 << 20, 2 << 20, 4 << 20], 1)
    facts = {
        "processor": "a", "cores": 2, "memory_gib": 1.0, "device": "cpu", **RATES,
    }  # fmt: skip
    note = "This is longer than a line of eighty columns may be, and so it has to be wrapped."
    return report.Report("ridge", {"rows": 40}, facts, {"stages": rows}, [grown], [note])


def test_a_report_is_read_back_as_it_was_saved(made, tmp_path):
    made.save(tmp_path / "r.json")
    assert report.load(tmp_path / "r.json") == made
    assert json.loads((tmp_path / "r.json").read_text())["tables"]["stages"][0]["seconds"] == 1.5


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
    lines = report.table(rows).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 2 + len(rows)


def test_pictures_are_the_same_for_the_same_report(made, tmp_path):
    (path,) = growth_figures(made, tmp_path / "new")
    before = path.read_bytes()
    assert growth_figures(made, tmp_path / "new") == [path]
    assert (path.name, path.read_bytes()) == ("ridge-rows.svg", before)
    for words in ("grows as 0.98", "at most 1", "train rows", "peak MiB", "5 probes"):
        assert words in before.decode()


def test_peak_memory_sees_what_was_held_and_let_go():
    with machine.PeakMemory() as peak:
        held = np.ones(6 << 20)
        time.sleep(0.2)
        del held
    assert 45 << 20 < peak.bytes < 100 << 20


# --- stages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["probe", "ridge", "logistic", "sgd"])
def test_a_stage_reports_its_tables_and_its_growth(stage, tmp_path):
    found = benchmarks.run(stage, TINY)
    assert found.sizes["rows"] == 240
    assert max(map(len, found.text().splitlines())) <= 80
    found.save(tmp_path / "r.json")
    whats = [row["what"] for row in found.tables["loops"]]
    assert any("torch-loop, 2 run" in what for what in whats)
    assert any("sklearn, 2 run" in what for what in whats) == (stage != "sgd")
    axes = [grown.axis for grown in found.growth]
    assert axes == ([] if stage == "probe" else list(growth.points(NAMED["medium"])))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_stage_runs_on_any_backend_and_without_loops(backend):
    found = benchmarks.run("ridge", TINY + ",repeats=1", against=(), backend=backend, device="cpu")
    assert found.machine["backend"] == backend
    assert len(found.tables["loops"]) == 1


def test_logistic_takes_the_rows_of_a_store(tiny_store):
    found = benchmarks.run(
        "logistic", "small,seeds=1,fractions=2", store=tiny_store.path, against=[]
    )
    assert (found.sizes["rows"], found.sizes["features of"]) == (240, tiny_store.path.name)
    (choice,) = found.tables["choice"]
    assert choice["times"] == pytest.approx(choice["chosen, s"] / choice["fixed, s"])
    with pytest.raises(UsageError, match="stage ridge makes up its rows"):
        benchmarks.run("ridge", TINY, store=tiny_store.path)


def test_wrong_answers_of_a_loop_are_an_error(monkeypatch):
    def wrong(x, targets, l2, device):
        return np.zeros((x.shape[1], targets.shape[1])), np.zeros(targets.shape[1])

    monkeypatch.setitem(ridge_loops.FITS, "sklearn", wrong)
    with pytest.raises(loops.Disagreement, match="predictions differ from those of sklearn"):
        benchmarks.run("ridge", TINY, against=["sklearn"])
    # an objective that nothing can reach
    monkeypatch.setitem(softmax_loops.ON_THEIR_OWN, "sklearn", lambda x, y, l2: 1e-3)
    with pytest.raises(loops.Disagreement, match=r"a probe ended .* above its goal"):
        benchmarks.run("logistic", TINY, against=["sklearn"])


def test_a_store_is_measured_against_numpy_s_files():
    found = benchmarks.run("store", "small,rows=300,features=32,many_rows=1000")
    for title in ("writes", "reads"):
        formats = {row["what"].split()[0] for row in found.tables[title]}
        assert {"zarr", "hdf5"} <= formats
    with pytest.raises(UsageError, match="stage is not compared with 'sklearn'"):
        benchmarks.run("store", against=["sklearn"])


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_where_no_kernels_serve_their_reference_is_timed_alone(backend):
    found = benchmarks.run("kernels", TILE, backend=backend, device="cpu")
    assert [row["what"] for row in found.tables["kernels"]] == STEPS
    assert "eager/fused" not in found.tables["kernels"][0]
    assert found.notes[-1] == bench_kernels.ALONE


@needs_compiler
def test_kernels_are_timed_beside_their_reference_and_compared(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "stand-in")
    with cupy_stand_in.installed():
        found = benchmarks.run("kernels", TILE, backend="cupy")
        assert [row["what"] for row in found.tables["kernels"]] == STEPS
        assert all(row["eager/fused"] > 0 for row in found.tables["kernels"])
        assert bench_kernels.ALONE not in found.notes
        wrong = lambda matrix, orders, penalties: 2 * matrix[None]  # noqa: E731
        monkeypatch.setattr(reference, "permuted_blocks", wrong)
        with pytest.raises(loops.Disagreement, match="Gram blocks differs from the reference"):
            benchmarks.run("kernels", TILE, backend="cupy")


@pytest.mark.parametrize("there", [True, False])
def test_compressed_stores_are_measured_against_zarr_s_pipelines(there, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_store, "find_spec", lambda name: there or name == "zarr")
    before = zarr.config.get("codec_pipeline.path")
    x = np.random.default_rng(0).standard_normal((300, 32)).astype(np.float16)
    found = {row["what"] for row in bench_store.compressed(tmp_path, x, 1)}
    assert zarr.config.get("codec_pipeline.path") == before
    assert {"featstore load", "zarr load", "zarr write"} <= found
    assert ({"zarrs load", "zarrs write"} <= found) == there


def test_a_stage_that_is_none_is_refused():
    with pytest.raises(UsageError, match="no stage is called 'speed': there are probe, ridge"):
        benchmarks.run("speed")

"""Benchmarks: their arithmetic on known numbers, every stage small, and answers that are wrong."""

import json
import re
import sys
from types import SimpleNamespace

import cupy_stand_in
import numpy as np
import pytest
import torch
import zarr
from host_kernels import needs_compiler
from hypothesis import given, settings, strategies as st
from sklearn.linear_model import LogisticRegression
from test_measurements import RATES, everything

import benchmarks
from benchmarks import (
    bench_binary,
    bench_kernels,
    bench_neighbours,
    bench_store,
    floors,
    loops,
    performance,
    ridge_loops,
    softmax_loops,
    stages,
)
from benchmarks.figures import growth_figures
from benchmarks.ridge_stages import Work
from featstore import bench, measurements, probe
from featstore.probe import KNN
from featstore.probe.errors import UsageError
from featstore.probe.kernels import reference
from featstore.probe.subsets import random_chain

TILE = "small,probes=2,classes=3,rows=40,features=8,systems=1"
STEPS = ["softmax, loss, residual", "rank, loss, confidence", "Gram blocks"]
TINY = "small,rows=240,features=16,classes=3,fractions=2,seeds=2,loop_probes=2,points=3"


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    """A machine of which the rates need not be measured."""
    monkeypatch.setattr(measurements, "rates", lambda backend: dict(RATES))


# --- floors, times of loops ---------------------------------------------------------


def test_a_floor_is_the_longer_of_its_two():
    bound = floors.floor_row("copying", 1.0, (1e9, 5e9), RATES)
    assert (bound["of matmul"], bound["of copy"], bound["of floor"]) == ("1 %", "50 %", "50 %")
    double = floors.floor_row("solving", 1.0, (25e9, 0.0), RATES, "float64")
    assert (double["of matmul"], double["GB/s"], double["of floor"]) == ("50 %", "", "50 %")
    assert set(floors.floor_row("rest", 1.0, None, RATES)) == set(bound)


def test_the_gram_s_tiles_are_seventeen_of_thirty_two():
    work = Work(rows=10, features=2048, classes=1, tested=1, lengths=[1])
    operations, _ = work.moments()
    assert operations - 10 * 2048 == 17 / 32 * 2 * 10 * 2048**2


@given(st.floats(0.2, 3), st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_times_between_the_probes_that_were_run_follow_a_power_of_k(power, run):
    sizes = [4, 8, 20, 50, 100] * 3
    calls = []

    def clock(fit):
        return 1e-3 * sizes[calls[-1] if (answer := fit()) is None else answer] ** power, answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurements, "seconds", clock)
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
    bench_extra = r'pip install "featstore-probe\[bench\]"'
    remedies = {
        "sklearn": bench_extra,
        "himalaya": bench_extra,
        "probekit": "pip install --no-deps",
    }
    for name, words in remedies.items():
        with pytest.raises(UsageError, match=f"{name} is not installed: it takes {words}"):
            loops.wanted([name], (name,))
        assert loops.wanted(None, (name,)) == ()


def test_a_comparison_that_is_not_installed_is_one_line_and_none_is_asked_by_nothing(
    monkeypatch, capsys
):
    monkeypatch.setattr(loops, "installed", lambda name: name != "probekit")
    for stage in ("ridge", "binary"):
        monkeypatch.setattr(sys, "argv", [stage, "--sizes", TINY, "--against", ""])
        stages.main(stage)
        assert not any(name in capsys.readouterr().out for name in loops.PACKAGES)
    with pytest.raises(UsageError, match="probekit is not installed"):
        benchmarks.run("binary", TINY, against=["probekit"])
    monkeypatch.setattr(sys, "argv", ["ridge", "--help"])
    with pytest.raises(SystemExit):
        stages.main("ridge")
    assert "sklearn,torch-loop,himalaya" in capsys.readouterr().out


def test_cuml_is_run_as_scikit_learn_is(monkeypatch):
    fake = SimpleNamespace(LogisticRegression=LogisticRegression)
    monkeypatch.setitem(sys.modules, "cuml", SimpleNamespace(linear_model=fake))
    monkeypatch.setitem(sys.modules, "cuml.linear_model", fake)
    for classes in (2, 3):
        x, y = bench.clouds(90, 6, classes)
        assert softmax_loops.cuml(x, y, 0.1) == softmax_loops.scikit_learn(x, y, 0.1)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_softmax_loops_reach_one_objective(classes):
    x, y = bench.clouds(200, 6, classes)
    found = softmax_loops.scikit_learn(x, y, 0.1)
    goal = found * (1 + 1e-5)
    assert softmax_loops.torch_loop(x, y, 0.1, goal, "cpu") <= goal


def test_himalaya_s_ridge_is_the_same_problem():
    backend = pytest.importorskip("himalaya.backend")
    x, y = bench.clouds(90, 6, 3)
    (x,) = loops.standardised((x, y))
    before = backend.get_backend()
    theirs, own = (
        fit(x, np.eye(3, dtype=np.float32)[y], 0.1, "cpu")
        for fit in (ridge_loops.himalaya, ridge_loops.scikit_learn)
    )
    assert backend.get_backend() is before
    for found, expected in zip(theirs, own, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.fixture
def two_classes(monkeypatch):
    """Standardised features of two classes, unlike in number, and scikit-learn's probe of them."""
    monkeypatch.setattr(bench_binary, "L2", 0.1)  # one that decides
    x, y = bench.clouds(90, 6, 3)
    y = (y == 2).astype(int)
    (x,) = loops.standardised((x, y))
    return x, y, softmax_loops.fitted("sklearn", x.astype(np.float64), y, bench_binary.L2, 1e-10)


def test_the_minimum_of_two_classes_is_scikit_learn_s(two_classes):
    x, y, expected = two_classes
    lowest = softmax_loops.objective(*expected, x, y, bench_binary.L2)
    start = np.zeros((6, 2)), np.zeros(2)
    assert bench_binary.minimum(x.astype(np.float64), y, *start) == pytest.approx(lowest, rel=1e-9)
    assert np.isnan(bench_binary.minimum(x.astype(np.float64), y, *start, steps=1))


def test_probekit_s_probes_are_the_same_problem(two_classes):
    pytest.importorskip("probekit")
    x, y, expected = two_classes
    chains = [random_chain(6, [0.5, 1.0], seed) for seed in (1, 2)]
    # of features in other units, so that its own standardising is seen through
    own = probe.fit((3 * x + 1, y), chains, solver=probe.Logistic(l2=bench_binary.L2))
    theirs = bench_binary.Probekit((3 * x + 1, y), chains, "cpu")
    weights = own.weights(1)
    found = theirs.standardised(weights)
    for one, other in zip(found, expected, strict=True):
        other = other[weights.features] if one.ndim == 2 else other
        np.testing.assert_allclose(one, other, atol=1e-5)


# --- reports and pictures -------------------------------------------------------------------


@pytest.fixture
def made():
    return everything()


def test_a_report_is_read_back_as_it_was_saved(made, tmp_path):
    made.save(tmp_path / "r.json")
    assert performance.load(tmp_path / "r.json") == made
    assert json.loads((tmp_path / "r.json").read_text())["tables"]["stages"][0]["seconds"] == 1.5


def test_pictures_are_the_same_for_the_same_report(made, tmp_path):
    (path,) = growth_figures(made, tmp_path / "new")
    before = path.read_bytes()
    assert growth_figures(made, tmp_path / "new") == [path]
    assert (path.name, path.read_bytes()) == ("ridge-rows.svg", before)
    for words in ("grows as 0.98", "at most 1", "train rows", "peak MiB", "5 probes"):
        assert words in before.decode()


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
    along = list(bench.points(bench.ProbeSizes(1000, 64, 10, 5, 2)))
    assert axes == ([] if stage == "probe" else along)


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


def test_binary_probes_are_compared_at_their_minimum(tiny_store, monkeypatch):
    found = benchmarks.run("binary", TINY, against=[])
    assert [row["what"].split(",")[0] for row in found.tables["loops"]] == ["all together", "alone"]
    found = benchmarks.run("binary", "small,rows=100", against=[], store=tiny_store.path)
    assert (found.sizes["rows"], found.sizes["features of"]) == (100, tiny_store.path.name)
    assert max(map(len, found.text().splitlines())) <= 80
    monkeypatch.setattr(bench_binary, "minimum", lambda *args: 1e-3)
    with pytest.raises(bench.Disagreement, match=r"binary: alone ends .* above the minimum"):
        benchmarks.run("binary", TINY, against=[])


def test_binary_probes_of_another_penalty_are_an_error(monkeypatch):
    pytest.importorskip("probekit")
    rows = benchmarks.run("binary", TINY, against=["probekit"]).tables["loops"]
    assert rows[2]["what"].startswith("probekit 0.")
    assert [row["probes"] for row in rows] == [3, 2, 2]
    held = bench_binary.Probekit.standardised
    monkeypatch.setattr(
        bench_binary.Probekit,
        "standardised",
        lambda self, ours: (2 * held(self, ours)[0], np.zeros(2)),
    )
    with pytest.raises(bench.Disagreement, match=r"binary: probekit ends .* above the minimum"):
        benchmarks.run("binary", TINY, against=["probekit"])


def test_features_left_out_are_compared_with_refits(monkeypatch):
    found = benchmarks.run("attribution", "small,features=12,refits=3")
    told = [(row["solver"], row["features"], row["refits"]) for row in found.tables["drop-one"]]
    assert told == [("ridge", 12, 3), ("lda", 12, 3), ("logistic", 8, 3)]
    assert max(map(len, found.text().splitlines())) <= 80
    held = probe.drop_one
    monkeypatch.setattr(probe, "drop_one", lambda *args, **how: -held(*args, **how))
    with pytest.raises(bench.Disagreement, match=r"ridge without a feature is \d+ rows and 2.0e"):
        benchmarks.run("attribution", "small,features=12,refits=12")


def test_wrong_answers_of_a_loop_are_an_error(monkeypatch):
    def wrong(x, targets, l2, device):
        return np.zeros((x.shape[1], targets.shape[1])), np.zeros(targets.shape[1])

    right = ridge_loops.FITS["sklearn"]
    monkeypatch.setitem(ridge_loops.FITS, "sklearn", wrong)
    with pytest.raises(bench.Disagreement, match="predictions differ from those of sklearn"):
        benchmarks.run("ridge", TINY, against=["sklearn"])
    # other coefficients of the same predictions
    twice = lambda *args: tuple(2 * part for part in right(*args))  # noqa: E731
    monkeypatch.setitem(ridge_loops.FITS, "sklearn", twice)
    with pytest.raises(bench.Disagreement, match=r"W differs by 1.0e\+00 of itself from sklearn's"):
        benchmarks.run("ridge", TINY, against=["sklearn"])
    # an objective that nothing can reach
    monkeypatch.setitem(softmax_loops.ON_THEIR_OWN, "sklearn", lambda x, y, l2: 1e-3)
    with pytest.raises(bench.Disagreement, match=r"a probe ended .* above its goal"):
        benchmarks.run("logistic", TINY, against=["sklearn"])


def test_neighbours_are_measured_against_a_product_and_vote_as_in_float64(monkeypatch):
    found = benchmarks.run("neighbours", TINY + ",test_rows=60", device="cpu")
    product, top, whole, every = found.tables["sweep"]
    one = product["seconds"] + top["seconds"]
    assert every["of product and top-k"] == pytest.approx(every["seconds"] / one)
    assert (whole["what"], every["what"]) == ("the whole layer", "2 fractions")
    # of two fractions and two seeds, 40 rows each
    (counted,) = re.findall(r"(\d+) votes were counted again in float64", found.notes[0])
    assert 0.9 * 160 < int(counted) <= 160
    monkeypatch.setattr(bench_neighbours.probe, "KNN", lambda k: KNN(k=k - 15))
    with pytest.raises(bench.Disagreement, match="votes of probe 0 are others in float64"):
        benchmarks.run("neighbours", TINY, device="cpu")


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
        with pytest.raises(bench.Disagreement, match="Gram blocks differs from the reference"):
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

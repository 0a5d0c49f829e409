"""Measurements of `featstore bench`: every stage small, and answers that are wrong."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import featstore
from featstore import bench, measurements
from featstore.bench import EpochSizes, ProbeSizes, chosen
from featstore.probe.errors import UsageError
from featstore.probe.solvers import weights

RATES = {"matmul_gflops": 100.0, "matmul64_gflops": 50.0, "copy_gbs": 10.0}
TINY = "small,rows=240,features=16,classes=3,fractions=2,seeds=2,points=2,test_rows=90"


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    """A machine of which the rates need not be measured."""
    monkeypatch.setattr(measurements, "rates", lambda backend: dict(RATES))


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


@given(st.integers(64, 500), st.integers(16, 300), st.integers(2, 50), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_every_axis_rises_within_the_problem(rows, features, classes, fractions):
    sizes = ProbeSizes(rows, features, classes, min(fractions, features), 2)
    for axis, problems_ in bench.points(sizes).items():
        values = [getattr(problem, axis) for problem in problems_]
        assert values == sorted(set(values))
        for problem in problems_:
            assert problem.rows <= rows
            assert problem.features <= features
            assert 2 <= problem.classes <= max(2, classes)
            assert 1 <= problem.fractions <= problem.features


# --- stages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_every_solver_is_measured_on_one_sweep(backend, tmp_path):
    found = bench.run("solvers", TINY, backend=backend, device="cpu")
    rows = found.tables["solvers"]
    assert [row["solver"] for row in rows] == ["ridge", "lda", "logistic", "sgd", "knn"]
    # of two seeds one fraction, since the other takes no feature, and the whole layer
    assert {row["probes"] for row in rows} == {4}
    assert all(row["probes/s"] == row["probes"] / row["seconds"] for row in rows)
    assert found.machine["backend"] == backend
    assert max(map(len, found.text().splitlines())) <= 80


def test_every_solver_s_growth_is_along_every_size():
    found = bench.run("growth", TINY)
    axes = list(bench.points(ProbeSizes(240, 16, 3, 2, 2, points=2)))
    assert [(each.of, each.axis) for each in found.growth] == [
        (solver, axis) for solver in bench.SOLVERS for axis in axes
    ]
    seeds = [each.probes for each in found.growth if each.axis == "seeds"]
    assert seeds == [seeds[0]] * 5
    assert seeds[0][1] > seeds[0][0]


def test_wrong_scores_are_an_error(monkeypatch):
    logits = weights.Weights.logits
    monkeypatch.setattr(weights.Weights, "logits", lambda *given: -logits(*given))
    with pytest.raises(bench.Disagreement, match=r"ridge: .* predictions of probe 0 are not"):
        bench.run("solvers", TINY)


def test_stores_of_every_format_are_written_and_read():
    found = bench.run("store", "small,rows=900,features=32")
    whats = [row["what"] for row in found.tables["store"]]
    assert whats == [f"{form} {what}" for form in featstore.FORMATS for what in ("write", "read")]
    for row, growth in zip(found.tables["store"], found.growth, strict=True):
        assert growth.values == [450, 900]
        assert row["GB/s"] == pytest.approx(900 * 32 * 2 / growth.seconds[-1] / 1e9)
    assert max(map(len, found.text().splitlines())) <= 80


def test_a_store_that_gives_other_rows_is_an_error(monkeypatch):
    load = featstore.Store.load
    monkeypatch.setattr(featstore.Store, "load", lambda *given: load(*given) + np.float16(1))
    with pytest.raises(bench.Disagreement, match="zarr: what was read is not what was written"):
        bench.run("store", "small,rows=100,features=8")


def test_an_extraction_is_measured_from_files_to_its_store(monkeypatch):
    found = bench.run("extract", "small,images=8,batch_size=4")
    (row,) = found.tables["images"]
    assert (row["images"], row["images/s"]) == (8, 8 / row["seconds"])
    (growth,) = found.growth
    assert (growth.values, growth.counted) == ([4, 8], "images")
    read = featstore.Store.read
    monkeypatch.setattr(featstore.Store, "read", lambda *given: read(*given) + np.float16(1))
    with pytest.raises(bench.Disagreement, match="stored features differ by 1 from the model's"):
        bench.run("extract", "small,images=8,batch_size=4")


def test_a_stage_that_is_none_is_refused():
    with pytest.raises(
        UsageError, match="stage is 'speed'; choose solvers, growth, store, extract"
    ):
        bench.run("speed")

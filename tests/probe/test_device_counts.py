"""Launches, copies and waits on the pretend device, held: what a step asks of a GPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from problems import clusters

from benchmarks import device_counts, pretend_device
from featstore import probe
from featstore.probe.arrays import Backend, factorise, to_host
from featstore.probe.errors import DataError
from featstore.probe.pieces import gathered
from featstore.probe.rows import ArrayBlocks
from featstore.probe.subsets import subset_chain

CUDA = Backend("torch", "cuda")


def test_subsets_of_sixty_sizes_are_one_factorisation():
    problem, random = clusters(600, 200, 80, 5), np.random.default_rng(0)
    subsets = [random.permutation(80)[: 3 + number % 60] for number in range(100)]
    chains = [subset_chain(subset.tolist(), n_features=80) for subset in subsets]

    def solved(device):
        result = probe.fit(problem.train, chains, solver="ridge", l2=1e-2, device=device)
        return result.score(problem.test).table, result.weights(7).coef

    known, coef = solved("cpu")
    with pretend_device.installed(fused=True) as log:
        found, ours = solved("cuda")
        assert log.named("linalg_cholesky_ex") == 2  # all of them, and one for its weights
        assert log.waits <= 20
    assert (found["status"] == known["status"]).all()
    assert (found["accuracy"] == known["accuracy"]).all()
    np.testing.assert_allclose(ours, coef, rtol=1e-5)


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_rows_of_the_unit_matrix_behind_a_system_decide_nothing(library):
    backend, random = Backend(library, "cpu"), np.random.default_rng(0)
    x = random.normal(size=(40, 9)) * np.logspace(0, 3, 9)
    matrix = x.T @ x / 40
    lengths, squares = np.array([9, 4, 6, 5]), np.abs(random.normal(size=(4, 9))) + 1
    padded = np.tile(np.eye(9), (4, 1, 1))
    for place, size in zip(padded, lengths, strict=True):
        place[:size, :size] = matrix[:size, :size]
    padded[2, 5, :6] = padded[2, :6, 5] = padded[2, 4, :6]  # no factor without jitter
    padded[2, 5, 5] = padded[2, 4, 4]
    seen = np.arange(9) < lengths[:, None]
    found = factorise(backend.put(padded), backend.put(squares * seen), "float32", lengths)
    for number, size in enumerate(lengths):
        alone = factorise(
            backend.put(padded[number : number + 1, :size, :size].copy()),
            backend.put(squares[number : number + 1, :size].copy()),
            "float32",
        )
        for name in ("jitter", "least", "rounding", "squares"):
            ours, theirs = getattr(found, name)[number], getattr(alone, name)[0]
            assert ours == pytest.approx(theirs, rel=1e-9), name
        lower = to_host(found.lower)[number]
        np.testing.assert_allclose(lower[:size, :size], to_host(alone.lower)[0], rtol=1e-9)
        assert (lower[size:] == np.eye(9)[size:]).all()
    assert found.jitter[2] > 0


def waits_and_launches(n_rows):
    problem = clusters(n_rows, 300, 20, 4)
    with pretend_device.installed(fused=True) as log:
        arguments = {"fractions": [0.2, 0.5], "seeds": 2, "solver": "ridge", "l2": 1e-2}
        probe.sweep(problem.train, problem.test, **arguments, device="cuda")
    return log.waits, log.launches


def test_the_host_does_not_wait_for_any_piece_of_rows():
    few, many = waits_and_launches(4096), waits_and_launches(5 * 4096)
    assert few[0] == many[0] <= 30
    # two copies that are centred, a sum, targets, and panels of products
    assert (many[1] - few[1]) / 4 <= 12


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    rows=st.integers(1, 20),
    half=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_rows_arrive_in_order_however_they_are_cut(sizes, rows, half):
    n = sum(sizes)
    features = np.random.default_rng(0).normal(size=(n, 3)).astype("float16" if half else "float32")
    labels = np.arange(n) % 2

    class Cut(ArrayBlocks):
        def __iter__(self):
            stops = np.cumsum(sizes)
            for start, stop in zip(stops - sizes, stops, strict=True):
                yield features[start:stop], labels[start:stop]

    blocks, shift = Cut(features, labels, 2), np.array([0.5, 0.0, -1.0])
    with pretend_device.installed() as log:
        pieces = [
            (to_host(x).copy(), to_host(y))
            for x, y in gathered(blocks, rows, CUDA, "float32", shift, "train")
        ]
    assert [len(x) for x, _ in pieces[:-1]] == [min(rows, n)] * (len(pieces) - 1)
    found = np.concatenate([x for x, _ in pieces])
    np.testing.assert_array_equal(found, features.astype(np.float32) - shift.astype(np.float32))
    assert (np.concatenate([y for _, y in pieces]) == labels).all()
    # none but the questions of this test, and one about what is not finite
    assert log.waits == 2 * len(pieces) + 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_after_the_last_piece(value):
    problem = clusters(500, 50, 8, 3)
    x = problem.x.copy()
    x[433, 5] = value
    with (
        pretend_device.installed(),
        pytest.raises(DataError, match=rf"row 433 of train has {value} as feature 5"),
    ):
        probe.fit((x, problem.y), [probe.random_chain(8, [1.0], 1)], solver="ridge", device="cuda")


def test_small_arrays_go_over_without_the_host_waiting():
    with pretend_device.installed() as log:
        there = CUDA.put(np.arange(6.0).reshape(2, 3), "float32")
        assert (log.waits, log.copies) == (0, 1)
        assert there.dtype == torch.float32
        assert there.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert CUDA.put(np.zeros((0, 3))).shape == (0, 3)


def test_the_counts_of_a_step_are_held():
    """The table of docs/performance.md, of a smaller problem with the same steps."""
    rows = device_counts.table(device_counts.SIZES["small"])
    ridge, subsets, softmax, thrice, recorded, sgd = rows
    assert ridge["waits"] <= 30
    assert ridge["launches"] <= 400
    assert subsets["Cholesky calls"] == 1
    assert subsets["waits"] <= 20
    assert softmax["waits"] <= 10
    assert thrice["waits"] <= 10
    # rows' numbers and a graph, of the fractions and of the whole layer
    assert (recorded["launches"], recorded["waits"]) == (4, 0)
    assert sgd["launches"] <= 45
    assert sgd["waits"] == 0


@pytest.mark.parametrize("l2", [[1e-3], [1e-4, 1e-2]])
def test_sgd_steps_all_segments_together_as_it_steps_one_by_one(l2):
    """Prefixes of a segment end within it, so that some of its columns have rows that stay 0."""
    problem = clusters(300, 60, 90, 4)
    how = probe.SGD(l2=l2, epochs=3, batch_size=64, momentum=0.8, validate_every=1)
    chains = [probe.random_chain(90, [0.05, 0.1, 0.5, 0.55, 1.0], seed) for seed in (1, 2)]
    known = probe.fit(problem.train, chains, solver=how, device="cpu")
    with pretend_device.installed() as log:
        found = probe.fit(problem.train, chains, solver=how, device="cuda")
        assert log.named("_foreach_add_") > 0
        ours = [found.weights(row).coef for row in range(len(found))]
    for row, coef in enumerate(ours):
        np.testing.assert_allclose(coef, known.weights(row).coef, rtol=1e-4, atol=1e-6)

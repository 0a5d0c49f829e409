"""The CUDA kernels, compiled for the host, against the reference; and when they are chosen."""

import sys

import cupy_stand_in
import numpy as np
import pytest
import torch
from host_kernels import needs_compiler
from hypothesis import given, settings, strategies as st

from featstore.probe.arrays import to_host
from featstore.probe.kernels import reference

pytestmark = needs_compiler
BOUNDS = {"float32": 3e-5, "float64": 1e-12}


@pytest.fixture(scope="module")
def cuda():
    """The kernels' module, its CuPy the stand-in."""
    with cupy_stand_in.installed():
        from featstore.probe.kernels import cuda

        yield cuda


def as_cupy(array):
    return sys.modules["cupy"].asarray(array)


def drawn(shape, dtype, seed, scale=1.0):
    random = np.random.default_rng(seed)
    logits = (np.round(4 * random.normal(size=shape)) / 2 * scale).astype(dtype)
    return logits, random.integers(0, shape[-2], size=shape[-1])


def innermost(logits, axis):
    """Return the same logits (..., C, r) with another axis innermost in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(logits, axis, -1)), -1, axis)


def close(found, known, dtype):
    np.testing.assert_allclose(
        to_host(found), to_host(known), rtol=BOUNDS[dtype], atol=BOUNDS[dtype]
    )


@settings(max_examples=15, deadline=None)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70)),
        st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 20), st.integers(1, 40)),
    ),
    dtype=st.sampled_from(reference.DTYPES),
    axis=st.sampled_from([-1, -2, 0]),
    scale=st.sampled_from([1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_residuals_are_those_of_the_reference(cuda, shape, dtype, axis, scale, seed):
    logits, labels = drawn(shape, dtype, seed, scale)
    logits = innermost(logits, axis)
    ours, theirs = as_cupy(logits), torch.from_numpy(logits.copy())
    losses = cuda.residuals(ours, as_cupy(labels), 0.5)
    known = reference.residuals(theirs, torch.from_numpy(labels), 0.5)
    close(losses, known, dtype)
    close(ours, theirs, dtype)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70)),
    dtype=st.sampled_from(reference.DTYPES),
    axis=st.sampled_from([-1, -2, 0]),
    scale=st.sampled_from([1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_judgements_are_those_of_the_reference(cuda, shape, dtype, axis, scale, seed):
    logits, labels = drawn(shape, dtype, seed, scale)
    by_row = innermost(logits, axis).swapaxes(1, 2)
    found = cuda.judged(as_cupy(by_row), as_cupy(labels))
    known = reference.judged(torch.from_numpy(by_row.copy()), torch.from_numpy(labels))
    for first in (1, 2, 5):
        assert (to_host(found.among_first(first)) == to_host(known.among_first(first))).all()
    close(found.surprise, known.surprise, dtype)
    close(found.confidence, known.confidence, dtype)
    assert found.n_rows == known.n_rows == shape[2]


@pytest.mark.parametrize("dtype", reference.DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 257, 1100])
@pytest.mark.parametrize("axis", [-1, -2])
def test_one_class_and_more_classes_than_threads(cuda, dtype, classes, axis):
    logits, labels = drawn((2, classes, 3), dtype, 0)
    logits = innermost(logits, axis)
    ours, theirs = as_cupy(logits), torch.from_numpy(logits.copy())
    found = cuda.judged(ours.swapaxes(1, 2), as_cupy(labels))
    known = reference.judged(theirs.swapaxes(1, 2), torch.from_numpy(labels))
    assert (to_host(found.among_first(5)) == to_host(known.among_first(5))).all()
    losses = cuda.residuals(ours, as_cupy(labels))
    close(losses, reference.residuals(theirs, torch.from_numpy(labels)), dtype)
    close(ours, theirs, dtype)


def test_what_lies_between_the_logits_is_left_alone(cuda):
    logits, labels = drawn((4, 24, 60), "float32", 0)
    ours, theirs = as_cupy(logits), torch.from_numpy(logits.copy())
    part = slice(1, None, 2), slice(0, 18, 3), slice(5, 60, 4)
    labels = labels[part[2]] % 6
    losses = cuda.residuals(ours[part], as_cupy(labels))
    close(losses, reference.residuals(theirs[part], torch.from_numpy(labels)), "float32")
    close(ours, theirs, "float32")
    found = cuda.judged(ours[part].swapaxes(1, 2), as_cupy(labels))
    known = reference.judged(theirs[part].swapaxes(1, 2), torch.from_numpy(labels))
    close(found.surprise, known.surprise, "float32")


@pytest.mark.parametrize("dtype", reference.DTYPES)
def test_absent_classes_have_no_share_and_hide_no_other(cuda, dtype):
    logits, labels = drawn((2, 9, 50), dtype, 0)
    logits[:, [0, 4, 8]] = -np.inf
    labels = np.array([1, 2, 3, 5, 6, 7])[labels % 6]
    ours, theirs = as_cupy(logits), torch.from_numpy(logits.copy())
    losses = cuda.residuals(ours, as_cupy(labels))
    close(losses, reference.residuals(theirs, torch.from_numpy(labels)), dtype)
    close(ours, theirs, dtype)
    assert (to_host(ours)[:, [0, 4, 8]] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_lost_alone(cuda, value):
    logits, labels = drawn((1, 6, 20), "float32", 0)
    logits[0, :, 7] = value
    if value == np.inf:
        logits[0, 1:, 7] = 0
    ours, theirs = as_cupy(logits), torch.from_numpy(logits.copy())
    found = cuda.judged(ours.swapaxes(1, 2), as_cupy(labels))
    known = reference.judged(theirs.swapaxes(1, 2), torch.from_numpy(labels))
    assert (to_host(found.among_first(1)) == to_host(known.among_first(1))).all()
    close(found.surprise, known.surprise, "float32")
    close(found.confidence, known.confidence, "float32")
    losses = cuda.residuals(ours, as_cupy(labels))
    reference.residuals(theirs, torch.from_numpy(labels))
    close(ours, theirs, "float32")
    assert np.isnan(to_host(losses)).all()


def test_a_row_fitted_almost_perfectly_keeps_its_digits(cuda):
    logits = np.array([[[40.0], [0.0]]])
    ours = as_cupy(logits)
    losses = to_host(cuda.residuals(ours, as_cupy(np.array([0]))))
    rest = np.exp(-40.0)
    assert losses == pytest.approx([np.log1p(rest)], rel=1e-14)
    assert to_host(ours)[0, :, 0] == pytest.approx(
        [-rest / (1 + rest), rest / (1 + rest)], rel=1e-14
    )


@given(
    width=st.integers(1, 40), systems=st.integers(1, 4), seed=st.integers(0, 100), data=st.data()
)
@settings(max_examples=10, deadline=None)
def test_blocks_are_those_of_the_reference(cuda, width, systems, seed, data):
    random = np.random.default_rng(seed)
    length = data.draw(st.integers(1, width))
    matrix = random.normal(size=(width, width))
    orders = np.stack([random.permutation(width)[:length] for _ in range(systems)])
    penalties = random.random(systems)
    found = cuda.permuted_blocks(*map(as_cupy, (matrix, orders, penalties)))
    known = reference.permuted_blocks(matrix, orders, penalties)
    assert (to_host(found) == known).all()
    expected = matrix[np.ix_(orders[-1], orders[-1])] + penalties[-1] * np.eye(length)
    assert (known[-1] == expected).all()


def test_the_same_inputs_give_the_same_bits(cuda):
    logits, labels = drawn((3, 11, 90), "float32", 0)
    runs = [cuda.residuals(as_cupy(logits), as_cupy(labels)) for _ in range(2)]
    assert (to_host(runs[0]) == to_host(runs[1])).all()

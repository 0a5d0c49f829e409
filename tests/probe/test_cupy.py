"""Every solver on CuPy, from end to end: it agrees with torch and NumPy, and copies nothing.

The package `cupy` is a stand-in that refuses what CuPy refuses. With a device, the tests that take
the backend "cupy" run the real one.
"""

import sys

import cupy_stand_in
import numpy as np
import pytest
import torch
from host_kernels import needs_compiler
from problems import clusters

from featstore import probe
from featstore.probe import kernels
from featstore.probe.arrays import solve_lower
from featstore.probe.metrics import OF_CLASSES
from featstore.probe.modes import MODES

pytestmark = needs_compiler
NAMES = OF_CLASSES
SWEEPS = {
    "ridge": {"solver": "ridge", "fractions": [0.25, 0.5]},
    "ridge, many prefixes": {"solver": "ridge", "fractions": list(np.arange(1, 24) / 24)},
    "ridge, leave-one-out": {"solver": "ridge", "fractions": [0.5], "l2": "auto", "select": "loo"},
    "lda": {"solver": "lda", "fractions": [0.25, 0.5]},
    "logistic": {"solver": "logistic", "fractions": [0.25, 0.9], "l2": [1e-2, 1e-1]},
    "logistic, validated": {
        "solver": "logistic",
        "fractions": [0.5],
        "l2": [0.01, 0.1],
        "select": "validation",
    },
    "sgd": {"solver": probe.SGD(epochs=2, batch_size=32), "fractions": [0.5]},
    "ridge, directions": {
        "solver": "ridge",
        "fractions": [0.1, 0.9],
        "cka": True,
        "mode": [*MODES],
    },
    "logistic, directions": {
        "solver": "logistic",
        "fractions": [0.5],
        "l2": 0.1,
        "mode": ["pca", "random-projection-orthogonal"],
    },
}


@pytest.fixture(scope="module")
def cupy():
    with cupy_stand_in.installed() as module:
        yield module


def swept(backend, **arguments):
    problem = clusters(120, 40, 24, 7)
    device = "cuda" if backend == "cupy" else "cpu"
    result = probe.sweep(
        problem.train,
        problem.test,
        seeds=[1, 2],
        metrics=NAMES,
        backend=backend,
        device=device,
        **arguments,
    )
    return result, [result.weights(row).coef for row in range(len(result))]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_gives_what_torch_and_numpy_give(cupy, name):
    found, coefs = swept("cupy", **SWEEPS[name])
    assert kernels.on_cuda("cupy").__name__ == "featstore.probe.kernels.cuda"
    for backend in ("torch", "numpy"):
        known, their_coefs = swept(backend, **SWEEPS[name])
        assert (found.table["status"] == known.table["status"]).all()
        for column in NAMES:
            ours, theirs = (r.table[column].to_numpy() for r in (found, known))
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-9, err_msg=column)
        for ours, theirs in zip(coefs, their_coefs, strict=True):
            assert np.abs(ours - theirs).max() <= 2e-3 * np.abs(theirs).max()


@pytest.mark.parametrize("transpose", [False, True])
def test_systems_are_solved_together_where_torch_sees_the_device(cupy, monkeypatch, transpose):
    random = np.random.default_rng(0)
    lower = np.tril(random.normal(size=(4, 9, 9))) + 5 * np.eye(9)
    right = random.normal(size=(4, 9, 3))
    known = np.linalg.solve(lower.swapaxes(1, 2) if transpose else lower, right)

    def solved():
        ours = solve_lower(cupy.asarray(lower), cupy.asarray(right), transpose=transpose)
        assert isinstance(ours, cupy.ndarray)
        np.testing.assert_allclose(ours.get(), known, rtol=1e-12)

    solved()  # one by one
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delattr(sys.modules["cupyx.scipy.linalg"], "solve_triangular")
    solved()


def test_the_stand_in_refuses_what_cupy_refuses(cupy):
    ours, host = cupy.asarray(np.ones(3)), np.arange(3)
    for forbidden in (
        lambda: np.asarray(ours),
        lambda: ours + host,
        lambda: host * ours,
        lambda: ours[host],
        lambda: ours.__setitem__(slice(None), host),
        lambda: np.exp(ours),
        lambda: cupy.add(ours, host),
    ):
        with pytest.raises(TypeError):
            forbidden()
    assert isinstance(ours[0], cupy.ndarray)
    assert isinstance(cupy.sum(ours), cupy.ndarray)
    assert (ours.get() == 1).all()

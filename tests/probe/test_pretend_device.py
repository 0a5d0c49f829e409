"""Every solver, mode and metric on a device that keeps CUDA's rules, against the CPU."""

import numpy as np
import pandas as pd
import pytest
import torch
from problems import clusters

from benchmarks import pretend_device
from benchmarks.pretend_device import DeviceTensor
from featstore import probe
from featstore.probe import drop_one, retrieval, shapley
from featstore.probe.geometry import (
    calibrated_cka,
    intrinsic_dimension,
    mutual_neighbours,
    subset_spectra,
    universality,
)
from featstore.probe.metrics import METRICS, OF_CLASSES, OF_TARGETS
from featstore.probe.modes import MODES

PROBLEM = clusters(160, 60, 24, 7)
BASE = {"fractions": [0.25, 0.6], "seeds": [1, 2], "metrics": OF_CLASSES}
SOLVERS = {
    "ridge": {"solver": "ridge", "l2": [1e-2, 1.0]},
    "ridge by leave-one-out": {"solver": "ridge", "l2": [1e-2, 1.0], "select": "loo"},
    "ridge of every k": {"solver": "ridge", "l2": 1e-2, "every_k": True, "fractions": None},
    "lda": {"solver": "lda", "l2": 1e-2},
    "lda by leave-one-out": {"solver": "lda", "l2": [1e-2, 1.0], "select": "loo"},
    "logistic": {"solver": "logistic", "l2": [1e-1, 1]},
    "logistic by validation": {"solver": "logistic", "l2": [0.1, 1], "select": "validation"},
    "logistic, first in TF32": {"solver": probe.Logistic(l2=1e-2, fast=True)},
    "sgd": {"solver": probe.SGD(epochs=2, batch_size=32, validate_every=1)},
    "knn": {"solver": probe.KNN(k=[1, 5])},
    "single features": {
        "solver": "ridge",
        "l2": 1e-2,
        "mode": ["first", "last", "variance", "fisher", "greedy", "independent"],
    },
}


def swept(train, test, **arguments):
    """A sweep's table, and the coefficients of its first probe and its last."""
    result = probe.sweep(train, test, **arguments)
    if result.table["solver"].iloc[0] == "knn":
        return result.table, []
    return result.table, [result.weights(row).coef for row in (0, len(result) - 1)]


def assert_alike_on_device_and_cpu(train, test, fused=False, **arguments):
    known, weights = swept(train, test, device="cpu", **arguments)
    with pretend_device.installed(fused=fused) as log:
        found, of_device = swept(train, test, device="cuda", **arguments)
    assert log.launches > 0
    assert list(found["status"]) == list(known["status"])
    for name in (*METRICS, "cka", "objective"):
        if name in known:
            ours, theirs = (table[name].to_numpy(float) for table in (found, known))
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6, err_msg=name)
    for ours, theirs in zip(of_device, weights, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max() + 1e-6


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver(name):
    assert_alike_on_device_and_cpu(PROBLEM.train, PROBLEM.test, **{**BASE, **SOLVERS[name]})


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic", "sgd"])
def test_every_mode_of_directions(solver):
    along = [name for name in MODES if name.startswith(("pca", "random-projection"))]
    how = {"sgd": probe.SGD(epochs=1), "logistic": probe.Logistic(l2=0.1)}.get(solver, solver)
    given = {**BASE, "fractions": [0.4], "seeds": [1], "solver": how, "mode": along}
    given |= {"metrics": ["accuracy"], "cka": solver == "ridge"}
    assert_alike_on_device_and_cpu(PROBLEM.train, PROBLEM.test, **given)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("solver", ["ridge", "logistic"])
def test_every_precision_of_rows(solver, dtype):
    train, test = ((x.astype(dtype), y) for x, y in (PROBLEM.train, PROBLEM.test))
    assert_alike_on_device_and_cpu(train, test, **BASE, solver=solver, l2=1e-2)


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
def test_more_features_than_rows(solver):
    wide = clusters(40, 30, 150, 4)
    assert_alike_on_device_and_cpu(wide.train, wide.test, **BASE, solver=solver, l2=0.1)


@pytest.mark.parametrize("select", [None, "loo"])
def test_targets(select):
    random = np.random.default_rng(0)
    y, y_test = (random.normal(size=(len(x), 3)) for x, _ in (PROBLEM.train, PROBLEM.test))
    given = {**BASE, "solver": "ridge", "l2": [1e-2, 1.0], "select": select, "metrics": OF_TARGETS}
    assert_alike_on_device_and_cpu((PROBLEM.x, y), (PROBLEM.x_test, y_test), **given)


def test_a_class_without_train_rows():
    train, test = ((x[y != 3], y[y != 3]) for x, y in (PROBLEM.train, PROBLEM.test))
    assert_alike_on_device_and_cpu(train, test, **BASE, solver="logistic", l2=1e-2)


def told_of_features(train, test, name, device):
    """Return what a function that is no sweep tells, as numbers."""
    layers, how = {"a": test, "b": (test[0][:, :20], test[1])}, {"device": device}
    found = {
        "drop-one, ridge": lambda: drop_one(train, test, resamples=20, **how),
        "drop-one, lda": lambda: drop_one(train, test, "lda", resamples=20, **how),
        "drop-one, logistic": lambda: drop_one(train, test, "logistic", resamples=20, **how),
        "shapley": lambda: shapley(train, test, permutations=2, **how).table,
        "retrieval": lambda: retrieval(test, train, [0.3], mode=["first", "pca"], **how).table,
        "neighbours": lambda: mutual_neighbours(layers, [0.5], k=5, **how),
        "dimensions": lambda: intrinsic_dimension(test, [0.5], neighbours=5, **how),
        "spectra": lambda: subset_spectra(test, [0.5], **how),
        "universality": lambda: universality((train, (train[0][:, :20], train[1])), **how),
        "chance": lambda: pd.DataFrame(
            [vars(calibrated_cka(*layers.values(), permutations=3, **how))]
        ),
    }[name]()
    return found.select_dtypes("number").to_numpy(float)


@pytest.mark.parametrize(
    "name",
    [
        *("drop-one, ridge", "drop-one, lda", "drop-one, logistic", "shapley", "retrieval"),
        *("neighbours", "dimensions", "spectra", "universality", "chance"),
    ],
)
def test_what_is_told_of_features(name):
    known = told_of_features(PROBLEM.train, PROBLEM.test, name, "cpu")
    with pretend_device.installed() as log:
        found = told_of_features(PROBLEM.train, PROBLEM.test, name, "cuda")
    assert log.launches > 0
    np.testing.assert_allclose(found, known, rtol=2e-4, atol=1e-5)


def test_kernels_of_one_launch_give_the_same():
    arguments = {**BASE, "solver": "logistic", "l2": 1e-2}
    assert_alike_on_device_and_cpu(PROBLEM.train, PROBLEM.test, fused=True, **arguments)


@pytest.fixture
def log():
    with pretend_device.installed() as log:
        yield log


def test_host_and_device_never_meet_but_in_numbers_indices_and_copies(log):
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert there.is_cuda
    assert there.device == torch.device("cuda", 0)
    for forbidden in (
        lambda: there + here,
        lambda: here * there,
        lambda: here.add_(there),
        lambda: torch.cat([here, there]),
        lambda: here[torch.arange(2).to("cuda")],
    ):
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            forbidden()
    for forbidden in (lambda: np.asarray(there), there.numpy):
        with pytest.raises(TypeError, match="no NumPy array"):
            forbidden()
    assert (there * torch.tensor(2.0)).tolist() == [2, 2, 2]
    before = log.copies
    there[torch.tensor([0, 2])] = 5
    there[1:2].copy_(here[:1])
    assert there.tolist() == [5, 1, 5]
    assert log.copies == before + 3  # the index, the copy, and the answer


def test_what_costs_nothing_is_not_counted_and_what_waits_is(log):
    x = torch.zeros((4, 6), device="cuda")
    assert (log.launches, log.waits) == (1, 0)
    x.T[2:].unsqueeze(0).reshape(1, 4, 4).fill_(1)
    torch.empty(5, device="cuda")
    assert (log.launches, log.waits) == (2, 0)
    assert float(x.sum()) == 16
    assert (log.launches, log.waits, log.copies) == (3, 1, 1)
    x[x > 0] = 2
    assert log.named("nonzero") == 1
    assert log.waits == 2
    assert bool((x.cpu() == torch.tensor([0, 0, 2, 2, 2, 2])).all())


def test_only_page_locked_memory_comes_without_the_host_waiting(log):
    pageable = torch.arange(3.0)
    pinned = pageable.pin_memory()
    pageable.to("cuda", non_blocking=True)
    assert log.waits == 1
    arrived = pinned.to("cuda", non_blocking=True)
    buffer = torch.empty(3, pin_memory=True)
    buffer.copy_(pageable)
    arrived[...].copy_(buffer, non_blocking=True)
    assert (log.waits, log.copies) == (1, 3)
    assert isinstance(arrived, DeviceTensor)
    pinned.to("cuda")
    assert log.waits == 2


def test_operations_in_place_and_views_share_memory(log):
    x = torch.arange(6.0, device="cuda").reshape(2, 3)
    view = x[:, 1]
    assert view.add_(10) is view
    out = torch.empty(2, device="cuda")
    assert torch.index_select(x[0], 0, torch.tensor([1, 2]).to("cuda"), out=out) is out
    assert x.tolist() == [[0, 11, 2], [3, 14, 5]]
    assert out.tolist() == [11, 2]


def test_a_line_of_the_package_is_named(log):
    from featstore.probe.arrays import Backend

    Backend("torch", "cuda").put(np.ones(3))
    assert log.events[-1].site == "elsewhere"  # the vocabulary computes on behalf of others
    probe.fit(PROBLEM.train, [probe.random_chain(24, [1.0], 1)], solver="ridge", device="cuda")
    assert any(site.startswith("probe/moments.py:") for _, site, _ in log.sites())
    assert any(site.startswith("probe/pieces.py:") for _, site, _ in log.sites(blocking=True))

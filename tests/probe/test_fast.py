"""Fast softmax probes: rounded products first, full ones last, and the same certificate."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from problems import clusters

from featstore import probe
from featstore.probe.arrays import Backend, add_product, full_precision
from featstore.probe.solvers.logistic import products
from featstore.probe.subsets import random_chain

BITS = {"tf32": 10, "bfloat16": 7}  # of the mantissa, behind its leading one


@pytest.fixture(params=BITS)
def rounding(request, monkeypatch):
    """Let reduced precision round the factors of products on the CPU; return what passes used."""
    unit = 2.0 ** (23 - BITS[request.param])
    used, reduced = [], []

    def rounded(array):
        exact = array.view(torch.int32).to(torch.float64) / unit
        return (torch.round(exact) * unit).to(torch.int32).view(torch.float32)

    def product(total, a, b):
        if reduced:
            a, b = rounded(a.contiguous()), rounded(b.contiguous())
        add_product(total, a, b)

    @contextmanager
    def in_reduced():
        used.append("reduced")
        reduced.append(True)
        yield
        reduced.clear()

    @contextmanager
    def in_full():
        used.append("full")
        with full_precision():
            yield

    monkeypatch.setattr(products, "add_product", product)
    fast = (
        products.Stage(in_reduced, products.FAST_TOL, products.FAST_NOISE),
        products.Stage(in_full),
    )
    monkeypatch.setattr(
        "featstore.probe.solvers.logistic.stages", lambda fast_, *_: fast[not fast_ :]
    )
    return used


def solved(fast, l2=1e-2, **arguments):
    problem = clusters(900, 300, 60, 6)
    chains = [random_chain(60, [0.25, 0.5, 1.0], seed) for seed in (1, 2)]
    solver = probe.Logistic(l2=l2, fast=fast)
    return probe.fit(problem.train, chains, device="cpu", solver=solver, **arguments)


def test_fast_probes_reach_the_same_optimum_with_the_same_certificate(rounding):
    known = solved(False).table
    assert set(rounding) == {"full"}
    rounding.clear()
    found = solved(True)
    changes = np.flatnonzero(np.array(rounding[1:]) != np.array(rounding[:-1]))
    assert rounding[0] == "reduced"
    assert rounding[-1] == "full"
    assert len(changes) == 1  # every pass after the first stage is in full precision
    assert found.fitted.passes == len(rounding)
    assert (found.table["status"] == "converged").all()
    assert (found.table["gradient_norm"] <= 1e-4).all()
    ours, theirs = found.table["objective"].to_numpy(), known["objective"].to_numpy()
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert (found.table["iterations"] > 1).all()


def test_the_reported_objective_is_of_full_precision(rounding):
    result = solved(True)
    problem = clusters(900, 300, 60, 6)
    for row in range(len(result)):
        weights = result.weights(row)
        logits = torch.from_numpy(weights.logits(problem.x))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(problem.y))
        coef, _ = weights.standardized
        expected = float(loss) + 1e-2 / 2 * (coef**2).sum()
        assert result.table["objective"][row] == pytest.approx(expected, rel=1e-6)


def test_penalties_are_walked_in_both_precisions(rounding):
    found = solved(True, l2=[1e-2, 1e-1]).table
    assert (found["status"] == "converged").all()
    known = solved(False, l2=[1e-2, 1e-1]).table
    assert found["objective"].to_numpy() == pytest.approx(known["objective"].to_numpy(), rel=1e-6)


def test_progress_never_goes_back(rounding):
    seen = []
    solved(True, progress=lambda stage, done, total, **facts: seen.append((stage, done, facts)))
    done = [(count, facts["converged"]) for stage, count, facts in seen if stage == "probes"]
    assert done == sorted(done)
    assert done[-1] == (6, 6)


def test_only_float32_of_torch_on_a_device_is_rounded():
    cuda, full = Backend("torch", "cuda"), (products.FULL,)
    assert products.stages(True, cuda, "float32") == (products.FAST, products.FULL)
    assert products.stages(False, cuda, "float32") == full
    assert products.stages(True, cuda, "float64") == full
    assert products.stages(True, Backend("cupy", "cuda"), "float32") == full
    assert products.stages(True, Backend("torch", "cpu"), "float32") == full


def test_on_the_cpu_fast_changes_no_bit():
    plain, fast = solved(False), solved(True)
    columns = plain.table.columns.drop("options")
    assert plain.table[columns].equals(fast.table[columns])
    assert "fast=True" in fast.table["options"][0]

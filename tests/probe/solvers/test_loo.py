import numpy as np
import pytest
from problems import BACKENDS, Captured, Problem, changed, clusters, some_constant

from featstore.probe.arrays import backend as backend_of
from featstore.probe.memory import Settings
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers import closed_form
from featstore.probe.solvers.closed_form import fit_left_out
from featstore.probe.subsets import Chain, random_order

L2 = (0.0, 1e-3, 1.0)


def chains(d: int) -> list[Chain]:
    """Two orders, prefixes on both sides of a strip of the substitution, one size twice."""
    sizes = (1, 3, d // 2, d // 2, d)
    return [Chain(random_order(d, seed), sizes, sizes, "random", seed) for seed in (1, 2)]


def brute(problem: Problem, features, l2: float, standardize: bool) -> np.ndarray:
    """Refit without each row: the same scale, the same penalty on the sum of losses."""
    x = problem.x[:, features].astype(np.float64)
    if standardize:
        scale = x.std(0)
        x = x / np.where((x == x[0]).all(0), 1, scale)
    targets = np.eye(problem.n_classes)[problem.y]
    n, logits = len(x), np.empty((len(x), problem.n_classes))
    for row in range(n):
        kept = np.arange(n) != row
        mean, start = x[kept].mean(0), targets[kept].mean(0)
        centred = x[kept] - mean
        matrix = centred.T @ centred + n * l2 * np.eye(x.shape[1])
        coef = np.linalg.lstsq(matrix, centred.T @ (targets[kept] - start), rcond=None)[0]
        logits[row] = (x[row] - mean) @ coef + start
    return logits


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_are_those_of_refits_without_the_row(backend, standardize):
    problem = changed(clusters(60, 10, 14, 3), lambda x: x.astype(np.float64) * 2 + 1)
    settings = Settings(standardize=standardize, backend=backend_of(backend, "auto"))
    left_out = fit_left_out(ArrayBlocks(*problem.train, block_rows=7), chains(14), L2, settings)
    captured = Captured(len(left_out.axes), 3)
    left_out.score(ArrayBlocks(*problem.train), captured)
    for number, logits in enumerate(captured.all()):
        l2 = L2[left_out.axes.penalty[number]]
        exact = brute(problem, left_out.axes.features(number), l2, standardize)
        assert np.allclose(logits, exact, rtol=1e-7, atol=1e-9)


def test_strips_of_the_substitution_add_up():
    problem = changed(clusters(400, 10, 300, 3), lambda x: x.astype(np.float64))
    chain = Chain(random_order(300, 1), (100, 256, 290), (0.1, 0.2, 0.3), "random", 1)
    settings = Settings(backend=backend_of("torch", "cpu"))
    left_out = fit_left_out(ArrayBlocks(*problem.train), [chain], (0.1,), settings)
    captured = Captured(3, 3)
    left_out.score(ArrayBlocks(*problem.train), captured)
    rows = np.arange(0, 400, 57)
    small = Problem(problem.x, problem.y, problem.x, problem.y)
    for number, logits in enumerate(captured.all()):
        exact = brute_rows(small, chain.features(number), 0.1, rows)
        assert np.allclose(logits[rows], exact, rtol=1e-7, atol=1e-9)


def brute_rows(problem: Problem, features, l2: float, rows) -> np.ndarray:
    x = problem.x[:, features] / problem.x[:, features].std(0)
    targets = np.eye(problem.n_classes)[problem.y]
    logits = []
    for row in rows:
        kept = np.arange(len(x)) != row
        mean, start = x[kept].mean(0), targets[kept].mean(0)
        centred = x[kept] - mean
        matrix = centred.T @ centred + len(x) * l2 * np.eye(x.shape[1])
        coef = np.linalg.solve(matrix, centred.T @ (targets[kept] - start))
        logits.append((x[row] - mean) @ coef + start)
    return np.array(logits)


def test_constant_features_have_no_leverage():
    problem = changed(clusters(80, 10, 20, 3), some_constant)
    settings = Settings(backend=backend_of("torch", "cpu"))
    with_constant = fit_left_out(
        ArrayBlocks(*problem.train), [Chain(np.arange(20), (20,), (1.0,), "x")], (0.1,), settings
    )
    moving = np.flatnonzero(problem.x.std(0) > 1e-3)
    without = fit_left_out(
        ArrayBlocks(*problem.train), [Chain(moving, (16,), (1.0,), "x")], (0.1,), settings
    )
    both = []
    for fitted in (with_constant, without):
        captured = Captured(1, 3)
        fitted.score(ArrayBlocks(*problem.train), captured)
        both.append(captured.all())
    assert np.allclose(*both, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("targets", [False, True])
def test_a_row_that_is_fitted_whatever_its_label_is_given_the_mean_of_the_others(
    monkeypatch, backend, targets
):
    monkeypatch.setattr(closed_form, "UNDETERMINED", 1e9)  # leverages of 1 less 2e-7
    problem = changed(clusters(20, 10, 40, 4), lambda x: x.astype(np.float64))
    y = problem.x[:, :2].astype(float) if targets else problem.y
    settings = Settings(backend=backend_of(backend, "auto"))
    chain = Chain(np.arange(40), (3, 40), (0.1, 1.0), "first")
    left_out = fit_left_out(ArrayBlocks(problem.x, y), [chain], (1e-9,), settings)
    captured = Captured(2, 4)
    left_out.score(ArrayBlocks(problem.x, y), captured)
    outputs = y if targets else np.eye(4)[y]
    others = (outputs.sum(0) - outputs) / 19
    if targets:
        others -= y.mean(0)  # numbers are scored less their mean
    few, all_of_them = captured.all()
    assert np.allclose(all_of_them, others, atol=1e-5)
    assert not np.allclose(few, others, atol=1e-2)

"""Softmax probes say "converged" where they are at the optimum, whatever the features are like."""

from functools import cache

import numpy as np
import pytest
import torch
from problems import clusters
from scipy.optimize import minimize
from torch.utils._python_dispatch import TorchDispatchMode

from featstore import probe
from featstore.probe.errors import UsageError
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers.logistic import descent
from featstore.probe.solvers.logistic.lbfgs import TRIALS, Curvature, Lbfgs, Steps
from featstore.probe.solvers.logistic.metric import class_metric
from featstore.probe.subsets import random_chain, subset_chain


def normal(n, d, c, seed, spread=0.5):
    problem = clusters(n, 1, d, c, seed=seed)
    random = np.random.default_rng(seed)
    centres = random.normal(size=(c, d)) * (spread - 0.5)
    return problem.x.astype(np.float64) + centres[problem.y], problem.y


def one_scaled(by):
    x, y = normal(300, 12, 3, 1)
    x[:, 3] *= by
    return x, y


def all_scaled():
    x, y = normal(300, 12, 3, 2)
    return x * np.logspace(-6, 6, 12), y


def near_rank_one(by):
    x, y = normal(300, 12, 3, 3)
    return np.random.default_rng(3).normal(size=(300, 1)) + by * x, y


def duplicates():
    x, y = normal(300, 10, 3, 4)
    return np.hstack([x, x, 1e3 * x[:, :5]]), y


def nearly_dead():
    x, y = normal(300, 12, 3, 5)
    fires = np.random.default_rng(5).random(x.shape) < 0.01
    x[:, ::3] = np.where(fires, x + 3, 0)[:, ::3]
    x[:, 1] = 0
    return x, y


def decaying():
    x, y = normal(300, 12, 3, 6)
    turned, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(12, 12)))
    return (x * np.logspace(0, -3, 12)) @ turned, y


def heavy_rows():
    x, y = normal(300, 12, 3, 7)
    return x * np.exp(2 * np.random.default_rng(7).normal(size=(300, 1))), y


def imbalanced():
    x, y = normal(400, 10, 4, 8)
    kept = (y < 2) | (np.random.default_rng(8).random(400) < 0.05)
    return x[kept], y[kept]


PROBLEMS = {f"one x {by:g}": lambda by=by: one_scaled(by) for by in 10.0 ** np.arange(-6, 7, 2)} | {
    "all scales": all_scaled,
    "near rank 1, 1e-2": lambda: near_rank_one(1e-2),
    "near rank 1, 1e-3": lambda: near_rank_one(1e-3),
    "duplicates": duplicates,
    "nearly dead": nearly_dead,
    "decaying": decaying,
    "heavy rows": heavy_rows,
    "imbalanced": imbalanced,
    "more features than rows": lambda: normal(30, 40, 3, 9),
    "as many features as rows": lambda: normal(40, 36, 3, 10),
    "separated": lambda: normal(200, 12, 3, 11, spread=3.0),
}


def losses(x, y, coef, intercept):
    """Return -log softmax of the labels, precise where it is small, and the residuals p - y."""
    logits = x @ coef + intercept
    rows = np.arange(len(y))
    below = np.exp(np.clip(logits - logits[rows, y][:, None], None, 700))
    below[rows, y] = 0
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    residual = p.copy()
    residual[rows, y] = 0
    residual[rows, y] = -residual.sum(1)
    return np.log1p(below.sum(1)), p, residual


def objective(x, y, coef, intercept, penalty):
    return losses(x, y, coef, intercept)[0].mean() + (penalty[:, None] * coef**2).sum() / 2


def centred(x, standardize):
    """Return features of unit variance, and the scale that makes them raw, in float64."""
    x = x.astype(np.float64)
    constant = (x == x[0]).all(0)
    x = x - x.mean(0)
    x[:, constant] = 0
    deviation = np.where(constant, 1, x.std(0))
    return x / deviation, np.ones(len(deviation)) if standardize else deviation


@cache
def optimum(name, l2, precision, standardize):
    """Return the least objective, by Newton steps with the whole Hessian, in float64.

    Coefficients are of features of unit variance, each with its own penalty.
    """
    x, y = PROBLEMS[name]()
    x, scale = centred(x.astype(precision), standardize)
    n, d, c = len(x), x.shape[1], y.max() + 1
    penalty = l2 / scale**2
    rows, weight = np.hstack([np.ones((n, 1)), x]), np.append(0, penalty)
    found = np.zeros((d + 1, c))
    found[0] = np.log(np.bincount(y) / n)

    def value(at):
        return objective(x, y, at[1:], at[0], penalty)

    for _ in range(300):
        _, p, residual = losses(x, y, found[1:], found[0])
        gradient = (rows.T @ residual / n + weight[:, None] * found).T.ravel()
        outer = np.einsum("ia,ab->iab", p, np.eye(c)) - p[:, :, None] * p[:, None, :]
        hessian = np.einsum("iab,ij,ik->ajbk", outer, rows, rows, optimize=True) / n
        hessian = hessian.reshape(c * (d + 1), -1) + np.diag(np.tile(weight, c))
        free = np.arange(c) * (d + 1)
        hessian[np.ix_(free, free)] += 1e-3  # a constant added to all intercepts changes nothing
        unit = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
        scaled = hessian * unit * unit[:, None] + 1e-15 * np.eye(len(unit))
        step = -unit * np.linalg.solve(scaled, unit * gradient)
        decrement, length = -gradient @ step, 1.0
        step = step.reshape(c, d + 1).T
        while value(found + length * step) > value(found) - 1e-4 * length * decrement:
            length /= 2
            if length < 1e-10:
                break
        if length < 1e-10:
            break
        found = found + length * step
        if decrement < 1e-14 * value(found):
            break
    assert decrement < 1e-9 * value(found)
    return value(found)


def excess(name, l2, precision, standardize, **options):
    """Return by which share the objective of a probe is above the least one, and its status."""
    x, y = PROBLEMS[name]()
    x = x.astype(precision)
    chain = subset_chain(range(x.shape[1]), x.shape[1])
    result = probe.fit(
        (x, y), [chain], solver="logistic", l2=l2, standardize=standardize, device="cpu", **options
    )
    weights, unit = result.weights(0), centred(x, standardize)
    deviation = x.astype(np.float64).std(0)
    coef = weights.coef * np.where(deviation > 0, deviation, 1)[:, None]
    intercept = weights.intercept + x.astype(np.float64).mean(0) @ weights.coef
    found = objective(unit[0], y, coef, intercept, l2 / unit[1] ** 2)
    assert result.table["objective"][0] == pytest.approx(found, rel=1e-5)
    return found / optimum(name, l2, precision, standardize) - 1, result.table["status"][0]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_converged_means_at_the_optimum(name, precision, standardize):
    for l2 in (1e-1, 1e-3, 1e-6):
        above, status = excess(name, l2, precision, standardize)
        assert status in ("converged", "line_search", "max_iter")
        if status == "converged":
            assert above <= 1.5e-6
        if l2 >= 1e-3:
            assert status == "converged"


def test_the_oracle_finds_what_scipy_finds():
    name, l2 = "one x 100", 1e-3
    x, y = PROBLEMS[name]()
    x, scale = centred(x, False)
    rows = np.hstack([np.ones((len(x), 1)), x])
    weight = np.append(0, l2 / scale**2)[:, None]

    def both(flat):
        at = flat.reshape(rows.shape[1], -1)
        loss, _, residual = losses(x, y, at[1:], at[0])
        gradient = rows.T @ residual / len(x) + weight * at
        return loss.mean() + (weight * at**2).sum() / 2, gradient.ravel()

    start = np.zeros(rows.shape[1] * (y.max() + 1))
    best = minimize(
        both,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20_000, "ftol": 1e-15, "gtol": 1e-10, "maxfun": 50_000},
    ).fun
    assert optimum(name, l2, "float64", False) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("left", [0.9, 1.1])
def test_a_run_converges_where_what_it_has_not_learnt_agrees(left):
    tol = 1e-4
    runs = Lbfgs(
        np.array([[0.7, 0.4, 0.2]]),
        tol=tol,
        max_iter=60,
        decrement=lambda run: left * 3 * tol**2 * runs.values[run],
    )
    while not runs.status.all():
        points = runs.ask()
        runs.tell(1 + (points**4).sum(1) / 4, points**3)
    assert (runs.status[0] == "converged") == (left < 1)


def test_a_scale_that_a_float32_can_hold_changes_no_raw_probe_without_a_penalty():
    plain = normal(300, 12, 3, 12)
    scaled = plain[0] * 10.0 ** np.arange(-6, 6), plain[1]
    chains = [random_chain(12, [0.5, 1.0], 1)]
    results = [
        probe.fit(
            (x.astype(np.float32), y),
            chains,
            solver="logistic",
            l2=0.0,
            standardize=False,
            device="cpu",
        )
        for x, y in (plain, scaled)
    ]
    ours, theirs = (result.table for result in results)
    assert list(ours["status"]) == list(theirs["status"]) == ["converged"] * 2
    assert ours["objective"].to_numpy() == pytest.approx(theirs["objective"].to_numpy(), rel=1e-6)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("l2", [1e30, 1e100, 1e300, 1.7e308])
def test_a_huge_penalty_leaves_the_shares_of_the_classes(l2, standardize):
    x, y = imbalanced()
    chains = [random_chain(10, [0.5, 1.0], 1)]
    result = probe.fit(
        (x, y), chains, solver="logistic", l2=l2, standardize=standardize, device="cpu"
    )
    table = result.score((x, y), ["accuracy", "nll"]).table
    share = np.bincount(y) / len(y)
    assert set(table["status"]) == {"converged"}
    assert table["objective"].to_numpy() == pytest.approx(-(share * np.log(share)).sum())
    assert table["nll"].to_numpy() == pytest.approx(-(share * np.log(share)).sum())


@pytest.mark.parametrize("l2", [5e-324, 1e-310, 1e-100])
def test_a_penalty_that_rounds_to_none_is_none(l2):
    x, y = normal(300, 12, 3, 13)
    chains = [random_chain(12, [0.5, 1.0], 1)]
    tiny, none = (
        probe.fit((x, y), chains, solver="logistic", l2=value, device="cpu").table
        for value in (l2, 0.0)
    )
    assert tiny["objective"].to_numpy() == pytest.approx(none["objective"].to_numpy(), rel=1e-6)


@pytest.mark.parametrize("l2", [38.1, 1e30, 1e100, 1.7e308])
def test_a_decay_that_makes_weights_grow_is_refused(l2):
    x, y = normal(300, 12, 3, 14)
    chains = [random_chain(12, [0.5, 1.0], 1)]
    with pytest.raises(UsageError, match=r"l2 is .* less than 38"):
        probe.fit((x, y), chains, solver=probe.SGD(l2=[1e-3, l2], epochs=2), device="cpu")


def test_decay_shrinks_weights_up_to_that_limit_and_no_further():
    def length(l2, lr=0.1, momentum=0.9):
        weight, velocity = 1.0, 0.0
        for _ in range(5000):
            velocity = momentum * velocity + l2 * weight
            weight -= lr * velocity
        return abs(weight)

    assert length(37.9) < 1e-3
    assert length(38.1) > 1e3


class Products(TorchDispatchMode):
    """Notes what torch may round in each product of float32 matrices."""

    def __init__(self):
        super().__init__()
        self.rounded = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.__name__.split(".")[0].rstrip("_") in ("mm", "bmm", "addmm", "baddbmm"):
            self.rounded.append(torch.backends.cuda.matmul.fp32_precision != "ieee")
        return function(*args, **(kwargs or {}))


def test_every_product_of_a_softmax_probe_is_of_full_precision():
    before, seen = torch.get_float32_matmul_precision(), Products()
    torch.set_float32_matmul_precision("high")
    try:
        problem = clusters(300, 1, 12, 3)
        blocks = ArrayBlocks(*problem.train, 3)
        with seen:
            probe.fit(blocks, [random_chain(12, [0.5, 1.0], 1)], solver="logistic", device="cpu")
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(seen.rounded) > 50
    assert not any(seen.rounded)


@pytest.mark.parametrize("size", [1e-150, 1e-155, 1e-158, 1e-170])
def test_steps_too_small_to_be_divided_by_teach_nothing_and_warn_of_nothing(size):
    """Products of them are subnormal or 0, and what divides by these overflows."""
    step = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    gradient, learnt = -step, Curvature(step, 3)
    with np.errstate(all="raise", under="ignore"):
        learnt.advance(np.array([True]), size * step, size * step, gradient)
        direction, slope, _ = learnt.advance(np.array([False]), 0 * step, 0 * step, gradient)
    # curvature 1, whether it was learnt or not
    assert direction[0].tolist() == pytest.approx(step[0].tolist())
    assert slope[0] == pytest.approx(-10)
    assert learnt.known()[0] == (10 * size**2 > 2.3e-308)


def test_a_search_that_finds_nothing_forgets_what_was_learnt_and_goes_downhill():
    bend, values = np.array([1.0, 0.1, 0.01]), []
    runs = Lbfgs(np.ones((1, 3)), tol=1e-6, max_iter=200)
    while not runs.status.all():
        points = runs.ask()
        # after five values nothing near is lower, as far as one search can tell
        told = np.inf if 5 <= len(values) < 5 + TRIALS else 1 + (bend * points**2).sum() / 2
        runs.tell(np.array([told]), bend * points)
        values.append(float(runs.values[0]))
        assert np.isfinite(runs.norms).all()
        if len(values) == 5 + TRIALS:  # one step down the gradient is what is asked for next
            assert runs.ask() == pytest.approx(runs.points - runs.gradients)
    assert runs.status[0] == "converged"
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1, abs=1e-9)


def test_a_trial_too_far_is_followed_by_the_secant_and_one_too_near_by_eight_times_it():
    steps = Steps(2, 0.0)
    best = np.array([0.3, 1000.0])  # of (t - best)^2 / 2
    steps.start(np.ones(2, bool), -best)
    assert steps.judge(best**2 / 2, -best, (1 - best) ** 2 / 2, 1 - best).tolist() == [False] * 2
    assert steps.step == pytest.approx([0.3, 8.0])
    assert steps.judge(best**2 / 2, -best, np.array([0, np.inf]), steps.step - best).tolist() == [
        True,
        False,
    ]
    assert steps.step[1] == pytest.approx(4.5)  # the middle of 1 and 8, where the slope falls still


def test_progress_of_a_run_rises_to_one():
    runs, shares = Lbfgs(np.array([[1.0, 1.0, 1.0]]), tol=1e-6, max_iter=200), []
    while not runs.status.all():
        points = runs.ask()
        bend = np.array([1.0, 0.3, 0.02])
        runs.tell(np.array([1 + (bend * points**2).sum() / 2]), bend * points)
        shares.append(float(runs.shares(1e-6)[0]))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0 < shares[2] < 0.9
    assert shares[-1] == 1


def test_directions_are_those_of_the_two_loop_recursion():
    random, pairs = np.random.default_rng(2), 3
    bend = random.normal(size=(6, 6))
    bend = bend @ bend.T + np.eye(6)
    learnt, kept = Curvature(np.zeros((1, 6)), pairs), []
    for _ in range(5):
        step = random.normal(size=(1, 6))
        change, gradient = step @ bend, random.normal(size=(1, 6))
        kept = [*kept, (step[0], change[0])][-pairs:]
        direction, slope, squares = learnt.advance(np.array([True]), step, change, gradient)
        wanted, weights = gradient[0].copy(), []
        for s, y in reversed(kept):
            weights.append(s @ wanted / (s @ y))
            wanted -= weights[-1] * y
        s, y = kept[-1]
        wanted *= s @ y / (y @ y)
        for (s, y), weight in zip(kept, reversed(weights), strict=True):
            wanted += (weight - y @ wanted / (s @ y)) * s
        assert direction[0] == pytest.approx(-wanted)
        assert slope[0] == pytest.approx(-gradient[0] @ wanted)
        assert squares[0] == pytest.approx(gradient[0] @ gradient[0])


@pytest.mark.parametrize("classes", [2, 5])
def test_a_metric_between_classes_is_the_root_of_the_mean_of_theirs(classes):
    shares = np.random.default_rng(0).dirichlet(np.full(classes, 0.5), size=(3, 50))
    between = np.stack([np.diag(p.mean(0)) - p.T @ p / len(p) for p in shares])
    to, back = class_metric(between, 1e-2)
    np.testing.assert_allclose(to @ back, np.broadcast_to(np.eye(classes), to.shape), atol=1e-9)
    np.testing.assert_allclose(to.sum(1), 1)  # all classes together move as before
    apart = np.eye(classes)[:, 1:] - 1 / classes  # directions in which their sum stays
    for metric, own in zip(to @ to, between, strict=True):
        wanted = apart.T @ (own + 1e-2 * np.eye(classes)) @ apart
        found = apart.T @ metric @ metric @ apart
        np.testing.assert_allclose(found, wanted * found[0, 0] / wanted[0, 0], rtol=1e-6)
        assert np.linalg.eigvalsh(metric).min() == pytest.approx(1)


def test_a_run_goes_on_in_rotated_variables_as_in_its_own():
    random = np.random.default_rng(3)
    bend = random.normal(size=(8, 8))
    bend, turn = bend @ bend.T + np.eye(8), np.linalg.qr(random.normal(size=(8, 8)))[0]
    runs, turned = (Lbfgs(np.ones((1, 8)), tol=1e-9, max_iter=50) for _ in range(2))
    for step in range(30):
        if step == 4:
            turned.change(lambda x: x @ turn.T, lambda g: g @ turn.T)
        basis = turn if step >= 4 else np.eye(8)
        for one, own in ((runs, np.eye(8)), (turned, basis)):
            at = one.ask() @ own
            one.tell(np.array([(at @ bend @ at.T).item() / 2 + 1]), at @ bend @ own.T)
    np.testing.assert_allclose(turned.points @ turn, runs.points, atol=1e-7)
    np.testing.assert_allclose(turned.values, runs.values, rtol=1e-12)


@pytest.mark.parametrize(("kind", "most"), [("two", 0.7), ("labels", 1.0), ("rare", 0.85)])
def test_a_metric_that_residuals_show_saves_steps_and_changes_no_end(kind, most, monkeypatch):
    problem = clusters(1500, 1, 60, 2 if kind == "two" else 6, seed=4)
    x, y = problem.x, problem.y
    if kind != "two":
        few = (y < 2) | (np.arange(len(y)) % 12 == 0)
        x, y = x[few], y[few]
    labels = y[:, None] == np.arange(6) if kind == "labels" else y

    def solved():
        chains = [random_chain(60, (0.4, 1.0), 1)]
        return probe.fit((x, labels), chains, solver=probe.Logistic(l2=1e-4))

    ours = solved()
    monkeypatch.setattr(descent, "TURNS", ())
    monkeypatch.setattr(descent, "WEIGHTED_TURNS", ())
    plain = solved()
    assert set(ours.table["status"]) == set(plain.table["status"]) == {"converged"}
    ends = (result.fitted.facts["objective"] for result in (ours, plain))
    np.testing.assert_allclose(*ends, rtol=2e-6)
    assert ours.fitted.passes <= most * plain.fitted.passes


@pytest.mark.parametrize("classes", [2, 3])
def test_residuals_of_a_trial_that_went_too_far_change_no_metric(classes, monkeypatch):
    problem = clusters(300, 1, 12, classes, seed=5)

    def solved():
        chains = [random_chain(12, (0.5, 1.0), 1)]
        return probe.fit(problem.train, chains, solver=probe.Logistic(l2=1e-4))

    known = solved()
    monkeypatch.setattr(descent, "WEIGHTED_TURNS", (3,))
    monkeypatch.setattr(descent, "WORTH", 0)
    for kind in (descent.BetweenClasses, descent.Weighted):
        real = kind.see

        def see(self, tile, residuals, real=real):
            residuals = residuals + 0 * residuals
            residuals[-1] = np.nan
            real(self, tile, residuals)

        monkeypatch.setattr(kind, "see", see)
    found = solved()
    assert set(found.table["status"]) == {"converged"}
    ends = (result.fitted.facts["objective"] for result in (found, known))
    np.testing.assert_allclose(*ends, rtol=2e-6)

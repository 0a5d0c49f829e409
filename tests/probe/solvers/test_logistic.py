"""Softmax probes against scikit-learn's, and what must hold whatever the solver does inside."""

import warnings
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from problems import BACKENDS, CUDA, PRECISIONS, PROBLEMS, Captured, Problem, clusters, in_precision
from sklearn.linear_model import LogisticRegression

from featstore import probe
from featstore.probe.errors import MemoryBudgetError, ProbeFailed, UsageError
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers.logistic.lbfgs import TRIALS, Lbfgs
from featstore.probe.subsets import Chain, random_chain, subset_chain

L2 = 1e-2
FRACTIONS = [0.25, 0.5, 1.0]


def solve(problem, chains=None, **arguments):
    width = problem.x.shape[1]
    chains = chains or [random_chain(width, FRACTIONS, seed) for seed in (1, 2)]
    own = {name: arguments.pop(name) for name in ("tol", "max_iter") if name in arguments}
    solver = probe.Logistic(l2=arguments.pop("l2", L2), **own)
    return probe.fit(problem.train, chains, **{"solver": solver, "device": "cpu", **arguments})


def standardized(problem, features):
    """The features as the definition has them, by an independent computation in float64."""
    x, x_test = (rows[:, features].astype(np.float64) for rows in (problem.x, problem.x_test))
    mean, scale = x.mean(0), x.std(0)
    constant = (x == x[0]).all(0)
    scale[constant] = 1.0
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    x[:, constant] = x_test[:, constant] = 0.0
    return x, x_test


def objective(x, y, coef, intercept, l2):
    logits = x @ coef + intercept
    logits -= logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    return losses.mean() + l2 / 2 * (coef**2).sum()


@cache
def scikit(name, features, l2):
    """Return scikit-learn's objective and test predictions for one probe."""
    problem = PROBLEMS[name]()
    x, x_test = standardized(problem, list(features))
    # of two classes it penalises w = W_1 - W_0, whose square is twice that of both W
    inverse = 1 / (len(x) * l2) * (2 if problem.n_classes == 2 else 1)
    model = LogisticRegression(C=inverse, tol=1e-8, max_iter=10_000).fit(x, problem.y)
    coef, intercept = model.coef_.T, model.intercept_
    if problem.n_classes == 2:
        coef, intercept = np.hstack([-coef, coef]) / 2, np.array([-1, 1]) * intercept / 2
    return objective(x, problem.y, coef, intercept, l2), (x_test @ coef + intercept).argmax(1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_probe_reaches_the_optimum_of_scikit_learn(name, precision):
    problem = in_precision(PROBLEMS[name](), precision)
    result = solve(problem, [random_chain(problem.x.shape[1], FRACTIONS, 1)])
    assert set(result.table["status"]) == {"converged"}
    for row in range(len(result)):
        weights = result.weights(row)
        x, x_test = standardized(problem, weights.features)
        best, predictions = scikit(name, tuple(weights.features), L2)
        found = objective(x, problem.y, *weights.standardized, L2)
        assert found <= best * (1 + 1e-6)
        assert result.table["objective"][row] == pytest.approx(found, rel=1e-6)
        coef, intercept = weights.standardized
        assert ((x_test @ coef + intercept).argmax(1) != predictions).mean() <= 2e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["tall", "1000 classes", "float16"])
def test_backends_agree(name, backend):
    problem = PROBLEMS[name]()
    device = "cuda" if backend == "cupy" else "cpu"
    there = solve(problem, backend=backend, device=device)
    here = solve(problem, backend="torch", device="cpu")
    assert there.table["objective"].to_numpy() == pytest.approx(here.table["objective"], rel=1e-6)


@pytest.mark.parametrize("device", [CUDA])
def test_cuda_agrees_with_the_cpu(device):
    problem = PROBLEMS["tall"]()
    there, here = (solve(problem, device=d).table["objective"] for d in (device, "cpu"))
    assert there.to_numpy() == pytest.approx(here, rel=1e-6)


def test_scored_logits_are_those_of_the_weights():
    problem = PROBLEMS["far from zero"]()
    result = solve(problem)
    captured = Captured(len(result), problem.n_classes)
    result.fitted.score(ArrayBlocks(*problem.test, problem.n_classes), captured)
    for row, logits in enumerate(captured.all()):
        exact = result.weights(row).logits(problem.x_test)
        assert np.abs(logits - exact).max() <= 1e-4


def test_a_prefix_is_a_fresh_fit_of_its_features():
    problem = PROBLEMS["tall"]()
    chain = random_chain(40, FRACTIONS, 3)
    nested = solve(problem, [chain], tol=1e-6, l2=L2)
    for row in range(len(nested)):
        alone = solve(problem, [subset_chain(chain.features(row), 40)], tol=1e-6)
        ours, theirs = nested.weights(row).coef, alone.weights(0).coef
        assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_rows_given_twice_change_nothing():
    problem = PROBLEMS["tall"]()
    twice = Problem(*(np.concatenate([a, a]) for a in problem.train), *problem.test)
    once, again = solve(problem), solve(twice)
    assert again.table["objective"].to_numpy() == pytest.approx(once.table["objective"], rel=1e-6)


def test_every_class_counts_alike():
    problem = PROBLEMS["tall"]()
    renamed = Problem(problem.x, 4 - problem.y, problem.x_test, 4 - problem.y_test)
    ours, theirs = solve(problem).weights(0), solve(renamed).weights(0)
    assert np.abs(ours.coef - theirs.coef[:, ::-1]).max() <= 1e-3 * np.abs(ours.coef).max()


def test_same_inputs_give_the_same_bits():
    problem = PROBLEMS["tall"]()
    first, second = solve(problem), solve(problem)
    assert first.table.equals(second.table)
    for row in range(len(first)):
        assert np.array_equal(first.weights(row).coef, second.weights(row).coef)


@pytest.mark.parametrize("block_rows", [7, 100, 900])
def test_the_blocks_of_the_store_change_nothing(block_rows):
    problem = in_precision(PROBLEMS["tall"](), "float64")
    chains = [random_chain(40, FRACTIONS, 1)]
    whole = solve(problem, chains)
    blocks = ArrayBlocks(*problem.train, block_rows=block_rows)
    cut = probe.fit(blocks, chains, solver="logistic", l2=L2, device="cpu")
    ours, theirs = (r.table["objective"].to_numpy() for r in (whole, cut))
    assert ours == pytest.approx(theirs, rel=1e-10)


def test_little_memory_changes_groups_and_tiles_but_not_the_optimum():
    problem = clusters(3000, 50, 60, 20)
    chains = [random_chain(60, [0.2, 0.4, 0.6, 0.8, 1.0], seed) for seed in (1, 2, 3)]
    rich, poor = (solve(problem, chains, memory=memory) for memory in ("1GiB", "1500KiB"))
    assert len(poor.fitted._plan.groups) > 1
    assert len(poor.fitted._plan.scored) > 1
    assert 8 * problem.x.size > poor.fitted._plan.kept
    assert poor.fitted.passes > rich.fitted.passes
    assert poor.table["objective"].to_numpy() == pytest.approx(rich.table["objective"], rel=1e-6)
    accuracies = [r.score(problem.test).table["accuracy"].tolist() for r in (rich, poor)]
    assert accuracies[0] == accuracies[1]


def test_penalties_walked_together_are_those_solved_alone():
    problem = PROBLEMS["tall"]()
    chains = [random_chain(40, FRACTIONS, 1)]
    path = [1e-3, 1e-2, 1e-1]
    together = solve(problem, chains, l2=path).table
    for l2 in path:
        alone = solve(problem, chains, l2=l2).table
        ours = together.loc[together["l2"] == l2, "objective"].to_numpy()
        assert ours == pytest.approx(alone["objective"].to_numpy(), rel=1e-6)


def test_chains_may_differ_in_length_and_repeat_a_size():
    problem = PROBLEMS["tall"]()
    chains = [
        Chain(np.arange(40)[::-1], (1, 1, 39), (0.03, 0.04, 0.99), "explicit"),
        subset_chain([5], 40),
        subset_chain([3, 1, 2], 40),
        random_chain(40, [0.1, 1.0], 1),
    ]
    result = solve(problem, chains)
    for row in range(len(result)):
        weights = result.weights(row)
        x, _ = standardized(problem, weights.features)
        best, _ = scikit("tall", tuple(weights.features), L2)
        assert objective(x, problem.y, *weights.standardized, L2) <= best * (1 + 1e-6)


def test_without_standardising_the_penalty_is_on_the_raw_scale():
    problem = PROBLEMS["tall"]()
    result = solve(problem, [subset_chain(range(40), 40)], standardize=False)
    x = problem.x.astype(np.float64)
    model = LogisticRegression(C=1 / (len(x) * L2), tol=1e-8, max_iter=10_000).fit(x, problem.y)
    best = objective(x, problem.y, model.coef_.T, model.intercept_, L2)
    weights = result.weights(0)
    assert objective(x, problem.y, weights.coef, weights.intercept, L2) <= best * (1 + 1e-6)


def test_a_class_without_train_rows_is_never_predicted():
    problem = clusters(300, 60, 10, 3)
    blocks = ArrayBlocks(problem.x, problem.y * 2, n_classes=6)
    chains = [random_chain(10, FRACTIONS, 1)]
    result = probe.fit(blocks, chains, solver="logistic", l2=L2, device="cpu")
    plain = solve(problem, chains)
    assert np.isfinite(result.table["objective"]).all()
    assert result.table["objective"].equals(plain.table["objective"])
    assert np.isneginf(result.weights(0).intercept[[1, 3, 5]]).all()
    scored = result.score((problem.x_test, problem.y_test * 2), ["accuracy", "nll", "top5"]).table
    assert scored["accuracy"].equals(plain.score(problem.test).table["accuracy"])
    assert np.isfinite(scored["nll"]).all()


def test_too_few_steps_are_reported_and_scored():
    problem = PROBLEMS["tall"]()
    result = solve(problem, max_iter=3)
    assert set(result.table["status"]) == {"max_iter"}
    assert set(result.table["iterations"]) == {3}
    assert result.score(problem.test).table["accuracy"].notna().all()
    with pytest.raises(ProbeFailed, match="larger max_iter"):
        result.raise_if_failed()


def test_an_unreachable_tolerance_is_reported_and_costs_nothing():
    problem = PROBLEMS["tall"]()
    result = solve(problem, tol=1e-12, max_iter=200)
    assert set(result.table["status"]) <= {"line_search", "max_iter"}
    close = solve(problem, tol=1e-5).table["objective"].to_numpy()
    assert result.table["objective"].to_numpy() == pytest.approx(close, rel=1e-6)


def test_a_function_that_never_decreases_ends_in_the_line_search():
    runs = Lbfgs(np.zeros((2, 3)), tol=1e-4, max_iter=50)
    runs.tell(np.ones(2), np.ones((2, 3)))
    rounds = 0
    while not runs.status.all():
        rounds += 1
        runs.tell(np.full(2, 1.0 + rounds), np.ones((2, 3)))
    assert set(runs.status) == {"line_search"}
    assert rounds == TRIALS
    assert (runs.points == 0).all()


def test_separated_classes_without_a_penalty_are_named():
    problem = PROBLEMS["wide"]()
    result = solve(problem, l2=0.0)
    separable = result.table["fraction"] == 1.0
    assert set(result.table["status"][separable]) == {"separable"}
    scored = result.score(problem.test).table
    assert scored["accuracy"][separable].isna().all()
    with pytest.raises(ProbeFailed, match="give an l2 above 0"):
        result.raise_if_failed()


def test_overlapping_classes_need_no_penalty():
    problem = PROBLEMS["duplicated features"]()
    result = solve(problem, [random_chain(40, [0.1, 0.25], 1)], l2=0.0)
    assert set(result.table["status"]) == {"converged"}
    for row in range(len(result)):
        weights = result.weights(row)
        x, _ = standardized(problem, weights.features)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it names its parameters anew in each release
            model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000).fit(x, problem.y)
        best = objective(x, problem.y, model.coef_.T, model.intercept_, 0.0)
        assert objective(x, problem.y, *weights.standardized, 0.0) <= best * (1 + 1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 0.0}, "tol is 0.0"),
        ({"tol": float("nan")}, "tol is nan"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"max_iter": 2.5}, "max_iter is 2.5"),
        ({"l2": -1.0}, "l2 is -1.0"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(UsageError, match=message):
        solve(PROBLEMS["tall"](), **options)


def test_too_little_memory_says_how_much_would_do():
    with pytest.raises(MemoryBudgetError, match="allow at least"):
        solve(PROBLEMS["tall"](), memory="50KiB")


def test_progress_counts_probes_and_passes():
    seen = []
    result = solve(
        PROBLEMS["tall"](),
        l2=[1e-3, 1e-2],
        progress=lambda stage, done, total, **facts: seen.append((stage, done, total, facts)),
    )
    probes = [entry for entry in seen if entry[0] == "probes"]
    assert [done for _, done, _, _ in probes] == sorted(done for _, done, _, _ in probes)
    assert probes[-1][1:3] == (len(result), len(result))
    objectives = result.table.groupby("l2")["objective"].mean()
    assert probes[-1][3] == {
        "converged": len(result),
        "passes": len(probes),
        "objective": f"{objectives[1e-3]:.4f}",
    }
    assert any(done > facts["converged"] for _, done, _, facts in probes)
    assert result.fitted.passes == len(probes)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(4, 60),
    d=st.integers(1, 12),
    c=st.integers(2, 5),
    seed=st.integers(0, 100),
    l2=st.sampled_from([1e-3, 1e-1, 10.0]),
)
def test_the_gradient_vanishes_at_every_solution(n, d, c, seed, l2):
    problem = in_precision(clusters(max(n, c), 1, d, c, seed=seed), "float64")
    chain = random_chain(d, [1.0], seed)
    weights = solve(problem, [chain], l2=l2, tol=1e-7).weights(0)
    x, _ = standardized(problem, weights.features)
    coef, intercept = weights.standardized
    logits = x @ coef + intercept
    p = np.exp(logits - logits.max(1, keepdims=True))
    residual = p / p.sum(1, keepdims=True) - np.eye(coef.shape[1])[problem.y]
    assert np.abs(residual.mean(0)).max() <= 1e-5
    assert np.abs(x.T @ residual / len(x) + l2 * coef).max() <= 1e-5

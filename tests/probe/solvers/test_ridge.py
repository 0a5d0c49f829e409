from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from problems import (
    BACKENDS,
    CUDA,
    PRECISIONS,
    PROBLEMS,
    Captured,
    clusters,
    exact_ridge,
    in_precision,
    relative,
    tolerance,
)
from sklearn.linear_model import Ridge

from featstore import probe
from featstore.probe import arrays
from featstore.probe.errors import MemoryBudgetError, ProbeFailed
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers import prefixes
from featstore.probe.subsets import Chain, ordered_chain, random_chain, subset_chain

L2 = 1e-2
FRACTIONS = [0.1, 0.25, 0.5, 0.9, 1.0]


def solve(problem, chains=None, **arguments):
    width = problem.x.shape[1]
    chains = chains or [random_chain(width, FRACTIONS, seed) for seed in (1, 2)]
    return probe.fit(
        problem.train, chains, solver="ridge", **{"l2": L2, "device": "cpu", **arguments}
    )


def logits(result, x, y):
    captured = Captured(len(result.fitted.axes), len(result.fitted.class_counts))
    result.fitted.score(ArrayBlocks(x, y, len(result.fitted.class_counts)), captured)
    return captured.all()


def exact(problem, result, row, **arguments):
    weights, l2 = result.weights(row), result.table["l2"][row]
    return exact_ridge(*problem.train, weights.features, l2, **arguments)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_probe_is_the_direct_solution(name, backend, precision):
    problem = in_precision(PROBLEMS[name](), precision)
    device = "cuda" if backend == "cupy" else "cpu"
    result = solve(problem, backend=backend, device=device)
    assert set(result.table["status"]) == {"ok"}
    found, limit = logits(result, *problem.test), tolerance(problem, precision)
    for row in range(len(result)):
        weights, answer = result.weights(row), exact(problem, result, row)
        assert relative(weights.standardized[0], answer.coef) <= limit
        assert relative(weights.logits(problem.x_test), answer.logits(problem.x_test)) <= limit
        assert relative(found[row], answer.logits(problem.x_test)) <= limit


@pytest.mark.parametrize("device", [CUDA])
def test_cuda_agrees_with_the_cpu(device):
    problem = PROBLEMS["tall"]()
    there, here = (logits(solve(problem, device=d), *problem.test) for d in (device, "cpu"))
    assert relative(there, here) <= 1e-5


@pytest.mark.parametrize("name", ["tall", "wide", "float16", "constant features"])
def test_predictions_are_those_of_scikit_learn(name):
    problem = PROBLEMS[name]()
    result = solve(problem)
    x = problem.x.astype(np.float64)
    mean, scale = x.mean(0), x.std(0)
    scale[(x == x[0]).all(0)] = 1
    found = logits(result, *problem.test)
    for row in range(len(result)):
        features = result.weights(row).features
        model = Ridge(alpha=len(x) * L2)
        model.fit(((x - mean) / scale)[:, features], np.eye(problem.n_classes)[problem.y])
        theirs = model.predict(((problem.x_test - mean) / scale)[:, features])
        two_best = np.sort(theirs, 1)[:, -2:]
        tie = two_best[:, 1] - two_best[:, 0] < 1e-5
        assert (found[row].argmax(1) == theirs.argmax(1))[~tie].all()
        assert tie.mean() < 0.05


def test_without_scaling_features_are_only_centred():
    problem = PROBLEMS["tall"]()
    result = solve(problem, standardize=False)
    assert (result.weights(0).scale == 1).all()
    for row in range(len(result)):
        answer = exact(problem, result, row, standardize=False)
        assert relative(result.weights(row).standardized[0], answer.coef) <= 1e-5


def test_a_prefix_is_a_fresh_fit_of_its_features():
    problem = PROBLEMS["tall"]()
    chain = random_chain(40, FRACTIONS, seed=3)
    together = solve(problem, [chain])
    for row in range(len(chain)):
        alone = solve(problem, [subset_chain(chain.features(row), 40)])
        assert relative(together.weights(row).coef, alone.weights(0).coef) <= 1e-10


def test_rows_given_twice_change_nothing():
    problem = in_precision(PROBLEMS["tall"](), "float64")
    once = solve(problem)
    twice = probe.fit(
        (np.repeat(problem.x, 2, 0), np.repeat(problem.y, 2)),
        [random_chain(40, FRACTIONS, seed) for seed in (1, 2)],
        solver="ridge",
        l2=L2,
        device="cpu",
    )
    for row in range(len(once)):
        assert relative(twice.weights(row).coef, once.weights(row).coef) <= 1e-10


def test_permuting_test_rows_permutes_logits():
    problem = PROBLEMS["tall"]()
    result = solve(problem)
    order = np.random.default_rng(5).permutation(len(problem.y_test))
    straight = logits(result, *problem.test)
    permuted = logits(result, problem.x_test[order], problem.y_test[order])
    assert relative(permuted, straight[:, order]) <= 1e-6


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_same_inputs_give_the_same_bits(backend):
    problem = PROBLEMS["tall"]()
    first, second = (logits(solve(problem, backend=backend), *problem.test) for _ in range(2))
    assert (first == second).all()


def test_any_chain_goes_beside_any_other():
    problem = PROBLEMS["tall"]()
    chains = [
        random_chain(40, [0.5, 1.0], seed=1),
        ordered_chain(np.arange(40)[::-1], [0.05, 0.1, 0.7]),
        subset_chain([7, 3, 20], 40),
        Chain(np.array([4, 9, 1, 30]), (2, 2, 3), (0.05, 0.06, 0.075), "explicit"),
        random_chain(40, [0.5, 1.0], seed=2),
    ]
    result = solve(problem, chains, l2=[L2, 0.5])
    assert list(result.table["k"][result.table["l2"] == L2]) == [
        20,
        40,
        2,
        4,
        28,
        3,
        2,
        2,
        3,
        20,
        40,
    ]
    found = logits(result, *problem.test)
    for row in range(len(result)):
        answer = exact(problem, result, row).logits(problem.x_test)
        assert relative(found[row], answer) <= 1e-5


def test_substitution_and_coefficients_give_the_same_logits(monkeypatch):
    problem = clusters(2000, 200, 600, 3)  # more than two strips
    chains = [random_chain(600, [0.01, 0.3, 0.4, 0.425, 0.43, 0.9], seed) for seed in (1, 2)]
    found = []
    for cheaper in (True, False):
        monkeypatch.setattr(prefixes, "direct_is_cheaper", lambda *_, answer=cheaper: answer)
        found.append(logits(solve(problem, chains), *problem.test))
    assert relative(*found) <= 1e-6
    answer = exact(problem, solve(problem, chains), 5).logits(problem.x_test)
    assert relative(found[1][5], answer) <= 1e-5


def test_prefixes_may_end_anywhere_in_a_strip(monkeypatch):
    monkeypatch.setattr(prefixes, "direct_is_cheaper", lambda *_: False)
    problem = clusters(1500, 50, 600, 3)
    width = arrays.FORWARD_WIDTH[0]
    sizes = (1, width - 1, width, width, width + 1, 2 * width, 2 * width + 87)
    chain = Chain(np.arange(600)[::-1], sizes, tuple(k / 600 for k in sizes), "explicit")
    result = solve(problem, [chain])
    found = logits(result, *problem.test)
    for row in range(len(sizes)):
        answer = exact(problem, result, row).logits(problem.x_test)
        assert relative(found[row], answer) <= 1e-5


def test_little_memory_gives_the_same_answers_in_more_passes(monkeypatch):
    problem = clusters(500, 300, 100, 4)
    chains = [random_chain(100, FRACTIONS, seed) for seed in range(8)]
    roomy = solve(problem, chains)
    tight = solve(problem, chains, memory="1300 kB")
    assert len(tight.fitted._groups) > 2
    assert len(roomy.fitted._groups) == 1
    assert relative(logits(tight, *problem.test), logits(roomy, *problem.test)) <= 1e-6
    assert relative(tight.weights(12).coef, roomy.weights(12).coef) <= 1e-9


def test_too_little_memory_says_how_much_would_do():
    problem = clusters(500, 300, 100, 4)
    with pytest.raises(MemoryBudgetError, match="allow at least") as error:
        solve(problem, memory="200 kB")
    enough = str(error.value).split("allow at least ")[1].split(",")[0]
    with pytest.raises(MemoryBudgetError):
        solve(problem, memory="150 kB")
    assert enough.endswith("KiB")


def test_dependent_features_without_a_penalty_are_reported():
    problem = in_precision(PROBLEMS["duplicated features"](), "float64")
    result = solve(problem, l2=0.0)
    assert all(text.startswith("jitter=") for text in result.table["status"])
    result.raise_if_failed()
    assert np.isfinite(logits(result, *problem.test)).all()


def test_a_system_without_a_factor_is_a_failure_and_not_a_number(monkeypatch):
    monkeypatch.setattr(arrays, "JITTERS", ())
    problem = in_precision(PROBLEMS["duplicated features"](), "float64")
    chains = [random_chain(40, [0.5, 1.0], seed=1), subset_chain([0, 1, 2], 40)]
    result = solve(problem, chains, l2=0.0).score(problem.test)
    assert list(result.table["status"]) == ["singular", "singular", "ok"]
    assert list(result.table["accuracy"].isna()) == [True, True, False]
    with pytest.raises(ProbeFailed, match=r"2 of 3 probes failed.*larger l2"):
        result.raise_if_failed()


def test_a_wrong_factor_is_found_by_its_residual(monkeypatch):
    right = arrays.cholesky

    def wrong(matrices):
        lower, exists = right(matrices)
        lower[0, -1, 0] += 1e-3
        return lower, exists

    monkeypatch.setattr(arrays, "cholesky", wrong)
    result = solve(PROBLEMS["tall"]())
    assert set(result.table["status"][:5]) == {"singular"}


def test_constant_features_have_no_weight():
    problem = PROBLEMS["constant features"]()
    result = solve(problem, [random_chain(40, [1.0], seed=1)])
    weights = result.weights(0)
    assert (weights.coef[weights.features % 5 == 0] == 0).all()
    assert (weights.scale[weights.features % 5 == 0] == 1).all()


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(8, 60),
    d=st.integers(1, 30),
    c=st.integers(2, 6),
    seed=st.integers(0, 10**6),
    backend=st.sampled_from(["torch", "numpy"]),
    block_rows=st.integers(1, 50),
)
def test_shapes(n, d, c, seed, backend, block_rows):
    problem = in_precision(clusters(n, 5, d, c, seed=seed), "float64")
    random = np.random.default_rng(seed)
    sizes = tuple(sorted(random.integers(1, d + 1, size=random.integers(1, 6)).tolist()))
    order = random.permutation(d)
    chain = Chain(order, sizes, tuple(k / d for k in sizes), "explicit")
    train = ArrayBlocks(*problem.train, block_rows=block_rows)
    result = probe.fit(train, [chain], solver="ridge", l2=0.1, backend=backend, device="cpu")
    found = logits(result, problem.x_test, np.minimum(problem.y_test, problem.n_classes - 1))
    for row in range(len(sizes)):
        answer = exact_ridge(*problem.train, chain.features(row), 0.1)
        assert relative(found[row], answer.logits(problem.x_test)) <= 1e-10


def test_moments_that_get_no_better_are_not_solved_again():
    same = SimpleNamespace()
    for train, better in ((same, None), (same, same), (same, SimpleNamespace())):
        train.refined = lambda found=better: found
        made = prefixes.refined(train, lambda moments: ("made of", moments))
        assert made == (None if better is None or better is same else ("made of", better))


def test_coefficients_are_cheaper_where_they_take_half_the_work_of_substitution():
    # 110 C of coefficients against half of 100^2 / 2 + 100 C
    assert prefixes.direct_is_cheaper([10, 100], 41)
    assert not prefixes.direct_is_cheaper([10, 100], 42)

"""More features than rows: probes in the N x N dual are those of the features themselves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from problems import BACKENDS, Captured, changed, clusters, in_precision, relative, some_constant

from featstore import probe
from featstore.probe import selection
from featstore.probe.arrays import backend as backend_of
from featstore.probe.errors import DataError, MemoryBudgetError
from featstore.probe.memory import Settings
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers import dual, routes
from featstore.probe.solvers.dual import Problem, rotation, wide_plan
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.solvers.routes import OfColumns, solve
from featstore.probe.subsets import Chain, random_chain, subset_chain

L2 = (1e-2, 1.0)
D = 700
FRACTIONS = [0.01, 0.06, 0.5, 1.0]  # 7 and 42 features, then more than the 50 rows
CHAINS = [random_chain(D, FRACTIONS, seed) for seed in (1, 2)]
WIDE = in_precision(clusters(50, 30, D, 3), "float64")


def both(solver="ridge", problem=WIDE, chains=CHAINS, **options):
    """The probes as planned, and those of all features at once."""
    train = ArrayBlocks(*problem.train, block_rows=7)
    entry, how = SOLVERS[solver], Settings(**options)
    return solve(entry, train, chains, L2, how, {}), entry.fit(train, chains, L2, how)


def logits(fitted, problem=WIDE, n_outputs=3):
    captured = Captured(len(fitted.axes), n_outputs)
    fitted.score(ArrayBlocks(*problem.test, block_rows=11), captured)
    return captured.all()


def parts(fitted):
    return [type(part) for part in fitted._parts]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("solver", "limit"), [("ridge", 1e-9), ("lda", 1e-9), ("logistic", 2e-3)])
def test_probes_are_those_of_the_features(solver, limit, backend):
    how = backend_of(backend, "auto" if backend == "cupy" else "cpu")
    planned, direct = both(solver, backend=how)
    assert parts(planned) == [OfColumns, dual.DualFit]
    assert relative(logits(planned), logits(direct)) <= limit
    for row in range(len(planned.axes)):
        here, there = planned.weights(row), direct.weights(row)
        assert (here.features == there.features).all()
        assert relative(here.coef, there.coef) <= limit
        assert relative(here.logits(WIDE.x_test), there.logits(WIDE.x_test)) <= limit
    assert (planned.facts["status"] == direct.facts["status"]).all()
    if solver == "logistic":
        assert np.allclose(planned.facts["objective"], direct.facts["objective"], rtol=1e-6)


@pytest.mark.parametrize("standardize", [True, False])
def test_features_that_never_change_and_raw_scales(standardize):
    problem = changed(WIDE, some_constant)
    planned, direct = both(problem=problem, standardize=standardize)
    assert relative(logits(planned, problem), logits(direct, problem)) <= 1e-9
    scales = planned.weights(len(planned.axes) - 1).scale
    assert (scales == 1).sum() >= D // 5


def test_float32_features_keep_to_float32():
    problem = clusters(50, 30, D, 3)
    planned, direct = both(problem=problem)
    assert relative(logits(planned, problem), logits(direct, problem)) <= 1e-3
    assert planned.weights(15).coef.dtype == np.float64


def test_tiles_and_pieces_change_nothing():
    n_features = 9000  # more than two of the narrowest tiles, and of pieces
    problem = in_precision(clusters(50, 30, n_features, 3), "float64")
    chains = [random_chain(n_features, [0.001, 0.3, 0.5, 1.0], seed) for seed in (1, 2)]

    def solved(memory):
        train = ArrayBlocks(*problem.train, block_rows=7)
        found = solve(SOLVERS["ridge"], train, chains, L2, Settings(memory=memory), {})
        return logits(found, problem)

    numbers = Problem(50, n_features, 3, len(L2), 1, reading=288 * n_features)
    little = numbers.dual_bytes(n_features) + numbers.reading + 4 * 10**4
    assert replace(numbers, memory=little).tile(n_features, 8) < n_features / 2
    assert relative(solved(little), solved(4 << 30)) <= 1e-10


def test_probes_that_do_not_fit_together_are_scored_one_by_one(monkeypatch):
    planned, _ = both()
    whole = logits(planned)
    monkeypatch.setattr(planned._parts[1], "_settings", Settings(memory=2 * 8 * D * 3))
    assert len(list(planned._parts[1]._scored())) == 8
    assert relative(logits(planned), whole) <= 1e-12


def test_progress_counts_every_test_row_of_a_chain():
    told = []
    planned, _ = both(progress=lambda stage, done, total, **_: told.append((stage, done, total)))
    logits(planned)
    n = len(WIDE.y_test)
    scored = [done for stage, done, total in told if (stage, total) == ("test rows", n)]
    assert scored[-1] == max(scored) == n


def test_leave_one_out_in_the_dual():
    train = ArrayBlocks(*WIDE.train, block_rows=7)
    found = routes.solve_left_out(SOLVERS["ridge"], train, CHAINS, L2, Settings(), {})
    assert parts(found) == [OfColumns, dual.DualLeaveOneOut]
    direct = SOLVERS["ridge"].leave_one_out(train, CHAINS, L2, Settings())
    captured = []
    for fitted in (found, direct):
        captured.append(Captured(len(fitted.axes), 3))
        fitted.score(train, captured[-1])
    assert relative(*(one.all() for one in captured)) <= 1e-8


@pytest.mark.parametrize("select", ["validation", "loo"])
def test_the_same_penalties_are_chosen(monkeypatch, select):
    arguments = {"solver": "ridge", "fractions": [0.02, 0.4], "seeds": [1, 2], "device": "cpu"}
    arguments |= {"l2": [1e-2, 1.0, 100.0], "select": select, "held_out": 0.3}
    planned = probe.sweep(WIDE.train, WIDE.test, **arguments).table
    for module in (routes, selection):
        monkeypatch.setattr(module, "wide_plan", lambda *_: None)
    direct = probe.sweep(WIDE.train, WIDE.test, **arguments).table
    assert planned["l2"].equals(direct["l2"])
    assert planned["accuracy"].equals(direct["accuracy"])
    assert planned["selection_accuracy"].equals(direct["selection_accuracy"])


def test_numbers_are_predicted_in_the_dual():
    y = WIDE.x[:, :3] @ np.ones(3)
    train = ArrayBlocks(WIDE.x, y)
    planned = solve(SOLVERS["ridge"], train, CHAINS, L2, Settings(), {})
    direct = SOLVERS["ridge"].fit(train, CHAINS, L2, Settings())
    assert parts(planned)[-1] is dual.DualFit
    for row in range(len(planned.axes)):
        assert relative(planned.weights(row).coef, direct.weights(row).coef) <= 1e-9


def test_equal_rows_need_no_remark_with_a_penalty_and_one_without():
    problem = changed(WIDE, lambda x: np.concatenate([x[: len(x) // 2]] * 2))
    planned, direct = both(problem=problem)
    assert set(planned.facts["status"]) == {"ok"}
    assert relative(logits(planned, problem), logits(direct, problem)) <= 1e-6
    free = solve(SOLVERS["ridge"], ArrayBlocks(*problem.train), CHAINS, [0.0], Settings(), {})
    long = free.axes.size > 50
    assert all(text.startswith("jitter=") for text in free.facts["status"][long])


def test_a_wide_layer_is_probed_in_little_memory():
    random = np.random.default_rng(0)
    wide = random.normal(size=(60, 120_000)).astype(np.float16)
    y = np.arange(60) % 2
    wide[y == 1, ::7] += 1
    result = probe.sweep(
        (wide[:40], y[:40]),
        (wide[40:], y[40:]),
        fractions=[1e-4, 0.01, 0.5],
        seeds=[1, 2],
        solver="ridge",
        memory="64MiB",
        device="cpu",
    )
    table = result.raise_if_failed().table
    assert (table["accuracy"][table["fraction"] == 1] == 1).all()
    assert result.weights(2).coef.shape == (60_000, 2)


@pytest.mark.parametrize(("split", "row"), [("train", 31), ("test", 4)])
def test_a_value_that_is_not_finite_is_named_as_it_is_stored(split, row):
    problem = clusters(50, 30, D, 3)
    (problem.x if split == "train" else problem.x_test)[row, 321] = np.inf
    with pytest.raises(DataError, match=f"row {row} of {split} has inf as feature 321"):
        probe.fit(problem.train, CHAINS[:1], solver="ridge").score(problem.test)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 14), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_rotated_features_have_the_same_inner_products(n, k, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, k))
    x -= x.mean(0)
    turned = rotation(x @ x.T)
    z = turned.features()
    assert z.shape == (n, n - 1)
    assert np.allclose(z @ z.T, x @ x.T, atol=1e-3 if turned.jitter else 1e-9)
    assert np.allclose(z.sum(0), 0, atol=1e-9)
    if not turned.jitter:
        a = random.normal(size=(n - 1, 2))
        assert np.allclose(x @ (x.T @ turned.row_weights(a)), z @ a, atol=1e-8)


class TestPlan:
    def numbers(self, n=1020, d=802_816, memory=1 << 30, **changes):
        return Problem(n, d, 10, 3, memory, **changes)

    def test_a_flattened_map_goes_both_ways(self):
        order = np.arange(802_816)
        chains = [Chain(order[:80_281], (80, 802, 80_281), (1e-4, 1e-3, 0.1), "x")] * 2
        chains.append(Chain(order, (802_816,), (1.0,), "random"))
        few, many = wide_plan(self.numbers(), chains)
        assert (few.dual, many.dual) == (False, True)
        assert [cut.made().sizes for cut in few.cuts] == [(80, 802)] * 2
        assert [cut.made().sizes for cut in many.cuts] == [(80_281,)] * 2 + [(802_816,)]
        assert [cut.number for cut in many.cuts] == [0, 1, 2]

    def test_layers_narrower_than_the_rows_are_solved_all_at_once(self):
        assert wide_plan(self.numbers(50_000, 2048), [random_chain(2048, [0.1, 1], 1)]) is None
        assert wide_plan(self.numbers(1020, 2048), [random_chain(2048, [0.1, 1], 1)]) is None

    def test_a_solver_that_sees_single_features_is_left_to_itself(self):
        assert wide_plan(self.numbers(dual=False), [subset_chain(range(99), 802_816)]) is None

    def test_chains_that_do_not_fit_together_are_solved_apart(self):
        chains = [random_chain(20_000, [0.08], seed) for seed in range(6)]
        made = wide_plan(self.numbers(50_000, 20_000, memory=400 << 20), chains)
        assert len(made) > 2
        assert sum(len(part.cuts) for part in made) == 6
        assert not any(part.dual for part in made)

    def test_neither_way_fits(self):
        chains = [Chain(np.arange(401_408), (401_408,), (0.5,), "x")]
        with pytest.raises(
            MemoryBudgetError, match=r"401408 features of 50000 rows.*allow at least"
        ):
            wide_plan(self.numbers(50_000), chains)
        need = self.numbers(50_000).dual_bytes(401_408)
        assert wide_plan(self.numbers(50_000, memory=need), chains)[0].dual

    def test_work_is_counted_in_multiplications(self):
        numbers = Problem(10, 100, 3, 2, 1 << 30)
        assert numbers.primal_work(20, [5, 6]) == 10 * 20**2 + 2 * (5**3 + 6**3) / 3
        assert numbers.dual_work([5, 6], 4) == pytest.approx(10**2 * 11 + 4 * 10**3 * (2 + 2 / 3))
        cuts = dual._cuts([Chain(np.arange(6), (5, 6), (0.1, 0.2), "x")], 0, 9)
        assert dual._work(numbers, [dual._WidePart(cuts, True)]) == numbers.dual_work([6], 2)

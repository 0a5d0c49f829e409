import numpy as np
import pytest
from problems import BACKENDS, PROBLEMS, clusters

import probe
from probe.blocks import ArrayBlocks
from probe.errors import DataError, MemoryBudgetError, UsageError
from probe.penalties import PATH
from probe.solvers import SOLVERS, Solver
from probe.validation import stratified_parts

LIST = (1e-3, 1e-1, 10.0)
SOLVED = ["ridge", "lda"]


def sweep(problem, **arguments):
    defaults = {"fractions": [0.2, 0.5], "seeds": [1, 2], "solver": "ridge", "device": "cpu"}
    defaults |= {"l2": LIST, "select": "validation"}
    return probe.sweep(problem.train, problem.test, **{**defaults, **arguments})


def noisy(seed: int = 0, n: int = 160):
    """Few rows of many features, so that the penalty matters."""
    return clusters(n, 200, 60, 3, seed=seed)


@pytest.mark.parametrize("solver", SOLVED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_choice_is_the_best_on_the_held_out_rows(solver, backend):
    """The oracle: fit each penalty on the remainder alone, score it on the held-out part."""
    problem = noisy()
    result = sweep(problem, solver=solver, backend=backend, device="auto").table
    parts = stratified_parts(problem.y, 0.1, 0)
    remainder, held_out = (
        (problem.x[rows], problem.y[rows]) for rows in (parts.train, parts.validation)
    )
    tried = probe.sweep(
        remainder, held_out, fractions=[0.2, 0.5], seeds=[1, 2], solver=solver, l2=LIST
    ).table
    for row in result.itertuples():
        mine = tried[(tried["seed"] == row.seed) & (tried["fraction"] == row.fraction)]
        best = mine[mine["accuracy"] == mine["accuracy"].max()]
        assert row.l2 == best["l2"].max()
        assert row.selection_accuracy == best["accuracy"].max()


@pytest.mark.parametrize("select", ["validation", "loo"])
def test_probes_are_then_solved_on_all_of_train(select):
    problem = noisy()
    result = sweep(problem, select=select)
    assert result.table["l2"].nunique() > 1
    assert set(result.table["l2_choice"]) == {select}
    for number, row in enumerate(result.table.itertuples()):
        given = sweep(problem, l2=row.l2, select=None)
        same = (given.table["seed"] == row.seed) & (given.table["fraction"] == row.fraction)
        weights = given.weights(int(np.flatnonzero(same)[0]))
        chosen = result.weights(number)
        assert (chosen.features == weights.features).all()
        assert np.allclose(chosen.coef, weights.coef, rtol=1e-6, atol=1e-9)
        assert row.accuracy == given.table["accuracy"][same].iloc[0]
        assert row.n_train == 160


def test_leave_one_out_takes_the_accuracy_of_refits_without_each_row():
    problem = noisy(n=40)
    chain = probe.random_chain(60, [0.1, 0.5], 3)
    result = probe.fit(problem.train, [chain], solver="ridge", l2=LIST, select="loo")
    for number, size in enumerate(chain.sizes):
        features = chain.order[:size]
        x = problem.x[:, features].astype(float) / problem.x[:, features].std(0)
        hits = [[_left_out(x, problem.y, row, l2) for row in range(40)] for l2 in LIST]
        best = 2 - np.argmax(np.mean(hits, 1)[::-1])
        assert result.table["l2"][number] == LIST[best]
        assert result.table["selection_accuracy"][number] == np.mean(hits[best])


def _left_out(x, y, row, l2) -> bool:
    kept = np.arange(len(x)) != row
    targets = np.eye(3)[y]
    centred, start = x[kept] - x[kept].mean(0), targets[kept].mean(0)
    matrix = centred.T @ centred + len(x) * l2 * np.eye(x.shape[1])
    coef = np.linalg.solve(matrix, centred.T @ (targets[kept] - start))
    return ((x[row] - x[kept].mean(0)) @ coef + start).argmax() == y[row]


@pytest.mark.parametrize(
    ("solver", "select"), [("ridge", "validation"), ("lda", "validation"), ("ridge", "loo")]
)
def test_test_rows_play_no_part_in_the_choice(solver, select):
    problem, random = noisy(), np.random.default_rng(0)
    first = sweep(problem, solver=solver, select=select)
    permuted = (problem.x_test, random.permutation(problem.y_test))
    second = probe.sweep(
        problem.train, permuted, fractions=[0.2, 0.5], seeds=[1, 2], solver=solver, l2=LIST,
        select=select, device="cpu",
    )  # fmt: skip
    for name in ("l2", "l2_place", "selection_accuracy", "status"):
        assert first.table[name].tolist() == second.table[name].tolist()
    assert first.table["accuracy"].tolist() != second.table["accuracy"].tolist()
    for row in range(len(first)):
        assert (first.weights(row).coef == second.weights(row).coef).all()


def test_the_path_is_taken_by_itself():
    table = sweep(noisy(), l2="auto", select=None).table
    assert set(table["l2"]) <= set(PATH)
    assert set(table["l2_choice"]) == {"validation"}
    assert len(table) == 2 * 3


def test_penalties_that_are_given_are_not_chosen():
    table = sweep(noisy(), select=None).table
    assert set(table["l2_choice"]) == {"given"}
    assert len(table) == 2 * 3 * 3
    assert "l2_place" not in table


def test_ends_of_the_path_are_named_and_ties_go_to_the_larger_penalty():
    random = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = y[:, None] * 100 + random.normal(size=(200, 4))  # every penalty is right on every row
    result = probe.sweep((x, y), (x, y), fractions=[0.5], l2=LIST, select="validation")
    assert result.table["l2"].tolist() == [10.0, 10.0]
    assert set(result.table["l2_place"]) == {"highest"}
    noise = random.normal(size=(90, 80))
    labels = (noise @ random.normal(size=80) > 0).astype(int)
    low = probe.sweep(
        (noise, labels),
        (noise, labels),
        solver="ridge",
        fractions=[0.9],
        l2=(1e-6, 1e6),
        select="loo",
    ).table
    assert set(low["l2_place"]) <= {"lowest", "highest"}
    assert (low["l2_place"] == "lowest").tolist() == (low["l2"] == 1e-6).tolist()


def test_another_share_or_seed_is_another_part():
    problem = noisy()
    tables = [
        sweep(problem, **changes).table
        for changes in ({}, {"held_out": 0.4}, {"held_out_seed": 7}, {})
    ]
    reached = [table["selection_accuracy"].tolist() for table in tables]
    assert reached[0] == reached[3]
    assert reached[0] != reached[1] != reached[2] != reached[0]
    assert "held_out=0.4 held_out_seed=0" in tables[1]["options"][0]


def test_a_failed_candidate_is_not_chosen(monkeypatch):
    def failing(train, chains, penalties, settings):
        fitted = SOLVERS["ridge"].fit(train, chains, penalties, settings)
        fitted.facts["status"] = np.where(fitted.axes.penalty == 2, "bad", "ok")
        return fitted

    monkeypatch.setitem(SOLVERS, "failing", Solver(failing, {"bad": "never"}))
    assert sweep(noisy(), solver="failing").table["l2"].max() <= LIST[1]


def test_any_solver_is_chosen_for_by_fits_on_rows(monkeypatch):
    """A solver that reads rows and knows no moments sees the remainder, then all of train."""
    seen = []

    def counting(train, chains, penalties, settings):
        seen.append((sum(len(labels) for _, labels in train), penalties))
        return SOLVERS["ridge"].fit(train, chains, penalties, settings)

    monkeypatch.setitem(SOLVERS, "counting", Solver(counting, moments=False))
    result = sweep(noisy(), solver="counting")
    assert seen[0] == (145, LIST)  # 5 rows of each class are held out
    assert all(rows == 160 and len(penalties) == 1 for rows, penalties in seen[1:])
    assert {penalties[0] for _, penalties in seen[1:]} == set(result.table["l2"])


def test_the_sgd_protocol_can_be_chosen_for_too():
    problem = noisy()
    table = sweep(problem, solver="sgd", l2=(1e-4, 1e-2), epochs=2, seeds=[1]).table
    assert set(table["l2"]) <= {1e-4, 1e-2}


def test_scores_of_other_rows_and_weights_agree():
    problem = noisy()
    result = sweep(problem).score((problem.x_test[:50], problem.y_test[:50]))
    for row, accuracy in enumerate(result.table["accuracy"]):
        predicted = result.weights(row).logits(problem.x_test[:50]).argmax(1)
        assert accuracy == (predicted == problem.y_test[:50]).mean()
    assert result.per_class().shape == (6, 3)
    assert result.raise_if_failed() is result


def test_blocks_give_the_same_as_arrays():
    problem = noisy()
    train, test = (ArrayBlocks(*rows, 3, block_rows=17) for rows in (problem.train, problem.test))
    blocks = probe.sweep(
        train, test, fractions=[0.2, 0.5], seeds=[1, 2], solver="ridge", l2=LIST,
        select="validation", device="cpu",
    )  # fmt: skip
    names = ["l2", "selection_accuracy", "accuracy"]
    assert blocks.table[names].equals(sweep(problem).table[names])


def test_a_class_of_one_row_cannot_be_held_out():
    problem = noisy()
    y = problem.y.copy()
    y[0] = 3
    with pytest.raises(DataError, match="class 3 has one train row"):
        probe.sweep((problem.x, y), problem.test, fractions=[0.5], l2="auto")


def test_only_ridge_leaves_one_out():
    with pytest.raises(UsageError, match="leave-one-out has a closed form for ridge alone"):
        sweep(noisy(), solver="lda", select="loo")


def test_too_little_memory_to_choose():
    problem = PROBLEMS["wide"]()
    width = problem.x.shape[1]
    with pytest.raises(MemoryBudgetError):
        sweep(problem, memory=8 * width * 2 * width)

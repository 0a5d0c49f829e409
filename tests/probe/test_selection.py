import re
from dataclasses import replace

import numpy as np
import pytest
from problems import BACKENDS, PROBLEMS, Problem, clusters
from scipy.special import logsumexp
from sklearn.datasets import load_digits

from featstore import probe
from featstore.probe import selection
from featstore.probe.errors import DataError, MemoryBudgetError, SelectionWarning, UsageError
from featstore.probe.memory import Settings
from featstore.probe.modes import ranked
from featstore.probe.moments import moments
from featstore.probe.rows import ArrayBlocks
from featstore.probe.selection import LADDER, Penalties
from featstore.probe.solvers import logistic
from featstore.probe.solvers.logistic import descent
from featstore.probe.solvers.registry import SOLVERS, Solver
from featstore.probe.splits import stratified_parts

LIST = (1e-3, 1e-1, 10.0)
FINE = (0.1, 0.13, 0.17, 0.22, 0.3, 0.4, 0.5)
SOLVED = ["ridge", "lda"]


def of(x, y):
    return moments(ArrayBlocks(x, y), Settings())


def sweep(problem, **arguments):
    defaults = {"fractions": [0.2, 0.5], "seeds": [1, 2], "solver": "ridge", "device": "cpu"}
    defaults |= {"l2": LIST, "select": "validation"}
    return probe.sweep(problem.train, problem.test, **{**defaults, **arguments})


def noisy(seed: int = 0, n: int = 160):
    """Few rows of many features, so that the penalty matters."""
    return clusters(n, 200, 60, 3, seed=seed)


def losses(solver: str, result, rows, row: int) -> tuple[float, int]:
    """Sum the loss that a solver's penalties are chosen by, and hits, of one probe."""
    logits, y = result.weights(row).logits(rows[0]), rows[1]
    hits = int((logits.argmax(1) == y).sum())
    if solver == "lda":
        return float(len(y) - hits), hits
    if solver == "ridge":
        return float(((logits - np.eye(logits.shape[1])[y]) ** 2).sum()), hits
    return float((logsumexp(logits, 1) - logits[np.arange(len(y)), y]).sum()), hits


@pytest.mark.parametrize("solver", SOLVED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_choice_is_the_best_on_the_held_out_rows(solver, backend):
    """The oracle: fit each penalty on each remainder alone, sum its losses on the parts."""
    problem = noisy()
    result = sweep(problem, solver=solver, backend=backend, device="auto").table
    chains = [probe.random_chain(60, [0.2, 0.5], 1), probe.random_chain(60, [0.2, 0.5], 2)]
    chains.append(probe.subset_chain(range(60), 60))
    total, hits = np.zeros((2, 5, len(LIST)))
    for part in stratified_parts(problem.y, 0.1, 0, 5):
        rows = problem.x[part.validation], problem.y[part.validation]
        for number, l2 in enumerate(LIST):
            fitted = probe.fit(
                (problem.x[part.train], problem.y[part.train]), chains, solver=solver, l2=l2
            )
            found = [losses(solver, fitted, rows, row) for row in range(5)]
            total[:, number] += [loss for loss, _ in found]
            hits[:, number] += [hit for _, hit in found]
    best = 2 - total[:, ::-1].argmin(1)  # of equals the largest
    of_probe = [0, 1, 4, 2, 3, 4]  # the whole layer stands in the rows of each seed
    assert result["l2"].tolist() == [LIST[best[p]] for p in of_probe]
    reached = [hits[p, best[p]] / 75 for p in of_probe]
    assert result["selection_accuracy"].tolist() == pytest.approx(reached)


@pytest.mark.parametrize("select", ["validation", "loo"])
def test_probes_are_then_solved_on_all_of_train(select):
    problem = noisy()
    result = sweep(problem, select=select, l2=FINE)
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


def test_leave_one_out_takes_the_squared_error_of_refits_without_each_row():
    problem = noisy(n=40)
    chain = probe.random_chain(60, [0.1, 0.5], 3)
    result = probe.fit(problem.train, [chain], solver="ridge", l2=LIST, select="loo")
    for number, size in enumerate(chain.sizes):
        features = chain.order[:size]
        x = problem.x[:, features].astype(float) / problem.x[:, features].std(0)
        logits = np.array([[_left_out(x, problem.y, r, l2) for r in range(40)] for l2 in LIST])
        best = ((logits - np.eye(3)[problem.y]) ** 2).sum((1, 2)).argmin()
        assert result.table["l2"][number] == LIST[best]
        hits = logits[best].argmax(1) == problem.y
        assert result.table["selection_accuracy"][number] == np.mean(hits)


def _left_out(x, y, row, l2) -> np.ndarray:
    kept = np.arange(len(x)) != row
    targets = np.eye(3)[y]
    centred, start = x[kept] - x[kept].mean(0), targets[kept].mean(0)
    matrix = centred.T @ centred + len(x) * l2 * np.eye(x.shape[1])
    coef = np.linalg.solve(matrix, centred.T @ (targets[kept] - start))
    return (x[row] - x[kept].mean(0)) @ coef + start


@pytest.mark.parametrize(
    ("solver", "select"), [("ridge", "validation"), ("lda", "loo"), ("ridge", "loo")]
)
def test_test_rows_play_no_part_in_the_choice(solver, select):
    problem, random = noisy(), np.random.default_rng(0)
    first = sweep(problem, solver=solver, select=select)
    permuted = (problem.x_test, random.permutation(problem.y_test))
    second = probe.sweep(
        problem.train,
        permuted,
        fractions=[0.2, 0.5],
        seeds=[1, 2],
        solver=solver,
        l2=LIST,
        select=select,
        device="cpu",
    )
    for name in ("l2", "l2_place", "selection_accuracy", "status"):
        assert first.table[name].tolist() == second.table[name].tolist()
    assert first.table["accuracy"].tolist() != second.table["accuracy"].tolist()
    for row in range(len(first)):
        assert (first.weights(row).coef == second.weights(row).coef).all()


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
@pytest.mark.parametrize("l2", ["auto", None])
def test_penalties_are_chosen_by_default(solver, l2):
    table = sweep(noisy(), solver=solver, l2=l2, select=None).table
    assert set(table["l2"]) <= set(LADDER)
    assert set(table["l2_choice"]) == {"validation" if solver == "logistic" else "loo"}
    assert set(table["l2_place"]) == {"inside"}
    assert len(table) == 2 * 3


def test_the_protocol_of_sgd_keeps_its_penalty():
    table = sweep(noisy(), solver=probe.SGD(epochs=1), l2=None, select=None, seeds=[1]).table
    assert (set(table["l2"]), set(table["l2_choice"])) == ({5e-4}, {"given"})


def test_penalties_that_are_given_are_not_chosen():
    table = sweep(noisy(), select=None).table
    assert set(table["l2_choice"]) == {"given"}
    assert len(table) == 2 * 3 * 3
    assert "l2_place" not in table


def test_ends_of_a_list_are_named_and_ties_go_to_the_larger_penalty():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(400, 4)), np.arange(400) % 2
    # noise: no penalty says anything, so that none is better than the largest
    table = probe.sweep((x, y), (x, y), fractions=[0.5], l2=LIST, select="validation").table
    assert table["l2"].tolist() == [10.0, 10.0]
    assert set(table["l2_place"]) == {"highest"}
    y = (x @ [1, 1, 1, 1] > 0).astype(int)
    table = probe.sweep(
        (x, y), (x, y), solver="ridge", fractions=[0.9], l2=(0.1, 1, 1e6), select="loo"
    ).table
    assert (set(table["l2"]), set(table["l2_place"])) == ({0.1}, {"lowest"})


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
@pytest.mark.parametrize("scale", [2.0**-20, 1024.0])
def test_the_range_is_that_of_the_features(scale, solver):
    """Without scaling, features c times as large want penalties c^2 times as large."""
    problem = noisy()
    train, test = ((x * np.float32(scale), y) for x, y in (problem.train, problem.test))
    wanted = {"fractions": [0.2, 0.5], "solver": solver, "standardize": False, "device": "cpu"}
    table = probe.sweep(problem.train, problem.test, **wanted).table
    scaled = probe.sweep(train, test, **wanted).table
    assert set(scaled["l2_place"]) == {"inside"}
    rungs = np.log10(scaled["l2"] / table["l2"]) - 2 * np.log10(scale)
    assert np.abs(rungs).max() < 0.55
    assert scaled["accuracy"].tolist() == pytest.approx(table["accuracy"].tolist(), abs=0.05)


def test_the_range_is_extended_upwards_until_no_end_is_chosen():
    """Where each feature stands 400 times, penalties as much larger give the same probe."""
    problem = noisy()
    x, x_test = (np.tile(rows, (1, 400)) for rows in (problem.x, problem.x_test))
    table = probe.sweep(
        (x, problem.y), (x_test, problem.y_test), fractions=[0.001], solver="ridge"
    ).table
    assert table["l2"].iloc[-1] > 10
    assert set(table["l2_place"]) == {"inside"}


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
    # 5 rows of each class are held out, five times, from the largest penalty down
    assert seen[:15] == [(145, (l2,)) for l2 in LIST[::-1] for _ in range(5)]
    assert all(rows == 160 and len(penalties) == 1 for rows, penalties in seen[15:])
    assert {penalties[0] for _, penalties in seen[15:]} == set(result.table["l2"])


def test_the_sgd_protocol_can_be_chosen_for_too():
    problem = noisy()
    table = sweep(
        problem,
        solver=probe.SGD(l2=(1e-4, 1e-2), select="validation", epochs=2),
        l2=None,
        select=None,
        seeds=[1],
    ).table
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
        train,
        test,
        fractions=[0.2, 0.5],
        seeds=[1, 2],
        solver="ridge",
        l2=LIST,
        select="validation",
        device="cpu",
    )
    names = ["l2", "selection_accuracy", "accuracy"]
    assert blocks.table[names].equals(sweep(problem).table[names])


@pytest.mark.parametrize(("solver", "select"), [("logistic", None), ("ridge", "validation")])
def test_the_only_row_of_a_class_stays_in_the_part_that_is_fitted(solver, select):
    problem = noisy()
    y = problem.y.copy()
    y[0] = 3
    with pytest.warns(SelectionWarning, match=r"1 class has one train row \(3\): it stays"):
        table = probe.sweep(
            (problem.x, y), problem.test, fractions=[0.5], solver=solver, l2="auto", select=select
        ).table
    assert np.isfinite(table["accuracy"]).all()


@pytest.mark.parametrize("solver", ["ridge", "lda"])
def test_the_only_row_of_a_class_does_not_decide_by_leave_one_out(solver):
    problem = noisy()
    y = problem.y.copy()
    before = sweep(problem, solver=solver, l2=None, select=None).table["l2"]
    y[0] = 3
    after = probe.sweep(
        (problem.x, y), problem.test, fractions=[0.2, 0.5], seeds=[1, 2], solver=solver
    ).table["l2"]
    assert np.abs(np.log10(after / before)).max() < 0.55


def test_classes_of_one_row_each_cannot_choose():
    x = np.random.default_rng(0).normal(size=(6, 4))
    with pytest.raises(DataError, match="no row can be held out to choose a penalty by"):
        probe.fit((x, np.arange(6)), [probe.subset_chain([0, 1], 4)])


def test_only_closed_forms_leave_one_out():
    with pytest.raises(UsageError, match="closed form for ridge, lda and knn"):
        sweep(noisy(), solver="logistic", select="loo")


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
@pytest.mark.parametrize("mode", ["fisher", "greedy"])
def test_orders_that_labels_made_tell_nothing_of_noise(solver, mode):
    """On noise the best of many features look good to whoever has seen the labels already."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(400, 600)).astype(np.float32), np.arange(400) % 2
    x_test, y_test = random.normal(size=(400, 600)).astype(np.float32), np.arange(400) % 2
    table = probe.sweep(
        (x, y), (x_test, y_test), fractions=[0.05, 0.2], mode=mode, solver=solver, device="cpu"
    ).table
    parts = table[table["fraction"] < 1]
    assert set(parts["l2_choice"]) == {"validation"}
    assert (parts["selection_accuracy"] - 0.5).abs().max() < 0.08  # three standard errors
    # with orders of all rows it would be far from that
    chain = replace(probe.random_chain(600, [0.2], 1), order=ranked(mode, of(x, y), 600))
    leaky = probe.fit((x, y), [chain], solver=solver).table
    assert leaky["selection_accuracy"][0] > 0.7


def test_orders_of_the_final_probes_come_from_all_rows():
    problem = noisy()
    result = sweep(problem, mode="fisher", fractions=[0.2], seeds=[1], l2=None, select=None)
    order = ranked("fisher", of(*problem.train), 60)
    assert (result.weights(0).features == order[:12]).all()
    assert probe.summary(result.table)["ratio"].notna().all()


def dead_relu(n: int = 500, d: int = 350):
    """Targets of many features, of which one is other than zero in a single train row."""
    random = np.random.default_rng(3)
    truth = random.normal(size=d) / np.sqrt(d)
    x, x_test = random.normal(size=(2, n, d)).astype(np.float32)
    x[:, 7] = x_test[:, 7] = 0
    x[5, 7] = 1
    y, y_test = (rows @ truth + random.normal(size=n) * 0.7 for rows in (x, x_test))
    return x, y, x_test, y_test


def test_a_row_of_leverage_one_does_not_decide():
    x, y, x_test, y_test = dead_relu()
    wanted = {"fractions": [0.5], "solver": "ridge", "device": "cpu"}
    alive = np.arange(350) != 7
    table = probe.sweep((x, y), (x_test, y_test), **wanted).table
    without = probe.sweep((x[:, alive], y), (x_test[:, alive], y_test), **wanted).table
    assert np.isfinite(table["selection_accuracy"]).all()
    assert table["l2"].iloc[-1] == without["l2"].iloc[-1]
    assert table["r2"].iloc[-1] == pytest.approx(without["r2"].iloc[-1], abs=0.01)
    best = max(
        probe.sweep((x, y), (x_test, y_test), l2=l2, **wanted).table["r2"].iloc[-1]
        for l2 in LADDER[8:22]
    )
    assert table["r2"].iloc[-1] > best - 0.03


def test_a_search_takes_no_loss_that_is_not_finite():
    search = selection.Search(3, 1.0)
    search.restart(np.ones(3, bool))
    nothing, none = np.zeros(3), np.zeros(3, bool)
    search.take(4, np.array([np.nan, 0.5, np.inf]), nothing + 0.3, none)
    search.take(3, np.array([0.7, np.nan, np.nan]), nothing + 0.4, none)
    search.take(2, np.array([0.6, 0.4, np.nan]), nothing + 0.5, np.array([True, False, False]))
    assert search.chosen.tolist() == [3, 2, 4]
    assert search.accuracy[:2].tolist() == [0.4, 0.5]
    assert np.isnan(search.accuracy[2])


def test_zero_inflated_numbers_are_chosen_for():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 40))
    y = np.where(random.random(300) < 0.97, 0.0, np.exp(x[:, 0] + 3))
    for select in ("validation", "loo"):
        table = probe.sweep(
            (x, y), (x, y), fractions=[0.5], solver="ridge", l2="auto", select=select
        ).table
        assert np.isfinite(table["selection_accuracy"]).all()
        assert set(table["l2_place"]) == {"inside"}


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
def test_views_are_chosen_for_by_whole_images(solver):
    problem = noisy()
    blocks = ArrayBlocks(
        np.concatenate([problem.x, problem.x + 0.1]), np.tile(problem.y, 2), n_views=2
    )
    table = probe.sweep(blocks, problem.test, fractions=[0.5], solver=solver).table
    assert set(table["l2_choice"]) == {"validation"}
    if solver != "logistic":
        with pytest.raises(UsageError, match="one of 2 views"):
            probe.sweep(blocks, problem.test, fractions=[0.5], solver=solver, select="loo")


def test_too_little_memory_to_choose():
    problem = PROBLEMS["wide"]()
    width = problem.x.shape[1]
    with pytest.raises(MemoryBudgetError):
        sweep(problem, memory=8 * width * 2 * width)


def digits(n: int):
    x, y = load_digits(return_X_y=True)
    x = np.hstack([x, x**2, np.random.default_rng(0).normal(size=(len(x), 32))])
    x = (x + np.random.default_rng(1).normal(size=x.shape) * 3).astype(np.float32)
    return Problem(x[:n], y[:n], x[n:], y[n:])


def mislabelled(problem: Problem) -> Problem:
    """Give every fourth train row another class, so that no penalty separates them."""
    y = problem.y.copy()
    y[::4] = (y[::4] + 1) % 3
    return Problem(problem.x, y, *problem.test)


ON_A_PATH = {
    "clusters": lambda: clusters(240, 200, 60, 3),
    "imbalanced": lambda: PROBLEMS["imbalanced"](),
    "digits": lambda: digits(300),
    "more features than rows": lambda: mislabelled(clusters(80, 80, 120, 3)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", ON_A_PATH)
def test_a_path_that_is_left_early_chooses_as_the_whole_grid_does(name, monkeypatch):
    """The oracle: every penalty to its optimum, on every part, and then the smallest loss."""
    problem, solved = ON_A_PATH[name](), []

    def counting(tiles, running, report):
        solved.append([(one.descent.l2, len(one.sheet)) for one in running])
        return descent.minimise(tiles, running, report)

    monkeypatch.setattr(logistic, "minimise", counting)
    d = problem.x.shape[1]
    chains = [probe.random_chain(d, [0.2, 0.6], 1), probe.subset_chain(range(d), d)]
    table = probe.fit(problem.train, chains).table
    tried = {l2 for one in solved for l2, _ in one}
    monkeypatch.undo()
    grid = LADDER[8:21]
    assert min(tried) > 1e-6  # the weak penalties, which take the most steps, are not solved
    counts = len(np.unique(problem.y))
    parts = stratified_parts(problem.y, 0.1, 0, 5)
    total = np.zeros((3, len(grid)))
    for part in parts:
        rows = problem.x[part.validation], problem.y[part.validation]
        remainder = problem.x[part.train], problem.y[part.train]
        fitted = probe.fit(remainder, chains, solver=probe.Logistic(l2=grid, tol=1e-3))
        scored = fitted.score(probe.ArrayBlocks(*rows, counts), ["nll"]).table
        found = scored.pivot_table(index="k", columns="l2", values="nll").to_numpy()
        total += found * len(rows[1])
    for row, (_, probe_row) in enumerate(table.iterrows()):
        at = grid.index(probe_row.l2)
        assert total[row, at] <= total[row].min() * 1.02
        assert abs(at - total[row].argmin()) <= 2


def test_probes_on_a_path_are_then_solved_to_their_optimum():
    problem = clusters(240, 200, 60, 3)
    result = sweep(problem, solver="logistic", l2=None, select=None)
    assert result.table["l2"].nunique() > 1
    assert set(result.table["status"]) == {"converged"}
    for l2 in set(result.table["l2"]):
        given = sweep(problem, solver="logistic", l2=l2, select=None)
        for row in np.flatnonzero(result.table["l2"] == l2):
            one, other = result.table.iloc[row], given.table.iloc[row]
            assert one["objective"] == pytest.approx(other["objective"], rel=1e-5)
            assert np.allclose(result.weights(row).coef, given.weights(row).coef, atol=0.02)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["pca", "greedy"])
def test_paths_of_directions_and_of_orders_that_are_made_again(mode):
    problem = digits(300)
    table = sweep(problem, solver="logistic", mode=[mode, "random"], l2=None, select=None).table
    assert np.isfinite(table["selection_accuracy"]).all()
    assert set(table["l2_place"]) == {"inside"}
    # the test rows are of other writers
    assert (table["selection_accuracy"] - table["accuracy"]).abs().max() < 0.25


def test_fewer_parts_are_held_out_where_memory_holds_no_more():
    problem = clusters(300, 40, 60, 5)
    arguments = {"fractions": [0.4], "seeds": [1], "solver": "logistic", "device": "cpu"}
    with pytest.warns(SelectionWarning, match=r"chosen on \d held-out parts? .* not on 5"):
        tight = probe.sweep(problem.train, problem.test, memory="2MiB", **arguments).table
    ample = probe.sweep(problem.train, problem.test, **arguments).table
    assert (tight["status"] == ample["status"]).all()
    assert tight["accuracy"].to_numpy() == pytest.approx(ample["accuracy"].to_numpy(), abs=0.1)


@pytest.mark.parametrize(("single", "end"), [(5, "6)"), (6, "6, ...)"), (7, "6, ...)")])
def test_five_classes_of_one_row_are_named(single, end):
    y = np.concatenate([np.repeat([0, 1], 10), 2 + np.arange(single)])
    named = f"{single} classes have one train row (2, 3, 4, 5, {end}"
    with pytest.warns(SelectionWarning, match=re.escape(named)):
        selection._tell_of_single_rows(ArrayBlocks(np.zeros((len(y), 3), np.float32), y))


def test_the_range_is_in_units_of_the_features_to_half_a_decade():
    by_itself = Penalties(LADDER, automatic=True)
    assert by_itself.in_units(1.0).values == LADDER
    assert by_itself.in_units(90.0).values == pytest.approx([100 * v for v in LADDER], rel=1e-2)
    assert by_itself.in_units(3.0).values[:-1] == pytest.approx(LADDER[1:], rel=1e-2)
    assert by_itself.in_units(0.0) is by_itself
    given = Penalties((0.1, 1.0))
    assert given.in_units(90.0) is given


@pytest.mark.parametrize(
    ("loss", "known"),
    [("errors", 0.25), ("squared", 0.375), ("log", -0.75 * np.log(0.75) - 0.25 * np.log(0.25))],
)
def test_a_probe_without_features_says_the_shares_of_the_classes(loss, known):
    train = ArrayBlocks(np.zeros((8, 2), np.float32), np.repeat([0, 2], [6, 2]), 3)
    entry = replace(SOLVERS["ridge"], loss=loss)
    assert selection._without_features(entry, train) == pytest.approx(known)


def test_one_process_of_several_names_classes_of_one_row(monkeypatch):
    monkeypatch.setattr(selection, "rank", lambda: 1)
    selection._tell_of_single_rows(ArrayBlocks(np.zeros((3, 2), np.float32), np.array([0, 0, 1])))

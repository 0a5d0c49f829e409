"""Modes: which features or directions are probed, against independent ways to come by them."""

from itertools import permutations, product

import numpy as np
import pytest
from click.testing import CliRunner
from problems import PROBLEMS, clusters, exact_ridge, relative
from sklearn.feature_selection import f_classif

from featstore import probe
from featstore.cli import main
from featstore.probe.errors import UsageError
from featstore.probe.memory import Settings
from featstore.probe.modes import (
    MODES,
    by_fisher,
    by_variance,
    fisher_scores,
    greedy_order,
    independent_draw,
    modes_of,
    ranked,
    read_indices,
    rises_without,
    shapley_gains,
)
from featstore.probe.moments import moments
from featstore.probe.results.files import read_table
from featstore.probe.rows import as_blocks
from featstore.probe.subsets import every_size, random_order


def moments_of(rows):
    return moments(as_blocks(rows), Settings())


def sweep(problem, **arguments):
    defaults = {"fractions": [0.1, 0.5], "seeds": [1, 2], "solver": "ridge", "device": "cpu"}
    return probe.sweep(problem.train, problem.test, **{**defaults, **arguments})


def scaled():
    """Features whose variances differ."""
    problem = clusters(300, 100, 20, 4)
    factors = np.random.default_rng(1).uniform(0.1, 10, 20).astype(np.float32)
    return type(problem)(problem.x * factors, problem.y, problem.x_test * factors, problem.y_test)


def first_features(result, mode, fraction=0.5):
    table = result.table
    rows = np.flatnonzero((table["mode"] == mode) & (table["fraction"] == fraction))
    return [result.weights(int(row)).features.tolist() for row in rows]


def test_each_order_is_what_its_name_says():
    problem = scaled()
    modes = ["first", "last", "variance", "fisher", "greedy"]
    result = sweep(problem, mode=modes)
    falling = np.argsort(-problem.x.var(0))
    f_values = f_classif(problem.x, problem.y)[0]
    wanted = {
        "first": range(10),
        "last": range(19, 9, -1),
        "variance": falling[:10],
        "fisher": np.argsort(-f_values)[:10],
    }
    for mode, features in wanted.items():
        assert first_features(result, mode) == [list(features)]
    assert result.table["seed"].isna().all()
    assert result.table["mode"].tolist() == [mode for mode in modes for _ in range(3)]


def test_fisher_scores_are_those_of_an_analysis_of_variance():
    for name in ("tall", "imbalanced", "two classes"):
        problem = PROBLEMS[name]()
        n, c = len(problem.x), problem.n_classes
        expected = f_classif(problem.x, problem.y)[0] * (c - 1) / (n - c)
        assert np.allclose(fisher_scores(moments_of(problem.train)), expected, rtol=1e-3)


def objective(problem, features, l2=1e-3):
    """The minimum of the ridge objective on some features, less that on none."""
    x, y = problem.x.astype(np.float64), np.eye(problem.n_classes)[problem.y]
    x, y = (x - x.mean(0)) / x.std(0), y - y.mean(0)
    if not len(features):
        return 0.0
    matrix = x[:, features].T @ x[:, features] / len(x) + l2 * np.eye(len(features))
    cross = x[:, features].T @ y / len(x)
    return -float((cross * np.linalg.solve(matrix, cross)).sum()) / 2


def test_without_each_feature_the_objective_rises_as_refits_do():
    problem = clusters(200, 10, 12, 3)
    every = np.arange(12)
    wanted = [objective(problem, np.delete(every, j)) - objective(problem, every) for j in every]
    train = moments_of(problem.train)
    assert np.allclose(rises_without(train), wanted, rtol=1e-4)
    assert ranked("drop-one", train, 12).tolist() == np.argsort(-np.array(wanted)).tolist()


def test_shapley_gains_are_those_of_all_orders():
    problem, every = clusters(200, 10, 5, 3), range(5)
    wanted = np.zeros(5)
    for order in permutations(every):
        for place, j in enumerate(order):
            before = list(order[:place])
            wanted[j] += objective(problem, before) - objective(problem, [*before, j])
    wanted /= 120
    train = moments_of(problem.train)
    found = shapley_gains(train, permutations=4000)
    assert found.sum() == pytest.approx(-objective(problem, list(every)), rel=1e-5)
    assert np.allclose(found, wanted, rtol=0.02)
    # pairs of orders: an odd number is rounded up, and one pair holds two
    pair = shapley_gains(train, permutations=1, seed=3)
    assert np.allclose(pair, shapley_gains(train, permutations=2, seed=3))


@pytest.mark.parametrize("mode", ["drop-one", "shapley"])
def test_orders_by_attribution_see_train_rows_alone(mode):
    problem = scaled()
    others = type(problem)(problem.x, problem.y, problem.x_test[::-1] + 3, problem.y_test)
    one, two = (first_features(sweep(each, mode=mode), mode) for each in (problem, others))
    assert one == two
    shuffled = problem.x[:, ::-1].copy(), problem.y
    moved = ranked(mode, moments_of(shuffled), 20)
    if mode == "drop-one":
        assert (19 - moved).tolist() == ranked(mode, moments_of(problem.train), 20).tolist()


def test_features_without_variance_are_last():
    problem = PROBLEMS["constant features"]()
    train, constant = moments_of(problem.train), np.arange(0, 40, 5)
    of_objective = [ranked(name, train, 40) for name in ("drop-one", "shapley")]
    for order in (by_variance(train), by_fisher(train), greedy_order(train, 40), *of_objective):
        assert sorted(order[-len(constant) :]) == constant.tolist()


def test_features_that_tell_classes_exactly_are_first():
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    x[:, 3] = y
    scores = fisher_scores(moments_of((x, y)))
    assert np.isinf(scores[3])
    assert np.isfinite(np.delete(scores, 3)).all()


@pytest.mark.parametrize("standardize", [True, False])
def test_greedy_is_what_a_search_over_all_candidates_finds(standardize):
    problem = scaled()
    x = problem.x.astype(np.float64)
    x = (x - x.mean(0)) / (x.std(0) if standardize else 1)
    targets = np.eye(4)[problem.y]
    targets = targets - targets.mean(0)
    gram, cross, chosen = x.T @ x / len(x), x.T @ targets / len(x), []
    for _ in range(8):

        def gain(j):
            own = [*chosen, j]
            system = gram[np.ix_(own, own)] + 0.05 * np.eye(len(own))
            return np.trace(cross[own].T @ np.linalg.solve(system, cross[own]))

        chosen.append(max((j for j in range(20) if j not in chosen), key=gain))
    assert greedy_order(moments_of(problem.train), 8, standardize, 0.05).tolist() == chosen


def test_greedy_selects_for_numbers_and_leaves_duplicates_for_later():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 12))
    x[:, 6:] = x[:, :6]
    y = x[:, [2, 4]] @ [[3.0], [1.0]] + 0.1 * random.normal(size=(400, 1))
    reported = []
    order = greedy_order(
        moments_of((x, y)), 12, progress=lambda stage, done, total: reported.append((done, total))
    )
    assert order[:2].tolist() == [2, 4]
    assert sorted(order) == list(range(12))
    assert reported[-1] == (12, 12)


def test_fisher_of_numbers_names_the_remedy():
    x = np.random.default_rng(0).normal(size=(50, 8))
    with pytest.raises(UsageError, match="take mode greedy"):
        probe.sweep((x, x[:, 0]), (x, x[:, 0]), fractions=[0.5], solver="ridge", mode="fisher")
    found = probe.sweep((x, x[:, 0]), (x, x[:, 0]), fractions=[0.25], solver="ridge", mode="greedy")
    assert found.table["r2"].iloc[0] > 0.99


def test_independent_subsets_do_not_depend_on_the_grid():
    problem = clusters(200, 60, 20, 3)
    few = sweep(problem, mode="independent", fractions=[0.5])
    many = sweep(problem, mode="independent", fractions=[0.1, 0.5, 0.9])
    assert first_features(few, "independent") == first_features(many, "independent")
    for seed, features in zip([1, 2], first_features(many, "independent"), strict=True):
        assert features == independent_draw(20, 10, seed).tolist()
        small, large = (set(independent_draw(20, k, seed)) for k in (10, 18))
        assert not small <= large
    assert few.table["seed"].tolist() == [1, 1, 2, 2]


def test_several_modes_share_one_whole_layer():
    problem = PROBLEMS["tall"]()
    result = sweep(problem, mode=["random", "independent", "first", "last"], l2=[0.1, 1.0])
    table = result.table
    whole = table["fraction"] == 1
    assert whole.sum() == (2 + 2 + 1 + 1) * 2
    assert len(set(result.probes[whole])) == 2
    assert len(result.fitted.axes) == 2 * (2 * 2 + 4 + 2 + 2 + 1)
    assert (
        table["mode"].tolist()
        == ["random"] * 12 + ["independent"] * 12 + ["first"] * 6 + ["last"] * 6
    )
    alone = sweep(problem, l2=[0.1, 1.0]).table
    assert table["accuracy"][:12].tolist() == alone["accuracy"].tolist()


def test_sgd_has_a_whole_layer_for_each_seed_that_starts_elsewhere():
    problem, options = clusters(100, 40, 12, 3), {"solver": probe.SGD(epochs=1, one_start=False)}
    modes = ["independent", "random", "last", "first"]
    result = sweep(problem, mode=modes, **options)
    whole = result.table["fraction"] == 1
    assert whole.sum() == 2 + 2 + 1 + 1
    probes = result.probes[whole].tolist()
    assert probes[:2] == probes[2:4]
    assert probes[4] == probes[5]
    assert len(set(probes)) == 3
    alone = sweep(problem, mode=["last", "independent"], **options)
    assert len(set(alone.probes[alone.table["fraction"] == 1])) == 3
    released = sweep(problem, mode=modes, solver=probe.SGD(epochs=1))
    assert len(set(released.probes[released.table["fraction"] == 1])) == 1


def test_indices_of_ones_own(tmp_path):
    problem = PROBLEMS["tall"]()
    np.save(tmp_path / "mine.npy", np.array([7, 3, 30]))
    (tmp_path / "mine.txt").write_text("7\n3\n30\n")
    for mode in ([7, 3, 30], f"indices:{tmp_path}/mine.npy", [f"indices:{tmp_path}/mine.txt"]):
        result = sweep(problem, mode=mode)
        assert result.table[["mode", "k"]].values.tolist() == [["indices", 3], ["indices", 40]]
        assert result.table["fraction"].tolist() == [3 / 40, 1]
        assert result.weights(0).features.tolist() == [7, 3, 30]
    both = sweep(problem, mode=["random", np.array([7, 3, 30])])
    assert both.table["mode"].tolist() == ["random"] * 6 + ["indices"] * 2
    assert sweep(problem, mode=range(40)).table["k"].tolist() == [40]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("best", "no mode is called 'best': there are random"),
        (["random", "random"], "given twice"),
        ([], "no mode given"),
        ("indices", "indices:FILE"),
        ("indices:nowhere.txt", "nowhere.txt holds no feature indices"),
        ([[0, 40]], "feature 40 of 40"),
        ([[1, 1]], "twice"),
        ([["random"]], "integer"),
    ],
)
def test_modes_that_cannot_be_used(mode, message):
    with pytest.raises(UsageError, match=message):
        sweep(PROBLEMS["tall"](), mode=mode)


def test_files_that_hold_no_indices(tmp_path):
    for name, text in {"words.txt": "one", "empty.txt": "", "broken.npy": "x"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match="indices"):
            read_indices(tmp_path / name)


def test_every_k_is_every_prefix():
    problem = clusters(200, 60, 13, 3)
    assert every_size(3).fractions == (1 / 3, 2 / 3, 1.0)
    for solver, mode in product(["ridge", "lda"], [["random", "last"], "variance"]):
        table = sweep(problem, solver=solver, mode=mode, fractions=None, every_k=True).table
        for _, curve in table.groupby(["mode", "seed"], dropna=False):
            assert curve["k"].tolist() == list(range(1, 14))
            assert curve["fraction"].tolist() == [k / 13 for k in range(1, 14)]
    result = sweep(problem, seeds=[3], fractions=None, every_k=True, l2=1e-3)
    order = random_order(13, 3)
    for row in range(12):
        exact = exact_ridge(problem.x, problem.y, order[: row + 1], 1e-3)
        assert relative(result.weights(row).logits(problem.x), exact.logits(problem.x)) < 1e-4
        hits = exact.logits(problem.x_test).argmax(1) == problem.y_test
        assert result.table["accuracy"][row] == hits.mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_k": True, "solver": "logistic"}, "ridge or lda"),
        ({"every_k": True, "solver": "sgd"}, "ridge or lda"),
        ({"every_k": True, "fractions": [0.5]}, "leave out fractions"),
        ({}, "no fractions"),
    ],
)
def test_every_k_is_of_some_solvers_alone(arguments, message):
    with pytest.raises(UsageError, match=message):
        sweep(clusters(50, 20, 6, 2), **{"fractions": None, **arguments})


def test_names_that_modes_have():
    assert list(modes_of(list(MODES))) == list(MODES)


@pytest.mark.parametrize("mode", [["independent", "greedy"], ["last", "random"]])
def test_an_interrupted_sweep_is_resumed(mode, tmp_path):
    problem, out = clusters(200, 60, 20, 3), tmp_path / "r.csv"
    arguments = {
        "mode": mode,
        "fractions": [0.1, 0.3, 0.5, 0.7],
        "seeds": range(1, 6),
        "l2": [0.01, 0.1, 1.0],
    }
    arguments["out"] = out
    whole = sweep(problem, **arguments)
    complete = out.read_bytes()

    class Stopped(Exception):
        pass

    def stop(result):
        raise Stopped

    out.unlink()
    first = []
    with pytest.raises(Stopped):
        sweep(problem, each=lambda r: first.append(r) if not first else stop(r), **arguments)
    resumed = sweep(problem, resume=True, **arguments)
    assert resumed.table["accuracy"].tolist() == whole.table["accuracy"].tolist()
    assert out.read_bytes() == complete


def command(*words, status=0):
    ran = CliRunner().invoke(main, ["probe", *map(str, words)])
    assert ran.exit_code == status, ran.output
    return ran


def test_the_command_takes_several_modes_and_every_k(tiny_store, tmp_path):
    out, indices = tmp_path / "r.csv", tmp_path / "mine.txt"
    indices.write_text("5\n1\n")
    common = [tiny_store.path, "--seeds", "2", "--solver", "ridge", "--device", "cpu", "--out", out]
    modes = f"random,pca,random-projection,indices:{indices}"
    command(*common, "--fractions", "0.25", "--mode", modes, "--cka")
    table = read_table(out)
    assert (
        table["mode"].tolist()
        == ["random"] * 4 + ["pca"] * 2 + ["random-projection"] * 4 + ["indices"] * 2
    )
    assert table["cka"].between(0, 1 + 1e-9).all()
    command(*common, "--every-k", "--mode", "first")
    assert read_table(out)["k"].tolist() == list(range(1, 65))
    assert "no fractions given" in command(*common, status=2).output
    assert "ridge or lda" in command(*common[:3], "--every-k", status=2).output

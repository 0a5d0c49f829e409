"""Attributions against refits by scikit-learn, all subsets, and simulated rows."""

from dataclasses import replace
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, spearmanr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge as SklearnRidge

from featstore.probe import Logistic, Ridge, drop_one, shapley
from featstore.probe.ablation import Changes
from featstore.probe.attribution import agreement, attributed
from featstore.probe.errors import DataError, MemoryBudgetError, ProbeFailed, UsageError
from featstore.probe.results.intervals import score_interval


def problem(n_train=300, n_test=200, width=12, classes=4, seed=0, spread=1.0):
    """Rows of classes around random means, with features that share some noise."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(classes, width))
    mixed = np.eye(width) + 0.3 * random.normal(size=(width, width))
    labels = np.arange(n_train + n_test) % classes
    x = spread * random.normal(size=(len(labels), width)) @ mixed + means[labels]
    x = 3 * x + random.normal(size=width)
    return (x[:n_train], labels[:n_train]), (x[n_train:], labels[n_train:])


def refitted(train, test, solver, l2, standardize, columns):
    """Logits (n, C) of scikit-learn's probe on some columns."""
    x, y = train[0][:, columns], train[1]
    mean, scale = x.mean(0), x.std(0) if standardize else 1.0
    x, rows = (x - mean) / scale, (test[0][:, columns] - mean) / scale
    if not len(columns):
        shares = np.bincount(y) / len(y)
        return np.tile(np.log(shares) if solver == "lda" else shares, (len(rows), 1))
    if solver == "ridge":
        fitted = SklearnRidge(alpha=len(y) * l2).fit(x, np.eye(y.max() + 1)[y])
        return fitted.predict(rows)
    if l2 == 0:
        return LinearDiscriminantAnalysis(solver="lsqr").fit(x, y).decision_function(rows)
    means = np.stack([x[y == c].mean(0) for c in range(y.max() + 1)])
    within = (x - means[y]).T @ (x - means[y]) / len(y) + l2 * np.eye(len(columns))
    along = np.linalg.solve(within, means.T)
    return rows @ along - (means.T * along).sum(0) / 2 + np.log(np.bincount(y) / len(y))


def judged(logits, labels, solver):
    """Hits and losses of each row."""
    hits = logits.argmax(1) == labels
    if solver == "ridge":
        return hits, ((logits - np.eye(logits.shape[1])[labels]) ** 2).sum(1)
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return hits, -logs[np.arange(len(labels)), labels]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("solver", "l2"), [("ridge", 0.1), ("ridge", 0), ("lda", 0.1), ("lda", 0)])
def test_each_feature_left_out_is_a_refit_without_it(solver, l2, standardize):
    train, test = problem()
    table = drop_one(train, test, solver, l2, standardize=standardize, resamples=50)
    hits, losses = judged(
        refitted(train, test, solver, l2, standardize, np.arange(12)), test[1], solver
    )
    for feature in range(12):
        columns = np.delete(np.arange(12), feature)
        logits = refitted(train, test, solver, l2, standardize, columns)
        without, loss = judged(logits, test[1], solver)
        change = without.astype(float) - hits
        row = table.loc[feature]
        n = len(change)
        assert row["accuracy"] == pytest.approx(without.mean(), abs=1e-12)
        assert row["change"] == pytest.approx(change.mean(), abs=1e-12)
        assert row["standard_error"] == pytest.approx(change.std(ddof=1) / n**0.5, abs=1e-12)
        assert row["loss_change"] == pytest.approx((loss - losses).mean(), abs=1e-8)
        error = (loss - losses).std(ddof=1) / n**0.5
        assert row["loss_standard_error"] == pytest.approx(error, rel=1e-6)
        alone = refitted(train, test, solver, l2, standardize, np.array([feature]))
        assert row["solo"] == (alone.argmax(1) == test[1]).mean()
    assert table["loss_change"].abs().max() > 1e-3
    if solver == "ridge":
        x = (train[0] - train[0].mean(0)) / (train[0].std(0) if standardize else 1)
        fitted = SklearnRidge(alpha=300 * l2).fit(x, np.eye(4)[train[1]])
        assert np.allclose(table["weight"], np.linalg.norm(fitted.coef_, axis=0), rtol=1e-8)


@pytest.mark.parametrize("solver", ["ridge", "lda"])
def test_little_memory_and_numpy_give_the_same(solver):
    train, test = problem(width=40)
    whole = drop_one(train, test, solver, resamples=20, seed=3)
    tight = drop_one(train, test, solver, resamples=20, seed=3, memory=300_000)
    on_numpy = drop_one(train, test, solver, resamples=20, seed=3, backend="numpy")
    for other in (tight, on_numpy):
        pd.testing.assert_frame_equal(whole, other, rtol=1e-6, atol=1e-9)
    values = [
        shapley(train, test, solver, permutations=3, **how).table
        for how in ({}, {"memory": 150_000}, {"backend": "numpy"})
    ]
    for other in values[1:]:
        pd.testing.assert_frame_equal(values[0], other, rtol=1e-8, atol=1e-10)
    with pytest.raises(MemoryBudgetError, match="too little for an attribution"):
        drop_one(train, test, solver, memory=20_000)


def test_constant_and_repeated_features_change_nothing():
    train, test = problem()
    more = [
        (np.concatenate([x, np.full((len(x), 1), 2.5), x[:, :1]], 1), y) for x, y in (train, test)
    ]
    table = drop_one(*more, l2=1e-6)
    assert table.loc[12, ["change", "standard_error", "p"]].tolist() == [0, 0, 1]
    assert not table.loc[12, "degrading"]
    # that no row of 200 changes leaves room for a few in a thousand
    assert table.loc[12, "high"] == pytest.approx(-table.loc[12, "low"])
    assert 0.02 < table.loc[12, "high"] < 0.08
    # its twin takes the place of one that is left out
    assert table.loc[[0, 13], "loss_change"].abs().max() < 1e-4 < table["loss_change"].max()


def test_where_no_row_changes_intervals_are_not_of_no_width():
    none = np.zeros(3)
    table = Changes(np.zeros((50, 3)), np.zeros(50), 7, none, none, none, none).table(10, 0.95)
    z2 = norm.ppf(0.975) ** 2
    assert table["high"].to_numpy() == pytest.approx(z2 / (10 + z2))
    assert table["low"].to_numpy() == pytest.approx(-z2 / (10 + z2))
    assert table["accuracy"].tolist() == [0.7] * 3


def test_intervals_hold_all_changes_at_once_and_degrading_features_are_true():
    train, population = problem(n_train=60, n_test=6000, width=16, classes=3, spread=2, seed=5)
    random, held, wrong, found = np.random.default_rng(0), 0, 0, 0
    for broken in (8, 15):  # what train learned of two features says nothing in test
        random.shuffle(population[0][:, broken])
    truth = drop_one(train, population, resamples=1)["change"].to_numpy()
    assert (truth > 0.02).sum() == 2
    repeats = 300
    for repeat in range(repeats):
        rows = random.integers(0, len(population[1]), 400)
        test = population[0][rows], population[1][rows]
        table = drop_one(train, test, resamples=400, seed=repeat)
        held += ((table["low"] <= truth) & (truth <= table["high"])).all()
        wrong += (table["degrading"] & (truth <= 0)).any()
        found += table["degrading"].any()
    assert 0.93 <= held / repeats <= 0.98
    assert wrong / repeats <= 0.05
    assert found / repeats > 0.4


@pytest.mark.parametrize(("rate", "least"), [(0.01, 0.015), (0.04, 0.03), (0.2, 0.03)])
def test_where_no_feature_matters_one_in_twenty_tables_names_one(rate, least):
    """The statistic of four rows that change has so few values that 5 % lies between two."""
    random, n, width, draws, wrong = np.random.default_rng(7), 400, 20, 400, 0
    repeats = 500
    for _ in range(repeats):
        change = random.choice([-1.0, 0, 1], size=(n, width), p=[rate / 2, 1 - rate, rate / 2])
        change[:, 10:] = change[:, :1]  # ten of them are one
        g = random.choice([-1.0, 1.0], (n, draws))
        total = Changes(g.T @ change, g.sum(0), 0, change.sum(0), (change**2).sum(0))
        total.losses = total.squared_losses = np.zeros(width)
        wrong += total.table(n, 0.95)["degrading"].any()
    assert least <= wrong / repeats <= 0.07


@pytest.mark.long
@pytest.mark.parametrize(("n", "low"), [(300, 0.0), (3000, 0.03)])
def test_degrading_features_are_named_in_five_of_a_hundred_tables_where_none_is(n, low):
    """Labels drawn without a look at the rows keep every probe at chance: no change is true.

    Where few rows change, McNemar's statistic has few values, and the test errs to the safe side.
    """
    train, population = problem(n_train=120, n_test=9000, width=16, classes=3, spread=2, seed=9)
    random, wrong, repeats = np.random.default_rng(1), 0, 600
    for repeat in range(repeats):
        rows = random.integers(0, 9000, n)
        test = population[0][rows], random.integers(0, 3, n)
        wrong += drop_one(train, test, resamples=400, seed=repeat)["degrading"].any()
    assert low <= wrong / repeats <= 0.07


def test_agreement_is_spearman_with_an_interval_that_holds_it():
    random, held = np.random.default_rng(2), 0
    for _ in range(300):
        shared = random.normal(size=100)
        one, other = (shared + random.normal(size=100) for _ in range(2))
        tables = {name: pd.DataFrame({"value": x}) for name, x in (("a", one), ("b", other))}
        row = agreement(tables, "value").iloc[0]
        assert row["rho"] == pytest.approx(spearmanr(one, other)[0])
        # of normal pairs with r = 0.5: 6 / pi arcsin(r / 2)
        held += row["low"] <= 6 / np.pi * np.arcsin(0.25) <= row["high"]
    assert 0.92 <= held / 300 <= 0.98
    with pytest.raises(UsageError, match="1 tables"):
        agreement({"a": pd.DataFrame({"value": [1.0]})}, "value")
    with pytest.raises(DataError, match="compare the same features"):
        agreement({"a": pd.DataFrame({"value": [1.0]}), "b": pd.DataFrame({"x": [1.0]})}, "value")


def test_score_intervals_are_those_that_invert_the_restricted_likelihood():
    for gains, losses in ((0, 0), (3, 0), (5, 12), (40, 2)):
        n, z = 150, 2.5
        sums, squares = np.array([float(gains - losses)]), np.array([float(gains + losses)])
        low, high = (float(end[0]) for end in score_interval(sums, squares, n, z))
        for d in (low, high):
            # the likeliest rates of gain q + d and loss q, by a search of their own
            q = np.linspace(max(0, -d), (1 - d) / 2, 400_001)[1:-1]
            neither = (n - gains - losses) * np.log(1 - 2 * q - d)
            likely = gains * np.log(q + d) + losses * np.log(q) + neither
            best = q[likely.argmax()]
            t = (gains - losses - n * d) / np.sqrt(n * (2 * best + d - d**2))
            assert abs(t) == pytest.approx(z, rel=2e-3)


@pytest.mark.parametrize("solver", ["ridge", "lda"])
def test_values_are_the_mean_over_all_orders(solver):
    train, test = problem(width=5, n_train=80, n_test=70)
    loss = {
        subset: judged(
            refitted(train, test, solver, 0.1, True, np.array(subset, int)), test[1], solver
        )[1].mean()
        for size in range(6)
        for subset in combinations(range(5), size)
    }
    exact = np.zeros(5)
    for subset in loss:
        for feature in set(range(5)) - set(subset):
            share = factorial(len(subset)) * factorial(4 - len(subset)) / factorial(5)
            exact[feature] += share * (loss[subset] - loss[tuple(sorted((*subset, feature)))])
    found = shapley(train, test, solver, 0.1, permutations=400, seed=1)
    assert found.empty == pytest.approx(loss[()], abs=1e-10)
    assert found.full == pytest.approx(loss[tuple(range(5))], abs=1e-10)
    assert found.table["value"].sum() == pytest.approx(found.empty - found.full, abs=1e-10)
    away = (found.table["value"] - exact).abs() / found.table["standard_error"]
    assert away.max() < 3
    assert found.table["standard_error"].max() < 0.2 * np.ptp(exact)
    assert found.halves > 0.95
    assert 0 < found.halves_error < 0.2
    assert found.reliability > found.halves
    reach = 1.959964 * found.table["standard_error"]
    assert np.allclose(found.table["low"], found.table["value"] - reach)
    assert np.allclose(found.table["high"], found.table["value"] + reach)
    # Spearman and Brown: twice as long a test of halves that correlate at r
    for halves, reliability in ((0.5, 2 / 3), (0.0, 0.0), (-0.5, -2.0), (-1.0, -1.0)):
        assert replace(found, halves=halves).reliability == pytest.approx(reliability)


def test_orthogonal_features_have_one_value_in_every_order():
    # on rows whose features are orthogonal, squared losses add up
    base = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 7)))[0]
    base = np.linalg.qr(np.concatenate([np.ones((64, 1)), base], 1))[0][:, 1:]
    labels = (base @ np.arange(7.0) > 0).astype(int)
    found = shapley((base, labels), (base, labels), permutations=6)
    z = base / base.std(0)
    weights = z.T @ np.eye(2)[labels] / 64 / 1.1
    change = 2 * (z.T @ np.eye(2)[labels] / 64 * weights).sum(1) - (weights**2).sum(1)
    assert np.allclose(found.table["value"], change, atol=1e-10)
    assert found.table["standard_error"].max() < 1e-7


def test_permutations_end_at_the_standard_error_that_is_asked_for():
    train, test = problem()
    every = shapley(train, test, permutations=60)
    asked = 3 * every.table["standard_error"].max()
    found = shapley(train, test, permutations=60, standard_error=asked)
    assert 8 <= found.permutations < 60
    assert found.table["standard_error"].max() <= asked
    again = shapley(train, test, permutations=found.permutations)
    pd.testing.assert_frame_equal(found.table, again.table)


def test_permutations_end_when_their_time_is_over():
    train, test = problem(width=4)
    assert shapley(train, test, seconds=1e-9).permutations == 2
    assert shapley(train, test, permutations=5, seconds=600).permutations == 5


@pytest.mark.parametrize("how", [{}, {"memory": 3_000_000}, {"backend": "numpy"}])
def test_softmax_probes_without_a_feature_are_those_of_scikit_learn(how):
    train, test = problem(width=6, classes=3, n_train=120, n_test=90)
    z, z_test = ((x - train[0].mean(0)) / train[0].std(0) for x, _ in (train, test))

    def judged_by(columns):
        model = LogisticRegression(C=1 / (120 * 0.05), tol=1e-10, max_iter=5000)
        fitted = model.fit(z[:, columns], train[1])
        chances = fitted.predict_log_proba(z_test[:, columns])
        return chances.argmax(1) == test[1], -chances[np.arange(90), test[1]], fitted.coef_

    table = drop_one(train, test, Logistic(l2=0.05), resamples=50, seed=4, **how)
    hits, losses, coef = judged_by(np.arange(6))
    for j in range(6):
        without, loss, _ = judged_by(np.delete(np.arange(6), j))
        row = table.loc[j]
        assert row["accuracy"] == pytest.approx(without.mean(), abs=1e-12)
        assert row["change"] == pytest.approx(without.mean() - hits.mean(), abs=1e-12)
        assert row["loss_change"] == pytest.approx((loss - losses).mean(), abs=2e-5)
        error = (loss - losses).std(ddof=1) / np.sqrt(90)
        assert row["loss_standard_error"] == pytest.approx(error, rel=1e-2)
        assert row["solo"] == pytest.approx(judged_by([j])[0].mean(), abs=1e-12)
    assert table["weight"].to_numpy() == pytest.approx(np.linalg.norm(coef, axis=0), rel=1e-2)
    assert ((table["low"] <= table["change"]) & (table["change"] <= table["high"])).all()
    joined, none = attributed(train, test, Logistic(l2=0.05), permutations=0, resamples=50, seed=4)
    assert none is None
    pd.testing.assert_frame_equal(joined, table, rtol=1e-3, atol=1e-4)


def test_softmax_probes_that_are_not_solved_are_refused():
    train, test = problem(width=4)
    with pytest.raises(ProbeFailed, match="give a larger max_iter"):
        drop_one(train, test, Logistic(l2=1e-3, max_iter=1))
    with pytest.raises(DataError, match="a softmax probe without it sees none"):
        drop_one(*((x[:, :1], y) for x, y in (train, test)), "logistic")


def test_a_solver_may_be_a_value_with_its_penalty():
    train, test = problem()
    given = drop_one(train, test, Ridge(l2=0.5), resamples=5)
    pd.testing.assert_frame_equal(given, drop_one(train, test, "ridge", 0.5, resamples=5))


def test_what_has_no_attribution_is_refused():
    train, test = problem()
    for bad, said in (
        ({"solver": "sgd"}, "solver is 'sgd': attributions are of ridge, lda and logistic"),
        ({"solver": Logistic()}, "l2 is 'auto': attributions are of one probe"),
        ({"solver": "logistic", "resamples": 0}, "resamples is 0"),
        ({"solver": Ridge()}, "l2 is 'auto': attributions are of one probe"),
        ({"solver": Ridge(l2=[0.1, 1])}, "give one penalty"),
        ({"l2": -1}, "l2 is -1.0: 0 or a positive number"),
        ({"level": 1}, "level"),
        ({"resamples": 0}, "resamples is 0"),
    ):
        with pytest.raises(UsageError, match=said):
            drop_one(train, test, **bad)
    for bad, said in (
        ({"permutations": 1}, "permutations is 1"),
        ({"standard_error": 0}, "standard_error is 0"),
        ({"seconds": 0}, "seconds is 0: give a time above 0"),
        ({"solver": "logistic"}, "Shapley values are of ridge and lda alone"),
    ):
        with pytest.raises(UsageError, match=said):
            shapley(train, test, **bad)
    numbers = [(x, y.astype(float)) for x, y in (train, test)]
    with pytest.raises(DataError, match="the labels of train are targets"):
        drop_one(*numbers)


def test_features_that_say_nothing_have_no_value_and_no_reliability():
    x, y = np.ones((40, 3)), np.arange(40) % 2
    found = shapley((x, y), (x, y), permutations=2)
    assert found.table["value"].abs().max() < 1e-12
    assert (found.permutations, np.isnan(found.halves)) == (2, True)
    with pytest.raises(UsageError, match="permutations is 1: a standard error takes at least 2"):
        shapley((x, y), (x, y), permutations=1)

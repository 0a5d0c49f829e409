"""LDA against scikit-learn's, and the algebra that a shared covariance obeys."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from problems import Captured
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from featstore import probe
from featstore.probe.arrays import backend as backend_of
from featstore.probe.memory import Settings
from featstore.probe.metrics import OF_CLASSES
from featstore.probe.moments import moments
from featstore.probe.solvers import closed_form
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.solvers.routes import solve_left_out
from featstore.probe.subsets import Chain, ordered_chain, random_chain, random_order

FRACTIONS = (0.1, 0.5, 1.0)
NAMES = OF_CLASSES


def drawn(n=600, d=40, classes=5, dtype=np.float64, seed=0):
    """Correlated features, unequal classes, means that are hard to tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.choice(classes, n - classes, p=priors(classes))]
    truth = np.random.default_rng(99)
    mixing, centres = truth.normal(size=(d, d)), truth.normal(size=(classes, d))
    features = rng.normal(size=(n, d)) @ mixing + 2 * centres[labels] + 3
    return features.astype(dtype), labels


def priors(classes):
    weights = 1.0 / np.arange(1, classes + 1)
    return weights / weights.sum()


def centred(logits):
    """Log-densities have a term common to all classes, which says nothing of them."""
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("standardize", [True, False])
def test_without_shrinkage_it_is_scikit_learns(backend, standardize):
    train, test = drawn(), drawn(seed=1)
    chain = random_chain(40, FRACTIONS, seed=1)
    result = probe.fit(
        train, [chain], solver="lda", l2=0, standardize=standardize, backend=backend, device="cpu"
    ).score(test)
    for row, size in enumerate(chain.sizes):
        columns = chain.order[:size]
        theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(train[0][:, columns], train[1])
        decision = theirs.decision_function(test[0][:, columns])
        mine = result.weights(row).logits(test[0])
        np.testing.assert_allclose(centred(mine), centred(decision), rtol=1e-8, atol=1e-8)
        assert result.table.accuracy[row] == theirs.score(test[0][:, columns], test[1])


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 0.9])
def test_shrinkage_is_an_l2(shrinkage):
    (features, labels), test = drawn(), drawn(seed=1)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features, labels)
    within = features - np.array([features[labels == c].mean(0) for c in range(5)])[labels]
    l2 = shrinkage * within.var(0).mean() / (1 - shrinkage)
    chain = random_chain(40, [1.0], seed=1)
    mine = probe.fit((features, labels), [chain], solver="lda", l2=l2, standardize=False)
    log_priors = np.log(np.bincount(labels) / len(labels))
    linear = mine.weights(0).logits(test[0]) - log_priors
    decision = theirs.decision_function(test[0]) - log_priors
    np.testing.assert_allclose(
        centred(linear), centred((1 - shrinkage) * decision), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("prefixes", [3, 20])
def test_scores_are_those_of_its_weights(backend, dtype, prefixes):
    # three prefixes are scored by their coefficients, twenty by forward substitution
    train, test = drawn(dtype=dtype), drawn(dtype=dtype, seed=1)
    fractions = np.arange(1, prefixes + 1) / prefixes
    chains = [random_chain(40, fractions, seed) for seed in (1, 2)]
    result = probe.fit(
        train, chains, solver="lda", l2=[1e-3, 1e-1], backend=backend, device="cpu"
    ).score(test, metrics=NAMES)
    for row in range(len(result)):
        logits = result.weights(row).logits(test[0])
        accuracy = np.mean(logits.argmax(1) == test[1])
        assert result.table.accuracy[row] == pytest.approx(accuracy, abs=1.01 / len(test[1]))
        shifted = logits - logits.max(1, keepdims=True)
        nll = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(logits)), test[1]]
        assert result.table.nll[row] == pytest.approx(nll.mean(), rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6).map(sorted))
def test_a_prefix_is_a_fit_of_its_own(sizes):
    train = drawn(n=120)
    order = np.random.default_rng(0).permutation(40)
    nested = probe.Chain(order, tuple(sizes), tuple(s / 40 for s in sizes), "explicit")
    together = probe.fit(train, [nested], solver="lda", l2=0.1)
    for row, size in enumerate(sizes):
        alone = probe.fit(train, [probe.subset_chain(order[:size], 40)], solver="lda", l2=0.1)
        both = together.weights(row), alone.weights(0)
        np.testing.assert_allclose(both[0].coef, both[1].coef, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(both[0].intercept, both[1].intercept, rtol=1e-9)


def test_two_equal_classes_are_told_apart_as_least_squares_does():
    """For two classes of equal size LDA's direction and threshold are those of least squares."""
    features, labels = drawn(n=400, classes=2)
    rows = np.concatenate([np.flatnonzero(labels == c)[:120] for c in (0, 1)])
    train = features[rows], labels[rows]
    chain = random_chain(40, FRACTIONS, seed=1)
    ridge = probe.fit(train, [chain], solver="ridge", l2=0)
    mine = probe.fit(train, [chain], solver="lda", l2=0)
    for row in range(3):
        a, b = (fit.weights(row).logits(features) @ [-1, 1] for fit in (ridge, mine))
        np.testing.assert_allclose(a / np.abs(a).max(), b / np.abs(b).max(), atol=1e-8)


def test_rows_given_twice_change_nothing():
    features, labels = drawn()
    chain = random_chain(40, FRACTIONS, seed=1)
    doubled = np.tile(features, (2, 1)), np.tile(labels, 2)
    once = probe.fit((features, labels), [chain], solver="lda", l2=1e-3)
    twice = probe.fit(doubled, [chain], solver="lda", l2=1e-3)
    for row in range(3):
        np.testing.assert_allclose(once.weights(row).coef, twice.weights(row).coef, rtol=1e-8)


def test_classes_without_train_rows_are_never_chosen():
    features, labels = drawn()
    chain = random_chain(40, FRACTIONS, seed=1)
    blocks = [probe.ArrayBlocks(features, labels, n_classes=c) for c in (5, 9)]
    few, many = (probe.fit(b, [chain], solver="lda").score(b, NAMES) for b in blocks)
    np.testing.assert_allclose(
        few.table[list(NAMES)].drop(columns="top5"),
        many.table[list(NAMES)].drop(columns="top5"),
    )
    assert (many.weights(0).intercept[5:] == -np.inf).all()


def test_features_that_are_constant_or_doubled_do_no_harm():
    features, labels = drawn()
    awkward = np.hstack([features, features[:, :3], np.full((len(features), 2), 7.0)])
    chain = ordered_chain(range(45), [1.0])
    result = probe.fit((awkward, labels), [chain], solver="lda", l2=1e-3).score((awkward, labels))
    plain = probe.fit((features, labels), [ordered_chain(range(40), [1.0])], solver="lda")
    plain = plain.score((features, labels))
    assert result.table.status.tolist() == ["ok"]
    assert result.table.accuracy[0] == pytest.approx(plain.table.accuracy[0], abs=0.02)
    singular = probe.fit((awkward, labels), [chain], solver="lda", l2=0)
    assert singular.table.status[0] != "ok"


def test_moments_of_parts_give_the_fit_of_the_whole():
    features, labels = drawn()
    halves = [
        moments(probe.ArrayBlocks(features[rows], labels[rows], n_classes=5), Settings())
        for rows in (slice(0, 250), slice(250, None))
    ]
    chain = random_chain(40, FRACTIONS, seed=1)
    merged = closed_form.lda_from_moments(halves[0] + halves[1], [chain], [1e-2], Settings())
    whole = probe.fit((features, labels), [chain], solver="lda", l2=1e-2)
    for row in range(3):
        np.testing.assert_allclose(merged.weights(row).coef, whole.weights(row).coef, rtol=1e-7)


def test_little_memory_gives_the_same_scores():
    train, test = drawn(n=2000), drawn(n=900, seed=1)
    chains = [random_chain(40, FRACTIONS, seed) for seed in range(1, 9)]
    fits = [probe.fit(train, chains, solver="lda", l2=1e-3, memory=m) for m in ("1GiB", "400kB")]
    assert [len(fit.fitted._groups) > 1 for fit in fits] == [False, True]
    tables = [fit.score(test, ("accuracy", "nll")).table for fit in fits]
    assert tables[0].accuracy.tolist() == tables[1].accuracy.tolist()
    np.testing.assert_allclose(tables[0].nll, tables[1].nll, rtol=1e-9)


def left_out(x, y, l2, standardize) -> np.ndarray:
    """Refit without each row: the same scale, and the same N l2 added to the scatter."""
    x = x / np.where(standardize & (x.std(0) > 0), x.std(0), 1)
    n, classes = len(x), int(y.max()) + 1
    logits = np.full((n, classes), -np.inf)
    for row in range(n):
        kept = np.arange(n) != row
        present = np.unique(y[kept])
        means = {c: x[kept & (y == c)].mean(0) for c in present}
        around = x[kept] - np.array([means[c] for c in y[kept]])
        matrix = (around.T @ around + n * l2 * np.eye(x.shape[1])) / (n - 1)
        for c in present:
            away = x[row] - means[c]
            log_count = np.log((kept & (y == c)).sum())
            logits[row, c] = log_count - away @ np.linalg.solve(matrix, away) / 2
    return logits


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leave_one_out_is_a_refit_without_the_row(backend, standardize, dtype):
    x, y = drawn(n=70, d=14, classes=4)
    y[0] = 4  # leaves no class behind
    sizes = (1, 3, 7, 7, 14)
    chains = [Chain(random_order(14, seed), sizes, sizes, "random", seed) for seed in (1, 2)]
    train = probe.ArrayBlocks(x.astype(dtype), y, n_classes=6, block_rows=9)
    how = Settings(standardize=standardize, backend=backend_of(backend, "cpu"))
    found = closed_form.leave_one_out(train, chains, (1e-2, 1.0), how)
    captured = Captured(len(found.axes), 6)
    found.score(train, captured)
    for number, logits in enumerate(captured.all()):
        l2, features = found.axes.penalties[found.axes.penalty[number]], found.axes.features(number)
        exact = left_out(x[:, features], y, l2, standardize)
        assert (logits[:, 5] == -np.inf).all()
        mine, exact = logits[1:, :5], exact[1:]
        tolerance = 1e-8 if dtype == np.float64 else 2e-3
        np.testing.assert_allclose(
            mine - mine[:, :1], exact - exact[:, :1], rtol=tolerance, atol=tolerance
        )
        # the only row of its class is told the classes' shares
        np.testing.assert_allclose(logits[0, :5], np.log(np.bincount(y)), rtol=1e-6)


def test_leave_one_out_in_the_dual():
    x, y = drawn(n=30, d=200, classes=3)
    train, chain = probe.ArrayBlocks(x, y), random_chain(200, [0.1, 1.0], seed=1)
    found = solve_left_out(SOLVERS["lda"], train, [chain], (1e-2, 1.0), Settings(), {})
    direct = closed_form.leave_one_out(train, [chain], (1e-2, 1.0), Settings())
    captured = []
    for one in (found, direct):
        captured.append(Captured(4, 3))
        one.score(train, captured[-1])
    (dual, primal) = (centred(each.all().reshape(-1, 3)) for each in captured)
    np.testing.assert_allclose(dual, primal, rtol=1e-6, atol=1e-6)

"""Neighbours and their votes against scikit-learn on every prefix."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from featstore.probe import knn, summary
from featstore.probe.errors import DataError, MemoryBudgetError, UsageError
from featstore.probe.subsets import random_order


def problem(n_train=240, n_test=150, width=16, classes=5, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n_train + n_test)
    means = 1.2 * random.normal(size=(classes, width))
    scales = np.linspace(0.5, 4, width)
    x = (random.normal(size=(len(labels), width)) + means[labels]) * scales + 10
    return (x[:n_train], labels[:n_train]), (x[n_train:], labels[n_train:])


def predicted(train, test, columns, k, metric, standardize, weights="uniform"):
    """Classes by scikit-learn."""
    x, y = train
    mean, scale = (x.mean(0), x.std(0)) if standardize else (0, 1)
    a, b = (((rows - mean) / scale)[:, columns] for rows in (x, test[0]))
    by = (lambda d: np.exp((1 - d) / 0.07)) if weights == "exp" else weights
    return (
        KNeighborsClassifier(k, metric=metric, weights=by, algorithm="brute").fit(a, y).predict(b)
    )


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(
    ("metric", "weights"), [("cosine", "uniform"), ("euclidean", "uniform"), ("cosine", "exp")]
)
@pytest.mark.parametrize("how", [{}, {"memory": 100_000}, {"backend": "numpy"}])
def test_every_prefix_votes_as_scikit_learn_does(metric, weights, standardize, how):
    train, test = problem()
    how = {"metric": metric, "weights": weights, "standardize": standardize, **how}
    table = knn(train, test, [0.13, 0.5], [3, 5], k=[1, 4, 11], **how)
    assert len(table) == 2 * 3 * 3
    assert table["k"].unique().tolist() == [2, 8, 16]
    for row in table.itertuples():
        columns = random_order(16, row.seed)[: row.k]
        classes = predicted(train, test, columns, row.neighbours, metric, standardize, weights)
        assert row.accuracy == pytest.approx((classes == test[1]).mean(), abs=1e-12)
    assert table["accuracy"].nunique() > 8


def test_float32_rows_vote_as_float64_ones_nearly_do():
    train, test = ((x.astype(np.float32), y) for x, y in problem())
    wide = ((x.astype(np.float64), y) for x, y in problem())
    one, other = knn(train, test, [0.5], k=5), knn(*wide, [0.5], k=5)
    assert np.allclose(one["accuracy"], other["accuracy"], atol=1.5 / 150)


def test_leave_one_out_chooses_the_number_of_neighbours():
    train, test = problem(n_train=90)
    chosen = knn(train, test, [0.25, 0.5], [1, 2], k="auto")
    tried = (1, 2, 5, 10, 20, 50)
    for row in chosen.itertuples():
        columns = random_order(16, row.seed)[: row.k]
        hits = np.zeros(len(tried))
        for out in range(90):
            kept = np.delete(np.arange(90), out)
            x, y = train
            z = (x - x.mean(0)) / x.std(0)  # the scale stays that of all rows
            for place, k in enumerate(tried):
                one = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
                one.fit(z[kept][:, columns], y[kept])
                hits[place] += one.predict(z[out : out + 1, columns])[0] == y[out]
        assert row.neighbours == tried[hits.argmax()]
        classes = predicted(train, test, columns, row.neighbours, "cosine", True)
        assert row.accuracy == pytest.approx((classes == test[1]).mean(), abs=1e-12)
    assert chosen["neighbours"].nunique() > 1
    assert set(chosen["l2_choice"]) == {"loo"}


def test_the_nearest_of_rows_that_are_in_train_is_itself():
    train, _ = problem()
    assert (knn(train, train, [0.5], k=1)["accuracy"] == 1).all()
    constant = [np.concatenate([x, np.ones((len(x), 1))], 1) for x in (train[0], train[0])]
    assert (
        knn((constant[0], train[1]), (constant[1], train[1]), [0.5], k=1)["accuracy"] == 1
    ).all()


def test_the_table_is_read_as_a_sweep_is():
    train, test = problem()
    table = knn(train, test, [0.25, 0.5], [1, 2, 3], k=5)
    found = summary(table.assign(store="s", tap="t"))
    assert found.loc[found["fraction"] == 0.5, "accuracy"].item() == pytest.approx(
        table.loc[table["fraction"] == 0.5, "accuracy"].mean()
    )


def test_what_cannot_vote_is_refused():
    train, test = problem()
    for bad, said in (
        ({"k": 0}, "k is 0: neighbours are 1 to 240"),
        ({"k": 241}, "k is 241"),
        ({"k": []}, "k is"),
        ({"k": [3, 3]}, "twice"),
        ({"k": "many"}, "k is 'many'"),
        ({"metric": "manhattan"}, "metric is 'manhattan': choose cosine or euclidean"),
        ({"weights": "exp", "metric": "euclidean"}, "weights 'exp' are of cosine"),
        ({"temperature": 0}, "temperature is 0"),
    ):
        with pytest.raises(UsageError, match=said):
            knn(train, test, [0.5], **bad)
    with pytest.raises(DataError, match="targets"):
        knn((train[0], train[1] * 1.0), (test[0], test[1] * 1.0), [0.5])
    with pytest.raises(MemoryBudgetError, match="neighbours"):
        knn(train, test, [0.5], memory=4000)

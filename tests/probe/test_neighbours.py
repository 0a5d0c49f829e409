"""Votes of neighbours against scikit-learn on every prefix, as a solver among the others."""

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from featstore.probe import KNN, fit, save_weights, sentence, subset_chain, sweep
from featstore.probe.arrays import to_host
from featstore.probe.errors import MemoryBudgetError, UsageError
from featstore.probe.memory import settings_of
from featstore.probe.modes import MODES
from featstore.probe.neighbours import TRIED, Placed, nearest
from featstore.probe.rows import as_blocks
from featstore.probe.subsets import Chain, random_order


def problem(n_train=240, n_test=150, width=16, classes=5, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n_train + n_test)
    means = 1.2 * random.normal(size=(classes, width))
    scales = np.linspace(0.5, 4, width)
    x = (random.normal(size=(len(labels), width)) + means[labels]) * scales + 10
    return (x[:n_train], labels[:n_train]), (x[n_train:], labels[n_train:])


def predicted(train, test, columns, k, metric, standardize, temperature=None):
    """Classes by scikit-learn."""
    x, y = train
    mean, scale = (x.mean(0), x.std(0)) if standardize else (0, 1)
    a, b = (((rows - mean) / scale)[:, columns] for rows in (x, test[0]))
    by = "uniform" if temperature is None else lambda d: np.exp((1 - d) / temperature)
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
    solver = KNN(k=[1, 4, 11], metric=metric, weights=weights)
    result = sweep(
        train,
        test,
        fractions=[0.13, 0.5],
        seeds=[3, 5],
        solver=solver,
        standardize=standardize,
        device="cpu",
        **how,
    )
    table, voted = result.table, result.predict(test).classes
    assert len(table) == 2 * 3 * 3
    assert table["k"].unique().tolist() == [2, 8, 16]
    assert table["l2"].tolist() == table["neighbours"].tolist()
    for place, row in enumerate(table.itertuples()):
        columns = random_order(16, row.seed)[: row.k]
        temperature = 0.07 if weights == "exp" else None
        classes = predicted(train, test, columns, row.neighbours, metric, standardize, temperature)
        assert np.array_equal(voted[:, place], classes)
        assert row.accuracy == pytest.approx((classes == test[1]).mean(), abs=1e-12)
        hits = [(classes == test[1])[test[1] == c].mean() for c in range(5)]
        assert result.per_class()[place] == pytest.approx(hits, abs=1e-12)
    assert table["accuracy"].nunique() > 8


def test_each_prefix_votes_as_a_fit_of_its_own():
    train, test = problem()
    solver = KNN(k=[3, 7], metric="euclidean")
    every = sweep(train, test, fractions=[0.2, 0.4, 0.7], seeds=[2], solver=solver)
    voted = every.predict(test).classes
    for place, row in enumerate(every.table.itertuples()):
        chain = subset_chain(random_order(16, 2)[: row.k], 16)
        alone = fit(train, [chain], solver=KNN(k=row.neighbours, metric="euclidean"))
        assert np.array_equal(alone.predict(test).classes[:, 0], voted[:, place])


def test_temperatures_stand_in_the_place_of_penalties():
    train, test = problem()
    solver = KNN(k=30, weights="exp", temperature=[0.01, 0.07, 0.9])
    result = sweep(train, test, fractions=[0.5], seeds=[1], solver=solver)
    voted = result.predict(test).classes
    assert result.table["l2"].tolist() == [0.01, 0.01, 0.07, 0.07, 0.9, 0.9]
    for place, row in enumerate(result.table.itertuples()):
        columns = random_order(16, 1)[: row.k]
        classes = predicted(train, test, columns, 30, "cosine", True, row.l2)
        assert np.array_equal(voted[:, place], classes)
    assert result.table["accuracy"].nunique() > 3


def test_float32_rows_vote_as_float64_ones_nearly_do():
    narrow = ((x.astype(np.float32), y) for x, y in problem())
    one, other = (
        sweep(*rows, fractions=[0.5], solver=KNN(k=5)).table["accuracy"]
        for rows in (narrow, problem())
    )
    assert np.allclose(one, other, atol=1.5 / 150)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("order", ["drawn", "rising", "alike"])
def test_the_nearest_are_those_of_a_sort(order, metric, backend):
    """Over several tiles, where few, all or equally many rows of a later tile are better."""
    random = np.random.default_rng(3)
    queries, corpus = random.normal(size=(150, 6)), random.normal(size=(9001, 6))
    if order == "rising":
        queries += 4
        corpus = corpus * 0.1 + np.linspace(-1, 4, len(corpus))[:, None] * np.ones(6) + 0.1
        corpus[:, 5] *= -1
        queries[:, 5] *= -1
    if order == "alike":
        corpus = corpus[np.arange(len(corpus)) % 700]
    settings = settings_of(False, None, "1GiB", "cpu", backend)
    place = Placed(np.zeros(6), None, "float64", metric, settings)
    chain = Chain(np.array([4, 1, 0, 5, 2, 3]), (2, 3, 6), (0.3, 0.5, 1.0), "x")
    rows = [as_blocks((x, np.zeros(len(x), int))) for x in (queries, corpus)]
    ((_, ((*prefixes,),)),) = nearest(*rows, [chain], 40, place)
    for (similarity, numbers), size in zip(prefixes, chain.sizes, strict=True):
        a, b = (x[:, chain.order[:size]] for x in (queries, corpus))
        if metric == "cosine":
            a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
            every = a @ b.T
        else:
            every = -((a[:, None] - b) ** 2).sum(2)
        best = -np.sort(-every, axis=1)[:, :40]
        assert np.allclose(to_host(similarity), best, atol=1e-10)
        numbers = to_host(numbers)
        assert np.allclose(np.take_along_axis(every, numbers, axis=1), best, atol=1e-10)
        assert all(len(set(row)) == 40 for row in numbers.tolist())


def test_few_queries_at_a_time_are_found_the_same_neighbours():
    random = np.random.default_rng(4)
    x, y = random.normal(size=(400, 8)), random.integers(0, 3, 400)
    how = {"fractions": [0.3, 0.6], "seeds": 2, "solver": KNN(k=[1, 30])}
    whole, pieces = (sweep((x, y), (x, y), memory=m, **how).table for m in ("1GiB", "200kB"))
    assert whole["accuracy"].tolist() == pieces["accuracy"].tolist()


def test_leave_one_out_chooses_the_number_of_neighbours():
    train, test = problem(n_train=90)
    result = sweep(train, test, fractions=[0.25, 0.5], seeds=[1, 2], solver=KNN(k="auto"))
    tried, chosen, voted = (1, 2, 5, 10, 20, 50), result.table, result.predict(test).classes
    x, y = train
    z = (x - x.mean(0)) / x.std(0)  # the scale stays that of all rows
    for place, row in enumerate(chosen.itertuples()):
        columns = random_order(16, row.seed)[: row.k]
        hits = np.zeros(len(tried))
        for out in range(90):
            kept = np.delete(np.arange(90), out)
            one = KNeighborsClassifier(metric="cosine", algorithm="brute")
            one.fit(z[kept][:, columns], y[kept])
            for number, k in enumerate(tried):
                one.set_params(n_neighbors=k)
                hits[number] += one.predict(z[out : out + 1, columns])[0] == y[out]
        # of equally good ones the most neighbours
        best = len(tried) - 1 - int(hits[::-1].argmax())
        assert row.neighbours == tried[best]
        assert row.selection_accuracy == pytest.approx(hits[best] / 90)
        classes = predicted(train, test, columns, row.neighbours, "cosine", True)
        assert np.array_equal(voted[:, place], classes)
    assert chosen["neighbours"].nunique() > 1
    assert set(chosen["l2_choice"]) == {"loo"}
    assert "knn, k chosen by leave-one-out" in sentence(result)


def test_every_mode_is_voted_on():
    """Directions too: k-NN sees distances alone, which no rotation of all of them changes."""
    train, test = problem()
    how = {"fractions": [0.25], "seeds": [1], "solver": KNN(k="auto", metric="euclidean")}
    table = sweep(train, test, mode=list(MODES), **how).table
    assert set(table["mode"]) == set(MODES)
    assert set(table["status"]) == {"ok"}
    whole = table[table["fraction"] == 1]
    assert whole["accuracy"].nunique() == 1
    assert set(whole["neighbours"]) == set(whole["neighbours"][:1])
    chosen = table[table["fraction"] < 1].set_index("mode")["l2_choice"]
    assert chosen["fisher"] == chosen["greedy"] == "validation"
    assert chosen["random"] == chosen["pca"] == "loo"


def test_what_was_stopped_goes_on_to_the_same_table(tmp_path):
    train, test = problem()
    how = {"fractions": [0.25, 0.5], "seeds": 40, "solver": KNN(k=[1, 5])}
    whole = sweep(train, test, out=tmp_path / "a.csv", **how)

    seen = []

    def stop(result):
        seen.append(result)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(train, test, out=tmp_path / "b.csv", each=stop, **how)
    again = sweep(train, test, out=tmp_path / "b.csv", resume=True, **how)
    pd.testing.assert_frame_equal(whole.table, again.table, check_dtype=False)


def test_the_nearest_of_rows_that_are_in_train_is_itself():
    (x, y), _ = problem()
    for features in (x, np.concatenate([x, np.ones((len(x), 1))], 1)):
        table = sweep((features, y), (features, y), fractions=[0.5], solver=KNN(k=1)).table
        assert (table["accuracy"] == 1).all()


def test_what_cannot_vote_is_refused(tmp_path):
    train, test = problem()
    for make, said in (
        (lambda: KNN(k=0), "k is 0: numbers are 1 or more"),
        (lambda: KNN(k=2.5), "k is 2.5: numbers are 1 or more"),
        (lambda: KNN(k=[]), "k is (): name at least one"),
        (lambda: KNN(k=[3, 3]), "k 3 comes after 3"),
        (lambda: KNN(k="many"), "k is 'many'"),
        (lambda: KNN(l2=0.1), "l2 is 0.1: neighbours have no penalty; k stands in its place"),
        (lambda: KNN(select="loo"), "select is 'loo', but k is one number"),
        (lambda: KNN(metric="manhattan"), "metric is 'manhattan': choose cosine or euclidean"),
        (lambda: KNN(weights="exp", metric="euclidean"), "weights 'exp' are of cosine"),
        (lambda: KNN(temperature=0), "temperature is 0: numbers are between 0 and 1"),
        (lambda: KNN(temperature=[0.1, 0.2]), "temperature is of weights 'exp'"),
        (
            lambda: KNN(k=[1, 2], weights="exp", temperature=[0.1, 0.2]),
            "k and temperature are both to be compared",
        ),
        (
            lambda: sweep(train, test, fractions=0.5, solver=KNN(k=241)),
            "k is 241: neighbours are 1 to 240",
        ),
        (lambda: sweep(train, test, fractions=0.5, solver="knn", l2=0.1), "have no penalty"),
        (
            lambda: sweep(
                (train[0], train[1] * 1.0), (test[0], test[1] * 1.0), fractions=0.5, solver="knn"
            ),
            "this solver tells classes apart",
        ),
    ):
        with pytest.raises(UsageError) as error:
            make()
        assert said in str(error.value)
    with pytest.raises(MemoryBudgetError, match="neighbours"):
        sweep(train, test, fractions=0.5, solver="knn", memory=4000)
    with pytest.raises(UsageError, match="no weights to save"):
        save_weights(sweep(train, test, fractions=0.5, solver="knn"), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_numbers_of_neighbours_are_tried_in_steps_of_two_or_two_and_a_half():
    steps = np.array(TRIED[1:]) / TRIED[:-1]
    assert set(steps) == {2.0, 2.5}
    assert (TRIED[0], TRIED[-1]) == (1, 200)

"""SGD against a literal torch loop of one probe at a time, and its parts against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional

from featstore import probe
from featstore.probe.arrays import Backend
from featstore.probe.errors import DataError, MemoryBudgetError, ProbeFailed, UsageError
from featstore.probe.solvers import SGD
from featstore.probe.solvers.sgd import (
    Descent,
    Layout,
    cross_entropy,
    linear_start,
    orders,
    stacked,
)
from featstore.probe.splits import random_parts, stratified_parts
from featstore.probe.subsets import first_chain, random_chain, segments, subset_chain

FRACTIONS = (0.05, 0.5, 1.0)
OPTIONS = {"epochs": 4, "step_every": 2, "batch_size": 64, "validate_every": 1, "one_start": False}


def drawn(n=330, d=150, classes=4, dtype=np.float32, seed=0):
    """Features whose mean is not zero and whose scales differ, as a ReLU leaves them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    centres = rng.normal(size=(classes, d))
    features = np.maximum(rng.normal(size=(n, d)) + 0.5 * centres[labels], 0)
    return (features * rng.uniform(0.1, 0.6, size=d)).astype(dtype), labels


def chains_of(d=150, seeds=(1, 2)):
    return [random_chain(d, FRACTIONS, seed) for seed in seeds]


def literal(features, labels, columns, seed, decay, recipe, classes=4):
    """Train one probe as anyone would; return its losses, accuracies and best layer's logits."""
    x, y = torch.from_numpy(features)[:, columns], torch.from_numpy(labels)
    x = x if x.dtype == torch.float64 else x.float()
    parts = random_parts(len(x), recipe.val_fraction, recipe.split_seed)
    torch.manual_seed(seed)
    layer = torch.nn.Linear(len(columns), classes).to(x.dtype)
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=decay
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_every, recipe.gamma)
    losses, accuracies, best = [], [], None
    for order in orders(recipe, len(parts.train)):
        total = 0.0
        for rows in torch.from_numpy(parts.train[order]).split(recipe.batch_size):
            optimizer.zero_grad()
            loss = functional.cross_entropy(layer(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        scheduler.step()
        losses.append(total / len(parts.train))
        with torch.no_grad():
            held = torch.from_numpy(parts.validation)
            accuracies.append((layer(x[held]).argmax(1) == y[held]).double().mean().item())
            if max(accuracies) > max(accuracies[:-1], default=-1):
                best = layer(x).numpy()
    return losses, accuracies, best


@pytest.mark.parametrize(
    ("dtype", "tolerance", "backend"),
    [
        (np.float16, 1e-5, "torch"),
        (np.float32, 1e-5, "torch"),
        (np.float64, 1e-12, "torch"),
        (np.float64, 1e-12, "numpy"),
    ],
)
def test_every_probe_is_that_of_a_literal_loop(dtype, tolerance, backend):
    features, labels = drawn(dtype=dtype)
    penalties = [5e-4, 3e-2]
    result = probe.fit(
        (features, labels),
        chains_of(),
        solver=SGD(l2=penalties, **OPTIONS),
        backend=backend,
        device="cpu",
    )
    axes, table = result.fitted.axes, result.table
    assert (table.status == "ok").all()
    for number in range(len(axes)):
        seed, decay = axes.chains[axes.chain[number]].seed, penalties[axes.penalty[number]]
        losses, accuracies, logits = literal(
            features, labels, axes.features(number), seed, decay, SGD(**OPTIONS)
        )
        np.testing.assert_allclose(result.fitted.losses[:, number], losses, rtol=tolerance)
        assert result.fitted.val_accuracies[:, number].tolist() == accuracies
        best = int(np.argmax(accuracies))
        row = table.iloc[number]
        assert (row.best_epoch, row.val_accuracy) == (best + 1, accuracies[best])
        assert row.train_loss == pytest.approx(losses[best], rel=tolerance)
        mine = result.weights(number).logits(features)
        np.testing.assert_allclose(mine, logits, rtol=tolerance, atol=10 * tolerance)


def test_scores_are_those_of_the_best_epoch():
    features, labels = drawn()
    test = drawn(n=777, seed=1)
    result = probe.fit((features, labels), chains_of(), solver=SGD(l2=[0, 1e-2], **OPTIONS))
    result = result.score(test, metrics=("accuracy", "nll"))
    for row, (accuracy, nll) in enumerate(result.table[["accuracy", "nll"]].to_numpy()):
        logits = torch.from_numpy(result.weights(row).logits(test[0]))
        assert accuracy == (logits.argmax(1).numpy() == test[1]).mean()
        mean = functional.cross_entropy(logits, torch.from_numpy(test[1])).item()
        assert nll == pytest.approx(mean, rel=1e-5)


def test_the_defaults_are_those_of_the_paper():
    recipe = SGD()
    assert recipe.l2 == 5e-4
    assert (recipe.lr, recipe.momentum, recipe.epochs, recipe.batch_size) == (0.1, 0.9, 100, 256)
    assert (recipe.val_fraction, recipe.split_seed) == (0.1, 0)
    assert (recipe.validate_every, recipe.one_start) == (5, True)
    rates = np.array(recipe.rates())
    np.testing.assert_allclose(rates, 0.1 * 0.1 ** (np.arange(100) // 20))
    np.testing.assert_allclose(SGD(epochs=50).rates(), 0.1 * 0.1 ** (np.arange(50) // 10))


@pytest.mark.parametrize(("k", "classes", "seed"), [(1, 2, 0), (7, 5, 3), (384, 100, 12)])
def test_layers_start_as_torch_draws_them(k, classes, seed):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(k, classes)
    mine = linear_start(k, classes, seed)
    np.testing.assert_array_equal(mine[0], layer.bias.detach().numpy())
    np.testing.assert_array_equal(mine[1:], layer.weight.detach().numpy().T)


@pytest.mark.parametrize("n", [10, 97, 1000, 50_000])
def test_the_split_is_that_of_torch(n):
    generator = torch.Generator().manual_seed(0)
    held = int(0.1 * n)
    train, validation = torch.utils.data.random_split(range(n), [n - held, held], generator)
    parts = random_parts(n, 0.1, 0)
    assert parts.train.tolist() == list(train.indices)
    assert parts.validation.tolist() == list(validation.indices)


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60).map(lambda ls: np.array(ls * 2)),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_a_stratified_split_takes_of_every_class(labels, share, seed):
    (parts,) = stratified_parts(labels, share, seed)
    both = np.sort(np.concatenate([parts.train, parts.validation]))
    np.testing.assert_array_equal(both, np.arange(len(labels)))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        held = np.count_nonzero(labels[parts.validation] == label)
        assert 1 <= held <= count - 1
        assert abs(held - share * count) < 1


def test_the_only_row_of_a_class_is_never_held_out():
    for seed in range(5):
        for parts in stratified_parts(np.array([1, 1, 7]), 0.5, seed, 2):
            assert 2 in parts.train
            assert len(parts.validation) == 1
    with pytest.raises(DataError, match="every class has one train row"):
        stratified_parts(np.arange(5), 0.5, 0)


@settings(max_examples=50, deadline=None)
@given(
    numbers=st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.5, 7.0]), min_size=2, max_size=80),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 5),
)
def test_a_split_of_numbers_is_one_of_quantiles(numbers, share, seed):
    """Each part has one in every 1 / share of rows that are sorted by their number."""
    y = np.array(numbers)
    count = min(3, int(1 / share))
    parts = stratified_parts(y, share, seed, count)
    held = np.concatenate([part.validation for part in parts])
    assert len(np.unique(held)) == len(held)
    for part in parts:
        both = np.sort(np.concatenate([part.train, part.validation]))
        np.testing.assert_array_equal(both, np.arange(len(y)))
        assert abs(len(part.validation) - share * len(y)) <= max(1, share * len(y) / 4)
        zeros = (y[part.validation] == 0).sum()
        assert abs(zeros - (y == 0).mean() * len(part.validation)) < 3


sizes_drawn = st.lists(st.integers(1, 40), min_size=1, max_size=8).map(sorted)


@settings(max_examples=100, deadline=None)
@given(sizes=sizes_drawn, least=st.integers(1, 50))
def test_segments_hold_every_feature_of_every_prefix_once(sizes, least):
    cuts = segments(sizes, least)
    assert [c.start for c in cuts] == [0, *(c.stop for c in cuts[:-1])]
    assert cuts[-1].stop == sizes[-1]
    assert all(c.stop - c.start >= least for c in cuts[:-1])
    for prefix, size in enumerate(sizes):
        seen = 0
        for cut in cuts:
            end = dict(cut.ends).get(prefix, cut.stop)
            seen += end - cut.start if cut.first <= prefix else 0
            assert cut.start < end <= cut.stop
        assert seen == size


@settings(max_examples=25, deadline=None)
@given(
    sizes=sizes_drawn.map(lambda sizes: tuple(1 + 5 * s for s in sizes)),
    penalties=st.integers(1, 3),
    classes=st.integers(2, 4),
    backend=st.sampled_from(["torch", "numpy"]),
)
def test_a_stack_is_its_probes_side_by_side(sizes, penalties, classes, backend):
    layout, width = Layout(sizes, penalties, classes), 250
    fractions = [(size - 1) / width for size in sizes]
    order = np.random.default_rng(0).permutation(width)
    chains = [
        probe.Chain(np.roll(order, shift), tuple(s - 1 for s in sizes), tuple(fractions), "", shift)
        for shift in (0, 3)
    ]
    where = Backend(backend, "cpu")
    stack = stacked(chains, layout, width, where, "float64")
    rng = np.random.default_rng(1)
    x = np.vstack([rng.normal(size=(width, 9)), np.ones((1, 9))])
    descent = Descent(stack, 0.9, where.put(np.zeros(layout.columns)))
    for _ in range(2):
        rows = stack.rows(where.put(x))
        logits = stack.logits(rows)
        for number, chain in enumerate(chains):
            for prefix in range(len(sizes)):
                for penalty in range(penalties):
                    layer = stack.probe(number, prefix, penalty)
                    alone = x[chain.features(prefix)].T @ layer[1:] + layer[0]
                    column = prefix * penalties + penalty
                    np.testing.assert_allclose(logits[number, :, column], alone, atol=1e-12)
        # a step on any gradient leaves what a prefix does not see at zero
        descent.step(rows, logits, 0.1)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_cross_entropy_is_that_of_torch(backend):
    rng = np.random.default_rng(0)
    logits, labels = 30 * rng.normal(size=(2, 7, 3, 5)), rng.integers(5, size=7)
    where = Backend(backend, "cpu")
    gradient = where.put(logits.copy())
    losses = cross_entropy(gradient, where.put(labels))
    for s, g in np.ndindex(2, 3):
        one = torch.from_numpy(logits[s, :, g].copy()).requires_grad_()
        loss = functional.cross_entropy(one, torch.from_numpy(labels))
        loss.backward()
        assert float(losses[s, g]) == pytest.approx(loss.item(), rel=1e-12)
        np.testing.assert_allclose(gradient[s, :, g], one.grad, atol=1e-15)


def test_the_best_epoch_is_one_of_those_that_are_validated():
    train, test = drawn(), drawn(n=200, seed=1)
    options = OPTIONS | {"epochs": 7, "step_every": 3}
    each = probe.fit(train, chains_of(), solver=SGD(**options))
    some = probe.fit(train, chains_of(), solver=SGD(**options | {"validate_every": 3}))
    ours, theirs = some.fitted.val_accuracies, each.fitted.val_accuracies
    assert np.isnan(ours[[0, 1, 3, 4]]).all()
    shown = [2, 5, 6]  # each third, and the last
    np.testing.assert_array_equal(ours[shown], theirs[shown])
    best = np.array(shown)[theirs[shown].argmax(0)] + 1
    assert some.table.best_epoch.tolist() == best.tolist()
    assert some.table.val_accuracy.tolist() == theirs[shown].max(0).tolist()
    np.testing.assert_array_equal(some.fitted.losses, each.fitted.losses)
    assert some.score(test).table.accuracy.notna().all()


def test_epochs_are_chosen_by_validation_rows_of_their_own():
    train, held, test = drawn(), drawn(n=90, seed=2), drawn(n=200, seed=1)
    for mode in ("random", "pca"):
        asked = {"fractions": [0.1], "mode": mode, "solver": SGD(**OPTIONS), "device": "cpu"}
        result = probe.sweep(train, test, validation=held, **asked)
        assert "validation=90_rows_of_their_own" in result.table["options"][0]
        assert "val_fraction" not in result.table["options"][0]
        again = probe.sweep(train, held, validation=held, **asked)
        # the accuracy of the epoch kept is what it has on those rows
        assert again.table["accuracy"].tolist() == again.table["val_accuracy"].tolist()
        draw = probe.sweep(train, test, **asked)
        assert "val_fraction=0.1" in draw.table["options"][0]
        digests = {t.table["options"][0].rsplit("data=")[1] for t in (result, draw)}
        assert len(digests) == 2
    # all train rows are trained on
    alone = probe.fit(train, chains_of(), solver=SGD(**OPTIONS), validation=held)
    losses = literal_losses(*train, alone.fitted.axes.features(0))
    np.testing.assert_allclose(alone.fitted.losses[:, 0], losses, rtol=1e-5)


def literal_losses(features, labels, columns):
    """The losses of a layer that is trained on every row, in the order of the recipe."""
    x, y = torch.from_numpy(features)[:, columns], torch.from_numpy(labels)
    recipe, losses = SGD(**OPTIONS), []
    torch.manual_seed(1)
    layer = torch.nn.Linear(len(columns), 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_every, recipe.gamma)
    for order in orders(recipe, len(x)):
        total = 0.0
        for rows in torch.from_numpy(order).split(recipe.batch_size):
            optimizer.zero_grad()
            loss = functional.cross_entropy(layer(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        scheduler.step()
        losses.append(total / len(x))
    return losses


@pytest.mark.parametrize("solver", ["ridge", "logistic"])
def test_other_solvers_take_no_validation_rows(solver):
    train = drawn()
    with pytest.raises(UsageError, match="choose the epoch of solver sgd"):
        probe.sweep(train, train, fractions=[0.1], solver=solver, validation=train)


def test_validation_rows_must_be_of_the_same_layer_and_classes():
    train = drawn()
    with pytest.raises(DataError, match="train has 150 features and validation 149"):
        probe.fit(train, chains_of(), solver="sgd", validation=(train[0][:, 1:], train[1]))
    with pytest.raises(DataError, match="train has 4 classes and validation 5"):
        probe.fit(train, chains_of(), solver="sgd", validation=(train[0], train[1] + 1))


def test_all_seeds_start_alike_as_published_and_share_the_whole_layer():
    train = drawn()
    asked = {"fractions": [0.1], "seeds": [1, 2], "device": "cpu"}
    options = OPTIONS | {"epochs": 1, "lr": 1e-12}
    for one, apart in ((True, 0), (False, 1)):
        result = probe.sweep(train, train, **asked, solver=SGD(**options | {"one_start": one}))
        first, second, *_ = (
            result.weights(row).coef for row in np.flatnonzero(result.table["fraction"] < 1)
        )
        assert (np.abs(first - second).max() > 1e-3) == apart
        whole = result.table[result.table["fraction"] == 1]
        assert (whole["train_loss"].nunique() == 1) == one


def test_two_runs_have_the_same_bits():
    train = drawn()
    first, again = (probe.fit(train, chains_of(), solver=SGD(**OPTIONS)) for _ in range(2))
    np.testing.assert_array_equal(first.fitted.losses, again.fitted.losses)
    for row in range(len(first)):
        np.testing.assert_array_equal(first.weights(row).coef, again.weights(row).coef)


def test_chains_of_other_sizes_train_apart_on_the_same_minibatches():
    train = drawn()
    others = [first_chain(150, [0.3]), subset_chain([5, 9, 2], 150)]
    together = probe.fit(train, [*chains_of(), *others], solver=SGD(**OPTIONS))
    for number, chain in enumerate([*chains_of(), *others]):
        alone = probe.fit(train, [chain], solver=SGD(**OPTIONS))
        mine = together.fitted.losses[:, together.fitted.axes.chain == number]
        np.testing.assert_allclose(mine, alone.fitted.losses, rtol=1e-6)


def test_little_memory_trains_chains_in_turn():
    train, test = drawn(n=1000), drawn(n=500, seed=1)
    chains = chains_of(seeds=(1, 2, 3))
    plenty = probe.fit(train, chains, solver=SGD(**OPTIONS)).score(test)
    with pytest.raises(MemoryBudgetError, match="allow at least") as caught:
        probe.fit(train, chains, solver=SGD(**OPTIONS), memory="100kB")
    least = str(caught.value).split("allow at least ")[1]
    little = probe.fit(train, chains, solver=SGD(**OPTIONS), memory=least).score(test)
    assert len(plenty.fitted._groups) == 1
    assert len(little.fitted._groups) == 3
    np.testing.assert_allclose(little.fitted.losses, plenty.fitted.losses, rtol=1e-6)
    assert little.table.accuracy.tolist() == plenty.table.accuracy.tolist()


def test_a_probe_that_diverges_says_so_and_leaves_the_others_alone():
    features, labels = drawn(d=60)
    features[:, 7] *= 1e36  # as a store of unscaled activations might hold
    chains = [subset_chain([1, 2, 3], 60), subset_chain([1, 7, 3], 60)]
    result = probe.fit((features, labels), chains, solver=SGD(**OPTIONS)).score((features, labels))
    assert result.table.status.tolist() == ["ok", "diverged"]
    assert np.isfinite(result.table.accuracy[0])
    assert np.isnan(result.table.accuracy[1])
    assert np.isfinite(result.weights(1).coef).all()  # the epoch before, or the start
    with pytest.raises(ProbeFailed, match=r"diverged: the loss is not finite.*smaller lr"):
        result.raise_if_failed()


def test_a_sweep_trains_the_whole_layer_of_each_seed():
    train, test = drawn(), drawn(seed=1)
    result = probe.sweep(train, test, fractions=[0.1], seeds=[1, 2], solver=SGD(**OPTIONS))
    whole = result.table[result.table.fraction == 1]
    assert whole.seed.tolist() == [1, 2]
    assert whole.train_loss.nunique() == 2
    assert (result.table.l2 == 5e-4).all()


def test_progress_counts_epochs_then_test_rows():
    calls = []
    train = drawn()
    probe.sweep(
        train,
        train,
        fractions=[0.1],
        solver=SGD(epochs=3, one_start=False),
        progress=lambda stage, done, total, **facts: calls.append((stage, done, total)),
    )
    assert [call for call in calls if call[0] != "sweep"] == [
        ("epochs", 1, 3),
        ("epochs", 2, 3),
        ("epochs", 3, 3),
        ("test rows", 256, 330),
        ("test rows", 330, 330),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0: a whole number of at least 1"),
        ({"epochs": 2.5}, "epochs is 2.5: a whole number"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"step_every": 0}, "step_every is 0"),
        ({"lr": 0}, "lr is 0: a positive number"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"momentum": 1}, "momentum is 1: it lies in"),
        ({"val_fraction": 0}, "validation fraction 0 is outside"),
        ({"val_fraction": 1.0}, "validation fraction 1.0 is outside"),
        ({"val_fraction": 0.001}, "validation fraction 0.001 of 330 rows is no row at all"),
        ({"l2": -1}, "l2 is -1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        probe.fit(drawn(), chains_of(), solver=SGD(**options))
    with pytest.raises(TypeError, match=r"SGD\(\) has no argument 'nesterov'; there are l2"):
        SGD(nesterov=True)


def test_a_feature_that_is_not_finite_is_found():
    features, labels = drawn()
    features[321, 5] = np.inf
    with pytest.raises(DataError, match="row 321 of train has inf as feature 5"):
        probe.fit((features, labels), chains_of(), solver=SGD(**OPTIONS))

"""Rows that show the same images in several views: no image on both sides, one view an epoch."""

import numpy as np
import pytest
import torch
from problems import clusters, relative
from torch.nn import functional

from featstore import probe
from featstore.probe.errors import DataError, UsageError
from featstore.probe.moments import Remembered
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers import SGD
from featstore.probe.solvers.sgd import orders, views as views_shown
from featstore.probe.splits import random_parts
from featstore.probe.subsets import random_chain

VIEWS = 3
PROBLEM = clusters(120, 60, 16, 3)
NOISE = np.random.default_rng(7).normal(size=(VIEWS, *PROBLEM.x.shape)).astype(np.float32)
ROWS = (PROBLEM.x + 0.3 * NOISE).reshape(-1, 16)
LABELS = np.tile(PROBLEM.y, VIEWS)
CHAINS = [random_chain(16, [0.25, 1.0], seed=1)]


def views(rows=ROWS, block_rows=50) -> ArrayBlocks:
    return ArrayBlocks(rows, LABELS, block_rows=block_rows, n_views=VIEWS)


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
def test_views_are_rows(solver):
    with_views = probe.fit(views(), CHAINS, solver=solver, l2=0.1, device="cpu")
    plain = probe.fit((ROWS, LABELS), CHAINS, solver=solver, l2=0.1, device="cpu")
    for row in range(2):
        assert relative(with_views.weights(row).coef, plain.weights(row).coef) <= 1e-6


def test_all_views_of_an_image_are_held_out_together():
    names = np.tile(np.arange(120.0), VIEWS)[:, None]
    ((remainder, held_out),) = Remembered(views(names)).parts(0.2, seed=0)
    kept, spared = (np.concatenate([x[:, 0] for x, _ in part]) for part in (remainder, held_out))
    assert not set(kept) & set(spared)
    assert (np.bincount(spared.astype(int)) % VIEWS == 0).all()
    assert (remainder.n_views, held_out.n_views) == (VIEWS, VIEWS)
    assert remainder.n_rows + held_out.n_rows == 120 * VIEWS


def test_labels_of_noise_are_not_told_by_another_view():
    labels = np.random.default_rng(1).permutation(PROBLEM.y)
    train = ArrayBlocks(np.tile(NOISE[0], (VIEWS, 1)), np.tile(labels, VIEWS), n_views=VIEWS)
    chosen = probe.fit(
        train,
        CHAINS,
        solver="ridge",
        l2=[1e-3, 1e-2],
        select="validation",
        held_out=0.5,
        device="cpu",
    )
    assert (chosen.table["selection_accuracy"] < 0.55).all()


def test_leave_one_out_is_refused():
    with pytest.raises(UsageError, match=r"keep the others.*validation"):
        probe.fit(views(), CHAINS, solver="ridge", l2=[0.1, 1], select="loo", device="cpu")


def test_sgd_shows_one_view_an_epoch():
    options = {"epochs": 3, "batch_size": 32, "step_every": 2, "one_start": False}
    found = probe.fit(views(), CHAINS, solver=SGD(l2=1e-3, **options), device="cpu")
    recipe = SGD(**options)
    parts = random_parts(120, recipe.val_fraction, recipe.split_seed)
    torch.manual_seed(1)
    layer = torch.nn.Linear(16, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    x = torch.from_numpy(ROWS.reshape(VIEWS, 120, 16)[:, :, CHAINS[0].order])
    y = torch.from_numpy(PROBLEM.y)
    shown, losses = [], []
    count = len(parts.train)
    for order, view in zip(orders(recipe, count), views_shown(recipe, count, VIEWS), strict=True):
        images, view = torch.from_numpy(parts.train[order]), torch.from_numpy(view[order])
        shown.append(view)
        total = 0.0
        for batch in range(0, count, 32):
            rows, own = images[batch : batch + 32], view[batch : batch + 32]
            optimizer.zero_grad()
            loss = functional.cross_entropy(layer(x[own, rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        scheduler.step()
        losses.append(total / count)
    assert relative(found.fitted.losses[:, 1], np.array(losses)) <= 1e-5
    assert set(np.concatenate(shown)) == set(range(VIEWS))


def test_sgd_of_equal_views_is_sgd_of_one():
    options = {"solver": SGD(epochs=2, batch_size=32, validate_every=1), "device": "cpu"}
    equal = np.tile(PROBLEM.x, (VIEWS, 1))
    many = probe.fit(views(equal), CHAINS, **options)
    one = probe.fit(PROBLEM.train, CHAINS, **options)
    assert (many.fitted.losses == one.fitted.losses).all()
    assert (many.fitted.val_accuracies == one.fitted.val_accuracies).all()
    assert (many.weights(0).coef == one.weights(0).coef).all()


@pytest.mark.parametrize(
    ("rows", "labels", "n_views", "message"),
    [
        (7, [0, 1, 2, 0, 1, 2, 0], 2, "7 rows are not 2 views"),
        (4, [0, 1, 1, 0], 2, "labels of the 2 views differ"),
        (4, [0, 1, 0, 1], 0, "4 rows are not 0 views"),
    ],
)
def test_rows_that_are_no_views(rows, labels, n_views, message):
    with pytest.raises(DataError, match=message):
        ArrayBlocks(np.zeros((rows, 2), np.float32), labels, n_views=n_views)

"""Inequality of classes against its definitions, and its intervals against simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

from featstore.probe import classes
from featstore.probe.classes import (
    affected_classes,
    class_losses,
    gini,
    gini_slopes,
    inequality_table,
)
from featstore.probe.errors import DataError, UsageError

FIXED = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 1e-3}


def by_differences(values: np.ndarray) -> float:
    """The Gini coefficient as its definition has it."""
    total = sum(abs(one - other) for one in values for other in values)
    return total / (2 * len(values) ** 2 * np.mean(values))


@settings(max_examples=50, deadline=None)
@given(arrays.arrays(float, st.integers(1, 12), elements=st.floats(0.01, 1)), st.integers(0, 3))
def test_gini_is_half_the_relative_mean_difference(values, n_missing):
    padded = np.random.default_rng(0).permutation(np.r_[values, [np.nan] * n_missing])
    assert gini(padded) == pytest.approx(by_differences(values), abs=1e-12)
    assert gini(3 * values) == pytest.approx(gini(values), abs=1e-12)
    assert gini(np.tile(values, 2)) == pytest.approx(gini(values), abs=1e-12)


def test_gini_of_known_shares():
    assert gini([0.3] * 7) == pytest.approx(0)
    assert gini([0, 0, 0, 1]) == pytest.approx(0.75)
    assert np.isnan(gini([0.0, 0.0]))
    assert np.isnan(gini([np.nan, np.nan]))
    assert gini([[0, 1], [1, 1]]).tolist() == [0.5, 0]


ACCURACY = {
    # fraction: (seeds, classes)
    0.1: np.array([[0.2, 0.9, 0.7], [0.4, 0.8, 0.5], [0.3, 0.7, 0.9]]),
    1.0: np.array([[0.8, 0.9, 0.7], [0.7, 0.9, 0.8], [0.9, 0.8, 0.9]]),
}
NAMES = ["cat", "dog", "yak"]


def table(accuracy=ACCURACY, names=NAMES, **changes) -> pd.DataFrame:
    rows = [
        {
            **FIXED,
            "seed": seed,
            "fraction": f,
            "k": int(20 * f),
            "class": name,
            "class_accuracy": value,
            **changes,
        }
        for f, values in accuracy.items()
        for seed, row in enumerate(values, 1)
        for name, value in zip(names, row, strict=True)
    ]
    return pd.DataFrame(rows)


def test_the_measures_of_each_fraction():
    tenth, full = inequality_table(table().sample(frac=1, random_state=0)).to_dict("records")
    part, mean = ACCURACY[0.1], ACCURACY[0.1].mean(0)
    each = np.array([by_differences(row) for row in part])
    whole = np.array([by_differences(row) for row in ACCURACY[1.0]])
    assert (tenth["fraction"], tenth["k"], tenth["probes"]) == (0.1, 2, 3)
    assert tenth["gini"] == pytest.approx(each.mean())
    assert tenth["gini_std"] == pytest.approx(each.std(ddof=1))
    assert tenth["gini_of_mean"] == pytest.approx(by_differences(mean))
    assert tenth["gini_of_mean"] < tenth["gini"]
    assert tenth["gini_rise"] == pytest.approx((each - whole).mean())
    assert tenth["gini_rise_low"] <= tenth["gini_rise"] <= tenth["gini_rise_high"]
    assert tenth["mean_per_class"] == pytest.approx(part.mean())
    assert tenth["cv"] == pytest.approx(mean.std() / mean.mean())
    assert tenth["range"] == pytest.approx(0.8 - 0.3)
    assert (tenth["worst_class"], tenth["worst_accuracy"]) == ("cat", pytest.approx(0.3))
    assert full["gini_rise"] == full["gini_rise_low"] == full["gini_rise_high"] == 0


def test_the_classes_that_lose_most_come_first():
    losses = class_losses(table())
    assert losses["class"].tolist() == ["cat", "yak", "dog"]
    assert losses["loss"].tolist() == pytest.approx([0.5, 0.1, 0.2 / 3])
    assert losses["kept"].tolist() == pytest.approx([0.375, 0.875, 2.4 / 2.6])
    assert (losses["fraction"] == 0.1).all()
    assert (losses["probes"] == 3).all()
    # of 3 paired losses, 0.6, 0.3 and 0.6, with Student's 4.303
    reach = 4.30265 * np.std([0.6, 0.3, 0.6], ddof=1) / np.sqrt(3)
    assert losses["low"].iloc[0] == pytest.approx(0.5 - reach, rel=1e-4)
    assert losses["high"].iloc[0] == pytest.approx(0.5 + reach, rel=1e-4)
    assert (losses["over"] == "seeds").all()


def test_seeds_are_paired():
    # what a seed has for all its probes leaves the loss and its interval alone
    shifted = {f: values + np.array([[0.0], [0.05], [-0.05]]) for f, values in ACCURACY.items()}
    columns = ["loss", "low", "high"]
    assert np.allclose(class_losses(table(shifted))[columns], class_losses(table())[columns])


def test_a_seed_without_its_full_layer_is_not_paired():
    lacking = table()
    lacking = lacking[(lacking["seed"] != 3) | (lacking["fraction"] < 1)]
    losses = class_losses(lacking)
    assert (losses["probes"] == 2).all()
    assert losses["loss"].iloc[0] == pytest.approx(0.45)
    assert losses["part"].tolist() == pytest.approx([0.3, 0.6, 0.85])
    assert losses[["low", "high"]].notna().all(axis=None)
    tenth = inequality_table(lacking).iloc[0]
    assert (tenth["probes"], np.isfinite(tenth["gini_rise"])) == (3, True)
    parts = lacking[lacking["fraction"] < 1]
    assert class_losses(parts).empty
    assert np.isnan(inequality_table(parts)["gini_rise"].item())


def test_classes_without_test_rows_and_curves_without_seeds():
    missing = table(mode="first", seed=None)
    missing.loc[missing["class"] == "dog", "class_accuracy"] = np.nan
    missing = missing.drop_duplicates(["fraction", "class"])
    missing["seed"] = missing["seed"].astype("Int64")
    tenth = inequality_table(missing).iloc[0]
    assert tenth["gini"] == pytest.approx(by_differences([0.2, 0.7]))
    assert np.isnan(tenth["gini_rise_low"])
    losses = class_losses(missing)
    assert losses["class"].tolist() == ["cat", "yak", "dog"]
    assert losses["loss"].isna().tolist() == [False, False, True]
    nothing = inequality_table(missing.assign(class_accuracy=np.nan)).iloc[0]
    assert nothing[["gini", "cv", "worst_class"]].isna().all()


def test_penalties_chosen_by_each_probe_do_not_part_a_curve():
    chosen = table().assign(l2_choice="loo")
    chosen["l2"] = 10.0 ** -chosen["seed"]
    assert len(inequality_table(chosen)) == 2
    assert inequality_table(chosen)["probes"].tolist() == [3, 3]


def test_rows_that_stand_twice_are_refused():
    with pytest.raises(DataError, match=r"class 'cat' stands twice at fraction 0.1, seed 1"):
        inequality_table(pd.concat([table(), table()]))
    with pytest.raises(UsageError, match="level 0 is outside"):
        class_losses(table(), level=0)


def simulated(random, loss, n_rows=40, n_seeds=3, spread=0.03):
    """Correctness (S, n) of both probes: hard rows, and seeds that differ a little by class."""
    labels = np.repeat(np.arange(len(loss)), n_rows)
    hardness = random.uniform(size=len(labels))
    wobble = spread * random.normal(size=(n_seeds, len(loss)))
    full = np.broadcast_to(hardness < 0.8, (n_seeds, len(labels)))
    part = hardness < (0.8 - np.asarray(loss) + wobble)[:, labels]
    return part, full, labels


@pytest.mark.parametrize("n_seeds", [1, 4])
def test_all_intervals_hold_at_once_as_often_as_they_say(n_seeds):
    random = np.random.default_rng(n_seeds)
    loss = np.array([0.1, 0.15, 0.2, 0.2, 0.3])
    held = []
    for _ in range(100):
        found = affected_classes(
            *simulated(random, loss, n_seeds=n_seeds), resamples=300, level=0.9
        )
        rows = found.table.sort_values("class")
        truth = loss - loss.mean()
        held.append(((rows["low"] <= truth) & (truth <= rows["high"])).all())
    assert 0.82 <= np.mean(held) <= 0.97


@pytest.mark.parametrize(("n_classes", "per_class"), [(10, 100), (37, 65)])
@pytest.mark.parametrize(("n_seeds", "wobble"), [(1, 0), (3, 0), (3, 0.05), (5, 0.02), (10, 0.05)])
def test_equal_losses_are_called_unequal_as_often_as_is_said(n_classes, per_class, n_seeds, wobble):
    """The type-I error at 0.05; it was 0.01 of several seeds. The standard error is 0.011."""
    random = np.random.default_rng(n_seeds)
    called = np.mean(
        [
            affected_classes(
                *simulated(random, [0.2] * n_classes, per_class, n_seeds, wobble), resamples=200
            ).p_value
            <= 0.05
            for _ in range(400)
        ]
    )
    assert 0.02 <= called <= 0.08


def test_equal_losses_are_seldom_called_unequal_and_unequal_ones_often():
    random = np.random.default_rng(9)
    equal, unequal = (
        np.mean(
            [
                affected_classes(*simulated(random, loss), resamples=200).p_value < 0.1
                for _ in range(60)
            ]
        )
        for loss in ([0.2] * 6, [0.05, 0.05, 0.05, 0.05, 0.05, 0.4])
    )
    assert equal <= 0.16
    assert unequal >= 0.95


@pytest.mark.long
def test_intervals_of_a_class_and_of_the_gini_hold_the_truth():
    """Seeds shift each class of the part apart; on the classes' means the truth is known."""
    random, names = np.random.default_rng(11), list("abcd")
    full, part = np.array([0.9, 0.8, 0.95, 0.85]), np.array([0.5, 0.7, 0.9, 0.8])
    # what seeds estimate is the mean Gini of noisy accuracies, not the Gini of their means
    risen = gini(part + 0.04 * random.normal(size=(4000, 4))).mean() - gini(full)
    held = []
    for _ in range(200):
        noisy = part + 0.04 * random.normal(size=(5, 4))
        drawn = table({0.1: noisy, 1.0: np.tile(full, (5, 1))}, names)
        losses = class_losses(drawn, level=0.9).set_index("class").loc[names]
        rise = inequality_table(drawn, level=0.9).iloc[0]
        held.append(
            [
                *((losses["low"] <= full - part) & (full - part <= losses["high"])),
                rise["gini_rise_low"] <= risen <= rise["gini_rise_high"],
            ]
        )
    assert np.mean(np.array(held)[:, :4]) == pytest.approx(0.9, abs=0.03)
    assert np.mean(np.array(held)[:, 4]) == pytest.approx(0.9, abs=0.06)


def test_slopes_of_the_gini_are_its_differences():
    values = np.random.default_rng(12).uniform(0.1, 1, 9)
    steps = np.eye(9) * 1e-6
    assert gini_slopes(values) == pytest.approx(
        (gini(values + steps) - gini(values)) / 1e-6, abs=1e-4
    )
    # of the same shares of all, nothing changes: the coefficient has no scale
    assert gini_slopes(values) @ values == pytest.approx(0, abs=1e-12)
    assert gini_slopes([0.5, 0.5, np.nan]).tolist() == [0, 0, 0]
    assert gini_slopes([0, 0]).tolist() == [0, 0]


def test_losses_and_gini_draw_test_rows_too():
    """One seed, of which without test rows nothing is known: intervals hold what is expected."""
    random, loss, n = np.random.default_rng(13), np.array([0.1, 0.2, 0.5]), 60
    names, held, rises = list("abc"), [], []
    for _ in range(150):
        part, full, labels = simulated(random, loss, n, 1, 0)
        correct = np.concatenate([part, full])
        accuracy = [correct[:, labels == c].mean(1) for c in range(3)]
        wide = np.stack(accuracy, 1)
        tested = table({0.1: wide[:1], 1.0: wide[1:]}, names)
        losses = class_losses(tested, correct, labels, 0.9).set_index("class").loc[names]
        rise = inequality_table(tested, correct, labels, 0.9).iloc[0]
        assert (losses["over"] == "test rows").all()
        held.append([*((losses["low"] <= loss) & (loss <= losses["high"]))])
        rises.append((rise["gini_rise"], rise["gini_rise_low"], rise["gini_rise_high"]))
    rises = np.array(rises)
    assert np.mean(held) == pytest.approx(0.9, abs=0.05)
    expected = rises[:, 0].mean()
    within = (rises[:, 1] <= expected) & (expected <= rises[:, 2])
    assert within.mean() == pytest.approx(0.9, abs=0.07)
    with pytest.raises(DataError, match=r"correctness of shape \(1, 180\) and labels of shape"):
        class_losses(tested, correct[:1], labels)


def test_excess_is_over_the_mean_of_classes():
    labels = np.array([0] * 4 + [1] * 2 + [2] + [3] * 5)
    full = np.ones(12, bool)
    part = np.array([0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1], bool)
    found = affected_classes(part, full, labels, list("abcd"), resamples=100).table
    assert found["class"].tolist() == ["a", "d", "b"]
    assert found["rows"].tolist() == [4, 5, 2]
    assert found["loss"].tolist() == pytest.approx([0.5, 0.2, 0.0])
    assert found["excess"].sum() == pytest.approx(0, abs=1e-12)
    # nothing is known for certain of a class of two rows
    assert found["high"].iloc[2] - found["low"].iloc[2] > 0.3


def test_nothing_lost_is_nothing_found():
    labels = np.repeat([0, 1], 5)
    right = np.ones((2, 10), bool)
    found = affected_classes(right, right, labels, resamples=50)
    assert found.p_value == 1
    assert (found.table[["low", "high"]] == 0).all(axis=None)


def test_what_does_not_fit_is_refused():
    right = np.ones((2, 4), bool)
    with pytest.raises(DataError, match=r"shapes \(2, 4\) and \(1, 4\) for labels of shape \(4,\)"):
        affected_classes(right, right[0], np.zeros(4, int))
    with pytest.raises(DataError, match="fewer than 2 classes have 2 test rows"):
        affected_classes(right, right, np.array([0, 0, 0, 1]))


def test_rows_that_never_differ_are_not_certainty():
    right = {share: np.ones((1, 2)) for share in ACCURACY}
    labels = np.repeat([0, 1], [25, 100])
    losses = class_losses(table(right, NAMES[:2]), np.ones((2, 125), bool), labels)
    reach = 1.959964 * 2 / np.array([25, 100])
    losses = losses.set_index("class").loc[NAMES[:2]]
    assert losses["low"].tolist() == pytest.approx(-reach)
    assert losses["high"].tolist() == pytest.approx(reach)


def test_all_classes_at_once_reach_as_their_numbers_of_rows_say():
    random, labels = np.random.default_rng(3), np.repeat([0, 1, 2], [50, 200, 800])
    part, full = random.random((2, 1050)) < np.array([[0.6], [0.9]])
    found = affected_classes(part, full, labels, resamples=200).table.sort_values("rows")
    reach = (found["high"] - found["low"]).to_numpy()
    assert reach[:-1] / reach[1:] == pytest.approx([2, 2])


def test_the_rise_of_the_gini_has_the_noise_of_both_layers_on_the_same_rows():
    random, labels = np.random.default_rng(4), np.repeat([0, 1, 2], 60)
    right = random.random((2, 180)) < np.array([[0.5, 0.7, 0.9], [0.9, 0.6, 0.95]])[:, labels]
    part, full = right.reshape(2, 3, 60).mean(2)
    tested = table({0.1: part[None], 1.0: full[None]})
    found = inequality_table(tested, right, labels).iloc[0]
    # by how much a row moves a coefficient: its class's slope times its own distance from the mean
    moved = gini_slopes(part)[labels] * (right[0] - part[labels])
    moved -= gini_slopes(full)[labels] * (right[1] - full[labels])
    reach = 1.959964 * 3 * moved.std(ddof=1) / np.sqrt(180)
    assert found["gini_rise"] == pytest.approx(gini(part) - gini(full))
    assert found["gini_rise_high"] - found["gini_rise"] == pytest.approx(reach, rel=1e-3)


def test_what_seeds_leave_is_that_of_an_analysis_of_variance():
    random, labels = np.random.default_rng(5), np.repeat([0, 1, 2], [20, 30, 40])
    full, part = random.random((2, 3, 90)) < np.array([[[0.9]], [[0.6]]])
    lost = full.astype(float) - part
    seeds = np.stack([lost[:, labels == c].mean(1) for c in range(3)], 1)
    rest = []
    for c in range(3):
        of = lost[:, labels == c]
        left = of - of.mean(0) - of.mean(1, keepdims=True) + of.mean()
        rest.append((left**2).sum() / (2 * (of.shape[1] - 1)) / of.shape[1])
    rest = np.array(rest)
    excess = seeds - seeds.mean(1, keepdims=True)
    beyond = excess.var(0, ddof=1) - rest / 3 - rest.mean() / 3
    found = classes._Lost.of(part, full, labels)
    assert found.loss == pytest.approx(seeds.mean(0))
    assert found.seeds == pytest.approx(max(beyond.mean() / (2 / 3), 0), rel=1e-4)

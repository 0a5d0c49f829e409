"""Rows of groups: held out, drawn and resampled together."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from featstore.probe import learning_curve, sweep
from featstore.probe.errors import DataError, RowsWarning, UsageError
from featstore.probe.learning import _drawn
from featstore.probe.results.curves import curves
from featstore.probe.results.evidence import by_group
from featstore.probe.results.reading import read_correct
from featstore.probe.rows import ArrayBlocks, Grouped
from featstore.probe.splits import folds, grouped_parts


def patients(n_groups=24, each=10, seed=0, d=8, signal=0.8):
    """Return rows of patients, whose features tell the patient far better than the class."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), each)
    label = np.repeat(np.arange(n_groups) % 2, each)
    own = random.normal(size=(n_groups, d)) * 3
    x = own[group] + 0.3 * random.normal(size=(len(group), d)) + signal * label[:, None]
    return x, label, group


@given(st.integers(2, 5), st.integers(0, 3), st.sampled_from(["classes", "numbers", "labels"]))
@settings(max_examples=30, deadline=None)
def test_folds_are_whole_groups_and_each_row_is_in_one(count, seed, kind):
    random = np.random.default_rng(seed)
    group = random.integers(0, 12, 90)
    labels = {
        "classes": random.integers(0, 3, 90),
        "numbers": random.normal(size=(90, 2)),
        "labels": (random.uniform(size=(90, 3)) > 0.6).astype(np.uint8),
    }[kind]
    fold = folds(labels, count, seed, group)
    assert set(fold.tolist()) == set(range(count))
    assert all(len(set(fold[group == one].tolist())) == 1 for one in np.unique(group))
    alone = folds(labels, count, seed)
    assert np.ptp(np.bincount(alone, minlength=count)) <= 1


def test_folds_are_as_alike_as_scikit_learns():
    """Held by the spread of class shares over folds, of groups of unequal sizes and shares."""
    random = np.random.default_rng(3)
    sizes = random.integers(1, 40, 50)
    group = np.repeat(np.arange(50), sizes)
    labels = (random.uniform(size=len(group)) < np.repeat(random.uniform(size=50), sizes)) * 1

    def spread(fold):
        counts = np.stack([np.bincount(labels[fold == one], minlength=2) for one in range(5)])
        return (counts / counts.sum(0)).std()

    theirs = np.zeros(len(labels), int)
    known = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for number, (_, test) in enumerate(known.split(labels, labels, group)):
        theirs[test] = number
    assert spread(folds(labels, 5, 0, group)) <= spread(theirs) + 0.01


def test_a_class_of_one_group_is_not_held_out():
    labels = np.repeat([0, 1, 0, 1, 2], 4)
    group = np.repeat(np.arange(5), 4)
    for part in grouped_parts(labels, group, 0.2, 0, 5):
        assert set(labels[part.train]) == {0, 1, 2}
    with pytest.raises(DataError, match="none of 2 groups can be held out"):
        grouped_parts(np.repeat([0, 1], 4), np.repeat([0, 1], 4), 0.5, 0)


def test_penalties_are_chosen_on_whole_groups():
    """Rows of a known patient are told by weak penalties, new patients are not."""
    (x, y, group), (xt, yt, test_group) = patients(), patients(seed=1)
    grouped = sweep((x, y), (xt, yt), fractions=1.0, solver="ridge",
                    groups=(group, test_group + 100)).table  # fmt: skip
    apart = sweep((x, y), (xt, yt), fractions=1.0, solver="ridge").table
    assert grouped["l2_choice"].tolist() == ["validation"]
    assert grouped["l2"].iloc[0] > apart["l2"].iloc[0]
    assert grouped["n_groups"].tolist() == [24]
    assert grouped["selection_accuracy"].iloc[0] < apart["selection_accuracy"].iloc[0] - 0.05
    with pytest.raises(UsageError, match="one row of a group"):
        sweep((x, y), (xt, yt), fractions=1.0, solver="ridge", select="loo",
              groups=(group, test_group + 100))  # fmt: skip


def test_values_of_groups_have_the_variance_of_a_bootstrap_of_groups():
    random = np.random.default_rng(0)
    group = random.integers(0, 40, 600)
    right = random.uniform(size=600) < random.uniform(0.3, 1, 40)[group]
    values = by_group(right[None], np.unique(group, return_inverse=True)[1])[0].astype(float)
    assert values.mean() == pytest.approx(right.mean())
    rows = [np.flatnonzero(group == one) for one in np.unique(group)]
    drawn = [
        right[np.concatenate([rows[one] for one in random.integers(0, len(rows), len(rows))])]
        for _ in range(4000)
    ]
    bootstrap = np.std([one.mean() for one in drawn])
    assert values.std(ddof=1) / np.sqrt(len(values)) == pytest.approx(bootstrap, rel=0.05)


def test_intervals_are_over_groups_also_from_files(tmp_path):
    (x, y, group), (xt, yt, test_group) = patients(signal=3), patients(seed=1, signal=3)
    given_ = {"fractions": [0.5], "seeds": 3, "solver": "ridge", "l2": 0.1}
    found = sweep((x, y), (xt, yt), **given_, groups=(group, test_group + 100),
                  out=tmp_path / "r.csv")  # fmt: skip
    apart = sweep((x, y), (xt, yt), **given_)
    (ours,), (theirs,) = curves(found), curves(apart)
    np.testing.assert_allclose(ours.mean(), theirs.mean())
    width = [np.subtract(*one.mean_interval()[1::-1]) for one in (ours, theirs)]
    assert width[0][-1] > 1.5 * width[1][-1]  # the whole layer, which no seed changes
    assert "240 test rows of 24 groups" in repr(found)
    (kept,) = curves(found.table, read_correct(tmp_path / "r.csv"))
    np.testing.assert_allclose(kept.mean_interval()[:2], ours.mean_interval()[:2], atol=1e-6)


def test_groups_that_train_knows_are_told():
    x, y, group = patients()
    with pytest.warns(RowsWarning, match="24 of 24 groups of test rows have train rows too"):
        sweep((x, y), (x, y), fractions=1.0, solver="ridge", l2=0.1, groups=(group, group))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep((x, y), (x, y), fractions=1.0, solver="ridge", l2=0.1, groups=(group, group + 99))
    with pytest.raises(UsageError, match="239 groups are given for 240 rows"):
        sweep((x, y), (x, y), fractions=1.0, groups=(group[1:], group))


def test_draws_of_rows_are_of_groups():
    x, y, group = patients()
    rows = Grouped(ArrayBlocks(x, y), group)
    share = _drawn(rows, 1, 0.25, of_shots=False)
    assert np.bincount(group)[np.unique(group[share])].sum() == len(share) == 60
    assert set(_drawn(rows, 1, 0.25, of_shots=False)) <= set(_drawn(rows, 1, 0.5, of_shots=False))
    shots = _drawn(rows, 1, 5, of_shots=True)
    assert len(np.unique(group[shots])) == len(shots) == 10
    found = learning_curve((x, y), (x, y), shots=[2], draws=1, l2=0.1, groups=(group, group + 99))
    assert found.table["n_groups"].tolist() == [24]

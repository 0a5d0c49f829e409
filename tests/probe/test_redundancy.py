"""Diffused redundancy against a brute-force reading, the published values and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from featstore.probe.errors import DataError, UsageError
from featstore.probe.redundancy import DELTAS, RULES, diffused_redundancy

FIXED = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 1e-3}


def table(fractions, accuracy, **changes) -> pd.DataFrame:
    """One curve: accuracy (S, F)."""
    rows = [
        {**FIXED, "seed": seed, "fraction": fraction, "accuracy": value, **changes}
        for seed, values in enumerate(np.atleast_2d(accuracy), 1)
        for fraction, value in zip(fractions, values, strict=True)
    ]
    return pd.DataFrame(rows)


def brute(fractions, accuracy, delta, rule) -> float:
    """The fraction that is kept, by going through the grid point after point."""
    ratios = []
    for place in range(len(fractions)):
        each = [row[place] / row[-1] for row in accuracy]
        ratios.append(sum(each) / len(each))
    if rule == "nearest":
        best = 0
        for place, ratio in enumerate(ratios):
            if abs(ratio - delta) < abs(ratios[best] - delta):
                best = place
        return fractions[best]
    place = next(place for place, ratio in enumerate(ratios) if ratio >= delta)
    if rule == "threshold" or place == 0:
        return fractions[place]
    slope = (ratios[place] - ratios[place - 1]) / math.log(fractions[place] / fractions[place - 1])
    return fractions[place - 1] * math.exp((delta - ratios[place - 1]) / slope)


@settings(max_examples=20, deadline=None)
@given(
    n_seeds=st.integers(1, 4),
    below=st.lists(st.floats(0.001, 0.95), min_size=1, max_size=6, unique=True),
    delta=st.sampled_from(DELTAS[:-1]),
    seed=st.integers(0, 10**6),
)
def test_every_rule_reads_what_brute_force_reads(n_seeds, below, delta, seed):
    fractions = [*sorted(below), 1.0]
    accuracy = np.random.default_rng(seed).uniform(0.1, 1, (n_seeds, len(fractions)))
    shuffled = table(fractions, accuracy).sample(frac=1, random_state=seed)
    found = diffused_redundancy(shuffled, [delta], list(RULES)).set_index("rule")
    for rule in RULES:
        wanted = brute(fractions, accuracy, delta, rule)
        assert found["fraction"][rule] == pytest.approx(wanted, rel=1e-9), rule
        assert found["redundancy"][rule] == 1 - found["fraction"][rule]


# accuracies of linear probes on ResNet-50, printed by the paper's authors
GRID = [0.0005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0]
PUBLISHED = {
    "cifar10": [12.3, 37.1, 69.5, 77.9, 83.2, 85.2, 87.4, 88.8, 89.1, 89.14],
    "cifar100": [1.5, 9.4, 29.0, 41.0, 51.8, 56.8, 62.3, 66.1, 66.8, 66.28],
    "flowers102": [2.7, 1.6, 6.5, 13.4, 24.1, 32.7, 47.5, 56.7, 59.2, 60.94],
    "oxford_iiit_pet": [3.8, 22.9, 66.3, 82.7, 88.1, 90.0, 91.1, 92.1, 92.2, 92.5],
}


@pytest.mark.parametrize(
    ("task", "by_nearest", "by_threshold"),
    [
        ("cifar10", 0.9, 0.8),
        ("cifar100", 0.5, 0.5),
        ("flowers102", 0.2, 0.2),
        ("oxford_iiit_pet", 0.9, 0.8),
    ],
)
def test_published_redundancies(task, by_nearest, by_threshold):
    found = diffused_redundancy(table(GRID, PUBLISHED[task]), rules=list(RULES)).set_index("rule")[
        "redundancy"
    ]
    assert found["nearest"] == pytest.approx(by_nearest)
    assert found["threshold"] == pytest.approx(by_threshold)
    assert found["threshold"] < found["interpolated"] < by_threshold + 0.3


def test_between_grid_points_the_ratio_is_linear_in_the_logarithm():
    found = diffused_redundancy(table([0.01, 0.1, 1.0], [0.2, 0.6, 0.8]), [0.5, 0.25, 0.2, 1.0])
    kept = found[found["rule"] == "interpolated"]["fraction"].tolist()
    assert kept == pytest.approx([10**-1.5, 0.01, 0.01, 1.0])
    exact = found[(found["rule"] == "interpolated") & (found["delta"] == 1)]["fraction"]
    assert exact.tolist() == [1.0]


def test_of_a_curve_that_falls_again_the_first_crossing_counts():
    found = diffused_redundancy(
        table([0.1, 0.2, 0.5, 1.0], [0.5, 0.95, 0.6, 1.0]), [0.9], list(RULES)
    )
    assert found.set_index("rule")["fraction"]["threshold"] == 0.2


def test_the_curve_falls_with_delta_and_is_exact_at_one():
    random = np.random.default_rng(0)
    curves = table(GRID, np.sort(random.uniform(size=(3, 10)), 1))
    found = diffused_redundancy(curves, DELTAS, list(RULES))
    for rule, rows in found.groupby("rule"):
        assert (np.diff(rows["redundancy"]) <= 0).all(), rule
        assert rows["redundancy"].iloc[-1] == 0
        assert (rows["low"] <= rows["redundancy"]).all()
        assert (rows["redundancy"] <= rows["high"]).all()


def test_curves_are_read_apart_and_unseeded_ones_too():
    both = pd.concat(
        [
            table([0.1, 1.0], [[0.9, 0.9], [0.9, 0.9]]),
            table([0.1, 1.0], [0.1, 0.9], mode="first", seed=None),
        ]
    )
    both["seed"] = both["seed"].astype("Int64")
    found = diffused_redundancy(both, rules=["threshold"]).set_index("mode")
    assert found["redundancy"].to_dict() == {"first": 0, "random": 0.9}
    assert found["seeds"].to_dict() == {"first": 1, "random": 2}
    assert np.isnan(found.loc["first", ["low", "high"]].astype(float)).all()
    assert found.loc["random", ["low", "high"]].tolist() == [0.9, 1]
    assert found["bound"].to_dict() == {"first": "", "random": "at least"}


def test_what_the_smallest_fraction_keeps_already_is_a_bound():
    alone = table([0.1, 1.0], [[0.85, 0.9], [0.86, 0.9], [0.87, 0.9]])
    for rule in RULES:
        found = diffused_redundancy(alone, [0.9, 0.99], [rule]).set_index("delta")
        assert found["bound"].tolist() == ["at least", ""], rule
        assert found.loc[0.9, ["redundancy", "high"]].tolist() == [0.9, 1]
        assert found.loc[0.9, "low"] <= 0.9
    # one feature is the least that can be taken: there is nothing below it
    single = diffused_redundancy(alone.assign(k=[1, 10] * 3)).iloc[0]
    assert (single["bound"], single["redundancy"], single["high"]) == ("", 0.9, 0.9)


def test_numbers_predicted_are_read_by_their_r2():
    r2 = table([0.1, 1.0], [0.5, 0.5]).rename(columns={"accuracy": "r2"})
    assert (diffused_redundancy(r2)["redundancy"] == 0.9).all()
    r2["r2"] = -0.1
    assert diffused_redundancy(r2)["redundancy"].isna().all()


def test_without_a_full_layer_there_is_no_redundancy():
    found = diffused_redundancy(table([0.1, 0.5], [[0.5, 0.6], [0.5, 0.6]]))
    assert found[["fraction", "redundancy", "low", "high"]].isna().all(axis=None)


def test_a_seed_that_lacks_a_fraction_is_left_out_there():
    lacking = table([0.1, 0.2, 1.0], [[0.2, 0.5, 1], [0.4, 0.9, 1]]).drop(index=1)
    found = diffused_redundancy(lacking, [0.6], ["threshold"])
    assert found["fraction"].item() == 0.2
    lacking = lacking[lacking["seed"] == 1]
    assert diffused_redundancy(lacking, [0.6], ["threshold"])["fraction"].item() == 1.0


def test_intervals_over_seeds_hold_the_truth():
    """The truth: log10 f at which the mean curve a + b log10 f, seeds' a random, keeps 0.7."""
    fractions = np.array([0.01, 0.03, 0.1, 0.3, 1.0])
    random, held = np.random.default_rng(3), []
    for _ in range(80):
        shift = 0.04 * random.normal(size=(6, 1)) * (fractions < 1)
        accuracy = 1 + 0.25 * np.log10(fractions) + shift
        found = diffused_redundancy(
            table(fractions, accuracy), [0.7], ["interpolated"], level=0.9
        ).iloc[0]
        held.append(found["low"] <= 1 - 10**-1.2 <= found["high"])
    assert np.mean(held) == pytest.approx(0.9, abs=0.07)


def rows_of(accuracy, n_rows, random):
    """Correctness (S * F, n) by whether a row's hardness, the same for all probes, is low."""
    hardness = random.uniform(size=n_rows)
    return hardness[None] < np.ravel(accuracy)[:, None]


def test_correctness_stands_for_accuracy():
    random = np.random.default_rng(4)
    accuracy = np.array([[0.5, 0.75, 0.85], [0.45, 0.8, 0.9]])
    probes = table([0.1, 0.3, 1.0], accuracy)
    correct = rows_of(accuracy, 300, random)
    by_rows = diffused_redundancy(probes, [0.8, 0.9], correct=correct)
    again = diffused_redundancy(probes.assign(accuracy=correct.mean(1)), [0.8, 0.9])
    assert by_rows["fraction"].tolist() == again["fraction"].tolist()
    order = random.permutation(len(probes))
    moved = diffused_redundancy(probes.iloc[order], [0.8, 0.9], correct=correct[order])
    assert moved["fraction"].tolist() == by_rows["fraction"].tolist()
    with pytest.raises(DataError, match=r"correctness of shape \(5, 300\) for a table of 6 rows"):
        diffused_redundancy(probes, correct=correct[1:])


def test_a_probe_that_failed_is_left_out_whatever_it_predicts():
    accuracy = np.array([[0.5, 0.9], [np.nan, 0.9]])
    correct = np.zeros((4, 20), bool)
    correct[[0, 1, 3], :18] = True
    correct[0, 9:] = False
    found = diffused_redundancy(table([0.1, 1.0], accuracy), [0.3], ["threshold"], correct)
    assert found["fraction"].tolist() == [0.1]


def test_seeds_are_drawn_again_beside_rows():
    # no row differs from another, and of two seeds one keeps everything and the other nothing
    correct = np.repeat([[True], [True], [False], [True]], 30, axis=1)
    probes = table([0.1, 1.0], correct.mean(1).reshape(2, 2))
    found = diffused_redundancy(probes, [0.75], ["threshold"], correct).iloc[0]
    assert (found["redundancy"], found["low"], found["high"]) == (0, 0, 1)


def test_intervals_over_rows_hold_the_truth():
    fractions, accuracy = np.array([0.01, 0.1, 1.0]), np.array([0.4, 0.6, 0.8])
    random, held = np.random.default_rng(5), []
    for _ in range(60):
        correct = rows_of(accuracy, 250, random)
        found = diffused_redundancy(
            table(fractions, accuracy),
            [0.625],
            ["interpolated"],
            correct=correct,
            level=0.9,
        ).iloc[0]
        held.append(found["low"] <= 1 - 10**-1.5 <= found["high"])
    assert np.mean(held) == pytest.approx(0.9, abs=0.08)


def test_what_cannot_be_asked_is_refused():
    probes = table([0.1, 1.0], [0.5, 0.9])
    with pytest.raises(UsageError, match=r"delta 90 is outside \(0, 1\]"):
        diffused_redundancy(probes, [90])
    with pytest.raises(UsageError, match="no rule is called 'closest': there are interpolated, "):
        diffused_redundancy(probes, rules=["closest"])
    with pytest.raises(DataError, match=r"fraction 0\.1 of seed 1 stands twice in a curve of mode"):
        diffused_redundancy(pd.concat([probes, probes]))


def test_intervals_end_on_the_grid_but_for_the_rule_that_reads_between():
    fractions = [0.05, 0.1, 0.2, 0.4, 1.0]
    noise = np.random.default_rng(6).normal(size=(5, 5)) * [0.03, 0.03, 0.03, 0.02, 0]
    scores = np.array([0.5, 0.6, 0.7, 0.76, 0.8]) + noise
    found = diffused_redundancy(table(fractions, scores), 0.87, list(RULES)).set_index("rule")
    grid = np.round([1, *(1 - np.array(fractions))], 12)
    for rule in RULES:
        ends = np.isin(found.loc[rule, ["low", "high"]].astype(float).round(12), grid)
        assert ends.tolist() == [rule != "interpolated"] * 2
        assert found.loc[rule, "low"] < found.loc[rule, "redundancy"] <= found.loc[rule, "high"]

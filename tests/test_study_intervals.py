"""Intervals of a curve's accuracies and ratios, held against definitions and simulation."""

import numpy as np
import pandas as pd
import pytest

from studies.intervals import Resampling, curve_table

NAMES = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 0.1}


def table_of(correct: np.ndarray) -> pd.DataFrame:
    """A table of probes (seeds, fractions) from what each has right, (seeds, fractions, n)."""
    shares = (0.1, 1.0)
    rows = [
        NAMES | {"seed": seed, "fraction": shares[place], "k": int(40 * shares[place]),
                 "accuracy": hits.mean()}
        for seed, each in enumerate(correct, 1) for place, hits in enumerate(each)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def drawn(random: np.random.Generator, seeds: int, n: int) -> np.ndarray:
    """Right or wrong on n rows: harder rows are hard for every probe, seeds differ a little."""
    hard = random.normal(size=n)
    skill = np.array([0.5, 1.5])[None, :, None] + 0.3 * random.normal(size=(seeds, 2, 1))
    skill[:, 1] = 1.5
    noise = random.normal(size=(seeds, 2, n))
    noise[:, 1] = noise[0, 1]
    return skill - hard + 0.3 * noise > 0


def test_means_and_spreads_are_over_seeds_and_the_whole_layer_is_1():
    correct = drawn(np.random.default_rng(0), 4, 200)
    found = curve_table(table_of(correct), correct.reshape(8, -1)).set_index("fraction")
    ratios = correct[:, 0].mean(1) / correct[:, 1].mean(1)
    assert found.loc[0.1, "ratio"] == pytest.approx(ratios.mean())
    assert found.loc[0.1, "ratio_std"] == pytest.approx(ratios.std(ddof=1))
    assert found.loc[0.1, "probes"] == 4
    row = found.loc[1.0]
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (1, 1, 1)
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]


def test_seeds_alone_say_nothing_of_what_no_seed_changes():
    correct = drawn(np.random.default_rng(1), 4, 100)
    found = curve_table(table_of(correct)).set_index("fraction")
    assert found.loc[1.0, "accuracy_low"] == found.loc[1.0, "accuracy_high"]
    assert found.loc[0.1, "ratio_low"] < found.loc[0.1, "ratio_high"]
    alone = curve_table(table_of(correct[:1])).set_index("fraction")
    assert alone[["accuracy_low", "ratio_high", "accuracy_std"]].isna().to_numpy().all()
    rows = curve_table(table_of(correct[:1]), correct[:1].reshape(2, -1)).set_index("fraction")
    assert rows.loc[0.1, "ratio_low"] < rows.loc[0.1, "ratio"] < rows.loc[0.1, "ratio_high"]


def test_a_layer_that_is_never_right_has_no_ratio():
    correct = np.zeros((2, 2, 30), bool)
    found = curve_table(table_of(correct), correct.reshape(4, -1), Resampling(50))
    assert found["ratio"].isna().all()
    assert (found["accuracy_high"] == 0).all()


def test_intervals_hold_the_truth_as_often_as_they_say():
    """The mean ratio over all seeds and rows, held by 90 % intervals: crossed, they err wide."""
    truth = drawn(np.random.default_rng(2), 400, 20_000)
    ratio = (truth[:, 0].mean(1) / truth[:, 1].mean(1)).mean()
    how, held = Resampling(200, 0.9), []
    for trial in range(100):
        correct = drawn(np.random.default_rng(100 + trial), 5, 300)
        row = curve_table(table_of(correct), correct.reshape(10, -1), how).iloc[0]
        held.append(row["ratio_low"] <= ratio <= row["ratio_high"])
    assert np.mean(held) >= 0.85

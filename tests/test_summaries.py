"""The summary of a sweep against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from probe.summaries import CURVE, sentence, summary, warnings, with_ratio


def table(probes, **changes) -> pd.DataFrame:
    """Rows (seed, fraction, k, accuracy) of one curve, in the long form."""
    fixed = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 1e-3, **changes}
    keys = ("seed", "fraction", "k", "accuracy")
    return pd.DataFrame([fixed | dict(zip(keys, row, strict=True)) for row in probes])


PROBES = [(1, 0.1, 2, 0.4), (2, 0.1, 2, 0.6), (1, 1.0, 20, 0.8), (2, 1.0, 20, 0.6)]


def test_the_ratio_is_to_the_full_layer_of_the_same_seed():
    assert with_ratio(table(PROBES))["ratio"].tolist() == pytest.approx([0.5, 1.0, 1.0, 1.0])


def test_mean_and_sample_std_over_seeds():
    tenth, full = summary(table(PROBES)).to_dict("records")
    assert (tenth["accuracy"], tenth["ratio"]) == pytest.approx((0.5, 0.75))
    assert tenth["accuracy_std"] == pytest.approx(math.sqrt(0.02))
    assert tenth["ratio_std"] == pytest.approx(math.sqrt(0.125))
    assert (full["ratio"], full["ratio_std"], full["probes"], full["k"]) == (1.0, 0.0, 2, 20)


def test_one_seed_has_no_spread():
    row = summary(table([PROBES[0], PROBES[2]])).iloc[0]
    assert np.isnan(row["accuracy_std"])
    assert row["probes"] == 1


def test_the_order_of_rows_does_not_matter():
    whole = table(PROBES)
    pd.testing.assert_frame_equal(summary(whole), summary(whole[::-1]))


def test_each_penalty_is_compared_with_its_own_full_layer():
    both = pd.concat([table(PROBES), table([(1, 0.1, 2, 0.3), (1, 1.0, 20, 0.3)], l2=1e-2)])
    halves = summary(both)
    assert halves[halves["l2"] == 1e-2]["ratio"].tolist() == [1.0, 1.0]
    assert len(halves) == 4
    assert len(halves.groupby(CURVE)) == 2


def test_the_sentence_speaks_of_ten_per_cent():
    probes = [*PROBES, (1, 0.5, 10, 0.7), (2, 0.5, 10, 0.7)]
    assert sentence(table(probes)) == (
        "10 % of the features keep 75.0 ± 35.4 % of the full layer's accuracy "
        "(0.500 of 0.700; 2 seeds, l2 = 0.001)."
    )


def test_the_sentence_takes_the_nearest_fraction_and_one_seed():
    probes = [(1, 0.05, 1, 0.4), (1, 0.5, 10, 0.4), (1, 1.0, 20, 0.8)]
    assert sentence(table(probes)).startswith("5 % of the features keep 50.0 % of")
    assert "1 seed," in sentence(table(probes))


def test_sentences_of_several_modes_say_which():
    both = pd.concat([table(PROBES), table(PROBES[::2], mode="pca")])
    random, pca = sentence(both).splitlines()
    assert random.startswith("random: 10 % of the features keep 75.0 ± 35.4 % of")
    assert pca.startswith("pca: 10 % of the features keep 50.0 % of")
    beaten = table([(1, 0.5, 10, 0.9), (1, 1.0, 20, 0.6)], mode="pca")
    (line,) = warnings(pd.concat([table(PROBES), beaten]).assign(status="ok"))
    assert line.startswith("pca: 50 % of the features are more accurate than all of them")


def test_the_sentence_of_the_full_layer_alone():
    assert sentence(table(PROBES[2:])) == "20 features reach an accuracy of 0.700."


def test_warnings_name_each_unusual_status_once():
    status = ["ok", "jitter=1.0e-09", "jitter=2.0e-09", "singular"]
    assert warnings(table(PROBES).assign(status=status)) == [
        "2 of 4 probes have status jitter, the first at fraction 0.1, seed 2, l2 0.001",
        "1 of 4 probes have status singular, the first at fraction 1, seed 2, l2 0.001",
    ]
    assert warnings(table(PROBES).assign(status=["ok", "ok", "converged", "ok"])) == []


def test_a_full_layer_beaten_by_its_part_is_a_sign_of_too_small_a_penalty():
    probes = [(1, 0.5, 10, 0.8), (2, 0.5, 10, 0.84), (1, 1.0, 20, 0.7), (2, 1.0, 20, 0.7)]
    (line,) = warnings(table(probes).assign(status="ok"))
    assert line.startswith("50 % of the features are more accurate than all of them (0.820 against")
    lucky = [(1, 0.5, 10, 0.704), (1, 1.0, 20, 0.7)]  # one seed, without a spread
    assert warnings(table(lucky).assign(status="ok")) == []
    within_spread = [(1, 0.5, 10, 0.6), (2, 0.5, 10, 0.84), *probes[2:]]
    assert warnings(table(within_spread).assign(status="ok")) == []


def test_a_failed_probe_is_left_out_of_the_mean():
    probes = table(PROBES).assign(accuracy=[0.4, np.nan, 0.8, 0.6])
    row = summary(probes).iloc[0]
    assert (row["accuracy"], row["probes"]) == (0.4, 1)


def test_penalties_chosen_by_each_probe_make_one_curve():
    chosen = table(PROBES).assign(
        l2=[0.1, 0.2, 0.3, 0.4],
        l2_choice="validation",
        l2_place=["lowest", "inside", "inside", "highest"],
        status="ok",
    )
    assert len(summary(chosen)) == 2
    assert summary(chosen)["ratio"].tolist() == summary(table(PROBES))["ratio"].tolist()
    assert "2 seeds, l2 by validation)." in sentence(chosen)
    assert warnings(chosen) == [
        "1 of 4 probes chose the lowest penalty tried: try smaller ones",
        "1 of 4 probes chose the highest penalty tried: try larger ones",
    ]


def test_probes_that_were_not_run_are_absent_and_named():
    status = ["ok", "not run", "ok", "ok"]
    begun = table(PROBES).assign(status=status, accuracy=[0.4, np.nan, 0.8, 0.6])
    assert summary(begun)["probes"].tolist() == [1, 2]
    assert warnings(begun)[0].startswith("1 of 4 probes have status not run")

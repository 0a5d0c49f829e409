"""The summary of a sweep against numbers worked out by hand."""

import math
import re

import numpy as np
import pandas as pd
import pytest

from featstore.probe.results import CURVE
from featstore.probe.results.sentences import sentence, warnings
from featstore.probe.results.views import summary, with_ratio
from featstore.probe.statuses import Status


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
        "10 % of the features keep 75.0 % (0.0 to 392.7) of the full layer's accuracy, 0.500 "
        "(0.000 to 1.000) of 0.700, ridge, l2 = 0.001 (2 seeds; 95 % interval over seeds alone)."
    )


def test_the_sentence_takes_the_nearest_fraction_and_one_seed():
    probes = [(1, 0.05, 1, 0.4), (1, 0.5, 10, 0.4), (1, 1.0, 20, 0.8)]
    assert sentence(table(probes)).startswith("5 % of the features keep 50.0 % of")
    assert sentence(table(probes)).endswith("of 0.800, ridge, l2 = 0.001 (1 seed; no interval).")


def test_sentences_of_several_modes_say_which():
    both = pd.concat([table(PROBES), table(PROBES[::2], mode="pca")])
    random, pca = sentence(both).splitlines()
    assert random.startswith("random: 10 % of the features keep 75.0 % (0.0 to 392.7) of")
    assert pca.startswith("pca: 10 % of the features keep 50.0 % of")
    assert "ridge, l2 = 0.001, mode pca (1 seed" in pca
    beaten = table([(1, 0.5, 10, 0.9), (1, 1.0, 20, 0.6)], mode="pca")
    random, pca = sentence(pd.concat([table(PROBES), beaten]).assign(status="ok")).splitlines()
    assert "overfitted" not in random
    assert "The full layer is overfitted at l2 = 0.001 (50 % of the features reach 0.900)" in pca


def test_the_sentence_of_the_full_layer_alone():
    assert sentence(table(PROBES[2:3])) == "20 features reach an accuracy of 0.800."


def test_warnings_name_each_unusual_status_once():
    status = ["ok", "jitter=1.0e-09", "jitter=2.0e-09", "singular"]
    assert warnings(table(PROBES).assign(status=status)) == [
        "2 of 4 probes have status jitter, the first at fraction 0.1, seed 2, l2 0.001: "
        + Status.JITTER.text,
        "1 of 4 probes have status singular, the first at fraction 1, seed 2, l2 0.001: "
        + Status.SINGULAR.text,
    ]
    assert warnings(table(PROBES).assign(status=["ok", "ok", "converged", "ok"])) == []


def test_a_full_layer_beaten_by_its_part_is_said_in_the_sentence():
    probes = [(1, 0.5, 10, 0.8), (2, 0.5, 10, 0.84), (1, 1.0, 20, 0.7), (2, 1.0, 20, 0.7)]
    said = sentence(table(probes).assign(status="ok"))
    assert said.endswith(
        " The full layer is overfitted at l2 = 0.001 (50 % of the features reach 0.820): a ratio "
        "to it is too high; leave --l2 out."
    )
    assert sentence(table(probes, solver="sgd")).endswith("take --l2 auto.")
    chosen = sentence(table(probes).assign(l2_choice="loo"))
    assert "ridge, l2 chosen by leave-one-out (2 seeds" in chosen
    assert chosen.endswith(
        " The full layer is beaten by 50 % of the features by 12.0 points (standard error 2.0): "
        "more features make this probe worse here; read ratios against the best fraction."
    )
    lucky = [(1, 0.5, 10, 0.704), (1, 1.0, 20, 0.7)]  # one seed, without a spread
    assert "overfitted" not in sentence(table(lucky))
    within_spread = [(1, 0.5, 10, 0.6), (2, 0.5, 10, 0.84), *probes[2:]]
    assert "overfitted" not in sentence(table(within_spread))


def rows_of(probes: pd.DataFrame, n: int = 1000) -> np.ndarray:
    """Test rows that each probe has right, the first ones: as many as the table says."""
    return np.arange(n) < n * probes["accuracy"].to_numpy()[:, None]


FACTS = {"n_test": 1000, "chance": 0.1, "majority": 0.12, "status": "ok"}


def test_with_test_rows_the_interval_is_over_them_too():
    probes = [(1, 0.1, 2, 0.56), (2, 0.1, 2, 0.58), (3, 0.1, 2, 0.6)]
    probes += [(seed, 1.0, 20, 0.675) for seed in (1, 2, 3)]
    chosen = table(probes, solver="logistic").assign(l2_choice="validation", **FACTS)
    correct = rows_of(chosen)
    said = sentence(chosen, correct=correct)
    near = summary(chosen, correct).iloc[0]
    ends = [100 * near.ratio_low, 100 * near.ratio_high, near.accuracy_low, near.accuracy_high]
    assert said == (
        "10 % of the features keep 85.9 % ({:.1f} to {:.1f}) of the full layer's accuracy, 0.580 "
        "({:.3f} to {:.3f}) of 0.675, logistic, l2 chosen on train rows (3 seeds, 1,000 test rows; "
        "95 % interval)."
    ).format(*ends)
    alone = sentence(chosen)
    assert "(3 seeds, 1,000 test rows; 95 % interval over seeds alone)" in alone
    one = chosen[chosen["seed"] == 1]
    assert "(1 seed, 1,000 test rows; 95 % interval over test rows alone)" in sentence(
        one, correct=rows_of(one)
    )
    assert "80 % interval)" in sentence(chosen, correct=correct, level=0.8)


def test_a_part_that_beats_the_full_layer_within_noise_of_the_test_rows_is_not_said():
    probes = table([(1, 0.5, 10, 0.71), (1, 1.0, 20, 0.69)]).assign(**FACTS)
    assert "overfitted" in sentence(probes)
    random = np.random.default_rng(0)
    # the two are right on rows of their own: 2 points of 1,000 rows are noise
    apart = np.stack([random.permutation(row) for row in rows_of(probes)])
    assert "overfitted" not in sentence(probes, correct=apart)
    # on the same rows, but for 20: they are not
    assert "overfitted" in sentence(probes, correct=rows_of(probes))


def worse_with_more(n: int = 1000) -> tuple[pd.DataFrame, np.ndarray]:
    """Probes of chosen penalties whose score falls beyond half of the features, with their rows."""
    random, seeds = np.random.default_rng(1), range(1, 6)
    at = [(0.1, 0.6), (0.5, 0.8), (1.0, 0.7)]
    correct = {seed: {f: random.random(n) < p for f, p in at} for seed in seeds}
    for own in correct.values():
        own[1.0] = correct[1][1.0]  # no seed changes the full layer
    probes = [(seed, f, int(20 * f), own[f].mean()) for seed, own in correct.items() for f in own]
    made = table(probes, solver="logistic").assign(l2_choice="validation", **FACTS)
    return made, np.stack([rows for own in correct.values() for rows in own.values()])


def test_a_full_layer_that_a_part_beats_is_not_what_shares_are_of():
    probes, correct = worse_with_more()
    mean = probes.groupby("fraction")["accuracy"].mean()
    said = sentence(probes, correct=correct)
    # the same share and interval as if half of the features were the layer
    halves = probes["fraction"] < 1
    as_whole = probes[halves].assign(fraction=probes["fraction"].where(probes["fraction"] < 0.5, 1))
    row = summary(as_whole, correct[halves]).iloc[0]
    share = f"{100 * row.ratio:.1f} % ({100 * row.ratio_low:.1f} to {100 * row.ratio_high:.1f})"
    assert f"{share} of the {mean[0.5]:.3f} of 50 %, and the full layer {mean[1.0]:.3f}," in said
    assert "of the full layer's" not in said
    assert f"beaten by 50 % of the features by {100 * (mean[0.5] - mean[1.0]):.1f} points (" in said
    # where the part that is asked for is the best, there is no share at all
    said = sentence(probes, 0.5, correct)
    assert said.startswith(f"50 % of the features reach an accuracy of {mean[0.5]:.3f} (")
    assert "%," not in said.partition(", and the full layer")[0]
    # a smaller fraction that is the best one is told likewise
    falling = probes.assign(accuracy=probes["fraction"].map({0.1: 0.8, 0.5: 0.75, 1.0: 0.7}))
    assert "93.8 % (93.8 to 93.8) of the 0.800 of 10 %" in sentence(falling, 0.5)


def test_the_interval_of_how_far_a_full_layer_is_beaten_pairs_test_rows():
    probes, correct = worse_with_more()
    n = correct.shape[1]
    told = re.search(
        r"by ([\d.]+) points \(([\d.]+) to ([\d.]+)\)", sentence(probes, correct=correct)
    )
    gap, low, high = map(float, told.groups())
    of_five = correct.reshape(5, 3, n)
    by_row = of_five[:, 1].mean(0) - of_five[0, 2]
    reach = 1.96 * by_row.std() / math.sqrt(n)
    assert gap == pytest.approx(100 * by_row.mean(), abs=0.06)
    # what seeds alone change comes on top of it
    assert 100 * reach - 0.1 < (high - low) / 2 < 140 * reach


def test_a_full_layer_within_noise_of_no_features_has_no_share():
    probes = [(1, 0.1, 2, 0.108), (2, 0.1, 2, 0.110), (1, 1.0, 20, 0.09), (2, 1.0, 20, 0.09)]
    probes = table(probes).assign(**FACTS | {"n_test": 450})
    assert sentence(probes) == (
        "The full layer's accuracy, 0.090, is within noise of what is reached without any feature, "
        "0.120 of 450 test rows: no share of it is told (ridge, l2 = 0.001)."
    )
    assert summary(probes)["ratio"].isna().all()
    assert with_ratio(probes)["ratio"].isna().all()
    unknown = sentence(probes.drop(columns=["chance", "majority"]))
    assert "and the full layer 0.090, ridge" in unknown


def test_an_r2_that_is_not_above_0_has_no_share():
    probes = table(PROBES).rename(columns={"accuracy": "r2"})
    assert "of the full layer's R²" in sentence(probes)
    assert sentence(probes.assign(r2=[-0.1, -0.2, -0.01, -0.01])) == (
        "The full layer's R², -0.010, is not above 0 by more than noise: no share of it is told "
        "(ridge, l2 = 0.001)."
    )


def test_a_penalty_at_the_end_of_what_was_tried_is_said_of_the_full_layer_alone():
    probes = table(PROBES).assign(l2_choice="validation", l2_place="inside", l2=10.0)
    assert "tried" not in sentence(probes)
    part = probes.assign(l2_place=["highest", "lowest", "inside", "inside"])
    assert "tried" not in sentence(part)
    full = probes.assign(l2_place=["inside", "inside", "highest", "highest"])
    assert sentence(full).endswith(
        " The full layer's l2, 10, is the largest that was tried: the ratio may be off; try larger "
        "ones."
    )


def test_probes_that_did_not_converge_or_failed_are_counted_once():
    probes = [(1, 0.1, 2, 0.4), (2, 0.1, 2, 0.6), (3, 0.1, 2, np.nan)]
    probes += [(seed, 1.0, 20, 0.8) for seed in (1, 2, 3)]
    status = ["ok", "jitter=1e-9", "singular", "max_iter", "max_iter", "max_iter"]
    said = sentence(table(probes).assign(status=status))
    assert said.endswith(
        " 1 of 4 probes did not converge (max_iter). 1 of 4 probes failed and are left out "
        "(singular)."
    )
    assert "converge" not in sentence(table(probes[:2] + probes[3:]).assign(status="converged"))


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
    assert "ridge, l2 chosen on train rows (2 seeds;" in sentence(chosen)
    assert warnings(chosen) == [
        "1 of 4 probes chose the lowest penalty tried: try smaller ones",
        "1 of 4 probes chose the highest penalty tried: try larger ones",
    ]


def test_probes_that_were_not_run_are_absent_and_named():
    status = ["ok", "not run", "ok", "ok"]
    begun = table(PROBES).assign(status=status, accuracy=[0.4, np.nan, 0.8, 0.6])
    assert summary(begun)["probes"].tolist() == [1, 2]
    assert warnings(begun)[0].startswith("1 of 4 probes have status not run")


def test_where_nothing_is_known_no_number_is_said():
    probes = table(PROBES).assign(accuracy=np.nan, status="singular")
    assert sentence(probes) == (
        "No probe of these results has a score. 4 of 4 probes failed and are left out (singular)."
    )
    probes = table([(1, 0.1, 2, 0.6), (1, 0.5, 10, np.nan)])
    assert sentence(probes) == "2 features reach an accuracy of 0.600."


def test_a_mode_that_draws_nothing_has_no_seed_to_count():
    probes = table([(pd.NA, 0.1, 2, 0.6), (pd.NA, 1.0, 20, 0.8)], mode="pca")
    assert "mode pca (no seeds; no interval)." in sentence(probes)
    probes = probes.assign(**FACTS)
    correct = rows_of(probes)
    assert "mode pca (1,000 test rows; 95 % interval over test rows alone)." in sentence(
        probes, correct=correct
    )

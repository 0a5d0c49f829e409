"""Intervals of a curve's accuracies and ratios, held against definitions and simulation."""

import numpy as np
import pandas as pd
import pytest

from featstore.probe.errors import DataError, UsageError
from featstore.probe.results.curves import curve_table, curves, difference
from featstore.probe.results.intervals import crossed

NAMES = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 0.1}


def table_of(correct: np.ndarray) -> pd.DataFrame:
    """A table of probes (seeds, fractions) from what each has right, (seeds, fractions, n)."""
    shares = (0.1, 1.0)
    rows = [
        NAMES
        | {
            "seed": seed,
            "fraction": shares[place],
            "k": int(40 * shares[place]),
            "accuracy": hits.mean(),
        }
        for seed, each in enumerate(correct, 1)
        for place, hits in enumerate(each)
    ]
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
    # the whole layer is one probe: of it seeds say nothing
    assert found.loc[1.0, "probes"] == 1
    assert found.loc[1.0, ["accuracy_low", "accuracy_high", "accuracy_std"]].isna().all()
    assert found["over"].tolist() == ["seeds", ""]
    assert found.loc[0.1, "ratio_low"] < found.loc[0.1, "ratio_high"]
    alone = curve_table(table_of(correct[:1])).set_index("fraction")
    assert alone[["accuracy_low", "ratio_high", "accuracy_std"]].isna().to_numpy().all()
    rows = curve_table(table_of(correct[:1]), correct[:1].reshape(2, -1)).set_index("fraction")
    assert rows.loc[0.1, "ratio_low"] < rows.loc[0.1, "ratio"] < rows.loc[0.1, "ratio_high"]


def test_a_layer_that_is_never_right_has_no_ratio():
    correct = np.zeros((2, 2, 30), bool)
    found = curve_table(table_of(correct), correct.reshape(4, -1))
    assert found["ratio"].isna().all()
    # not a row of 30 is right: up to z^2 / (n + z^2) may be of others, as Wilson has it
    assert (found["accuracy_low"] == 0).all()
    assert found["accuracy_high"].to_numpy() == pytest.approx(3.84146 / 33.84146, rel=1e-5)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """The mean ratio over all seeds and rows, held by 90 % intervals."""
    truth = drawn(np.random.default_rng(2), 400, 20_000)
    ratio = (truth[:, 0].mean(1) / truth[:, 1].mean(1)).mean()
    held = []
    for trial in range(300):
        correct = drawn(np.random.default_rng(100 + trial), 5, 300)
        row = curve_table(table_of(correct), correct.reshape(10, -1), 0.9).iloc[0]
        held.append(row["ratio_low"] <= ratio <= row["ratio_high"])
    assert np.mean(held) == pytest.approx(0.9, abs=0.045)


def test_shares_of_the_variance_are_those_of_an_analysis_of_variance():
    """Two-way, one value a cell: mean squares of seeds, of rows and of the rest."""
    values = np.random.default_rng(3).normal(size=(4, 50)) + np.arange(4)[:, None]
    found = crossed(values.mean(1), values)
    about = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    rest = (about**2).sum() / (3 * 49)
    of_seeds = 50 * values.mean(1).var(ddof=1)
    of_rows = 4 * values.mean(0).var(ddof=1)
    # the rest, counted once, goes with the seeds by the share that it has in the rows' variance
    share = rest / of_rows
    assert found.seeds == pytest.approx((of_seeds - (1 - share) * rest) / 50 / 4)
    assert found.rows == pytest.approx((of_rows - share * rest) / 50 / 4)
    assert found.seeds + found.rows == pytest.approx((of_seeds + of_rows - rest) / 50 / 4)
    # Student's 3.182 for the seeds, the normal's 1.960 for the rows
    reach = np.sqrt(3.182446**2 * found.seeds + 1.959964**2 * found.rows)
    assert found.reach(0.95) == pytest.approx(reach, rel=1e-6)


def test_a_rest_larger_than_the_rows_noise_leaves_an_interval():
    """Two seeds that are right on opposite rows: their mean is the same on every row."""
    one = np.tile([0.0, 1.0], 20)
    found = crossed(np.array([0.4, 0.5]), np.stack([one, 1 - one]))
    assert found.rows == 0
    assert found.reach(0.95) == pytest.approx(12.7062 * 0.05, rel=1e-4)


def test_rows_repeated_as_seeds_add_nothing_to_the_rows_noise():
    one = np.random.default_rng(4).normal(size=(1, 80))
    single, several = crossed(one.mean(1), one), crossed(np.full(3, one.mean()), one[[0, 0, 0]])
    assert several.rows == pytest.approx(single.rows)
    assert (float(several.seeds), np.isnan(single.seeds)) == (0, True)


def test_order_of_rows_of_the_table_and_of_test_changes_nothing():
    random = np.random.default_rng(5)
    correct = drawn(random, 3, 120)
    table, flat = table_of(correct), correct.reshape(6, -1)
    order, places = random.permutation(6), random.permutation(120)
    moved = curve_table(table.iloc[order], flat[order][:, places])
    pd.testing.assert_frame_equal(moved, curve_table(table, flat), rtol=1e-5)
    as_bytes = curve_table(table, flat.astype(np.uint8))
    pd.testing.assert_frame_equal(as_bytes, curve_table(table, flat))


def test_a_full_layer_by_seed_is_several_probes():
    correct = drawn(np.random.default_rng(6), 3, 120)
    assert curves(table_of(correct), correct.reshape(6, -1))[0].one_full
    correct[1, 1, :5] ^= True
    found = curve_table(table_of(correct), correct.reshape(6, -1)).set_index("fraction")
    assert found.loc[1.0, "probes"] == 3
    assert found.loc[1.0, "accuracy_std"] == pytest.approx(correct[:, 1].mean(1).std(ddof=1))
    assert found.loc[1.0, "over"] == "seeds and test rows"


def test_rows_that_never_differ_are_not_certainty():
    correct = np.ones((3, 2, 40), bool)
    correct[:, :, 30:] = False
    found = curve_table(table_of(correct), correct.reshape(6, -1)).set_index("fraction")
    assert found.loc[0.1, "ratio_low"] == pytest.approx(1 - 1.959964 * 2 / 30, rel=1e-6)


def test_the_table_is_refused_when_it_does_not_fit():
    correct = drawn(np.random.default_rng(7), 2, 30)
    with pytest.raises(DataError, match=r"correctness of shape \(3, 30\) for a table of 4 rows"):
        curve_table(table_of(correct), correct.reshape(4, -1)[:3])
    with pytest.raises(DataError, match=r"fraction 0\.1 of seed 1 stands twice"):
        curves(pd.concat([table_of(correct)] * 2))
    with pytest.raises(UsageError, match=r"level 95 is outside \(0, 1\)"):
        curve_table(table_of(correct), level=95)


def r2_by_row(squares: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each row's part of R^2, float32 (R, n), of squared errors (R, n)."""
    q, d = (each / targets.var() for each in (squares, (targets - targets.mean()) ** 2))
    return (1 - q + q.mean(1, keepdims=True) * (d - 1)).astype(np.float32)


def test_numbers_have_intervals_over_test_rows():
    random = np.random.default_rng(9)
    targets = random.normal(size=400)
    squares = np.concatenate([random.normal(size=(2, 400)) ** 2 * scale for scale in (0.5, 0.1)])
    values = r2_by_row(squares, targets)
    assert values.mean(1) == pytest.approx(1 - squares.mean(1) / targets.var(), abs=1e-5)
    rows = [
        NAMES | {"seed": row % 2, "fraction": (0.1, 1.0)[row // 2], "k": 1, "r2": each.mean()}
        for row, each in enumerate(values)
    ]
    found = curve_table(pd.DataFrame(rows), values).set_index("fraction")
    assert found.loc[0.1, "r2_low"] < found.loc[0.1, "r2"] < found.loc[0.1, "r2_high"]
    assert found.loc[0.1, "over"] == "seeds and test rows"


def test_differences_are_paired_on_test_rows():
    random = np.random.default_rng(10)
    correct = drawn(random, 4, 300)
    (one,) = curves(table_of(correct), correct.reshape(8, -1))
    worse = correct.copy()
    worse[:, :, :9] = False
    (other,) = curves(table_of(worse), worse.reshape(8, -1))
    found = difference(one, other, 0, 0)
    lost = correct[:, 0] & ~worse[:, 0]
    assert found.value == pytest.approx(lost.mean())
    assert found.paired
    # all that differs is in the rows: what both share is not in the difference
    total = crossed(lost.mean(1), lost.astype(float))
    assert found.variance.rows == pytest.approx(total.rows, rel=1e-4)
    assert found.variance.seeds == pytest.approx(total.seeds, rel=1e-4)
    alone = crossed(correct[:, 0].mean(1), correct[:, 0].astype(float))
    assert found.variance.rows < 0.5 * alone.rows
    same = difference(one, one, 0, 0)
    assert (same.value, *same.interval()) == (0, 0, 0)
    # the whole layer is one probe: of it, rows alone
    whole = difference(one, other, 1, 1)
    assert (whole.paired, whole.variance.over[0]) == (False, "test rows")


def test_differences_without_predictions_are_over_seeds_alone():
    correct = drawn(np.random.default_rng(11), 3, 200)
    (one,), (other,) = curves(table_of(correct)), curves(table_of(correct[::-1]))
    found = difference(one, other, 0, 0)
    gaps = correct[:, 0].mean(1) - correct[::-1, 0].mean(1)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.error == pytest.approx(gaps.std(ddof=1) / np.sqrt(3))
    assert found.variance.over[0] == "seeds"
    assert np.isnan(difference(one, other, 1, 1).interval()).all()


def test_a_mode_without_seeds_is_not_paired_with_one_that_has_them():
    correct = drawn(np.random.default_rng(12), 4, 200)
    (seeded,) = curves(table_of(correct), correct.reshape(8, -1))
    lone = table_of(correct[:1]).assign(mode="first", seed=None)
    (single,) = curves(lone, correct[:1].reshape(2, -1))
    found = difference(single, seeded, 0, 0)
    assert not found.paired
    # the single one is no draw: seeds change the others alone, and rows the difference
    variance, few = found.variance, correct[:, 0].astype(float)
    gaps = correct[0, 0] - few.mean(0)
    about = few - few.mean(1, keepdims=True) - few.mean(0) + few.mean()
    total = (
        gaps.var(ddof=1) / 200 + few.mean(1).var(ddof=1) / 4 - (about**2).sum() / (3 * 199) / 800
    )
    assert variance.seeds + variance.rows == pytest.approx(total, rel=1e-4)
    assert (variance.n_seeds, variance.over[0]) == (4, "seeds and test rows")


def whole_layer(score, **columns):
    """A curve of a tenth, right as often as the full layer, whose score is given."""
    names = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 0.1}
    rows = [names | {"seed": 1, "fraction": f, "k": k, "accuracy": score} for f, k in TENTH]
    (curve,) = curves(pd.DataFrame(rows).assign(**columns))
    return curve


TENTH = ((0.1, 2), (1.0, 20))


@pytest.mark.parametrize(
    ("score", "columns", "above"),
    [
        (0.177, {"n_test": 450, "chance": 0.1, "majority": 0.11}, True),
        (0.090, {"n_test": 450, "chance": 0.1, "majority": 0.11}, False),
        (0.13, {"n_test": 450, "chance": 0.1, "majority": 0.11}, False),
        # the commonest class counts where it is the larger
        (0.62, {"n_test": 300, "chance": 0.5, "majority": 0.6}, False),
        (0.62, {"n_test": 300, "chance": 0.5, "majority": 0.4}, True),
        # the same share of more rows
        (0.62, {"n_test": 30_000, "chance": 0.5, "majority": 0.6}, True),
        # an old table says neither
        (0.090, {}, True),
        (0.0, {}, True),
    ],
)
def test_a_full_layer_within_noise_of_no_features_has_no_ratio(score, columns, above):
    curve = whole_layer(score, **columns)
    assert curve.above_floor == above
    known = above and score > 0
    assert np.isfinite(curve.ratio()).tolist() == [known, known]
    assert curve.mean().tolist() == [score, score]


@pytest.mark.long
def test_what_is_noise_is_called_more_as_seldom_as_it_says():
    random = np.random.default_rng(13)
    scores = random.binomial(300, 0.1, 2000) / 300
    facts = {"n_test": 300, "chance": 0.1, "majority": 0.1}
    called = [whole_layer(score, **facts).above_floor for score in scores]
    assert 0.005 < np.mean(called) <= 0.025 + 2 * np.sqrt(0.025 / 2000)


def test_an_r2_is_held_against_nothing_with_its_rows():
    random = np.random.default_rng(14)
    y = random.normal(size=200)

    def curve(share, rows=True):
        predicted = share * y + random.normal(size=200) / 20
        squares = np.stack([(y - predicted) ** 2] * 2)
        values = r2_by_row(squares, y)
        names = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 0.1}
        table = [names | {"seed": 1, "fraction": f, "k": k} for f, k in TENTH]
        table = pd.DataFrame(table).assign(r2=values.mean(1, dtype=float))
        return curves(table, values if rows else None)[0]

    assert curve(0.5).above_floor
    assert np.isfinite(curve(0.5).ratio()).all()
    assert not curve(0.002).above_floor
    assert np.isnan(curve(0.002).ratio()).all()
    assert not curve(-0.5, rows=False).above_floor


def test_rows_of_several_test_sets_go_to_their_curves():
    correct = drawn(np.random.default_rng(15), 3, 200)
    longer = drawn(np.random.default_rng(16), 3, 500)
    one, other = table_of(correct), table_of(longer).assign(store="other")
    both = pd.concat([one, other], ignore_index=True)
    rows = [*correct.reshape(6, -1), *longer.reshape(6, -1)]
    found = curve_table(both, rows)
    apart = [curve_table(one, correct.reshape(6, -1)), curve_table(other, longer.reshape(6, -1))]
    pd.testing.assert_frame_equal(found, pd.concat(apart, ignore_index=True))
    rows[7] = None
    found = curve_table(both, rows)
    assert found["over"].tolist()[0] == "seeds and test rows"
    assert found["over"].tolist()[2] == "seeds"
    with pytest.raises(DataError, match="correctness of 11 rows for a table of 12"):
        curves(both, rows[:-1])


def test_the_band_meets_the_intervals_and_is_narrower_between_them():
    random, shares = np.random.default_rng(5), (0.1, 0.5, 1.0)
    correct = random.random((3, 3, 200)) < np.array([0.5, 0.7, 0.9])[:, None]
    rows = [
        NAMES | {"seed": seed, "fraction": share, "k": int(40 * share), "accuracy": hits.mean()}
        for seed, each in enumerate(correct)
        for share, hits in zip(shares, each, strict=True)
    ]
    (curve,) = curves(pd.DataFrame(rows), correct.reshape(9, -1))
    fractions, low, high = curve.ratio_band(between=4)
    assert fractions[[0, 4, 8]].tolist() == [0.1, 0.5, 1.0]
    assert fractions[2] == pytest.approx(np.sqrt(0.1 * 0.5))
    lowest, highest, _ = curve.ratio_interval()
    assert low[[0, 4, 8]] == pytest.approx(lowest)
    assert high[[0, 4, 8]] == pytest.approx(highest)
    ratio, reach = curve.ratio(), (high - low) / 2
    assert (low + high)[2] == pytest.approx(ratio[0] + ratio[1])
    assert reach[2] < (reach[0] + reach[4]) / 2
    for most, length in ((2, 3), (3, 17)):  # the interval alone, or eight pieces a step
        assert len(curve.ratio_band(most=most)[0]) == length
    # between two fractions the ratio is a mean of both, and so are its rows' influences
    whole = correct[:, 2].mean(1)[:, None]
    kept = correct.mean(2) / whole
    moved = (correct - kept[..., None] * correct[:, 2:]) / whole[..., None]
    between = crossed(kept[:, :2].mean(1), moved[:, :2].mean(1))
    assert reach[2] == pytest.approx(float(between.reach(0.95)), rel=1e-5)

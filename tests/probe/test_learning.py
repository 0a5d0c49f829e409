"""Learning curves: nested draws, the same numbers as sweeps of the rows that were drawn."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featstore.probe import ArrayBlocks, learning_curve, sweep
from featstore.probe.errors import DataError, UsageError
from featstore.probe.figures import accuracy_against_rows
from featstore.probe.learning import LearningCurve, _drawn, compared
from featstore.probe.results.curves import curves, difference


def drawn(n=600, classes=4, d=16, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    centres = rng.normal(size=(classes, d))
    return (centres[y] + 1.5 * rng.normal(size=(n, d))).astype(np.float32), y


TRAIN, TEST = drawn(), drawn(seed=0)


def test_draws_are_nested_and_stratified():
    blocks = ArrayBlocks(*TRAIN)
    for draw in (1, 2):
        few, more = (_drawn(blocks, draw, k, True) for k in (2, 7))
        assert set(few) < set(more)
        assert np.bincount(TRAIN[1][more]).tolist() == [7] * 4
        share = _drawn(blocks, draw, 0.1, False)
        assert np.bincount(TRAIN[1][share]).tolist() == [15] * 4
        assert (np.diff(share) > 0).all()
    assert set(_drawn(blocks, 1, 7, True)) != set(more)
    assert (_drawn(blocks, 3, 1.0, False) == np.arange(600)).all()


def test_probes_are_those_of_the_rows_that_were_drawn():
    found = learning_curve(TRAIN, TEST, shots=[5, 20], draws=2, fractions=0.5, l2=0.1)
    for (amount, draw), table in found.table.groupby(["shots", "draw"]):
        rows = _drawn(ArrayBlocks(*TRAIN), draw, amount, True)
        part = TRAIN[0][rows], TRAIN[1][rows]
        alone = sweep(part, TEST, fractions=0.5, seeds=[draw], solver="ridge", l2=0.1)
        np.testing.assert_allclose(table["accuracy"], alone.table["accuracy"], atol=1e-12)
        assert set(table["n_train"]) == {4 * amount}


def test_draws_are_foretold_together_and_their_sweeps_told():
    stages, parts = set(), []

    def progress(stage, done, total, seconds=None, **facts):
        if seconds is None:
            stages.add(stage)
        else:
            parts.append((stage, done, total, seconds))

    learning_curve(TRAIN, TEST, rows=[0.1, 1.0], draws=2, l2=0.1, progress=progress)
    assert [part[:3] for part in parts] == [("draws", done, 4) for done in range(5)]
    few, _, all_rows, _ = parts[0][3]
    assert 0 < few < all_rows
    assert {"sweep", "rows"} <= stages


def test_more_rows_are_better_and_intervals_are_over_draws():
    found = learning_curve(TRAIN, TEST, rows=[0.02, 0.1, 1.0], draws=4, fractions=0.25)
    table = found.by_amount()
    full = table[table["fraction"] == 1]
    assert full["n_train"].tolist() == [12, 60, 600]
    assert full["accuracy"].is_monotonic_increasing
    assert full["over"].tolist() == ["seeds and test rows"] * 2 + ["test rows"]
    assert full["probes"].tolist() == [4, 4, 1]  # all rows are drawn in one way
    mean = found.table[(found.table["share"] == 0.1) & (found.table["fraction"] < 1)]["accuracy"]
    part = table[(table["share"] == 0.1) & (table["fraction"] < 1)].iloc[0]
    assert part["accuracy"] == pytest.approx(mean.mean())
    assert part["accuracy_std"] == pytest.approx(mean.std())
    assert table["redundancy"].notna().any()
    assert "accuracy" in found._repr_html_()


def test_they_are_kept_and_drawn(tmp_path):
    found = learning_curve(TRAIN, TEST, shots=[1, 3], draws=2, fractions=0.5, l2=0.1)
    found.save(tmp_path / "curve.csv")
    assert pd.read_csv(tmp_path / "curve.csv")["shots"].tolist() == found.table["shots"].tolist()
    accuracy_against_rows(found.by_amount(), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_numbers_have_shares_alone():
    x = TRAIN[0]
    train = x[:300], x[:300, :1].astype(np.float64) + x[:300, 1:2]
    test = x[300:], x[300:, :1].astype(np.float64) + x[300:, 1:2]
    found = learning_curve(train, test, rows=[0.1, 1], draws=2, l2=0.01)
    assert found.by_amount()["r2"].is_monotonic_increasing
    with pytest.raises(UsageError, match="the labels are numbers: take rows"):
        learning_curve(train, test, shots=1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "give shots .* or rows .*, one of both"),
        ({"shots": 1, "rows": 0.5}, "one of both"),
        ({"shots": [0, 1]}, "shots holds 0: give whole numbers from 1"),
        ({"rows": 1.5}, r"rows holds 1.5: give shares in \(0, 1\]"),
        ({"shots": [2, 2]}, "shots holds one amount twice"),
        ({"shots": 151}, "class 0 has 150 train rows, and 151 shots are asked"),
        ({"shots": 1, "draws": 0}, "draws are"),
    ],
)
def test_what_cannot_be_is_said(wrong, told):
    with pytest.raises(UsageError, match=told):
        learning_curve(TRAIN, TEST, **wrong)


def test_the_example_draws_its_curve(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "shots.py"))
    assert (tmp_path / "shots.png").exists()
    assert "20 shots" in capsys.readouterr().out


def noisy(rows, scale=1.5, seed=5):
    """Return another layer of the same rows: it knows less."""
    x, y = rows
    return (x + scale * np.random.default_rng(seed).normal(size=x.shape)).astype(np.float32), y


@pytest.fixture(scope="module")
def two():
    asked = {"shots": [5, 20], "draws": 3, "fractions": 0.5, "l2": 0.1}
    good = learning_curve(TRAIN, TEST, tap="good", **asked)
    return {"good": good, "worse": learning_curve(noisy(TRAIN), noisy(TEST, 1.5, 6), **asked)}


def test_learning_curves_are_set_side_by_side(two, tmp_path):
    table = compared(two)
    assert table[["name", "shots", "fraction"]].values.tolist() == [
        [name, shots, fraction] for shots in (5, 20) for name in two for fraction in (0.5, 1.0)
    ]
    assert table["difference"].isna().tolist() == [True, True, False, False] * 2
    for row in table[table["name"] == "worse"].itertuples():
        both = []
        for each in two.values():
            chosen = each.table[each.table["shots"] == row.shots]
            correct = [each.correct[place] for place in chosen.index]
            (curve,) = curves(chosen.reset_index(drop=True), correct)
            both.append(curve)
        place = both[0].fractions.tolist().index(row.fraction)
        gap = difference(both[1], both[0], place, place)
        assert gap.paired
        ends = row.difference, row.difference_low, row.difference_high
        assert ends == pytest.approx((gap.value, *gap.interval()))
        assert row.accuracy == pytest.approx(both[1].mean()[place])
        assert row.over == "seeds and test rows"
    assert (table["difference"].dropna() < 0).all()
    figure = accuracy_against_rows(table, tmp_path / "two.svg")
    assert [text.get_text() for text in figure.legends[0].texts] == [
        *("good, 100 %", "worse, 100 %", "good, 50 %", "worse, 50 %")
    ]


def test_a_curve_against_itself_differs_by_nothing(two):
    same = compared({"a": two["good"], "b": two["good"]})
    gaps = same.loc[same["name"] == "b", ["difference", "difference_low", "difference_high"]]
    assert (gaps == 0).all(axis=None)


def test_curves_of_other_rows_or_amounts_are_not_compared(two):
    good = two["good"]
    with pytest.raises(UsageError, match="nothing to be compared with"):
        compared({"a": good})
    shares = learning_curve(TRAIN, TEST, rows=0.1, draws=1, l2=0.1)
    with pytest.raises(UsageError, match="a has shots and b has share: draw rows of both alike"):
        compared({"a": good, "b": shares})
    others = learning_curve(TRAIN, TEST, shots=3, draws=1, l2=0.1)
    with pytest.raises(UsageError, match="no amount of shots is common to a, b"):
        compared({"a": good, "b": others})
    x, y = TEST
    for test in ((x[:-1], y[:-1]), (x[::-1].copy(), y[::-1].copy())):
        fewer = learning_curve(TRAIN, test, shots=5, draws=1, l2=0.1)
        with pytest.raises(DataError, match="a and b are of different test rows"):
            compared({"a": good, "b": fewer})
    f1 = learning_curve(TRAIN, TEST, shots=5, draws=1, l2=0.1, metrics="macro_f1")
    with pytest.raises(DataError, match="a is of accuracy and b of macro_f1"):
        compared({"a": good, "b": f1})


def test_learning_curves_of_f1_have_intervals_over_test_rows_and_are_read_back(tmp_path):
    asked = {"shots": [5, 10], "draws": 2, "l2": 0.1, "metrics": "macro_f1"}
    found = learning_curve(TRAIN, TEST, **asked)
    found.save(tmp_path / "l.csv")
    for each in (found, LearningCurve.read(tmp_path / "l.csv")):
        assert set(each.by_amount()["over"]) == {"seeds and test rows"}

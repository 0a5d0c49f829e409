"""The share kept over chance, and the scores that a table can be summed up by."""

import numpy as np
import pandas as pd
import pytest

from featstore.probe import sentence, summary, sweep
from featstore.probe.errors import DataError, UsageError
from featstore.probe.results import chance_of, floor_of, scored_by
from featstore.probe.results.curves import curves
from featstore.probe.results.reading import read_results
from featstore.probe.results.views import printed

ROW = {"store": "s", "tap": "t", "mode": "random", "solver": "ridge", "l2": 0.1}
ROW |= {"n_test": 400, "chance": 0.5, "majority": 0.6}


def table(full=0.9, part=0.7, score="accuracy", **changes):
    points = [(seed, f, k, v) for seed in (1, 2) for f, k, v in ((0.1, 2, part), (1.0, 20, full))]
    rows = [ROW | dict(zip(("seed", "fraction", "k", score), p, strict=True)) for p in points]
    return pd.DataFrame(rows).assign(**changes)


def test_a_ratio_is_corrected_for_chance():
    found = summary(table()).iloc[0]
    assert found.ratio == pytest.approx(7 / 9)
    assert found.corrected == pytest.approx(0.2 / 0.4)
    told = sentence(table())
    assert "77.8 %" in told
    assert told.endswith("Of what the full layer has over chance (0.500) that is 50.0 %.")
    assert printed(table()).notes[-1] == "of what the full layer has over chance: 50.0 % at 10 %"


def test_below_chance_is_below_nothing():
    found = summary(table(part=0.4)).iloc[0]
    assert found.corrected == pytest.approx(-0.25)
    assert np.isnan(summary(table(full=0.6)).iloc[0].corrected)  # within noise of one class


def test_an_interval_corrected_for_chance_is_that_of_shifted_scores():
    """With one full layer for all, (r full - c) / (full - c) is affine where full is certain."""
    rng = np.random.default_rng(0)
    right = rng.random((4, 400)) < np.array([0.7, 0.95, 0.72, 0.95])[:, None]
    right[1] = right[3] = True
    told = summary(table(full=1.0), right).iloc[0]
    for end in ("low", "high"):
        shifted = (told[f"ratio_{end}"] - 0.5) / 0.5
        assert told[f"corrected_{end}"] == pytest.approx(shifted, abs=1e-6)


@pytest.mark.parametrize(
    ("score", "chance", "floor"),
    [
        ("accuracy", 0.25, 0.6),
        ("balanced_accuracy", 0.25, 0.25),
        ("macro_f1", 0.25, 0.25),
        ("weighted_f1", 0.25, 0.45),
        ("average_precision", 0.25, 0.25),
        ("top3", 0.75, 0.75),
        ("auroc", 0.5, 0.5),
        ("kappa", 0.0, 0.0),
        ("r2", 0.0, 0.0),
    ],
)
def test_what_takes_no_feature(score, chance, floor):
    rows = pd.DataFrame([{"chance": 0.25, "majority": 0.6}])
    assert chance_of(score, rows) == chance
    assert floor_of(score, rows) == pytest.approx(floor)


def test_floors_are_what_such_guesses_reach():
    """Count them with scikit-learn: one class for all, whose share is 0.6, and a fair die."""
    from sklearn.metrics import f1_score

    y = np.repeat([0, 1, 2, 3], [6000, 2000, 1000, 1000])
    rows = pd.DataFrame([{"chance": 0.25, "majority": 0.6}])
    one = f1_score(y, np.zeros_like(y), average="weighted", zero_division=0)
    assert floor_of("weighted_f1", rows) == pytest.approx(one)
    die = np.random.default_rng(0).integers(4, size=len(y))
    assert f1_score(y, die, average="macro") < floor_of("macro_f1", rows)


def test_no_share_of_a_layer_near_chance_is_told():
    assert not curves(table(0.53, score="auroc"))[0].above_floor
    assert curves(table(0.57, score="auroc"))[0].above_floor
    told = sentence(table(0.53, 0.52, score="auroc"))
    assert "The full layer's AUROC, 0.530, is within noise of what is reached without any" in told
    assert "macro F1" in sentence(table(score="macro_f1"))


def test_a_table_is_summed_up_by_the_score_that_is_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    x = rng.normal(size=(200, 10)).astype(np.float32) + y[:, None]
    names = ["accuracy", "auroc"]
    data = (x[:100], y[:100]), (x[100:], y[100:])
    result = sweep(*data, fractions=0.2, seeds=2, solver="ridge", l2=0.1, metrics=names)
    result.save(tmp_path / "r.csv")
    found = summary(read_results(tmp_path / "r.csv", score="auroc"))
    assert found["auroc"].tolist() == summary(scored_by(result.table, "auroc"))["auroc"].tolist()
    assert "accuracy" not in found
    assert set(found["over"]) == {"seeds", ""}
    with pytest.raises(UsageError, match="have no score 'f1' but accuracy, auroc: name one"):
        read_results(tmp_path / "r.csv", score="f1")
    sweep(*data, fractions=0.2, solver="ridge", l2=0.1, metrics="kappa").save(tmp_path / "k.csv")
    with pytest.raises(DataError, match=r"is of accuracy and .* of kappa: name a score"):
        read_results(tmp_path / "r.csv", tmp_path / "k.csv")

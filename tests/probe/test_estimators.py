"""Estimators by scikit-learn's own checks, against its own models, in its pipelines."""

import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from featstore.probe import LDAProbe, LogisticProbe, RidgeProbe, SubsetSweep
from featstore.probe.errors import UsageError

CHECKED = (
    RidgeProbe(),
    LDAProbe(l2=0.01),
    LogisticProbe(l2=0.01),
    SubsetSweep(l2=0.01, seeds=1, cv=2),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", CHECKED, ids=lambda each: type(each).__name__)
def test_scikit_learn_finds_nothing_wrong(estimator):
    found = check_estimator(estimator, on_fail=None, on_skip=None)
    assert [each["check_name"] for each in found if each["status"] == "failed"] == []
    assert sum(each["status"] == "passed" for each in found) > 40


def drawn(classes=3, n=240, d=20, seed=0):
    rng = np.random.default_rng(seed)
    names = np.array(["yak", "cat", "dog", "owl"][:classes])
    labels = rng.integers(classes, size=n)
    x = rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[labels]
    return (x - x.mean(0)) / x.std(0), names[labels]


@pytest.mark.parametrize("classes", [2, 4])
def test_ridge_is_that_of_scikit_learn(classes):
    x, y = drawn(classes)
    mine, theirs = RidgeProbe(l2=0.1).fit(x, y), RidgeClassifier(alpha=0.1 * len(x)).fit(x, y)
    assert mine.classes_.tolist() == theirs.classes_.tolist() == sorted(set(y))
    # scikit-learn's targets are -1 and 1; for one of two classes that is the difference of ours
    scale = 1 if classes == 2 else 2
    coef = np.atleast_2d(theirs.coef_)
    np.testing.assert_allclose(scale * mine.coef_, coef, rtol=1e-6, atol=1e-9)
    offset = 0 if classes == 2 else 1
    np.testing.assert_allclose(
        scale * mine.decision_function(x) - offset, theirs.decision_function(x), atol=1e-6
    )
    assert (mine.predict(x) == theirs.predict(x)).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_is_that_of_scikit_learn(classes):
    x, y = drawn(classes)
    mine = LogisticProbe(l2=0.05, tol=1e-8).fit(x, y)
    # of two classes scikit-learn penalises one vector, w = w_2 - w_1, which is twice each of ours
    c = 1 / (0.05 * len(x)) * (2 if classes == 2 else 1)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(mine.predict_proba(x), theirs.predict_proba(x), atol=1e-5)
    assert mine.decision_function(x).shape == theirs.decision_function(x).shape
    np.testing.assert_allclose(np.exp(mine.predict_log_proba(x)), mine.predict_proba(x))


def test_lda_is_that_of_scikit_learn():
    x, y = drawn(4)
    mine, theirs = LDAProbe(l2=1e-9).fit(x, y), LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
    np.testing.assert_allclose(mine.predict_proba(x), theirs.predict_proba(x), atol=1e-5)


def test_a_pipeline_searches_penalties():
    x, y = drawn(3, d=60, n=120)
    made = make_pipeline(StandardScaler(), RidgeProbe(standardize=False))
    search = GridSearchCV(made, {"ridgeprobe__l2": [1e-6, 1e-2, 1.0]}, cv=3).fit(x, y)
    by_hand = {
        l2: cross_val_score(clone(made).set_params(ridgeprobe__l2=l2), x, y, cv=3).mean()
        for l2 in (1e-6, 1e-2, 1.0)
    }
    assert search.best_score_ == pytest.approx(max(by_hand.values()))
    assert by_hand[search.best_params_["ridgeprobe__l2"]] == max(by_hand.values())
    again = pickle.loads(pickle.dumps(search))
    assert (again.predict(x) == search.predict(x)).all()


def test_a_sweep_takes_the_smallest_subset_that_keeps_enough():
    x, y = drawn(2, d=40, n=400)
    found = SubsetSweep([0.05, 0.1, 0.5], delta=0.9, l2=0.1, cv=3).fit(x, y)
    kept = found.table_.set_index("fraction")["ratio"]
    assert kept[found.fraction_] >= 0.9
    assert (kept[kept.index < found.fraction_] < 0.9).all()
    assert len(found.features_) == round(found.fraction_ * 40)
    assert (np.flatnonzero(found.coef_[0]) == np.sort(found.features_)).all()
    assert found.fraction_ == pytest.approx(1 - found.redundancy_, abs=0.5)
    all_of_it = SubsetSweep([0.05], delta=1.0, l2=0.1, cv=3).fit(x, y)
    assert all_of_it.fraction_ == 1
    assert len(all_of_it.features_) == 40


def test_what_cannot_be_is_said():
    x, y = drawn()
    with pytest.raises(ValueError, match="two classes or more, and the data have 1 class"):
        RidgeProbe().fit(x, np.zeros(len(x)))
    with pytest.raises(UsageError, match="solver is 'ridge': choose lda or logistic"):
        SubsetSweep(solver="ridge").fit(x, y)
    assert not hasattr(RidgeProbe(), "predict_proba")


def test_the_example_searches(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "grid_search.py"))
    told = capsys.readouterr().out
    assert told.startswith("l2 = ")
    assert float(told.split()[3]) > 0.9

"""Areas under curves, F1, kappa and top-k against scikit-learn, in windows and over processes."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from featstore.probe import sweep
from featstore.probe.errors import MemoryBudgetError, UsageError
from featstore.probe.metrics import Scores
from featstore.probe.ranking import areas, ranked
from featstore.probe.solvers.weights import Fitted

PUT = {"numpy": np.asarray, "torch": torch.from_numpy}


class Shown(Fitted):
    """Probes whose logits (P, n, C) are given, shown in some groups of rows and probes."""

    def __init__(self, logits, labels, cuts=(), put=np.asarray, counts=None):
        self.axes, self.logits, self.labels = range(len(logits)), logits, labels
        self.class_counts = np.ones(logits.shape[2], int) if counts is None else counts
        self.cuts, self.put, self.passes = cuts, put, 0

    def score(self, test, scores):
        self.passes += 1
        for rows in np.split(np.arange(len(self.labels)), self.cuts):
            for probe in range(len(self.logits)):
                piece = np.ascontiguousarray(self.logits[probe : probe + 1, rows])
                scores.add(np.array([probe]), self.put(piece), self.put(self.labels[rows]))
            scores.finish(self.put(self.labels[rows]))

    def weights(self, probe):
        raise NotImplementedError


def drawn(probes=3, rows=200, classes=5, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(classes, size=rows - classes)]
    logits = rng.normal(size=(probes, rows, classes))
    logits[:, np.arange(rows), labels] += 1
    return (np.round(logits) if ties else logits), labels


def by_scikit_learn(scores, labels, classes):
    own = labels[:, None] == np.arange(classes)
    pairs = [(own[:, c], scores[:, c]) for c in range(classes)]
    return np.array(
        [[f(*pair) for pair in pairs] for f in (roc_auc_score, average_precision_score)]
    )


@pytest.mark.parametrize("backend", PUT)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(12, 80), classes=st.integers(2, 6), ties=st.booleans())
def test_areas_are_those_of_scikit_learn(backend, rows, classes, ties):
    logits, labels = drawn(1, rows, classes, rows, ties)
    put = PUT[backend]
    found = areas(put(np.ascontiguousarray(logits[0].T)), put(labels), put(np.arange(classes)))
    expected = by_scikit_learn(logits[0], labels, classes)
    np.testing.assert_allclose(np.stack([np.asarray(each) for each in found]), expected, rtol=1e-12)


@pytest.mark.parametrize("backend", PUT)
@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("pairs", [1, 4, 100])
def test_windows_of_any_size_give_the_same(backend, probabilities, pairs):
    logits, labels = drawn()
    fitted = Shown(logits, labels, (60, 61, 150), PUT[backend])
    scores = Scores(3, 5, ("accuracy",))
    memory = 8 * 200 * (12 + pairs)
    found = ranked(fitted, None, scores, labels, 0, probabilities, memory)
    of_classes = [log_softmax(each, axis=1) if probabilities else each for each in logits]
    expected = np.stack([by_scikit_learn(each, labels, 5) for each in of_classes], axis=1)
    np.testing.assert_allclose(found["auroc"], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found["average_precision"], expected[1], rtol=1e-12)
    assert fitted.passes == {1: 15, 4: 4}.get(pairs, 1)
    # others see each logit once, however often the rows are read
    assert scores.columns()["accuracy"].tolist() == (logits.argmax(2) == labels).mean(1).tolist()


def test_what_does_not_fit_says_what_would():
    logits, labels = drawn()
    with pytest.raises(MemoryBudgetError, match="too little to rank 200 test rows: allow"):
        ranked(Shown(logits, labels), None, Scores(3, 5), labels, 0, True, 8 * 200 * 12)


def test_classes_that_train_or_test_lack_are_left_out():
    logits, labels = drawn(classes=4)
    numbers = np.array([1, 2, 5, 9])
    wide = np.full((*logits.shape[:2], 11), 7.0)
    wide[:, :, numbers] = logits
    counts = np.bincount(numbers, minlength=11)
    counts[7] = 3  # in train, and no test row's
    wide[:, :, 7] = -50.0
    scores = Scores(3, 11, train_counts=counts)
    found = ranked(
        Shown(wide, numbers[labels], counts=counts), None, scores, numbers[labels], 0, True, 1 << 30
    )
    for probe, one in enumerate(logits):
        expected = by_scikit_learn(log_softmax(one, axis=1), labels, 4)
        np.testing.assert_allclose(found["auroc"][probe, numbers], expected[0], rtol=1e-12)
    assert np.isnan(np.delete(found["average_precision"], numbers, axis=1)).all()


@pytest.fixture(scope="module")
def swept():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 12))
    labels = rng.choice(6, size=300, p=[0.3, 0.25, 0.15, 0.1, 0.1, 0.1])
    x = (centres[labels] + 1.5 * rng.normal(size=(300, 12))).astype(np.float32)
    data = (x[:200], labels[:200]), (x[200:], labels[200:])
    names = ["auroc", "average_precision", "macro_f1", "weighted_f1", "kappa"]
    names += ["balanced_accuracy", "top2", "top3"]
    return (
        data,
        names,
        sweep(*data, fractions=[0.25, 0.5], seeds=2, solver="logistic", l2=0.01, metrics=names),
    )


def test_a_sweep_has_the_metrics_of_scikit_learn(swept):
    (_, (x, y)), _, result = swept
    for row, found in result.table.iterrows():
        logits = result.weights(row).logits(x.astype(np.float64))
        p, predicted = softmax(logits, axis=1), logits.argmax(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that are predicted and no row's
            known = {
                "macro_f1": f1_score(y, predicted, average="macro"),
                "weighted_f1": f1_score(y, predicted, average="weighted"),
                "kappa": cohen_kappa_score(y, predicted),
                "balanced_accuracy": balanced_accuracy_score(y, predicted),
                "top2": top_k_accuracy_score(y, p, k=2, labels=np.arange(6)),
                "top3": top_k_accuracy_score(y, p, k=3, labels=np.arange(6)),
            }
        roc, precision = by_scikit_learn(p, y, 6)
        known |= {"auroc": roc.mean(), "average_precision": precision.mean()}
        for name, value in known.items():
            assert found[name] == pytest.approx(value, rel=1e-12), name
        np.testing.assert_allclose(result.per_class("auroc")[row], roc, rtol=1e-12)
        f1 = f1_score(y, predicted, average=None, labels=np.arange(6), zero_division=np.nan)
        np.testing.assert_allclose(result.per_class("f1")[row], f1, rtol=1e-12)
    assert {"chance", "majority"} <= set(result.table)


def test_what_was_not_counted_by_class_is_named(swept):
    data, _, result = swept
    fewer = sweep(*data, fractions=0.5, solver="ridge", l2=1.0, metrics="kappa")
    with pytest.raises(UsageError, match="no auroc of classes has been counted; there are f1"):
        fewer.per_class("auroc")
    assert set(result.by_class) == {"accuracy", "f1", "auroc", "average_precision"}

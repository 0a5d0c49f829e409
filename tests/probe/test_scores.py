"""Metrics against independent formulas, over every array module, in blocks and ties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.special import log_softmax
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score

from featstore.probe.errors import UsageError
from featstore.probe.metrics import OF_CLASSES, OF_RANKS, Calibration, Scores

NAMES = tuple(name for name in OF_CLASSES if name not in OF_RANKS)
PUT = {"numpy": np.asarray, "torch": torch.from_numpy}


def scored(logits, labels, names=NAMES, cuts=(), put=np.asarray, **options):
    scores = Scores(logits.shape[0], logits.shape[2], names, **options)
    for rows in np.split(np.arange(logits.shape[1]), cuts):
        # probes one after the other, as a solver that holds few of them feeds them
        for probe in range(len(logits)):
            piece = np.ascontiguousarray(logits[probe : probe + 1, rows])
            before = piece.copy()
            scores.add(np.array([probe]), put(piece), put(labels[rows]))
            np.testing.assert_array_equal(piece, before)
        scores.finish(put(labels[rows]))
    return scores


def drawn(probes=3, rows=200, classes=8, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(classes, size=rows - classes)]
    logits = rng.normal(size=(probes, rows, classes)) * np.arange(1, probes + 1)[:, None, None]
    logits[:, np.arange(rows), labels] += 2
    return logits.astype(dtype), labels


def calibration_error(probabilities, labels, bins=15):
    top, hit = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True):
        inside = (top > low) & (top <= high)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - top[inside].mean())
    return error


@pytest.mark.parametrize("backend", PUT)
def test_metrics_are_those_of_scikit_learn(backend):
    logits, labels = drawn()
    columns = scored(logits, labels, put=PUT[backend]).columns()
    for probe, one in enumerate(logits):
        p = np.exp(log_softmax(one, axis=1))
        p /= p.sum(1, keepdims=True)
        assert columns["accuracy"][probe] == np.mean(one.argmax(1) == labels)
        assert columns["top5"][probe] == top_k_accuracy_score(labels, one, k=5)
        balanced = balanced_accuracy_score(labels, one.argmax(1))
        assert columns["mean_per_class"][probe] == pytest.approx(balanced, rel=1e-12)
        assert columns["nll"][probe] == pytest.approx(log_loss(labels, p), rel=1e-12)
        assert columns["ece"][probe] == pytest.approx(calibration_error(p, labels), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(8, 60),
    cuts=st.lists(st.integers(1, 59), max_size=4).map(sorted),
    dtype=st.sampled_from([np.float32, np.float64]),
    backend=st.sampled_from(sorted(PUT)),
)
def test_blocks_give_what_one_block_gives(rows, cuts, dtype, backend):
    logits, labels = drawn(rows=rows, dtype=dtype, seed=rows)
    whole = scored(logits, labels, put=PUT[backend]).columns()
    parts = scored(logits, labels, cuts=[c for c in cuts if c < rows], put=PUT[backend]).columns()
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, rtol=1e-12, atol=1e-15, err_msg=name)


def test_probes_in_any_grouping_and_strides():
    logits, labels = drawn(probes=4)
    scores = Scores(4, 8, NAMES)
    # (rows, probes, classes) in memory, as one wide product leaves them
    wide = torch.from_numpy(np.ascontiguousarray(logits.transpose(1, 0, 2)))
    scores.add(np.array([2, 0]), wide[:, [2, 0]].permute(1, 0, 2), torch.from_numpy(labels))
    scores.add(np.array([1, 3]), wide.permute(1, 0, 2)[1::2], torch.from_numpy(labels))
    scores.finish(torch.from_numpy(labels))
    for name, values in scored(logits, labels).columns().items():
        np.testing.assert_allclose(scores.columns()[name], values, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("backend", PUT)
def test_of_equal_logits_the_first_classes_win(backend):
    labels = np.arange(8)
    columns = scored(np.zeros((1, 8, 8)), labels, put=PUT[backend])
    assert columns.columns()["accuracy"] == 1 / 8
    assert columns.columns()["top5"] == 5 / 8
    assert columns.per_class()["accuracy"][0].tolist() == [1] + [0] * 7
    # two share the fifth place, and the label is the second of them
    logits = np.array([[[9.0, 8, 7, 6, 5, 5, 0]]])
    assert scored(logits, np.array([5]), put=PUT[backend]).columns()["top5"] == 0
    assert scored(logits, np.array([4]), put=PUT[backend]).columns()["top5"] == 1


def test_a_certain_and_right_probe_has_no_error():
    labels = np.arange(6)
    columns = scored(1e4 * np.eye(6, dtype=np.float32)[None], labels).columns()
    assert columns["nll"] == 0
    assert columns["ece"] == 0
    wrong = scored(1e4 * np.eye(6, dtype=np.float32)[None, ::-1].copy(), labels).columns()
    assert wrong["nll"] == 1e4
    assert wrong["ece"] == 1


def test_calibration_bins_are_closed_above():
    # max p is 1/3 exactly, the upper end of the fifth bin
    scores = scored(np.zeros((1, 2, 3)), np.array([1, 2]))
    calibration = next(each for each in scores.metrics if isinstance(each, Calibration))
    assert np.flatnonzero(calibration.gaps[0]).tolist() == [4]


def test_a_class_without_test_rows_is_left_out_of_the_mean():
    logits, labels = drawn(classes=8)
    kept = labels != 3
    scores = scored(logits[:, kept], labels[kept])
    assert np.isnan(scores.per_class()["accuracy"][:, 3]).all()
    others = np.delete(scores.per_class()["accuracy"], 3, axis=1).mean(1)
    np.testing.assert_allclose(scores.columns()["mean_per_class"], others, rtol=1e-12)


def test_a_class_that_cannot_be_chosen_changes_nothing():
    logits, labels = drawn()
    wider = np.concatenate([logits, np.full((*logits.shape[:2], 1), -np.inf)], axis=2)
    for name, values in scored(logits, labels).columns().items():
        np.testing.assert_array_equal(scored(wider, labels).columns()[name], values, name)


def test_top_five_of_five_classes_says_nothing():
    logits, labels = drawn(classes=5)
    assert np.isnan(scored(logits, labels).columns()["top5"]).all()


def test_scores_without_probabilities_have_no_likelihood():
    logits, labels = drawn()
    columns = scored(logits, labels, probabilities=False).columns()
    assert tuple(columns) == NAMES
    assert np.isnan(columns["nll"]).all()
    assert np.isnan(columns["ece"]).all()
    assert np.isfinite(columns["accuracy"]).all()


@pytest.mark.parametrize("backend", PUT)
def test_probes_whose_logits_are_not_finite_have_no_score(backend):
    logits, labels = drawn()
    logits[1] = np.nan
    columns = scored(logits, labels, put=PUT[backend]).columns()
    for values in columns.values():
        assert np.isnan(values[1])
        assert np.isfinite(values[[0, 2]]).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("backend", PUT)
def test_one_row_that_cannot_be_told_leaves_no_score(backend, wrong):
    logits, labels = drawn()
    logits[1, 3, 0] = wrong
    logits[2, :, 1] = -np.inf  # a class that train lacks
    scores = scored(logits, labels, put=PUT[backend])
    assert scores.not_finite.tolist() == [False, True, False]
    assert np.isnan(scores.columns()["accuracy"][1])
    assert np.isnan(scores.per_class()["accuracy"][1]).all()
    assert np.isfinite(scores.columns()["accuracy"][[0, 2]]).all()


def test_an_unknown_metric_is_named():
    with pytest.raises(UsageError, match=r"no metric is called 'f1': there are accuracy, "):
        Scores(1, 2, ("f1",))


@pytest.mark.parametrize("backend", PUT)
def test_classes_without_train_rows_are_none(backend):
    logits, labels = drawn(classes=4)
    numbers = np.array([1, 2, 5, 9])
    wide = np.full((*logits.shape[:2], 11), 0.3)
    wide[:, :, numbers] = logits
    counts = np.bincount(numbers, minlength=11) * 7
    names = ("accuracy", "mean_per_class", "top5", "nll", "ece")
    put = PUT[backend]
    found = Scores(len(logits), 11, names, train_counts=counts)
    found.add(np.arange(len(logits)), put(wide), put(numbers[labels]))
    found.finish(put(numbers[labels]))
    expected = scored(logits, labels, put=put).columns()
    for name, values in found.columns().items():
        np.testing.assert_array_equal(values, expected[name])
    assert np.isnan(found.columns()["top5"]).all()
    assert np.isfinite(found.per_class()["accuracy"][:, numbers]).all()

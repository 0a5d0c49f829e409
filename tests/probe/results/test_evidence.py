"""Parts of test rows in scores: derivatives by rows' weights, and what resampled rows vary by."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import rankdata
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from featstore.probe import memory, sweep
from featstore.probe.cross_validation import cross_validate
from featstore.probe.errors import DataError, RowsWarning, UsageError
from featstore.probe.ranking import parts_of_areas
from featstore.probe.results import scored_by
from featstore.probe.results.curves import curve_table, curves
from featstore.probe.results.evidence import RowScores, by_group, fact_of, parts, room
from featstore.probe.results.files import load_arrays, read_table, save_arrays
from featstore.probe.results.reading import (
    judged,
    load_rows,
    read_correct,
    read_results,
    rows_path,
)
from featstore.probe.rows import ArrayBlocks
from featstore.probe.solvers.registry import SOLVERS

OF_CLASSES = {
    "balanced_accuracy": lambda y, s, w: balanced_accuracy_score(y, s.argmax(1), sample_weight=w),
    "macro_f1": lambda y, s, w: f1_score(y, s.argmax(1), average="macro", sample_weight=w),
    "weighted_f1": lambda y, s, w: f1_score(y, s.argmax(1), average="weighted", sample_weight=w),
    "kappa": lambda y, s, w: cohen_kappa_score(y, s.argmax(1), sample_weight=w),
    "top2": lambda y, s, w: top_k_accuracy_score(y, s, k=2, labels=range(4), sample_weight=w),
    "auroc": lambda y, s, w: np.mean(
        [roc_auc_score(y == c, s[:, c], sample_weight=w) for c in range(4)]
    ),
    "average_precision": lambda y, s, w: np.mean(
        [average_precision_score(y == c, s[:, c], sample_weight=w) for c in range(4)]
    ),
}
OF_LABELS = {
    "macro_f1": lambda y, s, w: f1_score(y, s > 0.5, average="macro", sample_weight=w),
    "micro_f1": lambda y, s, w: f1_score(y, s > 0.5, average="micro", sample_weight=w),
    "label_accuracy": lambda y, s, w: np.average((y == (s > 0.5)).mean(1), weights=w),
    "subset_accuracy": lambda y, s, w: np.average((y == (s > 0.5)).all(1), weights=w),
    "auroc": lambda y, s, w: roc_auc_score(y, s, average="macro", sample_weight=w),
    "average_precision": lambda y, s, w: average_precision_score(
        y, s, average="macro", sample_weight=w
    ),
}


def drawn(several, n=400, d=8, seed=0):
    """Return train and test of four unequal classes, or of four labels."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(4, d))
    labels = random.choice(4, size=2 * n, p=[0.45, 0.3, 0.15, 0.1])
    x = (centres[labels] + 1.7 * random.normal(size=(2 * n, d))).astype(np.float32)
    if several:
        labels = (x @ random.normal(size=(d, 4)) + 2 * random.normal(size=(2 * n, 4)) > 1).astype(
            np.uint8
        )
    return (x[:n], labels[:n]), (x[n:], labels[n:])


@pytest.fixture(scope="module", params=[False, True], ids=["classes", "labels"])
def swept(request):
    train, test = drawn(request.param)
    known = OF_LABELS if request.param else OF_CLASSES
    # ridge ranks by its own scores, and so does scikit-learn here
    found = sweep(train, test, fractions=0.5, seeds=2, solver="ridge", l2=0.1, metrics=list(known))
    return found, test, known


def test_parts_are_derivatives_by_the_weight_of_a_row(swept):
    """Scikit-learn's scores take weights of rows."""
    found, (x, y), known = swept
    scores, n = found.weights(1).logits(x), len(y)
    for name, score in known.items():
        own = found.evidence(name)[1].astype(float)
        assert own.mean() == pytest.approx(found.table[name][1], abs=1e-6), name
        for row in (0, 3, 77, 251):
            more, less = np.ones((2, n))
            more[row], less[row] = 1 + 1e-4, 1 - 1e-4
            slope = (score(y, scores, more) - score(y, scores, less)) / 2e-4
            gained = own[row] - own.mean()
            assert gained == pytest.approx(n * slope, rel=1e-3, abs=2e-3), (name, row)


def test_parts_vary_as_scores_of_resampled_rows_do(swept):
    found, (x, y), known = swept
    scores, random = found.weights(1).logits(x), np.random.default_rng(0)
    again = [random.integers(0, len(y), len(y)) for _ in range(60)]
    for name, score in known.items():
        drawn_again = np.std([score(y[rows], scores[rows], None) for rows in again])
        error = found.evidence(name)[1].astype(float).std() / np.sqrt(len(y))
        assert error == pytest.approx(drawn_again, rel=0.3), name


def test_every_score_has_intervals_over_seeds_and_test_rows(swept, tmp_path):
    found, _, known = swept
    found.save(tmp_path / "r.csv")
    for name in known:
        table = curve_table(scored_by(found.table, name), found.evidence(name))
        assert table["over"].tolist() == ["seeds and test rows", "test rows"], name
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table["ratio_low"] < table["ratio"])[:1].all()
        if name != "kappa":
            assert (table[f"{name}_high"] <= 1).all()
        read = read_results(tmp_path / "r.csv", score=name)
        back = curve_table(read, read_correct(tmp_path / "r.csv", score=name))
        pd.testing.assert_frame_equal(back[list(table)[6:]], table[list(table)[6:]], rtol=1e-5)


def test_ratios_pair_rows_with_the_full_layers(swept):
    """A part's noise and the full layer's go together: of two test sets it would be more."""
    found, _, known = swept
    for name in known:
        (curve,) = curves(scored_by(found.table, name), found.evidence(name))
        low, high, variance = curve.ratio_interval()
        (part, full), mean = curve.mean_interval()[2].rows, curve.mean()
        apart = (part / mean[0] ** 2 + full / mean[1] ** 2) * curve.ratio()[0] ** 2
        assert variance.rows[0] < apart, name
        assert low[0] < curve.ratio()[0] < high[0]


def test_what_is_of_another_score_is_not_used(swept):
    found, _, _ = swept
    (curve,) = curves(scored_by(found.table, "macro_f1"), found.evidence("auroc"))
    assert curve.evidence is None
    assert found.evidence("nll") is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 60), ties=st.booleans())
def test_parts_of_auroc_are_delongs_with_ties_too(seed, n, ties):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.r_[0, 1, random.integers(0, 2, n - 2)])
    scores = random.normal(size=(1, n))
    scores = np.round(scores) if ties else scores
    (area, precision), (roc, average) = parts_of_areas(scores, labels, np.array([1]))
    own, rank, m = labels == 1, rankdata(scores[0]), labels.sum()
    right = np.empty(n)
    right[own] = (rank[own] - rankdata(scores[0][own])) / (n - m)
    right[~own] = 1 - (rank[~own] - rankdata(scores[0][~own])) / m
    expected = area + n * (right - area) / np.where(own, m, n - m)
    np.testing.assert_allclose(roc[0], expected, atol=1e-9)
    assert average.mean() == pytest.approx(precision[0])


def test_areas_of_no_class_have_no_parts():
    scores = np.random.default_rng(0).normal(size=(3, 6))
    found, by_row = parts_of_areas(scores, np.array([0, 0, 1, 1, 1, 0]), np.array([2, 1, 0]))
    assert np.isnan(found[0]).tolist() == [True, False, False]
    assert [each[0].any() for each in by_row] == [False, False]
    one = parts_of_areas(scores, np.zeros(6, int), np.array([0, 1, 2]))
    assert np.isnan(one[0][1]).all()


def test_classes_that_no_test_row_has_count_where_scores_count_them():
    """Three of five classes have test rows, one more is predicted."""
    labels, predicted = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 3, 1, 0, 2, 2, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert parts("macro_f1", predicted, labels).mean() == pytest.approx(
            f1_score(labels, predicted, average="macro")
        )
        assert parts("weighted_f1", predicted, labels).mean() == pytest.approx(
            f1_score(labels, predicted, average="weighted")
        )
        assert parts("balanced_accuracy", predicted == labels, labels).mean() == pytest.approx(
            balanced_accuracy_score(labels, predicted)
        )
    same = np.zeros(4, int)
    assert np.isnan(parts("kappa", same, same)).all()
    assert parts("macro_f1", same, same).tolist() == [1.0] * 4


@pytest.mark.parametrize("several", [False, True])
def test_pieces_of_any_length_make_the_same_facts(several, monkeypatch):
    train, test = drawn(several, n=101)
    names = list(OF_LABELS if several else OF_CLASSES)
    asked = {"fractions": 0.5, "seeds": 2, "solver": "ridge", "l2": 0.1, "metrics": names}
    whole = sweep(train, test, **asked)
    monkeypatch.setattr(memory, "MAX_ROWS", (5, 5))
    pieces = sweep(train, test, **asked)
    assert set(whole.by_row.kept) == {fact_of(name, several) for name in names}
    for fact, kept in whole.by_row.kept.items():
        np.testing.assert_allclose(pieces.by_row.kept[fact], kept, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_folds_have_the_mean_over_folds(several):
    _, (x, y) = drawn(several)
    names = list(OF_LABELS if several else OF_CLASSES)
    found = cross_validate(
        (x, y), folds=3, fractions=0.5, solver="ridge", l2=0.1, metrics=names, seeds=2
    )
    for name in names:
        own = found.evidence(name)
        said = found.table[name].to_numpy()
        np.testing.assert_allclose(own.mean(1, dtype=float), said, atol=1e-5, err_msg=name)
        assert curve_table(scored_by(found.table, name), own)["over"].ne("").all()


def test_groups_of_rows_have_the_variance_of_drawn_groups():
    train, (x, y) = drawn(False)
    groups = np.arange(len(y)) // 8
    asked = {"fractions": 1.0, "solver": "ridge", "l2": 0.1, "metrics": "macro_f1"}
    rows = sweep(train, (x, y), **asked)
    found = sweep(train, (x, y), groups=(np.arange(len(train[1])) + 1000, groups), **asked)
    own = found.evidence("macro_f1")
    np.testing.assert_allclose(own, by_group(rows.evidence("macro_f1"), groups), rtol=1e-5)
    predicted, random = rows.weights(0).logits(x).argmax(1), np.random.default_rng(1)
    again = []
    for _ in range(200):
        picked = random.integers(0, 50, 50)
        chosen = (8 * picked[:, None] + np.arange(8)).ravel()
        again.append(f1_score(y[chosen], predicted[chosen], average="macro"))
    assert own.std() / np.sqrt(50) == pytest.approx(np.std(again), rel=0.2)


def test_what_finds_no_room_is_named_and_the_rest_is_kept():
    (_, _), (x, y) = drawn(False)
    blocks, names = ArrayBlocks(x, y), ["accuracy", "kappa", "auroc"]
    # 50 bytes of bits, 400 of classes, 1600 of parts
    with pytest.warns(RowsWarning, match=r"400 test rows says of 2 probes in auroc is not kept"):
        assert set(room(blocks, 2, 900, names).kept) == {"right", "class"}
    with pytest.warns(RowsWarning, match="in accuracy, kappa, auroc is not kept, since it takes"):
        assert room(blocks, 2, 0, names) is None
    assert room(blocks, 2, 0, ["nll"]) is None
    assert room(ArrayBlocks(x, y % 3, n_classes=300), 1, 1 << 20, ["kappa"]).kept[
        "class"
    ].dtype == np.dtype(np.uint16)


def test_an_interrupted_sweep_goes_on_with_all_facts(tmp_path, monkeypatch):
    monkeypatch.setitem(SOLVERS, "ridge", replace(SOLVERS["ridge"], together=1))
    train, test = drawn(False)
    names, done = ["accuracy", "macro_f1", "auroc"], []
    asked = {"solver": "ridge", "l2": 0.1, "metrics": names, "mode": ["first", "random"]}
    asked |= {"fractions": [0.25, 0.5], "seeds": 2}
    whole = sweep(train, test, **asked)

    def stop(result):
        done.append(result)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(train, test, each=stop, out=tmp_path / "r.csv", **asked)
    found = sweep(train, test, out=tmp_path / "r.csv", resume=True, **asked)
    for name in names:
        np.testing.assert_array_equal(found.evidence(name), whole.evidence(name))


def test_files_of_the_first_version_are_read(tmp_path):
    train, test = drawn(False)
    out = tmp_path / "r.csv"
    found = sweep(train, test, fractions=0.5, solver="ridge", l2=0.1, out=out)
    held = load_arrays(rows_path(out))
    held["kept"] = held.pop("kept.right")
    save_arrays(rows_path(out), {**held, "version": 1})
    assert np.array_equal(np.stack(read_correct(out)), found.correct)
    save_arrays(rows_path(out), {**held, "version": 3})
    with pytest.warns(RowsWarning, match="of version 3, and this reads 1 and 2"):
        assert read_correct(out) is None


def test_facts_of_other_shapes_are_refused(tmp_path):
    train, test = drawn(False)
    out = tmp_path / "r.csv"
    sweep(train, test, fractions=0.5, solver="ridge", l2=0.1, metrics=["kappa"], out=out)
    table, held = read_table(out), load_arrays(rows_path(out))
    assert load_rows(out, table, "kappa") is not None
    for wrong in (
        held["kept.class"][:, :-1],
        held["kept.class"].astype(np.float32),
        np.full(held["kept.class"].shape, 1 << 30, np.uint32),
        1 - np.minimum(held["kept.class"], 1),
    ):
        save_arrays(rows_path(out), {**held, "kept.class": wrong})
        with pytest.warns(RowsWarning, match="is not used"):
            assert load_rows(out, table, "kappa") is None


def test_predictions_tell_f1_and_not_auroc(tmp_path):
    train, test = drawn(False)
    names = ["accuracy", "macro_f1", "kappa", "balanced_accuracy", "auroc"]
    found = sweep(train, test, fractions=0.5, solver="ridge", l2=0.1, metrics=names)
    path = tmp_path / "p.npz"
    found.predict(test).save(path)
    for name in names[1:4]:
        own = judged(scored_by(found.table, name), path).correct
        np.testing.assert_allclose(own, found.evidence(name), rtol=1e-5)
    with pytest.raises(UsageError, match="do not tell AUROC"):
        judged(scored_by(found.table, "auroc"), path)
    with pytest.raises(DataError, match="as Cohen's kappa there"):
        judged(scored_by(found.table, "kappa").assign(kappa=0.1), path)


def test_room_is_taken_and_given_by_probe():
    rows = RowScores.empty(np.arange(20) % 3, 3, facts=("right", "class"))
    right = np.random.default_rng(0).random((3, 20)) < 0.5
    for probe in range(3):
        rows.write("right", probe, right[probe])
        rows.write("class", probe, right[probe] * 2)
    assert rows.of(np.arange(3)) is None
    rows.known[:] = True
    assert np.array_equal(rows.at(np.array([2, 0])).of(np.arange(2)), right[[2, 0]])
    assert set(rows.only(["class"]).kept) == {"class"}
    assert rows.only(["class"]).of(np.arange(3)) is None

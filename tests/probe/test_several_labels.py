"""Rows with any number of labels: probes against scikit-learn, label by label."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from featstore.probe import per_class_table, sweep
from featstore.probe.errors import DataError, UsageError
from featstore.probe.metrics import OF_SEVERAL
from featstore.probe.results import scored_by
from featstore.probe.results.curves import curves
from featstore.probe.results.reading import read_correct, read_results
from featstore.probe.splits import stratified_parts


def drawn(n=240, n_test=150, d=12, n_labels=4, seed=0):
    """Return train and test of features and labels that depend on them, of unequal shares."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n + n_test, d)) * random.uniform(0.5, 3, d) + random.normal(size=d)
    logits = (x - x.mean(0)) @ random.normal(size=(d, n_labels)) * 0.5 - np.linspace(
        -0.5, 2, n_labels
    )
    y = (random.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(int)
    return (x[:n], y[:n]), (x[n:], y[n:])


def scores_of(logits, above, labels):
    """Return what scikit-learn makes of scores (n, L)."""
    given = logits > above
    return {
        "auroc": roc_auc_score(labels, logits, average="macro"),
        "average_precision": average_precision_score(labels, logits, average="macro"),
        "macro_f1": f1_score(labels, given, average="macro", zero_division=np.nan),
        "micro_f1": f1_score(labels, given, average="micro"),
        "label_accuracy": (labels == given).mean(),
        "subset_accuracy": accuracy_score(labels, given),
    }


@pytest.mark.parametrize("d", [12, 300])
def test_logistic_probes_are_scikit_learns_label_by_label(d):
    """Also with more features than rows, where they are solved in the dual."""
    train, test = drawn(d=d)
    found = sweep(train, test, fractions=1.0, solver="logistic", l2=0.05)
    (row,) = found.table.to_dict("records")
    scaler = StandardScaler().fit(train[0])
    known = [
        LogisticRegression(C=1 / (len(train[0]) * 0.05), tol=1e-10, max_iter=10_000).fit(
            scaler.transform(train[0]), y
        )
        for y in train[1].T
    ]
    logits = np.stack([one.decision_function(scaler.transform(test[0])) for one in known], 1)
    mine = found.weights(0).logits(test[0])
    np.testing.assert_allclose(mine, logits, atol=3e-2)
    for name, value in scores_of(mine, 0, test[1]).items():
        assert row[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("d", [12, 300])
def test_ridge_probes_are_scikit_learns(d):
    train, test = drawn(d=d, seed=1)
    found = sweep(train, test, fractions=1.0, solver="ridge", l2=0.1)
    (row,) = found.table.to_dict("records")
    scaler = StandardScaler().fit(train[0])
    known = Ridge(alpha=0.1 * len(train[0])).fit(scaler.transform(train[0]), train[1])
    predicted = known.predict(scaler.transform(test[0]))
    np.testing.assert_allclose(found.weights(0).logits(test[0]), predicted, atol=1e-5)
    for name, value in scores_of(predicted, 0.5, test[1]).items():
        assert row[name] == pytest.approx(value, abs=1e-6), name


def test_each_label_has_its_own_scores():
    train, test = drawn(seed=2)
    found = sweep(train, test, fractions=[0.5], seeds=2, solver="ridge")
    table = per_class_table(found, ["a", "b", "c", "d"])
    own = table[(table["fraction"] == 1) & (table["seed"] == 1)].set_index("class")
    predicted = found.weights(1).logits(test[0])
    for place, name in enumerate("abcd"):
        scores, labels = predicted[:, place], test[1][:, place]
        assert own.loc[name, "class_accuracy"] == pytest.approx(((scores > 0.5) == labels).mean())
        assert own.loc[name, "class_f1"] == pytest.approx(f1_score(labels, scores > 0.5))
        assert own.loc[name, "class_auroc"] == pytest.approx(roc_auc_score(labels, scores))


def test_penalties_are_chosen_and_the_table_says_what_a_guess_reaches():
    train, test = drawn(seed=3)
    for solver in ("ridge", "logistic"):
        found = sweep(train, test, fractions=[0.5], seeds=2, solver=solver, l2="auto")
        assert set(found.table["l2_choice"]) == {"loo" if solver == "ridge" else "validation"}
        assert found.table["chance"].iloc[0] == pytest.approx(test[1].mean())
        assert (found.table["auroc"] > 0.7).all()
        assert "AUROC" in repr(found)


def test_a_label_more_changes_no_other():
    """Labels are solved apart: a label's probe is the same in any company."""
    train, test = drawn(seed=4)
    alone = sweep((train[0], train[1][:, :2]), (test[0], test[1][:, :2]), fractions=1.0, l2=0.1)
    beside = sweep(train, test, fractions=1.0, l2=0.1)
    np.testing.assert_allclose(
        beside.weights(0).coef[:, :2], alone.weights(0).coef, rtol=0.05, atol=5e-3
    )


def test_held_out_rows_have_the_rare_labels_too():
    labels = np.zeros((200, 3), np.uint8)
    labels[:150, 0] = labels[:100, 1] = labels[:6, 2] = 1
    parts = stratified_parts(labels, 0.2, seed=0, count=3)
    for part in parts:
        assert labels[part.validation].sum(0)[2] == 1
        assert np.union1d(part.train, part.validation).size == 200


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([[0, 2], [1, 0], [0, 1], [1, 1]]), "row 0 has 2 for label 1"),
        (np.array([[0, 1], [0, 1], [0, 0], [0, 1]]), "no train row has label 0"),
        (np.array([[1, 1], [1, 0], [1, 0], [1, 1]]), "every train row has label 0"),
    ],
)
def test_labels_that_make_no_probe_are_refused(labels, told):
    x = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(DataError, match=told):
        sweep((x, labels), (x, labels), fractions=1.0)


def test_what_does_not_go_with_several_labels_is_refused():
    train, test = drawn(seed=5)
    for solver in ("lda", "sgd", "knn"):
        with pytest.raises(UsageError, match="any number of labels"):
            sweep(train, test, fractions=1.0, solver=solver)
    with pytest.raises(UsageError, match=r"accuracy does not go .* several at once"):
        sweep(train, test, fractions=1.0, metrics="accuracy")
    with pytest.raises(DataError, match="train has several labels and test numbers"):
        sweep(train, (test[0], test[1].astype(float)), fractions=1.0)
    assert set(OF_SEVERAL) <= set(sweep(train, test, fractions=1.0, l2=0.1).table)


def test_intervals_of_auroc_are_those_of_a_bootstrap_of_rows(tmp_path):
    train, test = drawn(seed=6, n_test=300)
    out = tmp_path / "r.csv"
    found = sweep(train, test, fractions=0.5, seeds=3, solver="ridge", l2=0.1, out=out)
    whole = found.table[found.table["fraction"] == 1].index[0]
    predicted = found.weights(int(whole)).logits(test[0])
    random = np.random.default_rng(0)
    drawn_rows = (random.integers(0, 300, 300) for _ in range(400))
    again = [roc_auc_score(test[1][rows], predicted[rows], average="macro") for rows in drawn_rows]
    values = found.correct[whole].astype(float)
    assert values.mean() == pytest.approx(found.table["auroc"][whole], abs=1e-6)
    assert values.std() / np.sqrt(300) == pytest.approx(np.std(again), rel=0.12)
    (kept,), (own,) = curves(read_results(out), read_correct(out)), curves(found)
    for low, known in zip(kept.mean_interval()[:2], own.mean_interval()[:2], strict=True):
        np.testing.assert_allclose(low, known, atol=1e-6)
    assert own.mean_interval()[2].over.tolist() == ["seeds and test rows", "test rows"]
    (other,) = curves(scored_by(found.table, "macro_f1"), found.correct)
    assert other.mean_interval()[2].over.tolist() == ["seeds", ""]


def test_which_rows_are_right_is_no_part_of_the_auroc_of_classes():
    train, test = drawn(seed=7)
    pairs = (train[0], train[1][:, 0]), (test[0], test[1][:, 0])
    found = sweep(*pairs, fractions=0.5, solver="ridge", l2=0.1, metrics=["accuracy", "auroc"])
    (curve,) = curves(scored_by(found.table, "auroc"), found.correct)
    assert curve.evidence is None

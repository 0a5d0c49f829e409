"""Rows with any number of labels: probes against scikit-learn, label by label."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import binary_cross_entropy_with_logits

from featstore.probe import KNN, SGD, fit, per_class_table, predict, save_weights, sweep
from featstore.probe.cross_validation import cross_validate
from featstore.probe.errors import DataError, UsageError
from featstore.probe.metrics import OF_SEVERAL
from featstore.probe.results import scored_by
from featstore.probe.results.curves import curves
from featstore.probe.results.files import load_arrays
from featstore.probe.results.reading import read_correct, read_predictions, read_results
from featstore.probe.solvers.sgd import linear_start, orders
from featstore.probe.splits import random_parts, stratified_parts
from featstore.probe.subsets import subset_chain


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


@pytest.mark.parametrize("mode", ["random", "pca"])
@pytest.mark.parametrize("d", [12, 300])
def test_lda_probes_are_those_of_each_label_alone(d, mode):
    """One factor for all labels, by the inverse of what differs from it by one direction."""
    train, test = drawn(d=d, seed=8)
    train, test = ((x.astype(np.float64), y) for x, y in (train, test))
    asked = {"fractions": 0.5, "solver": "lda", "l2": 0.2, "mode": mode}
    found = sweep(train, test, **asked)
    assert set(found.table["status"]) == {"ok"}
    for label in range(4):
        alone = sweep((train[0], train[1][:, label]), (test[0], test[1][:, label]), **asked)
        for row in range(2):
            logits = alone.weights(row).logits(test[0])
            mine = found.weights(row).logits(test[0])[:, label]
            np.testing.assert_allclose(mine, logits[:, 1] - logits[:, 0], rtol=1e-6, atol=1e-6)
    for row in range(2):
        known = scores_of(found.weights(row).logits(test[0]), 0, test[1])
        for name, value in known.items():
            assert found.table[name][row] == pytest.approx(value, abs=1e-9), name


def test_lda_probes_are_scikit_learns():
    train, test = drawn(seed=9)
    found = sweep(train, test, fractions=1.0, solver="lda", l2=1e-12)
    for label in range(4):
        known = LinearDiscriminantAnalysis(solver="lsqr").fit(train[0], train[1][:, label])
        expected = known.decision_function(test[0])
        mine = found.weights(0).logits(test[0])[:, label]
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)
    chosen = sweep(train, test, fractions=0.5, solver="lda", l2="auto")
    assert set(chosen.table["l2_choice"]) == {"validation"}
    assert "rule=log " in chosen.table["options"][0]
    assert (chosen.table["auroc"] > 0.7).all()


@pytest.mark.parametrize("weights", ["uniform", "exp"])
def test_neighbours_vote_label_by_label(weights):
    train, test = drawn(seed=10)
    solver = KNN(k=[6, 15], metric="euclidean", weights="uniform")
    scaler = StandardScaler().fit(train[0])
    x, y = (scaler.transform(each[0]) for each in (train, test))
    by_weight = {}
    if weights == "exp":
        solver = KNN(k=[6, 15], weights="exp", temperature=0.5)
        by_weight = {"metric": "cosine", "weights": lambda far: np.exp(-far / 0.5)}
    found = sweep(train, test, fractions=1.0, solver=solver)
    for row, k in enumerate((6, 15)):
        known = KNeighborsClassifier(k, **by_weight).fit(x, train[1])
        shares = np.stack([each[:, 1] for each in known.predict_proba(y)], 1)
        for name, value in scores_of(shares, 0.5, test[1]).items():
            assert found.table[name][row] == pytest.approx(value, abs=1e-6), name


def test_neighbours_are_chosen_by_the_squared_error_of_each_row_left_out():
    train, test = drawn(seed=11)
    found = sweep(train, test, fractions=1.0, solver=KNN(k="auto", metric="euclidean"))
    x = StandardScaler().fit_transform(train[0])
    far = ((x[:, None] - x) ** 2).sum(2) + np.diag(np.full(len(x), np.inf))
    near = np.argsort(far, axis=1, kind="stable")
    losses = {
        k: (((train[1][near[:, :k]].mean(1) - train[1]) ** 2) / train[1].var(0)).mean()
        for k in (1, 2, 5, 10, 20, 50, 100, 200)
    }
    assert losses[int(found.table["l2"][0])] < 1.002 * min(losses.values())
    assert found.table["l2_choice"].tolist() == ["loo"]


def test_sgd_probes_are_those_of_a_literal_loop():
    train, test = drawn(seed=12)
    x, y = (each.astype(np.float32) for each in train)
    options = SGD(epochs=4, lr=0.05)
    found = sweep((x, train[1]), test, fractions=1.0, solver=options)
    parts = random_parts(len(x), options.val_fraction, options.split_seed)
    start = linear_start(12, 4, 0)
    layer = torch.nn.Linear(12, 4)
    with torch.no_grad():
        layer.bias.copy_(torch.from_numpy(start[0]))
        layer.weight.copy_(torch.from_numpy(start[1:].T.copy()))
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=5e-4
    )
    wide, labels, best, reached = torch.from_numpy(x), torch.from_numpy(y), None, -1.0
    every = zip(options.rates(), orders(options, len(parts.train)), strict=True)
    for epoch, (optimizer.param_groups[0]["lr"], order) in enumerate(every, 1):
        for rows in torch.from_numpy(parts.train[order]).split(options.batch_size):
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(layer(wide[rows]), labels[rows])
            (4 * loss).backward()  # the sum over labels of the mean over rows
            optimizer.step()
        with torch.no_grad():
            held = parts.validation
            right = ((layer(wide[held]) > 0) == (labels[held] > 0)).double().mean().item()
            if options.validated(epoch) and right > reached:
                best = layer(torch.from_numpy(test[0].astype(np.float32))).numpy()
                reached = right
    np.testing.assert_allclose(found.weights(0).logits(test[0]), best, atol=1e-4)
    assert found.table["val_accuracy"][0] == pytest.approx(reached)
    for name, value in scores_of(best, 0, test[1]).items():
        assert found.table[name][0] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
def test_labels_are_predicted_by_results_and_by_saved_probes(solver, tmp_path):
    train, test = drawn(seed=13)
    found = sweep(train, test, fractions=0.5, seeds=2, solver=solver, l2=0.1)
    names, path = ["a", "b", "=c", "d"], tmp_path / "p.safetensors"
    said = found.predict(test)
    above = 0.5 if solver == "ridge" else 0.0
    expected = np.stack([found.weights(row).logits(test[0]) > above for row in range(4)], 1)
    assert np.array_equal(said.classes, expected)
    assert np.array_equal(found.predict(test[0]), expected)
    unscored = fit(train, [subset_chain(np.arange(12), n_features=12)], solver=solver, l2=0.1)
    assert np.array_equal(unscored.predict(test).classes[:, 0], expected[:, 1])
    save_weights(found, path, classes=names)
    again = predict(path, test, classes=names)
    assert np.array_equal(again.classes, expected)
    for table in (said.table, again.table):
        # AUROC needs scores, which are not kept: it would be that of other rows
        assert "auroc" not in table
        for name in ("macro_f1", "micro_f1", "label_accuracy", "subset_accuracy"):
            np.testing.assert_allclose(table[name], found.table[name], atol=1e-12)
    np.testing.assert_allclose(again.correct, found.evidence("macro_f1"), rtol=1e-5)
    assert "macro F1" in repr(again)
    other = predict(path, test, classes=["a", "b", "c", "e"])
    assert other.correct is None
    assert other.table["label_accuracy"].isna().all()
    again.save(tmp_path / "p.csv")
    written = pd.read_csv(tmp_path / "p.csv")
    columns = ["row", "label:a", "label:b", "label:=c", "label:d", "probe_0:a"]
    assert written.columns[:6].tolist() == columns
    assert np.array_equal(written.filter(regex="^probe_3:").to_numpy() > 0, expected[:, 3])
    again.save(tmp_path / "p.npz")
    assert np.array_equal(load_arrays(tmp_path / "p.npz")["classes"], expected)
    with pytest.raises(UsageError, match="holds no predictions"):
        read_predictions(tmp_path / "p.csv")


def test_folds_predict_the_labels_of_each_row_by_probes_without_it():
    (x, y), _ = drawn(seed=15)
    found = cross_validate((x, y), folds=3, fractions=0.5, solver="lda", l2=0.1)
    given = found.predict((x, y))
    for fold in range(3):
        own = found.fold == fold
        logits = found.results[fold].weights(1).logits(x[own])
        assert np.array_equal(given.classes[own, 1], logits > 0)
    known = scores_of(given.classes[:, 1].astype(float), 0.5, y)
    for name in ("macro_f1", "micro_f1", "label_accuracy", "subset_accuracy"):
        assert given.table[name][1] == pytest.approx(known[name])


def test_numbers_are_still_not_predicted_as_labels(tmp_path):
    train, test = drawn(seed=14)
    numbers = [(x, y.astype(float)) for x, y in (train, test)]
    found = sweep(*numbers, fractions=1.0, solver="ridge", l2=0.1)
    with pytest.raises(UsageError, match="these probes predict numbers, and predictions are kept"):
        found.predict(numbers[1])
    save_weights(found, tmp_path / "p.safetensors")
    with pytest.raises(UsageError, match="predict numbers, or were saved before"):
        predict(tmp_path / "p.safetensors", numbers[1])


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
    for solver in ("lda", "logistic"):
        with pytest.raises(UsageError, match="at once has a closed form for ridge and knn"):
            sweep(train, test, fractions=1.0, solver=solver, l2="auto", select="loo")
    with pytest.raises(DataError, match="validation"):
        sweep(train, test, fractions=1.0, solver="sgd", validation=(test[0], test[1][:, 0]))
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
    drawn_rows = (random.integers(0, 300, 300) for _ in range(100))
    again = [roc_auc_score(test[1][rows], predicted[rows], average="macro") for rows in drawn_rows]
    values = found.correct[whole].astype(float)
    assert values.mean() == pytest.approx(found.table["auroc"][whole], abs=1e-6)
    assert values.std() / np.sqrt(300) == pytest.approx(np.std(again), rel=0.25)
    (kept,), (own,) = curves(read_results(out), read_correct(out)), curves(found)
    for low, known in zip(kept.mean_interval()[:2], own.mean_interval()[:2], strict=True):
        np.testing.assert_allclose(low, known, atol=1e-6)
    assert own.mean_interval()[2].over.tolist() == ["seeds and test rows", "test rows"]
    (other,) = curves(scored_by(found.table, "macro_f1"), found.correct)
    assert other.mean_interval()[2].over.tolist() == ["seeds", ""]
    (other,) = curves(scored_by(found.table, "macro_f1"), found.evidence("macro_f1"))
    assert other.mean_interval()[2].over.tolist() == ["seeds and test rows", "test rows"]


def test_which_rows_are_right_is_no_part_of_the_auroc_of_classes():
    train, test = drawn(seed=7)
    pairs = (train[0], train[1][:, 0]), (test[0], test[1][:, 0])
    found = sweep(*pairs, fractions=0.5, solver="ridge", l2=0.1, metrics=["accuracy", "auroc"])
    (curve,) = curves(scored_by(found.table, "auroc"), found.correct)
    assert curve.evidence is None

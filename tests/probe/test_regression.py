"""Labels that are numbers: ridge and R^2 against scikit-learn, and what is refused."""

import numpy as np
import pytest
from problems import Captured, relative
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from featstore import probe
from featstore.probe.arrays import Backend
from featstore.probe.errors import DataError, UsageError
from featstore.probe.memory import Settings
from featstore.probe.metrics import Scores
from featstore.probe.moments import Remembered, moments
from featstore.probe.rows import ArrayBlocks
from featstore.probe.subsets import random_chain

METRICS = ("r2", "mse", "mae")
L2 = 0.05


def drawn(targets, n=240, d=20, far=0.0, dtype=np.float64):
    """Correlated features, and targets (n,) or (n, T) that are partly linear in them."""
    random = np.random.default_rng(3)
    x = (random.normal(size=(n, d)) @ random.normal(size=(d, d)) + 2).astype(dtype)
    slopes = random.normal(size=(d, max(1, targets)))
    y = 3 * x @ slopes / d + random.normal(size=(n, max(1, targets))) + far
    y = y if targets else y[:, 0]
    return (x[: n // 2], y[: n // 2]), (x[n // 2 :], y[n // 2 :])


CHAINS = [random_chain(20, [0.2, 0.6, 1.0], seed=1)]


def theirs(train, features, l2=L2):
    """scikit-learn's ridge of these features, and the scaling that it needs."""
    x = train[0][:, features].astype(np.float64)
    mean, scale = x.mean(0), x.std(0)
    model = Ridge(alpha=l2 * len(x)).fit((x - mean) / scale, train[1])
    return lambda rows: model.predict((rows[:, features] - mean) / scale)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("targets", [0, 1, 3])
def test_probes_and_scores_are_those_of_scikit_learn(targets, backend):
    train, test = drawn(targets, far=50)
    blocks = ArrayBlocks(*train, block_rows=10)  # the first tell the shift, far from the mean
    result = probe.fit(blocks, CHAINS, solver="ridge", l2=L2, backend=backend, device="cpu")
    table = result.score(test, METRICS).table
    for row in range(3):
        predicted = theirs(train, result.weights(row).features)(test[0])
        own = result.weights(row).logits(test[0])
        assert relative(own.reshape(predicted.shape), predicted) <= 1e-10
        for name, score in zip(
            METRICS, (r2_score, mean_squared_error, mean_absolute_error), strict=True
        ):
            assert table[name][row] == pytest.approx(score(test[1], predicted), rel=1e-8)
    assert set(table["n_train"]) == {120}
    assert "accuracy" not in table


def test_targets_far_from_zero_keep_their_digits():
    train, _ = drawn(0, dtype=np.float32)
    near = probe.fit(train, CHAINS, solver="ridge", l2=L2)
    far = probe.fit((train[0], train[1] + 1e6), CHAINS, solver="ridge", l2=L2)
    for row in range(3):
        assert relative(far.weights(row).coef, near.weights(row).coef) <= 1e-6


def test_moments_add_and_subtract():
    (x, y), _ = drawn(2, far=7)
    whole = moments(ArrayBlocks(x, y), Settings())
    parts = [
        moments(ArrayBlocks(x[rows], y[rows]), Settings()) for rows in (slice(50), slice(50, None))
    ]
    for found in (parts[0] + parts[1], whole + parts[0] - parts[0]):
        assert found.n == 120
        assert relative(found.cross(), whole.cross()) <= 1e-10
        assert relative(found.priors, y.mean(0)) <= 1e-12
        assert found.class_counts.shape == (0,)


def test_leave_one_out_is_refitting_without_the_row():
    (x, y), _ = drawn(2, n=60, d=6)
    chain = random_chain(6, [0.5, 1.0], seed=1)
    table = probe.fit((x, y), [chain], solver="ridge", l2=[L2, 0.5], select="loo").table
    n = len(x)
    for row, k in enumerate((3, 6)):
        scores = []
        for l2 in (L2, 0.5):
            z = x[:, chain.order[:k]] / x[:, chain.order[:k]].std(0)
            out = [
                Ridge(alpha=l2 * n)
                .fit(np.delete(z, i, 0), np.delete(y, i, 0))
                .predict(z[i : i + 1])
                for i in range(n)
            ]
            scores.append(r2_score(y, np.concatenate(out)))
        assert table["selection_accuracy"][row] == pytest.approx(max(scores), rel=1e-8)
        assert table["l2"][row] == (L2, 0.5)[int(np.argmax(scores))]


def test_penalties_are_chosen_by_r2_of_a_held_out_part():
    train, test = drawn(0)
    result = probe.sweep(
        train, test, solver="ridge", fractions=[0.5], l2=[1e-4, 1e-2, 10.0], select="validation"
    )
    assert set(result.table["l2"]) <= {1e-4, 1e-2}
    assert (result.table["selection_accuracy"] > 0.2).all()
    assert (result.table["r2"] > 0.3).all()


def test_a_held_out_part_of_numbers_is_a_share():
    (x, y), _ = drawn(0)
    ((remainder, held_out),) = Remembered(ArrayBlocks(x, y)).parts(0.25, 0)
    assert (remainder.n_rows, held_out.n_rows) == (90, 30)
    found, own = remainder.moments(Settings()), moments(remainder, Settings())
    assert relative(found.cross(), own.cross()) <= 1e-10


def test_rows_may_come_in_any_pieces_and_probes_in_any_groups():
    random = np.random.default_rng(0)
    y, predicted = random.normal(size=(50, 2)), random.normal(size=(3, 50, 2))
    scores = Scores(3, 2, METRICS)
    for rows in (slice(0, 20), slice(20, 50)):
        scores.add(np.array([0, 2]), predicted[[0, 2], rows], y[rows])
        scores.add(np.array([1]), predicted[[1], rows], y[rows])
        scores.finish(y[rows])
    found = scores.columns()
    for p in range(3):
        assert found["r2"][p] == pytest.approx(r2_score(y, predicted[p]))


def test_sweep_prints_r2(tmp_path):
    from featstore.cli.screen import of_sweep
    from featstore.probe.figures import accuracy_against_fraction

    train, test = drawn(0)
    result = probe.sweep(
        train,
        test,
        solver="ridge",
        fractions=[0.2, 0.5],
        seeds=[1, 2],
        l2=L2,
        out=tmp_path / "r.csv",
    )
    summary = probe.summary(result.table)
    assert list(summary["r2"]) == list(result.table.groupby("fraction")["r2"].mean())
    assert "accuracy" not in summary
    assert "of the full layer's R², 0." in probe.sentence(result.table)
    shown = of_sweep(result.table)[0]
    assert [column.header for column in shown.columns][2] == "test R²"
    accuracy_against_fraction(result.table, tmp_path / "r.svg")
    picture = (tmp_path / "r.svg").read_text()
    assert "test R²" in picture
    resumed = probe.sweep(
        train,
        test,
        solver="ridge",
        fractions=[0.2, 0.5],
        seeds=[1, 2],
        l2=L2,
        out=tmp_path / "r.csv",
        resume=True,
    )
    assert resumed.table["r2"].equals(result.table["r2"])


@pytest.mark.parametrize("solver", ["logistic", "lda", "sgd"])
def test_solvers_of_classes_refuse_numbers(solver):
    with pytest.raises(UsageError, match=r"numbers to be predicted.*take solver ridge"):
        probe.fit(drawn(0)[0], CHAINS, solver=solver)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"value": np.nan}, {}, "row 3 of train has nan as a target"),
        ({}, {"value": np.inf}, "row 3 of test has inf as a target"),
        ({"constant": True}, {}, "target 0 is 2 in every train row"),
        ({}, {"classes": True}, r"train are 1 target\(s\) and those of test classes"),
        ({}, {"two": True}, r"train are 1 target\(s\) and those of test 2 target\(s\)"),
        ({"cube": True}, {}, r"labels have shape \(120, 1, 1\)"),
    ],
)
def test_targets_that_cannot_be_predicted(train, test, message):
    def changed(rows, value=None, constant=False, classes=False, two=False, cube=False):
        x, y = rows[0], rows[1].copy()
        if value is not None:
            y[3] = value
        y = np.full_like(y, 2) if constant else y
        y = np.arange(len(y)) % 3 if classes else y
        y = np.stack([y, y], 1) if two else y
        return x, y[:, None, None] if cube else y

    sides = drawn(0)
    with pytest.raises(DataError, match=message):
        probe.sweep(
            changed(sides[0], **train), changed(sides[1], **test), solver="ridge", fractions=[0.5]
        )


def test_metrics_and_predictions_of_the_other_kind_are_refused(tmp_path):
    train, test = drawn(0)
    result = probe.fit(train, CHAINS, solver="ridge", l2=L2)
    with pytest.raises(
        UsageError, match=r"accuracy does not go with labels that are numbers: .*r2"
    ):
        result.score(test, ["accuracy"])
    with pytest.raises(UsageError, match="predict numbers"):
        result.predict(test)
    with pytest.raises(UsageError, match="only classes have an accuracy each"):
        result.score(test).per_class()
    probe.save_weights(result, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"w.safetensors predict numbers"):
        probe.predict(tmp_path / "w.safetensors", test)
    saved = probe.load_weights(tmp_path / "w.safetensors").weights(2)
    assert (saved.logits(test[0]) == result.weights(2).logits(test[0])).all()
    classes = (train[0], np.arange(120) % 3)
    probe.save_weights(probe.fit(classes, CHAINS, solver="ridge"), tmp_path / "c.safetensors")
    assert probe.predict(tmp_path / "c.safetensors", test).table["accuracy"].isna().all()
    with pytest.raises(UsageError, match="r2 does not go with labels that are classes"):
        probe.sweep(classes, classes, fractions=[0.5], metrics=["r2"])


def test_logits_come_by_rows_and_targets():
    train, test = drawn(2)
    result = probe.fit(train, CHAINS, solver="ridge", l2=L2)
    captured = Captured(3, 2)
    result.fitted.score(ArrayBlocks(*test), captured)
    for row, logits in enumerate(captured.all()):
        # what scores are given is less the targets' mean in train, as the targets are
        logits = logits + train[1].mean(0)
        assert relative(logits, result.weights(row).logits(test[0])) <= 1e-10


def test_backends_agree():
    (x, y), _ = drawn(3, dtype=np.float32)
    found = [
        moments(ArrayBlocks(x, y), Settings(backend=Backend(name, "cpu"))).cross()
        for name in ("torch", "numpy")
    ]
    assert relative(*found) <= 1e-6

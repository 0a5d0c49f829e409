"""Bases: directions against scikit-learn and transcriptions, probes against fresh fits of z."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from problems import PROBLEMS, Captured, Problem, changed, clusters, relative
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge

from featstore import probe
from featstore.probe import subsets
from featstore.probe.arrays import Backend, to_host
from featstore.probe.errors import MemoryBudgetError, UsageError
from featstore.probe.memory import Settings
from featstore.probe.moments import moments
from featstore.probe.rows import as_blocks
from featstore.probe.selection import part_count
from featstore.probe.solvers import value_of
from featstore.probe.splits import stratified_parts
from featstore.probe.subsets import (
    KINDS,
    Basis,
    Chain,
    Frame,
    congruent,
    directions,
    orthonormalised,
)

PROJECTED = [
    "pca",
    "pca-least",
    "pca-uncentred",
    "random-projection",
    "random-projection-orthogonal",
    "random-projection-uniform",
]


def correlated(n=300, d=16, c=4, dtype=np.float64) -> Problem:
    """Features of a decaying spectrum, mixed, off centre and on different scales."""
    random = np.random.default_rng(5)
    mix = random.normal(size=(d, d)) * np.arange(1, d + 1)[:, None] ** -0.7
    scales = random.uniform(0.2, 5, d)
    return changed(
        clusters(n, 80, d, c), lambda x: ((x @ mix + random.normal(size=d)) * scales).astype(dtype)
    )


def found(problem, basis, count, standardize=True) -> np.ndarray:
    train = moments(as_blocks(problem.train), Settings())
    frame = Frame(problem.x.shape[1], lambda: train, standardize)
    return to_host(directions(basis, count, frame, Backend()))


def scaled(problem, standardize=True) -> tuple[np.ndarray, np.ndarray]:
    """Both splits, centred and scaled by train."""
    mean, scale = problem.x.mean(0), problem.x.std(0) if standardize else 1.0
    return (problem.x - mean) / scale, (problem.x_test - mean) / scale


def order_of(mode, d):
    return np.arange(d)[::-1] if mode == "pca-least" else np.arange(d)


def projected(problem, mode, seed, standardize=True) -> tuple[np.ndarray, np.ndarray]:
    """Return z of both splits, all directions in the mode's order, made without the library."""
    d = problem.x.shape[1]
    x, x_test = scaled(problem, standardize)
    if mode in ("pca", "pca-least"):
        matrix = PCA().fit(x).components_.T
    elif mode == "pca-uncentred":
        raw = problem.x / (problem.x.std(0) if standardize else 1.0)
        matrix = np.linalg.svd(raw)[2].T
    else:
        matrix = drawn(mode, d, seed)
    matrix = matrix[:, order_of(mode, d)]
    return x @ matrix, x_test @ matrix


def drawn(mode, d, seed) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    if mode == "random-projection-uniform":
        matrix = torch.rand((64, d), generator=generator)[:d].T.double().numpy()
        return matrix / np.linalg.norm(matrix, axis=0)
    matrix = torch.randn((64, d), generator=generator)[:d].T.double().numpy() / np.sqrt(d)
    if mode == "random-projection":
        return matrix
    for column in range(d):  # Gram and Schmidt, one after another
        for before in range(column):
            matrix[:, column] -= matrix[:, before] * (matrix[:, before] @ matrix[:, column])
        matrix[:, column] /= np.linalg.norm(matrix[:, column])
    return matrix


def fresh(solver, z, y, l2):
    """Return the logits of an independent fit of these features as a function."""
    n = len(z)
    if solver == "ridge":
        targets = np.eye(y.max() + 1)[y]
        model = Ridge(alpha=n * l2).fit(z, targets)
        return model.predict
    if solver == "logistic":
        model = LogisticRegression(C=1 / (n * l2), tol=1e-10, max_iter=5000).fit(z, y)
        return model.decision_function
    # lda: shrinkage by hand, since scikit-learn's is relative
    means = np.stack([z[y == c].mean(0) for c in range(y.max() + 1)])
    within = (z - means[y]).T @ (z - means[y]) / n + l2 * np.eye(z.shape[1])
    coef = np.linalg.solve(within, means.T)
    offset = np.log(np.bincount(y) / n) - (means.T * coef).sum(0) / 2
    return lambda rows: rows @ coef + offset


def centred(logits):
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
@pytest.mark.parametrize("standardize", [True, False])
def test_every_prefix_is_a_fresh_fit_of_its_projection(solver, standardize):
    problem = correlated()
    options = {"tol": 1e-8} if solver == "logistic" else {}
    value = value_of(solver, {"l2": 0.02, **options})
    result = probe.sweep(
        problem.train,
        problem.test,
        fractions=[0.07, 0.25, 0.8],
        seeds=[3],
        solver=value,
        mode=PROJECTED,
        standardize=standardize,
        device="cpu",
    )
    table, tolerance = result.table, 1e-3 if solver == "logistic" else 1e-7
    for row in np.flatnonzero(table["fraction"] < 1):
        mode, k = table["mode"][row], table["k"][row]
        z, z_test = (rows[:, :k] for rows in projected(problem, mode, 3, standardize))
        expected = centred(fresh(solver, z, problem.y, 0.02)(z_test))
        logits = result.weights(row).logits(problem.x_test)
        assert relative(centred(logits), expected) < tolerance, (mode, k)
        hits = (logits.argmax(1) == problem.y_test).mean()
        assert table["accuracy"][row] == pytest.approx(hits, abs=1e-12)


def test_the_logits_that_are_scored_are_those_of_the_weights():
    problem = correlated()
    chains = [
        Chain(
            order_of(mode, 16),
            sizes,
            tuple(k / 16 for k in sizes),
            mode,
            3,
            Basis("pca" if mode == "pca-least" else mode, 3),
        )
        for mode in PROJECTED
        for sizes in ((1, 3, 7, 16), (2,))
    ]
    for solver in ("ridge", "lda", "logistic", "sgd"):
        options = {"epochs": 2} if solver == "sgd" else {}
        value = value_of(solver, {"l2": 0.05, **options})
        result = probe.fit(problem.train, chains, solver=value, device="cpu")
        captured = Captured(len(result), 4)
        result.fitted.score(as_blocks(problem.test), captured)
        for row, logits in enumerate(captured.all()):
            expected = result.weights(row).logits(problem.x_test)
            assert relative(centred(logits), centred(expected)) < 1e-6


def test_principal_directions_are_those_of_scikit_learn():
    problem = correlated()
    for standardize in (True, False):
        pca = PCA().fit(scaled(problem, standardize)[0])
        vectors = found(problem, Basis("pca"), 16, standardize)
        assert np.allclose(np.abs((vectors * pca.components_.T).sum(0)), 1)
        assert (vectors[np.abs(vectors).argmax(0), np.arange(16)] > 0).all()


def test_uncentred_directions_are_those_about_zero():
    problem = correlated()
    vectors = found(problem, Basis("pca-uncentred"), 16, standardize=False)
    right = np.linalg.svd(problem.x, full_matrices=False)[2]
    assert np.allclose(np.abs((vectors * right.T).sum(0)), 1)


@pytest.mark.parametrize("kind", [name for name in KINDS if name.startswith("random")])
def test_drawn_directions_are_as_written_down(kind):
    problem = correlated()
    assert np.allclose(found(problem, Basis(kind, 7), 16), drawn(kind, 16, 7), atol=1e-12)
    for count in (1, 5):
        few = found(problem, Basis(kind, 7), count)
        assert np.allclose(few, drawn(kind, 16, 7)[:, :count], atol=1e-12)
    assert not np.allclose(few, found(problem, Basis(kind, 8), count))


def test_draws_are_what_their_names_say():
    problem = clusters(10, 5, 400, 2)
    gaussian, orthogonal, uniform = (
        found(problem, Basis(f"random-projection{name}", 1), 300)
        for name in ("", "-orthogonal", "-uniform")
    )
    assert abs(gaussian.mean()) < 1e-3
    assert gaussian.var() == pytest.approx(1 / 400, rel=0.01)
    assert np.allclose(orthogonal.T @ orthogonal, np.eye(300), atol=1e-12)
    assert (uniform >= 0).all()
    assert np.allclose(np.linalg.norm(uniform, axis=0), 1)
    assert uniform.max(0).mean() == pytest.approx(np.sqrt(3 / 400), rel=0.02)


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
def test_in_a_full_orthonormal_basis_the_probe_is_the_full_probe(solver):
    problem = correlated()
    chains = [Chain(np.arange(16), (16,), (1.0,), "first")]
    chains += [
        Chain(np.arange(16), (16,), (1.0,), kind, 2, Basis(kind, 2))
        for kind in ("pca", "pca-uncentred", "random-projection-orthogonal")
    ]
    options = {"tol": 1e-8} if solver == "logistic" else {}
    value = value_of(solver, {"l2": 0.1, **options})
    result = probe.fit(problem.train, chains, solver=value, device="cpu")
    full = result.weights(0)
    for row in (1, 2, 3):
        other = result.weights(row)
        assert relative(other.coef, full.coef) < 1e-5
        assert np.allclose(other.intercept, full.intercept, atol=1e-5)


def test_features_that_never_change_in_train_take_no_part():
    problem = PROBLEMS["constant features"]()
    other = problem.x_test.copy()
    other[:, ::5] += 3
    for solver in ("ridge", "logistic"):
        result = probe.sweep(
            problem.train,
            problem.test,
            fractions=[0.1, 0.9],
            solver=solver,
            mode=PROJECTED,
            device="cpu",
        )
        moved = result.score((other, problem.y_test)).table["accuracy"]
        assert moved.tolist() == result.table["accuracy"].tolist()


@pytest.mark.parametrize("selection", [{"l2": "auto"}, {"l2": [1e-4, 1e-2, 1], "select": "loo"}])
def test_penalties_are_chosen_on_a_basis_as_on_projected_features(selection):
    problem = correlated()
    table = probe.sweep(
        problem.train,
        problem.test,
        fractions=[0.4],
        seeds=[3],
        solver="ridge",
        mode=PROJECTED,
        device="cpu",
        **selection,
    ).table
    drawn_modes = [mode for mode in PROJECTED if mode.startswith("random") or "loo" in selection]
    for mode in drawn_modes:
        # the same columns as plain features; held-out rows leave the scales as good as they were
        z, z_test = projected(problem, mode, 3)
        alone = probe.sweep(
            (z, problem.y),
            (z_test, problem.y_test),
            fractions=[0.4],
            solver="ridge",
            mode="first",
            standardize=False,
            device="cpu",
            **selection,
        ).table
        own = table[table["mode"] == mode].reset_index()
        assert abs(np.log10(own["l2"][0] / alone["l2"][0])) < 0.6
        if "select" in selection:
            assert own["selection_accuracy"][0] == pytest.approx(alone["selection_accuracy"][0])


@pytest.mark.parametrize("solver", ["logistic", "lda"])
def test_other_solvers_choose_penalties_on_a_basis_of_the_rows_that_are_not_held_out(solver):
    problem = correlated()
    arguments = {"l2": [1e-3, 1e-1], "select": "validation", "device": "cpu", "solver": solver}
    result = probe.sweep(
        problem.train, problem.test, fractions=[0.4], mode=["first", "pca"], **arguments
    )
    rows = np.flatnonzero(result.table["mode"] == "pca")[:1]
    losses, hits, held = np.zeros(2), np.zeros(2), 0
    metric = {"logistic": "nll", "lda": "accuracy"}[solver]
    for kept in stratified_parts(problem.y, 0.1, 0, part_count(0.1, len(problem.y))):
        part = [(problem.x[own], problem.y[own]) for own in (kept.train, kept.validation)]
        on_part = probe.sweep(
            *part,
            fractions=[0.4],
            mode="pca",
            l2=[1e-3, 1e-1],
            device="cpu",
            solver=solver,
            metrics=["accuracy", metric] if metric == "nll" else None,
        ).table
        on_part = on_part[on_part["fraction"] < 1].sort_values("l2")
        count, loss = len(kept.validation), on_part[metric].to_numpy()
        losses += count * (loss if metric == "nll" else 1 - loss)
        hits, held = hits + count * on_part["accuracy"].to_numpy(), held + count
    without = np.log(4) if metric == "nll" else 0.75  # four classes of equal size
    small, large = losses / held
    best = 0 if small < large - 1e-3 * (large + without) else 1
    assert result.table["l2"][rows].tolist() == [[1e-3, 1e-1][best]]
    assert result.table["selection_accuracy"][rows].tolist() == pytest.approx([hits[best] / held])


def test_numbers_are_predicted_from_directions():
    problem = correlated()
    y, y_test = (x[:, [1, 3]] @ [[1.0], [0.3]] for x in (problem.x, problem.x_test))
    table = probe.sweep(
        (problem.x, y),
        (problem.x_test, y_test),
        fractions=[0.3],
        seeds=[3],
        solver="ridge",
        l2=0.02,
        mode=PROJECTED,
        device="cpu",
    ).table
    for row in np.flatnonzero(table["fraction"] < 1):
        k = table["k"][row]
        z, z_test = (rows[:, :k] for rows in projected(problem, table["mode"][row], 3))
        exact = Ridge(alpha=len(z) * 0.02).fit(z, y).score(z_test, y_test)
        assert table["r2"][row] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("mode", ["pca", "pca-uncentred"])
def test_sgd_sees_raw_features_projected(mode):
    """The paper's PCA: directions of centred features, of which raw ones are shown."""
    problem = correlated(dtype=np.float32)
    problem = changed(problem, lambda x: x / 10 + 1)
    centre = torch.from_numpy(problem.x - (problem.x.mean(0) if mode == "pca" else 0))
    vectors = torch.linalg.svd(centre, full_matrices=False)[2].T.numpy()
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(16)])
    z, z_test = problem.x @ (vectors * signs), problem.x_test @ (vectors * signs)
    options = {"fractions": [0.25, 0.5], "solver": probe.SGD(epochs=3), "device": "cpu"}
    ours = probe.sweep(problem.train, problem.test, mode=mode, **options).table
    alone = probe.sweep((z, problem.y), (z_test, problem.y_test), mode="first", **options).table
    assert ours["accuracy"][:2].tolist() == pytest.approx(alone["accuracy"][:2].tolist(), abs=0.02)
    assert ours["train_loss"][:2].tolist() == pytest.approx(
        alone["train_loss"][:2].tolist(), rel=1e-4
    )


@pytest.mark.parametrize("solver", ["ridge", "logistic", "sgd"])
def test_saved_weights_predict_what_was_scored(solver, tmp_path):
    problem = correlated(dtype=np.float32)
    options = {"epochs": 2, "l2": 0.01} if solver == "sgd" else {"l2": 0.01}
    result = probe.sweep(
        problem.train,
        problem.test,
        fractions=[0.2, 0.5],
        solver=value_of(solver, options),
        mode=["first", *PROJECTED],
        device="cpu",
    )
    probe.save_weights(result, tmp_path / "w.safetensors")
    predicted = probe.predict(tmp_path / "w.safetensors", problem.test)
    assert predicted.table["accuracy"].tolist() == result.table["accuracy"].tolist()
    assert (predicted.classes == result.predict(problem.test).classes).all()
    saved = probe.load_weights(tmp_path / "w.safetensors")
    assert [saved.reads(n) for n in range(4)] == [3, 8, 16, 16]


@pytest.mark.long
def test_backends_and_small_memory_give_the_same_probes():
    problem = correlated(dtype=np.float32)
    arguments = {"fractions": [0.2, 0.6], "mode": ["random", *PROJECTED]}
    arguments["device"] = "cpu"
    for solver in ("ridge", "logistic"):
        tables = [
            probe.sweep(problem.train, problem.test, solver=solver, **arguments, **how).table
            for how in ({}, {"backend": "numpy"}, {"memory": "1MB"})
        ]
        for other in tables[1:]:
            assert np.allclose(other["accuracy"], tables[0]["accuracy"], atol=0.03)
            assert other[["mode", "seed", "k"]].equals(tables[0][["mode", "seed", "k"]])


def test_the_same_seed_gives_the_same_bits_and_resumes(tmp_path):
    problem, out = correlated(), tmp_path / "r.csv"
    arguments = {
        "fractions": [0.2, 0.6],
        "seeds": range(1, 6),
        "mode": PROJECTED,
        "solver": "ridge",
        "device": "cpu",
        "out": out,
    }
    probe.sweep(problem.train, problem.test, **arguments)
    complete, groups = out.read_bytes(), []
    probe.sweep(problem.train, problem.test, **arguments)
    assert out.read_bytes() == complete
    out.unlink()

    def stop(result):
        groups.append(result)
        if len(groups) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe.sweep(problem.train, problem.test, each=stop, **arguments)
    assert b"not run" in out.read_bytes()
    probe.sweep(problem.train, problem.test, resume=True, **arguments)
    assert out.read_bytes() == complete


def test_more_features_than_rows():
    problem = clusters(40, 30, 90, 3)
    result = probe.sweep(
        problem.train,
        problem.test,
        fractions=[0.1, 0.7],
        mode=["random", "pca"],
        solver="ridge",
        l2=0.1,
        device="cpu",
    )
    wide = probe.sweep(
        problem.train,
        problem.test,
        fractions=[0.7],
        mode="random-projection",
        solver="ridge",
        l2=0.1,
        device="cpu",
    )
    generator = torch.Generator().manual_seed(1)
    matrix = torch.cat([torch.randn((64, 90), generator=generator) for _ in range(2)])
    x, x_test = scaled(problem)
    z, z_test = ((rows @ (matrix[:62].T.double().numpy() / 90**0.5)) for rows in (x, x_test))
    expected = fresh("ridge", z, problem.y, 0.1)(z_test)
    assert relative(wide.weights(0).logits(problem.x_test), expected) < 1e-4
    assert result.table["status"].eq("ok").all()


def test_too_many_features_for_directions_name_the_modes_that_do_without():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 4000)).astype(np.float32), np.arange(30) % 3
    arguments = {"fractions": [0.01], "memory": "60MB", "solver": "ridge", "device": "cpu"}
    assert len(probe.sweep((x, y), (x, y), mode="random", **arguments)) == 2
    with pytest.raises(MemoryBudgetError, match="such as random or first"):
        probe.sweep((x, y), (x, y), mode="pca", **arguments)
    with pytest.raises(MemoryBudgetError, match="modes random, independent, first, last and ind"):
        probe.sweep((x, y), (x, y), mode="variance", **arguments)


@settings(max_examples=15, deadline=None)
@given(d=st.integers(2, 9), m=st.integers(1, 9), n=st.integers(12, 30), seed=st.integers(0, 99))
def test_moments_of_a_basis_are_those_of_projected_rows(d, m, n, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) * random.uniform(0.1, 3, d) + 2
    matrix = random.normal(size=(d, d))
    assert np.allclose(congruent(matrix @ matrix.T, x[:d].T), x[:d] @ (matrix @ matrix.T) @ x[:d].T)
    chain = Chain(
        np.arange(min(m, d)),
        (min(m, d),),
        (min(m, d) / d,),
        "r",
        seed,
        Basis("random-projection", seed),
    )
    y = np.arange(n) % 2
    fitted = probe.fit((x, y), [chain], solver="ridge", l2=0.3, device="cpu")
    raw = torch.randn((64, d), generator=torch.Generator().manual_seed(seed))[: min(m, d)]
    z = (x - x.mean(0)) / x.std(0) @ (raw.T.double().numpy() / d**0.5)
    expected = Ridge(alpha=n * 0.3).fit(z, np.eye(2)[y]).predict(z)
    assert relative(fitted.weights(0).logits(x), expected) < 1e-6


def test_lda_by_another_hand():
    problem = correlated()
    z, z_test = projected(problem, "pca", 1)
    model = LinearDiscriminantAnalysis(solver="lsqr").fit(z[:, :5], problem.y)
    result = probe.sweep(
        problem.train,
        problem.test,
        fractions=[5 / 16],
        mode="pca",
        solver="lda",
        l2=0.0,
        device="cpu",
    )
    assert result.table["accuracy"][0] == model.score(z_test[:, :5], problem.y_test)


def kernel_cka(a, b):
    """Linear CKA by its kernels of rows (N, N)."""
    n = len(a)
    centring = np.eye(n) - 1 / n
    kernels = [centring @ (rows @ rows.T) @ centring for rows in (a, b)]
    one, other = kernels
    return (one * other).sum() / np.sqrt((one * one).sum() * (other * other).sum())


@pytest.mark.parametrize("standardize", [True, False])
def test_the_column_cka_is_that_of_the_kernels(standardize, tmp_path):
    problem, out = correlated(), tmp_path / "r.csv"
    arguments = {
        "fractions": [0.1, 0.4, 0.8],
        "seeds": [3, 4],
        "mode": ["random", "independent", *PROJECTED],
        "solver": "ridge",
        "l2": [0.1, 1.0],
        "standardize": standardize,
        "device": "cpu",
        "cka": True,
        "out": out,
    }
    result = probe.sweep(problem.train, problem.test, **arguments)
    table, x = result.table, problem.x_test
    seen = scaled(problem, standardize)[1]
    for row in range(len(table)):
        mode, k, seed = table["mode"][row], table["k"][row], table["seed"][row]
        z, whole = x[:, result.weights(row).features], x
        if mode in PROJECTED and k < 16:
            kind = "pca" if mode == "pca-least" else mode
            vectors = found(
                problem, Basis(kind, seed if seed is not pd.NA else None), 16, standardize
            )
            # of what the probe sees, and of the layer in the same form
            z, whole = seen @ vectors[:, order_of(mode, 16)[:k]], seen
        assert table["cka"][row] == pytest.approx(kernel_cka(z, whole), abs=1e-9)
    assert list(table.columns[-4:]) == ["accuracy", "cka", "status", "options"]
    again = probe.sweep(problem.train, problem.test, resume=True, **arguments)
    assert np.array_equal(again.table["cka"], table["cka"])
    with pytest.raises(UsageError, match="cka=True"):
        probe.sweep(
            problem.train, problem.test, resume=True, **{**arguments, "cka": False, "seeds": [3, 4]}
        )


@pytest.mark.parametrize("mode", ["pca", "random-projection-orthogonal"])
def test_a_whole_orthonormal_basis_sees_the_whole_layer(mode):
    problem = correlated()
    x, x_test = (rows * np.logspace(-3, 3, 16) for rows in (problem.x, problem.x_test))
    table = probe.sweep(
        (x, problem.y),
        (x_test, problem.y_test),
        every_k=True,
        mode=mode,
        solver="ridge",
        l2=0.1,
        cka=True,
        device="cpu",
    ).table
    rising = table["cka"].to_numpy()
    assert rising[-2] > 0.98  # 15 of 16 directions
    assert rising[-1] == pytest.approx(1)
    # no scale of a feature decides about it, as none does about the probes
    plain = probe.sweep(
        problem.train,
        problem.test,
        every_k=True,
        mode=mode,
        solver="ridge",
        l2=0.1,
        cka=True,
        device="cpu",
    ).table
    assert rising == pytest.approx(plain["cka"].to_numpy(), abs=1e-6)


def test_cka_of_single_precision_and_of_a_raw_solver():
    problem = correlated(dtype=np.float32)
    arguments = {"fractions": [0.4], "mode": ["last", *PROJECTED], "cka": True, "device": "cpu"}
    single = probe.sweep(problem.train, problem.test, solver="lda", **arguments).table["cka"]
    double = probe.sweep(
        *((x.astype(np.float64), y) for x, y in (problem.train, problem.test)),
        solver="lda",
        **arguments,
    ).table["cka"]
    assert np.allclose(single, double, atol=1e-4)
    raw = probe.sweep(problem.train, problem.test, solver=probe.SGD(epochs=1), **arguments).table
    plain = probe.sweep(
        problem.train, problem.test, solver="ridge", standardize=False, **arguments
    ).table
    assert np.allclose(raw["cka"], plain["cka"], atol=1e-4)


def test_each_basis_is_made_once_for_probes_and_cka(monkeypatch):
    problem, made = correlated(), []
    for kind, make in list(subsets.KINDS.items()):
        counted = lambda basis, *args, make=make: made.append(basis) or make(basis, *args)  # noqa: E731
        monkeypatch.setitem(subsets.KINDS, kind, counted)
    arguments = {"fractions": [0.2, 0.7], "seeds": 2, "solver": "ridge", "l2": 0.1, "device": "cpu"}
    modes = [mode for mode in PROJECTED if mode != "pca-least"]
    probe.sweep(problem.train, problem.test, mode=modes, cka=True, **arguments)
    assert len(made) == len(set(made))


def test_a_root_gives_the_same_products_as_its_square():
    random = np.random.default_rng(0)
    root, found = np.tril(random.normal(size=(300, 300))), random.normal(size=(300, 40))
    answer = subsets.congruent(root @ root.T, found)
    ours = subsets.congruent_of_root(root, found)
    assert np.abs(ours - answer).max() <= 1e-13 * np.abs(answer).max()
    assert (ours == ours.T).all()


def test_cka_of_too_many_features_says_so():
    x, y = np.random.default_rng(0).normal(size=(30, 3000)).astype(np.float32), np.arange(30) % 3
    with pytest.raises(MemoryBudgetError, match="leave cka out"):
        probe.sweep(
            (x, y), (x, y), fractions=[0.01], solver="ridge", memory="60MB", cka=True, device="cpu"
        )


def test_columns_that_are_nearly_dependent_become_orthonormal():
    random = np.random.default_rng(0)
    apart = random.normal(size=(40, 30))
    near = apart.copy()
    near[:, 7] = near[:, 3] + 1e-6 * near[:, 7]
    equal = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 2.0], [0.0, 1e-9, 1.0]])
    for columns in (apart, near, equal):
        q = to_host(orthonormalised(torch.from_numpy(columns)))
        assert np.allclose(q.T @ q, np.eye(columns.shape[1]), atol=1e-9)
        triangle = q.T @ columns
        assert np.allclose(np.tril(triangle, -1), 0, atol=1e-8)
        assert (np.diagonal(triangle) > 0).all()

"""CKA from moments against kernels of rows, N x N, formed as the definitions have them."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from problems import relative

from featstore.probe.errors import DataError, UsageError
from featstore.probe.layers import cokurtosis
from featstore.probe.memory import Settings
from featstore.probe.moments import moments
from featstore.probe.rows import ArrayBlocks
from featstore.probe.similarity import (
    cka,
    cka_pair_table,
    cka_table,
    cka_to_full,
    debiased_pairwise_hsic,
    pairwise_hsic,
)
from featstore.probe.subsets import first_chain, random_chain, random_order, subset_chain


def drawn(n=40, d=17, dtype=np.float64, seed=0) -> np.ndarray:
    """Correlated features of several scales, off zero, one of them constant."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) @ random.normal(size=(d, d)) * random.uniform(0.2, 3, d) + 2
    x[:, 3] = 0.1
    return x.astype(dtype)


def matrices(x: np.ndarray, standardize=False, block_rows=7):
    blocks = ArrayBlocks(x, np.arange(len(x)) % 3, block_rows=block_rows)
    total = moments(blocks, Settings())
    fourth = cokurtosis(blocks, Settings(), total)
    return {
        "biased": pairwise_hsic(total, standardize),
        "debiased": debiased_pairwise_hsic(total, fourth, standardize),
    }


def hsic(x: np.ndarray, y: np.ndarray, kind: str) -> float:
    """HSIC of linear kernels, directly: tr(KHLH) / (N-1)^2, or Song et al.'s equation 5."""
    n, one = len(x), np.ones(len(x))
    k, l = x @ x.T, y @ y.T
    if kind == "biased":
        centre = np.eye(n) - 1 / n
        return np.trace(k @ centre @ l @ centre) / (n - 1) ** 2
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    value = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (value - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))


def direct(x, y, kind) -> float:
    return hsic(x, y, kind) / np.sqrt(hsic(x, x, kind) * hsic(y, y, kind))


SUBSETS = [np.array([0, 5, 2]), np.array([5, 1, 3]), np.arange(17), np.array([16])]


@pytest.mark.parametrize("kind", ["biased", "debiased"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cka_is_that_of_the_kernels(kind, dtype):
    x = drawn(dtype=dtype)
    found = cka(matrices(x)[kind], SUBSETS)
    x = x.astype(np.float64)
    wanted = np.array([[direct(x[:, s], x[:, t], kind) for t in SUBSETS] for s in SUBSETS])
    assert np.abs(found - wanted).max() <= (1e-12 if dtype == "float64" else 1e-5)
    assert np.allclose(np.diagonal(found), 1)
    assert (found == found.T).all()


@pytest.mark.parametrize("kind", ["biased", "debiased"])
def test_standardised_features(kind):
    x = drawn()
    scaled = x / np.where(np.arange(17) == 3, 1, x.std(0))
    found = cka(matrices(x, standardize=True)[kind], SUBSETS)
    assert found[0, 1] == pytest.approx(direct(scaled[:, SUBSETS[0]], scaled[:, [5, 1, 3]], kind))


def test_the_debiased_sum_is_the_unbiased_estimate_itself():
    x = drawn()
    pairs = matrices(x)["debiased"]
    for s, t in ((0, 1), (2, 2), (5, 16)):
        assert pairs[s, t] == pytest.approx(hsic(x[:, [s]], x[:, [t]], "debiased"), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(5, 30), d=st.integers(4, 12), m=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_prefix_is_the_subset_of_those_features(n, d, m, seed):
    x, m = drawn(n, d, seed=seed), min(m, d)
    first = random_order(d, seed)[:m]
    for kind, pairs in matrices(x).items():
        to_full = cka_to_full(pairs, first)
        for k in range(1, m + 1):
            wanted = cka(pairs, [first[:k], np.arange(d)])[0, 1]
            assert np.allclose(to_full[k - 1], wanted, equal_nan=True, atol=1e-7), kind


def test_the_whole_layer_is_like_itself_and_a_constant_like_nothing():
    pairs = matrices(drawn())
    for found in pairs.values():
        assert cka_to_full(found, random_order(17, 1))[-1] == pytest.approx(1, abs=1e-12)
        assert np.isnan(cka(found, [np.array([3]), np.array([0])])[0]).all()
        assert np.isnan(cka_to_full(found, np.array([3, 0]))).tolist() == [True, False]


def test_layers_side_by_side_are_subsets():
    """Kornblith et al.: invariant to rotation and isotropic scaling; debiased, 0 for noise."""
    random = np.random.default_rng(7)
    x, other = random.normal(size=(2, 60, 40))
    rotation = np.linalg.qr(random.normal(size=(40, 40)))[0]
    pairs = matrices(np.concatenate([x, 3 * x @ rotation, other], 1))
    layers = [np.arange(40), np.arange(40, 80), np.arange(80, 120)]
    biased, debiased = (cka(pairs[kind], layers) for kind in ("biased", "debiased"))
    assert biased[0, 1] == pytest.approx(1)
    assert debiased[0, 1] == pytest.approx(1)
    assert biased[0, 2] > 0.3
    assert abs(debiased[0, 2]) < 0.05


# by repsim 0.1.5, of the first with the others, and so on
BY_REPSIM = {
    "biased": [
        *(0.375378485924, 0.522741477312, 0.0561814516613),
        *(0.151121227732, 0.000827755671347, 0.256153325508),
    ],
    "debiased": [
        *(0.357299799137, 0.48618613259, 0.0206656948599),
        *(0.11450749296, -0.0342803614283, 0.216968716309),
    ],
}


@pytest.mark.parametrize("kind", BY_REPSIM)
def test_it_is_what_repsim_gave(kind):
    found = cka(matrices(drawn())[kind], SUBSETS)
    assert found[np.triu_indices(4, 1)] == pytest.approx(BY_REPSIM[kind], abs=1e-11)


@pytest.mark.parametrize(("kind", "theirs"), [("biased", "gretton"), ("debiased", "song")])
def test_it_is_the_cka_of_repsim(kind, theirs):
    """Against a package of others, where somebody has installed it: it is built from C++.

    Its `cka` divides the unbiased HSIC by biased ones (0.1.5), so that its `hsic` is taken.
    """
    repsim = pytest.importorskip("repsim")
    x = drawn()
    found = cka(matrices(x)[kind], SUBSETS)
    pairs = repsim.hsic([x[:, own] for own in SUBSETS], kernel_type="linear", estimator=theirs)
    norms = np.sqrt(np.diagonal(pairs))
    assert np.allclose(found, pairs / np.outer(norms, norms), atol=1e-10)


def test_tables_of_chains():
    x = drawn()
    pairs = matrices(x)["biased"]
    chains = [random_chain(17, [0.25, 0.5], seed) for seed in (1, 2, 3)]
    chains += [first_chain(17, [0.25, 1.0]), subset_chain([4, 2], 17)]
    to_full = cka_table(pairs, chains)
    assert to_full.columns.tolist() == ["mode", "seed", "fraction", "k", "cka"]
    assert to_full["k"].tolist() == [4, 8, 4, 8, 4, 8, 4, 17, 2]
    assert to_full["cka"][3] == pytest.approx(direct(x[:, chains[1].order[:8]], x, "biased"))
    assert to_full["seed"].isna().tolist() == [False] * 6 + [True] * 3
    each_other = cka_pair_table(pairs, chains)
    assert each_other[["seed", "other_seed", "k"]].to_numpy().tolist() == [
        [1, 2, 4],
        [1, 2, 8],
        [1, 3, 4],
        [1, 3, 8],
        [2, 3, 4],
        [2, 3, 8],
    ]
    subsets = [x[:, chain.order[:8]] for chain in chains[1:3]]
    assert each_other["cka"].iloc[-1] == pytest.approx(direct(*subsets, "biased"))
    assert cka_pair_table(pairs, chains[:1]).empty


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_cokurtosis_is_its_definition(dtype):
    x = drawn(60, 9, dtype)
    blocks = ArrayBlocks(x, np.zeros(60, int), block_rows=13)
    found = cokurtosis(blocks, Settings(), moments(blocks, Settings()))
    x = x.astype(np.float64)
    z = (x - x.mean(0)) / np.where(np.arange(9) == 3, np.inf, x.std(0))
    limit = 1e-12 if dtype == "float64" else 2e-6
    assert relative(found, (z**2).T @ (z**2) / 60) <= limit
    assert (found == found.T).all()


def test_targets_do_for_labels():
    x = drawn(30, 6)
    blocks = ArrayBlocks(x, np.linspace(0, 1, 30))
    of_classes = ArrayBlocks(x, np.zeros(30, int))
    total = moments(blocks, Settings())
    assert (
        cokurtosis(blocks, Settings(), total)
        == cokurtosis(of_classes, Settings(), moments(of_classes, Settings()))
    ).all()


def test_what_cannot_be_compared_is_refused():
    few = ArrayBlocks(drawn(3, 5), [0, 1, 0])
    total = moments(few, Settings())
    with pytest.raises(DataError, match="3 rows are too few for debiased CKA: at least 4"):
        debiased_pairwise_hsic(total, cokurtosis(few, Settings(), total))
    with pytest.raises(DataError, match="4 rows of 5 features but moments of 3 rows of 5"):
        cokurtosis(ArrayBlocks(drawn(4, 5), [0, 1, 0, 1]), Settings(), total)
    with pytest.raises(UsageError, match=r"have sizes \(1,\) and \(2,\)"):
        cka_pair_table(np.eye(5), [random_chain(5, [0.2], 1), random_chain(5, [0.4], 2)])
    with pytest.raises(UsageError, match="the layer has features 0 to 4"):
        cka_table(np.eye(5), [random_chain(9, [1.0], 1)])

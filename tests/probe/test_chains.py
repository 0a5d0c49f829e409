import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from featstore.probe.errors import UsageError
from featstore.probe.subsets import (
    Axes,
    Chain,
    Given,
    check_chains,
    check_seeds,
    first_chain,
    numbers_of,
    ordered_chain,
    random_chain,
    random_order,
    sizes,
    smallest_fraction,
    subset_chain,
)


@pytest.mark.parametrize(
    ("seed", "start"), [(1, [37, 88, 258, 104, 307]), (2, [168, 9, 67, 159, 62])]
)
def test_random_orders_are_the_published_ones(seed, start):
    assert random_order(384, seed)[:5].tolist() == start


def test_every_fraction_of_a_seed_is_the_published_draw():
    chain = random_chain(384, [0.5, 0.01, 0.1], seed=7)
    assert chain.fractions == (0.01, 0.1, 0.5)
    for prefix, fraction in enumerate(chain.fractions):
        drawn = torch.randperm(384, generator=torch.Generator().manual_seed(7))
        assert chain.features(prefix).tolist() == drawn[: int(fraction * 384)].tolist()


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    random_order(100, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_are_rounded_down_as_published():
    assert sizes(100, [0.29, 0.57, 1.0]) == (28, 56, 100)  # 0.29 * 100 < 29


def test_two_fractions_may_take_as_many_features():
    assert random_chain(10, [0.11, 0.12], seed=1).sizes == (1, 1)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.0001, 5, float("nan"), float("inf")])
def test_fractions_outside_the_unit_interval_are_refused(fraction):
    with pytest.raises(UsageError, match=f"fraction {fraction} is outside"):
        sizes(10, [0.5, fraction])


def test_repeated_and_missing_fractions_are_refused():
    with pytest.raises(UsageError, match=r"fraction 0.5 is given twice"):
        sizes(10, [0.5, 0.1, 0.5])
    with pytest.raises(UsageError, match="no fraction"):
        sizes(10, [])


def test_no_feature_is_an_error_that_names_the_smallest_fraction():
    with pytest.raises(UsageError, match=r"0\.0005 of 384 .* is 0\.002605$"):
        sizes(384, [0.1, 0.0005])


@given(st.integers(1, 100_000))
def test_the_smallest_fraction_takes_a_feature_and_hardly_more(n_features):
    fraction = smallest_fraction(n_features)
    assert int(fraction * n_features) == 1
    assert fraction <= 1.002 / n_features
    assert float(f"{fraction:.4g}") == fraction


def test_other_chains():
    assert first_chain(10, [0.2, 1]).features(0).tolist() == [0, 1]
    assert ordered_chain([3, 1, 2, 0], [0.5]).features(0).tolist() == [3, 1]
    chain = subset_chain([5, 2], 8)
    assert (chain.sizes, chain.fractions, chain.mode) == ((2,), (0.25,), "explicit")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: subset_chain([], 4), "non-empty"),
        (lambda: subset_chain([0.5], 4), "integer"),
        (lambda: subset_chain([1, 1], 4), "twice"),
        (lambda: subset_chain([4], 4), "feature 4 of 4: they are 0 to 3"),
        (lambda: subset_chain([-1], 4), "-1"),
        (lambda: Chain(np.arange(4), (3, 2), (0.5, 0.6), "explicit"), "sizes rise"),
        (lambda: Chain(np.arange(4), (5,), (1.0,), "explicit"), "sizes rise"),
        (lambda: Chain(np.arange(4), (0, 2), (0.1, 0.5), "explicit"), "sizes rise"),
        (lambda: Chain(np.arange(4), (1, 2), (0.5,), "explicit"), "1 fractions"),
        (lambda: check_chains([first_chain(9, [1])], 8), "feature 8, but .* 0 to 7"),
    ],
)
def test_chains_that_cannot_be(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_axes_number_probes_by_chain_then_penalty_then_prefix():
    axes = Axes((random_chain(10, [0.1, 0.5], 1), subset_chain([3, 4, 5], 10)), (0.1, 1.0, 2.0))
    assert len(axes) == 9
    found = list(zip(axes.chain, axes.penalty, axes.prefix, axes.size, strict=True))
    assert found[:4] == [(0, 0, 0, 1), (0, 0, 1, 5), (0, 1, 0, 1), (0, 1, 1, 5)]
    assert found[6:] == [(1, 0, 0, 3), (1, 1, 0, 3), (1, 2, 0, 3)]
    for chain in (0, 1):
        for penalty in range(3):
            for probe in axes.prefixes(chain, penalty):
                assert (axes.chain[probe], axes.penalty[probe]) == (chain, penalty)
    assert axes.features(8).tolist() == [3, 4, 5]
    position = np.array([2, 0, 1])
    wanted = [axes.prefixes(0, 2)[0], axes.prefixes(0, 0)[1], axes.prefixes(1, 1)[0]]
    assert numbers_of(axes.chains, 3, position).tolist() == wanted
    assert numbers_of(axes.chains, 3, np.array(1)).tolist() == [2, 3, 7]


def test_a_matrix_that_is_given_is_known_by_its_digest():
    matrix = np.eye(3)[:, :2]
    given, other = Given.of(matrix), Given.of(matrix.copy())
    assert given == other
    assert hash(given) == hash(other)
    assert "matrix" not in repr(given)
    assert given != Given.of(2 * matrix)
    assert given != Given.of(matrix.reshape(2, 3))


def test_seeds_are_integers_of_64_bits():
    least, most = -(2**63), 2**63 - 1
    assert check_seeds([least, most]) == [least, most]
    for seed in (least - 1, most + 1):
        with pytest.raises(UsageError, match=f"seed {seed} does not fit in 64 bits"):
            check_seeds([seed])

"""The bootstrap: what is drawn, and how often its intervals hold what they should."""

import numpy as np
import pytest

from probe.bootstrap import draws, interval, widened
from probe.errors import UsageError


def test_draws_are_multinomial():
    counts = draws(5, 20_000, np.random.default_rng(1))
    assert counts.shape == (20_000, 5)
    assert (counts.sum(1) == 5).all()
    assert np.allclose(counts.mean(0), 1, atol=0.03)
    # Var = 1 - 1/n, Cov = -1/n
    assert np.allclose(np.cov(counts.T), np.eye(5) - 0.2, atol=0.03)
    assert (draws(5, 7, np.random.default_rng(2)) == draws(5, 7, np.random.default_rng(2))).all()


@pytest.mark.parametrize(("n_units", "plain_ones"), [(5, 0.78), (20, 0.88)])
def test_intervals_of_a_mean_hold_it_as_often_as_they_say(n_units, plain_ones):
    random = np.random.default_rng(n_units)
    samples = random.normal(size=(600, n_units))
    replicates = draws(n_units, 1000, random) @ samples.T / n_units
    wide = widened(replicates, samples.mean(1), n_units, 0.9)
    # the standard error of a coverage over 600 samples is 0.012
    for means, wanted in ((wide, 0.9), (replicates, plain_ones)):
        low, high = interval(means, 0.9)
        assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(wanted, abs=0.035)


def test_many_units_are_hardly_widened():
    replicates = np.arange(5.0)[:, None]
    assert np.allclose(widened(replicates, np.array([2.0]), 10**6, 0.95), replicates, atol=1e-4)
    # Student's 2.776 over the normal's 1.960, and n - 1 for n
    wide = widened(replicates, np.array([2.0]), 5, 0.95)
    assert wide[-1] - 2 == pytest.approx(2 * 2.77645 / 1.95996 * np.sqrt(1.25), rel=1e-5)


def test_percentiles_are_the_replicates_next_outwards():
    low, high = interval(np.random.default_rng(0).permutation(1001)[:, None], 0.95)
    assert (low, high) == (25, 975)
    assert interval(np.arange(10.0), 0.9) == (0, 9)


def test_missing_replicates_are_left_out():
    low, high = interval(np.array([[3.0], [np.nan], [1.0]]), 0.95)
    assert (low[0], high[0]) == (1, 3)
    assert np.isnan(interval(np.full((4, 2), np.nan), 0.95)).all()


def test_one_unit_has_no_interval_and_levels_are_coverages():
    assert np.isnan(widened(np.ones((4, 2)), np.ones(2), 1, 0.95)).all()
    with pytest.raises(UsageError, match=r"level 95 is outside \(0, 1\)"):
        interval(np.ones((4, 2)), 95)
    with pytest.raises(UsageError, match="0 resamples draw nothing"):
        draws(4, 0, np.random.default_rng(0))

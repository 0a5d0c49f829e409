"""The spectrum and the repetition of features against numpy on the raw rows."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from problems import PRECISIONS, PROBLEMS

from featstore.probe.layers import Spectrum, spectrum_of
from featstore.probe.memory import Settings
from featstore.probe.moments import moments
from featstore.probe.rows import ArrayBlocks


def of(x: np.ndarray, standardize=True) -> Spectrum:
    return spectrum_of(moments(ArrayBlocks(x, np.arange(len(x)) % 2), Settings()), standardize)


def singular_values(x: np.ndarray, standardize: bool) -> np.ndarray:
    x = x.astype(np.float64)
    constant = (x == x[0]).all(0)
    centred = np.where(constant, 0, x - x.mean(0))
    if standardize:
        centred /= np.where(constant, 1, x.std(0))
    sigma = np.linalg.svd(centred, compute_uv=False)
    return np.pad(sigma, (0, max(0, x.shape[1] - len(sigma))))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(
    "name", ["tall", "wide", "duplicated features", "constant features", "mixed scales"]
)
def test_the_spectrum_is_that_of_the_rows(name, standardize, precision):
    x = PROBLEMS[name]().x.astype(precision)
    found, sigma = of(x, standardize), singular_values(x, standardize)
    wanted = sigma**2 / len(x)
    exact = precision == "float64"
    assert np.allclose(
        found.eigenvalues, wanted, rtol=0, atol=wanted[0] * (1e-13 if exact else 2e-6)
    )
    shares = sigma[sigma > 1e-9 * sigma[0]] / sigma.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    limit = 1e-6 if exact else 1e-2
    assert found.effective_rank == pytest.approx(rank, rel=limit)
    ratio = wanted.sum() ** 2 / (wanted**2).sum()
    assert found.participation_ratio == pytest.approx(ratio, rel=1e-12 if exact else 1e-5)
    held = np.cumsum(wanted) / wanted.sum()
    assert found.components(0.9) == (held < 0.9).sum() + 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_directions_that_rounding_makes_do_not_count(precision):
    """128 features made of 5: the rest of the spectrum is rounding, whose roots would add up."""
    random = np.random.default_rng(0)
    x = random.normal(size=(3000, 5)) @ np.linalg.qr(random.normal(size=(128, 5)))[0].T
    found = of(x.astype(precision), standardize=False)
    assert (found.eigenvalues > 0).sum() == 5
    assert found.effective_rank == pytest.approx(5, rel=0.01)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 40), d=st.integers(2, 12), seed=st.integers(0, 999))
def test_mean_absolute_correlation_is_that_of_the_rows(n, d, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) @ random.normal(size=(d, d))
    off = np.corrcoef(x.T)[~np.eye(d, dtype=bool)]
    assert of(x).correlation == pytest.approx(np.abs(off).mean(), rel=1e-9)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_dead_features_and_duplicates_are_named(precision):
    random = np.random.default_rng(1)
    x = random.normal(size=(400, 8))
    x[:, 2] = 0.3
    x[:, 4] = x[:, 1]
    x[:, 5] = 7 - 2 * x[:, 1]
    x[:, 6] = 0.0
    x[:, 7] = x[:, 0] + 0.05 * x[:, 3]
    found = of(x.astype(precision))
    assert found.dead.tolist() == [2, 6]
    assert found.duplicates.tolist() == [[4, 1], [5, 1]]
    live = np.abs(np.corrcoef(x[:, [0, 1, 3, 4, 5, 7]].T))
    assert found.correlation == pytest.approx((live.sum() - 6) / 30, rel=1e-4)
    assert found.numbers["features"] == 8
    assert found.numbers["dead"] == found.numbers["duplicates"] == 2


def test_known_spectra():
    # an orthogonal design: every direction counts the same
    x = np.kron(np.eye(8), [[1.0], [-1.0]])
    for standardize in (True, False):
        found = of(x, standardize)
        assert found.effective_rank == pytest.approx(8)
        assert found.participation_ratio == pytest.approx(8)
        assert found.correlation == pytest.approx(0, abs=1e-12)
        assert (found.components(0.5), found.components(1)) == (4, 8)
    # singular values 3 and 1: p = 3/4, 1/4
    two = of(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]), standardize=False)
    assert two.effective_rank == pytest.approx(4 / 3**0.75)
    assert two.participation_ratio == pytest.approx(100 / 82)


def test_scaling_changes_the_raw_spectrum_alone():
    x = PROBLEMS["tall"]().x.astype(np.float64)
    stretched = x * np.logspace(0, 2, x.shape[1])
    assert of(stretched).effective_rank == pytest.approx(of(x).effective_rank)
    assert of(stretched, False).effective_rank < 0.7 * of(x, False).effective_rank


def test_a_layer_that_never_changes():
    found = of(np.ones((5, 3)))
    assert found.numbers == pytest.approx(
        {
            "features": 3,
            "effective_rank": 0,
            "participation_ratio": 0,
            "components_90": 0,
            "components_99": 0,
            "mean_abs_correlation": float("nan"),
            "dead": 3,
            "duplicates": 0,
            "isoscore": float("nan"),
            "outliers": 0,
        },
        nan_ok=True,
    )

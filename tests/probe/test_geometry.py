"""Geometry of layers against manifolds of known dimension, whole matrices and refits."""

import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from featstore.probe.errors import DataError, MemoryBudgetError, UsageError
from featstore.probe.geometry import (
    calibrated_cka,
    intrinsic_dimension,
    mutual_neighbours,
    subset_spectra,
    universality,
)
from featstore.probe.subsets import random_order


def rows(x):
    return x, np.zeros(len(x), int)


def by_hand(x, k):
    """TwoNN and maximum likelihood from distances by scikit-learn."""
    distances = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, 1:]
    mu = np.sort(distances[:, 1] / distances[:, 0])
    kept = int(0.9 * len(mu))
    x_, y_ = np.log(mu[:kept]), -np.log(1 - np.arange(1, kept + 1) / len(mu))
    two = np.linalg.lstsq(x_[:, None], y_, rcond=None)[0][0]
    local = [1 / np.mean(np.log(d[-1] / d[:-1])) for d in distances]
    return two, 1 / np.mean(1 / np.array(local))


@pytest.mark.parametrize("standardize", [True, False])
def test_dimensions_of_every_prefix_are_those_of_distances(standardize):
    x = np.random.default_rng(0).normal(size=(300, 16)) * np.linspace(1, 4, 16)
    how = {"neighbours": 7, "standardize": standardize, "memory": 10_000_000}
    table = intrinsic_dimension(rows(x), [0.25, 0.5], [1, 3], **how)
    assert table["k"].tolist() == [4, 8, 4, 8, 16]
    z = x / x.std(0) if standardize else x
    for row in table.itertuples():
        columns = np.arange(16) if row.k == 16 else random_order(16, row.seed)[: row.k]
        wanted = by_hand(z[:, columns], 7)
        assert (row.two_nn, row.likelihood) == pytest.approx(wanted, rel=1e-9)


def test_dimensions_of_known_manifolds():
    random = np.random.default_rng(1)
    angles = random.uniform(0, 2 * np.pi, (3000, 2))
    torus = np.concatenate([np.cos(angles), np.sin(angles)], 1) @ random.normal(size=(4, 30))
    found = intrinsic_dimension(rows(torus.astype(np.float32)), standardize=False).iloc[0]
    assert found[["two_nn", "likelihood"]].tolist() == pytest.approx([2, 2], rel=0.1)
    # rows that are there twice are at no distance
    twice = intrinsic_dimension(rows(np.concatenate([torus, torus[:100]])), neighbours=20)
    assert twice["rows"].tolist() == [2900]
    assert twice["two_nn"][0] == pytest.approx(2, rel=0.1)
    assert np.isnan(intrinsic_dimension(rows(np.ones((9, 3))), neighbours=2)["two_nn"][0])


def test_rows_of_a_grid_have_no_second_distance():
    found = intrinsic_dimension(rows(np.linspace(0, 1, 50)[:, None]), neighbours=5)
    assert np.isnan(found["two_nn"][0])


def test_mutual_neighbours_are_those_of_lists():
    random = np.random.default_rng(2)
    x = random.normal(size=(120, 12)).astype(np.float32)
    y = (x @ random.normal(size=(12, 9)) + random.normal(size=(120, 9))).astype(np.float32)
    table = mutual_neighbours(
        {"a": rows(x), "b": rows(y)}, [0.5], [1, 2], k=5, metric="euclidean"
    ).set_index(["name", "other", "fraction"])

    def lists(z):
        return NearestNeighbors(n_neighbors=6).fit(z).kneighbors(z)[1][:, 1:]

    def shared(one, other):
        return np.mean([len({*a} & {*b}) / 5 for a, b in zip(one, other, strict=True)])

    assert table.loc[("a", "b", 1.0), "mutual"].item() == pytest.approx(shared(lists(x), lists(y)))
    of_seed = table.loc[("a", "a", 0.5)]
    for seed, found in zip(of_seed["seed"], of_seed["mutual"], strict=True):
        part = x[:, random_order(12, seed)[:6]]
        assert found == pytest.approx(shared(lists(part), lists(x)))
    assert set(table["chance"]) == {5 / 119}
    none = mutual_neighbours(
        {"a": rows(x), "b": rows(random.normal(size=(120, 30)))}, k=5, metric="euclidean"
    )
    assert none["mutual"][0] == pytest.approx(5 / 119, abs=0.03)


def cka_by_rows(x, y):
    """Tr(KHLH) / sqrt(tr(KHKH) tr(LHLH)), by N x N matrices."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = (centre @ z @ z.T @ centre for z in (x, y))
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def test_cka_by_chance_is_that_of_shuffled_rows():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(60, 40)), random.normal(size=(60, 30))
    found = calibrated_cka(rows(x), rows(y), permutations=99)
    assert found.value == pytest.approx(cka_by_rows(x, y))
    shuffled = [cka_by_rows(x, y[random.permutation(60)]) for _ in range(400)]
    assert found.expected == pytest.approx(np.mean(shuffled), abs=5 * np.std(shuffled) / 20)
    assert found.expected > 0.3
    assert abs(found.calibrated) < 0.1
    assert found.p > 0.01
    # SciPy scales the second of both, and takes as many columns of each
    left = procrustes(x, np.pad(y, ((0, 0), (0, 10))))[2]
    assert found.procrustes == pytest.approx(np.sqrt(1 - left))
    alike = calibrated_cka(rows(x), rows(x @ random.normal(size=(40, 40))), permutations=99)
    assert alike.p == 0.01
    assert alike.calibrated > 0.3
    assert calibrated_cka(rows(x), rows(5 * x + 3), permutations=9).calibrated == pytest.approx(1)
    turned = np.linalg.qr(random.normal(size=(40, 40)))[0]
    whole = calibrated_cka(rows(x), rows(3 * x @ turned), permutations=1)
    assert whole.procrustes == pytest.approx(1)
    narrow = calibrated_cka(rows(x.astype("f4")), rows(y.astype("f4")), permutations=9)
    assert narrow.value == pytest.approx(found.value, rel=1e-5)


def test_p_values_of_shuffles_are_uniform_where_rows_say_nothing():
    random = np.random.default_rng(4)
    found = [
        calibrated_cka(
            rows(random.normal(size=(30, 8))),
            rows(random.normal(size=(30, 8))),
            permutations=19,
            seed=seed,
        ).p
        for seed in range(200)
    ]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(found) == pytest.approx(0.525, abs=0.07)


def test_r2_of_every_feature_is_that_of_refits():
    random = np.random.default_rng(5)
    x, x_test = random.normal(size=(400, 10)), random.normal(size=(300, 10)) + 0.1
    mix = random.normal(size=(10, 6)) * np.linspace(0, 1, 6)
    y, y_test = (
        (z @ mix + random.normal(size=(len(z), 6))) * np.array([1, 5, 0.1, 1, 1, 1]) + 7
        for z in (x, x_test)
    )
    found = universality((rows(y), rows(x)), (rows(y_test), rows(x_test)), l2=0.3)
    scale, mean = x.std(0), x.mean(0)
    for j in range(6):
        target = y[:, j] / y[:, j].std()
        model = Ridge(alpha=400 * 0.3).fit((x - mean) / scale, target)
        predicted = model.predict((x_test - mean) / scale)
        wanted = y_test[:, j] / y[:, j].std()
        r2 = 1 - ((wanted - predicted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum()
        assert found["r2"][j] == pytest.approx(r2, abs=1e-5)
    assert found["rank"].tolist() == (1 + np.argsort(np.argsort(-found["r2"]))).tolist()


@pytest.mark.parametrize("width", [30, 120])
def test_the_penalty_is_the_one_of_least_cross_validation(width):
    """With more features than rows the smallest penalty leaves nothing of rows or of freedom."""
    random = np.random.default_rng(6)
    x = random.normal(size=(80, width))
    y = x[:, :3] @ random.normal(size=(3, 5)) + 3 * random.normal(size=(80, 5))
    y[:, 4] = 2.0
    found = universality((rows(y), rows(x)))
    z, t = (x - x.mean(0)) / x.std(0), (y[:, :4] - y[:, :4].mean(0)) / y[:, :4].std(0)

    def gcv(l2):
        hat = z @ np.linalg.solve(z.T @ z + 80 * l2 * np.eye(width), z.T) + 1 / 80
        return ((t - hat @ t) ** 2).mean(0) / (1 - np.trace(hat) / 80) ** 2

    l2 = found["l2"][0]
    assert found["r2"][:4].tolist() == pytest.approx((1 - gcv(l2)).tolist(), abs=1e-5)
    assert gcv(l2).mean() <= min(gcv(l2 * 3.16).mean(), gcv(l2 / 3.16).mean()) + 1e-9
    assert np.isnan(found["r2"][4])
    assert found["rank"][4] == 5
    assert found["r2"][:4].max() < 0.8


def test_what_has_no_prediction_has_no_r2():
    x, dead = np.random.default_rng(1).normal(size=(40, 6)), np.ones((40, 3))
    assert universality((rows(dead), rows(x)))["r2"].isna().all()
    # by the mean of the other rows alone
    assert universality((rows(x), rows(dead)))["r2"].to_numpy() == pytest.approx(1 - (40 / 39) ** 2)


def test_what_cannot_be_compared_is_refused():
    x, y = np.random.default_rng(0).normal(size=(2, 20, 4))
    with pytest.raises(UsageError, match="neighbours is 20: give 2 to 19"):
        intrinsic_dimension(rows(x), neighbours=20)
    with pytest.raises(UsageError, match="k is 20: give 1 to 19"):
        mutual_neighbours({"a": rows(x)}, k=20)
    with pytest.raises(UsageError, match="metric is 'l1': choose cosine or euclidean"):
        mutual_neighbours({"a": rows(x)}, k=2, metric="l1")
    with pytest.raises(UsageError, match="no layer is given"):
        mutual_neighbours({})
    for l2 in (-1.0, 0.0, np.nan):
        with pytest.raises(UsageError, match="give a number above 0"):
            universality((rows(x), rows(y)), l2=l2)
    with pytest.raises(DataError, match="4 and 4 features in train and of 2 and 4 in test"):
        universality((rows(x), rows(y)), (rows(x[:, :2]), rows(y)))
    with pytest.raises(DataError, match=r"layers of \[10, 20\] rows"):
        mutual_neighbours({"a": rows(x), "b": rows(y[:10])}, k=2)
    with pytest.raises(DataError, match="layers of 20 and 10 rows"):
        calibrated_cka(rows(x), rows(y[:10]))
    with pytest.raises(DataError, match="never changes"):
        calibrated_cka(rows(x), rows(np.ones((20, 3))))
    with pytest.raises(UsageError, match="permutations is 0"):
        calibrated_cka(rows(x), rows(y), permutations=0)
    with pytest.raises(MemoryBudgetError, match="both layers"):
        calibrated_cka(rows(x), rows(y), memory=1000)
    with pytest.raises(MemoryBudgetError, match="8 features of both layers"):
        universality((rows(x), rows(y)), memory=1000)


def test_isoscore_and_outliers_of_known_layers():
    random = np.random.default_rng(7)
    even = np.linalg.qr(random.normal(size=(400, 10)) - 0.0)[0]
    even = (even - even.mean(0)) @ np.linalg.inv(
        np.linalg.cholesky(np.cov(even.T, ddof=0)).T
    )  # white
    table = subset_spectra(rows(even), [0.5], [1, 2])
    assert table["isoscore"].tolist() == pytest.approx([1] * 3, abs=1e-4)
    assert table["effective_rank"].tolist() == pytest.approx([5, 5, 10], rel=1e-4)
    line = random.normal(size=(400, 1)) @ random.normal(size=(1, 10))
    one = subset_spectra(rows(line)).iloc[0]
    assert one["isoscore"] == pytest.approx(0, abs=1e-4)
    large = even * np.array([1.0] * 9 + [100])
    assert subset_spectra(rows(large)).iloc[0]["outliers"] == 1
    assert subset_spectra(rows(even)).iloc[0]["outliers"] == 0
    assert subset_spectra(rows(np.ones((9, 4)))).iloc[0]["outliers"] == 0

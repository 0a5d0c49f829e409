import numpy as np
import pytest
from hypothesis import given, strategies as st
from problems import BACKENDS, PROBLEMS, clusters

from featstore.probe.arrays import backend as backend_of
from featstore.probe.errors import UsageError
from featstore.probe.memory import Settings
from featstore.probe.moments import Remembered, moments
from featstore.probe.rows import ArrayBlocks, RowBlocks
from featstore.probe.splits import RowSubset


@given(st.integers(1, 60), st.integers(1, 70), st.data())
def test_a_subset_is_what_indexing_gives(n, block_rows, data):
    wanted = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True).map(sorted))
    x = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
    y = np.arange(n) % 4
    subset = RowSubset(ArrayBlocks(x, y, 4, block_rows=block_rows), np.array(wanted))
    assert isinstance(subset, RowBlocks)
    for _ in range(2):
        blocks = list(subset)
        assert all(0 < len(labels) <= subset.block_rows for _, labels in blocks)
        assert (np.concatenate([rows for rows, _ in blocks]) == x[wanted]).all()
        assert (np.concatenate([labels for _, labels in blocks]) == y[wanted]).all()
    assert (subset.labels() == y[wanted]).all()
    assert (subset.n_rows, subset.n_features, subset.n_classes) == (len(wanted), 3, 4)


@pytest.mark.parametrize("rows", [[], [2, 1], [1, 1], [-1, 0], [0, 5]])
def test_rows_that_are_no_subset(rows):
    with pytest.raises(UsageError, match="no subset of 5 rows"):
        RowSubset(ArrayBlocks(np.zeros((5, 2)), np.zeros(5, int)), np.array(rows, int))


def test_other_rows_have_another_fingerprint():
    blocks = ArrayBlocks(np.zeros((5, 2)), np.zeros(5, int), fingerprint="f")
    prints = [RowSubset(blocks, np.array(rows)).fingerprint for rows in ([0, 1], [0, 2], [0, 1])]
    assert prints[0] == prints[2] != prints[1]
    unnamed = ArrayBlocks(np.zeros((5, 2)), np.zeros(5, int))
    assert RowSubset(unnamed, np.array([0])).fingerprint is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "1000 classes"])
def test_moments_of_the_remainder_by_subtraction_are_its_own(name, backend):
    problem = PROBLEMS[name]()
    settings = Settings(backend=backend_of(backend, "auto"))
    train = Remembered(ArrayBlocks(*problem.train))
    ((remainder, held_out),) = train.parts(0.2, 0)
    found, own = remainder.moments(settings), moments(remainder, settings)
    assert remainder.n_rows + held_out.n_rows == train.n_rows
    assert (found.counts == own.counts).all()
    assert np.allclose(found.mean, own.mean, atol=1e-5)
    assert np.allclose(found.scale(), own.scale(), rtol=1e-3)
    assert np.allclose(found.covariance(), own.covariance(), atol=1e-4)
    assert np.allclose(found.cross(), own.cross(), atol=1e-4)


def test_a_feature_that_changes_only_where_rows_are_held_out_is_constant_in_the_remainder():
    problem = clusters(400, 10, 6, 3)
    settings = Settings(backend=backend_of("torch", "cpu"))
    ((_, held_out),) = Remembered(ArrayBlocks(*problem.train)).parts(0.1, 0)
    x = problem.x.copy()
    x[:, 2] = 0.1
    x[held_out._rows, 2] = np.random.default_rng(0).normal(size=held_out.n_rows)
    ((remainder, _),) = Remembered(ArrayBlocks(x, problem.y)).parts(0.1, 0)
    found = remainder.moments(settings)
    assert (found.variance == 0).tolist() == [False, False, True, False, False, False]
    assert found.scale()[2] == 1
    assert not found.covariance()[2].any()


def test_rows_are_read_once_for_the_moments_and_the_parts_once_drawn():
    passes = []

    class Counted(ArrayBlocks):
        def __iter__(self):
            passes.append(self)
            return super().__iter__()

        def part(self, start, stop):
            passes.append(self)
            return super().part(start, stop)

    train = Remembered(Counted(*clusters(100, 10, 6, 3).train))
    settings = Settings(backend=backend_of("torch", "cpu"))
    for _ in range(2):
        train.parts(0.1, 0)[0][0].moments(settings)
    # the first block is read for the shift, then all, for the whole and for the held-out part
    assert len(passes) == 4
    assert train.parts(0.1, 0)[0][0] is train.parts(0.1, 0)[0][0]
    assert train.parts(0.1, 0)[0][0] is not train.parts(0.1, 1)[0][0]

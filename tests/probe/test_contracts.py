"""Contracts: rows of others are completed, and what solvers return and fill is of its class."""

import numpy as np
import pytest

from featstore import probe
from featstore.probe.metrics import LogitSink, Scores
from featstore.probe.rows import ArrayBlocks, LabelledRows, as_blocks
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.solvers.weights import Fitted
from featstore.probe.splits import RowRange

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((90, 7)).astype(np.float32)
Y = np.arange(90) % 3
X[:, :3] += 2 * np.eye(3, dtype=np.float32)[Y]


class Least:
    """The least that rows of others have; it counts the blocks that were read."""

    n_rows, n_features, n_classes, block_rows, fingerprint = 90, 7, 3, 20, None

    def __init__(self):
        self.read = 0

    def __iter__(self):
        for start in range(0, 90, 20):
            self.read += 1
            yield X[start : start + 20], Y[start : start + 20]

    def labels(self):
        return Y


class More(Least):
    """Rows with a part of their own, names of classes and three views."""

    n_views, classes = 3, ("a", "b", "c")

    def part(self, start, stop):
        yield X[start:stop], Y[start:stop]


def test_what_others_leave_out_has_a_default():
    rows = as_blocks(Least())
    assert isinstance(rows, LabelledRows)
    assert (rows.n_views, rows.classes, rows.validation, rows.start) == (1, (), None, 0)
    assert rows.columns is None
    assert as_blocks(rows) is rows
    more = as_blocks(More())
    assert (more.n_views, more.classes) == (3, ("a", "b", "c"))


@pytest.mark.parametrize(("kind", "read"), [(Least, 3), (More, 0)])
def test_a_range_reads_no_further_than_its_end(kind, read):
    own = kind()
    blocks = list(RowRange(own, 15, 45))
    assert np.array_equal(np.concatenate([x for x, _ in blocks]), X[15:45])
    assert np.array_equal(np.concatenate([y for _, y in blocks]), Y[15:45])
    assert own.read == read


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_of_others_are_probed_as_arrays_are(solver):
    chosen = probe.SGD(epochs=3) if solver == "sgd" else solver
    ours, theirs = (
        probe.sweep(rows, (X, Y), fractions=[0.5], solver=chosen)
        for rows in (ArrayBlocks(X, Y, block_rows=20), Least())
    )
    assert np.array_equal(ours.table["accuracy"], theirs.table["accuracy"])
    assert isinstance(ours.fitted, Fitted)
    before = Scores(len(ours.fitted.axes), 3)
    ours.fitted.score(as_blocks((X, Y)), before)
    ours.fitted.release()
    after = Scores(len(ours.fitted.axes), 3)
    ours.fitted.score(as_blocks((X, Y)), after)
    assert np.array_equal(before.columns()["accuracy"], after.columns()["accuracy"])


@pytest.mark.parametrize("contract", [LabelledRows, LogitSink, Fitted])
def test_a_contract_that_is_kept_in_part_is_refused(contract):
    with pytest.raises(TypeError, match="abstract"):
        type("Part", (contract,), {})()

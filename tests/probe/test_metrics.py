import numpy as np
import pytest
import torch
from array_api_compat import array_namespace
from hypothesis import given, strategies as st

from featstore.probe.confusion import Accuracy, label_is_first_max
from featstore.probe.errors import UsageError
from featstore.probe.kernels import judged
from featstore.probe.metrics import OF_CLASSES, OF_TARGETS, Losses, Scores, metrics_of
from featstore.probe.rows import ArrayBlocks


@given(
    probes=st.integers(1, 4),
    rows=st.integers(1, 30),
    classes=st.integers(2, 6),
    seed=st.integers(0, 10**6),
    backend=st.sampled_from([np.asarray, torch.from_numpy]),
    transposed=st.booleans(),
)
def test_hits_are_those_of_argmax_however_many_logits_tie(
    probes, rows, classes, seed, backend, transposed
):
    random = np.random.default_rng(seed)
    logits = random.integers(-2, 3, size=(probes, rows, classes)).astype(np.float32)
    labels = random.integers(0, classes, size=rows)
    array = backend(logits.copy())
    if transposed:  # the same values with other strides
        xp = array_namespace(array)
        array = backend(np.ascontiguousarray(logits.transpose(0, 2, 1)))
        array = xp.permute_dims(array, (0, 2, 1))
    hits = np.asarray(label_is_first_max(array, backend(labels)))
    assert (hits == (logits.argmax(-1) == labels)).all()
    assert (np.asarray(array) == logits).all()  # as they were


def test_per_class_counts_add_up_whatever_the_pieces():
    random = np.random.default_rng(0)
    logits = torch.from_numpy(random.normal(size=(3, 50, 4)).astype(np.float32))
    labels = torch.from_numpy(random.integers(0, 4, size=50))
    whole, cut = Accuracy(3, 4), Scores(3, 4)
    whole.add(np.arange(3), judged(logits, labels))
    whole.finish(labels)
    for rows in (slice(0, 20), slice(20, 50)):
        for probes in (np.array([2, 0]), np.array([1])):
            cut.add(probes, logits[probes][:, rows], labels[rows])
            cut.finish(labels[rows])
    assert (cut.per_class()["accuracy"] == whole.per_class()).all()
    assert whole.counts.sum(1).tolist() == [50, 50, 50]
    assert (whole.hits.sum(1) == (logits.argmax(-1) == labels).sum(1).numpy()).all()


@pytest.mark.parametrize("backend", [np.asarray, torch.from_numpy])
def test_a_tie_goes_to_the_first_class(backend):
    logits = backend(np.zeros((1, 3, 3), np.float32))
    labels = backend(np.arange(3))
    assert np.asarray(label_is_first_max(logits, labels)).tolist() == [[True, False, False]]


def test_metrics_of_other_labels_are_refused_with_those_that_fit():
    for metric, targets, kind, fitting in (
        ("r2", False, "classes", OF_CLASSES),
        ("accuracy", True, "numbers", OF_TARGETS),
    ):
        with pytest.raises(UsageError, match=f"{metric} does not go .* are {kind}") as told:
            metrics_of(metric, targets)
        assert str(told.value).split("there are ")[1] == ", ".join(fitting)
    assert not set(OF_CLASSES) & set(OF_TARGETS)


def test_losses_add_up_over_fits_and_let_go_of_those_that_are_not_kept():
    class Fitted:
        released = 0

        def score(self, rows, sink):
            sink.add(np.array([0]), np.float32([[[2, 1], [0, 3]]]), np.array([0, 0]))
            sink.finish(np.array([0, 0]))

        def release(self):
            self.released += 1

    losses, fitted = Losses(1, 2, "errors", np.ones(2)), Fitted()
    rows = ArrayBlocks(np.zeros((2, 3), np.float32), np.array([0, 0]), 2)
    losses.score(fitted, rows, keep=True)
    assert fitted.released == 0
    losses.score(fitted, rows)
    assert fitted.released == 1
    assert losses.sums[0].tolist() == [[2], [2], [4]]  # losses, hits, rows

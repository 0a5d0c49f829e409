"""Texts that a person reads of a result, predictions and a spectrum; classes of plain arrays."""

import numpy as np
import pytest

from featstore.probe import fit, layer_spectrum, random_chain, sweep
from featstore.probe.errors import DataError, MemoryBudgetError, UsageError


def drawn(seed, n=120, d=10, classes=3):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, d)) + 2 * np.random.default_rng(9).normal(size=(classes, d))[y]
    return x.astype(np.float32), y


TRAIN, TEST = drawn(0), drawn(1)


@pytest.fixture(scope="module")
def result():
    return sweep(TRAIN, TEST, fractions=0.3, seeds=2, solver="lda", l2=0.1)


def test_plain_arrays_have_classes_and_probabilities(result):
    x, y = TEST
    found, p = result.predict(x), result.predict_proba(x)
    assert found.shape == (120, 4)
    assert p.shape == (120, 4, 3)
    assert (found == result.predict(TEST).classes).all()
    assert (p.argmax(2) == found).all()
    np.testing.assert_allclose(p.sum(2), 1)
    for row in range(4):
        powers = np.exp(result.weights(row).logits(x.astype(np.float64)))
        np.testing.assert_allclose(p[:, row], powers / powers.sum(1, keepdims=True), rtol=1e-4)
    accuracy = (found == y[:, None]).mean(0)
    np.testing.assert_allclose(accuracy, result.table["accuracy"])


def test_what_has_no_probabilities_says_so(result):
    ridge = sweep(TRAIN, TEST, fractions=0.3, solver="ridge", l2=0.1)
    with pytest.raises(UsageError, match="the logits of ridge probes are no log-probabilities"):
        ridge.predict_proba(TEST[0])
    with pytest.raises(MemoryBudgetError, match="probabilities of 120 rows by 4 probes: allow"):
        result.predict_proba(TEST[0], memory=1000)
    with pytest.raises(DataError, match="9"):
        result.predict(TEST[0][:, :9])


def test_a_person_reads_them(result):
    assert repr(result).startswith("<ProbeResult of 4 lda probes: 30 % of the features keep ")
    unscored = fit(TRAIN, [random_chain(10, [0.5], 1)], solver="lda", l2=0.1)
    assert repr(unscored) == "<ProbeResult of 1 lda probes, not scored yet>"
    predicted = result.predict(TEST)
    low, high = result.table["accuracy"].min(), result.table["accuracy"].max()
    told = f"Predictions of 120 rows by 4 probes, accuracy {low:.3f} to {high:.3f}"
    assert repr(predicted) == f"<{told}>"
    assert told in predicted._repr_html_()
    spectrum = layer_spectrum(TRAIN)
    assert repr(spectrum).startswith("<Spectrum of 10 features: effective rank ")
    assert "0 dead, 0 repeated" in spectrum._repr_html_()


def test_a_sweep_logs_its_groups(caplog, tmp_path):
    given = {"fractions": 0.3, "seeds": 2, "solver": "lda", "l2": 0.1, "out": tmp_path / "r.csv"}
    for resume, told in ((False, " lda probes solved in "), (True, " probes are finished")):
        caplog.clear()
        with caplog.at_level("INFO", logger="featstore.probe"):
            sweep(TRAIN, TEST, resume=resume, **given)
        assert told in caplog.text
        assert {record.name for record in caplog.records} == {"featstore.probe.sweeps"}

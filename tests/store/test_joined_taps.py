"""Taps side by side as one layer, against their arrays."""

import numpy as np
import pytest
from click.testing import CliRunner
from layer_stores import N_TEST, N_TRAIN, features, made

from featstore import probe
from featstore.cli import main
from featstore.errors import UsageError


def test_two_taps_are_one_layer(tmp_path):
    store = made(tmp_path / "net.zarr", ("low", "high", "wide"))
    for split, count in (("train", N_TRAIN), ("test", N_TEST)):
        wanted = features(count, split)
        blocks = store.tap(split, "wide+low")
        x = np.concatenate([one for one, _ in blocks])
        assert np.array_equal(x, np.concatenate([wanted["wide"], wanted["low"]], 1))
        assert (blocks.n_features, blocks.n_rows) == (32, count)
        assert np.array_equal(np.concatenate([y for _, y in blocks]), store.labels(split))
        part = np.concatenate([one for one, _ in blocks.part(7, 41)])
        assert np.array_equal(part, x[7:41])
    prints = {store.tap("train", name).fingerprint for name in ("low", "low+wide", "wide+low")}
    assert len(prints) == 3
    assert store.spec.tap("low+high").dim == 24


def test_it_is_probed_saved_and_predicted_with(tmp_path):
    store, weights = made(tmp_path / "net.zarr", ("low", "wide")), tmp_path / "w.safetensors"
    words = ["probe", store.path, "--tap", "low+wide", "--fractions", "0.5", "--seeds", "1",
             "--solver", "ridge", "--l2", "0.1", "--save-weights", weights]  # fmt: skip
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    assert "low+wide" in ran.stdout
    ran = CliRunner().invoke(main, ["predict", str(store.path), "--weights", str(weights)])
    assert ran.exit_code == 0, ran.output
    rows = [(np.concatenate([features(n, s)["low"], features(n, s)["wide"]], 1), np.arange(n) % 3)
            for s, n in (("train", N_TRAIN), ("test", N_TEST))]  # fmt: skip
    found = probe.sweep(*rows, fractions=[0.5], solver="ridge", l2=0.1).table["accuracy"]
    saved = probe.load_weights(weights).table["accuracy"]
    assert saved.tolist() == pytest.approx(found.tolist())
    ran = CliRunner().invoke(main, ["spectrum", f"{store.path}#low+wide"])
    assert "32" in ran.stdout


def test_a_tap_that_is_not_there_or_twice_is_refused(tmp_path):
    store = made(tmp_path / "net.zarr")
    with pytest.raises(UsageError, match="no tap 'top'"):
        store.tap("train", "low+top")
    with pytest.raises(UsageError, match="names a tap twice"):
        store.tap("train", "low+low")

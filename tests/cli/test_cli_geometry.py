"""`featstore geometry` and `universality` against the functions of the library."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from layer_stores import N_TEST, N_TRAIN, features, made

from featstore.cli import main
from featstore.probe.geometry import (
    calibrated_cka,
    intrinsic_dimension,
    mutual_neighbours,
    subset_spectra,
    universality,
)


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, [*map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def rows(tap, count=N_TEST, split="test"):
    return features(count, split)[tap], np.zeros(count, int)


def test_the_command_has_dimensions_of_subsets_and_pairs_of_layers(tmp_path):
    store = made(tmp_path / "net.zarr", ("low", "wide"))
    out, pairs = tmp_path / "g.csv", tmp_path / "p.csv"
    ran = run("geometry", store.path, "--taps", "all", "--fractions", "0.5", "--seeds", 2,
              "--neighbours", 5, "--permutations", 19, "--out", out, "--pairs", pairs)  # fmt: skip
    table, found = pd.read_csv(out), pd.read_csv(pairs).iloc[0]
    own = table[table["name"] == "low"].reset_index(drop=True)
    wanted = intrinsic_dimension(rows("low"), [0.5], [1, 2], neighbours=5)
    assert own["two_nn"].tolist() == pytest.approx(wanted["two_nn"].tolist())
    spectra = subset_spectra(rows("low"), [0.5], [1, 2])
    assert own["isoscore"].tolist() == pytest.approx(spectra["isoscore"].tolist())
    layers = {"low": rows("low"), "wide": rows("wide")}
    near = mutual_neighbours(layers, [0.5], [1, 2], k=5, standardize=True)
    assert own["mutual"].tolist()[:2] == pytest.approx(near["mutual"].tolist()[:2])
    null = calibrated_cka(rows("low"), rows("wide"), permutations=19)
    assert found[["cka", "expected", "p"]].tolist() == pytest.approx(
        [null.value, null.expected, null.p]
    )
    assert "low and wide" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_some_rows_of_one_layer(tmp_path):
    store = made(tmp_path / "net.zarr")
    ran = run("geometry", store.path, "--rows", 30, "--neighbours", 4, "--seeds", 1)
    assert "low: 30 test rows" in " ".join(ran.stdout.split()) or "30 test rows" in ran.stdout
    assert "pairs" not in ran.stdout


def test_universality_is_the_library_s(tmp_path):
    store = made(tmp_path / "net.zarr", ("low", "high", "wide"))
    out, plot = tmp_path / "u.csv", tmp_path / "u.svg"
    ran = run("universality", f"{store.path}#wide", f"{store.path}#low", "--out", out, "--plot",
              plot, "--most", 3)  # fmt: skip
    pair = [(rows("wide", N_TRAIN, "train"), rows("low", N_TRAIN, "train")),
            (rows("wide"), rows("low"))]  # fmt: skip
    wanted = universality(*pair)
    table = pd.read_csv(out)
    assert np.allclose(table["r2"], wanted["r2"], atol=1e-6, equal_nan=True)
    assert np.isnan(table["r2"][4])  # a feature that never changes
    assert f"the median is {wanted['r2'].median():.3f}" in " ".join(ran.stdout.split())
    assert "predicted from the" in plot.read_text()
    turned = run("universality", f"{store.path}#high", f"{store.path}#low")
    assert "Of 12 features, 12 are predicted" in " ".join(turned.stdout.split())

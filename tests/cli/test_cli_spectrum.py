"""`featstore spectrum` against numpy on the rows."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from layer_stores import N_TRAIN, features, made

from featstore.cli import main
from featstore.probe.errors import MemoryBudgetError
from featstore.probe.layers import layer_spectrum


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, ["spectrum", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def test_the_command_shows_a_row_a_layer(tmp_path):
    store = made(tmp_path / "net.zarr", ["low", "wide"])
    out, values, plot = (tmp_path / name for name in ("s.csv", "v.parquet", "s.svg"))
    ran = run(store.path, "--taps", "all", "--list", "--out", out, "--eigenvalues", values,
              "--plot", plot)  # fmt: skip
    table = pd.read_csv(out).set_index("name")
    x = features(N_TRAIN, "train")["low"].astype(np.float64)
    wanted = np.linalg.eigvalsh(np.corrcoef(x.T))[::-1]
    found = pd.read_parquet(values)
    assert np.allclose(found[found["name"] == "low"]["eigenvalue"], wanted, atol=1e-5)
    assert found["index"].tolist() == [*range(1, 13), *range(1, 21)]
    sigma = np.sqrt(wanted) / np.sqrt(wanted).sum()
    rank = np.exp(-(sigma * np.log(sigma)).sum())
    assert table.loc["low", "effective_rank"] == pytest.approx(rank, rel=1e-4)
    off = np.abs(np.corrcoef(x.T)[~np.eye(12, dtype=bool)]).mean()
    assert table.loc["low", "mean_abs_correlation"] == pytest.approx(off, rel=1e-4)
    assert table.loc["wide", ["dead", "duplicates"]].tolist() == [1, 1]
    said = " ".join(ran.stdout.split())
    assert f"low: 12 features vary like {rank:.0f} equal directions (effective rank)" in said
    assert "1 feature never changes and 1 feature repeats another." in said
    assert "wide, dead: 4 wide, duplicates: 7 (as 2)" in said
    assert "low, dead: none low, duplicates: none" in said
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "eigenvalue" in plot.read_text()


def test_features_as_they_are_have_another_spectrum(tmp_path):
    store = made(tmp_path / "net.zarr")
    run(store.path, "--no-standardize", "--split", "test", "--out", tmp_path / "s.json")
    x = features(60, "test")["low"].astype(np.float64)
    values = np.linalg.eigvalsh(np.cov(x.T, ddof=0))
    ratio = pd.read_json(tmp_path / "s.json")["participation_ratio"].item()
    assert ratio == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-4)


def test_what_cannot_be_shown_is_refused(tmp_path):
    store = made(tmp_path / "net.zarr")
    assert "no tap 'top'" in run(f"{store.path}#top", status=2).stderr
    assert "there is no store at" in run(tmp_path / "absent.zarr", status=1).stderr
    assert run(store.path, "--split", "val", status=2).stdout == ""
    with pytest.raises(MemoryBudgetError, match=r"the spectrum of 12 features takes 6.8 KiB, and"):
        layer_spectrum((np.ones((4, 12)), [0, 1, 0, 1]), memory=1000)

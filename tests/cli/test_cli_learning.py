"""`featstore learn` shows, saves and draws what the library finds."""

import pandas as pd
import pytest
from click.testing import CliRunner
from layer_stores import made

from featstore.cli import main
from featstore.probe import learning_curve
from featstore.probe.learning import LearningCurve, compared


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, ["learn", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def test_the_command_shows_what_the_library_finds(tmp_path):
    store = made(tmp_path / "net.zarr", ["low", "wide"])
    out, plot = tmp_path / "l.csv", tmp_path / "l.png"
    ran = run(f"{store.path}#low", "--shots", "2,6", "--draws", 2, "--fractions", "0.5",
              "--solver", "ridge", "--l2", "0.1", "--out", out, "--plot", plot)  # fmt: skip
    rows = store.tap("train", "low"), store.tap("test", "low")
    found = learning_curve(*rows, shots=[2, 6], draws=2, fractions=0.5, l2=0.1)
    assert pd.read_csv(out)["accuracy"].tolist() == found.table["accuracy"].tolist()
    assert plot.stat().st_size > 5000
    for row in found.by_amount().itertuples():
        ends = f"{row.accuracy:.3f} [{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]"
        assert ends in ran.stdout
    assert "low, 2 draws of shots" in ran.stdout
    assert "95 % intervals over draws and test rows" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    again = run(out, "--plot", tmp_path / "again.png")
    assert again.stdout == ran.stdout
    assert (tmp_path / "again.png").read_bytes() == plot.read_bytes()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "give shots (rows of each class) or rows (shares of all rows), one of both"),
        (["--shots", "100000"], "shots are asked: take fewer shots"),
        (["--rows", "2"], "rows holds 2: give shares in (0, 1]"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, options, told):
    store = made(tmp_path / "net.zarr", ["low"])
    assert told in run(store.path, *options, status=2).output


def test_layers_are_compared_in_one_table_and_figure(tmp_path):
    store = made(tmp_path / "net.zarr", ["low", "wide"])
    files = [tmp_path / f"{tap}.csv" for tap in ("low", "wide")]
    asked = ["--shots", "2,6", "--draws", 2, "--fractions", "0.5", "--solver", "ridge"]
    for tap, out in zip(("low", "wide"), files, strict=True):
        run(f"{store.path}#{tap}", *asked, "--l2", "0.1", "--out", out)
    ran = run(files[0], "--compare", files[1], "--plot", tmp_path / "both.png")
    table = compared({"low": LearningCurve.read(files[0]), "wide": LearningCurve.read(files[1])})
    for row in table[table["name"] == "wide"].itertuples():
        ends = f"[{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
        assert f"{row.difference:+.3f} {ends}" in ran.stdout
    assert "less low" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert (tmp_path / "both.png").stat().st_size > 5000
    again = CliRunner().invoke(main, ["compare", *map(str, files)])
    assert again.exit_code
    assert "`featstore learn FILE --compare OTHER` sets learning curves" in again.output

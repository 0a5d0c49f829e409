"""`featstore redundancy` on files that a sweep wrote, and on files of another kind."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from featstore import probe
from featstore.cli import main
from featstore.probe.redundancy import DELTAS
from featstore.probe.results.files import save_table

ROW = {"store": "a/net.zarr", "tap": "last", "mode": "random", "solver": "ridge", "l2": 0.01,
       "l2_choice": "given", "status": "ok"}  # fmt: skip
FRACTIONS, ACCURACY = (0.1, 0.2, 0.5, 1.0), (0.4, 0.7, 0.76, 0.8)


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, ["redundancy", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


def table(seeds=(1, 2, 3), **changes) -> pd.DataFrame:
    return pd.DataFrame([
        ROW | {"seed": seed, "fraction": f, "k": int(40 * f), "accuracy": a - 0.02 * seed * (f < 1)}
        | changes
        for seed in seeds
        for f, a in zip(FRACTIONS, ACCURACY, strict=True)
    ])  # fmt: skip


@pytest.fixture
def results(tmp_path):
    save_table(table(), tmp_path / "results.csv")
    return tmp_path / "results.csv"


def test_it_prints_and_saves_what_the_library_reads(results, tmp_path):
    ran = run(results, "--delta", "0.8,0.9", "--out", tmp_path / "dr.json")
    wanted = probe.diffused_redundancy(probe.read_results(results), [0.8, 0.9])
    saved = pd.read_json(tmp_path / "dr.json")
    for name in ("redundancy", "low", "high"):
        assert np.allclose(saved[name], wanted[name]), name
        for value in wanted[name]:
            assert f"{value:.3f}" in ran.stdout
    said = " ".join(ran.stdout.split())
    assert "net, last, random, ridge, l2 = 0.01" in said
    low, high = wanted["low"][0], wanted["high"][0]
    assert "80 % of the full layer's accuracy is reached at" in said
    ends = f"{low:.3f} to {high:.3f}"
    assert (
        f"DR(0.8) = {wanted['redundancy'][0]:.3f} (95 % interval over seeds {ends}, 3 seeds)."
        in said
    )
    assert max(map(len, ran.stdout.splitlines())) <= 80


def test_one_fraction_gives_a_bound_and_no_interval(tmp_path):
    save_table(table()[lambda rows: rows["fraction"].isin([0.5, 1.0])], tmp_path / "one.csv")
    said = " ".join(run(tmp_path / "one.csv", "--delta", "0.8").stdout.split())
    assert "at least 0.500" in said
    assert "50 % of the features, the smallest share probed, keep 80 % of the full layer's" in said
    assert "DR(0.8) is at least 0.500 (95 % interval over seeds from 0.500, 3 seeds)." in said
    assert "[0.500" not in said


def test_several_files_are_one_table_and_curves_are_named(results, tmp_path):
    save_table(table(mode="pca", seeds=(1,)).assign(seed=None), tmp_path / "pca.csv")
    save_table(table(seeds=(4, 5)), tmp_path / "more.parquet")
    ran = run(results, tmp_path / "pca.csv", tmp_path / "more.parquet", "--rule", "interpolated")
    assert "random: 90 % of the full layer's accuracy is reached at" in ran.stdout
    assert "5 seeds)." in " ".join(ran.stdout.split())
    assert "no interval, 1 seed)" in " ".join(ran.stdout.split())
    assert "has no interval where it is not known which test rows" in ran.stderr


def test_the_whole_curve_is_shown_and_drawn(results, tmp_path):
    ran = run(results, "--curve", "--plot", tmp_path / "dr.svg", "--out", tmp_path / "dr.csv")
    assert pd.read_csv(tmp_path / "dr.csv")["delta"].drop_duplicates().tolist() == list(DELTAS)
    assert "100 %" in ran.stdout
    assert "diffused redundancy" in (tmp_path / "dr.svg").read_text()
    assert f"wrote {tmp_path / 'dr.svg'}" in ran.stderr
    run(results, "--delta", "0.9", "--plot", tmp_path / "one.svg", "--out", tmp_path / "one.csv")
    assert pd.read_csv(tmp_path / "one.csv")["delta"].tolist() == [0.9]


def test_with_predictions_test_rows_are_drawn_again(tmp_path):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    every = table()
    right = random.uniform(size=(len(every), 400)) < every["accuracy"].to_numpy()[:, None]
    classes = np.where(right, labels, 1 - labels).T.astype(np.uint8)
    save_table(every.assign(accuracy=right.mean(1)), tmp_path / "r.csv")
    np.savez(tmp_path / "p.npz", labels=labels, classes=classes)
    ran = run(tmp_path / "r.csv", "--predictions", tmp_path / "p.npz", "--out", tmp_path / "o.csv")
    wanted = probe.diffused_redundancy(probe.read_results(tmp_path / "r.csv"), correct=right)
    assert np.allclose(pd.read_csv(tmp_path / "o.csv")["low"], wanted["low"])
    assert "over seeds and test rows" in " ".join(ran.stdout.split())
    run(tmp_path / "r.csv", tmp_path / "r.csv", "--predictions", tmp_path / "p.npz", status=2)
    np.savez(tmp_path / "p.npz", labels=1 - labels, classes=classes)
    ran = run(tmp_path / "r.csv", "--predictions", tmp_path / "p.npz", status=1)
    assert "is not of these probes and test rows" in ran.stderr


def test_without_a_full_layer_it_says_so(tmp_path):
    save_table(table().query("fraction < 1"), tmp_path / "part.csv")
    assert "The full layer was not probed" in run(tmp_path / "part.csv").stdout


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--delta", "90"], 2, "delta 90.0 is outside (0, 1]: 0.9 keeps 90 %"),
        (["--rule", "closest"], 2, "no rule is called 'closest': there are interpolated, "),
        (["--level", "95"], 2, "level 95.0 is outside (0, 1)"),
        (["--plot", "dr.gif"], 2, "must end in .png or .svg or .pdf"),
        (["--predictions", "absent.npz"], 2, "'absent.npz' does not exist"),
    ],
)
def test_what_cannot_be_asked_is_refused(results, options, status, message):
    ran = run(results, *options, status=status)
    assert message in " ".join(ran.stderr.split())
    assert ran.stdout == ""


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.csv").write_text("hello\n1\n")
    assert "has no column 'store'" in run(tmp_path / "notes.csv", status=2).stderr
    twice = pd.concat([table(), table(seeds=(2,))])
    save_table(twice, tmp_path / "twice.csv")
    ran = run(tmp_path / "twice.csv", status=1)
    assert "fraction 0.1 of seed 2" in ran.stderr
    assert "stands twice" in ran.stderr


def test_every_k_of_a_wide_layer_is_read_at_once(tmp_path):
    k = np.tile(np.arange(1, 1025), 3)
    rows = pd.DataFrame(ROW, index=range(len(k))).assign(
        seed=np.repeat([1, 2, 3], 1024), fraction=k / 1024, k=k,
        accuracy=0.9 - 0.5 * (k / 1024) ** -0.1 * (k < 1024) / 4,
    )  # fmt: skip
    save_table(rows, tmp_path / "every.parquet")
    run(tmp_path / "every.parquet", "--rule", "threshold,interpolated",
        "--out", tmp_path / "dr.csv", "--plot", tmp_path / "dr.png")  # fmt: skip
    kept = pd.read_csv(tmp_path / "dr.csv").set_index("rule")["fraction"]
    ratio = rows["accuracy"][:1024].to_numpy() / 0.9
    assert kept["threshold"] == k[(ratio >= 0.9).argmax()] / 1024

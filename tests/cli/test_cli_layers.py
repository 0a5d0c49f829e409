"""`featstore probe --tap`, of several taps: accuracy by layer."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from layer_stores import made

import featstore
from featstore.cli import main
from featstore.probe import LayerSweep, accuracy_by_layer, figures, sweep, sweeps
from featstore.probe.results.curves import curve_table

TAPS = ["low", "high", "wide"]


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, [*map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made(tmp_path_factory.mktemp("layers") / "net.zarr", TAPS)


OPTIONS = ["--fractions", "0.5", "--seeds", "2", "--solver", "ridge", "--device", "cpu"]


def alone(store, tap):
    return sweep(
        store.tap("train", tap), store.tap("test", tap), fractions=0.5, seeds=2, solver="ridge",
        store=str(store.path), tap=tap, device="cpu",
    )  # fmt: skip


def test_all_taps_are_what_each_is_alone_in_one_table_and_one_figure(store, tmp_path):
    out, layers, plot = (tmp_path / name for name in ("r.csv", "l.csv", "l.svg"))
    ran = run("probe", store.path, "--taps", "all", *OPTIONS, "--out", out, "--by-layer", layers,
              "--plot", plot)  # fmt: skip
    found = pd.read_csv(layers)
    assert found["tap"].tolist() == TAPS * 2
    assert found["layer"].tolist() == [0, 1, 2] * 2
    assert found["fraction"].tolist() == [0.5] * 3 + [1.0] * 3
    assert list(dict.fromkeys(pd.read_csv(out)["tap"])) == TAPS
    for tap in TAPS:
        result = alone(store, tap)
        wanted = curve_table(result.table, result.correct).set_index("fraction")
        for _, row in found[found["tap"] == tap].iterrows():
            of_one = wanted.loc[row["fraction"]]
            for name in ("k", "accuracy", "accuracy_low", "accuracy_high"):
                assert row[name] == pytest.approx(of_one[name], rel=1e-9)
            shown = f"{of_one['accuracy']:.3f} [{of_one['accuracy_low']:.3f},"
            assert re.search(rf"{tap} .*{re.escape(shown)}", ran.stdout)
    assert "intervals over seeds and test rows" in ran.stdout
    drawn = plot.read_text()
    assert all(f">{name}<" in drawn for name in [*TAPS, "all features", "50 %"])


def test_a_list_of_taps_keeps_the_order_it_has(store, tmp_path):
    out = tmp_path / "r.csv"
    run("probe", store.path, "--tap", "wide,low", *OPTIONS, "--out", out)
    assert list(dict.fromkeys(pd.read_csv(out)["tap"])) == ["wide", "low"]
    assert (
        "no tap 'lower'"
        in run("probe", store.path, "--tap", "lower,low", *OPTIONS, status=2).stderr
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_it_goes_on_behind_the_layers_that_are_done(store, tmp_path, suffix, monkeypatch):
    """As if killed behind the second tap: its file goes on to the bytes of one in one go."""
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"r{suffix}"
    run("probe", store.path, "--taps", "all", *OPTIONS, "--out", whole)
    run("probe", store.path, "--tap", "low,high", *OPTIONS, "--out", out)
    solved, fitted = [], sweeps.fitted
    monkeypatch.setattr(sweeps, "fitted", lambda rows, *a: solved.append(1) or fitted(rows, *a))
    run("probe", store.path, "--taps", "all", *OPTIONS, "--out", out, "--resume")
    assert len(solved) == 1
    assert out.read_bytes() == whole.read_bytes()
    beside = [path.with_name(f"{path.name}.rows.npz") for path in (whole, out)]
    kept = [dict(np.load(path)) for path in beside]
    for name in ("kept.right", "known", "probes", "labels"):
        assert np.array_equal(kept[0][name], kept[1][name])
    solved.clear()
    run("probe", store.path, "--taps", "all", *OPTIONS, "--out", out, "--resume")
    assert not solved


def test_the_rows_beside_give_the_intervals_back(store, tmp_path):
    joined = LayerSweep(tuple(alone(store, tap) for tap in TAPS))
    joined.save(tmp_path / "r.csv")
    page = run("report", tmp_path / "r.csv", "--out", tmp_path / "r.html")
    assert page.exit_code == 0
    html = (tmp_path / "r.html").read_text()
    assert 'alt="accuracy by layer" src="data:image/svg+xml;base64,' in html
    data = json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', html, re.S)[1])
    columns = {column["title"]: column for column in data["tables"]["layers"]["columns"]}
    table = accuracy_by_layer(joined)
    shown = [columns["layer"]["levels"][code] for code in columns["layer"]["codes"]]
    assert shown == table["tap"].tolist()
    assert columns["test accuracy"]["values"] == pytest.approx(table["accuracy"].tolist(), abs=1e-5)


def test_a_figure_of_many_layers_names_some_of_them(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 2
    results = tuple(
        sweep((x, y), (x, y), fractions=1.0, solver="ridge", l2=1.0, tap=f"h.{n}", device="cpu")
        for n in range(30)
    )
    drawn = figures.accuracy_against_layer(LayerSweep(results))
    (axes,) = drawn.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        f"h.{n}" for n in range(0, 30, 2)
    ]
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == list(range(30))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--taps", "all", "--save-weights", "w.safetensors"],
            "--save-weights is of the probes of",
        ),
        (["--tap", "low", "--by-layer", "l.csv"], "--by-layer is of several taps"),
    ],
)
def test_what_one_tap_alone_or_several_have(store, options, message):
    assert message in run("probe", store.path, *OPTIONS, *options, status=2).stderr


def test_names_are_given_to_every_tap(tmp_path):
    one = made(tmp_path / "one.zarr", ["low"])
    two = made(tmp_path / "two.zarr", ["high", "wide"])
    run("merge", one.path, two.path, "--out", tmp_path / "both.zarr", "--names", "a,b")
    taps = [tap.name for tap in featstore.open(tmp_path / "both.zarr").spec.taps]
    assert taps == ["a.low", "b.high", "b.wide"]
    both = featstore.open(tmp_path / "both.zarr")
    for name, store, tap in (
        ("a.low", one, "low"),
        ("b.high", two, "high"),
        ("b.wide", two, "wide"),
    ):
        np.testing.assert_array_equal(both.load("test", name), store.load("test", tap))
    run("merge", one.path, two.path, "--out", tmp_path / "plain.zarr")
    taps = [tap.name for tap in featstore.open(tmp_path / "plain.zarr").spec.taps]
    assert taps == TAPS
    # of one tap each, one of a store with itself, and what is merged already once more
    run("merge", one.path, one.path, "--out", tmp_path / "twice.zarr", "--names", "a,b")
    run("merge", both.path, one.path, "--out", tmp_path / "more.zarr", "--names", "c,d")
    for name, wanted in {
        "twice": ["a.low", "b.low"],
        "more": ["c.a.low", "c.b.high", "c.b.wide", "d.low"],
    }.items():
        store = featstore.open(tmp_path / f"{name}.zarr")
        assert [tap.name for tap in store.spec.taps] == wanted
        np.testing.assert_array_equal(store.load("train", wanted[-1]), one.load("train", "low"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("a", "names ['a'] for two stores; give two different ones"),
        ("a,b,a", "for two stores; give two different ones"),
        ("a,a", "for two stores; give two different ones"),
        ("../up,b", "the name '../up' cannot stand before taps"),
        ("a+b,c", "the name 'a+b' cannot stand before taps"),
        (f"{'x' * 61},b", "cannot stand before taps; give letters"),
    ],
)
def test_names_that_cannot_be_are_refused(names, says, tmp_path, store):
    ran = run("merge", store.path, store.path, "--out", tmp_path / "x", "--names", names, status=2)
    assert says in " ".join(ran.stderr.split())
    assert not (tmp_path / "x").exists()

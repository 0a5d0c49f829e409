"""Stores and results side by side: what is swept, what is reused, and how curves are ranked."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from layer_stores import made
from scipy.stats import kendalltau

import featstore.probe.sweeps
from featstore import probe
from featstore.cli import main
from featstore.errors import BadStudy
from featstore.probe.errors import DataError
from featstore.probe.results.evidence import RowScores, RowSink
from featstore.probe.results.files import save_table
from featstore.probe.results.sentences import of_comparison
from featstore.study.compare import compare

HOW = {"solver": "ridge", "l2": 0.1}
FRACTIONS, SEEDS = [0.25, 0.5], [1, 2, 3]


def run(*arguments, status: int = 0):
    ran = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert ran.exit_code == status, ran.output
    return ran


@pytest.fixture
def stores(tmp_path):
    """Two stores of the same rows: one with layers of 12 features, the other of 20."""
    return made(tmp_path / "net.zarr"), made(tmp_path / "other.zarr", ["wide"])


def curve(accuracy, store="a", seeds=(1, 2), fractions=(0.1, 0.5, 1.0), **changes) -> pd.DataFrame:
    row = {"store": store, "tap": "t", "mode": "random", "solver": "ridge", "l2": 0.1,
           "l2_choice": "given", "n_test": 100, "status": "ok"}  # fmt: skip
    return pd.DataFrame([
        row | {"seed": seed, "fraction": f, "k": int(20 * f), "accuracy": a} | changes
        for seed in seeds for f, a in zip(fractions, accuracy, strict=True)
    ])  # fmt: skip


def test_an_order_of_ones_own_stands_alone_as_in_a_list(stores):
    net, _ = stores
    order = probe.modes.Order("mine", np.arange(12)[::-1])
    heard = []
    found = [
        compare([f"{net.path}#high"], FRACTIONS, mode=mode, progress=progress, **HOW)
        for mode, progress in ((order, lambda *told, **facts: heard.append(facts)), ([order], None))
    ]
    assert found[0].probes["mode"].unique().tolist() == ["mine"]
    pd.testing.assert_frame_equal(found[0].probes, found[1].probes)
    assert any(facts.get("seconds") for facts in heard)


def test_each_store_is_swept_as_alone(stores):
    net, other = stores
    found = compare([f"{net.path}#high", other.path], FRACTIONS, SEEDS, fraction=0.5, **HOW)
    assert found.table["name"].tolist() == ["net, high", "other, wide"]
    assert found.table["features"].tolist() == [12, 20]
    for row, (store, tap) in zip(found.table.itertuples(), ((net, "high"), (other, "wide")),
                                 strict=True):  # fmt: skip
        rows = store.tap("train", tap), store.tap("test", tap)
        result = probe.sweep(*rows, fractions=FRACTIONS, seeds=SEEDS, **HOW)
        alone, correct = result.to_pandas(), result.correct
        summed = probe.summary(alone, correct).set_index("fraction")
        assert (row.full, row.accuracy) == (summed["accuracy"][1.0], summed["accuracy"][0.5])
        assert (row.ratio, row.ratio_std) == (summed["ratio"][0.5], summed["ratio_std"][0.5])
        assert row.ratio_low == pytest.approx(summed["ratio_low"][0.5])
        assert row.over == "seeds and test rows"
        dr = probe.diffused_redundancy(alone, [0.9], ["interpolated"], correct).iloc[0]
        assert (row.redundancy, row.low, row.high) == (dr.redundancy, dr.low, dr.high)
    assert found.table["task"].unique() == ["drawn, 60 test rows"]


def test_what_was_finished_is_not_solved_again(stores, tmp_path, monkeypatch):
    paths, folder = [store.path for store in stores], tmp_path / "kept"
    told, parts = set(), []

    def progress(stage, done, total, seconds=None, **facts):
        if seconds is None:
            told.add(facts["layer"])
        else:
            parts.append((stage, done, total, seconds))

    first = compare(paths, FRACTIONS, SEEDS, out_dir=folder, progress=progress, **HOW)
    assert told == {"net", "other"}
    assert [part[:3] for part in parts] == [("layers", done, 2) for done in (0, 1, 2)]
    assert all(len(part[3]) == 2 and min(part[3]) > 0 for part in parts)
    names = sorted(path.name for path in folder.glob("*.csv"))
    assert [name.rsplit(".", 2)[0] for name in names] == ["net.zarr.low", "other.zarr.wide"]
    assert len(list(folder.glob("*.provenance.json"))) == 2
    monkeypatch.setattr(featstore.probe.sweeps, "fitted", pytest.fail)
    again = compare(paths, FRACTIONS, SEEDS, out_dir=folder, **HOW)
    pd.testing.assert_frame_equal(again.table, first.table)
    # results of their own, without the stores, say the same
    read = compare([folder / name for name in names])
    columns = ["full", "accuracy", "ratio", "redundancy", "low", "high", "ratio_rank"]
    assert np.allclose(read.table[columns].astype(float), first.table[columns].astype(float))
    with pytest.raises(featstore.probe.errors.UsageError, match="holds another sweep: its"):
        compare(paths, FRACTIONS, [1], out_dir=folder, **HOW)


def test_copies_of_a_store_have_results_of_their_own(stores, tmp_path):
    """In another format, and of the same name in another folder: the same numbers, thrice."""
    net, folder = stores[0], tmp_path / "kept"
    (tmp_path / "moved").mkdir()
    copies = [net.path, tmp_path / "net.h5", tmp_path / "moved" / "net.zarr"]
    for copy in copies[1:]:
        featstore.convert(net.path, copy)
    for _ in range(2):
        found = compare(copies, FRACTIONS, SEEDS, taps=["low"], out_dir=folder, **HOW)
        assert len(found.table) == len(set(found.table["name"])) == 3
        assert found.table["accuracy"].nunique() == found.table["full"].nunique() == 1
        kept = {path.name.rpartition(".low.")[0] for path in folder.glob("*.csv")}
        assert len(list(folder.glob("*.csv"))) == 3
        assert kept == {"net.zarr", "net.h5"}
    # and one after the other, in any order
    for copy in reversed(copies):
        compare([copy], FRACTIONS, SEEDS, taps=["low"], out_dir=folder, **HOW)
    assert len(list(folder.glob("*.csv"))) == 3


def test_ranks_are_of_a_task_or_of_all(tmp_path):
    every = {
        "a": curve([0.5, 0.7, 0.8]), "b": curve([0.6, 0.65, 0.7], "b"),
        "c": curve([0.2, 0.3, 0.6], "c"),
        "d": curve([0.8, 0.85, 0.9], "d", n_test=50),
    }  # fmt: skip
    for name, table in every.items():
        save_table(table, tmp_path / f"{name}.csv")
    found = compare([tmp_path / f"{name}.csv" for name in every], fraction=0.1)
    table = found.table.set_index("name")
    assert table["task"].tolist() == ["100 test rows"] * 3 + ["50 test rows"]
    assert table["full_rank"].tolist() == [1, 2, 3, 1]
    assert table["accuracy_rank"].tolist() == [2, 1, 3, 1]
    assert table["ratio_rank"].tolist() == [3, 2, 4, 1]
    kept = [0.625, 6 / 7, 1 / 3, 8 / 9]
    assert table["ratio"].tolist() == pytest.approx(kept)
    assert table["redundancy_rank"].tolist() == pd.Series(table["redundancy"]).rank(
        ascending=False).tolist()  # fmt: skip
    (agreed,) = found.agreement.to_dict("records")
    assert (agreed["best_full"], agreed["best_part"], agreed["curves"]) == ("a", "b", 3)
    assert agreed["tau"] == pytest.approx(kendalltau([0.8, 0.7, 0.6], [0.5, 0.6, 0.2]).statistic)


def test_the_fraction_is_one_that_every_curve_has(tmp_path):
    save_table(curve([0.5, 0.7, 0.8], fractions=(0.05, 0.2, 1.0)), tmp_path / "a.csv")
    save_table(curve([0.5, 0.7, 0.8], "b", fractions=(0.201, 0.5, 1.0)), tmp_path / "b.csv")
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert compare(paths).table["fraction"].tolist() == [0.2, 0.201]
    with pytest.raises(BadStudy, match=r"fraction 0.05 was not probed of b, which has 0.201, 0"):
        compare(paths, fraction=0.05)
    save_table(curve([0.5, 0.7, 0.8], "b", fractions=(0.3, 0.5, 1.0)), tmp_path / "b.csv")
    with pytest.raises(BadStudy, match=r"no fraction below 1 .* \(a: 0.05, 0.2, 1; b: 0.3, 0"):
        compare(paths)


def test_curves_without_a_full_layer_have_no_ratio(tmp_path):
    save_table(curve([0.5, 0.7], fractions=(0.1, 0.5)), tmp_path / "a.csv")
    save_table(curve([0.5, 0.7, 0.8], "b"), tmp_path / "b.csv")
    ran = run(tmp_path / "a.csv", tmp_path / "b.csv", "--out", tmp_path / "o.csv")
    assert pd.read_csv(tmp_path / "o.csv")["redundancy"].isna().tolist() == [True, False]
    assert "nan" not in ran.stdout
    assert "<NA>" not in ran.stdout


def test_the_command_shows_saves_and_draws(stores, tmp_path):
    net, other = stores
    out, plot = tmp_path / "c.csv", tmp_path / "c.svg"
    ran = run(net.path, other.path, "--taps", "all", "--fractions", "0.25,0.5", "--seeds", "3",
              "--solver", "ridge", "--l2", "0.1", "--out-dir", tmp_path / "kept",
              "--out", out, "--plot", plot)  # fmt: skip
    table = pd.read_csv(out)
    assert table["name"].tolist() == ["net, low", "net, high", "other, wide"]
    assert (table["fraction"] == 0.25).all()
    for row in table.itertuples():
        ends = f"[{100 * row.ratio_low:.1f}, {100 * row.ratio_high:.1f}]"
        assert f"{row.accuracy:.3f} " in ran.stdout
        assert f"{100 * row.ratio:.1f} % {ends}" in ran.stdout
        shown = f"{row.redundancy:.3f} [{row.low:.3f}, {row.high:.3f}]"
        assert (
            f"at least {row.redundancy:.3f}" if row.bound == "at least" else shown
        ) in ran.stdout
    said = " ".join(ran.stdout.split())
    assert "more redundant than the others" in said or "Most redundant" in said
    assert "(95 % intervals over seeds and test rows)" in said
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "test accuracy" in plot.read_text()
    # two modes of one layer: the full layer is one, and says nothing of their order
    ran = run(net.path, "--fractions", "0.5", "--mode", "first,last", "--solver", "ridge",
              "--delta", "0.5", "--rule", "threshold")  # fmt: skip
    assert "DR(0.5)" in ran.stdout
    assert "is best with all features" not in ran.stdout


def test_what_cannot_be_compared_is_refused(stores, tmp_path):
    net, _ = stores
    assert "fractions are needed to probe stores" in run(net.path, status=2).stderr
    assert "there is no store at" in run(tmp_path / "no.zarr", "--fractions", "1", status=1).stderr
    assert "No such file" in run(tmp_path / "no.csv", status=1).stderr
    save_table(curve([0.5, 0.7, 0.8]), tmp_path / "a.csv")
    ran = run(tmp_path / "a.csv", "--rule", "closest", status=2)
    assert "no rule is called 'closest'" in ran.stderr
    assert "stands twice" in run(tmp_path / "a.csv", tmp_path / "a.csv", status=1).stderr
    numbers = curve([0.5, 0.7, 0.8]).rename(columns={"accuracy": "r2"})
    save_table(numbers, tmp_path / "r2.csv")
    with pytest.raises(DataError, match="some probes predict classes and others numbers"):
        compare([net.path, tmp_path / "r2.csv"], [0.5], [1], **HOW)
    assert compare([tmp_path / "r2.csv"]).score == "r2"


def right(accuracies, n=2000, seed=0) -> np.ndarray:
    """Test rows that probes of these accuracies have right: the same hard rows for all."""
    random = np.random.default_rng(seed)
    hard = random.permutation(n)
    return hard[None] < n * np.asarray(accuracies)[:, None]


def kept(table, folder, name, n=2000):
    """Write a results file with the rows that its probes have right."""
    table = table.assign(n_test=n, n_train=100, options="", chance=0.1, majority=0.1)
    rows = right(table["accuracy"], n)
    table["accuracy"] = rows.mean(1)
    result = probe.ProbeResult(table, None, np.arange(len(table)), "ridge", by_row=packed(rows))
    result.save(folder / f"{name}.csv")
    return folder / f"{name}.csv"


def packed(rows):
    found = RowScores.empty(np.zeros(rows.shape[1], np.int64), len(rows))
    sink = RowSink(found)
    sink.add(np.arange(len(rows)), rows)
    sink.gather()
    return found


def test_a_verdict_is_given_only_where_curves_can_be_told_apart(tmp_path):
    clear = [
        kept(curve([0.5, 0.7, 0.8], seeds=(1, 2, 3)), tmp_path, "a"),
        kept(curve([0.69, 0.7, 0.71], "b", seeds=(1, 2, 3)), tmp_path, "b"),
    ]
    found = compare(clear, fraction=0.1)
    assert found.agreement[["full_ties", "part_ties"]].to_numpy().tolist() == [[[], []]]
    said = of_comparison(found.table, found.agreement, 0.9, 0.95)
    assert said.startswith("Most redundant is b, DR(0.9) at least 0.900; least is a, ")
    assert "a is best with all features and b at 10 %" in said
    close = [clear[0], kept(curve([0.5, 0.7, 0.8], "c", seeds=(1, 2, 3)), tmp_path, "c")]
    found = compare(close, fraction=0.1)
    assert found.agreement.empty  # the same score in full: no order
    said = of_comparison(found.table, found.agreement, 0.9, 0.95)
    assert said.startswith("None is distinguishably more redundant than the others: a has DR")
    three = [*clear, kept(curve([0.495, 0.7, 0.799], "d", seeds=(1, 2, 3)), tmp_path, "d")]
    found = compare(three, fraction=0.1)
    (agreed,) = found.agreement.to_dict("records")
    assert (agreed["best_full"], agreed["full_ties"], agreed["part_ties"]) == ("a", ["d"], [])
    said = of_comparison(found.table, found.agreement, 0.9, 0.95)
    assert "With all features a and d are best and cannot be told apart, at 10 % b is best" in said


def test_a_full_layer_within_noise_has_no_rank(tmp_path):
    noise = curve([0.108, 0.1, 0.09], "n").assign(chance=0.1, majority=0.11, n_test=450)
    better = curve([0.5, 0.7, 0.8], "b").assign(chance=0.1, majority=0.11, n_test=450)
    save_table(noise, tmp_path / "n.csv")
    save_table(better, tmp_path / "b.csv")
    out = tmp_path / "o.csv"
    ran = run(tmp_path / "n.csv", tmp_path / "b.csv", "--out", out)
    said = " ".join(ran.stdout.split())
    assert "The full layer of n is within noise of what is reached without any feature" in said
    assert "Most redundant" not in said
    assert "120.0 %" not in said
    table = pd.read_csv(out).set_index("name")
    assert table["above_chance"].tolist() == [False, True]
    ranks = ["full_rank", "accuracy_rank", "ratio_rank", "redundancy_rank"]
    assert table.loc["n", [*ranks, "ratio", "redundancy"]].isna().all()
    assert table.loc["b", ranks].tolist() == [1, 1, 1, 1]

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from problems import clusters

from featstore import probe
from featstore.probe import plans
from featstore.probe.errors import ChangedWarning, DataError, UsageError
from featstore.probe.plans import PHASES
from featstore.probe.results.files import (
    SUFFIXES,
    as_computed,
    as_written,
    digest_path,
    read_table,
    save_table,
    written_with_digest,
)
from featstore.probe.results.reading import load_rows, rows_path
from featstore.probe.solvers.registry import SOLVERS
from featstore.probe.statuses import Status

PROBLEM = clusters(150, 60, 30, 3)
CASES = {
    "ridge": {"solver": "ridge", "l2": [0.01, 0.1]},
    "lda": {"solver": "lda", "l2": 0.1},
    "chosen": {"solver": "ridge", "l2": "auto"},
    "left out": {"solver": "ridge", "l2": [0.01, 0.1], "select": "loo"},
    "sgd": {"solver": probe.SGD(l2=1e-3, epochs=2), "l2": None},
    "logistic": {"solver": probe.Logistic(l2=[0.3, 1.0], tol=1e-3), "l2": None},
    "first": {"solver": "ridge", "mode": "first", "l2": [0.01, 0.1]},
}
OTHERS = [("lda", ".json"), ("chosen", ".csv"), ("left out", ".json"), ("sgd", ".json")]
OTHERS += [("first", ".parquet"), ("logistic", ".csv")]
METRICS = ("accuracy", "top5", "nll")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """One chain at a time, so that there is something to interrupt between."""
    for name, entry in SOLVERS.items():
        monkeypatch.setitem(SOLVERS, name, replace(entry, together=1))


def sweep(out=None, train=None, test=None, **arguments):
    defaults = {"fractions": [0.1, 0.5], "seeds": [1, 2, 3], "solver": "ridge", "device": "cpu"}
    defaults |= {"store": "007", "metrics": METRICS, "out": out, "l2": 1e-3}
    return probe.sweep(train or PROBLEM.train, test or PROBLEM.test, **{**defaults, **arguments})


class Interrupted:
    """Progress that raises KeyboardInterrupt at the n-th report."""

    def __init__(self, after: int):
        self.left = after

    def __call__(self, stage, done, total, **facts):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("case", "suffix"), [*(("ridge", suffix) for suffix in SUFFIXES), *OTHERS], ids=str
)
def test_interrupted_anywhere_and_resumed_it_is_the_same_file(tmp_path, case, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    result = sweep(whole, **CASES[case])
    for after in (0, 1, 4):
        cut.unlink(missing_ok=True)
        for step in range(30):
            patience = Interrupted(after + 2 * step)
            try:
                resumed = sweep(cut, **CASES[case], resume=True, progress=patience)
                break
            except KeyboardInterrupt:
                check_partial(cut, len(result), whole)
        assert cut.read_bytes() == whole.read_bytes()
        assert rows_path(cut).read_bytes() == rows_path(whole).read_bytes()
        pd.testing.assert_frame_equal(resumed.table, result.table)
        assert (resumed.correct == result.correct).all()
        files = {
            beside(each).name for each in (whole, cut) for beside in (Path, rows_path, digest_path)
        }
        assert {path.name for path in tmp_path.iterdir()} == files


def check_partial(path: Path, n_rows: int, whole: Path) -> None:
    # the last report comes after the last group has been written
    if path.exists() and path.read_bytes() != whole.read_bytes():
        partial = read_table(path)
        assert len(partial) == n_rows
        left = partial["status"] == Status.NOT_RUN
        assert left.any()
        assert partial["accuracy"].isna().tolist() == left.tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_only_what_is_missing_is_solved(tmp_path, monkeypatch, suffix):
    out = tmp_path / f"results{suffix}"
    solved, stop_after = [], 1
    entry = SOLVERS["ridge"]

    def counting(train, chains, penalties, settings):
        if len(solved) == stop_after:
            raise KeyboardInterrupt
        solved.append([chain.seed for chain in chains])
        return entry.fit(train, chains, penalties, settings)

    monkeypatch.setitem(SOLVERS, "ridge", replace(entry, fit=counting))
    with pytest.raises(KeyboardInterrupt):
        sweep(out, solver="ridge")
    partial = read_table(out)
    assert (partial["status"] == Status.NOT_RUN).tolist() == [False, False, True] + [True] * 6
    assert partial["seed"].tolist() == [1] * 3 + [2] * 3 + [3] * 3
    assert partial["fraction"].tolist() == [0.1, 0.5, 1.0] * 3
    assert partial["l2"].tolist() == [1e-3] * 9
    stop_after = None
    sweep(out, solver="ridge", resume=True)
    assert solved == [[1], [2], [3], [None]]
    assert (read_table(out)["status"] == "ok").all()
    sweep(out, solver="ridge", resume=True)
    assert len(solved) == 4


def test_a_resumed_sweep_says_what_it_cannot_know(tmp_path):
    out = tmp_path / "results.csv"
    sweep(out, solver="ridge")
    resumed = sweep(out, solver="ridge", resume=True)
    with pytest.raises(UsageError, match="read from the results file and have no weights"):
        resumed.weights(0)
    with pytest.raises(UsageError, match="read from the results file"):
        resumed.score(PROBLEM.test)


def test_without_a_file_there_is_nothing_to_skip(tmp_path):
    out = tmp_path / "results.csv"
    table = sweep(out, solver="ridge", resume=True).table
    assert (table["status"] == "ok").all()
    assert out.exists()


def test_groups_give_what_one_go_gives():
    apart = sweep(solver="ridge", l2=[0.01, 0.1])
    together = probe.fit(
        PROBLEM.train, apart.fitted.axes.chains, solver="ridge", l2=[0.01, 0.1], device="cpu"
    ).score(PROBLEM.test)
    assert apart.table["accuracy"].tolist() == together.table["accuracy"][apart.probes].tolist()
    assert np.array_equal(apart.per_class(), together.per_class()[apart.probes])
    for row in (0, 5, 17):
        one, other = apart.weights(row), together.weights(apart.probes[row])
        assert np.allclose(one.coef, other.coef, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"store": "8"}, "its store is 007, and here it is 8"),
        ({"tap": "block3"}, "its tap is without, and here it is block3"),
        ({"solver": "lda"}, "its solver is ridge, and here it is lda"),
        ({"l2": 0.5}, r"its l2 is 0\.001, and here it is 0\.5"),
        ({"l2": "auto"}, "its l2_choice is given, and here it is loo"),
        ({"l2": None}, "its l2_choice is given, and here it is loo"),
        ({"seeds": [1, 2, 4]}, "its seed is 1, 2, 3, and here it is 1, 2, 4"),
        ({"seeds": [1, 2]}, "its seed is 1, 2, 3, and here it is 1, 2"),
        ({"seeds": [1, 3, 2]}, "its seed is in another order"),
        ({"fractions": [0.1, 0.2]}, r"its fraction is 0\.1, 0\.5, 1\.0, and here it is 0\.1, 0\.2"),
        ({"mode": "first"}, "its mode is random, and here it is first"),
        ({"standardize": False}, "its options is standardize=True, and here it is standardize=Fa"),
        ({"metrics": ("accuracy",)}, "it has the metric 'top5', which is not asked for now"),
        ({"metrics": (*METRICS, "ece")}, "it has no column 'ece'"),
        ({"train": (PROBLEM.x[:140], PROBLEM.y[:140])}, "its n_train is 150, and here it is 140"),
        ({"test": (PROBLEM.x_test, PROBLEM.y_test[::-1])}, "its options is data="),
    ],
)
def test_the_file_of_another_sweep_is_refused_and_kept(tmp_path, changes, message):
    out = tmp_path / "results.csv"
    sweep(out, solver="ridge")
    before = out.read_bytes()
    with pytest.raises(UsageError, match=f"results.csv holds another sweep: {message}"):
        sweep(out, **{"solver": "ridge", **changes}, resume=True)
    assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\x00\xff\x00", b"a,b\n1,2\n", b'{"a": 1}', b"[1, 2]"])
def test_a_file_that_holds_no_results_is_refused_and_kept(tmp_path, content, suffix):
    out = tmp_path / f"results{suffix}"
    out.write_bytes(content)
    with pytest.raises(UsageError, match=r"is no table of results|has no column"):
        sweep(out, solver="ridge", resume=True)
    assert out.read_bytes() == content


def test_a_file_that_was_changed_is_not_resumed(tmp_path):
    out = tmp_path / "results.csv"
    sweep(out, metrics=("accuracy",))
    whole, table = out.read_bytes(), read_table(out)
    for column, value, message in (
        ("accuracy", 7.0, "row 2 of .* has accuracy 7, which cannot be: it is from 0 to 1"),
        ("status", "okay", "row 2 of .* has status 'okay', which cannot be"),
        ("k", 0, "k = 0"),
        ("l2", -1.0, "has l2 -1, which cannot be: it is at least 0"),
    ):
        changed = table.copy()
        changed.loc[2, column] = value
        save_table(changed, out)
        with pytest.raises(UsageError, match=r"was changed since .* remove results.csv.sha256"):
            sweep(out, metrics=("accuracy",), resume=True)
        with pytest.warns(ChangedWarning), pytest.raises(DataError, match=message):
            read_table(out)
        digest_path(out).rename(tmp_path / "aside")  # what was written before there were digests
        with pytest.raises(DataError, match=message):
            sweep(out, metrics=("accuracy",), resume=True)
        (tmp_path / "aside").rename(digest_path(out))
    changed = table.copy()
    changed.loc[2, "accuracy"] = 0.5
    save_table(changed, out)
    with pytest.warns(ChangedWarning, match="its numbers are taken as they are"):
        assert read_table(out)["accuracy"][2] == 0.5
    out.write_bytes(whole)
    assert sweep(out, metrics=("accuracy",), resume=True).table["accuracy"].tolist() == (
        as_computed(table)["accuracy"].tolist()
    )


def test_killed_between_file_and_digest_it_is_resumed(tmp_path):
    """The digest beside a file is of the old and the new one until the new one is in place."""
    out = tmp_path / "results.csv"
    sweep(out)
    old, known = out.read_bytes(), digest_path(out).read_text()

    def killed():
        with written_with_digest(out) as aside:
            aside.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert (out.read_bytes(), digest_path(out).read_text()) == (old, known)
    new = f"{hashlib.sha256(b'new').hexdigest()}  results.csv\n"
    digest_path(out).write_text(new + known)
    assert as_written(out)
    out.write_text("new")
    assert as_written(out)
    out.write_text("other")
    assert as_written(out) is False


def test_resume_needs_a_file():
    with pytest.raises(UsageError, match="resume without out"):
        sweep(resume=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables_come_back_as_they_were(tmp_path, suffix):
    table = pd.DataFrame(
        {
            "store": ["1", ""],
            "seed": pd.array([1, None], dtype="Int64"),
            "k": [1, 2],
            "gradient_norm": [1.2345678901234567e-12, 1 / 3],
            "nll": [np.nan, 2.0],
            "status": ["ok", "NA"],
        }
    )
    save_table(table, tmp_path / f"t{suffix}")
    back = as_computed(read_table(tmp_path / f"t{suffix}"))
    pd.testing.assert_frame_equal(back, table, check_exact=True)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from featstore import probe
from problems import clusters

def tell(stage, done, total, **facts):
    print(stage, flush=True)

problem = clusters(3000, 500, 400, 5)
probe.sweep(problem.train, problem.test, fractions=list(np.linspace(0.01, 1, 60)),
            seeds=range(1, 400), solver="ridge", l2=1e-3, out=sys.argv[1], progress=tell,
            device="cpu")
"""


def test_ctrl_c_on_a_real_process_leaves_the_finished_probes(tmp_path):
    out = tmp_path / "results.parquet"
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]))
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    deadline = time.monotonic() + 60
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert b"KeyboardInterrupt" in process.stderr.read()
    process.stderr.close()
    table = read_table(out)
    left = table["status"] == Status.NOT_RUN
    assert len(table) == 399 * 60
    assert 0 < left.sum() < len(table)
    assert table["accuracy"][~left].between(0, 1).all()
    files = {out, rows_path(out), digest_path(out)}
    assert set(tmp_path.iterdir()) == files
    assert as_written(out)
    rows, probes = load_rows(out, table, "accuracy")
    assert rows.known[probes].tolist() == (~left).tolist()


def moved_by_an_ulp(rows):
    x, y = rows
    x = x.copy()
    x[7, 3] = np.nextafter(x[7, 3], np.float32(np.inf))
    return x, y


class WithoutFingerprint:
    """Row blocks of a user's own, which know nothing of themselves."""

    def __init__(self, rows, block_rows=16):
        self.x, self.y = rows
        self.n_rows, self.n_features = self.x.shape
        self.n_classes, self.block_rows, self.fingerprint = 3, block_rows, None

    def __iter__(self):
        for start in range(0, self.n_rows, self.block_rows):
            part = slice(start, start + self.block_rows)
            yield self.x[part], self.y[part]

    def labels(self):
        return self.y


@pytest.mark.parametrize("wrapped", [lambda rows: rows, WithoutFingerprint], ids=["arrays", "own"])
@pytest.mark.parametrize(
    "changed",
    [
        lambda train, test: (moved_by_an_ulp(train), test),
        lambda train, test: (train, moved_by_an_ulp(test)),
        lambda train, test: ((train[0].astype(np.float64), train[1]), test),
        lambda train, test: (train, (test[0], test[1][::-1])),
    ],
    ids=["train", "test", "precision", "labels"],
)
def test_other_data_is_refused_though_its_labels_are_the_same(tmp_path, changed, wrapped):
    out = tmp_path / "r.csv"
    sweep(out, wrapped(PROBLEM.train), wrapped(PROBLEM.test))
    train, test = map(wrapped, changed(PROBLEM.train, PROBLEM.test))
    with pytest.raises(UsageError, match="holds another sweep: its options is data="):
        sweep(out, train, test, resume=True)


def test_block_sizes_do_not_make_other_data(tmp_path):
    out = tmp_path / "r.csv"
    first = sweep(out, WithoutFingerprint(PROBLEM.train, 16))
    again = sweep(out, WithoutFingerprint(PROBLEM.train, 150), resume=True)
    pd.testing.assert_frame_equal(first.table, again.table)


def test_a_sweep_says_before_each_group_how_long_the_rest_takes(tmp_path):
    told = []

    def progress(stage, done, total, **facts):
        if stage == "sweep":
            told.append((done, total, facts))

    sweep(tmp_path / "r.csv", l2=0.1, progress=progress)
    assert [each[:2] for each in told] == [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)]
    assert all(set(each[2]["phases"]) == set(PHASES) for each in told[:-1])
    assert told[0][2]["phases"]["reading"] > 0
    assert [each[2]["phases"]["reading"] for each in told[1:-1]] == [0, 0, 0]
    assert told[0][2]["later"] > 0
    assert told[-2][2]["later"] == 0
    told.clear()
    sweep(tmp_path / "r.csv", l2=0.1, progress=progress, resume=True)
    assert not told


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic", "sgd"])
def test_more_of_anything_takes_longer(solver):
    small = plans.Shape(1000, 500, 10, 200)

    def seconds(chains=((20, 100), (200,)), trials=None, shape=small):
        trials = trials or plans.Trials()
        return plans.seconds(solver, chains, shape, trials, 1e10, epochs=100)

    alone = seconds()
    assert alone["choosing"] == 0
    assert seconds(trials=plans.Trials(rungs=8, parts=1))["choosing"] > 0
    assert seconds(trials=plans.Trials(given=3))["solving"] > alone["solving"]
    for chains, shape in [
        (((20, 150), (200,)), small),
        (((20, 100), (20, 100), (200,)), small),
        (((20, 100), (200,)), plans.Shape(10_000, 5000, 10, 400)),
    ]:
        assert sum(seconds(chains, shape=shape).values()) > sum(alone.values())

"""Probes solved by 1, 2 and 4 processes are the same probes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rank_jobs
from conftest import spec_of_clusters
from problems import relative
from rank_sweeps import main

import featstore
from featstore.probe import memory
from featstore.probe.rows import ArrayBlocks
from featstore.probe.splits import ColumnSubset, RowRange, RowSubset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return what one process finds, and its results file."""
    folder = tmp_path_factory.mktemp("alone")
    rows = memory.MOMENT_ROWS
    try:
        main(str(folder), str(folder / "found.npz"))
    finally:
        memory.MOMENT_ROWS = rows
    return np.load(folder / "found.npz"), pd.read_csv(folder / "ridge.csv")


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_several_processes_solve_the_same_probes(count, alone, tmp_path):
    job = rank_jobs.launched(count, main, str(tmp_path), str(tmp_path / "found.npz"))
    assert rank_jobs.exit_statuses(job) == [0] * count
    found, (wanted, table) = np.load(tmp_path / "found.npz"), alone
    assert (found["shares"] > 0).all()
    assert found["shares"].sum() == 600
    for name in wanted.files:
        if name.split()[0] in ("shares", "said"):
            continue
        # a row's part of R^2 is kept in float32
        rounded = name.startswith("logistic") or name == "numbers rows"
        limit = 1e-6 if rounded else 1e-10
        assert relative(found[name], wanted[name]) <= limit, name
    assert (pd.read_csv(tmp_path / "ridge.csv")["accuracy"] == table["accuracy"]).all()
    assert "run it without a launcher" in str(found["said"])


@pytest.mark.long
def test_the_command_prints_once(tiny_store, tmp_path):
    out = tmp_path / "r.csv"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("-m", "featstore", "probe", str(tiny_store.path), "--fractions", "0.1,0.5"),
            *("--seeds", "2", "--solver", "ridge", "--device", "cpu", "--out", str(out)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("of the features keep") == 1
    assert len(pd.read_csv(out)) == 6


def test_one_process_is_its_own_world():
    blocks = ArrayBlocks(np.zeros((5, 2)), np.zeros(5, int))
    assert (memory.world(), memory.rank(), memory.everywhere(True), memory.least(3)) == (
        1,
        0,
        True,
        3,
    )
    assert memory.share(blocks) is blocks
    with memory.joined():
        assert memory.world() == 1


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize(("n", "unit"), [(10, 1), (10, 4), (3, 4), (64, 8)])
def test_shares_are_whole_units_and_together_all_rows(monkeypatch, world, n, unit):
    blocks = ArrayBlocks(np.arange(n)[:, None], np.arange(n) % 2, 2, block_rows=3)
    monkeypatch.setattr(memory, "world", lambda: world)
    met = []
    for rank in range(world):
        monkeypatch.setattr(memory, "rank", lambda own=rank: own)
        own = memory.share(blocks, unit)
        rows = np.concatenate([np.zeros((0, 1), int), *(x for x, _ in own)])[:, 0]
        assert len(rows) == own.n_rows
        assert not len(rows) or rows[0] % unit == 0
        met += rows.tolist()
    assert met == list(range(n))


def test_ranges_of_rows_of_anything():
    x, y = np.arange(40).reshape(20, 2), np.arange(20) % 3
    blocks = ArrayBlocks(x, y, block_rows=6)

    class Whole:  # blocks that have no parts
        def __init__(self):
            self.__dict__ = blocks.__dict__

        def __iter__(self):
            return iter(blocks)

        def labels(self):
            return y

    for rows in (blocks, Whole(), RowSubset(blocks, np.arange(20)), RowRange(blocks, 0, 20)):
        for start, stop in ((0, 20), (5, 13), (18, 20), (7, 7)):
            some = RowRange(rows, start, stop)
            read = [(f, labels) for f, labels in some]
            assert sum(len(labels) for _, labels in read) == stop - start
            assert (some.labels() == y[start:stop]).all()
            if read:
                assert (np.concatenate([f for f, _ in read]) == x[start:stop]).all()
    columns = RowRange(ColumnSubset(blocks, np.array([1])), 3, 9)
    assert np.concatenate([f for f, _ in columns])[:, 0].tolist() == x[3:9, 1].tolist()


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.usefixtures("small_blocks")
def test_a_process_reads_its_own_blocks_of_a_store_alone(tmp_path, monkeypatch, views):
    splits = spec_of_clusters().splits
    splits = (splits[0].model_copy(update={"views": views}), splits[1])
    store = featstore.create(tmp_path / "c.zarr", spec_of_clusters(splits=splits))
    with store.writer() as writer:
        for block in range(store.n_blocks("train")):
            rows = np.arange(240)[block * 32 : block * 32 + 32]
            features = np.stack([rows[:, None] + 240 * v + np.zeros((1, 64)) for v in range(views)])
            features = (features if views > 1 else features[0]).astype(np.float16)
            ids = [f"{row}" for row in rows]
            writer.write("train", block, {"penultimate": features}, rows % 4, ids)
    tap = store.tap("train", "penultimate")
    tap._together = 2
    read = []
    block_of = tap._block
    monkeypatch.setattr(tap, "_block", lambda place: read.append(place) or block_of(place))
    for start, stop in ((0, 240 * views), (70, 120), (230, 240), (60, 64)):
        read.clear()
        own = list(RowRange(tap, start, stop))
        assert np.concatenate([x[:, 0] for x, _ in own]).tolist() == list(range(start, stop))
        labels = [row % 240 % 4 for row in range(start, stop)]
        assert np.concatenate([y for _, y in own]).tolist() == labels
        assert len(read) == len({(row // 240, row % 240 // 64) for row in range(start, stop)})

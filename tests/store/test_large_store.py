"""A store of many rows whose blocks are holes: what the benchmark of 10,000,000 rows rests on."""

from dataclasses import replace

import numpy as np
import pytest

import featstore
from benchmarks import bench_large
from featstore import bench
from featstore.bench import Disagreement
from featstore.probe.memory import Settings
from featstore.store.base import Piece

ROWS = 300_000


@pytest.fixture(scope="module", params=featstore.FORMATS)
def store(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / f"many.{request.param}"
    made = featstore.create(path, bench.store_spec(ROWS, 64), request.param)
    bench_large.fill(made)
    return made


def test_all_blocks_are_there_and_take_no_room(store):
    assert store.complete
    assert store.n_blocks("train") == 5
    assert store.verify() == []
    assert store.bytes_on_disk() < 16 << 20 < ROWS * 64 * 2
    bench_large.info(store.path)


def test_its_moments_are_those_of_its_first_block(store):
    found = bench_large.gather(store.path, Settings())
    bench_large.check(found, store.path)
    wrong = found.gram.copy()
    wrong[3, 5] += 1e-3 * np.sqrt(wrong[3, 3] * wrong[5, 5])
    with pytest.raises(Disagreement, match="moments of 300000 rows"):
        bench_large.check(replace(found, gram=wrong), store.path)
    with pytest.raises(Disagreement):
        bench_large.check(replace(found, counts=found.counts[::-1]), store.path)


def test_damage_to_a_hole_is_found(store, tmp_path):
    piece = Piece("train", "tap", 2)
    before = np.zeros((store.block_rows, 64), np.float16)
    store.write_bytes(piece, memoryview(before.view(np.uint8).reshape(-1)[:10] + 1))
    with pytest.raises(Disagreement, match="1 damages, the first"):
        bench_large.verify(store.path)
    store.write_bytes(piece, memoryview(before.view(np.uint8).reshape(-1)))
    bench_large.verify(store.path)

"""Rows that a loop appends: a store once all are there, whatever happened in between."""

import os
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from forked import processes
from store_examples import flip_bit

import featstore
from featstore.errors import (
    DatasetError,
    FeatureError,
    SpecMismatch,
    StoreDamaged,
    UsageError,
    WriterBusy,
)
from featstore.store import layout

N_ROWS, DIM = 230, 6
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.standard_normal((N_ROWS, DIM)).astype("float32")
LABELS = RANDOM.integers(0, 4, N_ROWS)
IDS = [f"row {row}" for row in range(N_ROWS)]


def append_all(writer, order=None, ids=True, size=17, pause=0.0, **options):
    """Append every row in batches, in some order; return how many were new."""
    order = np.arange(N_ROWS) if order is None else order
    new = 0
    for start in range(0, N_ROWS, size):
        rows = order[start : start + size]
        named = [IDS[row] for row in rows] if ids else None
        new += writer.append(FEATURES[rows], LABELS[rows], named, **options)
        time.sleep(pause)
    return new


def interrupted(path, *rows, **options) -> None:
    """Append some rows, and leave the context by an error."""
    with suppress(ZeroDivisionError), featstore.writer(path, **options) as writer:
        writer.append(*rows)
        raise ZeroDivisionError


def bytes_of(store) -> dict[str, bytes]:
    """Every file of a Zarr store but the header, which knows when it was made."""
    found = (path for path in store.path.rglob("*") if path.is_file() and path.name != "zarr.json")
    return {
        str(path.relative_to(store.path)): path.read_bytes()
        for path in found
        if "commits" not in str(path)
    }


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["mine.zarr", "mine.h5"])
def test_what_was_appended_is_in_the_store(tmp_path, name):
    with featstore.writer(tmp_path / name, name="net", version="3", dataset="rows") as writer:
        assert writer.rows == {}
        assert append_all(writer) == N_ROWS
        writer.append(
            {"features": torch.tensor(FEATURES[:3])}, [0, 1, 1], ["a", "b", "c"], split="test"
        )
        assert writer.rows == {"train": N_ROWS, "test": 3}
    store = writer.store
    assert (store.complete, store.verify()) == (True, [])
    np.testing.assert_array_equal(store.load("train", "features"), FEATURES)
    np.testing.assert_array_equal(store.labels("train"), LABELS)
    assert store.ids("train") == IDS
    assert store.ids("test") == ["a", "b", "c"]
    spec = store.spec
    assert (spec.backbone, spec.weights, spec.dataset) == ("net", "version:3", "rows")
    assert spec.classes == tuple("0123")
    assert [entry.name for entry in tmp_path.iterdir() if "home" not in entry.name] == [name]


@pytest.mark.usefixtures("small_blocks")
def test_several_taps_texts_and_targets(tmp_path):
    taps = {"low": FEATURES[:40], "high": torch.tensor(FEATURES[:40, :2]).to(torch.bfloat16)}
    with featstore.writer(tmp_path / "a", dtype="float16") as writer:
        writer.append(taps, ["cat", "dog"] * 20)
        writer.append(taps, np.array(["ant"] * 40, object), split="test")
    store = writer.store
    assert [(tap.name, tap.dim) for tap in store.spec.taps] == [("low", 6), ("high", 2)]
    assert store.spec.classes == ("ant", "cat", "dog")
    assert store.labels("train").tolist() == [1, 2] * 20
    np.testing.assert_array_equal(store.load("train", "low"), FEATURES[:40].astype("float16"))
    with featstore.writer(tmp_path / "b", targets=["x", "y"]) as writer:
        writer.append(FEATURES, FEATURES[:, :2])
    np.testing.assert_array_equal(writer.store.labels("train"), FEATURES[:, :2])
    with featstore.writer(tmp_path / "c") as writer:
        writer.append(FEATURES[:2], np.eye(5)[[3, 0]])
    assert writer.store.labels("train").tolist() == [3, 0]
    assert writer.store.spec.classes == tuple("01234")


def fill_slowly(path, ready):
    layout.BLOCK_BYTES = 1
    with featstore.writer(path) as writer:
        ready.set()
        append_all(writer, pause=0.02)


@pytest.mark.usefixtures("small_blocks")
def test_killed_at_any_instant_a_loop_goes_on_to_the_same_store(tmp_path):
    with featstore.writer(tmp_path / "whole.zarr") as writer:
        append_all(writer)
    whole = bytes_of(writer.store)
    stood = []
    for kill, (seconds, shuffled) in enumerate([(0.12, False), (0.2, True), (0.25, True)]):
        path = tmp_path / f"killed{kill}.zarr"
        ready = processes.Event()
        process = processes.Process(target=fill_slowly, args=(path, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(seconds)
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert not path.exists()
        with featstore.writer(path) as writer:
            stands = writer.rows.get("train", 0)
            stood.append(stands)
            rest = N_ROWS - stands
            if shuffled:
                # those that stand come again, in another order, and are not doubled
                order = np.r_[np.random.default_rng(kill).permutation(stands), stands:N_ROWS]
                assert append_all(writer, order) == rest
            else:
                assert append_all(writer) == rest
        assert bytes_of(writer.store) == whole
    assert max(stood) >= 32
    assert all(stands % 32 == 0 for stands in stood)


@pytest.mark.usefixtures("small_blocks")
def test_an_error_in_the_loop_keeps_every_row(tmp_path):
    interrupted(tmp_path / "a", FEATURES[:50], LABELS[:50])
    with featstore.writer(tmp_path / "a") as writer:
        assert writer.rows == {"train": 50}
        assert writer.append(FEATURES[40:90], LABELS[40:90], at=40) == 40
        with pytest.raises(UsageError, match="from number 91 on, and 90 are there"):
            writer.append(FEATURES[91:], LABELS[91:], at=91)
        writer.append(FEATURES[90:], LABELS[90:])
    np.testing.assert_array_equal(writer.store.load("train", "features"), FEATURES)
    # a complete store: the same rows again are none, others are refused
    with featstore.writer(tmp_path / "a") as writer:
        assert writer.rows == {"train": N_ROWS}
        assert append_all(writer, ids=False) == 0
        with pytest.raises(UsageError, match="is complete with 230 rows of train"):
            writer.append(FEATURES[:1], LABELS[:1])
    with featstore.writer(tmp_path / "a", overwrite=True) as writer:
        writer.append(FEATURES[:7], LABELS[:7])
    assert writer.store.spec.split("train").n_rows == 7


@pytest.mark.usefixtures("small_blocks")
def test_what_stands_and_is_another_row_is_refused(tmp_path):
    path = tmp_path / "a"
    interrupted(path, FEATURES[:50], LABELS[:50], IDS[:50], version="1")
    with (
        pytest.raises(SpecMismatch, match="version is '1', wanted '2'"),
        featstore.writer(path, version="2"),
    ):
        pass
    with featstore.writer(path, version="1") as writer:
        with pytest.raises(SpecMismatch, match="'row 3' of train stands already with other label"):
            writer.append(FEATURES[:5], [*LABELS[:3], 3 - LABELS[3], LABELS[4]], IDS[:5])
        with pytest.raises(SpecMismatch, match=r"'row 4' of train .* other features at features"):
            writer.append(FEATURES[:5] * [[1], [1], [1], [1], [1.1]], LABELS[:5], IDS[:5])
        # the last bits of what is computed again may differ
        assert writer.append(FEATURES[:5] * 1.0001, LABELS[:5], IDS[:5]) == 0
        with pytest.raises(UsageError, match="come without ids, and those before with"):
            writer.append(FEATURES[:5], LABELS[:5])
        with pytest.raises(UsageError, match=r"taps features \(3\), .* before had features \(6\)"):
            writer.append(FEATURES[:5, :3], LABELS[:5], IDS[60:65])
        with pytest.raises(UsageError, match="labels are texts, and those before were class"):
            writer.append(FEATURES[:5], list("abcde"), IDS[60:65])
    assert writer.store.spec.split("train").n_rows == 50


@pytest.mark.usefixtures("small_blocks")
def test_damaged_rows_are_no_numbers(tmp_path):
    path = tmp_path / "a"
    interrupted(path, FEATURES, LABELS)
    file = sorted((tmp_path / "a.rows").glob("train-*"))[1]
    flip_bit(file, file.stat().st_size - 3)
    with (
        pytest.raises(StoreDamaged, match=f"{file.name} is damaged: its checksum is wrong"),
        featstore.writer(path),
    ):
        pass
    assert not path.exists()


BAD = [
    (FEATURES[0], [1], None, UsageError, r"float32 \(6,\); give real numbers \(rows, features\)"),
    (FEATURES[:2, :, None], [1, 1], None, UsageError, "pool or flatten"),
    (FEATURES[:2] > 0, [1, 1], None, UsageError, "are bool"),
    ({"a": FEATURES[:2], "b": FEATURES[:3]}, [1, 1], None, UsageError, "a has 2, b has 3"),
    ({}, [], None, UsageError, "there is no tap"),
    ({"labels": FEATURES[:2]}, [1, 1], None, UsageError, "cannot be called 'labels'"),
    (FEATURES[:2], [1], None, DatasetError, r"labels of train has shape \(1,\) for 2 rows"),
    (FEATURES[:2], [1, -1], None, DatasetError, "row 1 of labels of train has label -1"),
    (FEATURES[:2], [1.5, 1], None, DatasetError, "holds float64; labels are integers"),
    (FEATURES[:2], [[1, 2], [0, 1]], None, DatasetError, "row 0 of labels .* is not zeros"),
    (FEATURES[:2], [[1, 0], [0]], None, DatasetError, "give rows of one length"),
    (FEATURES[:2], ["a", None], None, DatasetError, "row 1 of labels of train is a NoneType"),
    (FEATURES[:2], [1, 1], ["a"], UsageError, "1 ids come with 2 rows"),
    (FEATURES[:2], [1, 1], ["a", "a"], UsageError, "'a' comes twice"),
    (FEATURES[:2] * np.inf, [1, 1], None, FeatureError, "row 0 of train .* not finite"),
    (np.float64([[1e300]]), [1], None, FeatureError, "1e[+]300, which is infinite in float32"),
]


@pytest.mark.parametrize(("features", "labels", "ids", "error", "says"), BAD)
def test_rows_that_cannot_be_are_told_on_one_line(tmp_path, features, labels, ids, error, says):
    with pytest.raises(error, match=says) as caught, featstore.writer(tmp_path / "a") as writer:
        writer.append(features, labels, ids)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_a_writer_is_a_context_with_rows(tmp_path):
    with pytest.raises(UsageError, match="inside the context"):
        featstore.writer(tmp_path / "a").append(FEATURES, LABELS)
    with pytest.raises(UsageError, match="no row was appended"), featstore.writer(tmp_path / "a"):
        pass
    with pytest.raises(UsageError, match="dtype 'int8' is not stored"):
        featstore.writer(tmp_path / "a", dtype="int8")
    with featstore.writer(tmp_path / "a") as one:
        one.append(FEATURES, LABELS)
        with pytest.raises(WriterBusy), featstore.writer(tmp_path / "a"):
            pass
    with (
        pytest.raises(FeatureError, match="float32 does not resolve"),
        featstore.writer(tmp_path / "b") as writer,
    ):
        writer.append(FEATURES.astype("float64") + 1e9, LABELS)


def test_rows_that_wait_for_a_store_are_cleared_away_by_gc(tmp_path):
    interrupted(tmp_path / "a.zarr", FEATURES, LABELS)
    (found,) = featstore.abandoned(tmp_path, days=0)
    assert (found.path.name, found.what) == ("a.zarr.rows", "unfinished")
    featstore.collect(found)
    assert os.listdir(tmp_path) in ([], ["featstore-home"])

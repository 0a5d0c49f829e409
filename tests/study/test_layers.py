"""Meaning of `STORE#TAP`, and whether stores hold the same rows."""

import pytest
from layer_stores import made

import featstore.errors
from featstore.errors import BadStudy
from featstore.study.layers import RowsDiffer, check_same_rows, layers_of


def names(*arguments) -> list[tuple[str, str]]:
    return [(layer.name, layer.tap) for layer in layers_of(*arguments)]


def test_layers_are_named_by_what_sets_them_apart(tmp_path):
    a, b = made(tmp_path / "a.zarr").path, made(tmp_path / "b.zarr", taps=["wide"]).path
    (tmp_path / "other").mkdir()
    again = made(tmp_path / "other" / "a.zarr", taps=["low"]).path
    assert names([a]) == [("low", "low")]
    assert names([f"{a}#high"]) == [("high", "high")]
    assert names([a], ["all"]) == [("low", "low"), ("high", "high")]
    assert names([a, b]) == [("a", "low"), ("b", "wide")]
    assert names([f"{a}#high", f"{a}#low", b]) == [
        ("a#high", "high"), ("a#low", "low"), ("b#wide", "wide"),
    ]  # fmt: skip
    assert names([a, again], ["low"]) == [(str(a), "low"), (str(again), "low")]
    assert layers_of([a])[0].rows("test").n_features == 12


def test_a_path_with_a_hash_is_a_path(tmp_path):
    path = made(tmp_path / "run#2.zarr").path
    assert names([path]) == [("low", "low")]
    assert names([f"{path}#high"]) == [("high", "high")]


def test_what_is_not_there_is_refused(tmp_path):
    path = made(tmp_path / "a.zarr").path
    with pytest.raises(featstore.errors.StoreNotFound, match=r"there is no store at .*b\.zarr"):
        layers_of([tmp_path / "b.zarr#low"])
    with pytest.raises(featstore.errors.UsageError, match="no tap 'top'"):
        layers_of([f"{path}#top"])
    with pytest.raises(BadStudy, match="layer low is named 2 times"):
        layers_of([f"{path}#low", path])
    with pytest.raises(BadStudy, match="no store given"):
        layers_of([])


def test_rows_are_the_same_by_their_ids(tmp_path):
    a, b = made(tmp_path / "a.zarr"), made(tmp_path / "b.zarr", labels=2)
    check_same_rows(layers_of([a.path, b.path]), "test")
    check_same_rows(layers_of([a.path], ["all"]), "test")
    moved = made(tmp_path / "moved.zarr", ids=lambda split, row: f"{split}/{row + (row > 40)}")
    with pytest.raises(RowsDiffer, match=r"row 41 of test is 'test/41' in .*a.zarr and 'test/42'"):
        check_same_rows(layers_of([a.path, b.path, moved.path]), "test")
    fewer = made(tmp_path / "fewer.zarr", rows={"test": 50})
    with pytest.raises(RowsDiffer, match=r"test has 60 rows in .*a.zarr and 50 in .*fewer.zarr"):
        check_same_rows(layers_of([a.path, fewer.path]), "test")
    check_same_rows(layers_of([a.path, fewer.path]), "train")

"""The spec decides whether two stores are the same one."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from featstore import Spec, Split, Tap
from featstore.errors import UsageError
from featstore.store.base import SEQUENCE, BlockStore
from featstore.store.blocks import Rounding
from featstore.testing import spec_of

CHANGES = {
    "backbone": "other",
    "weights": "sha256:00",
    "transform": "resize(224)",
    "dataset": "other",
    "dtype": "float32",
    "classes": ("x", "y", "z"),
    "limit": 10,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_is_identity(field):
    spec = spec_of()
    other = spec.model_copy(update={field: CHANGES[field]})
    assert spec.digest() != other.digest()
    assert spec.differences(other) == [(field, getattr(spec, field), CHANGES[field])]


def test_differences_of_splits_and_taps_name_the_member_and_the_field():
    spec, other = spec_of(n_train=100, dims=(16,)), spec_of(n_train=90, dims=(8, 4))
    assert spec.differences(other) == [
        ("splits.train.n_rows", 100, 90),
        ("taps", ("tap0",), ("tap0", "tap1")),
        ("taps.tap0.dim", 16, 8),
        ("taps.tap1.dim", None, 4),
        ("taps.tap1.pooling", None, "avg"),
    ]
    assert spec.differences(spec_of()) == []


def test_the_order_of_classes_counts():
    spec = spec_of()
    other = spec.model_copy(update={"classes": spec.classes[::-1]})
    assert spec.digest() != other.digest()


def test_digest_is_that_of_the_format():
    """A release that changes this no longer finds the stores of the one before."""
    assert spec_of().digest().startswith("aeeb15aa")


@given(n_train=st.integers(1, 10**9), dims=st.lists(st.integers(1, 10**6), min_size=1, max_size=4))
def test_a_spec_survives_its_json(n_train, dims):
    spec = spec_of(n_train=n_train, dims=dims)
    again = Spec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.digest() == spec.digest()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc", ".hidden", "a\\b", "a b", "é", "x\n"]
)
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(ValidationError):
        Tap(name=name, dim=1, pooling="avg")
    with pytest.raises(ValidationError):
        Split(name=name, n_rows=1, fingerprint="f")


@pytest.mark.parametrize("name", ["penultimate", "layer4.2.conv1", "blocks-3", "_x"])
def test_module_paths_are_names(name):
    assert Tap(name=name, dim=1, pooling="avg").name == name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"taps": ()}, "at least 1 item"),
        ({"splits": ()}, "at least 1 item"),
        ({"classes": ()}, "of classes or of targets: name one"),
        ({"targets": ("age",)}, "of classes or of targets: name one"),
        ({"dtype": "float64"}, "float16"),
        ({"classes": (), "targets": ("",)}, "at least 1 character"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"colour": "red"}, "Extra inputs"),
        ({"taps": (Tap(name="a", dim=1, pooling="avg"),) * 2}, "tap 'a' is there twice"),
        ({"taps": (Tap(name="labels", dim=1, pooling="avg"),)}, "cannot be called 'labels'"),
        (
            {"splits": (Split(name="train", n_rows=1, fingerprint="f"),) * 2},
            "split 'train' is there twice",
        ),
    ],
)
def test_impossible_specs_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        spec_of(**fields)


def test_views_and_targets_are_identity_and_one_view_is_none():
    spec = spec_of()
    split = spec.split("train")
    assert split.model_copy(update={"views": 1}) == split
    viewed = spec.model_copy(
        update={"splits": (split.model_copy(update={"views": 3}), spec.split("test"))}
    )
    assert spec.differences(viewed) == [("splits.train.views", 1, 3)]
    aged = spec_of(classes=(), targets=("age",))
    assert aged.n_classes == 0
    assert len({spec.digest(), viewed.digest(), aged.digest()}) == 3


def test_empty_splits_and_taps_are_refused():
    with pytest.raises(ValidationError):
        Split(name="train", n_rows=0, fingerprint="f")
    with pytest.raises(ValidationError):
        Split(name="train", n_rows=1, fingerprint="f", views=0)
    with pytest.raises(ValidationError):
        Tap(name="t", dim=0, pooling="avg")


def test_asking_for_what_is_not_there_names_what_is():
    with pytest.raises(UsageError, match="no tap 'layer9'; it has tap0, tap1"):
        spec_of(dims=(1, 2)).tap("layer9")
    with pytest.raises(UsageError, match="no split 'val'; it has train, test"):
        spec_of().split("val")


def test_a_feature_is_lost_where_rounding_moves_it_by_much_of_its_deviation():
    """Its mean lies far from the first row, about which sums are taken."""
    x = 1000 + 0.25 * np.random.default_rng(0).normal(size=(10_000, 1))
    x[0] = 1010
    rounding = Rounding("float16")
    for rows in (x[:300], x[300:]):
        rounding.add(rows, rows.astype(np.float16))
    assert rounding.lost().startswith("feature 0 changes by 0.2")
    near = Rounding("float16")
    near.add(x - 1000, (x - 1000).astype(np.float16))
    assert near.lost() is None


def test_a_store_that_was_not_numbered_has_the_number_0():
    numbers = [
        BlockStore.sequence.fget(SimpleNamespace(header=SimpleNamespace(provenance=told)))
        for told in ({}, {SEQUENCE: 7}, {SEQUENCE: "7"})
    ]
    assert numbers == [0, 7, 0]

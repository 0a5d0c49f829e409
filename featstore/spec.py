"""Frozen description of a store, which decides whether two stores are the same one."""

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from featstore.errors import UsageError

LABELS = "labels"
IDS = "ids"
COMMITS = "commits"
RESERVED = (LABELS, IDS, COMMITS)

# The tap that is stored where none is named: what a model's classifier sees.
PENULTIMATE = "penultimate"

# Names become folders of a Zarr tree and groups of an HDF5 file: no separator, no leading dot.
MOST_LETTERS = 120
Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$", max_length=MOST_LETTERS)
]
Text = Annotated[str, StringConstraints(min_length=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tap(_Frozen):
    """A place in the backbone whose activations are kept: `dim` features, pooled by `pooling`.

    In a store that was merged from several, a tap says itself what made it; None is as the store.
    """

    name: Name
    dim: Annotated[int, Field(ge=1)]
    pooling: Text
    backbone: Text | None = None
    weights: Text | None = None
    transform: Text | None = None


class Split(_Frozen):
    """One split: `n_rows` rows whose data `fingerprint` identifies, each seen in `views` ways."""

    name: Name
    n_rows: Annotated[int, Field(ge=1)]
    fingerprint: Text
    views: Annotated[int, Field(ge=1)] = 1


class Column(_Frozen):
    """A column that is kept beside the rows: texts of `width` bytes at most, or else integers."""

    name: Text
    width: Annotated[int, Field(ge=1)] | None = None


class Spec(_Frozen):
    """The identity of a store: two stores with equal specs hold the same features.

    `weights` is "sha256:<hex>" of the tensors as loaded ("random:<seed>" untrained, "none" for
    imported arrays), `transform` the canonical text of what happened to an image, `limit` the rows
    kept of each split (None: all), `precision` what the forward pass computed in, `augment` the
    canonical text of what made the views (None: the clean image). `rows` says what a row is: an
    item, or a token of a text or a patch of an image, whose id is the item's, a colon and its
    place there: the part before the last colon is the group that it belongs to. Labels are
    indices of `classes` or else values of `targets`: one of the two is empty. Targets that are
    `binary` are labels of which each row has any number. `columns` are what else is kept of each
    row, in order: patients, speakers, years. Raises `pydantic.ValidationError` on values that
    cannot be.

    >>> spec = Spec(
    ...     backbone="resnet50", weights="random:0", transform="none", dataset="digits",
    ...     splits=(Split(name="train", n_rows=9, fingerprint="f"),),
    ...     taps=(Tap(name="penultimate", dim=4, pooling="avg"),),
    ...     dtype="float16", classes=("a", "b"),
    ... )
    >>> spec.n_classes, spec.split("train").n_rows, spec.tap("penultimate").dim
    (2, 9, 4)
    >>> spec.differences(spec.model_copy(update={"dataset": "cifar10"}))
    [('dataset', 'digits', 'cifar10')]
    """

    backbone: Text
    weights: Text
    transform: Text
    dataset: Text
    splits: Annotated[tuple[Split, ...], Field(min_length=1)]
    taps: Annotated[tuple[Tap, ...], Field(min_length=1)]
    dtype: Literal["float16", "float32"]
    classes: tuple[str, ...] = ()
    targets: tuple[Text, ...] = ()
    limit: Annotated[int, Field(ge=1)] | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    augment: Text | None = None
    rows: Literal["items", "tokens", "patches"] = "items"
    binary: bool = False
    columns: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _names_are_usable(self) -> Self:
        for kind, names in (
            ("column", [column.name for column in self.columns]),
            ("split", [split.name for split in self.splits]),
            ("tap", [tap.name for tap in self.taps]),
            ("target", list(self.targets)),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{kind} {repeated[0]!r} is there twice")
        for tap in self.taps:
            if tap.name in RESERVED or tap.name in self.column_arrays:
                raise ValueError(f"a tap cannot be called {tap.name!r}: the store keeps that name")
        return self

    @model_validator(mode="after")
    def _labels_are_of_one_kind(self) -> Self:
        if bool(self.classes) == bool(self.targets):
            raise ValueError("labels are of classes or of targets: name one of the two")
        if self.binary and len(self.targets) < 2:
            raise ValueError("several labels at once are two or more: one alone is a class")
        return self

    @property
    def n_classes(self) -> int:
        """Number of declared classes; labels are in [0, n_classes). 0 where labels are targets."""
        return len(self.classes)

    @property
    def column_arrays(self) -> dict[str, Column]:
        """The columns by the names of their arrays, which hold no text of elsewhere."""
        return {f"column.{place}": column for place, column in enumerate(self.columns)}

    def column(self, name: str) -> tuple[str, Column]:
        """Array and description of the column called `name`; UsageError names those there are."""
        column = _called(name, self.columns, "column")
        return f"column.{self.columns.index(column)}", column

    def split(self, name: str) -> Split:
        """The split called `name`; UsageError names those there are."""
        return _called(name, self.splits, "split")

    def tap(self, name: str) -> Tap:
        """The tap called `name`, or of "a+b" both as one; UsageError names those there are."""
        parts = [_called(part, self.taps, "tap") for part in name.split("+")]
        if len(parts) == 1:
            return parts[0]
        if len({part.name for part in parts}) < len(parts):
            raise UsageError(f"tap {name!r} names a tap twice: each is one part of the layer")
        own = {
            field: " + ".join(
                dict.fromkeys(getattr(part, field) or getattr(self, field) for part in parts)
            )
            for field in ("backbone", "weights", "transform")
        }
        pooling = " + ".join(part.pooling for part in parts)
        # no tap of a store may have such a name, so that none is mistaken for it
        return Tap.model_construct(
            name=name, dim=sum(part.dim for part in parts), pooling=pooling, **own
        )

    def of_tap(self, name: str) -> dict[str, str]:
        """Return what decides about the features of one tap, whatever images they are of.

        Raises UsageError if there is no such tap.
        """
        tap = self.tap(name)
        return {
            "backbone": tap.backbone or self.backbone,
            "weights": tap.weights or self.weights,
            "transform": tap.transform or self.transform,
            "tap": tap.name,
            "pooling": tap.pooling,
            "dim": str(tap.dim),
        }

    def digest(self) -> str:
        """SHA-256 (64 hex digits) of the canonical JSON of this spec.

        Fields at their default are left out, so that a field added by a later release does not
        change the digest of what was stored before.
        """
        fields = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: "Spec") -> list[tuple[str, Any, Any]]:
        """Each differing field as (name, value here, value in `other`); empty when equal."""
        mine, theirs = dict(_leaves(self)), dict(_leaves(other))
        names = list(mine) + [name for name in theirs if name not in mine]
        return [
            (name, mine.get(name), theirs.get(name))
            for name in names
            if mine.get(name) != theirs.get(name)
        ]


def _called(name: str, members: tuple, kind: str):
    for member in members:
        if member.name == name:
            return member
    there = ", ".join(member.name for member in members) or "none"
    raise UsageError(f"the store has no {kind} {name!r}; it has {there}")


def _leaves(spec: Spec) -> Iterator[tuple[str, Any]]:
    """Fields by name, a split's and a tap's by its own name: a difference is one short line."""
    for field in Spec.model_fields:
        if field not in ("splits", "taps", "columns"):
            yield field, getattr(spec, field)
            continue
        yield field, tuple(member.name for member in getattr(spec, field))
        for member in getattr(spec, field):
            for key, value in member:
                if key != "name":
                    yield f"{field}.{member.name}.{key}", value

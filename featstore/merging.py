"""Two stores of the same rows as one: other taps, or other backbones, side by side."""

from collections.abc import Sequence
from pathlib import Path

from featstore import copying
from featstore.catalog import safe_name
from featstore.codecs import Codec
from featstore.contract import Progress, Store, no_progress
from featstore.converting import format_of
from featstore.copying import Rows, SplitRows
from featstore.errors import SpecMismatch, UsageError
from featstore.notices import distinct
from featstore.places import Url
from featstore.spec import Spec, Tap
from featstore.store import check_apart, open_or_create
from featstore.store import open as open_store

# Rows whose ids and labels are held against each other at once, and bytes of one as Python has it.
_COMPARED = 1 << 16
_COMPARED_BYTES = 1024
_MEMORY = 4 << 30

# What two stores must have in common to be one.
_COMMON = ("dtype", "classes", "targets", "precision", "augment")


def merge(
    a: str | Path | Url,
    b: str | Path | Url,
    out: str | Path | Url,
    format: str | None = None,
    *,
    names: Sequence[str] = (),
    codec: Codec | None = None,
    overwrite: bool = False,
    memory: int = _MEMORY,
    progress: Progress = no_progress,
) -> Store:
    """Make one store of the taps of two that hold the same rows; returns it.

    Rows are the same when every row has the same id and label in both. Where a tap's name is in
    both, each becomes NAME.TAP, with NAME from `names` or else the backbone's. Each tap keeps what
    made it (backbone, weights, transform), so that saved probes still know it. `memory` bounds the
    bytes of the blocks that are held.

    Calls `progress("rows", done, total)`. Raises `SpecMismatch` naming the first difference between
    rows, splits, classes or dtypes, `UsageError` where taps cannot be told apart, and what `open`,
    `open_or_create` and `load` raise.
    """
    stores = open_store(a), open_store(b)
    check_apart(out, *stores)
    _check_specs(*stores)
    ahead = copying.ahead_within(memory, *stores)
    compared = max(1, min(_COMPARED, memory // (4 * _COMPARED_BYTES)))
    for split in stores[0].spec.splits:
        _check_rows(*stores, split.name, compared, ahead)
    taps = _names(stores, names)
    said = [one.to_json() for one in distinct(one for store in stores for one in store.notices)]
    made = open_or_create(
        out, _spec(stores, taps), format or format_of(out),
        id_width=max(store.header.id_width for store in stores), codec=codec, overwrite=overwrite,
        provenance={
            "merged_from": [str(store.path) for store in stores],
            **({"notices": said} if said else {}),
        },
    )  # fmt: skip
    splits = {
        split.name: [
            SplitRows(store, split.name, chosen, ahead)
            for store, chosen in zip(stores, taps, strict=True)
        ]
        for split in made.spec.splits
    }

    def take(split: str, rows: range) -> Rows:
        one, other = (part.take(rows) for part in splits[split])
        return Rows({**one.features, **other.features}, one.labels, one.ids)

    return copying.fill(made, take, progress, ahead)


def _check_specs(a: Store, b: Store) -> None:
    for field in _COMMON:
        one, other = getattr(a.spec, field), getattr(b.spec, field)
        if one != other:
            raise SpecMismatch(
                f"{a.path} and {b.path} differ in {field}: {_short(one)} and {_short(other)};"
                " only stores that agree in it can be merged"
            )
    shapes = [
        {split.name: (split.n_rows, split.views) for split in store.spec.splits} for store in (a, b)
    ]
    if shapes[0] != shapes[1]:
        raise SpecMismatch(
            f"{a.path} has splits {_splits(a)} and {b.path} {_splits(b)};"
            " only stores of the same rows can be merged"
        )


def _splits(store: Store) -> str:
    return ", ".join(
        f"{split.name} ({split.n_rows} rows, {split.views} views)" for split in store.spec.splits
    )


def _check_rows(a: Store, b: Store, split: str, compared: int, ahead: int) -> None:
    """Raise SpecMismatch naming the first row that has another id or label."""
    parts = SplitRows(a, split, {}, ahead), SplitRows(b, split, {}, ahead)
    n_rows = a.spec.split(split).n_rows
    for start in range(0, n_rows, compared):
        one, other = (part.take(range(start, min(start + compared, n_rows))) for part in parts)
        for kind, left, right in (
            ("id", one.ids, other.ids),
            ("label", one.labels.tolist(), other.labels.tolist()),
        ):
            if left != right:
                row = next(i for i, value in enumerate(left) if value != right[i])
                raise SpecMismatch(
                    f"row {start + row} of {split} has {kind} {left[row]!r} in {a.path} and"
                    f" {right[row]!r} in {b.path}; only stores of the same rows, in the same order"
                    " and with the same labels, can be merged"
                )


def _names(stores: tuple[Store, Store], names: Sequence[str]) -> list[dict[str, str]]:
    """For each store, its taps by the names that they are to have."""
    if names and len(set(names)) != 2:
        raise UsageError(f"names {list(names)} for two stores; give two different ones")
    prefixes = list(names) or [safe_name(store.spec.backbone) for store in stores]
    taps = [[tap.name for tap in store.spec.taps] for store in stores]
    both = set(taps[0]) & set(taps[1])
    named = [
        {f"{prefix}.{tap}" if tap in both else tap: tap for tap in of_store}
        for prefix, of_store in zip(prefixes, taps, strict=True)
    ]
    same = sorted(set(named[0]) & set(named[1]))
    if same:
        raise UsageError(
            f"both stores would have a tap {same[0]!r}; tell them apart by names, such as"
            " --names one,other"
        )
    return named


def _spec(stores: tuple[Store, Store], taps: list[dict[str, str]]) -> Spec:
    a, b = (store.spec for store in stores)

    def joined(*values: str) -> str:
        return " + ".join(dict.fromkeys(values))

    def named(spec: Spec, name: str, tap: str) -> Tap:
        there = spec.of_tap(tap)
        source = {field: there[field] for field in ("backbone", "weights", "transform")}
        return spec.tap(tap).model_copy(update={"name": name, **source})

    return Spec(
        backbone=joined(a.backbone, b.backbone),
        weights=joined(a.weights, b.weights),
        transform=joined(a.transform, b.transform),
        dataset=joined(a.dataset, b.dataset),
        splits=tuple(
            split.model_copy(
                update={"fingerprint": joined(split.fingerprint, b.split(split.name).fingerprint)}
            )
            for split in a.splits
        ),
        taps=tuple(
            named(spec, name, tap)
            for spec, chosen in zip((a, b), taps, strict=True)
            for name, tap in chosen.items()
        ),
        limit=a.limit if a.limit == b.limit else None,
        **{field: getattr(a, field) for field in _COMMON},
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"

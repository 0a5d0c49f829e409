"""Layers of stores by what a person calls them: `mine.zarr`, `mine.zarr#layer4`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import featstore
from featstore.errors import BadStudy, StudyError
from featstore.places import Url
from featstore.probe.rows import RowBlocks
from featstore.probe.splits import RowSubset
from featstore.store.reading import TapBlocks
from featstore.store.store import Store

ALL = "all"


class RowsDiffer(StudyError):
    """Stores that were to be compared row by row hold different rows."""


@dataclass(frozen=True)
class Layer:
    """One tap of a store.

    Attributes:
        name: what sets it apart from the others: tap, store, or both.
        store: open.
        tap: its name there.
    """

    name: str
    store: Store
    tap: str

    def rows(self, split: str) -> TapBlocks:
        """Return the features and labels of a split as row blocks."""
        return self.store.tap(split, self.tap)

    def some(self, split: str, most: int | None, spread: bool = True) -> RowBlocks:
        """Return the rows of a split, of more than `most` that many: spread evenly, or the first.

        Layers of the same rows give the same ones.
        """
        every = self.rows(split)
        if most is None or every.n_rows <= most:
            return every
        places = np.linspace(0, every.n_rows - 1, most).round() if spread else np.arange(most)
        return RowSubset(every, places.astype(int))


def layers_of(places: Sequence[str | Path | Url], taps: Sequence[str] = ()) -> list[Layer]:
    """Return the layers that are meant, each under a name of its own.

    Arguments:
        places: paths or URLs of stores, each with #TAP at its end or without.
        taps: names of taps to take of every store without #TAP; "all" takes every one. By default
            the first of each.

    Raises:
        UsageError: nothing is named, or a layer is named twice.
        FeatstoreError: there is no such store or tap.
    """
    if not places:
        raise BadStudy("no store given: name at least one, as mine.zarr or mine.zarr#layer4")
    found = [chosen for place in places for chosen in _layers(place, taps)]
    stems = _stems([store for store, _ in found])
    several_stores = len(set(stems)) > 1
    several_taps = not several_stores or max(Counter(stems).values()) > 1
    layers = []
    for stem, (store, tap) in zip(stems, found, strict=True):
        words = ([stem] if several_stores else []) + ([tap] if several_taps else [])
        layers.append(Layer("#".join(words), store, tap))
    for name, count in Counter(layer.name for layer in layers).items():
        if count > 1:
            raise BadStudy(f"layer {name} is named {count} times: name each once")
    return layers


def check_same_rows(layers: Sequence[Layer], split: str) -> None:
    """Raise RowsDiffer unless every layer has the same row ids in a split, in the same order.

    Labels may differ.
    """
    stores = {str(layer.store.path): layer.store for layer in layers}
    first, *others = stores.values()
    if not others:
        return
    wanted = first.ids(split)
    for store in others:
        ids = store.ids(split)
        if ids == wanted:
            continue
        if len(ids) != len(wanted):
            raise RowsDiffer(
                f"{split} has {len(wanted)} rows in {first.path} and {len(ids)} in {store.path}: "
                "only features of the same rows can be compared"
            )
        row = next(row for row, one in enumerate(wanted) if one != ids[row])
        raise RowsDiffer(
            f"row {row} of {split} is {wanted[row]!r} in {first.path} and {ids[row]!r} in "
            f"{store.path}: only features of the same rows, in the same order, can be compared"
        )


def _layers(place: str | Path | Url, taps: Sequence[str]) -> list[tuple[Store, str]]:
    path, tap = _parted(place)
    store = featstore.open(path)
    known = [each.name for each in store.spec.taps]
    if tap:
        chosen = [tap]
    elif ALL in taps and ALL not in known:
        chosen = known
    else:
        chosen = list(taps) or known[:1]
    return [(store, store.spec.tap(name).name) for name in chosen]


def _parted(place: str | Path | Url) -> tuple[str | Path | Url, str]:
    """Part a path from the tap behind its last #; a path that exists as it is has none.

    >>> _parted("s3://bucket/mine.zarr#layer4"), _parted("mine.zarr")
    (('s3://bucket/mine.zarr', 'layer4'), ('mine.zarr', ''))
    """
    if isinstance(place, Url) or "#" not in str(place) or Path(place).exists():
        return place, ""
    path, _, tap = str(place).rpartition("#")
    return path, tap


def _stems(stores: Sequence[Store]) -> list[str]:
    """Name stores by their files' stems, or by their paths where two have the same stem."""
    paths = [str(store.path) for store in stores]
    stems = [Path(path).stem for path in paths]
    return stems if len(set(stems)) == len(set(paths)) else paths

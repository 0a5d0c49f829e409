"""A store in another format, codec or dtype, or in another place."""

from pathlib import Path

import numpy as np

from featstore import copying
from featstore.codecs import Codec
from featstore.contract import Progress, Store, no_progress
from featstore.copying import Rows, SplitRows
from featstore.errors import FeatureError, UsageError
from featstore.finite import Rounding
from featstore.places import Url
from featstore.spec import Spec
from featstore.store import check_apart, open_or_create
from featstore.store import open as open_store

_HDF5 = (".h5", ".hdf5")


def convert(
    source: str | Path | Url,
    out: str | Path | Url,
    format: str | None = None,
    *,
    dtype: str | None = None,
    codec: Codec | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Store:
    """Copy the complete store at `source` to `out`, every checksum checked; returns the copy.

    `format` is "zarr" or "hdf5", by default what the suffix of `out` says; `dtype` and `codec` are
    those of the source by default. In the same dtype the copy has the same rows, spec and
    fingerprints. float32 becomes the float16 that an extraction would have stored; float16 becomes
    no more exact as float32, which the copy's transform says. Killed and called again, it goes on.

    Calls `progress("rows", done, total)`. Raises what `open`, `open_or_create` and `load` raise,
    `UsageError` where the two places are one, `FeatureError` naming a row that exceeds float16, or,
    before anything is written, a feature whose changes float16 does not resolve; for that float32
    rows are read twice.
    """
    store = open_store(source)
    check_apart(out, store)
    for split in store.spec.splits:
        store.require_complete(split.name)
    spec = _spec(store.spec, dtype or store.spec.dtype)
    if (store.spec.dtype, spec.dtype) == ("float32", "float16"):
        _check_resolved(store)
    made = open_or_create(
        out, spec, format or format_of(out),
        id_width=store.header.id_width, codec=codec, overwrite=overwrite,
        provenance={**_made(store), "converted_from": str(store.path)},
    )  # fmt: skip
    taps = {tap.name: tap.name for tap in spec.taps}
    splits = {split.name: SplitRows(store, split.name, taps) for split in spec.splits}

    def take(split: str, rows: range) -> Rows:
        found = splits[split].take(rows)
        # What becomes infinite is refused by the writer, which names its row.
        with np.errstate(over="ignore"):
            cast = {name: x.astype(spec.dtype, copy=False) for name, x in found.features.items()}
        return Rows(cast, found.labels, found.ids)

    return copying.fill(made, take, progress, store.ahead)


def _check_resolved(store: Store) -> None:
    """Raise `FeatureError` naming a feature that is lost in float16."""
    for split in store.spec.splits:
        for tap in store.spec.taps:
            rounding = Rounding("float16")
            for rows, _ in store.tap(split.name, tap.name):
                with np.errstate(over="ignore"):
                    rounding.add(rows, rows.astype(np.float16))
            if why := rounding.lost():
                raise FeatureError(f"in {split.name}/{tap.name} of {store.path} {why}")


def format_of(out: str | Path | Url) -> str:
    """The format that a place's suffix says: "hdf5" for .h5 and .hdf5, else "zarr".

    >>> format_of("a.h5"), format_of("s3://bucket/a.zarr"), format_of("a")
    ('hdf5', 'zarr', 'zarr')
    """
    return "hdf5" if str(out).lower().endswith(_HDF5) else "zarr"


def _spec(spec: Spec, dtype: str) -> Spec:
    if dtype not in ("float16", "float32"):
        raise UsageError(f"dtype {dtype!r} is not stored; choose float16 or float32")
    changes = {"dtype": dtype}
    if (spec.dtype, dtype) == ("float16", "float32"):
        changes["transform"] = f"{spec.transform}; features rounded to float16"
    return spec.model_copy(update=changes)


def _made(store: Store) -> dict:
    """How the source was made, but for what is true of the new files alone."""
    own = ("created", "versions")
    made = {name: value for name, value in store.provenance.items() if name not in own}
    # What commit records say of the source's rows is not in those of the copy.
    said = {"notices": [notice.to_json() for notice in store.notices]} if store.notices else {}
    return {**made, **said}

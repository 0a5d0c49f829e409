"""Moments kept on disk under the fingerprint of the rows that they are of."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from probe.archives import load_arrays, save_arrays
from probe.blocks import RowBlocks
from probe.errors import FileError
from probe.moments import RESOLUTION, Moments, moments, target_means
from probe.ranks import everywhere, rank
from probe.settings import Settings

VERSION = 4
ARRAYS = ("shift", "counts", "sums", "class_sums", "gram")


@runtime_checkable
class KnowsMoments(Protocol):
    """Rows that can say what their moments are without being read once more."""

    def moments(self, settings: Settings) -> Moments:
        """Return the moments of all rows."""


def cached_moments(
    blocks: RowBlocks, settings: Settings, split: str = "train", precise: bool = False
) -> Moments:
    """Return the moments of all rows, from `settings.moments_cache` if they are kept there.

    Rows that know their moments are asked for them. Without a cache folder, or of blocks without
    a fingerprint, they are computed and not kept. The file says by its key what made it: rows,
    backend, device and precision. One that is damaged, not finite, or has another key or other
    labels, is computed and written anew; a folder that cannot be written to is done without, since
    a cache only saves time. With `precise` products are computed in float64, and kept in a file
    beside.

    Raises:
        DataError, MemoryBudgetError: as `probe.moments.moments`.
    """
    if isinstance(blocks, KnowsMoments):
        return blocks.moments(settings)
    if settings.moments_cache is None or blocks.fingerprint is None:
        return moments(blocks, settings, split, precise)
    key = cache_key(settings, blocks, precise)
    path = cache_path(settings.moments_cache, key)

    def again() -> Moments:
        return cached_moments(blocks, settings, split, precise=True)

    kept = load(path, key)
    if everywhere(kept is not None and _fits(kept, blocks)):
        settings.progress("rows", blocks.n_rows, blocks.n_rows, cached=True)
        return replace(kept, again=again)
    computed = replace(moments(blocks, settings, split, precise), again=again)
    if rank() > 0:
        return computed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(computed, path, key)
    except OSError as error:
        settings.progress("rows", blocks.n_rows, blocks.n_rows, not_cached=str(error))
    return computed


def cache_key(settings: Settings, blocks: RowBlocks, precise: bool = False) -> str:
    """Return what tells moments apart: the rows, and where and in what their products are made."""
    where = f"{settings.backend.name} {settings.backend.device}"
    products = "float64" if precise else "as rows"
    return (
        f"{VERSION} {blocks.fingerprint} {blocks.n_features} {blocks.n_classes} {where} {products}"
    )


def cache_path(folder: Path, key: str) -> Path:
    """Return where the moments of a key are kept."""
    return Path(folder) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def save(computed: Moments, path: Path, key: str) -> None:
    """Write moments to a .npz file with their key and a digest, whole or not at all."""
    arrays = {name: getattr(computed, name) for name in ARRAYS}
    facts = {"n": computed.n, "precision": computed.precision, "products": computed.products}
    save_arrays(path, {**arrays, **facts, "key": key})


def load(path: Path, key: str) -> Moments | None:
    """Return moments from a .npz file, or None if there is none that is whole and of this key."""
    try:
        held = load_arrays(path)
        if str(held["key"]) != key:
            return None
        arrays = {name: held[name] for name in ARRAYS}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            return None
        dtypes = {name: str(held[name]) for name in ("precision", "products")}
        return Moments(int(held["n"]), **arrays, **dtypes)
    except (FileError, KeyError, TypeError, ValueError):
        return None


def _fits(kept: Moments, blocks: RowBlocks) -> bool:
    width, classes = blocks.n_features, blocks.n_classes
    outputs = classes or len(target_means(blocks))
    return (
        kept.n == blocks.n_rows
        and kept.shift.shape == kept.sums.shape == (width,)
        and kept.gram.shape == (width, width)
        and kept.class_counts.shape == (classes,)
        and kept.counts.shape == (outputs,)
        and kept.class_sums.shape == (width, outputs)
        and {kept.precision, kept.products} <= set(RESOLUTION)
        and all(getattr(kept, name).dtype == np.float64 for name in ARRAYS if name != "counts")
        and _of_labels(kept.counts, blocks)
    )


def _of_labels(counts: np.ndarray, blocks: RowBlocks) -> bool:
    """Return whether counts are those of the rows' labels, as far as these are known."""
    labels = blocks.labels()
    if labels.dtype.kind == "f":
        sums = labels.reshape(len(labels), -1).sum(0, dtype=np.float64)
        rounding = 1e-9 * np.abs(labels).reshape(len(labels), -1).sum(0, dtype=np.float64)
        return bool((np.abs(counts - sums) <= rounding).all())
    return np.array_equal(counts, np.bincount(labels, minlength=blocks.n_classes))

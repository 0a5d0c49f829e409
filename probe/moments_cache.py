"""Moments kept on disk under the fingerprint of the rows that they are of."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from probe.blocks import RowBlocks
from probe.files import written_whole
from probe.moments import Moments, moments, target_means
from probe.ranks import everywhere, rank
from probe.settings import Settings

VERSION = 3
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
    a fingerprint, they are computed and not kept. A file that is damaged, or of other rows, is
    computed and written anew; a folder that cannot be written to is done without, since a cache
    only saves time. With `precise` products are computed in float64, and kept in a file beside.

    Raises:
        DataError, MemoryBudgetError: as `probe.moments.moments`.
    """
    if isinstance(blocks, KnowsMoments):
        return blocks.moments(settings)
    if settings.moments_cache is None or blocks.fingerprint is None:
        return moments(blocks, settings, split, precise)
    path = cache_path(settings.moments_cache, blocks, precise)

    def again() -> Moments:
        return cached_moments(blocks, settings, split, precise=True)

    kept = load(path)
    if everywhere(kept is not None and _fits(kept, blocks)):
        settings.progress("rows", blocks.n_rows, blocks.n_rows, cached=True)
        return replace(kept, again=again)
    computed = replace(moments(blocks, settings, split, precise), again=again)
    if rank() > 0:
        return computed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(computed, path)
    except OSError as error:
        settings.progress("rows", blocks.n_rows, blocks.n_rows, not_cached=str(error))
    return computed


def cache_path(folder: Path, blocks: RowBlocks, precise: bool = False) -> Path:
    """Return where the moments of these rows are kept."""
    key = f"{VERSION} {blocks.fingerprint} {blocks.n_features} {blocks.n_classes}"
    key += " float64" if precise else ""
    return Path(folder) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def save(computed: Moments, path: Path) -> None:
    """Write moments to a .npz file, whole or not at all."""
    with written_whole(path) as aside:
        np.savez(
            aside,
            n=np.array(computed.n),
            shift=computed.shift,
            counts=computed.counts,
            sums=computed.sums,
            class_sums=computed.class_sums,
            gram=computed.gram,
            precision=np.array(computed.precision),
            products=np.array(computed.products),
        )


def load(path: Path) -> Moments | None:
    """Return moments from a .npz file, or None if there is none that is whole.

    The archive's own checksums find flipped bits; nothing in it is unpickled.
    """
    try:
        # opened here, since np.load would leave a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in ARRAYS}
            dtypes = {name: str(held[name]) for name in ("precision", "products")}
            return Moments(int(held["n"]), **arrays, **dtypes)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
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
    )

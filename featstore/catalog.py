"""The store root: where stores lie that were given no path, and which are there."""

import os
import re
from pathlib import Path

import platformdirs

from featstore.contract import Store
from featstore.errors import FeatstoreError, StoreNotFound
from featstore.spec import Spec
from featstore.store import open as open_store

ROOT_VARIABLE = "FEATSTORE_HOME"
SUFFIXES = {"zarr": ".zarr", "hdf5": ".h5"}
_LONGEST_NAME = 60


def store_root() -> Path:
    """The directory of stores: $FEATSTORE_HOME, else featstore's in the platform's data folder."""
    home = os.environ.get(ROOT_VARIABLE)
    return Path(home).expanduser() if home else Path(platformdirs.user_data_dir("featstore"))


def default_path(spec: Spec, format: str = "zarr") -> Path:
    """Where the store of `spec` lies by default: its name says what it holds, its digest which.

    >>> spec = Spec(
    ...     backbone="hf/../vit", weights="none", transform="none", dataset="folder:/data/flowers",
    ...     splits=[dict(name="train", n_rows=1, fingerprint="f")],
    ...     taps=[dict(name="penultimate", dim=1, pooling="avg")], dtype="float16", classes=["a"],
    ... )
    >>> default_path(spec, "hdf5").name
    'hf-vit-folder-data-flowers-01af6bfc.h5'
    """
    name = "-".join([safe_name(spec.backbone), safe_name(spec.dataset), spec.digest()[:8]])
    return store_root() / (name + SUFFIXES[format])


def safe_name(text: str) -> str:
    """`text` as one part of a file name: no separator, no leading dot, at most 60 characters.

    >>> safe_name("timm/vit_b.16"), safe_name("../../etc/passwd"), safe_name("...")
    ('timm-vit_b.16', 'etc-passwd', 'unnamed')
    """
    kept = re.sub(r"[^A-Za-z0-9_.]+", "-", text)
    kept = re.sub(r"-[.-]*(?=-)", "", kept)
    return kept.strip(".-")[:_LONGEST_NAME].strip(".-") or "unnamed"


def stores() -> list[Store]:
    """Every store directly under the store root, complete or not, the last written to first."""
    root = store_root()
    found = []
    for path in root.iterdir() if root.is_dir() else []:
        if path.name.startswith("."):
            continue
        try:
            found.append(open_store(path))
        except FeatstoreError:
            # Not a store of this release: a lock, a file of moments, or something of the user's.
            continue
    return sorted(found, key=lambda store: (store.modified(), store.path.name), reverse=True)


def newest_complete() -> Store:
    """The complete store under the store root that was last written to.

    Raises `StoreNotFound`, which says how to get one.
    """
    found = stores()
    for store in found:
        if store.complete:
            return store
    begun = f" ({len(found)} there are incomplete: run what made them again)" if found else ""
    raise StoreNotFound(
        f"there is no complete store under {store_root()}{begun}; make one with"
        " `featstore extract --model NAME --dataset NAME`, or name the path of one"
    )

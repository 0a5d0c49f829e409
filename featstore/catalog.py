"""The store root: where stores lie that were given no path, and which are there."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs

from featstore.contract import Store
from featstore.errors import FeatstoreError, PlaceError, StoreNotFound
from featstore.places import Place, Url, place
from featstore.spec import Spec
from featstore.store import open as open_store

ROOT_VARIABLE = "FEATSTORE_HOME"
SUFFIXES = {"zarr": ".zarr", "hdf5": ".h5"}
_LONGEST_NAME = 60

# Stores at a URL are opened together: each waits for the network.
_OPENED_AT_ONCE = 4


def store_root() -> Place:
    """The folder of stores: $FEATSTORE_HOME, a path or a URL, else the platform's for data."""
    home = os.environ.get(ROOT_VARIABLE)
    if home and "://" in home:
        return place(home)
    return Path(home).expanduser() if home else Path(platformdirs.user_data_dir("featstore"))


def default_path(spec: Spec, format: str = "zarr") -> Place:
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


def stores(root: str | Path | Url | None = None) -> list[Store]:
    """Every store directly under a folder or URL, complete or not, the last written to first.

    The folder is the store root unless another is named.
    """
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        found = [store for store in pool.map(_opened, _entries(root)) if store]
    return sorted(found, key=lambda store: (store.modified(), store.path.name), reverse=True)


def _entries(root: str | Path | Url | None) -> list[Place]:
    root = store_root() if root is None else place(root)
    if isinstance(root, Url):
        from featstore.remote_objects import RemoteObjects

        entries = RemoteObjects(root).entries()
        names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries]
    else:
        names = os.listdir(root) if root.is_dir() else []
    return [root / name for name in names if not name.startswith(".")]


def _opened(path: Place) -> Store | None:
    try:
        return open_store(path)
    except PlaceError:
        raise
    except FeatstoreError:
        # Not a store of this release: a lock, a file of moments, or something of the user's.
        return None


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

"""The store root: where stores lie that were given no path, and which are there."""

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from featstore.contract import FOLDER, Store
from featstore.errors import FeatstoreError, PlaceError, StoreNotFound
from featstore.places import Place, Url, place, replaced
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


@dataclass(frozen=True)
class Unusable:
    """What looks like a store under a root and cannot be used: where, and why in one line."""

    path: Place
    why: str


def stores(root: str | Path | Url | None = None) -> list[Store]:
    """Every store directly under a folder or URL, complete or not, the last made first.

    The folder is the store root unless another is named. What cannot be used is left out: see
    `survey`.
    """
    return survey(root)[0]


def survey(root: str | Path | Url | None = None) -> tuple[list[Store], list[Unusable]]:
    """The stores directly under a folder or URL, the last made first, and those that are unusable.

    A store's own number says which was made last, whatever a clock said; of equal numbers, the last
    written to comes first. One bad entry never hides another.
    """
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        found = [one for one in pool.map(_opened, _entries(root)) if one]
    there = [one for one in found if not isinstance(one, Unusable)]
    there.sort(key=lambda one: one[0], reverse=True)
    unusable = [one for one in found if isinstance(one, Unusable)]
    return [store for _, store in there], sorted(unusable, key=lambda one: one.path.name)


def _entries(root: str | Path | Url | None) -> list[Place]:
    root = store_root() if root is None else place(root)
    if isinstance(root, Url):
        from featstore.remote_objects import RemoteObjects

        entries = RemoteObjects(root).entries()
        names = {entry["name"].rstrip("/").rpartition("/")[2] for entry in entries}
    else:
        names = set(os.listdir(root)) if root.is_dir() else set()
    # A replacement stands for what it is to replace, which may be gone in between.
    shown = {replaced(root / name).name for name in names}
    return [root / name for name in sorted(shown) if not name.startswith(".")]


def _opened(path: Place) -> tuple[tuple, Store] | Unusable | None:
    """A store with what it is sorted by; None for what does not look like one."""
    try:
        store = open_store(path)
        return (store.sequence, store.modified(), store.path.name), store
    except PlaceError:
        raise
    except StoreNotFound:
        return None
    except (FeatstoreError, OSError, ValueError) as error:
        # Not a store of this release: a lock, a file of moments, something of the user's; or a
        # damaged one.
        return Unusable(path, _reason(error)) if _looks_like_a_store(path) else None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _looks_like_a_store(path: Place) -> bool:
    """Whether a person would take an entry for a store, or it is neither a file nor a folder."""
    if path.name.lower().endswith((*SUFFIXES.values(), ".hdf5")):
        return True
    if isinstance(path, Url):
        return False
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            mode = path.stat().st_mode
    except OSError:
        return True
    if stat.S_ISDIR(mode):
        return os.path.lexists(path / "zarr.json")
    return not stat.S_ISREG(mode)


def newest_complete(folder: str | Path | None = None) -> Store:
    """The complete store under the store root that was made last.

    Those that were made in a `folder`, by default the current one, come before all others: a store
    of another project in the same root is taken only where this one has none. Raises
    `StoreNotFound`, which says how to get one.
    """
    found, unusable = survey()
    here = str(Path.cwd() if folder is None else Path(folder).resolve())
    for store in sorted(found, key=lambda store: store.provenance.get(FOLDER) != here):
        if store.complete:
            return store
    begun = f" ({len(found)} there are incomplete: run what made them again)" if found else ""
    if unusable:
        begun += f" ({len(unusable)} cannot be used: `featstore ls` says why)"
    raise StoreNotFound(
        f"there is no complete store under {store_root()}{begun}; make one with"
        " `featstore extract --model NAME --dataset NAME`, or name the path of one"
    )

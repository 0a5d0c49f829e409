"""The stores under a root: which are there, which are abandoned, and what may be cleared away."""

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import platformdirs

from featstore import durable
from featstore.errors import FeatstoreError, PlaceError, StoreNotFound, UsageError
from featstore.places import Place, Url, place, replaced
from featstore.spec import Spec
from featstore.store import zarr
from featstore.store.base import FOLDER
from featstore.store.creation import open as open_store, remove
from featstore.store.locks import GATE, is_held, is_locked, is_note, locked
from featstore.store.remote import RemoteObjects
from featstore.store.store import Store

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
    """Return the default place of a store: its name says what it holds, its digest which.

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
    """Path that looks like a store and cannot be used, with the reason in one line."""

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
    written to comes first. One bad entry never hides another. A store that is named itself is the
    only one.
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
        from featstore.store.remote import RemoteObjects

        entries = RemoteObjects(root).entries()
        names = {entry["name"].rstrip("/").rpartition("/")[2] for entry in entries}
    else:
        if root.is_file():
            return [root]
        names = set(os.listdir(root)) if root.is_dir() else set()
    if "zarr.json" in names:  # of a store, whose splits are none
        return [root]
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
    """Return whether a person would take an entry for a store, or it is no file or folder."""
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


DAY = 86400.0

# A result, and what lies beside it, is written under such a name before it is renamed, and locked.
_RESULT = re.compile(r"\..+\.\d+-[0-9a-f]{8}(\.[^.]+)?")
# Formerly it was not locked, and told by the number of its process alone.
_OLD_RESULT = re.compile(
    r"\..+\.(\d+)\.(csv|json|parquet|npz|npy|safetensors|svg|png|pdf|html|md|txt|toml)"
)
# Formerly an HDF5 file was repaired from one that was built in such a folder.
_OLD_REPAIR = re.compile(r"\.featstore-[a-z0-9_]{8}")
# Moments are kept under a digest.
_STORES = (".zarr", ".h5", ".hdf5")
_TOKEN = re.compile(r"[0-9a-f]{32}(\.staged/[0-9a-f]{32})?")
_MOMENTS = re.compile(r"[0-9a-f]{32}\.npz")


@dataclass(frozen=True)
class Abandoned:
    """Something that no one goes on with: where, what, how large, and when it last changed.

    `what` is "partial store", "unfinished" (a creation or a removal that was cut short), "lock" (of
    a writer that died) or "moments" (of a store that is gone); `modified` is in seconds since 1970.
    """

    path: Place
    what: str
    n_bytes: int
    modified: float


def abandoned(root: str | Path | Url | None = None, *, days: float = 7.0) -> list[Abandoned]:
    """List what lies directly under a folder or URL, abandoned for `days`; the oldest first.

    The folder is the store root unless another is named. What a living process writes to is left
    out, and so is everything that featstore did not make. Raises `UsageError` for negative days.
    """
    if not days >= 0:
        raise UsageError(f"{days} days cannot have passed; give 0 or more")
    root = store_root() if root is None else place(root)
    before = time.time() - days * DAY
    found = [_partial(store) for store in stores(root) if not store.complete]
    found += _remote_leavings(root) if isinstance(root, Url) else _local_leavings(root)
    old = [item for item in found if item.modified <= before and not _busy(item)]
    return sorted(old, key=lambda item: item.modified)


def collect(item: Abandoned) -> None:
    """Delete one of what `abandoned` found; `WriterBusy` where a process has taken it up since."""
    if item.what == "partial store":
        remove(item.path)
    elif isinstance(item.path, Url) and item.what == "lock":
        # Whoever finds a dead lease clears it away, and its own after it.
        with locked(item.path.with_name(item.path.name.removesuffix(".lock"))):
            return
    elif isinstance(item.path, Url):
        with locked(replaced(item.path)) as hold:
            if zarr.lies_at(item.path) != item.path:
                zarr.finish_move(item.path, hold)
            else:
                zarr.clear(item.path, hold)
    elif _RESULT.fullmatch(item.path.name):
        durable.delete_unheld(item.path)
    elif _OLD_RESULT.fullmatch(item.path.name):
        item.path.unlink(missing_ok=True)
    else:
        with locked(_store_of(item.path)):
            if item.path.is_dir():
                shutil.rmtree(item.path)
            else:
                item.path.unlink(missing_ok=True)


def _partial(store: Store) -> Abandoned:
    modified = store.modified() / 1e9
    return Abandoned(store.path, "partial store", store.bytes_on_disk(), modified)


def _local_leavings(root: Path) -> Iterator[Abandoned]:
    entries = sorted(root.iterdir()) if root.is_dir() else []
    inside = [entry.glob(".*") for entry in entries if entry.suffix == ".moments"]
    for entry in [*entries, *chain.from_iterable(inside)]:
        what = _kind(entry)
        if what == "lock" and is_locked(entry):
            continue
        if what is None or (what == "moments" and os.path.lexists(_store_of(entry))):
            continue
        files = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
        stats = [stat for stat in map(_lstat, files) if stat]
        size = sum(stat.st_blocks * 512 for stat in stats)
        yield Abandoned(entry, what, size, max(stat.st_mtime for stat in stats))


def _lstat(path: Path) -> os.stat_result | None:
    """Return the status of an entry; None if it has gone."""
    try:
        return path.lstat()
    except OSError:
        return None


def _kind(path: Path) -> str | None:
    """Return the kind of a path, by its name and content; None if not of featstore's."""
    if durable.ASIDE.fullmatch(path.name) or replaced(path) != path:
        return "unfinished"
    if _is_result(path) or _of_a_dead_process(path) or _waits(path):
        return "unfinished"
    if _OLD_REPAIR.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
        return "unfinished" if set(os.listdir(path)) <= {"skeleton.h5"} else None
    if path.suffix == ".lock" and not path.is_symlink() and is_note(path):
        # An empty one says nothing of whose it is; its store's name does.
        ours = path.stem.lower().endswith(_STORES) or os.path.lexists(path.with_suffix(""))
        return "lock" if ours or path.stat().st_size else None
    if path.suffix == ".moments" and path.is_dir():
        names = os.listdir(path)
        if all(_MOMENTS.fullmatch(name) or _is_result(path / name) for name in names):
            return "moments"
    return None


def _waits(path: Path) -> bool:
    """Return whether rows at a path, of a writer or of objects, wait to become a store."""
    if path.is_symlink() or path.suffix not in (".rows", ".unread"):
        return False
    return (path / "rows.json").is_file() if path.suffix == ".rows" else path.name.startswith(".")


def _is_result(path: Path) -> bool:
    """Return whether a file is a result that is being written, or was when its process died."""
    return bool(_RESULT.fullmatch(path.name)) and not path.is_symlink() and path.is_file()


def _of_a_dead_process(path: Path) -> bool:
    """Return whether a file is an unfinished result from before such were locked."""
    found = _OLD_RESULT.fullmatch(path.name)
    if not found or path.is_symlink() or not path.is_file():
        return False
    try:
        return not durable.runs(int(found[1]))
    except OverflowError:
        return True


def _store_of(path: Path) -> Path:
    """The store that something beside it is of; rows that wait for one are locked themselves."""
    if _waits(path):
        return path
    aside = durable.ASIDE.fullmatch(path.name)
    if replaced(path) != path:
        return replaced(path)
    return replaced(path.with_name(aside[1])) if aside else path.with_suffix("")


def _remote_leavings(root: Url) -> Iterator[Abandoned]:
    for entry in RemoteObjects(root).entries():
        url = root / entry["name"].rstrip("/").rpartition("/")[2]
        objects = RemoteObjects(url)
        of = replaced(url)
        if of != url and zarr.lies_at(of) == url:
            continue
        if of != url or zarr.is_unfinished(url) or zarr.lies_at(url) != url:
            what = "unfinished"
        elif url.name.endswith(".lock") and _is_lease(objects.all_keys()):
            what = "lock"
        else:
            continue
        yield Abandoned(url, what, objects.size(), objects.modified([]) / 1e9)


def _is_lease(keys: list[str]) -> bool:
    """Return whether all below a URL is of leases: a gate, signs of life, staged objects."""
    return bool(keys) and all(key == GATE or _TOKEN.fullmatch(key) for key in keys)


def _busy(item: Abandoned) -> bool:
    # A lease is looked at when something is deleted: most are young.
    if isinstance(item.path, Url):
        return False
    if item.what == "partial store":
        return is_held(item.path)
    return is_held(_store_of(item.path)) or is_locked(item.path)

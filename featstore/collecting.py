"""Abandoned things under a store root: found, told, and on request deleted."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from featstore import durable, remote_stores
from featstore.catalog import store_root, stores
from featstore.contract import Store
from featstore.errors import UsageError
from featstore.leases import GATE
from featstore.locks import is_held, is_locked, is_note, locked
from featstore.places import Place, Url, place, replaced
from featstore.remote_objects import RemoteObjects
from featstore.store import remove

DAY = 86400.0

# A result, and what lies beside it, is written under such a name before it is renamed, and locked.
_RESULT = re.compile(r"\..+\.\d+-[0-9a-f]{8}(\.[^.]+)?")
# Formerly it was not locked, and told by the number of its process alone.
_OLD_RESULT = re.compile(
    r"\..+\.(\d+)\.(csv|json|parquet|npz|npy|safetensors|svg|png|pdf|html|md|txt|toml)"
)
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
    """What lies directly under a folder or URL, abandoned for `days` or more; the oldest first.

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
            if remote_stores.lies_at(item.path) != item.path:
                remote_stores.finish_move(item.path, hold)
            else:
                remote_stores.clear(item.path, hold)
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
    """What is known of an entry; None where it went meanwhile."""
    try:
        return path.lstat()
    except OSError:
        return None


def _kind(path: Path) -> str | None:
    """What lies at a path, by its name and what is in it; None where it is not of featstore's."""
    if durable.ASIDE.fullmatch(path.name) or replaced(path) != path:
        return "unfinished"
    if _is_result(path) or _of_a_dead_process(path):
        return "unfinished"
    if path.suffix == ".lock" and not path.is_symlink() and is_note(path):
        # An empty one says nothing of whose it is; its store's name does.
        ours = path.stem.lower().endswith(_STORES) or os.path.lexists(path.with_suffix(""))
        return "lock" if ours or path.stat().st_size else None
    if path.suffix == ".moments" and path.is_dir():
        names = os.listdir(path)
        if all(_MOMENTS.fullmatch(name) or _is_result(path / name) for name in names):
            return "moments"
    return None


def _is_result(path: Path) -> bool:
    """Whether a file is a result that is being written, or was when its process was killed."""
    return bool(_RESULT.fullmatch(path.name)) and not path.is_symlink() and path.is_file()


def _of_a_dead_process(path: Path) -> bool:
    """Whether a file is a result that its process did not finish, before such were locked."""
    found = _OLD_RESULT.fullmatch(path.name)
    if not found or path.is_symlink() or not path.is_file():
        return False
    try:
        os.kill(int(found[1]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _store_of(path: Path) -> Path:
    """The store that something beside it is of."""
    aside = durable.ASIDE.fullmatch(path.name)
    if replaced(path) != path:
        return replaced(path)
    return replaced(path.with_name(aside[1])) if aside else path.with_suffix("")


def _remote_leavings(root: Url) -> Iterator[Abandoned]:
    for entry in RemoteObjects(root).entries():
        url = root / entry["name"].rstrip("/").rpartition("/")[2]
        objects = RemoteObjects(url)
        of = replaced(url)
        if of != url and remote_stores.lies_at(of) == url:
            continue
        if of != url or remote_stores.is_unfinished(url) or remote_stores.lies_at(url) != url:
            what = "unfinished"
        elif url.name.endswith(".lock") and _is_lease(objects.all_keys()):
            what = "lock"
        else:
            continue
        yield Abandoned(url, what, objects.size(), objects.modified([]) / 1e9)


def _is_lease(keys: list[str]) -> bool:
    """Whether all below a URL is of leases: a gate, signs of life, and what is staged."""
    return bool(keys) and all(key == GATE or _TOKEN.fullmatch(key) for key in keys)


def _busy(item: Abandoned) -> bool:
    # A lease is looked at when something is deleted: most are young.
    if isinstance(item.path, Url):
        return False
    if item.what == "partial store":
        return is_held(item.path)
    return is_held(_store_of(item.path)) or is_locked(item.path)

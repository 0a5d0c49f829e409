"""Objects at a URL: reads, writes, signed requests."""

import errno
import functools
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from threading import Lock
from typing import Any, TypeVar
from urllib.request import getproxies

import numpy as np

from featstore.errors import PlaceError, UsageError, WriterBusy, with_extra
from featstore.places import Url

# File systems whose URLs are known not to be served, by class and options.
_refused: set[Any] = set()
_pools: dict[int, Any] = {}

# URLs by file system and path, and until when each is used: signing takes as long as a small body.
_signed: dict[tuple[Any, str], tuple[str, float]] = {}
_SIGNED_FOR = 600  # seconds

# Seconds to wait; what takes longer, the file system's own client tries again, and says so.
_CONNECT, _READ = 2.0, 8.0
_PIECE = 1 << 20


def read_signed(fs: Any, path: str, offset: int, out: memoryview) -> int | None:
    """Fill `out` from an offset of an object; returns how many bytes there were.

    None where that is no way to read it: `fs` signs no URLs, they are not served, or not from here.
    Raises `FileNotFoundError` where there is no object.
    """
    token = getattr(fs, "_fs_token_", None)
    if "s3" not in fs.protocol or token in _refused or not len(out):
        return None
    try:
        response = _pool().request(
            "GET",
            signed_url(fs, path),
            headers={"Range": f"bytes={offset}-{offset + len(out) - 1}"},
            preload_content=False,
        )
        try:
            if response.status == 206:
                return _filled(response, out)
            if response.status == 416:
                # the object ends before the range begins
                return 0
            missing = response.status == 404
        finally:
            response.drain_conn()
            response.release_conn()
    except Exception:
        # Whatever it is, the file system's own client meets it too, or knows better.
        missing = False
    if missing:
        raise FileNotFoundError(path)
    _refused.add(token)
    return None


def signed_url(fs: Any, path: str, used_for: float = 300.0, most_kept: int = 10_000) -> str:
    """Return a URL by which an object is read, signed `used_for` seconds ago at most."""
    key = (fs._fs_token_, path)
    url, until = _signed.get(key, ("", 0.0))
    if time.monotonic() >= until:
        url = fs.sign(path, _SIGNED_FOR)
        if len(_signed) >= most_kept:
            _signed.clear()
        _signed[key] = url, time.monotonic() + used_for
    return url


def _deleted_in_time(fs: Any, path: str, hold: Any) -> bool:
    """Delete an object by a request that the storage refuses once it comes too late.

    It is signed before a look at the lease, for as long as nobody else can have that after the
    look. False where that is no way to delete it, or it was refused.
    """
    if "s3" not in fs.protocol or getattr(fs, "_fs_token_", None) in _refused:
        return False
    try:
        url = fs.sign(path, max(1, int(hold.margin)), client_method="delete_object")
        hold.check()
        response = _pool().request("DELETE", url)
    except WriterBusy:
        raise
    except Exception:
        # Whatever it is, the file system's own client meets it too, or knows better.
        return False
    fs.invalidate_cache(path)
    return response.status in (200, 204)


def _filled(response: Any, out: memoryview) -> int:
    done = 0
    while done < len(out):
        piece = response.read(min(_PIECE, len(out) - done))
        if not piece:
            break
        out[done : done + len(piece)] = piece
        done += len(piece)
    return done


def _pool() -> Any:
    """The process's connections; a forked child must not share its parent's."""
    pid = os.getpid()
    if pid not in _pools:
        import urllib3

        if getproxies().keys() & {"http", "https", "all"}:
            raise ConnectionError("a proxy is in between")
        timeout = urllib3.Timeout(connect=_CONNECT, read=_READ)
        _pools.clear()
        _pools[pid] = urllib3.PoolManager(
            maxsize=16, timeout=timeout, retries=urllib3.Retry(0, redirect=0)
        )
    return _pools[pid]


# As many connections as botocore keeps. A request waits for the network most of its time.
CONNECTIONS = 10

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}

# Where a listing says when an object was written, in the words of several file systems.
_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")


# How often a storage that does not answer is asked, and seconds before each time but the first.
WAITS = (0.5, 1.0, 2.0, 4.0)

# Of botocore's own tries, and of how long it waits for a connection: a word has to come in time.
_S3_CONFIG = {"connect_timeout": 2, "retries": {"max_attempts": 3, "mode": "standard"}}

# Classes of what passes by itself, in the words of several network libraries; and what servers say.
_PASSING = frozenset(
    """
    ConnectionError TimeoutError gaierror EndpointConnectionError HTTPClientError
    ClientConnectionError ClientPayloadError ServerTimeoutError IncompleteRead
    """.split()
)
_SAID = ("SlowDown", "InternalError", "ServiceUnavailable", "Service Unavailable", "reduce your")

F = TypeVar("F", bound=Callable)


def patient(method: F) -> F:
    """Let a request be tried again where a storage does not answer, and say so each time."""

    @functools.wraps(method)
    def tried(self, *given, **more):
        for number, pause in enumerate(WAITS, 2):
            try:
                return method(self, *given, **more)
            except PlaceError as error:
                if not _passes(error.__cause__):
                    raise
                again = f"try {number} of {1 + len(WAITS)} in {pause:g} s"
                warnings.warn(f"{error.told}; {again}", stacklevel=2)
                time.sleep(pause)
        return method(self, *given, **more)

    return tried


def _passes(error: BaseException | None) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _PASSING) or any(said in str(error) for said in _SAID)


class RemoteObjects:
    """An object is written by one atomic PUT; see `featstore.store.objects.Objects`.

    Nothing of a file system is kept, so that a process may fork: fsspec keeps its own, by process.
    What cannot be reached or is refused is a `PlaceError`.
    """

    readers = CONNECTIONS
    ahead = CONNECTIONS

    def __init__(self, url: Url, most_bytes: int = 256 << 20):
        # bytes on their way; what is written beyond that waits
        self._url, self._most_bytes = url, most_bytes
        self.hold: Any = None
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._underway: dict[str, tuple[Future, int]] = {}

    def __reduce__(self) -> tuple:
        # What is under way stays with its process.
        return RemoteObjects, (self._url, self._most_bytes)

    def get(self, key: str) -> bytes | None:
        """Read the whole object, by a range without an end: s3fs asks for no size then."""
        try:
            return self._cat(key, 0, None)
        except FileNotFoundError:
            return None

    def get_all(self, folder: str, names: Sequence[str], size: int) -> list[bytes | None]:
        """Read, several at once, the objects that the folder lists; all where the last is there."""

        def get(name: str) -> bytes | None:
            out = bytearray(size)
            try:
                return bytes(out[: self.read(f"{folder}/{name}", 0, memoryview(out))])
            except FileNotFoundError:
                return None

        *others, last = names
        found = get(last)
        # a store is rarely incomplete and has its last block: then a listing tells nothing
        there = others if found else {e["name"].rpartition("/")[2] for e in self.entries(folder)}
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            futures = [pool.submit(get, name) if name in there else None for name in others]
            return [*(future.result() if future else None for future in futures), found]

    def read(self, key: str, offset: int, out: memoryview) -> int:
        """Read a range of the object into `out`."""
        with explained(self._url):
            done = read_signed(*_filesystem(self._url / key), offset, out)
        if done is None:
            data = self._cat(key, offset, offset + len(out))
            done = len(data)
            # NumPy leaves the interpreter to other threads while it copies
            np.copyto(np.frombuffer(out, np.uint8)[:done], np.frombuffer(data, np.uint8))
        return done

    def write(self, key: str, data: memoryview, size: int | None = None) -> None:
        """Begin to put the object; waits while too many bytes are on their way."""
        body = bytes(data).ljust(size or 0, b"\0")
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(CONNECTIONS, "featstore-put")
            future = self._pool.submit(self._put_held, key, body, self.hold)
            self._underway[key] = (future, len(body))
            waiting = {future: n for future, n in self._underway.values() if not future.done()}
        while sum(waiting.values()) > self._most_bytes and len(waiting) > 1:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            waiting = {future: n for future, n in waiting.items() if future not in done}

    def plant(self, documents: Mapping[str, bytes]) -> None:
        """Put the objects, the last one when all others are there."""
        *first, last = documents
        for keys in (first, [last]):
            for key in keys:
                self.write(key, memoryview(documents[key]))
            self.sync(keys)

    def sync(self, keys: Iterable[str]) -> None:
        """Wait for the puts: a storage that has acknowledged an object keeps it."""
        for key in keys:
            with self._lock:
                future, _ = self._underway.get(key, (None, 0))
            if future:
                try:
                    future.result()
                finally:
                    self._forget(key)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._underway.pop(key, None)
            if self._pool and not self._underway:
                self._pool.shutdown()
                self._pool = None

    def _put_held(self, key: str, body: bytes, hold: Any) -> None:
        """Put an object, below the process's own key first and from there while the lease holds."""
        if hold is None or hold.staging is None:
            self.put(key, body)
            return
        staging = RemoteObjects(hold.staging)
        self._bring(key, hold, lambda name: staging.put(name, body))

    def _bring(self, key: str, hold: Any, stage: Callable[[str], Any]) -> None:
        """Let `stage` write an object of that name below the process's own key; bring it to `key`.

        A copy that comes when the lease is another's finds nothing: who takes a lease over deletes
        first what is staged.
        """
        staging, name = RemoteObjects(hold.staging), uuid.uuid4().hex
        with hold.request():
            try:
                stage(name)
                hold.check()
                staging.copy(name, self._url / key)
            except FileNotFoundError:
                raise WriterBusy(
                    f"{self._url} has another writer now, which cleared away what this one had"
                    " begun; what is committed is intact, run the same command again, it goes on"
                    " from there"
                ) from None
            staging.drop(name)

    def put_held(self, key: str, body: bytes) -> None:
        """Write an object, unless the lease is lost under which objects are written here."""
        self._put_held(key, body, self.hold)

    @patient
    def put(self, key: str, body: bytes, *, new: bool = False) -> bool:
        """Write an object; with `new` only where none is, and say whether it was written.

        "Only where none is" is one step in the storages that have it (S3, Google's); others, and
        servers that ignore the condition, leave an instant between, in which two may both write.
        """
        with explained(self._url):
            fs, path = _filesystem(self._url / key)
            try:
                fs.pipe_file(path, body, mode="create" if new else "overwrite")
            except FileNotFoundError as error:
                raise PlaceError(
                    f"{self._url} cannot be written: {_line(error)}; make its bucket first"
                ) from None
            except OSError:
                # s3fs tells an unfulfilled condition as EINVAL, others as FileExistsError
                fs.invalidate_cache()
                if new and fs.exists(path):
                    return False
                raise
            return True

    def drop(self, key: str) -> None:
        """Delete the object."""
        self.drop_all([key])

    def drop_all(self, keys: Sequence[str]) -> None:
        """Delete objects, those that are there."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self._rm, keys))

    @patient
    def _rm(self, key: str) -> None:
        hold = self.hold
        with hold.request() if hold else nullcontext(), explained(self._url):
            fs, path = _filesystem(self._url / key)
            if hold and _deleted_in_time(fs, path, hold):
                return
            if hold:
                hold.check()
            with suppress(FileNotFoundError):
                fs.rm_file(path)

    def copy_all(self, keys: Sequence[str], to: Url) -> None:
        """Copy objects to another place of the same storage, by the storage itself."""
        hold = self.hold

        def copy(key: str) -> None:
            if hold is None or hold.staging is None:
                self.copy(key, to / key)
            else:
                there = RemoteObjects(to)
                there._bring(key, hold, lambda name: self.copy(key, hold.staging / name))

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(copy, keys))

    @patient
    def copy(self, key: str, to: Url) -> None:
        """Copy an object within the storage; `FileNotFoundError` where there is none."""
        with explained(self._url):
            fs, path = _filesystem(self._url / key)
            fs.cp_file(path, _filesystem(to)[1])

    @patient
    def entries(self, folder: str = "", *, below: bool = False) -> list[dict[str, Any]]:
        """Return the entries of a folder, or everything `below` it; each with its full "name"."""
        with explained(self._url):
            fs, path = _filesystem(self._url / folder if folder else self._url)
            fs.invalidate_cache()
            try:
                found = fs.find(path, detail=True) if below else fs.ls(path, detail=True)
            except FileNotFoundError:
                return []
            found = list(found.values()) if below else found
            # a storage may list the folder itself, as an empty object
            return [entry for entry in found if entry["name"].rstrip("/") != path.rstrip("/")]

    def all_keys(self) -> list[str]:
        """The keys of all objects."""
        with explained(self._url):
            root = _filesystem(self._url)[1].strip("/")
        names = (entry["name"].strip("/") for entry in self.entries(below=True))
        return [name.removeprefix(f"{root}/") for name in names]

    def modified(self, folders: Sequence[str]) -> int:
        """Return when the last of these objects, or of those at the top, was written.

        A deletion leaves no trace, and a folder without an object has no time.
        """
        entries = (entry for folder in ["", *folders] for entry in self.entries(folder))
        return max(map(_time, entries), default=0)

    def size(self) -> int:
        """Bytes of all objects."""
        return sum(entry.get("size") or 0 for entry in self.entries(below=True))

    @patient
    def _cat(self, key: str, start: int, end: int | None) -> bytes:
        with explained(self._url):
            fs, path = _filesystem(self._url / key)
            try:
                return fs.cat_file(path, start=start, end=end)
            except OSError as error:
                # A range that begins at the object's end or after it.
                if error.errno == errno.EINVAL and fs.info(path)["size"] <= start:
                    return b""
                raise


@contextmanager
def explained(url: Url) -> Iterator[None]:
    """Let what fsspec and its file systems raise be told on one line, with a remedy.

    `FileNotFoundError` passes: what it means, the caller knows.
    """
    try:
        yield
    except (FileNotFoundError, PlaceError, UsageError, WriterBusy):
        raise
    except ImportError:
        extra = EXTRAS.get(url.scheme)
        remedy = with_extra(extra) if extra else f"install what {url.scheme} needs"
        raise PlaceError(f"{url} needs a package that is not installed: {remedy}") from None
    except PermissionError as error:
        raise PlaceError(f"{url}: access denied ({_line(error)}); check the credentials") from None
    except Exception as error:
        # Each file system has a network library of its own, and that its own exceptions.
        told = f"{url} cannot be reached ({type(error).__name__}: {_line(error)})"
        failure = PlaceError(
            f"{told}; check the address, the credentials and the network, and run the same command"
            " again"
        )
        failure.told = told
        raise failure from error


def _filesystem(url: Url) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    if url.scheme not in fsspec.available_protocols():
        raise UsageError(
            f"{url} begins with {url.scheme}://, which fsspec does not know; give a path, or a URL"
            " such as s3://bucket/store.zarr"
        )
    options = {}
    if EXTRAS.get(url.scheme) == "s3":
        asked = fsspec.config.conf.get(url.scheme, {}).get("config_kwargs", {})
        options = {"config_kwargs": {**_S3_CONFIG, **asked}}
    fs, path = fsspec.url_to_fs(str(url), **options)
    if options:
        # It is tried again here, where that is said.
        fs.retries = 1
    return fs, path


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _time(entry: dict[str, Any]) -> int:
    for name in _TIMES:
        value = entry.get(name)
        if isinstance(value, datetime):
            value = value.timestamp()
        elif isinstance(value, str):
            value = datetime.fromisoformat(value).timestamp()
        if isinstance(value, int | float):
            return int(value * 1e9)
    return 0

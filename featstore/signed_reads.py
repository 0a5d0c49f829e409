"""Ranges of objects by signed URLs, in as many threads as read.

An asynchronous client reads all bodies in one thread of Python's. A plain one leaves the
interpreter to others while bytes arrive.
"""

import os
import time
from typing import Any
from urllib.request import getproxies

# File systems whose URLs are known not to be served, by class and options.
_refused: set[Any] = set()
_pools: dict[int, Any] = {}

# URLs by file system and path, and until when each is used: signing takes as long as a small body.
_signed: dict[tuple[Any, str], tuple[str, float]] = {}
_SIGNED_FOR, _USED_FOR = 600, 300.0  # seconds
_MOST_KEPT = 10_000

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
            _url(fs, path),
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


def _url(fs: Any, path: str) -> str:
    key = (fs._fs_token_, path)
    url, until = _signed.get(key, ("", 0.0))
    if time.monotonic() >= until:
        url = fs.sign(path, _SIGNED_FOR)
        if len(_signed) >= _MOST_KEPT:
            _signed.clear()
        _signed[key] = url, time.monotonic() + _USED_FOR
    return url


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

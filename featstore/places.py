"""Where a store lies: a path of this machine, or a URL that fsspec knows."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

import platformdirs

from featstore.errors import UsageError

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*://")
_LOCAL = ("file", "local")


@dataclass(frozen=True, order=True)
class Url:
    """A place that is not a path of this machine; its parts have the names that a `Path`'s have.

    >>> url = Url("s3://bucket/stores/vit.zarr")
    >>> url.name, str(url.parent), str(url.with_name("b.zarr")), str(url / "train")
    ('vit.zarr', 's3://bucket/stores', 's3://bucket/stores/b.zarr', 's3://bucket/stores/vit.zarr/train')
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __fspath__(self) -> str:
        # What takes paths alone, as os.path.lexists does, must not take a URL for a relative path.
        raise UsageError(f"{self.text} is a URL, and this needs a path of this machine")

    def __truediv__(self, name: str) -> "Url":
        return Url(self.text + ("" if self.text.endswith("/") else "/") + name)

    @property
    def scheme(self) -> str:
        """What comes before "://"."""
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part; empty where there is nothing below the root or the bucket."""
        return self._parts()[1]

    @property
    def parent(self) -> "Url":
        """What the last part lies in."""
        return Url(self._parts()[0])

    def with_name(self, name: str) -> "Url":
        """Another part of the same parent."""
        return self.parent / name

    def _parts(self) -> tuple[str, str]:
        scheme, _, rest = self.text.partition("://")
        # The first part names a bucket or a server, except where there is but one of them.
        parent, slash, name = rest.rpartition("/")
        if not slash and scheme == "memory":
            parent, name = "", rest
        elif not slash:
            parent, name = rest, ""
        return f"{scheme}://{parent}", name


Place: TypeAlias = Path | Url


def place(of: str | Path | Url) -> Place:
    """The place that a text names: a `Url`, or an absolute path with its links resolved.

    A link to a store stands for the store: its lock and what is built aside belong beside it.

    >>> place("s3://bucket/a.zarr/")
    Url(text='s3://bucket/a.zarr')
    >>> place("file:///tmp/a%20b.zarr").name
    'a b.zarr'
    """
    if isinstance(of, Url):
        return of
    text = str(of)
    if not _SCHEME.match(text):
        return Path(text).expanduser().resolve()
    url = Url(text.rstrip("/") if not text.endswith("://") else text)
    if url.scheme in _LOCAL:
        return Path(url2pathname(urlsplit(text).path)).resolve()
    return url


def cache_folder(place: Place, kind: str) -> Path:
    """The folder of what is worked out from the store at `place`, on this machine.

    It lies beside a store on this machine, and in the platform's folder for caches otherwise.
    """
    if isinstance(place, Path):
        return place.with_name(f"{place.name}.{kind}")
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("featstore")) / kind / digest

"""Places of stores: a path of this machine, or a URL that fsspec knows."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from featstore.errors import UsageError

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*://")
_LOCAL = ("file", "local")
_ALIASES = {"s3a": "s3", "gcs": "gs"}

# What is built to take a store's place lies beside it under this name.
_REPLACEMENT = re.compile(r"\.(.+)\.replacement")


@dataclass(frozen=True, order=True)
class Url:
    """A place that is not a path of this machine; its parts have the names that a `Path`'s have.

    >>> url = Url("s3://bucket/stores/vit.zarr")
    >>> url.name, str(url.parent), str(url.with_name("b.zarr"))
    ('vit.zarr', 's3://bucket/stores', 's3://bucket/stores/b.zarr')
    >>> str(url / "train")
    's3://bucket/stores/vit.zarr/train'
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
        """Return what comes before "://"."""
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part; empty where there is nothing below the root or the bucket."""
        return self._parts()[1]

    @property
    def parent(self) -> "Url":
        """Return the place that the last part lies in."""
        return Url(self._parts()[0])

    def with_name(self, name: str) -> "Url":
        """Another part of the same parent."""
        return self.parent / name

    def normal(self) -> tuple[str, ...]:
        """The scheme and the parts below it, in one spelling.

        >>> Url("s3://b/a.zarr").normal() == Url("S3A://b//x/../a.zarr/").normal()
        True
        """
        scheme, _, rest = self.text.partition("://")
        parts: list[str] = []
        for part in rest.split("/"):
            if part == ".." and parts:
                parts.pop()
            elif part not in ("", ".", ".."):
                parts.append(part)
        scheme = scheme.lower()
        return (_ALIASES.get(scheme, scheme), *parts)

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

    Raises `UsageError` for a path that cannot be one, and `TypeError` for what is no text or path.
    """
    if isinstance(of, Url):
        return of
    text = os.fspath(of)
    if not _SCHEME.match(text):
        return _resolved(Path(text))
    url = Url(text.rstrip("/") if not text.endswith("://") else text)
    if url.scheme in _LOCAL:
        from urllib.request import url2pathname  # which brings HTTP along

        return _resolved(Path(url2pathname(urlsplit(text).path)))
    return url


def _resolved(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        # A link that leads to itself, a name too long, a NUL, the home of nobody.
        why = str(error).partition(": ")[0].lower()
        raise UsageError(f"{str(path)!r} is no path: {why}; give another one") from None


def same(a: Place, b: Place) -> bool:
    """Return whether two places are one, through links, mounts and the case of letters.

    URLs are compared in one spelling, so that two keys that differ in a doubled slash alone count
    as one: what is asked is whether a place may be written while the other is read.
    """
    if isinstance(a, Url) or isinstance(b, Url):
        return isinstance(a, Url) and isinstance(b, Url) and a.normal() == b.normal()
    try:
        return a == b or os.path.samefile(a, b)
    except OSError:
        return False


def lies_in(folder: Path, file: Path) -> bool:
    """Return whether a file that a folder's own files name lies in that folder, links followed.

    The hub's cache is one folder, whose snapshots are links into its blobs.
    """
    held = [folder.resolve()]
    if folder.parent.name == "snapshots":
        held.append(folder.parent.parent.resolve() / "blobs")
    try:
        return any(file.resolve().is_relative_to(one) for one in held)
    except (OSError, RuntimeError):
        return False


def saved_files(folder: Path) -> list[Path]:
    """Return what a folder of Hugging Face's `save_to_disk` says that its rows lie in.

    Raises what reading a damaged one raises.
    """
    named, folders = [], [folder]
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        named = folders = [folder / name for name in splits]
    for one in folders:
        state = json.loads((one / "state.json").read_text())
        named = [*named, *(one / file["filename"] for file in state["_data_files"])]
    return named


def replacement(of: Place) -> Place:
    """Return where the replacement of the store at `of` is built; no listing shows it.

    >>> replacement(place("s3://b/a.zarr"))
    Url(text='s3://b/.a.zarr.replacement')
    """
    return of.with_name(f".{of.name}.replacement")


def unread(of: Path) -> Path:
    """Return where features lie until all rows of the store at `of` have been read.

    >>> unread(Path("/stores/a.zarr")).name
    '.a.zarr.unread'
    """
    return of.with_name(f".{of.name}.unread")


def replaced(place: Place) -> Place:
    """The place that what is built at `place` is to take: another one for a replacement alone."""
    found = _REPLACEMENT.fullmatch(place.name)
    return place.with_name(found[1]) if found else place


def cache_folder(place: Place, kind: str) -> Path:
    """The folder of what is worked out from the store at `place`, on this machine.

    It lies beside a store on this machine, and in the platform's folder for caches otherwise.
    """
    if isinstance(place, Path):
        return place.with_name(f"{place.name}.{kind}")
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    import platformdirs

    return Path(platformdirs.user_cache_dir("featstore")) / kind / digest

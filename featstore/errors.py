"""Errors of storing, extracting and studying; each message names its remedy."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, Self, TypeVar

# What is installed: `featstore` is a stranger's name on the package index.
DISTRIBUTION = "featstore-probe"
# setup.cfg reads it without an import
VERSION = "1.0.0"


def with_extra(extra: str, *, upgrade: bool = False) -> str:
    """Return the command that installs an extra.

    >>> with_extra("hf")
    'pip install "featstore-probe[hf]"'
    """
    return f'pip install {"--upgrade " if upgrade else ""}"{DISTRIBUTION}[{extra}]"'


# The extra that brings each package that is not installed with the rest.
EXTRAS = {
    **dict.fromkeys(("PIL", "timm", "torchvision"), "extract"),
    **dict.fromkeys(("matplotlib", "plotly"), "report"),
    "huggingface_hub": "hub",
    "pyarrow": "parquet",
}

P = ParamSpec("P")
R = TypeVar("R")


def suggesting(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function, whose `TypeError` for a misspelt argument names the nearest one.

    >>> suggesting(lambda *, taps: None)(tap=1)
    Traceback (most recent call last):
    ...
    TypeError: <lambda>() has no argument 'tap'; did you mean 'taps'?
    """
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                meant = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
                raise TypeError(f"{function.__name__}() has no argument {name!r}; {meant}")
        return function(*args, **kwargs)

    return called


class FeatstoreError(Exception):
    """Base of every error that `featstore` raises on purpose; its text is one line for a person."""


class ExtraMissing(FeatstoreError, ModuleNotFoundError):
    """A package that an extra installs is not there; the message is the line that installs it."""

    @classmethod
    def of(cls, error: ModuleNotFoundError) -> Self | None:
        """Return the error to raise in place of one of the import of a package; None for others.

        >>> print(ExtraMissing.of(ModuleNotFoundError(name="timm.data")))
        the package timm is not installed: pip install "featstore-probe[extract]"
        """
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS or isinstance(error, cls):
            return None
        what = f"the package {package} is not installed: {with_extra(EXTRAS[package])}"
        return cls(what, name=package)


class UsageError(FeatstoreError):
    """An argument has a value that cannot be used (exit status 2 on the command line)."""


class StoreNotFound(FeatstoreError):
    """There is no store at the path, or none at all under the store root."""


class NotAStore(FeatstoreError):
    """Raised when a path holds no store of featstore's, or one with a damaged header."""


class FormatVersionError(FeatstoreError):
    """The store was written in a format version that this release cannot read."""


class SpecMismatch(FeatstoreError):
    """The store at the path holds something else; the message names each differing field."""


class StoreIncomplete(FeatstoreError):
    """Some blocks of the store are not committed yet."""


class StoreDamaged(FeatstoreError):
    """Stored bytes do not have the checksum that was committed."""


class WriterBusy(FeatstoreError):
    """Another living process is writing to the store."""


class DiskFull(FeatstoreError):
    """The file system refused bytes; what was committed before is intact."""


class BackboneError(FeatstoreError):
    """A model or its weights cannot be loaded; keys that do not fit are listed."""


class DatasetError(FeatstoreError):
    """A data set cannot be found, read or downloaded."""


class DownloadRefused(FeatstoreError):
    """A hub could not be reached; the message says what, whence, and which option takes a file."""


class FeatureError(FeatstoreError):
    """Features cannot be stored as they are: non-finite, or of another shape than announced."""


class PlaceError(FeatstoreError):
    """A storage beyond this machine cannot be reached, or refuses; nothing committed is lost."""


class StudyError(Exception):
    """Base of every error that `studies` raises on purpose; its text is one line for a person."""


class BadStudy(StudyError):
    """A study file, or an argument, says what cannot be (exit status 2 on the command line)."""


class PartMissing(StudyError):
    """A part of a study needs another one that is not there."""
